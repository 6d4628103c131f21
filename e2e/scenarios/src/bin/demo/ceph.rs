//! `hack/demo --ceph`: an image and a subvolume on a real Ceph cluster that is gone afterwards.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use berth_e2e::{
    berth::{Berth, Setup},
    ceph::{
        Cluster, FILE_SYSTEM, Packages,
        inventory::{self, Files, Image, Subvolume},
    },
    control_plane::{ControlPlane, User, manifests},
    process::ScratchDir,
};
use k8s_openapi::api::{
    core::v1::{PersistentVolume, PersistentVolumeClaim, Secret},
    storage::v1::StorageClass,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    PATIENCE,
    story::{Teller, detail},
};

const POOL: &str = "demo";
const GROUP: &str = "demo";
const NAMESPACE: &str = "default";
/// Where berth is installed, and may read and keep Secrets.
const HOME: &str = "berth";

/// All that runs; dropped, it is gone.
pub(crate) struct Demo {
    teller: Teller,
    berth: Berth,
    admin: Client,
    // After berth, which works on them.
    _plane: ControlPlane,
    cluster: Cluster,
    _scratch: ScratchDir,
}

/// Starts everything and tells the story.
pub(crate) async fn tell(program: &Path) -> Result<Demo> {
    if let Packages::Missing(reason) = Packages::find().await? {
        bail!("{reason}");
    }
    let teller = Teller::new();
    println!(
        "Berth provisions images and subvolumes on a Ceph cluster that is made for this and is gone afterwards.\n"
    );
    let cluster = Cluster::start().await?;
    let scratch = ScratchDir::new("berth-demo-")?;
    let plane = ControlPlane::embedded().await?;
    let admin = plane.client(User::Admin).await?;
    for manifest in manifests::deployed_for_ceph()?.iter().filter(|one| one.is_access_control()) {
        manifest.apply(&admin).await?;
    }
    let setup = Setup {
        user: User::Berth,
        access: plane.access(User::Berth)?,
        provisioner: String::new(),
        export: None,
        leader_election: true,
        log: None,
        flags: Vec::new(),
        environment: Vec::new(),
    };
    let setup = setup.env("RUST_LOG", "info").flags([
        "--provisioner-name=rbd.berth.storage",
        "--provisioner-name=cephfs.berth.storage",
        "--secret-namespace=berth",
    ]);
    let berth = setup.start(program, "berth", scratch.path())?;
    let demo = Demo { teller, berth, admin, _plane: plane, cluster, _scratch: scratch };
    let told = demo.story().await;
    if told.is_err() && demo.berth.runs() {
        eprintln!("\nThe end of berth's log:\n{}", demo.berth.log_tail(40));
    }
    told.map(|()| demo)
}

impl Demo {
    fn say(&self, text: &str) {
        self.teller.say(text);
    }

    /// Ends berth as a deployment would.
    pub(crate) async fn end(self) -> Result<()> {
        let status = self.berth.terminate().await?;
        ensure!(
            status.success(),
            "berth was told to stop and ended with {status}:\n{}",
            self.berth.log_tail(40)
        );
        self.say("told to stop, berth gave back its lock and ended; Ceph goes with it");
        Ok(())
    }

    async fn make<K>(&self, api: Api<K>, object: &Value) -> Result<()>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
    {
        let typed: K = serde_json::from_value(object.clone()).context("an object of the demo")?;
        let name = typed.name_any();
        api.create(&PostParams::default(), &typed).await.with_context(|| format!("make {name}")).map(drop)
    }

