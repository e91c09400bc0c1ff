//! Releases as Helm keeps them: a Secret per revision with the record in it, so that either tool goes on where the other left off.
use std::collections::BTreeMap;
use std::io::{Read, Write};

use base64::{Engine, engine::general_purpose::STANDARD};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::chart::{self, FILES};
use crate::template::to_yaml;

/// Type of the Secrets.
pub const SECRET_TYPE: &str = "helm.sh/release.v1";
/// How many revisions are kept.
pub const HISTORY: usize = 10;
/// The most that a record may unpack to: a Secret holds a megabyte.
const LARGEST: u64 = 64 << 20;

/// What became of a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It is what is in the cluster.
    Deployed,
    /// A later one took its place.
    Superseded,
    /// Something of it could not be applied.
    Failed,
    /// The first one, under way.
    PendingInstall,
    /// A later one, under way.
    PendingUpgrade,
    /// Going back to an earlier one, under way.
    PendingRollback,
    /// Being taken away.
    Uninstalling,
    /// Taken away, with its history kept.
    Uninstalled,
    /// Helm does not know either.
    Unknown,
}

impl Status {
    /// As Helm writes it.
    #[must_use]
    pub fn text(self) -> String {
        serde_json::to_value(self)
            .ok()
            .and_then(|value| value.as_str().map(str::to_owned))
            .unwrap_or_default()
    }
}

/// A revision of a release. What is not read here stays as it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Name of the release.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Number of the revision, from 1.
    pub version: u32,
    /// When, and what became of it.
    pub info: Info,
    /// The chart it was made of.
    #[serde(default)]
    pub chart: Value,
    /// The user's values.
    #[serde(default)]
    pub config: Value,
    /// The objects as YAML documents.
    #[serde(default)]
    pub manifest: String,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// When a revision was made, and what became of it. Times are as RFC 3339 has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Info {
    /// The first revision's time.
    #[serde(default)]
    pub first_deployed: String,
    /// This revision's time.
    #[serde(default)]
    pub last_deployed: String,
    /// When it was taken away; empty: it was not.
    #[serde(default)]
    pub deleted: String,
    /// What happened, for people.
    #[serde(default)]
    pub description: String,
    /// What became of it.
    pub status: Status,
    /// What people were told.
    #[serde(default)]
    pub notes: String,
}

/// A record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Secret {name} holds no record of a release: {why}")]
pub struct RecordError {
    /// The Secret.
    pub name: String,
    /// Why not.
    pub why: String,
}

impl Record {
    /// A new revision, under way. `first` is the time of the first one.
    #[must_use]
    pub fn new(
        name: &str,
        namespace: &str,
        version: u32,
        objects: &[Value],
        config: &Value,
        now: &str,
        first: Option<&str>,
    ) -> Self {
        let status = if version == 1 {
            Status::PendingInstall
        } else {
            Status::PendingUpgrade
        };
        Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            version,
            info: Info {
                first_deployed: first.unwrap_or(now).to_owned(),
                last_deployed: now.to_owned(),
                deleted: String::new(),
                description: "under way".to_owned(),
                status,
                notes: String::new(),
            },
            chart: embedded_chart(),
            config: config.clone(),
            manifest: manifest(objects),
            rest: Map::new(),
        }
    }

    /// Name of the revision's Secret.
    #[must_use]
    pub fn secret_name(&self) -> String {
        format!("sh.helm.release.v1.{}.v{}", self.name, self.version)
    }

    /// The objects of the revision.
    ///
    /// # Errors
    /// The manifest is broken.
    pub fn objects(&self) -> Result<Vec<Value>, RecordError> {
        let fail = |why: String| RecordError {
            name: self.secret_name(),
            why,
        };
        let mut found = Vec::new();
        for document in self
            .manifest
            .split("\n---")
            .map(|part| part.trim_start_matches("---"))
        {
            let value: Value = match document.trim() {
                "" => continue,
                text => serde_saphyr::from_str(text).map_err(|error| fail(error.to_string()))?,
            };
            if value.is_object() {
                found.push(value);
            }
        }
        Ok(found)
    }

    /// The Secret, for a time in seconds since 1970.
    ///
    /// # Errors
    /// The record cannot be packed.
    pub fn secret(&self, now: i64) -> Result<Value, RecordError> {
        let fail = |why: String| RecordError {
            name: self.secret_name(),
            why,
        };
        let text = serde_json::to_vec(self).map_err(|error| fail(error.to_string()))?;
        let mut packer = GzEncoder::new(Vec::new(), Compression::best());
        let packed = packer.write_all(&text).and_then(|()| packer.finish());
        let packed = STANDARD.encode(packed.map_err(|error| fail(error.to_string()))?);
        Ok(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": SECRET_TYPE,
            "metadata": {
                "name": self.secret_name(),
                "namespace": self.namespace,
                "labels": {
                    "name": self.name,
                    "owner": "helm",
                    "status": self.info.status.text(),
                    "version": self.version.to_string(),
                    "modifiedAt": now.to_string(),
                },
            },
            // Packed as text by Helm, and once more since it is a Secret.
            "data": {"release": STANDARD.encode(packed)},
        }))
    }

    /// Reads a Secret's `release`, as it is once the Secret's own packing is off.
    ///
    /// # Errors
    /// It is no record.
    pub fn read(name: &str, packed: &[u8]) -> Result<Self, RecordError> {
        let fail = |why: String| RecordError {
            name: name.to_owned(),
            why,
        };
        let bytes = STANDARD
            .decode(packed)
            .map_err(|error| fail(error.to_string()))?;
        let mut text = Vec::new();
        // Helm's oldest records are not packed.
        if bytes.starts_with(&[0x1f, 0x8b, 0x08]) {
            let unpacked = GzDecoder::new(bytes.as_slice())
                .take(LARGEST)
                .read_to_end(&mut text);
            unpacked.map_err(|error| fail(error.to_string()))?;
        } else {
            text = bytes;
        }
        serde_json::from_slice(&text).map_err(|error| fail(error.to_string()))
    }
}

