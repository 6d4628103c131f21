//! What happens directly before a step that changes something on the storage: [`Interruption`].
//!
//! It is asked after the permit was checked and before the system call: an error breaks the operation off as a crash would,
//! one with an errno looks as if the server had answered it, and a hook that blocks makes the call a late one.

use std::{
    fmt, io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Kind, Permit, Site, patterned};
use crate::{
    backend::nfs::work::Rule,
    system::root::{Errno, Step},
};

type Hook = Arc<dyn Fn(&Step<'_>) -> io::Result<()> + Send + Sync>;

/// What a test does to the steps of a store.
pub(in crate::backend::nfs) struct Interruption {
    left: AtomicI64,
    hook: Mutex<Option<Hook>>,
    opening: Mutex<Option<Late>>,
}

impl fmt::Debug for Interruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interruption").field("left", &self.left).finish_non_exhaustive()
    }
}

impl Default for Interruption {
    fn default() -> Self {
        Self { left: AtomicI64::new(i64::MAX), hook: Mutex::new(None), opening: Mutex::new(None) }
    }
}

impl Interruption {
    /// Lets `steps` more steps be done, and no further.
    pub(in crate::backend::nfs) fn after(&self, steps: i64) {
        self.left.store(steps, Ordering::SeqCst);
    }

    /// Whether a step was not done.
    pub(in crate::backend::nfs) fn is_over(&self) -> bool {
        self.left.load(Ordering::SeqCst) < 0
    }

    /// Lets every step be done from now on, without a hook.
    pub(in crate::backend::nfs) fn never(&self) {
        self.after(i64::MAX);
        *self.hook.lock().unwrap() = None;
    }

    /// Calls `hook` before each step from now on. It may block.
    pub(in crate::backend::nfs) fn on_step(
        &self,
        hook: impl Fn(&Step<'_>) -> io::Result<()> + Send + Sync + 'static,
    ) {
        *self.hook.lock().unwrap() = Some(Arc::new(hook));
    }

    /// Holds the first step of those that are meant until it is released; no other one is held.
    pub(in crate::backend::nfs) fn try_lock(
        &self,
        meant: impl Fn(&Step<'_>) -> bool + Send + Sync + 'static,
    ) -> Late {
        let late = Late::default();
        let held = late.clone();
        self.on_step(move |step| {
            if meant(step) {
                held.wait();
            }
            Ok(())
        });
        late
    }

    /// Lets the steps that are meant fail as if the server had answered with `errno`.
    pub(in crate::backend::nfs) fn fail(
        &self,
        errno: Errno,
        meant: impl Fn(&Step<'_>) -> bool + Send + Sync + 'static,
    ) {
        self.on_step(move |step| if meant(step) { Err(errno.into()) } else { Ok(()) });
    }

    /// Holds the next look at the root until it is released.
    pub(in crate::backend::nfs) fn hold_opening(&self) -> Late {
        self.opening.lock().unwrap().get_or_insert_default().clone()
    }

    pub(in crate::backend::nfs) fn opening(&self) {
        let opening = self.opening.lock().unwrap().clone();
        if let Some(late) = opening {
            late.wait();
        }
    }

    pub(in crate::backend::nfs) fn step(&self, step: &Step<'_>) -> io::Result<()> {
        if self.left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            return Err(io::Error::other("interrupted by the test"));
        }
        // Not under the lock: a hook may block.
        let hook = self.hook.lock().unwrap().clone();
        hook.map_or(Ok(()), |hook| hook(step))
    }
}

/// Which rules hold: all of them, until a test switches one off.
#[derive(Debug, Default)]
pub(in crate::backend::nfs) struct Rules(Mutex<Vec<Rule>>);

impl Rules {
    /// Lets the rule not hold any more.
    pub(in crate::backend::nfs) fn switch_off(&self, rule: Rule) {
        self.0.lock().unwrap().push(rule);
    }

    pub(in crate::backend::nfs) fn enforced(&self, rule: Rule) -> bool {
        !self.0.lock().unwrap().contains(&rule)
    }
}

/// A call that the server has not carried out yet.
#[derive(Debug, Clone, Default)]
pub(in crate::backend::nfs) struct Late(Arc<(Mutex<At>, Condvar)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum At {
    /// It has not come.
    #[default]
    Before,
    /// It waits.
    Held,
    /// It may go on.
    Released,
}

impl Late {
    fn at(&self) -> MutexGuard<'_, At> {
        self.0.0.lock().unwrap()
    }

    fn wait(&self) {
        let mut at = self.at();
        if *at != At::Before {
            return;
        }
        *at = At::Held;
        self.0.1.notify_all();
        drop(self.0.1.wait_while(at, |at| *at == At::Held).unwrap());
    }

    /// Waits until the call is held.
    pub(in crate::backend::nfs) async fn reached(&self) {
        let since = Instant::now();
        while *self.at() == At::Before {
            assert!(since.elapsed() < Duration::from_mins(1), "the step that is to be held never came");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Lets the call be carried out.
    pub(in crate::backend::nfs) fn release(&self) {
        *self.at() = At::Released;
        self.0.1.notify_all();
    }
}

#[tokio::test]
async fn a_call_that_the_server_holds_is_carried_out_when_it_is_released_though_the_permit_has_ended() {
    let site = Site::new();
    site.make(&patterned("other", "other")).await;
    let (request, permit) = (patterned("x", "data"), Permit::unlimited());
    let store = &site.nfs.stores[0];
    let late =
        store.interruption.try_lock(|step| step.what == "make directory" && step.path().ends_with("data"));
    let create = super::Backend::create(&site.nfs, &request, &permit);
    let meanwhile = async {
        late.reached().await;
        assert!(!site.has("data"));
        permit.revoke();
        late.release();
    };
    let (created, ()) = tokio::join!(create, meanwhile);
    assert_eq!(
        created.unwrap_err().kind(),
        Kind::Unavailable,
        "nothing is done after the call that was late"
    );
    assert!(site.has("data"));
}

#[tokio::test]
async fn a_step_fails_as_the_test_says() {
    let site = Site::new();
    site.nfs.stores[0].interruption.fail(Errno::ENOSPC, |step| step.what == "make directory");
    assert_eq!(site.create(&patterned("x", "data")).await.unwrap_err().kind(), Kind::Exhausted);
    site.nfs.stores[0].interruption.never();
    site.create(&patterned("x", "data")).await.unwrap();
}
