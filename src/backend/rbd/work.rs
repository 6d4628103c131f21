//! What an operation works with: [`PoolClient`]. What it asks and tells the programs is in `image`, `pool` and `snapshots`.

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
    ceph::{Admin, Login, owner::PvVolume},
};

/// What an operation works with: a store, a handle for one user, and the list of images that it is about.
#[derive(Clone)]
pub(super) struct PoolClient {
    pub(super) store: Arc<Store>,
    pub(super) kube: Arc<dyn Kubernetes>,
    pub(super) ceph: Arc<Login>,
    pub(super) pool_namespace: PoolNamespace,
}

impl PoolClient {
    /// With the key that the host has for `admin`.
    pub(super) async fn new(
        store: &Arc<Store>,
        kube: &Arc<dyn Kubernetes>,
        pool_namespace: &PoolNamespace,
        admin: &Admin,
    ) -> Result<Self, Error> {
        let ceph = Arc::new(Login::open(kube, &store.cluster, admin).await?);
        Ok(Self {
            store: Arc::clone(store),
            kube: Arc::clone(kube),
            ceph,
            pool_namespace: pool_namespace.clone(),
        })
    }

    /// The identity of the cluster, which must be what it was.
    pub(super) async fn identity(&self) -> Result<String, OpError> {
        Ok(self.store.identity.prove(&self.ceph, &self.store.cluster).await?)
    }

    /// The same, which must be the one that the PV recorded, if it recorded one.
    pub(super) async fn prove_identity(&self, pv: PvVolume<'_>) -> Result<(), OpError> {
        let identity = self.identity().await?;
        match &pv.pv_metadata.store_identity {
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
        pv: PvVolume<'_>,
    ) -> Result<Verdict, OpError> {
        let mark = header.metadata.mark(spec)?;
        let verdict = judge(spec, mark.as_ref(), pv, self.kube.cluster_ids().as_ref())?;
        if let Verdict::Relabel { instead_of: Some(other) } = &verdict
            && self.kube.pv_state(other).await? != PvState::Absent
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
