//! The agent's line: snapshots taken and refused, names that wait for an agent, records.
use crate::world::{http_rules, rule, soon};
use hypha_proxy::{
    config::{Direction, Snapshot, Transport},
    control::{
        Control, Line, NAMES_MAX,
        frame::{self, FromProxy, ToProxy},
    },
    dns::{Learn, Learned},
    origin::Session,
    record::{self, Layer7, Record, Recorder, Verdict},
    store::Store,
};
use std::{path::PathBuf, sync::Arc, time::SystemTime};
use tokio::{
    io::AsyncWriteExt,
    net::{UnixListener, UnixStream},
};

struct World {
    dir: tempfile::TempDir,
    control: Arc<Control>,
    recorder: Recorder,
}

impl World {
    fn new(records: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (recorder, records) = record::channel(records);
        let (control, error) = Control::new(store, records);
        assert!(error.is_none());
        let listener = UnixListener::bind(dir.path().join("control.sock")).unwrap();
        tokio::spawn(control.clone().serve(listener));
        Self {
            dir,
            control,
            recorder,
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    async fn line(&self) -> Line {
        soon(Line::connect(&self.path())).await.unwrap()
    }
}

async fn hear(line: &mut Line) -> FromProxy {
    soon(line.hear()).await.unwrap().unwrap()
}

async fn offer(line: &mut Line, snapshot: Snapshot) -> FromProxy {
    line.say(&ToProxy::Snapshot(snapshot)).await.unwrap();
    hear(line).await
}

fn learned(name: &str) -> Learned {
    Learned {
        endpoint: 1,
        name: name.into(),
        ips: vec!["192.0.2.1".parse().unwrap()],
        ttl: 5,
    }
}

#[tokio::test]
async fn newer_snapshots_are_taken_and_others_are_not() {
    let world = World::new(10);
    let mut line = world.line().await;
    assert_eq!(line.version, 0);
    let five = http_rules(5, vec![rule("GET", "/a")]);
    assert!(
        matches!(offer(&mut line, five.clone()).await, FromProxy::Taken { version: 5, problems } if problems.is_empty())
    );
    assert_eq!(world.control.policy().borrow().version(), 5);
    // The same once more is no mistake; an old one is, and so is another one of the same number.
    assert!(matches!(
        offer(&mut line, five.clone()).await,
        FromProxy::Taken { version: 5, .. }
    ));
    for stale in [http_rules(4, Vec::new()), http_rules(5, Vec::new())] {
        match offer(&mut line, stale).await {
            FromProxy::Refused { version: 5, why } => {
                assert!(why.contains("not newer than 5"), "{why}")
            }
            other => panic!("{other:?}"),
        }
    }
    let six = http_rules(6, vec![rule("GET", "("), rule("GET", "/")]);
    match offer(&mut line, six.clone()).await {
        FromProxy::Taken {
            version: 6,
            problems,
        } => assert_eq!(problems.len(), 1, "{problems:?}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(world.control.policy().borrow().version(), 6);
    // What is on disk is what is in force, for the next process and for the next agent.
    assert_eq!(
        Store::open(world.dir.path()).unwrap().load().unwrap(),
        Some(six)
    );
    assert_eq!(world.line().await.version, 6);
}

#[tokio::test]
async fn what_cannot_be_understood_is_answered_and_changes_nothing() {
    let world = World::new(10);
    let mut line = world.line().await;
    offer(&mut line, http_rules(1, Vec::new())).await;
    drop(line);
    let mut stream = UnixStream::connect(world.path()).await.unwrap();
    frame::write(
        &mut stream,
        &ToProxy::Hello {
            protocol: frame::PROTOCOL,
        },
    )
    .await
    .unwrap();
    let _: Option<FromProxy> = soon(frame::read(&mut stream)).await.unwrap();
    for text in [
        r#"{"snapshot":{"version":2,"endpoints":[],"new":1}}"#,
        r#"{"snapshot":{}}"#,
        "{",
        "",
        r#"{"surprise":1}"#,
    ] {
        stream.write_u32(text.len() as u32).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let answer = soon(frame::read(&mut stream)).await.unwrap();
        assert!(
            matches!(answer, Some(FromProxy::Refused { version: 1, .. })),
            "{text}: {answer:?}"
        );
    }
    assert_eq!(world.control.policy().borrow().version(), 1);
    // A frame that is too long ends the line, without anything being kept for it.
    stream.write_u32(u32::MAX).await.unwrap();
    let end: std::io::Result<Option<FromProxy>> = soon(frame::read(&mut stream)).await;
    assert!(matches!(end, Ok(None) | Err(_)));
    assert_eq!(world.line().await.version, 1);
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let world = World::new(10);
    let mut stream = UnixStream::connect(world.path()).await.unwrap();
    frame::write(&mut stream, &ToProxy::Hello { protocol: 99 })
        .await
        .unwrap();
    let hello: Option<FromProxy> = soon(frame::read(&mut stream)).await.unwrap();
    assert!(matches!(hello, Some(FromProxy::Hello { version: 0, .. })));
    let end: std::io::Result<Option<FromProxy>> = soon(frame::read(&mut stream)).await;
    assert!(matches!(end, Ok(None) | Err(_)));
}

#[tokio::test]
async fn names_wait_until_an_agent_has_them() {
    let world = World::new(10);
    // No agent: nobody is waited for, and nothing is forgotten.
    soon(world.control.learned(learned("a.org"))).await;
    soon(world.control.learned(learned("b.org"))).await;
    let mut first = world.line().await;
    for expected in ["a.org", "b.org"] {
        match hear(&mut first).await {
            FromProxy::Names { id, learned, .. } => {
                assert_eq!(learned.name, expected);
                if expected == "a.org" {
                    first.say(&ToProxy::Known { id }).await.unwrap();
                }
            }
            other => panic!("{other:?}"),
        }
    }
    // The second was never acknowledged: the next agent hears of it, and takes the line over.
    let waiting = tokio::spawn(world.control.learned(learned("c.org")));
    assert!(
        matches!(hear(&mut first).await, FromProxy::Names { learned, .. } if learned.name == "c.org")
    );
    let mut second = world.line().await;
    assert!(matches!(soon(first.hear()).await, Ok(None) | Err(_)));
    let mut heard = Vec::new();
    while heard.last().is_none_or(|name| name != "c.org") {
        match hear(&mut second).await {
            FromProxy::Names { id, learned, .. } => {
                heard.push(learned.name);
                assert!(!waiting.is_finished());
                second.say(&ToProxy::Known { id }).await.unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    // What was acknowledged in the last moment of the first line may come once more.
    heard.retain(|name| name != "a.org");
    assert_eq!(heard, ["b.org", "c.org"]);
    soon(waiting).await.unwrap();
}

#[tokio::test]
async fn names_that_nobody_takes_are_bounded() {
    let world = World::new(10);
    for n in 0..NAMES_MAX + 5 {
        soon(world.control.learned(learned(&format!("n{n}.org")))).await;
    }
    assert_eq!(world.control.lost_names(), 5);
    let mut line = world.line().await;
    assert!(
        matches!(hear(&mut line).await, FromProxy::Names { learned, .. } if learned.name == "n5.org")
    );
}

#[tokio::test]
async fn records_come_with_what_was_lost() {
    let world = World::new(10);
    let session = Session {
        source: "10.0.0.1:1000".parse().unwrap(),
        destination: "[fd00::1]:80".parse().unwrap(),
        client: 2,
        server: 3,
        egress: None,
        ingress: Some(1),
    };
    for n in 0..25 {
        world.recorder.record(|| Record {
            time: SystemTime::now(),
            session,
            direction: Direction::Ingress,
            transport: Transport::Tcp,
            verdict: Verdict::Forwarded,
            rule: None,
            latency: None,
            layer7: Layer7::Http(record::Http {
                code: n,
                protocol: "HTTP/1.1".into(),
                ..record::Http::default()
            }),
        });
    }
    let mut line = world.line().await;
    match hear(&mut line).await {
        FromProxy::Records { records, lost } => {
            assert_eq!((records.len(), lost), (10, 15));
            assert_eq!(records[3].session, session);
            assert!(
                matches!(&records[3].layer7, Layer7::Http(http) if http.code == 3 && http.protocol == "HTTP/1.1")
            );
        }
        other => panic!("{other:?}"),
    }
}
