//! Whether an image is a PV's: [`judge`] holds the mark of the image against what the PV says. Pure.
//!
//! What proves are the cluster together with the volume's name, or the UID of the PV object. What is not known is never equal to
//! anything.

use super::{
    names,
    owner::{Mark, OWNER},
};
use crate::{
    backend::{
        Error, Kind, UNKNOWN_CLUSTER,
        ceph::owner::{self, PvVolume},
        take_over,
    },
    volume::{ClusterIds, InUse, UNRECORDED, VolumeName},
};

/// What follows from the mark, or from there being none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The image is the PV's.
    Ours,
    /// It is, as an administrator says or as it was before there were marks: it is marked for the PV before anything else.
    /// `instead_of`: the mark names this other volume of the same cluster, which must be gone.
    Relabel { instead_of: Option<VolumeName> },
}

/// Whether the image `spec` with this mark is the volume of the PV; refused where nothing proves it.
pub(super) fn judge(
    spec: &str,
    mark: Option<&Mark>,
    pv: PvVolume<'_>,
    cluster: Option<&ClusterIds>,
) -> Result<Verdict, Error> {
    let image = names::in_place(spec.rsplit('/').next().unwrap_or(spec));
    let PvVolume { name, pv_metadata, .. } = pv;
    if let Some(mark) = mark
        && !mark.object.is_empty()
        && mark.object == pv_metadata.uid
    {
        return Ok(Verdict::Ours);
    }
    let Some(cluster) = cluster else {
        return refused(format!(
            "nothing proves whose image {spec} is, and nothing was touched: {UNKNOWN_CLUSTER}"
        ));
    };
    let owner = match mark {
        Some(mark) if mark.has_cluster_id() => mark.cluster_id.as_str(),
        Some(_) | None => UNRECORDED,
    };
    let of = mark.and_then(|mark| mark.volume(image));
    match owner::judge(owner, of.as_ref() == Some(name), pv, cluster) {
        owner::Verdict::Ours => return Ok(Verdict::Ours),
        owner::Verdict::TakenOver => {
            let instead_of = of.filter(|of| of != name && mark.is_some_and(|mark| mark.is_of(Some(cluster))));
            return Ok(Verdict::Relabel { instead_of });
        }
        owner::Verdict::Unproved => {}
    }
    if mark.is_none() && is_legacy(image, pv) {
        return Ok(Verdict::Relabel { instead_of: None });
    }
    refused(format!(
        "image {spec} {}; nothing was touched. If it is not this PersistentVolume's, set its reclaim policy to Retain and delete \
         it. If it is, and no other cluster uses the image: {}",
        whose(mark, name, cluster),
        take_over(name, owner)
    ))
}

fn whose(mark: Option<&Mark>, name: &VolumeName, cluster: &ClusterIds) -> String {
    match mark {
        None => format!("has no owner (metadata {OWNER}), so nothing proves that it is the image of {name}"),
        Some(mark) if !mark.has_cluster_id() => {
            format!("is marked for {mark} and does not say of which cluster, so it may be another one's")
        }
        Some(mark) if mark.is_of(Some(cluster)) => format!("belongs to {mark}, and not to {name}"),
        Some(mark) => format!("belongs to {mark}, and this cluster is {cluster}"),
    }
}

/// Whether a volume that a PV uses may be marked as its own although its mark does not prove that: the mark was written before
/// the cluster was known, or there is none.
///
/// A copy of a PV that is bound in another cluster is bound to a claim with another UID.
pub(super) fn may_be_relabelled(spec: &str, mark: Option<&Mark>, volume: &InUse) -> bool {
    let image = spec.rsplit('/').next().unwrap_or(spec);
    match mark {
        Some(mark) => {
            !mark.has_cluster_id()
                && mark.uid == volume.claim.uid
                && mark.volume(image).is_none_or(|of| of == volume.name)
        }
        None => volume.id.is_some() && names::uid_of(image) == volume.claim.uid,
    }
}

/// Whether an older provisioner made the image, which marked nothing: it has a name as that gave it, and the PV the annotation
/// that that wrote.
fn is_legacy(image: &str, pv: PvVolume<'_>) -> bool {
    let annotations = &pv.pv_metadata.annotations;
    let made = annotations.contains_key("rbdProvisionerIdentity")
        || annotations.get("kubernetes.io/createdby").is_some_and(|by| by == "rbd-dynamic-provisioner");
    pv.id.is_none() && made && names::is_legacy(image, pv.name)
}

