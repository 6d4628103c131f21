//! Stands in for the `StatefulSet` controller: claims from templates, pods in order, scaling, retention of claims.
//!
//! Entry point: [`StatefulSets`]. Deliberately not here: partitions of a rolling update, revisions as objects.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Controller, Key};
use crate::{
    object::{self, key_of, text},
    registry::{DeleteOptions, Registry, WriteOptions},
    resource::Kind,
    rules::update::Part,
    store::{Change, Verb},
};

const MANAGER: &str = "kube-controller-manager";

pub(crate) struct StatefulSets;

/// One set with what its reconciliation needs again and again.
struct Set<'a> {
    registry: &'a Registry,
    value: Value,
    namespace: String,
    name: String,
    revision: String,
}

fn owner(kind: Kind, value: &Value, controller: bool) -> Value {
    let resource = kind.resource();
    let mut reference = json!({
        "apiVersion": resource.api_version(),
        "kind": resource.kind,
        "name": object::name(value),
        "uid": object::uid(value),
    });
    if controller && let Some(reference) = reference.as_object_mut() {
        reference.insert("controller".into(), json!(true));
        reference.insert("blockOwnerDeletion".into(), json!(true));
    }
    reference
}

/// A short text that changes with the template.
fn revision_of(name: &str, template: &Value) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in template.to_string().bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{name}-{:010x}", hash & 0xff_ffff_ffff)
}

