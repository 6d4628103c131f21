//! A cluster for tests of backends: [`FakeKubernetes`] says which PVs there are, who the cluster is and what time it is.
//!
//! It keeps no secrets; the tests of the Ceph backends have hosts of their own.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a failed expectation is how a test speaks"
)]

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;

use super::{ClusterInfo, Error, Kind, PvState};
use crate::volume::{ClusterIds, VolumeName};

/// What the tests say of the cluster.
#[derive(Debug)]
pub struct FakeKubernetes(Mutex<State>);

#[derive(Debug)]
struct State {
    cluster: Option<ClusterIds>,
    volumes: BTreeMap<VolumeName, (String, bool)>,
    reachable: bool,
    now: Option<SystemTime>,
    retention: Duration,
}

impl FakeKubernetes {
    /// A cluster with this identity and no PV, whose trash holds nothing back.
    pub fn new(cluster: &str) -> Self {
        Self(Mutex::new(State {
            cluster: Some(ClusterIds::only(cluster)),
            volumes: BTreeMap::new(),
            reachable: true,
            now: None,
            retention: Duration::ZERO,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The cluster is this one from now on; `None`: nobody knows.
    pub fn set_cluster(&self, cluster: Option<ClusterIds>) {
        self.state().cluster = cluster;
    }

    /// There is a PV of this name from now on; `removing`: it is released and to be removed.
    pub fn set_volume(&self, name: &VolumeName, uid: &str, removing: bool) {
        self.state().volumes.insert(name.clone(), (uid.to_owned(), removing));
    }

    /// There is no such PV any more.
    pub fn delete_volume(&self, name: &VolumeName) {
        self.state().volumes.remove(name);
    }

    /// Whether the API server answers.
    pub fn set_reachable(&self, reachable: bool) {
        self.state().reachable = reachable;
    }

    /// The time by the API server; without it, ours.
    pub fn set_now(&self, now: SystemTime) {
        self.state().now = Some(now);
    }

    /// How long what is deleted stays in the trash.
    pub fn set_retention(&self, retention: Duration) {
        self.state().retention = retention;
    }
}

#[async_trait]
impl ClusterInfo for FakeKubernetes {
    fn cluster_id(&self) -> Option<String> {
        self.cluster_ids().map(|ids| ids.current().to_owned())
    }

    fn cluster_ids(&self) -> Option<ClusterIds> {
        self.state().cluster.clone()
    }

    async fn pv_state(&self, name: &VolumeName) -> Result<PvState, Error> {
        let state = self.state();
        if !state.reachable {
            return Err(Error::new(Kind::Unavailable, "the API server does not answer"));
        }
        Ok(match state.volumes.get(name) {
            None => PvState::Absent,
            Some((uid, removing)) => PvState::Present { uid: uid.clone(), removing: *removing },
        })
    }

    fn now(&self) -> Option<SystemTime> {
        Some(self.state().now.unwrap_or_else(SystemTime::now))
    }

    fn trash_retention(&self) -> Duration {
        self.state().retention
    }
}
