//! Volumes of rbd-provisioner and of kubernetes.io/rbd: their images are grown and removed as their class says.

use super::{fake_cluster::Stop, *};
use crate::{
    backend::conformance::legacy_pv_metadata,
    volume::{ClaimKey, Origin},
};

/// The removal of an image that an older provisioner made for the claim `team/old`.
pub(super) fn removal(image: &str, disposal: Disposal) -> Removal {
    Removal {
        name: "pvc-old".parse().unwrap(),
        id: None,
        source: older(image),
        claim: ClaimKey { namespace: "team".into(), name: "old".into(), uid: "uid-old".into() },
        origin: Origin::Created,
        disposal,
        pv_metadata: legacy_pv_metadata(),
    }
}

pub(super) fn planted() -> Image {
    Image { size: 1 << 20, content: true, ..Image::default() }
}

/// As rbd-provisioner and the in-tree plugin called images.
pub(super) const IMAGE: &str = "kubernetes-dynamic-pvc-2f0c3c9e-8a0b-4a43-9f4a-0b1d0a3c2f11";

#[tokio::test]
async fn the_class_says_with_which_user_and_for_how_long() {
    let site = Site::new();
    site.fake_cluster.plant("rbd", IMAGE, planted());
    // On a cluster that nobody configured; its programs are the same here.
    let Source::Rbd(mut source) = older(IMAGE) else { unreachable!() };
    source.monitors = vec!["10.5.0.1:6789".into()];
    let mut removal = Removal { source: Source::Rbd(source), ..removal(IMAGE, Disposal::Archive) };
    let error = site.remove(&removal).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("10.5.0.1:6789"), "{error}");
    // Spelt as somebody wrote it long ago.
    let class = [("ADMINID", "admin"), ("adminsecretname", "ceph-admin"), ("archiveExpiry", "2d")];
    removal.pv_metadata.parameters =
        class.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    assert!(matches!(site.remove(&removal).await.unwrap(), Removed::Archived(_)));
    let calls = site.fake_cluster.calls();
    assert!(
        calls.last().unwrap().ends_with(&format!("--expires-at 172800 seconds rbd/{IMAGE}")),
        "{calls:?}"
    );
    let names: Vec<String> = site.rbd.stores().into_iter().map(|store| store.name).collect();
    assert!(names.len() == 2 && names[1].starts_with("mon-"), "the cluster is known now: {names:?}");
}

/// Proves: rbd 19
#[tokio::test]
async fn an_image_that_is_marked_for_another_claim_is_left_alone() {
    let site = Site::new();
    site.create(&request("a", &[])).await.unwrap();
    for disposal in [Disposal::Delete, Disposal::Archive] {
        let error = site.remove(&removal("berth-uid-a", disposal)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.to_string().contains("team/a"), "{error}");
    }
    // Neither is one of ours that lost its mark.
    site.fake_cluster.change("berth-uid-a", |image| image.metadata.clear());
    let error = site.remove(&removal("berth-uid-a", Disposal::Delete)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert_eq!(site.fake_cluster.images(), ["berth-uid-a"]);
}

#[tokio::test]
async fn a_name_that_is_more_than_a_name_is_refused() {
    let site = Site::new();
    site.fake_cluster.plant("rbd", IMAGE, planted());
    for image in ["rbd/other", &format!("{IMAGE}@first"), "", "-p", "a b"] {
        let error = site.remove(&removal(image, Disposal::Delete)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{image:?}: {error}");
    }
    assert_eq!(site.fake_cluster.images(), [IMAGE]);
}

/// Proves: rbd 14
#[tokio::test]
async fn a_missing_image_is_a_success_only_where_its_pool_exists() {
    let site = Site::new();
    assert_eq!(site.remove(&removal(IMAGE, Disposal::Delete)).await.unwrap(), Removed::Absent);
    let Source::Rbd(mut source) = older(IMAGE) else { unreachable!() };
    source.pool = "gone".into();
    let gone = Removal { source: Source::Rbd(source), ..removal(IMAGE, Disposal::Delete) };
    let error = site.remove(&gone).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains("gone"), "{error}");
}

/// The version before renamed such an image before it moved it.
#[tokio::test]
async fn a_renaming_that_the_previous_version_broke_off_is_gone_on_with() {
    for (stop, restored) in [(Stop::After(1), false), (Stop::After(2), false), (Stop::After(2), true)] {
        let site = Site::new();
        site.fake_cluster.plant("rbd", IMAGE, planted());
        let legacy_trash_name = format!("berth.deleted-{IMAGE}");
        site.fake_cluster.rename(IMAGE, &legacy_trash_name, stop);
        if restored {
            assert_eq!(site.restore(&removal(IMAGE, Disposal::Delete)).await.unwrap(), Restored::MovedBack);
            assert_eq!(site.fake_cluster.images(), [IMAGE]);
            continue;
        }
        assert_eq!(
            site.remove(&removal(IMAGE, Disposal::Delete)).await.unwrap(),
            Removed::Trashed,
            "{stop:?}"
        );
        site.collect_until(|store| store.purged == 1).await;
        assert_eq!(site.trash(), [""; 0], "{stop:?}");
    }
}

/// Proves: rbd 20
#[tokio::test]
async fn an_older_image_grows() {
    let site = Site::new();
    site.fake_cluster.plant("rbd", IMAGE, planted());
    let expansion = ExpandRequest {
        name: "pvc-old".parse().unwrap(),
        id: None,
        source: older(IMAGE),
        claim: ClaimKey { namespace: "team".into(), name: "old".into(), uid: "uid-old".into() },
        mode: Mode::Block,
        capacity: Capacity::from_bytes(3 << 20),
        pv_metadata: legacy_pv_metadata(),
    };
    let grown = site.rbd.expand(&expansion, &Permit::unlimited()).await.unwrap();
    assert_eq!(grown, Expanded { capacity: expansion.capacity, on_node: false });
    site.fake_cluster.change(IMAGE, |image| image.size = 8 << 20);
    let grown = site.rbd.expand(&expansion, &Permit::unlimited()).await.unwrap();
    assert_eq!(grown.capacity, Capacity::from_bytes(8 << 20), "it is larger than asked for, and stays so");
}
