//! The Ceph clusters of the file, and what holds for every cluster: programs and limits.
//!
//! A cluster need not be configured: a class can name its monitors. Whether one can be reached is not asked here.

use std::time::Duration;

use super::{
    file::ClusterInFile,
    legacy_flags::LegacyFlags,
    settings,
    sources::Sources,
    value::{ConfigError, Setting},
};
use crate::{
    backend::ceph::{Admin, Cluster, Monitors, Programs, Tools},
    volume::SecretName,
};

/// What is configured of Ceph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ceph {
    /// The programs and limits of clusters that only a class describes.
    pub tools: Tools,
    /// The clusters that classes can name.
    pub clusters: Vec<ConfiguredCluster>,
    /// Where the Secrets of the volumes' own users are kept; `None` for the claim's namespace.
    pub secret_namespace: Option<String>,
}

/// One of `clusters`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredCluster {
    /// What classes call it.
    pub name: String,
    /// How it is reached.
    pub monitors: Monitors,
    /// The programs and limits.
    pub tools: Tools,
    /// Who makes volumes there, where the class does not say.
    pub admin: Option<Admin>,
}

/// More programs at a time than this only wait for each other.
const MOST_PROGRAMS: usize = 256;
/// The shortest limit of a program.
const LEAST: Duration = Duration::from_secs(1);

/// The programs and limits that hold where a cluster does not say otherwise.
pub(super) fn tools(sources: &Sources<'_>, legacy: &LegacyFlags) -> Result<Tools, ConfigError> {
    let deadline = sources.pick(&settings::CEPH_COMMAND_TIMEOUT)?;
    let mut limit = deadline.duration(LEAST)?;
    if let (true, Some(seconds)) = (deadline.is_default(), legacy.command_timeout) {
        // Five seconds were its default, which ended the removal of big images half way.
        limit = limit.max(Duration::from_secs(seconds));
    }
    let operation = sources.pick(&settings::CEPH_OPERATION_TIMEOUT)?;
    let connect = sources.pick(&settings::CEPH_CONNECT_TIMEOUT)?;
    let concurrency = sources.pick(&settings::CEPH_CONCURRENCY)?.count(MOST_PROGRAMS)?;
    let sessions = sessions(&sources.pick(&settings::CEPH_SESSIONS)?)?;
    Ok(Tools {
        rbd: program(&sources.pick(&settings::RBD_PROGRAM)?)?,
        ceph: program(&sources.pick(&settings::CEPH_PROGRAM)?)?,
        rados: program(&sources.pick(&settings::RADOS_PROGRAM)?)?,
        connect: within(&connect, limit, settings::CEPH_COMMAND_TIMEOUT.flag)?,
        operation: within(&operation, limit, settings::CEPH_COMMAND_TIMEOUT.flag)?,
        deadline: limit,
        concurrency,
        sessions,
        programs: Programs::new(concurrency + sessions),
        pause: Tools::default().pause,
        recheck: Tools::default().recheck,
    })
}

/// A limit of a part of a call: it must end before the call is ended from outside, which tells nothing.
fn within(given: &Setting, whole: Duration, of: &str) -> Result<Duration, ConfigError> {
    let part = given.duration(LEAST)?;
    if part < whole {
        return Ok(part);
    }
    Err(given.reject(format_args!("must be shorter than {of}, which is {whole:?}")))
}

/// How many programs stay: none is allowed.
fn sessions(given: &Setting) -> Result<usize, ConfigError> {
    if given.text == "0" { Ok(0) } else { given.count(MOST_PROGRAMS) }
}

/// The name of a program, or its path.
fn program(given: &Setting) -> Result<String, ConfigError> {
    let bad = given.text.is_empty()
        || given.text.contains(char::is_control)
        || given.text.contains('/') && !given.text.starts_with('/');
    if bad {
        return Err(given.reject("must be the name of a program, or its absolute path"));
    }
    Ok(given.text.clone())
}

/// The clusters of the file; `namespace` is where their Secrets are unless they say otherwise. Names what is missing.
pub(super) fn clusters(
    sources: &Sources<'_>,
    tools: &Tools,
    namespace: &str,
    missing: &mut Vec<String>,
) -> Result<Vec<ConfiguredCluster>, ConfigError> {
    let mut clusters: Vec<ConfiguredCluster> = Vec::new();
    for (index, entry) in sources.file.clusters.iter().cloned().enumerate() {
        let Some(cluster) = cluster(sources, index, entry, tools, namespace, missing)? else { continue };
        let at =
            |key: &str, text: &str| Setting::new(text, sources.in_file(format!("clusters[{index}].{key}")));
        if clusters.iter().any(|other| other.name == cluster.name) {
            return Err(at("name", &cluster.name).reject("is given twice"));
        }
        if let Some(other) = clusters.iter().find(|other| other.monitors.share_one(&cluster.monitors)) {
            return Err(at("monitors", cluster.monitors.as_str()).reject(format_args!(
                "has a monitor that the cluster {:?} has: a monitor belongs to one cluster",
                other.name
            )));
        }
        clusters.push(cluster);
    }
    Ok(clusters)
}

