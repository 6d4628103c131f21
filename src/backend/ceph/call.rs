//! One call of a Ceph tool and what came of it: [`Call`], [`Reply`], [`Failed`].
//!
//! What a failure means is decided in `classify`; nothing is started here.

use std::{fmt, time::Duration};

use super::{reason::Reason, tool::Tool};
use crate::{
    backend::{Error, Kind},
    volume::Permit,
};

/// One call: what it is for, its arguments, and whether it changes anything.
///
/// The arguments are those of the command alone: cluster, user, key, timeouts and, for `ceph`, `--format json` are added to every
/// call by [`Ceph`](super::Ceph). A value that begins with `-` is the caller's to refuse.
#[derive(Debug, Clone)]
pub struct Call {
    pub(super) what: String,
    pub(super) args: Vec<String>,
    pub(super) stdin: Option<Vec<u8>>,
    pub(super) deadline: Option<Duration>,
    pub(super) permit: Option<Permit>,
    pub(super) accept_output_on: Option<Reason>,
}

impl Call {
    /// A call that changes nothing. `what` names operation and object for errors: "read image berth-1 in pool rbd".
    pub fn reads<A: Into<String>>(what: impl Into<String>, args: impl IntoIterator<Item = A>) -> Self {
        Self {
            what: what.into(),
            args: args.into_iter().map(Into::into).collect(),
            stdin: None,
            deadline: None,
            permit: None,
            accept_output_on: None,
        }
    }

    /// A call that changes something. The permit is asked directly before the program is started, and while it runs: when it
    /// ends, so does the program, and the outcome is unknown.
    pub fn changes<A: Into<String>>(
        what: impl Into<String>,
        args: impl IntoIterator<Item = A>,
        permit: &Permit,
    ) -> Self {
        Self { permit: Some(permit.clone()), ..Self::reads(what, args) }
    }

    /// What the program reads from its standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// A failure after which what the program wrote to its standard output is the answer all the same.
    #[must_use]
    pub fn accept_output_on(mut self, reason: Reason) -> Self {
        self.accept_output_on = Some(reason);
        self
    }

    /// A deadline other than the cluster's, for a call that takes long by its nature.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

/// What a call that succeeded wrote to its standard output. May hold a key: its Debug shows only how much it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    pub(super) what: String,
    pub(super) stdout: Vec<u8>,
    pub(super) remark: String,
}

impl Reply {
    /// The text, without white space around it.
    pub fn text(&self) -> Result<&str, Error> {
        std::str::from_utf8(&self.stdout).map(str::trim).map_err(|_| self.malformed("is not text"))
    }

    /// The text read as JSON; `None` where there was none, which several commands answer for "nothing there".
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        let text = self.text()?;
        if text.is_empty() {
            return Ok(None);
        }
        let read = serde_json::from_str(text).or_else(|error| {
            // Ceph writes numbers that JSON does not have: a pool without a primary has a read balance of `inf`.
            without_non_finite(text).map_or(Err(error), |text| serde_json::from_str(&text))
        });
        read.map(Some).map_err(|error| {
            // The error of serde_json may quote a value.
            self.malformed(&format!("is not as expected, at line {} column {}", error.line(), error.column()))
        })
    }

    /// The text read as JSON, where a command that succeeds always writes some.
    pub fn require_json<T: serde::de::DeserializeOwned>(&self) -> Result<T, Error> {
        self.json()?.ok_or_else(|| self.malformed("is empty"))
    }

    /// What Ceph had to say besides, without what its libraries logged. A few commands that were not carried out tell nothing else,
    /// and end like those that were.
    pub fn remark(&self) -> &str {
        &self.remark
    }

    fn malformed(&self, why: &str) -> Error {
        Error::new(Kind::Internal, format!("{}: the answer of Ceph {why}", self.what))
    }
}

/// `text` with `null` in place of what the C++ library writes for numbers that are none; `None` where it has no such.
fn without_non_finite(text: &str) -> Option<String> {
    const NONE: [&str; 4] = ["-nan", "nan", "-inf", "inf"];
    let mut clean = String::with_capacity(text.len());
    let (mut quoted, mut changed, mut rest) = (false, false, text);
    while let Some(next) = rest.chars().next() {
        let word = NONE.iter().find(|word| !quoted && rest.starts_with(**word));
        // An escaped character, which may be a quotation mark.
        let escaped = (quoted && next == '\\').then(|| rest.chars().take(2).map(char::len_utf8).sum());
        let taken = word.map_or(escaped.unwrap_or(next.len_utf8()), |word| word.len());
        let (head, tail) = rest.split_at_checked(taken)?;
        if word.is_some() {
            changed = true;
            clean.push_str("null");
        } else {
            quoted ^= next == '"';
            clean.push_str(head);
        }
        rest = tail;
    }
    changed.then_some(clean)
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("what", &self.what)
            .field("bytes", &self.stdout.len())
            .finish_non_exhaustive()
    }
}

/// A call that failed: what was tried, why, and what Ceph said, free of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// The operation and its object, as [`Call`] named them.
    pub what: String,
    /// Which tool was called.
    pub tool: Tool,
    /// Why it failed.
    pub reason: Reason,
    /// The exit code, where the program ended by itself.
    pub code: Option<i32>,
    /// What was said, on one line.
    pub stderr: String,
    /// What was found out besides, in words; empty for nothing.
    pub found: String,
}

impl Failed {
    /// The same with what was found out besides.
    #[must_use]
    pub(super) fn with(self, found: String) -> Self {
        Self { found, ..self }
    }

    /// What kind of failure it is for the caller of the backend.
    pub fn kind(&self) -> Kind {
        self.reason.kind()
    }
}

impl fmt::Display for Failed {
    /// The operation, what Ceph said, and what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.reason.headline())?;
        if !self.stderr.is_empty() {
            write!(f, " ({} said: {})", self.tool, self.stderr)?;
        }
        if !self.found.is_empty() {
            write!(f, "; {}", self.found)?;
        }
        if let Some(advice) = self.reason.advice(self.tool) {
            write!(f, "; {advice}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failed {}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        Self::new(failed.kind(), failed.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_does_not_have_are_left_out() {
        let rows = [
            (
                r#"{"a": inf, "b": -inf, "c": [nan,-nan]}"#,
                Some(r#"{"a": null, "b": null, "c": [null,null]}"#),
            ),
            (r#"{"info": "inf \" nan", "nan\\": 1}"#, None),
            (r#"{"a\"": "-inf", "b": inf}"#, Some(r#"{"a\"": "-inf", "b": null}"#)),
            ("{\"ü\\", None),
        ];
        for (text, expected) in rows {
            assert_eq!(without_non_finite(text).as_deref(), expected, "{text}");
        }
    }
}
