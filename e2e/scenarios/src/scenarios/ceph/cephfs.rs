//! The main job on subvolumes: a claim becomes a subvolume with a quota, a user of its own where asked for, and a PV; it
//! grows, and goes as its class says.

use std::{collections::BTreeSet, sync::Arc};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolume, Secret};
use kube::{Api, ResourceExt, api::DeleteParams};
use serde_json::{Value, json};

use super::{
    bed::{Bed, CEPHFS, CEPHFS_SECRET, HOME},
    on_bed,
    rbd::{request, uid, volume_has_grown},
};
use crate::{ceph::FILE_SYSTEM, suite::Scenario};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        on_bed("a claim becomes a subvolume with a quota and a PV for CSI, and both go with it", csi),
        on_bed(
            "pvSource: in-tree gives the PV that cephfs-provisioner made, with a user of its own",
            in_tree,
        ),
        on_bed("a user of its own sees its volume and nothing else", confined),
        on_bed(
            "a deleted Secret of a volume's own user is made again, and a stranger's is left alone",
            secret,
        ),
        on_bed("deterministic names are the old ones, and no data is left for the next claim", deterministic),
        on_bed("an archived subvolume keeps its data, shuts out its user and tells whose it was", archive),
        on_bed("a subvolume's quota grows with its claim", grows),
        on_bed("ten claims at once make ten subvolumes", many),
        on_bed("a subvolume that is gone already keeps nobody waiting", gone),
        on_bed("the subvolume group and the pool of the class are used", layout),
        on_bed(
            "a volume in a full file system is neither lost nor forgotten, and goes when there is room",
            full,
        )
        .alone(),
    ]
}

/// Where e2e/ceph lets the file system keep its data.
const DATA_POOL: &str = "cephfs.data";

/// The quota in bytes.
fn quota(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

async fn csi(bed: Arc<Bed>) -> Result<()> {
    let class = bed.cephfs_class("cephfs").create().await?;
    bed.berth().await?;
    // Not a multiple of 4 MiB, which is what clients count in.
    bed.claim_of("data", &class, "5Mi").await?;
    let (claim, volume) = bed.case.bound_pair("data").await?;
    let name = format!("berth-{}", uid(&claim));
    let csi = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref()).context("the PV has no CSI source")?;
    ensure!(csi.driver == CEPHFS, "the driver is {}", csi.driver);
    let id = volume.annotations().get("berth.storage/volume-id").context("no volume id on the PV")?;
    ensure!(csi.volume_handle == *id, "the handle {} is not the id {id}", csi.volume_handle);
    ensure!(Bed::subvolume_name(&volume)? == name, "{}", Bed::subvolume_name(&volume)?);
    let made = bed.subvolume(&volume).await?;
    ensure!(quota(&made.bytes_quota) == 8 << 20, "the quota is {}", made.bytes_quota);
    ensure!(made.state == "complete", "{}", made.state);
    let owner = made.metadata.get("berth.owner").with_context(|| format!("metadata {:?}", made.metadata))?;
    let owner: Value = serde_json::from_str(owner).with_context(|| format!("the owner is {owner}"))?;
    for (key, value) in [("namespace", bed.case.namespace.as_str()), ("name", "data"), ("uid", &uid(&claim))]
    {
        ensure!(owner.get(key).and_then(Value::as_str) == Some(value), "the owner is {owner}");
    }
    bed.agrees().await?;
    bed.delete("data", &volume).await
}

/// The user that a PV's nodes mount it as, and its key from the Secret that the PV names.
pub(super) async fn tenant(bed: &Bed, volume: &PersistentVolume) -> Result<(String, String)> {
    let cephfs =
        volume.spec.as_ref().and_then(|spec| spec.cephfs.as_ref()).context("the PV has no CephFS source")?;
    let user = cephfs.user.clone().context("the PV names no user")?;
    let reference = cephfs.secret_ref.as_ref().context("the PV names no Secret")?;
    let namespace = reference.namespace.as_deref().unwrap_or_default();
    let api: Api<Secret> = Api::namespaced(bed.case.admin.clone(), namespace);
    let name = reference.name.as_deref().unwrap_or_default();
    let secret = api.get(name).await.with_context(|| format!("get the Secret {namespace}/{name}"))?;
    let key = secret.data.and_then(|data| data.get("key").cloned()).context("the Secret has no key")?;
    Ok((user, String::from_utf8(key.0).context("the key is no text")?))
}

