//! The files of the mirror: where each lies, and how one is written, read and removed.
//!
//! What they mean for a place is in `looks` and `take`.

use rand::random;

use super::super::{
    op_error::{OpError, fail},
    path_pattern,
    record::{self, Marker, PLACES, STAGING, VOLUMES},
    work::ExportOp,
};
use crate::{
    backend::Kind,
    system::root::{Entry, Errno, Failure, Placed, Unmade},
    volume::{RelativePath, VolumeName},
};

/// How often a step is begun again when others come and go.
pub(super) const ATTEMPTS: usize = 16;

/// How many names are looked at, at most, to find the volume that lies below a place: what is more is only leftovers.
pub(super) const LOOKS: usize = 4096;

pub(super) fn link(work: &ExportOp<'_>, from: &RelativePath, to: &RelativePath) -> Result<Placed, OpError> {
    #[cfg(test)]
    if work.context.without_links.load(std::sync::atomic::Ordering::SeqCst) {
        return Ok(Placed::Unsupported);
    }
    Ok(work.changes.link(from, to)?)
}

/// Removes the directories of the mirror on the way to `path`, as far as they are empty, and before them the one at `path`
/// `itself`.
pub(super) fn remove_folders(work: &ExportOp<'_>, path: &RelativePath, itself: bool) -> Result<(), OpError> {
    for folder in path.parents().chain(itself.then(|| path.clone())).rev() {
        if !remove_empty(work, &mirror(&folder))? {
            break;
        }
    }
    Ok(())
}

/// Removes a file of the mirror that tells of this volume. It gets a name of its own first: an unlink that comes late, when the volume is
/// there again, must not remove its file. A rename that comes late is undone by `put_back_moved`.
pub(super) fn move_away(
    work: &ExportOp<'_>,
    file: &RelativePath,
    volume: &VolumeName,
) -> Result<(), OpError> {
    let aside = staged(volume, LEAVING);
    if renamed(work, file, &aside)? {
        work.changes.remove_file(&aside)?;
    }
    Ok(())
}

/// Moves a file; `false` where it is gone.
pub(super) fn renamed(work: &ExportOp<'_>, from: &RelativePath, to: &RelativePath) -> Result<bool, OpError> {
    match work.changes.rename(from, to) {
        Ok(()) => Ok(true),
        Err(failure) if is_gone(&failure) => Ok(false),
        Err(failure) => Err(failure.into()),
    }
}

/// What a file is called that is moved away from the mirror, and a directory that is on its way to it.
pub(super) const LEAVING: &str = ".leaving";
pub(super) const COMING: &str = ".coming";

/// A name for the volume that nobody else uses.
pub(super) fn staged(volume: &VolumeName, kind: &str) -> RelativePath {
    let name = path_pattern::shortened(volume.as_str(), 200);
    record::ours([STAGING, &format!("{name}.{:016x}{kind}", random::<u64>())])
}

pub(super) fn staged_for(name: &str) -> Option<VolumeName> {
    let rest = name.strip_suffix(LEAVING).or(name.strip_suffix(COMING))?;
    rest.rsplit_once('.')?.0.parse().ok()
}

/// Whose a file of the mirror is. One that is not signed may have been signed later: the record tells.
pub(super) fn read(work: &ExportOp<'_>, bytes: &[u8]) -> Result<Option<Box<Marker>>, OpError> {
    let Ok(noted) = Marker::from_json(bytes) else { return Ok(None) };
    if noted.cluster.is_some() {
        return Ok(Some(Box::new(noted)));
    }
    let Some(content) = work.root.read_fresh(&record::file(VOLUMES, noted.id.name()))? else {
        return Ok(Some(Box::new(noted)));
    };
    let signed = Marker::from_json(&content.bytes).ok();
    let signed = signed.filter(|signed| signed.id == noted.id && signed.path == noted.path);
    Ok(Some(Box::new(signed.unwrap_or(noted))))
}

pub(super) fn is_same(work: &ExportOp<'_>, a: &Marker, b: &Marker) -> bool {
    a.is_same_volume(b, work.cluster().as_ref())
}

/// Makes the directories of the mirror above `path`.
pub(super) fn make_folders(work: &ExportOp<'_>, path: &RelativePath) -> Result<(), OpError> {
    for folder in path.parents() {
        match work.changes.make_directory(&mirror(&folder), 0o700) {
            Ok(_) => {}
            // What is in the way is found out by the next attempt.
            Err(failure) if is_gone(&failure) => return Ok(()),
            Err(failure) => return Err(failure.into()),
        }
    }
    Ok(())
}

/// Removes the directory `path` of the mirror and all below it that is empty.
pub(super) fn clear_empty(work: &ExportOp<'_>, path: &RelativePath) -> Result<(), OpError> {
    let mut open = vec![mirror(path)];
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        if found.len() >= LOOKS {
            break;
        }
        for name in names(work, &folder)? {
            let path = folder.child(name);
            if matches!(work.root.see_fresh(&path), Ok(Some(seen)) if seen.entry == Entry::Directory) {
                open.push(path);
            }
        }
        found.push(folder);
    }
    for folder in found.iter().rev() {
        remove_empty(work, folder)?;
    }
    Ok(())
}

/// Removes a directory if it is empty; `false` where it stays.
pub(super) fn remove_empty(work: &ExportOp<'_>, folder: &RelativePath) -> Result<bool, OpError> {
    match work.changes.remove_directory(folder) {
        Ok(Unmade::Removed | Unmade::Missing) => Ok(true),
        Ok(Unmade::Occupied) => Ok(false),
        Err(failure) if is_gone(&failure) => Ok(false),
        Err(failure) => Err(failure.into()),
    }
}

/// The names in a directory of ours; none where it is gone.
pub(super) fn names(work: &ExportOp<'_>, folder: &RelativePath) -> Result<Vec<String>, OpError> {
    match work.root.names(folder) {
        Ok(names) => Ok(names),
        Err(failure) if is_gone(&failure) => Ok(Vec::new()),
        Err(failure) => Err(failure.into()),
    }
}

/// Whether something on the way is gone, or is a file by now.
pub(super) fn is_gone(failure: &Failure) -> bool {
    matches!(failure.errno(), Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ESTALE))
}

/// Where the place at `path` is noted.
pub(super) fn mirror(path: &RelativePath) -> RelativePath {
    record::ours([PLACES]).below(path)
}

/// What others come and go with is tried again.
pub(super) fn changed_concurrently<T>(path: &RelativePath) -> Result<T, OpError> {
    fail(
        Kind::Unavailable,
        format!("the reservations of directory {path} and its parents keep changing; retrying"),
    )
}
