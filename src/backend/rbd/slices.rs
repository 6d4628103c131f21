//! Large images are purged in slices: [`collect_garbage`] cuts a part off the end of each in turn, and begins again where it ended.
//!
//! An image without an object map is removed by a question for each object that it may have, written or not: one of 900 TiB takes
//! days, and a program that is interrupted begins at the first object again. A slice is soon over, is kept, and lets the next
//! image have its turn. No program shortens an image in the trash; so the image leaves it under the name `berth.purging-<id>`, for
//! which the same proofs hold, and goes back for the last part.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    decide::{self, Decision, Owner, decide},
    entry::{State, TrashEntry},
    error::{OpError, fail},
    header::Header,
    image::TrashExpiry,
    large::{Pause, Progress, SMALL},
    names::{self, PoolNamespace},
    store::{LONGEST_PAUSE, Store},
    work::PoolClient,
};
use crate::{
    backend::{Error, Kind, Kubernetes, PvState, ceph::Reason},
    volume::Permit,
};

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

/// Finds the images that an earlier process left under the name that they have while they are purged.
pub(super) async fn find(work: &PoolClient) -> Result<(), OpError> {
    for image in work.images().await? {
        if let Some(id) = names::purged_id(&image) {
            work.store.trash.large.add(&work.pool_namespace, id, &image);
        }
    }
    Ok(())
}

/// Purges large images, a slice of each in turn, until the permit ends.
pub(super) async fn collect_garbage(store: Arc<Store>, kube: Arc<dyn Kubernetes>, permit: Permit) {
    let large = &store.trash.large;
    while permit.check().is_ok() {
        let mut more = false;
        for (pool_namespace, id, progress) in large.due() {
            if permit.check().is_err() {
                break;
            }
            match turn(&store, &kube, &pool_namespace, &id, &progress, &permit).await {
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
    kube: &Arc<dyn Kubernetes>,
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
        store.try_lock(&pool_namespace.spec(&progress.name))?,
        (name != progress.name).then(|| store.try_lock(&pool_namespace.spec(&name))).transpose()?,
    );
    let work = PoolClient::new(store, kube, pool_namespace, &admin).await?;
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
        let watcher = watcher.describe(|address| work.kube.node_at(address));
        let message = format!("image {spec}, of which parts are purged, is open by {watcher}");
        return fail(Kind::InUse, message);
    }
    if look.header.objects() <= SMALL {
        work.trash_move(&name, TrashExpiry::After(Duration::ZERO), permit).await?;
        if let Some(now) = kube.now() {
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
async fn still_to_be_purged(
    work: &PoolClient,
    id: &str,
    name: &str,
    header: &Header,
) -> Result<bool, OpError> {
    let spec = work.pool_namespace.spec(name);
    let entry = TrashEntry {
        id: id.to_owned(),
        name: name.to_owned(),
        since: std::time::SystemTime::UNIX_EPOCH,
        until: std::time::SystemTime::UNIX_EPOCH,
        state: State::Removing,
        by_rm: false,
    };
    match decide::owner(&entry, Some(header), work.kube.cluster_ids().as_ref()) {
        Owner::Ours(volume) => match work.kube.pv_state(&volume).await? {
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
async fn from_trash(work: &PoolClient, id: &str, name: &str, permit: &Permit) -> Result<Turn, OpError> {
    let Some(entry) = work.in_trash().await?.into_iter().find(|entry| entry.id == id) else {
        return Ok(Turn::Over);
    };
    if decide::is_being_purged(&entry) {
        return Ok(Turn::Later);
    }
    let Some(header) = work.header(id).await? else { return Ok(Turn::Over) };
    let Owner::Ours(volume) = decide::owner(&entry, Some(&header), work.kube.cluster_ids().as_ref()) else {
        return Ok(Turn::Over);
    };
    let pv = work.kube.pv_state(&volume).await?;
    match decide(&entry, &pv, false, header.metadata.is_kept(), work.kube.now()) {
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
    match work.trash_restore(id, name, permit).await {
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
