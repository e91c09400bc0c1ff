//! Transport protocols with ports.
use serde::{Serialize, Serializer};
use std::fmt;

/// A transport protocol with ports that rules and services can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The protocol of this name; none given means TCP, as in Kubernetes.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        if name.is_empty() {
            return Some(Self::Tcp);
        }
        Self::ALL.into_iter().find(|one| one.text() == name)
    }

    /// The number in an IP header.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            6 => Self::Tcp,
            17 => Self::Udp,
            132 => Self::Sctp,
            _ => return None,
        })
    }

    /// The name in upper case.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.text())
    }
}
