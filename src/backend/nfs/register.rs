//! Recording whose a volume is that is in use: one of an older provisioner, one of an earlier version of berth, one whose
//! record was lost.
//!
//! From then on its removal is proved by its record, and every cluster sees its place. What another cluster has recorded is
//! left alone, unless an administrator took it over. Runs on a thread of the export's pool.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering},
};

use rand::random;

use super::{
    commit::write_record,
    legacy,
    op_error::{OpError, fail},
    places::{self, Occupant, Occupied, Relation},
    prove::{self, PvVolume, unknown_cluster},
    record::{self, BASE, DISPUTED, INTENTS, Marker, STAGING, UNSIGNED, VOLUMES},
    store::Store,
    work::ExportOp,
};
use crate::{
    backend::{Error, Kind, KnownVolume},
    system::root::{Entry, Errno},
    volume::{InUse, Permit, RelativePath, VolumeName},
};

/// So many records are read in one piece.
const PIECE: usize = 128;

/// Which of `volumes` have no record, or one that does not say of which cluster they are. Two listings; as long as this
/// process has not read all records (`upgrade`) those of the volumes are read as well.
pub(super) async fn unregistered(
    store: &Arc<Store>,
    volumes: &[KnownVolume],
) -> Result<Vec<VolumeName>, Error> {
    // Nothing could be signed.
    if store.kube.cluster_ids().is_none() {
        return Ok(Vec::new());
    }
    let (permit, volumes) = (Permit::unlimited(), volumes.to_vec());
    let (mut unknown, recorded) =
        store.run("list recorded volumes".into(), None, &permit, move |work| list(work, &volumes)).await?;
    if store.read_through.load(Ordering::SeqCst) {
        return Ok(unknown);
    }
    for piece in recorded.chunks(PIECE) {
        let piece = piece.to_vec();
        let unsigned =
            move |work: &ExportOp<'_>| Ok(piece.into_iter().filter(|name| is_unsigned(work, name)).collect());
        let found: Vec<VolumeName> = store.run("read the records".into(), None, &permit, unsigned).await?;
        unknown.extend(found);
    }
    Ok(unknown)
}

/// Whether the record does not say of which cluster the volume is. One that cannot be read cannot be signed.
fn is_unsigned(work: &ExportOp<'_>, name: &VolumeName) -> bool {
    matches!(work.record(VOLUMES, name), Ok(Some(record)) if record.cluster.is_none())
}

/// Those of `volumes` that are known to be unrecorded or unsigned, and the others.
fn list(work: &ExportOp<'_>, volumes: &[KnownVolume]) -> Result<(Vec<VolumeName>, Vec<VolumeName>), OpError> {
    let listed = |folder: &str| -> Result<BTreeSet<VolumeName>, OpError> {
        let names = work.root.names(&[BASE, folder])?;
        Ok(names.iter().filter_map(|name| record::volume_of(name)).collect())
    };
    let (recorded, unsigned) = (listed(VOLUMES)?, listed(UNSIGNED)?);
    let unknown = |name: &VolumeName| !recorded.contains(name) || unsigned.contains(name);
    Ok(volumes.iter().map(|volume| volume.name.clone()).partition(unknown))
}

