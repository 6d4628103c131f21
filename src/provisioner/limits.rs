//! How much of what a claim's author writes is kept, copied and told: one constant for each, and [`shortened`].
//!
//! The API server takes annotations of 256 KiB and objects of more than a megabyte. Paths have bounds of their own, which the
//! backends know.

use std::borrow::Cow;

/// The longest text of one field of a claim that is kept, in bytes. Names in Kubernetes have at most 253, so that what is cut
/// here equals nothing that is valid.
pub(super) const FIELD_BYTES: usize = 256;
/// So many access modes of a claim are kept; there are four.
pub(super) const ACCESS_MODES: usize = 8;
/// The values of a claim's labels and annotations that are kept for its class's pattern, all together, in bytes. No path that
/// holds more can be used.
pub(super) const PATTERN_BYTES: usize = 4096;
/// The longest note of an Event, and the longest text that is copied into a line of the log, in bytes: the API server takes no
/// longer notes.
pub(super) const NOTE_BYTES: usize = 1024;

/// What is cut off ends in this.
const CUT: char = '…';

/// `text`, cut and marked where it has more than `bytes`.
pub(super) fn shortened(text: &str, bytes: usize) -> Cow<'_, str> {
    if text.len() <= bytes {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(bytes.saturating_sub(CUT.len_utf8()));
    let mut short = text.get(..end).unwrap_or_default().to_owned();
    short.push(CUT);
    Cow::Owned(short)
}

/// One field of a claim, as it is kept.
pub(super) fn field(text: &str) -> Box<str> {
    shortened(text, FIELD_BYTES).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_is_cut_at_a_character_and_marked() {
        assert_eq!(shortened("abc", 3), "abc");
        assert_eq!(shortened("abcdef", 5), "ab…");
        assert_eq!(shortened("ääää", 7), "ää…");
        assert_eq!(field(&"x".repeat(1 << 20)).len(), FIELD_BYTES);
        assert_eq!(&*field(&"n".repeat(253)), "n".repeat(253));
    }
}
