//! What is kept of claims: [`Claim`] while one wants a volume, [`Growing`] while one asks for more than it has.

use std::{collections::BTreeMap, fmt, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::{
    names,
    objects::{ClaimObject, DataSource, annotation, class_name},
};
use crate::volume::{self, Capacity, ClaimKey};

/// A claim that wants a volume of one of our provisioners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
    pub(crate) uid: Arc<str>,
    pub(crate) resource_version: Box<str>,
    /// The provisioner that the claim names.
    pub(crate) provisioner: Box<str>,
    /// The class, from the old annotation or the field.
    pub(crate) class: Box<str>,
    /// The field alone, which is what metrics are labelled with.
    pub(crate) class_field: Box<str>,
    /// Whether a node was selected.
    pub(crate) node_selected: bool,
    pub(crate) volume_mode: Option<Box<str>>,
    pub(crate) access_modes: Box<[Box<str>]>,
    pub(crate) request: Option<Box<str>>,
    pub(crate) selector: bool,
    pub(crate) source: Option<Box<DataSource>>,
    labels: Pairs,
    annotations: Pairs,
}

/// A map that is only kept and copied: without the nodes of a `BTreeMap`, which are never full.
type Pairs = Box<[(Box<str>, Box<str>)]>;

fn pairs(map: Option<&BTreeMap<String, String>>) -> Pairs {
    map.into_iter().flatten().map(|(k, v)| (k.as_str().into(), v.as_str().into())).collect()
}

fn map(pairs: &Pairs) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

/// The provisioner that a claim names; the old key only counts where the new one is absent.
pub(super) fn provisioner(metadata: &ObjectMeta) -> Option<&str> {
    annotation(metadata, names::PROVISIONER).or_else(|| annotation(metadata, names::BETA_PROVISIONER))
}

impl Claim {
    pub(crate) fn new(object: &ClaimObject, uid: &str, provisioner: &str) -> Self {
        let metadata = &object.metadata;
        let spec = &object.spec;
        let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
        Self {
            namespace: text(&metadata.namespace),
            name: text(&metadata.name),
            uid: uid.into(),
            resource_version: text(&metadata.resource_version),
            provisioner: provisioner.into(),
            class: class_name(metadata, spec.storage_class_name.as_deref()).into(),
            class_field: text(&spec.storage_class_name),
            node_selected: annotation(metadata, names::SELECTED_NODE).is_some_and(|node| !node.is_empty()),
            volume_mode: spec.volume_mode.as_deref().map(Into::into),
            access_modes: spec.access_modes.iter().flatten().map(|mode| mode.as_str().into()).collect(),
            request: spec.resources.requests.storage.as_deref().map(Into::into),
            selector: spec.selector,
            source: spec.data_source.clone().or_else(|| spec.data_source_ref.clone()).map(Box::new),
            labels: pairs(metadata.labels.as_ref()),
            annotations: pairs(metadata.annotations.as_ref()),
        }
    }

    /// The claim as a backend sees it.
    pub(crate) fn to_volume_claim(&self) -> volume::Claim {
        volume::Claim {
            namespace: self.namespace.to_string(),
            name: self.name.to_string(),
            uid: self.uid.to_string(),
            labels: map(&self.labels),
            annotations: map(&self.annotations),
        }
    }

    /// Which claim it is.
    pub(crate) fn key(&self) -> ClaimKey {
        ClaimKey {
            namespace: self.namespace.to_string(),
            name: self.name.to_string(),
            uid: self.uid.to_string(),
        }
    }

    /// The kind of its data source, for metrics.
    pub(crate) fn source_kind(&self) -> &str {
        self.source.as_ref().map_or("", |source| &source.kind)
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A bound claim that asks for more than it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Growing {
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
    pub(crate) uid: Arc<str>,
    pub(crate) volume: Box<str>,
    pub(crate) request: Box<str>,
}

impl Growing {
    pub(super) fn new(object: &ClaimObject, uid: &str) -> Option<Self> {
        if object.status.phase.as_deref() != Some("Bound") {
            return None;
        }
        let request = object.spec.resources.requests.storage.as_deref()?;
        let has = object.status.capacity.storage.as_deref()?;
        let wants_more = request != has && request.parse::<Capacity>().ok()? > has.parse().ok()?;
        let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
        wants_more.then(|| Self {
            namespace: text(&object.metadata.namespace),
            name: text(&object.metadata.name),
            uid: uid.into(),
            volume: text(&object.spec.volume_name),
            request: request.into(),
        })
    }
}

impl fmt::Display for Growing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
