//! Removing a volume: prove that it is ours, move it out of the way by one rename, leave the rest to the trash.
//!
//! The record goes last. Whatever is found half done is finished: each step says by what it leaves behind that it was
//! done. Runs on a thread of the export's pool.

use jiff::Timestamp;

use super::{
    NAME,
    create::{make_parents, remove_parents},
    record::{self, ARCHIVED, Archive, INTENTS, Marker, TRASH, VOLUMES},
    store::{Trouble, Work, said},
};
use crate::{
    backend::{Kind, Removed, path},
    system::root::Entry,
    volume::{Disposal, Origin, Removal, VolumeId, VolumeName},
};

/// How many names are tried for one that is free.
const NAMES: u32 = 1000;

/// Removes the volume at `segments`, which is where its PV says that it lies.
pub(super) fn remove(work: &Work<'_>, removal: &Removal, segments: &[String]) -> Result<Removed, Trouble> {
    let name = &removal.name;
    let marker = match work.marker(VOLUMES, name)? {
        None => work.marker(INTENTS, name)?,
        found => found,
    };
    let there = match work.root.entry(segments)? {
        Entry::Directory => true,
        Entry::Missing => false,
        Entry::Other => {
            let path = segments.join("/");
            return said(
                Kind::Refused,
                format!("{path} is not a directory, but a file or a link; nothing was touched"),
            );
        }
    };
    if there && removal.disposal != Disposal::Keep {
        work.furnish()?;
    }
    let marker = match (marker, &removal.id) {
        (Some(marker), _) => {
            prove(&marker, removal, segments)?;
            marker
        }
        // Nothing is touched, so nothing need be proved.
        (None, _) if removal.disposal == Disposal::Keep => return Ok(Removed::Kept),
        (None, _) if !there => return earlier(work, removal),
        (None, Some(_)) if shared_with_others(work, removal, segments)? => return Ok(Removed::Kept),
        (None, Some(id)) => {
            let file = record::file(VOLUMES, name).join("/");
            let message = format!(
                "the record {file} of volume {id} is missing, so nothing proves that directory {} is its own; restore the \
                 record, or remove the directory and then the PersistentVolume by hand",
                segments.join("/")
            );
            return said(Kind::Refused, message);
        }
        (None, None) => {
            if let Some((other, place)) = work.store.index.overlapping(work, segments, name)?.first() {
                let (path, place) = (segments.join("/"), place.join("/"));
                let message =
                    format!("directory {path} overlaps with {place}, which belongs to volume {other}");
                return said(Kind::Refused, message);
            }
            return remove_unrecorded(work, removal, segments);
        }
    };
    remove_recorded(work, removal, &marker, there)
}

/// Whether the record says the same as the PV.
fn prove(marker: &Marker, removal: &Removal, segments: &[String]) -> Result<(), Trouble> {
    let differs = |what: &str, record: &str, pv: &str| {
        let message = format!(
            "the record of volume {} names the {what} {record}, the PersistentVolume {pv}; nothing was touched. Correct \
             the one that is wrong",
            removal.name
        );
        said(Kind::Refused, message)
    };
    if marker.segments != segments {
        return differs("directory", &marker.segments.join("/"), &segments.join("/"));
    }
    if let Some(id) = &removal.id
        && marker.id != *id
    {
        return differs("id", &marker.id.to_string(), &id.to_string());
    }
    if marker.claim != removal.claim {
        let shown = |claim: &crate::volume::ClaimKey| format!("{claim} (UID {})", claim.uid);
        return differs("claim", &shown(&marker.claim), &shown(&removal.claim));
    }
    Ok(())
}

