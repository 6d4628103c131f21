//! What a sweep takes back, and what it leaves alone.

use super::*;
use crate::{backend::conformance::removal, volume::ClaimKey};

/// The UID of a claim as Kubernetes gives them.
const UID: &str = "6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f11";

/// An image without a mark, as a sweep lists it.
fn unmarked(uid: &str) -> Uncommitted {
    Uncommitted {
        id: format!("1/rbd/main/pvc-{uid}").parse().unwrap(),
        claim: ClaimKey { namespace: String::new(), name: String::new(), uid: uid.into() },
        since: std::time::SystemTime::UNIX_EPOCH,
        place: Some(
            names::PoolNamespace { pool: "rbd".into(), namespace: None }
                .location("main", &format!("berth-{uid}")),
        ),
    }
}

async fn rollback(site: &Site, uncommitted: &Uncommitted) -> Result<(), Error> {
    site.rbd.rollback(uncommitted, &Permit::unlimited()).await
}

#[tokio::test]
async fn an_unmarked_image_that_no_import_leaves_behind_is_never_rolled_back() {
    let mut site = Site::new();
    site.restart();
    site.fake_cluster.plant("rbd", "berth-scratch", Image { size: 4 << 20, ..Image::default() });
    site.fake_cluster.plant("rbd", &format!("berth-{UID}"), Image { size: 100 << 30, ..Image::default() });
    let found = site.rbd.list_uncommitted("main", &|_| false).await.unwrap();
    assert_eq!(found, [unmarked(UID)], "no claim has a UID such as scratch");
    let error = rollback(&site, &unmarked(UID)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("larger than one object"), "{error}");
    assert_eq!(site.fake_cluster.images().len(), 2);
    site.fake_cluster.change(&format!("berth-{UID}"), |image| image.size = 4 << 20);
    rollback(&site, &unmarked(UID)).await.unwrap();
    assert_eq!(site.fake_cluster.images(), ["berth-scratch"]);
}

#[tokio::test]
async fn a_retained_empty_image_is_never_swept() {
    let mut site = Site::new();
    let request = request("a", &[]);
    let volume = site.create(&request).await.unwrap();
    let removal = removal(&request, &volume, Disposal::Retain);
    for _ in 0..2 {
        assert_eq!(site.remove(&removal).await.unwrap(), Removed::Kept);
    }
    site.restart();
    assert_eq!(site.rbd.list_uncommitted("main", &|_| false).await.unwrap(), []);
    let kept = Uncommitted { claim: conformance::key(&request), ..unmarked("uid-a") };
    let error = rollback(&site, &kept).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("kept"), "{error}");
    assert_eq!(site.fake_cluster.images(), ["berth-uid-a"]);
}

#[tokio::test]
async fn a_class_whose_secret_is_gone_keeps_no_other_pool_from_being_swept() {
    let mut site = Site::new();
    site.fake_cluster.state().spaces.insert("other".into(), fake_cluster::Space::default());
    site.create(&request("a", &[])).await.unwrap();
    site.create(&request("b", &[("pool", "other")])).await.unwrap();
    site.restart();
    // Before the others in any order of names, and behind them.
    for pool in ["a", "z"] {
        site.rbd.register_class(&parameters(&[("pool", pool), ("adminSecretName", "gone")]));
    }
    site.rbd.register_class(&parameters(&[("pool", "other")]));
    // One whose mark cannot be read and one that is worked on are no reason either.
    site.fake_cluster.plant(
        "rbd",
        "berth-0",
        Image {
            size: 1 << 20,
            metadata: BTreeMap::from([("berth.owner".into(), "nonsense".into())]),
            ..Image::default()
        },
    );
    let found = site.rbd.list_uncommitted("main", &|_| false).await.unwrap();
    let names: Vec<&str> = found.iter().map(|uncommitted| uncommitted.claim.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    for uncommitted in &found {
        rollback(&site, uncommitted).await.unwrap();
    }
    assert_eq!(site.fake_cluster.images(), ["berth-0"]);
    assert!(site.fake_cluster.state().spaces["other"].images.is_empty());
    // What could be nowhere else is an error still.
    let anywhere = Uncommitted { place: None, ..unmarked("uid-a") };
    let error = rollback(&site, &anywhere).await.unwrap_err();
    assert!(error.to_string().contains("gone"), "{error}");
}
