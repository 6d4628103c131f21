//! What makes an object invalid.
//!
//! Entry points: [`on_create`], [`on_update`]; both answer every mistake they find, with the wording of
//! kube-apiserver where people meet it. Deliberately not here: rules that look at other objects (see `registry`).

use serde_json::{Value, json};

use super::{names, update::Part};
use crate::{
    object::{self, text},
    quantity,
    resource::{Kind, Resource},
    status::FieldError,
};

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// The fields of a PV's spec that are not its source.
const NOT_A_SOURCE: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

pub(crate) fn on_create(resource: &Resource, value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    errors.extend(names::object_name(resource, object::name(value)));
    errors.extend(names::metadata(value));
    contents(resource, value, &mut errors);
    errors
}

pub(crate) fn on_update(resource: &Resource, old: &Value, new: &Value, part: Part) -> Vec<FieldError> {
    let mut errors = names::metadata(new);
    if object::is_terminating(old) {
        let before = object::finalizers(old);
        let added: Vec<&str> = object::finalizers(new).into_iter().filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            let list = added.iter().map(|f| format!("\"{f}\"")).collect::<Vec<_>>().join(", ");
            errors.push(FieldError::forbidden(
                "metadata.finalizers",
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{list}}}"
                ),
            ));
        }
    }
    if part != Part::Main {
        return errors;
    }
    contents(resource, new, &mut errors);
    match resource.table {
        Kind::PersistentVolumeClaim => claim_update(old, new, &mut errors),
        Kind::PersistentVolume => volume_update(old, new, &mut errors),
        Kind::StorageClass => class_update(old, new, &mut errors),
        Kind::RoleBinding | Kind::ClusterRoleBinding => {
            let reference = new.get("roleRef");
            if old.get("roleRef") != reference {
                let given = reference.cloned().unwrap_or_default();
                errors.push(FieldError::invalid("roleRef", &given, "cannot change roleRef"));
            }
        }
        Kind::ConfigMap | Kind::Secret => {
            let fixed = old.get("immutable") == Some(&json!(true));
            if fixed && ["data", "binaryData", "immutable"].iter().any(|f| old.get(f) != new.get(f)) {
                errors.push(FieldError::forbidden("data", "field is immutable when `immutable` is set"));
            }
            if resource.table == Kind::Secret && old.get("type") != new.get("type") {
                let kind = new.get("type").cloned().unwrap_or_default();
                errors.push(FieldError::invalid("type", &kind, "field is immutable"));
            }
        }
        Kind::StatefulSet => stateful_set_update(old, new, &mut errors),
        Kind::VolumeAttachment => {
            let spec = new.get("spec");
            if old.get("spec") != spec {
                let given = spec.cloned().unwrap_or_default();
                errors.push(FieldError::invalid("spec", &given, "field is immutable"));
            }
        }
        Kind::CSIDriver => {
            for field in ["attachRequired", "volumeLifecycleModes"] {
                immutable(old, new, "spec", field, &mut errors);
            }
        }
        _ => {}
    }
    errors
}

fn immutable(old: &Value, new: &Value, parent: &str, field: &str, errors: &mut Vec<FieldError>) {
    let at = |v: &Value| {
        if parent.is_empty() { v.get(field).cloned() } else { v.get(parent)?.get(field).cloned() }
    };
    if at(old) != at(new) {
        let path = if parent.is_empty() { field.to_owned() } else { format!("{parent}.{field}") };
        errors.push(FieldError::invalid(path, &at(new).unwrap_or_default(), "field is immutable"));
    }
}

