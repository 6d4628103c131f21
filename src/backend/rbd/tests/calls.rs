//! Golden lists: which programs with which arguments every operation starts.

use serde_json::json;

use super::*;
use crate::backend::conformance::removal;

/// The calls without the image's own mark, which holds a time.
fn calls(small: &Small) -> Vec<String> {
    small
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
    assert_eq!(calls(&site.small), ["rbd import --no-progress --export-format 2 - rbd/berth-uid-a"]);
    site.small.state().spaces.insert("rbd/team".into(), small::Space::default());
    site.small.state().spaces.insert("ec".into(), small::Space::default());
    site.create(&request("b", &[("radosNamespace", "team"), ("dataPool", "ec")])).await.unwrap();
    assert_eq!(
        calls(&site.small),
        ["rbd import --no-progress --export-format 2 --data-pool ec - rbd/team/berth-uid-b"]
    );
}

#[tokio::test]
async fn a_volume_that_is_there_is_looked_at() {
    let site = Site::new();
    let request = request("a", &[]);
    site.create(&request).await.unwrap();
    calls(&site.small);
    site.create(&request).await.unwrap();
    let found = calls(&site.small);
    // Reading metadata opens an image as its users do, so that who uses it must be asked when that is over.
    assert_eq!(found.last().unwrap(), "rbd status --format json rbd/berth-uid-a");
    assert_eq!(
        sorted(found),
        [
            "rbd image-meta list --format json rbd/berth-uid-a",
            "rbd import --no-progress --export-format 2 - rbd/berth-uid-a",
            "rbd info --format json rbd/berth-uid-a",
            "rbd status --format json rbd/berth-uid-a",
        ]
    );
}

