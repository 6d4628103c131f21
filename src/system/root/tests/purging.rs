//! Tests of the removal of whole trees.

use super::*;

pub(super) fn purge(root: &Root, names: &[&str], threads: usize) -> (Vec<Stuck>, u64) {
    let purged = AtomicU64::new(0);
    let names: Vec<Tree> = names.iter().map(|name| tree(name)).collect();
    let left = Purge { threads, slice: SLICE, purged: &purged }.run(root, &["trash"], &names, OPEN).unwrap();
    assert_eq!(left.unfinished, []);
    (left.stuck, purged.load(Ordering::SeqCst))
}

/// Whatever has this name.
pub(super) fn tree(name: &str) -> Tree {
    Tree { name: name.into(), inode: None }
}

#[test]
fn a_purge_removes_wide_and_deep_trees_and_leaves_what_was_not_named() {
    let (directory, root) = root();
    let trash = directory.path().join("trash");
    for threads in [1, 8] {
        for name in ["wide", "kept"] {
            fs::create_dir_all(trash.join(name)).unwrap();
            for i in 0..1500 {
                fs::write(trash.join(name).join(format!("file-{i}")), "").unwrap();
            }
        }
        for i in 0..300 {
            fs::create_dir_all(trash.join(format!("many/{i}/{i}"))).unwrap();
            fs::write(trash.join(format!("many/{i}/file")), "").unwrap();
        }
        fs::write(trash.join("plain"), "").unwrap();
        symlink("kept", trash.join("link")).unwrap();
        let (stuck, purged) = purge(&root, &["wide", "many", "plain", "link", "never"], threads);
        assert_eq!(stuck, []);
        assert_eq!(purged, 1501 + 901 + 2);
        assert_eq!(root.names(&["trash"]).unwrap(), ["kept"]);
        assert_eq!(root.names(&["trash", "kept"]).unwrap().len(), 1500);
    }
}

#[test]
fn a_purge_removes_a_tree_that_is_deeper_than_any_path_is_long() {
    use nix::{
        fcntl::{OFlag, open, openat},
        sys::stat::{Mode, mkdirat},
    };
    let (directory, root) = root();
    fs::create_dir_all(directory.path().join("trash/entry")).unwrap();
    let how = OFlag::O_DIRECTORY | OFlag::O_PATH;
    let mut at = open(&directory.path().join("trash/entry"), how, Mode::empty()).unwrap();
    let levels = 3000;
    for _ in 0..levels {
        mkdirat(&at, "deeper", Mode::from_bits_truncate(0o755)).unwrap();
        at = openat(&at, "deeper", how, Mode::empty()).unwrap();
    }
    drop(at);
    let (stuck, purged) = purge(&root, &["entry"], 4);
    assert_eq!((stuck, purged), (vec![], levels + 1));
    assert_eq!(root.names(&["trash"]).unwrap(), [""; 0]);
}

#[test]
fn a_tree_that_is_filled_again_and_again_is_left_and_holds_up_no_other_one() {
    for threads in [1, 4] {
        let (directory, root) = root();
        let trash = directory.path().join("trash");
        for name in ["busy", "a", "b", "c"] {
            fs::create_dir_all(trash.join(name).join("dir")).unwrap();
            fs::write(trash.join(name).join("dir/file"), "").unwrap();
        }
        // As a pod that is always just ahead of the purge.
        let writer = |step: &Step<'_>| {
            if step.what == "remove directory" && step.path().ends_with("busy/dir") {
                fs::write(trash.join("busy/dir/again"), "").unwrap();
            }
            Ok(())
        };
        let purged = AtomicU64::new(0);
        let purge = Purge { threads, slice: SLICE, purged: &purged };
        let left = purge.run(&root, &["trash"], &["busy", "a", "b", "c"].map(tree), &writer).unwrap();
        assert_eq!(root.names(&["trash"]).unwrap(), ["busy"]);
        let unfinished = vec![Unfinished { entry: "busy".into(), refilled: true }];
        assert_eq!(left, Left { stuck: vec![], unfinished });
    }
}

#[test]
fn a_tree_whose_time_is_over_is_left_for_the_next_run() {
    let (directory, root) = root();
    for name in ["large", "small"] {
        fs::create_dir_all(directory.path().join("trash").join(name)).unwrap();
        fs::write(directory.path().join("trash").join(name).join("file"), "").unwrap();
    }
    let purged = AtomicU64::new(0);
    let trees = ["large", "small"].map(tree);
    let none = Purge { threads: 2, slice: Duration::ZERO, purged: &purged };
    let left = none.run(&root, &["trash"], &trees, OPEN).unwrap();
    let unfinished = ["large", "small"].map(|name| Unfinished { entry: name.into(), refilled: false });
    assert_eq!(left, Left { stuck: vec![], unfinished: unfinished.into() });
    assert_eq!(purged.load(Ordering::SeqCst), 0);
    let whole = Purge { slice: SLICE, ..none };
    assert_eq!(whole.run(&root, &["trash"], &trees, OPEN).unwrap(), Left::default());
    assert_eq!(root.names(&["trash"]).unwrap(), [""; 0]);
}

