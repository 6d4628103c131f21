//! Subvolumes of `CephFS`: [`Cephfs`], made from the clusters and [`Settings`].
//!
//! A volume is a subvolume of Ceph's own volumes module, made and removed by `ceph fs subvolume`. Nothing is mounted here, and
//! no directory is touched: what the module cannot do is refused. Whose a subvolume is stands in its metadata (`mark`).

mod class;
#[cfg(any(test, feature = "test"))]
pub mod conformance;
mod create;
mod expire;
mod info;
mod legacy;
mod mark;
mod names;
mod proof;
mod purge;
mod record;
mod register;
mod remove;
mod settings;
mod store;
mod subvolumes;
mod sweep;
#[cfg(test)]
pub(crate) mod tests;
mod users;
mod volume_context;
mod work;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::{Instant, SystemTime},
};

use async_trait::async_trait;
pub use class::PARAMETERS;
use futures::{StreamExt as _, stream::FuturesUnordered};
use legacy::LegacyVolume;
use record::ControllerContext;
pub use settings::{NAME, Settings};
use store::Store;
use volume_context::VolumeContext;
use work::FsClient;

use crate::{
    backend::{
        Backend, Capabilities, Error, Inspection, Janitor, Kind, Known, KnownVolume, Kubernetes, Removed,
        Restored, StoreExpectation, StoreStatus, Stores, Uncommitted,
        ceph::{
            Admin, Cluster, Clusters, KnownStores, Monitors,
            class::{Form, Parameters},
            owner::PvVolume,
        },
    },
    system::keyed_lock::{KeyedLock, KeyedLocks},
    volume::{
        CephfsSource, CsiSource, Disposal, ExpandRequest, Expanded, InUse, Invalid, Location, Permit,
        Placement, Removal, SecretName, Source, Volume, VolumeId, VolumeName, VolumeRequest, is_uuid,
    },
};

/// The backend.
pub struct Cephfs {
    capabilities: Capabilities,
    settings: Settings,
    stores: KnownStores<Store>,
    locks: KeyedLocks<VolumeName>,
}

