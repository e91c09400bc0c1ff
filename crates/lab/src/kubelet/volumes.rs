//! Volumes. What files a volume has is pure; writing them follows the ways of kubelets: a change shows all at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, ServiceAccountTokenProjection,
    Volume,
};

use crate::init::rootfs;

use super::env::{Sources, config_map_data, field, resource_field, secret_data};
use super::plan::Facts;

/// Mode of files where nothing else is said.
const DEFAULT_MODE: i32 = 0o644;
/// Where the path of the current files is linked.
const CURRENT: &str = "..data";

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileData {
    /// Content.
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// Files of a volume, by their paths in it.
pub type Files = BTreeMap<String, FileData>;

/// What stands behind a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// An empty directory, which the pod's containers share.
    Empty,
    /// Something of the node.
    Host {
        /// Its path there.
        path: PathBuf,
        /// Which type it must have, or is made as.
        kind: String,
    },
    /// Files out of objects.
    Files(Files),
}

/// Names of the objects that a pod refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// Secrets.
    pub secrets: BTreeSet<String>,
    /// Audiences and lifetimes of service account tokens.
    pub tokens: BTreeMap<String, i64>,
}

impl References {
    /// Those in the environments of a pod's containers alone.
    pub fn of_environments(pod: &Pod) -> References {
        let mut all = References::default();
        let Some(spec) = &pod.spec else { return all };
        let containers = spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers);
        for container in containers {
            for from in container.env_from.iter().flatten() {
                all.config_maps
                    .extend(from.config_map_ref.iter().map(|r| r.name.clone()));
                all.secrets
                    .extend(from.secret_ref.iter().map(|r| r.name.clone()));
            }
            for from in container
                .env
                .iter()
                .flatten()
                .filter_map(|e| e.value_from.as_ref())
            {
                all.config_maps
                    .extend(from.config_map_key_ref.iter().map(|r| r.name.clone()));
                all.secrets
                    .extend(from.secret_key_ref.iter().map(|r| r.name.clone()));
            }
        }
        all
    }

    /// Those of a pod, in volumes and environments.
    pub fn of(pod: &Pod) -> References {
        let mut all = References::of_environments(pod);
        let Some(spec) = &pod.spec else { return all };
        for volume in spec.volumes.iter().flatten() {
            all.config_maps
                .extend(volume.config_map.iter().map(|m| m.name.clone()));
            all.secrets
                .extend(volume.secret.iter().filter_map(|s| s.secret_name.clone()));
            let projected = volume
                .projected
                .iter()
                .flat_map(|p| p.sources.iter().flatten());
            for source in projected {
                all.config_maps
                    .extend(source.config_map.iter().map(|m| m.name.clone()));
                all.secrets
                    .extend(source.secret.iter().map(|s| s.name.clone()));
                if let Some(token) = &source.service_account_token {
                    all.tokens
                        .insert(audience(token), token.expiration_seconds.unwrap_or(3600));
                }
            }
        }
        all
    }
}

fn audience(token: &ServiceAccountTokenProjection) -> String {
    token.audience.clone().unwrap_or_default()
}

/// What a volume holds now; the error is for the pod's event.
pub fn content(
    pod: &Pod,
    volume: &Volume,
    facts: &Facts,
    sources: &Sources,
) -> Result<Content, String> {
    if volume.empty_dir.is_some() || volume.ephemeral.is_some() {
        return Ok(Content::Empty);
    }
    if let Some(host) = &volume.host_path {
        let path = PathBuf::from(&host.path);
        let kind = host.type_.clone().unwrap_or_default();
        return Ok(Content::Host { path, kind });
    }
    let mut files = Files::new();
    if let Some(map) = &volume.config_map {
        let data = sources.config_maps.get(&map.name).map(config_map_data);
        let what = format!("configmap {:?}", map.name);
        let picked = Picked {
            data,
            items: map.items.as_deref(),
            optional: map.optional,
            mode: map.default_mode,
        };
        files.extend(picked.files(&what)?);
    } else if let Some(secret) = &volume.secret {
        let name = secret.secret_name.clone().unwrap_or_default();
        let data = sources.secrets.get(&name).map(secret_data);
        let what = format!("secret {name:?}");
        let picked = Picked {
            data,
            items: secret.items.as_deref(),
            optional: secret.optional,
            mode: secret.default_mode,
        };
        files.extend(picked.files(&what)?);
    } else if let Some(downward) = &volume.downward_api {
        let items = downward.items.iter().flatten();
        files.extend(downward_files(pod, items, downward.default_mode, facts)?);
    } else if let Some(projected) = &volume.projected {
        files.extend(projected_files(pod, projected, facts, sources)?);
    } else {
        return Err(format!(
            "volume {:?} is of a kind that the lab does not have; it has emptyDir, configMap, secret, projected, downwardAPI and hostPath",
            volume.name
        ));
    }
    Ok(Content::Files(files))
}

