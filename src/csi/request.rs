//! What is asked, checked: the messages of [`wire`](super::wire) made into values in which everything required is there. Pure.

use std::{collections::BTreeMap, path::PathBuf};

use tonic::Status;

use super::wire::v1::{
    NodeExpandVolumeRequest, NodeGetVolumeStatsRequest, NodePublishVolumeRequest, NodeStageVolumeRequest,
    NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest, VolumeCapability,
    volume_capability::{AccessType, access_mode::Mode as WireMode},
};
use crate::{
    backend::NodeVolume,
    volume::{Mode, Secrets},
};

/// Strings of the specification have at most so many bytes; paths may be longer.
const LONGEST: usize = 128;
/// And all mount options together.
const LONGEST_OPTIONS: usize = 4096;

/// Who may use a volume on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// One place alone.
    One,
    /// As many places as wanted.
    Many,
}

/// A capability, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Capability {
    pub(super) mode: Mode,
    pub(super) fs_type: String,
    pub(super) mount_options: Vec<String>,
    pub(super) access: WireMode,
}

impl Capability {
    pub(super) fn sharing(&self) -> Sharing {
        match self.access {
            WireMode::Unknown
            | WireMode::SingleNodeWriter
            | WireMode::SingleNodeReaderOnly
            | WireMode::SingleNodeSingleWriter => Sharing::One,
            WireMode::MultiNodeReaderOnly
            | WireMode::MultiNodeSingleWriter
            | WireMode::MultiNodeMultiWriter
            | WireMode::SingleNodeMultiWriter => Sharing::Many,
        }
    }

    /// Whether nothing may be written at all.
    pub(super) fn read_only(&self) -> bool {
        matches!(self.access, WireMode::SingleNodeReaderOnly | WireMode::MultiNodeReaderOnly)
    }

    pub(super) fn volume(&self, id: &str, context: &BTreeMap<String, String>) -> NodeVolume {
        NodeVolume {
            id: id.to_owned(),
            context: context.clone(),
            mode: self.mode,
            fs_type: self.fs_type.clone(),
            mount_options: self.mount_options.clone(),
            read_only: self.read_only(),
        }
    }
}

#[derive(Debug)]
pub(super) struct Stage {
    pub(super) volume: String,
    pub(super) staging: PathBuf,
    pub(super) capability: Capability,
    pub(super) secrets: Secrets,
    pub(super) context: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(super) struct Unstage {
    pub(super) volume: String,
    pub(super) staging: PathBuf,
}

#[derive(Debug)]
pub(super) struct Publish {
    pub(super) volume: String,
    pub(super) staging: PathBuf,
    pub(super) target: PathBuf,
    pub(super) capability: Capability,
    pub(super) read_only: bool,
    pub(super) secrets: Secrets,
    pub(super) context: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(super) struct Unpublish {
    pub(super) volume: String,
    pub(super) target: PathBuf,
}

/// A path at which a volume is: of statistics, of an expansion.
#[derive(Debug)]
pub(super) struct At {
    pub(super) volume: String,
    pub(super) path: PathBuf,
}

impl TryFrom<NodeStageVolumeRequest> for Stage {
    type Error = Status;

    fn try_from(request: NodeStageVolumeRequest) -> Result<Self, Status> {
        Ok(Self {
            volume: id(request.volume_id)?,
            staging: path("staging_target_path", &request.staging_target_path)?,
            capability: capability(request.volume_capability)?,
            secrets: secrets(request.secrets),
            context: request.volume_context,
        })
    }
}

impl TryFrom<NodeUnstageVolumeRequest> for Unstage {
    type Error = Status;

    fn try_from(request: NodeUnstageVolumeRequest) -> Result<Self, Status> {
        Ok(Self {
            volume: id(request.volume_id)?,
            staging: path("staging_target_path", &request.staging_target_path)?,
        })
    }
}

impl TryFrom<NodePublishVolumeRequest> for Publish {
    type Error = Status;

    fn try_from(request: NodePublishVolumeRequest) -> Result<Self, Status> {
        let volume = id(request.volume_id)?;
        let target = path("target_path", &request.target_path)?;
        let capability = capability(request.volume_capability)?;
        if request.staging_target_path.is_empty() {
            return Err(Status::failed_precondition(
                "staging_target_path is missing: this driver stages volumes before it publishes them",
            ));
        }
        Ok(Self {
            volume,
            staging: path("staging_target_path", &request.staging_target_path)?,
            target,
            read_only: request.readonly || capability.read_only(),
            capability,
            secrets: secrets(request.secrets),
            context: request.volume_context,
        })
    }
}

impl TryFrom<NodeUnpublishVolumeRequest> for Unpublish {
    type Error = Status;

