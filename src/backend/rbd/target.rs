//! Which image a PV means, on which cluster, and with which user to go about it: [`target`]. Asks nothing of a cluster.

use super::{
    names::{self, PoolNamespace},
    settings::{NAME, Settings},
    volume_context::VolumeContext,
};
use crate::{
    backend::{
        Error, Kind,
        ceph::{Admin, Cluster, Clusters, Monitors, class::Parameters, owner::PvVolume},
    },
    volume::{PvMetadata, Source, VolumeId},
};

/// An image, and with which user to go about it.
#[derive(Debug, Clone)]
pub(super) struct ImageTarget {
    pub(super) cluster: Cluster,
    pub(super) pool_namespace: PoolNamespace,
    pub(super) image: String,
    /// Of an image of ours.
    pub(super) id: Option<VolumeId>,
    pub(super) admin: Admin,
}

/// The image that a source names.
pub(super) struct Found {
    pub(super) cluster: Cluster,
    pub(super) pool_namespace: PoolNamespace,
    pub(super) image: String,
    id: Option<VolumeId>,
}

/// Where a source lies, without asking with which user. `driver`: the name of our CSI driver.
pub(super) fn find(clusters: &Clusters, driver: &str, source: &Source) -> Option<Found> {
    match source {
        Source::Csi(csi) if csi.driver == driver => {
            let id: VolumeId = csi.handle.parse().ok()?;
            let VolumeContext { cluster_id, monitors, pool_namespace, image, .. } =
                VolumeContext::read(&csi.attributes)?;
            let cluster = match monitors {
                Some(monitors) => clusters.reached_by(&monitors).ok()?,
                None => clusters.named(cluster_id.as_deref().unwrap_or(id.store()))?,
            };
            (id.backend() == NAME).then_some(Found { cluster, pool_namespace, image, id: Some(id) })
        }
        Source::Rbd(rbd) => {
            let monitors: Monitors = rbd.monitors.join(",").parse().ok()?;
            let pool = if rbd.pool.is_empty() { "rbd" } else { &rbd.pool };
            let pool_namespace = PoolNamespace { pool: names::checked("pool", pool).ok()?, namespace: None };
            let image = names::checked("image", &rbd.image).ok()?;
            Some(Found { cluster: clusters.reached_by(&monitors).ok()?, pool_namespace, image, id: None })
        }
        Source::Csi(_) | Source::Nfs { .. } | Source::Cephfs(_) => None,
    }
}

/// The image of an existing volume, and with which user to go about it. Everything comes from the PV, save what an older
/// provisioner did not write there. Refuses what contradicts itself.
pub(super) fn target(
    clusters: &Clusters,
    settings: &Settings,
    pv: PvVolume<'_>,
) -> Result<ImageTarget, Error> {
    let refused = |message: String| Err(Error::new(Kind::Refused, message));
    let PvVolume { name, id, source, pv_metadata, .. } = pv;
    let Some(mut found) = find(clusters, &settings.driver, source) else {
        let there: Vec<String> = clusters.all().iter().map(|cluster| cluster.name().to_owned()).collect();
        return refused(format!(
            "{source} of volume {name} is no image in one of the clusters [{}]; nothing was touched. If its cluster was \
             renamed, configure it under its old name",
            there.join(", ")
        ));
    };
    if let (Some(id), Some(in_source)) = (id, &found.id)
        && id != in_source
    {
        return refused(format!(
            "PersistentVolume {name} carries the id {id}, and its source names {in_source}"
        ));
    }
    let id = id.cloned().or(found.id.take());
    if let Some(id) = &id {
        if id.backend() != NAME || id.name() != name {
            return refused(format!("PersistentVolume {name} carries the id of another volume, {id}"));
        }
        let own = names::image_of(name)?;
        if found.image != own {
            return refused(format!("image {} is not that of volume {id}, which is {own}", found.image));
        }
        if let Some(named) = clusters.named(id.store()) {
            found.cluster = named;
        }
    }
    let record = &pv_metadata.record;
    let recorded = [
        ("image", Some(found.image.as_str())),
        ("pool", Some(found.pool_namespace.pool.as_str())),
        ("radosNamespace", found.pool_namespace.namespace.as_deref()),
    ];
    for (key, there) in recorded {
        if let Some(recorded) = record.get(key)
            && there != Some(recorded.as_str())
        {
            return refused(format!(
                "the record of volume {name} names the {key} {recorded:?}, its source {:?}; nothing was touched. Correct \
                 the one that is wrong",
                there.unwrap_or_default()
            ));
        }
    }
    let admin = admin(settings, &found.cluster, pv_metadata)?;
    let Found { cluster, pool_namespace, image, .. } = found;
    Ok(ImageTarget { cluster, pool_namespace, image, id, admin })
}

/// The user to go about an existing volume with: as recorded, as an older volume's class says, as configured.
fn admin(settings: &Settings, cluster: &Cluster, pv_metadata: &PvMetadata) -> Result<Admin, Error> {
    for named in [&pv_metadata.record, &pv_metadata.parameters] {
        if let Some(admin) = Parameters(named).own_admin() {
            return Ok(admin);
        }
    }
    settings.admins.get(cluster.name()).cloned().ok_or_else(|| {
        let message = format!(
            "no user is known for cluster {} ({}): the class of the volume is gone or names no \
             adminSecretName. Configure the cluster with these monitors and an admin",
            cluster.name(),
            cluster.monitors()
        );
        Error::new(Kind::Invalid, message)
    })
}
