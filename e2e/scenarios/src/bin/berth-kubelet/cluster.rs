//! The cluster as its administrator sees it: objects, what becomes of pods, and what is told when a scenario fails.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use berth_e2e::control_plane::{Real, User, manifests::Manifest};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Event, Pod},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};

use crate::machine::{self, Machine};

/// How long anything may take before it counts as never. Kubelet waits up to two minutes between two tries.
const PATIENCE: Duration = Duration::from_mins(3);
/// What NFS volumes are bound from.
pub(crate) const EXPORTS: &str = "/var/lib/kubelet/test-exports";
/// The directory of kubelet.
pub(crate) const KUBELET: &str = "/var/lib/kubelet";

/// A running cluster of one node.
pub(crate) struct Cluster {
    /// Acts as the administrator.
    pub(crate) admin: Client,
    machine: Machine,
}

impl Cluster {
    /// The cluster of this control plane and node.
    pub(crate) async fn new(plane: &Real, machine: Machine) -> Result<Self> {
        Ok(Self { admin: plane.access(User::Admin)?.client().await?, machine })
    }

    /// The node.
    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Makes an object.
    pub(crate) async fn apply(&self, object: Value) -> Result<()> {
        Manifest::new("this suite", object).apply(&self.admin).await
    }

    /// Asks until the answer is something.
    pub(crate) async fn until<T, F>(&self, what: &str, ask: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<Option<T>>>,
    {
        let began = Instant::now();
        loop {
            if let Some(answer) = ask().await? {
                return Ok(answer);
            }
            self.machine.check_alive()?;
            ensure!(began.elapsed() < PATIENCE, "never: {what}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The pods of the namespace `default`.
    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.admin.clone(), "default")
    }

    /// Waits until a pod is in this phase, and fails if it ends in another one.
    pub(crate) async fn phase(&self, name: &str, wanted: &str) -> Result<Pod> {
        let pods = self.pods();
        self.until(&format!("pod {name} is {wanted}"), || async {
            let Some(pod) = pods.get_opt(name).await? else { return Ok(None) };
            let phase = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
            if phase == wanted {
                return Ok(Some(pod));
            }
            if ["Failed", "Succeeded"].contains(&phase.as_str()) {
                bail!("pod {name} is {phase} instead of {wanted}: {}", log("default", name));
            }
            Ok(None)
        })
        .await
    }

    /// Deletes pods of the namespace `default` and waits until nothing of them is on the node.
    pub(crate) async fn delete(&self, names: &[&str]) -> Result<()> {
        let pods = self.pods();
        let mut uids = Vec::new();
        for name in names {
            let pod = pods.get(name).await?;
            uids.push(pod.metadata.uid.context("a pod without a UID")?);
            pods.delete(name, &DeleteParams::default()).await?;
        }
        for (name, uid) in names.iter().zip(uids) {
            let pods = &pods;
            self.until(&format!("pod {name} is gone"), || async {
                let pod = pods.get_opt(name).await?;
                Ok(pod.is_none_or(|pod| pod.metadata.uid.as_ref() != Some(&uid)).then_some(()))
            })
            .await?;
            let directory = Path::new(KUBELET).join("pods").join(&uid);
            self.until(&format!("nothing is left in {}", directory.display()), || async {
                let mounted = machine::mounted(&uid)?;
                Ok((mounted.is_empty() && !directory.exists()).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until nothing of the volume of a driver is staged.
    pub(crate) async fn unstaged(&self) -> Result<()> {
        let staging = Path::new(KUBELET).join("plugins/kubernetes.io/csi/nfs.berth.storage");
        self.until("no volume is staged", || async {
            let left = match std::fs::read_dir(&staging) {
                Ok(entries) => entries.count(),
                Err(_) => 0,
            };
            Ok((left == 0 && machine::mounted("nfs.berth.storage")?.is_empty()).then_some(()))
        })
        .await
    }

    /// A PV of the node plugin on this directory of the export, and a claim of the same name for it.
    pub(crate) async fn volume(&self, name: &str, mode: &str) -> Result<PathBuf> {
        self.volume_for(name, name, mode).await?;
        self.apply(json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": { "name": name, "namespace": "default" },
            "spec": {
                "accessModes": [mode], "storageClassName": "", "volumeName": name,
                "resources": { "requests": { "storage": "1Mi" } },
            },
        }))
        .await?;
        Ok(Path::new(EXPORTS).join("export").join(name))
    }

    /// The PV alone, for a claim that something else makes.
    pub(crate) async fn volume_for(&self, claim: &str, name: &str, mode: &str) -> Result<()> {
        let directory = Path::new(EXPORTS).join("export").join(name);
        std::fs::create_dir(&directory).with_context(|| format!("make {}", directory.display()))?;
        self.apply(json!({
            "apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": { "name": name },
            "spec": {
                "capacity": { "storage": "1Mi" }, "accessModes": [mode], "storageClassName": "",
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": { "namespace": "default", "name": claim },
                "csi": {
                    "driver": "nfs.berth.storage", "volumeHandle": format!("nfs.example.com/export/{name}"),
                    "volumeAttributes": { "server": "nfs.example.com", "share": "/export", "subDir": name },
                },
            },
        }))
        .await
    }

    /// Removes what a scenario that failed has left, as far as possible, so that the next one begins without it.
    pub(crate) async fn clear(&self) {
        let sets: Api<StatefulSet> = Api::namespaced(self.admin.clone(), "default");
        let parameters = DeleteParams::default().grace_period(0);
        if let Err(error) = sets.delete_collection(&parameters, &ListParams::default()).await {
            println!("cannot remove StatefulSets: {error}");
        }
        if let Err(error) = self.pods().delete_collection(&parameters, &ListParams::default()).await {
            println!("cannot remove pods: {error}");
        }
        if let Err(error) = self.unstaged().await {
            println!("volumes stay: {error:#}");
        }
    }

    /// What an administrator would look at.
    pub(crate) async fn report(&self) -> String {
        let mut text = String::new();
        let pods: Api<Pod> = Api::all(self.admin.clone());
        for pod in pods.list(&ListParams::default()).await.into_iter().flatten() {
            let status = pod.status.unwrap_or_default();
            let containers = serde_json::to_string(&status.container_statuses).unwrap_or_default();
            let status = format!("{} {containers}", status.phase.unwrap_or_default());
            let (namespace, name) =
                (pod.metadata.namespace.unwrap_or_default(), pod.metadata.name.unwrap_or_default());
            let _ = writeln!(text, "pod {namespace}/{name}: {status}\n{}", log(&namespace, &name));
        }
        let events: Api<Event> = Api::all(self.admin.clone());
        for event in events.list(&ListParams::default()).await.into_iter().flatten() {
            if event.type_.as_deref() == Some("Warning") {
                let of = event.involved_object.name.unwrap_or_default();
                let _ = writeln!(text, "{of}: {}", event.message.unwrap_or_default());
            }
        }
        for one in machine::mounted(KUBELET).unwrap_or_default() {
            let _ = writeln!(text, "mounted: {} at {}", one.root, one.at);
        }
        let _ = writeln!(text, "{}", self.machine.log_tail());
        text
    }
}

/// The end of what the containers of a pod wrote.
pub(crate) fn log(namespace: &str, pod: &str) -> String {
    let mut text = String::new();
    let begins = format!("{namespace}_{pod}_");
    let mut left = vec![PathBuf::from("/var/log/pods")];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                let inside =
                    path.components().any(|part| part.as_os_str().to_string_lossy().starts_with(&begins));
                if inside {
                    left.push(path);
                }
            } else {
                let said = std::fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = said.lines().collect();
                text.push_str(&lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n"));
                text.push('\n');
            }
        }
    }
    text
}

/// A pod that runs a script of the shell with claims at `/NAME` of the container; `over` is merged into its `spec`.
pub(crate) fn pod(name: &str, script: &str, claims: &[&str]) -> Value {
    let volumes: Vec<Value> = claims
        .iter()
        .map(|claim| json!({ "name": claim, "persistentVolumeClaim": { "claimName": claim } }))
        .collect();
    let mounts: Vec<Value> =
        claims.iter().map(|claim| json!({ "name": claim, "mountPath": "/data" })).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "dnsPolicy": "Default",
            "containers": [{
                "name": "c", "image": "e2e.local/busybox:1", "imagePullPolicy": "Never",
                "command": ["/bin/sh", "-ec", script], "volumeMounts": mounts,
            }],
            "volumes": volumes,
        },
    })
}

/// Sets a field of what is at a JSON pointer of an object.
pub(crate) fn put(object: &mut Value, at: &str, field: &str, value: Value) -> Result<()> {
    let fields = object.pointer_mut(at).and_then(Value::as_object_mut);
    fields.with_context(|| format!("the object has no {at}"))?.insert(field.to_owned(), value);
    Ok(())
}
