//! The command line as it is written: every value still text. `--help` is made from the comments here.

#![allow(clippy::doc_markdown)] // The comments are shown by --help, where backticks would be noise.

use clap::{Args, Parser, Subcommand, error::ErrorKind};

use super::value::Wrong;

/// Dynamic storage provisioner for Kubernetes.
#[derive(Parser)]
#[command(name = "berth", version = crate::VERSION, max_term_width = 100, disable_help_subcommand = true)]
pub(super) struct Berth {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make, remove and expand volumes for claims; what runs without a command
    ///
    /// Every flag can be written into the file of --config under its name in camelCase (leaseDuration). A flag wins over
    /// the environment, the environment over the file. Durations are written as in Go: 500ms, 30s, 1h30m. The klog and
    /// glog flags of old manifests are accepted: -v sets the log level, the others have no effect.
    Controller(Box<ControllerFlags>),
}

/// The flags of `berth controller`.
#[derive(Args, Debug, Default)]
pub(super) struct ControllerFlags {
    /// Serve the claims of classes with this provisioner; may be given several times [env: PROVISIONER_NAME]
    ///
    /// ceph.com/rbd, kubernetes.io/rbd and rbd.berth.storage stand for RBD, ceph.com/cephfs and cephfs.berth.storage for
    /// CephFS, every other name for NFS.
    #[arg(long, value_name = "NAME", help_heading = "Storage")]
    pub(super) provisioner_name: Vec<String>,

    /// The same for a name that stands for RBD without being known for it
    #[arg(long, value_name = "NAME", help_heading = "Storage")]
    pub(super) rbd_provisioner_name: Vec<String>,

    /// The same for a name that stands for CephFS without being known for it
    #[arg(long, value_name = "NAME", help_heading = "Storage")]
    pub(super) cephfs_provisioner_name: Vec<String>,

    /// Server of the NFS export, copied to volumes as it is [env: NFS_SERVER]
    #[arg(long, value_name = "HOST", help_heading = "Storage")]
    pub(super) nfs_server: Option<String>,

    /// Path of the NFS export on the server [env: NFS_PATH]
    #[arg(long, value_name = "PATH", help_heading = "Storage")]
    pub(super) nfs_path: Option<String>,

    /// Where the NFS export is mounted [env: BERTH_EXPORT_ROOT] [default: /persistentvolumes]
    #[arg(long, value_name = "DIR", help_heading = "Storage")]
    pub(super) export_root: Option<String>,

    /// Store so many volumes at a time, and work on half as many again of each store (an export, a cluster) [default: 32]
    #[arg(long, value_name = "N", help_heading = "Storage")]
    pub(super) workers: Option<String>,

    /// Give up on a file operation that hangs for so long [default: 30s]
    #[arg(long, value_name = "DURATION", help_heading = "Storage")]
    pub(super) operation_timeout: Option<String>,

    /// Look for volumes that were begun and never used so often [default: 1h]
    #[arg(long, value_name = "DURATION", help_heading = "Storage")]
    pub(super) sweep_interval: Option<String>,

    /// Leave a volume that was begun and never used alone for so long [default: 5m]
    #[arg(long, value_name = "DURATION", help_heading = "Storage")]
    pub(super) sweep_grace: Option<String>,

    /// How volumes name this cluster on storage that clusters share; else the UID of kube-system [env: BERTH_CLUSTER_ID]
    ///
    /// Never change it while there are volumes, unless the id of before is one of --former-cluster-ids.
    #[arg(long, value_name = "ID", help_heading = "Storage")]
    pub(super) cluster_id: Option<String>,

    /// Ids that this cluster had before it was rebuilt, separated by commas [env: BERTH_FORMER_CLUSTER_IDS]
    ///
    /// Volumes of these ids count as this cluster's own. Name no id of a cluster that still runs.
    #[arg(long, value_name = "IDS", help_heading = "Storage")]
    pub(super) former_cluster_ids: Option<String>,

    /// Keep removed data in the trash for so long; 0s purges at once [env: BERTH_TRASH_RETENTION] [default: 10m]
    #[arg(long, value_name = "DURATION", help_heading = "Storage")]
    pub(super) trash_retention: Option<String>,

    /// Keep the Secrets of CephFS volumes' own users here; else in the claim's namespace [env: PROVISIONER_SECRET_NAMESPACE]
    #[arg(long, value_name = "NAMESPACE", help_heading = "Ceph")]
    pub(super) secret_namespace: Option<String>,

    /// The rbd program, by name or path [default: rbd]
    #[arg(long, value_name = "PROGRAM", help_heading = "Ceph")]
    pub(super) rbd_program: Option<String>,

    /// The ceph program, by name or path [default: ceph]
    #[arg(long, value_name = "PROGRAM", help_heading = "Ceph")]
    pub(super) ceph_program: Option<String>,

    /// The rados program, by name or path [default: rados]
    #[arg(long, value_name = "PROGRAM", help_heading = "Ceph")]
    pub(super) rados_program: Option<String>,

