//! From text with its origin to ready values: [`controller`]. The order of precedence lives here, in [`Sources::given`].

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    Ceph, Controller, Environment, Lease, Listen, Storage, cluster, cluster_id, export,
    file::{self},
    flags::ControllerFlags,
    old::Old,
    served::{self, Asked},
    value::{ConfigError, Origin, Setting, lock_name},
};
use crate::observe::{self, Address};

pub(super) use super::file::File;

impl File {
    /// More threads than this help no storage, and cost memory.
    pub(super) const MOST_WORKERS: usize = 1024;
}

/// Where a setting can be made, and what holds where it is not made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    pub(super) flag: &'static str,
    /// The environment variable; empty for none.
    pub(super) env: &'static str,
    /// The key in the file; empty for none.
    pub(super) key: &'static str,
    /// Empty where the default depends on something, or there is none.
    pub(super) default: &'static str,
}

/// Every setting by name.
pub(super) mod names {
    use super::{Names, export};

    macro_rules! settings {
        ($($name:ident: $flag:literal, $env:literal, $key:literal, $default:expr;)*) => {
            $(pub(in super::super) const $name: Names = Names { flag: $flag, env: $env, key: $key, default: $default };)*
            /// All of them.
            pub(in super::super) const ALL: &[Names] = &[$($name),*];
        };
    }

    settings! {
        PROVISIONER_NAME: "--provisioner-name", "PROVISIONER_NAME", "provisionerNames", "";
        RBD_PROVISIONER_NAME: "--rbd-provisioner-name", "", "rbdProvisionerNames", "";
        CEPHFS_PROVISIONER_NAME: "--cephfs-provisioner-name", "", "cephfsProvisionerNames", "";
        NFS_SERVER: "--nfs-server", "NFS_SERVER", "exports[].server", "";
        NFS_PATH: "--nfs-path", "NFS_PATH", "exports[].path", "";
        EXPORT_ROOT: "--export-root", "BERTH_EXPORT_ROOT", "exports[].root", export::MOUNT_POINT;
        WORKERS: "--workers", "", "workers", "32";
        OPERATION_TIMEOUT: "--operation-timeout", "", "operationTimeout", "30s";
        SWEEP_INTERVAL: "--sweep-interval", "", "sweepInterval", "1h";
        SWEEP_GRACE: "--sweep-grace", "", "sweepGrace", "5m";
        CLUSTER_ID: "--cluster-id", "BERTH_CLUSTER_ID", "clusterId", "";
        FORMER_CLUSTER_IDS: "--former-cluster-ids", "BERTH_FORMER_CLUSTER_IDS", "formerClusterIds", "";
        TRASH_RETENTION: "--trash-retention", "BERTH_TRASH_RETENTION", "trashRetention", "10m";
        SECRET_NAMESPACE: "--secret-namespace", "PROVISIONER_SECRET_NAMESPACE", "secretNamespace", "";
        RBD_PROGRAM: "--rbd-program", "", "rbdProgram", "rbd";
        CEPH_PROGRAM: "--ceph-program", "", "cephProgram", "ceph";
        RADOS_PROGRAM: "--rados-program", "", "radosProgram", "rados";
        CEPH_CONNECT_TIMEOUT: "--ceph-connect-timeout", "", "cephConnectTimeout", "5s";
        CEPH_OPERATION_TIMEOUT: "--ceph-operation-timeout", "", "cephOperationTimeout", "20s";
        CEPH_COMMAND_TIMEOUT: "--ceph-command-timeout", "", "cephCommandTimeout", "60s";
        CEPH_CONCURRENCY: "--ceph-concurrency", "", "cephConcurrency", "8";
        CEPH_SESSIONS: "--ceph-sessions", "", "cephSessions", "2";
        KUBECONFIG: "--kubeconfig", "KUBECONFIG", "kubeconfig", "";
        API_TIMEOUT: "--api-timeout", "", "apiTimeout", "30s";
        RETRY_MIN: "--retry-min", "", "retryMin", "1s";
        RETRY_MAX: "--retry-max", "", "retryMax", "5m";
        LEADER_ELECTION: "--leader-election", "ENABLE_LEADER_ELECTION", "leaderElection", "true";
        LEASE_NAMESPACE: "--lease-namespace", "POD_NAMESPACE", "leaseNamespace", "";
        LEASE_NAME: "--lease-name", "", "leaseName", "";
        LEASE_DURATION: "--lease-duration", "", "leaseDuration", "15s";
        LEASE_RENEW_DEADLINE: "--lease-renew-deadline", "", "leaseRenewDeadline", "10s";
        LEASE_RETRY_PERIOD: "--lease-retry-period", "", "leaseRetryPeriod", "2s";
        CONFIG: "--config", "", "", "";
        LISTEN: "--listen", "", "listen", ":8080";
        LISTEN_FILE: "--listen-file", "", "listenFile", "";
        LOG_FORMAT: "--log-format", "", "logFormat", "text";
        LOG_LEVEL: "--log-level", "", "logLevel", "info";
        SHUTDOWN_GRACE: "--shutdown-grace", "", "shutdownGrace", "20s";
    }
}

