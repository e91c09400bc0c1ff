//! Services as the node serves them, and the rows of their maps.
use super::{Answer, Refusal, Shared, blocking, policy::not_understood};
use crate::services::{kind, words};
use abi::{LbService, names};
use api::{ApiError, MapRow, ServiceInfo, ServiceList, ServiceWhy};
use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
};
use datapath::{Datapath, maps::LbFamily};
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};

/// `GET /v1/service`.
pub(super) async fn list(State(agent): Shared) -> Answer<Json<ServiceList>> {
    blocking(move || Ok(Json(agent.services.list()))).await
}

/// `GET /v1/service/{id}`.
pub(super) async fn one(State(agent): Shared, Path(id): Path<String>) -> Answer<Json<ServiceInfo>> {
    let number: u16 = id.parse().map_err(|_| {
        Refusal(
            ApiError::bad_request(format!("`{}` is no service", id.escape_default()))
                .detail("a number from 1 to 65535, as `hypha dbg service list` shows"),
        )
    })?;
    blocking(move || agent.services.one(number)).await.map(Json)
}

#[derive(Debug, Deserialize)]
pub(super) struct Question {
    frontend: String,
}

/// `GET /v1/service/why?frontend=…`.
pub(super) async fn why(
    State(agent): Shared,
    query: Result<Query<Question>, QueryRejection>,
) -> Answer<Json<Vec<ServiceWhy>>> {
    let Query(query) = query.map_err(|error| not_understood(&error))?;
    blocking(move || agent.services.why(&query.frontend))
        .await
        .map(Json)
}

/// The rows of one of the maps of services; none for another map.
pub(super) fn rows(datapath: &Datapath, name: &str) -> datapath::Result<Option<Vec<MapRow>>> {
    let maps = datapath.services()?;
    if name == names::LB_AFFINITY_MATCH {
        let mut rows = maps.affinity.dump()?;
        rows.sort_unstable();
        let row = |(key, _): &(abi::LbAffinityMatch, u8)| {
            let fields = json!({"id": key.id, "backend": key.backend});
            row(
                format!("frontend {}", key.id),
                format!("backend {}", key.backend),
                fields,
            )
        };
        return Ok(Some(rows.iter().map(row).collect()));
    }
    if let Some(rows) = family(&maps.v4, V4, name)? {
        return Ok(Some(rows));
    }
    family(&maps.v6, V6, name)
}

/// Names of the maps of a family: services, backends, reverse, source ranges, Maglev, skips, affinity, sockets.
const V4: [&str; 8] = [
    names::LB4_SERVICES,
    names::LB4_BACKENDS,
    names::LB4_REVERSE,
    names::LB4_SOURCE_RANGES,
    names::LB4_MAGLEV,
    names::SKIP_LB4,
    names::LB4_AFFINITY,
    names::LB4_REVERSE_SK,
];
const V6: [&str; 8] = [
    names::LB6_SERVICES,
    names::LB6_BACKENDS,
    names::LB6_REVERSE,
    names::LB6_SOURCE_RANGES,
    names::LB6_MAGLEV,
    names::SKIP_LB6,
    names::LB6_AFFINITY,
    names::LB6_REVERSE_SK,
];

/// What the rows of both families have in common.
trait Record: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + Copy {}
impl<T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + Copy> Record for T {}

/// A row's address, port and so on, whatever the family.
trait Places {
    fn place(&self) -> SocketAddr;
}

macro_rules! places {
    ($($type:ident)+) => {
        $(impl Places for abi::$type {
            fn place(&self) -> SocketAddr {
                SocketAddr::new(IpAddr::from(self.addr), u16::from_be_bytes(self.port))
            }
        })+
    };
}
places!(LbKey4 LbKey6 LbBackend4 LbBackend6 LbFrontend4 LbFrontend6 LbSockKey4 LbSockKey6 LbSkipKey4 LbSkipKey6);

