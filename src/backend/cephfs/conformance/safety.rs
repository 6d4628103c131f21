//! What is never touched, and what is found again after a crash.

use super::*;

pub(super) async fn what_is_not_proven_is_not_removed(bench: &Bench) {
    let backend = bench.start();
    let request = bench.request("a", &[]);
    let other = bench.in_group(&request.parameters["group"], "b", &[]);
    let (volume, others) = (made(&backend, &request).await, made(&backend, &other).await);
    let right = removal(&request, &volume, Disposal::Delete);
    let with = |edit: &dyn Fn(&mut Removal)| {
        let mut wrong = right.clone();
        edit(&mut wrong);
        wrong
    };
    let rows = [
        ("another volume's id", with(&|r| r.id = Some(others.id.clone()))),
        ("another volume's source", with(&|r| r.source = others.source.clone())),
        ("another volume's record", with(&|r| r.pv_metadata.record = others.record.clone())),
        (
            "another volume's record and source",
            with(&|r| {
                r.source = others.source.clone();
                r.pv_metadata.record = others.record.clone();
            }),
        ),
        ("another cluster", with(&|r| r.pv_metadata.store_identity = Some("another".into()))),
        ("no cluster", with(&|r| r.pv_metadata.store_identity = None)),
        ("no record", with(&|r| r.pv_metadata.record.clear())),
        ("no id", with(&|r| r.id = None)),
    ];
    for (why, wrong) in rows {
        assert_eq!(kind(backend.remove(&wrong, &permit()).await), Kind::Refused, "{why}");
    }
    for volume in [&volume, &others] {
        assert!(bench.world.exists(&Bench::data(volume)) && bench.user_exists(&volume.record["user"]));
    }
    let record = &volume.record;
    let args = [
        "fs",
        "subvolume",
        "metadata",
        "rm",
        &record["fsName"],
        &record["subvolume"],
        "berth.owner",
        "--group_name",
        &record["group"],
    ];
    bench.world.ceph(&args).unwrap();
    assert_eq!(kind(backend.remove(&right, &permit()).await), Kind::Refused, "without a mark");
    assert!(bench.world.exists(&Bench::data(&volume)));
}

pub(super) async fn a_missing_group_is_no_proof_of_removal(bench: &Bench) {
    let backend = bench.start();
    let request = bench.request("a", &[]);
    let volume = made(&backend, &request).await;
    let record = &volume.record;
    // Somebody removes the subvolume by hand, which leaves its user.
    bench
        .world
        .ceph(&[
            "fs",
            "subvolume",
            "rm",
            &record["fsName"],
            &record["subvolume"],
            "--group_name",
            &record["group"],
        ])
        .unwrap();
    assert!(bench.user_exists(&record["user"]));
    let gone = removal(&request, &volume, Disposal::Delete);
    assert_eq!(removed(&backend, &gone).await, Removed::Absent);
    assert!(!bench.user_exists(&record["user"]), "what belonged to it is gone too");
    assert!(!bench.keys.kept().iter().any(|kept| kept.name == record["secretName"]));
    let mut elsewhere = gone.clone();
    elsewhere.pv_metadata.record.insert("group".into(), "no-such-group".into());
    if let Source::Csi(csi) = &mut elsewhere.source {
        csi.attributes.insert("group".into(), "no-such-group".into());
    }
    assert_eq!(kind(backend.remove(&elsewhere, &permit()).await), Kind::Refused);
    let mut elsewhere = gone;
    elsewhere.pv_metadata.record.insert("fsName".into(), "no-such-fs".into());
    assert_eq!(kind(backend.remove(&elsewhere, &permit()).await), Kind::NotFound);
}

pub(super) async fn snapshots_keep_a_volume_and_are_named(bench: &Bench) {
    let backend = bench.start();
    let request = bench.request("a", &[]);
    let volume = made(&backend, &request).await;
    let record = &volume.record;
    let snapshot = |verb| {
        let args = [
            "fs",
            "subvolume",
            "snapshot",
            verb,
            &record["fsName"],
            &record["subvolume"],
            "one",
            "--group_name",
            &record["group"],
        ];
        bench.world.ceph(&args).unwrap();
    };
    snapshot("create");
    let removal = removal(&request, &volume, Disposal::Delete);
    let error = backend.remove(&removal, &permit()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InUse);
    assert!(error.to_string().contains("snapshot rm"), "{error}");
    assert!(bench.world.exists(&Bench::data(&volume)));
    snapshot("rm");
    assert_eq!(removed(&backend, &removal).await, Removed::Trashed);
}

