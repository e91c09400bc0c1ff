//! Services: who answers, what packets and system calls show, what the node's tools say, and who comes from outside.

use hypha_e2e::cluster::Cluster;

use super::Parts;
use super::introspection::dbg;
use super::paths::tcpdump;
use super::shell::Shell;

/// The nodes with their addresses on the router's networks.
const NODES: [(&str, &str); 3] = [
    ("k8s-ctr", "192.168.10.100"),
    ("k8s-w1", "192.168.10.101"),
    ("k8s-w0", "192.168.20.100"),
];
/// So many questions that each of two backends is asked, but for once in a billion times.
const QUESTIONS: usize = 30;

pub fn all(sh: &Shell, cluster: &Cluster, parts: &mut Parts) {
    let service = &Service::of(sh);
    parts.run("services: every backend answers", || service.answers(sh));
    parts.run("services: packets and calls", || service.on_the_wire(sh));
    parts.run("services: introspection", || service.tools(sh, cluster));
    parts.run("services: details", || details(cluster));
    parts.run("services: from outside", || service.outside(sh, cluster));
}

/// The service `webpod`.
struct Service {
    ip: String,
    /// Addresses of its backends.
    backends: Vec<String>,
}

impl Service {
    fn of(sh: &Shell) -> Service {
        let path = "jsonpath='{.items[*].status.podIP}'";
        let ips = sh.ok(&format!("kubectl get pods -l app=webpod -o {path}"));
        Service {
            ip: sh.ok("kubectl get svc webpod -o jsonpath='{.spec.clusterIP}'"),
            backends: ips.split(' ').map(str::to_owned).collect(),
        }
    }

    fn answers(&self, sh: &Shell) {
        let both = sh.ok("kubectl get svc,ep webpod");
        assert!(
            both.contains("service/webpod") && both.contains(&self.ip),
            "{both}"
        );
        for ip in &self.backends {
            assert!(both.contains(&format!("{ip}:80")), "no {ip} in {both}");
        }
        for (asked, host) in [("webpod", "webpod"), ("$SVCIP", &self.ip)] {
            let line = format!(
                "SVCIP={}; kubectl exec curl-pod -- sh -c \
                 \"for i in \\$(seq {QUESTIONS}); do curl -s --max-time 5 {asked}; done\"",
                self.ip
            );
            let said = sh.ok(&line);
            let of = |word: &str| -> Vec<&str> {
                let lines = said.lines().filter_map(|line| line.strip_prefix(word));
                let mut all: Vec<&str> = lines.collect();
                all.sort_unstable();
                all
            };
            assert_eq!(of(&format!("Host: {host}")).len(), QUESTIONS, "{said}");
            let mut names = of("Hostname: ");
            assert_eq!(names.len(), QUESTIONS, "{said}");
            names.dedup();
            assert_eq!(names.len(), self.backends.len(), "{names:?}");
        }
        sh.fails(
            "kubectl exec curl-pod -- curl -sS --max-time 5 webpod:8080",
            &["port 8080"],
        );
    }

    /// Packets have backends' addresses alone; the process has asked for the service.
    fn on_the_wire(&self, sh: &Shell) {
        let wire =
            sh.start("kubectl exec curl-pod -- timeout 30 tcpdump -enni any -q -l tcp port 80");
        wire.says("listening on");
        sh.ok(&format!(
            "kubectl exec curl-pod -- curl -s --max-time 5 {}",
            self.ip
        ));
        let seen = wire.says_such("a backend's address", |text| {
            let mut backends = self.backends.iter();
            backends.any(|ip| text.contains(&format!("> {ip}.80: tcp")))
        });
        assert!(!seen.contains(&self.ip), "{seen}");
        drop(wire);
        let traced = sh.has(
            &format!(
                "kubectl exec curl-pod -- strace -f -e trace=connect,getsockname curl -s --max-time 5 {}",
                self.ip
            ),
            &["Hostname: webpod", "getsockname("],
        );
        let calls: Vec<&str> = traced.lines().filter(|l| l.contains("connect(")).collect();
        let asked = format!("sin_port=htons(80), sin_addr=inet_addr(\"{}\")", self.ip);
        assert!(calls.iter().any(|call| call.contains(&asked)), "{traced}");
        for ip in &self.backends {
            assert!(!calls.iter().any(|call| call.contains(ip)), "{traced}");
        }
    }

