//! The command line, the environment and the configuration file, made into ready values: [`parse`], the one fallible step.
//!
//! A flag wins over the environment, the environment over the file, the file over the default. Every failure names what was
//! set (flag, variable or key), its value, and what is allowed. Only `main` uses this module; whatever it starts gets
//! values and never looks at a flag again.
//!
//! It reads neither the environment nor files itself: both come in as [`Environment`]. A setting stands in the table of
//! `settings.rs`, in the field of [`Controller`] or [`Node`] (a limit of Ceph in [`Tools`](crate::backend::ceph::Tools)), and in
//! the line that makes the one of the other.

mod cluster;
mod cluster_id;
mod controller;
mod export;
mod file;
mod flags;
mod legacy_flags;
mod node;
mod served;
mod server;
mod settings;
mod sources;
mod value;

#[cfg(test)]
pub(crate) mod tests;

pub use cluster::{Ceph, ConfiguredCluster};
pub use controller::{Controller, Lease, Listen};
pub use node::Node;
#[cfg(test)]
pub(crate) use served::storage_of;
pub use served::{Provisioner, Storage};
pub use sources::Environment;
pub use value::ConfigError;

/// What is asked of the process.
#[derive(Debug, Clone, PartialEq)]
pub enum Invocation {
    /// Run the provisioner.
    Controller(Box<Controller>),
    /// Run the node plugin.
    Node(Box<Node>),
    /// Print this text on standard output: help, or the version.
    Print(String),
}

/// Reads `args` (the first is the program's own name), the environment and the file of `--config`.
pub fn parse(args: &[String], environment: Environment<'_>) -> Result<Invocation, ConfigError> {
    let legacy = legacy_flags::extract(args)?;
    match flags::read(legacy.rest.clone())? {
        flags::Read::Print(text) => Ok(Invocation::Print(text)),
        flags::Read::Controller(flags) => controller::controller(flags, &legacy, environment)
            .map(|ready| Invocation::Controller(Box::new(ready))),
        flags::Read::Node(flags) => {
            node::node(flags, legacy.verbosity, environment).map(|ready| Invocation::Node(Box::new(ready)))
        }
    }
}