pub(super) async fn an_unused_volume_is_rolled_back_and_a_used_one_stays(bench: &Bench) {
    let backend = bench.start();
    let store = backend.place(&bench.request("x", &[])).unwrap().location.store;
    for more in [&[][..], &[("deterministicNames", "true")]] {
        let unused = bench.request("unused", more);
        let used = bench.in_group(&unused.parameters["group"], "used", more);
        let (volume, filled) = (made(&backend, &unused).await, made(&backend, &used).await);
        bench.world.fill(&Bench::data(&filled));
        let nobody = |_: &VolumeName| false;
        let ours = [&volume.id, &filled.id];
        let list = |all: Vec<Uncommitted>| {
            all.into_iter().filter(|uncommitted| ours.contains(&&uncommitted.id)).collect::<Vec<_>>()
        };
        let found = list(backend.list_uncommitted(&store, &nobody).await.unwrap());
        let claims: Vec<_> = found.iter().map(|uncommitted| uncommitted.claim.clone()).collect();
        assert_eq!(claims.len(), 2, "{found:?}");
        assert!(claims.contains(&key(&unused)) && claims.contains(&key(&used)));
        for _ in 0..2 {
            let known = |name: &VolumeName| *name == used.name;
            let found = list(backend.list_uncommitted(&store, &known).await.unwrap());
            assert_eq!(found.len(), 1, "what has a PV is finished");
        }
        let of =
            |volume: &Volume| found.iter().find(|uncommitted| uncommitted.id == volume.id).unwrap().clone();
        let error = backend.rollback(&of(&filled), &permit()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{error}");
        let said = error.to_string();
        assert!(said.contains(used.name.as_str()) && said.contains("berth.kept yes"), "{said}");
        assert!(bench.world.exists(&Bench::data(&filled)) && bench.user_exists(&filled.record["user"]));
        assert!(
            backend.stores().iter().any(|status| status
                .stuck
                .iter()
                .any(|(what, _)| what.contains(&filled.record["subvolume"])))
        );
        let other = Uncommitted { claim: ClaimKey { uid: "other".into(), ..key(&unused) }, ..of(&volume) };
        assert_eq!(kind(backend.rollback(&other, &permit()).await), Kind::Refused);
        for _ in 0..2 {
            backend.rollback(&of(&volume), &permit()).await.unwrap();
        }
        assert!(!bench.world.exists(&Bench::data(&volume)) && !bench.user_exists(&volume.record["user"]));
        assert!(!bench.keys.kept().iter().any(|kept| kept.name == volume.record["secretName"]));
    }
}

pub(super) async fn another_installations_volume_is_left_alone(bench: &Bench) {
    let theirs = bench.start();
    let request = bench.request("a", &[("deterministicNames", "true")]);
    let volume = made(&theirs, &request).await;
    let admin = bench.keys.get(&admin_secret(), false).await.unwrap();
    let admin = std::str::from_utf8(admin.get("key").unwrap()).unwrap().to_owned();
    let keys = Keys::new("another-installation", &admin);
    let ours = bench.open(Arc::clone(&keys));
    assert_eq!(kind(ours.create(&request, &permit()).await), Kind::Conflict, "not even for the same claim");
    let nobody = |_: &VolumeName| false;
    ours.expect_store(StoreExpectation {
        store: volume.id.store().into(),
        identity: None,
        places: vec![ours.place(&request).unwrap().location],
    });
    let found = ours.list_uncommitted(volume.id.store(), &nobody).await.unwrap();
    assert!(!found.iter().any(|uncommitted| uncommitted.id == volume.id));
    let removal = removal(&request, &volume, Disposal::Delete);
    assert_eq!(kind(ours.remove(&removal, &permit()).await), Kind::Refused);
    keys.identify(None);
    assert_eq!(
        ours.list_uncommitted(volume.id.store(), &nobody).await.unwrap(),
        [],
        "who does not know himself sweeps nothing"
    );
    assert!(bench.world.exists(&Bench::data(&volume)));
}

pub(super) async fn what_somebody_else_put_there_is_not_taken(bench: &Bench) {
    let backend = bench.start();
    let plain = bench.request("plain", &[]);
    let group = plain.parameters["group"].clone();
    let path = format!("/volumes/{group}/berth-{}", plain.claim.uid);
    bench.world.plant(&path);
    let error = backend.create(&plain, &permit()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    assert!(bench.world.exists(&path));

    let used = bench.in_group(&group, "used", &[("deterministicNames", "true")]);
    let fs = "cephfs";
    bench
        .world
        .ceph(&["fs", "subvolume", "create", fs, "team.used", "--size", "4194304", "--group_name", &group])
        .unwrap();
    let data =
        bench.world.ceph(&["fs", "subvolume", "getpath", fs, "team.used", "--group_name", &group]).unwrap();
    bench.world.fill(data.trim());
    let error = backend.create(&used, &permit()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    assert!(error.to_string().contains("has no mark"), "{error}");
    let nobody = |_: &VolumeName| false;
    let store = backend.place(&plain).unwrap().location.store;
    for uncommitted in backend.list_uncommitted(&store, &nobody).await.unwrap() {
        if uncommitted.claim.uid == plain.claim.uid {
            assert_eq!(kind(backend.rollback(&uncommitted, &permit()).await), Kind::Refused);
        }
        assert_ne!(uncommitted.claim.uid, used.claim.uid);
    }
    assert!(bench.world.exists(&path) && bench.world.exists(data.trim()));
}

pub(super) async fn the_trace_of_a_crash_is_adopted(bench: &Bench) {
    let backend = bench.start();
    for (more, name) in [(&[][..], None), (&[("deterministicNames", "true")], Some("team.a"))] {
        let request = bench.request("a", more);
        let group = request.parameters["group"].clone();
        let own = format!("berth-{}", request.claim.uid);
        let name = name.unwrap_or(&own);
        let fs = "cephfs";
        bench.world.ceph(&["fs", "subvolumegroup", "create", fs, &group]).unwrap();
        bench
            .world
            .ceph(&["fs", "subvolume", "create", fs, name, "--size", "4194304", "--group_name", &group])
            .unwrap();
        let path =
            bench.world.ceph(&["fs", "subvolume", "getpath", fs, name, "--group_name", &group]).unwrap();
        let volume = made(&backend, &request).await;
        assert_eq!(Bench::data(&volume), path.trim());
        assert_eq!(volume.capacity, Some(Capacity::from_bytes(1 << 30)), "with the quota that was asked for");
        assert!(bench.metadata(&volume, "berth.owner").unwrap().contains(&request.claim.uid));
        assert_eq!(removed(&backend, &removal(&request, &volume, Disposal::Delete)).await, Removed::Trashed);
    }
}

pub(super) async fn nothing_is_kept_or_grows_after_the_permit_has_ended(bench: &Bench) {
    let backend = bench.start();
    let ended = Permit::unlimited();
    ended.revoke();
    let request = bench.request("a", &[]);
    let volume = made(&backend, &request).await;
    let keep = removal(&request, &volume, Disposal::Retain);
    assert_eq!(kind(backend.remove(&keep, &ended).await), Kind::Unavailable);
    assert_eq!(kind(backend.expand(&expansion(&request, &volume, 1 << 40), &ended).await), Kind::Unavailable);
    assert_eq!(made(&backend, &request).await, volume);
    assert_eq!(bench.metadata(&volume, "berth.kept"), None);
}

/// Proves: cephfs 5
pub(super) async fn the_user_of_a_volume_reaches_no_other_data(bench: &Bench) {
    let backend = bench.start();
    let confined = |volume: &Volume| {
        let user = &volume.record["user"];
        let (mds, osd) = (bench.rights(user, "mds"), bench.rights(user, "osd"));
        assert!(mds.contains(&format!("path={}", Bench::data(volume))), "{mds}");
        let namespace = format!("namespace=fsvolumens_{}", volume.record["subvolume"]);
        // Rights to a pool without a namespace are rights to all that lies in it.
        assert!(osd.split(',').all(|grant| grant.contains(&namespace)), "{osd}");
    };
    for more in [&[][..], &[("deterministicNames", "true")]] {
        confined(&made(&backend, &bench.request("a", more)).await);
    }
    // Subvolumes that were made otherwise, and are marked for the claim.
    let begun = |request: &VolumeRequest| {
        let (fs, group) = ("cephfs", request.parameters["group"].as_str());
        let name = format!("berth-{}", request.claim.uid);
        bench.world.ceph(&["fs", "subvolumegroup", "create", fs, group]).unwrap();
        let args = ["fs", "subvolume", "create", fs, &name, "--size", "1073741824", "--group_name", group];
        bench.world.ceph(&args).unwrap();
        let owner = format!(
            r#"{{"installation":"installation-1","namespace":"team","name":"{}","uid":"{}"}}"#,
            request.claim.name, request.claim.uid
        );
        let args = ["fs", "subvolume", "metadata", "set", fs, &name, "berth.owner", &owner];
        bench.world.ceph(&[&args[..], &["--group_name", group]].concat()).unwrap();
        let args = ["fs", "subvolume", "getpath", fs, &name, "--group_name", group];
        bench.world.ceph(&args).unwrap().trim().to_owned()
    };
    let empty = bench.request("empty", &[]);
    begun(&empty);
    confined(&made(&backend, &empty).await);
    let mut used = bench.request("used", &[]);
    bench.world.fill(&begun(&used));
    let error = backend.create(&used, &permit()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    assert!(error.to_string().contains("RADOS namespace"), "{error}");
    assert!(!bench.user_exists(&format!("berth-{}", used.claim.uid)));
    // Whoever mounts all volumes as one user does not need it.
    used.parameters.insert("userSecretName".into(), "shared".into());
    made(&backend, &used).await;
}
