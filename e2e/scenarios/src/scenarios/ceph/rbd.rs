//! The main job on images: a claim becomes an image and a PV, grows, and goes as its class says.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use super::{
    bed::{Bed, HOME, RBD, RBD_SECRET},
    on_bed,
};
use crate::{case::Case, ceph::inventory, suite::Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        on_bed("a claim becomes an image and a PV for CSI, and both go with it", csi),
        on_bed("pvSource: in-tree gives the PV that rbd-provisioner made", in_tree),
        on_bed("an image has the features, the data pool and the size that were asked for", shapes),
        on_bed("an archived image lies in the trash and is restored under its old name", archive),
        on_bed("a retained image stays where it is", retain),
        on_bed("an image grows with its claim and never shrinks", grows),
        on_bed("twenty claims at once make twenty images", many),
        on_bed("a class may name a configured cluster instead of monitors", configured),
        on_bed("an image lies in the RADOS namespace of its class", namespace),
        on_bed("an image of our name that somebody else made is not taken", foreign),
        on_bed("an image that is gone already keeps nobody waiting", gone),
        on_bed("sizes of nothing and beyond all measure are refused", sizes),
    ]
}

fn csi_of(volume: &PersistentVolume) -> Result<&k8s_openapi::api::core::v1::CSIPersistentVolumeSource> {
    volume.spec.as_ref().and_then(|spec| spec.csi.as_ref()).context("the PV has no CSI source")
}

pub(super) fn uid(claim: &PersistentVolumeClaim) -> String {
    claim.uid().unwrap_or_default()
}

async fn csi(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("rbd").parameter("fsType", "xfs").create().await?;
    bed.berth().await?;
    bed.claim_of("data", &class, "5000001").await?;
    let (claim, volume) = bed.case.bound_pair("data").await?;

    let image = format!("berth-{}", uid(&claim));
    let csi = csi_of(&volume)?;
    ensure!(csi.driver == RBD, "the driver is {}", csi.driver);
    ensure!(csi.fs_type.as_deref() == Some("xfs"), "fsType {:?}", csi.fs_type);
    let id = volume.annotations().get("berth.storage/volume-id").context("no volume id on the PV")?;
    ensure!(csi.volume_handle == *id, "the handle {} is not the id {id}", csi.volume_handle);
    let secret = csi.node_stage_secret_ref.as_ref().context("no secret for nodes")?;
    ensure!(
        (secret.namespace.as_deref(), secret.name.as_deref()) == (Some(HOME), Some(RBD_SECRET)),
        "nodes are given {secret:?}"
    );
    ensure!(bed.image_spec(&volume)? == format!("{}/{image}", bed.pool), "{}", bed.image_spec(&volume)?);

    let made = bed.image(&volume).await?;
    ensure!(made.format == 2, "image format {}", made.format);
    // Bytes are counted exactly; the old provisioner made MiB of them.
    ensure!(made.size >= 5_000_001 && made.size <= 5 << 20, "the image has {} bytes", made.size);
    ensure!(made.features.is_empty(), "features that nobody asked for: {:?}", made.features);
    let owner = made.metadata.get("berth.owner").with_context(|| format!("metadata {:?}", made.metadata))?;
    let owner: Value = serde_json::from_str(owner).with_context(|| format!("the owner is {owner}"))?;
    for (key, value) in [("namespace", bed.case.namespace.as_str()), ("name", "data"), ("uid", &uid(&claim))]
    {
        ensure!(owner.get(key).and_then(Value::as_str) == Some(value), "the owner is {owner}");
    }
    ensure!(bed.images().await?.live == BTreeSet::from([image]), "{:?}", bed.images().await?);
    bed.case.event("PersistentVolumeClaim", "data", "ProvisioningSucceeded").await?;

    bed.delete("data", &volume).await
}

