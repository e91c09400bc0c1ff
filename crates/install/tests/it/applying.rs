//! Installing, upgrading and taking away, against a real API server, looked at with kubectl.
use hypha_install::apply::ApplyError;
use hypha_install::release::Status;
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::ConfigMap};
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::cluster::{Cluster, release};

async fn settings(cluster: &Cluster) -> std::collections::BTreeMap<String, String> {
    let api: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "kube-system");
    api.get("cilium-config")
        .await
        .unwrap()
        .data
        .unwrap_or_default()
}

async fn statuses(cluster: &Cluster) -> Vec<(u32, Status)> {
    let mut quiet = |_: &str| {};
    let history = release(&cluster.client, false, &mut quiet)
        .history()
        .await
        .unwrap();
    history
        .records
        .iter()
        .map(|record| (record.version, record.info.status))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_comes_changes_and_goes() {
    let mut cluster = Cluster::start().await;
    assert_eq!(
        cluster
            .bring(json!({"operator": {"replicas": 1}}))
            .await
            .unwrap(),
        1
    );
    assert_eq!(cluster.steps.len(), 23);
    assert_eq!(cluster.steps[0], "Namespace cilium-secrets created");
    if let Some(text) = cluster
        .kubectl("-n kube-system get ds,deploy -o name")
        .await
    {
        assert_eq!(
            text,
            "daemonset.apps/cilium\ndaemonset.apps/cilium-envoy\ndeployment.apps/cilium-operator"
        );
        let config = "-n kube-system get cm cilium-config -o jsonpath={.data.ipam}{.metadata.labels.app\\.kubernetes\\.io/managed-by}";
        assert_eq!(cluster.kubectl(config).await.unwrap(), "cluster-poolHelm");
        let role = cluster
            .kubectl("describe clusterrole cilium")
            .await
            .unwrap();
        assert!(role.contains("ciliumendpoints.cilium.io"), "{role}");
        let secrets = cluster.kubectl("-n kube-system get secret -l owner=helm -o custom-columns=N:.metadata.name,T:.type,S:.metadata.labels.status --no-headers").await;
        assert_eq!(
            secrets.unwrap().split_whitespace().collect::<Vec<_>>(),
            [
                "sh.helm.release.v1.cilium.v1",
                "helm.sh/release.v1",
                "deployed"
            ]
        );
    }
    // The same again changes nothing.
    assert_eq!(
        cluster
            .bring(json!({"operator": {"replicas": 1}}))
            .await
            .unwrap(),
        2
    );
    assert!(
        cluster.steps.iter().all(|step| step.ends_with("unchanged")),
        "{:?}",
        cluster.steps
    );
    // More, then less: what is not rendered any more goes, settings included.
    let more = json!({"prometheus": {"enabled": true, "metricsService": true}, "devices": ["eth0"], "operator": {"podDisruptionBudget": {"enabled": true}}});
    cluster.bring(more).await.unwrap();
    assert_eq!(settings(&cluster).await["devices"], "eth0");
    cluster
        .bring(json!({"ipam": {"mode": "kubernetes"}}))
        .await
        .unwrap();
    assert!(cluster.steps.contains(
        &"Service kube-system/cilium-agent deleted: it is not rendered any more".to_owned()
    ));
    assert!(
        cluster.steps.contains(
            &"PodDisruptionBudget kube-system/cilium-operator deleted: it is not rendered any more"
                .to_owned()
        )
    );
    let now = settings(&cluster).await;
    assert_eq!(
        (now.get("devices"), now["ipam"].as_str()),
        (None, "kubernetes")
    );
    assert_eq!(
        statuses(&cluster).await,
        [
            (1, Status::Superseded),
            (2, Status::Superseded),
            (3, Status::Superseded),
            (4, Status::Deployed)
        ]
    );
    let mut quiet = |_: &str| {};
    let removed = release(&cluster.client, false, &mut quiet)
        .remove()
        .await
        .unwrap();
    assert_eq!((removed.gone.len(), removed.left.len()), (23, 0));
    assert_eq!(removed.gone[0], "Deployment kube-system/cilium-operator");
    if let Some(text) = cluster.kubectl("-n kube-system get sa,cm,secret,ds,deploy,role,rolebinding,pdb -l app.kubernetes.io/part-of=cilium -o name").await {
        assert_eq!(text, "");
        assert_eq!(cluster.kubectl("get clusterrole,clusterrolebinding -l app.kubernetes.io/part-of=cilium -o name").await.unwrap(), "");
    }
    assert_eq!(statuses(&cluster).await, []);
    let error = release(&cluster.client, false, &mut quiet)
        .remove()
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no release cilium in namespace kube-system"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_revisions_are_kept() {
    let mut cluster = Cluster::start().await;
    for level in 0..12 {
        cluster.bring(json!({"mtu": 1400 + level})).await.unwrap();
    }
    let kept = statuses(&cluster).await;
    assert_eq!(
        (kept.len(), kept[0].0, kept[9]),
        (10, 3, (12, Status::Deployed))
    );
}

/// What people changed with `hypha config set` or kubectl.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_takes_what_is_its_own_and_nothing_else() {
    let mut cluster = Cluster::start().await;
    cluster.bring(json!({})).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "kube-system");
    let change = |manager: &str, data: Value| {
        let params = PatchParams {
            field_manager: Some(manager.to_owned()),
            ..PatchParams::default()
        };
        let maps = maps.clone();
        async move {
            maps.patch(
                "cilium-config",
                &params,
                &Patch::Merge(json!({"data": data})),
            )
            .await
            .unwrap()
        }
    };
    change("hypha-config", json!({"debug": "true", "mine": "x"})).await;
    cluster.bring(json!({})).await.unwrap();
    let now = settings(&cluster).await;
    assert_eq!(
        (now["debug"].as_str(), now["mine"].as_str()),
        ("false", "x")
    );
    change("kubectl-edit", json!({"debug": "true"})).await;
    let before = statuses(&cluster).await;
    let error = cluster.bring(json!({})).await.unwrap_err().to_string();
    assert!(
        error.starts_with("ConfigMap kube-system/cilium-config: ")
            && error.contains("kubectl-edit"),
        "{error}"
    );
    assert!(
        error.ends_with("--force-conflicts takes the fields over") && error.lines().count() == 1,
        "{error}"
    );
    assert_eq!(statuses(&cluster).await, before, "nothing was begun");
    cluster.bring_with(json!({}), true).await.unwrap();
    assert_eq!(settings(&cluster).await["debug"], "false");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_fail_changes_nothing() {
    let mut cluster = Cluster::start().await;
    let nothing = |cluster: &Cluster| {
        let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "kube-system");
        async move { maps.get_opt("cilium-config").await.unwrap().is_none() }
    };
    // The API server refuses the last of the objects.
    let error = cluster
        .bring(json!({"operator": {"updateStrategy": {"type": "Sideways"}}}))
        .await
        .unwrap_err();
    assert!(matches!(error, ApplyError::Refused { .. }), "{error}");
    assert!(
        error
            .to_string()
            .starts_with("Deployment kube-system/cilium-operator: "),
        "{error}"
    );
    // A kind that the cluster lacks.
    let error = cluster
        .bring(json!({"prometheus": {"enabled": true, "serviceMonitor": {"enabled": true}}}))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "ServiceMonitor kube-system/cilium-agent: the cluster has no kind ServiceMonitor of monitoring.coreos.com/v1"
    );
    let error = cluster
        .bring(json!({"ipam": {"mode": "eni"}}))
        .await
        .unwrap_err();
    assert!(matches!(error, ApplyError::Render(_)), "{error}");
    assert!(nothing(&cluster).await);
    // Somebody else's object of that name.
    if cluster
        .kubectl("-n kube-system create configmap cilium-config --from-literal=a=b")
        .await
        .is_some()
    {
        let error = cluster.bring(json!({})).await.unwrap_err().to_string();
        assert_eq!(
            error,
            "ConfigMap kube-system/cilium-config: it is there and belongs to no release; --force-conflicts takes it over"
        );
        cluster.bring_with(json!({}), true).await.unwrap();
        assert_eq!(settings(&cluster).await["a"], "b");
    }
}

