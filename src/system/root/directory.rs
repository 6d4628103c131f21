//! The directory that is held open, and what is asked of it: [`Root`].

use std::{
    ffi::{CStr, CString},
    fmt, io,
    io::Read,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    sys::stat::{FileStat, Mode, SFlag, fstat, stat},
};

#[cfg(test)]
use super::trace;

/// A step on the file system that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step} {}", path.display())]
pub struct Failure {
    /// What was tried: "make directory".
    pub step: &'static str,
    /// With what.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub cause: io::Error,
}

impl Failure {
    /// The error number, unless it was the gate that said no.
    pub fn errno(&self) -> Option<Errno> {
        self.cause.raw_os_error().map(Errno::from_raw)
    }
}

/// What lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Nothing.
    Missing,
    /// A directory.
    Directory,
    /// A file, a link, or anything else.
    Other,
}

/// Something that lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// A directory or anything else.
    pub entry: Entry,
    /// The file system that it is in.
    pub device: u64,
    /// Which of the objects of that file system it is.
    pub inode: u64,
}

impl Seen {
    pub(super) fn of(stat: &FileStat) -> Self {
        let entry = if is_directory(stat) { Entry::Directory } else { Entry::Other };
        Self { entry, device: stat.st_dev, inode: stat.st_ino }
    }
}

/// What was to be read is a device, a pipe, a socket or a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not a regular file")]
pub struct NotAFile;

/// A file's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// When it was written, by the clock of whoever keeps the file.
    pub modified: SystemTime,
}

/// A directory that is held open. Copies share the descriptor.
#[derive(Clone)]
pub struct Root {
    pub(super) fd: Arc<OwnedFd>,
    pub(super) path: PathBuf,
    /// Lets tests count what is asked of the file system.
    #[cfg(test)]
    pub(crate) trace: trace::Trace,
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Root").field(&self.path).finish()
    }
}

/// How often a lookup that raced with a rename is tried again.
const RACES: usize = 128;

/// How often a lookup must lead into another mount before it does: one whose target was moved away under it seems to, once.
const MOUNTS: usize = 8;

/// No file that is read whole is bigger.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

