//! Starts programs: [`run`] for one that answers and ends, [`Session`] for one that answers line by line.
//!
//! A program gets its arguments as they are (no shell), an environment of what is named and `PATH`, a deadline, and a process group
//! of its own, which is killed whole at the deadline, or when the caller no longer waits. What it wrote is kept up to a cap.
//! No argument is logged here: only the caller knows what may be shown.

use std::time::Duration;

/// One program to be run.
#[derive(Clone)]
pub struct Command {
    /// Its name, looked up in `PATH`, or its path.
    pub program: String,
    /// Its arguments, without its name.
    pub args: Vec<String>,
    /// Its whole environment besides `PATH`.
    pub env: Vec<(String, String)>,
    /// What it reads; `None` for nothing.
    pub stdin: Option<Vec<u8>>,
    /// How long it may take.
    pub deadline: Duration,
    /// How much is kept of each of its outputs.
    pub cap: usize,
}

/// How a program ended by itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit code, or 128 and the number of the signal that ended it, as a shell says it.
    pub code: i32,
    /// What it wrote to its standard output.
    pub stdout: Captured,
    /// What it wrote to its standard error.
    pub stderr: Captured,
}

/// What was written to one output.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Captured {
    /// The beginning, up to the cap.
    pub bytes: Vec<u8>,
    /// How many bytes behind it were dropped.
    pub dropped: u64,
}

/// Why there is no [`Output`].
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no such program.
    #[error("the program {0} is not installed, or not in PATH")]
    Missing(String),
    /// It did not end in time; it and all its children were killed.
    #[error("did not end within {0:?} and was killed")]
    Deadline(Duration),
    /// It could not be started, fed or waited for.
    #[error("{step}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        #[source]
        cause: std::io::Error,
    },
}
