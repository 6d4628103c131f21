//! What must hold where the world is not as it was: classes that came and went, work that others left, clusters that were
//! swapped. On the stand-in alone.

use std::{
    collections::BTreeSet,
    fs,
    time::{Duration, SystemTime},
};

use super::{
    conformance::{Keys, World, admin_secret, purged, removal},
    fake::{KEY, MONITORS, Mgr},
};
use crate::{
    backend::{
        Backend, Janitor, Kind, KnownVolume, PvState, Removed, Restored, StoreExpectation, Stores,
        Uncommitted,
        cephfs::{Cephfs, info::Subvolume, remove, sweep},
        conformance::{key, pv_metadata, request},
    },
    volume::{
        Capacity, CephfsSource, ClaimKey, Disposal, ExpandRequest, InUse, Mode, Origin, Permit, PvMetadata,
        Removal, SecretName, Source, VolumeName, VolumeRequest,
    },
};

/// What claim `team/<name>` of a class asks for.
pub(super) fn request_for(name: &str, more: &[(&str, &str)]) -> VolumeRequest {
    let secret = admin_secret();
    let common = [
        ("monitors", MONITORS),
        ("adminSecretName", secret.name.as_str()),
        ("adminSecretNamespace", secret.namespace.as_str()),
    ];
    let all = common.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    VolumeRequest { parameters: all.collect(), ..request(name) }
}

/// Where only images are made, the loop of the subvolumes' trash ended in a panic when berth began to lead.
#[tokio::test(start_paused = true)]
async fn garbage_collection_waits_for_the_first_cluster_that_a_class_or_a_volume_names() {
    let backend = Mgr::new().backend(Keys::new("i-1", KEY));
    let permit = Permit::unlimited();
    let collecting = tokio::time::timeout(Duration::from_hours(1), backend.collect_garbage(&permit)).await;
    assert!(collecting.is_err(), "it ended before its permit");
}

#[test]
fn where_a_volume_lies_does_not_depend_on_the_classes_that_are_known() {
    let backend = Mgr::new().backend(Keys::new("i-1", KEY));
    // One of the monitors that the class names.
    let source = Source::Cephfs(CephfsSource {
        monitors: vec!["127.0.0.2:6789".into()],
        path: "/volumes/kubernetes/team/data".into(),
        user: "k8s.team.data".into(),
        secret: None,
    });
    let before = backend.locate(&source).unwrap();
    backend.register_class(&request_for("data", &[]).parameters);
    assert_eq!(backend.stores().len(), 1, "the cluster of the class is known by now");
    assert_eq!(backend.locate(&source), Some(before));
}

#[tokio::test]
async fn a_subvolume_of_version_3_is_used_like_any_other_and_its_path_is_taken_as_it_is() {
    let mgr = Mgr::new();
    let backend = mgr.backend(Keys::new("i-1", KEY));
    let permit = Permit::unlimited();
    let old = request_for("old", &[("pvSource", "in-tree")]);
    let made_before = backend.create(&old, &permit).await.unwrap();
    fs::write(mgr.path().join("version3"), "").unwrap();
    let new = request_for("new", &[("pvSource", "in-tree")]);
    let made = backend.create(&new, &permit).await.unwrap();
    let Source::Cephfs(source) = &made.source else { panic!("{:?}", made.source) };
    assert!(source.path.contains("/roots/") && source.path.ends_with("/mnt"), "{}", source.path);
    assert_eq!(backend.create(&new, &permit).await.unwrap().source, made.source, "found again");
    for (request, volume) in [(&new, &made), (&old, &made_before)] {
        assert_eq!(backend.locate(&volume.source), Some(backend.place(request).unwrap().location));
        let expansion = ExpandRequest {
            name: request.name.clone(),
            id: Some(volume.id.clone()),
            source: volume.source.clone(),
            claim: key(request),
            mode: Mode::Filesystem,
            capacity: Capacity::from_bytes(1 << 30),
            pv_metadata: pv_metadata(volume),
        };
        assert_eq!(backend.expand(&expansion, &permit).await.unwrap().capacity.bytes(), 1 << 30);
        let removal = removal(request, volume, Disposal::Delete);
        assert_eq!(backend.remove(&removal, &permit).await.unwrap(), Removed::Trashed);
    }
}

