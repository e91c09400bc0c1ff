//! What rules refer to by name.
use super::Protocol;
use ipnet::IpNet;
use std::{collections::BTreeMap, collections::BTreeSet, net::IpAddr};

/// A group of address ranges that rules name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CidrGroup {
    /// Its name.
    pub name: String,
    /// Labels of the object.
    pub labels: BTreeMap<String, String>,
    /// Its ranges.
    pub cidrs: Vec<IpNet>,
}

/// A service that rules may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Labels of the object.
    pub labels: BTreeMap<String, String>,
    /// The pods behind it; empty where its addresses are written by hand.
    pub selector: BTreeMap<String, String>,
    /// Where it has no selector: the addresses behind it.
    pub addresses: Vec<IpAddr>,
}

/// A port of a pod that has a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// The named ports of a pod, or of all pods of an identity.
pub type NamedPorts = BTreeSet<NamedPort>;
