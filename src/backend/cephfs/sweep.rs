//! Work that no claim asks for: volumes that were begun and never used ([`list_uncommitted`], [`rollback`]), and archives whose time has come
//! ([`collect_garbage`]).
//!
//! Of names that do not look like ours nothing but the name is read: looking at a plain directory makes the volumes module take it
//! for a subvolume, and shares of an older provisioner beneath it could not be removed any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant, SystemTime},
};

use super::{
    info::{Found, Subvolume},
    mark::{self, Marks, Owner},
    names,
    purge::purge_due,
    remove,
    settings::NAME,
    store::Store,
    users,
    work::FsClient,
};
use crate::{
    backend::{Error, Kind, Known, KnownVolume, Uncommitted, ceph::Reason},
    volume::{ClaimKey, Location, Permit, VolumeId, VolumeName},
};

/// An unmarked subvolume is not rolled back before this age: between making and marking another cluster may be held up.
const UNMARKED: Duration = Duration::from_hours(24);

/// The subvolumes that were made by this cluster, or are named by a UID and unmarked, and whose volumes are not known.
pub(super) async fn list_uncommitted(work: &FsClient, known: Known<'_>) -> Result<Vec<Uncommitted>, Error> {
    let Some(cluster) = work.kube.cluster_ids() else {
        tracing::info!("not listing uncommitted volumes: the identity of this cluster is unknown");
        return Ok(Vec::new());
    };
    work.identity().await?;
    let mut found = Vec::new();
    let candidates = candidates(work).await?;
    // What is still so is found so again.
    work.store.memory().stuck.retain(|what, _| !what.starts_with(Subvolume::KIND));
    let mut silent = 0;
    for at in candidates {
        let by_name = names::volume_of(&at.name);
        let cached = || work.store.memory().owners.get(&at).cloned();
        if by_name.clone().or_else(cached).is_some_and(|volume| known(&volume)) {
            continue;
        }
        let Some(marks) = look(work, &at, &mut silent).await? else { continue };
        let (volume, claim, since) = match &marks.owner {
            Owner::Claim(mark) => {
                let Ok(volume) = VolumeName::for_claim(&mark.uid) else { continue };
                if by_name.is_none() {
                    work.store.memory().owners.insert(at.clone(), volume.clone());
                }
                if !mark.is_of(Some(&cluster)) {
                    continue;
                }
                (volume, mark.claim(), mark.since())
            }
            Owner::Unmarked => {
                // Who made it cannot be told by a name without a UID, unless a claim said that it wants it.
                let wanted = match marks.wanted.as_slice() {
                    [only] => VolumeName::for_claim(only).ok(),
                    _ => None,
                };
                let Some(volume) = by_name.or(wanted) else {
                    if marks.archived.is_none() && marks.deleted.is_none() && !marks.kept {
                        let why = format!(
                            "it is not marked; its claim may have been deleted while it was made. {}",
                            advice(&at)
                        );
                        work.store.memory().set_problem(at.shown(), why);
                    }
                    continue;
                };
                let uid = volume.claim_uid().to_owned();
                let claim = ClaimKey { namespace: String::new(), name: String::new(), uid };
                (volume, claim, SystemTime::UNIX_EPOCH)
            }
            Owner::Unreadable => continue,
        };
        if marks.archived.is_some() || marks.deleted.is_some() || marks.kept || known(&volume) {
            continue;
        }
        let Ok(id) = VolumeId::new(NAME, work.store.cluster.name(), volume.clone()) else { continue };
        let place = names::path(&at.group, &at.name);
        let place = Some(Location { store: work.store.cluster.name().to_owned(), path: place });
        work.store.memory().uncommitted.insert(volume, at);
        found.push(Uncommitted { id, claim, since, place });
    }
    found.sort_by_key(|uncommitted| uncommitted.since);
    Ok(found)
}

/// How many subvolumes Ceph may not answer about before it counts as not answering at all.
const SILENT: usize = 3;

/// What is written on a subvolume; `None` where it is gone, or where Ceph does not tell: one that is broken does not keep the
/// others from being looked at. `silent` counts those that nothing was answered about.
async fn look(work: &FsClient, at: &Subvolume, silent: &mut usize) -> Result<Option<Marks>, Error> {
    match work.subvolumes.metadata(at).await {
        Ok(Found::Subvolume(metadata)) => Ok(Some(Marks::read(&metadata))),
        Ok(Found::OnlySnapshots | Found::NoSubvolume | Found::NoGroup) => Ok(None),
        Err(error) if error.kind() == Kind::Unavailable && *silent == SILENT => Err(error),
        Err(error) => {
            *silent += usize::from(error.kind() == Kind::Unavailable);
            tracing::warn!(subvolume = at.shown(), error = error.chain(), "a subvolume cannot be looked at");
            work.store.memory().set_problem(at.shown(), error.chain());
            Ok(None)
        }
    }
}

