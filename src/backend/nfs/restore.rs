//! Undoing a removal: [`restore`] puts a volume back from the trash or the archive, [`cancel`] gives up one that was begun.
//!
//! The place is made ours again before anything is moved there: what lies there by now stays, and the data waits in the
//! trash. Every step can be repeated. Runs on a thread of the export's pool, under the hold of the volume.

use jiff::Timestamp;

use super::{
    archive,
    export::NAME,
    mounted,
    moves::{self, ActiveRecord, PathState, path_state},
    op_error::{OpError, fail, unless_full},
    places::{self, Occupied},
    record::{self, ARCHIVED, Marker, Trashed, VOLUMES},
    remains::{self, Found},
    stage::{Stage, stage},
    work::{ExportOp, Rule},
};
use crate::{
    backend::{Kind, Restored},
    volume::{RelativePath, Removal, VolumeId},
};

/// Puts the volume back that its PV, which is to be kept, describes. What is not provably this volume's is left alone, and
/// nothing was begun on it.
pub(super) fn restore(
    work: &ExportOp<'_>,
    removal: &Removal,
    path: &RelativePath,
) -> Result<Restored, OpError> {
    let uid = removal.pv_metadata.known_uid();
    if let Some(active) = moves::active_record(work, &removal.name)? {
        if !remains::is_of(work, &active.marker, removal) {
            return Ok(Restored::InPlace);
        }
        return cancel(work, &active, uid);
    }
    for found in remains::entries(work, removal)? {
        match found {
            Found::Recorded { entry, marker } => {
                same_place(&marker, path, &moves::trash_record(&entry).to_string())?;
                return from_trash(work, &entry, *marker, uid);
            }
            Found::Named { path: entry, whole } => {
                return named(work, removal, path, &entry, whole.inode);
            }
            Found::Legacy => {}
        }
    }
    if let Some(marker) = moves::archived(work, &removal.name)?
        && remains::is_of(work, &marker, removal)
    {
        same_place(&marker, path, &record::file(ARCHIVED, &removal.name).to_string())?;
        return cancel(work, &ActiveRecord { folder: ARCHIVED, marker }, uid);
    }
    Ok(Restored::InPlace)
}

fn same_place(marker: &Marker, path: &RelativePath, file: &str) -> Result<(), OpError> {
    if marker.path == *path {
        return Ok(());
    }
    let (was, is) = (&marker.path, path);
    fail(
        Kind::Refused,
        format!(
            "the volume was at {was}, as {file} says, and the PersistentVolume names {is}; nothing was touched. Make the \
             PersistentVolume with the path that ends with {was}"
        ),
    )
}

/// Gives up the removal that is written into the record, and moves back what was moved. `uid`: the object that the volume is
/// of from now on.
pub(super) fn cancel(
    work: &ExportOp<'_>,
    active: &ActiveRecord,
    uid: Option<&str>,
) -> Result<Restored, OpError> {
    let marker = &active.marker;
    if marker.trash.is_none() && marker.archive.is_none() {
        if marker.shared {
            places::stay(work, marker, &marker.path)?;
        } else if work.context.enforces(Rule::Places) {
            // The removal of an older provisioner's volume may have been interrupted before its place was noted.
            unless_full(places::occupy(work, marker, &active.file(), &marker.path, false))?;
        }
        return Ok(Restored::InPlace);
    }
    let restored = match stage(work, marker)? {
        Stage::InTrash { entry, inode } => {
            back(work, active, &moves::in_trash(&entry), inode)?;
            Restored::MovedBack
        }
        Stage::Archived(inode) => return from_archive(work, active, inode, uid),
        Stage::InPlace(_) => Restored::InPlace,
        Stage::Mounted { .. } => {
            note_place(work, marker, &active.file())?;
            Restored::InPlace
        }
        // There is nothing to move. What the record says of its removal is left for who finds out what happened.
        Stage::Missing | Stage::Another { .. } | Stage::NotADirectory => return Ok(Restored::InPlace),
    };
    in_use_again(work, active, uid)?;
    Ok(restored)
}

