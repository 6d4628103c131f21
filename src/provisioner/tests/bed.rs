//! One embedded API server, one in-memory backend and the loop between them: [`Bed`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use berth_apiserver::{ApiServer, Controllers, Kind, Options};
use k8s_openapi::api::core::v1::{Event, PersistentVolume, PersistentVolumeClaim};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    backend::{Backends, StorageSystem, memory::Memory},
    observe::Metrics,
    provisioner::{ClusterIdentity, KubernetesClient, Settings, fixtures, host, queue::Backoff, run},
    system::clock::since_boot,
    volume::Clock,
};

pub(super) use fixtures::NAME;

/// The account that the loop runs under, with exactly the rights that it is given.
pub(super) const USER: &str = "system:serviceaccount:berth:berth";

/// How long anything may take before a test gives up: far more than it needs on the slowest machine.
pub(super) const LIMIT: Duration = Duration::from_mins(1);

pub(super) struct Bed {
    pub(super) server: ApiServer,
    pub(super) memory: Memory,
}

/// A running loop; dropped, it is gone as after a `kill -9`.
pub(super) struct Running {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), crate::provisioner::Error>>,
    pub(super) metrics: Metrics,
}

impl Running {
    /// Ends it as SIGTERM does.
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        tokio::time::timeout(LIMIT, &mut self.task).await.expect("it ends").unwrap().unwrap();
    }

    /// Kills it.
    pub(super) async fn kill(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The rules of the role that berth's manifests grant.
pub(super) fn full_rules() -> Value {
    json!([
        {"apiGroups": [""], "resources": ["persistentvolumes"],
            "verbs": ["get", "list", "watch", "create", "delete", "patch"]},
        {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["persistentvolumeclaims/status"], "verbs": ["patch"]},
        {"apiGroups": ["storage.k8s.io"], "resources": ["storageclasses"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
        {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
        {"apiGroups": [""], "resources": ["namespaces"], "resourceNames": ["kube-system"], "verbs": ["get"]},
    ])
}

/// The rules of the role that old installations grant.
pub(super) fn old_rules() -> Value {
    json!([
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["persistentvolumes"],
            "verbs": ["get", "list", "watch", "create", "delete"]},
        {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["get", "list", "watch", "update"]},
        {"apiGroups": ["storage.k8s.io"], "resources": ["storageclasses"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "update", "patch"]},
    ])
}

impl Bed {
    /// A server with the controllers around a claim, the full rights, and the class `nfs`.
    pub(super) fn new() -> Self {
        Self::with(Options::default(), Memory::new(), full_rules())
    }

    /// A server on which only clients change anything.
    pub(super) fn without_controllers() -> Self {
        let options = Options { controllers: Controllers::none(), ..Options::default() };
        Self::with(options, Memory::new(), full_rules())
    }

    pub(super) fn with(options: Options, memory: Memory, rules: Value) -> Self {
        let server = ApiServer::start(options).unwrap();
        server.add_user(USER, &[]);
        let bed = Self { server, memory };
        bed.grant(rules);
        bed.create(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "run-berth"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "berth-runner"},
            "subjects": [{"kind": "ServiceAccount", "namespace": "berth", "name": "berth"}],
        }));
        bed.class(json!({}));
        bed
    }

    pub(super) fn grant(&self, rules: Value) {
        self.create(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "berth-runner"}, "rules": rules,
        }));
    }

    pub(super) fn create(&self, value: Value) -> Value {
        self.server.store().create_value(value).unwrap()
    }

    /// Makes the class `nfs`, which deletes, changed as `patch` says.
    pub(super) fn class(&self, patch: Value) {
        let mut class = json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "nfs"},
            "provisioner": NAME, "allowVolumeExpansion": true, "parameters": {"onDelete": "delete"},
        });
        fixtures::merge(&mut class, &patch);
        self.create(class);
    }

    /// Makes a claim of class `nfs` in `default`, changed as `patch` says; returns its UID.
    pub(super) fn claim(&self, name: &str, patch: Value) -> String {
        let mut claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "accessModes": ["ReadWriteMany"], "storageClassName": "nfs",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        });
        fixtures::merge(&mut claim, &patch);
        let created = self.create(claim);
        created["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// A claim that already carries the annotation that kube-controller-manager sets.
    pub(super) fn annotated_claim(&self, name: &str) -> String {
        self.claim(
            name,
            json!({"metadata": {"annotations": {"volume.kubernetes.io/storage-provisioner": NAME}}}),
        )
    }

    pub(super) async fn settings(&self) -> Settings {
        let kubeconfig = Kubeconfig::from_yaml(&self.server.kubeconfig(USER)).unwrap();
        let cluster = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        let millis = Duration::from_millis;
        Settings {
            cluster: cluster.unwrap(),
            hostname: "test".into(),
            namespace: "berth".into(),
            lease: None,
            clock: Clock::new(since_boot),
            cluster_identity: ClusterIdentity::default(),
            attachers: Vec::new(),
            host_rights: &[],
            workers: 8,
            api_timeout: Duration::from_secs(10),
            rights_timeout: LIMIT,
            backoff: Backoff { min: millis(20), max: millis(200), slow: millis(400) },
            sweep_interval: Duration::from_hours(1),
            sweep_grace: millis(50),
            shutdown_grace: Duration::from_secs(20),
            stop: CancellationToken::new(),
        }
    }

    /// From now on the trash of the backend asks the API server before it purges, and holds what is deleted for `retention`.
    pub(super) async fn ask_before_purging(&mut self, retention: Duration) {
        let settings = self.settings().await;
        let told =
            host::Settings { cluster_id: None, former_cluster_ids: Vec::new(), trash_retention: retention };
        let (cluster_identity, metrics) = (settings.cluster_identity, Metrics::new());
        let host = KubernetesClient::start(
            &settings.cluster,
            settings.api_timeout,
            told,
            cluster_identity,
            &metrics,
        );
        self.memory = self.memory.clone().with_host(Arc::new(host.await.unwrap()));
    }

    pub(super) async fn start(&self) -> Running {
        self.start_with(self.settings().await)
    }

    pub(super) fn start_with(&self, settings: Settings) -> Running {
        self.start_as(NAME, settings)
    }

    /// The same under another provisioner name.
    pub(super) fn start_as(&self, name: &str, settings: Settings) -> Running {
        Self::start_on(name, settings, Arc::new(self.memory.clone()))
    }

    /// The loop over another backend.
    pub(super) fn start_on(name: &str, settings: Settings, backend: Arc<dyn StorageSystem>) -> Running {
        let metrics = Metrics::new();
        let backends = Backends::default().with(name, backend);
        let stop = settings.stop.clone();
        let task = tokio::spawn(run(settings, backends, metrics.clone()));
        Running { stop, task, metrics }
    }

    pub(super) fn volume(&self, name: &str) -> Option<PersistentVolume> {
        self.server.store().get("", name)
    }

    pub(super) fn volumes(&self) -> usize {
        self.server.store().count(Kind::PersistentVolume)
    }

    pub(super) fn get_claim(&self, name: &str) -> Option<PersistentVolumeClaim> {
        self.server.store().get("default", name)
    }

    pub(super) fn delete_claim(&self, name: &str) {
        self.server.store().delete::<PersistentVolumeClaim>("default", name).unwrap();
    }

    pub(super) async fn bound(&self, name: &str) {
        self.until(&format!("claim {name} is bound"), || {
            self.get_claim(name)
                .is_some_and(|claim| claim.status.and_then(|status| status.phase).as_deref() == Some("Bound"))
        })
        .await;
    }

    /// Reason and message of our events about an object, oldest first, repeats once.
    pub(super) fn events(&self, about: &str) -> Vec<(String, String)> {
        let mut events: Vec<Event> = self.server.store().list("");
        events.retain(|event| {
            let ours = event.source.as_ref().and_then(|source| source.component.as_deref());
            event.involved_object.name.as_deref() == Some(about)
                && ours.is_some_and(|name| name.starts_with(NAME))
        });
        let version = |event: &Event| {
            let version = event.metadata.resource_version.as_deref();
            version.and_then(|version| version.parse::<u64>().ok())
        };
        events.sort_by_key(version);
        events
            .into_iter()
            .map(|event| (event.reason.unwrap_or_default(), event.message.unwrap_or_default()))
            .collect()
    }

    /// Waits for one of our events about an object; returns its message.
    pub(super) async fn event(&self, about: &str, reason: &str) -> String {
        let find = || self.events(about).into_iter().find(|(found, _)| found == reason);
        self.until(&format!("event {reason} about {about}"), || find().is_some()).await;
        find().unwrap().1
    }

    /// Waits until `condition` holds.
    pub(super) async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let began = Instant::now();
        while !condition() {
            assert!(began.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until every claim has a volume that the backend knows of as used, and every event is there.
    pub(super) async fn provisioned(&self, count: usize) {
        self.until(&format!("{count} volumes are stored and committed"), || {
            self.volumes() == count
                && self.memory.volumes().iter().filter(|held| held.committed).count() == count
        })
        .await;
    }

    /// How often our account made these requests.
    pub(super) fn requests(&self, verb: &str, resource: &str) -> u64 {
        self.server.audit().count(|key| key.user == USER && key.verb == verb && key.resource == resource)
    }

    /// Gives the loop the time to do what it should not do. Passing does not depend on it, failing may.
    pub(super) async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
