//! Volumes that were begun and never used are taken back, and those that are used are confirmed: [`run`].
//!
//! It makes up for crashes: what the storage remembers as unfinished is compared with the PVs and the living claims. A
//! claim that lives keeps its volume, whatever its state. Everything else is asked for live, twice, a grace period apart,
//! before it is taken back.
//!
//! Where the storage does not remember the name of a claim but only its UID, all claims are asked for it.
//!
//! It never touches what was confirmed, and what we did not make is not in the list.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::future::join_all;

use super::{Shared, records::Records};
use crate::{
    backend::{Backend, Kind, Unfinished},
    volume::{Permit, VolumeName},
};

/// What the records say of an unfinished volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It has a PV.
    Confirm,
    /// It is being worked on, or its claim lives.
    Leave,
    /// Nobody seems to know it.
    Suspect,
}

/// Sweeps now and then every `interval`, until dropped.
pub(super) async fn run(shared: Arc<Shared>, permit: Permit, interval: Duration, grace: Duration) {
    loop {
        sweep(&shared, &permit, grace).await;
        tokio::time::sleep(interval).await;
    }
}

/// Every store by itself: one that hangs does not keep the others from being swept.
async fn sweep(shared: &Shared, permit: &Permit, grace: Duration) {
    shared.introduce_classes();
    let stores = shared
        .backends
        .distinct()
        .into_iter()
        .flat_map(|backend| backend.stores().into_iter().map(move |store| (backend, store.name)));
    join_all(stores.map(|(backend, store)| sweep_store(shared, backend, store, permit, grace))).await;
}

async fn sweep_store(
    shared: &Shared,
    backend: &Arc<dyn Backend>,
    store: String,
    permit: &Permit,
    grace: Duration,
) {
    let known = |name: &VolumeName| shared.records().volume(name.as_str()).is_some();
    let unfinished = match backend.unfinished(&store, &known).await {
        Ok(unfinished) => unfinished,
        Err(error) => {
            tracing::warn!(store, error = error.chain(), "cannot list what was begun; the next sweep will");
            return;
        }
    };
    let suspects = suspicious(shared, backend, unfinished, permit).await;
    if suspects.is_empty() {
        return;
    }
    tracing::info!(store, suspects = suspects.len(), "volumes without PV and claim are looked at again");
    tokio::time::sleep(grace).await;
    for volume in suspicious(shared, backend, suspects, permit).await {
        discard(shared, backend, &volume, permit).await;
    }
}

/// Those of `volumes` that nobody seems to know. What is used is confirmed.
async fn suspicious(
    shared: &Shared,
    backend: &Arc<dyn Backend>,
    volumes: Vec<Unfinished>,
    permit: &Permit,
) -> Vec<Unfinished> {
    let mut suspects = Vec::new();
    let mut nameless = Vec::new();
    for volume in volumes {
        if look(shared, backend, &volume, permit).await != Verdict::Suspect {
            continue;
        }
        if nameless_claim(&volume) { nameless.push(volume) } else { suspects.push(volume) }
    }
    if nameless.is_empty() {
        return suspects;
    }
    let uids: BTreeSet<&str> = nameless.iter().map(|volume| volume.claim.uid.as_str()).collect();
    match shared.cluster.living_claims(&uids).await {
        Ok(living) => {
            suspects.extend(nameless.into_iter().filter(|volume| !living.contains(&volume.claim.uid)));
        }
        Err(failure) => {
            tracing::warn!(error = %failure, "cannot find out which claims live; what was begun for them is left alone");
        }
    }
    suspects
}

/// Whether only the UID of the claim is known.
fn nameless_claim(volume: &Unfinished) -> bool {
    volume.claim.namespace.is_empty() || volume.claim.name.is_empty()
}

/// Looks at one volume, live where the records know nothing of it, and confirms it where it is used.
async fn look(shared: &Shared, backend: &Arc<dyn Backend>, volume: &Unfinished, permit: &Permit) -> Verdict {
    let verdict = match judge(volume, &shared.records(), shared.attempt(&volume.claim.uid).is_some()) {
        Verdict::Suspect => None,
        known => Some(known),
    };
    let verdict = match verdict {
        Some(known) => known,
        None => match ask(shared, volume).await {
            Ok(verdict) => verdict,
            Err(failure) => {
                tracing::warn!(volume = %volume.id, error = %failure, "cannot find out whether the volume is used");
                Verdict::Leave
            }
        },
    };
    if verdict == Verdict::Confirm {
        // Which object it is only the API server tells.
        let uid = match shared.cluster.volume(volume.id.name().as_str()).await {
            Ok(stored) => stored.and_then(|stored| stored.metadata.uid).unwrap_or_default(),
            Err(failure) => {
                tracing::warn!(volume = %volume.id, error = %failure, "cannot read the PersistentVolume");
                return Verdict::Leave;
            }
        };
        match backend.confirm(&volume.id, &uid, permit).await {
            Ok(()) => shared.metrics.confirmed(volume.id.store()),
            Err(error) => {
                tracing::warn!(volume = %volume.id, error = error.chain(), "cannot confirm the volume; the next sweep will");
            }
        }
    }
    verdict
}

