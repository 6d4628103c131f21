//! What a node must know of a staged volume after a restart: [`StageRecord`], a file beside the staging directory. It holds no
//! secret; of mount options, which may be ones, it holds a number.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    csi::request::{Capability, Sharing},
    system::mount::Mounted,
    volume::Mode,
};

/// The end of the file's name, which begins with the name of the staging directory.
pub(super) const SUFFIX: &str = ".berth.json";

/// A staged volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StageRecord {
    pub(super) driver: String,
    pub(super) volume: String,
    pub(super) staging: PathBuf,
    /// The same as the table of mounts has it.
    pub(super) point: PathBuf,
    /// Where the volume lies, for messages.
    pub(super) server: String,
    /// How it was asked for.
    pub(super) arguments: Arguments,
    /// For the connector.
    #[serde(default)]
    pub(super) handle: BTreeMap<String, String>,
    /// What was mounted; absent until it was.
    pub(super) mounted: Option<Mounted>,
    #[serde(default)]
    pub(super) publications: Vec<Publication>,
}

/// A place of a pod at which the volume is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Publication {
    pub(super) target: PathBuf,
    pub(super) point: PathBuf,
    pub(super) read_only: bool,
    pub(super) arguments: Arguments,
    pub(super) mounted: Mounted,
}

/// How a volume was asked for: enough to see whether a second call asks for the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Arguments {
    /// The number of the access mode.
    access: i32,
    block: bool,
    fs_type: String,
    /// Of the mount options.
    options: String,
    /// Whether one place alone may have it.
    alone: bool,
}

impl Arguments {
    pub(super) fn of(capability: &Capability) -> Self {
        let mut options = capability.mount_options.clone();
        options.sort();
        Self {
            access: capability.access.into(),
            block: capability.mode == Mode::Block,
            fs_type: capability.fs_type.clone(),
            options: format!("{:016x}", number(options.join("\n").as_bytes())),
            alone: capability.sharing() == Sharing::One,
        }
    }

    pub(super) fn alone(&self) -> bool {
        self.alone
    }
}

/// FNV-1a, which is the same in every release.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::wire::v1::volume_capability::access_mode::Mode as Access;

    /// Mount options may hold a password.
    #[test]
    fn a_record_is_read_as_it_was_written_and_shows_no_mount_option() {
        let capability = Capability {
            mode: Mode::Filesystem,
            fs_type: "nfs".into(),
            mount_options: vec!["hard".into(), "password=hunter2".into()],
            access: Access::SingleNodeWriter,
        };
        let mounted = Mounted {
            device: "0:44".into(),
            root: "/".into(),
            fs_type: "nfs4".into(),
            source: "nas:/a".into(),
        };
        let record = StageRecord {
            driver: "nfs.berth.storage".into(),
            volume: "v".into(),
            staging: "/k/globalmount".into(),
            point: "/k/globalmount".into(),
            server: "nas:/a".into(),
            arguments: Arguments::of(&capability),
            handle: BTreeMap::new(),
            mounted: Some(mounted.clone()),
            publications: vec![Publication {
                target: "/k/mount".into(),
                point: "/k/mount".into(),
                read_only: true,
                arguments: Arguments::of(&capability),
                mounted,
            }],
        };
        let text = serde_json::to_string(&record).unwrap();
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(serde_json::from_str::<StageRecord>(&text).unwrap(), record);
        let swapped = Capability {
            mount_options: vec!["password=hunter2".into(), "hard".into()],
            ..capability.clone()
        };
        assert_eq!(Arguments::of(&swapped), Arguments::of(&capability));
        let other = Capability { mount_options: vec![], ..capability };
        assert_ne!(Arguments::of(&other), Arguments::of(&swapped));
        assert!(Arguments::of(&other).alone());
    }
}
