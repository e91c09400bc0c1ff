//! An apt of our own: the machine's mirror and network settings, but another suite and private folders, so that
//! one package of another Debian release can be fetched without touching the system's apt.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::proc;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const LIMIT: Duration = Duration::from_secs(300);

/// A private apt with its lists fetched.
pub struct PrivateApt {
    config: PathBuf,
    dir: PathBuf,
}

impl PrivateApt {
    /// Sets it up below `dir` for one suite.
    pub fn new(dir: &Path, suite: &str) -> Result<Self> {
        for name in ["state/lists/partial", "cache/archives/partial", "empty"] {
            let path = dir.join(name);
            fs::create_dir_all(&path)
                .with_context(|| format!("cannot create {}", path.display()))?;
        }
        let mirror = mirror()?;
        let sources = ["deb", "deb-src"]
            .map(|kind| format!("{kind} [signed-by={KEYRING}] {mirror} {suite} main\n"));
        let apt = Self {
            config: dir.join("apt.conf"),
            dir: dir.to_path_buf(),
        };
        fs::write(dir.join("sources.list"), sources.concat())
            .context("cannot write sources.list")?;
        fs::write(&apt.config, configuration(dir)?).context("cannot write apt.conf")?;
        proc::logged("apt-update", apt.command("apt-get").arg("update"), LIMIT)?;
        Ok(apt)
    }

    /// Every version of a package that the suite has.
    pub fn versions(&self, package: &str) -> Result<Vec<String>> {
        let table = proc::output(self.command("apt-cache").args(["madison", package]))?;
        let version = |line: &str| line.split('|').nth(1).map(|field| field.trim().to_owned());
        Ok(table.lines().filter_map(version).collect())
    }

    /// Fetches one version of a package and returns its file.
    pub fn download(&self, package: &str, version: &str) -> Result<PathBuf> {
        let wanted = format!("{package}={version}");
        let mut command = self.command("apt-get");
        command.args(["download", &wanted]).current_dir(&self.dir);
        proc::logged("apt-download", &mut command, LIMIT)?;
        self.file(&format!("{package}_"), ".deb")
    }

    /// Fetches the newest source of a package and returns the archive of its authors.
    pub fn source(&self, package: &str) -> Result<PathBuf> {
        let mut command = self.command("apt-get");
        command
            .args(["source", "--download-only", package])
            .current_dir(&self.dir);
        proc::logged("apt-source", &mut command, LIMIT)?;
        self.file(&format!("{package}_"), ".orig.tar.gz")
    }

    fn file(&self, start: &str, end: &str) -> Result<PathBuf> {
        let entries = fs::read_dir(&self.dir).context("cannot list the download folder")?;
        let fits = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(start) && name.ends_with(end)
        };
        let found = entries.flatten().map(|entry| entry.path()).find(fits);
        found.with_context(|| format!("apt-get left no file {start}…{end}"))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config).env("LC_ALL", "C");
        command
    }
}

/// The first mirror in the machine's own sources that carries its own Debian release.
fn mirror() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let codename = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release names no Debian release")?;
    let uris = proc::output(Command::new("apt-get").args(["update", "--print-uris"]))?;
    mirror_of(&uris, codename)
        .with_context(|| format!("the apt sources have no mirror for Debian {codename}"))
}

/// Picks `<mirror>` out of a line `'<mirror>/dists/<codename>/InRelease' …`.
fn mirror_of(uris: &str, codename: &str) -> Option<String> {
    let end = format!("/dists/{codename}/InRelease'");
    let mirror = |line: &str| Some(line.strip_prefix('\'')?.split_once(&end)?.0.to_owned());
    uris.lines().find_map(mirror)
}

fn configuration(dir: &Path) -> Result<String> {
    let dump = proc::output(Command::new("apt-config").arg("dump"))?;
    let network = dump
        .lines()
        .filter(|line| is_network_setting(line))
        .collect::<Vec<_>>()
        .join("\n");
    let top = dir.display();
    Ok(format!(
        r#"{network}
Dir::State "{top}/state";
Dir::State::Status "/dev/null";
Dir::Cache "{top}/cache";
Dir::Etc::SourceList "{top}/sources.list";
Dir::Etc::SourceParts "{top}/empty";
Dir::Etc::Main "/dev/null";
Dir::Etc::Parts "{top}/empty";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "{top}/empty";
APT::Sandbox::User "root";
Acquire::Languages "none";
"#
    ))
}

fn is_network_setting(line: &str) -> bool {
    let Some(key) = line.strip_prefix("Acquire::") else {
        return false;
    };
    ["http::", "https::", "Check-", "Retries", "ForceIP"]
        .iter()
        .any(|start| key.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_that_of_the_release_itself() {
        let uris = "'http://a.example/debian-security/dists/bookworm-security/InRelease' x 0\n\
                    'http://b.example/debian/dists/bookworm-updates/InRelease' x 0\n\
                    'http://b.example/debian/dists/bookworm/InRelease' x 0\n";
        assert_eq!(
            mirror_of(uris, "bookworm").as_deref(),
            Some("http://b.example/debian")
        );
        assert_eq!(mirror_of(uris, "trixie"), None);
    }

    #[test]
    fn only_network_settings_are_taken_over() {
        assert!(is_network_setting(
            "Acquire::http::Proxy \"http://p.example:1/\";"
        ));
        assert!(is_network_setting("Acquire::Retries \"3\";"));
        assert!(!is_network_setting("Acquire::Languages \"en\";"));
        assert!(!is_network_setting("APT::Install-Recommends \"1\";"));
    }
}
