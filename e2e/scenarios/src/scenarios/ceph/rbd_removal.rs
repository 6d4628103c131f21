//! Images whose removal is undone, or must not be done: rescues, copies of other clusters' PVs, full pools, huge images, groups,
//! mirroring, and what lies in the trash by hand.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::{
    bed::{Bed, HOME, RBD_SECRET},
    on_bed,
};
use crate::{
    ceph::inventory,
    control_plane::User,
    proxy::{Effect, Gate},
    suite::Scenario,
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        on_bed("an image whose PV is rescued while berth is dead comes back", rescued),
        on_bed("an image is purged only when its PV is gone", held_by_its_pv),
        on_bed("an image whose PV is made again comes back from the trash", made_again),
        on_bed("a copy of another cluster's PV destroys no image until it is taken over", copied),
        on_bed("of two clusters in one pool neither sweeps nor purges the other's images", two_clusters),
        on_bed("one Ceph cluster under two addresses keeps each image for its own PV", two_addresses),
        on_bed("a PV that is bound again by another claim grows and goes with its image", bound_again),
        on_bed("a PV made by hand gets no image that no provisioner made", by_hand),
        on_bed("images in a full pool are deleted and purged, and the pool is named", full),
        on_bed("a large image is purged in slices and keeps no small one waiting", large),
        on_bed("an image in a group or mirrored by snapshots is told with what to do", grouped_and_mirrored),
        on_bed("an image that is only called like ours stays in the trash", only_called_so),
    ]
}

fn policy(policy: &str) -> Value {
    json!({ "spec": { "persistentVolumeReclaimPolicy": policy } })
}

/// The image of a PV, without its pool.
fn name_of(bed: &Bed, volume: &PersistentVolume) -> Result<String> {
    Ok(bed.image_spec(volume)?.split('/').next_back().unwrap_or_default().to_owned())
}

/// Waits until the image is in the trash, or is not.
async fn in_trash(bed: &Bed, image: &str, wanted: bool) -> Result<()> {
    bed.case
        .until(&format!("{image} in the trash: {wanted}"), async || {
            let found = bed.images().await?;
            ensure!(found.trash.iter().any(|name| name == image) == wanted, "{found:?}");
            Ok(())
        })
        .await
}

/// Waits for an Event on the PV that ends with the command.
pub(super) async fn refused(bed: &Bed, volume: &PersistentVolume, command: &str) -> Result<()> {
    bed.case
        .until(&format!("an Event that ends with {command:?}"), async || {
            let events = bed.case.events("PersistentVolume", &volume.name_any()).await?;
            let messages: Vec<String> = events.into_iter().filter_map(|event| event.message).collect();
            ensure!(messages.iter().any(|message| message.ends_with(command)), "{messages:?}");
            Ok(())
        })
        .await
}

/// The image was moved, the PV set to Retain, berth killed: the next one purged.
async fn rescued(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("rbd").create().await?;
    let proxy = bed.case.proxy().await?;
    let setup = bed.setup()?.through(proxy.access(&bed.case.plane.access(User::Berth)?)).alone();
    let berth = bed.case.start(&setup)?;
    let volume = bed.bound("data", &class).await?;
    let (name, image) = (volume.name_any(), name_of(&bed, &volume)?);
    bed.cluster.rbd(&["image-meta", "set", &bed.image_spec(&volume)?, "scenario", "kept"]).await?;
    let gate = Gate::default();
    proxy.on(
        |call| call.verb == "delete" && call.resource == "persistentvolumes",
        1,
        Effect::HoldRequest(gate.clone()),
    );
    bed.case.delete_claim("data").await?;
    gate.reached(1).await?;
    in_trash(&bed, &image, true).await?;
    berth.kill().await?;
    proxy.heal();
    bed.case.patch_volume(&name, &policy("Retain")).await?;
    bed.berth().await?;
    in_trash(&bed, &image, false).await?;
    let kept = bed.image(&volume).await?;
    ensure!(kept.metadata.contains_key("scenario"), "another image: {kept:?}");
    bed.agrees().await?;
    // It is a volume like any other.
    bed.case.patch_volume(&name, &policy("Delete")).await?;
    bed.case.volume_gone(&name).await
}

