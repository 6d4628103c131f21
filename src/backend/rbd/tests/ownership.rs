//! Whose an image is: several clusters of Kubernetes on one cluster of Ceph, PVs that were copied, rebound or made by hand.

use super::{
    older::{IMAGE, planted},
    *,
};
use crate::{
    backend::conformance::{legacy_pv_metadata, pv_metadata, removal},
    volume::{ClaimKey, PvMetadata, UNRECORDED},
};

async fn made(site: &Site) -> (VolumeRequest, Volume) {
    let request = request("a", &[]);
    let volume = site.create(&request).await.unwrap();
    (request, volume)
}

pub(super) fn become_(site: &Site, cluster: Option<&str>) {
    *site.vault.cluster_id.lock().unwrap() = cluster.map(str::to_owned);
}

/// The mark of an image of pool `rbd`, wherever it is.
fn mark(site: &Site, image: &str) -> owner::Mark {
    let state = site.fake_cluster.state();
    let space = &state.spaces["rbd"];
    let in_trash = || &space.trash.iter().find(|entry| entry.name == image).unwrap().image;
    let image = space.images.get(image).unwrap_or_else(in_trash);
    serde_json::from_str(&image.metadata["berth.owner"]).unwrap()
}

/// Makes the mark one of a time when the cluster was not known.
fn unsign(site: &Site) {
    let mark = owner::Mark { cluster_id: String::new(), ..mark(site, "berth-uid-a") };
    site.fake_cluster.change("berth-uid-a", |image| {
        image.metadata.insert("berth.owner".into(), mark.to_json());
    });
}

/// A PV that a backup tool copied into another cluster destroyed the image of the first one.
#[tokio::test]
async fn a_pv_that_was_copied_to_another_cluster_touches_nothing_until_it_is_taken_over() {
    let mut site = Site::new();
    let (request, volume) = made(&site).await;
    become_(&site, Some("there"));
    let right = removal(&request, &volume, Disposal::Delete);
    for disposal in [Disposal::Delete, Disposal::Archive] {
        let error = site.remove(&Removal { disposal, ..right.clone() }).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(
            error
                .to_string()
                .ends_with("kubectl annotate --overwrite pv pvc-uid-a berth.storage/take-over=here"),
            "{error}"
        );
    }
    let grown = site.rbd.expand(&expansion(&request, &volume, 2 << 30), &Permit::unlimited()).await;
    assert_eq!(grown.unwrap_err().kind(), Kind::Refused);
    let registered = site.rbd.register(&in_use(&request, &volume), &Permit::unlimited()).await;
    assert_eq!(registered.unwrap_err().kind(), Kind::Refused);
    assert_eq!(site.rbd.list_uncommitted("main", &|_| false).await.unwrap(), []);
    assert_eq!(site.create(&request).await.unwrap_err().kind(), Kind::Conflict);
    assert_eq!((site.fake_cluster.images(), site.trash()), (vec!["berth-uid-a".to_owned()], Vec::new()));

    let handed_over = Removal {
        pv_metadata: PvMetadata { take_over: Some("here".into()), ..pv_metadata(&volume) },
        ..right
    };
    assert_eq!(site.remove(&handed_over).await.unwrap(), Removed::Trashed);
    let mark = mark(&site, "berth-uid-a");
    assert_eq!((mark.cluster_id.as_str(), mark.volume.as_str()), ("there", "pvc-uid-a"));
    // To the first cluster it is another one's now.
    become_(&site, Some("here"));
    site.restart();
    site.collect_for(Duration::from_millis(600)).await;
    assert_eq!(site.trash(), ["berth-uid-a"]);
    become_(&site, Some("there"));
    site.restart();
    site.collect_until(|store| store.purged == 1).await;
}

