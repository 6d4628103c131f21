//! A backend that keeps its volumes in memory, with faults on request: [`Memory`]. For tests only.
//!
//! It shows the behaviour that `conformance` asks of every backend, so that a test of its callers need not touch a disk.
//! Copies share one state. It deliberately has no deadlines of its own: what a test lets hang, hangs until released.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};

use super::{
    Backend, Capabilities, ClusterInfo, Error, Finding, Inspection, Janitor, Kind, Known, KnownVolume,
    Parameter, PvState, Removed, Restored, StoreExpectation, StoreStatus, Stores, Uncommitted,
    nfs::path_pattern::{self, Missing, Pattern},
};
use crate::volume::{
    ClaimKey, CsiSource, Disposal, ExpandRequest, Expanded, InUse, Location, Mode, Origin, Permit, Placement,
    PvMetadata, Removal, SecretName, Source, Volume, VolumeId, VolumeName, VolumeRequest,
};

/// The operations of a backend, for counting them and for letting them fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// [`Backend::create`]
    Create,
    /// [`Backend::commit`]
    Commit,
    /// [`Backend::remove`]
    Remove,
    /// [`Backend::expand`]
    Expand,
    /// [`Backend::list_uncommitted`]
    ListUncommitted,
    /// [`Backend::rollback`]
    Rollback,
    /// [`Backend::restore`]
    Restore,
    /// [`Backend::unregistered`]
    Unregistered,
    /// [`Backend::register`]
    Register,
}

/// When a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before anything was changed.
    Before,
    /// When everything was done and only the answer is lost.
    After,
}

/// A volume as the memory holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What the caller got.
    pub volume: Volume,
    /// Where it lies.
    pub place: Location,
    /// Whose it is.
    pub claim: ClaimKey,
    /// Whether [`Backend::commit`] was called.
    pub committed: bool,
    /// When it was begun.
    pub since: SystemTime,
}

/// The parameters that [`Memory`] reads.
pub const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "pathPattern",
        values: "a pattern",
        default: "<namespace>-<claim>-<volume>",
        effect: "Names the place of the volume.",
    },
    Parameter {
        name: "existingDirectory",
        values: "refuse, share",
        default: "refuse",
        effect: "Whether the volume may lie where another one lies.",
    },
    Parameter {
        name: "mountableBefore",
        values: "a minor version of Kubernetes 1",
        default: "none: nodes of every version mount the volumes",
        effect: "From which version on no node mounts the volumes; 0 for all.",
    },
    Parameter { name: "export", values: "a store's name", default: "the first store", effect: "The store." },
];

/// The address that the sources of all memory volumes name.
pub const SERVER: &str = "memory";
/// Another name of the same server.
const ALIAS: &str = "memory.example.org";

/// The parameters of the classes, and the names of the stores, that were told last.
pub type Retained = (Vec<BTreeMap<String, String>>, BTreeSet<String>);

#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own for tests")]
struct State {
    stores: Vec<String>,
    identities: BTreeMap<String, String>,
    expected: BTreeMap<String, StoreExpectation>,
    volumes: BTreeMap<VolumeName, Held>,
    /// Directories and whether they hold something.
    directories: BTreeMap<Location, bool>,
    trash: Vec<Trashed>,
    archived: BTreeMap<VolumeName, (String, Option<Held>)>,
    /// Volumes that the storage says to be another cluster's, with its identity.
    foreign: BTreeMap<VolumeName, String>,
    not_ready: BTreeMap<String, String>,
    calls: HashMap<Operation, usize>,
    faults: HashMap<Operation, Vec<(Moment, Kind)>>,
    busy: HashSet<VolumeName>,
    purged: u64,
    /// Whether file systems are made bigger by nodes.
    on_node: bool,
    /// The CSI driver that mounts its volumes; without one they are NFS volumes.
    driver: Option<String>,
    /// Whether only the UIDs of claims are remembered.
    nameless: bool,
    /// The operation that is the last one that the permit allows.
    last: Option<Operation>,
    /// Whether nothing in the trash is looked at.
    trash_left_alone: bool,
    /// Whether the details of a volume depend on when it is asked for.
    moody: bool,
    /// A Secret without which nothing is made.
    lacking: Option<SecretName>,
    /// The classes that the caller told of.
    met: Vec<BTreeMap<String, String>>,
    /// The classes and stores of which it was told last that they are all that there are.
    retained: Option<Retained>,
}

