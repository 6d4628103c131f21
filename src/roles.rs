//! What the process can be, each made of what `config` says: the parts that `main` puts together.

pub(crate) mod controller;
pub(crate) mod node;
