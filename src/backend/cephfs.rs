//! Subvolumes of `CephFS`: [`Cephfs`], made from the clusters and [`Settings`].
//!
//! A volume is a subvolume of Ceph's own volumes module, made and removed by `ceph fs subvolume`. Nothing is mounted here, and
//! no directory is touched: what the module cannot do is refused. Whose a subvolume is stands in its metadata (`mark`).

mod class;
#[cfg(any(test, feature = "test"))]
pub mod conformance;
mod create;
mod legacy;
mod mark;
mod names;
mod proof;
mod purge;
mod record;
mod register;
mod remove;
mod store;
mod subvolumes;
mod sweep;
#[cfg(test)]
pub(crate) mod tests;
mod users;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
pub use class::PARAMETERS;
use futures::{StreamExt as _, stream::FuturesUnordered};
use legacy::LegacyVolume;
use record::Record;
use store::{Store, Told, Work};

use crate::{
    backend::{
        Backend, Capabilities, Error, Inspection, Janitor, Kind, Known, KnownVolume, Kubernetes, Removed,
        Restored, StoreExpectation, StoreStatus, Stores, Uncommitted,
        ceph::{
            Admin, Cluster, Clusters, Monitors,
            class::{Form, Parameters, is_described},
        },
    },
    system::guard::{Guards, Held},
    volume::{
        CephfsSource, CsiSource, Disposal, ExpandRequest, Expanded, InUse, Invalid, Location, Permit,
        Placement, PvMetadata, Removal, SecretName, Source, Volume, VolumeId, VolumeName, VolumeRequest,
    },
};

/// The backend's name in volume ids and metrics.
pub const NAME: &str = "cephfs";

/// How often archives are looked at.
const TENDING: Duration = Duration::from_mins(10);

/// How the administrator set the backend up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The name of the CSI driver that the PVs name: `cephfs.berth.storage`.
    pub driver: String,
    /// With which user subvolumes of a configured cluster are made, where the class does not say: by the cluster's name.
    pub admins: BTreeMap<String, Admin>,
    /// Where the Secrets of the volumes' own users are kept where the class does not say
    /// (`PROVISIONER_SECRET_NAMESPACE`, `-secret-namespace`); `None` for the claim's namespace.
    pub secret_namespace: Option<String>,
}

/// The backend.
pub struct Cephfs {
    capabilities: Capabilities,
    clusters: Clusters,
    host: Arc<dyn Kubernetes>,
    settings: Settings,
    stores: Mutex<BTreeMap<String, Arc<Store>>>,
    /// What the existing volumes say, by store.
    past: Mutex<BTreeMap<String, Told>>,
    guards: Guards<VolumeName>,
}