/// A volume in the trash.
#[derive(Debug, Clone)]
struct Trashed {
    name: VolumeName,
    place: Location,
    /// Its record, where it had one.
    held: Option<Held>,
    /// The PV that it was removed for; empty where that is not known.
    uid: String,
    /// Whether it holds something.
    content: bool,
    at: SystemTime,
    retention: Option<Duration>,
}

/// The backend. Made with [`Memory::new`] or [`Memory::with_stores`].
#[derive(Clone)]
pub struct Memory {
    capabilities: Arc<Capabilities>,
    state: Arc<Mutex<State>>,
    hung: Arc<watch::Sender<BTreeSet<Operation>>>,
    wake: Arc<Notify>,
    kube: Option<Arc<dyn ClusterInfo>>,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Memory {
    /// A backend with one store, `default`.
    pub fn new() -> Self {
        Self::with_stores(&["default"])
    }

    /// A backend with these stores; the first is used where a class names none.
    pub fn with_stores(stores: &[&str]) -> Self {
        let state = State {
            stores: stores.iter().map(ToString::to_string).collect(),
            identities: stores.iter().map(|s| (s.to_string(), format!("identity-of-{s}"))).collect(),
            ..State::default()
        };
        Self {
            capabilities: Arc::new(Capabilities {
                name: "memory",
                block: false,
                expand: true,
                parameters: PARAMETERS,
                case_insensitive: false,
                legacy_default: Disposal::Archive,
                concurrency: 32,
            }),
            state: Arc::new(Mutex::new(state)),
            hung: Arc::new(watch::Sender::new(BTreeSet::new())),
            wake: Arc::new(Notify::new()),
            kube: None,
        }
    }

    /// The same, which purges only what `kube` says that no PV names any more, and puts back what is to stay. Without it
    /// everything is purged at once.
    #[must_use]
    pub fn with_host(mut self, kube: Arc<dyn ClusterInfo>) -> Self {
        self.kube = Some(kube);
        self
    }

    /// Lets the right to change anything end directly after the next call of `operation`.
    pub fn revoke_after(&self, operation: Operation) {
        self.state().last = Some(operation);
    }

    fn end(&self, operation: Operation, permit: &Permit) {
        if self.state().last.take_if(|last| *last == operation).is_some() {
            permit.revoke();
        }
    }

    /// From now on what is in the trash stays there, and is put back only when it is asked for.
    pub fn leave_trash_alone(&self) {
        self.state().trash_left_alone = true;
    }

    /// Ends [`Memory::leave_trash_alone`].
    pub fn look_after_trash_again(&self) {
        self.state().trash_left_alone = false;
    }

    /// From now on the storage says that this volume is the one of another cluster.
    pub fn sign_as(&self, name: &VolumeName, cluster: &str) {
        self.state().foreign.insert(name.clone(), cluster.to_owned());
    }

    /// Loses the record of a volume, not its data.
    pub fn lose_record(&self, name: &VolumeName) {
        self.state().volumes.remove(name);
    }

    /// How many volumes were purged.
    pub fn purged(&self) -> u64 {
        self.state().purged
    }

    /// The same with other capabilities, for tests of what a caller does with them.
    #[must_use]
    pub fn with_capabilities(mut self, change: impl FnOnce(&mut Capabilities)) -> Self {
        let mut capabilities = (*self.capabilities).clone();
        change(&mut capabilities);
        self.capabilities = Arc::new(capabilities);
        self
    }

    /// From now on nothing is made, for want of this Secret; `None`: it is there.
    pub fn lack(&self, secret: Option<SecretName>) {
        self.state().lacking = secret;
    }

    /// From now on, growing leaves the file system to the node, as with a device.
    pub fn grow_on_nodes(&self) {
        self.state().on_node = true;
    }

    /// From now on, volumes are mounted by this CSI driver.
    pub fn mount_by(&self, driver: &str) {
        self.state().driver = Some(driver.to_owned());
    }

    /// From now on, what is uncommitted tells the UID of its claim alone.
    pub fn forget_names(&self) {
        self.state().nameless = true;
    }

    /// From now on every second answer to [`Backend::create`] names the server differently, as it does where the class of a volume
    /// was made again in between with other details.
    pub fn change_details(&self) {
        self.state().moody = true;
    }

    /// The classes and the stores with volumes that the caller told of with [`Backend::retain_stores`], the last time.
    pub fn retained(&self) -> Option<Retained> {
        self.state().retained.clone()
    }

    /// The parameters of the classes that the caller told of with [`Backend::register_class`].
    pub fn met(&self) -> Vec<BTreeMap<String, String>> {
        self.state().met.clone()
    }

    /// Lets the next `times` calls of `operation` fail with `kind`.
    pub fn fail_next(&self, operation: Operation, times: usize, moment: Moment, kind: Kind) {
        let mut state = self.state();
        let faults = state.faults.entry(operation).or_default();
        faults.splice(0..0, std::iter::repeat_n((moment, kind), times));
    }

    /// What was told to fail does so no more.
    pub fn forget_faults(&self) {
        self.state().faults.clear();
    }

    /// Lets every call of `operation` that begins from now on wait until [`release`](Memory::release).
    pub fn hang(&self, operation: Operation) {
        self.hung.send_modify(|hung| {
            hung.insert(operation);
        });
    }

    /// Lets the calls of `operation` that hang go on.
    pub fn release(&self, operation: Operation) {
        self.hung.send_modify(|hung| {
            hung.remove(&operation);
        });
    }

    /// How often `operation` was called, failed and hanging calls included.
    pub fn calls(&self, operation: Operation) -> usize {
        self.state().calls.get(&operation).copied().unwrap_or(0)
    }

    /// The volumes that exist, by name.
    pub fn volumes(&self) -> Vec<Held> {
        self.state().volumes.values().cloned().collect()
    }

    /// What lies in the trash.
    pub fn trash(&self) -> Vec<VolumeName> {
        self.state().trash.iter().map(|trashed| trashed.name.clone()).collect()
    }

    /// What was archived, and where to.
    pub fn archived(&self) -> BTreeMap<VolumeName, String> {
        let state = self.state();
        state.archived.iter().map(|(name, (target, _))| (name.clone(), target.clone())).collect()
    }

    /// What the caller told of a store with [`Backend::expect_store`].
    pub fn expected(&self, store: &str) -> Option<StoreExpectation> {
        self.state().expected.get(store).cloned()
    }

    /// Puts a directory there as if an administrator or an older provisioner had made it; `content`: with a file in it.
    pub fn plant(&self, place: Location, content: bool) {
        self.state().directories.insert(place, content);
    }

    /// Puts a file into a volume, as a pod would do.
    pub fn fill(&self, place: &Location) {
        if let Some(content) = self.state().directories.get_mut(place) {
            *content = true;
        }
    }

    /// Whether there is a directory.
    pub fn exists(&self, place: &Location) -> bool {
        self.state().directories.contains_key(place)
    }

    /// Lets a store be unusable for this reason, or usable again.
    pub fn set_ready(&self, store: &str, ready: Result<(), &str>) {
        let mut state = self.state();
        match ready {
            Ok(()) => state.not_ready.remove(store),
            Err(why) => state.not_ready.insert(store.into(), why.into()),
        };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Counts the call, waits while the operation hangs, and takes the fault that it shall show.
    async fn enter(&self, operation: Operation) -> Result<Option<Kind>, Error> {
        *self.state().calls.entry(operation).or_default() += 1;
        let mut hung = self.hung.subscribe();
        // The sender lives as long as `self`: waiting cannot fail.
        let _ = hung.wait_for(|hung| !hung.contains(&operation)).await;
        match self.state().faults.get_mut(&operation).and_then(Vec::pop) {
            Some((Moment::Before, kind)) => Err(injected(operation, kind)),
            Some((Moment::After, kind)) => Ok(Some(kind)),
            None => Ok(None),
        }
    }

    /// Looks at every volume in the trash once: no PV names it any more and its time is over, or it is to stay.
    async fn empty_trash_for(&self, kube: &dyn ClusterInfo) {
        let entries = self.state().trash.clone();
        for entry in entries {
            let now = kube.now();
            let Ok(said) = kube.pv_state(&entry.name).await else { continue };
            let Ok(_held) = self.try_lock(&entry.name) else { continue };
            let mut state = self.state();
            let Some(index) = state.trash.iter().position(|other| other.name == entry.name) else { continue };
            let until = entry.at + entry.retention.unwrap_or_else(|| kube.trash_retention());
            match said {
                PvState::Absent if now.is_some_and(|now| now >= until) => {
                    state.trash.remove(index);
                    state.purged += 1;
                }
                PvState::Absent => {}
                PvState::Present { uid, removing } if removing && uid == entry.uid => {}
                // Where its place is taken it stays in the trash.
                PvState::Present { .. } => drop(state.put_back(index)),
            }
        }
    }

    fn try_lock(&self, name: &VolumeName) -> Result<Busy, Error> {
        if !self.state().busy.insert(name.clone()) {
            return Err(Error::new(Kind::Busy, format!("volume {name} is being worked on")));
        }
        Ok(Busy { state: Arc::clone(&self.state), name: name.clone() })
    }
}

/// Holds a volume's name until dropped.
struct Busy {
    state: Arc<Mutex<State>>,
    name: VolumeName,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.state.lock().busy.remove(&self.name);
    }
}

fn injected(operation: Operation, kind: Kind) -> Error {
    Error::new(kind, format!("{operation:?} failed as the test asked"))
}

fn answer<T>(operation: Operation, lost: Option<Kind>, value: T) -> Result<T, Error> {
    match lost {
        Some(kind) => Err(injected(operation, kind)),
        None => Ok(value),
    }
}

impl State {
    fn usable(&self, store: &str) -> Result<(), Error> {
        match self.not_ready.get(store) {
            Some(why) => Err(Error::new(Kind::Unavailable, format!("store {store} is not usable: {why}"))),
            None => Ok(()),
        }
    }

