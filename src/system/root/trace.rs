//! What is asked of the file system, for tests that count it: [`Trace`].

use std::sync::{Arc, Mutex};

/// One operation, with the path that it was asked for. Each entry of a directory that is listed counts as one of its own.
pub(crate) type Operation = (&'static str, String);

/// The operations beneath one [`Root`](super::Root) and its copies, while they are recorded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace(Arc<Mutex<Option<Vec<Operation>>>>);

impl Trace {
    /// Records from now on.
    pub(crate) fn begin(&self) {
        *self.0.lock().unwrap() = Some(Vec::new());
    }

    /// What was recorded; nothing is from now on.
    pub(crate) fn end(&self) -> Vec<Operation> {
        self.0.lock().unwrap().take().unwrap_or_default()
    }

    pub(super) fn note(&self, step: &'static str, path: &str) {
        if let Some(operations) = &mut *self.0.lock().unwrap() {
            operations.push((step, path.to_owned()));
        }
    }
}
