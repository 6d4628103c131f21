//! How volumes name this cluster on storage that several clusters share: `--cluster-id` and `--former-cluster-ids`.
//!
//! What they override, the UID of `kube-system`, is asked of the API server elsewhere.

use super::{
    settings,
    sources::Sources,
    value::{ConfigError, Setting},
};
use crate::volume::dns;

/// Reads the cluster's id, `None` where the UID of `kube-system` is to be used, and the ids that it had before.
pub(super) fn ids(sources: &Sources<'_>) -> Result<(Option<String>, Vec<String>), ConfigError> {
    let own = sources.find(&settings::CLUSTER_ID)?.map(|given| id(&given)).transpose()?;
    let mut former: Vec<String> = Vec::new();
    for given in sources.listed(&settings::FORMER_CLUSTER_IDS)?.iter().flat_map(split) {
        let id = id(&given)?;
        if own.as_ref() == Some(&id) {
            return Err(given.reject(format_args!(
                "is the id of {}: name only ids that this cluster no longer has",
                settings::CLUSTER_ID.flag
            )));
        }
        if former.contains(&id) {
            return Err(given.reject("is given twice"));
        }
        former.push(id);
    }
    Ok((own, former))
}

/// The parts between the commas.
fn split(given: &Setting) -> Vec<Setting> {
    given.text.split(',').map(|part| Setting::new(part.trim(), given.origin.clone())).collect()
}

/// An id that fits into a mark on every kind of storage: a DNS label, as the UID of `kube-system` is one.
fn id(given: &Setting) -> Result<String, ConfigError> {
    if dns::is_label(&given.text) {
        return Ok(given.text.clone());
    }
    Err(given.reject(
        "must be 1 to 63 lower case letters, digits and '-', beginning and ending with a letter or digit, such as the \
         UID of the namespace kube-system",
    ))
}