    /// The name of the server in the next source.
    fn server(&self) -> &'static str {
        let calls = self.calls.get(&Operation::Create).copied().unwrap_or_default();
        if self.moody && calls.is_multiple_of(2) { ALIAS } else { SERVER }
    }

    fn trash(&mut self, name: &VolumeName, place: &Location, pv_metadata: &PvMetadata) {
        self.trash.push(Trashed {
            name: name.clone(),
            place: place.clone(),
            held: self.volumes.get(name).cloned(),
            uid: pv_metadata.uid.clone(),
            content: self.directories.remove(place).unwrap_or_default(),
            at: SystemTime::now(),
            retention: pv_metadata.retention,
        });
    }

    /// Whose the storage says that the volume is: ours, unless another cluster's that nobody took over.
    fn prove(&mut self, name: &VolumeName, pv_metadata: &PvMetadata) -> Result<(), Error> {
        let Some(owner) = self.foreign.get(name) else { return Ok(()) };
        if pv_metadata.take_over.as_ref() == Some(owner) {
            self.foreign.remove(name);
            return Ok(());
        }
        let message = format!(
            "the record of volume {name} names cluster {owner}; nothing was touched. If that cluster does not use it any more: {}",
            super::take_over(name, owner)
        );
        Err(Error::new(Kind::Refused, message))
    }

