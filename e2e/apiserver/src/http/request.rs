//! What a request asks for, read from its method and address.
//!
//! Entry point: [`RequestInfo::parse`]. Deliberately not here: whether it may.

use http::Method;
use serde_json::Value;

use super::verb_of;
use crate::{
    rbac::Action,
    resource::{self, Resource},
    status::Status,
};

/// A request's attributes.
pub(crate) struct RequestInfo {
    pub(crate) action: Action,
    pub(crate) version: String,
    /// The kind, if it is one of ours.
    pub(crate) resource: Option<&'static Resource>,
    /// The path as given.
    pub(crate) path: String,
    /// The name of the object to create.
    pub(crate) name_in_body: Option<String>,
    query: Vec<(String, String)>,
}

impl RequestInfo {
    /// Reads a request by its method, its path with query, and its body.
    pub(crate) fn parse(method: &Method, uri: &str, body: &[u8]) -> Result<Self, Status> {
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let query: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let path = path.to_owned();
        let mut info = Self {
            action: Action::default(),
            version: String::new(),
            resource: None,
            path: path.clone(),
            name_in_body: None,
            query,
        };
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (group, version, mut rest) = match parts.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
            _ => {
                info.action.verb = method.as_str().to_ascii_lowercase();
                info.action.path = Some(path);
                return Ok(info);
            }
        };
        let mut old_watch = false;
        if let ["watch", tail @ ..] = rest {
            old_watch = true;
            rest = tail;
        }
        let mut namespace = "";
        if let ["namespaces", name, tail @ ..] = rest {
            namespace = name;
            if !matches!(tail, [] | ["status" | "finalize"]) {
                rest = tail;
            }
        }
        let (plural, name, subresource) = match rest {
            [plural] => (*plural, "", ""),
            [plural, name] => (*plural, *name, ""),
            [plural, name, subresource] => (*plural, *name, *subresource),
            _ => return Err(Status::of_code(404)),
        };
        let name = percent_decode(name);
        let watch = old_watch || matches!(info.query("watch"), "true" | "1");
        let verb = verb_of(method, !name.is_empty() && !watch, watch);
        info.resource = resource::find(group, version, plural);
        info.action = Action {
            verb: verb.into(),
            group: group.into(),
            resource: plural.into(),
            subresource: subresource.into(),
            namespace: percent_decode(namespace),
            name,
            path: None,
        };
        info.version = version.into();
        if info.action.name.is_empty() && matches!(verb, "list" | "watch" | "deletecollection") {
            // A selector for one name is a request for that object: roles may name it.
            let selected = info.query("fieldSelector").split(',').find_map(|test| {
                test.strip_prefix("metadata.name=").map(|v| v.trim_start_matches('=').to_owned())
            });
            info.action.name = selected.unwrap_or_default();
        }
        if verb == "create" && info.action.name.is_empty() {
            info.name_in_body = name_of_body(body);
        }
        Ok(info)
    }

    /// A query parameter, `""` when it is not given.
    pub(crate) fn query(&self, name: &str) -> &str {
        self.query.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    pub(crate) fn has_query(&self, name: &str) -> bool {
        self.query.iter().any(|(key, _)| key == name)
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.query(name), "true" | "1")
    }

    /// The namespace that objects are looked for in; that of a namespace object is none.
    pub(crate) fn namespace(&self) -> &str {
        if self.action.resource == "namespaces" && self.action.group.is_empty() {
            ""
        } else {
            &self.action.namespace
        }
    }

    pub(crate) fn dry_run(&self) -> bool {
        self.query("dryRun") == "All"
    }
}

fn name_of_body(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Named {
        metadata: Option<Value>,
    }
    let named: Named = serde_json::from_slice(body).ok()?;
    named.metadata?.get("name")?.as_str().map(str::to_owned)
}

/// Names in paths are plain text but for the rare `%3A` in names of roles.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let decoded = (*first == b'%')
            .then(|| tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        if let Some(byte) = decoded {
            bytes.push(byte);
            rest = tail.get(2..).unwrap_or_default();
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &Method, uri: &str) -> (String, String, String, String, String) {
        let info = RequestInfo::parse(method, uri, b"{\"metadata\":{\"name\":\"n\"}}").unwrap();
        let action = info.action;
        (action.verb, action.namespace, action.resource, action.name, action.subresource)
    }

    #[test]
    fn addresses_are_read_as_the_api_server_reads_them() {
        let row = |a: &str, b: &str, c: &str, d: &str, e: &str| {
            (a.to_owned(), b.to_owned(), c.to_owned(), d.to_owned(), e.to_owned())
        };
        for (method, uri, expected) in [
            (Method::GET, "/api/v1/namespaces/a", row("get", "a", "namespaces", "a", "")),
            (Method::PUT, "/api/v1/namespaces/a/finalize", row("update", "a", "namespaces", "a", "finalize")),
            (Method::GET, "/api/v1/namespaces/a/pods", row("list", "a", "pods", "", "")),
            (Method::POST, "/api/v1/namespaces/a/pods/p/binding", row("create", "a", "pods", "p", "binding")),
            (
                Method::GET,
                "/api/v1/persistentvolumes?watch=true",
                row("watch", "", "persistentvolumes", "", ""),
            ),
            (
                Method::PATCH,
                "/apis/apps/v1/namespaces/a/statefulsets/s/status",
                row("patch", "a", "statefulsets", "s", "status"),
            ),
            (Method::DELETE, "/api/v1/namespaces/a/pods", row("deletecollection", "a", "pods", "", "")),
            (
                Method::GET,
                "/api/v1/pods?watch=1&fieldSelector=metadata.name%3Dx",
                row("watch", "", "pods", "x", ""),
            ),
            (
                Method::GET,
                "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode",
                row("get", "", "clusterroles", "system:node", ""),
            ),
        ] {
            assert_eq!(parse(&method, uri), expected, "{uri}");
        }
    }
}
