//! What lies in the trash, and whose it is: [`scan`].
//!
//! A listing and, for what is new, a look at its directory and its record. Only for what a call that was delayed moved here are
//! all records read, to find the volume that it is of.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    super::{
        entry::{self, Name},
        mounted,
        moves::{self, ActiveRecord, PathState, path_state},
        op_error::{OpError, is_elsewhere},
        places::{self, Relation},
        record::{self, BASE, INTENTS, Marker, PURGING, TRASH, VOLUMES},
        work::{ExportOp, Rule},
    },
    plan::Found,
};
use crate::volume::{RelativePath, VolumeName};

/// Where an entry lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Folder {
    /// In `.berth/trash`.
    Trash,
    /// In `.berth/purging`: its purge has begun.
    Purging,
    /// At the top of the export, which is full.
    Top,
    /// There, and its purge has begun.
    TopPurging,
}

/// An entry of the trash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// Where the file system is mounted in which it lies; empty for the export's own.
    pub(super) below: Vec<String>,
    pub(super) folder: Folder,
    pub(super) name: String,
}

impl Key {
    fn of(folder: Folder, name: impl Into<String>) -> Self {
        Self { below: Vec::new(), folder, name: name.into() }
    }

    /// Where its directory lies, as it is shown.
    pub(super) fn shown(&self) -> String {
        self.below.iter().chain(&*self.path()).cloned().collect::<RelativePath>().to_string()
    }

    /// Where its directory lies in its file system.
    pub(super) fn path(&self) -> RelativePath {
        match self.folder {
            Folder::Trash => moves::in_trash(&self.name),
            Folder::Purging => record::ours([PURGING, &self.name]),
            Folder::Top => entry::at_top(entry::AT_TOP, &self.name),
            Folder::TopPurging => entry::at_top(entry::AT_TOP_PURGING, &self.name),
        }
    }

    pub(super) fn purging(&self) -> bool {
        match self.folder {
            Folder::Purging | Folder::TopPurging => true,
            Folder::Trash | Folder::Top => false,
        }
    }

    /// The same entry once its purge has begun.
    pub(super) fn marked(&self) -> Self {
        let folder = match self.folder {
            Folder::Trash | Folder::Purging => Folder::Purging,
            Folder::Top | Folder::TopPurging => Folder::TopPurging,
        };
        Self { folder, ..self.clone() }
    }
}

/// How much is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// At everything, also for what lies at the top of the export: a term begins.
    Everything,
    /// At everything that may have changed.
    Changed,
    /// At what is new.
    New,
}

/// Looks at the trash. What is `known` is looked at as closely as is asked for.
pub(super) fn scan(
    work: &ExportOp<'_>,
    known: &BTreeMap<Key, Arc<Found>>,
    depth: Depth,
) -> Result<BTreeMap<Key, Arc<Found>>, OpError> {
    let mut found = BTreeMap::new();
    let names = work.root.names(&[BASE, TRASH])?;
    let purging: BTreeSet<String> = work.root.names(&[BASE, PURGING])?.into_iter().collect();
    let mut keys: BTreeSet<Key> = BTreeSet::new();
    for name in names {
        // What begins with a dot is being written.
        if !name.starts_with('.') {
            let (name, folder) = match name.strip_suffix(".json") {
                Some(entry) if purging.contains(entry) => (entry.to_owned(), Folder::Purging),
                Some(entry) => (entry.to_owned(), Folder::Trash),
                None => (name, Folder::Trash),
            };
            keys.insert(Key::of(folder, name));
        }
    }
    keys.extend(purging.into_iter().map(|name| Key::of(Folder::Purging, name)));
    if depth == Depth::Everything {
        for name in work.root.names_at_top()? {
            if name.starts_with(entry::AT_TOP) || name.starts_with(entry::AT_TOP_PURGING) {
                work.context.trash.put_at_top(&name);
            }
        }
    }
    for top in work.context.trash.at_top() {
        if let Some(name) = top.strip_prefix(entry::AT_TOP) {
            keys.insert(Key::of(Folder::Top, name));
        } else if let Some(name) = top.strip_prefix(entry::AT_TOP_PURGING) {
            keys.insert(Key::of(Folder::TopPurging, name));
        }
    }
    for key in keys {
        let unchanged = match known.get(&key) {
            None => None,
            Some(before) => still(work, &key, before, depth)?.then(|| Arc::clone(before)),
        };
        let now = match unchanged {
            Some(before) => Some(before),
            None => match elsewhere(work, &key)? {
                Some((key, now)) => {
                    found.insert(key, Arc::new(now));
                    continue;
                }
                None => identify(work, &key)?.map(Arc::new),
            },
        };
        match now {
            Some(now) => drop(found.insert(key, now)),
            None => work.context.trash.taken(&key.path()),
        }
    }
    Ok(found)
}

