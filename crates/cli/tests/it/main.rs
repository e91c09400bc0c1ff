//! The binary as a person runs it, against an agent that answers from a list.
#![allow(clippy::unwrap_used, reason = "tests")]

mod agent;
mod install;

use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use agent::FakeAgent;

const HYPHA: &str = env!("CARGO_BIN_EXE_hypha");

fn run(program: &Path, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs `hypha dbg` against the fake agent; standard output and exit status.
fn dbg(agent: &FakeAgent, arguments: &str) -> (String, i32) {
    let words: Vec<&str> = ["dbg", "-H", agent.socket()]
        .into_iter()
        .chain(arguments.split(' '))
        .collect();
    let output = run(Path::new(HYPHA), &words);
    let errors = text(&output.stderr);
    assert!(errors.lines().count() <= 1, "{arguments}: {errors}");
    (text(&output.stdout), output.status.code().unwrap_or(-1))
}

#[test]
fn every_dbg_command_prints_what_the_agent_says() {
    let agent = FakeAgent::start();
    for (command, part) in [
        ("status", "Routing:"),
        ("status --brief", "OK"),
        ("status --verbose", "shop/cart-0"),
        ("endpoint list", "k8s:app=cart"),
        ("endpoint get 904", "\"interface-name\": \"lxcab12\""),
        ("endpoint get -l app=cart -o jsonpath={[0].id}", "904"),
        ("bpf endpoint list", "10.7.1.12:0"),
        ("bpf ipcache list", "identity=31007"),
        (
            "bpf ipcache get 10.7.2.5",
            "10.7.2.5 maps to identity 31007",
        ),
        ("bpf tunnel list", "192.0.2.12:0"),
        (
            "bpf ct list global",
            "TCP OUT 10.7.1.12:40112 -> 10.7.2.9:80",
        ),
        ("bpf nat list", "XLATE_SRC"),
        ("bpf metrics list", "Policy denied"),
        ("map list", "cilium_lxc"),
        ("map get cilium_lxc", "Key"),
        ("ip list", "reserved:world"),
        ("ip list -n", "10.7.2.0/24"),
        ("node list", "n1"),
        ("statedb", "endpoints"),
        ("statedb endpoints", "cart-0"),
        ("config", "routing-mode"),
        ("config get Routing-Mode", "tunnel"),
        ("policy get", "Revision: 7"),
        (
            "policy get io.cilium.k8s.policy.name=web",
            "endpointSelector",
        ),
        ("policy get -o jsonpath={.revision}", "7"),
        ("policy selectors", "shop/web"),
        ("policy wait", "Revision: 7"),
        ("policy wait 7 --max-wait-time 3", "Revision: 7"),
        ("identity list", "reserved:host"),
        ("identity list app=cart --endpoints", "REFCOUNT"),
        ("identity get 21565", "k8s:app=cart"),
        ("identity get -l app=cart -o jsonpath={[0].id}", "21565"),
        (
            "bpf policy get 904",
            "CiliumNetworkPolicy shop/web: spec.ingress[0]",
        ),
        ("bpf policy get 904 -n", "21566"),
        ("bpf policy get --all", "Endpoint ID: 904"),
        ("bpf policy get --all -o json", "\"verdict\": \"allow\""),
        ("node list -o json", "\"name\": \"n1\""),
        ("node list -o yaml", "name: n1"),
        ("version", "Daemon: 9.9.9"),
    ] {
        let (out, code) = dbg(&agent, command);
        assert!(out.contains(part), "{command}: {out}");
        assert_eq!(code, 0, "{command}");
    }
}

#[test]
fn findings_are_exit_status_one() {
    let agent = FakeAgent::start();
    assert_eq!(dbg(&agent, "policy wait 9 --max-wait-time 0").1, 1);
    let (out, code) = dbg(&agent, "check");
    assert!(out.contains("device-without-endpoint"), "{out}");
    assert_eq!(code, 1);
}

#[test]
fn the_monitor_prints_until_the_stream_ends() {
    let agent = FakeAgent::start();
    let words = ["dbg", "-H", agent.socket(), "monitor", "-t", "trace,drop"];
    let output = run(Path::new(HYPHA), &words);
    let out = text(&output.stdout);
    assert!(out.starts_with("Listening for events"), "{out}");
    assert!(out.contains("-> endpoint 904 flow 0x"), "{out}");
    assert!(out.contains("xx drop (Policy denied)"), "{out}");
    assert!(
        text(&output.stderr).contains("ended the stream"),
        "{output:?}"
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(
        agent
            .asked()
            .iter()
            .any(|path| path == "/v1/monitor?type=trace,drop"),
        "{:?}",
        agent.asked()
    );
}

#[test]
fn json_monitor_lines_are_objects() {
    let agent = FakeAgent::start();
    let output = run(
        Path::new(HYPHA),
        &["dbg", "-H", agent.socket(), "monitor", "-j"],
    );
    let lines: Vec<serde_json::Value> = text(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("an object per line"))
        .collect();
    assert_eq!(lines[0]["kind"], "trace");
}

#[test]
fn mistakes_are_one_line_and_status_two() {
    for arguments in [
        &["nonsense"][..],
        &["dbg", "bpf", "ct", "lsit"],
        &["dbg", "-H", "/x", "endpoint", "get", "what:x"],
        &["dbg", "-H", "/x", "bpf", "policy", "get"],
        &["dbg", "-H", "/x", "identity", "get", "nobody"],
        &["policy", "why", "a"],
        &["policy", "check"],
        &["status", "-o", "xml"],
    ] {
        let output = run(Path::new(HYPHA), arguments);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(
            errors.starts_with("Error: ") && errors.lines().count() == 1,
            "{arguments:?}: {errors}"
        );
    }
}

#[test]
fn failures_are_one_line_and_status_one() {
    let agent = FakeAgent::start();
    for (host, command) in [
        ("/nonexistent/agent.sock", "status"),
        (agent.socket(), "map get nothing"),
        (agent.socket(), "bpf ipcache get 203.0.113.9"),
    ] {
        let words: Vec<&str> = ["dbg", "-H", host]
            .into_iter()
            .chain(command.split(' '))
            .collect();
        let output = run(Path::new(HYPHA), &words);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {errors}");
        assert!(
            errors.starts_with("Error: ") && errors.lines().count() == 1,
            "{command}: {errors}"
        );
    }
}

#[test]
fn an_unknown_map_is_not_taken_for_something_else() {
    let agent = FakeAgent::start();
    let output = run(
        Path::new(HYPHA),
        &["dbg", "-H", agent.socket(), "map", "get", "nothing"],
    );
    assert!(
        text(&output.stderr).contains("/v1/map/nothing does not exist"),
        "{output:?}"
    );
}

#[test]
fn other_names_are_other_commands() {
    let agent = FakeAgent::start();
    let dir = tempfile::tempdir().expect("a directory");
    for (name, arguments) in [
        ("cilium-dbg", ["-H", agent.socket(), "node", "list"]),
        ("cilium", ["endpoint", "list", "-H", agent.socket()]),
    ] {
        let link = dir.path().join(name);
        symlink(HYPHA, &link).expect("a link");
        let output = run(&link, &arguments);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{name}: {}",
            text(&output.stderr)
        );
        assert!(!output.stdout.is_empty());
    }
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let agent = FakeAgent::start();
    for arguments in [
        &["completion", "bash"][..],
        &["lab", "list", "-o", "json"],
        &["dbg", "-H", agent.socket(), "bpf", "ct", "list"],
        &["dbg", "-H", agent.socket(), "monitor"],
    ] {
        let mut child = Command::new(HYPHA)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        drop(child.stdout.take());
        let mut errors = String::new();
        child
            .stderr
            .take()
            .expect("a pipe")
            .read_to_string(&mut errors)
            .expect("text");
        let status = child.wait().expect("an end");
        assert!(!errors.contains("panic"), "{arguments:?}: {errors}");
        assert_eq!(status.code(), Some(0), "{arguments:?}: {errors}");
    }
}

#[test]
fn status_of_one_node() {
    let agent = FakeAgent::start();
    let output = run(
        Path::new(HYPHA),
        &[
            "status",
            "-H",
            agent.socket(),
            "--wait",
            "--wait-duration",
            "5s",
        ],
    );
    let out = text(&output.stdout);
    assert!(out.contains("Cilium:             OK"), "{out}");
    assert_eq!(output.status.code(), Some(0));
    let output = run(
        Path::new(HYPHA),
        &["status", "-H", "/nonexistent/agent.sock"],
    );
    assert!(text(&output.stdout).contains("1 error"), "{output:?}");
    assert_eq!(output.status.code(), Some(1));
}
