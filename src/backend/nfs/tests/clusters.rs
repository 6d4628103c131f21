//! Two clusters make volumes on one export.

use super::*;
use crate::{backend::nfs::work::Rule, volume::ClusterIds};

fn existing(name: &str, pattern: &str, policy: &str) -> VolumeRequest {
    request(name, &[("pathPattern", pattern), ("existingDirectory", policy)])
}

async fn list_uncommitted(nfs: &Nfs) -> Vec<Uncommitted> {
    nfs.list_uncommitted("default", &|_: &VolumeName| false).await.unwrap()
}

async fn create(nfs: &Nfs, request: &VolumeRequest) -> Result<Volume, Error> {
    nfs.create(request, &Permit::unlimited()).await
}

/// Everything on the export with its inode.
fn whole(site: &Site) -> Vec<(String, u64)> {
    use std::os::unix::fs::MetadataExt;
    let paths = tree(site.directory.path());
    paths
        .into_iter()
        .map(|path| (fs::symlink_metadata(site.path(&path)).unwrap().ino(), path))
        .map(|(i, p)| (p, i))
        .collect()
}

/// Cluster 1 had a volume for a whole namespace, cluster 2 made one inside it, and deleting the first one took the second.
#[tokio::test]
async fn two_clusters_with_overlapping_patterns_get_no_volume_within_another() {
    let site = Site::new();
    let theirs = site.of_cluster("cluster-2");
    site.make(&patterned("a", "${.PVC.namespace}")).await;
    site.make(&patterned("b", "deep/${.PVC.name}")).await;
    let before = whole(&site);
    for policy in ["refuse", "adopt", "share"] {
        for (pattern, why) in [
            (
                "${.PVC.namespace}/${.PVC.name}",
                "lies within team, which belongs to volume pvc-uid-a of claim team/a of cluster cluster-1",
            ),
            ("${.PVC.namespace}", "belongs to volume pvc-uid-a of claim team/a of cluster cluster-1"),
            ("deep", "overlaps with deep/b below it, which belongs to volume pvc-uid-b"),
        ] {
            let error = create(&theirs, &existing("c", pattern, policy)).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Conflict, "{pattern} {policy}");
            assert!(error.chain().contains(why), "{pattern} {policy}: {}", error.chain());
            let command = format!("rm {}/.berth/volumes/pvc-uid-", site.directory.path().display());
            assert!(error.chain().contains(&command), "{}", error.chain());
        }
    }
    assert_eq!(whole(&site), before, "nothing was begun");
    create(&theirs, &patterned("c", "deep/${.PVC.name}")).await.unwrap();
    // It is this rule that keeps them apart.
    theirs.stores[0].rules.switch_off(Rule::Places);
    create(&theirs, &patterned("d", "${.PVC.namespace}/${.PVC.name}")).await.unwrap();
}

/// An administrator pastes it, and the path is what the author of another claim wrote.
#[tokio::test]
async fn the_command_in_an_event_is_one_command_whatever_a_claim_calls_its_directory() {
    let site = Site::new();
    for path in ["x -rf ..", "x;touch y", "$(touch y)", "it's"] {
        site.make(&patterned(&format!("a{}", path.len()), path)).await;
        let error = site.create(&patterned("b", path)).await.unwrap_err();
        let quoted =
            crate::backend::quoted(&site.path(&format!(".berth/places/{path}")).display().to_string());
        assert!(quoted.starts_with('\'') && error.chain().ends_with(&quoted), "{}", error.chain());
    }
}

