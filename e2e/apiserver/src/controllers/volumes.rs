//! The persistent volume controller: binding, release, and the hand-over to an external provisioner.
//!
//! Entry point: [`Volumes`]. Writes are those of kube-controller-manager in its order: volume, volume status, claim,
//! claim status. Deliberately not here: deleting what lies behind a volume; there are no in-tree deleters.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{
    Controller, Key, events,
    glance::{Glance, settled},
    matching,
};
use crate::{
    object::{self, Object, key_of, text},
    registry::Registry,
    resource::Kind,
    rules::{update::Part, validation::BETA_CLASS},
    store::{Change, Verb},
};

const MANAGER: &str = "kube-controller-manager";
const COMPONENT: &str = "persistentvolume-controller";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const PROVISIONER_BETA: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// Written by the scheduler on claims that wait for their first consumer.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// Binds volumes to claims and asks external provisioners for those that find none.
pub(crate) struct Volumes {
    bind: bool,
    annotate: bool,
    /// Volumes by the claim (namespace/name) that they name.
    by_claim: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    claim_of: HashMap<Arc<str>, Arc<str>>,
    /// Volumes that name no claim, by class.
    free: BTreeMap<String, BTreeSet<Arc<str>>>,
    /// Claims by class, as long as they are not bound.
    waiting: HashMap<String, HashSet<Arc<str>>>,
    /// The reasons of the events about a claim, by its UID.
    said: HashMap<String, Vec<&'static str>>,
}

impl Volumes {
    pub(crate) fn new(bind: bool, annotate: bool) -> Self {
        Self {
            bind,
            annotate,
            by_claim: HashMap::new(),
            claim_of: HashMap::new(),
            free: BTreeMap::new(),
            waiting: HashMap::new(),
            said: HashMap::new(),
        }
    }

    fn say(
        &mut self,
        registry: &Registry,
        claim: &Value,
        severity: &str,
        reason: &'static str,
        message: &str,
    ) {
        let said = self.said.entry(object::uid(claim).to_owned()).or_default();
        if !said.contains(&reason) {
            said.push(reason);
            events::emit(registry, COMPONENT, Kind::PersistentVolumeClaim, claim, severity, reason, message);
        }
    }

    fn note_volume(&mut self, change: &Change, work: &mut Vec<Key>) {
        let name = Arc::clone(&change.object.key);
        if let Some(claim) = self.claim_of.remove(&name) {
            if let Some(volumes) = self.by_claim.get_mut(&claim) {
                volumes.remove(&name);
                if volumes.is_empty() {
                    self.by_claim.remove(&claim);
                }
            }
            work.push((Kind::PersistentVolumeClaim, claim));
        }
        // The class of a volume may change, so it is looked for under each; there are few.
        self.free.retain(|_, volumes| {
            volumes.remove(&name);
            !volumes.is_empty()
        });
        if change.verb == Verb::Deleted {
            return;
        }
        let volume = Glance::at(&change.object);
        if let Some((namespace, claim_name)) = volume.claim() {
            let claim: Arc<str> = key_of(namespace, claim_name).into();
            self.by_claim.entry(Arc::clone(&claim)).or_default().insert(Arc::clone(&name));
            self.claim_of.insert(Arc::clone(&name), Arc::clone(&claim));
            work.push((Kind::PersistentVolumeClaim, claim));
        } else {
            let class = volume.class();
            self.free.entry(class.to_owned()).or_default().insert(Arc::clone(&name));
            for claim in self.waiting.get(class).into_iter().flatten() {
                work.push((Kind::PersistentVolumeClaim, Arc::clone(claim)));
            }
        }
        work.push((Kind::PersistentVolume, name));
    }

    fn note_claim(&mut self, change: &Change, work: &mut Vec<Key>) {
        let key = &change.object.key;
        for volume in self.by_claim.get(key).into_iter().flatten() {
            work.push((Kind::PersistentVolume, Arc::clone(volume)));
        }
        for object in [change.before.as_ref(), Some(&change.object)].into_iter().flatten() {
            if let Some(claims) = self.waiting.get_mut(Glance::at(object).class()) {
                claims.remove(key);
            }
        }
        let claim = Glance::at(&change.object);
        if change.verb != Verb::Deleted && claim.phase() != "Bound" {
            self.waiting.entry(claim.class().to_owned()).or_default().insert(Arc::clone(key));
        }
        if !claim.volume().is_empty() {
            work.push((Kind::PersistentVolume, claim.volume().into()));
        }
        if change.verb == Verb::Deleted {
            self.said.remove(claim.uid());
        } else {
            work.push((Kind::PersistentVolumeClaim, Arc::clone(key)));
        }
    }

