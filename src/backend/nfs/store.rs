//! One export at work: [`Store`] opens its root, proves that it is the right one, and runs operations on it.
//!
//! The root is examined on a thread of its own, never by an operation: an operation waits for the outcome at most for its
//! deadline. What was refused is examined again every few seconds until it is right. What the operations do is in
//! `create` and `remove`, what makes a root the right one in `identity`.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::{
    export::Export,
    op_error::{OpError, explained},
    roots::Roots,
    usability::Usability,
    work::{Context, ExportOp, Opened},
};
use crate::{
    backend::{ClusterInfo, Error, Kind, StoreExpectation, StoreStatus},
    system::{
        keyed_lock::KeyedLock,
        pool::PoolError,
        root::{Errno, Step},
    },
    volume::{Permit, VolumeName},
};

/// How long a refused root is left before it is examined again.
const AGAIN: Duration = Duration::from_secs(3);

/// One export.
pub(super) struct Store {
    context: Arc<Context>,
    health: Mutex<Health>,
    pub(super) usability: Arc<Usability>,
    /// Changes whenever `health` does.
    changed: watch::Sender<()>,
}

impl Deref for Store {
    type Target = Arc<Context>;

    fn deref(&self) -> &Arc<Context> {
        &self.context
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("export", &self.export).finish_non_exhaustive()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.usability.end();
    }
}

struct Health {
    expected: Option<StoreExpectation>,
    state: State,
    /// Since when the root is being examined, while it is.
    verifying: Option<Instant>,
    /// Counts what makes an examination that is running worthless.
    epoch: u64,
}

enum State {
    /// Nobody has told what the existing volumes say.
    Uninitialised,
    /// It is being examined.
    Unknown,
    /// It can be used.
    Open(Arc<Opened>),
    /// It cannot be used, for this reason.
    Refused(String),
}

impl Store {
    pub(super) fn new(export: Export, kube: Arc<dyn ClusterInfo>, roots: Arc<Roots>) -> Arc<Self> {
        Arc::new_cyclic(|store: &Weak<Self>| {
            let doubted = store.clone();
            let doubt = Arc::new(move || {
                if let Some(store) = doubted.upgrade() {
                    store.invalidate_current();
                }
            });
            Self {
                context: Arc::new(Context::new(export, kube, roots, doubt)),
                health: Mutex::new(Health {
                    expected: None,
                    state: State::Uninitialised,
                    verifying: None,
                    epoch: 0,
                }),
                usability: Arc::default(),
                changed: watch::Sender::new(()),
            }
        })
    }

    /// Takes what the existing volumes say, and examines the root by it. Told again, at the beginning of a term, what they
    /// say by then counts; an identity that was known before is not forgotten.
    pub(super) fn expect_store(self: &Arc<Self>, expected: StoreExpectation) {
        let mut health = self.health();
        if let Some(identity) = &expected.identity {
            self.pin(identity);
        }
        health.expected = Some(expected);
        self.reverify(health);
    }

