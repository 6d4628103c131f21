//! Volumes in a file system that is mounted below the export, such as a dataset for each namespace: the older provisioners made
//! them there, and berth makes none.
//!
//! rename(2) leads into no other file system. So each has a trash of its own, `.berth/trash` at its top, for the directories;
//! the records stay in the export's. The record goes to the trash before the directory does, so that whoever looks at the trash
//! of the export finds what lies elsewhere.

use super::{
    entry,
    moves::{self, Here, Stage, here},
    record::{BASE, Marker, TRASH, Trashed},
    restore,
    store::{OpError, Rule, Work, fail},
};
use crate::{
    backend::{Kind, Removed, quoted},
    system::root::Errno,
    volume::VolumeName,
};

/// Whether a look ended at the top of another file system.
pub(super) fn is_elsewhere(trouble: &OpError) -> bool {
    matches!(trouble, OpError::Step(failure) if failure.errno() == Some(Errno::EXDEV))
}

/// Does `work` within the file system that is mounted at `below`; in the export's own where that is empty.
pub(super) fn within<T>(
    work: &Work<'_>,
    below: &[String],
    then: impl FnOnce(&Work<'_>) -> Result<T, OpError>,
) -> Result<T, OpError> {
    if below.is_empty() {
        return then(work);
    }
    let root = work.root.enter_mount(below)?;
    then(&Work { store: work.store, opened: work.opened, root: &root, changes: work.changes.within(&root) })
}

/// Where the volume of a record is that lies behind a mount.
pub(super) fn stage(work: &Work<'_>, marker: &Marker) -> Result<Stage, OpError> {
    let Some(length) = work.root.mount_on_the_way(&marker.segments)? else {
        return fail(Kind::Unavailable, "a file system below the export comes and goes");
    };
    let (below, inside) = marker.segments.split_at(length);
    let path = marker.segments.join("/");
    if inside.is_empty() {
        return fail(
            Kind::Refused,
            format!("{path} is the top of a file system of its own. {}", by_hand(marker.id.name())),
        );
    }
    let found = within(work, below, |inner| here(inner, inside)).or_else(|trouble| {
        if is_elsewhere(&trouble) {
            let name = marker.id.name();
            return fail(
                Kind::Refused,
                format!("{path} lies in a file system within another one. {}", by_hand(name)),
            );
        }
        Err(trouble)
    })?;
    let recorded = marker.trash.as_ref().filter(|trash| trash.below == below).map(|trash| trash.inode);
    if found == Here::Nothing
        && let Some(entry) = stray(work, below, marker.id.name())?
    {
        let (from, to) = (below.join("/"), work.root.path().join(&path));
        let from = work.root.path().join(from).join(BASE).join(TRASH).join(&entry);
        let shown = |path: std::path::PathBuf| quoted(&path.display().to_string());
        let message = format!(
            "the directory {path} lies in the trash of its file system, where a call that came late moved it; nothing was touched. \
             Move it back: mv {} {}",
            shown(from),
            shown(to)
        );
        return fail(Kind::Conflict, message);
    }
    Ok(match (found, recorded.filter(|_| work.store.enforces(Rule::Inode))) {
        (Here::Nothing, _) => Stage::Missing,
        (Here::Other, _) => Stage::NotADirectory,
        (Here::Directory(found), Some(recorded)) if found != recorded => Stage::Another { found, recorded },
        (Here::Directory(inode), _) => Stage::Mounted { inode, below: below.to_vec() },
    })
}

/// What lies in the trash of the file system at `below` under the name of the volume.
fn stray(work: &Work<'_>, below: &[String], volume: &VolumeName) -> Result<Option<String>, OpError> {
    let prefix = entry::prefix(volume);
    within(work, below, |inner| {
        Ok(inner.root.names(&[BASE, TRASH])?.into_iter().find(|name| name.starts_with(&prefix)))
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
    work: &Work<'_>,
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
        if here(inner, &[BASE, "export.json"])? == Here::Nothing {
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
pub(super) fn finish(work: &Work<'_>, marker: &Marker) -> Result<Removed, OpError> {
    let Some(Trashed { entry, inode, below, .. }) = &marker.trash else { return Ok(Removed::Trashed) };
    if below.is_empty() {
        return Ok(Removed::Trashed);
    }
    let inside = marker.segments.get(below.len()..).unwrap_or_default();
    within(work, below, |inner| {
        if here(inner, inside)? == Here::Directory(*inode) {
            inner.changes.make_directory(&[BASE], 0o700)?;
            inner.changes.make_directory(&[BASE, TRASH], 0o700)?;
            moves::moved(inner, inside, &moves::in_trash(entry), *inode)?;
        }
        Ok(Removed::Trashed)
    })
}

/// Moves the directory back that an entry is of, unless it is at its place; `false` where it is not there.
pub(super) fn back(work: &Work<'_>, marker: &Marker) -> Result<bool, OpError> {
    let Some(Trashed { entry, inode, below, .. }) = &marker.trash else { return Ok(false) };
    let inside = marker.segments.get(below.len()..).unwrap_or_default();
    within(work, below, |inner| {
        if here(inner, inside)? == Here::Directory(*inode) {
            return Ok(true);
        }
        if here(inner, &moves::in_trash(entry))? != Here::Directory(*inode) {
            return Ok(false);
        }
        restore::move_home(inner, inside, &moves::in_trash(entry), *inode).map(|()| true)
    })
}
