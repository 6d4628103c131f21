//! The work on one volume that is to go, or that was to go and is to stay after all: [`reconcile`].
//!
//! All work on one volume is done under one key of the queue, so that it is never removed and given back at the same time. What
//! another process may still do is the business of the permit and of the storage.

use std::time::Instant;

use super::{
    Order, Plan, class, given_up, in_the_way, in_the_way_on,
    object::{self, Deletion},
    plan,
    sharing::{self, Other, Turn},
    yielding,
};
use crate::{
    backend::{Error, Kind, Ports, Removed, Restored},
    provisioner::{
        cache::{Held, LocationKey},
        class::Class,
        cluster::{Cause, Failure},
        context::Shared,
        events::Type,
        key::Key,
        objects::VolumeObject,
        queue::Outcome,
        rights::Right,
        volume_state::{Action, action, state_of},
    },
    volume::{Disposal, Permit},
};

/// So many looks at those who go first are not worth an Event.
const PATIENCE: u32 = 2;
/// So often a volume is looked at again at once, since it changed while it was worked on.
const ROUNDS: u32 = 3;

/// How one look at a volume ended.
enum Round {
    /// That is all.
    Over(Outcome),
    /// It changed in between and has to be looked at once more.
    Again,
}

/// Removes the volume `name`, if that is still to be done, or gives its removal up if it is to stay; `tries` counts from 1.
pub(in crate::provisioner) async fn reconcile(
    shared: &Shared,
    name: &str,
    tries: u32,
    permit: &Permit,
) -> Outcome {
    for _ in 0..ROUNDS {
        match round(shared, name, tries, permit).await {
            Ok(Round::Over(outcome)) | Err(outcome) => return outcome,
            Ok(Round::Again) => {
                tracing::info!(volume = name, "the volume changed during its removal; looking at it again");
            }
        }
    }
    Outcome::Retry
}

async fn round(shared: &Shared, name: &str, tries: u32, permit: &Permit) -> Result<Round, Outcome> {
    let began = Instant::now();
    let live = match shared.cluster.volume(name).await {
        Ok(Some(live)) => live,
        Ok(None) => return Ok(Round::Over(Outcome::Done)),
        Err(failure) => {
            tracing::warn!(volume = name, error = %failure, "cannot read the volume to remove");
            return Err(failure.outcome());
        }
    };
    let guarding = shared.cache().guarding();
    let class = match action(state_of(&live, &shared.backends), guarding) {
        Action::Remove => class::if_needed(shared, &live).await?,
        Action::None | Action::AddFinalizer | Action::RemoveFinalizer => class::if_known(shared, &live),
    };
    match plan(&live, class.as_ref(), &shared.backends, guarding) {
        Plan::Ignore => keep(shared, &live, class.as_ref(), permit).await,
        Plan::Refuse(why) => {
            // What the volume says now cannot be read, but it is not what was begun before.
            if shared.cache().removing(name).is_some() {
                restore(shared, &live, class.as_ref(), permit).await?;
            }
            refuse(shared, &live, &why);
            // An administrator has to change the volume, which is news.
            Ok(Round::Over(Outcome::Done))
        }
        Plan::Remove(order) => {
            let asked = order.removal.disposal;
            // Something else was asked for before, perhaps of another process where the data are to stay: it is undone.
            let other = shared.cache().removing(name).is_some_and(|begun| begun != asked);
            if other || asked == Disposal::Retain {
                restore(shared, &live, class.as_ref(), permit).await?;
            }
            let order = remove(shared, &live, order, tries, permit).await?;
            finish(shared, &live, &order, began, permit).await
        }
    }
}

