//! What a PV tells a CSI driver of its image: [`VolumeContext`], the attributes of the volume. It holds no secret, and reading it needs
//! nothing but the PV.

use std::collections::BTreeMap;

use super::names::{self, PoolNamespace};
use crate::backend::ceph::Monitors;

/// Where an image lies and how it is mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VolumeContext {
    pub(super) cluster_id: Option<String>,
    /// Those of a cluster that is not configured.
    pub(super) monitors: Option<Monitors>,
    pub(super) pool_namespace: PoolNamespace,
    pub(super) image: String,
    pub(super) features: Option<String>,
    pub(super) user: Option<String>,
}

impl VolumeContext {
    /// The attributes of the volume.
    pub(super) fn attributes(self) -> BTreeMap<String, String> {
        let PoolNamespace { pool, namespace } = self.pool_namespace;
        let attributes = [
            ("clusterID", self.cluster_id),
            ("monitors", self.monitors.map(|monitors| monitors.to_string())),
            ("pool", Some(pool)),
            ("radosNamespace", namespace),
            ("image", Some(self.image)),
            ("imageFeatures", self.features),
            ("userId", self.user),
        ];
        attributes.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }

    /// Reads the attributes of a volume; `None` where they name no image.
    pub(super) fn read(attributes: &BTreeMap<String, String>) -> Option<Self> {
        let get = |key: &str| attributes.get(key).filter(|value| !value.is_empty());
        let namespace = get("radosNamespace").map(|text| names::checked("namespace", text));
        Some(Self {
            cluster_id: get("clusterID").cloned(),
            monitors: get("monitors").map(|text| text.parse()).transpose().ok()?,
            pool_namespace: PoolNamespace {
                pool: names::checked("pool", get("pool")?).ok()?,
                namespace: namespace.transpose().ok()?,
            },
            image: names::checked("image", get("image")?).ok()?,
            features: get("imageFeatures").cloned(),
            user: get("userId").cloned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_on_a_pv_reads_back_and_what_names_no_image_does_not() {
        let full = VolumeContext {
            cluster_id: Some("mon-0123456789".into()),
            monitors: Some("10.0.0.1:6789,mon.example".parse().unwrap()),
            pool_namespace: PoolNamespace { pool: "kube".into(), namespace: Some("team".into()) },
            image: "berth-u-1".into(),
            features: Some("layering".into()),
            user: Some("kube".into()),
        };
        let bare = VolumeContext {
            monitors: None,
            pool_namespace: PoolNamespace { pool: "kube".into(), namespace: None },
            features: None,
            ..full.clone()
        };
        for context in [full.clone(), bare] {
            assert_eq!(VolumeContext::read(&context.clone().attributes()), Some(context));
        }
        for (key, value) in [
            ("pool", ""),
            ("image", "a/b"),
            ("radosNamespace", "-x"),
            ("monitors", "10.0.0.1:x"),
            ("image", ""),
        ] {
            let mut attributes = full.clone().attributes();
            attributes.insert(key.into(), value.into());
            assert_eq!(VolumeContext::read(&attributes), None, "{key}={value}");
        }
    }
}
