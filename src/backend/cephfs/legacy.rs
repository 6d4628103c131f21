//! Volumes that cephfs-provisioner made: [`LegacyVolume`], read from their PV, and [`remove`] and [`expand`] for them.
//!
//! They are plain directories, `claimRoot/GROUP/SHARE`, made by a library that is gone, for a user that Ceph's volumes module
//! knows nothing of. The module takes such a directory for a subvolume of an old kind, whose group is everything above it, as
//! long as no directory above it was taken for one. That was measured; where Ceph says otherwise, nothing is removed.

use super::{
    create::ENODATA,
    info::{Found, Subvolume},
    mark::{self, Archived, Mark, Marks, Owner},
    names,
    remove::{no_group, now},
    users::remove_confined,
    work::FsClient,
};
use crate::{
    backend::{
        Error, Kind, PvState, Removed, Restored, UNKNOWN_CLUSTER,
        ceph::{Reason, class::Parameters},
        quoted,
    },
    volume::{
        Capacity, CephfsSource, ClaimKey, Disposal, Expanded, InUse, Permit, PvMetadata, SecretName,
        VolumeName, is_uuid,
    },
};

/// The annotation with the last segment of the path.
const SHARE: &str = "cephShare";

/// A volume of the older provisioner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LegacyVolume {
    /// As the volumes module names it; the group has slashes.
    pub(super) group: String,
    pub(super) share: String,
    /// Its path, without `//` and a slash at the end.
    pub(super) path: String,
    pub(super) user: String,
    pub(super) secret: Option<SecretName>,
    /// The file system that its class names; that provisioner knew only one.
    pub(super) fs: Option<String>,
}