/// Every subvolume that may be ours, by its name.
async fn candidates(work: &FsClient) -> Result<Vec<Subvolume>, Error> {
    let (mut filesystems, met) = {
        let memory = work.store.memory();
        (memory.filesystems.clone(), memory.groups.clone())
    };
    match work.filesystem(None, None).await {
        Ok(only) => {
            filesystems.insert(only);
        }
        // Of several only those are looked at that a class names.
        Err(error) if !filesystems.is_empty() && matches!(error.kind(), Kind::Invalid | Kind::NotFound) => {}
        Err(error) => return Err(error),
    }
    let mut candidates = Vec::new();
    for fs in filesystems {
        let mut groups: BTreeSet<String> = work.subvolumes.groups(&fs).await?.into_iter().collect();
        groups.extend(met.iter().cloned());
        for group in groups {
            if names::group(&group).is_err() {
                continue;
            }
            let ours = met.contains(&group);
            // A user of Ceph may be confined to the groups of its classes.
            let there = if ours {
                work.subvolumes.list(&fs, &group).await?
            } else {
                work.subvolumes.list_if_permitted(&fs, &group).await?
            };
            for name in there {
                let may_be_ours = names::subvolume(&name).is_some()
                    && (names::volume_of(&name).is_some() || (ours && names::is_deterministic(&name)));
                if may_be_ours {
                    candidates.push(Subvolume { fs: fs.clone(), group: group.clone(), name });
                }
            }
        }
    }
    Ok(candidates)
}

/// Removes an uncommitted volume.
pub(super) async fn rollback(
    work: &FsClient,
    uncommitted: &Uncommitted,
    permit: &Permit,
) -> Result<(), Error> {
    let volume = uncommitted.id.name();
    let Some(at) = work.store.memory().uncommitted.get(volume).cloned() else {
        let message =
            format!("volume {volume} was not found among those that were begun; the next sweep looks again");
        return Err(Error::new(Kind::Refused, message));
    };
    if let Some(place) = &uncommitted.place
        && place.path != names::path(&at.group, &at.name)
    {
        let message = format!(
            "volume {volume} was begun at {place}, and found as {}; the next sweep looks again",
            at.shown()
        );
        return Err(Error::new(Kind::Refused, message));
    }
    let result = remove_uncommitted(work, &at, uncommitted, permit).await;
    let mut memory = work.store.memory();
    match &result {
        Ok(()) => {
            memory.stuck.remove(&at.shown());
        }
        Err(error) if error.kind() == Kind::Refused => {
            memory.set_problem(at.shown(), error.chain());
        }
        Err(_) => {}
    }
    result
}

/// What to do about a subvolume that has no PV of ours. It may have another one: an archive that was restored has.
fn advice(at: &Subvolume) -> String {
    let [fs, group, name] = at.quoted();
    format!(
        "Ask the other users of this Ceph cluster whether it is theirs. If a PersistentVolume uses it: ceph fs subvolume metadata set {fs} \
         {name} {} yes --group_name {group}",
        mark::KEPT
    )
}

