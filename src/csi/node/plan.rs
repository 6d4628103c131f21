//! What is to be done for a call, from what is recorded and what the table of mounts shows. Pure.

use std::path::Path;

use tonic::Status;

use super::record::{Arguments, Publication, StageRecord};
use crate::system::mount::{Mounted, Table};

/// What is to be done to stage a volume.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Staging {
    /// Nothing.
    Done,
    /// Mount it. What an attempt that did not end left there is unmounted first.
    Mount,
}

/// `record`: what is known of the volume, wherever it was staged; `point`: of the staging directory.
pub(super) fn stage(
    record: Option<&StageRecord>,
    staging: &Path,
    point: &Path,
    arguments: &Arguments,
    table: &Table,
) -> Result<Staging, Status> {
    let top = table.top(point).map(|mount| &mount.what);
    let Some(record) = record else {
        return match top {
            None => Ok(Staging::Mount),
            Some(what) => Err(foreign(staging, what)),
        };
    };
    if record.staging != staging {
        let there =
            record.mounted.is_some() && table.top(&record.point).map(|m| &m.what) == record.mounted.as_ref();
        if there {
            let told = format!("volume {} is staged at {}", record.volume, record.staging.display());
            return Err(Status::already_exists(told));
        }
        return stage(None, staging, point, arguments, table);
    }
    match (top, &record.mounted) {
        (Some(there), Some(mounted)) if there == mounted && record.arguments == *arguments => {
            Ok(Staging::Done)
        }
        (Some(there), Some(mounted)) if there == mounted => Err(Status::already_exists(format!(
            "volume {} is staged at {} for another access mode, file system or other mount options",
            record.volume,
            staging.display()
        ))),
        (Some(there), Some(_)) => Err(foreign(staging, there)),
        // Nothing but an attempt of ours that did not end can have mounted there since the record was written.
        (Some(_), None) | (None, _) => Ok(Staging::Mount),
    }
}

fn foreign(path: &Path, what: &Mounted) -> Status {
    Status::failed_precondition(format!(
        "{what} is mounted at {}, and berth did not mount it there: unmount it",
        path.display()
    ))
}

/// What is to be done to publish a volume.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Publishing {
    /// The volume is not staged any more: stage it, and look again.
    Stage,
    /// The mount is there: record it.
    Done,
    /// The mount is there and may be written to: make it read-only.
    MakeReadOnly,
    /// Bind the staged mount.
    Bind,
    /// What is there is what was staged before: unmount it, and bind.
    Renew,
}

/// What is asked.
pub(super) struct Wanted<'a> {
    pub(super) staging: &'a Path,
    pub(super) target: &'a Path,
    /// Of the target.
    pub(super) point: &'a Path,
    pub(super) read_only: bool,
    pub(super) arguments: &'a Arguments,
}

pub(super) fn publish(
    record: Option<&StageRecord>,
    wanted: &Wanted<'_>,
    table: &Table,
) -> Result<Publishing, Status> {
    let Some((record, staged)) = record
        .filter(|record| record.staging == wanted.staging)
        .and_then(|record| Some((record, record.mounted.as_ref()?)))
        .filter(|(record, staged)| table.top(&record.point).is_some_and(|top| top.what == **staged))
    else {
        return Ok(Publishing::Stage);
    };
    let target = wanted.target.display();
    let there = table.top(wanted.point);
    let mine = record.publications.iter().find(|publication| publication.target == wanted.target);
    let mine = mine.filter(|publication| is_live(publication, table));
    if let Some(mine) = mine
        && (mine.read_only != wanted.read_only || mine.arguments != *wanted.arguments)
    {
        let told = format!("volume {} is published at {target} with other arguments", record.volume);
        return Err(Status::already_exists(told));
    }
    let mut others = record.publications.iter().filter(|other| other.target != wanted.target);
    let other =
        others.find(|other| is_live(other, table) && (wanted.arguments.alone() || other.arguments.alone()));
    if let Some(other) = other {
        return Err(Status::failed_precondition(format!(
            "volume {} may be at one place of a node alone, and is published at {}",
            record.volume,
            other.target.display()
        )));
    }
    match there {
        None => Ok(Publishing::Bind),
        Some(there) if there.what == *staged => {
            if wanted.read_only && !there.read_only() {
                Ok(Publishing::MakeReadOnly)
            } else {
                Ok(Publishing::Done)
            }
        }
        Some(_) if mine.is_some() => Ok(Publishing::Renew),
        Some(there) => Err(foreign(wanted.target, &there.what)),
    }
}

/// Whether the mount that was made for a publication is still there.
pub(super) fn is_live(publication: &Publication, table: &Table) -> bool {
    table.at(&publication.point).any(|mount| mount.what == publication.mounted)
}

/// Whether what is mounted at a target may be unmounted: it is what was published there, or what is staged. Where nothing is
/// known of the volume, kubelet is believed.
pub(super) fn is_ours(record: Option<&StageRecord>, target: &Path, what: &Mounted) -> bool {
    let Some(record) = record else { return true };
    let published = record.publications.iter().any(|one| one.target == target && one.mounted == *what);
    published || record.mounted.as_ref() == Some(what)
}

/// What a restart of this process finds of a staged volume.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It is used, or may be at any moment.
    Keep,
    /// The machine was restarted: nothing is mounted any more.
    Forget,
    /// Kubelet does not know it any more: it must be unmounted.
    Unstage,
}

/// `known`: whether kubelet still has a record of its own for it.
pub(super) fn left(record: &StageRecord, known: bool, table: &Table) -> Left {
    let published = record.publications.iter().any(|publication| is_live(publication, table));
    let staged = table.at(&record.point).next().is_some();
    match (published, staged, known) {
        (true, _, _) | (false, true, true) => Left::Keep,
        (false, true, false) => Left::Unstage,
        (false, false, _) => Left::Forget,
    }
}

#[cfg(test)]
mod tests;
