//! What becomes of volumes that are made, grown, deleted, archived and kept.

use super::*;

pub(super) async fn creating_again_gives_the_same_volume_and_key(bench: &Bench) {
    let backend = bench.start();
    let request = bench.request("a", &[]);
    let first = made(&backend, &request).await;
    assert_eq!(first.origin, Origin::Created);
    assert!(bench.world.exists(&Bench::data(&first)));
    let user = format!("berth-{}", request.claim.uid);
    let name = SecretName { namespace: "team".into(), name: format!("ceph-{user}-secret") };
    let secrets = bench.keys.get(&name, false).await.unwrap();
    assert_eq!(secrets.get("userID"), Some(user.as_bytes()));
    assert_eq!(secrets.get("key"), secrets.get("userKey"));
    assert!(bench.user_exists(&user));
    for backend in [backend, bench.start()] {
        assert_eq!(made(&backend, &request).await, first);
    }
    assert_eq!(bench.keys.get(&name, false).await.unwrap(), secrets);
    let Source::Csi(csi) = &first.source else { unreachable!("{:?}", first.source) };
    assert_eq!(csi.handle, first.id.to_string());
    assert_eq!(csi.stage_secret, Some(name));
    assert_eq!(csi.attributes["userId"], user);
    assert_eq!(csi.attributes["monitors"], bench.monitors);
}

/// Proves: cephfs 8
pub(super) async fn an_in_tree_volume_names_monitors_path_user_and_secret(bench: &Bench) {
    let backend = bench.start();
    let request = bench.request("a", &[("pvSource", "in-tree"), ("userSecretNamespace", "keys")]);
    let volume = made(&backend, &request).await;
    let Source::Cephfs(source) = &volume.source else { unreachable!("{:?}", volume.source) };
    assert_eq!(source.monitors.join(","), bench.monitors);
    assert!(
        source.path.starts_with(&format!("/volumes/{}/berth-", request.parameters["group"])),
        "{}",
        source.path
    );
    assert!(bench.world.exists(&source.path));
    assert_eq!(source.user, format!("berth-{}", request.claim.uid));
    let secret = source.secret.as_ref().unwrap();
    assert_eq!(secret.namespace, "keys");
    let secrets = bench.keys.get(secret, true).await.unwrap();
    // The in-tree plugin takes any of the values for the key.
    assert_eq!(secrets.only().map(|(name, _)| name), Some("key"));
    assert_eq!(backend.locate(&volume.source), Some(backend.place(&request).unwrap().location));
    assert_eq!(removed(&backend, &removal(&request, &volume, Disposal::Delete)).await, Removed::Trashed);
}

/// Proves: cephfs 7
pub(super) async fn quotas_are_rounded_up_grow_and_never_shrink(bench: &Bench) {
    const MIB: u64 = 1 << 20;
    let backend = bench.start();
    let mut request = bench.request("a", &[]);
    request.capacity = Capacity::from_bytes(5 * MIB);
    let volume = made(&backend, &request).await;
    assert_eq!(volume.capacity, Some(Capacity::from_bytes(8 * MIB)));
    for (bytes, has) in [(9 * MIB, 12 * MIB), (MIB, 12 * MIB), (12 * MIB, 12 * MIB), (13 * MIB, 16 * MIB)] {
        let grown = backend.expand(&expansion(&request, &volume, bytes), &permit()).await.unwrap();
        assert_eq!((grown.capacity.bytes(), grown.on_node), (has, false), "asked for {bytes}");
    }
    let again = made(&backend, &request).await;
    assert_eq!(again.capacity, Some(Capacity::from_bytes(16 * MIB)), "another attempt shrinks nothing");
    for absurd in [0, u64::MAX] {
        let grown = backend.expand(&expansion(&request, &volume, absurd), &permit()).await;
        assert_eq!(kind(grown), Kind::Invalid);
    }
    let other = ExpandRequest {
        claim: ClaimKey { uid: "other".into(), ..key(&request) },
        ..expansion(&request, &volume, MIB)
    };
    backend.expand(&other, &permit()).await.unwrap_or_else(|error| unreachable!("bound anew: {error}"));
}

/// Proves: cephfs 6
pub(super) async fn a_deleted_volume_is_gone_with_user_and_secret(bench: &Bench) {
    let backend = bench.start();
    let request = bench.request("a", &[]);
    let volume = made(&backend, &request).await;
    bench.world.fill(&Bench::data(&volume));
    let secret = SecretName { namespace: "team".into(), name: volume.record["secretName"].clone() };
    assert!(bench.keys.kept().contains(&secret));
    let removal = removal(&request, &volume, Disposal::Delete);
    assert_eq!(removed(&backend, &removal).await, Removed::Trashed);
    assert!(!bench.world.exists(&Bench::data(&volume)));
    assert!(!bench.user_exists(&volume.record["user"]));
    assert!(!bench.keys.kept().contains(&secret));
    assert_eq!(removed(&backend, &removal).await, Removed::Absent);
    let again = made(&backend, &request).await;
    assert_eq!(again.id, volume.id);
    assert_ne!(Bench::data(&again), Bench::data(&volume), "the data of before is not there");
}

