//! Errors as the runtime reads them.

use std::fmt;

use serde_json::json;

use crate::Version;

/// Error codes of the specification, and (from 100) our own.
pub mod code {
    /// The configuration's version is not supported, or has no such command.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration is not supported.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container does not exist; no clean-up is needed.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// An environment variable is missing or malformed.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO: u32 = 5;
    /// The configuration is not JSON of the expected shape.
    pub const DECODE: u32 = 6;
    /// The configuration can be read but makes no sense.
    pub const INVALID_CONFIG: u32 = 7;
    /// The network namespace is the plugin's own.
    pub const INVALID_NETNS: u32 = 8;
    /// Not now; try again.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: no pod can be attached at present.
    pub const NOT_AVAILABLE: u32 = 50;
    /// Something failed; see the message.
    pub const FAILED: u32 = 100;
    /// The attachment exists already.
    pub const EXISTS: u32 = 101;
    /// No address is left.
    pub const EXHAUSTED: u32 = 102;
    /// CHECK: the pod's network is not as it was made.
    pub const NOT_AS_MADE: u32 = 103;
}

/// What the runtime is told when something fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniError {
    /// See [`code`].
    pub code: u32,
    /// One line.
    pub message: String,
    /// The place of a mistake, or what to check.
    pub details: String,
    version: Version,
}

impl CniError {
    /// An error with a code.
    pub fn new(code: u32, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: String::new(),
            version: Version::LATEST,
        }
    }
    /// With the place of a mistake, or what to check.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }
    /// With more to say after what is said already.
    #[must_use]
    pub fn and(mut self, more: impl fmt::Display) -> Self {
        let separator = if self.details.is_empty() { "" } else { "; " };
        self.details = format!("{}{separator}{more}", self.details);
        self
    }
    /// Written as this version of the specification has it.
    #[must_use]
    pub fn in_version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }
    /// The text for stdout.
    pub fn to_json(&self) -> String {
        let mut value =
            json!({ "cniVersion": self.version.text(), "code": self.code, "msg": self.message });
        if let Some(fields) = value.as_object_mut().filter(|_| !self.details.is_empty()) {
            fields.insert("details".into(), self.details.clone().into());
        }
        value.to_string()
    }
}

impl fmt::Display for CniError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if !self.details.is_empty() {
            write!(f, " ({})", self.details)?;
        }
        write!(f, " [code {}]", self.code)
    }
}

impl From<netlink::Error> for CniError {
    fn from(error: netlink::Error) -> Self {
        let code = if error.is_exists() {
            code::EXISTS
        } else {
            code::FAILED
        };
        Self::new(code, error.to_string())
    }
}

impl From<api::ClientError> for CniError {
    fn from(error: api::ClientError) -> Self {
        let code = match error.code() {
            Some(api::ErrorCode::PoolExhausted) => code::EXHAUSTED,
            Some(api::ErrorCode::Conflict) => code::EXISTS,
            _ if error.retry() => code::TRY_AGAIN,
            _ => code::FAILED,
        };
        Self::new(code, error.to_string())
    }
}
