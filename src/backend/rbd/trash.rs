//! What was deleted is purged from the trash of its pool: [`Trash`] is the account of it, [`tend`] the loop.
//!
//! What is to be purged follows from the trash alone, so that a new process goes on where an older one ended: an image under a
//! name of ours, to which a time was given, and the time is over. Ceph keeps the time; nothing is ever forced. What somebody moved
//! to the trash by hand, and what other programs did, is left alone. What cannot be purged is tried again later and shown.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt as _, stream};
use tokio::sync::Notify;

use super::{
    Admin,
    image::{Entry, Fate},
    names::{self, Spot},
    store::{Store, Trouble, Work},
};
use crate::{
    backend::{Error, Host},
    volume::Permit,
};

/// How often the pools of a cluster are listed, to find what was left behind where nobody has a volume any more.
const SEARCH: Duration = Duration::from_hours(1);
/// How many images are purged side by side: it makes a lot of work for the cluster.
const ABREAST: usize = 2;
/// The longest pause before something that was stuck is tried again.
const LONGEST_PAUSE: Duration = Duration::from_mins(10);

/// What is in the trash of one cluster.
#[derive(Debug, Default)]
pub(super) struct Trash {
    waiting: AtomicUsize,
    purged: AtomicU64,
    stuck: Mutex<Vec<(String, String)>>,
    wake: Notify,
}

impl Trash {
    /// Notes that something was moved to the trash to be purged.
    pub(super) fn added(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.wake();
    }

    /// Lets the trash be looked at soon.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    pub(super) fn purged(&self) -> u64 {
        self.purged.load(Ordering::Relaxed)
    }

    pub(super) fn stuck(&self) -> Vec<(String, String)> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// When an image is tried again, and how long the pause was.
struct Pause {
    until: Instant,
    length: Duration,
    why: String,
}

/// Purges the trash of `store` until the permit ends. `admin`: who may look at the whole cluster.
pub(super) async fn tend(store: Arc<Store>, host: Arc<dyn Host>, admin: Option<Admin>, permit: Permit) {
    let (waiting, unlisted, paused) = (BTreeMap::new(), BTreeMap::new(), HashMap::new());
    let mut tending = Tending { store, host, waiting, unlisted, paused };
    let mut searched: Option<Instant> = None;
    while permit.check().is_ok() {
        if let Some(admin) = &admin
            && searched.is_none_or(|at| at.elapsed() >= SEARCH)
        {
            match tending.search(admin).await {
                Ok(()) => searched = Some(Instant::now()),
                Err(error) => {
                    let cluster = tending.store.cluster.name();
                    tracing::debug!(
                        cluster,
                        error = error.chain(),
                        "cannot search the pools for what was left behind"
                    );
                }
            }
        }
        let pace = tending.store.pace;
        if tending.round(&permit).await {
            tokio::time::sleep(pace.soon).await;
        } else {
            tokio::select! {
                () = tokio::time::sleep(tending.idle()) => {}
                // Nothing is to be purged at once.
                () = tending.store.trash.wake.notified() => tokio::time::sleep(pace.soon).await,
            }
        }
    }
}

struct Tending {
    store: Arc<Store>,
    host: Arc<dyn Host>,
    /// How many images wait in each trash, as last seen.
    waiting: BTreeMap<Spot, usize>,
    /// Which trash cannot be listed, and why.
    unlisted: BTreeMap<Spot, String>,
    paused: HashMap<String, Pause>,
}

impl Tending {
    /// How long nothing is to be done, as far as is known.
    fn idle(&self) -> Duration {
        let now = Instant::now();
        let pauses = self.paused.values().map(|pause| pause.until.saturating_duration_since(now));
        let pace = self.store.pace;
        pauses.min().map_or(pace.later, |pause| pause.clamp(pace.soon, pace.later))
    }

    /// Finds the pools and namespaces where images of ours may have been left.
    async fn search(&self, admin: &Admin) -> Result<(), Error> {
        let nowhere = Spot { pool: String::new(), namespace: None };
        let work = Work::new(&self.store, &self.host, &nowhere, admin, false).await?;
        for pool in work.pools().await? {
            let spot = Spot { pool, namespace: None };
            let work = Work { spot: spot.clone(), ..work.clone() };
            // Another pool's users may not be ours.
            let namespaces = work.namespaces().await.unwrap_or_default();
            for namespace in namespaces {
                if names::checked("RADOS namespace", &namespace).is_ok() {
                    self.store.suppose(Spot { namespace: Some(namespace), ..spot.clone() }, admin);
                }
            }
            self.store.suppose(spot, admin);
        }
        Ok(())
    }

