//! Classes and PVs of rbd-provisioner, of the in-tree kubernetes.io/rbd and of cephfs-provisioner: berth takes their place.
//! The old PVs are made by an administrator's hand, to the byte as those provisioners made them.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolume, Secret};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::{
    bed::{Bed, CEPHFS_SECRET, HOME, Lies, RBD_SECRET, lies_in},
    on_bed,
};
use crate::{berth::Setup, ceph::inventory, suite::Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        on_bed("a class of rbd-provisioner works in its old Deployment's environment", rbd_class),
        on_bed("a class of kubernetes.io/rbd works", in_tree_class),
        on_bed("a class of cephfs-provisioner works in its old Deployment's environment", cephfs_class),
        on_bed("a PV of rbd-provisioner is deleted with its image", rbd_volume),
        on_bed("a PV of rbd-provisioner is archived where its class says so now", rbd_volume_archived),
        on_bed("a PV of kubernetes.io/rbd is deleted with its image", in_tree_volume),
        on_bed("a PV of cephfs-provisioner is deleted with its data, its user and its Secret", cephfs_volume),
        on_bed("a deterministic PV of cephfs-provisioner is deleted with its data", deterministic_volume),
        on_bed("a PV that names another's image as the old ones did is not believed", stranger),
    ]
}

/// Berth as the old Deployment started its provisioner: names in the environment, and nothing else.
fn old_setup(bed: &Bed, provisioner: &str) -> Result<Setup> {
    let mut setup = bed.case.setup()?.alone().sweeps_soon();
    provisioner.clone_into(&mut setup.provisioner);
    Ok(setup)
}

/// Proves: rbd 1
async fn rbd_class(bed: Arc<Bed>) -> Result<()> {
    // As in the example of rbd-provisioner, with the keys in whatever case people wrote them.
    let class = bed
        .case
        .class("rbd")
        .provisioner("ceph.com/rbd")
        .parameter("Monitors", &bed.cluster.monitors().v1)
        .parameter("pool", &bed.pool)
        .parameter("adminid", &bed.rbd_user())
        .parameter("adminSecretNamespace", HOME)
        .parameter("ADMINSECRETNAME", RBD_SECRET)
        .parameter("userId", &bed.rbd_user())
        .parameter("userSecretNamespace", HOME)
        .parameter("userSecretName", RBD_SECRET)
        .parameter("imageFormat", "2")
        .parameter("imageFeatures", "layering")
        .create()
        .await?;
    bed.case.start(&old_setup(&bed, "ceph.com/rbd")?)?;
    let volume = bed.bound("data", &class).await?;
    let image = bed.image(&volume).await?;
    ensure!(image.features == BTreeSet::from(["layering".to_owned()]), "{:?}", image.features);
    goes_to_the_trash(&bed, &volume).await
}

/// A class that does not say what becomes of the bytes keeps them.
async fn goes_to_the_trash(bed: &Bed, volume: &PersistentVolume) -> Result<()> {
    let Lies::Image { image, .. } = lies_in(volume)? else {
        anyhow::bail!("the PV is no image");
    };
    bed.delete("data", volume).await?;
    bed.expect_trash(&image);
    Ok(())
}

/// Proves: rbd 4
async fn in_tree_class(bed: Arc<Bed>) -> Result<()> {
    let class = bed
        .case
        .class("rbd")
        .provisioner("kubernetes.io/rbd")
        .parameter("monitors", &bed.cluster.monitors().v1)
        .parameter("adminId", &bed.rbd_user())
        .parameter("adminSecretName", RBD_SECRET)
        .parameter("adminSecretNamespace", HOME)
        .parameter("pool", &bed.pool)
        .parameter("userId", &bed.rbd_user())
        .parameter("userSecretName", RBD_SECRET)
        .parameter("userSecretNamespace", HOME)
        .parameter("fsType", "ext4")
        .parameter("imageFormat", "2")
        .parameter("imageFeatures", "layering")
        .create()
        .await?;
    bed.case.start(&old_setup(&bed, "kubernetes.io/rbd")?)?;
    let volume = bed.bound("data", &class).await?;
    bed.image(&volume).await?;
    goes_to_the_trash(&bed, &volume).await
}

