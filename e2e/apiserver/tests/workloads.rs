//! `StatefulSet`s, owners and namespaces.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failed expectation is how a test speaks, in its helpers too"
)]

mod support;

use berth_apiserver::{ApiServer, Kind};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Namespace, PersistentVolumeClaim, Pod},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PropagationPolicy},
};
use serde_json::{Value, json};
use support::{SOON, admin, class, config_map, server, volume_for};

fn set(retention: &Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": {
        "replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
        "persistentVolumeClaimRetentionPolicy": retention,
        "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "i",
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteMany"],
            "storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}}],
    }})
}

/// Provides a volume for each claim until the set is ready.
async fn provide(server: &ApiServer, replicas: i32) {
    let store = server.store();
    for ordinal in 0..replicas {
        let name = format!("data-db-{ordinal}");
        let made = store
            .wait("default", &name, SOON, "made", |c: Option<&PersistentVolumeClaim>| c.is_some())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(made.metadata.labels.as_ref().unwrap()["app"], "db");
        if made.spec.as_ref().unwrap().volume_name.is_none() {
            store.create(&volume_for(&made, "example.com/nfs")).unwrap();
        }
    }
    ready(server, replicas).await;
}

async fn ready(server: &ApiServer, replicas: i32) {
    let wanted = move |set: Option<&StatefulSet>| {
        set.and_then(|s| s.status.as_ref())
            .is_some_and(|s| s.ready_replicas == Some(replicas) && s.replicas == replicas)
    };
    server.store().wait("default", "db", SOON, "ready", wanted).await.unwrap();
}

async fn gone<K>(server: &ApiServer, name: &str)
where
    K: k8s_openapi::Resource + serde::de::DeserializeOwned + Send + 'static,
{
    server.store().wait("default", name, SOON, "gone", |object: Option<&K>| object.is_none()).await.unwrap();
}

#[tokio::test]
async fn a_set_makes_claims_and_pods_in_order_and_keeps_the_claims_when_it_shrinks() {
    let server = server();
    let store = server.store();
    class(&server, "fast", &json!({}));
    store.create_value(set(&json!({}))).unwrap();
    let first = |c: Option<&PersistentVolumeClaim>| c.is_some();
    store.wait("default", "data-db-0", SOON, "made", first).await.unwrap();
    assert_eq!(store.count(Kind::Pod), 1, "the second pod waits for the first");
    provide(&server, 3).await;
    let scale = Patch::Merge(json!({"spec": {"replicas": 1}}));
    let sets: Api<StatefulSet> = Api::namespaced(admin(&server), "default");
    sets.patch_scale("db", &PatchParams::default(), &scale).await.unwrap();
    gone::<Pod>(&server, "db-1").await;
    ready(&server, 1).await;
    assert_eq!(store.count(Kind::PersistentVolumeClaim), 3);
    sets.patch("db", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 2}}))).await.unwrap();
    ready(&server, 2).await;
    store.delete::<StatefulSet>("default", "db").unwrap();
    gone::<Pod>(&server, "db-0").await;
    assert_eq!(store.count(Kind::PersistentVolumeClaim), 3);
}

#[tokio::test]
async fn a_set_may_have_its_claims_deleted_with_it_and_with_its_pods() {
    let server = server();
    let store = server.store();
    class(&server, "fast", &json!({}));
    store.create_value(set(&json!({"whenDeleted": "Delete", "whenScaled": "Delete"}))).unwrap();
    provide(&server, 3).await;
    store.patch::<StatefulSet>("default", "db", &json!({"spec": {"replicas": 2}})).unwrap();
    gone::<PersistentVolumeClaim>(&server, "data-db-2").await;
    assert_eq!(store.count(Kind::PersistentVolumeClaim), 2);
    store.delete::<StatefulSet>("default", "db").unwrap();
    gone::<PersistentVolumeClaim>(&server, "data-db-0").await;
    gone::<PersistentVolumeClaim>(&server, "data-db-1").await;
}

fn owned(name: &str, owner: &ConfigMap) -> ConfigMap {
    let mut map = config_map(name, "");
    map.metadata.owner_references = serde_json::from_value(json!([{"apiVersion": "v1", "kind": "ConfigMap",
        "name": owner.metadata.name, "uid": owner.metadata.uid, "blockOwnerDeletion": true}]))
    .unwrap();
    map
}

#[tokio::test]
async fn what_has_lost_its_owners_goes_by_the_policy_of_the_deletion() {
    let server = server();
    let store = server.store();
    let api: Api<ConfigMap> = Api::namespaced(admin(&server), "default");
    for (policy, kept) in [
        (PropagationPolicy::Background, false),
        (PropagationPolicy::Foreground, false),
        (PropagationPolicy::Orphan, true),
    ] {
        let owner = store.create(&config_map("owner", "")).unwrap();
        store.create(&owned("child", &owner)).unwrap();
        let params = DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };
        api.delete("owner", &params).await.unwrap();
        gone::<ConfigMap>(&server, "owner").await;
        if kept {
            let child: ConfigMap = store.get("default", "child").unwrap();
            assert_eq!(child.metadata.owner_references.unwrap_or_default(), []);
        } else {
            gone::<ConfigMap>(&server, "child").await;
        }
    }
    // An owner of another UID is no owner.
    let mut other = store.create(&config_map("owner", "")).unwrap();
    other.metadata.uid = Some("gone".into());
    store.create(&owned("late", &other)).unwrap();
    gone::<ConfigMap>(&server, "late").await;
}

#[tokio::test]
async fn a_namespace_is_emptied_takes_nothing_new_and_goes() {
    let server = server();
    let store = server.store();
    store.create_value(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}})).unwrap();
    let mut held = config_map("held", "");
    held.metadata.namespace = Some("n".into());
    held.metadata.finalizers = Some(vec!["a/b".into()]);
    store.create(&held).unwrap();
    held.metadata.name = Some("free".into());
    held.metadata.finalizers = None;
    store.create(&held).unwrap();
    store.delete::<Namespace>("", "n").unwrap();
    store.wait("n", "free", SOON, "gone", |m: Option<&ConfigMap>| m.is_none()).await.unwrap();
    held.metadata.name = Some("new".into());
    let refused = store.create(&held).unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (403, "Forbidden"));
    assert_eq!(refused.details["causes"][0]["reason"], "NamespaceTerminating");
    store.patch::<ConfigMap>("n", "held", &json!({"metadata": {"finalizers": null}})).unwrap();
    store.wait("", "n", SOON, "gone", |n: Option<&Namespace>| n.is_none()).await.unwrap();
    assert_eq!(store.create(&held).unwrap_err().code, 404);
}
