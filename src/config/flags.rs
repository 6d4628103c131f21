//! The command line as it is written: every value still text. `--help` is made from the comments here.

#![allow(clippy::doc_markdown)] // The comments are shown by --help, where backticks would be noise.

use clap::{Args, Parser, Subcommand, error::ErrorKind};

use super::value::ConfigError;

/// Dynamic storage provisioner for Kubernetes.
#[derive(Parser)]
#[command(name = "berth", version = crate::VERSION, max_term_width = 100, disable_help_subcommand = true)]
pub(super) struct Berth {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Provision, expand and remove volumes for claims (default command)
    ///
    /// The file of --config takes each flag under its name in camelCase (leaseDuration). A flag overrides the environment,
    /// and the environment overrides the file. Durations use Go's syntax: 500ms, 30s, 1h30m. The klog and glog flags of old
    /// manifests are accepted: -v sets the log level, the others have no effect.
    Controller(Box<ControllerFlags>),
}

/// The flags of `berth controller`.
#[derive(Args, Debug, Default)]
pub(super) struct ControllerFlags {
    /// Provisioner name of the StorageClasses to serve; repeat it for more names [env: PROVISIONER_NAME]
    ///
    /// ceph.com/rbd, kubernetes.io/rbd and rbd.berth.storage mean RBD, ceph.com/cephfs and cephfs.berth.storage mean CephFS,
    /// and every other name means NFS.
    #[arg(long, value_name = "NAME", help_heading = "Storage")]
    pub(super) provisioner_name: Vec<String>,

    /// Treat this extra provisioner name as RBD
    #[arg(long, value_name = "NAME", help_heading = "Storage")]
    pub(super) rbd_provisioner_name: Vec<String>,

    /// Treat this extra provisioner name as CephFS
    #[arg(long, value_name = "NAME", help_heading = "Storage")]
    pub(super) cephfs_provisioner_name: Vec<String>,

    /// Host name or address of the NFS server, written into PVs unchanged [env: NFS_SERVER]
    #[arg(long, value_name = "HOST", help_heading = "Storage")]
    pub(super) nfs_server: Option<String>,

    /// Path of the NFS export on the server [env: NFS_PATH]
    #[arg(long, value_name = "PATH", help_heading = "Storage")]
    pub(super) nfs_path: Option<String>,

    /// Directory at which the NFS export is mounted [env: BERTH_EXPORT_ROOT] [default: /persistentvolumes]
    #[arg(long, value_name = "DIR", help_heading = "Storage")]
    pub(super) export_root: Option<String>,

    /// PVs created at once; each export or cluster may have 1.5 times as many operations [default: 32]
    #[arg(long, value_name = "N", help_heading = "Storage")]
    pub(super) workers: Option<String>,

    /// Timeout for one file operation [default: 30s]
    #[arg(long, value_name = "DURATION", help_heading = "Storage")]
    pub(super) operation_timeout: Option<String>,

    /// How often to look for half-made volumes [default: 1h]
    #[arg(long, value_name = "DURATION", help_heading = "Storage")]
    pub(super) sweep_interval: Option<String>,

    /// Minimum age of a half-made volume before it is removed [default: 5m]
    #[arg(long, value_name = "DURATION", help_heading = "Storage")]
    pub(super) sweep_grace: Option<String>,

    /// Id of this cluster on shared storage; by default the UID of kube-system [env: BERTH_CLUSTER_ID]
    ///
    /// Each volume records it. If you change it while volumes exist, list the old id in --former-cluster-ids.
    #[arg(long, value_name = "ID", help_heading = "Storage")]
    pub(super) cluster_id: Option<String>,

    /// Earlier ids of this cluster, separated by commas [env: BERTH_FORMER_CLUSTER_IDS]
    ///
    /// Volumes that record one of these ids belong to this cluster. Do not list the id of a cluster that still runs.
    #[arg(long, value_name = "IDS", help_heading = "Storage")]
    pub(super) former_cluster_ids: Option<String>,

    /// How long removed data stays in the trash; 0s purges it at once [env: BERTH_TRASH_RETENTION] [default: 10m]
    #[arg(long, value_name = "DURATION", help_heading = "Storage")]
    pub(super) trash_retention: Option<String>,

    /// Namespace for the Secrets of CephFS users; by default the claim's [env: PROVISIONER_SECRET_NAMESPACE]
    #[arg(long, value_name = "NAMESPACE", help_heading = "Ceph")]
    pub(super) secret_namespace: Option<String>,

    /// Name or path of the rbd program [default: rbd]
    #[arg(long, value_name = "PROGRAM", help_heading = "Ceph")]
    pub(super) rbd_program: Option<String>,

    /// Name or path of the ceph program [default: ceph]
    #[arg(long, value_name = "PROGRAM", help_heading = "Ceph")]
    pub(super) ceph_program: Option<String>,

    /// Name or path of the rados program [default: rados]
    #[arg(long, value_name = "PROGRAM", help_heading = "Ceph")]
    pub(super) rados_program: Option<String>,

