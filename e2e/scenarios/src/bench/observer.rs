//! Watches claims and PVs of one control plane and notes when each was first seen annotated, bound, made, released, gone.
//!
//! The times are those at which the watch events arrived here: what any other watcher, berth among them, could know.

use std::{
    collections::HashMap,
    fmt::Debug,
    marker::PhantomData,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Result, ensure};
use futures::{StreamExt, pin_mut};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{PersistentVolume, PersistentVolumeClaim},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource,
    runtime::{watcher, watcher::Event},
};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, task::JoinHandle};

/// The annotation by which kube-controller-manager hands a claim to its provisioner.
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";

/// A claim to make a PV for.
#[derive(Clone, Debug)]
pub struct Claimant {
    /// The claim's name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its resource version when it was seen.
    pub resource_version: String,
}

/// What was seen of the claims of one namespace.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    seen: HashMap<String, (bool, bool)>,
    listener: Option<mpsc::UnboundedSender<Claimant>>,
    /// How many carry the annotation.
    pub annotated: usize,
    /// How many are bound.
    pub bound: usize,
    /// When the first one was seen annotated.
    pub first_annotated: Option<Timestamp>,
    /// When the last one so far was seen annotated.
    pub last_annotated: Option<Timestamp>,
}

/// What was seen of one PV.
#[derive(Clone, Copy, Debug)]
pub struct Volume {
    /// When it was first seen.
    pub made: Timestamp,
    /// When it was first seen in the phase `Released`.
    pub released: Option<Timestamp>,
    /// When it was seen to be gone.
    pub gone: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Seen {
    claims: HashMap<String, Claims>,
    /// By the namespace of the claim, then by the name of the PV.
    volumes: HashMap<String, HashMap<String, Volume>>,
}

/// Two watches that run until this is dropped.
#[derive(Debug)]
pub struct Observer {
    seen: Arc<Mutex<Seen>>,
    tasks: [JoinHandle<()>; 2],
}

impl Observer {
    /// Starts to watch.
    pub fn start(client: &Client) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let claims = watch::<PersistentVolumeClaim>(client, &seen, Seen::claim);
        let volumes = watch::<PersistentVolume>(client, &seen, Seen::volume);
        Self { seen, tasks: [claims, volumes] }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the claims of `namespace`.
    pub fn claims<T>(&self, namespace: &str, look: impl FnOnce(&Claims) -> T) -> T {
        look(self.lock().claims.entry(namespace.to_owned()).or_default())
    }

    /// Every claim of `namespace` that is seen annotated from now on, each once.
    pub fn annotated(&self, namespace: &str) -> mpsc::UnboundedReceiver<Claimant> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.lock().claims.entry(namespace.to_owned()).or_default().listener = Some(sender);
        receiver
    }

    /// How many PVs for claims of `namespace` have been seen.
    pub fn volumes(&self, namespace: &str) -> usize {
        self.lock().volumes.get(namespace).map_or(0, HashMap::len)
    }

    /// When the last PV for a claim of `namespace` was first seen.
    pub fn last_volume(&self, namespace: &str) -> Option<Timestamp> {
        self.lock().volumes.get(namespace)?.values().map(|volume| volume.made).max()
    }

    /// Fails if a watch has ended, which it never should.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.tasks.iter().any(JoinHandle::is_finished), "a watch of the benchmark has ended");
        Ok(())
    }

    /// One PV for a claim of `namespace`.
    pub fn volume(&self, namespace: &str, name: &str) -> Option<Volume> {
        self.lock().volumes.get(namespace)?.get(name).copied()
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Seen {
    fn claim(&mut self, object: Trimmed<PersistentVolumeClaim>, exists: bool) {
        let now = Timestamp::now();
        let metadata = object.metadata;
        let name = metadata.name.unwrap_or_default();
        let claims = self.claims.entry(metadata.namespace.unwrap_or_default()).or_default();
        if !exists {
            return;
        }
        let (annotated, bound) = claims.seen.entry(name.clone()).or_default();
        let has = metadata.annotations.is_some_and(|annotations| annotations.contains_key(PROVISIONER));
        if has && !*annotated {
            *annotated = true;
            claims.annotated += 1;
            claims.first_annotated.get_or_insert(now);
            claims.last_annotated = Some(now);
            if let Some(listener) = &claims.listener {
                let claimant = Claimant {
                    name,
                    uid: metadata.uid.unwrap_or_default(),
                    resource_version: metadata.resource_version.unwrap_or_default(),
                };
                // Nobody listens any more: nothing to do.
                let _ = listener.send(claimant);
            }
        }
        if object.status.phase == "Bound" && !*bound {
            *bound = true;
            claims.bound += 1;
        }
    }

    fn volume(&mut self, object: Trimmed<PersistentVolume>, exists: bool) {
        let now = Timestamp::now();
        let name = object.metadata.name.unwrap_or_default();
        let volume = self
            .volumes
            .entry(object.spec.claim_ref.namespace)
            .or_default()
            .entry(name)
            .or_insert(Volume { made: now, released: None, gone: None });
        if object.status.phase == "Released" {
            volume.released.get_or_insert(now);
        }
        if !exists {
            volume.gone.get_or_insert(now);
        }
    }
}

/// The few fields of a `K` that are looked at. Deserializing all of them would take time from what is measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Trimmed<K> {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
    #[serde(skip)]
    kind: PhantomData<fn() -> K>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    claim_ref: ClaimRef,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct ClaimRef {
    namespace: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Status {
    phase: String,
}

impl<K: Resource<DynamicType = ()>> Resource for Trimmed<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind((): &()) -> std::borrow::Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> std::borrow::Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> std::borrow::Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> std::borrow::Cow<'_, str> {
        K::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

fn watch<K>(client: &Client, seen: &Arc<Mutex<Seen>>, note: fn(&mut Seen, Trimmed<K>, bool)) -> JoinHandle<()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + 'static,
{
    let api: Api<Trimmed<K>> = Api::all(client.clone());
    let seen = Arc::clone(seen);
    tokio::spawn(async move {
        let events = watcher(api, watcher::Config::default());
        pin_mut!(events);
        // It ends only when the task is aborted: after an error the next poll connects anew.
        while let Some(event) = events.next().await {
            let (object, exists) = match event {
                Ok(Event::Apply(object) | Event::InitApply(object)) => (object, true),
                Ok(Event::Delete(object)) => (object, false),
                Ok(Event::Init | Event::InitDone) => continue,
                Err(error) => {
                    tracing::warn!(%error, "a watch failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            note(&mut seen, object, exists);
        }
    })
}