    fn try_from(request: NodeUnpublishVolumeRequest) -> Result<Self, Status> {
        Ok(Self { volume: id(request.volume_id)?, target: path("target_path", &request.target_path)? })
    }
}

impl TryFrom<NodeGetVolumeStatsRequest> for At {
    type Error = Status;

    fn try_from(request: NodeGetVolumeStatsRequest) -> Result<Self, Status> {
        at(request.volume_id, &request.volume_path)
    }
}

impl TryFrom<NodeExpandVolumeRequest> for At {
    type Error = Status;

    fn try_from(request: NodeExpandVolumeRequest) -> Result<Self, Status> {
        at(request.volume_id, &request.volume_path)
    }
}

/// A relative path is not a wrong one here: nothing is there.
fn at(volume: String, given: &str) -> Result<At, Status> {
    let volume = id(volume)?;
    if given.is_empty() {
        return Err(missing("volume_path"));
    }
    Ok(At { volume, path: PathBuf::from(given) })
}

fn missing(field: &str) -> Status {
    Status::invalid_argument(format!("{field} is missing"))
}

fn id(id: String) -> Result<String, Status> {
    if id.is_empty() {
        return Err(missing("volume_id"));
    }
    if id.len() > LONGEST {
        return Err(Status::invalid_argument(format!("volume_id is longer than {LONGEST} bytes")));
    }
    Ok(id)
}

fn path(field: &str, given: &str) -> Result<PathBuf, Status> {
    if given.is_empty() {
        return Err(missing(field));
    }
    let path = PathBuf::from(given);
    if !path.is_absolute() || given.contains('\0') {
        return Err(Status::invalid_argument(format!("{field} {given:?} must be an absolute path")));
    }
    Ok(path)
}

fn secrets(given: BTreeMap<String, String>) -> Secrets {
    given.into_iter().map(|(key, value)| (key, value.into_bytes())).collect()
}

fn capability(given: Option<VolumeCapability>) -> Result<Capability, Status> {
    let given = given.ok_or_else(|| missing("volume_capability"))?;
    let number = given.access_mode.ok_or_else(|| missing("volume_capability.access_mode"))?.mode;
    let access = match WireMode::try_from(number) {
        Ok(WireMode::Unknown) => return Err(missing("volume_capability.access_mode")),
        Ok(access) => access,
        Err(_) => {
            let told = format!("volume_capability.access_mode {number} is unknown to CSI 1.13");
            return Err(Status::invalid_argument(told));
        }
    };
    match given.access_type.ok_or_else(|| missing("volume_capability.access_type"))? {
        AccessType::Block(_) => {
            Ok(Capability { mode: Mode::Block, fs_type: String::new(), mount_options: Vec::new(), access })
        }
        AccessType::Mount(mount) => {
            if mount.mount_flags.iter().map(String::len).sum::<usize>() > LONGEST_OPTIONS {
                let told =
                    format!("volume_capability.mount.mount_flags have more than {LONGEST_OPTIONS} bytes");
                return Err(Status::invalid_argument(told));
            }
            if !mount.volume_mount_group.is_empty() {
                return Err(Status::invalid_argument(
                    "volume_capability.mount.volume_mount_group is set, and this driver does not have VOLUME_MOUNT_GROUP",
                ));
            }
            Ok(Capability {
                mode: Mode::Filesystem,
                fs_type: mount.fs_type,
                mount_options: mount.mount_flags,
                access,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::csi::wire::v1::volume_capability::{AccessMode, BlockVolume, MountVolume};

    fn mount() -> VolumeCapability {
        VolumeCapability {
            access_type: Some(AccessType::Mount(MountVolume::default())),
            access_mode: Some(AccessMode { mode: WireMode::MultiNodeMultiWriter.into() }),
        }
    }

    fn stage() -> NodeStageVolumeRequest {
        NodeStageVolumeRequest {
            volume_id: "v".into(),
            staging_target_path: "/s".into(),
            volume_capability: Some(mount()),
            ..NodeStageVolumeRequest::default()
        }
    }

    fn publish() -> NodePublishVolumeRequest {
        NodePublishVolumeRequest {
            volume_id: "v".into(),
            staging_target_path: "/s".into(),
            target_path: "/t".into(),
            volume_capability: Some(mount()),
            ..NodePublishVolumeRequest::default()
        }
    }

    fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, field: &str) {
        let status = result.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(field), "{status}");
    }

    #[test]
    fn what_is_missing_is_named() {
        use Code::{FailedPrecondition, InvalidArgument as Invalid};
        Stage::try_from(stage()).unwrap();
        Publish::try_from(publish()).unwrap();
        let stage_without = |change: fn(&mut NodeStageVolumeRequest)| {
            let mut request = stage();
            change(&mut request);
            Stage::try_from(request)
        };
        refused(stage_without(|r| r.volume_id.clear()), Invalid, "volume_id");
        refused(stage_without(|r| r.staging_target_path.clear()), Invalid, "staging_target_path");
        refused(stage_without(|r| r.volume_capability = None), Invalid, "volume_capability");
        refused(stage_without(|r| r.staging_target_path = "s".into()), Invalid, "absolute");
        refused(stage_without(|r| r.volume_id = "v".repeat(129)), Invalid, "128");
        let publish_without = |change: fn(&mut NodePublishVolumeRequest)| {
            let mut request = publish();
            change(&mut request);
            Publish::try_from(request)
        };
        refused(publish_without(|r| r.volume_id.clear()), Invalid, "volume_id");
        refused(publish_without(|r| r.target_path.clear()), Invalid, "target_path");
        refused(publish_without(|r| r.volume_capability = None), Invalid, "volume_capability");
        refused(
            publish_without(|r| r.staging_target_path.clear()),
            FailedPrecondition,
            "staging_target_path",
        );
        let unstage = NodeUnstageVolumeRequest::default();
        refused(Unstage::try_from(unstage.clone()), Invalid, "volume_id");
        let unstage = NodeUnstageVolumeRequest { volume_id: "v".into(), ..unstage };
        refused(Unstage::try_from(unstage), Invalid, "staging_target_path");
        let unpublish = NodeUnpublishVolumeRequest::default();
        refused(Unpublish::try_from(unpublish.clone()), Invalid, "volume_id");
        let unpublish = NodeUnpublishVolumeRequest { volume_id: "v".into(), ..unpublish };
        refused(Unpublish::try_from(unpublish), Invalid, "target_path");
        let stats = NodeGetVolumeStatsRequest { volume_path: "some/path".into(), ..Default::default() };
        refused(At::try_from(stats), Invalid, "volume_id");
        let stats = NodeGetVolumeStatsRequest { volume_id: "v".into(), ..Default::default() };
        refused(At::try_from(stats), Invalid, "volume_path");
        refused(At::try_from(NodeExpandVolumeRequest::default()), Invalid, "volume_id");
        let expand = NodeExpandVolumeRequest { volume_id: "v".into(), ..Default::default() };
        refused(At::try_from(expand), Invalid, "volume_path");
    }

    #[test]
    fn a_capability_says_who_may_use_the_volume_and_how() {
        use WireMode as W;
        let rows = [
            (W::SingleNodeWriter, Sharing::One, false),
            (W::SingleNodeReaderOnly, Sharing::One, true),
            (W::MultiNodeReaderOnly, Sharing::Many, true),
            (W::MultiNodeSingleWriter, Sharing::Many, false),
            (W::MultiNodeMultiWriter, Sharing::Many, false),
            (W::SingleNodeSingleWriter, Sharing::One, false),
            (W::SingleNodeMultiWriter, Sharing::Many, false),
        ];
        for (mode, sharing, read_only) in rows {
            let mut given = mount();
            given.access_mode = Some(AccessMode { mode: mode.into() });
            let checked = capability(Some(given)).unwrap();
            assert_eq!((checked.sharing(), checked.read_only()), (sharing, read_only), "{mode:?}");
        }
        let with = |access_type, mode| {
            capability(Some(VolumeCapability { access_type, access_mode: Some(AccessMode { mode }) }))
        };
        let block = || Some(AccessType::Block(BlockVolume {}));
        assert_eq!(with(block(), 1).unwrap().mode, Mode::Block);
        refused(with(None, 1), Code::InvalidArgument, "access_type");
        refused(with(block(), 0), Code::InvalidArgument, "access_mode");
        refused(with(block(), 99), Code::InvalidArgument, "99");
        let grouped = MountVolume { volume_mount_group: "1".into(), ..MountVolume::default() };
        refused(with(Some(AccessType::Mount(grouped)), 1), Code::InvalidArgument, "VOLUME_MOUNT_GROUP");
        let long = MountVolume { mount_flags: vec!["x".repeat(4097)], ..MountVolume::default() };
        refused(with(Some(AccessType::Mount(long)), 1), Code::InvalidArgument, "4096");
    }

    #[test]
    fn a_checked_request_shows_no_secret_and_reads_only_where_it_may() {
        let mut request = publish();
        request.secrets = BTreeMap::from([("userKey".into(), "hunter2".into())]);
        request.readonly = true;
        let checked = Publish::try_from(request).unwrap();
        assert!(checked.read_only);
        let shown = format!("{checked:?}");
        assert!(shown.contains("userKey") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_path_may_be_as_long_as_the_system_takes_it() {
        let long = format!("/{}", "d/".repeat(400));
        let checked = Stage::try_from(NodeStageVolumeRequest { staging_target_path: long, ..stage() });
        checked.unwrap();
    }
}
