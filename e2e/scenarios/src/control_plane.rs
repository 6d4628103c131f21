//! The control plane that a scenario runs against: one surface, two implementations.
//!
//! [`ControlPlane::embedded`] starts the API server of `berth-apiserver`, [`ControlPlane::real`] the real
//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler. A scenario sees users,
//! kubeconfigs, clients, request records and a way to stop the API server; it never learns more
//! about which of the two it has than [`ControlPlane::kind`].
//!
//! Faults (slow answers, lost responses, 429) are not a matter of the control plane: they are made
//! by [`crate::proxy`], in front of either.

pub mod audit;
pub mod binaries;
mod certificates;
mod embedded;
pub mod manifests;
mod real;

use std::fmt;

use anyhow::{Context, Result};
use kube::{Client, Config, config::Kubeconfig};
use serde_json::json;

pub use self::{
    audit::Request,
    binaries::Binaries,
    embedded::Embedded,
    real::{Nodes, Real, SERVICE},
};

/// Which of the two control planes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In this process.
    Embedded,
    /// Kubernetes' own programs.
    Real,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Embedded => "embedded",
            Self::Real => "controlplane",
        })
    }
}

/// Who speaks to the API server. Each has a token of its own and only the rights of its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// May do everything.
    Admin,
    /// The `ServiceAccount` of `deploy/manifests/`, with exactly the rights given to it there.
    Berth,
    /// The `ServiceAccount` of the old provisioner's Deployment, with the old, narrower rights.
    OldProvisioner,
    /// kube-controller-manager.
    ControllerManager,
    /// kube-scheduler.
    Scheduler,
    /// The kubelet of [`KUBELETS_NODE`].
    Kubelet,
}

/// The node that has a kubelet, where one does.
pub const KUBELETS_NODE: &str = "worker-1";

impl User {
    /// Everybody that there is.
    pub const ALL: [Self; 6] = [
        Self::Admin,
        Self::Berth,
        Self::OldProvisioner,
        Self::ControllerManager,
        Self::Scheduler,
        Self::Kubelet,
    ];

    /// The name that RBAC and the audit log know.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Berth => "system:serviceaccount:berth:berth",
            Self::OldProvisioner => "system:serviceaccount:old-nfs:nfs-client-provisioner",
            Self::ControllerManager => "system:kube-controller-manager",
            Self::Scheduler => "system:kube-scheduler",
            Self::Kubelet => "system:node:worker-1",
        }
    }

    /// The groups that come with the token.
    #[must_use]
    pub fn groups(self) -> &'static [&'static str] {
        match self {
            // One identity for all its controllers, where a cluster has a role for each.
            Self::Admin | Self::ControllerManager => &["system:masters"],
            Self::Berth => &["system:serviceaccounts", "system:serviceaccounts:berth"],
            Self::OldProvisioner => &["system:serviceaccounts", "system:serviceaccounts:old-nfs"],
            Self::Scheduler => &[],
            Self::Kubelet => &["system:nodes"],
        }
    }

    /// The namespace of its pod: where the leader lock lies.
    #[must_use]
    pub fn namespace(self) -> &'static str {
        match self {
            Self::Berth => "berth",
            Self::OldProvisioner => "old-nfs",
            Self::Admin => "default",
            Self::ControllerManager | Self::Scheduler | Self::Kubelet => "kube-system",
        }
    }
}

