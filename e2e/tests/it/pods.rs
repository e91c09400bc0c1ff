//! Pods that run programs of this machine, with a script that tests bring.

use crate::acceptance::shell::Shell;

/// Where pods find the script.
pub const SCRIPTS: &str = "/scripts";

/// Gives pods a file of the tests.
pub fn bring(sh: &Shell, file: &str) {
    sh.ok(&format!(
        "kubectl create configmap scripts --from-file={file}"
    ));
}

/// A pod on a node, which runs a command.
pub fn pod(name: &str, app: &str, node: &str, command: &str) -> String {
    let mount = format!("{{name: scripts, mountPath: {SCRIPTS}}}");
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {app}}}}}\nspec:\n  nodeName: {node}\n  \
         terminationGracePeriodSeconds: 0\n  volumes: [{{name: scripts, configMap: {{name: scripts}}}}]\n  \
         containers: [{{name: c, image: host, command: [sh, -c, exec {command}], volumeMounts: [{mount}]}}]\n"
    )
}
