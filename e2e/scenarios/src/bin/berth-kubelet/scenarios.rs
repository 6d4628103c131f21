//! What is tried, in this order, on one cluster: each scenario removes its pods.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use berth_e2e::control_plane::{KUBELETS_NODE, manifests};
use futures::{FutureExt as _, future::LocalBoxFuture};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, StatefulSet},
    core::v1::{Event, PersistentVolumeClaim, Pod},
    storage::v1::CSINode,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use crate::{
    cluster::{Cluster, EXPORTS, KUBELET, log, pod, put},
    machine::{mounted, plugins},
};

const DRIVER: &str = "nfs.berth.storage";
const NODE_NAMESPACE: &str = "berth-node";
/// Writes a number again and again, so that a mount that is lost is seen.
const BEAT: &str = "i=0; while :; do i=$((i + 1)); echo $i >/data/beat; sleep 0.1; done";

/// A sentence and the function that proves it.
pub(crate) struct Scenario {
    /// What it proves.
    pub(crate) name: &'static str,
    /// Whether the others need what it makes.
    pub(crate) prepares: bool,
    /// The proof.
    pub(crate) run: Proof,
}

type Proof = Box<dyn for<'a> Fn(&'a Cluster) -> LocalBoxFuture<'a, Result<()>>>;

macro_rules! scenarios {
    ($($name:literal $prepares:literal $run:ident),* $(,)?) => {
        vec![$(Scenario { name: $name, prepares: $prepares, run: Box::new(|cluster| $run(cluster).boxed_local()) }),*]
    };
}

/// All of them.
pub(crate) fn all() -> Vec<Scenario> {
    scenarios![
        "the shipped manifests run: two replicas of the controller are ready, and kubelet knows the driver" true shipped,
        "a StatefulSet writes to volumes that the controller made for its claims" false provisioned,
        "a StatefulSet writes to volumes that the node plugin mounts" false stateful_set,
        "two pods on one node share a volume, and one of them only reads" false shared,
        "a subdirectory of a volume is mounted by subPath" false sub_path,
        "a volume belongs to the fsGroup of its pod" false fs_group,
        "a volume for one pod alone waits for that pod to go" false one_pod,
        "kubelet is killed: its pods go on, nothing is mounted twice, and they can be deleted" false kubelet_killed,
        "the node plugin is killed while its mounts are in use: pods write on, and new ones start" false plugin_killed,
        "the node plugin is replaced, as in an upgrade, while its mounts are in use" false plugin_replaced,
        "pods are deleted by force while the node plugin is away: their mounts go when it is back" false deleted_meanwhile,
        "the node plugin leaves: kubelet forgets the driver and no socket is left" false leaves,
        "a pod that is made before its driver is registered is told so, and starts once it is" false early_pod,
    ]
}

async fn shipped(cluster: &Cluster) -> Result<()> {
    for manifest in manifests::deployed()? {
        cluster.apply(manifest.object().clone()).await?;
    }
    install_plugin(cluster).await?;
    registered(cluster).await?;
    let deployments: Api<Deployment> = Api::namespaced(cluster.admin.clone(), "berth");
    cluster
        .until("two replicas of the controller are ready", || async {
            let status = deployments.get("berth").await?.status;
            Ok((status.and_then(|status| status.ready_replicas) == Some(2)).then_some(()))
        })
        .await
}

/// `kubectl apply -f deploy/manifests/node/`.
async fn install_plugin(cluster: &Cluster) -> Result<()> {
    for manifest in manifests::deployed_node()? {
        let mut object = manifest.object().clone();
        if manifest.kind() == "DaemonSet" {
            // The kernel need not have NFS. All else is as it is shipped.
            let args = object.pointer_mut("/spec/template/spec/containers/0/args");
            let args = args.and_then(|args| args.as_array_mut()).context("the DaemonSet has no args")?;
            args.push(json!(format!("--test-nfs-bind-root={EXPORTS}")));
        }
        cluster.apply(object).await?;
    }
    Ok(())
}

