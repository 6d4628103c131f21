//! Values that the API server fills in.
//!
//! Entry points: [`apply`] on every write, [`on_create`] for what only a new object gets. Deliberately not here:
//! what is filled in from other objects (the default class: see `registry`).

use base64::Engine as _;
use serde_json::{Map, Value, json};

use crate::{
    object::{self, child, child_of_map},
    resource::{Kind, Resource},
};

fn set(map: &mut Map<String, Value>, field: &str, value: Value) {
    map.entry(field).or_insert(value);
}

/// Fills in the defaults of a kind.
pub(crate) fn apply(resource: &Resource, value: &mut Value) {
    match resource.table {
        Kind::PersistentVolumeClaim => claim(value),
        Kind::PersistentVolume => {
            let spec = child(value, "spec");
            set(spec, "persistentVolumeReclaimPolicy", json!("Retain"));
            set(spec, "volumeMode", json!("Filesystem"));
            if let Some(path) = spec.get_mut("hostPath").and_then(Value::as_object_mut) {
                set(path, "type", json!(""));
            }
            set(child(value, "status"), "phase", json!("Pending"));
        }
        Kind::StorageClass => {
            if let Some(fields) = value.as_object_mut() {
                set(fields, "reclaimPolicy", json!("Delete"));
                set(fields, "volumeBindingMode", json!("Immediate"));
            }
        }
        Kind::Namespace => {
            let name = object::name(value).to_owned();
            let labels = child_of_map(object::metadata(value), "labels");
            labels.insert("kubernetes.io/metadata.name".into(), json!(name));
            set(child(value, "status"), "phase", json!("Active"));
            child(value, "spec");
        }
        Kind::Pod => {
            pod_spec(child(value, "spec"));
            set(child(value, "status"), "phase", json!("Pending"));
        }
        Kind::StatefulSet => stateful_set(value),
        Kind::Deployment => {
            let spec = child(value, "spec");
            set(spec, "replicas", json!(1));
            set(spec, "revisionHistoryLimit", json!(10));
            set(spec, "progressDeadlineSeconds", json!(600));
            set(
                spec,
                "strategy",
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}),
            );
            template(spec);
            child(value, "status");
        }
        Kind::DaemonSet => {
            let spec = child(value, "spec");
            set(spec, "revisionHistoryLimit", json!(10));
            set(
                spec,
                "updateStrategy",
                json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}),
            );
            template(spec);
            child(value, "status");
        }
        Kind::Service => service(child(value, "spec")),
        Kind::Secret => secret(value),
        Kind::Event => {
            if let Some(fields) = value.as_object_mut() {
                set(fields, "reportingComponent", json!(""));
                set(fields, "reportingInstance", json!(""));
                set(fields, "source", json!({}));
                set(fields, "firstTimestamp", Value::Null);
                set(fields, "lastTimestamp", Value::Null);
                set(fields, "eventTime", Value::Null);
            }
        }
        Kind::CSIDriver => {
            let spec = child(value, "spec");
            set(spec, "attachRequired", json!(true));
            set(spec, "podInfoOnMount", json!(false));
            set(spec, "storageCapacity", json!(false));
            set(spec, "requiresRepublish", json!(false));
            set(spec, "seLinuxMount", json!(false));
            set(spec, "fsGroupPolicy", json!("ReadWriteOnceWithFSType"));
            set(spec, "volumeLifecycleModes", json!(["Persistent"]));
        }
        Kind::VolumeAttachment => {
            set(child(value, "status"), "attached", json!(false));
        }
        Kind::RoleBinding | Kind::ClusterRoleBinding => binding(value),
        Kind::Node
        | Kind::Endpoints
        | Kind::ConfigMap
        | Kind::ServiceAccount
        | Kind::CSINode
        | Kind::Lease
        | Kind::Role
        | Kind::ClusterRole => {}
    }
}

