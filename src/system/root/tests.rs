//! Tests of what is done beneath a held directory, also against somebody who swaps directories for links in between.

mod atomic;
mod purging;

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use purging::tree;
use tempfile::TempDir;

use super::*;

const OPEN: Gate<'static> = &|_| Ok(());

/// Longer than any purge of these tests takes.
const SLICE: Duration = Duration::from_hours(1);

fn root() -> (TempDir, Root) {
    let directory = TempDir::new().unwrap();
    let root = Root::open(directory.path()).unwrap();
    (directory, root)
}

fn errno<T: std::fmt::Debug>(result: Result<T, Failure>) -> Errno {
    result.unwrap_err().errno().unwrap()
}

/// Something outside that must never change, and a way to tell whether it did.
struct Precious(TempDir);

impl Precious {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        fs::create_dir_all(directory.path().join("inner/dir")).unwrap();
        fs::write(directory.path().join("inner/file"), "precious").unwrap();
        fs::write(directory.path().join("file"), "precious").unwrap();
        for path in [directory.path().to_path_buf(), directory.path().join("inner")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o750)).unwrap();
        }
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn assert_untouched(&self) {
        let mut found = Vec::new();
        let mut open = vec![self.path().to_path_buf()];
        while let Some(next) = open.pop() {
            let mode = fs::metadata(&next).unwrap().permissions().mode() & 0o7777;
            for entry in fs::read_dir(&next).unwrap() {
                let path = entry.unwrap().path();
                found.push(path.strip_prefix(self.path()).unwrap().to_str().unwrap().to_string());
                if path.is_dir() {
                    open.push(path);
                } else {
                    assert_eq!(fs::read(&path).unwrap(), b"precious");
                }
            }
            assert!(next.ends_with("dir") || mode == 0o750, "{}: {mode:o}", next.display());
        }
        found.sort();
        assert_eq!(found, ["file", "inner", "inner/dir", "inner/file"]);
    }
}

#[test]
fn segments_that_could_lead_elsewhere_are_refused_by_every_operation() {
    let (directory, root) = root();
    fs::create_dir(directory.path().join("a")).unwrap();
    let changes = root.changing(OPEN);
    for bad in ["", ".", "..", "a/b", "/", "a\0b", "../a", "/etc"] {
        for path in [vec![bad], vec!["a", bad], vec![bad, "a"]] {
            let what = format!("{path:?}");
            assert_eq!(errno(root.entry(&path)), Errno::EINVAL, "{what}");
            assert_eq!(errno(root.is_empty(&path)), Errno::EINVAL, "{what}");
            assert_eq!(errno(root.names(&path)), Errno::EINVAL, "{what}");
            assert_eq!(errno(root.read(&path)), Errno::EINVAL, "{what}");
            assert_eq!(errno(changes.make_directory(&path, 0o777)), Errno::EINVAL, "{what}");
            assert_eq!(errno(changes.set_rights(&path, 0o777, None, None)), Errno::EINVAL, "{what}");
            assert_eq!(errno(changes.write(&path, b"")), Errno::EINVAL, "{what}");
            assert_eq!(errno(changes.create(&path, b"")), Errno::EINVAL, "{what}");
            assert_eq!(errno(changes.link(&path, &["b"])), Errno::EINVAL, "{what}");
            assert_eq!(errno(changes.link(&["a"], &path)), Errno::EINVAL, "{what}");
            assert_eq!(errno(changes.place_directory(&path, &["b"])), Errno::EINVAL, "{what}");
            assert_eq!(errno(changes.place_directory(&["a"], &path)), Errno::EINVAL, "{what}");
            assert_eq!(errno(root.see_fresh(&path)), Errno::EINVAL, "{what}");
            assert_eq!(errno(root.read_fresh(&path)), Errno::EINVAL, "{what}");
            assert_eq!(errno(changes.rename(&path, &["b"])), Errno::EINVAL, "{what}");
            assert_eq!(errno(changes.rename(&["a"], &path)), Errno::EINVAL, "{what}");
            assert_eq!(errno(changes.remove_directory(&path)), Errno::EINVAL, "{what}");
            assert_eq!(errno(changes.remove_file(&path)), Errno::EINVAL, "{what}");
        }
    }
    let nothing: [&str; 0] = [];
    assert_eq!(errno(changes.remove_directory(&nothing)), Errno::EINVAL, "the root itself");
    assert_eq!(errno(changes.rename(&nothing, &["b"])), Errno::EINVAL, "the root itself");
}

