//! Tables: what `kubectl get` prints of each kind.
//!
//! Entry points: [`definitions`], [`row`], [`table`]. Deliberately not here: when a client wants one (`render`).

use serde_json::{Value, json};

use crate::{
    http::render::Include,
    object::{self, text},
    resource::{Kind, Resource},
};

struct Column {
    name: &'static str,
    kind: &'static str,
    /// Shown by `-o wide` only.
    wide: bool,
    cell: fn(&Value) -> Value,
}

const fn column(name: &'static str, cell: fn(&Value) -> Value) -> Column {
    Column { name, kind: "string", wide: false, cell }
}

const fn wide(name: &'static str, cell: fn(&Value) -> Value) -> Column {
    Column { name, kind: "string", wide: true, cell }
}

const NAME: Column = column("Name", |v| json!(object::name(v)));
const AGE: Column = column("Age", |v| json!(age(object::meta(v, "creationTimestamp"))));

static CLAIM: &[Column] = &[
    NAME,
    column("Status", |v| {
        json!(if object::is_terminating(v) { "Terminating" } else { text(v, "/status/phase") })
    }),
    column("Volume", |v| json!(text(v, "/spec/volumeName"))),
    column("Capacity", |v| {
        let bound = !text(v, "/spec/volumeName").is_empty();
        json!(if bound { text(v, "/status/capacity/storage") } else { "" })
    }),
    column("Access Modes", |v| {
        let bound = !text(v, "/spec/volumeName").is_empty();
        json!(if bound { modes(v.pointer("/status/accessModes")) } else { String::new() })
    }),
    column("StorageClass", |v| json!(class(v))),
    column("VolumeAttributesClass", |v| json!(or_unset(text(v, "/spec/volumeAttributesClassName")))),
    AGE,
    wide("VolumeMode", |v| json!(text(v, "/spec/volumeMode"))),
];

static VOLUME: &[Column] = &[
    NAME,
    column("Capacity", |v| json!(text(v, "/spec/capacity/storage"))),
    column("Access Modes", |v| json!(modes(v.pointer("/spec/accessModes")))),
    column("Reclaim Policy", |v| json!(text(v, "/spec/persistentVolumeReclaimPolicy"))),
    column("Status", |v| {
        json!(if object::is_terminating(v) { "Terminating" } else { text(v, "/status/phase") })
    }),
    column("Claim", |v| {
        let name = text(v, "/spec/claimRef/name");
        json!(if name.is_empty() {
            String::new()
        } else {
            format!("{}/{name}", text(v, "/spec/claimRef/namespace"))
        })
    }),
    column("StorageClass", |v| json!(class(v))),
    column("VolumeAttributesClass", |v| json!(or_unset(text(v, "/spec/volumeAttributesClassName")))),
    column("Reason", |v| json!(text(v, "/status/reason"))),
    AGE,
    wide("VolumeMode", |v| json!(text(v, "/spec/volumeMode"))),
];

static CLASS: &[Column] = &[
    column("Name", |v| {
        let default = [
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ]
        .iter()
        .any(|key| object::annotation(v, key) == Some("true"));
        json!(format!("{}{}", object::name(v), if default { " (default)" } else { "" }))
    }),
    column("Provisioner", |v| json!(text(v, "/provisioner"))),
    column("ReclaimPolicy", |v| json!(text(v, "/reclaimPolicy"))),
    column("VolumeBindingMode", |v| json!(text(v, "/volumeBindingMode"))),
    column("AllowVolumeExpansion", |v| {
        json!(v.get("allowVolumeExpansion").and_then(Value::as_bool).unwrap_or(false).to_string())
    }),
    AGE,
];

static POD: &[Column] = &[
    NAME,
    column("Ready", |v| {
        let total = v.pointer("/spec/containers").and_then(Value::as_array).map_or(0, Vec::len);
        let ready = v
            .pointer("/status/containerStatuses")
            .and_then(Value::as_array)
            .map_or(0, |list| list.iter().filter(|s| s.get("ready") == Some(&json!(true))).count());
        json!(format!("{ready}/{total}"))
    }),
    column("Status", |v| {
        json!(if object::is_terminating(v) { "Terminating" } else { text(v, "/status/phase") })
    }),
    column("Restarts", |_| json!("0")),
    AGE,
    wide("IP", |v| json!(or_none(text(v, "/status/podIP")))),
    wide("Node", |v| json!(or_none(text(v, "/spec/nodeName")))),
    wide("Nominated Node", |_| json!("<none>")),
    wide("Readiness Gates", |_| json!("<none>")),
];

