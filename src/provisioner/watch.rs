//! The watches: [`follow`] keeps a kind of objects in [`Records`](super::records::Records), whatever happens to the
//! connection; [`can_stream`] finds out how to begin.
//!
//! A list is taken as a stream where the server offers that, else in pages. What a new list does not have any more counts
//! as deleted. Errors are waited out with growing, jittered delays.

use std::{fmt::Debug, sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{
    Api, Client, Resource,
    api::{WatchEvent, WatchParams},
    core::PartialObjectMeta,
    runtime::watcher::{self, Event, watcher},
};
use rand::Rng;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::{
    Shared,
    class::Class,
    objects::{ClaimObject, VolumeObject},
    records::Watched,
};

/// The first wait after an error; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait after an error.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long the next object of a first list may take.
const STALLED: Duration = Duration::from_mins(1);
/// How long a server may take to begin a streaming list; one that does not know them begins none.
const PROBE: Duration = Duration::from_secs(5);
/// Objects in one page of a list.
const PAGE: u32 = 500;

/// Waits between tries: doubling, and by chance between half and all of it.
struct Backoff(Duration);

impl Backoff {
    fn new() -> Self {
        Self(FIRST_WAIT)
    }

    async fn wait(&mut self) {
        let wait = self.0.mul_f64(rand::rng().random_range(0.5..1.0));
        self.0 = (self.0 * 2).min(LONGEST_WAIT);
        tokio::time::sleep(wait).await;
    }
}

/// Whether the server can send a list as a stream. Asked once, with the smallest kind; a server that cannot be reached is
/// asked again.
pub(super) async fn can_stream(client: &Client) -> bool {
    let api: Api<PartialObjectMeta<StorageClass>> = Api::all(client.clone());
    let mut backoff = Backoff::new();
    loop {
        match tokio::time::timeout(PROBE, probe(&api)).await {
            Ok(Ok(can)) => return can,
            // The server ignored the question and waits for changes.
            Err(_) => return false,
            Ok(Err(kube::Error::Api(status))) if status.code < 500 && status.code != 429 => {
                tracing::info!(
                    status = status.message,
                    "the server offers no streaming lists: reading lists in pages"
                );
                return false;
            }
            Ok(Err(error)) => {
                tracing::warn!(error = %error, "cannot ask the API server how it lists; trying again");
                backoff.wait().await;
            }
        }
    }
}

async fn probe(api: &Api<PartialObjectMeta<StorageClass>>) -> kube::Result<bool> {
    let seconds = u32::try_from(PROBE.as_secs()).unwrap_or(1);
    let mut stream = api.watch(&WatchParams::streaming_lists().timeout(seconds), "0").await?.boxed();
    while let Some(event) = stream.try_next().await? {
        match event {
            WatchEvent::Bookmark(mark)
                if mark.metadata.annotations.contains_key("k8s.io/initial-events-end") =>
            {
                return Ok(true);
            }
            WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
            WatchEvent::Added(_)
            | WatchEvent::Modified(_)
            | WatchEvent::Deleted(_)
            | WatchEvent::Bookmark(_) => {}
        }
    }
    Ok(false)
}

/// Keeps all kinds in the records until dropped, also after a defect of ours has ended the watches.
pub(super) async fn follow_all(shared: Arc<Shared>, client: Client) {
    loop {
        let mut watches = JoinSet::new();
        watches.spawn(follow_each(Arc::clone(&shared), client.clone()));
        watches.join_next().await;
        tracing::error!("the watches ended; beginning again");
        Backoff::new().wait().await;
    }
}

async fn follow_each(shared: Arc<Shared>, client: Client) {
    let config = if can_stream(&client).await {
        watcher::Config::default().streaming_lists()
    } else {
        watcher::Config::default().page_size(PAGE)
    };
    let classes =
        follow(Watched::Classes, Api::<StorageClass>::all(client.clone()), &config, &shared, |event| {
            match event {
                Change::Seen(class) => shared.see_class(&Class::from(class)),
                Change::Gone(class) => {
                    shared.records().forget_class(class.metadata.name.as_deref().unwrap_or_default());
                }
            }
        });
    let volumes =
        follow(Watched::Volumes, Api::<VolumeObject>::all(client.clone()), &config, &shared, |event| {
            match event {
                Change::Seen(volume) => shared.records().see_volume(&volume),
                Change::Gone(volume) => {
                    shared.records().forget_volume(volume.metadata.name.as_deref().unwrap_or_default());
                }
            }
        });
    let claims =
        follow(Watched::Claims, Api::<ClaimObject>::all(client), &config, &shared, |event| match event {
            Change::Seen(claim) => shared.records().see_claim(&claim),
            Change::Gone(claim) => {
                shared.records().forget_claim(claim.metadata.uid.as_deref().unwrap_or_default());
            }
        });
    tokio::join!(classes, volumes, claims);
}

/// What happened to one object.
enum Change<K> {
    Seen(K),
    Gone(K),
}

async fn follow<K>(
    kind: Watched,
    api: Api<K>,
    config: &watcher::Config,
    shared: &Shared,
    mut apply: impl FnMut(Change<K>),
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut backoff = Backoff::new();
    'fresh: loop {
        let mut events = std::pin::pin!(watcher(api.clone(), config.clone()));
        let mut listing = true;
        loop {
            let next = if listing {
                let Ok(next) = tokio::time::timeout(STALLED, events.next()).await else {
                    tracing::warn!(kind = ?kind, "the API server sends nothing more of a list: beginning again");
                    backoff.wait().await;
                    continue 'fresh;
                };
                next
            } else {
                events.next().await
            };
            match next {
                Some(Ok(Event::Init)) => {
                    listing = true;
                    shared.records().begin(kind);
                }
                Some(Ok(Event::InitApply(object))) => apply(Change::Seen(object)),
                Some(Ok(Event::InitDone)) => {
                    listing = false;
                    backoff = Backoff::new();
                    if shared.records().complete(kind) {
                        shared.synced.send_replace(true);
                    }
                }
                Some(Ok(Event::Apply(object))) => {
                    backoff = Backoff::new();
                    apply(Change::Seen(object));
                }
                Some(Ok(Event::Delete(object))) => {
                    backoff = Backoff::new();
                    apply(Change::Gone(object));
                }
                Some(Err(error)) => {
                    tracing::warn!(kind = ?kind, error = %error, "watch interrupted");
                    backoff.wait().await;
                    // The watcher would ask for the version that is too old for ever.
                    if too_old(&error) {
                        continue 'fresh;
                    }
                }
                None => continue 'fresh,
            }
        }
    }
}

/// Whether a watch could not be resumed because the server has forgotten where it was.
fn too_old(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 410,
        watcher::Error::WatchStartFailed(_)
        | watcher::Error::InitialListFailed(_)
        | watcher::Error::WatchError(_)
        | watcher::Error::WatchFailed(_)
        | watcher::Error::NoResourceVersion => false,
    }
}
