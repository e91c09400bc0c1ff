//! One connection of a client and the one to its server. Answers come in the order of the requests, so a denial waits for its turn.
use super::{About, Malformed, Request, Shared, answer, request, versions};
use crate::{
    config::{Direction, Transport},
    origin::Session,
    policy::{Decision, KafkaRequest, RuleName, Topics, api_name, caught_up},
    record::{HEADERS_MAX, Kafka, Layer7, Record, Verdict, cut},
};
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};

/// Longest answer of a server that says what it knows.
const VERSIONS: u64 = 64 << 10;

/// What the client is to get next.
enum Next {
    /// The server's answer.
    Server(Asked),
    /// Ours.
    Own(Asked, i16, Vec<u8>),
}

/// What is remembered of a request until its answer.
struct Asked {
    kafka: Kafka,
    /// It asks what the server knows; by the name that the client gave itself.
    versions: Option<String>,
    rule: Option<RuleName>,
    direction: Direction,
    verdict: Verdict,
    began: Instant,
}

pub(super) async fn serve(shared: Arc<Shared>, client: TcpStream) {
    let Ok(session) = shared.origin.accepted(&client) else {
        return;
    };
    caught_up(
        &shared.policy,
        || session.scopes(Transport::Tcp),
        shared.limits.rules,
    )
    .await;
    let connect = timeout(shared.limits.connect, shared.origin.connect(&session));
    let Ok(Ok(server)) = connect.await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (sender, receiver) = mpsc::channel(shared.limits.in_flight);
    let relay = Relay { shared, session };
    let up = async {
        let ended = relay
            .requests(&mut from_client, &mut to_server, &sender)
            .await;
        // What has been asked is answered before the end.
        drop(sender);
        ended
    };
    let down = relay.answers(&mut from_server, &mut to_client, receiver);
    let both = async {
        tokio::pin!(up, down);
        tokio::select! {
            ended = &mut up => {
                let answered = down.await;
                ended.and(answered)
            }
            ended = &mut down => ended,
        }
    };
    tokio::select! {
        ended = both => if let Err(error) = ended {
            tracing::debug!(source = %relay.session.source, %error, "a connection of Kafka ended");
        },
        () = relay.shared.drain.over() => {}
    }
}

struct Relay {
    shared: Arc<Shared>,
    session: Session,
}

impl Relay {
    /// Reads requests until the client ends, or it is time to go.
    async fn requests(
        &self,
        client: &mut (impl AsyncRead + Unpin),
        server: &mut (impl AsyncWrite + Unpin),
        next: &mpsc::Sender<Next>,
    ) -> io::Result<()> {
        loop {
            let length = tokio::select! {
                length = client.read_u32() => length,
                () = self.shared.drain.asked() => return Ok(()),
            };
            let length = match length {
                Ok(length) => length as usize,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            };
            if length > self.shared.limits.request {
                return Err(io::Error::other(format!(
                    "a request of {length} bytes is too long"
                )));
            }
            let mut frame = Vec::with_capacity(length.min(64 << 10) + 4);
            frame.extend_from_slice(&(length as u32).to_be_bytes());
            let mut rest = client.take(length as u64);
            let read = timeout(self.shared.limits.step, rest.read_to_end(&mut frame));
            if read.await?? < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (forward, waits) = self.request(&frame)?;
            // Its place in the order first: the answer cannot come before that.
            if let Some(waits) = waits
                && next.send(waits).await.is_err()
            {
                return Ok(());
            }
            if forward {
                timeout(self.shared.limits.step, server.write_all(&frame)).await??;
            }
        }
    }

    /// Asks about a request: whether it goes on, and what the client waits for.
    fn request(&self, frame: &[u8]) -> io::Result<(bool, Option<Next>)> {
        let body = frame.get(4..).unwrap_or_default();
        let request = Request::read(body)
            .map_err(|Malformed| io::Error::new(io::ErrorKind::InvalidData, Malformed))?;
        let decision = self.decide(&request);
        let asked = Asked {
            kafka: describe(&request),
            versions: (request.api_key == request::key::API_VERSIONS)
                .then(|| request.client_id.to_owned()),
            rule: decision.rule.clone(),
            direction: decision.direction,
            verdict: decision.outcome.into(),
            began: Instant::now(),
        };
        self.record(&asked, None, 0);
        let unanswered = request.is_unanswered(body);
        if decision.passes() {
            return Ok((true, (!unanswered).then_some(Next::Server(asked))));
        }
        if unanswered {
            return Ok((false, None));
        }
        let (error, answer) = answer::denied(&request)
            .ok_or_else(|| io::Error::other("a denied request without an answer of its own"))?;
        Ok((false, Some(Next::Own(asked, error, answer))))
    }