async fn held_by_its_pv(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("rbd").create().await?;
    bed.berth().await?;
    let volume = bed.bound("data", &class).await?;
    let (name, image) = (volume.name_any(), name_of(&bed, &volume)?);
    let finalizer = json!({ "metadata": { "finalizers": ["scenario.example/held"] } });
    bed.case.patch_volume(&name, &finalizer).await?;
    bed.case.delete_claim("data").await?;
    in_trash(&bed, &image, true).await?;
    // What was deleted after it is purged before it.
    let other = bed.bound("other", &class).await?;
    let after = name_of(&bed, &other)?;
    bed.delete("other", &other).await?;
    in_trash(&bed, &after, false).await?;
    in_trash(&bed, &image, true).await?;
    bed.case.patch_volume(&name, &json!({ "metadata": { "finalizers": null } })).await?;
    bed.case.volume_gone(&name).await
}

/// Deleted by mistake, and undone while the trash holds it.
async fn made_again(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("rbd").parameter("trashRetention", "1h").create().await?;
    bed.berth().await?;
    let volume = bed.bound("data", &class).await?;
    let (name, image) = (volume.name_any(), name_of(&bed, &volume)?);
    bed.cluster.rbd(&["image-meta", "set", &bed.image_spec(&volume)?, "scenario", "kept"]).await?;
    bed.delete("data", &volume).await?;
    in_trash(&bed, &image, true).await?;
    let mut object = copy_of(&volume)?;
    let spec = object.get_mut("spec").and_then(Value::as_object_mut).context("no spec")?;
    spec.remove("claimRef");
    spec.insert("persistentVolumeReclaimPolicy".to_owned(), json!("Retain"));
    bed.case.create_global::<PersistentVolume>(&object).await?;
    in_trash(&bed, &image, false).await?;
    let back = bed.image(&volume).await?;
    ensure!(back.metadata.contains_key("scenario"), "another image: {back:?}");
    // It is a volume like any other: it is bound, and goes with its claim.
    let modes = json!(["ReadWriteOnce"]);
    let again = bed.case.claim("again").class(&class).size("8Mi").set(&["spec", "accessModes"], modes);
    again.set(&["spec", "volumeName"], json!(name)).create().await?;
    bed.case.bound_pair("again").await?;
    let soon = json!({ "metadata": { "annotations": { "berth.storage/trash-retention": "0s" } } });
    bed.case.patch_volume(&name, &soon).await?;
    bed.case.patch_volume(&name, &policy("Delete")).await?;
    bed.delete("again", &volume).await
}

/// The object as a backup tool restores it elsewhere.
pub(super) fn copy_of(volume: &PersistentVolume) -> Result<Value> {
    let mut object = serde_json::to_value(volume)?;
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut).context("no metadata")?;
    metadata.retain(|key, _| ["name", "annotations", "labels"].contains(&key.as_str()));
    object.as_object_mut().context("no object")?.remove("status");
    Ok(object)
}

async fn copied(bed: Arc<Bed>) -> Result<()> {
    let other = Bed::new(Arc::new(bed.case.neighbour().await?)).await?;
    bed.berth().await?;
    other.berth().await?;
    let class = bed.rbd_class("rbd").create().await?;
    let volume = bed.bound("data", &class).await?;
    let (name, spec) = (volume.name_any(), bed.image_spec(&volume)?);
    other.case.create_global::<PersistentVolume>(&copy_of(&volume)?).await?;
    other.case.volume_phase(&name, "Released").await?;
    let id = bed.case.cluster_id().await?;
    let command = format!("kubectl annotate --overwrite pv {name} berth.storage/take-over={id}");
    refused(&other, &volume, &command).await?;
    ensure!(bed.images().await?.trash.is_empty(), "{:?}", bed.images().await?);
    inventory::Image::of(&bed.cluster, &spec).await?;
    // Handed over on purpose: the first cluster lets go of it, the second one takes it.
    bed.case.patch_volume(&name, &policy("Retain")).await?;
    bed.case.delete_claim("data").await?;
    bed.case.volume_phase(&name, "Released").await?;
    bed.case.global::<PersistentVolume>().delete(&name, &kube::api::DeleteParams::default()).await?;
    bed.case.volume_gone(&name).await?;
    inventory::Image::of(&bed.cluster, &spec).await.context("it went with the PV that was to retain it")?;
    let taken = json!({ "metadata": { "annotations": { "berth.storage/take-over": id } } });
    other.case.patch_volume(&name, &taken).await?;
    other.case.volume_gone(&name).await?;
    // By the second cluster's berth, which ends with this function.
    in_trash(&bed, &name_of(&bed, &volume)?, false).await
}