/// One cluster of Ceph under two addresses is one: its identity and the marks tell, not how it is written.
#[tokio::test]
async fn two_spellings_of_one_ceph_cluster_destroy_nothing() {
    let site = Site::new();
    let (request, volume) = made(&site).await;
    let elsewhere = [("ADMINID", "admin"), ("adminsecretname", "ceph-admin")];
    let Source::Rbd(mut source) = older("berth-uid-a") else { unreachable!() };
    source.monitors = vec!["10.9.0.1:6789".into()];
    let mut copy = super::older::removal("berth-uid-a", Disposal::Delete);
    copy.source = Source::Rbd(source);
    copy.pv_metadata.parameters =
        elsewhere.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let error = site.remove(&copy).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("belongs to"), "{error}");
    assert_eq!(site.fake_cluster.images(), ["berth-uid-a"]);
    // The volume itself goes by whichever address.
    let described = super::request("a", &[("monitors", "10.9.0.1"), ("adminSecretName", "ceph-admin")]);
    let mut described = described.parameters;
    described.remove("clusterID");
    site.rbd.register_class(&described);
    site.remove(&removal(&request, &volume, Disposal::Delete)).await.unwrap();
}

/// Where `kube-system` could not be read, the unknown cluster counted as equal to every other one.
#[tokio::test]
async fn while_the_cluster_is_not_known_nothing_that_exists_is_changed() {
    let mut site = Site::new();
    let (request, volume) = made(&site).await;
    let delete = removal(&request, &volume, Disposal::Delete);
    site.fake_cluster.plant("rbd", IMAGE, planted());
    let second = super::request("b", &[]);
    let gone = site.create(&second).await.unwrap();
    site.remove(&removal(&second, &gone, Disposal::Delete)).await.unwrap();
    let found = site.rbd.list_uncommitted("main", &|_| false).await.unwrap();
    become_(&site, None);
    site.restart();

    let permit = Permit::unlimited();
    let errors = [
        site.remove(&delete).await.unwrap_err(),
        site.remove(&Removal { disposal: Disposal::Archive, ..delete.clone() }).await.unwrap_err(),
        site.remove(&super::older::removal(IMAGE, Disposal::Delete)).await.unwrap_err(),
        site.rbd.expand(&expansion(&request, &volume, 2 << 30), &permit).await.unwrap_err(),
        site.rbd.rollback(&found[0], &permit).await.unwrap_err(),
        site.rbd.register(&in_use(&request, &volume), &permit).await.unwrap_err(),
        site.create(&super::request("c", &[])).await.unwrap_err(),
    ];
    for error in &errors {
        let told = error.to_string();
        assert!(told.contains("kube-system") && told.contains("--cluster-id"), "{told}");
        assert!(matches!(error.kind(), Kind::Refused | Kind::Unavailable), "{told}");
    }
    assert_eq!(
        site.remove(&Removal { disposal: Disposal::Retain, ..delete.clone() }).await.unwrap(),
        Removed::Kept
    );
    assert_eq!(site.rbd.list_uncommitted("main", &|_| false).await.unwrap(), []);
    let why = site.rbd.stores().remove(0).ready.unwrap_err();
    assert!(why.contains("kube-system"), "readiness says so: {why}");
    // Nothing is purged either, and that is told.
    site.collect_until(|store| store.stuck.iter().any(|(_, why)| why.contains("--cluster-id"))).await;
    assert_eq!(site.trash(), ["berth-uid-b"]);
    assert_eq!(site.fake_cluster.images(), ["berth-uid-a", IMAGE]);
    let changed: Vec<String> =
        site.fake_cluster.calls().into_iter().filter(|call| call.contains(" set ")).collect();
    assert_eq!(changed, Vec::<String>::new());

    become_(&site, Some("here"));
    site.remove(&delete).await.unwrap();
    site.collect_until(|store| store.purged == 2).await;
}