/// Moves the data of a volume out of the way. Returns what was done.
async fn remove(
    shared: &Shared,
    live: &VolumeObject,
    order: Box<Order>,
    tries: u32,
    permit: &Permit,
) -> Result<(Box<Order>, Removed), Outcome> {
    let Some(ports) = shared.backends.ports(&order.provisioner) else { return Err(Outcome::Done) };
    let asked = order.removal.disposal;
    attached(shared, live, tries)?;
    let order = cleared(shared, live, ports, order, tries).await?;
    let name = order.removal.name.as_str();
    let begun_before = shared.cache().begin_removal(name, asked);
    match ports.backend.remove(&order.removal, permit).await {
        Ok(removed) => {
            tracing::info!(volume = name, disposal = %order.removal.disposal, outcome = ?removed, "removed the volume");
            let mut cache = shared.cache();
            cache.leaving(name, true);
            match removed {
                Removed::Trashed | Removed::Archived(_) => cache.moved_away(name),
                Removed::Kept | Removed::Absent => {}
            }
            drop(cache);
            Ok((order, removed))
        }
        Err(error) => {
            shared.cache().leaving(name, false);
            if !begun_before && error.kind().touched_nothing() {
                shared.cache().end_removal(name);
            }
            Err(not_removed(shared, live, &error))
        }
    }
}

/// Deletes the object of a volume whose data is out of the way.
async fn finish(
    shared: &Shared,
    live: &VolumeObject,
    (order, removed): &(Box<Order>, Removed),
    began: Instant,
    permit: &Permit,
) -> Result<Round, Outcome> {
    let name = order.removal.name.as_str();
    let class = live.spec.storage_class_name.as_deref().unwrap_or_default();
    let guarding = shared.cache().guarding();
    let state = state_of(live, &shared.backends);
    match object::delete(shared, live, state, guarding, permit).await {
        Ok(Deletion::Done) => {
            remark(shared, live, order, removed);
            shared.metrics.deleted(class, began.elapsed());
            Ok(Round::Over(Outcome::Done))
        }
        Ok(Deletion::Changed) => Ok(Round::Again),
        Ok(Deletion::Stopped) => Err(Outcome::Retry),
        Err(failure) => {
            let note = format!("the data was removed, but the PersistentVolume cannot be deleted: {failure}");
            tracing::warn!(volume = name, error = %failure, "cannot delete the PersistentVolume of removed data");
            shared.tell_volume(live, Type::Warning, "VolumeFailedDelete", note);
            shared.metrics.delete_failed(class);
            Err(failure.outcome())
        }
    }
}

/// The volume is to stay: what was begun of its removal is undone, and then our finalizer is taken off where it need not be.
async fn keep(
    shared: &Shared,
    live: &VolumeObject,
    class: Option<&Class>,
    permit: &Permit,
) -> Result<Round, Outcome> {
    let name = live.metadata.name.as_deref().unwrap_or_default();
    let state = state_of(live, &shared.backends);
    let drop_finalizer = action(state, shared.cache().guarding()) == Action::RemoveFinalizer;
    let rescued = shared.cache().removing(name).is_some() && !state.goes();
    if !drop_finalizer && !rescued {
        return Ok(Round::Over(Outcome::Done));
    }
    restore(shared, live, class, permit).await?;
    if !drop_finalizer {
        return Ok(Round::Over(Outcome::Done));
    }
    if permit.check().is_err() {
        return Err(Outcome::Retry);
    }
    match shared.cluster.patch_volume(name, &object::unguarding(live)).await {
        // It was changed since it was read.
        Err(failure) if failure.cause == Cause::Conflict => Ok(Round::Again),
        answer => patched(shared, name, answer).map(Round::Over),
    }
}

