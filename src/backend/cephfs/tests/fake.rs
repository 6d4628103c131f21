//! A file system and its volumes module for one test: [`Mgr`], played by `mgr.sh`.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use crate::backend::{
    ceph::{Cluster, Tools},
    cephfs::{
        Cephfs,
        conformance::{self, Bench, Keys, World},
    },
};

pub(crate) const KEY: &str = "AQB5Z1hnAAAAABAAcGxhdXNpYmxlLCB3cm9uZw==";
pub(crate) const MONITORS: &str = "127.0.0.1:6789,127.0.0.2:6789";

/// The state of the stand-in; gone with the last copy.
#[derive(Clone)]
pub(crate) struct Mgr {
    directory: Arc<tempfile::TempDir>,
}

impl Mgr {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for name in ["tree/volumes", "users"] {
            fs::create_dir_all(path.join(name)).unwrap();
        }
        fs::write(path.join("fsid"), "01234567-89ab-cdef-0123-456789abcdef").unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backend/cephfs/tests/mgr.sh");
        symlink(script, path.join("ceph")).unwrap();
        Self { directory: Arc::new(directory) }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// One program for each call: the stand-in does not stay.
    pub(crate) fn tools(&self) -> Tools {
        let ceph = self.path().join("ceph").to_str().unwrap().to_owned();
        let recheck = Duration::from_millis(50);
        Tools { ceph, sessions: 0, pause: Duration::ZERO, recheck, ..Tools::default() }
    }

    pub(crate) fn backend(&self, keys: Arc<Keys>) -> Arc<Cephfs> {
        conformance::backend(self.tools(), keys, None)
    }

    /// A backend that knows the cluster from its configuration, under the name `main`.
    pub(crate) fn configured(&self, keys: Arc<Keys>) -> Arc<Cephfs> {
        let cluster = Cluster::new("main", MONITORS.parse().unwrap(), self.tools()).unwrap();
        conformance::backend(self.tools(), keys, Some(cluster))
    }

    /// The calls that were made, and forgets them.
    pub(crate) fn take_log(&self) -> Vec<String> {
        let path = self.path().join("log");
        let log = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        log.lines().map(str::to_owned).collect()
    }

    /// Breaks off the change after `left` others; `when`: before or after it is done.
    pub(crate) fn break_off(&self, left: usize, when: &str) {
        fs::write(self.path().join("fault"), format!("{left} {when}\n")).unwrap();
    }

    /// Whether the fault was met; there is none any more.
    pub(crate) fn mend(&self) -> bool {
        let path = self.path().join("fault");
        let fault = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        fault.starts_with("0 ")
    }

    /// From now on nothing can be done to the subvolume of that name in the group `berth`.
    pub(crate) fn break_subvolume(&self, name: &str) {
        fs::write(self.path().join("tree/volumes/berth").join(name).join(".sub/broken"), "").unwrap();
    }

    /// Everything that there is, without what differs from one run to the next.
    pub(crate) fn state(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.path().join("tree"), "", &mut found);
        walk(&self.path().join("users"), "user ", &mut found);
        found.sort();
        found
    }
}

fn walk(directory: &Path, prefix: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let shown = if name.len() == 36 && name.contains('-') { "UUID" } else { &name };
        let path = format!("{prefix}{shown}");
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), &format!("{path}/"), found);
            found.push(path);
        } else if name == "quota" {
            found.push(format!("{path} {}", fs::read_to_string(entry.path()).unwrap().trim()));
        } else {
            found.push(path);
        }
    }
}

impl World for Mgr {
    fn ceph(&self, args: &[&str]) -> Option<String> {
        // Snapshots are all that is planted by a call and not by a file.
        if let ["fs", "subvolume", "snapshot", verb, _, name, _, "--group_name", group] = args {
            let file = self.path().join("tree/volumes").join(group).join(name).join(".sub/snapshots");
            match *verb {
                "create" => fs::write(file, "").unwrap(),
                _ => fs::remove_file(file).unwrap(),
            }
            return Some(String::new());
        }
        let output = Command::new(self.path().join("ceph")).args(args).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    fn exists(&self, path: &str) -> bool {
        self.path().join("tree").join(path.trim_start_matches('/')).exists()
    }

    fn fill(&self, path: &str) {
        fs::write(self.path().join("tree").join(path.trim_start_matches('/')).join("file"), "content")
            .unwrap();
    }

    fn plant(&self, path: &str) {
        fs::create_dir_all(self.path().join("tree").join(path.trim_start_matches('/'))).unwrap();
        self.fill(path);
    }

    fn add_user(&self, user: &str, mds: &str) {
        let user = self.path().join("users").join(user);
        fs::create_dir_all(&user).unwrap();
        fs::write(user.join("key"), format!("{KEY}\n")).unwrap();
        fs::write(user.join("mds"), mds).unwrap();
    }
}

pub(crate) fn bench() -> Bench {
    let mgr = Mgr::new();
    Bench {
        keys: Keys::new("installation-1", KEY),
        tools: mgr.tools(),
        world: Box::new(mgr),
        monitors: MONITORS.into(),
        prefix: "t".into(),
    }
}
