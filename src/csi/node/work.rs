//! The work on the volumes of one driver: [`Work`]. Each method is run by a call that holds the lock of its volume.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tonic::Status;

use super::{
    plan::{self, Publishing, Staging, Wanted},
    record::{Arguments, Publication, SUFFIX, StageRecord},
    usage::{self, Usage},
};
use crate::{
    backend::{Connector, NodeVolume},
    csi::{
        request::{At, Publish, Stage, Unpublish, Unstage},
        status,
    },
    system::{
        command::{self, Command},
        mount::{Filesystem, FilesystemUsage, Mount, MountError, Mounted, Place, Prepared, Table, Tree},
        pool::{Lost, Pool},
    },
    volume::Secrets,
};

/// Threads for the mounts of one volume. What hangs takes one; enough are left to unmount it.
const THREADS: usize = 6;
/// Threads that ask its file system, which may not answer.
const ASKING_THREADS: usize = 2;
/// A system call is waited for as long as it takes: until it returns, its volume is locked. The call's own deadline
/// answers kubelet.
const AS_LONG_AS_IT_TAKES: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often to try again to unmount what is in use.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(500);
/// How much of the output of a mount program is kept.
const OUTPUT: usize = 4096;

/// How a driver does its work.
#[derive(Debug, Clone)]
pub struct Times {
    /// The longest that kubelet waits for an answer.
    pub call: Duration,
    /// How long what is in use, or whose server does not answer, keeps its mount when it is to go.
    pub unmount_grace: Duration,
    /// How long to wait for the usage of a volume before the last answer is given again.
    pub stats: Duration,
}

/// Everything about the volumes of one driver on this node.
pub(super) struct Work {
    pub(super) driver: String,
    pub(super) connector: Arc<dyn Connector>,
    pub(super) tree: Arc<Tree>,
    pub(super) times: Times,
    stages: Mutex<BTreeMap<String, StageRecord>>,
    pools: Mutex<BTreeMap<String, Pools>>,
    usages: Mutex<BTreeMap<(String, PathBuf), Usage>>,
}

/// The threads of one volume.
#[derive(Clone)]
struct Pools {
    mounts: Pool,
    questions: Pool,
}

/// What the server of a mounted volume says.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// It is there.
    Alive,
    /// It is lost for good.
    Stale,
    /// Nothing.
    None,
}

impl Work {
    pub(super) fn new(driver: String, connector: Arc<dyn Connector>, tree: Arc<Tree>, times: Times) -> Self {
        let (stages, pools, usages) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { driver, connector, tree, times, stages, pools, usages }
    }

    pub(super) fn known(&self, volume: &str) -> Option<StageRecord> {
        self.stages.lock().get(volume).cloned()
    }

    pub(super) fn learn(&self, record: StageRecord) {
        self.stages.lock().insert(record.volume.clone(), record);
    }

    fn pools(&self, volume: &str) -> Pools {
        let mut pools = self.pools.lock();
        let new = || Pools {
            mounts: Pool::new("volume", THREADS, AS_LONG_AS_IT_TAKES),
            questions: Pool::new("question", ASKING_THREADS, self.times.stats),
        };
        pools.entry(volume.to_owned()).or_insert_with(new).clone()
    }

    /// Forgets what is only kept for a volume that is on this node.
    fn forget(&self, volume: &str) {
        self.stages.lock().remove(volume);
        self.usages.lock().retain(|(of, _), _| of != volume);
        let mut pools = self.pools.lock();
        let idle = |one: &Pools| one.mounts.running().count + one.questions.running().count == 0;
        if pools.get(volume).is_some_and(idle) {
            pools.remove(volume);
        }
    }

