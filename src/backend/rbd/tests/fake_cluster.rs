//! A small RBD for tests: [`FakeCluster`], pools with images, metadata, snapshots, watchers and a trash, behind programs called `rbd`,
//! `ceph` and `rados` that really are started.
//!
//! It fails as a real cluster fails: exit codes and texts are the recorded ones. Its time runs faster than ours, and it can stop
//! before any of the steps in which it changes something, as a program that is killed, or carry a call out long after the
//! caller gave it up.

#![allow(clippy::unnecessary_wraps, reason = "whatever is played may end without an answer")]

mod images;
mod import;
mod objects;
mod play;
mod trash;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Write},
    os::unix::fs::{OpenOptionsExt, symlink},
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant, SystemTime},
};

use jiff::{SignedDuration, Timestamp};

use crate::backend::{
    ceph::{
        Cluster, Tools,
        fake::{self, FSID, KEY},
    },
    rbd::entry,
};

/// How much faster the cluster's time runs than ours.
const HASTE: u32 = 60;

/// An image.
#[allow(clippy::struct_excessive_bools, reason = "each is something else that may be so of an image")]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) id: String,
    pub(crate) size: u64,
    pub(crate) features: u64,
    pub(crate) data_pool: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) snapshots: Vec<String>,
    pub(crate) clones: Vec<String>,
    pub(crate) content: bool,
    pub(crate) watchers: Vec<String>,
    /// It cannot be opened by its name; in the trash, not at all.
    pub(crate) without_header: bool,
    /// Its name is not in the list of names.
    pub(crate) unlisted: bool,
    /// The group that it is in.
    pub(crate) group: Option<String>,
    /// It is mirrored by snapshots.
    pub(crate) mirrored: bool,
}

/// An image in the trash.
#[derive(Debug, Clone)]
pub(crate) struct Trashed {
    pub(crate) name: String,
    pub(crate) image: Image,
    pub(crate) state: entry::State,
    /// `rbd rm` put it here.
    pub(crate) by_rm: bool,
    at: Timestamp,
    pub(crate) until: Timestamp,
}

/// A pool, or a namespace of one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Space {
    pub(crate) images: BTreeMap<String, Image>,
    pub(crate) trash: Vec<Trashed>,
    /// The trash has its list, which the first image that is moved there leaves behind.
    pub(crate) has_trash: bool,
    /// Objects that are none of RBD's.
    pub(crate) objects: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

/// When the programs stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Never,
    /// Before the change with this number, counted from now: 0 is the next.
    Before(usize),
    /// After it, so that only the answer is lost.
    After(usize),
}

/// What the cluster holds, and how it behaves.
#[allow(clippy::struct_excessive_bools, reason = "each is something else that a test asks for")]
#[derive(Debug)]
pub(crate) struct State {
    /// By `pool` and `pool/namespace`.
    pub(crate) spaces: BTreeMap<String, Space>,
    /// Which program is to stop at which change.
    pub(crate) stop: Stop,
    /// Whether a change was stopped.
    pub(crate) stopped: bool,
    /// Whether nothing is answered any more.
    pub(crate) hangs: bool,
    /// How calls begin that are not carried out before [`FakeCluster::let_go`].
    pub(crate) hold: Option<&'static str>,
    held: Vec<(String, Vec<String>, Vec<u8>)>,
    /// Pools that take no more.
    pub(crate) full: BTreeSet<String>,
    /// `rbd rm` keeps nothing, whatever it is told: the pool is configured so.
    pub(crate) keeps_nothing: bool,
    /// Whether an image may be removed at once.
    pub(crate) may_remove: bool,
    /// What a command of `rbd` answers in place of the truth.
    pub(crate) odd: Option<(&'static str, &'static str)>,
    /// Whether no monitor answers.
    pub(crate) unreachable: bool,
    /// The key that is accepted.
    pub(crate) key: String,
    pub(crate) fsid: String,
    /// The calls so far, without what the shim adds to each.
    pub(crate) calls: Vec<String>,
    /// What was wrong with calls.
    pub(crate) complaints: Vec<String>,
    next_id: u32,
    began: (Instant, Timestamp),
}

/// The cluster; copies share it.
#[derive(Debug, Clone)]
pub(crate) struct FakeCluster {
    state: Arc<Mutex<State>>,
    directory: Arc<tempfile::TempDir>,
}

/// What a program answers.
struct Answer(i32, String, String);

/// The program does not answer.
enum Silent {
    /// It was killed.
    Died,
    /// It does what it shall do later.
    Held,
}

type Played = Result<Answer, Silent>;

fn ok(out: impl Into<String>) -> Played {
    Ok(Answer(0, out.into(), String::new()))
}

