//! One cluster at work: [`Store`], what is remembered of it, and [`Work`], with which an operation goes about it.
//!
//! A store is remembered from the moment that somebody names it: in the configuration, a class, a PV. Whether it answers is
//! asked in the background until it does; afterwards every call tells. What the operations do is in `create`, `remove`,
//! `sweep` and `trash`.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant, SystemTime},
};

use super::{Admin, names::Spot, trash::Trash};
use crate::{
    backend::{
        Error, Host, Kind, Past, StoreStatus,
        ceph::{Call, Ceph, Cluster, Credentials, Failed, Key, Reason},
    },
    system::guard::{Guards, Held},
    volume::{Expired, Invalid, Secrets},
};

/// How long things are left alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Between two looks at the trash, at least.
    pub(super) soon: Duration,
    /// Between two looks at the clock, at most.
    pub(super) later: Duration,
    /// Between two looks at a trash in which nothing is due, for what others put there: by the clock.
    pub(super) look: Duration,
    /// Before a cluster that did not answer is asked again.
    pub(super) again: Duration,
    /// Before an image without a header is cleared away: whoever was making it has finished or given up by then, since
    /// every step of the `rbd` program is bounded (`--rados-osd-op-timeout`).
    pub(super) making: Duration,
    /// Before something that could not be purged is tried again, the first time.
    pub(super) first_pause: Duration,
}

impl Pace {
    /// For clusters as they are.
    pub(super) const USUAL: Self = Self {
        soon: Duration::from_secs(5),
        later: Duration::from_mins(5),
        look: Duration::from_hours(1),
        again: Duration::from_secs(10),
        making: Duration::from_secs(45),
        first_pause: Duration::from_secs(30),
    };
}

/// Tells the time.
pub(super) type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// How long an image without a header is remembered.
const REMEMBERED: Duration = Duration::from_hours(24 * 7);

/// One cluster.
pub(super) struct Store {
    pub(super) cluster: Cluster,
    pub(super) trash: Trash,
    pub(super) pace: Pace,
    clock: Clock,
    images: Guards<String>,
    memory: Mutex<Memory>,
}

/// What is remembered of a cluster.
#[derive(Default)]
struct Memory {
    /// The identity that it had when the newest volume was made.
    past: Option<String>,
    /// The identity that it has.
    identity: Option<String>,
    /// Why it is not asked: its key cannot be had.
    keyless: Option<String>,
    /// Where our images may lie, and as whom to look there.
    spots: BTreeMap<Spot, Admin>,
    /// Images without a header, and since when they are known.
    headless: HashMap<String, Instant>,
    /// Whether somebody asks until there is an answer.
    asked: bool,
}

/// Why an operation stopped.
#[derive(Debug)]
pub(super) enum Trouble {
    /// A call failed.
    Call(Failed),
    /// The operation itself says so.
    Said(Error),
}

impl Trouble {
    /// Whether another key may help.
    pub(super) fn is_about_the_key(&self) -> bool {
        matches!(self, Self::Call(failed) if matches!(failed.reason, Reason::WrongKey | Reason::BadKey))
    }

    /// Whether it is only a matter of seconds.
    pub(super) fn is_too_early(&self) -> bool {
        matches!(self, Self::Call(failed) if failed.reason == Reason::NotExpired)
    }

    /// Whether nothing of ours can lie where the call looked.
    pub(super) fn is_elsewhere(&self) -> bool {
        matches!(self, Self::Call(failed)
            if matches!(failed.reason, Reason::NoPool | Reason::NoNamespace | Reason::NotPermitted))
    }
}

impl From<Failed> for Trouble {
    fn from(failed: Failed) -> Self {
        Self::Call(failed)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Said(error)
    }
}

impl From<Invalid> for Trouble {
    fn from(invalid: Invalid) -> Self {
        Self::Said(invalid.into())
    }
}

impl From<Expired> for Trouble {
    fn from(expired: Expired) -> Self {
        Self::Said(expired.into())
    }
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Call(failed) => failed.into(),
            Trouble::Said(error) => error,
        }
    }
}

/// An error that the operation itself reports.
pub(super) fn said<T>(kind: Kind, message: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Said(Error::new(kind, message)))
}

