//! Archived volumes are deleted for good once their time has come: [`expire`].
//!
//! The API server is asked for the PV, live, before anything is done and once more before the data goes.

use std::time::{Duration, SystemTime};

use super::{
    info::Subvolume,
    store::{LATER, NextLook},
    users,
    work::{FsClient, Marked},
};
use crate::{
    backend::{Error, PvState},
    volume::{Permit, VolumeName},
};

/// How soon an archive is looked at again that a PV uses.
const USED: Duration = Duration::from_hours(1);

/// Deletes an archived volume of ours for good, if its time has come and no PV uses it.
///
/// One that a PV uses loses its mark when it is restored or registered. Returns when to look again, or `None` where nothing is left
/// to be done.
pub(super) async fn expire(
    work: &FsClient,
    at: &Subvolume,
    now: SystemTime,
    permit: &Permit,
) -> Result<NextLook, Error> {
    let Some(marked) = work.try_lock(at).await? else { return Ok(None) };
    let Marked { marks, mark, name, .. } = &marked;
    let Some(archived) = &marks.archived else { return Ok(None) };
    match archived.expires() {
        Some(expires) if !marks.kept && expires > now => return Ok(Some(Some(expires))),
        Some(_) if !marks.kept => {}
        Some(_) | None => return Ok(None),
    }
    if let Some(again) = wanted(work, at, name, now).await? {
        return Ok(Some(Some(again)));
    }
    work.subvolumes.require_no_snapshots(at).await?;
    users::delete_user_and_secret(work, at, mark, true, permit).await?;
    // That took a while. What gets a PV now is let in again with that.
    if let Some(again) = wanted(work, at, name, now).await? {
        return Ok(Some(Some(again)));
    }
    work.subvolumes.remove(at, permit).await?;
    work.store.memory().purged += 1;
    tracing::info!(
        subvolume = at.shown(),
        claim = mark.shown(),
        since = archived.since,
        "an archived volume has expired"
    );
    Ok(None)
}

/// When an archive is looked at again that a PV uses; `None` where there is no PV.
async fn wanted(
    work: &FsClient,
    at: &Subvolume,
    name: &VolumeName,
    now: SystemTime,
) -> Result<Option<SystemTime>, Error> {
    match work.kube.pv_state(name).await? {
        PvState::Absent => Ok(None),
        PvState::Present { removing: true, .. } => Ok(Some(now + LATER)),
        PvState::Present { removing: false, .. } => {
            tracing::warn!(
                subvolume = at.shown(),
                volume = %name,
                "the archive has expired and is not deleted: its PersistentVolume exists and is not to be removed"
            );
            Ok(Some(now + USED))
        }
    }
}
