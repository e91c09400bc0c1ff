//! Captures of packets (`POST /v1/capture`): the answer is a pcapng file, which grows until enough was seen or nobody reads it.

use serde::{Deserialize, Serialize};

use crate::{ApiError, Validate, input::require};

/// What is captured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CaptureRequest {
    /// Filters of the flow API as JSON: packets that one of them matches; none: all.
    #[serde(default)]
    pub allow: Vec<String>,
    /// And that none of these matches.
    #[serde(default)]
    pub deny: Vec<String>,
    /// The most bytes of each packet; none: all.
    #[serde(default)]
    pub snap_length: Option<u32>,
    /// After how many packets to end.
    #[serde(default)]
    pub packets: Option<u64>,
    /// After how many milliseconds to end.
    #[serde(default)]
    pub milliseconds: Option<u64>,
}

impl Validate for CaptureRequest {
    fn validate(&self) -> Result<(), ApiError> {
        require(
            self.snap_length.is_none_or(|bytes| bytes >= 64),
            "snapLength",
            "it is less than 64, which headers take",
        )?;
        require(
            self.packets != Some(0) && self.milliseconds != Some(0),
            "packets, milliseconds",
            "nothing would be captured; accepted: more than 0, or nothing for no limit",
        )
    }
}
