//! Names of groups, subvolumes, users and Secrets, and the paths they lie at. Pure.
//!
//! | what | name |
//! | --- | --- |
//! | subvolume | `berth-<claim UID>` |
//! | subvolume, `deterministicNames` | `<namespace>.<claim>`; a namespace has no dot, so the first one parts them |
//! | the same, while that name holds archived data | `<namespace>.<claim>_<claim UID>`; neither has an underscore |
//! | user of a volume | `berth-<claim UID>` |
//! | its Secret | `ceph-<user>-secret` |
//!
//! The volumes module makes a file `_<group>:<subvolume>.meta` for each; with the limits here its name fits.

use crate::{
    backend::{Error, Kind},
    volume::{Claim, RelativePath, VolumeName},
};

/// Where the volumes module keeps everything.
pub(super) const ROOT: &str = "volumes";
const LONGEST_GROUP: usize = 64;
const LONGEST_SUBVOLUME: usize = 180;
/// Leaves room for an underscore and a UID.
const LONGEST_DETERMINISTIC: usize = 140;

/// Where the subvolume of a claim lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) group: String,
    pub(super) subvolume: String,
    /// The name to take where the first one holds archived data; only for names that do not hold the UID.
    pub(super) fallback: Option<String>,
}

impl Names {
    /// A name that follows from the UID.
    pub(super) fn unique(group: String, volume: &VolumeName) -> Result<Self, Error> {
        Ok(Self { group, subvolume: user(volume)?, fallback: None })
    }

