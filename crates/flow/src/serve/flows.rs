//! Reading the ring for one request: from where, what, how much, and until when.
//!
//! The ring is held for a few hundred records at a time, and never while a message is made or sent: readers do not wait for
//! each other, and whoever brings records in waits for nobody. A reader that is too slow finds its place gone, and is told how much it missed.
use super::{Stream, until_then};
use crate::{
    filter::{FilterError, Filters},
    mask::Mask,
    observer::{Lane, Observer, wall_clock},
    record::{About, Record, Shown, What, nanos, timestamp},
    view::View as _,
};
use api::hubble::{
    flow::{LostEvent, LostEventSource},
    observer::{
        GetAgentEventsRequest, GetAgentEventsResponse, GetFlowsRequest, GetFlowsResponse,
        get_flows_response::ResponseTypes,
    },
};
use futures::{StreamExt as _, stream};
use prost::{
    Message as _,
    bytes::Bytes,
    encoding::{WireType, encode_key, encode_varint, message, string},
};
use prost_types::Timestamp;
use runtime::stop::Stop;
use std::{collections::VecDeque, sync::Arc};
use tokio::sync::watch;
use tonic::Status;

/// Records that are looked at while the ring is held.
const LOOKED_AT: u64 = 512;
/// Records that are taken at once.
const TAKEN: usize = 64;
/// Bytes that most flows take.
const ROOM: usize = 1024;

/// What is taken, and the messages it becomes.
pub(super) trait Kind: Clone + Send + Sync + 'static {
    /// The message.
    type Message: Send + 'static;

    /// Where the records are.
    fn lane(observer: &Observer) -> &Lane;

    /// Whether the record is one that is asked for, and counts.
    fn counts(&self, record: &Record, about: &About) -> bool;

    /// Whether it is told of although nobody asked.
    fn is_news(&self, record: &Record) -> bool;

    /// The message of a record.
    fn message(&self, record: &Record, about: &About) -> Option<Self::Message>;
}

/// Flows.
#[derive(Clone)]
pub(super) struct Flows {
    filters: Arc<Filters>,
    mask: Option<Mask>,
}

/// Flows as the bytes of their messages.
#[derive(Clone)]
pub(super) struct Written(Flows);

/// What the agent did.
#[derive(Clone)]
pub(super) struct AgentEvents;

/// Reads the ring for one request.
pub(super) struct Reading<K> {
    observer: Observer,
    head: watch::Receiver<u64>,
    kind: K,
    /// The next place to look at.
    place: u64,
    /// Where to stop; none: go on with what comes.
    end: Option<u64>,
    /// How many more are wanted; none: all.
    left: Option<u64>,
    since: u64,
    until: Option<u64>,
}

/// What both kinds of requests say of place and number.
struct Range {
    number: u64,
    first: bool,
    follow: bool,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl From<FilterError> for Status {
    fn from(error: FilterError) -> Self {
        Self::invalid_argument(format!("a filter is not understood: {error}"))
    }
}

impl Flows {
    /// What a request for flows wants of them.
    fn wanted(request: &GetFlowsRequest) -> Result<Self, Status> {
        let older = request.experimental.as_ref();
        let mask = request
            .field_mask
            .as_ref()
            .or_else(|| older.and_then(|older| older.field_mask.as_ref()));
        let mask = Mask::new(mask)
            .map_err(|why| Status::invalid_argument(format!("field_mask: {why}")))?;
        Ok(Self {
            filters: Arc::new(Filters::compile(&request.whitelist, &request.blacklist)?),
            mask,
        })
    }
}

impl From<&GetFlowsRequest> for Range {
    fn from(request: &GetFlowsRequest) -> Self {
        Self {
            number: request.number,
            first: request.first,
            follow: request.follow,
            since: request.since,
            until: request.until,
        }
    }
}

impl Reading<Flows> {
    /// The flows that a request wants.
    pub(super) fn flows(observer: Observer, request: &GetFlowsRequest) -> Result<Self, Status> {
        Self::new(observer, Flows::wanted(request)?, &request.into())
    }
}

impl Reading<Written> {
    /// The flows that a request wants, as bytes.
    pub(super) fn written(observer: Observer, request: &GetFlowsRequest) -> Result<Self, Status> {
        Self::new(observer, Written(Flows::wanted(request)?), &request.into())
    }
}

impl Reading<AgentEvents> {
    /// What a request for the agent's events wants.
    pub(super) fn agent_events(
        observer: Observer,
        request: &GetAgentEventsRequest,
    ) -> Result<Self, Status> {
        let range = Range {
            number: request.number,
            first: request.first,
            follow: request.follow,
            since: request.since,
            until: request.until,
        };
        Self::new(observer, AgentEvents, &range)
    }
}

impl<K: Kind> Reading<K> {
    fn new(observer: Observer, kind: K, range: &Range) -> Result<Self, Status> {
        if range.first && range.follow {
            return Err(Status::invalid_argument(
                "first and follow do not go together: follow goes on with the newest",
            ));
        }
        let mut head = K::lane(&observer).head();
        head.borrow_and_update();
        let next = K::lane(&observer).ring().next();
        let limited = range.number > 0 && !range.follow;
        let mut reading = Self {
            head,
            kind,
            place: next,
            end: (!range.follow).then_some(next),
            left: limited.then_some(range.number),
            since: range.since.as_ref().map_or(0, nanos),
            until: range.until.as_ref().map(nanos),
            observer,
        };
        reading.place = reading.start(range);
        Ok(reading)
    }

