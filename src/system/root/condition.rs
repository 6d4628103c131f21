//! What a file system says of itself without a change to it: [`Condition`].
//!
//! It does not find out what only a write shows: a quota, or a server that fails.

use nix::{
    errno::Errno,
    fcntl::AtFlags,
    sys::statvfs::{FsFlags, fstatvfs},
    unistd::{AccessFlags, faccessat},
};

use super::directory::{Failure, Root};

/// The state of a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// It is mounted read-only.
    pub read_only: bool,
    /// Those of the directories asked about in which we may not make anything, as shown to an administrator, with the reason.
    pub refused: Option<(String, Errno)>,
    /// Bytes that are left for users, and of how many; `None` where it does not tell.
    pub bytes: Option<(u64, u64)>,
    /// Inodes that are left for users, and of how many; `None` where it does not tell, as btrfs.
    pub inodes: Option<(u64, u64)>,
}

impl Root {
    /// Asks the file system of the held directory for its state, and whether we may make something in it and in each of these
    /// directories directly below, as far as they are there.
    pub fn condition(&self, folders: &[&str]) -> Result<Condition, Failure> {
        let told = fstatvfs(&*self.fd).map_err(|errno| self.failure("ask for the state of", "", errno))?;
        let counted = |free: u64, all: u64| (all > 0).then_some((free, all));
        let size = told.fragment_size();
        let bytes = counted(told.blocks_available(), told.blocks())
            .map(|(free, all)| (free.saturating_mul(size), all.saturating_mul(size)));
        let mut refused = None;
        for folder in std::iter::once(&".").chain(folders) {
            let flags = AtFlags::AT_EACCESS | AtFlags::AT_SYMLINK_NOFOLLOW;
            match faccessat(&*self.fd, *folder, AccessFlags::W_OK | AccessFlags::X_OK, flags) {
                // A read-only mount is told above.
                Ok(()) | Err(Errno::ENOENT | Errno::EROFS) => {}
                Err(errno @ (Errno::EACCES | Errno::EPERM)) => {
                    let below = if *folder == "." { "" } else { folder };
                    refused.get_or_insert((self.path.join(below).display().to_string(), errno));
                }
                Err(errno) => return Err(self.failure("ask for the rights to", folder, errno)),
            }
        }
        Ok(Condition {
            read_only: told.flags().contains(FsFlags::ST_RDONLY),
            refused,
            bytes,
            inodes: counted(told.files_available(), told.files()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    use super::*;

    /// A file system of its own, as long as this lives; `None` where this process may not mount.
    struct Mounted(tempfile::TempDir);

    impl Mounted {
        fn new(test: &str, options: &str) -> Option<Self> {
            let place = tempfile::tempdir().unwrap();
            match mount(Some("none"), place.path(), Some("tmpfs"), MsFlags::empty(), Some(options)) {
                Ok(()) => Some(Self(place)),
                Err(errno) => {
                    println!("skipped: {test}: this process may not mount: {errno}");
                    None
                }
            }
        }

        fn path(&self) -> &Path {
            self.0.path()
        }
    }

    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
        }
    }

    #[test]
    fn a_directory_that_can_be_used_says_so() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("there")).unwrap();
        let condition = Root::open(place.path()).unwrap().condition(&["there", "not-there"]).unwrap();
        assert!(!condition.read_only && condition.refused.is_none(), "{condition:?}");
        assert!(condition.bytes.is_some_and(|(free, all)| free > 0 && free <= all), "{condition:?}");
        assert!(fs::read_dir(place.path().join("there")).unwrap().next().is_none(), "nothing was written");
    }

    #[test]
    fn a_full_file_system_and_one_without_inodes_say_so() {
        let test = "a_full_file_system_and_one_without_inodes_say_so";
        let Some(full) = Mounted::new(test, "size=64k") else { return };
        let root = Root::open(full.path()).unwrap();
        assert!(root.condition(&[]).unwrap().bytes.is_some_and(|(free, _)| free > 0));
        fs::write(full.path().join("much"), vec![0; 1 << 20]).unwrap_err();
        assert_eq!(root.condition(&[]).unwrap().bytes.map(|(free, _)| free), Some(0));

        let Some(crowded) = Mounted::new(test, "nr_inodes=4") else { return };
        let root = Root::open(crowded.path()).unwrap();
        while fs::create_dir(crowded.path().join(rand::random::<u64>().to_string())).is_ok() {}
        assert_eq!(root.condition(&[]).unwrap().inodes, Some((0, 4)));
    }

    #[test]
    fn a_read_only_mount_says_so() {
        let Some(mounted) = Mounted::new("a_read_only_mount_says_so", "size=64k") else { return };
        let root = Root::open(mounted.path()).unwrap();
        assert!(!root.condition(&[]).unwrap().read_only);
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(None::<&str>, mounted.path(), None::<&str>, flags, None::<&str>).unwrap();
        let condition = root.condition(&[]).unwrap();
        assert!(condition.read_only && condition.refused.is_none(), "{condition:?}");
    }
}
