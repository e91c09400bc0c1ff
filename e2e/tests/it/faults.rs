//! What happens when something is missing: addresses, the agent, the API server.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use api::{ErrorCode, IpamRequest};
use hypha_e2e::cluster::{Cluster, pod_yaml};
use hypha_e2e::kernel;
use hypha_e2e::load::{Load, Route};
use hypha_e2e::plugin::{Plugin, addresses};
use nix::sys::signal::Signal;
use testkit::{skip_unless_root, wait_until};

const SOON: Duration = Duration::from_secs(10);
/// Codes of the plugin's errors.
const TRY_AGAIN: u64 = 11;
const EXHAUSTED: u64 = 102;

/// Takes every free IPv4 address of a node.
fn take_all(cluster: &Cluster, node: &str) -> Vec<IpAddr> {
    let request = IpamRequest {
        owner: "default/filler".into(),
        families: Vec::new(),
        expire_seconds: None,
        attachment: None,
    };
    let mut agent = cluster.agent(node);
    let mut taken = Vec::new();
    loop {
        match agent.allocate(&request) {
            Ok(given) => taken.push(given.ipv4.expect("an IPv4 address").ip.into()),
            Err(error) => {
                assert_eq!(error.code(), Some(ErrorCode::PoolExhausted), "{error}");
                return taken;
            }
        }
        assert!(taken.len() < 1000, "a /24 does not end");
    }
}

