//! What volumes and stores are called: [`VolumeName`], [`VolumeId`], [`StoreName`].

use std::{fmt, str::FromStr};

use super::{Invalid, dns};

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

    /// The UID of the claim that it was made for; the whole name of a volume that is not named by one.
    pub fn claim_uid(&self) -> &str {
        self.0.strip_prefix("pvc-").unwrap_or(&self.0)
    }

    /// The name as text; safe as one path segment and as a Kubernetes object name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VolumeName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if !dns::is_subdomain(text) {
            let why = "must be 1 to 253 lower case letters, digits, '-' and '.', beginning and ending with a letter or digit";
            return Err(Invalid::new("volume name", text, why));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for VolumeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// FNV-1a, which stays the same for ever: the names that one release derives from a text, the next one must find.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Whether a text has the shape of the UIDs that Kubernetes gives, and of the identities of Ceph's clusters.
pub fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

/// The configured name of an export or a cluster, a part of volume ids.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreName(Box<str>);

impl StoreName {
    /// What a name consists of.
    pub const ALLOWED: &str = "1 to 63 lower case letters, digits and '-'";
}

impl FromStr for StoreName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=63).contains(&text.len()) && text.bytes().all(plain) {
            return Ok(Self(text.into()));
        }
        Err(Invalid::new("store name", text, format!("must be {}", Self::ALLOWED)))
    }
}

impl fmt::Display for StoreName {
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
    backend: StoreName,
    store: StoreName,
    name: VolumeName,
}

impl VolumeId {
    /// The longest text of an id, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// The id of volume `name` on `store` of `backend`.
    pub fn new(backend: &str, store: &str, name: VolumeName) -> Result<Self, Invalid> {
        let text = format!("1/{backend}/{store}/{name}");
        if text.len() > Self::MAX_BYTES {
            return Err(Invalid::new("volume id", text, format!("has more than {} bytes", Self::MAX_BYTES)));
        }
        let part = |part: &str| {
            part.parse().map_err(|_| {
                let why = format!("has the part {part:?}, which must be {}", StoreName::ALLOWED);
                Invalid::new("volume id", text.as_str(), why)
            })
        };
        Ok(Self { backend: part(backend)?, store: part(store)?, name })
    }

    /// The backend that made the volume: `nfs`, `rbd`, `cephfs`.
    pub fn backend(&self) -> &str {
        &self.backend.0
    }

    /// The configured name of the export or cluster.
    pub fn store(&self) -> &str {
        &self.store.0
    }

    /// The volume's own name.
    pub fn name(&self) -> &VolumeName {
        &self.name
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1/{}/{}/{}", self.backend.0, self.store.0, self.name)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_known_by_its_shape() {
        assert!(is_uuid("6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f11"));
        for other in
            ["", "scratch", "6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f1", "6c0f3c9e08a0b04a4309f4a00b1d0a3c2f11"]
        {
            assert!(!is_uuid(other), "{other}");
        }
    }

    #[test]
    fn a_volume_is_named_by_the_uid_of_its_claim() {
        let name = VolumeName::for_claim("6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f11").unwrap();
        assert_eq!(name.as_str(), "pvc-6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f11");
    }

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        for bad in ["", ".", "..", "a/b", "../a", "a\0b", "A", "-a", "a-", "a b", "a\n", "a..b", "a.-b"] {
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
}
