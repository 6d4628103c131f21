//! What late calls and interrupted changes left beside the mirror, in `.berth/staging`.

use super::{
    super::{
        identity::STAGED_IDENTITY,
        op_error::OpError,
        record::{self, BASE, Marker, STAGING},
        work::ExportOp,
    },
    files::{LEAVING, staged_for},
    shared::clear_stage,
    take::put_back,
};
use crate::system::root::Entry;

/// Puts back what late calls moved away from the mirror.
pub(in crate::backend::nfs) fn put_back_moved(work: &ExportOp<'_>) -> Result<(), OpError> {
    for name in work.root.names(&[BASE, STAGING])? {
        let Some(volume) = staged_for(&name).filter(|_| name.ends_with(LEAVING)) else { continue };
        // Whoever works on the volume now may need it.
        let Ok(held) = work.context.try_lock(&volume) else { continue };
        let aside = record::ours([STAGING, &name]);
        let Some(content) = work.root.read_fresh(&aside)? else { continue };
        match Marker::from_json(&content.bytes) {
            Ok(found) => put_back(work, &aside, &found)?,
            Err(_) => {
                work.changes.remove_file(&aside)?;
            }
        }
        drop(held);
    }
    Ok(())
}

/// Removes what interrupted changes of the mirror left. For the beginning of a term.
pub(in crate::backend::nfs) fn clear_staging(work: &ExportOp<'_>) -> Result<(), OpError> {
    put_back_moved(work)?;
    for name in work.root.names(&[BASE, STAGING])? {
        let entry = record::ours([STAGING, &name]);
        let broken_off = record::temporary_of(&name);
        let file = broken_off.unwrap_or(&name);
        if file.starts_with(STAGED_IDENTITY) {
            // This process may be giving the export its identity now.
            let _made = work.opened.identity();
            work.changes.remove_file(&entry)?;
            continue;
        }
        let Some(volume) = staged_for(file).filter(|_| !name.ends_with(LEAVING)) else { continue };
        // Whoever works on the volume now may need it.
        let Ok(_held) = work.context.try_lock(&volume) else { continue };
        if broken_off.is_some() {
            work.changes.remove_file(&entry)?;
        } else if work.root.entry(&entry)? == Entry::Directory {
            clear_stage(work, &entry)?;
        } else {
            work.changes.remove_file(&entry)?;
        }
    }
    Ok(())
}