    fn decide(&self, request: &Request<'_>) -> Decision {
        let names: Vec<&str>;
        let topics = match &request.about {
            About::Nothing => Topics::None,
            About::Unknown => Topics::Unknown,
            About::Topics(topics) => {
                names = topics.iter().map(|topic| topic.name).collect();
                Topics::Named(&names)
            }
        };
        let policy = self.shared.policy.borrow().clone();
        let selection = policy.select_all(self.session.scopes(Transport::Tcp));
        selection.kafka(&KafkaRequest {
            api_key: request.api_key,
            api_version: request.api_version,
            client_id: request.client_id,
            topics,
        })
    }

    /// Gives the client its answers in their order.
    async fn answers(
        &self,
        server: &mut (impl AsyncRead + Unpin),
        client: &mut (impl AsyncWrite + Unpin),
        mut next: mpsc::Receiver<Next>,
    ) -> io::Result<()> {
        while let Some(next) = next.recv().await {
            match next {
                Next::Own(asked, error, frame) => {
                    self.record(&asked, Some(asked.began.elapsed()), error);
                    timeout(self.shared.limits.step, client.write_all(&frame)).await??;
                }
                Next::Server(asked) => self.answer(&asked, server, client).await?,
            }
        }
        client.shutdown().await
    }

    async fn answer(
        &self,
        asked: &Asked,
        server: &mut (impl AsyncRead + Unpin),
        client: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        let mut head = [0; 8];
        server.read_exact(&mut head).await?;
        let [a, b, c, d, id @ ..] = head;
        let length = u32::from_be_bytes([a, b, c, d]);
        if i32::from_be_bytes(id) != asked.kafka.correlation_id || length < 4 {
            return Err(io::Error::other("the server answers something else"));
        }
        self.record(asked, Some(asked.began.elapsed()), 0);
        let mut left = u64::from(length) - 4;
        if let Some(name) = &asked.versions {
            if left > VERSIONS {
                return Err(io::Error::other("the server knows too much"));
            }
            let mut body = vec![0; usize::try_from(left).unwrap_or(0)];
            timeout(self.shared.limits.step, server.read_exact(&mut body)).await??;
            let frame = self.restrict(asked, name, &body)?;
            timeout(self.shared.limits.step, client.write_all(&frame)).await??;
            return Ok(());
        }
        client.write_all(&head).await?;
        let mut buffer = vec![0; usize::try_from(left.min(64 << 10)).unwrap_or(0)];
        while left > 0 {
            let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            let got = timeout(self.shared.limits.step, server.read(&mut buffer[..most])).await??;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            timeout(self.shared.limits.step, client.write_all(&buffer[..got])).await??;
            left -= got as u64;
        }
        Ok(())
    }

    /// Of what a server knows, what can be read here, and denied where no rule allows it.
    fn restrict(&self, asked: &Asked, name: &str, body: &[u8]) -> io::Result<Vec<u8>> {
        let offer = |api_key, oldest: i16, newest: i16| {
            let newest = request::newest(api_key).map_or(newest, |read| read.min(newest));
            let of = |api_version| Request {
                api_key,
                api_version,
                correlation_id: 0,
                client_id: name,
                about: About::Nothing,
            };
            if self.decide(&of(newest)).passes() {
                return (oldest <= newest).then_some(newest);
            }
            let mut versions = (oldest..=newest).rev();
            versions.find(|version| answer::denied(&of(*version)).is_some())
        };
        let (id, version) = (asked.kafka.correlation_id, asked.kafka.api_version);
        versions::restrict(id, version, body, offer)
            .map_err(|Malformed| io::Error::new(io::ErrorKind::InvalidData, Malformed))
    }

    fn record(&self, asked: &Asked, latency: Option<Duration>, error_code: i16) {
        self.shared.recorder.record(|| Record {
            time: SystemTime::now(),
            session: self.session,
            direction: asked.direction,
            transport: Transport::Tcp,
            verdict: asked.verdict,
            rule: asked.rule.clone(),
            latency,
            layer7: Layer7::Kafka(Kafka {
                error_code,
                ..asked.kafka.clone()
            }),
        });
    }
}

fn describe(request: &Request<'_>) -> Kafka {
    let topics = match &request.about {
        About::Topics(topics) => topics.as_slice(),
        About::Nothing | About::Unknown => &[],
    };
    let names = topics.iter().take(HEADERS_MAX);
    Kafka {
        api_key: api_name(request.api_key)
            .map_or_else(|| request.api_key.to_string(), str::to_owned),
        api_version: request.api_version,
        correlation_id: request.correlation_id,
        topics: names.map(|topic| cut(topic.name.as_bytes())).collect(),
        error_code: 0,
    }
}