fn contents(resource: &Resource, value: &Value, errors: &mut Vec<FieldError>) {
    match resource.table {
        Kind::PersistentVolumeClaim => claim(value, errors),
        Kind::PersistentVolume => volume(value, errors),
        Kind::StorageClass => {
            if text(value, "/provisioner").is_empty() {
                errors.push(FieldError::required("provisioner", ""));
            }
            one_of(value, "/reclaimPolicy", "reclaimPolicy", &["Delete", "Retain"], errors);
            let modes = ["Immediate", "WaitForFirstConsumer"];
            one_of(value, "/volumeBindingMode", "volumeBindingMode", &modes, errors);
            for (key, parameter) in value.get("parameters").and_then(Value::as_object).into_iter().flatten() {
                if key.is_empty() {
                    errors.push(FieldError::invalid("parameters", parameter, "field can not be empty."));
                }
            }
        }
        Kind::Pod => pod_spec(value.get("spec"), "spec", errors),
        Kind::StatefulSet | Kind::Deployment | Kind::DaemonSet => workload(value, errors),
        Kind::Lease => {
            let seconds = value.pointer("/spec/leaseDurationSeconds").and_then(Value::as_i64);
            if let Some(seconds) = seconds.filter(|seconds| *seconds <= 0) {
                let at = "spec.leaseDurationSeconds";
                errors.push(FieldError::invalid(at, &json!(seconds), "must be greater than 0"));
            }
        }
        Kind::RoleBinding | Kind::ClusterRoleBinding => {
            if text(value, "/roleRef/name").is_empty() {
                errors.push(FieldError::required("roleRef.name", ""));
            }
            let kinds: &[&str] =
                if resource.namespaced { &["ClusterRole", "Role"] } else { &["ClusterRole"] };
            one_of(value, "/roleRef/kind", "roleRef.kind", kinds, errors);
        }
        Kind::Event => {
            let namespace = text(value, "/involvedObject/namespace");
            let own = object::namespace(value);
            if namespace != own && !(namespace.is_empty() && matches!(own, "default" | "kube-system")) {
                let why = "does not match event.namespace";
                errors.push(FieldError::invalid("involvedObject.namespace", &json!(namespace), why));
            }
        }
        Kind::VolumeAttachment => {
            for (pointer, field) in [("/spec/attacher", "spec.attacher"), ("/spec/nodeName", "spec.nodeName")]
            {
                if text(value, pointer).is_empty() {
                    errors.push(FieldError::required(field, ""));
                }
            }
        }
        _ => {}
    }
}

fn one_of(value: &Value, pointer: &str, field: &str, allowed: &[&str], errors: &mut Vec<FieldError>) {
    let actual = text(value, pointer);
    if !allowed.contains(&actual) {
        errors.push(FieldError::unsupported(field, actual, allowed));
    }
}

fn access_modes(value: &Value, errors: &mut Vec<FieldError>) {
    let modes: Vec<&str> = value
        .pointer("/spec/accessModes")
        .and_then(Value::as_array)
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    if modes.is_empty() {
        errors.push(FieldError::required("spec.accessModes", "at least 1 access mode is required"));
    }
    for mode in &modes {
        if !ACCESS_MODES.contains(mode) {
            errors.push(FieldError::unsupported("spec.accessModes", mode, &ACCESS_MODES));
        }
    }
    if modes.contains(&"ReadWriteOncePod") && modes.len() > 1 {
        let why = "may not use ReadWriteOncePod with other access modes";
        errors.push(FieldError::forbidden("spec.accessModes", why));
    }
}

fn amount(value: &Value, pointer: &str) -> Option<i128> {
    value.pointer(pointer).and_then(Value::as_str).and_then(quantity::parse)
}

fn claim(value: &Value, errors: &mut Vec<FieldError>) {
    access_modes(value, errors);
    match amount(value, "/spec/resources/requests/storage") {
        None => errors.push(FieldError::required("spec.resources[storage]", "")),
        Some(amount) if amount <= 0 => {
            let given = value.pointer("/spec/resources/requests/storage").cloned().unwrap_or_default();
            errors.push(FieldError::invalid("spec.resources[storage]", &given, "must be greater than zero"));
        }
        Some(_) => {}
    }
    class_name(value, errors);
    one_of(value, "/spec/volumeMode", "spec.volumeMode", &["Block", "Filesystem"], errors);
}