trait ServiceKey: Places + Record + Ord {
    fn rest(&self) -> (u8, u8, u16);
}
trait BackendValue: Places + Record {
    fn rest(&self) -> (u8, u8);
}
trait FrontendValue: Places + Record {
    fn id(&self) -> u16;
}
trait SourceKey: Record + Ord {
    fn range(&self) -> (u16, String);
}
trait SkipKey: Places + Record + Ord {
    fn rest(&self) -> (u64, u8);
}
trait AffinityKey: Record {
    fn client(&self) -> (u16, String);
}
trait SockKey: Places + Record + Ord {
    fn cookie(&self) -> u64;
}

macro_rules! both {
    ($($v4:ident $v6:ident $trait:ident { $($body:tt)* })+) => {
        $(impl $trait for abi::$v4 { $($body)* }
        impl $trait for abi::$v6 { $($body)* })+
    };
}
both! {
    LbKey4 LbKey6 ServiceKey {
        fn rest(&self) -> (u8, u8, u16) { (self.proto, self.scope, self.slot) }
    }
    LbBackend4 LbBackend6 BackendValue {
        fn rest(&self) -> (u8, u8) { (self.proto, self.state) }
    }
    LbFrontend4 LbFrontend6 FrontendValue {
        fn id(&self) -> u16 { self.id }
    }
    LbSourceKey4 LbSourceKey6 SourceKey {
        fn range(&self) -> (u16, String) {
            let bits = self.prefix_len.saturating_sub(Self::FIXED_BITS);
            (self.id, format!("{}/{bits}", IpAddr::from(self.addr)))
        }
    }
    LbSkipKey4 LbSkipKey6 SkipKey {
        fn rest(&self) -> (u64, u8) { (self.netns, self.proto) }
    }
    LbSockKey4 LbSockKey6 SockKey {
        fn cookie(&self) -> u64 { self.cookie }
    }
}

impl AffinityKey for abi::LbAffinityKey4 {
    fn client(&self) -> (u16, String) {
        let [a, b, c, d, ..] = self.client;
        let text = match self.by_cookie {
            1 => format!("netns {}", u64::from_ne_bytes(self.client)),
            _ => IpAddr::from([a, b, c, d]).to_string(),
        };
        (self.id, text)
    }
}

impl AffinityKey for abi::LbAffinityKey6 {
    fn client(&self) -> (u16, String) {
        let [a, b, c, d, e, f, g, h, ..] = self.client;
        let text = match self.by_cookie {
            1 => format!("netns {}", u64::from_ne_bytes([a, b, c, d, e, f, g, h])),
            _ => IpAddr::from(self.client).to_string(),
        };
        (self.id, text)
    }
}

fn family<K, B, F, S, P, A, T>(
    maps: &LbFamily<K, B, F, S, P, A, T>,
    own: [&str; 8],
    name: &str,
) -> datapath::Result<Option<Vec<MapRow>>>
where
    K: ServiceKey,
    B: BackendValue,
    F: FrontendValue,
    S: SourceKey,
    P: SkipKey,
    A: AffinityKey,
    T: SockKey,
{
    let Some(which) = own.iter().position(|known| *known == name) else {
        return Ok(None);
    };
    let rows = match which {
        0 => sorted(maps.services.dump()?).iter().map(service).collect(),
        1 => sorted(maps.backends.dump()?).iter().map(backend).collect(),
        2 => sorted(maps.reverse.dump()?).iter().map(reverse).collect(),
        3 => sorted(maps.sources.dump()?).iter().map(source).collect(),
        4 => sorted(maps.maglev.dump()?).iter().map(maglev).collect(),
        5 => sorted(maps.skips.dump()?).iter().map(skip).collect(),
        6 => maps.affinity.dump()?.iter().map(affinity).collect(),
        _ => sorted(maps.sockets.dump()?).iter().map(socket).collect(),
    };
    Ok(Some(rows))
}

fn sorted<K: Ord, V>(mut rows: Vec<(K, V)>) -> Vec<(K, V)> {
    rows.sort_by(|a, b| a.0.cmp(&b.0));
    rows
}

fn row(key: String, value: String, fields: Value) -> MapRow {
    let fields = match fields {
        Value::Object(map) => map.into_iter().collect(),
        _ => Default::default(),
    };
    MapRow { key, value, fields }
}

