//! Everything `berth node` needs, as ready values: [`Node`], which [`node`] makes of the settings.

use std::{
    path::{Component, PathBuf},
    time::Duration,
};

use super::{
    controller::{log_filter, log_format_of},
    flags::Flags,
    settings::{self, SettingSpec},
    sources::{Environment, Sources},
    value::{ConfigError, Setting},
};
use crate::observe;

/// Everything `berth node` needs, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The directory of kubelet.
    pub kubelet: PathBuf,
    /// The name of this node; `None`: the host name.
    pub node: Option<String>,
    /// The name of the driver of NFS volumes.
    pub nfs_driver: String,
    /// Whether kubelet is told of the drivers.
    pub register: bool,
    /// Within which time kubelet gets an answer.
    pub call_timeout: Duration,
    /// How long to try to unmount before it is done lazily.
    pub unmount_grace: Duration,
    /// How long to wait for the usage of a volume.
    pub stats_timeout: Duration,
    /// For tests: where NFS volumes are bound from.
    pub bind_root: Option<PathBuf>,
    /// How the log is written.
    pub log_format: observe::Format,
    /// What is logged.
    pub log_filter: observe::Filter,
    /// How long running calls may take to end on a stop.
    pub shutdown_grace: Duration,
}

/// Kubelet gives a call up after this time.
const KUBELETS_PATIENCE: Duration = Duration::from_mins(2);
const MOMENT: Duration = Duration::from_millis(1);

/// Makes the settings of `berth node`.
pub(super) fn node(
    flags: Flags,
    verbosity: Option<u32>,
    environment: Environment<'_>,
) -> Result<Node, ConfigError> {
    let sources = Sources::read(flags, environment)?;
    let duration = |name: &SettingSpec, least| sources.pick(name)?.duration(least);
    let call = sources.pick(&settings::CALL_TIMEOUT)?;
    let call_timeout = call.duration(Duration::from_secs(1))?;
    if call_timeout >= KUBELETS_PATIENCE {
        return Err(call.reject("must be shorter than 2m, when kubelet gives a call up"));
    }
    Ok(Node {
        kubelet: directory(&sources.pick(&settings::KUBELET_DIR)?)?,
        node: sources.find(&settings::NODE_ID)?.map(|given| node_id(&given)).transpose()?,
        nfs_driver: driver(&sources.pick(&settings::NFS_DRIVER_NAME)?)?,
        register: sources.pick(&settings::REGISTER)?.bool()?,
        call_timeout,
        unmount_grace: duration(&settings::UNMOUNT_GRACE, MOMENT)?,
        stats_timeout: duration(&settings::STATS_TIMEOUT, MOMENT)?,
        bind_root: sources.find(&settings::TEST_NFS_BIND_ROOT)?.map(|given| directory(&given)).transpose()?,
        log_format: log_format_of(&sources.pick(&settings::LOG_FORMAT)?)?,
        log_filter: log_filter(&sources, verbosity)?,
        shutdown_grace: duration(&settings::SHUTDOWN_GRACE, Duration::ZERO)?,
    })
}

fn directory(given: &Setting) -> Result<PathBuf, ConfigError> {
    let path: PathBuf = PathBuf::from(&given.text).components().collect();
    let plain = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() || !path.components().all(plain) || path.parent().is_none() {
        return Err(given.reject("must be the absolute path of a directory, without '..'"));
    }
    Ok(path)
}

/// At most 192 bytes may follow in the annotation that kubelet makes of it.
fn node_id(given: &Setting) -> Result<String, ConfigError> {
    if given.text.len() > 192 || given.text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(given.reject("must be the name of this node, at most 192 bytes without blanks"));
    }
    Ok(given.text.clone())
}

/// A name that kubelet takes and that can be the name of a directory.
fn driver(given: &Setting) -> Result<String, ConfigError> {
    let text = &given.text;
    let ends = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(|c: char| c.is_ascii_alphabetic());
    let inner = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'));
    if !ends || !inner || text.len() > 63 {
        return Err(given.reject(
            "must be 1 to 63 lower case letters, digits, '-' and '.', beginning and ending with a letter",
        ));
    }
    Ok(text.clone())
}