    /// The place to begin at.
    fn start(&self, range: &Range) -> u64 {
        if range.first {
            // What is too old is passed over on the way.
            return K::lane(&self.observer).ring().first();
        }
        if range.follow && range.number == 0 && range.since.is_none() {
            return self.place;
        }
        let about = self.observer.about();
        let wanted = match range.number {
            0 => u64::MAX,
            number => number,
        };
        let (mut place, mut found) = (self.place, 0);
        loop {
            let ring = K::lane(&self.observer).ring();
            for _ in 0..LOOKED_AT {
                if place <= ring.first() || found >= wanted {
                    return place;
                }
                match ring.get(place - 1) {
                    Some(record) if record.time >= self.since => {
                        found +=
                            u64::from(self.is_in_time(record) && self.kind.counts(record, &about));
                    }
                    _ => return place,
                }
                place -= 1;
            }
        }
    }

    fn is_in_time(&self, record: &Record) -> bool {
        record.time >= self.since && self.until.is_none_or(|until| record.time <= until)
    }

    /// The next records; none when there will be no more.
    async fn next(&mut self) -> Option<Vec<Record>> {
        loop {
            if self.left == Some(0) {
                return None;
            }
            let about = self.observer.about();
            let (taken, looked) = self.take(&about);
            if !taken.is_empty() {
                return Some(taken);
            }
            if self.end.is_some_and(|end| self.place >= end) {
                return None;
            }
            if looked {
                // Others may have waited meanwhile.
                tokio::task::yield_now().await;
                continue;
            }
            self.wait().await?;
        }
    }

    /// Waits for more; none if there will be none.
    async fn wait(&mut self) -> Option<()> {
        let Some(until) = self.until else {
            return self.head.changed().await.ok();
        };
        let left = until_then(until)?;
        match tokio::time::timeout(left, self.head.changed()).await {
            Ok(changed) => changed.ok(),
            Err(_) => None,
        }
    }

    /// Takes what is wanted of the next records, and whether there were any.
    fn take(&mut self, about: &About) -> (Vec<Record>, bool) {
        let mut taken = Vec::new();
        let ring = K::lane(&self.observer).ring();
        let last = self.end.unwrap_or(u64::MAX).min(ring.next());
        if self.place < ring.first() {
            let first = ring.first().min(last);
            taken.push(missed(first - self.place));
            self.place = first;
        }
        let from = self.place;
        let last = last.min(from + LOOKED_AT);
        while self.place < last && taken.len() < TAKEN && self.left != Some(0) {
            let Some(record) = ring.get(self.place) else {
                break;
            };
            self.place += 1;
            let in_time = self.is_in_time(record);
            if in_time && self.kind.counts(record, about) {
                taken.push(record.clone());
                self.left = self.left.map(|left| left - 1);
            } else if in_time && self.kind.is_news(record) {
                taken.push(record.clone());
            }
        }
        let looked = self.place > from || !taken.is_empty();
        (taken, looked)
    }

