//! An in-process Kubernetes API server for tests.
//!
//! It speaks plain HTTP on 127.0.0.1, on a port of its own, and knows the kinds that a storage provisioner meets:
//! claims, volumes, classes, pods, nodes, events, leases, namespaces, workloads, RBAC. Clients cannot tell it from
//! kube-apiserver in what they need: versions and conflicts, finalizers, subresources, selectors, pages, watches with
//! bookmarks, streaming lists and expiry, the four kinds of patch, defaulting and validation of claims, volumes and
//! classes, real RBAC. Beside it run stand-ins for the controllers that a claim needs around it (see [`Controllers`]).
//! What goes wrong in a real cluster can be made to go wrong on demand (see [`Faults`] and the methods of
//! [`ApiServer`]), and every request is counted (see [`Audit`]).
//!
//! It never is part of the product, keeps everything in memory, and has no TLS, no CRDs, no admission webhooks and no
//! `OpenAPI` schemas.
//!
//! # Use
//!
//! ```
//! use std::time::Duration;
//! use berth_apiserver::{ApiServer, Fault, Kind, Match, Options, Times};
//! use k8s_openapi::api::core::v1::PersistentVolumeClaim;
//! use serde_json::json;
//!
//! let server = ApiServer::start(Options::default())?;
//!
//! // For clients: an address and tokens, or a kubeconfig. `admin` may do everything; others what RBAC objects say.
//! let (url, token) = (server.url(), server.add_user("system:serviceaccount:berth:berth", &[]));
//! let kubeconfig = server.kubeconfig("admin");
//!
//! // Without HTTP: objects in their types, under all rules but authorization.
//! let objects = server.store();
//! objects.create_value(json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
//!     "metadata": {"name": "fast"}, "provisioner": "example.com/nfs"}))?;
//! objects.create_value(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
//!     "spec": {"accessModes": ["ReadWriteMany"], "storageClassName": "fast",
//!         "resources": {"requests": {"storage": "1Gi"}}}}))?;
//!
//! // The stand-in for kube-controller-manager asks for a provisioner.
//! # let runtime = tokio::runtime::Runtime::new()?;
//! # runtime.block_on(async {
//! let asked = |claim: Option<&PersistentVolumeClaim>| {
//!     claim.and_then(|c| c.metadata.annotations.as_ref())
//!         .is_some_and(|a| a["volume.kubernetes.io/storage-provisioner"] == "example.com/nfs")
//! };
//! objects.wait("default", "data", Duration::from_secs(10), "annotated", asked).await?;
//! # Ok::<(), String>(())
//! # })?;
//! assert_eq!(objects.count(Kind::PersistentVolume), 0);
//!
//! // The next creation of a volume is done, but its answer is lost; everything takes 5 ms longer.
//! let faults = server.faults();
//! faults.inject(Match::verb("create").resource("persistentvolumes"), Fault::DropAfter, Times::Count(1));
//! faults.inject(Match::any(), Fault::Delay(Duration::from_millis(5)), Times::Always);
//! server.expire_watches();
//! assert_eq!(server.audit().writes("system:serviceaccount:berth:berth"), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod audit;
mod controllers;
mod faults;
mod http;
mod kubectl;
mod object;
mod objects;
mod patch;
mod quantity;
mod rbac;
mod registry;
mod resource;
mod rules;
mod selector;
mod server;
mod status;
mod store;

pub use audit::{Audit, AuditEntry, AuditKey};
pub use faults::{Fault, FaultId, Faults, Match, Times};
pub use objects::Objects;
pub use resource::Kind;
pub use server::{ApiServer, Controllers, Options, StartError};
pub use status::Status;
