//! The command line, the environment and the configuration file, made into ready values: [`parse`], the one fallible step.
//!
//! A flag wins over the environment, the environment over the file, the file over the default. Every failure names what was
//! set (flag, variable or key), its value, and what is allowed. Only `main` uses this module; whatever it starts gets
//! values and never looks at a flag again.
//!
//! It reads neither the environment nor files itself: both come in as [`Environment`].

mod cluster;
mod cluster_id;
mod convert;
mod export;
mod file;
mod flags;
mod old;
mod served;
mod server;
mod value;

#[cfg(test)]
pub(crate) mod tests;

use std::{io, path::Path, path::PathBuf, time::Duration};

pub use cluster::{Ceph, ConfiguredCluster};
#[cfg(test)]
pub(crate) use served::storage_of;
pub use served::{Provisioner, Storage};
pub use value::ConfigError;

use crate::{backend::nfs::Export, observe};

/// What the process was started with, besides its arguments.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// Reads an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<std::ffi::OsString>,
    /// Reads a small text file.
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
}

/// What is asked of the process.
#[derive(Debug, Clone, PartialEq)]
pub enum Invocation {
    /// Run the provisioner.
    Controller(Box<Controller>),
    /// Print this text on standard output: help, or the version.
    Print(String),
}

/// Everything `berth controller` needs, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Controller {
    /// The provisioner names that are served. The first names the lock and the source of Events.
    pub provisioners: Vec<Provisioner>,
    /// The NFS exports, at least one where a name of NFS is served.
    pub exports: Vec<Export>,
    /// What is configured of Ceph; `None` where no name of RBD or `CephFS` is served.
    pub ceph: Option<Ceph>,
    /// How volumes name this cluster on storage that clusters share; `None`: by the UID of `kube-system`.
    pub cluster_id: Option<String>,
    /// Ids that this cluster had before it was rebuilt.
    pub former_cluster_ids: Vec<String>,
    /// How long removed data stays in the trash before it is purged.
    pub trash_retention: Duration,
    /// The identity that volumes of the older Ceph provisioners must have; `None`: any.
    pub identity: Option<String>,
    /// Where the API server is; `None`: the pod's service account says.
    pub kubeconfig: Option<PathBuf>,
    /// The address of the API server, whatever else says where it is.
    pub master: Option<String>,
    /// The namespace this process lives in.
    pub namespace: String,
    /// The leader lock; `None` without leader election.
    pub lease: Option<Lease>,
    /// Where probes and metrics are served; `None` for nowhere.
    pub listen: Option<Listen>,
    /// The file that gets the address of probes and metrics.
    pub listen_file: Option<PathBuf>,
    /// How the log is written.
    pub log_format: observe::Format,
    /// What is logged.
    pub log_filter: observe::Filter,
    /// How many PVs are on their way to the API server at a time, of all stores together; of each store half as many objects again
    /// are worked on.
    pub workers: usize,
    /// How long to wait for an answer of the API server.
    pub api_timeout: Duration,
    /// The shortest wait before a failed operation is tried again.
    pub retry_min: Duration,
    /// The longest.
    pub retry_max: Duration,
    /// How often to look for volumes that were begun and never used.
    pub sweep_interval: Duration,
    /// How long such a volume is left alone.
    pub sweep_grace: Duration,
    /// How long running work may take to end on a stop.
    pub shutdown_grace: Duration,
    /// What the administrator should know, for the log: flags that have no meaning any more.
    pub notes: Vec<String>,
}

/// Where probes and metrics are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// The address.
    pub address: observe::Address,
    /// Whether it was asked for. What nobody asked for is done without where it cannot be had.
    pub explicit: bool,
}

/// The leader lock and its three times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The name of the lock.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// How long others wait for a leader that does not renew.
    pub duration: Duration,
    /// How long the leader works on without a renewal.
    pub renew_deadline: Duration,
    /// How often the leader renews and the others look.
    pub retry_period: Duration,
}

/// Reads `args` (the first is the program's own name), the environment and the file of `--config`.
pub fn parse(args: &[String], surroundings: Environment<'_>) -> Result<Invocation, ConfigError> {
    let old = old::extract(args)?;
    match flags::read(old.rest.clone())? {
        flags::Read::Print(text) => Ok(Invocation::Print(text)),
        flags::Read::Controller(flags) => convert::controller(*flags, &old, surroundings)
            .map(|ready| Invocation::Controller(Box::new(ready))),
    }
}
