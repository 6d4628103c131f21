//! Writes over the wire: create, update, patch, delete, and the subresources that are written.
//!
//! Entry points: one function for each. Here bodies become decoded objects and results become answers. Deliberately
//! not here: what a write does (`registry`).

use http::{HeaderValue, Response};
use serde_json::{Value, json};

use super::{Body, Call, Server, events, json, read};
use crate::{
    kubectl::ownership::{self, Writer},
    object::{self, Object, text},
    patch::Patch,
    registry::{DeleteOptions, Deleted, WriteOptions, set_condition},
    resource::{Kind, Resource},
    rules::{self, FieldValidation, update::Part},
    status::Status,
};

fn part_of(call: &Call) -> Part {
    match call.info.action.subresource.as_str() {
        "status" => Part::Status,
        "finalize" => Part::Finalize,
        _ => Part::Main,
    }
}

fn options(call: &Call) -> WriteOptions {
    WriteOptions { writer: Writer::update(&call.field_manager()), dry_run: call.info.dry_run() }
}

/// Decodes an object of the wire into the form of the store.
fn decode(call: &Call, resource: &Resource, value: Value) -> Result<(Value, Vec<String>), Status> {
    let validation = FieldValidation::parse(call.info.query("fieldValidation"))?;
    let (given_version, given_kind) = (text(&value, "/apiVersion"), text(&value, "/kind"));
    let fits = (given_version.is_empty() || given_version == resource.api_version())
        && (given_kind.is_empty() || given_kind == resource.kind);
    if !fits {
        return Err(Status::bad_request(format!(
            "the API version in the data ({given_version}, Kind={given_kind}) does not match the expected API version \
             ({}, Kind={})",
            resource.api_version(),
            resource.kind
        )));
    }
    let (mut known, warnings) = rules::decode(resource, value, validation)?;
    if resource.is_new_event() {
        known = events::to_core(known);
    }
    Ok((known, warnings))
}

fn answer(
    code: u16,
    call: &Call,
    resource: &Resource,
    object: &Object,
    warnings: &[String],
) -> Response<Body> {
    let mut response = read::one(code, call, resource, object);
    for warning in warnings {
        let quoted = format!("299 - \"{}\"", warning.replace('\\', "\\\\").replace('"', "\\\""));
        if let Ok(value) = HeaderValue::from_str(&quoted) {
            response.headers_mut().append("warning", value);
        }
    }
    response
}

pub(crate) fn create(
    server: &Server,
    call: &Call,
    resource: &'static Resource,
) -> Result<Response<Body>, Status> {
    let (value, warnings) = decode(call, resource, call.json()?)?;
    let namespace = if resource.namespaced { call.info.namespace() } else { "" };
    let object = server.registry.create(resource, namespace, value, &options(call))?;
    Ok(answer(201, call, resource, &object, &warnings))
}

pub(crate) fn update(
    server: &Server,
    call: &Call,
    resource: &'static Resource,
) -> Result<Response<Body>, Status> {
    let (value, warnings) = decode(call, resource, call.json()?)?;
    let (namespace, name) = (call.info.namespace(), call.info.action.name.as_str());
    let part = part_of(call);
    let creates = matches!(resource.table, Kind::Lease | Kind::Endpoints | Kind::Event | Kind::Service);
    if part == Part::Main && creates && server.registry.get(resource, namespace, name).is_err() {
        let mut value = value;
        object::metadata(&mut value).remove("resourceVersion");
        object::metadata(&mut value).remove("uid");
        let object = server.registry.create(resource, namespace, value, &options(call))?;
        return Ok(answer(201, call, resource, &object, &warnings));
    }
    let object =
        server.registry.update(resource, namespace, name, part, &options(call), |_| Ok(value.clone()))?;
    Ok(answer(200, call, resource, &object, &warnings))
}

pub(crate) fn patch(
    server: &Server,
    call: &Call,
    resource: &'static Resource,
) -> Result<Response<Body>, Status> {
    let patch = Patch::parse(&call.content_type, &call.body)?;
    if let Patch::Apply(config) = patch {
        return apply(server, call, resource, config);
    }
    let mut warnings = Vec::new();
    let (namespace, name) = (call.info.namespace(), call.info.action.name.as_str());
    let object = server.registry.update(resource, namespace, name, part_of(call), &options(call), |old| {
        let mut current = if resource.is_new_event() { events::to_new(old.clone()) } else { old.clone() };
        object::set_type(&mut current, resource);
        let mut patched = patch.apply_to(&current)?;
        // A patch that says nothing of the version applies to whatever is there.
        let version = |v: &Value| object::meta(v, "resourceVersion").to_owned();
        if version(&patched) == version(&current) && !names_version(&patch) {
            object::metadata(&mut patched).remove("resourceVersion");
            if resource.table == Kind::Lease {
                object::metadata(&mut patched).insert("resourceVersion".into(), json!(version(&current)));
            }
        }
        let (value, found) = decode(call, resource, patched)?;
        warnings = found;
        Ok(value)
    })?;
    Ok(answer(200, call, resource, &object, &warnings))
}

fn names_version(patch: &Patch) -> bool {
    match patch {
        Patch::Merge(value) | Patch::Strategic(value) | Patch::Apply(value) => {
            value.pointer("/metadata/resourceVersion").is_some()
        }
        Patch::Json(_) => false,
    }
}

