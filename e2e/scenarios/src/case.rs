//! What one scenario has to itself: a namespace, a provisioner name, an NFS server's name, an
//! export directory, the berth processes it started, and the ways to wait for things.
//!
//! The control plane is shared with other scenarios. Nothing of one scenario is seen by another's
//! berth but as foreign objects, since provisioner names and NFS servers differ.
//!
//! Waiting is [`Case::until`]: it asks again until the answer is good or [`PATIENCE`] is over, and
//! gives up at once when a berth process ended that nobody ended.

mod objects;

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{Event, Namespace, PersistentVolume, PersistentVolumeClaim, Pod},
        storage::v1::StorageClass,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

pub use self::objects::{ClaimBuilder, ClassBuilder, Volume, VolumeBuilder, pod, stateful_set};
use crate::{
    berth::{Berth, Export, Setup},
    ceph::Cluster,
    control_plane::{ControlPlane, User},
    process::ScratchDir,
    proxy::Proxy,
};

/// How long anything may take before it counts as never. Far more than a busy machine needs.
pub const PATIENCE: Duration = Duration::from_mins(3);

/// Everything that a scenario works with.
pub struct Case {
    /// The control plane, shared with other scenarios.
    pub plane: Arc<ControlPlane>,
    /// Acts as the administrator.
    pub admin: Client,
    /// Its own namespace.
    pub namespace: String,
    /// Its own provisioner name.
    pub provisioner: String,
    /// Its own NFS server. Nothing ever connects to it.
    pub server: String,
    /// `NFS_PATH`.
    pub path: String,
    ceph: Option<Arc<Cluster>>,
    id: String,
    program: PathBuf,
    dir: ScratchDir,
    export: PathBuf,
    berths: Mutex<Vec<(String, Berth)>>,
    notes: Mutex<Vec<String>>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Case {
    /// Makes the namespace and the export directory for one scenario.
    pub async fn new(plane: Arc<ControlPlane>, program: &Path) -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let id = format!("e2e-{:03}", COUNT.fetch_add(1, Ordering::Relaxed) + 1);
        let admin = plane.client(User::Admin).await?;
        let dir = ScratchDir::new("berth-e2e-")?;
        std::fs::create_dir(dir.path().join("export")).context("make the export directory")?;
        let case = Self {
            namespace: id.clone(),
            provisioner: format!("{id}.test/nfs"),
            server: format!("{id}.nfs.test"),
            path: "/export".to_owned(),
            ceph: None,
            id,
            program: program.to_owned(),
            admin,
            plane,
            export: dir.path().join("export"),
            dir,
            berths: Mutex::default(),
            notes: Mutex::default(),
        };
        let namespace = json!({ "metadata": { "name": case.namespace } });
        case.create_global::<Namespace>(&namespace).await?;
        Ok(case)
    }

    /// The same export, or Ceph cluster, as another Kubernetes cluster uses it: an embedded control plane of its own, in which
    /// namespace, provisioner and NFS server have the same names.
    pub async fn neighbour(&self) -> Result<Self> {
        let plane = Arc::new(ControlPlane::embedded().await?);
        let case = Self {
            admin: plane.client(User::Admin).await?,
            plane,
            namespace: self.namespace.clone(),
            provisioner: self.provisioner.clone(),
            server: self.server.clone(),
            path: self.path.clone(),
            ceph: self.ceph.clone(),
            id: self.id.clone(),
            program: self.program.clone(),
            dir: ScratchDir::new("berth-e2e-")?,
            export: self.export.clone(),
            berths: Mutex::default(),
            notes: Mutex::default(),
        };
        let namespace = json!({ "metadata": { "name": case.namespace } });
        case.create_global::<Namespace>(&namespace).await?;
        Ok(case)
    }

    /// The identity of the Kubernetes cluster: the UID of its namespace `kube-system`.
    pub async fn cluster_id(&self) -> Result<String> {
        let system = self.global::<Namespace>().get("kube-system").await.context("read kube-system")?;
        system.uid().context("kube-system has no UID")
    }

    /// With a Ceph cluster, which is shared with other scenarios, and without an export.
    #[must_use]
    pub fn on(mut self, cluster: Arc<Cluster>) -> Self {
        "rbd.berth.storage".clone_into(&mut self.provisioner);
        self.ceph = Some(cluster);
        self
    }

    /// The Ceph cluster of the suite that has one.
    pub fn cluster(&self) -> Result<&Arc<Cluster>> {
        self.ceph.as_ref().context("there is no Ceph cluster in this suite")
    }

