//! Objects for the tests of this module, each made of a usual one and a JSON merge patch that says what is special.

#![allow(clippy::needless_pass_by_value, reason = "patches read best written in place")]

use std::sync::Arc;

use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, json};

use super::{
    cache::Claim,
    class::Class,
    objects::{ClaimObject, VolumeObject},
};

/// The provisioner's name in all fixtures.
pub(super) const NAME: &str = "nfs.example/berth";

pub(super) fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    target.remove(key);
                } else {
                    merge(target.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

fn patched(mut usual: Value, patch: &Value) -> Value {
    merge(&mut usual, patch);
    usual
}

pub(super) fn claim_object(patch: Value) -> ClaimObject {
    let usual = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": "data", "namespace": "default", "uid": "0b6f-11", "resourceVersion": "7",
            "annotations": {"volume.kubernetes.io/storage-provisioner": NAME},
        },
        "spec": {
            "accessModes": ["ReadWriteMany"], "storageClassName": "nfs", "volumeMode": "Filesystem",
            "resources": {"requests": {"storage": "1500Mi"}},
        },
        "status": {"phase": "Pending"},
    });
    serde_json::from_value(patched(usual, &patch)).unwrap()
}

pub(super) fn claim(patch: Value) -> Arc<Claim> {
    let object = claim_object(patch);
    let uid = object.metadata.uid.clone().unwrap();
    Arc::new(Claim::new(&object, &uid, NAME, &Arc::default()))
}

pub(super) fn class(patch: Value) -> Class {
    let usual = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "nfs", "uid": "class-1", "resourceVersion": "3"},
        "provisioner": NAME, "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate",
        "allowVolumeExpansion": true,
    });
    Class::from(serde_json::from_value::<StorageClass>(patched(usual, &patch)).unwrap())
}

/// A released volume of ours.
pub(super) fn volume_object(patch: Value) -> VolumeObject {
    let usual = json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {
            "name": "pvc-0b6f-11", "uid": "volume-1", "resourceVersion": "9",
            "creationTimestamp": "2026-11-01T00:00:00Z",
            "annotations": {
                "pv.kubernetes.io/provisioned-by": NAME,
                "berth.storage/volume-id": "1/memory/default/pvc-0b6f-11",
                "berth.storage/on-delete": "delete",
                "berth.storage/origin": "created",
                "berth.storage/path": "default-data-pvc-0b6f-11",
                "berth.storage/store-id": "store-1",
            },
            "finalizers": ["kubernetes.io/pv-protection", "external-provisioner.volume.kubernetes.io/finalizer"],
        },
        "spec": {
            "capacity": {"storage": "1500Mi"}, "storageClassName": "nfs",
            "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": {"namespace": "default", "name": "data", "uid": "0b6f-11"},
            "nfs": {"server": "memory", "path": "/default/default-data-pvc-0b6f-11"},
        },
        "status": {"phase": "Released"},
    });
    serde_json::from_value(patched(usual, &patch)).unwrap()
}
