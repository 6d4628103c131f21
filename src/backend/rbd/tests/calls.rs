//! Golden lists: which programs with which arguments every operation starts.

use super::*;
use crate::backend::conformance::removal;

/// The calls without the image's own mark, which holds a time.
fn calls(fake_cluster: &FakeCluster) -> Vec<String> {
    fake_cluster
        .calls()
        .into_iter()
        .map(|call| call.split(" {\"").next().unwrap_or_default().to_owned())
        // Who it is, the cluster is asked once, whenever that is.
        .filter(|call| call != "ceph fsid")
        .collect()
}

/// The calls as a set: for what runs side by side.
fn sorted(mut calls: Vec<String>) -> Vec<String> {
    calls.sort();
    calls
}

#[tokio::test]
async fn a_volume_costs_one_program() {
    let site = Site::new();
    site.create(&request("a", &[])).await.unwrap();
    assert_eq!(calls(&site.fake_cluster), ["rbd import --no-progress --export-format 2 - rbd/berth-uid-a"]);
    site.fake_cluster.state().spaces.insert("rbd/team".into(), fake_cluster::Space::default());
    site.fake_cluster.state().spaces.insert("ec".into(), fake_cluster::Space::default());
    site.create(&request("b", &[("radosNamespace", "team"), ("dataPool", "ec")])).await.unwrap();
    assert_eq!(
        calls(&site.fake_cluster),
        ["rbd import --no-progress --export-format 2 --data-pool ec - rbd/team/berth-uid-b"]
    );
}

#[tokio::test]
async fn a_volume_that_is_there_is_looked_at() {
    let site = Site::new();
    let request = request("a", &[]);
    site.create(&request).await.unwrap();
    calls(&site.fake_cluster);
    site.create(&request).await.unwrap();
    let found = calls(&site.fake_cluster);
    assert_eq!(
        sorted(found),
        [
            header("1001c0ffee").as_str(),
            "rbd import --no-progress --export-format 2 - rbd/berth-uid-a",
            "rbd info --format json rbd/berth-uid-a",
            "rbd status --format json rbd/berth-uid-a",
        ]
    );
}

/// How the mark of an image is read: by its id, and without opening it.
fn header(id: &str) -> String {
    format!("rados -p rbd listomapvals rbd_header.{id}")
}

