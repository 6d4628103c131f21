//! How pods use a volume: [`Access`], [`Mode`].

use std::{fmt, str::FromStr};

use super::Invalid;

/// How pods may use a volume at the same time (Kubernetes "Access Modes").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// `ReadWriteOnce`: by the pods of one node.
    ReadWriteOnce,
    /// `ReadOnlyMany`: read by pods of many nodes.
    ReadOnlyMany,
    /// `ReadWriteMany`: by pods of many nodes.
    ReadWriteMany,
    /// `ReadWriteOncePod`: by one pod.
    ReadWriteOncePod,
}

impl FromStr for Access {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "ReadWriteOnce" => Ok(Self::ReadWriteOnce),
            "ReadOnlyMany" => Ok(Self::ReadOnlyMany),
            "ReadWriteMany" => Ok(Self::ReadWriteMany),
            "ReadWriteOncePod" => Ok(Self::ReadWriteOncePod),
            _ => Err(Invalid::new(
                "access mode",
                text,
                "must be ReadWriteOnce, ReadOnlyMany, ReadWriteMany or ReadWriteOncePod",
            )),
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadWriteOnce => "ReadWriteOnce",
            Self::ReadOnlyMany => "ReadOnlyMany",
            Self::ReadWriteMany => "ReadWriteMany",
            Self::ReadWriteOncePod => "ReadWriteOncePod",
        })
    }
}

/// What a pod sees of a volume (Kubernetes `volumeMode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A mounted directory.
    Filesystem,
    /// A raw device.
    Block,
}
