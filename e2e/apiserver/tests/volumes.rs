//! The life of claims and volumes between the stand-ins of the control plane.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failed expectation is how a test speaks, in its helpers too"
)]

mod support;

use k8s_openapi::api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim, Pod};
use serde_json::json;
use support::{SOON, claim, class, phase, reasons, server, volume_for, wait_claim, wait_volume};

fn annotation(claim: Option<&PersistentVolumeClaim>, key: &str) -> Option<String> {
    claim?.metadata.annotations.as_ref()?.get(key).cloned()
}

const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

#[tokio::test]
async fn a_claim_is_handed_over_bound_and_its_volume_released() {
    let server = server();
    let store = server.store();
    class(&server, "fast", &json!({}));
    store.create(&claim("default", "c", "fast")).unwrap();
    let asked =
        wait_claim(&server, "c", "handed over", |c| annotation(c, PROVISIONER).is_some()).await.unwrap();
    assert_eq!(
        annotation(Some(&asked), "volume.beta.kubernetes.io/storage-provisioner").unwrap(),
        "example.com/nfs"
    );
    assert_eq!(asked.metadata.finalizers.as_deref(), Some(&["kubernetes.io/pvc-protection".to_owned()][..]));
    let volume = store.create(&volume_for(&asked, "example.com/nfs")).unwrap();
    let name = volume.metadata.name.unwrap();
    let bound = wait_claim(&server, "c", "bound", |c| phase(c) == "Bound").await.unwrap();
    assert_eq!(bound.spec.as_ref().unwrap().volume_name.as_ref(), Some(&name));
    assert_eq!(annotation(Some(&bound), "pv.kubernetes.io/bind-completed").as_deref(), Some("yes"));
    let status = bound.status.unwrap();
    assert_eq!(status.capacity.unwrap()["storage"].0, "1Gi");
    assert_eq!(status.access_modes.unwrap(), ["ReadWriteMany"]);
    wait_volume(&server, &name, "Bound").await;
    assert_eq!(reasons(&server, "c"), ["ExternalProvisioning"]);

    // A volume that is deleted while it is bound stays until its claim is gone.
    store.delete::<PersistentVolume>("", &name).unwrap();
    assert!(store.get::<PersistentVolume>("", &name).unwrap().metadata.deletion_timestamp.is_some());
    store.delete::<PersistentVolumeClaim>("default", "c").unwrap();
    wait_claim(&server, "c", "gone", |c| c.is_none()).await;
    store.wait("", &name, SOON, "gone", |v: Option<&PersistentVolume>| v.is_none()).await.unwrap();
}

#[tokio::test]
async fn a_released_volume_is_left_to_its_provisioner_and_one_without_fails() {
    let server = server();
    let store = server.store();
    class(&server, "fast", &json!({}));
    for (name, provisioned, csi, expected) in [
        ("ours", true, false, "Released"),
        ("nobodys", false, false, "Failed"),
        ("a-drivers", false, true, "Released"),
    ] {
        let made = store.create(&claim("default", name, "fast")).unwrap();
        let mut volume = volume_for(&made, "example.com/nfs");
        if !provisioned {
            volume.metadata.annotations = None;
        }
        if csi {
            let spec = volume.spec.as_mut().unwrap();
            spec.nfs = None;
            spec.csi =
                serde_json::from_value(json!({"driver": "csi.example.com", "volumeHandle": "x"})).unwrap();
        }
        let volume = store.create(&volume).unwrap().metadata.name.unwrap();
        wait_volume(&server, &volume, "Bound").await;
        store.delete::<PersistentVolumeClaim>("default", name).unwrap();
        wait_volume(&server, &volume, expected).await;
        let told = move |e: &Event| e.reason.as_deref() == Some("VolumeFailedDelete");
        if expected == "Failed" {
            while !store.list::<Event>("default").iter().any(told) {
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test]
async fn a_claim_takes_the_smallest_volume_that_suits_it() {
    let server = server();
    let store = server.store();
    for (name, size) in [("small", "512Mi"), ("big", "5Gi"), ("fit", "2Gi")] {
        store
            .create_value(json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
                "spec": {"accessModes": ["ReadWriteMany"], "capacity": {"storage": size}, "storageClassName": "manual",
                    "nfs": {"server": "s", "path": "/x"}}}))
            .unwrap();
        wait_volume(&server, name, "Available").await;
    }
    store.create(&claim("default", "c", "manual")).unwrap();
    let bound = wait_claim(&server, "c", "bound", |c| phase(c) == "Bound").await.unwrap();
    assert_eq!(bound.spec.unwrap().volume_name.as_deref(), Some("fit"));
    let volume = wait_volume(&server, "fit", "Bound").await;
    assert_eq!(volume.metadata.annotations.unwrap()["pv.kubernetes.io/bound-by-controller"], "yes");
    // A second claim does not get the volume of the first.
    store.create(&claim("default", "d", "manual")).unwrap();
    let second = wait_claim(&server, "d", "bound", |c| phase(c) == "Bound").await.unwrap();
    assert_eq!(second.spec.unwrap().volume_name.as_deref(), Some("big"));
}

#[tokio::test]
async fn a_volume_for_an_earlier_claim_of_that_name_is_not_bound_to_the_new_one() {
    let server = server();
    let store = server.store();
    class(&server, "fast", &json!({}));
    let old = store.create(&claim("default", "c", "fast")).unwrap();
    store.delete::<PersistentVolumeClaim>("default", "c").unwrap();
    wait_claim(&server, "c", "gone", |c| c.is_none()).await;
    store.create(&claim("default", "c", "fast")).unwrap();
    let late = store.create(&volume_for(&old, "example.com/nfs")).unwrap();
    wait_volume(&server, late.metadata.name.as_deref().unwrap(), "Released").await;
    assert_eq!(phase(store.get("default", "c").as_ref()), "Pending");
}

#[tokio::test]
async fn a_claim_whose_volume_vanishes_is_lost() {
    let server = server();
    let store = server.store();
    class(&server, "fast", &json!({}));
    let made = store.create(&claim("default", "c", "fast")).unwrap();
    let volume = store.create(&volume_for(&made, "example.com/nfs")).unwrap().metadata.name.unwrap();
    wait_claim(&server, "c", "bound", |c| phase(c) == "Bound").await;
    wait_volume(&server, &volume, "Bound").await;
    store.patch::<PersistentVolume>("", &volume, &json!({"metadata": {"finalizers": null}})).unwrap();
    store.delete::<PersistentVolume>("", &volume).unwrap();
    wait_claim(&server, "c", "lost", |c| phase(c) == "Lost").await;
}

fn pod(name: &str, claim: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}})
}