#[test]
fn links_are_seen_and_removed_but_never_followed() {
    let (directory, root) = root();
    let precious = Precious::new();
    symlink(precious.path(), directory.path().join("link")).unwrap();
    symlink("..", directory.path().join("up")).unwrap();
    symlink("file", directory.path().join("within")).unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    let changes = root.changing(OPEN);
    for link in ["link", "up", "within"] {
        assert_eq!(root.entry(&[link]).unwrap(), Entry::Other);
        let inner = [link, "inner"];
        if link != "within" {
            assert_eq!(errno(root.entry(&inner)), Errno::ELOOP);
            assert_eq!(errno(root.names(&inner)), Errno::ELOOP);
            assert_eq!(errno(changes.make_directory(&inner, 0o777)), Errno::ELOOP);
            assert_eq!(errno(changes.set_rights(&inner, 0o777, None, None)), Errno::ELOOP);
            assert_eq!(errno(changes.write(&inner, b"")), Errno::ELOOP);
            assert_eq!(errno(changes.create(&inner, b"")), Errno::ELOOP);
            assert_eq!(errno(changes.link(&["file"], &inner)), Errno::ELOOP);
            assert_eq!(errno(changes.place_directory(&["file"], &inner)), Errno::ELOOP);
            assert_eq!(errno(changes.rename(&inner, &["b"])), Errno::ELOOP);
            assert_eq!(errno(changes.rename(&["file"], &inner)), Errno::ELOOP);
            assert_eq!(errno(changes.remove_directory(&inner)), Errno::ELOOP);
            assert_eq!(errno(changes.remove_file(&inner)), Errno::ELOOP);
        }
        // The kernel may see first that a link is no directory.
        let refused = [Errno::ELOOP, Errno::ENOTDIR];
        assert!(refused.contains(&errno(root.is_empty(&[link]))));
        assert!(refused.contains(&errno(changes.set_rights(&[link], 0o777, None, None))));
        assert_eq!(errno(root.read(&[link])), Errno::ELOOP);
        assert_eq!(changes.make_directory(&[link], 0o777).unwrap(), Made::Existed);
        assert!(changes.remove_file(&[link]).unwrap());
    }
    precious.assert_untouched();
}

#[test]
fn directories_and_files_are_made_read_moved_and_removed() {
    let (directory, root) = root();
    let changes = root.changing(OPEN);
    assert_eq!(changes.make_directory(&["a"], 0o700).unwrap(), Made::New);
    assert_eq!(changes.make_directory(&["a"], 0o700).unwrap(), Made::Existed);
    assert_eq!(errno(changes.make_directory(&["none", "b"], 0o700)), Errno::ENOENT);
    assert!(root.is_empty(&["a"]).unwrap());
    assert_eq!(root.read(&["a", "file"]).unwrap(), None);
    changes.write(&["a", "file"], b"one").unwrap();
    changes.write(&["a", "file"], b"two").unwrap();
    assert_eq!(root.read(&["a", "file"]).unwrap().unwrap().bytes, b"two");
    assert_eq!(root.names(&["a"]).unwrap(), ["file"]);
    assert!(!root.is_empty(&["a"]).unwrap());
    assert_eq!(changes.remove_directory(&["a"]).unwrap(), Unmade::Occupied);
    changes.rename(&["a"], &["b"]).unwrap();
    assert_eq!(
        (root.entry(&["a"]).unwrap(), root.entry(&["b"]).unwrap()),
        (Entry::Missing, Entry::Directory)
    );
    changes.set_rights(&["b"], 0o751, None, None).unwrap();
    assert_eq!(fs::metadata(directory.path().join("b")).unwrap().permissions().mode() & 0o7777, 0o751);
    assert!(changes.remove_file(&["b", "file"]).unwrap());
    assert!(!changes.remove_file(&["b", "file"]).unwrap());
    assert_eq!(changes.remove_directory(&["b"]).unwrap(), Unmade::Removed);
    assert_eq!(changes.remove_directory(&["b"]).unwrap(), Unmade::Missing);
    let failure = changes.rename(&["none"], &["b"]).unwrap_err();
    assert_eq!(failure.errno(), Some(Errno::ENOENT));
    assert!(failure.to_string().ends_with("/none") && failure.to_string().starts_with("move /"), "{failure}");
}

