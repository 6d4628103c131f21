//! Volumes that were begun and never used are rolled back, and those that are used are committed: [`run`].
//!
//! It makes up for crashes: what the storage records as uncommitted is compared with the PVs and the living claims. A
//! claim that lives keeps its volume, whatever its state. Everything else is asked for live, twice, a grace period apart,
//! before it is rolled back.
//!
//! Where the storage does not record the name of a claim but only its UID, all claims are asked for it.
//!
//! It never touches what was committed, and what we did not make is not in the list.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::join_all;

use super::{
    cache::Cache,
    context::Context,
    names,
    objects::{VolumeObject, annotation},
    persistent_volume,
};
use crate::{
    backend::{Kind, Ports, Uncommitted},
    volume::{Location, Permit, Source, VolumeName},
};

/// What the API server says of an unfinished volume.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// The PV with this UID uses it.
    Used(String),
    /// Another volume has its name, or its claim lives.
    Leave,
    /// Nothing in the cluster knows it.
    Orphan,
}

/// What the cache says of an uncommitted volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// There is a PV of its name.
    Stored,
    /// It is being worked on, or its claim lives.
    Leave,
    /// Nothing seems to know it.
    Orphan,
}

/// Sweeps now and then every `interval`, until dropped.
pub(super) async fn run(ctx: Arc<Context>, permit: Permit, interval: Duration, grace: Duration) {
    loop {
        sweep(&ctx, &permit, grace).await;
        tokio::time::sleep(interval).await;
    }
}

/// Every store by itself: one that hangs does not keep the others from being swept.
async fn sweep(ctx: &Context, permit: &Permit, grace: Duration) {
    ctx.register_classes();
    let stores = ctx
        .backends
        .distinct()
        .into_iter()
        .flat_map(|ports| ports.stores.stores().into_iter().map(move |store| (ports, store.name)));
    join_all(stores.map(|(ports, store)| sweep_store(ctx, ports, store, permit, grace))).await;
}

async fn sweep_store(ctx: &Context, ports: &Ports, store: String, permit: &Permit, grace: Duration) {
    let known = |name: &VolumeName| ctx.cache().volume(name.as_str()).is_some();
    let uncommitted = match ports.janitor.list_uncommitted(&store, &known).await {
        Ok(uncommitted) => uncommitted,
        Err(error) => {
            tracing::warn!(
                store,
                error = error.chain(),
                "cannot list uncommitted volumes; the next sweep tries again"
            );
            return;
        }
    };
    let orphans = orphan_candidates(ctx, ports, uncommitted, permit).await;
    if orphans.is_empty() {
        return;
    }
    tracing::info!(
        store,
        orphans = orphans.len(),
        "found orphaned volumes; checking them again after the grace \
        period"
    );
    tokio::time::sleep(grace).await;
    for volume in orphan_candidates(ctx, ports, orphans, permit).await {
        rollback(ctx, ports, &volume, permit).await;
    }
}

/// Those of `volumes` that nothing seems to know. What is used is committed.
async fn orphan_candidates(
    ctx: &Context,
    ports: &Ports,
    volumes: Vec<Uncommitted>,
    permit: &Permit,
) -> Vec<Uncommitted> {
    let mut orphans = Vec::new();
    let mut nameless = Vec::new();
    for volume in volumes {
        if !is_orphan_candidate(ctx, ports, &volume, permit).await {
            continue;
        }
        if nameless_claim(&volume) { nameless.push(volume) } else { orphans.push(volume) }
    }
    if nameless.is_empty() {
        return orphans;
    }
    let uids: BTreeSet<&str> = nameless.iter().map(|volume| volume.claim.uid.as_str()).collect();
    match ctx.cluster.living_claims(&uids).await {
        Ok(living) => {
            orphans.extend(nameless.into_iter().filter(|volume| !living.contains(&volume.claim.uid)));
        }
        Err(failure) => {
            tracing::warn!(
                error = %failure,
                "cannot find out which claims exist; leaving their half-made volumes alone"
            );
        }
    }
    orphans
}

