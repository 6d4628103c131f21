//! What we tell people about their claims and volumes: Kubernetes Events, published through [`Events`].
//!
//! Publishing never waits: a background task posts, merges repeats, and lets the provisioning go first. Events are told
//! in the core/v1 API, which the roles of old installations allow.
//!
//! It does not promise delivery: what cannot be posted is dropped and counted.

mod correlator;
mod event;

use std::{fmt, sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event as Body, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use parking_lot::{Mutex, MutexGuard};
use rand::Rng;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};

use super::cluster::sentence;
use correlator::{EventCorrelator, Limits, Post, Posted, Verb};
pub use event::{Counts, Event, Regarding, Type};

/// Who publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reporter {
    /// `<provisioner>_<hostname>_<uuid>`, as the old provisioners wrote it.
    pub component: String,
    /// The pod.
    pub instance: String,
}

impl Reporter {
    /// The reporter for a process that serves `provisioner` on `hostname`; different for every process.
    pub fn new(provisioner: &str, hostname: &str) -> Self {
        Self { component: format!("{provisioner}_{hostname}_{}", uuid()), instance: hostname.to_owned() }
    }
}

/// A random UUID (version 4).
fn uuid() -> String {
    let random =
        rand::rng().random::<u128>() & !(0xf000 << 64) & !(0xc000 << 48) | 0x4000 << 64 | 0x8000 << 48;
    let hex = format!("{random:032x}");
    [hex.get(..8), hex.get(8..12), hex.get(12..16), hex.get(16..20), hex.get(20..)]
        .map(Option::unwrap_or_default)
        .join("-")
}

/// Requests at a time while nothing else is going on.
const REQUESTS: usize = 8;
/// How often to look whether the foreground has become quiet.
const LOOK: Duration = Duration::from_millis(50);
/// How long one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// How often a request is tried.
const TRIES: u32 = 4;
/// The first wait between two tries; it doubles.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// The longest wait that a server may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Where to publish; clones publish to the same task, which ends with the last of them.
#[derive(Clone)]
pub struct Events {
    shared: Arc<Shared>,
    _running: Arc<DropGuard>,
}

struct Shared {
    state: Mutex<State>,
    /// There is something to post, or more of it may be posted at a time.
    wake: Notify,
    /// Nothing is left to post.
    idle: Notify,
}

struct State {
    correlator: EventCorrelator,
    /// How many wait for everything to be posted.
    flushing: usize,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Events {
    /// Starts the background task. `foreground` tells how many writes for provisioning are under way or waiting: while
    /// there are any, events keep out of their way.
    pub fn start(
        client: Client,
        reporter: Reporter,
        foreground: impl Fn() -> usize + Send + Sync + 'static,
    ) -> Self {
        let state = Mutex::new(State { correlator: EventCorrelator::new(Limits::default()), flushing: 0 });
        let shared = Arc::new(Shared { state, wake: Notify::new(), idle: Notify::new() });
        let stop = CancellationToken::new();
        let poster = Poster { client, reporter };
        let task = (stop.clone(), Arc::clone(&shared));
        tokio::spawn(async move { task.0.run_until_cancelled(work(task.1, poster, foreground)).await });
        Self { shared, _running: Arc::new(stop.drop_guard()) }
    }

    /// Posts it soon. Never waits.
    pub fn publish(&self, event: Event) {
        self.shared.state().correlator.record(event, Instant::now(), Timestamp::now());
        self.shared.wake.notify_one();
    }

    /// What became of them.
    pub fn counts(&self) -> Counts {
        self.shared.state().correlator.counts()
    }

    /// Posts what is still waiting, for at most `limit`.
    pub async fn flush(&self, limit: Duration) {
        let flushing = Flushing::new(&self.shared);
        let emptied = async {
            loop {
                let idle = self.shared.idle.notified();
                if self.counts().pending == 0 {
                    return;
                }
                self.shared.wake.notify_one();
                idle.await;
            }
        };
        if timeout(limit, emptied).await.is_err() {
            warn!(left = self.counts().pending, "could not post all Events before the deadline");
        }
        drop(flushing);
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts().fmt(f)
    }
}

/// As long as it lives, the foreground is not waited for.
struct Flushing<'a>(&'a Shared);

impl<'a> Flushing<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.state().flushing += 1;
        Self(shared)
    }
}

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.flushing = state.flushing.saturating_sub(1);
    }
}

/// Posts what the correlator has, for ever.
async fn work(shared: Arc<Shared>, poster: Poster, foreground: impl Fn() -> usize) {
    let mut requests = FuturesUnordered::new();
    loop {
        let (limit, waiting) = {
            let mut state = shared.state();
            let limit = if state.flushing > 0 || foreground() == 0 { REQUESTS } else { 1 };
            while requests.len() < limit
                && let Some(post) = state.correlator.take(Instant::now())
            {
                requests.push(poster.post(post));
            }
            (limit, state.correlator.waiting())
        };
        if waiting == 0 && requests.is_empty() {
            shared.idle.notify_waiters();
        }
        tokio::select! {
            Some((post, result)) = requests.next(), if !requests.is_empty() => {
                let (outcome, why) = match result {
                    Ok(()) => (Posted::Done, String::new()),
                    Err(failed) => failed,
                };
                let first = shared.state().correlator.settle(&post, outcome, Instant::now());
                report(&post, outcome, &why, first);
            }
            () = shared.wake.notified() => {}
            () = sleep(LOOK), if waiting > 0 && limit < REQUESTS => {}
        }
    }
}

