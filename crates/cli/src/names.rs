//! One binary, several names: under each it is the tool that users of that name expect.
use std::ffi::OsString;
use std::path::Path;

/// Commands of `hypha` itself; any other word after `cilium` is one of the agent's tool.
const OWN: &[&str] = &[
    "agent",
    "completion",
    "config",
    "connectivity",
    "dbg",
    "help",
    "hubble",
    "install",
    "lab",
    "lab-init",
    "node-setup",
    "observe",
    "operator",
    "proxy",
    "relay",
    "status",
    "uninstall",
    "upgrade",
    "version",
    "--help",
    "-h",
    "--version",
    "-V",
];

/// The commands of `hypha policy`.
const QUESTIONS: [&str; 3] = ["why", "check", "diff"];

/// The arguments as if the binary had been called `hypha`.
///
/// `in_node` says that this is a node of a cluster: there, `cilium status` and `cilium config` are the agent's own, as users of
/// `kubectl exec … cilium-agent -- cilium status` expect.
#[must_use]
pub fn canonical(arguments: Vec<OsString>, in_node: impl Fn() -> bool) -> Vec<OsString> {
    let mut arguments = arguments.into_iter();
    let called = arguments.next().unwrap_or_default();
    let name = Path::new(&called)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let rest: Vec<OsString> = arguments.collect();
    let first = rest.first().map(|word| word.to_string_lossy().into_owned());
    // Both have `policy` and `service`; the questions are ours, what the node has is the agent's.
    let second = rest.get(1).map(|word| word.to_string_lossy().into_owned());
    let asks = match first.as_deref() {
        Some("policy") => second.is_some_and(|word| QUESTIONS.contains(&word.as_str())),
        Some("service") => second.as_deref() == Some("why"),
        _ => false,
    };
    let debug = match name.as_str() {
        _ if asks => false,
        "cilium-dbg" => first.as_deref() != Some("completion"),
        "cilium" => match first.as_deref() {
            None => false,
            Some("status" | "config") => in_node(),
            Some(word) => !OWN.contains(&word),
        },
        _ => false,
    };
    // What the original's images call their programs.
    let role = match name.as_str() {
        "cilium-operator" | "cilium-operator-generic" => Some("operator"),
        "hubble" => Some("hubble"),
        "hubble-relay" => Some("relay"),
        _ => None,
    };
    let mut out = vec![OsString::from("hypha")];
    out.extend(role.map(OsString::from));
    out.extend(debug.then(|| OsString::from("dbg")));
    out.extend(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, in_node: bool) -> String {
        let arguments = text.split(' ').map(OsString::from).collect();
        let words = canonical(arguments, || in_node);
        words
            .iter()
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn names_lead_to_commands() {
        for (called, meant) in [
            ("/usr/bin/hypha status", "hypha status"),
            ("cilium-dbg status --brief", "hypha dbg status --brief"),
            (
                "/opt/bin/cilium-dbg bpf ct list global",
                "hypha dbg bpf ct list global",
            ),
            ("cilium-dbg completion bash", "hypha completion bash"),
            ("cilium connectivity test", "hypha connectivity test"),
            ("cilium endpoint list", "hypha dbg endpoint list"),
            ("cilium policy get", "hypha dbg policy get"),
            ("cilium-dbg policy wait 3", "hypha dbg policy wait 3"),
            ("cilium policy why a b", "hypha policy why a b"),
            ("cilium-dbg policy check -f x", "hypha policy check -f x"),
            ("cilium status", "hypha status"),
            ("cilium config view", "hypha config view"),
            (
                "/usr/bin/cilium-operator-generic --debug",
                "hypha operator --debug",
            ),
            ("cilium-operator", "hypha operator"),
            ("hubble observe -f", "hypha hubble observe -f"),
            ("/bin/hubble status", "hypha hubble status"),
            ("cilium hubble port-forward", "hypha hubble port-forward"),
            ("hubble-relay --debug", "hypha relay --debug"),
            ("cilium --help", "hypha --help"),
            ("cilium", "hypha"),
            ("renamed status", "hypha status"),
        ] {
            assert_eq!(line(called, false), meant);
        }
        assert_eq!(
            line("cilium status --verbose", true),
            "hypha dbg status --verbose"
        );
        assert_eq!(line("cilium config", true), "hypha dbg config");
    }
}
