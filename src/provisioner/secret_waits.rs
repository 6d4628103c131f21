//! Work that fails for want of a Secret, and comes back as soon as there is one: [`Context::await_secret`], [`run`].
//!
//! Of each Secret that is waited for, one watch is kept where the right to it is there; elsewhere it is asked for, at a pace that
//! stays short ([decision 21](../../docs/decisions/0021-secrets-that-appear.md)). Values are not read here. Only so many Secrets
//! are followed at a time, since a class may name one in the namespace of each claim; what waits for others is tried again at
//! the usual pace.

pub(super) mod wanted;

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};

use super::{context::Context, key::Key};
use crate::{backend::Error, volume::SecretName};

/// So many Secrets are followed at a time.
const FOLLOWED: usize = 64;
/// The first pause between two questions; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two questions.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

impl Context {
    /// Works on `key` as soon as the Secret is there whose absence made it fail, if that is what `error` says.
    pub(super) fn await_secret(&self, error: &Error, key: Key) {
        let Some(name) = error.missing_secret() else { return };
        self.cache().wakeups.wait(&id(name), key);
        self.secret_waits.want(name.clone());
    }
}

/// What a Secret is called among all that work may wait for: no volume and no claim has a slash in its name.
fn id(name: &SecretName) -> Arc<str> {
    format!("secret/{name}").into()
}

/// How the following of a Secret ended.
enum End {
    /// It is there, or it cannot be asked for.
    Over,
    /// When it was last looked, nothing waited for it.
    Unwanted,
}

/// Follows the Secrets that work waits for, until dropped.
pub(super) async fn run(ctx: Arc<Context>) {
    let waits = &ctx.secret_waits;
    let mut followed = HashSet::new();
    let mut following = FuturesUnordered::new();
    loop {
        let wanted = std::mem::take(&mut *waits.wanted());
        for name in wanted {
            if followed.len() < FOLLOWED && followed.insert(name.clone()) {
                following.push(follow(&ctx, name));
            }
        }
        tokio::select! {
            Some((name, end)) = following.next(), if !following.is_empty() => {
                followed.remove(&name);
                match end {
                    // Work may have begun to wait for it while that was being found out.
                    End::Unwanted if ctx.cache().wakeups.awaits(&id(&name)) => waits.want(name),
                    End::Unwanted | End::Over => {}
                }
            }
            () = waits.news.notified() => {}
        }
    }
}

/// Waits until the Secret is there and wakes the work that waits for it.
async fn follow(ctx: &Context, name: SecretName) -> (SecretName, End) {
    let id = id(&name);
    let mut may_watch = true;
    let mut pause = FIRST_PAUSE;
    while ctx.cache().wakeups.awaits(&id) {
        let there = if may_watch {
            match ctx.cluster.secret_appears(&name).await {
                Ok(there) => there,
                Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403) => {
                    may_watch = false;
                    continue;
                }
                Err(error) => {
                    tracing::debug!(secret = %name, error = %error, "cannot watch a missing Secret");
                    false
                }
            }
        } else {
            match ctx.cluster.has_secret(&name).await {
                Ok(there) => there,
                Err(failure) if failure.is_forbidden() => return (name, End::Over),
                Err(failure) => {
                    tracing::debug!(secret = %name, error = %failure, "cannot check whether a missing Secret exists");
                    false
                }
            }
        };
        if there {
            tracing::info!(secret = %name, "a missing Secret exists now");
            ctx.cache().wakeups.gone(&id);
            return (name, End::Over);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    (name, End::Unwanted)
}