fn running(pod: Option<&Pod>) -> bool {
    pod.and_then(|p| p.status.as_ref()).is_some_and(|s| s.phase.as_deref() == Some("Running"))
}

#[tokio::test]
async fn a_late_binding_claim_waits_for_a_pod_and_gets_a_node_again_when_it_is_taken_away() {
    let server = server();
    let store = server.store();
    class(&server, "late", &json!({"volumeBindingMode": "WaitForFirstConsumer"}));
    store.create(&claim("default", "c", "late")).unwrap();
    while reasons(&server, "c") != ["WaitForFirstConsumer"] {
        tokio::task::yield_now().await;
    }
    assert_eq!(annotation(store.get("default", "c").as_ref(), PROVISIONER), None);
    store.create_value(pod("p", "c")).unwrap();
    let chosen =
        |c: Option<&PersistentVolumeClaim>| annotation(c, SELECTED_NODE).as_deref() == Some("node-1");
    wait_claim(&server, "c", "given a node", chosen).await;
    wait_claim(&server, "c", "handed over", |c| annotation(c, PROVISIONER).is_some()).await;
    let before = store.get::<PersistentVolumeClaim>("default", "c").unwrap().metadata.resource_version;
    store
        .patch::<PersistentVolumeClaim>(
            "default",
            "c",
            &json!({"metadata": {"annotations": {SELECTED_NODE: null}}}),
        )
        .unwrap();
    let again =
        move |c: Option<&PersistentVolumeClaim>| chosen(c) && c.unwrap().metadata.resource_version != before;
    let asked = wait_claim(&server, "c", "given a node again", again).await.unwrap();
    store.create(&volume_for(&asked, "example.com/nfs")).unwrap();
    store.wait("default", "p", SOON, "running", running).await.unwrap();

    // The claim that a pod uses stays until the pod is gone.
    store.delete::<PersistentVolumeClaim>("default", "c").unwrap();
    assert!(store.get::<PersistentVolumeClaim>("default", "c").is_some());
    store.delete::<Pod>("default", "p").unwrap();
    wait_claim(&server, "c", "gone", |c| c.is_none()).await;
}

#[tokio::test]
async fn a_bound_claim_grows_only_where_its_class_allows_it() {
    let server = server();
    let store = server.store();
    class(&server, "fixed", &json!({}));
    class(&server, "elastic", &json!({"allowVolumeExpansion": true}));
    let bigger = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    for (name, code) in [("fixed", 403), ("elastic", 0)] {
        let made = store.create(&claim("default", name, name)).unwrap();
        let early = store.patch::<PersistentVolumeClaim>("default", name, &bigger).unwrap_err();
        assert_eq!(early.code, 403, "{early}");
        store.create(&volume_for(&made, "example.com/nfs")).unwrap();
        wait_claim(&server, name, "bound", |c| phase(c) == "Bound").await;
        let outcome = store.patch::<PersistentVolumeClaim>("default", name, &bigger);
        assert_eq!(outcome.err().map_or(0, |status| status.code), code, "{name}");
    }
    // What the binder wrote once it does not write again.
    let grown = json!({"status": {"capacity": {"storage": "2Gi"}}});
    store.patch_status::<PersistentVolumeClaim>("default", "elastic", &grown).unwrap();
    store
        .patch::<PersistentVolumeClaim>("default", "elastic", &json!({"metadata": {"labels": {"a": "b"}}}))
        .unwrap();
    let claim: PersistentVolumeClaim = store.get("default", "elastic").unwrap();
    assert_eq!(claim.status.unwrap().capacity.unwrap()["storage"].0, "2Gi");
}

#[tokio::test]
async fn a_claim_without_class_gets_the_newest_default_also_one_that_comes_later() {
    let server = server();
    let store = server.store();
    let mut bare = claim("default", "early", "x");
    bare.spec.as_mut().unwrap().storage_class_name = None;
    store.create(&bare).unwrap();
    let mark = json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}});
    class(&server, "standard", &mark);
    let class_of =
        |c: Option<&PersistentVolumeClaim>| c.and_then(|c| c.spec.clone()).and_then(|s| s.storage_class_name);
    wait_claim(&server, "early", "given a class", move |c| class_of(c).as_deref() == Some("standard")).await;
    bare.metadata.name = Some("later".into());
    assert_eq!(class_of(Some(&store.create(&bare).unwrap())).as_deref(), Some("standard"));
    bare.metadata.name = Some("none".into());
    bare.spec.as_mut().unwrap().storage_class_name = Some(String::new());
    assert_eq!(class_of(Some(&store.create(&bare).unwrap())).as_deref(), Some(""));
}
