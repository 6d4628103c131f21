//! Mounts and unmounts, beneath the one directory of a [`Tree`].
//!
//! What is mounted is told by the [`Table`] alone: nothing here asks a mounted file system, which may hang. A path is reached
//! through its parent, which no link may be part of; what is mounted on is made with the mode 0000, so that a mount that is
//! missing is seen by whoever writes. What is removed is an empty directory or file, never what is in it. Every call may hang
//! and belongs on the threads of a [`Pool`](super::pool::Pool).

mod error;
mod filesystem;
mod place;
mod table;

use std::io;

pub use error::MountError;
pub use filesystem::Filesystem;
pub use place::{FilesystemUsage, Place, Prepared, Tree};
pub use table::{Mount, Mounted, Table};

impl Table {
    /// The table as it is now.
    pub fn read() -> io::Result<Self> {
        let text = std::fs::read("/proc/self/mountinfo")?;
        Self::parse(&text).map_err(io::Error::other)
    }
}
