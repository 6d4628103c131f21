//! What a storage system must be able to do: [`Backend`], its [`Error`], and [`Backends`] by provisioner name.
//!
//! A backend makes and unmakes volumes and knows nothing of Kubernetes objects or of gRPC. Whatever calls it decides
//! first; a backend decides only what the storage itself can answer (is this ours, does it exist, who lies beneath).
//!
//! The contract of every method:
//! * idempotent: repeated after a success it succeeds again and changes nothing;
//! * may be dropped at any await: a later call finishes or undoes the work;
//! * the error's [`kind`](Error::kind) says whether something may still appear;
//! * nothing is changed after [`Permit::check`](crate::volume::Permit::check) says that the right has ended;
//! * a hung store answers [`Kind::Unavailable`] within the store's deadline, and delays no other store.

pub mod ceph;
pub mod cephfs;
#[cfg(any(test, feature = "test"))]
pub mod conformance;
#[cfg(any(test, feature = "test"))]
pub mod fake_host;
mod inspection;
#[cfg(any(test, feature = "test"))]
pub mod memory;
pub mod nfs;
mod ownership;
pub mod rbd;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
pub use inspection::{Finding, Inspection};
pub use ownership::{UNKNOWN_CLUSTER, quoted, take_over};

use crate::volume::{
    ClaimKey, ClusterIds, Disposal, ExpandRequest, Expanded, Expired, InUse, Invalid, Location, Permit,
    Removal, SecretName, Secrets, Source, Volume, VolumeId, VolumeName, VolumeRequest,
};