impl Root {
    /// Opens the directory at `path`, which may itself be reached through links.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let how = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let failure = |cause| Failure { step: "open", path: path.into(), cause };
        let fd = nix::fcntl::open(path, how, Mode::empty()).map_err(|errno| failure(errno.into()))?;
        match retried(|| openat2(&fd, ".", confined(how))) {
            Ok(_) => Ok(Self::held(fd, path.into())),
            Err(Errno::ENOSYS | Errno::EPERM) => Err(failure(io::Error::other(
                "the system call openat2 is missing or forbidden; Linux 5.6 or newer is needed, and a container \
                 runtime whose seccomp profile knows the call",
            ))),
            Err(errno) => Err(failure(errno.into())),
        }
    }

    pub(super) fn held(fd: OwnedFd, path: PathBuf) -> Self {
        Self {
            fd: Arc::new(fd),
            path,
            #[cfg(test)]
            trace: trace::Trace::default(),
        }
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the held directory is the top of a mount.
    pub fn is_mount_point(&self) -> Result<bool, Failure> {
        // The way up from the top of a mount leads into another one.
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_NO_XDEV);
        let top = match retried(|| openat2(&*self.fd, "..", how)) {
            Ok(above) => same(&stat_of(&above), &stat_of(&self.fd)),
            Err(Errno::EXDEV) => true,
            Err(errno) => return Err(self.failure("look above", "", errno)),
        };
        Ok(top)
    }

    /// How many of the segments lead to the top of another mount; `None` where the whole path, as far as it exists, lies in
    /// this one.
    pub fn mount_on_the_way<S: AsRef<str>>(&self, segments: &[S]) -> Result<Option<usize>, Failure> {
        let step = "look at";
        // A network file system mounts what it must once the directory is asked for as one.
        let how = confined(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC);
        for length in 1..=segments.len() {
            let prefix = segments.get(..length).unwrap_or_default();
            let path = self.relative(step, prefix)?;
            match retried(|| openat2(&*self.fd, path.as_str(), how)) {
                Ok(_) => {}
                Err(Errno::EXDEV) => return Ok(Some(length)),
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(None),
                Err(errno) => return Err(self.failed(step, prefix, errno)),
            }
        }
        Ok(None)
    }

    /// Opens the top of the mount that the segments lead to, through no link.
    pub fn enter_mount<S: AsRef<str>>(&self, segments: &[S]) -> Result<Self, Failure> {
        let step = "open";
        let path = self.relative(step, segments)?;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(
                ResolveFlag::RESOLVE_BENEATH
                    | ResolveFlag::RESOLVE_NO_SYMLINKS
                    | ResolveFlag::RESOLVE_NO_MAGICLINKS,
            );
        let fd = retried(|| openat2(&*self.fd, path.as_str(), how))
            .map_err(|errno| self.failed(step, segments, errno))?;
        Ok(Self::held(fd, self.shown(segments)))
    }

    /// Whether `path`, where it was opened, still leads to the held directory.
    pub fn is_current(&self) -> Result<bool, Failure> {
        self.note("look at", "");
        match (stat(&self.path), fstat(&*self.fd)) {
            (Ok(now), Ok(held)) => Ok(same(&Ok(now), &Ok(held))),
            (Err(Errno::ENOENT | Errno::ENOTDIR), _) => Ok(false),
            (Err(errno), _) | (Ok(_), Err(errno)) => Err(self.failure("look at", "", errno)),
        }
    }

    /// Tells what lies there, reached without links and mounts.
    pub fn entry<S: AsRef<str>>(&self, segments: &[S]) -> Result<Entry, Failure> {
        Ok(self.see(segments)?.map_or(Entry::Missing, |seen| seen.entry))
    }

    /// The same with what it is; `None` where there is nothing.
    pub fn see<S: AsRef<str>>(&self, segments: &[S]) -> Result<Option<Seen>, Failure> {
        let step = "look at";
        let path = self.relative(step, segments)?;
        // Together with O_PATH this yields a final link itself.
        let how = confined(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC);
        match retried(|| openat2(&*self.fd, path.as_str(), how)).and_then(fstat) {
            Ok(stat) => Ok(Some(Seen::of(&stat))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(self.failed(step, segments, errno)),
        }
    }

    /// The held directory itself.
    pub fn top(&self) -> Result<Seen, Failure> {
        self.note("look at", "");
        stat_of(&self.fd).map(|stat| Seen::of(&stat)).map_err(|errno| self.failure("look at", "", errno))
    }

    /// Opens the directory there, which must be reachable without links and mounts, and tells whether it is empty.
    pub fn is_empty<S: AsRef<str>>(&self, segments: &[S]) -> Result<bool, Failure> {
        let step = "read directory";
        let mut dir = self.directory(step, segments)?;
        for entry in dir.iter() {
            let entry = entry.map_err(|errno| self.failed(step, segments, errno))?;
            self.note_entry(entry.file_name());
            if !is_dots(entry.file_name()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The names in the directory there; names that are no UTF-8 are left out. A missing directory has none.
    pub fn names<S: AsRef<str>>(&self, segments: &[S]) -> Result<Vec<String>, Failure> {
        let step = "read directory";
        let mut dir = match self.directory(step, segments) {
            Ok(dir) => dir,
            Err(failure) if failure.errno() == Some(Errno::ENOENT) => return Ok(Vec::new()),
            Err(failure) => return Err(failure),
        };
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(|errno| self.failed(step, segments, errno))?;
            self.note_entry(entry.file_name());
            if let Ok(name) = entry.file_name().to_str()
                && !is_dots(entry.file_name())
            {
                names.push(name.into());
            }
        }
        Ok(names)
    }

    /// The names at the top, as [`names`](Self::names) gives those further down.
    pub fn names_at_top(&self) -> Result<Vec<String>, Failure> {
        let mut dir = self.top_directory("read directory")?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(|errno| self.failure("read directory", "", errno))?;
            self.note_entry(entry.file_name());
            if let Ok(name) = entry.file_name().to_str()
                && !is_dots(entry.file_name())
            {
                names.push(name.into());
            }
        }
        Ok(names)
    }

    /// The content of the file there; `None` where there is none. Nothing but a file of a reasonable size is read, and
    /// opening a pipe or a device does not wait.
    pub fn read<S: AsRef<str>>(&self, segments: &[S]) -> Result<Option<Content>, Failure> {
        let step = "read";
        let path = self.relative(step, segments)?;
        let fd = match retried(|| openat2(&*self.fd, path.as_str(), confined(FOR_READING))) {
            Ok(fd) => fd,
            Err(Errno::ENOENT | Errno::ENAMETOOLONG) => return Ok(None),
            Err(errno) => return Err(self.unread(segments, errno)),
        };
        content(fd).map(Some).map_err(|cause| Failure { step, path: self.shown(segments), cause })
    }

    pub(super) fn top_directory(&self, step: &'static str) -> Result<Dir, Failure> {
        self.note(step, "");
        let how = confined(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC);
        retried(|| openat2(&*self.fd, ".", how))
            .and_then(Dir::from_fd)
            .map_err(|errno| self.failure(step, "", errno))
    }

    pub(super) fn directory<S: AsRef<str>>(
        &self,
        step: &'static str,
        segments: &[S],
    ) -> Result<Dir, Failure> {
        let how = confined(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW);
        let path = self.relative(step, segments)?;
        retried(|| openat2(&*self.fd, path.as_str(), how))
            .and_then(Dir::from_fd)
            .map_err(|errno| self.failed(step, segments, errno))
    }

    /// Opens the directory that holds the last segment.
    pub(super) fn at<S: AsRef<str>>(&self, step: &'static str, segments: &[S]) -> Result<At, Failure> {
        self.relative(step, segments)?;
        let (last, above) = match segments.split_last() {
            Some((last, above)) => (last.as_ref(), above),
            None => return Err(self.failed(step, segments, Errno::EINVAL)),
        };
        let parent = if above.is_empty() {
            Arc::clone(&self.fd)
        } else {
            let path = joined(above);
            let how = confined(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC);
            retried(|| openat2(&*self.fd, path.as_str(), how))
                .map(Arc::new)
                .map_err(|errno| self.failed(step, segments, errno))?
        };
        let name = CString::new(last).map_err(|_| self.failed(step, segments, Errno::EINVAL))?;
        Ok(At { parent, name })
    }

    /// The segments as one path; an error where they are none, or one of them is not a plain name.
    pub(super) fn relative<S: AsRef<str>>(
        &self,
        step: &'static str,
        segments: &[S],
    ) -> Result<String, Failure> {
        let plain = |s: &str| !s.is_empty() && s != "." && s != ".." && !s.contains(['/', '\0']);
        if segments.is_empty() || !segments.iter().all(|s| plain(s.as_ref())) {
            return Err(self.failed(step, segments, Errno::EINVAL));
        }
        let path = joined(segments);
        self.note(step, &path);
        Ok(path)
    }

    /// Tells a test that counts of an operation.
    #[cfg(test)]
    pub(super) fn note(&self, step: &'static str, path: &str) {
        self.trace.note(step, path);
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests count what is asked beneath one root")]
    pub(super) const fn note(&self, _: &'static str, _: &str) {}

    /// The same of an entry that was read.
    #[cfg(test)]
    fn note_entry(&self, name: &CStr) {
        self.note("read entry", &name.to_string_lossy());
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "likewise")]
    const fn note_entry(&self, _: &CStr) {}

    pub(super) fn shown<S: AsRef<str>>(&self, segments: &[S]) -> PathBuf {
        self.path.join(joined(segments))
    }

    pub(super) fn failed<S: AsRef<str>>(&self, step: &'static str, segments: &[S], errno: Errno) -> Failure {
        Failure { step, path: self.shown(segments), cause: errno.into() }
    }

    /// Why a file could not be opened for reading.
    pub(super) fn unread<S: AsRef<str>>(&self, segments: &[S], errno: Errno) -> Failure {
        match errno {
            // A socket, or a device without a driver.
            Errno::ENXIO | Errno::ENODEV => Failure {
                step: "read",
                path: self.shown(segments),
                cause: io::Error::new(io::ErrorKind::InvalidInput, NotAFile),
            },
            _ => self.failed("read", segments, errno),
        }
    }

    pub(super) fn failure(&self, step: &'static str, below: &str, errno: Errno) -> Failure {
        Failure { step, path: self.path.join(below), cause: errno.into() }
    }
}

/// The last segment of a path, and the open directory that it lies in: the held one itself where nothing lies between.
pub(super) struct At {
    pub(super) parent: Arc<OwnedFd>,
    pub(super) name: CString,
}

/// How a file is opened that may be anything.
pub(super) const FOR_READING: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_CLOEXEC).union(OFlag::O_NOFOLLOW).union(OFlag::O_NONBLOCK);

/// What is in a file that was opened so.
pub(super) fn content(fd: OwnedFd) -> io::Result<Content> {
    let file = std::fs::File::from(fd);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, NotAFile));
    }
    // One byte more than there should be lets the same call see the end.
    let expected = metadata.len().min(MAX_FILE_BYTES) + 1;
    let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or_default());
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
        return Err(Errno::EFBIG.into());
    }
    Ok(Content { bytes, modified: metadata.modified()? })
}

