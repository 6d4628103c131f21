//! Removes, archives, keeps and grows the volumes that we made: [`remove`], [`expand`], [`expire`].
//!
//! The proof is threefold: the cluster is the one that the PV recorded, the PV's source is what its record says, and the
//! subvolume's mark names the volume and this cluster (`proof`). What is deleted is only marked here, since Ceph's `subvolume rm`
//! has no way back; `purge` does that once the PV is gone.

use std::time::SystemTime;

use super::{
    create::OwnUser,
    mark::{self, Archived, Deleted, Mark, Marks, Owner},
    names,
    proof::{Proof, Said, prove},
    record::Record,
    store::Work,
    subvolumes::{At, Found},
};
use crate::{
    backend::{
        Error, Kind, Removed, Restored,
        ceph::{Reason, class::Form},
    },
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
    work.prove_identity(removal.provenance.store_identity.as_deref()).await?;
    let marks = match work.subvolumes.metadata(&at).await? {
        Found::Subvolume(metadata) => {
            let said = Said { name: &removal.name, claim: &removal.claim, provenance: &removal.provenance };
            match prove(&at, &Marks::read(&metadata), said, work.host.cluster().as_ref())? {
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
            // First what a full file system withholds: there Ceph forgets a user whom it is to shut out, and does not shut it out.
            let archived = if let Some(archived) = marks.archived {
                archived
            } else {
                let archived = Archived::new(now(work), record.expiry);
                work.subvolumes.set_metadata(&at, mark::ARCHIVED, &archived.written(), permit).await?;
                archived
            };
            for user in users(work, &at, record).await? {
                work.revoke(&at, &user, permit).await?;
            }
            if let Some(expires) = archived.expires() {
                work.store.memory().archives.insert(at.clone(), expires);
            }
            forget(work, removal, record, permit).await?;
            Ok(Removed::Archived(names::segments(&at.group, &at.name).join("/")))
        }
        Disposal::Delete => {
            let deleted = match marks.deleted {
                Some(deleted) if deleted.purging || deleted.object == removal.provenance.uid => deleted,
                Some(_) | None => {
                    let retention =
                        removal.provenance.retention.unwrap_or_else(|| work.host.trash_retention());
                    let deleted = Deleted::new(now(work), retention, &removal.provenance.uid);
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
    growth: &ExpandRequest,
    record: &Record,
    quota: u64,
    permit: &Permit,
) -> Result<Expanded, Error> {
    let at = at(record);
    work.store.met(&at.fs, &at.group);
    work.prove_identity(growth.provenance.store_identity.as_deref()).await?;
    match work.subvolumes.metadata(&at).await? {
        Found::Subvolume(metadata) => {
            let said = Said { name: &growth.name, claim: &growth.claim, provenance: &growth.provenance };
            match prove(&at, &Marks::read(&metadata), said, work.host.cluster().as_ref())? {
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
            let message = format!("{} is being purged; it cannot be had back", at.shown());
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
    work.prove_identity(removal.provenance.store_identity.as_deref()).await?;
    let Found::Subvolume(metadata) = work.subvolumes.metadata(&at).await? else {
        return Ok(Restored::InPlace);
    };
    let marks = Marks::read(&metadata);
    if marks.deleted.is_none() && marks.archived.is_none() {
        return Ok(Restored::InPlace);
    }
    let said = Said { name: &removal.name, claim: &removal.claim, provenance: &removal.provenance };
    let marks = match prove(&at, &marks, said, work.host.cluster().as_ref())? {
        Proof::Ours(marks) | Proof::TakenOver(marks, _) => marks,
        Proof::Passed => return Ok(Restored::InPlace),
    };
    let undeleted = undelete(work, &at, &marks, permit).await?;
    if marks.archived.is_none() {
        return Ok(if undeleted { Restored::MovedBack } else { Restored::InPlace });
    }
    if let (Some((user, secret)), Owner::Claim(mark)) = (&record.own, &marks.owner) {
        OwnUser { user, secret, form }.let_in(work, &at, &mark.uid, &removal.name, permit).await?;
    }
    work.subvolumes.remove_metadata(&at, mark::ARCHIVED, permit).await?;
    work.store.memory().archives.remove(&at);
    Ok(Restored::MovedBack)
}

/// The time by which things expire; while the API server's is not known, ours, which then says only when it was written.
pub(super) fn now(work: &Work) -> SystemTime {
    work.host.now().unwrap_or_else(SystemTime::now)
}

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

/// Deletes an archived volume of ours for good, if its time has come.
pub(super) async fn expire(work: &Work, at: &At, now: SystemTime, permit: &Permit) -> Result<Fate, Error> {
    let Found::Subvolume(metadata) = work.subvolumes.metadata(at).await? else { return Ok(Fate::Stays) };
    let marks = Marks::read(&metadata);
    let (Owner::Claim(mark), Some(archived)) = (&marks.owner, &marks.archived) else {
        return Ok(Fate::Stays);
    };
    let cluster = work.host.cluster();
    match archived.expires() {
        Some(_) if !mark.is_of(cluster.as_ref()) => return Ok(Fate::Stays),
        Some(expires) if expires > now => return Ok(Fate::Waits(expires)),
        Some(_) => {}
        None => return Ok(Fate::Stays),
    }
    discard_users(work, at, mark, permit).await?;
    work.subvolumes.remove(at, permit).await?;
    tracing::info!(
        subvolume = at.shown(),
        claim = mark.shown(),
        since = archived.since,
        "an archived volume has expired"
    );
    Ok(Fate::Expired)
}

/// Removes the user and the Secret that a mark names.
pub(super) async fn discard_users(work: &Work, at: &At, mark: &Mark, permit: &Permit) -> Result<(), Error> {
    if let Some(user) = &mark.user {
        work.revoke(at, user, permit).await?;
    }
    if let (Some(secret), Ok(owner)) = (mark.secret(), VolumeName::for_claim(&mark.uid)) {
        permit.check()?;
        work.forget(&secret, &owner).await?;
    }
    Ok(())
}

pub(super) fn at(record: &Record) -> At {
    At { fs: record.fs.clone(), group: record.group.clone(), name: record.subvolume.clone() }
}

/// The users that may reach the volume through the volumes module.
async fn users(work: &Work, at: &At, record: &Record) -> Result<Vec<String>, Error> {
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
        match work.subvolumes.mds_caps(user).await {
            Ok(Some(caps)) if only_below(&caps, &format!("/volumes/{}/{}/", at.group, at.name)) => {
                match work.subvolumes.remove_user(user, permit).await {
                    Ok(()) => {}
                    Err(failed) if failed.reason == Reason::NotPermitted => {
                        left(work, user, "is left, since the admin of the class may not remove users");
                    }
                    Err(failed) => return Err(failed.into()),
                }
            }
            Ok(Some(_)) => left(work, user, "is left, since it may do other things too"),
            Ok(None) => {}
            Err(failed) if failed.reason == Reason::NotPermitted => {
                left(work, user, "may be left, which the admin of the class may not see");
            }
            Err(failed) => return Err(failed.into()),
        }
    }
    forget(work, removal, record, permit).await?;
    Ok(Removed::Absent)
}

fn left(work: &Work, user: &str, how: &str) {
    tracing::warn!(user, how, "the Ceph user of a volume that is gone is left, or may be");
    let why = format!("its volume is gone, but it {how}; ceph auth rm removes it");
    work.store.memory().stick(format!("Ceph user client.{user}"), why);
}

/// Whether rights to metadata servers reach nothing but what lies below `above`, if anything at all.
///
/// `allow r` alone lets see the names of everything; the older provisioner gave it to each of its users.
pub(super) fn only_below(caps: &str, above: &str) -> bool {
    caps.split(',').map(str::trim).all(|grant| {
        grant == "allow r"
            || ["allow rw path=", "allow r path="].iter().any(|allowed| {
                let path = grant.strip_prefix(allowed).map(|path| path.trim_matches('"'));
                path.is_some_and(|path| path == above.trim_end_matches('/') || path.starts_with(above))
            })
    })
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
