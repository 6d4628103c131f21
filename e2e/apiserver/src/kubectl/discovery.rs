//! What the server is and has: version, health, discovery (old and aggregated), `OpenAPI` v3.
//!
//! Entry point: [`answer`]. The `OpenAPI` documents name the paths and their parameters, which is what kubectl looks at
//! to leave validation to the server; they carry no schemas, so `kubectl explain` finds nothing. Deliberately not
//! here: `OpenAPI` v2, which kubectl needs only where v3 is missing.

use http::{HeaderValue, Response, header};
use serde_json::{Map, Value, json};

use crate::{
    http::{Body, Call, Server, json, json_bytes},
    resource::{RESOURCES, Resource},
    status::Status,
};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Reviews are served but not stored.
const REVIEWS: [(&str, &str, &str); 4] = [
    ("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews"),
    ("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews"),
];

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

pub(crate) fn answer(server: &Server, call: &Call) -> Result<Response<Body>, Status> {
    let path = call.info.path.trim_end_matches('/');
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let aggregated = call.accept.split(',').any(|media| {
        media.contains("as=APIGroupDiscoveryList") && media.contains("v=v2") && !media.contains("v=v2beta1")
    });
    match parts.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => {
            let mut response = json_bytes(200, "ok");
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            Ok(response)
        }
        ["version"] => Ok(json(200, &version(&server.version))),
        ["api"] if aggregated => Ok(aggregated_list(&[""])),
        ["api"] => Ok(json(
            200,
            &json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        )),
        ["apis"] if aggregated => Ok(aggregated_list(&groups())),
        ["apis"] => {
            let groups: Vec<Value> = groups().into_iter().map(group).collect();
            Ok(json(200, &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})))
        }
        ["apis", name] if groups().contains(name) => {
            let mut group = group(name);
            if let Some(group) = group.as_object_mut() {
                group.insert("kind".into(), json!("APIGroup"));
                group.insert("apiVersion".into(), json!("v1"));
            }
            Ok(json(200, &group))
        }
        ["api", "v1"] => Ok(json(200, &resource_list("", "v1"))),
        ["apis", name, "v1"] if groups().contains(name) => Ok(json(200, &resource_list(name, "v1"))),
        ["openapi", "v3"] => Ok(json(200, &openapi_index())),
        ["openapi", "v3", "api", "v1"] => Ok(json(200, &openapi_document("", &server.version))),
        ["openapi", "v3", "apis", name, "v1"] if groups().contains(name) => {
            Ok(json(200, &openapi_document(name, &server.version)))
        }
        [] => Ok(json(
            200,
            &json!({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version"]}),
        )),
        _ => Err(Status::new(404, "NotFound", "the server could not find the requested resource")),
    }
}

fn version(version: &str) -> Value {
    let numbers: Vec<&str> = version.trim_start_matches('v').split('.').collect();
    json!({
        "major": numbers.first().unwrap_or(&"1"),
        "minor": numbers.get(1).unwrap_or(&"0"),
        "gitVersion": version,
        "gitCommit": "0000000000000000000000000000000000000000",
        "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": "linux/amd64",
    })
}

fn groups() -> Vec<&'static str> {
    let mut groups: Vec<&str> = RESOURCES
        .iter()
        .map(|resource| resource.group)
        .chain(REVIEWS.iter().map(|(group, _, _)| *group))
        .filter(|group| !group.is_empty())
        .collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

fn group(name: &str) -> Value {
    let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
    json!({"name": name, "versions": [version], "preferredVersion": version})
}

fn of_group(group: &str) -> impl Iterator<Item = &'static Resource> {
    RESOURCES.iter().filter(move |resource| resource.group == group)
}

fn subresource_verbs(subresource: &str) -> &'static [&'static str] {
    match subresource {
        "binding" => &["create"],
        "finalize" => &["update"],
        _ => &["get", "patch", "update"],
    }
}

fn subresource_kind(resource: &Resource, subresource: &str) -> (&'static str, &'static str, &'static str) {
    match subresource {
        "scale" => ("autoscaling", "v1", "Scale"),
        "binding" => ("", "v1", "Binding"),
        _ => (resource.group, resource.version, resource.kind),
    }
}

