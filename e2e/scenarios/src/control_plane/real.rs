//! Kubernetes' own programs as child processes: etcd, kube-apiserver, kube-controller-manager and
//! kube-scheduler, on loopback ports that were free, with their data in a temporary directory.
//!
//! Certificates and tokens are made for the run and die with it. RBAC is on. [`Nodes`] says whether pods run.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use kube::Client;
use tokio::process::Command;

use super::{Access, Binaries, Request, User, audit, certificates::Certificates};
use crate::process::{Process, ScratchDir, free_port};

/// How long a part may take to become ready on a busy machine.
const READY_WITHIN: Duration = Duration::from_mins(3);

/// The address at which pods look for the API server, as a Service. Nothing forwards it: it must be one of the machine.
pub const SERVICE: &str = "10.0.0.1";

/// What stands behind the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nodes {
    /// Nothing: the only node is an object, pods are scheduled and never run.
    Objects,
    /// Kubelets, which register themselves, in a network of this run alone: the API server is at [`SERVICE`], port 443.
    Kubelets,
}

/// A running control plane of real parts.
#[derive(Debug)]
pub struct Real {
    // Ended in this order: the API server complains loudly once etcd is gone.
    scheduler: Process,
    controller_manager: Process,
    api_server: Mutex<Option<Arc<Process>>>,
    etcd: Process,
    settings: Settings,
    dir: ScratchDir,
}

/// What is needed to start the API server, and start it again.
#[derive(Debug)]
struct Settings {
    program: PathBuf,
    etcd_port: u16,
    port: u16,
    certificates: Certificates,
    tokens: Vec<(User, String)>,
    nodes: Nodes,
}

impl Real {
    /// Starts all parts and waits until the API server is ready and the controllers run.
    pub async fn start(binaries: &Binaries, nodes: Nodes) -> Result<Self> {
        let dir = ScratchDir::new("berth-controlplane-")?;
        let etcd_port = free_port()?;
        let settings = Settings {
            program: binaries.api_server.clone(),
            etcd_port,
            port: match nodes {
                Nodes::Objects => free_port()?,
                Nodes::Kubelets => 443,
            },
            certificates: Certificates::write(dir.path())?,
            tokens: User::ALL.map(|user| (user, token())).to_vec(),
            nodes,
        };
        settings.write(dir.path())?;

        let etcd = start_etcd(&binaries.etcd, etcd_port, dir.path())?;
        let api_server = Arc::new(settings.start(dir.path())?);
        let admin = settings.access(User::Admin)?.client().await?;
        ready(&admin, &[&etcd, &api_server]).await?;

        let controller_manager = {
            let mut command = Command::new(&binaries.controller_manager);
            command
                .arg(kubeconfig_flag(&settings, User::ControllerManager, dir.path())?)
                .args([
                    "--leader-elect=false",
                    "--secure-port=0",
                    // The default of 20 would make the binder the slowest part of every figure.
                    "--kube-api-qps=1000",
                    "--kube-api-burst=2000",
                    match nodes {
                        // There is one node, made by hand, which must not be marked unreachable.
                        Nodes::Objects => {
                            "--controllers=*,-node-lifecycle-controller,-taint-eviction-controller,\
                             -node-ipam-controller,-node-route-controller,-service-lb-controller,\
                             -cloud-node-lifecycle-controller"
                        }
                        Nodes::Kubelets => {
                            "--controllers=*,-node-ipam-controller,-node-route-controller,\
                             -service-lb-controller,-cloud-node-lifecycle-controller"
                        }
                    },
                ])
                .arg(flag("--root-ca-file", &settings.certificates.authority))
                .arg(flag("--service-account-private-key-file", &settings.certificates.service_account_key));
            spawn("kube-controller-manager", command, dir.path())?
        };
        let scheduler = {
            let mut command = Command::new(&binaries.scheduler);
            command
                .arg(kubeconfig_flag(&settings, User::Scheduler, dir.path())?)
                .args(["--leader-elect=false", "--secure-port=0"]);
            spawn("kube-scheduler", command, dir.path())?
        };
        let real = Self {
            scheduler,
            controller_manager,
            api_server: Mutex::new(Some(api_server)),
            etcd,
            settings,
            dir,
        };
        real.controllers_work(&admin).await?;
        Ok(real)
    }