    /// Moves an entry of the trash back, if its place is free.
    fn put_back(&mut self, index: usize) -> Result<(), Error> {
        let Some(trashed) = self.trash.get(index) else { return Ok(()) };
        if self.directories.contains_key(&trashed.place) {
            let message =
                format!("{} is taken, so that volume {} stays in the trash", trashed.place, trashed.name);
            return Err(Error::new(Kind::Conflict, message));
        }
        let trashed = self.trash.remove(index);
        self.directories.insert(trashed.place, trashed.content);
        if let Some(held) = trashed.held {
            self.volumes.insert(trashed.name, held);
        }
        Ok(())
    }
}

impl State {
    /// Where the PV of this volume says that it is.
    fn source(&self, id: &VolumeId, place: &Location) -> Source {
        let source = source(self.server(), place);
        match (&self.driver, source) {
            (Some(driver), Source::Nfs { server, path }) => Source::Csi(CsiSource {
                driver: driver.clone(),
                handle: id.to_string(),
                attributes: [("server".to_owned(), server), ("path".to_owned(), path)].into(),
                fs_type: None,
                stage_secret: None,
            }),
            (_, source) => source,
        }
    }
}

fn source(server: &str, place: &Location) -> Source {
    Source::Nfs { server: server.into(), path: format!("/{}/{}", place.store, place.path) }
}

#[async_trait]
impl Backend for Memory {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn place(&self, request: &VolumeRequest) -> Result<Placement, Error> {
        if request.mode == Mode::Block && !self.capabilities.block {
            return Err(Error::new(Kind::Unsupported, "raw devices are not supported"));
        }
        let state = self.state();
        let asked = request.parameters.get("export").or(state.stores.first());
        let store = asked.filter(|asked| state.stores.contains(asked)).ok_or_else(|| {
            Error::new(Kind::Invalid, format!("parameter export: there are the stores {:?}", state.stores))
        })?;
        let path = match request.parameters.get("pathPattern").filter(|p| !p.is_empty()) {
            Some(pattern) => {
                Pattern::parse(pattern)?.expand(&request.claim, &request.name, Missing::Refuse)?
            }
            None => path_pattern::default_directory(&request.claim, &request.name)?,
        };
        let share = request.parameters.get("existingDirectory").is_some_and(|value| value == "share");
        Ok(Placement::new(Location { store: store.clone(), path }, share, ()))
    }

