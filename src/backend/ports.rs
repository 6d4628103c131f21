//! What a storage system must be able to do, one trait for each kind of caller: [`Backend`], [`Janitor`] and [`Stores`].
//!
//! The contract of every method that takes a permit or may wait:
//! * idempotent: repeated after a success it succeeds again and changes nothing;
//! * may be dropped at any await: a later call finishes or undoes the work;
//! * the error's [`kind`](Error::kind) says whether something may still appear;
//! * nothing is changed after [`Permit::check`](crate::volume::Permit::check) says that the right has ended;
//! * a hung store answers [`Kind::Unavailable`](super::Kind::Unavailable) within the store's deadline, and delays no other store.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;

use super::{Error, Inspection};
use crate::volume::{
    ClaimKey, Disposal, ExpandRequest, Expanded, InUse, Location, Permit, Placement, Removal, SecretName,
    Source, Volume, VolumeId, VolumeName, VolumeRequest,
};

/// Creates, expands and removes volumes: for the work on one claim or one PV.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// What this backend can do and which class parameters it reads.
    fn capabilities(&self) -> &Capabilities;

    /// Where `request` would be created: pure, touches nothing. Refuses bad parameters and names.
    fn place(&self, request: &VolumeRequest) -> Result<Placement, Error>;

    /// Where an existing volume lies, if it lies in one of this backend's stores: pure, touches nothing.
    fn locate(&self, source: &Source) -> Option<Location>;

    /// Creates the volume, or finds the one that an earlier call created. A request that has a
    /// [`placement`](VolumeRequest::placement) is not parsed again.
    ///
    /// It stays uncommitted (see [`Janitor::list_uncommitted`]) until [`commit`](Backend::commit).
    async fn create(&self, request: &VolumeRequest, permit: &Permit) -> Result<Volume, Error>;

    /// Records that the volume is in use: its PV is stored, as the object with this UID. From now on no sweep may take it.
    async fn commit(&self, id: &VolumeId, uid: &str, permit: &Permit) -> Result<(), Error>;

    /// Removes an uncommitted volume: an empty one goes to the trash, one with content is refused. Changes nothing outside its
    /// [`place`](Uncommitted::place), where that is known.
    async fn rollback(&self, uncommitted: &Uncommitted, permit: &Permit) -> Result<(), Error>;

    /// Deletes, archives or keeps the volume: proves at the storage that it is ours and that no other volume of any cluster
    /// uses its path, one above or one below, and moves it to the trash. [`Janitor::collect_garbage`] purges it after it has
    /// asked [`ClusterInfo::pv_state`](super::ClusterInfo::pv_state); until then [`restore`](Backend::restore) undoes the
    /// removal.
    async fn remove(&self, removal: &Removal, permit: &Permit) -> Result<Removed, Error>;

    /// Puts a volume back that [`remove`](Backend::remove) moved to the trash or to the archive, and gives up a removal that
    /// was begun: its PV is to be kept after all. Called before our finalizer is taken off a PV, too, so it is
    /// [`Kind::Busy`](super::Kind::Busy) while any work on the volume runs, and succeeds where nothing was begun.
    async fn restore(&self, removal: &Removal, permit: &Permit) -> Result<Restored, Error>;

    /// Makes the volume hold at least so much, never less than before; says what it holds then.
    async fn expand(&self, request: &ExpandRequest, permit: &Permit) -> Result<Expanded, Error>;
}

/// What the leader does about volumes beside the work on a claim or a PV: finds what was begun and what is not recorded, and
/// purges the trash.
#[async_trait]
pub trait Janitor: Send + Sync + 'static {
    /// The volumes of `store` that were begun and never committed, oldest first. A backend that does not record which
    /// were committed leaves out those that are `known`, which have a PV.
    async fn list_uncommitted(&self, store: &str, known: Known<'_>) -> Result<Vec<Uncommitted>, Error>;

    /// Reclaims what was moved to the trash, until the permit ends. Dropped when leadership ends.
    async fn collect_garbage(&self, permit: &Permit);

    /// Which of `volumes`, all of which have a PV, the storage does not know as volumes of this cluster: those of older
    /// provisioners, those of earlier versions of berth, those whose records were lost. The caller reads their PVs and
    /// tells of them with [`register`](Janitor::register). Costs one listing, not one look for each volume.
    async fn unregistered(&self, store: &str, volumes: &[KnownVolume]) -> Result<Vec<VolumeName>, Error>;

    /// Records whose a volume is that is in use, and makes its Secret again ([`kept_secret`](Janitor::kept_secret)) where that
    /// was deleted. What another cluster has recorded is left alone: [`Kind::Refused`](super::Kind::Refused); so is a Secret of
    /// that name that was not kept for the volume: [`Kind::Conflict`](super::Kind::Conflict).
    async fn register(&self, volume: &InUse, permit: &Permit) -> Result<(), Error>;

    /// The Secret that berth keeps for a volume with this [record](Volume::record) and that nodes need to mount it; `None` if they
    /// need another one or none. Pure: changes nothing.
    fn kept_secret(&self, _record: &BTreeMap<String, String>) -> Option<SecretName> {
        None
    }
}

