//! Which lock it is, who may hold it, and for how long: [`Settings`].

use std::time::Duration;

use rand::Rng;

/// Which lock, who we are, and the three times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The name of the `Lease`, and of the `Endpoints` that the old provisioners lock.
    pub name: String,
    /// The namespace of both.
    pub namespace: String,
    /// Who we are; different for every process.
    pub identity: String,
    /// How long others wait for a leader that does not renew.
    pub duration: Duration,
    /// How long the leader goes on working without a renewal.
    pub renew_deadline: Duration,
    /// How often the leader renews and the others look.
    pub retry_period: Duration,
}

impl Settings {
    /// The lock of `provisioner` with the usual times (15 s, 10 s, 2 s), for a process on `hostname`.
    pub fn new(provisioner: &str, namespace: &str, hostname: &str) -> Self {
        Self {
            name: provisioner.replace('/', "-"),
            namespace: namespace.to_owned(),
            identity: format!("{hostname}_{:032x}", rand::rng().random::<u128>()),
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }

    /// How long one request may take: a renewal can be tried twice before its deadline.
    pub(super) fn request_limit(&self) -> Duration {
        self.renew_deadline / 2
    }
}
