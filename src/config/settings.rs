//! Every setting, once: its flag, variable and key, its default, and what `--help` and the documents
//! say of it.
//!
//! The command line, the file and the documents are made from [`CONTROLLER`] and [`node`]. What a value may be is decided where
//! it is read, in `controller.rs`, `node.rs` and the files that they call.

/// Where the images of old and new mount the export.
pub(super) const MOUNT_POINT: &str = "/persistentvolumes";

/// More threads than this help no storage, and cost memory.
pub(super) const MOST_WORKERS: usize = 1024;

/// How often a setting can be made, and how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Once, as one text.
    One,
    /// Once; the flag alone means `true`.
    Switch,
    /// The flag as often as wanted; the key of the file is a list.
    Repeated,
    /// Once, as one text with commas; the key of the file may also be a list.
    List,
}

/// Where a setting can be made, what holds where it is not made, and what it does.
#[derive(Debug, Clone, Copy)]
pub(super) struct SettingSpec {
    pub(super) flag: &'static str,
    /// The environment variable; empty for none.
    pub(super) env: &'static str,
    /// The key in the file; empty for none.
    pub(super) key: &'static str,
    /// Empty where the default depends on something, or there is none.
    pub(super) default: &'static str,
    pub(super) kind: Kind,
    /// What stands for the value in `--help`.
    pub(super) value: &'static str,
    /// The section of `--help`.
    pub(super) section: &'static str,
    /// What it does, in one sentence.
    pub(super) effect: &'static str,
    /// What else there is to know; empty for nothing.
    pub(super) more: &'static str,
}

macro_rules! settings {
    (@text) => { "" };
    (@text $text:expr) => { $text };
    ($all:ident; $($name:ident: $kind:ident $flag:literal = $value:literal in $section:literal
       $(, env $env:literal)? $(, key $key:literal)? $(, default $default:expr)?; $effect:literal $(, $more:literal)?;)*) => {
        $(pub(super) const $name: SettingSpec = SettingSpec {
            flag: $flag,
            env: settings!(@text $($env)?),
            key: settings!(@text $($key)?),
            default: settings!(@text $($default)?),
            kind: Kind::$kind,
            value: $value,
            section: $section,
            effect: $effect,
            more: settings!(@text $($more)?),
        };)*

        /// All of them, in the order of `--help`.
        pub(super) const $all: &[SettingSpec] = &[$($name),*];
    };
}

