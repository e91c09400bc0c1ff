//! Packets of pods as a file, read by the programs that people read such files with.
use crate::acceptance::shell::Shell;

/// Nobody may talk to the pod near.
const CLOSED: &str = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: closed}
spec:
  endpointSelector: {matchLabels: {run: near}}
  ingress: [{fromEndpoints: [{matchLabels: {run: nobody}}]}]
";

/// Until somebody allows it, no packet is captured.
pub fn refused(sh: &Shell) {
    sh.fails(
        "hypha flows capture --name $LAB --node node2 -w refused.pcapng",
        &["this agent captures no packets", "hubble.capture.enabled"],
    );
}

/// What a capture with these flags has, while the pod client calls every other pod: device, address of either family, comment.
fn taken(sh: &Shell, flags: &str) -> Vec<[String; 4]> {
    let capture = sh.start(&format!(
        "hypha flows capture --name $LAB --node node2 -w taken.pcapng {flags} --duration 40s; echo ended $?"
    ));
    let calls = "for ip in $(kubectl get pod near far -o jsonpath='{.items[*].status.podIPs[*].ip}'); do case $ip in *:*) ip=[$ip];; esac; kubectl exec client -- curl -s -o /dev/null --max-time 1 http://$ip/; done";
    while !capture.said().contains("ended") {
        sh.run(calls);
    }
    capture.says("ended 0");
    sh.ok("tcpdump -nr taken.pcapng");
    let text = sh.ok("tshark -n -r taken.pcapng -T fields -e frame.interface_name -e ip.src -e ipv6.src -e frame.comment");
    let row = |line: &str| -> [String; 4] {
        let fields: Vec<String> = line.split('\t').map(str::to_owned).collect();
        fields.try_into().unwrap()
    };
    text.lines().map(row).collect()
}

/// Packets come with both ends' names and identities, on this node and to another, and with why they were dropped.
pub fn by_names(sh: &Shell) {
    let all = taken(sh, "--pod default/client --protocol tcp -c 200");
    assert_eq!(all.len(), 200);
    for [device, _, _, comment] in &all {
        let ends = comment.matches("default/").count();
        assert!(
            ends >= 2
                && comment.contains("default/client (identity ")
                && comment.contains("k8s:run=client"),
            "{device}: {comment}"
        );
        assert!(comment.ends_with(" FORWARDED"), "{comment}");
    }
    assert!(
        all.iter().any(|[device, ..]| device.starts_with("lxc")),
        "{all:?}"
    );
    let talks = |peer: &str, is_v6: bool| {
        let to = format!("-> default/{peer} (identity ");
        all.iter()
            .any(|[_, _, six, comment]| comment.contains(&to) && six.is_empty() != is_v6)
    };
    for (peer, is_v6) in [
        ("near", false),
        ("near", true),
        ("far", false),
        ("far", true),
    ] {
        assert!(talks(peer, is_v6), "{peer} {is_v6}: {all:?}");
    }
    sh.file("closed.yaml", CLOSED);
    sh.ok("kubectl apply -f closed.yaml");
    let dropped = taken(
        sh,
        "--verdict DROPPED --to-pod default/near --snap-length 64 -c 4",
    );
    assert_eq!(dropped.len(), 4);
    for [_, _, _, comment] in dropped {
        assert!(
            comment.contains("default/client (identity ")
                && comment.contains(" -> default/near (identity ")
                && comment.contains(" DROPPED: Policy denied"),
            "{comment}"
        );
    }
}