/// Waits until the node plugin runs and the API says that kubelet knows it.
async fn registered(cluster: &Cluster) -> Result<()> {
    let daemons: Api<DaemonSet> = Api::namespaced(cluster.admin.clone(), NODE_NAMESPACE);
    let nodes: Api<CSINode> = Api::all(cluster.admin.clone());
    cluster
        .until("the node plugin is registered", || async {
            let ready =
                daemons.get("berth-node").await?.status.is_some_and(|status| status.number_ready == 1);
            Ok((ready && drivers(&nodes).await?.contains(DRIVER)).then_some(()))
        })
        .await
}

async fn drivers(nodes: &Api<CSINode>) -> Result<BTreeSet<String>> {
    let node = nodes.get_opt(KUBELETS_NODE).await?;
    Ok(node.into_iter().flat_map(|node| node.spec.drivers).map(|driver| driver.name).collect())
}

/// A `StatefulSet` of two whose pods write their name.
async fn set(cluster: &Cluster, name: &str, template: serde_json::Value) -> Result<()> {
    let mut one = pod(name, "hostname >/data/name; exec sleep 3600", &[]);
    put(&mut one, "/spec", "restartPolicy", json!("Always"))?;
    put(&mut one, "/spec/containers/0", "volumeMounts", json!([{ "name": "data", "mountPath": "/data" }]))?;
    let spec = one.get("spec");
    cluster
        .apply(json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": { "name": name, "namespace": "default" },
            "spec": {
                "serviceName": name, "replicas": 2, "selector": { "matchLabels": { "app": name } },
                "template": { "metadata": { "labels": { "app": name } }, "spec": spec },
                "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": template }],
            },
        }))
        .await?;
    let sets: Api<StatefulSet> = Api::namespaced(cluster.admin.clone(), "default");
    cluster
        .until(&format!("both pods of {name} are ready"), || async {
            let status = sets.get(name).await?.status;
            Ok((status.and_then(|status| status.ready_replicas) == Some(2)).then_some(()))
        })
        .await
}

/// Removes a `StatefulSet` with its pods and claims.
async fn remove_set(cluster: &Cluster, name: &str) -> Result<()> {
    let sets: Api<StatefulSet> = Api::namespaced(cluster.admin.clone(), "default");
    sets.delete(name, &DeleteParams::default()).await?;
    let pods = cluster.pods();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(cluster.admin.clone(), "default");
    for number in 0..2 {
        let pod = format!("{name}-{number}");
        cluster
            .until(&format!("{pod} is gone"), || async {
                Ok(pods.get_opt(&pod).await?.is_none().then_some(()))
            })
            .await?;
        claims.delete(&format!("data-{pod}"), &DeleteParams::default()).await?;
    }
    Ok(())
}

async fn provisioned(cluster: &Cluster) -> Result<()> {
    let template = json!({
        "accessModes": ["ReadWriteOnce"], "storageClassName": "berth-nfs",
        "resources": { "requests": { "storage": "1Mi" } },
    });
    set(cluster, "made", template).await?;
    let export = Path::new(EXPORTS).join("export");
    let directory = |number: u8| -> Result<PathBuf> {
        let begins = format!("default-data-made-{number}-");
        let found = fs::read_dir(&export)?.flatten().map(|entry| entry.path());
        let mut found = found
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&begins)));
        found.next().with_context(|| format!("the export has no {begins}…"))
    };
    let made = [directory(0)?, directory(1)?];
    for (number, directory) in made.iter().enumerate() {
        let name = fs::read_to_string(directory.join("name"))?;
        ensure!(name == format!("made-{number}\n"), "{} has {name:?}", directory.display());
    }
    remove_set(cluster, "made").await?;
    // The class archives.
    for directory in made {
        cluster
            .until(&format!("{} is archived", directory.display()), || async {
                Ok((!directory.exists()).then_some(()))
            })
            .await?;
    }
    Ok(())
}

