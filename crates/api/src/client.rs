//! The client: one unix stream, kept between requests.

use std::{
    collections::VecDeque,
    io,
    net::IpAddr,
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::sys::{
    socket::{
        AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket,
        sockopt::SendTimeout,
    },
    time::{TimeVal, TimeValLike},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    AgentStatus, ApiError, CaptureRequest, CheckReport, Endpoint, EndpointConfig, EndpointDeleted,
    EndpointRequest, ErrorCode, FqdnCleaned, FqdnLookup, FqdnNames, FqdnQuery, IdentityInfo,
    IpEntry, IpamRequest, IpamResponse, MapInfo, MapRow, MonitorEvent, MonitorQuery, NodeInfo,
    PolicyCheck, PolicyDiff, PolicyList, PolicyProposal, PolicyRevision, SelectorInfo, Setting,
    TableDump, TableInfo, Validate, Why, WhyQuery,
    http::{Connection, HttpError},
    path::{self, EndpointId},
};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_LIMIT: usize = 256 * 1024 * 1024;
const MAX_LINE: usize = 1024 * 1024;

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or not for us.
    #[error("cannot reach the agent at {}: {source} (is it running?)", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The agent was reached but the exchange broke off or took too long.
    #[error("{method} {path}: {op}: {source}")]
    Io {
        /// Method of the request.
        method: &'static str,
        /// Path of the request.
        path: String,
        /// What was attempted.
        op: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The answer is not what the API promises.
    #[error("{method} {path}: the answer cannot be read: {what}")]
    Answer {
        /// Method of the request.
        method: &'static str,
        /// Path of the request.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// The agent refused.
    #[error("{0}")]
    Api(#[from] ApiError),
}

impl ClientError {
    /// The agent could not be asked, or did not answer: nothing is known about the outcome.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Io { .. })
    }
    /// Whether the same request may succeed a little later.
    pub fn retry(&self) -> bool {
        match self {
            Self::Api(e) => e.retry,
            other => other.is_unreachable(),
        }
    }
    /// The agent's code, where it refused.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Api(e) => Some(e.code),
            _ => None,
        }
    }
}

/// A client of one agent. Requests go one after another over a stream that is kept; it is opened when first needed.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
    limit: usize,
    connection: Option<Connection>,
}

type Result<T, E = ClientError> = std::result::Result<T, E>;

