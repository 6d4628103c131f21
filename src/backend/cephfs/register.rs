//! Sees to it that a volume that a PV of this cluster uses is marked as this cluster's, and that nodes can mount it: [`register`].
//!
//! Marks that were written while it was not known which cluster this is say nothing of that. One is signed only if it names the very
//! claim that the PV is bound to, since a copy of the PV in another cluster is bound to another one, or where an administrator takes it over.
//!
//! The Secret of a volume's own user may lie where a tenant can delete it. It is made again only if the mark on the storage says
//! that the volume, the user and the Secret belong together: a PV that was edited gives no key to another namespace.

use super::{
    info::{Found, Subvolume},
    mark::{self, Mark, Marks, Owner},
    proof::{Own, Proof, own_user, prove},
    record::ControllerContext,
    remove::at,
    users::OwnUser,
    work::FsClient,
};
use crate::{
    backend::{Error, Kind, PvState, ceph::class::Form},
    volume::{ClusterIds, InUse, Permit},
};

/// Signs its mark, unless it is signed, and makes its Secret, unless it is there.
pub(super) async fn register(
    work: &FsClient,
    volume: &InUse,
    record: &ControllerContext,
    form: Form,
    permit: &Permit,
) -> Result<(), Error> {
    let at = at(record);
    work.prove_identity(volume.pv_metadata.store_identity.as_deref()).await?;
    let Some(cluster) = work.kube.cluster_ids() else { return Ok(()) };
    let Found::Subvolume(metadata) = work.subvolumes.metadata(&at).await? else { return Ok(()) };
    let mut marks = Marks::read(&metadata);
    if let Some(signed) = to_sign(&at, &marks, volume, &cluster)? {
        let signed =
            if marks.owner == Owner::Unmarked { signed.with_own(record.own.as_ref()) } else { signed };
        work.subvolumes.set_metadata(&at, mark::OWNER, &signed.written(), permit).await?;
        work.store.memory().unsigned.remove(&volume.name);
        marks.owner = Owner::Claim(signed);
    }
    let is_purged = marks.deleted.as_ref().is_some_and(|deleted| deleted.purging);
    let begun = marks.archived.is_some() || marks.deleted.is_some();
    if is_purged || begun && !still_used(work, volume).await? {
        return Ok(());
    }
    let mut told = None;
    if let Some((user, secret)) = &record.own {
        let own = OwnUser { user, secret, form };
        match authorize_user(work, &at, &marks, volume, own, permit).await? {
            Authorization::Gone => return Ok(()),
            Authorization::Yes => {}
            Authorization::WithoutSecret(why) => told = Some(why),
        }
    }
    if begun && !matches!(prove(&at, &marks, volume.into(), Some(&cluster))?, Proof::NameReused) {
        for (key, there) in
            [(mark::ARCHIVED, marks.archived.is_some()), (mark::DELETED, marks.deleted.is_some())]
        {
            if there {
                work.subvolumes.remove_metadata(&at, key, permit).await?;
            }
        }
        let mut memory = work.store.memory();
        memory.archives.remove(&at);
        memory.deleted.remove(&at);
        memory.removed.remove(&volume.name);
        drop(memory);
        tracing::warn!(volume = %volume.name, "the volume is in use; removed its archived or deleted mark");
    }
    told.map_or(Ok(()), |why| Err(Error::new(Kind::Refused, why)))
}

/// Whether nodes can mount a volume as its own user.
enum Authorization {
    /// The volume is not there any more.
    Gone,
    Yes,
    /// Once the Secret is made by hand, for this reason.
    WithoutSecret(String),
}

/// Lets the volume's own user in and makes its Secret, unless that is so.
async fn authorize_user(
    work: &FsClient,
    at: &Subvolume,
    marks: &Marks,
    volume: &InUse,
    own: OwnUser<'_>,
    permit: &Permit,
) -> Result<Authorization, Error> {
    let OwnUser { user, secret, .. } = own;
    let Some(cluster) = work.kube.cluster_ids() else { return Ok(Authorization::Gone) };
    let archived = marks.archived.is_some();
    let kept = work.kube.exists(secret, &volume.name).await;
    // What berth may not make, others made.
    let there = !archived && !matches!(&kept, Ok(false)) && kept.as_ref().err().is_none_or(is_a_conflict);
    match own_user(at, marks, volume.into(), (user, secret), &cluster) {
        Ok(None) => Ok(Authorization::Gone),
        Ok(Some(Own { mark, left: None })) => {
            let kept = if archived { false } else { kept? };
            if !kept || !work.subvolumes.authorized(at).await?.iter().any(|authorized| authorized == user) {
                own.reauthorize_user(work, at, &mark, &volume.name, permit).await?;
                tracing::info!(volume = %volume.name, %secret, "made the missing user or Secret of the volume again");
            }
            Ok(Authorization::Yes)
        }
        Ok(Some(Own { left: Some(_), .. })) | Err(_) if there => Ok(Authorization::Yes),
        Ok(Some(Own { mark, left: Some(why) })) if archived => {
            own.authorize_without_secret(work, at, &mark, permit).await?;
            Ok(Authorization::WithoutSecret(why))
        }
        Ok(Some(Own { left: Some(why), .. })) => Err(Error::new(Kind::Refused, why)),
        Err(error) => Err(error),
    }
}

fn is_a_conflict(error: &Error) -> bool {
    error.kind() == Kind::Conflict
}

/// Whether the PV is there and is not to be removed, as of now: while the volume is held, what archives it cannot come between.
async fn still_used(work: &FsClient, volume: &InUse) -> Result<bool, Error> {
    let state = work.kube.pv_state(&volume.name).await?;
    Ok(matches!(state, PvState::Present { removing: false, .. }))
}

/// The mark with our signature, where it lacks one.
fn to_sign(
    at: &Subvolume,
    marks: &Marks,
    volume: &InUse,
    cluster: &ClusterIds,
) -> Result<Option<Mark>, Error> {
    match &marks.owner {
        Owner::Claim(mark) if mark.is_of(Some(cluster)) => Ok(None),
        Owner::Claim(mark)
            if mark.cluster_id.is_none() && mark.names(&volume.name) && mark.uid == volume.claim.uid =>
        {
            Ok(Some(Mark { cluster_id: Some(cluster.current().to_owned()), ..mark.clone() }))
        }
        Owner::Claim(_) | Owner::Unmarked | Owner::Unreadable => {
            match prove(at, marks, volume.into(), Some(cluster))? {
                Proof::TakenOver(_, mark) => Ok(Some(*mark)),
                Proof::Ours(_) | Proof::NameReused => Ok(None),
            }
        }
    }
}
