//! Places that several volumes share: a directory of the mirror with `.berth/open`, in which each volume has a file.
//!
//! Who leaves renames `open` to a name of its own, `closing-<volume>.<random>`, so that nobody joins, and looks whether it
//! is alone. If it is, the data may go, and then the directory. If not, its file goes, and the name is given back.

use rand::random;

use super::{
    ATTEMPTS, COMING, Occupant, Relation, Step, clear_empty, come_and_go, in_the_way, is_gone, is_same,
    left_over, link, make_folders, mirror, move_away, names, read, remove_empty, staged,
    taken_unless_left_over, unmirrored, vacate,
};
use crate::{
    backend::{
        Kind,
        nfs::{
            places::{Node, below, node},
            record::{self, BASE, Marker},
            store::{OpError, Work, fail},
        },
        quoted,
    },
    system::root::Placed,
    volume::VolumeName,
};

/// How often a shared place is looked at before it counts as one that nobody is in.
const LISTINGS: usize = 8;

const OPEN: &str = "open";
const CLOSING: &str = "closing-";

/// Who shares a place.
pub(super) struct Shared {
    /// The directory with their files, and who is closing it; `None` where there is none, since it is being made or removed.
    folder: Option<(String, Option<VolumeName>)>,
    members: Vec<Member>,
}

/// A volume, and what its file says; `None` where that cannot be read.
type Member = (VolumeName, Option<Box<Marker>>);

impl Shared {
    /// One of those who share it; `None` where there is none.
    #[expect(clippy::option_option, reason = "there is one, and what it is may be unknown")]
    pub(super) fn first(&self) -> Option<Option<Box<Marker>>> {
        self.members.first().map(|(_, who)| who.clone())
    }

    /// One of those who share it, other than `marker`.
    #[expect(clippy::option_option, reason = "there is one, and what it is may be unknown")]
    pub(super) fn other(&self, work: &Work<'_>, marker: &Marker) -> Option<Option<Box<Marker>>> {
        let other = |who: &Option<Box<Marker>>| !who.as_ref().is_some_and(|who| is_same(work, who, marker));
        self.members.iter().find(|(_, who)| other(who)).map(|(_, who)| who.clone())
    }

    /// Whether the volume of `marker` is one of them.
    pub(super) fn has(&self, work: &Work<'_>, marker: &Marker) -> bool {
        self.members.iter().any(|(_, who)| who.as_ref().is_some_and(|who| is_same(work, who, marker)))
    }

    fn has_name(&self, name: &VolumeName) -> bool {
        self.members.iter().any(|(member, _)| member == name)
    }
}

/// What became of a volume that was to leave its place.
#[derive(Debug, Clone)]
pub(in crate::backend::nfs) enum Leaving {
    /// Nobody else is there, and nobody can come until [`vacate`] or [`stay`]: the data may go. Asked again
    /// after the data was moved it must say so again, else a call that came late let others in, and the data goes back.
    Last,
    /// Others stay, of which this is one; the data is theirs. The place is given up.
    #[allow(dead_code, reason = "tests ask which one")]
    Others(Occupant),
    /// The volume has no note there, and nobody else has one.
    NotThere,
}

