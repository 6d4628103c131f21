//! The behaviours that every backend must show: [`run`] tries them one after the other. For tests only.
//!
//! Each behaviour gets an empty store of its own. What only one kind of storage can show is tested beside that backend.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a failed expectation is how a test speaks"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use super::{Error, Kind, Removed, StorageSystem, StoreExpectation, Uncommitted};
use crate::volume::{
    Access, Capacity, Claim, ClaimKey, Disposal, ExpandRequest, Location, Mode, Origin, Permit, PvMetadata,
    Removal, Source, Volume, VolumeId, VolumeName, VolumeRequest,
};

/// What a test sees and does behind a backend's back.
pub trait Storage: Send + Sync {
    /// Whether a live volume or anything else is at that place; what was archived is not live.
    fn exists(&self, place: &Location) -> bool;
    /// Puts content into what is there, as a pod would.
    fn fill(&self, place: &Location);
    /// Puts something there that no backend made, with content.
    fn plant(&self, place: &Location);
    /// What a backend would make of `request`, told by what it made of another request in the same store. Nothing need be
    /// there.
    fn volume_of(&self, request: &VolumeRequest, other: &Volume) -> Volume;
    /// A volume of an older provisioner with that name in its name, in the same store. Nothing need be there.
    fn older(&self, source: &Source, name: &str) -> Source;
    /// Sources like that one which lie in none of the backend's stores.
    fn elsewhere(&self, source: &Source) -> Vec<Source>;
    /// Whether the volume that was at that place is archived where the backend says, with its content.
    fn is_archived(&self, place: &Location, told: &str) -> bool;
}

/// In what backends may differ.
#[derive(Debug, Clone, Copy)]
pub struct Ways {
    /// The storage remembers which volumes were committed. Else the caller is asked ([`Known`]).
    pub commits: bool,
    /// An archived volume leaves its place to the next one of the same name.
    pub makes_room: bool,
    /// What an older provisioner made is in the trash as well, once it is deleted, until it is purged.
    pub purges_older: bool,
}

impl Default for Ways {
    fn default() -> Self {
        Self { commits: true, makes_room: true, purges_older: true }
    }
}

/// A store of a backend, in which there is nothing that a behaviour can meet.
pub struct Bench {
    /// The name of the store that a request is made in.
    pub store: String,
    /// The parameters of every request.
    pub parameters: BTreeMap<String, String>,
    /// Begins the UIDs of the claims where the store is not for one behaviour alone: what was begun for other claims may
    /// then be there too.
    pub claims: String,
    /// In what the backend differs from others.
    pub ways: Ways,
    /// Gives a backend on the storage, as a new process would see it.
    pub open: Box<dyn Fn() -> Arc<dyn StorageSystem> + Send + Sync>,
    /// The storage itself.
    pub storage: Box<dyn Storage>,
}

/// One behaviour at work.
struct Trial {
    bench: Bench,
    /// The volumes that have a PV, as a caller knows them.
    committed: Mutex<BTreeSet<VolumeName>>,
}

impl std::ops::Deref for Trial {
    type Target = Bench;

    fn deref(&self) -> &Bench {
        &self.bench
    }
}

impl Trial {
    fn new(bench: Bench) -> Self {
        Self { bench, committed: Mutex::default() }
    }

    /// A new process, which knows of no volumes.
    fn start(&self) -> Arc<dyn StorageSystem> {
        let backend = (self.open)();
        backend.expect_store(StoreExpectation {
            store: self.store.clone(),
            identity: None,
            places: Vec::new(),
        });
        backend.register_class(&self.parameters);
        backend
    }

    fn request(&self, name: &str) -> VolumeRequest {
        let mut request = VolumeRequest { parameters: self.parameters.clone(), ..request(name) };
        request.claim.uid.insert_str(0, &self.claims);
        request.name = VolumeName::for_claim(&request.claim.uid).unwrap();
        request
    }

    async fn commit(&self, backend: &Arc<dyn StorageSystem>, volume: &Volume) {
        backend.commit(&volume.id, &object_uid(volume.id.name()), &permit()).await.unwrap();
        self.committed.lock().unwrap().insert(volume.id.name().clone());
    }

    async fn made(&self, backend: &Arc<dyn StorageSystem>, request: &VolumeRequest) -> Volume {
        let volume = backend.create(request, &permit()).await.unwrap();
        self.commit(backend, &volume).await;
        volume
    }