    fn tools(&self, sh: &Shell, cluster: &Cluster) {
        let alias = "DBG='kubectl exec -n kube-system ds/cilium -c cilium-agent -- cilium-dbg'; ";
        let frontend = format!("{}:80/TCP", self.ip);
        let list = sh.has(
            &format!("{alias}$DBG service list"),
            &["ID ", "Frontend", "Service Type"],
        );
        let row = list
            .lines()
            .find(|line| line.contains(&format!(" {frontend} ")));
        let row = row.unwrap_or_else(|| panic!("no {frontend} in {list}"));
        assert!(row.contains("ClusterIP") && row.contains("1 => "), "{row}");
        let id = row.split_whitespace().next().unwrap_or_default();
        let maps = sh.ok(&format!("{alias}$DBG bpf lb list"));
        let master = format!("0.0.0.0:0 ({id}) (0) [ClusterIP, non-routable]");
        let has = |begin: &str, end: &str| {
            maps.lines()
                .any(|l| l.starts_with(begin) && l.ends_with(end))
        };
        assert!(
            has(&format!("{frontend} (0) "), &master),
            "no {master} in {maps}"
        );
        for (slot, end) in [
            (1, format!(":80/TCP ({id}) (1)")),
            (2, format!(":80/TCP ({id}) (2)")),
        ] {
            assert!(
                has(&format!("{frontend} ({slot}) "), &end),
                "no slot {slot} in {maps}"
            );
        }
        for (command, part) in [
            ("bpf lb list --revnat", format!("{}:80", self.ip)),
            ("bpf lb list --frontends", format!("{frontend} (0)")),
            (
                "bpf lb list --backends",
                format!("{}:80/TCP", self.backends[0]),
            ),
            ("map get cilium_lb4_services_v2", self.ip.clone()),
            ("map get cilium_lb4_backends_v3", self.backends[0].clone()),
            ("map get cilium_lb4_reverse_nat", self.ip.clone()),
            ("map get cilium_lb4_reverse_sk", String::new()),
            (
                "map list --verbose | grep lb",
                "## Map: cilium_lb4_services_v2".to_owned(),
            ),
        ] {
            sh.has(&format!("{alias}$DBG {command}"), &[&part]);
        }
        let tree = cluster
            .lab
            .sh("k8s-ctr", "bpftool cgroup tree /run/cilium/cgroupv2");
        for program in [
            "cil_sock4_connect",
            "cil_sock6_connect",
            "cil_sock4_sendmsg",
            "cil_sock6_sendmsg",
            "cil_sock4_recvmsg",
            "cil_sock6_recvmsg",
            "cil_sock4_getpeername",
            "cil_sock6_getpeername",
            "cil_sock4_post_bind",
            "cil_sock6_post_bind",
        ] {
            assert!(tree.contains(program), "no {program} in {tree}");
        }
    }

    /// A port of every node, and what the policy for traffic from outside changes.
    fn outside(&self, sh: &Shell, cluster: &Cluster) {
        let patch = |spec: &str| {
            sh.has(
                &format!("kubectl patch svc webpod -p '{{\"spec\":{spec}}}'"),
                &["service/webpod patched"],
            );
        };
        patch(r#"{"type":"NodePort"}"#);
        let port = sh.ok("kubectl get svc webpod -o jsonpath='{.spec.ports[0].nodePort}'");
        let ask = |ip: &str| {
            let script = format!("curl -s --max-time 2 http://{ip}:{port} || true");
            cluster.lab.sh("router", &script)
        };
        let answered = |ip: &str| {
            testkit::wait_until("an answer", super::shell::SOON, || {
                Some(ask(ip)).filter(|said| said.contains("Hostname: webpod-"))
            })
        };
        for (_, ip) in NODES {
            answered(ip);
        }
        // The client's address stays, and only nodes with a backend answer.
        patch(r#"{"externalTrafficPolicy":"Local"}"#);
        let homes = sh.ok("kubectl get pods -l app=webpod -o jsonpath='{.items[*].spec.nodeName}'");
        for (node, ip) in NODES {
            let router = ip.replace(".100", ".200").replace(".101", ".200");
            let here = homes.split(' ').any(|home| home == node);
            testkit::wait_until("the policy's effect", super::shell::SOON, || {
                let said = ask(ip);
                let kept = said.contains(&format!("RemoteAddr: {router}:"));
                (if here { kept } else { said.is_empty() }).then_some(())
            });
        }
        let wire = tcpdump(cluster, "router", "any", &format!("tcp port {port}"));
        patch(r#"{"externalTrafficPolicy":"Cluster"}"#);
        for (_, ip) in NODES {
            answered(ip);
        }
        wire.says(&format!("> 192.168.10.101.{port}: "));
        patch(r#"{"type":"ClusterIP"}"#);
        assert_eq!(
            sh.ok("kubectl get svc webpod -o jsonpath='{.spec.ports[0].nodePort}'"),
            ""
        );
    }
}

fn details(cluster: &Cluster) {
    let status = dbg(cluster, "status --verbose");
    let rows: Vec<String> = status
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    for row in [
        "KubeProxyReplacement Details:",
        "Status: True",
        "Socket LB: Enabled",
        "Socket LB Coverage: Full",
        "Mode: SNAT",
        "Backend Selection: Random",
        "Session Affinity: Enabled",
        "Graceful Termination: Enabled",
        "XDP Acceleration: Disabled",
        "- ClusterIP: Enabled",
        "- NodePort: Enabled (Range: 30000-32767)",
        "- LoadBalancer: Enabled",
        "- externalIPs: Enabled",
        "- HostPort: Enabled",
    ] {
        assert!(rows.iter().any(|r| r == row), "no `{row}` in\n{status}");
    }
}
