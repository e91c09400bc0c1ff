//! Services tried from everywhere: who asks, what is asked, and what must come of it.

mod across;
pub mod load;
mod stage;

pub use stage::{BACKENDS, Stage, Way};

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::cluster::Cluster;

/// The client's program: it runs inside of whoever asks, so that its sockets are seen as theirs.
const ASK: &str = include_str!("ask.py");

/// How a frontend is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// One connection.
    Tcp,
    /// An unconnected socket, then a connected one.
    Udp,
}

impl Protocol {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];

    /// As Kubernetes writes it.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// Whom the backend must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The client.
    Client,
    /// A node in between.
    Node,
    /// Either.
    Any,
}

/// What must come of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// This backend answers, and sees this source.
    Answer(&'static str, Source),
    /// Nobody answers.
    Nothing,
}

/// A question.
#[derive(Clone, Debug)]
pub struct Question {
    /// A pod, a node, or the router.
    pub client: String,
    /// What it asks, for people.
    pub name: String,
    /// How.
    pub protocol: Protocol,
    /// What it asks.
    pub frontend: SocketAddr,
    /// What must come of it.
    pub expected: Expected,
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            client,
            name,
            frontend,
            ..
        } = self;
        write!(f, "{client} → {name} {frontend}/{}", self.protocol.text())
    }
}

/// Asks all questions, those of one client at once; what is not as it must be, a line each.
///
/// # Panics
/// If a client cannot ask.
#[must_use]
#[track_caller]
pub fn ask(cluster: &Cluster, questions: &[Question]) -> Vec<String> {
    let mut clients: Vec<&str> = questions.iter().map(|q| q.client.as_str()).collect();
    clients.sort_unstable();
    clients.dedup();
    let mut wrong = Vec::new();
    for client in clients {
        let asked: Vec<&Question> = questions.iter().filter(|q| q.client == client).collect();
        for (question, answer) in asked.iter().zip(answers(cluster, client, &asked)) {
            if let Err(why) = judge(cluster, question, &answer) {
                wrong.push(format!("{question}: {why}"));
            }
        }
    }
    wrong
}

#[track_caller]
fn answers(cluster: &Cluster, client: &str, asked: &[&Question]) -> Vec<Value> {
    let list: Vec<Value> = asked
        .iter()
        .map(|q| json!([q.protocol.text(), q.frontend.ip(), q.frontend.port()]))
        .collect();
    let list = Value::from(list).to_string();
    let run = cluster.lab.exec(client, &["python3", "-c", ASK, &list]);
    assert!(run.ok(), "{client} cannot ask: {}", run.stderr);
    let answers: Vec<Value> = serde_json::from_str(&run.stdout).expect("a list of answers");
    assert_eq!(answers.len(), asked.len());
    answers
}

/// Whether an answer is what must come; if not, why.
fn judge(cluster: &Cluster, question: &Question, answer: &Value) -> Result<(), String> {
    let pair = answer.as_array().map(|pair| {
        let text = |i: usize| pair.get(i).and_then(Value::as_str).unwrap_or_default();
        (text(0), text(1))
    });
    match (question.expected, pair) {
        (Expected::Nothing, None) => Ok(()),
        (Expected::Nothing, Some((name, _))) => Err(format!("{name} answers, nobody should")),
        (Expected::Answer(..), None) => Err(format!("no answer: {answer}")),
        (Expected::Answer(backend, _), Some((name, _))) if name != backend => {
            Err(format!("{name:?} answers, {backend} should"))
        }
        (Expected::Answer(_, source), Some((_, seen))) => {
            let seen: SocketAddr = seen.parse().map_err(|_| format!("no address: {seen:?}"))?;
            let own = addresses(cluster, &question.client);
            match (source, own.contains(&seen.ip().to_canonical())) {
                (Source::Client, false) => Err(format!("the backend sees {seen}, not the client")),
                (Source::Node, true) => Err(format!("the backend sees the client, {seen}")),
                _ => Ok(()),
            }
        }
    }
}

fn addresses(cluster: &Cluster, client: &str) -> Vec<IpAddr> {
    if client.starts_with("node") || client == "router" {
        let shown = cluster.lab.sh(client, "ip -o addr show | awk '{print $4}'");
        return shown
            .lines()
            .filter_map(|line| line.split('/').next()?.parse().ok())
            .collect();
    }
    cluster.pod(client).ips
}