/// With `adopt` and equal names cluster 2 adopted the live volume of cluster 1, and archived it later under the running pods.
#[tokio::test]
async fn the_live_volume_of_another_cluster_is_neither_adopted_nor_shared() {
    let site = Site::new();
    let theirs = site.of_cluster("cluster-2");
    for policy in ["refuse", "adopt", "share"] {
        for committed in [true, false] {
            // Of the same namespace and the same name there, with another UID.
            let path = format!("{policy}-{committed}/${{.PVC.name}}");
            let ours = existing("data", &path, if policy == "share" { "refuse" } else { policy });
            let uid = format!("{policy}-{committed}");
            let mut ours = VolumeRequest { name: VolumeName::for_claim(&uid).unwrap(), ..ours };
            ours.claim.uid = uid;
            if committed {
                site.make(&ours).await;
            } else {
                site.create(&ours).await.unwrap();
            }
            fs::write(site.path(&path.replace("${.PVC.name}", "data")).join("file"), "live").unwrap();
            let before = whole(&site);
            let error = create(&theirs, &existing("data", &path, policy)).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Conflict, "{path}");
            assert!(error.chain().contains("of cluster cluster-1"), "{path}: {}", error.chain());
            assert_eq!(whole(&site), before, "{path}");
            let after = create(&site.nfs, &ours).await;
            assert!(after.is_ok() || !committed, "{path}: {after:?}");
            if policy != "refuse" {
                let without = site.of_cluster("cluster-2");
                without.stores[0].rules.switch_off(Rule::Places);
                create(&without, &existing("data", &path, policy)).await.unwrap();
                fs::remove_file(site.path(".berth/intents/pvc-uid-data.json")).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn two_clusters_share_a_directory_if_the_classes_of_both_say_so() {
    let site = Site::new();
    let theirs = site.of_cluster("cluster-2");
    let ours = site.make(&existing("a", "data", "share")).await;
    fs::write(site.path("data/file"), "ours").unwrap();
    let other = create(&theirs, &existing("b", "data", "share")).await.unwrap();
    assert_eq!((other.source, other.origin), (ours.source, Origin::Created));
    for policy in ["refuse", "adopt"] {
        let error = create(&theirs, &existing("c", "data", policy)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict, "{policy}");
    }
    // What is given up by one stays for the other.
    let begun = list_uncommitted(&theirs).await.remove(0);
    theirs.rollback(&begun, &Permit::unlimited()).await.unwrap();
    assert!(site.has("data/file"));
    assert_eq!(
        tree(&site.path(".berth/places")),
        ["data", "data/.berth", "data/.berth/open", "data/.berth/open/pvc-uid-a.json"]
    );
}

/// A namespace called like an archive got another tenant's archived data.
#[tokio::test]
async fn an_archive_is_not_adopted() {
    let site = Site::new();
    for policy in ["adopt", "share"] {
        let mut archived = request("data", &[("existingDirectory", policy)]);
        archived.claim.namespace = "archived-team".into();
        site.plant("archived-team-data-pvc-uid-data");
        let error = site.create(&archived).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict);
        assert!(error.chain().contains("the name of an archive"), "{}", error.chain());
    }
    assert!(site.has("archived-team-data-pvc-uid-data/file"));
    assert_eq!(site.records("intents").len(), 0);
    let mut archived = request("data", &[("existingDirectory", "adopt")]);
    archived.claim.namespace = "archived-team".into();
    site.nfs.stores[0].rules.switch_off(Rule::Places);
    site.create(&archived).await.unwrap();
}

/// A crash of cluster 1 between storing the PV and committing left an intent, and the sweep of cluster 2 took the directory.
#[tokio::test]
async fn uncommitted_volumes_of_another_cluster_are_neither_listed_nor_rolled_back() {
    let site = Site::new();
    let theirs = site.of_cluster("cluster-2");
    site.create(&patterned("a", "a/data")).await.unwrap();
    let begun = list_uncommitted(&site.nfs).await.remove(0);
    assert_eq!(list_uncommitted(&theirs).await, []);
    let error = theirs.rollback(&begun, &Permit::unlimited()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused);
    let uid = object_uid(begun.id.name());
    theirs.commit(&begun.id, &uid, &Permit::unlimited()).await.unwrap_err();
    assert!(site.has("a/data"));
    let without = site.of_cluster("cluster-2");
    without.stores[0].rules.switch_off(Rule::Cluster);
    assert_eq!(list_uncommitted(&without).await, std::slice::from_ref(&begun), "it is this rule");
    // The same cluster after it was rebuilt, which was told its former identity.
    let kube = FakeKubernetes::new("cluster-3");
    kube.set_cluster(Some(ClusterIds::only("cluster-3").also(["cluster-1".to_owned()])));
    let rebuilt = Nfs::new(site.nfs.exports.clone(), Arc::new(kube)).unwrap();
    rebuilt.expect_store(nothing());
    assert_eq!(list_uncommitted(&rebuilt).await, std::slice::from_ref(&begun));
    rebuilt.rollback(&begun, &Permit::unlimited()).await.unwrap();
    assert!(!site.has("a"));
}

#[tokio::test]
async fn an_intent_that_does_not_say_of_which_cluster_it_is_is_left_alone_and_ended_by_its_own_claim() {
    let site = Site::new();
    site.create(&patterned("a", "a/data")).await.unwrap();
    let begun = list_uncommitted(&site.nfs).await.remove(0);
    // As an earlier version wrote it: without cluster, and without a place.
    let file = site.path(".berth/intents/pvc-uid-a.json");
    let text = fs::read_to_string(&file).unwrap();
    let old = text.replace("\"version\":2", "\"version\":1").replace(",\"cluster\":\"cluster-1\"", "");
    assert!(!old.contains("cluster-1"), "{old}");
    fs::write(&file, old).unwrap();
    fs::remove_dir_all(site.path(".berth/places/a")).unwrap();
    assert_eq!(list_uncommitted(&site.nfs).await, []);
    assert_eq!(site.nfs.rollback(&begun, &Permit::unlimited()).await.unwrap_err().kind(), Kind::Refused);
    assert!(site.has("a/data"));
    site.create(&patterned("a", "a/data")).await.unwrap();
    assert_eq!(list_uncommitted(&site.nfs).await.len(), 1, "it is signed");
    assert!(site.has(".berth/places/a/data"));
}

#[tokio::test]
async fn without_knowing_the_cluster_only_what_the_old_provisioner_could_do_is_done() {
    let site = Site::new();
    let kube = Arc::new(FakeKubernetes::new("none"));
    kube.set_cluster(None);
    let unknown = Nfs::new(site.nfs.exports.clone(), kube.clone()).unwrap();
    unknown.expect_store(nothing());
    for policy in ["refuse", "adopt", "share"] {
        let error = create(&unknown, &existing("a", "data", policy)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        for part in ["kube-system", "verbs: [get]", "--cluster-id"] {
            assert!(error.chain().contains(part), "{}", error.chain());
        }
    }
    assert_eq!(tree(site.directory.path()), [""; 0]);
    let plain = request("b", &[]);
    let volume = create(&unknown, &plain).await.unwrap();
    assert_eq!(list_uncommitted(&unknown).await, [], "whose they are cannot be told");
    assert_eq!(create(&unknown, &plain).await.unwrap(), volume);
    unknown.commit(&volume.id, "object-b", &Permit::unlimited()).await.unwrap();
    assert_eq!(create(&unknown, &plain).await.unwrap(), volume);
    // What is signed is not touched.
    site.create(&request("c", &[])).await.unwrap();
    let error = create(&unknown, &request("c", &[])).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{}", error.chain());
    // Once the cluster is known, what was recorded without it is signed.
    kube.set_cluster(Some(ClusterIds::only("cluster-4")));
    let known = [KnownVolume { name: plain.name.clone(), legacy: false }];
    assert_eq!(unknown.unregistered("default", &known).await.unwrap(), [plain.name]);
}

#[tokio::test]
async fn a_claim_that_was_made_again_adopts_its_directory_only_when_the_former_volume_has_no_pv() {
    let site = Site::new();
    let theirs = site.of_cluster("cluster-2");
    site.make(&patterned("data", "data")).await;
    fs::write(site.path("data/file"), "").unwrap();
    let again = |name: &str| {
        let mut again = existing("data", "data", "adopt");
        again.name = VolumeName::for_claim(name).unwrap();
        again.claim.uid = name.into();
        again
    };
    let kube = Arc::new(FakeKubernetes::new("cluster-1"));
    let former: VolumeName = "pvc-uid-data".parse().unwrap();
    kube.set_volume(&former, "object", false);
    let nfs = Nfs::new(site.nfs.exports.clone(), kube.clone()).unwrap();
    nfs.expect_store(nothing());
    let error = create(&nfs, &again("2")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.chain().contains("delete PersistentVolume pvc-uid-data"), "{}", error.chain());
    kube.set_reachable(false);
    assert_eq!(create(&nfs, &again("2")).await.unwrap_err().kind(), Kind::Unavailable);
    kube.set_reachable(true);
    kube.delete_volume(&former);
    assert_eq!(
        create(&theirs, &again("3")).await.unwrap_err().kind(),
        Kind::Conflict,
        "it is of another cluster"
    );
    assert_eq!(site.records("intents").len(), 0, "nothing was begun");
    assert_eq!(create(&nfs, &again("2")).await.unwrap().origin, Origin::Adopted);
    assert_eq!(site.records("volumes").len(), 0, "one volume has the directory");
    assert!(fs::read_to_string(site.path(".berth/places/data")).unwrap().contains("pvc-2"));
    assert!(site.has("data/file"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clusters_that_begin_to_use_an_export_at_once_agree_on_its_identity() {
    for _ in 0..10 {
        let site = Site::new();
        let tasks = (0..4).map(|number| {
            let nfs = site.of_cluster(&format!("cluster-{number}"));
            tokio::spawn(async move { create(&nfs, &request(&format!("v{number}"), &[])).await.unwrap() })
        });
        let volumes = futures::future::join_all(tasks).await;
        let identities: Vec<_> = volumes.into_iter().map(|volume| volume.unwrap().store_identity).collect();
        assert!(identities.iter().all(|identity| *identity == identities[0]), "{identities:?}");
        assert_eq!(site.records("staging").len(), 0);
    }
}

#[tokio::test]
async fn a_full_export_says_what_could_not_be_made() {
    use crate::system::root::Errno;
    for errno in [Errno::ENOSPC, Errno::EDQUOT] {
        let site = Site::new();
        site.nfs.stores[0].interruption.fail(errno, |step| step.what == "make directory");
        let error = site.create(&request("x", &[])).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Exhausted);
        for part in ["no space, no quota or no inodes are left", "make directory", ".berth"] {
            assert!(error.chain().contains(part), "{}", error.chain());
        }
        assert_eq!(tree(site.directory.path()), [""; 0]);
    }
}

/// The object is another cluster's or a copy: whether its removal was begun, and what is to be undone, is not ours to say.
#[tokio::test]
async fn the_restore_of_what_is_not_provably_ours_says_that_nothing_was_begun_and_touches_nothing() {
    for state in ["in use", "in the trash", "archived", "unsigned", "unrecorded"] {
        let site = Site::new();
        let theirs = site.of_cluster("cluster-2");
        let request = patterned("x", "data");
        let volume = site.make(&request).await;
        fs::write(site.path("data/file"), "precious").unwrap();
        let mut removal = conformance::removal(&request, &volume, Disposal::Delete);
        let record = site.path(".berth/volumes/pvc-uid-x.json");
        match state {
            "in the trash" => assert_eq!(site.remove(&removal).await.unwrap(), Removed::Trashed),
            "archived" => {
                removal.disposal = Disposal::Archive;
                assert!(matches!(site.remove(&removal).await.unwrap(), Removed::Archived(_)));
            }
            "unsigned" => {
                let text = fs::read_to_string(&record).unwrap();
                let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
                for key in ["cluster", "uid"] {
                    json.as_object_mut().unwrap().remove(key);
                }
                fs::write(&record, json.to_string()).unwrap();
            }
            "unrecorded" => fs::remove_file(&record).unwrap(),
            _ => {}
        }
        removal.pv_metadata.uid = "the-copy".into();
        let before = whole(&site);
        assert_eq!(
            theirs.restore(&removal, &Permit::unlimited()).await.unwrap(),
            Restored::InPlace,
            "{state}"
        );
        assert_eq!(whole(&site), before, "{state}");
    }
}