/// Where the namespace of a pod's service account is told.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// The environment and the file's name; the rest of the sources comes in as arguments.
pub(super) struct Sources<'a> {
    surroundings: Environment<'a>,
    /// The path of `--config`.
    path: String,
}

impl Sources<'_> {
    /// A value from a flag, else from the environment. An empty variable counts as not set, as it did in the old images.
    pub(super) fn given(&self, names: &Names, flag: Option<String>) -> Result<Option<Setting>, ConfigError> {
        if let Some(text) = flag {
            return Ok(Some(Setting::new(text, Origin::Flag(names.flag))));
        }
        if names.env.is_empty() {
            return Ok(None);
        }
        match (self.surroundings.env)(names.env).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => {
                let given = Setting::new(text.to_string_lossy(), Origin::Env(names.env));
                if text.to_str().is_none() { Err(given.wrong("must be UTF-8")) } else { Ok(Some(given)) }
            }
        }
    }

    /// The origin of a key of the file.
    pub(super) fn in_file(&self, key: impl Into<String>) -> Origin {
        Origin::File { path: self.path.clone(), key: key.into() }
    }

    /// A value from the first source that has it; `None` where none has and there is no default.
    pub(super) fn find(
        &self,
        names: &Names,
        flag: Option<String>,
        file: Option<String>,
    ) -> Result<Option<Setting>, ConfigError> {
        let given = self.given(names, flag)?;
        let given = given.or_else(|| file.map(|text| Setting::new(text, self.in_file(names.key))));
        let default = || Setting::new(names.default, Origin::Default(names.flag));
        Ok(given.or_else(|| (!names.default.is_empty()).then(default)))
    }

    /// The same for a setting that has a default.
    pub(super) fn pick(
        &self,
        names: &Names,
        flag: Option<String>,
        file: Option<String>,
    ) -> Result<Setting, ConfigError> {
        Ok(self.find(names, flag, file)?.unwrap_or_else(|| Setting::new("", Origin::Default(names.flag))))
    }
}

