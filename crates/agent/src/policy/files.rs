//! Policies of the node's own files (`static-cnp-path`): every YAML file of a directory, with one or more objects.
use model::{FILES, PolicyObject, PolicyTables, Tables};
use runtime::{health::Component, stop::Stop};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// How often to look whether a file has changed.
const LOOK: Duration = Duration::from_secs(1);
/// The largest file that is read.
const MOST: u64 = 4 << 20;
const KINDS: [&str; 2] = ["CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"];

/// What tells a version of a file from another.
type Stamp = (u64, Option<SystemTime>);

/// Keeps the table of file policies as the files in `directory` are, until `stop`.
pub async fn follow(tables: Tables, directory: PathBuf, health: Component, stop: Stop) {
    let mut known: Option<BTreeMap<PathBuf, Stamp>> = None;
    loop {
        let (dir, before) = (directory.clone(), known.clone());
        let looked = tokio::task::spawn_blocking(move || look(&dir, before.as_ref())).await;
        match looked {
            Ok(Ok(Some((stamps, rows, problems)))) => {
                let count = rows.len();
                take(&tables, &tables.policies, rows);
                known = Some(stamps);
                match problems.first() {
                    None => health.ok(format!("{count} policies from files")),
                    Some(first) => {
                        problems
                            .iter()
                            .for_each(|problem| tracing::warn!("{problem}"));
                        health.degraded(first.clone());
                    }
                }
            }
            Ok(Ok(None)) => {}
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

type Found = (BTreeMap<PathBuf, Stamp>, Vec<PolicyObject>, Vec<String>);

/// What the files hold, with what is wrong with them; none if they are as `before`.
fn look(
    directory: &Path,
    before: Option<&BTreeMap<PathBuf, Stamp>>,
) -> std::io::Result<Option<Found>> {
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
    if before == Some(&stamps) {
        return Ok(None);
    }
    let (mut rows, mut problems) = (Vec::new(), Vec::new());
    for (path, (len, _)) in &stamps {
        let read = if *len > MOST {
            Err(format!("it has {len} bytes, {MOST} are read"))
        } else {
            std::fs::read_to_string(path)
                .map_err(|error| error.to_string())
                .and_then(|text| objects(&text))
        };
        match read {
            Ok(objects) => {
                for (index, object) in objects.into_iter().enumerate() {
                    match row(path, index, object) {
                        Ok(row) => rows.push(row),
                        Err(why) => problems.push(format!("policy file {}: {why}", path.display())),
                    }
                }
            }
            Err(why) => problems.push(format!("policy file {}: {why}", path.display())),
        }
    }
    Ok(Some((stamps, rows, problems)))
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
        let (stamps, rows, problems) = look(dir.path(), None).unwrap().unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].key.as_str(), "a.yaml#0");
        assert!(rows[0].json.contains("endpointSelector"));
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("a.yaml") && problems[0].contains("accepted"));
        assert!(look(dir.path(), Some(&stamps)).unwrap().is_none());
        write(
            "b.yml",
            "kind: CiliumClusterwideNetworkPolicy\nmetadata: {name: all}\nspec: {endpointSelector: {}, egress: [{}]}\n",
        );
        let (_, rows, problems) = look(dir.path(), Some(&stamps)).unwrap().unwrap();
        assert_eq!((rows.len(), problems.len()), (2, 1));
    }
}
