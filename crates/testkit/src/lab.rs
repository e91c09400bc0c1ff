//! A lab for a test.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// How a command ended, and what it printed.
#[derive(Clone, Debug)]
pub struct Run {
    /// Exit code; 128 and more for a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Run {
    /// It ended with 0.
    pub fn ok(&self) -> bool {
        self.code == 0
    }

    fn of(command: &mut Command, input: Option<&str>) -> Run {
        command.stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = child.unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        if let (Some(mut pipe), Some(text)) = (child.stdin.take(), input) {
            // The command may end without reading; its exit code tells.
            let _ = pipe.write_all(text.as_bytes());
        }
        let output = child
            .wait_with_output()
            .unwrap_or_else(|e| panic!("cannot wait for {command:?}: {e}"));
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status).unwrap_or(0);
        Run {
            code: output.status.code().unwrap_or(128 + signal),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Describes a lab to be started.
#[derive(Clone, Debug)]
pub struct LabBuilder {
    program: PathBuf,
    name: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl LabBuilder {
    /// A lab run by this program (`hypha`), with a name that begins so.
    pub fn new(program: impl Into<PathBuf>, prefix: &str) -> LabBuilder {
        LabBuilder {
            program: program.into(),
            name: crate::unique_name(prefix),
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    /// With these options of `lab up`.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> LabBuilder {
        self.args.extend(args.iter().map(|a| (*a).to_owned()));
        self
    }

    /// With a variable in the environment of its supervisor.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<Path>) -> LabBuilder {
        self.env.push((
            key.to_owned(),
            value.as_ref().to_string_lossy().into_owned(),
        ));
        self
    }

    /// Starts it. Panics with what it said when it does not come up.
    #[track_caller]
    pub fn up(self) -> LabGuard {
        let guard = LabGuard {
            program: self.program,
            name: self.name,
            keep: false,
        };
        let mut command = guard.command("up", &[]);
        command.args(&self.args).envs(self.env);
        let run = Run::of(&mut command, None);
        assert!(
            run.ok(),
            "lab {} does not come up: {}{}",
            guard.name,
            run.stdout,
            run.stderr
        );
        guard
    }
}

/// A lab that ends with the test. On a panic it prints the ends of the logs first.
#[derive(Debug)]
pub struct LabGuard {
    program: PathBuf,
    name: String,
    keep: bool,
}

impl LabGuard {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its directory below /run.
    pub fn dir(&self) -> PathBuf {
        Path::new("/run/hypha-lab").join(&self.name)
    }

    fn command(&self, subcommand: &str, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(["lab", "--name", &self.name, subcommand])
            .args(args);
        command
    }

    /// Runs `hypha lab <subcommand> …` for this lab.
    pub fn lab(&self, subcommand: &str, args: &[&str]) -> Run {
        Run::of(&mut self.command(subcommand, args), None)
    }

    /// Runs `hypha lab up` again with these options, after a `down`.
    pub fn up_again(&self, args: &[&str]) -> Run {
        self.lab("up", args)
    }

    /// Runs any `hypha` command with `--name` of this lab at its end.
    pub fn hypha(&self, args: &[&str]) -> Run {
        Run::of(
            Command::new(&self.program)
                .args(args)
                .args(["--name", &self.name]),
            None,
        )
    }

    /// Runs a command on a node, on `router`, or in a pod.
    pub fn exec(&self, target: &str, command: &[&str]) -> Run {
        let args: Vec<&str> = [target, "--"].iter().chain(command).copied().collect();
        self.lab("exec", &args)
    }

    /// As [`Self::exec`], but must succeed; its standard output.
    #[track_caller]
    pub fn sh(&self, target: &str, script: &str) -> String {
        let run = self.exec(target, &["sh", "-c", script]);
        assert!(
            run.ok(),
            "on {target}: {script}: exit code {}\n{}{}",
            run.code,
            run.stdout,
            run.stderr
        );
        run.stdout
    }

    /// A command on a node, on `router`, or in a pod, to be started by the caller (for what runs beside the test).
    pub fn exec_command(&self, target: &str, command: &[&str]) -> Command {
        let mut made = self.command("exec", &[target, "--"]);
        made.args(command);
        made
    }

    /// Applies manifests and waits until their pods are ready.
    #[track_caller]
    pub fn apply(&self, yaml: &str) {
        let run = Run::of(
            &mut self.command("apply", &["-f", "-", "--wait"]),
            Some(yaml),
        );
        assert!(run.ok(), "apply: {}{}", run.stdout, run.stderr);
    }

    /// Applies manifests without waiting.
    pub fn try_apply(&self, yaml: &str) -> Run {
        Run::of(&mut self.command("apply", &["-f", "-"]), Some(yaml))
    }

    /// Deletes a pod and waits until it is gone.
    #[track_caller]
    pub fn delete_pod(&self, name: &str) {
        let run = self.lab("delete", &["pod", name]);
        assert!(run.ok(), "delete pod {name}: {}{}", run.stdout, run.stderr);
    }

    /// `lab status -o json`.
    #[track_caller]
    pub fn status(&self) -> Value {
        let run = self.lab("status", &["-o", "json"]);
        assert!(run.ok(), "status: {}", run.stderr);
        serde_json::from_str(&run.stdout)
            .unwrap_or_else(|e| panic!("status is no JSON ({e}): {}", run.stdout))
    }

    /// What the lab's API server answers to a GET of the administrator.
    #[track_caller]
    pub fn get(&self, path: &str) -> String {
        let script = r#"
            part() { sed -n "s/^ *$1: //p" "$KUBECONFIG"; }
            data() { part "$1" | base64 -d; }
            curl -sg --cacert <(data certificate-authority-data) --cert <(data client-certificate-data) \
                --key <(data client-key-data) "$(part server)$1""#;
        let mut command = Command::new("bash");
        command.args(["-c", script, "bash", path]);
        command.env("KUBECONFIG", self.dir().join("kubeconfig"));
        let run = Run::of(&mut command, None);
        assert!(run.ok(), "GET {path}: {}{}", run.stdout, run.stderr);
        run.stdout
    }

    /// The addresses of a pod, IPv4 first. Empty when there is no such pod, or when it has none yet.
    #[track_caller]
    pub fn pod_ips(&self, name: &str) -> Vec<String> {
        let status = self.status();
        let pods = status["pods"].as_array().into_iter().flatten();
        let ips = pods
            .filter(|p| p["name"] == name)
            .flat_map(|p| p["ips"].as_array().into_iter().flatten());
        ips.filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// The process id of a node's agent, if it runs.
    #[track_caller]
    pub fn agent_pid(&self, node: &str) -> Option<i32> {
        let status = self.status();
        let node = status["nodes"]
            .as_array()?
            .iter()
            .find(|n| n["name"] == node)?;
        node["agent"]["process"]["pid"].as_i64()?.try_into().ok()
    }

    /// Kills a node's agent with SIGKILL; the lab starts it again. Returns once the next one is started (not: healthy).
    #[track_caller]
    pub fn kill_agent(&self, node: &str) {
        self.agent(&["restart", node, "--kill"]);
    }

    /// Ends a node's agent and keeps it stopped.
    #[track_caller]
    pub fn stop_agent(&self, node: &str) {
        self.agent(&["stop", node]);
    }

    /// Lets a stopped agent run again.
    #[track_caller]
    pub fn start_agent(&self, node: &str) {
        self.agent(&["start", node]);
    }

    #[track_caller]
    fn agent(&self, args: &[&str]) {
        let run = self.lab("agent", args);
        assert!(run.ok(), "lab agent {args:?}: {}", run.stderr);
    }

    /// Ends the lab now. Panics when that fails.
    #[track_caller]
    pub fn down(mut self) {
        self.keep = true;
        let run = self.lab("down", &[]);
        assert!(run.ok(), "down: {}{}", run.stdout, run.stderr);
    }

    fn print_logs(&self) {
        for file in ["supervisor", "node1", "node2", "node3"] {
            let run = self.lab("logs", &[file]);
            let lines: Vec<&str> = run.stdout.lines().collect();
            eprintln!(
                "--- {file} (last lines)\n{}",
                lines[lines.len().saturating_sub(20)..].join("\n")
            );
        }
    }
}

impl Drop for LabGuard {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if std::thread::panicking() {
            self.print_logs();
        }
        let run = self.lab("down", &[]);
        if !run.ok() {
            eprintln!("lab {} does not go down: {}", self.name, run.stderr);
        }
    }
}
