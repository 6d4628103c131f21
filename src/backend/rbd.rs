//! RBD images: [`Rbd`], made from the clusters and [`Settings`].
//!
//! A volume is an image of its own, made and removed by the `rbd` program. Nothing is mapped, formatted or mounted here.
//! An image is named by the UID of its claim and carries in its metadata whose it is; there is no other record, neither on the
//! cluster nor here. Images of rbd-provisioner and of kubernetes.io/rbd are grown and removed as well.

mod account;
mod class;
#[cfg(any(test, feature = "test"))]
pub mod conformance;
mod create;
mod decide;
mod entry;
mod header;
mod image;
mod names;
mod owner;
mod pool;
mod proof;
mod register;
mod remove;
mod restore;
mod slices;
mod snapshots;
mod store;
mod stream;
mod sweep;
mod target;
#[cfg(test)]
mod tests;
mod trash;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
pub use class::PARAMETERS;
use futures::{StreamExt as _, stream::FuturesUnordered};
use names::PoolNamespace;
use store::{OpError, Store, Timing, Work};
use tokio::sync::Notify;

use crate::{
    backend::{
        Backend, Capabilities, Error, Inspection, Janitor, Kind, Known, KnownVolume, Kubernetes, Removed,
        Restored, StoreExpectation, StoreStatus, Stores, Uncommitted,
        ceph::{Admin, Cluster, Clusters, class::Parameters},
    },
    volume::{
        Disposal, ExpandRequest, Expanded, InUse, Location, Permit, Placement, Removal, Source, Volume,
        VolumeId, VolumeName, VolumeRequest,
    },
};

/// The backend's name in volume ids and metrics.
pub const NAME: &str = "rbd";

/// How the administrator set the backend up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The name of the CSI driver that the PVs name: `rbd.berth.storage`.
    pub driver: String,
    /// With which user images of a configured cluster are made, where the class does not say: by the cluster's name.
    pub admins: BTreeMap<String, Admin>,
}

/// How long an operation may take above what one call may.
const ABOVE_ONE_CALL: Duration = Duration::from_secs(5);
/// The same for a removal, which in a full pool makes several calls that wait for room.
const ABOVE_ONE_CALL_IF_FULL: Duration = Duration::from_mins(12);

/// The backend. Copies nothing of a cluster but what [`Stores::stores`] tells.
pub struct Rbd {
    capabilities: Capabilities,
    clusters: Clusters,
    host: Arc<dyn Kubernetes>,
    settings: Settings,
    timing: Timing,
    /// The configured ones first, then those that were met.
    stores: Mutex<Vec<Arc<Store>>>,
    /// What the existing volumes say of clusters that nobody described yet, by their names.
    past: Mutex<BTreeMap<String, StoreExpectation>>,
    /// Tells that a store was met.
    met: Notify,
}

