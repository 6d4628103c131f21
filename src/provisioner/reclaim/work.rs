//! The work on one volume that is to go, or that was to go and is to stay after all: [`reconcile`].
//!
//! All work on one volume is done under one key of the queue, so that it is never removed and given back at the same time. What
//! another process may still do is the business of the permit and of the storage.

use std::time::Instant;

use super::{
    Order, Plan, cancelled_removal, class, in_the_way, in_the_way_on,
    object::{self, Deletion},
    plan, retain_for,
    sharing::{self, Other, Turn},
};
use crate::{
    backend::{Error, Kind, Ports, Removed, Restored},
    provisioner::{
        cache::{Held, LocationKey},
        class::Class,
        cluster::{Cause, Failure},
        context::Context,
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
    ctx: &Context,
    name: &str,
    tries: u32,
    permit: &Permit,
) -> Outcome {
    for _ in 0..ROUNDS {
        match round(ctx, name, tries, permit).await {
            Ok(Round::Over(outcome)) | Err(outcome) => return outcome,
            Ok(Round::Again) => {
                tracing::info!(volume = name, "the volume changed during its removal; looking at it again");
            }
        }
    }
    Outcome::Retry
}

async fn round(ctx: &Context, name: &str, tries: u32, permit: &Permit) -> Result<Round, Outcome> {
    let began = Instant::now();
    let Some(live) = ctx.live_volume(name, "to remove").await? else {
        return Ok(Round::Over(Outcome::Done));
    };
    let uses_finalizers = ctx.cache().uses_finalizers();
    let class = match action(state_of(&live, &ctx.backends), uses_finalizers) {
        Action::Remove => class::if_needed(ctx, &live).await?,
        Action::None | Action::AddFinalizer | Action::RemoveFinalizer => class::if_known(ctx, &live),
    };
    match plan(&live, class.as_ref(), &ctx.backends, uses_finalizers) {
        Plan::Ignore => keep(ctx, &live, class.as_ref(), permit).await,
        Plan::Refuse(why) => {
            // What the volume says now cannot be read, but it is not what was begun before.
            if ctx.cache().removing(name).is_some() {
                restore(ctx, &live, class.as_ref(), permit).await?;
            }
            refuse(ctx, &live, &why);
            // An administrator has to change the volume, which is news.
            Ok(Round::Over(Outcome::Done))
        }
        Plan::Remove(order) => {
            let asked = order.removal.disposal;
            // Something else was asked for before, perhaps of another process where the data are to stay: it is undone.
            let other = ctx.cache().removing(name).is_some_and(|begun| begun != asked);
            if other || asked == Disposal::Retain {
                restore(ctx, &live, class.as_ref(), permit).await?;
            }
            let order = remove(ctx, &live, order, tries, permit).await?;
            finish(ctx, &live, &order, began, permit).await
        }
    }
}

/// Moves the data of a volume out of the way. Returns what was done.
async fn remove(
    ctx: &Context,
    live: &VolumeObject,
    order: Box<Order>,
    tries: u32,
    permit: &Permit,
) -> Result<(Box<Order>, Removed), Outcome> {
    let Some(ports) = ctx.backends.ports(&order.provisioner) else { return Err(Outcome::Done) };
    let asked = order.removal.disposal;
    attached(ctx, live, tries)?;
    let order = cleared(ctx, live, ports, order, tries).await?;
    let name = order.removal.name.as_str();
    let begun_before = ctx.cache().begin_removal(name, asked);
    match ports.backend.remove(&order.removal, permit).await {
        Ok(removed) => {
            tracing::info!(volume = name, disposal = %order.removal.disposal, outcome = ?removed, "removed the volume");
            let mut cache = ctx.cache();
            cache.gives_up_data(name, true);
            match removed {
                Removed::Trashed | Removed::Archived(_) => cache.moved_away(name),
                Removed::Kept | Removed::Absent => {}
            }
            drop(cache);
            Ok((order, removed))
        }
        Err(error) => {
            ctx.cache().gives_up_data(name, false);
            if !begun_before && error.kind().touched_nothing() {
                ctx.cache().end_removal(name);
            }
            Err(not_removed(ctx, live, &error))
        }
    }
}

/// Deletes the object of a volume whose data is out of the way.
async fn finish(
    ctx: &Context,
    live: &VolumeObject,
    (order, removed): &(Box<Order>, Removed),
    began: Instant,
    permit: &Permit,
) -> Result<Round, Outcome> {
    let name = order.removal.name.as_str();
    let class = live.spec.storage_class_name.as_deref().unwrap_or_default();
    let uses_finalizers = ctx.cache().uses_finalizers();
    let state = state_of(live, &ctx.backends);
    match object::delete(ctx, live, state, uses_finalizers, permit).await {
        Ok(Deletion::Done) => {
            remark(ctx, live, order, removed);
            ctx.metrics.deleted(class, began.elapsed());
            Ok(Round::Over(Outcome::Done))
        }
        Ok(Deletion::Changed) => Ok(Round::Again),
        Ok(Deletion::Stopped) => Err(Outcome::Retry),
        Err(failure) => {
            let note = format!("the data was removed, but the PersistentVolume cannot be deleted: {failure}");
            tracing::warn!(volume = name, error = %failure, "cannot delete the PersistentVolume of removed data");
            ctx.volume_event(live, Type::Warning, "VolumeFailedDelete", note);
            ctx.metrics.delete_failed(class);
            Err(failure.outcome())
        }
    }
}

/// The volume is to stay: what was begun of its removal is undone, and then our finalizer is taken off where it need not be.
async fn keep(
    ctx: &Context,
    live: &VolumeObject,
    class: Option<&Class>,
    permit: &Permit,
) -> Result<Round, Outcome> {
    let name = live.name();
    let state = state_of(live, &ctx.backends);
    let drop_finalizer = action(state, ctx.cache().uses_finalizers()) == Action::RemoveFinalizer;
    let rescued = ctx.cache().removing(name).is_some() && !state.is_released_for_delete();
    if !drop_finalizer && !rescued {
        return Ok(Round::Over(Outcome::Done));
    }
    restore(ctx, live, class, permit).await?;
    if !drop_finalizer {
        return Ok(Round::Over(Outcome::Done));
    }
    if permit.check().is_err() {
        return Err(Outcome::Retry);
    }
    match ctx.cluster.patch_volume(name, &object::remove_finalizer_patch(live)).await {
        // It was changed since it was read.
        Err(failure) if failure.cause == Cause::Conflict => Ok(Round::Again),
        answer => patched(ctx, name, answer).map(Round::Over),
    }
}

/// Undoes what was begun of a removal, so that the data is where the volume says.
///
/// An error ends the work on the volume. Where the storage says that it knows nothing of such a volume there is nothing to undo.
async fn restore(
    ctx: &Context,
    live: &VolumeObject,
    class: Option<&Class>,
    permit: &Permit,
) -> Result<(), Outcome> {
    let name = live.name();
    let cancelled_removal = cancelled_removal(live, class, &ctx.backends);
    let found = cancelled_removal.and_then(|(by, removal)| Some((ctx.backends.get(&by)?, removal)));
    let Some((backend, removal)) = found else {
        ctx.cache().end_removal(name);
        return Ok(());
    };
    let moved_away = ctx.cache().is_moved_away(name);
    match backend.restore(&removal, permit).await {
        Ok(Restored::InPlace) if !moved_away => {
            tracing::debug!(volume = name, "the volume stays; its data was not moved");
        }
        // The round of the trash may have been quicker.
        Ok(Restored::InPlace | Restored::MovedBack) => {
            tracing::info!(volume = name, "the removal was cancelled; the data was moved back");
            let note = "the removal was cancelled; the data was moved back to its original location";
            ctx.volume_event(live, Type::Normal, "VolumeRestored", note.to_owned());
        }
        Err(error) if error.kind() == Kind::Busy => return Err(Context::busy(name, &error)),
        Err(error) => {
            tracing::warn!(
                volume = name,
                kind = %error.kind(),
                error = error.chain(),
                "cannot cancel the removal of the volume"
            );
            let yet = if error.kind().touched_nothing() { "" } else { " yet" };
            let note = format!("cannot cancel the removal of the volume{yet}: {}", error.chain());
            ctx.volume_event(live, Type::Warning, "VolumeRestoreFailed", note);
            if !error.kind().touched_nothing() {
                return Err(error.kind().into());
            }
        }
    }
    ctx.cache().end_removal(name);
    Ok(())
}

/// An error where an attachment may still give a node the volume. Kubernetes detaches it some seconds after its last pod has gone;
/// if it takes longer, an administrator is told what the removal waits for.
fn attached(ctx: &Context, live: &VolumeObject, tries: u32) -> Result<(), Outcome> {
    let name = live.metadata.name.as_deref().unwrap_or_default();
    let Some(csi) = &live.spec.csi else { return Ok(()) };
    let held = {
        let cache = &mut *ctx.cache();
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
        ctx.volume_event(live, Type::Warning, "VolumeFailedDelete", note);
    }
    Err(Outcome::Slow)
}

/// The order as it may be carried out where the volume lies: looks at who else lies there.
async fn cleared(
    ctx: &Context,
    live: &VolumeObject,
    ports: &Ports,
    order: Box<Order>,
    tries: u32,
) -> Result<Box<Order>, Outcome> {
    let name = order.removal.name.as_str();
    let Some(place) = ports.backend.locate(&order.removal.source) else { return Ok(order) };
    let location = LocationKey::new(ports.name(), &place);
    match sharing::take(ctx, name, &order.removal, &location).await? {
        Turn::Last => {}
        // The last one at a place decides about it.
        Turn::Yield(who) => return Ok(retain_for(order, &who)),
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
                ctx.volume_event(live, Type::Warning, "VolumeFailedDelete", note);
            }
            return Err(Outcome::Slow);
        }
    }
    let refused = {
        let mut cache = ctx.cache();
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
            refuse(ctx, live, &why);
            Err(Outcome::Done)
        }
        None => Ok(order),
    }
}

