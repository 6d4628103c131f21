//! What the API server lets us do, and what we do without: [`Rights`], kept up to date by [`Monitor`].
//!
//! It asks at the start, and again after a refusal. [`degrade`] says in words what is missing.
//! It enforces nothing: a right that was wrongly thought to be there shows as a 403 where it is used.

use std::{collections::BTreeSet, time::Duration};

use kube::Client;
use tokio::sync::watch;

/// One thing that the loop may have to do with the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "verb and resource")]
pub enum Right {
    GetVolumes,
    ListVolumes,
    WatchVolumes,
    CreateVolumes,
    DeleteVolumes,
    PatchVolumes,
    GetClaims,
    ListClaims,
    WatchClaims,
    PatchClaimStatus,
    ListClasses,
    WatchClasses,
    CreateEvents,
    PatchEvents,
    GetLeases,
    CreateLeases,
    UpdateLeases,
    GetEndpoints,
    CreateEndpoints,
    UpdateEndpoints,
    GetSecrets,
}

/// What we may do, as far as known: everything that nobody denied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rights {
    denied: BTreeSet<Right>,
}

impl Rights {
    /// Whether `right` is there, as far as known.
    pub fn allow(&self, right: Right) -> bool {
        !self.denied.contains(&right)
    }
}

/// A loss of function for want of a right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Without it there is no provisioning at all.
    pub required: bool,
    /// What is missing.
    pub missing: Vec<Right>,
    /// What cannot be done, and what happens instead; a sentence or two.
    pub text: String,
    /// The RBAC rule that would help, in YAML.
    pub rule: String,
}

/// What the missing rights mean.
pub fn degrade(_rights: &Rights, _namespace: &str) -> Vec<Notice> {
    unimplemented!()
}

/// Asks now, and again later: every ten minutes, and soon after a refusal.
pub struct Monitor {}

impl Monitor {
    /// Asks for `wanted` (see [`Monitor::LOOP`]) within `limit` and goes on asking in the background. Where the server does not answer, a right counts
    /// as there.
    pub async fn start(
        _client: Client,
        _namespace: &str,
        _wanted: &'static [Right],
        _limit: Duration,
    ) -> Self {
        unimplemented!()
    }

    /// What the loop needs without and with leader election, NFS only.
    pub const LOOP: &'static [Right] = &[];

    /// What we may do, now and whenever it changes.
    pub fn rights(&self) -> watch::Receiver<Rights> {
        unimplemented!()
    }

    /// The server refused (403) what needs `right`: asks again soon; where it cannot be asked, the right counts as missing.
    pub fn refused(&self, _right: Right) {
        unimplemented!()
    }
}
