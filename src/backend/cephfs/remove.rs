//! Removes, archives, keeps and grows the volumes that we made: [`remove`], [`expand`], [`expire`].
//!
//! The proof is threefold: the cluster is the one that the PV recorded, the PV's source is what its record says, and the
//! subvolume's mark names the volume and this cluster (`proof`). What is deleted is only marked here, since Ceph's `subvolume rm`
//! has no way back; `purge` does that once the PV is gone.

use std::time::{Duration, SystemTime};

use super::{
    mark::{self, Archived, Deleted, Mark, Marks, Owner},
    names,
    proof::{Claimant, Proof, prove},
    purge::SOON,
    record::Record,
    store::Work,
    subvolumes::{At, Found},
    users::{self, OwnUser},
};
use crate::{
    backend::{Error, Kind, PvState, Removed, Restored, ceph::class::Form},
    volume::{Capacity, Disposal, ExpandRequest, Expanded, Origin, Permit, Removal, VolumeName},
};

/// Removes the volume.
pub(super) async fn remove(
    work: &Work,
    removal: &Removal,
    record: &Record,
    permit: &Permit,
) -> Result<Removed, Error> {
    let at = at(record);
    work.store.met(&at.fs, &at.group);
    work.prove_identity(removal.pv_metadata.store_identity.as_deref()).await?;
    let marks = match work.subvolumes.metadata(&at).await? {
        Found::Subvolume(metadata) => {
            let claimant =
                Claimant { name: &removal.name, claim: &removal.claim, pv_metadata: &removal.pv_metadata };
            match prove(&at, &Marks::read(&metadata), claimant, work.host.cluster_ids().as_ref())? {
                Proof::Ours(marks) => marks,
                Proof::TakenOver(marks, mark) => {
                    take_over(work, &at, &mark, permit).await?;
                    Box::new(Marks { owner: Owner::Claim(*mark), ..*marks })
                }
                Proof::Passed => {
                    tracing::warn!(volume = %removal.name, subvolume = at.shown(), "the name has passed to another claim");
                    return absent(work, &at, removal, record, permit).await;
                }
            }
        }
        Found::NoSubvolume => return absent(work, &at, removal, record, permit).await,
        Found::OnlySnapshots => return Err(only_snapshots(&at)),
        Found::NoGroup => return Err(no_group(&at)),
    };
    let disposal = match (removal.disposal, removal.origin) {
        (Disposal::Delete, Origin::Adopted) => Disposal::Archive,
        (disposal, Origin::Adopted | Origin::Created) => disposal,
    };
    match disposal {
        Disposal::Retain => {
            // Else a sweep would take it for a volume that nobody ever used.
            if !marks.kept {
                let now = mark::timestamp(SystemTime::now());
                work.subvolumes.set_metadata(&at, mark::KEPT, &now, permit).await?;
            }
            Ok(Removed::Kept)
        }
        Disposal::Archive => {
            undelete(work, &at, &marks, permit).await?;
            // The mark comes first: a full file system refuses it, and a volume that stays keeps its users.
            let object = &removal.pv_metadata.uid;
            let archived = match marks.archived {
                Some(archived) if archived.is_for(object, now(work)) => archived,
                Some(_) | None => {
                    if record.expiry.is_some() && work.host.now().is_none() {
                        return Err(without_a_clock(&at));
                    }
                    let archived =
                        Archived { object: Some(object.clone()), ..Archived::new(now(work), record.expiry) };
                    work.subvolumes.set_metadata(&at, mark::ARCHIVED, &archived.written(), permit).await?;
                    archived
                }
            };
            for user in authorized(work, &at, record).await? {
                users::revoke(work, &at, &user, permit).await?;
            }
            work.store.memory().archives.remove(&at);
            if let Some(expires) = archived.expires() {
                work.store.memory().archives.insert(at.clone(), expires);
            }
            forget(work, removal, record, permit).await?;
            Ok(Removed::Archived(names::path(&at.group, &at.name).to_string()))
        }
        Disposal::Delete => {
            let deleted = match marks.deleted {
                Some(deleted) if deleted.purging || deleted.object == removal.pv_metadata.uid => deleted,
                Some(_) | None => {
                    let retention =
                        removal.pv_metadata.retention.unwrap_or_else(|| work.host.trash_retention());
                    let deleted = Deleted::new(now(work), retention, &removal.pv_metadata.uid);
                    work.subvolumes.unsnapshotted(&at).await?;
                    work.subvolumes.set_metadata(&at, mark::DELETED, &deleted.written(), permit).await?;
                    deleted
                }
            };
            work.store.memory().deleted.insert(at.clone(), deleted.until());
            work.store.wake.notify_one();
            Ok(Removed::Trashed)
        }
    }
}

