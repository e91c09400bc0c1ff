//! Flows as lines of a file.
use super::world::{World, event};
use abi::{EventKind, FlowEvent};
use hypha_flow::export::{Export, Target, Written, filters};
use runtime::stop;
use serde_json::Value;
use std::{sync::Arc, time::Duration};

#[tokio::test]
async fn what_is_wanted_is_in_the_file() {
    let mut world = World::new(31);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hubble/events.log");
    let (stopper, stop) = stop::channel();
    let export = Export {
        target: Target::File(path.clone()),
        wanted: filters(r#"{"verdict":["DROPPED"]} {"source_pod":["shop/none"]}"#).unwrap(),
        fields: vec!["verdict".into(), "source.pod_name".into()],
        ..Export::default()
    };
    let written = Arc::new(Written::default());
    let running = tokio::spawn(export.run(world.observer.clone(), written, stop));
    let dropped = FlowEvent {
        kind: EventKind::Drop as u8,
        subtype: 133,
        ..event()
    };
    let lines = async {
        loop {
            // It begins with what comes once it runs.
            world.feed(&[event(), dropped]);
            tokio::time::sleep(Duration::from_millis(50)).await;
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if text.ends_with('\n') {
                return text;
            }
        }
    };
    let text = tokio::time::timeout(Duration::from_secs(60), lines)
        .await
        .unwrap();
    let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let wanted = serde_json::json!({"verdict": "DROPPED", "source": {"pod_name": "cart-1"}});
    assert_eq!(
        (&line["flow"], &line["node_name"]),
        (&wanted, &"c1/w1".into())
    );
    assert!(line["time"].is_string());
    stopper.stop();
    running.await.unwrap().unwrap();
}

#[test]
fn filters_that_are_none_are_refused() {
    assert!(filters("").unwrap().is_empty());
    for (text, says) in [
        ("{\"verdicts\":[]}", "verdicts"),
        ("{", "FlowFilter"),
        ("7", "FlowFilter"),
    ] {
        let error = filters(text).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    let export = Export {
        fields: vec!["source.pods".into()],
        ..Export::default()
    };
    assert!(
        export
            .check()
            .unwrap_err()
            .to_string()
            .contains("source.pods")
    );
}
