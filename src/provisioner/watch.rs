//! The watches: [`follow`] keeps a kind of objects in [`Cache`](super::cache::Cache), whatever happens to the
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
use tokio::{task::JoinSet, time::Instant};

use super::{
    cache::ResourceKind,
    class::Class,
    cluster::sentence,
    context::Context,
    objects::{AttachmentObject, ClaimObject, VolumeObject},
    rights::Right,
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
    let mut told = Told::default();
    loop {
        match tokio::time::timeout(PROBE, probe(&api)).await {
            Ok(Ok(can)) => return can,
            // The server ignored the question and waits for changes.
            Err(_) => return false,
            // Who may not watch learns nothing of how the server lists; lists in pages always work.
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => return false,
            Ok(Err(kube::Error::Api(status))) if !matches!(status.code, 401 | 429 | 500..) => {
                tracing::info!(
                    status = status.message,
                    "the API server does not support streaming lists; listing in pages"
                );
                return false;
            }
            Ok(Err(error)) => {
                match Complaint::of_request(&error) {
                    Complaint::Known(why) => {
                        tracing::debug!(
                            error = why,
                            "cannot find out whether the API server supports streaming \
                            lists"
                        );
                    }
                    Complaint::Forbidden(why) | Complaint::Other(why) => {
                        told.tell(&why, || {
                            tracing::warn!(
                                error = why,
                                "cannot find out whether the API server supports streaming lists; retrying"
                            );
                        });
                    }
                }
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

/// Keeps all kinds in the cache until dropped, also after a defect of ours has ended the watches.
pub(super) async fn follow_all(ctx: Arc<Context>, client: Client) {
    loop {
        let mut watches = JoinSet::new();
        watches.spawn(follow_each(Arc::clone(&ctx), client.clone()));
        watches.join_next().await;
        tracing::error!("the watches ended; restarting them");
        Backoff::new().wait().await;
    }
}

async fn follow_each(ctx: Arc<Context>, client: Client) {
    let config = if can_stream(&client).await {
        watcher::Config::default().streaming_lists()
    } else {
        watcher::Config::default().page_size(PAGE)
    };
    let classes =
        follow(ResourceKind::Classes, Api::<StorageClass>::all(client.clone()), &config, &ctx, |event| {
            match event {
                Change::Seen(class) => ctx.upsert_class(&Class::from(class)),
                Change::Gone(class) => {
                    ctx.remove_class(class.metadata.name.as_deref().unwrap_or_default());
                }
            }
        });
    let volumes =
        follow(ResourceKind::Volumes, Api::<VolumeObject>::all(client.clone()), &config, &ctx, |event| {
            match event {
                Change::Seen(volume) => ctx.cache().upsert_volume(&volume),
                Change::Gone(volume) => {
                    ctx.cache().remove_volume(volume.name());
                }
            }
        });
    let claims = async {
        // Of claims that come before their classes too little would be kept, and each had to be read once more. The sender is in
        // `ctx`: waiting cannot fail.
        let _ = ctx.classes_listed.subscribe().wait_for(|listed| *listed).await;
        follow(ResourceKind::Claims, Api::<ClaimObject>::all(client.clone()), &config, &ctx, |event| {
            match event {
                Change::Seen(claim) => ctx.cache().upsert_claim(&claim),
                Change::Gone(claim) => {
                    ctx.cache().remove_claim(claim.metadata.uid.as_deref().unwrap_or_default());
                }
            }
        })
        .await;
    };
    let attachments = async {
        if !ctx.cache().attachments.served() {
            return;
        }
        let api = Api::<AttachmentObject>::all(client.clone());
        follow(ResourceKind::Attachments, api, &config, &ctx, |event| match event {
            Change::Seen(attachment) => {
                let cache = &mut *ctx.cache();
                cache.attachments.see(&attachment, &mut cache.wakeups);
            }
            Change::Gone(attachment) => {
                let cache = &mut *ctx.cache();
                let name = attachment.metadata.name.as_deref().unwrap_or_default();
                cache.attachments.forget(name, &mut cache.wakeups);
            }
        })
        .await;
    };
    tokio::join!(classes, volumes, claims, attachments);
}

/// What happened to one object.
enum Change<K> {
    Seen(K),
    Gone(K),
}

async fn follow<K>(
    kind: ResourceKind,
    api: Api<K>,
    config: &watcher::Config,
    ctx: &Context,
    mut apply: impl FnMut(Change<K>),
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut backoff = Backoff::new();
    let mut told = Told::default();
    let resource = resource(kind);
    'fresh: loop {
        let mut events = std::pin::pin!(watcher(api.clone(), config.clone()));
        let mut listing = true;
        loop {
            let next = if listing {
                let Ok(next) = tokio::time::timeout(STALLED, events.next()).await else {
                    tracing::warn!(resource, "the API server stopped sending a list; listing again");
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
                    ctx.cache().begin(kind);
                }
                Some(Ok(Event::InitApply(object))) => apply(Change::Seen(object)),
                Some(Ok(Event::InitDone)) => {
                    listing = false;
                    (backoff, told) = (Backoff::new(), Told::default());
                    ctx.complete(kind);
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
                    complain(kind, &error, &mut told, ctx);
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

/// What is wrong with a list or a watch.
#[derive(Debug, PartialEq, Eq)]
enum Complaint {
    /// The log knows it: the server was not reached or does not accept us, which is told once for all requests; or it forgot
    /// where the watch was, which is no failure.
    Known(String),
    /// The right is missing.
    Forbidden(String),
    Other(String),
}

impl Complaint {
    fn of_request(error: &kube::Error) -> Self {
        let why = sentence(error);
        match error {
            kube::Error::Api(status) => Self::of_code(status.code, why),
            _ => Self::Known(why),
        }
    }

    fn of_code(code: u16, why: String) -> Self {
        match code {
            401 | 410 => Self::Known(why),
            403 => Self::Forbidden(why),
            _ => Self::Other(why),
        }
    }

    fn of_watch(error: &watcher::Error) -> Self {
        match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => Self::of_request(error),
            watcher::Error::WatchError(status) => {
                let why = sentence(&kube::Error::Api(status.clone()));
                Self::of_code(status.code, why)
            }
            watcher::Error::NoResourceVersion => Self::Other(error.to_string()),
        }
    }
}

/// What is said again and again is written down at most so often.
const SAID_EVERY: Duration = Duration::from_mins(5);

/// What was last said of one watch.
#[derive(Debug, Default)]
struct Told(Option<(String, Instant)>);

impl Told {
    /// Calls `say` unless the same was said a short time ago.
    fn tell(&mut self, why: &str, say: impl FnOnce()) {
        let known = self.0.as_ref().is_some_and(|(text, at)| text == why && at.elapsed() < SAID_EVERY);
        if !known {
            self.0 = Some((why.to_owned(), Instant::now()));
            say();
        }
    }
}

/// Says what is wrong, once. A missing right is asked for, so that the rule to add is told.
fn complain(kind: ResourceKind, error: &watcher::Error, told: &mut Told, ctx: &Context) {
    let resource = resource(kind);
    match Complaint::of_watch(error) {
        Complaint::Known(why) => tracing::debug!(resource, error = why, "watch interrupted"),
        Complaint::Forbidden(why) => {
            let listing = matches!(error, watcher::Error::InitialListFailed(_));
            ctx.rights.refused(if listing { right_to_list(kind) } else { right_to_watch(kind) });
            told.tell(&why, || {
                tracing::error!(resource, error = why, "not allowed to list or watch these objects");
            });
        }
        Complaint::Other(why) => {
            told.tell(&why, || tracing::warn!(resource, error = why, "watch interrupted; retrying"));
        }
    }
}

/// The kind in the words of RBAC.
fn resource(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::Claims => "persistentvolumeclaims",
        ResourceKind::Volumes => "persistentvolumes",
        ResourceKind::Classes => "storageclasses",
        ResourceKind::Attachments => "volumeattachments",
    }
}

fn right_to_list(kind: ResourceKind) -> Right {
    match kind {
        ResourceKind::Claims => Right::ListClaims,
        ResourceKind::Volumes => Right::ListVolumes,
        ResourceKind::Classes => Right::ListClasses,
        ResourceKind::Attachments => Right::ListAttachments,
    }
}

fn right_to_watch(kind: ResourceKind) -> Right {
    match kind {
        ResourceKind::Claims => Right::WatchClaims,
        ResourceKind::Volumes => Right::WatchVolumes,
        ResourceKind::Classes => Right::WatchClasses,
        ResourceKind::Attachments => Right::WatchAttachments,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: u16, message: &str) -> kube::Error {
        let status = kube::core::Status { code, message: message.into(), ..Default::default() };
        kube::Error::Api(Box::new(status))
    }

    #[test]
    fn a_watch_complains_of_what_no_other_line_tells_and_in_sentences() {
        use Complaint::{Forbidden, Known, Other};
        let forbidden = "persistentvolumes is forbidden";
        let rows = [
            (
                watcher::Error::InitialListFailed(kube::Error::Service("connection refused".into())),
                Known("connection refused".into()),
            ),
            (
                watcher::Error::WatchStartFailed(api(401, "Unauthorized")),
                Known(
                    "the API server does not accept the credentials of this process (401 Unauthorized)"
                        .into(),
                ),
            ),
            (watcher::Error::WatchStartFailed(api(410, "too old")), Known("too old".into())),
            (watcher::Error::InitialListFailed(api(403, forbidden)), Forbidden(forbidden.into())),
            (watcher::Error::WatchStartFailed(api(503, "no leader")), Other("no leader".into())),
        ];
        for (error, complaint) in rows {
            assert_eq!(Complaint::of_watch(&error), complaint, "{error:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_trouble_of_a_watch_is_reported_once_in_a_while() {
        let mut told = Told::default();
        let mut lines = Vec::new();
        for (seconds, why) in [(0, "a"), (30, "a"), (30, "a"), (30, "b"), (30, "b"), (300, "b")] {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            told.tell(why, || lines.push(why));
        }
        assert_eq!(lines, ["a", "b", "b"]);
    }
}