/// The name of a claim, what becomes of its volume, its class, and what is called for that.
type Row<'a> = (&'a str, Disposal, &'a [(&'a str, &'a str)], &'a [&'a str]);

#[tokio::test]
async fn a_removal_looks_first_and_moves_once() {
    let look = |image: &str| {
        vec![
            format!("rbd image-meta list --format json rbd/{image}"),
            format!("rbd info --format json rbd/{image}"),
            format!("rbd status --format json rbd/{image}"),
        ]
    };
    let site = Site::new();
    let rows: [Row<'_>; 3] = [
        ("a", Disposal::Delete, &[], &["rbd trash mv --expires-at 15 seconds rbd/berth-uid-a"]),
        (
            "b",
            Disposal::Archive,
            &[],
            &[
                "rbd trash ls --all --format json rbd",
                "rbd trash mv --expires-at 2100-01-01T00:00:00Z rbd/berth-uid-b",
            ],
        ),
        (
            "c",
            Disposal::Archive,
            &[("archiveExpiry", "30d")],
            &[
                "rbd trash ls --all --format json rbd",
                "rbd trash mv --expires-at 2592000 seconds rbd/berth-uid-c",
            ],
        ),
    ];
    for (name, disposal, more, expected) in rows {
        let request = request(name, more);
        let volume = site.create(&request).await.unwrap();
        calls(&site.small);
        site.remove(&removal(&request, &volume, disposal)).await.unwrap();
        let found = calls(&site.small);
        let (looks, moves) = found.split_at(found.len() - expected.len());
        assert_eq!(moves, expected, "{name}");
        let last = looks.last().map(String::as_str).unwrap_or_default();
        assert!(last.starts_with("rbd status"), "{name}: {looks:?}");
        assert_eq!(sorted(looks.to_vec()), look(&format!("berth-uid-{name}")), "{name}");
    }
}

#[tokio::test]
async fn what_is_kept_says_so() {
    let site = Site::new();
    let request = request("a", &[]);
    let volume = site.create(&request).await.unwrap();
    calls(&site.small);
    site.remove(&removal(&request, &volume, Disposal::Keep)).await.unwrap();
    let found = calls(&site.small);
    assert_eq!(found[0], "rbd image-meta list --format json rbd/berth-uid-a");
    assert!(found[1].starts_with("rbd image-meta set rbd/berth-uid-a berth.kept 20"), "{found:?}");
    site.remove(&removal(&request, &volume, Disposal::Keep)).await.unwrap();
    assert_eq!(calls(&site.small).len(), 1, "it was noted");
}

/// Proves: rbd 18
#[tokio::test]
async fn an_older_image_gets_a_name_of_ours_before_it_is_deleted() {
    let site = Site::new();
    site.small.plant("rbd", "kubernetes-dynamic-pvc-1", Image { size: 1 << 20, ..Image::default() });
    let removal = super::older::removal("kubernetes-dynamic-pvc-1", Disposal::Delete);
    site.remove(&removal).await.unwrap();
    let calls = calls(&site.small);
    assert_eq!(
        calls[calls.len() - 2..],
        [
            "rbd rename rbd/kubernetes-dynamic-pvc-1 rbd/berth.deleted-kubernetes-dynamic-pvc-1",
            "rbd trash mv --expires-at 15 seconds rbd/berth.deleted-kubernetes-dynamic-pvc-1"
        ]
    );
}

/// Proves: rbd 20
#[tokio::test]
async fn growing_looks_and_resizes() {
    let site = Site::new();
    let request = request("a", &[]);
    let volume = site.create(&request).await.unwrap();
    calls(&site.small);
    site.rbd.expand(&growth(&request, &volume, 2 << 30), &Permit::unlimited()).await.unwrap();
    let mut found = calls(&site.small);
    assert_eq!(found.pop().unwrap(), "rbd resize --no-progress --size 2147483648B rbd/berth-uid-a");
    assert_eq!(
        sorted(found),
        ["rbd image-meta list --format json rbd/berth-uid-a", "rbd info --format json rbd/berth-uid-a"]
    );
}

#[tokio::test]
async fn a_sweep_lists_and_reads_only_what_nobody_knows() {
    let site = Site::new();
    for name in ["a", "b"] {
        site.create(&request(name, &[])).await.unwrap();
    }
    calls(&site.small);
    let known = |name: &VolumeName| name.as_str() == "pvc-uid-a";
    let found = site.rbd.unfinished("main", &known).await.unwrap();
    assert_eq!(
        calls(&site.small),
        ["rbd ls --format json rbd", "rbd image-meta list --format json rbd/berth-uid-b"]
    );
    site.rbd.discard(&found[0], &Permit::unlimited()).await.unwrap();
    let mut calls = calls(&site.small);
    assert_eq!(calls.pop().unwrap(), "rbd trash mv --expires-at 15 seconds rbd/berth-uid-b");
    assert_eq!(calls.pop().unwrap(), "rbd diff --format json rbd/berth-uid-b");
}

#[tokio::test]
async fn tending_finds_every_trash_and_never_forces() {
    let site = Site::new();
    let request = request("a", &[]);
    let volume = site.create(&request).await.unwrap();
    site.small.state().spaces.insert("rbd/team".into(), small::Space::default());
    site.remove(&removal(&request, &volume, Disposal::Delete)).await.unwrap();
    calls(&site.small);
    let small = site.small.clone();
    let looked = move || small.state().calls.iter().any(|call| call.contains("-N team"));
    site.tend_until(|store| store.purged == 1 && looked()).await;
    let mut calls = sorted(calls(&site.small));
    calls.dedup();
    assert_eq!(calls.len(), 5, "{calls:?}");
    let id = calls[4].rsplit('/').next().unwrap().to_owned();
    assert_eq!(
        json!(calls),
        json!([
            "ceph osd pool ls detail",
            "rados -p rbd -N team listomapvals rbd_trash",
            "rados -p rbd listomapvals rbd_trash",
            "rbd namespace ls --format json rbd",
            format!("rbd trash rm --no-progress rbd/{id}"),
        ])
    );
}