    /// Looks at every trash once and purges what is due; whether something waits still.
    async fn round(&mut self, permit: &Permit) -> bool {
        let mut due = Vec::new();
        let spots = self.store.spots();
        self.waiting.retain(|known, _| spots.iter().any(|(spot, _)| spot == known));
        self.unlisted.retain(|known, _| spots.iter().any(|(spot, _)| spot == known));
        for (spot, admin) in spots {
            let listed = async {
                let work = Work::new(&self.store, &self.host, &spot, &admin, false).await?;
                let entries = work.in_trash().await?;
                Ok::<_, Trouble>((work, entries))
            };
            match listed.await {
                Ok((work, entries)) => {
                    let ours: Vec<Entry> = entries.into_iter().filter(to_be_purged).collect();
                    self.unlisted.remove(&spot);
                    self.waiting.insert(spot, ours.len());
                    let over = |entry: &Entry| entry.fate().is_some_and(|(_, over)| over);
                    due.extend(ours.into_iter().filter(over).map(|entry| (work.clone(), entry)));
                }
                Err(trouble) => self.not_listed(spot, trouble),
            }
        }
        self.count();
        let now = Instant::now();
        let ids: Vec<String> = due.iter().map(|(work, entry)| work.spot.spec(&entry.id)).collect();
        self.paused.retain(|id, _| ids.contains(id));
        due.retain(|(work, entry)| {
            self.paused.get(&work.spot.spec(&entry.id)).is_none_or(|pause| pause.until <= now)
        });
        let purges = due.into_iter().map(|(work, entry)| async move {
            let outcome = match permit.check() {
                Ok(()) => work.purge(&entry, permit).await,
                Err(expired) => Err(Trouble::Said(expired.into())),
            };
            (work.spot, entry, outcome)
        });
        let mut purges = Box::pin(stream::iter(purges).buffer_unordered(ABREAST));
        while let Some((spot, entry, outcome)) = purges.next().await {
            self.purged(&spot, &entry, outcome);
        }
        drop(purges);
        let unlisted = self.unlisted.iter().map(|(spot, why)| (spot.to_string(), why.clone()));
        let stuck =
            self.paused.iter().map(|(id, pause)| (id.clone(), pause.why.clone())).chain(unlisted).collect();
        *self.store.trash.stuck.lock().unwrap_or_else(PoisonError::into_inner) = stuck;
        self.waiting.values().sum::<usize>() > self.paused.len()
    }

    fn purged(&mut self, spot: &Spot, entry: &Entry, outcome: Result<(), Trouble>) {
        let id = spot.spec(&entry.id);
        match outcome {
            Ok(()) => {
                tracing::info!(image = spot.spec(&entry.name), id, "purged a deleted image");
                self.store.trash.purged.fetch_add(1, Ordering::Relaxed);
                self.paused.remove(&id);
                if let Some(waiting) = self.waiting.get_mut(spot) {
                    *waiting = waiting.saturating_sub(1);
                }
                self.count();
            }
            // It was listed as over in the very second in which it ends; the next look finds it.
            Err(trouble) if trouble.is_too_early() => {}
            Err(trouble) => {
                let error = Error::from(trouble);
                let first = self.store.pace.first_pause;
                let length =
                    self.paused.get(&id).map_or(first, |pause| (pause.length * 2).min(LONGEST_PAUSE));
                let why = error.chain();
                tracing::warn!(
                    image = spot.spec(&entry.name),
                    id,
                    error = why,
                    "cannot purge a deleted image yet"
                );
                self.paused.insert(id, Pause { until: Instant::now() + length, length, why });
            }
        }
    }

    fn not_listed(&mut self, spot: Spot, trouble: Trouble) {
        let (cluster, elsewhere) = (self.store.cluster.name(), trouble.is_elsewhere());
        let why = Error::from(trouble).chain();
        if elsewhere {
            tracing::debug!(cluster, %spot, error = why, "there is no trash here");
            self.waiting.remove(&spot);
            self.unlisted.remove(&spot);
        } else {
            // What waits there is not purged. Told once.
            if self.unlisted.contains_key(&spot) {
                tracing::debug!(cluster, %spot, error = why, "cannot list a trash yet");
            } else {
                tracing::warn!(cluster, %spot, error = why, "cannot list a trash");
            }
            self.unlisted.insert(spot, why);
        }
    }

    fn count(&self) {
        self.store.trash.waiting.store(self.waiting.values().sum(), Ordering::SeqCst);
    }
}

/// Whether an image in the trash is ours to purge, now or later.
fn to_be_purged(entry: &Entry) -> bool {
    names::is_ours_in_trash(&entry.name)
        && match entry.fate() {
            Some((Fate::Deleted, _) | (Fate::Archived, true)) => true,
            Some((Fate::Archived, false) | (Fate::ByHand, _)) | None => false,
        }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_we_deleted_or_what_was_kept_for_its_time_is_purged() {
        let at = "Sun Nov 22 05:27:38 2026";
        let soon = "Sun Nov 22 05:27:53 2026";
        let late = "Tue Dec 22 05:27:38 2026";
        let rows = [
            ("deleted", "berth-1", format!("expired at {soon}"), true),
            ("deleted just now", "berth-1", format!("protected until {soon}"), true),
            ("of an older provisioner, deleted", "berth.deleted-pvc-1", format!("expired at {soon}"), true),
            ("archived until now", "berth-1", format!("expired at {late}"), true),
            ("archived", "berth-1", format!("protected until {late}"), false),
            ("moved by hand", "berth-1", format!("expired at {at}"), false),
            (
                "of an older provisioner, archived",
                "kubernetes-dynamic-pvc-1",
                format!("expired at {late}"),
                false,
            ),
            ("another program's", "csi-vol-1", format!("expired at {soon}"), false),
            ("said otherwise", "berth-1", "soon gone".into(), false),
        ];
        for (row, name, status, expected) in rows {
            let entry =
                json!({"id": "1", "name": name, "source": "USER", "deleted_at": at, "status": status});
            let entry: Entry = serde_json::from_value(entry).unwrap();
            assert_eq!(to_be_purged(&entry), expected, "{row}");
        }
    }
}