#[test]
fn a_purge_removes_the_directory_with_the_named_inode_and_no_other_one() {
    use std::os::unix::fs::MetadataExt;
    let (directory, root) = root();
    let trash = directory.path().join("trash");
    for name in ["right", "wrong"] {
        fs::create_dir_all(trash.join(name)).unwrap();
        fs::write(trash.join(name).join("file"), "").unwrap();
    }
    fs::write(trash.join("plain"), "").unwrap();
    symlink("right", trash.join("link")).unwrap();
    let inode = fs::metadata(trash.join("right")).unwrap().ino();
    let purged = AtomicU64::new(0);
    let trees = ["right", "wrong", "plain", "link"].map(|name| Tree { inode: Some(inode), ..tree(name) });
    let purge = Purge { threads: 2, slice: SLICE, purged: &purged };
    let left = purge.run(&root, &["trash"], &trees, OPEN).unwrap();
    let mut stuck: Vec<_> = left.stuck.iter().map(|stuck| stuck.entry.as_str()).collect();
    stuck.sort_unstable();
    assert_eq!(stuck, ["link", "plain", "wrong"]);
    assert!(
        trash.join("wrong/file").exists() && trash.join("plain").exists() && !trash.join("right").exists()
    );
}

#[test]
fn a_purge_that_was_stopped_goes_on_where_it_was() {
    let (directory, root) = root();
    for i in 0..50 {
        fs::create_dir_all(directory.path().join(format!("trash/entry/{i}"))).unwrap();
        fs::write(directory.path().join(format!("trash/entry/{i}/file")), "").unwrap();
    }
    let purged = AtomicU64::new(0);
    let mut rounds = 0;
    loop {
        let left = AtomicI64::new(17);
        let gate = |_: &Step<'_>| match left.fetch_sub(1, Ordering::SeqCst) {
            1.. => Ok(()),
            _ => Err(io::Error::other("enough")),
        };
        let result = Purge { threads: 4, slice: SLICE, purged: &purged }.run(
            &root,
            &["trash"],
            &[tree("entry")],
            &gate,
        );
        rounds += 1;
        if result.is_ok() {
            break;
        }
        assert!(rounds < 100);
    }
    assert!(rounds > 3);
    assert_eq!(purged.load(Ordering::SeqCst), 101);
}

#[test]
fn several_threads_purge_one_directory_faster_where_every_step_takes_time() {
    let (directory, root) = root();
    let time = |threads: usize| {
        fs::create_dir_all(directory.path().join("trash/entry")).unwrap();
        for i in 0..2000 {
            fs::write(directory.path().join(format!("trash/entry/{i}")), "").unwrap();
        }
        let most = AtomicU64::new(0);
        let now = AtomicU64::new(0);
        let gate = |_: &Step<'_>| {
            let running = now.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(running, Ordering::SeqCst);
            thread::sleep(std::time::Duration::from_micros(500));
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        };
        let purged = AtomicU64::new(0);
        let left = Purge { threads, slice: SLICE, purged: &purged }
            .run(&root, &["trash"], &[tree("entry")], &gate)
            .unwrap();
        assert_eq!((left, purged.load(Ordering::SeqCst)), (Left::default(), 2001));
        most.load(Ordering::SeqCst)
    };
    assert_eq!(time(1), 1);
    assert!(time(8) >= 4, "several of them worked at the same time in the one directory");
}

#[test]
fn a_purge_opens_directories_that_are_closed_to_their_owner() {
    if nix::unistd::geteuid().is_root() {
        println!(
            "skipped: a_purge_opens_directories_that_are_closed_to_their_owner: no directory is closed to root"
        );
        return;
    }
    let (directory, root) = root();
    let trash = directory.path().join("trash");
    let deep = trash.join("entry/a/b/c");
    fs::create_dir_all(&deep).unwrap();
    for path in ["entry/a/b/c", "entry/a/b", "entry/a", "entry"] {
        fs::write(trash.join(path).join("file"), "").unwrap();
        fs::set_permissions(trash.join(path), fs::Permissions::from_mode(0o0)).unwrap();
    }
    let (stuck, purged) = purge(&root, &["entry"], 2);
    assert_eq!((stuck, purged), (vec![], 8));
}
