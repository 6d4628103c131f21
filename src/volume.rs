//! The nouns: what a volume is, what is asked of one, what becomes of it. Pure values without I/O.
//!
//! Every type has one fallible constructor; whoever holds a value need not check it again. Start with
//! [`VolumeRequest`] (what a claim asks for) and [`Volume`] (what a backend made of it).
//!
//! Nothing here knows of Kubernetes objects, of gRPC, or of a storage system.

mod capacity;
mod clock;
mod cluster;
mod duration;
mod permit;
mod placement;
mod secrets;

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

pub use capacity::Capacity;
pub use clock::{Clock, Moment};
pub use cluster::ClusterIds;
pub use duration::{duration_text, parse_duration};
pub use permit::{Expired, Permit};
pub use placement::Placement;
pub use secrets::{SecretName, Secrets};

/// Why a text is not a value of the type asked for. The message names the text and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} {why}")]
pub struct Invalid {
    /// The noun: "volume name", "capacity".
    pub what: &'static str,
    /// The text as given (shortened where it may be long).
    pub text: String,
    /// What is wrong, and what to write instead.
    pub why: String,
}

impl Invalid {
    /// An error about `text`, which should have been a `what`.
    pub fn new(what: &'static str, text: impl Into<String>, why: impl Into<String>) -> Self {
        Self { what, text: text.into(), why: why.into() }
    }
}

/// The name of a volume: `pvc-<claim UID>`, and the name of its `PersistentVolume`.
///
/// It follows from the claim alone, so a retry, a restart and a second replica all arrive at the same volume.
/// Volumes of other makers may have other names; any DNS-1123 subdomain is accepted when read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeName(Box<str>);

impl VolumeName {
    /// The name for the claim with this UID.
    pub fn for_claim(uid: &str) -> Result<Self, Invalid> {
        format!("pvc-{uid}").parse()
    }

    /// The name as text; safe as one path segment and as a Kubernetes object name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VolumeName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = |why| Err(Invalid::new("volume name", text.chars().take(80).collect::<String>(), why));
        if text.is_empty() || text.len() > 253 {
            return wrong("must have 1 to 253 characters");
        }
        if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.') {
            return wrong("must consist of lower case letters, digits, '-' and '.'");
        }
        let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        if !ends(text.bytes().next()) || !ends(text.bytes().last()) {
            return wrong("must begin and end with a letter or digit");
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names a volume for ever: `1/<backend>/<store>/<volume name>`, the CSI volume handle and an annotation of the PV.
///
/// `store` is the configured name of an export or cluster, never an address: a server may move. At most 128 bytes,
/// the limit of the CSI specification ("General Info", size limits).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId {
    backend: Box<str>,
    store: Box<str>,
    name: VolumeName,
}

impl VolumeId {
    /// The longest text of an id, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// The id of volume `name` on `store` of `backend`.
    pub fn new(backend: &str, store: &str, name: VolumeName) -> Result<Self, Invalid> {
        let id = Self { backend: backend.into(), store: store.into(), name };
        let text = id.to_string();
        if text.len() > Self::MAX_BYTES {
            return Err(Invalid::new("volume id", text, format!("has more than {} bytes", Self::MAX_BYTES)));
        }
        for part in [backend, store] {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if part.is_empty() || !part.bytes().all(plain) {
                return Err(Invalid::new(
                    "volume id",
                    text,
                    format!("has the part {part:?}, which must be lower case letters, digits and '-'"),
                ));
            }
        }
        Ok(id)
    }

    /// The backend that made the volume: `nfs`, `rbd`, `cephfs`.
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// The configured name of the export or cluster.
    pub fn store(&self) -> &str {
        &self.store
    }

    /// The volume's own name.
    pub fn name(&self) -> &VolumeName {
        &self.name
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1/{}/{}/{}", self.backend, self.store, self.name)
    }
}

impl FromStr for VolumeId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let shown = || text.chars().take(Self::MAX_BYTES).collect::<String>();
        let mut parts = text.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("1"), Some(backend), Some(store), Some(name), None) => {
                Self::new(backend, store, name.parse()?)
            }
            _ => Err(Invalid::new("volume id", shown(), "must be 1/<backend>/<store>/<volume name>")),
        }
    }
}

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

/// How pods may use a volume at the same time (Kubernetes "Access Modes").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// `ReadWriteOnce`: by the pods of one node.
    ReadWriteOnce,
    /// `ReadOnlyMany`: read by pods of many nodes.
    ReadOnlyMany,
    /// `ReadWriteMany`: by pods of many nodes.
    ReadWriteMany,
    /// `ReadWriteOncePod`: by one pod.
    ReadWriteOncePod,
}

impl FromStr for Access {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "ReadWriteOnce" => Ok(Self::ReadWriteOnce),
            "ReadOnlyMany" => Ok(Self::ReadOnlyMany),
            "ReadWriteMany" => Ok(Self::ReadWriteMany),
            "ReadWriteOncePod" => Ok(Self::ReadWriteOncePod),
            _ => Err(Invalid::new(
                "access mode",
                text,
                "must be ReadWriteOnce, ReadOnlyMany, ReadWriteMany or ReadWriteOncePod",
            )),
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadWriteOnce => "ReadWriteOnce",
            Self::ReadOnlyMany => "ReadOnlyMany",
            Self::ReadWriteMany => "ReadWriteMany",
            Self::ReadWriteOncePod => "ReadWriteOncePod",
        })
    }
}

