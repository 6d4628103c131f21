//! Volumes in a file system that is mounted below the export, such as a dataset for each namespace: the older provisioners made
//! them there, and berth makes none.
//!
//! rename(2) leads into no other file system. So each has a trash of its own, `.berth/trash` at its top, for the directories;
//! the records stay in the export's. The record goes to the trash before the directory does, so that whoever looks at the trash
//! of the export finds what lies elsewhere.

use super::{
    moves::{self, PathState, path_state},
    op_error::{OpError, fail},
    record::{BASE, Marker, TRASH, Trashed},
    work::ExportOp,
};
use crate::{
    backend::{Kind, Removed},
    volume::{RelativePath, VolumeName},
};

/// Does `work` within the file system that is mounted at `below`; in the export's own where that is empty.
pub(super) fn within<T>(
    work: &ExportOp<'_>,
    below: &[String],
    then: impl FnOnce(&ExportOp<'_>) -> Result<T, OpError>,
) -> Result<T, OpError> {
    if below.is_empty() {
        return then(work);
    }
    let root = work.root.enter_mount(below)?;
    then(&ExportOp {
        context: work.context,
        opened: work.opened,
        root: &root,
        changes: work.changes.within(&root),
    })
}

/// What an administrator does where berth cannot.
pub(super) fn by_hand(name: &VolumeName) -> String {
    format!(
        "Berth cannot move it to a trash; nothing was touched. Remove the data on the server, and then the volume: kubectl patch \
         pv {name} -p '{{\"spec\":{{\"persistentVolumeReclaimPolicy\":\"Retain\"}}}}' && kubectl delete pv {name}"
    )
}

/// Whether a volume there can be removed at all. Touches nothing.
pub(super) fn check(
    work: &ExportOp<'_>,
    marker: &Marker,
    below: &[String],
    archive: bool,
) -> Result<(), OpError> {
    let (name, place) = (marker.id.name(), below.join("/"));
    if archive {
        let message = format!(
            "the volume lies in the file system that is mounted at {place}, and an archive can only be made in the export's own; \
             nothing was touched. Choose another way: kubectl annotate pv {name} berth.storage/on-delete=delete --overwrite (or \
             retain)"
        );
        return fail(Kind::Refused, message);
    }
    if marker.shared {
        let message = format!(
            "the volume shares its directory, and lies in the file system that is mounted at {place}. {}",
            by_hand(name)
        );
        return fail(Kind::Refused, message);
    }
    within(work, below, |inner| {
        if path_state(inner, &[BASE, "export.json"])? == PathState::Nothing {
            return Ok(());
        }
        let message = format!(
            "the file system that is mounted at {place} is an export of its own ({place}/{BASE}/export.json); nothing was \
             touched. Let the volume be removed by the berth that has it configured"
        );
        fail(Kind::Refused, message)
    })
}

/// Moves the directory of a volume whose record lies in the trash already, unless that was done.
pub(super) fn finish(work: &ExportOp<'_>, marker: &Marker) -> Result<Removed, OpError> {
    let Some(Trashed { entry, inode, below, .. }) = &marker.trash else { return Ok(Removed::Trashed) };
    if below.is_empty() {
        return Ok(Removed::Trashed);
    }
    let inside = &RelativePath::from(marker.path.get(below.len()..).unwrap_or_default());
    within(work, below, |inner| {
        if path_state(inner, inside)? == PathState::Directory(*inode) {
            inner.changes.make_directory(&[BASE], 0o700)?;
            inner.changes.make_directory(&[BASE, TRASH], 0o700)?;
            moves::moved(inner, inside, &moves::in_trash(entry), *inode)?;
        }
        Ok(Removed::Trashed)
    })
}

/// Moves the directory back that an entry is of, unless it is at its place; `false` where it is not there.
pub(super) fn back(work: &ExportOp<'_>, marker: &Marker) -> Result<bool, OpError> {
    let Some(Trashed { entry, inode, below, .. }) = &marker.trash else { return Ok(false) };
    let inside = &RelativePath::from(marker.path.get(below.len()..).unwrap_or_default());
    within(work, below, |inner| {
        if path_state(inner, inside)? == PathState::Directory(*inode) {
            return Ok(true);
        }
        if path_state(inner, &moves::in_trash(entry))? != PathState::Directory(*inode) {
            return Ok(false);
        }
        moves::move_home(inner, inside, &moves::in_trash(entry), *inode).map(|()| true)
    })
}
