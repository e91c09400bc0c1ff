//! Services on the way: at sockets against the pod's own address, from outside by a node's port, and both against what kube-proxy
//! would have the kernel do.
use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Command, Stdio},
};

use abi::{
    DsrDispatch, LbBackend4, LbBackend6, LbFrontend4, LbFrontend6, LbKey4, LbKey6, LbService,
    lb_algorithm, lb_flags,
};
use anyhow::{Context, Result, ensure};
use datapath::maps::LbMaps;
use netlink::netns::Netns;

use crate::{
    Args,
    filter::Filter,
    load::{Load, Target},
    report::Report,
    topology::{Family, Path, Side, Stage},
};

/// Services that a client of the others never asks for.
const SIZES: [usize; 4] = [1, 100, 1_000, 10_000];
const PORT: u16 = 80;
const NODE_PORT: u16 = 30_080;
const IP_TCP: u8 = 6;
const IP_UDP: u8 = 17;

/// Measures everything that the filter wants.
pub fn measure(args: &Args, report: &mut Report) -> Result<()> {
    sockets(args, report)?;
    scale(args, report)?;
    node_port(args, report)?;
    in_drivers(args, report)
}

fn wanted(filter: &Filter, prefix: &str, loads: &[Load]) -> Vec<Load> {
    let wants = |load: &&Load| filter.wants(&format!("{prefix}/{load}"));
    loads.iter().filter(wants).copied().collect()
}

/// A service's address against the pod's own, on one stage: what translation costs.
fn sockets(args: &Args, report: &mut Report) -> Result<()> {
    for path in [Path::SameNode, Path::Native] {
        for family in Family::ALL {
            let prefix = format!("services/socket/{path}/{family}");
            let loads = wanted(
                &args.filter,
                &prefix,
                &[Load::Crr, Load::Urr, Load::TcpStream],
            );
            if loads.is_empty() {
                continue;
            }
            let stage = Stage::new(path, Side::Hypha)?;
            let group = Group::new(&stage)?;
            group.enter()?;
            let maps = stage.services(0)?;
            let direct = Target::of(&stage, family);
            let frontend = move |backend| serve(&maps, service(family, 0), backend, 1, 0);
            let served = Target::of(&stage, family).by(&frontend);
            for load in loads {
                let turns = args.turns().close();
                let name = format!("{prefix}/{load}");
                report.add(turns.between(name, load, &served, &direct)?);
            }
        }
    }
    Ok(())
}

/// Connections to one of many services: ours at sockets, the kernel's by rules as kube-proxy writes them.
fn scale(args: &Args, report: &mut Report) -> Result<()> {
    for count in SIZES {
        let name = format!("services/of-{count}/crr");
        if !args.filter.wants(&name) {
            continue;
        }
        let last = service(Family::V4, count - 1);
        let ours = Stage::new(Path::SameNode, Side::Hypha)?;
        let theirs = Stage::new(Path::SameNode, Side::Kernel)?;
        let group = Group::new(&ours)?;
        let maps = ours.services(0)?;
        let nobody = SocketAddr::new(ours.server.address(Family::V4), 9);
        for i in 0..count - 1 {
            serve(&maps, service(Family::V4, i), nobody, i as u16 + 2, 0)?;
        }
        let frontend = |backend| {
            group.enter()?;
            serve(&maps, last, backend, 1, 0)
        };
        // Sockets are translated wherever they are: the kernel's turn is not to be ours.
        let rules = |backend: SocketAddr| {
            group.leave()?;
            kube_proxy(theirs.node(0), count, last, backend)
        };
        let served = Target::of(&ours, Family::V4).by(&frontend);
        let by_rules = Target::of(&theirs, Family::V4).by(&rules);
        report.add(args.turns().between(name, Load::Crr, &served, &by_rules)?);
    }
    Ok(())
}

