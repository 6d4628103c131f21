//! Taking a place and giving it up: [`occupy`] and [`vacate`].

use super::{
    super::{
        op_error::OpError,
        record::{self, ARCHIVED, BASE, DISPUTED, INTENTS, Marker, VOLUMES},
        work::{ExportOp, Rule},
    },
    files::{
        ATTEMPTS, COMING, LEAVING, changed_concurrently, clear_empty, is_gone, is_same, link, make_folders,
        mirror, move_away, read, remove_folders, renamed, staged,
    },
    looks::{Node, Occupant, Relation, above, above_strictly, below, disputed, node, unmirrored},
    shared::{self, OPEN, at, clear_stage, closed, own_file, reopen},
};
use crate::{
    system::{keyed_lock::KeyedLock, root::Placed},
    volume::{RelativePath, VolumeName},
};

/// Whether a place was free.
#[derive(Debug, Clone)]
pub(in crate::backend::nfs) enum Occupied {
    /// It is ours now, or was already.
    Free,
    /// It is ours together with others, of which this is one.
    Joined(Occupant),
    /// It is not.
    Taken(Occupant),
}

/// Makes the place at `path` ours, if nothing of any cluster lies at, above or below it. `link_of` is the file that
/// tells whose it is, with the content of `marker`. With `share` others may lie at the same place if they share it, too.
///
/// Done again it tells the same. What it did when it says [`Occupied::Taken`] is undone.
pub(in crate::backend::nfs) fn occupy(
    work: &ExportOp<'_>,
    marker: &Marker,
    link_of: &RelativePath,
    path: &RelativePath,
    share: bool,
) -> Result<Occupied, OpError> {
    if !work.context.enforces(Rule::Places) {
        return Ok(Occupied::Free);
    }
    let (occupied, new) = claim(work, marker, link_of, path, share)?;
    if matches!(occupied, Occupied::Taken(_)) {
        return Ok(occupied);
    }
    let other = match disputed(work, marker, path)? {
        None => unmirrored(work, marker, path)?,
        found => found,
    };
    let Some(other) = other else { return Ok(occupied) };
    if share && other.relation == Relation::Same && other.who.as_ref().is_some_and(|who| who.shared) {
        return Ok(Occupied::Joined(other));
    }
    if new {
        vacate(work, marker, path)?;
    }
    Ok(Occupied::Taken(other))
}

/// The same for a volume that is in use already: only those count that have their place.
pub(in crate::backend::nfs) fn occupy_recorded(
    work: &ExportOp<'_>,
    marker: &Marker,
    link_of: &RelativePath,
    path: &RelativePath,
    share: bool,
) -> Result<Occupied, OpError> {
    Ok(claim(work, marker, link_of, path, share)?.0)
}

/// Asks for the place, and tells also whether it was not ours before.
fn claim(
    work: &ExportOp<'_>,
    marker: &Marker,
    link_of: &RelativePath,
    path: &RelativePath,
    share: bool,
) -> Result<(Occupied, bool), OpError> {
    work.ensure_layout()?;
    for _ in 0..ATTEMPTS {
        let step =
            if share { join(work, marker, link_of, path)? } else { take(work, marker, link_of, path)? };
        let (occupied, new) = match step {
            Step::Again => continue,
            Step::Taken(occupant) => {
                // Perhaps we made them, and nothing came into them.
                remove_folders(work, path, false)?;
                return Ok((Occupied::Taken(occupant), false));
            }
            Step::Ours { with, new } => (with.map_or(Occupied::Free, Occupied::Joined), new),
        };
        let Some(other) = above(work, path)? else { return Ok((occupied, new)) };
        if new {
            vacate(work, marker, path)?;
        }
        return Ok((Occupied::Taken(other), false));
    }
    changed_concurrently(path)
}

/// How far an attempt came.
enum Step {
    /// Something changed under it.
    Again,
    Ours {
        /// One of those who share the place.
        with: Option<Occupant>,
        /// Whether it was not ours before.
        new: bool,
    },
    Taken(Occupant),
}

