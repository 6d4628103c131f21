//! Volumes in use get a record that says whose they are, and nothing of another cluster does.

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::{
    backend::nfs::{
        places,
        record::{self, Marker},
    },
    volume::{Capacity, ClaimKey, UNRECORDED},
};

/// A volume in use as its PV tells of it.
fn in_use(name: &str, path: &str) -> InUse {
    InUse {
        name: format!("pvc-{name}").parse().unwrap(),
        id: None,
        source: Source::Nfs { server: "server".into(), path: format!("/export/{path}") },
        claim: ClaimKey { namespace: "team".into(), name: name.into(), uid: format!("uid-{name}") },
        origin: Origin::Created,
        capacity: Capacity::from_bytes(1024),
        pv_metadata: PvMetadata { uid: format!("object-{name}"), ..PvMetadata::default() },
    }
}

fn taken_over(volume: &InUse, owner: &str) -> InUse {
    let pv_metadata = PvMetadata { take_over: Some(owner.into()), ..volume.pv_metadata.clone() };
    InUse { pv_metadata, ..volume.clone() }
}

async fn register(nfs: &Nfs, volume: &InUse) -> Result<(), Error> {
    nfs.register(volume, &Permit::unlimited()).await
}

async fn unregistered(nfs: &Nfs, names: &[&str]) -> Vec<String> {
    let known = |name: &&str| KnownVolume { name: name.parse().unwrap(), legacy: true };
    let known: Vec<_> = names.iter().map(known).collect();
    let found = nfs.unregistered("default", &known).await.unwrap();
    found.into_iter().map(|name| name.to_string()).collect()
}

fn recorded(site: &Site, name: &str) -> Marker {
    Marker::from_json(&fs::read(site.path(&format!(".berth/volumes/pvc-{name}.json"))).unwrap()).unwrap()
}

fn inode(site: &Site, path: &str) -> u64 {
    fs::metadata(site.path(path)).unwrap().ino()
}

fn refusal(result: Result<(), Error>) -> String {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), Kind::Refused, "{}", error.chain());
    error.chain()
}

#[tokio::test]
async fn the_volume_of_an_older_provisioner_gets_a_record_and_its_place() {
    let site = Site::new();
    let theirs = site.of_cluster("cluster-2");
    site.plant("a/data");
    let volume = in_use("x", "a/data");
    assert_eq!(unregistered(&site.nfs, &["pvc-x"]).await, ["pvc-x"]);
    for _ in 0..2 {
        register(&site.nfs, &volume).await.unwrap();
        let record = recorded(&site, "x");
        assert_eq!(record.cluster.as_deref(), Some("cluster-1"));
        assert_eq!(record.uid.as_deref(), Some("object-x"));
        assert_eq!(record.inode, Some(inode(&site, "a/data")));
        assert_eq!(
            (record.claim, record.origin, record.capacity),
            (volume.claim.clone(), Origin::Created, 1024)
        );
        assert_eq!(unregistered(&site.nfs, &["pvc-x", "pvc-y"]).await, ["pvc-y"]);
        assert_eq!(site.records("staging").len(), 0);
    }
    let error = theirs.create(&patterned("y", "a/data/y"), &Permit::unlimited()).await.unwrap_err();
    assert!(error.chain().contains("lies within a/data, which belongs to volume pvc-x"), "{}", error.chain());
    // What is not there cannot be recorded.
    assert_eq!(register(&site.nfs, &in_use("z", "none")).await.unwrap_err().kind(), Kind::NotFound);
    let elsewhere = Source::Nfs { server: "other".into(), path: "/export/a/data".into() };
    refusal(register(&site.nfs, &InUse { source: elsewhere, ..in_use("z", "a") }).await);
}

