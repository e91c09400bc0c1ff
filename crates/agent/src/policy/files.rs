//! Policies of the node's own files (`static-cnp-path`): every YAML file of a directory, with one or more objects.
use model::{FILES, PolicyObject, PolicyTables, Tables};
use runtime::{health::Component, stop::Stop};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

/// How often to look whether a file has changed.
const LOOK: Duration = Duration::from_secs(1);
/// The largest file that is read.
const MOST: u64 = 4 << 20;
const KINDS: [&str; 2] = ["CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"];

/// What tells versions of the files from others: length and time of each.
type Stamps = BTreeMap<PathBuf, (u64, Option<SystemTime>)>;

/// What was read of the files.
#[derive(Default)]
struct Files {
    stamps: Stamps,
    /// The policies of each file.
    rows: BTreeMap<PathBuf, Vec<PolicyObject>>,
    /// What is wrong with them.
    problems: Vec<String>,
}

/// Keeps the table of file policies as the files in `directory` are, until `stop`.
pub async fn follow(tables: Tables, directory: PathBuf, health: Component, stop: Stop) {
    let mut known: Option<Arc<Files>> = None;
    // A version counts once two looks have seen it: one look may fall between an editor's emptying a file and its filling it.
    let mut seen: Option<Stamps> = None;
    loop {
        let (dir, before, last) = (directory.clone(), known.clone(), seen.take());
        let looked = tokio::task::spawn_blocking(move || {
            let stamps = look(&dir)?;
            let read = match &before {
                None => Some(read(&stamps, &BTreeMap::new())),
                Some(before) if before.stamps == stamps || last.as_ref() != Some(&stamps) => None,
                Some(before) => Some(read(&stamps, &before.rows)),
            };
            std::io::Result::Ok((stamps, read))
        });
        match looked.await {
            Ok(Ok((stamps, None))) => seen = Some(stamps),
            Ok(Ok((_, Some(files)))) => {
                let rows: Vec<_> = files.rows.values().flatten().cloned().collect();
                let count = rows.len();
                take(&tables, &tables.policies, rows);
                for problem in &files.problems {
                    tracing::warn!("{problem}");
                }
                match files.problems.first() {
                    None => health.ok(format!("{count} policies from files")),
                    Some(first) => health.degraded(first.clone()),
                }
                known = Some(Arc::new(files));
            }
            Ok(Err(error)) => {
                health.degraded(format!(
                    "static-cnp-path={} cannot be read: {error}",
                    directory.display()
                ));
                // Nobody waits for files that are not there; those that were keep what they said.
                finish(&tables);
            }
            Err(_) => return,
        }
        if stop.or(tokio::time::sleep(LOOK)).await.is_none() {
            return;
        }
    }
}

fn take(tables: &Tables, policies: &PolicyTables, rows: Vec<PolicyObject>) {
    let mut txn = tables.db.write();
    // Keys are paths with places in them: there are no two of one key.
    let _ = policies.files.replace_all(&mut txn, rows);
    policies.files.finish_initializer(&mut txn, FILES);
    txn.commit();
}

fn finish(tables: &Tables) {
    let mut txn = tables.db.write();
    tables.policies.files.finish_initializer(&mut txn, FILES);
    txn.commit();
}

/// The policy files that are in the directory.
fn look(directory: &Path) -> std::io::Result<Stamps> {
    let mut stamps = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let is_yaml = path
            .extension()
            .is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
        // A file may go between the two looks at it.
        if is_yaml && let Ok(about) = std::fs::metadata(&path) {
            stamps.insert(path, (about.len(), about.modified().ok()));
        }
    }
    Ok(stamps)
}

/// What the files hold. One that cannot be read has in force what it said `before`.
fn read(stamps: &Stamps, before: &BTreeMap<PathBuf, Vec<PolicyObject>>) -> Files {
    let mut files = Files {
        stamps: stamps.clone(),
        ..Files::default()
    };
    for (path, (len, _)) in stamps {
        let text = if *len > MOST {
            Err(format!("it has {len} bytes, {MOST} are read"))
        } else {
            std::fs::read_to_string(path).map_err(|error| error.to_string())
        };
        let rows = match text.and_then(|text| objects(&text)) {
            Ok(objects) => {
                let mut rows = Vec::new();
                for (index, object) in objects.into_iter().enumerate() {
                    match row(path, index, object) {
                        Ok(row) => rows.push(row),
                        Err(why) => files.blame(path, &why),
                    }
                }
                rows
            }
            Err(why) => {
                let rows = before.get(path).cloned().unwrap_or_default();
                let kept = match rows.len() {
                    0 => String::new(),
                    kept => format!("; {kept} policies stay in force as it said them before"),
                };
                files.blame(path, &format!("{why}{kept}"));
                rows
            }
        };
        files.rows.insert(path.clone(), rows);
    }
    files
}

impl Files {
    fn blame(&mut self, path: &Path, why: &str) {
        self.problems
            .push(format!("policy file {}: {why}", path.display()));
    }
}

/// The objects of a YAML file; a list counts as what it holds.
fn objects(text: &str) -> Result<Vec<Value>, String> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| error.to_string())?;
    let flat = |object: Value| match object.get("items") {
        Some(Value::Array(items)) => items.clone(),
        _ => vec![object],
    };
    let all = documents.into_iter().flat_map(flat);
    Ok(all.filter(|object| !object.is_null()).collect())
}

fn row(path: &Path, index: usize, mut object: Value) -> Result<PolicyObject, String> {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    if !KINDS.contains(&kind.as_str()) {
        return Err(format!(
            "object {}: kind {kind:?} is not read from files; accepted: {}",
            index + 1,
            KINDS.join(", ")
        ));
    }
    if let Value::Object(fields) = &mut object {
        fields.remove("apiVersion");
        fields.remove("kind");
        fields.remove("status");
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            metadata.retain(|name, _| matches!(name.as_str(), "name" | "namespace" | "labels"));
        }
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // What stands before the mark is what people see of the file.
    Ok(PolicyObject {
        key: format!("{name}#{index}").into(),
        kind: kind.into(),
        json: json!(object).to_string().into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_when_they_change_and_what_is_wrong_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write(
            "a.yaml",
            "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: web, namespace: shop}\nspec: {endpointSelector: {}, ingress: [{}]}\n---\nkind: Pod\n",
        );
        write("notes.txt", "not read");
        write("b.yml", "a: [");
        let files = read(&look(dir.path()).unwrap(), &BTreeMap::new());
        let rows = |files: &Files| files.rows.values().flatten().cloned().collect::<Vec<_>>();
        assert_eq!(rows(&files).len(), 1);
        assert_eq!(rows(&files)[0].key.as_str(), "a.yaml#0");
        assert!(rows(&files)[0].json.contains("endpointSelector"));
        let problems = &files.problems;
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("a.yaml") && problems[0].contains("accepted"));
        write(
            "b.yml",
            "kind: CiliumClusterwideNetworkPolicy\nmetadata: {name: all}\nspec: {endpointSelector: {}, egress: [{}]}\n",
        );
        let stamps = look(dir.path()).unwrap();
        assert_ne!(stamps, files.stamps);
        let files = read(&stamps, &files.rows);
        assert_eq!((rows(&files).len(), files.problems.len()), (2, 1));
        write("b.yml", "kind: [");
        let broken = read(&look(dir.path()).unwrap(), &files.rows);
        assert_eq!(rows(&broken), rows(&files), "as it said before");
        assert!(
            broken.problems[1].contains("1 policies stay in force"),
            "{:?}",
            broken.problems
        );
    }
}