impl fmt::Debug for Rbd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rbd").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Rbd {
    /// A backend over these clusters. Asks nothing of them yet.
    pub fn new(clusters: Clusters, host: Arc<dyn Kubernetes>, settings: Settings) -> Result<Self, Error> {
        Self::with_timing(clusters, host, settings, Timing::USUAL)
    }

    fn with_timing(
        clusters: Clusters,
        host: Arc<dyn Kubernetes>,
        settings: Settings,
        timing: Timing,
    ) -> Result<Self, Error> {
        let stores: Vec<_> =
            clusters.configured().into_iter().map(|cluster| Store::new(cluster, timing)).collect();
        if let Some(name) =
            settings.admins.keys().find(|name| !stores.iter().any(|store| store.cluster.name() == **name))
        {
            let message = format!("cluster {name:?} has an admin for RBD, but is not configured");
            return Err(Error::new(Kind::Invalid, message));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
        if settings.driver.is_empty() || settings.driver.len() > 63 || !settings.driver.bytes().all(plain) {
            let driver = &settings.driver;
            let message =
                format!("the CSI driver's name {driver:?} must be 1 to 63 letters, digits, '.' and '-'");
            return Err(Error::new(Kind::Invalid, message));
        }
        let concurrency: usize = stores.iter().map(|store| store.cluster.tools().concurrency).sum();
        let capabilities = Capabilities {
            name: NAME,
            block: true,
            expand: true,
            parameters: PARAMETERS,
            case_insensitive: true,
            legacy_default: Disposal::Delete,
            concurrency: concurrency.max(8),
        };
        let stores = Mutex::new(stores);
        let (past, met) = (Mutex::default(), Notify::new());
        Ok(Self { capabilities, clusters, host, settings, timing, stores, past, met })
    }

    fn known(&self) -> MutexGuard<'_, Vec<Arc<Store>>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store of a cluster, which is known from now on.
    fn store(&self, cluster: &Cluster) -> Arc<Store> {
        let mut stores = self.known();
        if let Some(store) = stores.iter().find(|store| store.cluster.name() == cluster.name()) {
            return Arc::clone(store);
        }
        let store = Store::new(cluster.clone(), self.timing);
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner).remove(cluster.name());
        if let Some(past) = past {
            store.expect_store(past, self.settings.admins.get(cluster.name()));
        }
        stores.push(Arc::clone(&store));
        drop(stores);
        self.met.notify_one();
        store
    }

    fn store_named(&self, name: &str) -> Result<Arc<Store>, Error> {
        let stores = self.known();
        stores.iter().find(|store| store.cluster.name() == name).map(Arc::clone).ok_or_else(|| {
            let message =
                format!("cluster {name:?} is neither configured nor described by a class that is served");
            Error::new(Kind::Refused, message)
        })
    }

    /// Runs `operation` with the key that there is, and once more with the newest one where that was not accepted; at most
    /// until the cluster's deadline. `image`: nothing else works on it in that time.
    async fn run<T, F, R>(
        &self,
        what: &str,
        store: &Arc<Store>,
        at: (&PoolNamespace, &str),
        admin: &Admin,
        operation: F,
    ) -> Result<T, Error>
    where
        F: Fn(Work) -> R + Send + Sync,
        R: Future<Output = Result<T, OpError>> + Send,
    {
        self.run_within(ABOVE_ONE_CALL, what, store, at, admin, operation).await
    }

    /// The same with another limit.
    async fn run_within<T, F, R>(
        &self,
        above_one_call: Duration,
        what: &str,
        store: &Arc<Store>,
        (pool_namespace, image): (&PoolNamespace, &str),
        admin: &Admin,
        operation: F,
    ) -> Result<T, Error>
    where
        F: Fn(Work) -> R + Send + Sync,
        R: Future<Output = Result<T, OpError>> + Send,
    {
        let _held = store.hold(&pool_namespace.spec(image))?;
        store.suppose(pool_namespace.clone(), admin);
        let working = async {
            let mut work = Work::new(store, &self.host, pool_namespace, admin, false).await?;
            let outcome = match operation(work.clone()).await {
                Err(error) if error.is_about_the_key() => {
                    work = Work::new(store, &self.host, pool_namespace, admin, true).await?;
                    operation(work.clone()).await
                }
                outcome => outcome,
            };
            match outcome {
                Ok(value) => Ok(value),
                Err(error) => Err(Error::from(work.though_full(error).await)),
            }
        };
        // A call that hangs ends earlier, and says more.
        let deadline = store.cluster.tools().deadline.saturating_add(above_one_call);
        let outcome = tokio::time::timeout(deadline, working).await.unwrap_or_else(|_| {
            let name = store.cluster.name();
            let message = format!("{what} on cluster {name}: did not end within {}s", deadline.as_secs());
            Err(Error::new(Kind::Unavailable, message))
        });
        if outcome.is_ok() {
            store.learn(pool_namespace, admin);
        }
        outcome
    }
}