fn class_name(value: &Value, errors: &mut Vec<FieldError>) {
    let class = text(value, "/spec/storageClassName");
    if !class.is_empty() && !names::is_subdomain(class) {
        let why =
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'";
        errors.push(FieldError::invalid("spec.storageClassName", &json!(class), why));
    }
}

fn volume(value: &Value, errors: &mut Vec<FieldError>) {
    access_modes(value, errors);
    match amount(value, "/spec/capacity/storage") {
        None => errors.push(FieldError::required("spec.capacity", "")),
        Some(amount) if amount <= 0 => {
            let given = value.pointer("/spec/capacity/storage").cloned().unwrap_or_default();
            errors.push(FieldError::invalid("spec.capacity[storage]", &given, "must be greater than zero"));
        }
        Some(_) => {}
    }
    match sources(value).len() {
        0 => errors.push(FieldError::required("spec", "must specify a volume type")),
        1 => {}
        _ => errors.push(FieldError::forbidden("spec", "may not specify more than 1 volume type")),
    }
    if let Some(nfs) = value.pointer("/spec/nfs") {
        for field in ["server", "path"] {
            if text(nfs, &format!("/{field}")).is_empty() {
                errors.push(FieldError::required(format!("spec.nfs.{field}"), ""));
            }
        }
        let path = text(nfs, "/path");
        if !path.is_empty() && !path.starts_with('/') {
            errors.push(FieldError::invalid("spec.nfs.path", &json!(path), "must be an absolute path"));
        }
    }
    if value.pointer("/spec/csi").is_some() {
        for (pointer, field) in
            [("/spec/csi/driver", "spec.csi.driver"), ("/spec/csi/volumeHandle", "spec.csi.volumeHandle")]
        {
            if text(value, pointer).is_empty() {
                errors.push(FieldError::required(field, ""));
            }
        }
    }
    class_name(value, errors);
    let policies = ["Delete", "Recycle", "Retain"];
    one_of(
        value,
        "/spec/persistentVolumeReclaimPolicy",
        "spec.persistentVolumeReclaimPolicy",
        &policies,
        errors,
    );
    one_of(value, "/spec/volumeMode", "spec.volumeMode", &["Block", "Filesystem"], errors);
}

fn sources(volume: &Value) -> Vec<(&String, &Value)> {
    volume
        .get("spec")
        .and_then(Value::as_object)
        .map(|spec| spec.iter().filter(|(field, _)| !NOT_A_SOURCE.contains(&field.as_str())).collect())
        .unwrap_or_default()
}

fn claim_update(old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
    let (mut before, mut after) =
        (old.get("spec").cloned().unwrap_or_default(), new.get("spec").cloned().unwrap_or_default());
    let put = |spec: &mut Value, field: &str, value: Option<Value>| {
        if let Some(spec) = spec.as_object_mut() {
            match value {
                Some(value) => spec.insert(field.to_owned(), value),
                None => spec.remove(field),
            };
        }
    };
    if text(&before, "/volumeName").is_empty() {
        // The volume is chosen once.
        put(&mut before, "volumeName", after.get("volumeName").cloned());
    }
    if before.get("storageClassName").is_none() && object::annotation(old, BETA_CLASS).is_none() {
        // A class that became the default later may be filled in.
        put(&mut before, "storageClassName", after.get("storageClassName").cloned());
    }
    if text(old, "/status/phase") == "Bound" {
        put(&mut after, "volumeAttributesClassName", before.get("volumeAttributesClassName").cloned());
        if let (Some(storage), Some(requests)) = (
            before.pointer("/resources/requests/storage").cloned(),
            after.pointer_mut("/resources/requests").and_then(Value::as_object_mut),
        ) {
            requests.insert("storage".into(), storage);
        }
    }
    if before != after {
        errors.push(FieldError::forbidden(
            "spec",
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        ));
    }
    let at = "/spec/resources/requests/storage";
    let (old_size, new_size) = (amount(old, at).unwrap_or(0), amount(new, at).unwrap_or(0));
    let real = amount(old, "/status/capacity/storage").unwrap_or(0);
    if new_size < old_size && new_size <= real {
        let why = "field can not be less than status.capacity";
        errors.push(FieldError::forbidden("spec.resources.requests.storage", why));
    }
    if object::annotation(old, BETA_CLASS) != object::annotation(new, BETA_CLASS) {
        let given = json!(object::annotation(new, BETA_CLASS));
        let field = format!("metadata.annotations[{BETA_CLASS}]");
        errors.push(FieldError::invalid(field, &given, "field is immutable"));
    }
}

