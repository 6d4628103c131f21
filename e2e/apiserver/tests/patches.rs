//! The four kinds of patch and the status subresource, through the client.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failed expectation is how a test speaks, in its helpers too"
)]

mod support;

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use support::{admin, claim, code, config_map, quiet};

#[tokio::test]
async fn finalizers_are_added_and_removed_by_strategic_and_json_patches() {
    let server = quiet();
    let api: Api<ConfigMap> = Api::namespaced(admin(&server), "default");
    api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let add = |name: &str| Patch::Strategic(json!({"metadata": {"finalizers": [name]}}));
    let params = PatchParams::default();
    api.patch("a", &params, &add("one/x")).await.unwrap();
    let both = api.patch("a", &params, &add("two/x")).await.unwrap();
    assert_eq!(both.metadata.finalizers.unwrap(), ["one/x", "two/x"]);
    let remove = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["one/x"]}});
    let one = api.patch("a", &params, &Patch::Strategic(remove)).await.unwrap();
    assert_eq!(one.metadata.finalizers.unwrap(), ["two/x"]);

    // Deletion waits for the last finalizer, and takes no new ones.
    let pending = api.delete("a", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert!(pending.metadata.deletion_timestamp.is_some());
    let refused = api.patch("a", &params, &add("three/x")).await.unwrap_err();
    assert_eq!(code(&refused), (422, "Invalid".into()));
    let wrong: json_patch::Patch = serde_json::from_value(json!([
        {"op": "test", "path": "/metadata/finalizers/0", "value": "other/x"},
        {"op": "remove", "path": "/metadata/finalizers/0"},
    ]))
    .unwrap();
    assert_eq!(code(&api.patch("a", &params, &Patch::Json::<()>(wrong)).await.unwrap_err()).0, 422);
    let right: json_patch::Patch = serde_json::from_value(json!([
        {"op": "test", "path": "/metadata/finalizers/0", "value": "two/x"},
        {"op": "remove", "path": "/metadata/finalizers/0"},
    ]))
    .unwrap();
    api.patch("a", &params, &Patch::Json::<()>(right)).await.unwrap();
    assert!(api.get_opt("a").await.unwrap().is_none());
}

#[tokio::test]
async fn a_patch_may_demand_the_version_that_it_was_made_for() {
    let server = quiet();
    let api: Api<ConfigMap> = Api::namespaced(admin(&server), "default");
    let made = api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let version = made.metadata.resource_version.unwrap();
    let patch = json!({"metadata": {"resourceVersion": version}, "data": {"text": "2"}});
    api.patch("a", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    let late = api.patch("a", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap_err();
    assert_eq!(code(&late), (409, "Conflict".into()));
}

#[tokio::test]
async fn server_side_apply_owns_fields_and_conflicts_over_those_of_others() {
    let server = quiet();
    let api: Api<ConfigMap> = Api::namespaced(admin(&server), "default");
    let config = |text: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"text": text}});
    let made = api.patch("a", &PatchParams::apply("one"), &Patch::Apply(config("1"))).await.unwrap();
    assert_eq!(made.metadata.managed_fields.unwrap()[0].manager.as_deref(), Some("one"));
    let refused = api.patch("a", &PatchParams::apply("two"), &Patch::Apply(config("2"))).await.unwrap_err();
    assert_eq!(code(&refused), (409, "Conflict".into()));
    assert!(refused.to_string().contains("conflict with \"one\": .data.text"), "{refused}");
    let forced =
        api.patch("a", &PatchParams::apply("two").force(), &Patch::Apply(config("2"))).await.unwrap();
    assert_eq!(forced.data.unwrap()["text"], "2");
    // An ordinary write takes its fields, too.
    let merge = Patch::Merge(json!({"data": {"text": "3"}}));
    api.patch("a", &PatchParams { field_manager: Some("editor".into()), ..PatchParams::default() }, &merge)
        .await
        .unwrap();
    let refused = api.patch("a", &PatchParams::apply("two"), &Patch::Apply(config("2"))).await.unwrap_err();
    assert!(refused.to_string().contains("conflict with \"editor\" using v1: .data.text"), "{refused}");
}

#[tokio::test]
async fn spec_and_status_are_written_through_different_doors() {
    let server = quiet();
    let api: Api<PersistentVolumeClaim> = Api::namespaced(admin(&server), "default");
    let mut given = claim("default", "c", "fast");
    given.status = serde_json::from_value(json!({"phase": "Bound"})).unwrap();
    let made = api.create(&PostParams::default(), &given).await.unwrap();
    assert_eq!(made.status.unwrap().phase.as_deref(), Some("Pending"));
    assert_eq!(made.spec.unwrap().volume_mode.as_deref(), Some("Filesystem"));
    let both = json!({"spec": {"volumeName": "pv"}, "status": {"phase": "Bound", "capacity": {"storage": "1024Mi"}}});
    let main = api.patch("c", &PatchParams::default(), &Patch::Merge(&both)).await.unwrap();
    assert_eq!(main.spec.as_ref().unwrap().volume_name.as_deref(), Some("pv"));
    assert_eq!(main.status.unwrap().phase.as_deref(), Some("Pending"));
    let other = json!({"spec": {"volumeName": "other"}, "status": {"phase": "Bound", "capacity": {"storage": "1024Mi"}}});
    let status = api.patch_status("c", &PatchParams::default(), &Patch::Merge(&other)).await.unwrap();
    assert_eq!(status.spec.unwrap().volume_name.as_deref(), Some("pv"));
    let status = status.status.unwrap();
    assert_eq!(status.phase.as_deref(), Some("Bound"));
    assert_eq!(status.capacity.unwrap()["storage"].0, "1Gi");
}

#[tokio::test]
async fn what_must_not_change_does_not() {
    let server = quiet();
    let volumes: Api<PersistentVolume> = Api::all(admin(&server));
    let volume: PersistentVolume = serde_json::from_value(json!({
        "metadata": {"name": "v"},
        "spec": {"accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Gi"}, "nfs": {"server": "s", "path": "/a"}},
    }))
    .unwrap();
    let made = volumes.create(&PostParams::default(), &volume).await.unwrap();
    assert_eq!(made.spec.unwrap().persistent_volume_reclaim_policy.as_deref(), Some("Retain"));
    let params = PatchParams::default();
    let moved = volumes
        .patch("v", &params, &Patch::Merge(json!({"spec": {"nfs": {"path": "/b"}}})))
        .await
        .unwrap_err();
    assert!(moved.to_string().contains("spec.persistentvolumesource is immutable after creation"), "{moved}");
    let grown = json!({"spec": {"capacity": {"storage": "2Gi"}, "persistentVolumeReclaimPolicy": "Delete"}});
    volumes.patch("v", &params, &Patch::Merge(grown)).await.unwrap();
}
