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
    class::{Class, legacy_retention, not_retention},
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
    pub(super) has_finalizer: bool,
}

/// The PV for `volume`, made for `claim` under `class`.
pub(super) fn build(
    volume: &Volume,
    place: &Location,
    claim: &Claim,
    class: &Class,
    recording: Recording,
) -> Result<PersistentVolume, Error> {
    let Recording { disposal, retention, has_finalizer } = recording;
    let has_finalizer = has_finalizer && class.reclaim_policy == "Delete";
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
            finalizers: has_finalizer.then(|| vec![names::FINALIZER.to_owned()]),
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
    pub(super) fn lenient(volume: &VolumeObject) -> Self {
        Self {
            id: read(volume, names::VOLUME_ID).unwrap_or_default(),
            disposal: read(volume, names::ON_DELETE).unwrap_or_default(),
            origin: read(volume, names::ORIGIN).unwrap_or_default(),
            store_identity: annotation(&volume.metadata, names::STORE_ID).map(str::to_owned),
            record: lenient_record(volume),
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
        let parameters = class.filter(|_| old).map(|class| class.legacy_parameters(backend));
        let retention = self.retention.or_else(|| legacy_retention(parameters.as_ref()?));
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
pub(super) fn lenient_record(volume: &VolumeObject) -> BTreeMap<String, String> {
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
mod tests;
