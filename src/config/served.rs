//! Which provisioner names are served, and what storage each of them stands for: [`served`].
//!
//! The names of the older provisioners and our own say it themselves; any other name is one of NFS, unless it was given as
//! one of RBD or `CephFS`, or the program was started under the name of such a provisioner.

use super::{settings, sources::Sources, value::ConfigError};

/// What storage a provisioner name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Storage {
    /// Directories on NFS exports.
    Nfs,
    /// RBD images.
    Rbd,
    /// Subvolumes of `CephFS`.
    Cephfs,
}

impl std::fmt::Display for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nfs => "NFS",
            Self::Rbd => "RBD",
            Self::Cephfs => "CephFS",
        })
    }
}

/// A provisioner name that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provisioner {
    /// As classes name it.
    pub name: String,
    /// What it stands for.
    pub storage: Storage,
}

/// The names that say by themselves what they stand for.
const KNOWN: [(&str, Storage); 6] = [
    ("nfs.berth.storage", Storage::Nfs),
    ("rbd.berth.storage", Storage::Rbd),
    ("ceph.com/rbd", Storage::Rbd),
    ("kubernetes.io/rbd", Storage::Rbd),
    ("cephfs.berth.storage", Storage::Cephfs),
    ("ceph.com/cephfs", Storage::Cephfs),
];

fn known(name: &str) -> Option<Storage> {
    KNOWN.into_iter().find(|(known, _)| *known == name).map(|(_, storage)| storage)
}

/// What a name stands for where nobody says otherwise.
#[cfg(test)]
pub(crate) fn storage_of(name: &str) -> Storage {
    known(name).unwrap_or(Storage::Nfs)
}

/// The names that are served, those of `any` first. `entry`: what the name stands for under which the program was started.
pub(super) fn served(
    sources: &Sources<'_>,
    entry: Option<Storage>,
    missing: &mut Vec<String>,
) -> Result<Vec<Provisioner>, ConfigError> {
    let any = sources.listed(&settings::PROVISIONER_NAME)?;
    let rbd = sources.listed(&settings::RBD_PROVISIONER_NAME)?;
    let cephfs = sources.listed(&settings::CEPHFS_PROVISIONER_NAME)?;
    let any = any.into_iter().map(|given| {
        let storage = known(&given.text).or(entry).unwrap_or(Storage::Nfs);
        (given, storage)
    });
    let rbd = rbd.into_iter().map(|given| (given, Storage::Rbd));
    let cephfs = cephfs.into_iter().map(|given| (given, Storage::Cephfs));

    let mut served: Vec<Provisioner> = Vec::new();
    for (given, storage) in any.chain(rbd).chain(cephfs) {
        let name = given.provisioner()?;
        if let Some(means) = known(&name).filter(|means| *means != storage) {
            return Err(given.reject(format_args!("means {means} and cannot be served by {storage}")));
        }
        match served.iter().find(|other| other.name == name) {
            None => served.push(Provisioner { name, storage }),
            Some(other) if other.storage == storage => return Err(given.reject("is given twice")),
            Some(other) => {
                return Err(given.reject(format_args!(
                    "is served by {} already: a name can stand for one kind of storage only",
                    other.storage
                )));
            }
        }
    }
    if served.is_empty() {
        let old = match entry {
            Some(Storage::Rbd) => Some(("ceph.com/rbd", Storage::Rbd)),
            Some(Storage::Cephfs) => Some(("ceph.com/cephfs", Storage::Cephfs)),
            Some(Storage::Nfs) | None => None,
        };
        if let Some((name, storage)) = old {
            served.push(Provisioner { name: name.to_owned(), storage });
        } else {
            let name = &settings::PROVISIONER_NAME;
            missing.push(format!("{}, {} or {} in the file of --config", name.flag, name.env, name.key));
        }
    }
    Ok(served)
}