    async fn list_uncommitted(&self, backend: &Arc<dyn StorageSystem>) -> Vec<Uncommitted> {
        let committed = self.committed.lock().unwrap().clone();
        let known = move |name: &VolumeName| !self.ways.commits && committed.contains(name);
        let mut found = backend.list_uncommitted(&self.store, &known).await.unwrap();
        found.retain(|uncommitted| uncommitted.claim.uid.starts_with(&self.claims));
        found
    }

    /// That the volume at that place was archived; where.
    fn archived(&self, place: &Location, removed: Removed) -> String {
        let Removed::Archived(told) = removed else { panic!("not archived, but {removed:?}") };
        assert!(self.storage.is_archived(place, &told), "{told}");
        told
    }
}

/// Shows every behaviour on a bench of its own; panics at the first that is missing, with its name.
pub async fn run(bench: impl Fn() -> Bench) {
    macro_rules! behaviours {
        ($($name:ident),* $(,)?) => { $(
            println!("behaviour: {}", stringify!($name));
            $name(Trial::new(bench())).await;
        )* };
    }
    behaviours!(
        creating_again_gives_the_same_volume,
        a_volume_lies_where_place_and_locate_say,
        a_volume_is_uncommitted_until_it_is_committed,
        committing_what_is_not_there_is_not_found,
        a_deleted_volume_goes_to_the_trash_and_is_purged,
        an_archived_volume_is_moved_aside,
        a_kept_volume_stays,
        removing_what_is_gone_already_succeeds,
        a_volume_of_an_older_provisioner_is_removed,
        what_the_record_does_not_prove_is_not_removed,
        what_is_not_in_a_store_is_not_removed,
        an_unused_volume_is_discarded,
        a_volume_that_is_in_use_is_not_discarded,
        a_foreign_directory_is_not_taken,
        nothing_changes_after_the_permit_has_ended,
        an_expanded_volume_holds_more_and_never_less,
        work_on_the_same_volume_does_not_overlap,
        a_new_process_finds_what_an_older_one_made,
        stores_are_described,
    );
}

/// A request for the claim `team/<name>` with the UID `uid-<name>`.
pub fn request(name: &str) -> VolumeRequest {
    let uid = format!("uid-{name}");
    VolumeRequest {
        name: VolumeName::for_claim(&uid).unwrap(),
        claim: Claim {
            namespace: "team".into(),
            name: name.into(),
            uid,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        },
        capacity: Capacity::from_bytes(1 << 30),
        access: vec![Access::ReadWriteOnce],
        mode: Mode::Filesystem,
        parameters: BTreeMap::new(),
        placement: None,
    }
}

/// The key of the request's claim.
pub fn key(request: &VolumeRequest) -> ClaimKey {
    request.claim.key()
}

/// The removal of `volume`, which was made for `request`.
pub fn removal(request: &VolumeRequest, volume: &Volume, disposal: Disposal) -> Removal {
    Removal {
        name: request.name.clone(),
        id: Some(volume.id.clone()),
        source: volume.source.clone(),
        claim: key(request),
        origin: volume.origin,
        disposal,
        pv_metadata: pv_metadata(volume),
    }
}

/// The id of the volume of `request`, in the store of another one.
pub fn id_of(request: &VolumeRequest, other: &Volume) -> VolumeId {
    VolumeId::new(other.id.backend(), other.id.store(), request.name.clone()).unwrap()
}

/// What the PV of `volume` tells of how it was made.
pub fn pv_metadata(volume: &Volume) -> PvMetadata {
    PvMetadata {
        record: volume.record.clone(),
        store_identity: Some(volume.store_identity.clone()),
        uid: object_uid(volume.id.name()),
        ..PvMetadata::default()
    }
}

/// What the PV of a volume of an older provisioner tells: that one of them made it.
pub fn legacy_pv_metadata() -> PvMetadata {
    let annotations = ["rbdProvisionerIdentity", "cephFSProvisionerIdentity"];
    PvMetadata {
        annotations: annotations.map(|key| (key.to_owned(), "old".to_owned())).into(),
        ..PvMetadata::default()
    }
}

/// The UID that the PV of a volume has in these tests.
pub fn object_uid(name: &VolumeName) -> String {
    format!("object-{name}")
}

