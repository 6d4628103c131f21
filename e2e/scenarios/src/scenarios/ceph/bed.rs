//! What a scenario on Ceph has to itself besides its [`Case`]: a pool, a subvolume group, users with no more rights than the
//! documentation asks for, their Secrets; and the check that nothing leaked, which ends every scenario.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Secret};
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::{Value, json};

use crate::{
    berth::{Berth, Setup},
    case::{Case, ClassBuilder},
    ceph::{
        Cluster, FILE_SYSTEM,
        inventory::{Files, Image, Images, Subvolume},
        steps::Steps,
    },
    control_plane::manifests,
};

/// The provisioner names of a new installation.
pub(super) const RBD: &str = "rbd.berth.storage";
pub(super) const CEPHFS: &str = "cephfs.berth.storage";

/// Where berth is installed, and where the manifests let it read Secrets.
pub(super) const HOME: &str = "berth";

/// The Secrets with the keys of the users that berth works as.
pub(super) const RBD_SECRET: &str = "rbd-admin";
pub(super) const CEPHFS_SECRET: &str = "cephfs-admin";

/// What lies in the cluster on purpose, beyond what PVs name.
#[derive(Debug, Default)]
struct Expected {
    images: BTreeSet<String>,
    trash: Vec<String>,
    subvolumes: BTreeSet<String>,
    secrets: BTreeSet<String>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Bed {
    pub(super) case: Arc<Case>,
    pub(super) cluster: Arc<Cluster>,
    /// A pool of its own.
    pub(super) pool: String,
    /// A subvolume group of its own, which nobody has made yet.
    pub(super) group: String,
    expected: Mutex<Expected>,
}

impl Bed {
    pub(super) async fn new(case: Arc<Case>) -> Result<Self> {
        let cluster = Arc::clone(case.cluster()?);
        let id = case.id().to_owned();
        let bed = Self { case, cluster, pool: id.clone(), group: id, expected: Mutex::default() };
        let osd = Cluster::documented_caps(&["rbd", &bed.pool]).await?;
        let mgr = Cluster::documented_caps(&["cephfs", FILE_SYSTEM, &bed.group]).await?;
        let (rbd, cephfs) = (bed.rbd_user(), bed.cephfs_user());
        // What docs/security.md asks for, so that every scenario proves that it is enough.
        #[allow(clippy::type_complexity, reason = "it is used once, two lines below")]
        let rights: [(&str, &[(&str, &str)], &str); 2] = [
            (&rbd, &[("mon", "profile rbd"), ("osd", &osd)], RBD_SECRET),
            (&cephfs, &[("mon", "allow r"), ("mgr", &mgr)], CEPHFS_SECRET),
        ];
        for manifest in manifests::deployed_for_ceph()?.iter().filter(|one| one.is_access_control()) {
            manifest.apply(&bed.case.admin).await?;
        }
        bed.cluster.pool(&bed.pool).await?;
        for (user, caps, secret) in rights {
            let key = bed.cluster.user(user, caps).await?;
            bed.secret(secret, &key).await?;
        }
        Ok(bed)
    }

    /// Gives berth the right to read and keep Secrets in a namespace besides its own, as an administrator does where classes
    /// name Secrets there.
    pub(super) async fn grant_secrets(&self, namespace: &str) -> Result<()> {
        let manifests = manifests::deployed_for_ceph()?;
        let roles: Vec<_> =
            manifests.iter().filter(|one| ["Role", "RoleBinding"].contains(&one.kind())).collect();
        ensure!(roles.len() == 2, "deploy/manifests/ceph holds {} roles and bindings", roles.len());
        for role in roles {
            role.in_namespace(namespace).apply(&self.case.admin).await?;
        }
        Ok(())
    }

    /// The user that berth works as on images.
    pub(super) fn rbd_user(&self) -> String {
        format!("{}-rbd", self.case.id())
    }

    /// The user that berth works as on subvolumes.
    pub(super) fn cephfs_user(&self) -> String {
        format!("{}-cephfs", self.case.id())
    }

