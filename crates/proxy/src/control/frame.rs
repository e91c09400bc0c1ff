//! What agent and proxy say to each other, and how it is cut into frames: four bytes of length, then JSON.
use crate::{
    config::{SNAPSHOT_MAX, Snapshot},
    dns::Learned,
    record::Record,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Version of this protocol.
pub const PROTOCOL: u32 = 1;
/// Longest frame.
pub const FRAME_MAX: usize = SNAPSHOT_MAX + 1024;

/// What the agent says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ToProxy {
    /// First of all.
    Hello {
        /// The version of the protocol that it speaks.
        protocol: u32,
    },
    /// What is to be enforced from now on.
    Snapshot(Snapshot),
    /// The names of this number are known to all who have to know.
    Known {
        /// The number.
        id: u64,
    },
}

/// What the proxy says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum FromProxy {
    /// First of all.
    Hello {
        /// The version of the protocol that it speaks.
        protocol: u32,
        /// The snapshot in force; zero: none. The next one must have a greater number.
        version: u64,
    },
    /// A snapshot is in force.
    Taken {
        /// Its number.
        version: u64,
        /// Rules that cannot be understood and allow nothing, and whether it could not be kept on disk.
        problems: Vec<String>,
    },
    /// A snapshot was refused; the old one stays.
    Refused {
        /// The one that stays.
        version: u64,
        /// Why.
        why: String,
    },
    /// A name's addresses, to be answered with [`ToProxy::Known`].
    Names {
        /// Number of this message.
        id: u64,
        /// Seconds since the answer came.
        age: u64,
        /// What was learned.
        learned: Learned,
    },
    /// What was asked and answered.
    Records {
        /// In their order.
        records: Vec<Record>,
        /// How many were lost before them.
        lost: u64,
    },
}

/// Reads the body of a frame; `None` at the end of the stream.
///
/// # Errors
/// The stream breaks, or the frame is too long.
pub async fn body(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u32().await {
        Ok(length) => length as usize,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if length > FRAME_MAX {
        let why = format!("a frame of {length} bytes, {FRAME_MAX} are accepted");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    // Grows with what comes: a length alone costs nothing.
    let mut bytes = Vec::new();
    let got = stream.take(length as u64).read_to_end(&mut bytes).await?;
    if got < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(bytes))
}

/// Reads a frame; `None` at the end of the stream. Not to be broken off: what was read is gone then.
///
/// # Errors
/// The stream breaks, the frame is too long, or is not of this shape.
pub async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<T>> {
    let Some(bytes) = body(stream).await? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Writes a frame.
///
/// # Errors
/// The stream breaks, or the frame is too long.
pub async fn write<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> io::Result<()> {
    let body = serde_json::to_vec(message).map_err(io::Error::other)?;
    let length = u32::try_from(body.len())
        .ok()
        .filter(|_| body.len() <= FRAME_MAX);
    let length = length.ok_or_else(|| io::Error::other("the message is too long for a frame"))?;
    let mut frame = Vec::with_capacity(body.len() + 4);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    stream.write_all(&frame).await
}
