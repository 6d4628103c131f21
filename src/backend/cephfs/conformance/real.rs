//! A real cluster for the behaviours: [`run`], [`Cluster`]. It is one that may be filled with rubbish, such as `e2e/ceph up` makes.
//!
//! What a pod or an older provisioner would do in the file system is done by Ceph's own library, from Debian's Python.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{Bench, Keys, World};
use crate::backend::ceph::Tools;

/// Shows every behaviour on the cluster of this configuration file. `prefix` begins the names of all that is made.
pub async fn run(conf: &Path, prefix: &str) {
    let cluster = Cluster::open(conf);
    let number = AtomicUsize::new(0);
    super::run(|| cluster.bench(&format!("{prefix}{}", number.fetch_add(1, Ordering::Relaxed)))).await;
}

/// A running cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    conf: PathBuf,
    /// Its monitors, as a class writes them.
    pub monitors: String,
    /// The key of `client.admin`.
    pub key: String,
}

impl Cluster {
    /// Reads where it is and who may do everything there.
    pub fn open(conf: &Path) -> Self {
        let lookup = |option: &str| {
            let output =
                Command::new("ceph-conf").arg("--conf").arg(conf).args(["--lookup", option]).output();
            String::from_utf8(output.unwrap().stdout).unwrap().trim().to_owned()
        };
        let keyring = fs::read_to_string(lookup("keyring")).unwrap();
        let (_, admin) = keyring.split_once("[client.admin]").unwrap();
        let key = admin.lines().find_map(|line| line.trim().strip_prefix("key = ")).unwrap().to_owned();
        Self { conf: conf.to_owned(), monitors: lookup("mon_host"), key }
    }

    /// A bench for one behaviour.
    pub fn bench(&self, prefix: &str) -> Bench {
        Bench {
            keys: Keys::new("installation-1", &self.key),
            tools: Tools::default(),
            world: Box::new(self.clone()),
            monitors: self.monitors.clone(),
            prefix: prefix.to_owned(),
        }
    }

    fn python(&self, step: &str, path: &str) -> bool {
        const PROGRAM: &str = "\
import cephfs, sys, time
fs = cephfs.LibCephFS(conffile=sys.argv[1], auth_id='admin')
fs.mount(filesystem_name=b'cephfs')
path = sys.argv[3].encode()
def clear(path):
    with fs.opendir(path) as inside:
        entries = [entry for entry in iter(inside.readdir, None) if entry.d_name not in (b'.', b'..')]
    for entry in entries:
        below = path + b'/' + entry.d_name
        if entry.is_dir():
            clear(below)
            fs.rmdir(below)
        else:
            fs.unlink(below)
try:
    if sys.argv[2] == 'clear':
        with fs.opendir(b'/volumes') as inside:
            entries = list(iter(inside.readdir, None))
        for entry in entries:
            if entry.d_name.startswith(path):
                clear(b'/volumes/' + entry.d_name)
                fs.rmdir(b'/volumes/' + entry.d_name)
    elif sys.argv[2] == 'exists':
        fs.stat(path)
    else:
        if sys.argv[2] == 'plant':
            fs.mkdirs(path, 0o755)
        # Ceph tells in whole seconds when a directory was made and changed.
        time.sleep(1 - time.time() % 1)
        fd = fs.open(path + b'/file', 'w', 0o644)
        fs.write(fd, b'content', 0)
        fs.close(fd)
        fs.sync_fs()
except cephfs.ObjectNotFound:
    sys.exit(3)
finally:
    fs.unmount()
";
        let status = Command::new("/usr/bin/python3")
            .args(["-c", PROGRAM])
            .arg(&self.conf)
            .args([step, path])
            .stdin(Stdio::null())
            .status()
            .unwrap();
        assert!(matches!(status.code(), Some(0 | 3)), "{step} {path}: {status}");
        status.success()
    }
}

impl World for Cluster {
    fn ceph(&self, args: &[&str]) -> Option<String> {
        let output = Command::new("ceph")
            .arg("--conf")
            .arg(&self.conf)
            .args(["--format", "json"])
            .args(args)
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    fn exists(&self, path: &str) -> bool {
        self.python("exists", path)
    }

    fn fill(&self, path: &str) {
        assert!(self.python("fill", path), "{path} does not exist");
    }

    fn plant(&self, path: &str) {
        assert!(self.python("plant", path));
    }

    fn clear(&self, beginning: &str) {
        self.python("clear", beginning);
    }

    fn add_user(&self, user: &str, mds: &str) {
        let entity = format!("client.{user}");
        let args = [
            "auth",
            "get-or-create",
            &entity,
            "mds",
            mds,
            "mon",
            "allow r",
            "osd",
            "allow rw pool=cephfs_data",
        ];
        self.ceph(&args).unwrap();
    }
}
