//! The whole loop against the embedded API server and the in-memory backend.

mod bed;
mod growth;
mod leading;
mod provisioning;
mod removal;