/// The name of a claim, what becomes of its volume, its class, and what is called for that.
type Row<'a> = (&'a str, Disposal, &'a [(&'a str, &'a str)], &'a [&'a str]);

#[tokio::test]
async fn a_removal_looks_first_and_moves_once() {
    let look = |image: &str, id: &str| {
        vec![
            header(id),
            format!("rbd info --format json rbd/{image}"),
            format!("rbd status --format json rbd/{image}"),
        ]
    };
    let site = Site::new();
    let list = "rados -p rbd listomapvals rbd_trash";
    let rows: [Row<'_>; 3] = [
        ("a", Disposal::Delete, &[], &["rbd trash mv --expires-at 15 seconds rbd/berth-uid-a"]),
        (
            "b",
            Disposal::Archive,
            &[],
            &[list, "rbd trash mv --expires-at 2100-01-01T00:00:00Z rbd/berth-uid-b"],
        ),
        (
            "c",
            Disposal::Archive,
            &[("archiveExpiry", "30d")],
            &[list, "rbd trash mv --expires-at 2592000 seconds rbd/berth-uid-c"],
        ),
    ];
    for ((name, disposal, more, expected), id) in rows.into_iter().zip(1_u8..) {
        let request = request(name, more);
        let volume = site.create(&request).await.unwrap();
        calls(&site.fake_cluster);
        site.remove(&removal(&request, &volume, disposal)).await.unwrap();
        let found = calls(&site.fake_cluster);
        let (looks, moves) = found.split_at(found.len() - expected.len());
        assert_eq!(moves, expected, "{name}");
        assert_eq!(looks[0], format!("rbd info --format json rbd/berth-uid-{name}"));
        assert_eq!(
            sorted(looks.to_vec()),
            look(&format!("berth-uid-{name}"), &format!("100{id}c0ffee")),
            "{name}"
        );
    }
}

#[tokio::test]
async fn what_is_kept_says_so() {
    let site = Site::new();
    let request = request("a", &[]);
    let volume = site.create(&request).await.unwrap();
    calls(&site.fake_cluster);
    site.remove(&removal(&request, &volume, Disposal::Retain)).await.unwrap();
    let found = calls(&site.fake_cluster);
    assert_eq!(found[..2], ["rbd info --format json rbd/berth-uid-a".to_owned(), header("1001c0ffee")]);
    assert!(found[2].starts_with("rbd image-meta set rbd/berth-uid-a berth.kept 20"), "{found:?}");
    site.remove(&removal(&request, &volume, Disposal::Retain)).await.unwrap();
    assert_eq!(calls(&site.fake_cluster).len(), 2, "it was noted");
}

/// Proves: rbd 18
#[tokio::test]
async fn an_older_image_is_marked_before_it_is_moved() {
    let site = Site::new();
    let image = super::older::IMAGE;
    site.fake_cluster.plant("rbd", image, Image { size: 1 << 20, ..Image::default() });
    site.remove(&super::older::removal(image, Disposal::Delete)).await.unwrap();
    let calls = calls(&site.fake_cluster);
    assert_eq!(
        calls[calls.len() - 2..],
        [
            format!("rbd image-meta set rbd/{image} berth.owner"),
            format!("rbd trash mv --expires-at 15 seconds rbd/{image}")
        ]
    );
}

/// Proves: rbd 20
#[tokio::test]
async fn growing_looks_and_resizes() {
    let site = Site::new();
    let request = request("a", &[]);
    let volume = site.create(&request).await.unwrap();
    calls(&site.fake_cluster);
    site.rbd.expand(&expansion(&request, &volume, 2 << 30), &Permit::unlimited()).await.unwrap();
    assert_eq!(
        calls(&site.fake_cluster),
        [
            "rbd info --format json rbd/berth-uid-a",
            header("1001c0ffee").as_str(),
            "rbd resize --no-progress --size 2147483648B rbd/berth-uid-a"
        ]
    );
}

#[tokio::test]
async fn a_sweep_lists_and_reads_only_what_nobody_knows() {
    let site = Site::new();
    for name in ["a", "b"] {
        site.create(&request(name, &[])).await.unwrap();
    }
    calls(&site.fake_cluster);
    let known = |name: &VolumeName| name.as_str() == "pvc-uid-a";
    let found = site.rbd.list_uncommitted("main", &known).await.unwrap();
    assert_eq!(
        calls(&site.fake_cluster),
        ["rbd ls --format json rbd", "rbd info --format json rbd/berth-uid-b", header("1002c0ffee").as_str()]
    );
    site.rbd.rollback(&found[0], &Permit::unlimited()).await.unwrap();
    let mut calls = calls(&site.fake_cluster);
    assert_eq!(calls.pop().unwrap(), "rbd trash mv --expires-at 15 seconds rbd/berth-uid-b");
    assert_eq!(calls.pop().unwrap(), "rbd diff --format json rbd/berth-uid-b");
}

#[tokio::test]
async fn garbage_collection_finds_every_trash_and_never_forces() {
    let site = Site::new();
    let request = request("a", &[]);
    let volume = site.create(&request).await.unwrap();
    site.fake_cluster.state().spaces.insert("rbd/team".into(), fake_cluster::Space::default());
    site.remove(&removal(&request, &volume, Disposal::Delete)).await.unwrap();
    calls(&site.fake_cluster);
    let fake_cluster = site.fake_cluster.clone();
    let looked = move || fake_cluster.state().calls.iter().any(|call| call.contains("-N team"));
    site.collect_until(|store| store.purged == 1 && looked()).await;
    let mut calls = sorted(calls(&site.fake_cluster));
    calls.dedup();
    assert_eq!(
        calls,
        [
            "ceph osd pool ls detail",
            "rados -p rbd -N team listomapvals rbd_trash",
            header("1001c0ffee").as_str(),
            "rados -p rbd listomapvals rbd_trash",
            "rbd ls --format json rbd",
            "rbd ls --format json rbd/team",
            "rbd namespace ls --format json rbd",
            "rbd trash rm --no-progress rbd/1001c0ffee",
        ]
    );
}

/// The calls of one volume that is made, deleted, and of one that is archived, among so many other images.
async fn calls_among(others: usize) -> Vec<String> {
    let site = Site::new();
    for number in 0..others {
        let image = Image { size: 1 << 20, ..Image::default() };
        site.fake_cluster.plant("rbd", &format!("berth-uid-other-{number}"), image);
    }
    for (name, disposal) in [("a", Disposal::Delete), ("b", Disposal::Archive)] {
        let request = request(name, &[]);
        let volume = site.create(&request).await.unwrap();
        site.remove(&removal(&request, &volume, disposal)).await.unwrap();
    }
    let id = |call: String| match call.split_once("rbd_header.") {
        Some((before, _)) => format!("{before}rbd_header.ID"),
        None => call,
    };
    sorted(calls(&site.fake_cluster).into_iter().map(id).collect())
}

#[tokio::test]
async fn a_creation_and_a_removal_make_the_same_calls_among_many_images_as_among_few() {
    let (few, many) = (calls_among(10).await, calls_among(500).await);
    println!("{} calls among 10 other images, {} among 500", few.len(), many.len());
    assert_eq!(few, many);
    assert!(!few.iter().any(|call| call.starts_with("rbd ls") || call.contains("other-")), "{few:?}");
}
