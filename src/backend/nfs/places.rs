//! The mirror of the used places: [`occupy`] and [`vacate`] decide, among all clusters that use an export, who may lie
//! where.
//!
//! Below `.berth/places` there is a file for every volume and every archive, with the path that this has below the export,
//! and a directory for whatever is above one. A file is made by link(2), which fails where anything is: one call of the
//! server decides between all who want a place, and neither volume nor archive can lie within another. A place that is
//! shared is a directory that holds `.berth/open` with a file for each of its volumes; no segment of a volume's path has
//! that name. Who comes to something below a directory looks once more whether it became a shared place; who founds a
//! shared place can do so only in an empty directory.
//!
//! A file holds the record as it was then: whose it is. Nothing here looks at the volumes themselves, and what this
//! process remembers decides nothing.

mod shared;

use std::{fmt::Write as _, sync::atomic::Ordering};

use rand::random;
pub(super) use shared::{Leaving, leave_shared, stay};

use super::{
    identity::STAGED_IDENTITY,
    record::{self, ARCHIVED, BASE, DISPUTED, INTENTS, Marker, PLACES, STAGING, VOLUMES},
    store::{OpError, Rule, Work, fail},
};
use crate::{
    backend::Kind,
    system::root::{Entry, Errno, Failure, Placed},
    volume::VolumeName,
};

/// How often a step is begun again when others come and go.
const ATTEMPTS: usize = 16;

/// How many names are looked at, at most, to find the volume that lies below a place: what is more is only leftovers.
const LOOKS: usize = 4096;

/// How another place lies to the one that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    /// Above it.
    Above,
    /// It is the same one.
    Same,
    /// Below it.
    Below,
}

/// What is in the way.
#[derive(Debug, Clone)]
pub(super) struct Occupant {
    pub(super) relation: Relation,
    /// Where it lies.
    pub(super) path: Vec<String>,
    /// What its record says; `None` where that cannot be read.
    pub(super) who: Option<Box<Marker>>,
}

/// Whether a place was free.
#[derive(Debug, Clone)]
pub(super) enum Occupied {
    /// It is ours now, or was already.
    Free,
    /// It is ours together with others, of which this is one.
    Joined(Occupant),
    /// It is not.
    Taken(Occupant),
}

/// What is at one place of the mirror.
enum Node {
    Nothing,
    /// The way to others, or left over.
    Folder,
    Volume(Option<Box<Marker>>),
    Shared(shared::Shared),
}

impl Occupant {
    /// Whose it is, in words: "volume pvc-1 of claim ns/data of cluster abc".
    pub(super) fn whose(&self) -> String {
        let Some(who) = &self.who else {
            return "a volume whose record cannot be read".into();
        };
        let mut text = String::new();
        if who.archive.as_ref().is_some_and(|archive| archive.segments == self.path) {
            text.push_str("the archive of ");
        }
        let _ = write!(text, "volume {} of claim {}", who.id.name(), who.claim);
        match &who.cluster {
            Some(cluster) => {
                let _ = write!(text, " of cluster {cluster}");
            }
            None => text.push_str(" of an unknown cluster"),
        }
        text
    }

    /// Why the directory at `segments` cannot be had, as a sentence without its end.
    pub(super) fn explained(&self, segments: &[String]) -> String {
        let (asked, path, whose) = (segments.join("/"), self.path.join("/"), self.whose());
        match self.relation {
            Relation::Same => format!("directory {asked} belongs to {whose}"),
            Relation::Above => format!("directory {asked} lies within {path}, which belongs to {whose}"),
            Relation::Below => {
                format!("directory {asked} overlaps with {path} below it, which belongs to {whose}")
            }
        }
    }
}

/// Makes the place at `segments` ours, if nothing of any cluster lies at, above or below it. `link_of` is the file that
/// tells whose it is, with the content of `marker`. With `share` others may lie at the same place if they share it, too.
///
/// Done again it tells the same. What it did when it says [`Occupied::Taken`] is undone.
pub(super) fn occupy(
    work: &Work<'_>,
    marker: &Marker,
    link_of: &[String],
    segments: &[String],
    share: bool,
) -> Result<Occupied, OpError> {
    if !work.store.enforces(Rule::Places) {
        return Ok(Occupied::Free);
    }
    let (occupied, new) = claim(work, marker, link_of, segments, share)?;
    if matches!(occupied, Occupied::Taken(_)) {
        return Ok(occupied);
    }
    let other = match disputed(work, marker, segments)? {
        None => unmirrored(work, marker, segments)?,
        found => found,
    };
    let Some(other) = other else { return Ok(occupied) };
    if share && other.relation == Relation::Same && other.who.as_ref().is_some_and(|who| who.shared) {
        return Ok(Occupied::Joined(other));
    }
    if new {
        vacate(work, marker, segments)?;
    }
    Ok(Occupied::Taken(other))
}