/// The exports or clusters of a backend: what classes and volumes say of them, and how they are. Every method answers at once,
/// from memory, and changes no storage.
pub trait Stores: Send + Sync + 'static {
    /// What a class says before any claim uses it, by its parameters as [`VolumeRequest::parameters`] has them. Of a class that
    /// is wrong it may say nothing: its claims are refused with the reason.
    fn inspect(&self, _parameters: &BTreeMap<String, String>) -> Inspection {
        Inspection::default()
    }

    /// Tells what the existing volumes say of a store. Called once for every store, also for one that only volumes name, before
    /// any volume is made or removed there: a store whose root is not what it was (not mounted, another disk) is refused
    /// until it is again. All classes are registered by then ([`register_class`](Stores::register_class)).
    fn expect_store(&self, expected: StoreExpectation);

    /// Tells of a class that is served, by its parameters as [`VolumeRequest::parameters`] has them: a store that only
    /// classes describe is known from then on, and what lies in it is looked after although nothing was asked of it yet. A
    /// class that is wrong is told when it is used.
    fn register_class(&self, _parameters: &BTreeMap<String, String>) {}

    /// Replaces all classes that were registered ([`register_class`](Stores::register_class)), and all stores in which volumes
    /// exist or are being created. A store that is neither configured nor named by any of them is forgotten once what was deleted
    /// there is purged, and known again as soon as it is named.
    fn retain_stores(&self, _classes: &[BTreeMap<String, String>], _used: &BTreeSet<String>) {}

    /// Whether this store has no configured name, so that its name follows from addresses: written with others, the same
    /// storage has another name.
    fn is_provisional(&self, _store: &str) -> bool {
        false
    }

    /// The state of every store, for readiness and metrics.
    fn stores(&self) -> Vec<StoreStatus>;
}

/// One storage system with all its configured stores (exports, clusters): every port of it.
pub trait StorageSystem: Backend + Janitor + Stores {}

impl<T: Backend + Janitor + Stores> StorageSystem for T {}

/// Whether there is a PV of this name, as far as the caller knows.
pub type Known<'a> = &'a (dyn Fn(&VolumeName) -> bool + Send + Sync);

/// A volume that has a PV, as a caller remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownVolume {
    /// Its name.
    pub name: VolumeName,
    /// An older provisioner made it: its PV has no id of ours.
    pub legacy: bool,
}

/// Where a volume is whose removal was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restored {
    /// It was not moved.
    InPlace,
    /// It was moved back to its place.
    MovedBack,
}

/// What a backend can do.
#[derive(Debug, Clone)]
pub struct Capabilities {
    /// Its name in volume ids and in metrics: `nfs`.
    pub name: &'static str,
    /// Whether it can offer raw devices (`volumeMode: Block`).
    pub block: bool,
    /// Whether a volume can be made bigger.
    pub expand: bool,
    /// The class parameters it reads. Anything else is unknown.
    pub parameters: &'static [Parameter],
    /// Whether the names of its parameters may be written in any case, as the older provisioners of its kind took them.
    pub case_insensitive: bool,
    /// What the older provisioners of its kind did with the bytes where the class says nothing.
    pub legacy_default: Disposal,
    /// How many volumes it can usefully work on at a time.
    pub concurrency: usize,
}

/// A class parameter, for the documentation and for finding the nearest valid name of a misspelt one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Its name, as written in the class.
    pub name: &'static str,
    /// What values it takes.
    pub values: &'static str,
    /// What holds where it is absent.
    pub default: &'static str,
    /// What it does, in one sentence.
    pub effect: &'static str,
}

/// The class parameters of a backend, each as `"name": "values" = "default"; "effect";`, or as `use module::CONSTANT;`.
macro_rules! parameter_table {
    ($($(use $module:ident::$shared:ident)? $($name:literal: $values:literal = $default:literal; $effect:literal)?;)*) => {
        &[$(
            $($module::$shared)?
            $($crate::backend::Parameter { name: $name, values: $values, default: $default, effect: $effect })?
        ),*]
    };
}
pub(super) use parameter_table;

/// What became of a volume that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// It is in the trash and will be purged.
    Trashed,
    /// It was moved to this place, below the store's root.
    Archived(String),
    /// It was left where it is.
    Kept,
    /// The store is healthy, and there was nothing any more.
    Absent,
}

/// What the existing PVs say of a store: the process's only memory of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreExpectation {
    /// The store's configured name.
    pub store: String,
    /// The identity that the store had when the newest of the volumes was made; `None` where no volume tells.
    pub identity: Option<String>,
    /// Where some of the existing volumes lie; a few are enough.
    pub places: Vec<Location>,
}

/// A volume that was begun and whose PV was never committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uncommitted {
    /// Its id.
    pub id: VolumeId,
    /// Whose it is; namespace and name are empty where the work ended before they could be noted.
    pub claim: ClaimKey,
    /// When it was begun, by the store's clock where it has one.
    pub since: SystemTime,
    /// Where it lies, where that is known. An id does not tell: the class may have been recreated for another location, and what
    /// lies elsewhere under the same id may be in use.
    pub place: Option<Location>,
}

/// One export or cluster as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreStatus {
    /// Its configured name.
    pub name: String,
    /// Whether it can be used; else the reason, as a sentence for an administrator.
    pub ready: Result<(), String>,
    /// What is wrong, although it can be used: a class names a Secret that does not exist.
    pub problems: Vec<String>,
    /// Operations that are running now.
    pub running: usize,
    /// The operation that has run longest, with its path, and since when; for finding what hangs.
    pub oldest: Option<(String, Duration)>,
    /// Removed volumes that wait in the trash.
    pub trash: usize,
    /// What could not be purged: path below the root, and why.
    pub stuck: Vec<(String, String)>,
    /// File system objects purged since the start.
    pub purged: u64,
}
