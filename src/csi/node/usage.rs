//! How full a volume is: [`Usage`].

use crate::csi::wire::v1::{VolumeUsage, volume_usage::Unit};
use crate::system::mount::FilesystemUsage;

/// Bytes and inodes, as a file system tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usage {
    bytes: [i64; 3],
    inodes: [i64; 3],
}

/// What is available to users is less than what is free where some is reserved.
pub(super) fn of(told: &FilesystemUsage) -> Usage {
    let count = |blocks: u64| i64::try_from(blocks.saturating_mul(told.block)).unwrap_or(i64::MAX);
    let plain = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    Usage {
        bytes: [count(told.available), count(told.blocks), count(told.blocks.saturating_sub(told.free))],
        inodes: [
            plain(told.free_inodes),
            plain(told.inodes),
            plain(told.inodes.saturating_sub(told.free_inodes)),
        ],
    }
}

impl Usage {
    /// As kubelet is told.
    pub(super) fn message(self) -> Vec<VolumeUsage> {
        let one = |[available, total, used]: [i64; 3], unit: Unit| VolumeUsage {
            available,
            total,
            used,
            unit: unit.into(),
        };
        vec![one(self.bytes, Unit::Bytes), one(self.inodes, Unit::Inodes)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_blocks_are_neither_used_nor_available() {
        let told =
            FilesystemUsage { block: 4096, blocks: 100, free: 40, available: 35, inodes: 10, free_inodes: 7 };
        let [bytes, inodes] = of(&told).message().try_into().unwrap();
        assert_eq!((bytes.total, bytes.used, bytes.available), (409_600, 245_760, 143_360));
        assert_eq!((inodes.total, inodes.used, inodes.available), (10, 3, 7));
        let most = FilesystemUsage { block: 4096, blocks: u64::MAX, ..told };
        assert_eq!(of(&most).message().first().unwrap().total, i64::MAX);
    }
}