/// Proves: cephfs 8
async fn in_tree(bed: Arc<Bed>) -> Result<()> {
    let class = bed.cephfs_class("cephfs").parameter("pvSource", "in-tree").create().await?;
    bed.berth().await?;
    let volume = bed.bound("data", &class).await?;
    let cephfs =
        volume.spec.as_ref().and_then(|spec| spec.cephfs.as_ref()).context("the PV has no CephFS source")?;
    ensure!(cephfs.monitors == [bed.cluster.monitors().v1.clone()], "{:?}", cephfs.monitors);
    let made = bed.subvolume(&volume).await?;
    ensure!(cephfs.path.as_deref() == Some(made.path.as_str()), "{:?} is not {}", cephfs.path, made.path);
    let (user, key) = tenant(&bed, &volume).await?;
    ensure!(user != bed.cephfs_user() && !user.starts_with("client."), "the PV names the user {user}");
    ensure!(bed.cluster.key(&user).await? == key, "the Secret holds another key");
    let users = bed.users().await?;
    ensure!(users == BTreeSet::from([format!("client.{user}")]), "{users:?}");
    bed.agrees().await?;
    bed.delete("data", &volume).await?;
    bed.case
        .until("the user to be gone", async || {
            let users = bed.users().await?;
            ensure!(users.is_empty(), "{users:?}");
            Ok(())
        })
        .await
}

/// Proves: cephfs 5
async fn confined(bed: Arc<Bed>) -> Result<()> {
    let class = bed.cephfs_class("cephfs").parameter("pvSource", "in-tree").create().await?;
    bed.berth().await?;
    let (one, other) = (bed.bound("one", &class).await?, bed.bound("other", &class).await?);
    let ((user, _), (second, _)) = (tenant(&bed, &one).await?, tenant(&bed, &other).await?);
    ensure!(user != second, "two volumes share the user {user}");
    let caps: Value = bed.cluster.ceph_json(&["auth", "get", &format!("client.{user}")]).await?;
    let mds = caps.pointer("/0/caps/mds").and_then(Value::as_str).unwrap_or_default().to_owned();
    let path = bed.subvolume(&one).await?.path;
    ensure!(mds.contains(&format!("path={path}")), "{mds}");
    ensure!(!mds.contains("allow *"), "{mds}");
    // Rights to a pool without a namespace are rights to the data of every volume in it.
    let osd = caps.pointer("/0/caps/osd").and_then(Value::as_str).unwrap_or_default();
    let namespace = format!("namespace=fsvolumens_{}", Bed::subvolume_name(&one)?);
    ensure!(osd.split(',').all(|grant| grant.contains(&namespace)), "{osd}");
    bed.delete("one", &one).await?;
    bed.delete("other", &other).await
}

async fn secret(bed: Arc<Bed>) -> Result<()> {
    let class = bed.cephfs_class("cephfs").parameter("pvSource", "in-tree").create().await?;
    let berth = bed.berth().await?;
    let volume = bed.bound("data", &class).await?;
    let before = tenant(&bed, &volume).await?;
    let reference = volume.spec.as_ref().and_then(|spec| spec.cephfs.as_ref()?.secret_ref.clone());
    let name = reference.and_then(|reference| reference.name).context("the PV names no Secret")?;
    let secrets: Api<Secret> = Api::namespaced(bed.case.admin.clone(), HOME);
    let delete = async || secrets.delete(&name, &DeleteParams::default()).await.context("delete the Secret");
    let made_again = async || {
        bed.case
            .until("the Secret to be made again", async || {
                let again = tenant(&bed, &volume).await?;
                ensure!(again == before, "it is of {} and not of {}, or has another key", again.0, before.0);
                Ok(())
            })
            .await
    };
    berth.terminate().await?;
    delete().await?;
    let berth = bed.berth().await?;
    made_again().await?;
    ensure!(bed.users().await?.len() == 1, "{:?}", bed.users().await?);

    // What has its name by now is another one's.
    berth.terminate().await?;
    delete().await?;
    bed.secret(&name, "of a tenant").await?;
    let berth = bed.berth().await?;
    let told = bed.case.event("PersistentVolume", &volume.name_any(), "VolumeNotRecorded").await?;
    ensure!(told.contains(&name) && told.contains("was not made for volume"), "{told:?}");
    let left = tenant(&bed, &volume).await?.1;
    ensure!(left == "of a tenant", "it was overwritten");
    berth.terminate().await?;
    delete().await?;
    bed.berth().await?;
    made_again().await?;
    bed.forget_secret(&name);
    bed.agrees().await?;
    bed.delete("data", &volume).await
}