    fn locate(&self, source: &Source) -> Option<Location> {
        let (server, path) = match source {
            Source::Nfs { server, path } => (server, path),
            Source::Csi(csi) if self.state().driver.as_ref() == Some(&csi.driver) => {
                (csi.attributes.get("server")?, csi.attributes.get("path")?)
            }
            Source::Csi(_) | Source::Rbd(_) | Source::Cephfs(_) => return None,
        };
        let (store, rest) = path.trim_start_matches('/').split_once('/')?;
        let path = path_pattern::checked(rest).ok()?;
        ([SERVER, ALIAS].contains(&server.as_str()) && self.state().stores.iter().any(|known| known == store))
            .then(|| Location { store: store.into(), path })
    }

    async fn create(&self, request: &VolumeRequest, permit: &Permit) -> Result<Volume, Error> {
        let Placement { location: place, may_share, .. } = self.place(request)?;
        let _held = self.try_lock(&request.name)?;
        let lost = self.enter(Operation::Create).await?;
        if let Some(secret) = self.state().lacking.clone() {
            let message = format!("Secret {secret} does not exist");
            return Err(Error::new(Kind::NotFound, message).for_want_of(secret));
        }
        permit.check()?;
        let volume = {
            let mut state = self.state();
            state.usable(&place.store)?;
            if let Some(held) = state.volumes.get(&request.name) {
                if held.place != place {
                    let message = format!("volume {} exists already at {}", request.name, held.place);
                    return Err(Error::new(Kind::Conflict, message));
                }
                let source = state.source(&held.volume.id, &place);
                Volume { source, ..held.volume.clone() }
            } else {
                if state.directories.contains_key(&place) && !may_share {
                    let message = format!("directory {place} exists already and is not of this claim");
                    return Err(Error::new(Kind::Conflict, message));
                }
                let id = VolumeId::new("memory", &place.store, request.name.clone())?;
                let volume = Volume {
                    source: state.source(&id, &place),
                    id,
                    capacity: None,
                    origin: Origin::Created,
                    store_identity: state.identities.get(&place.store).cloned().unwrap_or_default(),
                    record: BTreeMap::new(),
                };
                let claim = ClaimKey {
                    namespace: request.claim.namespace.clone(),
                    name: request.claim.name.clone(),
                    uid: request.claim.uid.clone(),
                };
                state.directories.entry(place.clone()).or_insert(false);
                let since = SystemTime::now();
                let held = Held { volume: volume.clone(), place, claim, committed: false, since };
                state.volumes.insert(request.name.clone(), held);
                volume
            }
        };
        answer(Operation::Create, lost, volume)
    }

    async fn commit(&self, id: &VolumeId, _: &str, permit: &Permit) -> Result<(), Error> {
        let _held = self.try_lock(id.name())?;
        let lost = self.enter(Operation::Commit).await?;
        permit.check()?;
        {
            let mut state = self.state();
            state.usable(id.store())?;
            match state.volumes.get_mut(id.name()).filter(|held| held.volume.id == *id) {
                Some(held) => held.committed = true,
                None => return Err(Error::new(Kind::NotFound, format!("there is no volume {id}"))),
            }
        }
        answer(Operation::Commit, lost, ())
    }

    async fn rollback(&self, uncommitted: &Uncommitted, permit: &Permit) -> Result<(), Error> {
        let name = uncommitted.id.name();
        let _held = self.try_lock(name)?;
        let lost = self.enter(Operation::Rollback).await?;
        permit.check()?;
        {
            let mut state = self.state();
            state.usable(uncommitted.id.store())?;
            if let Some(held) = state.volumes.get(name).cloned() {
                if held.committed || held.claim.uid != uncommitted.claim.uid {
                    let message = format!("volume {name} is in use: it was committed");
                    return Err(Error::new(Kind::Refused, message));
                }
                if uncommitted.place.as_ref().is_some_and(|place| *place != held.place) {
                    let message = format!("volume {name} lies at {}", held.place);
                    return Err(Error::new(Kind::Refused, message));
                }
                if held.volume.origin == Origin::Created {
                    if state.directories.get(&held.place) == Some(&true) {
                        let message = format!("directory {} is not empty", held.place);
                        return Err(Error::new(Kind::Refused, message));
                    }
                    if state.directories.contains_key(&held.place) {
                        state.trash(name, &held.place, &PvMetadata::default());
                    }
                }
                state.volumes.remove(name);
            }
        }
        answer(Operation::Rollback, lost, ())
    }

