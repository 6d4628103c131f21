//! Removing a volume: prove that the image is its own, that nothing uses it, then one move to the trash.
//!
//! Until the PV is gone the move can be undone (`restore`); the purge comes afterwards (`trash_move`). Deleted or archived, Ceph keeps
//! the image until a time that tells which of both was meant (`entry::TrashOrigin`): the order survives this process. An image whose mark
//! does not say that it is ours gets a mark first, since in the trash nothing else tells whose it is.
//!
//! In a full pool the same is done by the one way that is left there (decision 22).

use std::time::Duration;

use super::{
    entry::{self, State, TrashEntry, TrashOrigin},
    error::{OpError, fail},
    image::{ImageState, TrashExpiry},
    large::SMALL,
    names,
    owner::Mark,
    pool::Full,
    proof::Verdict,
    snapshots::listed,
    work::PoolClient,
};
use crate::{
    backend::{Kind, PvState, Removed, UNKNOWN_CLUSTER, ceph::Reason, quoted},
    volume::{Disposal, Permit, Removal},
};

/// How often the work is begun again where an earlier removal was of another kind.
const ATTEMPTS: usize = 3;

/// A removal at work.
struct Removing<'a> {
    work: &'a PoolClient,
    removal: &'a Removal,
    disposal: Disposal,
    keep: TrashExpiry,
    permit: &'a Permit,
}

/// Removes the volume with this image, which is where its PV says that it lies.
pub(super) async fn remove(
    work: &PoolClient,
    removal: &Removal,
    image: &str,
    expiry: Option<Duration>,
    permit: &Permit,
) -> Result<Removed, OpError> {
    let disposal = removal.disposal.of(removal.origin);
    if disposal == Disposal::Retain {
        // Images with other names no sweep ever takes.
        return if names::volume_of(image).is_none() {
            Ok(Removed::Kept)
        } else {
            keep(work, removal, image, permit).await
        };
    }
    let keep = match (disposal, expiry) {
        (Disposal::Archive, Some(_)) if work.kube.now().is_none() => {
            let message = format!(
                "image {} cannot be archived for a time: the clocks of the API server and of this machine disagree, or the first is \
                 not known yet; nothing was touched. Synchronise them",
                work.pool_namespace.spec(image)
            );
            return fail(Kind::Unavailable, message);
        }
        (Disposal::Archive, Some(expiry)) => TrashExpiry::After(entry::archived_for(expiry)),
        (Disposal::Archive, None) => TrashExpiry::Never,
        (Disposal::Delete | Disposal::Retain, _) => {
            TrashExpiry::After(entry::deleted_for(retention(work, removal)))
        }
    };
    work.prove_identity(removal.into()).await?;
    let removing = Removing { work, removal, disposal, keep, permit };
    for _ in 0..ATTEMPTS {
        let done = match work.look(image).await? {
            Some(look) => match removing.there(image, &look).await {
                // Only a rest of its name opens it, or it was moved in between.
                Err(OpError::Call(failed)) if failed.reason == Reason::NoImage => {
                    removing.absent(image).await?
                }
                outcome => Some(outcome?),
            },
            None => removing.absent(image).await?,
        };
        if let Some(removed) = done {
            return Ok(removed);
        }
    }
    fail(
        Kind::Unavailable,
        format!(
            "image {} was repeatedly created and removed during its removal",
            work.pool_namespace.spec(image)
        ),
    )
}

/// How long what is deleted stays in the trash.
fn retention(work: &PoolClient, removal: &Removal) -> Duration {
    removal.pv_metadata.retention.unwrap_or_else(|| work.kube.trash_retention())
}

/// Leaves the image where it is, and notes that on it: else a sweep would take it for one that was never used.
async fn keep(
    work: &PoolClient,
    removal: &Removal,
    image: &str,
    permit: &Permit,
) -> Result<Removed, OpError> {
    let identity = work.identity().await?;
    let recorded = removal.pv_metadata.store_identity.as_ref();
    let elsewhere = recorded.is_some_and(|recorded| *recorded != identity);
    let info_and_header = if elsewhere { None } else { work.info_and_header(image).await? };
    let spec = work.pool_namespace.spec(image);
    if let Some((_, header)) = info_and_header
        && !header.metadata.is_kept()
        // What is not ours is left as it is.
        && matches!(work.prove(&spec, &header, removal.into()).await, Ok(Verdict::Ours))
    {
        work.set_kept(image, true, permit).await?;
    }
    Ok(Removed::Kept)
}