impl fmt::Debug for Cephfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cephfs").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Cephfs {
    /// A backend over these clusters, and those that classes describe. Asks nothing of them yet.
    pub fn new(clusters: Clusters, kube: Arc<dyn Kubernetes>, settings: Settings) -> Result<Self, Error> {
        if settings.driver.is_empty() {
            return Err(Error::new(Kind::Invalid, "the name of the CSI driver is empty"));
        }
        let configured = clusters.configured();
        let tools = configured.first().map_or_else(Default::default, |cluster| cluster.tools().clone());
        let capabilities = Capabilities {
            name: NAME,
            block: false,
            expand: true,
            parameters: PARAMETERS,
            case_insensitive: true,
            legacy_default: Disposal::Delete,
            concurrency: tools.concurrency.max(1) * configured.len().max(1),
        };
        let stores = KnownStores::new(clusters, kube, settings.admins.clone(), Store::new)?;
        Ok(Self { capabilities, settings, stores, locks: KeyedLocks::default() })
    }

    async fn work(&self, cluster: &Cluster, admin: Admin) -> Result<FsClient, Error> {
        FsClient::new(self.stores.of(cluster), &self.stores.kube, admin, self.locks.clone()).await
    }

    /// To work on a store as the configured user, or the one that was met last; `None` where there is none yet.
    async fn work_on(&self, store: &str) -> Result<Option<FsClient>, Error> {
        let Some(cluster) = self.stores.clusters.named(store) else {
            let message = format!("there is no cluster {store:?}");
            return Err(Error::new(Kind::Refused, message));
        };
        // Whom a class names may be allowed less than whom the administrator configured.
        let met = || self.stores.of(&cluster).memory().admin.clone();
        match self.settings.admins.get(store).cloned().or_else(met) {
            Some(admin) => self.work(&cluster, admin).await.map(Some),
            None => Ok(None),
        }
    }

    /// Waits until something is to be purged: what is due next by the clock that says `now`, or what is deleted now.
    async fn rest(&self, now: SystemTime) {
        let stores = self.stores.all();
        let due = |store: &Arc<Store>| store.memory().deleted.values().flatten().min().copied();
        let next = stores.iter().filter_map(due).min();
        let wait = next.map_or(store::LATER, |next| next.duration_since(now).unwrap_or_default());
        // There may be none yet.
        let mut woken: FuturesUnordered<_> = stores.iter().map(|store| store.wake.notified()).collect();
        tokio::select! {
            () = tokio::time::sleep(wait.clamp(purge::SOON, store::LATER)) => {}
            // The PV goes right after it was deleted here.
            Some(()) = woken.next() => {
                tokio::time::sleep(purge::SOON).await;
            }
        }
    }

    fn try_lock(&self, name: &VolumeName) -> Result<KeyedLock<VolumeName>, Error> {
        work::try_lock(&self.locks, name)
    }

    /// The cluster of these monitors as a store's name, without making it known. Clusters that classes describe do not count:
    /// which of them are known changes, and where a volume lies must not.
    fn name_of(&self, monitors: &str) -> Option<String> {
        let monitors: Monitors = monitors.parse().ok()?;
        let mut configured = self.stores.clusters.configured().into_iter();
        let known = configured.find(|cluster| cluster.monitors().share_one(&monitors));
        Some(known.map_or_else(|| monitors.store_name(), |cluster| cluster.name().to_owned()))
    }

    /// To work on a volume of ours: its record, and the cluster that it names.
    async fn work_of(&self, id: &VolumeId, pv: PvVolume<'_>) -> Result<(FsClient, ControllerContext), Error> {
        let PvVolume { name, source, pv_metadata, .. } = pv;
        let refuse = |message: String| Err(Error::new(Kind::Refused, message));
        if id.backend() != NAME || id.name() != name {
            return refuse(format!("PersistentVolume {name} carries the id of another volume, {id}"));
        }
        let record = ControllerContext::read(&pv_metadata.record)?;
        let place = self.locate(source);
        if place.is_none_or(|place| place.path != names::path(&record.group, &record.subvolume)) {
            return refuse(format!(
                "PersistentVolume {name} says in its source that its volume is {source}, but in its record that it is subvolume {} of \
                 group {}; nothing was touched",
                record.subvolume, record.group
            ));
        }
        let cluster = match (self.stores.clusters.named(id.store()), &record.monitors) {
            (Some(cluster), _) => cluster,
            (None, Some(monitors)) => self.stores.clusters.reached_by(&monitors.parse()?)?,
            (None, None) => {
                return refuse(format!(
                    "cluster {:?}, on which volume {name} lies, is not configured; nothing was touched. Configure it again under that name",
                    id.store()
                ));
            }
        };
        let admin = match (&record.admin, self.settings.admins.get(cluster.name())) {
            (Some(admin), _) | (None, Some(admin)) => admin.clone(),
            (None, None) => {
                return refuse(format!(
                    "no user is configured for cluster {}, on which volume {name} lies; configure adminId and adminSecretName for it",
                    cluster.name()
                ));
            }
        };
        Ok((self.work(&cluster, admin).await?, record))
    }

    /// To work on a volume that cephfs-provisioner made: on the cluster that the PV names, as the user of its class.
    async fn legacy_work(&self, pv: PvVolume<'_>) -> Result<(FsClient, LegacyVolume), Error> {
        let PvVolume { source, claim, pv_metadata, .. } = pv;
        let Source::Cephfs(source) = source else {
            let message =
                format!("{source} carries no id of ours and is no CephFS directory; nothing was touched");
            return Err(Error::new(Kind::Refused, message));
        };
        let legacy = LegacyVolume::read(source, claim, pv_metadata)?;
        let monitors: Monitors = source.monitors.join(",").parse().map_err(|wrong: Invalid| {
            let message =
                format!("{} is on a cluster that cannot be found; nothing was touched", legacy.path);
            Error::caused_by(Kind::Refused, message, wrong)
        })?;
        let cluster = self.stores.clusters.reached_by(&monitors)?;
        let parameters = Parameters(&pv_metadata.parameters);
        // A class may have been replaced by one for another cluster.
        if let Some(text) = parameters.get("monitors") {
            let theirs: Monitors = text.parse()?;
            if !theirs.share_one(&monitors)
                && self.stores.clusters.reached_by(&theirs)?.name() != cluster.name()
            {
                let message = format!(
                    "{} was made on the cluster at {monitors}, but its class names the one at {theirs}; nothing was touched. If they are \
                     the same cluster, configure it with the monitors of both",
                    legacy.path
                );
                return Err(Error::new(Kind::Refused, message));
            }
        }
        let admin = parameters.admin(&self.settings.admins, &cluster).map_err(|error| {
            let message = format!(
                "no user is known that may remove {}: its class is gone or names no adminSecretName, and no user is configured for the cluster \
                 at {monitors}; create the class again, or configure the cluster",
                legacy.path
            );
            Error::caused_by(Kind::Refused, message, error)
        })?;
        Ok((self.work(&cluster, admin.0).await?, legacy))
    }

    fn locate_csi(&self, csi: &CsiSource) -> Option<Location> {
        if csi.driver != self.settings.driver {
            return None;
        }
        let VolumeContext { cluster_id, monitors, group, subvolume, .. } =
            VolumeContext::read(&csi.attributes)?;
        let store = match (cluster_id, monitors) {
            (Some(name), _) => name,
            (None, Some(monitors)) => self.name_of(&monitors)?,
            (None, None) => return None,
        };
        Some(Location { store, path: names::path(&group, &subvolume) })
    }

    fn locate_directory(&self, source: &CephfsSource) -> Option<Location> {
        let mut segments = names::segments_of(&source.path)?;
        // The data of a subvolume lies below it, in a directory with a name that only Ceph knows.
        if let [root, group, subvolume, data @ ..] = segments.as_slice() {
            let of_a_subvolume = match data {
                [data] => is_uuid(data),
                [roots, data, mnt] => roots == "roots" && is_uuid(data) && mnt == "mnt",
                _ => false,
            };
            let ours = names::volume_of(subvolume).is_some() || names::is_deterministic(subvolume);
            if root == names::ROOT && names::group(group).is_ok() && of_a_subvolume && ours {
                segments.truncate(3);
            }
        }
        Some(Location {
            store: self.name_of(&source.monitors.join(","))?,
            path: segments.into_iter().collect(),
        })
    }
}

