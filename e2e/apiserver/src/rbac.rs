//! Users and what they may do.
//!
//! Entry points: [`Users`] (bearer token to user), [`Authorizer::decide`], which evaluates the stored Roles,
//! `ClusterRole`s and bindings. Members of `system:masters` may do everything. The compiled rules of a user are kept
//! until an RBAC object changes. Deliberately not here: certificates, escalation checks, aggregated roles.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use serde_json::{Value, json};

use crate::{object::text, resource::Kind, store::Store};

/// The group that may do everything.
pub(crate) const MASTERS: &str = "system:masters";

/// An authenticated user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) groups: Vec<String>,
}

impl User {
    /// A user with the groups that its name implies.
    pub(crate) fn new(name: &str, groups: &[String]) -> Self {
        let mut groups = groups.to_vec();
        if let Some(account) = name.strip_prefix("system:serviceaccount:") {
            groups.push("system:serviceaccounts".into());
            if let Some((namespace, _)) = account.split_once(':') {
                groups.push(format!("system:serviceaccounts:{namespace}"));
            }
        }
        groups.push(
            if name == "system:anonymous" { "system:unauthenticated" } else { "system:authenticated" }.into(),
        );
        groups.sort();
        groups.dedup();
        Self { name: name.to_owned(), groups }
    }

    pub(crate) fn anonymous() -> Self {
        Self::new("system:anonymous", &[])
    }

    fn is_master(&self) -> bool {
        self.groups.iter().any(|g| g == MASTERS)
    }
}

/// The known tokens.
#[derive(Default)]
pub(crate) struct Users(RwLock<HashMap<String, Arc<User>>>);

impl Users {
    pub(crate) fn add(&self, name: &str, groups: &[String]) -> String {
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let wanted = User::new(name, groups);
        if let Some((token, _)) = known.iter().find(|(_, user)| ***user == wanted) {
            return token.clone();
        }
        known.retain(|_, user| user.name != name);
        let token = format!("{:032x}", rand::random::<u128>());
        known.insert(token.clone(), Arc::new(wanted));
        token
    }

    pub(crate) fn by_token(&self, token: &str) -> Option<Arc<User>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(token).cloned()
    }

    pub(crate) fn token_of(&self, name: &str) -> Option<String> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(_, user)| user.name == name).map(|(token, _)| token.clone())
    }
}

/// What somebody wants to do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Action {
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The path, when it is no resource.
    pub(crate) path: Option<String>,
}

impl Action {
    /// The message with which the action is refused to a user.
    pub(crate) fn refusal(&self, user: &str) -> String {
        if let Some(path) = &self.path {
            return format!("forbidden: User \"{user}\" cannot {} path \"{path}\"", self.verb);
        }
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        let name = if self.name.is_empty() { String::new() } else { format!(" \"{}\"", self.name) };
        let scope = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{}\"", self.namespace)
        };
        format!(
            "{}{group}{name} is forbidden: User \"{user}\" cannot {} resource \"{}\" in API group \"{}\" {scope}",
            self.resource,
            self.verb,
            self.full_resource(),
            self.group
        )
    }

    fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

#[derive(Debug)]
struct Grant {
    /// `None`: everywhere.
    namespace: Option<String>,
    rule: Value,
    reason: String,
}

type Versions = [u64; 4];

#[derive(Default)]
struct Compiled {
    versions: Versions,
    users: HashMap<User, Arc<Vec<Grant>>>,
}

/// Evaluates the stored RBAC objects.
#[derive(Default)]
pub(crate) struct Authorizer(Mutex<Compiled>);

impl Authorizer {
    /// Whether a user may do it, and by which rule.
    pub(crate) fn decide(&self, store: &Store, user: &User, action: &Action) -> Result<String, ()> {
        if user.is_master() {
            return Ok(String::new());
        }
        self.grants(store, user)
            .iter()
            .find(|grant| {
                grant.namespace.as_deref().is_none_or(|namespace| namespace == action.namespace)
                    && allows(&grant.rule, action)
            })
            .map(|grant| grant.reason.clone())
            .ok_or(())
    }

    /// The rules of a user in a namespace, as a `SelfSubjectRulesReview` tells them.
    pub(crate) fn rules(&self, store: &Store, user: &User, namespace: &str) -> Value {
        let (mut resources, mut paths) = (Vec::new(), Vec::new());
        if user.is_master() {
            resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
            paths.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
        }
        for grant in self.grants(store, user).iter() {
            if grant.namespace.as_deref().is_some_and(|own| own != namespace) {
                continue;
            }
            if grant.rule.get("nonResourceURLs").is_some() {
                paths.push(grant.rule.clone());
            } else {
                resources.push(grant.rule.clone());
            }
        }
        json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
    }

    fn grants(&self, store: &Store, user: &User) -> Arc<Vec<Grant>> {
        let versions = [Kind::Role, Kind::ClusterRole, Kind::RoleBinding, Kind::ClusterRoleBinding]
            .map(|kind| store.last_write(kind));
        let mut compiled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if compiled.versions != versions {
            compiled.versions = versions;
            compiled.users.clear();
        }
        if let Some(grants) = compiled.users.get(user) {
            return Arc::clone(grants);
        }
        let grants = Arc::new(compile(store, user));
        compiled.users.insert(user.clone(), Arc::clone(&grants));
        grants
    }
}

