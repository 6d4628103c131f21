//! Removing a volume: prove that it is ours, write the removal into its record, move it to the trash by one rename.
//!
//! Every step says by what it leaves behind that it was done, so that the next attempt finishes what was begun and
//! `restore` undoes it. What lies in the trash is purged by [`trash`](super::trash), not before the API server
//! says that the PV is gone. Runs on a thread of the export's pool.

use super::{
    legacy, mounted,
    moves::{self, ActiveRecord, PathState, path_state},
    op_error::{OpError, unless_full},
    prove::{self, PvVolume},
    record::Marker,
    recorded::Removing,
    remains::{self, Found},
    work::{ExportOp, Rule},
};
use crate::{
    backend::Removed,
    volume::{Disposal, RelativePath, Removal},
};

/// Removes the volume at `path`, which is where its PV says that it lies.
pub(super) fn remove(
    work: &ExportOp<'_>,
    removal: &Removal,
    path: &RelativePath,
) -> Result<Removed, OpError> {
    if let Some(active) = moves::active_record(work, &removal.name)? {
        prove(work, &active, removal, path)?;
        return Removing { work, removal, active }.run();
    }
    if removal.disposal == Disposal::Retain {
        // Nothing is touched, so nothing need be proved.
        return Ok(Removed::Kept);
    }
    match earlier(work, removal, path)? {
        Some(removed) => Ok(removed),
        None => legacy::remove(work, removal, path),
    }
}

/// Whether the record is of this PV's volume.
fn prove(
    work: &ExportOp<'_>,
    active: &ActiveRecord,
    removal: &Removal,
    path: &RelativePath,
) -> Result<(), OpError> {
    let file = active.file().to_string();
    prove::agree(&file, &active.marker, removal, path)?;
    if work.context.enforces(Rule::Cluster) {
        let cluster = work.cluster();
        let pv_volume =
            PvVolume { name: &removal.name, pv_metadata: &removal.pv_metadata, cluster: cluster.as_ref() };
        prove::owner(&file, &active.marker, pv_volume)?;
    }
    Ok(())
}

/// What an earlier call has made of a volume that has no record among the volumes any more.
fn earlier(work: &ExportOp<'_>, removal: &Removal, path: &RelativePath) -> Result<Option<Removed>, OpError> {
    let mut legacy = false;
    for entry in remains::entries(work, removal)? {
        match entry {
            Found::Recorded { entry, marker } => {
                let uid = &removal.pv_metadata.uid;
                if !uid.is_empty() && marker.uid.as_ref() != Some(uid) {
                    // Else the purge takes the PV, which is to be removed, for one whose volume is to be given back.
                    let signed = Marker { uid: Some(uid.clone()), ..*marker };
                    unless_full(work.changes.write(&moves::trash_record(&entry), &signed.to_json()))?;
                    return mounted::finish(work, &signed).map(Some);
                }
                return mounted::finish(work, &marker).map(Some);
            }
            Found::Named { .. } => return Ok(Some(Removed::Trashed)),
            Found::Legacy => legacy = true,
        }
    }
    if let Some(archived) = moves::archived(work, &removal.name)?
        && remains::is_of(work, &archived, removal)
        && let Some(archive) = &archived.archive
    {
        return Ok(Some(Removed::Archived(archive.path.to_string())));
    }
    Ok((legacy && path_state(work, path)? == PathState::Nothing).then_some(Removed::Trashed))
}
