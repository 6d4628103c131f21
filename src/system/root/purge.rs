//! Removes whole trees beneath a [`Root`], in parallel: [`Purge`].
//!
//! Relative to held descriptors, through no link and into no other mount; a few descriptors at a time, however deep or
//! wide the tree. What cannot be removed is left and reported, everything around it goes. It may be stopped anywhere and
//! begun again. It decides nothing: whoever calls it has proved that the trees are to go.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, OFlag, openat2, renameat},
    sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat, fstat, fstatat},
    unistd::{UnlinkatFlags, unlinkat},
};

use super::{Failure, Gate, Root, confined, is_directory, is_dots, retried};

/// Files that one thread removes in a row.
const BATCH: usize = 128;

/// Subdirectories that one look at a directory takes in; what is beyond is found by the next look.
const SUBDIRECTORIES: usize = 16 * 1024;

/// Directories deeper than this are moved to the top, so that neither descriptors nor path lengths can run out.
const DEPTH: usize = 32;

/// Removing a file takes at least this long where several threads in one directory help: below, the directory's lock is
/// what they would wait for.
const SLOW: Duration = Duration::from_micros(150);

/// What could not be removed and why; more than these are only counted in the log of the caller.
const STUCK: usize = 100;

/// Something that could not be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// The entry, of those that were asked to go, in which it lies.
    pub entry: String,
    /// Its path below the directory of the entries.
    pub path: String,
    /// Why it could not be removed.
    pub why: String,
}

/// Removes entries of one directory with all that is in them.
#[derive(Debug)]
pub struct Purge<'a> {
    /// How many threads work at a time.
    pub threads: usize,
    /// Counts what is removed, as it goes.
    pub purged: &'a AtomicU64,
}

