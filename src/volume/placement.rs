//! Where a class puts the volume of one claim: [`Placement`], parsed once and carried by the request.
//!
//! What a backend parsed besides is its own business: only it can read it again.

use std::{any::Any, fmt, sync::Arc};

use super::Location;

/// Where the volume of a request would lie, as the class says.
#[derive(Clone)]
pub struct Placement {
    /// Where it would lie.
    pub location: Location,
    /// Whether the class allows it to lie at exactly the location of another volume. Above or below another volume is never
    /// allowed.
    pub may_share: bool,
    plan: Arc<dyn Any + Send + Sync>,
}

impl Placement {
    /// A placement with all that the backend has parsed of the class, for [`VolumeRequest::plan`](super::VolumeRequest::plan).
    pub fn new(location: Location, may_share: bool, plan: impl Any + Send + Sync) -> Self {
        Self { location, may_share, plan: Arc::new(plan) }
    }

    /// What the backend parsed, where that is a `T`.
    pub(super) fn plan<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        Arc::clone(&self.plan).downcast().ok()
    }
}

impl PartialEq for Placement {
    /// The plan follows from the request.
    fn eq(&self, other: &Self) -> bool {
        (&self.location, self.may_share) == (&other.location, other.may_share)
    }
}

impl Eq for Placement {}

impl fmt::Debug for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Placement")
            .field("location", &self.location)
            .field("may_share", &self.may_share)
            .finish_non_exhaustive()
    }
}
