//! The behaviours of every backend, shown by RBD on a real cluster: [`run`]. For tests only.
//!
//! The cluster is one that may be filled with rubbish. Each behaviour gets a RADOS namespace of its own in one pool; what lies in it
//! is looked at and changed with the `rbd` program behind the backend's back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a failed expectation is how a test speaks"
)]

use std::{
    collections::BTreeMap,
    hash::{Hash as _, Hasher as _},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;

use super::{Admin, Rbd, Settings, names};
use crate::{
    backend::{
        ClusterInfo, Error, Kind, PvState, SecretStore, StorageSystem,
        ceph::{Cluster, Clusters, Tools},
        conformance::{Bench, Storage, Ways, id_of},
    },
    volume::{
        CsiSource, Location, RbdSource, SecretName, Secrets, Source, Volume, VolumeName, VolumeRequest,
    },
};

/// A real cluster.
#[derive(Debug, Clone)]
pub struct Real {
    /// Its configuration file, with which the tools are administrator.
    pub conf: PathBuf,
    /// Its monitors, as a class names them.
    pub monitors: String,
    /// The key of `client.admin`.
    pub key: String,
    /// A pool of it, initialised for images.
    pub pool: String,
}

impl Real {
    /// The cluster of this configuration file, which names a keyring with `client.admin`.
    pub fn read(conf: &Path, pool: &str) -> Self {
        let ask = |option: &str| {
            let mut program = Command::new("ceph-conf");
            let output = program.arg("--conf").arg(conf).args(["--lookup", option]).output();
            let output = output.expect("ceph-conf can be started");
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let keyring = std::fs::read_to_string(ask("keyring")).expect("the keyring can be read");
        let (_, admin) = keyring.split_once("[client.admin]").expect("the keyring has client.admin");
        let key = admin.lines().find_map(|line| line.trim().strip_prefix("key = ")).expect("it has a key");
        Self { conf: conf.to_owned(), monitors: ask("mon_host"), key: key.to_owned(), pool: pool.to_owned() }
    }
}

/// Shows every behaviour on the cluster; panics at the first that is missing.
pub async fn run(real: &Real) {
    let next = AtomicU32::new(0);
    let unique = std::process::id();
    crate::backend::conformance::run(|| {
        let namespace = format!("conformance-{unique}-{}", next.fetch_add(1, Ordering::Relaxed));
        let behind = Behind { real: real.clone(), namespace: namespace.clone() };
        behind.rbd(&["namespace", "create", &format!("{}/{namespace}", real.pool)]);
        let real = real.clone();
        let pairs = [
            ("clusterID", "real"),
            ("pool", &real.pool),
            ("radosNamespace", &namespace),
            ("userSecretName", "ceph-user"),
        ];
        let parameters: BTreeMap<String, String> =
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Bench {
            store: "real".into(),
            parameters,
            claims: String::new(),
            ways: Ways { commits: false, ..Ways::default() },
            open: Box::new(move || Arc::new(backend(&real, &namespace))),
            storage: Box::new(behind),
        }
    })
    .await;
}

/// A backend on the cluster, as a new process of this installation would have it.
pub fn backend(real: &Real, cluster_id: &str) -> impl StorageSystem + use<> {
    let cluster = Cluster::new("real", real.monitors.parse().unwrap(), Tools::default()).unwrap();
    let secret = SecretName { namespace: "default".into(), name: "ceph-admin".into() };
    let admins = BTreeMap::from([("real".to_owned(), Admin { user: "admin".into(), secret })]);
    let settings = Settings { driver: "rbd.berth.storage".into(), admins };
    let clusters = Clusters::new(vec![cluster], Tools::default());
    let kube = Keyholder { key: real.key.clone(), cluster_id: cluster_id.to_owned() };
    Rbd::new(clusters, Arc::new(kube), settings).unwrap()
}

/// Has the key of the administrator under every name.
struct Keyholder {
    key: String,
    cluster_id: String,
}

#[async_trait]
impl SecretStore for Keyholder {
    async fn get(&self, _: &SecretName, _: bool) -> Result<Secrets, Error> {
        Ok([("key".to_owned(), self.key.as_bytes().to_vec())].into_iter().collect())
    }

    async fn put(&self, name: &SecretName, _: &Secrets, _: &VolumeName) -> Result<(), Error> {
        Err(Error::new(Kind::Internal, format!("nothing asks to keep {name}")))
    }

    async fn exists(&self, name: &SecretName, _: &VolumeName) -> Result<bool, Error> {
        Err(Error::new(Kind::Internal, format!("nothing asks whether {name} is kept")))
    }

    async fn delete(&self, name: &SecretName, _: &VolumeName) -> Result<(), Error> {
        Err(Error::new(Kind::Internal, format!("nothing asks to forget {name}")))
    }
}

#[async_trait]
impl ClusterInfo for Keyholder {
    async fn pv_state(&self, _: &VolumeName) -> Result<PvState, Error> {
        Ok(PvState::Absent)
    }

    fn cluster_id(&self) -> Option<String> {
        Some(self.cluster_id.clone())
    }
}

/// What the backend would make of `request`, told by what it made of another request.
pub(super) fn volume_of(request: &VolumeRequest, other: &Volume) -> Volume {
    let id = id_of(request, other);
    let image = names::image_of(&request.name).unwrap();
    let Source::Csi(source) = &other.source else { panic!("not a CSI source: {}", other.source) };
    let mut source = CsiSource { handle: id.to_string(), ..source.clone() };
    source.attributes.insert("image".to_owned(), image.clone());
    let mut record = other.record.clone();
    record.insert("image".to_owned(), image);
    Volume { id, source: Source::Csi(source), record, ..other.clone() }
}

/// The name of an image of an older provisioner that belongs to a behaviour: a UUID is a part of it.
pub(super) fn older_image(behaviour: &str, name: &str) -> String {
    let mut hash = std::hash::DefaultHasher::new();
    (behaviour, name).hash(&mut hash);
    format!("kubernetes-dynamic-pvc-01234567-89ab-4cde-8f01-{:012x}", hash.finish() >> 16)
}

struct Behind {
    real: Real,
    namespace: String,
}

impl Behind {
    /// What the program says; `None` where it fails.
    fn tried(&self, args: &[&str], stdin: &[u8]) -> Option<String> {
        let mut program = Command::new("rbd")
            .arg("--conf")
            .arg::<&Path>(&self.real.conf)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("rbd can be started");
        // One that does not read its input has ended.
        let _ = program.stdin.take().unwrap().write_all(stdin);
        let output = program.wait_with_output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    fn rbd(&self, args: &[&str]) -> String {
        self.tried(args, b"").unwrap_or_else(|| panic!("rbd {} failed", args.join(" ")))
    }

    fn spec(place: &Location) -> String {
        place.path.to_string()
    }

    fn space(&self) -> String {
        format!("{}/{}", self.real.pool, self.namespace)
    }
}

impl Storage for Behind {
    fn exists(&self, place: &Location) -> bool {
        self.tried(&["info", &Self::spec(place)], b"").is_some()
    }

    fn fill(&self, place: &Location) {
        let bench = ["bench", "--io-type", "write", "--io-size", "4096", "--io-total", "4096"];
        self.rbd(&[&bench[..], &[&Self::spec(place)]].concat());
    }

    fn plant(&self, place: &Location) {
        let import = ["import", "--no-progress", "-", &Self::spec(place)];
        self.tried(&import, &vec![b'x'; 65_536]).expect("an image with content can be made");
    }

    fn volume_of(&self, request: &VolumeRequest, other: &Volume) -> Volume {
        volume_of(request, other)
    }

    /// The older provisioners knew no namespaces, so that it lies in the pool itself.
    fn older(&self, _: &Source, name: &str) -> Source {
        Source::Rbd(RbdSource {
            monitors: vec![self.real.monitors.clone()],
            pool: self.real.pool.clone(),
            image: older_image(&self.namespace, name),
            user: "admin".into(),
            secret: None,
            fs_type: None,
        })
    }

    fn elsewhere(&self, source: &Source) -> Vec<Source> {
        let Source::Csi(csi) = source else { panic!("not a CSI source: {source}") };
        vec![
            Source::Csi(CsiSource { driver: "rbd.csi.ceph.com".into(), ..csi.clone() }),
            Source::Nfs { server: "server".into(), path: "/export".into() },
        ]
    }

    fn is_archived(&self, place: &Location, told: &str) -> bool {
        let (image, pool_namespace) = place.path.split_last().unwrap();
        let list = self.rbd(&["trash", "ls", "--long", "--format", "json", &pool_namespace.join("/")]);
        let entries: serde_json::Value = serde_json::from_str(&list).unwrap();
        entries.as_array().unwrap().iter().any(|entry| {
            let text = |key: &str| entry[key].as_str().unwrap_or_default();
            text("name") == image.as_str()
                && told.ends_with(text("id"))
                && text("status").starts_with("protected until ")
        })
    }
}

impl Drop for Behind {
    /// Leaves nothing behind, so that a pool can be used again.
    fn drop(&mut self) {
        let space = self.space();
        let names = |list: &[&str], key: &str| -> Vec<String> {
            let list = self.tried(list, b"").unwrap_or_default();
            let entries: serde_json::Value = serde_json::from_str(&list).unwrap_or_default();
            let entries = entries.as_array().cloned().unwrap_or_default();
            let name = |entry: &serde_json::Value| entry[key].as_str().or(entry.as_str()).map(str::to_owned);
            entries.iter().filter_map(name).collect()
        };
        for pool_namespace in [&space, &self.real.pool] {
            let older = ["delete", "archive", "keep"].map(|name| older_image(&self.namespace, name));
            let ours = |name: &str| *pool_namespace == space || older.iter().any(|older| older == name);
            for image in
                names(&["ls", "--format", "json", pool_namespace], "name").iter().filter(|name| ours(name))
            {
                self.tried(&["rm", "--no-progress", &format!("{pool_namespace}/{image}")], b"");
            }
            let list = ["trash", "ls", "--format", "json", pool_namespace];
            for (id, _) in names(&list, "id").iter().zip(names(&list, "name")).filter(|(_, name)| ours(name))
            {
                self.tried(
                    &["trash", "rm", "--no-progress", "--force", &format!("{pool_namespace}/{id}")],
                    b"",
                );
            }
        }
        self.tried(&["namespace", "rm", &space], b"");
    }
}
