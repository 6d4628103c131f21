//! What RADOS holds of an image itself: [`Header`], its size, its snapshots and its [`Metadata`]. Pure.
//!
//! It is read by the id of the image, wherever the image is, in the pool or in its trash, and without opening it: `rbd
//! image-meta` opens an image for writing, which a full pool does not allow, and needs its name, which an image in the trash
//! does not have.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::owner::{KEPT, Mark, NOT_KEPT, OWNER};
use crate::backend::{Error, Kind, ceph::omap, quoted};

/// The object with the header of the image with this id.
pub(super) fn object(id: &str) -> String {
    format!("rbd_header.{id}")
}

/// How keys of the metadata begin in the header.
const METADATA: &str = "metadata_";
/// How keys of snapshots begin in the header.
const SNAPSHOT: &str = "snapshot_";

/// What the header of an image says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) size: u64,
    /// The size of its objects, as a power of two.
    pub(super) order: u8,
    /// All of them, those of mirroring and of groups included.
    pub(super) snapshots: usize,
    pub(super) metadata: Metadata,
}

impl Header {
    /// Reads what `rados listomapvals` prints; `None` where that is not understood.
    pub(super) fn read(text: &str) -> Option<Self> {
        let (mut header, mut size) = (Self::default(), None);
        for (key, value) in omap::read(text)? {
            if let Some(key) = key.strip_prefix(METADATA) {
                header.metadata.0.insert(key.to_owned(), String::from_utf8_lossy(&value).into_owned());
            } else if key.starts_with(SNAPSHOT) {
                header.snapshots += 1;
            } else if key == "size" {
                size = Some(u64::from_le_bytes(value.try_into().ok()?));
            } else if key == "order" {
                header.order = *value.first()?;
            }
        }
        // No image is without.
        header.size = size?;
        Some(header)
    }

    /// How many objects the image may have, written or not: each is removed by a question of its own.
    pub(super) fn objects(&self) -> u64 {
        self.size.div_ceil(self.object_size())
    }

    /// The size of one object.
    pub(super) fn object_size(&self) -> u64 {
        1_u64.checked_shl(self.order.into()).unwrap_or(u64::MAX)
    }
}

/// All metadata of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(super) struct Metadata(pub(super) BTreeMap<String, String>);

impl Metadata {
    /// Our mark; an error where there is one that cannot be read.
    pub(super) fn mark(&self, image: &str) -> Result<Option<Mark>, Error> {
        let Some(text) = self.0.get(OWNER) else { return Ok(None) };
        serde_json::from_str(text).map(Some).map_err(|error| {
            let message = format!(
                "the owner of image {image}, its metadata {OWNER}, cannot be read ({error}); nothing was touched. Correct it: \
                 rbd image-meta set {} {OWNER} '<json>'",
                quoted(image)
            );
            Error::new(Kind::Refused, message)
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the image was left on purpose when its PV went.
    pub(super) fn is_kept(&self) -> bool {
        self.0.get(KEPT).is_some_and(|noted| noted != NOT_KEPT)
    }
}

/// A header as `rados` prints it.
#[cfg(test)]
pub(super) fn written(
    size: u64,
    snapshots: usize,
    metadata: &BTreeMap<String, String>,
) -> Vec<(String, Vec<u8>)> {
    let mut all: BTreeMap<String, Vec<u8>> = BTreeMap::from([
        ("create_timestamp".to_owned(), vec![0x43, 0xb8, 0x08, 0x6b, 0x78, 0xc6, 0x6e, 0x2e]),
        ("order".to_owned(), vec![22]),
        ("size".to_owned(), size.to_le_bytes().to_vec()),
    ]);
    all.extend((0..snapshots).map(|id| (format!("{SNAPSHOT}{id:016x}"), vec![8, 8, 0, 0])));
    all.extend(metadata.iter().map(|(key, value)| (format!("{METADATA}{key}"), value.as_bytes().to_vec())));
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ceph::fake::Answer;

    #[test]
    fn the_header_of_a_real_image_is_read() {
        let Answer::Text(0, text, _) = Answer::recorded("rados-header") else { panic!() };
        let header = Header::read(&text).unwrap();
        assert_eq!((header.size, header.objects(), header.snapshots), (9 << 20, 3, 1));
        let mark = header.metadata.mark("rbd/i").unwrap().unwrap();
        assert_eq!((mark.uid.as_str(), mark.name.as_str()), ("0b6f-11", "a".repeat(60).as_str()));
        assert!(!header.metadata.is_kept());
    }

    #[test]
    fn what_has_no_size_is_no_header() {
        for text in
            ["", "order\nvalue (1 bytes) :\n00000000  16  |.|\n00000001\n\n", "size\nvalue (1 bytes) :\n"]
        {
            assert_eq!(Header::read(text), None, "{text}");
        }
    }

    #[test]
    fn a_mark_that_cannot_be_read_is_an_error_and_none_is_none() {
        let metadata = |text: &str| Metadata(BTreeMap::from([(OWNER.to_owned(), text.to_owned())]));
        let error = metadata("nonsense").mark("rbd/i").unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.to_string().contains("rbd/i"), "{error}");
        assert_eq!(Metadata::default().mark("i").unwrap(), None);
    }
}
