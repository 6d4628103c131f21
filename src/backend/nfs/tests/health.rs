//! Which roots are accepted, and what a server that does not answer holds up.

use super::*;
use crate::system::root::Errno;

fn past(identity: Option<&str>, places: &[&str]) -> StoreExpectation {
    let place = |path: &&str| Location::new("default", path).unwrap();
    StoreExpectation {
        store: "default".into(),
        identity: identity.map(String::from),
        places: places.iter().map(place).collect(),
    }
}

async fn readiness(nfs: &Nfs) -> Result<(), String> {
    let since = Instant::now();
    loop {
        let ready = nfs.stores().remove(0).ready;
        if !matches!(&ready, Err(why) if why.ends_with("is being opened")) {
            return ready;
        }
        assert!(since.elapsed() < Duration::from_mins(1));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn nothing_is_asked_of_a_store_before_it_was_told_what_exists() {
    let directory = temporary();
    let export = Export { root: directory.path().into(), ..export("default", "server", "/export") };
    let nfs = Nfs::new(vec![export], kube()).unwrap();
    let error = nfs.create(&request("x", &[]), &Permit::unlimited()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert_eq!(tree(directory.path()), [""; 0]);
    assert!(nfs.stores()[0].ready.is_err());
}

/// Proves: row 6.12
#[tokio::test]
async fn a_root_is_accepted_only_if_it_is_what_the_volumes_say() {
    const ID: &str = "{\"version\":1,\"id\":\"abc\"}";
    // The root's identity file, its directories, what is known, and whether that fits.
    type Row<'a> = (&'a str, Option<&'a str>, &'a [&'a str], StoreExpectation, Result<(), &'a str>);
    let rows: [Row; 12] = [
        ("new and nothing known", None, &[], past(None, &[]), Ok(())),
        ("known", Some(ID), &[], past(Some("abc"), &["gone"]), Ok(())),
        ("known, and nothing remembered", Some(ID), &[], past(None, &[]), Ok(())),
        ("made by us, the volumes older", Some(ID), &[], past(None, &["a"]), Ok(())),
        ("another export", Some(ID), &["a"], past(Some("xyz"), &["a"]), Err("identity is abc")),
        ("not mounted", None, &[], past(Some("abc"), &["a"]), Err("is missing")),
        ("restored without our records", None, &["a"], past(Some("abc"), &["a"]), Err("is missing")),
        ("old volumes that are there", None, &["a", "n/b"], past(None, &["a", "n/b"]), Ok(())),
        ("one of the old volumes is there", None, &["n/b"], past(None, &["a", "n/b"]), Ok(())),
        ("no old volume is there", None, &["c"], past(None, &["a", "n/b"]), Err("a and other")),
        ("a damaged identity", Some("{\"version\""), &["a"], past(None, &["a"]), Err("cannot be read")),
        (
            "an identity of the future",
            Some("{\"version\":2,\"id\":\"abc\"}"),
            &[],
            past(None, &[]),
            Err("version 2"),
        ),
    ];
    for (why, identity, directories, past, expected) in rows {
        let directory = temporary();
        for name in directories {
            fs::create_dir_all(directory.path().join(name)).unwrap();
        }
        if let Some(identity) = identity {
            fs::create_dir(directory.path().join(".berth")).unwrap();
            fs::write(directory.path().join(".berth/export.json"), identity).unwrap();
        }
        let before = tree(directory.path());
        let export = Export { root: directory.path().into(), ..export("default", "server", "/export") };
        let nfs = Nfs::new(vec![export], kube()).unwrap();
        nfs.expect_store(past);
        let ready = readiness(&nfs).await;
        let created = nfs.create(&request("x", &[]), &Permit::unlimited()).await;
        match expected {
            Ok(()) => {
                assert_eq!(ready, Ok(()), "{why}");
                let volume = created.unwrap();
                assert!(identity.is_none() || volume.store_identity == "abc", "{why}");
                assert!(!volume.store_identity.is_empty(), "{why}");
            }
            Err(message) => {
                assert!(ready.clone().unwrap_err().contains(message), "{why}: {ready:?}");
                let error = created.unwrap_err();
                assert_eq!(error.kind(), Kind::Unavailable, "{why}");
                assert!(error.chain().contains(message), "{why}: {}", error.chain());
                let removal = old_removal("x", "/export/a", Disposal::Delete);
                let error = nfs.remove(&removal, &Permit::unlimited()).await.unwrap_err();
                assert_eq!(error.kind(), Kind::Unavailable, "{why}");
                assert_eq!(tree(directory.path()), before, "{why}: nothing was touched");
            }
        }
    }
}

#[tokio::test]
async fn a_root_that_must_be_mounted_and_is_not_is_refused() {
    let directory = temporary();
    let root = directory.path().to_path_buf();
    let site = Export { root, require_mount: true, ..export("default", "server", "/export") };
    let nfs = Nfs::new(vec![site.clone()], kube()).unwrap();
    nfs.expect_store(nothing());
    assert!(readiness(&nfs).await.unwrap_err().contains("is not a mount point; mount server:/export there"));
    let nfs = Nfs::new(vec![Export { root: "/proc".into(), ..site.clone() }], kube()).unwrap();
    nfs.expect_store(nothing());
    assert_eq!(readiness(&nfs).await, Ok(()), "/proc is one");
    let nfs = Nfs::new(vec![Export { root: directory.path().join("none"), ..site }], kube()).unwrap();
    nfs.expect_store(nothing());
    assert!(readiness(&nfs).await.unwrap_err().contains("does not exist; mount server:/export there"));
}

#[tokio::test]
async fn a_refused_root_is_accepted_soon_after_it_is_right() {
    let parent = temporary();
    let root = parent.path().join("export");
    let export = Export { root: root.clone(), ..export("default", "server", "/export") };
    let nfs = Nfs::new(vec![export], kube()).unwrap();
    nfs.expect_store(nothing());
    readiness(&nfs).await.unwrap_err();
    fs::create_dir(&root).unwrap();
    let since = Instant::now();
    while nfs.stores()[0].ready.is_err() {
        assert!(since.elapsed() < Duration::from_mins(1));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    nfs.create(&request("x", &[]), &Permit::unlimited()).await.unwrap();
}

#[tokio::test]
async fn a_root_that_is_swapped_while_we_run_is_noticed_before_anything_is_written() {
    let parent = temporary();
    let root = parent.path().join("export");
    fs::create_dir(&root).unwrap();
    let export = Export { root: root.clone(), ..export("default", "server", "/export") };
    let nfs = Nfs::new(vec![export], kube()).unwrap();
    nfs.expect_store(nothing());
    let volume = nfs.create(&request("a", &[]), &Permit::unlimited()).await.unwrap();
    nfs.expect_store(past(Some(&volume.store_identity), &["team-a-pvc-uid-a"]));
    nfs.commit(&volume.id, &object_uid(volume.id.name()), &Permit::unlimited()).await.unwrap();
    fs::rename(&root, parent.path().join("mounted")).unwrap();
    fs::create_dir(&root).unwrap();
    let removal = conformance::removal(&request("a", &[]), &volume, Disposal::Delete);
    for _ in 0..3 {
        let error = nfs.create(&request("b", &[]), &Permit::unlimited()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        let error = nfs.remove(&removal, &Permit::unlimited()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "not: it is absent");
    }
    assert!(readiness(&nfs).await.unwrap_err().contains("is not what it was"));
    assert_eq!(tree(&root), [""; 0]);
    fs::remove_dir(&root).unwrap();
    fs::rename(parent.path().join("mounted"), &root).unwrap();
    let since = Instant::now();
    while nfs.stores()[0].ready.is_err() {
        assert!(since.elapsed() < Duration::from_mins(1));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(nfs.remove(&removal, &Permit::unlimited()).await.unwrap(), Removed::Trashed);
}

/// Two exports, of which the first one has a short deadline.
fn two_sites(deadline: Duration) -> (TempDir, TempDir, Nfs) {
    let (bad, good) = (temporary(), temporary());
    let exports = vec![
        Export { root: bad.path().into(), deadline, threads: 2, ..export("bad", "bad", "/export") },
        Export { root: good.path().into(), ..export("good", "good", "/export") },
    ];
    (bad, good, Nfs::new(exports, kube()).unwrap())
}

fn remember_both(nfs: &Nfs) {
    for store in ["bad", "good"] {
        nfs.expect_store(StoreExpectation { store: store.into(), ..nothing() });
    }
}

/// Holds the writing of the intent of a volume on the first export.
fn hold_intent(nfs: &Nfs, name: &str) -> interruption::Late {
    let file = format!("pvc-uid-{name}.json");
    nfs.stores[0].interruption.try_lock(move |step| step.what == "write" && step.path().ends_with(&file))
}

fn on(store: &str, name: &str) -> VolumeRequest {
    request(name, &[("export", store)])
}

/// Proves: statement 18, case 41
#[tokio::test]
async fn an_export_that_hangs_when_it_is_opened_holds_up_nobody_else_and_is_named() {
    let deadline = Duration::from_millis(100);
    let (_bad, _good, nfs) = two_sites(deadline);
    let late = nfs.stores[0].interruption.hold_opening();
    remember_both(&nfs);
    let error = nfs.create(&on("bad", "x"), &Permit::unlimited()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.chain().contains("export bad"), "{}", error.chain());
    assert!(error.chain().contains("does not answer"), "{}", error.chain());
    nfs.create(&on("good", "y"), &Permit::unlimited()).await.unwrap();
    // The opening may have begun later than its caller began to wait.
    let since = Instant::now();
    while !matches!(&nfs.stores()[0].ready, Err(why) if why.contains("the server does not answer")) {
        assert!(since.elapsed() < Duration::from_mins(1), "{:?}", nfs.stores());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(nfs.stores()[1].ready, Ok(()));
    late.release();
}

/// Proves: statement 18, case 41, case 42
#[tokio::test]
async fn a_hung_operation_locks_its_volume_and_delays_no_other() {
    let deadline = Duration::from_millis(100);
    let (_bad, _good, nfs) = two_sites(deadline);
    remember_both(&nfs);
    let first = hold_intent(&nfs, "x");
    let permit = Permit::unlimited();
    let error = nfs.create(&on("bad", "x"), &permit).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    let text = error.chain();
    for part in ["create volume pvc-uid-x", "export bad", "has not returned", "team-x-pvc-uid-x"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(nfs.create(&on("bad", "x"), &permit).await.unwrap_err().kind(), Kind::Busy);
    nfs.create(&on("bad", "y"), &permit).await.unwrap();
    nfs.create(&on("good", "x"), &permit).await.unwrap();
    let bad_status = nfs.stores().remove(0);
    assert_eq!(bad_status.running, 1);
    assert!(bad_status.oldest.unwrap().0.contains("pvc-uid-x"));
    // Its thread may have begun later than its caller began to wait.
    let since = Instant::now();
    while nfs.stores()[0].ready.is_ok() {
        assert!(since.elapsed() < Duration::from_mins(1), "an operation that hangs is not told");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(nfs.stores()[0].ready.clone().unwrap_err().contains("has not returned"));
    // Both threads hang now: what is new fails at once.
    let second = hold_intent(&nfs, "z");
    nfs.create(&on("bad", "z"), &permit).await.unwrap_err();
    let error = nfs.create(&on("bad", "w"), &permit).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.chain().contains("all 2 threads are taken"), "{}", error.chain());
    nfs.create(&on("good", "w"), &permit).await.unwrap();
    second.release();
    first.release();
    let since = Instant::now();
    while nfs.stores()[0].running > 0 {
        assert!(since.elapsed() < Duration::from_mins(1));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(nfs.stores()[0].ready, Ok(()));
}

/// Proves: statement 17
#[test]
fn an_operation_that_hangs_does_not_hold_up_the_end_of_the_runtime() {
    let since = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (_bad, _good, nfs) = two_sites(Duration::from_millis(50));
    let late = hold_intent(&nfs, "x");
    {
        let _inside = runtime.enter();
        remember_both(&nfs);
    }
    let error = runtime.block_on(nfs.create(&on("bad", "x"), &Permit::unlimited())).unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    drop(runtime);
    assert!(since.elapsed() < Duration::from_mins(1));
    assert_eq!(nfs.stores()[0].running, 1, "it hangs still");
    late.release();
}

/// Waits until the export is ready, or not ready any more.
async fn until_ready(site: &Site, ready: bool) -> Result<(), String> {
    let since = Instant::now();
    loop {
        let told = site.nfs.stores().remove(0).ready;
        if told.is_ok() == ready {
            return told;
        }
        assert!(since.elapsed() < Duration::from_mins(1), "{told:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_export_on_which_nothing_can_be_written_is_not_ready_until_it_can() {
    for (errno, words) in [
        (Errno::ENOSPC, "no space, no quota or no inodes are left"),
        (Errno::EDQUOT, "no space, no quota or no inodes are left"),
        (Errno::EROFS, "read-only"),
        (Errno::EACCES, "the server does not allow it"),
    ] {
        let site = Site::new();
        let store = &site.nfs.stores[0];
        store.usability.try_by_writing();
        until_ready(&site, true).await.unwrap();
        store.interruption.fail(errno, |step| step.what != "remove");
        site.create(&request("x", &[])).await.unwrap_err();
        let why = until_ready(&site, false).await.unwrap_err();
        assert!(why.contains(words) && why.contains("try to write on export default"), "{errno}: {why}");
        if errno != Errno::ENOSPC {
            continue;
        }
        store.interruption.never();
        until_ready(&site, true).await.unwrap();
        site.create(&request("x", &[])).await.unwrap();
        assert!(!site.tree().iter().any(|path| path.contains("trial")), "{errno}: {:?}", site.tree());
    }
}

#[tokio::test]
async fn one_directory_that_cannot_be_written_leaves_the_export_ready() {
    let site = Site::new();
    let store = &site.nfs.stores[0];
    store.usability.try_by_writing();
    until_ready(&site, true).await.unwrap();
    store.interruption.fail(Errno::EDQUOT, |step| step.path().ends_with("data"));
    site.create(&patterned("x", "data")).await.unwrap_err();
    let since = Instant::now();
    while store.usability.suspects() {
        assert_eq!(site.nfs.stores()[0].ready, Ok(()));
        assert!(since.elapsed() < Duration::from_mins(1), "the suspicion is never tried");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(site.nfs.stores()[0].ready, Ok(()));
}

#[tokio::test]
async fn nothing_is_tried_by_writing_without_a_permit() {
    let site = Site::new();
    let store = &site.nfs.stores[0];
    store.usability.try_by_writing();
    until_ready(&site, true).await.unwrap();
    let permit = Permit::unlimited();
    let ended = permit.clone();
    store.interruption.on_step(move |_| {
        ended.revoke();
        Err(Errno::ENOSPC.into())
    });
    site.nfs.create(&request("x", &[]), &permit).await.unwrap_err();
    let since = Instant::now();
    while store.usability.suspects() {
        assert!(since.elapsed() < Duration::from_mins(1), "the suspicion is never tried");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(site.nfs.stores()[0].ready, Ok(()));
    assert_eq!(site.tree(), [""; 0], "nothing was written");
}