fn refused<T>(message: String) -> Result<T, Error> {
    Err(Error::new(Kind::Refused, message))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::volume::{ClaimKey, PvMetadata, Source, VolumeId};

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

    /// What it is about, the image, its mark, and what the PV says of itself.
    struct Row {
        what: &'static str,
        image: &'static str,
        mark: Option<Mark>,
        name: &'static str,
        has_id: bool,
        uid: &'static str,
        annotations: &'static [(&'static str, &'static str)],
        take_over: Option<&'static str>,
        cluster: Option<ClusterIds>,
        expected: Result<Option<&'static str>, &'static str>,
    }

    impl Default for Row {
        fn default() -> Self {
            Self {
                what: "",
                image: "berth-u-1",
                mark: Some(mark("here", "u-1")),
                name: "pvc-u-1",
                has_id: true,
                uid: "object",
                annotations: &[],
                take_over: None,
                cluster: Some(here()),
                // No verdict of a new mark.
                expected: Ok(None),
            }
        }
    }

    const SIGN: Result<Option<&str>, &str> = Ok(Some(""));

    fn marked_for(volume: &str) -> Mark {
        Mark { volume: volume.into(), ..mark("here", "u-9") }
    }

    fn rows() -> Vec<Row> {
        let usual = Row::default;
        vec![
            Row { what: "our own", ..usual() },
            Row { what: "of before the cluster was rebuilt", mark: Some(mark("before", "u-1")), ..usual() },
            Row {
                what: "a copy of another cluster's PV",
                mark: Some(mark("there", "u-1")),
                expected: Err("kubectl annotate --overwrite pv pvc-u-1 berth.storage/take-over=there"),
                ..usual()
            },
            Row {
                what: "handed over",
                mark: Some(mark("there", "u-1")),
                take_over: Some("there"),
                expected: SIGN,
                ..usual()
            },
            Row {
                what: "handed over by another one",
                mark: Some(mark("third", "u-1")),
                take_over: Some("there"),
                expected: Err("take-over=third"),
                ..usual()
            },
            Row {
                what: "unsigned",
                mark: Some(mark("", "u-1")),
                expected: Err("take-over=unrecorded"),
                ..usual()
            },
            Row {
                what: "unsigned, taken over",
                mark: Some(mark("", "u-1")),
                take_over: Some("unrecorded"),
                expected: SIGN,
                ..usual()
            },
            Row {
                what: "a signed one is not unrecorded",
                mark: Some(mark("there", "u-1")),
                take_over: Some("unrecorded"),
                expected: Err("take-over=there"),
                ..usual()
            },
            Row { what: "ours without a mark", mark: None, expected: Err("take-over=unrecorded"), ..usual() },
            Row {
                what: "the same, taken over",
                mark: None,
                take_over: Some("unrecorded"),
                expected: SIGN,
                ..usual()
            },
            Row { what: "no known cluster", cluster: None, expected: Err("kube-system"), ..usual() },
            Row {
                what: "no known cluster anywhere",
                mark: Some(mark("", "u-1")),
                cluster: None,
                expected: Err("--cluster-id"),
                ..usual()
            },
            Row {
                what: "no known cluster, and taken over",
                mark: Some(mark("", "u-1")),
                take_over: Some("unrecorded"),
                cluster: None,
                expected: Err("kube-system"),
                ..usual()
            },
            Row {
                what: "no known cluster, and the very object",
                mark: Some(Mark { object: "object".into(), ..mark("here", "u-1") }),
                cluster: None,
                ..usual()
            },
            Row {
                what: "no known object is not the object",
                mark: Some(Mark { object: String::new(), ..mark("there", "u-1") }),
                uid: "",
                expected: Err("take-over=there"),
                ..usual()
            },
            Row {
                what: "another volume of ours",
                mark: Some(marked_for("pvc-9")),
                expected: Err("take-over=here"),
                ..usual()
            },
            Row {
                what: "another volume of ours, given over",
                mark: Some(marked_for("pvc-9")),
                take_over: Some("here"),
                expected: Ok(Some("pvc-9")),
                ..usual()
            },
        ]
    }

    fn rows_of_older_provisioners() -> Vec<Row> {
        let identity: &[_] = &[("rbdProvisionerIdentity", "ceph.com/rbd")];
        let legacy = || Row { image: LEGACY, mark: None, name: "pvc-old", has_id: false, ..Row::default() };
        vec![
            Row { what: "an older provisioner's", annotations: identity, expected: SIGN, ..legacy() },
            Row {
                what: "an in-tree plugin's",
                annotations: &[("kubernetes.io/createdby", "rbd-dynamic-provisioner")],
                expected: SIGN,
                ..legacy()
            },
            Row { what: "made by hand", expected: Err("take-over=unrecorded"), ..legacy() },
            Row {
                what: "made by hand, with the annotation",
                image: "production-database",
                annotations: identity,
                expected: Err("take-over=unrecorded"),
                ..legacy()
            },
            Row {
                what: "made by hand, with a name like it",
                image: "kubernetes-dynamic-pvc-database",
                annotations: identity,
                expected: Err("take-over=unrecorded"),
                ..legacy()
            },
            Row {
                what: "with the name of another PV",
                image: "pvc-u-1",
                annotations: identity,
                expected: Err("unrecorded"),
                ..legacy()
            },
            Row {
                what: "an older one, called as its PV",
                image: "pvc-6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f11",
                name: "pvc-6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f11",
                annotations: identity,
                expected: SIGN,
                ..legacy()
            },
            Row {
                what: "an older one, no known cluster",
                annotations: identity,
                cluster: None,
                expected: Err("kube-system"),
                ..legacy()
            },
            Row { what: "an older one, registered", mark: Some(marked_for("pvc-old")), ..legacy() },
            Row {
                what: "an older one, registered elsewhere",
                mark: Some(Mark { cluster_id: "there".into(), ..marked_for("pvc-old") }),
                annotations: identity,
                expected: Err("take-over=there"),
                ..legacy()
            },
        ]
    }

    #[test]
    fn only_what_a_mark_or_an_older_provisioner_or_an_administrator_proves_is_a_pvs() {
        for row in rows().into_iter().chain(rows_of_older_provisioners()) {
            let annotations =
                row.annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            let pv_metadata = PvMetadata {
                annotations: annotations.collect::<BTreeMap<_, _>>(),
                uid: row.uid.into(),
                take_over: row.take_over.map(str::to_owned),
                ..PvMetadata::default()
            };
            // It was bound to another claim since: that proves nothing, and refutes nothing.
            let (name, claim): (VolumeName, _) = (row.name.parse().unwrap(), claim("another-claim"));
            let id = VolumeId::new("rbd", "main", name.clone()).unwrap();
            let source = Source::Nfs { server: String::new(), path: String::new() };
            let pv = PvVolume {
                name: &name,
                id: row.has_id.then_some(&id),
                source: &source,
                claim: &claim,
                pv_metadata: &pv_metadata,
            };
            let spec = format!("rbd/{}", row.image);
            let found = judge(&spec, row.mark.as_ref(), pv, row.cluster.as_ref());
            match (row.expected, found) {
                (Ok(None), Ok(Verdict::Ours)) => {}
                (Ok(Some(expected)), Ok(Verdict::Relabel { instead_of })) => {
                    assert_eq!(
                        instead_of.map_or_else(String::new, |of| of.to_string()),
                        expected,
                        "{}",
                        row.what
                    );
                }
                (Err(part), Err(error)) => {
                    let told = error.to_string();
                    assert!(error.kind() == Kind::Refused && told.contains(part), "{}: {told}", row.what);
                    assert!(!part.contains("take-over") || told.ends_with(part), "{}: {told}", row.what);
                }
                (_, found) => panic!("{}: {found:?}", row.what),
            }
        }
    }

    #[test]
    fn a_mark_is_signed_only_for_the_claim_that_it_names() {
        let in_use = |uid: &str, id: Option<&str>| InUse {
            name: "pvc-u-1".parse().unwrap(),
            id: id.map(|id| id.parse().unwrap()),
            source: crate::volume::Source::Nfs { server: String::new(), path: String::new() },
            claim: claim(uid),
            origin: crate::volume::Origin::Created,
            capacity: crate::volume::Capacity::from_bytes(1),
            pv_metadata: PvMetadata::default(),
        };
        let (ours, copy) =
            (in_use("u-1", Some("1/rbd/main/pvc-u-1")), in_use("u-2", Some("1/rbd/main/pvc-u-1")));
        let rows = [
            ("unsigned", Some(mark("", "u-1")), &ours, true),
            ("unsigned, bound as a copy elsewhere", Some(mark("", "u-1")), &copy, false),
            ("another cluster's", Some(mark("there", "u-1")), &ours, false),
            ("one that lost its mark", None, &ours, true),
            ("the same, bound as a copy elsewhere", None, &copy, false),
            ("one without an id", None, &in_use("u-1", None), false),
        ];
        for (row, mark, volume, expected) in rows {
            assert_eq!(may_be_relabelled("rbd/berth-u-1", mark.as_ref(), volume), expected, "{row}");
        }
    }
}
