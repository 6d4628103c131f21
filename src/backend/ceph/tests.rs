//! Tests of the calls against programs that stand in for Ceph's.

pub(crate) mod fake;
