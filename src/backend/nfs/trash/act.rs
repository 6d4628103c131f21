//! What is done with the entries of the trash, after it was decided: [`act`] moves, [`purge`] removes.
//!
//! Whatever concerns a volume is done while it is held, so that no removal and no restore of it runs beside.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    super::{
        mounted,
        moves::{self, ActiveRecord, PathState, path_state},
        op_error::{OpError, fail, unless_full},
        parents::remove_parents,
        places,
        record::{self, BASE, Marker, PURGING, Trashed, VOLUMES},
        recorded, restore,
        stage::{Stage, stage},
        work::{ExportOp, Rule},
    },
    plan::{Found, Next},
    scan::{Folder, Key, next_owner},
};
use crate::{
    backend::Kind,
    system::root::{Left, Purge, Tree},
    volume::RelativePath,
};

/// What became of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Done {
    /// It is to be purged now, from where it lies by now.
    Ready(Key),
    /// Something changed: it is looked at again.
    Changed,
    /// The PV of its name is of a newer volume, so nothing was put back.
    Superseded,
    /// Nothing was done, since the volume is being worked on.
    Busy,
}

/// Does what was decided, all but the purge itself.
pub(super) fn act(work: &ExportOp<'_>, key: &Key, found: &Found, next: &Next) -> Result<Done, OpError> {
    let name = match found {
        Found::Removed { marker, .. } | Found::OrphanRecord { marker, .. } => Some(marker.id.name()),
        Found::Named { whole, .. } => Some(&whole.volume),
        Found::Begun { active, .. } => Some(active.marker.id.name()),
        Found::Legacy { volume, .. } => Some(volume),
        Found::Misplaced { .. } | Found::OtherCluster | Found::Unrecognised(_) => None,
    };
    let held = match name {
        Some(name) => match work.context.try_lock(name) {
            Ok(held) => Some(held),
            Err(_) => return Ok(Done::Busy),
        },
        None => None,
    };
    let done = match next {
        Next::Wait | Next::Tell(_) => Ok(Done::Changed),
        Next::Purge => match next_owner(work, found)? {
            Some(owner) => give_back(work, key, found, &owner),
            None => mark(work, key, found).map(Done::Ready),
        },
        Next::Restore(uid) => put_back(work, key, found, uid),
        Next::Finish => finish(work, key, found),
        Next::GiveBack(owner) => give_back(work, key, found, owner),
        Next::Drop => work
            .changes
            .remove_file(&moves::trash_record(&key.name))
            .map(|_| Done::Changed)
            .map_err(Into::into),
        Next::PutRecordBack => put_record_back(work, key, found),
    };
    drop(held);
    done
}

/// Moves an entry to where it is purged, so that everybody sees that there is no way back. A full export may not have the
/// directory for it: then it is purged where it is.
fn mark(work: &ExportOp<'_>, key: &Key, found: &Found) -> Result<Key, OpError> {
    let (Some(inode), false) = (found.inode(), key.purging()) else { return Ok(key.clone()) };
    mounted::within(work, &key.below, |inner| marked(inner, key, inode))
}

fn marked(work: &ExportOp<'_>, key: &Key, inode: u64) -> Result<Key, OpError> {
    let marked = key.marked();
    if marked.folder == Folder::Purging
        && unless_full(work.changes.make_directory(&[BASE, PURGING], 0o700))?.is_none()
    {
        return Ok(key.clone());
    }
    if path_state(work, &marked.path())? != PathState::Nothing {
        let path = marked.path();
        return fail(Kind::Conflict, format!("{path} exists already, and is not what is to be purged"));
    }
    if unless_full(moves::moved(work, &key.path(), &marked.path(), inode))?.is_none() {
        return Ok(key.clone());
    }
    work.context.trash.renamed(&key.path(), &marked.path());
    Ok(marked)
}

