//! How pods reach the API server: a token of their service account, mounted where clients look for it.

use serde_json::{Map, Value, json};

use super::super::kind::Others;
use super::super::object::{child_mut, meta_str, name_suffix};
use super::podspec::CONTAINER_LISTS;

/// Where clients look.
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Seconds that a token lives; kubelets ask for another one before.
const LIFETIME: u32 = 3607;

/// Gives a new pod a volume with token, certificate authority and namespace, and its containers a mount of it, unless pod or
/// service account do without.
pub(super) fn mount(pod: &mut Value, others: &dyn Others) {
    let namespace = meta_str(pod, "namespace").to_owned();
    let account = pod["spec"]["serviceAccountName"]
        .as_str()
        .unwrap_or_default();
    let mut wanted = pod["spec"]["automountServiceAccountToken"].as_bool();
    if wanted.is_none() {
        others.each("serviceaccounts", &mut |found| {
            if meta_str(found, "name") == account && meta_str(found, "namespace") == namespace {
                wanted = found["automountServiceAccountToken"].as_bool();
            }
        });
    }
    if wanted == Some(false) {
        return;
    }
    let spec = child_mut(pod, "spec");
    let volume = format!("kube-api-access-{}", name_suffix());
    let mut used = false;
    for list in CONTAINER_LISTS {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            used |= container.as_object_mut().is_some_and(|c| add(c, &volume));
        }
    }
    if !used {
        return;
    }
    let volumes = spec.entry("volumes").or_insert_with(|| json!([]));
    if let Some(volumes) = volumes.as_array_mut() {
        volumes.push(json!({"name": volume, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": LIFETIME, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}}));
    }
}

/// Adds the mount, if nothing stands there yet.
fn add(container: &mut Map<String, Value>, volume: &str) -> bool {
    let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
    let Some(mounts) = mounts.as_array_mut() else {
        return false;
    };
    if mounts.iter().any(|m| m["mountPath"] == MOUNT) {
        return false;
    }
    mounts.push(json!({"name": volume, "mountPath": MOUNT, "readOnly": true}));
    true
}

#[cfg(test)]
mod tests {
    use super::super::super::kind::Networks;
    use super::*;

    struct Accounts(Vec<Value>, Networks);

    impl Others for Accounts {
        fn each(&self, _: &str, visit: &mut dyn FnMut(&Value)) {
            self.0.iter().for_each(visit);
        }

        fn networks(&self) -> &Networks {
            &self.1
        }
    }

    fn pod(more: Value) -> Value {
        let mut pod = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"serviceAccountName": "a",
            "containers": [{"name": "c"}, {"name": "own", "volumeMounts": [{"name": "v", "mountPath": MOUNT}]}],
            "initContainers": [{"name": "i"}]}});
        for (key, value) in more.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        pod
    }

    fn mounted(pod: &Value) -> Vec<&str> {
        let lists =
            ["containers", "initContainers"].map(|list| pod["spec"][list].as_array().unwrap());
        let names = lists
            .into_iter()
            .flatten()
            .filter(|c| c["volumeMounts"][0]["readOnly"] == true);
        names.map(|c| c["name"].as_str().unwrap()).collect()
    }

    #[test]
    fn containers_get_a_token_unless_somebody_says_no() {
        let accounts = |automount: Value| {
            let account = json!({"metadata": {"name": "a", "namespace": "n"}, "automountServiceAccountToken": automount});
            Accounts(vec![account], Networks::default())
        };
        let mut with = pod(json!({"volumes": [{"name": "v"}]}));
        mount(&mut with, &accounts(json!(null)));
        assert_eq!(mounted(&with), ["c", "i"]);
        let volumes = with["spec"]["volumes"].as_array().unwrap();
        assert_eq!(volumes.len(), 2);
        assert_eq!(
            volumes[1]["name"],
            with["spec"]["containers"][0]["volumeMounts"][0]["name"]
        );
        for (account, own, mounts) in [
            (json!(false), json!({}), 0),
            (
                json!(false),
                json!({"automountServiceAccountToken": true}),
                2,
            ),
            (
                json!(true),
                json!({"automountServiceAccountToken": false}),
                0,
            ),
        ] {
            let mut made = pod(own);
            mount(&mut made, &accounts(account));
            assert_eq!(mounted(&made).len(), mounts);
            assert_eq!(made["spec"]["volumes"].is_array(), mounts > 0);
        }
    }
}
