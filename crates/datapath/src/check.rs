//! Comparing what is attached and pinned with what should be.
use std::{collections::BTreeMap, fmt};

use abi::{LocalEndpoint, names};

use crate::{Attachment, Datapath, Mechanism, Owner, Result};

/// An endpoint that the caller knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its number.
    pub id: u16,
    /// Its host-side device.
    pub ifindex: u32,
    /// What the endpoint map should hold.
    pub entry: LocalEndpoint,
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// An endpoint's program is not attached to its device.
    NotAttached {
        /// The endpoint.
        id: u16,
        /// Its device.
        ifindex: u32,
    },
    /// Programs are attached for an endpoint that is not known.
    Leaked {
        /// What is attached.
        owner: Owner,
        /// The program.
        program: &'static str,
    },
    /// An attachment runs a program other than the current one.
    OldProgram {
        /// What it belongs to.
        owner: Owner,
        /// The program.
        program: &'static str,
    },
    /// The device or control group of an attachment is gone.
    DeviceGone {
        /// What it belonged to.
        owner: Owner,
        /// The program.
        program: &'static str,
    },
    /// An endpoint is not in the endpoint map, or otherwise than it should be.
    MapEntry {
        /// The endpoint.
        id: u16,
        /// Whether there is an entry at all.
        present: bool,
    },
    /// The endpoint map has an endpoint that is not known.
    LeakedEntry {
        /// Number of the endpoint in it.
        id: u16,
        /// Its device.
        ifindex: u32,
    },
    /// An address of the endpoint map leads to a device that no known endpoint has.
    LeakedAddress {
        /// The address, as in the key.
        key: abi::EndpointKey,
        /// Where it leads.
        ifindex: u32,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAttached { id, ifindex } => {
                write!(f, "endpoint {id}: no program on its device #{ifindex}")
            }
            Self::Leaked { owner, program } => write!(
                f,
                "{owner}: {program} is attached, but there is no such endpoint"
            ),
            Self::OldProgram { owner, program } => {
                write!(f, "{owner}: {program} is an old program")
            }
            Self::DeviceGone { owner, program } => {
                write!(
                    f,
                    "{owner}: {program} is pinned, but what it was attached to is gone"
                )
            }
            Self::MapEntry { id, present: true } => write!(
                f,
                "endpoint {id}: its entry in {} is not as it should be",
                names::LXC_IFINDEX
            ),
            Self::MapEntry { id, present: false } => {
                write!(f, "endpoint {id}: no entry in {}", names::LXC_IFINDEX)
            }
            Self::LeakedEntry { id, ifindex } => {
                write!(
                    f,
                    "{}: entry of device #{ifindex} is of endpoint {id}, which does not exist",
                    names::LXC_IFINDEX
                )
            }
            Self::LeakedAddress { key, ifindex } => {
                write!(
                    f,
                    "{}: {} leads to device #{ifindex}, which is no endpoint's",
                    names::LXC,
                    address(key)
                )
            }
        }
    }
}

fn address(key: &abi::EndpointKey) -> std::net::IpAddr {
    match (key.family, key.ip) {
        (abi::family::V4, [a, b, c, d, ..]) => [a, b, c, d].into(),
        (_, ip) => ip.into(),
    }
}

impl Datapath {
    /// Compares attachments and endpoint maps with the endpoints that should exist. Nothing is changed.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn check(&self, expected: &[Expected]) -> Result<Vec<Problem>> {
        let endpoints: BTreeMap<u16, &Expected> = expected.iter().map(|e| (e.id, e)).collect();
        let mut problems = check_attachments(&self.attachments()?, &endpoints);
        let maps = self.endpoints()?;
        problems.extend(check_entries(&maps.dump()?, &endpoints));
        let known = |ifindex| expected.iter().any(|e| e.ifindex == ifindex);
        problems.extend(
            maps.dump_addresses()?
                .into_iter()
                .filter(|(_, info)| {
                    info.flags & abi::endpoint_flags::HOST == 0 && !known(info.ifindex)
                })
                .map(|(key, info)| Problem::LeakedAddress {
                    key,
                    ifindex: info.ifindex,
                }),
        );
        Ok(problems)
    }
}

fn check_attachments(found: &[Attachment], endpoints: &BTreeMap<u16, &Expected>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for attachment in found {
        let (owner, program) = (attachment.owner.clone(), attachment.program);
        match &owner {
            Owner::Endpoint(id) if !endpoints.contains_key(id) => {
                problems.push(Problem::Leaked { owner, program })
            }
            _ if attachment.gone => problems.push(Problem::DeviceGone { owner, program }),
            _ if !attachment.current => problems.push(Problem::OldProgram { owner, program }),
            _ => {}
        }
    }
    for expected in endpoints.values() {
        let attached = found.iter().any(|a| {
            a.owner == Owner::Endpoint(expected.id)
                && (a.ifindex == expected.ifindex || a.mechanism == Mechanism::Netkit)
                && a.program == names::FROM_CONTAINER
        });
        if !attached {
            problems.push(Problem::NotAttached {
                id: expected.id,
                ifindex: expected.ifindex,
            });
        }
    }
    problems
}

fn check_entries(found: &[LocalEndpoint], endpoints: &BTreeMap<u16, &Expected>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for entry in found {
        let (id, ifindex) = (entry.info.id, entry.info.ifindex);
        if endpoints.get(&id).is_none_or(|e| e.ifindex != ifindex) {
            problems.push(Problem::LeakedEntry { id, ifindex });
        }
    }
    for expected in endpoints.values() {
        let entry = found.iter().find(|e| e.info.ifindex == expected.ifindex);
        if entry != Some(&expected.entry) {
            problems.push(Problem::MapEntry {
                id: expected.id,
                present: entry.is_some(),
            });
        }
    }
    problems
}