/// Proves: cephfs 13
pub(super) async fn an_archived_volume_keeps_its_data_and_loses_its_users(bench: &Bench) {
    let backend = bench.start();
    let request = bench.request("a", &[]);
    let volume = made(&backend, &request).await;
    let data = Bench::data(&volume);
    bench.world.fill(&data);
    let record = &volume.record;
    let mut guest = vec!["fs", "subvolume", "authorize", &record["fsName"], &record["subvolume"]];
    let user = format!("guest-{}", request.claim.uid);
    guest.extend([
        user.as_str(),
        "--access_level",
        "rw",
        "--tenant_id",
        "t",
        "--group_name",
        &record["group"],
    ]);
    bench.world.ceph(&guest).unwrap();
    let removal = removal(&request, &volume, Disposal::Archive);
    let archived = removed(&backend, &removal).await;
    assert_eq!(archived, Removed::Archived(backend.place(&request).unwrap().location.path.to_string()));
    assert!(bench.world.exists(&data));
    assert!(!bench.user_exists(&record["user"]) && !bench.user_exists(&user), "nobody can reach it any more");
    assert!(!bench.keys.kept().iter().any(|kept| kept.name == record["secretName"]));
    let mark = bench.metadata(&volume, "berth.archived").unwrap();
    assert!(mark.contains("since") && !mark.contains("expires"), "{mark}");
    assert_eq!(removed(&backend, &removal).await, archived, "again");
    assert_eq!(bench.metadata(&volume, "berth.archived"), Some(mark));
    let group = &record["group"];
    let nobody = |_: &VolumeName| false;
    let uncommitted = backend.list_uncommitted(volume.id.store(), &nobody).await.unwrap();
    assert!(!uncommitted.iter().any(|uncommitted| uncommitted.id == volume.id), "it is not swept");
    assert_eq!(kind(backend.create(&request, &permit()).await), Kind::Conflict, "nor given to anybody");
    // As documented: without the mark it is a volume again, for whoever needs it, and no sweep asks for it.
    let metadata = |more: &[&str]| {
        let args = [&["fs", "subvolume", "metadata"][..], more, &["--group_name", group]].concat();
        bench.world.ceph(&args).unwrap();
    };
    let (fs, subvolume) = (record["fsName"].as_str(), record["subvolume"].as_str());
    metadata(&["set", fs, subvolume, "berth.kept", "restored"]);
    metadata(&["rm", fs, subvolume, "berth.archived"]);
    let uncommitted = backend.list_uncommitted(volume.id.store(), &nobody).await.unwrap();
    assert!(!uncommitted.iter().any(|uncommitted| uncommitted.id == volume.id), "it is in use");
    assert_eq!(Bench::data(&made(&backend, &request).await), data);
    assert!(bench.user_exists(&record["user"]));
}

pub(super) async fn a_kept_volume_stays_and_is_not_swept(bench: &Bench) {
    let backend = bench.start();
    let request = bench.request("a", &[]);
    let volume = made(&backend, &request).await;
    let removal = removal(&request, &volume, Disposal::Retain);
    for _ in 0..2 {
        assert_eq!(removed(&backend, &removal).await, Removed::Kept);
    }
    assert!(bench.world.exists(&Bench::data(&volume)));
    let nobody = |_: &VolumeName| false;
    let uncommitted = backend.list_uncommitted(volume.id.store(), &nobody).await.unwrap();
    assert!(!uncommitted.iter().any(|uncommitted| uncommitted.id == volume.id));
}

