//! Storage: the ports through which it is reached ([`Backend`], [`Janitor`], [`Stores`]), their [`Error`], and the backends behind
//! them.
//!
//! A backend makes and unmakes volumes and knows nothing of Kubernetes objects or of gRPC; what it may ask of the cluster is in
//! [`ClusterInfo`] and [`SecretStore`]. Whatever calls it decides first; a backend decides only what the storage itself can
//! answer (is this ours, does it exist, who lies beneath).

mod backends;
pub mod ceph;
pub mod cephfs;
mod cluster;
#[cfg(any(test, feature = "test"))]
pub mod conformance;
mod connector;
mod error;
#[cfg(any(test, feature = "test"))]
pub mod fake_host;
mod inspection;
#[cfg(any(test, feature = "test"))]
pub mod memory;
pub mod nfs;
mod ownership;
mod ports;
pub mod rbd;

pub use backends::{Backends, Ports};
pub use cluster::{ClusterInfo, Kubernetes, PvState, SecretStore};
pub use connector::{Connection, Connector, NodeVolume};
pub use error::{Error, Kind, Retry};
pub use inspection::{Finding, Inspection};
pub use ownership::{UNKNOWN_CLUSTER, quoted, take_over};
use ports::parameter_table;
pub use ports::{
    Backend, Capabilities, Janitor, Known, KnownVolume, Parameter, Removed, Restored, StorageSystem,
    StoreExpectation, StoreStatus, Stores, Uncommitted,
};
