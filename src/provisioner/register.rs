//! Volumes in use that the storage does not know as ours are recorded there: [`run`] finds them, [`reconcile`] tells of one.
//!
//! Those are the volumes of older provisioners, of earlier versions, and those whose records were lost. Once it is recorded
//! whose they are, it need not be guessed on the day of their removal. Finding them costs one listing of the storage for
//! each store; only what is not known there is then read from the API server, one at a time.
//!
//! What another cluster has recorded is left alone and told.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;

use super::{
    class::Class,
    context::Context,
    events::Type,
    key::Key,
    objects::{VolumeObject, class_name},
    persistent_volume::{self, Recorded},
    queue::Outcome,
    volume_state::{self, Phase},
};
use crate::{
    backend::{Backends, Janitor, Kind, KnownVolume},
    volume::{Capacity, InUse, Invalid, Origin, Permit, VolumeName},
};

/// The first wait after a store could not be listed; it doubles.
const FIRST_WAIT: Duration = Duration::from_secs(10);
/// The longest.
const LONGEST_WAIT: Duration = Duration::from_mins(10);

/// Looks in every store for volumes that are in use and not recorded, now and whenever more is known of what this cluster is
/// called; until dropped.
pub(super) async fn run(ctx: Arc<Context>) {
    let mut learned = ctx.cluster_identity.learned();
    loop {
        learned.mark_unchanged();
        let volumes = ctx.cache().in_use();
        let backends = ctx.backends.distinct();
        join_all(volumes.into_iter().filter_map(|((backend, store), volumes)| {
            let ports = backends.iter().find(|known| known.name() == backend)?;
            Some(look(&ctx, &ports.janitor, store, volumes))
        }))
        .await;
        if learned.changed().await.is_err() {
            return;
        }
    }
}

