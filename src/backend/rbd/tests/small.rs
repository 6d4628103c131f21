//! A small RBD for tests: [`Small`], pools with images, metadata, snapshots, watchers and a trash, behind programs called `rbd`,
//! `ceph` and `rados` that really are started.
//!
//! It fails as a real cluster fails: exit codes and texts are the recorded ones. Its time runs faster than ours, and it can stop
//! before any of the steps in which it changes something, as a program that is killed.

#![allow(clippy::unnecessary_wraps, reason = "whatever is played may end without an answer")]

mod import;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Write},
    os::unix::fs::{OpenOptionsExt, symlink},
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant, SystemTime},
};

use import::Stream;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

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
    pub(crate) headless: bool,
    /// Its name is not in the list of names.
    pub(crate) unlisted: bool,
}

/// An image in the trash.
#[derive(Debug, Clone)]
pub(crate) struct Trashed {
    pub(crate) name: String,
    pub(crate) image: Image,
    /// Its move here was broken off.
    pub(crate) moving: bool,
    at: Timestamp,
    until: Timestamp,
}

/// A pool, or a namespace of one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Space {
    pub(crate) images: BTreeMap<String, Image>,
    pub(crate) trash: Vec<Trashed>,
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
pub(crate) struct Small {
    state: Arc<Mutex<State>>,
    directory: Arc<tempfile::TempDir>,
}

/// What a program answers.
struct Answer(i32, String, String);

/// The program ends without an answer.
struct Died;

type Played = Result<Answer, Died>;

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

