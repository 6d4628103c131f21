//! The directories above volumes: made when they are missing, each noted before it is made, and removed with the last volume
//! in them.

use super::{
    op_error::{OpError, fail},
    record,
    work::ExportOp,
};
use crate::{
    backend::Kind,
    system::root::{Entry, Errno, Made, Unmade},
    volume::RelativePath,
};

/// The folders at the beginning of the path of a note, which are always there: ours, and the one of the notes.
const OUR_FOLDERS: usize = 2;

/// Makes what is missing above a directory, each noted before it is made; `false` where something else interfered.
pub(super) fn make_parents(work: &ExportOp<'_>, path: &RelativePath) -> Result<bool, OpError> {
    match path.parents().last() {
        Some(parent) if work.root.entry(&parent)? != Entry::Directory => {}
        Some(_) | None => return Ok(true),
    }
    for parent in path.parents() {
        match work.root.entry(&parent)? {
            Entry::Directory => continue,
            Entry::Missing => {}
            Entry::Other => {
                return fail(Kind::Conflict, format!("{parent} exists on the export and is not a directory"));
            }
        }
        let note = record::parent_note(&parent);
        for step in note.parents().skip(OUR_FOLDERS).chain([note.clone()]) {
            if !make_beneath(work, &step, 0o700)? {
                return Ok(false);
            }
        }
        if !make_beneath(work, &parent, 0o777)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes a directory unless it is there; `false` where the one above it is gone, removed with the last volume in it.
fn make_beneath(work: &ExportOp<'_>, path: &RelativePath, mode: u32) -> Result<bool, OpError> {
    match work.changes.make_directory(path, mode) {
        Ok(Made::New | Made::Existed) => Ok(true),
        Err(failure) if failure.errno() == Some(Errno::ENOENT) => Ok(false),
        Err(failure) => Err(failure.into()),
    }
}

/// Removes the directories above `path` that we made, as far as they are empty, and the notes of them.
pub(super) fn remove_parents(work: &ExportOp<'_>, path: &RelativePath) -> Result<(), OpError> {
    for parent in path.parents().rev() {
        let note = record::parent_note(&parent);
        if work.root.entry(&note)? == Entry::Directory {
            if work.changes.remove_directory(&parent)? == Unmade::Occupied {
                return Ok(());
            }
            work.changes.remove_directory(&note)?;
        } else if work.root.entry(&parent)? != Entry::Missing {
            return Ok(());
        }
        // What is left of the notes is only the way to others.
        for folder in note.parents().skip(OUR_FOLDERS).collect::<Vec<_>>().iter().rev() {
            if work.changes.remove_directory(folder)? == Unmade::Occupied {
                break;
            }
        }
    }
    Ok(())
}