    /// A name that follows from namespace and name.
    pub(super) fn deterministic(group: String, claim: &Claim, volume: &VolumeName) -> Result<Self, Error> {
        let dns = |text: &str| {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
            !text.is_empty()
                && text.bytes().all(plain)
                && text.split('.').all(|label| !label.is_empty() && !label.starts_with('-'))
        };
        if !dns(&claim.namespace) || claim.namespace.contains('.') || !dns(&claim.name) {
            let message = format!(
                "claim {:?} in namespace {:?} cannot name a subvolume: both must be names as Kubernetes allows them",
                shown(&claim.name),
                shown(&claim.namespace)
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        let subvolume = format!("{}.{}", claim.namespace, claim.name);
        if subvolume.len() > LONGEST_DETERMINISTIC {
            let message = format!(
                "namespace and name of the claim have {} characters together, with deterministicNames at most {} are possible; \
                 shorten the claim's name, or use a class without deterministicNames",
                subvolume.len() - 1,
                LONGEST_DETERMINISTIC - 1
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        let fallback = format!("{subvolume}_{}", uid(volume)?);
        if fallback.len() > LONGEST_SUBVOLUME {
            return Err(too_long(volume));
        }
        Ok(Self { group, subvolume, fallback: Some(fallback) })
    }
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

fn too_long(volume: &VolumeName) -> Error {
    Error::new(Kind::Invalid, format!("the name of volume {volume} is too long for a subvolume"))
}

fn uid(volume: &VolumeName) -> Result<&str, Error> {
    let message = || format!("volume {volume} is not named by the UID of its claim");
    let uid = volume.as_str().strip_prefix("pvc-").ok_or_else(|| Error::new(Kind::Invalid, message()))?;
    if uid.contains('.') { Err(Error::new(Kind::Invalid, message())) } else { Ok(uid) }
}

/// The user of a volume's own, and the name of a subvolume that is named by the UID.
pub(super) fn user(volume: &VolumeName) -> Result<String, Error> {
    let name = format!("berth-{}", uid(volume)?);
    if name.len() > LONGEST_SUBVOLUME { Err(too_long(volume)) } else { Ok(name) }
}

/// The volume whose subvolume, made by any installation, has this name.
pub(super) fn volume_of(subvolume: &str) -> Option<VolumeName> {
    let uid = subvolume.strip_prefix("berth-").filter(|uid| !uid.contains('.'))?;
    VolumeName::for_claim(uid).ok()
}

/// Whether a subvolume may have this name with `deterministicNames`.
pub(super) fn is_deterministic(subvolume: &str) -> bool {
    let base = subvolume.split_once('_').map_or(subvolume, |(base, _)| base);
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    base.split_once('.').is_some_and(|(namespace, name)| {
        !namespace.is_empty() && !name.is_empty() && base.bytes().all(plain) && !base.starts_with('-')
    })
}

/// The name of the Secret with the key of a volume's own user, as the older provisioner named it.
pub(super) fn secret(user: &str) -> String {
    format!("ceph-{user}-secret")
}

/// A group's name, if it may be one.
pub(super) fn group(name: &str) -> Result<String, Error> {
    let why = if name.is_empty() || name.len() > LONGEST_GROUP {
        "must have 1 to 64 characters"
    } else if !name.bytes().all(good) {
        "must consist of letters, digits, '.', '_' and '-'"
    } else if name.starts_with(['.', '-', '_']) {
        "must begin with a letter or digit: the volumes module keeps names with '_' and '.' for itself"
    } else {
        return Ok(name.to_owned());
    };
    Err(Error::new(Kind::Invalid, format!("parameter group: {:?} {why}", shown(name))))
}

/// A subvolume's name as it stands on a PV, if it may be one of ours.
pub(super) fn subvolume(name: &str) -> Option<&str> {
    let ours =
        name.len() <= LONGEST_SUBVOLUME && name.bytes().all(good) && !name.starts_with(['.', '-', '_']);
    (ours && !name.is_empty()).then_some(name)
}

/// A name of something else in Ceph (a pool, a file system), if it cannot be taken for an option or part of a path.
pub(super) fn plain(parameter: &str, name: &str) -> Result<String, Error> {
    if name.len() <= 128 && name.bytes().all(good) && !name.starts_with('-') && !matches!(name, "." | "..") {
        return Ok(name.to_owned());
    }
    let why = "must consist of at most 128 letters, digits, '.', '_' and '-', and not begin with '-'";
    Err(Error::new(Kind::Invalid, format!("parameter {parameter}: {:?} {why}", shown(name))))
}

fn good(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

/// The path of a subvolume, below the root of the file system.
pub(super) fn path(group: &str, subvolume: &str) -> RelativePath {
    [ROOT, group, subvolume].map(str::to_owned).into_iter().collect()
}

/// The segments of an absolute path; `None` where it is not one, or is not what it seems.
pub(super) fn segments_of(path: &str) -> Option<Vec<String>> {
    let segments: Vec<String> =
        path.strip_prefix('/')?.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect();
    let unsafe_segment =
        |segment: &String| matches!(segment.as_str(), "." | "..") || segment.bytes().any(|b| b < b' ');
    (!segments.is_empty() && !segments.iter().any(unsafe_segment)).then_some(segments)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn claim(namespace: &str, name: &str) -> Claim {
        Claim {
            namespace: namespace.into(),
            name: name.into(),
            uid: "u-1".into(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        }
    }

    /// Proves: cephfs 4
    #[test]
    fn no_two_claims_have_the_same_deterministic_name() {
        let volume = VolumeName::for_claim("u-1").unwrap();
        let name = |namespace: &str, claim_name: &str| {
            Names::deterministic("g".into(), &claim(namespace, claim_name), &volume)
        };
        let pairs = [("a", "b.c"), ("a", "b"), ("a-b", "c"), ("a", "b-c"), ("a", "b.c.d"), ("ab", "c")];
        let mut all: Vec<String> = pairs
            .iter()
            .flat_map(|(namespace, claim)| {
                let names = name(namespace, claim).unwrap();
                [names.subvolume, names.fallback.unwrap()]
            })
            .collect();
        assert!(all.iter().all(|name| is_deterministic(name) && subvolume(name).is_some()), "{all:?}");
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
        for (namespace, claim) in [
            ("a.b", "c"),
            ("", "c"),
            ("a", ""),
            ("a", ".."),
            ("a", "-x"),
            ("a", "b/c"),
            ("a", "b_c"),
            ("-a", "b"),
        ] {
            assert_eq!(name(namespace, claim).unwrap_err().kind(), Kind::Invalid, "{namespace}.{claim}");
        }
        let long = name("a", &"b".repeat(139)).unwrap_err().to_string();
        assert!(long.contains("at most 139") && long.contains("without deterministicNames"), "{long}");
        name(&"a".repeat(63), &"b".repeat(76)).unwrap();
    }

    #[test]
    fn what_the_volumes_module_keeps_for_itself_is_no_group() {
        for good in ["berth", "kubernetes", "a.b_c-D", "0"] {
            assert_eq!(group(good).unwrap(), good);
        }
        for bad in ["", ".", "..", "_nogroup", "_deleting", "-x", "a/b", "a b", "ä", "a%b", &"g".repeat(65)]
        {
            assert_eq!(group(bad).unwrap_err().kind(), Kind::Invalid, "{bad:?}");
        }
    }

    #[test]
    fn a_subvolume_named_by_a_uid_leads_back_to_its_volume() {
        let volume = VolumeName::for_claim("6c0f3c9e-8a0b").unwrap();
        assert_eq!(volume_of(&user(&volume).unwrap()), Some(volume));
        for other in ["kubernetes", "berth", "berth-", "berth-A", "team.data", "berth-team.data"] {
            assert_eq!(volume_of(other), None, "{other}");
        }
        assert!(is_deterministic("berth-team.data"));
    }

    #[test]
    fn a_path_with_dots_is_not_followed() {
        let segments = |path| segments_of(path).map(|segments| segments.join(" "));
        assert_eq!(segments("/volumes//kubernetes/x/"), Some("volumes kubernetes x".into()));
        for bad in ["", "/", "volumes/x", "/volumes/../x", "/./x", "/a\nb"] {
            assert_eq!(segments(bad), None, "{bad:?}");
        }
    }
}
