//! Which clusters there are, and whether they can be used, follows from classes and volumes.

use super::*;
use crate::backend::conformance::removal;

/// A class of a cluster that only it describes.
fn described(name: &str, more: &[(&str, &str)]) -> VolumeRequest {
    let least =
        [("monitors", "10.0.9.1:6789"), ("adminSecretName", "ceph-admin"), ("userSecretName", "ceph-user")];
    let all = least.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    VolumeRequest { parameters: all.collect(), ..conformance::request(name) }
}

fn names(site: &Site) -> Vec<String> {
    site.rbd.stores().into_iter().map(|store| store.name).collect()
}

async fn until(what: &str, site: &Site, mut done: impl FnMut(&Site) -> bool) {
    let since = Instant::now();
    while !done(site) {
        assert!(since.elapsed() < Duration::from_mins(1), "{what}: {:?}", site.rbd.stores());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_cluster_that_no_class_and_no_volume_names_any_more_is_forgotten_and_costs_nothing() {
    let site = Site::new();
    site.fake_cluster.state().unreachable = true;
    let class = described("a", &[]).parameters;
    let store = site.rbd.place(&described("a", &[])).unwrap().location.store;
    site.rbd.register_class(&class);
    assert_eq!(names(&site), ["main", store.as_str()]);
    let used = BTreeSet::from([store.clone()]);
    for (classes, used) in
        [(vec![class.clone()], BTreeSet::new()), (Vec::new(), used.clone()), (vec![class.clone()], used)]
    {
        site.rbd.retain_stores(&classes, &used);
        assert_eq!(names(&site), ["main", store.as_str()], "somebody names it");
    }
    until("it is asked", &site, |site| !site.fake_cluster.calls().is_empty()).await;
    site.rbd.retain_stores(&[], &BTreeSet::new());
    assert_eq!(names(&site), ["main"], "the configured one stays");
    // What was on its way when it was forgotten may end.
    tokio::time::sleep(QUICK.soon * 2).await;
    site.fake_cluster.calls();
    tokio::time::sleep(QUICK.soon * 8).await;
    assert_eq!(site.fake_cluster.calls(), [""; 0], "nobody asks it any more");
    site.rbd.register_class(&class);
    assert_eq!(names(&site), ["main", store.as_str()]);
}

#[tokio::test]
async fn a_cluster_is_not_forgotten_before_what_was_deleted_there_is_purged() {
    let site = Site::new();
    let request = described("a", &[]);
    let volume = site.create(&request).await.unwrap();
    site.remove(&removal(&request, &volume, Disposal::Delete)).await.unwrap();
    site.rbd.retain_stores(&[], &BTreeSet::new());
    assert_eq!(names(&site).len(), 2);
    let permit = Permit::unlimited();
    tokio::select! {
        () = site.rbd.collect_garbage(&permit) => unreachable!("the permit has not ended"),
        () = async {
            // Both stores see the same pools here, so that either may purge it.
            until("it is purged", &site, |site| site.rbd.stores().iter().any(|store| store.purged == 1)).await;
            until("it is forgotten", &site, |site| {
                site.rbd.retain_stores(&[], &BTreeSet::new());
                names(site) == ["main"]
            })
            .await;
        } => {}
    }
}

/// What another cluster deleted there was counted until it was due: a month, perhaps.
#[tokio::test]
async fn a_cluster_is_forgotten_although_another_one_has_deleted_something_in_it_that_is_not_due() {
    let mut site = Site::new();
    *site.vault.retention.lock().unwrap() = Duration::from_hours(24 * 30);
    let request = described("a", &[]);
    let volume = site.create(&request).await.unwrap();
    site.remove(&removal(&request, &volume, Disposal::Delete)).await.unwrap();
    super::ownership::become_(&site, Some("there"));
    site.restart();
    site.rbd.register_class(&request.parameters);
    assert_eq!(names(&site).len(), 2);
    let permit = Permit::unlimited();
    site.fake_cluster.calls();
    tokio::select! {
        () = site.rbd.collect_garbage(&permit) => unreachable!("the permit has not ended"),
        () = async {
            until("both look whose it is", &site, |site| {
                let state = site.fake_cluster.state();
                state.calls.iter().filter(|call| call.contains("listomapvals rbd_header.")).count() >= 2
            })
            .await;
            until("it is forgotten", &site, |site| {
                site.rbd.retain_stores(&[], &BTreeSet::new());
                names(site) == ["main"]
            })
            .await;
        } => {}
    }
}

#[tokio::test]
async fn a_secret_that_does_not_exist_shows_before_any_claim_asks_for_a_volume() {
    let site = Site::new();
    site.rbd.register_class(&described("a", &[("adminSecretName", "gone")]).parameters);
    until("it is told", &site, |site| site.rbd.stores()[1].ready.is_err()).await;
    until("the Secret is named", &site, |site| {
        site.rbd.stores()[1].ready.as_ref().is_err_and(|why| why.contains("default/gone does not exist"))
    })
    .await;
    assert_eq!(site.rbd.stores()[0].ready, Ok(()), "another cluster is another matter");
}

#[tokio::test]
async fn one_class_with_a_wrong_key_or_without_a_secret_does_not_make_a_cluster_unready() {
    let site = Site::new();
    let broken = described("broken", &[("adminSecretName", "gone")]).parameters;
    site.rbd.register_class(&broken);
    until("it is told", &site, |site| site.rbd.stores()[1].ready.is_err()).await;
    let good = described("good", &[]).parameters;
    site.rbd.register_class(&good);
    until("it serves", &site, |site| site.rbd.stores()[1].ready.is_ok()).await;
    let status = site.rbd.stores().remove(1);
    assert!(status.problems.len() == 1 && status.problems[0].contains("default/gone"), "{status:?}");
    // A key that is refused is no more than that either, as long as there is another user.
    site.vault.keys.lock().unwrap()[0] = "AQBkzUZpAAAAABAAHhTQzUYbXB8rhRXLXSpMEQ==".into();
    let other = described("other", &[("adminId", "other")]).parameters;
    site.rbd.register_class(&other);
    until("it is told", &site, |site| site.rbd.stores()[1].problems.len() == 2).await;
    assert_eq!(site.rbd.stores()[1].ready, Ok(()));
    // Once no class names them, nothing is wrong any more.
    site.rbd.retain_stores(&[good], &BTreeSet::new());
    assert_eq!(site.rbd.stores()[1].problems, [""; 0]);
}
