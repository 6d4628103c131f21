//! The steps that decide between several processes, also on several machines: one call that either has its whole effect
//! or tells that another was first.
//!
//! A client of NFS remembers for a while what was missing and what was there. What changes something is decided by the
//! server; what only looks is decided by the client, unless the directory was opened just before ([`Root::see_fresh`]).

use std::{
    io::{self, Write},
    os::fd::OwnedFd,
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat2, renameat},
    sys::stat::{Mode, fstat},
    unistd::{fsync, linkat},
};

use super::{
    changes::{Changes, Made},
    directory::{Content, FOR_READING, Failure, Root, Seen, confined, content, joined, retried},
};

/// What became of a name that was to be made at a place where nothing may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placed {
    /// It is there, and it is the one that was asked for.
    New,
    /// Something was there: a file, a link, or a directory that is not empty.
    Taken,
    /// The source, or a directory on the way to it or to the target, is missing or went.
    Gone,
    /// Something on the way is not a directory; or a directory was to be put where a file is.
    NotADirectory,
    /// The file system cannot do this.
    Unsupported,
}

impl Placed {
    fn from(errno: Errno) -> Option<Self> {
        match errno {
            Errno::EEXIST | Errno::ENOTEMPTY => Some(Self::Taken),
            // A directory that another client removed is stale, not missing.
            Errno::ENOENT | Errno::ESTALE => Some(Self::Gone),
            Errno::ENOTDIR => Some(Self::NotADirectory),
            _ => None,
        }
    }
}

impl Root {
    /// What lies there now, whatever the client of a network file system remembers; `None` where there is nothing.
    pub fn see_fresh<S: AsRef<str>>(&self, segments: &[S]) -> Result<Option<Seen>, Failure> {
        let step = "look at";
        let how = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match self.open_fresh(step, segments, how)? {
            Some(fd) => fstat(&fd)
                .map(|stat| Some(Seen::of(&stat)))
                .map_err(|errno| self.failed(step, segments, errno)),
            None => Ok(None),
        }
    }

    /// The content of the file there, likewise.
    pub fn read_fresh<S: AsRef<str>>(&self, segments: &[S]) -> Result<Option<Content>, Failure> {
        let step = "read";
        let fd = match self.open_fresh(step, segments, FOR_READING) {
            Ok(Some(fd)) => fd,
            Ok(None) => return Ok(None),
            Err(failure) => {
                return Err(failure.errno().map_or(failure, |errno| self.unread(segments, errno)));
            }
        };
        content(fd).map(Some).map_err(|cause| Failure { step, path: self.shown(segments), cause })
    }

    /// Opens the last segment below its directory, which is opened for it: that makes the client ask the server.
    fn open_fresh<S: AsRef<str>>(
        &self,
        step: &'static str,
        segments: &[S],
        flags: OFlag,
    ) -> Result<Option<OwnedFd>, Failure> {
        self.relative(step, segments)?;
        let Some((last, above)) = segments.split_last() else {
            return Err(self.failed(step, segments, Errno::EINVAL));
        };
        let path = if above.is_empty() { ".".into() } else { joined(above) };
        let directory = confined(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC);
        let opened = retried(|| openat2(&*self.fd, path.as_str(), directory))
            .and_then(|directory| retried(|| openat2(&directory, last.as_ref(), confined(flags))));
        match opened {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::ENOENT | Errno::ENAMETOOLONG) => Ok(None),
            Err(errno) => Err(self.failed(step, segments, errno)),
        }
    }
}