/// What the PV of this source is for.
fn form(source: &Source) -> Form {
    match source {
        Source::Cephfs(_) => Form::InTree,
        Source::Csi(_) | Source::Nfs { .. } | Source::Rbd(_) => Form::Csi,
    }
}

#[async_trait]
impl Backend for Cephfs {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn place(&self, request: &VolumeRequest) -> Result<Placement, Error> {
        let plan = class::plan(&self.stores.clusters, &self.settings, request)?;
        Ok(Placement::new(plan.place.clone(), false, plan))
    }

    fn locate(&self, source: &Source) -> Option<Location> {
        match source {
            Source::Csi(csi) => self.locate_csi(csi),
            Source::Cephfs(source) => self.locate_directory(source),
            Source::Nfs { .. } | Source::Rbd(_) => None,
        }
    }

    async fn create(&self, request: &VolumeRequest, permit: &Permit) -> Result<Volume, Error> {
        let plan = request.plan(|| class::plan(&self.stores.clusters, &self.settings, request))?;
        let _held = self.try_lock(&request.name)?;
        permit.check()?;
        let work = self.work(&plan.cluster, plan.admin.clone()).await?;
        work.invalidate(create::create(&work, &self.settings.driver, request, &plan, permit).await)
    }

    async fn commit(&self, id: &VolumeId, _: &str, permit: &Permit) -> Result<(), Error> {
        // Whether a volume is used is told by its PV alone: nothing is noted on the storage.
        permit.check()?;
        if let Some(cluster) = self.stores.clusters.named(id.store()) {
            self.stores.of(&cluster).memory().uncommitted.remove(id.name());
        }
        Ok(())
    }

    async fn remove(&self, removal: &Removal, permit: &Permit) -> Result<Removed, Error> {
        let _held = self.try_lock(&removal.name)?;
        permit.check()?;
        if let Some(id) = &removal.id {
            let (work, record) = self.work_of(id, removal.into()).await?;
            return remove::remove(&work, removal, &record, permit).await;
        }
        let (work, legacy) = self.legacy_work(removal.into()).await?;
        work.invalidate(legacy::remove(&work, &legacy, &removal.name, removal.disposal, permit).await)
    }

    async fn restore(&self, removal: &Removal, permit: &Permit) -> Result<Restored, Error> {
        let _held = self.try_lock(&removal.name)?;
        permit.check()?;
        if let Some(id) = &removal.id {
            let (work, record) = self.work_of(id, removal.into()).await?;
            return remove::restore(&work, removal, &record, form(&removal.source), permit).await;
        }
        let (work, legacy) = self.legacy_work(removal.into()).await?;
        legacy::restore(&work, &legacy, permit).await
    }

    async fn expand(&self, request: &ExpandRequest, permit: &Permit) -> Result<Expanded, Error> {
        if self.locate(&request.source).is_none() {
            let message = format!("{} of volume {} lies in no known cluster", request.source, request.name);
            return Err(Error::new(Kind::NotFound, message));
        }
        let _held = self.try_lock(&request.name)?;
        permit.check()?;
        let quota = class::quota(request.capacity.bytes())?;
        if let Some(id) = &request.id {
            let (work, record) = self.work_of(id, request.into()).await?;
            return remove::expand(&work, request, &record, quota, permit).await;
        }
        let (work, legacy) = self.legacy_work(request.into()).await?;
        work.invalidate(legacy::expand(&work, &legacy, quota, permit).await)
    }

