//! Removes, archives, keeps and grows the volumes that we made: [`remove`], [`expand`], [`expire`].
//!
//! The proof is threefold: the cluster is the one that the PV recorded, the PV's source is what its record says, and the
//! subvolume's mark names the claim. Access ends before the data goes, since Ceph's `subvolume rm` leaves users behind.

use std::time::SystemTime;

use super::{
    mark::{self, Archived, Mark, Marks, Owner},
    names,
    record::Record,
    store::Work,
    subvolumes::{At, Found},
};
use crate::{
    backend::{Error, Kind, Removed, ceph::Reason},
    volume::{Capacity, Disposal, Grown, Growth, Origin, Permit, Removal, VolumeName},
};

/// What the mark proves.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Proof {
    /// It is the volume's.
    Ours(Box<Marks>),
    /// The name has passed to another claim, so the volume is gone.
    Passed,
}

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
            let installation = work.host.installation();
            match prove(&at, &Marks::read(&metadata), removal, installation.as_deref())? {
                Proof::Ours(marks) => marks,
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
        Disposal::Keep => {
            // Else a sweep would take it for a volume that nobody ever used.
            if !marks.kept {
                let now = mark::timestamp(SystemTime::now());
                work.subvolumes.set_metadata(&at, mark::KEPT, &now, permit).await?;
            }
            Ok(Removed::Kept)
        }
        Disposal::Archive => {
            for user in users(work, &at, record).await? {
                work.revoke(&at, &user, permit).await?;
            }
            sign(work, &at, &marks, permit).await?;
            let archived = if let Some(archived) = marks.archived {
                archived
            } else {
                let archived = Archived::new(SystemTime::now(), record.expiry);
                work.subvolumes.set_metadata(&at, mark::ARCHIVED, &archived.written(), permit).await?;
                archived
            };
            if let Some(expires) = archived.expires() {
                work.store.memory().archives.insert(at.clone(), expires);
            }
            forget(work, removal, record, permit).await?;
            Ok(Removed::Archived(names::segments(&at.group, &at.name).join("/")))
        }
        Disposal::Delete => {
            if let Some((user, _)) = &record.own {
                work.revoke(&at, user, permit).await?;
            }
            work.subvolumes.remove(&at, permit).await?;
            forget(work, removal, record, permit).await?;
            Ok(Removed::Trashed)
        }
    }
}

/// Lets the volume grow.
pub(super) async fn expand(
    work: &Work,
    growth: &Growth,
    record: &Record,
    quota: u64,
    permit: &Permit,
) -> Result<Grown, Error> {
    let at = at(record);
    work.store.met(&at.fs, &at.group);
    work.prove_identity(growth.provenance.store_identity.as_deref()).await?;
    match work.subvolumes.metadata(&at).await? {
        Found::Subvolume(metadata) => match Marks::read(&metadata).owner {
            Owner::Claim(mark) if mark.claim() == growth.claim => {}
            Owner::Claim(_) | Owner::Unmarked | Owner::Unreadable => {
                let message = format!("{} is not marked as the volume of claim {}", at.shown(), growth.claim);
                return Err(Error::new(Kind::Refused, message));
            }
        },
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
    Ok(Grown { capacity: Capacity::from_bytes(now), on_node: false })
}

/// Adds to the mark of a volume that was proven to be ours who we are, where it was made before that was known: without it
/// an archive never expires.
async fn sign(work: &Work, at: &At, marks: &Marks, permit: &Permit) -> Result<(), Error> {
    if let Owner::Claim(mark) = &marks.owner
        && mark.installation.is_none()
        && let Some(installation) = work.host.installation()
    {
        let mark = Mark { installation: Some(installation), ..mark.clone() };
        work.subvolumes.set_metadata(at, mark::OWNER, &mark.written(), permit).await?;
    }
    Ok(())
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
    let installation = work.host.installation();
    match archived.expires() {
        Some(_) if mark.installation.is_none() || mark.installation != installation => {
            return Ok(Fate::Stays);
        }
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

/// Whether the mark proves that this volume's data is there.
fn prove(at: &At, marks: &Marks, removal: &Removal, installation: Option<&str>) -> Result<Proof, Error> {
    let refuse = |why: String| {
        let message = format!("{} {why}; nothing was touched", at.shown());
        Err(Error::new(Kind::Refused, message))
    };
    let mark = match &marks.owner {
        Owner::Unmarked => return refuse("carries no mark of ours".into()),
        Owner::Unreadable => {
            return refuse(format!("carries a mark ({}) that cannot be read", mark::OWNER));
        }
        Owner::Claim(mark) => mark,
    };
    if mark.is_foreign(installation) {
        return refuse(format!("belongs to {}", mark.shown()));
    }
    if mark.claim() == removal.claim {
        return Ok(Proof::Ours(Box::new(marks.clone())));
    }
    // A name that does not hold the UID is free for the next claim once the volume is gone, whose PV may still be there. A PV
    // that is named by the very claim of the mark is another matter: its volume is there, and the PV was bound to another claim.
    let same_name = mark.namespace == removal.claim.namespace && mark.name == removal.claim.name;
    let deterministic = format!("{}.{}", removal.claim.namespace, removal.claim.name);
    let of_the_mark = VolumeName::for_claim(&mark.uid).is_ok_and(|volume| volume == removal.name);
    if same_name && at.name == deterministic && mark.uid != removal.claim.uid && !of_the_mark {
        return Ok(Proof::Passed);
    }
    refuse(format!(
        "belongs to {}, but the PersistentVolume was bound to claim {} (UID {})",
        mark.shown(),
        removal.claim,
        removal.claim.uid
    ))
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
    let message = format!(
        "{} was removed by hand, but its snapshots were retained; remove them (ceph fs subvolume snapshot ls {} {} --group_name {}; \
         ceph fs subvolume snapshot rm …)",
        at.shown(),
        at.fs,
        at.name,
        at.group
    );
    Error::new(Kind::InUse, message)
}

pub(super) fn no_group(at: &At) -> Error {
    let message = format!(
        "there is no subvolume group {} in file system {}, so it cannot be said that {} was removed; nothing was touched. If the group \
         was removed with all that was in it, make it again (ceph fs subvolumegroup create {} {})",
        at.group,
        at.fs,
        at.shown(),
        at.fs,
        at.group
    );
    Error::new(Kind::Refused, message)
}