    fn claims(&self) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.admin.clone(), NAMESPACE)
    }

    fn volumes(&self) -> Api<PersistentVolume> {
        Api::all(self.admin.clone())
    }

    async fn story(&self) -> Result<()> {
        let health = self.cluster.ceph(&["health"]).await?;
        self.say(&format!(
            "a monitor, a manager, an OSD and a metadata server run at {}: {}",
            self.cluster.monitors().v1,
            health.trim()
        ));
        self.berth.answers("/readyz").await?;
        self.say(&format!("berth controller (process {}) runs, leads and is ready", self.berth.pid()));
        self.furnish().await?;

        let asked = Instant::now();
        self.claim("database", "rbd", "ReadWriteOnce", "1Gi").await?;
        self.claim("shared-files", "cephfs", "ReadWriteMany", "2Gi").await?;
        let image = self.bound("database", asked).await?;
        self.show_image(&image).await?;
        let subvolume = self.bound("shared-files", asked).await?;
        let name = self.show_subvolume(&subvolume).await?;

        self.grow("shared-files", &subvolume, &name).await?;
        self.delete_image(&image).await?;
        self.archive_subvolume(&subvolume, &name).await
    }

    /// Pool, users, Secrets and classes: what an administrator prepares.
    async fn furnish(&self) -> Result<()> {
        self.cluster.pool(POOL).await?;
        let osd = Cluster::documented_caps(&["rbd", POOL]).await?;
        let mgr = Cluster::documented_caps(&["cephfs", FILE_SYSTEM, GROUP]).await?;
        let users: [(&str, &[(&str, &str)]); 2] = [
            ("berth-rbd", &[("mon", "profile rbd"), ("osd", &osd)]),
            ("berth-cephfs", &[("mon", "allow r"), ("mgr", &mgr)]),
        ];
        for (user, caps) in users {
            let key = self.cluster.user(user, caps).await?;
            let secrets: Api<Secret> = Api::namespaced(self.admin.clone(), HOME);
            let secret = json!({
                "metadata": { "name": user }, "type": "kubernetes.io/rbd", "stringData": { "key": key },
            });
            self.make(secrets, &secret).await?;
        }
        self.say(
            "an administrator made a pool, two users with few rights, a Secret for each, and two classes:",
        );
        let monitors = &self.cluster.monitors().v1;
        let classes = [
            (
                "rbd",
                json!({
                    "monitors": monitors, "pool": POOL, "imageFeatures": "layering", "onDelete": "delete",
                    "adminId": "berth-rbd", "adminSecretName": "berth-rbd", "adminSecretNamespace": HOME,
                    "userId": "berth-rbd", "userSecretName": "berth-rbd", "userSecretNamespace": HOME,
                }),
            ),
            (
                "cephfs",
                json!({
                    "monitors": monitors, "claimRoot": format!("/volumes/{GROUP}"), "onDelete": "archive",
                    "adminId": "berth-cephfs", "adminSecretName": "berth-cephfs", "adminSecretNamespace": HOME,
                }),
            ),
        ];
        for (name, parameters) in classes {
            detail(&format!("StorageClass {name} {parameters}"));
            let class = json!({
                "metadata": { "name": name },
                "provisioner": format!("{name}.berth.storage"),
                "reclaimPolicy": "Delete",
                "allowVolumeExpansion": true,
                "parameters": parameters,
            });
            self.make::<StorageClass>(Api::all(self.admin.clone()), &class).await?;
        }
        Ok(())
    }

    async fn claim(&self, name: &str, class: &str, mode: &str, size: &str) -> Result<()> {
        let claim = json!({
            "metadata": { "name": name },
            "spec": {
                "storageClassName": class,
                "accessModes": [mode],
                "resources": { "requests": { "storage": size } },
            },
        });
        self.make(self.claims(), &claim).await?;
        self.say(&format!("claim {name} asks class {class} for {size}"));
        Ok(())
    }

    /// Waits until the claim is bound.
    async fn bound(&self, name: &str, asked: Instant) -> Result<PersistentVolume> {
        let volume = self
            .until(&format!("claim {name} to be bound"), async || {
                let claim = self.claims().get(name).await?;
                let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
                ensure!(phase == Some("Bound"), "it is {phase:?}");
                claim.spec.and_then(|spec| spec.volume_name).context("it is bound to nothing")
            })
            .await?;
        let took = asked.elapsed().as_secs_f64();
        self.say(&format!("claim {name} is bound to PV {volume}, {took:.2} s after it was asked for"));
        self.volumes().get(&volume).await.with_context(|| format!("get PV {volume}"))
    }

    async fn show_image(&self, volume: &PersistentVolume) -> Result<()> {
        let spec = image_spec(volume)?;
        let image = Image::of(&self.cluster, &spec).await?;
        detail(&format!("$ rbd info {spec}"));
        detail(&format!("    {} bytes, format {}, features {:?}", image.size, image.format, image.features));
        let owner = image.metadata.get("berth.owner").context("the image has no owner")?;
        detail(&format!("    berth.owner: {owner}"));
        Ok(())
    }

    async fn show_subvolume(&self, volume: &PersistentVolume) -> Result<String> {
        let path = attribute(volume, "path")?;
        let name = path.split('/').nth(3).with_context(|| format!("the path is {path}"))?.to_owned();
        let subvolume = Subvolume::of(&self.cluster, GROUP, &name).await?;
        detail(&format!("$ ceph fs subvolume info {FILE_SYSTEM} {name} --group_name {GROUP}"));
        detail(&format!("    path {}, quota {} bytes", subvolume.path, subvolume.bytes_quota));
        for user in self.confined(&subvolume.path).await? {
            detail(&format!("    {user} may use this path and nothing else"));
        }
        Ok(name)
    }

    /// The users that may use this path alone.
    async fn confined(&self, path: &str) -> Result<Vec<String>> {
        let users = Files::of(&self.cluster, GROUP).await?.users;
        Ok(users.into_iter().filter(|user| user.path() == Some(path)).map(|user| user.entity).collect())
    }

    async fn grow(&self, claim: &str, volume: &PersistentVolume, name: &str) -> Result<()> {
        let patch = json!({ "spec": { "resources": { "requests": { "storage": "3Gi" } } } });
        self.claims()
            .patch(claim, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .context("ask for more")?;
        self.say(&format!("claim {claim} asks for 3Gi now"));
        let volume = volume.name_any();
        self.until("the PV to grow", async || {
            let volume = self.volumes().get(&volume).await?;
            let capacity = volume.spec.and_then(|spec| spec.capacity).unwrap_or_default();
            let has = capacity.get("storage").map(|size| size.0.clone()).unwrap_or_default();
            ensure!(has == "3Gi", "it has {has}");
            Ok(())
        })
        .await?;
        let grown = Subvolume::of(&self.cluster, GROUP, name).await?;
        ensure!(grown.bytes_quota == json!(3_u64 << 30), "the quota is {}", grown.bytes_quota);
        self.say(&format!("the quota is {} bytes, and the PV says 3Gi", grown.bytes_quota));
        Ok(())
    }

    /// Deletes a claim and waits until its PV is gone.
    async fn delete(&self, claim: &str, volume: &PersistentVolume) -> Result<()> {
        self.claims().delete(claim, &DeleteParams::default()).await.context("delete the claim")?;
        self.say(&format!("deleted the claim {claim}"));
        let name = volume.name_any();
        let asked = Instant::now();
        self.until(&format!("PV {name} to be gone"), async || {
            let left = self.volumes().get_opt(&name).await?;
            ensure!(left.is_none(), "it is still there");
            Ok(())
        })
        .await?;
        self.say(&format!("its PV is gone (after {:.2} s)", asked.elapsed().as_secs_f64()));
        Ok(())
    }

    async fn delete_image(&self, volume: &PersistentVolume) -> Result<()> {
        self.delete("database", volume).await?;
        self.until("the pool to be empty", async || {
            let left = inventory::Images::of(&self.cluster, POOL).await?;
            ensure!(left == inventory::Images::default(), "the pool holds {left:?}");
            Ok(())
        })
        .await?;
        self.say("its image went to the trash and was purged, as its class asks: the pool is empty");
        Ok(())
    }

    async fn archive_subvolume(&self, volume: &PersistentVolume, name: &str) -> Result<()> {
        self.delete("shared-files", volume).await?;
        let kept = Subvolume::of(&self.cluster, GROUP, name).await?;
        let users = self.confined(&kept.path).await?;
        ensure!(users.is_empty(), "{users:?} may still use it");
        let archived = kept.metadata.get("berth.archived").context("nothing tells that it is archived")?;
        self.say("its subvolume is archived, as its class asks: the data stays, and its user is gone");
        detail(&format!("    berth.archived: {archived}"));
        Ok(())
    }

    /// Asks again and again; gives up when time is over or berth or Ceph has ended.
    async fn until<T>(&self, what: &str, mut ask: impl AsyncFnMut() -> Result<T>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let error = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            self.berth
                .check_alive()
                .and_then(|()| self.cluster.check_alive())
                .with_context(|| format!("while waiting for {what}"))?;
            if Instant::now() >= deadline {
                return Err(error.context(format!("waited {PATIENCE:?} for {what}")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn attribute(volume: &PersistentVolume, key: &str) -> Result<String> {
    let csi = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref()).context("the PV has no CSI source")?;
    let attributes = csi.volume_attributes.clone().unwrap_or_default();
    attributes.get(key).cloned().with_context(|| format!("the PV has no attribute {key}"))
}

fn image_spec(volume: &PersistentVolume) -> Result<String> {
    Ok(format!("{}/{}", attribute(volume, "pool")?, attribute(volume, "image")?))
}
