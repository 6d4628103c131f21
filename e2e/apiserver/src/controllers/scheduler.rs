//! Stands in for the scheduler: one ready node, chosen for late-binding claims and then for their pods.
//!
//! Entry points: [`Scheduler`], [`add_node`]. A claim from which the choice was taken away is given it again.
//! Deliberately not here: resources, affinity, taints.

use std::sync::Arc;

use serde_json::json;

use super::{Controller, Key, events, matching, pods, protection::claims_of, volumes::SELECTED_NODE};
use crate::{
    object::{self, key_of, text},
    registry::{Registry, set_condition},
    resource::Kind,
    rules::update::Part,
    store::{Change, Verb},
};

const NAME: &str = "default-scheduler";
const MANAGER: &str = "kube-scheduler";

/// The node that is made.
pub(crate) const NODE: &str = "node-1";

pub(crate) struct Scheduler;

/// Makes the node.
pub(crate) fn add_node(registry: &Registry) {
    let now = object::now();
    let capacity = json!({"cpu": "8", "memory": "32Gi", "pods": "10k", "ephemeral-storage": "1Ti"});
    let node = json!({
        "metadata": {"name": NODE, "labels": {
            "kubernetes.io/hostname": NODE,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
        }},
        "spec": {},
        "status": {
            "capacity": capacity,
            "allocatable": capacity,
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": NODE}],
            "conditions": [{
                "type": "Ready",
                "status": "True",
                "reason": "KubeletReady",
                "message": "kubelet is posting ready status",
                "lastHeartbeatTime": now,
                "lastTransitionTime": now,
            }],
            "nodeInfo": {
                "kubeletVersion": "v1.37.0", "kubeProxyVersion": "", "containerRuntimeVersion": "stand-in://1",
                "osImage": "stand-in", "kernelVersion": "0", "operatingSystem": "linux", "architecture": "amd64",
                "machineID": "", "systemUUID": "", "bootID": "",
            },
        },
    });
    if let Err(status) = registry.insert(Kind::Node.resource(), node) {
        tracing::error!(%status, "the cluster has no node");
    }
}

impl Scheduler {
    /// Chooses the node for late-binding claims of a pod; answers what still keeps it from being bound.
    fn prepare_claims(registry: &Registry, namespace: &str, pod: &serde_json::Value) -> Option<String> {
        let mut waits = None;
        for name in claims_of(pod) {
            let key = key_of(namespace, name);
            let Some(claim) = registry.store.get(Kind::PersistentVolumeClaim, &key).map(|o| o.parse()) else {
                return Some(format!("persistentvolumeclaim \"{name}\" not found"));
            };
            if object::is_terminating(&claim) {
                return Some(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            if text(&claim, "/status/phase") == "Bound" {
                continue;
            }
            let late = registry
                .store
                .get(Kind::StorageClass, matching::class_of(&claim))
                .is_some_and(|class| text(&class.parse(), "/volumeBindingMode") == "WaitForFirstConsumer");
            if !late {
                waits = Some("pod has unbound immediate PersistentVolumeClaims".to_owned());
                continue;
            }
            waits.get_or_insert_with(|| "waiting for volumes to be provisioned".to_owned());
            if object::annotation(&claim, SELECTED_NODE).is_none_or(str::is_empty) {
                registry.edit(Kind::PersistentVolumeClaim, &key, Part::Main, MANAGER, |claim| {
                    object::set_annotation(claim, SELECTED_NODE, NODE);
                    true
                });
            }
        }
        waits
    }
}

impl Controller for Scheduler {
    fn watches(&self) -> Vec<Kind> {
        vec![Kind::Pod, Kind::PersistentVolumeClaim, Kind::StorageClass]
    }

    fn note(&mut self, registry: &Registry, kind: Kind, change: &Change, work: &mut Vec<Key>) {
        match kind {
            Kind::PersistentVolumeClaim => work.extend(pods::users_of(registry, &change.object)),
            Kind::StorageClass => {
                let pods = registry.store.snapshot(Kind::Pod);
                work.extend(pods.range("", None).map(|pod| (Kind::Pod, Arc::clone(&pod.key))));
            }
            _ if change.verb != Verb::Deleted => work.push((Kind::Pod, Arc::clone(&change.object.key))),
            _ => {}
        }
    }

    fn reconcile(&mut self, registry: &Registry, (_, key): &Key) {
        let Some(object) = registry.store.get(Kind::Pod, key) else { return };
        let pod = object.parse();
        let ours = text(&pod, "/spec/schedulerName") == NAME;
        if !ours || object::is_terminating(&pod) || !text(&pod, "/spec/nodeName").is_empty() {
            return;
        }
        if let Some(why) = Self::prepare_claims(registry, object.namespace(), &pod) {
            if why != "waiting for volumes to be provisioned" {
                let message = format!("0/1 nodes are available: {why}.");
                registry.edit(Kind::Pod, key, Part::Status, MANAGER, |pod| {
                    set_condition(pod, "PodScheduled", "False", "Unschedulable", &message)
                });
            }
            return;
        }
        registry.edit(Kind::Pod, key, Part::Main, MANAGER, |pod| {
            if !text(pod, "/spec/nodeName").is_empty() {
                return false;
            }
            object::child(pod, "spec").insert("nodeName".into(), json!(NODE));
            true
        });
        registry.edit(Kind::Pod, key, Part::Status, MANAGER, |pod| {
            set_condition(pod, "PodScheduled", "True", "", "")
        });
        let message = format!("Successfully assigned {key} to {NODE}");
        events::emit(registry, NAME, Kind::Pod, &pod, "Normal", "Scheduled", &message);
    }
}
