//! What roles and bindings allow.
//!
//! Rights only add up: somebody may do what a rule says that a binding gives to it, and nothing else. Roles that are made of
//! others are put together when they are looked at.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::error::{ApiError, Reason};
use super::super::kind::Kind;
use super::super::object::{Key, Object, meta_str};
use super::super::selector::LabelSelector;
use super::super::store::{Filter, ListOptions, Store};
use super::{ACCOUNT, ADMINS, User};

const GROUP: &str = "rbac.authorization.k8s.io";
/// How deep roles may be made of roles.
const DEPTH: usize = 4;

/// Something that somebody would like to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Such as `list`.
    pub verb: String,
    /// What it is about.
    pub group: String,
    /// Plural, with the subresource: `pods/log`.
    pub resource: String,
    /// Namespace; empty: all of them, or outside of any.
    pub namespace: String,
    /// Name; empty: no one object.
    pub name: String,
    /// The path, where it is about no resource.
    pub path: Option<String>,
}

/// Who gives a rule to whom.
struct Source<'a> {
    binding: &'a Value,
    subject: &'a Value,
}

impl Source<'_> {
    fn text(&self) -> String {
        let (role, subject) = (&self.binding["roleRef"], self.subject);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let namespace = meta_str(self.binding, "namespace");
        let place = if namespace.is_empty() {
            String::new()
        } else {
            format!("{namespace}/")
        };
        format!(
            "RBAC: allowed by {} \"{place}{}\" of {} \"{}\" to {} \"{}\"",
            text(&self.binding["kind"]),
            meta_str(self.binding, "name"),
            text(&role["kind"]),
            text(&role["name"]),
            text(&subject["kind"]),
            text(&subject["name"]),
        )
    }
}

impl Wish {
    /// Why a user may do it; `None`: it may not.
    pub(crate) fn granted(&self, store: &Store, user: &User) -> Option<String> {
        if user.groups.iter().any(|group| group == ADMINS) {
            return Some(String::new());
        }
        let mut why = None;
        each_rule(store, user, &self.namespace, &mut |rule, source| {
            if self.is_covered(rule) {
                why = Some(source.text());
            }
            why.is_some()
        });
        why
    }

    /// Whether a rule allows it.
    fn is_covered(&self, rule: &Value) -> bool {
        let has = |field: &str, fits: &dyn Fn(&str) -> bool| {
            let list = rule[field].as_array().into_iter().flatten();
            list.filter_map(Value::as_str).any(fits)
        };
        if !has("verbs", &|verb| verb == "*" || verb == self.verb) {
            return false;
        }
        if let Some(path) = &self.path {
            return has(
                "nonResourceURLs",
                &|pattern| match pattern.strip_suffix('*') {
                    Some(beginning) => path.starts_with(beginning),
                    None => path == pattern,
                },
            );
        }
        let any_sub = self
            .resource
            .split_once('/')
            .map(|(_, sub)| format!("*/{sub}"));
        has("apiGroups", &|group| group == "*" || group == self.group)
            && has("resources", &|resource| {
                resource == "*" || resource == self.resource || any_sub.as_deref() == Some(resource)
            })
            && (rule["resourceNames"].as_array().is_none_or(Vec::is_empty)
                || has("resourceNames", &|name| name == self.name))
    }

    /// The refusal.
    pub(crate) fn refused(&self, kind: Option<&Kind>, user: &User) -> ApiError {
        let who = &user.name;
        let (Some(kind), None) = (kind, &self.path) else {
            let path = self.path.as_deref().unwrap_or_default();
            let why = format!(
                "forbidden: User \"{who}\" cannot {} path \"{path}\"",
                self.verb
            );
            return ApiError::new(Reason::Forbidden, why);
        };
        let what = match self.name.as_str() {
            "" => kind.qualified_plural(),
            name => format!("{} \"{name}\"", kind.qualified_plural()),
        };
        let place = match self.namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        let why = format!(
            "{what} is forbidden: User \"{who}\" cannot {} resource \"{}\" in API group \"{}\" {place}",
            self.verb, self.resource, self.group
        );
        ApiError::of(Reason::Forbidden, why, kind, &self.name)
    }

    /// What an access review asks for.
    pub(crate) fn of_review(spec: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (on, off) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
        if off.is_object() {
            return Self {
                verb: text(&off["verb"]),
                path: Some(text(&off["path"])),
                ..Self::default()
            };
        }
        let (resource, sub) = (text(&on["resource"]), text(&on["subresource"]));
        Self {
            verb: text(&on["verb"]),
            group: text(&on["group"]),
            resource: if sub.is_empty() {
                resource
            } else {
                format!("{resource}/{sub}")
            },
            namespace: text(&on["namespace"]),
            name: text(&on["name"]),
            path: None,
        }
    }
}

/// All rules that somebody has in a namespace, as the status of a rules review.
pub(crate) fn rules_of(store: &Store, user: &User, namespace: &str) -> Value {
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    if user.groups.iter().any(|group| group == ADMINS) {
        resources.push(json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }));
        paths.push(json!({ "verbs": ["*"], "nonResourceURLs": ["*"] }));
    }
    each_rule(store, user, namespace, &mut |rule, _| {
        let of = if rule["nonResourceURLs"].is_array() {
            &mut paths
        } else {
            &mut resources
        };
        if !of.contains(rule) {
            of.push(rule.clone());
        }
        false
    });
    json!({ "resourceRules": resources, "nonResourceRules": paths, "incomplete": false })
}