    async fn remove(&self, removal: &Removal, permit: &Permit) -> Result<Removed, Error> {
        let _held = self.try_lock(&removal.name)?;
        let lost = self.enter(Operation::Remove).await?;
        permit.check()?;
        let Some(place) = self.locate(&removal.source) else {
            return Err(Error::new(
                Kind::Refused,
                format!("{:?} lies in none of the stores", removal.source),
            ));
        };
        let removed = {
            let mut state = self.state();
            state.usable(&place.store)?;
            state.prove(&removal.name, &removal.pv_metadata)?;
            match (&removal.id, state.volumes.get(&removal.name)) {
                (Some(id), Some(held)) if held.volume.id != *id || held.place != place => {
                    let message = format!("the record of {id} names another place or volume");
                    return Err(Error::new(Kind::Refused, message));
                }
                (Some(id), None) if state.directories.contains_key(&place) => {
                    let message = format!("there is no record of {id}, but a directory {place}");
                    return Err(Error::new(Kind::Refused, message));
                }
                // Nothing is touched, so nothing need be proved.
                (None, None) if removal.disposal == Disposal::Retain => {}
                (None, _)
                    if state.volumes.values().any(|held| {
                        held.volume.id.name() != &removal.name && held.place.overlaps(&place)
                    }) =>
                {
                    return Err(Error::new(Kind::Refused, format!("{place} belongs to another volume")));
                }
                (Some(_) | None, _) => {}
            }
            let recorded = state.volumes.get(&removal.name).map(|held| held.volume.origin);
            let adopted = removal.origin == Origin::Adopted || recorded == Some(Origin::Adopted);
            let disposal = match removal.disposal {
                Disposal::Delete if adopted => Disposal::Archive,
                other => other,
            };
            let there = state.directories.contains_key(&place);
            let removed = match disposal {
                Disposal::Retain => Removed::Kept,
                Disposal::Delete if there => {
                    state.trash(&removal.name, &place, &removal.pv_metadata);
                    Removed::Trashed
                }
                Disposal::Archive if there => {
                    let base = format!("archived-{}", place.path);
                    let mut target = base.clone();
                    let mut counter = 1;
                    while state.archived.values().any(|(taken, _)| *taken == target) {
                        counter += 1;
                        target = format!("{base}-{counter}");
                    }
                    state.directories.remove(&place);
                    let held = state.volumes.get(&removal.name).cloned();
                    state.archived.insert(removal.name.clone(), (target.clone(), held));
                    Removed::Archived(target)
                }
                Disposal::Delete | Disposal::Archive => match state.archived.get(&removal.name) {
                    Some((target, _)) => Removed::Archived(target.clone()),
                    None if state.trash.iter().any(|entry| entry.name == removal.name) => Removed::Trashed,
                    None => Removed::Absent,
                },
            };
            state.volumes.remove(&removal.name);
            removed
        };
        self.wake.notify_one();
        self.end(Operation::Remove, permit);
        answer(Operation::Remove, lost, removed)
    }

    async fn restore(&self, removal: &Removal, permit: &Permit) -> Result<Restored, Error> {
        let _held = self.try_lock(&removal.name)?;
        let lost = self.enter(Operation::Restore).await?;
        permit.check()?;
        let Some(place) = self.locate(&removal.source) else { return Ok(Restored::InPlace) };
        let restored = {
            let mut state = self.state();
            state.usable(&place.store)?;
            let trashed =
                state.trash.iter().position(|entry| entry.name == removal.name && entry.place == place);
            if let Some(index) = trashed {
                state.put_back(index)?;
                Restored::MovedBack
            } else if state.archived.contains_key(&removal.name) && !state.directories.contains_key(&place) {
                if let Some((_, Some(held))) = state.archived.remove(&removal.name) {
                    state.volumes.insert(removal.name.clone(), held);
                }
                state.directories.insert(place, true);
                Restored::MovedBack
            } else {
                Restored::InPlace
            }
        };
        self.end(Operation::Restore, permit);
        answer(Operation::Restore, lost, restored)
    }

