//! The Secrets that berth keeps for volumes and that a tenant deletes, with the backend of `CephFS` over a stand-in of Ceph.

use std::{sync::Arc, time::Duration};

use berth_apiserver::{AuditEntry, Fault, Match, Times};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use serde_json::{Value, json};

use super::bed::{Bed, NAME, Running, USER, full_rules};
use crate::{
    backend::{
        StorageSystem,
        ceph::Clusters,
        cephfs::{
            Cephfs, Settings,
            tests::fake::{KEY, MONITORS, Mgr},
        },
        memory::Memory,
    },
    observe::Metrics,
    provisioner::{KubernetesClient, host},
};

/// An API server and a stand-in of Ceph.
struct Site {
    bed: Bed,
    mgr: Mgr,
}

impl Site {
    /// With the class `cephfs`, of which each volume has a user of its own and its Secret in the claim's namespace.
    fn new() -> Self {
        let mut rules = full_rules();
        let secrets =
            json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "create", "delete"]});
        rules.as_array_mut().unwrap().push(secrets);
        let bed = Bed::with(berth_apiserver::Options::default(), Memory::new(), rules);
        bed.create(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "default", "name": "ceph-admin"},
            "stringData": {"key": KEY},
        }));
        bed.class(json!({"metadata": {"name": "cephfs"}, "parameters": {
            "monitors": MONITORS, "adminSecretName": "ceph-admin", "adminSecretNamespace": "default",
        }}));
        Self { bed, mgr: Mgr::new() }
    }

    /// The loop of a new process.
    async fn start(&self) -> Running {
        let mut settings = self.bed.settings().await;
        // Whatever is asked again by itself is not within a test.
        settings.backoff.slow = Duration::from_hours(1);
        let told = host::Settings {
            cluster_id: None,
            former_cluster_ids: Vec::new(),
            trash_retention: Duration::ZERO,
        };
        let (cluster_identity, metrics) = (settings.cluster_identity.clone(), Metrics::new());
        let host = KubernetesClient::start(
            &settings.cluster,
            settings.api_timeout,
            told,
            cluster_identity,
            &metrics,
        );
        let cephfs =
            Settings { driver: "cephfs.berth.storage".into(), admins: [].into(), secret_namespace: None };
        let clusters = Clusters::new(Vec::new(), self.mgr.tools());
        let backend: Arc<dyn StorageSystem> =
            Arc::new(Cephfs::new(clusters, Arc::new(host.await.unwrap()), cephfs).unwrap());
        Bed::start_on(NAME, settings, backend)
    }

    /// Makes a volume; its name, and that of its Secret.
    async fn volume(&self, claim: &str) -> (String, String) {
        let uid = self.bed.claim(claim, json!({"spec": {"storageClassName": "cephfs"}}));
        self.bed.bound(claim).await;
        (format!("pvc-{uid}"), format!("ceph-berth-{uid}-secret"))
    }

    fn secret(&self, name: &str) -> Option<Secret> {
        self.bed.server.store().get("default", name)
    }

    fn delete_secret(&self, name: &str) {
        self.bed.server.store().delete::<Secret>("default", name).unwrap();
    }

    /// How often berth asked for the Secret of this name, since requests are logged.
    fn gets(&self, name: &str) -> usize {
        let log = self.bed.server.audit().log();
        let asked = |entry: &&AuditEntry| entry.key.resource == "secrets" && entry.key.verb == "get";
        log.iter().filter(asked).filter(|entry| entry.name == name).count()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_a_tenant_deleted_is_made_again_by_the_next_leader() {
    let site = Site::new();
    let running = site.start().await;
    let (volume, name) = site.volume("data").await;
    let (_, other) = site.volume("other").await;
    running.stop().await;
    let before = site.secret(&name).expect("it was made with its volume");
    let untouched = site.secret(&other).unwrap();
    site.delete_secret(&name);

    let running = site.start().await;
    site.bed.until("it is made again", || site.secret(&name).is_some()).await;
    running.stop().await;
    let after = site.secret(&name).unwrap();
    let marks = |secret: &Secret| (secret.metadata.labels.clone(), secret.metadata.annotations.clone());
    assert_eq!((&after.data, marks(&after)), (&before.data, marks(&before)));
    assert_ne!(after.metadata.uid, before.metadata.uid);
    assert_eq!(site.secret(&other).unwrap().metadata.uid, untouched.metadata.uid, "what is there stays");

    // It goes with its volume.
    let running = site.start().await;
    site.bed.delete_claim("data");
    site.bed.until("the volume is gone", || site.bed.volume(&volume).is_none()).await;
    site.bed.until("the Secret is gone", || site.secret(&name).is_none()).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_a_tenant_put_in_its_place_is_reported_on_the_volume_and_left_alone() {
    let site = Site::new();
    let running = site.start().await;
    let (volume, name) = site.volume("data").await;
    running.stop().await;
    site.delete_secret(&name);
    let theirs: Value = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "default", "name": name},
        "stringData": {"key": "of the tenant"},
    });
    let theirs = site.bed.create(theirs);

    let running = site.start().await;
    let told = site.bed.event(&volume, "VolumeNotRecorded").await;
    assert!(told.contains(&format!("Secret default/{name} was not made for volume {volume}")), "{told}");
    site.bed.settle().await;
    running.stop().await;
    let left = site.secret(&name).unwrap();
    assert_eq!(left.metadata.uid.as_deref(), theirs["metadata"]["uid"].as_str());
    assert_eq!(left.data.unwrap()["key"], ByteString(b"of the tenant".to_vec()));

    site.delete_secret(&name);
    let running = site.start().await;
    site.bed.until("it is made again", || site.secret(&name).is_some()).await;
    running.stop().await;
}