/// Brings a volume back that lies in its archive. As from the trash its record goes among the volumes first, and says that
/// the name of the archive is not to be used again.
fn from_archive(
    work: &ExportOp<'_>,
    active: &ActiveRecord,
    inode: u64,
    uid: Option<&str>,
) -> Result<Restored, OpError> {
    let Some(target) = active.marker.archive.as_ref().map(|archive| archive.path.clone()) else {
        return Ok(Restored::InPlace);
    };
    is_free(work, &active.marker, &target)?;
    let active = if active.folder == ARCHIVED {
        work.changes.rename(&active.file(), &record::file(VOLUMES, active.marker.id.name()))?;
        ActiveRecord { folder: VOLUMES, marker: active.marker.clone() }
    } else {
        active.clone()
    };
    let marker = Marker { unarchived: true, trash: None, ..active.marker };
    work.changes.write(&record::file(active.folder, marker.id.name()), &marker.to_json())?;
    let active = ActiveRecord { folder: active.folder, marker };
    back(work, &active, &target, inode)?;
    in_use_again(work, &active, uid)?;
    Ok(Restored::MovedBack)
}

/// Brings an entry of the trash back that has a record.
pub(super) fn from_trash(
    work: &ExportOp<'_>,
    entry: &str,
    mut marker: Marker,
    uid: Option<&str>,
) -> Result<Restored, OpError> {
    let name = marker.id.name().clone();
    let base = work.base()?;
    let recorded = marker.trashed_in(base).or(marker.inode_in(base));
    let right =
        |inode: u64| !work.context.enforces(Rule::Inode) || recorded.is_none_or(|recorded| recorded == inode);
    let target = record::file(VOLUMES, &name);
    if marker.trash.as_ref().is_some_and(|trash| !trash.below.is_empty()) {
        note_place(work, &marker, &moves::trash_record(entry))?;
        if !mounted::back(work, &marker)? {
            return Ok(Restored::InPlace);
        }
        work.changes.rename(&moves::trash_record(entry), &target)?;
        in_use_again(work, &ActiveRecord { folder: VOLUMES, marker }, uid)?;
        return Ok(Restored::MovedBack);
    }
    let inode = match path_state(work, &moves::in_trash(entry))? {
        PathState::Directory(inode) if right(inode) => inode,
        // It was brought back, and interrupted before its record was.
        PathState::Nothing if matches!(path_state(work, &marker.path)?, PathState::Directory(inode) if right(inode)) =>
        {
            unless_full(work.changes.rename(&moves::trash_record(entry), &target))?;
            in_use_again(work, &ActiveRecord { folder: VOLUMES, marker }, uid)?;
            return Ok(Restored::MovedBack);
        }
        PathState::Nothing | PathState::Directory(_) | PathState::Other => {
            tracing::error!(
                export = work.context.export.name,
                volume = %name,
                entry,
                "the volume cannot be restored: its data is being purged, or was"
            );
            return Ok(Restored::InPlace);
        }
    };
    is_free(work, &marker, &moves::in_trash(entry))?;
    let noted = marker.trash.take().filter(|trash| trash.entry == entry);
    marker.trash = Some(noted.unwrap_or_else(|| Trashed {
        entry: entry.to_owned(),
        inode,
        at: Timestamp::now(),
        until: None,
        keep: 0,
        below: Vec::new(),
    }));
    // The record goes first: with it among the volumes a removal was begun, which whoever comes next undoes or finishes, and
    // the place is given to no other volume.
    if unless_full(work.changes.rename(&moves::trash_record(entry), &target))?.is_none() {
        return no_room();
    }
    cancel(work, &ActiveRecord { folder: VOLUMES, marker }, uid)
}

/// Nothing is moved back where nothing can be noted: the call could hang, and be carried out when another volume has the place.
fn no_room<T>() -> Result<T, OpError> {
    let message = "the export is full, and the volume cannot be noted at its place; free some space, then it is moved back \
                   from the trash";
    fail(Kind::Exhausted, message)
}

/// Whether nothing lies where the volume was.
fn is_free(work: &ExportOp<'_>, marker: &Marker, from: &RelativePath) -> Result<(), OpError> {
    moves::nothing_at(work, &marker.path, from)?;
    if work.context.enforces(Rule::Places)
        && !marker.shared
        && let Some(occupant) = places::overlapping(work, marker, &marker.path)?
    {
        return occupied(&occupant);
    }
    Ok(())
}