    async fn expand(&self, request: &ExpandRequest, permit: &Permit) -> Result<Expanded, Error> {
        let lost = self.enter(Operation::Expand).await?;
        permit.check()?;
        let place = self.locate(&request.source).ok_or_else(|| {
            Error::new(Kind::NotFound, format!("{} lies in none of the stores", request.source))
        })?;
        self.state().usable(&place.store)?;
        let on_node = self.state().on_node && request.mode == Mode::Filesystem;
        answer(Operation::Expand, lost, Expanded { capacity: request.capacity, on_node })
    }
}

#[async_trait]
impl Janitor for Memory {
    fn kept_secret(&self, record: &BTreeMap<String, String>) -> Option<SecretName> {
        let get = |key: &str| record.get(key).cloned();
        Some(SecretName { namespace: get("secretNamespace")?, name: get("secretName")? })
    }

    async fn unregistered(&self, store: &str, volumes: &[KnownVolume]) -> Result<Vec<VolumeName>, Error> {
        let lost = self.enter(Operation::Unregistered).await?;
        let unknown = {
            let state = self.state();
            state.usable(store)?;
            let known = |name| state.volumes.contains_key(name) && !state.foreign.contains_key(name);
            volumes.iter().map(|volume| &volume.name).filter(|name| !known(name)).cloned().collect()
        };
        answer(Operation::Unregistered, lost, unknown)
    }

    async fn register(&self, volume: &InUse, permit: &Permit) -> Result<(), Error> {
        let _held = self.try_lock(&volume.name)?;
        let lost = self.enter(Operation::Register).await?;
        permit.check()?;
        let place = self.locate(&volume.source).ok_or_else(|| {
            Error::new(Kind::Invalid, format!("{} lies in none of the stores", volume.source))
        })?;
        {
            let mut state = self.state();
            state.usable(&place.store)?;
            state.prove(&volume.name, &volume.pv_metadata)?;
            let id = match &volume.id {
                Some(id) => id.clone(),
                None => VolumeId::new("memory", &place.store, volume.name.clone())?,
            };
            let made = Volume {
                id,
                source: volume.source.clone(),
                capacity: None,
                origin: volume.origin,
                store_identity: state.identities.get(&place.store).cloned().unwrap_or_default(),
                record: BTreeMap::new(),
            };
            let since = SystemTime::now();
            let held = Held { volume: made, place, claim: volume.claim.clone(), committed: true, since };
            state.volumes.entry(volume.name.clone()).or_insert(held);
        }
        answer(Operation::Register, lost, ())
    }

    async fn list_uncommitted(&self, store: &str, _: Known<'_>) -> Result<Vec<Uncommitted>, Error> {
        let lost = self.enter(Operation::ListUncommitted).await?;
        let mut found: Vec<_> = {
            let state = self.state();
            state.usable(store)?;
            let begun = state.volumes.values().filter(|h| !h.committed && h.place.store == store);
            let named = |claim: &ClaimKey| {
                let uid = claim.uid.clone();
                let nobody = ClaimKey { namespace: String::new(), name: String::new(), uid };
                if state.nameless { nobody } else { claim.clone() }
            };
            begun
                .map(|h| Uncommitted {
                    id: h.volume.id.clone(),
                    claim: named(&h.claim),
                    since: h.since,
                    place: Some(h.place.clone()),
                })
                .collect()
        };
        found.sort_by(|a, b| (a.since, &a.id).cmp(&(b.since, &b.id)));
        answer(Operation::ListUncommitted, lost, found)
    }

    async fn collect_garbage(&self, permit: &Permit) {
        loop {
            if permit.check().is_ok() && !self.state().trash_left_alone {
                if let Some(kube) = &self.kube {
                    self.empty_trash_for(&**kube).await;
                } else {
                    let mut state = self.state();
                    state.purged += u64::try_from(state.trash.len()).unwrap_or(u64::MAX);
                    state.trash.clear();
                }
            }
            // What a host says changes without anybody telling.
            let pause = if self.kube.is_some() { Duration::from_millis(10) } else { Duration::MAX };
            let _ = tokio::time::timeout(pause, self.wake.notified()).await;
        }
    }
}

impl Stores for Memory {
    fn inspect(&self, parameters: &BTreeMap<String, String>) -> Inspection {
        let pattern = parameters.get("pathPattern").and_then(|text| Pattern::parse(text).ok());
        let mut inspection = pattern.map(|pattern| pattern.inspect()).unwrap_or_default();
        if let Some(minor) = parameters.get("mountableBefore").and_then(|minor| minor.parse().ok()) {
            let why = "gives volumes that no node mounts".to_owned();
            inspection.findings.push(Finding::NotMountable { from_minor: minor, why });
        }
        inspection
    }

