//! The objects of the server for tests: typed, without HTTP, with all rules but authorization.
//!
//! Entry point: [`Objects`], from `ApiServer::store`. Deliberately not here: faults and audit, which belong to
//! requests.

use std::{sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::runtime::Handle;

use crate::{
    http::Server,
    object,
    patch::strategic,
    registry::{DeleteOptions, WriteOptions},
    resource::{self, Kind, Resource},
    rules::{self, FieldValidation, update::Part},
    status::Status,
};

/// The manager of fields that tests write.
const MANAGER: &str = "test";

/// Access to the stored objects.
///
/// Objects are named by their type; `namespace` is `""` for what is not namespaced.
#[derive(Clone)]
pub struct Objects {
    server: Arc<Server>,
    runtime: Option<Handle>,
}

fn resource_of<K: k8s_openapi::Resource>() -> Result<&'static Resource, Status> {
    resource::of_object(K::API_VERSION, K::KIND).ok_or_else(|| {
        Status::new(404, "NotFound", format!("this server has no {} {}", K::API_VERSION, K::KIND))
    })
}

fn typed<K: DeserializeOwned>(value: Value) -> Result<K, Status> {
    serde_json::from_value(value).map_err(|e| Status::internal(e.to_string()))
}

impl Objects {
    pub(crate) fn new(server: Arc<Server>, runtime: Option<Handle>) -> Self {
        Self { server, runtime }
    }

    /// One object, if it is there.
    #[must_use]
    pub fn get<K>(&self, namespace: &str, name: &str) -> Option<K>
    where
        K: k8s_openapi::Resource + DeserializeOwned,
    {
        let resource = resource_of::<K>().ok()?;
        let object = self.server.registry.get(resource, namespace, name).ok()?;
        typed(object.parse_full(resource)).ok()
    }

    /// The objects of a namespace, or all of them for `""`.
    #[must_use]
    pub fn list<K>(&self, namespace: &str) -> Vec<K>
    where
        K: k8s_openapi::Resource + DeserializeOwned,
    {
        let Ok(resource) = resource_of::<K>() else { return Vec::new() };
        let snapshot = self.server.registry.store.snapshot(resource.table);
        snapshot.range(namespace, None).filter_map(|object| typed(object.parse_full(resource)).ok()).collect()
    }

    /// One object as JSON, if it is there.
    #[must_use]
    pub fn get_value(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        let resource = kind.resource();
        Some(self.server.registry.get(resource, namespace, name).ok()?.parse_full(resource))
    }

    /// The objects of a namespace (all of them for `""`) as JSON.
    #[must_use]
    pub fn list_values(&self, kind: Kind, namespace: &str) -> Vec<Value> {
        let resource = kind.resource();
        let snapshot = self.server.registry.store.snapshot(kind);
        snapshot.range(namespace, None).map(|object| object.parse_full(resource)).collect()
    }

