//! What was deleted is purged from the trash of its pool: [`Trash`] is the account of it, [`tend`] the loop.
//!
//! What is to be purged follows from the trash alone, so that a new process goes on where an older one ended: an image under a
//! name of ours, to which a time was given, and the time is over. Ceph keeps the time; nothing is ever forced. What somebody moved
//! to the trash by hand, and what other programs did, is left alone. What cannot be purged is tried again later and shown.
//!
//! A trash is listed once, and again when something in it is due: when that is, the list tells, and whoever moves something there.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use futures::{StreamExt as _, stream};
use tokio::sync::Notify;

use super::{
    Admin,
    entry::{Entry, Fate},
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
    /// When something is due that was moved there since the trash was listed.
    due: Mutex<BTreeMap<Spot, SystemTime>>,
    wake: Notify,
}

impl Trash {
    /// Notes that something was moved to the trash to be purged when that time has come.
    pub(super) fn added(&self, spot: &Spot, until: SystemTime) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.expects(spot, until);
    }

    /// Notes that something in the trash will be due then.
    pub(super) fn expects(&self, spot: &Spot, until: SystemTime) {
        let mut due = self.due();
        let known = due.entry(spot.clone()).or_insert(until);
        *known = (*known).min(until);
        drop(due);
        self.wake();
    }

    fn due(&self) -> MutexGuard<'_, BTreeMap<Spot, SystemTime>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the loop see what has changed.
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
    until: SystemTime,
    length: Duration,
    why: String,
}

/// What is known of one trash.
struct Known {
    /// When it is looked at again.
    next: SystemTime,
    /// How many images wait in it to be purged.
    waiting: usize,
    /// Why it could not be listed, and how long the pause is.
    unlisted: Option<(String, Duration)>,
}

/// Purges the trash of `store` until the permit ends. `admin`: who may look at the whole cluster.
pub(super) async fn tend(store: Arc<Store>, host: Arc<dyn Host>, admin: Option<Admin>, permit: Permit) {
    let mut tending = Tending { store, host, known: BTreeMap::new(), paused: HashMap::new() };
    let mut searched: Option<Instant> = None;
    while permit.check().is_ok() {
        if let Some(admin) = &admin
            && searched.is_none_or(|at| at.elapsed() >= SEARCH)
        {
            searched = Some(Instant::now());
            if let Err(error) = tending.search(admin).await {
                let cluster = tending.store.cluster.name();
                let error = error.chain();
                tracing::debug!(cluster, error, "cannot search the pools for what was left behind");
                // The cluster may be away.
                searched = Instant::now().checked_sub(SEARCH.saturating_sub(LONGEST_PAUSE));
            }
        }
        tending.round(&permit).await;
        let idle = tending.idle();
        tokio::time::sleep(tending.store.pace.soon).await;
        tokio::select! {
            () = tokio::time::sleep(idle.saturating_sub(tending.store.pace.soon)) => {}
            () = tending.store.trash.wake.notified() => {}
        }
    }
}

struct Tending {
    store: Arc<Store>,
    host: Arc<dyn Host>,
    known: BTreeMap<Spot, Known>,
    paused: HashMap<String, Pause>,
}

