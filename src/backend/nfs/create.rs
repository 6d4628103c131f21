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
    moves::{PathState, path_state},
    op_error::{OpError, fail},
    parents::make_parents,
    path_pattern,
    places::{self, Occupant, Occupied, Relation},
    prove::{owned, unknown_cluster},
    record::{self, BASE, INTENTS, Marker, PLACES, VOLUMES},
    work::{ExportOp, Rule},
};
use crate::{
    backend::{Kind, quoted},
    system::root::{Entry, Errno, Made, Seen},
    volume::{Origin, RelativePath, Source, Volume, VolumeId, VolumeName, VolumeRequest},
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
    work: &ExportOp<'_>,
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
            path: work.context.export.path_of(&wanted.path),
        };
        let (id, store_identity) = (wanted.id.clone(), identity.clone());
        let record = BTreeMap::new();
        Created::Volume(Box::new(Volume { id, source, capacity: None, origin, store_identity, record }))
    };
    let known = work.marker(VOLUMES, name)?;
    if let Some(known) = &known {
        same_volume(work, known, &wanted)?;
        if look(work, &wanted.path)?.is_some_and(|seen| seen.entry == Entry::Directory) {
            // An attempt to make the directory once more may have been interrupted.
            made_again(work, known)?;
            return Ok(volume(known.origin));
        }
    }
    let mut begun = work.marker(INTENTS, name)?;
    if let Some(earlier) = &begun {
        owned(work, earlier)?;
        if earlier.claim != wanted.claim || earlier.path != wanted.path {
            undo_intent(work, earlier)?;
            begun = None;
        }
    }
    let mut creation = Creation { work, wanted: &wanted, plan, gone, known, begun };
    for _ in 0..ATTEMPTS {
        match creation.attempt()? {
            Attempt::Made(origin) => return Ok(volume(origin)),
            Attempt::Formerly(former) => return Ok(Created::Formerly(former)),
            Attempt::Again => {}
        }
    }
    let path = &wanted.path;
    fail(
        Kind::Unavailable,
        format!("directory {path} or its parents kept changing during the creation of the volume"),
    )
}

/// The creation of a volume that has no directory yet.
struct Creation<'a> {
    work: &'a ExportOp<'a>,
    wanted: &'a Marker,
    plan: &'a Plan,
    gone: Option<&'a VolumeName>,
    /// The record of the volume, where it is in use and has lost its directory.
    known: Option<Marker>,
    /// The intent as it was written last.
    begun: Option<Marker>,
}

/// What one attempt came to.
enum Attempt {
    /// The directory is the volume's.
    Made(Origin),
    /// Something changed under it.
    Again,
    /// As [`Created::Formerly`].
    Formerly(VolumeName),
}