static EVENT: &[Column] = &[
    column("Last Seen", |v| {
        let last = text(v, "/lastTimestamp");
        json!(age(if last.is_empty() { text(v, "/eventTime") } else { last }))
    }),
    column("Type", |v| json!(text(v, "/type"))),
    column("Reason", |v| json!(text(v, "/reason"))),
    column("Object", |v| {
        let about = if v.get("regarding").is_some() { "/regarding" } else { "/involvedObject" };
        json!(format!(
            "{}/{}",
            text(v, &format!("{about}/kind")).to_lowercase(),
            text(v, &format!("{about}/name"))
        ))
    }),
    wide("Source", |v| {
        let component = text(v, "/source/component");
        json!(if component.is_empty() { text(v, "/reportingComponent") } else { component })
    }),
    column("Message", |v| {
        let message = text(v, "/message");
        json!(if message.is_empty() { text(v, "/note") } else { message })
    }),
    wide("First Seen", |v| json!(age(text(v, "/firstTimestamp")))),
    wide("Count", |v| json!(v.get("count").and_then(Value::as_i64).unwrap_or(1).to_string())),
    wide("Name", |v| json!(object::name(v))),
];

static NAMESPACE: &[Column] = &[NAME, column("Status", |v| json!(text(v, "/status/phase"))), AGE];

static NODE: &[Column] = &[
    NAME,
    column("Status", |v| {
        let ready = v
            .pointer("/status/conditions")
            .and_then(Value::as_array)
            .and_then(|list| list.iter().find(|c| text(c, "/type") == "Ready"))
            .map_or("Unknown", |c| text(c, "/status"));
        json!(match ready {
            "True" => "Ready",
            "False" => "NotReady",
            _ => "Unknown",
        })
    }),
    column("Roles", |_| json!("<none>")),
    AGE,
    column("Version", |v| json!(text(v, "/status/nodeInfo/kubeletVersion"))),
];

static STATEFUL_SET: &[Column] = &[
    NAME,
    column("Ready", |v| {
        let number = |pointer: &str| v.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        json!(format!("{}/{}", number("/status/readyReplicas"), number("/spec/replicas")))
    }),
    AGE,
    wide("Containers", |v| json!(containers(v, "/name"))),
    wide("Images", |v| json!(containers(v, "/image"))),
];

static DEPLOYMENT: &[Column] = &[
    NAME,
    column("Ready", |v| {
        let number = |pointer: &str| v.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        json!(format!("{}/{}", number("/status/readyReplicas"), number("/spec/replicas")))
    }),
    column("Up-to-date", |v| {
        json!(v.pointer("/status/updatedReplicas").and_then(Value::as_i64).unwrap_or(0).to_string())
    }),
    column("Available", |v| {
        json!(v.pointer("/status/availableReplicas").and_then(Value::as_i64).unwrap_or(0).to_string())
    }),
    AGE,
    wide("Containers", |v| json!(containers(v, "/name"))),
    wide("Images", |v| json!(containers(v, "/image"))),
];

static LEASE: &[Column] = &[NAME, column("Holder", |v| json!(text(v, "/spec/holderIdentity"))), AGE];

static SECRET: &[Column] =
    &[NAME, column("Type", |v| json!(text(v, "/type"))), column("Data", |v| json!(count(v))), AGE];

static CONFIG_MAP: &[Column] = &[NAME, column("Data", |v| json!(count(v))), AGE];

static SERVICE: &[Column] = &[
    NAME,
    column("Type", |v| json!(text(v, "/spec/type"))),
    column("Cluster-IP", |v| json!(or_none(text(v, "/spec/clusterIP")))),
    column("External-IP", |_| json!("<none>")),
    column("Port(s)", |v| {
        let ports: Vec<String> = v
            .pointer("/spec/ports")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|p| {
                format!("{}/{}", p.get("port").and_then(Value::as_i64).unwrap_or(0), text(p, "/protocol"))
            })
            .collect();
        json!(if ports.is_empty() { "<none>".to_owned() } else { ports.join(",") })
    }),
    AGE,
];

static BINDING: &[Column] = &[
    NAME,
    column("Role", |v| json!(format!("{}/{}", text(v, "/roleRef/kind"), text(v, "/roleRef/name")))),
    AGE,
];

