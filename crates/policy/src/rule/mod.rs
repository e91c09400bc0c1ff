//! Policies as their authors wrote them, checked and with every default filled in, but nothing resolved: selectors are
//! not matched, named ports and groups are names.
mod entity;
mod inputs;
mod l7;
mod labels;
mod name;
mod tls;

pub use entity::Entity;
pub use inputs::{CidrGroup, NamedPort, NamedPorts, Service};
pub use l7::{HeaderRule, HttpRule, KafkaRole, KafkaRule, L7, L7Kind, L7Rules, Mismatch};
pub use labels::{LabelSelector, Requirement, Test};
pub use model::Protocol;
pub use name::{DnsRule, canonical};
pub use tls::{Inspection, Purpose, SecretName, SecretUse, TlsSecret};

use ipnet::IpNet;
use std::{fmt, sync::Arc};

/// The kinds of objects that hold policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyKind {
    /// Of the whole cluster, before all others, in the order of their priorities.
    AdminNetworkPolicy,
    /// Of the whole cluster, where no other policy decides.
    BaselineAdminNetworkPolicy,
    /// Of the whole cluster.
    CiliumClusterwideNetworkPolicy,
    /// Of one namespace.
    CiliumNetworkPolicy,
    /// Of one namespace, Kubernetes' own.
    NetworkPolicy,
}

impl PolicyKind {
    /// The object's `kind`.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::AdminNetworkPolicy => "AdminNetworkPolicy",
            Self::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
            Self::CiliumClusterwideNetworkPolicy => "CiliumClusterwideNetworkPolicy",
            Self::CiliumNetworkPolicy => "CiliumNetworkPolicy",
            Self::NetworkPolicy => "NetworkPolicy",
        }
    }

    /// True where objects of this kind live in a namespace.
    #[must_use]
    pub const fn is_namespaced(self) -> bool {
        matches!(self, Self::CiliumNetworkPolicy | Self::NetworkPolicy)
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// What tells one policy object from all others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyName {
    /// Kind of the object.
    pub kind: PolicyKind,
    /// Its namespace; empty for what has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// One policy object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Which object.
    pub name: PolicyName,
    /// Its UID; empty where it has none, as from a file.
    pub uid: String,
    /// Its rules.
    pub rules: Vec<Rule>,
}

impl Policy {
    /// The policy without those peers of allowing entries that leave out a range that is `open`: while nobody can tell its addresses
    /// apart from the rest, they would be let in with it.
    #[must_use]
    pub fn without_exceptions(&self, is_open: impl Fn(&IpNet) -> bool) -> Self {
        let mut policy = self.clone();
        for section in policy.rules.iter_mut().flat_map(|rule| &mut rule.sections) {
            for entry in &mut section.entries {
                if let (Action::Allow, Peers::Of(peers)) = (entry.action, &mut entry.peers) {
                    peers.retain(|peer| !peer.exceptions().any(|net| is_open(&net)));
                }
            }
            for require in &mut section.requires {
                require.without_ranges(&is_open);
            }
        }
        policy
    }

    /// The labels by which users find the policy's rules, such as `k8s:io.cilium.k8s.policy.name=web`.
    #[must_use]
    pub fn labels(&self) -> Vec<String> {
        let label = |key: &str, value: &str| format!("k8s:io.cilium.k8s.policy.{key}={value}");
        let mut labels = vec![
            label("derived-from", self.name.kind.text()),
            label("name", &self.name.name),
        ];
        if !self.name.namespace.is_empty() {
            labels.push(label("namespace", &self.name.namespace));
        }
        if !self.uid.is_empty() {
            labels.push(label("uid", &self.uid));
        }
        labels
    }
}

/// A direction of traffic, seen from the subject of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Towards the subject.
    Ingress,
    /// From the subject.
    Egress,
}

impl Direction {
    /// Both, in the order of [`Direction::index`].
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    /// 0 for ingress, 1 for egress.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Ingress => 0,
            Self::Egress => 1,
        }
    }

    /// `ingress` or `egress`.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// One rule of a policy: who it is about, and what it says of each direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where the rule stands in its object: `spec` or `specs[1]`.
    pub path: String,
    /// Whom the rule is about.
    pub subject: SubjectSelector,
    /// What it says of traffic to and from the subject, by [`Direction::index`].
    pub sections: [Section; 2],
    /// Labels that the author gave the rule.
    pub labels: Vec<String>,
    /// What the author says of it.
    pub description: String,
}

impl Rule {
    /// What the rule says of one direction.
    #[must_use]
    pub fn section(&self, direction: Direction) -> &Section {
        &self.sections[direction.index()]
    }
}

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectSelector {
    /// Endpoints; never the host.
    Endpoints(LabelSelector),
    /// Nodes: their hosts.
    Nodes(LabelSelector),
}

/// What a rule says of one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// What no rule allows is denied, for every subject of this rule.
    pub default_deny: bool,
    /// Allow and deny entries, in the order of the object.
    pub entries: Vec<Entry>,
    /// What peers must have besides, see [`Entry::is_required_of`].
    pub requires: Vec<Require>,
}

/// What peers must have besides what an entry asks for (`fromRequires`, `toRequires`). It allows and denies nothing by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Require {
    /// Of which entries.
    pub action: Action,
    /// What they must have.
    pub selector: LabelSelector,
}

/// What an entry says of the traffic that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Let it pass.
    Allow,
    /// Admin policies only: let the next tier decide.
    Pass,
    /// Drop it.
    Deny,
}