/// Puts a volume back whose PV is to be kept, with this UID.
fn put_back(work: &ExportOp<'_>, key: &Key, found: &Found, uid: &str) -> Result<Done, OpError> {
    match found {
        Found::Removed { marker, .. } => {
            if moves::active_record(work, marker.id.name())?.is_some() {
                return Ok(Done::Superseded);
            }
            restore::from_trash(work, &key.name, (**marker).clone(), Some(uid))?;
            told(work, marker.id.name(), &key.name);
        }
        Found::OrphanRecord { marker, .. } => {
            if moves::active_record(work, marker.id.name())?.is_some() {
                return Ok(Done::Superseded);
            }
            let (Stage::InPlace(_) | Stage::Mounted { .. }) = stage(work, marker)? else {
                let name = marker.id.name();
                return fail(
                    Kind::NotFound,
                    format!(
                        "PersistentVolume {name} is there again, and the data of volume {name} is not: it was purged"
                    ),
                );
            };
            restore::from_trash(work, &key.name, (**marker).clone(), Some(uid))?;
        }
        Found::Begun { active, .. } => {
            // The provisioner may have finished or given up the removal by now.
            if let Some(active) = moves::active_record(work, active.marker.id.name())? {
                restore::cancel(work, &active, Some(uid))?;
                told(work, &live_name(found), &key.name);
            }
        }
        Found::Named { whole, active: Some(active), inode } => {
            let marker =
                Marker { trash: None, archive: None, uid: Some(uid.to_owned()), ..active.marker.clone() };
            restore::bring(work, &marker, &active.file(), &key.path(), *inode)?;
            work.context.trash.taken(&key.path());
            unless_full(work.changes.write(&active.file(), &marker.to_json()))?;
            told(work, &whole.volume, &key.name);
        }
        Found::Named { whole, active: None, .. } => {
            return fail(
                Kind::Conflict,
                format!(
                    "PersistentVolume {} is to be kept, and nothing says where its data was; it is put back when the \
                     PersistentVolume is met",
                    whole.volume
                ),
            );
        }
        Found::Legacy { .. } | Found::Misplaced { .. } | Found::OtherCluster | Found::Unrecognised(_) => {}
    }
    Ok(Done::Changed)
}

fn live_name(found: &Found) -> String {
    found.volume().map(|(name, _)| name.to_string()).unwrap_or_default()
}

fn told(work: &ExportOp<'_>, volume: &impl std::fmt::Display, entry: &str) {
    let export = &work.context.export.name;
    tracing::info!(export, %volume, entry, "volume restored from the trash: its PersistentVolume is to be kept");
}

/// Finishes a removal that was begun for a PV that is gone.
fn finish(work: &ExportOp<'_>, key: &Key, found: &Found) -> Result<Done, OpError> {
    let Found::Begun { active, inode } = found else { return Ok(Done::Changed) };
    let Some(mut now) = moves::active_record(work, active.marker.id.name())? else {
        return Ok(Done::Changed);
    };
    if now.marker.trash.is_none() {
        // The version before did not note it.
        let at = jiff::Timestamp::now();
        let keep = work.context.kube.trash_retention().as_secs();
        let trash =
            Trashed { entry: key.name.clone(), inode: *inode, at, until: None, keep, below: Vec::new() };
        now.marker =
            Marker { trash: Some(trash), inode: Some(*inode), base: Some(work.base()?), ..now.marker };
        work.changes.write(&now.file(), &now.marker.to_json())?;
    }
    if !matches!(stage(work, &now.marker)?, Stage::InTrash { entry, .. } if entry == key.name) {
        return Ok(Done::Changed);
    }
    let entry = moves::rename_entry(work, &mut now, &key.name, *inode)?;
    recorded::finish(work, &mut now, &entry, *inode)?;
    Ok(Done::Changed)
}

/// Moves what a call that was delayed moved here back to the volume that it is of.
fn give_back(work: &ExportOp<'_>, key: &Key, found: &Found, owner: &RelativePath) -> Result<Done, OpError> {
    let Some(inode) = found.inode() else { return Ok(Done::Changed) };
    moves::move_home(work, owner, &key.path(), inode)?;
    work.context.trash.taken(&key.path());
    tracing::warn!(
        export = work.context.export.name,
        entry = key.name,
        directory = %owner,
        "a delayed rename had moved another volume's directory to the trash; moved it back"
    );
    Ok(Done::Changed)
}

