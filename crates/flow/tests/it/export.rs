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

/// A disk that is full costs lines, and those are counted; once there is room, writing goes on with whole lines.
#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
    };
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: this test needs root");
        return;
    }
    // Of this thread alone, and gone with it.
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let directory = tempfile::tempdir().unwrap();
        mount(
            Some("tmpfs"),
            directory.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some("size=256k"),
        )
        .unwrap();
        let filler = directory.path().join("filler");
        std::fs::write(&filler, vec![0; 160 * 1024]).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(full_disk(&directory.path().join("events.log"), &filler));
        nix::mount::umount(directory.path()).unwrap();
    });
    thread.join().unwrap();
}

async fn full_disk(path: &std::path::Path, filler: &std::path::Path) {
    use std::sync::atomic::Ordering;
    let mut world = World::new(1023);
    let (stopper, stop) = stop::channel();
    let export = Export {
        target: Target::File(path.to_owned()),
        ..Export::default()
    };
    let written = Arc::new(Written::default());
    let running = tokio::spawn(export.run(world.observer.clone(), written.clone(), stop));
    let counts = || {
        (
            written.lines.load(Ordering::Relaxed),
            written.lost.load(Ordering::Relaxed),
        )
    };
    let patience = Duration::from_secs(60);
    // Until lines are lost: the disk is full.
    let filling = async {
        while counts().1 == 0 {
            world.feed(&[event(); 100]);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(patience, filling).await.unwrap();
    // Others read flows all the while.
    assert_eq!(
        world.observer.status().flows,
        world.observer.status().seen.min(1023)
    );
    std::fs::remove_file(filler).unwrap();
    let (before, _) = counts();
    let again = async {
        while counts().0 < before + 50 {
            world.feed(&[event(); 10]);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(patience, again).await.unwrap();
    stopper.stop();
    running.await.unwrap().unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    let all: Vec<&str> = text.lines().collect();
    assert!(
        all.iter()
            .all(|line| serde_json::from_str::<Value>(line).is_ok())
    );
    assert_eq!(
        all.len() as u64,
        counts().0,
        "each line that counts is there"
    );
    assert!(counts().0 + counts().1 <= world.observer.status().seen);
}
