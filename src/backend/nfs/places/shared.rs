//! Places that several volumes share: a directory of the mirror with `.berth/open`, in which each volume has a file.
//!
//! Who leaves renames `open` to a name of its own, `closing-<volume>.<random>`, so that nobody joins, and looks whether it
//! is alone. If it is, the data may go, and then the directory. If not, its file goes, and the name is given back.

use rand::random;

use super::{
    super::{
        op_error::{OpError, fail},
        record::{self, BASE, Marker},
        work::ExportOp,
    },
    files::{clear_empty, is_gone, is_same, mirror, move_away, names, read, remove_empty},
};
use crate::{
    backend::{Kind, quoted},
    system::root::Entry,
    volume::{RelativePath, VolumeName},
};

/// How often a shared place is looked at before it counts as one that nobody is in.
const LISTINGS: usize = 8;

pub(super) const OPEN: &str = "open";
const CLOSING: &str = "closing-";

/// Who shares a place.
pub(super) struct Shared {
    /// The directory with their files, and who is closing it; `None` where there is none, since it is being made or removed.
    pub(super) folder: Option<(String, Option<VolumeName>)>,
    pub(super) members: Vec<Member>,
}

/// A volume, and what its file says; `None` where that cannot be read.
pub(super) type Member = (VolumeName, Option<Box<Marker>>);

impl Shared {
    /// One of those who share it; `None` where there is none.
    #[expect(clippy::option_option, reason = "there is one, and what it is may be unknown")]
    pub(super) fn first(&self) -> Option<Option<Box<Marker>>> {
        self.members.first().map(|(_, who)| who.clone())
    }

    /// One of those who share it, other than `marker`.
    #[expect(clippy::option_option, reason = "there is one, and what it is may be unknown")]
    pub(super) fn other(&self, work: &ExportOp<'_>, marker: &Marker) -> Option<Option<Box<Marker>>> {
        let other = |who: &Option<Box<Marker>>| !who.as_ref().is_some_and(|who| is_same(work, who, marker));
        self.members.iter().find(|(_, who)| other(who)).map(|(_, who)| who.clone())
    }

    /// Whether the volume of `marker` is one of them.
    pub(super) fn has(&self, work: &ExportOp<'_>, marker: &Marker) -> bool {
        self.members.iter().any(|(_, who)| who.as_ref().is_some_and(|who| is_same(work, who, marker)))
    }

    pub(super) fn has_name(&self, name: &VolumeName) -> bool {
        self.members.iter().any(|(member, _)| member == name)
    }
}

/// Who shares the place at `path`; `None` where it is not shared.
pub(super) fn at(work: &ExportOp<'_>, path: &RelativePath) -> Result<Option<Shared>, OpError> {
    let base = base(path);
    // The directory may get another name between two looks, and a listing can miss it then.
    for _ in 0..LISTINGS {
        match work.root.see_fresh(&base) {
            Ok(Some(seen)) if seen.entry == Entry::Directory => {}
            Ok(_) => return Ok(None),
            Err(failure) if is_gone(&failure) => return Ok(None),
            Err(failure) => return Err(failure.into()),
        }
        let folder = names(work, &base)?.into_iter().find_map(|name| {
            if name == OPEN {
                return Some((name, None));
            }
            let closing = name.strip_prefix(CLOSING)?.rsplit_once('.')?.0.parse().ok()?;
            Some((name, Some(closing)))
        });
        let Some(folder) = folder else { continue };
        if let Some(members) = members(work, path, &folder.0)? {
            return Ok(Some(Shared { folder: Some(folder), members }));
        }
    }
    Ok(Some(Shared { folder: None, members: Vec::new() }))
}

