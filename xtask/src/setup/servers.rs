//! Kubernetes' own servers, for the tests of conformance: etcd as a Debian release has it, and the API server, controllers and
//! scheduler built from the source of the same release with its Go. Nothing is installed into the system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::apt::PrivateApt;
use crate::report::Outcome;
use crate::{paths, proc};

/// The Debian release whose source has the servers, and its Go.
const SUITE: &str = "bookworm";
const GO: &str = "1.19";
/// A package and the library in it.
const REFLECT: (&str, &str) = (
    "golang-github-modern-go-reflect2-dev",
    "github.com/modern-go/reflect2",
);
const SERVERS: [&str; 3] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];
/// What of the source says which release it is, as the programs tell it.
const RELEASE: &str = "1.20.2";
/// The packages that tell it: of the programs, and of what answers `GET /version`.
const VERSIONS: [&str; 2] = ["component-base/version", "client-go/pkg/version"];
const BUILD_LIMIT: Duration = Duration::from_secs(5400);
const STEP_LIMIT: Duration = Duration::from_secs(600);

/// The folder with the programs.
pub fn dir() -> Result<PathBuf> {
    Ok(paths::cache()?.join(format!("tools/kubernetes-{RELEASE}")))
}

/// Builds them unless they are there. Minutes of work, once.
pub fn install() -> Result<Outcome> {
    let dir = dir()?;
    if SERVERS
        .iter()
        .chain(&["etcd"])
        .all(|name| dir.join(name).is_file())
    {
        return Ok(Outcome::Present(format!("Kubernetes {RELEASE} and etcd")));
    }
    if std::env::consts::ARCH != "x86_64" || paths::which("apt-get").is_none() {
        let why = "they are built on Debian for x86_64 alone; HYPHA_KUBERNETES may name a folder with others";
        return Ok(Outcome::Missing(why.to_owned()));
    }
    let work = dir.with_extension("part");
    // What an interrupted set-up left.
    let _ = fs::remove_dir_all(&work);
    let built = build(&work).and_then(|()| {
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        for name in SERVERS.iter().chain(&["etcd"]) {
            let place = dir.join(name);
            fs::rename(work.join("bin").join(name), &place)
                .with_context(|| format!("cannot write {}", place.display()))?;
        }
        Ok(())
    });
    let _ = fs::remove_dir_all(&work);
    built?;
    Ok(Outcome::Done(format!(
        "built Kubernetes {RELEASE}, fetched etcd"
    )))
}

