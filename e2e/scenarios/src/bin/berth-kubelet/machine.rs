//! The node: containerd with the images, and kubelet, which can be killed and started again.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use berth_e2e::{
    control_plane::{KUBELETS_NODE, Real, User},
    process::Process,
};
use tokio::process::Command;

/// The address of the node, which `e2e/kubelet/machine` makes.
const ADDRESS: &str = "10.99.0.1";

/// Containerd, without a kubelet.
#[derive(Debug)]
pub(crate) struct Containers {
    containerd: Process,
    logs: PathBuf,
}

/// The node.
#[derive(Debug)]
pub(crate) struct Machine {
    containerd: Process,
    kubelet: Mutex<Option<Process>>,
    logs: PathBuf,
}

impl Machine {
    /// Starts containerd, and imports the images.
    pub(crate) async fn containers(images: &Path, logs: &Path) -> Result<Containers> {
        let containerd =
            Process::spawn("containerd", Command::new("containerd"), &logs.join("containerd.log"))?;
        let began = Instant::now();
        while ctr(&["version"]).await.is_err() {
            containerd.check_alive()?;
            ensure!(began.elapsed() < Duration::from_mins(1), "containerd does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for image in ["busybox.tar", "berth.tar"] {
            let file = images.join(image);
            let file = file.to_str().context("a path that is not UTF-8")?;
            ctr(&["-n", "k8s.io", "images", "import", "--snapshotter", "overlayfs", file]).await?;
        }
        Ok(Containers { containerd, logs: logs.to_owned() })
    }

    /// Kills kubelet as a crash would.
    pub(crate) async fn kill_kubelet(&self) -> Result<()> {
        let running = self.kubelet.lock().unwrap_or_else(PoisonError::into_inner).take();
        running.context("kubelet is stopped already")?.kill().await
    }

    /// Starts it again.
    pub(crate) fn start_kubelet(&self) -> Result<()> {
        let started = start_kubelet(&self.logs)?;
        self.kubelet.lock().unwrap_or_else(PoisonError::into_inner).replace(started);
        Ok(())
    }

    /// Fails if a part of it has ended that nothing here ended.
    pub(crate) fn check_alive(&self) -> Result<()> {
        self.containerd.check_alive()?;
        let kubelet = self.kubelet.lock().unwrap_or_else(PoisonError::into_inner);
        kubelet.as_ref().map_or(Ok(()), Process::check_alive)
    }

    /// The end of the log of kubelet.
    pub(crate) fn log_tail(&self) -> String {
        let kubelet = self.kubelet.lock().unwrap_or_else(PoisonError::into_inner);
        kubelet.as_ref().map(|kubelet| kubelet.log_tail(40)).unwrap_or_default()
    }
}

impl Containers {
    /// Starts kubelet, which registers the node.
    pub(crate) fn join(self, plane: &Real) -> Result<Machine> {
        let kubeconfig = self.logs.join("kubelet.kubeconfig");
        std::fs::write(&kubeconfig, plane.access(User::Kubelet)?.kubeconfig())
            .context("write the kubeconfig")?;
        let kubelet = start_kubelet(&self.logs)?;
        Ok(Machine { containerd: self.containerd, kubelet: Mutex::new(Some(kubelet)), logs: self.logs })
    }
}

fn start_kubelet(logs: &Path) -> Result<Process> {
    let mut command = Command::new("kubelet");
    command
        .arg("--config=/etc/kubelet.yaml")
        .arg(format!("--kubeconfig={}", logs.join("kubelet.kubeconfig").display()))
        .arg(format!("--hostname-override={KUBELETS_NODE}"))
        .arg(format!("--node-ip={ADDRESS}"))
        .arg("-v=2");
    Process::spawn("kubelet", command, &logs.join("kubelet.log"))
}

async fn ctr(args: &[&str]) -> Result<()> {
    let ran = Command::new("ctr").args(args).output().await.context("run ctr")?;
    if !ran.status.success() {
        bail!("ctr {}: {}", args.join(" "), String::from_utf8_lossy(&ran.stderr).trim());
    }
    Ok(())
}

/// A line of the mount table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mounted {
    /// What of the file system is mounted.
    pub(crate) root: String,
    /// Where.
    pub(crate) at: String,
}

/// What is mounted at paths that contain `text`.
pub(crate) fn mounted(text: &str) -> Result<Vec<Mounted>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("read the mount table")?;
    let line = |line: &str| {
        let mut fields = line.split(' ').skip(3);
        Some(Mounted { root: fields.next()?.to_owned(), at: fields.next()?.to_owned() })
    };
    Ok(table.lines().filter_map(line).filter(|one| one.at.contains(text)).collect())
}

/// The processes `berth node`.
pub(crate) fn plugins() -> Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").context("list the processes")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse() else { continue };
        // One that ended in between has none.
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if command.starts_with(b"/berth\0node\0") {
            found.push(pid);
        }
    }
    Ok(found)
}