    /// Whether nothing is to be done about a claim, or a volume, because the pair is bound.
    fn is_settled(registry: &Registry, kind: Kind, key: &str) -> bool {
        let Some(object) = registry.store.get(kind, key) else { return false };
        let glance = Glance::at(&object);
        if kind == Kind::PersistentVolume {
            glance
                .claim()
                .and_then(|(namespace, name)| {
                    registry.store.get(Kind::PersistentVolumeClaim, &key_of(namespace, name))
                })
                .is_some_and(|claim| settled(&claim, &object))
        } else {
            registry
                .store
                .get(Kind::PersistentVolume, glance.volume())
                .is_some_and(|volume| settled(&object, &volume))
        }
    }

    fn sync_claim(&mut self, registry: &Registry, key: &str) {
        let Some(claim) = registry.store.get(Kind::PersistentVolumeClaim, key).map(|o| o.parse()) else {
            return;
        };
        if object::annotation(&claim, BIND_COMPLETED).is_some() {
            self.sync_bound_claim(registry, key, &claim);
            return;
        }
        let wanted = text(&claim, "/spec/volumeName");
        if !wanted.is_empty() {
            let Some(volume) = registry.store.get(Kind::PersistentVolume, wanted).map(|o| o.parse()) else {
                return;
            };
            if names(&volume, &claim) || volume.pointer("/spec/claimRef").is_none() {
                self.bind(registry, &claim, &volume);
            } else {
                let message = format!("volume \"{wanted}\" already bound to a different claim.");
                self.say(registry, &claim, "Warning", "FailedBinding", &message);
            }
            return;
        }
        if !self.assign_default_class(registry, key, &claim) {
            return;
        }
        let class = class_of_claim(registry, &claim);
        let late = class.as_ref().is_some_and(|c| text(c, "/volumeBindingMode") == "WaitForFirstConsumer")
            && object::annotation(&claim, SELECTED_NODE).is_none_or(str::is_empty);
        if let Some(volume) = self.find_volume(registry, key, &claim, late) {
            self.bind(registry, &claim, &volume);
            return;
        }
        if late {
            let message = "waiting for first consumer to be created before binding";
            self.say(registry, &claim, "Normal", "WaitForFirstConsumer", message);
            return;
        }
        self.hand_over(registry, key, &claim, class.as_ref());
    }

    /// Fills in a class that became the default after the claim was made; `false` when that was a write.
    fn assign_default_class(&self, registry: &Registry, key: &str, claim: &Value) -> bool {
        let unset = claim.pointer("/spec/storageClassName").is_none()
            && object::annotation(claim, BETA_CLASS).is_none();
        let Some(class) = unset.then(|| registry.default_class()).flatten() else { return true };
        if !self.annotate {
            return true;
        }
        registry.edit(Kind::PersistentVolumeClaim, key, Part::Main, MANAGER, |claim| {
            object::child(claim, "spec").insert("storageClassName".into(), json!(class));
            true
        });
        false
    }

    fn find_volume(&self, registry: &Registry, key: &str, claim: &Value, late: bool) -> Option<Value> {
        if !self.bind {
            return None;
        }
        let read = |name: &Arc<str>| registry.store.get(Kind::PersistentVolume, name).map(|o| o.parse());
        let own = self
            .by_claim
            .get(key)
            .into_iter()
            .flatten()
            .filter_map(read)
            .find(|volume| names(volume, claim) && matching::satisfies(claim, volume));
        if own.is_some() || late {
            return own;
        }
        let free: Vec<Value> =
            self.free.get(matching::class_of(claim)).into_iter().flatten().filter_map(read).collect();
        matching::best(claim, free.iter()).cloned()
    }

