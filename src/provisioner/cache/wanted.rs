//! What a claim wants: [`Wanted`].

use std::sync::Arc;

use super::{
    claim::{self, Claim, PendingExpansion},
    classes::Classes,
};
use crate::{
    backend::Backends,
    provisioner::{key::Key, objects::ClaimObject},
};

/// What is kept of a claim.
#[derive(Debug)]
pub(super) enum Wanted {
    Volume(Arc<Claim>),
    /// Nothing: it has a volume and only waits to be bound. Namespace and name, to find it again should the volume go.
    Binding(Box<(Box<str>, Box<str>)>),
    Expansion(Arc<PendingExpansion>),
}

impl Wanted {
    /// What this claim wants, if anything; `served`: its volume is stored.
    pub(super) fn new(
        object: &ClaimObject,
        uid: &str,
        backends: &Backends,
        classes: &Classes,
        served: bool,
    ) -> Option<Self> {
        if object.spec.volume_name.as_deref().is_some_and(|name| !name.is_empty()) {
            return PendingExpansion::new(object, uid)
                .map(|pending_expansion| Self::Expansion(Arc::new(pending_expansion)));
        }
        let metadata = &object.metadata;
        let ours = claim::provisioner(metadata).filter(|name| backends.get(name).is_some())?;
        Some(if served {
            let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
            Self::Binding(Box::new((text(&metadata.namespace), text(&metadata.name))))
        } else {
            let keys = classes.keys(claim::class_of(object));
            Self::Volume(Arc::new(Claim::new(object, uid, ours, &keys)))
        })
    }

    /// Whether this is what was wanted `before`.
    pub(super) fn is_same(&self, before: &Self) -> bool {
        match (before, self) {
            (Self::Volume(old), Self::Volume(new)) => {
                old.resource_version == new.resource_version && old.has(&new.keys)
            }
            (Self::Expansion(old), Self::Expansion(new)) => old == new,
            (Self::Binding(_), Self::Binding(_)) => true,
            (Self::Volume(_) | Self::Expansion(_) | Self::Binding(_), _) => false,
        }
    }

    /// The work on the claim with this UID; `served`: its volume is stored.
    pub(super) fn work(&self, uid: &Arc<str>, served: bool) -> Option<Key> {
        match self {
            Self::Volume(_) => Some(Key::Claim(Arc::clone(uid))),
            Self::Binding(_) => (!served).then(|| Key::Claim(Arc::clone(uid))),
            Self::Expansion(_) => Some(Key::Expand(Arc::clone(uid))),
        }
    }
}