/// One storage system with all its configured stores (exports, clusters).
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// What this backend can do and which class parameters it reads.
    fn capabilities(&self) -> &Capabilities;

    /// Where `request` would be made: pure, touches nothing. Refuses bad parameters and names.
    fn place(&self, request: &VolumeRequest) -> Result<Location, Error>;

    /// Whether the class allows this volume to lie at exactly the place of another one. Above or below another volume
    /// is never allowed. Pure, touches nothing.
    fn shares(&self, request: &VolumeRequest) -> bool;

    /// What a class says before any claim uses it, by its parameters as [`VolumeRequest::parameters`] has them: pure, touches
    /// nothing. Of a class that is wrong it may say nothing: its claims are refused with the reason.
    fn inspect(&self, _parameters: &BTreeMap<String, String>) -> Inspection {
        Inspection::default()
    }

    /// Where an existing volume lies, if it lies in one of this backend's stores: pure, touches nothing.
    fn locate(&self, source: &Source) -> Option<Location>;

    /// Whether nobody gave this store its name, so that it follows from addresses: written with others, the same storage has
    /// another name. Pure, touches nothing.
    fn is_provisional(&self, _store: &str) -> bool {
        false
    }

    /// The Secret that berth keeps for a volume with this [record](Volume::record) and that nodes need to mount it; `None` if they
    /// need another one or none. Pure: changes nothing.
    fn kept_secret(&self, _record: &BTreeMap<String, String>) -> Option<SecretName> {
        None
    }

    /// Creates the volume, or finds the one that an earlier call created.
    ///
    /// It stays uncommitted (see [`list_uncommitted`](Backend::list_uncommitted)) until [`commit`](Backend::commit).
    async fn create(&self, request: &VolumeRequest, permit: &Permit) -> Result<Volume, Error>;

    /// Records that the volume is in use: its PV is stored, as the object with this UID. From now on no sweep may take it.
    async fn commit(&self, id: &VolumeId, uid: &str, permit: &Permit) -> Result<(), Error>;

    /// Deletes, archives or keeps the volume: proves at the storage that it is ours and that no other volume of any cluster
    /// uses its path, one above or one below, and moves it to the trash. [`collect_garbage`](Backend::collect_garbage) purges it
    /// after it has asked [`Host::pv_state`]; until then [`restore`](Backend::restore) undoes the removal.
    async fn remove(&self, removal: &Removal, permit: &Permit) -> Result<Removed, Error>;

    /// Puts a volume back that [`remove`](Backend::remove) moved to the trash or to the archive, and gives up a removal that
    /// was begun: its PV is to be kept after all. Called before our finalizer is taken off a PV, too, so it is
    /// [`Kind::Busy`] while any work on the volume runs, and succeeds where nothing was begun.
    async fn restore(&self, removal: &Removal, permit: &Permit) -> Result<Restored, Error>;

    /// Which of `volumes`, all of which have a PV, the storage does not know as volumes of this cluster: those of older
    /// provisioners, those of earlier versions of berth, those whose records were lost. The caller reads their PVs and
    /// tells of them with [`register`](Backend::register). Costs one listing, not one look for each volume.
    async fn unregistered(&self, store: &str, volumes: &[KnownVolume]) -> Result<Vec<VolumeName>, Error>;

    /// Records whose a volume is that is in use, and makes its Secret again ([`kept_secret`](Backend::kept_secret)) where that was
    /// deleted. What another cluster has recorded is left alone: [`Kind::Refused`]; so is a Secret of that name that was not kept
    /// for the volume: [`Kind::Conflict`].
    async fn register(&self, volume: &InUse, permit: &Permit) -> Result<(), Error>;

    /// Makes the volume hold at least so much, never less than before; tells what it holds then.
    async fn expand(&self, growth: &ExpandRequest, permit: &Permit) -> Result<Expanded, Error>;

    /// The volumes of `store` that were begun and never committed, oldest first. A backend that does not record which
    /// were committed leaves out those that are `known`, which have a PV.
    async fn list_uncommitted(&self, store: &str, known: Known<'_>) -> Result<Vec<Uncommitted>, Error>;

    /// Removes an uncommitted volume: an empty one goes to the trash, one with content is refused. Changes nothing outside its
    /// [`place`](Uncommitted::place), where that is known.
    async fn rollback(&self, uncommitted: &Uncommitted, permit: &Permit) -> Result<(), Error>;

    /// Reclaims what was moved to the trash, until the permit ends. Dropped when leadership ends.
    async fn collect_garbage(&self, permit: &Permit);

    /// Tells what the existing volumes say of a store. Called once for every store, also for one that only volumes name, before
    /// any volume is made or removed there: a store whose root is not what it was (not mounted, another disk) is refused
    /// until it is again. All classes are registered by then ([`register_class`](Backend::register_class)).
    fn expect_store(&self, past: StoreExpectation);

    /// Tells of a class that is served, by its parameters as [`VolumeRequest::parameters`] has them: a store that only
    /// classes describe is known from then on, and what lies in it is looked after although nothing was asked of it yet. Pure
    /// memory; a class that is wrong is told when it is used.
    fn register_class(&self, _parameters: &BTreeMap<String, String>) {}

    /// Replaces all classes that were registered ([`register_class`](Backend::register_class)), and all stores in which volumes
    /// exist or are being created. A store that is neither configured nor named by any of them is forgotten once what was deleted
    /// there is purged, and known again as soon as it is named. Changes memory only.
    fn retain_stores(&self, _classes: &[BTreeMap<String, String>], _used: &BTreeSet<String>) {}

    /// The state of every store, for readiness and metrics. Answers at once, from memory.
    fn stores(&self) -> Vec<StoreStatus>;
}

/// Whether there is a PV of this name, as far as the caller knows.
pub type Known<'a> = &'a (dyn Fn(&VolumeName) -> bool + Send + Sync);

