//! A machine for one test: a directory of kubelet, a mount namespace of its own, and `berth node` in it.

use std::{
    fs,
    io::Read as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

pub(crate) const DRIVER: &str = "nfs.berth.storage";
/// Longer than anything takes, also on a machine that is busy.
pub(crate) const LONG: Duration = Duration::from_mins(1);

/// Why the tests cannot run here.
pub(crate) fn unusable() -> Option<String> {
    let tried = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "mount", "-t", "tmpfs", "x", "/mnt"])
        .output();
    match tried {
        Ok(tried) if tried.status.success() => None,
        Ok(tried) => Some(format!("unshare --mount: {}", String::from_utf8_lossy(&tried.stderr).trim())),
        Err(error) => Some(format!("unshare: {error}")),
    }
}

/// Prints why the test is skipped, where it is.
pub(crate) fn skipped(test: &str) -> bool {
    let why = unusable();
    if let Some(why) = &why {
        println!("skipped: {test}: {why}");
    }
    why.is_some()
}

pub(crate) struct Host {
    directory: tempfile::TempDir,
    /// Keeps the mount namespace.
    holder: Child,
    berth: Option<Child>,
    log: PathBuf,
    args: Vec<String>,
}

impl Host {
    /// With NFS volumes that are directories of [`srv`](Self::srv).
    pub(crate) fn start() -> Self {
        let mut host = Self::without_berth();
        host.args.extend(["--test-nfs-bind-root".to_owned(), host.srv().display().to_string()]);
        host.start_berth();
        host
    }

    /// With NFS volumes that this kernel mounts.
    pub(crate) fn with_kernel() -> Self {
        let mut host = Self::without_berth();
        host.start_berth();
        host
    }

    /// With this program as `mount.nfs`.
    pub(crate) fn with_mount_program(text: &str) -> Self {
        let mut host = Self::without_berth();
        let programs = host.directory.path().join("programs");
        fs::create_dir(&programs).unwrap();
        let program = programs.join("mount.nfs");
        fs::write(
            &program,
            text.replace("@GATE@", host.gate().to_str().unwrap())
                .replace("@SRV@", host.srv().to_str().unwrap()),
        )
        .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        host.run("mount", &["--bind", programs.to_str().unwrap(), "/usr/local/sbin"]);
        host.start_berth();
        host
    }

    fn without_berth() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        for below in [
            "kubelet/plugins_registry",
            "kubelet/pods",
            "kubelet/plugins/kubernetes.io/csi",
            "srv/a",
            "srv/b",
        ] {
            fs::create_dir_all(at.join(below)).unwrap();
        }
        let holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", "echo ready; exec sleep 1000000"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut host = Self { log: at.join("log"), directory, holder, berth: None, args: Vec::new() };
        let mut ready = [0; 6];
        host.holder.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        host
    }

    fn inside(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id())).arg("--");
        command
    }

    /// Runs a program in the namespace.
    pub(crate) fn run(&self, program: &str, args: &[&str]) {
        let done = self.inside().arg(program).args(args).output().unwrap();
        assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    pub(crate) fn start_berth(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let berth = self
            .inside()
            .args([env!("CARGO_BIN_EXE_berth"), "node", "--node-id", "worker-1", "--log-level", "trace"])
            .args([
                "--unmount-grace",
                "2s",
                "--stats-timeout",
                "1s",
                "--call-timeout",
                "20s",
                "--shutdown-grace",
                "3s",
            ])
            .arg("--kubelet-dir")
            .arg(self.kubelet())
            .args(&self.args)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.berth = Some(berth);
        let registered = self.registration();
        wait_until("berth registers", || {
            registered.exists() && std::os::unix::net::UnixStream::connect(&registered).is_ok()
        });
    }

    /// Kill -9.
    pub(crate) fn kill_berth(&mut self) {
        if let Some(mut berth) = self.berth.take() {
            berth.kill().unwrap();
            berth.wait().unwrap();
        }
    }

    /// SIGTERM; the exit code.
    pub(crate) fn stop_berth(&mut self) -> Option<i32> {
        let mut berth = self.berth.take().unwrap();
        Command::new("kill").arg(berth.id().to_string()).status().unwrap();
        berth.wait().unwrap().code()
    }

    pub(crate) fn kubelet(&self) -> PathBuf {
        self.directory.path().join("kubelet")
    }

    pub(crate) fn srv(&self) -> PathBuf {
        self.directory.path().join("srv")
    }

    /// What hangs hangs while this exists.
    pub(crate) fn gate(&self) -> PathBuf {
        self.directory.path().join("gate")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.kubelet().join("plugins").join(DRIVER).join("csi.sock")
    }

    pub(crate) fn registration(&self) -> PathBuf {
        self.kubelet().join("plugins_registry").join(format!("{DRIVER}-reg.sock"))
    }

    /// As kubelet prepares it before it stages a volume.
    pub(crate) fn staging(&self, volume: &str) -> PathBuf {
        let directory = self.kubelet().join("plugins/kubernetes.io/csi").join(DRIVER).join(volume);
        fs::create_dir_all(directory.join("globalmount")).unwrap();
        fs::write(directory.join("vol_data.json"), "{}").unwrap();
        directory.join("globalmount")
    }

    /// As kubelet prepares it before it publishes a volume: the parent alone.
    pub(crate) fn target(&self, pod: &str) -> PathBuf {
        let directory = self.kubelet().join("pods").join(pod).join("volumes/kubernetes.io~csi/pv");
        fs::create_dir_all(&directory).unwrap();
        directory.join("mount")
    }

    /// A path as the namespace sees it.
    pub(crate) fn seen(&self, path: &Path) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.holder.id(), path.display()))
    }

    /// The options of all mounts at this path.
    pub(crate) fn mounts(&self, path: &Path) -> Vec<String> {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.holder.id())).unwrap();
        let fields = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        fields.filter(|f| Path::new(f[4]) == path).map(|f| f[5].to_owned()).collect()
    }

    /// What the file system mounted at this path shows of itself: its type, source and options.
    pub(crate) fn mount_of(&self, path: &Path) -> String {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.holder.id())).unwrap();
        let mut lines = table.lines().filter(|line| line.split(' ').nth(4) == path.to_str());
        lines.next_back().and_then(|line| line.split(" - ").nth(1)).unwrap_or_default().to_owned()
    }

    /// Everything that is mounted beneath the directory of kubelet.
    pub(crate) fn mounted(&self) -> Vec<String> {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.holder.id())).unwrap();
        let points = table.lines().map(|line| line.split(' ').nth(4).unwrap().to_owned());
        points.filter(|point| Path::new(point).starts_with(self.kubelet())).collect()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.log());
        }
        let _ = fs::remove_file(self.gate());
        if let Some(mut child) = self.berth.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The record of a staged volume.
pub(crate) fn record(staging: &Path) -> PathBuf {
    PathBuf::from(format!("{}.berth.json", staging.display()))
}

pub(crate) fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !is() {
        assert!(Instant::now() < end, "{what}: not within {LONG:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
