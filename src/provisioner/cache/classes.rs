//! What is kept of classes: [`Classes`], each with what its backend says of it ([`Inspection`]).

use std::{collections::HashMap, sync::Arc};

use super::claim::ClaimKeys;
use crate::{
    backend::{Backends, Finding, Inspection},
    provisioner::class::Class,
};

/// The classes that exist, of whatever provisioner.
#[derive(Debug, Default)]
pub(super) struct Classes(HashMap<String, Known>);

#[derive(Debug)]
struct Known {
    class: Arc<Class>,
    keys: Arc<ClaimKeys>,
    findings: Arc<[Finding]>,
    round: u32,
}

impl Classes {
    pub(super) fn get(&self, name: &str) -> Option<&Arc<Class>> {
        self.0.get(name).map(|known| &known.class)
    }

    /// The keys of a claim that the class of this name needs; none, where there is no such class.
    pub(super) fn keys(&self, name: &str) -> Arc<ClaimKeys> {
        self.0.get(name).map(|known| Arc::clone(&known.keys)).unwrap_or_default()
    }

    /// What an administrator should know about the class of this name.
    pub(super) fn findings(&self, name: &str) -> Arc<[Finding]> {
        self.0.get(name).map(|known| Arc::clone(&known.findings)).unwrap_or_default()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Class>> {
        self.0.values().map(|known| &known.class)
    }

    /// The class is there; whether that is news.
    pub(super) fn see(&mut self, class: Class, backends: &Backends, round: u32) -> bool {
        if let Some(known) = self.0.get_mut(&class.name).filter(|known| *known.class == class) {
            known.round = round;
            return false;
        }
        let ports = backends.ports(&class.provisioner);
        let inspection =
            ports.map(|ports| ports.stores.inspect(&class.parameters_of(ports.backend.capabilities())));
        let Inspection { labels, annotations, findings } = inspection.unwrap_or_default();
        let known = Known {
            keys: Arc::new(ClaimKeys { labels, annotations }),
            findings: findings.into(),
            round,
            class: Arc::new(class),
        };
        self.0.insert(known.class.name.clone(), known);
        true
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// What was not seen in this round is gone.
    pub(super) fn keep(&mut self, round: u32) {
        self.0.retain(|_, known| known.round == round);
    }
}