async fn stateful_set(cluster: &Cluster) -> Result<()> {
    for number in 0..2 {
        cluster.volume_for(&format!("data-db-{number}"), &format!("db-{number}"), "ReadWriteOnce").await?;
    }
    let template = json!({
        "accessModes": ["ReadWriteOnce"], "storageClassName": "",
        "resources": { "requests": { "storage": "1Mi" } },
    });
    set(cluster, "db", template).await?;
    // Which of the two volumes a claim gets is fixed by claimRef.
    for number in 0..2 {
        let name = fs::read_to_string(Path::new(EXPORTS).join(format!("export/db-{number}/name")))?;
        ensure!(name == format!("db-{number}\n"), "volume {number} has {name:?}");
    }
    let targets = mounted("kubernetes.io~csi")?;
    ensure!(targets.len() == 2, "mounted: {targets:?}");
    remove_set(cluster, "db").await?;
    cluster.unstaged().await
}

async fn shared(cluster: &Cluster) -> Result<()> {
    let directory = cluster.volume("shared", "ReadWriteMany").await?;
    cluster
        .apply(pod(
            "writer",
            "echo hello >/data/said; until [ -e /data/never ]; do sleep 1; done",
            &["shared"],
        ))
        .await?;
    cluster.phase("writer", "Running").await?;
    let mut reader = pod(
        "reader",
        "until cat /data/said; do sleep 0.1; done; if echo no >/data/no; then exit 1; fi; grep ' /data ro' /proc/self/mountinfo",
        &["shared"],
    );
    put(&mut reader, "/spec/volumes/0/persistentVolumeClaim", "readOnly", json!(true))?;
    cluster.apply(reader).await?;
    cluster.phase("reader", "Succeeded").await?;
    let staged: Vec<_> = mounted("globalmount")?;
    ensure!(staged.len() == 1, "one volume is staged once for all pods of a node: {staged:?}");
    ensure!(!directory.join("no").exists(), "the reader has written");
    cluster.delete(&["writer", "reader"]).await?;
    cluster.unstaged().await?;
    ensure!(fs::read_to_string(directory.join("said"))? == "hello\n", "the data is not there any more");
    Ok(())
}

async fn sub_path(cluster: &Cluster) -> Result<()> {
    let directory = cluster.volume("parts", "ReadWriteMany").await?;
    let mut one = pod("part", "echo part >/data/file; ls /data", &["parts"]);
    put(&mut one, "/spec/containers/0/volumeMounts/0", "subPath", json!("a/b"))?;
    cluster.apply(one).await?;
    cluster.phase("part", "Succeeded").await?;
    ensure!(fs::read_to_string(directory.join("a/b/file"))? == "part\n", "the file is elsewhere");
    cluster.delete(&["part"]).await?;
    cluster.unstaged().await
}