/// A copy of the PV in another cluster is not the volume, whether it is bound there or not.
#[tokio::test]
async fn a_volume_that_another_cluster_recorded_is_left_alone_until_an_administrator_takes_it_over() {
    let site = Site::new();
    let theirs = site.of_cluster("cluster-2");
    site.plant("data");
    let volume = in_use("x", "data");
    register(&site.nfs, &volume).await.unwrap();
    let pv_metadata = PvMetadata { uid: "object-copy".into(), ..PvMetadata::default() };
    let copy = InUse { pv_metadata, ..volume.clone() };
    let message = refusal(register(&theirs, &copy).await);
    assert!(
        message.ends_with("kubectl annotate --overwrite pv pvc-x berth.storage/take-over=cluster-1"),
        "{message}"
    );
    assert!(message.contains("is of cluster cluster-1, and this is cluster cluster-2"), "{message}");
    for other in ["cluster-3", UNRECORDED, ""] {
        refusal(register(&theirs, &taken_over(&copy, other)).await);
    }
    assert_eq!(recorded(&site, "x").cluster.as_deref(), Some("cluster-1"));
    register(&theirs, &taken_over(&copy, "cluster-1")).await.unwrap();
    let now = recorded(&site, "x");
    assert_eq!((now.cluster.as_deref(), now.uid.as_deref()), (Some("cluster-2"), Some("object-copy")));
    let error = site.create(&patterned("y", "data")).await.unwrap_err();
    assert!(error.chain().contains("of cluster cluster-2"), "{}", error.chain());
    // The first cluster has it no more; nor by the UID that its record had.
    refusal(register(&site.nfs, &InUse { claim: copy.claim, ..volume }).await);
}

#[tokio::test]
async fn a_record_of_an_earlier_version_is_signed_for_its_own_claim_only() {
    let site = Site::new();
    site.make(&request("first", &[])).await;
    let plant = |name: &str| {
        site.plant(name);
        let text = format!(
            "{{\"version\":1,\"id\":\"1/nfs/default/pvc-{name}\",\"directory\":[\"{name}\"],\"claim\":{{\"namespace\":\"team\",\
             \"name\":\"{name}\",\"uid\":\"uid-{name}\"}},\"origin\":\"created\",\"since\":\"2026-03-01T10:00:00Z\",\
             \"capacity\":1024}}\n"
        );
        fs::write(site.path(&format!(".berth/volumes/pvc-{name}.json")), text).unwrap();
    };
    plant("x");
    let copy = InUse {
        claim: ClaimKey { uid: "uid-of-another-cluster".into(), ..in_use("x", "x").claim },
        ..in_use("x", "x")
    };
    let message = refusal(register(&site.nfs, &copy).await);
    assert!(
        message.ends_with("kubectl annotate --overwrite pv pvc-x berth.storage/take-over=unrecorded"),
        "{message}"
    );
    assert_eq!(recorded(&site, "x").cluster, None);
    register(&site.nfs, &in_use("x", "x")).await.unwrap();
    assert_eq!(recorded(&site, "x").cluster.as_deref(), Some("cluster-1"));
    assert_eq!(recorded(&site, "x").inode, Some(inode(&site, "x")));
    assert!(site.has(".berth/places/x"));
    plant("y");
    let copy = InUse { claim: copy.claim, ..in_use("y", "y") };
    register(&site.nfs, &taken_over(&copy, UNRECORDED)).await.unwrap();
    assert_eq!(recorded(&site, "y").claim, copy.claim);
    // The directory must be the same.
    plant("z");
    site.plant("other");
    let message = refusal(register(&site.nfs, &in_use("z", "other")).await);
    assert!(message.contains("names the directory z, the PersistentVolume other"), "{message}");
}

/// pv-migrate, Velero and every administrator bind a kept volume to another claim.
#[tokio::test]
async fn a_volume_that_is_bound_to_another_claim_stays_the_same() {
    let site = Site::new();
    let volume = site.make(&request("x", &[])).await;
    let mut bound = in_use("uid-x", "team-x-pvc-uid-x");
    bound.claim.uid = "another".into();
    assert_eq!(bound.name, *volume.id.name());
    register(&site.nfs, &bound).await.unwrap();
    assert_eq!(recorded(&site, "uid-x").claim, bound.claim);
    // Restored from a backup into the same cluster, too.
    bound.pv_metadata.uid = "object-restored".into();
    register(&site.nfs, &bound).await.unwrap();
    assert_eq!(recorded(&site, "uid-x").uid.as_deref(), Some("object-restored"));
}