/// What a client needs to reach an API server as somebody.
#[derive(Clone)]
pub struct Access {
    /// Its address.
    pub url: String,
    /// The authority that its certificate is checked against; `None` for plain HTTP.
    pub authority: Option<std::path::PathBuf>,
    /// The bearer token; empty for nobody in particular.
    pub token: String,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("url", &self.url)
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

impl Access {
    /// The text of a kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        let mut cluster = json!({ "server": self.url });
        if let (Some(authority), Some(fields)) = (&self.authority, cluster.as_object_mut()) {
            fields.insert("certificate-authority".into(), json!(authority));
        }
        let user = if self.token.is_empty() { json!({}) } else { json!({ "token": self.token }) };
        // JSON is YAML, and both kubectl and kube read it.
        format!(
            "{:#}\n",
            json!({
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{ "name": "e2e", "cluster": cluster }],
                "users": [{ "name": "e2e", "user": user }],
                "contexts": [{ "name": "e2e", "context": { "cluster": "e2e", "user": "e2e" } }],
                "current-context": "e2e",
            })
        )
    }

    /// A client with this access. It does not retry by itself: what a scenario sees is what the
    /// API server said.
    pub async fn client(&self) -> Result<Client> {
        let kubeconfig = Kubeconfig::from_yaml(&self.kubeconfig()).context("read the kubeconfig")?;
        let mut config =
            Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default())
                .await
                .context("use the kubeconfig")?;
        config.default_retry = false;
        Client::try_from(config).context("make a client")
    }
}

/// A running control plane. Dropping it ends all of it.
#[derive(Debug)]
pub enum ControlPlane {
    /// See [`Embedded`].
    Embedded(Box<Embedded>),
    /// See [`Real`].
    Real(Box<Real>),
}

impl ControlPlane {
    /// Starts the embedded API server with its controllers.
    pub async fn embedded() -> Result<Self> {
        let plane = Self::Embedded(Box::new(Embedded::start()?));
        plane.furnish().await?;
        Ok(plane)
    }

    /// Starts Kubernetes' own programs.
    pub async fn real(binaries: &Binaries) -> Result<Self> {
        let mut tries = 0;
        let plane = loop {
            tries += 1;
            match Real::start(binaries, Nodes::Objects).await {
                Ok(plane) => break Self::Real(Box::new(plane)),
                // A port that was free when we looked, and then was not.
                Err(error) if tries < 3 && format!("{error:#}").contains("address already in use") => {
                    tracing::warn!(%error, "once more");
                }
                Err(error) => return Err(error),
            }
        };
        plane.furnish().await?;
        Ok(plane)
    }

    /// Makes what every scenario takes for granted: both provisioners' rights, and a node where
    /// nobody else makes one.
    async fn furnish(&self) -> Result<()> {
        let admin = self.client(User::Admin).await?;
        let rights = manifests::deployed()?
            .into_iter()
            .filter(manifests::Manifest::is_access_control)
            .chain(manifests::old_install()?);
        for manifest in rights {
            manifest.apply(&admin).await?;
        }
        match self {
            Self::Embedded(_) => Ok(()),
            Self::Real(_) => manifests::node(&admin).await,
        }
    }

    /// Which of the two.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Embedded(_) => Kind::Embedded,
            Self::Real(_) => Kind::Real,
        }
    }

    /// How `user` reaches the API server.
    pub fn access(&self, user: User) -> Result<Access> {
        match self {
            Self::Embedded(plane) => plane.access(user),
            Self::Real(plane) => plane.access(user),
        }
    }

    /// A client that acts as `user`.
    pub async fn client(&self, user: User) -> Result<Client> {
        self.access(user)?.client().await
    }

    /// The requests that `user` has made since the start, oldest first, without those that still run.
    pub fn requests(&self, user: User) -> Result<Vec<Request>> {
        match self {
            Self::Embedded(plane) => plane.requests(user),
            Self::Real(plane) => plane.requests(user),
        }
    }

    /// Ends the API server as a crash would. What it had stored stays.
    pub async fn stop_api_server(&self) -> Result<()> {
        match self {
            Self::Embedded(plane) => {
                plane.stop_api_server();
                Ok(())
            }
            Self::Real(plane) => plane.stop_api_server().await,
        }
    }

    /// Starts the API server again at the same address, and waits until it serves.
    pub async fn start_api_server(&self) -> Result<()> {
        match self {
            Self::Embedded(plane) => plane.start_api_server(),
            Self::Real(plane) => plane.start_api_server().await,
        }
    }

    /// Fails if a part of it has ended that should run.
    pub fn check_alive(&self) -> Result<()> {
        match self {
            Self::Embedded(_) => Ok(()),
            Self::Real(plane) => plane.check_alive(),
        }
    }
}