/// Keys of an object that become files.
struct Picked<'a> {
    data: Option<BTreeMap<String, Vec<u8>>>,
    items: Option<&'a [KeyToPath]>,
    optional: Option<bool>,
    mode: Option<i32>,
}

impl Picked<'_> {
    fn files(self, what: &str) -> Result<Files, String> {
        let optional = self.optional.unwrap_or(false);
        let Some(data) = self.data else {
            return if optional {
                Ok(Files::new())
            } else {
                Err(format!("{what} not found"))
            };
        };
        let file = |bytes: &Vec<u8>, mode: Option<i32>| FileData {
            bytes: bytes.clone(),
            mode: mode.or(self.mode).unwrap_or(DEFAULT_MODE) as u32 & 0o777,
        };
        let Some(items) = self.items.filter(|i| !i.is_empty()) else {
            return Ok(data
                .iter()
                .map(|(k, v)| (k.clone(), file(v, None)))
                .collect());
        };
        let mut files = Files::new();
        for item in items {
            match data.get(&item.key) {
                Some(bytes) => drop(files.insert(safe(&item.path)?, file(bytes, item.mode))),
                None if optional => {}
                None => return Err(format!("{what} has no key {:?}", item.key)),
            }
        }
        Ok(files)
    }
}

/// A path that stays in its volume.
fn safe(path: &str) -> Result<String, String> {
    let plain = |c: Component<'_>| matches!(c, Component::Normal(part) if !part.to_string_lossy().starts_with(".."));
    if path.is_empty() || !Path::new(path).components().all(plain) {
        return Err(format!("{path:?} is no usable path in a volume"));
    }
    Ok(path.to_owned())
}

fn downward_files<'a>(
    pod: &Pod,
    items: impl Iterator<Item = &'a DownwardAPIVolumeFile>,
    mode: Option<i32>,
    facts: &Facts,
) -> Result<Files, String> {
    let mut files = Files::new();
    for item in items {
        let text = if let Some(from) = &item.field_ref {
            field(pod, &from.field_path, facts)
                .ok_or_else(|| format!("the field {:?} is not offered", from.field_path))?
        } else if let Some(from) = &item.resource_field_ref {
            let containers = pod.spec.iter().flat_map(|s| &s.containers);
            let name = from.container_name.as_deref().unwrap_or_default();
            let container = containers.into_iter().find(|c| c.name == name);
            let container = container.ok_or_else(|| format!("there is no container {name:?}"))?;
            resource_field(container, from, facts)?.to_string()
        } else {
            continue;
        };
        let mode = item.mode.or(mode).unwrap_or(DEFAULT_MODE) as u32 & 0o777;
        files.insert(
            safe(&item.path)?,
            FileData {
                bytes: text.into_bytes(),
                mode,
            },
        );
    }
    Ok(files)
}

fn projected_files(
    pod: &Pod,
    volume: &ProjectedVolumeSource,
    facts: &Facts,
    sources: &Sources,
) -> Result<Files, String> {
    let mode = volume.default_mode;
    let mut files = Files::new();
    for source in volume.sources.iter().flatten() {
        if let Some(map) = &source.config_map {
            let data = sources.config_maps.get(&map.name).map(config_map_data);
            let picked = Picked {
                data,
                items: map.items.as_deref(),
                optional: map.optional,
                mode,
            };
            files.extend(picked.files(&format!("configmap {:?}", map.name))?);
        }
        if let Some(secret) = &source.secret {
            let data = sources.secrets.get(&secret.name).map(secret_data);
            let picked = Picked {
                data,
                items: secret.items.as_deref(),
                optional: secret.optional,
                mode,
            };
            files.extend(picked.files(&format!("secret {:?}", secret.name))?);
        }
        if let Some(downward) = &source.downward_api {
            files.extend(downward_files(
                pod,
                downward.items.iter().flatten(),
                mode,
                facts,
            )?);
        }
        if let Some(token) = &source.service_account_token {
            let found = sources.tokens.get(&audience(token));
            let text = found.ok_or("there is no service account token yet")?;
            let mode = mode.unwrap_or(DEFAULT_MODE) as u32 & 0o777;
            files.insert(
                safe(&token.path)?,
                FileData {
                    bytes: text.clone().into_bytes(),
                    mode,
                },
            );
        }
    }
    Ok(files)
}

