//! The steps of an installation, an upgrade and a removal.
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s::Client;
use serde_json::{Value, json};

use super::objects::{How, mark, owner};
use super::{ApplyError, History, Objects, Outcome, Workload, identity, title};
use crate::release::{Record, Status};
use crate::render::{LOOKED_AT, Rendered, Request, notes};

/// A release in a cluster.
pub struct Release<'a> {
    /// The cluster.
    pub client: Client,
    /// Name of the release.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Fields of others are taken over, and so are objects that are of no release.
    pub force: bool,
    /// Hears of each step.
    pub report: &'a mut dyn FnMut(&str),
}

/// What is to be done, tried against the API server already.
pub struct Plan {
    history: History,
    objects: Vec<Value>,
    /// What the revision in the cluster has.
    before: BTreeMap<String, Value>,
    record: Record,
    /// What people are told afterwards.
    pub notes: String,
}

impl Plan {
    /// Number of the revision.
    #[must_use]
    pub fn revision(&self) -> u32 {
        self.record.version
    }

    /// The objects as YAML documents.
    #[must_use]
    pub fn manifest(&self) -> String {
        self.record.manifest.clone()
    }

    /// What has to be up before the release is.
    #[must_use]
    pub fn workloads(&self) -> Vec<Workload> {
        let named = |object: &Value| {
            object["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let workload = |object: &Value| match object["kind"].as_str() {
            Some("DaemonSet") => Some(Workload::DaemonSet(named(object))),
            Some("Deployment") => Some(Workload::Deployment(named(object))),
            _ => None,
        };
        self.objects.iter().filter_map(workload).collect()
    }
}

/// What a removal did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Objects that were there and are taken away.
    pub gone: Vec<String>,
    /// Objects of the release that are somebody else's by now, with whose.
    pub left: Vec<String>,
}

