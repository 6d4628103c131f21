//! Everything `berth controller` needs, as ready values: [`Controller`], which [`controller`] makes of the settings.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
    time::Duration,
};

use super::{
    cluster::{self, Ceph},
    cluster_id, export,
    flags::Flags,
    legacy_flags::LegacyFlags,
    served::{self, Provisioner, Storage},
    settings::{self, MOST_WORKERS},
    sources::{Environment, Sources},
    value::{ConfigError, Setting, lock_name},
};
use crate::{
    backend::nfs::Export,
    observe::{self, Address},
};

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

/// Where the namespace of a pod's service account is told.
const NAMESPACE_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";

/// The shortest wait.
const MOMENT: Duration = Duration::from_millis(1);
/// The shortest interval.
const SECOND: Duration = Duration::from_secs(1);

/// Makes the settings of `berth controller`.
pub(super) fn controller(
    mut flags: Flags,
    legacy: &LegacyFlags,
    environment: Environment<'_>,
) -> Result<Controller, ConfigError> {
    if let Some(port) = legacy.metrics_port {
        flags.entry(settings::LISTEN.flag).or_insert_with(|| vec![format!(":{port}")]);
    }
    let sources = Sources::read(flags, environment)?;
    let mut missing = Vec::new();
    let duration = |name, least| sources.pick(name)?.duration(least);

    let workers = sources.pick(&settings::WORKERS)?.count(MOST_WORKERS)?;
    let common =
        export::Common { deadline: duration(&settings::OPERATION_TIMEOUT, MOMENT)?, threads: workers };
    let provisioners = served::served(&sources, legacy.entry, &mut missing)?;
    let serves = |storage: Storage| provisioners.iter().any(|provisioner| provisioner.storage == storage);
    let (of_nfs, of_ceph) = (
        // Who names no provisioner at all is told everything that is missing.
        serves(Storage::Nfs) || provisioners.is_empty(),
        serves(Storage::Rbd) || serves(Storage::Cephfs),
    );
    let exports = export::exports(&sources, of_nfs, &common, &mut missing)?;
    let (cluster_id, former_cluster_ids) = cluster_id::ids(&sources)?;
    let namespace = match sources.find(&settings::LEASE_NAMESPACE)? {
        Some(given) => given.object_name()?,
        None => namespace_of_pod(&sources),
    };
    let tools = cluster::tools(&sources, legacy)?;
    let clusters = cluster::clusters(&sources, &tools, &namespace, &mut missing)?;
    let secret_namespace = sources.find(&settings::SECRET_NAMESPACE)?;
    let secret_namespace = secret_namespace.map(|given| given.object_name()).transpose()?;
    if !missing.is_empty() {
        return Err(ConfigError(format!("not configured: {}", missing.join("; "))));
    }
    let notes = notes(legacy, !of_nfs && !exports.is_empty(), !of_ceph && !clusters.is_empty());
    let retry_min = duration(&settings::RETRY_MIN, MOMENT)?;
    let retry_max = sources.pick(&settings::RETRY_MAX)?;
    let path = |name| Ok(sources.find(name)?.map(|given| PathBuf::from(given.text)));
    Ok(Controller {
        lease: lease(&sources, &provisioners, &namespace)?,
        provisioners,
        exports: if of_nfs { exports } else { Vec::new() },
        ceph: of_ceph.then_some(Ceph { tools, clusters, secret_namespace }),
        cluster_id,
        former_cluster_ids,
        trash_retention: duration(&settings::TRASH_RETENTION, Duration::ZERO)?,
        identity: legacy.identity.clone(),
        master: legacy.master.clone(),
        kubeconfig: path(&settings::KUBECONFIG)?,
        namespace,
        listen: listen_address(&sources.pick(&settings::LISTEN)?)?,
        listen_file: path(&settings::LISTEN_FILE)?,
        log_format: log_format_of(&sources.pick(&settings::LOG_FORMAT)?)?,
        log_filter: log_filter(&sources, legacy.verbosity)?,
        workers,
        api_timeout: duration(&settings::API_TIMEOUT, SECOND)?,
        retry_min,
        retry_max: at_least(&retry_max, retry_max.duration(MOMENT)?, retry_min, settings::RETRY_MIN.flag)?,
        sweep_interval: duration(&settings::SWEEP_INTERVAL, SECOND)?,
        sweep_grace: duration(&settings::SWEEP_GRACE, SECOND)?,
        shutdown_grace: duration(&settings::SHUTDOWN_GRACE, Duration::ZERO)?,
        notes,
    })
}