/// Proves: cephfs 4
pub(super) async fn the_next_claim_of_a_deterministic_name_never_sees_old_data(bench: &Bench) {
    let backend = bench.start();
    let fixed = [("deterministicNames", "true")];
    let first = bench.request("data", &fixed);
    let group = first.parameters["group"].clone();
    let next = |uid: &str| {
        let mut next = bench.in_group(&group, "data", &fixed);
        uid.clone_into(&mut next.claim.uid);
        next.name = VolumeName::for_claim(uid).unwrap();
        next
    };
    let volume = made(&backend, &first).await;
    assert_eq!(volume.record["subvolume"], "team.data");
    let place = backend.place(&first).unwrap().location;
    assert!(bench.world.exists(&format!("/{}", place.path)));
    assert_eq!(backend.locate(&volume.source), Some(place));
    bench.world.fill(&Bench::data(&volume));
    let second = next(&format!("{group}-second"));
    let error = backend.create(&second, &permit()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict, "{error}");
    assert!(
        error.to_string().contains(&first.claim.uid) && !error.to_string().contains("subvolume rm"),
        "{error}"
    );

    // Deleted, the name is free, and what lay there is gone.
    let removal_of_first = removal(&first, &volume, Disposal::Delete);
    assert_eq!(removed(&backend, &removal_of_first).await, Removed::Trashed);
    let volume_of_second = made(&backend, &second).await;
    assert_eq!(volume_of_second.record["subvolume"], "team.data");
    assert_ne!(Bench::data(&volume_of_second), Bench::data(&volume));
    assert_eq!(
        removed(&backend, &removal_of_first).await,
        Removed::Absent,
        "the first PV does not get stuck"
    );
    assert!(bench.world.exists(&Bench::data(&volume_of_second)), "nor does it take the second's data");

    // Archived, it keeps the name, and the next one gets another.
    bench.world.fill(&Bench::data(&volume_of_second));
    let archive = removal(&second, &volume_of_second, Disposal::Archive);
    assert!(matches!(removed(&backend, &archive).await, Removed::Archived(_)));
    let third = next(&format!("{group}-third"));
    let volume_of_third = made(&backend, &third).await;
    assert_eq!(volume_of_third.record["subvolume"], format!("team.data_{}", third.claim.uid));
    assert_eq!(made(&backend, &third).await, volume_of_third);
    assert!(backend.locate(&volume_of_third.source).is_some());
    assert!(bench.world.exists(&Bench::data(&volume_of_second)));
    let delete = removal(&third, &volume_of_third, Disposal::Delete);
    assert_eq!(removed(&backend, &delete).await, Removed::Trashed);
    assert!(bench.world.exists(&Bench::data(&volume_of_second)));

    // A volume that was kept blocks the name until somebody decides.
    let other = bench.request("other", &fixed);
    let kept = made(&backend, &other).await;
    assert_eq!(removed(&backend, &removal(&other, &kept, Disposal::Retain)).await, Removed::Kept);
    let mut after = other.clone();
    after.claim.uid = format!("{}-after", other.claim.uid);
    after.name = VolumeName::for_claim(&after.claim.uid).unwrap();
    assert_eq!(kind(backend.create(&after, &permit()).await), Kind::Conflict);
}

pub(super) async fn archives_expire(bench: &Bench) {
    let backend = bench.start();
    let soon = bench.request("soon", &[("archiveExpiry", "1m")]);
    let late = bench.in_group(&soon.parameters["group"], "late", &[("archiveExpiry", "30d")]);
    let live = bench.in_group(&soon.parameters["group"], "live", &[]);
    let never = bench.in_group(&soon.parameters["group"], "never", &[]);
    let mut volumes = Vec::new();
    for request in [&soon, &late, &never] {
        let mut volume = made(&backend, request).await;
        // Shorter than a class may ask for.
        volume.record.entry("archiveExpiry".into()).and_modify(|expiry| {
            if expiry == "60s" {
                *expiry = "1s".into();
            }
        });
        removed(&backend, &removal(request, &volume, Disposal::Archive)).await;
        volumes.push(volume);
    }
    volumes.push(made(&backend, &live).await);
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let permit = permit();
    let expired = async {
        while bench.world.exists(&Bench::data(&volumes[0])) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Whatever else it would take, it takes in the same round.
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    tokio::select! {
        () = backend.collect_garbage(&permit) => unreachable!("the permit has not ended"),
        () = expired => {}
    }
    for volume in &volumes[1..] {
        assert!(bench.world.exists(&Bench::data(volume)), "{:?}", volume.record);
    }
}

pub(super) async fn a_shared_user_is_left_alone(bench: &Bench) {
    let backend = bench.start();
    let user = format!("{}-shared", bench.prefix);
    bench.world.add_user(&user, "allow rw path=/volumes");
    let secret = SecretName { namespace: "keys".into(), name: "shared".into() };
    bench.keys.put(&secret, &[("key", "x")]);
    let more = [("userId", user.as_str()), ("userSecretName", "shared"), ("userSecretNamespace", "keys")];
    let request = bench.request("a", &more);
    let kept = bench.keys.kept();
    let volume = made(&backend, &request).await;
    let Source::Csi(csi) = &volume.source else { unreachable!() };
    assert_eq!(
        (csi.stage_secret.as_ref(), csi.attributes["userId"].as_str()),
        (Some(&secret), user.as_str())
    );
    assert_eq!(bench.keys.kept(), kept);
    for disposal in [Disposal::Archive, Disposal::Delete] {
        removed(&backend, &removal(&request, &volume, disposal)).await;
        assert!(bench.user_exists(&user));
        assert!(bench.keys.get(&secret, true).await.is_ok());
    }
    assert!(!bench.world.exists(&Bench::data(&volume)));
}

pub(super) async fn a_user_that_was_lost_is_made_again(bench: &Bench) {
    let backend = bench.start();
    let request = bench.request("a", &[]);
    let volume = made(&backend, &request).await;
    let record = &volume.record;
    bench
        .world
        .ceph(&[
            "fs",
            "subvolume",
            "deauthorize",
            &record["fsName"],
            &record["subvolume"],
            &record["user"],
            "--group_name",
            &record["group"],
        ])
        .unwrap();
    assert!(!bench.user_exists(&record["user"]));
    assert_eq!(made(&backend, &request).await, volume);
    assert!(bench.user_exists(&record["user"]));
    assert_eq!(removed(&backend, &removal(&request, &volume, Disposal::Delete)).await, Removed::Trashed);
    assert!(!bench.user_exists(&record["user"]));
}
