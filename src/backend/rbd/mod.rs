//! RBD images: [`Rbd`], made from the clusters and [`Settings`].
//!
//! A volume is an image of its own, made and removed by the `rbd` program. Nothing is mapped, formatted or mounted here.
//! An image is named by the UID of its claim and carries in its metadata whose it is; there is no other record, neither on the
//! cluster nor here. Images of rbd-provisioner and of kubernetes.io/rbd are grown and removed as well.

mod class;
#[cfg(any(test, feature = "test"))]
pub mod conformance;
mod create;
mod entry;
mod image;
mod names;
mod remove;
mod store;
mod stream;
mod sweep;
#[cfg(test)]
mod tests;
mod trash;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
pub use class::PARAMETERS;
use futures::{StreamExt as _, stream::FuturesUnordered};
use names::Spot;
use store::{Clock, Pace, Store, Trouble, Work};
use tokio::sync::Notify;

use crate::{
    backend::{
        Backend, Capabilities, Error, Host, Inspection, Kind, Known, Past, Removed, StoreStatus, Unfinished,
        ceph::{Admin, Cluster, Clusters, Monitors, class::Parameters},
    },
    volume::{
        Disposal, Grown, Growth, Permit, Place, Provenance, Removal, Source, Volume, VolumeId, VolumeName,
        VolumeRequest,
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

/// The backend. Copies nothing of a cluster but what [`Backend::stores`] tells.
pub struct Rbd {
    capabilities: Capabilities,
    clusters: Clusters,
    host: Arc<dyn Host>,
    settings: Settings,
    pace: Pace,
    clock: Clock,
    /// The configured ones first, then those that were met.
    stores: Mutex<Vec<Arc<Store>>>,
    /// What the existing volumes say of clusters that nobody described yet, by their names.
    past: Mutex<BTreeMap<String, Past>>,
    /// Tells that a store was met.
    met: Notify,
}

impl fmt::Debug for Rbd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rbd").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// An image that exists or existed, as a PV tells of it.
#[derive(Debug, Clone)]
struct Target {
    cluster: Cluster,
    spot: Spot,
    image: String,
    /// Of an image of ours.
    id: Option<VolumeId>,
    admin: Admin,
}

impl Rbd {
    /// A backend over these clusters. Asks nothing of them yet.
    pub fn new(clusters: Clusters, host: Arc<dyn Host>, settings: Settings) -> Result<Self, Error> {
        Self::paced(clusters, host, settings, Pace::USUAL, Arc::new(SystemTime::now))
    }

    fn paced(
        clusters: Clusters,
        host: Arc<dyn Host>,
        settings: Settings,
        pace: Pace,
        clock: Clock,
    ) -> Result<Self, Error> {
        let stores: Vec<_> = clusters
            .configured()
            .into_iter()
            .map(|cluster| Store::new(cluster, pace, Arc::clone(&clock)))
            .collect();
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
            any_case: true,
            before: Disposal::Delete,
            concurrency: concurrency.max(8),
        };
        let stores = Mutex::new(stores);
        let (past, met) = (Mutex::default(), Notify::new());
        Ok(Self { capabilities, clusters, host, settings, pace, clock, stores, past, met })
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
        let store = Store::new(cluster.clone(), self.pace, Arc::clone(&self.clock));
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner).remove(cluster.name());
        if let Some(past) = past {
            store.remember(past, self.settings.admins.get(cluster.name()));
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

    /// Where a source lies, without asking with which user.
    fn found(&self, source: &Source) -> Option<(Cluster, Spot, String, Option<VolumeId>)> {
        match source {
            Source::Csi(csi) if csi.driver == self.settings.driver => {
                let get = |key: &str| csi.attributes.get(key).filter(|value| !value.is_empty());
                let id: VolumeId = csi.handle.parse().ok()?;
                let cluster = match get("monitors") {
                    Some(monitors) => self.clusters.reached_by(&monitors.parse().ok()?).ok()?,
                    None => self.clusters.named(get("clusterID").map_or(id.store(), String::as_str))?,
                };
                let namespace = get("radosNamespace").map(|text| names::checked("namespace", text));
                let spot = Spot {
                    pool: names::checked("pool", get("pool")?).ok()?,
                    namespace: namespace.transpose().ok()?,
                };
                let image = names::checked("image", get("image")?).ok()?;
                (id.backend() == NAME).then_some((cluster, spot, image, Some(id)))
            }
            Source::Rbd(rbd) => {
                let monitors: Monitors = rbd.monitors.join(",").parse().ok()?;
                let pool = if rbd.pool.is_empty() { "rbd" } else { &rbd.pool };
                let spot = Spot { pool: names::checked("pool", pool).ok()?, namespace: None };
                let image = names::checked("image", &rbd.image).ok()?;
                Some((self.clusters.reached_by(&monitors).ok()?, spot, image, None))
            }
            Source::Csi(_) | Source::Nfs { .. } | Source::Cephfs(_) => None,
        }
    }

    /// The image of an existing volume, and with which user to go about it. Everything comes from the PV, save what an
    /// older provisioner did not write there. Refuses what contradicts itself.
    fn target(
        &self,
        name: &VolumeName,
        id: Option<&VolumeId>,
        source: &Source,
        provenance: &Provenance,
    ) -> Result<Target, Error> {
        let refused = |message: String| Err(Error::new(Kind::Refused, message));
        let Some((mut cluster, spot, image, in_source)) = self.found(source) else {
            let there: Vec<String> =
                self.clusters.all().iter().map(|cluster| cluster.name().to_owned()).collect();
            return refused(format!(
                "{source} of volume {name} is no image in one of the clusters [{}]; nothing was touched. If its cluster was \
                 renamed, configure it under its old name",
                there.join(", ")
            ));
        };
        if let (Some(id), Some(in_source)) = (id, &in_source)
            && id != in_source
        {
            return refused(format!(
                "PersistentVolume {name} carries the id {id}, and its source names {in_source}"
            ));
        }
        let id = id.cloned().or(in_source);
        if let Some(id) = &id {
            if id.backend() != NAME || id.name() != name {
                return refused(format!("PersistentVolume {name} carries the id of another volume, {id}"));
            }
            let own = names::image_of(name)?;
            if image != own {
                return refused(format!("image {image} is not that of volume {id}, which is {own}"));
            }
            if let Some(named) = self.clusters.named(id.store()) {
                cluster = named;
            }
        }
        let record = &provenance.record;
        let recorded = [
            ("image", Some(image.as_str())),
            ("pool", Some(spot.pool.as_str())),
            ("radosNamespace", spot.namespace.as_deref()),
        ];
        for (key, there) in recorded {
            if let Some(recorded) = record.get(key)
                && there != Some(recorded.as_str())
            {
                return refused(format!(
                    "the record of volume {name} names the {key} {recorded:?}, its source {:?}; nothing was touched. Correct \
                     the one that is wrong",
                    there.unwrap_or_default()
                ));
            }
        }
        let admin = self.admin(&cluster, provenance)?;
        Ok(Target { cluster, spot, image, id, admin })
    }

    /// The user to go about an existing volume with: as recorded, as an older volume's class says, as configured.
    fn admin(&self, cluster: &Cluster, provenance: &Provenance) -> Result<Admin, Error> {
        for named in [&provenance.record, &provenance.parameters] {
            if let Some(admin) = Parameters(named).own_admin() {
                return Ok(admin);
            }
        }
        self.settings.admins.get(cluster.name()).cloned().ok_or_else(|| {
            let message = format!(
                "nothing says with which user to go about cluster {} ({}): the class of the volume is gone or names no \
                 adminSecretName. Configure the cluster with these monitors and an admin",
                cluster.name(),
                cluster.monitors()
            );
            Error::new(Kind::Invalid, message)
        })
    }

    /// Runs `operation` with the key that there is, and once more with the newest one where that was not accepted; at most
    /// until the cluster's deadline. `image`: nobody else works on it meanwhile.
    async fn run<T, F, R>(
        &self,
        what: &str,
        store: &Arc<Store>,
        (spot, image): (&Spot, &str),
        admin: &Admin,
        operation: F,
    ) -> Result<T, Error>
    where
        F: Fn(Work) -> R + Send + Sync,
        R: Future<Output = Result<T, Trouble>> + Send,
    {
        let _held = store.hold(&spot.spec(image))?;
        store.suppose(spot.clone(), admin);
        let working = async {
            let work = Work::new(store, &self.host, spot, admin, false).await?;
            match operation(work).await {
                Err(trouble) if trouble.is_about_the_key() => {
                    operation(Work::new(store, &self.host, spot, admin, true).await?).await
                }
                outcome => outcome,
            }
            .map_err(Error::from)
        };
        // A call that hangs ends earlier, and says more.
        let deadline = store.cluster.tools().deadline.saturating_add(Duration::from_secs(5));
        let outcome = tokio::time::timeout(deadline, working).await.unwrap_or_else(|_| {
            let name = store.cluster.name();
            let message = format!("{what} on cluster {name}: did not end within {}s", deadline.as_secs());
            Err(Error::new(Kind::Unavailable, message))
        });
        if outcome.is_ok() {
            store.learn(spot, admin);
        }
        outcome
    }
}

#[async_trait]
impl Backend for Rbd {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn place(&self, request: &VolumeRequest) -> Result<Place, Error> {
        class::plan(&self.clusters, &self.settings, request).map(|plan| plan.place())
    }

    fn shares(&self, _: &VolumeRequest) -> bool {
        false
    }

    fn inspect(&self, parameters: &BTreeMap<String, String>) -> Inspection {
        Parameters(parameters).inspect(&self.settings.driver)
    }

    fn locate(&self, source: &Source) -> Option<Place> {
        let (cluster, spot, image, _) = self.found(source)?;
        Some(spot.place(cluster.name(), &image))
    }

    fn is_provisional(&self, store: &str) -> bool {
        !self.clusters.is_configured(store)
    }

    async fn create(&self, request: &VolumeRequest, permit: &Permit) -> Result<Volume, Error> {
        let plan = class::plan(&self.clusters, &self.settings, request)?;
        let (plan, driver) = (&plan, self.settings.driver.as_str());
        let store = self.store(&plan.ground.cluster);
        let what = format!("create volume {}", request.name);
        let at = (&plan.ground.spot, plan.image.as_str());
        self.run(&what, &store, at, &plan.ground.admin, |work| async move {
            create::create(&work, driver, request, plan, permit).await
        })
        .await
    }

    async fn confirm(&self, _: &VolumeId, _: &str, permit: &Permit) -> Result<(), Error> {
        // Which images are in use, the PVs tell (`Known`); nothing of it is written on them.
        Ok(permit.check()?)
    }

    async fn remove(&self, removal: &Removal, permit: &Permit) -> Result<Removed, Error> {
        let target = self.target(&removal.name, removal.id.as_ref(), &removal.source, &removal.provenance)?;
        let named =
            if target.id.is_some() { &removal.provenance.record } else { &removal.provenance.parameters };
        let expiry = match removal.disposal {
            Disposal::Archive => Parameters(named).expiry()?,
            // What is archived although it was to be deleted, is kept.
            Disposal::Delete | Disposal::Keep => None,
        };
        let store = self.store(&target.cluster);
        let removal = &Removal { id: target.id.clone(), ..removal.clone() };
        let (what, image) = (format!("remove volume {}", removal.name), target.image.as_str());
        self.run(&what, &store, (&target.spot, image), &target.admin, |work| async move {
            remove::remove(&work, removal, image, expiry, permit).await
        })
        .await
    }

    async fn expand(&self, growth: &Growth, permit: &Permit) -> Result<Grown, Error> {
        if self.found(&growth.source).is_none() {
            let message =
                format!("{} of volume {} is no image in a known cluster", growth.source, growth.name);
            return Err(Error::new(Kind::NotFound, message));
        }
        let target = self.target(&growth.name, growth.id.as_ref(), &growth.source, &growth.provenance)?;
        let store = self.store(&target.cluster);
        let growth = &Growth { id: target.id.clone(), ..growth.clone() };
        let (what, image) = (format!("enlarge volume {}", growth.name), target.image.as_str());
        self.run(&what, &store, (&target.spot, image), &target.admin, |work| async move {
            create::expand(&work, growth, image, permit).await
        })
        .await
    }

    async fn unfinished(&self, store: &str, known: Known<'_>) -> Result<Vec<Unfinished>, Error> {
        let store = self.store_named(store)?;
        let Some(installation) = self.host.installation() else {
            tracing::debug!("nothing is swept, since it is not known which images are of this cluster");
            return Ok(Vec::new());
        };
        let (mut found, mut looked, mut failed) = (Vec::new(), false, None);
        for (spot, admin) in store.spots() {
            let looks = async {
                let work = Work::new(&store, &self.host, &spot, &admin, false).await?;
                work.identity().await?;
                sweep::unfinished(&work, &installation, known).await
            };
            match looks.await.map_err(Error::from) {
                Ok(more) => {
                    looked = true;
                    found.extend(more);
                }
                // What is wrong with one class keeps no other pool from being swept.
                Err(error) => {
                    tracing::warn!(%spot, error = error.chain(), "cannot list what was begun here; the next sweep will");
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

    async fn discard(&self, unfinished: &Unfinished, permit: &Permit) -> Result<(), Error> {
        permit.check()?;
        let store = self.store_named(unfinished.id.store())?;
        let image = names::image_of(unfinished.id.name())?;
        let (mut was_here, mut failed) = (false, None);
        // Its id does not say in which pool it was begun.
        let only = unfinished.place.as_ref().and_then(Spot::of);
        let spots =
            store.spots().into_iter().filter(|(spot, _)| only.as_ref().is_none_or(|only| only == spot));
        for (spot, admin) in spots {
            let discards = async {
                let _held = store.hold(&spot.spec(&image))?;
                let work = Work::new(&store, &self.host, &spot, &admin, false).await?;
                work.identity().await?;
                sweep::discard(&work, unfinished, &image, permit).await
            };
            match discards.await {
                Ok(here) => was_here |= here,
                Err(trouble) if trouble.is_elsewhere() => {
                    tracing::debug!(%spot, error = Error::from(trouble).chain(), "nothing of ours can lie here");
                }
                Err(trouble) => {
                    let error = Error::from(trouble);
                    tracing::warn!(%spot, image, error = error.chain(), "cannot take back what was begun here");
                    failed.get_or_insert(error);
                }
            }
        }
        match failed {
            Some(error) if !was_here => Err(error),
            Some(_) | None => Ok(()),
        }
    }

    async fn tend(&self, permit: &Permit) {
        let mut tending = FuturesUnordered::new();
        let mut tended = Vec::new();
        while permit.check().is_ok() {
            let stores = self.known().clone();
            for store in stores {
                if !tended.iter().any(|known| Arc::ptr_eq(known, &store)) {
                    let admin = self.settings.admins.get(store.cluster.name()).cloned();
                    tended.push(Arc::clone(&store));
                    let gone = store.gone.clone();
                    let purging = trash::tend(store, Arc::clone(&self.host), admin, permit.clone());
                    tending.push(async move { gone.run_until_cancelled(purging).await });
                }
            }
            tended.retain(|store| !store.gone.is_cancelled());
            tokio::select! {
                () = self.met.notified() => {}
                Some(_) = tending.next() => {}
                () = tokio::time::sleep(Duration::from_secs(1)), if tending.is_empty() => {}
            }
        }
    }

    fn remember(&self, past: Past) {
        match self.store_named(&past.store) {
            Ok(store) => {
                let admin = self.settings.admins.get(store.cluster.name());
                store.remember(past, admin);
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

    fn acquaint(&self, parameters: &BTreeMap<String, String>) {
        if let Ok(ground) = class::ground(&self.clusters, &self.settings, parameters) {
            let store = self.store(&ground.cluster);
            store.suppose(ground.spot, &ground.admin);
            store.cluster.watch(&self.host, &ground.admin);
        }
    }

    fn retain_stores(&self, classes: &[BTreeMap<String, String>], used: &BTreeSet<String>) {
        let met: Vec<_> = classes
            .iter()
            .filter_map(|parameters| class::ground(&self.clusters, &self.settings, parameters).ok())
            .map(|ground| (ground.cluster, ground.admin))
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
        self.known().iter().map(|store| store.status()).collect()
    }
}
