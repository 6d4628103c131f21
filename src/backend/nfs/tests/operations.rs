//! How much is asked of an export for one volume: as much among many others as among few.

use std::{future::Future, sync::atomic::Ordering};

use super::*;
use crate::system::root::trace::Operation;

/// What the name of every other volume has in it.
const OTHER: &str = "other-";

/// What the name of every other volume has in it that was removed.
const GONE: &str = "-gone";

/// An export with so many other volumes: half of them another cluster's, half of them in the directory `parent`. There were more,
/// which lie in the trash and in the archive.
async fn among(others: usize) -> Site {
    let site = Site::new();
    site.make(&patterned("first", "first")).await;
    let neighbour = site.of_cluster("cluster-2");
    for number in 0..others {
        let name = format!("{OTHER}{number}");
        let nfs = if number % 2 == 0 { &site.nfs } else { &neighbour };
        let request = match number / 2 % 2 {
            0 => patterned(&name, &format!("parent/{name}")),
            _ => request(&name, &[]),
        };
        make(nfs, &request).await;
        if number % 5 == 0 {
            let disposal = if number % 2 == 0 { Disposal::Delete } else { Disposal::Archive };
            let request = patterned(&format!("{name}{GONE}"), &format!("parent/{name}{GONE}"));
            let volume = make(nfs, &request).await;
            let removal = conformance::removal(&request, &volume, disposal);
            nfs.remove(&removal, &Permit::unlimited()).await.unwrap();
        }
    }
    site
}

async fn make(nfs: &Nfs, request: &VolumeRequest) -> Volume {
    let permit = Permit::unlimited();
    let volume = nfs.create(request, &permit).await.unwrap();
    nfs.commit(&volume.id, &object_uid(volume.id.name()), &permit).await.unwrap();
    volume
}

/// What is asked of the export while that is done.
async fn asked<T>(nfs: &Nfs, work: impl Future<Output = T>) -> (T, Vec<Operation>) {
    let opened = nfs.stores[0].opened("count operations").await.unwrap();
    opened.root.trace.begin();
    let done = work.await;
    (done, opened.root.trace.end())
}

/// Those of the operations that have to do with other volumes.
fn of_others(operations: &[Operation]) -> Vec<&Operation> {
    operations.iter().filter(|(_, path)| path.contains(OTHER)).collect()
}

/// What is asked for volumes that are made and removed: what it is for, and the operations.
async fn life(nfs: &Nfs, process: &str) -> Vec<(String, Vec<Operation>)> {
    let mut all = Vec::new();
    let volumes = [
        ("at the top, deleted", request("x", &[]), Disposal::Delete),
        ("beside others, deleted", patterned("y", "parent/y"), Disposal::Delete),
        ("beside others, archived", patterned("z", "parent/z"), Disposal::Archive),
        (
            "alone in a shared directory",
            request("s", &[("pathPattern", "parent/s"), ("existingDirectory", "share")]),
            Disposal::Delete,
        ),
    ];
    for (what, request, disposal) in volumes {
        let (volume, creation) = asked(nfs, make(nfs, &request)).await;
        let removal = conformance::removal(&request, &volume, disposal);
        let permit = Permit::unlimited();
        let (removed, operations) = asked(nfs, nfs.remove(&removal, &permit)).await;
        removed.unwrap();
        all.push((format!("{process}: creation, {what}"), creation));
        all.push((format!("{process}: removal, {what}"), operations));
    }
    all
}

async fn lives_among(others: usize) -> Vec<(String, Vec<Operation>)> {
    let site = among(others).await;
    let mut all = life(&site.nfs, "the process that made the others").await;
    all.extend(life(&site.next_leader(), "the next leader").await);
    all
}

#[tokio::test]
async fn a_creation_and_a_removal_do_as_many_file_operations_among_many_volumes_as_among_few() {
    let (few, many) = (lives_among(10).await, lives_among(500).await);
    assert_eq!(few.len(), many.len());
    let steps = |operations: &[Operation]| -> Vec<&'static str> {
        operations.iter().map(|(step, _)| *step).collect()
    };
    for ((what, few), (_, many)) in few.iter().zip(&many) {
        println!("{what}: {} among 10 others, {} among 500", few.len(), many.len());
        assert!(few.len() > 10, "{what}: not everything was counted: {few:?}");
        assert_eq!(of_others(many), [] as [&Operation; 0], "{what}");
        assert_eq!(steps(few), steps(many), "{what}\n{few:?}\n{many:?}");
    }
}

/// What is counted above would show a scan: there is one where an earlier version has not noted the places.
#[tokio::test]
async fn an_export_whose_places_are_not_noted_yet_has_all_its_records_read_once() {
    let site = among(10).await;
    site.nfs.stores[0].opened("look").await.unwrap().mirrored.store(false, Ordering::SeqCst);
    let (_, first) = asked(&site.nfs, make(&site.nfs, &patterned("x", "x"))).await;
    // Each is an entry of the records, and is read.
    assert_eq!(of_others(&first).len(), 2 * 10, "{first:?}");
    let (_, second) = asked(&site.nfs, make(&site.nfs, &patterned("y", "y"))).await;
    assert_eq!(of_others(&second), [] as [&Operation; 0]);
}

#[tokio::test]
async fn a_round_of_the_trash_looks_at_no_volume_that_was_not_removed() {
    let site = among(10).await;
    let permit = Permit::unlimited();
    let removed = async |name: &str| {
        let request = request(name, &[]);
        let volume = make(&site.nfs, &request).await;
        site.remove(&conformance::removal(&request, &volume, Disposal::Delete)).await.unwrap();
        let since = Instant::now();
        // At the beginning of a term all records are read once.
        while !site.trash().is_empty() || !site.nfs.stores[0].read_through.load(Ordering::SeqCst) {
            assert!(since.elapsed() < Duration::from_mins(1), "{:?}", site.nfs.stores());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let two = async {
        removed("x").await;
        asked(&site.nfs, removed("y")).await.1
    };
    let operations = tokio::select! {
        () = site.nfs.collect_garbage(&permit) => unreachable!("the permit has not ended"),
        operations = two => operations,
    };
    assert!(operations.contains(&("read directory", ".berth/trash".to_owned())), "{operations:?}");
    // The purge of what was removed before may have come to its end only now.
    let mut others = of_others(&operations);
    others.retain(|(_, path)| !path.contains(GONE));
    assert_eq!(others, [] as [&Operation; 0]);
}
