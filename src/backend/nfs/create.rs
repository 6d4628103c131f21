//! Making a volume's directory: intent, parents, directory, rights; and confirming or taking back what was begun.
//!
//! Every step can be the last one before a crash. What is written first is the intent, so that the next attempt, or the
//! sweep, knows what may have been made. Runs on a thread of the export's pool.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    NAME,
    class::{Existing, Plan},
    record::{self, INTENTS, Marker, VOLUMES},
    store::{Trouble, Work, said},
};
use crate::{
    backend::{Kind, Unfinished},
    system::root::{Entry, Errno, Made, Unmade},
    volume::{ClaimKey, Origin, Place, Source, Volume, VolumeId, VolumeName, VolumeRequest},
};

/// How often the work is begun again when directories come and go around it.
const ATTEMPTS: usize = 8;

/// Makes the volume, or finds it.
pub(super) fn create(work: &Work<'_>, request: &VolumeRequest, plan: &Plan) -> Result<Volume, Trouble> {
    let identity = work.furnish()?;
    let name = &request.name;
    let wanted = Marker {
        id: VolumeId::new(NAME, &work.store.export.name, name.clone())?,
        segments: plan.place.segments.clone(),
        claim: ClaimKey {
            namespace: request.claim.namespace.clone(),
            name: request.claim.name.clone(),
            uid: request.claim.uid.clone(),
        },
        origin: Origin::Created,
        since: Timestamp::now(),
        capacity: request.capacity.bytes(),
        shared: plan.existing == Existing::Share,
        cluster: work.store.host.cluster().map(|ids| ids.current().to_owned()),
        uid: None,
        inode: None,
        base: None,
        archive: None,
        trash: None,
    };
    let volume = |origin| Volume {
        id: wanted.id.clone(),
        source: Source::Nfs {
            server: work.store.export.server.clone(),
            path: work.store.export.path_of(&wanted.segments),
        },
        capacity: None,
        origin,
        store_identity: identity.clone(),
        record: BTreeMap::new(),
    };
    if let Some(known) = work.marker(VOLUMES, name)? {
        same_volume(&known, &wanted)?;
        if work.root.entry(&known.segments)? == Entry::Directory {
            return Ok(volume(known.origin));
        }
    }
    let mut begun = work.marker(INTENTS, name)?;
    if let Some(earlier) = &begun
        && (earlier.claim != wanted.claim || earlier.segments != wanted.segments)
    {
        take_back(work, earlier)?;
        begun = None;
    }
    for _ in 0..ATTEMPTS {
        let there = work.root.entry(&wanted.segments)?;
        let (origin, alone) = match there {
            Entry::Missing => (Origin::Created, true),
            Entry::Other => {
                let path = wanted.segments.join("/");
                return said(Kind::Conflict, format!("{path} exists on the export and is not a directory"));
            }
            Entry::Directory => origin_of_existing(work, &wanted, begun.as_ref(), plan)?,
        };
        let intent = Marker { origin, ..wanted.clone() };
        if begun.as_ref().is_none_or(|begun| begun.origin != origin || begun.shared != intent.shared) {
            work.changes.write(&record::file(INTENTS, name), &intent.to_json())?;
            work.store.index.add(name, &intent.segments);
        }
        begun = Some(intent);
        if there == Entry::Missing {
            if !make_parents(work, &wanted.segments)? {
                continue;
            }
            match work.changes.make_directory(&wanted.segments, 0o777) {
                Ok(Made::New) => {}
                Ok(Made::Existed) => continue,
                // A parent was removed meanwhile, with the last other volume in it.
                Err(failure) if failure.errno() == Some(Errno::ENOENT) => continue,
                Err(failure) => return Err(failure.into()),
            }
        }
        if origin == Origin::Created && alone {
            work.changes.set_rights(&wanted.segments, plan.mode, plan.uid, plan.gid)?;
        }
        return Ok(volume(origin));
    }
    let path = wanted.segments.join("/");
    said(Kind::Unavailable, format!("directory {path} or its parents come and go while the volume is made"))
}

/// Whether a recorded volume is the one that is asked for.
fn same_volume(known: &Marker, wanted: &Marker) -> Result<(), Trouble> {
    if known.claim != wanted.claim {
        let (known, wanted) = (&known.claim, &wanted.claim);
        let message = format!(
            "a volume of this name belongs to claim {known} with UID {}, not to {wanted} with UID {}",
            known.uid, wanted.uid
        );
        return said(Kind::Conflict, message);
    }
    if known.segments != wanted.segments {
        let message = format!(
            "the volume exists already at {}, and its class or its claim now ask for {}",
            known.segments.join("/"),
            wanted.segments.join("/")
        );
        return said(Kind::Conflict, message);
    }
    Ok(())
}