/// The same for a volume that is in use already: only those count that have their place.
pub(super) fn occupy_recorded(
    work: &Work<'_>,
    marker: &Marker,
    link_of: &[String],
    segments: &[String],
    share: bool,
) -> Result<Occupied, OpError> {
    Ok(claim(work, marker, link_of, segments, share)?.0)
}

/// Asks for the place, and tells also whether it was not ours before.
fn claim(
    work: &Work<'_>,
    marker: &Marker,
    link_of: &[String],
    segments: &[String],
    share: bool,
) -> Result<(Occupied, bool), OpError> {
    work.ensure_layout()?;
    for _ in 0..ATTEMPTS {
        let step = if share {
            shared::join(work, marker, link_of, segments)?
        } else {
            take(work, marker, link_of, segments)?
        };
        let (occupied, new) = match step {
            Step::Again => continue,
            Step::Taken(occupant) => {
                // Perhaps we made them, and nothing came into them.
                remove_folders(work, segments, segments.len().saturating_sub(1))?;
                return Ok((Occupied::Taken(occupant), false));
            }
            Step::Ours { with, new } => (with.map_or(Occupied::Free, Occupied::Joined), new),
        };
        let Some(other) = above(work, segments)? else { return Ok((occupied, new)) };
        if new {
            vacate(work, marker, segments)?;
        }
        return Ok((Occupied::Taken(other), false));
    }
    come_and_go(segments)
}

fn come_and_go<T>(segments: &[String]) -> Result<T, OpError> {
    let path = segments.join("/");
    fail(
        Kind::Unavailable,
        format!("what is noted of directory {path} and its parents comes and goes; it is tried again"),
    )
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

fn take(work: &Work<'_>, marker: &Marker, link_of: &[String], segments: &[String]) -> Result<Step, OpError> {
    match link(work, link_of, &mirror(segments))? {
        Placed::New => Ok(Step::alone(true)),
        Placed::Taken | Placed::NotADirectory => in_the_way(work, marker, segments),
        Placed::Gone => {
            make_folders(work, segments)?;
            Ok(Step::Again)
        }
        // The same that shares do holds here: the place is a directory that was moved to it, with one volume in it.
        Placed::Unsupported => match shared::found(work, marker, link_of, segments)? {
            Placed::New => Ok(Step::alone(true)),
            Placed::Gone | Placed::Unsupported => Ok(Step::Again),
            Placed::Taken | Placed::NotADirectory => in_the_way(work, marker, segments),
        },
    }
}

fn link(work: &Work<'_>, from: &[String], to: &[String]) -> Result<Placed, OpError> {
    #[cfg(test)]
    if work.store.without_links.load(Ordering::SeqCst) {
        return Ok(Placed::Unsupported);
    }
    Ok(work.changes.link(from, to)?)
}

/// What keeps us from a place that is to be ours alone: perhaps nothing any more, or we ourselves.
fn in_the_way(work: &Work<'_>, marker: &Marker, segments: &[String]) -> Result<Step, OpError> {
    if let Some(occupant) = above_strictly(work, segments)? {
        return Ok(Step::Taken(occupant));
    }
    let same = |who| Occupant { relation: Relation::Same, path: segments.to_vec(), who };
    match node(work, segments)? {
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
            clear_empty(work, segments)?;
            Ok(Step::Again)
        }
        Node::Folder => {
            if let Some(occupant) = below(work, segments)? {
                return taken_unless_left_over(work, occupant);
            }
            clear_empty(work, segments)?;
            Ok(Step::Again)
        }
    }
}

