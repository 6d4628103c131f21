//! How images and where they lie are called: [`PoolNamespace`], the names of our own images, and what may be a name at all. Pure.

use std::fmt;

use crate::volume::{Invalid, Location, VolumeName, is_uuid};

/// The beginning of the names of our images; the claim's UID follows.
const OURS: &str = "berth-";
/// The beginning of the name that the previous version gave the image of an older provisioner on its way to the trash. No claim's
/// UID gives such a name, since ours begin with `berth-`.
const LEGACY_TRASH: &str = "berth.deleted-";
/// The same where that name is taken by a renaming that was interrupted.
const LEGACY_TRASH_AGAIN: &str = "berth.deleted.1-";
/// The beginning of the name that a large image has while it is purged; its id follows.
const PURGING: &str = "berth.purging-";
/// The beginning of the names that the older provisioners gave; a UUID follows.
const LEGACY: &str = "kubernetes-dynamic-pvc-";
/// The longest name of an image that Ceph takes.
pub(super) const LONGEST: usize = 95;

/// A pool, or a RADOS namespace in one: a list of images and a trash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PoolNamespace {
    pub(super) pool: String,
    pub(super) namespace: Option<String>,
}

impl PoolNamespace {
    /// As the `rbd` program takes an image, or an entry of the trash.
    pub(super) fn spec(&self, name: &str) -> String {
        format!("{self}/{name}")
    }

    /// Where an image lies.
    pub(super) fn location(&self, store: &str, image: &str) -> Location {
        let segments = std::iter::once(&self.pool).chain(&self.namespace).cloned().chain([image.to_owned()]);
        Location { store: store.to_owned(), path: segments.collect() }
    }

    /// The pool of a location.
    pub(super) fn of(location: &Location) -> Option<Self> {
        match &*location.path {
            [pool, _] => Some(Self { pool: pool.clone(), namespace: None }),
            [pool, namespace, _] => Some(Self { pool: pool.clone(), namespace: Some(namespace.clone()) }),
            _ => None,
        }
    }
}

impl fmt::Display for PoolNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pool)?;
        self.namespace.iter().try_for_each(|namespace| write!(f, "/{namespace}"))
    }
}

/// The image of a volume of ours.
pub(super) fn image_of(name: &VolumeName) -> Result<String, Invalid> {
    let image = name.as_str().strip_prefix("pvc-").map(|uid| format!("{OURS}{uid}"));
    image.filter(|image| image.len() <= LONGEST).ok_or_else(|| {
        Invalid::new(
            "volume name",
            name.as_str(),
            format!("must be pvc- and at most {} characters", LONGEST - 6),
        )
    })
}

/// The volume whose image has this name, if it is one of ours.
pub(super) fn volume_of(image: &str) -> Option<VolumeName> {
    VolumeName::for_claim(image.strip_prefix(OURS)?).ok()
}

/// The UID of the claim that an image of ours was made for.
pub(super) fn uid_of(image: &str) -> &str {
    image.strip_prefix(OURS).unwrap_or_default()
}

/// Whether an older provisioner may have given this name to the image of that volume: the names with a UUID that they made up, or
/// with their option `-use-pv-name` the PV's own.
pub(super) fn is_legacy(image: &str, volume: &VolumeName) -> bool {
    has_legacy_shape(image) && (image.starts_with(LEGACY) || image == volume.as_str())
}

fn has_legacy_shape(image: &str) -> bool {
    [LEGACY, "pvc-"].iter().any(|prefix| image.strip_prefix(prefix).is_some_and(is_uuid))
}

/// What a large image with this id is called while it is purged.
pub(super) fn purging(id: &str) -> String {
    format!("{PURGING}{id}")
}

/// The id of the image that is called so while it is purged.
pub(super) fn purged_id(image: &str) -> Option<&str> {
    image.strip_prefix(PURGING)
}

/// What the previous version called an image that is not named by us on its way to the trash; and where that name was taken. One
/// that was interrupted there is found by these names.
pub(super) fn legacy_trash_names(image: &str) -> [String; 2] {
    [LEGACY_TRASH, LEGACY_TRASH_AGAIN].map(|prefix| {
        // Where it is too long, its end tells more than its beginning.
        let surplus = image.chars().count().saturating_sub(LONGEST - prefix.len());
        let end: String = image.chars().skip(surplus).collect();
        format!("{prefix}{end}")
    })
}

/// What an image that is called so in the trash is called in its place.
pub(super) fn in_place(image: &str) -> &str {
    [LEGACY_TRASH, LEGACY_TRASH_AGAIN].iter().find_map(|prefix| image.strip_prefix(prefix)).unwrap_or(image)
}

/// Whether what is called so in the trash is called as berth calls images.
pub(super) fn is_ours_in_trash(image: &str) -> bool {
    [LEGACY_TRASH, LEGACY_TRASH_AGAIN, PURGING].iter().any(|prefix| image.starts_with(prefix))
        || volume_of(image).is_some()
}

/// Whether what is called so in the trash may be an image of ours: its mark tells.
pub(super) fn may_be_ours(image: &str) -> bool {
    is_ours_in_trash(image) || has_legacy_shape(image)
}

