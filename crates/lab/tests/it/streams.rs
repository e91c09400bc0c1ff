//! Exec, logs, port forwarding and copies with the real kubectl, over both of its protocols.

use std::process::{Command, Stdio};
use std::time::Duration;

use testkit::{LabGuard, wait_until};

use crate::kubectl::{LIMIT, client, create, kubectl, ok, run, skip_without_kubectl};
use crate::pods::{ONE_PLUGIN, lab};

#[test]
fn lab_streams_over_websocket() {
    streams("true");
}

#[test]
fn lab_streams_over_spdy() {
    streams("false");
}

fn streams(websocket: &str) {
    if skip_without_kubectl() {
        return;
    }
    let (lab, _dir) = lab(ONE_PLUGIN);
    let kubectl =
        |lab: &LabGuard, args: &[&str]| run(&mut client(lab, "kubectl", websocket), args, b"");
    create(
        &lab,
        "{apiVersion: v1, kind: Pod, metadata: {name: s}, spec: {nodeName: node1, terminationGracePeriodSeconds: 0, containers: [{name: web, image: traefik/whoami}, {name: tick, image: busybox, command: [sh, -c, 'while :; do echo tick; sleep 0.1; done']}]}}",
    );
    ok(kubectl(
        &lab,
        &["wait", "--for=condition=Ready", "pod/s", "--timeout=30s"],
    ));
    let failed = kubectl(
        &lab,
        &[
            "exec",
            "s",
            "-c",
            "web",
            "--",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 7",
        ],
    );
    assert_eq!((failed.code, failed.stdout.as_str()), (7, "out\n"));
    assert!(
        failed.stderr.starts_with("err\n") && failed.stderr.contains("exit code 7"),
        "{}",
        failed.stderr
    );
    assert_eq!(kubectl(&lab, &["exec", "s", "--", "/no/such"]).code, 127);
    // Much in both directions at once.
    let much = vec![b'm'; 4 << 20];
    let echoed = run(
        &mut client(&lab, "kubectl", websocket),
        &["exec", "-i", "s", "--", "cat"],
        &much,
    );
    assert_eq!((echoed.code, echoed.stdout.len()), (0, much.len()));
    // A terminal is one.
    let script = "kubectl exec -it s -- sh -c 'test -t 0 && test -t 1 && echo terminal $TERM'";
    let mut tty = client(&lab, "script", websocket);
    tty.args(["-qec", script, "/dev/null"]).env("TERM", "vt100");
    let said = String::from_utf8(tty.output().unwrap().stdout).unwrap();
    assert!(said.contains("terminal xterm"), "{said}");
    // What a client leaves running ends with it.
    let mut left = client(&lab, "kubectl", websocket);
    left.args(["exec", "s", "--", "sleep", "7777"]);
    let mut left = left.spawn().unwrap();
    let sleeping = || {
        lab.exec(
            "s",
            &["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"],
        )
        .stdout
        .contains("sleep 7777")
    };
    wait_until("it runs", LIMIT, || sleeping().then_some(()));
    left.kill().unwrap();
    left.wait().unwrap();
    wait_until("it is ended", LIMIT, || (!sleeping()).then_some(()));
    // Following ends with the client, too; the container goes on.
    let mut follow = client(&lab, "kubectl", websocket);
    follow.args(["logs", "-f", "s", "-c", "tick", "--tail=1"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    follow.kill().unwrap();
    let said = String::from_utf8(follow.wait_with_output().unwrap().stdout).unwrap();
    assert!(
        said.lines().count() >= 5 && said.lines().all(|l| l == "tick"),
        "{said}"
    );
    forwards(&lab, websocket);
    copies(&lab);
}

fn forwards(lab: &LabGuard, websocket: &str) {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let mut forward = client(lab, "kubectl", websocket);
    forward.args(["port-forward", "pod/s", &format!("{port}:80")]);
    let mut forward = forward
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let get = |path: &str| {
        let url = format!("http://127.0.0.1:{port}{path}");
        Command::new("curl")
            .args(["-s", &url])
            .output()
            .unwrap()
            .stdout
    };
    wait_until("the port is forwarded", LIMIT, || {
        String::from_utf8_lossy(&get("/"))
            .contains("Hostname: s\n")
            .then_some(())
    });
    assert_eq!(get("/data?size=2000000").len(), 2_000_000);
    forward.kill().unwrap();
    forward.wait().unwrap();
}

fn copies(lab: &LabGuard) {
    let dir = tempfile::tempdir().unwrap();
    let (there, back) = (dir.path().join("there"), dir.path().join("back"));
    std::fs::write(&there, "content\n").unwrap();
    ok(kubectl(
        lab,
        &["cp", there.to_str().unwrap(), "s:/tmp/copy"],
    ));
    ok(kubectl(lab, &["cp", "s:/tmp/copy", back.to_str().unwrap()]));
    assert_eq!(std::fs::read_to_string(back).unwrap(), "content\n");
}