/// As a real cluster failed.
fn recorded(name: &str) -> Played {
    match fake::Answer::recorded(name) {
        fake::Answer::Text(code, out, err) => Ok(Answer(code, out, err)),
        other => panic!("{name} was recorded as {other:?}"),
    }
}

impl FakeCluster {
    /// A cluster with the pool `rbd`.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = State {
            spaces: BTreeMap::from([("rbd".to_owned(), Space::default())]),
            stop: Stop::Never,
            stopped: false,
            hangs: false,
            hold: None,
            held: Vec::new(),
            full: BTreeSet::new(),
            keeps_nothing: false,
            may_remove: false,
            odd: None,
            unreachable: false,
            key: KEY.to_owned(),
            fsid: FSID.to_owned(),
            calls: Vec::new(),
            complaints: Vec::new(),
            next_id: 0x1000,
            began: (Instant::now(), Timestamp::now()),
        };
        let fake_cluster = Self { state: Arc::new(Mutex::new(state)), directory: Arc::new(directory) };
        let path = fake_cluster.directory.path().to_path_buf();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backend/rbd/tests/relay.sh");
        // Links: a file that was just written cannot be executed while another thread starts a program.
        for name in ["rbd", "ceph", "rados"] {
            symlink(&script, path.join(name)).unwrap();
        }
        let requests = path.join("requests");
        nix::unistd::mkfifo(&requests, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Open for both directions, so that it is never at its end.
        let requests = OpenOptions::new().read(true).write(true).open(requests).unwrap();
        let state = Arc::downgrade(&fake_cluster.state);
        thread::spawn(move || {
            for pid in BufReader::new(requests).lines().map_while(Result::ok) {
                let Some(state) = state.upgrade() else { return };
                serve(&state, &path, &pid);
            }
        });
        fake_cluster
    }

    /// The cluster as `name`, reached through the programs.
    pub(crate) fn cluster(&self, name: &str, monitors: &str) -> Cluster {
        Cluster::new(name, monitors.parse().unwrap(), self.tools()).unwrap()
    }

    /// The programs.
    pub(crate) fn tools(&self) -> Tools {
        let program = |name: &str| self.directory.path().join(name).to_str().unwrap().to_owned();
        Tools {
            rbd: program("rbd"),
            ceph: program("ceph"),
            rados: program("rados"),
            sessions: 0,
            // What does not answer now may answer the next moment.
            pause: Duration::ZERO,
            recheck: Duration::from_millis(50),
            // Far enough that a busy machine does not meet it.
            deadline: Duration::from_mins(5),
            ..Tools::default()
        }
    }

    /// Its time.
    pub(crate) fn now(&self) -> SystemTime {
        self.state().now().into()
    }

    /// What it holds.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changes an image of pool `rbd`.
    pub(crate) fn change(&self, image: &str, change: impl FnOnce(&mut Image)) {
        change(self.state().spaces.get_mut("rbd").unwrap().images.get_mut(image).unwrap());
    }

    /// Moves an image of pool `rbd` to the trash, as an administrator may do by hand.
    pub(crate) fn move_to_trash(&self, image: &str, until: &str) {
        let _ = self.state().trash(&format!("rbd/{image}"), until);
    }

    /// Changes an image in the trash of pool `rbd`.
    pub(crate) fn change_in_trash(&self, image: &str, change: impl FnOnce(&mut Image)) {
        let mut state = self.state();
        let trash = &mut state.spaces.get_mut("rbd").unwrap().trash;
        change(&mut trash.iter_mut().find(|entry| entry.name == image).unwrap().image);
    }

    /// Renames an image of pool `rbd`, up to that step.
    pub(crate) fn rename(&self, from: &str, to: &str, stop: Stop) {
        let mut state = self.state();
        state.stop = stop;
        let _ = state.rename(&format!("rbd/{from}"), &format!("rbd/{to}"));
        (state.stop, state.stopped) = (Stop::Never, false);
    }

    /// How many calls are held.
    pub(crate) fn held(&self) -> usize {
        self.state().held.len()
    }

    /// Carries out what was held, though nothing waits for it any more.
    pub(crate) fn let_go(&self) {
        let mut state = self.state();
        state.hold = None;
        for (program, args, stdin) in std::mem::take(&mut state.held) {
            let _ = state.act(&program, &args, &stdin);
        }
    }

    /// Puts an image into a space.
    pub(crate) fn plant(&self, space: &str, name: &str, image: Image) {
        let mut state = self.state();
        let id = state.id();
        state
            .spaces
            .entry(space.to_owned())
            .or_default()
            .images
            .insert(name.to_owned(), Image { id, ..image });
    }

    /// The names of the images of pool `rbd`.
    pub(crate) fn images(&self) -> Vec<String> {
        self.state().spaces["rbd"].images.keys().cloned().collect()
    }

    /// The calls since the last time.
    pub(crate) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state().calls)
    }
}

