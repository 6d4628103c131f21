//! What is done once at the beginning of a term: leftovers of interrupted changes are cleared away, volumes get the places
//! that others have left, and the places of the volumes of an export that an earlier version wrote are noted.
//!
//! It goes through the records in small pieces, beside everything else. Until it has come to the end, whoever asks for a
//! place is told by the records as well (`index`). It decides nothing: two volumes that lie within one another stay, and
//! are told.
//!
//! An earlier version may have made volumes after that, in a cluster that was updated later, or after a way back. So each
//! process reads the records once more, when it first leads, and looks after those that no cluster has signed.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    identity::set_mirrored,
    op_error::OpError,
    places::{self, Occupied},
    record::{self, ARCHIVED, BASE, DISPUTED, INTENTS, Marker, UNSIGNED, VOLUMES},
    register::dispute,
    store::Store,
    work::ExportOp,
};
use crate::{
    backend::Error,
    system::root::Entry,
    volume::{Permit, RelativePath, VolumeName},
};

/// Records that are looked at in one piece.
const PIECE: usize = 64;

/// The first and the longest pause before it is tried again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(10);

/// A record whose place is to be noted.
#[derive(Debug, Clone)]
struct Entered {
    folder: &'static str,
    name: VolumeName,
    path: RelativePath,
}

/// Does it, until it is done or the permit ends.
pub(super) async fn run(store: &Arc<Store>, permit: &Permit) {
    let mut pause = FIRST_PAUSE;
    while permit.check().is_ok() {
        match attempt(store, permit).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                let (export, error) = (&store.export.name, error.chain());
                tracing::warn!(
                    export,
                    error,
                    "cannot look through the records of the export; it is tried again"
                );
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// `false` where something is left for later.
async fn attempt(store: &Arc<Store>, permit: &Permit) -> Result<bool, Error> {
    let mirrored = store
        .run("clear leftovers away".into(), None, permit, |work| {
            if work.root.entry(&[BASE])? == Entry::Missing {
                return Ok(None);
            }
            places::clear_staging(work)?;
            settle(work)?;
            Ok(Some(work.opened.mirrored.load(Ordering::SeqCst)))
        })
        .await?;
    // Where nothing was ever made there is nothing to note.
    let Some(mirrored) = mirrored else { return Ok(true) };
    if mirrored && store.read_through.load(Ordering::SeqCst) {
        return Ok(true);
    }
    let names = store.run("list the records".into(), None, permit, names).await?;
    if !mirrored {
        tracing::info!(
            export = store.export.name,
            records = names.len(),
            "the places of volumes of an earlier version are being noted"
        );
    }
    let (mut entered, mut all) = (Vec::new(), true);
    for piece in names.chunks(PIECE) {
        let piece = piece.to_vec();
        let read = store
            .run("read the records".into(), None, permit, move |work| Ok(read(work, &piece, mirrored)))
            .await?;
        // What cannot be read keeps the records in use, and was told.
        all &= read.1 || mirrored;
        entered.extend(read.0);
    }
    for piece in entered.chunks(PIECE) {
        let piece = piece.to_vec();
        let noted = move |work: &ExportOp<'_>| {
            let mut all = true;
            for one in &piece {
                all &= note(work, one)?;
            }
            Ok(all)
        };
        all &= store.run("note the places of volumes".into(), None, permit, noted).await?;
    }
    if all && !mirrored {
        store.run("note that all places are noted".into(), None, permit, set_mirrored).await?;
        tracing::info!(export = store.export.name, "the places of all volumes are noted");
    }
    store.read_through.fetch_or(all, Ordering::SeqCst);
    Ok(all)
}

fn names(work: &ExportOp<'_>) -> Result<Vec<(&'static str, VolumeName)>, OpError> {
    work.ensure_layout()?;
    let mut all = Vec::new();
    for folder in [VOLUMES, INTENTS, ARCHIVED] {
        let names = work.root.names(&[BASE, folder])?;
        all.extend(names.iter().filter_map(|name| record::volume_of(name)).map(|name| (folder, name)));
    }
    Ok(all)
}

/// Where the volumes lie, or only those that no cluster has signed; `false` where a record cannot be read.
fn read(work: &ExportOp<'_>, names: &[(&'static str, VolumeName)], unsigned: bool) -> (Vec<Entered>, bool) {
    let (mut found, mut all) = (Vec::new(), true);
    for (folder, name) in names {
        match marker(work, folder, name) {
            Ok(Some(marker)) if unsigned && marker.cluster.is_some() => {}
            Ok(Some(marker)) => {
                let path = place(&marker, folder).clone();
                found.push(Entered { folder, name: name.clone(), path });
            }
            // It was committed or removed.
            Ok(None) => {}
            Err(why) => {
                let (export, file) = (&work.context.export.name, record::file(folder, name).to_string());
                tracing::warn!(
                    export,
                    file,
                    why,
                    "a record cannot be read; repair it, or remove it if its volume is gone"
                );
                all = false;
            }
        }
    }
    (found, all)
}