/// Whose files are in the directory; `None` where it is gone.
pub(super) fn members(
    work: &ExportOp<'_>,
    path: &RelativePath,
    folder: &str,
) -> Result<Option<Vec<Member>>, OpError> {
    let directory = within(path, folder);
    if work.root.see_fresh(&directory).is_ok_and(|seen| seen.is_none()) {
        return Ok(None);
    }
    let mut members = Vec::new();
    for file in names(work, &directory)? {
        let Some(name) = record::volume_of(&file) else { continue };
        let who = match work.root.read_fresh(&directory.child(file)) {
            Ok(Some(content)) => read(work, &content.bytes)?,
            // It left, or the directory got another name, perhaps for a moment.
            Ok(None) => return Ok(None),
            Err(failure) if is_gone(&failure) => return Ok(None),
            Err(failure) => {
                tracing::warn!(reason = %failure, "the note of a shared place cannot be read");
                None
            }
        };
        members.push((name, who));
    }
    members.sort_by(|a, b| a.0.cmp(&b.0));
    // Whatever was missed has been missed by looking at a name that is no more.
    Ok(work.root.see_fresh(&directory).is_ok_and(|seen| seen.is_some()).then_some(members))
}

/// Removes what makes the place a shared one, if nobody is in it.
pub(super) fn clear(work: &ExportOp<'_>, path: &RelativePath) -> Result<(), OpError> {
    for folder in names(work, &base(path))? {
        remove_empty(work, &within(path, &folder))?;
    }
    remove_empty(work, &base(path))?;
    Ok(())
}

/// Removes a directory that was to become a place.
pub(super) fn clear_stage(work: &ExportOp<'_>, stage: &RelativePath) -> Result<(), OpError> {
    let base = stage.child(BASE);
    let open = base.child(OPEN);
    for file in names(work, &open)? {
        work.changes.remove_file(&open.child(file))?;
    }
    for directory in [&open, &base, stage] {
        remove_empty(work, directory)?;
    }
    Ok(())
}

/// Removes the file of the volume, wherever it is, and what is empty then.
pub(super) fn take_away(
    work: &ExportOp<'_>,
    marker: &Marker,
    path: &RelativePath,
    shared: &Shared,
) -> Result<(), OpError> {
    let Some((folder, closing)) = &shared.folder else {
        clear_empty(work, path)?;
        return Ok(());
    };
    if shared.has(work, marker) {
        move_away(work, &own_file(path, folder, marker), marker.id.name())?;
    }
    if remove_empty(work, &within(path, folder))? {
        remove_empty(work, &base(path))?;
    } else if closing.as_ref() == Some(marker.id.name()) {
        // Somebody came too late to be seen, and waits.
        reopen(work, path, folder)?;
    }
    Ok(())
}

/// A name that no call of an earlier process knows.
pub(super) fn closing_name(name: &VolumeName) -> String {
    format!("{CLOSING}{name}.{:016x}", random::<u64>())
}

pub(super) fn reopen(work: &ExportOp<'_>, path: &RelativePath, folder: &str) -> Result<(), OpError> {
    work.changes.place_directory(&within(path, folder), &within(path, OPEN))?;
    Ok(())
}

pub(super) fn closed<T>(
    work: &ExportOp<'_>,
    path: &RelativePath,
    folder: &str,
    closing: &VolumeName,
) -> Result<T, OpError> {
    let root = work.root.path();
    let (from, to) = (root.join(within(path, folder).to_string()), root.join(within(path, OPEN).to_string()));
    fail(
        Kind::Busy,
        format!(
            "volume {closing} is leaving the shared directory {path}; if its cluster is gone for good: mv {} {}",
            quoted(&from.display().to_string()),
            quoted(&to.display().to_string())
        ),
    )
}

fn base(path: &RelativePath) -> RelativePath {
    mirror(path).child(BASE)
}

pub(super) fn within(path: &RelativePath, folder: &str) -> RelativePath {
    base(path).child(folder)
}

pub(super) fn own_file(path: &RelativePath, folder: &str, marker: &Marker) -> RelativePath {
    member_file(path, folder, marker.id.name())
}

pub(super) fn member_file(path: &RelativePath, folder: &str, name: &VolumeName) -> RelativePath {
    within(path, folder).child(format!("{name}.json"))
}
