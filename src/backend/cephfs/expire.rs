//! Archived volumes are deleted for good once their time has come: [`expire`].
//!
//! The API server is asked for the PV, live, before anything is done and once more before the data goes.

use std::time::{Duration, SystemTime};

use super::{
    info::At,
    purge::LATER,
    users,
    work::{Marked, Work},
};
use crate::{
    backend::{Error, PvState},
    volume::{Permit, VolumeName},
};

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
/// One that a PV uses loses its mark when it is restored or registered.
pub(super) async fn expire(work: &Work, at: &At, now: SystemTime, permit: &Permit) -> Result<Fate, Error> {
    let Some(marked) = work.hold(at).await? else { return Ok(Fate::Stays) };
    let Marked { marks, mark, name, .. } = &marked;
    let Some(archived) = &marks.archived else { return Ok(Fate::Stays) };
    match archived.expires() {
        Some(_) if marks.kept => return Ok(Fate::Stays),
        Some(expires) if expires > now => return Ok(Fate::Waits(expires)),
        Some(_) => {}
        None => return Ok(Fate::Stays),
    }
    if let Some(fate) = wanted(work, at, name, now).await? {
        return Ok(fate);
    }
    work.subvolumes.unsnapshotted(at).await?;
    users::discard(work, at, mark, true, permit).await?;
    // That took a while. What gets a PV now is let in again with that.
    if let Some(fate) = wanted(work, at, name, now).await? {
        return Ok(fate);
    }
    work.subvolumes.remove(at, permit).await?;
    tracing::info!(
        subvolume = at.shown(),
        claim = mark.shown(),
        since = archived.since,
        "an archived volume has expired"
    );
    Ok(Fate::Expired)
}

/// When an archive is looked at again that a PV uses; `None` where there is no PV.
async fn wanted(work: &Work, at: &At, name: &VolumeName, now: SystemTime) -> Result<Option<Fate>, Error> {
    match work.host.pv_state(name).await? {
        PvState::Absent => Ok(None),
        PvState::Present { removing: true, .. } => Ok(Some(Fate::Waits(now + LATER))),
        PvState::Present { removing: false, .. } => {
            tracing::warn!(
                subvolume = at.shown(),
                volume = %name,
                "the archive has expired and is not deleted: its PersistentVolume exists and is not to be removed"
            );
            Ok(Some(Fate::Waits(now + USED)))
        }
    }
}
