//! No moment in between: traffic hammers while something changes, and what may never pass never does, and what may always
//! does.

use std::io::{ErrorKind, Read, Write};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use hypha_e2e::policy::hammer::{Account, Hammer, Ports};
use hypha_e2e::policy::objects::{Server, cnp, wait_in_force};
use hypha_e2e::policy::probe;
use hypha_e2e::policy::stage::{Actor, Stage};
use serde_json::{Value, json};
use testkit::{skip_unless_root, wait_until};

/// Port of the hammers; the policies of this file name it.
const PORT: u16 = 7300;
const SOON: Duration = Duration::from_secs(20);

struct Scene {
    stage: Stage,
    server: Server,
}

impl Scene {
    #[track_caller]
    fn up(prefix: &str) -> Self {
        let stage = Stage::up(prefix, &[]);
        let server = Server::of(&stage);
        Self { stage, server }
    }

    fn actor(&self, name: &str) -> &Actor {
        &self.stage.actors[self.stage.find(name)]
    }

    #[track_caller]
    fn hammer(&self, from: &str, to: &str, port: u16, ports: Ports) -> Hammer {
        let (from, to) = (self.actor(from), self.actor(to));
        let name = format!("{} → {} {ports:?}", from.name, to.name);
        let target = to.ip(true).expect("an IPv4 address");
        Hammer::start(&name, &from.netns, &to.netns, target, port, ports)
    }

    /// Web servers may send to databases of namespace `a`, by one connection and by many; clients may not.
    #[track_caller]
    fn hammers(&self) -> Hammers {
        Hammers {
            allowed: vec![
                self.hammer("a/x", "a/y", PORT, Ports::Fresh),
                self.hammer("a/x", "a/y", PORT + 1, Ports::One),
                self.hammer("b/x", "a/y", PORT + 2, Ports::Fresh),
            ],
            denied: vec![
                self.hammer("a/z", "a/y", PORT + 3, Ports::Fresh),
                self.hammer("a/z", "a/y", PORT + 4, Ports::One),
                self.hammer("c/z", "a/y", PORT + 5, Ports::Fresh),
            ],
        }
    }

    /// Puts a policy in force, and nothing else.
    #[track_caller]
    fn enforce(&self, objects: &[Value]) -> Vec<Value> {
        let created = self.server.create(objects);
        wait_in_force(&self.stage, &created);
        created
    }

    /// Sets labels of a pod.
    #[track_caller]
    fn label(&self, pod: &str, labels: &Value) {
        let (namespace, name) = pod.split_once('/').expect("namespace/name");
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name}});
        self.server
            .merge(&object, &json!({"metadata": {"labels": labels}}));
    }

    /// Waits until a pod's agent has this label in its identity, and policy says so everywhere.
    #[track_caller]
    fn wait_for_label(&self, pod: &str, label: &str) {
        let actor = self.actor(pod);
        let (namespace, name) = pod.split_once('/').expect("namespace/name");
        let mut agent = self.stage.cluster.agent(&actor.node);
        let mut identity = 0;
        wait_until(&format!("{pod} with {label}"), SOON, || {
            let endpoints = agent.endpoints().ok()?;
            let endpoint = endpoints
                .iter()
                .find(|e| e.pod.namespace == namespace && e.pod.name == name)?;
            identity = endpoint.identity;
            (endpoint.state.text() == "ready" && endpoint.labels.iter().any(|own| own == label))
                .then_some(())
        });
        for node in &self.stage.nodes {
            let mut agent = self.stage.cluster.agent(node);
            let ip = actor.ip(true).expect("an address");
            wait_until(&format!("{node} knows the identity of {pod}"), SOON, || {
                let known = agent.ips().ok()?;
                known
                    .iter()
                    .any(|row| row.prefix.addr() == ip && row.identity == identity)
                    .then_some(())
            });
        }
    }
}

struct Hammers {
    allowed: Vec<Hammer>,
    denied: Vec<Hammer>,
}

impl Hammers {
    #[track_caller]
    fn wait_for_more(&self, packets: u64) {
        for hammer in self.allowed.iter().chain(&self.denied) {
            hammer.wait_for_more(packets);
        }
    }