#[async_trait]
impl Backend for Rbd {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn place(&self, request: &VolumeRequest) -> Result<Placement, Error> {
        let plan = class::plan(&self.clusters, &self.settings, request)?;
        Ok(Placement::new(plan.place(), false, plan))
    }

    fn locate(&self, source: &Source) -> Option<Location> {
        let (cluster, pool_namespace, image, _) = self.found(source)?;
        Some(pool_namespace.place(cluster.name(), &image))
    }

    async fn create(&self, request: &VolumeRequest, permit: &Permit) -> Result<Volume, Error> {
        let plan = request.plan(|| class::plan(&self.clusters, &self.settings, request))?;
        let (plan, driver) = (&plan, self.settings.driver.as_str());
        let store = self.store(&plan.target.cluster);
        let what = format!("create volume {}", request.name);
        let at = (&plan.target.pool_namespace, plan.image.as_str());
        self.run(&what, &store, at, &plan.target.admin, |work| async move {
            create::create(&work, driver, request, plan, permit).await
        })
        .await
    }

    async fn commit(&self, _: &VolumeId, _: &str, permit: &Permit) -> Result<(), Error> {
        // Which images are in use, the PVs tell (`Known`). The mark has the cluster, and the image's name the volume's: that
        // proves as much as the UID of the PV, which would cost another program for each volume.
        Ok(permit.check()?)
    }

    async fn remove(&self, removal: &Removal, permit: &Permit) -> Result<Removed, Error> {
        let target =
            self.target(&removal.name, removal.id.as_ref(), &removal.source, &removal.pv_metadata)?;
        let named =
            if target.id.is_some() { &removal.pv_metadata.record } else { &removal.pv_metadata.parameters };
        let expiry = match removal.disposal {
            Disposal::Archive => Parameters(named).expiry()?,
            // What is archived although it was to be deleted, is kept.
            Disposal::Delete | Disposal::Retain => None,
        };
        let store = self.store(&target.cluster);
        let removal = &Removal { id: target.id.clone(), ..removal.clone() };
        let (what, image) = (format!("remove volume {}", removal.name), target.image.as_str());
        let (limit, at) = (ABOVE_ONE_CALL_IF_FULL, (&target.pool_namespace, image));
        self.run_within(limit, &what, &store, at, &target.admin, |work| async move {
            remove::remove(&work, removal, image, expiry, permit).await
        })
        .await
    }

    async fn restore(&self, removal: &Removal, permit: &Permit) -> Result<Restored, Error> {
        // What lies in no cluster of ours was never moved by us.
        if self.found(&removal.source).is_none() {
            return Ok(Restored::InPlace);
        }
        let target =
            self.target(&removal.name, removal.id.as_ref(), &removal.source, &removal.pv_metadata)?;
        let store = self.store(&target.cluster);
        let removal = &Removal { id: target.id.clone(), ..removal.clone() };
        let (what, image) = (format!("restore volume {}", removal.name), target.image.as_str());
        self.run(&what, &store, (&target.pool_namespace, image), &target.admin, |work| async move {
            restore::restore(&work, removal, image, permit).await
        })
        .await
    }

    async fn expand(&self, request: &ExpandRequest, permit: &Permit) -> Result<Expanded, Error> {
        if self.found(&request.source).is_none() {
            let message =
                format!("{} of volume {} is no image in a known cluster", request.source, request.name);
            return Err(Error::new(Kind::NotFound, message));
        }
        let target =
            self.target(&request.name, request.id.as_ref(), &request.source, &request.pv_metadata)?;
        let store = self.store(&target.cluster);
        let request = &ExpandRequest { id: target.id.clone(), ..request.clone() };
        let (what, image) = (format!("enlarge volume {}", request.name), target.image.as_str());
        self.run(&what, &store, (&target.pool_namespace, image), &target.admin, |work| async move {
            create::expand(&work, request, image, permit).await
        })
        .await
    }