    fn hand_over(&mut self, registry: &Registry, key: &str, claim: &Value, class: Option<&Value>) {
        if !self.annotate {
            return;
        }
        let class_name = matching::class_of(claim);
        let Some(class) = class else {
            if class_name.is_empty() {
                let message = "no persistent volumes available for this claim and no storage class is set";
                self.say(registry, claim, "Normal", "FailedBinding", message);
            } else {
                let message = format!("storageclass.storage.k8s.io \"{class_name}\" not found");
                self.say(registry, claim, "Warning", "ProvisioningFailed", &message);
            }
            return;
        };
        let provisioner = text(class, "/provisioner");
        if provisioner == "kubernetes.io/no-provisioner" {
            let message = "no volume plugin matched name: kubernetes.io/no-provisioner";
            self.say(registry, claim, "Warning", "ProvisioningFailed", message);
            return;
        }
        let annotated = object::annotation(claim, PROVISIONER) == Some(provisioner)
            && object::annotation(claim, PROVISIONER_BETA) == Some(provisioner);
        if !annotated {
            registry.edit(Kind::PersistentVolumeClaim, key, Part::Main, MANAGER, |claim| {
                object::set_annotation(claim, PROVISIONER, provisioner);
                object::set_annotation(claim, PROVISIONER_BETA, provisioner);
                true
            });
        }
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
             system administrator. If volume creation is delayed, please verify that the provisioner is running and \
             correctly registered."
        );
        self.say(registry, claim, "Normal", "ExternalProvisioning", &message);
    }

    fn sync_bound_claim(&mut self, registry: &Registry, key: &str, claim: &Value) {
        let name = text(claim, "/spec/volumeName");
        let volume = registry.store.get(Kind::PersistentVolume, name).map(|o| o.parse());
        let message = match &volume {
            _ if name.is_empty() => {
                "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!"
            }
            None => "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
            Some(volume) if volume.pointer("/spec/claimRef").is_none() || names(volume, claim) => {
                self.bind(registry, claim, volume);
                return;
            }
            Some(_) => "Two claims are bound to the same volume, this one is bound incorrectly",
        };
        if !self.bind {
            return;
        }
        let misbound = volume.is_some();
        registry.edit(Kind::PersistentVolumeClaim, key, Part::Status, MANAGER, |claim| {
            object::child(claim, "status").insert("phase".into(), json!("Lost"));
            true
        });
        self.say(registry, claim, "Warning", if misbound { "ClaimMisbound" } else { "ClaimLost" }, message);
    }

    fn bind(&self, registry: &Registry, claim: &Value, volume: &Value) {
        if !self.bind {
            return;
        }
        let volume_name = object::name(volume);
        let claim_key = key_of(object::namespace(claim), object::name(claim));
        let mut taken = false;
        let bound = registry.edit(Kind::PersistentVolume, volume_name, Part::Main, MANAGER, |volume| {
            let before = volume.pointer("/spec/claimRef").cloned();
            taken = before.is_some() && !names(volume, claim);
            if taken || !text(volume, "/spec/claimRef/uid").is_empty() {
                return false;
            }
            let reference = json!({
                "kind": "PersistentVolumeClaim",
                "apiVersion": "v1",
                "namespace": object::namespace(claim),
                "name": object::name(claim),
                "uid": object::uid(claim),
                "resourceVersion": object::meta(claim, "resourceVersion"),
            });
            object::child(volume, "spec").insert("claimRef".into(), reference);
            if before.is_none() {
                object::set_annotation(volume, BOUND_BY_CONTROLLER, "yes");
            }
            true
        });
        let Some(bound) = bound else { return };
        if taken {
            return;
        }
        set_phase(registry, volume_name, "Bound", "");
        registry.edit(Kind::PersistentVolumeClaim, &claim_key, Part::Main, MANAGER, |live| {
            if object::uid(live) != object::uid(claim) {
                return false;
            }
            let mut changed = false;
            if text(live, "/spec/volumeName") != volume_name {
                object::child(live, "spec").insert("volumeName".into(), json!(volume_name));
                object::set_annotation(live, BOUND_BY_CONTROLLER, "yes");
                changed = true;
            }
            if object::annotation(live, BIND_COMPLETED).is_none() {
                object::set_annotation(live, BIND_COMPLETED, "yes");
                changed = true;
            }
            changed
        });
        let volume = bound.parse();
        registry.edit(Kind::PersistentVolumeClaim, &claim_key, Part::Status, MANAGER, |live| {
            if object::uid(live) != object::uid(claim) || text(live, "/status/phase") == "Bound" {
                return false;
            }
            let status = object::child(live, "status");
            status.insert("phase".into(), json!("Bound"));
            for (from, to) in [("/spec/accessModes", "accessModes"), ("/spec/capacity", "capacity")] {
                if let Some(value) = volume.pointer(from) {
                    status.insert(to.into(), value.clone());
                }
            }
            true
        });
    }

    fn sync_volume(&self, registry: &Registry, name: &str) {
        if !self.bind {
            return;
        }
        let Some(volume) = registry.store.get(Kind::PersistentVolume, name).map(|o| o.parse()) else {
            return;
        };
        if text(&volume, "/spec/claimRef/name").is_empty() || text(&volume, "/spec/claimRef/uid").is_empty() {
            if text(&volume, "/status/phase") != "Available" {
                // The change of the phase brings the claims that may choose it now.
                set_phase(registry, name, "Available", "");
            }
            return;
        }
        let claim_key =
            key_of(text(&volume, "/spec/claimRef/namespace"), text(&volume, "/spec/claimRef/name"));
        let claim = registry
            .store
            .get(Kind::PersistentVolumeClaim, &claim_key)
            .map(|o: Arc<Object>| o.parse())
            .filter(|claim| object::uid(claim) == text(&volume, "/spec/claimRef/uid"));
        let Some(claim) = claim else {
            release(registry, name, &volume);
            return;
        };
        let chosen = text(&claim, "/spec/volumeName");
        if chosen == name {
            set_phase(registry, name, "Bound", "");
        } else if !chosen.is_empty() {
            let dynamic = object::annotation(&volume, PROVISIONED_BY).is_some()
                && text(&volume, "/spec/persistentVolumeReclaimPolicy") == "Delete";
            if dynamic {
                release(registry, name, &volume);
            } else {
                unbind(registry, name);
            }
        }
    }
}

