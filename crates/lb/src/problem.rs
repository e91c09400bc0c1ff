//! What cannot be done as asked, for people.
use crate::frontend::{FrontendKey, Owner};
use std::fmt;

/// Something that is wrong with an object, or that stands in its way. Everything else of it, and of others, is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Somebody else has the address and port.
    Clash {
        /// What is claimed twice.
        frontend: FrontendKey,
        /// Who has it.
        holder: Owner,
    },
    /// A field or annotation cannot be read; `accepted` says what could stand there.
    Field {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        what: String,
        /// What could stand there.
        accepted: &'static str,
    },
    /// A node port outside the range of node ports.
    OutOfRange(u16),
    /// The map of Maglev tables is full: backends are chosen at random.
    NoTable(FrontendKey),
    /// A map is full: so many backends of so many have found room.
    Full {
        /// What is served in part, or not at all.
        frontend: FrontendKey,
        /// Backends that have found room; none: the frontend is not served at all.
        placed: Option<usize>,
        /// Backends that there are.
        wanted: usize,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clash { frontend, holder } => write!(f, "{frontend} belongs to {holder}"),
            Self::Field {
                name,
                what,
                accepted,
            } => write!(f, "{name}: {what}; accepted: {accepted}"),
            Self::OutOfRange(port) => {
                write!(f, "node port {port} is outside node-port-range")
            }
            Self::NoTable(frontend) => write!(
                f,
                "{frontend} has no Maglev table, its backends are chosen at random: the map is full; lower bpf-lb-maglev-table-size, or choose maglev by annotation for fewer services"
            ),
            Self::Full {
                frontend,
                placed: None,
                ..
            } => write!(
                f,
                "{frontend} is not served: a map is full; raise bpf-lb-map-max"
            ),
            Self::Full {
                frontend,
                placed: Some(placed),
                wanted,
            } => write!(
                f,
                "{frontend} has {placed} of {wanted} backends: a map is full; raise bpf-lb-map-max"
            ),
        }
    }
}

impl std::error::Error for Problem {}