    async fn rollback(&self, uncommitted: &Uncommitted, permit: &Permit) -> Result<(), Error> {
        permit.check()?;
        let store = self.store_named(uncommitted.id.store())?;
        let image = names::image_of(uncommitted.id.name())?;
        let (mut was_here, mut failed) = (false, None);
        // Its id does not say in which pool it was begun.
        let only = uncommitted.place.as_ref().and_then(PoolNamespace::of);
        let pool_namespaces = store
            .pool_namespaces()
            .into_iter()
            .filter(|(pool_namespace, _)| only.as_ref().is_none_or(|only| only == pool_namespace));
        for (pool_namespace, admin) in pool_namespaces {
            let discards = async {
                let _held = store.hold(&pool_namespace.spec(&image))?;
                let work = Work::new(&store, &self.host, &pool_namespace, &admin, false).await?;
                work.identity().await?;
                sweep::rollback(&work, uncommitted, &image, permit).await
            };
            match discards.await {
                Ok(here) => was_here |= here,
                Err(error) if error.is_elsewhere() => {
                    tracing::debug!(%pool_namespace, error = Error::from(error).chain(), "nothing of ours can lie here");
                }
                Err(error) => {
                    let error = Error::from(error);
                    tracing::warn!(%pool_namespace, image, error = error.chain(), "cannot remove the unfinished volume from this pool");
                    failed.get_or_insert(error);
                }
            }
        }
        match failed {
            Some(error) if !was_here => Err(error),
            Some(_) | None => Ok(()),
        }
    }
}

