//! Removes, archives, keeps and grows the volumes that we made: [`remove`], [`expand`].
//!
//! The proof is threefold: the cluster is the one that the PV recorded, the PV's source is what its record says, and the
//! subvolume's mark names the volume and this cluster (`proof`). What is deleted is only marked here, since Ceph's `subvolume rm`
//! has no way back; `purge` does that once the PV is gone.

use std::time::SystemTime;

use super::{
    info::{Found, Subvolume},
    mark::{self, Archived, Deleted, Mark, Marks, Owner},
    names,
    proof::{Own, Proof, own_user, prove},
    record::ControllerContext,
    users::{self, OwnUser},
    work::FsClient,
};
use crate::{
    backend::{
        Error, Kind, Removed, Restored,
        ceph::{class::Form, owner::PvVolume},
    },
    volume::{Capacity, Disposal, ExpandRequest, Expanded, Permit, Removal, VolumeName},
};

/// Removes the volume.
pub(super) async fn remove(
    work: &FsClient,
    removal: &Removal,
    record: &ControllerContext,
    permit: &Permit,
) -> Result<Removed, Error> {
    let at = at(record);
    let marks = match own_marks(work, &at, removal.into(), record, permit).await? {
        OwnMarks::Proved(marks) => marks,
        OwnMarks::AnotherClaims => {
            tracing::warn!(volume = %removal.name, subvolume = at.shown(), "the subvolume name now belongs to another claim");
            return absent(work, &at, removal, record, permit).await;
        }
        OwnMarks::NoSubvolume => return absent(work, &at, removal, record, permit).await,
        OwnMarks::NoGroup => return Err(no_group(&at)),
    };
    match removal.disposal.of(removal.origin) {
        Disposal::Retain => {
            // Else a sweep would take it for a volume that was never used.
            keep(work, &at, marks.kept, permit).await?;
            Ok(Removed::Kept)
        }
        Disposal::Archive => {
            archive(work, &at, *marks, removal, record, permit).await?;
            forget(work, removal, record, permit).await?;
            Ok(Removed::Archived(names::path(&at.group, &at.name).to_string()))
        }
        Disposal::Delete => {
            delete(work, &at, *marks, removal, permit).await?;
            Ok(Removed::Trashed)
        }
    }
}

/// What is written on the subvolume of a PV.
enum OwnMarks {
    /// It is the PV's, and signed if an administrator took it over.
    Proved(Box<Marks>),
    AnotherClaims,
    NoSubvolume,
    NoGroup,
}

async fn own_marks(
    work: &FsClient,
    at: &Subvolume,
    pv: PvVolume<'_>,
    record: &ControllerContext,
    permit: &Permit,
) -> Result<OwnMarks, Error> {
    work.store.met(&at.fs, &at.group);
    work.prove_identity(pv.pv_metadata.store_identity.as_deref()).await?;
    let metadata = match work.subvolumes.metadata(at).await? {
        Found::Subvolume(metadata) => metadata,
        Found::NoSubvolume => return Ok(OwnMarks::NoSubvolume),
        Found::NoGroup => return Ok(OwnMarks::NoGroup),
        Found::OnlySnapshots => return Err(only_snapshots(at)),
    };
    match prove(at, &Marks::read(&metadata), pv, work.kube.cluster_ids().as_ref())? {
        Proof::Ours(marks) => Ok(OwnMarks::Proved(marks)),
        Proof::TakenOver(marks, mark) => {
            let mark = take_over(work, at, *mark, record, permit).await?;
            Ok(OwnMarks::Proved(Box::new(Marks { owner: Owner::Claim(mark), ..*marks })))
        }
        Proof::NameReused => Ok(OwnMarks::AnotherClaims),
    }
}

/// Marks the subvolume as archived, and shuts its users out.
async fn archive(
    work: &FsClient,
    at: &Subvolume,
    marks: Marks,
    removal: &Removal,
    record: &ControllerContext,
    permit: &Permit,
) -> Result<(), Error> {
    undelete(work, at, &marks, permit).await?;
    // The mark comes first: a full file system refuses it, and a volume that stays keeps its users.
    let object = &removal.pv_metadata.uid;
    let archived = match marks.archived {
        Some(archived) if archived.is_for(object, now(work)) => archived,
        Some(_) | None => {
            if record.expiry.is_some() && work.kube.now().is_none() {
                return Err(without_a_clock(at));
            }
            let archived =
                Archived { object: Some(object.clone()), ..Archived::new(now(work), record.expiry) };
            work.subvolumes.set_metadata(at, mark::ARCHIVED, &archived.written(), permit).await?;
            archived
        }
    };
    unkeep(work, at, marks.kept, permit).await?;
    for user in authorized(work, at, record).await? {
        if !users::revoke(work, at, &user, permit).await? {
            return Err(not_deauthorized(at, &user));
        }
    }
    work.store.memory().archives.remove(at);
    if let Some(expires) = archived.expires() {
        work.store.memory().archives.insert(at.clone(), Some(expires));
    }
    Ok(())
}

