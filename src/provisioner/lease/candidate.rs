//! What competes for the lock: [`Candidate`] gets it, keeps it, and says when its holder may work.
//!
//! Two objects can be the lock, and replicas may differ in which of them they may use. Three rules keep them apart:
//!
//! * Who holds the Lease works only while a look at the Endpoints, not older than a renewal may be, found no holder there.
//! * Who holds the Endpoints (because the role has no Leases) works only after it has held them without a break for as long as a
//!   lock lasts: until then every holder of the Lease has seen it, or has stopped by itself.
//! * Who holds a lock that replaced one that was deleted works only after as long, for the same reason. A leader that makes its
//!   own lock again in time goes on: another process that makes it has to wait longer than that leader can go on.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures::future::OptionFuture;
use jiff::Timestamp;
use kube::Client;
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    decision::{Step, View, decide, written},
    endpoints_lock::{EndpointsLock, Look},
    leadership::{Announcer, Status},
    lock::{Kind, LockRecord, Locks, Observed, OpError},
    settings::Settings,
};
use crate::volume::{Clock, Moment, Permit};

/// How a try to get or keep the lock ended.
enum Round {
    /// It is ours by a write that began then.
    Held(Moment),
    /// It is another process's.
    Theirs(String),
}

/// An unbroken time of holding the lock.
struct Hold {
    uid: Option<String>,
    /// Until when we may work without another renewal.
    until: Moment,
    /// From when on we may work.
    usable_from: Moment,
}

/// What competes for the lock.
pub(super) struct Candidate {
    settings: Settings,
    clock: Clock,
    locks: Locks,
    announcer: Announcer,
    status: Arc<Mutex<Status>>,
    lock_uid: Arc<OnceLock<String>>,
    /// Which lock we compete for.
    kind: Kind,
    /// How often in a row the server refused the `Lease`.
    refusals: u32,
    /// When to try the `Lease` again, where the role did not allow it.
    lease_again: Moment,
    /// Until when a lock that is not there may be taken for one that never was: at first, where no volumes exist.
    unused_until: Moment,
    /// The lock as we last wrote it, as long as no other process seems to have written it since.
    own: Option<Observed>,
    hold: Option<Hold>,
    lease: View,
    endpoints: View,
    pub(super) old: EndpointsLock,
    /// How long a former leader needs to notice that it leads no longer.
    pub(super) hold_off: Duration,
    pub(super) random: StdRng,
}

/// So many refusals in a row make us use the other lock: a server that has just started may refuse everything once.
const REFUSALS: u32 = 2;
/// How long it takes until the role may have changed.
const RIGHTS_AGAIN: Duration = Duration::from_mins(10);

/// The renew deadline came before the answer.
fn late() -> OpError {
    OpError::Other("the server did not answer before the renew deadline".to_owned())
}

