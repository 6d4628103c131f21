//! End-to-end scenarios for berth: the unmodified binary against the embedded API server and
//! against the real control plane, from the same code; and against a real Ceph cluster.
//!
//! A scenario is an async function in [`scenarios`] that gets a [`case::Case`]: a namespace, a
//! provisioner name, an export directory and helpers of its own, on a [`control_plane`] that it
//! shares with others. [`suite`] runs them; `e2e/run` is the command. [`storm`] kills berth at
//! random moments, and is a scenario and a program. [`proxy`] makes the faults of the API server, [`ceph`] is
//! the Ceph cluster, [`exposure`] looks for secrets where they must not be, [`held`] stands in for a file server that hangs, [`mod@helm`] runs Helm. [`mod@bench`] measures.
//!
//! Nothing here is part of the product.

pub mod bench;
pub mod berth;
pub mod case;
pub mod ceph;
pub mod control_plane;
pub mod exposure;
pub mod held;
pub mod helm;
mod preload;
pub mod process;
pub mod proxy;
pub mod scenarios;
pub mod storm;
pub mod suite;

/// Logs to standard error as `RUST_LOG` says, else what is `usual`.
pub fn log_to_stderr(usual: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| usual.into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