    /// All of it as messages, until `stop`.
    pub(super) fn stream(self, stop: Stop) -> Stream<K::Message> {
        let kind = self.kind.clone();
        let about = self.observer.about();
        let observer = self.observer.clone();
        let ready: VecDeque<Record> = VecDeque::new();
        let state = (self, ready, about);
        stream::unfold(state, move |(mut reading, mut ready, mut about)| {
            let (kind, stop, observer) = (kind.clone(), stop.clone(), observer.clone());
            async move {
                loop {
                    while let Some(record) = ready.pop_front() {
                        if let Some(message) = kind.message(&record, &about) {
                            return Some((Ok(message), (reading, ready, about)));
                        }
                    }
                    ready = stop.or(reading.next()).await??.into();
                    about = observer.about();
                }
            }
        })
        .boxed()
    }
}

/// What a reader missed.
fn missed(count: u64) -> Record {
    Record {
        time: wall_clock(),
        what: What::Lost(LostEvent {
            source: LostEventSource::HubbleRingBuffer as i32,
            num_events_lost: count,
            cpu: None,
        }),
    }
}

impl Kind for Flows {
    type Message = GetFlowsResponse;

    fn lane(observer: &Observer) -> &Lane {
        observer.flows()
    }

    fn counts(&self, record: &Record, about: &About) -> bool {
        match &record.what {
            What::Packet(seen) => self.filters.passes(&Shown {
                seen,
                time: record.time,
                about,
            }),
            What::Flow(flow) => self.filters.passes(flow.as_ref()),
            What::Lost(_) | What::Agent(_) => false,
        }
    }

    fn is_news(&self, record: &Record) -> bool {
        matches!(record.what, What::Lost(_))
    }

    fn message(&self, record: &Record, about: &About) -> Option<GetFlowsResponse> {
        let whole;
        let flow = match &record.what {
            What::Packet(seen) => {
                whole = Shown {
                    seen,
                    time: record.time,
                    about,
                };
                Some(whole.to_flow())
            }
            What::Flow(flow) => Some(flow.to_flow().into_owned()),
            What::Lost(_) | What::Agent(_) => None,
        };
        let response = match (flow, &record.what) {
            (Some(flow), _) => ResponseTypes::Flow(match &self.mask {
                Some(mask) => mask.apply(&flow),
                None => flow,
            }),
            (None, What::Lost(lost)) => ResponseTypes::LostEvents(*lost),
            _ => return None,
        };
        Some(GetFlowsResponse {
            node_name: about.node_name.clone(),
            time: Some(timestamp(record.time)),
            response_types: Some(response),
        })
    }
}

impl Kind for Written {
    type Message = Bytes;

    fn lane(observer: &Observer) -> &Lane {
        Flows::lane(observer)
    }

    fn counts(&self, record: &Record, about: &About) -> bool {
        self.0.counts(record, about)
    }

    fn is_news(&self, record: &Record) -> bool {
        self.0.is_news(record)
    }

    /// The bytes of what [`Flows`] gives.
    fn message(&self, record: &Record, about: &About) -> Option<Bytes> {
        let mut flow = Vec::with_capacity(ROOM);
        match &record.what {
            What::Packet(seen) => Shown {
                seen,
                time: record.time,
                about,
            }
            .encode(&mut flow),
            What::Flow(whole) => flow = whole.encode_to_vec(),
            _ => return Some(self.0.message(record, about)?.encode_to_vec().into()),
        }
        if let Some(mask) = &self.0.mask {
            flow = mask.keep(&flow);
        }
        let mut out = Vec::with_capacity(flow.len() + about.node_name.len() + 32);
        encode_key(1, WireType::LengthDelimited, &mut out);
        encode_varint(flow.len() as u64, &mut out);
        out.extend_from_slice(&flow);
        string::encode(1000, &about.node_name, &mut out);
        message::encode(1001, &timestamp(record.time), &mut out);
        Some(out.into())
    }
}

impl Kind for AgentEvents {
    type Message = GetAgentEventsResponse;

    fn lane(observer: &Observer) -> &Lane {
        observer.events()
    }

    fn counts(&self, record: &Record, _: &About) -> bool {
        matches!(record.what, What::Agent(_))
    }

    fn is_news(&self, _: &Record) -> bool {
        false
    }

    fn message(&self, record: &Record, about: &About) -> Option<GetAgentEventsResponse> {
        let What::Agent(event) = &record.what else {
            return None;
        };
        Some(GetAgentEventsResponse {
            agent_event: Some(event.as_ref().clone()),
            node_name: about.node_name.clone(),
            time: Some(timestamp(record.time)),
        })
    }
}
