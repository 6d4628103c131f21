//! Moving a volume's directory: [`moved`] makes sure that what was moved is what was meant, and undoes it if not.
//!
//! rename(2) goes by path. A call that hangs and is carried out late moves whatever lies at the path then: the data of the
//! next volume, perhaps. So the inode that was proved is compared with what arrived, and every step looks at what the
//! storage says now, not at what a client of NFS remembers.

use super::{
    entry::{self, Name},
    op_error::{OpError, fail, unless_full},
    parents::make_parents,
    record::{self, ARCHIVED, BASE, INTENTS, Marker, TRASH, Trashed, VOLUMES},
    work::{ExportOp, Rule},
};
use crate::{
    backend::Kind,
    system::root::{Entry, Errno},
    volume::{RelativePath, VolumeName},
};

/// What lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathState {
    Nothing,
    /// The directory with this inode.
    Directory(u64),
    /// A file, a link, or anything else.
    Other,
}

/// The record of a volume that was not removed, or not to the end.
#[derive(Debug, Clone)]
pub(super) struct ActiveRecord {
    pub(super) folder: &'static str,
    pub(super) marker: Marker,
}

impl ActiveRecord {
    /// Where the record lies.
    pub(super) fn file(&self) -> RelativePath {
        record::file(self.folder, self.marker.id.name())
    }
}

/// Looks at a path, asking the server.
pub(super) fn path_state<S: AsRef<str>>(work: &ExportOp<'_>, path: &[S]) -> Result<PathState, OpError> {
    match work.root.see_fresh(path) {
        Ok(None) => Ok(PathState::Nothing),
        Ok(Some(seen)) => Ok(match seen.entry {
            Entry::Directory => PathState::Directory(seen.inode),
            Entry::Other => PathState::Other,
            Entry::Missing => PathState::Nothing,
        }),
        Err(failure) if failure.errno() == Some(Errno::ESTALE) => Ok(PathState::Nothing),
        Err(failure) => Err(failure.into()),
    }
}

/// The record of the volume among those that were not removed.
pub(super) fn active_record(work: &ExportOp<'_>, name: &VolumeName) -> Result<Option<ActiveRecord>, OpError> {
    for folder in [VOLUMES, INTENTS] {
        if let Some(marker) = work.marker(folder, name)? {
            return Ok(Some(ActiveRecord { folder, marker }));
        }
    }
    Ok(None)
}

/// Where an entry lies in the trash.
pub(super) fn in_trash(entry: &str) -> RelativePath {
    record::ours([TRASH, entry])
}

/// Where the record of an entry lies.
pub(super) fn trash_record(entry: &str) -> RelativePath {
    in_trash(&format!("{entry}.json"))
}

/// The record of an entry of the trash. One that cannot be read is an error.
pub(super) fn trashed(work: &ExportOp<'_>, entry: &str) -> Result<Option<Marker>, OpError> {
    let file = trash_record(entry);
    let Some(content) = work.root.read_fresh(&file)? else { return Ok(None) };
    Marker::from_json(&content.bytes).map(Some).or_else(|why| {
        let path = work.root.path().join(file.to_string());
        fail(Kind::Refused, format!("the record {} cannot be read: {why}; repair it", path.display()))
    })
}

