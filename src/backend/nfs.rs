//! Directories on NFS exports that are mounted here: [`Nfs`], made from [`Export`]s.
//!
//! Volumes are plain directories, named as nfs-subdir-external-provisioner names them. Our records lie beside them in
//! `.berth` at the export's root (see `record`). This code mounts nothing and speaks no NFS: it needs a mounted directory.

mod archive;
mod class;
mod commit;
mod connect;
mod create;
mod entry;
mod export;
mod identity;
mod index;
mod legacy;
mod mounted;
mod moves;
mod op_error;
mod parents;
pub(in crate::backend) mod path_pattern;
mod places;
mod prove;
mod record;
mod recorded;
mod register;
mod remains;
mod remove;
mod restore;
mod roots;
mod stage;
mod store;
#[cfg(test)]
mod tests;
mod trash;
mod trash_state;
mod upgrade;
mod usability;
mod work;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
pub use class::PARAMETERS;
pub use connect::NfsConnector;
use create::Created;
pub use export::{Export, NAME, check};
use roots::Roots;
use store::Store;

use crate::{
    backend::{
        Backend, Capabilities, ClusterInfo, Error, Inspection, Janitor, Kind, Known, KnownVolume, PvState,
        Removed, Restored, StoreExpectation, StoreStatus, Stores, Uncommitted,
    },
    volume::{
        Disposal, ExpandRequest, Expanded, InUse, Location, Permit, Placement, Removal, Source, Volume,
        VolumeId, VolumeName, VolumeRequest,
    },
};

/// The backend. Opens nothing until it is told which volumes exist ([`Stores::expect_store`]).
#[derive(Debug)]
pub struct Nfs {
    capabilities: Capabilities,
    exports: Vec<Export>,
    stores: Vec<Arc<Store>>,
}

impl Nfs {
    /// A backend over these exports; the first is used where a class names none. Checks what can be checked without
    /// touching them: names, servers, paths, and that no two overlap.
    pub fn new(exports: Vec<Export>, kube: Arc<dyn ClusterInfo>) -> Result<Self, Error> {
        export::check(&exports)?;
        let roots = Arc::<Roots>::default();
        let store = move |export| Store::new(export, Arc::clone(&kube), Arc::clone(&roots));
        let stores = exports.iter().cloned().map(store).collect();
        let concurrency = exports.iter().map(|export| export.threads).sum();
        let capabilities = Capabilities {
            name: NAME,
            block: false,
            expand: true,
            parameters: PARAMETERS,
            case_insensitive: false,
            legacy_default: Disposal::Archive,
            concurrency,
        };
        Ok(Self { capabilities, exports, stores })
    }

    fn store(&self, name: &str) -> Result<&Arc<Store>, Error> {
        self.stores.iter().find(|store| store.export.name == name).ok_or_else(|| {
            let there = export::listed(&self.exports);
            Error::new(Kind::Refused, format!("export {name:?} is not configured; there are {there}"))
        })
    }

    /// Where a PV says that its volume lies: on the export that its id names, if it has one.
    fn located(
        &self,
        source: &Source,
        id: Option<&VolumeId>,
        name: &VolumeName,
    ) -> Result<(&Arc<Store>, Location), Error> {
        let Some(place) = self.locate(source) else {
            let message = format!(
                "{source} of volume {name} lies strictly below none of the exports {}; nothing was touched. If the \
                 server or the path was renamed, configure the old name as an alias or a former path",
                export::listed(&self.exports)
            );
            return Err(Error::new(Kind::Refused, message));
        };
        if let Some(id) = id
            && self.store_of(id)?.export.name != place.store
        {
            let message = format!("volume {id} lies on export {}, which its id does not name", place.store);
            return Err(Error::new(Kind::Refused, message));
        }
        Ok((self.store(&place.store)?, place))
    }

    /// The store of a volume of ours.
    fn store_of(&self, id: &VolumeId) -> Result<&Arc<Store>, Error> {
        if id.backend() != NAME {
            return Err(Error::new(Kind::Refused, format!("volume {id} is not one of the NFS backend")));
        }
        self.store(id.store())
    }
}

#[async_trait]
impl Backend for Nfs {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn place(&self, request: &VolumeRequest) -> Result<Placement, Error> {
        let plan = class::plan(&self.exports, request)?;
        Ok(Placement::new(plan.place.clone(), plan.existing == class::Existing::Share, plan))
    }

    fn locate(&self, source: &Source) -> Option<Location> {
        self.exports.iter().find_map(|export| export.locate(source))
    }

