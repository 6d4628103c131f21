//! The work on one claim, from its plan to its stored PV: [`reconcile`], over an [`Attempt`] that outlives each try.
//!
//! It decides nothing about what a claim may have; `plan` does.

use std::{sync::Arc, time::Instant};

use super::{
    plan::{Again, Order, Plan, Rejection, plan},
    progress::{Attempt, Progress},
    remarks,
};
use crate::{
    backend::{Error, Kind, Uncommitted},
    provisioner::{
        cache::{Claim, LocationKey},
        cluster::{Cause, Failure},
        context::Context,
        events::Type,
        key::Key,
        limits::{NOTE_BYTES, shortened},
        objects::VolumeObject,
        persistent_volume::{self, Recording},
        queue::Outcome,
        rights::Right,
    },
    volume::{Location, Permit, Source, Volume, VolumeName},
};

/// What to do next about a claim.
enum Step {
    Nothing,
    /// Make a volume, or find the one that was made.
    Make(Arc<Order>),
    /// The claim may be gone: the volume of this attempt gets a PV or is rolled back.
    Settle(Attempt),
    /// The volume of this claim was deleted before the claim was bound, or its class needs more of it: read the claim again.
    Reload(String, String),
    /// No class of its name was told of: find out whether there is none. The text says so.
    AskForClass(Arc<Claim>, String),
}

/// Works on the claim with this UID; `tries` counts from 1. `parsed` is what the claim and its class said a moment ago.
pub(in crate::provisioner) async fn reconcile(
    ctx: &Context,
    uid: &Arc<str>,
    tries: u32,
    parsed: Option<&Order>,
    permit: &Permit,
) -> Outcome {
    let step = match next_step(ctx, uid, tries, parsed) {
        Ok(step) => step,
        Err(outcome) => return outcome,
    };
    match step {
        Step::Nothing => Outcome::Done,
        Step::Settle(attempt) => settle(ctx, attempt, permit).await,
        Step::Make(order) => {
            remarks::tell(ctx, &order).await;
            make(ctx, &order, permit).await
        }
        Step::AskForClass(claim, why) => ask_for_class(ctx, &claim, &why).await,
        Step::Reload(namespace, name) => match ctx.cluster.claim(&namespace, &name).await {
            Ok(Some(live)) if live.metadata.uid.as_deref() == Some(uid) => {
                ctx.cache().upsert_claim(&live);
                Outcome::Done
            }
            Ok(Some(_) | None) => Outcome::Done,
            Err(failure) => failure.outcome(),
        },
    }
}

fn next_step(ctx: &Context, uid: &Arc<str>, tries: u32, parsed: Option<&Order>) -> Result<Step, Outcome> {
    let attempt = ctx.attempt(uid);
    if let Some(Attempt { progress: Progress::Stored(..), .. }) = &attempt {
        return Ok(Step::Nothing);
    }
    let mut cache = ctx.cache();
    cache.wakeups.forget(&Key::Claim(Arc::clone(uid)));
    let Some(claim) = cache.claim(uid).cloned() else {
        return Ok(match (attempt, cache.claim_without_volume(uid)) {
            (Some(attempt), _) => Step::Settle(attempt),
            (None, Some((namespace, name))) => Step::Reload(namespace, name),
            (None, None) => Step::Nothing,
        });
    };
    let planned = plan(&claim, &cache, &ctx.backends, parsed);
    // While it is unknown whether there is a volume, a plan that says no does not end the attempt.
    match planned {
        Plan::Ignore => {
            drop(cache);
            Ok(left_alone(attempt))
        }
        Plan::Foreign(why) => {
            drop(cache);
            // Once for each edition of the claim and of the class: only news about one of them leads here.
            tracing::info!(claim = %claim, why, "ignoring a claim");
            Ok(left_alone(attempt))
        }
        Plan::Reread => Ok(Step::Reload(claim.namespace.to_string(), claim.name.to_string())),
        Plan::Wait(why) => {
            tracing::debug!(claim = %claim, why, "waiting");
            Err(Outcome::Done)
        }
        Plan::LeaveToPopulator(note) => {
            drop(cache);
            ctx.claim_event(&claim, Type::Normal, "Provisioning", note);
            Err(Outcome::Done)
        }
        Plan::Reject(Rejection { why, again }) => {
            let outcome = match again {
                Again::OnChange if attempt.is_none() => Outcome::Done,
                Again::OnChange => Outcome::Slow,
                Again::Later => Outcome::Retry,
                Again::NoClass => return Ok(Step::AskForClass(claim, why)),
                Again::After(id) => {
                    cache.wakeups.wait(&id, Key::Claim(Arc::clone(uid)));
                    Outcome::Retry
                }
            };
            drop(cache);
            fail(ctx, &claim, "rejected", &why);
            Err(outcome)
        }
        Plan::Provision(order) => {
            cache.reserve(&claim, order.location.clone());
            drop(cache);
            let order = Arc::new(*order);
            // The first try tells only how it ended.
            if tries == 2 {
                let note = format!("provisioning a volume for claim \"{claim}\"");
                ctx.claim_event(&claim, Type::Normal, "Provisioning", note);
            }
            let progress = attempt.map_or(Progress::Begun, |attempt| attempt.progress);
            ctx.set_attempt(uid, Attempt { order: Arc::clone(&order), began: Instant::now(), progress });
            Ok(Step::Make(order))
        }
    }
}