impl Small {
    /// A cluster with the pool `rbd`.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = State {
            spaces: BTreeMap::from([("rbd".to_owned(), Space::default())]),
            stop: Stop::Never,
            stopped: false,
            hangs: false,
            odd: None,
            unreachable: false,
            key: KEY.to_owned(),
            fsid: FSID.to_owned(),
            calls: Vec::new(),
            complaints: Vec::new(),
            next_id: 0x1000,
            began: (Instant::now(), Timestamp::now()),
        };
        let small = Self { state: Arc::new(Mutex::new(state)), directory: Arc::new(directory) };
        let path = small.directory.path().to_path_buf();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/backend/rbd/tests/relay.sh");
        // Links: a file that was just written cannot be executed while another thread starts a program.
        for name in ["rbd", "ceph", "rados"] {
            symlink(&script, path.join(name)).unwrap();
        }
        let requests = path.join("requests");
        nix::unistd::mkfifo(&requests, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Open for both directions, so that it is never at its end.
        let requests = OpenOptions::new().read(true).write(true).open(requests).unwrap();
        let state = Arc::downgrade(&small.state);
        thread::spawn(move || {
            for pid in BufReader::new(requests).lines().map_while(Result::ok) {
                let Some(state) = state.upgrade() else { return };
                serve(&state, &path, &pid);
            }
        });
        small
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

    /// Moves an image of pool `rbd` to the trash, as somebody may do by hand.
    pub(crate) fn move_to_trash(&self, image: &str, until: &str) {
        let _ = self.state().trash(&format!("rbd/{image}"), until);
    }

    /// Changes an image in the trash of pool `rbd`.
    pub(crate) fn change_in_trash(&self, image: &str, change: impl FnOnce(&mut Image)) {
        let mut state = self.state();
        let trash = &mut state.spaces.get_mut("rbd").unwrap().trash;
        change(&mut trash.iter_mut().find(|entry| entry.name == image).unwrap().image);
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

impl Drop for Small {
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
        Err(Died) => "die".to_owned(),
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
    // It may have been killed meanwhile.
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
    fn step<T>(&mut self, change: impl FnOnce(&mut Self) -> T) -> Result<T, Died> {
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
        Err(Died)
    }

    fn play(&mut self, mut args: Vec<String>, stdin: &[u8]) -> Played {
        let program = args.remove(0);
        let mut key = String::new();
        // What the shim adds to every call.
        while args.first().is_some_and(|arg| {
            arg.starts_with('-') && !(program == "rbd" && arg == "--format") && arg != "-p"
        }) {
            let option = args.remove(0);
            if option == "--no-mon-config" {
                continue;
            }
            let value = args.remove(0);
            if option == "--keyfile" {
                key = fs::read_to_string(&value).unwrap_or_default();
            }
        }
        let shown = args.join(" ");
        if shown.contains(KEY) {
            self.complaints.push(format!("the key is in an argument of {program} {shown}"));
        }
        self.calls.push(format!("{program} {shown}"));
        if self.unreachable {
            return recorded(match program.as_str() {
                "rbd" => "rbd-info-unreachable",
                "rados" => "rados-omap-unreachable",
                _ => "ceph-fsid-unreachable",
            });
        }
        if key != self.key {
            return recorded(match program.as_str() {
                "rbd" => "rbd-info-wrong-key",
                "rados" => "rados-omap-wrong-key",
                _ => "ceph-fsid-wrong-key",
            });
        }
        let mut words: Vec<&str> = Vec::new();
        let mut options: BTreeMap<&str, &str> = BTreeMap::new();
        let mut rest = args.iter().map(String::as_str);
        while let Some(arg) = rest.next() {
            match arg {
                "--no-progress" | "--all" => {}
                option if option.starts_with('-') && option != "-" => {
                    options.insert(option, rest.next().unwrap_or_default());
                }
                word => words.push(word),
            }
        }
        if let Some((command, answer)) = self.odd
            && words.first() == Some(&command)
        {
            return ok(answer);
        }
        match (program.as_str(), &words[..]) {
            ("ceph", ["fsid"]) => ok(format!("\n{}\n", json!({"fsid": self.fsid}))),
            ("ceph", ["osd", "pool", "ls", "detail"]) => {
                let pools = self.spaces.keys().filter(|space| !space.contains('/'));
                let pool = |name| json!({"pool_name": name, "application_metadata": {"rbd": {}}});
                ok(json!(pools.map(pool).collect::<Vec<_>>()).to_string())
            }
            ("rbd", ["import", "-", spec]) => self.import(spec, &options, stdin),
            ("rbd", ["trash", "rm", spec]) => self.purge(spec),
            ("rbd", ["rename", from, to]) => self.rename(from, to),
            ("rbd", ["trash", "mv", spec]) => self.trash(spec, options["--expires-at"]),
            ("rbd", ["image-meta", "set", spec, key, value]) => self.set_metadata(spec, key, value),
            ("rbd", ["resize", spec]) => self.resize(spec, options["--size"]),
            ("rbd", ["rm", spec]) => self.remove(spec),
            ("rados", ["listomapvals", "rbd_trash"]) => self.dumped(&options),
            ("rbd", words) => match self.tell(words) {
                Some(told) => told,
                None => self.unknown(&program, &shown),
            },
            _ => self.unknown(&program, &shown),
        }
    }

    /// What changes nothing.
    fn tell(&self, words: &[&str]) -> Option<Played> {
        Some(match words {
            ["namespace", "ls", pool] => {
                let prefix = format!("{pool}/");
                let found = self.spaces.keys().filter_map(|space| space.strip_prefix(&prefix));
                let found: Vec<_> = found.map(|namespace| json!({"name": namespace})).collect();
                ok(json!(found).to_string())
            }
            ["ls", space] => match self.space(space) {
                Ok(space) => {
                    let listed =
                        space.images.iter().filter(|(_, image)| !image.unlisted).map(|(name, _)| name);
                    ok(json!(listed.collect::<Vec<_>>()).to_string())
                }
                Err(failure) => recorded(failure),
            },
            ["trash", "ls", space] => match self.space(space) {
                Ok(space) => {
                    let told = |entry: &Trashed| json!({"id": entry.image.id, "name": entry.name});
                    ok(json!(space.trash.iter().map(told).collect::<Vec<_>>()).to_string())
                }
                Err(failure) => recorded(failure),
            },
            ["info", spec] => self.described(spec, |name, image| info(name, image).to_string()),
            ["image-meta", "list", spec] => self.described(spec, |_, image| {
                // Nothing at all where there is none.
                if image.metadata.is_empty() { String::new() } else { json!(image.metadata).to_string() }
            }),
            ["status", spec] => self.described(spec, |_, image| {
                let watchers = image.watchers.iter();
                let watchers =
                    watchers.map(|address| json!({"address": address, "client": 4123, "cookie": 1}));
                json!({"watchers": watchers.collect::<Vec<_>>()}).to_string()
            }),
            ["diff", spec] => self.described(spec, |_, image| {
                let extent = json!({"offset": 0, "length": 65_536, "exists": "true"});
                if image.content { json!([extent]).to_string() } else { "[]".to_owned() }
            }),
            ["snap", "ls", spec] => self.described(spec, |_, image| {
                let snapshots = image.snapshots.iter().map(|name| json!({"id": 4, "name": name}));
                json!(snapshots.collect::<Vec<_>>()).to_string()
            }),
            ["children", spec] => self.described(spec, |_, image| {
                let child =
                    |name| json!({"pool": "rbd", "pool_namespace": "", "image": name, "trash": false});
                json!(image.clones.iter().map(child).collect::<Vec<_>>()).to_string()
            }),
            _ => return None,
        })
    }

    /// The trash of a space as it is kept, by the ids. Nobody can tell a namespace that is not there from one without a trash.
    fn dumped(&self, options: &BTreeMap<&str, &str>) -> Played {
        let pool = options["-p"];
        if !self.spaces.contains_key(pool) {
            return recorded("rados-omap-no-pool");
        }
        let space =
            options.get("-N").map_or_else(|| pool.to_owned(), |namespace| format!("{pool}/{namespace}"));
        let Some(space) = self.spaces.get(&space).filter(|space| !space.trash.is_empty()) else {
            return recorded("rados-omap-no-object");
        };
        let mut entries: Vec<&Trashed> = space.trash.iter().collect();
        entries.sort_by(|a, b| a.image.id.cmp(&b.image.id));
        ok(entries.into_iter().map(Trashed::dumped).collect::<String>())
    }

    fn set_metadata(&mut self, spec: &str, key: &str, value: &str) -> Played {
        if self.image(spec).is_err() {
            return recorded("rbd-meta-set-no-image");
        }
        self.step(|state| state.image_mut(spec).metadata.insert(key.to_owned(), value.to_owned()))?;
        ok("")
    }

    fn unknown(&mut self, program: &str, shown: &str) -> Played {
        self.complaints.push(format!("nobody plays {program} {shown}"));
        Ok(Answer(22, String::new(), "rbd: unknown command\n".into()))
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

    fn space_mut(&mut self, space: &str) -> &mut Space {
        self.spaces.get_mut(space).unwrap()
    }

    fn image(&self, spec: &str) -> Result<&Image, &'static str> {
        let (space, name) = spec.rsplit_once('/').unwrap();
        let image = self.space(space)?.images.get(name);
        image.filter(|image| !image.headless).ok_or("rbd-info-no-image")
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

    /// In the steps of the real one: the name in the list, what it stands for, an image of one object, each entry of its metadata,
    /// its size.
    fn import(&mut self, spec: &str, options: &BTreeMap<&str, &str>, stdin: &[u8]) -> Played {
        let (space, name) = spec.rsplit_once('/').unwrap();
        match self.space(space) {
            Err(failure) => return recorded(failure),
            Ok(space) if space.images.contains_key(name) => return recorded("rbd-import-exists"),
            Ok(_) => {}
        }
        let Some(read) = Stream::read(stdin) else {
            self.complaints.push("an import cannot be read".into());
            return Ok(Answer(22, String::new(), "rbd: import failed: (22) Invalid argument\n".into()));
        };
        if let Some(pool) = options.get("--data-pool")
            && !self.spaces.contains_key(*pool)
        {
            return recorded("rbd-create-no-data-pool");
        }
        let id = self.id();
        let data_pool = options.get("--data-pool").map(|pool| (*pool).to_owned());
        self.step(|state| {
            let image = Image { id: id.clone(), headless: true, ..Image::default() };
            state.spaces.get_mut(space).unwrap().images.insert(name.to_owned(), image);
        })?;
        self.step(|_| ())?;
        self.step(|state| {
            let image = state.image_mut(spec);
            *image = Image {
                id,
                size: 4 << 20,
                features: read.features,
                // Its own is not written down.
                data_pool: data_pool.filter(|pool| pool != space.split('/').next().unwrap_or_default()),
                ..Image::default()
            };
        })?;
        for (key, value) in read.metadata {
            self.step(|state| state.image_mut(spec).metadata.insert(key, value))?;
        }
        self.step(|state| state.image_mut(spec).size = read.size)?;
        ok("")
    }

    fn resize(&mut self, spec: &str, size: &str) -> Played {
        let size: u64 = size.strip_suffix('B').unwrap().parse().unwrap();
        match self.image(spec).map(|image| image.size.cmp(&size)) {
            Err(failure) => recorded(failure),
            Ok(std::cmp::Ordering::Equal) => recorded("rbd-resize-same"),
            Ok(std::cmp::Ordering::Greater) => recorded("rbd-resize-shrink"),
            Ok(std::cmp::Ordering::Less) => {
                self.step(|state| state.image_mut(spec).size = size)?;
                ok("")
            }
        }
    }

    /// In the steps of the real one: what the new name stands for, the list of names, what the old name stands for.
    fn rename(&mut self, from: &str, to: &str) -> Played {
        let ((space, old), (_, new)) = (from.rsplit_once('/').unwrap(), to.rsplit_once('/').unwrap());
        if self.image(from).is_err() {
            return recorded("rbd-rename-no-image");
        }
        if self.spaces[space].images.contains_key(new) {
            return recorded("rbd-rename-exists");
        }
        self.step(|state| {
            let images = &mut state.space_mut(space).images;
            let image = Image { unlisted: true, ..images[old].clone() };
            images.insert(new.to_owned(), image);
        })?;
        if self.spaces[space].images[old].unlisted {
            return recorded("rbd-rename-no-image");
        }
        self.step(|state| {
            let images = &mut state.space_mut(space).images;
            images.get_mut(old).unwrap().unlisted = true;
            images.get_mut(new).unwrap().unlisted = false;
        })?;
        self.step(|state| state.space_mut(space).images.remove(old))?;
        ok("")
    }

    /// In the steps of the real one: an entry in the trash, then the image has no name, which leaves the list, and the entry
    /// is complete. What was broken off is gone on with, also by a name that is in the trash alone.
    fn trash(&mut self, spec: &str, until: &str) -> Played {
        let (space, name) = spec.rsplit_once('/').unwrap();
        let listed = |space: &Space| space.images.get(name).filter(|image| !image.unlisted).cloned();
        let moving = |space: &Space| {
            space
                .trash
                .iter()
                .find(|entry| entry.moving && entry.name == name)
                .map(|entry| entry.image.clone())
        };
        let found = self.space(space).map(|space| listed(space).or_else(|| moving(space)));
        let image = match found {
            Ok(Some(image)) => image,
            Ok(None) => return recorded("rbd-trash-mv-no-image"),
            Err(_) => return recorded("rbd-trash-mv-no-pool"),
        };
        let at = self.now();
        let until = match until.strip_suffix(" seconds") {
            Some(seconds) => at + SignedDuration::from_secs(seconds.parse().unwrap()),
            None => until.parse().unwrap(),
        };
        let id = image.id.clone();
        self.step(|state| {
            let trash = &mut state.space_mut(space).trash;
            if !trash.iter().any(|entry| entry.image.id == id) {
                trash.push(Trashed { name: name.to_owned(), image, moving: true, at, until });
            }
        })?;
        self.step(|state| {
            if let Some(image) = state.space_mut(space).images.get_mut(name) {
                image.headless = true;
            }
        })?;
        self.step(|state| state.space_mut(space).images.remove(name))?;
        self.step(|state| {
            let mut trash = state.space_mut(space).trash.iter_mut();
            trash.find(|entry| entry.image.id == id).unwrap().moving = false;
        })?;
        ok("")
    }

    fn purge(&mut self, spec: &str) -> Played {
        let now = self.now();
        let (space, id) = spec.rsplit_once('/').unwrap();
        let found =
            self.space(space).ok().and_then(|space| space.trash.iter().position(|e| e.image.id == id));
        let Some(at) = found else { return recorded("rbd-trash-rm-no-image") };
        let entry = &self.spaces[space].trash[at];
        if entry.until > now {
            return recorded("rbd-trash-rm-not-expired");
        }
        if entry.moving {
            return recorded("rbd-trash-rm-half-moved");
        }
        if !entry.image.snapshots.is_empty() {
            return recorded("rbd-trash-rm-snapshots");
        }
        if !entry.image.watchers.is_empty() {
            return recorded("rbd-rm-watched");
        }
        self.step(|state| {
            let space = state.space_mut(space);
            space.trash.remove(at);
            // What names of it were left stand for nothing now.
            space.images.values_mut().filter(|image| image.id == id).for_each(|image| image.headless = true);
        })?;
        ok("")
    }

    fn remove(&mut self, spec: &str) -> Played {
        let (space, name) = spec.rsplit_once('/').unwrap();
        let Some(image) = self.space(space).ok().and_then(|space| space.images.get(name)) else {
            return recorded("rbd-rm-no-image");
        };
        let (id, headless, unlisted) = (image.id.clone(), image.headless, image.unlisted);
        if !headless {
            self.complaints.push(format!("a whole image was removed at once: {spec}"));
        }
        self.step(|state| {
            let space = state.space_mut(space);
            space.images.remove(name);
            // It forces what it finds in the trash.
            space.trash.retain(|entry| entry.image.id != id);
        })?;
        // It says so and removes the name nevertheless.
        if unlisted { recorded("rbd-rm-no-image") } else { ok("") }
    }
}

impl Trashed {
    /// As `rados` dumps it.
    fn dumped(&self) -> String {
        let value = entry::written(&self.name, 0, self.at.into(), self.until.into());
        let mut text = format!("id_{}\nvalue ({} bytes) :\n", self.image.id, value.len());
        for (row, bytes) in value.chunks(16).enumerate() {
            let hexadecimal = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
            let _ = writeln!(text, "{:08x}  {hexadecimal}  |.|", row * 16);
        }
        let _ = write!(text, "{:08x}\n\n", value.len());
        text
    }

    /// Whether it is kept still for at least a day.
    pub(crate) fn is_kept(&self) -> bool {
        self.until > self.at + SignedDuration::from_hours(24)
    }
}

fn info(name: &str, image: &Image) -> serde_json::Value {
    let names = [
        (0, "layering"),
        (2, "exclusive-lock"),
        (3, "object-map"),
        (4, "fast-diff"),
        (5, "deep-flatten"),
        (6, "journaling"),
    ];
    let features = names.iter().filter(|(bit, _)| image.features & (1 << bit) != 0).map(|(_, name)| *name);
    let mut features: Vec<&str> = features.collect();
    features.extend(image.data_pool.as_ref().map(|_| "data-pool"));
    let mut info = json!({
        "name": name, "id": image.id, "size": image.size, "objects": image.size.div_ceil(4 << 20), "order": 22,
        "object_size": 4 << 20, "snapshot_count": image.snapshots.len(), "format": 2, "features": features,
        "op_features": [], "flags": []
    });
    if let Some(pool) = &image.data_pool {
        info["data_pool"] = json!(pool);
    }
    info
}