#[async_trait]
impl Janitor for Rbd {
    async fn unregistered(&self, store: &str, volumes: &[KnownVolume]) -> Result<Vec<VolumeName>, Error> {
        let store = self.store_named(store)?;
        let Some(cluster) = self.host.cluster_ids() else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for (pool_namespace, admin) in store.pool_namespaces() {
            let looks = async {
                let work = Work::new(&store, &self.host, &pool_namespace, &admin, false).await?;
                work.identity().await?;
                register::look(&work, volumes, &cluster).await
            };
            match looks.await {
                Ok(more) => found.push(more),
                Err(error) if error.is_elsewhere() => {
                    tracing::debug!(%pool_namespace, error = Error::from(error).chain(), "no volume of ours lies here");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(register::unregistered(volumes, &found, &cluster))
    }

    async fn register(&self, volume: &InUse, permit: &Permit) -> Result<(), Error> {
        let target = self.target(&volume.name, volume.id.as_ref(), &volume.source, &volume.pv_metadata)?;
        let store = self.store(&target.cluster);
        let volume = &InUse { id: target.id.clone(), ..volume.clone() };
        let (what, image) = (format!("register volume {}", volume.name), target.image.as_str());
        self.run(&what, &store, (&target.pool_namespace, image), &target.admin, |work| async move {
            register::register(&work, volume, image, permit).await
        })
        .await
    }

    async fn list_uncommitted(&self, store: &str, known: Known<'_>) -> Result<Vec<Uncommitted>, Error> {
        let store = self.store_named(store)?;
        let Some(cluster) = self.host.cluster_ids() else {
            tracing::debug!(
                "not looking for unfinished volumes: it is not known which images belong to this cluster"
            );
            return Ok(Vec::new());
        };
        let (mut found, mut looked, mut failed) = (Vec::new(), false, None);
        for (pool_namespace, admin) in store.pool_namespaces() {
            let looks = async {
                let work = Work::new(&store, &self.host, &pool_namespace, &admin, false).await?;
                work.identity().await?;
                sweep::list_uncommitted(&work, &cluster, known).await
            };
            match looks.await.map_err(Error::from) {
                Ok(more) => {
                    looked = true;
                    found.extend(more);
                }
                // What is wrong with one class keeps no other pool from being swept.
                Err(error) => {
                    tracing::warn!(%pool_namespace, error = error.chain(), "cannot list the unfinished volumes of this pool; the next sweep tries again");
                    failed.get_or_insert(error);
                }
            }
        }
        if let (false, Some(error)) = (looked, failed) {
            return Err(error);
        }
        found.sort_by(|a, b| (a.since, &a.id).cmp(&(b.since, &b.id)));
        Ok(found)
    }

    async fn collect_garbage(&self, permit: &Permit) {
        let mut collecting = FuturesUnordered::new();
        let mut collected = Vec::new();
        while permit.check().is_ok() {
            let stores = self.known().clone();
            for store in stores {
                if !collected.iter().any(|known| Arc::ptr_eq(known, &store)) {
                    let admin = self.settings.admins.get(store.cluster.name()).cloned();
                    collected.push(Arc::clone(&store));
                    let gone = store.gone.clone();
                    let purging = Box::pin(trash::collect_garbage(
                        store,
                        Arc::clone(&self.host),
                        admin,
                        permit.clone(),
                    ));
                    collecting.push(async move { gone.run_until_cancelled(purging).await });
                }
            }
            collected.retain(|store| !store.gone.is_cancelled());
            tokio::select! {
                () = self.met.notified() => {}
                Some(_) = collecting.next() => {}
                () = tokio::time::sleep(Duration::from_secs(1)), if collecting.is_empty() => {}
            }
        }
    }
}

impl Stores for Rbd {
    fn inspect(&self, parameters: &BTreeMap<String, String>) -> Inspection {
        Parameters(parameters).inspect(&self.settings.driver)
    }

    fn is_provisional(&self, store: &str) -> bool {
        !self.clusters.is_configured(store)
    }

    fn expect_store(&self, past: StoreExpectation) {
        match self.store_named(&past.store) {
            Ok(store) => {
                let admin = self.settings.admins.get(store.cluster.name());
                store.expect_store(past, admin);
                if let Some(admin) = admin {
                    store.cluster.watch(&self.host, admin);
                }
            }
            Err(_unknown) => {
                tracing::info!(cluster = past.store, "volumes exist on a cluster that is not known yet");
                let mut unknown = self.past.lock().unwrap_or_else(PoisonError::into_inner);
                unknown.insert(past.store.clone(), past);
            }
        }
    }

    fn register_class(&self, parameters: &BTreeMap<String, String>) {
        if let Ok(target) = class::ground(&self.clusters, &self.settings, parameters) {
            let store = self.store(&target.cluster);
            store.suppose(target.pool_namespace, &target.admin);
            store.cluster.watch(&self.host, &target.admin);
        }
    }

    fn retain_stores(&self, classes: &[BTreeMap<String, String>], used: &BTreeSet<String>) {
        let met: Vec<_> = classes
            .iter()
            .filter_map(|parameters| class::ground(&self.clusters, &self.settings, parameters).ok())
            .map(|target| (target.cluster, target.admin))
            .collect();
        let named = |name: &str| used.contains(name) || met.iter().any(|(cluster, _)| cluster.name() == name);
        self.past.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| named(name));
        self.known().retain(|store| {
            let name = store.cluster.name();
            let by_class = |admin: &Admin| met.iter().any(|(of, by)| of.name() == name && by == admin);
            store
                .cluster
                .retain_users(|admin| self.settings.admins.get(name) == Some(admin) || by_class(admin));
            for (_, admin) in met.iter().filter(|(of, _)| of.name() == name) {
                store.cluster.watch(&self.host, admin);
            }
            let purging = store.trash.waiting() > 0 && store.cluster.health().ready.is_ok();
            let kept = self.clusters.is_configured(name) || named(name) || purging;
            if !kept {
                tracing::info!(
                    cluster = name,
                    "no class and no volume names the cluster any more: it is forgotten"
                );
                store.gone.cancel();
            }
            kept
        });
    }

    fn stores(&self) -> Vec<StoreStatus> {
        self.known().iter().map(|store| store.status(&*self.host)).collect()
    }
}