impl Step {
    fn alone(new: bool) -> Self {
        Self::Ours { with: None, new }
    }
}

fn take(
    work: &ExportOp<'_>,
    marker: &Marker,
    link_of: &RelativePath,
    path: &RelativePath,
) -> Result<Step, OpError> {
    match link(work, link_of, &mirror(path))? {
        Placed::New => Ok(Step::alone(true)),
        Placed::Taken | Placed::NotADirectory => in_the_way(work, marker, path),
        Placed::Gone => {
            make_folders(work, path)?;
            Ok(Step::Again)
        }
        // The same that shares do holds here: the place is a directory that was moved to it, with one volume in it.
        Placed::Unsupported => match create_shared(work, marker, link_of, path)? {
            Placed::New => Ok(Step::alone(true)),
            Placed::Gone | Placed::Unsupported => Ok(Step::Again),
            Placed::Taken | Placed::NotADirectory => in_the_way(work, marker, path),
        },
    }
}

/// What keeps us from a place that is to be ours alone: perhaps nothing any more, or we ourselves.
fn in_the_way(work: &ExportOp<'_>, marker: &Marker, path: &RelativePath) -> Result<Step, OpError> {
    if let Some(occupant) = above_strictly(work, path)? {
        return Ok(Step::Taken(occupant));
    }
    let same = |who| Occupant { relation: Relation::Same, path: path.clone(), who };
    match node(work, path)? {
        Node::Nothing => Ok(Step::Again),
        Node::Volume(Some(who)) if is_same(work, &who, marker) => Ok(Step::alone(false)),
        Node::Volume(who) => taken_unless_left_over(work, same(who)),
        Node::Shared(shared) => {
            if shared.has(work, marker) {
                return Ok(Step::alone(false));
            }
            if let Some(who) = shared.first() {
                return taken_unless_left_over(work, same(who));
            }
            clear_empty(work, path)?;
            Ok(Step::Again)
        }
        Node::Folder => {
            if let Some(occupant) = below(work, path)? {
                return taken_unless_left_over(work, occupant);
            }
            clear_empty(work, path)?;
            Ok(Step::Again)
        }
    }
}

/// Removes the note of a volume of ours that has no record any more; a crash can leave one.
fn taken_unless_left_over(work: &ExportOp<'_>, occupant: Occupant) -> Result<Step, OpError> {
    let Some(who) = &occupant.who else { return Ok(Step::Taken(occupant)) };
    match left_over(work, who, &occupant.path)? {
        Some(_held) => {
            vacate(work, who, &occupant.path)?;
            Ok(Step::Again)
        }
        None => Ok(Step::Taken(occupant)),
    }
}

/// Whether `who`, which is noted at `path`, is of this cluster and nothing else tells of it. While what is returned is held,
/// nothing of this process writes its record.
pub(super) fn left_over(
    work: &ExportOp<'_>,
    who: &Marker,
    path: &RelativePath,
) -> Result<Option<KeyedLock<VolumeName>>, OpError> {
    let ours = work.cluster().zip(who.cluster.as_ref()).is_some_and(|(ids, cluster)| ids.include(cluster));
    // Of archives only the last one of a name has a record.
    let archive = who.archive.as_ref().is_some_and(|archive| archive.path == *path);
    if !ours || archive {
        return Ok(None);
    }
    let Ok(held) = work.context.try_lock(who.id.name()) else { return Ok(None) };
    for folder in [INTENTS, VOLUMES, ARCHIVED] {
        match work.root.read_fresh(&record::file(folder, who.id.name()))? {
            None => {}
            Some(content) => match Marker::from_json(&content.bytes) {
                Ok(marker) if !marker.lies_at(path) => {}
                Ok(_) | Err(_) => return Ok(None),
            },
        }
    }
    Ok(Some(held))
}

