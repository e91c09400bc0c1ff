//! Agents that are killed, proxies that are replaced and killed, under requests and lookups that never pause: nobody notices the
//! first two, and after the third new ones are served soon. `HYPHA_L7_ROUNDS` says how often; 20 measures.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use hypha_e2e::cluster::{Cluster, Place, pod_yaml};
use hypha_e2e::load::{Asked, Asking, Load, Route};
use nix::sys::signal::Signal;
use testkit::{skip_unless_root, wait_until};

use crate::acceptance::shell::Shell;
use crate::layer7;

const SOON: Duration = Duration::from_secs(30);
/// Time between two questions of one kind.
const PACE: Duration = Duration::from_millis(25);
/// How long a process that is killed may go on with what it has begun.
const DYING: Duration = Duration::from_millis(20);
const NODES: [&str; 2] = ["node1", "node2"];
const NAME: &str = "deathstar.default.svc.cluster.local";

/// The pod that looks up names may do nothing else.
const LOOKUPS: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: lookups}
spec:
  endpointSelector: {matchLabels: {app: asker}}
  egress:
  - toEndpoints: [{matchLabels: {"k8s:io.kubernetes.pod.namespace": kube-system, k8s-app: kube-dns}}]
    toPorts:
    - ports: [{port: "53", protocol: ANY}]
      rules: {dns: [{matchPattern: "*.default.svc.cluster.local"}]}
"#;

/// How often agents and proxies are killed and replaced.
fn rounds() -> usize {
    std::env::var("HYPHA_L7_ROUNDS").map_or(1, |text| text.parse().expect("a number"))
}

/// What is asked for, from where, and what must be heard.
struct Question {
    /// The node whose proxy decides.
    node: String,
    kind: Kind,
    from: Place,
    to: IpAddr,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Allowed,
    Denied,
    Lookup,
}

impl Kind {
    fn wanted(self) -> &'static str {
        match self {
            Kind::Allowed => "Ship landed",
            Kind::Denied => "Access denied",
            Kind::Lookup => "rcode 0, 1 records",
        }
    }
}

impl Question {
    fn ask(&self) -> Asking {
        let http = |method, path| Asking::http(&self.from, self.to, method, path, PACE);
        match self.kind {
            Kind::Allowed => http("POST", "/v1/request-landing"),
            Kind::Denied => http("PUT", "/v1/exhaust-port"),
            Kind::Lookup => Asking::dns(&self.from, self.to, NAME, PACE),
        }
    }
}

/// Death stars of both families on their nodes, landed at and, in one family, attacked; cluster DNS in both.
fn questions(cluster: &Cluster, sh: &Shell) -> Vec<Question> {
    let stars = sh.ok(
        "kubectl get pod -l class=deathstar -o jsonpath='{range .items[*]}{.spec.nodeName} {.status.podIPs[*].ip}{\"\\n\"}{end}'",
    );
    let mut all = Vec::new();
    let mut add = |kind, node: &str, from: &str, to: &str| {
        all.push(Question {
            node: node.to_owned(),
            kind,
            from: cluster.pod(from),
            to: to.parse().expect("an address"),
        });
    };
    for line in stars.lines() {
        let mut words = line.split(' ');
        let node = words.next().expect("a node");
        for to in words {
            add(Kind::Allowed, node, "tiefighter", to);
            if to.contains(':') {
                add(Kind::Denied, node, "tiefighter", to);
            }
        }
    }
    let dns = sh.ok("kubectl -n kube-system get svc kube-dns -o jsonpath='{.spec.clusterIPs[*]}'");
    for to in dns.split_whitespace() {
        add(Kind::Lookup, "node1", "asker", to);
    }
    assert!(all.len() >= 8, "too little to ask: {stars}, {dns}");
    all
}

/// Asks everything while something happens.
fn meanwhile(questions: &[Question], what: impl FnOnce(&[Asking])) -> Vec<(Kind, Vec<Asked>)> {
    let asking: Vec<Asking> = questions.iter().map(Question::ask).collect();
    what(&asking);
    // Afterwards it goes on as before.
    let end = Instant::now();
    for (question, asking) in questions.iter().zip(&asking) {
        let wanted = question.kind.wanted();
        wait_until("answers afterwards", SOON, || {
            asking.first_since(end, wanted)
        });
    }
    let kinds = questions.iter().map(|question| question.kind);
    kinds.zip(asking.into_iter().map(Asking::finish)).collect()
}

/// What was asked so far, by kinds.
#[derive(Default)]
struct Count {
    requests: usize,
    lookups: usize,
}

impl Count {
    /// Everything was answered as it must be.
    #[track_caller]
    fn add_whole(&mut self, during: &str, asked: Vec<(Kind, Vec<Asked>)>) {
        for (kind, all) in asked {
            let failed: Vec<_> = all.iter().filter(|a| !a.says(kind.wanted())).collect();
            assert!(
                failed.is_empty(),
                "{during}: {} of {} questions ({kind:?}) failed: {failed:#?}",
                failed.len(),
                all.len()
            );
            match kind {
                Kind::Lookup => self.lookups += all.len(),
                Kind::Allowed | Kind::Denied => self.requests += all.len(),
            }
        }
    }

    fn report(&self, rounds: usize, what: &str) {
        eprintln!(
            "{rounds} times {what}: {} requests and {} lookups, none failed",
            self.requests, self.lookups
        );
    }
}

