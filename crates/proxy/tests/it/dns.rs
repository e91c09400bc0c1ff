//! DNS over both transports, with servers that answer rightly, wrongly or not at all.
use crate::world::{ENDPOINT, Plain, dns_rules, soon};
use futures::future::BoxFuture;
use hickory_proto::{
    op::{Edns, Message, MessageType, Query, ResponseCode},
    rr::{
        Name, RData, Record as Rr, RecordType,
        rdata::{A, CNAME},
    },
};
use hypha_proxy::{
    config::{DnsRule, Refusal, Snapshot},
    dns::{Engine, Learn, Learned, Limits},
    drain::{self, Drainer},
    policy::Policy,
    record::{self, Layer7, Records, Verdict},
};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Notify, watch},
};

/// Notes what is learned, and lets nothing go on before it is told to.
#[derive(Default)]
pub struct Notebook {
    pub seen: Mutex<Vec<Learned>>,
    holds: bool,
    go: Arc<Notify>,
}

impl Learn for Notebook {
    fn learned(&self, names: Learned) -> BoxFuture<'static, ()> {
        self.seen.lock().unwrap().push(names);
        let (holds, go) = (self.holds, self.go.clone());
        Box::pin(async move {
            if holds {
                go.notified().await;
            }
        })
    }
}

pub struct World {
    pub proxy: SocketAddr,
    records: Records,
    pub learn: Arc<Notebook>,
    policy: watch::Sender<Arc<Policy>>,
    drainer: Drainer,
}

impl World {
    pub async fn new(server: SocketAddr, rules: Vec<DnsRule>) -> Self {
        Self::with(
            server,
            &dns_rules(1, rules),
            Limits::default(),
            Notebook::default(),
        )
        .await
    }

    async fn with(
        server: SocketAddr,
        snapshot: &Snapshot,
        limits: Limits,
        learn: Notebook,
    ) -> Self {
        let policy = watch::Sender::new(Arc::new(Policy::compile(snapshot, None)));
        let (recorder, records) = record::channel(1000);
        let (drainer, drain) = drain::channel();
        let learn = Arc::new(learn);
        let origin = Plain::new(server, 53);
        let engine = Engine::new(
            policy.subscribe(),
            origin,
            learn.clone(),
            recorder,
            limits,
            drain,
        );
        let (udp, tcp) = pair().await;
        let proxy = udp.local_addr().unwrap();
        let other = engine.clone();
        tokio::spawn(async move { other.run_udp(Arc::new(udp)).await });
        tokio::spawn(async move { engine.run_tcp(tcp).await });
        Self {
            proxy,
            records,
            learn,
            policy,
            drainer,
        }
    }

    async fn dns(&mut self) -> (Verdict, record::Dns) {
        let record = soon(self.records.next()).await.unwrap();
        match record.layer7 {
            Layer7::Dns(dns) => (record.verdict, dns),
            other => panic!("{other:?}"),
        }
    }
}

/// Sockets of both transports at one port, which other tests may have taken for one of them.
async fn pair() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

pub fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

pub fn question(text: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), kind));
    message
}

pub async fn client(proxy: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(proxy).await.unwrap();
    socket
}

pub async fn ask(proxy: SocketAddr, message: &Message) -> Message {
    let socket = client(proxy).await;
    socket.send(&message.to_vec().unwrap()).await.unwrap();
    let mut buffer = [0; 65535];
    let length = soon(socket.recv(&mut buffer)).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn ask_tcp(stream: &mut TcpStream, message: &Message) -> Message {
    let bytes = message.to_vec().unwrap();
    stream.write_u16(bytes.len() as u16).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
    let length = soon(stream.read_u16()).await.unwrap();
    let mut answer = vec![0; length.into()];
    soon(stream.read_exact(&mut answer)).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

/// The right answer: an alias and `count` addresses.
pub fn reply(message: &Message, count: u8) -> Message {
    let mut answer = message.clone();
    answer.metadata.message_type = MessageType::Response;
    let asked = message.queries[0].name().clone();
    let alias = name("alias.example.net.");
    answer.add_answer(Rr::from_rdata(
        asked,
        300,
        RData::CNAME(CNAME(alias.clone())),
    ));
    answer.add_answers(
        (0..count).map(|n| Rr::from_rdata(alias.clone(), 60, RData::A(A::new(192, 0, 2, n)))),
    );
    answer
}

/// A server of both transports; answers come from the function, several to one question if it likes.
pub async fn server(
    answer: impl Fn(&Message) -> Vec<Message> + Send + Sync + Clone + 'static,
) -> SocketAddr {
    let (udp, tcp) = pair().await;
    let address = udp.local_addr().unwrap();
    let by_udp = answer.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
            let message = Message::from_vec(&buffer[..length]).unwrap();
            for answer in by_udp(&message) {
                udp.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                // One question for each connection: servers may end them when they like.
                let Ok(length) = stream.read_u16().await else {
                    return;
                };
                let mut bytes = vec![0; length.into()];
                stream.read_exact(&mut bytes).await.unwrap();
                let answers = answer(&Message::from_vec(&bytes).unwrap());
                let bytes = answers[0].to_vec().unwrap();
                stream.write_u16(bytes.len() as u16).await.unwrap();
                stream.write_all(&bytes).await.unwrap();
            });
        }
    });
    address
}

