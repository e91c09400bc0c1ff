//! Kafka: requests and denials in every version against a full codec, and a connection with both in it.
use crate::world::{ENDPOINT, PEER, Plain, soon};
use bytes::{Bytes, BytesMut};
use hypha_proxy::{
    config::{Direction, Endpoint, KafkaRule, PortRules, Role, Rules, Snapshot, Transport},
    drain,
    kafka::{About, Engine, Limits, Request, TOPIC_DENIED, denied},
    policy::Policy,
    record::{self, Layer7, Records, Verdict},
};
use kafka_protocol::{
    messages::{
        ApiKey, RequestHeader, RequestKind, ResponseHeader, ResponseKind, TopicName,
        fetch_request::{FetchPartition, FetchRequest, FetchTopic},
        list_offsets_request::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic},
        metadata_request::{MetadataRequest, MetadataRequestTopic},
        offset_commit_request::{
            OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
        },
        offset_fetch_request::{OffsetFetchRequest, OffsetFetchRequestTopic},
        produce_request::{PartitionProduceData, ProduceRequest, TopicProduceData},
    },
    protocol::{Decodable, Encodable, StrBytes},
};
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

const TOPICS: [&str; 2] = ["orders", "events"];

fn name(text: &'static str) -> TopicName {
    TopicName(StrBytes::from_static_str(text))
}

/// Requests about two topics with partitions 3 and 4, the newest versions that name them, and whether partitions are told.
fn requests(topics: &[&'static str]) -> Vec<(RequestKind, ApiKey, i16, bool)> {
    let all = || topics.iter().copied();
    let produce = |topic| {
        let part = |index| {
            PartitionProduceData::default()
                .with_index(index)
                .with_records(Some(Bytes::from(vec![7; 300])))
        };
        TopicProduceData::default()
            .with_name(name(topic))
            .with_partition_data(vec![part(3), part(4)])
    };
    let fetch = |topic| {
        let part = |index| FetchPartition::default().with_partition(index);
        FetchTopic::default()
            .with_topic(name(topic))
            .with_partitions(vec![part(3), part(4)])
    };
    let list = |topic| {
        let part = |index| ListOffsetsPartition::default().with_partition_index(index);
        ListOffsetsTopic::default()
            .with_name(name(topic))
            .with_partitions(vec![part(3), part(4)])
    };
    let commit = |topic| {
        let part = |index| OffsetCommitRequestPartition::default().with_partition_index(index);
        OffsetCommitRequestTopic::default()
            .with_name(name(topic))
            .with_partitions(vec![part(3), part(4)])
    };
    let offsets = |topic| {
        OffsetFetchRequestTopic::default()
            .with_name(name(topic))
            .with_partition_indexes(vec![3, 4])
    };
    let meta = |topic| MetadataRequestTopic::default().with_name(Some(name(topic)));
    vec![
        (
            RequestKind::Produce(
                ProduceRequest::default()
                    .with_acks(1)
                    .with_topic_data(all().map(produce).collect()),
            ),
            ApiKey::Produce,
            12,
            true,
        ),
        (
            RequestKind::Fetch(FetchRequest::default().with_topics(all().map(fetch).collect())),
            ApiKey::Fetch,
            12,
            true,
        ),
        (
            RequestKind::ListOffsets(
                ListOffsetsRequest::default().with_topics(all().map(list).collect()),
            ),
            ApiKey::ListOffsets,
            10,
            true,
        ),
        (
            RequestKind::Metadata(
                MetadataRequest::default().with_topics(Some(all().map(meta).collect())),
            ),
            ApiKey::Metadata,
            13,
            false,
        ),
        (
            RequestKind::OffsetCommit(
                OffsetCommitRequest::default().with_topics(all().map(commit).collect()),
            ),
            ApiKey::OffsetCommit,
            9,
            true,
        ),
        (
            RequestKind::OffsetFetch(
                OffsetFetchRequest::default().with_topics(Some(all().map(offsets).collect())),
            ),
            ApiKey::OffsetFetch,
            7,
            true,
        ),
    ]
}

/// The frame of a request, without its length.
fn frame(kind: &RequestKind, key: ApiKey, version: i16, id: i32) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    let header = RequestHeader::default()
        .with_request_api_key(key as i16)
        .with_request_api_version(version)
        .with_correlation_id(id)
        .with_client_id(Some(StrBytes::from_static_str("tester")));
    header
        .encode(&mut bytes, key.request_header_version(version))
        .unwrap();
    kind.encode(&mut bytes, version).unwrap();
    bytes.to_vec()
}

