//! Removing a volume: prove that the image is its own, that nobody uses it, then one move to the trash.
//!
//! Deleted, it may be purged a moment later; archived, Ceph keeps it until its expiry. Which of both was meant the trash tells
//! (`image::Fate`): the order survives us. An image of an older provisioner gets a name of ours before it is deleted, since
//! under its own nobody could tell in the trash that we put it there. Nothing is purged here.

use std::time::Duration;

use super::{
    create::{prove, same_cluster},
    entry::{Entry, Fate},
    image::Look,
    names,
    store::{Trouble, Work, said},
};
use crate::{
    backend::{Kind, Removed, ceph::Reason},
    volume::{Disposal, Origin, Permit, Removal},
};

/// Removes the volume with this image, which is where its PV says that it lies.
pub(super) async fn remove(
    work: &Work,
    removal: &Removal,
    image: &str,
    expiry: Option<Duration>,
    permit: &Permit,
) -> Result<Removed, Trouble> {
    let disposal = match removal.disposal {
        // Such images no sweep ever takes.
        Disposal::Keep if names::volume_of(image).is_none() => return Ok(Removed::Kept),
        Disposal::Keep => return keep(work, removal, image, permit).await,
        Disposal::Delete if removal.origin == Origin::Adopted => Disposal::Archive,
        asked => asked,
    };
    let identity = work.identity().await?;
    same_cluster(work, removal.provenance.store_identity.as_deref(), &identity)?;
    let spec = work.spot.spec(image);
    let Some(look) = work.look(image).await? else {
        return absent(work, removal, image, permit).await;
    };
    prove(work, &spec, &look.metadata, removal.id.as_ref(), &removal.claim)?;
    unused(work, removal, image, &look, disposal).await?;
    match disposal {
        Disposal::Keep => Ok(Removed::Kept),
        Disposal::Archive => {
            not_begun(work, removal, image, &look.info.id).await?;
            work.archive(image, expiry, permit).await?;
            if let Some(expiry) = expiry {
                work.store.trash.expects(&work.spot, work.store.now() + expiry);
            }
            Ok(Removed::Archived(archived(work, &look.info.id)))
        }
        Disposal::Delete => {
            let doomed = if names::volume_of(image).is_some() {
                image.to_owned()
            } else {
                match doom(work, image, &look.info.id, permit).await? {
                    Some(doomed) => doomed,
                    None => return absent(work, removal, image, permit).await,
                }
            };
            work.trash(&doomed, permit).await?;
            work.waits_in_trash();
            Ok(Removed::Trashed)
        }
    }
}

/// Gives the image of an older provisioner a name of ours, and tells it; `None` where it is in the trash already, and only a rest of
/// its old name opens it.
///
/// A renaming writes the new name, then the list of images, then removes the old name. Broken off in between, both names open the
/// image, and no renaming between them is possible: the list tells which of them is the image's.
async fn doom(work: &Work, image: &str, id: &str, permit: &Permit) -> Result<Option<String>, Trouble> {
    let [doomed, again] = names::doomed(image);
    let taken = match work.rename(image, &doomed, permit).await {
        Ok(()) => return Ok(Some(doomed)),
        Err(Trouble::Call(failed)) if failed.reason == Reason::NoImage => return Ok(None),
        Err(Trouble::Call(failed)) if failed.reason == Reason::Exists => failed,
        Err(trouble) => return Err(trouble),
    };
    let listed = work.images().await?;
    let lists = |name: &str| listed.iter().any(|listed| listed == name);
    match work.info(&doomed).await? {
        Some(there) if there.id != id => {
            let (spec, doomed) = (work.spot.spec(image), work.spot.spec(&doomed));
            let message = format!(
                "image {spec} must be called {doomed} before it can be deleted, and that is another image (id {}, not {id}); \
                 nothing was touched. Rename or remove that one",
                there.id
            );
            said(Kind::Conflict, message)
        }
        Some(_) if lists(&doomed) => Ok(Some(doomed)),
        Some(_) if lists(image) => {
            work.rename(image, &again, permit).await?;
            Ok(Some(again))
        }
        // It comes and goes.
        Some(_) | None => Err(taken.into()),
    }
}

/// Leaves the image where it is, and notes that on it: else a sweep would take it for one that nobody ever used.
async fn keep(work: &Work, removal: &Removal, image: &str, permit: &Permit) -> Result<Removed, Trouble> {
    let identity = work.identity().await?;
    let elsewhere = same_cluster(work, removal.provenance.store_identity.as_deref(), &identity).is_err();
    let metadata = if elsewhere { None } else { work.metadata(image).await? };
    let spec = work.spot.spec(image);
    if let Some(metadata) = metadata
        && !metadata.is_kept()
        // What is not ours is left as it is.
        && prove(work, &spec, &metadata, removal.id.as_ref(), &removal.claim).is_ok()
    {
        work.set_kept(image, permit).await?;
    }
    Ok(Removed::Kept)
}

