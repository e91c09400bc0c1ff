//! One request for flows, put to all nodes.
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use api::hubble::observer::get_flows_response::ResponseTypes;
use api::hubble::observer::observer_client::ObserverClient;
use api::hubble::observer::{GetFlowsRequest, GetFlowsResponse};
use api::hubble::relay::{NodeState, NodeStatusEvent};
use prost_types::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::merge::{BUFFER, Hold, Item, Merge, Time};
use super::pool::Pool;

/// How long the same complaints of several nodes are gathered.
const GATHER: Duration = Duration::from_secs(10);

/// How long a node may take to begin its answer.
const BEGIN: Duration = Duration::from_secs(10);

/// The largest message that is taken from a node.
pub const LARGEST: usize = 16 << 20;

/// What comes from a node.
enum Said {
    /// A flow, or lost events.
    Response(Box<GetFlowsResponse>),
    /// That was all: the node's name, the time it told of last, and what went wrong.
    Ended(String, Option<Timestamp>, Option<Status>),
}

/// Where answers go.
pub type Answers = mpsc::Sender<Result<GetFlowsResponse, Status>>;

/// A request while it is answered.
pub struct Request {
    pool: Pool,
    /// The relay's own name, in what it says itself.
    name: String,
    request: GetFlowsRequest,
    /// When the request came.
    begun: Timestamp,
    merge: Merge<Said>,
    /// Nodes that were asked, with the number of the connection.
    asked: BTreeMap<String, u64>,
    /// Nodes that were lost meanwhile, with the time they told of last.
    lost: BTreeMap<String, Timestamp>,
    /// Nodes of which it was said that they are away.
    away: BTreeSet<String>,
    /// Complaints, each with who has it.
    complaints: BTreeMap<String, BTreeSet<String>>,
    /// When they are told.
    tell: Option<Instant>,
    /// Whether something was answered.
    answered: bool,
}

impl Request {
    /// A request that was put to nobody yet.
    pub fn new(pool: Pool, name: String, request: GetFlowsRequest) -> Self {
        let hold = if request.follow {
            Hold::LIVE
        } else {
            Hold::RECORDED
        };
        Self {
            pool,
            name,
            request,
            begun: SystemTime::now().into(),
            merge: Merge::new(hold),
            asked: BTreeMap::new(),
            lost: BTreeMap::new(),
            away: BTreeSet::new(),
            complaints: BTreeMap::new(),
            tell: None,
            answered: false,
        }
    }

    /// Answers until everything is said or nobody listens any more.
    pub async fn answer(mut self, answers: Answers) {
        tokio::select! {
            _ = self.run(&answers) => {}
            () = answers.closed() => {}
        }
    }

    /// None once nobody listens, or the request is refused.
    async fn run(&mut self, answers: &Answers) -> Option<()> {
        let follow = self.request.follow;
        let mut changes = self.pool.changes();
        self.join(false, answers).await?;
        while follow || !self.merge.is_empty() {
            let tell = self.tell.unwrap_or_else(Instant::now);
            let more = !self.merge.is_empty();
            tokio::select! {
                biased;
                Ok(()) = changes.changed(), if follow => self.join(true, answers).await?,
                () = sleep_until(tell), if self.tell.is_some() => self.complain(answers).await?,
                said = self.merge.next(), if more => match said {
                    Some(Said::Response(response)) => {
                        self.answered = true;
                        answers.send(Ok(*response)).await.ok()?;
                    }
                    Some(Said::Ended(node, last, status)) => self.ended(node, last, status, answers).await?,
                    None => {}
                },
                else => break,
            }
        }
        self.complain(answers).await
    }