/// The second cluster swept what the first had begun, and purged what it had moved.
async fn two_clusters(bed: Arc<Bed>) -> Result<()> {
    let other = Bed::new(Arc::new(bed.case.neighbour().await?)).await?;
    let class = bed.rbd_class("rbd").create().await?;
    let others_class = other.rbd_class("rbd").create().await?;
    let proxy = bed.case.proxy().await?;
    let setup =
        bed.setup()?.through(proxy.access(&bed.case.plane.access(User::Berth)?)).alone().sweeps_soon();
    let berth = bed.case.start(&setup)?;
    // An image in the trash whose PV stays, and one whose PV was never stored.
    let held = bed.bound("held", &class).await?;
    let (name, image) = (held.name_any(), name_of(&bed, &held)?);
    let finalizer = json!({ "metadata": { "finalizers": ["scenario.example/held"] } });
    bed.case.patch_volume(&name, &finalizer).await?;
    bed.case.delete_claim("held").await?;
    in_trash(&bed, &image, true).await?;
    let gate = Gate::default();
    proxy.on(
        |call| call.verb == "create" && call.resource == "persistentvolumes",
        1,
        Effect::HoldRequest(gate.clone()),
    );
    bed.claim("begun", &class).await?;
    gate.reached(1).await?;
    berth.kill().await?;
    proxy.heal();
    bed.case.delete_claim("begun").await?;
    bed.case.claim_gone("begun").await?;
    let begun = bed.images().await?.live;
    ensure!(begun.len() == 1, "{begun:?}");
    let second = other.case.start(&other.setup()?.alone().sweeps_soon())?;
    // What the second one makes and deletes is purged, which takes longer than a sweep.
    let volume = other.bound("data", &others_class).await?;
    let theirs = name_of(&other, &volume)?;
    other.delete("data", &volume).await?;
    in_trash(&bed, &theirs, false).await?;
    ensure!(bed.images().await?.live == begun, "{:?}, and there was {begun:?}", bed.images().await?);
    in_trash(&bed, &image, true).await?;
    second.kill().await?;
    bed.case.start(&setup)?;
    bed.case.patch_volume(&name, &json!({ "metadata": { "finalizers": null } })).await?;
    bed.case.volume_gone(&name).await?;
    bed.agrees().await
}

async fn two_addresses(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("first").create().await?;
    let again = format!("{},{}", bed.cluster.monitors().v1, bed.cluster.monitors().v2);
    let second = bed.rbd_class("second").parameter("monitors", &again).create().await?;
    let berth = bed.case.start(&bed.setup()?.alone().sweeps_soon())?;
    berth.answers("/livez").await?;
    let (one, two) = (bed.bound("one", &class).await?, bed.bound("two", &second).await?);
    let (kept, deleted) = (name_of(&bed, &one)?, name_of(&bed, &two)?);
    bed.delete("two", &two).await?;
    in_trash(&bed, &deleted, true).await?;
    in_trash(&bed, &deleted, false).await?;
    ensure!(bed.images().await?.live.contains(&kept), "{:?}", bed.images().await?);
    // A PV by hand that names the image under the other address is not believed.
    let copy = made_by_hand(&bed, &second, &bed.cluster.monitors().v2, &kept).await?;
    let name = copy.name_any();
    let named = format!("PersistentVolume {} has the same path", one.name_any());
    bed.case
        .until("an Event that names the other PV", async || {
            let events = bed.case.events("PersistentVolume", &name).await?;
            let messages: Vec<String> = events.into_iter().filter_map(|event| event.message).collect();
            ensure!(messages.iter().any(|message| message.contains(&named)), "{messages:?}");
            Ok(())
        })
        .await?;
    ensure!(bed.images().await?.live.contains(&kept), "{:?}", bed.images().await?);
    bed.case.patch_volume(&name, &policy("Retain")).await?;
    bed.case.global::<PersistentVolume>().delete(&name, &kube::api::DeleteParams::default()).await?;
    bed.case.volume_gone(&name).await?;
    bed.delete("one", &one).await
}

