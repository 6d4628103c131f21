use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;

use super::*;
use crate::backend::conformance::{self, Bench, Storage};

/// Breaks off an operation before one of its steps, as a crash would.
#[derive(Debug)]
pub(super) struct Interruption(AtomicI64);

impl Default for Interruption {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MAX))
    }
}

impl Interruption {
    /// Lets `steps` more steps be done, and no further.
    pub(super) fn after(&self, steps: i64) {
        self.0.store(steps, Ordering::SeqCst);
    }

    pub(super) fn never(&self) {
        self.after(i64::MAX);
    }

    pub(super) fn step(&self) -> io::Result<()> {
        if self.0.fetch_sub(1, Ordering::SeqCst) <= 0 {
            return Err(io::Error::other("interrupted by the test"));
        }
        Ok(())
    }
}

pub(super) fn export(name: &str, server: &str, path: &str) -> Export {
    Export {
        name: name.into(),
        server: server.into(),
        aliases: Vec::new(),
        path: path.into(),
        former_paths: Vec::new(),
        root: format!("/mnt/{name}").into(),
        require_mount: false,
        deadline: Duration::from_secs(30),
        threads: 4,
    }
}

struct Directory(PathBuf);

impl Directory {
    fn path(&self, place: &Place) -> PathBuf {
        self.0.join(place.segments.join("/"))
    }
}

impl Storage for Directory {
    fn exists(&self, place: &Place) -> bool {
        self.path(place).exists()
    }

    fn fill(&self, place: &Place) {
        fs::write(self.path(place).join("file"), "content").unwrap();
    }

    fn plant(&self, place: &Place) {
        fs::create_dir_all(self.path(place)).unwrap();
        self.fill(place);
    }
}

#[tokio::test]
async fn the_nfs_backend_shows_every_behaviour() {
    conformance::run(|| {
        let directory = TempDir::new().unwrap();
        let root = directory.path().to_path_buf();
        let open = move || -> Arc<dyn Backend> {
            let _kept = &directory;
            let export = Export { root: directory.path().into(), ..export("default", "server", "/export") };
            Arc::new(Nfs::new(vec![export]).unwrap())
        };
        Bench { store: "default".into(), open: Box::new(open), storage: Box::new(Directory(root)) }
    })
    .await;
}
