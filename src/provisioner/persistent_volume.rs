//! A volume as a `PersistentVolume`, and back: [`build`], [`source`], [`Recorded`]. Pure.
//!
//! Everything that removal needs is written on the PV when it is made, since by then the class may be gone or changed.
//! Nothing written here can be misread by an older provisioner.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::core::v1::{
        CSIPersistentVolumeSource, CephFSPersistentVolumeSource, NFSVolumeSource, ObjectReference,
        PersistentVolume, PersistentVolumeSpec, RBDPersistentVolumeSource, SecretReference,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};

use super::{
    cache::claim::Claim,
    class::{Class, not_retention, retention_as_before},
    names,
    objects::{SecretRef, VolumeObject, annotation},
};
use crate::{
    backend::{Capabilities, Error, Kind},
    volume::{
        Capacity, CephfsSource, CsiSource, Disposal, Invalid, Location, Origin, PvMetadata, RbdSource,
        SecretName, Source, Volume, VolumeId, duration_text, parse_duration,
    },
};

/// What is recorded on a PV for the day of its removal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recording {
    /// What shall become of the bytes.
    pub(super) disposal: Disposal,
    /// How long they stay in the trash, where the class says so.
    pub(super) retention: Option<Duration>,
    /// Whether volumes get our finalizer. One that is to be retained does not need it.
    pub(super) guarded: bool,
}

