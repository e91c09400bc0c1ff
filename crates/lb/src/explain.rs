//! Why a frontend has the backends it has.
use crate::claims::{candidates, port_of, view};
use crate::frontend::{Frontend, FrontendKey, Owner, Scope, flags};
use crate::planner::Planner;
use crate::redirect::{From, Unfit};
use crate::rows::Master;
use crate::select::{Candidate, Fate, choose};
use crate::{frontend::BackendKey, input::names};
use std::fmt;

/// A backend of a frontend, or somebody who might be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Who.
    pub key: BackendKey,
    /// Node and zone, where known.
    pub place: String,
    /// What becomes of it, in words.
    pub fate: String,
    /// Whether it gets new connections.
    pub used: bool,
}

/// What there is to say of a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// The frontend.
    pub frontend: Frontend,
    /// Its row in the kernel.
    pub row: Option<Master>,
    /// Everybody who might serve it.
    pub backends: Vec<Judged>,
    /// Others who want the same address and port.
    pub others: Vec<Owner>,
    /// What besides matters.
    pub notes: Vec<String>,
}

impl Planner {
    /// Why a frontend has its backends, and why the others are left out; none where nobody serves that address and port.
    #[must_use]
    pub fn why(&self, key: &FrontendKey) -> Option<Why> {
        let frontend = self.frontend(key)?.clone();
        let backends = match &frontend.owner {
            Owner::Service(service) => {
                let service = self.world.services.get(service)?;
                let port = port_of(service, &frontend)?;
                let (found, _) = candidates(&self.world, service, port, key.address.is_ipv6());
                let fates = choose(&found, &view(&self.world, is_local(&frontend)));
                found
                    .iter()
                    .zip(fates)
                    .map(|(found, fate)| judged(found, &fate))
                    .collect()
            }
            Owner::Pod(_) => {
                let used = frontend.selection.used.iter();
                used.map(|backend| Judged {
                    key: backend.key,
                    place: String::new(),
                    fate: "used: the pod with this port".to_owned(),
                    used: true,
                })
                .collect()
            }
            Owner::Redirect(_) => self.why_redirect(&frontend),
        };
        Some(Why {
            row: self.row(key),
            backends,
            others: self
                .others(key)
                .iter()
                .map(|other| other.owner.clone())
                .collect(),
            notes: notes(&frontend),
            frontend,
        })
    }

    fn why_redirect(&self, frontend: &Frontend) -> Vec<Judged> {
        let Some(redirect) = self.world.redirects.get(frontend.owner.key()) else {
            return Vec::new();
        };
        let service = match &redirect.from {
            From::Service(key) => self.world.services.get(key).map(|service| &**service),
            From::Address(_) => None,
        };
        let mut frontends = redirect.frontends(service).into_iter();
        let Some((_, port)) = frontends.find(|(key, _)| *key == frontend.key) else {
            return Vec::new();
        };
        let pods = self.world.pods_in(names(&redirect.key).0);
        let found = redirect.backends(pods, port, frontend.key.address.is_ipv6());
        found
            .into_iter()
            .map(|(pod, key, unfit)| Judged {
                key,
                place: format!("pod {}", pod.key),
                fate: match unfit {
                    None => "used: a pod of this node that the policy selects",
                    Some(Unfit::Terminating) => "left out: terminating",
                    Some(Unfit::NotReady) => "left out: not ready",
                }
                .to_owned(),
                used: unfit.is_none(),
            })
            .collect()
    }
}

/// Whether only this node's backends count for a frontend.
fn is_local(frontend: &Frontend) -> bool {
    match (frontend.kind, frontend.key.scope) {
        (crate::frontend::Kind::ClusterIp, _) | (_, Scope::Internal) => {
            frontend.has(flags::INTERNAL_LOCAL)
        }
        (_, Scope::External) => frontend.has(flags::EXTERNAL_LOCAL),
    }
}

fn judged(candidate: &Candidate, fate: &Fate) -> Judged {
    let mut place = Vec::new();
    if !candidate.node.is_empty() {
        place.push(format!("node {}", candidate.node));
    }
    if !candidate.zone.is_empty() {
        place.push(format!("zone {}", candidate.zone));
    }
    Judged {
        key: candidate.key,
        place: place.join(", "),
        fate: fate.to_string(),
        used: !matches!(fate, Fate::Left(_)),
    }
}

fn notes(frontend: &Frontend) -> Vec<String> {
    let mut notes = Vec::new();
    if frontend.selection.used.is_empty() {
        notes.push("no backend serves: connections are refused at once".to_owned());
    }
    if let Some(seconds) = frontend.affinity {
        notes.push(format!("a client keeps its backend for {seconds} s"));
    }
    if let Some(ranges) = &frontend.ranges {
        let nets: Vec<_> = ranges.nets.iter().map(ToString::to_string).collect();
        let word = if ranges.deny { "refused" } else { "allowed" };
        notes.push(format!("{word} clients: {}", nets.join(", ")));
    }
    if frontend.has(flags::TWO_SCOPES) {
        notes.push(match frontend.key.scope {
            Scope::External => "clients of the cluster see another frontend, /i".to_owned(),
            Scope::Internal => "for clients of the cluster only".to_owned(),
        });
    }
    notes
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frontend = &self.frontend;
        write!(
            f,
            "{}  {} of {}",
            frontend.key,
            frontend.kind.text(),
            frontend.owner
        )?;
        if let Some(row) = self.row {
            write!(f, ", number {}", row.id)?;
        }
        for backend in &self.backends {
            write!(f, "\n  {}  {}", backend.key, backend.fate)?;
            if !backend.place.is_empty() {
                write!(f, "  ({})", backend.place)?;
            }
        }
        for note in &self.notes {
            write!(f, "\n  {note}")?;
        }
        for other in &self.others {
            write!(f, "\n  wanted by {other}, too")?;
        }
        Ok(())
    }
}
