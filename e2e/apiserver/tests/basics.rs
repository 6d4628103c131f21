//! Objects through the client that the provisioner uses: create, read, write, delete, list, watch.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failed expectation is how a test speaks, in its helpers too"
)]

mod support;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::{WatchStreamExt, watcher},
};
use serde_json::json;
use support::{admin, claim, code, config_map, quiet};

#[tokio::test]
async fn an_object_is_created_read_changed_and_deleted() {
    let server = quiet();
    let api: Api<ConfigMap> = Api::namespaced(admin(&server), "default");
    let made = api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    assert!(made.metadata.uid.is_some() && made.metadata.creation_timestamp.is_some());
    let again = api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap_err();
    assert_eq!(code(&again), (409, "AlreadyExists".into()));

    let mut changed = made.clone();
    changed.data.get_or_insert_default().insert("text".into(), "2".into());
    let written = api.replace("a", &PostParams::default(), &changed).await.unwrap();
    assert_ne!(written.metadata.resource_version, made.metadata.resource_version);
    let stale = api.replace("a", &PostParams::default(), &changed).await.unwrap_err();
    assert_eq!(code(&stale), (409, "Conflict".into()));
    let same =
        api.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"text": "2"}}))).await.unwrap();
    assert_eq!(same.metadata.resource_version, written.metadata.resource_version);

    let wrong = DeleteParams {
        preconditions: Some(Preconditions { uid: Some("other".into()), resource_version: None }),
        ..DeleteParams::default()
    };
    assert_eq!(code(&api.delete("a", &wrong).await.unwrap_err()), (409, "Conflict".into()));
    api.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(code(&api.get("a").await.unwrap_err()), (404, "NotFound".into()));
}

#[tokio::test]
async fn a_watcher_sees_every_change_with_paged_and_with_streaming_lists() {
    for streaming in [false, true] {
        let server = quiet();
        let api: Api<PersistentVolumeClaim> = Api::all(admin(&server));
        for i in 0..7 {
            server.store().create(&claim("default", &format!("c{i}"), "fast")).unwrap();
        }
        let config = watcher::Config::default().page_size(3);
        let config = if streaming { config.streaming_lists() } else { config };
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        let mut initial = 0;
        loop {
            match events.try_next().await.unwrap().unwrap() {
                watcher::Event::InitApply(_) => initial += 1,
                watcher::Event::InitDone => break,
                _ => {}
            }
        }
        assert_eq!(initial, 7, "streaming: {streaming}");
        server.store().create(&claim("default", "late", "fast")).unwrap();
        server.store().delete::<PersistentVolumeClaim>("default", "late").unwrap();
        let applied = events.next().await.unwrap().unwrap();
        assert!(matches!(applied, watcher::Event::Apply(c) if c.metadata.name.as_deref() == Some("late")));
        let deleted = events.next().await.unwrap().unwrap();
        assert!(matches!(deleted, watcher::Event::Delete(c) if c.metadata.name.as_deref() == Some("late")));
    }
}

#[tokio::test]
async fn lists_come_in_pages_of_one_version() {
    let server = quiet();
    let api: Api<ConfigMap> = Api::namespaced(admin(&server), "default");
    for i in 0..10 {
        server.store().create(&config_map(&format!("m{i}"), "x")).unwrap();
    }
    let first = api.list(&ListParams::default().limit(4)).await.unwrap();
    assert_eq!(first.items.len(), 4);
    let token = first.metadata.continue_.clone().unwrap();
    server.store().create(&config_map("m00", "late")).unwrap();
    server.store().create(&config_map("m95", "late")).unwrap();
    server.store().delete::<ConfigMap>("default", "m7").unwrap();
    let rest = api.list(&ListParams::default().limit(100).continue_token(&token)).await.unwrap();
    assert_eq!(rest.items.len(), 6);
    assert_eq!(rest.metadata.resource_version, first.metadata.resource_version);
    server.compact();
    let expired = api.list(&ListParams::default().limit(4).continue_token(&token)).await.unwrap_err();
    assert_eq!(code(&expired), (410, "Expired".into()));
}