/// A mark of a time when the cluster was not known counted as everybody's.
#[tokio::test]
async fn a_mark_without_a_cluster_is_signed_while_its_volume_is_bound_and_proves_nothing_before() {
    let site = Site::new();
    let (request, volume) = made(&site).await;
    unsign(&site);
    let delete = removal(&request, &volume, Disposal::Delete);
    let permit = Permit::unlimited();
    let error = site.remove(&delete).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().ends_with("berth.storage/take-over=unrecorded"), "{error}");
    // A copy of the PV in this cluster is bound to another claim.
    let bound = in_use(&request, &volume);
    let copy = InUse { claim: ClaimKey { uid: "another".into(), ..bound.claim.clone() }, ..bound.clone() };
    assert_eq!(site.rbd.register(&copy, &permit).await.unwrap_err().kind(), Kind::Refused);
    assert_eq!(mark(&site, "berth-uid-a").cluster_id, "");
    for _ in 0..2 {
        site.rbd.register(&bound, &permit).await.unwrap();
        let mark = mark(&site, "berth-uid-a");
        assert_eq!((mark.cluster_id.as_str(), mark.object.as_str()), ("here", "object-pvc-uid-a"));
    }
    site.remove(&delete).await.unwrap();
}

#[tokio::test]
async fn a_mark_without_a_cluster_is_taken_over_by_an_annotation() {
    let site = Site::new();
    let (request, volume) = made(&site).await;
    unsign(&site);
    let mut delete = removal(&request, &volume, Disposal::Delete);
    delete.pv_metadata.take_over = Some(UNRECORDED.into());
    assert_eq!(site.remove(&delete).await.unwrap(), Removed::Trashed);
    site.collect_until(|store| store.purged == 1).await;
}

/// An empty image that was begun before the cluster was known is gone on with; one with content may be another cluster's.
#[tokio::test]
async fn a_volume_that_was_begun_before_the_cluster_was_known_is_made_unless_anything_is_in_it() {
    let site = Site::new();
    let (request, volume) = made(&site).await;
    unsign(&site);
    site.fake_cluster.change("berth-uid-a", |image| image.content = true);
    assert_eq!(site.create(&request).await.unwrap_err().kind(), Kind::Conflict);
    site.fake_cluster.change("berth-uid-a", |image| image.content = false);
    assert_eq!(site.create(&request).await.unwrap(), volume);
    assert_eq!(mark(&site, "berth-uid-a").cluster_id, "here");
}

/// A PV that was kept, and bound again by another claim, could never be deleted or grown.
#[tokio::test]
async fn a_pv_that_was_bound_again_or_restored_from_a_backup_is_removed_and_grown() {
    let site = Site::new();
    let (request, volume) = made(&site).await;
    let claim = ClaimKey { namespace: "other".into(), name: "moved".into(), uid: "uid-moved".into() };
    let mut rebound = ExpandRequest { claim: claim.clone(), ..expansion(&request, &volume, 2 << 30) };
    rebound.pv_metadata.uid = "another-object".into();
    site.rbd.expand(&rebound, &Permit::unlimited()).await.unwrap();
    let mut delete = Removal { claim, ..removal(&request, &volume, Disposal::Delete) };
    delete.pv_metadata.uid = "another-object".into();
    assert_eq!(site.remove(&delete).await.unwrap(), Removed::Trashed);
}

#[tokio::test]
async fn a_cluster_that_was_rebuilt_has_its_volumes_by_its_former_id() {
    let site = Site::new();
    let (request, volume) = made(&site).await;
    become_(&site, Some("rebuilt"));
    let delete = removal(&request, &volume, Disposal::Delete);
    assert_eq!(site.remove(&delete).await.unwrap_err().kind(), Kind::Refused);
    *site.vault.former.lock().unwrap() = vec!["here".into()];
    assert_eq!(site.remove(&delete).await.unwrap(), Removed::Trashed);
    site.collect_until(|store| store.purged == 1).await;
}

