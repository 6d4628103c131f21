//! Removes whole trees beneath a [`Root`], in parallel: [`Purge`].
//!
//! Relative to held descriptors, through no link and into no other mount; a few descriptors at a time, however deep or
//! wide the tree. What cannot be removed is left and reported, everything around it goes. It may be stopped anywhere and
//! begun again. A tree that does not come to an end, since something still writes there, holds up no other one. It decides
//! nothing: the caller has proved that the trees are to go, and says which directories they are.

mod node;

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::AsFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    dir::{Dir, Type},
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat2, renameat},
    sys::stat::{fstat, fstatat},
    unistd::{UnlinkatFlags, unlinkat},
};
use node::{Budget, Node, widen_at};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{
    changes::{Gate, Step},
    directory::{Failure, Root, confined, is_directory, is_dots, retried},
};

/// Files that one thread removes in a row.
const BATCH: usize = 128;

/// Subdirectories that one look at a directory takes in; what is beyond is found by the next look.
const SUBDIRECTORIES: usize = 16 * 1024;

/// Directories deeper than this are moved to the top of their tree, so that neither descriptors nor path lengths can run out.
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

/// A tree that is to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Its name in the directory of the trees.
    pub name: String,
    /// The inode of its top directory: another one is left alone, whatever its name. `None`: whatever has the name.
    pub inode: Option<u64>,
}

/// What is left after a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// What could not be removed.
    pub stuck: Vec<Stuck>,
    /// Trees whose time was over before they were gone.
    pub unfinished: Vec<Unfinished>,
}

/// A tree whose time was over before it was gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// Its name in the directory of the trees.
    pub entry: String,
    /// Whether its directories were filled again and again: something still writes there.
    pub refilled: bool,
}

/// Removes entries of one directory with all that is in them.
#[derive(Debug)]
pub struct Purge<'a> {
    /// How many threads work at a time.
    pub threads: usize,
    /// How long one tree may take before it is left for the next run.
    pub slice: Duration,
    /// Counts what is removed, as it goes.
    pub purged: &'a AtomicU64,
}

