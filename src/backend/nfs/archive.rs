//! Archives: where a volume is moved to that is to be kept under another name, and the move itself.
//!
//! An archive is a place like that of a volume: noted in the mirror, recorded in `.berth/archived`, never given to a claim.
//! On its way the directory passes through the trash: a call that comes late then moves something to the trash, where
//! it is found and moved back, and never into an archive, where nobody looks.

use jiff::Timestamp;

use super::{
    entry::stamp,
    moves::{self, ActiveRecord, PathState, path_state},
    op_error::{OpError, fail},
    parents::{make_parents, remove_parents},
    path_pattern,
    places::{self, Occupied},
    record::{self, ARCHIVED, Archive, Marker},
    work::{ExportOp, Rule},
};
use crate::{backend::Kind, system::root::Entry, volume::RelativePath};

/// How many names are tried for one that is free.
const NAMES: u32 = 1000;

/// Chooses a place for the archive where nothing is and that is not within anything that we did not make, writes it into the
/// record, and makes it ours.
pub(super) fn choose(work: &ExportOp<'_>, active: &mut ActiveRecord, at: Timestamp) -> Result<(), OpError> {
    let mut known = active.marker.archive.take();
    let time = stamp(at);
    // One that was brought back gets another name than before.
    for number in u32::from(active.marker.unarchived)..NAMES {
        let target = match known.take() {
            Some(archive) if free(work, &archive.path)? => archive.path,
            Some(archive) => {
                places::vacate(work, &active.marker, &archive.path)?;
                continue;
            }
            None => match next_free(work, &active.marker, number, &time)? {
                Some(target) => target,
                None => continue,
            },
        };
        let archive = Archive { path: target.clone(), at };
        let marker = Marker { archive: Some(archive), ..active.marker.clone() };
        work.changes.write(&active.file(), &marker.to_json())?;
        active.marker = marker;
        if !work.context.enforces(Rule::Places) {
            return Ok(());
        }
        match places::occupy(work, &active.marker, &active.file(), &target, false)? {
            Occupied::Free | Occupied::Joined(_) => return Ok(()),
            Occupied::Taken(_) => active.marker.archive = None,
        }
    }
    fail(Kind::Conflict, format!("there is no free name for the archive of {}", active.marker.path))
}

/// The free one of the names with this number.
fn next_free(
    work: &ExportOp<'_>,
    marker: &Marker,
    number: u32,
    time: &str,
) -> Result<Option<RelativePath>, OpError> {
    let suffix = match number {
        0 => String::new(),
        1 => format!("-{time}"),
        _ => format!("-{time}-{number}"),
    };
    let target = |which| path_pattern::archive_target(&marker.path, marker.id.name(), &suffix, which);
    let last = target(path_pattern::Suffixed::Last);
    if free(work, &last)? {
        return Ok(Some(last));
    }
    if last.len() > 1 && number > 0 {
        let first = target(path_pattern::Suffixed::First);
        if free(work, &first)? {
            return Ok(Some(first));
        }
    }
    Ok(None)
}

/// Whether nothing is at `path`, and what is above was made by us as a parent: never within somebody's data.
fn free(work: &ExportOp<'_>, path: &RelativePath) -> Result<bool, OpError> {
    for parent in path.parents() {
        match path_state(work, &parent)? {
            PathState::Nothing => return Ok(true),
            PathState::Directory(_)
                if work.root.entry(&record::parent_note(&parent))? == Entry::Directory => {}
            PathState::Directory(_) | PathState::Other => return Ok(false),
        }
    }
    Ok(path_state(work, path)? == PathState::Nothing)
}

/// Moves what is in the trash, on its way to the archive, to where the record says, and makes the record that of the archive.
pub(super) fn settle(
    work: &ExportOp<'_>,
    active: &ActiveRecord,
    entry: &str,
    inode: u64,
) -> Result<String, OpError> {
    let Some(archive) = &active.marker.archive else {
        return fail(Kind::Internal, format!("nothing says where {entry} is to be archived"));
    };
    if !make_parents(work, &archive.path)? {
        return fail(Kind::Unavailable, "a directory of the archive disappeared while it was made");
    }
    if path_state(work, &archive.path)? != PathState::Nothing {
        let path = &archive.path;
        return fail(
            Kind::Conflict,
            format!(
                "something came to {path}, where the archive was to be; the data stays in the trash as {entry}"
            ),
        );
    }
    moves::moved(work, &moves::in_trash(entry), &archive.path, inode)?;
    finish(work, active)
}

/// Makes the record of a volume that is in its archive that of the archive.
pub(super) fn finish(work: &ExportOp<'_>, active: &ActiveRecord) -> Result<String, OpError> {
    let name = active.marker.id.name();
    work.changes.rename(&active.file(), &record::file(ARCHIVED, name))?;
    moves::forget_moved(work, &active.marker)?;
    Ok(active.marker.archive.as_ref().map(|archive| archive.path.to_string()).unwrap_or_default())
}

/// Gives up the place of an archive that is not there, or no longer.
pub(super) fn give_up(work: &ExportOp<'_>, marker: &Marker) -> Result<(), OpError> {
    if let Some(archive) = &marker.archive {
        places::vacate(work, marker, &archive.path)?;
        remove_parents(work, &archive.path)?;
    }
    Ok(())
}