settings! {
    CONTROLLER;

    PROVISIONER_NAME: Repeated "--provisioner-name" = "NAME" in "Storage", env "PROVISIONER_NAME", key "provisionerNames";
        "Provisioner name of the StorageClasses to serve; repeat it for more names",
        "ceph.com/rbd, kubernetes.io/rbd and rbd.berth.storage mean RBD, ceph.com/cephfs and cephfs.berth.storage \
            mean CephFS, and every other name means NFS.";

    RBD_PROVISIONER_NAME: Repeated "--rbd-provisioner-name" = "NAME" in "Storage", key "rbdProvisionerNames";
        "Treat this extra provisioner name as RBD";

    CEPHFS_PROVISIONER_NAME: Repeated "--cephfs-provisioner-name" = "NAME" in "Storage", key "cephfsProvisionerNames";
        "Treat this extra provisioner name as CephFS";

    NFS_SERVER: One "--nfs-server" = "HOST" in "Storage", env "NFS_SERVER", key "exports[].server";
        "Host name or address of the NFS server, written into PVs unchanged";

    NFS_PATH: One "--nfs-path" = "PATH" in "Storage", env "NFS_PATH", key "exports[].path";
        "Path of the NFS export on the server";

    EXPORT_ROOT: One "--export-root" = "DIR" in "Storage", env "BERTH_EXPORT_ROOT", key "exports[].root", default MOUNT_POINT;
        "Directory at which the NFS export is mounted";

    WORKERS: One "--workers" = "N" in "Storage", key "workers", default "32";
        "PVs created at once; each export or cluster may have 1.5 times as many operations";

    OPERATION_TIMEOUT: One "--operation-timeout" = "DURATION" in "Storage", key "operationTimeout", default "30s";
        "Timeout for one file operation";

    SWEEP_INTERVAL: One "--sweep-interval" = "DURATION" in "Storage", key "sweepInterval", default "1h";
        "Interval between sweeps for uncommitted volumes";

    SWEEP_GRACE: One "--sweep-grace" = "DURATION" in "Storage", key "sweepGrace", default "5m";
        "Minimum age of an uncommitted volume before it is rolled back";

    CLUSTER_ID: One "--cluster-id" = "ID" in "Storage", env "BERTH_CLUSTER_ID", key "clusterId";
        "Id of this cluster on shared storage; by default the UID of kube-system",
        "Each volume records it. If you change it while volumes exist, list the old id in --former-cluster-ids.";

    FORMER_CLUSTER_IDS: List "--former-cluster-ids" = "IDS" in "Storage", env "BERTH_FORMER_CLUSTER_IDS", key "formerClusterIds";
        "Earlier ids of this cluster, separated by commas",
        "Volumes that record one of these ids belong to this cluster. Do not list the id of a cluster that still \
            runs.";

    TRASH_RETENTION: One "--trash-retention" = "DURATION" in "Storage", env "BERTH_TRASH_RETENTION", key "trashRetention", default "10m";
        "How long removed data stays in the trash; 0s purges it at once";

    SECRET_NAMESPACE: One "--secret-namespace" = "NAMESPACE" in "Ceph", env "PROVISIONER_SECRET_NAMESPACE", key "secretNamespace";
        "Namespace for the Secrets of CephFS users; by default the claim's";

    RBD_PROGRAM: One "--rbd-program" = "PROGRAM" in "Ceph", key "rbdProgram", default "rbd";
        "Name or path of the rbd program";

    CEPH_PROGRAM: One "--ceph-program" = "PROGRAM" in "Ceph", key "cephProgram", default "ceph";
        "Name or path of the ceph program";

    RADOS_PROGRAM: One "--rados-program" = "PROGRAM" in "Ceph", key "radosProgram", default "rados";
        "Name or path of the rados program";

    CEPH_CONNECT_TIMEOUT: One "--ceph-connect-timeout" = "DURATION" in "Ceph", key "cephConnectTimeout", default "5s";
        "Timeout for connecting to the monitors";

    CEPH_OPERATION_TIMEOUT: One "--ceph-operation-timeout" = "DURATION" in "Ceph", key "cephOperationTimeout", default "20s";
        "Timeout for one request to a monitor or an OSD";

    CEPH_COMMAND_TIMEOUT: One "--ceph-command-timeout" = "DURATION" in "Ceph", key "cephCommandTimeout", default "60s";
        "Timeout for one run of a Ceph program";

    CEPH_CONCURRENCY: One "--ceph-concurrency" = "N" in "Ceph", key "cephConcurrency", default "8";
        "Ceph programs that may run at once for one cluster";

    CEPH_SESSIONS: One "--ceph-sessions" = "N" in "Ceph", key "cephSessions", default "2";
        "Idle ceph processes kept per cluster for reuse; 0 starts a new one each time";

    KUBECONFIG: One "--kubeconfig" = "FILE" in "Kubernetes", env "KUBECONFIG", key "kubeconfig";
        "Kubeconfig file; by default the pod's service account is used";

    API_TIMEOUT: One "--api-timeout" = "DURATION" in "Kubernetes", key "apiTimeout", default "30s";
        "Timeout for one request to the API server";

    RETRY_MIN: One "--retry-min" = "DURATION" in "Kubernetes", key "retryMin", default "1s";
        "Wait before the first retry of a failed operation; it doubles with each retry";

    RETRY_MAX: One "--retry-max" = "DURATION" in "Kubernetes", key "retryMax", default "5m";
        "Longest wait between two retries";

    LEADER_ELECTION: Switch "--leader-election" = "BOOL" in "Leader election", env "ENABLE_LEADER_ELECTION", key "leaderElection", default "true";
        "Elect one of several replicas as the leader, which does the work";

    LEASE_NAMESPACE: One "--lease-namespace" = "NAMESPACE" in "Leader election", env "POD_NAMESPACE", key "leaseNamespace";
        "Namespace of the lock; by default the pod's own, outside a pod \"default\"";

    LEASE_NAME: One "--lease-name" = "NAME" in "Leader election", key "leaseName";
        "Name of the lock; by default the first provisioner name in lower case with - for /";

    LEASE_DURATION: One "--lease-duration" = "DURATION" in "Leader election", key "leaseDuration", default "15s";
        "How long the lock is valid; another replica may take it when it expires";

    LEASE_RENEW_DEADLINE: One "--lease-renew-deadline" = "DURATION" in "Leader election", key "leaseRenewDeadline", default "10s";
        "How long the leader tries to renew the lock before it stops working";

    LEASE_RETRY_PERIOD: One "--lease-retry-period" = "DURATION" in "Leader election", key "leaseRetryPeriod", default "2s";
        "How often to renew or try to acquire the lock";

    CONFIG: One "--config" = "FILE" in "Process";
        "YAML file with settings; needed for several exports and for Ceph clusters";

    LISTEN: One "--listen" = "ADDRESS" in "Process", key "listen", default ":8080";
        "Address for /livez, /readyz and /metrics; port 0 picks a free port, off disables them",
        "A port alone (:8080) means every IPv4 and IPv6 address. If the default port is in use, berth logs that, \
            runs without the endpoints and tries again. If an address that you gave is in use, berth exits.";

    LISTEN_FILE: One "--listen-file" = "FILE" in "Process", key "listenFile";
        "Write the address that berth listens on to this file";

    LOG_FORMAT: One "--log-format" = "FORMAT" in "Process", key "logFormat", default "text";
        "Log format: text or json";

    LOG_LEVEL: One "--log-level" = "LEVEL" in "Process", key "logLevel", default "info";
        "Log level: off, error, warn, info, debug, trace, or per module: warn,berth=debug";

    SHUTDOWN_GRACE: One "--shutdown-grace" = "DURATION" in "Process", key "shutdownGrace", default "20s";
        "How long to wait at shutdown for running operations";
}

