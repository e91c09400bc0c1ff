//! What the project's components asked of the server, by its own audit log: nothing that it refuses or advises against.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::server::Server;

/// Refusals that belong to how clients and servers work together.
fn is_expected(verb: &str, code: u64, message: &str) -> bool {
    match code {
        // Whoever asked went away before the answer came, as a process does that is restarted: not for the server to refuse.
        500 => message == "context canceled",
        // What is not there yet, or any more.
        404 => ["get", "patch", "update", "delete", "list", "watch"].contains(&verb),
        // Somebody else was quicker.
        409 => ["create", "update", "patch", "delete"].contains(&verb),
        // A watch that begins with what the server has forgotten.
        410 => verb == "watch",
        // A kind that was installed just now: to be tried again soon.
        429 => ["list", "watch"].contains(&verb),
        _ => false,
    }
}

/// Whose requests these are: those of the tests themselves are not looked at.
fn is_ours(user: &str) -> bool {
    user == "lab-owner"
        || user
            .strip_prefix("system:serviceaccount:kube-system:")
            .is_some_and(|name| ["cilium", "cilium-operator", "kube-dns"].contains(&name))
}

pub fn assert_conformant(server: &Server) {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut total = 0;
    for event in server.audit() {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let user = text(&event["user"]["username"]);
        if !is_ours(&user) {
            continue;
        }
        total += 1;
        let (verb, code) = (
            text(&event["verb"]),
            event["responseStatus"]["code"].as_u64().unwrap_or(0),
        );
        let message = text(&event["responseStatus"]["message"]);
        let deprecated = event["annotations"]["k8s.io/deprecated"] == "true";
        // Kubernetes' own controllers go on writing them, too.
        let deprecated = deprecated && !text(&event["requestURI"]).contains("/endpoints");
        if deprecated || code >= 400 && !is_expected(&verb, code, &message) {
            let path = text(&event["requestURI"]);
            let about = if deprecated { "deprecated" } else { "refused" };
            *seen
                .entry(format!("{about}: {user} {verb} {path} {code} {message}"))
                .or_default() += 1;
        }
    }
    assert!(total > 100, "{total} requests of ours are in the audit log");
    let lines: Vec<String> = seen
        .iter()
        .map(|(what, count)| format!("{count} x {what}"))
        .collect();
    assert!(
        lines.is_empty(),
        "of {total} requests:\n{}",
        lines.join("\n")
    );
}
