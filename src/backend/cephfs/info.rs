//! What Ceph tells of a subvolume: where it is ([`Subvolume`]), its metadata ([`Found`]), and how it is ([`Info`]). Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::Deserialize;

use crate::backend::quoted;

/// A subvolume: file system, group, name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Subvolume {
    pub(super) fs: String,
    pub(super) group: String,
    pub(super) name: String,
}

impl Subvolume {
    /// How [`shown`](Self::shown) begins.
    pub(super) const KIND: &str = "subvolume ";

    /// As messages name it.
    pub(super) fn shown(&self) -> String {
        format!("subvolume {} of group {} in file system {}", self.name, self.group, self.fs)
    }

    /// What its path begins with, however the version of Ceph names what lies below.
    pub(super) fn directory(&self) -> String {
        format!("/volumes/{}/{}/", self.group, self.name)
    }

    /// File system, group and name for a command that an administrator pastes.
    pub(super) fn quoted(&self) -> [String; 3] {
        [&self.fs, &self.group, &self.name].map(|name| quoted(name))
    }

    /// That it has those snapshots, which keep it from being removed, and how to remove them.
    pub(super) fn removable_after(&self, snapshots: &str) -> String {
        let [fs, group, name] = self.quoted();
        format!(
            "{} has {snapshots}, so it is not removed; remove them (ceph fs subvolume snapshot ls {fs} {name} --group_name \
             {group}; ceph fs subvolume snapshot rm …), and it will be",
            self.shown()
        )
    }
}

/// What asking for the metadata of a subvolume told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// It exists, with these.
    Subvolume(BTreeMap<String, String>),
    /// It was removed, but its snapshots were retained: there is no data, and the name is taken.
    OnlySnapshots,
    /// The group exists, but no such subvolume.
    NoSubvolume,
    /// The file system exists, but no such group.
    NoGroup,
}

/// What Ceph tells of a subvolume.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Info {
    #[serde(default)]
    pub(super) path: String,
    /// Bytes, or the word `infinite`.
    #[serde(default)]
    bytes_quota: serde_json::Value,
    #[serde(default)]
    pub(super) bytes_used: u64,
    #[serde(default)]
    pub(super) created_at: String,
    #[serde(default)]
    pub(super) mtime: String,
    #[serde(default)]
    pub(super) data_pool: String,
    #[serde(default)]
    pool_namespace: Option<String>,
    #[serde(default)]
    pub(super) state: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    features: Vec<String>,
}

impl Info {
    /// The quota; `None` for none.
    pub(super) fn quota(&self) -> Option<u64> {
        self.bytes_quota.as_u64().filter(|quota| *quota > 0)
    }

    /// Whether its data lies in a RADOS namespace of its own, without which its user would reach the data of the whole pool.
    pub(super) fn has_own_namespace(&self) -> bool {
        self.pool_namespace.as_ref().is_some_and(|namespace| !namespace.is_empty())
    }

    /// Whether it is one that the volumes module made, rather than a plain directory that it found under that name: of such a one
    /// snapshots cannot be retained. Where the data lies below it differs between the versions of the module.
    pub(super) fn made_by_module(&self) -> bool {
        let made = self.features.iter().any(|feature| feature == "snapshot-retention");
        made && self.state == "complete" && ["subvolume", "clone"].contains(&self.kind.as_str())
    }

    /// Whether it was made at least `age` before `now`; `false` where Ceph's words for that cannot be read.
    pub(super) fn made_before(&self, now: SystemTime, age: Duration) -> bool {
        let made = jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S", &self.created_at);
        let made = made.and_then(|made| made.to_zoned(jiff::tz::TimeZone::UTC));
        made.is_ok_and(|made| {
            now.duration_since(SystemTime::from(made.timestamp())).is_ok_and(|since| since >= age)
        })
    }

    /// Whether it was never written to, as far as can be known.
    ///
    /// The used bytes lag behind: they stay 0 for as long as a client keeps what it wrote to itself. The time of the last
    /// change of the directory does not: a new name in it is made by the metadata server, which notes it at once.
    pub(super) fn is_unused(&self) -> bool {
        self.bytes_used == 0 && !self.created_at.is_empty() && self.created_at == self.mtime
    }
}

/// What a new subvolume shall be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct New<'a> {
    pub(super) quota: u64,
    pub(super) mode: &'a str,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) pool: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_subvolume_is_read_from_the_words_of_ceph_and_unknown_in_others() {
        let info = |created: &str| {
            serde_json::from_value::<Info>(serde_json::json!({"created_at": created})).unwrap()
        };
        let made: jiff::Timestamp = "2026-11-26T23:11:40Z".parse().unwrap();
        let (day, made) = (Duration::from_hours(24), SystemTime::from(made));
        for (created, after, expected) in [
            ("2026-11-26 23:11:40", day, true),
            ("2026-11-26 23:11:40", day / 2, false),
            ("2026-11-26T23:11:40Z", day, false),
            ("", day, false),
        ] {
            assert_eq!(info(created).made_before(made + after, day), expected, "{created} {after:?}");
        }
    }

    #[test]
    fn a_plain_directory_is_not_one_that_the_module_made() {
        let made = |features: &[&str], state: &str, kind: &str| {
            let info = serde_json::json!({"features": features, "state": state, "type": kind});
            serde_json::from_value::<Info>(info).unwrap().made_by_module()
        };
        let retains = ["snapshot-clone", "snapshot-autoprotect", "snapshot-retention"];
        assert!(made(&retains, "complete", "subvolume") && made(&retains, "complete", "clone"));
        assert!(!made(&retains[..2], "complete", "subvolume"));
        assert!(!made(&retains, "init", "subvolume") && !made(&retains, "complete", ""));
    }
}
