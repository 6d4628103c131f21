//! What was moved to the trash is purged from here, once the API server says that its PV is gone: [`collect_garbage`] is
//! the loop.
//!
//! A round looks at the trash ([`scan`]), asks the API server for the PVs, decides ([`plan`]), moves what goes back, and purges
//! what may go ([`act`]), each entry for a slice of time, so that one that is written to holds up no other. Between the rounds
//! the loop sleeps until something is due or was removed.

mod act;
mod item;
mod plan;
mod rounds;
mod scan;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use self::{
    item::{FIRST_PAUSE, LONGEST_PAUSE},
    rounds::{Purger, Rounds},
};
use super::{op_error::explained, store::Store};
use crate::volume::Permit;

/// After a look at the trash the loop pauses for so many times what that took.
const PACE: u32 = 9;

/// Purges the trash of `store` until the permit ends.
pub(super) async fn collect_garbage(store: &Arc<Store>, permit: &Permit) {
    // While we did not lead, others may have changed what is recorded.
    store.index.reset();
    let ending = StopOnDrop(Arc::new(AtomicBool::new(false)));
    let mut rounds = Rounds::default();
    while permit.check().is_ok() {
        let Ok(opened) = store.opened("purge").await else {
            tokio::time::sleep(FIRST_PAUSE).await;
            continue;
        };
        let purger = Purger { store, opened: &opened, permit, ended: &ending.0 };
        match rounds.run(&purger).await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                if permit.check().is_err() {
                    return;
                }
                let reason = explained(&store.on("purge"), error).chain();
                tracing::warn!(export = store.export.name, reason, "purging the trash failed");
                store.invalidate(&opened);
                tokio::time::sleep(FIRST_PAUSE).await;
                continue;
            }
            None => tokio::time::sleep(LONGEST_PAUSE).await,
        }
        let next = rounds.next(store);
        // Where the trash is large and much is removed, most of the time goes into other things than listing it.
        let pause = (rounds.took * PACE).min(LONGEST_PAUSE);
        tokio::time::sleep_until((Instant::now() + pause).min(next).into()).await;
        tokio::select! {
            () = store.trash.wake.notified() => {}
            () = tokio::time::sleep_until(next.into()) => {}
        }
    }
}

/// So many rounds as make an end of whatever is due, without the pauses between them.
#[cfg(test)]
pub(super) async fn rounds_for_tests(store: &Arc<Store>, permit: &Permit) {
    let ending = StopOnDrop(Arc::new(AtomicBool::new(false)));
    for _ in 0..3 {
        let Ok(opened) = store.opened("purge").await else { return };
        let purger = Purger { store, opened: &opened, permit, ended: &ending.0 };
        let mut rounds = Rounds::default();
        for _ in 0..3 {
            if !matches!(rounds.run(&purger).await, Some(Ok(()))) {
                break;
            }
        }
    }
}

/// Ends what runs when garbage is not collected any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
