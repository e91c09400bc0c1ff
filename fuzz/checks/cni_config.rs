//! Anything a container runtime may send: read or refused, never a panic; what is read can be written again.

use hypha_cni::{CniResult, Version, parse_args, parse_config};

pub fn run(data: &[u8]) {
    match parse_config(data) {
        Ok(config) => {
            assert!(!config.name.is_empty() && config.agent_socket.is_absolute());
            if let Some(result) = config.prev_result {
                Version::ALL
                    .into_iter()
                    .for_each(|version| rewrite(&result, version));
            }
        }
        Err(error) => {
            let json: serde_json::Value =
                serde_json::from_str(&error.to_json()).expect("an error is JSON");
            assert!(json["code"].as_u64().is_some_and(|code| code > 0) && json["msg"].is_string());
        }
    }
    let _ = parse_args(&String::from_utf8_lossy(data));
}

/// A result in any version reads as itself.
fn rewrite(result: &CniResult, version: Version) {
    let written = result.clone().in_version(version);
    let read: CniResult = serde_json::from_str(&written.to_json()).expect("a result is JSON");
    assert_eq!(read, written);
}
