//! The whole of `observe` as a scraper and a prober see it, over a socket.

use std::collections::BTreeSet;

use async_trait::async_trait;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    backend::{
        Backend, Capabilities, Error, Janitor, Kind, Known, KnownVolume, Removed, Restored, StoreExpectation,
        StoreStatus, Uncommitted,
    },
    volume::{
        Disposal, ExpandRequest, Expanded, InUse, Location, Permit, Placement, Removal, Source, Volume,
        VolumeId, VolumeName, VolumeRequest,
    },
};

/// A backend whose stores are what the test says, and which refuses everything.
struct Fake(Capabilities, Vec<StoreStatus>);

impl Fake {
    fn new(stores: Vec<StoreStatus>) -> Arc<Self> {
        let capabilities = Capabilities {
            name: "nfs",
            block: false,
            expand: true,
            parameters: &[],
            case_insensitive: false,
            legacy_default: Disposal::Archive,
            concurrency: 1,
        };
        Arc::new(Self(capabilities, stores))
    }
}

fn refused<T>() -> Result<T, Error> {
    Err(Error::new(Kind::Refused, "a test said no"))
}

#[async_trait]
impl Backend for Fake {
    fn capabilities(&self) -> &Capabilities {
        &self.0
    }
    fn place(&self, _: &VolumeRequest) -> Result<Placement, Error> {
        refused()
    }
    fn locate(&self, _: &Source) -> Option<Location> {
        Some(Location::new("a", "d").unwrap())
    }
    async fn create(&self, _: &VolumeRequest, _: &Permit) -> Result<Volume, Error> {
        refused()
    }
    async fn commit(&self, _: &VolumeId, _: &str, _: &Permit) -> Result<(), Error> {
        Ok(())
    }
    async fn rollback(&self, _: &Uncommitted, _: &Permit) -> Result<(), Error> {
        refused()
    }
    async fn remove(&self, _: &Removal, _: &Permit) -> Result<Removed, Error> {
        refused()
    }
    async fn restore(&self, _: &Removal, _: &Permit) -> Result<Restored, Error> {
        refused()
    }
    async fn expand(&self, _: &ExpandRequest, _: &Permit) -> Result<Expanded, Error> {
        refused()
    }
}

#[async_trait]
impl Janitor for Fake {
    async fn unregistered(&self, _: &str, _: &[KnownVolume]) -> Result<Vec<VolumeName>, Error> {
        refused()
    }
    async fn register(&self, _: &InUse, _: &Permit) -> Result<(), Error> {
        refused()
    }
    async fn list_uncommitted(&self, _: &str, _: Known<'_>) -> Result<Vec<Uncommitted>, Error> {
        refused()
    }
    async fn collect_garbage(&self, _: &Permit) {}
}

impl Stores for Fake {
    fn expect_store(&self, _: StoreExpectation) {}
    fn stores(&self) -> Vec<StoreStatus> {
        self.1.clone()
    }
}

fn store(name: &str, ready: Result<(), &str>) -> StoreStatus {
    StoreStatus {
        name: name.into(),
        ready: ready.map_err(String::from),
        problems: Vec::new(),
        running: 2,
        oldest: Some(("mkdir a-b-c".into(), Duration::from_secs(7))),
        trash: 3,
        stuck: vec![("x".into(), "permission denied".into())],
        purged: 41,
    }
}

/// Everything recorded once.
pub(crate) async fn full() -> Metrics {
    let metrics = Metrics::new();
    metrics.class_exists("managed-nfs-storage");
    metrics.provisioned("managed-nfs-storage", "", Duration::from_millis(20));
    metrics.provision_failed("managed-nfs-storage", "");
    metrics.deleted("managed-nfs-storage", Duration::from_millis(300));
    metrics.delete_failed("managed-nfs-storage");
    metrics.api_request("create", "persistentvolumes", 201);
    metrics.refused("delete");
    metrics.swept("a");
    metrics.committed("a");
    metrics.leadership(Leadership::Leading);
    metrics.synced(true);
    metrics.heartbeat();
    let since = Instant::now();
    metrics.watch_clock(|| Some(-2));
    metrics.watch_queue("claims", move || QueueDepth {
        ready: 5,
        waiting: 4,
        in_flight: 3,
        oldest: Some(since),
    });
    metrics.watch_events(|| EventCounts { pending: 1, created: 2, repeated: 3, suppressed: 4, dropped: 5 });
    metrics.rights_missing(vec!["patch persistentvolumes".into()]);
    let backend = Fake::new(vec![store("a", Ok(())), store("b", Err("/exports/b is not mounted"))]);
    let metered = Metered::new(backend.clone(), metrics.clone());
    let id = VolumeId::new("nfs", "a", "pvc-1".parse().unwrap()).unwrap();
    metered.commit(&id, "uid", &Permit::unlimited()).await.unwrap();
    metrics.watch_stores(vec![("nfs", backend)]);
    metrics
}