fn build(work: &Path) -> Result<()> {
    let apt = PrivateApt::new(work, SUITE)?;
    let tree = work.join("tree");
    for package in [
        "etcd-server".to_owned(),
        format!("golang-{GO}-go"),
        format!("golang-{GO}-src"),
        REFLECT.0.to_owned(),
    ] {
        let versions = apt.versions(&package)?;
        let version = versions.first();
        let version = version.with_context(|| format!("Debian {SUITE} has no {package}"))?;
        let file = apt.download(&package, version)?;
        let mut command = Command::new("dpkg-deb");
        command.arg("-x").arg(&file).arg(&tree);
        proc::logged("dpkg-deb", &mut command, STEP_LIMIT)?;
    }
    // The older Go finds its parts by the folder it was made for.
    let source = work.join("go/src/k8s.io/kubernetes");
    let bin = work.join("bin");
    for dir in [&source, &bin] {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let archive = apt.source("kubernetes")?;
    let mut command = Command::new("tar");
    command.arg("-xzf").arg(&archive).arg("-C").arg(&source);
    command.arg("--strip-components=1");
    proc::logged("kubernetes-source", &mut command, STEP_LIMIT)?;
    name_release(&source)?;
    mend_maps(&tree, &source)?;
    fs::rename(tree.join("usr/bin/etcd"), bin.join("etcd")).context("the package has no etcd")?;
    describe(work, &source)?;
    for name in SERVERS {
        compile(
            work,
            &source,
            &format!("k8s.io/kubernetes/cmd/{name}"),
            name,
        )?;
    }
    Ok(())
}

/// The source's own release of this library walks maps as older Go had them, and crashes with this one.
fn mend_maps(tree: &Path, source: &Path) -> Result<()> {
    let (_, library) = REFLECT;
    let old = source.join("vendor").join(library);
    let new = tree.join("usr/share/gocode/src").join(library);
    fs::remove_dir_all(&old).with_context(|| format!("cannot remove {}", old.display()))?;
    fs::rename(&new, &old).with_context(|| format!("the package has no {library}"))
}

/// The archive does not know which release it is of.
fn name_release(source: &Path) -> Result<()> {
    for package in VERSIONS {
        let path = source.join(format!("staging/src/k8s.io/{package}/base.go"));
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        fs::write(&path, named(&text))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn named(text: &str) -> String {
    let line = |line: &str| match line.trim_start().starts_with("gitVersion ") {
        true => format!("\tgitVersion = \"v{RELEASE}\"\n"),
        false => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// The descriptions of the built-in kinds, which the source's own build makes first.
fn describe(work: &Path, source: &Path) -> Result<()> {
    let tool = "openapi-gen";
    let vendored = format!("k8s.io/kubernetes/vendor/k8s.io/kube-openapi/cmd/{tool}");
    compile(work, source, &vendored, tool)?;
    let mut find = Command::new("grep");
    find.args([
        "-rl",
        "--include=*.go",
        "--exclude=*_test.go",
        "+k8s:openapi-gen=",
    ]);
    find.args(["pkg", "staging/src/k8s.io"]).current_dir(source);
    let mut packages: Vec<String> = proc::output(&mut find)?
        .lines()
        .filter(|line| {
            !["/code-generator/", "/sample-apiserver/"]
                .iter()
                .any(|other| line.contains(other))
        })
        .filter_map(|line| line.rsplit_once('/'))
        .map(|(dir, _)| {
            format!(
                "k8s.io/kubernetes/{}",
                dir.replacen("staging/src/", "vendor/", 1)
            )
        })
        .collect();
    packages.sort();
    packages.dedup();
    if packages.is_empty() {
        bail!("the source of Kubernetes has no kinds to describe");
    }
    let mut command = nice(&work.join("bin").join(tool));
    command.args([
        "-O",
        "zz_generated.openapi",
        "-p",
        "k8s.io/kubernetes/pkg/generated/openapi",
    ]);
    command.args([
        "--go-header-file",
        "hack/boilerplate/boilerplate.generatego.txt",
    ]);
    command.arg("--output-base").arg(work.join("go/src"));
    command.arg("-r").arg(work.join("violations"));
    command.args(["-i", &packages.join(",")]);
    go_environment(&mut command, work);
    command.current_dir(source);
    proc::logged("kubernetes-openapi", &mut command, BUILD_LIMIT)
}

fn compile(work: &Path, source: &Path, package: &str, name: &str) -> Result<()> {
    let numbers: Vec<&str> = RELEASE.split('.').collect();
    let mut flags = "-s -w".to_owned();
    for package in VERSIONS {
        let package = format!("k8s.io/kubernetes/vendor/k8s.io/{package}");
        for (name, number) in ["gitMajor", "gitMinor"].iter().zip(&numbers) {
            flags += &format!(" -X {package}.{name}={number}");
        }
    }
    let mut command = nice(&goroot(work).join("bin/go"));
    command.args(["build", "-p", "1", "-trimpath", "-ldflags", &flags, "-o"]);
    command.arg(work.join("bin").join(name)).arg(package);
    go_environment(&mut command, work);
    command.current_dir(source);
    proc::logged(name, &mut command, BUILD_LIMIT)
}

fn goroot(work: &Path) -> PathBuf {
    work.join(format!("tree/usr/lib/go-{GO}"))
}

fn go_environment(command: &mut Command, work: &Path) {
    let root = goroot(work);
    let mut path = std::ffi::OsString::from(root.join("bin"));
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    command
        .env("GOROOT", root)
        .env("GOPATH", work.join("go"))
        .env("GOCACHE", work.join("gocache"))
        .env("PATH", path)
        .env("GOFLAGS", "")
        .env("GO111MODULE", "off")
        .env("GOPROXY", "off")
        .env("CGO_ENABLED", "0");
}

/// Others may be at work.
fn nice(program: &Path) -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "15"]).arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_named() {
        let text =
            "var (\n\tgitMajor string // of\n\tgitVersion   string = \"v0.0.0-master+1\"\n)\n";
        let expected = "var (\n\tgitMajor string // of\n\tgitVersion = \"v1.20.2\"\n)\n";
        assert_eq!(named(text), expected);
    }

    #[test]
    #[ignore = "fetches and builds for a quarter of an hour"]
    fn they_are_built() {
        let Ok(Outcome::Done(_) | Outcome::Present(_)) = install() else {
            panic!("Kubernetes' servers cannot be had here");
        };
    }
}