settings! {
    OF_NODE_ALONE;

    KUBELET_DIR: One "--kubelet-dir" = "DIR" in "Node", env "BERTH_KUBELET_DIR", key "kubeletDir", default "/var/lib/kubelet";
        "Directory of kubelet, at the same path for kubelet and for berth",
        "/var/snap/microk8s/common/var/lib/kubelet on microk8s, /var/lib/k0s/kubelet on k0s, \
            /var/lib/rancher/k3s/agent/kubelet on k3s before 1.19.";

    NODE_ID: One "--node-id" = "NAME" in "Node", env "NODE_NAME", key "nodeId";
        "Name of this node in Kubernetes; by default the host name";

    NFS_DRIVER_NAME: One "--nfs-driver-name" = "NAME" in "Node", key "nfsDriverName", default "nfs.berth.storage";
        "Name of the CSI driver for NFS volumes";

    REGISTER: Switch "--register" = "BOOL" in "Node", key "register", default "true";
        "Register the drivers with kubelet; false leaves that to a registrar sidecar";

    CALL_TIMEOUT: One "--call-timeout" = "DURATION" in "Node", key "callTimeout", default "90s";
        "Longest time until a call of kubelet is answered; its work goes on",
        "Kubelet itself gives a call up after two minutes.";

    UNMOUNT_GRACE: One "--unmount-grace" = "DURATION" in "Node", key "unmountGrace", default "30s";
        "How long to try to unmount a volume that is in use or whose server is gone before it is detached lazily";

    STATS_TIMEOUT: One "--stats-timeout" = "DURATION" in "Node", key "statsTimeout", default "2s";
        "How long to wait for the usage of a volume before the last known one is reported";

    TEST_NFS_BIND_ROOT: One "--test-nfs-bind-root" = "DIR" in "Node", key "testNfsBindRoot";
        "For tests only: bind NFS volumes from this local directory instead of mounting them",
        "A volume of share /a is the directory a in it, whatever its server.";
}

/// What `berth node` has in common with `berth controller`.
const SHARED: [SettingSpec; 4] = [CONFIG, LOG_FORMAT, LOG_LEVEL, SHUTDOWN_GRACE];

/// The settings of `berth node`, in the order of `--help`.
pub(super) fn node() -> impl Iterator<Item = &'static SettingSpec> {
    OF_NODE_ALONE
        .iter()
        .chain(CONTROLLER.iter().filter(|name| SHARED.iter().any(|shared| shared.flag == name.flag)))
}

/// Every setting: one file may have those of both commands.
pub(super) fn every() -> impl Iterator<Item = &'static SettingSpec> {
    CONTROLLER.iter().chain(OF_NODE_ALONE)
}
