//! Making a volume's directory: intent, place, parents, directory, rights.
//!
//! Every step can be the last one before a crash. What is written first is the intent, so that the next attempt, or the
//! sweep, knows what may have been made. Then the place is asked for, which no other volume of any cluster gets from then
//! on, and only then anything is made there. What becomes of an intent is in `commit`. Runs on a thread of the export's
//! pool.

use std::collections::BTreeMap;

use super::{
    class::{Existing, Plan},
    commit::{give_up, undo_intent, write_record},
    export::NAME,
    moves::{Here, here},
    op_error::{OpError, fail},
    parents::make_parents,
    path_pattern,
    places::{self, Occupant, Occupied, Relation},
    prove::{owned, unknown_cluster},
    record::{self, BASE, INTENTS, Marker, PLACES, VOLUMES},
    work::{Rule, Work},
};
use crate::{
    backend::{Kind, quoted},
    system::root::{Entry, Errno, Made, Seen},
    volume::{ClaimKey, Origin, Source, Volume, VolumeId, VolumeName, VolumeRequest},
};

/// How often the work is begun again when directories come and go around it.
const ATTEMPTS: usize = 8;

/// What a creation came to.
#[derive(Debug)]
pub(super) enum Created {
    /// The volume.
    Volume(Box<Volume>),
    /// Its directory was that of this volume, which was made for a claim of the same name in the same cluster. Where its
    /// PV is gone, the creation can be asked for again with that.
    Formerly(VolumeName),
}

/// Makes the volume, or finds it. `gone` has no PV any more.
pub(super) fn create(
    work: &Work<'_>,
    request: &VolumeRequest,
    plan: &Plan,
    gone: Option<&VolumeName>,
) -> Result<Created, OpError> {
    if !plan.unique && work.cluster().is_none() {
        return fail(Kind::Unavailable, unknown_cluster("the directory may be that of another cluster"));
    }
    let identity = work.ensure_layout()?;
    let wanted = wanted(work, request, plan)?;
    let name = &request.name;
    let volume = |origin| {
        let source = Source::Nfs {
            server: work.context.export.server.clone(),
            path: work.context.export.path_of(&wanted.segments),
        };
        let (id, store_identity) = (wanted.id.clone(), identity.clone());
        let record = BTreeMap::new();
        Created::Volume(Box::new(Volume { id, source, capacity: None, origin, store_identity, record }))
    };
    let known = work.marker(VOLUMES, name)?;
    if let Some(known) = &known {
        same_volume(work, known, &wanted)?;
        if look(work, &wanted.segments)?.is_some_and(|seen| seen.entry == Entry::Directory) {
            // An attempt to make the directory once more may have been broken off.
            made_again(work, known)?;
            return Ok(volume(known.origin));
        }
    }
    let mut begun = work.marker(INTENTS, name)?;
    if let Some(earlier) = &begun {
        owned(work, earlier)?;
        if earlier.claim != wanted.claim || earlier.segments != wanted.segments {
            undo_intent(work, earlier)?;
            begun = None;
        }
    }
    for _ in 0..ATTEMPTS {
        let there = look(work, &wanted.segments)?;
        let mut origin = match there.map(|seen| seen.entry) {
            None | Some(Entry::Missing) => Origin::Created,
            Some(Entry::Other) => {
                let path = wanted.segments.join("/");
                return fail(Kind::Conflict, format!("{path} exists on the export and is not a directory"));
            }
            Some(Entry::Directory) => origin_of_existing(work, &wanted, begun.as_ref(), plan)?,
        };
        write_intent(work, &Marker { origin, ..wanted.clone() }, &mut begun)?;
        let intent = record::file(INTENTS, name);
        let marker = begun.as_ref().unwrap_or(&wanted);
        let alone = match places::occupy(work, marker, &intent, &wanted.segments, wanted.shared)? {
            Occupied::Free => true,
            Occupied::Joined(other) => {
                if there.is_some() {
                    origin = other.who.map_or(Origin::Adopted, |who| who.origin);
                    write_intent(work, &Marker { origin, ..wanted.clone() }, &mut begun)?;
                }
                false
            }
            Occupied::Taken(other) => {
                match known {
                    // Whatever is in the way now, its place stays its own.
                    Some(_) => drop(work.changes.remove_file(&intent)?),
                    None => give_up(work, marker)?,
                }
                begun = None;
                if let Some(former) = former(work, &other, &wanted, plan) {
                    if gone != Some(&former) {
                        return Ok(Created::Formerly(former));
                    }
                    forget(work, &former)?;
                    continue;
                }
                return fail(Kind::Conflict, in_the_way(work, &other, &wanted.segments));
            }
        };
        if there.is_some() && here(work, &wanted.segments)? == Here::Nothing {
            // The last of those who shared it removed it before the place was ours.
            continue;
        }
        if there.is_none() {
            if !make_parents(work, &wanted.segments)? {
                continue;
            }
            match work.changes.make_directory(&wanted.segments, 0o777) {
                Ok(Made::New) => {}
                Ok(Made::Existed) => continue,
                // A parent was removed, with the last other volume in it.
                Err(failure) if failure.errno() == Some(Errno::ENOENT) => continue,
                Err(failure) => return Err(failure.into()),
            }
        }
        if origin == Origin::Created && (alone || there.is_none()) {
            work.changes.set_rights(&wanted.segments, plan.mode, plan.uid, plan.gid)?;
        }
        if let Some(known) = &known {
            made_again(work, known)?;
        }
        return Ok(volume(origin));
    }
    let path = wanted.segments.join("/");
    fail(Kind::Unavailable, format!("directory {path} or its parents come and go while the volume is made"))
}