/// Visits every rule that holds for a user in a namespace, until one visit is enough.
fn each_rule(
    store: &Store,
    user: &User,
    namespace: &str,
    visit: &mut dyn FnMut(&Value, &Source<'_>) -> bool,
) {
    let mut bindings = all(store, "clusterrolebindings", None);
    if !namespace.is_empty() {
        bindings.extend(all(store, "rolebindings", Some(namespace)));
    }
    for binding in &bindings {
        let home = meta_str(binding, "namespace");
        let mut subjects = binding["subjects"].as_array().into_iter().flatten();
        let Some(subject) = subjects.find(|subject| names(subject, user, home)) else {
            continue;
        };
        let source = Source { binding, subject };
        let role = &binding["roleRef"];
        let place = if role["kind"] == "Role" { home } else { "" };
        let name = role["name"].as_str().unwrap_or_default();
        if in_role(store, place, name, DEPTH, &mut |rule| visit(rule, &source)) {
            return;
        }
    }
}

/// Whether a binding's subject is the user.
fn names(subject: &Value, user: &User, home: &str) -> bool {
    let name = subject["name"].as_str().unwrap_or_default();
    match subject["kind"].as_str() {
        Some("User") => name == user.name,
        Some("Group") => user.groups.iter().any(|group| group == name),
        Some("ServiceAccount") => {
            let namespace = subject["namespace"].as_str().unwrap_or(home);
            let account = user.name.strip_prefix(ACCOUNT);
            account.and_then(|account| account.split_once(':')) == Some((namespace, name))
        }
        _ => false,
    }
}

/// Visits the rules of a role and of those it is made of; whether a visit was enough.
fn in_role(
    store: &Store,
    namespace: &str,
    name: &str,
    depth: usize,
    visit: &mut dyn FnMut(&Value) -> bool,
) -> bool {
    let table = if namespace.is_empty() {
        "clusterroles"
    } else {
        "roles"
    };
    let Some(role) = store
        .kind(&format!("{table}.{GROUP}"))
        .and_then(|kind| store.get(&kind, &Key::namespaced(namespace, name)))
        .ok()
    else {
        return false;
    };
    let mut own = role["rules"].as_array().into_iter().flatten();
    if own.any(&mut *visit) {
        return true;
    }
    let parts = role["aggregationRule"]["clusterRoleSelectors"].as_array();
    let selectors: Vec<LabelSelector> = parts
        .into_iter()
        .flatten()
        .filter_map(LabelSelector::from_object)
        .collect();
    if selectors.is_empty() || depth == 0 {
        return false;
    }
    all(store, "clusterroles", None)
        .iter()
        .filter(|part| meta_str(part, "name") != name && selectors.iter().any(|s| s.matches(part)))
        .any(|part| in_role(store, "", meta_str(part, "name"), depth - 1, visit))
}

fn all(store: &Store, plural: &str, namespace: Option<&str>) -> Vec<Arc<Object>> {
    let filter = Filter {
        namespace: namespace.map(str::to_owned),
        ..Filter::default()
    };
    let options = ListOptions {
        filter,
        ..ListOptions::default()
    };
    let found = store
        .kind(&format!("{plural}.{GROUP}"))
        .and_then(|kind| store.list(&kind, &options));
    found.map(|list| list.items).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(verb: &str, group: &str, resource: &str, name: &str) -> Wish {
        let text = str::to_owned;
        Wish {
            verb: text(verb),
            group: text(group),
            resource: text(resource),
            name: text(name),
            ..Wish::default()
        }
    }

    #[test]
    fn rules() {
        let rule = json!({ "verbs": ["get", "list"], "apiGroups": ["", "apps"], "resources": ["pods", "pods/log", "*/scale"] });
        assert!(wish("get", "", "pods", "p").is_covered(&rule));
        assert!(wish("get", "", "pods/log", "p").is_covered(&rule));
        assert!(wish("get", "apps", "deployments/scale", "").is_covered(&rule));
        assert!(!wish("get", "", "pods/exec", "p").is_covered(&rule));
        assert!(!wish("delete", "", "pods", "p").is_covered(&rule));
        assert!(!wish("get", "batch", "pods", "p").is_covered(&rule));
        let named = json!({ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "resourceNames": ["a"] });
        assert!(wish("update", "x", "ys/status", "a").is_covered(&named));
        assert!(!wish("update", "x", "ys", "b").is_covered(&named));
        assert!(!wish("create", "x", "ys", "").is_covered(&named));
        let path = |path: &str| Wish {
            path: Some(path.to_owned()),
            ..wish("get", "", "", "")
        };
        let paths = json!({ "verbs": ["get"], "nonResourceURLs": ["/version", "/api/*"] });
        assert!(path("/version").is_covered(&paths) && path("/api/v1").is_covered(&paths));
        assert!(!path("/versions").is_covered(&paths) && !path("/api").is_covered(&paths));
        assert!(
            !wish("get", "", "pods", "").is_covered(&paths) && !path("/version").is_covered(&rule)
        );
    }
}
