//! What a user asked of the API server, read from its audit log.
//!
//! The policy of [`policy`] makes the real API server write one line per request of the
//! provisioners, and of kube-controller-manager's writes to claims (its annotation is where a
//! provisioner's work begins). [`read`] turns the log into [`Request`]s.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::User;

/// One request, as the API server saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// When it arrived.
    pub received: Timestamp,
    /// When it was answered; for a watch: when its answer began.
    pub answered: Timestamp,
    /// `create`, `get`, `list`, `watch`, `update`, `patch`, `delete`.
    pub verb: String,
    /// Plural name, with the subresource after a slash.
    pub resource: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Empty for collections and for `create`.
    pub name: String,
    /// HTTP status.
    pub code: u16,
}

impl Request {
    /// True for what changes the API server's data.
    #[must_use]
    pub fn writes(&self) -> bool {
        !self.reads()
    }

    /// True for what only reads.
    #[must_use]
    pub fn reads(&self) -> bool {
        matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

/// How often each `verb resource` occurs, e.g. `create persistentvolumes`.
#[must_use]
pub fn count(requests: &[Request]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for request in requests {
        *counts.entry(format!("{} {}", request.verb, request.resource)).or_default() += 1;
    }
    counts
}

/// The audit policy, as the text of a file for `--audit-policy-file`.
#[must_use]
pub fn policy() -> String {
    let provisioners = [User::Berth.name(), User::OldProvisioner.name()];
    format!(
        "{:#}\n",
        json!({
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "omitManagedFields": true,
            "rules": [
                { "level": "Metadata", "users": provisioners },
                {
                    "level": "Metadata",
                    "users": [User::ControllerManager.name()],
                    "verbs": ["update", "patch"],
                    "resources": [{ "group": "", "resources": ["persistentvolumeclaims"] }],
                },
                { "level": "None" },
            ],
        })
    )
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    #[serde(rename = "auditID")]
    audit_id: String,
    stage: String,
    verb: String,
    user: LineUser,
    #[serde(default)]
    object_ref: ObjectRef,
    #[serde(default)]
    response_status: ResponseStatus,
    request_received_timestamp: String,
    stage_timestamp: String,
}

#[derive(Deserialize)]
struct LineUser {
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ObjectRef {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResponseStatus {
    code: u16,
}

/// The requests of `user` in the audit log at `path`, by the time they arrived.
pub fn read(path: &Path, user: User) -> Result<Vec<Request>> {
    let log = match std::fs::read_to_string(path) {
        Ok(log) => log,
        // The API server makes the file with its first line.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    parse(&log, user)
}

fn parse(log: &str, user: User) -> Result<Vec<Request>> {
    // A watch has a line when its answer begins and another when it ends: the first one counts.
    let mut requests: BTreeMap<String, Request> = BTreeMap::new();
    for text in log.split_inclusive('\n') {
        // The last line may be half written.
        let Some(text) = text.strip_suffix('\n') else {
            break;
        };
        let line: Line = serde_json::from_str(text).with_context(|| format!("read audit line {text}"))?;
        if line.user.username != user.name() || line.object_ref.resource.is_empty() {
            continue;
        }
        let resource = if line.object_ref.subresource.is_empty() {
            line.object_ref.resource
        } else {
            format!("{}/{}", line.object_ref.resource, line.object_ref.subresource)
        };
        if line.stage == "ResponseStarted" && line.verb != "watch" {
            continue;
        }
        let time =
            |text: &str| text.parse::<Timestamp>().with_context(|| format!("read the audit time {text}"));
        requests.entry(line.audit_id).or_insert(Request {
            received: time(&line.request_received_timestamp)?,
            answered: time(&line.stage_timestamp)?,
            verb: line.verb,
            resource,
            namespace: line.object_ref.namespace,
            name: line.object_ref.name,
            code: line.response_status.code,
        });
    }
    let mut requests: Vec<Request> = requests.into_values().collect();
    requests.sort_by_key(|request| request.received);
    Ok(requests)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: &str, stage: &str, user: &str, verb: &str, second: u8) -> String {
        json!({
            "auditID": id, "stage": stage, "verb": verb,
            "user": { "username": user },
            "objectRef": { "resource": "persistentvolumes", "name": "pvc-1" },
            "responseStatus": { "code": 201 },
            "requestReceivedTimestamp": format!("2026-01-01T00:00:{second:02}.000000Z"),
            "stageTimestamp": format!("2026-01-01T00:00:{second:02}.250000Z"),
        })
        .to_string()
            + "\n"
    }

    #[test]
    fn each_request_of_the_user_counts_once() {
        let berth = User::Berth.name();
        let log = [
            line("c", "ResponseComplete", berth, "create", 3),
            line("w", "ResponseStarted", berth, "watch", 1),
            line("x", "ResponseComplete", "somebody", "create", 2),
            line("w", "ResponseComplete", berth, "watch", 1),
            line("d", "ResponseComplete", berth, "delete", 2),
        ]
        .concat();
        let requests = parse(&log, User::Berth).unwrap();
        let verbs: Vec<&str> = requests.iter().map(|request| request.verb.as_str()).collect();
        assert_eq!(verbs, ["watch", "delete", "create"]);
        assert_eq!(requests.iter().filter(|request| request.writes()).count(), 2);
        assert_eq!(count(&requests)["create persistentvolumes"], 1);
    }

    #[test]
    fn a_line_that_is_still_being_written_is_left_for_later() {
        let whole = line("c", "ResponseComplete", User::Berth.name(), "create", 3);
        let log = format!("{whole}{}", &whole[..whole.len() / 2]);
        assert_eq!(parse(&log, User::Berth).unwrap().len(), 1);
    }

    #[test]
    fn a_request_without_an_object_is_no_request_for_objects() {
        let log = json!({
            "auditID": "v", "stage": "ResponseComplete", "verb": "get",
            "user": { "username": User::Berth.name() },
            "requestURI": "/version",
            "requestReceivedTimestamp": "2026-01-01T00:00:00.000000Z",
            "stageTimestamp": "2026-01-01T00:00:00.000000Z",
        })
        .to_string()
            + "\n";
        assert_eq!(parse(&log, User::Berth).unwrap(), []);
    }
}