/// Records the directory of a volume that had lost it, where one was made again.
fn made_again(work: &Work<'_>, known: &Marker) -> Result<(), OpError> {
    let intent = record::file(INTENTS, known.id.name());
    if work.root.entry(&intent)? != Entry::Missing {
        write_record(work, known)?;
        work.changes.remove_file(&intent)?;
    }
    Ok(())
}

/// What is recorded of the volume that is asked for.
fn wanted(work: &Work<'_>, request: &VolumeRequest, plan: &Plan) -> Result<Marker, OpError> {
    let id = VolumeId::new(NAME, &work.context.export.name, request.name.clone())?;
    let claim = ClaimKey {
        namespace: request.claim.namespace.clone(),
        name: request.claim.name.clone(),
        uid: request.claim.uid.clone(),
    };
    Ok(Marker {
        capacity: request.capacity.bytes(),
        shared: plan.existing == Existing::Share,
        cluster: work.cluster().map(|ids| ids.current().to_owned()),
        ..Marker::new(id, plan.place.segments.clone(), claim, Origin::Created)
    })
}

/// Writes the intent, unless it says the same already.
fn write_intent(work: &Work<'_>, intent: &Marker, begun: &mut Option<Marker>) -> Result<(), OpError> {
    let same = |begun: &Marker| {
        (begun.origin, begun.shared, &begun.cluster) == (intent.origin, intent.shared, &intent.cluster)
    };
    if !begun.as_ref().is_some_and(same) {
        let name = intent.id.name();
        work.changes.write(&record::file(INTENTS, name), &intent.to_json())?;
        work.context.index.add(name, &intent.segments);
        *begun = Some(intent.clone());
    }
    Ok(())
}

/// What lies in the volume's place. It must be in the file system of the export, since a volume is removed by moving it.
fn look(work: &Work<'_>, segments: &[String]) -> Result<Option<Seen>, OpError> {
    let elsewhere = |prefix: &[String]| {
        let (path, root) = (segments.join("/"), work.root.path().join(prefix.join("/")));
        fail(
            Kind::Refused,
            format!(
                "directory {path} would lie in another file system than the export: {} is a mount, a ZFS dataset or a \
                 btrfs subvolume, and a volume there could not be moved to the trash. Configure it as an export of its \
                 own, or use a pathPattern that does not lead there",
                root.display()
            ),
        )
    };
    let device = work.root.top()?.device;
    // The volume itself, if it is there, says enough.
    for length in (1..=segments.len()).rev() {
        let prefix = segments.get(..length).unwrap_or_default();
        match work.root.see(prefix) {
            Ok(None) => {}
            Ok(Some(seen)) if seen.device == device => return Ok((length == segments.len()).then_some(seen)),
            Ok(Some(_)) => return elsewhere(prefix),
            Err(failure) if failure.errno() == Some(Errno::EXDEV) => {
                let first = (1..=length).find_map(|length| {
                    let prefix = segments.get(..length)?;
                    work.root.see(prefix).is_err().then_some(prefix)
                });
                return elsewhere(first.unwrap_or(prefix));
            }
            Err(failure) => return Err(failure.into()),
        }
    }
    Ok(None)
}

/// Whether a recorded volume is the one that is asked for.
fn same_volume(work: &Work<'_>, known: &Marker, wanted: &Marker) -> Result<(), OpError> {
    owned(work, known)?;
    if known.trash.is_some() {
        return fail(Kind::Busy, format!("volume {} is being removed", known.id.name()));
    }
    if known.claim != wanted.claim {
        let (known, wanted) = (&known.claim, &wanted.claim);
        let message = format!(
            "a volume of this name belongs to claim {known} with UID {}, not to {wanted} with UID {}",
            known.uid, wanted.uid
        );
        return fail(Kind::Conflict, message);
    }
    if known.segments != wanted.segments {
        let message = format!(
            "the volume exists already at {}, and its class or its claim now ask for {}",
            known.segments.join("/"),
            wanted.segments.join("/")
        );
        return fail(Kind::Conflict, message);
    }
    Ok(())
}

