//! What storage may ask of Kubernetes: [`KubernetesClient`], [`SecretStore`] and [`ClusterInfo`] of the backends.
//!
//! Secrets are read through the API, one request for each however many ask, and kept for some seconds. What a backend
//! keeps here carries its volume's name; nothing else is ever changed or deleted, save the Secrets that cephfs-provisioner
//! made for its volumes and left behind.
//!
//! It watches nothing, and writes no value of a Secret anywhere but into Secrets. It is made before the loop runs.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::Client;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    api,
    cluster::{Cause, Cluster, Failure},
    cluster_identity::ClusterIdentity,
    names,
    objects::{SecretObject, VolumeObject, annotation},
    rights::Right,
    volume_state,
};
use crate::{
    backend::{ClusterInfo, Error, Kind, PvState, SecretStore},
    observe::Metrics,
    volume::{ClusterIds, SecretName, Secrets, VolumeName},
};

/// How long a Secret that was read may be used without asking again.
const REMEMBERED: Duration = Duration::from_secs(10);
/// How long the addresses of the nodes are good for, which are only told.
const NODES_REMEMBERED: Duration = Duration::from_mins(1);
/// How long a start may wait for the identity of the cluster.
const FIRST_ANSWER: Duration = Duration::from_secs(3);
/// How often it is asked for while it is not known: at first, and where the right to know it is missing.
const ASK_SOON: Duration = Duration::from_millis(500);
const ASK_AGAIN: Duration = Duration::from_secs(10);
const ASK_AGAIN_WITHOUT_RIGHT: Duration = Duration::from_mins(10);

/// The namespace that every cluster has and that cannot be deleted: its UID is the cluster's identity.
const KUBE_SYSTEM: &str = "kube-system";

/// What the administrator says of this cluster and of removed data, for the storage that clusters share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How volumes name this cluster; `None`: by the UID of `kube-system`, where that may not be read by that of the leader lock.
    pub cluster_id: Option<String>,
    /// Ids that this cluster had before it was rebuilt.
    pub former_cluster_ids: Vec<String>,
    /// How long removed data stays in the trash before it is purged.
    pub trash_retention: Duration,
}

/// Kubernetes, as far as storage may ask it.
pub struct KubernetesClient {
    cluster: Cluster,
    settings: Settings,
    /// One lock for each Secret: its holder may be reading.
    readings: Mutex<HashMap<SecretName, Arc<tokio::sync::Mutex<Option<Reading>>>>>,
    cluster_identity: ClusterIdentity,
    nodes: Arc<Nodes>,
    _asking: DropGuard,
}

/// Which node has which address, as of the last time that they were asked for.
#[derive(Default)]
struct Nodes {
    by_address: Mutex<HashMap<IpAddr, String>>,
    asked: Notify,
}

/// How a Secret was read.
struct Reading {
    began: Instant,
    read: Result<Secrets, (Kind, String)>,
}

impl KubernetesClient {
    /// Over the API server of this configuration, whose every answer may take `timeout`. Waits a moment for the identity of
    /// the cluster; where it does not come, it is asked for in the background. `cluster_identity` gets what is learned, and tells what
    /// others learned.
    pub async fn start(
        config: &kube::Config,
        timeout: Duration,
        settings: Settings,
        cluster_identity: ClusterIdentity,
        metrics: &Metrics,
    ) -> Result<Self, api::Error> {
        let client = api::client(config, timeout, metrics, &cluster_identity)
            .map_err(|source| api::Error::Client { url: config.cluster_url.to_string(), source })?;
        Ok(Self::over(client, timeout, settings, cluster_identity).await)
    }

    async fn over(
        client: Client,
        timeout: Duration,
        settings: Settings,
        cluster_identity: ClusterIdentity,
    ) -> Self {
        let cluster = Cluster::new(client, timeout);
        let stop = CancellationToken::new();
        let asking = identify(cluster.clone(), cluster_identity.clone(), settings.cluster_id.is_some());
        let nodes = Arc::<Nodes>::default();
        let following = follow_nodes(cluster.clone(), Arc::clone(&nodes));
        let token = stop.clone();
        tokio::spawn(async move { token.run_until_cancelled(following).await });
        let token = stop.clone();
        let mut asking = tokio::spawn(async move { token.run_until_cancelled(asking).await });
        // Whether it ended or goes on in the background, the answer is in `cluster_identity`.
        let _ = tokio::time::timeout(FIRST_ANSWER, &mut asking).await;
        Self {
            cluster,
            settings,
            readings: Mutex::default(),
            cluster_identity,
            nodes,
            _asking: stop.drop_guard(),
        }
    }