    /// Ends them: all that may pass did, nothing that may not.
    #[track_caller]
    fn finish(self, during: &str) {
        let denied: Vec<Account> = self.denied.into_iter().map(Hammer::finish).collect();
        let allowed: Vec<Account> = self.allowed.into_iter().map(Hammer::finish).collect();
        let sum = |accounts: &[Account]| accounts.iter().map(|account| account.sent).sum::<u64>();
        eprintln!(
            "{during}: {} packets that may pass, {} that may not",
            sum(&allowed),
            sum(&denied)
        );
        denied
            .iter()
            .for_each(|account| account.assert_nothing(during));
        allowed
            .iter()
            .for_each(|account| account.assert_all(during));
    }
}

/// Databases of namespace `a` answer web servers of any namespace.
fn policy(name: &str, more: &[Value]) -> Value {
    let mut ingress = vec![
        json!({"fromEndpoints": [{"matchLabels": {"app": "web", "k8s:io.cilium.k8s.policy.cluster": "default"},
        "matchExpressions": [{"key": "k8s:io.kubernetes.pod.namespace", "operator": "Exists"}]}]}),
    ];
    ingress.extend_from_slice(more);
    cnp(
        "a",
        name,
        &json!({"endpointSelector": {"matchLabels": {"app": "db"}}, "ingress": ingress}),
    )
}

/// Entries that let in somebody who does not exist, each with rows of its own.
fn noise(round: usize) -> Vec<Value> {
    (0..3)
        .map(|number| {
            let port = (8000 + round * 3 + number).to_string();
            json!({"fromEndpoints": [{"matchLabels": {"app": "client"}}], "toPorts": [{"ports": [{"port": port, "protocol": "UDP"}]}]})
        })
        .collect()
}

#[test]
fn e2e_policy_no_gap() {
    if skip_unless_root() {
        return;
    }
    let scene = Scene::up("e2e-gaps");
    let created = scene.enforce(&[policy("db", &[])]);
    for (what, change) in [
        ("policy replaced", replace as fn(&Scene)),
        ("unrelated policies come and go", unrelated),
        ("labels change that no policy names", churn),
        ("agents killed", restart),
    ] {
        let hammers = scene.hammers();
        hammers.wait_for_more(50);
        change(&scene);
        hammers.wait_for_more(50);
        hammers.finish(what);
    }
    scene.server.delete(&created);
    wait_in_force(&scene.stage, &[]);
    scene.stage.cluster.assert_clean();
}

fn replace(scene: &Scene) {
    for round in 0..20 {
        let new = policy("db", &noise(round));
        let merged = scene.server.merge(&new, &json!({"spec": new["spec"]}));
        wait_in_force(&scene.stage, &[merged]);
    }
}

fn unrelated(scene: &Scene) {
    let kept = scene.server.get(&policy("db", &[]));
    for round in 0..4 {
        let objects: Vec<Value> = (0..10)
            .map(|number| {
                let namespace = ["a", "b", "c"][number % 3];
                let spec = json!({"endpointSelector": {"matchLabels": {"app": "nobody"}}, "ingress": [{}], "egress": noise(round * 10 + number)
                    .into_iter().map(|mut entry| { entry["toEndpoints"] = entry["fromEndpoints"].take(); entry.as_object_mut().map(|e| e.remove("fromEndpoints")); entry }).collect::<Vec<_>>()});
                cnp(namespace, &format!("noise-{round}-{number}"), &spec)
            })
            .collect();
        let mut all = scene.server.create(&objects);
        all.push(kept.clone());
        wait_in_force(&scene.stage, &all);
        scene.server.delete(&objects);
        wait_in_force(&scene.stage, std::slice::from_ref(&kept));
    }
}

fn churn(scene: &Scene) {
    for round in 0..6 {
        for pod in ["a/x", "a/y", "a/z", "c/z"] {
            scene.label(pod, &json!({"round": format!("r{round}")}));
        }
        for pod in ["a/x", "a/y", "a/z", "c/z"] {
            scene.wait_for_label(pod, &format!("k8s:round=r{round}"));
        }
    }
}

fn restart(scene: &Scene) {
    for round in 0..3 {
        for node in &scene.stage.nodes {
            let old = scene.stage.cluster.kill_agent(node);
            scene.stage.cluster.wait_replaced(node, Some(&old));
        }
        let kept = scene.server.get(&policy("db", &[]));
        wait_in_force(&scene.stage, &[kept]);
        eprintln!("round {round} of killed agents is over");
    }
}

