//! Who serves, and why the others do not. The one place that decides it: plans and explanations both ask here.
use crate::frontend::{Backend, BackendKey, Selection, State};
use crate::input::{Mark, Node};
use model::Text;
use std::fmt;

/// Somebody who might serve a port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What packets would be sent to.
    pub key: BackendKey,
    /// Its share.
    pub weight: u16,
    /// Its node; empty where unknown.
    pub node: Text,
    /// Its zone; empty where unknown.
    pub zone: Text,
    /// Zones that should use it.
    pub zones: Box<[Text]>,
    /// Nodes that should use it.
    pub nodes: Box<[Text]>,
    /// What its slice says of it.
    pub condition: Condition,
    /// What else is said of it.
    pub mark: Option<Mark>,
}

/// Condition of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// Ready.
    Ready,
    /// About to end, but still serving.
    Terminating,
    /// About to end, and no longer serving.
    Ended,
    /// Not ready.
    NotReady,
}

impl Condition {
    /// From the conditions of an endpoint. `publish` makes everybody ready; without `terminating` nobody who ends serves.
    #[must_use]
    pub fn of(endpoint: &crate::input::Endpoint, publish: bool, terminating: bool) -> Self {
        if endpoint.ready || publish {
            Self::Ready
        } else if !endpoint.terminating {
            Self::NotReady
        } else if endpoint.serving && terminating {
            Self::Terminating
        } else {
            Self::Ended
        }
    }
}

/// Whose backends are asked for.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// This node.
    pub node: &'a Node,
    /// Only those of this node.
    pub local: bool,
    /// Hints count.
    pub topology: bool,
}

/// What becomes of a candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It serves.
    Used,
    /// It serves although it is about to end: nobody else is ready.
    UsedTerminating,
    /// It serves although its health check fails: there is nobody else.
    UsedQuarantined,
    /// It is left out.
    Left(Reason),
}

/// Why a candidate is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Not ready.
    NotReady,
    /// About to end, and others serve.
    Terminating,
    /// About to end, and no longer serving.
    Ended,
    /// Its health check fails, and others serve.
    Quarantined,
    /// In maintenance, by hand or by a weight of zero.
    Maintenance,
    /// On another node, where only this one's count.
    OtherNode(Text),
    /// Hints give it to other zones.
    OtherZone(Box<[Text]>),
    /// Hints give it to other nodes.
    HintedElsewhere(Box<[Text]>),
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Used => f.write_str("used"),
            Self::UsedTerminating => f.write_str("used: terminating, but nobody else is ready"),
            Self::UsedQuarantined => {
                f.write_str("used: its health check fails, but there is nobody else")
            }
            Self::Left(reason) => write!(f, "left out: {reason}"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReady => f.write_str("not ready"),
            Self::Terminating => f.write_str("terminating, and others serve"),
            Self::Ended => f.write_str("terminating, and no longer serving"),
            Self::Quarantined => f.write_str("its health check fails, and others serve"),
            Self::Maintenance => f.write_str("in maintenance"),
            Self::OtherNode(node) if node.is_empty() => {
                f.write_str("on no known node, and the traffic policy is Local")
            }
            Self::OtherNode(node) => write!(f, "on node {node}, and the traffic policy is Local"),
            Self::OtherZone(zones) => write!(f, "hints give it to zone {}", zones.join(", ")),
            Self::HintedElsewhere(nodes) => write!(f, "hints give it to node {}", nodes.join(", ")),
        }
    }
}

/// The state a candidate would serve in; none if it cannot.
fn state(candidate: &Candidate) -> Result<State, Reason> {
    if candidate.weight == 0 || candidate.mark == Some(Mark::Maintenance) {
        return Err(Reason::Maintenance);
    }
    match candidate.condition {
        Condition::NotReady => Err(Reason::NotReady),
        Condition::Ended => Err(Reason::Ended),
        Condition::Terminating => Ok(State::Terminating),
        Condition::Ready if candidate.mark == Some(Mark::Quarantined) => Ok(State::Quarantined),
        Condition::Ready => Ok(State::Active),
    }
}