/// The annotation by which old manifests name a class; it wins over the field.
pub(crate) const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

fn volume_update(old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
    if sources(old) != sources(new) {
        errors.push(FieldError::forbidden(
            "spec.persistentvolumesource",
            "spec.persistentvolumesource is immutable after creation",
        ));
    }
    immutable(old, new, "spec", "volumeMode", errors);
    if old.pointer("/spec/nodeAffinity").is_some() {
        immutable(old, new, "spec", "nodeAffinity", errors);
    }
}

fn class_update(old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
    for field in ["parameters", "provisioner", "reclaimPolicy"] {
        let empty = json!({});
        if old.get(field).unwrap_or(&empty) != new.get(field).unwrap_or(&empty) {
            errors.push(FieldError::forbidden(field, &format!("updates to {field} are forbidden.")));
        }
    }
    immutable(old, new, "", "volumeBindingMode", errors);
}

fn workload(value: &Value, errors: &mut Vec<FieldError>) {
    let Some(selector) = value.pointer("/spec/selector") else {
        errors.push(FieldError::required("spec.selector", ""));
        return;
    };
    let template = value.pointer("/spec/template").cloned().unwrap_or_default();
    if !crate::selector::Selection::of_label_selector(selector).matches_labels(&template) {
        let labels = template.pointer("/metadata/labels").cloned().unwrap_or_default();
        let why = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid("spec.template.metadata.labels", &labels, why));
    }
    pod_spec(template.get("spec"), "spec.template.spec", errors);
    if value.pointer("/spec/replicas").and_then(Value::as_i64).is_some_and(|n| n < 0) {
        let why = "must be greater than or equal to 0";
        errors.push(FieldError::invalid("spec.replicas", &json!(-1), why));
    }
}

fn pod_spec(spec: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
    let containers = spec.and_then(|s| s.get("containers")).and_then(Value::as_array);
    if containers.is_none_or(Vec::is_empty) {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    let volumes: Vec<&str> = spec
        .and_then(|s| s.get("volumes"))
        .and_then(Value::as_array)
        .map(|list| list.iter().map(|v| text(v, "/name")).collect())
        .unwrap_or_default();
    let is_template = path != "spec";
    for (index, container) in containers.into_iter().flatten().enumerate() {
        let at = format!("{path}.containers[{index}]");
        if text(container, "/name").is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        }
        if text(container, "/image").is_empty() {
            errors.push(FieldError::required(format!("{at}.image"), ""));
        }
        let mounts = container.get("volumeMounts").and_then(Value::as_array);
        for (number, mount) in mounts.into_iter().flatten().enumerate() {
            let name = text(mount, "/name");
            // A StatefulSet's claim templates are volumes of its pods too.
            if !is_template && !volumes.contains(&name) {
                let message = format!("Not found: \"{name}\"");
                let field = format!("{at}.volumeMounts[{number}].name");
                errors.push(FieldError { field, reason: "FieldValueNotFound", message });
            }
        }
    }
}

