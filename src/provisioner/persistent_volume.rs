//! A volume as a `PersistentVolume`, and back: [`build`], [`source`], [`Recorded`]. Pure.
//!
//! Everything that removal needs is written on the PV when it is made, since by then the class may be gone or changed.
//! Nothing written here can be misread by an older provisioner.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{NFSVolumeSource, ObjectReference, PersistentVolume, PersistentVolumeSpec},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};

use super::{
    class::Class,
    names,
    objects::{VolumeObject, annotation},
    records::Claim,
};
use crate::{
    backend::{Error, Kind},
    volume::{Capacity, Disposal, Invalid, Origin, Place, Source, Volume, VolumeId},
};

/// The PV for `volume`, made for `claim` under `class`.
pub(super) fn build(
    volume: &Volume,
    place: &Place,
    claim: &Claim,
    class: &Class,
    disposal: Disposal,
    guarded: bool,
) -> Result<PersistentVolume, Error> {
    let annotations: BTreeMap<String, String> = [
        (names::PROVISIONED_BY, class.provisioner.clone()),
        (names::VOLUME_ID, volume.id.to_string()),
        (names::ON_DELETE, disposal.to_string()),
        (names::ORIGIN, volume.origin.to_string()),
        (names::PATH, place.segments.join("/")),
        (names::STORE_ID, volume.store_identity.clone()),
    ]
    .into_iter()
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
    Ok(PersistentVolume {
        metadata: ObjectMeta {
            name: Some(volume.id.name().to_string()),
            annotations: Some(annotations),
            finalizers: guarded.then(|| vec![names::FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: Some(claim.access_modes.iter().map(ToString::to_string).collect()),
            capacity: Some(capacity),
            claim_ref: Some(claim_ref),
            mount_options: (!class.mount_options.is_empty()).then(|| class.mount_options.clone()),
            nfs: match &volume.source {
                Source::Nfs { server, path } => {
                    Some(NFSVolumeSource { server: server.clone(), path: path.clone(), read_only: None })
                }
            },
            persistent_volume_reclaim_policy: Some(class.reclaim_policy.clone()),
            storage_class_name: Some(claim.class.to_string()),
            volume_mode: claim.volume_mode.as_deref().map(str::to_owned),
            ..PersistentVolumeSpec::default()
        }),
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
            format!("the storage made a volume of {reported}, which is less than the {text} asked for"),
        )),
        Some(reported) => Ok(reported.to_string()),
    }
}

/// Where the PV says that the volume is; `None` for a kind of source that no backend here makes.
pub(super) fn source(volume: &VolumeObject) -> Option<Source> {
    let nfs = volume.spec.nfs.as_ref()?;
    (!nfs.server.is_empty() && !nfs.path.is_empty())
        .then(|| Source::Nfs { server: nfs.server.clone(), path: nfs.path.clone() })
}

/// What we wrote on a PV. A PV of another maker has none of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) id: Option<VolumeId>,
    pub(super) disposal: Option<Disposal>,
    pub(super) origin: Option<Origin>,
}

impl Recorded {
    /// Reads the annotations; one that was changed to nonsense is an error, not an absence.
    pub(super) fn read(volume: &VolumeObject) -> Result<Self, Invalid> {
        Ok(Self {
            id: read(volume, names::VOLUME_ID)?,
            disposal: read(volume, names::ON_DELETE)?,
            origin: read(volume, names::ORIGIN)?,
        })
    }
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
        }
    }

    fn place() -> Place {
        Place { store: "default".into(), segments: vec!["default-data-pvc-0b6f-11".into()] }
    }

    /// Proves: case 10, case 32, row 5.1, row 5.2, row 5.3, row 5.4, row 5.5, row 5.6, row 5.7, row 5.8, row 5.9, row 5.10, row 5.11, row 5.12
    #[test]
    fn a_volume_is_described_in_full() {
        let claim = fixtures::claim(json!({}));
        let class = fixtures::class(json!({
            "reclaimPolicy": "Retain", "mountOptions": ["nfsvers=4.2", "hard"],
        }));
        let full = build(&volume(), &place(), &claim, &class, Disposal::Archive, true).unwrap();
        insta::assert_json_snapshot!("full", full);

        let plain = fixtures::claim(json!({"spec": {"volumeMode": null}}));
        let class = fixtures::class(json!({}));
        let bare = build(&volume(), &place(), &plain, &class, Disposal::Delete, false).unwrap();
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
        let built = build(&volume(), &place(), &claim, &class, Disposal::Keep, true).unwrap();
        let object: VolumeObject = serde_json::from_value(serde_json::to_value(built).unwrap()).unwrap();
        assert_eq!(source(&object), Some(volume().source));
        let expected =
            Recorded { id: Some(volume().id), disposal: Some(Disposal::Keep), origin: Some(Origin::Created) };
        assert_eq!(Recorded::read(&object), Ok(expected));
    }

    #[test]
    fn an_annotation_that_was_tampered_with_is_named() {
        for (key, value) in
            [(names::VOLUME_ID, "1/nfs/../../x"), (names::ON_DELETE, "Delete"), (names::ORIGIN, "")]
        {
            let object: VolumeObject =
                serde_json::from_value(json!({"metadata": {"annotations": {key: value}}})).unwrap();
            let error = Recorded::read(&object).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