/// Proves: cephfs 1
async fn cephfs_class(bed: Arc<Bed>) -> Result<()> {
    let class = bed
        .case
        .class("cephfs")
        .provisioner("ceph.com/cephfs")
        .parameter("monitors", &bed.cluster.monitors().v1)
        .parameter("cluster", "ceph")
        .parameter("adminID", &bed.cephfs_user())
        .parameter("adminSecretName", CEPHFS_SECRET)
        .parameter("adminSecretNamespace", HOME)
        .parameter("claimRoot", &format!("/volumes/{}", bed.group))
        .create()
        .await?;
    // Secrets lie where that provisioner was told to keep them.
    let elsewhere = format!("{}-secrets", bed.case.id());
    let namespace = json!({ "metadata": { "name": elsewhere } });
    bed.case.create_global::<k8s_openapi::api::core::v1::Namespace>(&namespace).await?;
    bed.grant_secrets(&elsewhere).await?;
    let setup = old_setup(&bed, "ceph.com/cephfs")?.env("PROVISIONER_SECRET_NAMESPACE", &elsewhere);
    bed.case.start(&setup)?;
    let volume = bed.bound("data", &class).await?;
    bed.agrees().await?;
    let secrets: kube::Api<Secret> = kube::Api::namespaced(bed.case.admin.clone(), &elsewhere);
    let there = secrets.list(&kube::api::ListParams::default()).await?.items.len();
    ensure!(there == 1, "{there} Secrets in {elsewhere}");
    bed.delete("data", &volume).await?;
    bed.expect_subvolume(&Bed::subvolume_name(&volume)?);
    Ok(())
}

/// What a PV of an older provisioner says.
struct OldVolume<'a> {
    class: &'a str,
    provisioner: &'a str,
    annotations: Value,
    source: (&'a str, Value),
}

impl OldVolume<'_> {
    /// Makes PV and claim, and waits until they are bound.
    async fn bound_to(self, bed: &Bed, claim: &str) -> Result<PersistentVolume> {
        let name = format!("pvc-{}-{claim}", bed.case.id());
        let mut annotations = self.annotations;
        let fields = annotations.as_object_mut().context("annotations are an object")?;
        fields.insert("pv.kubernetes.io/provisioned-by".to_owned(), json!(self.provisioner));
        let mut object = json!({
            "metadata": { "name": name, "annotations": annotations },
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "capacity": { "storage": "8Mi" },
                "persistentVolumeReclaimPolicy": "Delete",
                "storageClassName": self.class,
                "claimRef": {
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                    "namespace": bed.case.namespace, "name": claim,
                },
            },
        });
        let spec = object.get_mut("spec").and_then(Value::as_object_mut).context("a spec")?;
        spec.insert(self.source.0.to_owned(), self.source.1);
        bed.case.create_global::<PersistentVolume>(&object).await?;
        bed.case
            .claim(claim)
            .class(self.class)
            .size("8Mi")
            .set(&["spec", "accessModes"], json!(["ReadWriteOnce"]))
            .set(&["spec", "volumeName"], json!(name))
            .create()
            .await?;
        Ok(bed.case.bound_pair(claim).await?.1)
    }
}

/// The source of an old PV for an image.
fn rbd_source(bed: &Bed, image: &str) -> (&'static str, Value) {
    let source = json!({
        "monitors": [bed.cluster.monitors().v1],
        "pool": bed.pool,
        "image": image,
        "user": bed.rbd_user(),
        "secretRef": { "name": RBD_SECRET, "namespace": HOME },
    });
    ("rbd", source)
}

const UUID: &str = "c8f5f6a4-5f6e-11e9-8c3f-0242ac110005";

async fn old_image(bed: &Bed) -> Result<String> {
    let image = format!("kubernetes-dynamic-pvc-{UUID}");
    let spec = format!("{}/{image}", bed.pool);
    bed.cluster
        .rbd(&["create", "--size", "8", "--image-format", "2", "--image-feature", "layering", &spec])
        .await?;
    // As if it had been used.
    let bench = ["bench", "--io-type", "write", "--io-size", "4096", "--io-total", "4096", &spec];
    bed.cluster.rbd(&bench).await?;
    Ok(image)
}

