//! What is known of a pod's containers, and how it is told: status, and the record for `hypha lab exec`.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::runner::Change;
use super::super::status::{Part, State};
use super::Worker;
use crate::state::{ContainerRecord, PodRecord};

impl Worker {
    pub(super) fn apply(&mut self, index: usize, change: Change) {
        let Some(slot) = self.view.slots.get_mut(index) else {
            return;
        };
        match change {
            Change::Waiting(waiting) => {
                // The end of the run before moves aside.
                if let State::Ended(ended) = &slot.state {
                    slot.last = Some(ended.clone());
                }
                slot.state = State::Waiting(waiting);
            }
            Change::Running {
                id,
                since,
                inside,
                started,
                ready,
            } => {
                if let State::Ended(ended) = &slot.state {
                    slot.last = Some(ended.clone());
                }
                if slot.id.is_some() {
                    slot.restarts += 1;
                }
                slot.state = State::Running(since);
                (slot.id, slot.started, slot.ready) = (Some(id), started, ready);
                self.inside[index] = Some(inside);
                self.write_record();
            }
            Change::Started => slot.started = true,
            Change::Ready(ready) => slot.ready = ready,
            Change::Exited { mut ended, again } => {
                ended.again = again.is_some();
                if ended.not_started && slot.id.is_some() {
                    slot.restarts += 1;
                }
                slot.id.clone_from(&ended.id);
                (slot.started, slot.ready) = (slot.part == Part::Init && ended.code == 0, false);
                slot.state = State::Ended(ended);
                self.inside[index] = None;
                self.write_record();
            }
        }
    }

    /// What `hypha lab exec` needs to know.
    fn write_record(&self) {
        let all = self.view.slots.iter().zip(&self.inside);
        let mut running: Vec<(Part, ContainerRecord)> = all
            .filter_map(|(slot, inside)| {
                let inside = inside.as_ref()?;
                let record = ContainerRecord {
                    name: slot.name.clone(),
                    process: inside.process.clone(),
                    cgroup: inside.cgroup.path().to_owned(),
                    env: inside.how.env.clone(),
                    dir: inside.how.dir.clone(),
                };
                Some((slot.part, record))
            })
            .collect();
        // The first one is the default.
        running.sort_by_key(|(part, _)| *part != Part::Main);
        let record = PodRecord {
            namespace: self.about.namespace.clone(),
            name: self.about.name.clone(),
            uid: self.about.uid.clone(),
            node: self.context.node.name.clone(),
            containers: running.into_iter().map(|(_, r)| r).collect(),
        };
        if let Err(e) = self.context.node.state.write_pod(&record) {
            tracing::warn!("{e:#}");
        }
    }

    pub(super) fn pod_cgroup(&self) -> crate::cgroup::Cgroup {
        let all = self.context.node.cgroup().child("kubepods");
        all.child(&format!("pod{}", self.about.uid))
    }

    pub(super) fn write_status(&mut self) {
        let seen = self.pod();
        let object = seen
            .status
            .as_ref()
            .and_then(|s| serde_json::to_value(s).ok());
        let before = self.writer.last().or(object.clone());
        let mut status = self.view.json(before.as_ref(), Timestamp::now());
        keep_foreign_conditions(&mut status, object.as_ref());
        self.writer.write(status);
    }
}

/// Conditions that others set, as the object has them now: a merge patch replaces the list.
fn keep_foreign_conditions(status: &mut Value, object: Option<&Value>) {
    const OWN: [&str; 5] = [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ];
    let own = |c: &Value| c["type"].as_str().is_some_and(|t| OWN.contains(&t));
    let Some(list) = status["conditions"].as_array() else {
        return;
    };
    let foreign = object
        .and_then(|o| o["conditions"].as_array())
        .into_iter()
        .flatten();
    let foreign = foreign.filter(|c| !own(c)).cloned();
    let all: Vec<Value> = foreign
        .chain(list.iter().filter(|c| own(c)).cloned())
        .collect();
    status["conditions"] = json!(all);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_of_others_stay() {
        let mut status =
            json!({"conditions": [{"type": "Mine", "status": "old"}, {"type": "Ready"}]});
        let object = json!({"conditions": [{"type": "Mine", "status": "new"}, {"type": "Ready", "status": "x"}]});
        keep_foreign_conditions(&mut status, Some(&object));
        assert_eq!(
            status,
            json!({"conditions": [{"type": "Mine", "status": "new"}, {"type": "Ready"}]})
        );
    }
}