impl Removing<'_> {
    /// What becomes of an image that is there.
    async fn there(&self, image: &str, look: &ImageState) -> Result<Removed, OpError> {
        let (work, spec) = (self.work, self.work.pool_namespace.spec(image));
        let verdict = work.prove(&spec, &look.header, self.removal.into()).await?;
        self.unused(image, look).await?;
        let id = &look.info.id;
        if let Verdict::Relabel { .. } = verdict {
            let mark = self.mark(&spec)?;
            match work.set_mark(image, &mark, self.permit).await {
                Ok(()) => {}
                Err(error) => return self.unmarked(image, look, error).await,
            }
        }
        // An image that says that it is kept leaves the trash again.
        if look.header.metadata.is_kept() {
            work.set_kept(image, false, self.permit).await?;
        }
        if self.disposal == Disposal::Archive {
            self.not_begun(image, id).await?;
        }
        self.to_trash(image).await?;
        Ok(self.moved(id))
    }

    /// The mark that the image gets before it is moved.
    fn mark(&self, spec: &str) -> Result<Mark, OpError> {
        match self.work.kube.cluster_ids() {
            Some(cluster) => Ok(Mark::of(self.removal.into(), &cluster)),
            None => fail(
                Kind::Refused,
                format!("image {spec} cannot be marked: {UNKNOWN_CLUSTER}; nothing was touched"),
            ),
        }
    }

    /// What became of an image that is in the trash now.
    fn moved(&self, id: &str) -> Removed {
        let work = self.work;
        if let (TrashExpiry::After(time), Some(now)) = (self.keep, work.kube.now()) {
            work.store.trash.expects(&work.pool_namespace, id, now + time);
        }
        if self.disposal == Disposal::Archive {
            return Removed::Archived(archived(work, id));
        }
        work.store.trash.added(&work.pool_namespace);
        Removed::Trashed
    }

    /// Moves the image to the trash.
    async fn to_trash(&self, image: &str) -> Result<(), OpError> {
        let work = self.work;
        // A program that writes to a full pool waits for room until it gives up.
        if work.store.was_full(&work.pool_namespace.pool)
            && let Some(full) = work.full().await?
        {
            return self.to_trash_of_full(image, full).await;
        }
        match work.trash_move(image, self.keep, self.permit).await {
            Err(OpError::Call(failed)) if matches!(failed.reason, Reason::Deadline | Reason::Full) => {
                match work.full().await? {
                    Some(full) => self.to_trash_of_full(image, full).await,
                    None => Err(failed.into()),
                }
            }
            outcome => outcome,
        }
    }

    /// The same in a pool that is full, where `rbd rm` is the only program that may move an image: it does what it is told to do
    /// with it, unless the pool is configured otherwise. It is asked for only while the PV still is to be removed.
    async fn to_trash_of_full(&self, image: &str, full: Full) -> Result<(), OpError> {
        let (work, pool) = (self.work, &self.work.pool_namespace.pool);
        work.store.set_full(pool);
        let told = full.describe(pool);
        if !work.rm_keeps().await? {
            let message = format!(
                "{told}. Until then nothing can be moved to its trash, since it is configured so: rbd config pool remove {} \
                 rbd_move_to_trash_on_remove",
                quoted(pool)
            );
            return fail(Kind::Exhausted, message);
        }
        self.still_wanted(image).await?;
        let was_there = match work.remove_into_trash(image, self.keep, self.permit).await {
            Ok(was_there) => was_there,
            Err(error) => return Err(work.though_full(error).await),
        };
        // It also says that there is no such image where the trash has no list yet, and the pool no room for one.
        if !was_there && work.info(image).await?.is_some() {
            let message =
                format!("{told}. Until then nothing can be moved to its trash, which was never used");
            return fail(Kind::Exhausted, message);
        }
        Ok(())
    }

    /// What becomes of an image that cannot be marked. In a full pool nothing can; without a mark it would stay in the trash for
    /// ever, so it is removed at once.
    async fn unmarked(&self, image: &str, look: &ImageState, error: OpError) -> Result<Removed, OpError> {
        let work = self.work;
        let about_room = matches!(&error, OpError::Call(failed) if matches!(failed.reason, Reason::Deadline | Reason::Full));
        let full = if about_room { work.full().await? } else { None };
        let Some(full) = full else { return Err(error) };
        work.store.set_full(&work.pool_namespace.pool);
        if self.disposal != Disposal::Delete || look.header.objects() > SMALL {
            let told = full.describe(&work.pool_namespace.pool);
            let message = format!(
                "image {} has no mark yet, and cannot get one: {told}",
                work.pool_namespace.spec(image)
            );
            return fail(Kind::Exhausted, message);
        }
        self.still_wanted(image).await?;
        work.remove_for_good(image, self.permit).await?;
        Ok(Removed::Trashed)
    }

    /// Whether the PV is, at this moment, still to be removed.
    async fn still_wanted(&self, image: &str) -> Result<(), OpError> {
        let Removal { name, pv_metadata, .. } = self.removal;
        match self.work.kube.pv_state(name).await? {
            PvState::Present { uid, removing: true } if uid == pv_metadata.uid => Ok(()),
            PvState::Present { .. } | PvState::Absent => {
                let spec = self.work.pool_namespace.spec(image);
                fail(
                    Kind::Unavailable,
                    format!("image {spec} was not touched: PersistentVolume {name} is not to be removed now"),
                )
            }
        }
    }

    /// Undoes a deletion that was interrupted at its beginning: Ceph keeps the expiry that a move began with, so that what is to be
    /// archived would be purged.
    async fn not_begun(&self, image: &str, id: &str) -> Result<(), OpError> {
        let work = self.work;
        let begun = work.in_trash().await?.into_iter().find(|entry| entry.id == id && !entry.by_rm);
        if let Some(entry) = begun {
            if entry.state == State::Moving {
                work.trash_move(image, self.keep, self.permit).await?;
            }
            work.trash_restore(id, image, self.permit).await?;
        }
        Ok(())
    }

    /// Whether nothing has the image open, and nothing that an administrator made of it would be lost with it.
    async fn unused(&self, image: &str, look: &ImageState) -> Result<(), OpError> {
        let (work, spec) = (self.work, self.work.pool_namespace.spec(image));
        if !look.watchers.is_empty() {
            let watchers: Vec<String> = look
                .watchers
                .iter()
                .take(3)
                .map(|watcher| watcher.describe(|address| work.kube.node_at(address)))
                .collect();
            let message = format!(
                "image {spec} is still open by {}; unmap it there. A client that crashed is forgotten after 30 s",
                watchers.join(", ")
            );
            return fail(Kind::InUse, message);
        }
        // In the trash it could be taken out of the group by its id alone, and not be purged before.
        if let Some(group) = &look.info.group {
            let message = format!(
                "image {spec} is in the group {group} of images; nothing was touched. Take it out: rbd group image rm {} {}",
                quoted(group),
                quoted(&spec)
            );
            return fail(Kind::Refused, message);
        }
        let mirrored = format!(
            "image {spec} is mirrored to another cluster, and its copy there goes when the mirroring ends. End it, if that is wanted: \
             rbd mirror image disable {}",
            quoted(&spec)
        );
        if look.info.is_mirrored_by_snapshots() {
            return fail(Kind::InUse, mirrored);
        }
        if self.disposal != Disposal::Delete || look.info.snapshot_count == 0 {
            return Ok(());
        }
        let snapshots = work.snapshots(image).await?;
        if snapshots.wanted.is_empty() {
            return if snapshots.mirrored { fail(Kind::InUse, mirrored) } else { Ok(()) };
        }
        let clones = work.clones(image).await?;
        let clones =
            if clones.is_empty() { clones } else { format!(", of which there are the clones {clones}") };
        let message = format!(
            "image {spec} has snapshots, which nothing asked to delete: {}{clones}. Remove them (rbd snap purge {}; clones \
             first with rbd flatten or rbd rm), or archive it: kubectl annotate pv {} berth.storage/on-delete=archive --overwrite",
            listed(&snapshots.wanted),
            quoted(&spec),
            self.removal.name
        );
        fail(Kind::InUse, message)
    }

    /// What became of an image that is not there any more; `None` where it is there again.
    async fn absent(&self, image: &str) -> Result<Option<Removed>, OpError> {
        let work = self.work;
        // The version before gave an image of an older provisioner another name first, and may have been interrupted then.
        let given = if names::volume_of(image).is_some() {
            Vec::new()
        } else {
            names::legacy_trash_names(image).to_vec()
        };
        for legacy_trash_name in given.iter().rev() {
            if let Some(look) = work.look(legacy_trash_name).await? {
                match self.there(legacy_trash_name, &look).await {
                    // What opens it is a rest of that name; the image is in the trash.
                    Err(OpError::Call(failed)) if failed.reason == Reason::NoImage => {}
                    outcome => return outcome.map(Some),
                }
            }
        }
        let mut found = work.in_trash().await?;
        found.retain(|entry| entry.name == image || given.contains(&entry.name));
        // Of several, what was asked for is what an earlier call did.
        found.sort_by_key(|entry| match (entry.origin(), self.disposal) {
            (TrashOrigin::Deleted, Disposal::Delete) | (TrashOrigin::Archived, Disposal::Archive) => 0,
            (TrashOrigin::Deleted | TrashOrigin::Archived, _) => 1,
            (TrashOrigin::ByHand, _) => 2,
        });
        for entry in found {
            let spec = work.pool_namespace.spec(&entry.name);
            // Its purge is all but over.
            let Some(header) = work.header(&entry.id).await? else { continue };
            match work.prove(&spec, &header, self.removal.into()).await {
                Ok(_) if entry.by_rm => {
                    work.remove_for_good(image, self.permit).await?;
                    return Ok(Some(Removed::Trashed));
                }
                Ok(Verdict::Ours) => {}
                Ok(Verdict::Relabel { .. }) => {
                    work.set_mark_in_trash(&entry.id, &self.mark(&spec)?, self.permit).await?;
                }
                Err(error) if error.is_a_refusal() => continue,
                Err(error) => return Err(error),
            }
            return self.in_trash_already(image, &entry).await;
        }
        if work.images().await?.iter().any(|listed| listed == image) {
            let spec = work.pool_namespace.spec(image);
            let message = format!(
                "image {spec} is in the list of images and cannot be opened, so that it is not known what becomes of its data; nothing \
                 was touched. If no other cluster uses it, nothing of it is to be saved, and rbd trash ls --all {} does not name it, \
                 remove it (rbd rm {})",
                quoted(&work.pool_namespace.to_string()),
                quoted(&spec)
            );
            return fail(Kind::Refused, message);
        }
        Ok(Some(Removed::Absent))
    }

    /// What becomes of an image that is in the trash: it stays there, if it came there as is asked now, and comes back to be
    /// moved there otherwise.
    async fn in_trash_already(&self, image: &str, entry: &TrashEntry) -> Result<Option<Removed>, OpError> {
        let (work, told) = (self.work, || Removed::Archived(archived(self.work, &entry.id)));
        match (entry.origin(), self.disposal, entry.state) {
            // It belongs to the person who moved it there.
            (TrashOrigin::ByHand, _, _) => Ok(Some(told())),
            (_, _, State::Removing) => Ok(Some(Removed::Trashed)),
            (TrashOrigin::Deleted, Disposal::Delete, State::Whole | State::Moving) => {
                work.finish_move(&entry.name, self.permit).await?;
                Ok(Some(Removed::Trashed))
            }
            (TrashOrigin::Archived, Disposal::Archive, State::Whole | State::Moving) => {
                work.finish_move(&entry.name, self.permit).await?;
                Ok(Some(told()))
            }
            (TrashOrigin::Deleted | TrashOrigin::Archived, _, state) => {
                if state == State::Moving {
                    work.finish_move(&entry.name, self.permit).await?;
                }
                work.trash_restore(&entry.id, image, self.permit).await?;
                Ok(None)
            }
        }
    }
}

/// Where an archived image is, in the words of `rbd trash_move restore`.
fn archived(work: &PoolClient, id: &str) -> String {
    format!("trash of {}, as {}", work.pool_namespace, work.pool_namespace.spec(id))
}