/// Undoes what was begun of a removal, so that the data is where the volume says.
///
/// An error ends the work on the volume. Where the storage says that it knows nothing of such a volume there is nothing to undo.
async fn restore(
    shared: &Shared,
    live: &VolumeObject,
    class: Option<&Class>,
    permit: &Permit,
) -> Result<(), Outcome> {
    let name = live.metadata.name.as_deref().unwrap_or_default();
    let given_up = given_up(live, class, &shared.backends);
    let found = given_up.and_then(|(by, removal)| Some((shared.backends.get(&by)?, removal)));
    let Some((backend, removal)) = found else {
        shared.cache().end_removal(name);
        return Ok(());
    };
    let moved_away = shared.cache().is_moved_away(name);
    match backend.restore(&removal, permit).await {
        Ok(Restored::InPlace) if !moved_away => {
            tracing::debug!(volume = name, "the volume stays; its data was not moved");
        }
        // The round of the trash may have been quicker.
        Ok(Restored::InPlace | Restored::MovedBack) => {
            tracing::info!(volume = name, "the removal was cancelled; the data was moved back");
            let note = "the removal was cancelled; the data was moved back to its original location";
            shared.tell_volume(live, Type::Normal, "VolumeRestored", note.to_owned());
        }
        Err(error) if error.kind() == Kind::Busy => {
            tracing::debug!(
                volume = name,
                error = error.chain(),
                "another operation on the volume is running"
            );
            return Err(Kind::Busy.into());
        }
        Err(error) => {
            tracing::warn!(
                volume = name,
                kind = %error.kind(),
                error = error.chain(),
                "cannot cancel the removal of the volume"
            );
            let yet = if error.kind().touched_nothing() { "" } else { " yet" };
            let note = format!("cannot cancel the removal of the volume{yet}: {}", error.chain());
            shared.tell_volume(live, Type::Warning, "VolumeRestoreFailed", note);
            if !error.kind().touched_nothing() {
                return Err(error.kind().into());
            }
        }
    }
    shared.cache().end_removal(name);
    Ok(())
}

/// An error where an attachment may still give a node the volume. Kubernetes detaches it some seconds after its last pod has gone;
/// if it takes longer, an administrator is told what the removal waits for.
fn attached(shared: &Shared, live: &VolumeObject, tries: u32) -> Result<(), Outcome> {
    let name = live.metadata.name.as_deref().unwrap_or_default();
    let Some(csi) = &live.spec.csi else { return Ok(()) };
    let held = {
        let cache = &mut *shared.cache();
        cache.attachments.hold(&csi.driver, name, Key::Volume(name.into()), &mut cache.wakeups)
    };
    let why = match held {
        None => return Ok(()),
        Some(Held::Unknown) => "it is not known yet whether the volume is attached to a node".to_owned(),
        Some(Held::By(attachment, node)) => {
            format!("VolumeAttachment {attachment} attaches it to node {node}")
        }
    };
    tracing::debug!(volume = name, why, "waiting for the volume to be detached");
    if tries > 1 {
        let note = format!("not removed yet: {why}");
        shared.tell_volume(live, Type::Warning, "VolumeFailedDelete", note);
    }
    Err(Outcome::Slow)
}

/// The order as it may be carried out where the volume lies: looks at who else lies there.
async fn cleared(
    shared: &Shared,
    live: &VolumeObject,
    ports: &Ports,
    order: Box<Order>,
    tries: u32,
) -> Result<Box<Order>, Outcome> {
    let name = order.removal.name.as_str();
    let Some(place) = ports.backend.locate(&order.removal.source) else { return Ok(order) };
    let location = LocationKey::new(ports.name(), &place);
    match sharing::take(shared, name, &order.removal, &location).await? {
        Turn::Last => {}
        // The last one at a place decides about it.
        Turn::Yield(who) => return Ok(yielding(order, &who)),
        Turn::Wait(other, state) => {
            tracing::debug!(
                volume = name,
                other = other.who,
                "waiting for another volume at the same location"
            );
            if state == Other::Stuck || tries > PATIENCE {
                let note = format!(
                    "not removed yet: {} uses the same location and must be removed first",
                    other.who
                );
                shared.tell_volume(live, Type::Warning, "VolumeFailedDelete", note);
            }
            return Err(Outcome::Slow);
        }
    }
    let refused = {
        let mut cache = shared.cache();
        let other = cache.occupancy.occupant(&location, name, "", false);
        let refused = match other {
            Some(other) => match in_the_way(&other) {
                Some(why) => Some((why, other)),
                // It came a moment ago.
                None => return Err(Outcome::Retry),
            },
            // What an older provisioner made is known by its path alone.
            None if order.removal.id.is_none() => cache
                .occupancy
                .double(&location, name, |store| ports.stores.is_provisional(store))
                .map(|(other, store)| (in_the_way_on(&location, &other, &store), other)),
            None => None,
        };
        refused.map(|(why, other)| {
            cache.wakeups.wait(&other.id, Key::Volume(name.into()));
            why
        })
    };
    match refused {
        Some(why) => {
            refuse(shared, live, &why);
            Err(Outcome::Done)
        }
        None => Ok(order),
    }
}