/// Tells why the volume is still there, and says when to try again.
fn not_removed(ctx: &Context, live: &VolumeObject, error: &Error) -> Outcome {
    let name = live.name();
    match error.kind() {
        Kind::Busy => return Context::busy(name, error),
        Kind::Refused => {
            refuse(ctx, live, &error.chain());
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
    ctx.volume_event(live, Type::Warning, "VolumeFailedDelete", error.chain());
    ctx.await_secret(error, Key::Volume(name.into()));
    ctx.metrics.delete_failed(live.spec.storage_class_name.as_deref().unwrap_or_default());
    error.kind().into()
}

/// Tells why nothing was touched.
fn refuse(ctx: &Context, live: &VolumeObject, why: &str) {
    let name = live.name();
    tracing::warn!(volume = name, why, "refused to remove the volume");
    ctx.volume_event(live, Type::Warning, "VolumeFailedDelete", why.to_owned());
    ctx.metrics.refused("delete");
    ctx.metrics.delete_failed(live.spec.storage_class_name.as_deref().unwrap_or_default());
}

/// Tells what became of the data where that is not what the class or the PV said.
fn remark(ctx: &Context, live: &VolumeObject, order: &Order, removed: &Removed) {
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
        let name = live.name();
        tracing::info!(volume = name, note, "removed the volume in another way than requested");
        ctx.volume_event(live, Type::Normal, "VolumeRemoved", note);
    }
}

/// Puts our finalizer on the volume `name`, if that is still to be done.
pub(in crate::provisioner) async fn reconcile_finalizer(
    ctx: &Context,
    name: &str,
    permit: &Permit,
) -> Outcome {
    let live = match ctx.cluster.volume(name).await {
        Ok(Some(live)) => live,
        Ok(None) => return Outcome::Done,
        Err(failure) => return failure.outcome(),
    };
    let uses_finalizers = ctx.cache().uses_finalizers();
    match action(state_of(&live, &ctx.backends), uses_finalizers) {
        Action::AddFinalizer if permit.check().is_err() => Outcome::Retry,
        Action::AddFinalizer => {
            let answer = ctx.cluster.patch_volume(name, &object::add_finalizer_patch(&live)).await;
            patched(ctx, name, answer).unwrap_or_else(|outcome| outcome)
        }
        Action::RemoveFinalizer | Action::None | Action::Remove => Outcome::Done,
    }
}

/// What comes of a change to a finalizer.
fn patched(ctx: &Context, name: &str, answer: Result<(), Failure>) -> Result<Outcome, Outcome> {
    let Err(failure) = answer else { return Ok(Outcome::Done) };
    if failure.is_forbidden() {
        ctx.rights.refused(Right::PatchVolumes);
    }
    tracing::warn!(volume = name, error = %failure, "cannot change the finalizer of the PersistentVolume");
    Err(failure.outcome())
}