/// Proves: rbd 12
async fn in_tree(bed: Arc<Bed>) -> Result<()> {
    let class =
        bed.rbd_class("rbd").parameter("pvSource", "in-tree").parameter("fsType", "ext4").create().await?;
    bed.berth().await?;
    bed.claim("data", &class).await?;
    let (claim, volume) = bed.case.bound_pair("data").await?;
    let rbd = volume.spec.as_ref().and_then(|spec| spec.rbd.as_ref()).context("the PV has no RBD source")?;
    let found = serde_json::to_value(rbd)?;
    let expected = json!({
        "monitors": [bed.cluster.monitors().v1],
        "pool": bed.pool,
        "image": format!("berth-{}", uid(&claim)),
        "fsType": "ext4",
        "user": bed.rbd_user(),
        "secretRef": { "name": RBD_SECRET, "namespace": HOME },
    });
    ensure!(found == expected, "the source is {found}");
    bed.image(&volume).await?;
    bed.delete("data", &volume).await
}

async fn shapes(bed: Arc<Bed>) -> Result<()> {
    let data = format!("{}-data", bed.pool);
    bed.cluster.pool(&data).await?;
    let osd = format!("profile rbd pool={}, profile rbd pool={data}", bed.pool);
    let user = format!("client.{}", bed.rbd_user());
    bed.cluster.ceph(&["auth", "caps", &user, "mon", "profile rbd", "osd", &osd]).await?;
    bed.berth().await?;
    let all = ["layering", "exclusive-lock", "object-map", "fast-diff", "deep-flatten"];
    let rows: [(&str, Option<&str>, &[&str]); 5] = [
        ("layering alone", Some("layering"), &["layering"]),
        ("what others need is completed", Some("fast-diff"), &["exclusive-lock", "object-map", "fast-diff"]),
        ("several, with blanks", Some("layering, exclusive-lock"), &["layering", "exclusive-lock"]),
        ("all", Some("layering,exclusive-lock,object-map,fast-diff,deep-flatten"), &all),
        ("another pool for the data", None, &[]),
    ];
    for (number, (what, features, expected)) in rows.into_iter().enumerate() {
        let class = bed.rbd_class(&format!("rbd-{number}")).parameter("imageFormat", "2");
        let class = match features {
            Some(features) => class.parameter("imageFeatures", features),
            None => class.parameter("dataPool", &data),
        };
        let class = class.create().await?;
        let claim = format!("data-{number}");
        let volume = bed.bound(&claim, &class).await?;
        let image = bed.image(&volume).await?;
        ensure!(image.size == 8 << 20, "{what}: {} bytes", image.size);
        if features.is_some() {
            let expected: BTreeSet<String> = expected.iter().map(|&feature| feature.to_owned()).collect();
            ensure!(image.features == expected, "{what}: {:?}", image.features);
        } else {
            ensure!(image.data_pool.as_deref() == Some(data.as_str()), "{what}: {:?}", image.data_pool);
        }
        bed.delete(&claim, &volume).await?;
    }
    let class = bed.rbd_class("format-1").parameter("imageFormat", "1").create().await?;
    bed.claim("format-1", &class).await?;
    let message = bed.case.event("PersistentVolumeClaim", "format-1", "ProvisioningFailed").await?;
    ensure!(message.contains("imageFormat"), "the Event says {message:?}");
    bed.case.delete_claim("format-1").await
}

async fn archive(bed: Arc<Bed>) -> Result<()> {
    for (name, key, value) in [("new", "onDelete", "archive"), ("old", "archiveOnDelete", "true")] {
        let class = bed.rbd_class(name).without("onDelete").parameter(key, value).create().await?;
        if name == "new" {
            bed.berth().await?;
        }
        let volume = bed.bound(name, &class).await?;
        let spec = bed.image_spec(&volume)?;
        // Something to know it by again.
        bed.cluster.rbd(&["image-meta", "set", &spec, "scenario", "kept"]).await?;
        bed.delete(name, &volume).await?;
        let image = spec.split('/').next_back().unwrap_or_default();
        let trash = inventory::trash(&bed.cluster, &bed.pool).await?;
        let entry = trash
            .iter()
            .find(|entry| entry.name == image)
            .with_context(|| format!("{image} is not in the trash: {trash:?}"))?;
        ensure!(entry.status.starts_with("protected until"), "{}", entry.status);
        // Nobody but an administrator takes it out, and not before its time.
        let purged = bed.cluster.run("rbd", &["trash", "purge", &bed.pool]).await?;
        ensure!(purged.code == Some(0), "{purged:?}");
        bed.cluster.rbd(&["trash", "restore", "--pool", &bed.pool, &entry.id]).await?;
        let restored = inventory::Image::of(&bed.cluster, &spec).await?;
        ensure!(restored.metadata.get("scenario").is_some_and(|kept| kept == "kept"), "{restored:?}");
        bed.expect_image(image);
    }
    Ok(())
}

