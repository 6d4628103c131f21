//! Large images are purged in slices: [`collect_garbage`] cuts a part off the end of each in turn, and begins again where it ended.
//!
//! An image without an object map is removed by a question for each object that it may have, written or not: one of 900 TiB takes
//! days, and a program that is broken off begins at the first object again. A slice is soon over, is kept, and lets the next
//! image have its turn. No program shortens an image in the trash; so the image leaves it under the name `berth.purging-<id>`, for
//! which the same proofs hold, and goes back for the last part.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{
    account::lock,
    decide::{self, Decision, Owner, decide},
    entry::{Entry, State},
    header::Header,
    image::Keep,
    names::{self, PoolNamespace},
    store::{OpError, Store, Work, fail},
    trash::{LONGEST_PAUSE, SMALL},
};
use crate::{
    backend::{Error, Kind, Kubernetes, PvState, ceph::Reason},
    volume::Permit,
};

/// How many objects the first slice has.
const FIRST: u64 = 1 << 13;
/// How many a slice has at least.
const LEAST: u64 = 1 << 8;
/// How many a slice has at most.
const MOST: u64 = 1 << 22;

/// The large images of one cluster that are being purged, by where they are and their ids.
#[derive(Debug, Default)]
pub(super) struct Large {
    images: Mutex<BTreeMap<(PoolNamespace, String), Progress>>,
    wake: Notify,
}

/// How far the purge of one image is.
#[derive(Debug, Clone)]
struct Progress {
    /// What the image is called in the trash.
    name: String,
    began: Instant,
    /// Its size when it was seen first, and now.
    size: Option<(u64, u64)>,
    /// How many objects the next slice has.
    slice: u64,
    pause: Option<Pause>,
}

#[derive(Debug, Clone)]
struct Pause {
    until: Instant,
    length: Duration,
    why: String,
}

/// How one turn ended.
enum Turn {
    /// There is more to do.
    More,
    /// Nothing now: its time is not over by the clock of this moment, or only the last part is left, which is purged from the trash
    /// like every image.
    Later,
    /// It is not there any more, or not to be purged.
    Over,
}

impl Large {
    /// Adds an image that is to be purged, called so in the trash.
    pub(super) fn add(&self, pool_namespace: &PoolNamespace, id: &str, name: &str) {
        let progress = || Progress {
            name: name.to_owned(),
            began: Instant::now(),
            size: None,
            slice: FIRST,
            pause: None,
        };
        lock(&self.images).entry((pool_namespace.clone(), id.to_owned())).or_insert_with(progress);
        self.wake.notify_one();
    }

    pub(super) fn has(&self, pool_namespace: &PoolNamespace, id: &str) -> bool {
        lock(&self.images).contains_key(&(pool_namespace.clone(), id.to_owned()))
    }

    pub(super) fn waiting(&self) -> usize {
        lock(&self.images).len()
    }

    /// What takes longer than that, and how far it is.
    pub(super) fn overdue(&self, patience: Duration) -> Vec<(String, String)> {
        let images = lock(&self.images);
        let told = images.iter().filter_map(|((pool_namespace, id), progress)| {
            let spec = pool_namespace.spec(id);
            if let Some(pause) = &progress.pause {
                return Some((spec, pause.why.clone()));
            }
            let gib = |bytes: u64| bytes >> 30;
            let far = progress.size.map_or_else(String::new, |(size, left)| {
                format!(": {} of {} GiB are left", gib(left), gib(size))
            });
            (progress.began.elapsed() >= patience)
                .then(|| (spec, format!("it is large and is purged in slices{far}")))
        });
        told.collect()
    }

    /// Those whose turn it is.
    fn due(&self) -> Vec<(PoolNamespace, String, Progress)> {
        let now = Instant::now();
        let images = lock(&self.images);
        let due = images
            .iter()
            .filter(|(_, progress)| progress.pause.as_ref().is_none_or(|pause| pause.until <= now));
        due.map(|((pool_namespace, id), progress)| (pool_namespace.clone(), id.clone(), progress.clone()))
            .collect()
    }

    fn change(&self, pool_namespace: &PoolNamespace, id: &str, change: impl FnOnce(&mut Progress)) {
        if let Some(progress) = lock(&self.images).get_mut(&(pool_namespace.clone(), id.to_owned())) {
            change(progress);
        }
    }

    fn remove(&self, pool_namespace: &PoolNamespace, id: &str) {
        lock(&self.images).remove(&(pool_namespace.clone(), id.to_owned()));
    }
}

impl Progress {
    /// Notes that a slice took so long, where it should take `wanted`.
    fn took(&mut self, left: u64, time: Duration, wanted: Duration) {
        let size = self.size.map_or(left, |(size, _)| size);
        self.size = Some((size, left));
        if time < wanted / 3 {
            self.slice = (self.slice * 2).min(MOST);
        } else if time > wanted {
            self.slice = (self.slice / 2).max(LEAST);
        }
    }
}