/// The PV for `volume`, made for `claim` under `class`.
pub(super) fn build(
    volume: &Volume,
    place: &Location,
    claim: &Claim,
    class: &Class,
    recording: Recording,
) -> Result<PersistentVolume, Error> {
    let Recording { disposal, retention, guarded } = recording;
    let guarded = guarded && class.reclaim_policy == "Delete";
    let record = (!volume.record.is_empty()).then(|| {
        let fields = volume.record.iter().map(|(key, value)| (key.clone(), value.clone().into()));
        (names::RECORD, serde_json::Value::Object(fields.collect()).to_string())
    });
    let annotations: BTreeMap<String, String> = [
        (names::PROVISIONED_BY, class.provisioner.clone()),
        (names::VOLUME_ID, volume.id.to_string()),
        (names::ON_DELETE, disposal.to_string()),
        (names::ORIGIN, volume.origin.to_string()),
        (names::PATH, place.path.to_string()),
        (names::STORE_ID, volume.store_identity.clone()),
    ]
    .into_iter()
    .chain(record)
    .chain(retention.map(|time| (names::TRASH_RETENTION, duration_text(time))))
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    let claim_ref = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: Some(claim.namespace.to_string()),
        name: Some(claim.name.to_string()),
        uid: Some(claim.uid.to_string()),
        resource_version: Some(claim.resource_version.to_string()),
        ..ObjectReference::default()
    };
    let capacity = BTreeMap::from([("storage".to_owned(), Quantity(capacity(volume.capacity, claim)?))]);
    let spec = PersistentVolumeSpec {
        access_modes: Some(claim.access_modes.iter().map(ToString::to_string).collect()),
        capacity: Some(capacity),
        claim_ref: Some(claim_ref),
        mount_options: (!class.mount_options.is_empty()).then(|| class.mount_options.clone()),
        persistent_volume_reclaim_policy: Some(class.reclaim_policy.clone()),
        storage_class_name: Some(claim.class.to_string()),
        volume_mode: claim.volume_mode.as_deref().map(str::to_owned),
        ..PersistentVolumeSpec::default()
    };
    Ok(PersistentVolume {
        metadata: ObjectMeta {
            name: Some(volume.id.name().to_string()),
            annotations: Some(annotations),
            finalizers: guarded.then(|| vec![names::FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(with_source(spec, &volume.source)),
        status: None,
    })
}

/// What the PV says that it holds: the request as it was written, unless the storage says something else.
fn capacity(reported: Option<Capacity>, claim: &Claim) -> Result<String, Error> {
    let text = claim.request.as_deref().unwrap_or_default();
    let asked: Capacity = text.parse()?;
    match reported {
        None => Ok(text.to_owned()),
        Some(reported) if reported.bytes() == 0 || reported == asked => Ok(text.to_owned()),
        Some(reported) if reported < asked => Err(Error::new(
            Kind::Exhausted,
            format!("the storage created a volume of {reported}, which is less than the {text} requested"),
        )),
        Some(reported) => Ok(reported.to_string()),
    }
}

/// The same with the source of the volume.
fn with_source(spec: PersistentVolumeSpec, source: &Source) -> PersistentVolumeSpec {
    let secret = |name: &Option<SecretName>| {
        name.as_ref().map(|secret| SecretReference {
            name: Some(secret.name.clone()),
            namespace: (!secret.namespace.is_empty()).then(|| secret.namespace.clone()),
        })
    };
    match source {
        Source::Nfs { server, path } => PersistentVolumeSpec {
            nfs: Some(NFSVolumeSource { server: server.clone(), path: path.clone(), read_only: None }),
            ..spec
        },
        Source::Csi(csi) => PersistentVolumeSpec {
            csi: Some(CSIPersistentVolumeSource {
                driver: csi.driver.clone(),
                volume_handle: csi.handle.clone(),
                volume_attributes: Some(csi.attributes.clone()),
                fs_type: csi.fs_type.clone(),
                node_stage_secret_ref: secret(&csi.stage_secret),
                ..CSIPersistentVolumeSource::default()
            }),
            ..spec
        },
        Source::Rbd(rbd) => PersistentVolumeSpec {
            rbd: Some(RBDPersistentVolumeSource {
                monitors: rbd.monitors.clone(),
                pool: Some(rbd.pool.clone()),
                image: rbd.image.clone(),
                user: Some(rbd.user.clone()),
                secret_ref: secret(&rbd.secret),
                fs_type: rbd.fs_type.clone(),
                ..RBDPersistentVolumeSource::default()
            }),
            ..spec
        },
        Source::Cephfs(cephfs) => PersistentVolumeSpec {
            cephfs: Some(CephFSPersistentVolumeSource {
                monitors: cephfs.monitors.clone(),
                path: Some(cephfs.path.clone()),
                user: Some(cephfs.user.clone()),
                secret_ref: secret(&cephfs.secret),
                ..CephFSPersistentVolumeSource::default()
            }),
            ..spec
        },
    }
}

/// Where the PV says that the volume is; `None` for a kind of source that no backend here makes. What a PV leaves to
/// the defaults of the API is filled in.
pub(super) fn source(volume: &VolumeObject) -> Option<Source> {
    let spec = &volume.spec;
    let secret = |reference: &Option<SecretRef>| {
        let named = reference.as_ref().filter(|secret| !secret.name.is_empty());
        named.map(|secret| SecretName { namespace: secret.namespace.clone(), name: secret.name.clone() })
    };
    let or = |text: &Option<String>, default: &str| {
        text.as_deref().filter(|text| !text.is_empty()).unwrap_or(default).to_owned()
    };
    if let Some(nfs) = &spec.nfs {
        let whole = !nfs.server.is_empty() && !nfs.path.is_empty();
        whole.then(|| Source::Nfs { server: nfs.server.clone(), path: nfs.path.clone() })
    } else if let Some(csi) = &spec.csi {
        let whole = !csi.driver.is_empty() && !csi.volume_handle.is_empty();
        whole.then(|| {
            Source::Csi(CsiSource {
                driver: csi.driver.clone(),
                handle: csi.volume_handle.clone(),
                attributes: csi.volume_attributes.clone(),
                fs_type: csi.fs_type.clone().filter(|text| !text.is_empty()),
                stage_secret: secret(&csi.node_stage_secret_ref),
            })
        })
    } else if let Some(rbd) = &spec.rbd {
        let whole = !rbd.monitors.is_empty() && !rbd.image.is_empty();
        whole.then(|| {
            Source::Rbd(RbdSource {
                monitors: rbd.monitors.clone(),
                pool: or(&rbd.pool, "rbd"),
                image: rbd.image.clone(),
                user: or(&rbd.user, "admin"),
                secret: secret(&rbd.secret_ref),
                fs_type: rbd.fs_type.clone().filter(|text| !text.is_empty()),
            })
        })
    } else {
        let cephfs = spec.cephfs.as_ref().filter(|cephfs| !cephfs.monitors.is_empty())?;
        Some(Source::Cephfs(CephfsSource {
            monitors: cephfs.monitors.clone(),
            path: or(&cephfs.path, "/"),
            user: or(&cephfs.user, "admin"),
            secret: secret(&cephfs.secret_ref),
        }))
    }
}

/// What the source and the records of a volume say against each other, if they do. A source cannot be changed, annotations
/// can: acting on either of the two could hit another volume.
pub(super) fn contradiction(source: &Source, recorded: &Recorded) -> Option<String> {
    let (Source::Csi(csi), Some(id)) = (source, &recorded.id) else { return None };
    (csi.handle != id.to_string()).then(|| {
        format!(
            "the volume handle of the PersistentVolume is {:?}, but its annotation {} says {id}",
            csi.handle,
            names::VOLUME_ID
        )
    })
}

/// What we wrote on a PV. A PV of another maker has none of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) id: Option<VolumeId>,
    pub(super) disposal: Option<Disposal>,
    pub(super) origin: Option<Origin>,
    pub(super) store_identity: Option<String>,
    pub(super) record: BTreeMap<String, String>,
    pub(super) retention: Option<Duration>,
}

impl Recorded {
    /// Reads the annotations; one that was changed to nonsense is an error, not an absence.
    pub(super) fn read(volume: &VolumeObject) -> Result<Self, Invalid> {
        Ok(Self {
            id: read(volume, names::VOLUME_ID)?,
            disposal: read(volume, names::ON_DELETE)?,
            origin: read(volume, names::ORIGIN)?,
            store_identity: annotation(&volume.metadata, names::STORE_ID).map(str::to_owned),
            record: match annotation(&volume.metadata, names::RECORD) {
                None => BTreeMap::new(),
                Some(text) => serde_json::from_str(text).map_err(|error| {
                    let shown: String = text.chars().take(80).collect();
                    Invalid::new(
                        names::RECORD,
                        shown,
                        format!(
                            "must be a JSON object whose values are strings: \
                        {error}"
                        ),
                    )
                })?,
            },
            retention: annotation(&volume.metadata, names::TRASH_RETENTION)
                .map(|text| parse_duration(text).ok_or_else(|| not_retention(names::TRASH_RETENTION, text)))
                .transpose()?,
        })
    }

    /// The same without what cannot be read. For undoing what was begun, never for a removal.
    pub(super) fn legible(volume: &VolumeObject) -> Self {
        Self {
            id: read(volume, names::VOLUME_ID).unwrap_or_default(),
            disposal: read(volume, names::ON_DELETE).unwrap_or_default(),
            origin: read(volume, names::ORIGIN).unwrap_or_default(),
            store_identity: annotation(&volume.metadata, names::STORE_ID).map(str::to_owned),
            record: legible_record(volume),
            retention: annotation(&volume.metadata, names::TRASH_RETENTION).and_then(parse_duration),
        }
    }

    /// How the volume was made; `class` counts only where nothing is recorded.
    pub(super) fn pv_metadata(
        self,
        volume: &VolumeObject,
        class: Option<&Class>,
        backend: &Capabilities,
    ) -> PvMetadata {
        let old = self.id.is_none();
        let parameters = class.filter(|_| old).map(|class| class.parameters_as_before(backend));
        let retention = self.retention.or_else(|| retention_as_before(parameters.as_ref()?));
        PvMetadata {
            record: self.record,
            store_identity: self.store_identity,
            annotations: volume.metadata.annotations.clone().unwrap_or_default(),
            parameters: parameters.unwrap_or_default(),
            uid: volume.metadata.uid.clone().unwrap_or_default(),
            take_over: annotation(&volume.metadata, names::TAKE_OVER).map(str::to_owned),
            retention,
        }
    }
}

/// What the backend must be told again; nothing where that cannot be read. Never for a removal.
pub(super) fn legible_record(volume: &VolumeObject) -> BTreeMap<String, String> {
    let text = annotation(&volume.metadata, names::RECORD);
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn read<T: std::str::FromStr<Err = Invalid>>(
    volume: &VolumeObject,
    key: &'static str,
) -> Result<Option<T>, Invalid> {
    annotation(&volume.metadata, key)
        .map(|text| text.parse().map_err(|error: Invalid| Invalid::new(key, error.text, error.why)))
        .transpose()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{provisioner::fixtures, volume::VolumeName};

    fn volume() -> Volume {
        Volume {
            id: VolumeId::new("nfs", "default", VolumeName::for_claim("0b6f-11").unwrap()).unwrap(),
            source: Source::Nfs {
                server: "nas.example".into(),
                path: "/export/default-data-pvc-0b6f-11".into(),
            },
            capacity: None,
            origin: Origin::Created,
            store_identity: "5f0c".into(),
            record: BTreeMap::new(),
        }
    }

    fn recording(disposal: Disposal) -> Recording {
        Recording { disposal, retention: None, guarded: true }
    }

    fn place() -> Location {
        Location::new("default", "default-data-pvc-0b6f-11").unwrap()
    }

    /// Proves: case 10, case 32, row 5.1, row 5.2, row 5.3, row 5.4, row 5.5, row 5.6, row 5.7, row 5.8, row 5.9, row 5.10, row 5.11, row 5.12
    #[test]
    fn a_volume_is_described_in_full() {
        let claim = fixtures::claim(json!({}));
        let class = fixtures::class(json!({
            "reclaimPolicy": "Retain", "mountOptions": ["nfsvers=4.2", "hard"],
        }));
        let full = build(&volume(), &place(), &claim, &class, recording(Disposal::Archive)).unwrap();
        insta::assert_json_snapshot!("full", full);

        let plain = fixtures::claim(json!({"spec": {"volumeMode": null}}));
        let class = fixtures::class(json!({}));
        let bare = Recording { guarded: false, ..recording(Disposal::Delete) };
        let bare = build(&volume(), &place(), &plain, &class, bare).unwrap();
        insta::assert_json_snapshot!("bare", bare);
    }

    /// Proves: case 51, case 52
    #[test]
    fn the_capacity_is_what_was_asked_for_unless_the_storage_gives_more() {
        let table: &[(&str, Option<u64>, Option<&str>)] = &[
            ("1500Mi", None, Some("1500Mi")),
            ("1.5Gi", None, Some("1.5Gi")),
            ("1Gi", Some(0), Some("1Gi")),
            ("1024Mi", Some(1 << 30), Some("1024Mi")),
            ("1G", Some(1 << 30), Some("1Gi")),
            ("1Gi", Some(1_000_000_000), None),
        ];
        for (request, reported, expected) in table {
            let claim = fixtures::claim(json!({"spec": {"resources": {"requests": {"storage": request}}}}));
            let result = capacity(reported.map(Capacity::from_bytes), &claim);
            assert_eq!(result.ok().as_deref(), *expected, "{request} {reported:?}");
        }
    }

    #[test]
    fn what_was_written_is_read_back() {
        let claim = fixtures::claim(json!({}));
        let class = fixtures::class(json!({}));
        let terms = Recording { retention: Some(Duration::from_hours(36)), ..recording(Disposal::Retain) };
        let built = build(&volume(), &place(), &claim, &class, terms).unwrap();
        let object: VolumeObject = serde_json::from_value(serde_json::to_value(built).unwrap()).unwrap();
        assert_eq!(source(&object), Some(volume().source));
        let expected = Recorded {
            id: Some(volume().id),
            disposal: Some(Disposal::Retain),
            origin: Some(Origin::Created),
            store_identity: Some("5f0c".into()),
            record: BTreeMap::new(),
            retention: Some(Duration::from_hours(36)),
        };
        assert_eq!(Recorded::read(&object), Ok(expected));
    }

    fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn secret(namespace: &str, name: &str) -> SecretName {
        SecretName { namespace: namespace.into(), name: name.into() }
    }

    /// A volume on Ceph with this source.
    fn ceph(backend: &str, source: Source, record: &[(&str, &str)]) -> Volume {
        Volume {
            id: VolumeId::new(backend, "main", VolumeName::for_claim("0b6f-11").unwrap()).unwrap(),
            source,
            capacity: None,
            origin: Origin::Created,
            store_identity: "a7f64266-0894-4f1e-a635-d0aeaca0e993".into(),
            record: texts(record),
        }
    }

    /// Every kind of source, with a name for its golden file.
    fn sources() -> Vec<(&'static str, Volume)> {
        let csi = |driver: &str, attributes: &[(&str, &str)], fs_type: Option<&str>| {
            let backend = driver.split('.').next().unwrap();
            Source::Csi(CsiSource {
                driver: driver.into(),
                handle: format!("1/{backend}/main/pvc-0b6f-11"),
                attributes: texts(attributes),
                fs_type: fs_type.map(str::to_owned),
                stage_secret: Some(secret("storage", "ceph-node")),
            })
        };
        let image = [("clusterID", "main"), ("pool", "kube"), ("image", "berth-0b6f-11")];
        let rbd = |fs_type: Option<&str>, namespace: &str| {
            Source::Rbd(RbdSource {
                monitors: vec!["mon-a.example:6789".into(), "10.0.0.2:6789".into()],
                pool: "kube".into(),
                image: "berth-0b6f-11".into(),
                user: "kube".into(),
                secret: Some(secret(namespace, "ceph-user")),
                fs_type: fs_type.map(str::to_owned),
            })
        };
        let cephfs = Source::Cephfs(CephfsSource {
            monitors: vec!["mon-a.example:6789".into()],
            path: "/volumes/kubernetes/berth-0b6f-11/5f0c".into(),
            user: "berth-0b6f-11".into(),
            secret: Some(secret("default", "ceph-berth-0b6f-11-secret")),
        });
        vec![
            ("rbd-csi", ceph("rbd", csi("rbd.berth.storage", &image, Some("ext4")), &[("pool", "kube")])),
            ("rbd-csi-block", ceph("rbd", csi("rbd.berth.storage", &image, None), &[("pool", "kube")])),
            (
                "cephfs-csi",
                ceph("cephfs", csi("cephfs.berth.storage", &[("fsName", "a")], None), &[("fs", "a")]),
            ),
            (
                "rbd-in-tree",
                ceph("rbd", rbd(Some("xfs"), "storage"), &[("adminId", "admin"), ("quote", "\"\\")]),
            ),
            ("rbd-in-tree-bare", ceph("rbd", rbd(None, ""), &[])),
            ("cephfs-in-tree", ceph("cephfs", cephfs, &[])),
        ]
    }

    #[test]
    fn every_kind_of_source_is_described_in_full_and_read_back_equal() {
        for (name, volume) in sources() {
            let mode = if name.ends_with("block") { "Block" } else { "Filesystem" };
            let claim =
                fixtures::claim(json!({"spec": {"volumeMode": mode, "accessModes": ["ReadWriteOnce"]}}));
            let class = fixtures::class(json!({"mountOptions": ["noatime"]}));
            let place = Location::new("main", "kube/berth-0b6f-11").unwrap();
            let built = build(&volume, &place, &claim, &class, recording(Disposal::Archive)).unwrap();
            insta::assert_json_snapshot!(name, built);
            let object: VolumeObject = serde_json::from_value(serde_json::to_value(built).unwrap()).unwrap();
            assert_eq!(source(&object).as_ref(), Some(&volume.source), "{name}");
            let recorded = Recorded::read(&object).unwrap();
            assert_eq!(recorded.record, volume.record, "{name}");
            assert_eq!(recorded.id.as_ref(), Some(&volume.id), "{name}");
            assert_eq!(contradiction(&volume.source, &recorded), None, "{name}");
        }
    }

    /// The API server fills in what an older provisioner left out.
    #[test]
    fn what_a_volume_leaves_to_the_defaults_is_filled_in() {
        let read = |spec: serde_json::Value| {
            source(&serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap())
        };
        let bare =
            read(json!({"rbd": {"monitors": ["m"], "image": "i", "fsType": "", "secretRef": {"name": ""}}}));
        let expected = RbdSource {
            monitors: vec!["m".into()],
            pool: "rbd".into(),
            image: "i".into(),
            user: "admin".into(),
            secret: None,
            fs_type: None,
        };
        assert_eq!(bare, Some(Source::Rbd(expected)));
        let expected =
            CephfsSource { monitors: vec!["m".into()], path: "/".into(), user: "admin".into(), secret: None };
        assert_eq!(read(json!({"cephfs": {"monitors": ["m"]}})), Some(Source::Cephfs(expected)));
        for nothing in [
            json!({"rbd": {"image": "i"}}),
            json!({"rbd": {"monitors": ["m"]}}),
            json!({"cephfs": {"path": "/a"}}),
            json!({"csi": {"driver": "d"}}),
            json!({"csi": {"volumeHandle": "h"}}),
            json!({"hostPath": {"path": "/"}}),
        ] {
            assert_eq!(read(nothing.clone()), None, "{nothing}");
        }
    }

    #[test]
    fn an_annotation_that_was_tampered_with_is_named() {
        for (key, value) in [
            (names::VOLUME_ID, "1/nfs/../../x"),
            (names::ON_DELETE, "Delete"),
            (names::ORIGIN, ""),
            (names::RECORD, "pool=kube"),
            (names::TRASH_RETENTION, "10"),
            (names::TRASH_RETENTION, ""),
        ] {
            let object: VolumeObject =
                serde_json::from_value(json!({"metadata": {"annotations": {key: value}}})).unwrap();
            let error = Recorded::read(&object).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
            let legible = Recorded::legible(&object);
            assert_eq!(
                (legible.id, legible.disposal, legible.origin, legible.retention),
                (None, None, None, None)
            );
        }
    }
}