/// Opens beneath a directory only, through no link and into no other mount.
pub(super) fn confined(flags: OFlag) -> OpenHow {
    OpenHow::new().flags(flags).resolve(
        ResolveFlag::RESOLVE_BENEATH
            | ResolveFlag::RESOLVE_NO_SYMLINKS
            | ResolveFlag::RESOLVE_NO_MAGICLINKS
            | ResolveFlag::RESOLVE_NO_XDEV,
    )
}

/// Repeats a lookup that raced with a rename somewhere in the file system, or was interrupted.
pub(super) fn retried<T>(mut lookup: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    let mut mounts = 0;
    for _ in 1..RACES {
        match lookup() {
            Err(Errno::EAGAIN | Errno::EINTR) => std::thread::yield_now(),
            // The kernel looks at the end of a lookup whether it is still beneath the directory that it began in.
            Err(Errno::EXDEV) if mounts < MOUNTS => {
                mounts += 1;
                std::thread::yield_now();
            }
            other => return other,
        }
    }
    lookup()
}

pub(super) fn joined<S: AsRef<str>>(segments: &[S]) -> String {
    segments.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("/")
}

pub(super) fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

pub(super) fn is_directory(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
}

fn stat_of(fd: &OwnedFd) -> nix::Result<FileStat> {
    fstat(fd)
}

fn same(a: &nix::Result<FileStat>, b: &nix::Result<FileStat>) -> bool {
    matches!((a, b), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}
