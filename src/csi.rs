//! The Container Storage Interface: what kubelet asks of the node plugin, over a socket for each driver.
//!
//! [`wire`] is the generated code, `request` what is asked in checked values, [`calls`] the tasks that do it, `status` how
//! failures are told.

pub mod calls;
mod identity;
pub mod node;
mod request;
mod status;
pub mod wire;
