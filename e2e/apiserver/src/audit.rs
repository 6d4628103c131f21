//! Audit: how many requests of which kind, and when, for those who ask.
//!
//! Entry point: [`Audit`], reached by `ApiServer::audit`. Counts are always kept; a log with times only for the users
//! that were named. Deliberately not here: bodies.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

/// What is counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuditKey {
    /// The user.
    pub user: String,
    /// The verb, as `list` or `patch`.
    pub verb: String,
    /// The resource in the plural, or the path of what is no resource.
    pub resource: String,
    /// The subresource, or nothing.
    pub subresource: String,
    /// The code of the answer; 0 when the connection was broken instead.
    pub code: u16,
}

/// One request of a user whose requests are logged.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    /// What it was and how it ended.
    pub key: AuditKey,
    /// The namespace, or nothing.
    pub namespace: String,
    /// The name of the object, or nothing.
    pub name: String,
    /// When it came in.
    pub started: Instant,
    /// When its answer began.
    pub answered: Instant,
}

#[derive(Default)]
struct State {
    counts: BTreeMap<AuditKey, u64>,
    logged: BTreeSet<String>,
    log: Vec<AuditEntry>,
}

/// The record of requests.
#[derive(Clone, Default)]
pub struct Audit(Arc<Mutex<State>>);

impl Audit {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The counts so far.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<AuditKey, u64> {
        self.state().counts.clone()
    }

    /// The sum of the counts whose keys are wanted.
    pub fn count(&self, wanted: impl Fn(&AuditKey) -> bool) -> u64 {
        self.state().counts.iter().filter(|(key, _)| wanted(key)).map(|(_, count)| count).sum()
    }

    /// Writes (successful or not) of one user, without reviews.
    #[must_use]
    pub fn writes(&self, user: &str) -> u64 {
        self.count(|key| {
            key.user == user
                && !key.resource.ends_with("reviews")
                && matches!(key.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection")
        })
    }

    /// Reads of one user: `get`, `list` and `watch` of resources.
    #[must_use]
    pub fn reads(&self, user: &str) -> u64 {
        self.count(|key| {
            key.user == user
                && !key.resource.starts_with('/')
                && matches!(key.verb.as_str(), "get" | "list" | "watch")
        })
    }

    /// Forgets counts and log; the users whose requests are logged stay.
    pub fn reset(&self) {
        let mut state = self.state();
        state.counts.clear();
        state.log.clear();
    }

    /// From now on keeps the requests of a user with their times.
    pub fn log_user(&self, user: &str) {
        self.state().logged.insert(user.to_owned());
    }

    /// The logged requests, in the order of their answers.
    #[must_use]
    pub fn log(&self) -> Vec<AuditEntry> {
        self.state().log.clone()
    }

    pub(crate) fn record(&self, entry: AuditEntry) {
        let mut state = self.state();
        *state.counts.entry(entry.key.clone()).or_insert(0) += 1;
        if state.logged.contains(&entry.key.user) {
            state.log.push(entry);
        }
    }
}