fn compile(store: &Store, user: &User) -> Vec<Grant> {
    let mut grants = Vec::new();
    for kind in [Kind::ClusterRoleBinding, Kind::RoleBinding] {
        for object in store.snapshot(kind).range("", None) {
            let binding = object.parse();
            let namespace = (kind == Kind::RoleBinding).then(|| object.namespace().to_owned());
            let subject = binding
                .get("subjects")
                .and_then(Value::as_array)
                .and_then(|subjects| subjects.iter().find(|s| is_subject(s, user, object.namespace())));
            let Some(subject) = subject else { continue };
            let (role_kind, role) = (text(&binding, "/roleRef/kind"), text(&binding, "/roleRef/name"));
            let found = match (role_kind, &namespace) {
                ("ClusterRole", _) => store.get(Kind::ClusterRole, role),
                ("Role", Some(namespace)) => store.get(Kind::Role, &format!("{namespace}/{role}")),
                _ => None,
            };
            let Some(found) = found else { continue };
            let at = namespace
                .as_ref()
                .map_or_else(|| object.name().to_owned(), |ns| format!("{}/{ns}", object.name()));
            let reason = format!(
                "RBAC: allowed by {} \"{at}\" of {role_kind} \"{role}\" to {} \"{}\"",
                kind.resource().kind,
                text(subject, "/kind"),
                text(subject, "/name"),
            );
            for rule in found.parse().get("rules").and_then(Value::as_array).into_iter().flatten() {
                grants.push(Grant {
                    namespace: namespace.clone(),
                    rule: rule.clone(),
                    reason: reason.clone(),
                });
            }
        }
    }
    grants
}

fn is_subject(subject: &Value, user: &User, binding_namespace: &str) -> bool {
    let name = text(subject, "/name");
    match text(subject, "/kind") {
        "User" => name == user.name,
        "Group" => user.groups.iter().any(|group| group == name),
        "ServiceAccount" => {
            let given = text(subject, "/namespace");
            let namespace = if given.is_empty() { binding_namespace } else { given };
            user.name == format!("system:serviceaccount:{namespace}:{name}")
        }
        _ => false,
    }
}

fn allows(rule: &Value, action: &Action) -> bool {
    let list = |field: &str| {
        rule.get(field)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
    };
    let has = |field: &str, wanted: &str| list(field).iter().any(|v| *v == "*" || *v == wanted);
    if !has("verbs", &action.verb) {
        return false;
    }
    if let Some(path) = &action.path {
        return list("nonResourceURLs").iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => path == allowed,
        });
    }
    let wanted = action.full_resource();
    let resource = list("resources").iter().any(|allowed| {
        *allowed == "*"
            || *allowed == wanted
            || (!action.subresource.is_empty() && allowed.strip_prefix("*/") == Some(&action.subresource))
    });
    let names = list("resourceNames");
    resource && has("apiGroups", &action.group) && (names.is_empty() || names.contains(&action.name.as_str()))
}

/// The roles that every cluster has.
pub(crate) fn bootstrap() -> Vec<(Kind, Value)> {
    let role = |name: &str, rules: Value| {
        (
            Kind::ClusterRole,
            json!({"metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}}, "rules": rules}),
        )
    };
    let bind = |name: &str, group: &str| {
        (
            Kind::ClusterRoleBinding,
            json!({
                "metadata": {"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
                "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
            }),
        )
    };
    vec![
        role(
            "cluster-admin",
            json!([
                {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
                {"nonResourceURLs": ["*"], "verbs": ["*"]},
            ]),
        ),
        bind("cluster-admin", MASTERS),
        role(
            "system:basic-user",
            json!([
                {"apiGroups": ["authorization.k8s.io"], "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"], "verbs": ["create"]},
                {"apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"], "verbs": ["create"]},
            ]),
        ),
        bind("system:basic-user", "system:authenticated"),
        role(
            "system:discovery",
            json!([{
                "nonResourceURLs": ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/"],
                "verbs": ["get"],
            }]),
        ),
        bind("system:discovery", "system:authenticated"),
        role(
            "system:public-info-viewer",
            json!([{"nonResourceURLs": ["/healthz", "/livez", "/readyz", "/version", "/version/"], "verbs": ["get"]}]),
        ),
        (
            Kind::ClusterRoleBinding,
            json!({
                "metadata": {"name": "system:public-info-viewer"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:public-info-viewer"},
                "subjects": [
                    {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:authenticated"},
                    {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:unauthenticated"},
                ],
            }),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_allows_what_it_names_and_nothing_else() {
        let rule = json!({"apiGroups": [""], "resources": ["persistentvolumeclaims", "persistentvolumeclaims/status"],
            "verbs": ["get", "patch"], "resourceNames": ["one"]});
        let action = |verb: &str, resource: &str, subresource: &str, name: &str| Action {
            verb: verb.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..Action::default()
        };
        for (action, expected) in [
            (action("get", "persistentvolumeclaims", "", "one"), true),
            (action("get", "persistentvolumeclaims", "", "two"), false),
            (action("list", "persistentvolumeclaims", "", "one"), false),
            (action("patch", "persistentvolumeclaims", "status", "one"), true),
            (action("get", "persistentvolumes", "", "one"), false),
        ] {
            assert_eq!(allows(&rule, &action), expected, "{action:?}");
        }
    }

    #[test]
    fn the_refusal_reads_as_the_real_one() {
        let action =
            Action { verb: "list".into(), resource: "persistentvolumes".into(), ..Action::default() };
        assert_eq!(
            action.refusal("system:serviceaccount:berth:berth"),
            "persistentvolumes is forbidden: User \"system:serviceaccount:berth:berth\" cannot list resource \
             \"persistentvolumes\" in API group \"\" at the cluster scope"
        );
    }
}