    fn slot(&self, name: &SecretName) -> Arc<tokio::sync::Mutex<Option<Reading>>> {
        let mut readings = self.readings.lock();
        if let Some(slot) = readings.get(name) {
            return Arc::clone(slot);
        }
        // Keys are not kept in memory for longer than they are of use.
        readings.retain(|_, slot| {
            let old = |slot: &Option<Reading>| {
                slot.as_ref().is_none_or(|reading| reading.began.elapsed() > REMEMBERED)
            };
            Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|slot| !old(&slot))
        });
        Arc::clone(readings.entry(name.clone()).or_default())
    }

    /// What was read before is not what is there any more.
    fn forget_reading(&self, name: &SecretName) {
        self.readings.lock().remove(name);
    }

    async fn read(&self, name: &SecretName) -> Result<Secrets, (Kind, String)> {
        match self.cluster.secret(&name.namespace, &name.name).await {
            Ok(Some(secret)) => Ok(secret.secrets()),
            Ok(None) => Err((
                Kind::NotFound,
                format!(
                    "Secret {name} does not exist; create it, or correct adminSecretName and adminSecretNamespace of the class or \
                     of the configured cluster"
                ),
            )),
            Err(failure) => Err(explain(Right::GetSecrets, name, &failure)),
        }
    }

    /// Stores `secret`, unless there is one of that name.
    async fn store(&self, name: &SecretName, secret: &Secret) -> Result<Stored, Error> {
        match self.cluster.create_secret(&name.namespace, secret).await {
            Ok(()) => Ok(Stored::Now),
            Err(failure) if failure.cause == Cause::Exists => Ok(Stored::Before),
            Err(failure) => Err(error(explain(Right::CreateSecrets, name, &failure))),
        }
    }

    async fn live(&self, name: &SecretName) -> Result<Option<SecretObject>, Error> {
        let read = self.cluster.secret(&name.namespace, &name.name).await;
        read.map_err(|failure| error(explain(Right::GetSecrets, name, &failure)))
    }

    /// Deletes the Secret if it still is the one that was read.
    async fn delete_live(&self, name: &SecretName, secret: &SecretObject) -> Result<(), Error> {
        let uid = secret.metadata.uid.as_deref().unwrap_or_default();
        let deleted = self.cluster.delete_secret(&name.namespace, &name.name, uid).await;
        deleted.map_err(|failure| error(explain(Right::DeleteSecrets, name, &failure)))
    }
}

/// Whether a Secret was stored now, or one of that name before.
enum Stored {
    Now,
    Before,
}

impl fmt::Debug for KubernetesClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubernetesClient")
            .field("cluster_identity", &self.cluster_identity)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl SecretStore for KubernetesClient {
    async fn get(&self, name: &SecretName, fresh: bool) -> Result<Secrets, Error> {
        let asked = Instant::now();
        let slot = self.slot(name);
        let mut slot = slot.lock().await;
        // What was begun after the question answers it, a failure too: a crowd that waits for a dead server waits once.
        let serves = |reading: &Reading| {
            let age = asked.saturating_duration_since(reading.began);
            reading.began >= asked || !fresh && reading.read.is_ok() && age <= REMEMBERED
        };
        if let Some(reading) = slot.as_ref().filter(|reading| serves(reading)) {
            return reading.read.clone().map_err(|failed| unread(name, failed));
        }
        let began = Instant::now();
        let read = self.read(name).await;
        *slot = Some(Reading { began, read: read.clone() });
        read.map_err(|failed| unread(name, failed))
    }

    async fn put(&self, name: &SecretName, secrets: &Secrets, owner: &VolumeName) -> Result<(), Error> {
        self.forget_reading(name);
        let wanted = secret_for(name, secrets, owner);
        // Twice: what another value had was taken away.
        for _ in 0..2 {
            match self.store(name, &wanted).await? {
                Stored::Now => return Ok(()),
                Stored::Before => {}
            }
            let Some(live) = self.live(name).await? else { continue };
            if !is_owned_by(&live.metadata, owner) {
                return Err(Error::new(
                    Kind::Conflict,
                    format!(
                        "Secret {name} exists already and was not made for volume {owner}; delete it, or let the class name \
                         another namespace"
                    ),
                ));
            }
            if live.secrets() == *secrets {
                return Ok(());
            }
            self.delete_live(name, &live).await?;
        }
        Err(Error::new(Kind::Unavailable, format!("Secret {name} changes while it is being written")))
    }

    async fn exists(&self, name: &SecretName, owner: &VolumeName) -> Result<bool, Error> {
        let found = self.cluster.secret_metadata(name).await;
        let found = found.map_err(|failure| error(explain(Right::GetSecrets, name, &failure)))?;
        match SecretState::of(found.as_ref(), owner) {
            SecretState::Kept => Ok(true),
            SecretState::Gone => Ok(false),
            SecretState::Replaced => Err(Error::new(
                Kind::Conflict,
                format!(
                    "Secret {name} was not made for volume {owner}, of whose user it should hold the key, and was left alone: nodes \
                     cannot mount the volume with it. Delete it, and it is made again"
                ),
            )),
        }
    }

    async fn delete(&self, name: &SecretName, owner: &VolumeName) -> Result<(), Error> {
        self.forget_reading(name);
        let Some(live) = self.live(name).await? else { return Ok(()) };
        if !is_owned_by(&live.metadata, owner) {
            let volume = self.cluster.volume(owner.as_str()).await.map_err(|failure| {
                error((
                    unknown(&failure),
                    format!("cannot find out which volume Secret {name} belongs to: {failure}"),
                ))
            })?;
            if !volume.is_some_and(|volume| kept_by_cephfs_provisioner(&live, name, &volume)) {
                return Err(Error::new(
                    Kind::Refused,
                    format!("Secret {name} was not made for volume {owner}, and was left alone"),
                ));
            }
        }
        self.delete_live(name, &live).await
    }
}

