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
mod error;
mod header;
mod image;
mod large;
mod names;
mod owner;
mod pool;
mod proof;
mod register;
mod remove;
mod restore;
mod settings;
mod slices;
mod snapshots;
mod store;
mod stream;
mod sweep;
mod target;
#[cfg(test)]
mod tests;
mod trash;
mod volume_context;
mod work;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
pub use class::PARAMETERS;
use error::OpError;
use futures::{StreamExt as _, stream::FuturesUnordered};
use names::PoolNamespace;
pub use settings::{NAME, Settings};
use store::{Store, Timing};
use target::ImageTarget;
use tokio::sync::Notify;
use work::PoolClient;

use crate::{
    backend::{
        Backend, Capabilities, Error, Inspection, Janitor, Kind, Known, KnownVolume, Kubernetes, Removed,
        Restored, StoreExpectation, StoreStatus, Stores, Uncommitted,
        ceph::{Admin, Cluster, Clusters, KnownStores, class::Parameters, owner::PvVolume},
    },
    volume::{
        Disposal, ExpandRequest, Expanded, InUse, Location, Permit, Placement, Removal, Source, Volume,
        VolumeId, VolumeName, VolumeRequest,
    },
};

/// How long an operation may take above what one call may.
const ABOVE_ONE_CALL: Duration = Duration::from_secs(5);
/// The same for a removal, which in a full pool makes several calls that wait for room.
const ABOVE_ONE_CALL_IF_FULL: Duration = Duration::from_mins(12);

/// The backend. What it remembers of a cluster (identity, pools, users, what is full) is in `store`.
pub struct Rbd {
    capabilities: Capabilities,
    settings: Settings,
    stores: KnownStores<Store>,
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
    pub fn new(clusters: Clusters, kube: Arc<dyn Kubernetes>, settings: Settings) -> Result<Self, Error> {
        Self::with_timing(clusters, kube, settings, Timing::USUAL)
    }

    fn with_timing(
        clusters: Clusters,
        kube: Arc<dyn Kubernetes>,
        settings: Settings,
        timing: Timing,
    ) -> Result<Self, Error> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
        if settings.driver.is_empty() || settings.driver.len() > 63 || !settings.driver.bytes().all(plain) {
            let driver = &settings.driver;
            let message =
                format!("the CSI driver's name {driver:?} must be 1 to 63 letters, digits, '.' and '-'");
            return Err(Error::new(Kind::Invalid, message));
        }
        let concurrency: usize =
            clusters.configured().iter().map(|cluster| cluster.tools().concurrency).sum();
        let capabilities = Capabilities {
            name: NAME,
            block: true,
            expand: true,
            parameters: PARAMETERS,
            case_insensitive: true,
            legacy_default: Disposal::Delete,
            concurrency: concurrency.max(8),
        };
        let open = move |cluster| Store::new(cluster, timing);
        let stores = KnownStores::new(clusters, kube, settings.admins.clone(), open)?;
        Ok(Self { capabilities, settings, stores, met: Notify::new() })
    }

    /// The store of a cluster, which is known from now on.
    fn store(&self, cluster: &Cluster) -> Arc<Store> {
        let is_new = self.stores.named(cluster.name()).is_none();
        let store = self.stores.of(cluster);
        if is_new {
            self.met.notify_one();
        }
        store
    }

    fn store_named(&self, name: &str) -> Result<Arc<Store>, Error> {
        self.stores.named(name).ok_or_else(|| {
            let message =
                format!("cluster {name:?} is neither configured nor described by a class that is served");
            Error::new(Kind::Refused, message)
        })
    }

    /// The image that a source names, if it lies in one of our clusters.
    fn find(&self, source: &Source) -> Option<target::Found> {
        target::find(&self.stores.clusters, &self.settings.driver, source)
    }

    /// The image of an existing volume.
    fn target<'a>(&self, pv: impl Into<PvVolume<'a>>) -> Result<ImageTarget, Error> {
        target::target(&self.stores.clusters, &self.settings, pv.into())
    }

    /// Runs `operation` on an image, on which nothing else works in that time: at most until the cluster's deadline and `limit`
    /// are over.
    async fn run<T, F, R>(
        &self,
        what: String,
        target: &ImageTarget,
        limit: Duration,
        operation: F,
    ) -> Result<T, Error>
    where
        F: FnOnce(PoolClient) -> R + Send,
        R: Future<Output = Result<T, OpError>> + Send,
    {
        let ImageTarget { cluster, pool_namespace, image, admin, .. } = target;
        let store = self.store(cluster);
        let _held = store.try_lock(&pool_namespace.spec(image))?;
        store.suppose(pool_namespace.clone(), admin);
        let working = async {
            let work = PoolClient::new(&store, &self.stores.kube, pool_namespace, admin).await?;
            match operation(work.clone()).await {
                Ok(value) => Ok(value),
                Err(error) => Err(Error::from(work.though_full(error).await)),
            }
        };
        // A call that hangs ends earlier, and says more.
        let deadline = cluster.tools().deadline.saturating_add(limit);
        let outcome = tokio::time::timeout(deadline, working).await.unwrap_or_else(|_| {
            let message =
                format!("{what} on cluster {}: did not end within {}s", cluster.name(), deadline.as_secs());
            Err(Error::new(Kind::Unavailable, message))
        });
        if outcome.is_ok() {
            store.learn(pool_namespace, admin);
        }
        outcome
    }

    /// To look at the images in one pool, on the cluster that it was.
    async fn work_in(
        &self,
        store: &Arc<Store>,
        pool_namespace: &PoolNamespace,
        admin: &Admin,
    ) -> Result<PoolClient, OpError> {
        let work = PoolClient::new(store, &self.stores.kube, pool_namespace, admin).await?;
        work.identity().await?;
        Ok(work)
    }
}

