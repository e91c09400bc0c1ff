//! Policies, selectors and identities as the agent has them, and questions about verdicts.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{ApiError, MapRow, Validate, input::require};

/// The largest proposal of policies that is read.
pub const MAX_PROPOSAL: usize = 8 * 1024 * 1024;

/// One policy object, taken or refused.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyInfo {
    /// Kind of the object, such as `CiliumNetworkPolicy`.
    pub kind: String,
    /// Its namespace; empty for what has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID; empty where it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// `k8s` or the path of a file.
    pub source: String,
    /// Why it is refused as a whole, as it stands; empty for one that is in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<PolicyProblem>,
    /// It is refused as it stands, and its last version that was not stays in force; rules, labels and endpoints are that one's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub former: bool,
    /// What of it has no effect since another policy says otherwise of the same traffic.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub conflict: String,
    /// The labels by which users find its rules.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Its rules as they stand in the object; those of Cilium's kinds are what `policy get` prints.
    #[serde(default)]
    pub rules: Vec<Value>,
    /// Endpoints of this node that it is about.
    #[serde(default)]
    pub endpoints: Vec<u16>,
}

/// Something in an object that cannot be taken as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyProblem {
    /// Where: a path such as `spec.ingress[0].toPorts[1].ports[0].port`.
    pub path: String,
    /// What is wrong.
    pub what: String,
    /// What could stand there.
    pub accepted: String,
    /// The object is right, but this part of it is not enforced yet.
    #[serde(default)]
    pub not_enforced_yet: bool,
}

/// `GET /v1/policy`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyList {
    /// Grows with every change of a policy that the agent takes over.
    pub revision: u64,
    /// Every policy, in the order of kind, namespace and name.
    pub policies: Vec<PolicyInfo>,
}

/// `GET /v1/policy/revision?wait=REV&timeout=SECONDS`: answered once `realized` has reached `wait`, or the time is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRevision {
    /// Of the policies that the agent knows.
    pub revision: u64,
    /// What the kernel enforces for every endpoint.
    pub realized: u64,
}

/// A selector of peers (`GET /v1/policy/selectors`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SelectorInfo {
    /// Its text.
    pub selector: String,
    /// How many entries of rules use it.
    pub users: u32,
    /// Policies whose rules use it, as `namespace/name` or `name`.
    #[serde(default)]
    pub policies: Vec<String>,
    /// Identities that it selects, sorted.
    #[serde(default)]
    pub identities: Vec<u32>,
}

/// An identity (`GET /v1/identity`, `GET /v1/identity/{id}`).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityInfo {
    /// Number.
    pub id: u32,
    /// Labels, `source:key=value`, sorted.
    pub labels: Vec<String>,
    /// `reserved`, `fixed`, `cluster`, `remote`, `local` or `remote-node`.
    #[serde(default)]
    pub scope: String,
    /// Endpoints of this node that have it.
    #[serde(default)]
    pub endpoints: u32,
}

/// A row of the policy map: `fields` of the rows of `GET /v1/map/cilium_policy[?subject=N]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyMapRow {
    /// Number of the subject; that of an endpoint is [`crate::Endpoint::subject`].
    pub subject: u32,
    /// Endpoints that have it, sorted; the host's is 1.
    #[serde(default)]
    pub endpoints: Vec<u16>,
    /// `ingress` or `egress`.
    pub direction: String,
    /// The other side's identity; 0 for anybody.
    pub remote: u32,
    /// Its labels, sorted; none for anybody.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Protocols and ports: `ANY`, `TCP`, `80/TCP`, `1024-2047/TCP`; of ICMP the type: `8/ICMP`.
    pub traffic: String,
    /// Bits of protocol and port that are compared: 0, or 8 to 24.
    pub prefix: u8,
    /// `allow`, `deny`, or `unmatched` for an exception that drops as if there were no row.
    pub verdict: String,
    /// Where what it allows is sent to: the proxy's port for such connections; 0 where it goes as it is.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub proxy_port: u16,
    /// The row with the greater one counts.
    pub precedence: u32,
    /// How often it decided on a packet that begins something: a connection, or a try that it denies. Others ask no row.
    #[serde(default)]
    pub decided: u32,
    /// What it came from: rules as `CiliumNetworkPolicy shop/web: spec.ingress[0]`, else words.
    #[serde(default)]
    pub rules: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_zero(number: &u16) -> bool {
    *number == 0
}

