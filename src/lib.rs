//! berth: a dynamic storage provisioner for Kubernetes.
//!
//! `volume` says what things are, `backend` makes and unmakes them, `system` is the only code that touches the machine;
//! `provisioner` is the Kubernetes loop over a `Backend`. `main` parses the configuration and starts one role.
//! `docs/architecture.md` draws the whole, and `layers` (a test) holds the arrows between the modules.

pub mod backend;
pub mod config;
pub mod csi;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod layers;
pub mod observe;
pub mod provisioner;
pub mod system;
pub mod volume;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
