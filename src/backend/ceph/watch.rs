//! Asks the users of a cluster while it is not known whether they can be used: [`Cluster::watch`].

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::sync::Notify;

use super::{
    admin::Admin,
    cluster::{Cluster, Shared},
    login,
    users::LONGEST_PAUSE,
};
use crate::backend::Kubernetes;

impl Cluster {
    /// Looks after a user that a class or the configuration names, as long as the cluster is held: it is asked until it is known
    /// whether the user can be used, and again while that is not so, or while the cluster does not answer.
    pub fn watch(&self, kube: &Arc<dyn Kubernetes>, admin: &Admin) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if let Some(met) = self.users().watch(admin) {
            runtime.spawn(watch(Arc::downgrade(&self.shared), met, Arc::clone(kube)));
        }
    }

    /// Asks as those users of whom it is not known that they can be used; how long to wait for the next look.
    async fn look(&self, kube: &Arc<dyn Kubernetes>) -> Duration {
        let lost = self.is_unreachable() || self.identity().is_none();
        // One that is left alone for a while is not asked by all of them one after the other.
        if !lost || self.breaker().left().is_zero() {
            let all = self.users().to_look_at(lost);
            for admin in all {
                // The key may have been corrected.
                if let Ok(ceph) = login::open(self, &**kube, &admin, true).await {
                    // Whatever is known of the cluster, it must let this user in.
                    let _ = ceph.ask_identity().await;
                }
            }
        }
        let pause = self.users().pause(self.tools().recheck);
        pause.max(self.breaker().left().min(LONGEST_PAUSE))
    }
}

async fn watch(cluster: Weak<Shared>, met: Arc<Notify>, kube: Arc<dyn Kubernetes>) {
    loop {
        let Some(shared) = cluster.upgrade() else { return };
        let pause = Cluster { shared }.look(&kube).await;
        // The wait holds no reference to the cluster: one that is no longer used is dropped.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = met.notified() => {}
        }
    }
}