impl fmt::Debug for Cephfs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cephfs")
            .field("clusters", &self.clusters)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Cephfs {
    /// A backend over these clusters, and those that classes describe. Asks nothing of them yet.
    pub fn new(clusters: Clusters, host: Arc<dyn Kubernetes>, settings: Settings) -> Result<Self, Error> {
        let configured = clusters.configured();
        for name in settings.admins.keys() {
            if !configured.iter().any(|cluster| cluster.name() == name) {
                let message =
                    format!("a user is configured for cluster {name:?}, which is not configured itself");
                return Err(Error::new(Kind::Invalid, message));
            }
        }
        if settings.driver.is_empty() {
            return Err(Error::new(Kind::Invalid, "the name of the CSI driver is empty"));
        }
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
        Ok(Self {
            capabilities,
            clusters,
            host,
            settings,
            stores: Mutex::default(),
            past: Mutex::default(),
            guards: Guards::default(),
        })
    }

    /// What is known of the cluster.
    fn store(&self, cluster: &Cluster) -> Arc<Store> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let store = stores.entry(cluster.name().to_owned()).or_insert_with(|| {
            let store = Store::new(cluster.clone());
            if let Some(told) = self.past.lock().unwrap_or_else(PoisonError::into_inner).get(cluster.name()) {
                store.expect_store(told);
            }
            Arc::new(store)
        });
        Arc::clone(store)
    }

    /// The stores of the configured clusters, as configured, then those that were met, by name.
    fn known(&self) -> Vec<Arc<Store>> {
        let mut known: Vec<_> =
            self.clusters.configured().iter().map(|cluster| self.store(cluster)).collect();
        let met = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(met.values().filter(|store| is_described(&store.cluster)).cloned());
        known
    }

    async fn work(&self, cluster: &Cluster, admin: Admin) -> Result<Work, Error> {
        Work::new(self.store(cluster), Arc::clone(&self.host), admin, self.guards.clone()).await
    }

    /// To work on a store for which nobody names a user now; `None` where nobody did yet.
    async fn work_on(&self, store: &str) -> Result<Option<Work>, Error> {
        let Some(cluster) = self.clusters.named(store) else {
            let message = format!("there is no cluster {store:?}");
            return Err(Error::new(Kind::Refused, message));
        };
        // Whom a class names may be allowed less than whom the administrator configured.
        let met = || self.store(&cluster).memory().admin.clone();
        match self.settings.admins.get(store).cloned().or_else(met) {
            Some(admin) => self.work(&cluster, admin).await.map(Some),
            None => Ok(None),
        }
    }

    /// Waits until something is to be purged: what is due next by the clock that says `now`, or what is deleted now.
    async fn rest(&self, now: SystemTime) {
        let stores = self.known();
        let due = |store: &Arc<Store>| store.memory().deleted.values().flatten().min().copied();
        let next = stores.iter().filter_map(due).min();
        let wait = next.map_or(TENDING, |next| next.duration_since(now).unwrap_or_default());
        // There may be none yet.
        let mut woken: FuturesUnordered<_> = stores.iter().map(|store| store.wake.notified()).collect();
        tokio::select! {
            () = tokio::time::sleep(wait.clamp(purge::SOON, TENDING)) => {}
            // The PV goes right after it was deleted here.
            Some(()) = woken.next() => {
                tokio::time::sleep(purge::SOON).await;
            }
        }
    }

    fn hold(&self, name: &VolumeName) -> Result<Held<VolumeName>, Error> {
        store::hold(&self.guards, name)
    }

    /// The cluster of these monitors as a store's name, without making it known. Clusters that classes describe do not count:
    /// which of them are known changes, and where a volume lies must not.
    fn name_of(&self, monitors: &str) -> Option<String> {
        let monitors: Monitors = monitors.parse().ok()?;
        let mut configured = self.clusters.configured().into_iter();
        let known = configured.find(|cluster| cluster.monitors().share_one(&monitors));
        Some(known.map_or_else(|| monitors.store_name(), |cluster| cluster.name().to_owned()))
    }

    /// To work on a volume of ours: its record, and the cluster that it names.
    async fn work_of(
        &self,
        id: &VolumeId,
        name: &VolumeName,
        source: &Source,
        pv_metadata: &PvMetadata,
    ) -> Result<(Work, Record), Error> {
        let refuse = |message: String| Err(Error::new(Kind::Refused, message));
        if id.backend() != NAME || id.name() != name {
            return refuse(format!("PersistentVolume {name} carries the id of another volume, {id}"));
        }
        let record = Record::read(&pv_metadata.record)?;
        let place = self.locate(source);
        if place.is_none_or(|place| place.path != names::path(&record.group, &record.subvolume)) {
            return refuse(format!(
                "PersistentVolume {name} says in its source that its volume is {source}, but in its record that it is subvolume {} of \
                 group {}; nothing was touched",
                record.subvolume, record.group
            ));
        }
        let cluster = match (self.clusters.named(id.store()), &record.monitors) {
            (Some(cluster), _) => cluster,
            (None, Some(monitors)) => self.clusters.reached_by(&monitors.parse()?)?,
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
    async fn legacy_work(
        &self,
        source: &Source,
        claim: &crate::volume::ClaimKey,
        pv_metadata: &PvMetadata,
    ) -> Result<(Work, LegacyVolume), Error> {
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
        let cluster = self.clusters.reached_by(&monitors)?;
        let parameters = Parameters(&pv_metadata.parameters);
        // A class may have been made anew, for another cluster.
        if let Some(text) = parameters.get("monitors") {
            let theirs: Monitors = text.parse()?;
            if !theirs.share_one(&monitors) && self.clusters.reached_by(&theirs)?.name() != cluster.name() {
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
                "who may remove {} is not known: its class is gone or names no adminSecretName, and no user is configured for the cluster \
                 at {monitors}; make the class again, or configure the cluster",
                legacy.path
            );
            Error::caused_by(Kind::Refused, message, error)
        })?;
        Ok((self.work(&cluster, admin.0).await?, legacy))
    }

    fn locate_csi(&self, csi: &CsiSource) -> Option<Location> {
        let get = |key: &str| csi.attributes.get(key).filter(|value| !value.is_empty());
        if csi.driver != self.settings.driver {
            return None;
        }
        let (group, subvolume) = (names::group(get("group")?).ok()?, names::subvolume(get("subvolume")?)?);
        let store = match (get("clusterID"), get("monitors")) {
            (Some(name), _) => name.clone(),
            (None, Some(monitors)) => self.name_of(monitors)?,
            (None, None) => return None,
        };
        Some(Location { store, path: names::path(&group, subvolume) })
    }

    fn locate_directory(&self, source: &CephfsSource) -> Option<Location> {
        let mut segments = names::segments_of(&source.path)?;
        // The data of a subvolume lies below it, in a directory with a name that only Ceph knows.
        let uuid = |text: &str| text.len() == 36 && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        if let [root, group, subvolume, data @ ..] = segments.as_slice() {
            let of_a_subvolume = match data {
                [data] => uuid(data),
                [roots, data, mnt] => roots == "roots" && uuid(data) && mnt == "mnt",
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
        let plan = class::plan(&self.clusters, &self.settings, request)?;
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
        let plan = request.plan(|| class::plan(&self.clusters, &self.settings, request))?;
        let _held = self.hold(&request.name)?;
        permit.check()?;
        let work = self.work(&plan.cluster, plan.admin.clone()).await?;
        work.invalidate(create::create(&work, &self.settings.driver, request, &plan, permit).await)
    }

    async fn commit(&self, id: &VolumeId, _: &str, permit: &Permit) -> Result<(), Error> {
        // Whether a volume is used is told by its PV alone: nothing is noted on the storage.
        permit.check()?;
        if let Some(cluster) = self.clusters.named(id.store()) {
            self.store(&cluster).memory().uncommitted.remove(id.name());
        }
        Ok(())
    }

    async fn remove(&self, removal: &Removal, permit: &Permit) -> Result<Removed, Error> {
        let _held = self.hold(&removal.name)?;
        permit.check()?;
        if let Some(id) = &removal.id {
            let (work, record) =
                self.work_of(id, &removal.name, &removal.source, &removal.pv_metadata).await?;
            return remove::remove(&work, removal, &record, permit).await;
        }
        let (work, legacy) = self.legacy_work(&removal.source, &removal.claim, &removal.pv_metadata).await?;
        work.invalidate(legacy::remove(&work, &legacy, &removal.name, removal.disposal, permit).await)
    }

    async fn restore(&self, removal: &Removal, permit: &Permit) -> Result<Restored, Error> {
        let _held = self.hold(&removal.name)?;
        permit.check()?;
        if let Some(id) = &removal.id {
            let (work, record) =
                self.work_of(id, &removal.name, &removal.source, &removal.pv_metadata).await?;
            return remove::restore(&work, removal, &record, form(&removal.source), permit).await;
        }
        let (work, legacy) = self.legacy_work(&removal.source, &removal.claim, &removal.pv_metadata).await?;
        legacy::restore(&work, &legacy, permit).await
    }

    async fn expand(&self, request: &ExpandRequest, permit: &Permit) -> Result<Expanded, Error> {
        if self.locate(&request.source).is_none() {
            let message = format!("{} of volume {} lies in no known cluster", request.source, request.name);
            return Err(Error::new(Kind::NotFound, message));
        }
        let _held = self.hold(&request.name)?;
        permit.check()?;
        let quota = class::quota(request.capacity.bytes())?;
        if let Some(id) = &request.id {
            let (work, record) =
                self.work_of(id, &request.name, &request.source, &request.pv_metadata).await?;
            return remove::expand(&work, request, &record, quota, permit).await;
        }
        let (work, legacy) = self.legacy_work(&request.source, &request.claim, &request.pv_metadata).await?;
        work.invalidate(legacy::expand(&work, &legacy, quota, permit).await)
    }

    async fn rollback(&self, uncommitted: &Uncommitted, permit: &Permit) -> Result<(), Error> {
        let _held = self.hold(uncommitted.id.name())?;
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
        Record::read(record).ok()?.own.map(|(_, secret)| secret)
    }

    async fn unregistered(&self, store: &str, volumes: &[KnownVolume]) -> Result<Vec<VolumeName>, Error> {
        match self.work_on(store).await? {
            Some(work) => sweep::unregistered(&work, volumes).await,
            None => Ok(Vec::new()),
        }
    }

    async fn register(&self, volume: &InUse, permit: &Permit) -> Result<(), Error> {
        let _held = self.hold(&volume.name)?;
        permit.check()?;
        if let Some(id) = &volume.id {
            let (work, record) = self.work_of(id, &volume.name, &volume.source, &volume.pv_metadata).await?;
            return register::register(&work, volume, &record, form(&volume.source), permit).await;
        }
        let (work, legacy) = self.legacy_work(&volume.source, &volume.claim, &volume.pv_metadata).await?;
        legacy::register(&work, &legacy, volume, permit).await
    }

    async fn list_uncommitted(&self, store: &str, known: Known<'_>) -> Result<Vec<Uncommitted>, Error> {
        let Some(work) = self.work_on(store).await? else {
            tracing::debug!(store, "what was begun is not looked for: no class has told yet with which user");
            return Ok(Vec::new());
        };
        work.invalidate(sweep::list_uncommitted(&work, known).await)
    }

    async fn collect_garbage(&self, permit: &Permit) {
        for store in self.known() {
            store.begin_term();
        }
        while permit.check().is_ok() {
            // Without the API server's time nothing expires.
            let Some(now) = self.host.now() else {
                tokio::time::sleep(purge::SOON).await;
                continue;
            };
            let due = |store: &Arc<Store>| {
                let retry = store.memory().retry;
                sweep::has_garbage(store, now) && retry.is_none_or(|retry| retry <= Instant::now())
            };
            for store in self.known().into_iter().filter(due) {
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
                    tracing::debug!(store = name, error, "whether there are archives was not found out");
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
        !self.clusters.is_configured(store)
    }

    fn expect_store(&self, past: StoreExpectation) {
        // The second segment of a place is the group. What an older provisioner made lies deeper.
        let groups = past.places.iter().filter(|place| place.path.len() == 3);
        let groups = groups.filter_map(|place| place.path.get(1).cloned()).collect();
        let told = Told { identity: past.identity, groups };
        self.past.lock().unwrap_or_else(PoisonError::into_inner).insert(past.store.clone(), told.clone());
        let store = self.stores.lock().unwrap_or_else(PoisonError::into_inner).get(&past.store).cloned();
        if let Some(store) = store {
            store.expect_store(&told);
        }
    }

    fn retain_stores(&self, classes: &[BTreeMap<String, String>], used: &BTreeSet<String>) {
        let met: Vec<_> = classes
            .iter()
            .filter_map(|parameters| class::class_target(&self.clusters, &self.settings, parameters).ok())
            .map(|met| (met.cluster, met.admin))
            .collect();
        let named = |name: &str| used.contains(name) || met.iter().any(|(cluster, _)| cluster.name() == name);
        self.past.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| named(name));
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        stores.retain(|name, store| {
            let by_class = |admin: &Admin| met.iter().any(|(of, by)| of.name() == name && by == admin);
            store
                .cluster
                .retain_users(|admin| self.settings.admins.get(name) == Some(admin) || by_class(admin));
            for (_, admin) in met.iter().filter(|(of, _)| of.name() == name) {
                store.cluster.watch(&self.host, admin);
            }
            let purging = !store.memory().deleted.is_empty() && store.cluster.health().ready.is_ok();
            let kept = !is_described(&store.cluster) || named(name) || purging;
            if !kept {
                tracing::info!(
                    cluster = name,
                    "no class and no volume names the cluster any more: it is forgotten"
                );
                // Whoever waits for it lets it go.
                store.wake.notify_one();
            }
            kept
        });
    }

    fn register_class(&self, parameters: &BTreeMap<String, String>) {
        // A class that is wrong says so when a claim uses it.
        let Ok(met) = class::class_target(&self.clusters, &self.settings, parameters) else { return };
        let store = self.store(&met.cluster);
        store.cluster.watch(&self.host, &met.admin);
        let mut memory = store.memory();
        memory.admin.get_or_insert(met.admin);
        memory.groups.insert(met.group);
        memory.filesystems.extend(met.fs);
    }

    fn stores(&self) -> Vec<StoreStatus> {
        self.known().iter().map(|store| store.status()).collect()
    }
}