/// What a new object starts with, whatever its author wrote.
pub(crate) fn on_create(resource: &Resource, value: &mut Value) {
    let Some(fields) = value.as_object_mut() else { return };
    match resource.table {
        // A node tells its own state when it registers.
        Kind::Node => {}
        Kind::Namespace => {
            fields.insert("status".into(), json!({"phase": "Active"}));
            child_of_map(fields, "spec").insert("finalizers".into(), json!(["kubernetes"]));
        }
        Kind::Pod => {
            fields.insert("status".into(), json!({"phase": "Pending", "qosClass": "BestEffort"}));
        }
        Kind::PersistentVolume => {
            fields.insert(
                "status".into(),
                json!({"phase": "Pending", "lastPhaseTransitionTime": object::now()}),
            );
        }
        _ if resource.has_status() => {
            fields.remove("status");
        }
        _ => {}
    }
    if resource.generation {
        object::metadata(value).insert("generation".into(), json!(1));
    }
}

fn claim(value: &mut Value) {
    let spec = child(value, "spec");
    set(spec, "volumeMode", json!("Filesystem"));
    set(spec, "resources", json!({}));
    match (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned()) {
        (Some(source), None) => {
            spec.insert("dataSourceRef".into(), source);
        }
        (None, Some(reference)) => {
            let kind = object::text(&reference, "/kind");
            let simple = reference.get("namespace").is_none()
                && matches!(kind, "PersistentVolumeClaim" | "VolumeSnapshot");
            if simple {
                spec.insert("dataSource".into(), reference);
            }
        }
        _ => {}
    }
    set(child(value, "status"), "phase", json!("Pending"));
}

fn binding(value: &mut Value) {
    if let Some(reference) = value.get_mut("roleRef").and_then(Value::as_object_mut) {
        set(reference, "apiGroup", json!("rbac.authorization.k8s.io"));
        if reference.get("apiGroup") == Some(&json!("")) {
            reference.insert("apiGroup".into(), json!("rbac.authorization.k8s.io"));
        }
    }
    for subject in value.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
        let is_account = object::text(subject, "/kind") == "ServiceAccount";
        if let Some(subject) = subject.as_object_mut()
            && !is_account
        {
            set(subject, "apiGroup", json!("rbac.authorization.k8s.io"));
        }
    }
}

fn secret(value: &mut Value) {
    let Some(fields) = value.as_object_mut() else { return };
    set(fields, "type", json!("Opaque"));
    if let Some(Value::Object(plain)) = fields.remove("stringData") {
        let data = child_of_map(fields, "data");
        for (key, text) in plain {
            let encoded = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or_default());
            data.insert(key, json!(encoded));
        }
    }
}

fn service(spec: &mut Map<String, Value>) {
    set(spec, "type", json!("ClusterIP"));
    set(spec, "sessionAffinity", json!("None"));
    set(spec, "internalTrafficPolicy", json!("Cluster"));
    set(spec, "ipFamilyPolicy", json!("SingleStack"));
    set(spec, "ipFamilies", json!(["IPv4"]));
    let ip = match spec.get("clusterIP").and_then(Value::as_str) {
        Some(ip) if !ip.is_empty() => ip.to_owned(),
        _ => format!("10.96.{}.{}", rand::random_range(1..255), rand::random_range(1..255)),
    };
    spec.insert("clusterIP".into(), json!(ip));
    spec.insert("clusterIPs".into(), json!([ip]));
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(port) = port.as_object_mut() {
            set(port, "protocol", json!("TCP"));
            if let Some(number) = port.get("port").cloned() {
                set(port, "targetPort", number);
            }
        }
    }
}