impl Creation<'_> {
    fn attempt(&mut self) -> Result<Attempt, OpError> {
        let (work, wanted, plan) = (self.work, self.wanted, self.plan);
        let path = &wanted.path;
        let there = look(work, path)?;
        let mut origin = match there.map(|seen| seen.entry) {
            None | Some(Entry::Missing) => Origin::Created,
            Some(Entry::Other) => {
                return fail(Kind::Conflict, format!("{path} exists on the export and is not a directory"));
            }
            Some(Entry::Directory) => origin_of_existing(work, wanted, self.begun.as_ref(), plan)?,
        };
        self.write_intent(origin)?;
        let intent = record::file(INTENTS, wanted.id.name());
        let marker = self.begun.as_ref().unwrap_or(wanted);
        let alone = match places::occupy(work, marker, &intent, path, wanted.shared)? {
            Occupied::Free => true,
            Occupied::Joined(other) => {
                if there.is_some() {
                    origin = other.who.map_or(Origin::Adopted, |who| who.origin);
                    self.write_intent(origin)?;
                }
                false
            }
            Occupied::Taken(other) => return self.taken(&other),
        };
        if there.is_some() {
            if path_state(work, path)? == PathState::Nothing {
                // The last of those who shared it removed it before the place was ours.
                return Ok(Attempt::Again);
            }
        } else if !make_directory(work, path)? {
            return Ok(Attempt::Again);
        }
        if origin == Origin::Created && (alone || there.is_none()) {
            work.changes.set_rights(path, plan.mode, plan.uid, plan.gid)?;
        }
        if let Some(known) = &self.known {
            made_again(work, known)?;
        }
        Ok(Attempt::Made(origin))
    }

    /// Gives up the intent, since the place is taken; where it is that of a volume whose PV is gone, that one is forgotten.
    fn taken(&mut self, other: &Occupant) -> Result<Attempt, OpError> {
        let (work, wanted) = (self.work, self.wanted);
        match self.known {
            // Whatever is in the way now, its place stays its own.
            Some(_) => drop(work.changes.remove_file(&record::file(INTENTS, wanted.id.name()))?),
            None => give_up(work, self.begun.as_ref().unwrap_or(wanted))?,
        }
        self.begun = None;
        match former(work, other, wanted, self.plan) {
            Some(former) if self.gone == Some(&former) => {
                forget(work, &former)?;
                Ok(Attempt::Again)
            }
            Some(former) => Ok(Attempt::Formerly(former)),
            None => fail(Kind::Conflict, in_the_way(work, other, &wanted.path)),
        }
    }

    /// Writes the intent, unless it says the same already.
    fn write_intent(&mut self, origin: Origin) -> Result<(), OpError> {
        let intent = Marker { origin, ..self.wanted.clone() };
        let same = |begun: &Marker| {
            (begun.origin, begun.shared, &begun.cluster) == (intent.origin, intent.shared, &intent.cluster)
        };
        if !self.begun.as_ref().is_some_and(same) {
            let name = intent.id.name();
            self.work.changes.write(&record::file(INTENTS, name), &intent.to_json())?;
            self.work.context.index.add(name, &intent.path);
            self.begun = Some(intent);
        }
        Ok(())
    }
}

/// Makes the directory and what is missing above it; `false` where something interfered.
fn make_directory(work: &ExportOp<'_>, path: &RelativePath) -> Result<bool, OpError> {
    if !make_parents(work, path)? {
        return Ok(false);
    }
    match work.changes.make_directory(path, 0o777) {
        Ok(made) => Ok(made == Made::New),
        // A parent was removed, with the last other volume in it.
        Err(failure) if failure.errno() == Some(Errno::ENOENT) => Ok(false),
        Err(failure) => Err(failure.into()),
    }
}

/// Records the directory of a volume that had lost it, where one was made again.
fn made_again(work: &ExportOp<'_>, known: &Marker) -> Result<(), OpError> {
    let intent = record::file(INTENTS, known.id.name());
    if work.root.entry(&intent)? != Entry::Missing {
        write_record(work, known)?;
        work.changes.remove_file(&intent)?;
    }
    Ok(())
}

/// What is recorded of the volume that is asked for.
fn wanted(work: &ExportOp<'_>, request: &VolumeRequest, plan: &Plan) -> Result<Marker, OpError> {
    let id = VolumeId::new(NAME, &work.context.export.name, request.name.clone())?;
    Ok(Marker {
        capacity: request.capacity.bytes(),
        shared: plan.existing == Existing::Share,
        cluster: work.signature(),
        ..Marker::new(id, plan.place.path.clone(), request.claim.key(), Origin::Created)
    })
}

