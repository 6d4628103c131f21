//! What the tests of this crate share: clients and small objects.
#![allow(dead_code, reason = "each test file uses its own part")]

use berth_apiserver::{ApiServer, Controllers, Options};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim};
use kube::{Client, Config};
use serde_json::json;

/// A server without controllers.
pub(crate) fn quiet() -> ApiServer {
    ApiServer::start(Options { controllers: Controllers::none(), ..Options::default() }).unwrap()
}

pub(crate) fn admin(server: &ApiServer) -> Client {
    client(server, "admin")
}

pub(crate) fn client(server: &ApiServer, user: &str) -> Client {
    let mut config = Config::new(server.url().parse().unwrap());
    let token = server.token(user).unwrap_or_else(|| server.add_user(user, &[]));
    config.auth_info.token = Some(token.into());
    Client::try_from(config).unwrap()
}

/// Code and reason of an API error.
pub(crate) fn code(error: &kube::Error) -> (u16, String) {
    match error {
        kube::Error::Api(status) => (status.code, status.reason.clone()),
        other => panic!("no API error: {other}"),
    }
}

pub(crate) fn config_map(name: &str, text: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"text": text}})).unwrap()
}

pub(crate) fn claim(namespace: &str, name: &str, class: &str) -> PersistentVolumeClaim {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"accessModes": ["ReadWriteMany"], "storageClassName": class, "resources": {"requests": {"storage": "1Gi"}}},
    }))
    .unwrap()
}

/// A volume as a provisioner makes it for a claim.
pub(crate) fn volume_for(claim: &PersistentVolumeClaim, provisioner: &str) -> PersistentVolume {
    let uid = claim.metadata.uid.as_deref().unwrap();
    serde_json::from_value(json!({
        "metadata": {"name": format!("pvc-{uid}"), "annotations": {"pv.kubernetes.io/provisioned-by": provisioner}},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "capacity": {"storage": "1Gi"},
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": claim.spec.as_ref().and_then(|s| s.storage_class_name.clone()),
            "nfs": {"server": "server", "path": format!("/export/{uid}")},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.metadata.namespace,
                "name": claim.metadata.name, "uid": uid},
        },
    }))
    .unwrap()
}

/// How long a controller may take; far more than it needs.
pub(crate) const SOON: std::time::Duration = std::time::Duration::from_secs(20);

pub(crate) fn server() -> ApiServer {
    ApiServer::start(Options::default()).unwrap()
}

/// Makes a class of `example.com/nfs`.
pub(crate) fn class(server: &ApiServer, name: &str, more: &serde_json::Value) {
    let mut class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
        "provisioner": "example.com/nfs"});
    json_patch::merge(&mut class, more);
    server.store().create_value(class).unwrap();
}

pub(crate) async fn wait_claim(
    server: &ApiServer,
    name: &str,
    what: &str,
    wanted: impl Fn(Option<&PersistentVolumeClaim>) -> bool + Send + 'static,
) -> Option<PersistentVolumeClaim> {
    server.store().wait("default", name, SOON, what, wanted).await.unwrap()
}

pub(crate) async fn wait_volume(server: &ApiServer, name: &str, phase: &'static str) -> PersistentVolume {
    let wanted = move |v: Option<&PersistentVolume>| {
        v.and_then(|v| v.status.as_ref()).is_some_and(|s| s.phase.as_deref() == Some(phase))
    };
    server.store().wait("", name, SOON, phase, wanted).await.unwrap().unwrap()
}

pub(crate) fn phase(claim: Option<&PersistentVolumeClaim>) -> &str {
    claim.and_then(|c| c.status.as_ref()).and_then(|s| s.phase.as_deref()).unwrap_or("")
}

/// The reasons of the events about an object, in no order.
pub(crate) fn reasons(server: &ApiServer, about: &str) -> Vec<String> {
    let events: Vec<k8s_openapi::api::core::v1::Event> = server.store().list("");
    let mut reasons: Vec<String> = events
        .into_iter()
        .filter(|e| e.involved_object.name.as_deref() == Some(about))
        .filter_map(|e| e.reason)
        .collect();
    reasons.sort();
    reasons
}
