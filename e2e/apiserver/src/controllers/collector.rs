//! The garbage collector: deletes what has lost all its owners, and sees to foreground deletion and orphaning.
//!
//! Entry point: [`Collector`]. Owners of kinds that this server does not know are taken to be there. Deliberately not
//! here: making owner references.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde_json::Value;

use super::{Controller, Key};
use crate::{
    object::{self, key_of, text},
    registry::{DeleteOptions, Registry},
    resource::{self, Kind},
    rules::update::Part,
    store::{Change, Verb},
};

const MANAGER: &str = "kube-controller-manager";

/// Keeps the dependents of each owner, by the owner's UID.
#[derive(Default)]
pub(crate) struct Collector {
    dependents: HashMap<String, HashSet<Key>>,
    owners: HashMap<Key, Vec<String>>,
}

fn references(value: &Value) -> Vec<&Value> {
    value
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array)
        .map(|list| list.iter().collect())
        .unwrap_or_default()
}

fn owner_exists(registry: &Registry, namespace: &str, reference: &Value) -> bool {
    let Some(resource) = resource::of_object(text(reference, "/apiVersion"), text(reference, "/kind")) else {
        return true;
    };
    let namespace = if resource.namespaced { namespace } else { "" };
    registry
        .store
        .get(resource.table, &key_of(namespace, text(reference, "/name")))
        .is_some_and(|owner| object::uid(&owner.parse()) == text(reference, "/uid"))
}

impl Collector {
    fn forget(&mut self, key: &Key) {
        for uid in self.owners.remove(key).unwrap_or_default() {
            if let Some(keys) = self.dependents.get_mut(&uid) {
                keys.remove(key);
                if keys.is_empty() {
                    self.dependents.remove(&uid);
                }
            }
        }
    }

    /// An owner that waits for its dependents, or lets them go.
    fn finalize(&self, registry: &Registry, (kind, key): &Key, value: &Value) {
        let finalizers = object::finalizers(value);
        let uid = object::uid(value);
        let dependents: Vec<&Key> = self
            .dependents
            .get(uid)
            .into_iter()
            .flatten()
            .filter(|(kind, key)| registry.store.get(*kind, key).is_some())
            .collect();
        if finalizers.contains(&"orphan") {
            for (kind, key) in dependents {
                registry.edit(*kind, key, Part::Main, MANAGER, |dependent| {
                    if let Some(list) =
                        object::metadata(dependent).get_mut("ownerReferences").and_then(Value::as_array_mut)
                    {
                        list.retain(|reference| text(reference, "/uid") != uid);
                    }
                    true
                });
            }
            registry.edit(*kind, key, Part::Main, MANAGER, |owner| {
                object::remove_finalizer(owner, "orphan");
                true
            });
        } else if finalizers.contains(&"foregroundDeletion") {
            let mut left = 0;
            for (kind, key) in dependents {
                let (namespace, name) = key.split_once('/').unwrap_or(("", key));
                let _ = registry.delete(kind.resource(), namespace, name, &DeleteOptions::default());
                left += usize::from(registry.store.get(*kind, key).is_some());
            }
            if left == 0 {
                registry.edit(*kind, key, Part::Main, MANAGER, |owner| {
                    object::remove_finalizer(owner, "foregroundDeletion");
                    true
                });
            }
        }
    }
}

impl Controller for Collector {
    fn watches(&self) -> Vec<Kind> {
        Kind::ALL.iter().copied().filter(|kind| *kind != Kind::Event).collect()
    }

    fn note(&mut self, registry: &Registry, kind: Kind, change: &Change, work: &mut Vec<Key>) {
        let key: Key = (kind, Arc::clone(&change.object.key));
        let json = &change.object.json;
        let gone = change.verb == Verb::Deleted;
        // Most objects neither have owners nor are owners: they are not even parsed.
        if !self.owners.contains_key(&key)
            && !json.contains("\"ownerReferences\"")
            && !json.contains("\"deletionTimestamp\"")
            && (!gone || self.dependents.is_empty())
        {
            return;
        }
        let value = change.object.parse();
        let waiting_owners = self.owners.get(&key).cloned().unwrap_or_default();
        self.forget(&key);
        if gone {
            work.extend(self.dependents.get(object::uid(&value)).into_iter().flatten().cloned());
            // An owner that waits for this one in the foreground may go on.
            for reference in
                references(&value).iter().filter(|r| waiting_owners.iter().any(|u| u == text(r, "/uid")))
            {
                if let Some(resource) =
                    resource::of_object(text(reference, "/apiVersion"), text(reference, "/kind"))
                {
                    let namespace = if resource.namespaced { change.object.namespace() } else { "" };
                    let owner: Arc<str> = key_of(namespace, text(reference, "/name")).into();
                    if registry.store.get(resource.table, &owner).is_some() {
                        work.push((resource.table, owner));
                    }
                }
            }
            return;
        }
        let owners: Vec<String> = references(&value).iter().map(|r| text(r, "/uid").to_owned()).collect();
        for uid in &owners {
            self.dependents.entry(uid.clone()).or_default().insert(key.clone());
        }
        if !owners.is_empty() {
            self.owners.insert(key.clone(), owners);
            work.push(key);
        } else if object::is_terminating(&value) {
            work.push(key);
        }
    }

    fn reconcile(&mut self, registry: &Registry, key: &Key) {
        let (kind, name) = key;
        let Some(object) = registry.store.get(*kind, name) else { return };
        let value = object.parse();
        if object::is_terminating(&value) {
            self.finalize(registry, key, &value);
            return;
        }
        let references = references(&value);
        let orphaned = !references.is_empty()
            && !references.iter().any(|reference| owner_exists(registry, object.namespace(), reference));
        if orphaned {
            let options =
                DeleteOptions { uid: Some(object::uid(&value).to_owned()), ..DeleteOptions::default() };
            let _ = registry.delete(kind.resource(), object.namespace(), object.name(), &options);
        }
    }
}
