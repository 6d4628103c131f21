//! A cluster, and the means to work on it: [`FsClient`]; and a volume that is held while it is worked on: [`Marked`].

use std::sync::Arc;

use super::{
    info::{Found, Subvolume},
    mark::{Mark, Marks, Owner},
    names,
    store::Store,
    subvolumes::Subvolumes,
};
use crate::{
    backend::{Error, Kind, Kubernetes, ceph::Admin},
    system::keyed_lock::{KeyedLock, KeyedLocks},
    volume::{SecretName, VolumeName},
};

/// Holds a volume, unless something is being done to it.
pub(super) fn try_lock(
    locks: &KeyedLocks<VolumeName>,
    name: &VolumeName,
) -> Result<KeyedLock<VolumeName>, Error> {
    locks.try_lock(name).ok_or_else(|| {
        Error::new(Kind::Busy, format!("volume {name} is being worked on; it is tried again soon"))
    })
}

/// What is written on a subvolume, which stays so for as long as this is held.
pub(super) struct Marked {
    pub(super) marks: Marks,
    pub(super) mark: Mark,
    pub(super) name: VolumeName,
    _held: KeyedLock<VolumeName>,
}

/// A cluster, and the means to work on it.
pub(super) struct FsClient {
    pub(super) store: Arc<Store>,
    pub(super) kube: Arc<dyn Kubernetes>,
    pub(super) subvolumes: Subvolumes,
    locks: KeyedLocks<VolumeName>,
}

impl FsClient {
    pub(super) async fn new(
        store: Arc<Store>,
        kube: &Arc<dyn Kubernetes>,
        admin: Admin,
        locks: KeyedLocks<VolumeName>,
    ) -> Result<Self, Error> {
        let subvolumes = Subvolumes::open(kube, &store.cluster, &admin).await?;
        store.memory().admin = Some(admin);
        Ok(Self { store, kube: Arc::clone(kube), subvolumes, locks })
    }

    /// What is written on a subvolume that is marked as this cluster's, while its volume is held: nothing else can be done to it.
    /// `None` where there is none.
    pub(super) async fn try_lock(&self, at: &Subvolume) -> Result<Option<Marked>, Error> {
        let mut name = names::volume_of(&at.name);
        loop {
            let held = name.as_ref().map(|name| try_lock(&self.locks, name)).transpose()?;
            let Found::Subvolume(metadata) = self.subvolumes.metadata(at).await? else { return Ok(None) };
            let marks = Marks::read(&metadata);
            let Owner::Claim(mark) = marks.owner.clone() else { return Ok(None) };
            if !mark.is_of(self.kube.cluster_ids().as_ref()) {
                return Ok(None);
            }
            // Not every name tells of which volume it is.
            let owner = VolumeName::for_claim(&mark.uid)?;
            match held {
                Some(held) if name.as_ref() == Some(&owner) => {
                    return Ok(Some(Marked { marks, mark, name: owner, _held: held }));
                }
                Some(_) | None => name = Some(owner),
            }
        }
    }

    /// Drops the cached file system if the result is `NotFound`.
    pub(super) fn invalidate<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if result.as_ref().is_err_and(|error| error.kind() == Kind::NotFound) {
            self.store.memory().filesystem = None;
        }
        result
    }

    /// The file system of that name, else the only one that there is, or the only one that has this subvolume group: a second file
    /// system does not stop what works with the first.
    pub(super) async fn filesystem(&self, named: Option<&str>, group: Option<&str>) -> Result<String, Error> {
        if let Some(name) = named {
            return Ok(name.to_owned());
        }
        if let Some(known) = self.store.memory().filesystem.clone() {
            return Ok(known);
        }
        let all = self.subvolumes.filesystems().await?;
        match all.as_slice() {
            [only] => {
                self.store.memory().filesystem = Some(only.clone());
                Ok(only.clone())
            }
            [] => {
                let message = format!(
                    "cluster {} has no file system; create one (ceph fs volume create NAME), or use another cluster",
                    self.store.cluster.name()
                );
                Err(Error::new(Kind::NotFound, message))
            }
            several => {
                let mut having = Vec::new();
                for fs in several {
                    if let Some(group) = group
                        && self.subvolumes.groups(fs).await?.iter().any(|there| there == group)
                    {
                        having.push(fs);
                    }
                }
                if let [only] = having.as_slice() {
                    return Ok((*only).clone());
                }
                let message = format!(
                    "cluster {} has several file systems; write one of them as class parameter fsName: {}",
                    self.store.cluster.name(),
                    several.join(", ")
                );
                Err(Error::new(Kind::Invalid, message))
            }
        }
    }

    /// Whether the subvolume certainly does not exist; from now on it may.
    ///
    /// A list of the group, once in a term, spares asking for each name.
    pub(super) async fn is_new(&self, at: &Subvolume) -> Result<bool, Error> {
        let group = (at.fs.clone(), at.group.clone());
        if let Some(present) = self.store.memory().present.get_mut(&group) {
            return Ok(present.insert(&at.name));
        }
        let names = self.subvolumes.list(&at.fs, &at.group).await?;
        let mut memory = self.store.memory();
        let present = memory.present.entry(group).or_default();
        for name in names {
            present.insert(&name);
        }
        Ok(present.insert(&at.name))
    }

    /// The identity of the cluster, which must be what it was.
    pub(super) async fn identity(&self) -> Result<String, Error> {
        self.subvolumes.prove_identity(&self.store.identity, &self.store.cluster).await
    }

    /// Refuses a cluster that is not the one that the PV was made on.
    pub(super) async fn prove_identity(&self, recorded: Option<&str>) -> Result<(), Error> {
        let fsid = self.subvolumes.fsid().await?;
        let name = self.store.cluster.name();
        match recorded {
            Some(recorded) if recorded == fsid => Ok(()),
            Some(recorded) => Err(Error::new(
                Kind::Refused,
                format!(
                    "cluster {name} is {fsid}, but the volume was made on {recorded}; nothing was touched. Correct the monitors of \
                     {name}, or remove the PersistentVolume by hand if that cluster is gone"
                ),
            )),
            None => Err(Error::new(
                Kind::Refused,
                format!(
                    "the PersistentVolume does not say on which cluster its volume was made (cluster {name} is {fsid}); nothing was \
                     touched. Restore its annotation berth.storage/store-id"
                ),
            )),
        }
    }

    /// Forgets a Secret that we kept. One that is not ours by now is left where it is.
    pub(super) async fn forget(&self, secret: &SecretName, owner: &VolumeName) -> Result<(), Error> {
        match self.kube.delete(secret, owner).await {
            Err(error) if error.kind() == Kind::Refused => {
                tracing::warn!(%secret, volume = %owner, error = error.chain(), "a Secret was left where it is");
                let why = "it was not made by this provisioner; remove it by hand if it is not used";
                self.store.memory().set_problem(format!("Secret {secret}"), why.to_owned());
                Ok(())
            }
            result => result,
        }
    }
}