#[test]
fn a_gate_that_is_closed_stops_every_change() {
    let (directory, root) = root();
    fs::create_dir(directory.path().join("dir")).unwrap();
    fs::write(directory.path().join("file"), "old").unwrap();
    let closed: Gate<'_> = &|_| Err(io::Error::other("closed"));
    let changes = root.changing(closed);
    let stopped = |result: Result<(), Failure>| {
        let failure = result.unwrap_err();
        assert_eq!((failure.errno(), failure.cause.to_string().as_str()), (None, "closed"));
    };
    stopped(changes.make_directory(&["new"], 0o700).map(drop));
    stopped(changes.set_rights(&["dir"], 0o700, Some(1), None));
    stopped(changes.set_rights(&["dir"], 0o700, None, None));
    stopped(changes.write(&["file"], b"new"));
    stopped(changes.create(&["other"], b"new").map(drop));
    stopped(changes.link(&["file"], &["other"]).map(drop));
    stopped(changes.place_directory(&["dir"], &["other"]).map(drop));
    stopped(changes.rename(&["file"], &["moved"]));
    stopped(changes.remove_directory(&["dir"]).map(drop));
    stopped(changes.remove_file(&["file"]).map(drop));
    let purged = AtomicU64::new(0);
    let purge = Purge { threads: 2, slice: SLICE, purged: &purged };
    fs::create_dir_all(directory.path().join("trash/entry/dir")).unwrap();
    fs::write(directory.path().join("trash/entry/file"), "").unwrap();
    stopped(purge.run(&root, &["trash"], &[tree("entry")], closed).map(drop));
    assert_eq!(purged.load(Ordering::SeqCst), 0);
    assert_eq!(root.entry(&["trash", "entry", "dir"]).unwrap(), Entry::Directory);
    assert_eq!(fs::read(directory.path().join("file")).unwrap(), b"old");
}

#[test]
fn a_root_knows_whether_its_path_leads_to_it_and_whether_it_is_a_mount() {
    let (directory, root) = root();
    assert!(root.is_current().unwrap());
    assert!(!root.is_mount_point().unwrap());
    assert!(Root::open(Path::new("/")).unwrap().is_mount_point().unwrap());
    assert!(Root::open(Path::new("/proc")).unwrap().is_mount_point().unwrap());
    let moved = directory.path().with_extension("moved");
    fs::rename(directory.path(), &moved).unwrap();
    assert!(!root.is_current().unwrap());
    fs::create_dir(directory.path()).unwrap();
    assert!(!root.is_current().unwrap());
    fs::remove_dir(directory.path()).unwrap();
    fs::rename(&moved, directory.path()).unwrap();
    assert!(root.is_current().unwrap());
    assert_eq!(errno(Root::open(&directory.path().join("none"))), Errno::ENOENT);
}

#[test]
fn another_mount_is_not_entered() {
    let root = Root::open(Path::new("/")).unwrap();
    assert_eq!(errno(root.entry(&["proc", "self"])), Errno::EXDEV);
    assert_eq!(errno(root.is_empty(&["proc"])), Errno::EXDEV);
    assert_eq!(errno(root.read(&["proc", "version"])), Errno::EXDEV);
}