impl Client {
    /// A client of the agent that listens at `socket`. Nothing is opened yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            timeout: DEFAULT_TIMEOUT,
            limit: DEFAULT_LIMIT,
            connection: None,
        }
    }
    /// With this time for a whole request, connecting included.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
    /// With this bound for the size of an answer.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }
    /// The socket it talks to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Any GET of the API.
    pub fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T> {
        let body = self.request("GET", path, None)?;
        read("GET", path, &body)
    }
    /// A GET whose body is handed on as it came.
    pub fn get_raw(&mut self, path: &str) -> Result<Vec<u8>> {
        self.request("GET", path, None)
    }
    /// Any POST of the API.
    pub fn post<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = self.request("POST", path, Some(&write("POST", path, body)?))?;
        read("POST", path, &body)
    }
    /// Any PUT of the API.
    pub fn put<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = self.request("PUT", path, Some(&write("PUT", path, body)?))?;
        read("PUT", path, &body)
    }
    /// Any PATCH of the API.
    pub fn patch<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize) -> Result<T> {
        let body = self.request("PATCH", path, Some(&write("PATCH", path, body)?))?;
        read("PATCH", path, &body)
    }
    /// Any DELETE of the API; the body of the answer is not looked at.
    pub fn delete(&mut self, path: &str) -> Result<()> {
        self.request("DELETE", path, None).map(drop)
    }

    /// The agent's state.
    pub fn healthz(&mut self) -> Result<AgentStatus> {
        self.get(path::HEALTHZ)
    }
    /// All settings.
    pub fn config(&mut self) -> Result<Vec<Setting>> {
        self.get(path::CONFIG)
    }
    /// Takes addresses.
    pub fn allocate(&mut self, request: &IpamRequest) -> Result<IpamResponse> {
        let response: IpamResponse = self.post(path::IPAM, request)?;
        response
            .validate()
            .map_err(|e| answer("POST", path::IPAM, e.message))?;
        Ok(response)
    }
    /// Gives an address back.
    pub fn release(&mut self, ip: IpAddr) -> Result<()> {
        self.delete(&path::ipam(ip))
    }
    /// Makes an endpoint; the answer comes once the kernel enforces it.
    pub fn put_endpoint(&mut self, id: &EndpointId, request: &EndpointRequest) -> Result<Endpoint> {
        self.put(&path::endpoint(id), request)
    }
    /// All endpoints of the node.
    pub fn endpoints(&mut self) -> Result<Vec<Endpoint>> {
        self.get(path::ENDPOINT)
    }
    /// One endpoint.
    pub fn endpoint(&mut self, id: &EndpointId) -> Result<Endpoint> {
        self.get(&path::endpoint(id))
    }
    /// The options of an endpoint.
    pub fn endpoint_config(&mut self, id: &EndpointId) -> Result<EndpointConfig> {
        self.get(&path::endpoint_config(id))
    }
    /// Changes options of an endpoint; all options. The answer comes once the kernel has it.
    pub fn set_endpoint_config(
        &mut self,
        id: &EndpointId,
        config: &EndpointConfig,
    ) -> Result<EndpointConfig> {
        self.patch(&path::endpoint_config(id), config)
    }
    /// Removes an endpoint and gives its addresses back.
    pub fn delete_endpoint(&mut self, id: &EndpointId) -> Result<EndpointDeleted> {
        let path = path::endpoint(id);
        let body = self.request("DELETE", &path, None)?;
        Ok(read::<Option<EndpointDeleted>>("DELETE", &path, &body)?.unwrap_or_default())
    }
    /// Removes all endpoints of a container.
    pub fn delete_endpoints_of(&mut self, container: &str) -> Result<()> {
        self.delete(&path::endpoints_of(container))
    }
    /// The kernel maps.
    pub fn maps(&mut self) -> Result<Vec<MapInfo>> {
        self.get(path::MAP)
    }
    /// The entries of a map.
    pub fn map(&mut self, name: &str) -> Result<Vec<MapRow>> {
        self.get(&path::map(name))
    }
    /// What is known about addresses.
    pub fn ips(&mut self) -> Result<Vec<IpEntry>> {
        self.get(path::IP)
    }
    /// The nodes of the cluster.
    pub fn nodes(&mut self) -> Result<Vec<NodeInfo>> {
        self.get(path::NODES)
    }
    /// The agent's tables.
    pub fn tables(&mut self) -> Result<Vec<TableInfo>> {
        self.get(path::STATEDB)
    }
    /// The rows of a table.
    pub fn table(&mut self, name: &str) -> Result<TableDump> {
        self.get(&path::table(name))
    }
    /// All policies.
    pub fn policies(&mut self) -> Result<PolicyList> {
        self.get(path::POLICY)
    }
    /// Names that pods were told of.
    pub fn fqdn_cache(&mut self, query: &FqdnQuery) -> Result<Vec<FqdnLookup>> {
        self.get(&path::fqdn_cache(query))
    }
    /// Forgets such names.
    pub fn clean_fqdn_cache(&mut self, query: &FqdnQuery) -> Result<FqdnCleaned> {
        let path = path::fqdn_cache(query);
        let body = self.request("DELETE", &path, None)?;
        read("DELETE", &path, &body)
    }
    /// Names and patterns that rules speak of.
    pub fn fqdn_names(&mut self) -> Result<FqdnNames> {
        self.get(path::FQDN_NAMES)
    }
    /// The selectors that policies use.
    pub fn selectors(&mut self) -> Result<Vec<SelectorInfo>> {
        self.get(path::POLICY_SELECTORS)
    }
    /// The revision of the policies.
    pub fn policy_revision(&mut self) -> Result<PolicyRevision> {
        self.get(path::POLICY_REVISION)
    }
    /// Why a packet passes or not.
    pub fn why(&mut self, query: &WhyQuery) -> Result<Why> {
        self.get(&query.to_path())
    }
    /// Whether policies are right, and whom they select.
    pub fn check_policy(&mut self, proposal: &PolicyProposal) -> Result<PolicyCheck> {
        self.post(path::POLICY_CHECK, proposal)
    }
    /// What policies would change.
    pub fn diff_policy(&mut self, proposal: &PolicyProposal) -> Result<PolicyDiff> {
        self.post(path::POLICY_DIFF, proposal)
    }
    /// All identities.
    pub fn identities(&mut self) -> Result<Vec<IdentityInfo>> {
        self.get(path::IDENTITY)
    }
    /// One identity.
    pub fn identity(&mut self, id: u32) -> Result<IdentityInfo> {
        self.get(&path::identity(id))
    }
    /// The consistency check.
    pub fn check(&mut self) -> Result<CheckReport> {
        self.get(path::CHECK)
    }

    /// Live events, over a stream of their own. The time-out counts until the first answer only.
    pub fn monitor(&self, query: &MonitorQuery) -> Result<Lines> {
        let path = query.to_path();
        Ok(Lines {
            connection: self.stream("GET", &path, None)?,
            path,
            rest: Vec::new(),
            ready: VecDeque::new(),
        })
    }

    /// Packets as a file that grows, over a stream of its own. The time-out counts until the first answer only.
    pub fn capture(&self, request: &CaptureRequest) -> Result<Pieces> {
        let body = write("POST", path::CAPTURE, request)?;
        let connection = self.stream("POST", path::CAPTURE, Some(&body))?;
        Ok(Pieces { connection })
    }

    /// A stream on which the answer has begun.
    fn stream(&self, method: &'static str, path: &str, body: Option<&[u8]>) -> Result<Connection> {
        let mut connection = self.connect(self.deadline())?;
        let fail = |e| http_error(method, path, e);
        connection.send(method, path, body).map_err(fail)?;
        let head = connection.head().map_err(fail)?;
        if !(200..300).contains(&head.status) {
            let body = connection.body(self.limit).map_err(fail)?;
            return Err(refusal(head.status, &body).into());
        }
        connection.set_deadline(None);
        Ok(connection)
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    fn request(
        &mut self,
        method: &'static str,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<Vec<u8>> {
        let deadline = self.deadline();
        loop {
            let mut connection = match self.connection.take() {
                Some(kept) => kept,
                None => self.connect(deadline)?,
            };
            connection.set_deadline(Some(deadline));
            match exchange(&mut connection, method, path, body, self.limit) {
                Ok((status, keep, body)) => {
                    self.connection = keep.then_some(connection);
                    return if (200..300).contains(&status) {
                        Ok(body)
                    } else {
                        Err(refusal(status, &body).into())
                    };
                }
                // The agent closed a kept stream between two requests. What may be repeated is repeated, once.
                Err(e) if connection.used && method != "POST" && closed_between(&e) => {}
                Err(e) => return Err(http_error(method, path, e)),
            }
        }
    }

    fn connect(&self, deadline: Instant) -> Result<Connection> {
        let failed = |source: io::Error| ClientError::Unreachable {
            path: self.socket.clone(),
            source,
        };
        let wait = deadline
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1));
        let wait = TimeVal::milliseconds(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
        let open = || -> nix::Result<UnixStream> {
            let fd = socket(
                AddressFamily::Unix,
                SockType::Stream,
                SockFlag::SOCK_CLOEXEC,
                None,
            )?;
            // Bounds the wait for a listener whose queue is full.
            setsockopt(&fd, SendTimeout, &wait)?;
            connect(fd.as_raw_fd(), &UnixAddr::new(&self.socket)?)?;
            Ok(UnixStream::from(fd))
        };
        let mut connection = Connection::new(open().map_err(|e| failed(e.into()))?);
        connection.set_deadline(Some(deadline));
        Ok(connection)
    }
}

