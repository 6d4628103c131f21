//! Leaving a place that is shared: [`leave_shared`].

use super::{
    super::{op_error::OpError, record::Marker, work::ExportOp},
    files::{ATTEMPTS, changed_concurrently, is_same, move_away},
    looks::{Node, Occupant, Relation, node, unmirrored},
    shared::{at, clear, closed, closing_name, member_file, members, own_file, reopen, within},
    take::{left_over, vacate},
};
use crate::{system::root::Placed, volume::RelativePath};

/// What became of a volume that was to leave its place.
#[derive(Debug, Clone)]
pub(in crate::backend::nfs) enum Leaving {
    /// Nobody else is there, and nobody can come until [`vacate`] or [`stay`]: the data may go. Asked again
    /// after the data was moved it must say so again, else a call that was delayed let others in, and the data goes back.
    Last,
    /// Others stay, of which this is one; the data is theirs. The place is given up.
    #[allow(dead_code, reason = "tests ask which one")]
    Others(Occupant),
    /// The volume has no note there, and nobody else has one.
    NotThere,
}

/// Lets the volume of `marker` leave its place at `path`; done before its data is moved. See [`Leaving`].
pub(in crate::backend::nfs) fn leave_shared(
    work: &ExportOp<'_>,
    marker: &Marker,
    path: &RelativePath,
) -> Result<Leaving, OpError> {
    let name = marker.id.name();
    let others = |who: Option<Box<Marker>>| {
        Leaving::Others(Occupant { relation: Relation::Same, path: path.clone(), who })
    };
    // Those of an earlier version have no file there yet.
    if let Some(other) = unmirrored(work, marker, path)?
        && other.relation == Relation::Same
    {
        vacate(work, marker, path)?;
        return Ok(Leaving::Others(other));
    }
    for _ in 0..ATTEMPTS {
        let shared = match node(work, path)? {
            Node::Volume(Some(who)) if is_same(work, &who, marker) => return Ok(Leaving::Last),
            Node::Volume(who) => return Ok(others(who)),
            Node::Nothing | Node::Folder => return Ok(Leaving::NotThere),
            Node::Shared(shared) => shared,
        };
        let Some((folder, closing)) = &shared.folder else {
            clear(work, path)?;
            continue;
        };
        if let Some(closing) = closing
            && !shared.has_name(closing)
        {
            // It has left, and was interrupted before it gave the name back; or its call was delayed.
            reopen(work, path, folder)?;
            continue;
        }
        if !shared.has(work, marker) {
            return Ok(shared.first().map_or(Leaving::NotThere, others));
        }
        if let Some(closing) = closing
            && closing != name
        {
            return closed(work, path, folder, closing);
        }
        let mine = closing_name(name);
        if work.changes.place_directory(&within(path, folder), &within(path, &mine))? != Placed::New {
            continue;
        }
        let Some(members) = members(work, path, &mine)? else { continue };
        // It is not alone where it is not even itself there.
        if !members.iter().any(|(member, _)| member == name) {
            continue;
        }
        let mut other = None;
        for (member, who) in members.into_iter().filter(|(member, _)| member != name) {
            let held = match &who {
                Some(who) => left_over(work, who, path)?,
                None => None,
            };
            if held.is_some() {
                move_away(work, &member_file(path, &mine, &member), &member)?;
            } else {
                other.get_or_insert(who);
            }
        }
        let Some(other) = other else { return Ok(Leaving::Last) };
        move_away(work, &own_file(path, &mine, marker), name)?;
        reopen(work, path, &mine)?;
        return Ok(others(other));
    }
    changed_concurrently(path)
}

/// Gives up leaving: the volume keeps its place, and others may come again.
pub(in crate::backend::nfs) fn stay(
    work: &ExportOp<'_>,
    marker: &Marker,
    path: &RelativePath,
) -> Result<(), OpError> {
    if let Some(shared) = at(work, path)?
        && let Some((folder, Some(closing))) = &shared.folder
        && closing == marker.id.name()
        && shared.has(work, marker)
    {
        reopen(work, path, folder)?;
    }
    Ok(())
}
