//! The backend learns that the PV of a volume is stored: [`commit`].

use std::sync::Arc;

use futures::StreamExt as _;

use super::progress::{Attempt, Progress};
use crate::{
    backend::Kind,
    provisioner::{context::Context, queue::Outcome},
    volume::Permit,
};

/// How many volumes are committed at a time at shutdown.
const COMMITS_AT_ONCE: usize = 8;

/// Tells the backend that the PV for the claim with this UID is stored, if it does not know it yet.
///
/// It is work of its own, so that the next claim need not wait for it: until it is done, a crash costs the next leader's
/// sweep the same work, and nothing else.
pub(in crate::provisioner) async fn commit(ctx: &Context, uid: &str, permit: &Permit) -> Outcome {
    let Some(Attempt { order, progress: Progress::Stored(volume, object), .. }) = ctx.attempt(uid) else {
        return Outcome::Done;
    };
    match order.backend.commit(&volume.id, &object, permit).await {
        Ok(()) => {
            ctx.end_attempt(uid);
            Outcome::Done
        }
        // The volume was used and removed in between.
        Err(error) if error.kind() == Kind::NotFound => {
            tracing::info!(volume = %volume.id, error = error.chain(), "the volume to commit is gone");
            ctx.end_attempt(uid);
            Outcome::Done
        }
        Err(error) => {
            tracing::warn!(volume = %volume.id, error = error.chain(), "cannot commit the volume on the storage");
            error.kind().into()
        }
    }
}

/// Tells the backends of every stored PV that they do not know yet, when nothing else is begun any more.
pub(in crate::provisioner) async fn commit_all(ctx: &Context, permit: &Permit) {
    let uids: Vec<Arc<str>> = ctx.attempts().keys().cloned().collect();
    futures::stream::iter(uids)
        .for_each_concurrent(Some(COMMITS_AT_ONCE), |uid| async move {
            commit(ctx, &uid, permit).await;
        })
        .await;
}
