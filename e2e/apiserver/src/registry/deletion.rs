//! Deletion: preconditions, grace, finalizers, propagation.
//!
//! Entry points: [`Registry::delete`], [`Registry::finish`]. Deliberately not here: what happens to dependents and to
//! the contents of a namespace (see `controllers`).

use std::{str::FromStr, sync::Arc};

use serde_json::{Value, json};

use super::{Registry, is_finished};
use crate::{
    object::{self, Object, key_of, text},
    resource::{Kind, Resource},
    status::Status,
};

/// What becomes of dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    Background,
    Foreground,
    Orphan,
}

impl FromStr for Propagation {
    type Err = Status;

    fn from_str(text: &str) -> Result<Self, Status> {
        match text {
            "Background" => Ok(Self::Background),
            "Foreground" => Ok(Self::Foreground),
            "Orphan" => Ok(Self::Orphan),
            other => Err(Status::new(
                422,
                "Invalid",
                format!(
                    "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"{other}\": \
                     supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
                ),
            )),
        }
    }
}

/// The options of a delete request.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) grace: Option<i64>,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    /// Reads the body of a delete request.
    pub(crate) fn parse(body: &Value) -> Result<Self, Status> {
        let string = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let orphan = body.get("orphanDependents").and_then(Value::as_bool);
        let propagation = match (string("/propagationPolicy"), orphan) {
            (Some(policy), _) => Some(policy.parse()?),
            (None, Some(true)) => Some(Propagation::Orphan),
            (None, Some(false)) => Some(Propagation::Background),
            (None, None) => None,
        };
        Ok(Self {
            uid: string("/preconditions/uid"),
            resource_version: string("/preconditions/resourceVersion"),
            grace: body.get("gracePeriodSeconds").and_then(Value::as_i64),
            propagation,
            dry_run: body.get("dryRun").and_then(Value::as_array).is_some_and(|list| !list.is_empty()),
        })
    }
}

/// The outcome of a delete request.
pub(crate) enum Deleted {
    /// The object is gone; this was it.
    Gone(Arc<Object>),
    /// The object is on its way: something holds it.
    Pending(Arc<Object>),
}

impl Registry {
    /// Deletes an object or begins to.
    pub(crate) fn delete(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, Status> {
        let key = key_of(namespace, name);
        if resource.table == Kind::Namespace && matches!(name, "default" | "kube-system" | "kube-public") {
            return Err(Status::forbidden(resource, name, "this namespace may not be deleted"));
        }
        loop {
            let current =
                self.store.get(resource.table, &key).ok_or_else(|| Status::not_found(resource, name))?;
            let old = current.parse();
            preconditions(resource, name, &old, options)?;
            if options.dry_run {
                return Ok(Deleted::Pending(current));
            }
            let mut new = old.clone();
            begin(resource, &mut new, options);
            if is_finished(resource, &new) {
                if self.store.commit(resource.table, &key, Some(&current), None).is_ok() {
                    return Ok(Deleted::Gone(current));
                }
            } else if new == old {
                return Ok(Deleted::Pending(current));
            } else if let Ok(object) = self.store.commit(resource.table, &key, Some(&current), Some(&mut new))
            {
                return Ok(Deleted::Pending(object));
            }
        }
    }

    /// Ends the grace of a pod that is being deleted, as the kubelet does when its containers have stopped.
    pub(crate) fn finish(&self, kind: Kind, key: &str) {
        loop {
            let Some(current) = self.store.get(kind, key) else { return };
            let mut value = current.parse();
            if !object::is_terminating(&value) {
                return;
            }
            object::metadata(&mut value).insert("deletionGracePeriodSeconds".into(), json!(0));
            let written = if is_finished(kind.resource(), &value) {
                self.store.commit(kind, key, Some(&current), None)
            } else if value == current.parse() {
                return;
            } else {
                self.store.commit(kind, key, Some(&current), Some(&mut value))
            };
            if written.is_ok() {
                return;
            }
        }
    }
}

/// Marks an object as being deleted; one that is already keeps its mark, but may get less grace.
fn begin(resource: &Resource, value: &mut Value, options: &DeleteOptions) {
    let grace = grace(resource, value, options);
    let terminating = object::is_terminating(value);
    if !terminating {
        match options.propagation {
            Some(Propagation::Foreground) => object::add_finalizer(value, "foregroundDeletion"),
            Some(Propagation::Orphan) => object::add_finalizer(value, "orphan"),
            Some(Propagation::Background) | None => {}
        }
    }
    let before = value.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    if terminating && before.is_none_or(|before| grace >= before) {
        return;
    }
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(grace);
    let metadata = object::metadata(value);
    metadata.insert("deletionTimestamp".into(), json!(object::timestamp(at)));
    metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
    if let Some(generation) = metadata.get("generation").and_then(Value::as_i64) {
        metadata.insert("generation".into(), json!(generation + 1));
    }
    if resource.table == Kind::Namespace {
        object::child(value, "status").insert("phase".into(), json!("Terminating"));
    }
}

/// Only pods that a node runs end gracefully.
fn grace(resource: &Resource, value: &Value, options: &DeleteOptions) -> i64 {
    if resource.table != Kind::Pod
        || text(value, "/spec/nodeName").is_empty()
        || matches!(text(value, "/status/phase"), "Succeeded" | "Failed")
    {
        return 0;
    }
    let own = value.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    options.grace.or(own).unwrap_or(30).max(0)
}

fn preconditions(
    resource: &Resource,
    name: &str,
    value: &Value,
    options: &DeleteOptions,
) -> Result<(), Status> {
    if let Some(wanted) = &options.uid {
        let actual = object::uid(value);
        if wanted != actual {
            let why = format!(
                "the UID in the precondition ({wanted}) does not match the UID in record ({actual}). The object might \
                 have been deleted and then recreated"
            );
            return Err(Status::conflict(resource, name, &why));
        }
    }
    if let Some(wanted) = &options.resource_version {
        let actual = object::meta(value, "resourceVersion");
        if wanted != actual {
            let why = format!(
                "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record \
                 ({actual}). The object might have been modified"
            );
            return Err(Status::conflict(resource, name, &why));
        }
    }
    Ok(())
}
