//! Sees to it that a volume that a PV of this cluster uses is marked as this cluster's, and that nodes can mount it: [`register`].
//!
//! Marks that were written while it was not known which cluster this is say nothing of that. One is signed only if it names the very
//! claim that the PV is bound to, since a copy of the PV in another cluster is bound to another one, or where an administrator takes it over.
//!
//! The Secret of a volume's own user may lie where a tenant can delete it. It is made again only if the mark on the storage says
//! that the volume, the user and the Secret belong together: a PV that was edited gives no key to another namespace.

use super::{
    mark::{self, Mark, Marks, Owner},
    proof::{Claimant, Proof, prove},
    record::Record,
    remove::at,
    store::Work,
    subvolumes::{At, Found},
    users::OwnUser,
};
use crate::{
    backend::{Error, Kind, PvState, ceph::class::Form},
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
    work.prove_identity(volume.pv_metadata.store_identity.as_deref()).await?;
    let Some(cluster) = work.host.cluster_ids() else { return Ok(()) };
    let Found::Subvolume(metadata) = work.subvolumes.metadata(&at).await? else { return Ok(()) };
    let mut marks = Marks::read(&metadata);
    if let Some(signed) = to_sign(&at, &marks, volume, &cluster)? {
        work.subvolumes.set_metadata(&at, mark::OWNER, &signed.written(), permit).await?;
        work.store.memory().unsigned.remove(&volume.name);
        marks.owner = Owner::Claim(signed);
    }
    // The purge asks for the PV of what is deleted, and lets it stay.
    if marks.deleted.is_some() || marks.archived.is_some() && !still_used(work, volume).await? {
        return Ok(());
    }
    if let Some((user, secret)) = &record.own
        && (marks.archived.is_some() || !work.host.exists(secret, &volume.name).await?)
    {
        let own = OwnUser { user, secret, form };
        let Some(mark) = owner_of(&at, &marks, volume, own, &cluster)? else { return Ok(()) };
        own.let_in_again(work, &at, &mark, &volume.name, permit).await?;
        tracing::info!(volume = %volume.name, %secret, "created the missing Secret of the volume's own user again");
    }
    if marks.archived.is_some() && proved(&at, &marks, volume, &cluster)?.is_some() {
        work.subvolumes.remove_metadata(&at, mark::ARCHIVED, permit).await?;
        let mut memory = work.store.memory();
        memory.archives.remove(&at);
        memory.archived.remove(&volume.name);
        drop(memory);
        tracing::warn!(volume = %volume.name, "the volume was archived and is in use: it is no archive any more");
    }
    Ok(())
}

/// Whether the PV is there and is not to be removed, as of now: while the volume is held, what archives it cannot come between.
async fn still_used(work: &Work, volume: &InUse) -> Result<bool, Error> {
    let state = work.host.pv_state(&volume.name).await?;
    Ok(matches!(state, PvState::Present { removing: false, .. }))
}

/// The mark with our signature, where it lacks one.
fn to_sign(at: &At, marks: &Marks, volume: &InUse, cluster: &ClusterIds) -> Result<Option<Mark>, Error> {
    match &marks.owner {
        Owner::Claim(mark) if mark.is_of(Some(cluster)) => Ok(None),
        Owner::Claim(mark)
            if mark.cluster_id.is_none() && mark.names(&volume.name) && mark.uid == volume.claim.uid =>
        {
            Ok(Some(Mark { cluster_id: Some(cluster.current().to_owned()), ..mark.clone() }))
        }
        Owner::Claim(_) | Owner::Unmarked | Owner::Unreadable => {
            match prove(at, marks, claimant(volume), Some(cluster))? {
                Proof::TakenOver(_, mark) => Ok(Some(*mark)),
                Proof::Ours(_) | Proof::Passed => Ok(None),
            }
        }
    }
}

/// The mark that proves that the subvolume is this very volume's; `None` where the volume is gone.
fn proved(at: &At, marks: &Marks, volume: &InUse, cluster: &ClusterIds) -> Result<Option<Mark>, Error> {
    match prove(at, marks, claimant(volume), Some(cluster))? {
        Proof::Ours(marks) => match marks.owner {
            Owner::Claim(mark) => Ok(Some(mark)),
            Owner::Unmarked | Owner::Unreadable => Ok(None),
        },
        Proof::TakenOver(_, mark) => Ok(Some(*mark)),
        Proof::Passed => Ok(None),
    }
}

/// The mark that proves that `own` is this very volume's, too.
///
/// Its Secret may be in the namespace of the claim that it was made for. Once another namespace's claim has the volume, that
/// namespace may be anybody's, and gets no key.
fn owner_of(
    at: &At,
    marks: &Marks,
    volume: &InUse,
    own: OwnUser<'_>,
    cluster: &ClusterIds,
) -> Result<Option<Mark>, Error> {
    let Some(mark) = proved(at, marks, volume, cluster)? else { return Ok(None) };
    let OwnUser { user, secret, .. } = own;
    let left = secret.namespace == mark.namespace && volume.claim.namespace != mark.namespace;
    if left {
        let message = format!(
            "Secret {secret}, with which nodes mount the volume, does not exist. It was in the namespace of the claim that the volume was \
             made for, and the claim of namespace {} has the volume now; nothing was changed. If namespace {} may have the key, make the \
             Secret with the key that ceph auth get-key client.{user} prints",
            volume.claim.namespace, secret.namespace
        );
        return Err(Error::new(Kind::Refused, message));
    }
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

fn claimant(volume: &InUse) -> Claimant<'_> {
    Claimant { name: &volume.name, claim: &volume.claim, pv_metadata: &volume.pv_metadata }
}
