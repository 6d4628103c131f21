//! A backend that gives less than was asked for: [`Stingy`].

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use serde_json::Value;

use super::bed::{Bed, NAME};
use crate::{
    backend::{
        Backend, Capabilities, Error, Janitor, Known, KnownVolume, Removed, Restored, StoreExpectation,
        StoreStatus, Stores, Uncommitted,
        memory::{Memory, Operation},
    },
    volume::{
        Capacity, ExpandRequest, Expanded, InUse, Location, Permit, Placement, Removal, Source, Volume,
        VolumeId, VolumeName, VolumeRequest,
    },
};

/// The memory backend, save that its first volumes are too small.
struct Stingy {
    memory: Memory,
    left: AtomicUsize,
}

#[async_trait]
impl Backend for Stingy {
    fn capabilities(&self) -> &Capabilities {
        self.memory.capabilities()
    }

    fn place(&self, request: &VolumeRequest) -> Result<Placement, Error> {
        self.memory.place(request)
    }

    fn locate(&self, source: &Source) -> Option<Location> {
        self.memory.locate(source)
    }

    async fn create(&self, request: &VolumeRequest, permit: &Permit) -> Result<Volume, Error> {
        let volume = self.memory.create(request, permit).await?;
        let stingy =
            self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        let bytes = if stingy { 1 } else { 2 << 30 };
        Ok(Volume { capacity: Some(Capacity::from_bytes(bytes)), ..volume })
    }

    async fn commit(&self, id: &VolumeId, uid: &str, permit: &Permit) -> Result<(), Error> {
        self.memory.commit(id, uid, permit).await
    }

    async fn rollback(&self, uncommitted: &Uncommitted, permit: &Permit) -> Result<(), Error> {
        self.memory.rollback(uncommitted, permit).await
    }

    async fn remove(&self, removal: &Removal, permit: &Permit) -> Result<Removed, Error> {
        self.memory.remove(removal, permit).await
    }

    async fn restore(&self, removal: &Removal, permit: &Permit) -> Result<Restored, Error> {
        self.memory.restore(removal, permit).await
    }

    async fn expand(&self, growth: &ExpandRequest, permit: &Permit) -> Result<Expanded, Error> {
        self.memory.expand(growth, permit).await
    }
}

#[async_trait]
impl Janitor for Stingy {
    async fn unregistered(&self, store: &str, volumes: &[KnownVolume]) -> Result<Vec<VolumeName>, Error> {
        self.memory.unregistered(store, volumes).await
    }

    async fn register(&self, volume: &InUse, permit: &Permit) -> Result<(), Error> {
        self.memory.register(volume, permit).await
    }

    async fn list_uncommitted(&self, store: &str, known: Known<'_>) -> Result<Vec<Uncommitted>, Error> {
        self.memory.list_uncommitted(store, known).await
    }

    async fn collect_garbage(&self, permit: &Permit) {
        self.memory.collect_garbage(permit).await;
    }
}

impl Stores for Stingy {
    fn expect_store(&self, past: StoreExpectation) {
        self.memory.expect_store(past);
    }

    fn stores(&self) -> Vec<StoreStatus> {
        self.memory.stores()
    }
}

/// Proves: case 51
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_is_too_small_is_rolled_back_and_made_again() {
    let bed = Bed::without_controllers();
    let stingy = Stingy { memory: bed.memory.clone(), left: AtomicUsize::new(2) };
    let running = Bed::start_on(NAME, bed.settings().await, Arc::new(stingy));
    let uid = bed.annotated_claim("data");
    bed.provisioned(1).await;
    let why = bed.event("data", "ProvisioningFailed").await;
    assert!(why.contains("which is less than the 1Gi requested"), "{why}");
    running.stop().await;
    assert_eq!((bed.memory.calls(Operation::Create), bed.memory.calls(Operation::Rollback)), (3, 2));
    let stored: Value = serde_json::to_value(bed.volume(&format!("pvc-{uid}"))).unwrap();
    assert_eq!(stored["spec"]["capacity"]["storage"], "2Gi", "what the storage gives in the end");
}
