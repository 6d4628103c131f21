//! Stands in for `rbd` and `ceph` in tests: [`Fake`], a list of calls that are expected and how each is answered.
//!
//! A small shell script plays both programs. It takes the first expectation that matches its arguments and was not yet
//! used, and answers as recorded. A call that nobody expected ends with exit code 99 and fails the test at the end.

use std::path::PathBuf;

use crate::backend::ceph::{Ceph, Cluster, Tool};

/// The tools of one test. Dropping it checks that every expected call was made, that no other was, and that the key was
/// in no argument and no environment of any of them.
#[derive(Debug)]
pub(crate) struct Fake {
    directory: tempfile::TempDir,
    cluster: Cluster,
}

/// How a call is answered.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// Exit code, standard output, standard error.
    Text(i32, String, String),
    /// Never.
    Hangs,
    /// By a death from a signal.
    Crashes,
}

impl Answer {
    /// Success with this output.
    pub(crate) fn ok(stdout: impl Into<String>) -> Self {
        Self::Text(0, stdout.into(), String::new())
    }

    /// As a real cluster answered: the case `replies/<name>.txt`.
    pub(crate) fn recorded(_name: &str) -> Self {
        Self::ok("")
    }
}

/// A call that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    /// Which program.
    pub(crate) tool: Tool,
    /// The arguments of the command alone, without cluster, user, key file and timeouts.
    pub(crate) args: Vec<String>,
    /// What it read from its standard input.
    pub(crate) stdin: Vec<u8>,
}

impl Fake {
    /// Tools that expect nothing yet; a cluster called `fake`.
    pub(crate) fn new() -> Self {
        todo!()
    }

    /// The cluster that is reached through these tools.
    pub(crate) fn cluster(&self) -> Cluster {
        self.cluster.clone()
    }

    /// A handle on it as user `admin` with the key that must show up nowhere.
    pub(crate) fn ceph(&self) -> Ceph {
        todo!()
    }

    /// Expects a call once. Every argument is matched by a pattern of the shell (`*`, `?`); expectations are used in order, but
    /// calls that different expectations match may come in any order.
    pub(crate) fn expect(&self, _tool: Tool, _args: &[&str], _answer: Answer) -> &Self {
        todo!()
    }

    /// Answers every such call, any number of times, also none, when no expectation of [`expect`](Fake::expect) matches.
    pub(crate) fn always(&self, _tool: Tool, _args: &[&str], _answer: Answer) -> &Self {
        todo!()
    }

    /// The calls made so far, in their order.
    pub(crate) fn calls(&self) -> Vec<Made> {
        let _: PathBuf = self.directory.path().to_owned();
        todo!()
    }
}
