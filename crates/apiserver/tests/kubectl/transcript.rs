//! Replays transcripts.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

use hypha_apiserver::{ApiServer, Authorization, ServerOptions};

use crate::normal::normal;
use crate::server::Running;
use crate::{Release, folder, kubectl};

/// How long one command may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A command and what it printed.
struct Step {
    command: String,
    printed: String,
}

fn read(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step {
                command: command.to_owned(),
                printed: String::new(),
            });
            continue;
        }
        let Some(step) = steps.last_mut() else {
            continue;
        };
        match line.strip_prefix("> ").or((line == ">").then_some("")) {
            Some(more) if step.printed.is_empty() => {
                step.command.push('\n');
                step.command.push_str(more);
            }
            _ => {
                step.printed.push_str(line);
                step.printed.push('\n');
            }
        }
    }
    steps
}

fn write(head: &str, steps: &[Step]) -> String {
    let mut out = head.to_owned();
    for step in steps {
        out.push_str(&format!("$ {}\n", step.command.replace('\n', "\n> ")));
        out.push_str(&step.printed);
    }
    out
}

async fn run(running: &Running, path: &str, command: &str) -> Output {
    let child = Command::new("sh")
        .args(["-c", command])
        .current_dir(folder().join("manifests"))
        .env_clear()
        .env("HOME", running.home.path())
        .env("KUBECONFIG", running.kubeconfig())
        .env("PATH", path)
        .env("KUBECTL_KUBERC", "false")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await;
    output
        .unwrap_or_else(|_| panic!("`{command}` did not end"))
        .unwrap()
}

/// Runs every command of a transcript and compares, or writes it anew.
pub async fn replay(release: Release, name: &str) {
    let Some(program) = kubectl(release) else {
        return;
    };
    let folder_name = if release == Release::New {
        "new"
    } else {
        "old"
    };
    let file = folder().join(folder_name).join(format!("{name}.txt"));
    let text = fs::read_to_string(&file).unwrap();
    let head: String = text
        .lines()
        .take_while(|l| !l.starts_with("$ "))
        .map(|l| format!("{l}\n"))
        .collect();
    // What roles allow is seen where they count.
    let authorization = match name {
        "rights" => Authorization::Rbac,
        _ => Authorization::AlwaysAllow,
    };
    let options = ServerOptions {
        authorization,
        ..ServerOptions::default()
    };
    let running = Running::of(ApiServer::open(options).unwrap()).await;
    let bin = running.home.path().join("bin");
    fs::create_dir(&bin).unwrap();
    symlink(program, bin.join("kubectl")).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let mut steps = Vec::new();
    for step in read(&text) {
        let output = run(&running, &path, &step.command).await;
        let mut printed = normal(&String::from_utf8_lossy(&output.stdout));
        for line in normal(&String::from_utf8_lossy(&output.stderr)).lines() {
            printed.push_str(&format!("! {line}\n"));
        }
        if !output.status.success() {
            printed.push_str(&format!(
                "! status {}\n",
                output.status.code().unwrap_or(-1)
            ));
        }
        steps.push(Step { printed, ..step });
    }
    let now = write(&head, &steps);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&file, now).unwrap();
        return;
    }
    assert!(
        now == text,
        "{} differs:\n{}",
        file.display(),
        difference(&text, &now)
    );
}

/// The steps that differ.
fn difference(expected: &str, found: &str) -> String {
    let pairs = read(expected).into_iter().zip(read(found));
    pairs
        .filter(|(e, f)| e.printed != f.printed)
        .map(|(e, f)| {
            format!(
                "$ {}\n--- expected\n{}--- printed\n{}\n",
                e.command, e.printed, f.printed
            )
        })
        .collect()
}

macro_rules! transcripts {
    ($release:expr, $module:ident: $($name:ident)*) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::replay($release, stringify!($name)).await;
                }
            )*
        }
    };
}

transcripts!(crate::Release::New, new: basics changes discovery explain output describe workloads errors access rights custom);
transcripts!(crate::Release::Old, old: basics changes discovery explain output errors custom);

#[test]
fn every_transcript_is_replayed() {
    let source = include_str!("transcript.rs");
    for release in ["new", "old"] {
        let list = source
            .lines()
            .find_map(|l| l.split_once(&format!(", {release}: ")))
            .unwrap()
            .1;
        for entry in fs::read_dir(folder().join(release)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            assert!(
                list.split([' ', ')', ';']).any(|n| n == name),
                "{} is not replayed",
                path.display()
            );
        }
    }
}