/// Writes files into a volume's directory so that readers see either the old ones or the new ones. Nothing is done when they
/// are there already. `version` is new for every call. The pod's group can read them, where it has one.
pub fn write_files(dir: &Path, files: &Files, group: Option<i64>, version: u64) -> io::Result<()> {
    let group = group.and_then(|group| u32::try_from(group).ok());
    fs::create_dir_all(dir)?;
    let before = fs::read_link(dir.join(CURRENT)).ok();
    if before.as_ref().is_some_and(|b| same(&dir.join(b), files)) {
        return Ok(());
    }
    let stamp = format!("..{version}");
    let fresh = dir.join(&stamp);
    fs::create_dir(&fresh)?;
    for (path, file) in files {
        let path = fresh.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, &file.bytes)?;
        let mode = file.mode | if group.is_some() { 0o440 } else { 0 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        std::os::unix::fs::chown(&path, None, group)?;
    }
    let next = dir.join("..data_next");
    let _ = fs::remove_file(&next);
    symlink(&stamp, &next)?;
    fs::rename(&next, dir.join(CURRENT))?;
    link_names(dir, files)?;
    match before {
        Some(before) => fs::remove_dir_all(dir.join(before)),
        None => Ok(()),
    }
}

/// The visible names: links through the current version.
fn link_names(dir: &Path, files: &Files) -> io::Result<()> {
    let first = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
    let names: BTreeSet<String> = files.keys().map(|p| first(p)).collect();
    for entry in fs::read_dir(dir)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !names.contains(&name) {
            fs::remove_file(entry.path())?;
        }
    }
    for name in names {
        let link = dir.join(&name);
        if !link.is_symlink() {
            symlink(Path::new(CURRENT).join(&name), link)?;
        }
    }
    Ok(())
}

fn same(dir: &Path, files: &Files) -> bool {
    let all = files
        .iter()
        .all(|(path, file)| fs::read(dir.join(path)).is_ok_and(|b| b == file.bytes));
    all && count(dir) == files.len()
}

fn count(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|e| {
            if e.path().is_dir() {
                count(&e.path())
            } else {
                1
            }
        })
        .sum()
}

/// Makes the directory of an emptyDir: writable for everybody, and for the pod's group where it has one.
pub fn make_empty(dir: &Path, group: Option<i64>) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    if let Some(group) = group.and_then(|g| g.try_into().ok()) {
        std::os::unix::fs::chown(dir, None, Some(group))?;
    }
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
}

