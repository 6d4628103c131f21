//! An export stays the one that it was: whatever was learned of it holds for the life of the process.

use std::os::unix::fs::symlink;

use nix::{sys::stat::Mode, unistd::mkfifo};

use super::*;
use crate::backend::nfs::work::Rule;

async fn readiness(nfs: &Nfs, store: usize) -> Result<(), String> {
    let since = Instant::now();
    loop {
        let ready = nfs.stores().remove(store).ready;
        if !matches!(&ready, Err(why) if why.ends_with("is being opened")) {
            return ready;
        }
        assert!(since.elapsed() < Duration::from_mins(1));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn until_ready(nfs: &Nfs) {
    let since = Instant::now();
    while nfs.stores().iter().any(|store| store.ready.is_err()) {
        assert!(since.elapsed() < Duration::from_mins(1), "{:?}", nfs.stores());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An export at `export` in a directory of its own, so that it can be replaced.
fn replaceable() -> (TempDir, PathBuf, impl Fn() -> Nfs) {
    let parent = temporary();
    let root = parent.path().join("export");
    fs::create_dir(&root).unwrap();
    let export = Export { root: root.clone(), ..export("default", "server", "/export") };
    let open = move || {
        let nfs = Nfs::new(vec![export.clone()], kube()).unwrap();
        nfs.expect_store(nothing());
        nfs
    };
    (parent, root, open)
}

fn replace(root: &Path) {
    fs::rename(root, root.with_extension("aside")).unwrap();
    fs::create_dir(root).unwrap();
}

/// Made claims on the wrong disk under a new identity, and after the next restart the right export was refused.
#[tokio::test]
async fn a_standby_that_started_before_the_first_volume_notices_that_the_root_was_replaced() {
    let (_parent, root, open) = replaceable();
    let (leader, standby) = (open(), open());
    assert_eq!(readiness(&standby, 0).await, Ok(()));
    let volume = leader.create(&request("a", &[]), &Permit::unlimited()).await.unwrap();
    replace(&root);
    // It begins to lead, and is told what the volumes say by then.
    standby.expect_store(StoreExpectation { identity: Some(volume.store_identity.clone()), ..nothing() });
    for _ in 0..3 {
        let error = standby.create(&request("b", &[]), &Permit::unlimited()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.chain().contains("is not what it was"), "{}", error.chain());
    }
    assert_eq!(tree(&root), [""; 0]);
    // What it learned once it does not forget, whatever it is told later.
    standby.expect_store(nothing());
    assert!(readiness(&standby, 0).await.is_err());
    let without = open();
    without.stores[0].rules.switch_off(Rule::Identity);
    without.expect_store(StoreExpectation { identity: Some(volume.store_identity.clone()), ..nothing() });
    without.expect_store(nothing());
    assert_eq!(readiness(&without, 0).await, Ok(()), "it is this rule");
    fs::remove_dir(&root).unwrap();
    fs::rename(root.with_extension("aside"), &root).unwrap();
    until_ready(&standby).await;
    standby.create(&request("b", &[]), &Permit::unlimited()).await.unwrap();
}

#[tokio::test]
async fn an_identity_that_was_read_from_the_disk_or_made_holds_for_the_life_of_the_process() {
    for made in [true, false] {
        let (_parent, root, open) = replaceable();
        let first = open();
        let volume = first.create(&request("a", &[]), &Permit::unlimited()).await.unwrap();
        let nfs = if made { first } else { open() };
        assert_eq!(readiness(&nfs, 0).await, Ok(()));
        replace(&root);
        let error = nfs.create(&request("b", &[]), &Permit::unlimited()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "made {made}: {}", error.chain());
        let why = readiness(&nfs, 0).await.unwrap_err();
        assert!(why.contains(&format!("with the identity {} is missing", volume.store_identity)), "{why}");
        assert_eq!(tree(&root), [""; 0]);
        // Another process, which knows of nothing, makes it an export of its own.
        open().create(&request("c", &[]), &Permit::unlimited()).await.unwrap();
        nfs.expect_store(nothing());
        let why = readiness(&nfs, 0).await.unwrap_err();
        assert!(why.contains(&format!("the volumes' is {}", volume.store_identity)), "{why}");
    }
}

/// Runs the command that a message ends with.
fn obey(message: &str, begins: &str) {
    let command = &message[message.find(begins).unwrap_or_else(|| panic!("{message}"))..];
    assert!(std::process::Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
}

#[tokio::test]
async fn an_export_that_was_moved_without_its_dot_files_goes_on_with_the_command_of_the_message() {
    let (_parent, root, open) = replaceable();
    let first = open();
    let volume = first.create(&request("a", &[]), &Permit::unlimited()).await.unwrap();
    first.commit(&volume.id, "object-a", &Permit::unlimited()).await.unwrap();
    drop(first);
    fs::remove_dir_all(root.join(".berth")).unwrap();
    let nfs = open();
    let past = StoreExpectation { identity: Some(volume.store_identity.clone()), ..nothing() };
    nfs.expect_store(past);
    let why = readiness(&nfs, 0).await.unwrap_err();
    obey(&why, "mkdir -m 700 -p ");
    until_ready(&nfs).await;
    // The volumes that are in use get their records again.
    let known = [KnownVolume { name: volume.id.name().clone(), legacy: false }];
    assert_eq!(nfs.unregistered("default", &known).await.unwrap(), [volume.id.name().clone()]);
    let bound = InUse {
        name: volume.id.name().clone(),
        id: Some(volume.id.clone()),
        source: volume.source.clone(),
        claim: conformance::key(&request("a", &[])),
        origin: Origin::Created,
        capacity: crate::volume::Capacity::from_bytes(1),
        pv_metadata: PvMetadata { uid: "object-a".into(), ..PvMetadata::default() },
    };
    nfs.register(&bound, &Permit::unlimited()).await.unwrap();
    assert_eq!(nfs.unregistered("default", &known).await.unwrap(), []);
    let again = nfs.create(&request("a", &[]), &Permit::unlimited()).await.unwrap();
    assert_eq!(again, volume);
}

#[tokio::test]
async fn an_export_that_was_copied_with_its_dot_files_is_the_same_and_its_inodes_do_not_count() {
    let (_parent, root, open) = replaceable();
    let nfs = open();
    let volume = nfs.create(&request("a", &[]), &Permit::unlimited()).await.unwrap();
    nfs.commit(&volume.id, "object-a", &Permit::unlimited()).await.unwrap();
    let inode = async || {
        let name = volume.id.name().clone();
        let permit = Permit::unlimited();
        let read =
            nfs.stores[0].run("test".into(), None, &permit, move |work| work.marker(record::VOLUMES, &name));
        read.await.unwrap().unwrap().inode
    };
    assert!(inode().await.is_some());
    replace(&root);
    let aside = root.with_extension("aside");
    let copy = format!("cp -a {}/. {}/", aside.display(), root.display());
    assert!(std::process::Command::new("sh").args(["-c", &copy]).status().unwrap().success());
    // The process has the old one open until it looks.
    let _ = nfs.create(&request("b", &[]), &Permit::unlimited()).await;
    until_ready(&nfs).await;
    assert_eq!(inode().await, None);
    assert_eq!(nfs.create(&request("a", &[]), &Permit::unlimited()).await.unwrap(), volume);
}

/// One directory under two server names: each would purge what the other made.
#[tokio::test]
async fn one_directory_as_two_exports_is_refused_and_both_are_named() {
    let parent = temporary();
    let (one, two) = (parent.path().join("one"), parent.path().join("two"));
    fs::create_dir(&one).unwrap();
    let exports = |second: &Path| {
        vec![
            Export { root: one.clone(), ..export("first", "nas", "/export") },
            Export { root: second.into(), ..export("second", "10.0.0.1", "/export") },
        ]
    };
    let open = |second: &Path| {
        let nfs = Nfs::new(exports(second), kube()).unwrap();
        for store in ["first", "second"] {
            nfs.expect_store(StoreExpectation { store: store.into(), ..nothing() });
        }
        nfs
    };
    let both_refused = async |nfs: &Nfs, why: &str| {
        let since = Instant::now();
        // Before both were looked at, one alone may be found to be right.
        let refused = |store: &StoreStatus| store.ready.as_ref().is_err_and(|told| told.contains(why));
        while !nfs.stores().iter().all(refused) {
            assert!(since.elapsed() < Duration::from_mins(1), "{why}: {:?}", nfs.stores());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for store in 0..2 {
            let ready = readiness(nfs, store).await.unwrap_err();
            for part in ["\"first\" (nas:/export at", "\"second\" (10.0.0.1:/export at", why, "alias"] {
                assert!(ready.contains(part), "{ready}");
            }
        }
        for export in ["first", "second"] {
            let request = request("x", &[("export", export)]);
            let error = nfs.create(&request, &Permit::unlimited()).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Unavailable);
        }
    };
    // The same directory, before anything was made on it and afterwards.
    symlink(&one, &two).unwrap();
    both_refused(&open(&two), "lead to the same directory").await;
    assert_eq!(tree(&one), [""; 0]);
    let alone = Nfs::new(vec![exports(&two).remove(0)], kube()).unwrap();
    alone.expect_store(StoreExpectation { store: "first".into(), ..nothing() });
    alone.create(&request("x", &[]), &Permit::unlimited()).await.unwrap();
    both_refused(&open(&two), "lead to the same directory").await;
    // A copy of it, or the same directory on another mount.
    fs::remove_file(&two).unwrap();
    let copy = format!("cp -a {} {}", one.display(), two.display());
    assert!(std::process::Command::new("sh").args(["-c", &copy]).status().unwrap().success());
    let nfs = open(&two);
    both_refused(&nfs, "have the same identity").await;
    // Both are used when they are two, by a process that did not know the second one as the first.
    fs::remove_dir_all(two.join(".berth")).unwrap();
    until_ready(&open(&two)).await;
}

/// A pipe in place of a record held a thread of the export for ever.
#[tokio::test]
async fn a_pipe_a_link_or_a_huge_file_in_place_of_a_record_is_refused_at_once_and_harms_nothing_else() {
    let plant = |site: &Site, file: &str, kind: &str| {
        let path = site.path(".berth").join(file);
        let _ = fs::remove_file(&path);
        match kind {
            "pipe" => mkfifo(&path, Mode::from_bits_truncate(0o600)).unwrap(),
            "link" => symlink("/dev/zero", &path).unwrap(),
            _ => fs::File::create(&path).unwrap().set_len(1 << 40).unwrap(),
        }
    };
    for kind in ["pipe", "link", "huge"] {
        let mut site = Site::new();
        let volume = site.make(&request("x", &[])).await;
        plant(&site, "volumes/pvc-uid-x.json", kind);
        plant(&site, "intents/pvc-uid-y.json", kind);
        for name in ["x", "y"] {
            let error = site.create(&request(name, &[])).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Refused, "{kind} {name}: {}", error.chain());
            assert!(error.chain().contains(&format!("pvc-uid-{name}.json")), "{}", error.chain());
        }
        let removal = conformance::removal(&request("x", &[]), &volume, Disposal::Delete);
        assert_eq!(site.remove(&removal).await.unwrap_err().kind(), Kind::Refused, "{kind}");
        assert_eq!(
            site.nfs.list_uncommitted("default", &|_: &VolumeName| false).await.unwrap(),
            [],
            "{kind}"
        );
        site.create(&request("z", &[])).await.unwrap();
        plant(&site, "export.json", kind);
        site.restart();
        let why = readiness(&site.nfs, 0).await.unwrap_err();
        assert!(why.contains("export.json"), "{kind}: {why}");
    }
}

#[tokio::test]
async fn a_directory_in_another_file_system_below_the_export_is_refused_with_what_to_do() {
    let site = Site::new();
    fs::create_dir_all(site.path("dataset")).unwrap();
    let mounted = nix::mount::mount(
        Some("berth-test"),
        &site.path("dataset"),
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    );
    if mounted.is_err() {
        println!(
            "skipped: a_directory_in_another_file_system_below_the_export_is_refused_with_what_to_do: mounting is not allowed"
        );
        return;
    }
    let mut outcomes = Vec::new();
    for (pattern, policy) in
        [("dataset", "adopt"), ("dataset/${.PVC.name}", "refuse"), ("dataset/a/b/c", "share")]
    {
        let request = request("x", &[("pathPattern", pattern), ("existingDirectory", policy)]);
        outcomes.push((pattern, site.create(&request).await));
    }
    let inside = tree(&site.path("dataset"));
    nix::mount::umount2(&site.path("dataset"), nix::mount::MntFlags::MNT_DETACH).unwrap();
    for (pattern, outcome) in outcomes {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), Kind::Refused, "{pattern}");
        let text = error.chain();
        let place =
            format!("{} is a mount, a ZFS dataset or a btrfs subvolume", site.path("dataset").display());
        assert!(text.contains(&place) && text.contains("export of its own"), "{pattern}: {text}");
    }
    assert_eq!(inside, [""; 0]);
    assert_eq!(site.records("intents").len(), 0);
}

/// An identity comes from a PV, or from the export itself.
#[tokio::test]
async fn an_identity_or_a_path_with_signs_of_a_shell_cannot_leave_its_argument_in_the_command_of_the_message()
{
    for odd in ["it's", "$(touch x)", "`touch x`", "a;touch x", "100%d \\n", "a\"b", "a b"] {
        let parent = temporary();
        let root = parent.path().join(odd);
        fs::create_dir(&root).unwrap();
        let export = Export { root: root.clone(), ..export("default", "server", "/export") };
        let nfs = Nfs::new(vec![export], kube()).unwrap();
        nfs.expect_store(StoreExpectation { identity: Some(odd.into()), ..nothing() });
        let why = readiness(&nfs, 0).await.unwrap_err();
        obey(&why, "mkdir -m 700 -p ");
        until_ready(&nfs).await;
        assert_eq!(tree(parent.path()).len(), 3, "{:?}", tree(parent.path()));
    }
}