async fn bound_again(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("rbd").expandable().create().await?;
    bed.berth().await?;
    let volume = bed.bound("data", &class).await?;
    let name = volume.name_any();
    bed.case.patch_volume(&name, &policy("Retain")).await?;
    bed.case.delete_claim("data").await?;
    bed.case.volume_phase(&name, "Released").await?;
    bed.case.patch_volume(&name, &json!({ "spec": { "claimRef": null } })).await?;
    let modes = json!(["ReadWriteOnce"]);
    let again = bed.case.claim("again").class(&class).size("8Mi").set(&["spec", "accessModes"], modes);
    again.set(&["spec", "volumeName"], json!(name)).create().await?;
    bed.case.bound_pair("again").await?;
    bed.case.patch_volume(&name, &policy("Delete")).await?;
    bed.case.patch_claim("again", &super::rbd::request("16Mi")).await?;
    super::rbd::volume_has_grown(&bed.case, &name, "16Mi").await?;
    bed.delete("again", &volume).await
}

/// A PV that says what one of rbd-provisioner's says, and names any image.
async fn made_by_hand(bed: &Bed, class: &str, monitors: &str, image: &str) -> Result<PersistentVolume> {
    let name = format!("pvc-{}-hand", bed.case.id());
    let object = json!({
        "metadata": { "name": name, "annotations": {
            "pv.kubernetes.io/provisioned-by": "rbd.berth.storage", "rbdProvisionerIdentity": "ceph.com/rbd",
        } },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": { "storage": "8Mi" },
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": class,
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": bed.case.namespace, "name": "gone", "uid": "5b2c0f6e-0000-4000-8000-000000000000",
            },
            "rbd": {
                "monitors": [monitors], "pool": bed.pool, "image": image,
                "user": bed.rbd_user(), "secretRef": { "name": RBD_SECRET, "namespace": HOME },
            },
        },
    });
    bed.case.create_global(&object).await
}

async fn by_hand(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("rbd").create().await?;
    bed.berth().await?;
    let spec = format!("{}/production", bed.pool);
    bed.cluster.rbd(&["create", "--size", "8M", &spec]).await?;
    bed.expect_image("production");
    let volume = made_by_hand(&bed, &class, &bed.cluster.monitors().v1, "production").await?;
    let name = volume.name_any();
    refused(
        &bed,
        &volume,
        &format!("kubectl annotate --overwrite pv {name} berth.storage/take-over=unrecorded"),
    )
    .await?;
    bed.cluster.rbd(&["info", &spec]).await?;
    ensure!(bed.images().await?.trash.is_empty(), "{:?}", bed.images().await?);
    bed.case.patch_volume(&name, &policy("Retain")).await?;
    bed.case.global::<PersistentVolume>().delete(&name, &kube::api::DeleteParams::default()).await?;
    bed.case.volume_gone(&name).await
}

/// In a full pool nothing could be deleted, and the Event blamed the network.
async fn full(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("rbd").create().await?;
    bed.berth().await?;
    // So that the pool has a trash: an image that goes, and two that stay.
    let first = bed.bound("first", &class).await?;
    let (deleted, archived) = (bed.bound("deleted", &class).await?, {
        let class = bed.rbd_class("archive").parameter("onDelete", "archive").create().await?;
        bed.bound("archived", &class).await?
    });
    bed.delete("first", &first).await?;
    bed.agrees().await?;
    bed.cluster.ceph(&["osd", "pool", "set-quota", &bed.pool, "max_objects", "1"]).await?;
    bed.case
        .until("the pool to be full", async || {
            let health = bed.cluster.ceph(&["health", "detail"]).await?;
            ensure!(health.contains(&format!("'{}' is full", bed.pool)), "{health}");
            Ok(())
        })
        .await?;
    bed.claim("late", &class).await?;
    bed.case.delete_claim("deleted").await?;
    bed.case.delete_claim("archived").await?;
    bed.case.volume_gone(&deleted.name_any()).await?;
    bed.case.volume_gone(&archived.name_any()).await?;
    // Purged while the pool is full: that makes the room.
    in_trash(&bed, &name_of(&bed, &deleted)?, false).await?;
    in_trash(&bed, &name_of(&bed, &archived)?, true).await?;
    let trash = inventory::trash(&bed.cluster, &bed.pool).await?;
    ensure!(
        trash.iter().all(|entry| entry.status.contains("2099") || entry.status.contains("2100")),
        "{trash:?}"
    );
    bed.expect_trash(&name_of(&bed, &archived)?);
    let named = format!("pool {} is full", bed.pool);
    bed.case
        .until("an Event that names the pool", async || {
            let events = bed.case.events("PersistentVolumeClaim", "late").await?;
            let messages: Vec<String> = events.into_iter().filter_map(|event| event.message).collect();
            ensure!(messages.iter().any(|message| message.contains(&named)), "{messages:?}");
            Ok(())
        })
        .await?;
    bed.cluster.ceph(&["osd", "pool", "set-quota", &bed.pool, "max_objects", "0"]).await?;
    let late = bed.case.bound_pair("late").await?.1;
    bed.delete("late", &late).await
}

