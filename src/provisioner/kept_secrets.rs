//! Finds the Secrets that a backend keeps for bound volumes and that are not there any more: [`run`].
//!
//! Such a Secret may lie in the claim's namespace, where a tenant can delete it; then no node can mount the volume. Each is asked
//! for by its name, without its values, one after the other at a slow pace, when a term begins and every hour: that needs no right to
//! list or watch Secrets, costs nothing where no volume has one, and however often one is deleted, it is made once in an hour.
//!
//! Nothing is made here. Work on the volume is queued ([`register`](super::register)), and its backend proves first that it is ours.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use super::{context::Context, host::SecretState, key::Key};
use crate::volume::VolumeName;

/// How often all are looked at.
const EVERY: Duration = Duration::from_hours(1);
/// How soon again, where some could not be asked for.
const AGAIN: Duration = Duration::from_mins(5);
/// The pause between two questions.
const PAUSE: Duration = Duration::from_millis(250);

/// Looks for what is gone, until dropped.
pub(super) async fn run(ctx: Arc<Context>) {
    loop {
        let began = Instant::now();
        let all_answered = look(&ctx).await;
        sleep_until(began + if all_answered { EVERY } else { AGAIN }).await;
        // Where there are so many that a round takes longer than that.
        sleep(PAUSE).await;
    }
}

/// Asks for each of them once. Returns whether all were answered.
async fn look(ctx: &Context) -> bool {
    let volumes = ctx.cache().with_kept_secrets();
    let mut forbidden = BTreeSet::new();
    let mut all_answered = true;
    for name in volumes {
        // The list may be hours old by now.
        let Some(secret) = ctx.cache().kept_secret(&name).cloned() else { continue };
        let Ok(owner) = name.parse::<VolumeName>() else { continue };
        if forbidden.contains(&secret.namespace) {
            continue;
        }
        match ctx.cluster.secret_metadata(&secret).await {
            Ok(found) => match SecretState::of(found.as_ref(), &owner) {
                SecretState::Kept => {}
                SecretState::Gone => {
                    tracing::info!(volume = %name, %secret, "the Secret that nodes mount the volume with is gone");
                    ctx.cache().wakeups.wake(Key::Register(name));
                }
                // The administrator is told.
                SecretState::Replaced => ctx.cache().wakeups.wake(Key::Register(name)),
            },
            Err(failure) if failure.is_forbidden() => {
                tracing::warn!(
                    namespace = secret.namespace,
                    error = %failure,
                    "whether the Secrets of volumes are still there cannot be asked in this namespace"
                );
                forbidden.insert(secret.namespace);
            }
            Err(failure) => {
                tracing::debug!(volume = %name, %secret, error = %failure, "cannot ask for the Secret of a volume");
                all_answered = false;
            }
        }
        sleep(PAUSE).await;
    }
    all_answered
}
