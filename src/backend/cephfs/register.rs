//! Signs the mark of a volume that a PV of this cluster uses: [`register`].
//!
//! Marks that were written while it was not known which cluster this is say nothing of that. One is signed only if it names the very
//! claim that the PV is bound to: a copy of the PV in another cluster is bound to another one.

use super::{
    mark::{self, Mark, Marks, Owner},
    record::Record,
    remove::at,
    store::Work,
    subvolumes::Found,
};
use crate::{
    backend::{Error, Kind},
    volume::{InUse, Permit},
};

/// Signs it, unless it is signed.
pub(super) async fn register(
    work: &Work,
    volume: &InUse,
    record: &Record,
    permit: &Permit,
) -> Result<(), Error> {
    let at = at(record);
    work.prove_identity(volume.provenance.store_identity.as_deref()).await?;
    let Some(cluster) = work.host.cluster() else { return Ok(()) };
    let Found::Subvolume(metadata) = work.subvolumes.metadata(&at).await? else { return Ok(()) };
    let marks = Marks::read(&metadata);
    let Owner::Claim(mark) = &marks.owner else {
        let message = format!("{} carries no mark of ours that can be read; it was left alone", at.shown());
        return Err(Error::new(Kind::Refused, message));
    };
    if mark.is_of(Some(&cluster)) {
        return Ok(());
    }
    if mark.installation.is_some() || !mark.names(&volume.name) || mark.uid != volume.claim.uid {
        let message = format!(
            "{} belongs to {}, and PersistentVolume {} is bound to claim {} (UID {}) of cluster {cluster}; it was left alone",
            at.shown(),
            mark.shown(),
            volume.name,
            volume.claim,
            volume.claim.uid
        );
        return Err(Error::new(Kind::Refused, message));
    }
    let signed = Mark { installation: Some(cluster.current().to_owned()), ..mark.clone() };
    work.subvolumes.set_metadata(&at, mark::OWNER, &signed.written(), permit).await?;
    work.store.memory().unsigned.remove(&volume.name);
    Ok(())
}