fn protocol(number: u8) -> String {
    lb::input::Protocol::from_number(number)
        .map_or_else(|| number.to_string(), |known| known.to_string())
}

fn state(number: u8) -> String {
    lb::frontend::State::ALL
        .get(usize::from(number))
        .map_or_else(|| number.to_string(), |state| state.text().to_owned())
}

fn service<K: ServiceKey>((key, value): &(K, LbService)) -> MapRow {
    let (proto, scope, slot) = key.rest();
    let place = key.place();
    if proto == 0 && place.port() == 0 {
        let fields = json!({"address": place.ip()});
        return row(place.ip().to_string(), "has frontends".to_owned(), fields);
    }
    let inner = if scope == abi::lb_scope::INTERNAL {
        "/i"
    } else {
        ""
    };
    let frontend = format!("{place}/{}{inner}", protocol(proto));
    let key = format!("{frontend} ({slot})");
    if slot != 0 {
        let fields = json!({"frontend": frontend, "slot": slot, "backend": value.backend});
        return row(key, format!("backend {}", value.backend), fields);
    }
    let algorithm = match value.algorithm {
        abi::lb_algorithm::MAGLEV => "maglev",
        _ => "random",
    };
    let mut flags = words(value.flags);
    flags.insert(0, kind(value.flags));
    let fields = json!({
        "frontend": frontend, "slot": 0, "id": value.id, "count": value.count, "flags": flags, "algorithm": algorithm,
        "affinity": value.affinity, "serving": state(value.serving),
    });
    let text = format!(
        "id {} count {} [{}]",
        value.id,
        value.count,
        flags.join(", ")
    );
    row(key, text, fields)
}

fn backend<B: BackendValue>((id, value): &(u32, B)) -> MapRow {
    let (proto, number) = value.rest();
    let address = format!("{}/{}", value.place(), protocol(proto));
    let state = state(number);
    let fields = json!({"id": id, "address": address, "state": state});
    row(id.to_string(), format!("{address} ({state})"), fields)
}

fn reverse<F: FrontendValue>((id, value): &(u16, F)) -> MapRow {
    let address = value.place().to_string();
    let fields = json!({"id": id, "address": address});
    row(id.to_string(), address, fields)
}

fn source<S: SourceKey>((key, allow): &(S, u8)) -> MapRow {
    let (id, range) = key.range();
    let verdict = if *allow == 1 { "allow" } else { "deny" };
    let fields = json!({"id": id, "range": range, "verdict": verdict});
    row(format!("frontend {id} {range}"), verdict.to_owned(), fields)
}

fn maglev((key, value): &(abi::LbMaglevKey, abi::LbMaglevChunk)) -> MapRow {
    let backends: Vec<u32> = value.backends.to_vec();
    let first = u32::from(key.chunk) * abi::MAGLEV_CHUNK as u32;
    let fields = json!({"id": key.id, "first": first, "backends": backends});
    row(
        format!("frontend {} from place {first}", key.id),
        format!("{backends:?}"),
        fields,
    )
}

fn skip<P: SkipKey>((key, _): &(P, u8)) -> MapRow {
    let (netns, proto) = key.rest();
    let frontend = format!("{}/{}", key.place(), protocol(proto));
    let fields = json!({"netns": netns, "frontend": frontend});
    row(
        format!("netns {netns} {frontend}"),
        "not translated".to_owned(),
        fields,
    )
}

fn affinity<A: AffinityKey>((key, value): &(A, abi::LbAffinity)) -> MapRow {
    let (id, client) = key.client();
    let fields = json!({"id": id, "client": client, "backend": value.backend, "used": value.used});
    row(
        format!("frontend {id} client {client}"),
        format!("backend {} used {}", value.backend, value.used),
        fields,
    )
}

fn socket<T: SockKey, F: FrontendValue>((key, value): &(T, F)) -> MapRow {
    let (backend, frontend) = (key.place().to_string(), value.place().to_string());
    let fields =
        json!({"cookie": key.cookie(), "backend": backend, "frontend": frontend, "id": value.id()});
    row(
        format!("socket {} {backend}", key.cookie()),
        format!("{frontend} ({})", value.id()),
        fields,
    )
}
