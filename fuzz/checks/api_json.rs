//! Anything that may come over the agent's socket: read or refused, never a panic; what is read can be written again.

use hypha_api::{
    ApiError, EndpointConfig, EndpointRequest, IpamRequest, IpamResponse, MonitorEvent, Validate,
    parse,
    path::{EndpointId, escape},
};
use serde::{Serialize, de::DeserializeOwned};

pub fn run(data: &[u8]) {
    request::<IpamRequest>(data);
    request::<IpamResponse>(data);
    request::<EndpointRequest>(data);
    request::<EndpointConfig>(data);
    let _ = serde_json::from_slice::<ApiError>(data);
    let _ = serde_json::from_slice::<MonitorEvent>(data);
    let text = String::from_utf8_lossy(data);
    if let Ok(id) = text.parse::<EndpointId>() {
        assert_eq!(
            id.to_string()
                .parse::<EndpointId>()
                .expect("a name reads as itself"),
            id
        );
    }
    assert!(
        escape(&text)
            .bytes()
            .all(|b| b.is_ascii_graphic() && b != b'/' && b != b'?')
    );
}

fn request<T: DeserializeOwned + Serialize + Validate + PartialEq + std::fmt::Debug>(data: &[u8]) {
    if let Ok(read) = parse::<T>(data) {
        let written = serde_json::to_vec(&read).expect("a request is JSON");
        assert_eq!(parse::<T>(&written).expect("and reads as itself"), read);
    }
}
