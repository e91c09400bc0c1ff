//! Certificates of seconds: they are renewed before they are over, and nobody who looks on notices.
use crate::acceptance::shell::Shell;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use install::certs::{Facts, Pair, Validity, signed};
use serde_json::{Value, json};
use std::time::{Duration, Instant, SystemTime};

const SECRETS: [&str; 2] = ["hubble-server-certs", "hubble-relay-client-certs"];
/// How long each is good.
const LIFETIME: Duration = Duration::from_secs(20);

fn part(sh: &Shell, secret: &str, key: &str) -> String {
    let text = sh.ok(&format!(
        "kubectl -n kube-system get secret {secret} -o jsonpath='{{.data.{}}}'",
        key.replace('.', "\\.")
    ));
    String::from_utf8(STANDARD.decode(text.trim()).unwrap()).unwrap()
}

/// Puts a certificate of seconds in the place of one of years.
fn shorten(sh: &Shell, secret: &str, authority: &Pair) -> String {
    let facts = Facts::read(&part(sh, secret, "tls.crt")).unwrap();
    let now = SystemTime::now();
    let validity = Validity::of(now, LIFETIME);
    let made = signed(&facts.name, facts.names, validity, authority).unwrap();
    let renew = validity.renewal(now).duration_since(SystemTime::UNIX_EPOCH);
    let patch = json!({
        "metadata": {"annotations": {"hypha.io/renew-after": renew.unwrap().as_secs().to_string()}},
        "data": {"tls.crt": STANDARD.encode(&made.certificate), "tls.key": STANDARD.encode(&made.key)},
    });
    sh.ok(&format!(
        "kubectl -n kube-system patch secret {secret} --type merge -p '{patch}'"
    ));
    made.certificate
}

/// A follower of the relay keeps its stream while the certificates behind it are renewed, and hears of every request; a relay that starts
/// when the first ones are long over is believed by every node.
pub fn under_load(sh: &Shell, server: &str) {
    sh.ok("kubectl delete -f $MANIFESTS/rule1.yaml");
    let authority = Pair {
        certificate: part(sh, "cilium-ca", "ca.crt"),
        key: part(sh, "cilium-ca", "ca.key"),
    };
    let follow = sh.start(&format!(
        "{server} hypha hubble observe -f --last 0 --from-pod default/tiefighter --protocol tcp --tcp-flags SYN --type trace:to-endpoint -o jsonpb"
    ));
    let first = SECRETS.map(|secret| shorten(sh, secret, &authority));
    // One that starts looks at once; others do so within half a minute.
    sh.ok("kubectl -n kube-system delete pod -l io.cilium/app=operator --wait=false");
    let (began, mut asked, mut seen) = (Instant::now(), 0, first.clone().map(|one| vec![one]));
    let renewed = |seen: &[Vec<String>; 2]| seen.iter().all(|all| all.len() > 1);
    while !renewed(&seen) || began.elapsed() < LIFETIME {
        assert!(
            began.elapsed() < Duration::from_secs(180),
            "they are not renewed"
        );
        sh.ok("kubectl exec tiefighter -- curl -s --max-time 5 -XPOST deathstar.default.svc.cluster.local/v1/request-landing");
        asked += 1;
        for (secret, all) in SECRETS.iter().zip(&mut seen) {
            let now = part(sh, secret, "tls.crt");
            if all.last() != Some(&now) {
                all.push(now);
            }
        }
    }
    follow.says_such("every request", |text| requests(text) >= asked);
    let said = follow.said();
    assert!(
        !said.contains("lost_events") && !said.contains("NODE_"),
        "{said}"
    );
    sh.ok("kubectl -n kube-system delete pod -l k8s-app=hubble-relay");
    sh.ok("kubectl -n kube-system rollout status deployment/hubble-relay --timeout 60s");
    sh.until("hypha hubble status -P", &["Connected Nodes: 3/3"]);
}

/// How many connections were opened, by what a follower heard.
fn requests(text: &str) -> usize {
    let flow = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        line["flow"].is_object()
    };
    text.lines().filter(|line| flow(line)).count()
}