/// Puts a record back that a call that was delayed had moved here.
fn put_record_back(work: &ExportOp<'_>, key: &Key, found: &Found) -> Result<Done, OpError> {
    let Found::OrphanRecord { marker, belongs: Some(belongs) } = found else { return Ok(Done::Changed) };
    let name = marker.id.name();
    if moves::active_record(work, name)?.is_none() && path_state(work, belongs)? == PathState::Nothing {
        work.changes.rename(&moves::trash_record(&key.name), belongs)?;
        if *belongs == record::file(VOLUMES, name) {
            work.context.index.add(name, &marker.path);
        }
    }
    Ok(Done::Changed)
}

/// A directory of a file system that is mounted somewhere below the export: where, and the path in it.
type InFileSystem<'a> = (&'a [String], Vec<String>);

/// Removes these entries with all that is in them, each at most for its time slice, and the records of those that are gone.
/// Returns what is left of each, `None` where nothing is.
pub(super) fn purge(
    work: &ExportOp<'_>,
    ready: &BTreeMap<Key, Arc<Found>>,
    purge_job: &Purge<'_>,
) -> Result<BTreeMap<Key, Option<Left>>, OpError> {
    let mut left = BTreeMap::new();
    let mut folders: BTreeMap<InFileSystem<'_>, Vec<(&Key, Tree)>> = BTreeMap::new();
    for (key, found) in ready {
        let mut path = key.path().to_vec();
        let Some(name) = path.pop() else { continue };
        let inode = found.inode().filter(|_| work.context.enforces(Rule::Inode));
        folders.entry((&key.below, path)).or_default().push((key, Tree { name, inode }));
    }
    for ((below, folder), entries) in folders {
        let trees: Vec<Tree> = entries.iter().map(|(_, tree)| tree.clone()).collect();
        let outcome = mounted::within(work, below, |inner| {
            Ok(purge_job.run(inner.root, &folder, &trees, inner.changes.gate())?)
        })?;
        for (key, tree) in entries {
            let of_it = || Left {
                stuck: outcome.stuck.iter().filter(|stuck| stuck.entry == tree.name).cloned().collect(),
                unfinished: outcome.unfinished.iter().filter(|u| u.entry == tree.name).cloned().collect(),
            };
            let gone =
                mounted::within(work, below, |inner| path_state(inner, &key.path()))? == PathState::Nothing;
            if gone && let Some(found) = ready.get(key) {
                let removed = match &**found {
                    Found::Removed { marker, .. } => Some((marker.id.name(), &marker.path)),
                    Found::Named { .. }
                    | Found::Begun { .. }
                    | Found::Legacy { .. }
                    | Found::Misplaced { .. }
                    | Found::OrphanRecord { .. }
                    | Found::OtherCluster
                    | Found::Unrecognised(_) => None,
                };
                work.context.trash.gone(&key.path(), &key.name, removed);
                if let Found::Named { active: Some(active), .. } = &**found {
                    forget_live(work, active)?;
                }
                // The record goes last: what has none is never purged.
                work.changes.remove_file(&moves::trash_record(&key.name))?;
            }
            left.insert(key.clone(), (!gone).then(of_it));
        }
    }
    Ok(left)
}

/// Removes what is still noted of a volume that was removed while the export was full.
fn forget_live(work: &ExportOp<'_>, active: &ActiveRecord) -> Result<(), OpError> {
    let Ok(_held) = work.context.try_lock(active.marker.id.name()) else { return Ok(()) };
    if stage(work, &active.marker)? == Stage::Missing {
        unless_full(places::vacate(work, &active.marker, &active.marker.path))?;
        remove_parents(work, &active.marker.path)?;
        moves::forget(work, &active.marker)?;
    }
    Ok(())
}
