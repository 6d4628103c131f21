//! An open directory whose content is being removed: [`Node`], and how long its tree may take: [`Budget`].

use std::{
    ffi::{CStr, CString},
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{
    fcntl::{AT_FDCWD, OFlag, openat2},
    sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat, fstat},
};

use super::super::directory::{confined, retried};

/// So often a directory may be filled again after it was emptied until something is said to write there still.
const REFILLS: usize = 16;

/// One of the trees that are to go, and how long it may take of this run.
#[derive(Debug)]
pub(super) struct Budget {
    pub(super) entry: String,
    /// Which directory it must be.
    pub(super) inode: Option<u64>,
    slice: Duration,
    began: OnceLock<Instant>,
    over: AtomicBool,
    refills: AtomicUsize,
}

impl Budget {
    pub(super) fn new(entry: &str, inode: Option<u64>, slice: Duration) -> Self {
        Self {
            entry: entry.into(),
            inode,
            slice,
            began: OnceLock::new(),
            over: AtomicBool::new(false),
            refills: AtomicUsize::new(0),
        }
    }

    /// Whether its time is over. It begins with the first question, and ends early for what does not get empty.
    pub(super) fn is_over(&self) -> bool {
        if self.over.load(Ordering::SeqCst) {
            return true;
        }
        let over = self.is_refilled() || self.began.get_or_init(Instant::now).elapsed() >= self.slice;
        if over {
            self.over.store(true, Ordering::SeqCst);
        }
        over
    }

    /// Whether it was told that its time is over, so that something was left undone.
    pub(super) fn was_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(super) fn refilled(&self) {
        self.refills.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn is_refilled(&self) -> bool {
        self.refills.load(Ordering::Relaxed) >= REFILLS
    }
}

/// An open directory whose content is being removed.
pub(super) struct Node {
    pub(super) parent: Option<Arc<Node>>,
    pub(super) name: CString,
    pub(super) fd: OwnedFd,
    pub(super) depth: usize,
    pub(super) budget: Arc<Budget>,
    /// Tasks that remain within, the look at it included.
    pub(super) pending: AtomicUsize,
    /// Whether anything went since the last look.
    pub(super) progress: AtomicBool,
    /// Whether something in it cannot be removed.
    pub(super) stuck: AtomicBool,
    /// Whether the last look did not take in all that is in it.
    pub(super) partial: AtomicBool,
    /// Whether its own rights were widened.
    widened: AtomicBool,
}

impl Node {
    pub(super) fn new(
        parent: Option<Arc<Node>>,
        name: CString,
        fd: OwnedFd,
        depth: usize,
        budget: Arc<Budget>,
    ) -> Self {
        Self {
            parent,
            name,
            fd,
            depth,
            budget,
            pending: AtomicUsize::new(0),
            progress: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            partial: AtomicBool::new(false),
            widened: AtomicBool::new(false),
        }
    }

    /// The names from the top down to this node.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut node = Some(self);
        while let Some(current) = node {
            if current.parent.is_some() {
                names.push(current.name.to_string_lossy().into_owned());
            }
            node = current.parent.as_deref();
        }
        names.reverse();
        names
    }

    /// The top of the tree that this node is in: a node just below the directory of the trees.
    pub(super) fn top_of_tree(self: &Arc<Self>) -> Arc<Self> {
        let mut node = Arc::clone(self);
        while let Some(parent) = node.parent.clone().filter(|parent| parent.parent.is_some()) {
            node = parent;
        }
        node
    }

    /// Lets us read and change the directory, where we may; `false` where that was tried before or is not possible.
    pub(super) fn widen(&self) -> bool {
        let mode = |mode| Mode::from_bits_truncate(mode | 0o700);
        !self.widened.swap(true, Ordering::SeqCst)
            && fstat(&self.fd).is_ok_and(|stat| fchmod(&self.fd, mode(stat.st_mode)).is_ok())
    }
}

/// Lets us into a directory, where we may. It is reached without links, and changed by its descriptor.
pub(super) fn widen_at(parent: &OwnedFd, name: &CStr) -> bool {
    let how = confined(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC);
    let Ok(fd) = retried(|| openat2(parent, name, how)) else { return false };
    let Ok(stat) = fstat(&fd) else { return false };
    // fchmod(2) refuses such a descriptor; its entry in /proc is the documented way.
    let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let mode = Mode::from_bits_truncate(stat.st_mode | 0o700);
    fchmodat(AT_FDCWD, &path, mode, FchmodatFlags::FollowSymlink).is_ok()
}