/// Objects as YAML documents.
#[must_use]
pub fn manifest(objects: &[Value]) -> String {
    let documents = objects
        .iter()
        .map(|object| format!("---\n{}\n", to_yaml(object)));
    documents.collect()
}

/// The chart in the form of Helm's records: metadata, and files as base64.
fn embedded_chart() -> Value {
    let packed = |text: &str| STANDARD.encode(text);
    let files = |templates: bool| -> Vec<Value> {
        let plain = [
            "Chart.yaml",
            "values.yaml",
            "values.schema.json",
            ".helmignore",
        ];
        FILES
            .iter()
            .filter(|(path, _)| {
                path.starts_with("templates/") == templates && !plain.contains(path)
            })
            .map(|(path, text)| json!({"name": path, "data": packed(text)}))
            .collect()
    };
    let metadata: BTreeMap<String, Value> =
        serde_saphyr::from_str(chart::file("Chart.yaml")).unwrap_or_default();
    json!({
        "metadata": metadata,
        "lock": null,
        "templates": files(true),
        "values": chart::values().unwrap_or_default(),
        "schema": packed(chart::file("values.schema.json")),
        "files": files(false),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let objects = [
            json!({"kind": "A", "metadata": {"name": "a"}}),
            json!({"kind": "B", "data": {"k": "x\n---\ny"}}),
        ];
        Record::new(
            "cilium",
            "kube-system",
            2,
            &objects,
            &json!({"debug": {"enabled": true}}),
            "2030-01-02T03:04:05Z",
            None,
        )
    }

    #[test]
    fn what_is_packed_can_be_read() {
        let record = record();
        let secret = record.secret(7).unwrap();
        assert_eq!(secret["metadata"]["name"], "sh.helm.release.v1.cilium.v2");
        assert_eq!(secret["metadata"]["labels"]["status"], "pending-upgrade");
        let data = STANDARD
            .decode(secret["data"]["release"].as_str().unwrap())
            .unwrap();
        let read = Record::read("x", &data).unwrap();
        assert_eq!(read, record);
        let objects = read.objects().unwrap();
        assert_eq!(
            (objects.len(), &objects[1]["data"]["k"]),
            (2, &json!("x\n---\ny"))
        );
        assert!(
            data.len() < 100_000,
            "a Secret holds a megabyte: {}",
            data.len()
        );
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for bad in ["", "!", "e30=", "H4sIAAAAAAAA"] {
            let error = Record::read("s", bad.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("Secret s holds no record"), "{error}");
        }
    }

    #[test]
    fn what_helm_added_stays() {
        let mut value = serde_json::to_value(record()).unwrap();
        value["hooks"] = json!([{"name": "h"}]);
        value["info"]["status"] = "superseded".into();
        let read: Record = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(
            serde_json::to_value(&read).unwrap()["hooks"],
            value["hooks"]
        );
        assert_eq!(read.info.status, Status::Superseded);
    }
}
