//! Giving up a removal: the image goes back from the trash to its place, under its name.
//!
//! What an administrator moved to the trash by hand stays there, and so does what is not proved to be the PV's.

use super::{
    entry::{GRACE, State, TrashEntry, TrashOrigin},
    error::{OpError, fail},
    image::TrashExpiry,
    names,
    work::PoolClient,
};
use crate::{
    backend::{Error, Kind, Restored, ceph::Reason, quoted},
    volume::{Permit, Removal},
};

/// Puts the image of this volume back, wherever the removal was interrupted.
pub(super) async fn restore(
    work: &PoolClient,
    removal: &Removal,
    image: &str,
    permit: &Permit,
) -> Result<Restored, OpError> {
    work.prove_identity(removal.into()).await?;
    let legacy_trash_name = names::legacy_trash_names(image);
    let is_it = |name: &str| {
        name == image
            || names::volume_of(image).is_none()
                && legacy_trash_name.iter().any(|legacy_trash_name| legacy_trash_name == name)
    };
    let mut entries = work.in_trash().await?;
    entries.retain(|entry| is_it(&entry.name) && !entry.by_rm && entry.origin() != TrashOrigin::ByHand);
    // The one that came last.
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.since));
    if let Some(info) = work.info(image).await? {
        // Its move was begun, or its way back: it is in its place when that is finished.
        let Some(entry) = entries.into_iter().find(|entry| entry.id == info.id) else {
            return Ok(Restored::InPlace);
        };
        return back(work, removal, image, &entry, permit).await;
    }
    for entry in entries {
        match back(work, removal, image, &entry, permit).await {
            Err(error) if error.is_a_refusal() => {
                let error = Error::from(error).chain();
                tracing::warn!(volume = %removal.name, id = entry.id, error, "left an image in the trash");
            }
            outcome => return outcome,
        }
    }
    for legacy_trash_name in
        legacy_trash_name.iter().filter(|legacy_trash_name| is_it(legacy_trash_name)).rev()
    {
        if let Some((_, header)) = work.info_and_header(legacy_trash_name).await? {
            let spec = work.pool_namespace.spec(legacy_trash_name);
            work.prove(&spec, &header, removal.into()).await?;
            work.rename(legacy_trash_name, image, permit).await?;
            return Ok(Restored::MovedBack);
        }
    }
    tracing::warn!(volume = %removal.name, image = work.pool_namespace.spec(image), "there is no image to be restored");
    Ok(Restored::InPlace)
}

/// Moves one entry of the trash back.
async fn back(
    work: &PoolClient,
    removal: &Removal,
    image: &str,
    entry: &TrashEntry,
    permit: &Permit,
) -> Result<Restored, OpError> {
    let spec = work.pool_namespace.spec(image);
    let Some(header) = work.header(&entry.id).await? else {
        return fail(Kind::Refused, format!("image {spec} (id {}) is gone but for its name", entry.id));
    };
    work.prove(&spec, &header, removal.into()).await?;
    put_back(work, entry, image, permit).await?;
    Ok(Restored::MovedBack)
}

/// Moves an entry of the trash, which is proved to be ours, back to its place under that name.
pub(super) async fn put_back(
    work: &PoolClient,
    entry: &TrashEntry,
    image: &str,
    permit: &Permit,
) -> Result<(), OpError> {
    let spec = work.pool_namespace.spec(image);
    match entry.state {
        State::Whole | State::Restoring => {}
        // The same program finishes it, by name, and keeps the expiry.
        State::Moving => work.trash_move(&entry.name, TrashExpiry::After(GRACE), permit).await?,
        State::Removing => {
            return fail(
                Kind::Refused,
                format!("image {spec} (id {}) cannot be restored: its purge has begun", entry.id),
            );
        }
    }
    match work.trash_restore(&entry.id, image, permit).await {
        Err(OpError::Call(failed)) if failed.reason == Reason::Exists => {
            let message = format!(
                "image {spec} cannot be restored: another image is called so. Rename that one, or restore this one under another \
                 name: rbd trash restore {} --image NAME",
                quoted(&work.pool_namespace.spec(&entry.id))
            );
            fail(Kind::Conflict, message)
        }
        outcome => outcome,
    }
}
