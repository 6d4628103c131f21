//! The behaviours of every backend, shown by this one: [`run`].
//!
//! The cluster is configured and has its admin from there, where the behaviours of this backend alone use classes that describe it.
//! Several runs share a file system, so each has a group and claims of its own.

use std::{collections::BTreeMap, sync::Arc};

use super::World;
use crate::{
    backend::{
        StorageSystem,
        ceph::Cluster,
        cephfs::names,
        conformance::{self, Storage, Ways, id_of},
    },
    volume::{CephfsSource, CsiSource, Location, SecretName, Source, Volume, VolumeRequest},
};

/// As the cluster is configured.
const STORE: &str = "main";

/// Shows the behaviours of every backend, each on a bench of its own.
pub(super) async fn run(bench: &impl Fn() -> super::Bench) {
    conformance::run(|| adapted(bench())).await;
}

fn adapted(bench: super::Bench) -> conformance::Bench {
    let super::Bench { keys, tools, world, monitors, prefix } = bench;
    let claims = format!("{prefix}-");
    let group = format!("{claims}every");
    let parameters = [("clusterID", STORE), ("group", &group)];
    let known = monitors.clone();
    let open = move || -> Arc<dyn StorageSystem> {
        let cluster = Cluster::new(STORE, known.parse().unwrap(), tools.clone()).unwrap();
        super::backend(tools.clone(), Arc::clone(&keys), Some(cluster))
    };
    conformance::Bench {
        store: STORE.into(),
        parameters: parameters.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        claims: claims.clone(),
        // An archived subvolume keeps its place, since there is no renaming; a directory of an older provisioner goes at once.
        ways: Ways { commits: false, makes_room: false, purges_older: false },
        open: Box::new(open),
        storage: Box::new(Behind { world, monitors, group, claims }),
    }
}

/// The file system behind the backend's back.
struct Behind {
    world: Box<dyn World>,
    monitors: String,
    group: String,
    claims: String,
}

impl Drop for Behind {
    fn drop(&mut self) {
        // What a failure left is for whoever looks into it.
        if !std::thread::panicking() {
            self.world.clear(&self.claims);
        }
    }
}

impl Behind {
    fn path(place: &Location) -> String {
        format!("/{}", place.path)
    }

    /// What `ceph fs subvolume <verb>` says of what lies at that place; `None` where it fails.
    fn ask(&self, verb: &[&str], place: &Location) -> Option<String> {
        let [_, group @ .., name] = &*place.path else { unreachable!("{place}") };
        let at = ["cephfs", name, "--group_name", &group.join("/")];
        self.world.ceph(&[&["fs", "subvolume"][..], verb, &at].concat())
    }

    /// Where a pod that mounts the subvolume finds itself.
    fn data(&self, place: &Location) -> Option<String> {
        Some(self.ask(&["getpath"], place)?.trim().to_owned())
    }

    fn is_marked_archived(&self, place: &Location) -> bool {
        self.ask(&["metadata", "ls"], place).is_some_and(|metadata| metadata.contains("berth.archived"))
    }
}

impl Storage for Behind {
    fn exists(&self, place: &Location) -> bool {
        self.world.exists(&Self::path(place))
            && !self.is_marked_archived(place)
            && !self.ask(&["metadata", "ls"], place).is_some_and(|marks| marks.contains("berth.deleted"))
    }

    fn fill(&self, place: &Location) {
        self.world.fill(&self.data(place).unwrap());
    }

    fn plant(&self, place: &Location) {
        self.world.plant(&Self::path(place));
    }

    /// Subvolume, user and Secret are all named by the UID.
    fn volume_of(&self, request: &VolumeRequest, other: &Volume) -> Volume {
        let (its, theirs) = (names::user(&request.name).unwrap(), names::user(other.id.name()).unwrap());
        let renamed = |map: &BTreeMap<String, String>| {
            map.iter().map(|(key, value)| (key.clone(), value.replace(&theirs, &its))).collect()
        };
        let id = id_of(request, other);
        let Source::Csi(csi) = &other.source else { unreachable!("{}", other.source) };
        let source = CsiSource {
            handle: id.to_string(),
            attributes: renamed(&csi.attributes),
            stage_secret: csi
                .stage_secret
                .clone()
                .map(|secret| SecretName { name: secret.name.replace(&theirs, &its), ..secret }),
            ..csi.clone()
        };
        Volume { id, source: Source::Csi(source), record: renamed(&other.record), ..other.clone() }
    }

    fn older(&self, _: &Source, name: &str) -> Source {
        let digits = name.bytes().take(6).fold(0_u64, |digits, byte| digits << 8 | u64::from(byte));
        let uuid = format!("01234567-89ab-cdef-0123-{digits:012x}");
        Source::Cephfs(CephfsSource {
            monitors: self.monitors.split(',').map(str::to_owned).collect(),
            path: format!("/volumes/{}/kubernetes/kubernetes-dynamic-pvc-{uuid}", self.group),
            user: format!("kubernetes-dynamic-user-{uuid}"),
            secret: None,
        })
    }

    fn elsewhere(&self, source: &Source) -> Vec<Source> {
        let Source::Csi(csi) = source else { unreachable!("{source}") };
        let with = |key: &str, value: &str| {
            let mut csi = csi.clone();
            csi.attributes.insert(key.to_owned(), value.to_owned());
            Source::Csi(csi)
        };
        let Source::Cephfs(older) = self.older(source, "elsewhere") else { unreachable!("{source}") };
        vec![
            Source::Csi(CsiSource { driver: "cephfs.csi.ceph.com".into(), ..csi.clone() }),
            with("clusterID", ""),
            with("group", "_nogroup"),
            with("subvolume", ".."),
            Source::Cephfs(CephfsSource { path: "/".into(), ..older.clone() }),
            Source::Cephfs(CephfsSource { path: format!("{}/../x", older.path), ..older.clone() }),
            Source::Cephfs(CephfsSource { monitors: Vec::new(), ..older }),
            Source::Nfs { server: "server".into(), path: "/export".into() },
        ]
    }

    /// It stays where it was, with a mark; without its users.
    fn is_archived(&self, place: &Location, told: &str) -> bool {
        let content = || self.data(place).is_some_and(|data| self.world.exists(&format!("{data}/file")));
        told == place.path.to_string() && self.is_marked_archived(place) && content()
    }
}
