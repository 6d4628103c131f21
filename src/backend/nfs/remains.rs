//! What earlier calls have left of a volume in the trash and in the archive: [`entries`], and whether it is the volume of a PV:
//! [`is_of`].

use super::{
    entry::{self, Name, SelfDescribingName},
    moves,
    op_error::OpError,
    prove::{self, PvVolume},
    record::{self, Marker, TRASH},
    work::{ExportOp, Rule},
};
use crate::volume::{RelativePath, Removal};

/// Whether what lies in the trash or in the archive is the volume of this PV.
pub(super) fn is_of(work: &ExportOp<'_>, marker: &Marker, removal: &Removal) -> bool {
    let cluster = work.cluster();
    let pv_volume =
        PvVolume { name: &removal.name, pv_metadata: &removal.pv_metadata, cluster: cluster.as_ref() };
    *marker.id.name() == removal.name
        && (!work.context.enforces(Rule::Cluster) || prove::owner("", marker, pv_volume).is_ok())
}

/// What there is of a volume in the trash.
pub(super) enum Found {
    /// With a record, which proves that it is the volume's.
    Recorded { entry: String, marker: Box<Marker> },
    /// With a name that proves it.
    Named { path: RelativePath, whole: SelfDescribingName },
    /// Of the previous version, by its name.
    Legacy,
}

/// What there is of the volume in the trash, the newest first.
pub(super) fn entries(work: &ExportOp<'_>, removal: &Removal) -> Result<Vec<Found>, OpError> {
    let prefix = entry::prefix(&removal.name);
    let folder = record::ours([TRASH]);
    let mut names = work.root.names(&folder)?;
    names.retain(|name| name.starts_with(&prefix));
    names.sort_unstable_by(|a, b| b.cmp(a));
    let mut found = Vec::new();
    for name in &names {
        if let Some(entry) = name.strip_suffix(".json") {
            match moves::trashed(work, entry)? {
                Some(marker) if is_of(work, &marker, removal) => {
                    found.push(Found::Recorded { entry: entry.to_owned(), marker: Box::new(marker) });
                }
                Some(_) | None => {}
            }
            continue;
        }
        let recorded = names.contains(&format!("{name}.json"));
        match Name::read(name) {
            Name::SelfDescribingName(whole) if !recorded && named_for(work, &whole, removal) => {
                found.push(Found::Named { path: moves::in_trash(name), whole });
            }
            Name::Legacy { volume, .. } if !recorded && volume.as_ref() == Some(&removal.name) => {
                found.push(Found::Legacy);
            }
            Name::SelfDescribingName(_) | Name::Legacy { .. } | Name::Recorded(_) | Name::Unknown => {}
        }
    }
    for name in work.context.trash.at_top() {
        if let Name::SelfDescribingName(whole) =
            Name::read(name.strip_prefix(entry::AT_TOP).unwrap_or_default())
            && named_for(work, &whole, removal)
        {
            found.push(Found::Named { path: entry::at_top("", &name), whole });
        }
    }
    // Of several the one of this very object comes first.
    let uid = Some(removal.pv_metadata.uid.as_str());
    found.sort_by_key(|found| match found {
        Found::Recorded { marker, .. } => marker.uid.as_deref() != uid,
        Found::Named { whole, .. } => whole.uid.as_deref() != uid,
        Found::Legacy => true,
    });
    Ok(found)
}

fn named_for(work: &ExportOp<'_>, whole: &SelfDescribingName, removal: &Removal) -> bool {
    let same = whole.uid.as_ref().is_some_and(|uid| *uid == removal.pv_metadata.uid);
    let ours = || work.cluster().zip(whole.cluster.as_ref()).is_some_and(|(ids, id)| ids.include(id));
    whole.volume == removal.name && (same || ours())
}
