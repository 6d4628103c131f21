//! What the tests of this crate share: clients and small objects.
#![allow(dead_code, reason = "each test file uses its own part")]

use berth_apiserver::{ApiServer, Controllers, Options};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim};
use kube::{Client, Config};
use serde_json::json;

/// A server without controllers.
pub fn quiet() -> ApiServer {
    ApiServer::start(Options { controllers: Controllers::none(), ..Options::default() }).unwrap()
}

pub fn admin(server: &ApiServer) -> Client {
    client(server, "admin")
}

pub fn client(server: &ApiServer, user: &str) -> Client {
    let mut config = Config::new(server.url().parse().unwrap());
    let token = server.token(user).unwrap_or_else(|| server.add_user(user, &[]));
    config.auth_info.token = Some(token.into());
    Client::try_from(config).unwrap()
}

/// Code and reason of an API error.
pub fn code(error: &kube::Error) -> (u16, String) {
    match error {
        kube::Error::Api(status) => (status.code, status.reason.clone()),
        other => panic!("no API error: {other}"),
    }
}

pub fn config_map(name: &str, text: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"text": text}})).unwrap()
}

pub fn claim(namespace: &str, name: &str, class: &str) -> PersistentVolumeClaim {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"accessModes": ["ReadWriteMany"], "storageClassName": class, "resources": {"requests": {"storage": "1Gi"}}},
    }))
    .unwrap()
}

/// A volume as a provisioner makes it for a claim.
pub fn volume_for(claim: &PersistentVolumeClaim, provisioner: &str) -> PersistentVolume {
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