    /// Timeout for connecting to the monitors [default: 5s]
    #[arg(long, value_name = "DURATION", help_heading = "Ceph")]
    pub(super) ceph_connect_timeout: Option<String>,

    /// Timeout for one request to a monitor or an OSD [default: 20s]
    #[arg(long, value_name = "DURATION", help_heading = "Ceph")]
    pub(super) ceph_operation_timeout: Option<String>,

    /// Timeout for one run of a Ceph program [default: 60s]
    #[arg(long, value_name = "DURATION", help_heading = "Ceph")]
    pub(super) ceph_command_timeout: Option<String>,

    /// Ceph programs that may run at once for one cluster [default: 8]
    #[arg(long, value_name = "N", help_heading = "Ceph")]
    pub(super) ceph_concurrency: Option<String>,

    /// Idle ceph processes kept per cluster for reuse; 0 starts a new one each time [default: 2]
    #[arg(long, value_name = "N", help_heading = "Ceph")]
    pub(super) ceph_sessions: Option<String>,

    /// Kubeconfig file; by default the pod's service account is used [env: KUBECONFIG]
    #[arg(long, value_name = "FILE", help_heading = "Kubernetes")]
    pub(super) kubeconfig: Option<String>,

    /// Timeout for one request to the API server [default: 30s]
    #[arg(long, value_name = "DURATION", help_heading = "Kubernetes")]
    pub(super) api_timeout: Option<String>,

    /// Wait before the first retry of a failed operation; it doubles with each retry [default: 1s]
    #[arg(long, value_name = "DURATION", help_heading = "Kubernetes")]
    pub(super) retry_min: Option<String>,

    /// Longest wait between two retries [default: 5m]
    #[arg(long, value_name = "DURATION", help_heading = "Kubernetes")]
    pub(super) retry_max: Option<String>,

    /// Elect one of several replicas as the leader, which does the work [env: ENABLE_LEADER_ELECTION] [default: true]
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        default_missing_value = "true",
        help_heading = "Leader election"
    )]
    pub(super) leader_election: Option<String>,

    /// Namespace of the lock; by default the pod's own, outside a pod "default" [env: POD_NAMESPACE]
    #[arg(long, value_name = "NAMESPACE", help_heading = "Leader election")]
    pub(super) lease_namespace: Option<String>,

    /// Name of the lock; by default the first provisioner name in lower case with - for /
    #[arg(long, value_name = "NAME", help_heading = "Leader election")]
    pub(super) lease_name: Option<String>,

    /// How long the lock is valid; another replica may take it when it expires [default: 15s]
    #[arg(long, value_name = "DURATION", help_heading = "Leader election")]
    pub(super) lease_duration: Option<String>,

    /// How long the leader tries to renew the lock before it stops working [default: 10s]
    #[arg(long, value_name = "DURATION", help_heading = "Leader election")]
    pub(super) lease_renew_deadline: Option<String>,

    /// How often to renew or try to acquire the lock [default: 2s]
    #[arg(long, value_name = "DURATION", help_heading = "Leader election")]
    pub(super) lease_retry_period: Option<String>,

    /// YAML file with settings; needed for several exports and for Ceph clusters
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    pub(super) config: Option<String>,

    /// Address for /livez, /readyz and /metrics; port 0 picks a free port, off disables them [default: :8080]
    ///
    /// A port alone (:8080) means every IPv4 and IPv6 address. If the default port is in use, berth logs that, runs without
    /// the endpoints and tries again. If an address that you gave is in use, berth exits.
    #[arg(long, value_name = "ADDRESS", help_heading = "Process")]
    pub(super) listen: Option<String>,

    /// Write the address that berth listens on to this file
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    pub(super) listen_file: Option<String>,

    /// Log format: text or json [default: text]
    #[arg(long, value_name = "FORMAT", help_heading = "Process")]
    pub(super) log_format: Option<String>,

    /// Log level: off, error, warn, info, debug, trace, or per module: warn,berth=debug [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = "Process")]
    pub(super) log_level: Option<String>,

    /// How long to wait at shutdown for running operations [default: 20s]
    #[arg(long, value_name = "DURATION", help_heading = "Process")]
    pub(super) shutdown_grace: Option<String>,
}

/// What the command line asks for.
pub(super) enum Read {
    Controller(Box<ControllerFlags>),
    Print(String),
}

/// Reads a command line that begins with the program's name.
pub(super) fn read(args: Vec<String>) -> Result<Read, ConfigError> {
    match Berth::try_parse_from(args) {
        Ok(Berth { command: Command::Controller(flags) }) => Ok(Read::Controller(flags)),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Read::Print(error.to_string())),
            _ => {
                let text = error.to_string();
                Err(ConfigError(text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned()))
            }
        },
    }
}

/// The definition of the command line, for tests that hold help and documents against it.
#[cfg(test)]
pub(super) fn definition() -> clap::Command {
    <Berth as clap::CommandFactory>::command().term_width(100)
}