/// The growth of what lies at `source` to twice what was asked for.
fn growth(request: &VolumeRequest, source: &Source) -> ExpandRequest {
    ExpandRequest {
        name: request.name.clone(),
        id: None,
        source: source.clone(),
        claim: key(request),
        mode: request.mode,
        capacity: Capacity::from_bytes(request.capacity.bytes() * 2),
        pv_metadata: PvMetadata::default(),
    }
}

fn permit() -> Permit {
    Permit::unlimited()
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> Kind {
    result.unwrap_err().kind()
}

async fn creating_again_gives_the_same_volume(bench: Trial) {
    let backend = bench.start();
    let request = bench.request("a");
    let first = backend.create(&request, &permit()).await.unwrap();
    assert_eq!(first, backend.create(&request, &permit()).await.unwrap());
    assert_eq!(first.origin, Origin::Created);
    bench.commit(&backend, &first).await;
    bench.commit(&backend, &first).await;
    assert_eq!(first, backend.create(&request, &permit()).await.unwrap());
    let other = bench.made(&backend, &bench.request("b")).await;
    assert_ne!(other.source, first.source);
    assert_eq!(other.store_identity, first.store_identity);
}

async fn a_volume_lies_where_place_and_locate_say(bench: Trial) {
    let backend = bench.start();
    let request = bench.request("a");
    let place = backend.place(&request).unwrap().location;
    assert!(!bench.storage.exists(&place), "place() touches nothing");
    let volume = bench.made(&backend, &request).await;
    assert_eq!(backend.locate(&volume.source), Some(place.clone()));
    assert!(bench.storage.exists(&place));
    assert_eq!(volume.id.store(), bench.store);
    assert_eq!(volume.id.backend(), backend.capabilities().name);
}

async fn a_volume_is_uncommitted_until_it_is_committed(bench: Trial) {
    let backend = bench.start();
    assert_eq!(bench.list_uncommitted(&backend).await, []);
    let (older, newer) = (bench.request("older"), bench.request("newer"));
    let begun = backend.create(&older, &permit()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    backend.create(&newer, &permit()).await.unwrap();
    let found = bench.list_uncommitted(&backend).await;
    let claims: Vec<_> = found.iter().map(|uncommitted| uncommitted.claim.clone()).collect();
    assert_eq!(claims, [key(&older), key(&newer)]);
    let age = SystemTime::now().duration_since(found[0].since).unwrap_or_default();
    assert!(age < Duration::from_hours(1), "{age:?}");
    bench.commit(&backend, &begun).await;
    let found = bench.list_uncommitted(&backend).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].claim, key(&newer));
}

async fn committing_what_is_not_there_is_not_found(bench: Trial) {
    if !bench.ways.commits {
        return;
    }
    let backend = bench.start();
    let volume = bench.made(&backend, &bench.request("a")).await;
    let id = format!("1/{}/{}/pvc-none", volume.id.backend(), volume.id.store()).parse().unwrap();
    assert_eq!(kind(backend.commit(&id, "no-object", &permit()).await), Kind::NotFound);
}

async fn a_deleted_volume_goes_to_the_trash_and_is_purged(bench: Trial) {
    let backend = bench.start();
    let request = bench.request("a");
    let place = backend.place(&request).unwrap().location;
    let volume = bench.made(&backend, &request).await;
    bench.storage.fill(&place);
    let removal = removal(&request, &volume, Disposal::Delete);
    assert_eq!(backend.remove(&removal, &permit()).await.unwrap(), Removed::Trashed);
    assert!(!bench.storage.exists(&place));
    let again = backend.remove(&removal, &permit()).await.unwrap();
    assert_eq!(again, Removed::Trashed);
    assert_eq!(backend.stores()[0].trash, 1);
    purged(&backend).await;
    let permit = permit();
    assert_eq!(backend.remove(&removal, &permit).await.unwrap(), Removed::Absent);
    let again = backend.create(&request, &permit).await.unwrap();
    assert_eq!(again.id, volume.id, "the place is free again");
}