/// What must be as before: links, pins, namespaces, routes.
#[track_caller]
fn assert_same(before: &BTreeSet<String>, cluster: &Cluster, node: &str) {
    let same = || (kernel::inventory(cluster, node) == *before).then_some(());
    let end = std::time::Instant::now() + SOON;
    while same().is_none() {
        if std::time::Instant::now() > end {
            let after = kernel::inventory(cluster, node);
            let (more, less) = (
                after.difference(before).collect::<Vec<_>>(),
                before.difference(&after).collect::<Vec<_>>(),
            );
            panic!("left over: {more:#?}\nmissing: {less:#?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn e2e_fault_no_address_left() {
    if skip_unless_root() {
        return;
    }
    let cluster = Cluster::up("e2e-full", &["--nodes", "1", "--ipv4"]);
    let taken = take_all(&cluster, "node1");
    assert!(taken.len() > 200, "a /24 has {} addresses", taken.len());
    let before = kernel::inventory(&cluster, "node1");

    let plugin = Plugin::on(&cluster, "node1");
    let sandbox = plugin.sandbox("full");
    let refused = plugin.call("ADD", &sandbox).unwrap_err();
    assert!(
        refused.code == EXHAUSTED && refused.text.contains("10.244.1.0/24"),
        "{refused:?}"
    );
    plugin.call("DEL", &sandbox).unwrap();
    plugin.forget(&sandbox);

    assert!(cluster.lab.try_apply(&pod_yaml("late", "node1")).ok());
    let warning = wait_until("an event about the pod", SOON, || {
        cluster.warnings("late").into_iter().next()
    });
    for part in ["FailedCreatePodSandBox", "10.244.1.0/24", "(code 102)"] {
        assert!(warning.contains(part), "{warning}");
    }
    // The kubelet goes on trying; between two attempts there is nothing.
    assert_same(&before, &cluster, "node1");

    let mut agent = cluster.agent("node1");
    for ip in &taken {
        agent.release(*ip).unwrap();
    }
    cluster.lab.apply(&pod_yaml("late", "node1"));
    cluster.lab.delete_pod("late");
    assert_same(&before, &cluster, "node1");
    cluster.assert_clean();
}

#[test]
fn e2e_fault_add_twice_and_del_of_nobody() {
    if skip_unless_root() {
        return;
    }
    let cluster = Cluster::up("e2e-twice", &["--nodes", "1"]);
    let plugin = Plugin::on(&cluster, "node1");
    let before = kernel::inventory(&cluster, "node1");
    let sandbox = plugin.sandbox("twice");
    let result = plugin.call("ADD", &sandbox).unwrap();
    assert_eq!(addresses(&result).len(), 2, "{result}");
    let again = plugin.call("ADD", &sandbox).unwrap_err();
    assert!(!again.text.is_empty() && again.code >= 100, "{again:?}");
    // The first one is as it was.
    let mut checked = plugin.config.clone();
    checked["prevResult"] = result.clone();
    let check = plugin.raw("CHECK", Some(&sandbox), &[], checked.to_string().as_bytes());
    assert!(
        check.status.success(),
        "{}",
        String::from_utf8_lossy(&check.stdout)
    );
    for ip in addresses(&result) {
        cluster.lab.sh("node1", &format!("ping -c1 -W2 {ip}"));
    }
    assert_eq!(cluster.agent("node1").endpoints().unwrap().len(), 1);
    for _ in 0..2 {
        plugin.call("DEL", &sandbox).unwrap();
    }
    plugin.forget(&sandbox);
    // Nobody ever heard of this one, and its namespace is not there.
    plugin
        .call(
            "DEL",
            &hypha_e2e::plugin::Sandbox {
                id: "nobody".into(),
                netns: "/run/netns/none".into(),
                pod: "none".into(),
            },
        )
        .unwrap();
    assert_same(&before, &cluster, "node1");
    cluster.assert_clean();
}

#[test]
fn e2e_fault_agent_down() {
    if skip_unless_root() {
        return;
    }
    let cluster = Cluster::up("e2e-down", &["--nodes", "1"]);
    let plugin = Plugin::on(&cluster, "node1");
    let before = kernel::inventory(&cluster, "node1");
    let (old, new) = (plugin.sandbox("old"), plugin.sandbox("new"));
    plugin.call("ADD", &old).unwrap();
    cluster.lab.stop_agent("node1");
    wait_until("the agent's end", SOON, || {
        cluster.agent_process("node1").is_none().then_some(())
    });

    let refused = plugin.call("ADD", &new).unwrap_err();
    assert_eq!(refused.code, TRY_AGAIN, "{refused:?}");
    assert!(
        refused.text.contains("cilium.sock"),
        "it says what to look at: {refused:?}"
    );
    plugin.call("DEL", &old).unwrap();
    plugin.call("DEL", &new).unwrap();
    let now = kernel::inventory(&cluster, "node1");
    assert!(
        !now.iter().any(|line| line.starts_with("link lxc")),
        "the device goes without the agent: {now:#?}"
    );
    assert!(
        now.iter().any(|line| line.starts_with("queued ")),
        "the deletion waits for the agent: {now:#?}"
    );
    for sandbox in [&old, &new] {
        plugin.forget(sandbox);
    }
    assert!(cluster.lab.try_apply(&pod_yaml("waits", "node1")).ok());
    let warning = wait_until("an event about the pod", SOON, || {
        cluster.warnings("waits").into_iter().next()
    });
    assert!(warning.contains("(code 11)"), "{warning}");

    cluster.lab.start_agent("node1");
    cluster.wait_replaced("node1", None);
    // Waits for the pod to be ready.
    cluster.lab.apply(&pod_yaml("waits", "node1"));
    let endpoints = cluster.agent("node1").endpoints().unwrap();
    assert_eq!(
        endpoints.len(),
        1,
        "the deletion was replayed: {endpoints:?}"
    );
    cluster.lab.delete_pod("waits");
    assert_same(&before, &cluster, "node1");
    cluster.assert_clean();
}

/// The agent restarts while the API server does not answer it: what ran goes on, and new pods start.
#[test]
fn e2e_fault_api_server_gone() {
    if skip_unless_root() {
        return;
    }
    let cluster = Cluster::up("e2e-noapi", &["--nodes", "2", "--sample"]);
    let (near, far) = (cluster.pod("echo-node2-a"), cluster.pod("echo-node1-a"));
    let load = Load::start(&[
        Route::new(&far, &near, true),
        Route::new(&far, &near, false),
        Route::new(&near, &cluster.host("router"), true),
        Route::new(&near, &cluster.pod("echo-node2-b"), false),
    ]);
    let rule = "to 192.168.10.100 ipproto tcp dport 6443 prohibit";
    cluster
        .lab
        .sh("node2", &format!("ip rule add pref 1 {rule}"));
    for _ in 0..3 {
        let old = cluster.kill_agent("node2");
        wait_until("the new agent serves", SOON, || {
            let process = cluster
                .agent_process("node2")
                .filter(|process| *process != old)?;
            let endpoints = cluster.agent("node2").endpoints().ok()?;
            assert!(process.alive());
            (endpoints.len() == 2).then_some(())
        });
    }
    let status = cluster.agent("node2").healthz().unwrap();
    let told = |part: &api::Component| {
        part.name.starts_with("kubernetes/")
            && part.state != api::ComponentState::Ok
            && part.message.contains("API server")
    };
    assert!(
        status.components.iter().any(told),
        "the status does not say that the API server is gone: {:#?}",
        status.components
    );
    // Addresses and programs are there: a new pod needs no API server.
    let plugin = Plugin::on(&cluster, "node2");
    let sandbox = plugin.sandbox("new");
    let result = plugin.call("ADD", &sandbox).unwrap();
    for ip in addresses(&result) {
        let ip: IpAddr = ip.parse().unwrap();
        let any: IpAddr = if ip.is_ipv4() {
            [0; 4].into()
        } else {
            [0; 16].into()
        };
        assert!(
            near.netns
                .run(|| UdpSocket::bind((any, 0)).and_then(|socket| socket.connect((ip, 9))))
                .unwrap()
                .is_ok()
        );
        cluster.lab.sh("node2", &format!("ping -c1 -W2 {ip}"));
    }
    plugin.call("DEL", &sandbox).unwrap();
    plugin.forget(&sandbox);
    cluster
        .lab
        .sh("node2", &format!("ip rule del pref 1 {rule}"));
    cluster.wait_replaced("node2", None);
    load.finish()
        .assert_whole(&cluster, "3 kills without an API server");
    cluster.assert_clean();
    cluster.assert_connected(&[]);
}

/// The API server is out of reach of a node for a while: traffic goes on, pods come and go, and the agent catches up without
/// being started again.
fn api_server_away(duration: Duration) {
    let cluster = Cluster::up("e2e-away", &["--nodes", "2", "--sample"]);
    let (near, far) = (cluster.pod("echo-node2-a"), cluster.pod("echo-node1-a"));
    let load = Load::start(&[
        Route::new(&far, &near, true),
        Route::new(&near, &far, false),
        Route::new(&near, &cluster.host("router"), true),
    ]);
    let agent = cluster.agent_process("node2").expect("an agent runs");
    let plugin = Plugin::on(&cluster, "node2");
    let early = plugin.sandbox("early");
    plugin.call("ADD", &early).unwrap();
    let rule = "to 192.168.10.100 ipproto tcp dport 6443 prohibit";
    cluster
        .lab
        .sh("node2", &format!("ip rule add pref 1 {rule}"));
    // The other node has the API server: what happens there is news that does not reach this one.
    cluster.lab.delete_pod("echo-node1-b");
    cluster.lab.apply(&pod_yaml("late", "node1"));
    plugin
        .call("DEL", &early)
        .expect("a pod from before can go");
    let (start, mut live) = (std::time::Instant::now(), vec![]);
    for number in 0.. {
        let sandbox = plugin.sandbox(&format!("n{number}"));
        let result = plugin.call("ADD", &sandbox).expect("a pod can start");
        for ip in addresses(&result) {
            cluster.lab.sh("node2", &format!("ping -c1 -W2 {ip}"));
        }
        live.push(sandbox);
        if live.len() > 5 {
            let oldest = live.remove(0);
            plugin.call("DEL", &oldest).expect("a pod can go");
            plugin.forget(&oldest);
        }
        if start.elapsed() >= duration {
            break;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    cluster
        .lab
        .sh("node2", &format!("ip rule del pref 1 {rule}"));
    let late: Vec<IpAddr> = cluster.pod("late").ips;
    wait_until("the agent catches up", Duration::from_secs(40), || {
        let known = cluster.agent("node2").ips().ok()?;
        let knows = |ip: &IpAddr| known.iter().any(|entry| entry.prefix.addr() == *ip);
        late.iter().all(knows).then_some(())
    });
    for sandbox in live.iter().chain([&early]) {
        plugin.call("DEL", sandbox).unwrap();
        plugin.forget(sandbox);
    }
    cluster.wait_replaced("node2", None);
    assert_eq!(
        cluster.agent_process("node2"),
        Some(agent),
        "the same agent all the time"
    );
    let to = late[0];
    cluster
        .lab
        .sh("echo-node2-a", &format!("ping -c1 -W2 {to}"));
    load.finish()
        .assert_whole(&cluster, "a time without an API server");
    cluster.assert_clean();
    cluster.assert_connected(&[]);
}

/// Neither the kubelet nor the agent waits for an API server that takes connections and says nothing.
#[test]
fn e2e_fault_api_server_silent() {
    if skip_unless_root() {
        return;
    }
    let cluster = Cluster::up("e2e-silent", &["--nodes", "1", "--sample"]);
    let server = cluster.api_server_process().expect("an API server runs");
    assert!(server.signal(Signal::SIGSTOP));
    for _ in 0..2 {
        let old = cluster.kill_agent("node1");
        wait_until("the new agent serves", SOON, || {
            cluster
                .agent_process("node1")
                .filter(|process| *process != old)?;
            let endpoints = cluster.agent("node1").endpoints().ok()?;
            (endpoints.len() == 2).then_some(())
        });
    }
    let plugin = Plugin::on(&cluster, "node1");
    let sandbox = plugin.sandbox("new");
    plugin.call("ADD", &sandbox).expect("a pod can start");
    plugin.call("DEL", &sandbox).expect("a pod can go");
    assert!(server.signal(Signal::SIGCONT));
    cluster.wait_replaced("node1", None);
}

#[test]
fn e2e_fault_api_server_away() {
    if skip_unless_root() {
        return;
    }
    api_server_away(Duration::from_secs(8));
}

#[test]
#[ignore = "takes five minutes"]
fn e2e_fault_api_server_away_for_minutes() {
    if skip_unless_root() {
        return;
    }
    api_server_away(Duration::from_secs(240));
}