impl PolicyMapRow {
    /// The typed row.
    ///
    /// # Errors
    /// The row is of another map.
    pub fn of(row: &MapRow) -> Result<Self, serde_json::Error> {
        serde_json::from_value(Value::Object(row.fields.clone().into_iter().collect()))
    }
}

/// How policy is, as a part of `GET /v1/healthz`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// `default`, `always` or `never`.
    pub mode: String,
    /// What is denied is forwarded and reported.
    #[serde(default)]
    pub audit: bool,
    /// The node itself is a subject.
    #[serde(default)]
    pub host_firewall: bool,
    /// All inputs are known. Before, the kernel enforces what it did before the restart, and new pods reach nobody.
    #[serde(default)]
    pub complete: bool,
    /// Revision of the policies.
    #[serde(default)]
    pub revision: u64,
    /// Policies in force.
    #[serde(default)]
    pub policies: u64,
    /// Policies refused.
    #[serde(default)]
    pub refused: u64,
    /// Those of them whose last version that was not refused stays in force.
    #[serde(default)]
    pub former: u64,
    /// Identities known.
    #[serde(default)]
    pub identities: u64,
    /// Subjects: endpoints that share their rows count once.
    #[serde(default)]
    pub subjects: u64,
    /// Rows of the kernel's map.
    #[serde(default)]
    pub rows: u64,
    /// Rows that fit.
    #[serde(default)]
    pub capacity: u64,
    /// Endpoints whose rows do not fit or cannot be written, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<u16>,
    /// What holds for those: `locked down` or `last complete policy`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub behind_has: String,
}

/// A question about a packet (`GET /v1/policy/why?source=…&destination=…&traffic=…`).
///
/// An end is `namespace/name` of a pod, the number of an endpoint of this node, `identity:N`, an address, a reserved name
/// such as `world` or `host`, or labels joined by commas (`k8s:app=web,k8s:io.kubernetes.pod.namespace=shop`).
/// Traffic is `80/TCP`, `53/UDP`, `8/ICMP`, `128/ICMPv6` or a protocol alone; where it is left out, `80/TCP`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhyQuery {
    /// Who sends.
    pub source: String,
    /// Who receives.
    pub destination: String,
    /// Protocol and destination port, or type of an ICMP message.
    #[serde(default)]
    pub traffic: String,
}

impl WhyQuery {
    /// The path of the question.
    #[must_use]
    pub fn to_path(&self) -> String {
        let escape = crate::path::escape;
        format!(
            "{}?source={}&destination={}&traffic={}",
            crate::path::POLICY_WHY,
            escape(&self.source),
            escape(&self.destination),
            escape(&self.traffic)
        )
    }
}

/// The answer to a [`WhyQuery`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Why {
    /// Whether the traffic passes at both ends.
    pub passes: bool,
    /// Who was taken for the source.
    pub source: WhyEnd,
    /// Who was taken for the destination.
    pub destination: WhyEnd,
    /// What was asked about, such as `80/TCP`.
    pub traffic: String,
    /// At the sender; none where policy is not about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<WhySide>,
    /// At the receiver; none likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<WhySide>,
}

/// One end of the traffic in question.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhyEnd {
    /// A name for people.
    pub name: String,
    /// Its identity; 0 where its labels have none.
    pub identity: u32,
    /// Its labels, sorted.
    pub labels: Vec<String>,
    /// Its address, where rules by address can mean it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The endpoint of this node that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<u16>,
}

/// What is decided at one end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WhySide {
    /// Whether it passes here.
    pub passes: bool,
    /// `allowed`, `denied`, `not-allowed`, `not-enforced` or `localhost`.
    pub decision: String,
    /// The entries that decide.
    #[serde(default)]
    pub rules: Vec<RulePlace>,
    /// Where the traffic passes by way of the proxy: what may be asked for, and by which rules.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub via: String,
    /// Where nothing allows the traffic: entries that nearly do.
    #[serde(default)]
    pub near: Vec<RulePlace>,
    /// Where nothing allows the traffic: what rule would.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub needed: String,
    /// What the rows of the kernel's map say: `allow` or `deny`; empty where the end is no endpoint of this node.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kernel: String,
}

/// Where an entry of a policy stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RulePlace {
    /// The object: `CiliumNetworkPolicy shop/web`.
    pub policy: String,
    /// The place in it: `spec.ingress[0]`.
    pub path: String,
    /// Of an entry that nearly allows the traffic: in what it falls short.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub miss: String,
}

