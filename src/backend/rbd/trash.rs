//! What lies in the trash is looked after: [`collect_garbage`] is the loop; the account of it is in `account`.
//!
//! What was deleted is purged once its PV is gone and its time is over, what was rescued goes back ([`decide`](mod@super::decide)), also where an
//! earlier process left it; what others moved there is left alone. Nothing is ever forced. What cannot be purged is tried again
//! later and shown. A large image is purged in slices, beside the others (`slices`).
//!
//! A trash is listed once, and again when something in it is due: when that is, the list tells, and the removal that moves something there.
//! What is in the list for the first time is looked at once, since its PV may have been rescued while nothing led.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures::{StreamExt as _, stream};

use super::{
    decide::{self, Decision, Owner, decide},
    entry::{State, TrashEntry, TrashOrigin},
    error::OpError,
    large::SMALL,
    names::{self, PoolNamespace},
    restore, slices,
    store::{LONGEST_PAUSE, Store},
    work::PoolClient,
};
use crate::{
    backend::{Error, Kubernetes, PvState, ceph::Admin},
    volume::Permit,
};

/// How often the pools of a cluster are listed, to find what was left behind where no volume is any more.
const SEARCH: Duration = Duration::from_hours(1);
/// How many images are purged side by side: it makes a lot of work for the cluster.
const ABREAST: usize = 2;
/// How many entries are looked at for the first time in one round.
const FIRST_LOOKS: usize = 100;

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

/// What was done about one entry.
enum Settled {
    /// Nothing before it is due.
    Waits,
    /// Nothing yet: by the clock of this moment it is not due. The API server tells whole seconds, so that its clock may go back
    /// by one.
    Early,
    /// Nothing; it is looked at again soon.
    Again,
    /// It is not ours.
    Left,
    Purged,
    Restored,
    /// It is purged in slices.
    Large,
    /// Nothing can be done, for this reason.
    Held(String),
}

/// Looks after the trash of `store` until the permit ends. `admin`: who may look at the whole cluster.
pub(super) async fn collect_garbage(
    store: Arc<Store>,
    kube: Arc<dyn Kubernetes>,
    admin: Option<Admin>,
    permit: Permit,
) {
    let sliced = slices::collect_garbage(Arc::clone(&store), Arc::clone(&kube), permit.clone());
    let listed = async move {
        // What was done before, another process may have undone since.
        store.trash.ours.lock().clear();
        let (known, searched) = (BTreeMap::new(), BTreeSet::new());
        let (paused, looked_at, others) = (HashMap::new(), HashSet::new(), HashMap::new());
        let mut collector = Collector { store, kube, known, searched, paused, looked_at, others };
        collector.rounds(admin.as_ref(), &permit).await;
    };
    futures::join!(sliced, listed);
}

struct Collector {
    store: Arc<Store>,
    kube: Arc<dyn Kubernetes>,
    known: BTreeMap<PoolNamespace, Known>,
    /// Where large images were looked for that an earlier process left.
    searched: BTreeSet<PoolNamespace>,
    paused: HashMap<String, Pause>,
    /// Entries that were looked at in this term: nothing is to be done about them before they are due.
    looked_at: HashSet<String>,
    /// Those among them that are not ours, and when that was read: they are not counted.
    others: HashMap<String, SystemTime>,
}

impl Collector {
    async fn rounds(&mut self, admin: Option<&Admin>, permit: &Permit) {
        let mut searched: Option<Instant> = None;
        while permit.check().is_ok() {
            if let Some(admin) = admin
                && searched.is_none_or(|at| at.elapsed() >= SEARCH)
            {
                searched = Some(Instant::now());
                if let Err(error) = self.search(admin).await {
                    let cluster = self.store.cluster.name();
                    let error = error.chain();
                    tracing::debug!(cluster, error, "cannot search the pools for what was left behind");
                    // The cluster may be away.
                    searched = Instant::now().checked_sub(SEARCH.saturating_sub(LONGEST_PAUSE));
                }
            }
            self.round(permit).await;
            let idle = self.idle();
            tokio::time::sleep(self.store.timing.soon).await;
            tokio::select! {
                () = tokio::time::sleep(idle.saturating_sub(self.store.timing.soon)) => {}
                () = self.store.trash.wake.notified() => {}
            }
        }
    }