static ROLE: &[Column] = &[NAME, column("Created At", |v| json!(object::meta(v, "creationTimestamp")))];

static ATTACHMENT: &[Column] = &[
    NAME,
    column("Attacher", |v| json!(text(v, "/spec/attacher"))),
    column("PV", |v| json!(text(v, "/spec/source/persistentVolumeName"))),
    column("Node", |v| json!(text(v, "/spec/nodeName"))),
    column("Attached", |v| {
        json!(v.pointer("/status/attached").and_then(Value::as_bool).unwrap_or(false).to_string())
    }),
    AGE,
];

static PLAIN: &[Column] = &[NAME, AGE];

fn columns(resource: &Resource) -> &'static [Column] {
    match resource.table {
        Kind::PersistentVolumeClaim => CLAIM,
        Kind::PersistentVolume => VOLUME,
        Kind::StorageClass => CLASS,
        Kind::Pod => POD,
        Kind::Event => EVENT,
        Kind::Namespace => NAMESPACE,
        Kind::Node => NODE,
        Kind::StatefulSet => STATEFUL_SET,
        Kind::Deployment => DEPLOYMENT,
        Kind::Lease => LEASE,
        Kind::Secret => SECRET,
        Kind::ConfigMap => CONFIG_MAP,
        Kind::Service => SERVICE,
        Kind::RoleBinding | Kind::ClusterRoleBinding => BINDING,
        Kind::Role | Kind::ClusterRole => ROLE,
        Kind::VolumeAttachment => ATTACHMENT,
        Kind::Endpoints | Kind::ServiceAccount | Kind::DaemonSet | Kind::CSINode | Kind::CSIDriver => PLAIN,
    }
}

/// The columns of a kind.
pub(crate) fn definitions(resource: &Resource) -> Value {
    columns(resource)
        .iter()
        .map(|column| {
            json!({
                "name": column.name,
                "type": column.kind,
                "format": if column.name == "Name" { "name" } else { "" },
                "description": "",
                "priority": i32::from(column.wide),
            })
        })
        .collect()
}

/// The row of one object (with its type).
pub(crate) fn row(resource: &Resource, value: &Value, include: Include) -> Value {
    let cells: Vec<Value> = columns(resource).iter().map(|column| (column.cell)(value)).collect();
    let mut row = json!({"cells": cells});
    if let Some(row) = row.as_object_mut() {
        match include {
            Include::None => {}
            Include::Metadata => {
                row.insert(
                    "object".into(),
                    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": value.get("metadata")}),
                );
            }
            Include::Object => {
                row.insert("object".into(), value.clone());
            }
        }
    }
    row
}

/// A whole table; `headed` tables say their columns.
pub(crate) fn table(resource: &Resource, rows: &[Value], metadata: &Value, headed: bool) -> Value {
    let columns = if headed { definitions(resource) } else { Value::Null };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

fn class(value: &Value) -> &str {
    object::annotation(value, crate::rules::validation::BETA_CLASS)
        .unwrap_or_else(|| text(value, "/spec/storageClassName"))
}

fn count(value: &Value) -> String {
    let of = |field: &str| value.get(field).and_then(Value::as_object).map_or(0, serde_json::Map::len);
    (of("data") + of("binaryData")).to_string()
}

/// A field of each container of a workload.
fn containers(value: &Value, field: &str) -> String {
    value
        .pointer("/spec/template/spec/containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|container| text(container, field))
        .collect::<Vec<_>>()
        .join(",")
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

fn or_unset(text: &str) -> &str {
    if text.is_empty() { "<unset>" } else { text }
}

fn modes(list: Option<&Value>) -> String {
    list.and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|mode| match mode {
            "ReadWriteOnce" => "RWO",
            "ReadOnlyMany" => "ROX",
            "ReadWriteMany" => "RWX",
            "ReadWriteOncePod" => "RWOP",
            other => other,
        })
        .collect::<Vec<_>>()
        .join(",")
}

/// How long ago, as people say it: `5s`, `3m`, `2h`, `4d`.
fn age(since: &str) -> String {
    let Ok(since) = since.parse::<jiff::Timestamp>() else { return "<unknown>".to_owned() };
    let seconds = jiff::Timestamp::now().duration_since(since).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 if seconds % 60 != 0 => format!("{}m{}s", seconds / 60, seconds % 60),
        120..10_800 => format!("{}m", seconds / 60),
        10_800..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}