async fn retain(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("rbd").retains().create().await?;
    bed.berth().await?;
    let volume = bed.bound("data", &class).await?;
    let other = bed.rbd_class("other").create().await?;
    bed.case.delete_claim("data").await?;
    bed.case.volume_phase(&volume.name_any(), "Released").await?;
    // Whatever berth wanted to do about it, it has done by now.
    let barrier = bed.bound("barrier", &other).await?;
    bed.delete("barrier", &barrier).await?;
    bed.image(&volume).await?;
    bed.case.volume_phase(&volume.name_any(), "Released").await.map(drop)
}

/// Waits until the claim has that size.
pub(super) async fn has_grown(case: &Case, claim: &str, size: &str) -> Result<()> {
    case.until(&format!("claim {claim} to have {size}"), async || {
        let found = case.get_claim(claim).await?;
        let capacity = found.status.and_then(|status| status.capacity).context("no capacity")?;
        let has = capacity.get("storage").context("no storage")?;
        ensure!(has.0 == size, "it has {}", has.0);
        Ok(())
    })
    .await
}

/// Waits until the PV has that size.
pub(super) async fn volume_has_grown(case: &Case, volume: &str, size: &str) -> Result<()> {
    case.until(&format!("PV {volume} to have {size}"), async || {
        let found = case.get_volume(volume).await?.context("the PV is gone")?;
        let capacity = found.spec.and_then(|spec| spec.capacity).context("no capacity")?;
        let has = capacity.get("storage").context("no storage")?;
        ensure!(has.0 == size, "it has {}", has.0);
        Ok(())
    })
    .await
}

pub(super) fn request(size: &str) -> Value {
    json!({ "spec": { "resources": { "requests": { "storage": size } } } })
}

/// Proves: rbd 20
async fn grows(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("rbd").expandable().create().await?;
    bed.berth().await?;
    let volume = bed.bound("data", &class).await?;
    bed.case.patch_claim("data", &request("24Mi")).await?;
    volume_has_grown(&bed.case, &volume.name_any(), "24Mi").await?;
    ensure!(bed.image(&volume).await?.size == 24 << 20, "{:?}", bed.image(&volume).await?);
    // An administrator was faster: what is bigger already stays so.
    let spec = bed.image_spec(&volume)?;
    bed.case.file_system_grew("data", "24Mi").await?;
    bed.cluster.rbd(&["resize", "--size", "64M", "--no-progress", &spec]).await?;
    bed.case.patch_claim("data", &request("32Mi")).await?;
    bed.case
        .until("the PV to have at least 32Mi", async || {
            let found = bed.case.get_volume(&volume.name_any()).await?.context("the PV is gone")?;
            let capacity = found.spec.and_then(|spec| spec.capacity).context("no capacity")?;
            let has = capacity.get("storage").context("no storage")?.0.clone();
            ensure!(["32Mi", "64Mi"].contains(&has.as_str()), "it has {has}");
            Ok(())
        })
        .await?;
    ensure!(bed.image(&volume).await?.size == 64 << 20, "shrunk: {:?}", bed.image(&volume).await?);
    bed.delete("data", &volume).await
}

async fn many(bed: Arc<Bed>) -> Result<()> {
    const CLAIMS: usize = 20;
    let class = bed.rbd_class("rbd").create().await?;
    bed.berth().await?;
    let pairs = bed.bound_at_once(CLAIMS, &class).await?;
    ensure!(bed.images().await?.live.len() == CLAIMS, "{:?}", bed.images().await?);
    bed.agrees().await?;
    bed.delete_at_once(&pairs).await
}

