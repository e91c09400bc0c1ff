//! TLS that ends at the proxy, with real pods, `kubectl`, `curl` and `openssl`: requests inside are held against rules, certificates and
//! headers come out of Secrets, which come late, change and go.

use std::time::Duration;

use hypha_e2e::cluster::Cluster;
use testkit::{skip_unless_root, wait_until};

use crate::acceptance::shell::{Release, Shell};
use crate::layer7::{addresses, asking_while, lab};

const SOON: Duration = Duration::from_secs(30);
/// What says of the policy whether it can be used.
const CONDITION: &str = r#"kubectl get cnp inspect -o jsonpath='{range .status.conditions[*]}{.status} {.message}{end}'"#;

/// A certificate for all names below `bank.org`, as `NAME.crt` with `NAME.key`.
fn certificate(sh: &Shell, name: &str) {
    sh.ok(&format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={name} \
         -addext subjectAltName=DNS:bank.org,DNS:*.bank.org -addext basicConstraints=critical,CA:FALSE \
         -keyout {name}.key -out {name}.crt"
    ));
}

fn stage(cluster: &Cluster) -> Option<(Shell, Vec<String>)> {
    let sh = Shell::new(cluster, Release::New)?;
    for name in ["bank", "old", "new"] {
        certificate(&sh, name);
    }
    sh.ok("kubectl create secret tls bank --cert bank.crt --key bank.key");
    sh.ok(
        "cat old.crt new.crt > both.crt && kubectl create configmap trusted --from-file both.crt",
    );
    sh.ok("kubectl -n kube-system rollout status ds/cilium-envoy --timeout 60s");
    sh.ok("kubectl create -f $MANIFESTS/inspect.yaml");
    sh.ok("kubectl rollout status ds/bank --timeout 60s");
    sh.ok("kubectl wait --for=condition=Ready pod/customer --timeout 60s");
    let banks = addresses(&sh, "bank");
    assert_eq!(banks.len(), 4, "two nodes, two families: {banks:?}");
    Some((sh, banks))
}

/// A request of the customer, which says by whose certificate it was answered.
fn ask(name: &str, at: &str, more: &str) -> String {
    let to = format!("--resolve {name}:443:{at} https://{name}{more}");
    format!("kubectl exec customer -- curl -sSv --max-time 5 --cacert /trusted/both.crt {to} 2>&1")
}

/// Until the Secrets are there, the rule allows nothing, the others what they did, and somebody says so.
fn without_secrets(sh: &Shell, banks: &[String]) {
    let problem =
        "spec.egress[0].toPorts[1].terminatingTLS: Secret default/middle: there is no such Secret";
    sh.until(CONDITION, &["False ", problem]);
    for bank in banks {
        let refused = sh.run(&ask("my.bank.org", bank, "/public"));
        assert!(!refused.ok(), "{refused:?}");
        let plain = format!("kubectl exec customer -- curl -sS --max-time 5 http://{bank}/");
        sh.until(&plain, &["GET token=None"]);
    }
    let status = sh.ok("hypha dbg --name $LAB --node node1 status");
    assert!(
        status.contains("Secret vault/token: there is no such Secret"),
        "{status}"
    );
    sh.has(
        "hypha policy check -f $MANIFESTS/inspect.yaml",
        &["Secret default/middle: there is no such Secret"],
    );
    // A key that is of another certificate.
    sh.ok("kubectl create secret generic middle --from-file tls.crt=old.crt --from-file tls.key=new.key");
    sh.until(
        CONDITION,
        &[
            "False ",
            "Secret default/middle: the certificate for clients is of no use",
        ],
    );
    sh.ok("kubectl create secret tls middle --cert old.crt --key old.key --dry-run=client -o yaml | kubectl replace --force -f -");
    sh.ok("kubectl -n vault create secret generic authorities --from-file bank.crt");
    sh.ok("kubectl -n vault create secret generic token --from-literal t=s3cret");
    sh.until(CONDITION, &["True "]);
}

fn requests_inside(sh: &Shell, banks: &[String]) {
    for bank in banks {
        let own = ["CN=old", "GET token=None from "];
        sh.until(&ask("my.bank.org", bank, "/public"), &own);
        sh.has(
            &ask("my.bank.org", bank, "/public --http1.1"),
            &["GET token=None from "],
        );
        for denied in ["/public -XPUT", "/private"] {
            let said = sh.has(&ask("my.bank.org", bank, denied), &["Access denied"]);
            assert!(said.contains(" 403"), "{said}");
        }
        let account = ask("my.bank.org", bank, "/account -H 'x-token: mine'");
        sh.has(&account, &["GET token=s3cret"]);
        // The name is not allowed.
        sh.fails(&ask("bank.org", bank, "/public"), &["access denied"]);
    }
    let copies = sh.ok("kubectl -n cilium-secrets get secrets -o name");
    for copy in ["default.middle", "vault.authorities", "vault.token"] {
        assert!(copies.contains(copy), "{copies}");
    }
}

/// Certificates change, and no request fails by that.
fn rotation(sh: &Shell, bank: &str) {
    let line = ask("my.bank.org", bank, "/public");
    let (asked, failed) = asking_while(sh, &line, "GET token=None", || {
        sh.ok("kubectl create secret tls middle --cert new.crt --key new.key --dry-run=client -o yaml | kubectl apply -f -");
        sh.until(&line, &["CN=new", "GET token=None"]);
    });
    assert!(failed.is_empty(), "{asked} asked: {failed:#?}");
}

/// What a header needs goes and comes: that rule alone is concerned.
fn one_secret_less(sh: &Shell, bank: &str) {
    let account = ask("my.bank.org", bank, "/account");
    sh.ok("kubectl -n vault delete secret token");
    sh.until(
        CONDITION,
        &["False ", "rules.http[1].headerMatches: Secret vault/token"],
    );
    sh.until(&account, &["Access denied"]);
    sh.has(&ask("my.bank.org", bank, "/public"), &["GET token=None"]);
    sh.ok("kubectl -n vault create secret generic token --from-literal t=0ther");
    sh.until(&account, &["GET token=0ther"]);
    sh.until(CONDITION, &["True "]);
    sh.ok("kubectl delete cnp inspect");
    wait_until("copies go with their policy", SOON, || {
        let left = sh.ok("kubectl -n cilium-secrets get secrets -o name");
        left.trim().is_empty().then_some(())
    });
}

#[test]
fn e2e_layer7_tls_ends_at_the_proxy() {
    if skip_unless_root() {
        return;
    }
    let cluster = lab("e2e-l7-tls", &[]);
    let Some((sh, banks)) = stage(&cluster) else {
        return;
    };
    without_secrets(&sh, &banks);
    requests_inside(&sh, &banks);
    rotation(&sh, &banks[0]);
    one_secret_less(&sh, &banks[0]);
    cluster.assert_clean();
}