#[tokio::test]
async fn a_cluster_that_nobody_names_is_forgotten_and_a_missing_secret_is_reported() {
    let keys = Keys::new("i-1", KEY);
    let mgr = Mgr::new();
    let backend = mgr.backend(keys);
    let broken = request_for("a", &[("adminSecretName", "gone")]).parameters;
    backend.register_class(&broken);
    let told = |backend: &Cephfs| backend.stores().remove(0);
    let since = std::time::Instant::now();
    while !told(&backend).ready.is_err_and(|why| why.contains("gone")) {
        assert!(since.elapsed() < Duration::from_mins(1), "{:?}", backend.stores());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let good = request_for("b", &[]).parameters;
    backend.register_class(&good);
    while told(&backend).ready.is_err() {
        assert!(since.elapsed() < Duration::from_mins(1), "{:?}", backend.stores());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(told(&backend).problems[0].contains("gone"), "{:?}", backend.stores());
    let used = BTreeSet::from([told(&backend).name]);
    for (classes, used, left) in [
        (vec![broken, good.clone()], BTreeSet::new(), 1),
        (vec![good], BTreeSet::new(), 1),
        (Vec::new(), used, 1),
        (Vec::new(), BTreeSet::new(), 0),
    ] {
        backend.retain_stores(&classes, &used);
        assert_eq!(backend.stores().len(), left, "{} classes, {used:?}", classes.len());
    }
}

/// Deterministic names: they do not hold the UID of the claim.
const FIXED: [(&str, &str); 1] = [("deterministicNames", "true")];

#[tokio::test]
async fn a_volume_bound_to_another_claim_is_removed_like_any_other() {
    let mgr = Mgr::new();
    let keys = Keys::new("i-1", KEY);
    let backend = mgr.backend(keys.clone());
    let request = request_for("data", &FIXED);
    let volume = backend.create(&request, &Permit::unlimited()).await.unwrap();
    // The PV was retained, and bound to a new claim of the same name.
    let mut removal = removal(&request, &volume, Disposal::Delete);
    removal.claim = ClaimKey { uid: "another".into(), ..removal.claim };
    let grown = ExpandRequest {
        name: removal.name.clone(),
        id: removal.id.clone(),
        source: removal.source.clone(),
        claim: removal.claim.clone(),
        mode: Mode::Filesystem,
        capacity: Capacity::from_bytes(8 << 20),
        pv_metadata: removal.pv_metadata.clone(),
    };
    backend.expand(&grown, &Permit::unlimited()).await.unwrap();
    assert_eq!(backend.remove(&removal, &Permit::unlimited()).await.unwrap(), Removed::Trashed);
    purged(&*backend).await;
    assert!(!mgr.exists("/volumes/berth/team.data") && keys.kept().is_empty());
}

#[tokio::test]
async fn a_cluster_that_is_not_what_it_was_is_not_used() {
    let mgr = Mgr::new();
    let keys = Keys::new("i-1", KEY);
    let (permit, nobody) = (Permit::unlimited(), |_: &VolumeName| false);
    let backend = mgr.backend(keys.clone());
    let request = request_for("data", &[]);
    let store = backend.create(&request, &permit).await.unwrap().id.store().to_owned();
    let begun = backend.list_uncommitted(&store, &nobody).await.unwrap().remove(0);
    let before = mgr.state();
    let identity = Some("76543210-89ab-cdef-0123-456789abcdef".to_owned());
    let past = StoreExpectation { store: store.clone(), identity, places: Vec::new() };

    backend.expect_store(past.clone());
    let met_later = mgr.backend(keys);
    met_later.expect_store(past);
    met_later.register_class(&request.parameters);
    for backend in [&backend, &met_later] {
        let error = backend.create(&request_for("next", &[]), &permit).await.unwrap_err();
        assert!(
            error.to_string().contains("76543210-") && error.to_string().contains("01234567-"),
            "{error}"
        );
        assert_eq!(error.kind(), Kind::Refused);
        assert_eq!(backend.list_uncommitted(&store, &nobody).await.unwrap_err().kind(), Kind::Refused);
        assert!(backend.stores()[0].ready.is_err());
    }
    assert_eq!(backend.rollback(&begun, &permit).await.unwrap_err().kind(), Kind::Refused);
    assert_eq!(mgr.state(), before);
}

#[tokio::test]
async fn an_uncommitted_subvolume_is_rolled_back_without_a_sweep() {
    let permit = Permit::unlimited();
    for (cluster_id, more) in [(Some("i-1"), &FIXED[..]), (Some("i-1"), &[][..])] {
        let mgr = Mgr::new();
        let keys = Keys::new("i-1", KEY);
        keys.identify(cluster_id);
        let backend = mgr.backend(keys.clone());
        let request = request_for("data", more);
        let volume = backend.create(&request, &permit).await.unwrap();
        let id = volume.id.clone();
        let made =
            Uncommitted { id: id.clone(), claim: key(&request), since: SystemTime::UNIX_EPOCH, place: None };
        // A claim of the same name that came later.
        let other = Uncommitted { claim: ClaimKey { uid: "other".into(), ..key(&request) }, ..made.clone() };
        assert_eq!(backend.rollback(&other, &permit).await.unwrap_err().kind(), Kind::Refused);
        backend.rollback(&made, &permit).await.unwrap();
        let left: Vec<_> = mgr.state().into_iter().filter(|path| path.contains("data")).collect();
        assert!(left.is_empty() && keys.kept().is_empty(), "{cluster_id:?}: {left:?}");

        // What has a PV is not rolled back at once, whatever anybody says.
        backend.create(&request, &permit).await.unwrap();
        backend.commit(&id, "object", &permit).await.unwrap();
        assert_eq!(backend.rollback(&made, &permit).await.unwrap_err().kind(), Kind::Refused);
    }
}

#[tokio::test]
async fn a_name_that_another_claim_began_to_take_is_reported_with_its_uid() {
    let mgr = Mgr::new();
    let backend = mgr.backend(Keys::new("i-1", KEY));
    mgr.ceph(&["fs", "subvolumegroup", "create", "cephfs", "berth"]).unwrap();
    let name = "team.data";
    mgr.ceph(&["fs", "subvolume", "create", "cephfs", name, "--size", "4194304", "--group_name", "berth"])
        .unwrap();
    let metadata = ["fs", "subvolume", "metadata", "set", "cephfs", name, "berth.wanted-gone", "1"];
    mgr.ceph(&[&metadata[..], &["--group_name", "berth"]].concat()).unwrap();
    let before = mgr.state();
    let error = backend.create(&request_for("data", &FIXED), &Permit::unlimited()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "it gets an Event: {error}");
    let (said, command) = (error.to_string(), "ceph fs subvolume metadata rm");
    assert!(said.contains("UID gone"), "{said}");
    assert_eq!(mgr.state(), before, "nothing of ours is left, which would be in another's way");
    let remedy = &said[said.find(command).unwrap() + "ceph ".len()..];
    mgr.ceph(&remedy.split(' ').collect::<Vec<_>>()).unwrap();
    backend.create(&request_for("data", &FIXED), &Permit::unlimited()).await.unwrap();
}

#[tokio::test]
async fn a_class_recreated_between_attempts_leaks_no_user_and_no_secret() {
    let mgr = Mgr::new();
    let keys = Keys::new("i-1", KEY);
    let backend = mgr.backend(keys.clone());
    let permit = Permit::unlimited();
    let classes: [&[(&str, &str)]; 4] = [
        &[("userSecretNamespace", "here")],
        &[("userSecretNamespace", "there")],
        &[("userSecretName", "shared")],
        &[],
    ];
    for more in classes {
        let volume = backend.create(&request_for("data", more), &permit).await.unwrap();
        let users = mgr.state().iter().filter(|path| path.ends_with("berth-uid-data/key")).count();
        let own = volume.record.get("secretNamespace");
        assert_eq!((keys.kept().len(), users), own.map_or((0, 0), |_| (1, 1)), "{more:?}");
        assert_eq!(keys.kept().first().map(|secret| &secret.namespace), own);
    }
}

#[tokio::test]
async fn a_broken_subvolume_does_not_keep_the_others_from_being_swept() {
    let mgr = Mgr::new();
    let backend = mgr.backend(Keys::new("i-1", KEY));
    let permit = Permit::unlimited();
    backend.create(&request_for("broken", &[]), &permit).await.unwrap();
    let volume = backend.create(&request_for("unused", &[]), &permit).await.unwrap();
    mgr.break_subvolume("berth-uid-broken");
    let nobody = |_: &VolumeName| false;
    for _ in 0..2 {
        let found = backend.list_uncommitted(volume.id.store(), &nobody).await.unwrap();
        assert_eq!(found.iter().map(|uncommitted| &uncommitted.id).collect::<Vec<_>>(), [&volume.id]);
        let stuck = backend.stores().remove(0).stuck;
        assert!(matches!(&stuck[..], [(what, _)] if what.contains("berth-uid-broken")), "{stuck:?}");
    }
}

/// Looks for archives whose time has come, so many days from now.
async fn collect_garbage(backend: &Cephfs, store: &str, days: u64) {
    collect_after(backend, store, Duration::from_hours(24 * days)).await;
}

async fn collect_after(backend: &Cephfs, store: &str, time: Duration) {
    let work = backend.work_on(store).await.unwrap().unwrap();
    sweep::collect_garbage(&work, SystemTime::now() + time, &Permit::unlimited()).await.unwrap();
}

const EXPIRING: [(&str, &str); 1] = [("archiveExpiry", "30d")];

#[tokio::test]
async fn an_archive_expires_though_its_class_is_gone_and_only_what_is_due_is_looked_at() {
    let mgr = Mgr::new();
    let keys = Keys::new("i-1", KEY);
    let permit = Permit::unlimited();
    let backend = mgr.configured(keys.clone());
    let (request, later) =
        (request_for("data", &EXPIRING), request_for("later", &[("archiveExpiry", "90d")]));
    backend.create(&request_for("live", &EXPIRING), &permit).await.unwrap();
    for request in [&request, &later] {
        let volume = backend.create(request, &permit).await.unwrap();
        backend.remove(&removal(request, &volume, Disposal::Archive), &permit).await.unwrap();
    }
    let count = |name: &str| mgr.state().iter().filter(|path| path.ends_with(name)).count();
    assert_eq!([count("/berth-uid-data"), count("/berth-uid-later"), count("/berth-uid-live")], [1, 1, 2]);

    // A process that nobody tells of a class.
    let backend = mgr.configured(keys);
    mgr.take_log();
    collect_garbage(&backend, "main", 0).await;
    assert!(mgr.take_log().iter().filter(|call| call.contains("metadata ls")).count() == 3, "all, once");
    collect_garbage(&backend, "main", 29).await;
    assert_eq!(mgr.take_log(), [""; 0], "nothing is due");
    collect_garbage(&backend, "main", 31).await;
    assert!(mgr.take_log().iter().all(|call| !call.contains("uid-later") && !call.contains("uid-live")));
    assert_eq!([count("/berth-uid-data"), count("/berth-uid-later"), count("/berth-uid-live")], [0, 1, 2]);
    assert_eq!(backend.stores()[0].purged, 1);
}

#[tokio::test]
async fn without_a_known_cluster_nothing_is_made_or_removed() {
    let mgr = Mgr::new();
    let keys = Keys::new("i-1", KEY);
    let backend = mgr.backend(keys.clone());
    let permit = Permit::unlimited();
    let request = request_for("data", &[]);
    let volume = backend.create(&request, &permit).await.unwrap();
    keys.identify(None);
    let before = (mgr.state(), keys.kept());
    let error = backend.create(&request_for("next", &[]), &permit).await.unwrap_err();
    assert!(error.kind() == Kind::Unavailable && error.to_string().contains("--cluster-id"), "{error}");
    for disposal in [Disposal::Delete, Disposal::Archive] {
        let error = backend.remove(&removal(&request, &volume, disposal), &permit).await.unwrap_err();
        assert!(error.kind() == Kind::Refused && error.to_string().contains("kube-system"), "{error}");
    }
    assert_eq!((mgr.state(), keys.kept()), before);
}

#[tokio::test]
async fn a_copy_of_another_clusters_volume_object_destroys_nothing_until_it_is_taken_over() {
    let mgr = Mgr::new();
    let (theirs, ours) = (Keys::new("i-1", KEY), Keys::new("i-2", KEY));
    let (their_backend, our_backend) = (mgr.backend(theirs), mgr.backend(ours));
    let permit = Permit::unlimited();
    for more in [&FIXED[..], &[][..]] {
        let request = request_for("data", more);
        let volume = their_backend.create(&request, &permit).await.unwrap();
        let before = mgr.state();
        let mut removal = removal(&request, &volume, Disposal::Delete);
        for disposal in [Disposal::Delete, Disposal::Archive, Disposal::Retain] {
            removal.disposal = disposal;
            let error = our_backend.remove(&removal, &permit).await.unwrap_err();
            assert!(
                error.kind() == Kind::Refused && error.to_string().contains("berth.storage/take-over=i-1"),
                "{error}"
            );
        }
        purged(&*our_backend).await;
        assert_eq!(mgr.state(), before);
        removal.disposal = Disposal::Delete;
        removal.pv_metadata.take_over = Some("i-1".into());
        assert_eq!(our_backend.remove(&removal, &permit).await.unwrap(), Removed::Trashed);
        purged(&*our_backend).await;
        assert!(
            !mgr.state().iter().any(|path| path.ends_with("/berth-uid-data") || path.ends_with("/team.data"))
        );
    }
}

#[tokio::test]
async fn a_volume_that_was_rescued_after_it_was_deleted_or_archived_is_there_again() {
    let mgr = Mgr::new();
    let keys = Keys::new("i-1", KEY);
    let backend = mgr.backend(keys.clone());
    let permit = Permit::unlimited();
    let request = request_for("data", &[]);
    let volume = backend.create(&request, &permit).await.unwrap();
    // Which notes that it was kept.
    let state = || mgr.state().into_iter().filter(|path| !path.ends_with("/berth.kept")).collect::<Vec<_>>();
    let before = (state(), keys.kept());
    for disposal in [Disposal::Delete, Disposal::Archive] {
        let removal = removal(&request, &volume, disposal);
        assert_eq!(backend.restore(&removal, &permit).await.unwrap(), Restored::InPlace);
        backend.remove(&removal, &permit).await.unwrap();
        assert_ne!(state(), before.0, "{disposal}");
        assert_eq!(backend.restore(&removal, &permit).await.unwrap(), Restored::MovedBack);
        assert_eq!((state(), keys.kept()), before, "{disposal}");
    }
    // Nobody restores it; but when its time has come, the API server says that it is to be kept.
    let removal = removal(&request, &volume, Disposal::Delete);
    backend.remove(&removal, &permit).await.unwrap();
    keys.set_pv(&request.name, PvState::Present { uid: removal.pv_metadata.uid.clone(), removing: false });
    purged(&*backend).await;
    assert_eq!((state(), keys.kept()), before);
}

#[tokio::test]
async fn a_deleted_volume_stays_while_its_object_does_and_for_its_time_in_the_trash() {
    let mgr = Mgr::new();
    let keys = Keys::new("i-1", KEY);
    let backend = mgr.backend(keys.clone());
    let permit = Permit::unlimited();
    let request = request_for("data", &[]);
    let volume = backend.create(&request, &permit).await.unwrap();
    let mut removal = removal(&request, &volume, Disposal::Delete);
    removal.pv_metadata.retention = Some(Duration::from_hours(1));
    keys.set_pv(&request.name, PvState::Present { uid: removal.pv_metadata.uid.clone(), removing: true });
    backend.remove(&removal, &permit).await.unwrap();
    let there = || mgr.exists("/volumes/berth/berth-uid-data");
    let store = volume.id.store();
    collect_after(&backend, store, Duration::from_hours(2)).await;
    assert!(there(), "its PersistentVolume is still there");
    keys.set_pv(&request.name, PvState::Absent);
    let next = mgr.backend(keys);
    next.register_class(&request.parameters);
    collect_after(&next, store, Duration::from_mins(59)).await;
    assert!(there(), "its time has not come");
    assert_eq!(next.create(&request, &permit).await.unwrap_err().kind(), Kind::Conflict);
    collect_after(&next, store, Duration::from_mins(61)).await;
    assert!(!there());
}

/// The annotation did nothing before the removal.
#[tokio::test]
async fn a_volume_in_use_that_is_taken_over_from_another_cluster_is_signed() {
    let mgr = Mgr::new();
    let permit = Permit::unlimited();
    let theirs = mgr.backend(Keys::new("i-1", KEY));
    let request = request_for("data", &[]);
    let volume = theirs.create(&request, &permit).await.unwrap();
    let ours = mgr.backend(Keys::new("i-2", KEY));
    ours.register_class(&request.parameters);
    let Removal { name, id, source, claim, origin, pv_metadata, .. } =
        removal(&request, &volume, Disposal::Delete);
    let mut in_use = InUse { name, id, source, claim, origin, capacity: request.capacity, pv_metadata };
    assert_eq!(ours.register(&in_use, &permit).await.unwrap_err().kind(), Kind::Refused);
    in_use.pv_metadata.take_over = Some("i-1".into());
    ours.register(&in_use, &permit).await.unwrap();
    let refused = theirs.remove(&removal(&request, &volume, Disposal::Delete), &permit).await.unwrap_err();
    assert!(refused.to_string().ends_with("berth.storage/take-over=i-2"), "{refused}");
}

#[tokio::test]
async fn an_unsigned_mark_is_signed_while_its_volume_is_in_use_and_not_taken_for_ours_otherwise() {
    let mgr = Mgr::new();
    let keys = Keys::new("i-1", KEY);
    let backend = mgr.backend(keys.clone());
    let permit = Permit::unlimited();
    let request = request_for("data", &EXPIRING);
    let volume = backend.create(&request, &permit).await.unwrap();
    let unsigned = r#"{"namespace":"team","name":"data","uid":"uid-data","user":"berth-uid-data"}"#;
    let mark = ["fs", "subvolume", "metadata", "set", "cephfs", "berth-uid-data", "berth.owner", unsigned];
    mgr.ceph(&[&mark[..], &["--group_name", "berth"]].concat()).unwrap();
    let error = backend.remove(&removal(&request, &volume, Disposal::Archive), &permit).await.unwrap_err();
    assert!(error.to_string().contains("take-over=unrecorded"), "{error}");
    let known = [KnownVolume { name: request.name.clone(), legacy: false }];
    assert_eq!(backend.unregistered(volume.id.store(), &known).await.unwrap().len(), 1);
    let Removal { name, id, source, claim, origin, pv_metadata, .. } =
        removal(&request, &volume, Disposal::Archive);
    let mut in_use = InUse { name, id, source, claim, origin, capacity: request.capacity, pv_metadata };
    in_use.claim.uid = "bound-elsewhere".into();
    let told = backend.register(&in_use, &permit).await.unwrap_err();
    assert_eq!(told.kind(), Kind::Refused);
    assert!(
        told.to_string().ends_with("berth.storage/take-over=unrecorded"),
        "the command comes last: {told}"
    );
    in_use.claim = key(&request);
    backend.register(&in_use, &permit).await.unwrap();
    assert_eq!(backend.unregistered(volume.id.store(), &known).await.unwrap(), []);
    let removed = backend.remove(&removal(&request, &volume, Disposal::Archive), &permit).await.unwrap();
    assert!(matches!(removed, Removed::Archived(_)));
    collect_garbage(&backend, volume.id.store(), 31).await;
    assert!(!mgr.state().iter().any(|path| path.contains("uid-data")), "{:?}", mgr.state());
}

#[tokio::test]
async fn an_old_volume_is_removed_from_the_file_system_that_its_class_names() {
    let mgr = Mgr::new();
    let backend = mgr.backend(Keys::new("i-1", KEY));
    let path = "/volumes/kubernetes/team/data";
    mgr.plant(path);
    mgr.add_user("k8s.team.data", &format!("allow r,allow rw path={path}"));
    fs::write(mgr.path().join("second"), "").unwrap();
    let source = CephfsSource {
        monitors: vec!["127.0.0.1:6789".into()],
        path: path.into(),
        user: "k8s.team.data".into(),
        secret: None,
    };
    let mut removal = Removal {
        name: "pvc-old".parse().unwrap(),
        id: None,
        source: Source::Cephfs(source),
        claim: ClaimKey { namespace: "team".into(), name: "data".into(), uid: "old".into() },
        origin: Origin::Created,
        disposal: Disposal::Delete,
        pv_metadata: PvMetadata { parameters: request_for("data", &[]).parameters, ..PvMetadata::default() },
    };
    let permit = Permit::unlimited();
    let error = backend.remove(&removal, &permit).await.unwrap_err();
    assert!(error.kind() == Kind::Invalid && error.to_string().contains("fsName"), "{error}");
    assert!(mgr.exists(path));
    removal.pv_metadata.parameters.insert("fsName".into(), "cephfs".into());
    assert_eq!(backend.remove(&removal, &permit).await.unwrap(), Removed::Trashed);
    assert!(!mgr.exists(path));
}

#[tokio::test]
async fn a_second_file_system_stops_neither_the_leader_nor_the_next_one() {
    let mgr = Mgr::new();
    let keys = Keys::new("i-1", KEY);
    let (permit, nobody) = (Permit::unlimited(), |_: &VolumeName| false);
    let leader = mgr.backend(keys.clone());
    let store = leader.create(&request_for("one", &[]), &permit).await.unwrap().id.store().to_owned();
    fs::write(mgr.path().join("second"), "").unwrap();
    let next = mgr.backend(keys);
    for (backend, name) in [(&leader, "two"), (&next, "three")] {
        let volume = backend.create(&request_for(name, &[]), &permit).await.unwrap();
        assert_eq!(volume.record["fsName"], "cephfs");
        backend.list_uncommitted(&store, &nobody).await.unwrap();
    }
}

#[tokio::test]
async fn the_only_file_system_is_asked_for_again_once_it_is_gone() {
    let mgr = Mgr::new();
    let backend = mgr.backend(Keys::new("i-1", KEY));
    let permit = Permit::unlimited();
    backend.create(&request_for("one", &[]), &permit).await.unwrap();
    // It was made again under another name.
    fs::write(mgr.path().join("renamed"), "").unwrap();
    assert_eq!(backend.create(&request_for("two", &[]), &permit).await.unwrap_err().kind(), Kind::NotFound);
    backend.create(&request_for("two", &[]), &permit).await.unwrap();
}

#[tokio::test]
async fn a_subvolume_that_nobody_marked_is_reported() {
    let mgr = Mgr::new();
    let backend = mgr.backend(Keys::new("i-1", KEY));
    let permit = Permit::unlimited();
    let request = request_for("data", &FIXED);
    // Broken off after it was made: the first change was the group.
    mgr.break_off(2, "before");
    backend.create(&request, &permit).await.unwrap_err();
    assert!(mgr.mend() && mgr.exists("/volumes/berth/team.data"));
    let store = backend.place(&request).unwrap().location.store;
    let nobody = |_: &VolumeName| false;
    for _ in 0..2 {
        assert_eq!(
            backend.list_uncommitted(&store, &nobody).await.unwrap(),
            [],
            "nobody knows for whom it was made"
        );
        let stuck = backend.stores().remove(0).stuck;
        let [(what, why)] = &stuck[..] else { unreachable!("{stuck:?}") };
        assert!(
            what.contains("team.data") && why.contains("berth.kept yes") && !why.contains("subvolume rm"),
            "{what}: {why}"
        );
    }
    let kept = ["fs", "subvolume", "metadata", "set", "cephfs", "team.data", "berth.kept", "yes"];
    mgr.ceph(&[&kept[..], &["--group_name", "berth"]].concat()).unwrap();
    backend.list_uncommitted(&store, &nobody).await.unwrap();
    assert_eq!(backend.stores()[0].stuck, []);
}

#[tokio::test]
async fn a_user_that_may_be_left_is_reported() {
    let mgr = Mgr::new();
    let backend = mgr.backend(Keys::new("i-1", KEY));
    let permit = Permit::unlimited();
    let request = request_for("data", &[]);
    let volume = backend.create(&request, &permit).await.unwrap();
    mgr.ceph(&["fs", "subvolume", "rm", "cephfs", "berth-uid-data", "--group_name", "berth"]).unwrap();
    fs::write(mgr.path().join("discreet"), "").unwrap();
    let removed = backend.remove(&removal(&request, &volume, Disposal::Delete), &permit).await.unwrap();
    assert_eq!(removed, Removed::Absent);
    let stuck = backend.stores().remove(0).stuck;
    let [(what, why)] = &stuck[..] else { unreachable!("{stuck:?}") };
    assert!(what.contains("client.berth-uid-data") && why.contains("may be left"), "{what}: {why}");
}

#[tokio::test]
async fn what_no_class_asks_for_is_done_by_the_user_that_is_configured() {
    let mgr = Mgr::new();
    let keys = Keys::new("i-1", KEY);
    let backend = mgr.configured(keys.clone());
    let permit = Permit::unlimited();
    let mut request = request_for("data", &[]);
    request.parameters.insert("adminSecretName".into(), "of-the-class".into());
    let secret = SecretName { namespace: "admin".into(), name: "of-the-class".into() };
    keys.put(&secret, &[("key", KEY)]);
    let volume = backend.create(&request, &permit).await.unwrap();
    // What the class named is no good any more.
    keys.put(&secret, &[("key", "not a key")]);
    let nobody = |_: &VolumeName| false;
    assert_eq!(backend.list_uncommitted(volume.id.store(), &nobody).await.unwrap().len(), 1);
}

#[test]
fn a_name_with_signs_of_a_shell_is_quoted_in_the_commands_that_are_reported() {
    let at = |fs: &str, group: &str| Subvolume { fs: fs.into(), group: group.into(), name: "berth-u".into() };
    let told = remove::no_group(&at("fs;touch x", "$(touch y)")).to_string();
    assert!(told.ends_with("(ceph fs subvolumegroup create 'fs;touch x' '$(touch y)')"), "{told}");
    let told = remove::no_group(&at("cephfs", "../team")).to_string();
    assert!(told.ends_with("(ceph fs subvolumegroup create cephfs ../team)"), "{told}");
}

/// Ceph said that it had marked what was to be deleted, and had not: the PV went, and the data stayed for ever.
#[tokio::test]
async fn a_volume_that_cannot_be_marked_since_the_file_system_is_full_keeps_its_object_until_it_can() {
    for disposal in [Disposal::Delete, Disposal::Archive, Disposal::Retain] {
        let mgr = Mgr::new();
        let backend = mgr.backend(Keys::new("i-1", KEY));
        let permit = Permit::unlimited();
        let request = request_for("data", &[]);
        let volume = backend.create(&request, &permit).await.unwrap();
        let full = mgr.path().join("full");
        fs::write(&full, "").unwrap();
        let before = mgr.state();
        let error = backend.remove(&removal(&request, &volume, disposal), &permit).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Exhausted, "{disposal}: {error}");
        assert!(error.to_string().contains("error in write"), "{disposal}: {error}");
        let error = backend.create(&request_for("other", &[]), &permit).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Exhausted, "{error}");
        fs::remove_file(&full).unwrap();
        // But for the group of the volume, which is not made again.
        assert_eq!(mgr.state(), before, "{disposal}");
        backend.remove(&removal(&request, &volume, disposal), &permit).await.unwrap();
        purged(&*backend).await;
        assert_eq!(mgr.exists("/volumes/berth/berth-uid-data"), disposal != Disposal::Delete, "{disposal}");
    }
}

