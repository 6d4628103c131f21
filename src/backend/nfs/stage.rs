//! Where a volume is, by its record and by what lies where: [`stage`].

use super::{
    entry, mounted,
    moves::{self, PathState, path_state},
    op_error::{OpError, fail, is_elsewhere},
    record::{BASE, Marker, TRASH},
    work::{ExportOp, Rule},
};
use crate::{
    backend::{Kind, quoted},
    volume::VolumeName,
};

/// Where a volume is, by its record and by what lies where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// At its place.
    InPlace(u64),
    /// In the trash, as this entry.
    InTrash { entry: String, inode: u64 },
    /// In the archive.
    Archived(u64),
    /// Nowhere that the record names.
    Missing,
    /// At its place is a directory that is not the one that was recorded.
    Another { found: u64, recorded: u64 },
    /// At its place, in another file system that is mounted there.
    Mounted { inode: u64, below: Vec<String> },
    /// At its place is a file, a link, or anything else.
    NotADirectory,
}

/// Finds out where the volume of a record is.
pub(super) fn stage(work: &ExportOp<'_>, marker: &Marker) -> Result<Stage, OpError> {
    let by_inode = work.context.enforces(Rule::Inode);
    let base = work.base()?;
    let recorded = marker.inode_in(base).or(marker.trashed_in(base)).filter(|_| by_inode);
    let is_it = |inode: u64| recorded.is_none_or(|recorded| recorded == inode);
    if let Some(trash) = &marker.trash
        && let PathState::Directory(inode) = path_state(work, &moves::in_trash(&trash.entry))?
        && (!by_inode || marker.trashed_in(base).is_none_or(|trashed| trashed == inode))
    {
        return Ok(Stage::InTrash { entry: trash.entry.clone(), inode });
    }
    let at_place = match path_state(work, &marker.path) {
        Err(error) if is_elsewhere(&error) => return stage_on_mount(work, marker),
        other => other?,
    };
    if let Some(archive) = &marker.archive
        && let PathState::Directory(inode) = path_state(work, &archive.path)?
        && is_it(inode)
        // Without an inode the name alone would say so, and something may have been made there.
        && (recorded.is_some() || at_place == PathState::Nothing)
    {
        return Ok(Stage::Archived(inode));
    }
    Ok(match (at_place, recorded) {
        (PathState::Directory(found), Some(recorded)) if found != recorded => {
            Stage::Another { found, recorded }
        }
        (PathState::Directory(inode), _) => Stage::InPlace(inode),
        (PathState::Nothing, _) => match marker.trashed_in(base).filter(|_| by_inode) {
            // It got another name there, which its record does not say yet.
            Some(inode) => match moves::entry_of(work, marker.id.name(), inode)? {
                Some(entry) => Stage::InTrash { entry, inode },
                None => Stage::Missing,
            },
            None => Stage::Missing,
        },
        (PathState::Other, _) => Stage::NotADirectory,
    })
}

/// Where the volume of a record is that lies behind a mount.
fn stage_on_mount(work: &ExportOp<'_>, marker: &Marker) -> Result<Stage, OpError> {
    let Some(length) = work.root.mount_on_the_way(&marker.path)? else {
        return fail(Kind::Unavailable, "a mount below the export changed during the operation");
    };
    let (below, inside) = marker.path.split_at(length);
    let path = &marker.path;
    if inside.is_empty() {
        return fail(
            Kind::Refused,
            format!("{path} is the top of a file system of its own. {}", mounted::by_hand(marker.id.name())),
        );
    }
    let found = mounted::within(work, below, |inner| path_state(inner, inside)).or_else(|error| {
        if is_elsewhere(&error) {
            let name = marker.id.name();
            return fail(
                Kind::Refused,
                format!("{path} lies in a file system within another one. {}", mounted::by_hand(name)),
            );
        }
        Err(error)
    })?;
    let recorded = marker.trash.as_ref().filter(|trash| trash.below == below).map(|trash| trash.inode);
    if found == PathState::Nothing
        && let Some(entry) = misplaced(work, below, marker.id.name())?
    {
        let (from, to) = (below.join("/"), work.root.path().join(path.to_string()));
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
    Ok(match (found, recorded.filter(|_| work.context.enforces(Rule::Inode))) {
        (PathState::Nothing, _) => Stage::Missing,
        (PathState::Other, _) => Stage::NotADirectory,
        (PathState::Directory(found), Some(recorded)) if found != recorded => {
            Stage::Another { found, recorded }
        }
        (PathState::Directory(inode), _) => Stage::Mounted { inode, below: below.to_vec() },
    })
}

/// What lies in the trash of the file system at `below` under the name of the volume.
fn misplaced(work: &ExportOp<'_>, below: &[String], volume: &VolumeName) -> Result<Option<String>, OpError> {
    let prefix = entry::prefix(volume);
    mounted::within(work, below, |inner| {
        Ok(inner.root.names(&[BASE, TRASH])?.into_iter().find(|name| name.starts_with(&prefix)))
    })
}
