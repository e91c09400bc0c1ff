//! The network configuration that comes on stdin.

use std::{io::Read, path::PathBuf};

use serde::Deserialize;

use crate::{CniError, CniResult, Version, code};

const MAX_SIZE: u64 = 1024 * 1024;
const MAX_ATTACHMENTS: usize = 100_000;

/// One interface of one container, as GC names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Attachment {
    /// Container (sandbox) id.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Interface inside the container.
    #[serde(rename = "ifname")]
    pub interface: String,
}

/// The configuration, read and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Version of the specification.
    pub version: Version,
    /// Name of the network.
    pub name: String,
    /// Log file; none when empty.
    pub log_file: PathBuf,
    /// Log more.
    pub debug: bool,
    /// The agent's socket.
    pub agent_socket: PathBuf,
    /// Result of the ADD before (CHECK, DEL) or of the plugin before (ADD).
    pub prev_result: Option<CniResult>,
    /// GC: attachments that are still wanted.
    pub valid_attachments: Option<Vec<Attachment>>,
}

#[derive(Deserialize)]
struct OnlyVersion {
    #[serde(rename = "cniVersion")]
    version: Option<String>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    name: String,
    #[serde(rename = "log-file", default)]
    log_file: String,
    #[serde(rename = "enable-debug", default)]
    debug: bool,
    #[serde(rename = "agent-socket")]
    agent_socket: Option<String>,
    #[serde(rename = "prevResult")]
    prev_result: Option<CniResult>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid: Option<Vec<Attachment>>,
    /// What the release before 1.1.0 was final called it; runtimes send both.
    #[serde(rename = "cni.dev/attachments")]
    valid_older: Option<Vec<Attachment>>,
}

/// Reads stdin up to a bound.
pub(crate) fn read(stdin: impl Read) -> Result<Vec<u8>, CniError> {
    let mut text = Vec::new();
    let read = stdin.take(MAX_SIZE + 1).read_to_end(&mut text);
    read.map_err(|e| {
        CniError::new(
            code::IO,
            format!("cannot read the network configuration from stdin: {e}"),
        )
    })?;
    if text.len() as u64 > MAX_SIZE {
        return Err(CniError::new(
            code::DECODE,
            format!("the network configuration on stdin is longer than {MAX_SIZE} bytes"),
        ));
    }
    Ok(text)
}

/// Reads a network configuration. Pure: never touches anything but its argument.
pub fn parse_config(text: &[u8]) -> Result<Config, CniError> {
    if text.trim_ascii().is_empty() {
        return Err(CniError::new(
            code::DECODE,
            "the network configuration on stdin is empty",
        ));
    }
    // The version first: what else is in there depends on it.
    let only: OnlyVersion = serde_json::from_slice(text).map_err(decode)?;
    let version = Version::parse(only.version.as_deref())?;
    let raw: Raw = serde_json::from_slice(text).map_err(|e| decode(e).in_version(version))?;
    check(&raw).map_err(|e| e.in_version(version))?;
    Ok(Config {
        version,
        name: raw.name,
        log_file: raw.log_file.into(),
        debug: raw.debug,
        agent_socket: raw
            .agent_socket
            .unwrap_or_else(|| api::DEFAULT_SOCKET.to_owned())
            .into(),
        prev_result: raw.prev_result,
        valid_attachments: raw.valid.or(raw.valid_older),
    })
}

fn decode(error: serde_json::Error) -> CniError {
    let place = format!(
        "line {}, column {} of the configuration on stdin",
        error.line(),
        error.column()
    );
    CniError::new(
        code::DECODE,
        format!("the network configuration cannot be read: {error}"),
    )
    .details(place)
}

fn check(raw: &Raw) -> Result<(), CniError> {
    let invalid = |field: &str, what: &str| {
        CniError::new(code::INVALID_CONFIG, format!("{field} {what}"))
            .details(format!("field {field} of the network configuration"))
    };
    let mut bytes = raw.name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !first
        || raw.name.len() > 256
        || !bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
    {
        return Err(invalid(
            "name",
            "must start with a letter or digit and go on with letters, digits, `_`, `.` or `-`",
        ));
    }
    let path = |text: &str| {
        text.starts_with('/') && text.len() < 4096 && !text.chars().any(char::is_control)
    };
    if !raw.log_file.is_empty() && !path(&raw.log_file) {
        return Err(invalid("log-file", "must be an absolute path"));
    }
    if raw
        .agent_socket
        .as_deref()
        .is_some_and(|s| !path(s) || s.len() > 107)
    {
        return Err(invalid(
            "agent-socket",
            "must be an absolute path of at most 107 bytes",
        ));
    }
    let attachments = raw
        .valid
        .as_ref()
        .or(raw.valid_older.as_ref())
        .map_or(0, Vec::len);
    if attachments > MAX_ATTACHMENTS {
        return Err(invalid(
            "cni.dev/valid-attachments",
            "has more entries than a node has pods",
        ));
    }
    Ok(())
}