/// An answer's frame with its length, read by the full codec to its last byte.
fn answer(bytes: &[u8], key: ApiKey, version: i16, id: i32) -> ResponseKind {
    let mut bytes = Bytes::copy_from_slice(bytes);
    let length = bytes::Buf::get_u32(&mut bytes);
    assert_eq!(length as usize, bytes.len());
    let header = ResponseHeader::decode(&mut bytes, key.response_header_version(version)).unwrap();
    assert_eq!(header.correlation_id, id);
    let read = ResponseKind::decode(key, &mut bytes, version).unwrap();
    assert!(
        bytes.is_empty(),
        "{key:?} {version}: {} bytes are left",
        bytes.len()
    );
    read
}

#[test]
fn topics_of_every_version() {
    let mut seen = 0;
    for (kind, key, newest, partitions) in requests(&TOPICS) {
        for version in key.valid_versions().min..=newest {
            let bytes = frame(&kind, key, version, 77);
            let request = Request::read(&bytes).unwrap_or_else(|_| panic!("{key:?} {version}"));
            assert_eq!(
                (
                    request.api_key,
                    request.api_version,
                    request.correlation_id,
                    request.client_id
                ),
                (key as i16, version, 77, "tester")
            );
            let About::Topics(topics) = &request.about else {
                panic!("{key:?} {version}: {request:?}")
            };
            let names: Vec<&str> = topics.iter().map(|topic| topic.name).collect();
            assert_eq!(names, TOPICS, "{key:?} {version}");
            assert!(
                !partitions || topics.iter().all(|topic| topic.partitions == [3, 4]),
                "{key:?} {version}: {topics:?}"
            );
            // However it is cut, it is refused or says no more than it did.
            for end in 0..bytes.len() {
                if let Ok(cut) = Request::read(&bytes[..end]) {
                    assert!(
                        matches!(cut.about, About::Topics(_)),
                        "{key:?} {version} cut at {end}"
                    );
                }
            }
            seen += 1;
        }
    }
    assert!(seen >= 50, "{seen}");
}

