//! Tests of the steps that decide between several processes.

use std::os::unix::{fs::MetadataExt, net::UnixListener};

use nix::{sys::stat::Mode, unistd::mkfifo};

use super::*;

#[test]
fn a_link_is_made_only_where_nothing_is_and_says_what_is_in_the_way() {
    let (directory, root) = root();
    let base = directory.path();
    for name in ["dir", "full/inner"] {
        fs::create_dir_all(base.join(name)).unwrap();
    }
    fs::write(base.join("file"), "one").unwrap();
    fs::write(base.join("other"), "two").unwrap();
    symlink("nowhere", base.join("dangling")).unwrap();
    let changes = root.changing(OPEN);
    let rows: [(&[&str], &[&str], Placed); 9] = [
        (&["file"], &["dir", "new"], Placed::New),
        (&["file"], &["dir", "new"], Placed::Taken),
        (&["file"], &["other"], Placed::Taken),
        (&["file"], &["dangling"], Placed::Taken),
        (&["file"], &["full"], Placed::Taken),
        (&["file"], &["none", "new"], Placed::Gone),
        (&["none"], &["new"], Placed::Gone),
        (&["file"], &["other", "new"], Placed::NotADirectory),
        (&["dir"], &["new"], Placed::Unsupported),
    ];
    for (from, to, expected) in rows {
        assert_eq!(changes.link(from, to).unwrap(), expected, "{from:?} {to:?}");
    }
    assert_eq!(fs::read(base.join("dir/new")).unwrap(), b"one");
    assert_eq!(fs::read(base.join("other")).unwrap(), b"two");
    assert_eq!(fs::metadata(base.join("file")).unwrap().nlink(), 2);
}

#[test]
fn a_directory_is_placed_only_where_nothing_or_an_empty_directory_is() {
    let (directory, root) = root();
    let base = directory.path();
    let changes = root.changing(OPEN);
    let prepare = || {
        let _ = fs::remove_dir_all(base.join("from"));
        fs::create_dir_all(base.join("from/inner")).unwrap();
    };
    for name in ["empty", "full/inner", "parent"] {
        fs::create_dir_all(base.join(name)).unwrap();
    }
    fs::write(base.join("file"), "").unwrap();
    let rows: [(&[&str], Placed); 6] = [
        (&["new"], Placed::New),
        (&["empty"], Placed::New),
        (&["full"], Placed::Taken),
        (&["none", "new"], Placed::Gone),
        (&["file"], Placed::NotADirectory),
        (&["file", "new"], Placed::NotADirectory),
    ];
    for (to, expected) in rows {
        prepare();
        assert_eq!(changes.place_directory(&["from"], to).unwrap(), expected, "{to:?}");
        assert_eq!(base.join("from").exists(), expected != Placed::New, "{to:?}");
    }
    assert_eq!(root.entry(&["empty", "inner"]).unwrap(), Entry::Directory);
    assert_eq!(changes.place_directory(&["never"], &["new2"]).unwrap(), Placed::Gone);
}

#[test]
fn a_file_is_made_only_where_nothing_is() {
    let (directory, root) = root();
    let changes = root.changing(OPEN);
    assert_eq!(changes.create(&["file"], b"one").unwrap(), Made::New);
    assert_eq!(changes.create(&["file"], b"two").unwrap(), Made::Existed);
    symlink("elsewhere", directory.path().join("link")).unwrap();
    assert_eq!(changes.create(&["link"], b"two").unwrap(), Made::Existed);
    assert_eq!(root.read_fresh(&["file"]).unwrap().unwrap().bytes, b"one");
    assert_eq!(root.read_fresh(&["none"]).unwrap(), None);
    assert_eq!(root.read_fresh(&["none", "file"]).unwrap(), None);
    assert!(!directory.path().join("elsewhere").exists());
}

#[test]
fn what_is_seen_tells_kind_and_identity_and_a_link_is_not_followed() {
    let (directory, root) = root();
    let base = directory.path();
    fs::create_dir(base.join("dir")).unwrap();
    fs::write(base.join("dir/file"), "").unwrap();
    symlink("dir", base.join("link")).unwrap();
    for (path, entry) in
        [(&["dir"][..], Entry::Directory), (&["dir", "file"], Entry::Other), (&["link"], Entry::Other)]
    {
        let metadata = fs::symlink_metadata(base.join(path.join("/"))).unwrap();
        let expected = Seen { entry, device: metadata.dev(), inode: metadata.ino() };
        assert_eq!(root.see(path).unwrap(), Some(expected), "{path:?}");
        assert_eq!(root.see_fresh(path).unwrap(), Some(expected), "{path:?}");
    }
    assert_eq!(root.see_fresh(&["none"]).unwrap(), None);
    assert_eq!(root.see_fresh(&["none", "deeper"]).unwrap(), None);
    assert_eq!(errno(root.see_fresh(&["dir", "file", "deeper"])), Errno::ENOTDIR);
    assert_eq!(errno(root.see_fresh(&["link", "file"])), Errno::ELOOP);
    let metadata = fs::metadata(base).unwrap();
    let top = root.top().unwrap();
    assert_eq!((top.device, top.inode, top.entry), (metadata.dev(), metadata.ino(), Entry::Directory));
}

/// A FIFO as a record held a thread of the export for ever.
#[test]
fn a_pipe_a_socket_a_directory_and_a_huge_file_are_not_read_and_nothing_waits_for_them() {
    let (directory, root) = root();
    let base = directory.path();
    mkfifo(&base.join("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
    let _listener = UnixListener::bind(base.join("socket")).unwrap();
    fs::create_dir(base.join("dir")).unwrap();
    for name in ["pipe", "socket", "dir"] {
        for result in [root.read(&[name]), root.read_fresh(&[name])] {
            let failure = result.unwrap_err();
            assert!(failure.cause.get_ref().unwrap().is::<NotAFile>(), "{name}: {failure:?}");
        }
    }
    fs::File::create(base.join("huge")).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(errno(root.read(&["huge"])), Errno::EFBIG);
}

#[test]
fn two_who_write_the_same_file_do_not_share_its_temporary_name_and_a_failure_leaves_none() {
    let (directory, root) = root();
    let changes = root.changing(OPEN);
    thread::scope(|scope| {
        for writer in 0..4_u8 {
            let changes = &changes;
            scope.spawn(move || {
                for _ in 0..50 {
                    changes.write(&["file"], &[writer; 4096]).unwrap();
                }
            });
        }
    });
    let bytes = fs::read(directory.path().join("file")).unwrap();
    assert!(bytes.len() == 4096 && bytes.iter().all(|byte| *byte == bytes[0]));
    fs::create_dir(directory.path().join("dir")).unwrap();
    assert_eq!(errno(changes.write(&["dir"], b"")), Errno::EISDIR);
    let mut names: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["dir", "file"]);
}

/// A lookup whose target is moved away while it is being looked up seems to lead into another mount.
#[test]
fn what_others_move_away_while_it_is_looked_at_is_there_or_not_and_never_on_another_mount() {
    let (directory, root) = root();
    let base = directory.path();
    for name in ["place", "aside"] {
        fs::create_dir(base.join(name)).unwrap();
    }
    fs::write(base.join("place/note"), "x").unwrap();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                fs::rename(base.join("place/note"), base.join("aside/note")).unwrap();
                fs::rename(base.join("aside/note"), base.join("place/note")).unwrap();
            }
        });
        let looked = (0..40_000).try_for_each(|_| {
            root.see_fresh(&["place", "note"])?;
            root.read_fresh(&["place", "note"]).map(drop)
        });
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        looked.unwrap();
    });
}
