//! Measures the server at scale: `cargo run --release -p berth-apiserver --example scale -- [CLAIMS]`.
//!
//! Prints, for a small and for the full number of claims and volumes: memory, the time of a whole list, of a paged
//! list, of one creation over HTTP, and how long the binder takes for all of them.

use std::time::{Duration, Instant};

use berth_apiserver::{ApiServer, Controllers, Kind, Options};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{
    Api, Client, Config,
    api::{ListParams, PostParams},
};
use serde_json::json;

type Failure = Box<dyn std::error::Error>;

fn claim(number: usize) -> Result<PersistentVolumeClaim, serde_json::Error> {
    serde_json::from_value(json!({
        "metadata": {
            "name": format!("claim-{number:06}"),
            "namespace": "default",
            "uid": format!("00000000-0000-4000-8000-{number:012}"),
            "finalizers": ["kubernetes.io/pvc-protection"],
            "annotations": {
                "volume.kubernetes.io/storage-provisioner": "example.com/nfs",
                "volume.beta.kubernetes.io/storage-provisioner": "example.com/nfs",
            },
        },
        "spec": {"accessModes": ["ReadWriteMany"], "storageClassName": "fast", "volumeMode": "Filesystem",
            "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"},
    }))
}

fn volume(number: usize) -> Result<PersistentVolume, serde_json::Error> {
    let uid = format!("00000000-0000-4000-8000-{number:012}");
    serde_json::from_value(json!({
        "metadata": {
            "name": format!("pvc-{uid}"),
            "finalizers": ["kubernetes.io/pv-protection"],
            "annotations": {"pv.kubernetes.io/provisioned-by": "example.com/nfs"},
        },
        "spec": {"accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Gi"}, "storageClassName": "fast",
            "persistentVolumeReclaimPolicy": "Delete", "volumeMode": "Filesystem",
            "nfs": {"server": "nfs.example.com", "path": format!("/export/default-claim-{number:06}-pvc-{uid}")},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "default",
                "name": format!("claim-{number:06}"), "uid": uid}},
        "status": {"phase": "Pending"},
    }))
}

fn resident_mib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages * 4096 / (1024 * 1024)
}

fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

async fn measure(count: usize) -> Result<(), Failure> {
    let before = resident_mib();
    let mut controllers = Controllers::none();
    controllers.binder = true;
    controllers.protection = true;
    let server = ApiServer::start(Options { controllers, ..Options::default() })?;
    let store = server.store();
    let started = Instant::now();
    for number in 0..count {
        store.insert_all([claim(number)?])?;
    }
    let inserted = started.elapsed();
    let mut config = Config::new(server.url().parse()?);
    config.auth_info.token = Some(server.add_user("admin", &["system:masters"]).into());
    let client = Client::try_from(config)?;
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let all_claims: Api<PersistentVolumeClaim> = Api::all(client);

    let (started, used) = (Instant::now(), cpu());
    let mut next = 0;
    let mut tasks = tokio::task::JoinSet::new();
    while next < count || !tasks.is_empty() {
        while next < count && tasks.len() < 16 {
            let (api, body) = (volumes.clone(), volume(next)?);
            tasks.spawn(async move { api.create(&PostParams::default(), &body).await.map(drop) });
            next += 1;
        }
        if let Some(done) = tasks.join_next().await {
            done??;
        }
    }
    let created = started.elapsed();
    while store
        .get::<PersistentVolumeClaim>("default", &format!("claim-{:06}", count - 1))
        .and_then(|c| c.status)
        .is_none_or(|s| s.phase.as_deref() != Some("Bound"))
    {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let bound = started.elapsed();
    // The binder looks at each pair a last time; when that is done the server is idle.
    loop {
        let before = cpu();
        tokio::time::sleep(Duration::from_millis(200)).await;
        if cpu().saturating_sub(before) < Duration::from_millis(20) {
            break;
        }
    }
    let bound_cpu = cpu().saturating_sub(used);
    let full = resident_mib();

    let started = Instant::now();
    let whole = all_claims.list_metadata(&ListParams::default()).await?.items.len();
    let listed = started.elapsed();
    let started = Instant::now();
    let (mut token, mut paged) = (None::<String>, 0);
    loop {
        let mut params = ListParams::default().limit(500);
        params.continue_token = token;
        let page = all_claims.list(&params).await?;
        paged += page.items.len();
        token = page.metadata.continue_.filter(|t| !t.is_empty());
        if token.is_none() {
            break;
        }
    }
    let paged_in = started.elapsed();
    println!(
        "{count:>7} claims+volumes: {} MiB more, insert {inserted:?}, create all volumes {created:?} ({:?} each), last \
         bound {bound:?}, cpu {bound_cpu:?} ({:?} each), metadata list of {whole} {listed:?}, paged list of {paged} {paged_in:?}, {} events",
        full.saturating_sub(before),
        created / u32::try_from(count)?,
        bound_cpu / u32::try_from(count)?,
        store.count(Kind::Event),
    );
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let count: usize = std::env::args().nth(1).map_or(Ok(100_000), |n| n.parse())?;
    measure(1_000).await?;
    measure(count).await
}
