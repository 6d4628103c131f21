//! A storage system whose operations are timed: [`Metered`], a wrapper that is itself one.
//!
//! It changes nothing of what it passes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use async_trait::async_trait;

use super::Metrics;
use crate::{
    backend::{
        Backend, Capabilities, Error, Inspection, Janitor, Known, KnownVolume, Removed, Restored,
        StorageSystem, StoreExpectation, StoreStatus, Stores, Uncommitted,
    },
    volume::{
        ExpandRequest, Expanded, InUse, Location, Permit, Placement, Removal, SecretName, Source, Volume,
        VolumeId, VolumeName, VolumeRequest,
    },
};

/// `inner`, with the time of every operation recorded by store, operation and outcome.
pub struct Metered {
    inner: Arc<dyn StorageSystem>,
    metrics: Metrics,
}

impl Metered {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn StorageSystem>, metrics: Metrics) -> Self {
        Self { inner, metrics }
    }

    fn record<T>(
        &self,
        store: &str,
        operation: &'static str,
        began: Instant,
        result: Result<T, Error>,
    ) -> Result<T, Error> {
        let outcome = result.as_ref().err().map_or_else(|| "ok".to_owned(), |error| error.kind().to_string());
        let backend = self.inner.capabilities().name;
        self.metrics.backend_operation(backend, store, operation, outcome, began.elapsed());
        result
    }

    fn store_of(&self, source: &Source) -> String {
        self.inner.locate(source).map(|place| place.store).unwrap_or_default()
    }
}

#[async_trait]
impl Backend for Metered {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn place(&self, request: &VolumeRequest) -> Result<Placement, Error> {
        self.inner.place(request)
    }

    fn locate(&self, source: &Source) -> Option<Location> {
        self.inner.locate(source)
    }

    async fn create(&self, request: &VolumeRequest, permit: &Permit) -> Result<Volume, Error> {
        let began = Instant::now();
        let store = request.placement.as_ref().map_or("", |placement| &placement.location.store);
        let result = self.inner.create(request, permit).await;
        self.record(store, "create", began, result)
    }

    async fn commit(&self, id: &VolumeId, uid: &str, permit: &Permit) -> Result<(), Error> {
        let began = Instant::now();
        let result = self.inner.commit(id, uid, permit).await;
        self.record(id.store(), "confirm", began, result)
    }

    async fn rollback(&self, uncommitted: &Uncommitted, permit: &Permit) -> Result<(), Error> {
        let began = Instant::now();
        let result = self.inner.rollback(uncommitted, permit).await;
        self.record(uncommitted.id.store(), "discard", began, result)
    }

    async fn remove(&self, removal: &Removal, permit: &Permit) -> Result<Removed, Error> {
        let began = Instant::now();
        let result = self.inner.remove(removal, permit).await;
        self.record(&self.store_of(&removal.source), "remove", began, result)
    }

    async fn restore(&self, removal: &Removal, permit: &Permit) -> Result<Restored, Error> {
        let began = Instant::now();
        let result = self.inner.restore(removal, permit).await;
        self.record(&self.store_of(&removal.source), "restore", began, result)
    }

    async fn expand(&self, request: &ExpandRequest, permit: &Permit) -> Result<Expanded, Error> {
        let began = Instant::now();
        let result = self.inner.expand(request, permit).await;
        self.record(&self.store_of(&request.source), "expand", began, result)
    }
}

#[async_trait]
impl Janitor for Metered {
    fn kept_secret(&self, record: &BTreeMap<String, String>) -> Option<SecretName> {
        self.inner.kept_secret(record)
    }

    async fn unregistered(&self, store: &str, volumes: &[KnownVolume]) -> Result<Vec<VolumeName>, Error> {
        let began = Instant::now();
        let result = self.inner.unregistered(store, volumes).await;
        self.record(store, "unregistered", began, result)
    }

    async fn register(&self, volume: &InUse, permit: &Permit) -> Result<(), Error> {
        let began = Instant::now();
        let result = self.inner.register(volume, permit).await;
        self.record(&self.store_of(&volume.source), "register", began, result)
    }

    async fn list_uncommitted(&self, store: &str, known: Known<'_>) -> Result<Vec<Uncommitted>, Error> {
        let began = Instant::now();
        let result = self.inner.list_uncommitted(store, known).await;
        self.record(store, "unfinished", began, result)
    }

    async fn collect_garbage(&self, permit: &Permit) {
        self.inner.collect_garbage(permit).await;
    }
}

impl Stores for Metered {
    fn inspect(&self, parameters: &BTreeMap<String, String>) -> Inspection {
        self.inner.inspect(parameters)
    }

    fn is_provisional(&self, store: &str) -> bool {
        self.inner.is_provisional(store)
    }

    fn expect_store(&self, past: StoreExpectation) {
        self.inner.expect_store(past);
    }

    fn register_class(&self, parameters: &BTreeMap<String, String>) {
        self.inner.register_class(parameters);
    }

    fn retain_stores(&self, classes: &[BTreeMap<String, String>], used: &BTreeSet<String>) {
        self.inner.retain_stores(classes, used);
        let left = self.inner.stores();
        let known = |store: &str| left.iter().any(|known| known.name == store);
        self.metrics.retain_stores(self.inner.capabilities().name, known);
    }

    fn stores(&self) -> Vec<StoreStatus> {
        self.inner.stores()
    }
}
