//! What the API server sends, as far as it is read: [`ClaimObject`], [`VolumeObject`] and [`AttachmentObject`].
//!
//! The full types of a claim and a `PersistentVolume` take kilobytes each, most of it never looked at. These read only
//! the fields that decisions need and skip the rest while parsing; they are lenient where a missing field means
//! something to a decision, so that one strange object never stops a watch.
//!
//! They are never written back: changes are sent as patches.

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::{
    ByteString,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{Resource, core::ClusterResourceScope, core::NamespaceResourceScope};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::limits::field;
use crate::volume::{ClaimKey, Secrets};

/// A `PersistentVolumeClaim`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ClaimObject {
    #[serde(deserialize_with = "metadata")]
    pub(super) metadata: ObjectMeta,
    #[serde(deserialize_with = "or_default")]
    pub(super) spec: ClaimSpec,
    #[serde(deserialize_with = "or_default")]
    pub(super) status: ClaimStatus,
}

/// Which object it is, as far as it says so.
macro_rules! identity {
    ($($object:ty),*) => {$(
        impl $object {
            pub(super) fn name(&self) -> &str {
                self.metadata.name.as_deref().unwrap_or_default()
            }

            pub(super) fn uid(&self) -> &str {
                self.metadata.uid.as_deref().unwrap_or_default()
            }
        }
    )*};
}

identity!(ClaimObject, VolumeObject);

impl ClaimObject {
    pub(super) fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Which claim it is.
    pub(super) fn key(&self) -> ClaimKey {
        let (namespace, name, uid) = (self.namespace(), self.name(), self.uid());
        ClaimKey { namespace: namespace.into(), name: name.into(), uid: uid.into() }
    }
}

/// What the claim asks for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ClaimSpec {
    pub(super) volume_name: Option<String>,
    pub(super) storage_class_name: Option<String>,
    pub(super) volume_mode: Option<String>,
    pub(super) access_modes: Option<Vec<String>>,
    /// Whether it selects some volumes and not others; an empty selector selects all.
    #[serde(deserialize_with = "selects")]
    pub(super) selector: bool,
    pub(super) volume_attributes_class_name: Option<String>,
    pub(super) data_source: Option<DataSource>,
    pub(super) data_source_ref: Option<DataSource>,
    #[serde(deserialize_with = "or_default")]
    pub(super) resources: Resources,
}

/// `spec.resources` of a claim.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Resources {
    #[serde(deserialize_with = "or_default")]
    pub(super) requests: Storage,
}

/// The entry `storage` of a list of resources.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Storage {
    pub(super) storage: Option<String>,
}

/// What a volume shall be filled from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct DataSource {
    pub(super) api_group: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) kind: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) name: String,
    pub(super) namespace: Option<String>,
}

impl DataSource {
    /// The same, as much of it as is kept.
    pub(super) fn bounded(&self) -> Self {
        let optional = |text: &Option<String>| text.as_deref().map(|text| field(text).into());
        Self {
            api_group: optional(&self.api_group),
            kind: field(&self.kind).into(),
            name: field(&self.name).into(),
            namespace: optional(&self.namespace),
        }
    }
}

/// What became of the claim.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ClaimStatus {
    pub(super) phase: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) capacity: Storage,
    /// The size that an expansion is for.
    #[serde(deserialize_with = "or_default")]
    pub(super) allocated_resources: Storage,
    /// How far it is.
    #[serde(deserialize_with = "or_default")]
    pub(super) allocated_resource_statuses: Storage,
    pub(super) conditions: Option<Vec<Condition>>,
}

/// A condition of a claim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Condition {
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub(super) kind: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) message: String,
}

/// A `PersistentVolume`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct VolumeObject {
    #[serde(deserialize_with = "metadata")]
    pub(super) metadata: ObjectMeta,
    #[serde(deserialize_with = "or_default")]
    pub(super) spec: VolumeSpec,
    #[serde(deserialize_with = "or_default")]
    pub(super) status: VolumeStatus,
}