    /// The time by which is counted when to look. By what images expire, only the host says.
    fn now(&self) -> SystemTime {
        self.kube.now().unwrap_or_else(SystemTime::now)
    }

    /// How long nothing is to be done, as far as is known.
    fn idle(&self) -> Duration {
        let now = self.now();
        let added = self.store.trash.due.lock().values().min().copied();
        let next = self.known.values().map(|known| known.next).chain(added);
        let timing = self.store.timing;
        next.min().map_or(timing.later, |next| next.duration_since(now).unwrap_or_default().min(timing.later))
    }

    /// Finds the pools and namespaces where images of ours may have been left.
    async fn search(&self, admin: &Admin) -> Result<(), Error> {
        let nowhere = PoolNamespace { pool: String::new(), namespace: None };
        let work = PoolClient::new(&self.store, &self.kube, &nowhere, admin).await?;
        for pool in work.pools().await? {
            let pool_namespace = PoolNamespace { pool, namespace: None };
            let work = PoolClient { pool_namespace: pool_namespace.clone(), ..work.clone() };
            // Another pool's users may not be ours.
            let namespaces = work.namespaces().await.unwrap_or_default();
            for namespace in namespaces {
                if names::checked("RADOS namespace", &namespace).is_ok() {
                    self.store.suppose(
                        PoolNamespace { namespace: Some(namespace), ..pool_namespace.clone() },
                        admin,
                    );
                }
            }
            self.store.suppose(pool_namespace, admin);
        }
        Ok(())
    }

    /// Looks at every trash in which something is due, or of which nothing is known.
    async fn round(&mut self, permit: &Permit) {
        let now = self.now();
        let pool_namespaces = self.store.pool_namespaces();
        self.known
            .retain(|known, _| pool_namespaces.iter().any(|(pool_namespace, _)| pool_namespace == known));
        for (pool_namespace, admin) in pool_namespaces {
            let added = self.store.trash.due.lock().get(&pool_namespace).is_some_and(|due| *due <= now);
            if !added && self.known.get(&pool_namespace).is_some_and(|known| known.next > now) {
                continue;
            }
            if permit.check().is_err() {
                break;
            }
            // What comes there from now on is not in the list.
            self.store.trash.due.lock().remove(&pool_namespace);
            let unlisted = self.store.trash.unlisted(&pool_namespace);
            let search = !self.searched.contains(&pool_namespace);
            let listed = async {
                let work = PoolClient::new(&self.store, &self.kube, &pool_namespace, &admin).await?;
                work.identity().await?;
                if search {
                    slices::find(&work).await?;
                }
                let entries = match work.trash_list().await? {
                    Some(entries) => entries,
                    None => prepared(&work, permit).await?,
                };
                Ok::<_, OpError>((work, entries))
            };
            match listed.await {
                Ok((work, entries)) => {
                    self.searched.insert(pool_namespace);
                    self.settle_all(&work, entries, unlisted, permit).await;
                }
                Err(error) => self.not_listed(&pool_namespace, error),
            }
            self.tell();
        }
    }