/// Collects garbage until the trash is empty.
async fn purged(backend: &Arc<dyn StorageSystem>) {
    let permit = permit();
    let collecting = backend.collect_garbage(&permit);
    let emptied = async {
        let since = Instant::now();
        while backend.stores()[0].trash > 0 {
            assert!(since.elapsed() < Duration::from_mins(1), "{:?}", backend.stores());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = collecting => unreachable!("the permit has not ended"),
        () = emptied => {}
    }
    assert!(backend.stores()[0].purged > 0);
}

async fn an_archived_volume_is_moved_aside(bench: Trial) {
    let backend = bench.start();
    let request = bench.request("a");
    let place = backend.place(&request).unwrap().location;
    let volume = bench.made(&backend, &request).await;
    bench.storage.fill(&place);
    let removal = removal(&request, &volume, Disposal::Archive);
    let removed = backend.remove(&removal, &permit()).await.unwrap();
    let told = bench.archived(&place, removed);
    assert!(!bench.storage.exists(&place));
    assert_eq!(bench.list_uncommitted(&backend).await, []);
    let again = backend.remove(&removal, &permit()).await.unwrap();
    assert_eq!(bench.archived(&place, again), told);
    if bench.ways.makes_room {
        bench.made(&backend, &request).await;
        let second = backend.remove(&removal, &permit()).await.unwrap();
        assert_ne!(bench.archived(&place, second), told);
        assert!(bench.storage.is_archived(&place, &told), "the first one stays");
    } else {
        assert_eq!(kind(backend.create(&request, &permit()).await), Kind::Conflict);
        assert!(bench.storage.is_archived(&place, &told), "nobody gets what was archived");
    }
}

async fn a_kept_volume_stays(bench: Trial) {
    let backend = bench.start();
    let request = bench.request("a");
    let place = backend.place(&request).unwrap().location;
    let volume = bench.made(&backend, &request).await;
    let removal = removal(&request, &volume, Disposal::Retain);
    assert_eq!(backend.remove(&removal, &permit()).await.unwrap(), Removed::Kept);
    assert!(bench.storage.exists(&place));
    assert_eq!(bench.list_uncommitted(&backend).await, []);
}

async fn removing_what_is_gone_already_succeeds(bench: Trial) {
    let backend = bench.start();
    let (request, never) = (bench.request("a"), bench.request("never"));
    let volume = bench.made(&backend, &request).await;
    for disposal in [Disposal::Delete, Disposal::Archive] {
        let gone = removal(&never, &bench.storage.volume_of(&never, &volume), disposal);
        assert_eq!(backend.remove(&gone, &permit()).await.unwrap(), Removed::Absent);
    }
}

async fn a_volume_of_an_older_provisioner_is_removed(bench: Trial) {
    let backend = bench.start();
    let template = bench.made(&backend, &bench.request("template")).await;
    let template_place = backend.locate(&template.source).unwrap();
    for (name, disposal) in
        [("delete", Disposal::Delete), ("archive", Disposal::Archive), ("keep", Disposal::Retain)]
    {
        let source = bench.storage.older(&template.source, name);
        let place = backend.locate(&source).unwrap();
        assert_ne!(place, template_place);
        bench.storage.plant(&place);
        let old = Removal {
            id: None,
            source,
            pv_metadata: legacy_pv_metadata(),
            ..removal(&bench.request(name), &template, disposal)
        };
        let removed = backend.remove(&old, &permit()).await.unwrap();
        assert_eq!(bench.storage.exists(&place), disposal == Disposal::Retain, "{disposal}");
        let again = backend.remove(&old, &permit()).await.unwrap();
        match disposal {
            Disposal::Delete => {
                assert_eq!(removed, Removed::Trashed);
                assert!(
                    again == removed || !bench.ways.purges_older && again == Removed::Absent,
                    "{again:?}"
                );
            }
            Disposal::Archive => {
                assert_eq!(again, removed);
                bench.archived(&place, removed);
            }
            Disposal::Retain => assert_eq!([&removed, &again], [&Removed::Kept; 2]),
        }
    }
    assert!(bench.storage.exists(&template_place));
    assert_eq!(bench.list_uncommitted(&backend).await, []);
}

async fn what_the_record_does_not_prove_is_not_removed(bench: Trial) {
    let backend = bench.start();
    let (request, other) = (bench.request("a"), bench.request("b"));
    let volume = bench.made(&backend, &request).await;
    let others = bench.made(&backend, &other).await;
    let right = removal(&request, &volume, Disposal::Delete);
    let wrong = [
        Removal { source: others.source.clone(), ..right.clone() },
        Removal { id: Some(others.id.clone()), ..right.clone() },
        // Without an id: the place belongs to a volume that has a record.
        Removal { id: None, source: others.source.clone(), ..right.clone() },
    ];
    for removal in wrong {
        assert_eq!(kind(backend.remove(&removal, &permit()).await), Kind::Refused, "{removal:?}");
        for request in [&request, &other] {
            assert!(bench.storage.exists(&backend.place(request).unwrap().location));
        }
    }
    assert_eq!(backend.remove(&right, &permit()).await.unwrap(), Removed::Trashed);
}

async fn what_is_not_in_a_store_is_not_removed(bench: Trial) {
    let backend = bench.start();
    let request = bench.request("a");
    let volume = bench.made(&backend, &request).await;
    for source in bench.storage.elsewhere(&volume.source) {
        assert_eq!(backend.locate(&source), None);
        let wrong = Removal { id: None, source, ..removal(&request, &volume, Disposal::Delete) };
        assert_eq!(kind(backend.remove(&wrong, &permit()).await), Kind::Refused);
        let growth = growth(&request, &wrong.source);
        assert_eq!(kind(backend.expand(&growth, &permit()).await), Kind::NotFound);
    }
}

async fn an_unused_volume_is_discarded(bench: Trial) {
    let backend = bench.start();
    let request = bench.request("a");
    let place = backend.place(&request).unwrap().location;
    backend.create(&request, &permit()).await.unwrap();
    let uncommitted = bench.list_uncommitted(&backend).await.remove(0);
    backend.rollback(&uncommitted, &permit()).await.unwrap();
    assert!(!bench.storage.exists(&place));
    assert_eq!(bench.list_uncommitted(&backend).await, []);
    backend.rollback(&uncommitted, &permit()).await.unwrap();
}

async fn a_volume_that_is_in_use_is_not_discarded(bench: Trial) {
    let backend = bench.start();
    let (committed, filled) = (bench.request("committed"), bench.request("filled"));
    let volume = backend.create(&committed, &permit()).await.unwrap();
    let uncommitted = bench.list_uncommitted(&backend).await.remove(0);
    bench.commit(&backend, &volume).await;
    if bench.ways.commits {
        assert_eq!(kind(backend.rollback(&uncommitted, &permit()).await), Kind::Refused);
    }
    backend.create(&filled, &permit()).await.unwrap();
    bench.storage.fill(&backend.place(&filled).unwrap().location);
    let uncommitted = bench.list_uncommitted(&backend).await.remove(0);
    assert_eq!(kind(backend.rollback(&uncommitted, &permit()).await), Kind::Refused);
    let other =
        Uncommitted { claim: ClaimKey { uid: "uid-other".into(), ..key(&filled) }, ..uncommitted.clone() };
    assert_eq!(kind(backend.rollback(&other, &permit()).await), Kind::Refused);
    // Of the same name, but elsewhere.
    let unused = bench.request("unused");
    backend.create(&unused, &permit()).await.unwrap();
    let mut elsewhere =
        bench.list_uncommitted(&backend).await.into_iter().find(|one| one.id.name() == &unused.name).unwrap();
    let place = elsewhere.place.clone().unwrap();
    assert_eq!(place, backend.place(&unused).unwrap().location);
    elsewhere.place = Some(Location::new(place.store, &format!("other-{}", place.path)).unwrap());
    let _ = backend.rollback(&elsewhere, &permit()).await;
    assert!(bench.storage.exists(&backend.place(&unused).unwrap().location));
    elsewhere.place = None;
    backend.rollback(&elsewhere, &permit()).await.unwrap();
    for request in [&committed, &filled] {
        assert!(bench.storage.exists(&backend.place(request).unwrap().location));
    }
    assert_eq!(bench.list_uncommitted(&backend).await, [uncommitted], "it is still known");
}

async fn a_foreign_directory_is_not_taken(bench: Trial) {
    let backend = bench.start();
    let request = bench.request("a");
    let place = backend.place(&request).unwrap().location;
    bench.storage.plant(&place);
    assert_eq!(kind(backend.create(&request, &permit()).await), Kind::Conflict);
    assert!(bench.storage.exists(&place));
    for uncommitted in bench.list_uncommitted(&backend).await {
        assert_eq!(kind(backend.rollback(&uncommitted, &permit()).await), Kind::Refused);
    }
    assert!(bench.storage.exists(&place));
}

async fn nothing_changes_after_the_permit_has_ended(bench: Trial) {
    let backend = bench.start();
    let ended = Permit::unlimited();
    ended.revoke();
    let request = bench.request("a");
    let place = backend.place(&request).unwrap().location;
    assert_eq!(kind(backend.create(&request, &ended).await), Kind::Unavailable);
    assert!(!bench.storage.exists(&place));
    let volume = backend.create(&request, &permit()).await.unwrap();
    let uncommitted = bench.list_uncommitted(&backend).await;
    assert_eq!(kind(backend.rollback(&uncommitted[0], &ended).await), Kind::Unavailable);
    assert_eq!(
        kind(backend.commit(&volume.id, &object_uid(volume.id.name()), &ended).await),
        Kind::Unavailable
    );
    assert_eq!(bench.list_uncommitted(&backend).await, uncommitted);
    bench.commit(&backend, &volume).await;
    for disposal in [Disposal::Delete, Disposal::Archive] {
        let removal = removal(&request, &volume, disposal);
        assert_eq!(kind(backend.remove(&removal, &ended).await), Kind::Unavailable);
        assert!(bench.storage.exists(&place));
    }
}

async fn an_expanded_volume_holds_more_and_never_less(bench: Trial) {
    let backend = bench.start();
    let request = bench.request("a");
    let volume = bench.made(&backend, &request).await;
    let larger = ExpandRequest {
        id: Some(volume.id.clone()),
        pv_metadata: pv_metadata(&volume),
        ..growth(&request, &volume.source)
    };
    for _ in 0..2 {
        let grown = backend.expand(&larger, &permit()).await.unwrap();
        assert!(grown.capacity >= larger.capacity, "{grown:?}");
    }
    let smaller =
        ExpandRequest { capacity: Capacity::from_bytes(request.capacity.bytes() / 2), ..larger.clone() };
    let grown = backend.expand(&smaller, &permit()).await.unwrap();
    if volume.capacity.is_some() {
        assert!(grown.capacity >= larger.capacity, "it became smaller: {grown:?}");
    }
    let again = backend.create(&request, &permit()).await.unwrap();
    assert_eq!((again.id, again.source), (volume.id, volume.source));
}

async fn work_on_the_same_volume_does_not_overlap(bench: Trial) {
    let backend = bench.start();
    let request = bench.request("a");
    let (permit, attempts) = (permit(), 16);
    let all = (0..attempts).map(|_| backend.create(&request, &permit));
    let results = futures::future::join_all(all).await;
    let succeeded: Vec<_> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    assert!(!succeeded.is_empty());
    assert!(succeeded.iter().all(|volume| *volume == succeeded[0]));
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(error.kind(), Kind::Busy, "{error}");
    }
}