fn judge(volume: &Unfinished, records: &Records, worked_on: bool) -> Verdict {
    // Whose it is cannot be asked.
    if volume.claim.uid.is_empty() {
        return Verdict::Leave;
    }
    let used =
        records.volume(volume.id.name().as_str()).is_some_and(|known| *known.claim_uid == *volume.claim.uid);
    if used {
        Verdict::Confirm
    } else if worked_on || records.claim(&volume.claim.uid).is_some() {
        Verdict::Leave
    } else {
        Verdict::Suspect
    }
}

/// Asks for the volume and the claim. A claim without a name is asked for later, together with the others.
async fn ask(shared: &Shared, volume: &Unfinished) -> Result<Verdict, super::cluster::Failure> {
    let stored = shared.cluster.volume(volume.id.name().as_str()).await?;
    if let Some(stored) = stored {
        let used = stored.spec.claim_ref.is_some_and(|claim| claim.uid == volume.claim.uid);
        return Ok(if used { Verdict::Confirm } else { Verdict::Leave });
    }
    if nameless_claim(volume) {
        return Ok(Verdict::Suspect);
    }
    let claim = shared.cluster.claim(&volume.claim.namespace, &volume.claim.name).await?;
    let lives = claim.is_some_and(|claim| claim.metadata.uid.as_deref() == Some(&volume.claim.uid));
    Ok(if lives { Verdict::Leave } else { Verdict::Suspect })
}

async fn discard(shared: &Shared, backend: &Arc<dyn Backend>, volume: &Unfinished, permit: &Permit) {
    match backend.discard(volume, permit).await {
        Ok(()) => {
            tracing::info!(volume = %volume.id, claim = %volume.claim, "took back a volume that was never used");
            shared.metrics.swept(volume.id.store());
        }
        Err(error) => {
            if error.kind() == Kind::Refused {
                shared.metrics.refused("sweep");
            }
            tracing::warn!(
                volume = %volume.id,
                claim = %volume.claim,
                error = error.chain(),
                "cannot take back a volume that was never used"
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
        backend::{Backends, memory::Memory},
        provisioner::fixtures::{self, NAME},
        volume::{ClaimKey, VolumeId, VolumeName},
    };

    #[test]
    fn what_has_a_volume_or_a_claim_is_never_taken_back() {
        let unfinished = Unfinished {
            id: VolumeId::new("memory", "default", VolumeName::for_claim("0b6f-11").unwrap()).unwrap(),
            claim: ClaimKey { namespace: "default".into(), name: "data".into(), uid: "0b6f-11".into() },
            since: SystemTime::UNIX_EPOCH,
            place: None,
        };
        let empty = || Records::new(Backends::default().with(NAME, Arc::new(Memory::new())), true);
        assert_eq!(judge(&unfinished, &empty(), false), Verdict::Suspect, "nobody knows it");
        assert_eq!(judge(&unfinished, &empty(), true), Verdict::Leave, "it is being worked on");

        let nobody = ClaimKey { uid: String::new(), ..unfinished.claim.clone() };
        let nobody = Unfinished { claim: nobody, ..unfinished.clone() };
        assert_eq!(judge(&nobody, &empty(), false), Verdict::Leave, "whose it is cannot be asked");

        let mut records = empty();
        records.see_claim(&fixtures::claim_object(json!({})));
        assert_eq!(judge(&unfinished, &records, false), Verdict::Leave, "its claim waits");

        let mut records = empty();
        records.see_volume(&fixtures::volume_object(json!({"status": {"phase": "Bound"}})));
        assert_eq!(judge(&unfinished, &records, false), Verdict::Confirm, "it has a PV");

        let mut records = empty();
        records.see_volume(&fixtures::volume_object(json!({"spec": {"claimRef": {"uid": "other"}}})));
        assert_eq!(judge(&unfinished, &records, false), Verdict::Suspect, "the PV is of another claim");
    }
}