/// A PV made by hand that only named the old provisioner had any image moved to the trash.
#[tokio::test]
async fn a_pv_that_was_made_by_hand_gets_no_image_but_one_that_an_older_provisioner_made() {
    let site = Site::new();
    for image in ["production", IMAGE] {
        site.fake_cluster.plant("rbd", image, planted());
    }
    let by_hand = |image: &str, pv_metadata: PvMetadata| Removal {
        pv_metadata,
        ..super::older::removal(image, Disposal::Delete)
    };
    let bound = |removal: &Removal| InUse {
        name: removal.name.clone(),
        id: None,
        source: removal.source.clone(),
        claim: removal.claim.clone(),
        origin: removal.origin,
        capacity: Capacity::from_bytes(1 << 20),
        pv_metadata: removal.pv_metadata.clone(),
    };
    for removal in [by_hand("production", legacy_pv_metadata()), by_hand(IMAGE, PvMetadata::default())] {
        let registered = site.rbd.register(&bound(&removal), &Permit::unlimited()).await;
        for error in [site.remove(&removal).await.unwrap_err(), registered.unwrap_err()] {
            assert_eq!(error.kind(), Kind::Refused);
            assert!(error.to_string().ends_with("berth.storage/take-over=unrecorded"), "{error}");
        }
    }
    assert_eq!((site.fake_cluster.images().len(), site.trash()), (2, Vec::new()));
    // Registered while it is bound, it is this cluster's, whatever another one has a copy of.
    let right = by_hand(IMAGE, legacy_pv_metadata());
    site.rbd.register(&bound(&right), &Permit::unlimited()).await.unwrap();
    become_(&site, Some("there"));
    let error = site.remove(&right).await.unwrap_err();
    assert!(error.to_string().ends_with("take-over=here"), "{error}");
    become_(&site, Some("here"));
    site.remove(&Removal { pv_metadata: PvMetadata::default(), ..right }).await.unwrap();
    site.collect_until(|store| store.purged == 1).await;
    let taken = PvMetadata { take_over: Some(UNRECORDED.into()), ..PvMetadata::default() };
    site.remove(&by_hand("production", taken)).await.unwrap();
    assert_eq!(site.fake_cluster.images(), [""; 0]);
}

#[tokio::test]
async fn the_image_of_another_pv_is_taken_over_only_when_that_is_gone() {
    let site = Site::new();
    let (request, volume) = made(&site).await;
    site.vault.set_volume(&request.name, false);
    let mut other = super::older::removal("berth-uid-a", Disposal::Delete);
    other.pv_metadata.take_over = Some("here".into());
    let error = site.remove(&other).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    assert!(error.to_string().contains("pvc-uid-a, which exists"), "{error}");
    site.vault.delete_volume(&request.name);
    site.remove(&other).await.unwrap();
    assert_eq!(mark(&site, "berth-uid-a").volume, "pvc-old");
    let again = site.remove(&removal(&request, &volume, Disposal::Delete)).await.unwrap();
    assert_eq!(again, Removed::Absent, "the first PV has nothing there any more");
}

#[tokio::test]
async fn which_volumes_are_registered_is_listed_and_each_is_looked_at_once() {
    let mut site = Site::new();
    let (request, volume) = made(&site).await;
    site.fake_cluster.plant("rbd", IMAGE, planted());
    site.restart();
    let permit = Permit::unlimited();
    let known = [
        KnownVolume { name: request.name.clone(), legacy: false },
        KnownVolume { name: "pvc-old".parse().unwrap(), legacy: true },
        KnownVolume { name: "pvc-elsewhere".parse().unwrap(), legacy: false },
    ];
    let names = async |site: &Site| -> Vec<String> {
        let found = site.rbd.unregistered("main", &known).await.unwrap();
        found.iter().map(ToString::to_string).collect()
    };
    assert_eq!(names(&site).await, ["pvc-uid-a", "pvc-old"]);
    let old = super::older::removal(IMAGE, Disposal::Delete);
    let old = InUse {
        name: old.name,
        id: None,
        source: old.source,
        claim: old.claim,
        origin: old.origin,
        ..in_use(&request, &volume)
    };
    site.rbd.register(&in_use(&request, &volume), &permit).await.unwrap();
    site.rbd.register(&InUse { pv_metadata: legacy_pv_metadata(), ..old }, &permit).await.unwrap();
    site.restart();
    site.fake_cluster.calls();
    assert_eq!(names(&site).await, [""; 0]);
    let calls: Vec<String> =
        site.fake_cluster.calls().into_iter().filter(|call| call != "ceph fsid").collect();
    assert_eq!(calls, ["rados -p rbd listomapvals berth_volumes"], "one list for all volumes");
    // What is made now is marked from the beginning.
    become_(&site, Some("there"));
    assert_eq!(names(&site).await, ["pvc-uid-a", "pvc-old"], "another cluster has registered nothing");
}
