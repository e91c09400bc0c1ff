//! Any bytes as records of the event ring: flows or nothing, never a panic; what is a flow has a form in JSON, and matches the filter that
//! asks for nothing.

use hypha_flow::{
    Feeder, Filters, Observer,
    proto::{flow::FlowFilter, json},
    record::{About, Shown, What},
};
use zerocopy::FromBytes;

pub fn run(data: &[u8]) {
    let Ok(tables) = model::Tables::new() else {
        return;
    };
    let observer = Observer::new(7, About::default());
    let mut feeder = Feeder::plain(&observer, tables);
    feeder.begin();
    for record in data.chunks(size_of::<abi::FlowEvent>()) {
        if let Ok(event) = abi::FlowEvent::read_from_bytes(record) {
            feeder.event(&event);
        }
    }
    feeder.end();
    let about = observer.about();
    let all = Filters::compile(&[FlowFilter::default()], &[]).unwrap_or_default();
    for record in observer.last(7) {
        let What::Packet(seen) = &record.what else {
            continue;
        };
        let shown = Shown {
            seen,
            time: record.time,
            about: &about,
        };
        assert!(all.passes(&shown));
        let flow = shown.to_flow();
        assert!(json::to_string(&flow).is_ok() && all.passes(&flow));
    }
}