pub fn pattern(text: &str) -> Vec<DnsRule> {
    vec![DnsRule::MatchPattern(text.into())]
}

#[tokio::test]
async fn allowed_names_are_answered_and_learned() {
    let server = server(|message| vec![reply(message, 3)]).await;
    let mut world = World::new(server, pattern("*.example.org")).await;
    let message = question("WWW.example.org.", RecordType::A);
    let answer = ask(world.proxy, &message).await;
    assert_eq!(answer, reply(&message, 3));
    let ips: Vec<std::net::IpAddr> = (0..3).map(|n| [192, 0, 2, n].into()).collect();
    let expected = Learned {
        endpoint: ENDPOINT,
        name: "www.example.org".into(),
        ips: ips.clone(),
        ttl: 60,
    };
    assert_eq!(*world.learn.seen.lock().unwrap(), [expected]);
    let (verdict, asked) = world.dns().await;
    assert_eq!(
        (
            verdict,
            asked.query.as_str(),
            asked.qtype.as_str(),
            asked.rcode
        ),
        (Verdict::Forwarded, "www.example.org.", "A", None)
    );
    let (verdict, answered) = world.dns().await;
    assert_eq!(
        (verdict, answered.ips, answered.ttl, answered.rcode),
        (Verdict::Forwarded, ips, 60, Some(0))
    );
    assert_eq!(
        (answered.cnames, answered.rrtypes),
        (
            vec!["alias.example.net".to_owned()],
            vec!["A".to_owned(), "CNAME".to_owned()]
        )
    );

    // A connection outlives the server's.
    let mut stream = TcpStream::connect(world.proxy).await.unwrap();
    for text in ["a.example.org.", "b.example.org.", "c.example.org."] {
        let message = question(text, RecordType::A);
        assert_eq!(ask_tcp(&mut stream, &message).await, reply(&message, 3));
    }
}

