//! Changes to the object of a volume in the API: [`delete`], once its data is out of the way, and `patch`, for the finalizer.
//!
//! Whatever they do, they do to the object that was looked at, or not at all. The API server accepts the rescue of a volume at
//! any moment; one that it accepted before our request shows here as [`Deletion::Changed`].

use serde_json::{Value, json};

use crate::{
    provisioner::{
        cluster::{Cause, Failure},
        context::Context,
        names,
        objects::{VolumeObject, annotation},
        volume_state::VolumeState,
    },
    volume::Permit,
};

/// How the deletion of an object went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deletion {
    /// It is gone, or held by finalizers that are not ours.
    Done,
    /// It is not what was looked at any more, and is still there.
    Changed,
    /// The right to change anything has ended.
    Stopped,
}

/// Deletes the object of a volume whose data was moved out of the way, as it was read: unless it was changed since.
///
/// First the object is marked as deleted, then our finalizer is taken off. In between it can still be rescued, too.
pub(super) async fn delete(
    ctx: &Context,
    live: &VolumeObject,
    state: VolumeState,
    uses_finalizers: bool,
    permit: &Permit,
) -> Result<Deletion, Failure> {
    if permit.check().is_err() {
        return Ok(Deletion::Stopped);
    }
    let held = if live.metadata.deletion_timestamp.is_none() {
        let version = live.metadata.resource_version.as_deref().unwrap_or_default();
        match ctx.cluster.delete_volume(live.name(), live.uid(), version).await {
            // Finalizers may have been put on it after it was read; nothing adds one to what is being deleted.
            Ok(held) => held,
            Err(failure) if failure.cause == Cause::Conflict => return Ok(Deletion::Changed),
            Err(failure) => return Err(failure),
        }
    } else {
        live.metadata.finalizers.clone().unwrap_or_default()
    };
    let release = release(live, state, &held);
    let Some(release) = release.filter(|_| uses_finalizers) else { return Ok(Deletion::Done) };
    if permit.check().is_err() {
        return Ok(Deletion::Stopped);
    }
    match ctx.cluster.test_and_patch_volume(live.name(), &release).await {
        Ok(()) => Ok(Deletion::Done),
        Err(failure) if matches!(failure.cause, Cause::Conflict | Cause::Invalid) => Ok(Deletion::Changed),
        Err(failure) => Err(failure),
    }
}

/// The JSON patch that takes our finalizers off, of those that hold the object, if its removal is still asked for. It says
/// what was read rather than which version: Kubernetes takes its own finalizer off at the same time.
fn release(live: &VolumeObject, state: VolumeState, held: &[String]) -> Option<Value> {
    let ours = |finalizer: &str| {
        finalizer == names::FINALIZER || state.in_tree && finalizer == names::IN_TREE_FINALIZER
    };
    let test = |path: &str, value: &str| json!({"op": "test", "path": path, "value": value});
    let mut patch = vec![
        test("/metadata/uid", live.uid()),
        test("/spec/persistentVolumeReclaimPolicy", "Delete"),
        test("/status/phase", live.status.phase.as_deref().unwrap_or_default()),
    ];
    if let Some(claim) = &live.spec.claim_ref {
        patch.push(test("/spec/claimRef/uid", &claim.uid));
    }
    if let Some(disposal) = annotation(&live.metadata, names::ON_DELETE) {
        patch.push(test(&format!("/metadata/annotations/{}", names::ON_DELETE.replace('/', "~1")), disposal));
    }
    let before = patch.len();
    // The last one first: those before it keep their places.
    for (index, finalizer) in held.iter().enumerate().rev().filter(|(_, finalizer)| ours(finalizer)) {
        let path = format!("/metadata/finalizers/{index}");
        patch.push(test(&path, finalizer));
        patch.push(json!({"op": "remove", "path": path}));
    }
    (patch.len() > before).then_some(Value::Array(patch))
}

/// Takes our finalizer off, and no other, unless the object was changed since it was read.
pub(super) fn remove_finalizer_patch(live: &VolumeObject) -> Value {
    json!({"metadata": {
        "uid": live.metadata.uid, "resourceVersion": live.metadata.resource_version,
        "$deleteFromPrimitiveList/finalizers": [names::FINALIZER],
    }})
}

/// Puts our finalizer on the object with this UID, beside the others.
pub(super) fn add_finalizer_patch(live: &VolumeObject) -> Value {
    json!({"metadata": {"uid": live.metadata.uid, "finalizers": [names::FINALIZER]}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provisioner::{
        fixtures,
        volume_state::{Held, Phase, Policy},
    };

    #[test]
    fn our_finalizers_are_taken_off_what_is_still_to_be_removed_and_no_other_is() {
        let state = |in_tree| VolumeState {
            ours: true,
            phase: Phase::Released,
            policy: Policy::Delete,
            deleting: true,
            held: Held::ByUs,
            in_tree,
        };
        let object = json!({
            "metadata": {
                "uid": "volume-1", "annotations": {"berth.storage/on-delete": "delete"},
                "finalizers": [names::IN_TREE_FINALIZER, "kubernetes.io/pv-protection", names::FINALIZER],
            },
            "spec": {
                "persistentVolumeReclaimPolicy": "Delete",
                "claimRef": {"namespace": "default", "name": "data", "uid": "0b6f-11"},
            },
            "status": {"phase": "Released"},
        });
        let live = fixtures::volume_object(object.clone());
        let held: Vec<String> = serde_json::from_value(object["metadata"]["finalizers"].clone()).unwrap();
        let apply = |object: &Value, in_tree| {
            let patch = release(&live, state(in_tree), &held).unwrap();
            let patch: json_patch::Patch = serde_json::from_value(patch).unwrap();
            let mut object = object.clone();
            json_patch::patch(&mut object, &patch).map(|()| object["metadata"]["finalizers"].clone())
        };
        assert_eq!(
            apply(&object, false).unwrap(),
            json!([names::IN_TREE_FINALIZER, "kubernetes.io/pv-protection"])
        );
        assert_eq!(apply(&object, true).unwrap(), json!(["kubernetes.io/pv-protection"]));
        let rescues = [
            ("the policy", json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}})),
            ("the claim", json!({"spec": {"claimRef": {"uid": "another"}}})),
            ("the phase", json!({"status": {"phase": "Bound"}})),
            (
                "what shall become of it",
                json!({"metadata": {"annotations": {"berth.storage/on-delete": "retain"}}}),
            ),
            ("the object", json!({"metadata": {"uid": "another"}})),
        ];
        for (row, change) in rescues {
            let mut changed = object.clone();
            fixtures::merge(&mut changed, &change);
            assert!(apply(&changed, false).is_err(), "{row} was changed");
        }
        assert_eq!(release(&live, state(false), &["kubernetes.io/pv-protection".to_owned()]), None);
        assert_eq!(release(&live, state(false), &[]), None);
    }
}
