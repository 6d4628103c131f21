//! What an operation works with: [`Work`]. What it asks and tells the programs is in `image`, `pool` and `snapshots`.

use std::sync::Arc;

use super::{
    error::{OpError, fail},
    header::Header,
    names::PoolNamespace,
    proof::{Verdict, judge},
    store::Store,
};
use crate::backend::{
    Error, Kind, Kubernetes, PvState,
    ceph::{Admin, Login, owner::Claimant},
};

/// What an operation works with: a store, a handle for one user, and the list of images that it is about.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) store: Arc<Store>,
    pub(super) host: Arc<dyn Kubernetes>,
    pub(super) ceph: Arc<Login>,
    pub(super) pool_namespace: PoolNamespace,
}

impl Work {
    /// With the key that the host has for `admin`.
    pub(super) async fn new(
        store: &Arc<Store>,
        host: &Arc<dyn Kubernetes>,
        pool_namespace: &PoolNamespace,
        admin: &Admin,
    ) -> Result<Self, Error> {
        let ceph = Arc::new(Login::open(host, &store.cluster, admin).await?);
        Ok(Self {
            store: Arc::clone(store),
            host: Arc::clone(host),
            ceph,
            pool_namespace: pool_namespace.clone(),
        })
    }

    /// The identity of the cluster, which must be what it was.
    pub(super) async fn identity(&self) -> Result<String, OpError> {
        let identity = self.ceph.fsid().await?;
        match self.store.swapped() {
            Some(why) => fail(Kind::Refused, format!("cluster {}: {why}", self.store.cluster.name())),
            None => Ok(identity),
        }
    }

    /// The same, which must be the one that the PV recorded, if it recorded one.
    pub(super) async fn prove_identity(&self, claimant: Claimant<'_>) -> Result<(), OpError> {
        let identity = self.identity().await?;
        match &claimant.pv_metadata.store_identity {
            Some(recorded) if *recorded != identity => {
                let message = format!(
                    "the volume was made in the cluster with the identity (fsid) {recorded}, and cluster {} is {identity}; nothing \
                     was touched",
                    self.store.cluster.name()
                );
                fail(Kind::Refused, message)
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the image `spec` with this header is the volume of the PV: refused where nothing proves it, or where it belongs
    /// to another PV that exists.
    pub(super) async fn prove(
        &self,
        spec: &str,
        header: &Header,
        claimant: Claimant<'_>,
    ) -> Result<Verdict, OpError> {
        let mark = header.metadata.mark(spec)?;
        let verdict = judge(spec, mark.as_ref(), claimant, self.host.cluster_ids().as_ref())?;
        if let Verdict::Sign { instead_of: Some(other) } = &verdict
            && self.host.pv_state(other).await? != PvState::Absent
        {
            let message = format!(
                "image {spec} belongs to PersistentVolume {other}, which exists; nothing was touched. Delete that one first (with \
                 the reclaim policy Retain), or correct this one"
            );
            return fail(Kind::Refused, message);
        }
        Ok(verdict)
    }
}