/// From outside by a node's port to a pod of another node: ours at the node's device, the kernel's by rules.
fn node_port(args: &Args, report: &mut Report) -> Result<()> {
    for (mode, flags) in [("snat", 0), ("dsr", lb_flags::DSR)] {
        let prefix = format!("services/node-port/{mode}");
        let loads = wanted(&args.filter, &prefix, &[Load::Rr, Load::Crr, Load::Udp64]);
        if loads.is_empty() {
            continue;
        }
        let (ours, theirs) = (
            Stage::with(Path::Native, Side::Hypha, DsrDispatch::Option)?,
            Stage::new(Path::Native, Side::Kernel)?,
        );
        let (our_client, their_client) = (ours.outside()?, theirs.outside()?);
        let at = |stage: &Stage| SocketAddr::new(stage.node_address(Family::V4), NODE_PORT);
        let (maps, here) = (ours.services(0)?, at(&ours));
        let flags = flags | lb_flags::NODE_PORT | lb_flags::ROUTABLE;
        let frontend = move |backend| serve(&maps, here, backend, 1, flags);
        let rules = |backend: SocketAddr| kube_proxy(theirs.node(0), 1, at(&theirs), backend);
        let address = |stage: &Stage| stage.server.address(Family::V4);
        let served = Target::between(&our_client, &ours.server.netns, address(&ours)).by(&frontend);
        let by_rules =
            Target::between(&their_client, &theirs.server.netns, address(&theirs)).by(&rules);
        for load in loads {
            report.add(args.turns().between(
                format!("{prefix}/{load}"),
                load,
                &served,
                &by_rules,
            )?);
        }
    }
    Ok(())
}

/// As [`node_port`], by the programs in the drivers of the node's devices, against ours in the stack.
fn in_drivers(args: &Args, report: &mut Report) -> Result<()> {
    let prefix = "services/node-port/xdp";
    let loads = wanted(&args.filter, prefix, &[Load::Rr, Load::Crr, Load::Udp64]);
    if loads.is_empty() {
        return Ok(());
    }
    let (ours, theirs) = (
        Stage::for_drivers(Path::Native)?,
        Stage::for_drivers(Path::Native)?,
    );
    let (our_client, their_client) = (ours.outside()?, theirs.outside()?);
    ours.ready_cables(&our_client)?;
    theirs.ready_cables(&their_client)?;
    ours.accelerate()?;
    let frontend = |stage: &Stage| {
        let at = SocketAddr::new(stage.node_address(Family::V4), NODE_PORT);
        let maps = stage.services(0)?;
        let flags = lb_flags::NODE_PORT | lb_flags::ROUTABLE;
        anyhow::Ok(move |backend| serve(&maps, at, backend, 1, flags))
    };
    let (in_driver, in_stack) = (frontend(&ours)?, frontend(&theirs)?);
    let address = |stage: &Stage| stage.server.address(Family::V4);
    let by_driver = Target::between(&our_client, &ours.server.netns, address(&ours)).by(&in_driver);
    let by_stack =
        Target::between(&their_client, &theirs.server.netns, address(&theirs)).by(&in_stack);
    for load in loads {
        let name = format!("{prefix}/{load}");
        report.add(args.turns().between(name, load, &by_driver, &by_stack)?);
    }
    Ok(())
}

/// Address of the `i`th service.
fn service(family: Family, i: usize) -> SocketAddr {
    let i = i as u32 + 1;
    let ip: IpAddr = match family {
        Family::V4 => Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + i).into(),
        Family::V6 => std::net::Ipv6Addr::from((0xfd00_0096_u128 << 96) + u128::from(i)).into(),
    };
    SocketAddr::new(ip, PORT)
}

/// Writes the rows of a frontend with one backend, for TCP and UDP; its address.
fn serve(
    maps: &LbMaps,
    frontend: SocketAddr,
    backend: SocketAddr,
    id: u16,
    flags: u16,
) -> Result<SocketAddr> {
    let (port, to) = (frontend.port().to_be_bytes(), backend.port().to_be_bytes());
    let master = LbService {
        count: 1,
        id,
        flags,
        algorithm: lb_algorithm::RANDOM,
        ..LbService::default()
    };
    let number = u32::from(id);
    let slot = LbService {
        backend: number,
        ..LbService::default()
    };
    /// Writes one row, which must fit.
    macro_rules! put {
        ($map:expr, $key:expr, $value:expr) => {
            ensure!(
                $map.put_all(&[($key, $value)]).map_err(|(_, e)| e)? == 1,
                "map {} is full",
                $map.name()
            )
        };
    }
    /// The rows of one family.
    macro_rules! rows {
        ($maps:expr, $key:ident, $backend:ident, $frontend:ident, $at:expr, $server:expr) => {{
            let key = |port, proto, slot| $key {
                addr: $at.octets(),
                port,
                proto,
                scope: 0,
                slot,
                pad: 0,
            };
            put!(
                $maps.reverse,
                id,
                $frontend {
                    addr: $at.octets(),
                    port,
                    id
                }
            );
            for proto in [IP_TCP, IP_UDP] {
                let row = $backend {
                    addr: $server.octets(),
                    port: to,
                    proto,
                    state: 0,
                };
                put!($maps.backends, number, row);
                put!($maps.services, key(port, proto, 1), slot);
                put!($maps.services, key(port, proto, 0), master);
            }
            put!($maps.services, key([0; 2], 0, 0), LbService::default());
        }};
    }
    match (frontend.ip(), backend.ip()) {
        (IpAddr::V4(at), IpAddr::V4(to_ip)) => {
            rows!(maps.v4, LbKey4, LbBackend4, LbFrontend4, at, to_ip)
        }
        (IpAddr::V6(at), IpAddr::V6(to_ip)) => {
            rows!(maps.v6, LbKey6, LbBackend6, LbFrontend6, at, to_ip)
        }
        _ => anyhow::bail!("{frontend} and {backend} are of different families"),
    }
    Ok(frontend)
}

