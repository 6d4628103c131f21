//! The objects that scenarios make: classes, claims, PVs of the old provisioner, pods,
//! `StatefulSets`; and what they get back.

use std::path::PathBuf;

use anyhow::{Context, Result};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::Case;

/// A bound claim and its PV.
#[derive(Clone, Debug)]
pub struct Volume {
    /// The PV's name.
    pub name: String,
    /// The claim when it was seen bound.
    pub claim: PersistentVolumeClaim,
    /// The PV at that time.
    pub volume: PersistentVolume,
    /// Where its directory is, relative to the export.
    pub relative: String,
    /// The same as a path of this machine.
    pub directory: PathBuf,
}

impl Volume {
    pub(super) fn new(case: &Case, claim: PersistentVolumeClaim, volume: PersistentVolume) -> Result<Self> {
        let nfs =
            volume.spec.as_ref().and_then(|spec| spec.nfs.as_ref()).context("the PV has no NFS source")?;
        let relative = nfs
            .path
            .strip_prefix(&format!("{}/", case.path))
            .with_context(|| format!("the PV's path {} is not beneath {}", nfs.path, case.path))?
            .to_owned();
        Ok(Self {
            name: volume.name_any(),
            directory: case.export().join(&relative),
            relative,
            claim,
            volume,
        })
    }

    /// Writes a file into the volume, as a pod would.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    /// The claim's UID.
    #[must_use]
    pub fn uid(&self) -> String {
        self.claim.uid().unwrap_or_default()
    }
}

/// A `StorageClass` to be.
#[derive(Debug)]
pub struct ClassBuilder<'a> {
    case: &'a Case,
    name: String,
    object: Value,
}

impl<'a> ClassBuilder<'a> {
    pub(super) fn new(case: &'a Case, name: &str) -> Self {
        let name = format!("{}-{name}", case.id());
        Self {
            case,
            object: json!({
                "metadata": { "name": name },
                "provisioner": case.provisioner,
                "reclaimPolicy": "Delete",
                "volumeBindingMode": "Immediate",
            }),
            name,
        }
    }

    fn set(mut self, pointer: &[&str], value: Value) -> Self {
        set(&mut self.object, pointer, value);
        self
    }

    /// One of its parameters.
    #[must_use]
    pub fn parameter(self, name: &str, value: &str) -> Self {
        self.set(&["parameters", name], json!(value))
    }

    /// Takes a parameter back.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        if let Some(parameters) = self.object.get_mut("parameters").and_then(Value::as_object_mut) {
            parameters.remove(name);
        }
        self
    }

    /// Deletes rather than archives: what most scenarios want.
    #[must_use]
    pub fn deletes(self) -> Self {
        self.parameter("archiveOnDelete", "false")
    }

    /// `reclaimPolicy: Retain`.
    #[must_use]
    pub fn retains(self) -> Self {
        self.set(&["reclaimPolicy"], json!("Retain"))
    }

    /// `volumeBindingMode: WaitForFirstConsumer`.
    #[must_use]
    pub fn late(self) -> Self {
        self.set(&["volumeBindingMode"], json!("WaitForFirstConsumer"))
    }

    /// `allowVolumeExpansion: true`.
    #[must_use]
    pub fn expandable(self) -> Self {
        self.set(&["allowVolumeExpansion"], json!(true))
    }

    /// `mountOptions`.
    #[must_use]
    pub fn mount_options(self, options: &[&str]) -> Self {
        self.set(&["mountOptions"], json!(options))
    }

    /// Another provisioner than this scenario's.
    #[must_use]
    pub fn provisioner(self, name: &str) -> Self {
        self.set(&["provisioner"], json!(name))
    }

    /// Makes it and gives its name.
    pub async fn create(self) -> Result<String> {
        self.case.create_global::<StorageClass>(&self.object).await?;
        Ok(self.name)
    }
}

/// A claim to be.
#[derive(Debug)]
pub struct ClaimBuilder<'a> {
    case: &'a Case,
    object: Value,
}

impl<'a> ClaimBuilder<'a> {
    pub(super) fn new(case: &'a Case, name: &str) -> Self {
        Self {
            case,
            object: json!({
                "metadata": { "name": name },
                "spec": {
                    "accessModes": ["ReadWriteMany"],
                    "resources": { "requests": { "storage": "1Mi" } },
                },
            }),
        }
    }

    /// Sets any field.
    #[must_use]
    pub fn set(mut self, pointer: &[&str], value: Value) -> Self {
        set(&mut self.object, pointer, value);
        self
    }

    /// `spec.storageClassName`.
    #[must_use]
    pub fn class(self, class: &str) -> Self {
        self.set(&["spec", "storageClassName"], json!(class))
    }

    /// The class by the beta annotation of old manifests, and no `storageClassName`.
    #[must_use]
    pub fn beta_class(self, class: &str) -> Self {
        self.annotation("volume.beta.kubernetes.io/storage-class", class)
    }

