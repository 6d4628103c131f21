//! Tests of the NFS backend on temporary directories: what `conformance` cannot ask of every backend.

mod clusters;
mod crash;
mod existing;
mod full;
mod health;
mod identity;
mod interleaving;
mod interruption;
mod long_names;
mod mounted;
mod operations;
mod places;
mod register;
mod removal;
mod safety;
mod trash;
mod upgrade;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tempfile::TempDir;

pub(super) use interruption::{Interruption, Rules};

use super::*;
use crate::{
    backend::{
        StorageSystem,
        conformance::{self, Bench, Storage, Ways, object_uid},
        fake_host::FakeKubernetes,
    },
    volume::{Disposal, Origin, PvMetadata, UNRECORDED, VolumeName},
};

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

/// An export `default` (`server:/export`) in a temporary directory, with a backend that knows of no volumes.
struct Site {
    directory: TempDir,
    kube: Arc<FakeKubernetes>,
    nfs: Nfs,
}

impl Site {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut Export)) -> Self {
        let directory = temporary();
        let mut export = Export { root: directory.path().into(), ..export("default", "server", "/export") };
        change(&mut export);
        let kube = kube();
        let nfs = Nfs::new(vec![export], Arc::clone(&kube) as Arc<dyn ClusterInfo>).unwrap();
        nfs.expect_store(nothing());
        Self { directory, kube, nfs }
    }

    /// The same export in a new process, which knows of no volumes.
    fn restart(&mut self) {
        self.nfs = self.next_leader();
    }

    /// A new process of the same cluster, which knows of no volumes.
    fn next_leader(&self) -> Nfs {
        let nfs = Nfs::new(self.nfs.exports.clone(), Arc::clone(&self.kube) as Arc<dyn ClusterInfo>).unwrap();
        nfs.expect_store(nothing());
        nfs
    }

    /// The same export as another cluster uses it, which knows of no volumes.
    fn of_cluster(&self, cluster: &str) -> Nfs {
        let nfs = Nfs::new(self.nfs.exports.clone(), Arc::new(FakeKubernetes::new(cluster))).unwrap();
        nfs.expect_store(nothing());
        nfs
    }

    fn path(&self, below: &str) -> PathBuf {
        self.directory.path().join(below)
    }

    fn has(&self, below: &str) -> bool {
        fs::symlink_metadata(self.path(below)).is_ok()
    }

    /// Makes a directory with a file in it.
    fn plant(&self, below: &str) {
        fs::create_dir_all(self.path(below)).unwrap();
        fs::write(self.path(below).join("file"), below).unwrap();
    }

    /// Everything on the export but our own records, sorted.
    fn tree(&self) -> Vec<String> {
        let mut found = tree(self.directory.path());
        found.retain(|path| !path.starts_with(".berth"));
        found
    }

    /// The names in one of our folders, without those of files whose writing was interrupted.
    fn records(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(".berth").join(folder)) else { return Vec::new() };
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !is_temporary(name));
        names.sort();
        names
    }

    /// Whether there are files whose writing was interrupted.
    fn has_temporary(&self) -> bool {
        tree(self.directory.path()).iter().any(|path| is_temporary(path))
    }

    async fn make(&self, request: &VolumeRequest) -> Volume {
        let volume = self.nfs.create(request, &Permit::unlimited()).await.unwrap();
        self.nfs.commit(&volume.id, &object_uid(volume.id.name()), &Permit::unlimited()).await.unwrap();
        volume
    }

    async fn create(&self, request: &VolumeRequest) -> Result<Volume, Error> {
        self.nfs.create(request, &Permit::unlimited()).await
    }

    async fn remove(&self, removal: &Removal) -> Result<Removed, Error> {
        self.nfs.remove(removal, &Permit::unlimited()).await
    }

    /// The entries of the trash, also of what is being purged.
    fn trash(&self) -> Vec<String> {
        let mut entries = self.records("trash");
        entries.retain(|name| Path::new(name).extension().is_none_or(|end| end != "json"));
        entries.extend(self.records("purging"));
        entries
    }

    async fn restore(&self, removal: &Removal) -> Result<Restored, Error> {
        self.nfs.restore(removal, &Permit::unlimited()).await
    }

    /// Collects garbage until `done`, at most a minute.
    async fn collect_until(&self, done: impl FnMut(&StoreStatus) -> bool) {
        collect_until(&self.nfs, done).await;
    }
}

