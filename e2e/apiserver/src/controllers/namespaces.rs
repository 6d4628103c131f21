//! Empties namespaces that are being deleted, and lets them go.
//!
//! Entry point: [`Namespaces`]. Deliberately not here: refusing new objects in them, which is admission.

use std::{collections::HashSet, sync::Arc};

use super::{Controller, Key};
use crate::{
    object,
    registry::{DeleteOptions, Registry},
    resource::Kind,
    rules::update::Part,
    store::{Change, Verb},
};

/// Keeps the namespaces that are going away, so that the changes in all others cost nothing.
#[derive(Default)]
pub(crate) struct Namespaces {
    going: HashSet<Arc<str>>,
}

fn contents() -> impl Iterator<Item = Kind> {
    Kind::ALL.iter().copied().filter(|kind| kind.resource().namespaced)
}

impl Controller for Namespaces {
    fn watches(&self) -> Vec<Kind> {
        contents().chain([Kind::Namespace]).collect()
    }

    fn note(&mut self, _: &Registry, kind: Kind, change: &Change, work: &mut Vec<Key>) {
        if kind == Kind::Namespace {
            let key = &change.object.key;
            if change.verb == Verb::Deleted {
                self.going.remove(key);
            } else if object::is_terminating(&change.object.parse()) {
                self.going.insert(Arc::clone(key));
                work.push((Kind::Namespace, Arc::clone(key)));
            }
        } else if !self.going.is_empty()
            && let Some(namespace) = self.going.get(change.object.namespace())
        {
            work.push((Kind::Namespace, Arc::clone(namespace)));
        }
    }

    fn reconcile(&mut self, registry: &Registry, (_, namespace): &Key) {
        let Some(found) = registry.store.get(Kind::Namespace, namespace) else { return };
        if !object::is_terminating(&found.parse()) {
            return;
        }
        let mut left = 0;
        for kind in contents() {
            for object in registry.store.snapshot(kind).range(namespace, None) {
                left += 1;
                let gone =
                    object.json.contains("\"deletionTimestamp\"") && object::is_terminating(&object.parse());
                if !gone {
                    // One that is gone meanwhile is what we want; anything else shows in the next round.
                    let _ =
                        registry.delete(kind.resource(), namespace, object.name(), &DeleteOptions::default());
                }
                left -= usize::from(registry.store.get(kind, &object.key).is_none());
            }
        }
        if left == 0 {
            registry.edit(Kind::Namespace, namespace, Part::Finalize, "kube-controller-manager", |value| {
                object::child(value, "spec").remove("finalizers");
                true
            });
        }
    }
}