    /// Does what is to be done about the entries of one trash. `unlisted`: how many of them were counted as added since the
    /// last time.
    async fn settle_all(
        &mut self,
        work: &PoolClient,
        mut entries: Vec<TrashEntry>,
        unlisted: usize,
        permit: &Permit,
    ) {
        let now = self.now();
        entries.retain(decide::may_be_ours);
        self.forget_others(work, &entries);
        let (mut due, later): (Vec<TrashEntry>, Vec<TrashEntry>) =
            entries.into_iter().partition(|entry| entry.is_over(now));
        let mut next: Vec<SystemTime> = later.iter().map(|entry| entry.until).collect();
        let deleted = |entry: &&TrashEntry| {
            entry.origin() == TrashOrigin::Deleted
                && !self.store.trash.large.has(&work.pool_namespace, &entry.id)
                && !self.others.contains_key(&work.pool_namespace.spec(&entry.id))
        };
        let waiting = due.iter().chain(&later).filter(deleted).count();
        self.known.insert(work.pool_namespace.clone(), Known { next: now, waiting, unlisted: None });
        self.store.trash.listed_with(self.waiting(), &work.pool_namespace, unlisted);
        due.retain(|entry| {
            let paused =
                self.paused.get(&work.pool_namespace.spec(&entry.id)).filter(|pause| pause.until > now);
            next.extend(paused.map(|pause| pause.until));
            // It may be ours later: when the cluster's id is known, or a former one is configured.
            let another = self.others.get(&work.pool_namespace.spec(&entry.id));
            let read = another.is_some_and(|at| now.duration_since(*at).is_ok_and(|age| age < SEARCH));
            paused.is_none() && !read
        });
        let (first, more) = self.first_looks(work, later);
        if more {
            next.push(now + self.store.timing.soon);
        }
        let all =
            first.into_iter().map(|entry| (entry, false)).chain(due.into_iter().map(|entry| (entry, true)));
        let settles = all.map(|(entry, is_due)| async move {
            let settled = settle(work, &entry, is_due, permit).await;
            (entry, settled)
        });
        let mut settles = Box::pin(stream::iter(settles).buffer_unordered(ABREAST));
        while let Some((entry, settled)) = settles.next().await {
            next.extend(self.settled(&work.pool_namespace, &entry, settled));
        }
        drop(settles);
        let look = self.now() + self.store.timing.look;
        if let Some(known) = self.known.get_mut(&work.pool_namespace) {
            known.next = next.into_iter().fold(look, SystemTime::min);
        }
    }

    /// Forgets what is not in this trash any more.
    fn forget_others(&mut self, work: &PoolClient, entries: &[TrashEntry]) {
        let within = format!("{}/", work.pool_namespace);
        let is_here = |spec: &str| {
            let here = spec.strip_prefix(&within).filter(|rest| !rest.contains('/'));
            here.is_none_or(|id| entries.iter().any(|entry| entry.id == id))
        };
        self.paused.retain(|spec, _| is_here(spec));
        self.looked_at.retain(|spec| is_here(spec));
        self.others.retain(|spec, _| is_here(spec));
        self.store.trash.ours.lock().retain(|spec| is_here(spec));
    }

    /// Those entries that are to be looked at although they are not due, and whether there are more.
    fn first_looks(&self, work: &PoolClient, mut later: Vec<TrashEntry>) -> (Vec<TrashEntry>, bool) {
        let ours = self.store.trash.ours.lock();
        later.retain(|entry| {
            let spec = work.pool_namespace.spec(&entry.id);
            let paused = self.paused.get(&spec).is_some_and(|pause| pause.until > self.now());
            !paused && !self.looked_at.contains(&spec) && !ours.contains(&spec)
        });
        let more = later.len() > FIRST_LOOKS;
        later.truncate(FIRST_LOOKS);
        (later, more)
    }

