//! Classes of peers that have names instead of labels.
use std::fmt;

macro_rules! entities {
    ($($name:ident $text:literal $doc:literal,)*) => {
        /// A class of peers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Entity {
            $(#[doc = $doc] $name,)*
        }

        impl Entity {
            /// Every entity.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// Their names, in the same order.
            pub const NAMES: &'static [&'static str] = &[$($text,)*];

            /// The name in a rule.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

entities! {
    All "all" "Whoever it is.",
    World "world" "What is outside the cluster.",
    Cluster "cluster" "Endpoints and nodes of the cluster.",
    Host "host" "This node.",
    RemoteNode "remote-node" "Other nodes.",
    KubeApiserver "kube-apiserver" "Addresses of the API server.",
    Ingress "ingress" "The ingress proxy.",
    Health "health" "Health endpoints.",
    Init "init" "Endpoints without identity yet.",
    Unmanaged "unmanaged" "Pods that are not managed.",
    Nobody "none" "Nobody.",
}

impl Entity {
    /// The entity of this name.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|entity| entity.text() == text)
    }

    /// The keys of the reserved labels of which a member has one. `Cluster` has more members: the endpoints.
    #[must_use]
    pub const fn reserved(self) -> &'static [&'static str] {
        match self {
            Self::All | Self::Nobody => &[],
            Self::World => &["world", "world-ipv4", "world-ipv6"],
            Self::Cluster => &[
                "host",
                "remote-node",
                "init",
                "ingress",
                "health",
                "unmanaged",
                "kube-apiserver",
            ],
            Self::Host => &["host"],
            Self::RemoteNode => &["remote-node"],
            Self::KubeApiserver => &["kube-apiserver"],
            Self::Ingress => &["ingress"],
            Self::Health => &["health"],
            Self::Init => &["init"],
            Self::Unmanaged => &["unmanaged"],
        }
    }
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}