#[async_trait]
impl ClusterInfo for KubernetesClient {
    fn cluster_id(&self) -> Option<String> {
        self.settings.cluster_id.as_ref().or_else(|| self.cluster_identity.id()).cloned()
    }

    fn cluster_ids(&self) -> Option<ClusterIds> {
        let others = self.settings.former_cluster_ids.iter().chain(self.cluster_identity.ids()).cloned();
        Some(ClusterIds::only(self.cluster_id()?).also(others))
    }

    fn now(&self) -> Option<SystemTime> {
        self.cluster_identity.clock.now()
    }

    fn trash_retention(&self) -> Duration {
        self.settings.trash_retention
    }

    async fn pv_state(&self, name: &VolumeName) -> Result<PvState, Error> {
        match self.cluster.volume(name.as_str()).await {
            Ok(None) => Ok(PvState::Absent),
            Ok(Some(volume)) => Ok(PvState::Present {
                removing: volume_state::is_to_be_removed(&volume),
                uid: volume.metadata.uid.unwrap_or_default(),
            }),
            Err(failure) => {
                let message = format!("cannot read PersistentVolume {name}: {failure}");
                Err(error((unknown(&failure), message)))
            }
        }
    }

    fn node_at(&self, address: IpAddr) -> Option<String> {
        self.nodes.asked.notify_one();
        let known = self.nodes.by_address.lock();
        // It may be an IPv4 address that is mapped to IPv6.
        known.get(&address.to_canonical()).cloned()
    }
}