/// Refuses to archive an image whose deletion was broken off at its beginning: Ceph keeps the expiry that a move began with, so
/// that it would be purged.
async fn not_begun(work: &Work, removal: &Removal, image: &str, id: &str) -> Result<(), Trouble> {
    if !work.called_in_trash().await?.iter().any(|called| called.id == id) {
        return Ok(());
    }
    let deleted = |entry: &Entry| entry.id == id && entry.fate() == Fate::Deleted;
    if work.in_trash().await?.iter().any(deleted) {
        let spec = work.spot.spec(image);
        let message = format!(
            "the deletion of image {spec} was begun, and Ceph cannot make an archive of that; nothing was touched. Copy it if it is \
             wanted (rbd deep cp {spec} ...), then let it be deleted: kubectl annotate pv {} berth.storage/on-delete=delete \
             --overwrite",
            removal.name
        );
        return said(Kind::Refused, message);
    }
    Ok(())
}

/// Where an archived image is, in the words of `rbd trash restore`.
fn archived(work: &Work, id: &str) -> String {
    format!("trash of {}, as {}", work.spot, work.spot.spec(id))
}

/// Whether nobody has the image open, and no snapshot would be lost with it.
async fn unused(
    work: &Work,
    removal: &Removal,
    image: &str,
    look: &Look,
    disposal: Disposal,
) -> Result<(), Trouble> {
    let spec = work.spot.spec(image);
    if !look.watchers.is_empty() {
        let watchers: Vec<String> = look
            .watchers
            .iter()
            .take(3)
            .map(|watcher| watcher.told(|address| work.host.node_at(address)))
            .collect();
        let message = format!(
            "image {spec} is still open by {}; unmap it there. A client that crashed is forgotten after 30 s",
            watchers.join(", ")
        );
        return said(Kind::InUse, message);
    }
    if disposal == Disposal::Delete && look.info.snapshot_count > 0 {
        let dependents = work.dependents(image).await?;
        let message = format!(
            "image {spec} has snapshots, which nobody asked to delete: {dependents}. Remove them (rbd snap purge {spec}; clones \
             first with rbd flatten or rbd rm), or archive it: kubectl annotate pv {} berth.storage/on-delete=archive --overwrite",
            removal.name
        );
        return said(Kind::InUse, message);
    }
    Ok(())
}

/// What became of an image that is not there any more. That pool and namespace exist is proved by their trash, which is
/// listed.
async fn absent(work: &Work, removal: &Removal, image: &str, permit: &Permit) -> Result<Removed, Trouble> {
    let ours = names::volume_of(image).is_some();
    let doomed = names::doomed(image);
    let is_it = |name: &str| name == image || !ours && doomed.iter().any(|doomed| doomed == name);
    // Only its new name was given to it before the work was broken off; the newest is the image's.
    let given = if ours { &[] } else { doomed.as_slice() };
    for doomed in given.iter().rev() {
        if let Some(look) = work.look(doomed).await? {
            let spec = work.spot.spec(doomed);
            prove(work, &spec, &look.metadata, removal.id.as_ref(), &removal.claim)?;
            unused(work, removal, doomed, &look, Disposal::Delete).await?;
            match work.trash(doomed, permit).await {
                Ok(()) => {
                    work.waits_in_trash();
                    return Ok(Removed::Trashed);
                }
                // What opens it is a rest of that name; the image is in the trash.
                Err(Trouble::Call(failed)) if failed.reason == Reason::NoImage => {}
                Err(trouble) => return Err(trouble),
            }
        }
    }
    // The names alone are quickly listed.
    let trash = if work.called_in_trash().await?.iter().any(|called| is_it(&called.name)) {
        work.in_trash().await?
    } else {
        Vec::new()
    };
    let found = trash.iter().filter(|entry| is_it(&entry.name));
    let mut fates: Vec<_> = found.map(|entry| (entry, entry.fate())).collect();
    // Of several, what was asked for is what an earlier call did.
    fates.sort_by_key(|(_, fate)| match (fate, removal.disposal) {
        (Fate::Deleted, Disposal::Delete) | (Fate::Archived, Disposal::Archive) => 0,
        (Fate::Deleted | Fate::Archived, _) => 1,
        (Fate::ByHand, _) => 2,
    });
    match fates.first() {
        Some((entry, Fate::Deleted)) => {
            work.finish_move(&entry.name, permit).await?;
            return Ok(Removed::Trashed);
        }
        Some((entry, Fate::Archived)) => {
            work.finish_move(&entry.name, permit).await?;
            return Ok(Removed::Archived(archived(work, &entry.id)));
        }
        Some((entry, Fate::ByHand)) => return Ok(Removed::Archived(archived(work, &entry.id))),
        None => {}
    }
    if work.images().await?.iter().any(|listed| listed == image) {
        let spec = work.spot.spec(image);
        let message = format!(
            "image {spec} is in the list of images and cannot be opened, so that it is not known what becomes of its data; nothing \
             was touched. If nothing of it is to be saved and rbd trash ls --all {} does not name it, remove it (rbd rm {spec})",
            work.spot
        );
        return said(Kind::Refused, message);
    }
    Ok(Removed::Absent)
}