/// What to do about a claim that needs nothing: its PV may be there, stored by us without our knowing, or by another replica.
fn left_alone(attempt: Option<Attempt>) -> Step {
    attempt.map_or(Step::Nothing, Step::Settle)
}

/// Asks whether the class of a claim really does not exist. One that was applied together with its claim may be told later
/// than the claim: then there is nothing to tell, and the news about the class bring the claim back.
async fn ask_for_class(ctx: &Context, claim: &Claim, why: &str) -> Outcome {
    match ctx.cluster.class(&claim.class).await {
        Ok(Some(_)) => {
            tracing::debug!(claim = %claim, class = claim.class, "the class exists; its watch event arrives soon");
            return Outcome::Retry;
        }
        Ok(None) => {}
        Err(failure) => match failure.cause {
            // A name that no class can have, or what may not be asked.
            Cause::Invalid | Cause::Forbidden | Cause::NotFound => {}
            Cause::Unknown | Cause::Unauthorized | Cause::Throttled | Cause::Exists | Cause::Conflict => {
                tracing::warn!(claim = %claim, error = %failure, "cannot check whether the class of a claim exists");
                return failure.outcome();
            }
        },
    }
    fail(ctx, claim, "rejected", why);
    Outcome::Retry
}

/// Makes the volume and stores its PV.
async fn make(ctx: &Context, order: &Arc<Order>, permit: &Permit) -> Outcome {
    let claim = &order.claim;
    let volume = match order.backend.create(&order.request, permit).await {
        Ok(volume) => Arc::new(volume),
        Err(error) => return not_made(ctx, order, &error),
    };
    // A PV that may be stored already decides, whatever became of the claim.
    if !ctx.posted(&claim.uid) {
        ctx.progress(&claim.uid, |progress| *progress = Progress::Made(Arc::clone(&volume)));
        if ctx.cache().claim(&claim.uid).is_none() {
            let Some(attempt) = ctx.attempt(&claim.uid) else { return Outcome::Done };
            return settle(ctx, attempt, permit).await;
        }
    }
    store(ctx, order, &volume, permit).await
}

fn not_made(ctx: &Context, order: &Order, error: &Error) -> Outcome {
    let claim = &order.claim;
    // Another operation is running: that is no failure, and needs no Event.
    if error.kind() == Kind::Busy {
        tracing::debug!(claim = %claim, error = error.chain(), "another operation on the volume is running");
        return Kind::Busy.into();
    }
    fail(ctx, claim, &error.kind().to_string(), &error.chain());
    ctx.await_secret(error, Key::Claim(Arc::clone(&claim.uid)));
    if error.kind() == Kind::Refused {
        ctx.metrics.refused("provision");
    }
    if !error.kind().may_still_happen() {
        // Nothing was made and nothing will be. What an earlier try made is still known.
        ctx.end_attempt_if(&claim.uid, |progress| matches!(progress, Progress::Begun));
    }
    error.kind().into()
}

