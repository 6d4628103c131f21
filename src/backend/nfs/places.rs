//! The mirror of the used places: [`occupy`] and [`vacate`] decide, among all clusters that use an export, who may lie
//! where.
//!
//! Below `.berth/places` there is a file for every volume and every archive, with the path that this has below the export,
//! and a directory for whatever is above one. A file is made by link(2), which fails where anything is: one call of the
//! server decides between all who want a place, and neither volume nor archive can lie within another. A place that is
//! shared is a directory that holds `.berth/open` with a file for each of its volumes; no segment of a volume's path has
//! that name. Who comes to something below a directory looks once more whether it became a shared place; who founds a
//! shared place can do so only in an empty directory.
//!
//! A file holds the record as it was then: whose it is. Nothing here looks at the volumes themselves, and what this
//! process remembers decides nothing.

mod files;
mod leave;
mod looks;
mod shared;
mod staging;
mod take;

pub(super) use leave::{Leaving, leave_shared, stay};
pub(super) use looks::{Occupant, Relation, holds, occupant, overlapping};
pub(super) use staging::{clear_staging, put_back_moved};
pub(super) use take::{Occupied, occupy, occupy_recorded, vacate};