/// A volume of rbd-provisioner, bound to the claim `data`, with berth in that one's place; and its image.
async fn rbd_provisioners(bed: &Bed, class: &str) -> Result<(PersistentVolume, String)> {
    let image = old_image(bed).await?;
    let volume = OldVolume {
        class,
        provisioner: "ceph.com/rbd",
        annotations: json!({ "rbdProvisionerIdentity": "ceph.com/rbd" }),
        source: rbd_source(bed, &image),
    };
    let volume = volume.bound_to(bed, "data").await?;
    bed.case.start(&old_setup(bed, "ceph.com/rbd")?)?;
    Ok((volume, image))
}

/// Proves: rbd 18
async fn rbd_volume(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("rbd").provisioner("ceph.com/rbd").create().await?;
    let (volume, _) = rbd_provisioners(&bed, &class).await?;
    bed.agrees().await?;
    bed.delete("data", &volume).await
}

/// Proves: rbd 18
async fn rbd_volume_archived(bed: Arc<Bed>) -> Result<()> {
    let class =
        bed.rbd_class("rbd").provisioner("ceph.com/rbd").parameter("onDelete", "archive").create().await?;
    let (volume, image) = rbd_provisioners(&bed, &class).await?;
    bed.delete("data", &volume).await?;
    bed.expect_trash(&image);
    let trash = inventory::trash(&bed.cluster, &bed.pool).await?;
    let entry = trash.first().context("the trash is empty")?;
    ensure!(entry.status.starts_with("protected until"), "{entry:?}");
    bed.cluster.rbd(&["trash", "restore", "--pool", &bed.pool, &entry.id]).await?;
    bed.cluster.rbd(&["info", &format!("{}/{image}", bed.pool)]).await?;
    bed.expect_nothing();
    bed.expect_image(&image);
    Ok(())
}

/// Proves: rbd 18
async fn in_tree_volume(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("rbd").provisioner("kubernetes.io/rbd").create().await?;
    let image = old_image(&bed).await?;
    let volume = OldVolume {
        class: &class,
        provisioner: "kubernetes.io/rbd",
        annotations: json!({
            "kubernetes.io/createdby": "rbd-dynamic-provisioner",
            "pv.kubernetes.io/bound-by-controller": "yes",
        }),
        source: rbd_source(&bed, &image),
    };
    let volume = volume.bound_to(&bed, "data").await?;
    bed.case.start(&old_setup(&bed, "kubernetes.io/rbd")?)?;
    bed.delete("data", &volume).await
}

/// Makes a directory as cephfs-provisioner did, with a file in it.
const MAKE_SHARE: &str = r"
path, namespace = sys.argv[1:]
fs.mkdirs(path.encode(), 0o755)
fs.setxattr(path.encode(), 'ceph.dir.layout.pool_namespace', namespace.encode(), 0)
fs.setxattr(path.encode(), 'ceph.quota.max_bytes', b'8388608', 0)
handle = fs.open((path + '/file').encode(), 'w', 0o644)
fs.write(handle, b'somebody else must not see this', 0)
fs.close(handle)
";

/// Prints whether a path is there.
const EXISTS: &str = r"
try:
    fs.stat(sys.argv[1].encode())
    print('there')
except cephfs.ObjectNotFound:
    print('gone')
";

/// One share of cephfs-provisioner: directory, user, Secret and PV.
struct Share {
    path: String,
    user: String,
    secret: String,
    volume: PersistentVolume,
}

async fn share(bed: &Bed, class: &str, group: &str, share: &str, user: &str) -> Result<Share> {
    // That provisioner kept the Secrets of its users where the claims are.
    bed.grant_secrets(&bed.case.namespace).await?;
    // Only a monitor can take its users away, as docs/security.md says.
    let admin = format!("client.{}", bed.cephfs_user());
    bed.cluster.ceph(&["auth", "caps", &admin, "mon", "allow *", "mgr", "allow rw"]).await?;
    let path = format!("/volumes/{}/{group}/{share}", bed.group);
    bed.cluster.in_file_system(MAKE_SHARE, &[&path, &format!("fsvolumens_{share}")]).await?;
    let key = bed
        .cluster
        .user(
            user,
            &[
                ("mds", &format!("allow r,allow rw path={path}")),
                ("osd", &format!("allow rw pool=cephfs.data namespace=fsvolumens_{share}")),
                ("mon", "allow r"),
            ],
        )
        .await?;
    let secret = format!("ceph-{user}-secret");
    let object = json!({
        "metadata": { "name": secret }, "type": "Opaque",
        "data": { "key": base64::Engine::encode(&base64::prelude::BASE64_STANDARD, key) },
    });
    bed.case.create::<Secret>(&object).await?;
    let volume = OldVolume {
        class,
        provisioner: "ceph.com/cephfs",
        annotations: json!({ "cephFSProvisionerIdentity": "cephfs-provisioner-1", "cephShare": share }),
        source: (
            "cephfs",
            json!({
                "monitors": [bed.cluster.monitors().v1],
                "path": path,
                "user": user,
                "secretRef": { "name": secret, "namespace": bed.case.namespace },
            }),
        ),
    };
    let volume = volume.bound_to(bed, "data").await?;
    Ok(Share { path, user: user.to_owned(), secret, volume })
}