/// Collects garbage until `done`, at most a minute.
async fn collect_until(nfs: &Nfs, mut done: impl FnMut(&StoreStatus) -> bool) {
    let (permit, since) = (Permit::unlimited(), Instant::now());
    let watch = async {
        while !done(&nfs.stores()[0]) {
            assert!(since.elapsed() < Duration::from_mins(1), "{:?}", nfs.stores());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        () = nfs.collect_garbage(&permit) => unreachable!("the permit has not ended"),
        () = watch => {}
    }
    // A thread of the purge ends before its next step, and may hold a volume until then.
    while nfs.stores.iter().any(|store| store.is_held()) {
        assert!(since.elapsed() < Duration::from_mins(1), "a thread of the purge does not end");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Without what was left where the writing of a file was interrupted.
fn finished(mut names: Vec<String>) -> Vec<String> {
    names.retain(|name| !is_temporary(name));
    names
}

/// Whether it is the name of a file whose writing was interrupted.
fn is_temporary(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "tmp")
}

/// A directory in memory where there is one: these tests write many small files, each to the disk.
fn temporary() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

/// A cluster of its own, without any PV.
fn kube() -> Arc<FakeKubernetes> {
    Arc::new(FakeKubernetes::new("cluster-1"))
}

fn nothing() -> StoreExpectation {
    StoreExpectation { store: "default".into(), identity: None, places: Vec::new() }
}

/// All paths below `directory`, links not followed.
fn tree(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let entry = entry.unwrap();
            found.push(entry.path().strip_prefix(directory).unwrap().to_str().unwrap().to_string());
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// A request of the claim `team/<name>` with these class parameters.
fn request(name: &str, parameters: &[(&str, &str)]) -> VolumeRequest {
    let parameters: BTreeMap<_, _> =
        parameters.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    VolumeRequest { parameters, ..conformance::request(name) }
}

/// The same with a pattern.
fn patterned(name: &str, pattern: &str) -> VolumeRequest {
    request(name, &[("pathPattern", pattern)])
}

/// The removal of a volume that an older provisioner made at `path`.
fn old_removal(name: &str, path: &str, disposal: Disposal) -> Removal {
    Removal {
        name: VolumeName::for_claim(&format!("uid-{name}")).unwrap(),
        id: None,
        source: Source::Nfs { server: "server".into(), path: path.into() },
        claim: conformance::key(&request(name, &[])),
        origin: Origin::Created,
        disposal,
        // It lies where no rule says that it is this volume's: an administrator does.
        pv_metadata: PvMetadata { take_over: Some(UNRECORDED.into()), ..PvMetadata::default() },
    }
}

struct Directory(PathBuf);

impl Directory {
    fn path(&self, place: &Location) -> PathBuf {
        self.0.join(place.path.to_string())
    }
}

impl Storage for Directory {
    fn exists(&self, place: &Location) -> bool {
        self.path(place).exists()
    }

    fn fill(&self, place: &Location) {
        fs::write(self.path(place).join("file"), "content").unwrap();
    }

    fn plant(&self, place: &Location) {
        fs::create_dir_all(self.path(place)).unwrap();
        self.fill(place);
    }

    fn volume_of(&self, request: &VolumeRequest, other: &Volume) -> Volume {
        let source = self.older(&other.source, &request.claim.name);
        Volume { id: conformance::id_of(request, other), source, ..other.clone() }
    }

    fn older(&self, source: &Source, name: &str) -> Source {
        let Source::Nfs { server, path } = source else { panic!("not an NFS source") };
        let (above, _) = path.rsplit_once('/').unwrap();
        Source::Nfs { server: server.clone(), path: format!("{above}/team-{name}-pvc-uid-{name}") }
    }

    fn is_archived(&self, place: &Location, told: &str) -> bool {
        told.starts_with(&format!("archived-{}", place.path)) && self.0.join(told).is_dir()
    }

    fn elsewhere(&self, source: &Source) -> Vec<Source> {
        let Source::Nfs { server, path } = source else { panic!("not an NFS source") };
        let nfs = |server: &str, path: String| Source::Nfs { server: server.into(), path };
        vec![
            nfs("elsewhere.example.org", path.clone()),
            nfs(server, "/".into()),
            nfs(server, format!("/elsewhere{path}")),
            nfs(server, format!("{path}/../../../elsewhere")),
        ]
    }
}

#[tokio::test]
async fn the_nfs_backend_shows_every_behaviour() {
    conformance::run(|| {
        let directory = temporary();
        let root = directory.path().to_path_buf();
        let open = move || -> Arc<dyn StorageSystem> {
            Arc::new(
                Nfs::new(
                    vec![Export { root: directory.path().into(), ..export("default", "server", "/export") }],
                    kube(),
                )
                .unwrap(),
            )
        };
        Bench {
            store: "default".into(),
            parameters: BTreeMap::new(),
            claims: String::new(),
            ways: Ways::default(),
            open: Box::new(open),
            storage: Box::new(Directory(root)),
        }
    })
    .await;
}