/// Asks for the UID of `kube-system` until it is known. `named`: the administrator has named the cluster, so that little is
/// lost where it is not.
async fn identify(cluster: Cluster, cluster_identity: ClusterIdentity, named: bool) {
    let (mut told, mut refused) = (named, false);
    // What is made before it is known carries no signature: a server that fails once must not cost more than a moment.
    let mut soon = ASK_SOON;
    loop {
        let wait = match cluster.namespace_uid(KUBE_SYSTEM).await {
            Ok(Some(uid)) => {
                tracing::info!(cluster_id = uid, "learned the identity of this cluster");
                cluster_identity.kube_system(uid);
                return;
            }
            Ok(None) => ASK_AGAIN_WITHOUT_RIGHT,
            Err(failure) if failure.is_forbidden() => {
                cluster_identity.kube_system_is_hidden();
                if !told {
                    told = true;
                    let rule = Right::GetKubeSystem.grant();
                    tracing::warn!(
                        rule,
                        "cannot read the UID of kube-system, which tells this cluster from others on the same \
                         storage; using the UID of the leader lock instead. Grant the right, or set --cluster-id"
                    );
                }
                // A server that has just started may refuse everything once.
                if std::mem::replace(&mut refused, true) { ASK_AGAIN_WITHOUT_RIGHT } else { ASK_AGAIN }
            }
            Err(failure) => {
                tracing::debug!(error = %failure, "cannot read the identity of this cluster");
                let wait = soon;
                soon = (soon * 2).min(ASK_AGAIN);
                wait
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// Reads the addresses of the nodes when one is asked for and they are older than a minute. Most storage never asks.
async fn follow_nodes(cluster: Cluster, nodes: Arc<Nodes>) {
    loop {
        nodes.asked.notified().await;
        let pause = match cluster.node_addresses().await {
            Ok(addresses) => {
                let canonical = addresses.into_iter().map(|(address, name)| (address.to_canonical(), name));
                *nodes.by_address.lock() = canonical.collect();
                NODES_REMEMBERED
            }
            Err(failure) => {
                tracing::debug!(error = %failure, "cannot list nodes; naming them by address only");
                ASK_AGAIN_WITHOUT_RIGHT
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// The Secret in which `secrets` are kept for `owner`.
fn secret_for(name: &SecretName, secrets: &Secrets, owner: &VolumeName) -> Secret {
    let data = secrets.iter().map(|(key, value)| (key.to_owned(), ByteString(value.to_vec()))).collect();
    let pair = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    Secret {
        metadata: ObjectMeta {
            name: Some(name.name.clone()),
            namespace: Some(name.namespace.clone()),
            labels: Some(pair(names::MANAGED_BY, names::BERTH)),
            annotations: Some(pair(names::OWNER, owner.as_str())),
            ..ObjectMeta::default()
        },
        type_: Some(OPAQUE.to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

const OPAQUE: &str = "Opaque";

/// Whether we keep a Secret with this metadata for this volume.
fn is_owned_by(metadata: &ObjectMeta, owner: &VolumeName) -> bool {
    let labels = metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(names::MANAGED_BY)).is_some_and(|by| by == names::BERTH)
        && annotation(metadata, names::OWNER) == Some(owner.as_str())
}

/// What became of a Secret that was kept for a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SecretState {
    /// It is there.
    Kept,
    /// There is none of its name.
    Gone,
    /// There is one of its name that was not made for the volume.
    Replaced,
}

impl SecretState {
    /// By the metadata of what has its name.
    pub(super) fn of(found: Option<&ObjectMeta>, owner: &VolumeName) -> Self {
        match found {
            None => Self::Gone,
            Some(metadata) if is_owned_by(metadata, owner) => Self::Kept,
            Some(_) => Self::Replaced,
        }
    }
}

/// Whether cephfs-provisioner made it for this volume: it wrote no mark on it, but made it of exactly this shape under a
/// name that follows from the volume's user.
fn kept_by_cephfs_provisioner(secret: &SecretObject, name: &SecretName, volume: &VolumeObject) -> bool {
    let Some(cephfs) = &volume.spec.cephfs else { return false };
    let Some(reference) = &cephfs.secret_ref else { return false };
    let claim = volume.spec.claim_ref.as_ref().map(|claim| claim.namespace.as_str()).unwrap_or_default();
    let namespace = if reference.namespace.is_empty() { claim } else { &reference.namespace };
    let user = cephfs.user.as_deref().unwrap_or_default();
    let marked = names::IDENTITIES.iter().any(|key| annotation(&volume.metadata, key).is_some());
    let labelled = secret.metadata.labels.as_ref().is_some_and(|labels| !labels.is_empty());
    marked
        && !labelled
        && (namespace, reference.name.as_str()) == (name.namespace.as_str(), name.name.as_str())
        && !user.is_empty()
        && name.name == format!("ceph-{user}-secret")
        && secret.kind == OPAQUE
        && secret.secrets().only().is_some_and(|(key, _)| key == "key")
}

/// Why a request about a Secret failed, for the reader of the Event.
fn explain(right: Right, name: &SecretName, failure: &Failure) -> (Kind, String) {
    if failure.is_forbidden() {
        let why = format!(
            "not allowed to {right} in namespace {:?} of Secret {}; bind the role of \
             deploy/manifests/ceph/01-rbac.yaml there",
            name.namespace, name.name
        );
        return (Kind::Internal, why);
    }
    (unknown(failure), format!("Secret {name}: {failure}"))
}

fn unknown(failure: &Failure) -> Kind {
    match failure.cause {
        Cause::Unknown | Cause::Throttled | Cause::Unauthorized => Kind::Unavailable,
        Cause::NotFound => Kind::NotFound,
        Cause::Exists | Cause::Conflict | Cause::Forbidden | Cause::Invalid => Kind::Internal,
    }
}

/// Why the Secret of this name was not read; whether it will be otherwise once there is one.
fn unread(name: &SecretName, (kind, message): (Kind, String)) -> Error {
    let error = Error::new(kind, message);
    if kind == Kind::NotFound { error.for_want_of(name.clone()) } else { error }
}

fn error((kind, message): (Kind, String)) -> Error {
    Error::new(kind, message)
}

#[cfg(test)]
mod tests;