/// Which hints are followed.
enum Hints {
    None,
    Zones,
    Nodes,
}

/// Hints count only where everybody who is active has one, and one of them is for us: else some would get nothing.
fn hints(candidates: &[Candidate], view: &View<'_>) -> Hints {
    if view.local || !view.topology {
        return Hints::None;
    }
    let active = || candidates.iter().filter(|c| state(c) == Ok(State::Active));
    let follow = |of: fn(&Candidate) -> &[Text], ours: &Text| {
        !ours.is_empty()
            && active().all(|c| !of(c).is_empty())
            && active().any(|c| of(c).contains(ours))
    };
    if follow(|c| &c.nodes, &view.node.name) {
        Hints::Nodes
    } else if follow(|c| &c.zones, &view.node.zone) {
        Hints::Zones
    } else {
        Hints::None
    }
}

/// What becomes of each candidate.
#[must_use]
pub fn choose(candidates: &[Candidate], view: &View<'_>) -> Vec<Fate> {
    let hints = hints(candidates, view);
    let judged: Vec<Result<State, Reason>> = candidates
        .iter()
        .map(|candidate| {
            if view.local && (candidate.node != view.node.name || candidate.node.is_empty()) {
                return Err(Reason::OtherNode(candidate.node.clone()));
            }
            let state = state(candidate)?;
            match hints {
                // Whoever ends has no hints any more: they are for those who are active.
                Hints::Zones
                    if state == State::Active && !candidate.zones.contains(&view.node.zone) =>
                {
                    Err(Reason::OtherZone(candidate.zones.clone()))
                }
                Hints::Nodes
                    if state == State::Active && !candidate.nodes.contains(&view.node.name) =>
                {
                    Err(Reason::HintedElsewhere(candidate.nodes.clone()))
                }
                _ => Ok(state),
            }
        })
        .collect();
    let best = judged
        .iter()
        .filter_map(|state| state.as_ref().ok())
        .min()
        .copied();
    judged
        .into_iter()
        .map(|judged| match judged {
            Err(reason) => Fate::Left(reason),
            Ok(state) if Some(state) != best => Fate::Left(match state {
                State::Terminating => Reason::Terminating,
                _ => Reason::Quarantined,
            }),
            Ok(State::Terminating) => Fate::UsedTerminating,
            Ok(State::Quarantined) => Fate::UsedQuarantined,
            Ok(_) => Fate::Used,
        })
        .collect()
}

/// The selection that follows from the fates.
#[must_use]
pub fn selection(candidates: &[Candidate], fates: &[Fate]) -> Selection {
    let mut selection = Selection::default();
    for (candidate, fate) in candidates.iter().zip(fates) {
        let (used, state) = match fate {
            Fate::Used => (true, State::Active),
            Fate::UsedTerminating => (true, State::Terminating),
            Fate::UsedQuarantined => (true, State::Quarantined),
            // Nothing of this frontend has ever gone there.
            Fate::Left(Reason::OtherNode(_)) => continue,
            Fate::Left(Reason::Terminating | Reason::Ended) => (false, State::Terminating),
            Fate::Left(Reason::Quarantined) => (false, State::Quarantined),
            Fate::Left(Reason::Maintenance | Reason::NotReady) => (false, State::Maintenance),
            Fate::Left(Reason::OtherZone(_) | Reason::HintedElsewhere(_)) => (false, State::Active),
        };
        let backend = Backend {
            key: candidate.key,
            state,
            weight: candidate.weight,
            zone: candidate.zone.clone(),
            node: candidate.node.clone(),
        };
        if used {
            selection.used.push(backend);
        } else {
            selection.kept.push(backend);
        }
    }
    selection
}