    /// Give up on monitors that do not answer after so long [default: 5s]
    #[arg(long, value_name = "DURATION", help_heading = "Ceph")]
    pub(super) ceph_connect_timeout: Option<String>,

    /// Give up on one question to a monitor or an OSD after so long [default: 20s]
    #[arg(long, value_name = "DURATION", help_heading = "Ceph")]
    pub(super) ceph_operation_timeout: Option<String>,

    /// Give up on a whole call of a program after so long [default: 60s]
    #[arg(long, value_name = "DURATION", help_heading = "Ceph")]
    pub(super) ceph_command_timeout: Option<String>,

    /// Run so many programs for a cluster at a time [default: 8]
    #[arg(long, value_name = "N", help_heading = "Ceph")]
    pub(super) ceph_concurrency: Option<String>,

    /// Let so many ceph programs for a cluster wait for the next command; 0 starts a new one each time [default: 2]
    #[arg(long, value_name = "N", help_heading = "Ceph")]
    pub(super) ceph_sessions: Option<String>,

    /// File that says where the API server is; else the pod's service account [env: KUBECONFIG]
    #[arg(long, value_name = "FILE", help_heading = "Kubernetes")]
    pub(super) kubeconfig: Option<String>,

    /// Give up on an answer of the API server after so long [default: 30s]
    #[arg(long, value_name = "DURATION", help_heading = "Kubernetes")]
    pub(super) api_timeout: Option<String>,

    /// Try a failed operation again after so long at first, then twice as long each time [default: 1s]
    #[arg(long, value_name = "DURATION", help_heading = "Kubernetes")]
    pub(super) retry_min: Option<String>,

    /// Never wait longer than this between two tries [default: 5m]
    #[arg(long, value_name = "DURATION", help_heading = "Kubernetes")]
    pub(super) retry_max: Option<String>,

    /// Work only while holding a lock, so that several replicas may run [env: ENABLE_LEADER_ELECTION] [default: true]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true",
        help_heading = "Leader election"
    )]
    pub(super) leader_election: Option<String>,

    /// Namespace of the lock; else the service account's, else default [env: POD_NAMESPACE]
    #[arg(long, value_name = "NAMESPACE", help_heading = "Leader election")]
    pub(super) lease_namespace: Option<String>,

    /// Name of the lock; else the first provisioner name in lower case, with - for /
    #[arg(long, value_name = "NAME", help_heading = "Leader election")]
    pub(super) lease_name: Option<String>,

    /// Others take over when the leader did not renew the lock for so long [default: 15s]
    #[arg(long, value_name = "DURATION", help_heading = "Leader election")]
    pub(super) lease_duration: Option<String>,

    /// The leader stops its work when it could not renew the lock for so long [default: 10s]
    #[arg(long, value_name = "DURATION", help_heading = "Leader election")]
    pub(super) lease_renew_deadline: Option<String>,

    /// Renew the lock, or look whether it is free, so often [default: 2s]
    #[arg(long, value_name = "DURATION", help_heading = "Leader election")]
    pub(super) lease_retry_period: Option<String>,

    /// YAML file with any of these settings, with several exports and with Ceph clusters
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    pub(super) config: Option<String>,

    /// Serve /livez, /readyz and /metrics here; port 0 picks a free one, off serves nothing [default: :8080]
    ///
    /// A port alone (:8080) means every address, IPv4 and IPv6. Where the default port is taken, the process works without
    /// serving them, says so, and tries again; where another address was asked for, it ends.
    #[arg(long, value_name = "ADDRESS", help_heading = "Process")]
    pub(super) listen: Option<String>,

    /// Write the address that --listen got into this file
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    pub(super) listen_file: Option<String>,

    /// Write the log as text or json [default: text]
    #[arg(long, value_name = "FORMAT", help_heading = "Process")]
    pub(super) log_format: Option<String>,

    /// Log off, error, warn, info, debug or trace, or by module as in warn,berth=debug [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = "Process")]
    pub(super) log_level: Option<String>,

    /// Wait so long for running work when stopped [default: 20s]
    #[arg(long, value_name = "DURATION", help_heading = "Process")]
    pub(super) shutdown_grace: Option<String>,
}

/// What the command line asks for.
pub(super) enum Read {
    Controller(Box<ControllerFlags>),
    Print(String),
}

/// Reads a command line that begins with the program's name.
pub(super) fn read(args: Vec<String>) -> Result<Read, Wrong> {
    match Berth::try_parse_from(args) {
        Ok(Berth { command: Command::Controller(flags) }) => Ok(Read::Controller(flags)),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Read::Print(error.to_string())),
            _ => {
                let text = error.to_string();
                Err(Wrong(text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned()))
            }
        },
    }
}

/// The definition of the command line, for tests that hold help and documents against it.
#[cfg(test)]
pub(super) fn definition() -> clap::Command {
    <Berth as clap::CommandFactory>::command().term_width(100)
}