/// Whether an existing directory may become the volume's, if its place is free, and as what.
fn origin_of_existing(
    work: &Work<'_>,
    wanted: &Marker,
    begun: Option<&Marker>,
    plan: &Plan,
) -> Result<Origin, OpError> {
    let path = wanted.segments.join("/");
    // Nobody but this claim's earlier attempts, or those of an older provisioner, can have made a directory of this
    // name, or the intent says that there was none when it was written.
    let ours = plan.unique || begun.is_some_and(|begun| begun.origin == Origin::Created);
    let empty = match work.root.is_empty(&wanted.segments) {
        Ok(empty) => empty,
        // One that we cannot read is certainly not one that we made.
        Err(failure) if failure.errno() == Some(Errno::EACCES) => false,
        Err(failure) => return Err(failure.into()),
    };
    if ours && empty {
        return Ok(Origin::Created);
    }
    let archive = wanted.segments.first().is_some_and(|first| path_pattern::is_archive(first))
        && work.context.enforces(Rule::Places);
    if archive && plan.existing != Existing::Refuse {
        let message = format!("directory {path} has the name of an archive, which is never used again");
        return fail(Kind::Conflict, message);
    }
    match plan.existing {
        // Where another volume shares it, that one knows whether it was made.
        Existing::Adopt | Existing::Share => Ok(Origin::Adopted),
        Existing::Refuse => {
            let other = places::occupant(work, &wanted.segments)?;
            let other = other.filter(|other| {
                !other.who.as_ref().is_some_and(|who| who.is_same_volume(wanted, work.cluster().as_ref()))
            });
            let message = match other {
                Some(other) => in_the_way(work, &other, &wanted.segments),
                None => format!(
                    "directory {path} exists already{}; remove it, or let the class allow its use with existingDirectory: \
                     adopt",
                    if empty { "" } else { " and is not empty" }
                ),
            };
            fail(Kind::Conflict, message)
        }
    }
}

/// The volume that `other` is, where the claim has the same name as its claim in the same cluster and the class adopts what
/// is there: the claim was made again, and the volume of the former one was kept.
fn former(work: &Work<'_>, other: &Occupant, wanted: &Marker, plan: &Plan) -> Option<VolumeName> {
    let who = other.who.as_ref().filter(|_| other.relation == Relation::Same)?;
    let ours = work.cluster().is_some_and(|ids| who.cluster.as_ref().is_some_and(|c| ids.include(c)));
    let again = (&who.claim.namespace, &who.claim.name) == (&wanted.claim.namespace, &wanted.claim.name);
    let adopts = plan.existing == Existing::Adopt && who.segments == wanted.segments;
    (ours && again && adopts && who.id.name() != wanted.id.name()).then(|| who.id.name().clone())
}

/// Forgets a volume without a PV whose directory another one takes over.
fn forget(work: &Work<'_>, former: &VolumeName) -> Result<(), OpError> {
    let _held = work.context.hold(former)?;
    let Some(record) = work.marker(VOLUMES, former)? else {
        return fail(Kind::Conflict, format!("the record of volume {former} is gone, and its place is not"));
    };
    if record.archive.is_some() || record.trash.is_some() {
        return fail(Kind::Busy, format!("volume {former} is being removed"));
    }
    // The record first: what is left in the mirror without one is found again, the other way round two would have the place.
    work.changes.remove_file(&record::file(VOLUMES, former))?;
    work.context.index.remove(former, &record.segments);
    places::vacate(work, &record, &record.segments)
}

/// Who is in the way, and what to do.
fn in_the_way(work: &Work<'_>, other: &Occupant, segments: &[String]) -> String {
    let mut text = other.explained(segments);
    match other.relation {
        Relation::Same => text.push_str(
            "; use another directory, or existingDirectory: share in the classes of both to use it together",
        ),
        Relation::Above | Relation::Below => {
            text.push_str("; use a pathPattern with which no volume lies within another one");
        }
    }
    let root = work.root.path();
    let shown = |path: &std::path::Path| quoted(&path.display().to_string());
    let note = shown(&root.join(BASE).join(PLACES).join(other.path.join("/")));
    let remove = match &other.who {
        Some(who) => {
            let record = shown(&root.join(record::file(VOLUMES, who.id.name()).join("/")));
            format!(". If that volume is gone for good: rm {record} {note}")
        }
        None => format!(". If nothing uses it: rm {note}"),
    };
    text.push_str(&remove);
    text
}
