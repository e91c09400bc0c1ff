//! The error that every path answers with.

use serde::{Deserialize, Serialize};

/// Why a request was refused. The words are stable: programs branch on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The request is malformed; the detail says where.
    BadRequest,
    /// There is no such object.
    NotFound,
    /// The object exists already, or is in a state that forbids this.
    Conflict,
    /// The request is bigger than the agent reads.
    TooLarge,
    /// Too much at once; try again.
    Busy,
    /// The agent is starting, or waits for something from the cluster; try again.
    NotReady,
    /// No address is left; the message names the pool.
    PoolExhausted,
    /// This kernel or configuration cannot do it.
    Unsupported,
    /// Something failed inside the agent.
    Internal,
    /// A code of a newer agent.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// The HTTP status that goes with it.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::Busy => 429,
            Self::NotReady => 503,
            Self::PoolExhausted => 507,
            Self::Unsupported => 501,
            Self::Internal | Self::Unknown => 500,
        }
    }

    /// The code to assume for an answer without a readable body.
    pub fn from_status(status: u16) -> Self {
        match status {
            400 | 422 => Self::BadRequest,
            404 | 405 => Self::NotFound,
            409 => Self::Conflict,
            413 => Self::TooLarge,
            429 => Self::Busy,
            501 => Self::Unsupported,
            503 => Self::NotReady,
            507 => Self::PoolExhausted,
            500 => Self::Internal,
            _ => Self::Unknown,
        }
    }

    /// Whether the same request may succeed a little later.
    pub fn retry(self) -> bool {
        matches!(self, Self::Busy | Self::NotReady)
    }
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}{}", detail.as_deref().map(|d| format!(" ({d})")).unwrap_or_default())]
#[serde(rename_all = "camelCase")]
pub struct ApiError {
    /// What kind of refusal.
    pub code: ErrorCode,
    /// One line for people.
    pub message: String,
    /// The place of a mistake, or what to check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Whether the same request may succeed a little later.
    #[serde(default)]
    pub retry: bool,
}

impl ApiError {
    /// An error of this kind.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            detail: None,
            retry: code.retry(),
        }
    }
    /// With the place of a mistake, or what to check.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
    /// A malformed request.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }
    /// An object that is not there.
    pub fn not_found(object: impl std::fmt::Display) -> Self {
        Self::new(ErrorCode::NotFound, format!("{object} does not exist"))
    }
    /// The HTTP status that goes with it.
    pub fn status(&self) -> u16 {
        self.code.status()
    }
}
