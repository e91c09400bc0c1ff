//! What of the settings decides about verdicts.

/// When policy is enforced (`enable-policy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// For whom a rule selects.
    #[default]
    Default,
    /// For every endpoint, with or without rules.
    Always,
    /// For nobody.
    Never,
}

impl Mode {
    /// The mode of this name.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        match text {
            "default" => Some(Self::Default),
            "always" => Some(Self::Always),
            "never" => Some(Self::Never),
            _ => None,
        }
    }
}

/// Settings of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// When policy is enforced.
    pub mode: Mode,
    /// The host reaches its pods whatever the rules say (`allow-localhost` other than `policy`).
    pub allow_localhost: bool,
    /// Name of the cluster, which the entity `cluster` means.
    pub cluster: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Default,
            allow_localhost: true,
            cluster: "default".to_owned(),
        }
    }
}
