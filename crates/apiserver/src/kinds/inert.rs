//! Kinds that are kept and shown, and without effect here: whoever writes one is told.

use super::super::kind::Kind;

impl Kind {
    /// What writers of this kind should know.
    pub(crate) fn notice(&self) -> Option<String> {
        let what = match (self.group.as_str(), self.kind.as_str()) {
            _ if !self.built_in => return None,
            ("", "ResourceQuota" | "LimitRange") => "nothing is counted or limited here",
            ("", "PersistentVolume" | "PersistentVolumeClaim")
            | ("storage.k8s.io", "StorageClass") => {
                "there are no persistent volumes here; pods may have emptyDir, configMap, secret, projected, downwardAPI and \
                 hostPath volumes"
            }
            ("autoscaling", "HorizontalPodAutoscaler") => {
                "pods are not measured here; kubectl scale sets how many there are"
            }
            ("admissionregistration.k8s.io", _) => {
                "requests are admitted here without asking anybody"
            }
            _ => return None,
        };
        Some(format!("{} is kept, but has no effect: {what}", self.kind))
    }
}
