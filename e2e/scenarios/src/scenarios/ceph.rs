//! What only a real Ceph cluster can show, by theme: each module's `scenarios` gives its table.
//!
//! [`bed`] is what each of them gets, and what checks at the end that nothing leaked.

mod bed;
mod cephfs;
mod conformance;
mod crashes;
mod faults;
mod ground;
mod mounts;
mod old;
mod outages;
mod rbd;
mod rbd_removal;
mod secrets;
mod two_clusters;

use std::sync::Arc;

use anyhow::{Context, Result};

use self::bed::Bed;
use crate::suite::{Scenario, scenario};

/// All of them, in the order of reading.
pub(super) fn all() -> Vec<Scenario> {
    [
        ground::scenarios(),
        conformance::scenarios(),
        rbd::scenarios(),
        rbd_removal::scenarios(),
        cephfs::scenarios(),
        two_clusters::scenarios(),
        mounts::scenarios(),
        old::scenarios(),
        secrets::scenarios(),
        faults::scenarios(),
        crashes::scenarios(),
        outages::scenarios(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A scenario with a bed of its own, at whose end nothing may have leaked.
fn on_bed<F>(name: &'static str, run: impl Fn(Arc<Bed>) -> F + Copy + 'static) -> Scenario
where
    F: Future<Output = Result<()>> + 'static,
{
    scenario(name, move |case| async move {
        let bed = Arc::new(Bed::new(case).await.context("prepare the pool and the users")?);
        let ended = match run(Arc::clone(&bed)).await {
            Ok(()) => bed.agrees().await,
            Err(error) => Err(error),
        };
        if ended.is_ok() {
            bed.remove_group().await;
        }
        if ended.is_err() {
            bed.case.note(bed.tell().await);
        }
        ended
    })
}
