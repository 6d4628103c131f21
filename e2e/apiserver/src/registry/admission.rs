//! Admission: the rules of a write that look at other objects.
//!
//! Entry points: the methods of [`Registry`] called by its own writes. Namespace lifecycle, default storage class,
//! protection finalizers, resize of claims. Deliberately not here: rules that one object decides (`rules`).

use serde_json::{Value, json};

use super::Registry;
use crate::{
    object::{self, text},
    quantity,
    resource::{Kind, Resource},
    rules::validation::BETA_CLASS,
    status::Status,
};

/// The finalizer that keeps a claim while a pod uses it.
pub(crate) const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// The finalizer that keeps a volume while a claim is bound to it.
pub(crate) const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

impl Registry {
    /// Whether a namespace takes new objects.
    pub(super) fn namespace_takes(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<(), Status> {
        let Some(found) = self.store.get(Kind::Namespace, namespace) else {
            return Err(Status::not_found(Kind::Namespace.resource(), namespace));
        };
        // A substring is enough to leave the usual, living namespace unparsed.
        if found.json.contains("\"deletionTimestamp\"") && object::is_terminating(&found.parse()) {
            return Err(Status::namespace_terminating(resource, name, namespace));
        }
        Ok(())
    }

    pub(super) fn admit_creation(&self, resource: &Resource, value: &mut Value) {
        match resource.table {
            Kind::PersistentVolumeClaim => {
                let unset = value.pointer("/spec/storageClassName").is_none_or(Value::is_null)
                    && object::annotation(value, BETA_CLASS).is_none();
                if unset && let Some(class) = self.default_class() {
                    object::child(value, "spec").insert("storageClassName".into(), json!(class));
                }
                if self.switches.protection {
                    object::add_finalizer(value, CLAIM_PROTECTION);
                }
            }
            Kind::PersistentVolume if self.switches.protection => {
                object::add_finalizer(value, VOLUME_PROTECTION);
            }
            Kind::Pod => {
                let spec = object::child(value, "spec");
                if spec.get("serviceAccountName").and_then(Value::as_str).unwrap_or_default().is_empty() {
                    spec.insert("serviceAccountName".into(), json!("default"));
                }
                spec.entry("tolerations").or_insert_with(|| {
                    let toleration = |key: &str| {
                        json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": "NoExecute",
                            "tolerationSeconds": 300})
                    };
                    json!([toleration("not-ready"), toleration("unreachable")])
                });
                spec.entry("priority").or_insert(json!(0));
                spec.entry("enableServiceLinks").or_insert(json!(true));
                spec.entry("preemptionPolicy").or_insert(json!("PreemptLowerPriority"));
            }
            _ => {}
        }
    }

    /// The class of claims that name none: the newest one that is marked.
    pub(crate) fn default_class(&self) -> Option<String> {
        let marked = |class: &Value| {
            [
                "storageclass.kubernetes.io/is-default-class",
                "storageclass.beta.kubernetes.io/is-default-class",
            ]
            .iter()
            .any(|key| object::annotation(class, key) == Some("true"))
        };
        let mut classes: Vec<Value> = self
            .store
            .snapshot(Kind::StorageClass)
            .range("", None)
            .map(|class| class.parse())
            .filter(marked)
            .collect();
        classes.sort_by(|a, b| {
            let created = |v: &Value| object::meta(v, "creationTimestamp").to_owned();
            created(b).cmp(&created(a)).then_with(|| object::name(a).cmp(object::name(b)))
        });
        classes.first().map(|class| object::name(class).to_owned())
    }

    pub(super) fn admit_update(&self, resource: &Resource, old: &Value, new: &Value) -> Result<(), Status> {
        if resource.table != Kind::PersistentVolumeClaim {
            return Ok(());
        }
        let size = |v: &Value| quantity::parse(text(v, "/spec/resources/requests/storage")).unwrap_or(0);
        if size(new) <= size(old) {
            return Ok(());
        }
        let name = object::name(old);
        if text(old, "/status/phase") != "Bound" {
            return Err(Status::forbidden(
                resource,
                name,
                "Only bound persistent volume claims can be expanded",
            ));
        }
        let class_of = |v: &Value| {
            object::annotation(v, BETA_CLASS).unwrap_or_else(|| text(v, "/spec/storageClassName")).to_owned()
        };
        let class = class_of(old);
        let allowed = !class.is_empty()
            && class == class_of(new)
            && self
                .store
                .get(Kind::StorageClass, &class)
                .is_some_and(|c| c.parse().get("allowVolumeExpansion") == Some(&json!(true)));
        if allowed {
            return Ok(());
        }
        Err(Status::forbidden(
            resource,
            name,
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        ))
    }
}