impl Candidate {
    /// `established`: there are volumes, so that a lock that is not there must have been deleted.
    pub(super) fn new(
        client: Client,
        settings: Settings,
        clock: Clock,
        established: bool,
        announcer: Announcer,
        (status, lock_uid): (Arc<Mutex<Status>>, Arc<OnceLock<String>>),
    ) -> Self {
        let locks = Locks::new(client, &settings.namespace, &settings.name, settings.request_limit());
        let now = clock.now();
        Self {
            locks,
            announcer,
            status,
            lock_uid,
            kind: Kind::Lease,
            refusals: 0,
            lease_again: now,
            unused_until: if established { now } else { now + settings.duration },
            own: None,
            hold: None,
            lease: View::default(),
            endpoints: View::default(),
            old: EndpointsLock::new(now),
            hold_off: settings.duration,
            random: StdRng::from_rng(&mut rand::rng()),
            settings,
            clock,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let _ = stop.run_until_cancelled(self.acquire_and_renew()).await;
        self.announcer.end();
        if timeout(self.settings.renew_deadline, self.release_lock()).await.is_err() {
            warn!(lock = %self.lock(), "could not release the lock in time; it stays held until it expires");
        }
    }

    /// Gets the lock and keeps it, for ever.
    async fn acquire_and_renew(&mut self) {
        loop {
            if self.kind == Kind::Endpoints && self.hold.is_none() && self.clock.now() >= self.lease_again {
                (self.kind, self.own) = (Kind::Lease, None);
            }
            let limit = match &self.hold {
                Some(hold) => hold.until.since(self.clock.now()),
                None => self.settings.renew_deadline,
            };
            let look = OptionFuture::from((self.hold.is_some() && self.looks()).then(|| self.look(limit)));
            let (round, mut look) = tokio::join!(timeout(limit, self.round()), look);
            // What ended while we waited has ended, whatever the answer is.
            self.expire();
            let held = match round.unwrap_or_else(|_| Err(late())) {
                Ok(Round::Held(start)) => {
                    self.held(start);
                    if look.is_none() && self.looks() {
                        look = Some(self.look(self.settings.renew_deadline).await);
                    }
                    true
                }
                Ok(Round::Theirs(holder)) => {
                    self.hold = None;
                    self.lose(&format!("it is held by {holder}"));
                    self.tell(Some(holder), None);
                    false
                }
                Err(problem) => {
                    self.fail(&problem);
                    false
                }
            };
            let looked = look.is_none_or(|look| self.apply_endpoints(look));
            self.work(held);
            let mut pause = self.settings.retry_period.mul_f64(self.random.random_range(1.0..1.2));
            if self.announcer.term.is_some() && !(held && looked) {
                // Our time runs.
                pause /= 4;
            }
            sleep(self.turn().map_or(pause, |turn| pause.min(turn.since(self.clock.now())))).await;
            self.expire();
        }
    }

    /// One try to get or keep the lock: a second look where another process seems to have been quicker, since it may have been an
    /// earlier request of our own whose answer was lost.
    async fn round(&mut self) -> Result<Round, OpError> {
        let mut problem = OpError::Conflict;
        for _ in 0..3 {
            let observed = match &self.own {
                Some(own) => Some(own.clone()),
                None => self.locks.get(self.kind).await?,
            };
            self.see(observed.as_ref());
            let record = observed.as_ref().and_then(|observed| observed.record.clone());
            let now = self.clock.now();
            let step = decide(self.view(), now, &self.settings.identity, self.settings.duration);
            if let Step::Wait(_) = step {
                let holder = self.view().seen.as_ref().map(|seen| seen.record.holder.clone());
                return Ok(Round::Theirs(holder.unwrap_or_default()));
            }
            if step == Step::Take {
                // It was not ours for a moment: another term begins, not this one goes on.
                self.hold = None;
                self.lose("another replica held it in between");
            }
            let next = written(record.as_ref(), step, &self.settings, Timestamp::now());
            let superseded = self.old.superseded.clone();
            let start = self.clock.now();
            let done = match &observed {
                Some(old) => self.locks.replace(old, &next, superseded.as_deref()).await,
                None => self.locks.create(self.kind, &next, superseded.as_deref()).await,
            };
            match done {
                Ok(own) => {
                    self.see(Some(&own));
                    self.own = Some(own);
                    return Ok(Round::Held(start));
                }
                Err(again @ (OpError::Conflict | OpError::Missing)) => (self.own, problem) = (None, again),
                Err(other) => return Err(other),
            }
        }
        Err(problem)
    }

    /// The lock that we compete for is like this now.
    fn see(&mut self, observed: Option<&Observed>) {
        if let Some(uid) = observed.and_then(Observed::uid) {
            self.lock_uid.get_or_init(|| uid.to_owned());
        }
        let now = self.clock.now();
        let unused = now < self.unused_until;
        let view = self.view_mut();
        if unused {
            view.never_used();
        }
        view.look(observed, now);
    }

    fn view(&self) -> &View {
        match self.kind {
            Kind::Lease => &self.lease,
            Kind::Endpoints => &self.endpoints,
        }
    }

    fn view_mut(&mut self) -> &mut View {
        match self.kind {
            Kind::Lease => &mut self.lease,
            Kind::Endpoints => &mut self.endpoints,
        }
    }

    /// The lock is ours by a write that began at `start`: another hold begins, or the same goes on.
    fn held(&mut self, start: Moment) {
        self.refusals = 0;
        let now = self.clock.now();
        let until = start + self.settings.renew_deadline;
        let uid = self.own.as_ref().and_then(Observed::uid).map(str::to_owned);
        let leading = self.announcer.term.is_some();
        let usable_from = match &self.hold {
            Some(hold) if hold.uid == uid => hold.usable_from,
            // No other process can have worked since our last renewal: see the head of this file.
            Some(hold) if self.kind == Kind::Lease && leading => {
                info!(lock = %self.lock(), "the lock was deleted and created again in time");
                hold.usable_from
            }
            Some(_) | None => {
                self.lose("it was deleted");
                match self.kind {
                    Kind::Lease => self.lease.settled(self.hold_off).unwrap_or(now),
                    Kind::Endpoints => now + self.hold_off,
                }
            }
        };
        self.hold = Some(Hold { uid, until, usable_from });
    }

    /// Whether to look at the Endpoints.
    fn looks(&self) -> bool {
        match self.kind {
            Kind::Lease => self.old.hidden.is_none_or(|again| self.clock.now() >= again),
            Kind::Endpoints => false,
        }
    }

    fn look(&self, limit: Duration) -> impl Future<Output = Look> + use<> {
        let (locks, asked) = (self.locks.clone(), self.clock.now());
        async move {
            let answer = timeout(limit, locks.get(Kind::Endpoints)).await;
            Look { asked, answer: answer.unwrap_or_else(|_| Err(late())) }
        }
    }

    /// Learns from a look at the Endpoints whether they are held; `false` where that was not to be learned.
    fn apply_endpoints(&mut self, look: Look) -> bool {
        let now = self.clock.now();
        let clear = look.asked + self.settings.renew_deadline;
        let mut version = None;
        match look.answer {
            Ok(observed) => {
                self.old.hidden = None;
                version = observed.as_ref().map(Observed::version);
                self.endpoints.look(observed.as_ref(), now);
            }
            Err(OpError::Forbidden(why)) => {
                if self.endpoints.held_until(&self.settings.identity, self.settings.duration).is_none() {
                    if self.old.hidden.replace(now + RIGHTS_AGAIN).is_none() {
                        info!(
                            why,
                            "cannot see whether an old provisioner is the leader; make sure that none is running"
                        );
                    }
                    self.old.clear_until(clear);
                    return true;
                }
            }
            Err(problem) => {
                if self.announcer.term.is_none() {
                    let why = format!("cannot read the lock of an old provisioner: {problem}");
                    self.old.blocked = Some(why);
                }
                return false;
            }
        }
        let recorded = self.own.as_ref().and_then(Observed::superseded);
        let superseded =
            version.is_some() && self.old.superseded.as_deref().or(recorded) == version.as_deref();
        match self.endpoints.held_until(&self.settings.identity, self.settings.duration) {
            // That it stood still is known of the moment of the question, not of that of the answer.
            Some(until) if look.asked < until && !superseded => {
                let holder = self.endpoints.seen.as_ref().map(|seen| seen.record.holder.clone());
                self.old.clear = now;
                self.old.blocked = Some(format!(
                    "{} holds Endpoints {}/{}, the lock of old provisioners and of replicas that may not use Leases",
                    holder.unwrap_or_default(),
                    self.settings.namespace,
                    self.settings.name
                ));
            }
            Some(_) if !superseded => {
                // Written with the next renewal.
                self.old.superseded = version;
                self.endpoints.clear_holder();
                self.old.clear_until(clear);
            }
            Some(_) | None => {
                self.endpoints.clear_holder();
                self.old.clear_until(clear);
            }
        }
        true
    }

    /// Until when we may work, as far as the locks are concerned.
    fn right(&self) -> Option<Moment> {
        let until = self.hold.as_ref()?.until;
        Some(match self.kind {
            Kind::Lease if self.old.hidden.is_none() => until.min(self.old.clear),
            Kind::Lease | Kind::Endpoints => until,
        })
    }

    /// When something ends or begins by itself.
    fn turn(&self) -> Option<Moment> {
        match (&self.announcer.term, &self.hold) {
            (Some(_), _) => self.right(),
            (None, Some(hold)) if self.clock.now() < hold.usable_from => {
                Some(hold.usable_from.min(hold.until))
            }
            (None, hold) => hold.as_ref().map(|hold| hold.until),
        }
    }

    /// Ends what has run out.
    fn expire(&mut self) {
        let now = self.clock.now();
        if self.hold.as_ref().is_some_and(|hold| hold.until <= now) {
            (self.hold, self.own) = (None, None);
            self.lose("could not renew it before the deadline");
        }
        if self.announcer.term.is_some() && self.right().is_none_or(|right| right <= now) {
            self.lose("could not read the lock of an old provisioner before the deadline");
        }
    }

    /// Begins a term or goes on with it, as far as the locks let us. `held`: the lock was renewed just now.
    fn work(&mut self, held: bool) {
        let (Some(hold), Some(right)) = (&self.hold, self.right()) else { return };
        let now = self.clock.now();
        let why = if now < hold.usable_from {
            let left = hold.usable_from.since(now).as_secs() + 1;
            Some(format!("waiting {left} s, until a previous leader has certainly stopped"))
        } else {
            self.old.blocked.clone().filter(|_| self.kind == Kind::Lease)
        };
        if let Some(why) = why {
            self.lose(&why);
            self.tell(Some(self.settings.identity.clone()), Some(why));
            return;
        }
        if held {
            self.tell(Some(self.settings.identity.clone()), None);
        }
        match &self.announcer.term {
            Some(term) => term.permit.extend_to(right),
            None if held && right > now => {
                info!(lock = %self.lock(), identity = %self.settings.identity, "leading");
                self.announcer.begin(Permit::until(self.clock.clone(), right));
            }
            None => {}
        }
    }

    fn lose(&mut self, why: &str) {
        if self.announcer.term.is_some() {
            warn!(lock = %self.lock(), why, "stopped leading");
            self.announcer.end();
        }
    }

    /// Chooses the other lock where the role does not allow this one.
    fn fail(&mut self, problem: &OpError) {
        self.complain(problem);
        let OpError::Forbidden(why) = problem else { return };
        if self.hold.is_some() {
            return;
        }
        self.refusals = self.refusals.saturating_add(1);
        match self.kind {
            Kind::Lease if self.refusals >= REFUSALS => {
                info!(why, "not allowed to use a Lease; using the Endpoints lock of the old provisioners");
                self.kind = Kind::Endpoints;
                self.lease_again = self.clock.now() + RIGHTS_AGAIN;
            }
            Kind::Lease => return,
            Kind::Endpoints => self.kind = Kind::Lease,
        }
        (self.refusals, self.own) = (0, None);
    }

    /// Lets go of the lock, if it is ours and no other process may still be working.
    async fn release_lock(&mut self) {
        for _ in 0..3 {
            let observed = match self.own.take() {
                Some(own) => Ok(Some(own)),
                None => self.locks.get(self.kind).await,
            };
            let Ok(Some(observed)) = observed else { return };
            self.see(Some(&observed));
            let Some(record) =
                observed.record.clone().filter(|record| record.holder == self.settings.identity)
            else {
                return;
            };
            let settled = match self.kind {
                Kind::Lease => self.lease.settled(self.hold_off),
                Kind::Endpoints => None,
            };
            if settled.is_some_and(|settled| self.clock.now() < settled) {
                info!(lock = %self.lock(), "the lock replaced one that was deleted; it stays held until it expires");
                return;
            }
            let wall = Timestamp::now();
            let free = LockRecord {
                holder: String::new(),
                seconds: 1,
                acquired: Some(wall),
                renewed: Some(wall),
                ..record
            };
            match self.locks.replace(&observed, &free, None).await {
                Ok(_) => {
                    info!(lock = %self.lock(), "released");
                    return;
                }
                Err(problem) => warn!(lock = %self.lock(), %problem, "cannot release the lock"),
            }
        }
    }

    fn lock(&self) -> String {
        format!("{} {}/{}", self.kind, self.settings.namespace, self.settings.name)
    }

    fn complain(&self, problem: &OpError) {
        let text = problem.to_string();
        let known = self.status.lock().problem.clone();
        if known.as_ref() != Some(&text) {
            warn!(lock = %self.lock(), problem = text, "cannot acquire the lock");
        }
        let holder = self.status.lock().holder.clone();
        self.tell(holder, Some(text));
    }

    fn tell(&self, holder: Option<String>, problem: Option<String>) {
        let next = Status { lock: self.lock(), holder, problem };
        let mut status = self.status.lock();
        if status.holder != next.holder
            && let Some(holder) = &next.holder
            && *holder != self.settings.identity
        {
            info!(lock = next.lock, holder, "standing by");
        }
        *status = next;
    }
}
