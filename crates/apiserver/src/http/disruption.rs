//! Disruption budgets: whether one more pod may go.

use serde_json::Value;

use super::super::error::{ApiError, Cause, Reason};
use super::super::kind::Kind;
use super::super::object::{Key, child_mut, meta_str};
use super::super::selector::LabelSelector;
use super::super::store::{Filter, ListOptions, Store};

/// Refuses the eviction of a pod whose budget is used up; counts one that is allowed. Only running pods count.
pub(super) fn check(store: &Store, kind: &Kind, key: &Key) -> Result<(), ApiError> {
    let pod = store.get(kind, key)?;
    let budgets = store.kind("poddisruptionbudgets.policy")?;
    let filter = Filter {
        namespace: Some(key.namespace.clone()),
        ..Filter::default()
    };
    let list = store.list(
        &budgets,
        &ListOptions {
            filter,
            ..ListOptions::default()
        },
    )?;
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed" | "Pending") {
        return Ok(());
    }
    for budget in list.items {
        if !LabelSelector::from_object(&budget["spec"]["selector"]).is_some_and(|s| s.matches(&pod))
        {
            continue;
        }
        let name = meta_str(&budget, "name").to_owned();
        let taken = |budget: &Value| {
            let left = budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(0);
            if left <= 0 {
                return Err(refused(kind, key, &name, budget));
            }
            let mut budget = budget.clone();
            child_mut(&mut budget, "status")
                .insert("disruptionsAllowed".to_owned(), Value::from(left - 1));
            Ok(budget)
        };
        store.modify_unchecked(
            &budgets,
            &Key::namespaced(&key.namespace, &name),
            false,
            taken,
        )?;
    }
    Ok(())
}

fn refused(kind: &Kind, key: &Key, budget: &str, object: &Value) -> ApiError {
    let status = |field: &str| object["status"][field].as_i64().unwrap_or(0);
    let cause = Cause {
        reason: "DisruptionBudget",
        field: String::new(),
        message: format!(
            "The disruption budget {budget} needs {} healthy pods and has {} currently",
            status("desiredHealthy"),
            status("currentHealthy")
        ),
    };
    let message = "Cannot evict pod as it would violate the pod's disruption budget.".to_owned();
    ApiError::of(Reason::TooManyRequests, message, kind, &key.name).with_cause(cause)
}