fn cluster(
    sources: &Sources<'_>,
    index: usize,
    entry: ClusterInFile,
    common: &Tools,
    namespace: &str,
    missing: &mut Vec<String>,
) -> Result<Option<ConfiguredCluster>, ConfigError> {
    let ClusterInFile {
        name,
        monitors,
        admin_id,
        admin_secret_name,
        admin_secret_namespace,
        rbd_program,
        ceph_program,
        rados_program,
        connect_timeout,
        operation_timeout,
        command_timeout,
        concurrency,
        sessions: kept,
    } = entry;
    let given = |key: &str, text: Option<String>| {
        text.map(|text| Setting::new(text, sources.in_file(format!("clusters[{index}].{key}"))))
    };
    let name = given("name", name);
    let monitors = given("monitors", monitors.map(|monitors| monitors.0.join(",")));
    let mut absent = |key: &str| missing.push(format!("clusters[{index}].{key} in the file"));
    if name.is_none() {
        absent("name");
    }
    if monitors.is_none() {
        absent("monitors");
    }
    let (Some(name), Some(monitors)) = (name, monitors) else { return Ok(None) };
    let deadline = match given("commandTimeout", command_timeout) {
        Some(given) => given.duration(LEAST)?,
        None => common.deadline,
    };
    let part = |key: &str, text, usual: Duration| match given(key, text) {
        Some(given) => within(&given, deadline, "commandTimeout"),
        // What is usual elsewhere is too long here.
        None => Ok(usual.min(deadline / 2)),
    };
    let tool = |key: &str, text, usual: &str| match given(key, text) {
        Some(given) => program(&given),
        None => Ok(usual.to_owned()),
    };
    let concurrency = match given("concurrency", concurrency) {
        Some(given) => given.count(MOST_PROGRAMS)?,
        None => common.concurrency,
    };
    let kept = given("sessions", kept).map_or(Ok(common.sessions), |given| sessions(&given))?;
    common.programs.at_least(concurrency + kept);
    let tools = Tools {
        rbd: tool("rbdProgram", rbd_program, &common.rbd)?,
        ceph: tool("cephProgram", ceph_program, &common.ceph)?,
        rados: tool("radosProgram", rados_program, &common.rados)?,
        connect: part("connectTimeout", connect_timeout, common.connect)?,
        operation: part("operationTimeout", operation_timeout, common.operation)?,
        deadline,
        concurrency,
        sessions: kept,
        pause: common.pause,
        recheck: common.recheck,
        programs: common.programs.clone(),
    };
    let admin = admin(
        given("adminId", admin_id),
        given("adminSecretName", admin_secret_name),
        given("adminSecretNamespace", admin_secret_namespace),
        namespace,
    )?;
    let reached: Monitors = monitors.text.parse().map_err(|wrong| monitors.invalid(&wrong))?;
    // The name has the rules of a store; what it is made for checks them.
    Cluster::new(&name.text, reached.clone(), tools.clone()).map_err(|wrong| name.invalid(&wrong))?;
    Ok(Some(ConfiguredCluster { name: name.text, monitors: reached, tools, admin }))
}

fn admin(
    user: Option<Setting>,
    secret: Option<Setting>,
    in_namespace: Option<Setting>,
    namespace: &str,
) -> Result<Option<Admin>, ConfigError> {
    let Some(secret) = secret else {
        return match user.or(in_namespace) {
            Some(alone) => {
                Err(alone.reject("needs adminSecretName beside it, which names the Secret with the key"))
            }
            None => Ok(None),
        };
    };
    let user = match user {
        None => ADMIN.to_owned(),
        Some(user) if user.text.is_empty() || user.text.contains(char::is_whitespace) => {
            return Err(user.reject("must be the name of a Ceph user behind \"client.\", such as admin"));
        }
        Some(user) => user.text.strip_prefix("client.").unwrap_or(&user.text).to_owned(),
    };
    let namespace = match in_namespace {
        Some(given) => given.object_name()?,
        None => namespace.to_owned(),
    };
    Ok(Some(Admin { user, secret: SecretName { namespace, name: secret.object_name()? } }))
}

/// Who makes volumes where nobody says who.
const ADMIN: &str = "admin";