/// What an operation works with: a store, a handle for one user, and the list of images that it is about.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) store: Arc<Store>,
    pub(super) host: Arc<dyn Host>,
    pub(super) ceph: Ceph,
    pub(super) spot: Spot,
}

impl Work {
    /// With the key that the host has for `admin`.
    pub(super) async fn new(
        store: &Arc<Store>,
        host: &Arc<dyn Host>,
        spot: &Spot,
        admin: &Admin,
        fresh: bool,
    ) -> Result<Self, Error> {
        let secrets = host.secrets(&admin.secret, fresh).await?;
        let credentials = credentials(admin, &secrets)?;
        Ok(Self {
            store: Arc::clone(store),
            host: Arc::clone(host),
            ceph: store.cluster.with(credentials),
            spot: spot.clone(),
        })
    }

    /// The identity of the cluster, which must be what it was.
    pub(super) async fn identity(&self) -> Result<String, Trouble> {
        let identity = self.ceph.fsid().await?;
        let mut memory = self.store.memory();
        memory.identity = Some(identity.clone());
        match memory.swapped() {
            Some(why) => said(Kind::Refused, format!("cluster {}: {why}", self.store.cluster.name())),
            None => Ok(identity),
        }
    }
}

impl Memory {
    /// Why the cluster is not the one that the existing volumes lie in.
    fn swapped(&self) -> Option<String> {
        match (&self.past, &self.identity) {
            (Some(past), Some(identity)) if past != identity => Some(format!(
                "it is not what it was: its identity (fsid) is {identity}, the volumes' is {past}. Correct the monitors, or \
                 name the new cluster otherwise"
            )),
            (Some(_) | None, Some(_) | None) => None,
        }
    }
}

/// The user with its key, as the Secret has it.
fn credentials(admin: &Admin, secrets: &Secrets) -> Result<Credentials, Error> {
    let Some(key) = secrets.get("key").or_else(|| secrets.only().map(|(_, value)| value)) else {
        let message = format!(
            "Secret {} must have the key of Ceph user {:?} as its value \"key\"",
            admin.secret, admin.user
        );
        return Err(Error::new(Kind::Invalid, message));
    };
    let wrong = |error: Invalid| Error::new(Kind::Invalid, format!("Secret {}: {error}", admin.secret));
    Credentials::new(&admin.user, Key::parse(key).map_err(wrong)?).map_err(Error::from)
}

impl Store {
    pub(super) fn new(cluster: Cluster, pace: Pace, clock: Clock) -> Arc<Self> {
        let (images, memory) = (Guards::default(), Mutex::default());
        Arc::new(Self { cluster, trash: Trash::default(), pace, clock, images, memory })
    }

    /// The time by which the trash counts.
    pub(super) fn now(&self) -> SystemTime {
        (self.clock)()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets nobody else work on the image.
    pub(super) fn hold(&self, spec: &str) -> Result<Held<String>, Error> {
        self.images.take(&spec.to_owned()).ok_or_else(|| {
            let message = format!("image {spec} on cluster {} is being worked on", self.cluster.name());
            Error::new(Kind::Busy, message)
        })
    }

    /// Takes what the existing volumes say.
    pub(super) fn remember(&self, past: Past, admin: Option<&Admin>) {
        let mut memory = self.memory();
        memory.past = past.identity;
        let Some(admin) = admin else { return };
        for spot in past.places.iter().filter_map(Spot::of) {
            memory.spots.entry(spot).or_insert_with(|| admin.clone());
        }
    }

    /// Remembers that images lie there, and who may look at them. The last one to say so is right.
    pub(super) fn learn(&self, spot: &Spot, admin: &Admin) {
        let mut memory = self.memory();
        if memory.spots.get(spot) != Some(admin) {
            memory.spots.insert(spot.clone(), admin.clone());
            drop(memory);
            self.trash.wake();
        }
    }

    /// Remembers that images may lie there, unless more is known of it.
    pub(super) fn suppose(&self, spot: Spot, admin: &Admin) {
        let mut memory = self.memory();
        if let Entry::Vacant(vacant) = memory.spots.entry(spot) {
            vacant.insert(admin.clone());
            drop(memory);
            self.trash.wake();
        }
    }

    /// Where our images may lie, and who may look at them.
    pub(super) fn spots(&self) -> Vec<(Spot, Admin)> {
        self.memory().spots.iter().map(|(spot, admin)| (spot.clone(), admin.clone())).collect()
    }

    /// Whether an image without a header has been seen for so long that nobody can be making it still. The first sight
    /// is noted.
    pub(super) fn is_abandoned(&self, spec: &str) -> bool {
        let now = Instant::now();
        let mut memory = self.memory();
        // What was seen so long ago is another story. Longer than a sweep waits before it looks again.
        memory.headless.retain(|_, since| now.duration_since(*since) < REMEMBERED);
        now.duration_since(*memory.headless.entry(spec.to_owned()).or_insert(now)) >= self.pace.making
    }

    /// Forgets that an image had no header.
    pub(super) fn is_whole(&self, spec: &str) {
        self.memory().headless.remove(spec);
    }

    /// Lets somebody ask the cluster until it answers, whenever it is not known to.
    pub(super) fn watch(self: &Arc<Self>, host: &Arc<dyn Host>, admin: &Admin) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if std::mem::replace(&mut self.memory().asked, true) {
            return;
        }
        let (store, host, admin) = (Arc::downgrade(self), Arc::clone(host), admin.clone());
        let again = self.pace.again;
        runtime.spawn(async move {
            while ask(&store, &host, &admin).await {
                tokio::time::sleep(again).await;
            }
        });
    }