/// Whether other volumes share the directory: then an earlier call has kept it, and removed the record.
fn shared_with_others(work: &Work<'_>, removal: &Removal, segments: &[String]) -> Result<bool, Trouble> {
    for (other, place) in work.store.index.overlapping(work, segments, &removal.name)? {
        if place == segments && work.marker(VOLUMES, &other)?.is_some_and(|marker| marker.shared) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What an earlier call has made of a volume that has neither a record nor a directory any more.
fn earlier(work: &Work<'_>, removal: &Removal) -> Result<Removed, Trouble> {
    if let Some(archived) = work.marker(ARCHIVED, &removal.name)?
        && archived.claim == removal.claim
        && let Some(archive) = archived.archive
    {
        return Ok(Removed::Archived(archive.segments.join("/")));
    }
    Ok(if in_trash(work, &removal.name)? { Removed::Trashed } else { Removed::Absent })
}

fn in_trash(work: &Work<'_>, name: &VolumeName) -> Result<bool, Trouble> {
    let prefix = format!("{}@", path::shortened(name.as_str(), TRASH_NAME));
    Ok(work.root.names(&[record::BASE, TRASH])?.iter().any(|entry| entry.starts_with(&prefix)))
}

fn remove_recorded(
    work: &Work<'_>,
    removal: &Removal,
    marker: &Marker,
    there: bool,
) -> Result<Removed, Trouble> {
    let name = &removal.name;
    let adopted = marker.origin == Origin::Adopted || removal.origin == Origin::Adopted;
    let mut disposal = match removal.disposal {
        Disposal::Delete if adopted => Disposal::Archive,
        asked => asked,
    };
    if marker.shared && disposal != Disposal::Keep {
        let others = work.store.index.overlapping(work, &marker.segments, name)?;
        if !others.is_empty() {
            disposal = Disposal::Keep;
        }
    }
    let removed = match disposal {
        Disposal::Keep => Removed::Kept,
        Disposal::Delete => {
            let removed = if there {
                to_trash(work, name, &marker.segments)?;
                Removed::Trashed
            } else {
                half_done(work, marker)?
            };
            remove_parents(work, &marker.segments)?;
            removed
        }
        Disposal::Archive => {
            let removed = if there { archive(work, marker)? } else { half_done(work, marker)? };
            remove_parents(work, &marker.segments)?;
            if let Removed::Archived(_) = &removed {
                // The record of the volume becomes the record of the archive.
                let target = record::file(ARCHIVED, name);
                if work.root.entry(&record::file(VOLUMES, name))? != Entry::Missing {
                    work.changes.rename(&record::file(VOLUMES, name), &target)?;
                } else if work.root.entry(&record::file(INTENTS, name))? != Entry::Missing {
                    work.changes.rename(&record::file(INTENTS, name), &target)?;
                }
            }
            removed
        }
    };
    work.changes.remove_file(&record::file(INTENTS, name))?;
    work.changes.remove_file(&record::file(VOLUMES, name))?;
    work.store.index.remove(name, &marker.segments);
    Ok(removed)
}

/// What became of a directory that is gone although its record is there: an earlier call was broken off.
fn half_done(work: &Work<'_>, marker: &Marker) -> Result<Removed, Trouble> {
    if let Some(archive) = &marker.archive
        && work.root.entry(&archive.segments)? == Entry::Directory
    {
        return Ok(Removed::Archived(archive.segments.join("/")));
    }
    Ok(if in_trash(work, marker.id.name())? { Removed::Trashed } else { Removed::Absent })
}

/// Removes the volume of an older provisioner, which has no record.
fn remove_unrecorded(work: &Work<'_>, removal: &Removal, segments: &[String]) -> Result<Removed, Trouble> {
    let name = &removal.name;
    let disposal = match removal.disposal {
        Disposal::Delete if removal.origin == Origin::Adopted => Disposal::Archive,
        asked => asked,
    };
    match disposal {
        Disposal::Keep => Ok(Removed::Kept),
        Disposal::Delete => {
            to_trash(work, name, segments)?;
            Ok(Removed::Trashed)
        }
        Disposal::Archive => {
            let marker = Marker {
                id: VolumeId::new(NAME, &work.store.export.name, name.clone())?,
                segments: segments.to_vec(),
                claim: removal.claim.clone(),
                origin: removal.origin,
                since: Timestamp::now(),
                capacity: 0,
                shared: false,
                cluster: work.store.host.cluster().map(|ids| ids.current().to_owned()),
                uid: Some(removal.provenance.uid.clone()),
                inode: None,
                base: None,
                archive: None,
                trash: None,
            };
            // From its first step on it is like one of ours.
            remove_recorded(work, removal, &marker, true)
        }
    }
}

/// The longest part of a volume's name in the trash: the rest is for the time.
const TRASH_NAME: usize = 220;

fn to_trash(work: &Work<'_>, name: &VolumeName, segments: &[String]) -> Result<(), Trouble> {
    let base = format!("{}@{}", path::shortened(name.as_str(), TRASH_NAME), stamp(Timestamp::now()));
    for number in 1..NAMES {
        let entry = if number == 1 { base.clone() } else { format!("{base}-{number}") };
        let target = [record::BASE, TRASH, &entry];
        if work.root.entry(&target)? == Entry::Missing {
            work.changes.rename(segments, &target)?;
            work.store.trash.added();
            return Ok(());
        }
    }
    said(Kind::Conflict, format!("the trash has no free name for {base}"))
}

/// Moves the directory aside. The target is recorded first, so that a broken off attempt is recognised.
fn archive(work: &Work<'_>, marker: &Marker) -> Result<Removed, Trouble> {
    let chosen = match &marker.archive {
        Some(archive) if free(work, &archive.segments)? => archive.segments.clone(),
        Some(_) | None => {
            let at = Timestamp::now();
            let target = free_target(work, marker, at)?;
            let marker = Marker { archive: Some(Archive { segments: target.clone(), at }), ..marker.clone() };
            let folder = match work.root.entry(&record::file(INTENTS, marker.id.name()))? {
                Entry::Missing => VOLUMES,
                Entry::Directory | Entry::Other => INTENTS,
            };
            work.changes.write(&record::file(folder, marker.id.name()), &marker.to_json())?;
            target
        }
    };
    if !make_parents(work, &chosen)? {
        return said(Kind::Unavailable, "a directory of the archive disappeared while it was made");
    }
    work.changes.rename(&marker.segments, &chosen)?;
    Ok(Removed::Archived(chosen.join("/")))
}

/// A place for the archive where nothing is, and not within anything that we did not make.
fn free_target(work: &Work<'_>, marker: &Marker, at: Timestamp) -> Result<Vec<String>, Trouble> {
    let time = stamp(at);
    for number in 0..NAMES {
        let suffix = match number {
            0 => String::new(),
            1 => format!("-{time}"),
            _ => format!("-{time}-{number}"),
        };
        let target = path::archive_target(&marker.segments, marker.id.name(), &suffix, path::Suffixed::Last);
        if free(work, &target)? {
            return Ok(target);
        }
        if target.len() > 1 && number > 0 {
            let target =
                path::archive_target(&marker.segments, marker.id.name(), &suffix, path::Suffixed::First);
            if free(work, &target)? {
                return Ok(target);
            }
        }
    }
    said(Kind::Conflict, format!("there is no free name for the archive of {}", marker.segments.join("/")))
}

/// Whether nothing is at `segments`, and what is above was made by us as a parent: never within somebody's data.
fn free(work: &Work<'_>, segments: &[String]) -> Result<bool, Trouble> {
    for length in 1..segments.len() {
        let Some(parent) = segments.get(..length) else { continue };
        match work.root.entry(parent)? {
            Entry::Missing => return Ok(true),
            Entry::Directory if work.root.entry(&record::parent_note(parent))? == Entry::Directory => {}
            Entry::Directory | Entry::Other => return Ok(false),
        }
    }
    Ok(work.root.entry(segments)? == Entry::Missing)
}

fn stamp(at: Timestamp) -> String {
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}
