//! Whether a record proves that a directory is the volume of a PV of this cluster: [`owner`].
//!
//! The claim in the record proves nothing: an administrator may bind the PV to another one.

use super::{
    op_error::{OpError, fail},
    record::Marker,
    work::{ExportOp, Rule},
};
use crate::{
    backend::{Error, Kind, UNKNOWN_CLUSTER, take_over},
    volume::{ClusterIds, PvMetadata, RelativePath, Removal, UNRECORDED, VolumeName},
};

/// Who asks for a volume: what its PV says of itself, and which cluster this is.
#[derive(Debug, Clone, Copy)]
pub(super) struct PvVolume<'a> {
    pub(super) name: &'a VolumeName,
    pub(super) pv_metadata: &'a PvMetadata,
    pub(super) cluster: Option<&'a ClusterIds>,
}

/// Whether the record in `file` is of the volume of who asks: of the same object, of the same cluster, or taken over.
pub(super) fn owner(file: &str, marker: &Marker, pv_volume: PvVolume<'_>) -> Result<(), Error> {
    let PvVolume { name, pv_metadata, cluster } = pv_volume;
    if !pv_metadata.uid.is_empty() && marker.uid.as_deref() == Some(pv_metadata.uid.as_str()) {
        return Ok(());
    }
    let refuse = |message: String| Err(Error::new(Kind::Refused, message));
    let taken_over = pv_metadata.take_over.as_deref();
    let Some(theirs) = &marker.cluster else {
        if taken_over == Some(UNRECORDED) {
            return Ok(());
        }
        return refuse(format!(
            "the record {file} does not say of which cluster volume {name} is, and a copy of its PersistentVolume in another \
             cluster would look the same; nothing was touched. If the volume is of this cluster: {}",
            take_over(name, UNRECORDED)
        ));
    };
    if cluster.is_some_and(|ids| ids.include(theirs)) || taken_over == Some(theirs.as_str()) {
        return Ok(());
    }
    let command = take_over(name, theirs);
    match cluster {
        Some(ours) => refuse(format!(
            "the record {file} says that volume {name} is of cluster {theirs}, and this is cluster {ours}; nothing was \
             touched. If this cluster had that id before, add it to --former-cluster-ids; if the volume was handed to this \
             cluster: {command}"
        )),
        None => refuse(format!(
            "the record {file} says that volume {name} is of cluster {theirs}, and {UNKNOWN_CLUSTER}; nothing was touched. If \
             the volume was handed to this cluster: {command}"
        )),
    }
}

/// Why nothing can be done without knowing the cluster, and what to do.
pub(super) fn unknown_cluster(why: &str) -> String {
    format!("{why}, and {UNKNOWN_CLUSTER}")
}

/// Whether a record of this name is one of ours.
pub(super) fn owned(work: &ExportOp<'_>, known: &Marker) -> Result<(), OpError> {
    if !work.context.enforces(Rule::Cluster) {
        return Ok(());
    }
    match (&known.cluster, work.cluster()) {
        (Some(cluster), Some(ids)) if !ids.include(cluster) => fail(
            Kind::Conflict,
            format!("a volume of this name belongs to cluster {cluster}, and this is cluster {ids}"),
        ),
        (Some(cluster), None) => fail(
            Kind::Unavailable,
            unknown_cluster(&format!("a volume of this name belongs to cluster {cluster}")),
        ),
        (Some(_), Some(_)) | (None, _) => Ok(()),
    }
}

/// Whether the record is of the volume that the PV describes: the same directory under the same id.
pub(super) fn agree(
    file: &str,
    marker: &Marker,
    removal: &Removal,
    path: &RelativePath,
) -> Result<(), Error> {
    let differs = |what: &str, record: &str, pv: &str| {
        let message = format!(
            "the record {file} of volume {} names the {what} {record}, the PersistentVolume {pv}; nothing was touched. \
             Correct the one that is wrong",
            removal.name
        );
        Err(Error::new(Kind::Refused, message))
    };
    if marker.path != *path {
        return differs("directory", &marker.path.to_string(), &path.to_string());
    }
    if let Some(id) = &removal.id
        && marker.id != *id
    {
        return differs("id", &marker.id.to_string(), &id.to_string());
    }
    Ok(())
}