/// What is given and has no effect.
fn notes(legacy: &LegacyFlags, unused_exports: bool, unused_clusters: bool) -> Vec<String> {
    let ignored = legacy.ignored.iter().map(|flag| format!("the flag -{flag} has no effect"));
    let mut notes: Vec<String> = ignored.chain(legacy.notes.iter().cloned()).collect();
    if unused_exports {
        notes.push("no name of an NFS provisioner is served: the exports are not used".to_owned());
    }
    if unused_clusters {
        notes.push("no name of a Ceph provisioner is served: the clusters are not used".to_owned());
    }
    notes
}

/// The leader lock; `None` without leader election.
fn lease(
    sources: &Sources<'_>,
    provisioners: &[Provisioner],
    namespace: &str,
) -> Result<Option<Lease>, ConfigError> {
    let elect = sources.pick(&settings::LEADER_ELECTION)?.bool()?;
    let [duration, renew_deadline, retry_period] = lease_times(sources)?;
    let name = match sources.find(&settings::LEASE_NAME)? {
        Some(given) => given.object_name()?,
        // The lock of the old provisioners has this name; both must mean the same one.
        None => provisioners.first().map(|first| lock_name(&first.name)).unwrap_or_default(),
    };
    let namespace = namespace.to_owned();
    Ok(elect.then_some(Lease { name, namespace, duration, renew_deadline, retry_period }))
}

/// The pod's namespace; a process outside of any pod lives in `default`.
fn namespace_of_pod(sources: &Sources<'_>) -> String {
    let told = sources.text_of(NAMESPACE_FILE);
    let told = told.trim();
    if told.is_empty() { "default".to_owned() } else { told.to_owned() }
}

/// The lease candidate respects no lock for longer; a leader that worked for longer would have company.
const LONGEST_LEASE: Duration = Duration::from_hours(1);

/// Duration, renew deadline and retry period, each shorter than the one before: a leader must have stopped before others
/// take over, and have tried more than once before it stops.
fn lease_times(sources: &Sources<'_>) -> Result<[Duration; 3], ConfigError> {
    let duration_given = sources.pick(&settings::LEASE_DURATION)?;
    let duration = duration_given.duration(Duration::from_secs(1))?;
    if duration.subsec_nanos() != 0 {
        return Err(duration_given.reject("must be whole seconds, since the Lease object stores seconds"));
    }
    if duration > LONGEST_LEASE {
        let why = "must be at most 1h: another replica waits no longer for a leader that does not renew";
        return Err(duration_given.reject(why));
    }
    let renew_given = sources.pick(&settings::LEASE_RENEW_DEADLINE)?;
    let renew = renew_given.duration(Duration::from_millis(1))?;
    if renew >= duration {
        let (longer, origin) = (settings::LEASE_DURATION.flag, &duration_given.text);
        return Err(renew_given.reject(format_args!("must be shorter than {longer}, which is {origin}")));
    }
    let retry_given = sources.pick(&settings::LEASE_RETRY_PERIOD)?;
    let retry = retry_given.duration(Duration::from_millis(1))?;
    // Go's library allows for a jitter of a fifth.
    if retry.saturating_mul(6) >= renew.saturating_mul(5) {
        return Err(retry_given.reject(format_args!(
            "must be shorter than five sixths of {}, which is {}",
            settings::LEASE_RENEW_DEADLINE.flag,
            renew_given.text
        )));
    }
    Ok([duration, renew, retry])
}

fn at_least(given: &Setting, value: Duration, least: Duration, of: &str) -> Result<Duration, ConfigError> {
    if value < least {
        return Err(given.reject(format_args!("must be at least {of}, which is {least:?}")));
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
        None => Err(given.reject(
            "must be an address and a port, such as 0.0.0.0:8080, [::]:8080 or 127.0.0.1:0, a port of every address, \
             such as :8080, or off",
        )),
    }
}

pub(super) fn log_format_of(given: &Setting) -> Result<observe::Format, ConfigError> {
    given.text.parse().map_err(|()| given.reject("must be text or json"))
}

/// `--log-level` wins over `-v`, which is a flag and wins over the file.
pub(super) fn log_filter(
    sources: &Sources<'_>,
    verbosity: Option<u32>,
) -> Result<observe::Filter, ConfigError> {
    if let (None, Some(verbosity)) = (sources.flag(&settings::LOG_LEVEL), verbosity) {
        return Ok(observe::Filter::from_verbosity(verbosity));
    }
    let given = sources.pick(&settings::LOG_LEVEL)?;
    given.text.parse().map_err(|()| {
        given.reject(
            "must be off, error, warn, info, debug or trace, or levels by module such as warn,berth=debug",
        )
    })
}