    /// The state as readiness and metrics show it.
    pub(super) fn status(&self) -> StoreStatus {
        let health = self.cluster.health();
        let memory = self.memory();
        let silent =
            || (memory.asked && memory.identity.is_none()).then(|| "it has not answered yet".to_owned());
        let trouble = memory
            .keyless
            .clone()
            .or_else(|| health.ready.err())
            .or_else(|| memory.swapped())
            .or_else(silent);
        StoreStatus {
            name: self.cluster.name().to_owned(),
            ready: trouble.map_or(Ok(()), Err),
            running: health.running,
            oldest: health.oldest,
            trash: self.trash.waiting(),
            stuck: self.trash.stuck(),
            purged: self.trash.purged(),
        }
    }
}

/// Asks the cluster who it is, if that is not known or it was lost; whether to go on.
async fn ask(store: &Weak<Store>, host: &Arc<dyn Host>, admin: &Admin) -> bool {
    let Some(store) = store.upgrade() else { return false };
    if store.memory().identity.is_some() && store.cluster.health().ready.is_ok() {
        return true;
    }
    // The key may have been corrected.
    let spot = Spot { pool: String::new(), namespace: None };
    let work = Work::new(&store, host, &spot, admin, true).await;
    store.memory().keyless = work.as_ref().err().map(Error::chain);
    let Ok(work) = work else { return true };
    let lost = store.cluster.health().ready.is_err();
    if lost {
        // Who it is may be remembered; whether it answers is not.
        let call = Call::reads(format!("ask cluster {} who it is", store.cluster.name()), ["fsid"]);
        let _ = work.ceph.ceph(call).await;
    }
    if let Err(trouble) = work.identity().await {
        let error = Error::from(trouble);
        tracing::warn!(cluster = store.cluster.name(), error = error.chain(), "the cluster cannot be used");
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::SecretName;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    /// Proves: rbd 7
    #[test]
    fn a_key_is_found_in_a_secret_and_never_guessed() {
        let admin = Admin {
            user: "admin".into(),
            secret: SecretName { namespace: "default".into(), name: "ceph".into() },
        };
        let key = "AQBkzUZpAAAAABAAHhTQzUYbXB8rhRXLXSpMEQ==";
        let secrets = |pairs: &[(&str, &str)]| -> Secrets {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
        };
        let rows: [(&str, Pairs<'_>, bool); 5] = [
            ("its value key", &[("key", key)], true),
            ("its value key beside others", &[("key", key), ("other", "x")], true),
            ("its only value", &[("ceph-key", key)], true),
            ("one of several", &[("a", key), ("b", key)], false),
            ("none", &[], false),
        ];
        for (row, pairs, found) in rows {
            let credentials = credentials(&admin, &secrets(pairs));
            match credentials {
                Ok(credentials) => assert!(found && credentials.user() == "admin", "{row}"),
                Err(error) => {
                    assert!(!found && error.to_string().contains("default/ceph"), "{row}: {error}");
                }
            }
        }
    }
}
