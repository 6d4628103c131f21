//! The whole loop against the embedded API server and the in-memory backend.

#![allow(clippy::needless_pass_by_value, reason = "patches read best written in place")]

mod attaching;
mod bed;
mod contract;
mod growth;
mod kept_secrets;
mod leading;
mod provisioning;
mod removal;
mod rescue;
mod sharing;
mod stingy;
mod storm;