/// Stores the PV, once; then tells the backend.
async fn store(ctx: &Context, order: &Arc<Order>, volume: &Arc<Volume>, permit: &Permit) -> Outcome {
    let claim = &order.claim;
    let object = match describe(ctx, order, volume) {
        Ok(object) => object,
        Err(error) => {
            fail(ctx, claim, &error.kind().to_string(), &error.chain());
            // What is too small does not grow by itself: the next try starts again.
            if error.kind() == Kind::Exhausted && !ctx.posted(&claim.uid) {
                roll_back(ctx, order, volume, permit).await;
            }
            return error.kind().into();
        }
    };
    let turn = ctx.storing.acquire().await;
    if let Err(expired) = permit.check() {
        tracing::warn!(
            claim = %claim,
            error = %expired,
            "the volume was created, but its PersistentVolume may not be stored"
        );
        return Outcome::Retry;
    }
    ctx.progress(&claim.uid, |progress| *progress = Progress::Posted(Arc::clone(volume)));
    let name = volume.id.name();
    let stored = ctx.cluster.create_volume(&object).await;
    drop(turn);
    let stored = match stored {
        Ok(stored) => stored,
        Err(failure) => match failure.cause {
            Cause::Exists => match whose(ctx, order, name).await {
                Ok(Some(stored)) if uses(&stored, order, volume) => stored,
                // Another provisioner was faster, at another place; or we were, under parameters that the class had then.
                Ok(Some(_)) => return roll_back(ctx, order, volume, permit).await,
                Ok(None) => return Outcome::Retry,
                Err(outcome) => return outcome,
            },
            Cause::Unknown => return not_stored(ctx, order, &failure),
            Cause::Throttled
            | Cause::Conflict
            | Cause::NotFound
            | Cause::Forbidden
            | Cause::Unauthorized
            | Cause::Invalid => {
                ctx.progress(&claim.uid, |progress| *progress = Progress::Made(Arc::clone(volume)));
                return not_stored(ctx, order, &failure);
            }
        },
    };
    let began = ctx.attempt(&claim.uid).map_or_else(Instant::now, |attempt| attempt.began);
    ctx.progress(&claim.uid, |progress| {
        *progress = Progress::Stored(Arc::clone(volume), uid_of(&stored));
    });
    ctx.cache().upsert_volume(&stored);
    ctx.metrics.provisioned(&claim.class_field, claim.source_kind(), began.elapsed());
    let (at, class) = (whereabouts(order, volume), &order.class.name);
    tracing::info!(claim = %claim, volume = %name, at, class, "provisioned a volume");
    // Tools look for the beginning, which is that of the Go library.
    let note = format!("Successfully provisioned volume {name} at {at} of class {class:?}");
    ctx.claim_event(claim, Type::Normal, "ProvisioningSucceeded", note);
    commit_later(ctx, &claim.uid)
}

/// Which object it is.
fn uid_of(stored: &VolumeObject) -> Arc<str> {
    stored.uid().into()
}

/// The directory or image of a volume, for people: `nfs/default:team-data`, as the probes name stores.
fn whereabouts(order: &Order, volume: &Volume) -> String {
    let backend = order.backend.capabilities().name;
    match order.backend.locate(&volume.source) {
        Some(place) => format!("{backend}/{place}"),
        None => volume.id.to_string(),
    }
}

/// Leaves the rest to [`commit`](super::commit::commit).
fn commit_later(ctx: &Context, uid: &Arc<str>) -> Outcome {
    ctx.cache().wakeups.wake(Key::Commit(Arc::clone(uid)));
    Outcome::Done
}

