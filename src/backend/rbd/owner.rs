//! Whose an image is, as it says itself: its [`Mark`]. Pure.
//!
//! The mark is written when the image is made, and again when a volume is registered or taken over. What it says of the claim
//! is information: a PV may be bound to another claim by now. What it proves to whom is in `proof`.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::names;
use crate::{
    backend::ceph::owner::PvVolume,
    volume::{ClaimKey, ClusterIds, VolumeName},
};

/// The metadata key under which an image says whose it is.
pub(super) const OWNER: &str = "berth.owner";
/// The metadata key under which an image says that its PV went and it was left on purpose, and when.
pub(super) const KEPT: &str = "berth.kept";
/// What is noted there when the image got a PV again and is removed with it.
pub(super) const NOT_KEPT: &str = "no longer";

/// Whose an image is: what we wrote on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The cluster of Kubernetes that it belongs to; empty where that could not be known.
    #[serde(default, rename = "installation")]
    pub(super) cluster_id: String,
    /// The claim that it was made for, or that it was bound to when this was written.
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    /// When the image was begun, or when it was registered.
    pub(super) since: Timestamp,
    /// The volume's name; empty where the image's name tells it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) volume: String,
    /// The UID of the PV object; empty where it was not known.
    #[serde(default, rename = "pv", skip_serializing_if = "String::is_empty")]
    pub(super) object: String,
}

impl Mark {
    /// That of an image that is being made.
    pub(super) fn new(cluster: &ClusterIds, claim: ClaimKey) -> Self {
        Self {
            cluster_id: cluster.current().to_owned(),
            namespace: claim.namespace,
            name: claim.name,
            uid: claim.uid,
            since: Timestamp::now(),
            volume: String::new(),
            object: String::new(),
        }
    }

    /// That of an image that is the volume of this PV from now on.
    pub(super) fn of(pv: PvVolume<'_>, cluster: &ClusterIds) -> Self {
        Self {
            volume: pv.name.to_string(),
            object: pv.pv_metadata.uid.clone(),
            ..Self::new(cluster, pv.claim.clone())
        }
    }

    pub(super) fn claim(&self) -> ClaimKey {
        ClaimKey { namespace: self.namespace.clone(), name: self.name.clone(), uid: self.uid.clone() }
    }

    /// The volume whose image it is, where the image is or was called `image`.
    pub(super) fn volume(&self, image: &str) -> Option<VolumeName> {
        if !self.volume.is_empty() {
            return self.volume.parse().ok();
        }
        // An image of ours is named by the claim that it was made for; while it is purged it has another name.
        names::volume_of(image)
            .or_else(|| names::purged_id(image).and_then(|_| VolumeName::for_claim(&self.uid).ok()))
    }

    /// Whether it is one of this cluster.
    pub(super) fn is_of(&self, cluster: Option<&ClusterIds>) -> bool {
        cluster.is_some_and(|cluster| cluster.include(&self.cluster_id))
    }

    pub(super) fn has_cluster_id(&self) -> bool {
        !self.cluster_id.is_empty()
    }

    pub(super) fn to_json(&self) -> String {
        // A struct of texts always can be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.volume.is_empty() {
            write!(f, "volume {} of ", self.volume)?;
        }
        write!(f, "claim {} with UID {}", self.claim(), self.uid)?;
        if self.has_cluster_id() {
            write!(f, " of cluster {}", self.cluster_id)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEGACY: &str = "kubernetes-dynamic-pvc-6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f11";

    fn claim(uid: &str) -> ClaimKey {
        ClaimKey { namespace: "team".into(), name: "data".into(), uid: uid.into() }
    }

    fn here() -> ClusterIds {
        ClusterIds::only("here").also(["before".to_owned()])
    }

    fn mark(cluster_id: &str, uid: &str) -> Mark {
        Mark { cluster_id: cluster_id.into(), ..Mark::new(&here(), claim(uid)) }
    }

    #[test]
    fn a_mark_reads_back_and_bears_what_newer_and_older_versions_write() {
        let mark = Mark { volume: "pvc-old".into(), object: "o".into(), ..mark("k", "u") };
        let read = |text: &str| serde_json::from_str::<Mark>(text);
        assert_eq!(read(&mark.to_json()).unwrap(), mark);
        assert_eq!(read(&mark.to_json().replace("{\"", "{\"more\":{\"a\":1},\"")).unwrap(), mark);
        let older = r#"{"namespace":"team","name":"data","uid":"u","since":"2026-11-22T05:27:38Z"}"#;
        let older = read(older).unwrap();
        assert!(!older.has_cluster_id() && older.volume("berth-u") == Some("pvc-u".parse().unwrap()));
        assert_eq!(older.volume("berth.purging-10f"), Some("pvc-u".parse().unwrap()));
        assert_eq!(older.volume(LEGACY), None);
    }

    #[test]
    fn an_unknown_cluster_is_no_cluster() {
        assert!(mark("here", "u").is_of(Some(&here())) && mark("before", "u").is_of(Some(&here())));
        assert!(!mark("", "u").is_of(Some(&here())), "an unsigned mark");
        assert!(
            !mark("there", "u").is_of(None) && !mark("", "u").is_of(None),
            "a process that does not know"
        );
    }
}