/// Whether the directory of a volume without a record may be taken as the volume's own. `patterned`: the class's pattern
/// gives such a path.
pub(super) fn unrecorded(
    file: &str,
    removal: &Removal,
    path: &RelativePath,
    patterned: bool,
    cluster: Option<&ClusterIds>,
) -> Result<(), Error> {
    let name = &removal.name;
    if removal.pv_metadata.take_over.as_deref() == Some(UNRECORDED) {
        return Ok(());
    }
    let refuse = |why: String| {
        let command = take_over(name, UNRECORDED);
        let message = format!(
            "{why}; nothing was touched. If the directory holds this volume and nothing else: {command}"
        );
        Err(Error::new(Kind::Refused, message))
    };
    if let Some(id) = &removal.id {
        return refuse(format!(
            "the record {file} of volume {id} is missing, so nothing proves that directory {path} is its own"
        ));
    }
    let claim = &removal.claim;
    let default = format!("{}-{}-{name}", claim.namespace, claim.name);
    let by_default = path.last().is_some_and(|last| *last == default);
    if cluster.is_none() && !(by_default && !claim.uid.is_empty() && name.as_str().ends_with(&claim.uid)) {
        return refuse(format!(
            "volume {name} has no record, and its directory {path} is not named after the UID of its claim, and {UNKNOWN_CLUSTER}"
        ));
    }
    if !by_default && !patterned {
        return refuse(format!(
            "volume {name} has no record, and its directory {path} is neither called {default} nor what the pathPattern of \
             its class gives"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::{ClaimKey, Disposal, Origin, Source};

    /// What is part of the refusal, where it is one.
    type Expected = Result<(), &'static str>;
    type RecordRow = (&'static str, Marker, &'static str, Option<&'static str>, bool, Expected);
    type PathRow = (&'static str, Removal, &'static str, bool, bool, Expected);

    fn marker(cluster: Option<&str>, uid: Option<&str>) -> Marker {
        Marker {
            id: "1/nfs/default/pvc-u-1".parse().unwrap(),
            path: "data".parse().unwrap(),
            claim: ClaimKey { namespace: "ns".into(), name: "data".into(), uid: "u-1".into() },
            origin: Origin::Created,
            since: "2026-03-01T10:00:00Z".parse().unwrap(),
            capacity: 0,
            shared: false,
            cluster: cluster.map(str::to_owned),
            uid: uid.map(str::to_owned),
            inode: None,
            base: None,
            unarchived: false,
            archive: None,
            trash: None,
        }
    }

    fn removal(uid: &str, take_over: Option<&str>) -> Removal {
        Removal {
            name: "pvc-u-1".parse().unwrap(),
            id: Some("1/nfs/default/pvc-u-1".parse().unwrap()),
            source: Source::Nfs { server: "server".into(), path: "/export/data".into() },
            claim: ClaimKey { namespace: "ns".into(), name: "data".into(), uid: "u-1".into() },
            origin: Origin::Created,
            disposal: Disposal::Delete,
            pv_metadata: PvMetadata {
                uid: uid.into(),
                take_over: take_over.map(str::to_owned),
                ..PvMetadata::default()
            },
        }
    }

    #[test]
    fn a_record_is_ours_by_object_by_cluster_or_because_an_administrator_says_so() {
        let ours = ClusterIds::only("here").also(["before".to_owned()]);
        let rows: &[RecordRow] = &[
            ("the same object", marker(Some("there"), Some("o")), "o", None, true, Ok(())),
            ("the same object, cluster unknown", marker(None, Some("o")), "o", None, false, Ok(())),
            ("this cluster", marker(Some("here"), Some("o")), "other", None, true, Ok(())),
            ("this cluster, not committed", marker(Some("here"), None), "o", None, true, Ok(())),
            ("this cluster before it was rebuilt", marker(Some("before"), None), "o", None, true, Ok(())),
            ("another cluster", marker(Some("there"), None), "o", None, true, Err("take-over=there")),
            (
                "another cluster's object",
                marker(Some("there"), Some("p")),
                "o",
                None,
                true,
                Err("take-over=there"),
            ),
            ("taken over", marker(Some("there"), Some("p")), "o", Some("there"), true, Ok(())),
            (
                "taken over from another",
                marker(Some("there"), None),
                "o",
                Some("x"),
                true,
                Err("take-over=there"),
            ),
            (
                "taken over as unrecorded",
                marker(Some("there"), None),
                "o",
                Some("unrecorded"),
                true,
                Err("=there"),
            ),
            ("unknown cluster", marker(Some("here"), None), "o", None, false, Err("kube-system")),
            ("unsigned", marker(None, None), "o", None, true, Err("take-over=unrecorded")),
            (
                "unsigned, no UID on either side",
                marker(None, None),
                "",
                None,
                true,
                Err("take-over=unrecorded"),
            ),
            ("unsigned and taken over", marker(None, None), "o", Some("unrecorded"), true, Ok(())),
            ("an odd id", marker(Some("a b"), None), "o", None, true, Err("take-over='a b'")),
        ];
        for (why, marker, uid, take_over, known, expected) in rows {
            let removal = removal(uid, *take_over);
            let cluster = known.then_some(&ours);
            let pv_volume = PvVolume { name: &removal.name, pv_metadata: &removal.pv_metadata, cluster };
            match (owner(".berth/volumes/x.json", marker, pv_volume), expected) {
                (Ok(()), Ok(())) => {}
                (Err(error), Err(part)) => {
                    assert_eq!(error.kind(), Kind::Refused, "{why}");
                    let text = error.to_string();
                    assert!(text.contains(part) && text.contains(".berth/volumes/x.json"), "{why}: {text}");
                    let command = text.rsplit(": ").next().unwrap();
                    assert!(
                        command
                            .starts_with("kubectl annotate --overwrite pv pvc-u-1 berth.storage/take-over="),
                        "{text}"
                    );
                }
                (proved, _) => panic!("{why}: {proved:?}"),
            }
        }
    }

    #[test]
    fn a_directory_without_a_record_is_ours_only_by_its_name_or_because_an_administrator_says_so() {
        let ours = ClusterIds::only("here");
        let old = |take_over| Removal { id: None, ..removal("o", take_over) };
        let foreign = Removal { name: "some-volume".parse().unwrap(), ..old(None) };
        let rows: &[PathRow] = &[
            ("the old name", old(None), "ns-data-pvc-u-1", false, true, Ok(())),
            ("the old name further down", old(None), "sub/ns-data-pvc-u-1", false, true, Ok(())),
            ("the old name, cluster unknown", old(None), "ns-data-pvc-u-1", false, false, Ok(())),
            ("no UID in the name", foreign.clone(), "ns-data-some-volume", false, false, Err("kube-system")),
            ("the same, cluster known", foreign, "ns-data-some-volume", false, true, Ok(())),
            ("what the class gives", old(None), "a/b", true, true, Ok(())),
            ("what the class gives, cluster unknown", old(None), "a/b", true, false, Err("kube-system")),
            ("any path", old(None), "data", false, true, Err("called ns-data-pvc-u-1")),
            ("any path, taken over", old(Some("unrecorded")), "data", false, false, Ok(())),
            ("the record is missing", removal("o", None), "ns-data-pvc-u-1", true, true, Err("is missing")),
            ("the same, taken over", removal("o", Some("unrecorded")), "data", false, true, Ok(())),
        ];
        for (why, removal, path, patterned, known, expected) in rows {
            let path = path.parse().unwrap();
            let cluster = known.then_some(&ours);
            match (unrecorded("file", removal, &path, *patterned, cluster), expected) {
                (Ok(()), Ok(())) => {}
                (Err(error), Err(part)) => {
                    let text = error.to_string();
                    assert!(text.contains(part), "{why}: {text}");
                    assert!(text.ends_with("berth.storage/take-over=unrecorded"), "{why}: {text}");
                }
                (proved, _) => panic!("{why}: {proved:?}"),
            }
        }
    }
}
