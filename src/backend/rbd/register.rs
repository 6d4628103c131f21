//! Which volumes that PVs use are not marked as this cluster's, and marking them: [`unregistered`], [`register`].
//!
//! The images of older provisioners have no mark, and some of earlier versions of berth do not say of which cluster they are. Both
//! are marked while a PV of this cluster is bound to them, so that afterwards a copy of the PV in another cluster proves
//! nothing. The marks would have to be read one by one; so a pool has an object ([`OBJECT`]) that says which were looked at. It
//! is a list of work that is done, and proves nothing.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    error::{OpError, fail},
    names,
    owner::Mark,
    proof::{Verdict, may_be_relabelled},
    work::PoolClient,
};
use crate::{
    backend::{Kind, KnownVolume, UNKNOWN_CLUSTER, ceph::omap},
    volume::{ClusterIds, InUse, Permit, VolumeName},
};

/// The object in each pool, or RADOS namespace, that says which volumes were registered.
const OBJECT: &str = "berth_volumes";
/// How the keys of volumes begin that an older provisioner made; the value is the cluster.
const VOLUME: &str = "volume_";
/// How the keys of clusters begin of which all other volumes were looked at.
const CLUSTER: &str = "cluster_";

/// What the object says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Registered {
    /// The volumes of older provisioners, each with its cluster.
    legacy: BTreeMap<VolumeName, String>,
    clusters: BTreeSet<String>,
}

impl Registered {
    fn read(text: &str) -> Option<Self> {
        let mut registered = Self::default();
        for (key, value) in omap::read(text)? {
            if let Some(name) = key.strip_prefix(VOLUME).and_then(|name| name.parse().ok()) {
                registered.legacy.insert(name, String::from_utf8(value).ok()?);
            } else if let Some(cluster) = key.strip_prefix(CLUSTER) {
                registered.clusters.insert(cluster.to_owned());
            }
        }
        Some(registered)
    }

    fn has(&self, volume: &VolumeName, cluster: &ClusterIds) -> bool {
        self.legacy.get(volume).is_some_and(|of| cluster.include(of))
    }

    fn is_complete(&self, cluster: &ClusterIds) -> bool {
        self.clusters.iter().any(|of| cluster.include(of))
    }
}

/// What is known of the volumes in one pool or namespace.
pub(super) struct Found {
    registered: Registered,
    /// Volumes of ours that were never looked at; all of them in one that was never gone through.
    unseen: BTreeSet<VolumeName>,
}

/// Looks at one pool or namespace: at the object, and once for each cluster at the list of images.
pub(super) async fn look(
    work: &PoolClient,
    volumes: &[KnownVolume],
    cluster: &ClusterIds,
) -> Result<Found, OpError> {
    let what = format!("read which volumes of {} are registered", work.pool_namespace);
    let registered = match work.object(what.clone(), OBJECT).await? {
        None => Registered::default(),
        Some(reply) => match Registered::read(reply.text()?) {
            Some(registered) => registered,
            None => return fail(Kind::Internal, format!("{what}: the answer of Ceph is not understood")),
        },
    };
    let unseen = if registered.is_complete(cluster) {
        BTreeSet::new()
    } else {
        let here: BTreeSet<VolumeName> =
            work.images().await?.iter().filter_map(|image| names::volume_of(image)).collect();
        let ours = volumes.iter().filter(|volume| !volume.legacy).map(|volume| &volume.name);
        ours.filter(|name| here.contains(name)).cloned().collect()
    };
    work.store.to_be_seen(work.pool_namespace.clone(), unseen.clone());
    Ok(Found { registered, unseen })
}

/// Those of `volumes` that no pool or namespace knows as registered.
pub(super) fn unregistered(
    volumes: &[KnownVolume],
    found: &[Found],
    cluster: &ClusterIds,
) -> Vec<VolumeName> {
    let is_missing = |volume: &&KnownVolume| {
        if volume.legacy {
            !found.iter().any(|found| found.registered.has(&volume.name, cluster))
        } else {
            found.iter().any(|found| found.unseen.contains(&volume.name))
        }
    };
    volumes.iter().filter(is_missing).map(|volume| volume.name.clone()).collect()
}

/// Marks the image of a volume that a PV uses, where it has no mark of this cluster.
pub(super) async fn register(
    work: &PoolClient,
    volume: &InUse,
    image: &str,
    permit: &Permit,
) -> Result<(), OpError> {
    let registered = mark(work, volume, image, permit).await;
    let looked_at = match &registered {
        Ok(()) => true,
        // It is another cluster's, and stays so.
        Err(error) => error.is_a_refusal(),
    };
    let cluster = work.kube.cluster_ids();
    if volume.id.is_some()
        && looked_at
        && work.store.seen(&work.pool_namespace, &volume.name)
        && let Some(cluster) = cluster
    {
        let what = format!("note that the volumes of {} are registered", work.pool_namespace);
        let key = format!("{CLUSTER}{}", cluster.current());
        work.set_key(what, OBJECT, (&key, "1"), permit).await?;
    }
    registered
}

async fn mark(work: &PoolClient, volume: &InUse, image: &str, permit: &Permit) -> Result<(), OpError> {
    let spec = work.pool_namespace.spec(image);
    let InUse { name, id, .. } = volume;
    work.prove_identity(volume.into()).await?;
    let Some(cluster) = work.kube.cluster_ids() else {
        return fail(
            Kind::Unavailable,
            format!("image {spec} cannot be marked as this cluster's: {UNKNOWN_CLUSTER}"),
        );
    };
    let Some((_, header)) = work.info_and_header(image).await? else {
        return fail(Kind::NotFound, format!("image {spec} of volume {name} does not exist"));
    };
    let before = header.metadata.mark(&spec)?;
    let write = match work.prove(&spec, &header, volume.into()).await {
        Ok(Verdict::Ours) => false,
        Ok(Verdict::Relabel { .. }) => true,
        Err(error) if error.is_a_refusal() && may_be_relabelled(&spec, before.as_ref(), volume) => true,
        Err(error) => return Err(error),
    };
    if write {
        let mark = Mark::of(volume.into(), &cluster);
        let since = before.map_or(mark.since, |before| before.since);
        work.set_mark(image, &Mark { since, ..mark }, permit).await?;
        tracing::info!(volume = %name, image = spec, "marked an image as this cluster's");
    }
    if id.is_none() {
        let what = format!("note that volume {name} is registered");
        let key = format!("{VOLUME}{name}");
        work.set_key(what, OBJECT, (&key, cluster.current()), permit).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_this_cluster_registered_is_registered() {
        let text = "cluster_before\nvalue (1 bytes) :\n00000000  31  |1|\n00000001\n\n\
                    volume_pvc-a\nvalue (4 bytes) :\n00000000  68 65 72 65  |here|\n00000004\n\n\
                    volume_pvc-b\nvalue (5 bytes) :\n00000000  74 68 65 72 65  |there|\n00000005\n\n";
        let registered = Registered::read(text).unwrap();
        let here = ClusterIds::only("here");
        assert!(!registered.is_complete(&here));
        assert!(registered.is_complete(&here.clone().also(["before".to_owned()])));
        let known = |name: &str, legacy| KnownVolume { name: name.parse().unwrap(), legacy };
        let volumes =
            [known("pvc-a", true), known("pvc-b", true), known("pvc-c", false), known("pvc-d", false)];
        let found = [Found { registered, unseen: BTreeSet::from(["pvc-d".parse().unwrap()]) }];
        let names: Vec<String> =
            unregistered(&volumes, &found, &here).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["pvc-b", "pvc-d"]);
    }
}