    /// The requested size.
    #[must_use]
    pub fn size(self, size: &str) -> Self {
        self.set(&["spec", "resources", "requests", "storage"], json!(size))
    }

    /// One annotation.
    #[must_use]
    pub fn annotation(self, key: &str, value: &str) -> Self {
        self.set(&["metadata", "annotations", key], json!(value))
    }

    /// One label.
    #[must_use]
    pub fn label(self, key: &str, value: &str) -> Self {
        self.set(&["metadata", "labels", key], json!(value))
    }

    /// Makes it.
    pub async fn create(self) -> Result<PersistentVolumeClaim> {
        self.case.create(&self.object).await
    }
}

/// A PV as the old provisioner made them, with the claim that it is bound to.
#[derive(Debug)]
pub struct VolumeBuilder<'a> {
    case: &'a Case,
    directory: String,
    class: String,
    reclaim: &'static str,
    server: String,
    path: Option<String>,
    by_default: bool,
}

impl<'a> VolumeBuilder<'a> {
    pub(super) fn new(case: &'a Case, directory: &str) -> Self {
        Self {
            case,
            directory: directory.to_owned(),
            class: String::new(),
            reclaim: "Delete",
            server: case.server.clone(),
            path: None,
            by_default: false,
        }
    }

    /// In the directory that the old provisioner made without a `pathPattern`.
    #[must_use]
    pub fn by_default(mut self) -> Self {
        self.by_default = true;
        self
    }

    /// The class of both.
    #[must_use]
    pub fn class(mut self, class: &str) -> Self {
        class.clone_into(&mut self.class);
        self
    }

    /// `persistentVolumeReclaimPolicy`.
    #[must_use]
    pub fn reclaim(mut self, policy: &'static str) -> Self {
        self.reclaim = policy;
        self
    }

    /// Another server than this scenario's.
    #[must_use]
    pub fn server(mut self, server: &str) -> Self {
        server.clone_into(&mut self.server);
        self
    }

    /// Another `spec.nfs.path` than the directory beneath the export.
    #[must_use]
    pub fn path(mut self, path: &str) -> Self {
        self.path = Some(path.to_owned());
        self
    }

    /// Makes the directory with a file `data`, the claim `claim` and the PV, and waits until they
    /// are bound.
    pub async fn bound_to(mut self, claim: &str) -> Result<Volume> {
        let case = self.case;
        let name = format!("{}-old-{claim}", case.id());
        if self.by_default {
            self.directory = format!("{}-{claim}-{name}", case.namespace);
        }
        let directory = case.export().join(&self.directory);
        std::fs::create_dir_all(&directory)
            .and_then(|()| std::fs::write(directory.join("data"), claim))
            .with_context(|| format!("make {}", directory.display()))?;
        let path = self.path.unwrap_or_else(|| format!("{}/{}", case.path, self.directory));
        case.create_global::<PersistentVolume>(&json!({
            "metadata": {
                "name": name,
                "annotations": { "pv.kubernetes.io/provisioned-by": case.provisioner },
            },
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "capacity": { "storage": "1Mi" },
                "persistentVolumeReclaimPolicy": self.reclaim,
                "storageClassName": self.class,
                "nfs": { "server": self.server, "path": path },
                "claimRef": {
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                    "namespace": case.namespace, "name": claim,
                },
            },
        }))
        .await?;
        case.claim(claim).class(&self.class).set(&["spec", "volumeName"], json!(name)).create().await?;
        let (claim, volume) = case.bound_pair(claim).await?;
        Ok(Volume { name, claim, volume, relative: self.directory, directory })
    }
}

/// A pod that mounts one claim. It is scheduled and never runs.
#[must_use]
pub fn pod(name: &str, claim: &str) -> Value {
    json!({
        "metadata": { "name": name },
        "spec": {
            "containers": [{
                "name": "main", "image": "none.test/none",
                "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
            }],
            "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": claim } }],
        },
    })
}

/// A `StatefulSet` with one claim template `data`. Its pods are made side by side, since without a
/// kubelet the first one would never be ready.
#[must_use]
pub fn stateful_set(name: &str, class: &str, replicas: u32) -> Value {
    json!({
        "metadata": { "name": name },
        "spec": {
            "serviceName": name,
            "replicas": replicas,
            "podManagementPolicy": "Parallel",
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": {
                    "containers": [{
                        "name": "main", "image": "none.test/none",
                        "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
                    }],
                },
            },
            "volumeClaimTemplates": [{
                "metadata": { "name": "data" },
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "storageClassName": class,
                    "resources": { "requests": { "storage": "1Mi" } },
                },
            }],
        },
    })
}

/// Sets the field at `pointer`, making the objects on the way.
fn set(object: &mut Value, pointer: &[&str], value: Value) {
    let mut at = object;
    for step in pointer {
        if at.is_null() {
            *at = json!({});
        }
        let Some(fields) = at.as_object_mut() else {
            return;
        };
        at = fields.entry(*step).or_insert(Value::Null);
    }
    *at = value;
}
