//! What kubectl alone needs, and no storage provisioner: tables, discovery, protobuf bodies, and server-side apply with the
//! fields that each manager owns.
//!
//! Deliberately not here: kinds, verbs and rules, which are the same for every client. The crate's README says what
//! kubectl does not get.

pub(crate) mod discovery;
pub(crate) mod fieldset;
pub(crate) mod ownership;
pub(crate) mod protobuf;
pub(crate) mod table;