/// What lies in the volume's place. It must be in the file system of the export, since a volume is removed by moving it.
fn look(work: &ExportOp<'_>, path: &RelativePath) -> Result<Option<Seen>, OpError> {
    let elsewhere = |prefix: &[String]| {
        let root = work.root.path().join(prefix.join("/"));
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
    for length in (1..=path.len()).rev() {
        let prefix = path.get(..length).unwrap_or_default();
        match work.root.see(prefix) {
            Ok(None) => {}
            Ok(Some(seen)) if seen.device == device => return Ok((length == path.len()).then_some(seen)),
            Ok(Some(_)) => return elsewhere(prefix),
            Err(failure) if failure.errno() == Some(Errno::EXDEV) => {
                let first = (1..=length).find_map(|length| {
                    let prefix = path.get(..length)?;
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
fn same_volume(work: &ExportOp<'_>, known: &Marker, wanted: &Marker) -> Result<(), OpError> {
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
    if known.path != wanted.path {
        let message = format!(
            "the volume exists already at {}, and its class or its claim now ask for {}",
            known.path, wanted.path
        );
        return fail(Kind::Conflict, message);
    }
    Ok(())
}

/// Whether an existing directory may become the volume's, if its place is free, and as what.
fn origin_of_existing(
    work: &ExportOp<'_>,
    wanted: &Marker,
    begun: Option<&Marker>,
    plan: &Plan,
) -> Result<Origin, OpError> {
    let path = &wanted.path;
    // Nobody but this claim's earlier attempts, or those of an older provisioner, can have made a directory of this
    // name, or the intent says that there was none when it was written.
    let ours = plan.unique || begun.is_some_and(|begun| begun.origin == Origin::Created);
    let empty = match work.root.is_empty(&wanted.path) {
        Ok(empty) => empty,
        // One that we cannot read is certainly not one that we made.
        Err(failure) if failure.errno() == Some(Errno::EACCES) => false,
        Err(failure) => return Err(failure.into()),
    };
    if ours && empty {
        return Ok(Origin::Created);
    }
    let archive = wanted.path.first().is_some_and(|first| path_pattern::is_archive(first))
        && work.context.enforces(Rule::Places);
    if archive && plan.existing != Existing::Refuse {
        let message = format!("directory {path} has the name of an archive, which is never used again");
        return fail(Kind::Conflict, message);
    }
    match plan.existing {
        // Where another volume shares it, that one knows whether it was made.
        Existing::Adopt | Existing::Share => Ok(Origin::Adopted),
        Existing::Refuse => {
            let other = places::occupant(work, &wanted.path)?;
            let other = other.filter(|other| {
                !other.who.as_ref().is_some_and(|who| who.is_same_volume(wanted, work.cluster().as_ref()))
            });
            let message = match other {
                Some(other) => in_the_way(work, &other, &wanted.path),
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
fn former(work: &ExportOp<'_>, other: &Occupant, wanted: &Marker, plan: &Plan) -> Option<VolumeName> {
    let who = other.who.as_ref().filter(|_| other.relation == Relation::Same)?;
    let ours = work.cluster().is_some_and(|ids| who.cluster.as_ref().is_some_and(|c| ids.include(c)));
    let again = (&who.claim.namespace, &who.claim.name) == (&wanted.claim.namespace, &wanted.claim.name);
    let adopts = plan.existing == Existing::Adopt && who.path == wanted.path;
    (ours && again && adopts && who.id.name() != wanted.id.name()).then(|| who.id.name().clone())
}

/// Forgets a volume without a PV whose directory another one takes over.
fn forget(work: &ExportOp<'_>, former: &VolumeName) -> Result<(), OpError> {
    let _held = work.context.try_lock(former)?;
    let Some(record) = work.marker(VOLUMES, former)? else {
        return fail(Kind::Conflict, format!("the record of volume {former} is gone, and its place is not"));
    };
    if record.archive.is_some() || record.trash.is_some() {
        return fail(Kind::Busy, format!("volume {former} is being removed"));
    }
    // The record first: what is left in the mirror without one is found again, the other way round two would have the place.
    work.changes.remove_file(&record::file(VOLUMES, former))?;
    work.context.index.remove(former, &record.path);
    places::vacate(work, &record, &record.path)
}

/// Who is in the way, and what to do.
fn in_the_way(work: &ExportOp<'_>, other: &Occupant, path: &RelativePath) -> String {
    let mut text = other.explained(path);
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
    let note = shown(&root.join(BASE).join(PLACES).join(other.path.to_string()));
    let remove = match &other.who {
        Some(who) => {
            let record = shown(&root.join(record::file(VOLUMES, who.id.name()).to_string()));
            format!(". If that volume is gone for good: rm {record} {note}")
        }
        None => format!(". If nothing uses it: rm {note}"),
    };
    text.push_str(&remove);
    text
}
