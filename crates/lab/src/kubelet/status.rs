//! The status of a pod as the API shows it. Pure.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::plan::Waiting;
use super::restart::RestartPolicy;

/// Which part a container plays in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container that goes on running beside the others.
    Sidecar,
    /// What the pod is for.
    Main,
}

/// A container as it is now.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Name.
    pub name: String,
    /// Image.
    pub image: String,
    /// Its part.
    pub part: Part,
    /// What it does.
    pub state: State,
    /// How often it was started again.
    pub restarts: u32,
    /// How it ended the last time before.
    pub last: Option<Ended>,
    /// The id of its last run.
    pub id: Option<String>,
    /// The startup probe succeeded, where there is one.
    pub started: bool,
    /// The readiness probe succeeds, where there is one.
    pub ready: bool,
}

/// What a container does.
#[derive(Clone, Debug)]
pub enum State {
    /// Not yet, or not again yet.
    Waiting(Waiting),
    /// It runs since then.
    Running(Timestamp),
    /// It ended.
    Ended(Ended),
}

/// How a container ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Exit code.
    pub code: i32,
    /// It could not be started.
    pub not_started: bool,
    /// What it left to say, or why it could not start.
    pub message: Option<String>,
    /// From when.
    pub started: Timestamp,
    /// Until when.
    pub finished: Timestamp,
    /// The id of the run.
    pub id: Option<String>,
    /// It will be started again: not the end of its pod.
    pub again: bool,
}

impl Slot {
    /// A container that was not started yet.
    pub fn new(name: &str, image: &str, part: Part, waiting: Waiting) -> Slot {
        Slot {
            name: name.to_owned(),
            image: image.to_owned(),
            part,
            state: State::Waiting(waiting),
            restarts: 0,
            last: None,
            id: None,
            started: false,
            ready: false,
        }
    }

    /// The first waiting state of every container.
    pub fn creating() -> Waiting {
        Waiting {
            reason: "ContainerCreating",
            message: String::new(),
        }
    }

    /// It runs, and is ready as far as its probes say.
    pub fn is_ready(&self) -> bool {
        match self.part {
            Part::Init => self.done(),
            _ => matches!(self.state, State::Running(_)) && self.started && self.ready,
        }
    }

    /// It ended for good and well.
    pub fn done(&self) -> bool {
        matches!(&self.state, State::Ended(e) if e.code == 0 && !e.again)
    }

    fn over(&self) -> bool {
        matches!(&self.state, State::Ended(e) if !e.again)
    }

    fn failed(&self) -> bool {
        matches!(&self.state, State::Ended(e) if e.code != 0 && !e.again)
    }

    /// What the others wait for is there.
    fn initialized(&self) -> bool {
        match self.part {
            Part::Init => self.done(),
            Part::Sidecar => self.started || self.done(),
            Part::Main => true,
        }
    }

    fn json(&self) -> Value {
        let last = self
            .last
            .as_ref()
            .map_or_else(|| json!({}), |e| json!({"terminated": e.json()}));
        let state = match &self.state {
            State::Waiting(w) if w.message.is_empty() => json!({"waiting": {"reason": w.reason}}),
            State::Waiting(w) => json!({"waiting": {"reason": w.reason, "message": w.message}}),
            State::Running(since) => json!({"running": {"startedAt": time(*since)}}),
            State::Ended(e) => json!({"terminated": e.json()}),
        };
        let image_id = if self.id.is_some() {
            format!("lab://{}", self.image)
        } else {
            String::new()
        };
        json!({
            "name": self.name, "image": self.image, "imageID": image_id, "containerID": self.id, "ready": self.is_ready(),
            "started": self.started && matches!(self.state, State::Running(_)), "restartCount": self.restarts, "state": state, "lastState": last,
        })
    }
}

impl Ended {
    fn json(&self) -> Value {
        let reason = match (self.code, self.not_started) {
            (_, true) => "StartError",
            (0, _) => "Completed",
            _ => "Error",
        };
        let mut made = json!({
            "exitCode": self.code, "reason": reason, "containerID": self.id,
            "startedAt": time(self.started), "finishedAt": time(self.finished),
        });
        if let Some(message) = &self.message {
            made["message"] = json!(message);
        }
        made
    }
}

/// A time as the API writes it.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What the status of a pod is made of.
#[derive(Clone, Debug)]
pub struct PodView {
    /// Its containers, init containers first.
    pub slots: Vec<Slot>,
    /// Its restart policy.
    pub policy: RestartPolicy,
    /// Its addresses, once it has a sandbox.
    pub ips: Vec<IpAddr>,
    /// It has a sandbox.
    pub sandbox: bool,
    /// The node's addresses.
    pub host_ips: Vec<IpAddr>,
    /// When the kubelet first saw it.
    pub seen: Timestamp,
    /// The types of its readiness gates.
    pub gates: Vec<String>,
    /// It is being ended, and all its containers are.
    pub finished: bool,
    /// It failed as a whole: reason and message.
    pub failed: Option<(String, String)>,
}

