//! The embedded API server of `berth-apiserver`, in this process.

use anyhow::{Result, bail};

use super::{Access, Request, User};

/// A running embedded control plane.
#[derive(Debug)]
pub struct Embedded {}

impl Embedded {
    pub(super) async fn start() -> Result<Self> {
        bail!("not joined yet")
    }

    pub(super) fn access(&self, user: User) -> Result<Access> {
        bail!("not joined yet {user:?}")
    }

    pub(super) fn requests(&self, user: User) -> Result<Vec<Request>> {
        bail!("not joined yet {user:?}")
    }

    pub(super) async fn stop_api_server(&self) -> Result<()> {
        bail!("not joined yet")
    }

    pub(super) async fn start_api_server(&self) -> Result<()> {
        bail!("not joined yet")
    }
}
