//! How objects look in answers: whole, as metadata only, or as rows of a table.
//!
//! Entry points: [`Rendering::of`] an Accept header, [`Rendering::write`] one object, [`Rendering::view`] for one
//! object as the whole answer. Deliberately not here: the columns (`table`).

use serde_json::{Value, json};

use super::events;
use crate::{
    kubectl::table,
    object::{self, Object},
    resource::Resource,
};

/// What rows of a table carry of their object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    Metadata,
    Object,
}

/// The form that a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rendering {
    Full,
    Metadata,
    Table(Include),
}

impl Rendering {
    /// The first form in the header that we have.
    pub(crate) fn of(accept: &str, include_object: &str) -> Self {
        for media in accept.split(',') {
            let mut parts = media.split(';').map(str::trim);
            if !matches!(parts.next(), Some("application/json" | "*/*" | "")) {
                continue;
            }
            match parts.find_map(|part| part.strip_prefix("as=")) {
                None => return Self::Full,
                Some("Table") => {
                    return Self::Table(match include_object {
                        "None" => Include::None,
                        "Object" => Include::Object,
                        _ => Include::Metadata,
                    });
                }
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => return Self::Metadata,
                Some(_) => {}
            }
        }
        Self::Full
    }

    /// The object in the view of a resource, with its type.
    pub(crate) fn view(resource: &Resource, object: &Object) -> Value {
        let mut value = object.parse();
        if resource.is_new_event() {
            value = events::to_new(value);
        }
        object::set_type(&mut value, resource);
        value
    }

    /// One object as the whole answer or as the object of a watch event.
    pub(crate) fn write(self, resource: &Resource, object: &Object, headed: bool, out: &mut Vec<u8>) {
        match self {
            Self::Full if !resource.is_new_event() => object.write_full(resource, out),
            Self::Full => out.extend_from_slice(Self::view(resource, object).to_string().as_bytes()),
            Self::Metadata => out.extend_from_slice(metadata_only(object, true).to_string().as_bytes()),
            Self::Table(include) => {
                let rows = [table::row(resource, &Self::view(resource, object), include)];
                let rv = object.rv.to_string();
                let table = table::table(resource, &rows, &json!({"resourceVersion": rv}), headed);
                out.extend_from_slice(table.to_string().as_bytes());
            }
        }
    }

    /// One item of a list.
    pub(crate) fn write_item(self, resource: &Resource, object: &Object, out: &mut Vec<u8>) {
        match self {
            // Items of typed lists carry no type of their own.
            Self::Full if !resource.is_new_event() => out.extend_from_slice(object.json.as_bytes()),
            Self::Full => {
                out.extend_from_slice(events::to_new(object.parse()).to_string().as_bytes());
            }
            Self::Metadata => out.extend_from_slice(metadata_only(object, true).to_string().as_bytes()),
            Self::Table(include) => {
                let row = table::row(resource, &Self::view(resource, object), include);
                out.extend_from_slice(row.to_string().as_bytes());
            }
        }
    }

    /// What comes before the items of a list.
    pub(crate) fn list_head(self, resource: &Resource, metadata: &Value) -> String {
        match self {
            Self::Full => format!(
                "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
                resource.kind,
                resource.api_version()
            ),
            Self::Metadata => format!(
                "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{metadata},\"items\":["
            ),
            Self::Table(_) => format!(
                "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{metadata},\"columnDefinitions\":{},\"rows\":[",
                table::definitions(resource)
            ),
        }
    }

    /// The object of a bookmark.
    pub(crate) fn bookmark(self, resource: &Resource, rv: u64, initial_events_end: bool) -> Value {
        let mut metadata = json!({"resourceVersion": rv.to_string(), "creationTimestamp": null});
        if initial_events_end && let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("annotations".into(), json!({"k8s.io/initial-events-end": "true"}));
        }
        match self {
            Self::Full => {
                json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata})
            }
            Self::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Self::Table(_) => {
                let object = json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata});
                let rows = [json!({"cells": [], "object": object})];
                table::table(resource, &rows, &json!({"resourceVersion": rv.to_string()}), false)
            }
        }
    }
}

pub(crate) fn metadata_only(object: &Object, typed: bool) -> Value {
    let metadata = object.parse().get("metadata").cloned().unwrap_or_default();
    if typed {
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
    } else {
        json!({"metadata": metadata})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_that_we_have_is_taken() {
        for (accept, expected) in [
            ("", Rendering::Full),
            ("application/json", Rendering::Full),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Rendering::Table(Include::Metadata),
            ),
            ("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1", Rendering::Metadata),
            ("application/vnd.kubernetes.protobuf, application/json", Rendering::Full),
            ("*/*", Rendering::Full),
        ] {
            assert_eq!(Rendering::of(accept, ""), expected, "{accept}");
        }
    }
}