/// What a backend may ask of the cluster that it works for.
#[async_trait]
pub trait Host: Send + Sync + 'static {
    /// The secrets of this name. They may be some seconds old, unless `fresh` is asked for, as it should be when the
    /// storage did not accept them. [`Kind::NotFound`] where there are none.
    async fn secrets(&self, name: &SecretName, fresh: bool) -> Result<Secrets, Error>;

    /// Keeps `secrets` under that name for `owner`, in place of what was kept for the same owner. What was not kept for
    /// it is left alone: [`Kind::Conflict`].
    async fn keep(&self, name: &SecretName, secrets: &Secrets, owner: &VolumeName) -> Result<(), Error>;

    /// Whether what was kept for `owner` under that name is still there, as of now. Where something else has the name:
    /// [`Kind::Conflict`].
    async fn is_kept(&self, name: &SecretName, owner: &VolumeName) -> Result<bool, Error>;

    /// Forgets what was kept for `owner` under that name; nothing there is a success, and what was not kept for it
    /// is [`Kind::Refused`].
    async fn forget(&self, name: &SecretName, owner: &VolumeName) -> Result<(), Error>;

    /// By what this cluster differs from all others that may use the same storage; `None` while it cannot be known. What is
    /// unknown never counts as equal.
    fn installation(&self) -> Option<String>;

    /// The same with the identities that this cluster had before, which stand in older records.
    fn cluster(&self) -> Option<ClusterIds> {
        self.installation().map(ClusterIds::only)
    }

    /// Asks the API server, live, for the PV of this name. What was moved to the trash is purged only once it is gone.
    async fn pv_state(&self, name: &VolumeName) -> Result<PvState, Error>;

    /// The time by the API server's clock; `None` while it is unknown, or differs from ours by so much that one of both
    /// is wrong. Nothing expires then.
    fn now(&self) -> Option<SystemTime> {
        Some(SystemTime::now())
    }

    /// How long what is deleted stays in the trash where neither its class nor its PV says so.
    fn trash_retention(&self) -> Duration {
        Duration::ZERO
    }

    /// The name of the node that has this address, where it is known; answers at once, from memory.
    fn node_at(&self, _address: IpAddr) -> Option<String> {
        None
    }
}

/// What the API server says of the PV of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PvState {
    /// There is none of this name.
    Absent,
    /// There is one.
    Present {
        /// Which object it is: one that was made again under the same name has another UID.
        uid: String,
        /// Whether it is still released and to be removed. Else it uses the volume, or is to be kept.
        removing: bool,
    },
}

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
    /// Where it lies, where that is known. An id does not tell: a class may have been made anew for another place, and what
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

/// What kind of failure it was; decides the gRPC code, the retry, and the words of the Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request is wrong and stays so until somebody changes it.
    Invalid,
    /// The request is right, but this backend cannot do it.
    Unsupported,
    /// Something else has that name or place.
    Conflict,
    /// What the request names does not exist.
    NotFound,
    /// No space, quota or inodes.
    Exhausted,
    /// Somebody still uses it.
    InUse,
    /// A safety check said no. Nothing was touched. What it said no to is mended by a person, on the object or on the storage:
    /// it is asked again when the object changes, and else slowly.
    Refused,
    /// The same volume is being worked on; try again soon.
    Busy,
    /// The outcome is unknown: the work may still be done later. Retry, do not forget.
    Unavailable,
    /// Anything else: a defect of ours, or an answer that we do not understand.
    Internal,
}

impl Kind {
    /// Whether something may still appear on the storage after this error ("in background").
    pub fn may_still_happen(self) -> bool {
        match self {
            Self::Unavailable | Self::Busy => true,
            Self::Invalid
            | Self::Unsupported
            | Self::Conflict
            | Self::NotFound
            | Self::Exhausted
            | Self::InUse
            | Self::Refused
            | Self::Internal => false,
        }
    }
}

impl fmt::Display for Kind {
    /// One lower case word, as in the label of a metric.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "invalid",
            Self::Unsupported => "unsupported",
            Self::Conflict => "conflict",
            Self::NotFound => "not_found",
            Self::Exhausted => "exhausted",
            Self::InUse => "in_use",
            Self::Refused => "refused",
            Self::Busy => "busy",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        })
    }
}

/// Why an operation of a backend failed. The message is what the claim's author reads in the Event.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    missing_secret: Option<Box<SecretName>>,
}