fn describe(
    ctx: &Context,
    order: &Order,
    volume: &Volume,
) -> Result<k8s_openapi::api::core::v1::PersistentVolume, Error> {
    // An earlier try may have made it elsewhere, under parameters that the class had then.
    let place: Location = order.backend.locate(&volume.source).ok_or_else(|| {
        Error::new(Kind::Internal, format!("volume {} was created outside every configured store", volume.id))
    })?;
    let uses_finalizers = {
        let mut cache = ctx.cache();
        let location = LocationKey::new(order.backend.capabilities().name, &place);
        if location != order.location {
            let share = order.may_share();
            let name = order.request.name.as_str();
            if let Some(other) = cache.occupancy.occupant(&location, name, &order.claim.uid, share) {
                let message =
                    format!("volume {} was created at {place}, which {} uses", volume.id, other.who);
                return Err(Error::new(Kind::Conflict, message));
            }
            cache.reserve(&order.claim, location);
        }
        cache.uses_finalizers()
    };
    let options =
        Recording { disposal: order.disposal, retention: order.retention, has_finalizer: uses_finalizers };
    persistent_volume::build(volume, &place, &order.claim, &order.class, options)
}

/// Whose PV has the name that we wanted: ours is a success.
async fn whose(ctx: &Context, order: &Order, name: &VolumeName) -> Result<Option<VolumeObject>, Outcome> {
    let claim = &order.claim;
    match ctx.cluster.volume(name.as_str()).await {
        Ok(Some(live)) if is_for(&live, claim) => Ok(Some(live)),
        Ok(Some(live)) => {
            let whose = live.spec.claim_ref.map_or_else(
                || "to no claim".to_owned(),
                |other| format!("to claim {}/{} with UID {}", other.namespace, other.name, other.uid),
            );
            let why = format!(
                "PersistentVolume {name} exists already and belongs {whose}; delete it if it is not needed"
            );
            fail(ctx, claim, "conflict", &why);
            let id: Arc<str> = name.as_str().into();
            ctx.cache().wakeups.wait(&id, Key::Claim(Arc::clone(&claim.uid)));
            Err(Outcome::Slow)
        }
        Ok(None) => Ok(None),
        Err(failure) => Err(not_stored(ctx, order, &failure)),
    }
}

fn not_stored(ctx: &Context, order: &Order, failure: &Failure) -> Outcome {
    if failure.is_forbidden() {
        ctx.rights.refused(Right::CreateVolumes);
    }
    let why = format!("the volume was created, but its PersistentVolume is not stored yet: {failure}");
    fail(ctx, &order.claim, "not stored", &why);
    failure.outcome()
}

/// The claim is gone, or has what it wants: what was begun for it becomes a stored volume or is rolled back.
async fn settle(ctx: &Context, attempt: Attempt, permit: &Permit) -> Outcome {
    let order = &attempt.order;
    let claim = &order.claim;
    let volume = match &attempt.progress {
        Progress::Stored(..) => return commit_later(ctx, &claim.uid),
        // Only trying again tells whether the server stored it. If it did, or does so now, the PV of a claim that is gone
        // is released and removed like any other.
        Progress::Posted(volume) => return store(ctx, order, volume, permit).await,
        Progress::Made(volume) => Arc::clone(volume),
        Progress::Begun => match order.backend.create(&order.request, permit).await {
            Ok(volume) => {
                let volume = Arc::new(volume);
                ctx.progress(&claim.uid, |progress| *progress = Progress::Made(Arc::clone(&volume)));
                volume
            }
            // Without claim and class only the sweep is left to take back what may have been made, once something names the store again.
            Err(error) if error.kind().may_still_happen() && has_class(ctx, order) => {
                return error.kind().into();
            }
            Err(error) if error.kind().may_still_happen() => {
                tracing::info!(
                    claim = %claim,
                    error = error.chain(),
                    "the claim and its class are gone; if a volume was created, the sweep removes it"
                );
                ctx.end_attempt(&claim.uid);
                return Outcome::Done;
            }
            Err(error) => {
                tracing::info!(claim = %claim, error = error.chain(), "nothing was created for a claim that is gone");
                ctx.end_attempt(&claim.uid);
                return Outcome::Done;
            }
        },
    };
    let live = ctx.cluster.claim(&claim.namespace, &claim.name).await;
    let stored = ctx.cluster.volume(volume.id.name().as_str()).await;
    let (live, stored) = match (live, stored) {
        (Ok(live), Ok(stored)) => (live, stored),
        (Err(failure), _) | (_, Err(failure)) => {
            tracing::warn!(claim = %claim, error = %failure, "cannot check whether the claim is gone");
            return failure.outcome();
        }
    };
    // A PV for this claim by another provisioner, with another directory, is what the claim will be bound to.
    let served = stored.as_ref().is_some_and(|stored| is_for(stored, claim));
    if let Some(stored) = stored.filter(|stored| uses(stored, order, &volume)) {
        ctx.progress(&claim.uid, |progress| {
            *progress = Progress::Stored(Arc::clone(&volume), uid_of(&stored));
        });
        return commit_later(ctx, &claim.uid);
    }
    let wanted = live.is_some_and(|live| {
        live.metadata.uid.as_deref() == Some(&*claim.uid)
            && live.spec.volume_name.as_deref().unwrap_or_default().is_empty()
    });
    if wanted && !served {
        return store(ctx, order, &volume, permit).await;
    }
    roll_back(ctx, order, &volume, permit).await
}

