//! What lies in a cluster, as an administrator lists it: images, the trash, subvolumes, users.
//!
//! [`Images::of`] looks into a pool, [`Subvolume::of`] at one subvolume.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::{Cluster, FILE_SYSTEM};

/// What `rbd` shows of a pool or of a RADOS namespace `pool/namespace`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    /// The images' names.
    pub live: BTreeSet<String>,
    /// The names that the images in the trash had.
    pub trash: Vec<String>,
}

/// One line of `rbd trash ls --long`.
#[derive(Clone, Debug, Deserialize)]
pub struct Trashed {
    /// What `rbd trash restore` wants.
    pub id: String,
    /// The name that it had.
    pub name: String,
    /// `expired at …` or `protected until …`.
    pub status: String,
}

impl Images {
    /// Looks.
    pub async fn of(cluster: &Cluster, pool: &str) -> Result<Self> {
        let live: Option<BTreeSet<String>> = cluster.rbd_json(&["ls", pool]).await?;
        let mut trash: Vec<String> =
            trash(cluster, pool).await?.into_iter().map(|entry| entry.name).collect();
        trash.sort();
        Ok(Self { live: live.unwrap_or_default(), trash })
    }
}

/// The trash of a pool.
pub async fn trash(cluster: &Cluster, pool: &str) -> Result<Vec<Trashed>> {
    let entries: Option<Vec<Trashed>> = cluster.rbd_json(&["trash", "ls", "--all", "--long", pool]).await?;
    Ok(entries.unwrap_or_default())
}

/// One image, as `rbd info` and `rbd image-meta list` show it.
#[derive(Clone, Debug, Deserialize)]
pub struct Image {
    /// Bytes.
    pub size: u64,
    /// By their names.
    pub features: BTreeSet<String>,
    /// 2.
    pub format: u8,
    /// Where its data lies, if not in its own pool.
    #[serde(default)]
    pub data_pool: Option<String>,
    /// The image's metadata.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

impl Image {
    /// Looks at `pool/image`.
    pub async fn of(cluster: &Cluster, spec: &str) -> Result<Self> {
        let mut image: Self = cluster.rbd_json(&["info", spec]).await?;
        let metadata: Option<BTreeMap<String, String>> =
            cluster.rbd_json(&["image-meta", "list", spec]).await?;
        image.metadata = metadata.unwrap_or_default();
        Ok(image)
    }
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// One subvolume, as `ceph fs subvolume info` and `metadata ls` show it.
#[derive(Clone, Debug, Deserialize)]
pub struct Subvolume {
    /// Where its data lies.
    pub path: String,
    /// Bytes, or `"infinite"`.
    pub bytes_quota: Value,
    /// `complete`, `snapshot-retained` …
    pub state: String,
    /// The subvolume's metadata.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

impl Subvolume {
    /// Looks.
    pub async fn of(cluster: &Cluster, group: &str, name: &str) -> Result<Self> {
        let base = ["fs", "subvolume"];
        let which = [FILE_SYSTEM, name, "--group_name", group];
        let mut subvolume: Self = cluster.ceph_json(&[&base[..], &["info"], &which].concat()).await?;
        let metadata: Option<BTreeMap<String, String>> =
            cluster.ceph_json(&[&base[..], &["metadata", "ls"], &which].concat()).await?;
        subvolume.metadata = metadata.unwrap_or_default();
        Ok(subvolume)
    }
}

/// A CephX user and what it may do, by daemon.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct User {
    /// With `client.`.
    pub entity: String,
    /// By daemon.
    pub caps: BTreeMap<String, String>,
}

impl User {
    /// The path that the user is confined to, if it is to one.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        let (_, path) = self.caps.get("mds")?.split_once("path=")?;
        Some(path.split([',', ' ']).next().unwrap_or(path).trim_matches('"'))
    }
}

/// What a CephFS and its users look like.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// The names of the subvolumes of one group; nothing if there is no such group.
    pub subvolumes: BTreeSet<String>,
    /// All the users of the cluster.
    pub users: Vec<User>,
}

impl Files {
    /// Looks, into that subvolume group.
    pub async fn of(cluster: &Cluster, group: &str) -> Result<Self> {
        let questions = [
            "auth ls".to_owned(),
            format!("fs subvolumegroup ls {FILE_SYSTEM}"),
            format!("fs subvolume ls {FILE_SYSTEM} --group_name {group}"),
        ];
        let answers = cluster.ask(&questions.each_ref().map(String::as_str)).await?;
        let users =
            answers.first().and_then(|all| all.get("auth_dump")).context("`auth ls` shows no auth_dump")?;
        let users = serde_json::from_value(users.clone()).context("read `auth ls`")?;
        let named = |at: usize| -> Result<BTreeSet<String>> {
            let all = answers.get(at).with_context(|| format!("no answer to {:?}", questions.get(at)))?;
            let all: Vec<Named> = serde_json::from_value(all.clone()).context("read a list of names")?;
            Ok(all.into_iter().map(|one| one.name).collect())
        };
        let subvolumes = if named(1)?.contains(group) { named(2)? } else { BTreeSet::new() };
        Ok(Self { subvolumes, users })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_of_a_volume_is_known_by_its_path() {
        let user = |mds: &str| User {
            entity: "client.a".into(),
            caps: BTreeMap::from([("mds".to_owned(), mds.to_owned())]),
        };
        assert_eq!(user("allow rw path=/volumes/g/a/u").path(), Some("/volumes/g/a/u"));
        assert_eq!(user("allow r,allow rw path=/volumes/g/a, allow r").path(), Some("/volumes/g/a"));
        assert_eq!(user("allow *").path(), None);
    }
}
