//! The configuration file as it is written: every value still text, every key known.
//!
//! Each key is the flag of the same name without its dashes; `exports`, `clusters` and the names of provisioners are lists.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};

use super::value::ConfigError;

/// The whole file.
#[allow(clippy::struct_field_names)] // `listenFile` is the key's name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct File {
    pub(super) provisioner_names: Option<Vec<String>>,
    pub(super) rbd_provisioner_names: Option<Vec<String>>,
    pub(super) cephfs_provisioner_names: Option<Vec<String>>,
    pub(super) exports: Option<Vec<ExportInFile>>,
    pub(super) clusters: Option<Vec<ClusterInFile>>,
    pub(super) cluster_id: Option<String>,
    pub(super) former_cluster_ids: Option<Texts>,
    pub(super) trash_retention: Option<String>,
    pub(super) secret_namespace: Option<String>,
    pub(super) rbd_program: Option<String>,
    pub(super) ceph_program: Option<String>,
    pub(super) rados_program: Option<String>,
    pub(super) ceph_connect_timeout: Option<String>,
    pub(super) ceph_operation_timeout: Option<String>,
    pub(super) ceph_command_timeout: Option<String>,
    pub(super) ceph_concurrency: Option<String>,
    pub(super) ceph_sessions: Option<String>,
    pub(super) kubeconfig: Option<String>,
    pub(super) leader_election: Option<String>,
    pub(super) lease_namespace: Option<String>,
    pub(super) lease_name: Option<String>,
    pub(super) lease_duration: Option<String>,
    pub(super) lease_renew_deadline: Option<String>,
    pub(super) lease_retry_period: Option<String>,
    pub(super) listen: Option<String>,
    pub(super) listen_file: Option<String>,
    pub(super) log_format: Option<String>,
    pub(super) log_level: Option<String>,
    pub(super) workers: Option<String>,
    pub(super) operation_timeout: Option<String>,
    pub(super) api_timeout: Option<String>,
    pub(super) retry_min: Option<String>,
    pub(super) retry_max: Option<String>,
    pub(super) sweep_interval: Option<String>,
    pub(super) sweep_grace: Option<String>,
    pub(super) shutdown_grace: Option<String>,
}

/// One of `exports`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct ExportInFile {
    pub(super) name: Option<String>,
    pub(super) server: Option<String>,
    pub(super) path: Option<String>,
    pub(super) root: Option<String>,
    pub(super) aliases: Option<Vec<String>>,
    pub(super) former_paths: Option<Vec<String>>,
    pub(super) require_mount: Option<String>,
    pub(super) operation_timeout: Option<String>,
    pub(super) threads: Option<String>,
}

/// One of `clusters`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub(super) struct ClusterInFile {
    pub(super) name: Option<String>,
    pub(super) monitors: Option<Texts>,
    pub(super) admin_id: Option<String>,
    pub(super) admin_secret_name: Option<String>,
    pub(super) admin_secret_namespace: Option<String>,
    pub(super) rbd_program: Option<String>,
    pub(super) ceph_program: Option<String>,
    pub(super) rados_program: Option<String>,
    pub(super) connect_timeout: Option<String>,
    pub(super) operation_timeout: Option<String>,
    pub(super) command_timeout: Option<String>,
    pub(super) concurrency: Option<String>,
    pub(super) sessions: Option<String>,
}

/// Several texts: a list, or one text as a class has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Texts(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Both;

        impl<'de> Visitor<'de> for Both {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of texts, or one text with commas")
            }

            fn visit_str<E>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Texts(texts))
            }
        }

        deserializer.deserialize_any(Both)
    }
}

/// Reads the file's text; `path` is for the message.
pub(super) fn read(path: &str, text: &str) -> Result<File, ConfigError> {
    if text.trim().is_empty() {
        return Ok(File::default());
    }
    serde_saphyr::from_str(text).map_err(|error| ConfigError(format!("{path}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_be_written_with_and_without_quotes() {
        let plain =
            "workers: 8\nleaderElection: true\nleaseDuration: 15s\nexports:\n- {name: a, threads: 4}\n";
        let quoted = "workers: '8'\nleaderElection: \"true\"\nleaseDuration: '15s'\nexports:\n- {name: 'a', threads: '4'}\n";
        let read = |text| read("berth.yaml", text).unwrap();
        assert_eq!(read(plain), read(quoted));
        assert_eq!(read(plain).workers.as_deref(), Some("8"));
        assert_eq!(read(plain).leader_election.as_deref(), Some("true"));
    }

    #[test]
    fn monitors_are_a_list_or_one_text() {
        let monitors = |text: &str| {
            let file = read("berth.yaml", &format!("clusters:\n- monitors: {text}\n"))?;
            Ok::<_, ConfigError>(file.clusters.unwrap_or_default().remove(0).monitors.unwrap_or_default().0)
        };
        assert_eq!(monitors("[a, 'b:6789']").unwrap(), ["a", "b:6789"]);
        assert_eq!(monitors("a,b:6789").unwrap(), ["a,b:6789"]);
        let wrong = monitors("{a: b}").unwrap_err().to_string();
        assert!(wrong.contains("a list of texts, or one text with commas"), "{wrong}");
    }

    #[test]
    fn a_file_of_comments_sets_nothing() {
        assert_eq!(read("berth.yaml", "# nothing\n").unwrap(), File::default());
        assert_eq!(read("berth.yaml", "").unwrap(), File::default());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place() {
        let wrong = read("berth.yaml", "workers: 8\nworker: 8\n").unwrap_err().to_string();
        assert!(wrong.starts_with("berth.yaml: "), "{wrong}");
        assert!(wrong.contains("worker"), "{wrong}");
        assert!(wrong.contains('2'), "the line is named: {wrong}");
        let wrong = read("berth.yaml", "exports:\n- name: a\n  pth: /a\n").unwrap_err().to_string();
        assert!(wrong.contains("pth"), "{wrong}");
        assert!(read("berth.yaml", "workers: [1]\n").is_err());
        assert!(read("berth.yaml", "workers: 1\nworkers: 2\n").is_err());
    }
}
