//! Events that the controllers publish.
//!
//! Entry point: [`emit`]. Deliberately not here: aggregation; a controller says a thing once.

use serde_json::{Value, json};

use crate::{
    object,
    registry::{Registry, WriteOptions},
    resource::Kind,
};

/// Publishes an event about an object (without type).
pub(crate) fn emit(
    registry: &Registry,
    component: &str,
    kind: Kind,
    about: &Value,
    severity: &str,
    reason: &str,
    message: &str,
) {
    let resource = kind.resource();
    let own = object::namespace(about);
    let namespace = if own.is_empty() { "default" } else { own };
    let now = object::now();
    let name: String = object::name(about).chars().take(230).collect();
    let value = json!({
        "metadata": {"name": format!("{name}.{:016x}", rand::random::<u64>())},
        "involvedObject": {
            "kind": resource.kind,
            "apiVersion": resource.api_version(),
            "namespace": own,
            "name": object::name(about),
            "uid": object::uid(about),
            "resourceVersion": object::meta(about, "resourceVersion"),
        },
        "type": severity,
        "reason": reason,
        "message": message,
        "source": {"component": component},
        "reportingComponent": component,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    });
    let mut value = value;
    if own.is_empty()
        && let Some(reference) = value.get_mut("involvedObject").and_then(Value::as_object_mut)
    {
        reference.remove("namespace");
    }
    if let Err(status) = registry.create(
        Kind::Event.resource(),
        namespace,
        value,
        &WriteOptions::of("kube-controller-manager"),
    ) {
        // A namespace that is going away takes no more events; nobody would read them.
        tracing::debug!(%status, reason, "event not stored");
    }
}
