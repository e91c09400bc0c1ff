//! The records of a release in the cluster.
use k8s::Client;
use k8s::error::{is_conflict, is_not_found, says};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};

use super::{ApplyError, objects::MANAGER};
use crate::release::{HISTORY, Record, Status};

/// The revisions of a release, the oldest first.
pub struct History {
    api: Api<Secret>,
    /// Every one that is kept.
    pub records: Vec<Record>,
}

impl History {
    /// Reads them.
    ///
    /// # Errors
    /// The API server does not answer or refuses; a record cannot be read.
    pub async fn read(client: &Client, namespace: &str, release: &str) -> Result<Self, ApplyError> {
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let selector = format!("owner=helm,name={release}");
        let found = api.list(&ListParams::default().labels(&selector)).await;
        let found = found.map_err(|error| ApplyError::Records(says(&error)))?;
        let mut records = Vec::new();
        for secret in found.items {
            let name = secret.metadata.name.unwrap_or_default();
            let data = secret
                .data
                .unwrap_or_default()
                .remove("release")
                .unwrap_or_default();
            let record = Record::read(&name, &data.0);
            records.push(record.map_err(|error| ApplyError::Records(error.to_string()))?);
        }
        records.sort_by_key(|record| record.version);
        Ok(Self { api, records })
    }

    /// The newest revision.
    #[must_use]
    pub fn last(&self) -> Option<&Record> {
        self.records.last()
    }

    /// The revision that is in the cluster; where the last one failed, the one before.
    #[must_use]
    pub fn deployed(&self) -> Option<&Record> {
        self.records
            .iter()
            .rev()
            .find(|record| record.info.status == Status::Deployed)
    }

    /// Number of the next revision.
    #[must_use]
    pub fn next(&self) -> u32 {
        self.last().map_or(1, |record| record.version + 1)
    }

    /// Writes a new revision, which nobody else may have written meanwhile.
    ///
    /// # Errors
    /// Somebody has; the API server does not answer or refuses.
    pub async fn begin(&mut self, record: &Record, now: i64) -> Result<(), ApplyError> {
        let secret = record
            .secret(now)
            .map_err(|error| ApplyError::Records(error.to_string()))?;
        let secret = serde_json::from_value(secret)
            .map_err(|error| ApplyError::Records(error.to_string()))?;
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        match self.api.create(&params, &secret).await {
            Ok(_) => {}
            Err(error) if is_conflict(&error) => {
                let text = format!("revision {} is being made by somebody else", record.version);
                return Err(ApplyError::Release(text));
            }
            Err(error) => return Err(ApplyError::Records(says(&error))),
        }
        self.records.push(record.clone());
        Ok(())
    }

    /// Writes a revision, a new one or one that is there.
    ///
    /// # Errors
    /// The API server does not answer or refuses.
    pub async fn write(&mut self, record: &Record, now: i64) -> Result<(), ApplyError> {
        let secret = record
            .secret(now)
            .map_err(|error| ApplyError::Records(error.to_string()))?;
        let params = PatchParams::apply(MANAGER).force();
        let written = self
            .api
            .patch(&record.secret_name(), &params, &Patch::Apply(secret))
            .await;
        written.map_err(|error| ApplyError::Records(says(&error)))?;
        match self
            .records
            .iter_mut()
            .find(|one| one.version == record.version)
        {
            Some(one) => *one = record.clone(),
            None => self.records.push(record.clone()),
        }
        Ok(())
    }

    /// Marks what the newest revision replaced, and forgets what is too old.
    ///
    /// # Errors
    /// The API server does not answer or refuses.
    pub async fn settle(&mut self, now: i64) -> Result<(), ApplyError> {
        let newest = self.last().map_or(0, |record| record.version);
        let replaced: Vec<Record> = self
            .records
            .iter()
            .filter(|record| record.version != newest && record.info.status == Status::Deployed)
            .cloned()
            .collect();
        for mut record in replaced {
            record.info.status = Status::Superseded;
            self.write(&record, now).await?;
        }
        let old = self.records.len().saturating_sub(HISTORY);
        for record in self.records.drain(..old).collect::<Vec<_>>() {
            self.forget(&record).await?;
        }
        Ok(())
    }

    /// Deletes a revision's record.
    ///
    /// # Errors
    /// The API server does not answer or refuses.
    pub async fn forget(&self, record: &Record) -> Result<(), ApplyError> {
        match self
            .api
            .delete(&record.secret_name(), &DeleteParams::default())
            .await
        {
            Err(error) if !is_not_found(&error) => Err(ApplyError::Records(says(&error))),
            _ => Ok(()),
        }
    }
}
