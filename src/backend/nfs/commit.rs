//! What happens to an intent: the volume is in use and gets its record, or it was never used and is rolled back.
//!
//! Nothing of another cluster is listed or touched. Runs on a thread of the export's pool.

use super::{
    op_error::{OpError, fail},
    parents::remove_parents,
    places::{self, Leaving, Occupied},
    prove::owned,
    record::{self, INTENTS, Marker, UNSIGNED, VOLUMES},
    work::{ExportOp, Rule},
};
use crate::{
    backend::{Kind, Uncommitted, quoted},
    system::root::{Entry, Errno, Unmade},
    volume::{ClusterIds, Location, Origin, VolumeName},
};

/// Records that the volume is in use, as the PV with this UID.
pub(super) fn commit(work: &ExportOp<'_>, name: &VolumeName, uid: &str) -> Result<(), OpError> {
    let intent = work.marker(INTENTS, name)?;
    let begun = intent.is_some();
    let known = match intent {
        None => work.marker(VOLUMES, name)?,
        found => found,
    };
    let Some(known) = known else {
        return fail(Kind::NotFound, format!("there is no record of volume {name} to commit"));
    };
    owned(work, &known)?;
    let uid = Some(uid).filter(|uid| !uid.is_empty());
    if !begun && (uid.is_none() || known.uid.as_deref() == uid) {
        return Ok(());
    }
    let uid = uid.map(String::from).or(known.uid.clone());
    write_record(work, &Marker { uid, ..known })?;
    work.changes.remove_file(&record::file(INTENTS, name))?;
    Ok(())
}

/// Writes the record of a volume that is in use: signed with this cluster, and with the inode of its directory.
pub(super) fn write_record(work: &ExportOp<'_>, marker: &Marker) -> Result<(), OpError> {
    let name = marker.id.name();
    let seen = match work.root.see(&marker.path) {
        Ok(seen) => seen.filter(|seen| seen.entry == Entry::Directory),
        // It is in a file system below the export.
        Err(failure) if failure.errno() == Some(Errno::EXDEV) => None,
        Err(failure) => return Err(failure.into()),
    };
    let cluster = work.signature();
    let signed = Marker {
        cluster: cluster.or(marker.cluster.clone()),
        inode: seen.map(|seen| seen.inode),
        base: Some(work.base()?),
        ..marker.clone()
    };
    let note = record::file(UNSIGNED, name);
    if signed.cluster.is_none() && work.root.entry(&note)? == Entry::Missing {
        work.changes.write(&note, b"")?;
    }
    work.changes.write(&record::file(VOLUMES, name), &signed.to_json())?;
    work.context.index.add(name, &signed.path);
    if marker.cluster.is_none() && signed.cluster.is_some() {
        work.changes.remove_file(&note)?;
    }
    Ok(())
}

/// The volumes that this cluster began and did not commit, oldest first.
pub(super) fn list_uncommitted(work: &ExportOp<'_>) -> Result<Vec<Uncommitted>, OpError> {
    let mut found = Vec::new();
    // Whose they are cannot be told.
    let Some(ids) = work.cluster() else { return Ok(found) };
    for file_name in work.root.names(&[record::BASE, INTENTS])? {
        let Some(name) = record::volume_of(&file_name) else { continue };
        let file = record::file(INTENTS, &name);
        let read = match work.root.read(&file) {
            // It was committed or rolled back.
            Ok(None) => continue,
            Ok(Some(content)) => Marker::from_json(&content.bytes).map(|marker| (marker, content.modified)),
            Err(failure) => {
                Err(crate::backend::Error::caused_by(Kind::Refused, "it is no record", failure).chain())
            }
        };
        match read {
            Ok((marker, since)) if is_ours(work, &ids, &marker) => {
                let place = Some(Location { store: work.context.export.name.clone(), path: marker.path });
                found.push(Uncommitted { id: marker.id, claim: marker.claim, since, place });
            }
            Ok((marker, _)) if marker.cluster.is_none() => tell_unsigned(work, &marker),
            Ok((marker, _)) => {
                tracing::debug!(volume = %marker.id, cluster = marker.cluster, "begun by another cluster");
            }
            Err(why) => {
                let (export, file) = (&work.context.export.name, file.to_string());
                tracing::warn!(export, file, reason = why, "record of an uncommitted volume cannot be read");
            }
        }
    }
    found.sort_by(|a, b| (a.since, &a.id).cmp(&(b.since, &b.id)));
    Ok(found)
}