#[tokio::test]
async fn other_names_are_refused_as_the_settings_say() {
    let server = server(|message| vec![reply(message, 1)]).await;
    let mut world = World::new(server, pattern("*.example.org")).await;
    let mut message = question("www.example.com.", RecordType::AAAA);
    message.set_edns(Edns::new());
    let answer = ask(world.proxy, &message).await;
    assert_eq!(
        (answer.metadata.response_code, answer.metadata.id),
        (ResponseCode::Refused, message.metadata.id)
    );
    assert_eq!(answer.queries, message.queries);
    assert!(answer.edns.is_some() && answer.answers.is_empty());
    assert_eq!(world.dns().await.0, Verdict::Denied);
    let (verdict, dns) = world.dns().await;
    assert_eq!(
        (verdict, dns.rcode, dns.ttl),
        (Verdict::Denied, Some(5), u32::MAX)
    );
    assert!(world.learn.seen.lock().unwrap().is_empty());

    let mut next = dns_rules(2, pattern("*.example.org"));
    next.settings.dns_refusal = Refusal::NameError;
    world
        .policy
        .send_replace(Arc::new(Policy::compile(&next, None)));
    let mut stream = TcpStream::connect(world.proxy).await.unwrap();
    let answer = ask_tcp(&mut stream, &message).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn guesses_are_not_believed() {
    // Before the right answer come ones with wrong numbers and questions, as from somebody who guesses.
    let server = server(|message| {
        let mut answers = Vec::new();
        for guess in 1..=5 {
            let mut wrong = reply(message, 66);
            wrong.metadata.id = wrong.metadata.id.wrapping_add(guess);
            answers.push(wrong);
        }
        let mut other = reply(message, 66);
        other.queries = vec![Query::query(name("evil.example.org."), RecordType::A)];
        answers.extend([other, reply(message, 1)]);
        answers
    })
    .await;
    let world = World::new(server, pattern("*")).await;
    let answer = ask(world.proxy, &question("www.example.org.", RecordType::A)).await;
    assert_eq!(answer.answers.len(), 2);
    assert_eq!(world.learn.seen.lock().unwrap()[0].ips.len(), 1);
}

#[tokio::test]
async fn too_many_guesses_end_the_question() {
    let server = server(|message| {
        let wrong = |n| {
            let mut wrong = reply(message, 66);
            wrong.metadata.id = wrong.metadata.id.wrapping_add(n);
            wrong
        };
        (1..=100).map(wrong).chain([reply(message, 1)]).collect()
    })
    .await;
    let world = World::new(server, pattern("*")).await;
    let answer = ask(world.proxy, &question("www.example.org.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    assert!(world.learn.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn numbers_and_ports_are_not_the_clients() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let world = World::new(address, pattern("*")).await;
    let client = client(world.proxy).await;
    let message = question("www.example.org.", RecordType::A);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        client.send(&message.to_vec().unwrap()).await.unwrap();
        let mut buffer = [0; 512];
        let (length, from) = soon(socket.recv_from(&mut buffer)).await.unwrap();
        let asked = Message::from_vec(&buffer[..length]).unwrap();
        seen.insert((asked.metadata.id, from.port()));
        socket
            .send_to(&reply(&asked, 1).to_vec().unwrap(), from)
            .await
            .unwrap();
        let length = soon(client.recv(&mut buffer)).await.unwrap();
        assert_eq!(
            Message::from_vec(&buffer[..length]).unwrap().metadata.id,
            message.metadata.id
        );
    }
    assert!(seen.len() > 18, "{seen:?}");
}

#[tokio::test]
async fn long_answers_are_cut_for_those_who_take_less() {
    let server = server(|message| vec![reply(message, 100)]).await;
    let world = World::new(server, pattern("*")).await;
    let plain = question("www.example.org.", RecordType::A);
    let answer = ask(world.proxy, &plain).await;
    assert!(answer.metadata.truncation && answer.answers.is_empty());
    // What is cut is learned all the same: the client asks again over TCP, or uses what it has.
    assert_eq!(world.learn.seen.lock().unwrap()[0].ips.len(), 100);
    let mut more = plain.clone();
    more.set_edns(Edns::new());
    more.edns.as_mut().unwrap().set_max_payload(8192);
    assert_eq!(ask(world.proxy, &more).await.answers.len(), 101);
    let mut stream = TcpStream::connect(world.proxy).await.unwrap();
    assert_eq!(ask_tcp(&mut stream, &plain).await.answers.len(), 101);
}

/// Everything may be asked for, and some names have to be known before their addresses are used.
fn awaited() -> Snapshot {
    let mut snapshot = dns_rules(1, pattern("*"));
    snapshot.settings.names = pattern("*.org");
    snapshot
}

#[tokio::test]
async fn names_are_known_before_the_answer_goes_out() {
    let server = server(|message| vec![reply(message, 1)]).await;
    let learn = Notebook {
        holds: true,
        ..Notebook::default()
    };
    let limits = Limits {
        learn: Duration::from_secs(600),
        ..Limits::default()
    };
    let world = World::with(server, &awaited(), limits, learn).await;
    // A name that no rule speaks of waits for nobody.
    let other = question("a.net.", RecordType::A);
    assert_eq!(ask(world.proxy, &other).await.answers.len(), 2);
    world.learn.seen.lock().unwrap().clear();
    let client = client(world.proxy).await;
    client
        .send(&question("a.org.", RecordType::A).to_vec().unwrap())
        .await
        .unwrap();
    soon(async {
        while world.learn.seen.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let early = tokio::time::timeout(Duration::from_millis(200), client.recv(&mut [0; 512])).await;
    assert!(early.is_err(), "the answer went out first");
    world.learn.go.notify_one();
    soon(client.recv(&mut [0; 512])).await.unwrap();
}

#[tokio::test]
async fn a_question_that_comes_before_its_rules_waits_for_them() {
    let server = server(|message| vec![reply(message, 1)]).await;
    let limits = Limits {
        rules: Duration::from_secs(60),
        ..Limits::default()
    };
    let unknown = Snapshot::default();
    let world = World::with(server, &unknown, limits, Notebook::default()).await;
    let waiting = question("a.org.", RecordType::A);
    let client = client(world.proxy).await;
    client.send(&waiting.to_vec().unwrap()).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(100), client.recv(&mut [0; 512])).await;
    assert!(early.is_err(), "it is answered without rules");
    let allowed = Policy::compile(&dns_rules(1, pattern("*")), None);
    world.policy.send_replace(Arc::new(allowed));
    let mut buffer = [0; 512];
    let length = soon(client.recv(&mut buffer)).await.unwrap();
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(answer.answers.len(), 2);
}

#[tokio::test]
async fn nobody_waits_for_ever_for_names() {
    let server = server(|message| vec![reply(message, 1)]).await;
    let learn = Notebook {
        holds: true,
        ..Notebook::default()
    };
    let limits = Limits {
        learn: Duration::from_secs(600),
        ..Limits::default()
    };
    let mut snapshot = awaited();
    snapshot.settings.names_wait = Some(50);
    let world = World::with(server, &snapshot, limits, learn).await;
    assert_eq!(
        ask(world.proxy, &question("a.org.", RecordType::A))
            .await
            .answers
            .len(),
        2
    );
}

#[tokio::test]
async fn too_many_at_once_are_refused() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let limits = Limits {
        at_once_each: 3,
        ..Limits::default()
    };
    let address = silent.local_addr().unwrap();
    let mut world = World::with(
        address,
        &dns_rules(1, pattern("*")),
        limits,
        Notebook::default(),
    )
    .await;
    let client = client(world.proxy).await;
    for n in 0..3 {
        client
            .send(
                &question(&format!("n{n}.org."), RecordType::A)
                    .to_vec()
                    .unwrap(),
            )
            .await
            .unwrap();
        // Under way once the server has it.
        soon(silent.recv(&mut [0; 512])).await.unwrap();
    }
    let answer = ask(world.proxy, &question("one.more.org.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    let mut verdicts = Vec::new();
    for _ in 0..5 {
        verdicts.push(world.dns().await.0);
    }
    assert_eq!(verdicts.last(), Some(&Verdict::Error));
}

#[tokio::test]
async fn servers_that_are_not_there_or_silent() {
    let nobody = ([127, 0, 0, 1], 1).into();
    let world = World::new(nobody, pattern("*")).await;
    let answer = ask(world.proxy, &question("a.org.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);

    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let limits = Limits {
        server: Duration::from_millis(100),
        ..Limits::default()
    };
    let world = World::with(
        silent.local_addr().unwrap(),
        &dns_rules(1, pattern("*")),
        limits,
        Notebook::default(),
    )
    .await;
    let client = client(world.proxy).await;
    client
        .send(&question("a.org.", RecordType::A).to_vec().unwrap())
        .await
        .unwrap();
    let answer = tokio::time::timeout(Duration::from_millis(600), client.recv(&mut [0; 512])).await;
    assert!(answer.is_err(), "no answer is the answer");
    // Once nothing is under way any more, draining ends.
    assert!(soon(world.drainer.drain(Duration::from_secs(60))).await);
}

#[tokio::test]
async fn bytes_that_are_no_question() {
    let server = server(|message| vec![reply(message, 1)]).await;
    let world = World::new(server, pattern("*")).await;
    let client = client(world.proxy).await;
    let good = question("a.org.", RecordType::A).to_vec().unwrap();
    let mut answer = good.clone();
    answer[2] |= 0x80;
    client.send(&answer).await.unwrap();
    client.send(b"x").await.unwrap();
    client.send(&[]).await.unwrap();
    client.send(&good[..good.len() - 2]).await.unwrap();
    let mut buffer = [0; 512];
    // Only what can be answered is: the cut question.
    let length = soon(client.recv(&mut buffer)).await.unwrap();
    assert_eq!((length, buffer[3] & 15), (12, 1));
    client.send(&good).await.unwrap();
    soon(client.recv(&mut buffer)).await.unwrap();
    assert_eq!(buffer[3] & 15, 0);
}