/// Decides whose an existing directory is, and whether the claim may have it: alone, or together with others.
fn origin_of_existing(
    work: &Work<'_>,
    wanted: &Marker,
    begun: Option<&Marker>,
    plan: &Plan,
) -> Result<(Origin, bool), Trouble> {
    let path = wanted.segments.join("/");
    // Nobody but this claim's earlier attempts, or those of an older provisioner, can have made a directory of this
    // name, or the intent says that there was none when it was written.
    let ours = plan.unique || begun.is_some_and(|begun| begun.origin == Origin::Created);
    let empty = work.root.is_empty(&wanted.segments);
    let empty = match empty {
        Ok(empty) => empty,
        // One that we cannot read is certainly not one that we made.
        Err(failure) if failure.errno() == Some(Errno::EACCES) => false,
        Err(failure) => return Err(failure.into()),
    };
    if plan.unique && empty {
        return Ok((Origin::Created, true));
    }
    if plan.existing == Existing::Refuse && !(ours && empty) {
        let content = if empty { "" } else { " and is not empty" };
        return said(
            Kind::Conflict,
            format!(
                "directory {path} exists already{content}; remove it, or let the class allow its use with \
                 existingDirectory: adopt"
            ),
        );
    }
    let others = work.store.index.overlapping(work, &wanted.segments, wanted.id.name())?;
    if let Some((other, place)) = others.iter().find(|(_, place)| *place != wanted.segments) {
        let place = place.join("/");
        return said(
            Kind::Conflict,
            format!("directory {path} overlaps with {place}, which belongs to volume {other}"),
        );
    }
    let Some((other, _)) = others.first() else {
        return Ok((if ours && empty { Origin::Created } else { Origin::Adopted }, true));
    };
    let of_other = match work.marker(VOLUMES, other)? {
        None => work.marker(INTENTS, other)?,
        found => found,
    };
    let Some(of_other) = of_other else {
        return said(Kind::Busy, format!("volume {other} in directory {path} is being removed"));
    };
    let again =
        (&of_other.claim.namespace, &of_other.claim.name) == (&wanted.claim.namespace, &wanted.claim.name);
    match plan.existing {
        Existing::Share => Ok((of_other.origin, false)),
        // The claim was made anew, and its former volume, whose record stayed, is no live one: the caller looked.
        Existing::Adopt if again => Ok((Origin::Adopted, false)),
        Existing::Refuse | Existing::Adopt => {
            let message = format!(
                "directory {path} belongs to volume {other} of claim {}; use existingDirectory: share to use it together, \
                 or remove the record {} if that volume is gone",
                of_other.claim,
                record::file(VOLUMES, other).join("/")
            );
            said(Kind::Conflict, message)
        }
    }
}