/// What a policy allowed no longer passes once it is gone: the next packet of a connection that lives, datagrams and TCP.
#[test]
fn e2e_policy_removed_allow_cuts_live_connections() {
    if skip_unless_root() {
        return;
    }
    let scene = Scene::up("e2e-cut");
    scene.enforce(&[policy("db", &[])]);
    let (from, to) = (scene.stage.find("b/x"), scene.stage.find("a/y"));
    let (mut client, mut server) =
        probe::connection(&scene.stage, from, to, true).expect("a connection that is allowed");
    client.write_all(b"before").unwrap();
    let mut seen = [0; 6];
    server.read_exact(&mut seen).unwrap();
    let one = scene.hammer("a/x", "a/y", PORT, Ports::One);
    let other = scene.hammer("b/x", "a/y", PORT + 1, Ports::One);
    one.wait_for_more(100);
    other.wait_for_more(100);

    let closed = cnp(
        "a",
        "db",
        &json!({"endpointSelector": {"matchLabels": {"app": "db"}}, "ingress": [{}]}),
    );
    let merged = scene
        .server
        .merge(&closed, &json!({"spec": {"ingress": [{}]}}));
    wait_in_force(&scene.stage, &[merged]);
    // What is sent from now on is sent after the change.
    let since = [one.sent() + 1, other.sent() + 1];
    client.write_all(b"after").unwrap();
    one.wait_for_more(200);
    other.wait_for_more(200);
    one.finish()
        .assert_cut_at(since[0], "an allow is removed, same node");
    other
        .finish()
        .assert_cut_at(since[1], "an allow is removed, other node");
    server
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let read = server.read(&mut seen).map_err(|error| error.kind());
    assert!(
        matches!(read, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)),
        "the connection goes on: {read:?}"
    );

    // Allowed again, the connection's own repetition comes through: nothing has to be opened anew.
    let opened = policy("db", &[]);
    let merged = scene
        .server
        .merge(&opened, &json!({"spec": opened["spec"]}));
    wait_in_force(&scene.stage, &[merged]);
    server.set_read_timeout(Some(SOON)).unwrap();
    server.read_exact(&mut seen[..5]).unwrap();
    assert_eq!(&seen[..5], b"after");
}

/// A pod that sends from its first moment on, under a policy that forbids it.
#[test]
fn e2e_policy_first_packet_of_a_pod() {
    if skip_unless_root() {
        return;
    }
    let scene = Scene::up("e2e-first");
    let locked = cnp(
        "a",
        "locked",
        &json!({"endpointSelector": {"matchLabels": {"app": "locked"}}, "egress": [{}]}),
    );
    let created = scene.enforce(&[locked]);
    let sink = scene.actor("a/y");
    let ip = sink.ip(true).expect("an IPv4 address");
    let socket = sink
        .netns
        .run(|| UdpSocket::bind((ip, PORT)))
        .unwrap()
        .unwrap();
    socket.set_nonblocking(true).unwrap();
    let names: Vec<String> = (0..6).map(|number| format!("eager-{number}")).collect();
    let pods: Vec<Value> = names
        .iter()
        .zip(scene.stage.nodes.iter().cycle())
        .map(|(name, node)| eager(name, node, &ip.to_string()))
        .collect();
    scene.server.create(&pods);
    for name in &names {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "a", "name": name}});
        wait_until(&format!("pod {name}"), SOON, || {
            (scene.server.get(&pod)["status"]["phase"] == "Running").then_some(())
        });
    }
    let end = Instant::now() + Duration::from_millis(500);
    let mut buffer = [0; 64];
    while Instant::now() < end {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            panic!(
                "{from} sent {:?} although it may not",
                String::from_utf8_lossy(&buffer[..length])
            );
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    // They do send: without the policy each is heard.
    scene.server.delete(&created);
    let mut heard = std::collections::BTreeSet::new();
    wait_until("every pod's packets", SOON, || {
        while let Ok((length, _)) = socket.recv_from(&mut buffer) {
            heard.insert(String::from_utf8_lossy(&buffer[..length]).trim().to_owned());
        }
        (heard.len() == names.len()).then_some(())
    });
}

/// A pod that sends its name again and again.
fn eager(name: &str, node: &str, ip: &str) -> Value {
    let script = format!("while true; do echo {name} > /dev/udp/{ip}/{PORT}; sleep 0.01; done");
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "a", "labels": {"app": "locked", "who": name}},
        "spec": {"nodeName": node, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "busybox", "command": ["bash", "-c", script]}]}})
}
