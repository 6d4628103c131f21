//! One path beneath the directory of kubelet, reached through its parent: [`Place`].

use std::{
    ffi::{CString, OsStr, OsString},
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::FileTypeExt},
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, renameat},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{
        stat::{FchmodatFlags, Mode, fchmodat, mkdirat},
        statvfs::statvfs,
    },
    unistd::{UnlinkatFlags, fsync, unlinkat},
};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::{
    error::MountError,
    filesystem::{self, Filesystem},
};

/// A directory beneath which everything lies that is mounted on, removed or recorded.
#[derive(Debug)]
pub struct Tree {
    path: PathBuf,
    fd: OwnedFd,
}

/// A path in a [`Tree`] whose parent exists.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    parent: OwnedFd,
    name: OsString,
    point: PathBuf,
}

/// A directory or file that is ready to be mounted on.
#[derive(Debug)]
pub struct Prepared {
    fd: OwnedFd,
    /// Whether it was made for this.
    pub made: bool,
}

/// How full a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilesystemUsage {
    /// Bytes of a block.
    pub block: u64,
    /// All blocks.
    pub blocks: u64,
    /// Free ones, also those that are reserved.
    pub free: u64,
    /// Those that anybody may have.
    pub available: u64,
    /// All inodes.
    pub inodes: u64,
    /// Free ones.
    pub free_inodes: u64,
}

const BENEATH: ResolveFlag = ResolveFlag::RESOLVE_BENEATH
    .union(ResolveFlag::RESOLVE_NO_SYMLINKS)
    .union(ResolveFlag::RESOLVE_NO_MAGICLINKS);

const HANDLE: OFlag = OFlag::O_PATH.union(OFlag::O_CLOEXEC);

fn proc_path(fd: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn directory_beneath(fd: &impl AsFd, below: &Path) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new().flags(HANDLE | OFlag::O_DIRECTORY).resolve(BENEATH);
    let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
    loop {
        match openat2(fd, below, how) {
            // A rename elsewhere on the machine.
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            done => return done,
        }
    }
}

impl Tree {
    /// The tree of this directory. What leads to it may be a link; what lies beneath may not.
    pub fn open(path: &Path) -> Result<Self, MountError> {
        let fd = open(path, HANDLE | OFlag::O_DIRECTORY, Mode::empty())
            .map_err(MountError::io("open the directory", path))?;
        Ok(Self { path: path.to_owned(), fd })
    }

    /// Its path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A place strictly beneath. `None` where its parent does not exist, so that nothing is there either.
    pub fn place(&self, path: &Path) -> Result<Option<Place>, MountError> {
        let outside = || {
            let why = format!("does not lie beneath {}, the directory of kubelet", self.path.display());
            MountError::refused(path, why)
        };
        let below = path.strip_prefix(&self.path).map_err(|_| outside())?;
        if below.components().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(MountError::refused(path, "is no plain path: it has '..' in it"));
        }
        let name = below.file_name().ok_or_else(outside)?.to_owned();
        let above = below.parent().unwrap_or(Path::new(""));
        let parent = match directory_beneath(&self.fd, above) {
            Ok(parent) => parent,
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ELOOP) => return Err(MountError::refused(path, "is reached through a symbolic link")),
            Err(Errno::ENOTDIR) => {
                return Err(MountError::refused(path, "lies in something that is no directory"));
            }
            Err(errno) => return Err(MountError::io("open the parent of", path)(errno)),
        };
        let real = fs::read_link(proc_path(&parent)).map_err(MountError::io("find the path of", path))?;
        Ok(Some(Place { path: path.to_owned(), point: real.join(&name), parent, name }))
    }

    /// The files whose names end in `suffix`, in the directory `below` and `depth` levels beneath it, with the paths that they
    /// have as a [`Place`] without the suffix. Links are not followed, and a directory beneath that cannot be read is passed over.
    pub fn beside(&self, below: &Path, suffix: &str, depth: usize) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut levels = vec![(self.path.join(below), depth)];
        while let Some((directory, depth)) = levels.pop() {
            let entries = match fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if directory == self.path.join(below) => return Err(error),
                Err(error) => {
                    tracing::warn!(directory = %directory.display(), %error, "cannot be searched for records");
                    continue;
                }
            };
            for entry in entries {
                let entry = entry?;
                // The kind of an entry is read from its directory: what is mounted there is not asked.
                let kind = entry.file_type()?;
                let name = entry.file_name();
                let stem = name.as_bytes().strip_suffix(suffix.as_bytes());
                if let Some(stem) = stem.filter(|stem| kind.is_file() && !stem.is_empty()) {
                    found.push(directory.join(OsStr::from_bytes(stem)));
                } else if kind.is_dir() && depth > 0 {
                    levels.push((entry.path(), depth - 1));
                }
            }
        }
        found.sort();
        Ok(found)
    }
}

