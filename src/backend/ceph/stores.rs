//! The clusters that a backend works on: [`KnownStores`], what it knows of each ([`ClusterStore`]), and what the existing volumes say of those
//! that are not known yet.
//!
//! A store is known from the moment that the configuration, a class or a PV names it. It is forgotten when no class and no volume
//! names it any more and what was deleted there is purged.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    admin::Admin,
    cluster::{Cluster, Clusters},
    login::Login,
};
use crate::backend::{Error, Kind, Kubernetes, StoreExpectation};
use parking_lot::{Mutex, MutexGuard};

/// The identity that a cluster had when the newest volume was made there.
#[derive(Debug, Default)]
pub struct ExpectedIdentity(Mutex<Option<String>>);

impl ExpectedIdentity {
    /// Takes what the existing volumes say.
    pub fn set(&self, expected: &StoreExpectation) {
        self.0.lock().clone_from(&expected.identity);
    }

    /// Why the cluster is not the one that the existing volumes lie in, as far as its identity is known.
    pub fn mismatch(&self, cluster: &Cluster) -> Option<String> {
        let (expected, identity) = self.0.lock().clone().zip(cluster.identity())?;
        (expected != identity).then(|| {
            format!(
                "it is not what it was: its identity (fsid) is {identity}, the volumes' is {expected}. Correct the monitors, or \
                 name the new cluster otherwise"
            )
        })
    }

    /// The identity of the cluster, which must be what it was.
    pub async fn prove(&self, login: &Login, cluster: &Cluster) -> Result<String, Error> {
        let identity = login.fsid().await?;
        match self.mismatch(cluster) {
            Some(why) => Err(Error::new(Kind::Refused, format!("cluster {}: {why}", cluster.name()))),
            None => Ok(identity),
        }
    }
}

/// What a backend knows of one cluster.
pub trait ClusterStore: Send + Sync + 'static {
    /// The cluster.
    fn cluster(&self) -> &Cluster;
    /// Takes what the existing volumes say. `admin`: the configured user.
    fn expect(&self, expected: &StoreExpectation, admin: Option<&Admin>);
    /// Whether deleted volumes wait there.
    fn has_trash(&self) -> bool;
    /// Ends what runs for it: nothing names it any more.
    fn end(&self);
}

/// The stores of one backend: the configured ones first, as configured, then those that were met, by name.
pub struct KnownStores<S> {
    /// All clusters of the process.
    pub clusters: Clusters,
    /// What the backend may ask of Kubernetes.
    pub kube: Arc<dyn Kubernetes>,
    /// The users of the configured clusters, by the clusters' names.
    pub admins: BTreeMap<String, Admin>,
    open: Box<dyn Fn(Cluster) -> S + Send + Sync>,
    known: Mutex<Vec<Arc<S>>>,
    /// What the existing volumes say, by the name of the cluster.
    expected: Mutex<BTreeMap<String, StoreExpectation>>,
}

impl<S: ClusterStore> KnownStores<S> {
    /// The stores of the configured clusters. Asks nothing of them yet.
    pub fn new(
        clusters: Clusters,
        kube: Arc<dyn Kubernetes>,
        admins: BTreeMap<String, Admin>,
        open: impl Fn(Cluster) -> S + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        if let Some(name) = admins.keys().find(|name| !clusters.is_configured(name)) {
            let message =
                format!("an admin is configured for cluster {name:?}, which is not configured itself");
            return Err(Error::new(Kind::Invalid, message));
        }
        let known = clusters.configured().into_iter().map(|cluster| Arc::new(open(cluster))).collect();
        let (open, known) = (Box::new(open), Mutex::new(known));
        Ok(Self { clusters, kube, admins, open, known, expected: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<S>>> {
        self.known.lock()
    }

    fn expected(&self) -> MutexGuard<'_, BTreeMap<String, StoreExpectation>> {
        self.expected.lock()
    }

    /// All that are known.
    pub fn all(&self) -> Vec<Arc<S>> {
        self.lock().clone()
    }

    /// The store of this name, if it is known.
    pub fn named(&self, name: &str) -> Option<Arc<S>> {
        self.lock().iter().find(|store| store.cluster().name() == name).cloned()
    }

    /// The store of a cluster, which is known from now on.
    pub fn of(&self, cluster: &Cluster) -> Arc<S> {
        let mut known = self.lock();
        if let Some(store) = known.iter().find(|store| store.cluster().name() == cluster.name()) {
            return Arc::clone(store);
        }
        let store = Arc::new((self.open)(cluster.clone()));
        if let Some(expected) = self.expected().get(cluster.name()) {
            store.expect(expected, self.admins.get(cluster.name()));
        }
        let comes_later = |other: &Arc<S>| {
            let name = other.cluster().name();
            !self.clusters.is_configured(name) && name > cluster.name()
        };
        let index = known.iter().position(comes_later).unwrap_or(known.len());
        known.insert(index, Arc::clone(&store));
        store
    }

    /// Notes what the existing volumes say of a store; the store, if it is known.
    pub fn expect(&self, expected: StoreExpectation) -> Option<Arc<S>> {
        let known = self.named(&expected.store);
        if let Some(store) = &known {
            store.expect(&expected, self.admins.get(&expected.store));
        } else {
            tracing::info!(cluster = expected.store, "volumes exist on a cluster that is not known yet");
        }
        self.expected().insert(expected.store.clone(), expected);
        known
    }

    /// Forgets the stores that neither the configuration nor `classes` nor the volumes in `used` name, and the users that neither the
    /// configuration nor `classes` name.
    pub fn retain(&self, classes: &[(Cluster, Admin)], used: &BTreeSet<String>) {
        let named =
            |name: &str| used.contains(name) || classes.iter().any(|(cluster, _)| cluster.name() == name);
        self.expected().retain(|name, _| named(name));
        self.lock().retain(|store| {
            let (cluster, name) = (store.cluster(), store.cluster().name());
            let admins = || classes.iter().filter(|(of, _)| of.name() == name).map(|(_, admin)| admin);
            cluster
                .retain_users(|admin| self.admins.get(name) == Some(admin) || admins().any(|by| by == admin));
            for admin in admins() {
                cluster.watch(&self.kube, admin);
            }
            let purging = store.has_trash() && cluster.health().ready.is_ok();
            let kept = self.clusters.is_configured(name) || named(name) || purging;
            if !kept {
                tracing::info!(cluster = name, "forgot a cluster that no class and no volume names any more");
                store.end();
            }
            kept
        });
    }
}