/// Makes the settings of `berth controller`.
#[allow(clippy::too_many_lines)] // One exhaustive destructuring, then one line for each setting.
pub(super) fn controller(
    flags: ControllerFlags,
    old: &Old,
    surroundings: Environment<'_>,
) -> Result<Controller, ConfigError> {
    let ControllerFlags {
        provisioner_name,
        rbd_provisioner_name,
        cephfs_provisioner_name,
        nfs_server,
        nfs_path,
        export_root,
        workers,
        operation_timeout,
        sweep_interval,
        sweep_grace,
        cluster_id,
        former_cluster_ids,
        trash_retention,
        secret_namespace,
        rbd_program,
        ceph_program,
        rados_program,
        ceph_connect_timeout,
        ceph_operation_timeout,
        ceph_command_timeout,
        ceph_concurrency,
        ceph_sessions,
        kubeconfig,
        api_timeout,
        retry_min,
        retry_max,
        leader_election,
        lease_namespace,
        lease_name,
        lease_duration,
        lease_renew_deadline,
        lease_retry_period,
        config,
        listen,
        listen_file,
        log_format,
        log_level,
        shutdown_grace,
    } = flags;
    let file = match &config {
        Some(path) => read_file(path, surroundings)?,
        None => File::default(),
    };
    let sources = Sources { surroundings, path: config.unwrap_or_default() };
    let mut missing = Vec::new();

    let moment = Duration::from_millis(1);
    let second = Duration::from_secs(1);
    let workers = sources.pick(&names::WORKERS, workers, file.workers)?.count(File::MOST_WORKERS)?;
    let common = export::Common {
        deadline: sources
            .pick(&names::OPERATION_TIMEOUT, operation_timeout, file.operation_timeout)?
            .duration(moment)?,
        threads: workers,
    };
    let provisioners = served::served(
        &sources,
        (
            Asked { flags: provisioner_name, file: file.provisioner_names },
            Asked { flags: rbd_provisioner_name, file: file.rbd_provisioner_names },
            Asked { flags: cephfs_provisioner_name, file: file.cephfs_provisioner_names },
        ),
        old.entry,
        &mut missing,
    )?;
    let serves = |storage: Storage| provisioners.iter().any(|provisioner| provisioner.storage == storage);
    let (of_nfs, of_ceph) = (
        // Who names no provisioner at all is told everything that is missing.
        serves(Storage::Nfs) || provisioners.is_empty(),
        serves(Storage::Rbd) || serves(Storage::Cephfs),
    );
    let exports = export::exports(
        &sources,
        of_nfs,
        (nfs_server, nfs_path, export_root),
        file.exports.unwrap_or_default(),
        &common,
        &mut missing,
    )?;
    let (cluster_id, former_cluster_ids) = cluster_id::ids(
        &sources,
        (cluster_id, file.cluster_id),
        (former_cluster_ids, file.former_cluster_ids),
    )?;
    let namespace = sources
        .find(&names::LEASE_NAMESPACE, lease_namespace, file.lease_namespace)?
        .map_or_else(|| Ok(namespace_of_pod(surroundings)), |given| given.object_name())?;
    let common = cluster::Common {
        rbd: (rbd_program, file.rbd_program),
        ceph: (ceph_program, file.ceph_program),
        rados: (rados_program, file.rados_program),
        connect: (ceph_connect_timeout, file.ceph_connect_timeout),
        operation: (ceph_operation_timeout, file.ceph_operation_timeout),
        deadline: (ceph_command_timeout, file.ceph_command_timeout),
        concurrency: (ceph_concurrency, file.ceph_concurrency),
        sessions: (ceph_sessions, file.ceph_sessions),
    };
    let tools = cluster::tools(&sources, common, old)?;
    let clusters = file.clusters.unwrap_or_default();
    let clusters = cluster::clusters(&sources, clusters, &tools, &namespace, &mut missing)?;
    let secret_namespace = sources
        .find(&names::SECRET_NAMESPACE, secret_namespace, file.secret_namespace)?
        .map(|given| given.object_name())
        .transpose()?;
    if !missing.is_empty() {
        return Err(ConfigError(format!("not configured: {}", missing.join("; "))));
    }
    let mut notes: Vec<String> =
        old.ignored.iter().map(|flag| format!("the flag -{flag} has no effect")).collect();
    notes.extend(old.notes.iter().cloned());
    if !of_nfs && !exports.is_empty() {
        notes.push("no name of an NFS provisioner is served: the exports are not used".to_owned());
    }
    if !of_ceph && !clusters.is_empty() {
        notes.push("no name of a Ceph provisioner is served: the clusters are not used".to_owned());
    }

    let elect = sources.pick(&names::LEADER_ELECTION, leader_election, file.leader_election)?.bool()?;
    let times = lease_times(
        &sources,
        [
            (names::LEASE_DURATION, lease_duration, file.lease_duration),
            (names::LEASE_RENEW_DEADLINE, lease_renew_deadline, file.lease_renew_deadline),
            (names::LEASE_RETRY_PERIOD, lease_retry_period, file.lease_retry_period),
        ],
    )?;
    let lease_name = if let Some(given) = sources.find(&names::LEASE_NAME, lease_name, file.lease_name)? {
        given.object_name()?
    } else {
        // The lock of the old provisioners has this name; both must mean the same one.
        provisioners.first().map(|first| lock_name(&first.name)).unwrap_or_default()
    };
    let lease = elect.then(|| Lease {
        name: lease_name,
        namespace: namespace.clone(),
        duration: times[0],
        renew_deadline: times[1],
        retry_period: times[2],
    });

    let retry_min = sources.pick(&names::RETRY_MIN, retry_min, file.retry_min)?.duration(moment)?;
    let retry_max = sources.pick(&names::RETRY_MAX, retry_max, file.retry_max)?;
    let listen = listen.or_else(|| old.metrics_port.map(|port| format!(":{port}")));

    Ok(Controller {
        provisioners,
        exports: if of_nfs { exports } else { Vec::new() },
        ceph: of_ceph.then_some(Ceph { tools, clusters, secret_namespace }),
        cluster_id,
        former_cluster_ids,
        trash_retention: sources
            .pick(&names::TRASH_RETENTION, trash_retention, file.trash_retention)?
            .duration(Duration::ZERO)?,
        identity: old.identity.clone(),
        master: old.master.clone(),
        kubeconfig: sources
            .find(&names::KUBECONFIG, kubeconfig, file.kubeconfig)?
            .map(|given| given.text.into()),
        namespace,
        lease,
        listen: listen_address(&sources.pick(&names::LISTEN, listen, file.listen)?)?,
        listen_file: sources
            .find(&names::LISTEN_FILE, listen_file, file.listen_file)?
            .map(|given| PathBuf::from(given.text)),
        log_format: log_format_of(&sources.pick(&names::LOG_FORMAT, log_format, file.log_format)?)?,
        log_filter: log_filter(&sources, log_level, file.log_level, old.verbosity)?,
        workers,
        api_timeout: sources.pick(&names::API_TIMEOUT, api_timeout, file.api_timeout)?.duration(second)?,
        retry_min,
        retry_max: at_least(&retry_max, retry_max.duration(moment)?, retry_min, names::RETRY_MIN.flag)?,
        sweep_interval: sources
            .pick(&names::SWEEP_INTERVAL, sweep_interval, file.sweep_interval)?
            .duration(second)?,
        sweep_grace: sources.pick(&names::SWEEP_GRACE, sweep_grace, file.sweep_grace)?.duration(second)?,
        shutdown_grace: sources
            .pick(&names::SHUTDOWN_GRACE, shutdown_grace, file.shutdown_grace)?
            .duration(Duration::ZERO)?,
        notes,
    })
}