impl Set<'_> {
    fn replicas(&self) -> u64 {
        self.value.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1)
    }

    fn first(&self) -> u64 {
        self.value.pointer("/spec/ordinals/start").and_then(Value::as_u64).unwrap_or(0)
    }

    fn parallel(&self) -> bool {
        text(&self.value, "/spec/podManagementPolicy") == "Parallel"
    }

    fn templates(&self) -> Vec<&Value> {
        self.value
            .pointer("/spec/volumeClaimTemplates")
            .and_then(Value::as_array)
            .map(|list| list.iter().collect())
            .unwrap_or_default()
    }

    fn pod_name(&self, ordinal: u64) -> String {
        format!("{}-{ordinal}", self.name)
    }

    fn claim_name(&self, template: &Value, ordinal: u64) -> String {
        format!("{}-{}-{ordinal}", object::name(template), self.name)
    }

    fn pod(&self, ordinal: u64) -> Option<Value> {
        self.registry
            .store
            .get(Kind::Pod, &key_of(&self.namespace, &self.pod_name(ordinal)))
            .map(|o| o.parse())
    }

    /// The pods of the set, by ordinal.
    fn pods(&self) -> Vec<(u64, Value)> {
        let uid = object::uid(&self.value);
        let prefix = format!("{}-", self.name);
        let mut pods: Vec<(u64, Value)> = self
            .registry
            .store
            .snapshot(Kind::Pod)
            .range(&self.namespace, None)
            .filter_map(|object| {
                let ordinal = object.name().strip_prefix(&prefix)?.parse().ok()?;
                let pod = object.parse();
                (text(&pod, "/metadata/ownerReferences/0/uid") == uid).then_some((ordinal, pod))
            })
            .collect();
        pods.sort_by_key(|(ordinal, _)| *ordinal);
        pods
    }

    fn make_claims(&self, ordinal: u64) {
        for template in self.templates() {
            let name = self.claim_name(template, ordinal);
            let key = key_of(&self.namespace, &name);
            if self.registry.store.get(Kind::PersistentVolumeClaim, &key).is_some() {
                continue;
            }
            let mut labels =
                template.pointer("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default();
            for (label, value) in self
                .value
                .pointer("/spec/selector/matchLabels")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
            {
                labels.insert(label.clone(), value.clone());
            }
            let mut claim =
                json!({"metadata": {"name": name, "labels": labels}, "spec": template.get("spec")});
            if let Some(annotations) = template.pointer("/metadata/annotations") {
                object::metadata(&mut claim).insert("annotations".into(), annotations.clone());
            }
            self.create(Kind::PersistentVolumeClaim, claim);
        }
    }

    fn create(&self, kind: Kind, value: Value) {
        let options = WriteOptions::of(MANAGER);
        if let Err(status) = self.registry.create(kind.resource(), &self.namespace, value, &options) {
            tracing::debug!(%status, set = self.name, "not created");
        }
    }

    fn make_pod(&self, ordinal: u64) {
        let name = self.pod_name(ordinal);
        let template = self.value.pointer("/spec/template").cloned().unwrap_or_default();
        let mut pod = json!({"metadata": template.get("metadata"), "spec": template.get("spec")});
        let metadata = object::metadata(&mut pod);
        metadata.insert("name".into(), json!(name));
        metadata.insert("ownerReferences".into(), json!([owner(Kind::StatefulSet, &self.value, true)]));
        let labels = object::child_of_map(metadata, "labels");
        labels.insert("statefulset.kubernetes.io/pod-name".into(), json!(name));
        labels.insert("apps.kubernetes.io/pod-index".into(), json!(ordinal.to_string()));
        labels.insert("controller-revision-hash".into(), json!(self.revision));
        let spec = object::child(&mut pod, "spec");
        spec.insert("hostname".into(), json!(name));
        if let Some(service) = self.value.pointer("/spec/serviceName") {
            spec.insert("subdomain".into(), service.clone());
        }
        let mut volumes: Vec<Value> = self
            .templates()
            .into_iter()
            .map(|template| {
                json!({"name": object::name(template),
                    "persistentVolumeClaim": {"claimName": self.claim_name(template, ordinal)}})
            })
            .collect();
        let own: Vec<Value> = spec.get("volumes").and_then(Value::as_array).cloned().unwrap_or_default();
        let names: Vec<String> = volumes.iter().map(|v| object::text(v, "/name").to_owned()).collect();
        volumes.extend(own.into_iter().filter(|v| !names.iter().any(|n| n == text(v, "/name"))));
        spec.insert("volumes".into(), json!(volumes));
        self.create(Kind::Pod, pod);
    }

    fn delete_pod(&self, pod: &Value) {
        let options = DeleteOptions { uid: Some(object::uid(pod).to_owned()), ..DeleteOptions::default() };
        let _ = self.registry.delete(Kind::Pod.resource(), &self.namespace, object::name(pod), &options);
    }

    /// The owners that a claim has by the retention policy.
    fn retain_claims(&self, ordinal: u64) {
        let policy =
            |when: &str| text(&self.value, &format!("/spec/persistentVolumeClaimRetentionPolicy/{when}"));
        let condemned = !(self.first()..self.first() + self.replicas()).contains(&ordinal);
        let pod = self.pod(ordinal);
        let wanted = match (policy("whenScaled") == "Delete" && condemned, policy("whenDeleted") == "Delete")
        {
            (true, _) => pod.as_ref().map(|pod| owner(Kind::Pod, pod, false)),
            (false, true) => Some(owner(Kind::StatefulSet, &self.value, true)),
            (false, false) => None,
        };
        for template in self.templates() {
            let key = key_of(&self.namespace, &self.claim_name(template, ordinal));
            self.registry.edit(Kind::PersistentVolumeClaim, &key, Part::Main, MANAGER, |claim| {
                let mut list: Vec<Value> = claim
                    .pointer("/metadata/ownerReferences")
                    .and_then(Value::as_array)
                    .cloned()
                    .unwrap_or_default();
                let before = list.clone();
                let pod_name = self.pod_name(ordinal);
                list.retain(|reference| {
                    let ours = text(reference, "/uid") == object::uid(&self.value)
                        || (text(reference, "/kind") == "Pod" && text(reference, "/name") == pod_name);
                    !ours
                });
                // A condemned pod that is gone leaves its claims to the garbage collector.
                if condemned && pod.is_none() && wanted.is_none() && policy("whenScaled") == "Delete" {
                    return false;
                }
                list.extend(wanted.clone());
                let changed = list != before;
                object::metadata(claim).insert("ownerReferences".into(), json!(list));
                changed
            });
        }
    }

    fn reconcile(&self) {
        let wanted = self.first()..self.first() + self.replicas();
        let pods = self.pods();
        let condemned: Vec<&(u64, Value)> =
            pods.iter().filter(|(ordinal, _)| !wanted.contains(ordinal)).rev().collect();
        for ordinal in wanted.clone() {
            // A claim on its way out would take the pod's data with it: the pod waits for a new one.
            self.make_claims(ordinal);
            self.retain_claims(ordinal);
            match self.pod(ordinal) {
                None => self.make_pod(ordinal),
                Some(pod) if matches!(text(&pod, "/status/phase"), "Failed" | "Succeeded") => {
                    self.delete_pod(&pod);
                }
                Some(_) => {}
            }
            let ready = self.pod(ordinal).is_some_and(|pod| is_ready(&pod));
            if !ready && !self.parallel() {
                return;
            }
        }
        for (ordinal, pod) in condemned {
            self.retain_claims(*ordinal);
            if !object::is_terminating(pod) {
                self.delete_pod(pod);
            }
            if !self.parallel() {
                return;
            }
        }
        if text(&self.value, "/spec/updateStrategy/type") == "OnDelete" {
            return;
        }
        let outdated = self.pods().into_iter().rev().find(|(_, pod)| {
            pod.pointer("/metadata/labels/controller-revision-hash") != Some(&json!(self.revision))
        });
        if let Some((_, pod)) = outdated
            && !object::is_terminating(&pod)
        {
            self.delete_pod(&pod);
        }
    }

    fn report(&self) {
        let pods = self.pods();
        let count = |test: &dyn Fn(&Value) -> bool| pods.iter().filter(|(_, pod)| test(pod)).count();
        let ready = count(&is_ready);
        let current = count(&|pod| {
            pod.pointer("/metadata/labels/controller-revision-hash") == Some(&json!(self.revision))
        });
        let mut status = Map::new();
        for (field, value) in [
            ("observedGeneration", self.value.pointer("/metadata/generation").cloned().unwrap_or_default()),
            ("replicas", json!(pods.len())),
            ("readyReplicas", json!(ready)),
            ("availableReplicas", json!(ready)),
            ("currentReplicas", json!(current)),
            ("updatedReplicas", json!(current)),
            ("currentRevision", json!(self.revision)),
            ("updateRevision", json!(self.revision)),
            ("collisionCount", json!(0)),
        ] {
            status.insert(field.into(), value);
        }
        let key = key_of(&self.namespace, &self.name);
        self.registry.edit(Kind::StatefulSet, &key, Part::Status, MANAGER, |set| {
            let changed = set.get("status") != Some(&Value::Object(status.clone()));
            if let Some(set) = set.as_object_mut() {
                set.insert("status".into(), Value::Object(status.clone()));
            }
            changed
        });
    }
}

