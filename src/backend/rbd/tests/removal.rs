//! What keeps a volume from being made, grown or removed, and what is said then.

use super::*;
use crate::{
    backend::conformance::{pv_metadata, removal},
    volume::Access,
};

async fn made(site: &Site, name: &str) -> (VolumeRequest, Volume) {
    let request = request(name, &[]);
    let volume = site.create(&request).await.unwrap();
    (request, volume)
}

/// Proves: rbd 13
#[tokio::test]
async fn an_image_that_is_open_is_not_removed_and_its_node_is_named() {
    let site = Site::new();
    let (request, volume) = made(&site, "a").await;
    for (address, told) in
        [("10.0.0.7:0/123", "on node worker-7 (10.0.0.7)"), ("10.0.0.9:0/1", "at 10.0.0.9")]
    {
        site.fake_cluster.change("berth-uid-a", |image| image.watchers = vec![address.into()]);
        for disposal in [Disposal::Delete, Disposal::Archive] {
            let error = site.remove(&removal(&request, &volume, disposal)).await.unwrap_err();
            assert_eq!(error.kind(), Kind::InUse);
            assert!(error.to_string().contains(told), "{error}");
        }
    }
    site.fake_cluster.change("berth-uid-a", |image| image.watchers.clear());
    site.remove(&removal(&request, &volume, Disposal::Delete)).await.unwrap();
}

#[tokio::test]
async fn snapshots_are_not_deleted_with_their_image_but_archived_with_it() {
    let site = Site::new();
    let (request, volume) = made(&site, "a").await;
    site.fake_cluster.change("berth-uid-a", |image| {
        image.snapshots = vec!["daily".into(), "weekly".into()];
        image.clones = vec!["test".into()];
    });
    let error = site.remove(&removal(&request, &volume, Disposal::Delete)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InUse);
    let archive = "kubectl annotate pv pvc-uid-a berth.storage/on-delete=archive --overwrite";
    for part in ["daily, weekly", "rbd/test", "rbd snap purge rbd/berth-uid-a", archive] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let removed = site.remove(&removal(&request, &volume, Disposal::Archive)).await.unwrap();
    assert!(matches!(removed, Removed::Archived(_)));
}

/// Ceph takes almost any name, and a class or a PV tells it.
#[tokio::test]
async fn a_name_with_signs_of_a_shell_is_quoted_in_the_commands_that_are_reported() {
    let site = Site::new();
    let pool = "p;touch$(x)&";
    site.fake_cluster.state().spaces.insert(pool.into(), fake_cluster::Space::default());
    let request = request("a", &[("pool", pool)]);
    let volume = site.create(&request).await.unwrap();
    let change = |change: &dyn Fn(&mut Image)| {
        let mut state = site.fake_cluster.state();
        change(state.spaces.get_mut(pool).unwrap().images.get_mut("berth-uid-a").unwrap());
    };
    let image = format!("'{pool}/berth-uid-a'");
    change(&|image| image.snapshots = vec!["daily".into()]);
    let told = site.remove(&removal(&request, &volume, Disposal::Delete)).await.unwrap_err().to_string();
    assert!(told.contains(&format!("rbd snap purge {image};")), "{told}");
    change(&|image| image.snapshots.clear());
    let other = VolumeRequest {
        parameters: parameters(&[("pool", pool), ("imageFeatures", "layering")]),
        ..request.clone()
    };
    let told = site.create(&other).await.unwrap_err().to_string();
    assert!(told.contains(&format!("(rbd rm {image})")), "{told}");
    change(&|image| drop(image.metadata.insert("berth.owner".into(), "{".into())));
    let told = site.remove(&removal(&request, &volume, Disposal::Delete)).await.unwrap_err().to_string();
    assert!(told.contains(&format!("rbd image-meta set {image} ")), "{told}");
}