/// The entry of the trash with this inode, unless it was removed for another volume.
pub(super) fn entry_of(
    work: &ExportOp<'_>,
    volume: &VolumeName,
    inode: u64,
) -> Result<Option<String>, OpError> {
    for entry in work.root.names(&[BASE, TRASH])? {
        let is_entry = !entry.starts_with('.') && entry.strip_suffix(".json").is_none();
        if !is_entry || path_state(work, &in_trash(&entry))? != PathState::Directory(inode) {
            continue;
        }
        // A number of a directory that was purged may be given to another one.
        if trashed(work, &entry)?.is_none_or(|marker| marker.id.name() == volume) {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

/// The entry at the top of the export with this inode that was removed as this volume, when the export was full.
pub(super) fn entry_at_top(
    work: &ExportOp<'_>,
    volume: &VolumeName,
    inode: u64,
) -> Result<Option<RelativePath>, OpError> {
    for top in work.root.names_at_top()? {
        let Some(name) = top.strip_prefix(entry::AT_TOP) else { continue };
        if let Name::SelfDescribingName(whole) = Name::read(name)
            && whole.volume == *volume
            && whole.inode == inode
            && path_state(work, &[&top])? == PathState::Directory(inode)
        {
            return Ok(Some(entry::at_top("", &top)));
        }
    }
    Ok(None)
}

/// Gives what lies in the trash a name that no earlier call knows, and tells it. A call that was to bring the volume back and
/// hangs finds nothing then: carried out once the place is given up, it would put the old data under the next volume, since
/// rename(2) replaces an empty directory.
pub(super) fn rename_entry(
    work: &ExportOp<'_>,
    active: &mut ActiveRecord,
    entry: &str,
    inode: u64,
) -> Result<String, OpError> {
    let Some(trash) = active.marker.trash.clone() else { return Ok(entry.to_owned()) };
    if !work.context.enforces(Rule::Inode) {
        return Ok(entry.to_owned());
    }
    let fresh = entry::recorded(active.marker.id.name(), trash.at);
    work.context.trash.moving(&fresh);
    // A full export may not take it.
    if unless_full(moved(work, &in_trash(entry), &in_trash(&fresh), inode))?.is_none() {
        return Ok(entry.to_owned());
    }
    let trash = Trashed { entry: fresh.clone(), inode, ..trash };
    let marker = Marker { trash: Some(trash), ..active.marker.clone() };
    if unless_full(work.changes.write(&active.file(), &marker.to_json()))?.is_some() {
        active.marker = marker;
    }
    Ok(fresh)
}

/// Moves the directory with this inode from one place to another, where nothing may be. What turns out to be another one is
/// moved back at once, if its place is free, and else by the purge, which finds it.
pub(super) fn moved(
    work: &ExportOp<'_>,
    from: &RelativePath,
    to: &RelativePath,
    inode: u64,
) -> Result<(), OpError> {
    let result = work.changes.rename(from, to);
    if !work.context.enforces(Rule::Inode) {
        return Ok(result?);
    }
    let arrived = match result {
        Ok(()) => path_state(work, to)?,
        Err(failure) => return Err(failure.into()),
    };
    if arrived == PathState::Directory(inode) {
        return Ok(());
    }
    // Whatever happens from here on, the purge looks.
    work.context.trash.look();
    let shown = |path: &RelativePath| work.root.path().join(path.to_string()).display().to_string();
    let (from_path, to_path) = (shown(from), shown(to));
    let PathState::Directory(another) = arrived else {
        return fail(
            Kind::Unavailable,
            format!("{to_path} disappeared right after the move from {from_path}"),
        );
    };
    tracing::warn!(
        export = work.context.export.name,
        from = from_path,
        to = to_path,
        expected = inode,
        found = another,
        "a delayed rename moved the wrong directory; moving it back"
    );
    if path_state(work, from)? == PathState::Nothing {
        work.changes.rename(to, from)?;
    }
    fail(
        Kind::Unavailable,
        format!(
            "another directory came to {from_path} before it was moved (inode {another}, not {inode}); it stays"
        ),
    )
}

/// Forgets a volume whose record was moved away. No file is removed where a record of the volume may lie again: such a call may
/// come late, when the volume was put back.
pub(super) fn forget_moved(work: &ExportOp<'_>, marker: &Marker) -> Result<(), OpError> {
    let name = marker.id.name();
    work.changes.remove_file(&record::file(INTENTS, name))?;
    work.context.index.remove(name, &marker.path);
    Ok(())
}

/// Removes every record of the volume that was not removed; the one of an archive stays.
pub(super) fn forget(work: &ExportOp<'_>, marker: &Marker) -> Result<(), OpError> {
    let name = marker.id.name();
    work.changes.remove_file(&record::file(INTENTS, name))?;
    work.changes.remove_file(&record::file(VOLUMES, name))?;
    work.context.index.remove(name, &marker.path);
    Ok(())
}

/// The record of the newest archive of the volume.
pub(super) fn archived(work: &ExportOp<'_>, name: &VolumeName) -> Result<Option<Marker>, OpError> {
    work.marker(ARCHIVED, name)
}

/// Makes sure that nothing lies where a volume is to be moved back to from `from`.
pub(super) fn nothing_at(
    work: &ExportOp<'_>,
    path: &RelativePath,
    from: &RelativePath,
) -> Result<(), OpError> {
    if path_state(work, path)? == PathState::Nothing {
        return Ok(());
    }
    fail(
        Kind::Conflict,
        format!("the volume cannot be moved back to {path}, where something is; it waits as {from}"),
    )
}

/// Moves a directory to the place of its volume, where nothing may be.
pub(super) fn move_home(
    work: &ExportOp<'_>,
    path: &RelativePath,
    from: &RelativePath,
    inode: u64,
) -> Result<(), OpError> {
    nothing_at(work, path, from)?;
    if !make_parents(work, path)? {
        return fail(Kind::Unavailable, format!("the directories above {path} come and go"));
    }
    moved(work, from, path, inode)
}
