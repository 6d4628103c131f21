//! The bare client: POSTs PVs as fast as the API server takes them and does nothing else. What a provisioner is measured
//! against.
//!
//! Its PVs are copies of one that berth made (so they have the same size), for claims of its own that wait as berth's do
//! (so kube-controller-manager binds them in the same way). It asks with the rights of the old provisioner's account: its
//! requests are authorized by RBAC and audited as berth's are.

use std::fmt;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::observer::Claimant;

/// How many requests run at a time; as many as berth has workers.
pub const CONCURRENCY: usize = 32;

const VOLUMES: &str = "/api/v1/persistentvolumes";

/// Makes PVs for the claims of one namespace.
pub struct Bare {
    client: Client,
    template: Value,
    namespace: String,
}

impl fmt::Debug for Bare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bare").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Bare {
    /// A client for the claims of `namespace` whose PVs look like `sample`, a PV that berth made, but say that
    /// `provisioner` made them and have the class `class`.
    pub fn new(
        client: Client,
        sample: &Value,
        namespace: &str,
        provisioner: &str,
        class: &str,
    ) -> Result<Self> {
        let field = |pointer: &str| {
            sample.pointer(pointer).cloned().with_context(|| format!("the sample PV has no {pointer}"))
        };
        let mut annotations = field("/metadata/annotations")?;
        set(&mut annotations, "pv.kubernetes.io/provisioned-by", json!(provisioner));
        let mut metadata = json!({ "annotations": annotations });
        // Those of the API server's own controllers are added to every PV anyway.
        if let Ok(Value::Array(finalizers)) = field("/metadata/finalizers") {
            let own: Vec<Value> =
                finalizers.into_iter().filter(|name| name != "kubernetes.io/pv-protection").collect();
            set(&mut metadata, "finalizers", json!(own));
        }
        if let Ok(labels) = field("/metadata/labels") {
            set(&mut metadata, "labels", labels);
        }
        let mut spec = field("/spec")?;
        set(&mut spec, "storageClassName", json!(class));
        let template =
            json!({ "apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec });
        Ok(Self { client, template, namespace: namespace.to_owned() })
    }

    /// The text of the PV for `claim`.
    fn body(&self, claim: &Claimant) -> Vec<u8> {
        let mut volume = self.template.clone();
        let name = format!("pvc-{}", claim.uid);
        if let Some(path) = volume.pointer("/spec/nfs/path").and_then(Value::as_str) {
            let base = path.rsplit_once('/').map_or("", |(base, _)| base);
            let path = format!("{base}/{}-{}-{name}", self.namespace, claim.name);
            if let Some(nfs) = volume.pointer_mut("/spec/nfs") {
                set(nfs, "path", json!(path));
            }
        }
        if let Some(metadata) = volume.pointer_mut("/metadata") {
            set(metadata, "name", json!(name));
        }
        if let Some(spec) = volume.pointer_mut("/spec") {
            let claim_ref = json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": self.namespace, "name": claim.name,
                "uid": claim.uid, "resourceVersion": claim.resource_version,
            });
            set(spec, "claimRef", claim_ref);
        }
        volume.to_string().into_bytes()
    }

    /// Asks for one PV: opens the connection, and its answer is where the time begins, as with berth's first list.
    pub async fn first_list(&self) -> Result<()> {
        let request = http::Request::get(format!("{VOLUMES}?limit=1")).body(Vec::new())?;
        self.client.request_text(request).await.context("list PVs as the bare client").map(drop)
    }

    /// POSTs a PV for each of `claims`.
    pub async fn make_all(&self, claims: &[Claimant]) -> Result<()> {
        let bodies: Vec<Vec<u8>> = claims.iter().map(|claim| self.body(claim)).collect();
        self.first_list().await?;
        post_all(&self.client, VOLUMES, bodies).await.map(drop)
    }

    /// POSTs a PV for each claim that comes in, until `count` are made.
    pub async fn make_as_they_come(
        &self,
        claims: mpsc::UnboundedReceiver<Claimant>,
        count: usize,
    ) -> Result<()> {
        self.first_list().await?;
        stream::unfold(claims, async |mut claims| claims.recv().await.map(|claim| (claim, claims)))
            .take(count)
            .map(|claim| post(&self.client, VOLUMES, self.body(&claim)))
            .buffer_unordered(CONCURRENCY)
            .try_for_each(async |_| Ok(()))
            .await
    }
}

/// POSTs every body to `path`, [`CONCURRENCY`] at a time, and gives the answers in any order.
pub async fn post_all(client: &Client, path: &str, bodies: Vec<Vec<u8>>) -> Result<Vec<String>> {
    stream::iter(bodies)
        .map(|body| post(client, path, body))
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await
}

async fn post(client: &Client, path: &str, body: Vec<u8>) -> Result<String> {
    let request =
        http::Request::post(path).header(http::header::CONTENT_TYPE, "application/json").body(body)?;
    client.request_text(request).await.with_context(|| format!("POST to {path}"))
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(key.to_owned(), value);
    }
}