impl Drop for FakeCluster {
    fn drop(&mut self) {
        if Arc::strong_count(&self.state) > 1 {
            return;
        }
        // Lets the thread see that it is over.
        if let Ok(mut requests) =
            OpenOptions::new().write(true).custom_flags(NONBLOCK).open(self.directory.path().join("requests"))
        {
            let _ = requests.write_all(b"0\n");
        }
        let state = self.state();
        if !thread::panicking() {
            assert!(state.complaints.is_empty(), "{}", state.complaints.join("\n"));
        }
    }
}

/// `O_NONBLOCK`.
const NONBLOCK: i32 = 0o4000;

/// Answers the program with this process id.
fn serve(state: &Mutex<State>, directory: &Path, pid: &str) {
    let file = |name: &str| directory.join(format!("{name}.{pid}"));
    let Ok(args) = fs::read_to_string(file("args")) else { return };
    let mut args: Vec<String> = args.split('\u{1f}').map(str::to_owned).collect();
    args.pop();
    let stdin = fs::read(file("stdin")).unwrap_or_default();
    for name in ["args", "stdin"] {
        let _ = fs::remove_file(file(name));
    }
    let mut state = state.lock().unwrap();
    if state.hangs {
        return;
    }
    let code = match state.play(args, &stdin) {
        Err(Silent::Held) => return,
        Err(Silent::Died) => "die".to_owned(),
        Ok(Answer(code, out, err)) => {
            for (name, text) in [("out", out), ("err", err)] {
                if !text.is_empty() {
                    fs::write(file(name), text).unwrap();
                }
            }
            code.to_string()
        }
    };
    drop(state);
    // It may have been killed by now.
    if let Ok(mut reply) = OpenOptions::new().write(true).custom_flags(NONBLOCK).open(file("reply")) {
        let _ = writeln!(reply, "{code}");
    }
}

impl State {
    fn id(&mut self) -> String {
        self.next_id += 1;
        format!("{:x}c0ffee", self.next_id)
    }

    /// The cluster's time.
    fn now(&self) -> Timestamp {
        let (began, at) = self.began;
        at + SignedDuration::try_from(began.elapsed() * HASTE).unwrap()
    }

    /// Asked before every change; the change is made by what follows.
    fn step<T>(&mut self, change: impl FnOnce(&mut Self) -> T) -> Result<T, Silent> {
        let (before, after) = match self.stop {
            Stop::Never => return Ok(change(self)),
            Stop::Before(0) => (true, false),
            Stop::After(0) => (false, true),
            Stop::Before(more) => {
                self.stop = Stop::Before(more - 1);
                return Ok(change(self));
            }
            Stop::After(more) => {
                self.stop = Stop::After(more - 1);
                return Ok(change(self));
            }
        };
        self.stop = Stop::Never;
        self.stopped = before || after;
        if after {
            change(self);
        }
        Err(Silent::Died)
    }

    /// The space of that name, or the recorded failure.
    fn space(&self, space: &str) -> Result<&Space, &'static str> {
        let pool = space.split('/').next().unwrap_or_default();
        match self.spaces.get(space) {
            Some(space) => Ok(space),
            None if self.spaces.contains_key(pool) => Err("rbd-info-no-namespace"),
            None => Err("rbd-info-no-pool"),
        }
    }

    /// Whether the pool of a space or an image takes no more.
    fn is_full(&self, spec: &str) -> bool {
        self.full.contains(spec.split('/').next().unwrap_or_default())
    }

    fn space_mut(&mut self, space: &str) -> &mut Space {
        self.spaces.get_mut(space).unwrap()
    }

    fn image(&self, spec: &str) -> Result<&Image, &'static str> {
        let (space, name) = spec.rsplit_once('/').unwrap();
        let image = self.space(space)?.images.get(name);
        image.filter(|image| !image.without_header).ok_or("rbd-info-no-image")
    }

    /// An image that is known to be there.
    fn image_mut(&mut self, spec: &str) -> &mut Image {
        let (space, name) = spec.rsplit_once('/').unwrap();
        self.spaces.get_mut(space).unwrap().images.get_mut(name).unwrap()
    }

    fn described(&self, spec: &str, describe: impl FnOnce(&str, &Image) -> String) -> Played {
        match self.image(spec) {
            Ok(image) => ok(describe(spec.rsplit('/').next().unwrap_or_default(), image)),
            Err(failure) => recorded(failure),
        }
    }
}
