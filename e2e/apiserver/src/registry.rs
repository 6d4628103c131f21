//! Writes: creation, update and deletion with everything between the wire and the store.
//!
//! Entry points: [`Registry::create`], [`Registry::update`], [`Registry::delete`]; [`Registry::edit`] for the
//! controllers. Order of a write: system metadata, defaults, admission, validation, field ownership, commit with the
//! version that the write was based on. Deliberately not here: the rules about contents (`rules`) and who may do it
//! (`rbac`).

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::{
    kubectl::ownership::{self, Writer},
    object::{self, Object, key_of, text},
    resource::{Kind, Resource},
    rules::{defaults, update, update::Part, validation},
    status::{FieldError, Status},
    store::{Refusal, Store},
};

mod admission;
mod deletion;

pub(crate) use deletion::{DeleteOptions, Deleted};

/// How often a write without a version of its own is tried again on a newer object.
const ATTEMPTS: usize = 64;

/// The switches of the registry.
#[derive(Debug, Clone)]
pub(crate) struct Switches {
    /// Keep `managedFields`.
    pub(crate) managed_fields: bool,
    /// Put the protection finalizers on new claims and volumes.
    pub(crate) protection: bool,
}

/// The store with the rules for writing to it.
pub(crate) struct Registry {
    pub(crate) store: Store,
    switches: Switches,
}

/// How a write is done.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteOptions {
    pub(crate) writer: Writer,
    pub(crate) dry_run: bool,
}

impl WriteOptions {
    /// A write by one of the control plane's own parts.
    pub(crate) fn of(manager: &str) -> Self {
        Self { writer: Writer::update(manager), dry_run: false }
    }
}

impl Registry {
    pub(crate) fn new(store: Store, switches: Switches) -> Self {
        Self { store, switches }
    }