/// Brings an entry back whose name is all that is recorded of it.
fn named(
    work: &ExportOp<'_>,
    removal: &Removal,
    path: &RelativePath,
    entry: &RelativePath,
    inode: u64,
) -> Result<Restored, OpError> {
    let id = VolumeId::new(NAME, &work.context.export.name, removal.name.clone())?;
    let marker = Marker {
        cluster: work.signature(),
        uid: removal.pv_metadata.known_uid().map(String::from),
        inode: Some(inode),
        ..Marker::new(id, path.clone(), removal.claim.clone(), removal.origin)
    };
    if path_state(work, entry)? != PathState::Directory(inode) {
        return Ok(Restored::InPlace);
    }
    let file = record::file(VOLUMES, &removal.name);
    let written = unless_full(work.ensure_layout())?.is_some()
        && unless_full(work.changes.write(&file, &marker.to_json()))?.is_some();
    if !written {
        return no_room();
    }
    bring(work, &marker, &file, entry, inode)?;
    work.context.index.add(&removal.name, path);
    work.context.trash.taken(entry);
    Ok(Restored::MovedBack)
}

/// Moves what a removal moved to the trash back to its place.
pub(super) fn back_from_trash(
    work: &ExportOp<'_>,
    active: &ActiveRecord,
    entry: &str,
    inode: u64,
) -> Result<(), OpError> {
    back(work, active, &moves::in_trash(entry), inode)?;
    in_use_again(work, active, None)
}

fn back(work: &ExportOp<'_>, active: &ActiveRecord, from: &RelativePath, inode: u64) -> Result<(), OpError> {
    bring(work, &active.marker, &active.file(), from, inode)
}

/// Moves a directory home, once its place is its own again. `record` is the file that says whose it is.
pub(super) fn bring(
    work: &ExportOp<'_>,
    marker: &Marker,
    record: &RelativePath,
    from: &RelativePath,
    inode: u64,
) -> Result<(), OpError> {
    note_place(work, marker, record)?;
    moves::move_home(work, &marker.path, from, inode)
}

/// Makes the place of a volume its own again.
fn note_place(work: &ExportOp<'_>, marker: &Marker, record: &RelativePath) -> Result<(), OpError> {
    if !work.context.enforces(Rule::Places) {
        return Ok(());
    }
    let noted = places::occupy(work, marker, record, &marker.path, marker.shared);
    match unless_full(noted)? {
        Some(Occupied::Taken(occupant)) => occupied(&occupant),
        Some(Occupied::Free | Occupied::Joined(_)) => Ok(()),
        None if places::holds(work, marker, &marker.path)? => Ok(()),
        None => no_room(),
    }
}

fn occupied<T>(occupant: &places::Occupant) -> Result<T, OpError> {
    let (path, whose) = (&occupant.path, occupant.whose());
    fail(
        Kind::Conflict,
        format!(
            "the volume cannot be moved back to its place: at {path} there is {whose} by now; it waits in the trash"
        ),
    )
}

/// Makes the record say that the volume is in use, and gives up the place of an archive.
fn in_use_again(work: &ExportOp<'_>, active: &ActiveRecord, uid: Option<&str>) -> Result<(), OpError> {
    let marker = Marker {
        trash: None,
        archive: None,
        uid: uid.map(str::to_owned).or_else(|| active.marker.uid.clone()),
        ..active.marker.clone()
    };
    let name = marker.id.name();
    let active = if active.folder == ARCHIVED {
        work.changes.rename(&active.file(), &record::file(VOLUMES, name))?;
        &ActiveRecord { folder: VOLUMES, marker: active.marker.clone() }
    } else {
        active
    };
    work.context.index.add(name, &marker.path);
    unless_full(archive::give_up(work, &active.marker))?;
    // On a full export the record goes on saying that it was to be removed; its directory is at its place all the same.
    if unless_full(work.changes.write(&active.file(), &marker.to_json()))?.is_none() {
        return Ok(());
    }
    if marker.shared {
        places::stay(work, &marker, &marker.path)?;
    }
    Ok(())
}
