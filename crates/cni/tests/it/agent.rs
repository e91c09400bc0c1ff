//! The smallest agent that the plugin can talk to: real allocation, real HTTP, endpoints in a map, no kernel.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::IpAddr,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use api::{
    AddressAllocation, AgentStatus, ApiError, ComponentState, DeviceMode, Endpoint,
    EndpointDeleted, EndpointRequest, EndpointState, ErrorCode, IpamRequest, IpamResponse,
    path::EndpointId,
};
use ipam::{NodeIpam, Owner, Release};

/// What the agent knows and how it misbehaves.
pub struct State {
    pub ipam: NodeIpam,
    pub endpoints: BTreeMap<String, Endpoint>,
    pub mode: DeviceMode,
    pub refuse_endpoints: Option<ApiError>,
    pub health: ComponentState,
    /// Says that it removes devices (and does not).
    pub removes_devices: bool,
    next_id: u16,
}

pub struct Agent {
    pub state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    socket: std::path::PathBuf,
}

type Answer = Result<String, ApiError>;

impl Agent {
    pub fn start(socket: &Path, v4: &str, v6: &str) -> Self {
        let mut ipam = NodeIpam::new();
        ipam.set_v4(Some(v4.parse().unwrap()));
        ipam.set_v6(Some(v6.parse().unwrap()));
        for ip in [ipam.v4().unwrap().first(), ipam.v6().unwrap().first()] {
            ipam.allocate_specific(ip, &"router".into()).unwrap();
        }
        let state = State {
            ipam,
            endpoints: BTreeMap::new(),
            mode: DeviceMode::Veth,
            refuse_endpoints: None,
            health: ComponentState::Ok,
            removes_devices: false,
            next_id: 100,
        };
        let agent = Self {
            state: Arc::new(Mutex::new(state)),
            stop: Arc::default(),
            socket: socket.to_owned(),
        };
        agent.listen();
        agent
    }

    fn listen(&self) {
        let _ = std::fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket).unwrap();
        let (state, stop) = (self.state.clone(), self.stop.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let state = state.clone();
                thread::spawn(move || serve(stream.unwrap(), &state));
            }
        });
    }

    /// Goes down as after a kill: the socket file stays, nobody listens.
    pub fn kill(&self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(&self.socket);
        while UnixStream::connect(&self.socket).is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn allocated(&self) -> usize {
        self.state.lock().unwrap().ipam.iter().count()
    }

    pub fn endpoints(&self) -> usize {
        self.state.lock().unwrap().endpoints.len()
    }
}

fn serve(stream: UnixStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let (method, path) = line
            .split_once(' ')
            .map(|(m, p)| (m.to_owned(), p.split(' ').next().unwrap().to_owned()))
            .unwrap();
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).unwrap();
            if header.trim().is_empty() {
                break;
            }
            length = header
                .strip_prefix("content-length: ")
                .map_or(length, |l| l.trim().parse().unwrap());
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let (status, text) = match route(&mut state.lock().unwrap(), &method, &path, &body) {
            Ok(text) => (200, text),
            Err(e) => (e.status(), json(&e)),
        };
        let answer = format!(
            "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        );
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

fn route(state: &mut State, method: &str, path: &str, body: &[u8]) -> Answer {
    let rest = path.strip_prefix("/v1/").unwrap();
    match (method, rest.split_once('/').unwrap_or((rest, ""))) {
        ("GET", ("healthz", _)) => Ok(json(&AgentStatus {
            state: state.health,
            ..AgentStatus::default()
        })),
        ("POST", ("ipam", _)) => allocate(state, &api::parse(body)?),
        ("DELETE", ("ipam", ip)) => match state.ipam.release_any(ip.parse::<IpAddr>().unwrap()) {
            Release::Released(_) => Ok(String::new()),
            _ => Err(ApiError::not_found(ip)),
        },
        ("GET", ("endpoint", "")) => Ok(json(&state.endpoints.values().collect::<Vec<_>>())),
        ("GET", ("endpoint", id)) => state
            .endpoints
            .get(id)
            .map(json)
            .ok_or_else(|| ApiError::not_found(id)),
        ("PUT", ("endpoint", id)) => put(state, id, api::parse(body)?),
        ("DELETE", ("endpoint", id)) => {
            state
                .endpoints
                .remove(id)
                .ok_or_else(|| ApiError::not_found(id))?;
            state.ipam.release_all_of(id);
            Ok(if state.removes_devices {
                json(&EndpointDeleted {
                    device_removed: true,
                })
            } else {
                String::new()
            })
        }
        _ => Err(ApiError::not_found(path)),
    }
}

fn allocate(state: &mut State, request: &IpamRequest) -> Answer {
    let owner = Owner::new(&request.owner, request.attachment.clone().unwrap());
    let families = state.ipam.families();
    let given = state
        .ipam
        .allocate(families, &owner, Duration::ZERO, None)
        .map_err(|e| ApiError::new(ErrorCode::PoolExhausted, e.to_string()))?;
    let first = |pool: Option<&ipam::Pool>| pool.map(|p| p.first());
    Ok(json(&IpamResponse {
        ipv4: given.v4.map(|ip| AddressAllocation {
            ip,
            pool: "default".into(),
        }),
        ipv6: given.v6.map(|ip| AddressAllocation {
            ip,
            pool: "default".into(),
        }),
        gateway4: first(state.ipam.v4()).map(|ip| ip.to_string().parse().unwrap()),
        gateway6: first(state.ipam.v6()).map(|ip| ip.to_string().parse().unwrap()),
        device_mtu: 1500,
        route_mtu: 1450,
        device_mode: state.mode,
    }))
}

fn put(state: &mut State, id: &str, request: EndpointRequest) -> Answer {
    if let Some(refusal) = &state.refuse_endpoints {
        return Err(refusal.clone());
    }
    assert!(matches!(id.parse().unwrap(), EndpointId::Attachment { .. }));
    if state.endpoints.contains_key(id) {
        return Err(ApiError::new(ErrorCode::Conflict, format!("{id} exists")));
    }
    for ip in [request.ipv4.map(IpAddr::V4), request.ipv6.map(IpAddr::V6)]
        .into_iter()
        .flatten()
    {
        state.ipam.put_to_use(ip, id).unwrap();
    }
    state.next_id += 1;
    let endpoint = Endpoint {
        id: state.next_id,
        state: EndpointState::Ready,
        message: String::new(),
        attachment: id.to_owned(),
        pod: request.pod,
        identity: 5,
        labels: vec![],
        ipv4: request.ipv4,
        ipv6: request.ipv6,
        netns: request.netns,
        host_ifname: request.host_ifname,
        host_ifindex: request.host_ifindex,
        host_mac: request.host_mac,
        container_ifname: request.container_ifname,
        container_mac: request.container_mac,
        policy_ingress: false,
        policy_egress: false,
        policy_audit: false,
        subject: 0,
        policy_revision: 0,
    };
    let text = json(&endpoint);
    state.endpoints.insert(id.to_owned(), endpoint);
    Ok(text)
}