impl Tending {
    /// How long nothing is to be done, as far as is known.
    fn idle(&self) -> Duration {
        let now = self.store.now();
        let added = self.store.trash.due().values().min().copied();
        let next = self.known.values().map(|known| known.next).chain(added);
        let pace = self.store.pace;
        next.min().map_or(pace.later, |next| next.duration_since(now).unwrap_or_default().min(pace.later))
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

    /// Looks at every trash in which something is due, or of which nothing is known, and purges what is over.
    async fn round(&mut self, permit: &Permit) {
        let now = self.store.now();
        let spots = self.store.spots();
        self.known.retain(|known, _| spots.iter().any(|(spot, _)| spot == known));
        for (spot, admin) in spots {
            let added = self.store.trash.due().get(&spot).is_some_and(|due| *due <= now);
            if !added && self.known.get(&spot).is_some_and(|known| known.next > now) {
                continue;
            }
            if permit.check().is_err() {
                break;
            }
            // What comes there from now on is not in the list.
            self.store.trash.due().remove(&spot);
            let listed = async {
                let work = Work::new(&self.store, &self.host, &spot, &admin, false).await?;
                let entries = work.in_trash().await?;
                Ok::<_, Trouble>((work, entries))
            };
            match listed.await {
                Ok((work, entries)) => self.purge(&work, entries, permit).await,
                Err(trouble) => self.not_listed(&spot, trouble),
            }
            self.tell();
        }
    }

    /// Purges what is over in one trash.
    async fn purge(&mut self, work: &Work, entries: Vec<Entry>, permit: &Permit) {
        let now = self.store.now();
        let ours: Vec<Entry> = entries.into_iter().filter(to_be_purged).collect();
        let within = format!("{}/", work.spot);
        self.paused.retain(|id, _| {
            let here = id.strip_prefix(&within).filter(|rest| !rest.contains('/'));
            here.is_none_or(|id| ours.iter().any(|entry| entry.id == id))
        });
        let (mut due, later): (Vec<Entry>, Vec<Entry>) =
            ours.into_iter().partition(|entry| entry.is_over(now));
        let mut next: Vec<SystemTime> = later.iter().map(|entry| entry.until).collect();
        let waiting = later.iter().filter(|entry| entry.fate() == Fate::Deleted).count() + due.len();
        self.known.insert(work.spot.clone(), Known { next: now, waiting, unlisted: None });
        self.tell();
        due.retain(|entry| {
            let paused = self.paused.get(&work.spot.spec(&entry.id)).filter(|pause| pause.until > now);
            next.extend(paused.map(|pause| pause.until));
            paused.is_none()
        });
        let purges = due.into_iter().map(|entry| async move {
            let outcome = match permit.check() {
                Ok(()) => work.purge(&entry, permit).await,
                Err(expired) => Err(Trouble::Said(expired.into())),
            };
            (entry, outcome)
        });
        let mut purges = Box::pin(stream::iter(purges).buffer_unordered(ABREAST));
        while let Some((entry, outcome)) = purges.next().await {
            next.extend(self.purged(&work.spot, &entry, outcome));
        }
        drop(purges);
        let look = self.store.now() + self.store.pace.look;
        if let Some(known) = self.known.get_mut(&work.spot) {
            known.next = next.into_iter().fold(look, SystemTime::min);
        }
    }

    /// Notes what became of a purge; when to look again, where it did not succeed.
    fn purged(&mut self, spot: &Spot, entry: &Entry, outcome: Result<(), Trouble>) -> Option<SystemTime> {
        let id = spot.spec(&entry.id);
        let now = self.store.now();
        match outcome {
            Ok(()) => {
                tracing::info!(image = spot.spec(&entry.name), id, "purged a deleted image");
                self.store.trash.purged.fetch_add(1, Ordering::Relaxed);
                self.paused.remove(&id);
                if let Some(known) = self.known.get_mut(spot) {
                    known.waiting = known.waiting.saturating_sub(1);
                }
                self.tell();
                None
            }
            // Our clock is ahead of the program's; the next look finds it.
            Err(trouble) if trouble.is_too_early() => Some(now + self.store.pace.soon),
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
                let until = now + length;
                self.paused.insert(id, Pause { until, length, why });
                Some(until)
            }
        }
    }

    fn not_listed(&mut self, spot: &Spot, trouble: Trouble) {
        let (cluster, elsewhere) = (self.store.cluster.name(), trouble.is_elsewhere());
        let why = Error::from(trouble).chain();
        let (now, pace) = (self.store.now(), self.store.pace);
        let known = self.known.entry(spot.clone()).or_insert(Known { next: now, waiting: 0, unlisted: None });
        if elsewhere {
            tracing::debug!(cluster, %spot, error = why, "there is no trash here");
            *known = Known { next: now + pace.look, waiting: 0, unlisted: None };
            return;
        }
        // What waits there is not purged. Told once.
        let length = if let Some((_, length)) = &known.unlisted {
            tracing::debug!(cluster, %spot, error = why, "cannot list a trash yet");
            (*length * 2).min(LONGEST_PAUSE)
        } else {
            tracing::warn!(cluster, %spot, error = why, "cannot list a trash");
            pace.first_pause
        };
        known.next = now + length;
        known.unlisted = Some((why, length));
    }

    /// Lets whoever looks at the store see how things are.
    fn tell(&self) {
        self.store
            .trash
            .waiting
            .store(self.known.values().map(|known| known.waiting).sum(), Ordering::SeqCst);
        let unlisted = self
            .known
            .iter()
            .filter_map(|(spot, known)| Some((spot.to_string(), known.unlisted.as_ref()?.0.clone())));
        let stuck =
            self.paused.iter().map(|(id, pause)| (id.clone(), pause.why.clone())).chain(unlisted).collect();
        *self.store.trash.stuck.lock().unwrap_or_else(PoisonError::into_inner) = stuck;
    }
}

/// Whether an image in the trash is ours to purge, now or when its time has come.
fn to_be_purged(entry: &Entry) -> bool {
    names::is_ours_in_trash(&entry.name)
        && match entry.fate() {
            Fate::Deleted | Fate::Archived => true,
            Fate::ByHand => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_we_deleted_or_what_was_kept_for_its_time_is_purged() {
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000);
        let (soon, late) = (Duration::from_secs(15), Duration::from_hours(720));
        let rows = [
            ("deleted", "berth-1", soon, true),
            ("of an older provisioner, deleted", "berth.deleted-pvc-1", soon, true),
            ("archived", "berth-1", late, true),
            ("moved by hand", "berth-1", Duration::ZERO, false),
            ("of an older provisioner, archived", "kubernetes-dynamic-pvc-1", late, false),
            ("another program's", "csi-vol-1", soon, false),
        ];
        for (row, name, kept, expected) in rows {
            let entry = Entry { id: "1".into(), name: name.into(), since, until: since + kept };
            assert_eq!(to_be_purged(&entry), expected, "{row}");
            assert!(kept.is_zero() || !entry.is_over(since), "{row}: not before its time");
        }
    }
}