/// Whether what was found out before need not be found out again.
fn still(work: &ExportOp<'_>, key: &Key, before: &Found, depth: Depth) -> Result<bool, OpError> {
    Ok(match (depth, before) {
        // The volume that something is of was looked for among all records; that is done again more and more seldom.
        (Depth::New, _) | (Depth::Changed, Found::Misplaced { .. } | Found::OtherCluster) => true,
        // Another directory may have come in place of an empty one.
        (Depth::Changed, Found::Removed { inode, .. } | Found::Legacy { inode, .. }) => {
            path_state(work, &key.path())? == PathState::Directory(*inode)
        }
        (
            Depth::Changed,
            Found::Begun { .. } | Found::Named { .. } | Found::OrphanRecord { .. } | Found::Unrecognised(_),
        )
        | (Depth::Everything, _) => false,
    })
}

/// What a record tells whose directory lies in the trash of another file system, and where it lies there.
fn elsewhere(work: &ExportOp<'_>, key: &Key) -> Result<Option<(Key, Found)>, OpError> {
    let Ok(Some(marker)) = moves::trashed(work, &key.name) else { return Ok(None) };
    let Some(trash) = marker.trash.as_ref().filter(|trash| !trash.below.is_empty()) else { return Ok(None) };
    let (inode, below) = (trash.inode, trash.below.clone());
    let cluster = marker.cluster.clone();
    let removed = Found::Removed { marker: Box::new(marker.clone()), inode };
    for folder in [Folder::Trash, Folder::Purging] {
        let key = Key { below: below.clone(), folder, name: key.name.clone() };
        match mounted::within(work, &below, |inner| path_state(inner, &key.path())) {
            Ok(PathState::Directory(found)) if found == inode => {
                let found = ours(work, &key, cluster.as_deref(), removed);
                return Ok(Some((key, found)));
            }
            Ok(_) => {}
            Err(OpError::Step(failure)) if failure.errno().is_some() => {
                let why = format!("the file system at {} cannot be looked at: {failure}", below.join("/"));
                return Ok(Some((key, Found::Unrecognised(why))));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(leftover(work, Some(marker), &key.name)?.map(|found| (key.clone(), found)))
}

/// Finds out what an entry is; `None` where it is gone.
pub(super) fn identify(work: &ExportOp<'_>, key: &Key) -> Result<Option<Found>, OpError> {
    let record = match moves::trashed(work, &key.name) {
        Ok(record) => record,
        Err(OpError::Reported(error)) => return Ok(Some(Found::Unrecognised(error.to_string()))),
        Err(error) => return Err(error),
    };
    let inode = match path_state(work, &key.path())? {
        PathState::Directory(inode) => inode,
        PathState::Nothing => return leftover(work, record, &key.name),
        PathState::Other => {
            return Ok(Some(Found::Unrecognised(
                "it is not a directory; berth put no such thing here".into(),
            )));
        }
    };
    let by_inode = work.context.enforces(Rule::Inode);
    let base = work.base()?;
    let name = Name::read(&key.name);
    if let Some(marker) = record {
        let recorded = match &name {
            Name::SelfDescribingName(whole) => Some(whole.inode),
            Name::Recorded(_) | Name::Legacy { .. } | Name::Unknown => {
                marker.trashed_in(base).or(marker.inode_in(base))
            }
        };
        if by_inode && recorded.is_some_and(|recorded| recorded != inode) {
            return misplaced(work, inode, Some(&marker.path), key).map(Some);
        }
        let cluster = marker.cluster.clone();
        return Ok(Some(ours(
            work,
            key,
            cluster.as_deref(),
            Found::Removed { marker: Box::new(marker), inode },
        )));
    }
    if let Name::SelfDescribingName(whole) = name {
        if by_inode && whole.inode != inode {
            return misplaced(work, inode, None, key).map(Some);
        }
        let active = moves::active_record(work, &whole.volume)?;
        let active =
            active.filter(|active| active.marker.inode_in(base).is_none_or(|recorded| recorded == inode));
        let cluster = whole.cluster.clone();
        let named = Found::Named { whole, active: active.map(Box::new), inode };
        return Ok(Some(ours(work, key, cluster.as_deref(), named)));
    }
    if let Some(active) =
        name.volume().map(|volume| moves::active_record(work, volume)).transpose()?.flatten()
        && is_on_its_way(&active.marker, &key.name, inode, base, by_inode)
    {
        let cluster = active.marker.cluster.clone();
        return Ok(Some(ours(
            work,
            key,
            cluster.as_deref(),
            Found::Begun { active: Box::new(active), inode },
        )));
    }
    misplaced(work, inode, None, key).map(Some)
}

/// Whether a removal that was begun moved the volume here. The record may not say yet by which name.
fn is_on_its_way(marker: &Marker, entry: &str, inode: u64, base: u64, by_inode: bool) -> bool {
    let Some(trash) = &marker.trash else { return false };
    match marker.trashed_in(base).filter(|_| by_inode) {
        Some(trashed) => trashed == inode,
        None => trash.entry == entry,
    }
}

/// `found`, if it is this cluster's.
fn ours(work: &ExportOp<'_>, key: &Key, cluster: Option<&str>, found: Found) -> Found {
    if !work.context.enforces(Rule::Cluster) || work.context.trash.is_mine(&key.name) {
        return found;
    }
    match (cluster, work.cluster()) {
        (Some(theirs), Some(ids)) if ids.include(theirs) => found,
        (Some(_), _) => Found::OtherCluster,
        (None, _) => Found::Unrecognised(
            "its record does not say of which cluster it is; once it is known that no cluster wants it, remove it by hand, \
             with its record"
                .into(),
        ),
    }
}

fn is_ours(work: &ExportOp<'_>, marker: &Marker) -> bool {
    let ours = || work.cluster().zip(marker.cluster.as_ref()).is_some_and(|(ids, id)| ids.include(id));
    !work.context.enforces(Rule::Cluster) || ours()
}

/// What a record without a directory tells.
fn leftover(work: &ExportOp<'_>, record: Option<Marker>, entry: &str) -> Result<Option<Found>, OpError> {
    let Some(marker) = record else { return Ok(None) };
    if !is_ours(work, &marker) {
        return Ok(Some(Found::OtherCluster));
    }
    let belongs = belongs(work, &marker, entry)?;
    Ok(Some(Found::OrphanRecord { marker: Box::new(marker), belongs }))
}

/// Where a record belongs that a call that was delayed moved here, when it was already the one of a volume that is in use, or
/// of a later removal.
fn belongs(work: &ExportOp<'_>, marker: &Marker, entry: &str) -> Result<Option<RelativePath>, OpError> {
    let base = work.base()?;
    let other = marker.trash.as_ref().map(|trash| trash.entry.as_str());
    if other == Some(entry) || moves::active_record(work, marker.id.name())?.is_some() {
        return Ok(None);
    }
    let is_it = |found: PathState, recorded: Option<u64>| matches!(found, PathState::Directory(i) if recorded == Some(i));
    if let Some(other) = other
        && is_it(path_state(work, &moves::in_trash(other))?, marker.trashed_in(base))
    {
        return Ok(Some(moves::trash_record(other)));
    }
    let at_place = match path_state(work, &marker.path) {
        Err(error) if is_elsewhere(&error) => PathState::Nothing,
        other => other?,
    };
    let in_use = is_it(at_place, marker.inode_in(base));
    Ok(in_use.then(|| record::file(VOLUMES, marker.id.name())))
}

/// Finds the volume that a directory is of which is not what was removed under its name.
fn misplaced(
    work: &ExportOp<'_>,
    inode: u64,
    place: Option<&RelativePath>,
    key: &Key,
) -> Result<Found, OpError> {
    let name = Name::read(&key.name);
    if !work.context.enforces(Rule::Inode)
        && let Some(volume) = name.volume()
    {
        // As it was before the rule: whatever is in the trash is purged.
        let (volume, at) = (volume.clone(), jiff::Timestamp::UNIX_EPOCH);
        let whole = entry::SelfDescribingName { volume, at, uid: None, cluster: None, inode, keep: 0 };
        return Ok(Found::Named { whole, active: None, inode });
    }
    let hints = hints(work, place, &name)?;
    for place in &hints {
        if let Some((active, _)) = owner_at(work, place, inode)? {
            return Ok(Found::Misplaced { inode, owner: Some(active.marker.path), why: String::new() });
        }
    }
    let mut doubts = Vec::new();
    for volume in all_volumes(work)? {
        let Ok(Some(active)) = moves::active_record(work, &volume) else { continue };
        match misses(work, &active.marker, inode)? {
            None => {}
            // The version before was interrupted between the move and the removal of the record.
            Some(false) if name.volume() == Some(&volume) && is_ours(work, &active.marker) => {
                return Ok(Found::Begun { active: Box::new(active), inode });
            }
            Some(sure) if sure || hints.contains(&active.marker.path) => {
                return Ok(Found::Misplaced { inode, owner: Some(active.marker.path), why: String::new() });
            }
            Some(_) => doubts.push(volume),
        }
    }
    if let (Name::Legacy { volume: Some(volume), at }, true) = (name, doubts.is_empty()) {
        return Ok(Found::Legacy { volume, at, inode });
    }
    let mut why = format!("no record says whose it is (inode {inode}), so it is never purged");
    if doubts.is_empty() {
        why.push_str("; look into it, then move it to where it belongs, or remove it by hand");
    } else {
        let names: Vec<String> = doubts.iter().take(3).map(ToString::to_string).collect();
        why.push_str("; it may be the data of volume ");
        why.push_str(&names.join(" or "));
        why.push_str(", whose directory is missing: if it is, move it there");
    }
    Ok(Found::Misplaced { inode, owner: None, why })
}

/// The volume at `place`, if its directory is missing and may be this one; and whether its record names this inode.
fn owner_at(
    work: &ExportOp<'_>,
    place: &RelativePath,
    inode: u64,
) -> Result<Option<(ActiveRecord, bool)>, OpError> {
    if let Some(occupant) = places::occupant(work, place)?
        && occupant.relation == Relation::Same
        && let Some(who) = &occupant.who
        && let Some(active) = moves::active_record(work, who.id.name())?
        && active.marker.path == *place
        && let Some(sure) = misses(work, &active.marker, inode)?
    {
        return Ok(Some((active, sure)));
    }
    Ok(None)
}

/// Where the volume lies whose directory this is by now. After a purge that was interrupted before it removed the record, the
/// file system may give the inode to the next volume at the same place, and a call that comes late may move that one here.
pub(super) fn next_owner(work: &ExportOp<'_>, found: &Found) -> Result<Option<RelativePath>, OpError> {
    let Found::Removed { marker, inode } = found else { return Ok(None) };
    let owner = owner_at(work, &marker.path, *inode)?;
    Ok(owner
        .filter(|(active, sure)| *sure && active.marker.trash.is_none())
        .map(|(active, _)| active.marker.path))
}

/// Where a directory may have been that a call that was delayed moved here: where the volume was that it was meant for.
fn hints(
    work: &ExportOp<'_>,
    place: Option<&RelativePath>,
    name: &Name,
) -> Result<Vec<RelativePath>, OpError> {
    let mut hints: Vec<RelativePath> = place.cloned().into_iter().collect();
    let Some(volume) = name.volume() else { return Ok(hints) };
    hints.extend(work.context.trash.place_of(volume));
    let prefix = entry::prefix(volume);
    for other in work.root.names(&[BASE, TRASH])? {
        if let Some(entry) = other.strip_suffix(".json")
            && entry.starts_with(&prefix)
            && let Ok(Some(marker)) = moves::trashed(work, entry)
        {
            hints.push(marker.path);
        }
    }
    if let Ok(Some(archived)) = moves::archived(work, volume) {
        hints.push(archived.path);
    }
    Ok(hints)
}

/// Whether the directory of a volume is missing, and, where it is, whether its record names this inode; `None` where it is not
/// missing or is another one.
fn misses(work: &ExportOp<'_>, marker: &Marker, inode: u64) -> Result<Option<bool>, OpError> {
    let recorded = marker.inode_in(work.base()?);
    if recorded.is_some_and(|recorded| recorded != inode) {
        return Ok(None);
    }
    let missing = match path_state(work, &marker.path) {
        Ok(at_place) => at_place == PathState::Nothing,
        // It lies where we do not look: behind a mount, a link.
        Err(OpError::Step(_)) => false,
        Err(error) => return Err(error),
    };
    Ok(missing.then_some(recorded.is_some()))
}

/// The names of all volumes that were not removed.
fn all_volumes(work: &ExportOp<'_>) -> Result<Vec<VolumeName>, OpError> {
    let mut volumes = Vec::new();
    for folder in [VOLUMES, INTENTS] {
        let names = work.root.names(&[BASE, folder])?;
        volumes.extend(names.iter().filter_map(|name| record::volume_of(name)));
    }
    Ok(volumes)
}