/// Records the volume, which lies at `path`.
pub(super) fn register(work: &ExportOp<'_>, volume: &InUse, path: &RelativePath) -> Result<(), OpError> {
    let Some(ids) = work.cluster() else {
        return fail(Kind::Unavailable, unknown_cluster("a volume cannot be recorded as one of it"));
    };
    match work.root.entry(path) {
        Ok(Entry::Directory) => {}
        Ok(Entry::Missing | Entry::Other) => {
            return fail(Kind::NotFound, format!("there is no directory {path} on the export"));
        }
        // It is in a file system below the export, where nothing more can be told of it.
        Err(failure) if failure.errno() == Some(Errno::EXDEV) => {}
        Err(failure) => return Err(failure.into()),
    }
    work.ensure_layout()?;
    let known = match work.marker(VOLUMES, &volume.name)? {
        None => work.marker(INTENTS, &volume.name)?,
        found => found,
    };
    if let Some(known) = &known {
        prove(work, known, volume, path)?;
        if known.trash.is_some() {
            return fail(Kind::Busy, format!("volume {} is being removed", volume.name));
        }
    }
    let former = known.clone();
    let known = if let Some(known) = known {
        known
    } else {
        let id = legacy::id(work, &volume.name)?;
        let capacity = volume.capacity.bytes();
        Marker { capacity, ..Marker::new(id, path.clone(), volume.claim.clone(), volume.origin) }
    };
    let marker = Marker {
        claim: volume.claim.clone(),
        cluster: Some(ids.current().to_owned()),
        uid: volume.pv_metadata.known_uid().map(String::from),
        ..known
    };
    if let Some(former) = former
        && !former.is_same_volume(&marker, Some(&ids))
    {
        // It was taken over: its place is noted as that of its former owner.
        places::vacate(work, &former, path)?;
    }
    let other = take_place(work, &marker)?;
    write_record(work, &marker)?;
    work.changes.remove_file(&record::file(UNSIGNED, &volume.name))?;
    work.changes.remove_file(&record::file(INTENTS, &volume.name))?;
    match other {
        None => Ok(()),
        Some(other) => fail(
            Kind::Refused,
            format!(
                "{}. The volume is recorded and can be used; neither of both can be deleted or archived while the other one \
                 is there. Set persistentVolumeReclaimPolicy Retain on the PersistentVolume that is to go first",
                other.explained(path)
            ),
        ),
    }
}

/// Whether the record is of this volume: of an object with this UID, of this cluster, of the same claim where it does not say
/// of which cluster it is, or taken over by an administrator.
fn prove(work: &ExportOp<'_>, known: &Marker, volume: &InUse, path: &RelativePath) -> Result<(), OpError> {
    let name = &volume.name;
    if known.path != *path {
        let (record, pv) = (&known.path, path);
        return fail(
            Kind::Refused,
            format!(
                "the record of volume {name} names the directory {record}, the PersistentVolume {pv}; correct the one \
                     that is wrong"
            ),
        );
    }
    if known.cluster.is_none() && known.claim.uid == volume.claim.uid {
        return Ok(());
    }
    let file = record::file(VOLUMES, name).to_string();
    let cluster = work.cluster();
    let pv_volume = PvVolume { name, pv_metadata: &volume.pv_metadata, cluster: cluster.as_ref() };
    Ok(prove::owner(&file, known, pv_volume)?)
}

/// Notes the place of the volume; tells who has it, or something above or below it.
fn take_place(work: &ExportOp<'_>, marker: &Marker) -> Result<Option<Occupant>, OpError> {
    let (name, path) = (marker.id.name(), &marker.path);
    if !places::holds(work, marker, path)? {
        // A record without a place would prove a volume in which another one lies: it is written afterwards.
        let aside = record::ours([STAGING, &format!("{name}.{:016x}.coming", random::<u64>())]);
        work.changes.write(&aside, &marker.to_json())?;
        let occupied = places::occupy_recorded(work, marker, &aside, path, marker.shared);
        work.changes.remove_file(&aside)?;
        match occupied? {
            Occupied::Free => {}
            Occupied::Joined(_) => return Ok(None),
            Occupied::Taken(other) => {
                dispute(work, marker)?;
                return Ok(Some(other));
            }
        }
    }
    let other = places::overlapping(work, marker, path)?;
    Ok(other.filter(|other| !(marker.shared && other.relation == Relation::Same)))
}

/// Notes that the volume lies at, above or below the place of another one: neither is moved while both are there.
pub(super) fn dispute(work: &ExportOp<'_>, marker: &Marker) -> Result<(), OpError> {
    let note = record::file(DISPUTED, marker.id.name());
    if work.root.entry(&note)? == Entry::Missing {
        work.changes.write(&note, &marker.to_json())?;
    }
    Ok(())
}