/// Whether an intent is one of this cluster. One that is not signed may be of any.
fn is_ours(work: &ExportOp<'_>, ids: &ClusterIds, intent: &Marker) -> bool {
    let ours = intent.cluster.as_ref().is_some_and(|cluster| ids.include(cluster));
    ours || !work.context.enforces(Rule::Cluster)
}

/// An intent of an earlier version does not say which cluster wrote it. It is told once.
fn tell_unsigned(work: &ExportOp<'_>, intent: &Marker) {
    if !work.context.tell_once(intent.id.name()) {
        return;
    }
    let root = work.root.path();
    let (file, directory) =
        (root.join(record::file(INTENTS, intent.id.name()).to_string()), root.join(intent.path.to_string()));
    let shown = |path: &std::path::Path| quoted(&path.display().to_string());
    let command = format!("rmdir {}; rm {}", shown(&directory), shown(&file));
    tracing::warn!(
        export = work.context.export.name,
        volume = %intent.id,
        claim = %intent.claim,
        command,
        "a volume that an earlier version began does not say of which cluster it is, and is left alone; if no cluster has \
         its claim or its PersistentVolume, the command removes it"
    );
}

/// Removes an uncommitted volume.
pub(super) fn rollback(work: &ExportOp<'_>, uncommitted: &Uncommitted) -> Result<(), OpError> {
    let name = uncommitted.id.name();
    if work.marker(VOLUMES, name)?.is_some() {
        return fail(Kind::Refused, format!("volume {name} was committed; it is in use"));
    }
    let Some(intent) = work.marker(INTENTS, name)? else { return Ok(()) };
    if !work.cluster().is_some_and(|ids| is_ours(work, &ids, &intent)) {
        let cluster = intent.cluster.as_deref().unwrap_or("that is not recorded");
        return fail(Kind::Refused, format!("volume {name} was begun by the cluster {cluster}"));
    }
    if intent.claim != uncommitted.claim {
        let message = format!("volume {name} was begun for claim {} with another UID", intent.claim);
        return fail(Kind::Refused, message);
    }
    if let Some(place) = &uncommitted.place
        && place.path != intent.path
    {
        let begun = &intent.path;
        return fail(Kind::Refused, format!("volume {name} was begun at {begun}, and not at {place}"));
    }
    undo_intent(work, &intent)
}

/// Removes what an intent made, if nobody has put anything there, gives up its place, and then the intent.
pub(super) fn undo_intent(work: &ExportOp<'_>, intent: &Marker) -> Result<(), OpError> {
    let file = record::file(INTENTS, intent.id.name());
    let holds = match &intent.cluster {
        _ if !work.context.enforces(Rule::Places) => true,
        Some(_) => places::holds(work, intent, &intent.path)?,
        // An earlier version noted no places: what was made is ours only if the place is still free.
        None => match places::occupy(work, intent, &file, &intent.path, intent.shared)? {
            Occupied::Free | Occupied::Joined(_) => true,
            Occupied::Taken(_) => false,
        },
    };
    let alone = holds
        && (!intent.shared
            || match places::leave_shared(work, intent, &intent.path)? {
                Leaving::Last => true,
                Leaving::Others(_) | Leaving::NotThere => false,
            });
    // The removal itself decides whether it is empty: whatever comes first, content or removal, nothing is lost.
    if alone && intent.origin == Origin::Created {
        if work.changes.remove_directory(&intent.path)? == Unmade::Occupied {
            places::stay(work, intent, &intent.path)?;
            let message = format!(
                "directory {} of uncommitted volume {} is not empty; look at it, then remove it or its content",
                intent.path,
                intent.id.name()
            );
            return fail(Kind::Refused, message);
        }
        remove_parents(work, &intent.path)?;
    }
    give_up(work, intent)
}

/// Gives up the place of an intent at which nothing was made, and then the intent.
pub(super) fn give_up(work: &ExportOp<'_>, intent: &Marker) -> Result<(), OpError> {
    let name = intent.id.name();
    places::vacate(work, intent, &intent.path)?;
    work.changes.remove_file(&record::file(INTENTS, name))?;
    work.context.index.remove(name, &intent.path);
    Ok(())
}