fn exchange(
    connection: &mut Connection,
    method: &str,
    path: &str,
    body: Option<&[u8]>,
    limit: usize,
) -> Result<(u16, bool, Vec<u8>), HttpError> {
    connection.send(method, path, body)?;
    let head = connection.head()?;
    let body = connection.body(limit)?;
    Ok((head.status, head.keep_alive, body))
}

fn closed_between(error: &HttpError) -> bool {
    let HttpError::Io {
        source,
        fresh: true,
        ..
    } = error
    else {
        return false;
    };
    matches!(
        source.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

fn http_error(method: &'static str, path: &str, error: HttpError) -> ClientError {
    match error {
        HttpError::Io { op, source, .. } => ClientError::Io {
            method,
            path: path.to_owned(),
            op,
            source,
        },
        HttpError::Malformed(what) => answer(method, path, what),
        HttpError::TooLarge(limit) => {
            answer(method, path, format!("it is longer than {limit} bytes"))
        }
    }
}

fn answer(method: &'static str, path: &str, what: impl Into<String>) -> ClientError {
    ClientError::Answer {
        method,
        path: path.to_owned(),
        what: what.into(),
    }
}

/// The error in an answer that is not a success; a proxy's or a framework's own words where it is not ours.
fn refusal(status: u16, body: &[u8]) -> ApiError {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&body[..body.len().min(200)])
            .trim()
            .to_owned();
        let message = if text.is_empty() {
            format!("the agent answered with status {status}")
        } else {
            text
        };
        ApiError::new(ErrorCode::from_status(status), message)
    })
}