/// Whether only the UID of the claim is known.
fn nameless_claim(volume: &Uncommitted) -> bool {
    volume.claim.namespace.is_empty() || volume.claim.name.is_empty()
}

/// Looks at one volume, live unless the cache says enough of it, and commits it where it is used. Returns whether nothing seems
/// to know it.
async fn is_orphan_candidate(ctx: &Context, ports: &Ports, volume: &Uncommitted, permit: &Permit) -> bool {
    let worked_on = ctx.attempt(&volume.claim.uid).is_some();
    let verdict = judge(volume, &ctx.cache(), worked_on);
    let answer = match verdict {
        Verdict::Leave => return false,
        Verdict::Stored | Verdict::Orphan => ask(ctx, ports, volume).await,
    };
    match answer {
        Ok(Answer::Used(uid)) => {
            commit(ctx, ports, volume, &uid, permit).await;
            false
        }
        Ok(Answer::Leave) => false,
        Ok(Answer::Orphan) => true,
        Err(failure) => {
            tracing::warn!(volume = %volume.id, error = %failure, "cannot find out whether the volume is used");
            false
        }
    }
}

async fn commit(ctx: &Context, ports: &Ports, volume: &Uncommitted, uid: &str, permit: &Permit) {
    match ports.backend.commit(&volume.id, uid, permit).await {
        Ok(()) => ctx.metrics.committed(volume.id.store()),
        Err(error) => {
            tracing::warn!(
                volume = %volume.id,
                error = error.chain(),
                "cannot commit the volume; the next sweep tries again"
            );
        }
    }
}

fn judge(volume: &Uncommitted, cache: &Cache, worked_on: bool) -> Verdict {
    if cache.volume(volume.id.name().as_str()).is_some() {
        Verdict::Stored
    // Without a UID it cannot be asked whose it is.
    } else if volume.claim.uid.is_empty() || worked_on || cache.claim(&volume.claim.uid).is_some() {
        Verdict::Leave
    } else {
        Verdict::Orphan
    }
}

/// Whether the PV of the name of an unfinished volume uses that volume. Whichever claim it is for: a volume may have been
/// bound again by another one. `locate` says where a source lies.
fn uses(stored: &VolumeObject, volume: &Uncommitted, locate: impl Fn(&Source) -> Option<Location>) -> bool {
    let same = match annotation(&stored.metadata, names::VOLUME_ID) {
        Some(id) => id == volume.id.to_string(),
        None => stored.spec.claim_ref.as_ref().is_some_and(|claim| claim.uid == volume.claim.uid),
    };
    let there = persistent_volume::source(stored).and_then(|source| locate(&source));
    let elsewhere = there.zip(volume.place.as_ref()).is_some_and(|(there, place)| there != *place);
    same && !elsewhere
}

/// Asks for the volume and the claim. A claim without a name is asked for later, together with the others.
async fn ask(ctx: &Context, ports: &Ports, volume: &Uncommitted) -> Result<Answer, super::cluster::Failure> {
    if let Some(stored) = ctx.cluster.volume(volume.id.name().as_str()).await? {
        let used = uses(&stored, volume, |source| ports.backend.locate(source));
        return Ok(match stored.metadata.uid {
            Some(uid) if used => Answer::Used(uid),
            Some(_) | None => Answer::Leave,
        });
    }
    let known = ctx.attempt(&volume.claim.uid).is_some() || ctx.cache().claim(&volume.claim.uid).is_some();
    if known || volume.claim.uid.is_empty() {
        return Ok(Answer::Leave);
    }
    if nameless_claim(volume) {
        return Ok(Answer::Orphan);
    }
    let claim = ctx.cluster.claim(&volume.claim.namespace, &volume.claim.name).await?;
    let lives = claim.is_some_and(|claim| claim.metadata.uid.as_deref() == Some(&volume.claim.uid));
    Ok(if lives { Answer::Leave } else { Answer::Orphan })
}

