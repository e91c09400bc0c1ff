//! Pods.

use jiff::Timestamp;
use serde_json::Value;

use super::Column;
use super::cells::{AGE, NAME, ago, int, list, or_none, some_text, str_of, time};

pub(super) const POD: &[Column] = &[
    NAME,
    Column::new("Ready", |pod| Summary::of(pod).ready()),
    Column::new("Status", |pod| Value::from(Summary::of(pod).status)),
    Column::new("Restarts", |pod| Summary::of(pod).restarts()),
    AGE,
    Column::wide("IP", pod_ip),
    Column::wide("Node", |pod| or_none(&pod["spec"]["nodeName"])),
    Column::wide("Nominated Node", |pod| {
        or_none(&pod["status"]["nominatedNodeName"])
    }),
    Column::wide("Readiness Gates", readiness_gates),
];

/// What the columns say of a pod.
struct Summary {
    status: String,
    ready: usize,
    all: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

/// Whether an init container goes on running beside the others.
fn is_sidecar(pod: &Value, name: &str) -> bool {
    list(&pod["spec"]["initContainers"])
        .any(|c| str_of(&c["name"]) == name && c["restartPolicy"] == "Always")
}

fn has_condition(pod: &Value, kind: &str, status: &str) -> bool {
    list(&pod["status"]["conditions"]).any(|c| c["type"] == kind && c["status"] == status)
}

/// How a container ended, when it gives no reason itself.
fn exit(terminated: &Value) -> String {
    match int(&terminated["signal"]) {
        0 => format!("ExitCode:{}", int(&terminated["exitCode"])),
        signal => format!("Signal:{signal}"),
    }
}

impl Summary {
    fn of(pod: &Value) -> Self {
        let status = &pod["status"];
        let reason = Some(str_of(&status["reason"])).filter(|r| !r.is_empty());
        let gated = list(&status["conditions"])
            .any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated");
        let phase = status["phase"].as_str().unwrap_or("Unknown");
        let mut summary = Self {
            status: reason
                .unwrap_or(if gated { "SchedulingGated" } else { phase })
                .to_owned(),
            ready: 0,
            all: list(&pod["spec"]["containers"]).len(),
            restarts: 0,
            last_restart: None,
        };
        summary.all += list(&pod["spec"]["initContainers"])
            .filter(|c| c["restartPolicy"] == "Always")
            .count();
        let initializing = summary.init_containers(pod);
        if !initializing || has_condition(pod, "Initialized", "True") {
            summary.containers(pod);
        }
        let finished = matches!(phase, "Succeeded" | "Failed");
        if pod["metadata"]["deletionTimestamp"].is_string() && !finished {
            let lost = status["reason"] == "NodeLost";
            summary.status = if lost { "Unknown" } else { "Terminating" }.to_owned();
        }
        summary
    }

    fn count(&mut self, container: &Value) {
        self.restarts = self
            .restarts
            .saturating_add(int(&container["restartCount"]));
        let ended = time(&container["lastState"]["terminated"]["finishedAt"]);
        self.last_restart = self.last_restart.max(ended);
    }

    /// Looks at init containers up to the one that is not through; whether there is one.
    fn init_containers(&mut self, pod: &Value) -> bool {
        let wanted = list(&pod["spec"]["initContainers"]).len();
        for (i, container) in list(&pod["status"]["initContainerStatuses"]).enumerate() {
            self.count(container);
            let (waiting, terminated) = (
                &container["state"]["waiting"],
                &container["state"]["terminated"],
            );
            let sidecar = is_sidecar(pod, str_of(&container["name"]));
            if terminated.is_object() && terminated["exitCode"] == 0 {
                continue;
            }
            if sidecar && container["started"] == true {
                self.ready += usize::from(container["ready"] == true);
                continue;
            }
            let reason = str_of(&waiting["reason"]);
            self.status = if terminated.is_object() {
                match str_of(&terminated["reason"]) {
                    "" => format!("Init:{}", exit(terminated)),
                    reason => format!("Init:{reason}"),
                }
            } else if !reason.is_empty() && reason != "PodInitializing" {
                format!("Init:{reason}")
            } else {
                format!("Init:{i}/{wanted}")
            };
            return true;
        }
        false
    }

