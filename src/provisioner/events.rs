//! What we tell people about their claims and volumes: Kubernetes Events, published through [`Events`].
//!
//! Publishing never waits: a background task posts, merges repeats, and lets the provisioning go first. Events are told
//! in the core/v1 API, which the roles of old installations allow.
//!
//! It does not promise delivery: what cannot be posted is dropped and counted.

use std::{borrow::Cow, time::Duration};

use kube::Client;

/// The object that an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Regarding {
    /// `v1`.
    pub api_version: Cow<'static, str>,
    /// `PersistentVolumeClaim`.
    pub kind: Cow<'static, str>,
    /// Its namespace; `None` for a cluster-wide object, whose events go to `default`.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Which version of it.
    pub resource_version: Option<String>,
}

impl Regarding {
    /// A claim.
    pub fn claim(_namespace: &str, _name: &str, _uid: &str, _resource_version: Option<&str>) -> Self {
        unimplemented!()
    }

    /// A `PersistentVolume`.
    pub fn volume(_name: &str, _uid: &str, _resource_version: Option<&str>) -> Self {
        unimplemented!()
    }
}

/// How much attention an event asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Type {
    /// For information.
    Normal,
    /// Somebody should look.
    Warning,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// To which object.
    pub regarding: Regarding,
    /// How bad it is.
    pub kind: Type,
    /// One word in CamelCase.
    pub reason: &'static str,
    /// What happened, as a sentence; what is longer than 1,024 bytes is cut.
    pub note: String,
}

/// Who publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reporter {
    /// `<provisioner>_<hostname>_<uuid>`, as the old provisioners wrote it.
    pub component: String,
    /// The pod.
    pub instance: String,
}

impl Reporter {
    /// The reporter for a process that serves `provisioner` on `hostname`; different for every process.
    pub fn new(_provisioner: &str, _hostname: &str) -> Self {
        unimplemented!()
    }
}

/// What became of the events so far; for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Wait to be posted, or are being posted.
    pub pending: usize,
    /// Created on the server.
    pub created: u64,
    /// Added to an event that the server has.
    pub repeated: u64,
    /// Left out because the object had too many.
    pub suppressed: u64,
    /// Lost: too many at once, or the server refused them.
    pub dropped: u64,
}

/// Where to publish; clones publish to the same task.
#[derive(Clone)]
pub struct Events {}

impl Events {
    /// Starts the background task. `foreground` tells how many writes for provisioning are under way or waiting: while
    /// there are any, events keep out of their way.
    pub fn start(
        _client: Client,
        _reporter: Reporter,
        _foreground: impl Fn() -> usize + Send + Sync + 'static,
    ) -> Self {
        unimplemented!()
    }

    /// Tells it to whoever looks. Never waits.
    pub fn publish(&self, _event: Event) {
        unimplemented!()
    }

    /// What became of them.
    pub fn counts(&self) -> Counts {
        unimplemented!()
    }

    /// Posts what is still waiting, for at most `limit`.
    pub async fn flush(&self, _limit: Duration) {
        unimplemented!()
    }
}