fn stateful_set(value: &mut Value) {
    let spec = child(value, "spec");
    set(spec, "replicas", json!(1));
    set(spec, "revisionHistoryLimit", json!(10));
    set(spec, "podManagementPolicy", json!("OrderedReady"));
    set(spec, "updateStrategy", json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}));
    let retention = child_of_map(spec, "persistentVolumeClaimRetentionPolicy");
    set(retention, "whenDeleted", json!("Retain"));
    set(retention, "whenScaled", json!("Retain"));
    for claim in spec.get_mut("volumeClaimTemplates").and_then(Value::as_array_mut).into_iter().flatten() {
        object::set_type(claim, Kind::PersistentVolumeClaim.resource());
        apply(Kind::PersistentVolumeClaim.resource(), claim);
    }
    template(spec);
    set(child(value, "status"), "replicas", json!(0));
}

fn template(spec: &mut Map<String, Value>) {
    let template = child_of_map(spec, "template");
    child_of_map(template, "metadata");
    pod_spec(child_of_map(template, "spec"));
}

fn pod_spec(spec: &mut Map<String, Value>) {
    set(spec, "restartPolicy", json!("Always"));
    set(spec, "dnsPolicy", json!("ClusterFirst"));
    set(spec, "terminationGracePeriodSeconds", json!(30));
    set(spec, "securityContext", json!({}));
    set(spec, "schedulerName", json!("default-scheduler"));
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        set(spec, "serviceAccount", account);
    }
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(container) = container.as_object_mut() else { continue };
            let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
            let last = image.rsplit('/').next().unwrap_or_default();
            let latest = !last.contains([':', '@']) || last.ends_with(":latest");
            let pull = if latest { "Always" } else { "IfNotPresent" };
            set(container, "imagePullPolicy", json!(pull));
            set(container, "terminationMessagePath", json!("/dev/termination-log"));
            set(container, "terminationMessagePolicy", json!("File"));
            set(container, "resources", json!({}));
            for port in container.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(port) = port.as_object_mut() {
                    set(port, "protocol", json!("TCP"));
                }
            }
            for variable in container.get_mut("env").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(reference) =
                    variable.pointer_mut("/valueFrom/fieldRef").and_then(Value::as_object_mut)
                {
                    set(reference, "apiVersion", json!("v1"));
                }
            }
            for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
                if let Some(probe) = container.get_mut(probe).and_then(Value::as_object_mut) {
                    set(probe, "timeoutSeconds", json!(1));
                    set(probe, "periodSeconds", json!(10));
                    set(probe, "successThreshold", json!(1));
                    set(probe, "failureThreshold", json!(3));
                    if let Some(get) = probe.get_mut("httpGet").and_then(Value::as_object_mut) {
                        set(get, "scheme", json!("HTTP"));
                        set(get, "path", json!("/"));
                    }
                }
            }
        }
    }
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        for (source, mode) in
            [("secret", "defaultMode"), ("configMap", "defaultMode"), ("projected", "defaultMode")]
        {
            if let Some(source) = volume.get_mut(source).and_then(Value::as_object_mut) {
                set(source, mode, json!(420));
            }
        }
        if let Some(path) = volume.get_mut("hostPath").and_then(Value::as_object_mut) {
            set(path, "type", json!(""));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_filled_in_and_never_replace_what_was_given() {
        let claim = Kind::PersistentVolumeClaim.resource();
        let mut value = json!({"spec": {}});
        apply(claim, &mut value);
        assert_eq!(value.pointer("/spec/volumeMode"), Some(&json!("Filesystem")));
        let mut value = json!({"spec": {"volumeMode": "Block"}});
        apply(claim, &mut value);
        assert_eq!(value.pointer("/spec/volumeMode"), Some(&json!("Block")));
        let mut class = json!({});
        apply(Kind::StorageClass.resource(), &mut class);
        assert_eq!(class, json!({"reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"}));
        let mut secret = json!({"stringData": {"key": "v"}});
        apply(Kind::Secret.resource(), &mut secret);
        assert_eq!(secret, json!({"type": "Opaque", "data": {"key": "dg=="}}));
    }
}