fn read_file(path: &str, surroundings: Environment<'_>) -> Result<File, ConfigError> {
    let text = (surroundings.read)(Path::new(path))
        .map_err(|error| ConfigError(format!("{} {path:?} cannot be read: {error}", names::CONFIG.flag)))?;
    file::read(path, &text)
}

/// The pod's namespace; a process outside of any pod lives in `default`.
fn namespace_of_pod(surroundings: Environment<'_>) -> String {
    let told = (surroundings.read)(Path::new(NAMESPACE_FILE)).unwrap_or_default();
    let told = told.trim();
    if told.is_empty() { "default".to_owned() } else { told.to_owned() }
}

/// Duration, renew deadline and retry period, each shorter than the one before: a leader must have stopped before others
/// take over, and have tried more than once before it stops.
fn lease_times(
    sources: &Sources<'_>,
    times: [(Names, Option<String>, Option<String>); 3],
) -> Result<[Duration; 3], ConfigError> {
    let [(duration_names, flag, file), renew, retry] = times;
    let duration_given = sources.pick(&duration_names, flag, file)?;
    let duration = duration_given.duration(Duration::from_secs(1))?;
    if duration.subsec_nanos() != 0 {
        return Err(duration_given.wrong("must be whole seconds, since the Lease object stores seconds"));
    }
    let (renew_names, flag, file) = renew;
    let renew_given = sources.pick(&renew_names, flag, file)?;
    let renew = renew_given.duration(Duration::from_millis(1))?;
    if renew >= duration {
        let (longer, origin) = (duration_names.flag, &duration_given.text);
        return Err(renew_given.wrong(format_args!("must be shorter than {longer}, which is {origin}")));
    }
    let (retry_names, flag, file) = retry;
    let retry_given = sources.pick(&retry_names, flag, file)?;
    let retry = retry_given.duration(Duration::from_millis(1))?;
    // Go's library allows for a jitter of a fifth.
    if retry.saturating_mul(6) >= renew.saturating_mul(5) {
        return Err(retry_given.wrong(format_args!(
            "must be shorter than five sixths of {}, which is {}",
            renew_names.flag, renew_given.text
        )));
    }
    Ok([duration, renew, retry])
}

fn at_least(given: &Setting, value: Duration, least: Duration, of: &str) -> Result<Duration, ConfigError> {
    if value < least {
        return Err(given.wrong(format_args!("must be at least {of}, which is {least:?}")));
    }
    Ok(value)
}

fn listen_address(given: &Setting) -> Result<Option<Listen>, ConfigError> {
    if given.text == "off" {
        return Ok(None);
    }
    // ":8080" is how Go programs write "every address".
    let every = given.text.strip_prefix(':').and_then(|port| port.parse().ok()).map(Address::Every);
    let named = || {
        let address = given.text.parse::<SocketAddr>().ok().or_else(|| {
            // Only "localhost" is looked up, which every machine knows without asking anybody.
            given.text.strip_prefix("localhost:")?;
            given.text.to_socket_addrs().ok()?.next()
        });
        address.map(Address::At)
    };
    match every.or_else(named) {
        Some(address) => Ok(Some(Listen { address, explicit: !given.is_default() })),
        None => Err(given.wrong(
            "must be an address and a port, such as 0.0.0.0:8080, [::]:8080 or 127.0.0.1:0, a port of every address, \
             such as :8080, or off",
        )),
    }
}

fn log_format_of(given: &Setting) -> Result<observe::Format, ConfigError> {
    given.text.parse().map_err(|()| given.wrong("must be text or json"))
}

/// `--log-level` wins over `-v`, which is a flag and wins over the file.
fn log_filter(
    sources: &Sources<'_>,
    flag: Option<String>,
    file: Option<String>,
    verbosity: Option<u32>,
) -> Result<observe::Filter, ConfigError> {
    if let (None, Some(verbosity)) = (&flag, verbosity) {
        return Ok(observe::Filter::from_verbosity(verbosity));
    }
    let given = sources.pick(&names::LOG_LEVEL, flag, file)?;
    given.text.parse().map_err(|()| {
        given.wrong(
            "must be off, error, warn, info, debug or trace, or levels by module such as warn,berth=debug",
        )
    })
}
