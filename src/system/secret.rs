//! A secret that a child may read as a file, though it lies on no file system: [`SecretFile`].
//!
//! It is memory with a descriptor (memfd). Nothing has its name: it is reached as `/proc/<our process>/fd/<number>`, which the
//! kernel opens for exactly those who may read this process's memory anyway, and it is gone when the descriptor is closed,
//! also after a crash. The descriptor is not inherited by any child. `docs/decisions/0012-keys-in-memory-files.md` says why.

use std::{
    fmt, fs,
    io::{self, Write},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        resource::{Resource, setrlimit},
    },
    unistd::{Uid, getpid},
};

/// A secret in memory, to be named to a child by its path.
pub struct SecretFile {
    file: fs::File,
}

impl SecretFile {
    /// Puts `content` where a child of this process can read it, and nobody can change it.
    ///
    /// From the first one on, neither this process nor a child that it starts later leaves a core dump.
    pub fn new(content: &[u8]) -> io::Result<Self> {
        forbid_core_dumps()?;
        let mut file = fs::File::from(memfd_create(
            c"berth-secret",
            MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
        )?);
        file.write_all(content)?;
        let seals =
            SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        let secret = Self { file };
        // A process that changed its user after it was started is closed to its own user.
        let reachable = Uid::effective().is_root()
            || fs::symlink_metadata(secret.path())?.uid() == Uid::effective().as_raw();
        if reachable {
            Ok(secret)
        } else {
            Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "children cannot read the descriptors of this process: it changed its user after it was started, or its \
                 program file is not readable to its user; start it as that user, and make the program file readable",
            ))
        }
    }

    /// Where a child finds it, for as long as this value lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", getpid(), self.file.as_raw_fd())
    }
}

impl fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SecretFile").field(&self.path()).finish()
    }
}

/// Keeps this process, and every child started from now on, from writing a core dump with a key in it.
///
/// The limit is one byte, not none: the kernel does not look at the limit where dumps are piped to a program, save for
/// this one value, which means "no dump" to it in both cases.
pub fn forbid_core_dumps() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 1, 1).or_else(|error| {
        // Without a right to raise it, a hard limit of zero is as good as it gets.
        setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|_| error)
    })?;
    Ok(())
}