/// Who shares the place at `segments`; `None` where it is not shared.
pub(super) fn at(work: &Work<'_>, segments: &[String]) -> Result<Option<Shared>, OpError> {
    let base = base(segments);
    // The directory may get another name between two looks, and a listing can miss it then.
    for _ in 0..LISTINGS {
        match work.root.see_fresh(&base) {
            Ok(Some(seen)) if seen.entry == crate::system::root::Entry::Directory => {}
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
        if let Some(members) = members(work, segments, &folder.0)? {
            return Ok(Some(Shared { folder: Some(folder), members }));
        }
    }
    Ok(Some(Shared { folder: None, members: Vec::new() }))
}

/// Whose files are in the directory; `None` where it is gone.
fn members(work: &Work<'_>, segments: &[String], folder: &str) -> Result<Option<Vec<Member>>, OpError> {
    let path = within(segments, folder);
    if work.root.see_fresh(&path).is_ok_and(|seen| seen.is_none()) {
        return Ok(None);
    }
    let mut members = Vec::new();
    for file in names(work, &path)? {
        let Some(name) = record::volume_of(&file) else { continue };
        let mut path = path.clone();
        path.push(file);
        let who = match work.root.read_fresh(&path) {
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
    Ok(work.root.see_fresh(&path).is_ok_and(|seen| seen.is_some()).then_some(members))
}

/// Makes the volume one of those who share the place, or the first of them.
pub(super) fn join(
    work: &Work<'_>,
    marker: &Marker,
    link_of: &[String],
    segments: &[String],
) -> Result<Step, OpError> {
    let own = own_file(segments, OPEN, marker);
    match link(work, link_of, &own)? {
        Placed::New => return joined(work, marker, segments, true),
        Placed::Taken => {
            let who = match work.root.read_fresh(&own)? {
                None => return Ok(Step::Again),
                Some(content) => read(work, &content.bytes)?,
            };
            if who.as_ref().is_some_and(|who| is_same(work, who, marker)) {
                return joined(work, marker, segments, false);
            }
            return Ok(Step::Taken(Occupant { relation: Relation::Same, path: segments.to_vec(), who }));
        }
        Placed::Gone | Placed::NotADirectory | Placed::Unsupported => {}
    }
    match node(work, segments)? {
        Node::Volume(_) => in_the_way(work, marker, segments),
        Node::Nothing => begin(work, marker, link_of, segments),
        Node::Folder => match below(work, segments)? {
            Some(occupant) => taken_unless_left_over(work, occupant),
            None => begin(work, marker, link_of, segments),
        },
        Node::Shared(shared) => match &shared.folder {
            Some((_, None)) if shared.has_name(marker.id.name()) => joined(work, marker, segments, false),
            // There are no links; it is known by now that nobody has the name.
            Some((_, None)) => {
                let aside = staged(marker.id.name(), COMING);
                work.changes.write(&aside, &marker.to_json())?;
                match work.changes.rename(&aside, &own) {
                    Ok(()) => joined(work, marker, segments, true),
                    Err(failure) if is_gone(&failure) => Ok(Step::Again),
                    Err(failure) => Err(failure.into()),
                }
            }
            Some((folder, Some(closing))) => {
                if closing != marker.id.name() && shared.has_name(closing) {
                    return closed(work, segments, folder, closing);
                }
                reopen(work, segments, folder)?;
                Ok(Step::Again)
            }
            None => {
                clear_empty(work, segments)?;
                Ok(Step::Again)
            }
        },
    }
}

fn begin(work: &Work<'_>, marker: &Marker, link_of: &[String], segments: &[String]) -> Result<Step, OpError> {
    match found(work, marker, link_of, segments)? {
        Placed::New => joined(work, marker, segments, true),
        Placed::Gone | Placed::Unsupported => Ok(Step::Again),
        Placed::Taken => {
            // Somebody joined or came below, or what is there is only left over.
            clear_empty(work, segments)?;
            Ok(Step::Again)
        }
        Placed::NotADirectory => in_the_way(work, marker, segments),
    }
}

/// Looks once more whether the volume is really there, and with whom.
fn joined(work: &Work<'_>, marker: &Marker, segments: &[String], new: bool) -> Result<Step, OpError> {
    let name = marker.id.name();
    let Some(shared) = at(work, segments)? else { return Ok(Step::Again) };
    match &shared.folder {
        Some((_, None)) if shared.has_name(name) => {}
        // It came while the place was being closed: who closes has perhaps not seen it.
        Some((folder, Some(_))) if new => {
            move_away(work, &own_file(segments, folder, marker), name)?;
            return Ok(Step::Again);
        }
        Some(_) | None => return Ok(Step::Again),
    }
    let mut with = None;
    for (_, who) in shared.members.iter().filter(|(member, _)| member != name) {
        let other = Occupant { relation: Relation::Same, path: segments.to_vec(), who: who.clone() };
        if !marker.shared || !who.as_ref().is_some_and(|who| who.shared) {
            if new {
                move_away(work, &own_file(segments, OPEN, marker), name)?;
            }
            return taken_unless_left_over(work, other);
        }
        with.get_or_insert(other);
    }
    Ok(Step::Ours { with, new })
}

/// Makes a place with the volume in it, where nothing is yet.
pub(super) fn found(
    work: &Work<'_>,
    marker: &Marker,
    link_of: &[String],
    segments: &[String],
) -> Result<Placed, OpError> {
    make_folders(work, segments)?;
    let stage = staged(marker.id.name(), COMING);
    let mut path = stage.to_vec();
    work.changes.make_directory(&path, 0o700)?;
    for folder in [BASE, OPEN] {
        path.push(folder.to_string());
        work.changes.make_directory(&path, 0o700)?;
    }
    path.push(format!("{}.json", marker.id.name()));
    match link(work, link_of, &path)? {
        Placed::New => {}
        Placed::Unsupported => work.changes.write(&path, &marker.to_json())?,
        other @ (Placed::Taken | Placed::Gone | Placed::NotADirectory) => {
            clear_stage(work, &stage)?;
            return Ok(other);
        }
    }
    let placed = work.changes.place_directory(&stage, &mirror(segments))?;
    if placed != Placed::New {
        clear_stage(work, &stage)?;
    } else if !at(work, segments)?.is_some_and(|shared| shared.has_name(marker.id.name())) {
        // Another cluster that begins to lead has cleared it away before it was moved.
        return Ok(Placed::Gone);
    }
    Ok(placed)
}

/// Removes what makes the place a shared one, if nobody is in it.
pub(super) fn clear(work: &Work<'_>, segments: &[String]) -> Result<(), OpError> {
    for folder in names(work, &base(segments))? {
        remove_empty(work, &within(segments, &folder))?;
    }
    remove_empty(work, &base(segments))?;
    Ok(())
}

/// Removes a directory that was to become a place.
pub(super) fn clear_stage(work: &Work<'_>, stage: &[String]) -> Result<(), OpError> {
    let mut path = stage.to_vec();
    path.extend([BASE.to_string(), OPEN.to_string()]);
    for file in names(work, &path)? {
        let mut file_path = path.clone();
        file_path.push(file);
        work.changes.remove_file(&file_path)?;
    }
    for length in (stage.len()..=path.len()).rev() {
        remove_empty(work, path.get(..length).unwrap_or_default())?;
    }
    Ok(())
}

/// Lets the volume of `marker` leave its place at `segments`; done before its data is moved. See [`Leaving`].
pub(in crate::backend::nfs) fn leave_shared(
    work: &Work<'_>,
    marker: &Marker,
    segments: &[String],
) -> Result<Leaving, OpError> {
    let name = marker.id.name();
    let others = |who: Option<Box<Marker>>| {
        Leaving::Others(Occupant { relation: Relation::Same, path: segments.to_vec(), who })
    };
    // Those of an earlier version have no file there yet.
    if let Some(other) = unmirrored(work, marker, segments)?
        && other.relation == Relation::Same
    {
        vacate(work, marker, segments)?;
        return Ok(Leaving::Others(other));
    }
    for _ in 0..ATTEMPTS {
        let shared = match node(work, segments)? {
            Node::Volume(Some(who)) if is_same(work, &who, marker) => return Ok(Leaving::Last),
            Node::Volume(who) => return Ok(others(who)),
            Node::Nothing | Node::Folder => return Ok(Leaving::NotThere),
            Node::Shared(shared) => shared,
        };
        let Some((folder, closing)) = &shared.folder else {
            clear(work, segments)?;
            continue;
        };
        if let Some(closing) = closing
            && !shared.has_name(closing)
        {
            // It has left, and was broken off before it gave the name back; or its call came late.
            reopen(work, segments, folder)?;
            continue;
        }
        if !shared.has(work, marker) {
            return Ok(shared.first().map_or(Leaving::NotThere, others));
        }
        if let Some(closing) = closing
            && closing != name
        {
            return closed(work, segments, folder, closing);
        }
        let mine = self::closing(name);
        if work.changes.place_directory(&within(segments, folder), &within(segments, &mine))? != Placed::New {
            continue;
        }
        let Some(members) = members(work, segments, &mine)? else { continue };
        // It is not alone where it is not even itself there.
        if !members.iter().any(|(member, _)| member == name) {
            continue;
        }
        let mut other = None;
        for (member, who) in members.into_iter().filter(|(member, _)| member != name) {
            let held = match &who {
                Some(who) => left_over(work, who, segments)?,
                None => None,
            };
            if held.is_some() {
                move_away(work, &member_file(segments, &mine, &member), &member)?;
            } else {
                other.get_or_insert(who);
            }
        }
        let Some(other) = other else { return Ok(Leaving::Last) };
        move_away(work, &own_file(segments, &mine, marker), name)?;
        reopen(work, segments, &mine)?;
        return Ok(others(other));
    }
    come_and_go(segments)
}

/// Gives up leaving: the volume keeps its place, and others may come again.
pub(in crate::backend::nfs) fn stay(
    work: &Work<'_>,
    marker: &Marker,
    segments: &[String],
) -> Result<(), OpError> {
    if let Some(shared) = at(work, segments)?
        && let Some((folder, Some(closing))) = &shared.folder
        && closing == marker.id.name()
        && shared.has(work, marker)
    {
        reopen(work, segments, folder)?;
    }
    Ok(())
}

/// Removes the file of the volume, wherever it is, and what is empty then.
pub(super) fn take_away(
    work: &Work<'_>,
    marker: &Marker,
    segments: &[String],
    shared: &Shared,
) -> Result<(), OpError> {
    let Some((folder, closing)) = &shared.folder else {
        clear_empty(work, segments)?;
        return Ok(());
    };
    if shared.has(work, marker) {
        move_away(work, &own_file(segments, folder, marker), marker.id.name())?;
    }
    let path = within(segments, folder);
    if remove_empty(work, &path)? {
        remove_empty(work, &base(segments))?;
    } else if closing.as_ref() == Some(marker.id.name()) {
        // Somebody came too late to be seen, and waits.
        reopen(work, segments, folder)?;
    }
    Ok(())
}

/// A name that no call of an earlier process knows.
fn closing(name: &VolumeName) -> String {
    format!("{CLOSING}{name}.{:016x}", random::<u64>())
}

fn reopen(work: &Work<'_>, segments: &[String], folder: &str) -> Result<(), OpError> {
    work.changes.place_directory(&within(segments, folder), &within(segments, OPEN))?;
    Ok(())
}

fn closed<T>(work: &Work<'_>, segments: &[String], folder: &str, closing: &VolumeName) -> Result<T, OpError> {
    let root = work.root.path();
    let (from, to) =
        (root.join(within(segments, folder).join("/")), root.join(within(segments, OPEN).join("/")));
    fail(
        Kind::Busy,
        format!(
            "volume {closing} is leaving the shared directory {}; if its cluster is gone for good: mv {} {}",
            segments.join("/"),
            quoted(&from.display().to_string()),
            quoted(&to.display().to_string())
        ),
    )
}

fn base(segments: &[String]) -> Vec<String> {
    let mut path = mirror(segments);
    path.push(BASE.to_string());
    path
}

fn within(segments: &[String], folder: &str) -> Vec<String> {
    let mut path = base(segments);
    path.push(folder.to_string());
    path
}

fn own_file(segments: &[String], folder: &str, marker: &Marker) -> Vec<String> {
    member_file(segments, folder, marker.id.name())
}

fn member_file(segments: &[String], folder: &str, name: &VolumeName) -> Vec<String> {
    let mut path = within(segments, folder);
    path.push(format!("{name}.json"));
    path
}