    /// Asks nodes that are new and says so; says who is away or gone. `later`: others have been asked before.
    async fn join(&mut self, later: bool, answers: &Answers) -> Option<()> {
        let peers = self.pool.peers();
        let (mut connected, mut away, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for peer in &peers {
            match &peer.channel {
                Some(channel) if self.asked.get(&peer.name) != Some(&peer.generation) => {
                    self.asked.insert(peer.name.clone(), peer.generation);
                    self.away.remove(&peer.name);
                    self.ask(peer.name.clone(), later, channel.clone());
                    connected.push(peer.name.clone());
                }
                Some(_) => {}
                // One that has just come is not away before that was tried.
                None if later && peer.trouble.is_empty() => {}
                None => {
                    if self.away.insert(peer.name.clone()) {
                        away.push(peer.name.clone());
                    }
                }
            }
        }
        let there: BTreeSet<&String> = peers.iter().map(|peer| &peer.name).collect();
        let known: BTreeSet<String> = self.asked.keys().chain(&self.away).cloned().collect();
        for name in known {
            if !there.contains(&name) {
                self.asked.remove(&name);
                self.away.remove(&name);
                gone.push(name);
            }
        }
        for (state, names) in [
            (NodeState::NodeConnected, connected),
            (NodeState::NodeUnavailable, away),
            (NodeState::NodeGone, gone),
        ] {
            if !names.is_empty() {
                self.say(state, names, String::new(), answers).await?;
            }
        }
        Some(())
    }

    /// Puts the request to a node. One that was lost goes on after what it told last, one that is new with what is new.
    fn ask(&mut self, node: String, later: bool, channel: Channel) {
        let mut request = self.request.clone();
        if later {
            let last = self.lost.get(&node).map(after);
            request.since = Some(last.unwrap_or(self.begun));
            request.number = 0;
            request.first = false;
        }
        let (items, receive) = mpsc::channel(BUFFER);
        self.merge.add(receive);
        let begun = self.lost.remove(&node);
        tokio::spawn(async move {
            let mut last = begun;
            let status = feed(channel, request, &items, &mut last).await;
            let end = Said::Ended(node, last, status);
            // Nobody may listen any more.
            let _ = items.send((time(last.as_ref()), Instant::now(), end)).await;
        });
    }

    async fn ended(
        &mut self,
        node: String,
        last: Option<Timestamp>,
        status: Option<Status>,
        answers: &Answers,
    ) -> Option<()> {
        self.lost.insert(node.clone(), last.unwrap_or(self.begun));
        let Some(status) = status else {
            return Some(());
        };
        // The request itself is wrong: every node would say so.
        if status.code() == Code::InvalidArgument && !self.answered {
            let refused = Status::new(status.code(), status.message());
            answers.send(Err(refused)).await.ok()?;
            return None;
        }
        let text = match status.message() {
            "" => status.code().description().to_owned(),
            text => text.to_owned(),
        };
        self.complaints.entry(text).or_default().insert(node);
        self.tell.get_or_insert(Instant::now() + GATHER);
        Some(())
    }

    async fn complain(&mut self, answers: &Answers) -> Option<()> {
        self.tell = None;
        for (text, nodes) in std::mem::take(&mut self.complaints) {
            let nodes = nodes.into_iter().collect();
            self.say(NodeState::NodeError, nodes, text, answers).await?;
        }
        Some(())
    }

    async fn say(
        &mut self,
        state: NodeState,
        node_names: Vec<String>,
        message: String,
        answers: &Answers,
    ) -> Option<()> {
        let event = NodeStatusEvent {
            state_change: state.into(),
            node_names,
            message,
        };
        let response = GetFlowsResponse {
            response_types: Some(ResponseTypes::NodeStatus(event)),
            node_name: self.name.clone(),
            time: Some(SystemTime::now().into()),
        };
        answers.send(Ok(response)).await.ok()
    }
}

/// Passes on what a node sends; what went wrong, if something did.
async fn feed(
    channel: Channel,
    request: GetFlowsRequest,
    items: &mpsc::Sender<Item<Said>>,
    last: &mut Option<Timestamp>,
) -> Option<Status> {
    let mut observer = ObserverClient::new(channel).max_decoding_message_size(LARGEST);
    let mut stream = match timeout(BEGIN, observer.get_flows(request)).await {
        Ok(Ok(stream)) => stream.into_inner(),
        Ok(Err(status)) => return Some(status),
        Err(_) => {
            let text = format!("no answer in {} s", BEGIN.as_secs());
            return Some(Status::deadline_exceeded(text));
        }
    };
    loop {
        match stream.message().await {
            Ok(Some(response)) => {
                // What has no time comes with what was before it.
                if response.time.is_some() {
                    *last = response.time;
                }
                let item = Said::Response(Box::new(response));
                let item = (time(last.as_ref()), Instant::now(), item);
                if items.send(item).await.is_err() {
                    return None;
                }
            }
            Ok(None) => return None,
            Err(status) => return Some(status),
        }
    }
}

fn time(time: Option<&Timestamp>) -> Time {
    time.map_or((i64::MIN, 0), |time| (time.seconds, time.nanos))
}

/// The moment after this one.
fn after(time: &Timestamp) -> Timestamp {
    if time.nanos < 999_999_999 {
        Timestamp {
            seconds: time.seconds,
            nanos: time.nanos + 1,
        }
    } else {
        Timestamp {
            seconds: time.seconds + 1,
            nanos: 0,
        }
    }
}