    /// Waits for a sign of life from the controllers: each namespace gets this `ConfigMap`.
    async fn controllers_work(&self, admin: &Client) -> Result<()> {
        let config_maps: kube::Api<k8s_openapi::api::core::v1::ConfigMap> =
            kube::Api::namespaced(admin.clone(), "default");
        let work = async {
            loop {
                self.check_alive()?;
                if let Ok(Some(_)) = config_maps.get_opt("kube-root-ca.crt").await {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        match tokio::time::timeout(READY_WITHIN, work).await {
            Ok(result) => result,
            Err(_) => bail!(
                "kube-controller-manager did nothing within {READY_WITHIN:?}; the end of its log:\n{}",
                self.controller_manager.log_tail(30)
            ),
        }
    }

    /// How `user` reaches the API server.
    pub fn access(&self, user: User) -> Result<Access> {
        self.settings.access(user)
    }

    pub(super) fn requests(&self, user: User) -> Result<Vec<Request>> {
        audit::read(&self.dir.path().join("audit.log"), user)
    }

    fn api_server(&self) -> Option<Arc<Process>> {
        self.api_server.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) async fn stop_api_server(&self) -> Result<()> {
        let running = self.api_server.lock().unwrap_or_else(PoisonError::into_inner).take();
        match running {
            Some(process) => process.kill().await,
            None => bail!("the API server is stopped already"),
        }
    }

    pub(super) async fn start_api_server(&self) -> Result<()> {
        if self.api_server().is_some() {
            bail!("the API server runs already");
        }
        let process = Arc::new(self.settings.start(self.dir.path())?);
        self.api_server.lock().unwrap_or_else(PoisonError::into_inner).replace(Arc::clone(&process));
        let admin = self.access(User::Admin)?.client().await?;
        ready(&admin, &[&self.etcd, &process]).await
    }

    /// Fails if a part of it has ended.
    pub fn check_alive(&self) -> Result<()> {
        for process in [&self.etcd, &self.controller_manager, &self.scheduler] {
            process.check_alive()?;
        }
        self.api_server().map_or(Ok(()), |process| process.check_alive())
    }

    /// Processor seconds and memory of each part, for reports.
    #[must_use]
    pub fn usage(&self) -> Vec<(&'static str, crate::process::Usage)> {
        let api_server = self.api_server();
        [
            ("etcd", Some(&self.etcd)),
            ("kube-apiserver", api_server.as_deref()),
            ("kube-controller-manager", Some(&self.controller_manager)),
            ("kube-scheduler", Some(&self.scheduler)),
        ]
        .into_iter()
        .filter_map(|(name, process)| Some((name, process?.usage()?)))
        .collect()
    }
}

impl Settings {
    fn access(&self, user: User) -> Result<Access> {
        let token = self
            .tokens
            .iter()
            .find(|(owner, _)| *owner == user)
            .map(|(_, token)| token.clone())
            .with_context(|| format!("{} has no token", user.name()))?;
        Ok(Access {
            url: format!("https://127.0.0.1:{}", self.port),
            authority: Some(self.certificates.authority.clone()),
            token,
        })
    }

    /// Writes the token file and the audit policy.
    fn write(&self, dir: &Path) -> Result<()> {
        let mut tokens = String::new();
        for (user, token) in &self.tokens {
            let groups = user.groups().join(",");
            writeln!(tokens, "{token},{0},{0},\"{groups}\"", user.name())?;
        }
        for (name, text) in [("tokens.csv", tokens), ("audit-policy.json", audit::policy())] {
            std::fs::write(dir.join(name), text).with_context(|| format!("write {name}"))?;
        }
        Ok(())
    }

    fn start(&self, dir: &Path) -> Result<Process> {
        let mut command = Command::new(&self.program);
        command
            .arg(format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port))
            .arg(format!("--secure-port={}", self.port))
            .args([
                match self.nodes {
                    Nodes::Objects => "--bind-address=127.0.0.1",
                    Nodes::Kubelets => "--bind-address=0.0.0.0",
                },
                // Without these it looks for a default route, and publishes an address for pods.
                "--advertise-address=127.0.0.1",
                "--endpoint-reconciler-type=none",
                "--service-cluster-ip-range=10.0.0.0/24",
                "--authorization-mode=Node,RBAC",
                // As installers of clusters do: the node plugin is privileged.
                "--allow-privileged=true",
                "--service-account-issuer=https://kubernetes.default.svc",
                match self.nodes {
                    // Pods have no account to wait for, and nothing would remove the taint of the node.
                    Nodes::Objects => "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition",
                    Nodes::Kubelets => "--enable-admission-plugins=NodeRestriction",
                },
                "--profiling=false",
            ])
            .arg(flag("--token-auth-file", &dir.join("tokens.csv")))
            .arg(flag("--audit-policy-file", &dir.join("audit-policy.json")))
            .arg(flag("--audit-log-path", &dir.join("audit.log")))
            .arg(flag("--tls-cert-file", &self.certificates.certificate))
            .arg(flag("--tls-private-key-file", &self.certificates.key))
            .arg(flag("--service-account-signing-key-file", &self.certificates.service_account_key))
            .arg(flag("--service-account-key-file", &self.certificates.service_account_public_key));
        spawn("kube-apiserver", command, dir)
    }
}

fn start_etcd(program: &Path, port: u16, dir: &Path) -> Result<Process> {
    let peers = free_port()?;
    let mut command = Command::new(program);
    command
        .arg(flag("--data-dir", &dir.join("etcd")))
        .arg(format!("--listen-client-urls=http://127.0.0.1:{port}"))
        .arg(format!("--advertise-client-urls=http://127.0.0.1:{port}"))
        .arg(format!("--listen-peer-urls=http://127.0.0.1:{peers}"))
        .arg(format!("--initial-advertise-peer-urls=http://127.0.0.1:{peers}"))
        .arg(format!("--initial-cluster=default=http://127.0.0.1:{peers}"))
        .args([
            "--log-level=warn",
            // A busy machine is no reason for a warning per request.
            "--warning-apply-duration=300ms",
            "--warning-unary-request-duration=1s",
            // Nothing here has to survive a loss of power.
            "--unsafe-no-fsync",
        ]);
    spawn("etcd", command, dir)
}

fn spawn(name: &str, command: Command, dir: &Path) -> Result<Process> {
    Process::spawn(name, command, &dir.join(format!("{name}.log")))
}

fn flag(name: &str, path: &Path) -> std::ffi::OsString {
    let mut flag = std::ffi::OsString::from(name);
    flag.push("=");
    flag.push(path);
    flag
}

fn kubeconfig_flag(settings: &Settings, user: User, dir: &Path) -> Result<std::ffi::OsString> {
    let path = dir.join(format!("{}.kubeconfig", user.name()));
    std::fs::write(&path, settings.access(user)?.kubeconfig())
        .with_context(|| format!("write {}", path.display()))?;
    Ok(flag("--kubeconfig", &path))
}

/// 128 random bits. Others on this machine can reach the port, so the tokens must not be guessable.
fn token() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Waits until `/readyz` answers, as long as all of `needed` run.
async fn ready(admin: &Client, needed: &[&Process]) -> Result<()> {
    let ask = async {
        loop {
            for process in needed {
                process.check_alive()?;
            }
            let request = http::Request::get("/readyz").body(Vec::new())?;
            if admin.request_text(request).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if let Ok(result) = tokio::time::timeout(READY_WITHIN, ask).await {
        result
    } else {
        let mut message = format!("kube-apiserver is not ready after {READY_WITHIN:?}");
        for process in needed {
            write!(message, "\n{}", process.log_tail(30))?;
        }
        bail!(message)
    }
}
