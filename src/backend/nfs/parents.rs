//! The directories above volumes: made when they are missing, each noted before it is made, and removed with the last volume
//! in them.

use super::{
    op_error::{OpError, fail},
    record,
    work::Work,
};
use crate::{
    backend::Kind,
    system::root::{Entry, Errno, Made, Unmade},
};

/// Makes what is missing above a directory, each noted before it is made; `false` where something else interfered.
pub(super) fn make_parents(work: &Work<'_>, segments: &[String]) -> Result<bool, OpError> {
    let above = segments.split_last().map_or(&[][..], |(_, above)| above);
    if above.is_empty() || work.root.entry(above)? == Entry::Directory {
        return Ok(true);
    }
    for length in 1..=above.len() {
        let Some(parent) = above.get(..length) else { continue };
        match work.root.entry(parent)? {
            Entry::Directory => continue,
            Entry::Missing => {}
            Entry::Other => {
                let path = parent.join("/");
                return fail(Kind::Conflict, format!("{path} exists on the export and is not a directory"));
            }
        }
        let note = record::parent_note(parent);
        for depth in 3..=note.len() {
            let Some(step) = note.get(..depth) else { continue };
            if !make_beneath(work, step, 0o700)? {
                return Ok(false);
            }
        }
        if !make_beneath(work, parent, 0o777)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes a directory unless it is there; `false` where the one above it is gone, removed with the last volume in it.
fn make_beneath(work: &Work<'_>, segments: &[String], mode: u32) -> Result<bool, OpError> {
    match work.changes.make_directory(segments, mode) {
        Ok(Made::New | Made::Existed) => Ok(true),
        Err(failure) if failure.errno() == Some(Errno::ENOENT) => Ok(false),
        Err(failure) => Err(failure.into()),
    }
}

/// Removes the directories above `segments` that we made, as far as they are empty, and the notes of them.
pub(super) fn remove_parents(work: &Work<'_>, segments: &[String]) -> Result<(), OpError> {
    for length in (1..segments.len()).rev() {
        let Some(parent) = segments.get(..length) else { continue };
        let note = record::parent_note(parent);
        if work.root.entry(&note)? == Entry::Directory {
            if work.changes.remove_directory(parent)? == Unmade::Occupied {
                return Ok(());
            }
            work.changes.remove_directory(&note)?;
        } else if work.root.entry(parent)? != Entry::Missing {
            return Ok(());
        }
        // What is left of the notes is only the way to others.
        for depth in (3..note.len()).rev() {
            let folder = note.get(..depth).unwrap_or_default();
            if work.changes.remove_directory(folder)? == Unmade::Occupied {
                break;
            }
        }
    }
    Ok(())
}