fn stateful_set_update(old: &Value, new: &Value, errors: &mut Vec<FieldError>) {
    const FREE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let fixed = |v: &Value| {
        let mut spec = v.get("spec").cloned().unwrap_or_default();
        if let Some(spec) = spec.as_object_mut() {
            spec.retain(|field, _| !FREE.contains(&field.as_str()));
        }
        spec
    };
    if fixed(old) != fixed(new) {
        errors.push(FieldError::forbidden(
            "spec",
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
             'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pvc(phase: &str, class: &str, request: &str, volume: &str) -> Value {
        json!({"metadata": {"name": "c", "namespace": "n"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "volumeMode": "Filesystem",
                "resources": {"requests": {"storage": request}}, "volumeName": volume},
            "status": {"phase": phase, "capacity": {"storage": "1Gi"}}})
    }

    #[test]
    fn a_claim_may_change_only_in_what_the_api_server_allows() {
        let resource = Kind::PersistentVolumeClaim.resource();
        for (row, old, new, wrong) in [
            ("a bound claim grows", pvc("Bound", "a", "1Gi", "pv"), pvc("Bound", "a", "2Gi", "pv"), 0),
            ("an unbound claim does not", pvc("Pending", "a", "1Gi", ""), pvc("Pending", "a", "2Gi", ""), 1),
            (
                "it shrinks back above its capacity",
                pvc("Bound", "a", "3Gi", "pv"),
                pvc("Bound", "a", "2Gi", "pv"),
                0,
            ),
            ("but not to it", pvc("Bound", "a", "3Gi", "pv"), pvc("Bound", "a", "1Gi", "pv"), 1),
            ("the class stays", pvc("Bound", "a", "1Gi", "pv"), pvc("Bound", "b", "1Gi", "pv"), 1),
            ("the volume is set once", pvc("Pending", "a", "1Gi", ""), pvc("Pending", "a", "1Gi", "pv"), 0),
            ("and then stays", pvc("Bound", "a", "1Gi", "pv"), pvc("Bound", "a", "1Gi", "other"), 1),
        ] {
            let errors = on_update(resource, &old, &new, Part::Main);
            assert_eq!(errors.len(), wrong, "{row}: {errors:?}");
        }
    }

    #[test]
    fn a_volume_has_exactly_one_source_and_keeps_it() {
        let resource = Kind::PersistentVolume.resource();
        let volume = |source: Value| {
            let mut value = json!({"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"],
                "capacity": {"storage": "1Gi"}, "volumeMode": "Filesystem", "persistentVolumeReclaimPolicy": "Delete"}});
            for (key, part) in source.as_object().unwrap() {
                object::child(&mut value, "spec").insert(key.clone(), part.clone());
            }
            value
        };
        let nfs = volume(json!({"nfs": {"server": "s", "path": "/p"}}));
        assert_eq!(on_create(resource, &nfs), []);
        assert_eq!(on_create(resource, &volume(json!({}))).len(), 1);
        let both = volume(json!({"nfs": {"server": "s", "path": "/p"}, "hostPath": {"path": "/x"}}));
        assert_eq!(on_create(resource, &both).len(), 1);
        let moved = volume(json!({"nfs": {"server": "s", "path": "/q"}}));
        assert_eq!(on_update(resource, &nfs, &moved, Part::Main).len(), 1);
    }

    #[test]
    fn a_class_keeps_its_provisioner_and_parameters() {
        let resource = Kind::StorageClass.resource();
        let class = |provisioner: &str, parameters: Value| {
            json!({"metadata": {"name": "c"}, "provisioner": provisioner, "parameters": parameters,
                "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"})
        };
        let old = class("p", json!({"a": "b"}));
        assert_eq!(on_update(resource, &old, &class("q", json!({"a": "b"})), Part::Main).len(), 1);
        assert_eq!(on_update(resource, &old, &class("p", json!({"a": "c"})), Part::Main).len(), 1);
        assert_eq!(on_update(resource, &old, &old, Part::Main), []);
    }

    #[test]
    fn no_finalizer_is_added_to_what_is_being_deleted() {
        let resource = Kind::ConfigMap.resource();
        let old = json!({"metadata": {"name": "c", "deletionTimestamp": "x", "finalizers": ["a/b"]}});
        let new = json!({"metadata": {"name": "c", "deletionTimestamp": "x", "finalizers": ["a/b", "c/d"]}});
        assert_eq!(on_update(resource, &old, &new, Part::Main).len(), 1);
    }
}
