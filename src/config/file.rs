//! The configuration file as it is written: every value still text, every key known.
//!
//! Each key is the flag of the same name without its dashes; `exports`, `clusters` and the names of provisioners are lists.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::LazyLock,
};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};

use super::{
    settings::{self, Kind},
    value::ConfigError,
};

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct File {
    pub(super) exports: Vec<ExportInFile>,
    pub(super) clusters: Vec<ClusterInFile>,
    /// The settings that are one text, by key.
    pub(super) texts: BTreeMap<&'static str, String>,
    /// Those that are lists.
    pub(super) lists: BTreeMap<&'static str, Vec<String>>,
}

const EXPORTS: &str = "exports";
const CLUSTERS: &str = "clusters";

/// Every key of the file.
static KEYS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let of_settings =
        settings::every().map(|name| name.key).filter(|key| !key.is_empty() && !key.contains('['));
    [EXPORTS, CLUSTERS].into_iter().chain(of_settings).collect()
});

impl<'de> Deserialize<'de> for File {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = File;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("settings by key")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<File, A::Error> {
                let mut file = File::default();
                let mut seen = BTreeSet::new();
                while let Some(written) = map.next_key::<String>()? {
                    let Some(key) = KEYS.iter().copied().find(|key| *key == written) else {
                        return Err(A::Error::unknown_field(&written, &KEYS));
                    };
                    if !seen.insert(key) {
                        return Err(A::Error::duplicate_field(key));
                    }
                    match settings::every().find(|name| name.key == key).map(|name| name.kind) {
                        None if key == EXPORTS => {
                            file.exports = map.next_value::<Option<_>>()?.unwrap_or_default();
                        }
                        None => file.clusters = map.next_value::<Option<_>>()?.unwrap_or_default(),
                        Some(Kind::One | Kind::Switch) => {
                            file.texts.extend(map.next_value::<Option<_>>()?.map(|text| (key, text)));
                        }
                        Some(Kind::Repeated) => {
                            file.lists.extend(map.next_value::<Option<_>>()?.map(|list| (key, list)));
                        }
                        Some(Kind::List) => {
                            file.lists.extend(map.next_value::<Option<_>>()?.map(|Texts(list)| (key, list)));
                        }
                    }
                }
                Ok(file)
            }
        }

        deserializer.deserialize_map(Keys)
    }
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
        let texts = read(plain).texts;
        assert_eq!(texts.get("workers").map(String::as_str), Some("8"));
        assert_eq!(texts.get("leaderElection").map(String::as_str), Some("true"));
    }

    #[test]
    fn monitors_are_a_list_or_one_text() {
        let monitors = |text: &str| {
            let mut file = read("berth.yaml", &format!("clusters:\n- monitors: {text}\n"))?;
            Ok::<_, ConfigError>(file.clusters.remove(0).monitors.unwrap_or_default().0)
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