/// More objects than are purged in one go; with an object map each is soon dealt with.
async fn large(bed: Arc<Bed>) -> Result<()> {
    let huge = bed.rbd_class("huge").parameter("imageFeatures", "fast-diff").create().await?;
    let class = bed.rbd_class("rbd").create().await?;
    bed.berth().await?;
    bed.claim_of("huge", &huge, "400Gi").await?;
    let volume = bed.case.bound_pair("huge").await?.1;
    let small = bed.bound("small", &class).await?;
    let id = {
        let info: Value = bed.cluster.rbd_json(&["info", &bed.image_spec(&volume)?]).await?;
        info.get("id").and_then(Value::as_str).context("an image without an id")?.to_owned()
    };
    bed.delete("huge", &volume).await?;
    bed.delete("small", &small).await?;
    let purging = format!("berth.purging-{id}");
    bed.case
        .until("a slice to be gone", async || {
            let size: Value = bed.cluster.rbd_json(&["info", &format!("{}/{purging}", bed.pool)]).await?;
            let size = size.get("size").and_then(Value::as_u64).context("no size")?;
            ensure!(size < 400 << 30, "it has {size} bytes still");
            Ok(())
        })
        .await?;
    in_trash(&bed, &name_of(&bed, &small)?, false).await?;
    bed.agrees().await
}

async fn grouped_and_mirrored(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("rbd").create().await?;
    bed.berth().await?;
    let (grouped, mirrored) = (bed.bound("grouped", &class).await?, bed.bound("mirrored", &class).await?);
    let group = format!("{}/nightly", bed.pool);
    let (member, copy) = (bed.image_spec(&grouped)?, bed.image_spec(&mirrored)?);
    bed.cluster.rbd(&["group", "create", &group]).await?;
    bed.cluster.rbd(&["group", "image", "add", &group, &member]).await?;
    bed.cluster.rbd(&["mirror", "pool", "enable", &bed.pool, "image"]).await?;
    bed.cluster.rbd(&["mirror", "image", "enable", &copy, "snapshot"]).await?;
    bed.case.delete_claim("grouped").await?;
    bed.case.delete_claim("mirrored").await?;
    refused(&bed, &grouped, &format!("rbd group image rm {group} {member}")).await?;
    refused(&bed, &mirrored, &format!("rbd mirror image disable {copy}")).await?;
    ensure!(bed.images().await?.trash.is_empty(), "{:?}", bed.images().await?);
    bed.cluster.rbd(&["group", "image", "rm", &group, &member]).await?;
    bed.cluster.rbd(&["mirror", "image", "disable", &copy]).await?;
    bed.case.volume_gone(&grouped.name_any()).await?;
    bed.case.volume_gone(&mirrored.name_any()).await?;
    bed.cluster.rbd(&["group", "rm", &group]).await.map(drop)
}

/// It was purged: its name began as ours do.
async fn only_called_so(bed: Arc<Bed>) -> Result<()> {
    let class = bed.rbd_class("rbd").create().await?;
    let spec = format!("{}/berth-test", bed.pool);
    bed.cluster.rbd(&["create", "--size", "8M", &spec]).await?;
    bed.cluster.rbd(&["trash", "mv", "--expires-at", "15 seconds", &spec]).await?;
    bed.expect_trash("berth-test");
    bed.berth().await?;
    // What is deleted later is purged, so that the trash was looked at when the other was over.
    let volume = bed.bound("data", &class).await?;
    bed.delete("data", &volume).await?;
    in_trash(&bed, &name_of(&bed, &volume)?, false).await?;
    in_trash(&bed, "berth-test", true).await
}