/// What a pod sees of a volume (Kubernetes `volumeMode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A mounted directory.
    Filesystem,
    /// A raw device.
    Block,
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

/// Where the bytes are, in the words that whoever mounts them needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A directory on an NFS server (the in-tree `nfs` volume).
    Nfs {
        /// Host name or address, as the PV spells it.
        server: String,
        /// Absolute path on the server.
        path: String,
    },
    /// A volume that the node plugin of a CSI driver mounts.
    Csi(CsiSource),
    /// An RBD image, for the node plugin that Kubernetes had before 1.31 (the in-tree `rbd` volume).
    Rbd(RbdSource),
    /// A directory of a CephFS, for the node plugin that Kubernetes had before 1.31 (the in-tree `cephfs` volume).
    Cephfs(CephfsSource),
}

/// The fields of a PV's `csi` source that a backend decides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CsiSource {
    /// The name of the driver.
    pub driver: String,
    /// The volume handle: the volume's id, for what we made.
    pub handle: String,
    /// What the node plugin must know to find the volume. No secrets.
    pub attributes: BTreeMap<String, String>,
    /// The file system to make where there is none; `None` for raw devices, and where the driver decides.
    pub fs_type: Option<String>,
    /// The secrets with which a node connects to the volume (`nodeStageSecretRef`).
    pub stage_secret: Option<SecretName>,
}

/// The fields of a PV's in-tree `rbd` source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RbdSource {
    /// Host names or addresses, as the PV spells them.
    pub monitors: Vec<String>,
    /// The pool.
    pub pool: String,
    /// The image; it may begin with a RADOS namespace and a slash.
    pub image: String,
    /// The user that nodes map the image as, without `client.`.
    pub user: String,
    /// The secret with that user's key; the namespace is empty where the PV names none.
    pub secret: Option<SecretName>,
    /// The file system to make where there is none.
    pub fs_type: Option<String>,
}

/// The fields of a PV's in-tree `cephfs` source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CephfsSource {
    /// Host names or addresses, as the PV spells them.
    pub monitors: Vec<String>,
    /// Absolute path in the file system.
    pub path: String,
    /// The user that nodes mount it as, without `client.`.
    pub user: String,
    /// The secret with that user's key; the namespace is empty where the PV names none.
    pub secret: Option<SecretName>,
}

impl fmt::Display for Source {
    /// As an administrator would name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nfs { server, path } => write!(f, "{server}:{path}"),
            Self::Csi(csi) => write!(f, "volume {:?} of driver {}", csi.handle, csi.driver),
            Self::Rbd(rbd) => write!(f, "image {}/{} at {}", rbd.pool, rbd.image, rbd.monitors.join(",")),
            Self::Cephfs(cephfs) => write!(f, "{} at {}", cephfs.path, cephfs.monitors.join(",")),
        }
    }
}

/// Where a volume lies within a store: what two volumes must not share.
///
/// Places are ordered by store, then segment by segment, so that what lies beneath a place follows it directly.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The configured name of the export or cluster.
    pub store: String,
    /// The segments of the path below the store's root; never empty, none is empty, `.` or `..`.
    pub segments: Vec<String>,
}

impl Location {
    /// Whether this place is `other`, above it or below it.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.store == other.store && self.segments.iter().zip(&other.segments).all(|(a, b)| a == b)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.store, self.segments.join("/"))
    }
}

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
    /// How it was made.
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
    /// How it was made.
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
    /// How it was made.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_named_by_the_uid_of_its_claim() {
        let name = VolumeName::for_claim("6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f11").unwrap();
        assert_eq!(name.as_str(), "pvc-6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f11");
    }

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for bad in ["", ".", "..", "a/b", "../a", "a\0b", "A", "-a", "a-", "a b", "a\n"] {
            assert!(bad.parse::<VolumeName>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(254).parse::<VolumeName>().is_err());
    }

    #[test]
    fn an_id_reads_back_as_what_was_written() {
        let id = VolumeId::new("nfs", "default", VolumeName::for_claim("u-1").unwrap()).unwrap();
        assert_eq!(id.to_string(), "1/nfs/default/pvc-u-1");
        assert_eq!(id.to_string().parse::<VolumeId>().unwrap(), id);
    }

    #[test]
    fn ids_of_other_versions_shapes_and_lengths_are_refused() {
        for bad in ["", "2/nfs/a/pvc-1", "1/nfs/a", "1/nfs/a/pvc-1/x", "1//a/pvc-1", "1/nfs/../pvc-1"] {
            assert!(bad.parse::<VolumeId>().is_err(), "{bad:?}");
        }
        let long = format!("1/nfs/{}/pvc-1", "s".repeat(128));
        assert!(long.parse::<VolumeId>().unwrap_err().to_string().contains("128 bytes"));
    }

    #[test]
    fn places_overlap_at_above_and_below_but_not_beside() {
        let place = |path: &str| Location {
            store: "default".into(),
            segments: path.split('/').map(String::from).collect(),
        };
        assert!(place("a/b").overlaps(&place("a/b")));
        assert!(place("a/b").overlaps(&place("a")));
        assert!(place("a").overlaps(&place("a/b")));
        assert!(!place("a/b").overlaps(&place("a/bc")));
        let elsewhere = Location { store: "other".into(), ..place("a/b") };
        assert!(!place("a/b").overlaps(&elsewhere));
    }
}
