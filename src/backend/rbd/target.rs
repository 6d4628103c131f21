//! Which image a PV means, on which cluster, and with which user to go about it: [`ImageTarget`]. Asks nothing of a cluster.

use super::{
    NAME, Rbd,
    names::{self, PoolNamespace},
};
use crate::{
    backend::{
        Error, Kind,
        ceph::{Admin, Cluster, Monitors, class::Parameters},
    },
    volume::{PvMetadata, Source, VolumeId, VolumeName},
};

/// An image that exists or existed, as a PV tells of it.
#[derive(Debug, Clone)]
pub(super) struct ImageTarget {
    pub(super) cluster: Cluster,
    pub(super) pool_namespace: PoolNamespace,
    pub(super) image: String,
    /// Of an image of ours.
    pub(super) id: Option<VolumeId>,
    pub(super) admin: Admin,
}

impl Rbd {
    /// Where a source lies, without asking with which user.
    pub(super) fn found(
        &self,
        source: &Source,
    ) -> Option<(Cluster, PoolNamespace, String, Option<VolumeId>)> {
        match source {
            Source::Csi(csi) if csi.driver == self.settings.driver => {
                let get = |key: &str| csi.attributes.get(key).filter(|value| !value.is_empty());
                let id: VolumeId = csi.handle.parse().ok()?;
                let cluster = match get("monitors") {
                    Some(monitors) => self.clusters.reached_by(&monitors.parse().ok()?).ok()?,
                    None => self.clusters.named(get("clusterID").map_or(id.store(), String::as_str))?,
                };
                let namespace = get("radosNamespace").map(|text| names::checked("namespace", text));
                let pool_namespace = PoolNamespace {
                    pool: names::checked("pool", get("pool")?).ok()?,
                    namespace: namespace.transpose().ok()?,
                };
                let image = names::checked("image", get("image")?).ok()?;
                (id.backend() == NAME).then_some((cluster, pool_namespace, image, Some(id)))
            }
            Source::Rbd(rbd) => {
                let monitors: Monitors = rbd.monitors.join(",").parse().ok()?;
                let pool = if rbd.pool.is_empty() { "rbd" } else { &rbd.pool };
                let pool_namespace =
                    PoolNamespace { pool: names::checked("pool", pool).ok()?, namespace: None };
                let image = names::checked("image", &rbd.image).ok()?;
                Some((self.clusters.reached_by(&monitors).ok()?, pool_namespace, image, None))
            }
            Source::Csi(_) | Source::Nfs { .. } | Source::Cephfs(_) => None,
        }
    }

    /// The image of an existing volume, and with which user to go about it. Everything comes from the PV, save what an
    /// older provisioner did not write there. Refuses what contradicts itself.
    pub(super) fn target(
        &self,
        name: &VolumeName,
        id: Option<&VolumeId>,
        source: &Source,
        pv_metadata: &PvMetadata,
    ) -> Result<ImageTarget, Error> {
        let refused = |message: String| Err(Error::new(Kind::Refused, message));
        let Some((mut cluster, pool_namespace, image, in_source)) = self.found(source) else {
            let there: Vec<String> =
                self.clusters.all().iter().map(|cluster| cluster.name().to_owned()).collect();
            return refused(format!(
                "{source} of volume {name} is no image in one of the clusters [{}]; nothing was touched. If its cluster was \
                 renamed, configure it under its old name",
                there.join(", ")
            ));
        };
        if let (Some(id), Some(in_source)) = (id, &in_source)
            && id != in_source
        {
            return refused(format!(
                "PersistentVolume {name} carries the id {id}, and its source names {in_source}"
            ));
        }
        let id = id.cloned().or(in_source);
        if let Some(id) = &id {
            if id.backend() != NAME || id.name() != name {
                return refused(format!("PersistentVolume {name} carries the id of another volume, {id}"));
            }
            let own = names::image_of(name)?;
            if image != own {
                return refused(format!("image {image} is not that of volume {id}, which is {own}"));
            }
            if let Some(named) = self.clusters.named(id.store()) {
                cluster = named;
            }
        }
        let record = &pv_metadata.record;
        let recorded = [
            ("image", Some(image.as_str())),
            ("pool", Some(pool_namespace.pool.as_str())),
            ("radosNamespace", pool_namespace.namespace.as_deref()),
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
        let admin = self.admin(&cluster, pv_metadata)?;
        Ok(ImageTarget { cluster, pool_namespace, image, id, admin })
    }

    /// The user to go about an existing volume with: as recorded, as an older volume's class says, as configured.
    fn admin(&self, cluster: &Cluster, pv_metadata: &PvMetadata) -> Result<Admin, Error> {
        for named in [&pv_metadata.record, &pv_metadata.parameters] {
            if let Some(admin) = Parameters(named).own_admin() {
                return Ok(admin);
            }
        }
        self.settings.admins.get(cluster.name()).cloned().ok_or_else(|| {
            let message = format!(
                "nothing says with which user to go about cluster {} ({}): the class of the volume is gone or names no \
                 adminSecretName. Configure the cluster with these monitors and an admin",
                cluster.name(),
                cluster.monitors()
            );
            Error::new(Kind::Invalid, message)
        })
    }
}
