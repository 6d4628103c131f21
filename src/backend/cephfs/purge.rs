//! Deleted volumes are purged once their PVs are gone: [`purge_due`], decided by [`decide`].
//!
//! Nothing is purged on the word of a mark alone: the API server is asked for the PV, live, and a volume whose PV was rescued, or
//! restored from a backup, stays and loses its mark.

use std::time::{Duration, SystemTime};

use super::{
    expire::expire,
    info::Subvolume,
    mark::{self, Archived, Deleted},
    remove,
    store::{LATER, NextLook, Removed},
    users,
    work::{FsClient, Marked},
};
use crate::{
    backend::{Error, Kind, PvState},
    volume::Permit,
};

/// How soon a volume is looked at again whose PV is about to go.
pub(super) const SOON: Duration = Duration::from_secs(2);
/// How soon something is tried again of which it is not known what became.
pub(super) const AGAIN: Duration = Duration::from_secs(30);

/// What becomes of a deleted volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It is purged now.
    Purge,
    /// It is looked at again then.
    Wait(SystemTime),
    /// It stays: its PV is to be kept.
    Keep,
    /// Its PV is to be kept, but its purge had begun.
    Hold,
    /// It is never purged, since it is not known when it may be.
    Stays,
}

/// Decides about a deleted volume, by what the API server says of its PV and by its clock.
pub(super) fn decide(deleted: &Deleted, pv: &PvState, now: SystemTime) -> Next {
    match pv {
        PvState::Absent if deleted.purging => Next::Purge,
        PvState::Absent => match deleted.until() {
            Some(until) if until <= now => Next::Purge,
            Some(until) => Next::Wait(until),
            None => Next::Stays,
        },
        PvState::Present { uid, removing: true } if deleted.purging || *uid == deleted.object => {
            // It may be held up for days; before its time nothing is to be done anyway.
            let since = deleted.since().and_then(|since| now.duration_since(since).ok()).unwrap_or_default();
            let next = now + (since / 8).clamp(SOON, LATER);
            Next::Wait(deleted.until().map_or(next, |until| until.max(next)))
        }
        // The call that removes it may be on its way.
        PvState::Present { .. } if deleted.purging => Next::Hold,
        // It was rescued; or it is another object of this name, restored from a backup.
        PvState::Present { .. } => Next::Keep,
    }
}

/// Purges the deleted and the archived volumes that are due, and tells what could not be.
pub(super) async fn purge_due(work: &FsClient, now: SystemTime, permit: &Permit) -> Result<(), Error> {
    let mut lost = None;
    let due = work.store.memory().due(now);
    for (state, at) in due {
        permit.check()?;
        let key = format!("{} {}", state.word(), at.shown());
        let settled = match state {
            Removed::Deleted => settle(work, &at, now, permit).await,
            Removed::Archived => expire(work, &at, now, permit).await,
        };
        let mut memory = work.store.memory();
        let next = match settled {
            Ok(next) => {
                memory.stuck.remove(&key);
                next
            }
            Err(error) => Some(Some(match error.kind() {
                Kind::Busy => now + SOON,
                // It does not keep the others waiting, unless nothing is answered.
                Kind::Unavailable => {
                    let again = lost.replace(error).is_some();
                    memory.waiting(state).insert(at.clone(), Some(now + AGAIN));
                    if again {
                        break;
                    }
                    continue;
                }
                _ => {
                    memory.set_problem(key, error.chain());
                    now + LATER
                }
            })),
        };
        match next {
            Some(next) => drop(memory.waiting(state).insert(at, next)),
            None => drop(memory.waiting(state).remove(&at)),
        }
    }
    lost.map_or(Ok(()), Err)
}

/// Looks at one deleted volume; when to look again.
async fn settle(
    work: &FsClient,
    at: &Subvolume,
    now: SystemTime,
    permit: &Permit,
) -> Result<NextLook, Error> {
    let Some(marked) = work.try_lock(at).await? else { return Ok(None) };
    let Some(deleted) = &marked.marks.deleted else { return Ok(None) };
    // Written late, or left by an earlier removal of a volume that was kept since.
    if marked.marks.kept && !deleted.purging {
        keep(work, at, &marked, permit).await?;
        return Ok(None);
    }
    if let Some(dated) = deleted.dated(now) {
        work.subvolumes.set_metadata(at, mark::DELETED, &dated.written(), permit).await?;
        return Ok(Some(dated.until()));
    }
    let pv = work.kube.pv_state(&marked.name).await?;
    match decide(deleted, &pv, now) {
        Next::Stays => Ok(Some(None)),
        Next::Wait(then) => Ok(Some(Some(then))),
        Next::Keep => {
            keep(work, at, &marked, permit).await?;
            Ok(None)
        }
        Next::Hold => {
            let message = format!(
                "{} is used by PersistentVolume {} again, and its purge had begun: it stays for as long as that is there, and may go at any \
                 moment; save its data",
                at.shown(),
                marked.name
            );
            Err(Error::new(Kind::Refused, message))
        }
        Next::Purge => {
            purge(work, at, &marked, deleted, permit).await?;
            Ok(None)
        }
    }
}

