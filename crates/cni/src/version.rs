//! Versions of the specification.

use serde_json::json;

use crate::{CniError, Command, code};

/// A version that this plugin speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 0.3.0
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0: addresses without a version field.
    V1_0_0,
    /// 1.1.0: GC, STATUS, MTU in results.
    V1_1_0,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 5] = [
        Self::V0_3_0,
        Self::V0_3_1,
        Self::V0_4_0,
        Self::V1_0_0,
        Self::V1_1_0,
    ];
    /// The newest one.
    pub const LATEST: Self = Self::V1_1_0;

    /// As it is written.
    pub fn text(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version a configuration asks for; without one it is 0.1.0, which is too old.
    pub(crate) fn parse(text: Option<&str>) -> Result<Self, CniError> {
        let wanted = text.unwrap_or("0.1.0");
        Self::ALL
            .into_iter()
            .find(|v| v.text() == wanted)
            .ok_or_else(|| {
                let shown: String = wanted.chars().take(32).collect();
                let spoken = Self::ALL.map(Self::text).join(", ");
                CniError::new(
                    code::INCOMPATIBLE_VERSION,
                    format!("CNI version {shown:?} is not supported"),
                )
                .details(format!(
                    "cniVersion in the network configuration must be one of {spoken}"
                ))
            })
    }

    /// Whether the version has the command.
    pub(crate) fn check(self, command: Command) -> Result<(), CniError> {
        let since = match command {
            Command::Check => Self::V0_4_0,
            Command::Status | Command::Gc => Self::V1_1_0,
            _ => Self::V0_3_0,
        };
        if self >= since {
            return Ok(());
        }
        let message = format!(
            "CNI {} has no {}: it came with {}",
            self.text(),
            command.text(),
            since.text()
        );
        Err(CniError::new(code::INCOMPATIBLE_VERSION, message))
    }
}

/// The answer to VERSION.
pub(crate) fn answer() -> String {
    json!({ "cniVersion": Version::LATEST.text(), "supportedVersions": Version::ALL.map(Version::text) }).to_string()
}
