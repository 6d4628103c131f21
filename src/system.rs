//! The only code that touches the machine. It has never heard of volumes or of Kubernetes.
//!
//! [`root`] is the only way to a path under an export; [`pool`] runs file-system work on threads of its own with a
//! deadline; [`command`] starts programs, and [`secret`] hands them a secret; [`keyed_lock`] lets one holder at a time work on something;
//! [`clock`] tells the time that goes on while the machine is suspended; [`mount`] mounts and unmounts, beneath one directory;
//! [`socket`] makes private unix sockets.

pub mod clock;
pub mod command;
pub mod keyed_lock;
pub mod mount;
pub mod pool;
pub mod root;
pub mod secret;
pub mod socket;