/// Marks the subvolume as deleted.
async fn delete(
    work: &FsClient,
    at: &Subvolume,
    marks: Marks,
    removal: &Removal,
    permit: &Permit,
) -> Result<(), Error> {
    let deleted = match marks.deleted {
        Some(deleted) if deleted.purging || deleted.object == removal.pv_metadata.uid => deleted,
        Some(_) | None => {
            let retention = removal.pv_metadata.retention.unwrap_or_else(|| work.kube.trash_retention());
            let object = &removal.pv_metadata.uid;
            let deleted = match work.kube.now() {
                Some(now) => Deleted::new(now, retention, object),
                None => Deleted::undated(SystemTime::now(), retention, object),
            };
            work.subvolumes.require_no_snapshots(at).await?;
            work.subvolumes.set_metadata(at, mark::DELETED, &deleted.written(), permit).await?;
            deleted
        }
    };
    unkeep(work, at, marks.kept, permit).await?;
    let look = if deleted.retention.is_some() { Some(now(work)) } else { deleted.until() };
    work.store.memory().deleted.insert(at.clone(), look);
    work.store.wake.notify_one();
    Ok(())
}

/// Lets the volume grow.
pub(super) async fn expand(
    work: &FsClient,
    request: &ExpandRequest,
    record: &ControllerContext,
    quota: u64,
    permit: &Permit,
) -> Result<Expanded, Error> {
    let at = at(record);
    match own_marks(work, &at, request.into(), record, permit).await? {
        OwnMarks::Proved(_) => {}
        OwnMarks::AnotherClaims => {
            let message = format!("{} is that of another claim by now", at.shown());
            return Err(Error::new(Kind::NotFound, message));
        }
        OwnMarks::NoSubvolume | OwnMarks::NoGroup => {
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

/// Notes that the volume is to be kept: a mark of a removal that comes late does nothing any more.
async fn keep(work: &FsClient, at: &Subvolume, kept: bool, permit: &Permit) -> Result<(), Error> {
    if kept {
        return Ok(());
    }
    let now = mark::timestamp(SystemTime::now());
    work.subvolumes.set_metadata(at, mark::KEPT, &now, permit).await
}

/// It is to go, after it was to be kept.
async fn unkeep(work: &FsClient, at: &Subvolume, kept: bool, permit: &Permit) -> Result<(), Error> {
    if kept { work.subvolumes.remove_metadata(at, mark::KEPT, permit).await } else { Ok(()) }
}

/// Signs what an administrator took over.
async fn take_over(
    work: &FsClient,
    at: &Subvolume,
    mark: Mark,
    record: &ControllerContext,
    permit: &Permit,
) -> Result<Mark, Error> {
    let mark = mark.with_own(record.own.as_ref());
    tracing::info!(subvolume = at.shown(), owner = mark.shown(), "took over the volume");
    work.subvolumes.set_metadata(at, mark::OWNER, &mark.written(), permit).await?;
    Ok(mark)
}

/// Gives up a deletion that was not finished.
async fn undelete(work: &FsClient, at: &Subvolume, marks: &Marks, permit: &Permit) -> Result<bool, Error> {
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
    work: &FsClient,
    removal: &Removal,
    record: &ControllerContext,
    form: Form,
    permit: &Permit,
) -> Result<Restored, Error> {
    let at = at(record);
    work.prove_identity(removal.pv_metadata.store_identity.as_deref()).await?;
    let Found::Subvolume(metadata) = work.subvolumes.metadata(&at).await? else {
        return Ok(Restored::InPlace);
    };
    let marks = Marks::read(&metadata);
    let begun = marks.deleted.is_some() || marks.archived.is_some();
    let cluster = work.kube.cluster_ids();
    let marks = match prove(&at, &marks, removal.into(), cluster.as_ref()) {
        Ok(Proof::Ours(marks) | Proof::TakenOver(marks, _)) => marks,
        Ok(Proof::NameReused) => return Ok(Restored::InPlace),
        // Nothing was done to what is not ours.
        Err(_) if !begun => return Ok(Restored::InPlace),
        Err(error) => return Err(error),
    };
    if let Some(Deleted { purging: true, .. }) = &marks.deleted {
        undelete(work, &at, &marks, permit).await?;
    }
    // Before anything else: the mark of the removal may still be on its way, and what follows may be refused for ever.
    match keep(work, &at, marks.kept, permit).await {
        Err(error) if error.kind() == Kind::Exhausted && !begun => {}
        outcome => outcome?,
    }
    if !begun {
        return Ok(Restored::InPlace);
    }
    undelete(work, &at, &marks, permit).await?;
    if let (Some((user, secret)), Some(cluster)) = (&record.own, &cluster)
        && (marks.archived.is_some() || is_deauthorized(work, &at, record, &removal.name).await?)
    {
        let own = OwnUser { user, secret, form };
        match own_user(&at, &marks, removal.into(), (user, secret), cluster)? {
            None => {}
            Some(Own { left: Some(why), .. }) => return Err(Error::new(Kind::Refused, why)),
            Some(Own { mark, left: None }) => {
                own.reauthorize_user(work, &at, &mark, &removal.name, permit).await?;
            }
        }
    }
    if marks.archived.is_some() {
        work.subvolumes.remove_metadata(&at, mark::ARCHIVED, permit).await?;
        work.store.memory().archives.remove(&at);
    }
    Ok(Restored::MovedBack)
}

/// Whether nodes cannot mount the volume as its own user, since a removal shut that out.
async fn is_deauthorized(
    work: &FsClient,
    at: &Subvolume,
    record: &ControllerContext,
    name: &VolumeName,
) -> Result<bool, Error> {
    let Some((user, secret)) = &record.own else { return Ok(false) };
    if !work.subvolumes.authorized(at).await?.contains(user) {
        return Ok(true);
    }
    match work.kube.exists(secret, name).await {
        // Another one has its name.
        Err(error) if error.kind() == Kind::Conflict => Ok(false),
        kept => Ok(!kept?),
    }
}

/// The time by which things expire; while the API server's is not known, ours, which then says only when it was written.
pub(super) fn now(work: &FsClient) -> SystemTime {
    work.kube.now().unwrap_or_else(SystemTime::now)
}

fn without_a_clock(at: &Subvolume) -> Error {
    let message = format!(
        "{} cannot be archived for a limited time: the clocks of the API server and of this machine disagree, or the first is not known \
         yet; nothing was changed. Synchronise them",
        at.shown()
    );
    Error::new(Kind::Unavailable, message)
}

pub(super) fn at(record: &ControllerContext) -> Subvolume {
    Subvolume { fs: record.fs.clone(), group: record.group.clone(), name: record.subvolume.clone() }
}

/// The users that may reach the volume through the volumes module.
async fn authorized(
    work: &FsClient,
    at: &Subvolume,
    record: &ControllerContext,
) -> Result<Vec<String>, Error> {
    let mut users = work.subvolumes.authorized(at).await?;
    if let Some((own, _)) = &record.own {
        users.retain(|user| user != own);
        users.push(own.clone());
    }
    Ok(users)
}

async fn forget(
    work: &FsClient,
    removal: &Removal,
    record: &ControllerContext,
    permit: &Permit,
) -> Result<(), Error> {
    let Some((_, secret)) = &record.own else { return Ok(()) };
    permit.check()?;
    work.forget(secret, &removal.name).await
}

/// The data is gone; what belonged to it goes too, where only the subvolume was removed.
async fn absent(
    work: &FsClient,
    at: &Subvolume,
    removal: &Removal,
    record: &ControllerContext,
    permit: &Permit,
) -> Result<Removed, Error> {
    if let Some((user, _)) = &record.own {
        users::remove_confined(work, user, (&at.fs, &at.directory()), &at.shown(), permit).await?;
    }
    forget(work, removal, record, permit).await?;
    Ok(Removed::Absent)
}

fn not_deauthorized(at: &Subvolume, user: &str) -> Error {
    let message = format!(
        "Ceph forgot user client.{user} while the file system was full, and its key still opens {}, which is not archived before it is shut \
         out. Let the user of the class remove it: give it the mon caps of docs/security.md for that",
        at.shown()
    );
    Error::new(Kind::Exhausted, message)
}

fn only_snapshots(at: &Subvolume) -> Error {
    let [fs, group, name] = at.quoted();
    let message = format!(
        "{} was removed by hand, but its snapshots were retained; remove them (ceph fs subvolume snapshot ls {fs} {name} --group_name \
         {group}; ceph fs subvolume snapshot rm …)",
        at.shown()
    );
    Error::new(Kind::InUse, message)
}

pub(super) fn no_group(at: &Subvolume) -> Error {
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