    /// Runs a system call that may hang on a thread of the volume.
    pub(super) async fn on_thread<T: Send + 'static>(
        &self,
        volume: &str,
        what: String,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        self.pools(volume).mounts.run(what.clone(), call).await.map_err(|lost| status::of_lost(&what, &lost))
    }

    /// The place of this path. `None`: its parent does not exist.
    pub(super) async fn place(&self, volume: &str, path: &Path) -> Result<Option<Arc<Place>>, Status> {
        let (tree, at) = (Arc::clone(&self.tree), path.to_owned());
        let what = format!("open {}", path.display());
        let found = self.on_thread(volume, what, move || tree.place(&at)).await?;
        match found {
            Ok(place) => Ok(place.map(Arc::new)),
            Err(error) => Err(status::of_mount("refused", &error)),
        }
    }

    async fn existing(&self, volume: &str, path: &Path) -> Result<Arc<Place>, Status> {
        let absent =
            || Status::failed_precondition(format!("the directory of {} does not exist", path.display()));
        self.place(volume, path).await?.ok_or_else(absent)
    }

    /// The mounts of this machine. They are listed from memory; no server is asked.
    pub(super) fn table() -> Result<Table, Status> {
        Table::read().map_err(|error| Status::internal(format!("read the table of mounts: {error}")))
    }

    async fn write(&self, record: &StageRecord, staging: &Arc<Place>) -> Result<(), Status> {
        let text = serde_json::to_vec(record).map_err(|error| Status::internal(error.to_string()))?;
        let place = Arc::clone(staging);
        let what = format!("record volume {}", record.volume);
        let written =
            self.on_thread(&record.volume, what.clone(), move || place.write_beside(SUFFIX, &text)).await?;
        written.map_err(|error| status::of_mount(&what, &error))?;
        self.learn(record.clone());
        Ok(())
    }

    async fn erase(&self, volume: &str, staging: &Arc<Place>) -> Result<(), Status> {
        let place = Arc::clone(staging);
        let what = format!("remove the record of volume {volume}");
        let removed = self.on_thread(volume, what.clone(), move || place.remove_beside(SUFFIX)).await?;
        removed.map_err(|error| status::of_mount(&what, &error))?;
        self.forget(volume);
        Ok(())
    }

    pub(super) async fn stage(&self, request: &Stage) -> Result<(), Status> {
        let volume = request.capability.volume(&request.volume, &request.context);
        let place = self.existing(&request.volume, &request.staging).await?;
        self.stage_at(&volume, &place, &Arguments::of(&request.capability), &request.secrets).await
    }

    async fn stage_at(
        &self,
        volume: &NodeVolume,
        place: &Arc<Place>,
        arguments: &Arguments,
        secrets: &Secrets,
    ) -> Result<(), Status> {
        let server = self.connector.server(volume).map_err(|error| status::of("stage", &error))?;
        let known = self.known(&volume.id);
        let planned = plan::stage(known.as_ref(), place.path(), place.point(), arguments, &Self::table()?)?;
        if planned == Staging::Done {
            // Where there is no answer it may come back: it is staged.
            if self.state(&volume.id, place).await != Answer::Stale {
                return Ok(());
            }
            tracing::warn!(
                volume = volume.id,
                server,
                "the server does not know the mounted directory any more: mounting it again"
            );
        }
        if let Some(elsewhere) = known.as_ref().filter(|record| record.staging != place.path())
            && let Some(before) = self.place(&volume.id, &elsewhere.staging).await?
        {
            self.erase(&volume.id, &before).await?;
        }
        // Of the record, what pods have stays true.
        let publications = known.map(|record| record.publications).unwrap_or_default();
        let mut record = StageRecord {
            driver: self.driver.clone(),
            volume: volume.id.clone(),
            staging: place.path().to_owned(),
            point: place.point().to_owned(),
            server,
            arguments: arguments.clone(),
            handle: BTreeMap::new(),
            mounted: None,
            publications,
        };
        self.write(&record, place).await?;
        self.clear(&volume.id, place, |_| true).await?;
        match self.connect_and_mount(volume, secrets, &mut record, place).await {
            Ok(mounted) => {
                record.mounted = Some(mounted);
                self.write(&record, place).await
            }
            Err(failed) => {
                // Nothing of it stays, so that what kubelet does next begins from the start.
                let undone = self.clear(&volume.id, place, |_| true).await;
                let disconnected = self.connector.disconnect(&volume.id, &record.handle).await;
                if undone.is_ok() && disconnected.is_ok() && record.publications.is_empty() {
                    self.erase(&volume.id, place).await?;
                }
                Err(failed)
            }
        }
    }

    async fn connect_and_mount(
        &self,
        volume: &NodeVolume,
        secrets: &Secrets,
        record: &mut StageRecord,
        place: &Arc<Place>,
    ) -> Result<Mounted, Status> {
        let about = format!("stage volume {} of {}", volume.id, record.server);
        let connected = self.connector.connect(volume, secrets).await;
        let connected = connected.map_err(|error| status::of(&about, &error))?;
        record.handle = connected.handle;
        self.write(record, place).await?;
        let mut refusals = Vec::new();
        for way in connected.ways {
            let told = way.told();
            match self.mount(&volume.id, place, way).await? {
                Ok(mounted) => {
                    tracing::info!(volume = volume.id, server = record.server, %mounted, "mounted");
                    return Ok(mounted);
                }
                Err(Refusal { unsupported, why }) => {
                    refusals.push(format!("{told}: {why}"));
                    if !unsupported {
                        break;
                    }
                }
            }
        }
        Err(Status::internal(format!("{about}: {}", refusals.join("; "))))
    }

    /// Mounts in one way, and says what the table then shows.
    async fn mount(
        &self,
        volume: &str,
        place: &Arc<Place>,
        way: Filesystem,
    ) -> Result<Result<Mounted, Refusal>, Status> {
        let what = format!("mount on {}", place.path().display());
        let at = Arc::clone(place);
        let prepared = self.on_thread(volume, what.clone(), move || at.prepare_directory()).await?;
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return Err(status::of_mount(&what, &error)),
        };
        let done = match way {
            Filesystem::Program { program, args } => self.run_mount_program(program, args, place).await,
            way @ (Filesystem::Kernel { .. } | Filesystem::Bind { .. }) => {
                let at = Arc::clone(place);
                let mounted = self.on_thread(volume, what.clone(), move || at.mount(&prepared, &way)).await?;
                mounted.map_err(|error| Refusal {
                    unsupported: error.is_unsupported(),
                    why: status::of_mount("mount", &error).message().to_owned(),
                })
            }
        };
        if let Err(refusal) = done {
            return Ok(Err(refusal));
        }
        match Self::table()?.top(place.point()) {
            Some(mount) => Ok(Ok(mount.what.clone())),
            None => Err(Status::internal(format!(
                "{what}: it was mounted, and the table of mounts does not show it"
            ))),
        }
    }

    async fn run_mount_program(
        &self,
        program: String,
        args: Vec<String>,
        place: &Place,
    ) -> Result<(), Refusal> {
        let path = place.path().to_string_lossy().into_owned();
        let args = args.into_iter().map(|arg| if arg == "{}" { path.clone() } else { arg }).collect();
        let name = program.clone();
        let (env, stdin) = (Vec::new(), None);
        let command = Command { program, args, env, stdin, deadline: self.times.call, cap: OUTPUT };
        match command::run(&command).await {
            Ok(output) if output.code == 0 => Ok(()),
            Ok(output) => {
                let told = String::from_utf8_lossy(&output.stderr.bytes).trim().replace('\n', "; ");
                Err(Refusal { unsupported: false, why: format!("{name} ended with {}: {told}", output.code) })
            }
            Err(failure) => {
                let unsupported = matches!(failure, command::Failure::Missing(_));
                Err(Refusal { unsupported, why: failure.to_string() })
            }
        }
    }

    /// Asks the file system that is mounted here.
    async fn ask(
        &self,
        volume: &str,
        place: &Arc<Place>,
    ) -> Result<Result<FilesystemUsage, MountError>, Lost> {
        let at = Arc::clone(place);
        self.pools(volume).questions.run(format!("ask {}", place.path().display()), move || at.usage()).await
    }

    async fn state(&self, volume: &str, place: &Arc<Place>) -> Answer {
        match self.ask(volume, place).await {
            Ok(Err(error)) if error.is_stale() => Answer::Stale,
            Ok(Ok(_) | Err(_)) => Answer::Alive,
            Err(_) => Answer::None,
        }
    }

    /// Unmounts everything at this place that `may` go, the topmost first; something else there is an error. What is in use
    /// or does not answer is taken out of the tree after the grace.
    async fn clear(
        &self,
        volume: &str,
        place: &Arc<Place>,
        may: impl Fn(&Mounted) -> bool,
    ) -> Result<(), Status> {
        let until = tokio::time::Instant::now() + self.times.unmount_grace;
        let mut last: Option<String> = None;
        loop {
            let table = Self::table()?;
            let Some(top) = table.top(place.point()) else { return Ok(()) };
            if !may(&top.what) {
                return Err(Status::failed_precondition(format!(
                    "{} is mounted at {}, and berth did not mount it there: unmount it",
                    top.what,
                    place.path().display()
                )));
            }
            let lazy = tokio::time::Instant::now() >= until;
            if lazy && let Some(why) = &last {
                tracing::warn!(volume, path = %place.path().display(), why, "taking the mount out of the tree");
            }
            let at = Arc::clone(place);
            let what = format!("unmount {}", place.path().display());
            let unmounted = self.on_thread(volume, what.clone(), move || at.unmount(lazy));
            let limit = if lazy { tokio::time::Instant::now() + self.times.unmount_grace } else { until };
            match tokio::time::timeout_at(limit, unmounted).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) if lazy => return Err(status::of_mount(&what, &error)),
                Ok(Ok(Err(error))) => {
                    last = Some(status::of_mount(&what, &error).message().to_owned());
                    tokio::time::sleep_until(until.min(tokio::time::Instant::now() + BETWEEN_ATTEMPTS)).await;
                }
                Ok(Err(status)) => return Err(status),
                Err(_) if lazy => {
                    let told = format!("{what}: it does not end, though it was taken out of the tree");
                    return Err(Status::deadline_exceeded(told));
                }
                Err(_) => last = Some(format!("{what} hangs: its server does not answer")),
            }
        }
    }

    pub(super) async fn unstage(&self, request: &Unstage) -> Result<(), Status> {
        let Some(place) = self.place(&request.volume, &request.staging).await? else {
            return Ok(());
        };
        let known = self.known(&request.volume).filter(|record| record.staging == request.staging);
        let table = Self::table()?;
        let Some(record) = known else {
            // Its record was lost, or it is unstaged already. Nothing but a driver mounts there.
            return self.clear(&request.volume, &place, |_| true).await;
        };
        if let Some(used) = record.publications.iter().find(|publication| plan::is_live(publication, &table))
        {
            return Err(Status::failed_precondition(format!(
                "volume {} is still published at {}",
                record.volume,
                used.target.display()
            )));
        }
        self.unstage_record(&record, &place).await
    }

    /// Unmounts, disconnects and forgets, in this order: what was not done is done the next time.
    pub(super) async fn unstage_record(
        &self,
        record: &StageRecord,
        place: &Arc<Place>,
    ) -> Result<(), Status> {
        let ours = |what: &Mounted| record.mounted.as_ref().is_none_or(|mounted| mounted == what);
        self.clear(&record.volume, place, ours).await?;
        let disconnected = self.connector.disconnect(&record.volume, &record.handle).await;
        disconnected.map_err(|error| status::of(&format!("unstage volume {}", record.volume), &error))?;
        self.erase(&record.volume, place).await
    }

    pub(super) async fn publish(&self, request: &Publish) -> Result<(), Status> {
        let staging = self.existing(&request.volume, &request.staging).await?;
        let target = self.existing(&request.volume, &request.target).await?;
        let arguments = Arguments::of(&request.capability);
        let wanted = Wanted {
            staging: &request.staging,
            target: &request.target,
            point: target.point(),
            read_only: request.read_only,
            arguments: &arguments,
        };
        let mut planned = plan::publish(self.known(&request.volume).as_ref(), &wanted, &Self::table()?)?;
        if planned != Publishing::Stage {
            match self.state(&request.volume, &staging).await {
                Answer::Alive => {}
                Answer::Stale => planned = Publishing::Stage,
                // What looks at the mount now hangs, and would hold the lock of the volume.
                Answer::None => return Err(self.silent(&request.volume)),
            }
        }
        if planned == Publishing::Stage {
            self.stage_again(request, &staging, &arguments).await?;
            planned = plan::publish(self.known(&request.volume).as_ref(), &wanted, &Self::table()?)?;
        }
        match planned {
            Publishing::Stage => {
                let told =
                    format!("{} shows another volume than was staged there", request.staging.display());
                return Err(Status::failed_precondition(told));
            }
            Publishing::Done => {}
            Publishing::MakeReadOnly => self.make_read_only(&request.volume, &staging, &target).await?,
            Publishing::Renew => {
                let known = self.known(&request.volume);
                let ours = |what: &Mounted| plan::is_ours(known.as_ref(), &request.target, what);
                self.clear(&request.volume, &target, ours).await?;
                self.bind(&request.volume, &staging, &target, request.read_only).await?;
            }
            Publishing::Bind => self.bind(&request.volume, &staging, &target, request.read_only).await?,
        }
        self.record_publication(request, &arguments, &staging, &target).await
    }

    fn silent(&self, volume: &str) -> Status {
        let server = self.known(volume).map(|record| record.server).unwrap_or_default();
        Status::unavailable(format!("volume {volume}: {server} has not answered for {:?}", self.times.stats))
    }

    /// Stages a volume whose stage was lost. Kubelet believes that it is there and will not ask for it.
    async fn stage_again(
        &self,
        request: &Publish,
        staging: &Arc<Place>,
        arguments: &Arguments,
    ) -> Result<(), Status> {
        let secrets = &request.secrets;
        if self.connector.needs_secrets() && secrets.iter().next().is_none() {
            return Err(Status::failed_precondition(format!(
                "volume {} is not staged at {}, and its secrets come only with NodeStageVolume",
                request.volume,
                request.staging.display()
            )));
        }
        // As it was staged; kubelet sends the same capability to both calls.
        let known = self.known(&request.volume).filter(|record| record.staging == request.staging);
        let arguments = known.map_or_else(|| arguments.clone(), |record| record.arguments);
        let volume = request.capability.volume(&request.volume, &request.context);
        tracing::warn!(volume = request.volume, "published without being staged: staging it");
        self.stage_at(&volume, staging, &arguments, secrets).await
    }

    async fn bind(
        &self,
        volume: &str,
        staging: &Arc<Place>,
        target: &Arc<Place>,
        read_only: bool,
    ) -> Result<(), Status> {
        let table = Self::table()?;
        let staged =
            table.top(staging.point()).map(|mount: &Mount| mount.options.clone()).unwrap_or_default();
        let (from, to) = (Arc::clone(staging), Arc::clone(target));
        let what = format!("bind volume {volume} to {}", target.path().display());
        let bound = self
            .on_thread(volume, what.clone(), move || {
                let prepared: Prepared = to.prepare_directory()?;
                let bound = to.bind(&prepared, &from, read_only, &staged);
                if bound.is_err() {
                    // Only what this call mounted or made can be there.
                    let _ = to.unmount(true);
                    if prepared.made {
                        let _ = to.remove();
                    }
                }
                bound
            })
            .await?;
        bound.map_err(|error| status::of_mount(&what, &error))
    }

    async fn make_read_only(
        &self,
        volume: &str,
        staging: &Arc<Place>,
        target: &Arc<Place>,
    ) -> Result<(), Status> {
        let table = Self::table()?;
        let options = table.top(staging.point()).map(|mount| mount.options.clone()).unwrap_or_default();
        let to = Arc::clone(target);
        let what = format!("make {} read-only", target.path().display());
        let made = self.on_thread(volume, what.clone(), move || to.make_read_only(&options)).await?;
        made.map_err(|error| status::of_mount(&what, &error))
    }

    /// Checks that the target shows the volume, and records it.
    async fn record_publication(
        &self,
        request: &Publish,
        arguments: &Arguments,
        staging: &Arc<Place>,
        target: &Arc<Place>,
    ) -> Result<(), Status> {
        let table = Self::table()?;
        let there = table.top(target.point());
        let known = self.known(&request.volume);
        let (Some(mut record), Some(there)) = (known, there) else {
            let told = format!("{} shows no mount after it was bound", request.target.display());
            return Err(Status::internal(told));
        };
        if record.mounted.as_ref() != Some(&there.what) || request.read_only && !there.read_only() {
            return Err(Status::internal(format!("{} shows {}", request.target.display(), there.what)));
        }
        let publication = Publication {
            target: request.target.clone(),
            point: target.point().to_owned(),
            read_only: request.read_only,
            arguments: arguments.clone(),
            mounted: there.what.clone(),
        };
        if record.publications.contains(&publication) {
            return Ok(());
        }
        // What is not mounted any more was of pods that are gone.
        record.publications.retain(|other| other.target != request.target && plan::is_live(other, &table));
        record.publications.push(publication);
        self.write(&record, staging).await
    }

    pub(super) async fn unpublish(&self, request: &Unpublish) -> Result<(), Status> {
        let known = self.known(&request.volume);
        if let Some(target) = self.place(&request.volume, &request.target).await? {
            let ours = |what: &Mounted| plan::is_ours(known.as_ref(), &request.target, what);
            self.clear(&request.volume, &target, ours).await?;
            let what = format!("remove {}", request.target.display());
            let removed = self.on_thread(&request.volume, what.clone(), move || target.remove()).await?;
            removed.map_err(|error| status::of_mount(&what, &error))?;
        }
        self.usages.lock().remove(&(request.volume.clone(), request.target.clone()));
        let Some(mut record) = known else {
            self.forget(&request.volume);
            return Ok(());
        };
        let before = record.publications.len();
        record.publications.retain(|publication| publication.target != request.target);
        if record.publications.len() < before
            && let Some(staging) = self.place(&request.volume, &record.staging).await?
        {
            self.write(&record, &staging).await?;
        }
        Ok(())
    }

    /// How full the volume is. Where its server does not answer in time, as full as it was the last time.
    pub(super) async fn usage(&self, request: &At) -> Result<Usage, Status> {
        let gone =
            || Status::not_found(format!("volume {} is not at {}", request.volume, request.path.display()));
        let record = self.known(&request.volume).ok_or_else(gone)?;
        let published = record.publications.iter().find(|one| one.target == request.path);
        let (point, mounted) = match published {
            Some(one) => (&one.point, Some(&one.mounted)),
            None if record.staging == request.path => (&record.point, record.mounted.as_ref()),
            None => return Err(gone()),
        };
        if Self::table()?.top(point).map(|mount| &mount.what) != mounted {
            return Err(gone());
        }
        let place = self.place(&request.volume, &request.path).await?.ok_or_else(gone)?;
        let what = format!("ask for the usage of volume {} of {}", request.volume, record.server);
        let key = (request.volume.clone(), request.path.clone());
        let failed = match self.ask(&request.volume, &place).await {
            Ok(Ok(found)) => {
                let usage = usage::of(&found);
                self.usages.lock().insert(key, usage);
                return Ok(usage);
            }
            Ok(Err(error)) => return Err(status::of_mount(&what, &error)),
            Err(lost) => Status::unavailable(format!("{what}: {lost}")),
        };
        let last = self.usages.lock().get(&key).copied();
        match last {
            Some(usage) => {
                tracing::warn!(
                    volume = request.volume,
                    why = failed.message(),
                    "the usage is that of the last answer"
                );
                Ok(usage)
            }
            None => Err(failed),
        }
    }
}

/// Why one way to mount did not work.
struct Refusal {
    /// Another way may.
    unsupported: bool,
    why: String,
}