/// Tells why the volume is still there, and says when to try again.
fn not_removed(shared: &Shared, live: &VolumeObject, error: &Error) -> Outcome {
    let name = live.metadata.name.as_deref().unwrap_or_default();
    match error.kind() {
        // Another operation is running: that is no failure, and needs no Event.
        Kind::Busy => {
            tracing::debug!(
                volume = name,
                error = error.chain(),
                "another operation on the volume is running"
            );
            return Kind::Busy.into();
        }
        Kind::Refused => {
            refuse(shared, live, &error.chain());
            return Kind::Refused.into();
        }
        Kind::Invalid
        | Kind::Unsupported
        | Kind::Conflict
        | Kind::NotFound
        | Kind::Exhausted
        | Kind::InUse
        | Kind::Unavailable
        | Kind::Internal => {}
    }
    tracing::warn!(volume = name, kind = %error.kind(), error = error.chain(), "cannot remove the volume");
    shared.tell_volume(live, Type::Warning, "VolumeFailedDelete", error.chain());
    shared.await_secret(error, Key::Volume(name.into()));
    shared.metrics.delete_failed(live.spec.storage_class_name.as_deref().unwrap_or_default());
    error.kind().into()
}

/// Tells why nothing was touched.
fn refuse(shared: &Shared, live: &VolumeObject, why: &str) {
    let name = live.metadata.name.as_deref().unwrap_or_default();
    tracing::warn!(volume = name, why, "refused to remove the volume");
    shared.tell_volume(live, Type::Warning, "VolumeFailedDelete", why.to_owned());
    shared.metrics.refused("delete");
    shared.metrics.delete_failed(live.spec.storage_class_name.as_deref().unwrap_or_default());
}

/// Tells what became of the data where that is not what the class or the PV said.
fn remark(shared: &Shared, live: &VolumeObject, order: &Order, removed: &Removed) {
    let note = match (removed, order.removal.disposal) {
        (Removed::Archived(to), Disposal::Delete) => Some(format!(
            "the data was archived to {to:?} instead of deleted, because it existed before the volume"
        )),
        (Removed::Kept, Disposal::Delete | Disposal::Archive) => {
            Some("the data was kept, because it existed before the volume".to_owned())
        }
        (Removed::Archived(to), Disposal::Archive | Disposal::Retain) => {
            order.remark.as_ref().map(|remark| format!("{remark}; the archive is {to:?}"))
        }
        (Removed::Trashed | Removed::Absent | Removed::Kept, _) => order.remark.clone(),
    };
    if let Some(note) = note {
        let name = live.metadata.name.as_deref().unwrap_or_default();
        tracing::info!(volume = name, note, "removed the volume in another way than requested");
        shared.tell_volume(live, Type::Normal, "VolumeRemoved", note);
    }
}

/// Puts our finalizer on the volume `name`, if that is still to be done.
pub(in crate::provisioner) async fn reconcile_finalizer(
    shared: &Shared,
    name: &str,
    permit: &Permit,
) -> Outcome {
    let live = match shared.cluster.volume(name).await {
        Ok(Some(live)) => live,
        Ok(None) => return Outcome::Done,
        Err(failure) => return failure.outcome(),
    };
    let guarding = shared.cache().guarding();
    match action(state_of(&live, &shared.backends), guarding) {
        Action::AddFinalizer if permit.check().is_err() => Outcome::Retry,
        Action::AddFinalizer => {
            let answer = shared.cluster.patch_volume(name, &object::guarding(&live)).await;
            patched(shared, name, answer).unwrap_or_else(|outcome| outcome)
        }
        Action::RemoveFinalizer | Action::None | Action::Remove => Outcome::Done,
    }
}

/// What comes of a change to a finalizer.
fn patched(shared: &Shared, name: &str, answer: Result<(), Failure>) -> Result<Outcome, Outcome> {
    let Err(failure) = answer else { return Ok(Outcome::Done) };
    if failure.is_forbidden() {
        shared.rights.refused(Right::PatchVolumes);
    }
    tracing::warn!(volume = name, error = %failure, "cannot change the finalizer of the PersistentVolume");
    Err(failure.outcome())
}