/// A name of a pool, a RADOS namespace or an image that the `rbd` program can only understand as such.
pub(super) fn checked(what: &'static str, text: &str) -> Result<String, Invalid> {
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b'@' | b'"' | b'\'' | b'\\' | b'%');
    let ok = !text.is_empty()
        && text.len() <= 128
        && !text.starts_with('-')
        && text != "."
        && text != ".."
        && text.bytes().all(plain);
    if ok {
        return Ok(text.to_owned());
    }
    Err(Invalid::new(
        what,
        text,
        "must be 1 to 128 visible ASCII characters without '/', '@', '%', '\\' and quotes, not beginning with '-'",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves: rbd 8
    #[test]
    fn an_image_is_named_by_the_uid_of_its_claim_and_back() {
        let name = VolumeName::for_claim("6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f11").unwrap();
        let image = image_of(&name).unwrap();
        assert_eq!(image, "berth-6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f11");
        assert_eq!(volume_of(&image), Some(name));
        assert_eq!(uid_of(&image), "6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f11");
        assert!(image_of(&"other-1".parse().unwrap()).is_err());
        assert!(image_of(&format!("pvc-{}", "u".repeat(90)).parse().unwrap()).is_err());
    }

    #[test]
    fn what_others_made_is_not_taken_for_ours() {
        for image in
            ["kubernetes-dynamic-pvc-1", "pvc-1", "berth-", "berth.deleted-x", "xberth-1", "csi-vol-1"]
        {
            assert_eq!(volume_of(image), None, "{image}");
        }
        for image in ["kubernetes-dynamic-pvc-1", "pvc-1", "berth-", "csi-vol-1"] {
            assert!(!is_ours_in_trash(image) && !may_be_ours(image), "{image}");
        }
        assert!(is_ours_in_trash("berth-1") && is_ours_in_trash("berth.deleted-pvc-1"));
    }

    #[test]
    fn an_image_on_its_way_to_the_trash_of_the_previous_version_has_a_name_that_ceph_takes_and_that_is_no_volumes()
     {
        assert_eq!(
            legacy_trash_names("kubernetes-dynamic-pvc-1"),
            ["berth.deleted-kubernetes-dynamic-pvc-1", "berth.deleted.1-kubernetes-dynamic-pvc-1"]
        );
        for legacy_trash_names in legacy_trash_names("kubernetes-dynamic-pvc-1") {
            assert_eq!(in_place(&legacy_trash_names), "kubernetes-dynamic-pvc-1");
        }
        assert_eq!(in_place("berth-1"), "berth-1");
        for long in legacy_trash_names(&format!("{}-end", "a".repeat(100))) {
            assert_eq!(long.len(), LONGEST);
            assert!(long.ends_with("a-end"));
            assert_eq!(volume_of(&long), None);
            assert!(is_ours_in_trash(&long));
        }
    }

    #[test]
    fn an_older_provisioners_image_is_called_by_a_uuid_or_as_its_pv() {
        const UID: &str = "6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f11";
        let pv = VolumeName::for_claim(UID).unwrap();
        let (made_up, own) = (format!("kubernetes-dynamic-pvc-{UID}"), format!("pvc-{UID}"));
        assert!(is_legacy(&made_up, &pv) && is_legacy(&made_up, &"pvc-other".parse().unwrap()));
        assert!(is_legacy(&own, &pv) && !is_legacy(&own, &"pvc-other".parse().unwrap()));
        assert!(may_be_ours(&made_up) && may_be_ours(&own) && !is_ours_in_trash(&made_up));
        for other in
            ["database", "kubernetes-dynamic-pvc-database", "pvc-1", UID, "pvc-", "kubernetes-dynamic-pvc-"]
        {
            assert!(!is_legacy(other, &other.parse().unwrap_or_else(|_| pv.clone())), "{other}");
        }
    }

    #[test]
    fn an_image_that_is_purged_is_called_by_its_id() {
        assert_eq!(purged_id(&purging("10f8c0ffee")), Some("10f8c0ffee"));
        assert_eq!(purged_id("berth-10f8c0ffee"), None);
        assert!(is_ours_in_trash(&purging("1")) && volume_of(&purging("1")).is_none());
    }

    #[test]
    fn a_name_can_be_taken_for_nothing_but_a_name() {
        for good in ["rbd", "my.pool", "a_b-c:d", "1"] {
            assert_eq!(checked("pool name", good).as_deref(), Ok(good));
        }
        for bad in ["", "-m", "a/b", "a@b", "a b", "a\n", "ä", ".", "..", "\"", "a%b"] {
            assert!(checked("pool name", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_pool_is_found_again_in_a_location() {
        for namespace in [None, Some("tenant".to_owned())] {
            let pool_namespace = PoolNamespace { pool: "rbd".into(), namespace };
            assert_eq!(PoolNamespace::of(&pool_namespace.location("main", "berth-1")), Some(pool_namespace));
        }
        let pool_namespace = PoolNamespace { pool: "rbd".into(), namespace: Some("tenant".into()) };
        assert_eq!(pool_namespace.spec("berth-1"), "rbd/tenant/berth-1");
        assert_eq!(PoolNamespace::of(&Location::new("main", "rbd").unwrap()), None);
    }
}