/// Queues those volumes of one store that it does not know.
async fn look(ctx: &Context, janitor: &Arc<dyn Janitor>, store: String, volumes: Vec<KnownVolume>) {
    let mut wait = FIRST_WAIT;
    loop {
        match janitor.unregistered(&store, &volumes).await {
            Ok(unregistered) => {
                if !unregistered.is_empty() {
                    tracing::info!(
                        store,
                        volumes = unregistered.len(),
                        "some volumes in use have no owner recorded on the storage yet"
                    );
                }
                for name in unregistered {
                    ctx.cache().wakeups.wake(Key::Register(name.as_str().into()));
                }
                return;
            }
            Err(error) if error.kind().touched_nothing() => {
                tracing::warn!(
                    store,
                    error = error.chain(),
                    "cannot read which volumes have an owner recorded on the storage"
                );
                return;
            }
            Err(error) => {
                tracing::info!(
                    store,
                    error = error.chain(),
                    "cannot read yet which volumes have an owner recorded on the storage"
                );
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// Records the volume `name` on the storage, if it is in use.
pub(super) async fn reconcile(ctx: &Context, name: &str, permit: &Permit) -> Outcome {
    let live = match ctx.live_volume(name, "whose owner is to be recorded").await {
        Ok(Some(live)) => live,
        Ok(None) => return Outcome::Done,
        Err(outcome) => return outcome,
    };
    let ports = volume_state::provisioner(&live, &ctx.backends).and_then(|by| ctx.backends.ports(by));
    let Some(ports) = ports else { return Outcome::Done };
    let class = {
        let class = class_name(&live.metadata, live.spec.storage_class_name.as_deref());
        ctx.cache().class(class).cloned()
    };
    let volume = match in_use(&live, class.as_deref(), &ctx.backends) {
        Ok(Some(volume)) => volume,
        Ok(None) => return Outcome::Done,
        Err(error) => {
            tell(ctx, &live, &error.to_string());
            return Outcome::Done;
        }
    };
    match ports.janitor.register(&volume, permit).await {
        Ok(()) => {
            tracing::info!(volume = name, "recorded the owner of the volume on the storage");
            Outcome::Done
        }
        Err(error) if error.kind() == Kind::Busy => Outcome::Retry,
        Err(error) if error.kind().touched_nothing() => {
            if error.kind() == Kind::Refused {
                ctx.metrics.refused("register");
            }
            tell(ctx, &live, &error.chain());
            // An administrator has to change the volume, which is news.
            Outcome::Done
        }
        Err(error) => {
            tracing::warn!(
                volume = name,
                kind = %error.kind(),
                error = error.chain(),
                "cannot record the owner of the volume on the storage yet"
            );
            match error.kind() {
                // The next look at the kept Secrets, within the hour, comes back to it.
                Kind::Conflict if ctx.cache().kept_secret(name).is_some() => {
                    tell(ctx, &live, &error.chain());
                    Outcome::Done
                }
                Kind::Conflict => {
                    tell(ctx, &live, &error.chain());
                    Outcome::Slow
                }
                Kind::Internal if ctx.cache().kept_secret(name).is_some() => {
                    tell(ctx, &live, &error.chain());
                    Outcome::Slow
                }
                kind => kind.into(),
            }
        }
    }
}

/// Tells the administrator why the volume cannot be recorded, or its Secret not be made again.
fn tell(ctx: &Context, live: &VolumeObject, why: &str) {
    let name = live.name();
    tracing::warn!(volume = name, why, "cannot record the owner of the volume on the storage");
    ctx.volume_event(live, Type::Warning, "VolumeNotRecorded", why.to_owned());
}

/// The volume as one that is in use; `None` where it is not in use, not ours, or where it says too little to be found.
fn in_use(live: &VolumeObject, class: Option<&Class>, backends: &Backends) -> Result<Option<InUse>, Invalid> {
    let Some(backend) = volume_state::provisioner(live, backends).and_then(|by| backends.get(by)) else {
        return Ok(None);
    };
    if volume_state::state_of(live, backends).phase != Phase::Bound {
        return Ok(None);
    }
    let (Some(claim), Some(source)) = (&live.spec.claim_ref, persistent_volume::source(live)) else {
        return Ok(None);
    };
    if claim.uid.is_empty() {
        return Ok(None);
    }
    let name: VolumeName = live.name().parse()?;
    let capacity: Capacity = live.spec.capacity.storage.as_deref().unwrap_or_default().parse()?;
    let recorded = Recorded::read(live)?;
    Ok(Some(InUse {
        name,
        id: recorded.id.clone(),
        source,
        claim: claim.key(),
        origin: recorded.origin.unwrap_or(Origin::Created),
        capacity,
        pv_metadata: recorded.pv_metadata(live, class, backend.capabilities()),
    }))
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value, reason = "patches read best written in place")]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        backend::memory::Memory,
        provisioner::fixtures::{self, NAME},
    };

    fn told(patch: Value) -> Result<Option<InUse>, Invalid> {
        let backends = Backends::default().with(NAME, Arc::new(Memory::new()));
        let mut bound = json!({"status": {"phase": "Bound"}});
        fixtures::merge(&mut bound, &patch);
        in_use(&fixtures::volume_object(bound), None, &backends)
    }

    #[test]
    fn only_what_is_bound_here_is_recorded_as_in_use() {
        let volume = told(json!({})).unwrap().unwrap();
        assert_eq!((volume.claim.uid.as_str(), volume.pv_metadata.uid.as_str()), ("0b6f-11", "volume-1"));
        assert_eq!(volume.id.map(|id| id.to_string()).as_deref(), Some("1/memory/default/pvc-0b6f-11"));
        let table = [
            ("released", json!({"status": {"phase": "Released"}})),
            ("available", json!({"status": {"phase": "Available"}})),
            (
                "of another provisioner",
                json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "x"}}}),
            ),
            ("bound without naming a claim", json!({"spec": {"claimRef": {"uid": ""}}})),
            ("of a source that no backend here knows", json!({"spec": {"nfs": {"server": ""}}})),
        ];
        for (row, patch) in table {
            assert_eq!(told(patch), Ok(None), "{row}");
        }
        let nonsense = json!({"metadata": {"annotations": {"berth.storage/origin": "found"}}});
        assert!(told(nonsense).unwrap_err().to_string().contains("berth.storage/origin"));
    }

    #[test]
    fn a_take_over_by_an_administrator_reaches_the_storage() {
        let patch = json!({"metadata": {"annotations": {"berth.storage/take-over": "blue"}}});
        let volume = told(patch).unwrap().unwrap();
        assert_eq!(volume.pv_metadata.take_over.as_deref(), Some("blue"));
    }
}