/// Makes what a host path asks for, or says what is wrong with what is there. `root` is the node's root directory.
pub fn prepare_host_path(root: &Path, path: &Path, kind: &str) -> Result<(), String> {
    let at = rootfs::resolve(root, path);
    let found = fs::metadata(&at);
    let fits = |what: &str, ok: bool| {
        if ok {
            Ok(())
        } else {
            Err(format!("hostPath {} is no {what}", path.display()))
        }
    };
    match (kind, found) {
        ("DirectoryOrCreate", Err(_)) => fs::create_dir_all(&at)
            .map_err(|e| format!("cannot make hostPath {}: {e}", path.display())),
        ("FileOrCreate", Err(_)) => {
            fs::write(&at, "").map_err(|e| format!("cannot make hostPath {}: {e}", path.display()))
        }
        (_, Err(_)) => Err(format!("hostPath {} does not exist", path.display())),
        ("Directory" | "DirectoryOrCreate", Ok(m)) => fits("directory", m.is_dir()),
        ("File" | "FileOrCreate", Ok(m)) => fits("file", m.is_file()),
        ("Socket", Ok(m)) => fits("socket", m.file_type().is_socket()),
        ("CharDevice", Ok(m)) => fits("character device", m.file_type().is_char_device()),
        ("BlockDevice", Ok(m)) => fits("block device", m.file_type().is_block_device()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        let file = |text: &str| FileData {
            bytes: text.into(),
            mode: 0o640,
        };
        list.iter()
            .map(|(k, v)| ((*k).to_owned(), file(v)))
            .collect()
    }

    #[test]
    fn a_change_shows_at_once_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
        write_files(dir.path(), &files(&[("a", "1"), ("sub/b", "2")]), None, 1).unwrap();
        assert_eq!(
            (read("a").as_deref(), read("sub/b").as_deref()),
            (Some("1"), Some("2"))
        );
        write_files(dir.path(), &files(&[("a", "1"), ("sub/b", "2")]), None, 2).unwrap();
        assert_eq!(
            fs::read_link(dir.path().join(CURRENT)).unwrap(),
            Path::new("..1"),
            "nothing to do"
        );
        write_files(dir.path(), &files(&[("a", "3"), ("c", "4")]), None, 3).unwrap();
        assert_eq!(
            (read("a").as_deref(), read("c").as_deref(), read("sub/b")),
            (Some("3"), Some("4"), None)
        );
        assert!(!dir.path().join("..1").exists() && !dir.path().join("sub").is_symlink());
        let mode = fs::metadata(dir.path().join("a"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o640);
    }

    #[test]
    fn contents_and_references() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "labels": {"x": "y"}}, "spec": {"containers": [
            {"name": "c", "envFrom": [{"secretRef": {"name": "env"}}], "resources": {"limits": {"cpu": "2"}}}],
            "volumes": [
                {"name": "m", "configMap": {"name": "m", "items": [{"key": "k", "path": "d/k", "mode": 0o600}]}},
                {"name": "s", "secret": {"secretName": "s", "optional": true}},
                {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                    {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                        {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu"}}]}}]}},
                {"name": "bad", "configMap": {"name": "m", "items": [{"key": "k", "path": "../k"}]}},
                {"name": "e", "emptyDir": {}}, {"name": "nfs", "nfs": {"server": "s", "path": "/"}}]}})).unwrap();
        let references = References::of(&pod);
        assert_eq!(references.config_maps, BTreeSet::from(["m".to_owned()]));
        assert_eq!(
            references.secrets,
            BTreeSet::from(["env".to_owned(), "s".to_owned()])
        );
        assert_eq!(references.tokens, BTreeMap::from([(String::new(), 3607)]));
        let map =
            serde_json::from_value(json!({"metadata": {"name": "m"}, "data": {"k": "v"}})).unwrap();
        let sources = Sources {
            config_maps: [("m".to_owned(), map)].into(),
            tokens: [(String::new(), "tok".to_owned())].into(),
            ..Sources::default()
        };
        let volumes = pod.spec.as_ref().unwrap().volumes.as_ref().unwrap();
        let get = |i: usize| content(&pod, &volumes[i], &Facts::default(), &sources);
        let text = |c: Result<Content, String>, path: &str| match c {
            Ok(Content::Files(f)) => f
                .get(path)
                .map(|f| String::from_utf8(f.bytes.clone()).unwrap()),
            other => panic!("{other:?}"),
        };
        assert!(matches!(get(0), Ok(Content::Files(f)) if f["d/k"].mode == 0o600));
        assert_eq!(get(1), Ok(Content::Files(Files::new())));
        assert_eq!(text(get(2), "token").as_deref(), Some("tok"));
        assert_eq!(text(get(2), "labels").as_deref(), Some("x=\"y\""));
        assert_eq!(text(get(2), "cpu").as_deref(), Some("2"));
        assert!(get(3).unwrap_err().contains("../k"));
        assert_eq!(get(4), Ok(Content::Empty));
        assert!(get(5).unwrap_err().contains("emptyDir"));
    }

    #[test]
    fn host_paths() {
        let root = tempfile::tempdir().unwrap();
        let prepare =
            |path: &str, kind: &str| prepare_host_path(root.path(), Path::new(path), kind);
        assert!(prepare("/a/b", "").unwrap_err().contains("does not exist"));
        prepare("/a/b", "DirectoryOrCreate").unwrap();
        prepare("/a/f", "FileOrCreate").unwrap();
        assert!(prepare("/a/f", "Directory").is_err() && prepare("/a/b", "File").is_err());
        assert!(prepare("/a/b", "").is_ok() && prepare("/a/f", "CharDevice").is_err());
        prepare_host_path(Path::new("/"), Path::new("/dev/null"), "CharDevice").unwrap();
    }
}
