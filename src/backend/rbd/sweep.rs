//! Images that were begun and whose PV was never stored: [`list_uncommitted`] lists them, [`rollback`] takes one back.
//!
//! Which images have a PV is not written on them; the caller knows. Taken back is only what is provably empty and unused: an image
//! whose PV an administrator deleted on purpose has content, and stays.

use std::time::SystemTime;

use futures::{StreamExt as _, stream};

use super::{
    create,
    entry::deleted_for,
    error::{OpError, fail},
    image::TrashExpiry,
    names,
    owner::Mark,
    settings::NAME,
    work::PoolClient,
};
use crate::{
    backend::{Error, Kind, Known, UNKNOWN_CLUSTER, Uncommitted, quoted},
    volume::{ClaimKey, ClusterIds, Permit, VolumeId, VolumeName, is_uuid},
};

/// How many images are looked at side by side.
const ABREAST: usize = 4;

/// The images of this cluster in one pool or namespace whose volumes are not known.
pub(super) async fn list_uncommitted(
    work: &PoolClient,
    cluster: &ClusterIds,
    known: Known<'_>,
) -> Result<Vec<Uncommitted>, OpError> {
    let images = match work.images().await {
        Ok(images) => images,
        // Nothing of ours can lie there.
        Err(error) if error.is_elsewhere() => {
            let error = Error::from(error);
            tracing::debug!(pool_namespace = %work.pool_namespace, error = error.chain(), "cannot list uncommitted \
                images here");
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let unknown: Vec<(String, VolumeName)> = images
        .into_iter()
        .filter_map(|image| {
            let name = names::volume_of(&image)?;
            (!known(&name)).then_some((image, name))
        })
        .collect();
    let looks = unknown.into_iter().map(|(image, name)| async move {
        let look = look(work, &image, name, cluster).await;
        (image, look)
    });
    let looks: Vec<_> = stream::iter(looks).buffer_unordered(ABREAST).collect().await;
    let mut found = Vec::new();
    for (image, look) in looks {
        match look {
            Ok(uncommitted) => found.extend(uncommitted),
            // The others are to be swept nevertheless.
            Err(error) => {
                let (image, error) = (work.pool_namespace.spec(&image), Error::from(error));
                tracing::warn!(
                    image,
                    error = error.chain(),
                    "cannot look at an image without a PersistentVolume"
                );
            }
        }
    }
    Ok(found)
}

/// One image, unless it is another cluster's.
async fn look(
    work: &PoolClient,
    image: &str,
    name: VolumeName,
    cluster: &ClusterIds,
) -> Result<Option<Uncommitted>, OpError> {
    let spec = work.pool_namespace.spec(image);
    let mark = match work.info_and_header(image).await? {
        // What is left of one that was begun, or it is gone by now. From now on it is known to be without a header.
        None => {
            work.store.is_abandoned(&spec);
            None
        }
        Some((_, header)) if header.metadata.is_kept() => return Ok(None),
        Some((_, header)) => {
            work.store.is_whole(&spec);
            match header.metadata.mark(&spec) {
                Ok(mark) => mark,
                Err(error) => {
                    tracing::warn!(
                        image = spec,
                        error = error.chain(),
                        "an image of ours has a mark that cannot be read"
                    );
                    return Ok(None);
                }
            }
        }
    };
    let id = VolumeId::new(NAME, work.store.cluster.name(), name)?;
    let place = Some(work.pool_namespace.location(work.store.cluster.name(), image));
    Ok(match mark {
        Some(mark) if mark.is_of(Some(cluster)) => {
            Some(Uncommitted { id, claim: mark.claim(), since: mark.since.into(), place })
        }
        Some(mark) if mark.has_cluster_id() => None,
        Some(mark) => {
            tracing::warn!(
                image = spec,
                "an image that no PersistentVolume names is marked for {mark} and does not say of which cluster; it is left alone"
            );
            None
        }
        // An administrator may have named an image like that.
        None if !is_uuid(names::uid_of(image)) => None,
        None => {
            let uid = names::uid_of(image).to_owned();
            let claim = ClaimKey { namespace: String::new(), name: String::new(), uid };
            Some(Uncommitted { id, claim, since: SystemTime::UNIX_EPOCH, place })
        }
    })
}

/// Removes an uncommitted image. Returns whether it was here.
pub(super) async fn rollback(
    work: &PoolClient,
    uncommitted: &Uncommitted,
    image: &str,
    permit: &Permit,
) -> Result<bool, OpError> {
    let spec = work.pool_namespace.spec(image);
    let Some(look) = work.look(image).await? else {
        if !work.images().await?.iter().any(|name| name == image) {
            return Ok(false);
        }
        if !work.store.is_abandoned(&spec) {
            return fail(Kind::Busy, format!("image {spec} may still be in the making"));
        }
        work.clear(image, permit).await?;
        return Ok(true);
    };
    let refuse = |why: String| {
        let message = format!(
            "image {spec} of uncommitted volume {} {why}; nothing was changed",
            uncommitted.id.name()
        );
        fail(Kind::Refused, message)
    };
    // What is not known to be ours may be in use by others.
    let refuse_ours = |why: &str| {
        let image = quoted(&spec);
        refuse(format!("{why}. Look at it, then remove it (rbd rm {image}) or make a PersistentVolume of it"))
    };
    let Some(cluster) = work.kube.cluster_ids() else {
        return refuse(format!("cannot be proved to be this cluster's: {UNKNOWN_CLUSTER}"));
    };
    if look.header.metadata.is_kept() {
        return refuse("was kept on purpose when its PersistentVolume went".into());
    }
    let mark = look.header.metadata.mark(&spec)?;
    match &mark {
        Some(mark) if !mark.is_of(Some(&cluster)) || mark.uid != uncommitted.claim.uid => {
            return refuse(format!("belongs to {mark}"));
        }
        Some(_) => {}
        None => {
            if let Some(why) = create::not_a_trace(&look) {
                return refuse(format!(
                    "has no owner, and is not what a broken off attempt leaves behind: {why}"
                ));
            }
        }
    }
    // A claim that was named must be the one that was begun for.
    if names::uid_of(image) != uncommitted.claim.uid {
        return refuse("is that of a claim with another UID".into());
    }
    if look.info.snapshot_count > 0 {
        return refuse_ours("has snapshots");
    }
    if let Some(watcher) = look.watchers.first() {
        let watcher = watcher.describe(|address| work.kube.node_at(address));
        return fail(Kind::InUse, format!("image {spec} is still open by {watcher}"));
    }
    if let Some(group) = &look.info.group {
        return refuse_ours(&format!("is in the group {group} of images"));
    }
    match (work.has_content(image).await?, &mark) {
        (false, _) => {}
        (true, Some(_)) => return refuse_ours("has content"),
        (true, None) => return refuse("has no owner, and has content".into()),
    }
    // In the trash nothing else tells that it is ours.
    if mark.is_none() {
        work.set_mark(image, &Mark::new(&cluster, uncommitted.claim.clone()), permit).await?;
    }
    let time = deleted_for(work.kube.trash_retention());
    work.trash_move(image, TrashExpiry::After(time), permit).await?;
    if let Some(now) = work.kube.now() {
        work.store.trash.expects(&work.pool_namespace, &look.info.id, now + time);
    }
    work.store.trash.added(&work.pool_namespace);
    Ok(true)
}
