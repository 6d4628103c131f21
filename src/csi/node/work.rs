//! What is known of the volumes of one driver, and what the work on them is made of: [`Work`]. `stage.rs` and `publish.rs` are the
//! rest of it. Whatever changes something is run by a call that holds the lock of its volume.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tonic::Status;

use super::{
    record::{SUFFIX, StageRecord},
    usage::{self, Usage},
};
use crate::{
    backend::Connector,
    csi::{request::At, status},
    system::{
        mount::{FilesystemUsage, MountError, Mounted, Place, Table, Tree},
        pool::{Pool, PoolError},
    },
};

/// Threads for the mounts of one volume. What hangs takes one; enough are left to unmount it.
const THREADS: usize = 6;
/// Threads that ask its file system, which may not answer.
const ASKING_THREADS: usize = 2;
/// A system call is waited for as long as it takes: until it returns, its volume is locked. The call's own deadline
/// answers kubelet.
const AS_LONG_AS_IT_TAKES: Duration = Duration::from_hours(7 * 24);
/// How often to try again to unmount what is in use.
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(500);

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
    pub(super) usages: Mutex<BTreeMap<(String, PathBuf), Usage>>,
}

/// The threads of one volume.
#[derive(Clone)]
struct Pools {
    mounts: Pool,
    questions: Pool,
}

/// What the server of a mounted volume says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
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
    pub(super) fn forget(&self, volume: &str) {
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

    pub(super) async fn existing(&self, volume: &str, path: &Path) -> Result<Arc<Place>, Status> {
        let absent =
            || Status::failed_precondition(format!("the directory of {} does not exist", path.display()));
        self.place(volume, path).await?.ok_or_else(absent)
    }

    /// The mounts of this machine. They are listed from memory; no server is asked.
    pub(super) fn table() -> Result<Table, Status> {
        Table::read().map_err(|error| Status::internal(format!("read the table of mounts: {error}")))
    }

    pub(super) async fn write(&self, record: &StageRecord, staging: &Arc<Place>) -> Result<(), Status> {
        let text = serde_json::to_vec(record).map_err(|error| Status::internal(error.to_string()))?;
        let place = Arc::clone(staging);
        let what = format!("record volume {}", record.volume);
        let written =
            self.on_thread(&record.volume, what.clone(), move || place.write_beside(SUFFIX, &text)).await?;
        written.map_err(|error| status::of_mount(&what, &error))?;
        self.learn(record.clone());
        Ok(())
    }

    pub(super) async fn erase(&self, volume: &str, staging: &Arc<Place>) -> Result<(), Status> {
        let place = Arc::clone(staging);
        let what = format!("remove the record of volume {volume}");
        let removed = self.on_thread(volume, what.clone(), move || place.remove_beside(SUFFIX)).await?;
        removed.map_err(|error| status::of_mount(&what, &error))?;
        self.forget(volume);
        Ok(())
    }

    /// Asks the file system that is mounted here.
    async fn ask(
        &self,
        volume: &str,
        place: &Arc<Place>,
    ) -> Result<Result<FilesystemUsage, MountError>, PoolError> {
        let at = Arc::clone(place);
        self.pools(volume).questions.run(format!("ask {}", place.path().display()), move || at.usage()).await
    }

    pub(super) async fn state(&self, volume: &str, place: &Arc<Place>) -> Answer {
        match self.ask(volume, place).await {
            Ok(Err(error)) if error.is_stale() => Answer::Stale,
            Ok(Ok(_) | Err(_)) => Answer::Alive,
            Err(_) => Answer::None,
        }
    }

    /// Unmounts everything at this place that `may` go, the topmost first; something else there is an error. What is in use
    /// or does not answer is taken out of the tree after the grace.
    pub(super) async fn clear(
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
