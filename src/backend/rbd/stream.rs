//! An image without content as the `rbd` program reads it: [`image`], in the format that `rbd export --export-format 2` writes.
//!
//! One `rbd import` of it makes an image together with its metadata, where `rbd create` needs a second program for them
//! (`docs/decisions/0015-images-are-imported.md`). The features of an image are [`Features`]. Pure.

use std::fmt;

use crate::volume::Invalid;

/// Bits of an image's features, as librbd numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Features(u64);

/// The features that a class may name, each with its bit and with what it needs.
const FEATURES: &[(&str, u64, u64)] = &[
    ("layering", 1, 0),
    ("exclusive-lock", 1 << 2, 0),
    ("object-map", 1 << 3, 1 << 2),
    ("fast-diff", 1 << 4, 1 << 3 | 1 << 2),
    ("deep-flatten", 1 << 5, 0),
    ("journaling", 1 << 6, 1 << 2),
];

impl Features {
    pub(super) const NONE: Self = Self(0);

    /// Reads a list with commas, and adds what the named ones need.
    pub(super) fn parse(text: &str) -> Result<Self, Invalid> {
        let mut bits = 0;
        for name in text.split(',').map(str::trim) {
            let Some((_, bit, needs)) = FEATURES.iter().find(|(known, _, _)| *known == name) else {
                let known: Vec<&str> = FEATURES.iter().map(|(known, _, _)| *known).collect();
                let shown: String = name.chars().take(40).collect();
                return Err(Invalid::new(
                    "image feature",
                    shown,
                    format!("must be one of {}", known.join(", ")),
                ));
            };
            bits |= bit | needs;
        }
        Ok(Self(bits))
    }

    /// Those of an image, as `rbd info` names them, without what follows from elsewhere (its data pool) or is no choice.
    pub(super) fn of_image(names: &[String]) -> Self {
        let bit = |name: &String| FEATURES.iter().find(|(known, _, _)| known == name).map(|(_, bit, _)| *bit);
        Self(names.iter().filter_map(bit).fold(0, |bits, bit| bits | bit))
    }
}

impl fmt::Display for Features {
    /// As a class names them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = FEATURES.iter().filter(|(_, bit, _)| self.0 & bit != 0).map(|(name, _, _)| *name);
        f.write_str(&names.collect::<Vec<_>>().join(","))
    }
}

/// Objects of 4 MiB.
const ORDER: u64 = 22;

/// An image of `size` bytes with these features and one metadata entry.
pub(super) fn image(size: u64, features: Features, key: &str, value: &str) -> Vec<u8> {
    let mut stream = b"rbd image v2\n".to_vec();
    record(&mut stream, b'O', &ORDER.to_le_bytes());
    record(&mut stream, b'T', &features.0.to_le_bytes());
    let mut metadata = Vec::new();
    for text in [key, value] {
        metadata.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        metadata.extend(text.as_bytes());
    }
    record(&mut stream, b'M', &metadata);
    stream.push(b'E');
    stream.extend(b"rbd image diffs v2\n");
    stream.extend(1_u64.to_le_bytes());
    stream.extend(b"rbd diff v2\n");
    record(&mut stream, b's', &size.to_le_bytes());
    stream.push(b'e');
    stream
}

fn record(stream: &mut Vec<u8>, tag: u8, content: &[u8]) {
    stream.push(tag);
    stream.extend(u64::try_from(content.len()).unwrap_or(u64::MAX).to_le_bytes());
    stream.extend(content);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `rbd export --export-format 2` 16.2.15 wrote of an image without features of 1000 bytes with the metadata
    /// a = {}, without the records that an import does not need (stripes, checksums).
    const EXPORTED: &[u8] = b"rbd image v2\n\
        O\x08\0\0\0\0\0\0\0\x16\0\0\0\0\0\0\0\
        T\x08\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\
        M\x0b\0\0\0\0\0\0\0\x01\0\0\0a\x02\0\0\0{}\
        E\
        rbd image diffs v2\n\x01\0\0\0\0\0\0\0\
        rbd diff v2\ns\x08\0\0\0\0\0\0\0\xe8\x03\0\0\0\0\0\0e";

    #[test]
    fn the_stream_is_what_rbd_exports() {
        let features = Features::parse("layering,exclusive-lock").unwrap();
        assert_eq!(image(1000, features, "a", "{}"), EXPORTED);
    }

    /// Proves: rbd 6
    #[test]
    fn what_a_feature_needs_is_added() {
        let rows = [
            ("layering", "layering"),
            ("object-map", "exclusive-lock,object-map"),
            ("fast-diff", "exclusive-lock,object-map,fast-diff"),
            ("journaling, layering", "layering,exclusive-lock,journaling"),
            ("deep-flatten,deep-flatten", "deep-flatten"),
        ];
        for (text, expected) in rows {
            assert_eq!(Features::parse(text).unwrap().to_string(), expected);
        }
    }

    /// Proves: rbd 6
    #[test]
    fn an_unknown_feature_is_refused_with_the_known_ones() {
        for text in ["bogus", "layering,,deep-flatten", "layering;deep-flatten", "data-pool", "LAYERING"] {
            let error = Features::parse(text).unwrap_err().to_string();
            assert!(error.contains("fast-diff"), "{text}: {error}");
        }
    }

    #[test]
    fn the_features_of_an_image_are_those_that_a_class_can_name() {
        let names = ["layering", "exclusive-lock", "data-pool", "operations"].map(String::from);
        assert_eq!(Features::of_image(&names).to_string(), "layering,exclusive-lock");
    }
}
