//! Names as DNS and Kubernetes write them (RFC 1123).

/// The longest subdomain, and so the longest name of most Kubernetes objects.
pub const MAX_SUBDOMAIN: usize = 253;

/// Whether `text` is 1 to 63 lower case letters, digits and `-`, and begins and ends with a letter or digit.
pub fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_plain(text)
}

/// Whether `text` is a name of a Kubernetes object: labels with dots between them. As in Kubernetes, only the whole has a
/// longest length.
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= MAX_SUBDOMAIN && text.split('.').all(is_plain)
}

fn is_plain(label: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = label.as_bytes();
    bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
}