/// What was deleted before it was full makes room.
#[tokio::test]
async fn a_full_file_system_does_not_keep_what_was_deleted_from_being_purged() {
    let mgr = Mgr::new();
    let backend = mgr.backend(Keys::new("i-1", KEY));
    let permit = Permit::unlimited();
    let request = request_for("data", &[]);
    let volume = backend.create(&request, &permit).await.unwrap();
    backend.remove(&removal(&request, &volume, Disposal::Delete), &permit).await.unwrap();
    fs::write(mgr.path().join("full"), "").unwrap();
    purged(&*backend).await;
    assert!(!mgr.exists("/volumes/berth/berth-uid-data"));
}

/// A PV that was rescued, or restored from a backup, while nobody led: nothing had taken the mark away, and at the end of its time
/// the data of a volume in use was deleted.
#[tokio::test]
async fn an_archive_that_a_persistent_volume_uses_does_not_expire() {
    for node in [&[][..], &[("userSecretName", "shared")]] {
        let mgr = Mgr::new();
        let keys = Keys::new("i-1", KEY);
        keys.put(&SecretName { namespace: "team".into(), name: "shared".into() }, &[("key", KEY)]);
        let backend = mgr.backend(keys.clone());
        let permit = Permit::unlimited();
        let request = request_for("data", &[&EXPIRING[..], node].concat());
        let volume = backend.create(&request, &permit).await.unwrap();
        let before = (mgr.state(), keys.kept());
        let removal = removal(&request, &volume, Disposal::Archive);
        backend.remove(&removal, &permit).await.unwrap();
        let uid = removal.pv_metadata.uid.clone();
        let backend = mgr.backend(keys.clone());
        backend.register_class(&request.parameters);
        for removing in [true, false] {
            keys.set_pv(&request.name, PvState::Present { uid: uid.clone(), removing });
            collect_garbage(&backend, volume.id.store(), 31).await;
            assert!(mgr.exists("/volumes/berth/berth-uid-data"), "{node:?}, removing: {removing}");
        }
        let Removal { name, id, source, claim, origin, pv_metadata, .. } = removal;
        let in_use = InUse { name, id, source, claim, origin, capacity: request.capacity, pv_metadata };
        backend.register(&in_use, &permit).await.unwrap();
        assert_eq!((mgr.state(), keys.kept()), before, "{node:?}: it is no archive any more");
        collect_garbage(&backend, volume.id.store(), 400).await;
        assert_eq!(mgr.state(), before.0, "{node:?}");
    }
}