#[tokio::test]
async fn a_volume_that_was_begun_and_is_in_use_is_committed_by_its_registration() {
    let site = Site::new();
    let theirs = site.of_cluster("cluster-2");
    site.create(&request("x", &[])).await.unwrap();
    let bound = in_use("uid-x", "team-x-pvc-uid-x");
    let stolen = InUse { claim: ClaimKey { uid: "uid-x".into(), ..bound.claim.clone() }, ..bound.clone() };
    refusal(register(&theirs, &stolen).await);
    register(&site.nfs, &bound).await.unwrap();
    assert_eq!((site.records("intents").len(), site.records("volumes").len()), (0, 1));
}

#[tokio::test]
async fn old_volumes_that_lie_within_one_another_are_recorded_and_keep_each_other_and_others_away() {
    let site = Site::new();
    let theirs = site.of_cluster("cluster-2");
    for path in ["a", "a/b", "same", "c/d", "c"] {
        site.plant(path);
    }
    let volumes =
        [("outer", "a"), ("inner", "a/b"), ("one", "same"), ("two", "same"), ("deep", "c/d"), ("top", "c")];
    for (number, (name, path)) in volumes.into_iter().enumerate() {
        let nfs = if number % 2 == 0 { &site.nfs } else { &theirs };
        let result = register(nfs, &in_use(name, path)).await;
        if number % 2 == 0 {
            result.unwrap();
        } else {
            let message = refusal(result);
            assert!(message.contains(&format!("of claim team/{}", volumes[number - 1].0)), "{message}");
            assert!(message.contains("Retain"), "{message}");
        }
        assert!(recorded(&site, name).cluster.is_some());
    }
    assert_eq!(site.records("disputed"), ["pvc-inner.json", "pvc-top.json", "pvc-two.json"]);
    // Also what only the volume without a place is in the way of.
    let error = site.create(&patterned("new", "c/new")).await.unwrap_err();
    assert!(error.chain().contains("lies within c, which belongs to volume pvc-top"), "{}", error.chain());
    // Each says of the other one that it is there.
    for (name, path, other) in [("outer", "a", "inner"), ("top", "c", "deep"), ("one", "same", "two")] {
        let (known, path) = (recorded(&site, name), path.parse().unwrap());
        let permit = Permit::unlimited();
        let found = site.nfs.stores[0]
            .run("test".into(), None, &permit, move |work| places::overlapping(work, &known, &path));
        let found = found.await.unwrap().unwrap();
        assert_eq!(found.who.unwrap().id.name().as_str(), format!("pvc-{other}"), "{name}");
    }
    // When the other one has left, it gets the place at the beginning of the next term.
    let gone = recorded(&site, "outer");
    site.nfs.stores[0]
        .run("test".into(), None, &Permit::unlimited(), move |work| {
            places::vacate(work, &gone, &gone.path)?;
            work.changes.remove_file(&record::file(record::VOLUMES, gone.id.name()))?;
            Ok(())
        })
        .await
        .unwrap();
    site.collect_until(|_| !site.has(".berth/disputed/pvc-inner.json")).await;
    assert!(site.path(".berth/places/a/b").is_file());
    assert_eq!(site.records("disputed"), ["pvc-top.json", "pvc-two.json"]);
}

#[tokio::test]
async fn a_registration_that_was_interrupted_is_finished_by_the_next_one_and_proves_nothing_without_the_place()
 {
    for steps in 0.. {
        let mut site = Site::new();
        site.make(&request("first", &[])).await;
        site.plant("a/data");
        site.nfs.stores[0].interruption.after(steps);
        let first = register(&site.nfs, &in_use("x", "a/data")).await;
        site.nfs.stores[0].interruption.never();
        let written = site.records("volumes").contains(&"pvc-x.json".to_string());
        assert!(!written || site.has(".berth/places/a/data"), "{steps} steps");
        site.restart();
        register(&site.nfs, &in_use("x", "a/data")).await.unwrap();
        assert_eq!(recorded(&site, "x").cluster.as_deref(), Some("cluster-1"));
        assert!(site.has(".berth/places/a/data"));
        if first.is_ok() {
            return;
        }
        assert!(steps < 60, "it never succeeds");
    }
}