    /// Notes what was done about an entry; when to look again, where it is not done with.
    fn settled(
        &mut self,
        pool_namespace: &PoolNamespace,
        entry: &TrashEntry,
        settled: Result<Settled, OpError>,
    ) -> Option<SystemTime> {
        let id = pool_namespace.spec(&entry.id);
        let (now, timing) = (self.now(), self.store.timing);
        let image = pool_namespace.spec(&entry.name);
        let done = |collector: &mut Self| {
            collector.paused.remove(&id);
            if entry.origin() == TrashOrigin::Deleted
                && let Some(known) = collector.known.get_mut(pool_namespace)
            {
                known.waiting = known.waiting.saturating_sub(1);
            }
            collector.tell();
            None
        };
        match settled {
            Ok(Settled::Purged) => {
                tracing::info!(image, id, "purged a deleted image");
                self.store.trash.count_purged();
                done(self)
            }
            Ok(Settled::Restored) => {
                tracing::warn!(
                    image,
                    id,
                    "put an image back from the trash: it or its PersistentVolume is to be kept"
                );
                done(self)
            }
            Ok(Settled::Large) => done(self),
            Ok(Settled::Waits) => {
                self.paused.remove(&id);
                self.others.remove(&id);
                self.looked_at.insert(id);
                None
            }
            Ok(Settled::Left) => {
                if self.others.insert(id.clone(), now).is_none() {
                    done(self);
                }
                self.looked_at.insert(id);
                None
            }
            Ok(Settled::Again) => Some(now + timing.first_pause),
            Ok(Settled::Early) => Some(now + timing.soon),
            // Our clock is ahead of the program's; the next look finds it.
            Err(error) if error.is_too_early() => Some(now + timing.soon),
            Ok(Settled::Held(why)) => Some(self.pause(id, &image, why)),
            Err(error) => Some(self.pause(id, &image, Error::from(error).chain())),
        }
    }

    /// Leaves an entry alone for a while, each time for longer; until when.
    fn pause(&mut self, id: String, image: &str, why: String) -> SystemTime {
        let before = self.paused.get(&id);
        let length =
            before.map_or(self.store.timing.first_pause, |pause| (pause.length * 2).min(LONGEST_PAUSE));
        // Told when it is new.
        if before.is_none_or(|pause| pause.why != why) {
            tracing::warn!(image, id, error = why, "an image in the trash cannot be purged yet");
        }
        let until = self.now() + length;
        self.paused.insert(id, Pause { until, length, why });
        until
    }

    fn not_listed(&mut self, pool_namespace: &PoolNamespace, error: OpError) {
        let (cluster, elsewhere) = (self.store.cluster.name(), error.is_elsewhere());
        let why = Error::from(error).chain();
        let (now, timing) = (self.now(), self.store.timing);
        let known = self.known.entry(pool_namespace.clone()).or_insert(Known {
            next: now,
            waiting: 0,
            unlisted: None,
        });
        if elsewhere {
            tracing::debug!(cluster, %pool_namespace, error = why, "there is no trash here");
            *known = Known { next: now + timing.look, waiting: 0, unlisted: None };
            let unlisted = self.store.trash.unlisted(pool_namespace);
            self.store.trash.listed_with(self.waiting(), pool_namespace, unlisted);
            return;
        }
        // What waits there is not purged. Told once.
        let length = if let Some((_, length)) = &known.unlisted {
            tracing::debug!(cluster, %pool_namespace, error = why, "cannot list a trash yet");
            (*length * 2).min(LONGEST_PAUSE)
        } else {
            tracing::warn!(cluster, %pool_namespace, error = why, "cannot list a trash");
            timing.first_pause
        };
        known.next = now + length;
        known.unlisted = Some((why, length));
    }

    /// How many wait to be purged in all that was listed.
    fn waiting(&self) -> usize {
        self.known.values().map(|known| known.waiting).sum()
    }

    /// Lets readers of the store's state see how things are.
    fn tell(&self) {
        self.store.trash.listed(self.waiting());
        let unlisted = self.known.iter().filter_map(|(pool_namespace, known)| {
            Some((pool_namespace.to_string(), known.unlisted.as_ref()?.0.clone()))
        });
        *self.store.trash.stuck.lock() =
            self.paused.iter().map(|(id, pause)| (id.clone(), pause.why.clone())).chain(unlisted).collect();
    }
}