    /// Makes a Secret as those of the old provisioners, or changes its key.
    pub(super) async fn secret(&self, name: &str, key: &str) -> Result<()> {
        let api: Api<Secret> = Api::namespaced(self.case.admin.clone(), HOME);
        let apply = kube::api::PatchParams::apply("scenario").force();
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name },
            "type": "kubernetes.io/rbd", "data": { "key": BASE64_STANDARD.encode(key) },
        });
        api.patch(name, &apply, &kube::api::Patch::Apply(&object))
            .await
            .with_context(|| format!("make the Secret {name}"))?;
        self.lock().secrets.insert(format!("{HOME}/{name}"));
        Ok(())
    }

    /// The Secret of this name is not the scenario's any more.
    pub(super) fn forget_secret(&self, name: &str) {
        self.lock().secrets.remove(&format!("{HOME}/{name}"));
    }

    // --- berth and its classes -----------------------------------------------------------------

    /// Berth for both kinds of volumes under the names of a new installation.
    pub(super) fn setup(&self) -> Result<Setup> {
        self.setup_for(&[RBD, CEPHFS], &json!({}))
    }

    /// Berth for these names, with more in its configuration file.
    pub(super) fn setup_for(&self, provisioners: &[&str], config: &Value) -> Result<Setup> {
        let mut config = config.clone();
        let fields = config.as_object_mut().context("the configuration is no object")?;
        fields.insert("provisionerNames".to_owned(), json!(provisioners));
        fields.insert("secretNamespace".to_owned(), json!(HOME));
        let file = self.case.scratch().join("berth.yaml");
        std::fs::write(&file, config.to_string()).with_context(|| format!("write {}", file.display()))?;
        Ok(self.case.setup()?.without_provisioner().flags([format!("--config={}", file.display())]))
    }

    /// The same with `steps` in front of Ceph's programs.
    pub(super) fn setup_through(&self, steps: &Steps) -> Result<Setup> {
        let programs = json!({
            "rbdProgram": steps.program("rbd"), "cephProgram": steps.program("ceph"),
            "radosProgram": steps.program("rados"),
        });
        self.setup_for(&[RBD, CEPHFS], &programs)
    }

    /// The same that gives up on Ceph soon, so that a hang shows in a test's time.
    pub(super) fn setup_with_limits(&self) -> Result<Setup> {
        self.setup_for(
            &[RBD, CEPHFS],
            &json!({ "cephConnectTimeout": "3s", "cephOperationTimeout": "5s", "cephCommandTimeout": "8s" }),
        )
    }

    /// Starts berth, without a lock, and waits until its probes answer.
    pub(super) async fn berth(&self) -> Result<Berth> {
        let berth = self.case.start(&self.setup()?.alone())?;
        berth.answers("/livez").await?;
        Ok(berth)
    }

    /// A class for images, as rbd-provisioner had them, that deletes.
    pub(super) fn rbd_class(&self, name: &str) -> ClassBuilder<'_> {
        self.case
            .class(name)
            .provisioner(RBD)
            .parameter("monitors", &self.cluster.monitors().v1)
            .parameter("pool", &self.pool)
            .parameter("adminId", &self.rbd_user())
            .parameter("adminSecretName", RBD_SECRET)
            .parameter("adminSecretNamespace", HOME)
            .parameter("userId", &self.rbd_user())
            .parameter("userSecretName", RBD_SECRET)
            .parameter("userSecretNamespace", HOME)
            .parameter("onDelete", "delete")
    }

    /// A class for subvolumes, as cephfs-provisioner had them, that deletes.
    pub(super) fn cephfs_class(&self, name: &str) -> ClassBuilder<'_> {
        self.case
            .class(name)
            .provisioner(CEPHFS)
            .parameter("monitors", &self.cluster.monitors().v1)
            .parameter("adminId", &self.cephfs_user())
            .parameter("adminSecretName", CEPHFS_SECRET)
            .parameter("adminSecretNamespace", HOME)
            .parameter("claimRoot", &format!("/volumes/{}", self.group))
            .parameter("onDelete", "delete")
    }

    // --- volumes -------------------------------------------------------------------------------

    /// Makes a claim of 8 MiB that one node may write.
    pub(super) async fn claim(&self, name: &str, class: &str) -> Result<PersistentVolumeClaim> {
        self.claim_of(name, class, "8Mi").await
    }

    /// The same of that size.
    pub(super) async fn claim_of(
        &self,
        name: &str,
        class: &str,
        size: &str,
    ) -> Result<PersistentVolumeClaim> {
        let modes = json!(["ReadWriteOnce"]);
        self.case.claim(name).class(class).size(size).set(&["spec", "accessModes"], modes).create().await
    }

    /// Makes a claim and waits until it is bound.
    pub(super) async fn bound(&self, name: &str, class: &str) -> Result<PersistentVolume> {
        self.claim(name, class).await?;
        Ok(self.case.bound_pair(name).await?.1)
    }

    /// Deletes a claim and waits until its PV is gone.
    pub(super) async fn delete(&self, claim: &str, volume: &PersistentVolume) -> Result<()> {
        self.case.delete_claim(claim).await?;
        self.case.volume_gone(&volume.name_any()).await
    }

    /// Makes so many claims at once, and waits until they are bound.
    pub(super) async fn bound_at_once(
        &self,
        count: usize,
        class: &str,
    ) -> Result<Vec<(String, PersistentVolume)>> {
        let names: Vec<String> = (0..count).map(|number| format!("data-{number:02}")).collect();
        try_join_all(names.iter().map(|name| self.claim(name, class))).await?;
        let mut pairs = Vec::new();
        for name in names {
            let volume = self.case.bound_pair(&name).await?.1;
            pairs.push((name, volume));
        }
        Ok(pairs)
    }

    /// Deletes claims at once, and waits until their PVs are gone.
    pub(super) async fn delete_at_once(&self, pairs: &[(String, PersistentVolume)]) -> Result<()> {
        try_join_all(pairs.iter().map(|(claim, _)| self.case.delete_claim(claim))).await?;
        for (_, volume) in pairs {
            self.case.volume_gone(&volume.name_any()).await?;
        }
        Ok(())
    }

    /// `pool/image` of a PV.
    #[allow(clippy::unused_self, reason = "reads as a question to the bed, as the others do")]
    pub(super) fn image_spec(&self, volume: &PersistentVolume) -> Result<String> {
        match lies_in(volume)? {
            Lies::Image { pool, image } => Ok(format!("{pool}/{image}")),
            Lies::Subvolume { .. } => anyhow::bail!("PV {} lies in a CephFS", volume.name_any()),
        }
    }

    /// The image of a PV as it is now.
    pub(super) async fn image(&self, volume: &PersistentVolume) -> Result<Image> {
        Image::of(&self.cluster, &self.image_spec(volume)?).await
    }

    /// The name of a PV's subvolume.
    pub(super) fn subvolume_name(volume: &PersistentVolume) -> Result<String> {
        match lies_in(volume)? {
            Lies::Subvolume { name } => Ok(name),
            Lies::Image { .. } => anyhow::bail!("PV {} is an image", volume.name_any()),
        }
    }

    /// The subvolume of a PV as it is now.
    pub(super) async fn subvolume(&self, volume: &PersistentVolume) -> Result<Subvolume> {
        Subvolume::of(&self.cluster, &self.group, &Self::subvolume_name(volume)?).await
    }

    pub(super) async fn images(&self) -> Result<Images> {
        Images::of(&self.cluster, &self.pool).await
    }

    /// The subvolumes of this scenario's group, and the users that are confined to it.
    async fn files(&self) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
        let root = format!("/volumes/{}/", self.group);
        let files = Files::of(&self.cluster, &self.group).await?;
        let ours =
            files.users.into_iter().filter(|user| user.path().is_some_and(|path| path.starts_with(&root)));
        Ok((files.subvolumes, ours.map(|user| user.entity).collect()))
    }

    pub(super) async fn subvolumes(&self) -> Result<BTreeSet<String>> {
        Ok(self.files().await?.0)
    }

    /// The users that are confined to this scenario's group.
    pub(super) async fn users(&self) -> Result<BTreeSet<String>> {
        Ok(self.files().await?.1)
    }

    /// `ceph fs subvolume VERB cephfs NAME --group_name GROUP …`.
    pub(super) async fn fs_subvolume(&self, verb: &str, name: &str, more: &[&str]) -> Result<String> {
        let args = ["fs", "subvolume", verb, FILE_SYSTEM, name];
        self.cluster.ceph(&[&args[..], more, &["--group_name", &self.group]].concat()).await
    }

    // --- what lies there on purpose ------------------------------------------------------------

    /// An image that no PV names, and which must stay.
    pub(super) fn expect_image(&self, name: &str) {
        self.lock().images.insert(name.to_owned());
    }

    /// An image in the trash that must stay there.
    pub(super) fn expect_trash(&self, name: &str) {
        self.lock().trash.push(name.to_owned());
    }

    /// A subvolume that no PV names, and which must stay.
    pub(super) fn expect_subvolume(&self, name: &str) {
        self.lock().subvolumes.insert(name.to_owned());
    }

    /// None of it any more.
    pub(super) fn expect_nothing(&self) {
        let mut expected = self.lock();
        *expected = Expected { secrets: std::mem::take(&mut expected.secrets), ..Expected::default() };
    }

    fn lock(&self) -> MutexGuard<'_, Expected> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- nothing leaks -------------------------------------------------------------------------

    /// Waits until images, trash, subvolumes, users, Secrets and PVs agree: nothing is there that no PV names, and nothing
    /// is named by a PV that is not there, but for what the scenario put there itself.
    pub(super) async fn agrees(&self) -> Result<()> {
        self.case.until("the cluster and the API to agree", async || self.compare().await).await
    }

    /// As [`Bed::agrees`], with images in the trash that are still to be purged.
    pub(super) async fn agrees_but_for_the_trash(&self) -> Result<()> {
        self.case.until("the cluster and the API to agree", async || self.compare_with(false).await).await
    }

    pub(super) async fn compare(&self) -> Result<()> {
        self.compare_with(true).await
    }

    async fn compare_with(&self, trash_counts: bool) -> Result<()> {
        let all: Api<PersistentVolume> = self.case.global();
        let volumes = all.list(&ListParams::default()).await.context("list PVs")?.items;
        let (mut images, mut subvolumes, mut secrets, mut users) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for volume in &volumes {
            match lies_in(volume)? {
                Lies::Image { pool, image } if pool == self.pool => {
                    images.insert(image);
                }
                Lies::Image { .. } => {}
                Lies::Subvolume { name } => {
                    subvolumes.insert(name);
                }
            }
            if let Some((user, secret)) = own_user(volume)? {
                users.insert(format!("client.{user}"));
                secrets.insert(secret);
            }
        }
        let mut trash = Vec::new();
        {
            let expected = self.lock();
            images.extend(expected.images.iter().cloned());
            subvolumes.extend(expected.subvolumes.iter().cloned());
            secrets.extend(expected.secrets.iter().cloned());
            trash.extend(expected.trash.iter().cloned());
        }
        trash.sort();
        let there = self.images().await?;
        ensure!(there.live == images, "images {:?}, and PVs name {images:?}", there.live);
        ensure!(!trash_counts || there.trash == trash, "in the trash {:?}, expected {trash:?}", there.trash);
        let (subvolumes_there, users_there) = self.files().await?;
        ensure!(
            subvolumes_there == subvolumes,
            "subvolumes {subvolumes_there:?}, and PVs name {subvolumes:?}"
        );
        ensure!(users_there == users, "users {users_there:?}, and PVs name {users:?}");
        let all: Api<Secret> = self.case.global();
        let there: BTreeSet<String> = all
            .list(&ListParams::default())
            .await
            .context("list Secrets")?
            .iter()
            .map(|secret| format!("{}/{}", secret.namespace().unwrap_or_default(), secret.name_any()))
            .collect();
        ensure!(there == secrets, "Secrets {there:?}, and PVs name {secrets:?}");
        Ok(())
    }

    /// Removes the subvolume group, where there is one: every berth that starts later looks into each group of the file system.
    pub(super) async fn remove_group(&self) {
        let removed = self.cluster.ceph(&["fs", "subvolumegroup", "rm", FILE_SYSTEM, &self.group]).await;
        if let Err(error) = removed {
            tracing::debug!(group = self.group, error = format!("{error:#}"), "the group stays");
        }
    }

    /// What the cluster holds for the scenario, for the report of its failure.
    pub(super) async fn tell(&self) -> String {
        let mut lines = vec![format!("the cluster's pool {} and group {}", self.pool, self.group)];
        lines.push(self.images().await.map_or_else(|error| format!("{error:#}"), |all| format!("{all:?}")));
        lines.push(self.files().await.map_or_else(
            |error| format!("{error:#}"),
            |(subvolumes, users)| format!("subvolumes {subvolumes:?}, users {users:?}"),
        ));
        lines.join("\n")
    }
}

