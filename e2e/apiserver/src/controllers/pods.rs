//! Stands in for the kubelet: bound pods run once their claims are bound, and end at once when they are deleted.
//!
//! Entry point: [`Pods`]. Deliberately not here: containers, volumes, probes.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Controller, Key, protection::claims_of};
use crate::{
    object::{self, key_of, text},
    registry::{Registry, set_condition},
    resource::Kind,
    rules::update::Part,
    store::{Change, Verb},
};

pub(crate) struct Pods;

/// The pods of a namespace that mount a claim.
pub(crate) fn users_of(registry: &Registry, claim: &object::Object) -> Vec<Key> {
    registry
        .store
        .snapshot(Kind::Pod)
        .range(claim.namespace(), None)
        .filter(|pod| pod.json.contains(claim.name()) && claims_of(&pod.parse()).contains(&claim.name()))
        .map(|pod| (Kind::Pod, Arc::clone(&pod.key)))
        .collect()
}

/// Whether all claims of a pod are bound.
pub(crate) fn claims_are_bound(registry: &Registry, namespace: &str, pod: &Value) -> bool {
    claims_of(pod).iter().all(|claim| {
        registry
            .store
            .get(Kind::PersistentVolumeClaim, &key_of(namespace, claim))
            .is_some_and(|claim| text(&claim.parse(), "/status/phase") == "Bound")
    })
}

impl Controller for Pods {
    fn watches(&self) -> Vec<Kind> {
        vec![Kind::Pod, Kind::PersistentVolumeClaim]
    }

    fn note(&mut self, registry: &Registry, kind: Kind, change: &Change, work: &mut Vec<Key>) {
        if kind == Kind::PersistentVolumeClaim {
            work.extend(users_of(registry, &change.object));
        } else if change.verb != Verb::Deleted {
            work.push((Kind::Pod, Arc::clone(&change.object.key)));
        }
    }

    fn reconcile(&mut self, registry: &Registry, (_, key): &Key) {
        let Some(object) = registry.store.get(Kind::Pod, key) else { return };
        let pod = object.parse();
        if object::is_terminating(&pod) {
            registry.finish(Kind::Pod, key);
            return;
        }
        let waits = !text(&pod, "/spec/nodeName").is_empty() && text(&pod, "/status/phase") == "Pending";
        if !waits || !claims_are_bound(registry, object.namespace(), &pod) {
            return;
        }
        registry.edit(Kind::Pod, key, Part::Status, "kubelet", |pod| {
            let now = object::now();
            let containers: Vec<Value> = pod
                .pointer("/spec/containers")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .map(|container| {
                    let image = text(container, "/image");
                    json!({
                        "name": text(container, "/name"),
                        "image": image,
                        "imageID": image,
                        "containerID": format!("stand-in://{}", object::new_uid()),
                        "ready": true,
                        "started": true,
                        "restartCount": 0,
                        "state": {"running": {"startedAt": now}},
                        "lastState": {},
                    })
                })
                .collect();
            for kind in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady"] {
                set_condition(pod, kind, "True", "", "");
            }
            let ip = format!("10.244.0.{}", rand::random_range(2..255));
            let status = object::child(pod, "status");
            status.insert("phase".into(), json!("Running"));
            status.insert("startTime".into(), json!(now));
            status.insert("hostIP".into(), json!("127.0.0.1"));
            status.insert("podIP".into(), json!(ip));
            status.insert("podIPs".into(), json!([{"ip": ip}]));
            status.insert("containerStatuses".into(), json!(containers));
            true
        });
    }
}
