//! Watches in their details: selectors, bookmarks, expiry, streaming lists and their refusal.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failed expectation is how a test speaks, in its helpers too"
)]

mod support;

use std::time::Duration;

use berth_apiserver::{ApiServer, Controllers, Options};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim};
use kube::{
    Api,
    api::{PartialObjectMeta, WatchEvent, WatchParams},
    runtime::watcher,
};
use serde_json::json;
use support::{admin, claim, code, config_map, quiet};

#[tokio::test]
async fn an_object_that_leaves_the_selection_is_a_deletion_for_the_watcher() {
    let server = quiet();
    let api: Api<ConfigMap> = Api::namespaced(admin(&server), "default");
    let version = server.store().version().to_string();
    let params = WatchParams::default().labels("app=a");
    let mut stream = Box::pin(api.watch(&params, &version).await.unwrap());
    let label = |value: &str| json!({"metadata": {"labels": {"app": value}}});
    server.store().create(&config_map("m", "")).unwrap();
    for value in ["a", "b"] {
        server.store().patch::<ConfigMap>("default", "m", &label(value)).unwrap();
    }
    let mut version = String::new();
    assert!(matches!(stream.try_next().await.unwrap().unwrap(), WatchEvent::Added(_)));
    if let WatchEvent::Deleted(map) = stream.try_next().await.unwrap().unwrap() {
        assert_eq!(map.metadata.labels.unwrap()["app"], "a");
        version = map.metadata.resource_version.unwrap();
    }
    let now = server.store().get::<ConfigMap>("default", "m").unwrap();
    assert_eq!(Some(version), now.metadata.resource_version);
}

#[tokio::test]
async fn bookmarks_come_and_a_watch_ends_at_its_timeout() {
    let options = Options {
        controllers: Controllers::none(),
        bookmark_interval: Duration::from_millis(20),
        ..Options::default()
    };
    let server = ApiServer::start(options).unwrap();
    let api: Api<ConfigMap> = Api::namespaced(admin(&server), "default");
    // Other kinds move the version on; the bookmark tells it.
    server.store().create(&claim("default", "c", "fast")).unwrap();
    let version = server.store().version();
    let mut stream = Box::pin(api.watch(&WatchParams::default().timeout(1), "1").await.unwrap());
    match stream.try_next().await.unwrap().unwrap() {
        WatchEvent::Bookmark(mark) => assert_eq!(mark.metadata.resource_version, version.to_string()),
        other => panic!("no bookmark: {other:?}"),
    }
    while let Some(event) = stream.try_next().await.unwrap() {
        assert!(matches!(event, WatchEvent::Bookmark(_)));
    }
}

#[tokio::test]
async fn a_history_that_moved_on_is_told_by_an_error_event() {
    let options = Options { controllers: Controllers::none(), history: 4, ..Options::default() };
    let server = ApiServer::start(options).unwrap();
    let api: Api<ConfigMap> = Api::namespaced(admin(&server), "default");
    let first = server.store().create(&config_map("m0", "")).unwrap().metadata.resource_version.unwrap();
    for i in 1..10 {
        server.store().create(&config_map(&format!("m{i}"), "")).unwrap();
    }
    let mut stream = Box::pin(api.watch(&WatchParams::default(), &first).await.unwrap());
    match stream.try_next().await.unwrap().unwrap() {
        WatchEvent::Error(status) => assert_eq!((status.code, status.reason.as_str()), (410, "Expired")),
        other => panic!("no error: {other:?}"),
    }
    assert!(stream.try_next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_server_without_streaming_lists_refuses_them_as_older_ones_do() {
    let options = Options { controllers: Controllers::none(), watch_list: false, ..Options::default() };
    let server = ApiServer::start(options).unwrap();
    let api: Api<ConfigMap> = Api::namespaced(admin(&server), "default");
    let Err(refused) = api.watch(&WatchParams::default().initial_events(), "0").await else {
        panic!("it was not refused");
    };
    assert_eq!(code(&refused), (422, "Invalid".into()));
    assert!(
        refused.to_string().contains(
            "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden for \
             watch unless the WatchList feature gate is enabled"
        ),
        "{refused}"
    );
}

#[tokio::test]
async fn metadata_alone_can_be_listed_and_watched() {
    let server = quiet();
    server.store().create(&claim("default", "c", "fast")).unwrap();
    let api: Api<PartialObjectMeta<PersistentVolumeClaim>> = Api::all(admin(&server));
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut events = std::pin::pin!(watcher(api.clone(), config));
        loop {
            let seen: watcher::Event<PartialObjectMeta<PersistentVolumeClaim>> =
                events.next().await.unwrap().unwrap();
            if let watcher::Event::InitApply(object) = seen {
                assert_eq!(object.metadata.name.as_deref(), Some("c"));
                break;
            }
        }
    }
}