impl Purge<'_> {
    /// Removes the entries `names` of the directory at `segments`, and returns what is left and why.
    ///
    /// Blocks, and is to be run on a thread that may hang. Fails only where nothing could be begun, or where the gate
    /// said no.
    pub fn run<S: AsRef<str>>(
        &self,
        root: &Root,
        segments: &[S],
        names: &[String],
        gate: Gate<'_>,
    ) -> Result<Vec<Stuck>, Failure> {
        let step = "purge";
        let dir = root.directory(step, segments)?;
        let fd = dir.as_fd().try_clone_to_owned();
        let fd = fd.map_err(|cause| Failure { step, path: root.shown(segments), cause })?;
        let top = Arc::new(Node::new(None, CString::default(), fd));
        let crew = Crew {
            gate,
            purged: self.purged,
            threads: self.threads.max(1),
            top: Arc::clone(&top),
            tasks: Mutex::new(Tasks { open: 0, stack: Vec::new() }),
            change: Condvar::new(),
            stop: Mutex::new(None),
            stopped: AtomicBool::new(false),
            stuck: Mutex::new(Vec::new()),
            moved: AtomicU64::new(0),
        };
        for name in names.iter().rev() {
            if let Ok(name) = CString::new(name.as_str()) {
                crew.push(Task::Enter { parent: Arc::clone(&top), name, depth: 0 });
            }
        }
        thread::scope(|scope| {
            for _ in 1..crew.threads {
                // Where no further thread can be had, one does the work.
                let builder = thread::Builder::new().name("purge".into()).stack_size(256 * 1024);
                if builder.spawn_scoped(scope, || crew.work()).is_err() {
                    break;
                }
            }
            crew.work();
        });
        match crew.stop.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(cause) => Err(Failure { step, path: root.shown(segments), cause }),
            None => Ok(crew.stuck.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

/// An open directory whose content is being removed.
struct Node {
    parent: Option<Arc<Node>>,
    name: CString,
    fd: OwnedFd,
    depth: usize,
    /// Tasks that remain within, the look at it included.
    pending: AtomicUsize,
    /// Whether anything went since the last look.
    progress: AtomicBool,
    /// Whether something in it cannot be removed.
    stuck: AtomicBool,
    /// Whether its own rights were widened.
    widened: AtomicBool,
}

impl Node {
    fn new(parent: Option<Arc<Node>>, name: CString, fd: OwnedFd) -> Self {
        Self {
            depth: parent.as_ref().map_or(0, |parent| parent.depth + 1),
            parent,
            name,
            fd,
            pending: AtomicUsize::new(0),
            progress: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            widened: AtomicBool::new(false),
        }
    }

    /// The names from the top down to this node.
    fn names(&self) -> Vec<String> {
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

    /// Lets us read and change the directory, where we may; `false` where that was tried before or is not possible.
    fn widen(&self) -> bool {
        let mode = |mode| Mode::from_bits_truncate(mode | 0o700);
        !self.widened.swap(true, Ordering::SeqCst)
            && fstat(&self.fd).is_ok_and(|stat| fchmod(&self.fd, mode(stat.st_mode)).is_ok())
    }
}

enum Task {
    /// Remove a directory, or whatever it turns out to be.
    Enter { parent: Arc<Node>, name: CString, depth: usize },
    /// Look at the content of an open directory.
    Look(Arc<Node>),
    /// Remove files.
    Unlink(Arc<Node>, Vec<CString>),
}

struct Tasks {
    /// Tasks that are not done: those on the stack and those at work.
    open: usize,
    /// The last one in is the first one out: trees are finished before others are begun.
    stack: Vec<Task>,
}

struct Crew<'a> {
    gate: Gate<'a>,
    purged: &'a AtomicU64,
    threads: usize,
    top: Arc<Node>,
    tasks: Mutex<Tasks>,
    change: Condvar,
    stop: Mutex<Option<io::Error>>,
    stopped: AtomicBool,
    stuck: Mutex<Vec<Stuck>>,
    moved: AtomicU64,
}

impl Crew<'_> {
    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, task: Task) {
        let (Task::Enter { parent: node, .. } | Task::Look(node) | Task::Unlink(node, _)) = &task;
        node.pending.fetch_add(1, Ordering::SeqCst);
        let mut tasks = self.tasks();
        tasks.open += 1;
        tasks.stack.push(task);
        drop(tasks);
        self.change.notify_one();
    }

    fn work(&self) {
        let mut tasks = self.tasks();
        loop {
            if tasks.open == 0 || self.stopped.load(Ordering::SeqCst) {
                drop(tasks);
                self.change.notify_all();
                return;
            }
            let Some(task) = tasks.stack.pop() else {
                tasks = self.change.wait(tasks).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(tasks);
            match task {
                Task::Enter { parent, name, depth } => {
                    self.enter(&parent, &name, depth);
                    self.done(&parent);
                }
                Task::Look(node) => {
                    self.look(&node);
                    self.done(&node);
                }
                Task::Unlink(node, names) => {
                    self.unlink(&node, &names);
                    self.done(&node);
                }
            }
            tasks = self.tasks();
            tasks.open -= 1;
        }
    }

    /// Asks the gate before a change; `false` ends everything.
    fn may(&self) -> bool {
        if self.stopped.load(Ordering::SeqCst) {
            return false;
        }
        match (self.gate)() {
            Ok(()) => true,
            Err(error) => {
                self.stop.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                self.stopped.store(true, Ordering::SeqCst);
                self.change.notify_all();
                false
            }
        }
    }

    fn gone(&self, node: &Node) {
        node.progress.store(true, Ordering::SeqCst);
        self.purged.fetch_add(1, Ordering::Relaxed);
    }

    fn stick(&self, node: &Node, name: &CStr, why: &str) {
        node.stuck.store(true, Ordering::SeqCst);
        let mut names = node.names();
        names.push(name.to_string_lossy().into_owned());
        let mut stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        if stuck.len() < STUCK {
            let entry = names.first().cloned().unwrap_or_default();
            stuck.push(Stuck { entry, path: names.join("/"), why: why.into() });
        }
    }

    fn enter(&self, parent: &Arc<Node>, name: &CStr, depth: usize) {
        if depth > DEPTH {
            return self.lift(parent, name);
        }
        let how = confined(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC);
        let open = || retried(|| openat2(&parent.fd, name, how));
        let mut opened = open();
        if opened.as_ref().is_err_and(|errno| *errno == Errno::EACCES) && self.may() {
            // Either the directory itself or the one around it keeps us out.
            if widen_at(&parent.fd, name) || parent.widen() && widen_at(&parent.fd, name) {
                opened = open();
            }
        }
        match opened {
            Ok(fd) => {
                let node = Node::new(Some(Arc::clone(parent)), name.into(), fd);
                let node = Arc::new(Node { depth, ..node });
                // The parent waits for the node, not only for this task.
                parent.pending.fetch_add(1, Ordering::SeqCst);
                self.push(Task::Look(node));
            }
            Err(Errno::ENOENT) => parent.progress.store(true, Ordering::SeqCst),
            Err(Errno::ENOTDIR | Errno::ELOOP) => self.unlink(parent, &[name.into()]),
            Err(Errno::EXDEV) => self.stick(parent, name, "it is a mount point; unmount it"),
            Err(errno) => self.stick(parent, name, &format!("open directory: {}", errno.desc())),
        }
    }

    /// Moves a directory that lies too deep to the top, from where it is removed like any other.
    fn lift(&self, parent: &Arc<Node>, name: &CStr) {
        for _ in 0..1000 {
            let number = self.moved.fetch_add(1, Ordering::Relaxed);
            let Ok(target) = CString::new(format!(".deep-{}-{number}", std::process::id())) else { return };
            match fstatat(&self.top.fd, target.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(Errno::ENOENT) => {}
                Ok(_) | Err(_) => continue,
            }
            let mut outcome = Err(Errno::ECANCELED);
            for _ in 0..2 {
                if !self.may() {
                    return;
                }
                outcome = renameat(&parent.fd, name, &self.top.fd, target.as_c_str());
                // Moving a directory changes its entry "..", for which it must be writable.
                let denied = matches!(outcome, Err(Errno::EACCES | Errno::EPERM));
                if !denied || !(widen_at(&parent.fd, name) | parent.widen()) {
                    break;
                }
            }
            return match outcome {
                Ok(()) => {
                    parent.progress.store(true, Ordering::SeqCst);
                    self.push(Task::Enter { parent: Arc::clone(&self.top), name: target, depth: 0 });
                }
                Err(Errno::ENOENT) => parent.progress.store(true, Ordering::SeqCst),
                Err(errno) => self.stick(parent, name, &format!("move up: {}", errno.desc())),
            };
        }
        self.stick(parent, name, "no free name to move it up to");
    }

    /// Reads a directory, hands out what is in it, and removes files itself as long as nobody else could help.
    fn look(&self, node: &Arc<Node>) {
        node.progress.store(false, Ordering::SeqCst);
        let listed = node.fd.try_clone().map_err(|_| Errno::EMFILE).and_then(Dir::from_fd);
        let mut dir = match listed {
            Ok(dir) => dir,
            Err(errno) => return self.stick(node, c"", &format!("read directory: {}", errno.desc())),
        };
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        let mut shared = false;
        for entry in dir.iter() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(errno) => {
                    self.stick(node, c"", &format!("read directory: {}", errno.desc()));
                    break;
                }
            };
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            let name = entry.file_name();
            if is_dots(name) {
                continue;
            }
            let directory = match entry.file_type() {
                Some(kind) => kind == Type::Directory,
                None => fstatat(&node.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok_and(|s| is_directory(&s)),
            };
            if directory {
                directories.push(name.to_owned());
                if directories.len() >= SUBDIRECTORIES {
                    break;
                }
                continue;
            }
            files.push(name.to_owned());
            if files.len() >= BATCH {
                let batch = std::mem::take(&mut files);
                if shared && self.tasks().stack.len() < 4 * self.threads {
                    self.push(Task::Unlink(Arc::clone(node), batch));
                } else {
                    let (count, began) = (batch.len(), Instant::now());
                    self.unlink(node, &batch);
                    let each = began.elapsed() / u32::try_from(count).unwrap_or(u32::MAX);
                    shared = self.threads > 1 && each >= SLOW;
                }
            }
        }
        for name in directories {
            self.push(Task::Enter { parent: Arc::clone(node), name, depth: node.depth + 1 });
        }
        self.unlink(node, &files);
    }

    fn unlink(&self, node: &Arc<Node>, names: &[CString]) {
        for name in names {
            let mut outcome = Err(Errno::ECANCELED);
            for _ in 0..2 {
                if !self.may() {
                    return;
                }
                outcome = unlinkat(&node.fd, name.as_c_str(), UnlinkatFlags::NoRemoveDir);
                if !matches!(outcome, Err(Errno::EACCES)) || !node.widen() {
                    break;
                }
            }
            match outcome {
                Ok(()) => self.gone(node),
                Err(Errno::ENOENT) => node.progress.store(true, Ordering::SeqCst),
                Err(Errno::EISDIR) => {
                    let name = name.clone();
                    self.push(Task::Enter { parent: Arc::clone(node), name, depth: node.depth + 1 });
                }
                Err(Errno::EBUSY) => self.stick(node, name, "it is a mount point or in use"),
                Err(errno) => self.stick(node, name, &format!("remove: {}", errno.desc())),
            }
        }
    }

    /// Marks one task of `node` as done; the last one removes the directory, and so on upwards.
    fn done(&self, node: &Arc<Node>) {
        let mut node = Arc::clone(node);
        while node.pending.fetch_sub(1, Ordering::SeqCst) == 1 {
            let Some(parent) = node.parent.clone() else { return };
            if self.stopped.load(Ordering::SeqCst) || !self.leave(&node, &parent) {
                return;
            }
            node = parent;
        }
    }

    /// Removes a directory whose content is gone; `false` where it must be looked at again.
    fn leave(&self, node: &Arc<Node>, parent: &Arc<Node>) -> bool {
        let mut outcome = Err(Errno::ECANCELED);
        if !node.stuck.load(Ordering::SeqCst) {
            for _ in 0..2 {
                if !self.may() {
                    return false;
                }
                outcome = unlinkat(&parent.fd, node.name.as_c_str(), UnlinkatFlags::RemoveDir);
                if !matches!(outcome, Err(Errno::EACCES)) || !parent.widen() {
                    break;
                }
            }
        }
        match outcome {
            Ok(()) => self.gone(parent),
            Err(Errno::ENOENT) => parent.progress.store(true, Ordering::SeqCst),
            Err(Errno::ECANCELED) => parent.stuck.store(true, Ordering::SeqCst),
            Err(Errno::ENOTEMPTY | Errno::EEXIST) if node.progress.load(Ordering::SeqCst) => {
                // Something came meanwhile, or the listing left something out.
                self.push(Task::Look(Arc::clone(node)));
                return false;
            }
            Err(Errno::EBUSY) => self.stick(parent, &node.name, "it is a mount point or in use"),
            Err(errno) => self.stick(parent, &node.name, &format!("remove directory: {}", errno.desc())),
        }
        true
    }
}

/// Lets us into a directory, where we may. It is reached without links, and changed by its descriptor.
fn widen_at(parent: &OwnedFd, name: &CStr) -> bool {
    let how = confined(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC);
    let Ok(fd) = retried(|| openat2(parent, name, how)) else { return false };
    let Ok(stat) = fstat(&fd) else { return false };
    // fchmod(2) refuses such a descriptor; its entry in /proc is the documented way.
    let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let mode = Mode::from_bits_truncate(stat.st_mode | 0o700);
    fchmodat(AT_FDCWD, &path, mode, FchmodatFlags::FollowSymlink).is_ok()
}