fn is_ready(pod: &Value) -> bool {
    !object::is_terminating(pod)
        && text(pod, "/status/phase") == "Running"
        && pod
            .pointer("/status/conditions")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .any(|c| text(c, "/type") == "Ready" && text(c, "/status") == "True")
}

impl Controller for StatefulSets {
    fn watches(&self) -> Vec<Kind> {
        vec![Kind::StatefulSet, Kind::Pod, Kind::PersistentVolumeClaim]
    }

    fn note(&mut self, registry: &Registry, kind: Kind, change: &Change, work: &mut Vec<Key>) {
        match kind {
            Kind::StatefulSet if change.verb != Verb::Deleted => {
                work.push((kind, Arc::clone(&change.object.key)));
            }
            Kind::Pod if change.object.json.contains("\"StatefulSet\"") => {
                let pod = change.object.parse();
                let set = key_of(change.object.namespace(), text(&pod, "/metadata/ownerReferences/0/name"));
                work.push((Kind::StatefulSet, set.into()));
            }
            // A claim that is gone may have to be made again.
            Kind::PersistentVolumeClaim if change.verb == Verb::Deleted => {
                let sets = registry.store.snapshot(Kind::StatefulSet);
                let namespace = change.object.namespace();
                work.extend(sets.range(namespace, None).map(|set| (Kind::StatefulSet, Arc::clone(&set.key))));
            }
            _ => {}
        }
    }

    fn reconcile(&mut self, registry: &Registry, (_, key): &Key) {
        let Some(object) = registry.store.get(Kind::StatefulSet, key) else { return };
        let value = object.parse();
        if object::is_terminating(&value) {
            return;
        }
        let template = value.pointer("/spec/template").cloned().unwrap_or_default();
        let set = Set {
            registry,
            namespace: object.namespace().to_owned(),
            name: object.name().to_owned(),
            revision: revision_of(object.name(), &template),
            value,
        };
        set.reconcile();
        set.report();
    }
}