/// Proves: cephfs 4
async fn deterministic(bed: Arc<Bed>) -> Result<()> {
    let class = bed
        .cephfs_class("cephfs")
        .parameter("deterministicNames", "true")
        .parameter("pvSource", "in-tree")
        .create()
        .await?;
    bed.berth().await?;
    let first = bed.bound("data", &class).await?;
    let name = Bed::subvolume_name(&first)?;
    ensure!(name.contains(&bed.case.namespace) && name.contains("data"), "the subvolume is called {name}");
    let path = bed.subvolume(&first).await?.path;
    bed.delete("data", &first).await?;
    bed.agrees().await?;
    // The old one left the data, and this claim would have seen it.
    let second = bed.bound("data", &class).await?;
    ensure!(Bed::subvolume_name(&second)? == name, "{} is not {name}", Bed::subvolume_name(&second)?);
    let again = bed.subvolume(&second).await?;
    ensure!(again.path != path, "the second claim has the first one's directory {path}");
    bed.delete("data", &second).await
}

/// Proves: cephfs 13
async fn archive(bed: Arc<Bed>) -> Result<()> {
    let class = bed
        .cephfs_class("cephfs")
        .parameter("pvSource", "in-tree")
        .parameter("onDelete", "archive")
        .create()
        .await?;
    bed.berth().await?;
    let volume = bed.bound("data", &class).await?;
    let before = bed.subvolume(&volume).await?;
    let (user, _) = tenant(&bed, &volume).await?;
    bed.delete("data", &volume).await?;
    let name = Bed::subvolume_name(&volume)?;
    bed.expect_subvolume(&name);
    let after = bed.subvolume(&volume).await?;
    ensure!(after.path == before.path, "moved from {} to {}", before.path, after.path);
    ensure!(
        after.metadata.keys().any(|key| key.starts_with("berth.arch")),
        "nothing tells that it is archived: {:?}",
        after.metadata
    );
    let users = bed.users().await?;
    ensure!(users.is_empty(), "{user} may still use it: {users:?}");
    Ok(())
}

/// Proves: cephfs 7
async fn grows(bed: Arc<Bed>) -> Result<()> {
    let class = bed.cephfs_class("cephfs").expandable().create().await?;
    bed.berth().await?;
    let volume = bed.bound("data", &class).await?;
    bed.case.patch_claim("data", &request("24Mi")).await?;
    volume_has_grown(&bed.case, &volume.name_any(), "24Mi").await?;
    super::rbd::has_grown(&bed.case, "data", "24Mi").await?;
    let grown = bed.subvolume(&volume).await?;
    ensure!(quota(&grown.bytes_quota) == 24 << 20, "the quota is {}", grown.bytes_quota);
    bed.delete("data", &volume).await
}

async fn many(bed: Arc<Bed>) -> Result<()> {
    const CLAIMS: usize = 10;
    let class = bed.cephfs_class("cephfs").create().await?;
    bed.berth().await?;
    let pairs = bed.bound_at_once(CLAIMS, &class).await?;
    ensure!(bed.subvolumes().await?.len() == CLAIMS, "{:?}", bed.subvolumes().await?);
    bed.agrees().await?;
    bed.delete_at_once(&pairs).await
}

