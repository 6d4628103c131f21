//! Names of PVs that others chose may be long: what is recorded of a volume fits into file names, or it is refused.

use super::*;

/// The longest name that the id of a volume on the export `default` takes.
fn longest() -> VolumeName {
    let room = VolumeId::MAX_BYTES - "1/nfs/default/pvc-".len();
    VolumeName::for_claim(&"u".repeat(room)).unwrap()
}

fn named(name: &VolumeName, request: VolumeRequest) -> VolumeRequest {
    VolumeRequest { name: name.clone(), ..request }
}

#[tokio::test]
async fn a_volume_with_the_longest_name_is_made_trashed_restored_archived_and_purged() {
    let mut site = Site::new();
    let request = named(&longest(), patterned("x", "data"));
    let volume = site.make(&request).await;
    fs::write(site.path("data/file"), "precious").unwrap();
    let removal = conformance::removal(&request, &volume, Disposal::Delete);
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
    assert_eq!(site.restore(&removal).await.unwrap(), Restored::MovedBack);
    assert!(site.has("data/file"));
    let archival = Removal { disposal: Disposal::Archive, ..removal.clone() };
    assert_eq!(site.remove(&archival).await.unwrap(), Removed::Archived("archived-data".into()));
    assert_eq!(site.restore(&archival).await.unwrap(), Restored::MovedBack);
    site.restart();
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
    site.collect_until(|status| status.trash == 0 && status.purged == 2).await;
    assert_eq!(site.tree(), [""; 0]);
    for folder in ["volumes", "intents", "trash", "purging", "staging", "archived"] {
        assert_eq!(site.records(folder), [""; 0], "{folder}");
    }
}

#[tokio::test]
async fn volumes_with_the_longest_names_share_a_directory_and_leave_it_also_without_links() {
    for without_links in [false, true] {
        let site = Site::new();
        site.nfs.stores[0].without_links.store(without_links, std::sync::atomic::Ordering::SeqCst);
        let last = VolumeName::for_claim(&longest().as_str()["pvc-".len()..].replace("uu", "vv")).unwrap();
        let shared = [("pathPattern", "data"), ("existingDirectory", "share")];
        let mut volumes = Vec::new();
        for (claim, name) in [("x", longest()), ("y", last)] {
            let request = named(&name, request(claim, &shared));
            let volume = site.make(&request).await;
            volumes.push(conformance::removal(&request, &volume, Disposal::Delete));
        }
        assert_eq!(site.remove(&volumes[0]).await.unwrap(), Removed::Kept, "without links: {without_links}");
        assert!(site.has("data"));
        assert_eq!(site.remove(&volumes[1]).await.unwrap(), Removed::Trashed);
        assert_eq!(site.records("places"), [""; 0]);
        assert_eq!(site.records("staging"), [""; 0]);
    }
}

#[tokio::test]
async fn a_volume_with_the_longest_name_is_removed_from_a_full_export() {
    const UID: &str = "6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f11";
    let mut site = Site::new();
    site.kube.set_cluster(Some(crate::volume::ClusterIds::only(UID)));
    let request = named(&longest(), patterned("x", "data"));
    let volume = site.create(&request).await.unwrap();
    site.nfs.commit(&volume.id, UID, &Permit::unlimited()).await.unwrap();
    site.nfs.stores[0].interruption.fail(crate::system::root::Errno::ENOSPC, |step| {
        matches!(step.what, "make directory" | "write" | "link")
    });
    let mut removal = conformance::removal(&request, &volume, Disposal::Delete);
    removal.pv_metadata.uid = UID.into();
    assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed);
    assert!(!site.has("data"));
    site.restart();
    site.collect_until(|status| status.trash == 0 && status.purged == 1).await;
    assert_eq!(site.tree(), [""; 0]);
}

/// Kubernetes takes names of 253 characters. A name of a file, to which something is added, holds 255.
#[tokio::test]
async fn a_volume_whose_name_is_too_long_for_a_record_is_refused_with_what_to_do_and_nothing_is_touched() {
    let site = Site::new();
    site.make(&request("other", &[])).await;
    let name: VolumeName = "v".repeat(253).parse().unwrap();
    site.plant(&format!("team-x-{}", "v".repeat(200)));
    let before = tree(site.directory.path());
    let path = format!("/export/team-x-{}", "v".repeat(200));
    let removal = |disposal| Removal { name: name.clone(), ..old_removal("x", &path, disposal) };
    for disposal in [Disposal::Delete, Disposal::Archive] {
        let error = site.remove(&removal(disposal)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{}", error.chain());
        let by_hand = format!("kubectl delete pv {name}");
        let whole = "the name of the PersistentVolume has 253 characters, and berth records volumes of export default under \
                     names of at most 114.";
        for part in [whole, "nothing was touched", &by_hand] {
            assert!(error.chain().contains(part), "{}", error.chain());
        }
    }
    assert_eq!(site.remove(&removal(Disposal::Retain)).await.unwrap(), Removed::Kept);
    let bound = InUse {
        name: name.clone(),
        id: None,
        source: Source::Nfs { server: "server".into(), path: path.clone() },
        claim: conformance::key(&request("x", &[])),
        origin: Origin::Created,
        capacity: crate::volume::Capacity::from_bytes(1024),
        pv_metadata: PvMetadata { uid: "object".into(), ..PvMetadata::default() },
    };
    let error = site.nfs.register(&bound, &Permit::unlimited()).await.unwrap_err();
    assert!(error.chain().contains("at most 114"), "{}", error.chain());
    let known = [KnownVolume { name: name.clone(), legacy: true }];
    assert_eq!(site.nfs.unregistered("default", &known).await.unwrap(), std::slice::from_ref(&name));
    let error = site.create(&named(&name, patterned("x", "data"))).await.unwrap_err();
    assert!(error.chain().contains("more than 128 bytes"), "{}", error.chain());
    assert_eq!(tree(site.directory.path()), before);
}