/// The record, of whatever cluster.
fn marker(work: &ExportOp<'_>, folder: &str, name: &VolumeName) -> Result<Option<Marker>, String> {
    let content = work.root.read(&record::file(folder, name)).map_err(|failure| failure.cause.to_string())?;
    content.map(|content| Marker::from_json(&content.bytes)).transpose()
}

/// Where the volume of a record lies, or its archive.
fn place<'a>(marker: &'a Marker, folder: &str) -> &'a RelativePath {
    match &marker.archive {
        Some(archive) if folder == ARCHIVED => &archive.path,
        Some(_) | None => &marker.path,
    }
}

/// Gives those volumes their places that found another one there, if that one is gone.
fn settle(work: &ExportOp<'_>) -> Result<(), OpError> {
    for file in work.root.names(&[BASE, DISPUTED])? {
        let Some(name) = record::volume_of(&file) else { continue };
        let Ok(_held) = work.context.try_lock(&name) else { continue };
        let Ok(Some(marker)) = marker(work, VOLUMES, &name) else { continue };
        let record = record::file(VOLUMES, &name);
        let place = &marker.path;
        if let Occupied::Free | Occupied::Joined(_) =
            places::occupy_recorded(work, &marker, &record, place, marker.shared)?
            && places::overlapping(work, &marker, place)?.is_none()
        {
            work.changes.remove_file(&record::file(DISPUTED, &name))?;
        }
    }
    Ok(())
}

/// Notes one place; `false` where the volume is being worked on.
fn note(work: &ExportOp<'_>, one: &Entered) -> Result<bool, OpError> {
    let Ok(_held) = work.context.try_lock(&one.name) else { return Ok(false) };
    let Ok(Some(marker)) = marker(work, one.folder, &one.name) else { return Ok(true) };
    if *place(&marker, one.folder) != one.path {
        return Ok(false);
    }
    if marker.cluster.is_none() && one.folder == VOLUMES {
        let note = record::file(UNSIGNED, &one.name);
        if work.root.entry(&note)? == Entry::Missing {
            work.changes.write(&note, b"")?;
        }
    }
    if places::holds(work, &marker, &one.path)? {
        return Ok(true);
    }
    let file = record::file(one.folder, &one.name);
    match places::occupy_recorded(work, &marker, &file, &one.path, marker.shared)? {
        Occupied::Free | Occupied::Joined(_) => {}
        Occupied::Taken(other) => {
            tracing::warn!(
                export = work.context.export.name,
                volume = %marker.id,
                why = other.explained(&one.path),
                "two volumes overlap; neither is deleted or archived while the other one is there"
            );
            if one.folder == VOLUMES {
                dispute(work, &marker)?;
            }
        }
    }
    Ok(true)
}