async fn rollback(ctx: &Context, ports: &Ports, volume: &Uncommitted, permit: &Permit) {
    match ports.backend.rollback(volume, permit).await {
        Ok(()) => {
            tracing::info!(volume = %volume.id, claim = %volume.claim, "rolled back an uncommitted volume");
            ctx.metrics.swept(volume.id.store());
        }
        Err(error) => {
            if error.kind() == Kind::Refused {
                ctx.metrics.refused("sweep");
            }
            tracing::warn!(
                volume = %volume.id,
                claim = %volume.claim,
                error = error.chain(),
                "cannot roll back an uncommitted volume"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::json;

    use super::*;
    use crate::{
        backend::{Backend as _, Backends, memory::Memory},
        provisioner::fixtures::{self, NAME},
        volume::{ClaimKey, VolumeId, VolumeName},
    };

    #[test]
    fn what_has_a_volume_or_a_claim_is_never_rolled_back() {
        let uncommitted = Uncommitted {
            id: VolumeId::new("memory", "default", VolumeName::for_claim("0b6f-11").unwrap()).unwrap(),
            claim: ClaimKey { namespace: "default".into(), name: "data".into(), uid: "0b6f-11".into() },
            since: SystemTime::UNIX_EPOCH,
            place: None,
        };
        let empty = || Cache::new(Backends::default().with(NAME, Arc::new(Memory::new())), true);
        assert_eq!(judge(&uncommitted, &empty(), false), Verdict::Orphan, "no claim and no PV names it");
        assert_eq!(judge(&uncommitted, &empty(), true), Verdict::Leave, "it is being worked on");

        let nobody = ClaimKey { uid: String::new(), ..uncommitted.claim.clone() };
        let nobody = Uncommitted { claim: nobody, ..uncommitted.clone() };
        assert_eq!(judge(&nobody, &empty(), false), Verdict::Leave, "whose it is cannot be asked");

        let mut cache = empty();
        cache.upsert_claim(&fixtures::claim_object(json!({})));
        assert_eq!(judge(&uncommitted, &cache, false), Verdict::Leave, "its claim waits");

        let mut cache = empty();
        cache.upsert_volume(&fixtures::volume_object(json!({"status": {"phase": "Bound"}})));
        assert_eq!(judge(&uncommitted, &cache, false), Verdict::Stored, "it has a PV");
        assert_eq!(judge(&nobody, &cache, false), Verdict::Stored, "the PV names the owner");
    }

    #[test]
    fn a_volume_is_used_by_the_object_that_names_it_whichever_claim_is_bound_to_it() {
        let memory = Memory::new();
        let id = VolumeId::new("memory", "default", VolumeName::for_claim("0b6f-11").unwrap()).unwrap();
        let place = Location::new("default", "default-data-pvc-0b6f-11").unwrap();
        let uncommitted = Uncommitted {
            id,
            claim: ClaimKey { namespace: "default".into(), name: "data".into(), uid: "0b6f-11".into() },
            since: SystemTime::UNIX_EPOCH,
            place: Some(place),
        };
        let id =
            |id: serde_json::Value| json!({"metadata": {"annotations": {"berth.storage/volume-id": id}}});
        let table = [
            ("as it was made", json!({}), true),
            (
                "bound again by another claim",
                json!({"spec": {"claimRef": {"name": "new", "uid": "9"}}}),
                true,
            ),
            ("another volume", id(json!("1/memory/other/pvc-0b6f-11")), false),
            ("a volume of an older provisioner for the claim", id(serde_json::Value::Null), true),
            ("at another place", json!({"spec": {"nfs": {"path": "/default/elsewhere"}}}), false),
        ];
        for (row, patch, used) in table {
            let stored = fixtures::volume_object(patch);
            assert_eq!(uses(&stored, &uncommitted, |source| memory.locate(source)), used, "{row}");
        }
        let mut other = id(serde_json::Value::Null);
        fixtures::merge(&mut other, &json!({"spec": {"claimRef": {"uid": "9"}}}));
        assert!(!uses(&fixtures::volume_object(other), &uncommitted, |_| None), "for another claim");
    }
}
