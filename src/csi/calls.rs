//! The calls that run: [`Calls`].
//!
//! Kubelet gives a call up after two minutes, and tonic then drops what handles it. So the work of a call is a task of its own,
//! which owns the lock of its volume until it has ended, by success or by undoing what it did; the handler only waits for it. A
//! second call for the same volume waits a moment and then gets `ABORTED`, with the name of what runs and for how long.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use tonic::Status;

/// How long a call waits for another one of its volume: long enough for a hundred quick ones.
const PATIENCE: Duration = Duration::from_secs(5);

/// The running calls of one driver. Copies share them.
#[derive(Clone)]
pub struct Calls {
    shared: Arc<Shared>,
    /// How long the handler waits for the work.
    deadline: Duration,
    patience: Duration,
}

#[derive(Default)]
struct Shared {
    running: Mutex<BTreeMap<String, Running>>,
    /// A call ended.
    ended: Notify,
    tasks: TaskTracker,
}

struct Running {
    name: &'static str,
    since: Instant,
}

/// The lock of a volume.
struct Lock {
    shared: Arc<Shared>,
    volume: String,
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.shared.running.lock().remove(&self.volume);
        self.shared.ended.notify_waiters();
    }
}

impl Calls {
    /// Calls that are answered within `deadline`, whatever becomes of their work.
    pub fn new(deadline: Duration) -> Self {
        Self { shared: Arc::default(), deadline, patience: PATIENCE }
    }

    /// Runs the work of the call `name` alone for its volume, and waits for it. `about` says what it is and with whom, for the
    /// message at the deadline. Dropped, it lets the work go on.
    pub async fn run<T: Send + 'static>(
        &self,
        name: &'static str,
        volume: &str,
        about: String,
        work: impl Future<Output = Result<T, Status>> + Send + 'static,
    ) -> Result<T, Status> {
        let lock = self.lock(name, volume).await?;
        let began = Instant::now();
        let volume = volume.to_owned();
        let task = self.shared.tasks.spawn(async move {
            let result = work.await;
            drop(lock);
            let took = began.elapsed();
            match &result {
                Ok(_) => tracing::info!(call = name, volume, ?took, "done"),
                Err(status) => {
                    let (code, error) = (status.code(), status.message());
                    tracing::warn!(call = name, volume, ?took, ?code, error, "failed");
                }
            }
            result
        });
        match tokio::time::timeout(self.deadline, task).await {
            Ok(Ok(result)) => result,
            Ok(Err(broken)) => Err(Status::internal(format!("{about}: broke off: {broken}"))),
            Err(_) => Err(Status::deadline_exceeded(format!(
                "{about} has not ended after {:?} and goes on: try again later",
                self.deadline
            ))),
        }
    }

    async fn lock(&self, name: &'static str, volume: &str) -> Result<Lock, Status> {
        let until = tokio::time::Instant::now() + self.patience;
        loop {
            let mut ended = std::pin::pin!(self.shared.ended.notified());
            // From here on no end is missed.
            ended.as_mut().enable();
            if let Some(lock) = self.try_lock(name, volume) {
                return Ok(lock);
            }
            if tokio::time::timeout_at(until, ended).await.is_err() {
                return match self.running(volume) {
                    Some((running, age)) => Err(Status::aborted(format!(
                        "{name} of volume {volume} must wait: {running} of it has been running for {:.1} s",
                        age.as_secs_f32()
                    ))),
                    None => Err(Status::aborted(format!("{name} of volume {volume} must wait: try again"))),
                };
            }
        }
    }

    fn try_lock(&self, name: &'static str, volume: &str) -> Option<Lock> {
        let mut running = self.shared.running.lock();
        if running.contains_key(volume) {
            return None;
        }
        running.insert(volume.to_owned(), Running { name, since: Instant::now() });
        Some(Lock { shared: Arc::clone(&self.shared), volume: volume.to_owned() })
    }

    /// The call that runs for this volume, and for how long.
    pub fn running(&self, volume: &str) -> Option<(&'static str, Duration)> {
        self.shared.running.lock().get(volume).map(|running| (running.name, running.since.elapsed()))
    }

    /// Ends when no work runs any more. No new calls may come by then.
    pub async fn ended(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tonic::Code;

    use super::*;

    fn calls(deadline: Duration, patience: Duration) -> Calls {
        Calls { patience, ..Calls::new(deadline) }
    }

    const LONG: Duration = Duration::from_hours(1);

    #[tokio::test(start_paused = true)]
    async fn a_call_that_was_given_up_goes_on_and_keeps_its_volume() {
        let calls = calls(LONG, Duration::from_secs(5));
        let (release, hang) = oneshot::channel();
        let given_up = calls.run("NodeStageVolume", "v", "stage v".into(), async move {
            hang.await.map_err(|_| Status::internal("lost"))
        });
        tokio::time::timeout(Duration::from_mins(2), given_up).await.unwrap_err();
        let second =
            calls.run("NodeUnstageVolume", "v", "unstage v".into(), async { Ok(()) }).await.unwrap_err();
        assert_eq!(second.code(), Code::Aborted);
        assert!(
            second.message().contains("NodeStageVolume of it has been running for"),
            "{}",
            second.message()
        );
        calls.run("NodeStageVolume", "other", "stage other".into(), async { Ok(()) }).await.unwrap();
        release.send(()).unwrap();
        calls.run("NodeUnstageVolume", "v", "unstage v".into(), async { Ok(()) }).await.unwrap();
        calls.ended().await;
    }

    #[tokio::test(start_paused = true)]
    async fn at_its_deadline_a_call_says_what_hangs_and_the_work_goes_on() {
        let calls = calls(Duration::from_secs(90), Duration::from_secs(1));
        let (release, hang) = oneshot::channel::<()>();
        let work = async move { hang.await.map_err(|_| Status::internal("lost")) };
        let late =
            calls.run("NodeStageVolume", "v", "stage volume v of nas:/a".into(), work).await.unwrap_err();
        assert_eq!(late.code(), Code::DeadlineExceeded);
        assert!(late.message().starts_with("stage volume v of nas:/a has not ended"), "{}", late.message());
        assert_eq!(calls.running("v").unwrap().0, "NodeStageVolume");
        release.send(()).unwrap();
        calls.ended().await;
        assert!(calls.running("v").is_none());
    }

    #[tokio::test]
    async fn many_calls_for_one_volume_go_one_after_the_other() {
        let calls = calls(LONG, LONG);
        let inside = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let all = (0..100).map(|_| {
            let inside = Arc::clone(&inside);
            calls.run("NodePublishVolume", "v", "publish v".into(), async move {
                assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                Ok(())
            })
        });
        for result in futures::future::join_all(all).await {
            result.unwrap();
        }
    }

    #[tokio::test]
    async fn work_that_panics_gives_an_error_and_frees_its_volume() {
        let calls = calls(LONG, LONG);
        let broken = calls.run("NodeStageVolume", "v", "stage v".into(), async { panic!("told") });
        let broken: Result<(), Status> = broken.await;
        assert_eq!(broken.unwrap_err().code(), Code::Internal);
        calls.run("NodeStageVolume", "v", "stage v".into(), async { Ok(()) }).await.unwrap();
    }
}