impl Purge<'_> {
    /// Removes these entries of the directory at `segments`, or of the top where there are none, and returns what is left and why.
    ///
    /// Blocks, and is to be run on a thread that may hang. Fails only where nothing could be begun, or where the gate
    /// said no.
    pub fn run<S: AsRef<str>>(
        &self,
        root: &Root,
        segments: &[S],
        trees: &[Tree],
        gate: Gate<'_>,
    ) -> Result<Left, Failure> {
        let step = "purge";
        let dir =
            if segments.is_empty() { root.top_directory(step)? } else { root.directory(step, segments)? };
        let fd = dir.as_fd().try_clone_to_owned();
        let fd = fd.map_err(|cause| Failure { step, path: root.shown(segments), cause })?;
        let unbounded = Arc::new(Budget::new("", None, Duration::MAX));
        let top = Arc::new(Node::new(None, CString::default(), fd, 0, unbounded));
        let budget = |tree: &Tree| Arc::new(Budget::new(&tree.name, tree.inode, self.slice));
        let budgets: Vec<Arc<Budget>> = trees.iter().map(budget).collect();
        let crew = Crew {
            base: root.shown(segments),
            gate,
            purged: self.purged,
            threads: self.threads.max(1),
            tasks: Mutex::new(Tasks { open: 0, stack: Vec::new() }),
            change: Condvar::new(),
            stop: Mutex::new(None),
            stopped: AtomicBool::new(false),
            stuck: Mutex::new(Vec::new()),
            moved: AtomicU64::new(0),
        };
        for budget in budgets.iter().rev() {
            if let Ok(name) = CString::new(budget.entry.as_str()) {
                let budget = Arc::clone(budget);
                crew.push(Task::Enter { parent: Arc::clone(&top), name, depth: 0, budget });
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
        match crew.stop.into_inner() {
            Some(cause) => Err(Failure { step, path: root.shown(segments), cause }),
            None => Ok(Left {
                stuck: crew.stuck.into_inner(),
                unfinished: budgets
                    .iter()
                    .filter(|budget| budget.was_over())
                    .map(|b| Unfinished { entry: b.entry.clone(), refilled: b.is_refilled() })
                    .collect(),
            }),
        }
    }
}

enum Task {
    /// Remove a directory, or whatever it turns out to be.
    Enter { parent: Arc<Node>, name: CString, depth: usize, budget: Arc<Budget> },
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
    /// Where the trees are, for what is told of them.
    base: PathBuf,
    gate: Gate<'a>,
    purged: &'a AtomicU64,
    threads: usize,
    tasks: Mutex<Tasks>,
    change: Condvar,
    stop: Mutex<Option<io::Error>>,
    stopped: AtomicBool,
    stuck: Mutex<Vec<Stuck>>,
    moved: AtomicU64,
}

impl Crew<'_> {
    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock()
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
                self.change.wait(&mut tasks);
                continue;
            };
            drop(tasks);
            match task {
                Task::Enter { parent, name, depth, budget } => {
                    self.enter(&parent, &name, depth, &budget);
                    self.done(&parent);
                }
                Task::Look(node) => {
                    self.look(&node);
                    self.done(&node);
                }
                Task::Unlink(node, names) => {
                    self.unlink(&node, &names, &node.budget);
                    self.done(&node);
                }
            }
            tasks = self.tasks();
            tasks.open -= 1;
        }
    }

    /// Asks the gate before a change of `name` in `node`. `false` ends everything, or what is done in this tree.
    fn may(&self, what: &'static str, node: &Node, name: &CStr, budget: &Budget) -> bool {
        if self.stopped.load(Ordering::SeqCst) || budget.is_over() {
            return false;
        }
        let path = || {
            let mut path = self.base.clone();
            path.extend(node.names());
            path.join(name.to_string_lossy().as_ref())
        };
        match (self.gate)(&Step::new(what, &path)) {
            Ok(()) => true,
            Err(error) => {
                self.stop.lock().get_or_insert(error);
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
        let mut stuck = self.stuck.lock();
        if stuck.len() < STUCK {
            let entry = names.first().cloned().unwrap_or_default();
            stuck.push(Stuck { entry, path: names.join("/"), why: why.into() });
        }
    }

    fn enter(&self, parent: &Arc<Node>, name: &CStr, depth: usize, budget: &Arc<Budget>) {
        if budget.is_over() {
            return;
        }
        if depth > DEPTH {
            return self.lift(parent, name);
        }
        let how = confined(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC);
        let open = || retried(|| openat2(&parent.fd, name, how));
        let mut opened = open();
        let closed = opened.as_ref().is_err_and(|errno| *errno == Errno::EACCES);
        if closed && self.may("change mode of", parent, name, budget) {
            // Either the directory itself or the one around it keeps us out.
            if widen_at(&parent.fd, name) || parent.widen() && widen_at(&parent.fd, name) {
                opened = open();
            }
        }
        match opened {
            Ok(fd) => {
                if parent.parent.is_none()
                    && let Some(inode) = budget.inode
                    && !fstat(&fd).is_ok_and(|stat| stat.st_ino == inode)
                {
                    return self.stick(parent, name, "it is not the directory that was removed");
                }
                let node = Node::new(Some(Arc::clone(parent)), name.into(), fd, depth, Arc::clone(budget));
                let node = Arc::new(node);
                // The parent waits for the node, not only for this task.
                parent.pending.fetch_add(1, Ordering::SeqCst);
                self.push(Task::Look(node));
            }
            Err(Errno::ENOENT) => parent.progress.store(true, Ordering::SeqCst),
            Err(Errno::ENOTDIR | Errno::ELOOP) if parent.parent.is_none() && budget.inode.is_some() => {
                self.stick(parent, name, "it is not the directory that was removed");
            }
            Err(Errno::ENOTDIR | Errno::ELOOP) => self.unlink(parent, &[name.into()], budget),
            Err(Errno::EXDEV) => self.stick(parent, name, "it is a mount point; unmount it"),
            Err(errno) => self.stick(parent, name, &format!("open directory: {}", errno.desc())),
        }
    }

    /// Moves a directory that lies too deep to the top of its tree, from where it is removed like any other.
    fn lift(&self, parent: &Arc<Node>, name: &CStr) {
        let (top, budget) = (parent.top_of_tree(), &parent.budget);
        for _ in 0..1000 {
            let number = self.moved.fetch_add(1, Ordering::Relaxed);
            let Ok(target) = CString::new(format!(".deep-{}-{number}", std::process::id())) else { return };
            match fstatat(&top.fd, target.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(Errno::ENOENT) => {}
                Ok(_) | Err(_) => continue,
            }
            let mut outcome = Err(Errno::ECANCELED);
            for _ in 0..2 {
                if !self.may("move", parent, name, budget) {
                    return;
                }
                outcome = renameat(&parent.fd, name, &top.fd, target.as_c_str());
                // Moving a directory changes its entry "..", for which it must be writable.
                let denied = matches!(outcome, Err(Errno::EACCES | Errno::EPERM));
                if !denied || !(widen_at(&parent.fd, name) | parent.widen() | top.widen()) {
                    break;
                }
            }
            return match outcome {
                Ok(()) => {
                    parent.progress.store(true, Ordering::SeqCst);
                    let budget = Arc::clone(budget);
                    self.push(Task::Enter { parent: top, name: target, depth: 1, budget });
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
        node.partial.store(false, Ordering::SeqCst);
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
            if self.stopped.load(Ordering::SeqCst) || node.budget.is_over() {
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
                    node.partial.store(true, Ordering::SeqCst);
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
                    self.unlink(node, &batch, &node.budget);
                    let each = began.elapsed() / u32::try_from(count).unwrap_or(u32::MAX);
                    shared = self.threads > 1 && each >= SLOW;
                }
            }
        }
        for name in directories {
            let budget = Arc::clone(&node.budget);
            self.push(Task::Enter { parent: Arc::clone(node), name, depth: node.depth + 1, budget });
        }
        self.unlink(node, &files, &node.budget);
    }

    fn unlink(&self, node: &Arc<Node>, names: &[CString], budget: &Arc<Budget>) {
        for name in names {
            let mut outcome = Err(Errno::ECANCELED);
            for _ in 0..2 {
                if !self.may("remove", node, name, budget) {
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
                    let (name, budget) = (name.clone(), Arc::clone(budget));
                    self.push(Task::Enter { parent: Arc::clone(node), name, depth: node.depth + 1, budget });
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
            let ended = self.stopped.load(Ordering::SeqCst) || node.budget.was_over();
            if ended || !self.leave(&node, &parent) {
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
                if !self.may("remove directory", parent, &node.name, &node.budget) {
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
                // Something came in, or the look left something out.
                if !node.partial.load(Ordering::SeqCst) {
                    node.budget.refilled();
                }
                self.push(Task::Look(Arc::clone(node)));
                return false;
            }
            Err(Errno::EBUSY) => self.stick(parent, &node.name, "it is a mount point or in use"),
            Err(errno) => self.stick(parent, &node.name, &format!("remove directory: {}", errno.desc())),
        }
        true
    }
}