impl LegacyVolume {
    /// Reads it from the PV, and refuses what that provisioner cannot have made.
    pub(super) fn read(
        source: &CephfsSource,
        claim: &ClaimKey,
        pv_metadata: &PvMetadata,
    ) -> Result<Self, Error> {
        let path = &source.path;
        let refuse = |why: String| {
            let message = format!("{path} at {} {why}; nothing was touched", source.monitors.join(","));
            Err(Error::new(Kind::Refused, message))
        };
        let Some(segments) = names::segments_of(path) else {
            return refuse("is not an absolute path".into());
        };
        let [above @ .., group, share] = segments.as_slice() else {
            return refuse("is not of the form claimRoot/GROUP/SHARE".into());
        };
        let random = share.strip_prefix("kubernetes-dynamic-pvc-").is_some_and(is_uuid)
            && source.user.strip_prefix("kubernetes-dynamic-user-").is_some_and(is_uuid);
        // The PV may be bound to another claim today than to the one that it was made for.
        let named = source.user == format!("k8s.{group}.{share}");
        if !random && !named {
            return refuse(format!(
                "with user {:?} is not what cephfs-provisioner made: neither \
                 GROUP/kubernetes-dynamic-pvc-UUID with user kubernetes-dynamic-user-UUID, nor NAMESPACE/CLAIM with user \
                 k8s.NAMESPACE.CLAIM",
                source.user
            ));
        }
        if let Some(noted) = pv_metadata.annotations.get(SHARE).filter(|noted| *noted != share) {
            return refuse(format!("does not end in {noted:?}, which the annotation {SHARE} says"));
        }
        let unsafe_segment = |segment: &&String| {
            segment.len() > 128
                || segment.starts_with(['-', '_', '.'])
                || !segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        if let Some(unsafe_segment) = segments.iter().find(unsafe_segment) {
            return refuse(format!(
                "has the segment {unsafe_segment:?}, which cannot be handed to Ceph safely; remove it by hand"
            ));
        }
        // The module looks below /volumes.
        let group = match above.split_first() {
            Some((first, between)) if first == names::ROOT => {
                between.iter().chain([group]).map(String::as_str).collect::<Vec<_>>().join("/")
            }
            Some(_) | None => {
                let outside: Vec<_> = above.iter().chain([group]).map(String::as_str).collect();
                format!("../{}", outside.join("/"))
            }
        };
        let fs = Parameters(&pv_metadata.parameters).get("fsName");
        let secret = source.secret.clone().map(|secret| {
            let namespace =
                if secret.namespace.is_empty() { claim.namespace.clone() } else { secret.namespace };
            SecretName { namespace, ..secret }
        });
        Ok(Self {
            group,
            share: share.clone(),
            path: format!("/{}", segments.join("/")),
            user: source.user.clone(),
            secret,
            fs: fs.map(|name| names::plain("fsName", name)).transpose()?,
        })
    }

    /// Where it lies, on the cluster that it was.
    async fn find(&self, work: &FsClient) -> Result<Subvolume, Error> {
        work.identity().await?;
        let fs = work.filesystem(self.fs.as_deref(), None).await?;
        Ok(Subvolume { fs, group: self.group.clone(), name: self.share.clone() })
    }
}

/// Removes the volume, its user and its Secret.
pub(super) async fn remove(
    work: &FsClient,
    legacy: &LegacyVolume,
    name: &VolumeName,
    disposal: Disposal,
    permit: &Permit,
) -> Result<Removed, Error> {
    if disposal == Disposal::Retain {
        return Ok(Removed::Kept);
    }
    if work.kube.cluster_ids().is_none() {
        let message = format!("{} cannot be removed: {UNKNOWN_CLUSTER}", legacy.path);
        return Err(Error::new(Kind::Refused, message));
    }
    let at = legacy.find(work).await?;
    let removed = match look(work, legacy, &at, Some(name)).await? {
        None => Removed::Absent,
        Some(marks) => match disposal {
            Disposal::Retain => Removed::Kept,
            Disposal::Archive => {
                // The mark first: where it cannot be written, no user is shut out of a volume that stays.
                if marks.archived.is_none() {
                    // What carries no mark of ours is never deleted by itself.
                    let archived = Archived::new(now(work), None).written();
                    work.subvolumes.set_metadata(&at, mark::ARCHIVED, &archived, permit).await?;
                }
                revoke(work, legacy, &at, permit).await?;
                Removed::Archived(legacy.path.trim_start_matches('/').to_owned())
            }
            Disposal::Delete => {
                // Ceph finds such a directory again by its PV alone, so it cannot wait in the trash: the API server is asked once
                // more, directly before what cannot be undone.
                if let PvState::Present { removing: false, .. } = work.kube.pv_state(name).await? {
                    let message =
                        format!("PersistentVolume {name} is to be kept; {} was not touched", legacy.path);
                    return Err(Error::new(Kind::Refused, message));
                }
                work.subvolumes.require_no_snapshots(&at).await?;
                revoke(work, legacy, &at, permit).await?;
                work.subvolumes.remove(&at, permit).await?;
                Removed::Trashed
            }
        },
    };
    if removed == Removed::Absent {
        revoke_user(work, legacy, &at.fs, permit).await?;
    }
    if let Some(secret) = &legacy.secret {
        permit.check()?;
        work.forget(secret, name).await?;
    }
    Ok(removed)
}

/// Sets the quota, where there is one.
pub(super) async fn expand(
    work: &FsClient,
    legacy: &LegacyVolume,
    quota: u64,
    permit: &Permit,
) -> Result<Expanded, Error> {
    let at = legacy.find(work).await?;
    if look(work, legacy, &at, None).await?.is_none() {
        return Err(Error::new(Kind::NotFound, format!("{} does not exist", legacy.path)));
    }
    let grown = |bytes| Ok(Expanded { capacity: Capacity::from_bytes(bytes), on_node: false });
    match work.subvolumes.info(&at).await {
        Ok(info) => match info.quota() {
            Some(now) if now >= quota => grown(now),
            Some(_) => {
                work.subvolumes.resize(&at, quota, permit).await?;
                grown(quota)
            }
            // It holds whatever the cluster has room for.
            None => grown(quota),
        },
        Err(failed) if failed.code == Some(ENODATA) => {
            let [fs, group, name] = at.quoted();
            let message = format!(
                "Ceph does not tell the quota of {}, since the directory has no layout of its own; where it has a quota, raise it by \
                 hand: ceph fs subvolume resize {fs} {name} {quota} --group_name {group} --no_shrink",
                legacy.path
            );
            Err(Error::caused_by(Kind::Unsupported, message, failed))
        }
        Err(failed) => Err(failed.into()),
    }
}

/// Whether it is there; proves that Ceph means the very directory.
///
/// A directory that was registered carries a mark: only this cluster's, for the very volume, lets it be removed.
async fn look(
    work: &FsClient,
    legacy: &LegacyVolume,
    at: &Subvolume,
    removed: Option<&VolumeName>,
) -> Result<Option<Marks>, Error> {
    let blocked = |error: Error| {
        if !error.to_string().contains("ceph.dir.subvolume") {
            return error;
        }
        let above = legacy.path.rsplit_once('/').map_or("", |(above, _)| above);
        let message = format!(
            "{} cannot be removed, since {above} or a directory above it has been made a subvolume (ceph fs \
             subvolume info, or in the dashboard); nothing was touched. Mount the file system and undo it: setfattr -n ceph.dir.subvolume \
             -v 0 {}",
            legacy.path,
            quoted(above)
        );
        Error::caused_by(Kind::Refused, message, error)
    };
    let metadata = match work.subvolumes.metadata(at).await.map_err(blocked)? {
        Found::Subvolume(metadata) => metadata,
        Found::NoSubvolume => return Ok(None),
        Found::OnlySnapshots | Found::NoGroup => return Err(no_group(at)),
    };
    let marks = Marks::read(&metadata);
    let path = work.subvolumes.path(at).await.map_err(blocked)?;
    let expected = format!("/{}/{}/{}", names::ROOT, at.group, at.name);
    let cluster = work.kube.cluster_ids();
    let ours = match &marks.owner {
        Owner::Unmarked => true,
        Owner::Claim(mark) => mark.is_of(cluster.as_ref()) && removed.is_none_or(|name| mark.names(name)),
        Owner::Unreadable => false,
    };
    if let (Owner::Claim(mark), false) = (&marks.owner, ours)
        && path == expected
    {
        let message = format!("{} belongs to {}; nothing was touched", legacy.path, mark.shown());
        return Err(Error::new(Kind::Refused, message));
    }
    if !ours || path != expected {
        let message = format!(
            "{} is not a directory of cephfs-provisioner's, but a subvolume{} with its data in {path}; nothing was touched",
            legacy.path,
            if marks.owner == Owner::Unmarked { "" } else { " of ours" }
        );
        return Err(Error::new(Kind::Refused, message));
    }
    Ok(Some(marks))
}

/// Gives up that it is archived. Its user was removed with the archiving, and is not ours to make again.
pub(super) async fn restore(
    work: &FsClient,
    legacy: &LegacyVolume,
    permit: &Permit,
) -> Result<Restored, Error> {
    let at = legacy.find(work).await?;
    let Some(marks) = look(work, legacy, &at, None).await? else { return Ok(Restored::InPlace) };
    // A deletion that was refused at its last step has no mark.
    let user_is_gone = match work.subvolumes.mds_caps(&legacy.user).await {
        Ok(caps) => caps.is_none(),
        Err(failed) if failed.reason == Reason::NotPermitted => marks.archived.is_some(),
        Err(failed) => return Err(failed.into()),
    };
    if user_is_gone {
        let why = format!(
            "it was removed when {} was to go, and the PersistentVolume is to be kept after all; make the user and its Secret again",
            legacy.path
        );
        work.store.memory().set_problem(format!("Ceph user client.{}", legacy.user), why);
    }
    if marks.archived.is_none() {
        return Ok(Restored::InPlace);
    }
    work.subvolumes.remove_metadata(&at, mark::ARCHIVED, permit).await?;
    Ok(Restored::MovedBack)
}

/// Writes whose it is on a directory that a PV of this cluster uses, so that no other cluster takes it for its own.
pub(super) async fn register(
    work: &FsClient,
    legacy: &LegacyVolume,
    volume: &InUse,
    permit: &Permit,
) -> Result<(), Error> {
    let Some(cluster) = work.kube.cluster_ids() else { return Ok(()) };
    let at = legacy.find(work).await?;
    match look(work, legacy, &at, Some(&volume.name)).await? {
        Some(marks) if marks.owner == Owner::Unmarked => {
            let uid = volume.name.claim_uid().to_owned();
            let claim = ClaimKey { uid, ..volume.claim.clone() };
            let mark = Mark::new(&claim, Some(cluster.current().to_owned()), None, now(work));
            work.subvolumes.set_metadata(&at, mark::OWNER, &mark.written(), permit).await
        }
        Some(_) | None => Ok(()),
    }
}

async fn revoke(
    work: &FsClient,
    legacy: &LegacyVolume,
    at: &Subvolume,
    permit: &Permit,
) -> Result<(), Error> {
    revoke_user(work, legacy, &at.fs, permit).await?;
    work.subvolumes.evict(at, &legacy.user, permit).await
}

/// Removes the user, if it may do nothing but use this volume.
async fn revoke_user(work: &FsClient, legacy: &LegacyVolume, fs: &str, permit: &Permit) -> Result<(), Error> {
    let (above, what) = (format!("{}/", legacy.path), format!("the old volume {}", legacy.path));
    remove_confined(work, &legacy.user, (fs, &above), &what, permit).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
