//! The behaviours that every backend must show: [`run`] tries them one after the other. For tests only.
//!
//! Each behaviour gets an empty store of its own. What only one kind of storage can show is tested beside that backend.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a failed expectation is how a test speaks"
)]

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use super::{Backend, Error, Kind, Past, Removed, Unfinished};
use crate::volume::{
    Access, Capacity, Claim, ClaimKey, Disposal, Growth, Mode, Origin, Permit, Place, Provenance, Removal,
    Source, Volume, VolumeName, VolumeRequest,
};

/// What a test sees and does behind a backend's back.
pub trait Storage: Send + Sync {
    /// Whether a volume or anything else is at that place.
    fn exists(&self, place: &Place) -> bool;
    /// Puts content into what is there, as a pod would.
    fn fill(&self, place: &Place);
    /// Puts something there that no backend made, with content.
    fn plant(&self, place: &Place);
    /// The source of a volume beside that one, with the suffix at the end of its name. Nothing need be there.
    fn sibling(&self, source: &Source, suffix: &str) -> Source;
    /// Sources like that one which lie in none of the backend's stores.
    fn elsewhere(&self, source: &Source) -> Vec<Source>;
}

/// An empty store of a backend.
pub struct Bench {
    /// The name of the store that a request without parameters is made in.
    pub store: String,
    /// Gives a backend on the storage, as a new process would see it.
    pub open: Box<dyn Fn() -> Arc<dyn Backend> + Send + Sync>,
    /// The storage itself.
    pub storage: Box<dyn Storage>,
}

impl Bench {
    /// A new process, which knows of no volumes.
    fn start(&self) -> Arc<dyn Backend> {
        let backend = (self.open)();
        backend.remember(Past { store: self.store.clone(), identity: None, places: Vec::new() });
        backend
    }
}

/// Shows every behaviour on a bench of its own; panics at the first that is missing, with its name.
pub async fn run(bench: impl Fn() -> Bench) {
    macro_rules! behaviours {
        ($($name:ident),* $(,)?) => { $(
            println!("behaviour: {}", stringify!($name));
            $name(bench()).await;
        )* };
    }
    behaviours!(
        creating_again_gives_the_same_volume,
        a_volume_lies_where_place_and_locate_say,
        a_volume_is_unfinished_until_it_is_confirmed,
        confirming_what_is_not_there_is_not_found,
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
        access: vec![Access::ReadWriteMany],
        mode: Mode::Filesystem,
        parameters: BTreeMap::new(),
    }
}

/// The key of the request's claim.
pub fn key(request: &VolumeRequest) -> ClaimKey {
    ClaimKey {
        namespace: request.claim.namespace.clone(),
        name: request.claim.name.clone(),
        uid: request.claim.uid.clone(),
    }
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
        provenance: provenance(volume),
    }
}

/// What the PV of `volume` tells of how it was made.
pub fn provenance(volume: &Volume) -> Provenance {
    Provenance {
        record: volume.record.clone(),
        store_identity: Some(volume.store_identity.clone()),
        ..Provenance::default()
    }
}

/// The growth of what lies at `source` to twice what was asked for.
fn growth(request: &VolumeRequest, source: &Source) -> Growth {
    Growth {
        name: request.name.clone(),
        id: None,
        source: source.clone(),
        claim: key(request),
        mode: request.mode,
        capacity: Capacity::from_bytes(request.capacity.bytes() * 2),
        provenance: Provenance::default(),
    }
}

/// A caller that knows of no PV.
fn nobody(_: &VolumeName) -> bool {
    false
}

fn permit() -> Permit {
    Permit::unlimited()
}

