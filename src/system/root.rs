//! A directory that is held open, and what is done strictly beneath it: [`Root`], [`Changes`].
//!
//! Every path is resolved by openat2(2) from the held descriptor, without following links, without crossing a mount,
//! without leaving the directory. What changes something goes through [`Changes`], which asks its caller's gate directly
//! before every single change. What the paths mean is not known here.

mod atomic;
mod changes;
mod condition;
mod directory;
mod purge;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod trace;

pub use atomic::Placed;
pub use changes::{Changes, Gate, Made, Step, Unmade};
pub use condition::Condition;
pub use directory::{Content, Entry, Failure, NotAFile, Root, Seen};
pub use nix::errno::Errno;
pub use purge::{Left, Purge, Stuck, Tree, Unfinished};
