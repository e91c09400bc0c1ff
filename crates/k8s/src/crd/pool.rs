//! `CiliumPodIPPool`: address space that nodes get ranges of.
use super::{
    AGE, Crd, Scope,
    schema::{Object, cidr, integer_between, list_of_some},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(super) const CRD: Crd = Crd {
    kind: "CiliumPodIPPool",
    plural: "ciliumpodippools",
    short: &["cpip"],
    scope: Scope::Cluster,
    versions: &["v2alpha1"],
    status: false,
    categories: &[],
    columns: &[AGE],
    schema,
};

/// Address space that nodes get ranges of.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CiliumPodIpPool {
    /// Name and the like.
    pub metadata: ObjectMeta,
    /// The address space.
    pub spec: CiliumPodIpPoolSpec,
}

/// Address space of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CiliumPodIpPoolSpec {
    /// IPv4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<PoolRange>,
    /// IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<PoolRange>,
}

/// Address space of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PoolRange {
    /// The ranges.
    pub cidrs: Vec<String>,
    /// Size of the parts that nodes get, as a prefix length.
    pub mask_size: u8,
}

fn schema() -> Value {
    let range = |about: &'static str, longest: i64| {
        Object::new(about)
            .required(
                "cidrs",
                list_of_some(cidr()),
                "Ranges of the pool. More can be added at the end while it is in use.",
            )
            .required(
                "maskSize",
                integer_between(1, longest),
                "Size of the parts that nodes get, as a prefix length.",
            )
            .build()
    };
    let spec = Object::new("The address space.")
        .optional("ipv4", range("IPv4.", 32), "IPv4 address space.")
        .optional("ipv6", range("IPv6.", 128), "IPv6 address space.");
    Object::new("Address space that nodes get ranges of, for the pods that ask for this pool.")
        .required("spec", spec.build(), "The address space.")
        .root()
}