async fn made(backend: &Arc<dyn Backend>, request: &VolumeRequest) -> Volume {
    let volume = backend.create(request, &permit()).await.unwrap();
    backend.confirm(&volume.id, &permit()).await.unwrap();
    volume
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> Kind {
    result.unwrap_err().kind()
}

async fn creating_again_gives_the_same_volume(bench: Bench) {
    let backend = bench.start();
    let request = request("a");
    let first = backend.create(&request, &permit()).await.unwrap();
    assert_eq!(first, backend.create(&request, &permit()).await.unwrap());
    assert_eq!(first.origin, Origin::Created);
    backend.confirm(&first.id, &permit()).await.unwrap();
    backend.confirm(&first.id, &permit()).await.unwrap();
    assert_eq!(first, backend.create(&request, &permit()).await.unwrap());
    let other = made(&backend, &self::request("b")).await;
    assert_ne!(other.source, first.source);
    assert_eq!(other.store_identity, first.store_identity);
}

async fn a_volume_lies_where_place_and_locate_say(bench: Bench) {
    let backend = bench.start();
    let request = request("a");
    let place = backend.place(&request).unwrap();
    assert!(!bench.storage.exists(&place), "place() touches nothing");
    let volume = made(&backend, &request).await;
    assert_eq!(backend.locate(&volume.source), Some(place.clone()));
    assert!(bench.storage.exists(&place));
    assert_eq!(volume.id.store(), bench.store);
    assert_eq!(volume.id.backend(), backend.capabilities().name);
}

async fn a_volume_is_unfinished_until_it_is_confirmed(bench: Bench) {
    let backend = bench.start();
    assert_eq!(backend.unfinished(&bench.store, &nobody).await.unwrap(), []);
    let (older, newer) = (request("older"), request("newer"));
    let begun = backend.create(&older, &permit()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    backend.create(&newer, &permit()).await.unwrap();
    let found = backend.unfinished(&bench.store, &nobody).await.unwrap();
    let claims: Vec<_> = found.iter().map(|unfinished| unfinished.claim.clone()).collect();
    assert_eq!(claims, [key(&older), key(&newer)]);
    let age = SystemTime::now().duration_since(found[0].since).unwrap_or_default();
    assert!(age < Duration::from_hours(1), "{age:?}");
    backend.confirm(&begun.id, &permit()).await.unwrap();
    let found = backend.unfinished(&bench.store, &nobody).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].claim, key(&newer));
}

async fn confirming_what_is_not_there_is_not_found(bench: Bench) {
    let backend = bench.start();
    let volume = made(&backend, &request("a")).await;
    let id = format!("1/{}/{}/pvc-none", volume.id.backend(), volume.id.store()).parse().unwrap();
    assert_eq!(kind(backend.confirm(&id, &permit()).await), Kind::NotFound);
}