fn report(post: &Post, posted: Posted, why: &str, first: bool) {
    let (namespace, object, reason) = (&post.namespace, &post.regarding.name, post.reason);
    match posted {
        Posted::Refused if first => {
            warn!(
                namespace,
                object,
                reason,
                why,
                "not allowed to post Events; the role needs create and patch on core events"
            );
        }
        Posted::Done | Posted::Gone | Posted::Refused => {}
        Posted::Dropped => debug!(namespace, object, reason, why, "event dropped"),
    }
}

/// Makes requests of events.
struct Poster {
    client: Client,
    reporter: Reporter,
}

impl Poster {
    /// Posts one event, with a few tries. The result says why it was not posted.
    async fn post(&self, post: Post) -> (Post, Result<(), (Posted, String)>) {
        let api = Api::<Body>::namespaced(self.client.clone(), &post.namespace);
        let mut wait = TRY_AGAIN;
        let mut tries = 1;
        loop {
            let answer = match post.verb {
                Verb::Create => {
                    let body = body(&post, &self.reporter);
                    timeout(REQUEST_LIMIT, async {
                        api.create(&PostParams::default(), &body).await.map(drop)
                    })
                    .await
                }
                Verb::Patch => {
                    let patch = Patch::Merge(serde_json::json!({
                        "count": post.count,
                        "lastTimestamp": Time(post.last),
                        "message": post.note,
                    }));
                    let how = PatchParams::default();
                    timeout(REQUEST_LIMIT, async { api.patch(&post.name, &how, &patch).await.map(drop) })
                        .await
                }
            };
            let (failure, why) = match answer {
                Ok(Ok(())) => return (post, Ok(())),
                Ok(Err(error)) => (failure(&error, post.verb), sentence(&error)),
                Err(_) => (Failure::Passing(None), format!("no answer within {REQUEST_LIMIT:?}")),
            };
            match failure {
                Failure::Final(Posted::Done) => return (post, Ok(())),
                Failure::Final(posted) => return (post, Err((posted, why))),
                Failure::Passing(_) if tries >= TRIES => return (post, Err((Posted::Dropped, why))),
                Failure::Passing(asked) => {
                    let spread = rand::rng().random_range(1.0..1.5);
                    sleep(asked.unwrap_or(wait).min(LONGEST_WAIT).mul_f64(spread)).await;
                    tries += 1;
                    wait *= 2;
                }
            }
        }
    }
}

/// What a failed request means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    /// It will be the same the next time.
    Final(Posted),
    /// Once more, perhaps when the server said.
    Passing(Option<Duration>),
}

fn failure(error: &kube::Error, verb: Verb) -> Failure {
    let kube::Error::Api(status) = error else { return Failure::Passing(None) };
    let details = status.details.as_ref();
    let ending = details
        .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"));
    let asked = details.map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0);
    match (status.code, verb) {
        (403, _) if ending => Failure::Final(Posted::Dropped),
        // A proxy or an expired token may refuse what the role allows, but it does so for all alike.
        (401 | 403, _) => Failure::Final(Posted::Refused),
        (404, Verb::Patch) => Failure::Final(Posted::Gone),
        // An earlier try went through, and its answer was lost.
        (409, Verb::Create) => Failure::Final(Posted::Done),
        (408 | 409 | 429 | 500.., _) => {
            Failure::Passing(asked.map(|seconds| Duration::from_secs(seconds.into())))
        }
        (_, _) => Failure::Final(Posted::Dropped),
    }
}

/// The event as the server stores it.
fn body(post: &Post, reporter: &Reporter) -> Body {
    let regarding = &post.regarding;
    let kind = match post.kind {
        Type::Normal => "Normal",
        Type::Warning => "Warning",
    };
    Body {
        metadata: ObjectMeta {
            name: Some(post.name.clone()),
            namespace: Some(post.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(regarding.api_version.clone().into_owned()),
            kind: Some(regarding.kind.clone().into_owned()),
            namespace: regarding.namespace.clone(),
            name: Some(regarding.name.clone()),
            uid: Some(regarding.uid.clone()),
            resource_version: regarding.resource_version.clone(),
            field_path: None,
        },
        type_: Some(kind.to_owned()),
        reason: Some(post.reason.to_owned()),
        message: Some(post.note.clone()),
        count: Some(post.count),
        first_timestamp: Some(Time(post.first)),
        last_timestamp: Some(Time(post.last)),
        source: Some(EventSource { component: Some(reporter.component.clone()), host: None }),
        reporting_component: Some(reporter.component.clone()),
        reporting_instance: Some(reporter.instance.clone()),
        ..Body::default()
    }
}

#[cfg(test)]
mod tests;
