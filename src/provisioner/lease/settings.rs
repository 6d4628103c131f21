//! Which lock it is, who may hold it, and for how long: [`Settings`].

use std::time::Duration;

use rand::Rng;

use crate::volume::Invalid;

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

    /// Whether the times fit together.
    pub fn check(&self) -> Result<(), Invalid> {
        let seconds = |time: Duration| format!("{}s", time.as_secs_f64());
        let wrong = |what, time, why: String| Err(Invalid::new(what, seconds(time), why));
        if self.duration.subsec_nanos() != 0 || self.duration > Duration::from_hours(1) {
            let why = "must be whole seconds and at most one hour, because the Lease object stores seconds"
                .to_owned();
            return wrong("lease duration", self.duration, why);
        }
        if self.renew_deadline >= self.duration {
            let why = format!(
                "must be less than the lease duration, {}: the leader must stop before another replica starts",
                seconds(self.duration)
            );
            return wrong("lease renew deadline", self.renew_deadline, why);
        }
        // The wait between two renewals is up to 1.2 times the period, and a renewal must have time for two requests.
        if self.retry_period.is_zero() || self.retry_period.saturating_mul(2) > self.renew_deadline {
            let why = format!(
                "must be more than 0 and at most half of the renew deadline, {}",
                seconds(self.renew_deadline)
            );
            return wrong("lease retry period", self.retry_period, why);
        }
        Ok(())
    }

    /// How long one request may take: a renewal can be tried twice before its deadline.
    pub(super) fn request_limit(&self) -> Duration {
        self.renew_deadline / 2
    }
}
