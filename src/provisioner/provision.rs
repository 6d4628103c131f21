//! A claim becomes a volume: [`plan`](plan::plan) decides, [`reconcile`](reconcile::reconcile) does it.
//!
//! The steady state is one directory, one PV, one Event, and no reads. What was begun is kept in an [`Attempt`](progress::Attempt)
//! until its outcome is known: a claim that is deleted in between is still worked on, until its volume has a PV or was
//! rolled back. After a crash the sweep does the same from what the storage records.
//!
//! Names, paths and the parameters of a backend are the backend's business.

mod commit;
mod plan;
pub(super) mod progress;
mod reconcile;
mod remarks;

pub(super) use commit::{commit, commit_all};
pub(super) use plan::{Order, parse};
pub(super) use reconcile::reconcile;
