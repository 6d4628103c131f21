//! Takes the protection finalizers off claims and volumes that nothing uses.
//!
//! Entry point: [`Protection`]. Deliberately not here: putting them on, which is admission.

use std::sync::Arc;

use serde_json::Value;

use super::{Controller, Key};
use crate::{
    object::{self, key_of, text},
    registry::Registry,
    resource::Kind,
    rules::update::Part,
    store::{Change, Verb},
};

const MANAGER: &str = "kube-controller-manager";
const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

pub(crate) struct Protection;

/// The claims that a pod mounts.
pub(crate) fn claims_of(pod: &Value) -> Vec<&str> {
    pod.pointer("/spec/volumes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|volume| text(volume, "/persistentVolumeClaim/claimName"))
        .filter(|name| !name.is_empty())
        .collect()
}

fn is_used(registry: &Registry, namespace: &str, claim: &str) -> bool {
    registry.store.snapshot(Kind::Pod).range(namespace, None).any(|object| {
        let pod = object.parse();
        let ended = matches!(text(&pod, "/status/phase"), "Succeeded" | "Failed");
        !ended && !text(&pod, "/spec/nodeName").is_empty() && claims_of(&pod).contains(&claim)
    })
}

impl Controller for Protection {
    fn watches(&self) -> Vec<Kind> {
        vec![Kind::PersistentVolumeClaim, Kind::PersistentVolume, Kind::Pod]
    }

    fn note(&mut self, _: &Registry, kind: Kind, change: &Change, work: &mut Vec<Key>) {
        if kind == Kind::Pod {
            let pod = change.object.parse();
            for claim in claims_of(&pod) {
                let key: Arc<str> = key_of(change.object.namespace(), claim).into();
                work.push((Kind::PersistentVolumeClaim, key));
            }
        } else if change.verb != Verb::Deleted && change.object.json.contains("\"deletionTimestamp\"") {
            work.push((kind, Arc::clone(&change.object.key)));
        }
    }

    fn reconcile(&mut self, registry: &Registry, (kind, key): &Key) {
        let Some(object) = registry.store.get(*kind, key) else { return };
        let value = object.parse();
        let (finalizer, used) = match kind {
            Kind::PersistentVolumeClaim => (
                CLAIM_FINALIZER,
                object::is_terminating(&value) && is_used(registry, object.namespace(), object.name()),
            ),
            _ => (VOLUME_FINALIZER, text(&value, "/status/phase") == "Bound"),
        };
        if used || !object::is_terminating(&value) || !object::finalizers(&value).contains(&finalizer) {
            return;
        }
        registry.edit(*kind, key, Part::Main, MANAGER, |value| {
            object::remove_finalizer(value, finalizer);
            true
        });
    }
}