async fn remove_uncommitted(
    work: &FsClient,
    at: &Subvolume,
    uncommitted: &Uncommitted,
    permit: &Permit,
) -> Result<(), Error> {
    let volume = uncommitted.id.name();
    let refuse = |why: String| {
        Err(Error::new(Kind::Refused, format!("{} {why}, so it stays. {}", at.shown(), advice(at))))
    };
    work.identity().await?;
    let metadata = match work.subvolumes.metadata(at).await? {
        Found::Subvolume(metadata) => metadata,
        Found::NoSubvolume | Found::NoGroup => return Ok(()),
        Found::OnlySnapshots => return refuse("has snapshots that were retained".into()),
    };
    let marks = Marks::read(&metadata);
    let cluster = work.kube.cluster_ids();
    let mark = match &marks.owner {
        Owner::Claim(mark) if mark.uid == uncommitted.claim.uid && mark.is_of(cluster.as_ref()) => Some(mark),
        Owner::Claim(mark) => return refuse(format!("belongs to {}", mark.shown())),
        Owner::Unreadable => return refuse("carries a mark that cannot be read".into()),
        Owner::Unmarked if cluster.is_none() => {
            return refuse("cannot be proven to be ours while it is not known which cluster this is".into());
        }
        Owner::Unmarked => None,
    };
    if marks.archived.is_some() || marks.deleted.is_some() || marks.kept {
        return refuse("was archived, deleted or kept".into());
    }
    let info = match work.subvolumes.info(at).await {
        Ok(info) => info,
        Err(failed) if failed.reason == Reason::Other => {
            return refuse(format!("cannot be looked at ({failed})"));
        }
        Err(failed) => return Err(failed.into()),
    };
    if !info.made_by_module() {
        return refuse("was not made by Ceph's volumes module".into());
    }
    if !info.is_unused() {
        return refuse(format!(
            "has been used ({} bytes, changed at {}, made at {}), though no PersistentVolume {volume} exists",
            info.bytes_used, info.mtime, info.created_at
        ));
    }
    if mark.is_none() && !info.made_before(remove::now(work), UNMARKED) {
        // Another cluster may be about to mark it.
        return refuse("carries no mark yet, and is younger than a day".into());
    }
    if let Some(mark) = mark {
        users::delete_user_and_secret(work, at, mark, false, permit).await?;
    }
    work.subvolumes.remove(at, permit).await?;
    Ok(())
}

/// Which of `volumes` are signed by nobody, since they were made before it was known which cluster this is, or by an older provisioner;
/// and which are marked as archived or deleted.
pub(super) async fn unregistered(work: &FsClient, volumes: &[KnownVolume]) -> Result<Vec<VolumeName>, Error> {
    if work.kube.cluster_ids().is_none() {
        return Ok(Vec::new());
    }
    find_marked(work).await?;
    let memory = work.store.memory();
    let unregistered = volumes.iter().filter(|known| {
        known.legacy || memory.unsigned.contains(&known.name) || memory.removed.contains(&known.name)
    });
    Ok(unregistered.map(|known| known.name.clone()).collect())
}

/// Purges the deleted and archived volumes whose time has come.
///
/// All that may be ours are looked at when a term of leadership begins and every hour, those that were archived since are known, and only
/// what is due is looked at again.
pub(super) async fn collect_garbage(work: &FsClient, now: SystemTime, permit: &Permit) -> Result<(), Error> {
    // Without knowing who we are, nothing can be proven to be ours.
    if work.kube.cluster_ids().is_none() || !has_garbage(&work.store, now) {
        return Ok(());
    }
    work.identity().await?;
    find_marked(work).await?;
    purge_due(work, now, permit).await
}

/// Finds, when a term of leadership begins and every hour, the archived volumes, those that were deleted, and those that are not signed:
/// a mark may be written late, by a call of an earlier leader.
async fn find_marked(work: &FsClient) -> Result<(), Error> {
    if work.store.memory().marks_are_known() {
        return Ok(());
    }
    let (mut archives, mut deleted) = (BTreeMap::new(), BTreeMap::new());
    let (mut removed, mut unsigned) = (BTreeSet::new(), BTreeSet::new());
    let cluster = work.kube.cluster_ids();
    let mut silent = 0;
    for at in candidates(work).await? {
        let Some(marks) = look(work, &at, &mut silent).await? else { continue };
        let Owner::Claim(mark) = &marks.owner else { continue };
        if mark.cluster_id.is_none()
            && let Ok(volume) = VolumeName::for_claim(&mark.uid)
        {
            unsigned.insert(volume);
        }
        if !mark.is_of(cluster.as_ref()) {
            continue;
        }
        if marks.archived.is_some() || marks.deleted.is_some() {
            removed.extend(VolumeName::for_claim(&mark.uid).ok());
        }
        if let Some(found) = &marks.archived {
            archives.extend(found.expires().map(|expires| (at.clone(), Some(expires))));
        }
        if marks.deleted.is_some() {
            // What was rescued while no process led is found out at once.
            deleted.insert(at, Some(SystemTime::UNIX_EPOCH));
        }
    }
    let mut memory = work.store.memory();
    memory.archives.extend(archives);
    for (at, when) in deleted {
        memory.deleted.entry(at).or_insert(when);
    }
    memory.unsigned = unsigned;
    memory.removed = removed;
    memory.marks_found = Some(Instant::now());
    Ok(())
}

/// Whether there is anything to collect.
pub(super) fn has_garbage(store: &Store, now: SystemTime) -> bool {
    let mut memory = store.memory();
    !memory.marks_are_known() || !memory.due(now).is_empty()
}
