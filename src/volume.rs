//! The nouns: what a volume is, what is asked of one, what becomes of it. Pure values without I/O.
//!
//! Every type has one fallible constructor; whoever holds a value need not check it again. Start with
//! [`VolumeRequest`] (what a claim asks for) and [`Volume`] (what a backend made of it).
//!
//! Nothing here knows of Kubernetes objects, of gRPC, or of a storage system.

mod access;
mod capacity;
mod clock;
mod cluster;
pub mod dns;
mod go;
mod invalid;
mod location;
mod name;
mod permit;
mod placement;
mod request;
mod secrets;
mod source;

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

pub use access::{Access, Mode};
pub use capacity::Capacity;
pub use clock::{Clock, Moment};
pub use cluster::ClusterIds;
pub use go::{duration_text, parse_bool, parse_duration};
pub use invalid::Invalid;
pub use location::{Location, RelativePath};
pub use name::{StoreName, VolumeId, VolumeName, fnv1a, is_uuid};
pub use permit::{Expired, Permit};
pub use placement::Placement;
pub use request::{Claim, VolumeRequest};
pub use secrets::{SecretName, Secrets};
pub use source::{CephfsSource, CsiSource, RbdSource, Source};

/// Whether the bytes were there before the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// We made them.
    Created,
    /// The class asked to use what already was there; it is never deleted, at most archived.
    Adopted,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Adopted => "adopted",
        })
    }
}

impl FromStr for Origin {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "created" => Ok(Self::Created),
            "adopted" => Ok(Self::Adopted),
            _ => Err(Invalid::new("origin", text, "must be created or adopted")),
        }
    }
}

/// A volume that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name for ever.
    pub id: VolumeId,
    /// Where it is.
    pub source: Source,
    /// What it holds at least; `None` where the storage does not limit it (the request is then what the PV says).
    pub capacity: Option<Capacity>,
    /// Whether we made it.
    pub origin: Origin,
    /// The identity of the store that it lies in, by which a store that was swapped or is not mounted is recognised.
    pub store_identity: String,
    /// What the backend must be told again to grow or remove the volume, where the source does not say it. It is
    /// written on the PV, where everybody who may read PVs sees it: no secrets.
    pub record: BTreeMap<String, String>,
}

/// What a PV tells of how its volume was made, beyond its source. Only administrators write PVs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PvMetadata {
    /// [`Volume::record`], for what we made.
    pub record: BTreeMap<String, String>,
    /// [`Volume::store_identity`], for what we made.
    pub store_identity: Option<String>,
    /// The PV's annotations, in which the older provisioners kept their records.
    pub annotations: BTreeMap<String, String>,
    /// The parameters of the PV's class as it is now, for PVs of older provisioners; empty where the class is gone, and
    /// for what we made.
    pub parameters: BTreeMap<String, String>,
    /// The UID of the PV object; empty where it is not known. Equal UIDs prove that it is the same object of the same cluster;
    /// different ones prove nothing, since a PV that is restored from a backup gets another one.
    pub uid: String,
    /// The owner whose volume an administrator took over by an annotation on the PV: the identity of the cluster that a
    /// record on the storage names, or [`UNRECORDED`] where there is no record.
    pub take_over: Option<String>,
    /// How long what is deleted stays in the trash, where the class said so when the volume was made.
    pub retention: Option<Duration>,
}

impl PvMetadata {
    /// The UID of the PV object, where it is known.
    pub fn known_uid(&self) -> Option<&str> {
        Some(self.uid.as_str()).filter(|uid| !uid.is_empty())
    }
}

/// What an administrator writes as the owner of data that nothing on the storage tells the owner of.
pub const UNRECORDED: &str = "unrecorded";

/// A volume that a PV of this cluster uses, as the PV tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// The PV's name.
    pub name: VolumeName,
    /// The id that we recorded on the PV; `None` for a PV of an older provisioner.
    pub id: Option<VolumeId>,
    /// Where the PV says that the volume is.
    pub source: Source,
    /// The claim that the PV is bound to.
    pub claim: ClaimKey,
    /// Whether we made it, as recorded on the PV.
    pub origin: Origin,
    /// What it holds, as the PV says.
    pub capacity: Capacity,
    /// What the PV says beyond its source.
    pub pv_metadata: PvMetadata,
}

/// What becomes of the bytes when the claim is gone. It has no default on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disposal {
    /// Moved to the trash, then purged.
    Delete,
    /// Moved aside under a name that tells whose it was.
    Archive,
    /// Left where it is.
    Retain,
}

impl Disposal {
    /// What really becomes of the data: what existed before its volume is never deleted.
    #[must_use]
    pub fn of(self, origin: Origin) -> Self {
        match (self, origin) {
            (Self::Delete, Origin::Adopted) => Self::Archive,
            (asked, Origin::Created | Origin::Adopted) => asked,
        }
    }
}

impl fmt::Display for Disposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Delete => "delete",
            Self::Archive => "archive",
            Self::Retain => "retain",
        })
    }
}

impl FromStr for Disposal {
    type Err = Invalid;

    /// Reads the values of the class parameter `onDelete`.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "delete" => Ok(Self::Delete),
            "archive" => Ok(Self::Archive),
            "retain" => Ok(Self::Retain),
            _ => Err(Invalid::new("disposal", text, "must be delete, archive or retain")),
        }
    }
}

/// A volume whose claim is gone, and what shall become of it. Everything in it comes from the PV.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The PV's name.
    pub name: VolumeName,
    /// The id that we recorded on the PV; `None` for a PV of an older provisioner.
    pub id: Option<VolumeId>,
    /// Where the PV says that the volume is.
    pub source: Source,
    /// The claim that the PV was bound to: namespace, name, UID.
    pub claim: ClaimKey,
    /// Whether we made it, as recorded on the PV; an older provisioner's PV says nothing, and counts as created,
    /// since that provisioner removed whatever it found.
    pub origin: Origin,
    /// What shall become of it.
    pub disposal: Disposal,
    /// What the PV says beyond its source.
    pub pv_metadata: PvMetadata,
}

/// A volume that shall hold more. Everything but the capacity comes from the PV.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpandRequest {
    /// The PV's name.
    pub name: VolumeName,
    /// The id that we recorded on the PV; `None` for a PV of an older provisioner.
    pub id: Option<VolumeId>,
    /// Where the PV says that the volume is.
    pub source: Source,
    /// The claim that the PV is bound to.
    pub claim: ClaimKey,
    /// As what it is used.
    pub mode: Mode,
    /// How much it shall hold, at least.
    pub capacity: Capacity,
    /// What the PV says beyond its source.
    pub pv_metadata: PvMetadata,
}

/// A volume that has grown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expanded {
    /// What it holds now.
    pub capacity: Capacity,
    /// Whether the node still has to make the file system in it bigger.
    pub on_node: bool,
}

/// Names one claim for ever.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimKey {
    /// The claim's namespace.
    pub namespace: String,
    /// The claim's name.
    pub name: String,
    /// The claim's UID.
    pub uid: String,
}

impl fmt::Display for ClaimKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