    fn containers(&mut self, pod: &Value) {
        // Restarts of init containers are over once the others run; those of sidecars count on.
        (self.restarts, self.last_restart) = (0, None);
        for container in list(&pod["status"]["initContainerStatuses"]) {
            if is_sidecar(pod, str_of(&container["name"])) {
                self.count(container);
            }
        }
        let mut running = false;
        for container in list(&pod["status"]["containerStatuses"]).rev() {
            self.count(container);
            let (waiting, terminated) = (
                &container["state"]["waiting"],
                &container["state"]["terminated"],
            );
            let reasons = [waiting, terminated].map(|state| str_of(&state["reason"]));
            if let Some(reason) = reasons.into_iter().find(|r| !r.is_empty()) {
                self.status = reason.to_owned();
            } else if terminated.is_object() {
                self.status = exit(terminated);
            } else if container["ready"] == true && container["state"]["running"].is_object() {
                running = true;
                self.ready += 1;
            }
        }
        if self.status == "Completed" && running {
            let ready = has_condition(pod, "Ready", "True");
            self.status = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }

    fn ready(&self) -> Value {
        Value::from(format!("{}/{}", self.ready, self.all))
    }

    fn restarts(&self) -> Value {
        let count = self.restarts;
        Value::from(match self.last_restart.filter(|_| count > 0) {
            Some(last) => format!("{count} ({} ago)", ago(last)),
            None => count.to_string(),
        })
    }
}

fn pod_ip(pod: &Value) -> Value {
    let status = &pod["status"];
    let first = &status["podIPs"][0]["ip"];
    or_none(if first.is_string() {
        first
    } else {
        &status["podIP"]
    })
}

fn readiness_gates(pod: &Value) -> Value {
    let gates = list(&pod["spec"]["readinessGates"]);
    let all = gates.len();
    if all == 0 {
        return some_text(String::new());
    }
    let passed = gates
        .filter(|gate| has_condition(pod, str_of(&gate["conditionType"]), "True"))
        .count();
    Value::from(format!("{passed}/{all}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(spec: Value, status: Value) -> (Value, String, Value) {
        let pod = json!({"metadata": {"name": "p"}, "spec": spec, "status": status});
        let summary = Summary::of(&pod);
        (summary.ready(), summary.status.clone(), summary.restarts())
    }

    #[test]
    fn states_of_a_pod() {
        let two = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        let of = |statuses: Value| {
            shown(
                two.clone(),
                json!({"phase": "Running", "containerStatuses": statuses}),
            )
        };
        let up = json!({"ready": true, "state": {"running": {}}});
        assert_eq!(
            of(json!([up, up])),
            (json!("2/2"), "Running".to_owned(), json!("0"))
        );
        let crashing =
            json!({"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}});
        assert_eq!(
            of(json!([up, crashing])),
            (json!("1/2"), "CrashLoopBackOff".to_owned(), json!("3"))
        );
        let done = json!({"state": {"terminated": {"reason": "Completed", "exitCode": 0}}});
        assert_eq!(of(json!([done, up])).1, "NotReady");
        let killed = json!({"state": {"terminated": {"exitCode": 137, "signal": 9}}});
        assert_eq!(of(json!([killed])).1, "Signal:9");
        assert_eq!(shown(two.clone(), json!({"phase": "Pending"})).1, "Pending");
        assert_eq!(
            shown(two, json!({"phase": "Failed", "reason": "Evicted"})).1,
            "Evicted"
        );
    }

    #[test]
    fn init_containers_and_sidecars() {
        let spec = json!({"containers": [{"name": "c"}],
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}]});
        let of = |statuses: Value| {
            shown(
                spec.clone(),
                json!({"phase": "Pending", "initContainerStatuses": statuses}),
            )
        };
        let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0}}});
        assert_eq!(
            of(json!([{"name": "i", "state": {"running": {}}}])).1,
            "Init:0/2"
        );
        assert_eq!(
            of(json!([done, {"name": "s", "state": {"waiting": {"reason": "PodInitializing"}}}])).1,
            "Init:1/2"
        );
        assert_eq!(
            of(json!([{"name": "i", "state": {"terminated": {"exitCode": 2, "reason": "Error"}}}]))
                .1,
            "Init:Error"
        );
        let sidecar =
            json!({"name": "s", "started": true, "ready": true, "state": {"running": {}}});
        assert_eq!(of(json!([done, sidecar])).0, json!("1/2"));
    }

    #[test]
    fn restarts_say_when() {
        let finished = Timestamp::now() - jiff::SignedDuration::from_secs(130);
        let status = json!({"phase": "Running", "containerStatuses": [{"ready": true, "restartCount": 3, "state": {"running": {}},
            "lastState": {"terminated": {"finishedAt": finished.to_string()}}}]});
        let (_, _, restarts) = shown(json!({"containers": [{}]}), status);
        assert!(
            restarts.as_str().unwrap().starts_with("3 (2m1"),
            "{restarts}"
        );
    }

    #[test]
    fn a_pod_on_its_way_out_says_so() {
        let mut pod = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}});
        assert_eq!(Summary::of(&pod).status, "Terminating");
        pod["status"]["phase"] = json!("Succeeded");
        assert_eq!(Summary::of(&pod).status, "Succeeded");
    }
}