    async fn rollback(&self, uncommitted: &Uncommitted, permit: &Permit) -> Result<(), Error> {
        let _held = self.try_lock(uncommitted.id.name())?;
        permit.check()?;
        let Some(work) = self.work_on(uncommitted.id.store()).await? else {
            let message = format!("volume {} was not found by this process", uncommitted.id);
            return Err(Error::new(Kind::Refused, message));
        };
        sweep::rollback(&work, uncommitted, permit).await
    }
}

#[async_trait]
impl Janitor for Cephfs {
    fn kept_secret(&self, record: &BTreeMap<String, String>) -> Option<SecretName> {
        ControllerContext::read(record).ok()?.own.map(|(_, secret)| secret)
    }

    async fn unregistered(&self, store: &str, volumes: &[KnownVolume]) -> Result<Vec<VolumeName>, Error> {
        match self.work_on(store).await? {
            Some(work) => sweep::unregistered(&work, volumes).await,
            None => Ok(Vec::new()),
        }
    }

    async fn register(&self, volume: &InUse, permit: &Permit) -> Result<(), Error> {
        let _held = self.try_lock(&volume.name)?;
        permit.check()?;
        if let Some(id) = &volume.id {
            let (work, record) = self.work_of(id, volume.into()).await?;
            return register::register(&work, volume, &record, form(&volume.source), permit).await;
        }
        let (work, legacy) = self.legacy_work(volume.into()).await?;
        legacy::register(&work, &legacy, volume, permit).await
    }

    async fn list_uncommitted(&self, store: &str, known: Known<'_>) -> Result<Vec<Uncommitted>, Error> {
        let Some(work) = self.work_on(store).await? else {
            tracing::debug!(
                store,
                "not listing uncommitted volumes: no StorageClass has named a Ceph user yet"
            );
            return Ok(Vec::new());
        };
        work.invalidate(sweep::list_uncommitted(&work, known).await)
    }

    async fn collect_garbage(&self, permit: &Permit) {
        for store in self.stores.all() {
            store.begin_term();
        }
        while permit.check().is_ok() {
            // Without the API server's time nothing expires.
            let Some(now) = self.stores.kube.now() else {
                tokio::time::sleep(purge::SOON).await;
                continue;
            };
            let due = |store: &Arc<Store>| {
                let retry = store.memory().retry;
                sweep::has_garbage(store, now) && retry.is_none_or(|retry| retry <= Instant::now())
            };
            for store in self.stores.all().into_iter().filter(due) {
                let name = store.cluster.name();
                let done = match self.work_on(name).await {
                    Ok(Some(work)) => sweep::collect_garbage(&work, now, permit).await,
                    Ok(None) => Ok(()),
                    Err(error) => Err(error),
                };
                // A list of everything is not made every few seconds.
                store.memory().retry = done.is_err().then(|| Instant::now() + purge::AGAIN);
                let Err(error) = done else { continue };
                let error = error.chain();
                if store.memory().groups.is_empty() {
                    // It may have no file system, or its user no rights to one.
                    tracing::debug!(store = name, error, "cannot look for archives");
                } else {
                    tracing::warn!(store = name, error, "expired archives could not be deleted; tried again");
                }
            }
            self.rest(now).await;
        }
    }
}

impl Stores for Cephfs {
    fn inspect(&self, parameters: &BTreeMap<String, String>) -> Inspection {
        Parameters(parameters).inspect(&self.settings.driver)
    }

    fn is_provisional(&self, store: &str) -> bool {
        !self.stores.clusters.is_configured(store)
    }

    fn expect_store(&self, expected: StoreExpectation) {
        self.stores.expect(expected);
    }

    fn register_class(&self, parameters: &BTreeMap<String, String>) {
        // A class that is wrong says so when a claim uses it.
        let Ok(target) = class::class_target(&self.stores.clusters, &self.settings, parameters) else {
            return;
        };
        let store = self.stores.of(&target.cluster);
        store.cluster.watch(&self.stores.kube, &target.admin);
        let mut memory = store.memory();
        memory.admin.get_or_insert(target.admin);
        memory.groups.insert(target.group);
        memory.filesystems.extend(target.fs);
    }

    fn retain_stores(&self, classes: &[BTreeMap<String, String>], used: &BTreeSet<String>) {
        let read = |parameters| class::class_target(&self.stores.clusters, &self.settings, parameters).ok();
        let classes: Vec<_> =
            classes.iter().filter_map(read).map(|target| (target.cluster, target.admin)).collect();
        self.stores.retain(&classes, used);
    }

    fn stores(&self) -> Vec<StoreStatus> {
        self.stores.all().iter().map(|store| store.status()).collect()
    }
}
