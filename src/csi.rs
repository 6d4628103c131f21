//! The Container Storage Interface: what kubelet asks of the node plugin, over a socket for each driver.
//!
//! [`plugin`] serves it and [`registration`] tells kubelet of it. [`node`] does what is asked; each call is a task of its own
//! ([`calls`]). [`wire`] is the generated code, `request` what is asked in checked values, `status` how failures are told,
//! [`kubelet`] where kubelet has its directory.

pub mod calls;
mod identity;
pub mod kubelet;
pub mod node;
pub mod plugin;
pub mod registration;
mod request;
mod status;
pub mod wire;