async fn configured(bed: Arc<Bed>) -> Result<()> {
    let cluster = |monitors: &str| {
        json!({ "clusters": [{
            "name": "main",
            "monitors": monitors,
            "adminId": bed.rbd_user(),
            "adminSecretName": RBD_SECRET,
            "adminSecretNamespace": HOME,
        }] })
    };
    let class = bed
        .rbd_class("rbd")
        .without("monitors")
        .without("adminId")
        .without("adminSecretName")
        .without("adminSecretNamespace")
        .parameter("clusterID", "main")
        .create()
        .await?;
    let berth = bed.case.start(&bed.setup_for(&[RBD], &cluster(&bed.cluster.monitors().v1))?.alone())?;
    let volume = bed.bound("data", &class).await?;
    let attributes = csi_of(&volume)?.volume_attributes.clone().unwrap_or_default();
    ensure!(attributes.get("clusterID").is_some_and(|name| name == "main"), "{attributes:?}");
    ensure!(!attributes.contains_key("monitors"), "addresses are frozen: {attributes:?}");
    berth.terminate().await?;
    // The monitors have moved, the class is gone, and the PV need not know.
    bed.case.delete_class(&class).await?;
    bed.case.start(&bed.setup_for(&[RBD], &cluster(&bed.cluster.monitors().v2))?.alone())?;
    bed.delete("data", &volume).await
}

async fn namespace(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("rbd").parameter("radosNamespace", "team").create().await?;
    bed.berth().await?;
    bed.claim("data", &class).await?;
    let message = bed.case.event("PersistentVolumeClaim", "data", "ProvisioningFailed").await?;
    ensure!(message.contains("namespace") && message.contains("team"), "the Event says {message:?}");
    let team = format!("{}/team", bed.pool);
    bed.cluster.rbd(&["namespace", "create", &team]).await?;
    let (claim, volume) = bed.case.bound_pair("data").await?;
    let image = format!("berth-{}", uid(&claim));
    let there = inventory::Images::of(&bed.cluster, &team).await?;
    ensure!(there.live == BTreeSet::from([image]), "{there:?}");
    ensure!(bed.images().await?.live.is_empty(), "outside of the namespace: {:?}", bed.images().await?);
    bed.case.delete_claim("data").await?;
    bed.case.volume_gone(&volume.name_any()).await?;
    bed.case
        .until("the namespace to be empty", async || {
            let there = inventory::Images::of(&bed.cluster, &team).await?;
            ensure!(there == inventory::Images::default(), "{there:?}");
            Ok(())
        })
        .await
}

async fn foreign(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("rbd").create().await?;
    // The claim is there before berth, so that its UID is known.
    let claim = bed.claim("data", &class).await?;
    let image = format!("berth-{}", uid(&claim));
    let spec = format!("{}/{image}", bed.pool);
    bed.cluster.rbd(&["create", "--size", "8M", &spec]).await?;
    // Somebody's data.
    let bench = ["bench", "--io-type", "write", "--io-size", "4096", "--io-total", "4096", &spec];
    bed.cluster.rbd(&bench).await?;
    bed.berth().await?;
    let message = bed.case.event("PersistentVolumeClaim", "data", "ProvisioningFailed").await?;
    ensure!(message.contains(&image), "the Event does not name the image: {message:?}");
    bed.case.delete_claim("data").await?;
    let barrier = bed.bound("barrier", &class).await?;
    bed.delete("barrier", &barrier).await?;
    bed.expect_image(&image);
    Ok(())
}

/// Proves: rbd 14
async fn gone(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("rbd").create().await?;
    bed.berth().await?;
    let volume = bed.bound("data", &class).await?;
    bed.cluster.rbd(&["rm", "--no-progress", &bed.image_spec(&volume)?]).await?;
    bed.delete("data", &volume).await
}

/// Proves: rbd 9
async fn sizes(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("rbd").create().await?;
    bed.berth().await?;
    // The API server takes no negative ones, and nothing is no storage request.
    for (name, size) in [("huge", "1000000Ti"), ("endless", "9000P")] {
        bed.claim_of(name, &class, size).await?;
        let message = bed.case.event("PersistentVolumeClaim", name, "ProvisioningFailed").await?;
        ensure!(!message.is_empty(), "an Event without words");
        bed.case.delete_claim(name).await?;
    }
    let claims: Api<PersistentVolumeClaim> = bed.case.api();
    let zero = bed.claim_of("zero", &class, "0").await;
    if zero.is_ok() {
        bed.case.event("PersistentVolumeClaim", "zero", "ProvisioningFailed").await?;
        ensure!(claims.get("zero").await?.spec.is_some_and(|spec| spec.volume_name.is_none()), "bound");
        bed.case.delete_claim("zero").await?;
    }
    Ok(())
}
