//! A request of Kafka: refused, or read; a denial of it is a whole frame under its number.

use hypha_proxy::kafka::{About, Request, denied};

pub fn run(data: &[u8]) {
    let Ok(request) = Request::read(data) else {
        return;
    };
    assert_eq!(request.correlation_id.to_be_bytes(), data[4..8]);
    if let About::Topics(topics) = &request.about {
        // Nothing is made of bytes that are not there.
        let said: usize = topics
            .iter()
            .map(|topic| topic.name.len() + topic.partitions.len())
            .sum();
        assert!(said <= data.len());
    }
    let _ = request.is_unanswered(data);
    if let Some((error, frame)) = denied(&request) {
        assert!((29..=31).contains(&error));
        let length = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
        assert_eq!(length as usize, frame.len() - 4);
        assert_eq!(frame[4..8], data[4..8]);
    }
}