    pub(crate) fn get(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Object>, Status> {
        self.store
            .get(resource.table, &key_of(namespace, name))
            .ok_or_else(|| Status::not_found(resource, name))
    }

    /// Creates an object from its decoded form.
    pub(crate) fn create(
        &self,
        resource: &Resource,
        namespace: &str,
        mut value: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        let given_namespace = object::namespace(&value);
        if resource.namespaced && !given_namespace.is_empty() && given_namespace != namespace {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        let version = object::meta(&value, "resourceVersion");
        if !version.is_empty() && version != "0" {
            return Err(Status::new(500, "", "resourceVersion should not be set on objects to be created"));
        }
        let generate = object::meta(&value, "generateName").to_owned();
        let generated = object::name(&value).is_empty();
        if generated && generate.is_empty() {
            let error = FieldError::required("metadata.name", "name or generateName is required");
            return Err(Status::invalid(resource, "", &[error]));
        }
        if resource.namespaced {
            self.namespace_takes(resource, namespace, object::name(&value))?;
        }
        let metadata = object::metadata(&mut value);
        for field in
            ["deletionTimestamp", "deletionGracePeriodSeconds", "resourceVersion", "selfLink", "generation"]
        {
            metadata.remove(field);
        }
        if resource.namespaced {
            metadata.insert("namespace".into(), json!(namespace));
        } else {
            metadata.remove("namespace");
        }
        metadata.insert("uid".into(), json!(object::new_uid()));
        metadata.insert("creationTimestamp".into(), json!(object::now()));
        if generated {
            name_it(&mut value, &generate);
        }
        defaults::on_create(resource, &mut value);
        self.admit_creation(resource, &mut value);
        defaults::apply(resource, &mut value);
        object::drop_empty_metadata(&mut value);
        let errors = validation::on_create(resource, &value);
        if !errors.is_empty() {
            return Err(Status::invalid(resource, object::name(&value), &errors));
        }
        if self.switches.managed_fields {
            ownership::track(resource, None, &mut value, &options.writer, Part::Main);
        } else {
            object::metadata(&mut value).remove("managedFields");
        }
        for _ in 0..8 {
            let key = key_of(namespace, object::name(&value));
            if options.dry_run {
                if self.store.get(resource.table, &key).is_some() {
                    return Err(Status::already_exists(resource, object::name(&value)));
                }
                return Ok(Arc::new(Object::new(key.into(), 0, &value)));
            }
            match self.store.commit(resource.table, &key, None, Some(&mut value)) {
                Ok(object) => return Ok(object),
                Err(Refusal::Exists | Refusal::Changed) if generated => name_it(&mut value, &generate),
                Err(Refusal::Exists | Refusal::Changed) => break,
            }
        }
        Err(Status::already_exists(resource, object::name(&value)))
    }

    /// Writes what `change` makes of the stored object (both without type, `change` decodes).
    ///
    /// A version in the result is a precondition; without one the write is tried on newer objects.
    pub(crate) fn update(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        part: Part,
        options: &WriteOptions,
        mut change: impl FnMut(&Value) -> Result<Value, Status>,
    ) -> Result<Arc<Object>, Status> {
        let key = key_of(namespace, name);
        for _ in 0..ATTEMPTS {
            let current =
                self.store.get(resource.table, &key).ok_or_else(|| Status::not_found(resource, name))?;
            let old = current.parse();
            let new = change(&old)?;
            check_identity(resource, &old, &new)?;
            let based_on = object::meta(&new, "resourceVersion");
            let conditional = !based_on.is_empty();
            if conditional && based_on != object::meta(&old, "resourceVersion") {
                return Err(Status::modified(resource, name));
            }
            if !conditional && resource.table == Kind::Lease && part == Part::Main {
                let error = FieldError {
                    field: "metadata.resourceVersion".into(),
                    reason: "FieldValueInvalid",
                    message: "Invalid value: 0x0: must be specified for an update".into(),
                };
                return Err(Status::invalid(resource, name, &[error]));
            }
            let mut new = update::prepare(resource, &old, new, part);
            defaults::apply(resource, &mut new);
            object::drop_empty_metadata(&mut new);
            if part == Part::Main {
                self.admit_update(resource, &old, &new)?;
            }
            let errors = validation::on_update(resource, &old, &new, part);
            if !errors.is_empty() {
                return Err(Status::invalid(resource, name, &errors));
            }
            match self.store_update(resource, &current, &old, new, part, options) {
                Ok(object) => return Ok(object),
                Err(Refusal::Exists | Refusal::Changed) => {}
            }
        }
        Err(Status::modified(resource, name))
    }

    /// As [`Registry::update`] for the control plane itself: no validation, and `edit` says by `false` that there is
    /// nothing to write.
    pub(crate) fn edit(
        &self,
        kind: Kind,
        key: &str,
        part: Part,
        manager: &str,
        mut edit: impl FnMut(&mut Value) -> bool,
    ) -> Option<Arc<Object>> {
        let resource = kind.resource();
        let options = WriteOptions::of(manager);
        loop {
            let current = self.store.get(kind, key)?;
            let old = current.parse();
            let mut new = old.clone();
            if !edit(&mut new) {
                return Some(current);
            }
            let mut new = update::prepare(resource, &old, new, part);
            object::drop_empty_metadata(&mut new);
            if let Ok(object) = self.store_update(resource, &current, &old, new, part, &options) {
                return Some(object);
            }
        }
    }

    fn store_update(
        &self,
        resource: &Resource,
        current: &Arc<Object>,
        old: &Value,
        mut new: Value,
        part: Part,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Refusal> {
        if self.switches.managed_fields {
            ownership::track(resource, Some(old), &mut new, &options.writer, part);
        } else {
            object::metadata(&mut new).remove("managedFields");
        }
        let version = old.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
        object::metadata(&mut new).insert("resourceVersion".into(), version);
        if same(old, &new) {
            return Ok(Arc::clone(current));
        }
        if options.dry_run {
            return Ok(Arc::new(Object::new(Arc::clone(&current.key), current.rv, &new)));
        }
        if is_finished(resource, &new) {
            self.store.commit(resource.table, &current.key, Some(current), None)?;
            return Ok(Arc::new(Object::new(Arc::clone(&current.key), current.rv, &new)));
        }
        self.store.commit(resource.table, &current.key, Some(current), Some(&mut new))
    }

    /// Stores ready-made objects of one kind as they are: no rules, no defaults but the system's metadata.
    pub(crate) fn insert(&self, resource: &Resource, mut value: Value) -> Result<Arc<Object>, Status> {
        object::strip_type(&mut value);
        let key = key_of(object::namespace(&value), object::name(&value));
        let metadata = object::metadata(&mut value);
        metadata.entry("uid").or_insert_with(|| json!(object::new_uid()));
        metadata.entry("creationTimestamp").or_insert_with(|| json!(object::now()));
        let name = object::name(&value).to_owned();
        self.store
            .commit(resource.table, &key, None, Some(&mut value))
            .map_err(|_| Status::already_exists(resource, &name))
    }
}

/// Equal but for the times at which fields were managed.
fn same(old: &Value, new: &Value) -> bool {
    if old.get("metadata").and_then(|m| m.get("managedFields")).is_none() {
        return old == new;
    }
    let without = |value: &Value| {
        let mut value = value.clone();
        for entry in object::metadata(&mut value)
            .get_mut("managedFields")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(entry) = entry.as_object_mut() {
                entry.remove("time");
            }
        }
        value
    };
    old.get("spec") == new.get("spec")
        && old.get("status") == new.get("status")
        && without(old) == without(new)
}

fn name_it(value: &mut Value, prefix: &str) {
    let prefix: String = prefix.chars().take(58).collect();
    object::metadata(value).insert("name".into(), json!(format!("{prefix}{}", object::name_suffix())));
}

/// Whether nothing holds back the end of an object that is being deleted.
fn is_finished(resource: &Resource, value: &Value) -> bool {
    let grace = value.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0);
    let held = match resource.table {
        Kind::Namespace => {
            value.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty())
        }
        _ => false,
    };
    object::is_terminating(value) && object::finalizers(value).is_empty() && grace == 0 && !held
}