    /// The export's directory as berth sees it.
    #[must_use]
    pub fn export(&self) -> PathBuf {
        self.export.clone()
    }

    /// A directory for the scenario's own files, beside the export.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// The short name that is unique to this scenario and begins the names of its classes.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    // --- berth ---------------------------------------------------------------------------------

    /// How berth is started in this scenario, with the rights of `deploy/manifests/`.
    pub fn setup(&self) -> Result<Setup> {
        self.setup_as(User::Berth)
    }

    /// As [`Case::setup`], with the rights of `user`.
    pub fn setup_as(&self, user: User) -> Result<Setup> {
        Ok(Setup {
            user,
            access: self.plane.access(user)?,
            provisioner: self.provisioner.clone(),
            export: self.ceph.is_none().then(|| Export {
                server: self.server.clone(),
                path: self.path.clone(),
                root: self.export(),
            }),
            leader_election: true,
            log: None,
            flags: Vec::new(),
            environment: Vec::new(),
        })
    }

    /// Starts berth and waits until its probes answer.
    pub async fn berth(&self) -> Result<Berth> {
        let berth = self.start(&self.setup()?)?;
        berth.answers("/livez").await?;
        Ok(berth)
    }

    /// Starts berth as told, without waiting for anything.
    pub fn start(&self, setup: &Setup) -> Result<Berth> {
        let mut berths = self.berths.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("berth-{}", berths.len() + 1);
        let berth = setup.start(&self.program, &name, self.dir.path())?;
        berths.push((name, berth.clone()));
        Ok(berth)
    }

    /// A proxy before the API server, for faults.
    pub async fn proxy(&self) -> Result<Proxy> {
        Proxy::start(&self.plane.access(User::Berth)?).await
    }

    /// Fails if a berth process has ended that the scenario did not end.
    pub fn check_berths(&self) -> Result<()> {
        let berths = self.berths.lock().unwrap_or_else(PoisonError::into_inner);
        berths.iter().filter(|(_, berth)| !berth.may_end()).try_for_each(|(_, berth)| berth.check_alive())
    }

    // --- waiting -------------------------------------------------------------------------------

    /// Asks `ask` again and again until it succeeds; its last error is told when it never does.
    pub async fn until<T>(&self, what: &str, mut ask: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(10);
        loop {
            let error = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            self.check_berths()
                .and_then(|()| self.plane.check_alive())
                .with_context(|| format!("while waiting for {what}"))?;
            if Instant::now() >= deadline {
                return Err(error.context(format!("waited {PATIENCE:?} for {what}")));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(150));
        }
    }

    /// As [`Case::until`], for what is asked of the file system.
    pub async fn until_so(&self, what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
        self.until(what, async || {
            ensure!(holds(), "not so");
            Ok(())
        })
        .await
    }

    // --- objects -------------------------------------------------------------------------------

