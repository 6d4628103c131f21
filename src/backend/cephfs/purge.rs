//! Deleted volumes are purged once their PVs are gone: [`purge_due`], decided by [`decide`].
//!
//! Nothing is purged on the word of a mark alone: the API server is asked for the PV, live, and a volume whose PV was rescued, or
//! restored from a backup, stays and loses its mark.

use std::time::{Duration, SystemTime};

use super::{
    mark::{self, Deleted, Marks, Owner},
    store::Work,
    subvolumes::{At, Found},
    users,
};
use crate::{
    backend::{Error, Kind, PvState},
    volume::{Permit, VolumeName},
};

/// How soon a volume is looked at again whose PV is about to go.
pub(super) const SOON: Duration = Duration::from_secs(2);

/// What becomes of a deleted volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It is purged now.
    Purge,
    /// It is looked at again then.
    Wait(SystemTime),
    /// It stays: its PV is to be kept.
    Keep,
    /// It is never purged, since nobody can tell when it may be.
    Stays,
}

/// Decides about a deleted volume, by what the API server says of its PV and by its clock.
pub(super) fn decide(deleted: &Deleted, pv: &PvState, now: SystemTime) -> Next {
    if deleted.purging {
        return Next::Purge;
    }
    match pv {
        PvState::Absent => match deleted.until() {
            Some(until) if until <= now => Next::Purge,
            Some(until) => Next::Wait(until),
            None => Next::Stays,
        },
        PvState::Present { uid, removing: true } if *uid == deleted.object => Next::Wait(now + SOON),
        // It was rescued; or it is another object of this name, restored from a backup.
        PvState::Present { .. } => Next::Keep,
    }
}

/// Purges what is due, and tells what could not be.
pub(super) async fn purge_due(work: &Work, now: SystemTime, permit: &Permit) -> Result<(), Error> {
    let due: Vec<At> = {
        let memory = work.store.memory();
        let due = memory.deleted.iter().filter(|(_, at)| at.is_some_and(|at| at <= now));
        due.map(|(at, _)| at.clone()).collect()
    };
    for at in due {
        permit.check()?;
        let key = format!("deleted {}", at.shown());
        match settle(work, &at, now, permit).await {
            Ok(Some(next)) => {
                let mut memory = work.store.memory();
                memory.stuck.remove(&key);
                memory.deleted.insert(at, next);
            }
            Ok(None) => {
                let mut memory = work.store.memory();
                memory.stuck.remove(&key);
                memory.deleted.remove(&at);
            }
            Err(error) if error.kind() == Kind::Unavailable => return Err(error),
            Err(error) => {
                let mut memory = work.store.memory();
                memory.stick(key, error.chain());
                memory.deleted.insert(at, Some(now + super::TENDING));
            }
        }
    }
    Ok(())
}

/// Looks at one deleted volume; when to look again (`None` in it: never), or `None` where nothing is left to be done.
async fn settle(
    work: &Work,
    at: &At,
    now: SystemTime,
    permit: &Permit,
) -> Result<Option<Option<SystemTime>>, Error> {
    let Found::Subvolume(metadata) = work.subvolumes.metadata(at).await? else { return Ok(None) };
    let marks = Marks::read(&metadata);
    let (Owner::Claim(mark), Some(deleted)) = (&marks.owner, &marks.deleted) else { return Ok(None) };
    if !mark.is_of(work.host.cluster_ids().as_ref()) {
        return Ok(None);
    }
    let name = VolumeName::for_claim(&mark.uid)?;
    let pv = work.host.pv_state(&name).await?;
    match decide(deleted, &pv, now) {
        Next::Stays => Ok(Some(None)),
        Next::Wait(then) => Ok(Some(Some(then))),
        Next::Keep => {
            work.subvolumes.remove_metadata(at, mark::DELETED, permit).await?;
            tracing::warn!(
                subvolume = at.shown(),
                volume = %name,
                "the PersistentVolume is to be kept, so its data is no longer to be deleted"
            );
            Ok(None)
        }
        Next::Purge => {
            if !deleted.purging {
                let begun = Deleted { purging: true, ..deleted.clone() };
                match work.subvolumes.set_metadata(at, mark::DELETED, &begun.written(), permit).await {
                    // In a full file system nothing can be noted, and the purge makes room.
                    Err(error) if error.kind() == Kind::Exhausted => {}
                    outcome => outcome?,
                }
            }
            // Ceph's `rm` leaves the users behind that were let in.
            users::discard(work, at, mark, marks.archived.is_some(), permit).await?;
            if mark.user.is_none() {
                for user in work.subvolumes.authorized(at).await? {
                    users::revoke(work, at, &user, permit).await?;
                }
            }
            if work.subvolumes.remove(at, permit).await? {
                work.store.memory().purged += 1;
            }
            Ok(None)
        }
    }
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
        let unreadable = Deleted { until: "soon".into(), ..deleted.clone() };
        let table = [
            ("gone and over", &deleted, PvState::Absent, 1060, Next::Purge),
            ("gone, not over", &deleted, PvState::Absent, 1059, Next::Wait(at(1060))),
            ("about to go", &deleted, present("object-1", true), 2000, Next::Wait(at(2000) + SOON)),
            ("rescued", &deleted, present("object-1", false), 2000, Next::Keep),
            ("restored from a backup, bound", &deleted, present("object-2", false), 2000, Next::Keep),
            ("restored from a backup, released", &deleted, present("object-2", true), 2000, Next::Keep),
            ("begun is finished", &begun, PvState::Absent, 1000, Next::Purge),
            ("a time that cannot be read never comes", &unreadable, PvState::Absent, 9000, Next::Stays),
        ];
        for (row, deleted, pv, now, expected) in table {
            assert_eq!(decide(deleted, &pv, at(now)), expected, "{row}");
        }
    }
}
