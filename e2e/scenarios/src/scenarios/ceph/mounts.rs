//! A PV that berth made is mounted as a node would do it, and a file survives. By FUSE, in a mount namespace that goes with
//! whoever made it; skipped with the reason where that cannot be.

use std::{os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use super::{bed::Bed, cephfs::tenant, on_bed};
use crate::{
    ceph::FILE_SYSTEM,
    process::Process,
    suite::{Scenario, skip},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        on_bed("a subvolume is mounted with its own user's key, and a file survives", subvolume),
        on_bed("an image is mounted with the key of its class's user, and a file survives", image),
    ]
}

/// Fails as a skip where nothing can be mounted.
async fn fuse() -> Result<()> {
    if !Path::new("/dev/fuse").exists() {
        return Err(skip("there is no /dev/fuse"));
    }
    let unshare = Command::new("unshare").args(["--mount", "true"]).output().await;
    match unshare {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(skip(format!(
            "no mount namespace can be made: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
        Err(error) => Err(skip(format!("there is no program unshare: {error}"))),
    }
}

/// Runs a script with its own mounts and gives what it wrote.
async fn script(bed: &Bed, name: &str, text: &str, environment: &[(&str, &str)]) -> Result<String> {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "bash", "-euc", text]);
    command.current_dir(bed.case.scratch()).envs(environment.iter().copied());
    command.env("CEPH_CONF", bed.cluster.conf());
    let process = Process::spawn(name, command, &bed.case.scratch().join(format!("{name}.log")))?;
    let status = process.wait(crate::case::PATIENCE).await.with_context(|| process.log_tail(20))?;
    ensure!(status.success(), "{name} ended with {status}:\n{}", process.log_tail(20));
    Ok(process.log())
}

const CEPHFS_SCRIPT: &str = r#"
mkdir mnt
mount_it() {
    ceph-fuse -f -n "client.$ID" -k "$RING" -r "$1" --client_fs "$FS" --client_mount_timeout=20 mnt &
    pid=$!
    until mountpoint -q mnt; do kill -0 $pid || { wait $pid; return 1; }; sleep 0.05; done
}
unmount() { umount mnt; wait $pid || true; }
mount_it "$SUBVOLUME"
echo kept >mnt/file
sync mnt/file
df --output=size --block-size=1M mnt | tail -n 1 | xargs echo size:
unmount
mount_it "$SUBVOLUME"
echo "file: $(cat mnt/file)"
unmount
for path in / /volumes "$OTHER"; do
    if mount_it "$path"; then unmount; echo "may mount $path"; else echo "may not mount $path"; fi
done
"#;

async fn subvolume(bed: Arc<Bed>) -> Result<()> {
    fuse().await?;
    let class = bed.cephfs_class("cephfs").parameter("pvSource", "in-tree").create().await?;
    bed.berth().await?;
    let volume = bed.bound("data", &class).await?;
    let other = bed.bound("other", &class).await?;
    let (user, key) = tenant(&bed, &volume).await?;
    let ring = bed.case.scratch().join("ring");
    std::fs::write(&ring, format!("[client.{user}]\n\tkey = {key}\n")).context("write the keyring")?;
    std::fs::set_permissions(&ring, std::fs::Permissions::from_mode(0o600)).context("protect the keyring")?;
    let path = |volume: &k8s_openapi::api::core::v1::PersistentVolume| {
        volume.spec.as_ref()?.cephfs.as_ref()?.path.clone()
    };
    let text = script(
        &bed,
        "mount",
        CEPHFS_SCRIPT,
        &[
            ("ID", &user),
            ("RING", &ring.display().to_string()),
            ("FS", FILE_SYSTEM),
            ("SUBVOLUME", &path(&volume).context("the PV has no path")?),
            ("OTHER", &path(&other).context("the PV has no path")?),
        ],
    )
    .await?;
    ensure!(text.contains("file: kept"), "{text}");
    ensure!(text.contains("size: 8"), "the quota is not what a mount shows:\n{text}");
    ensure!(text.matches("may not mount").count() == 3 && !text.contains("may mount"), "{text}");
    bed.delete("data", &volume).await?;
    bed.delete("other", &other).await
}

const RBD_SCRIPT: &str = r#"
mkdir images fs
map_it() {
    rbd-fuse -f -p "$POOL" -r "$IMAGE" images &
    pid=$!
    until mountpoint -q images; do kill -0 $pid || { wait $pid; return 1; }; sleep 0.05; done
}
unmap() { umount images; wait $pid || true; }
map_it
mkfs.ext4 -q -F "images/$IMAGE"
mount -o loop "images/$IMAGE" fs
echo kept >fs/file
df --output=size --block-size=1M fs | tail -n 1 | xargs echo size:
umount fs
unmap
map_it
mount -o loop "images/$IMAGE" fs
echo "file: $(cat fs/file)"
umount fs
unmap
"#;

async fn image(bed: Arc<Bed>) -> Result<()> {
    fuse().await?;
    if !Path::new("/dev/loop-control").exists() {
        return Err(skip("there is no /dev/loop-control"));
    }
    let class = bed.rbd_class("rbd").create().await?;
    bed.berth().await?;
    bed.claim_of("data", &class, "32Mi").await?;
    let volume = bed.case.bound_pair("data").await?.1;
    let spec = bed.image_spec(&volume)?;
    let (pool, image) = spec.split_once('/').context("no pool")?;
    let key = bed.case.scratch().join("key");
    std::fs::write(&key, bed.cluster.key(&bed.rbd_user()).await?).context("write the key")?;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).context("protect the key")?;
    let arguments = format!("--id {} --keyfile {}", bed.rbd_user(), key.display());
    let environment = [("POOL", pool), ("IMAGE", image), ("CEPH_ARGS", &arguments)];
    let text = script(&bed, "mount", RBD_SCRIPT, &environment).await?;
    ensure!(text.contains("file: kept"), "{text}");
    bed.delete("data", &volume).await
}