impl PodView {
    fn part(&self, part: impl Fn(Part) -> bool) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(move |s| part(s.part))
    }

    fn main(&self) -> impl Iterator<Item = &Slot> {
        self.part(|p| p == Part::Main)
    }

    fn initialized(&self) -> bool {
        self.part(|p| p != Part::Main).all(Slot::initialized) || self.main().any(|s| s.id.is_some())
    }

    /// `Pending`, `Running`, `Succeeded` or `Failed`.
    pub fn phase(&self) -> &'static str {
        if self.failed.is_some() {
            return "Failed";
        }
        if self.policy == RestartPolicy::Never && self.part(|p| p == Part::Init).any(Slot::failed) {
            return "Failed";
        }
        if !self.initialized() {
            // Ended before its containers began.
            return if self.finished { "Failed" } else { "Pending" };
        }
        let begun = |s: &Slot| s.last.is_some() || !matches!(s.state, State::Waiting(_));
        let over = |s: &Slot| s.over() || self.finished;
        if self.main().next().is_some() && self.main().all(over) {
            let well = |s: &Slot| matches!(&s.state, State::Ended(e) if e.code == 0);
            return if self.main().all(well) {
                "Succeeded"
            } else {
                "Failed"
            };
        }
        if self.main().any(begun) {
            "Running"
        } else {
            "Pending"
        }
    }

    /// The pod has come to its end by itself.
    pub fn over(&self) -> bool {
        matches!(self.phase(), "Succeeded" | "Failed")
    }

    /// The status. `before` is the object's present one: conditions keep the time of their last change.
    pub fn json(&self, before: Option<&Value>, now: Timestamp) -> Value {
        let list = |ips: &[IpAddr]| ips.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>();
        let statuses = |init: bool| {
            let slots = self.slots.iter().filter(|s| (s.part != Part::Main) == init);
            slots.map(Slot::json).collect::<Vec<_>>()
        };
        let mut status = json!({
            "phase": self.phase(), "conditions": self.conditions(before, now), "startTime": time(self.seen),
            "hostIP": self.host_ips.first(), "hostIPs": list(&self.host_ips),
            "podIP": self.ips.first(), "podIPs": list(&self.ips), "containerStatuses": statuses(false),
        });
        let init = statuses(true);
        if !init.is_empty() {
            status["initContainerStatuses"] = json!(init);
        }
        if let Some((reason, message)) = &self.failed {
            status["reason"] = json!(reason);
            status["message"] = json!(message);
        }
        status
    }

    fn conditions(&self, before: Option<&Value>, now: Timestamp) -> Vec<Value> {
        let over = self.over();
        let unready: Vec<&str> = self
            .part(|p| p != Part::Init)
            .filter(|s| !s.is_ready())
            .map(|s| s.name.as_str())
            .collect();
        let waiting: Vec<&str> = self
            .part(|p| p != Part::Main)
            .filter(|s| !s.initialized())
            .map(|s| s.name.as_str())
            .collect();
        let containers = unready.is_empty() && !over && self.main().next().is_some();
        let gate = |name: &&String| !known(before, name, "True");
        let closed: Vec<&String> = self.gates.iter().filter(gate).collect();
        let not_ready = match self.phase() {
            "Succeeded" => ("PodCompleted", String::new()),
            "Failed" => ("PodFailed", String::new()),
            _ => (
                "ContainersNotReady",
                format!("containers with unready status: [{}]", unready.join(" ")),
            ),
        };
        let gates = (
            "ReadinessGatesNotReady",
            format!("readiness gates are not ready: {closed:?}"),
        );
        let init = (
            "ContainersNotInitialized",
            format!("containers with incomplete status: [{}]", waiting.join(" ")),
        );
        let ready = containers && closed.is_empty();
        let all = [
            (
                "PodReadyToStartContainers",
                self.sandbox,
                (String::new(), String::new()),
            ),
            (
                "Initialized",
                self.initialized(),
                (init.0.to_owned(), init.1),
            ),
            (
                "Ready",
                ready,
                if containers {
                    (gates.0.to_owned(), gates.1)
                } else {
                    (not_ready.0.to_owned(), not_ready.1.clone())
                },
            ),
            (
                "ContainersReady",
                containers,
                (not_ready.0.to_owned(), not_ready.1),
            ),
            ("PodScheduled", true, (String::new(), String::new())),
        ];
        let made = all.into_iter().map(|(kind, on, (reason, message))| {
            let mut made = condition(kind, on, &reason, before, now);
            if !on && !message.is_empty() {
                made["message"] = json!(message);
            }
            made
        });
        let ours: Vec<Value> = made.collect();
        let others = before
            .and_then(|b| b["conditions"].as_array())
            .into_iter()
            .flatten();
        let others = others.filter(|c| !ours.iter().any(|o| o["type"] == c["type"]));
        others
            .cloned()
            .collect::<Vec<_>>()
            .into_iter()
            .chain(ours)
            .collect()
    }
}