impl Error {
    /// A failure of this kind. `message` names the operation and the object, lower case, without a final stop, and
    /// says what to do where somebody can do something.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None, missing_secret: None }
    }

    /// The same with its cause.
    pub fn caused_by(
        kind: Kind,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, message: message.into(), source: Some(source.into()), missing_secret: None }
    }

    /// The same, where it will be otherwise once there is a Secret of this name.
    #[must_use]
    pub fn for_want_of(mut self, secret: SecretName) -> Self {
        self.missing_secret = Some(Box::new(secret));
        self
    }

    /// The Secret whose absence it was, said by this error or by one of its causes.
    pub fn missing_secret(&self) -> Option<&SecretName> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let named = error.downcast_ref::<Self>().and_then(|error| error.missing_secret.as_deref());
            if named.is_some() {
                return named;
            }
            cause = error.source();
        }
        None
    }

    /// What kind of failure it was.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The message and all causes behind it on one line, for an Event, which has nothing else.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl From<Expired> for Error {
    fn from(expired: Expired) -> Self {
        Self::caused_by(Kind::Unavailable, "stopped before the next change to storage", expired)
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Self::new(Kind::Invalid, invalid.to_string())
    }
}

/// The backends of this process, each with the provisioner name under which it serves claims.
#[derive(Clone, Default)]
pub struct Backends {
    by_name: BTreeMap<String, Arc<dyn Backend>>,
    identity: Option<String>,
}

impl Backends {
    /// Adds `backend` as the one that serves `provisioner`; the last one with a name stays.
    #[must_use]
    pub fn with(mut self, provisioner: impl Into<String>, backend: Arc<dyn Backend>) -> Self {
        self.by_name.insert(provisioner.into(), backend);
        self
    }

    /// The same under the identity that an older provisioner had, which marked its volumes with it: those of another
    /// identity are not ours. `None`: those of all identities are.
    #[must_use]
    pub fn identified_as(mut self, identity: Option<String>) -> Self {
        self.identity = identity;
        self
    }

    /// The identity that volumes of older provisioners must have.
    pub fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    /// The backend that serves this provisioner name.
    pub fn get(&self, provisioner: &str) -> Option<&Arc<dyn Backend>> {
        self.by_name.get(provisioner)
    }

    /// All provisioner names with their backends, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<dyn Backend>)> {
        self.by_name.iter().map(|(name, backend)| (name.as_str(), backend))
    }

    /// Every backend once, though it may serve several names.
    pub fn distinct(&self) -> Vec<&Arc<dyn Backend>> {
        let mut distinct: Vec<&Arc<dyn Backend>> = Vec::new();
        for backend in self.by_name.values() {
            if !distinct.iter().any(|known| Arc::ptr_eq(known, backend)) {
                distinct.push(backend);
            }
        }
        distinct
    }
}

impl fmt::Debug for Backends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_its_causes_on_one_line() {
        let cause = std::io::Error::from_raw_os_error(13);
        let error = Error::caused_by(Kind::Unavailable, "make directory a-b-c on export default", cause);
        assert_eq!(error.chain(), "make directory a-b-c on export default: Permission denied (os error 13)");
    }

    #[test]
    fn the_secret_that_is_missing_is_found_behind_whatever_was_said_about_it() {
        let secret = SecretName { namespace: "berth".into(), name: "key".into() };
        let missing =
            Error::new(Kind::NotFound, "Secret berth/key does not exist").for_want_of(secret.clone());
        let told = Error::caused_by(Kind::NotFound, "cannot read the key of Ceph user admin", missing);
        assert_eq!(told.missing_secret(), Some(&secret));
        let other = Error::caused_by(Kind::NotFound, "open", std::io::Error::from_raw_os_error(2));
        assert_eq!(other.missing_secret(), None);
    }

    #[test]
    fn only_unknown_outcomes_may_still_happen() {
        assert!(Kind::Unavailable.may_still_happen());
        assert!(!Kind::Refused.may_still_happen());
        assert!(Error::from(Expired).kind().may_still_happen());
    }
}