/// Swaps `directory/<name>` for a link to `target` and back, until told to stop. The directory is held open: this must
/// not itself be led outside.
fn attack(directory: &fs::File, name: &str, target: &Path, stop: &AtomicBool) {
    use std::os::fd::AsRawFd;
    let directory = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    let (path, aside) = (directory.join(name), directory.join(format!("{name}.aside")));
    let mut rounds = 0_u64;
    while !stop.load(Ordering::Relaxed) || rounds < 10 {
        if fs::rename(&path, &aside).is_ok() {
            let _ = symlink(target, &path);
            thread::yield_now();
            // The purge may have been here first.
            let _ = fs::remove_file(&path);
            let _ = fs::rename(&aside, &path);
            for _ in 0..20 {
                thread::yield_now();
            }
        }
        rounds += 1;
    }
}

/// Tells the attackers to stop, also when the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Proves: row 3.20, statement 5
#[test]
fn swapping_directories_for_links_never_leads_outside_the_root() {
    let (directory, root) = root();
    let precious = Precious::new();
    let base = directory.path();
    fs::create_dir_all(base.join("a/inner/dir")).unwrap();
    fs::create_dir_all(base.join("trash")).unwrap();
    let stop = AtomicBool::new(false);
    let done = AtomicU64::new(0);
    thread::scope(|scope| {
        let _stopped = StopOnDrop(&stop);
        let (outer, inner) = (fs::File::open(base).unwrap(), fs::File::open(base.join("a")).unwrap());
        let (stop, precious) = (&stop, &precious);
        scope.spawn(move || attack(&outer, "a", precious.path(), stop));
        scope.spawn(move || attack(&inner, "inner", &precious.path().join("inner"), stop));
        let changes = root.changing(OPEN);
        let count = |ok: bool| done.fetch_add(u64::from(ok), Ordering::Relaxed);
        for i in 0..3000_u32 {
            let name = format!("x{i}");
            count(changes.make_directory(&["a", "inner", &name], 0o777).is_ok());
            count(changes.set_rights(&["a", "inner"], 0o700, None, None).is_ok());
            count(changes.set_rights(&["a", "inner", &name], 0o711, None, None).is_ok());
            count(changes.rename(&["a", "inner", &name], &["a", &name]).is_ok());
            count(changes.rename(&["a", "inner", "file"], &["trash", &name]).is_ok());
            count(changes.rename(&["a", "inner", "dir"], &["trash", &name]).is_ok());
            count(changes.remove_directory(&["a", &name]).is_ok());
            count(changes.remove_directory(&["a", "inner", "dir"]).is_ok());
            count(changes.remove_file(&["a", "inner", "file"]).is_ok());
            if i % 100 == 0 {
                count(changes.write(&["a", "inner", "file"], b"ours").is_ok());
            }
            if i % 100 == 0 {
                precious.assert_untouched();
            }
        }
    });
    precious.assert_untouched();
    assert!(done.load(Ordering::Relaxed) > 0, "some of it succeeded");
}

#[test]
fn a_purge_that_is_attacked_removes_nothing_outside() {
    let (directory, root) = root();
    let precious = Precious::new();
    let trash = directory.path().join("trash");
    let purged = AtomicU64::new(0);
    for _ in 0..20 {
        for i in 0..20 {
            let inner = trash.join(format!("entry/{i}/inner"));
            fs::create_dir_all(inner.join("dir")).unwrap();
            fs::write(inner.join("file"), "").unwrap();
        }
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let _stopped = StopOnDrop(&stop);
            for i in [3, 7, 13] {
                let base = fs::File::open(trash.join(format!("entry/{i}"))).unwrap();
                let (stop, precious) = (&stop, &precious);
                scope.spawn(move || attack(&base, "inner", &precious.path().join("inner"), stop));
            }
            let purge = Purge { threads: 4, slice: SLICE, purged: &purged };
            let _ = purge.run(&root, &["trash"], &[tree("entry")], OPEN).unwrap();
        });
        precious.assert_untouched();
    }
}