/// Sees to it that a pool with images of ours can move them to its trash also when it is full.
async fn prepared(work: &PoolClient, permit: &Permit) -> Result<Vec<TrashEntry>, OpError> {
    if work.images().await?.iter().any(|image| names::volume_of(image).is_some()) {
        match work.make_trash(permit).await {
            Ok(()) => {}
            Err(error) => {
                let (pool_namespace, error) = (work.pool_namespace.to_string(), Error::from(error).chain());
                tracing::debug!(pool_namespace, error, "cannot prepare the trash of a pool yet");
            }
        }
    }
    Ok(Vec::new())
}

/// Does what is to be done about one entry.
async fn settle(
    work: &PoolClient,
    entry: &TrashEntry,
    is_due: bool,
    permit: &Permit,
) -> Result<Settled, OpError> {
    permit.check()?;
    let spec = work.pool_namespace.spec(&entry.name);
    let Ok(_held) = work.store.try_lock(&spec) else { return Ok(Settled::Again) };
    // The name of most tells the volume; unless something is to be done, nothing is read of them. What was deleted counts, if it is
    // ours, and another cluster gives such names, too.
    if !is_due && let Some(volume) = names::volume_of(&entry.name) {
        match work.kube.pv_state(&volume).await? {
            PvState::Absent if entry.origin() == TrashOrigin::Deleted => {}
            PvState::Absent => return Ok(Settled::Waits),
            PvState::Present { removing: true, .. } => return Ok(Settled::Again),
            PvState::Present { removing: false, .. } => {}
        }
    }
    let header = work.header(&entry.id).await?;
    let volume = match decide::owner(entry, header.as_ref(), work.kube.cluster_ids().as_ref()) {
        Owner::Ours(volume) => volume,
        Owner::Remnant if is_due => return purge(work, entry, permit).await,
        Owner::Another => return Ok(Settled::Left),
        Owner::Unproved(why) if is_due => return Ok(Settled::Held(unproved(work, entry, &why))),
        Owner::Remnant | Owner::Unproved(_) => return Ok(Settled::Waits),
    };
    let pv = work.kube.pv_state(&volume).await?;
    let wanted = matches!(pv, PvState::Present { removing: false, .. });
    let image = names::in_place(&entry.name);
    let kept = header.as_ref().is_some_and(|header| header.metadata.is_kept());
    let there = if wanted || kept { work.info(image).await? } else { None };
    let replaced = there.as_ref().is_some_and(|there| there.id != entry.id);
    match decide(entry, &pv, replaced, kept, work.kube.now()) {
        Decision::Wait if is_due => Ok(Settled::Early),
        Decision::Wait => Ok(Settled::Waits),
        Decision::Again => Ok(Settled::Again),
        Decision::Hold(why) => Ok(Settled::Held(why.to_owned())),
        // Its move was interrupted before it took anything away.
        Decision::Restore if there.is_some() && entry.state == State::Moving => Ok(Settled::Waits),
        Decision::Restore => {
            restore::put_back(work, entry, image, permit).await?;
            Ok(Settled::Restored)
        }
        Decision::Purge
            if header.is_some_and(|header| header.objects() > SMALL) && entry.state == State::Whole =>
        {
            work.store.trash.large.add(&work.pool_namespace, &entry.id, &entry.name);
            Ok(Settled::Large)
        }
        Decision::Purge => purge(work, entry, permit).await,
    }
}

async fn purge(work: &PoolClient, entry: &TrashEntry, permit: &Permit) -> Result<Settled, OpError> {
    work.purge(entry, permit).await?;
    Ok(Settled::Purged)
}

fn unproved(work: &PoolClient, entry: &TrashEntry, why: &str) -> String {
    format!(
        "image {} (id {}) is called like one of ours, and nothing proves that it is: {why}. It is left alone; find out whose it is",
        work.pool_namespace.spec(&entry.name),
        entry.id
    )
}