/// Removes the note of a volume of ours that has no record any more; a crash can leave one.
fn taken_unless_left_over(work: &Work<'_>, occupant: Occupant) -> Result<Step, OpError> {
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
fn left_over(
    work: &Work<'_>,
    who: &Marker,
    path: &[String],
) -> Result<Option<crate::system::guard::Held<VolumeName>>, OpError> {
    let ours = work.cluster().zip(who.cluster.as_ref()).is_some_and(|(ids, cluster)| ids.include(cluster));
    // Of archives only the last one of a name has a record.
    let archive = who.archive.as_ref().is_some_and(|archive| archive.segments == path);
    if !ours || archive {
        return Ok(None);
    }
    let Ok(held) = work.store.hold(who.id.name()) else { return Ok(None) };
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

/// Whatever lies at, above or below `segments` by the mirror, also if it is ours.
pub(super) fn occupant(work: &Work<'_>, segments: &[String]) -> Result<Option<Occupant>, OpError> {
    if let Some(occupant) = above_strictly(work, segments)? {
        return Ok(Some(occupant));
    }
    let same = |who| Some(Occupant { relation: Relation::Same, path: segments.to_vec(), who });
    match node(work, segments)? {
        Node::Nothing => Ok(None),
        Node::Volume(who) => Ok(same(who)),
        Node::Shared(shared) => Ok(shared.first().and_then(same)),
        Node::Folder => below(work, segments),
    }
}

/// Whether the place at `segments` is noted as that of `marker`, alone or together with others.
pub(super) fn holds(work: &Work<'_>, marker: &Marker, segments: &[String]) -> Result<bool, OpError> {
    Ok(match node(work, segments)? {
        Node::Nothing | Node::Folder => false,
        Node::Volume(who) => who.is_some_and(|who| is_same(work, &who, marker)),
        Node::Shared(shared) => shared.has(work, marker),
    })
}

/// What lies at, above or below `segments` and is not the volume of `marker`: by the mirror, by the volumes that never got
/// their place, and, while the places of an older export are still being noted, by the records. Who is asked before a
/// volume is moved: it must be `None` then, unless the place is shared.
pub(super) fn overlapping(
    work: &Work<'_>,
    marker: &Marker,
    segments: &[String],
) -> Result<Option<Occupant>, OpError> {
    if let Some(occupant) = above_strictly(work, segments)? {
        return Ok(Some(occupant));
    }
    let same = |who| Some(Occupant { relation: Relation::Same, path: segments.to_vec(), who });
    let found = match node(work, segments)? {
        Node::Nothing => None,
        Node::Volume(Some(who)) if is_same(work, &who, marker) => None,
        Node::Volume(who) => same(who),
        Node::Shared(shared) => shared.other(work, marker).and_then(same),
        Node::Folder => below(work, segments)?,
    };
    let found = match found {
        None => disputed(work, marker, segments)?,
        found => found,
    };
    match found {
        None => unmirrored(work, marker, segments),
        found => Ok(found),
    }
}

/// Gives up the place at `segments` of the volume of `marker`, if it has it, and what only led there.
pub(super) fn vacate(work: &Work<'_>, marker: &Marker, segments: &[String]) -> Result<(), OpError> {
    let note = record::file(DISPUTED, marker.id.name());
    if let Some(content) = work.root.read(&note)?
        && Marker::from_json(&content.bytes).is_ok_and(|noted| is_same(work, &noted, marker))
    {
        work.changes.remove_file(&note)?;
    }
    let depth = match node(work, segments)? {
        Node::Nothing => segments.len().saturating_sub(1),
        Node::Folder => segments.len(),
        Node::Volume(Some(who)) if is_same(work, &who, marker) => {
            take_away(work, marker, segments)?;
            segments.len().saturating_sub(1)
        }
        Node::Volume(_) => return Ok(()),
        Node::Shared(shared) => {
            shared::take_away(work, marker, segments, &shared)?;
            segments.len()
        }
    };
    remove_folders(work, segments, depth)
}

/// Removes the directories of the mirror on the way to `segments`, as far as they are empty, from the given depth up.
fn remove_folders(work: &Work<'_>, segments: &[String], depth: usize) -> Result<(), OpError> {
    for length in (1..=depth).rev() {
        let folder = mirror(segments.get(..length).unwrap_or_default());
        if !remove_empty(work, &folder)? {
            break;
        }
    }
    Ok(())
}

/// Removes the file of a place.
fn take_away(work: &Work<'_>, marker: &Marker, segments: &[String]) -> Result<(), OpError> {
    work.ensure_layout()?;
    let leaf = mirror(segments);
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

/// Removes a file of the mirror that tells of this volume. It gets a name of its own first: an unlink that comes late, when the volume is
/// there again, must not remove its file. A rename that comes late is undone by [`put_back_moved`].
fn move_away(work: &Work<'_>, file: &[String], volume: &VolumeName) -> Result<(), OpError> {
    let aside = staged(volume, LEAVING);
    if renamed(work, file, &aside)? {
        work.changes.remove_file(&aside)?;
    }
    Ok(())
}

/// Moves a file; `false` where it is gone.
fn renamed(work: &Work<'_>, from: &[String], to: &[String]) -> Result<bool, OpError> {
    match work.changes.rename(from, to) {
        Ok(()) => Ok(true),
        Err(failure) if is_gone(&failure) => Ok(false),
        Err(failure) => Err(failure.into()),
    }
}

/// Gives a volume back its place, if it is in use and that is not another one's by now.
fn put_back(work: &Work<'_>, aside: &[String], found: &Marker) -> Result<(), OpError> {
    let place = found.archive.as_ref().map_or(&found.segments, |archive| &archive.segments);
    if is_recorded(work, found, place)? {
        tracing::warn!(
            export = work.store.export.name,
            volume = %found.id,
            directory = place.join("/"),
            "the note of a volume's place was moved by a call that came late; it is put back"
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
fn is_recorded(work: &Work<'_>, found: &Marker, place: &[String]) -> Result<bool, OpError> {
    for folder in [VOLUMES, INTENTS, ARCHIVED] {
        let Some(content) = work.root.read_fresh(&record::file(folder, found.id.name()))? else { continue };
        let Ok(marker) = Marker::from_json(&content.bytes) else { return Ok(true) };
        let archived = marker.archive.as_ref().is_some_and(|archive| archive.segments == place);
        let in_use = folder != ARCHIVED && marker.trash.is_none() && marker.segments == place;
        if archived || in_use {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Puts back what late calls moved away from the mirror.
pub(super) fn put_back_moved(work: &Work<'_>) -> Result<(), OpError> {
    for name in work.root.names(&[BASE, STAGING])? {
        let Some(volume) = staged_for(&name).filter(|_| name.ends_with(LEAVING)) else { continue };
        // Whoever works on the volume now may need it.
        let Ok(held) = work.store.hold(&volume) else { continue };
        let aside = [BASE.to_string(), STAGING.to_string(), name];
        let Some(content) = work.root.read_fresh(&aside)? else { continue };
        match Marker::from_json(&content.bytes) {
            Ok(found) => put_back(work, &aside, &found)?,
            Err(_) => {
                work.changes.remove_file(&aside)?;
            }
        }
        drop(held);
    }
    Ok(())
}

/// Removes what broken off changes of the mirror left. For the beginning of a term.
pub(super) fn clear_staging(work: &Work<'_>) -> Result<(), OpError> {
    put_back_moved(work)?;
    for name in work.root.names(&[BASE, STAGING])? {
        let entry = [BASE.to_string(), STAGING.to_string(), name.clone()];
        let broken_off = record::temporary_of(&name);
        let file = broken_off.unwrap_or(&name);
        if file.starts_with(STAGED_IDENTITY) {
            // This process may be giving the export its identity now.
            let _made = work.opened.identity();
            work.changes.remove_file(&entry)?;
            continue;
        }
        let Some(volume) = staged_for(file).filter(|_| !name.ends_with(LEAVING)) else { continue };
        // Whoever works on the volume now may need it.
        let Ok(_held) = work.store.hold(&volume) else { continue };
        if broken_off.is_some() {
            work.changes.remove_file(&entry)?;
        } else if work.root.entry(&entry)? == Entry::Directory {
            shared::clear_stage(work, &entry)?;
        } else {
            work.changes.remove_file(&entry)?;
        }
    }
    Ok(())
}

/// What a file is called that is moved away from the mirror, and a directory that is on its way to it.
const LEAVING: &str = ".leaving";
const COMING: &str = ".coming";

/// A name for the volume that nobody else uses.
fn staged(volume: &VolumeName, kind: &str) -> [String; 3] {
    let name = crate::backend::path::shortened(volume.as_str(), 200);
    [BASE.into(), STAGING.into(), format!("{name}.{:016x}{kind}", random::<u64>())]
}

fn staged_for(name: &str) -> Option<VolumeName> {
    let rest = name.strip_suffix(LEAVING).or(name.strip_suffix(COMING))?;
    rest.rsplit_once('.')?.0.parse().ok()
}

/// A shared place above `segments`. Who has linked something below looks for it. One that nobody is in is removed, so that
/// nobody joins it any more; who founds it again needs an empty directory.
fn above(work: &Work<'_>, segments: &[String]) -> Result<Option<Occupant>, OpError> {
    for length in 1..segments.len() {
        let Some(prefix) = segments.get(..length) else { continue };
        let mut shared = shared::at(work, prefix)?;
        if shared.as_ref().is_some_and(|shared| shared.first().is_none()) {
            shared::clear(work, prefix)?;
            shared = shared::at(work, prefix)?;
        }
        if let Some(shared) = shared {
            // One whose volumes are unknown is about to have one.
            let who = shared.first().flatten();
            return Ok(Some(Occupant { relation: Relation::Above, path: prefix.to_vec(), who }));
        }
    }
    Ok(None)
}

/// Anything above `segments`.
fn above_strictly(work: &Work<'_>, segments: &[String]) -> Result<Option<Occupant>, OpError> {
    for length in 1..segments.len() {
        let Some(prefix) = segments.get(..length) else { continue };
        let who = match node(work, prefix)? {
            Node::Nothing => return Ok(None),
            Node::Folder => continue,
            Node::Volume(who) => Some(who),
            Node::Shared(shared) => shared.first(),
        };
        if let Some(who) = who {
            return Ok(Some(Occupant { relation: Relation::Above, path: prefix.to_vec(), who }));
        }
    }
    Ok(None)
}

/// One of the volumes below `segments`.
fn below(work: &Work<'_>, segments: &[String]) -> Result<Option<Occupant>, OpError> {
    let mut open = vec![segments.to_vec()];
    let mut looks = 0;
    while let Some(folder) = open.pop() {
        for name in names(work, &mirror(&folder))? {
            looks += 1;
            let mut path = folder.clone();
            path.push(name);
            let who = match node(work, &path)? {
                Node::Nothing => continue,
                Node::Volume(who) => who,
                Node::Shared(shared) => match shared.first() {
                    Some(who) => who,
                    None => continue,
                },
                Node::Folder if looks < LOOKS => {
                    open.push(path);
                    continue;
                }
                Node::Folder => None,
            };
            return Ok(Some(Occupant { relation: Relation::Below, path, who }));
        }
    }
    Ok(None)
}

/// A volume of another one's place that never got its own.
fn disputed(work: &Work<'_>, marker: &Marker, segments: &[String]) -> Result<Option<Occupant>, OpError> {
    for file in names(work, &[BASE, DISPUTED])? {
        let Some(name) = record::volume_of(&file) else { continue };
        let who = match work.root.read_fresh(&record::file(DISPUTED, &name))? {
            None => continue,
            Some(content) => Marker::from_json(&content.bytes),
        };
        // What cannot be read protects nothing: the volume's record does, and that is in the way of its own removal.
        let Ok(who) = who else { continue };
        if let Some(relation) = relation(&who.segments, segments)
            && !is_same(work, &who, marker)
        {
            return Ok(Some(Occupant { relation, path: who.segments.clone(), who: Some(Box::new(who)) }));
        }
    }
    Ok(None)
}

/// A recorded volume whose place is perhaps not noted yet, on an export of an older version.
fn unmirrored(work: &Work<'_>, marker: &Marker, segments: &[String]) -> Result<Option<Occupant>, OpError> {
    if work.opened.mirrored.load(Ordering::SeqCst) {
        return Ok(None);
    }
    let overlapping = match work.store.index.overlapping(work, segments, marker.id.name()) {
        Ok(found) => found,
        // What a record that cannot be read protects is a directory: where there is none, it protects nothing.
        Err(OpError::Said(error)) if error.kind() == Kind::Refused => {
            return match work.root.entry(segments)? {
                Entry::Missing => Ok(None),
                Entry::Directory | Entry::Other => Err(error.into()),
            };
        }
        Err(trouble) => return Err(trouble),
    };
    for (name, path) in overlapping {
        let who = match work.record(VOLUMES, &name)? {
            None => work.record(INTENTS, &name)?,
            found => found,
        };
        // It is gone by now, or lies elsewhere.
        let Some(who) = who.filter(|who| who.segments == path) else { continue };
        if let Some(relation) = relation(&path, segments) {
            return Ok(Some(Occupant { relation, path, who: Some(Box::new(who)) }));
        }
    }
    Ok(None)
}

/// How `path` lies to `segments`; `None` where they do not overlap.
fn relation(path: &[String], segments: &[String]) -> Option<Relation> {
    if !path.iter().zip(segments).all(|(a, b)| a == b) {
        return None;
    }
    Some(match path.len().cmp(&segments.len()) {
        std::cmp::Ordering::Less => Relation::Above,
        std::cmp::Ordering::Equal => Relation::Same,
        std::cmp::Ordering::Greater => Relation::Below,
    })
}

/// Looks at one place of the mirror; asks the server.
fn node(work: &Work<'_>, segments: &[String]) -> Result<Node, OpError> {
    let leaf = mirror(segments);
    let seen = match work.root.see_fresh(&leaf) {
        Ok(seen) => seen,
        Err(failure) if is_gone(&failure) => None,
        Err(failure) => return Err(failure.into()),
    };
    match seen.map(|seen| seen.entry) {
        None | Some(Entry::Missing) => Ok(Node::Nothing),
        Some(Entry::Other) => Ok(match work.root.read_fresh(&leaf) {
            Ok(None) => Node::Nothing,
            Ok(Some(content)) => Node::Volume(read(work, &content.bytes)?),
            Err(failure) if is_gone(&failure) => Node::Nothing,
            // A pipe, a link, something huge: it is nobody's, and in the way until a person looks.
            Err(failure)
                if failure.errno().is_none_or(|errno| matches!(errno, Errno::ELOOP | Errno::EFBIG)) =>
            {
                Node::Volume(None)
            }
            Err(failure) => return Err(failure.into()),
        }),
        Some(Entry::Directory) => Ok(shared::at(work, segments)?.map_or(Node::Folder, Node::Shared)),
    }
}

/// Whose a file of the mirror is. One that is not signed may have been signed later: the record tells.
fn read(work: &Work<'_>, bytes: &[u8]) -> Result<Option<Box<Marker>>, OpError> {
    let Ok(noted) = Marker::from_json(bytes) else { return Ok(None) };
    if noted.cluster.is_some() {
        return Ok(Some(Box::new(noted)));
    }
    let Some(content) = work.root.read_fresh(&record::file(VOLUMES, noted.id.name()))? else {
        return Ok(Some(Box::new(noted)));
    };
    let signed = Marker::from_json(&content.bytes).ok();
    let signed = signed.filter(|signed| signed.id == noted.id && signed.segments == noted.segments);
    Ok(Some(Box::new(signed.unwrap_or(noted))))
}

fn is_same(work: &Work<'_>, a: &Marker, b: &Marker) -> bool {
    a.is_same_volume(b, work.cluster().as_ref())
}

/// Makes the directories of the mirror above `segments`.
fn make_folders(work: &Work<'_>, segments: &[String]) -> Result<(), OpError> {
    for length in 1..segments.len() {
        let folder = mirror(segments.get(..length).unwrap_or_default());
        match work.changes.make_directory(&folder, 0o700) {
            Ok(_) => {}
            // What is in the way is found out by the next attempt.
            Err(failure) if is_gone(&failure) => return Ok(()),
            Err(failure) => return Err(failure.into()),
        }
    }
    Ok(())
}

/// Removes the directory `segments` of the mirror and all below it that is empty.
fn clear_empty(work: &Work<'_>, segments: &[String]) -> Result<(), OpError> {
    let mut open = vec![mirror(segments)];
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        if found.len() >= LOOKS {
            break;
        }
        for name in names(work, &folder)? {
            let mut path = folder.clone();
            path.push(name);
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
fn remove_empty(work: &Work<'_>, folder: &[String]) -> Result<bool, OpError> {
    use crate::system::root::Unmade;
    match work.changes.remove_directory(folder) {
        Ok(Unmade::Removed | Unmade::Missing) => Ok(true),
        Ok(Unmade::Occupied) => Ok(false),
        Err(failure) if is_gone(&failure) => Ok(false),
        Err(failure) => Err(failure.into()),
    }
}

/// The names in a directory of ours; none where it is gone.
fn names<S: AsRef<str>>(work: &Work<'_>, folder: &[S]) -> Result<Vec<String>, OpError> {
    match work.root.names(folder) {
        Ok(names) => Ok(names),
        Err(failure) if is_gone(&failure) => Ok(Vec::new()),
        Err(failure) => Err(failure.into()),
    }
}

/// Whether something on the way is gone, or is a file by now.
fn is_gone(failure: &Failure) -> bool {
    matches!(failure.errno(), Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ESTALE))
}

/// Where the place at `segments` is noted.
fn mirror(segments: &[String]) -> Vec<String> {
    let mut path = vec![BASE.to_string(), PLACES.to_string()];
    path.extend_from_slice(segments);
    path
}