/// Whether the class of the attempt is there; one that was made again under its name may name another store.
fn has_class(ctx: &Context, order: &Order) -> bool {
    ctx.cache().class(&order.claim.class).is_some_and(|class| class.uid == order.class.uid)
}

/// Whether a stored PV is that of this volume and its claim. Details of its source may differ: the class may have been made again
/// since it was stored, or a newer release builds it otherwise.
fn uses(stored: &VolumeObject, order: &Order, volume: &Volume) -> bool {
    let place = |source: &Source| order.backend.locate(source);
    is_for(stored, &order.claim)
        && persistent_volume::source(stored).is_some_and(|source| {
            source == volume.source
                || place(&source).is_some_and(|there| place(&volume.source) == Some(there))
        })
}

fn is_for(stored: &VolumeObject, claim: &Claim) -> bool {
    stored.spec.claim_ref.as_ref().is_some_and(|other| *other.uid == *claim.uid)
}

/// Rolls back a volume that no claim uses.
async fn roll_back(ctx: &Context, order: &Order, volume: &Volume, permit: &Permit) -> Outcome {
    let claim = &order.claim;
    let uncommitted = Uncommitted {
        id: volume.id.clone(),
        claim: claim.key(),
        since: std::time::SystemTime::UNIX_EPOCH,
        // The PV of this claim may name another place under the same id.
        place: order.backend.locate(&volume.source),
    };
    match order.backend.rollback(&uncommitted, permit).await {
        Ok(()) => {
            tracing::info!(claim = %claim, volume = %volume.id, "rolled back an uncommitted volume");
            ctx.metrics.swept(volume.id.store());
            ctx.end_attempt(&claim.uid);
            Outcome::Done
        }
        Err(error) if error.kind() == Kind::Busy => Kind::Busy.into(),
        Err(error) => {
            tracing::warn!(claim = %claim, error = error.chain(), "cannot roll back an uncommitted volume");
            let note =
                format!("could not remove the volume that was created for this claim: {}", error.chain());
            ctx.claim_event(claim, Type::Warning, "ProvisioningCleanupFailed", note);
            if error.kind() == Kind::Refused {
                // It holds data. The sweep reports it; a person decides.
                ctx.metrics.refused("provision");
                ctx.end_attempt(&claim.uid);
                return Outcome::Done;
            }
            if ctx.cache().claim(&claim.uid).is_none() && !has_class(ctx, order) {
                ctx.end_attempt(&claim.uid);
                return Outcome::Done;
            }
            error.kind().into()
        }
    }
}

/// Tells the user and the metrics that an attempt failed.
fn fail(ctx: &Context, claim: &Claim, kind: &str, why: &str) {
    let why = &*shortened(why, NOTE_BYTES);
    tracing::warn!(claim = %claim, kind, why, "cannot provision a volume");
    ctx.claim_event(claim, Type::Warning, "ProvisioningFailed", why.to_owned());
    ctx.metrics.provision_failed(&claim.class_field, claim.source_kind());
}