/// Finds the images that an earlier process left under the name that they have while they are purged.
pub(super) async fn find(work: &Work) -> Result<(), OpError> {
    for image in work.images().await? {
        if let Some(id) = names::purged_id(&image) {
            work.store.trash.large.add(&work.pool_namespace, id, &image);
        }
    }
    Ok(())
}

/// Purges large images, a slice of each in turn, until the permit ends.
pub(super) async fn collect_garbage(store: Arc<Store>, host: Arc<dyn Kubernetes>, permit: Permit) {
    let large = &store.trash.large;
    while permit.check().is_ok() {
        let mut more = false;
        for (pool_namespace, id, progress) in large.due() {
            if permit.check().is_err() {
                break;
            }
            match turn(&store, &host, &pool_namespace, &id, &progress, &permit).await {
                Ok(Turn::More) => {
                    large.change(&pool_namespace, &id, |progress| progress.pause = None);
                    more = true;
                }
                Ok(Turn::Later) => large.change(&pool_namespace, &id, |progress| progress.pause = None),
                Ok(Turn::Over) => {
                    large.remove(&pool_namespace, &id);
                    store.trash.wake();
                }
                Err(error) => pause(&store, &pool_namespace, &id, &progress, error),
            }
        }
        if !more {
            tokio::select! {
                () = tokio::time::sleep(store.timing.soon) => {}
                () = large.wake.notified() => {}
            }
        }
    }
}

fn pause(store: &Store, pool_namespace: &PoolNamespace, id: &str, progress: &Progress, error: OpError) {
    let first = store.timing.first_pause;
    let length = progress.pause.as_ref().map_or(first, |pause| (pause.length * 2).min(LONGEST_PAUSE));
    let why = Error::from(error).chain();
    if progress.pause.as_ref().is_none_or(|pause| pause.why != why) {
        let (image, id) = (pool_namespace.spec(&progress.name), pool_namespace.spec(id));
        tracing::warn!(image, id, error = why, "a large image cannot be purged yet");
    }
    let until = Instant::now() + length;
    store
        .trash
        .large
        .change(pool_namespace, id, |progress| progress.pause = Some(Pause { until, length, why }));
}

/// Does the next step of one image.
async fn turn(
    store: &Arc<Store>,
    host: &Arc<dyn Kubernetes>,
    pool_namespace: &PoolNamespace,
    id: &str,
    progress: &Progress,
    permit: &Permit,
) -> Result<Turn, OpError> {
    let Some((_, admin)) = store.pool_namespaces().into_iter().find(|(known, _)| known == pool_namespace)
    else {
        return Ok(Turn::Over);
    };
    let name = names::purging(id);
    // What restores it under its own name must not meet it half way.
    let _held = (
        store.hold(&pool_namespace.spec(&progress.name))?,
        (name != progress.name).then(|| store.hold(&pool_namespace.spec(&name))).transpose()?,
    );
    let work = Work::new(store, host, pool_namespace, &admin, false).await?;
    work.identity().await?;
    let Some(look) = work.look(&name).await? else { return from_trash(&work, id, &name, permit).await };
    let spec = pool_namespace.spec(&name);
    if look.info.id != id {
        return fail(
            Kind::Conflict,
            format!("another image (id {}) is called {spec}; it is left alone", look.info.id),
        );
    }
    if !still_to_be_purged(&work, id, &name, &look.header).await? {
        return Ok(Turn::Over);
    }
    if let Some(watcher) = look.watchers.first() {
        let watcher = watcher.describe(|address| work.host.node_at(address));
        let message = format!("image {spec}, of which parts are purged, is open by {watcher}");
        return fail(Kind::InUse, message);
    }
    if look.header.objects() <= SMALL {
        work.trash(&name, Keep::For(Duration::ZERO), permit).await?;
        if let Some(now) = host.now() {
            store.trash.expects(pool_namespace, "", now);
        }
        return Ok(Turn::Later);
    }
    let left = look.header.size.saturating_sub(progress.slice.saturating_mul(look.header.object_size()));
    let began = Instant::now();
    let outcome = work.shrink(&name, left, permit).await;
    let time = began.elapsed();
    let (size, wanted) = (look.header.size, store.timing.slice);
    let now = if outcome.is_ok() { left } else { size };
    store.trash.large.change(pool_namespace, id, |progress| {
        progress.size.get_or_insert((size, size));
        progress.took(now, time, wanted);
    });
    outcome.map(|()| Turn::More)
}

