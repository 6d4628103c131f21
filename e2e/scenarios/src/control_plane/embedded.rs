//! The embedded API server of `berth-apiserver`, in this process, with all its controllers.

use std::{fmt, time::Instant};

use anyhow::{Context, Result};
use berth_apiserver::{ApiServer, Options};
use jiff::{SignedDuration, Timestamp};

use super::{Access, Request, User};

/// A running embedded control plane.
pub struct Embedded {
    server: ApiServer,
    /// One moment by both clocks: the record of requests knows no wall clock.
    began: (Instant, Timestamp),
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("url", &self.server.url()).finish_non_exhaustive()
    }
}

impl Embedded {
    pub(super) fn start() -> Result<Self> {
        let server = ApiServer::start(Options::default()).context("start the embedded API server")?;
        for user in User::ALL {
            server.add_user(user.name(), user.groups());
        }
        for user in [User::Berth, User::OldProvisioner, User::ControllerManager] {
            server.audit().log_user(user.name());
        }
        Ok(Self { server, began: (Instant::now(), Timestamp::now()) })
    }

    /// The server itself, for what only it can do.
    #[must_use]
    pub fn server(&self) -> &ApiServer {
        &self.server
    }

    pub(super) fn access(&self, user: User) -> Result<Access> {
        let token =
            self.server.token(user.name()).with_context(|| format!("{} has no token", user.name()))?;
        Ok(Access { url: self.server.url(), authority: None, token })
    }

    pub(super) fn requests(&self, user: User) -> Result<Vec<Request>> {
        let (instant, timestamp) = self.began;
        let time = |at: Instant| -> Result<Timestamp> {
            let since = SignedDuration::try_from(at.saturating_duration_since(instant))?;
            Ok(timestamp.checked_add(since)?)
        };
        let mut requests = Vec::new();
        for entry in self.server.audit().log() {
            // Discovery and probes are no requests for objects.
            if entry.key.user != user.name() || entry.key.resource.starts_with('/') {
                continue;
            }
            let resource = if entry.key.subresource.is_empty() {
                entry.key.resource
            } else {
                format!("{}/{}", entry.key.resource, entry.key.subresource)
            };
            requests.push(Request {
                received: time(entry.started)?,
                answered: time(entry.answered)?,
                verb: entry.key.verb,
                resource,
                namespace: entry.namespace,
                name: entry.name,
                code: entry.key.code,
            });
        }
        requests.sort_by_key(|request| request.received);
        Ok(requests)
    }

    pub(super) fn stop_api_server(&self) {
        self.server.stop_listening();
    }

    pub(super) fn start_api_server(&self) -> Result<()> {
        self.server.listen_again().context("let the embedded API server listen again")
    }
}