/// A process with a store and a class to which nothing has happened.
pub(crate) fn unused() -> Metrics {
    let metrics = Metrics::new();
    metrics.watch_stores(vec![(
        "nfs",
        Fake::new(vec![StoreStatus {
            name: "a".into(),
            ready: Ok(()),
            running: 0,
            oldest: None,
            trash: 0,
            stuck: Vec::new(),
            problems: Vec::new(),
            purged: 0,
        }]),
    )]);
    metrics.class_exists("managed-nfs-storage");
    metrics
}

/// Whoever may make a claim could write names of classes into it that became series for ever.
#[test]
fn claims_that_invent_names_of_classes_add_one_series_and_no_more() {
    let metrics = Metrics::new();
    metrics.class_exists("nfs");
    let record = |class: &str| {
        metrics.provision_failed(class, "other");
        metrics.provisioned(class, "", Duration::from_millis(1));
        metrics.deleted(class, Duration::from_millis(1));
        metrics.delete_failed(class);
    };
    record("nfs");
    record("invented");
    let before = metrics.text().lines().count();
    for number in 0..5000 {
        record(&format!("invented-{number}-{}", "x".repeat(200)));
    }
    let text = metrics.text();
    assert_eq!(text.lines().count(), before);
    assert!(!text.contains("invented"), "{text}");
    assert!(text.contains(
        "controller_persistentvolumeclaim_provision_failed_total{class=\"\",source=\"other\"} 5001"
    ));
    metrics.class_gone("nfs");
    record("nfs");
    assert_eq!(metrics.text().lines().count(), before, "what was counted under a class that is gone stays");
    metrics.only_classes(["fast".to_owned()].into_iter());
    record("fast");
    assert!(metrics.text().contains("class=\"fast\""));
}

/// Status line, headers and body of one answer.
async fn fetch(address: std::net::SocketAddr, path: &str, headers: &str) -> (String, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let (status, headers) = head.split_once("\r\n").unwrap();
    (status.to_owned(), headers.to_ascii_lowercase(), body.to_owned())
}

/// The metrics with their types and labels, without values.
fn names(text: &str) -> String {
    let mut names = BTreeSet::new();
    for line in text.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            names.insert(typed.replacen(' ', ": ", 1));
        } else if !line.starts_with('#') {
            let sample = line.rsplit_once(' ').unwrap().0;
            names.insert(format!("  {sample}"));
        }
    }
    names.into_iter().collect::<Vec<_>>().join("\n")
}

/// Proves: case 56
#[tokio::test]
async fn the_names_and_labels_of_all_metrics_stay() {
    insta::assert_snapshot!("metrics", names(&full().await.text()).replace(crate::VERSION, "VERSION"));
}