    /// The API for objects of this scenario's namespace.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.admin.clone(), &self.namespace)
    }

    /// The API for cluster-scoped objects.
    #[must_use]
    pub fn global<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = ()>,
    {
        Api::all(self.admin.clone())
    }

    /// Makes an object in this scenario's namespace.
    pub async fn create<K>(&self, object: &Value) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + Serialize
            + std::fmt::Debug,
    {
        create(&self.api(), object).await
    }

    /// Makes a cluster-scoped object.
    pub async fn create_global<K>(&self, object: &Value) -> Result<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
    {
        create(&self.global(), object).await
    }

    /// Begins a `StorageClass` of this provisioner; the class is called `<id>-<name>`.
    #[must_use]
    pub fn class(&self, name: &str) -> ClassBuilder<'_> {
        ClassBuilder::new(self, name)
    }

    /// Begins a claim.
    #[must_use]
    pub fn claim(&self, name: &str) -> ClaimBuilder<'_> {
        ClaimBuilder::new(self, name)
    }

    /// Begins a PV as the old provisioner made them, without any mark of ours.
    #[must_use]
    pub fn old_volume(&self, directory: &str) -> VolumeBuilder<'_> {
        VolumeBuilder::new(self, directory)
    }

    /// A claim as it is now.
    pub async fn get_claim(&self, name: &str) -> Result<PersistentVolumeClaim> {
        let claims: Api<PersistentVolumeClaim> = self.api();
        claims.get(name).await.with_context(|| format!("get claim {name}"))
    }

    /// A PV as it is now, `None` if there is none.
    pub async fn get_volume(&self, name: &str) -> Result<Option<PersistentVolume>> {
        let volumes: Api<PersistentVolume> = self.global();
        volumes.get_opt(name).await.with_context(|| format!("get PV {name}"))
    }

    /// The PVs of this scenario's provisioner.
    pub async fn volumes(&self) -> Result<Vec<PersistentVolume>> {
        let volumes: Api<PersistentVolume> = self.global();
        let mut all = volumes.list(&ListParams::default()).await.context("list PVs")?.items;
        all.retain(|volume| {
            volume
                .annotations()
                .get("pv.kubernetes.io/provisioned-by")
                .is_some_and(|by| *by == self.provisioner)
        });
        Ok(all)
    }

    /// Waits until the claim is bound to a directory of this scenario's export.
    pub async fn bound(&self, claim: &str) -> Result<Volume> {
        let (claim, volume) = self.bound_pair(claim).await?;
        Volume::new(self, claim, volume)
    }

    /// Waits until the claim is bound, to whatever it is.
    pub async fn bound_pair(&self, claim: &str) -> Result<(PersistentVolumeClaim, PersistentVolume)> {
        self.until(&format!("claim {claim} to be bound"), async || {
            let claim = self.get_claim(claim).await?;
            let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("(none)");
            ensure!(phase == "Bound", "its phase is {phase}");
            let name = claim
                .spec
                .as_ref()
                .and_then(|spec| spec.volume_name.clone())
                .context("it names no volume")?;
            let volume = self.get_volume(&name).await?.with_context(|| format!("PV {name} is not there"))?;
            Ok((claim, volume))
        })
        .await
    }

    /// Deletes a claim, without waiting for what follows.
    pub async fn delete_claim(&self, name: &str) -> Result<()> {
        let claims: Api<PersistentVolumeClaim> = self.api();
        claims
            .delete(name, &DeleteParams::default())
            .await
            .with_context(|| format!("delete claim {name}"))
            .map(drop)
    }

    /// Deletes a class.
    pub async fn delete_class(&self, class: &str) -> Result<()> {
        let classes: Api<StorageClass> = self.global();
        classes
            .delete(class, &DeleteParams::default())
            .await
            .with_context(|| format!("delete class {class}"))
            .map(drop)
    }

    /// Ends a pod as a kubelet would confirm it: at once.
    pub async fn delete_pod(&self, name: &str) -> Result<()> {
        let pods: Api<Pod> = self.api();
        pods.delete(name, &DeleteParams::default().grace_period(0))
            .await
            .with_context(|| format!("delete pod {name}"))
            .map(drop)
    }

    /// Waits until a claim is gone.
    pub async fn claim_gone(&self, name: &str) -> Result<()> {
        let claims: Api<PersistentVolumeClaim> = self.api();
        self.until(&format!("claim {name} to be gone"), async || {
            let claim = claims.get_opt(name).await?;
            ensure!(claim.is_none(), "it is still there");
            Ok(())
        })
        .await
    }

    /// Waits until a PV is gone.
    pub async fn volume_gone(&self, name: &str) -> Result<()> {
        self.until(&format!("PV {name} to be gone"), async || {
            let volume = self.get_volume(name).await?;
            let phase = volume.as_ref().map(phase);
            ensure!(volume.is_none(), "it is still there, {phase:?}");
            Ok(())
        })
        .await
    }

    /// Waits until a PV has `wanted` as its phase.
    pub async fn volume_phase(&self, name: &str, wanted: &str) -> Result<PersistentVolume> {
        self.until(&format!("PV {name} to be {wanted}"), async || {
            let volume = self.get_volume(name).await?.context("it is not there")?;
            let phase = phase(&volume);
            ensure!(phase == wanted, "it is {phase}");
            Ok(volume)
        })
        .await
    }

    /// Merges `patch` into a PV.
    pub async fn patch_volume(&self, name: &str, patch: &Value) -> Result<()> {
        let volumes: Api<PersistentVolume> = self.global();
        volumes
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .with_context(|| format!("patch PV {name}"))
            .map(drop)
    }

    /// Merges `patch` into a claim.
    pub async fn patch_claim(&self, name: &str, patch: &Value) -> Result<()> {
        let claims: Api<PersistentVolumeClaim> = self.api();
        claims
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .with_context(|| format!("patch claim {name}"))
            .map(drop)
    }

    /// Tells a claim what the kubelet tells it when it has enlarged the file system of its CSI volume, once that is asked for: until
    /// then a claim grows no further.
    pub async fn file_system_grew(&self, name: &str, size: &str) -> Result<()> {
        self.until(&format!("claim {name} to wait for its node"), async || {
            let status = self.get_claim(name).await?.status.unwrap_or_default();
            let asked = status.allocated_resource_statuses.unwrap_or_default();
            let asked = asked.get("storage").map(String::as_str);
            ensure!(asked == Some("NodeResizePending"), "its storage is {asked:?}");
            Ok(())
        })
        .await?;
        let claims: Api<PersistentVolumeClaim> = self.api();
        let done = json!({ "status": {
            "capacity": { "storage": size }, "allocatedResourceStatuses": null, "conditions": null,
        } });
        claims
            .patch_status(name, &PatchParams::default(), &Patch::Merge(&done))
            .await
            .with_context(|| format!("patch the status of claim {name}"))
            .map(drop)
    }

    /// The Events about one object. Those of a PV lie in the namespace `default`.
    pub async fn events(&self, kind: &str, name: &str) -> Result<Vec<Event>> {
        let namespace = if kind == "PersistentVolume" { "default" } else { &self.namespace };
        let events: Api<Event> = Api::namespaced(self.admin.clone(), namespace);
        let mut all = events.list(&ListParams::default()).await.context("list events")?.items;
        all.retain(|event| {
            event.involved_object.kind.as_deref() == Some(kind)
                && event.involved_object.name.as_deref() == Some(name)
        });
        Ok(all)
    }

    /// Waits for an Event of berth's with `reason` about an object, and gives its message.
    pub async fn event(&self, kind: &str, name: &str, reason: &str) -> Result<String> {
        // kube-controller-manager uses some of the same reasons.
        self.event_by(kind, name, reason, |component| self.is_ours(component)).await
    }

    /// Waits for an Event of Kubernetes' own controllers.
    pub async fn event_of_kubernetes(&self, kind: &str, name: &str, reason: &str) -> Result<String> {
        self.event_by(kind, name, reason, |component| !self.is_ours(component)).await
    }

    /// Whether an Event comes from a berth of this scenario, by the name of its component: provisioner, machine, process.
    fn is_ours(&self, component: &str) -> bool {
        match &self.ceph {
            None => component.starts_with(&self.provisioner),
            // It serves several names, and the API server is this scenario's own.
            Some(_) => component.contains('_'),
        }
    }

    async fn event_by(
        &self,
        kind: &str,
        name: &str,
        reason: &str,
        by: impl Fn(&str) -> bool,
    ) -> Result<String> {
        self.until(&format!("an Event {reason} on {kind} {name}"), async || {
            let events = self.events(kind, name).await?;
            let seen: Vec<(&str, &str)> = events
                .iter()
                .map(|event| {
                    let source = event.source.as_ref().and_then(|source| source.component.as_deref());
                    (event.reason.as_deref().unwrap_or_default(), source.unwrap_or_default())
                })
                .collect();
            let event = events
                .iter()
                .zip(&seen)
                .find(|(_, (found, component))| *found == reason && by(component))
                .with_context(|| format!("only these are there: {seen:?}"))?
                .0;
            Ok(event.message.clone().unwrap_or_default())
        })
        .await
    }

    /// Proves that berth has worked through what was before: a claim of `class` made now is bound,
    /// deleted, and its volume is gone. For scenarios in which something must *not* happen.
    pub async fn barrier(&self, class: &str) -> Result<()> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("barrier-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.claim(&name).class(class).annotation("path", &name).create().await?;
        let volume = self.bound(&name).await?;
        self.delete_claim(&name).await?;
        self.volume_gone(&volume.name).await
    }

    // --- storage -------------------------------------------------------------------------------

    /// The names at the root of the export, without berth's own folder.
    pub fn root(&self) -> Result<BTreeSet<String>> {
        std::fs::read_dir(self.export())
            .context("read the export")?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .filter(|name| name.as_ref().map_or(true, |name| name != ".berth"))
            .collect()
    }

    /// Every path beneath the export, in order; directories end in a slash.
    pub fn tree(&self) -> Result<Vec<String>> {
        let root = self.export();
        let mut found = Vec::new();
        let mut left = vec![root.clone()];
        while let Some(dir) = left.pop() {
            let entries = match std::fs::read_dir(&dir) {
                Ok(entries) => entries,
                // Berth works while we look.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| format!("read {}", dir.display())),
            };
            for entry in entries {
                let entry = entry.context("read an entry")?;
                let path = entry.path();
                let mut name = path
                    .strip_prefix(&root)
                    .context("an entry outside the export")?
                    .to_string_lossy()
                    .into_owned();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    name.push('/');
                    left.push(path);
                }
                found.push(name);
            }
        }
        found.sort();
        Ok(found)
    }

    /// What lies in berth's own folder below `below`, e.g. `trash`.
    pub fn own(&self, below: &str) -> Result<Vec<String>> {
        let prefix = format!(".berth/{below}/");
        Ok(self
            .tree()?
            .into_iter()
            .filter_map(|path| Some(path.strip_prefix(&prefix)?.to_owned()))
            .filter(|path| !path.is_empty())
            .collect())
    }

    // --- reports -------------------------------------------------------------------------------

    /// Adds to what is told if the scenario fails.
    pub fn note(&self, text: impl Into<String>) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(text.into());
    }

    /// All that helps to understand a failure: logs, objects, Events, the tree of the export.
    pub async fn dump(&self) -> String {
        let mut text = String::new();
        self.dump_into(&mut text).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot write the report");
        });
        text
    }

    async fn dump_into(&self, text: &mut String) -> Result<()> {
        let berths = self.berths.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut logs = String::new();
        for (name, berth) in berths {
            let log = berth.log();
            logs.push_str(&log);
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(150);
            writeln!(text, "--- log of {name} (pid {}), from line {}", berth.pid(), from + 1)?;
            for line in lines.get(from..).unwrap_or_default() {
                writeln!(text, "{line}")?;
            }
        }
        writeln!(text, "--- claims of {}", self.namespace)?;
        let claims: Api<PersistentVolumeClaim> = self.api();
        match claims.list(&ListParams::default()).await {
            Ok(claims) => claims.items.iter().try_for_each(|claim| writeln!(text, "{}", brief(claim)))?,
            Err(error) => writeln!(text, "cannot list them: {error}")?,
        }
        writeln!(text, "--- PVs of {} or for {}", self.provisioner, self.namespace)?;
        let volumes: Api<PersistentVolume> = self.global();
        match volumes.list(&ListParams::default()).await {
            Ok(volumes) => volumes
                .items
                .iter()
                .map(brief)
                .filter(|json| json.contains(&self.provisioner) || json.contains(&self.namespace))
                .try_for_each(|json| writeln!(text, "{json}"))?,
            Err(error) => writeln!(text, "cannot list them: {error}")?,
        }
        writeln!(text, "--- Events")?;
        for namespace in [self.namespace.as_str(), "default"] {
            let events: Api<Event> = Api::namespaced(self.admin.clone(), namespace);
            let Ok(events) = events.list(&ListParams::default()).await else {
                writeln!(text, "cannot list those of {namespace}")?;
                continue;
            };
            for event in events.items {
                let about = &event.involved_object;
                // Those of PVs lie together with other scenarios'.
                let named = about.name.as_deref().unwrap_or_default();
                if namespace == "default" && !named.contains(&self.id) && !logs.contains(named) {
                    continue;
                }
                writeln!(
                    text,
                    "{namespace} {} {}/{} {} x{}: {}",
                    event.type_.as_deref().unwrap_or_default(),
                    about.kind.as_deref().unwrap_or_default(),
                    about.name.as_deref().unwrap_or_default(),
                    event.reason.as_deref().unwrap_or_default(),
                    event.count.unwrap_or(1),
                    event.message.as_deref().unwrap_or_default(),
                )?;
            }
        }
        for note in self.notes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            writeln!(text, "--- {note}")?;
        }
        if self.ceph.is_none() {
            writeln!(text, "--- the export")?;
            for path in self.tree()? {
                writeln!(text, "{path}")?;
            }
        }
        Ok(())
    }
}

fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("(none)")
}

fn brief(object: &impl Serialize) -> String {
    let mut json = serde_json::to_value(object).unwrap_or_default();
    if let Some(metadata) = json.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    json.to_string()
}

async fn create<K>(api: &Api<K>, object: &Value) -> Result<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let kind = K::kind(&());
    let typed: K =
        serde_json::from_value(object.clone()).with_context(|| format!("a {kind} of the scenario"))?;
    api.create(&PostParams::default(), &typed)
        .await
        .with_context(|| format!("create {kind} {}", typed.name_any()))
}
