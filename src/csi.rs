//! The Container Storage Interface: what kubelet asks of the node plugin, over a socket for each driver.
//!
//! [`wire`] is the generated code.

pub mod wire;
