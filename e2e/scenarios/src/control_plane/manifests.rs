//! Objects that exist before a scenario begins: the rights of `deploy/manifests/`, the rights of
//! the old provisioner's Deployment, and a node for the scheduler.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, ValidationDirective},
};
use serde_json::{Value, json};

/// One YAML document.
#[derive(Clone, Debug)]
pub struct Manifest {
    file: PathBuf,
    object: Value,
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of {}", self.kind(), self.name(), self.file.display())
    }
}

impl Manifest {
    fn text(&self, pointer: &str) -> &str {
        self.object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// E.g. `ClusterRole`.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.text("/kind")
    }

    /// `metadata.name`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// The whole object.
    #[must_use]
    pub fn object(&self) -> &Value {
        &self.object
    }

    /// The name of its file, without the ending.
    #[must_use]
    pub fn file_stem(&self) -> &str {
        self.file.file_stem().and_then(std::ffi::OsStr::to_str).unwrap_or_default()
    }

    /// True for namespaces, accounts, roles and bindings: what decides who may do what.
    #[must_use]
    pub fn is_access_control(&self) -> bool {
        ["Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"]
            .contains(&self.kind())
    }

    /// The same object in another namespace.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        let mut moved = self.clone();
        if let Some(metadata) = moved.object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("namespace".to_owned(), json!(namespace));
        }
        moved
    }

    fn api(&self, client: &Client) -> Result<Api<DynamicObject>> {
        let api_version = self.text("/apiVersion");
        ensure!(
            !api_version.is_empty() && !self.kind().is_empty() && !self.name().is_empty(),
            "{}: a document lacks apiVersion, kind or metadata.name",
            self.file.display()
        );
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let kind = GroupVersionKind::gvk(group, version, self.kind());
        let resource = match self.kind() {
            // A plural that is its own singular, which cannot be guessed.
            "SecurityContextConstraints" => {
                ApiResource::from_gvk_with_plural(&kind, "securitycontextconstraints")
            }
            _ => ApiResource::from_gvk(&kind),
        };
        let namespace = self.text("/metadata/namespace");
        Ok(if namespace.is_empty() {
            Api::all_with(client.clone(), &resource)
        } else {
            Api::namespaced_with(client.clone(), namespace, &resource)
        })
    }

    /// An object that does not come from a file; `origin` is for messages.
    #[must_use]
    pub fn new(origin: &str, object: Value) -> Self {
        Self { file: origin.into(), object }
    }

    /// The object as the API server has it, if it does.
    pub async fn get(&self, client: &Client) -> Result<Option<DynamicObject>> {
        self.api(client)?.get_opt(self.name()).await.with_context(|| format!("get {self}"))
    }

    /// Server-side apply.
    pub async fn apply(&self, client: &Client) -> Result<()> {
        self.patch(client, &PatchParams::apply("berth-e2e").force()).await
    }

    /// Asks the API server whether it would take the object, refusing unknown fields.
    pub async fn validate(&self, client: &Client) -> Result<()> {
        let params = PatchParams {
            dry_run: true,
            field_validation: Some(ValidationDirective::Strict),
            ..PatchParams::apply("berth-e2e").force()
        };
        self.patch(client, &params).await
    }

    async fn patch(&self, client: &Client, params: &PatchParams) -> Result<()> {
        self.api(client)?
            .patch(self.name(), params, &Patch::Apply(&self.object))
            .await
            .with_context(|| format!("apply {self}"))
            .map(drop)
    }
}

/// The documents of `deploy/manifests/`, namespaces first.
pub fn deployed() -> Result<Vec<Manifest>> {
    folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/manifests"))
}

/// The documents of `deploy/manifests/ceph/`.
pub fn deployed_for_ceph() -> Result<Vec<Manifest>> {
    folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/manifests/ceph"))
}

/// The documents of `deploy/manifests/node/`, namespaces first.
pub fn deployed_node() -> Result<Vec<Manifest>> {
    folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/manifests/node"))
}

/// The objects that the chart gives, of all files of `deploy/rendered/`.
pub fn rendered() -> Result<Vec<Manifest>> {
    folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/rendered"))
}

/// The documents of `deploy/examples/`.
pub fn examples() -> Result<Vec<Manifest>> {
    folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples"))
}

/// The rights of an installation of the old provisioner.
pub fn old_install() -> Result<Vec<Manifest>> {
    folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests"))
}

fn folder(dir: &Path) -> Result<Vec<Manifest>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .with_context(|| format!("read the folder {}", dir.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .with_context(|| format!("read the folder {}", dir.display()))?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml"));
    files.sort();
    let mut manifests = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text)
            .with_context(|| format!("read the YAML of {}", file.display()))?;
        manifests.extend(
            documents
                .into_iter()
                .filter(|object| !object.is_null())
                .map(|object| Manifest { file: file.clone(), object }),
        );
    }
    manifests.sort_by_key(|manifest| manifest.kind() != "Namespace");
    Ok(manifests)
}

/// A node that the scheduler may place pods on. No kubelet stands behind it.
pub async fn node(client: &Client) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let apply = PatchParams::apply("berth-e2e").force();
    let resources = json!({ "cpu": "1000", "memory": "1Ti", "pods": "10000" });
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": NODE,
            "labels": { "kubernetes.io/hostname": NODE, "kubernetes.io/os": "linux" },
        },
    });
    nodes.patch(NODE, &apply, &Patch::Apply(&node)).await.context("make the node")?;
    let now = k8s_openapi::jiff::Timestamp::now().to_string();
    let status = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": NODE },
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "HandMade",
                "message": "there is no kubelet", "lastHeartbeatTime": now,
                "lastTransitionTime": now,
            }],
        },
    });
    nodes.patch_status(NODE, &apply, &Patch::Apply(&status)).await.context("make the node ready").map(drop)
}

/// The name of the only node.
pub const NODE: &str = "e2e-node";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_install_has_exactly_the_old_rights() {
        let manifests = old_install().unwrap();
        assert!(manifests.iter().all(Manifest::is_access_control));
        let text =
            serde_json::to_string(&manifests.iter().map(Manifest::object).collect::<Vec<_>>()).unwrap();
        assert!(text.contains("endpoints"));
        for never in ["leases", "persistentvolumeclaims/status", "secrets", "events.k8s.io"] {
            assert!(!text.contains(never), "{never}");
        }
    }
}
