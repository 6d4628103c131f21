//! Removing a volume that has no record: one of an older provisioner that was never met while it was bound, or one whose
//! record was lost.
//!
//! It gets a record first, and goes the way of all others from then on. Only on a full export it goes without one.

use jiff::Timestamp;

use super::{
    export::NAME,
    mounted,
    moves::{self, ActiveRecord, PathState, path_state},
    op_error::{OpError, fail, is_elsewhere, unless_full},
    path_pattern::Pattern,
    places::{self, Occupant, Relation},
    prove,
    record::{self, Marker, VOLUMES},
    recorded::{self, Removing},
    work::{ExportOp, Rule},
};
use crate::{
    backend::{Kind, Removed},
    volume::{Disposal, Origin, RelativePath, Removal, VolumeId, VolumeName},
};

/// Removes what lies at `path`, if it may be taken as the volume.
pub(super) fn remove(
    work: &ExportOp<'_>,
    removal: &Removal,
    path: &RelativePath,
) -> Result<Removed, OpError> {
    let inode = match path_state(work, path) {
        // The rest is found out where it lies.
        Err(error) if is_elsewhere(&error) => None,
        Err(error) => return Err(error),
        Ok(PathState::Directory(inode)) => Some(inode),
        Ok(PathState::Nothing) => return Ok(Removed::Absent),
        Ok(PathState::Other) => {
            let message = format!("{path} is not a directory, but a file or a link; nothing was touched");
            return fail(Kind::Refused, message);
        }
    };
    let cluster = work.cluster();
    let id = id(work, &removal.name)?;
    let marker = Marker {
        cluster: cluster.as_ref().map(|ids| ids.current().to_owned()),
        uid: removal.pv_metadata.known_uid().map(String::from),
        inode,
        ..Marker::new(id, path.clone(), removal.claim.clone(), removal.origin)
    };
    if let Some(occupant) = overlapping(work, &marker)? {
        let shared = occupant.who.as_ref().is_some_and(|who| who.shared);
        if removal.id.is_some() && occupant.relation == Relation::Same && shared {
            // An earlier call has left the directory to the others, and removed the record.
            return Ok(Removed::Kept);
        }
        let why = occupant.explained(path);
        return fail(Kind::Refused, format!("{why}; nothing was touched"));
    }
    let file = record::file(VOLUMES, &removal.name);
    let patterned = is_patterned(removal, path);
    prove::unrecorded(&file.to_string(), removal, path, patterned, cluster.as_ref())?;
    let active = ActiveRecord { folder: VOLUMES, marker };
    let written = unless_full(work.ensure_layout())?.is_some()
        && unless_full(work.changes.write(&file, &active.marker.to_json()))?.is_some();
    if let (false, Some(inode)) = (written, inode) {
        return on_full_export(work, removal, &active.marker, inode);
    }
    if !written {
        let message = "the export is full, and the volume lies in a file system below it; free some space in the export";
        return fail(Kind::Exhausted, message);
    }
    work.context.index.add(&removal.name, path);
    let marker = active.marker.clone();
    let removed = Removing { work, removal, active }.run();
    if let Err(OpError::Reported(error)) = &removed
        && error.kind() == Kind::Refused
    {
        // A refusal leaves nothing behind.
        moves::forget(work, &marker)?;
    }
    removed
}

/// The id under which a volume is recorded whose name others chose: it may be too long for one.
pub(super) fn id(work: &ExportOp<'_>, name: &VolumeName) -> Result<VolumeId, OpError> {
    let export = &work.context.export.name;
    VolumeId::new(NAME, export, name.clone()).or_else(|_| {
        let length = name.as_str().len();
        let most = VolumeId::MAX_BYTES.saturating_sub(format!("1/{NAME}/{export}/").len());
        fail(
            Kind::Refused,
            format!(
                "the name of the PersistentVolume has {length} characters, and berth records volumes of export {export} under names of at most {most}. {}",
                mounted::by_hand(name)
            ),
        )
    })
}

fn overlapping(work: &ExportOp<'_>, marker: &Marker) -> Result<Option<Occupant>, OpError> {
    if !work.context.enforces(Rule::Places) {
        return Ok(None);
    }
    places::overlapping(work, marker, &marker.path)
}

/// Removes a volume where not even a record can be written.
fn on_full_export(
    work: &ExportOp<'_>,
    removal: &Removal,
    marker: &Marker,
    inode: u64,
) -> Result<Removed, OpError> {
    if removal.disposal != Disposal::Delete || marker.origin == Origin::Adopted {
        let message = "the export is full: there is no room for an archive. Free some space, or have the volume deleted \
                       (kubectl annotate pv NAME berth.storage/on-delete=delete --overwrite)";
        return fail(Kind::Exhausted, message.replace("NAME", removal.name.as_str()));
    }
    if let Some(occupant) = overlapping(work, marker)? {
        let why = occupant.explained(&marker.path);
        return fail(Kind::Refused, format!("{why}; nothing was touched"));
    }
    let now = work.context.kube.now().and_then(|now| Timestamp::try_from(now).ok());
    let keep = removal.pv_metadata.retention.unwrap_or_else(|| work.context.kube.trash_retention());
    recorded::move_as_whole(work, marker, inode, now.unwrap_or_else(Timestamp::now), keep)?;
    work.context.trash.added();
    Ok(Removed::Trashed)
}

/// Whether the pattern of the volume's class gives such a path. What it took from labels and annotations is not known any
/// more, and may be anything.
fn is_patterned(removal: &Removal, path: &RelativePath) -> bool {
    let text = removal.pv_metadata.parameters.get("pathPattern").filter(|text| !text.is_empty());
    text.and_then(|text| Pattern::parse(text).ok())
        .is_some_and(|pattern| pattern.could_give(&removal.claim, &removal.name, path))
}