async fn a_deleted_volume_goes_to_the_trash_and_is_purged(bench: Bench) {
    let backend = bench.start();
    let request = request("a");
    let place = backend.place(&request).unwrap();
    let volume = made(&backend, &request).await;
    bench.storage.fill(&place);
    let removal = removal(&request, &volume, Disposal::Delete);
    assert_eq!(backend.remove(&removal, &permit()).await.unwrap(), Removed::Trashed);
    assert!(!bench.storage.exists(&place));
    assert_eq!(backend.remove(&removal, &permit()).await.unwrap(), Removed::Trashed);
    assert_eq!(backend.stores()[0].trash, 1);
    let permit = permit();
    let tending = backend.tend(&permit);
    let emptied = async {
        let since = Instant::now();
        while backend.stores()[0].trash > 0 {
            assert!(since.elapsed() < Duration::from_mins(1), "{:?}", backend.stores());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = tending => unreachable!("the permit has not ended"),
        () = emptied => {}
    }
    assert!(backend.stores()[0].purged > 0);
    assert_eq!(backend.remove(&removal, &permit).await.unwrap(), Removed::Absent);
    let again = backend.create(&request, &permit).await.unwrap();
    assert_eq!(again.id, volume.id, "the place is free again");
}

async fn an_archived_volume_is_moved_aside(bench: Bench) {
    let backend = bench.start();
    let request = request("a");
    let place = backend.place(&request).unwrap();
    let volume = made(&backend, &request).await;
    bench.storage.fill(&place);
    let removal = removal(&request, &volume, Disposal::Archive);
    let removed = backend.remove(&removal, &permit()).await.unwrap();
    assert_eq!(removed, Removed::Archived(format!("archived-{}", place.segments.join("/"))));
    assert!(!bench.storage.exists(&place));
    assert_eq!(backend.remove(&removal, &permit()).await.unwrap(), removed);
    made(&backend, &request).await;
    let Removed::Archived(second) = backend.remove(&removal, &permit()).await.unwrap() else {
        unreachable!("a directory of the same name is archived beside the first one")
    };
    assert_ne!(Removed::Archived(second), removed);
}

async fn a_kept_volume_stays(bench: Bench) {
    let backend = bench.start();
    let request = request("a");
    let place = backend.place(&request).unwrap();
    let volume = made(&backend, &request).await;
    let removal = removal(&request, &volume, Disposal::Keep);
    assert_eq!(backend.remove(&removal, &permit()).await.unwrap(), Removed::Kept);
    assert!(bench.storage.exists(&place));
    assert_eq!(backend.unfinished(&bench.store, &nobody).await.unwrap(), []);
}

async fn removing_what_is_gone_already_succeeds(bench: Bench) {
    let backend = bench.start();
    let (request, never) = (request("a"), self::request("never"));
    let volume = made(&backend, &request).await;
    for disposal in [Disposal::Delete, Disposal::Archive] {
        let id = format!("1/{}/{}/{}", volume.id.backend(), volume.id.store(), never.name).parse().unwrap();
        let source = bench.storage.sibling(&volume.source, "-gone");
        let gone = Removal { id: Some(id), source, ..removal(&never, &volume, disposal) };
        assert_eq!(backend.remove(&gone, &permit()).await.unwrap(), Removed::Absent);
    }
}

async fn a_volume_of_an_older_provisioner_is_removed(bench: Bench) {
    let backend = bench.start();
    let template = made(&backend, &request("template")).await;
    let template_place = backend.locate(&template.source).unwrap();
    for (name, disposal) in
        [("delete", Disposal::Delete), ("archive", Disposal::Archive), ("keep", Disposal::Keep)]
    {
        let source = bench.storage.sibling(&template.source, &format!("-{name}"));
        let place = backend.locate(&source).unwrap();
        assert_ne!(place, template_place);
        bench.storage.plant(&place);
        let old = Removal {
            id: None,
            source,
            provenance: Provenance::default(),
            ..removal(&request(name), &template, disposal)
        };
        let removed = backend.remove(&old, &permit()).await.unwrap();
        let expected = match disposal {
            Disposal::Delete => Removed::Trashed,
            Disposal::Archive => Removed::Archived(format!("archived-{}", place.segments.join("/"))),
            Disposal::Keep => Removed::Kept,
        };
        assert_eq!(removed, expected);
        assert_eq!(bench.storage.exists(&place), disposal == Disposal::Keep);
        assert_eq!(backend.remove(&old, &permit()).await.unwrap(), expected, "again");
    }
    assert!(bench.storage.exists(&template_place));
}

async fn what_the_record_does_not_prove_is_not_removed(bench: Bench) {
    let backend = bench.start();
    let (request, other) = (request("a"), request("b"));
    let volume = made(&backend, &request).await;
    let others = made(&backend, &other).await;
    let right = removal(&request, &volume, Disposal::Delete);
    let wrong = [
        Removal { source: others.source.clone(), ..right.clone() },
        Removal { claim: ClaimKey { uid: "uid-other".into(), ..right.claim.clone() }, ..right.clone() },
        Removal { claim: ClaimKey { name: "other".into(), ..right.claim.clone() }, ..right.clone() },
        Removal { id: Some(others.id.clone()), ..right.clone() },
        // Without an id: the place belongs to a volume that has a record.
        Removal { id: None, source: others.source.clone(), ..right.clone() },
    ];
    for removal in wrong {
        assert_eq!(kind(backend.remove(&removal, &permit()).await), Kind::Refused, "{removal:?}");
        for request in [&request, &other] {
            assert!(bench.storage.exists(&backend.place(request).unwrap()));
        }
    }
    assert_eq!(backend.remove(&right, &permit()).await.unwrap(), Removed::Trashed);
}

async fn what_is_not_in_a_store_is_not_removed(bench: Bench) {
    let backend = bench.start();
    let request = request("a");
    let volume = made(&backend, &request).await;
    for source in bench.storage.elsewhere(&volume.source) {
        assert_eq!(backend.locate(&source), None);
        let wrong = Removal { id: None, source, ..removal(&request, &volume, Disposal::Delete) };
        assert_eq!(kind(backend.remove(&wrong, &permit()).await), Kind::Refused);
        let growth = growth(&request, &wrong.source);
        assert_eq!(kind(backend.expand(&growth, &permit()).await), Kind::NotFound);
    }
}

async fn an_unused_volume_is_discarded(bench: Bench) {
    let backend = bench.start();
    let request = request("a");
    let place = backend.place(&request).unwrap();
    backend.create(&request, &permit()).await.unwrap();
    let unfinished = backend.unfinished(&bench.store, &nobody).await.unwrap().remove(0);
    backend.discard(&unfinished, &permit()).await.unwrap();
    assert!(!bench.storage.exists(&place));
    assert_eq!(backend.unfinished(&bench.store, &nobody).await.unwrap(), []);
    backend.discard(&unfinished, &permit()).await.unwrap();
}

async fn a_volume_that_is_in_use_is_not_discarded(bench: Bench) {
    let backend = bench.start();
    let (confirmed, filled) = (request("confirmed"), request("filled"));
    let volume = backend.create(&confirmed, &permit()).await.unwrap();
    let unfinished = backend.unfinished(&bench.store, &nobody).await.unwrap().remove(0);
    backend.confirm(&volume.id, &permit()).await.unwrap();
    assert_eq!(kind(backend.discard(&unfinished, &permit()).await), Kind::Refused);
    backend.create(&filled, &permit()).await.unwrap();
    bench.storage.fill(&backend.place(&filled).unwrap());
    let unfinished = backend.unfinished(&bench.store, &nobody).await.unwrap().remove(0);
    assert_eq!(kind(backend.discard(&unfinished, &permit()).await), Kind::Refused);
    let other =
        Unfinished { claim: ClaimKey { uid: "uid-other".into(), ..key(&filled) }, ..unfinished.clone() };
    assert_eq!(kind(backend.discard(&other, &permit()).await), Kind::Refused);
    for request in [&confirmed, &filled] {
        assert!(bench.storage.exists(&backend.place(request).unwrap()));
    }
    assert_eq!(backend.unfinished(&bench.store, &nobody).await.unwrap(), [unfinished], "it is still known");
}

async fn a_foreign_directory_is_not_taken(bench: Bench) {
    let backend = bench.start();
    let request = request("a");
    let place = backend.place(&request).unwrap();
    bench.storage.plant(&place);
    assert_eq!(kind(backend.create(&request, &permit()).await), Kind::Conflict);
    assert!(bench.storage.exists(&place));
    for unfinished in backend.unfinished(&bench.store, &nobody).await.unwrap() {
        assert_eq!(kind(backend.discard(&unfinished, &permit()).await), Kind::Refused);
    }
    assert!(bench.storage.exists(&place));
}

async fn nothing_changes_after_the_permit_has_ended(bench: Bench) {
    let backend = bench.start();
    let ended = Permit::unlimited();
    ended.revoke();
    let request = request("a");
    let place = backend.place(&request).unwrap();
    assert_eq!(kind(backend.create(&request, &ended).await), Kind::Unavailable);
    assert!(!bench.storage.exists(&place));
    let volume = backend.create(&request, &permit()).await.unwrap();
    let unfinished = backend.unfinished(&bench.store, &nobody).await.unwrap();
    assert_eq!(kind(backend.discard(&unfinished[0], &ended).await), Kind::Unavailable);
    assert_eq!(kind(backend.confirm(&volume.id, &ended).await), Kind::Unavailable);
    assert_eq!(backend.unfinished(&bench.store, &nobody).await.unwrap(), unfinished);
    backend.confirm(&volume.id, &permit()).await.unwrap();
    for disposal in [Disposal::Delete, Disposal::Archive] {
        let removal = removal(&request, &volume, disposal);
        assert_eq!(kind(backend.remove(&removal, &ended).await), Kind::Unavailable);
        assert!(bench.storage.exists(&place));
    }
}

async fn work_on_the_same_volume_does_not_overlap(bench: Bench) {
    let backend = bench.start();
    let request = request("a");
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

async fn a_new_process_finds_what_an_older_one_made(bench: Bench) {
    let (request, begun) = (request("a"), request("b"));
    let (volume, place) = {
        let backend = bench.start();
        let volume = made(&backend, &request).await;
        backend.create(&begun, &permit()).await.unwrap();
        (volume, backend.place(&request).unwrap())
    };
    let backend = (bench.open)();
    let identity = Some(volume.store_identity.clone());
    backend.remember(Past { store: bench.store.clone(), identity, places: vec![place] });
    assert_eq!(backend.create(&request, &permit()).await.unwrap(), volume);
    assert_eq!(backend.unfinished(&bench.store, &nobody).await.unwrap()[0].claim, key(&begun));
    let removal = removal(&request, &volume, Disposal::Delete);
    assert_eq!(backend.remove(&removal, &permit()).await.unwrap(), Removed::Trashed);
}

async fn stores_are_described(bench: Bench) {
    let backend = bench.start();
    made(&backend, &request("a")).await;
    let stores = backend.stores();
    assert_eq!(stores.len(), 1);
    assert_eq!(stores[0].name, bench.store);
    assert_eq!(stores[0].ready, Ok(()));
    assert_eq!((stores[0].trash, stores[0].running), (0, 0));
    assert_eq!(stores[0].stuck, []);
}
