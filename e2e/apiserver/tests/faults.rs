//! What goes wrong on demand, and the record of it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failed expectation is how a test speaks, in its helpers too"
)]

mod support;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use berth_apiserver::{Fault, Kind, Match, Times};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume};
use kube::{
    Api,
    api::{ListParams, PostParams, WatchEvent, WatchParams},
    runtime::watcher,
};
use support::{admin, code, config_map, quiet};

#[tokio::test]
async fn a_code_hits_as_often_as_asked() {
    let server = quiet();
    let api: Api<ConfigMap> = Api::namespaced(admin(&server), "default");
    for status in [500, 403, 409] {
        let only = Match::verb("create").resource("configmaps").namespace("default").name("hit-*");
        let id = server.faults().inject(only, Fault::Code(status, None), Times::Count(1));
        let name = format!("hit-{status}");
        let refused = api.create(&PostParams::default(), &config_map(&name, "")).await.unwrap_err();
        assert_eq!(code(&refused).0, status);
        api.create(&PostParams::default(), &config_map(&name, "")).await.unwrap();
        api.create(&PostParams::default(), &config_map(&format!("other-{status}"), "")).await.unwrap();
        assert_eq!(server.faults().remove(id), 1);
    }
}

/// These the client tries again by itself, so the answer is looked at on the wire.
#[test]
fn a_busy_server_says_when_to_come_back() {
    let server = quiet();
    server.faults().inject(Match::verb("list"), Fault::Code(429, Some(7)), Times::Count(1));
    server.faults().inject(Match::verb("list"), Fault::Code(503, None), Times::Count(1));
    let ask = || {
        let mut stream = TcpStream::connect(server.url().trim_start_matches("http://")).unwrap();
        let token = server.token("admin").unwrap();
        write!(stream, "GET /api/v1/pods HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let busy = ask();
    assert!(busy.starts_with("HTTP/1.1 429") && busy.contains("retry-after: 7"), "{busy}");
    assert!(
        busy.contains("\"reason\":\"TooManyRequests\"") && busy.contains("\"retryAfterSeconds\":7"),
        "{busy}"
    );
    assert!(ask().starts_with("HTTP/1.1 503"));
    assert!(ask().starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_lost_answer_is_a_write_that_happened_and_a_broken_request_is_none() {
    let server = quiet();
    let api: Api<ConfigMap> = Api::namespaced(admin(&server), "default");
    let creates = Match::verb("create").resource("configmaps");
    server.faults().inject(creates.clone(), Fault::DropBefore, Times::Count(1));
    assert!(api.create(&PostParams::default(), &config_map("a", "")).await.is_err());
    assert_eq!(server.store().count(Kind::ConfigMap), 0);
    server.faults().inject(creates, Fault::DropAfter, Times::Count(1));
    assert!(api.create(&PostParams::default(), &config_map("a", "")).await.is_err());
    assert_eq!(server.store().count(Kind::ConfigMap), 1);
    let again = api.create(&PostParams::default(), &config_map("a", "")).await.unwrap_err();
    assert_eq!(code(&again), (409, "AlreadyExists".into()));
}

#[tokio::test]
async fn a_request_that_hangs_goes_on_when_the_fault_is_removed() {
    let server = quiet();
    let api: Api<ConfigMap> = Api::namespaced(admin(&server), "default");
    let id = server.faults().inject(Match::verb("list"), Fault::Hang, Times::Always);
    let waiting = tokio::spawn({
        let api = api.clone();
        async move { api.list(&ListParams::default()).await }
    });
    while server.faults().hits(id) == 0 {
        tokio::task::yield_now().await;
    }
    // Other requests are not held up by it.
    api.create(&PostParams::default(), &config_map("a", "")).await.unwrap();
    assert!(!waiting.is_finished());
    server.faults().remove(id);
    assert_eq!(waiting.await.unwrap().unwrap().items.len(), 1);
    server.faults().inject(Match::verb("get"), Fault::Delay(Duration::from_millis(50)), Times::Count(1));
    let started = Instant::now();
    api.get("a").await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(50));
}

#[tokio::test]
async fn a_restart_keeps_state_and_port() {
    let server = quiet();
    let api: Api<ConfigMap> = Api::namespaced(admin(&server), "default");
    api.create(&PostParams::default(), &config_map("a", "")).await.unwrap();
    let mut events = std::pin::pin!(watcher(api.clone(), watcher::Config::default()));
    while !matches!(events.try_next().await.unwrap(), Some(watcher::Event::InitDone)) {}
    let url = server.url();
    server.stop_listening();
    assert!(api.get("a").await.is_err());
    server.store().create(&config_map("b", "")).unwrap();
    server.listen_again().unwrap();
    assert_eq!(server.url(), url);
    api.get("a").await.unwrap();
    // The watcher resumes and sees what it missed.
    loop {
        match events.next().await.unwrap() {
            Ok(watcher::Event::Apply(map)) => {
                assert_eq!(map.metadata.name.as_deref(), Some("b"));
                break;
            }
            Ok(other) => panic!("it listed again: {other:?}"),
            Err(_) => {}
        }
    }
}

#[tokio::test]
async fn cut_watches_resume_and_expired_ones_list_again() {
    let server = quiet();
    let api: Api<ConfigMap> = Api::namespaced(admin(&server), "default");
    let made = server.store().create(&config_map("a", "")).unwrap();
    let version = made.metadata.resource_version.unwrap();
    let open = |version: String| {
        let api = api.clone();
        async move { Box::pin(api.watch(&WatchParams::default(), &version).await.unwrap()) }
    };
    let mut stream = open(version.clone()).await;
    server.cut_watches();
    assert!(stream.next().await.is_none());
    server.store().create(&config_map("b", "")).unwrap();
    let mut stream = open(version.clone()).await;
    assert!(
        matches!(stream.next().await.unwrap().unwrap(), WatchEvent::Added(m) if m.metadata.name.as_deref() == Some("b"))
    );
    server.expire_watches();
    let expired = |event: WatchEvent<ConfigMap>| matches!(event, WatchEvent::Error(status) if status.code == 410 && status.reason == "Expired");
    assert!(expired(stream.next().await.unwrap().unwrap()));
    // Who comes back with the old version is told so in the stream, as by the real server.
    assert!(expired(open(version).await.next().await.unwrap().unwrap()));
}

#[tokio::test]
async fn stale_lists_show_an_older_state_until_it_ends() {
    let server = quiet();
    let api: Api<ConfigMap> = Api::namespaced(admin(&server), "default");
    server.store().create(&config_map("a", "")).unwrap();
    server.serve_stale_lists(true);
    server.store().create(&config_map("b", "")).unwrap();
    let count = |params: ListParams| {
        let api = api.clone();
        async move { api.list(&params).await.unwrap().items.len() }
    };
    assert_eq!(count(ListParams::default().match_any()).await, 1);
    assert_eq!(count(ListParams::default()).await, 2);
    server.serve_stale_lists(false);
    assert_eq!(count(ListParams::default().match_any()).await, 2);
}

#[tokio::test]
async fn requests_are_counted_by_user_and_logged_for_one() {
    let server = quiet();
    let user = "system:serviceaccount:berth:berth";
    server.add_user(user, &["system:masters"]);
    let audit = server.audit();
    audit.log_user(user);
    let volumes: Api<PersistentVolume> = Api::all(support::client(&server, user));
    volumes.list(&ListParams::default()).await.unwrap();
    assert!(volumes.get("none").await.is_err());
    let maps: Api<ConfigMap> = Api::namespaced(support::client(&server, user), "default");
    maps.create(&PostParams::default(), &config_map("a", "")).await.unwrap();
    Api::<ConfigMap>::namespaced(admin(&server), "default").get("a").await.unwrap();
    assert_eq!((audit.reads(user), audit.writes(user)), (2, 1));
    assert_eq!(audit.count(|key| key.user == user && key.verb == "get" && key.code == 404), 1);
    let log = audit.log();
    let verbs: Vec<&str> = log.iter().map(|entry| entry.key.verb.as_str()).collect();
    assert_eq!(verbs, ["list", "get", "create"]);
    assert!(log[0].started <= log[0].answered && log[2].name == "a");
    audit.reset();
    assert_eq!(audit.count(|_| true), 0);
}
