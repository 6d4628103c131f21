//! What RBD and `CephFS` share: clusters, credentials, the calls of Ceph's command-line tools and what their answers mean.
//!
//! [`Clusters`] finds a [`Cluster`]; [`Login`] is one of its users, which calls the tools; [`KnownStores`] is what a
//! backend knows of all of them. What an image or a subvolume is, is not known here, and no failure is tried again.
//!
//! A tool reads no configuration of the machine, writes no log and opens no socket; what it needs to know stands in its
//! arguments, and its key in a file that is only memory (`system::secret`). A program that was started goes on when this process
//! is killed, as a write to a disk would, until its own timeouts end it.

mod admin;
mod breaker;
mod call;
pub mod class;
mod classify;
mod client;
mod cluster;
mod credentials;
mod errno;
mod login;
mod monitors;
pub mod omap;
pub mod owner;
pub mod parameters;
mod programs;
mod reach;
mod reason;
mod session_pool;
mod stderr;
mod stores;
#[cfg(test)]
pub(crate) mod tests;
mod tool;
mod users;
mod watch;

pub use admin::Admin;
pub use call::{Call, Failed, Reply};
pub use classify::classify;
pub use client::Ceph;
pub use cluster::{Cluster, Clusters, Health, Tools};
pub use credentials::{Credentials, Key};
pub use login::Login;
pub use monitors::Monitors;
pub use programs::Programs;
pub use reason::Reason;
pub use stores::{ClusterStore, ExpectedIdentity, KnownStores};
#[cfg(test)]
pub(crate) use tests::fake;
pub use tool::Tool;