async fn fs_group(cluster: &Cluster) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let directory = cluster.volume("grouped", "ReadWriteMany").await?;
    fs::write(directory.join("old"), "old")?;
    let mut one = pod("member", "echo mine >/data/mine; cat /data/old; echo more >>/data/old", &["grouped"]);
    put(
        &mut one,
        "/spec",
        "securityContext",
        json!({ "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2345 }),
    )?;
    cluster.apply(one).await?;
    cluster.phase("member", "Succeeded").await?;
    for (file, owner) in [("mine", 1000), ("old", 0)] {
        let found = fs::metadata(directory.join(file))?;
        ensure!((found.uid(), found.gid()) == (owner, 2345), "{file}: {}:{}", found.uid(), found.gid());
    }
    cluster.delete(&["member"]).await?;
    cluster.unstaged().await
}

async fn one_pod(cluster: &Cluster) -> Result<()> {
    cluster.volume("single", "ReadWriteOncePod").await?;
    cluster.apply(pod("first", "exec sleep 3600", &["single"])).await?;
    cluster.phase("first", "Running").await?;
    cluster.apply(pod("second", "echo now >/data/now", &["single"])).await?;
    let pods = cluster.pods();
    cluster
        .until("the second pod is told why it waits", || async {
            let conditions =
                pods.get("second").await?.status.and_then(|status| status.conditions).unwrap_or_default();
            let told = |message: &Option<String>| {
                message.as_ref().is_some_and(|text| text.contains("ReadWriteOncePod"))
            };
            Ok(conditions.iter().any(|condition| told(&condition.message)).then_some(()))
        })
        .await?;
    cluster.delete(&["first"]).await?;
    cluster.phase("second", "Succeeded").await?;
    cluster.delete(&["second"]).await?;
    cluster.unstaged().await
}

/// A pod that beats on a volume of its name, and the file that it beats in.
async fn beating(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    let directory = cluster.volume(name, "ReadWriteMany").await?;
    cluster.apply(pod(name, BEAT, &[name])).await?;
    cluster.phase(name, "Running").await?;
    let file = directory.join("beat");
    beats(cluster, &file).await?;
    Ok(file)
}

/// Waits for the next beat.
async fn beats(cluster: &Cluster, file: &Path) -> Result<()> {
    let before = fs::read_to_string(file).unwrap_or_default();
    cluster
        .until("the pod writes on", || async {
            let now = fs::read_to_string(file).unwrap_or_default();
            Ok((!now.is_empty() && now != before).then_some(()))
        })
        .await
}

async fn kubelet_killed(cluster: &Cluster) -> Result<()> {
    let file = beating(cluster, "survivor").await?;
    let before = mounted(DRIVER)?.len() + mounted("kubernetes.io~csi")?.len();
    cluster.machine().kill_kubelet().await?;
    beats(cluster, &file).await?;
    cluster.machine().start_kubelet()?;
    // It works again when it starts a pod; by then it has staged and published what it finds once more.
    cluster.apply(pod("after", "cat /data/beat", &["survivor"])).await?;
    cluster.phase("after", "Succeeded").await?;
    beats(cluster, &file).await?;
    cluster.delete(&["after"]).await?;
    let after = mounted(DRIVER)?.len() + mounted("kubernetes.io~csi")?.len();
    ensure!(before == after, "{before} mounts before, {after} afterwards: {:?}", mounted(KUBELET)?);
    cluster.delete(&["survivor"]).await?;
    cluster.unstaged().await
}

async fn plugin_killed(cluster: &Cluster) -> Result<()> {
    let file = beating(cluster, "patient").await?;
    let running = plugins()?;
    let [plugin] = running.as_slice() else { anyhow::bail!("not one node plugin runs: {running:?}") };
    kill(Pid::from_raw(*plugin), Signal::SIGKILL).context("kill the node plugin")?;
    beats(cluster, &file).await?;
    cluster
        .until("another node plugin runs", || async {
            let now = plugins()?;
            Ok((!now.is_empty() && !now.contains(plugin)).then_some(()))
        })
        .await?;
    cluster.apply(pod("visitor", "cat /data/beat", &["patient"])).await?;
    cluster.phase("visitor", "Succeeded").await?;
    beats(cluster, &file).await?;
    cluster.delete(&["visitor", "patient"]).await?;
    cluster.unstaged().await
}

async fn plugin_replaced(cluster: &Cluster) -> Result<()> {
    let file = beating(cluster, "steady").await?;
    let running = plugins()?;
    replace_plugin(cluster).await?;
    beats(cluster, &file).await?;
    registered(cluster).await?;
    ensure!(plugins()?.iter().all(|pid| !running.contains(pid)), "the old node plugin still runs");
    let staged = mounted("globalmount")?;
    ensure!(staged.len() == 1, "the volume in use is not staged once: {staged:?}");
    cluster.apply(pod("newcomer", "cat /data/beat", &["steady"])).await?;
    cluster.phase("newcomer", "Succeeded").await?;
    cluster.delete(&["newcomer", "steady"]).await?;
    cluster.unstaged().await
}

/// Deletes the pod of the node plugin and waits for it to be gone.
async fn replace_plugin(cluster: &Cluster) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(cluster.admin.clone(), NODE_NAMESPACE);
    let name = pods.list(&ListParams::default()).await?.items.into_iter().find_map(|pod| pod.metadata.name);
    let name = name.context("the node plugin has no pod")?;
    pods.delete(&name, &DeleteParams::default()).await?;
    cluster
        .until("the old pod is gone", || async { Ok(pods.get_opt(&name).await?.is_none().then_some(())) })
        .await
}

