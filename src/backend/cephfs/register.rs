//! Signs the mark of a volume that a PV of this cluster uses: [`register`].
//!
//! Marks that were written while it was not known which cluster this is say nothing of that. One is signed only if it names the very
//! claim that the PV is bound to, since a copy of the PV in another cluster is bound to another one, or where an administrator takes it over.

use super::{
    mark::{self, Mark, Marks, Owner},
    proof::{Proof, Said, prove},
    record::Record,
    remove::at,
    store::Work,
    subvolumes::Found,
};
use crate::{
    backend::Error,
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
    let signed = match &marks.owner {
        Owner::Claim(mark) if mark.is_of(Some(&cluster)) => return Ok(()),
        Owner::Claim(mark)
            if mark.installation.is_none() && mark.names(&volume.name) && mark.uid == volume.claim.uid =>
        {
            Mark { installation: Some(cluster.current().to_owned()), ..mark.clone() }
        }
        Owner::Claim(_) | Owner::Unmarked | Owner::Unreadable => {
            let said = Said { name: &volume.name, claim: &volume.claim, provenance: &volume.provenance };
            match prove(&at, &marks, said, Some(&cluster))? {
                Proof::TakenOver(_, mark) => *mark,
                Proof::Ours(_) | Proof::Passed => return Ok(()),
            }
        }
    };
    work.subvolumes.set_metadata(&at, mark::OWNER, &signed.written(), permit).await?;
    work.store.memory().unsigned.remove(&volume.name);
    Ok(())
}