    async fn create(&self, request: &VolumeRequest, permit: &Permit) -> Result<Volume, Error> {
        let plan = request.plan(|| class::plan(&self.exports, request))?;
        let store = self.store(&plan.place.store)?;
        let path = plan.place.path.clone();
        let mut gone = None;
        loop {
            let held = store.try_lock(&request.name)?;
            let (request, plan, without) = (request.clone(), Arc::clone(&plan), gone.clone());
            let what = format!("create volume {} in directory {path}", request.name);
            let created = store
                .run(what, Some(held), permit, move |work| {
                    create::create(work, &request, &plan, without.as_ref())
                })
                .await?;
            let former = match created {
                Created::Volume(volume) => return Ok(*volume),
                Created::Formerly(former) => former,
            };
            // Only a volume that no PV tells of any more leaves its directory to another one.
            if gone.is_some() || store.kube.pv_state(&former).await? != PvState::Absent {
                let message = format!(
                    "directory {path} belongs to volume {former}, which was made for an earlier claim of the same name; \
                     delete PersistentVolume {former} if its data is to be this claim's"
                );
                return Err(Error::new(Kind::Conflict, message));
            }
            gone = Some(former);
        }
    }

    async fn commit(&self, id: &VolumeId, uid: &str, permit: &Permit) -> Result<(), Error> {
        let store = self.store_of(id)?;
        let held = store.try_lock(id.name())?;
        let (what, name) = (format!("commit volume {}", id.name()), id.name().clone());
        let uid = uid.to_owned();
        store.run(what, Some(held), permit, move |work| commit::commit(work, &name, &uid)).await
    }

    async fn rollback(&self, uncommitted: &Uncommitted, permit: &Permit) -> Result<(), Error> {
        let store = self.store_of(&uncommitted.id)?;
        let held = store.try_lock(uncommitted.id.name())?;
        let uncommitted = uncommitted.clone();
        let what = format!("roll back uncommitted volume {}", uncommitted.id.name());
        store.run(what, Some(held), permit, move |work| commit::rollback(work, &uncommitted)).await
    }

    async fn remove(&self, removal: &Removal, permit: &Permit) -> Result<Removed, Error> {
        let (store, place) = self.located(&removal.source, removal.id.as_ref(), &removal.name)?;
        if let Some(id) = &removal.id
            && *id.name() != removal.name
        {
            let message = format!("PersistentVolume {} carries the id of another volume, {id}", removal.name);
            return Err(Error::new(Kind::Refused, message));
        }
        let held = store.try_lock(&removal.name)?;
        let removal = removal.clone();
        let what =
            format!("remove volume {} ({}) in directory {}", removal.name, removal.disposal, place.path);
        store.run(what, Some(held), permit, move |work| remove::remove(work, &removal, &place.path)).await
    }

    async fn restore(&self, removal: &Removal, permit: &Permit) -> Result<Restored, Error> {
        // What lies in none of the exports was never begun on.
        let Some(place) = self.locate(&removal.source) else { return Ok(Restored::InPlace) };
        let store = self.store(&place.store)?;
        let held = store.try_lock(&removal.name)?;
        let removal = removal.clone();
        let what = format!("restore volume {} to directory {}", removal.name, place.path);
        store.run(what, Some(held), permit, move |work| restore::restore(work, &removal, &place.path)).await
    }

    async fn expand(&self, request: &ExpandRequest, _: &Permit) -> Result<Expanded, Error> {
        // A directory holds what the server has room for: there is nothing to enlarge.
        if self.locate(&request.source).is_some() {
            return Ok(Expanded { capacity: request.capacity, on_node: false });
        }
        let there = export::listed(&self.exports);
        let message = format!("{} lies strictly below none of the exports {there}", request.source);
        Err(Error::new(Kind::NotFound, message))
    }
}

#[async_trait]
impl Janitor for Nfs {
    async fn unregistered(&self, store: &str, volumes: &[KnownVolume]) -> Result<Vec<VolumeName>, Error> {
        register::unregistered(self.store(store)?, volumes).await
    }

    async fn register(&self, volume: &InUse, permit: &Permit) -> Result<(), Error> {
        let (store, place) = self.located(&volume.source, volume.id.as_ref(), &volume.name)?;
        let held = store.try_lock(&volume.name)?;
        let volume = volume.clone();
        let what = format!("record volume {} in directory {}", volume.name, place.path);
        store.run(what, Some(held), permit, move |work| register::register(work, &volume, &place.path)).await
    }

    async fn list_uncommitted(&self, store: &str, _: Known<'_>) -> Result<Vec<Uncommitted>, Error> {
        let store = self.store(store)?;
        store
            .run("list uncommitted volumes".into(), None, &Permit::unlimited(), commit::list_uncommitted)
            .await
    }

    async fn collect_garbage(&self, permit: &Permit) {
        let per_store =
            |store| futures::future::join(upgrade::run(store, permit), trash::collect_garbage(store, permit));
        futures::future::join_all(self.stores.iter().map(per_store)).await;
    }
}

impl Stores for Nfs {
    fn inspect(&self, parameters: &BTreeMap<String, String>) -> Inspection {
        class::inspect(parameters)
    }

    fn expect_store(&self, expected: StoreExpectation) {
        match self.store(&expected.store) {
            Ok(store) => store.expect_store(expected),
            Err(error) => tracing::warn!(%error, "volumes exist on an export that is not configured"),
        }
    }

    fn stores(&self) -> Vec<StoreStatus> {
        self.stores.iter().map(|store| store.status()).collect()
    }
}
