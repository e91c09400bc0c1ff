//! What stands for an image: there is no registry, a table maps names to built-in servers and programs of the host. Pure,
//! but for the file with images that a person added.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::plan::Waiting;
use crate::init::container::Run;
use crate::workload::Server;

/// The table, as text.
pub const TABLE: &str = include_str!("images.yaml");
/// The image that is nothing but the host's files.
pub const HOST: &str = "host";

/// What a container of an image runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Image {
    /// By which names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// A built-in server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Server>,
    /// Commands that mean the server.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<String>,
    /// A program of the host with its first arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Arguments where the container gives none; with the program, where there is no entrypoint.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// User id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<u32>,
    /// Working directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// With the lab's own tools in place of programs that the host lacks.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub tools: bool,
    /// It has this project's own programs, and its command is the first process itself.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub own: bool,
    /// Programs that must be there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
}

static BUILT_IN: LazyLock<Vec<Image>> = LazyLock::new(|| {
    // A test reads it, so it is readable here.
    serde_saphyr::from_str(TABLE).unwrap_or_default()
});

/// All images that are there from the start.
pub fn built_in() -> &'static [Image] {
    &BUILT_IN
}

/// A name without what does not matter here: tag, digest, the default registry.
pub fn plain_name(reference: &str) -> &str {
    let name = reference.split('@').next().unwrap_or(reference);
    let after_path = name.rfind('/').map_or(0, |at| at + 1);
    let name = match name[after_path..].find(':') {
        Some(at) => &name[..after_path + at],
        None => name,
    };
    let name = ["docker.io/", "index.docker.io/", "registry-1.docker.io/"]
        .iter()
        .find_map(|p| name.strip_prefix(p))
        .unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

/// The images a person added, in a file of the lab: name to image.
pub type Added = BTreeMap<String, Image>;

/// Reads added images; none when there is no such file.
pub fn added(file: &Path) -> anyhow::Result<Added> {
    match std::fs::read_to_string(file) {
        Ok(text) => {
            serde_json::from_str(&text).with_context(|| format!("{} is malformed", file.display()))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Added::new()),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// An image as a person describes it on the command line: the name of another image, or a program with arguments.
pub fn described(words: &[String]) -> Image {
    if let [name] = words
        && let Some(known) = find(plain_name(name), &Added::new())
    {
        return Image {
            names: Vec::new(),
            ..known
        };
    }
    Image {
        entrypoint: words.to_vec(),
        ..Image::default()
    }
}

fn find(name: &str, added: &Added) -> Option<Image> {
    let own = added.get(name).cloned();
    own.or_else(|| {
        built_in()
            .iter()
            .find(|i| i.names.iter().any(|n| plain_name(n) == name))
            .cloned()
    })
}

/// The image of this reference, or why there is none. `exists` says whether the host has a program.
pub fn resolve(
    reference: &str,
    added: &Added,
    exists: impl Fn(&str) -> bool,
) -> Result<Image, Waiting> {
    let name = plain_name(reference);
    if name == HOST {
        return Ok(Image::default());
    }
    let refuse = |message: String| Waiting {
        reason: "ErrImagePull",
        message,
    };
    if name.is_empty() || reference.chars().any(char::is_whitespace) {
        return Err(Waiting {
            reason: "InvalidImageName",
            message: format!("{reference:?} is no image name"),
        });
    }
    let Some(image) = find(name, added) else {
        return Err(refuse(format!(
            "failed to pull image {reference:?}: the lab has no registry and does not know {name:?}. `hypha lab image list` shows what it \
             knows; `hypha lab image add {name}=PROGRAM [ARGS]` or `{name}=OTHER-IMAGE` adds it; `image: host` runs any `command` of this machine"
        )));
    };
    let missing: Vec<&str> = image
        .needs
        .iter()
        .map(String::as_str)
        .filter(|p| !exists(p))
        .collect();
    if missing.is_empty() {
        return Ok(image);
    }
    Err(refuse(format!(
        "failed to pull image {reference:?}: it runs programs of this machine, which lacks {}",
        missing.join(", ")
    )))
}

impl Image {
    /// What runs, with the `command` and `args` of the container.
    pub fn run(&self, command: Vec<String>, args: Vec<String>) -> Result<Run, Waiting> {
        let base = |p: &str| p.rsplit('/').next().unwrap_or_default().to_owned();
        if let Some(server) = self.server {
            let Some((first, rest)) = command.split_first() else {
                return Ok(Run::Server(
                    server,
                    if args.is_empty() {
                        self.cmd.clone()
                    } else {
                        args
                    },
                ));
            };
            if self.programs.contains(&base(first)) {
                return Ok(Run::Server(server, [rest, &args].concat()));
            }
        }
        if !command.is_empty() {
            return Ok(Run::Command([command, args].concat()));
        }
        let args = if args.is_empty() {
            self.cmd.clone()
        } else {
            args
        };
        let all = [self.entrypoint.clone(), args].concat();
        if all.is_empty() {
            return Err(Waiting {
                reason: "CreateContainerConfigError",
                message: "image \"host\" has no program of its own: set `command`".into(),
            });
        }
        Ok(Run::Command(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|w| (*w).to_owned()).collect()
    }

    fn get(reference: &str) -> Result<Image, Waiting> {
        resolve(reference, &Added::new(), |_| true)
    }

    #[test]
    fn the_table_is_readable() {
        let table: Vec<Image> = serde_saphyr::from_str(TABLE).unwrap();
        assert!(table.len() > 10 && table.iter().all(|i| !i.names.is_empty()));
        assert!(
            table
                .iter()
                .all(|i| i.server.is_some() == (i.entrypoint.is_empty() && i.cmd.is_empty()))
        );
    }

    #[test]
    fn names() {
        for reference in [
            "nginx",
            "nginx:1.27-alpine",
            "docker.io/library/nginx@sha256:00",
            "docker.io/nginx:x",
            "library/nginx",
        ] {
            assert_eq!(plain_name(reference), "nginx", "{reference}");
        }
        assert_eq!(plain_name("localhost:5000/a/b:1"), "localhost:5000/a/b");
        assert_eq!(
            plain_name("registry.k8s.io/pause:3.10"),
            "registry.k8s.io/pause"
        );
    }

    #[test]
    fn images_of_demos_are_known() {
        for reference in [
            "traefik/whoami",
            "nicolaka/netshoot",
            "curlimages/curl:8.10.1",
            "nginx:latest",
            "busybox:1.36",
            "alpine",
            "registry.k8s.io/e2e-test-images/agnhost:2.45",
            "cilium/netperf",
            "quay.io/cilium/json-mock:v1.3.8@sha256:0",
            "quay.io/cilium/starwars:v2.1@sha256:1",
            "quay.io/cilium/alpine-curl:v1.10.0",
            "registry.k8s.io/pause:3.9",
            "hypha/echo:latest",
            "ghcr.io/hypha/hypha:v0.1.0",
        ] {
            assert!(get(reference).is_ok(), "{reference}");
        }
    }

    #[test]
    fn what_runs() {
        let run = |image: &str, command: &[&str], args: &[&str]| {
            get(image).unwrap().run(words(command), words(args))
        };
        assert_eq!(
            run("nginx", &[], &[]).unwrap(),
            Run::Server(Server::Nginx, vec![])
        );
        assert_eq!(
            run("nginx", &["nginx", "-g"], &["x"]).unwrap(),
            Run::Server(Server::Nginx, words(&["-g", "x"]))
        );
        assert_eq!(
            run("nginx", &["sh", "-c"], &["x"]).unwrap(),
            Run::Command(words(&["sh", "-c", "x"]))
        );
        let Run::Command(curl) = run("curlimages/curl", &[], &["-s", "x"]).unwrap() else {
            panic!("a command")
        };
        assert_eq!(curl[0], "sh");
        assert_eq!(curl[3..], words(&["curl", "-s", "x"]));
        assert_eq!(
            run("busybox", &[], &["date", "-u"]).unwrap(),
            Run::Command(words(&["date", "-u"]))
        );
        assert_eq!(
            run("busybox", &[], &[]).unwrap(),
            Run::Command(words(&["sh"]))
        );
        assert_eq!(
            run("host", &[], &[]).unwrap_err().reason,
            "CreateContainerConfigError"
        );
    }

    #[test]
    fn what_is_missing_is_said() {
        let unknown = get("ghcr.io/me/app:1").unwrap_err();
        assert_eq!(unknown.reason, "ErrImagePull");
        assert!(
            unknown.message.contains("image add ghcr.io/me/app="),
            "{}",
            unknown.message
        );
        let lacking = resolve("cilium/netperf", &Added::new(), |_| false).unwrap_err();
        assert!(
            lacking.message.contains("netperf, netserver"),
            "{}",
            lacking.message
        );
        assert_eq!(get("a b").unwrap_err().reason, "InvalidImageName");
        let own = Added::from([(
            "ghcr.io/me/app".to_owned(),
            described(&words(&["/bin/app", "-x"])),
        )]);
        let image = resolve("ghcr.io/me/app:9", &own, |_| true).unwrap();
        assert_eq!(
            image.run(vec![], vec![]).unwrap(),
            Run::Command(words(&["/bin/app", "-x"]))
        );
        assert_eq!(described(&words(&["nginx:1"])).server, Some(Server::Nginx));
    }
}