    /// How many objects of a kind there are.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.server.registry.store.len(kind)
    }

    /// The newest resource version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.server.registry.store.version()
    }

    /// Creates an object as a client would.
    pub fn create<K>(&self, object: &K) -> Result<K, Status>
    where
        K: k8s_openapi::Resource + Serialize + DeserializeOwned,
    {
        let value = serde_json::to_value(object).map_err(|e| Status::internal(e.to_string()))?;
        typed(self.create_value(value)?)
    }

    /// Creates an object of any kind from its JSON form; the namespace is `default` if it names none.
    pub fn create_value(&self, value: Value) -> Result<Value, Status> {
        let (version, kind) = (object::text(&value, "/apiVersion"), object::text(&value, "/kind"));
        let resource = resource::of_object(version, kind).ok_or_else(|| {
            Status::bad_request(format!("no kind \"{kind}\" is registered for version \"{version}\""))
        })?;
        let namespace = match (resource.namespaced, object::namespace(&value)) {
            (false, _) => String::new(),
            (true, "") => "default".to_owned(),
            (true, namespace) => namespace.to_owned(),
        };
        let (value, _) = rules::decode(resource, value, FieldValidation::Strict)?;
        let created = self.server.registry.create(resource, &namespace, value, &WriteOptions::of(MANAGER))?;
        Ok(created.parse_full(resource))
    }

    /// Applies a strategic merge patch to an object (not to its status).
    pub fn patch<K>(&self, namespace: &str, name: &str, patch: &Value) -> Result<K, Status>
    where
        K: k8s_openapi::Resource + DeserializeOwned,
    {
        self.patch_part(namespace, name, patch, Part::Main)
    }

    /// Applies a strategic merge patch to the status of an object.
    pub fn patch_status<K>(&self, namespace: &str, name: &str, patch: &Value) -> Result<K, Status>
    where
        K: k8s_openapi::Resource + DeserializeOwned,
    {
        self.patch_part(namespace, name, patch, Part::Status)
    }

    fn patch_part<K>(&self, namespace: &str, name: &str, patch: &Value, part: Part) -> Result<K, Status>
    where
        K: k8s_openapi::Resource + DeserializeOwned,
    {
        let resource = resource_of::<K>()?;
        let options = WriteOptions::of(MANAGER);
        let updated = self.server.registry.update(resource, namespace, name, part, &options, |old| {
            let mut new = old.clone();
            strategic::merge(&mut new, patch)?;
            Ok(rules::decode(resource, new, FieldValidation::Strict)?.0)
        })?;
        typed(updated.parse_full(resource))
    }

    /// Deletes an object, or begins to if it has finalizers.
    pub fn delete<K: k8s_openapi::Resource>(&self, namespace: &str, name: &str) -> Result<(), Status> {
        let resource = resource_of::<K>()?;
        self.server.registry.delete(resource, namespace, name, &DeleteOptions::default()).map(drop)
    }

    /// Stores many ready-made objects of one kind quickly: no rules and no defaults; only `uid`, `creationTimestamp`
    /// and `resourceVersion` are filled in. Answers how many there were.
    pub fn insert_all<K>(&self, objects: impl IntoIterator<Item = K>) -> Result<usize, Status>
    where
        K: k8s_openapi::Resource + Serialize,
    {
        let resource = resource_of::<K>()?;
        let mut count = 0;
        for object in objects {
            let value = serde_json::to_value(object).map_err(|e| Status::internal(e.to_string()))?;
            self.server.registry.insert(resource, value)?;
            count += 1;
        }
        Ok(count)
    }

    /// Waits until an object (`None`: there is none) is as wanted, looking at each write to its kind. The error tells
    /// what was waited for and what was there in the end.
    ///
    /// The time is taken on the server's own clock, so that this works in a test whose clock is paused.
    pub async fn wait<K, F>(
        &self,
        namespace: &str,
        name: &str,
        within: Duration,
        what: &str,
        wanted: F,
    ) -> Result<Option<K>, String>
    where
        K: k8s_openapi::Resource + DeserializeOwned + Send + 'static,
        F: Fn(Option<&K>) -> bool + Send + 'static,
    {
        let resource = resource_of::<K>().map_err(|e| e.to_string())?;
        let Some(runtime) = &self.runtime else { return Err("the server is shut down".into()) };
        let this = self.clone();
        let (ns, object_name) = (namespace.to_owned(), name.to_owned());
        let waiting = runtime.spawn(async move {
            let mut written = this.server.registry.store.written(resource.table);
            let search = async move {
                loop {
                    written.mark_unchanged();
                    let found = this.get::<K>(&ns, &object_name);
                    if wanted(found.as_ref()) {
                        return Some(found);
                    }
                    if written.changed().await.is_err() {
                        return None;
                    }
                }
            };
            tokio::time::timeout(within, search).await.ok().flatten()
        });
        match waiting.await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => {
                let there = self.server.registry.get(resource, namespace, name).ok();
                let there = there.map_or_else(|| "nothing".to_owned(), |o| o.parse().to_string());
                Err(format!(
                    "{} {namespace}/{name} was not {what} within {within:?}; there is {there}",
                    K::KIND
                ))
            }
            Err(error) => Err(format!("waiting for {} {namespace}/{name} failed: {error}", K::KIND)),
        }
    }
}