fn known(before: Option<&Value>, kind: &str, status: &str) -> bool {
    let list = before
        .and_then(|b| b["conditions"].as_array())
        .into_iter()
        .flatten();
    list.into_iter()
        .any(|c| c["type"] == kind && c["status"] == status)
}

/// A condition that keeps its time while its status stays.
pub fn condition(
    kind: &str,
    on: bool,
    reason: &str,
    before: Option<&Value>,
    now: Timestamp,
) -> Value {
    let status = if on { "True" } else { "False" };
    let list = before
        .and_then(|b| b["conditions"].as_array())
        .into_iter()
        .flatten();
    let same = list
        .clone()
        .find(|c| c["type"] == kind && c["status"] == status);
    let since = same
        .and_then(|c| c["lastTransitionTime"].as_str())
        .map_or_else(|| time(now), str::to_owned);
    let mut made = json!({"type": kind, "status": status, "lastTransitionTime": since});
    if !on && !reason.is_empty() {
        made["reason"] = json!(reason);
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(part: Part, state: State) -> Slot {
        let running = matches!(state, State::Running(_));
        Slot {
            state,
            started: running,
            ready: running,
            id: running.then(|| "lab://x".into()),
            ..Slot::new("c", "host", part, Slot::creating())
        }
    }

    fn view(slots: Vec<Slot>) -> PodView {
        PodView {
            slots,
            policy: RestartPolicy::Never,
            ips: vec![],
            sandbox: true,
            host_ips: vec![],
            seen: Timestamp::UNIX_EPOCH,
            gates: vec![],
            finished: false,
            failed: None,
        }
    }

    fn ended(code: i32) -> State {
        State::Ended(Ended {
            code,
            not_started: false,
            message: None,
            started: Timestamp::UNIX_EPOCH,
            finished: Timestamp::UNIX_EPOCH,
            id: None,
            again: false,
        })
    }

    fn run() -> State {
        State::Running(Timestamp::UNIX_EPOCH)
    }

    fn wait() -> State {
        State::Waiting(Slot::creating())
    }

    #[test]
    fn phases() {
        let phase = |states: Vec<State>| {
            view(states.into_iter().map(|s| slot(Part::Main, s)).collect()).phase()
        };
        assert_eq!(phase(vec![wait()]), "Pending");
        assert_eq!(phase(vec![run(), wait()]), "Running");
        assert_eq!(phase(vec![run(), ended(1)]), "Running");
        assert_eq!(phase(vec![ended(0), ended(0)]), "Succeeded");
        assert_eq!(phase(vec![ended(0), ended(1)]), "Failed");
        let mut crashing = view(vec![slot(Part::Main, wait())]);
        let State::Ended(mut end) = ended(1) else {
            panic!()
        };
        end.again = true;
        crashing.slots[0].last = Some(end.clone());
        assert_eq!(crashing.phase(), "Running");
        crashing.slots[0].state = State::Ended(end);
        assert_eq!(crashing.phase(), "Running", "it comes again");
        crashing.finished = true;
        assert_eq!(crashing.phase(), "Failed");
    }

    #[test]
    fn init_containers_come_first() {
        let phase = |init: State, part: Part, main: State| {
            view(vec![slot(part, init), slot(Part::Main, main)]).phase()
        };
        assert_eq!(phase(run(), Part::Init, wait()), "Pending");
        assert_eq!(phase(ended(1), Part::Init, wait()), "Failed");
        assert_eq!(phase(ended(0), Part::Init, run()), "Running");
        assert_eq!(phase(run(), Part::Sidecar, ended(0)), "Succeeded");
        let json = view(vec![slot(Part::Init, run()), slot(Part::Main, wait())])
            .json(None, Timestamp::UNIX_EPOCH);
        assert_eq!(json["initContainerStatuses"].as_array().unwrap().len(), 1);
        let initialized = &json["conditions"][1];
        assert_eq!(
            (&initialized["status"], &initialized["reason"]),
            (&json!("False"), &json!("ContainersNotInitialized"))
        );
    }

    #[test]
    fn conditions_keep_their_time_and_those_of_others() {
        let mut view = view(vec![slot(Part::Main, run())]);
        let mut first = view.json(None, Timestamp::UNIX_EPOCH);
        first["conditions"]
            .as_array_mut()
            .unwrap()
            .insert(0, json!({"type": "Mine", "status": "False"}));
        let later = view.json(Some(&first), Timestamp::from_second(1000).unwrap());
        assert_eq!(first["conditions"], later["conditions"]);
        assert_eq!(first["conditions"][3]["status"], "True");
        view.gates = vec!["Mine".into()];
        let gated = view.json(Some(&first), Timestamp::from_second(1000).unwrap());
        let find = |kind: &str| {
            gated["conditions"]
                .as_array()
                .unwrap()
                .iter()
                .find(|c| c["type"] == kind)
                .cloned()
                .unwrap()
        };
        assert_eq!(find("Ready")["reason"], "ReadinessGatesNotReady");
        assert_eq!(find("ContainersReady")["status"], "True");
    }
}