impl Release<'_> {
    /// The release's records.
    ///
    /// # Errors
    /// As [`History::read`].
    pub async fn history(&self) -> Result<History, ApplyError> {
        History::read(&self.client, self.namespace, self.name).await
    }

    /// Makes objects of `values`, and asks the API server whether it would take them all.
    ///
    /// # Errors
    /// Values are wrong; the API server refuses an object; an object is another release's or nobody's.
    pub async fn plan(&mut self, history: History, values: Value) -> Result<Plan, ApplyError> {
        let version = self.client.apiserver_version().await;
        let version = version.map_err(|error| {
            ApplyError::Release(format!(
                "the API server does not answer: {}",
                k8s::error::says(&error)
            ))
        })?;
        let rendered = notes(&Request {
            release: self.name.to_owned(),
            namespace: self.namespace.to_owned(),
            values: values.clone(),
            kube_version: Some(version.git_version),
            revision: history.next(),
            there: self.looked_at().await?,
        })?;
        let Rendered {
            mut objects, notes, ..
        } = rendered;
        let now = Timestamp::now().to_string();
        let first = history
            .records
            .first()
            .map(|record| record.info.first_deployed.as_str());
        let mut record = Record::new(
            self.name,
            self.namespace,
            history.next(),
            &objects,
            &values,
            &now,
            first,
        );
        record.info.notes.clone_from(&notes);
        for object in &mut objects {
            mark(object, self.name, self.namespace);
        }
        let before = known(&history)?;
        let plan = Plan {
            history,
            objects,
            before,
            record,
            notes,
        };
        self.try_out(&plan).await?;
        Ok(plan)
    }

    /// Objects of the cluster that the templates look at.
    async fn looked_at(&self) -> Result<Vec<Value>, ApplyError> {
        let mut api = Objects::new(self.client.clone());
        let mut found = Vec::new();
        for name in LOOKED_AT {
            let wanted = json!({"apiVersion": "v1", "kind": "Secret",
                "metadata": {"namespace": self.namespace, "name": name}});
            if let Some(object) = api.get(&wanted).await? {
                // Answers for one kind need not name it.
                let mut object = json!(object);
                object["apiVersion"] = wanted["apiVersion"].clone();
                object["kind"] = wanted["kind"].clone();
                found.push(object);
            }
        }
        Ok(found)
    }

    async fn try_out(&mut self, plan: &Plan) -> Result<(), ApplyError> {
        let mut api = Objects::new(self.client.clone());
        let us = format!("{}/{}", self.namespace, self.name);
        let mut to_come = BTreeSet::new();
        // An installation that failed has left objects that are its own.
        for object in &plan.objects {
            let there = api.get(object).await?;
            let whose = there.as_ref().map(owner);
            let ours = plan.before.contains_key(&identity(object));
            match whose {
                Some(Some(other)) if other != us => {
                    let text = format!("it belongs to the release {other}");
                    return Err(ApplyError::refused(object, text));
                }
                Some(None) if !ours && !self.force => {
                    let text =
                        "it is there and belongs to no release; --force-conflicts takes it over";
                    return Err(ApplyError::refused(object, text));
                }
                _ => {}
            }
            if there.is_none() && object["kind"] == "Namespace" {
                to_come.extend(object["metadata"]["name"].as_str());
            }
            // Nothing can be tried in a namespace that is not there yet.
            let place = object["metadata"]["namespace"].as_str();
            if place.is_some_and(|name| to_come.contains(name)) {
                continue;
            }
            let how = How {
                dry_run: true,
                force: self.force,
            };
            api.apply(object, None, how).await?;
        }
        Ok(())
    }

    /// Carries a plan out, and records it.
    ///
    /// # Errors
    /// [`ApplyError::Half`] with what was changed, once anything was.
    pub async fn carry_out(&mut self, mut plan: Plan) -> Result<(), ApplyError> {
        let now = || Timestamp::now().as_second();
        plan.history.begin(&plan.record, now()).await?;
        let mut done = Vec::new();
        let outcome = self.apply_all(&plan, &mut done).await;
        let (status, text) = match &outcome {
            Ok(()) if plan.record.version == 1 => (Status::Deployed, "Install complete".to_owned()),
            Ok(()) => (Status::Deployed, "Upgrade complete".to_owned()),
            Err(error) => (Status::Failed, error.to_string()),
        };
        plan.record.info.status = status;
        plan.record.info.description = text;
        let recorded = plan.history.write(&plan.record, now()).await;
        let settled = match (&outcome, recorded) {
            (Ok(()), Ok(())) => plan.history.settle(now()).await,
            (_, recorded) => recorded,
        };
        let undo = if plan.history.deployed().is_none() {
            format!(
                "`hypha install` tries again, `hypha uninstall` takes it away ({})",
                self.place()
            )
        } else {
            format!("`hypha upgrade` tries again ({})", self.place())
        };
        outcome.and(settled).map_err(|cause| ApplyError::Half {
            cause: Box::new(cause),
            done,
            undo,
        })
    }

    fn place(&self) -> String {
        format!("release {} in namespace {}", self.name, self.namespace)
    }

    async fn apply_all(&mut self, plan: &Plan, done: &mut Vec<String>) -> Result<(), ApplyError> {
        let mut api = Objects::new(self.client.clone());
        let how = How {
            dry_run: false,
            force: self.force,
        };
        let mut wanted = Vec::new();
        for object in &plan.objects {
            let identity = identity(object);
            let mut before = plan.before.get(&identity).cloned();
            if let Some(before) = &mut before {
                mark(before, self.name, self.namespace);
            }
            let outcome = api.apply(object, before.as_ref(), how).await?;
            let word = match outcome {
                Outcome::Created => "created",
                Outcome::Configured => "configured",
                Outcome::Unchanged => "unchanged",
            };
            if outcome != Outcome::Unchanged {
                done.push(title(object));
            }
            (self.report)(&format!("{} {word}", title(object)));
            wanted.push(identity);
        }
        for (identity, object) in &plan.before {
            if !wanted.contains(identity) && api.delete(object).await? {
                done.push(title(object));
                (self.report)(&format!(
                    "{} deleted: it is not rendered any more",
                    title(object)
                ));
            }
        }
        Ok(())
    }

    /// Takes everything of the release away, its records last.
    ///
    /// # Errors
    /// There is no such release; the API server refuses, with what is gone by then.
    pub async fn remove(&mut self) -> Result<Removed, ApplyError> {
        let history = self.history().await?;
        if history.last().is_none() {
            return Err(ApplyError::Release(format!("there is no {}", self.place())));
        }
        let us = format!("{}/{}", self.namespace, self.name);
        let mut objects: BTreeMap<String, Value> = BTreeMap::new();
        let mut order = Vec::new();
        // What failed half-way may have made objects that no other revision has.
        for record in &history.records {
            for object in record
                .objects()
                .map_err(|e| ApplyError::Records(e.to_string()))?
            {
                let identity = identity(&object);
                if objects.insert(identity.clone(), object).is_none() {
                    order.push(identity);
                }
            }
        }
        let mut api = Objects::new(self.client.clone());
        let mut removed = Removed::default();
        for object in order
            .iter()
            .rev()
            .filter_map(|identity| objects.get(identity))
        {
            let outcome = self.remove_one(&mut api, object, &us, &mut removed).await;
            outcome.map_err(|cause| ApplyError::Half {
                cause: Box::new(cause),
                done: removed.gone.clone(),
                undo: format!("`hypha uninstall` goes on ({})", self.place()),
            })?;
        }
        for record in &history.records {
            history.forget(record).await?;
        }
        Ok(removed)
    }

    async fn remove_one(
        &mut self,
        api: &mut Objects,
        object: &Value,
        us: &str,
        removed: &mut Removed,
    ) -> Result<(), ApplyError> {
        let there = match api.get(object).await {
            Ok(Some(there)) => there,
            Ok(None) => return Ok(()),
            // The kind is gone, and its objects with it.
            Err(ApplyError::Refused { text, .. })
                if text.starts_with("the cluster has no kind") =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if let Some(other) = owner(&there).filter(|other| other != us) {
            removed.left.push(format!("{} (of {other})", title(object)));
            return Ok(());
        }
        if api.delete(object).await? {
            removed.gone.push(title(object));
            (self.report)(&format!("{} deleted", title(object)));
        }
        Ok(())
    }
}

/// What the revision in the cluster has, and what later ones that failed may have made.
fn known(history: &History) -> Result<BTreeMap<String, Value>, ApplyError> {
    let from = history.deployed().map_or(0, |record| record.version);
    let mut known = BTreeMap::new();
    for record in history
        .records
        .iter()
        .filter(|record| record.version >= from)
    {
        for object in record
            .objects()
            .map_err(|e| ApplyError::Records(e.to_string()))?
        {
            known.entry(identity(&object)).or_insert(object);
        }
    }
    Ok(known)
}
