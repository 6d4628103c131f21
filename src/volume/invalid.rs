//! What every constructor of a noun says of a text that is none: [`Invalid`].

/// Why a text is not a value of the type asked for. The message names the text and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} {why}")]
pub struct Invalid {
    /// The noun: "volume name", "capacity".
    pub what: &'static str,
    /// The text as given, shortened where it is long.
    pub text: String,
    /// What is wrong, and what to write instead.
    pub why: String,
}

impl Invalid {
    /// An error about `text`, which should have been a `what`.
    pub fn new(what: &'static str, text: impl AsRef<str>, why: impl Into<String>) -> Self {
        Self { what, text: text.as_ref().chars().take(200).collect(), why: why.into() }
    }
}
