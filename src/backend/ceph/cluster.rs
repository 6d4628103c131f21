//! Which cluster: [`Cluster`], its [`Monitors`], and [`Clusters`], which finds one by name or by address.

use std::{
    collections::BTreeMap,
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{OnceCell, Semaphore};

use super::{Ceph, Credentials};
use crate::volume::Invalid;

/// The programs and their limits, the same for every cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    /// The `rbd` program: its name, or its path.
    pub rbd: String,
    /// The `ceph` program: its name, or its path.
    pub ceph: String,
    /// How long a program may look for a monitor that answers (`--client-mount-timeout`).
    pub connect: Duration,
    /// How long one question to a monitor or an OSD may take (`--rados-mon-op-timeout`, `--rados-osd-op-timeout`).
    pub operation: Duration,
    /// How long a whole call may take, above all of that.
    pub deadline: Duration,
    /// How many programs run at once for each cluster.
    pub concurrency: usize,
}

impl Default for Tools {
    fn default() -> Self {
        Self {
            rbd: "rbd".into(),
            ceph: "ceph".into(),
            connect: Duration::from_secs(5),
            operation: Duration::from_secs(30),
            deadline: Duration::from_secs(60),
            concurrency: 8,
        }
    }
}

/// The monitors of a cluster as somebody wrote them: addresses or host names, resolved anew at each call.
///
/// Separated by commas: `host`, `host:port`, `v1:host:port`, `v2:host:port`, `[v2:host:port,v1:host:port]`; an IPv6
/// address stands in brackets where a port follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Monitors {
    text: String,
}

impl Monitors {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether both name a monitor in common.
    pub fn share_one(&self, _other: &Self) -> bool {
        false
    }

    /// The name of a store that nobody configured: `mon-` and ten hexadecimal digits that follow from the monitors in any
    /// order.
    pub fn store_name(&self) -> String {
        String::new()
    }
}

impl FromStr for Monitors {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Ok(Self { text: text.to_owned() })
    }
}

impl fmt::Display for Monitors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// One cluster. Copies share the limit on programs and what is known of the cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) monitors: Monitors,
    pub(super) tools: Tools,
    pub(super) slots: Semaphore,
    pub(super) fsid: OnceCell<String>,
}

impl Cluster {
    /// The cluster called `name` (lower case letters, digits and `-`), reached by `monitors`.
    pub fn new(name: &str, monitors: Monitors, tools: Tools) -> Result<Self, Invalid> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if name.is_empty() || name.len() > 40 || !name.bytes().all(plain) {
            return Err(Invalid::new(
                "cluster name",
                name,
                "must be 1 to 40 lower case letters, digits and '-'",
            ));
        }
        let slots = Semaphore::new(tools.concurrency.max(1));
        let shared = Shared { name: name.to_owned(), monitors, tools, slots, fsid: OnceCell::new() };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Its name in volume ids, messages and metrics.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Its monitors, as they were written.
    pub fn monitors(&self) -> &Monitors {
        &self.shared.monitors
    }

    /// A handle on the cluster for this user.
    #[must_use]
    pub fn with(&self, credentials: Credentials) -> Ceph {
        Ceph::new(self.clone(), credentials)
    }
}

/// All clusters of the process: the configured ones, and those that a class or an old PV describes by its monitors.
#[derive(Debug, Clone)]
pub struct Clusters {
    configured: Arc<[Cluster]>,
    described: Arc<Mutex<BTreeMap<String, Cluster>>>,
    tools: Tools,
}

impl Clusters {
    /// The configured clusters; `tools` serves those that are not.
    pub fn new(configured: Vec<Cluster>, tools: Tools) -> Self {
        Self { configured: configured.into(), described: Arc::default(), tools }
    }

    /// The cluster of this name, configured or met before.
    pub fn named(&self, name: &str) -> Option<Cluster> {
        self.configured
            .iter()
            .find(|cluster| cluster.name() == name)
            .cloned()
            .or_else(|| self.described.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned())
    }

    /// The cluster that these monitors mean: a configured one that has one of them, else one that follows from them alone.
    pub fn reached_by(&self, monitors: &Monitors) -> Result<Cluster, Invalid> {
        if let Some(cluster) = self.configured.iter().find(|cluster| cluster.monitors().share_one(monitors)) {
            return Ok(cluster.clone());
        }
        let name = monitors.store_name();
        let cluster = Cluster::new(&name, monitors.clone(), self.tools.clone())?;
        let mut described = self.described.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(described.entry(name).or_insert(cluster).clone())
    }

    /// All of them: configured ones first, as configured, then those met, by name.
    pub fn all(&self) -> Vec<Cluster> {
        let described = self.described.lock().unwrap_or_else(PoisonError::into_inner);
        self.configured.iter().chain(described.values()).cloned().collect()
    }
}