#[async_trait]
impl Backend for Rbd {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn place(&self, request: &VolumeRequest) -> Result<Placement, Error> {
        let plan = class::plan(&self.stores.clusters, &self.settings, request)?;
        Ok(Placement::new(plan.location(), false, plan))
    }

    fn locate(&self, source: &Source) -> Option<Location> {
        let found = self.find(source)?;
        Some(found.pool_namespace.location(found.cluster.name(), &found.image))
    }

    async fn create(&self, request: &VolumeRequest, permit: &Permit) -> Result<Volume, Error> {
        let plan = &request.plan(|| class::plan(&self.stores.clusters, &self.settings, request))?;
        let driver = self.settings.driver.as_str();
        let what = format!("create volume {}", request.name);
        self.run(what, &plan.image_target(), ABOVE_ONE_CALL, |work| async move {
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
        let target = &self.target(removal)?;
        let metadata = &removal.pv_metadata;
        let named = if target.id.is_some() { &metadata.record } else { &metadata.parameters };
        let expiry = match removal.disposal {
            Disposal::Archive => Parameters(named).expiry()?,
            // What is archived although it was to be deleted, is kept.
            Disposal::Delete | Disposal::Retain => None,
        };
        let removal = &Removal { id: target.id.clone(), ..removal.clone() };
        let what = format!("remove volume {}", removal.name);
        self.run(what, target, ABOVE_ONE_CALL_IF_FULL, |work| async move {
            remove::remove(&work, removal, &target.image, expiry, permit).await
        })
        .await
    }

    async fn restore(&self, removal: &Removal, permit: &Permit) -> Result<Restored, Error> {
        // What lies in no cluster of ours was never moved by us.
        if self.find(&removal.source).is_none() {
            return Ok(Restored::InPlace);
        }
        let target = &self.target(removal)?;
        let removal = &Removal { id: target.id.clone(), ..removal.clone() };
        let what = format!("restore volume {}", removal.name);
        self.run(what, target, ABOVE_ONE_CALL, |work| async move {
            restore::restore(&work, removal, &target.image, permit).await
        })
        .await
    }

    async fn expand(&self, request: &ExpandRequest, permit: &Permit) -> Result<Expanded, Error> {
        if self.find(&request.source).is_none() {
            let message =
                format!("{} of volume {} is no image in a known cluster", request.source, request.name);
            return Err(Error::new(Kind::NotFound, message));
        }
        let target = &self.target(request)?;
        let request = &ExpandRequest { id: target.id.clone(), ..request.clone() };
        let what = format!("expand volume {}", request.name);
        self.run(what, target, ABOVE_ONE_CALL, |work| async move {
            create::expand(&work, request, &target.image, permit).await
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
                let _held = store.try_lock(&pool_namespace.spec(&image))?;
                let work = self.work_in(&store, &pool_namespace, &admin).await?;
                sweep::rollback(&work, uncommitted, &image, permit).await
            };
            match discards.await {
                Ok(here) => was_here |= here,
                Err(error) if error.is_elsewhere() => {
                    tracing::debug!(%pool_namespace, error = Error::from(error).chain(), "nothing of ours can lie here");
                }
                Err(error) => {
                    let error = Error::from(error);
                    tracing::warn!(%pool_namespace, image, error = error.chain(), "cannot roll back the uncommitted \
                        volume in this pool");
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
        let Some(cluster) = self.stores.kube.cluster_ids() else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for (pool_namespace, admin) in store.pool_namespaces() {
            let looks = async {
                let work = self.work_in(&store, &pool_namespace, &admin).await?;
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
        let target = &self.target(volume)?;
        let volume = &InUse { id: target.id.clone(), ..volume.clone() };
        let what = format!("register volume {}", volume.name);
        self.run(what, target, ABOVE_ONE_CALL, |work| async move {
            register::register(&work, volume, &target.image, permit).await
        })
        .await
    }

    async fn list_uncommitted(&self, store: &str, known: Known<'_>) -> Result<Vec<Uncommitted>, Error> {
        let store = self.store_named(store)?;
        let Some(cluster) = self.stores.kube.cluster_ids() else {
            tracing::debug!("not listing uncommitted volumes: the identity of this cluster is unknown");
            return Ok(Vec::new());
        };
        let (mut found, mut looked, mut failed) = (Vec::new(), false, None);
        for (pool_namespace, admin) in store.pool_namespaces() {
            let looks = async {
                let work = self.work_in(&store, &pool_namespace, &admin).await?;
                sweep::list_uncommitted(&work, &cluster, known).await
            };
            match looks.await.map_err(Error::from) {
                Ok(more) => {
                    looked = true;
                    found.extend(more);
                }
                // What is wrong with one class keeps no other pool from being swept.
                Err(error) => {
                    tracing::warn!(%pool_namespace, error = error.chain(), "cannot list the uncommitted volumes of \
                        this pool; the next sweep tries again");
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
            for store in self.stores.all() {
                if !collected.iter().any(|known| Arc::ptr_eq(known, &store)) {
                    let admin = self.settings.admins.get(store.cluster.name()).cloned();
                    collected.push(Arc::clone(&store));
                    let gone = store.gone.clone();
                    let purging = Box::pin(trash::collect_garbage(
                        store,
                        Arc::clone(&self.stores.kube),
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
        !self.stores.clusters.is_configured(store)
    }

    fn expect_store(&self, expected: StoreExpectation) {
        let Some(store) = self.stores.expect(expected) else { return };
        if let Some(admin) = self.settings.admins.get(store.cluster.name()) {
            store.cluster.watch(&self.stores.kube, admin);
        }
    }

    fn register_class(&self, parameters: &BTreeMap<String, String>) {
        if let Ok(target) = class::target(&self.stores.clusters, &self.settings, parameters) {
            let store = self.store(&target.cluster);
            store.suppose(target.pool_namespace, &target.admin);
            store.cluster.watch(&self.stores.kube, &target.admin);
        }
    }

    fn retain_stores(&self, classes: &[BTreeMap<String, String>], used: &BTreeSet<String>) {
        let read = |parameters| class::target(&self.stores.clusters, &self.settings, parameters).ok();
        let classes: Vec<_> =
            classes.iter().filter_map(read).map(|target| (target.cluster, target.admin)).collect();
        self.stores.retain(&classes, used);
    }

    fn stores(&self) -> Vec<StoreStatus> {
        self.stores.all().iter().map(|store| store.status(&*self.stores.kube)).collect()
    }
}
