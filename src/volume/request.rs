//! What a claim asks for: [`VolumeRequest`], which also carries where the volume would lie once a backend has said so.

use std::{any::Any, collections::BTreeMap, sync::Arc};

use super::{Access, Capacity, ClaimKey, Mode, Placement, VolumeName};

/// The claim a volume is made for, as far as names on the storage depend on it.
///
/// Its author controls every field but the UID: hostile input for whoever builds a path or a command from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The claim's namespace.
    pub namespace: String,
    /// The claim's name.
    pub name: String,
    /// The claim's UID.
    pub uid: String,
    /// The claim's labels.
    pub labels: BTreeMap<String, String>,
    /// The claim's annotations.
    pub annotations: BTreeMap<String, String>,
}

impl Claim {
    /// Which claim it is.
    pub fn key(&self) -> ClaimKey {
        ClaimKey { namespace: self.namespace.clone(), name: self.name.clone(), uid: self.uid.clone() }
    }
}

/// What is asked of a backend for one claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeRequest {
    /// The volume's name, from the claim's UID.
    pub name: VolumeName,
    /// Whom it is for.
    pub claim: Claim,
    /// How much is asked for, at least.
    pub capacity: Capacity,
    /// How it will be used.
    pub access: Vec<Access>,
    /// As what it will be used.
    pub mode: Mode,
    /// The class's parameters that the backend declared as its own
    /// ([`Capabilities::parameters`](crate::backend::Capabilities)), and no others.
    pub parameters: BTreeMap<String, String>,
    /// Where the backend has said that it would lie, once it was asked.
    pub placement: Option<Placement>,
}

impl VolumeRequest {
    /// What the backend parsed of the class when it placed the request; parsed now where it has not been placed.
    pub fn plan<T: Any + Send + Sync, E>(&self, parse: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let placed = self.placement.as_ref().and_then(Placement::plan);
        placed.map_or_else(|| parse().map(Arc::new), Ok)
    }
}