/// Writes the rules of so many services of which the last one is `frontend`, in the shape that kube-proxy gives them: one chain that is walked
/// to the service, one of the service, one of its endpoint. IPv4 only.
fn kube_proxy(
    node: &Netns,
    count: usize,
    frontend: SocketAddr,
    backend: SocketAddr,
) -> Result<SocketAddr> {
    let mut rules = String::from(
        "*nat\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\n:KUBE-SERVICES -\n:KUBE-POSTROUTING -\n\
         -A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n\
         -A KUBE-POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE\n",
    );
    for i in 0..count {
        let is_last = i + 1 == count;
        let at = if is_last {
            frontend
        } else {
            service(Family::V4, i)
        };
        let to = if is_last {
            backend
        } else {
            SocketAddr::new(backend.ip(), 9)
        };
        let (ip, port) = (at.ip(), at.port());
        for proto in ["tcp", "udp"] {
            let (svc, sep) = (
                format!("KUBE-SVC-{proto}-{i}"),
                format!("KUBE-SEP-{proto}-{i}"),
            );
            let _ = write!(
                rules,
                ":{svc} -\n:{sep} -\n-A KUBE-SERVICES -d {ip}/32 -p {proto} -m {proto} --dport {port} -j {svc}\n"
            );
            if port == NODE_PORT {
                let _ = writeln!(rules, "-A {svc} -j MARK --set-xmark 0x4000/0x4000");
            }
            let _ = writeln!(rules, "-A {svc} -j {sep}");
            let _ = writeln!(
                rules,
                "-A {sep} -p {proto} -m {proto} -j DNAT --to-destination {to}"
            );
        }
    }
    rules.push_str("COMMIT\n");
    node.run(|| restore(&rules))??;
    Ok(frontend)
}

fn restore(rules: &str) -> Result<()> {
    let mut child = Command::new("iptables-legacy-restore")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("iptables-legacy-restore")?;
    let mut input = child.stdin.take().context("its input")?;
    std::io::Write::write_all(&mut input, rules.as_bytes())?;
    drop(input);
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "iptables-legacy-restore: {said}");
    Ok(())
}

/// A cgroup for this process, in which the programs of a stage's first node translate what sockets do; it goes with the value.
struct Group {
    path: PathBuf,
    home: PathBuf,
}

impl Group {
    fn new(stage: &Stage) -> Result<Self> {
        let root = fs::read_to_string("/proc/mounts")?
            .lines()
            .find_map(|line| {
                let mut words = line.split(' ').skip(1);
                let (path, kind) = (words.next()?, words.next()?);
                (kind == "cgroup2").then(|| PathBuf::from(path))
            })
            .context("no cgroup2 file system is mounted")?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
        let group = Self {
            path: root.join(format!("hypha-bench-{}", std::process::id())),
            home: root.join(own.unwrap_or_default()),
        };
        fs::create_dir_all(&group.path).context("cannot make a cgroup")?;
        stage.attach_sockets(&group.path)?;
        Ok(group)
    }

    fn enter(&self) -> Result<()> {
        fs::write(self.path.join("cgroup.procs"), "0").context("cannot join a cgroup")
    }

    fn leave(&self) -> Result<()> {
        fs::write(self.home.join("cgroup.procs"), "0").context("cannot leave a cgroup")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.leave();
        let _ = fs::remove_dir(&self.path);
    }
}