/// Takes the mark of a deletion off.
async fn keep(work: &FsClient, at: &Subvolume, marked: &Marked, permit: &Permit) -> Result<(), Error> {
    work.subvolumes.remove_metadata(at, mark::DELETED, permit).await?;
    tracing::warn!(
        subvolume = at.shown(),
        volume = %marked.name,
        "the PersistentVolume is to be kept, so its data is no longer to be deleted"
    );
    Ok(())
}

/// Gives the data to Ceph's trash, unless its PV is there again.
async fn purge(
    work: &FsClient,
    at: &Subvolume,
    marked: &Marked,
    deleted: &Deleted,
    permit: &Permit,
) -> Result<(), Error> {
    let Marked { marks, mark, name, .. } = marked;
    // What cannot go is not begun: for weeks it could be restored, and would be gone as soon as its snapshots are.
    work.subvolumes.require_no_snapshots(at).await?;
    // Ceph's `rm` leaves the users behind that were let in.
    users::delete_user_and_secret(work, at, mark, marks.archived.is_some(), permit).await?;
    if mark.user.is_none() {
        for user in work.subvolumes.authorized(at).await? {
            users::revoke(work, at, &user, permit).await?;
        }
    }
    let absent = async || Ok::<_, Error>(matches!(work.kube.pv_state(name).await?, PvState::Absent));
    if deleted.purging {
        if !absent().await? {
            return Err(Error::new(Kind::Busy, format!("PersistentVolume {name} is there again")));
        }
    } else {
        let begun = Deleted { purging: true, ..deleted.clone() };
        match work.subvolumes.set_metadata(at, mark::DELETED, &begun.written(), permit).await {
            // In a full file system nothing can be noted, and the purge makes room.
            Err(error) if error.kind() == Kind::Exhausted => {}
            outcome => outcome?,
        }
        if !absent().await? {
            // As an archive it gets its user back when it is restored or registered.
            let archived = Archived::new(remove::now(work), None);
            work.subvolumes.set_metadata(at, mark::ARCHIVED, &archived.written(), permit).await?;
            return keep(work, at, marked, permit).await;
        }
    }
    match work.subvolumes.remove(at, permit).await {
        Ok(true) => work.store.memory().purged += 1,
        Ok(false) => {}
        Err(error) => {
            // Ceph said that it did nothing.
            if error.kind() == Kind::InUse {
                let waits = Deleted { purging: false, ..deleted.clone() };
                work.subvolumes.set_metadata(at, mark::DELETED, &waits.written(), permit).await?;
            }
            return Err(error);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deleted_volume_is_purged_only_when_its_object_is_gone_and_its_time_has_come() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let deleted = Deleted::new(at(1000), Duration::from_mins(1), "object-1");
        let present = |uid: &str, removing| PvState::Present { uid: uid.to_owned(), removing };
        let begun = Deleted { purging: true, ..deleted.clone() };
        let now = Deleted::new(at(1000), Duration::ZERO, "object-1");
        let unreadable = Deleted { until: "soon".into(), ..deleted.clone() };
        let table = [
            ("gone and over", &deleted, PvState::Absent, 1060, Next::Purge),
            ("gone, not over", &deleted, PvState::Absent, 1059, Next::Wait(at(1060))),
            ("about to go", &deleted, present("object-1", true), 1010, Next::Wait(at(1060))),
            ("about to go, over", &deleted, present("object-1", true), 1080, Next::Wait(at(1090))),
            ("held up for a day", &deleted, present("object-1", true), 87_400, Next::Wait(at(88_000))),
            ("as fresh as can be", &now, present("object-1", true), 1000, Next::Wait(at(1002))),
            ("rescued", &deleted, present("object-1", false), 2000, Next::Keep),
            ("restored from a backup, bound", &deleted, present("object-2", false), 2000, Next::Keep),
            ("restored from a backup, released", &deleted, present("object-2", true), 2000, Next::Keep),
            ("begun is finished", &begun, PvState::Absent, 1000, Next::Purge),
            ("begun, and its object is there again", &begun, present("object-2", false), 2000, Next::Hold),
            ("begun, and it is to go again", &begun, present("object-2", true), 1080, Next::Wait(at(1090))),
            ("a time that cannot be read never comes", &unreadable, PvState::Absent, 9000, Next::Stays),
        ];
        for (row, deleted, pv, now, expected) in table {
            assert_eq!(decide(deleted, &pv, at(now)), expected, "{row}");
        }
    }
}