/// Gives up the place at `path` of the volume of `marker`, if it has it, and what only led there.
pub(in crate::backend::nfs) fn vacate(
    work: &ExportOp<'_>,
    marker: &Marker,
    path: &RelativePath,
) -> Result<(), OpError> {
    let note = record::file(DISPUTED, marker.id.name());
    if let Some(content) = work.root.read(&note)?
        && Marker::from_json(&content.bytes).is_ok_and(|noted| is_same(work, &noted, marker))
    {
        work.changes.remove_file(&note)?;
    }
    let itself = match node(work, path)? {
        Node::Nothing => false,
        Node::Folder => true,
        Node::Volume(Some(who)) if is_same(work, &who, marker) => {
            take_away(work, marker, path)?;
            false
        }
        Node::Volume(_) => return Ok(()),
        Node::Shared(shared) => {
            shared::take_away(work, marker, path, &shared)?;
            true
        }
    };
    remove_folders(work, path, itself)
}

/// Removes the file of a place.
fn take_away(work: &ExportOp<'_>, marker: &Marker, path: &RelativePath) -> Result<(), OpError> {
    work.ensure_layout()?;
    let leaf = mirror(path);
    let aside = staged(marker.id.name(), LEAVING);
    if !renamed(work, &leaf, &aside)? {
        return Ok(());
    }
    let content = work.root.read_fresh(&aside)?;
    match content.and_then(|content| Marker::from_json(&content.bytes).ok()) {
        Some(other) if !is_same(work, &other, marker) => put_back(work, &aside, &other),
        Some(_) | None => {
            work.changes.remove_file(&aside)?;
            Ok(())
        }
    }
}

/// Gives a volume back its place, if it is in use and that is not another one's by now.
pub(super) fn put_back(work: &ExportOp<'_>, aside: &RelativePath, found: &Marker) -> Result<(), OpError> {
    let place = found.archive.as_ref().map_or(&found.path, |archive| &archive.path);
    if is_recorded(work, found, place)? {
        tracing::warn!(
            export = work.context.export.name,
            volume = %found.id,
            directory = %place,
            "a delayed rename had moved the reservation of a volume's path; restored it"
        );
        claim(work, found, aside, place, found.shared)?;
        // Perhaps it has just left it.
        if !is_recorded(work, found, place)? {
            vacate(work, found, place)?;
        }
    }
    work.changes.remove_file(aside)?;
    Ok(())
}