fn resource_list(group: &str, version: &str) -> Value {
    let mut list = Vec::new();
    for resource in of_group(group) {
        let mut entry = json!({
            "name": resource.plural,
            "singularName": resource.singular,
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": VERBS,
        });
        if let Some(entry) = entry.as_object_mut() {
            if !resource.short.is_empty() {
                entry.insert("shortNames".into(), json!(resource.short));
            }
            if resource.all {
                entry.insert("categories".into(), json!(["all"]));
            }
        }
        list.push(entry);
        for subresource in resource.subresources {
            let (sub_group, sub_version, kind) = subresource_kind(resource, subresource);
            let mut entry = json!({
                "name": format!("{}/{subresource}", resource.plural),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": kind,
                "verbs": subresource_verbs(subresource),
            });
            if let Some(entry) = entry.as_object_mut()
                && sub_group != resource.group
            {
                entry.insert("group".into(), json!(sub_group));
                entry.insert("version".into(), json!(sub_version));
            }
            list.push(entry);
        }
    }
    for (_, kind, plural) in REVIEWS.iter().filter(|(own, _, _)| *own == group) {
        list.push(json!({"name": plural, "singularName": kind.to_lowercase(), "namespaced": false, "kind": kind, "verbs": ["create"]}));
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list})
}

fn aggregated_list(groups: &[&str]) -> Response<Body> {
    let items: Vec<Value> = groups
        .iter()
        .map(|group| {
            let scope = |namespaced: bool| if namespaced { "Namespaced" } else { "Cluster" };
            let mut resources: Vec<Value> = of_group(group)
                .map(|resource| {
                    let subresources: Vec<Value> = resource
                        .subresources
                        .iter()
                        .map(|name| {
                            let (group, version, kind) = subresource_kind(resource, name);
                            json!({"subresource": name, "verbs": subresource_verbs(name),
                                "responseKind": {"group": group, "version": version, "kind": kind}})
                        })
                        .collect();
                    let categories: &[&str] = if resource.all { &["all"] } else { &[] };
                    json!({
                        "resource": resource.plural,
                        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
                        "scope": scope(resource.namespaced),
                        "singularResource": resource.singular,
                        "shortNames": resource.short,
                        "categories": categories,
                        "verbs": VERBS,
                        "subresources": subresources,
                    })
                })
                .collect();
            for (own, kind, plural) in REVIEWS.iter().filter(|(own, _, _)| own == group) {
                resources.push(json!({
                    "resource": plural,
                    "responseKind": {"group": own, "version": "v1", "kind": kind},
                    "scope": "Cluster",
                    "singularResource": kind.to_lowercase(),
                    "verbs": ["create"],
                }));
            }
            json!({
                "metadata": {"name": if group.is_empty() { Value::Null } else { json!(group) }},
                "versions": [{"version": "v1", "resources": resources, "freshness": "Current"}],
            })
        })
        .collect();
    let body = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items});
    let mut response = json(200, &body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
    response
}

fn openapi_index() -> Value {
    let mut paths = Map::new();
    let entry = |path: &str| json!({"serverRelativeURL": format!("/openapi/v3/{path}")});
    paths.insert("api/v1".into(), entry("api/v1"));
    for group in groups() {
        let path = format!("apis/{group}/v1");
        paths.insert(path.clone(), entry(&path));
    }
    json!({"paths": paths})
}

fn openapi_document(group: &str, version: &str) -> Value {
    let root = if group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{group}/v1") };
    let mut paths = Map::new();
    for resource in of_group(group) {
        let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
        let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
        let parameters: Vec<Value> = ["dryRun", "fieldManager", "fieldValidation"]
            .iter()
            .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
            .collect();
        let operation = |action: &str| {
            json!({
                "x-kubernetes-action": action,
                "x-kubernetes-group-version-kind": kind,
                "parameters": parameters,
                "responses": {"200": {"description": "OK"}},
            })
        };
        paths.insert(
            format!("{root}{scope}/{}", resource.plural),
            json!({"get": operation("list"), "post": operation("post"), "delete": operation("deletecollection")}),
        );
        paths.insert(
            format!("{root}{scope}/{}/{{name}}", resource.plural),
            json!({"get": operation("get"), "put": operation("put"), "patch": operation("patch"), "delete": operation("delete")}),
        );
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": paths,
        "components": {"schemas": {}},
    })
}