impl Place {
    /// Its path as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its path as the table of mounts has it.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// The same for a call that takes a path and follows no link at its end.
    fn by_parent(&self) -> PathBuf {
        proc_path(&self.parent).join(&self.name)
    }

    /// Makes the directory, or takes the empty one that is there, with the mode 0000.
    pub fn prepare_directory(&self) -> Result<Prepared, MountError> {
        let made = match mkdirat(&self.parent, self.name.as_os_str(), Mode::empty()) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(errno) => return Err(MountError::io("make the directory", &self.path)(errno)),
        };
        let flags = HANDLE | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let fd = match openat(&self.parent, self.name.as_os_str(), flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                return Err(MountError::refused(&self.path, "is no directory"));
            }
            Err(errno) => return Err(MountError::io("open", &self.path)(errno)),
        };
        if !made {
            let mut entries =
                fs::read_dir(proc_path(&fd)).map_err(MountError::io("look into", &self.path))?;
            if entries.next().is_some() {
                return Err(MountError::refused(
                    &self.path,
                    "is not empty: what is in it would be hidden by a mount",
                ));
            }
            // Whoever writes before the mount, or after it is lost, gets an error instead of the disk of the machine.
            fchmodat(nix::fcntl::AT_FDCWD, &proc_path(&fd), Mode::empty(), FchmodatFlags::FollowSymlink)
                .map_err(MountError::io("change the mode of", &self.path))?;
        }
        Ok(Prepared { fd, made })
    }

    /// Makes the empty file, or takes the one that is there, for a device.
    pub fn prepare_file(&self) -> Result<Prepared, MountError> {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let made = match openat(&self.parent, self.name.as_os_str(), flags, Mode::empty()) {
            Ok(_) => true,
            Err(Errno::EEXIST) => false,
            Err(errno) => return Err(MountError::io("make the file", &self.path)(errno)),
        };
        let fd = openat(&self.parent, self.name.as_os_str(), HANDLE | OFlag::O_NOFOLLOW, Mode::empty())
            .map_err(MountError::io("open", &self.path))?;
        let kind = fs::metadata(proc_path(&fd)).map_err(MountError::io("look at", &self.path))?;
        if !kind.is_file() || kind.len() > 0 {
            return Err(MountError::refused(&self.path, "is no empty file"));
        }
        Ok(Prepared { fd, made })
    }

    /// Mounts a file system that the kernel mounts or that is a directory. Not for [`Filesystem::Program`], which is run by
    /// whoever can wait for it.
    pub fn mount(&self, on: &Prepared, what: &Filesystem) -> Result<(), MountError> {
        match what {
            Filesystem::Kernel { fs_type, source, options } => {
                let (flags, text) = filesystem::for_kernel(options);
                let text = CString::new(text)
                    .map_err(|_| MountError::refused(&self.path, "has a mount option with a zero byte"))?;
                mount(
                    Some(source.as_str()),
                    &proc_path(&on.fd),
                    Some(fs_type.as_str()),
                    flags,
                    Some(text.as_c_str()),
                )
                .map_err(MountError::io("mount on", &self.path))
            }
            Filesystem::Bind { root, below } => {
                let root = open(root, HANDLE | OFlag::O_DIRECTORY, Mode::empty())
                    .map_err(MountError::io("open the directory", root))?;
                let from =
                    directory_beneath(&root, below).map_err(MountError::io("open the directory", below))?;
                self.graft(on, &from)
            }
            Filesystem::Program { .. } => {
                Err(MountError::refused(&self.path, "must be mounted by a program"))
            }
        }
    }

    /// Binds what is mounted at `from`, which must be a mount point; only for reading where `read_only`. `options` are those
    /// of the mount there, which a read-only mount keeps.
    pub fn bind(
        &self,
        on: &Prepared,
        from: &Self,
        read_only: bool,
        options: &[String],
    ) -> Result<(), MountError> {
        let flags = HANDLE | OFlag::O_NOFOLLOW;
        let from = openat(&from.parent, from.name.as_os_str(), flags, Mode::empty())
            .map_err(MountError::io("open", &from.path))?;
        self.graft(on, &from)?;
        if read_only {
            self.make_read_only(options)?;
        }
        Ok(())
    }

    /// Makes the mount here read-only and leaves its file system as it is.
    pub fn make_read_only(&self, options: &[String]) -> Result<(), MountError> {
        let flags =
            filesystem::flags_of(options) | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(None::<&str>, &self.by_parent(), None::<&str>, flags, None::<&str>)
            .map_err(MountError::io("make read-only", &self.path))
    }

    /// A copy of the mount behind `from` on the prepared place. Both are held open: no path is looked up in between.
    fn graft(&self, on: &Prepared, from: &OwnedFd) -> Result<(), MountError> {
        let clone =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let copy = open_tree(from, "", clone).map_err(MountError::io("copy the mount for", &self.path))?;
        let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&copy, "", &on.fd, "", both).map_err(MountError::io("mount on", &self.path))
    }

    /// Unmounts the topmost mount here. `lazy`: takes it out of the tree though it is in use or its server is gone.
    pub fn unmount(&self, lazy: bool) -> Result<(), MountError> {
        let flags = if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
        match umount2(&self.by_parent(), flags | MntFlags::UMOUNT_NOFOLLOW) {
            // No mount point any more.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
            Err(errno) => Err(MountError::io("unmount", &self.path)(errno)),
        }
    }

    /// Removes the empty directory or the empty file. What is not there is removed already.
    pub fn remove(&self) -> Result<(), MountError> {
        match unlinkat(&self.parent, self.name.as_os_str(), UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(Errno::ENOTDIR) => {
                let there =
                    fs::symlink_metadata(self.by_parent()).map_err(MountError::io("look at", &self.path))?;
                let ours = there.is_file() && there.len() == 0 || there.file_type().is_block_device();
                if !ours {
                    return Err(MountError::refused(
                        &self.path,
                        "is not what was made here: it is left alone",
                    ));
                }
                unlinkat(&self.parent, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir)
                    .map_err(MountError::io("remove", &self.path))
            }
            Err(Errno::ENOTEMPTY) => {
                Err(MountError::refused(&self.path, "has something in it, which is left alone"))
            }
            Err(errno) => Err(MountError::io("remove", &self.path)(errno)),
        }
    }

    /// How full the file system here is. Asks it, and may hang.
    pub fn usage(&self) -> Result<FilesystemUsage, MountError> {
        let told = statvfs(&self.by_parent()).map_err(MountError::io("ask for the usage of", &self.path))?;
        Ok(FilesystemUsage {
            block: told.fragment_size(),
            blocks: told.blocks(),
            free: told.blocks_free(),
            available: told.blocks_available(),
            inodes: told.files(),
            free_inodes: told.files_free(),
        })
    }

    /// Whether there is anything of this name.
    pub fn sibling_exists(&self, name: &str) -> bool {
        nix::sys::stat::fstatat(&self.parent, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
    }

    fn beside(&self, suffix: &str) -> OsString {
        let mut name = self.name.clone();
        name.push(suffix);
        name
    }

    /// Writes the file beside this place: the old content is there, or all of the new one, also after a crash.
    pub fn write_beside(&self, suffix: &str, bytes: &[u8]) -> Result<(), MountError> {
        let failed = |cause: io::Error| MountError::io("write the record beside", &self.path)(cause);
        let (name, new) = (self.beside(suffix), self.beside(&format!("{suffix}.new")));
        let flags = OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(&self.parent, new.as_os_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|errno| failed(errno.into()))?;
        let mut file = File::from(fd);
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        renameat(&self.parent, new.as_os_str(), &self.parent, name.as_os_str())
            .map_err(|e| failed(e.into()))?;
        self.sync_parent().map_err(failed)
    }

    /// The file beside this place; `None` where there is none.
    pub fn read_beside(&self, suffix: &str) -> Result<Option<Vec<u8>>, MountError> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = match openat(&self.parent, self.beside(suffix).as_os_str(), flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(MountError::io("read the record beside", &self.path)(errno)),
        };
        let mut bytes = Vec::new();
        File::from(fd)
            .read_to_end(&mut bytes)
            .map_err(MountError::io("read the record beside", &self.path))?;
        Ok(Some(bytes))
    }

    /// Removes the file beside this place.
    pub fn remove_beside(&self, suffix: &str) -> Result<(), MountError> {
        for name in [self.beside(&format!("{suffix}.new")), self.beside(suffix)] {
            match unlinkat(&self.parent, name.as_os_str(), UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(MountError::io("remove the record beside", &self.path)(errno)),
            }
        }
        Ok(())
    }

    fn sync_parent(&self) -> io::Result<()> {
        // A handle cannot be synced.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(fsync(openat(&self.parent, ".", flags, Mode::empty())?)?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    fn tree() -> (tempfile::TempDir, Tree) {
        let directory = tempfile::tempdir().unwrap();
        let tree = Tree::open(directory.path()).unwrap();
        (directory, tree)
    }

    #[test]
    fn only_plain_paths_beneath_the_directory_are_places() {
        let (directory, tree) = tree();
        let at = directory.path();
        fs::create_dir_all(at.join("pods/x")).unwrap();
        symlink("/etc", at.join("pods/link")).unwrap();
        symlink("x", at.join("pods/inner")).unwrap();
        fs::write(at.join("pods/file"), "").unwrap();
        assert_eq!(tree.place(&at.join("pods/x/mount")).unwrap().unwrap().path(), at.join("pods/x/mount"));
        assert!(tree.place(&at.join("pods/y/mount")).unwrap().is_none());
        for (path, why) in [
            ("/etc/passwd".into(), "does not lie beneath"),
            (at.to_owned(), "does not lie beneath"),
            (PathBuf::from(format!("{}x/y", at.display())), "does not lie beneath"),
            (at.join("../y"), "no plain path"),
            (at.join("pods/../../y"), "no plain path"),
            (at.join("pods/link/passwd"), "through a symbolic link"),
            (at.join("pods/inner/mount"), "through a symbolic link"),
            (at.join("pods/file/mount"), "no directory"),
        ] {
            let wrong = tree.place(&path).unwrap_err().to_string();
            assert!(wrong.contains(why), "{path:?}: {wrong}");
        }
    }

    #[test]
    fn what_is_mounted_on_is_empty_and_closed_to_all() {
        let (directory, tree) = tree();
        let place = tree.place(&directory.path().join("mount")).unwrap().unwrap();
        assert!(place.prepare_directory().unwrap().made);
        fs::remove_dir(place.path()).unwrap();
        fs::create_dir(place.path()).unwrap();
        assert!(!place.prepare_directory().unwrap().made);
        assert_eq!(fs::metadata(place.path()).unwrap().mode() & 0o7777, 0);
        place.remove().unwrap();
        place.remove().unwrap();
        fs::create_dir_all(place.path().join("data")).unwrap();
        assert!(place.prepare_directory().unwrap_err().to_string().contains("not empty"));
        assert!(place.remove().unwrap_err().to_string().contains("left alone"));
        fs::remove_dir_all(place.path()).unwrap();
        symlink("/etc", place.path()).unwrap();
        assert!(place.prepare_directory().unwrap_err().to_string().contains("no directory"));
        assert!(place.remove().unwrap_err().to_string().contains("left alone"));
        fs::remove_file(place.path()).unwrap();
        assert!(place.prepare_file().unwrap().made);
        assert!(!place.prepare_file().unwrap().made);
        place.remove().unwrap();
        fs::write(place.path(), "data").unwrap();
        assert!(place.prepare_file().unwrap_err().to_string().contains("no empty file"));
        assert!(place.remove().unwrap_err().to_string().contains("left alone"));
    }

    #[test]
    fn records_lie_beside_and_are_found_again() {
        let (directory, tree) = tree();
        let stage = directory.path().join("plugins/sha/globalmount");
        fs::create_dir_all(stage.parent().unwrap()).unwrap();
        let place = tree.place(&stage).unwrap().unwrap();
        assert_eq!(place.read_beside(".json").unwrap(), None);
        place.write_beside(".json", b"one").unwrap();
        place.write_beside(".json", b"two").unwrap();
        assert_eq!(place.read_beside(".json").unwrap().unwrap(), b"two");
        let record = directory.path().join("plugins/sha/globalmount.json");
        assert_eq!(fs::metadata(&record).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(tree.beside(Path::new("plugins"), ".json", 1).unwrap(), [stage]);
        assert!(tree.beside(Path::new("plugins"), ".json", 0).unwrap().is_empty());
        assert!(tree.beside(Path::new("absent"), ".json", 3).unwrap().is_empty());
        assert!(place.sibling_exists("globalmount.json") && !place.sibling_exists("vol_data.json"));
        place.remove_beside(".json").unwrap();
        place.remove_beside(".json").unwrap();
        assert_eq!(fs::read_dir(record.parent().unwrap()).unwrap().count(), 0);
    }
}