fn kill_agents(cluster: &Cluster, questions: &[Question], count: &mut Count) {
    let asked = meanwhile(questions, |_| {
        for node in NODES {
            let old = cluster.kill_agent(node);
            cluster.wait_replaced(node, Some(&old));
        }
    });
    count.add_whole("agents are killed", asked);
}

fn replace_proxies(sh: &Shell, questions: &[Question], count: &mut Count) {
    let asked = meanwhile(questions, |_| {
        sh.ok("kubectl -n kube-system rollout restart ds/cilium-envoy");
        sh.ok("kubectl -n kube-system rollout status ds/cilium-envoy --timeout 60s");
    });
    count.add_whole("proxies are replaced", asked);
    // The old ones are gone, too.
    sh.until(
        "kubectl -n kube-system get pods -l k8s-app=cilium-envoy --no-headers | wc -l",
        &["2"],
    );
}

/// Kills proxies without a word: what is on disk holds as soon as there is another one, and whoever comes meanwhile waits for that. How
/// long each kind of question had to wait.
fn kill_proxies(cluster: &Cluster, questions: &[Question], late: &mut Vec<(Kind, Duration)>) {
    let mut killed = BTreeMap::new();
    let asked = meanwhile(questions, |asking| {
        for node in NODES {
            let old = cluster.proxy_process(node).expect("a proxy runs");
            let now = Instant::now();
            killed.insert(node, now);
            assert!(old.signal(Signal::SIGKILL));
            for (question, asking) in questions.iter().zip(asking) {
                if question.node != node {
                    continue;
                }
                let served = wait_until("the next proxy serves", SOON, || {
                    asking.first_since(now, question.kind.wanted())
                });
                late.push((question.kind, served));
            }
        }
    });
    for (question, (kind, all)) in questions.iter().zip(asked) {
        let since = killed[question.node.as_str()] + DYING;
        let lost = all.iter().filter(|a| a.at >= since);
        let lost: Vec<_> = lost.filter(|a| !a.says(kind.wanted())).collect();
        assert!(lost.is_empty(), "{kind:?} after a kill: {lost:#?}");
        // Before that nothing may be heard at all, but nothing that is denied.
        let passed =
            |a: &&Asked| kind == Kind::Denied && a.answer.is_ok() && !a.says(kind.wanted());
        let passed: Vec<_> = all.iter().filter(passed).collect();
        assert!(passed.is_empty(), "denied requests pass: {passed:#?}");
    }
}

fn report_late(rounds: usize, late: &[(Kind, Duration)]) {
    for kind in [Kind::Allowed, Kind::Denied, Kind::Lookup] {
        let mut times: Vec<_> = late
            .iter()
            .filter(|(k, _)| *k == kind)
            .map(|l| l.1)
            .collect();
        times.sort();
        if let (Some(median), Some(slowest)) = (times.get(times.len() / 2), times.last()) {
            eprintln!(
                "{rounds} times proxies of both nodes killed, {kind:?}: served again after {median:?}, at most {slowest:?}"
            );
        }
    }
}

/// Connections that no rule of requests is about: on the same node and to another one.
fn others(cluster: &Cluster) -> Vec<Route> {
    let client = cluster.pod("other-a");
    let routes = [("other-b", true), ("other-c", false)];
    let route = |(to, ipv4)| Route::new(&client, &cluster.pod(to), ipv4);
    routes.map(route).into()
}

#[test]
fn e2e_layer7_survives_agents_and_proxies() {
    if skip_unless_root() {
        return;
    }
    let cluster = layer7::lab("e2e-l7-faults", &["--max-restart-pause", "0"]);
    let Some(sh) = layer7::stage(&cluster) else {
        return;
    };
    sh.ok("kubectl apply -f $MANIFESTS/rule1-l7.yaml");
    let asker =
        pod_yaml("asker", "node1").replace("name: asker", "name: asker, labels: {app: asker}");
    let others_of = [
        ("other-a", "node1"),
        ("other-b", "node1"),
        ("other-c", "node2"),
    ];
    let pods = others_of.map(|(name, node)| pod_yaml(name, node));
    cluster.lab.apply(
        &[&[asker, LOOKUPS.to_owned()], &pods[..]]
            .concat()
            .join("---\n"),
    );
    sh.ok("kubectl wait --for=condition=Ready pod --all --timeout 60s");
    let questions = questions(&cluster, &sh);
    for question in &questions {
        let begun = Instant::now();
        let asking = question.ask();
        let wanted = question.kind.wanted();
        while asking.first_since(begun, wanted).is_none() {
            assert!(
                begun.elapsed() < SOON,
                "never {wanted}: {:?}",
                asking.finish().pop()
            );
            std::thread::sleep(PACE);
        }
    }
    let load = Load::start(&others(&cluster));
    let (mut killed, mut replaced, mut late) = (Count::default(), Count::default(), Vec::new());
    let rounds = rounds();
    for _ in 0..rounds {
        kill_agents(&cluster, &questions, &mut killed);
        replace_proxies(&sh, &questions, &mut replaced);
        kill_proxies(&cluster, &questions, &mut late);
    }
    killed.report(rounds, "agents of both nodes killed");
    replaced.report(rounds, "proxies of both nodes replaced");
    report_late(rounds, &late);
    let what = "agents and proxies killed and replaced, for what no such rule is about";
    load.finish().assert_whole(&cluster, what);
    cluster.assert_clean();
}