/// Lets the volume grow.
pub(super) async fn expand(
    work: &Work,
    request: &ExpandRequest,
    record: &Record,
    quota: u64,
    permit: &Permit,
) -> Result<Expanded, Error> {
    let at = at(record);
    work.store.met(&at.fs, &at.group);
    work.prove_identity(request.pv_metadata.store_identity.as_deref()).await?;
    match work.subvolumes.metadata(&at).await? {
        Found::Subvolume(metadata) => {
            let claimant =
                Claimant { name: &request.name, claim: &request.claim, pv_metadata: &request.pv_metadata };
            match prove(&at, &Marks::read(&metadata), claimant, work.host.cluster_ids().as_ref())? {
                Proof::Ours(_) => {}
                Proof::TakenOver(_, mark) => take_over(work, &at, &mark, permit).await?,
                Proof::Passed => {
                    let message = format!("{} is that of another claim by now", at.shown());
                    return Err(Error::new(Kind::NotFound, message));
                }
            }
        }
        Found::OnlySnapshots => return Err(only_snapshots(&at)),
        Found::NoSubvolume | Found::NoGroup => {
            return Err(Error::new(Kind::NotFound, format!("{} does not exist", at.shown())));
        }
    }
    let info = work.subvolumes.info(&at).await?;
    let now = match info.quota() {
        Some(now) if now >= quota => now,
        Some(_) | None => {
            work.subvolumes.resize(&at, quota, permit).await?;
            quota
        }
    };
    Ok(Expanded { capacity: Capacity::from_bytes(now), on_node: false })
}

/// Signs what an administrator took over.
pub(super) async fn take_over(work: &Work, at: &At, mark: &Mark, permit: &Permit) -> Result<(), Error> {
    tracing::info!(subvolume = at.shown(), owner = mark.shown(), "took over the volume");
    work.subvolumes.set_metadata(at, mark::OWNER, &mark.written(), permit).await
}

/// Gives up a deletion that was not finished.
async fn undelete(work: &Work, at: &At, marks: &Marks, permit: &Permit) -> Result<bool, Error> {
    match &marks.deleted {
        None => Ok(false),
        Some(deleted) if deleted.purging => {
            let message = format!("{} is being purged; it can no longer be restored", at.shown());
            Err(Error::new(Kind::Refused, message))
        }
        Some(_) => {
            work.subvolumes.remove_metadata(at, mark::DELETED, permit).await?;
            work.store.memory().deleted.remove(at);
            Ok(true)
        }
    }
}

/// Puts a volume back that was deleted or archived a moment ago, since its PV is to be kept after all.
pub(super) async fn restore(
    work: &Work,
    removal: &Removal,
    record: &Record,
    form: Form,
    permit: &Permit,
) -> Result<Restored, Error> {
    let at = at(record);
    work.prove_identity(removal.pv_metadata.store_identity.as_deref()).await?;
    let Found::Subvolume(metadata) = work.subvolumes.metadata(&at).await? else {
        return Ok(Restored::InPlace);
    };
    let marks = Marks::read(&metadata);
    if marks.deleted.is_none() && marks.archived.is_none() {
        return Ok(Restored::InPlace);
    }
    let claimant = Claimant { name: &removal.name, claim: &removal.claim, pv_metadata: &removal.pv_metadata };
    let marks = match prove(&at, &marks, claimant, work.host.cluster_ids().as_ref())? {
        Proof::Ours(marks) | Proof::TakenOver(marks, _) => marks,
        Proof::Passed => return Ok(Restored::InPlace),
    };
    let undeleted = undelete(work, &at, &marks, permit).await?;
    if marks.archived.is_none() {
        return Ok(if undeleted { Restored::MovedBack } else { Restored::InPlace });
    }
    if let (Some((user, secret)), Owner::Claim(mark)) = (&record.own, &marks.owner) {
        OwnUser { user, secret, form }.let_in_again(work, &at, mark, &removal.name, permit).await?;
    }
    work.subvolumes.remove_metadata(&at, mark::ARCHIVED, permit).await?;
    work.store.memory().archives.remove(&at);
    Ok(Restored::MovedBack)
}

/// The time by which things expire; while the API server's is not known, ours, which then says only when it was written.
pub(super) fn now(work: &Work) -> SystemTime {
    work.host.now().unwrap_or_else(SystemTime::now)
}

