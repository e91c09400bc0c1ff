//! The real kubectl, for tests.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use testkit::{LabGuard, Run, skip_unless_root, wait_until};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Says so and returns true where there is no kubectl.
pub(crate) fn skip_without_kubectl() -> bool {
    let there = Command::new("kubectl")
        .arg("version")
        .arg("--client")
        .output();
    let missing = there.is_err();
    if missing {
        eprintln!("skipped: this machine has no kubectl");
    }
    skip_unless_root() || missing
}

pub(crate) fn kubectl(lab: &LabGuard, args: &[&str]) -> Run {
    kubectl_with(lab, args, b"")
}

pub(crate) fn kubectl_with(lab: &LabGuard, args: &[&str], input: &[u8]) -> Run {
    run(&mut client(lab, "kubectl", "true"), args, input)
}

/// A command that finds the lab, and streams by WebSocket or, if that is "false", by SPDY.
pub(crate) fn client(lab: &LabGuard, program: &str, websocket: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("KUBECONFIG", lab.dir().join("kubeconfig"))
        .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websocket)
        .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websocket);
    command
}

pub(crate) fn run(command: &mut Command, args: &[&str], input: &[u8]) -> Run {
    command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feed = std::thread::spawn(move || drop(pipe.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    feed.join().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[track_caller]
pub(crate) fn ok(run: Run) -> String {
    assert!(
        run.ok(),
        "exit code {}\n{}{}",
        run.code,
        run.stdout,
        run.stderr
    );
    run.stdout
}

#[track_caller]
pub(crate) fn create(lab: &LabGuard, yaml: &str) {
    ok(kubectl_with(lab, &["apply", "-f", "-"], yaml.as_bytes()));
}

pub(crate) fn field(lab: &LabGuard, pod: &str, path: &str) -> String {
    let path = format!("jsonpath={{{path}}}");
    kubectl(lab, &["get", "pod", pod, "-o", &path]).stdout
}

#[track_caller]
pub(crate) fn wait_field(lab: &LabGuard, pod: &str, path: &str, wanted: &str) {
    wait_until(&format!("{pod}: {path} is {wanted}"), LIMIT, || {
        (field(lab, pod, path) == wanted).then_some(())
    });
}

pub(crate) fn events(lab: &LabGuard, pod: &str) -> String {
    let selector = format!("involvedObject.name={pod}");
    kubectl(lab, &["get", "events", "--field-selector", &selector]).stdout
}