#[tokio::test]
async fn another_cluster_under_the_same_address_is_not_touched() {
    let mut site = Site::new();
    let (first, volume) = made(&site, "a").await;
    site.fake_cluster.state().fsid = "99999999-89ab-cdef-0123-456789abcdef".into();
    site.restart();
    for disposal in [Disposal::Delete, Disposal::Archive] {
        let error = site.remove(&removal(&first, &volume, disposal)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.to_string().contains("99999999"), "{error}");
    }
    let error =
        site.rbd.expand(&expansion(&first, &volume, 2 << 30), &Permit::unlimited()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    // Told what it was, it makes nothing there either, and says so to whoever asks.
    site.rbd.expect_store(StoreExpectation {
        store: "main".into(),
        identity: Some(volume.store_identity.clone()),
        places: Vec::new(),
    });
    let error = site.create(&request("b", &[])).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    let status = site.rbd.stores().remove(0);
    assert!(status.ready.unwrap_err().contains("99999999"));
    assert_eq!(site.fake_cluster.images(), ["berth-uid-a"]);
}

#[tokio::test]
async fn an_existing_image_is_taken_only_in_the_shape_that_was_asked_for() {
    let site = Site::new();
    site.fake_cluster.state().spaces.insert("ec".into(), fake_cluster::Space::default());
    let (first, volume) = made(&site, "a").await;
    for (more, told) in [([("imageFeatures", "layering")], "layering"), ([("dataPool", "ec")], "ec")] {
        let error = site.create(&request("a", &more)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        assert!(error.to_string().contains(told), "{error}");
    }
    let more = VolumeRequest { capacity: Capacity::from_bytes(3 << 30), ..first.clone() };
    assert_eq!(site.create(&more).await.unwrap().capacity, Some(more.capacity), "it grows");
    assert_eq!(
        site.create(&first).await.unwrap(),
        Volume { capacity: Some(more.capacity), ..volume },
        "and stays so"
    );
}

#[tokio::test]
async fn an_image_whose_data_pool_is_its_own_pool_is_adopted() {
    let site = Site::new();
    let own = request("a", &[("dataPool", "rbd")]);
    let volume = site.create(&own).await.unwrap();
    assert_eq!(site.create(&own).await.unwrap(), volume);
    // Where the cluster's configuration names one, the class need not.
    let plain = request("b", &[]);
    let volume = site.create(&plain).await.unwrap();
    site.fake_cluster.change("berth-uid-b", |image| image.data_pool = Some("ec".into()));
    assert_eq!(site.create(&plain).await.unwrap(), volume);
}

#[tokio::test]
async fn a_trace_that_is_still_open_is_waited_for() {
    let site = Site::new();
    let image = Image { size: 4 << 20, watchers: vec!["10.0.0.7:0/1".into()], ..Image::default() };
    site.fake_cluster.plant("rbd", "berth-uid-a", image);
    let request = request("a", &[]);
    let error = site.create(&request).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    site.fake_cluster.change("berth-uid-a", |image| image.watchers.clear());
    site.create(&request).await.unwrap();
}

#[tokio::test]
async fn a_marked_image_that_is_still_open_is_waited_for() {
    let site = Site::new();
    let (request, volume) = made(&site, "a").await;
    // An import that nobody waits for any more has written the mark and not the size.
    site.fake_cluster.change("berth-uid-a", |image| {
        image.size = 4 << 20;
        image.watchers = vec!["10.0.0.7:0/1".into()];
    });
    let error = site.create(&request).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(error.to_string().contains("worker-7"), "{error}");
    site.fake_cluster.change("berth-uid-a", |image| image.watchers.clear());
    assert_eq!(site.create(&request).await.unwrap(), volume);
}

/// Proves: rbd 12
#[tokio::test]
async fn the_source_of_a_volume_is_as_its_class_says() {
    let site = Site::new();
    let csi = site.create(&request("a", &[("fsType", "xfs"), ("imageFeatures", "layering")])).await.unwrap();
    let Source::Csi(source) = &csi.source else { panic!("{:?}", csi.source) };
    assert_eq!(
        (source.driver.as_str(), source.handle.as_str()),
        ("rbd.berth.storage", "1/rbd/main/pvc-uid-a")
    );
    assert_eq!(source.fs_type.as_deref(), Some("xfs"));
    assert_eq!(source.stage_secret.as_ref().unwrap().to_string(), "team/ceph-user");
    let attributes: Vec<_> = source.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(
        attributes,
        ["clusterID=main", "image=berth-uid-a", "imageFeatures=layering", "pool=rbd", "userId=admin"],
        "monitors of a configured cluster are looked up when they are needed"
    );
    let in_tree = [
        ("pvSource", "in-tree"),
        ("monitors", "10.0.0.2:6789, 10.0.0.1:6789"),
        ("userId", "kube"),
        ("userSecretNamespace", "secrets"),
    ];
    let in_tree_request = request("b", &in_tree);
    let volume = site.create(&in_tree_request).await.unwrap();
    let Source::Rbd(source) = &volume.source else { panic!("{:?}", volume.source) };
    let expected = RbdSource {
        monitors: vec!["10.0.0.2:6789".into(), "10.0.0.1:6789".into()],
        pool: "rbd".into(),
        image: "berth-uid-b".into(),
        user: "kube".into(),
        secret: Some(SecretName { namespace: "secrets".into(), name: "ceph-user".into() }),
        fs_type: None,
    };
    assert_eq!(*source, expected);
    assert_eq!(site.rbd.locate(&volume.source), Some(site.rbd.place(&in_tree_request).unwrap().location));
    site.remove(&removal(&in_tree_request, &volume, Disposal::Delete)).await.unwrap();
}

#[tokio::test]
async fn a_cluster_that_only_a_class_describes_serves_as_well() {
    let mut site = Site::new();
    let described = |name: &str| {
        let mut request = request(name, &[("monitors", "10.5.0.1"), ("adminSecretName", "ceph-admin")]);
        request.parameters.remove("clusterID");
        request
    };
    let a = described("a");
    let volume = site.create(&a).await.unwrap();
    assert_eq!(volume.record["adminSecretName"], "ceph-admin");
    let Source::Csi(source) = &volume.source else { panic!("{:?}", volume.source) };
    assert_eq!(source.attributes["monitors"], "10.5.0.1");
    assert_eq!(site.rbd.locate(&volume.source), Some(site.rbd.place(&a).unwrap().location));
    // A new process learns from the class what it must look after, and from the PV what it needs to remove.
    site.create(&described("b")).await.unwrap();
    site.restart();
    site.rbd.register_class(&a.parameters);
    let known = |name: &VolumeName| *name == a.name;
    assert_eq!(site.rbd.list_uncommitted(volume.id.store(), &known).await.unwrap().len(), 1);
    let removal = Removal { pv_metadata: pv_metadata(&volume), ..removal(&a, &volume, Disposal::Delete) };
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
}

#[tokio::test]
async fn a_described_cluster_that_was_swapped_makes_nothing() {
    let mut site = Site::new();
    let described = |name: &str| {
        let mut request = request(name, &[("monitors", "10.5.0.1"), ("adminSecretName", "ceph-admin")]);
        request.parameters.remove("clusterID");
        request
    };
    let volume = site.create(&described("a")).await.unwrap();
    site.fake_cluster.state().fsid = "99999999-89ab-cdef-0123-456789abcdef".into();
    site.restart();
    // The volumes are known before the class that describes their cluster.
    site.rbd.expect_store(StoreExpectation {
        store: volume.id.store().to_owned(),
        identity: Some(volume.store_identity.clone()),
        places: Vec::new(),
    });
    site.rbd.register_class(&described("b").parameters);
    let error = site.create(&described("b")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("99999999"), "{error}");
    assert_eq!(site.fake_cluster.images(), ["berth-uid-a"]);
}

#[tokio::test]
async fn a_rotated_key_is_read_again() {
    let site = Site::new();
    let newer = "AQB5Z1hnAAAAABAAcGxhdXNpYmxlLCByaWdodA==";
    site.fake_cluster.state().key = newer.into();
    let request = request("a", &[]);
    let error = site.create(&request).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(!format!("{error:?} {error}").contains(KEY), "{error:?}");
    site.vault.keys.lock().unwrap().push(newer.into());
    site.create(&request).await.unwrap();
}

#[tokio::test]
async fn a_cluster_that_is_down_is_reported_and_found_again() {
    let site = Site::new();
    site.fake_cluster.state().unreachable = true;
    site.rbd.expect_store(StoreExpectation { store: "main".into(), identity: None, places: Vec::new() });
    let error = site.create(&request("a", &[])).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    let why = site.rbd.stores().remove(0).ready.unwrap_err();
    assert!(why.contains("main"), "{why}");
    site.fake_cluster.state().unreachable = false;
    let since = Instant::now();
    while let Err(why) = site.rbd.stores().remove(0).ready {
        assert!(since.elapsed() < Duration::from_mins(1), "{why}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_an_image_cannot_be_is_refused_before_anything_is_asked() {
    let site = Site::new();
    let shared = VolumeRequest { access: vec![Access::ReadWriteMany], ..request("a", &[]) };
    assert_eq!(site.create(&shared).await.unwrap_err().kind(), Kind::Unsupported);
    let nothing = VolumeRequest { capacity: Capacity::from_bytes(0), ..request("a", &[]) };
    assert_eq!(site.create(&nothing).await.unwrap_err().kind(), Kind::Invalid);
    assert_eq!(site.fake_cluster.calls(), Vec::<String>::new());
}

#[tokio::test]
async fn a_missing_pool_or_namespace_is_named() {
    let site = Site::new();
    for (more, told) in [(("pool", "nowhere"), "pool"), (("radosNamespace", "nobody"), "namespace")] {
        let error = site.create(&request("a", &[more])).await.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{error}");
        assert!(error.to_string().contains(told) && error.to_string().contains(more.1), "{error}");
    }
}

#[tokio::test]
async fn an_answer_that_says_nothing_of_watchers_is_an_error() {
    let site = Site::new();
    let (request, volume) = made(&site, "a").await;
    let snapless = r#"{"id": "1", "size": 4194304, "object_size": 4194304, "features": []}"#;
    for odd in [("status", ""), ("status", "{}"), ("info", ""), ("info", snapless)] {
        site.fake_cluster.state().odd = Some(odd);
        let error = site.remove(&removal(&request, &volume, Disposal::Delete)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Internal, "{odd:?}: {error}");
    }
    site.fake_cluster.state().odd = None;
    assert_eq!(site.fake_cluster.images(), ["berth-uid-a"]);
}

#[tokio::test]
async fn an_image_that_is_listed_and_cannot_be_opened_is_not_gone() {
    let site = Site::new();
    let (request, volume) = made(&site, "a").await;
    site.fake_cluster.change("berth-uid-a", |image| image.without_header = true);
    let error = site.remove(&removal(&request, &volume, Disposal::Delete)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("rbd rm rbd/berth-uid-a"), "{error}");
}

/// Snapshots of mirroring made a volume undeletable, and the Event named nothing.
#[tokio::test]
async fn an_image_that_is_mirrored_by_snapshots_is_reported_with_what_to_do() {
    let site = Site::new();
    let (request, volume) = made(&site, "a").await;
    site.fake_cluster.change("berth-uid-a", |image| image.mirrored = true);
    for disposal in [Disposal::Delete, Disposal::Archive] {
        let error = site.remove(&removal(&request, &volume, disposal)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::InUse);
        assert!(error.to_string().ends_with("rbd mirror image disable rbd/berth-uid-a"), "{error}");
    }
    // What a user made is told first where mirroring has ended and left a snapshot of its own.
    site.fake_cluster.change("berth-uid-a", |image| {
        image.mirrored = false;
        image.snapshots = vec!["daily".into()];
    });
    let error = site.remove(&removal(&request, &volume, Disposal::Delete)).await.unwrap_err();
    assert!(error.to_string().contains("daily"), "{error}");
    site.fake_cluster.change("berth-uid-a", |image| image.snapshots.clear());
    site.remove(&removal(&request, &volume, Disposal::Delete)).await.unwrap();
}

/// An image in a group was moved to the trash, and could not be purged there.
#[tokio::test]
async fn an_image_in_a_group_is_refused_before_it_is_moved() {
    let site = Site::new();
    let (request, volume) = made(&site, "a").await;
    site.fake_cluster.change("berth-uid-a", |image| image.group = Some("rbd/nightly".into()));
    for disposal in [Disposal::Delete, Disposal::Archive] {
        let error = site.remove(&removal(&request, &volume, disposal)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.to_string().ends_with("rbd group image rm rbd/nightly rbd/berth-uid-a"), "{error}");
    }
    assert_eq!((site.fake_cluster.images(), site.trash()), (vec!["berth-uid-a".to_owned()], Vec::new()));
}

/// Two thin claims of 900 TiB kept the trash busy for days.
#[tokio::test]
async fn a_class_bounds_the_size_of_its_images_also_when_they_grow() {
    let site = Site::new();
    let error = site.create(&request("a", &[("maxSize", "512Mi")])).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("maxSize") && error.to_string().contains("512Mi"), "{error}");
    let bounded = request("a", &[("maxSize", "2Gi")]);
    let volume = site.create(&bounded).await.unwrap();
    let permit = Permit::unlimited();
    site.rbd.expand(&expansion(&bounded, &volume, 2 << 30), &permit).await.unwrap();
    let error = site.rbd.expand(&expansion(&bounded, &volume, 3 << 30), &permit).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("2Gi"), "{error}");
    let error = site.create(&request("b", &[("maxSize", "much")])).await.unwrap_err();
    assert!(error.to_string().contains("parameter maxSize"), "{error}");
}