/// Whether a record says that the volume, or its archive, lies there, and is not being removed.
fn is_recorded(work: &ExportOp<'_>, found: &Marker, place: &RelativePath) -> Result<bool, OpError> {
    for folder in [VOLUMES, INTENTS, ARCHIVED] {
        let Some(content) = work.root.read_fresh(&record::file(folder, found.id.name()))? else { continue };
        let Ok(marker) = Marker::from_json(&content.bytes) else { return Ok(true) };
        let archived = marker.archive.as_ref().is_some_and(|archive| archive.path == *place);
        let in_use = folder != ARCHIVED && marker.trash.is_none() && marker.path == *place;
        if archived || in_use {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Makes the volume one of those who share the place, or the first of them.
fn join(
    work: &ExportOp<'_>,
    marker: &Marker,
    link_of: &RelativePath,
    path: &RelativePath,
) -> Result<Step, OpError> {
    let own = own_file(path, OPEN, marker);
    match link(work, link_of, &own)? {
        Placed::New => return joined(work, marker, path, true),
        Placed::Taken => {
            let who = match work.root.read_fresh(&own)? {
                None => return Ok(Step::Again),
                Some(content) => read(work, &content.bytes)?,
            };
            if who.as_ref().is_some_and(|who| is_same(work, who, marker)) {
                return joined(work, marker, path, false);
            }
            return Ok(Step::Taken(Occupant { relation: Relation::Same, path: path.clone(), who }));
        }
        Placed::Gone | Placed::NotADirectory | Placed::Unsupported => {}
    }
    match node(work, path)? {
        Node::Volume(_) => in_the_way(work, marker, path),
        Node::Nothing => begin(work, marker, link_of, path),
        Node::Folder => match below(work, path)? {
            Some(occupant) => taken_unless_left_over(work, occupant),
            None => begin(work, marker, link_of, path),
        },
        Node::Shared(shared) => match &shared.folder {
            Some((_, None)) if shared.has_name(marker.id.name()) => joined(work, marker, path, false),
            // There are no links; it is known by now that nobody has the name.
            Some((_, None)) => {
                let aside = staged(marker.id.name(), COMING);
                work.changes.write(&aside, &marker.to_json())?;
                match work.changes.rename(&aside, &own) {
                    Ok(()) => joined(work, marker, path, true),
                    Err(failure) if is_gone(&failure) => Ok(Step::Again),
                    Err(failure) => Err(failure.into()),
                }
            }
            Some((folder, Some(closing))) => {
                if closing != marker.id.name() && shared.has_name(closing) {
                    return closed(work, path, folder, closing);
                }
                reopen(work, path, folder)?;
                Ok(Step::Again)
            }
            None => {
                clear_empty(work, path)?;
                Ok(Step::Again)
            }
        },
    }
}

fn begin(
    work: &ExportOp<'_>,
    marker: &Marker,
    link_of: &RelativePath,
    path: &RelativePath,
) -> Result<Step, OpError> {
    match create_shared(work, marker, link_of, path)? {
        Placed::New => joined(work, marker, path, true),
        Placed::Gone | Placed::Unsupported => Ok(Step::Again),
        Placed::Taken => {
            // Somebody joined or came below, or what is there is only left over.
            clear_empty(work, path)?;
            Ok(Step::Again)
        }
        Placed::NotADirectory => in_the_way(work, marker, path),
    }
}

/// Looks once more whether the volume is really there, and with whom.
fn joined(work: &ExportOp<'_>, marker: &Marker, path: &RelativePath, new: bool) -> Result<Step, OpError> {
    let name = marker.id.name();
    let Some(shared) = at(work, path)? else { return Ok(Step::Again) };
    match &shared.folder {
        Some((_, None)) if shared.has_name(name) => {}
        // It came while the place was being closed: who closes has perhaps not seen it.
        Some((folder, Some(_))) if new => {
            move_away(work, &own_file(path, folder, marker), name)?;
            return Ok(Step::Again);
        }
        Some(_) | None => return Ok(Step::Again),
    }
    let mut with = None;
    for (_, who) in shared.members.iter().filter(|(member, _)| member != name) {
        let other = Occupant { relation: Relation::Same, path: path.clone(), who: who.clone() };
        if !marker.shared || !who.as_ref().is_some_and(|who| who.shared) {
            if new {
                move_away(work, &own_file(path, OPEN, marker), name)?;
            }
            return taken_unless_left_over(work, other);
        }
        with.get_or_insert(other);
    }
    Ok(Step::Ours { with, new })
}

/// Makes a place with the volume in it, where nothing is yet.
fn create_shared(
    work: &ExportOp<'_>,
    marker: &Marker,
    link_of: &RelativePath,
    path: &RelativePath,
) -> Result<Placed, OpError> {
    make_folders(work, path)?;
    let stage = staged(marker.id.name(), COMING);
    let (base, open) = (stage.child(BASE), stage.child(BASE).child(OPEN));
    for directory in [&stage, &base, &open] {
        work.changes.make_directory(directory, 0o700)?;
    }
    let own = open.child(format!("{}.json", marker.id.name()));
    match link(work, link_of, &own)? {
        Placed::New => {}
        Placed::Unsupported => work.changes.write(&own, &marker.to_json())?,
        other @ (Placed::Taken | Placed::Gone | Placed::NotADirectory) => {
            clear_stage(work, &stage)?;
            return Ok(other);
        }
    }
    let placed = work.changes.place_directory(&stage, &mirror(path))?;
    if placed != Placed::New {
        clear_stage(work, &stage)?;
    } else if !at(work, path)?.is_some_and(|shared| shared.has_name(marker.id.name())) {
        // Another cluster that begins to lead has cleared it away before it was moved.
        return Ok(Placed::Gone);
    }
    Ok(placed)
}
