//! Processes of several clusters on one export, as [`World`] tells, played in one order: [`play`].
//!
//! The scripts do with the backend and the API server what the provisioner does with them; they do not try the provisioner.

mod judge;

use std::{
    collections::BTreeMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, MutexGuard},
    thread,
};

use judge::judge;

use super::{
    super::*,
    turns::{Orders, Turns},
};
use crate::backend::nfs::{trash::rounds_for_tests, work::Rule};

/// Who does what on one export.
#[derive(Debug)]
pub(super) struct World {
    pub(super) name: &'static str,
    pub(super) actors: &'static [Actor],
}

/// A process of a cluster, or somebody else.
#[derive(Debug, Clone, Copy)]
pub(super) struct Actor {
    pub(super) cluster: usize,
    /// The actor of the same cluster whose lease has ended when this one begins.
    pub(super) after: Option<usize>,
    pub(super) script: &'static [Do],
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Do {
    /// A claim of this name is served at that path, and its pod writes.
    Claim(&'static str, &'static str, &'static str),
    /// The same in this namespace at the default path, for a claim that has the UID of the third one, which is gone.
    ClaimAtDefault(&'static str, &'static str, &'static str),
    /// The same on the export's second name.
    ClaimOnOther(&'static str, &'static str),
    /// The claim is deleted, and its volume removed.
    Remove(&'static str, Disposal),
    /// The claim is deleted, and its volume kept for a new PV: nothing else happens.
    Rescue(&'static str),
    /// The PV of this claim of another cluster is copied to this cluster, where it is released, and removed.
    RemoveCopy(&'static str),
    /// What was begun in vain is rolled back.
    Sweep,
    /// The trash is looked at.
    CollectGarbage,
    /// What the next leader does first: goes on with all that was begun.
    GoOn,
    /// Another directory is mounted in place of the export.
    Unmount,
}

/// The most interruptions where every order is tried.
const INTERRUPTIONS: usize = 1;
/// The most interruptions of an order that is drawn.
const DRAWN_INTERRUPTIONS: usize = 4;

/// How often a claim is tried again whose volume could not be made for the time being.
const TRIES: usize = 3;

const CLUSTERS: [&str; 2] = ["cluster-1", "cluster-2"];

/// A claim, and what became of it.
#[derive(Debug)]
struct Entry {
    cluster: usize,
    request: VolumeRequest,
    volume: Option<Volume>,
    state: State,
    shares: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Asked,
    Refused,
    Bound,
    Released(Disposal),
    Gone(Disposal),
}

#[derive(Debug, Default)]
struct Ledger {
    claims: BTreeMap<&'static str, Entry>,
    wrong: Option<String>,
}

/// What all actors share.
struct Stage {
    parent: TempDir,
    hosts: [Arc<FakeKubernetes>; 2],
    turns: Turns,
    ledger: Mutex<Ledger>,
    off: Vec<Rule>,
    two_names: bool,
}

/// An actor at work.
struct Process {
    stage: Arc<Stage>,
    /// Its number, as long as it needs a turn for each step.
    actor: Option<usize>,
    cluster: usize,
    nfs: Nfs,
    permit: Permit,
}

/// It may not go on.
#[derive(Debug)]
struct Stopped;

impl From<io::Error> for Stopped {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl Stage {
    fn root(&self) -> PathBuf {
        self.parent.path().join("export")
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    fn wrong(&self, what: String) {
        self.ledger().wrong.get_or_insert(what);
    }

    /// Where a pod finds the volume.
    fn directory(&self, volume: &Volume) -> PathBuf {
        let Source::Nfs { path, .. } = &volume.source else { panic!("not an NFS source") };
        self.root().join(path.trim_start_matches("/export/"))
    }

    fn open(&self, cluster: usize, two_names: bool) -> Nfs {
        let root = self.root();
        let first = Export { root: root.clone(), threads: 1, ..export("default", "server", "/export") };
        // Another mount of the same.
        let second = Export {
            root: self.parent.path().join("mount/export"),
            threads: 1,
            ..export("other", "other-server", "/export")
        };
        let exports = if two_names { vec![first, second] } else { vec![first] };
        let nfs = Nfs::new(exports, Arc::clone(&self.hosts[cluster]) as Arc<dyn ClusterInfo>).unwrap();
        for store in &nfs.stores {
            for rule in &self.off {
                store.rules.switch_off(*rule);
            }
            nfs.expect_store(StoreExpectation { store: store.export.name.clone(), ..nothing() });
        }
        // The machine decides which of two exports is opened first, and what is made on it before the other one is opened.
        let settled = |store: &StoreStatus| match &store.ready {
            Ok(()) => self.off.contains(&Rule::Identity),
            Err(why) => !why.ends_with("is being opened"),
        };
        let since = Instant::now();
        while two_names && !nfs.stores().iter().all(settled) {
            assert!(since.elapsed() < Duration::from_mins(1), "{:?}", nfs.stores());
            thread::sleep(Duration::from_millis(1));
        }
        nfs
    }
}

impl Process {
    fn new(stage: &Arc<Stage>, actor: Option<usize>, cluster: usize) -> Self {
        // Who looks after it in the end has put the configuration right.
        let nfs = stage.open(cluster, stage.two_names && actor.is_some());
        if let Some(actor) = actor {
            for store in &nfs.stores {
                let stage = Arc::clone(stage);
                let root = stage.root();
                store.interruption.on_step(move |step| {
                    let path = step.path();
                    let below = path.strip_prefix(&root).unwrap_or(&path).display().to_string();
                    // Several threads purge a tree, and nothing that is in one is anyone's any more.
                    if below.contains("purging/") && step.what.starts_with("remove") {
                        return Ok(());
                    }
                    stage.turns.wait(actor, format!("{} {below}", step.what))
                });
            }
        }
        Self { stage: Arc::clone(stage), actor, cluster, nfs, permit: Permit::unlimited() }
    }

    fn kube(&self) -> &FakeKubernetes {
        &self.stage.hosts[self.cluster]
    }

    /// Something happens at the API server.
    fn turn(&self, what: &str) -> Result<(), Stopped> {
        if let Some(actor) = self.actor {
            self.stage.turns.wait(actor, what.to_owned())?;
        }
        self.permit.check().map_err(|_| Stopped)
    }

    /// Whether a failure is one of the volume, and not the end of this process.
    fn failed<T>(&self, result: Result<T, Error>) -> Result<Option<T>, Stopped> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(_) if self.permit.check().is_err() => Err(Stopped),
            Err(error) if error.chain().contains("the process died") => Err(Stopped),
            Err(_) => Ok(None),
        }
    }

    async fn play(&self, script: &[Do]) -> Result<(), Stopped> {
        self.lead();
        for action in script {
            match *action {
                Do::Claim(name, path, existing) => {
                    self.ask(name, patterned(name, path), existing);
                    self.serve(name).await?;
                }
                Do::ClaimAtDefault(name, namespace, like) => {
                    let gone = |entry: &Entry| matches!(entry.state, State::Gone(_));
                    if name != like && !self.stage.ledger().claims.get(like).is_some_and(gone) {
                        continue;
                    }
                    let mut asked = request(like, &[]);
                    asked.claim.namespace = namespace.into();
                    self.ask(name, asked, "adopt");
                    self.serve(name).await?;
                }
                Do::ClaimOnOther(name, path) => {
                    self.ask(
                        name,
                        request(
                            name,
                            &[("pathPattern", path), ("server", "other-server"), ("share", "/export")],
                        ),
                        "refuse",
                    );
                    self.serve(name).await?;
                }
                Do::Remove(name, disposal) => self.release(name, disposal).await?,
                Do::Rescue(name) => self.rescue(name)?,
                Do::RemoveCopy(name) => self.remove_copy(name).await?,
                Do::Sweep => self.sweep().await?,
                Do::CollectGarbage => self.collect_garbage().await,
                Do::GoOn => self.go_on().await?,
                Do::Unmount => {
                    self.turn("mount something else")?;
                    let root = self.stage.root();
                    fs::rename(&root, root.with_extension("aside")).unwrap();
                    fs::create_dir(&root).unwrap();
                }
            }
        }
        Ok(())
    }

    /// Begins to lead: the backend is told what the PVs say.
    fn lead(&self) {
        if self.stage.off.contains(&Rule::Identity) {
            return;
        }
        let ledger = self.stage.ledger();
        let bound = |entry: &&Entry| entry.cluster == self.cluster && entry.volume.is_some();
        let identity = ledger.claims.values().rfind(bound).and_then(|entry| entry.volume.as_ref());
        let identity = identity.map(|volume| volume.store_identity.clone());
        drop(ledger);
        if identity.is_some() {
            self.nfs.expect_store(StoreExpectation { identity, ..nothing() });
        }
    }

    fn ask(&self, name: &'static str, mut request: VolumeRequest, existing: &str) {
        request.parameters.insert("existingDirectory".into(), existing.into());
        let (cluster, shares) = (self.cluster, existing == "share");
        let entry = Entry { cluster, request, volume: None, state: State::Asked, shares };
        self.stage.ledger().claims.insert(name, entry);
    }

    /// Serves a claim: volume, PV, pod, record.
    async fn serve(&self, name: &'static str) -> Result<(), Stopped> {
        let request = self.stage.ledger().claims[name].request.clone();
        let mut created = self.nfs.create(&request, &self.permit).await;
        for _ in 0..TRIES {
            // As where the export is looked at again.
            let again = |error: &Error| matches!(error.kind(), Kind::Unavailable | Kind::Busy);
            if self.permit.check().is_err() || !created.as_ref().is_err_and(again) {
                break;
            }
            created = self.nfs.create(&request, &self.permit).await;
        }
        let Some(volume) = self.failed(created)? else {
            self.stage.ledger().claims.get_mut(name).unwrap().state = State::Refused;
            return Ok(());
        };
        self.turn(&format!("store the PV of {name}"))?;
        self.kube().set_volume(&request.name, &object_uid(&request.name), false);
        let directory = self.stage.directory(&volume);
        if fs::write(directory.join(name), name).is_err() {
            self.stage.wrong(format!("there is no directory for the pod of {name}"));
        }
        let id = volume.id.clone();
        {
            let mut ledger = self.stage.ledger();
            let entry = ledger.claims.get_mut(name).unwrap();
            entry.volume = Some(volume);
            entry.state = State::Bound;
        }
        let committed = self.nfs.commit(&id, &object_uid(&request.name), &self.permit).await;
        self.failed(committed).map(drop)
    }

    async fn release(&self, name: &'static str, disposal: Disposal) -> Result<(), Stopped> {
        self.turn(&format!("release {name}"))?;
        {
            let mut ledger = self.stage.ledger();
            let entry = ledger.claims.get_mut(name).unwrap();
            if entry.state != State::Bound {
                return Ok(());
            }
            entry.state = State::Released(disposal);
            self.kube().set_volume(&entry.request.name, &object_uid(&entry.request.name), true);
        }
        self.remove(name, disposal).await
    }

    fn removal(&self, name: &str, disposal: Disposal) -> Option<Removal> {
        let ledger = self.stage.ledger();
        let entry = ledger.claims.get(name)?;
        entry.volume.as_ref().map(|volume| conformance::removal(&entry.request, volume, disposal))
    }

    async fn remove(&self, name: &'static str, disposal: Disposal) -> Result<(), Stopped> {
        let Some(removal) = self.removal(name, disposal) else { return Ok(()) };
        let removed = self.nfs.remove(&removal, &self.permit).await;
        if self.failed(removed)?.is_none() {
            return Ok(());
        }
        self.turn(&format!("delete the PV of {name}"))?;
        match self.kube().pv_state(&removal.name).await.unwrap() {
            PvState::Present { removing: true, .. } => {
                self.kube().delete_volume(&removal.name);
                self.stage.ledger().claims.get_mut(name).unwrap().state = State::Gone(disposal);
                Ok(())
            }
            PvState::Present { .. } => {
                let restored = self.nfs.restore(&removal, &self.permit).await;
                self.failed(restored).map(drop)
            }
            PvState::Absent => Ok(()),
        }
    }

    fn rescue(&self, name: &'static str) -> Result<(), Stopped> {
        self.turn(&format!("keep the PV of {name}"))?;
        let mut ledger = self.stage.ledger();
        if let Some(entry) = ledger.claims.get_mut(name)
            && matches!(entry.state, State::Released(_))
        {
            entry.state = State::Bound;
            self.kube().set_volume(&entry.request.name, &object_uid(&entry.request.name), false);
        }
        Ok(())
    }

    async fn remove_copy(&self, name: &'static str) -> Result<(), Stopped> {
        self.turn(&format!("copy the PV of {name}"))?;
        let Some(mut removal) = self.removal(name, Disposal::Delete) else { return Ok(()) };
        removal.pv_metadata.uid = "copy".into();
        self.kube().set_volume(&removal.name, "copy", true);
        let removed = self.nfs.remove(&removal, &self.permit).await;
        if self.failed(removed)?.is_some() {
            self.kube().delete_volume(&removal.name);
        }
        Ok(())
    }

    /// Takes back what was begun and has no PV, and ends what has one.
    async fn sweep(&self) -> Result<(), Stopped> {
        for store in &self.nfs.stores {
            let found = self.nfs.list_uncommitted(&store.export.name, &|_: &VolumeName| false).await;
            for uncommitted in self.failed(found)?.unwrap_or_default() {
                let pv = self.kube().pv_state(uncommitted.id.name()).await.unwrap();
                let asked = |entry: &Entry| {
                    entry.cluster == self.cluster
                        && entry.request.name == *uncommitted.id.name()
                        && entry.state == State::Asked
                };
                let done = if let PvState::Present { uid, .. } = pv {
                    self.nfs.commit(&uncommitted.id, &uid, &self.permit).await
                } else if self.stage.ledger().claims.values().any(asked) {
                    Ok(())
                } else {
                    self.nfs.rollback(&uncommitted, &self.permit).await
                };
                self.failed(done)?;
            }
        }
        Ok(())
    }

    async fn collect_garbage(&self) {
        for store in &self.nfs.stores {
            rounds_for_tests(store, &self.permit).await;
        }
    }

    async fn go_on(&self) -> Result<(), Stopped> {
        self.turn("begin to lead")?;
        self.lead();
        let known: Vec<(&'static str, State)> = {
            let ledger = self.stage.ledger();
            let ours = ledger.claims.iter().filter(|(_, entry)| entry.cluster == self.cluster);
            ours.map(|(name, entry)| (*name, entry.state)).collect()
        };
        for (name, state) in known {
            match state {
                State::Asked => self.serve(name).await?,
                State::Released(disposal) => self.remove(name, disposal).await?,
                State::Refused | State::Bound | State::Gone(_) => {}
            }
        }
        self.sweep().await?;
        self.collect_garbage().await;
        Ok(())
    }
}

/// Plays the world in the order that `orders` gives, with some rules switched off; what is lost, with the steps.
pub(super) fn play(world: &World, off: &[Rule], orders: &mut Orders) -> Option<String> {
    let uses = |wanted: fn(&Do) -> bool| world.actors.iter().any(|actor| actor.script.iter().any(wanted));
    let parent = temporary();
    fs::create_dir(parent.path().join("export")).unwrap();
    std::os::unix::fs::symlink(parent.path(), parent.path().join("mount")).unwrap();
    let stage = Arc::new(Stage {
        parent,
        hosts: CLUSTERS.map(|cluster| Arc::new(FakeKubernetes::new(cluster))),
        turns: Turns::new(world.actors.len()),
        ledger: Mutex::default(),
        off: off.to_vec(),
        two_names: uses(|action| matches!(action, Do::ClaimOnOther(..))),
    });
    let mut permits = Vec::new();
    let mut threads = Vec::new();
    for (number, actor) in world.actors.iter().enumerate() {
        let process = Process::new(&stage, Some(number), actor.cluster);
        permits.push(process.permit.clone());
        threads.push(thread::spawn(move || {
            let played = catch_unwind(AssertUnwindSafe(|| {
                let begun = process.stage.turns.wait(number, "begin".into());
                if begun.is_ok() {
                    let _ = runtime().block_on(process.play(actor.script));
                }
            }));
            process.stage.turns.done(number);
            played.unwrap();
        }));
    }
    let trace = take_turns(world, &stage, &permits, orders);
    for thread in threads {
        thread.join().unwrap();
    }
    if uses(|action| matches!(action, Do::Unmount)) {
        let root = stage.root();
        let aside = root.with_extension("aside");
        if aside.exists() {
            fs::rename(&root, root.with_extension("wrong")).unwrap();
            fs::rename(aside, &root).unwrap();
        }
    }
    runtime().block_on(judge(&stage)).map(|wrong| format!("{wrong}; {}", trace.join(", ")))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Gives the turns until nobody waits for one. Tells who did what.
fn take_turns(world: &World, stage: &Stage, permits: &[Permit], orders: &mut Orders) -> Vec<String> {
    let mut trace = Vec::new();
    let mut current: Option<usize> = None;
    let mut interruptions = 0;
    let most = if orders.is_systematic() { INTERRUPTIONS } else { DRAWN_INTERRUPTIONS };
    loop {
        let waiting = stage.turns.waiting();
        let over = |actor: usize| permits[actor].check().is_err();
        let deposed = |actor: &usize| over(*actor);
        let (late, mut ready): (Vec<usize>, Vec<usize>) =
            (0..waiting.len()).filter(|actor| waiting[*actor].is_some()).partition(deposed);
        let mut at_no_cost = 1;
        if let Some(running) = current.filter(|current| ready.contains(current)) {
            ready.retain(|actor| *actor != running);
            ready.insert(0, running);
        } else {
            at_no_cost = ready.len().max(1);
        }
        // A call that is late lands at any time, and where nothing else is left, it lands or never does.
        let mut options: Vec<(usize, bool)> = ready.iter().chain(&late).map(|actor| (*actor, true)).collect();
        if ready.is_empty() {
            options.extend(late.first().map(|actor| (*actor, false)));
            at_no_cost = options.len();
        }
        if interruptions == most {
            options.truncate(at_no_cost.max(1));
        }
        if options.is_empty() {
            return trace;
        }
        let choice = orders.choose(options.len());
        let (actor, goes) = options[choice];
        interruptions += usize::from(choice >= at_no_cost);
        let step = waiting[actor].as_deref().unwrap_or_default();
        if let Some(before) = world.actors[actor].after
            && waiting[before].is_some()
            && !over(before)
        {
            permits[before].revoke();
        }
        let how = if !goes {
            "dies before"
        } else if over(actor) {
            "late:"
        } else {
            "does"
        };
        if current != Some(actor) || step != "begin" {
            trace.push(format!("{actor} {how} {step}"));
        }
        if over(actor) {
            // Who was interrupted by it goes on.
        } else {
            current = Some(actor);
        }
        if goes {
            stage.turns.go(actor);
        } else {
            stage.turns.kill(actor);
        }
    }
}