#[tokio::test]
async fn the_go_librarys_metrics_are_scraped_as_the_go_library_writes_them() {
    let text = full().await.text();
    for line in [
        "# TYPE controller_persistentvolumeclaim_provision_total counter\n",
        "controller_persistentvolumeclaim_provision_total{class=\"managed-nfs-storage\",source=\"\"} 1\n",
        "controller_persistentvolumeclaim_provision_failed_total{class=\"managed-nfs-storage\",source=\"\"} 1\n",
        "# TYPE controller_persistentvolumeclaim_provision_duration_seconds histogram\n",
        "provision_duration_seconds_bucket{le=\"0.025\",class=\"managed-nfs-storage\",source=\"\"} 1\n",
        "provision_duration_seconds_bucket{le=\"1\",class=\"managed-nfs-storage\",source=\"\"} 1\n",
        "provision_duration_seconds_count{class=\"managed-nfs-storage\",source=\"\"} 1\n",
        "controller_persistentvolume_delete_total{class=\"managed-nfs-storage\"} 1\n",
        "controller_persistentvolume_delete_failed_total{class=\"managed-nfs-storage\"} 1\n",
        "controller_persistentvolume_delete_duration_seconds_bucket{le=\"0.25\",class=\"managed-nfs-storage\"} 0\n",
        "controller_persistentvolume_delete_duration_seconds_bucket{le=\"0.5\",class=\"managed-nfs-storage\"} 1\n",
    ] {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
}

#[tokio::test]
async fn what_a_class_does_and_what_is_refused_is_counted_from_zero() {
    let text = unused().text();
    for line in [
        "controller_persistentvolumeclaim_provision_total{class=\"managed-nfs-storage\",source=\"\"} 0\n",
        "controller_persistentvolumeclaim_provision_failed_total{class=\"managed-nfs-storage\",source=\"\"} 0\n",
        "controller_persistentvolume_delete_total{class=\"managed-nfs-storage\"} 0\n",
        "controller_persistentvolume_delete_failed_total{class=\"managed-nfs-storage\"} 0\n",
        "berth_refused_total{operation=\"provision\"} 0\n",
        "berth_refused_total{operation=\"delete\"} 0\n",
        "berth_refused_total{operation=\"expand\"} 0\n",
        "berth_refused_total{operation=\"sweep\"} 0\n",
    ] {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
}

/// Proves: statement 18
#[tokio::test]
async fn probes_and_metrics_are_served_and_end_with_the_process() {
    let metrics = full().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let server = tokio::spawn(serve(listener, metrics.clone(), stop.clone()));

    let (status, _, body) = fetch(address, "/livez", "").await;
    assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 200 OK", "ok\n"));

    let (status, _, body) = fetch(address, "/readyz?verbose", "").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(body.contains("[!]store nfs/b: /exports/b is not mounted\n"), "{body}");
    assert!(body.contains("[+]store nfs/a\n"), "{body}");

    metrics.watch_stores(vec![("nfs", Fake::new(vec![store("b", Err("/exports/b is not mounted"))]))]);
    let (status, _, body) = fetch(address, "/readyz", "").await;
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert!(body.contains("[-]store nfs/b: /exports/b is not mounted\n"), "{body}");

    let (_, headers, body) = fetch(address, "/metrics", "Accept: text/plain;version=0.0.4\r\n").await;
    assert!(headers.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{headers}");
    assert!(body.contains("berth_store_ready{backend=\"nfs\",store=\"b\"} 0.0\n"), "{body}");
    let (_, headers, body) = fetch(address, "/metrics", "Accept: application/openmetrics-text\r\n").await;
    assert!(headers.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(body.contains("# EOF"), "{body}");

    stop.cancel();
    server.await.unwrap().unwrap();
}

/// A client that has begun a request and does not finish it.
async fn unfinished_request(address: std::net::SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: te").await.unwrap();
    stream
}

/// Whether the server has given up the connection.
async fn given_up(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    match tokio::time::timeout(Duration::from_millis(1), stream.read(&mut byte)).await {
        Ok(read) => !matches!(read, Ok(1..)),
        Err(_) => false,
    }
}

#[tokio::test]
async fn unfinished_requests_neither_stop_the_probes_nor_use_up_descriptors() {
    const CLIENTS: usize = 1100;
    // Both ends of every connection are in this process.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most.min(4096), most).unwrap();
    let listener = listen(Address::At("127.0.0.1:0".parse().unwrap())).unwrap();
    let address = listener.local_addr().unwrap();
    // Time ends none of them: what is given up is given up for the sake of others.
    let limits = server::Limits::with_head_time(Duration::from_hours(1));
    let server = tokio::spawn(server::serve_within(limits, listener, full().await, CancellationToken::new()));

    let mut clients = Vec::new();
    for number in 1..=CLIENTS {
        clients.push(unfinished_request(address).await);
        if number % 100 == 0 {
            let probe = tokio::time::timeout(Duration::from_mins(1), fetch(address, "/livez", "")).await;
            let (status, _, body) = probe.unwrap_or_else(|_| panic!("no answer beside {number}"));
            assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 200 OK", "ok\n"), "beside {number}");
        }
    }
    let mut open = CLIENTS;
    // What was given up may be on its way for a moment.
    while open > server::MOST_CONNECTIONS {
        open = 0;
        for client in &mut clients {
            open += usize::from(!given_up(client).await);
        }
    }
    assert!(open > 0, "the limit is reached by closing what is too much, not everything");
    assert!(!server.is_finished());
    server.abort();
}

#[tokio::test]
async fn a_request_that_is_not_finished_in_time_is_given_up() {
    let listener = listen(Address::At("127.0.0.1:0".parse().unwrap())).unwrap();
    let address = listener.local_addr().unwrap();
    let limits = server::Limits::with_head_time(Duration::from_millis(20));
    let server = tokio::spawn(server::serve_within(limits, listener, full().await, CancellationToken::new()));
    let mut client = unfinished_request(address).await;
    // Ends only when the server closes the connection.
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer).await;
    server.abort();
}

#[tokio::test]
async fn an_endless_head_of_a_request_is_refused() {
    let listener = listen(Address::At("127.0.0.1:0".parse().unwrap())).unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, full().await, CancellationToken::new()));
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    let line = format!("X-Filler: {}\r\n", "x".repeat(1000));
    let mut sent = 0;
    while sent < 1_000_000 && client.write_all(line.as_bytes()).await.is_ok() {
        sent += line.len();
    }
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    server.abort();
}

#[test]
fn the_series_of_a_store_that_is_forgotten_end() {
    let metrics = Metrics::new();
    for store in ["main", "mon-1"] {
        metrics.backend_operation("rbd", store, "create", "ok".into(), Duration::from_secs(1));
        metrics.backend_operation("nfs", store, "create", "ok".into(), Duration::from_secs(1));
        metrics.swept(store);
    }
    metrics.retain_stores("rbd", |store| store == "main");
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &metrics.0.registry).unwrap();
    assert!(
        text.contains("backend=\"rbd\",store=\"main\"")
            && text.contains("swept_volumes_total{store=\"main\"}")
    );
    assert!(
        !text.contains("backend=\"rbd\",store=\"mon-1\"")
            && !text.contains("swept_volumes_total{store=\"mon-1\"}")
    );
    assert!(text.contains("backend=\"nfs\",store=\"mon-1\""), "another backend\'s");
}