/// A tenant who deletes a Secret in a loop makes no storm, and those who have none cost nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_secret_is_asked_for_once_when_a_term_begins_and_none_for_volumes_without_one() {
    let site = Site::new();
    site.bed.class(json!({"metadata": {"name": "shared"}, "parameters": {
        "monitors": MONITORS, "adminSecretName": "ceph-admin", "adminSecretNamespace": "default",
        "userSecretName": "nodes",
    }}));
    let running = site.start().await;
    let (_, first) = site.volume("a").await;
    let (_, second) = site.volume("b").await;
    site.bed.claim("shared", json!({"spec": {"storageClassName": "shared"}}));
    site.bed.bound("shared").await;
    running.stop().await;

    site.bed.server.audit().log_user(USER);
    let running = site.start().await;
    site.bed.until("both were asked for", || site.gets(&first) == 1 && site.gets(&second) == 1).await;
    site.delete_secret(&first);
    let (_, third) = site.volume("c").await;
    site.bed.settle().await;
    running.stop().await;
    assert_eq!([&first, &second, &third].map(|name| site.gets(name)), [1, 1, 0], "no more within the hour");
    assert!(site.secret(&first).is_none() && site.secret(&third).is_some());
    assert_eq!(site.gets("nodes"), 0, "it is the administrator's");
    assert_eq!(site.bed.requests("list", "secrets") + site.bed.requests("watch", "secrets"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_whose_secrets_may_not_be_read_is_asked_about_once() {
    let site = Site::new();
    let running = site.start().await;
    let (_, first) = site.volume("a").await;
    let (_, second) = site.volume("b").await;
    running.stop().await;
    let reads = Match::verb("get").resource("secrets").user(USER);
    site.bed.server.faults().inject(reads, Fault::Code(403, None), Times::Always);
    site.bed.server.audit().log_user(USER);
    let running = site.start().await;
    let asked = || site.gets(&first) + site.gets(&second);
    site.bed.until("it is asked", || asked() > 0).await;
    // Longer than the pause between two questions.
    tokio::time::sleep(Duration::from_secs(1)).await;
    running.stop().await;
    assert_eq!(asked(), 1);
}
