//! A person's shell: commands as they are typed, with one `kubectl` and a lab's kubeconfig.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hypha_e2e::cluster::Cluster;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;
use testkit::Run;

/// How long something may take to be seen.
pub const SOON: Duration = Duration::from_secs(15);
/// Seconds after which a command is ended that does not end.
const LIMIT: &str = "60";

/// Which `kubectl`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Release {
    /// The newest at hand.
    New,
    /// The one of Kubernetes 1.20.
    Old,
}

/// The folder of downloaded tools.
pub fn tools() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty());
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache");
    cache.map_or_else(home, PathBuf::from).join("hypha/tools")
}

/// Where a release is; without it, says so.
fn kubectl(release: Release) -> Option<PathBuf> {
    let folder = if release == Release::New {
        "kubectl-new"
    } else {
        "kubectl-old"
    };
    let ours = tools().join(folder).join("kubectl");
    let installed = PathBuf::from("/usr/bin/kubectl");
    let found = [ours, installed].into_iter().find(|file| file.is_file());
    let found = found.filter(|file| release == Release::New || !file.starts_with("/usr"));
    if found.is_none() {
        eprintln!("skipped: there is no {release:?} kubectl; `cargo xtask setup` fetches it");
    }
    found
}

/// A shell of somebody who uses a lab.
pub struct Shell {
    home: TempDir,
    kubeconfig: PathBuf,
    lab: String,
}

impl Shell {
    /// With this `kubectl`, and with this build under the names that people know. `None` when that `kubectl` is not there.
    pub fn new(cluster: &Cluster, release: Release) -> Option<Shell> {
        let home = TempDir::new().unwrap();
        let bin = home.path().join("bin");
        fs::create_dir(&bin).unwrap();
        symlink(kubectl(release)?, bin.join("kubectl")).unwrap();
        for name in ["hypha", "cilium", "cilium-dbg"] {
            symlink(hypha_e2e::program("hypha"), bin.join(name)).unwrap();
        }
        let kubeconfig = cluster.lab.dir().join("kubeconfig");
        let lab = cluster.lab.name().to_owned();
        Some(Shell {
            home,
            kubeconfig,
            lab,
        })
    }

    /// A file in the home directory, where commands run.
    pub fn file(&self, name: &str, text: &str) {
        fs::write(self.home.path().join(name), text).unwrap();
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", line]).current_dir(self.home.path());
        command
            .env_clear()
            .env("HOME", self.home.path())
            .env("KUBECONFIG", &self.kubeconfig)
            .env("LAB", &self.lab)
            .env(
                "MANIFESTS",
                concat!(env!("CARGO_MANIFEST_DIR"), "/manifests"),
            )
            .env("TERM", "xterm")
            .env("KUBECTL_KUBERC", "false");
        let path = format!(
            "{}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            self.home.path().display()
        );
        command.env("PATH", path);
        command
    }

    /// Runs a line; how it ended.
    #[track_caller]
    pub fn run(&self, line: &str) -> Run {
        let mut limited = self.command(line);
        let mut command = Command::new("timeout");
        command
            .arg(LIMIT)
            .arg(limited.get_program())
            .args(limited.get_args());
        command.current_dir(self.home.path()).env_clear();
        command.envs(limited.get_envs().filter_map(|(k, v)| Some((k, v?))));
        limited.stdin(Stdio::null());
        let output = command.stdin(Stdio::null()).output().unwrap();
        Run {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a line that must succeed; its standard output.
    #[track_caller]
    pub fn ok(&self, line: &str) -> String {
        let run = self.run(line);
        assert!(
            run.ok(),
            "$ {line}\nexit status {}\n{}{}",
            run.code,
            run.stdout,
            run.stderr
        );
        run.stdout
    }

    /// Runs a line that must succeed and print, on either stream, all of these.
    #[track_caller]
    pub fn has(&self, line: &str, parts: &[&str]) -> String {
        let run = self.run(line);
        let text = run.stdout + &run.stderr;
        assert!(run.code == 0, "$ {line}\nexit status {}\n{text}", run.code);
        assert_parts(line, &text, parts);
        text
    }

    /// Runs a line that must fail and say all of these.
    #[track_caller]
    pub fn fails(&self, line: &str, parts: &[&str]) {
        let run = self.run(line);
        let text = run.stdout + &run.stderr;
        assert!(run.code != 0, "this should fail:\n$ {line}\n{text}");
        assert_parts(line, &text, parts);
    }

    /// Runs a line again and again until it succeeds and prints all of these.
    #[track_caller]
    pub fn until(&self, line: &str, parts: &[&str]) -> String {
        let mut last = String::new();
        let start = std::time::Instant::now();
        while start.elapsed() < SOON {
            let run = self.run(line);
            last = run.stdout + &run.stderr;
            if run.code == 0 && parts.iter().all(|part| last.contains(part)) {
                return last;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("$ {line}\ndoes not come to say {parts:?} within {SOON:?}:\n{last}");
    }

    /// Starts a line that runs on.
    #[track_caller]
    pub fn start(&self, line: &str) -> Running {
        Running::of(line, self.command(line), self.home.path())
    }
}

#[track_caller]
fn assert_parts(line: &str, text: &str, parts: &[&str]) {
    for part in parts {
        assert!(
            text.contains(part),
            "no `{part}` in what this prints:\n$ {line}\n{text}"
        );
    }
}

/// A command that runs beside the test. Ends with the value.
pub struct Running {
    line: String,
    child: Child,
    output: PathBuf,
}

impl Running {
    /// Starts a command whose output goes to a file in `dir`.
    #[track_caller]
    pub fn of(line: &str, mut command: Command, dir: &Path) -> Running {
        let output = dir.join(testkit::unique_name("output"));
        let file = File::create(&output).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        let child = command.process_group(0).spawn().unwrap();
        Running {
            line: line.to_owned(),
            child,
            output,
        }
    }

    /// What it said until now.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// Waits until it has said this; all that it said.
    #[track_caller]
    pub fn says(&self, part: &str) -> String {
        self.says_such(part, |text| text.contains(part))
    }

    /// Waits until what it said is as wanted; all that it said.
    #[track_caller]
    pub fn says_such(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let start = std::time::Instant::now();
        while start.elapsed() < SOON {
            let text = self.said();
            if wanted(&text) {
                return text;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!(
            "$ {}\ndoes not say {what} within {SOON:?}:\n{}",
            self.line,
            self.said()
        );
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = killpg(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}
