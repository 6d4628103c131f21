//! Whose a volume on the storage is: a PV that claims it ([`PvVolume`]), held against the mark that it carries ([`judge`]). Pure.
//!
//! What proves are the cluster together with the volume's name. What is not known is never equal to anything.

use crate::volume::{
    ClaimKey, ClusterIds, ExpandRequest, InUse, PvMetadata, Removal, Source, UNRECORDED, VolumeId, VolumeName,
};

/// A PV that says that something on the storage is its volume.
#[derive(Debug, Clone, Copy)]
pub struct PvVolume<'a> {
    /// The volume's name.
    pub name: &'a VolumeName,
    /// Its id; without one an older provisioner made the volume.
    pub id: Option<&'a VolumeId>,
    /// What the PV says of where the volume lies.
    pub source: &'a Source,
    /// The claim that the PV is or was bound to.
    pub claim: &'a ClaimKey,
    /// What else stands on the PV.
    pub pv_metadata: &'a PvMetadata,
}

macro_rules! pv {
    ($($request:ty),*) => {$(
        impl<'a> From<&'a $request> for PvVolume<'a> {
            fn from(request: &'a $request) -> Self {
                let (name, id, source) = (&request.name, request.id.as_ref(), &request.source);
                Self { name, id, source, claim: &request.claim, pv_metadata: &request.pv_metadata }
            }
        }
    )*};
}

pv!(Removal, InUse, ExpandRequest);

/// What a mark proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the volume's.
    Ours,
    /// An administrator says that it is the volume's from now on: it is marked so before anything else.
    TakenOver,
    /// Nothing.
    Unproved,
}

/// Whether what carries a mark of the cluster `owner` ([`UNRECORDED`] where it says none), which names this volume or does not, is the
/// volume of the PV.
pub fn judge(owner: &str, names_volume: bool, pv: PvVolume<'_>, cluster: &ClusterIds) -> Verdict {
    if names_volume && owner != UNRECORDED && cluster.include(owner) {
        Verdict::Ours
    } else if pv.pv_metadata.take_over.as_deref() == Some(owner) {
        Verdict::TakenOver
    } else {
        Verdict::Unproved
    }
}