#[tokio::test]
async fn an_archive_for_a_limited_time_is_not_made_while_the_time_is_unknown() {
    let mgr = Mgr::new();
    let keys = Keys::new("i-1", KEY);
    let backend = mgr.backend(keys.clone());
    let permit = Permit::unlimited();
    for (more, made) in [(&EXPIRING[..], false), (&[][..], true)] {
        let request = request_for(if made { "for-good" } else { "for-a-time" }, more);
        let volume = backend.create(&request, &permit).await.unwrap();
        let before = mgr.state();
        keys.lose_the_time(true);
        let archived = backend.remove(&removal(&request, &volume, Disposal::Archive), &permit).await;
        assert_eq!(
            archived.as_ref().err().map(crate::backend::Error::kind),
            (!made).then_some(Kind::Unavailable)
        );
        assert_eq!(mgr.state() != before, made);
        keys.lose_the_time(false);
        backend.remove(&removal(&request, &volume, Disposal::Archive), &permit).await.unwrap();
    }
}

/// Ceph empties its record of a user, cannot write it, and knows no such user from then on: the key still opened the archive, and
/// the user stayed for ever.
#[tokio::test]
async fn a_user_that_ceph_forgot_in_a_full_file_system_is_shut_out_all_the_same() {
    let rows = [Disposal::Archive, Disposal::Delete].map(|disposal| [(disposal, false), (disposal, true)]);
    for (disposal, forgotten) in rows.into_iter().flatten() {
        let mgr = Mgr::new();
        let keys = Keys::new("i-1", KEY);
        let backend = mgr.backend(keys.clone());
        let permit = Permit::unlimited();
        let request = request_for("data", &[]);
        let volume = backend.create(&request, &permit).await.unwrap();
        let user = mgr.path().join("users/berth-uid-data");
        assert!(user.exists());
        let removal = removal(&request, &volume, disposal);
        if disposal == Disposal::Archive {
            // It was killed behind the mark.
            let set =
                ["fs", "subvolume", "metadata", "set", "cephfs", "berth-uid-data", "berth.archived", "{}"];
            mgr.ceph(&[&set[..], &["--group_name", "berth"]].concat()).unwrap();
            fs::write(mgr.path().join("full"), "").unwrap();
            if forgotten {
                fs::remove_file(user.join("tenant")).unwrap();
            }
            assert!(matches!(backend.remove(&removal, &permit).await.unwrap(), Removed::Archived(_)));
        } else {
            backend.remove(&removal, &permit).await.unwrap();
            fs::write(mgr.path().join("full"), "").unwrap();
            if forgotten {
                fs::remove_file(user.join("tenant")).unwrap();
            }
            collect_after(&backend, volume.id.store(), Duration::from_hours(1)).await;
            assert!(!mgr.exists("/volumes/berth/berth-uid-data"));
        }
        assert!(!user.exists(), "{disposal}");
        assert_eq!(keys.kept(), [], "{disposal}");
    }
}
