//! `hypha flows capture`: packets of a node, chosen as flows are, as a pcapng file.
use std::fs::File;
use std::io::{IsTerminal as _, Write, stdout};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use api::CaptureRequest;
use api::hubble::flow::FlowFilter;
use api::hubble::json;
use clap::Args;

use super::observe::flags::FilterFlags;
use super::time;
use crate::error::Usage;
use crate::target::TargetArgs;

#[derive(Debug, Args)]
pub struct CaptureArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    filters: FilterFlags,
    /// The file; - is standard output
    #[arg(short = 'w', long, value_name = "FILE", default_value = "-")]
    output_file: PathBuf,
    /// The most bytes of each packet, from 64 on; all if nothing is said
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(64..))]
    snap_length: Option<u32>,
    /// End after so many packets
    #[arg(short = 'c', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    packets: Option<u64>,
    /// End after this time, as 30s
    #[arg(long, value_name = "TIME")]
    duration: Option<String>,
}

/// Carries the command out.
///
/// # Errors
/// Several nodes are meant, the agent refuses, or the file cannot be written.
pub fn run(args: &CaptureArgs) -> Result<()> {
    let request = request(args)?;
    let agents = args.target.agents()?;
    let [agent] = agents.as_slice() else {
        let wrong =
            "a file has the packets of one node; accepted: --node NAME instead of --all-nodes";
        return Err(Usage(wrong.to_owned()).into());
    };
    let is_pipe = args.output_file == Path::new("-");
    if is_pipe && stdout().is_terminal() {
        let wrong =
            "packets are not for terminals; accepted: -w FILE, or a pipe as in `| tshark -r -`";
        return Err(Usage(wrong.to_owned()).into());
    }
    let pieces = agent.client.capture(&request);
    let pieces = pieces.context("packets cannot be captured")?;
    // Only now: whoever is refused keeps the file that there was.
    let mut out = output(&args.output_file)?;
    let mut rest = Vec::new();
    for piece in pieces {
        rest.extend(piece.context("the capture ends")?);
        let ready = whole(&rest);
        let written = out.write_all(rest.get(..ready).unwrap_or_default());
        written
            .and_then(|()| out.flush())
            .with_context(|| format!("cannot write {}", args.output_file.display()))?;
        rest.drain(..ready);
    }
    Ok(())
}

fn request(args: &CaptureArgs) -> Result<CaptureRequest> {
    let texts = |list: &[FlowFilter]| {
        list.iter()
            .map(json::to_string)
            .collect::<Result<Vec<_>, _>>()
    };
    let wanted = &args.filters.filters;
    let limit = |text: &String| {
        let limit = time::limit(text)
            .map_err(|wrong| Usage(format!("invalid value '{text}' for '--duration': {wrong}")))?;
        Ok::<_, Usage>(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1))
    };
    Ok(CaptureRequest {
        allow: texts(&wanted.allow)?,
        deny: texts(&wanted.deny)?,
        snap_length: args.snap_length,
        packets: args.packets,
        milliseconds: args.duration.as_ref().map(limit).transpose()?,
    })
}

fn output(path: &Path) -> Result<Box<dyn Write>> {
    if path != Path::new("-") {
        // Packets may have secrets.
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        return Ok(Box::new(file));
    }
    Ok(Box::new(stdout().lock()))
}

/// How many bytes whole blocks take: what is written can be read, whenever it ends.
fn whole(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(length) = bytes.get(at + 4..at + 8) {
        let length = length.try_into().map_or(0, u32::from_le_bytes) as usize;
        // Each block has its length at both ends.
        if length < 12 || bytes.len() - at < length {
            break;
        }
        at += length;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_written_whole() {
        let block = |length: u32| {
            let mut block = vec![6; length as usize];
            block[4..8].copy_from_slice(&length.to_le_bytes());
            block
        };
        let two = [block(16), block(32)].concat();
        for (cut, ready) in [(0, 0), (7, 0), (15, 0), (16, 16), (47, 16), (48, 48)] {
            assert_eq!(whole(&two[..cut]), ready, "{cut}");
        }
        assert_eq!(whole(&[0; 40]), 0, "no block");
    }
}