    fn is_provisional(&self, store: &str) -> bool {
        store.starts_with("mon-")
    }

    fn register_class(&self, parameters: &BTreeMap<String, String>) {
        let mut state = self.state();
        if !state.met.contains(parameters) {
            state.met.push(parameters.clone());
        }
    }

    fn retain_stores(&self, classes: &[BTreeMap<String, String>], used: &BTreeSet<String>) {
        self.state().retained = Some((classes.to_vec(), used.clone()));
    }

    fn expect_store(&self, expected: StoreExpectation) {
        self.state().expected.insert(expected.store.clone(), expected);
    }

    fn stores(&self) -> Vec<StoreStatus> {
        let state = self.state();
        let status = |name: &String| StoreStatus {
            name: name.clone(),
            ready: state.not_ready.get(name).map_or(Ok(()), |why| Err(why.clone())),
            problems: Vec::new(),
            running: state.busy.len(),
            oldest: state.busy.iter().next().map(|name| (format!("work on {name}"), Duration::ZERO)),
            trash: state.trash.len(),
            stuck: Vec::new(),
            purged: state.purged,
        };
        state.stores.iter().map(status).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::conformance::{self, Bench, Storage, Ways};

    struct Plain(Memory);

    impl Storage for Plain {
        fn exists(&self, place: &Location) -> bool {
            self.0.exists(place)
        }

        fn fill(&self, place: &Location) {
            self.0.fill(place);
        }

        fn plant(&self, place: &Location) {
            self.0.plant(place.clone(), true);
        }

        fn volume_of(&self, request: &VolumeRequest, other: &Volume) -> Volume {
            let source = super::source(SERVER, &self.0.place(request).unwrap().location);
            Volume { id: conformance::id_of(request, other), source, ..other.clone() }
        }

        fn older(&self, source: &Source, name: &str) -> Source {
            let beside = self.0.locate(source).unwrap();
            super::source(SERVER, &Location::new(beside.store, &format!("{}{name}", beside.path)).unwrap())
        }

        fn is_archived(&self, place: &Location, told: &str) -> bool {
            told.starts_with(&format!("archived-{}", place.path))
        }

        fn elsewhere(&self, _: &Source) -> Vec<Source> {
            let nfs = |server: &str, path: &str| Source::Nfs { server: server.into(), path: path.into() };
            vec![
                nfs("elsewhere.example.org", "/default/a"),
                nfs(SERVER, "/"),
                nfs(SERVER, "/elsewhere/default/a"),
                nfs(SERVER, "/default/a/../../../elsewhere"),
            ]
        }
    }

    #[tokio::test]
    async fn the_memory_backend_shows_every_behaviour() {
        conformance::run(|| {
            let memory = Memory::new();
            let open = memory.clone();
            Bench {
                store: "default".into(),
                parameters: BTreeMap::new(),
                claims: String::new(),
                ways: Ways::default(),
                open: Box::new(move || Arc::new(open.clone())),
                storage: Box::new(Plain(memory)),
            }
        })
        .await;
    }

    #[tokio::test]
    async fn faults_strike_as_often_and_when_they_were_asked_to() {
        let memory = Memory::new();
        let permit = Permit::unlimited();
        let request = conformance::request("a");
        memory.fail_next(Operation::Create, 1, Moment::Before, Kind::Exhausted);
        memory.fail_next(Operation::Create, 1, Moment::After, Kind::Unavailable);
        assert_eq!(memory.create(&request, &permit).await.unwrap_err().kind(), Kind::Exhausted);
        assert_eq!(memory.volumes().len(), 0);
        assert_eq!(memory.create(&request, &permit).await.unwrap_err().kind(), Kind::Unavailable);
        assert_eq!(memory.volumes().len(), 1);
        let volume = memory.create(&request, &permit).await.unwrap();
        assert_eq!(memory.calls(Operation::Create), 3);
        memory.hang(Operation::Commit);
        let hung =
            tokio::time::timeout(Duration::from_millis(20), memory.commit(&volume.id, "object-a", &permit))
                .await;
        assert!(hung.is_err());
        memory.release(Operation::Commit);
        memory.commit(&volume.id, "object-a", &permit).await.unwrap();
        assert!(memory.volumes()[0].committed);
    }
}
