//! The Kubernetes loop over the backends.

pub mod events;
pub mod lease;
pub mod queue;
pub mod rights;
#[cfg(test)]
mod stub;