fn check_identity(resource: &Resource, old: &Value, new: &Value) -> Result<(), Status> {
    let name = object::name(old);
    let given = object::name(new);
    if given != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        )));
    }
    let (namespace, given) = (object::namespace(old), object::namespace(new));
    if resource.namespaced && !given.is_empty() && given != namespace {
        return Err(Status::bad_request(format!(
            "the namespace of the object ({given}) does not match the namespace on the request ({namespace})"
        )));
    }
    let (uid, given) = (object::uid(old), object::uid(new));
    if !given.is_empty() && given != uid {
        let why = format!("Precondition failed: UID in precondition: {given}, UID in object meta: {uid}");
        return Err(Status::conflict(resource, name, &why));
    }
    Ok(())
}

/// The fields of a `Condition`, for the control plane's own writes.
pub(crate) fn set_condition(
    value: &mut Value,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
) -> bool {
    let conditions = object::child(value, "status").entry("conditions").or_insert_with(|| json!([]));
    let Some(list) = conditions.as_array_mut() else { return false };
    let mut condition = Map::new();
    condition.insert("type".into(), json!(kind));
    condition.insert("status".into(), json!(status));
    condition.insert("lastProbeTime".into(), Value::Null);
    condition.insert("lastTransitionTime".into(), json!(object::now()));
    if !reason.is_empty() {
        condition.insert("reason".into(), json!(reason));
        condition.insert("message".into(), json!(message));
    }
    match list.iter_mut().find(|c| text(c, "/type") == kind) {
        Some(existing) => {
            if text(existing, "/status") == status && text(existing, "/reason") == reason {
                return false;
            }
            *existing = Value::Object(condition);
        }
        None => list.push(Value::Object(condition)),
    }
    true
}