/// Makes sure that the mark of the image says that it is ours, and that its PV is still gone; `false` where another cluster purges it.
async fn still_to_be_purged(work: &Work, id: &str, name: &str, header: &Header) -> Result<bool, OpError> {
    let spec = work.pool_namespace.spec(name);
    let entry = Entry {
        id: id.to_owned(),
        name: name.to_owned(),
        since: std::time::SystemTime::UNIX_EPOCH,
        until: std::time::SystemTime::UNIX_EPOCH,
        state: State::Removing,
        by_rm: false,
    };
    match decide::owner(&entry, Some(header), work.host.cluster_ids().as_ref()) {
        Owner::Ours(volume) => match work.host.pv_state(&volume).await? {
            PvState::Absent => Ok(true),
            PvState::Present { .. } => {
                let message = format!(
                    "image {spec}, of which parts are purged, is that of PersistentVolume {volume}, which was made again; what is left \
                     of the image stays until that is gone"
                );
                fail(Kind::Refused, message)
            }
        },
        Owner::Another => Ok(false),
        Owner::Remnant => fail(Kind::Refused, format!("image {spec} has no header; it is left alone")),
        Owner::Unproved(why) => {
            fail(Kind::Refused, format!("nothing proves that image {spec} is ours: {why}"))
        }
    }
}

/// Takes an image out of the trash, to be shortened under the other name.
async fn from_trash(work: &Work, id: &str, name: &str, permit: &Permit) -> Result<Turn, OpError> {
    let Some(entry) = work.in_trash().await?.into_iter().find(|entry| entry.id == id) else {
        return Ok(Turn::Over);
    };
    if decide::is_being_purged(&entry) {
        return Ok(Turn::Later);
    }
    let Some(header) = work.header(id).await? else { return Ok(Turn::Over) };
    let Owner::Ours(volume) = decide::owner(&entry, Some(&header), work.host.cluster_ids().as_ref()) else {
        return Ok(Turn::Over);
    };
    let pv = work.host.pv_state(&volume).await?;
    match decide(&entry, &pv, false, work.host.now()) {
        Decision::Purge if pv == PvState::Absent => {}
        Decision::Wait | Decision::Again if pv == PvState::Absent => return Ok(Turn::Later),
        Decision::Wait | Decision::Again | Decision::Restore | Decision::Purge | Decision::Hold(_) => {
            return Ok(Turn::Over);
        }
    }
    if header.snapshots > 0 {
        let spec = work.pool_namespace.spec(&entry.name);
        let message = format!(
            "image {spec} (id {id}) has snapshots; restore it, remove them, and move it back to the trash"
        );
        return fail(Kind::InUse, message);
    }
    match work.untrash(id, name, permit).await {
        Ok(()) => Ok(Turn::More),
        // A full pool allows no image to leave the trash, but to be purged.
        Err(OpError::Call(failed))
            if matches!(failed.reason, Reason::Deadline | Reason::Full) && work.full().await?.is_some() =>
        {
            work.purge(&entry, permit).await?;
            work.store.trash.count_purged();
            Ok(Turn::Over)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool_namespace() -> PoolNamespace {
        PoolNamespace { pool: "rbd".into(), namespace: None }
    }

    #[test]
    fn slices_grow_while_they_are_quick_and_shrink_while_they_are_slow() {
        let second = Duration::from_secs(1);
        let mut progress = Progress {
            name: "berth-u".into(),
            began: Instant::now(),
            size: Some((100, 100)),
            slice: FIRST,
            pause: None,
        };
        for (time, expected) in [(1, FIRST * 2), (10, FIRST * 2), (16, FIRST), (600, FIRST / 2)] {
            progress.took(50, second * time, second * 15);
            assert_eq!((progress.slice, progress.size), (expected, Some((100, 50))), "{time} s");
        }
        for _ in 0..40 {
            progress.took(50, second * 600, second * 15);
        }
        assert_eq!(progress.slice, LEAST);
        for _ in 0..40 {
            progress.took(50, Duration::ZERO, second * 15);
        }
        assert_eq!(progress.slice, MOST);
    }

    /// Two thin images of 900 TiB waited for ever, and nothing was said of them.
    #[test]
    fn what_a_large_image_waits_for_is_told() {
        let large = Large::default();
        large.add(&pool_namespace(), "10f", "berth-u");
        assert_eq!(
            (large.waiting(), large.overdue(Duration::from_hours(1)).len()),
            (1, 0),
            "it takes its time"
        );
        large.change(&pool_namespace(), "10f", |progress| progress.size = Some((900 << 40, 3 << 30)));
        let told = large.overdue(Duration::ZERO);
        assert_eq!(told[0].0, "rbd/10f");
        assert!(told[0].1.contains("3 of 921600 GiB are left"), "{told:?}");
        let (until, length) = (Instant::now() + Duration::from_hours(1), Duration::from_hours(1));
        large.change(&pool_namespace(), "10f", |progress| {
            progress.pause = Some(Pause { until, length, why: "it is open".into() });
        });
        assert_eq!(large.overdue(Duration::from_hours(1))[0].1, "it is open");
        assert!(large.due().is_empty());
    }
}
