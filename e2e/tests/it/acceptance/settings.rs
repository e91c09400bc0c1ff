//! Settings and status, as the workstation's command line shows them.

use super::shell::Shell;

pub fn all(sh: &Shell) {
    let view = sh.ok("cilium config view");
    let keys: Vec<&str> = view
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(keys.is_sorted(), "{view}");
    for (pattern, key, value) in [
        ("^ipam", "ipam", "kubernetes"),
        ("routing-mode", "routing-mode", "tunnel"),
        ("tunnel-protocol", "tunnel-protocol", "vxlan"),
        (
            "-E 'enable-ipv4-masquerade|enable-bpf-masquerade'",
            "enable-ipv4-masquerade",
            "true",
        ),
    ] {
        let found = sh.ok(&format!("cilium config view | grep {pattern}"));
        let line = found
            .lines()
            .find(|line| line.split_whitespace().next() == Some(key));
        let line = line.unwrap_or_else(|| panic!("no {key} in {found}"));
        assert!(line.split_whitespace().eq([key, value]), "{line}");
    }
    // The same in the object; all values are text.
    sh.has(
        "kubectl get cm -n kube-system cilium-config -o yaml",
        &["ipam: kubernetes", "enable-ipv4: \"true\""],
    );
    sh.ok("kubectl get cm -n kube-system cilium-config -o json | python3 -c 'import json, sys; assert all(type(v) is str for v in json.load(sys.stdin)[\"data\"].values())'");
    let status = sh.ok("cilium status --name $LAB");
    for part in [
        "Cilium:             OK",
        "Operator:           OK",
        "Hubble Relay:       disabled",
        "Desired: 3, Ready: 3/3, Available: 3/3",
        "managed by Cilium",
    ] {
        assert!(status.contains(part), "no {part} in {status}");
    }
    sh.has(
        "cilium status --wait --name $LAB",
        &["Cilium:             OK"],
    );
    sh.has("cilium version", &["v0."]);
    sh.has("cilium-dbg help", &["endpoint", "monitor"]);
}
