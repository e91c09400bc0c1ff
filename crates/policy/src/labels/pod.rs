//! The security-relevant labels of a pod.
use super::{CLUSTER, K8S, LabelFilter, NAMESPACE, NAMESPACE_LABELS};
use model::{Labels, PodLabels};

/// Key of the label that holds the name of a pod's service account.
const SERVICE_ACCOUNT: &str = "io.cilium.k8s.policy.serviceaccount";
/// The label that the API server sets on every namespace.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// The labels of a pod that `filter` lets through; these make its identity.
///
/// What is derived (namespace, cluster, service account) wins over a pod's own label of the same key: a pod may not claim
/// to be in another namespace.
#[must_use]
pub fn pod_labels(pod: &PodLabels<'_>, filter: &LabelFilter) -> Labels {
    let account = match pod.service_account {
        "" => "default",
        account => account,
    };
    let own = pod
        .labels
        .iter()
        .filter(|(key, _)| !is_derived(key))
        .map(|(key, value)| (key.to_owned(), value));
    let of_namespace = pod
        .namespace_labels
        .iter()
        .map(|(key, value)| (format!("{NAMESPACE_LABELS}{key}"), value));
    let derived = [
        (
            // Known before the namespace object is seen, so that all nodes agree from the start.
            format!("{NAMESPACE_LABELS}{NAMESPACE_NAME}"),
            pod.namespace,
        ),
        (NAMESPACE.to_owned(), pod.namespace),
        (CLUSTER.to_owned(), pod.cluster),
        (SERVICE_ACCOUNT.to_owned(), account),
    ];
    own.chain(of_namespace)
        .chain(derived)
        .filter(|(key, _)| filter.keeps(K8S, key))
        .map(|(key, value)| format!("{K8S}:{key}={value}"))
        .collect()
}

fn is_derived(key: &str) -> bool {
    key == NAMESPACE
        || key == CLUSTER
        || key == SERVICE_ACCOUNT
        || key.starts_with(NAMESPACE_LABELS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::LabelMap;

    fn map(pairs: &[(&str, &str)]) -> LabelMap {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_pod_has_its_own_labels_and_those_of_its_place() {
        let labels = map(&[
            ("app", "cart"),
            ("app.kubernetes.io/name", "cart"),
            ("pod-template-hash", "x1"),
            ("io.kubernetes.pod.namespace", "bank"),
        ]);
        let namespace_labels = map(&[("team", "shop")]);
        let pod = PodLabels {
            cluster: "default",
            namespace: "shop",
            namespace_labels: &namespace_labels,
            service_account: "",
            labels: &labels,
        };
        let got = pod_labels(&pod, &LabelFilter::default());
        assert_eq!(
            got.to_strings(),
            [
                "k8s:app=cart",
                "k8s:app.kubernetes.io/name=cart",
                "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop",
                "k8s:io.cilium.k8s.namespace.labels.team=shop",
                "k8s:io.cilium.k8s.policy.cluster=default",
                "k8s:io.cilium.k8s.policy.serviceaccount=default",
                "k8s:io.kubernetes.pod.namespace=shop",
            ]
        );
    }
}
