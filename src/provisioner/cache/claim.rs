//! What is kept of claims: [`Claim`] while one wants a volume, [`PendingExpansion`] while one asks for more than it has.
//!
//! Their authors choose how big they are, so each field has a bound, and of labels and annotations only those are kept that
//! the class needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::{
    limits::{ACCESS_MODES, PATTERN_BYTES, field},
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
    /// Whether it selects some volumes and not others.
    pub(crate) selector: bool,
    /// `spec.volumeAttributesClassName`, unless it is empty.
    pub(crate) attributes_class: Option<Box<str>>,
    pub(crate) source: Option<Box<DataSource>>,
    /// The keys by which labels and annotations were kept.
    pub(super) keys: Arc<ClaimKeys>,
    labels: Pairs,
    annotations: Pairs,
    /// How many bytes the values under these keys have, where they are too many: then none is kept.
    excess: Option<usize>,
}

/// Keys of labels and annotations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ClaimKeys {
    pub(crate) labels: BTreeSet<String>,
    pub(crate) annotations: BTreeSet<String>,
}

/// A map that is only kept and copied: without the nodes of a `BTreeMap`, which are never full.
type Pairs = Box<[(Box<str>, Box<str>)]>;

/// What `map` has of these keys.
fn picked<'a>(
    map: Option<&'a BTreeMap<String, String>>,
    keys: &'a BTreeSet<String>,
) -> impl Iterator<Item = (&'a str, &'a str)> + Clone {
    let value = move |key: &'a String| Some((key.as_str(), map?.get(key)?.as_str()));
    keys.iter().filter_map(value)
}

fn pairs<'a>(picked: impl Iterator<Item = (&'a str, &'a str)>) -> Pairs {
    picked.map(|(key, value)| (key.into(), value.into())).collect()
}

fn map(pairs: &Pairs) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

/// The provisioner that a claim names; the old key only counts where the new one is absent.
pub(super) fn provisioner(metadata: &ObjectMeta) -> Option<&str> {
    annotation(metadata, names::PROVISIONER).or_else(|| annotation(metadata, names::BETA_PROVISIONER))
}

impl Claim {
    /// What is kept of a claim whose class needs these keys.
    pub(crate) fn new(object: &ClaimObject, uid: &str, provisioner: &str, keys: &Arc<ClaimKeys>) -> Self {
        let metadata = &object.metadata;
        let spec = &object.spec;
        let text = |text: &Option<String>| field(text.as_deref().unwrap_or_default());
        let optional = |text: &Option<String>| text.as_deref().map(field);
        let labels = picked(metadata.labels.as_ref(), &keys.labels);
        let annotations = picked(metadata.annotations.as_ref(), &keys.annotations);
        let bytes: usize = labels.clone().chain(annotations.clone()).map(|(_, value)| value.len()).sum();
        let excess = (bytes > PATTERN_BYTES).then_some(bytes);
        let (labels, annotations) =
            if excess.is_some() { Default::default() } else { (pairs(labels), pairs(annotations)) };
        let source = spec.data_source.as_ref().or(spec.data_source_ref.as_ref());
        Self {
            namespace: text(&metadata.namespace),
            name: text(&metadata.name),
            uid: uid.into(),
            resource_version: text(&metadata.resource_version),
            provisioner: field(provisioner),
            class: field(class_of(object)),
            class_field: text(&spec.storage_class_name),
            node_selected: annotation(metadata, names::SELECTED_NODE).is_some_and(|node| !node.is_empty()),
            volume_mode: optional(&spec.volume_mode),
            access_modes: access_modes(spec.access_modes.as_deref().unwrap_or_default()),
            request: optional(&spec.resources.requests.storage),
            selector: spec.selector,
            attributes_class: optional(&spec.volume_attributes_class_name).filter(|name| !name.is_empty()),
            source: source.map(|source| Box::new(source.bounded())),
            keys: Arc::clone(keys),
            labels,
            annotations,
            excess,
        }
    }

    /// Whether all that a class with these keys needs was kept.
    pub(crate) fn has(&self, keys: &ClaimKeys) -> bool {
        keys.labels.is_subset(&self.keys.labels) && keys.annotations.is_subset(&self.keys.annotations)
    }

    /// How many bytes the labels and annotations have that the class needs, where they are too many.
    pub(crate) fn excess(&self) -> Option<usize> {
        self.excess
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

    /// The kind of its data source, for metrics: one of a few words, since a claim's author may write any.
    pub(crate) fn source_kind(&self) -> &'static str {
        match self.source.as_ref().map(|source| source.kind.as_str()) {
            None => "",
            Some("PersistentVolumeClaim") => "PersistentVolumeClaim",
            Some("VolumeSnapshot") => "VolumeSnapshot",
            Some(_) => "other",
        }
    }
}

/// The class of a claim.
pub(super) fn class_of(object: &ClaimObject) -> &str {
    class_name(&object.metadata, object.spec.storage_class_name.as_deref())
}

/// Each mode once, in their order.
fn access_modes(modes: &[String]) -> Box<[Box<str>]> {
    let mut kept: Vec<Box<str>> = Vec::new();
    for mode in modes {
        let mode = field(mode);
        if kept.len() < ACCESS_MODES && !kept.contains(&mode) {
            kept.push(mode);
        }
    }
    kept.into()
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A bound claim that asks for more than it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PendingExpansion {
    pub(crate) namespace: Box<str>,
    pub(crate) name: Box<str>,
    pub(crate) uid: Arc<str>,
    pub(crate) volume: Box<str>,
    pub(crate) request: Box<str>,
    /// What the claim has: when a node has done its part, more may still be requested.
    has: Box<str>,
    /// What kubelet says of a node's part in it; empty before and after.
    on_node: Box<str>,
}

impl PendingExpansion {
    pub(super) fn new(object: &ClaimObject, uid: &str) -> Option<Self> {
        if object.status.phase.as_deref() != Some("Bound") {
            return None;
        }
        let request = object.spec.resources.requests.storage.as_deref()?;
        let has = object.status.capacity.storage.as_deref()?;
        let wants_more = request != has && request.parse::<Capacity>().ok()? > has.parse().ok()?;
        let text = |text: &Option<String>| field(text.as_deref().unwrap_or_default());
        let state = object.status.allocated_resource_statuses.storage.as_deref().unwrap_or_default();
        let on_node = if state.starts_with("NodeResize") { state } else { "" };
        wants_more.then(|| Self {
            namespace: text(&object.metadata.namespace),
            name: text(&object.metadata.name),
            uid: uid.into(),
            volume: text(&object.spec.volume_name),
            request: field(request),
            has: field(has),
            on_node: field(on_node),
        })
    }
}

impl fmt::Display for PendingExpansion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