/// Makes what is missing above a directory, each noted before it is made; `false` where something else interfered.
pub(super) fn make_parents(work: &Work<'_>, segments: &[String]) -> Result<bool, Trouble> {
    let above = segments.split_last().map_or(&[][..], |(_, above)| above);
    if above.is_empty() || work.root.entry(above)? == Entry::Directory {
        return Ok(true);
    }
    for length in 1..=above.len() {
        let Some(parent) = above.get(..length) else { continue };
        match work.root.entry(parent)? {
            Entry::Directory => continue,
            Entry::Missing => {}
            Entry::Other => {
                let path = parent.join("/");
                return said(Kind::Conflict, format!("{path} exists on the export and is not a directory"));
            }
        }
        let note = record::parent_note(parent);
        for depth in 3..=note.len() {
            let Some(step) = note.get(..depth) else { continue };
            if !make_beneath(work, step, 0o700)? {
                return Ok(false);
            }
        }
        if !make_beneath(work, parent, 0o777)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes a directory unless it is there; `false` where the one above it is gone, removed with the last volume in it.
fn make_beneath(work: &Work<'_>, segments: &[String], mode: u32) -> Result<bool, Trouble> {
    match work.changes.make_directory(segments, mode) {
        Ok(Made::New | Made::Existed) => Ok(true),
        Err(failure) if failure.errno() == Some(Errno::ENOENT) => Ok(false),
        Err(failure) => Err(failure.into()),
    }
}

/// Removes the directories above `segments` that we made, as far as they are empty, and the notes of them.
pub(super) fn remove_parents(work: &Work<'_>, segments: &[String]) -> Result<(), Trouble> {
    for length in (1..segments.len()).rev() {
        let Some(parent) = segments.get(..length) else { continue };
        let note = record::parent_note(parent);
        if work.root.entry(&note)? == Entry::Directory {
            if work.changes.remove_directory(parent)? == Unmade::Occupied {
                return Ok(());
            }
            work.changes.remove_directory(&note)?;
        } else if work.root.entry(parent)? != Entry::Missing {
            return Ok(());
        }
        // What is left of the notes is only the way to others.
        for depth in (3..note.len()).rev() {
            let folder = note.get(..depth).unwrap_or_default();
            if work.changes.remove_directory(folder)? == Unmade::Occupied {
                break;
            }
        }
    }
    Ok(())
}

/// Records that the volume is in use.
pub(super) fn confirm(work: &Work<'_>, name: &VolumeName, _uid: &str) -> Result<(), Trouble> {
    match work.changes.rename(&record::file(INTENTS, name), &record::file(VOLUMES, name)) {
        Ok(()) => Ok(()),
        Err(failure) if failure.errno() == Some(Errno::ENOENT) => {
            if work.root.entry(&record::file(VOLUMES, name))? == Entry::Missing {
                return said(Kind::NotFound, format!("there is no record of volume {name} to confirm"));
            }
            Ok(())
        }
        Err(failure) => Err(failure.into()),
    }
}

/// The volumes that were begun and not confirmed, oldest first.
pub(super) fn unfinished(work: &Work<'_>) -> Result<Vec<Unfinished>, Trouble> {
    let mut found = Vec::new();
    for file_name in work.root.names(&[record::BASE, INTENTS])? {
        let Some(name) = record::volume_of(&file_name) else { continue };
        let file = record::file(INTENTS, &name);
        // Gone meanwhile: confirmed or discarded.
        let Some(content) = work.root.read(&file)? else { continue };
        match Marker::from_json(&content.bytes) {
            Ok(marker) => {
                let place = Some(Place { store: work.store.export.name.clone(), segments: marker.segments });
                found.push(Unfinished { id: marker.id, claim: marker.claim, since: content.modified, place });
            }
            Err(why) => {
                let (export, file) = (&work.store.export.name, file.join("/"));
                tracing::warn!(export, file, reason = why, "record of an unfinished volume cannot be read");
            }
        }
    }
    found.sort_by(|a, b| (a.since, &a.id).cmp(&(b.since, &b.id)));
    Ok(found)
}

/// Takes back a volume that was never used.
pub(super) fn discard(work: &Work<'_>, unfinished: &Unfinished) -> Result<(), Trouble> {
    let name = unfinished.id.name();
    if work.marker(VOLUMES, name)?.is_some() {
        return said(Kind::Refused, format!("volume {name} was confirmed; it is in use"));
    }
    let Some(intent) = work.marker(INTENTS, name)? else { return Ok(()) };
    if intent.claim != unfinished.claim {
        let message = format!("volume {name} was begun for claim {} with another UID", intent.claim);
        return said(Kind::Refused, message);
    }
    if let Some(place) = &unfinished.place
        && place.segments != intent.segments
    {
        let begun = intent.segments.join("/");
        return said(Kind::Refused, format!("volume {name} was begun at {begun}, and not at {place}"));
    }
    take_back(work, &intent)
}

/// Removes what an intent made, if nobody has put anything there, and then the intent.
fn take_back(work: &Work<'_>, intent: &Marker) -> Result<(), Trouble> {
    let name = intent.id.name();
    if intent.origin == Origin::Created && work.root.entry(&intent.segments)? != Entry::Missing {
        // Meanwhile somebody else may use the directory that we made.
        let others = work.store.index.overlapping(work, &intent.segments, name)?;
        // The removal itself decides whether it is empty: whatever comes first, content or removal, nothing is lost.
        if others.is_empty() && work.changes.remove_directory(&intent.segments)? == Unmade::Occupied {
            let message = format!(
                "directory {} of unfinished volume {name} is not empty; look at it, then remove it or its content",
                intent.segments.join("/")
            );
            return said(Kind::Refused, message);
        }
    }
    if intent.origin == Origin::Created {
        remove_parents(work, &intent.segments)?;
    }
    work.changes.remove_file(&record::file(INTENTS, name))?;
    work.store.index.remove(name, &intent.segments);
    Ok(())
}