async fn a_new_process_finds_what_an_older_one_made(bench: Trial) {
    let (request, begun) = (bench.request("a"), bench.request("b"));
    let (volume, place) = {
        let backend = bench.start();
        let volume = bench.made(&backend, &request).await;
        backend.create(&begun, &permit()).await.unwrap();
        (volume, backend.place(&request).unwrap().location)
    };
    let backend = (bench.open)();
    let identity = Some(volume.store_identity.clone());
    backend.expect_store(StoreExpectation { store: bench.store.clone(), identity, places: vec![place] });
    assert_eq!(backend.create(&request, &permit()).await.unwrap(), volume);
    assert_eq!(bench.list_uncommitted(&backend).await[0].claim, key(&begun));
    let removal = removal(&request, &volume, Disposal::Delete);
    assert_eq!(backend.remove(&removal, &permit()).await.unwrap(), Removed::Trashed);
}

async fn stores_are_described(bench: Trial) {
    let backend = bench.start();
    bench.made(&backend, &bench.request("a")).await;
    // A backend may still be getting to know its store.
    let since = Instant::now();
    while backend.stores().iter().any(|store| store.running > 0) {
        assert!(since.elapsed() < Duration::from_mins(1), "{:?}", backend.stores());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let stores = backend.stores();
    assert_eq!(stores.len(), 1);
    assert_eq!(stores[0].name, bench.store);
    assert_eq!(stores[0].ready, Ok(()));
    assert_eq!(stores[0].trash, 0);
    assert_eq!(stores[0].stuck, []);
}
