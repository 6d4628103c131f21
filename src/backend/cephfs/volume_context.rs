//! What a PV tells a CSI driver of its subvolume: [`VolumeContext`], the attributes of the volume. It holds no secret, and reading it
//! needs nothing but the PV.

use std::collections::BTreeMap;

use super::names;

/// Where a subvolume lies and how it is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VolumeContext {
    /// Of a configured cluster, so that its monitors may move.
    pub(super) cluster_id: Option<String>,
    /// Those of a cluster that only a class describes.
    pub(super) monitors: Option<String>,
    pub(super) fs: Option<String>,
    pub(super) group: String,
    pub(super) subvolume: String,
    /// The absolute path of its data.
    pub(super) path: Option<String>,
    pub(super) user: Option<String>,
}

impl VolumeContext {
    /// The attributes of the volume.
    pub(super) fn attributes(self) -> BTreeMap<String, String> {
        let attributes = [
            ("clusterID", self.cluster_id),
            ("monitors", self.monitors),
            ("fsName", self.fs),
            ("group", Some(self.group)),
            ("subvolume", Some(self.subvolume)),
            ("path", self.path),
            ("userId", self.user),
        ];
        attributes.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }

    /// Reads the attributes of a volume; `None` where they name no subvolume.
    pub(super) fn read(attributes: &BTreeMap<String, String>) -> Option<Self> {
        let get = |key: &str| attributes.get(key).filter(|value| !value.is_empty()).cloned();
        Some(Self {
            cluster_id: get("clusterID"),
            monitors: get("monitors"),
            fs: get("fsName"),
            group: names::group(&get("group")?).ok()?,
            subvolume: names::subvolume(&get("subvolume")?)?.to_owned(),
            path: get("path"),
            user: get("userId"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_on_a_pv_reads_back_and_what_names_no_subvolume_does_not() {
        let context = VolumeContext {
            cluster_id: Some("main".into()),
            monitors: None,
            fs: Some("cephfs".into()),
            group: "berth".into(),
            subvolume: "berth-u-1".into(),
            path: Some("/volumes/berth/berth-u-1/data".into()),
            user: Some("berth-u-1".into()),
        };
        assert_eq!(VolumeContext::read(&context.clone().attributes()), Some(context.clone()));
        for (key, value) in [("group", "../x"), ("group", ""), ("subvolume", ".."), ("subvolume", "")] {
            let mut attributes = context.clone().attributes();
            attributes.insert(key.into(), value.into());
            assert_eq!(VolumeContext::read(&attributes), None, "{key}={value}");
        }
    }
}