fn without_a_clock(at: &At) -> Error {
    let message = format!(
        "{} cannot be archived for a limited time: the clocks of the API server and of this machine disagree, or the first is not known \
         yet; nothing was changed. Synchronise them",
        at.shown()
    );
    Error::new(Kind::Unavailable, message)
}

/// How soon an archive is looked at again that a PV uses.
const USED: Duration = Duration::from_hours(1);

/// What became of an archived volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was deleted for good.
    Expired,
    /// It expires then.
    Waits(SystemTime),
    /// It is no archive of ours any more, or one that is kept for good.
    Stays,
}

/// Deletes an archived volume of ours for good, if its time has come and no PV uses it.
///
/// A volume whose PV was rescued while nobody led is still marked. Without a user of its own it loses the mark here; the other ones
/// get their Secret back first ([`register`](super::register)).
pub(super) async fn expire(work: &Work, at: &At, now: SystemTime, permit: &Permit) -> Result<Fate, Error> {
    let Found::Subvolume(metadata) = work.subvolumes.metadata(at).await? else { return Ok(Fate::Stays) };
    let marks = Marks::read(&metadata);
    let (Owner::Claim(mark), Some(archived)) = (&marks.owner, &marks.archived) else {
        return Ok(Fate::Stays);
    };
    let cluster = work.host.cluster_ids();
    match archived.expires() {
        Some(_) if !mark.is_of(cluster.as_ref()) => return Ok(Fate::Stays),
        Some(expires) if expires > now => return Ok(Fate::Waits(expires)),
        Some(_) => {}
        None => return Ok(Fate::Stays),
    }
    let name = VolumeName::for_claim(&mark.uid)?;
    match work.host.pv_state(&name).await? {
        PvState::Absent => {}
        PvState::Present { removing: true, .. } => return Ok(Fate::Waits(now + SOON)),
        PvState::Present { removing: false, .. } => {
            tracing::warn!(
                subvolume = at.shown(),
                volume = %name,
                "the archive has expired and is not deleted: its PersistentVolume exists and is not to be removed"
            );
            if mark.user.is_some() {
                return Ok(Fate::Waits(now + USED));
            }
            work.subvolumes.remove_metadata(at, mark::ARCHIVED, permit).await?;
            return Ok(Fate::Stays);
        }
    }
    users::discard(work, at, mark, true, permit).await?;
    work.subvolumes.remove(at, permit).await?;
    tracing::info!(
        subvolume = at.shown(),
        claim = mark.shown(),
        since = archived.since,
        "an archived volume has expired"
    );
    Ok(Fate::Expired)
}

pub(super) fn at(record: &Record) -> At {
    At { fs: record.fs.clone(), group: record.group.clone(), name: record.subvolume.clone() }
}

/// The users that may reach the volume through the volumes module.
async fn authorized(work: &Work, at: &At, record: &Record) -> Result<Vec<String>, Error> {
    let mut users = work.subvolumes.authorized(at).await?;
    if let Some((own, _)) = &record.own {
        users.retain(|user| user != own);
        users.push(own.clone());
    }
    Ok(users)
}

async fn forget(work: &Work, removal: &Removal, record: &Record, permit: &Permit) -> Result<(), Error> {
    let Some((_, secret)) = &record.own else { return Ok(()) };
    permit.check()?;
    work.forget(secret, &removal.name).await
}

/// The data is gone; what belonged to it goes too, where somebody removed only the subvolume.
async fn absent(
    work: &Work,
    at: &At,
    removal: &Removal,
    record: &Record,
    permit: &Permit,
) -> Result<Removed, Error> {
    if let Some((user, _)) = &record.own {
        users::remove_confined(work, user, &at.directory(), &at.shown(), permit).await?;
    }
    forget(work, removal, record, permit).await?;
    Ok(Removed::Absent)
}

fn only_snapshots(at: &At) -> Error {
    let [fs, group, name] = at.quoted();
    let message = format!(
        "{} was removed by hand, but its snapshots were retained; remove them (ceph fs subvolume snapshot ls {fs} {name} --group_name \
         {group}; ceph fs subvolume snapshot rm …)",
        at.shown()
    );
    Error::new(Kind::InUse, message)
}

pub(super) fn no_group(at: &At) -> Error {
    let [fs, group, _] = at.quoted();
    let message = format!(
        "there is no subvolume group {} in file system {}, so it cannot be said that {} was removed; nothing was touched. If the group \
         was removed with all that was in it, make it again (ceph fs subvolumegroup create {fs} {group})",
        at.group,
        at.fs,
        at.shown()
    );
    Error::new(Kind::Refused, message)
}
