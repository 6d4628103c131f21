//! A unix socket that only this user may use: [`Bound`].
//!
//! The mode is set before anybody can connect. A socket that is left of a process that is gone is replaced; one that a
//! process answers on, and anything that is no socket, is left alone. Nothing is created beside it.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, FileTypeExt, MetadataExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::{
        socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket},
        stat::{Mode, fchmod},
    },
};

/// A socket that this process listens on. Dropped, it is removed, unless another one is there by now.
#[derive(Debug)]
pub struct Bound {
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A process serves there.
    #[error("another process serves {}: stop it first", .0.display())]
    Served(PathBuf),
    /// Something else has the name.
    #[error("{} exists and is no socket: remove it", .0.display())]
    NoSocket(PathBuf),
    /// Anything else.
    #[error("{step} {}", .path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why it failed.
        #[source]
        cause: io::Error,
    },
}

/// Makes the directory of a socket, in one that exists.
pub fn make_directory(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o750).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        done => done,
    }
}

impl Bound {
    /// Listens at `path`, whose directory must exist.
    pub fn bind(path: &Path) -> Result<(UnixListener, Self), BindError> {
        let failed = |step| move |cause: io::Error| BindError::Io { step, path: path.to_owned(), cause };
        let directory = path.parent().unwrap_or(Path::new("/"));
        // Two that start at once would each take the other's socket for one that was left.
        let alone = File::open(directory).map_err(failed("open the directory of the socket"))?;
        let _alone = Flock::lock(alone, FlockArg::LockExclusive)
            .map_err(|(_, errno)| failed("lock the directory of the socket")(errno.into()))?;
        replace(path)?;
        let fd = private().map_err(failed("make the socket"))?;
        let address =
            UnixAddr::new(path).map_err(|errno| failed("use the path of the socket")(errno.into()))?;
        bind(fd.as_raw_fd(), &address).map_err(|errno| failed("bind the socket")(errno.into()))?;
        listen(&fd, Backlog::MAXALLOWABLE).map_err(|errno| failed("listen on the socket")(errno.into()))?;
        let listener = UnixListener::from(fd);
        listener.set_nonblocking(true).map_err(failed("listen on the socket"))?;
        let there = fs::symlink_metadata(path).map_err(failed("look at the socket"))?;
        Ok((listener, Self { path: path.to_owned(), id: (there.dev(), there.ino()) }))
    }

    /// Whether the socket is still there: its directory may have been made again without it.
    pub fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|there| (there.dev(), there.ino()) == self.id)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A socket whose file will have the mode 0600: on Linux it gets the mode of the descriptor.
fn private() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    Ok(fd)
}

/// Removes the socket of a process that is gone.
fn replace(path: &Path) -> Result<(), BindError> {
    let failed = |step| move |cause: io::Error| BindError::Io { step, path: path.to_owned(), cause };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at the socket")(error)),
        Ok(there) if !there.file_type().is_socket() => return Err(BindError::NoSocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::Served(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove the left socket"))
        }
        // A full queue of connections: somebody listens.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(BindError::Served(path.to_owned())),
        Err(error) => Err(failed("try the socket")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_private_and_goes_with_its_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("csi.sock");
        let (_listener, bound) = Bound::bind(&path).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing beside it");
        UnixStream::connect(&path).unwrap();
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_left_is_replaced_and_what_is_served_or_no_socket_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("csi.sock");
        drop(UnixListener::bind(&path).unwrap());
        let (_listener, bound) = Bound::bind(&path).unwrap();
        assert!(matches!(Bound::bind(&path), Err(BindError::Served(_))));
        assert!(bound.is_there());
        // Another process made its own in place of ours: that one stays.
        fs::remove_file(&path).unwrap();
        let (_other, other) = Bound::bind(&path).unwrap();
        assert!(!bound.is_there());
        drop(bound);
        assert!(other.is_there());
        drop(other);
        fs::write(&path, "text").unwrap();
        assert!(matches!(Bound::bind(&path), Err(BindError::NoSocket(_))));
        assert!(Bound::bind(&directory.path().join("absent/csi.sock")).is_err());
    }
}
