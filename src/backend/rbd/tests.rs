//! Tests of the RBD backend.
