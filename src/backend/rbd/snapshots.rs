//! What was made of an image: its [`Snapshots`], by who made them, and its clones. Methods of [`PoolClient`].

use std::fmt::Write as _;

use serde::Deserialize;

use super::{error::OpError, work::PoolClient};
use crate::backend::ceph::Call;

/// A snapshot, as `rbd snap ls --all` describes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Snapshot {
    name: String,
    #[serde(default)]
    namespace: Option<SnapshotNamespace>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct SnapshotNamespace {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    group: String,
    #[serde(default, rename = "group snap")]
    group_snapshot: String,
}

/// The snapshots of an image, by who made them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Snapshots {
    /// Those that were made on purpose, in words.
    pub(super) wanted: Vec<String>,
    /// There are some of mirroring, which come and go by themselves.
    pub(super) mirrored: bool,
}

impl Snapshots {
    fn of(all: Vec<Snapshot>) -> Self {
        let mut snapshots = Self::default();
        for Snapshot { name, namespace } in all {
            match namespace {
                Some(namespace) if namespace.kind == "mirror" => snapshots.mirrored = true,
                Some(SnapshotNamespace { kind, group, group_snapshot }) if kind == "group" => {
                    snapshots.wanted.push(format!("{group_snapshot} of group {group}"));
                }
                // Deleted already, but for the clones of it.
                Some(namespace) if namespace.kind == "trash" => {
                    snapshots.wanted.push(format!("{name} (deleted, and kept for its clones)"));
                }
                Some(_) | None => snapshots.wanted.push(name),
            }
        }
        snapshots
    }
}

#[derive(Deserialize)]
struct Child {
    pool: String,
    #[serde(default)]
    pool_namespace: String,
    image: String,
}

impl PoolClient {
    /// The image's snapshots.
    pub(super) async fn snapshots(&self, image: &str) -> Result<Snapshots, OpError> {
        let list = ["snap", "ls", "--all", "--format", "json", &self.pool_namespace.spec(image)];
        let call = Call::reads(self.what("list the snapshots of", image), list);
        Ok(Snapshots::of(self.ceph.rbd(call).await?.require_json()?))
    }

    /// The clones made of the image, in words; empty where there are none.
    pub(super) async fn clones(&self, image: &str) -> Result<String, OpError> {
        let children = ["children", "--all", "--format", "json", &self.pool_namespace.spec(image)];
        let call = Call::reads(self.what("list the clones of", image), children);
        let children: Vec<Child> = self.ceph.rbd(call).await?.require_json()?;
        let names: Vec<String> = children
            .iter()
            .map(|Child { pool, pool_namespace, image }| match pool_namespace.as_str() {
                "" => format!("{pool}/{image}"),
                namespace => format!("{pool}/{namespace}/{image}"),
            })
            .collect();
        Ok(listed(&names))
    }
}

/// Names with commas, the first few of many.
pub(super) fn listed(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    let mut text = shown;
    if names.len() > SHOWN {
        let _ = write!(text, " and {} more", names.len() - SHOWN);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ceph::fake::Answer;

    /// Snapshots of mirroring made a volume undeletable, and were not named.
    #[test]
    fn snapshots_are_distinguished_by_who_made_them() {
        let read = |name: &str| {
            let Answer::Text(0, text, _) = Answer::recorded(name) else { panic!("{name}") };
            Snapshots::of(serde_json::from_str(text.trim()).unwrap())
        };
        assert_eq!(read("rbd-snap-ls-mirror"), Snapshots { wanted: Vec::new(), mirrored: true });
        assert_eq!(
            read("rbd-snap-ls-group"),
            Snapshots { wanted: vec!["first of group grp".into()], mirrored: false }
        );
        assert!(!read("rbd-snap-ls").wanted.is_empty());
    }

    #[test]
    fn of_many_names_a_few_are_reported() {
        let names: Vec<String> = (1..=7).map(|i| format!("s{i}")).collect();
        assert_eq!(listed(&names), "s1, s2, s3, s4, s5 and 2 more");
        assert_eq!(listed(&names[..2]), "s1, s2");
    }
}