impl Share {
    async fn goes(&self, bed: &Bed) -> Result<()> {
        let there = async || {
            let told = bed.cluster.in_file_system(EXISTS, &[&self.path]).await?;
            anyhow::Ok(told.trim() == "there")
        };
        ensure!(there().await?, "{} was not made", self.path);
        bed.delete("data", &self.volume).await?;
        ensure!(!there().await?, "the data is left in {}", self.path);
        let user = bed.cluster.run("ceph", &["auth", "get", &format!("client.{}", self.user)]).await?;
        ensure!(user.code == Some(2), "the user {} is left: {user:?}", self.user);
        let secrets: kube::Api<Secret> = bed.case.api();
        ensure!(secrets.get_opt(&self.secret).await?.is_none(), "the Secret {} is left", self.secret);
        Ok(())
    }
}

/// Proves: cephfs 9
async fn cephfs_volume(bed: Arc<Bed>) -> Result<()> {
    let class = bed.cephfs_class("cephfs").provisioner("ceph.com/cephfs").create().await?;
    let name = format!("kubernetes-dynamic-pvc-{UUID}");
    let user = format!("kubernetes-dynamic-user-{UUID}");
    // Above the shares of one claimRoot is a directory, which stays.
    bed.expect_subvolume("kubernetes");
    let share = share(&bed, &class, "kubernetes", &name, &user).await?;
    bed.case.start(&old_setup(&bed, "ceph.com/cephfs")?)?;
    share.goes(&bed).await
}

/// Proves: cephfs 9
async fn deterministic_volume(bed: Arc<Bed>) -> Result<()> {
    let class = bed
        .cephfs_class("cephfs")
        .provisioner("ceph.com/cephfs")
        .parameter("deterministicNames", "true")
        .create()
        .await?;
    let namespace = bed.case.namespace.clone();
    bed.expect_subvolume(&namespace);
    let user = format!("k8s.{namespace}.data");
    let share = share(&bed, &class, &namespace, "data", &user).await?;
    bed.case.start(&old_setup(&bed, "ceph.com/cephfs")?)?;
    share.goes(&bed).await?;
    // The next claim of that name sees nothing of it.
    let next = bed.bound("data", &class).await?;
    let made = bed.subvolume(&next).await?;
    let leftover = bed.cluster.in_file_system(EXISTS, &[&format!("{}/file", made.path)]).await?;
    ensure!(leftover.trim() == "gone", "the next claim sees the old file in {}", made.path);
    bed.delete("data", &next).await
}

/// An image that berth itself made for somebody, named by a PV without records.
///
/// Proves: rbd 19
async fn stranger(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("rbd").provisioner("ceph.com/rbd").create().await?;
    bed.case.start(&old_setup(&bed, "ceph.com/rbd")?)?;
    let victim = bed.bound("victim", &class).await?;
    let Lies::Image { image, .. } = lies_in(&victim)? else {
        anyhow::bail!("no image");
    };
    let thief = OldVolume {
        class: &class,
        provisioner: "ceph.com/rbd",
        annotations: json!({ "rbdProvisionerIdentity": "ceph.com/rbd" }),
        source: rbd_source(&bed, &image),
    };
    let thief = thief.bound_to(&bed, "thief").await?;
    bed.delete("thief", &thief).await?;
    bed.image(&victim).await.context("a PV without records took another's image")?;
    let message = bed.case.event("PersistentVolume", &thief.name_any(), "VolumeRemoved").await?;
    ensure!(message.contains("kept") && message.contains(&victim.name_any()), "{message:?}");
    bed.delete("victim", &victim).await
}