fn apply(
    server: &Server,
    call: &Call,
    resource: &'static Resource,
    config: Value,
) -> Result<Response<Body>, Status> {
    let manager = call.info.query("fieldManager");
    if manager.is_empty() {
        return Err(Status::new(
            422,
            "Invalid",
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    let force = call.info.flag("force");
    let part = part_of(call);
    let (namespace, name) = (call.info.namespace(), call.info.action.name.clone());
    let (mut config, warnings) = decode(call, resource, config)?;
    if object::name(&config).is_empty() {
        object::metadata(&mut config).insert("name".into(), json!(name));
    }
    if object::name(&config) != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({name})",
            object::name(&config)
        )));
    }
    let writer = Writer::apply(manager);
    let options = WriteOptions { writer: writer.clone(), dry_run: call.info.dry_run() };
    let exists = server.registry.get(resource, namespace, &name).is_ok();
    if !exists && part == Part::Main {
        let value = ownership::apply(resource, None, &config, &writer, part, force)?;
        let object = server.registry.create(resource, namespace, value, &options)?;
        return Ok(answer(201, call, resource, &object, &warnings));
    }
    let based_on = object::meta(&config, "resourceVersion").to_owned();
    let object = server.registry.update(resource, namespace, &name, part, &options, |old| {
        let mut merged = ownership::apply(resource, Some(old), &config, &writer, part, force)?;
        if based_on.is_empty() && resource.table != Kind::Lease {
            object::metadata(&mut merged).remove("resourceVersion");
        }
        Ok(merged)
    })?;
    Ok(answer(200, call, resource, &object, &warnings))
}

pub(crate) fn scale(
    server: &Server,
    call: &Call,
    resource: &'static Resource,
) -> Result<Response<Body>, Status> {
    let (namespace, name) = (call.info.namespace(), call.info.action.name.as_str());
    let patch = if call.info.action.verb == "patch" {
        Patch::parse(&call.content_type, &call.body)?
    } else {
        Patch::Merge(call.json()?)
    };
    let object = server.registry.update(resource, namespace, name, Part::Main, &options(call), |old| {
        let scale = patch.apply_to(&read::scale_of(old))?;
        let mut new = old.clone();
        object::metadata(&mut new)
            .insert("resourceVersion".into(), json!(object::meta(&scale, "resourceVersion")));
        object::child(&mut new, "spec")
            .insert("replicas".into(), scale.pointer("/spec/replicas").cloned().unwrap_or(json!(0)));
        Ok(new)
    })?;
    Ok(json(200, &read::scale_of(&object.parse())))
}

/// Binds a pod to a node.
pub(crate) fn bind(server: &Server, call: &Call) -> Result<Response<Body>, Status> {
    let body = call.json()?;
    let node = text(&body, "/target/name").to_owned();
    let key = read::key(call);
    let resource = Kind::Pod.resource();
    let name = &call.info.action.name;
    let mut taken = false;
    let bound = server.registry.edit(Kind::Pod, &key, Part::Main, "kube-scheduler", |pod| {
        taken = !text(pod, "/spec/nodeName").is_empty();
        if taken {
            return false;
        }
        object::child(pod, "spec").insert("nodeName".into(), json!(node));
        true
    });
    if bound.is_none() {
        return Err(Status::not_found(resource, name));
    }
    if taken {
        return Err(Status::conflict(resource, name, "pod is already assigned to a node"));
    }
    server.registry.edit(Kind::Pod, &key, Part::Status, "kube-scheduler", |pod| {
        set_condition(pod, "PodScheduled", "True", "", "")
    });
    Ok(json(
        201,
        &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
    ))
}

fn delete_options(call: &Call) -> Result<DeleteOptions, Status> {
    let mut options =
        if call.body.is_empty() { DeleteOptions::default() } else { DeleteOptions::parse(&call.json()?)? };
    let grace = call.info.query("gracePeriodSeconds");
    if !grace.is_empty() {
        let seconds = grace
            .parse()
            .map_err(|_| Status::bad_request(format!("gracePeriodSeconds: Invalid value: \"{grace}\"")))?;
        options.grace = Some(seconds);
    }
    let policy = call.info.query("propagationPolicy");
    if !policy.is_empty() {
        options.propagation = Some(policy.parse()?);
    }
    options.dry_run |= call.info.dry_run();
    Ok(options)
}

pub(crate) fn delete(
    server: &Server,
    call: &Call,
    resource: &'static Resource,
) -> Result<Response<Body>, Status> {
    let options = delete_options(call)?;
    let name = &call.info.action.name;
    match server.registry.delete(resource, call.info.namespace(), name, &options)? {
        Deleted::Pending(object) => Ok(read::one(200, call, resource, &object)),
        Deleted::Gone(object) if resource.returns_deleted => Ok(read::one(200, call, resource, &object)),
        Deleted::Gone(object) => {
            let mut details =
                json!({"name": name, "kind": resource.plural, "uid": object::uid(&object.parse())});
            if let Some(details) = details.as_object_mut()
                && !resource.group.is_empty()
            {
                details.insert("group".into(), json!(resource.group));
            }
            Ok(json(
                200,
                &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}),
            ))
        }
    }
}

pub(crate) fn delete_collection(
    server: &Server,
    call: &Call,
    resource: &'static Resource,
) -> Result<Response<Body>, Status> {
    let options = delete_options(call)?;
    let selection = read::selection(call, resource)?;
    let snapshot = server.registry.store.snapshot(resource.table);
    let mut items = Vec::new();
    for object in snapshot.range(call.info.namespace(), None) {
        if !selection.matches(resource, object) {
            continue;
        }
        match server.registry.delete(resource, object.namespace(), object.name(), &options) {
            Ok(Deleted::Gone(object) | Deleted::Pending(object)) => items.push(read::view(resource, &object)),
            Err(status) if status.code == 404 => {}
            Err(status) => return Err(status),
        }
    }
    let list = json!({
        "kind": format!("{}List", resource.kind),
        "apiVersion": resource.api_version(),
        "metadata": {"resourceVersion": server.registry.store.version().to_string()},
        "items": items,
    });
    Ok(json(200, &list))
}