#[test]
fn newer_versions_and_other_requests() {
    let unknown = |key: i16, version: i16, rest: &[u8]| {
        let mut bytes = Vec::new();
        bytes.extend(key.to_be_bytes());
        bytes.extend(version.to_be_bytes());
        bytes.extend([0, 0, 0, 1, 0xff, 0xff, 0]);
        bytes.extend(rest);
        // A few bytes in a test that ends soon.
        Request::read(bytes.leak())
            .map(|request| request.about)
            .map_err(|_| ())
    };
    // Topics by their numbers, topics in forms that are not read, and what nobody has heard of yet.
    for (key, version) in [(0, 13), (1, 16), (9, 8), (19, 7), (20, 6), (28, 5), (99, 0)] {
        assert_eq!(
            unknown(key, version, &[]),
            Ok(About::Unknown),
            "{key} {version}"
        );
    }
    for (key, version) in [(18, 4), (12, 4), (10, 6), (36, 2)] {
        assert_eq!(
            unknown(key, version, &[]),
            Ok(About::Nothing),
            "{key} {version}"
        );
    }
    // All topics there are: no list in newer versions, an empty one in the oldest.
    assert_eq!(unknown(3, 9, &[0]), Ok(About::Unknown));
    assert_eq!(unknown(3, 9, &[1]), Ok(About::Nothing));
    let (oldest, _) = (
        frame(
            &RequestKind::Metadata(MetadataRequest::default().with_topics(Some(Vec::new()))),
            ApiKey::Metadata,
            0,
            1,
        ),
        0,
    );
    assert_eq!(Request::read(&oldest).unwrap().about, About::Unknown);
    // The rest of a session of fetches asks about nothing new.
    let session = |id| {
        frame(
            &RequestKind::Fetch(FetchRequest::default().with_session_id(id)),
            ApiKey::Fetch,
            11,
            1,
        )
    };
    assert_eq!(Request::read(&session(5)).unwrap().about, About::Nothing);
    assert_eq!(
        Request::read(&session(0)).unwrap().about,
        About::Topics(Vec::new())
    );
    assert!(unknown(-1, 0, &[]).is_err() && unknown(0, -1, &[]).is_err());
    // An array that claims more than there is.
    assert!(unknown(3, 9, &[0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
}

#[test]
fn denials_of_every_version() {
    let mut seen = 0;
    for (kind, key, newest, _) in requests(&TOPICS) {
        for version in key.valid_versions().min..=newest {
            let bytes = frame(&kind, key, version, 78);
            let (error, denial) = denied(&Request::read(&bytes).unwrap()).unwrap();
            assert_eq!(error, TOPIC_DENIED);
            let read = format!("{:?}", answer(&denial, key, version, 78));
            assert!(
                TOPICS.iter().all(|topic| read.contains(topic)),
                "{key:?} {version}: {read}"
            );
            assert_eq!(
                read.matches("error_code: 29").count(),
                if key == ApiKey::Metadata { 2 } else { 4 },
                "{key:?} {version}: {read}"
            );
            seen += 1;
        }
    }
    for (key, newest) in [
        (10, 3),
        (11, 9),
        (12, 4),
        (13, 5),
        (14, 5),
        (18, 4),
        (22, 5),
    ] {
        let kind = ApiKey::try_from(key).unwrap();
        for version in kind.valid_versions().min..=newest {
            let request = Request {
                api_key: key,
                api_version: version,
                correlation_id: 5,
                client_id: "",
                about: About::Nothing,
            };
            let (error, denial) = denied(&request).unwrap();
            let read = format!("{:?}", answer(&denial, kind, version, 5));
            assert!(
                read.contains(&format!("error_code: {error}")),
                "{kind:?} {version}: {read}"
            );
            seen += 1;
        }
    }
    assert!(seen >= 80, "{seen}");
    let create = Request {
        api_key: 19,
        api_version: 5,
        correlation_id: 5,
        client_id: "",
        about: About::Unknown,
    };
    assert_eq!(denied(&create), None);
}

struct World {
    proxy: SocketAddr,
    records: Records,
    server: TcpListener,
}

async fn world(rules: Vec<KafkaRule>) -> World {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = PortRules {
        direction: Direction::Egress,
        transport: Transport::Tcp,
        first: 9092,
        last: 9092,
        peers: Some(vec![PEER]),
        origin: "shop/kafka".into(),
        rules: Rules::Kafka(rules),
    };
    let snapshot = Snapshot {
        version: 1,
        endpoints: vec![Endpoint {
            id: ENDPOINT,
            ports: vec![port],
            ..Endpoint::default()
        }],
        ..Snapshot::default()
    };
    let policy = watch::Sender::new(Arc::new(Policy::compile(&snapshot, None)));
    let (recorder, records) = record::channel(100);
    let (_drainer, drain) = drain::channel();
    let origin = Plain::new(server.local_addr().unwrap(), 9092);
    let engine = Engine::new(
        policy.subscribe(),
        origin,
        recorder,
        Limits::default(),
        drain,
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    tokio::spawn(async move { engine.run(listener).await });
    World {
        proxy,
        records,
        server,
    }
}

async fn send(stream: &mut TcpStream, frame: &[u8]) {
    stream.write_u32(frame.len() as u32).await.unwrap();
    stream.write_all(frame).await.unwrap();
}

async fn receive(stream: &mut TcpStream) -> Vec<u8> {
    let length = soon(stream.read_u32()).await.unwrap();
    let mut frame = length.to_be_bytes().to_vec();
    frame.resize(length as usize + 4, 0);
    soon(stream.read_exact(&mut frame[4..])).await.unwrap();
    frame
}

#[tokio::test]
async fn denials_come_in_their_turn() {
    let rule = KafkaRule {
        role: Some(Role::Produce),
        topic: Some("orders".into()),
        ..KafkaRule::default()
    };
    let mut world = world(vec![rule]).await;
    let mut client = TcpStream::connect(world.proxy).await.unwrap();
    let produce =
        |topics: &[&'static str], id| frame(&requests(topics)[0].0, ApiKey::Produce, 9, id);
    send(&mut client, &produce(&["orders"], 1)).await;
    send(&mut client, &produce(&["events"], 2)).await;
    send(&mut client, &produce(&["orders", "events"], 3)).await;
    let fetch = frame(&requests(&["orders"])[1].0, ApiKey::Fetch, 11, 4);
    send(&mut client, &fetch).await;
    send(&mut client, &produce(&["orders"], 5)).await;

    let (mut server, _) = soon(world.server.accept()).await.unwrap();
    // The server sees the two that are allowed, as they were sent, and takes its time for the first.
    for id in [1, 5] {
        assert_eq!(receive(&mut server).await[4..], produce(&["orders"], id));
    }
    for id in [1, 5] {
        let mut reply = vec![0, 0, 0, 104, 0, 0, 0, id];
        reply.extend([id; 100]);
        server.write_all(&reply).await.unwrap();
    }
    assert_eq!(receive(&mut client).await[4..8], [0, 0, 0, 1]);
    for id in [2, 3] {
        let denial = receive(&mut client).await;
        let read = format!("{:?}", answer(&denial, ApiKey::Produce, 9, id));
        assert!(read.contains("error_code: 29"), "{read}");
    }
    let denial = receive(&mut client).await;
    answer(&denial, ApiKey::Fetch, 11, 4);
    assert_eq!(receive(&mut client).await[4..8], [0, 0, 0, 5]);

    let mut seen = Vec::new();
    for _ in 0..10 {
        let record = soon(world.records.next()).await.unwrap();
        let Layer7::Kafka(kafka) = record.layer7 else {
            panic!()
        };
        if record.latency.is_some() {
            seen.push((kafka.correlation_id, kafka.error_code, record.verdict));
        } else if kafka.correlation_id == 3 {
            assert_eq!(
                (kafka.api_key.as_str(), kafka.topics),
                ("produce", vec!["orders".to_owned(), "events".to_owned()])
            );
        }
    }
    let (denied, forwarded) = (Verdict::Denied, Verdict::Forwarded);
    assert_eq!(
        seen,
        [
            (1, 0, forwarded),
            (2, 29, denied),
            (3, 29, denied),
            (4, 29, denied),
            (5, 0, forwarded)
        ]
    );
}

#[tokio::test]
async fn producers_that_want_no_answer_get_none() {
    let rule = KafkaRule {
        role: Some(Role::Produce),
        topic: Some("orders".into()),
        ..KafkaRule::default()
    };
    let world = world(vec![rule]).await;
    let mut client = TcpStream::connect(world.proxy).await.unwrap();
    let produce = |topics: &[&'static str], acks| {
        let RequestKind::Produce(request) = requests(topics)[0].0.clone() else {
            panic!()
        };
        frame(
            &RequestKind::Produce(request.with_acks(acks)),
            ApiKey::Produce,
            7,
            i32::from(acks),
        )
    };
    send(&mut client, &produce(&["events"], 0)).await;
    send(&mut client, &produce(&["orders"], 0)).await;
    send(&mut client, &produce(&["orders"], 1)).await;
    let (mut server, _) = soon(world.server.accept()).await.unwrap();
    assert_eq!(receive(&mut server).await[4..], produce(&["orders"], 0));
    assert_eq!(receive(&mut server).await[4..], produce(&["orders"], 1));
    server.write_all(&[0, 0, 0, 4, 0, 0, 0, 1]).await.unwrap();
    assert_eq!(receive(&mut client).await, [0, 0, 0, 4, 0, 0, 0, 1]);
    // What is denied and has no answer of its own ends the connection, as malformed requests do.
    send(&mut client, &[0, 19, 0, 5, 0, 0, 0, 1, 0xff, 0xff, 0]).await;
    assert_eq!(soon(client.read(&mut [0; 4])).await.unwrap_or(0), 0);
    let mut client = TcpStream::connect(world.proxy).await.unwrap();
    send(&mut client, b"GET / HTTP/1.1").await;
    assert_eq!(soon(client.read(&mut [0; 4])).await.unwrap_or(0), 0);
}
