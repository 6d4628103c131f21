//! The programs of Ceph that are called: [`Tool`].

use std::fmt;

/// The tools that are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tool {
    /// `rbd`, for images.
    Rbd,
    /// `ceph`, for everything else.
    Ceph,
    /// `rados`, for what `rbd` tells only after it has opened an image.
    Rados,
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rbd => "rbd",
            Self::Ceph => "ceph",
            Self::Rados => "rados",
        })
    }
}