/// What the volume is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct VolumeSpec {
    #[serde(deserialize_with = "or_default")]
    pub(super) capacity: Storage,
    pub(super) access_modes: Option<Vec<String>>,
    pub(super) claim_ref: Option<ClaimRef>,
    pub(super) persistent_volume_reclaim_policy: Option<String>,
    pub(super) storage_class_name: Option<String>,
    pub(super) volume_mode: Option<String>,
    pub(super) nfs: Option<Nfs>,
    pub(super) csi: Option<Csi>,
    pub(super) rbd: Option<Rbd>,
    pub(super) cephfs: Option<Cephfs>,
}

/// Which claim a volume belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct ClaimRef {
    #[serde(deserialize_with = "or_default")]
    pub(super) namespace: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) name: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) uid: String,
}

impl ClaimRef {
    pub(super) fn key(&self) -> ClaimKey {
        ClaimKey { namespace: self.namespace.clone(), name: self.name.clone(), uid: self.uid.clone() }
    }
}

/// The in-tree `nfs` source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Nfs {
    #[serde(deserialize_with = "or_default")]
    pub(super) server: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) path: String,
}

/// The `csi` source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Csi {
    #[serde(deserialize_with = "or_default")]
    pub(super) driver: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) volume_handle: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) volume_attributes: BTreeMap<String, String>,
    pub(super) fs_type: Option<String>,
    pub(super) node_stage_secret_ref: Option<SecretRef>,
}

/// The in-tree `rbd` source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Rbd {
    #[serde(deserialize_with = "or_default")]
    pub(super) monitors: Vec<String>,
    pub(super) pool: Option<String>,
    #[serde(deserialize_with = "or_default")]
    pub(super) image: String,
    pub(super) user: Option<String>,
    pub(super) secret_ref: Option<SecretRef>,
    pub(super) fs_type: Option<String>,
}

/// The in-tree `cephfs` source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Cephfs {
    #[serde(deserialize_with = "or_default")]
    pub(super) monitors: Vec<String>,
    pub(super) path: Option<String>,
    pub(super) user: Option<String>,
    pub(super) secret_ref: Option<SecretRef>,
}

/// A reference to a Secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct SecretRef {
    #[serde(deserialize_with = "or_default")]
    pub(super) name: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) namespace: String,
}

/// A `Secret`. It has no `Debug`, which would show it.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct SecretObject {
    #[serde(deserialize_with = "metadata")]
    pub(super) metadata: ObjectMeta,
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub(super) kind: String,
    #[serde(deserialize_with = "or_default")]
    data: BTreeMap<String, ByteString>,
}

impl SecretObject {
    /// Its values.
    pub(super) fn secrets(&self) -> Secrets {
        self.data.iter().map(|(key, value)| (key.clone(), value.0.clone())).collect()
    }
}

/// What became of the volume.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct VolumeStatus {
    pub(super) phase: Option<String>,
}

/// A `VolumeAttachment`: the wish to use a volume on a node, and whether that may begin.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct AttachmentObject {
    #[serde(deserialize_with = "metadata")]
    pub(super) metadata: ObjectMeta,
    #[serde(deserialize_with = "or_default")]
    pub(super) spec: AttachmentSpec,
    #[serde(deserialize_with = "or_default")]
    pub(super) status: AttachmentStatus,
}

/// Which volume is wanted, where, and who attaches it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct AttachmentSpec {
    #[serde(deserialize_with = "or_default")]
    pub(super) attacher: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) node_name: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) source: AttachmentSource,
}

/// The volume, unless it is written in the object itself.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct AttachmentSource {
    pub(super) persistent_volume_name: Option<String>,
}

/// What the attacher says.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct AttachmentStatus {
    #[serde(deserialize_with = "or_default")]
    pub(super) attached: bool,
    pub(super) attach_error: Option<AttachmentError>,
    pub(super) detach_error: Option<AttachmentError>,
}

/// Why a volume was not attached or detached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct AttachmentError {
    #[serde(deserialize_with = "or_default")]
    pub(super) message: String,
}

/// A field that is absent and one that is `null` mean the same.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Whether a selector says anything, in whatever field.
fn selects<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let says = |value: &Value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    };
    let selector = Option::<BTreeMap<String, Value>>::deserialize(deserializer)?;
    Ok(selector.is_some_and(|fields| fields.values().any(says)))
}

