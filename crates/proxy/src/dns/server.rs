//! Questions on their way to servers, and answers on their way back.
use super::{Answered, Learned, Malformed, Question, Shared, renumber};
use crate::{
    config::{Direction, Refusal, Transport},
    origin::{Datagrams, Session},
    policy::{Policy, RuleName, caught_up},
    record::{Dns, Layer7, Record, Verdict},
};
use hickory_proto::op::{Message, ResponseCode};
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Longest datagram that is read, but for answers to clients that take longer ones.
const DATAGRAM: usize = 4096;
/// Longest answer over TCP.
const STREAM: usize = 65535;
/// How long to wait where reading fails.
const PAUSE: Duration = Duration::from_millis(10);

pub(super) async fn udp(shared: Arc<Shared>, socket: Arc<dyn Datagrams>) {
    let read = async {
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let Ok((length, source, destination)) = socket.receive(&mut buffer).await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let Ok(session) = shared.origin.datagram(source, destination) else {
                continue;
            };
            let work = datagram(shared.clone(), socket.clone(), session, &buffer[..length]);
            tokio::spawn(work);
        }
    };
    let drain = shared.drain.clone();
    tokio::select! {
        () = drain.asked() => {}
        () = read => {}
    }
}

fn datagram(
    shared: Arc<Shared>,
    socket: Arc<dyn Datagrams>,
    session: Session,
    bytes: &[u8],
) -> impl Future<Output = ()> + Send + use<> {
    let bytes = bytes.to_vec();
    async move {
        let answer = shared
            .answer(&session, Transport::Udp, bytes, &mut None)
            .await;
        if let Some(answer) = answer {
            // A client that is gone misses nothing.
            let _ = socket
                .send(&answer, session.source, session.destination)
                .await;
        }
    }
}

pub(super) async fn tcp(shared: Arc<Shared>, mut stream: TcpStream) {
    let Ok(session) = shared.origin.accepted(&stream) else {
        return;
    };
    let _ = stream.set_nodelay(true);
    let drain = shared.drain.clone();
    let mut server = None;
    let serve = async {
        loop {
            let question = tokio::select! {
                question = timeout(shared.limits.idle, read_frame(&mut stream)) => question,
                // Between two questions is the time to go; one that has begun to come is asked again.
                () = drain.asked() => return,
            };
            let Ok(Ok(question)) = question else {
                return;
            };
            let answer = shared
                .answer(&session, Transport::Tcp, question, &mut server)
                .await;
            let Some(answer) = answer else {
                return;
            };
            let write = write_frame(&mut stream, &answer);
            if !matches!(timeout(shared.limits.idle, write).await, Ok(Ok(()))) {
                return;
            }
        }
    };
    tokio::select! {
        () = serve => {}
        () = shared.drain.over() => {}
    }
}

async fn read_frame(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn write_frame(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut frame = Vec::with_capacity(bytes.len() + 2);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(bytes);
    stream.write_all(&frame).await
}

/// A number that nobody can guess.
fn random() -> io::Result<u16> {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(u16::from_ne_bytes(bytes))
}

/// What is remembered of a question until its answer.
struct Asked<'a> {
    session: &'a Session,
    question: &'a Question,
    rule: Option<RuleName>,
    direction: Direction,
    transport: Transport,
    verdict: Verdict,
    began: Instant,
}