/// With a user that all volumes share: one of the volume's own can only be taken away by way of its subvolume, as long as
/// the administrator's user has no rights over users.
///
/// Proves: cephfs 11
async fn gone(bed: Arc<Bed>) -> Result<()> {
    let class = bed
        .cephfs_class("cephfs")
        .parameter("userSecretName", CEPHFS_SECRET)
        .parameter("userSecretNamespace", HOME)
        .create()
        .await?;
    bed.berth().await?;
    let volume = bed.bound("data", &class).await?;
    bed.fs_subvolume("rm", &Bed::subvolume_name(&volume)?, &[]).await?;
    bed.delete("data", &volume).await
}

async fn layout(bed: Arc<Bed>) -> Result<()> {
    let pool = format!("{}.extra", bed.pool);
    bed.cluster.ceph(&["osd", "pool", "create", &pool, "1"]).await?;
    bed.cluster.ceph(&["fs", "add_data_pool", FILE_SYSTEM, &pool]).await?;
    let class =
        bed.cephfs_class("cephfs").parameter("fsName", FILE_SYSTEM).parameter("pool", &pool).create().await?;
    bed.berth().await?;
    let volume = bed.bound("data", &class).await?;
    let info: Value = bed
        .cluster
        .ceph_json(&[
            "fs",
            "subvolume",
            "info",
            FILE_SYSTEM,
            &Bed::subvolume_name(&volume)?,
            "--group_name",
            &bed.group,
        ])
        .await?;
    ensure!(info.get("data_pool") == Some(&json!(pool)), "{info}");
    bed.delete("data", &volume).await?;

    let wrong = bed.cephfs_class("wrong").parameter("fsName", "nosuch").create().await?;
    bed.claim("wrong", &wrong).await?;
    let message = bed.case.event("PersistentVolumeClaim", "wrong", "ProvisioningFailed").await?;
    ensure!(message.contains("nosuch"), "the Event does not name the file system: {message:?}");
    bed.case.delete_claim("wrong").await
}

/// Bounds the objects of the file system's data pool; waits until it counts as full.
async fn fill(bed: &Bed) -> Result<()> {
    bed.cluster.ceph(&["osd", "pool", "set-quota", DATA_POOL, "max_objects", "1"]).await?;
    bed.case
        .until("the pool to be full", async || {
            let health = bed.cluster.ceph(&["health", "detail"]).await?;
            ensure!(health.contains(&format!("'{DATA_POOL}' is full")), "{health}");
            Ok(())
        })
        .await
}

async fn full(bed: Arc<Bed>) -> Result<()> {
    let class = bed.cephfs_class("cephfs").create().await?;
    let archive = bed.cephfs_class("archive").parameter("onDelete", "archive").create().await?;
    bed.berth().await?;
    let (deleted, archived) = (bed.bound("deleted", &class).await?, bed.bound("archived", &archive).await?);
    let kept = async {
        fill(&bed).await?;
        for (claim, volume) in [("deleted", &deleted), ("archived", &archived)] {
            bed.case.delete_claim(claim).await?;
            bed.case
                .until("an Event that says what is full", async || {
                    let events = bed.case.events("PersistentVolume", &volume.name_any()).await?;
                    let messages: Vec<String> =
                        events.into_iter().filter_map(|event| event.message).collect();
                    let told = messages.iter().any(|message| message.contains("while the data pool is full"));
                    ensure!(told, "{messages:?}");
                    Ok(())
                })
                .await?;
            bed.case.volume_phase(&volume.name_any(), "Released").await?;
            let found = bed.subvolume(volume).await.context("the subvolume went")?;
            ensure!(found.metadata.contains_key("berth.owner"), "{:?}", found.metadata);
        }
        Ok(())
    };
    let kept = kept.await;
    bed.cluster.ceph(&["osd", "pool", "set-quota", DATA_POOL, "max_objects", "0"]).await?;
    kept?;
    for volume in [&deleted, &archived] {
        bed.case.volume_gone(&volume.name_any()).await?;
    }
    let found = bed.subvolume(&archived).await.context("the archive went")?;
    ensure!(found.metadata.contains_key("berth.archived"), "{:?}", found.metadata);
    bed.expect_subvolume(&Bed::subvolume_name(&archived)?);
    Ok(())
}
