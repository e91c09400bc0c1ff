//! exec, logs, attach and port forwarding through the real API server to the lab's kubelets, with every `kubectl` at hand.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use testkit::{LabGuard, wait_until};

use crate::server::{Server, kubectl_of};

/// Prints a line, then one more per line it hears.
const TALKER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: host, stdin: true, command: [sh, -c, 'echo begun; while read line; do echo "heard $line"; done; sleep 1000']}
"#;

fn clients() -> Vec<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let tools = cache.unwrap_or_default().join("hypha/tools");
    let fetched = ["kubectl-old", "kubectl-new"].map(|name| tools.join(name).join("kubectl"));
    let mut all: Vec<PathBuf> = fetched.into_iter().filter(|p| p.is_file()).collect();
    all.push("kubectl".into());
    all
}

pub fn every_client(server: &Server, lab: &LabGuard) {
    lab.apply(TALKER);
    let config = server.admin();
    for client in clients() {
        for websockets in ["true", "false"] {
            one(&client, &config, websockets);
        }
    }
}

fn one(client: &Path, config: &Path, websockets: &str) {
    let what = format!("{} with WebSocket {websockets}", client.display());
    let command = |args: &[&str]| {
        let mut command = Command::new(client);
        command.arg("--kubeconfig").arg(config).args(args);
        command
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets)
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets)
            .stdin(Stdio::null());
        command
    };
    let said = command(&[
        "exec",
        "talker",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 3",
    ]);
    let said = output(said);
    assert_eq!((said.0, said.1.trim()), (3, "out"), "{what}: {}", said.2);
    assert!(said.2.contains("err"), "{what}: {}", said.2);

    let mut child = spawn(command(&["exec", "-i", "talker", "--", "cat"]));
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"there and back")
        .unwrap();
    let back = child.wait_with_output().unwrap();
    assert_eq!(back.stdout, b"there and back", "{what}");

    let logs = kubectl_of(client, config, &["logs", "talker", "--tail=1000"]);
    assert!(
        logs.ok() && logs.stdout.starts_with("begun\n"),
        "{what}: {logs:?}"
    );
    let mut follow = command(&["logs", "-f", "talker", "--tail=1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut attached = spawn(command(&["attach", "-i", "talker"]));
    let word = format!("{websockets}-{}", std::process::id());
    writeln!(attached.stdin.as_mut().unwrap(), "{word}").unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let heard = lines.find(|line| line.as_ref().is_ok_and(|l| l.contains(&word)));
    assert!(
        heard.is_some(),
        "{what}: what is said to the container is in its log"
    );
    end(attached);
    end(follow);

    let mut forward = command(&["port-forward", "pod/echo-node3-a", ":8080"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Kept open: it says something for every connection.
    let mut says = BufReader::new(forward.stdout.take().unwrap());
    let mut line = String::new();
    says.read_line(&mut line).unwrap();
    let port = line
        .split("127.0.0.1:")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let port: u16 = port
        .and_then(|p| p.parse().ok())
        .unwrap_or_else(|| panic!("{what}: {line}"));
    for _ in 0..3 {
        let answer = wait_until(
            "an answer through the forwarded port",
            Duration::from_secs(10),
            || ask(port).ok(),
        );
        assert!(
            answer.contains("Hostname: echo-node3-a"),
            "{what}: {answer}"
        );
    }
    end(forward);
}

fn ask(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn output(mut command: Command) -> (i32, String, String) {
    let out = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        out.status.code().unwrap_or(-1),
        text(&out.stdout),
        text(&out.stderr),
    )
}

fn spawn(mut command: Command) -> Child {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn end(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}