/// Where the bytes of a PV are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lies {
    Image { pool: String, image: String },
    Subvolume { name: String },
}

/// What berth wrote on a PV to find its volume again; nothing on a PV of an older provisioner.
fn record(volume: &PersistentVolume) -> Result<BTreeMap<String, String>> {
    let text = volume.annotations().get("berth.storage/record").map_or("{}", String::as_str);
    serde_json::from_str(text).with_context(|| format!("the record of {} is {text}", volume.name_any()))
}

/// Reads a PV's source, of whichever form.
pub(super) fn lies_in(volume: &PersistentVolume) -> Result<Lies> {
    let spec = volume.spec.as_ref().context("a PV without spec")?;
    if let Some(rbd) = &spec.rbd {
        let pool = rbd.pool.clone().unwrap_or_else(|| "rbd".to_owned());
        return Ok(Lies::Image { pool, image: rbd.image.clone() });
    }
    if let Some(cephfs) = &spec.cephfs {
        let path = cephfs.path.clone().unwrap_or_default();
        return Ok(Lies::Subvolume { name: subvolume_of(&path).to_owned() });
    }
    let csi = spec.csi.as_ref().with_context(|| format!("PV {} is of no known kind", volume.name_any()))?;
    let attributes = csi.volume_attributes.clone().unwrap_or_default();
    let get = |key: &str| {
        attributes
            .get(key)
            .cloned()
            .with_context(|| format!("PV {} has no attribute {key}: {attributes:?}", volume.name_any()))
    };
    if csi.driver.starts_with("cephfs.") {
        Ok(Lies::Subvolume { name: subvolume_of(&get("path")?).to_owned() })
    } else {
        let pool = get("pool")?;
        Ok(Lies::Image {
            pool: attributes.get("radosNamespace").map_or(pool.clone(), |space| format!("{pool}/{space}")),
            image: get("image")?,
        })
    }
}

/// `/volumes/GROUP/NAME/UUID` and `/volumes/GROUP/NAME`.
fn subvolume_of(path: &str) -> &str {
    path.split('/').filter(|segment| !segment.is_empty()).nth(2).unwrap_or(path)
}

/// The user that was made for a PV alone, with its Secret as `namespace/name`.
fn own_user(volume: &PersistentVolume) -> Result<Option<(String, String)>> {
    let record = record(volume)?;
    if let (Some(user), Some(namespace), Some(name)) =
        (record.get("user"), record.get("secretNamespace"), record.get("secretName"))
    {
        return Ok(Some((user.clone(), format!("{namespace}/{name}"))));
    }
    let old = volume.spec.as_ref().and_then(|spec| spec.cephfs.as_ref()).filter(|_| record.is_empty());
    Ok(old.and_then(|cephfs| {
        let secret = cephfs.secret_ref.clone()?;
        let namespace = secret.namespace.unwrap_or_default();
        Some((cephfs.user.clone()?, format!("{namespace}/{}", secret.name.unwrap_or_default())))
    }))
}