impl Shared {
    /// The answer to a client; `None` where there is none to be given.
    async fn answer(
        &self,
        session: &Session,
        transport: Transport,
        bytes: Vec<u8>,
        server: &mut Option<TcpStream>,
    ) -> Option<Vec<u8>> {
        let question = match Question::read(&bytes) {
            Ok(question) => question,
            Err(Malformed::Silence) => return None,
            Err(Malformed::Answer(answer)) => return Some(answer),
        };
        if !self.policy.borrow().knows(session.scopes(transport)) {
            // Who waits has a place, too.
            let _place = self.places.take(session.endpoint())?;
            caught_up(
                &self.policy,
                || session.scopes(transport),
                self.limits.rules,
            )
            .await;
        }
        let policy = self.policy.borrow().clone();
        let decision = policy
            .select_all(session.scopes(transport))
            .dns(&question.name);
        let asked = Asked {
            session,
            question: &question,
            rule: decision.rule.clone(),
            direction: decision.direction,
            transport,
            verdict: decision.outcome.into(),
            began: Instant::now(),
        };
        self.record(&asked, asked.verdict, None);
        if !decision.passes() {
            let code = match policy.settings().dns_refusal {
                Refusal::Refused => ResponseCode::Refused,
                Refusal::NameError => ResponseCode::NXDomain,
            };
            return Some(self.refuse(&asked, Verdict::Denied, code));
        }
        let Some(_place) = self.places.take(session.endpoint()) else {
            return Some(self.refuse(&asked, Verdict::Error, ResponseCode::Refused));
        };
        let exchange = async {
            match transport {
                Transport::Udp => self.by_udp(session, &question, bytes).await,
                Transport::Tcp => self.by_tcp(session, &question, bytes, server).await,
            }
        };
        let (bytes, message) = match timeout(self.limits.server, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::debug!(name = question.name, %error, "a question without an answer");
                return Some(self.refuse(&asked, Verdict::Error, ResponseCode::Refused));
            }
            Err(_) => return None,
        };
        let learned = question.learn(&message);
        self.tell(&policy, session, &question, &learned).await;
        self.record(&asked, asked.verdict, Some(&learned));
        let limit = match transport {
            Transport::Udp => question.limit,
            Transport::Tcp => STREAM,
        };
        Some(question.release(bytes, &message, limit))
    }

    /// Has the names known, or waits no longer; those that no rule speaks of, not at all.
    async fn tell(
        &self,
        policy: &Policy,
        session: &Session,
        question: &Question,
        learned: &Answered,
    ) {
        if learned.ips.is_empty() || learned.rcode != 0 {
            return;
        }
        let told = self.learn.learned(Learned {
            endpoint: session.endpoint(),
            name: question.name.clone(),
            ips: learned.ips.clone(),
            ttl: learned.ttl,
        });
        if !policy.awaits(&question.name) {
            return;
        }
        let wait = policy.settings().names_wait;
        let wait = wait.map_or(self.limits.learn, |ms| Duration::from_millis(ms.into()));
        if timeout(wait, told).await.is_err() {
            tracing::debug!(
                name = question.name,
                "an answer goes out before its addresses are known"
            );
        }
    }

    async fn by_udp(
        &self,
        session: &Session,
        question: &Question,
        mut bytes: Vec<u8>,
    ) -> io::Result<(Vec<u8>, Message)> {
        let socket = self.origin.connect_udp(session).await?;
        let id = random()?;
        renumber(&mut bytes, id);
        socket.send(&bytes).await?;
        let mut buffer = vec![0; question.limit.max(DATAGRAM)];
        for _ in 0..=self.limits.wrong {
            let length = socket.recv(&mut buffer).await?;
            if let Some(message) = question.answered_by(&buffer[..length], id) {
                buffer.truncate(length);
                return Ok((buffer, message));
            }
        }
        Err(io::Error::other(
            "too many answers that answer something else",
        ))
    }

    async fn by_tcp(
        &self,
        session: &Session,
        question: &Question,
        mut bytes: Vec<u8>,
        server: &mut Option<TcpStream>,
    ) -> io::Result<(Vec<u8>, Message)> {
        let id = random()?;
        renumber(&mut bytes, id);
        loop {
            let (mut stream, kept) = match server.take() {
                Some(stream) => (stream, true),
                None => (self.origin.connect(session).await?, false),
            };
            let exchange = async {
                write_frame(&mut stream, &bytes).await?;
                read_frame(&mut stream).await
            };
            let answer = match exchange.await {
                Ok(answer) => answer,
                // Servers end connections that are silent.
                Err(_) if kept => continue,
                Err(error) => return Err(error),
            };
            let message = question.answered_by(&answer, id);
            let message = message.ok_or_else(|| io::Error::other("an answer to something else"))?;
            *server = Some(stream);
            return Ok((answer, message));
        }
    }

    fn refuse(&self, asked: &Asked<'_>, verdict: Verdict, code: ResponseCode) -> Vec<u8> {
        let answered = Answered {
            rcode: code.into(),
            ttl: u32::MAX,
            ..Answered::default()
        };
        self.record(asked, verdict, Some(&answered));
        asked.question.refuse(code)
    }

    fn record(&self, asked: &Asked<'_>, verdict: Verdict, answer: Option<&Answered>) {
        self.recorder.record(|| Record {
            time: SystemTime::now(),
            session: *asked.session,
            direction: asked.direction,
            transport: asked.transport,
            verdict,
            rule: asked.rule.clone(),
            latency: answer.map(|_| asked.began.elapsed()),
            layer7: Layer7::Dns(Dns {
                query: format!("{}.", asked.question.name),
                qtype: asked.question.kind.to_string(),
                rrtypes: answer.map(|a| a.rrtypes.clone()).unwrap_or_default(),
                ips: answer.map(|a| a.ips.clone()).unwrap_or_default(),
                cnames: answer.map(|a| a.cnames.clone()).unwrap_or_default(),
                ttl: answer.map_or(0, |a| a.ttl),
                rcode: answer.map(|a| a.rcode),
            }),
        });
    }
}