impl Controller for Volumes {
    fn watches(&self) -> Vec<Kind> {
        vec![Kind::PersistentVolume, Kind::PersistentVolumeClaim, Kind::StorageClass]
    }

    fn note(&mut self, _: &Registry, kind: Kind, change: &Change, work: &mut Vec<Key>) {
        match kind {
            Kind::PersistentVolume => self.note_volume(change, work),
            Kind::PersistentVolumeClaim => self.note_claim(change, work),
            _ => {
                // A class that appears concerns the claims that name it, or none if it is the default now.
                for class in [change.object.name(), ""] {
                    for claim in self.waiting.get(class).into_iter().flatten() {
                        work.push((Kind::PersistentVolumeClaim, Arc::clone(claim)));
                    }
                }
            }
        }
    }

    fn reconcile(&mut self, registry: &Registry, (kind, key): &Key) {
        if Self::is_settled(registry, *kind, key) {
            return;
        }
        match kind {
            Kind::PersistentVolume => self.sync_volume(registry, key),
            _ => self.sync_claim(registry, key),
        }
    }
}

/// Whether a volume names a claim, by UID if it has one.
fn names(volume: &Value, claim: &Value) -> bool {
    let uid = text(volume, "/spec/claimRef/uid");
    text(volume, "/spec/claimRef/name") == object::name(claim)
        && text(volume, "/spec/claimRef/namespace") == object::namespace(claim)
        && (uid.is_empty() || uid == object::uid(claim))
}

fn class_of_claim(registry: &Registry, claim: &Value) -> Option<Value> {
    let name = matching::class_of(claim);
    registry.store.get(Kind::StorageClass, name).map(|o| o.parse())
}

fn set_phase(registry: &Registry, volume: &str, phase: &str, message: &str) {
    registry.edit(Kind::PersistentVolume, volume, Part::Status, MANAGER, |volume| {
        if text(volume, "/status/phase") == phase && text(volume, "/status/message") == message {
            return false;
        }
        let status = object::child(volume, "status");
        status.insert("phase".into(), json!(phase));
        if message.is_empty() {
            status.remove("message");
        } else {
            status.insert("message".into(), json!(message));
        }
        true
    });
}

/// The claim of a volume is gone.
fn release(registry: &Registry, name: &str, volume: &Value) {
    let phase = text(volume, "/status/phase");
    if phase == "Failed" {
        return;
    }
    if phase != "Released" {
        set_phase(registry, name, "Released", "");
    }
    // Volumes of CSI drivers are left to those, whoever made them.
    let orphan = text(volume, "/spec/persistentVolumeReclaimPolicy") == "Delete"
        && object::annotation(volume, PROVISIONED_BY).is_none()
        && volume.pointer("/spec/csi").is_none();
    if orphan {
        let message = format!(
            "error getting deleter volume plugin for volume \"{name}\": no deletable volume plugin matched"
        );
        set_phase(registry, name, "Failed", &message);
        events::emit(
            registry,
            COMPONENT,
            Kind::PersistentVolume,
            volume,
            "Warning",
            "VolumeFailedDelete",
            &message,
        );
    }
}

/// Takes back a binding that the claim does not want.
fn unbind(registry: &Registry, name: &str) {
    registry.edit(Kind::PersistentVolume, name, Part::Main, MANAGER, |volume| {
        if object::annotation(volume, BOUND_BY_CONTROLLER).is_some() {
            object::child(volume, "spec").remove("claimRef");
            object::remove_annotation(volume, BOUND_BY_CONTROLLER);
        } else if let Some(reference) = volume.pointer_mut("/spec/claimRef").and_then(Value::as_object_mut) {
            reference.remove("uid");
        }
        true
    });
    set_phase(registry, name, "Available", "");
}