/// The part of the metadata that is read. What `kubectl apply` leaves behind is a copy of the whole object.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    finalizers: Option<Vec<String>>,
}

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let read = Option::<Metadata>::deserialize(deserializer)?.unwrap_or_default();
    let mut annotations = read.annotations;
    if let Some(annotations) = &mut annotations {
        annotations.remove(LAST_APPLIED);
    }
    Ok(ObjectMeta {
        name: read.name,
        namespace: read.namespace,
        uid: read.uid,
        resource_version: read.resource_version,
        creation_timestamp: read.creation_timestamp,
        deletion_timestamp: read.deletion_timestamp,
        labels: read.labels,
        annotations,
        finalizers: read.finalizers,
        ..ObjectMeta::default()
    })
}

/// Uses a trimmed type for a kind of version 1 of an API group.
macro_rules! resource {
    ($object:ty, $scope:ty, $group:literal, $kind:literal, $plural:literal) => {
        impl Resource for $object {
            type DynamicType = ();
            type Scope = $scope;

            fn kind((): &()) -> Cow<'_, str> {
                Cow::Borrowed($kind)
            }

            fn group((): &()) -> Cow<'_, str> {
                Cow::Borrowed($group)
            }

            fn version((): &()) -> Cow<'_, str> {
                Cow::Borrowed("v1")
            }

            fn plural((): &()) -> Cow<'_, str> {
                Cow::Borrowed($plural)
            }

            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

resource!(ClaimObject, NamespaceResourceScope, "", "PersistentVolumeClaim", "persistentvolumeclaims");
resource!(VolumeObject, ClusterResourceScope, "", "PersistentVolume", "persistentvolumes");
resource!(AttachmentObject, ClusterResourceScope, "storage.k8s.io", "VolumeAttachment", "volumeattachments");

/// The value of an annotation.
pub(super) fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The class of a claim or volume: the old annotation wins, also when it is empty.
pub(super) fn class_name<'a>(metadata: &'a ObjectMeta, field: Option<&'a str>) -> &'a str {
    annotation(metadata, super::names::BETA_CLASS).or(field).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_selector_selects_everything_and_one_that_says_anything_does_not() {
        for (selector, selects) in [
            (serde_json::json!(null), false),
            (serde_json::json!({}), false),
            (serde_json::json!({"matchLabels": {}}), false),
            (serde_json::json!({"matchLabels": null, "matchExpressions": []}), false),
            (serde_json::json!({"matchLabels": {"a": "b"}}), true),
            (serde_json::json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]}), true),
            (serde_json::json!({"unheardOf": "x"}), true),
        ] {
            let spec: ClaimSpec = serde_json::from_value(serde_json::json!({"selector": selector})).unwrap();
            assert_eq!(spec.selector, selects, "{selector}");
        }
    }

    #[test]
    fn nulls_and_unknown_fields_do_not_stop_a_watch() {
        let claim: ClaimObject = serde_json::from_value(serde_json::json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {
                "name": "a", "namespace": "b", "uid": "u", "creationTimestamp": null, "labels": null,
                "managedFields": [{"manager": "x", "fieldsV1": {"f:spec": {}}}],
                "annotations": {LAST_APPLIED: "{}", "keep": "me"},
            },
            "spec": {"resources": {"requests": null}, "selector": {}, "dataSource": null, "new": [1]},
            "status": null,
        }))
        .unwrap();
        assert_eq!(claim.metadata.uid.as_deref(), Some("u"));
        assert_eq!(claim.metadata.annotations.unwrap().into_keys().collect::<Vec<_>>(), ["keep"]);
        assert!(!claim.spec.selector, "an empty selector selects everything");
        assert!(claim.metadata.managed_fields.is_none());

        let volume: VolumeObject = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "a"},
            "spec": {"claimRef": {"name": "x", "uid": null}, "nfs": {"server": "s"}},
        }))
        .unwrap();
        assert_eq!(volume.spec.nfs, Some(Nfs { server: "s".into(), path: String::new() }));
        serde_json::from_value::<VolumeObject>(serde_json::json!({"metadata": {}, "spec": null})).unwrap();
    }
}