async fn deleted_meanwhile(cluster: &Cluster) -> Result<()> {
    let file = beating(cluster, "orphan").await?;
    // No node has this label: the DaemonSet has no pod.
    select(cluster, json!({ "berth.test/away": "true" })).await?;
    cluster.until("the node plugin is away", || async { Ok(plugins()?.is_empty().then_some(())) }).await?;
    beats(cluster, &file).await?;
    let pods = cluster.pods();
    pods.delete("orphan", &DeleteParams::default().grace_period(0)).await?;
    cluster
        .until("the pod is gone", || async { Ok(pods.get_opt("orphan").await?.is_none().then_some(())) })
        .await?;
    select(cluster, json!({ "berth.test/away": null })).await?;
    registered(cluster).await?;
    cluster.unstaged().await?;
    cluster
        .until("no volume of a pod is mounted", || async {
            Ok(mounted("kubernetes.io~csi")?.is_empty().then_some(()))
        })
        .await
}

/// Changes the labels of the nodes on which the node plugin runs.
async fn select(cluster: &Cluster, labels: serde_json::Value) -> Result<()> {
    let daemons: Api<DaemonSet> = Api::namespaced(cluster.admin.clone(), NODE_NAMESPACE);
    let patch = json!({ "spec": { "template": { "spec": { "nodeSelector": labels } } } });
    daemons.patch("berth-node", &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

async fn leaves(cluster: &Cluster) -> Result<()> {
    let daemons: Api<DaemonSet> = Api::namespaced(cluster.admin.clone(), NODE_NAMESPACE);
    daemons.delete("berth-node", &DeleteParams::default()).await?;
    cluster.until("the node plugin has ended", || async { Ok(plugins()?.is_empty().then_some(())) }).await?;
    let nodes: Api<CSINode> = Api::all(cluster.admin.clone());
    cluster
        .until("kubelet forgets the driver", || async {
            Ok((!drivers(&nodes).await?.contains(DRIVER)).then_some(()))
        })
        .await?;
    for socket in [format!("plugins_registry/{DRIVER}-reg.sock"), format!("plugins/{DRIVER}/csi.sock")] {
        let socket = Path::new(KUBELET).join(socket);
        ensure!(!socket.exists(), "{} is left: {}", socket.display(), log(NODE_NAMESPACE, "berth-node"));
    }
    Ok(())
}

async fn early_pod(cluster: &Cluster) -> Result<()> {
    let daemons: Api<DaemonSet> = Api::namespaced(cluster.admin.clone(), NODE_NAMESPACE);
    if daemons.get_opt("berth-node").await?.is_some() {
        leaves(cluster).await?;
    }
    cluster.volume("early", "ReadWriteMany").await?;
    cluster.apply(pod("early", "echo here >/data/here", &["early"])).await?;
    let events: Api<Event> = Api::namespaced(cluster.admin.clone(), "default");
    cluster
        .until("an Event says that the driver is missing", || async {
            let events = events.list(&ListParams::default()).await?;
            let told = |event: &Event| {
                event
                    .message
                    .as_ref()
                    .is_some_and(|text| text.contains("not found in the list of registered CSI drivers"))
            };
            Ok(events.items.iter().any(told).then_some(()))
        })
        .await?;
    install_plugin(cluster).await?;
    registered(cluster).await?;
    cluster.phase("early", "Succeeded").await?;
    cluster.delete(&["early"]).await?;
    cluster.unstaged().await
}
