//! Sees to it that a volume that a PV of this cluster uses is marked as this cluster's, and that nodes can mount it: [`register`].
//!
//! Marks that were written while it was not known which cluster this is say nothing of that. One is signed only if it names the very
//! claim that the PV is bound to, since a copy of the PV in another cluster is bound to another one, or where an administrator takes it over.
//!
//! The Secret of a volume's own user may lie where a tenant can delete it. It is made again only if the mark on the storage says
//! that the volume, the user and the Secret belong together: a PV that was edited gives no key to another namespace.

use super::{
    create::OwnUser,
    mark::{self, Mark, Marks, Owner},
    proof::{Proof, Said, prove},
    record::Record,
    remove::at,
    store::Work,
    subvolumes::{At, Found},
};
use crate::{
    backend::{Error, Kind, ceph::class::Form},
    volume::{ClusterIds, InUse, Permit},
};

/// Signs its mark, unless it is signed, and makes its Secret, unless it is there.
pub(super) async fn register(
    work: &Work,
    volume: &InUse,
    record: &Record,
    form: Form,
    permit: &Permit,
) -> Result<(), Error> {
    let at = at(record);
    work.prove_identity(volume.provenance.store_identity.as_deref()).await?;
    let Some(cluster) = work.host.cluster() else { return Ok(()) };
    let Found::Subvolume(metadata) = work.subvolumes.metadata(&at).await? else { return Ok(()) };
    let mut marks = Marks::read(&metadata);
    if let Some(signed) = to_sign(&at, &marks, volume, &cluster)? {
        work.subvolumes.set_metadata(&at, mark::OWNER, &signed.written(), permit).await?;
        work.store.memory().unsigned.remove(&volume.name);
        marks.owner = Owner::Claim(signed);
    }
    let Some((user, secret)) = &record.own else { return Ok(()) };
    // What is archived has no Secret. Should it be kept after all, `restore` makes it.
    if marks.archived.is_some() || marks.deleted.is_some() || work.host.is_kept(secret, &volume.name).await? {
        return Ok(());
    }
    let own = OwnUser { user, secret, form };
    let Some(mark) = owner_of(&at, &marks, volume, own, &cluster)? else { return Ok(()) };
    own.let_in(work, &at, &mark.uid, &volume.name, permit).await?;
    tracing::info!(volume = %volume.name, %secret, "the Secret of the volume's own user was gone, and was made again");
    Ok(())
}

/// The mark with our signature, where it lacks one.
fn to_sign(at: &At, marks: &Marks, volume: &InUse, cluster: &ClusterIds) -> Result<Option<Mark>, Error> {
    match &marks.owner {
        Owner::Claim(mark) if mark.is_of(Some(cluster)) => Ok(None),
        Owner::Claim(mark)
            if mark.installation.is_none() && mark.names(&volume.name) && mark.uid == volume.claim.uid =>
        {
            Ok(Some(Mark { installation: Some(cluster.current().to_owned()), ..mark.clone() }))
        }
        Owner::Claim(_) | Owner::Unmarked | Owner::Unreadable => {
            match prove(at, marks, said(volume), Some(cluster))? {
                Proof::TakenOver(_, mark) => Ok(Some(*mark)),
                Proof::Ours(_) | Proof::Passed => Ok(None),
            }
        }
    }
}

/// The mark that proves that `own` is this very volume's; `None` where the volume is gone.
fn owner_of(
    at: &At,
    marks: &Marks,
    volume: &InUse,
    own: OwnUser<'_>,
    cluster: &ClusterIds,
) -> Result<Option<Mark>, Error> {
    let mark = match prove(at, marks, said(volume), Some(cluster))? {
        Proof::Ours(marks) => match marks.owner {
            Owner::Claim(mark) => mark,
            Owner::Unmarked | Owner::Unreadable => return Ok(None),
        },
        Proof::TakenOver(_, mark) => *mark,
        Proof::Passed => return Ok(None),
    };
    let OwnUser { user, secret, .. } = own;
    if mark.user.as_deref() == Some(user) && mark.secret().as_ref() == Some(secret) {
        return Ok(Some(mark));
    }
    let message = format!(
        "Secret {secret}, with which nodes mount the volume, does not exist, and the mark of {} does not say that it and user {user} \
         are the volume's own; nothing was touched. Make it with the key that ceph auth get-key client.{user} prints",
        at.shown()
    );
    Err(Error::new(Kind::Refused, message))
}

fn said(volume: &InUse) -> Said<'_> {
    Said { name: &volume.name, claim: &volume.claim, provenance: &volume.provenance }
}