fn read<T: DeserializeOwned>(method: &'static str, path: &str, body: &[u8]) -> Result<T> {
    // An answer without a body reads as null, so that `()` can be asked for.
    let body = if body.is_empty() { b"null" } else { body };
    serde_json::from_slice(body).map_err(|e| answer(method, path, e.to_string()))
}

fn write(method: &'static str, path: &str, body: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(body)
        .map_err(|e| answer(method, path, format!("the request cannot be written: {e}")))
}

/// A file as it grows, piece by piece, until the agent ends it.
#[derive(Debug)]
pub struct Pieces {
    connection: Connection,
}

impl Iterator for Pieces {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.connection.piece().transpose()?;
        Some(piece.map_err(|e| http_error("POST", path::CAPTURE, e)))
    }
}

/// Live events, one per item, until the agent ends the stream.
#[derive(Debug)]
pub struct Lines {
    connection: Connection,
    path: String,
    rest: Vec<u8>,
    ready: VecDeque<Vec<u8>>,
}

impl Lines {
    /// How long the next item may take; an error of kind `TimedOut` tells that it took longer, and the stream goes on.
    pub fn wait_at_most(&mut self, wait: Option<Duration>) {
        self.connection
            .set_deadline(wait.map(|w| Instant::now() + w));
    }

    /// The next line as it came.
    pub fn next_raw(&mut self) -> Option<Result<Vec<u8>>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(Ok(line));
            }
            match self.connection.piece() {
                Ok(Some(piece)) => self.split(&piece),
                Ok(None) => return None,
                Err(e) => return Some(Err(http_error("GET", &self.path, e))),
            }
            if self.rest.len() > MAX_LINE {
                return Some(Err(answer(
                    "GET",
                    &self.path,
                    "a line is longer than 1 MiB",
                )));
            }
        }
    }

    fn split(&mut self, piece: &[u8]) {
        for part in piece.split_inclusive(|b| *b == b'\n') {
            self.rest.extend_from_slice(part);
            if self.rest.ends_with(b"\n") {
                let line = std::mem::take(&mut self.rest);
                if !line.trim_ascii().is_empty() {
                    self.ready.push_back(line);
                }
            }
        }
    }
}

impl Iterator for Lines {
    type Item = Result<MonitorEvent>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.next_raw()?;
        Some(line.and_then(|line| read("GET", &self.path, &line)))
    }
}
