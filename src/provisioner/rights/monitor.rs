//! What the API server lets us do, asked again and again: [`Monitor`].

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, error, info};

use super::{Right, Rights, degrade};
use crate::provisioner::cluster::sentence;

/// The rights are asked for again at least this often while a required one is missing,
const EVERY_WHILE_STUCK: Duration = Duration::from_mins(1);
/// and this often otherwise.
const EVERY: Duration = Duration::from_mins(10);
/// After a refusal they are asked for again, but not more often than this.
const AT_MOST_EVERY: Duration = Duration::from_secs(30);
/// Questions at a time.
const QUESTIONS: usize = 8;

/// Asks now, and again later: every ten minutes (every minute while a required right is missing), and
/// soon after a refusal. Stops when dropped.
pub struct Monitor {
    rights: watch::Receiver<Rights>,
    shared: Arc<Shared>,
    _running: DropGuard,
}

#[derive(Default)]
struct Shared {
    /// What the server refused since it was last asked.
    refused: Mutex<BTreeSet<Right>>,
    wake: Notify,
}

impl Monitor {
    /// Asks for `wanted` (see [`VOLUMES`](super::VOLUMES), [`ELECTION`](super::ELECTION)) within `limit`, says in the log what is missing, and goes on
    /// asking in the background. Where the server does not answer, a right counts as there.
    pub async fn start(client: Client, namespace: &str, wanted: Vec<Right>, limit: Duration) -> Self {
        let inquiry = Inquiry { client, namespace: namespace.to_owned(), wanted, limit };
        let answers = inquiry.ask().await;
        let first = conclude(&answers, &BTreeSet::new(), &Rights::default());
        tell(&Rights::default(), &first);
        let (sender, rights) = watch::channel(first);
        let shared = Arc::<Shared>::default();
        let stop = CancellationToken::new();
        let task = (stop.clone(), Arc::clone(&shared));
        tokio::spawn(async move { task.0.run_until_cancelled(follow(inquiry, task.1, sender)).await });
        Self { rights, shared, _running: stop.drop_guard() }
    }

    /// What we may do, now and whenever it changes.
    pub fn rights(&self) -> watch::Receiver<Rights> {
        self.rights.clone()
    }

    /// The server refused (403) what needs `right`: asks again soon. Where it does not answer the question, the right
    /// counts as missing until the next time.
    pub fn refused(&self, right: Right) {
        let new = self.shared.refused.lock().insert(right);
        if new {
            self.shared.wake.notify_one();
        }
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rights.borrow().fmt(f)
    }
}

async fn follow(inquiry: Inquiry, shared: Arc<Shared>, sender: watch::Sender<Rights>) {
    loop {
        let asked = Instant::now();
        let stuck = degrade(&sender.borrow()).iter().any(|notice| notice.required);
        let pause = if stuck { EVERY_WHILE_STUCK } else { EVERY };
        tokio::select! {
            () = sleep_until(asked + pause) => {}
            () = shared.wake.notified() => sleep_until(asked + AT_MOST_EVERY).await,
        }
        let answers = inquiry.ask().await;
        let refused = std::mem::take(&mut *shared.refused.lock());
        let before = sender.borrow().clone();
        let now = conclude(&answers, &refused, &before);
        tell(&before, &now);
        sender.send_if_modified(|rights| {
            let changed = *rights != now;
            *rights = now;
            changed
        });
    }
}

/// What the answers and refusals mean. A question without an answer leaves things as they were before, unless the server
/// refused the thing itself; after that, the right is given another chance when nothing was refused since.
pub(super) fn conclude(
    answers: &[(Right, Option<bool>)],
    refused: &BTreeSet<Right>,
    before: &Rights,
) -> Rights {
    let answered = answers.iter().any(|(_, answer)| answer.is_some());
    let denied = |(right, answer): &(Right, Option<bool>)| match answer {
        Some(allowed) => !allowed,
        None if refused.contains(right) => true,
        // A server that answers other questions will answer this one again; one that answers none never told.
        None => answered && !before.allow(*right),
    };
    Rights::without(answers.iter().filter(|answer| denied(answer)).map(|(right, _)| *right))
}

/// Says in the log what was lost and what was gained.
fn tell(before: &Rights, now: &Rights) {
    let known = degrade(before);
    for notice in degrade(now).iter().filter(|notice| !known.contains(notice)) {
        if notice.required {
            error!(rule = notice.rule, "{notice}");
        } else {
            info!(rule = notice.rule, "{notice}");
        }
    }
    for right in before.denied().filter(|right| now.allow(*right)) {
        info!(%right, "right granted");
    }
}

/// What is asked.
struct Inquiry {
    client: Client,
    namespace: String,
    wanted: Vec<Right>,
    limit: Duration,
}

impl Inquiry {
    /// The answers, as far as they come in time.
    async fn ask(&self) -> Vec<(Right, Option<bool>)> {
        let until = Instant::now() + self.limit;
        let api = Api::<SelfSubjectAccessReview>::all(self.client.clone());
        stream::iter(self.wanted.iter().copied())
            .map(|right| {
                let api = api.clone();
                async move {
                    let answer = timeout_at(until, async {
                        api.create(&PostParams::default(), &self.review(right)).await
                    });
                    let allowed = match answer.await {
                        Ok(Ok(review)) => review.status.map(|status| status.allowed),
                        Ok(Err(failed)) => {
                            debug!(%right, error = sentence(&failed), "cannot check the right");
                            None
                        }
                        Err(_) => None,
                    };
                    (right, allowed)
                }
            })
            .buffered(QUESTIONS)
            .collect()
            .await
    }

    fn review(&self, right: Right) -> SelfSubjectAccessReview {
        let rule = right.rule();
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let attributes = ResourceAttributes {
            group: some(rule.group),
            resource: some(rule.resource),
            subresource: some(rule.subresource),
            verb: some(rule.verb),
            name: some(rule.name),
            namespace: some(if rule.namespaced { &self.namespace } else { "" }),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec {
            resource_attributes: Some(attributes),
            non_resource_attributes: None,
        };
        SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() }
    }
}
