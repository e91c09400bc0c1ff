//! The status of a pod as the API shows it. Pure.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::plan::Waiting;
use crate::proc::ProcId;

/// A container as it is now.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Name.
    pub name: String,
    /// Image.
    pub image: String,
    /// What it does.
    pub state: State,
    /// How often it was started again.
    pub restarts: u32,
    /// How it ended the last time before.
    pub last: Option<Ended>,
    /// Its first process.
    pub process: Option<ProcId>,
}

/// What a container does.
#[derive(Clone, Debug)]
pub enum State {
    /// Not yet, or not again yet.
    Waiting(Waiting),
    /// It runs since then.
    Running(Timestamp),
    /// It ended for good.
    Ended(Ended),
}

/// How a container ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Exit code.
    pub code: i32,
    /// Why it did not start, if so.
    pub message: Option<String>,
    /// From when.
    pub started: Timestamp,
    /// Until when.
    pub finished: Timestamp,
}

impl Slot {
    /// A container that was not started yet.
    pub fn new(name: &str, image: &str, waiting: Waiting) -> Slot {
        let (name, image) = (name.to_owned(), image.to_owned());
        Slot {
            name,
            image,
            state: State::Waiting(waiting),
            restarts: 0,
            last: None,
            process: None,
        }
    }

    /// The first waiting state of every container.
    pub fn creating() -> Waiting {
        Waiting {
            reason: "ContainerCreating",
            message: String::new(),
        }
    }

    fn ready(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    fn json(&self) -> Value {
        let id = self
            .process
            .as_ref()
            .map_or_else(String::new, |p| format!("lab://{}-{}", p.pid, p.start));
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
        json!({
            "name": self.name, "image": self.image, "imageID": self.image, "containerID": id, "ready": self.ready(),
            "started": self.ready(), "restartCount": self.restarts, "state": state, "lastState": last,
        })
    }
}

impl Ended {
    fn json(&self) -> Value {
        let reason = match (self.code, &self.message) {
            (_, Some(_)) => "StartError",
            (0, None) => "Completed",
            _ => "Error",
        };
        json!({
            "exitCode": self.code, "reason": reason, "message": self.message.clone().unwrap_or_default(),
            "startedAt": time(self.started), "finishedAt": time(self.finished),
        })
    }
}

/// A time as the API writes it.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What the status of a pod is made of.
#[derive(Clone, Debug)]
pub struct PodView {
    /// Its containers.
    pub slots: Vec<Slot>,
    /// Its addresses, once it has a sandbox.
    pub ips: Vec<IpAddr>,
    /// The node's addresses.
    pub host_ips: Vec<IpAddr>,
    /// When the kubelet first saw it.
    pub seen: Timestamp,
}

impl PodView {
    /// `Pending`, `Running`, `Succeeded` or `Failed`.
    pub fn phase(&self) -> &'static str {
        let ended = |s: &Slot| matches!(s.state, State::Ended(_));
        let failed = |s: &Slot| matches!(&s.state, State::Ended(e) if e.code != 0);
        let begun = |s: &Slot| s.last.is_some() || !matches!(s.state, State::Waiting(_));
        if !self.slots.is_empty() && self.slots.iter().all(ended) {
            return if self.slots.iter().any(failed) {
                "Failed"
            } else {
                "Succeeded"
            };
        }
        if self.slots.iter().any(begun) {
            "Running"
        } else {
            "Pending"
        }
    }

    /// The whole status. `before` is the one to be replaced: conditions keep the time of their last change.
    pub fn json(&self, before: Option<&Value>, now: Timestamp) -> Value {
        let ready = !self.slots.is_empty() && self.slots.iter().all(Slot::ready);
        let reason = if self.phase() == "Succeeded" {
            "PodCompleted"
        } else {
            "ContainersNotReady"
        };
        let conditions = [
            ("PodScheduled", true),
            ("PodReadyToStartContainers", !self.ips.is_empty()),
            ("Initialized", true),
            ("ContainersReady", ready),
            ("Ready", ready),
        ];
        let conditions: Vec<Value> = conditions
            .iter()
            .map(|(kind, on)| condition(kind, *on, reason, before, now))
            .collect();
        let list = |ips: &[IpAddr]| ips.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>();
        json!({
            "phase": self.phase(), "conditions": conditions, "startTime": time(self.seen), "qosClass": "BestEffort",
            "hostIP": self.host_ips.first(), "hostIPs": list(&self.host_ips),
            "podIP": self.ips.first(), "podIPs": list(&self.ips),
            "containerStatuses": self.slots.iter().map(Slot::json).collect::<Vec<_>>(),
        })
    }
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
    if !on {
        made["reason"] = json!(reason);
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(state: State) -> Slot {
        Slot {
            state,
            ..Slot::new("c", "host", Slot::creating())
        }
    }

    fn view(states: Vec<State>) -> PodView {
        let slots = states.into_iter().map(slot).collect();
        PodView {
            slots,
            ips: vec![],
            host_ips: vec![],
            seen: Timestamp::UNIX_EPOCH,
        }
    }

    fn ended(code: i32) -> State {
        State::Ended(Ended {
            code,
            message: None,
            started: Timestamp::UNIX_EPOCH,
            finished: Timestamp::UNIX_EPOCH,
        })
    }

    #[test]
    fn phases() {
        let (run, wait) = (
            State::Running(Timestamp::UNIX_EPOCH),
            State::Waiting(Slot::creating()),
        );
        assert_eq!(view(vec![wait.clone()]).phase(), "Pending");
        assert_eq!(view(vec![run.clone(), wait.clone()]).phase(), "Running");
        assert_eq!(view(vec![run.clone(), ended(1)]).phase(), "Running");
        assert_eq!(view(vec![ended(0), ended(0)]).phase(), "Succeeded");
        assert_eq!(view(vec![ended(0), ended(1)]).phase(), "Failed");
        let mut crashing = view(vec![wait]);
        crashing.slots[0].last = Some(Ended {
            code: 1,
            message: None,
            started: Timestamp::UNIX_EPOCH,
            finished: Timestamp::UNIX_EPOCH,
        });
        assert_eq!(crashing.phase(), "Running");
    }

    #[test]
    fn conditions_keep_their_time() {
        let view = view(vec![State::Running(Timestamp::UNIX_EPOCH)]);
        let first = view.json(None, Timestamp::UNIX_EPOCH);
        let later = view.json(Some(&first), Timestamp::from_second(1000).unwrap());
        assert_eq!(first["conditions"], later["conditions"]);
        assert_eq!(first["conditions"][4]["status"], "True");
    }
}