impl Action {
    /// `allow`, `pass` or `deny`.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Pass => "pass",
            Self::Deny => "deny",
        }
    }
}

/// When an entry is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Before all others: a lower priority number first, within it a lower index first.
    Admin {
        /// 0 to 1000.
        priority: u16,
        /// Place of the entry in its list.
        index: u16,
    },
    /// All together: deny over allow.
    Normal,
    /// Where neither of the tiers above decides: a lower index first.
    Baseline {
        /// Place of the entry in its list.
        index: u16,
    },
}

/// One entry of a section: traffic of all `peers` that is also `traffic`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where the entry stands in its object: `spec.ingress[0]`.
    pub path: String,
    /// What is said.
    pub action: Action,
    /// When the entry is asked.
    pub tier: Tier,
    /// With whom.
    pub peers: Peers,
    /// Protocols and ports.
    pub traffic: Traffic,
}

impl Entry {
    /// True if such a peer of this entry must have what the [`Section::requires`] of all rules about its subject ask for, those
    /// of other policies, too: it is selected by labels.
    #[must_use]
    pub fn is_required_of(&self, peer: &Peer) -> bool {
        self.tier == Tier::Normal && matches!(peer, Peer::Labels(_))
    }
}

impl Require {
    /// While nobody can tell the addresses of `open` ranges from others, what is asked of them is taken as it lets in the fewest:
    /// nobody has what entries that allow require, everybody what those require that deny.
    fn without_ranges(&mut self, is_open: impl Fn(&IpNet) -> bool) {
        let names_open = |one: &Requirement| match one {
            Requirement::Cidr { net, .. } => is_open(net),
            Requirement::Label { .. } => false,
        };
        let requirements = &mut self.selector.requirements;
        if !requirements.iter().any(names_open) {
            return;
        }
        requirements.retain(|one| !names_open(one));
        match self.action {
            Action::Deny => requirements.clear(),
            Action::Allow | Action::Pass => requirements.push(Requirement::Label {
                source: None,
                key: String::new(),
                test: Test::Exists,
            }),
        }
    }
}

/// The other side of the traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peers {
    /// Whoever it is, known or not.
    Any,
    /// Whom one of these matches; nobody if there is none.
    Of(Vec<Peer>),
}

/// One way to say who the other side is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Identities with these labels.
    Labels(LabelSelector),
    /// Nodes with these labels, this one included.
    Nodes(LabelSelector),
    /// A class of peers; never [`Entity::All`], which is [`Peers::Any`].
    Entity(Entity),
    /// Addresses of a range.
    Cidr(Range),
    /// Addresses of the ranges of the group with this name.
    Group {
        /// Name of the group.
        name: String,
        /// Ranges left out.
        except: Vec<IpNet>,
    },
    /// Addresses of the ranges of all groups with these labels.
    Groups {
        /// Labels of the groups' objects.
        selector: LabelSelector,
        /// Ranges left out.
        except: Vec<IpNet>,
    },
    /// What stands behind services.
    Service(ServicePeer),
    /// Addresses that pods of this node have been told for names like this one.
    Name(DnsRule),
}

impl Peer {
    /// Ranges that are left out.
    fn exceptions(&self) -> impl Iterator<Item = IpNet> + '_ {
        let (labels, except) = match self {
            Self::Labels(selector) => (Some(selector), &[][..]),
            Self::Cidr(range) => (None, &range.except[..]),
            Self::Group { except, .. } | Self::Groups { except, .. } => (None, &except[..]),
            Self::Nodes(_) | Self::Entity(_) | Self::Service(_) | Self::Name(_) => (None, &[][..]),
        };
        let requirements = labels.into_iter().flat_map(|labels| &labels.requirements);
        let outside = requirements.filter_map(|one| match one {
            Requirement::Cidr { net, inside: false } => Some(*net),
            _ => None,
        });
        except.iter().copied().chain(outside)
    }
}

/// A range of addresses without some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The range.
    pub cidr: IpNet,
    /// Parts of it that are left out.
    pub except: Vec<IpNet>,
}

/// Which services are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServicePeer {
    /// The one of this name.
    Named {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// All with these labels.
    Labelled {
        /// Their namespace; none for all.
        namespace: Option<String>,
        /// The labels of the service objects.
        selector: LabelSelector,
    },
}

/// Protocols and ports of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// All protocols, ICMP included.
    All,
    /// What one of these matches.
    Ports(Vec<PortMatch>),
    /// What one of these matches.
    Icmp(Vec<IcmpMatch>),
}

/// Number of ICMP in the IPv4 header.
pub const ICMP: u8 = 1;
/// Number of ICMPv6 in the IPv6 header.
pub const ICMPV6: u8 = 58;

/// A protocol and its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMatch {
    /// None for TCP, UDP and SCTP.
    pub protocol: Option<Protocol>,
    /// The ports.
    pub port: Port,
    /// What may be asked for there; none for everything. Of TCP, and of UDP for DNS.
    pub l7: Option<Arc<L7>>,
}

/// Ports by number or name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// From the first to the last, both included; 0 to 65535 for all.
    Range(u16, u16),
    /// The ports of this name of the pod that receives: the subject's for ingress, the peer's for egress.
    Named(String),
}

impl Port {
    /// Every port.
    pub const ALL: Self = Self::Range(0, u16::MAX);
}

/// A type of ICMP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpMatch {
    /// ICMPv6 instead of ICMP.
    pub v6: bool,
    /// The type.
    pub kind: u8,
}