impl Changes<'_> {
    /// Gives the file at `from` a second name at `to`, where nothing may be.
    pub fn link<A: AsRef<str>, B: AsRef<str>>(&self, from: &[A], to: &[B]) -> Result<Placed, Failure> {
        let step = "link";
        let both = self.root.at(step, from).and_then(|source| Ok((source, self.root.at(step, to)?)));
        let (source, target) = match both {
            Ok(both) => both,
            Err(failure) => return failure.errno().and_then(Placed::from).ok_or(failure),
        };
        self.pass_to(step, from, to)?;
        let linked = linkat(
            &source.parent,
            source.name.as_c_str(),
            &target.parent,
            target.name.as_c_str(),
            AtFlags::empty(),
        );
        match linked {
            Ok(()) => Ok(Placed::New),
            Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EMLINK) => Ok(Placed::Unsupported),
            Err(errno) => Placed::from(errno).ok_or_else(|| self.root.failed(step, to, errno)),
        }
    }

    /// Moves the directory at `from` to `to`, where nothing may be, or an empty directory.
    pub fn place_directory<A: AsRef<str>, B: AsRef<str>>(
        &self,
        from: &[A],
        to: &[B],
    ) -> Result<Placed, Failure> {
        let step = "move";
        let both = self.root.at(step, from).and_then(|source| Ok((source, self.root.at(step, to)?)));
        let (source, target) = match both {
            Ok(both) => both,
            Err(failure) => return failure.errno().and_then(Placed::from).ok_or(failure),
        };
        self.pass_to(step, from, to)?;
        match renameat(&source.parent, source.name.as_c_str(), &target.parent, target.name.as_c_str()) {
            Ok(()) => Ok(Placed::New),
            Err(errno) => Placed::from(errno).ok_or_else(|| self.root.failed(step, from, errno)),
        }
    }

    /// Makes a file with this content, where nothing may be. What a crash leaves may have less content.
    pub fn create<S: AsRef<str>>(&self, segments: &[S], bytes: &[u8]) -> Result<Made, Failure> {
        let step = "write";
        let at = self.root.at(step, segments)?;
        self.pass(step, segments)?;
        let how = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let how = confined(how).mode(Mode::from_bits_truncate(0o600));
        let fd = match retried(|| openat2(&at.parent, at.name.as_c_str(), how)) {
            Ok(fd) => fd,
            Err(Errno::EEXIST) => return Ok(Made::Existed),
            Err(errno) => return Err(self.root.failed(step, segments, errno)),
        };
        filled(fd, bytes).map_err(|cause| Failure { step, path: self.root.shown(segments), cause })?;
        Ok(Made::New)
    }

    /// Puts a file there, replacing one that is there: whoever reads sees the old content or the new one, and after a
    /// crash of the machine as well. Nobody else uses the name that it has until then: `.<name>.<random>.tmp`.
    pub fn write<S: AsRef<str>>(&self, segments: &[S], bytes: &[u8]) -> Result<(), Failure> {
        let step = "write";
        let at = self.root.at(step, segments)?;
        let wrong = |cause: io::Error| Failure { step, path: self.root.shown(segments), cause };
        let name = at.name.to_str().map_err(|_| self.root.failed(step, segments, Errno::EINVAL))?;
        let temporary = format!(".{name}.{:016x}.tmp", rand::random::<u64>());
        self.pass(step, segments)?;
        let how = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let how = confined(how).mode(Mode::from_bits_truncate(0o600));
        let fd =
            retried(|| openat2(&at.parent, temporary.as_str(), how)).map_err(|errno| wrong(errno.into()))?;
        let written = filled(fd, bytes).map_err(wrong).and_then(|()| {
            self.pass("replace", segments)?;
            renameat(&at.parent, temporary.as_str(), &at.parent, at.name.as_c_str())
                .map_err(|errno| wrong(errno.into()))
        });
        if written.is_err() && self.pass("remove", segments).is_ok() {
            // A full disk leaves a file without content, which nobody else would remove soon.
            let _ = nix::unistd::unlinkat(
                &at.parent,
                temporary.as_str(),
                nix::unistd::UnlinkatFlags::NoRemoveDir,
            );
        }
        written
    }
}

fn filled(fd: OwnedFd, bytes: &[u8]) -> io::Result<()> {
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes)?;
    Ok(fsync(&file)?)
}
