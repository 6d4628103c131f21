//! How far the work on a claim has come: [`Attempt`], which outlives each try.

use std::{sync::Arc, time::Instant};

use super::plan::Order;
use crate::volume::Volume;

/// What was begun for a claim and is not ended.
#[derive(Debug, Clone)]
pub(in crate::provisioner) struct Attempt {
    pub(in crate::provisioner) order: Arc<Order>,
    pub(in crate::provisioner) began: Instant,
    pub(in crate::provisioner) progress: Progress,
}

/// How far an attempt has come. What is written here holds whenever the work is dropped.
#[derive(Debug, Clone)]
pub(in crate::provisioner) enum Progress {
    /// The backend was asked; whether there is a volume is unknown.
    Begun,
    /// There is a volume.
    Made(Arc<Volume>),
    /// The API server was asked to store the PV; whether it did is unknown.
    Posted(Arc<Volume>),
    /// The PV is stored, as the object with this UID; the backend does not know yet.
    Stored(Arc<Volume>, Arc<str>),
}