/// An upgrade that is refused half-way, though all was well when it was tried: the record says so, and the next one mends it.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_half_way_is_said_and_mended() {
    let mut cluster = Cluster::start().await;
    let mut quiet = |_: &str| {};
    let mut first = release(&cluster.client, false, &mut quiet);
    let history = first.history().await.unwrap();
    let plan = first.plan(history, json!({})).await.unwrap();
    // Between the trial and the work somebody makes an object of the same name, with fields of their own.
    let sets: Api<DaemonSet> = Api::namespaced(cluster.client.clone(), "kube-system");
    let pod = json!({"metadata": {"labels": {"k8s-app": "other"}}, "spec": {"containers": [{"name": "x", "image": "y"}]}});
    let other = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "cilium"},
        "spec": {"selector": {"matchLabels": {"k8s-app": "other"}}, "template": pod}});
    let params = PatchParams::apply("somebody");
    sets.patch("cilium", &params, &Patch::Apply(other))
        .await
        .unwrap();
    let error = first.carry_out(plan).await.unwrap_err().to_string();
    assert!(
        error.starts_with("DaemonSet kube-system/cilium: "),
        "{error}"
    );
    assert!(
        error.contains("changed so far: Namespace cilium-secrets, "),
        "{error}"
    );
    assert!(
        error
            .ends_with("`hypha uninstall` takes it away (release cilium in namespace kube-system)"),
        "{error}"
    );
    assert_eq!(statuses(&cluster).await, [(1, Status::Failed)]);
    sets.delete("cilium", &kube::api::DeleteParams::default())
        .await
        .unwrap();
    assert_eq!(cluster.bring(json!({})).await.unwrap(), 2);
    assert_eq!(
        statuses(&cluster).await,
        [(1, Status::Failed), (2, Status::Deployed)]
    );
    assert_eq!(
        sets.list(&ListParams::default()).await.unwrap().items.len(),
        2
    );
}