/// Policies that are not in force (`POST /v1/policy/check`, `POST /v1/policy/diff`).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyProposal {
    /// Objects of any kind of policy, and CiliumCIDRGroups. One that is in force already under its name is replaced.
    #[serde(default)]
    pub objects: Vec<Value>,
    /// Policies that are taken away, as `Kind namespace/name` or `Kind name`.
    #[serde(default)]
    pub removed: Vec<String>,
}

impl Validate for PolicyProposal {
    fn validate(&self) -> Result<(), ApiError> {
        require(
            !self.objects.is_empty() || !self.removed.is_empty(),
            "objects",
            "there is none, and none is removed",
        )
    }
}

/// Answer to `POST /v1/policy/check`: what the objects are and whom they select. What changes is there only if all of them
/// are right.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyCheck {
    /// The objects, in the order of the proposal.
    pub objects: Vec<CheckedPolicy>,
    /// Pairs that change, counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<PolicyEffect>,
}

impl PolicyCheck {
    /// Whether every object is right.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.objects.iter().all(|object| object.problems.is_empty())
    }
}

/// One object of a proposal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckedPolicy {
    /// `CiliumNetworkPolicy shop/web`, as far as the object tells.
    pub object: String,
    /// Why it is refused; empty for one that is right.
    #[serde(default)]
    pub problems: Vec<PolicyProblem>,
    /// It takes the place of one that is in force.
    #[serde(default)]
    pub replaces: bool,
    /// Identities that it is about.
    #[serde(default)]
    pub identities: Vec<u32>,
    /// Endpoints of this node that it is about.
    #[serde(default)]
    pub endpoints: Vec<u16>,
}

/// What a proposal would change among the identities that are known here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyEffect {
    /// Pairs of identities between which something passes that did not before.
    pub opened: u64,
    /// Pairs of identities between which something passes no longer.
    pub closed: u64,
    /// Pairs of identities whose connections pass before and after, but not for the same requests.
    #[serde(default)]
    pub requests: u64,
    /// Identities whose ingress is default-deny from then on.
    #[serde(default)]
    pub isolated_ingress: Vec<u32>,
    /// Identities whose egress is.
    #[serde(default)]
    pub isolated_egress: Vec<u32>,
}

/// Answer to `POST /v1/policy/diff`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyDiff {
    /// The objects, as in [`PolicyCheck`]; with problems there are no changes.
    pub objects: Vec<CheckedPolicy>,
    /// What changes, by source and destination.
    #[serde(default)]
    pub changes: Vec<VerdictChange>,
    /// Labels of the identities that the changes name.
    #[serde(default)]
    pub identities: BTreeMap<u32, Vec<String>>,
}

/// Traffic of a pair whose verdict changes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerdictChange {
    /// Identity that sends.
    pub source: u32,
    /// Identity that receives.
    pub destination: u32,
    /// It passes then and does not now; else the reverse.
    pub opened: bool,
    /// It passes before and after, but what may be asked for on it is decided otherwise; then [`Self::opened`] is false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub requests: bool,
    /// Which traffic: `80/TCP`, `UDP`, `all traffic` …
    pub traffic: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_policy_map_are_read_from_their_fields() {
        let typed = PolicyMapRow {
            subject: 4711,
            endpoints: vec![7],
            direction: "ingress".into(),
            traffic: "80/TCP".into(),
            prefix: 24,
            verdict: "allow".into(),
            ..PolicyMapRow::default()
        };
        let Ok(Value::Object(fields)) = serde_json::to_value(&typed) else {
            panic!("an object");
        };
        let mut row = MapRow {
            fields: fields.into_iter().collect(),
            ..MapRow::default()
        };
        assert_eq!(PolicyMapRow::of(&row).unwrap(), typed);
        row.fields.remove("subject");
        assert!(PolicyMapRow::of(&row).is_err());
    }

    #[test]
    fn a_question_is_a_path_and_an_empty_proposal_is_refused() {
        let query = WhyQuery {
            source: "shop/a".into(),
            destination: "k8s:app=b&c".into(),
            traffic: "80/TCP".into(),
        };
        assert_eq!(
            query.to_path(),
            "/v1/policy/why?source=shop%2Fa&destination=k8s:app%3Db%26c&traffic=80%2FTCP"
        );
        assert!(PolicyProposal::default().validate().is_err());
    }
}