    /// Runs `work` on the root, on a thread of the export's pool, at most until the deadline. `held` is held until the
    /// work really returns.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        what: String,
        held: Option<KeyedLock<VolumeName>>,
        permit: &Permit,
        work: impl FnOnce(&ExportOp<'_>) -> Result<T, OpError> + Send + 'static,
    ) -> Result<T, Error> {
        let opened = self.opened(&what).await?;
        let (store, permit) = (Arc::clone(self), permit.clone());
        let worked = self.pool.run(what.clone(), move || {
            let _held = held;
            let gate = |step: &Step<'_>| store.gate(&permit, step);
            let result = store.work(&opened, &gate, work);
            store.look_closer(&opened, &result);
            store.usability.note(&result, &permit);
            result
        });
        match worked.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(explained(&self.on(&what), error)),
            Err(lost) => {
                let (PoolError::Late { .. } | PoolError::Saturated { .. } | PoolError::Panicked { .. }) =
                    &lost;
                Err(Error::caused_by(Kind::Unavailable, self.on(&what), lost))
            }
        }
    }

    /// Examines the root again where a failure says that it may not be what it was.
    fn look_closer<T>(self: &Arc<Self>, opened: &Arc<Opened>, result: &Result<T, OpError>) {
        let Err(OpError::Step(failure)) = result else { return };
        if matches!(failure.errno(), Some(Errno::ESTALE | Errno::ENOENT | Errno::ENODEV | Errno::ENOTCONN)) {
            self.invalidate(opened);
        }
    }

    /// Whether operations use `opened`.
    pub(super) fn uses(&self, opened: &Arc<Opened>) -> bool {
        matches!(&self.health().state, State::Open(current) if Arc::ptr_eq(current, opened))
    }

    /// Lets nobody use `opened` any more.
    pub(super) fn invalidate(self: &Arc<Self>, opened: &Arc<Opened>) {
        let health = self.health();
        if matches!(&health.state, State::Open(current) if Arc::ptr_eq(current, opened)) {
            self.reverify(health);
        }
    }

    /// Lets nobody use the root that is open now, if one is.
    pub(super) fn invalidate_current(self: &Arc<Self>) {
        let health = self.health();
        if matches!(health.state, State::Open(_)) {
            self.reverify(health);
        }
    }

    /// The root, once it is known to be the right one.
    pub(super) async fn opened(&self, what: &str) -> Result<Arc<Opened>, Error> {
        let unavailable =
            |why: String| Err(Error::new(Kind::Unavailable, format!("{}: {why}", self.on(what))));
        let mut changed = self.changed.subscribe();
        let wait = tokio::time::sleep(self.export.deadline);
        tokio::pin!(wait);
        loop {
            changed.mark_unchanged();
            let refusal = match &self.health().state {
                State::Open(opened) => return Ok(Arc::clone(opened)),
                State::Refused(why) => Some(why.clone()),
                State::Uninitialised => Some("the PersistentVolumes have not been listed yet".into()),
                State::Unknown => None,
            };
            if let Some(why) = refusal {
                return unavailable(why);
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = &mut wait => return unavailable(self.silent(self.export.deadline)),
            }
        }
    }

    fn silent(&self, after: Duration) -> String {
        let Export { server, path, root, .. } = &self.export;
        format!(
            "opening {} (mount of {server}:{path}) has not returned after {}s; the server does not answer",
            root.display(),
            after.as_secs()
        )
    }

    /// What an error of the operation `what` begins with.
    pub(super) fn on(&self, what: &str) -> String {
        format!("{what} on export {}", self.export.name)
    }

    /// The state as readiness and metrics show it.
    pub(super) fn status(&self) -> StoreStatus {
        let running = self.pool.running();
        let mut ready = {
            let health = self.health();
            match (&health.state, health.verifying) {
                (State::Open(_), _) => self.usability.verdict(self.export.deadline),
                (State::Refused(why), _) => Err(why.clone()),
                (State::Uninitialised, _) => Err("the PersistentVolumes have not been listed yet".into()),
                (State::Unknown, Some(since)) if since.elapsed() >= self.export.deadline => {
                    Err(self.silent(since.elapsed()))
                }
                (State::Unknown, _) => Err(format!("{} is being opened", self.export.root.display())),
            }
        };
        if let Some((what, age)) = &running.oldest
            && *age >= self.export.deadline
            && ready.is_ok()
        {
            ready =
                Err(format!("{what} has not returned after {}s; the server may not answer", age.as_secs()));
        }
        StoreStatus {
            name: self.export.name.clone(),
            ready,
            problems: Vec::new(),
            running: running.count,
            oldest: running.oldest,
            trash: self.trash.waiting(),
            stuck: self.trash.stuck(),
            purged: self.trash.purged(),
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock()
    }

    /// Lets the state be found out again: by a thread for it, or by the one that is at it already.
    fn reverify(self: &Arc<Self>, mut health: MutexGuard<'_, Health>) {
        health.epoch += 1;
        health.state = State::Unknown;
        let begin = health.verifying.is_none();
        if begin {
            health.verifying = Some(Instant::now());
        }
        drop(health);
        self.changed.send_replace(());
        if begin {
            let store = Arc::downgrade(self);
            let thread = thread::Builder::new().name(format!("open-{}", self.export.name));
            if let Err(error) = thread.spawn(move || {
                if let Some(opened) = verify_until_ok(&store) {
                    follow(&store, &opened);
                }
            }) {
                let mut health = self.health();
                health.verifying = None;
                health.state = State::Refused(format!("there is no thread to open it: {error}"));
            }
        }
    }
}

/// Looks at a root until it is the right one, and returns it; `None` when nobody needs it any more.
fn verify_until_ok(store: &Weak<Store>) -> Option<Weak<Opened>> {
    loop {
        {
            let store = store.upgrade()?;
            let (expected, pinned, epoch) = {
                let mut health = store.health();
                health.verifying = Some(Instant::now());
                (health.expected.clone(), store.pinned.lock().clone(), health.epoch)
            };
            let expected = expected?;
            let outcome = store.verify(&expected, pinned.as_deref());
            let mut health = store.health();
            if health.epoch != epoch {
                continue;
            }
            match outcome {
                Ok(opened) => {
                    let opened = Arc::new(opened);
                    if let Some(identity) = opened.identity() {
                        store.pin(&identity);
                    }
                    health.state = State::Open(Arc::clone(&opened));
                    health.verifying = None;
                    drop(health);
                    tracing::info!(export = store.export.name, "export is ready");
                    store.changed.send_replace(());
                    return Some(Arc::downgrade(&opened));
                }
                Err(why) => {
                    if !matches!(&health.state, State::Refused(known) if *known == why) {
                        tracing::warn!(export = store.export.name, reason = why, "export cannot be used");
                    }
                    health.state = State::Refused(why);
                    drop(health);
                    store.changed.send_replace(());
                }
            }
        }
        // Short steps, so that what was told in between counts soon and the thread ends soon after its store.
        let until = Instant::now() + AGAIN;
        while Instant::now() < until {
            thread::sleep(AGAIN / 30);
            let store = store.upgrade()?;
            if matches!(store.health().state, State::Unknown) {
                break;
            }
        }
    }
}

/// Looks at `opened` as long as `store` uses it. Returns when it does no longer.
fn follow(store: &Weak<Store>, opened: &Weak<Opened>) {
    let Some(usability) = store.upgrade().map(|store| Arc::clone(&store.usability)) else { return };
    loop {
        {
            let (Some(store), Some(opened)) = (store.upgrade(), opened.upgrade()) else { return };
            if !store.uses(&opened) {
                return;
            }
            usability.begin_look();
            let found = match usability.look(&store, &opened) {
                Ok(found) => found,
                Err(failure) => {
                    if failure.errno() == Some(Errno::ESTALE) {
                        store.invalidate(&opened);
                    }
                    Some(explained(&store.on("ask for its state"), failure.into()).chain())
                }
            };
            let earlier = usability.end_look(found.clone());
            let export = &store.export.name;
            match found {
                Some(reason) if earlier.as_ref() != Some(&reason) => {
                    tracing::warn!(export, reason, "export cannot be written");
                }
                None if earlier.is_some() => tracing::info!(export, "export can be written again"),
                Some(_) | None => {}
            }
        }
        if !usability.wait() {
            return;
        }
    }
}
