//! The figures of `hack/bench`: what provisioning, removal and a start cost, as ratios within one run.
//!
//! [`provision`], [`remove`], [`start`] and [`ceph`] each measure one thing and give a report, which [`Report`] prints as a table or
//! as one JSON object. A [`Stage`] is what they measure on: a fresh control plane, one provisioner, one export.
//!
//! Nothing here judges a figure. What each means is in `docs/benchmarks.md`.

pub mod bare;
pub mod ceph;
pub mod observer;
pub mod provision;
pub mod remove;
pub mod report;
pub mod slow;
pub mod start;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim};
use kube::Client;
use serde_json::json;

use self::observer::{Claimant, Observer};
pub use self::report::Report;
use crate::{
    berth::{Berth, Setup},
    case::Case,
    control_plane::{Binaries, ControlPlane, Kind, Request, User, audit, binaries::Found},
    process::Usage,
};

/// Requests that do not depend on how many claims there are: the leader lock and the questions about rights at start.
const NOT_PER_CLAIM: [&str; 4] =
    ["leases", "endpoints", "selfsubjectaccessreviews", "selfsubjectrulesreviews"];

/// How long berth must have been quiet to count as done.
const QUIET: Duration = Duration::from_secs(2);

/// A fresh control plane with one provisioner on it, and somebody who watches.
#[derive(Debug)]
pub struct Stage {
    // Ended in this order: whoever watches would complain about an API server that is gone.
    observer: Observer,
    case: Case,
}

impl Stage {
    /// Starts the control plane. `program` is the berth binary that will be measured.
    pub async fn start(kind: Kind, program: &Path) -> Result<Self> {
        let plane = match kind {
            Kind::Embedded => ControlPlane::embedded().await?,
            Kind::Real => match Binaries::find().await? {
                Found::Ready(binaries) => ControlPlane::real(&binaries).await?,
                Found::Buildable => ControlPlane::real(&Binaries::build().await?).await?,
                Found::Absent { reason } => bail!("there is no real control plane here: {reason}"),
            },
        };
        let case = Case::new(Arc::new(plane), program).await?;
        let observer = Observer::start(&case.admin);
        Ok(Self { observer, case })
    }

    /// How berth is started: as deployed, with its default logging.
    fn setup(&self) -> Result<Setup> {
        Ok(self.case.setup()?.env("RUST_LOG", "info"))
    }

    /// Starts berth and waits until it is ready, then until it is quiet.
    async fn idle_berth(&self, setup: &Setup) -> Result<Berth> {
        let berth = self.case.start(setup)?;
        berth.answers("/readyz").await?;
        self.quiet(&berth).await?;
        Ok(berth)
    }

    /// Waits until berth uses no processor time worth the name.
    async fn quiet(&self, berth: &Berth) -> Result<Usage> {
        let mut last = usage(berth)?;
        let mut since = Instant::now();
        let deadline = Instant::now() + Duration::from_mins(10);
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = usage(berth)?;
            // Probes, lease renewals and watch bookmarks are a few ticks.
            if now.cpu_seconds - last.cpu_seconds > 0.03 {
                last = now;
                since = Instant::now();
            } else if since.elapsed() >= QUIET {
                return Ok(now);
            }
            ensure!(
                Instant::now() < deadline,
                "berth is not quiet after 10 minutes; the end of its log:\n{}",
                tail(berth)
            );
        }
    }

    /// Waits until `holds`, at most `at_most`, and as long as everything runs.
    async fn wait(&self, what: &str, at_most: Duration, mut holds: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + at_most;
        while !holds() {
            self.case
                .check_berths()
                .and_then(|()| self.case.plane.check_alive())
                .and_then(|()| self.observer.check())
                .with_context(|| format!("while waiting for {what}"))?;
            ensure!(Instant::now() < deadline, "waited {at_most:?} for {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Makes a namespace.
    async fn namespace(&self, name: &str) -> Result<()> {
        let object = json!({ "metadata": { "name": name } });
        self.case.create_global::<Namespace>(&object).await.map(drop)
    }

    /// Makes `count` claims of `class` as fast as the API server takes them. They are called `claim-<number>`.
    async fn make_claims(
        &self,
        namespace: &str,
        class: &str,
        count: usize,
        mode: &str,
    ) -> Result<Vec<Claimant>> {
        let bodies = (0..count)
            .map(|number| {
                let claim = json!({
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                    "metadata": { "name": format!("claim-{number:06}") },
                    "spec": {
                        "accessModes": [mode],
                        "storageClassName": class,
                        "resources": { "requests": { "storage": "1Mi" } },
                    },
                });
                claim.to_string().into_bytes()
            })
            .collect();
        let path = format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims");
        bare::post_all(&self.case.admin, &path, bodies)
            .await?
            .into_iter()
            .map(|answer| {
                let claim: PersistentVolumeClaim = serde_json::from_str(&answer).context("read a claim")?;
                Ok(Claimant {
                    name: claim.metadata.name.context("a claim has no name")?,
                    uid: claim.metadata.uid.context("a claim has no UID")?,
                    resource_version: claim.metadata.resource_version.unwrap_or_default(),
                })
            })
            .collect()
    }

    async fn all_annotated(&self, namespace: &str, count: usize) -> Result<()> {
        self.wait(&format!("{count} claims of {namespace} to be annotated"), patience(count), || {
            self.observer.claims(namespace, |claims| claims.annotated >= count)
        })
        .await
    }

    async fn all_bound(&self, namespace: &str, count: usize) -> Result<()> {
        self.wait(&format!("{count} claims of {namespace} to be bound"), patience(count), || {
            self.observer.claims(namespace, |claims| claims.bound >= count)
        })
        .await
    }

    /// What `user` has asked since `since`.
    fn requests(&self, user: User, since: Timestamp) -> Result<Vec<Request>> {
        let mut requests = self.case.plane.requests(user)?;
        requests.retain(|request| request.received >= since);
        Ok(requests)
    }

    async fn client(&self, user: User) -> Result<Client> {
        self.case.plane.client(user).await
    }
}

/// What berth asked of the API server, sorted by what it depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Creates, updates, patches and deletes that claims cause.
    pub writes: usize,
    /// Gets, and lists beyond the first one of each resource.
    pub reads: usize,
    /// How often each `verb resource` was asked, first lists, watches and the leader lock included.
    pub by_kind: BTreeMap<String, usize>,
}

impl Asked {
    /// Sorts requests, which must be in the order of their arrival.
    pub fn sort(requests: &[Request]) -> Self {
        let mut asked = Self { by_kind: audit::count(requests), ..Self::default() };
        // A list may come in pages; it is the first one until its watch begins.
        let mut watched: Vec<&str> = Vec::new();
        for request in requests {
            let resource = request.resource.as_str();
            if NOT_PER_CLAIM.contains(&resource) {
                continue;
            }
            match request.verb.as_str() {
                "watch" => watched.push(resource),
                "list" if !watched.contains(&resource) => {}
                "get" | "list" => asked.reads += 1,
                _ => asked.writes += 1,
            }
        }
        asked
    }
}

/// When the first list (or streaming list) of what the provisioner watches was answered.
fn first_list(requests: &[Request]) -> Result<Timestamp> {
    requests
        .iter()
        .filter(|request| ["list", "watch"].contains(&request.verb.as_str()))
        .filter(|request| {
            ["persistentvolumes", "persistentvolumeclaims", "storageclasses"]
                .contains(&request.resource.as_str())
        })
        .map(|request| request.answered)
        .min()
        .context("the API server's record holds no list request")
}

/// The PVs that a client made.
#[derive(Clone, Copy, Debug)]
struct Posts {
    /// When the first one was stored.
    first: Timestamp,
    /// When the last one was.
    last: Timestamp,
    /// How many there are.
    count: usize,
    /// How long the API server took for one, in the middle.
    milliseconds: f64,
    /// Events that the same client made before the last of them.
    events_before: usize,
}

impl Posts {
    fn among(requests: &[Request]) -> Result<Self> {
        let created = |resource: &'static str| {
            requests.iter().filter(move |request| {
                request.verb == "create" && request.resource == resource && request.code == 201
            })
        };
        let made = || created("persistentvolumes");
        let answers = || made().map(|request| request.answered);
        let (first, last) = answers()
            .min()
            .zip(answers().max())
            .context("the API server's record holds no PV that was made")?;
        Ok(Self {
            first,
            last,
            count: made().count(),
            milliseconds: median(made().map(|request| seconds(request.received, request.answered) * 1e3)),
            events_before: created("events").filter(|event| event.answered < last).count(),
        })
    }
}

/// Seconds from one time to another.
fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// The middle value; of two middle ones their mean. 0 for none.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => at(count / 2),
        count => f64::midpoint(at(count / 2 - 1), at(count / 2)),
    }
}

/// Far more than `count` claims need.
fn patience(count: usize) -> Duration {
    Duration::from_mins(3) + Duration::from_millis(30) * u32::try_from(count).unwrap_or(u32::MAX)
}

/// A count as a number to calculate with.
#[allow(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
fn number(count: usize) -> f64 {
    count as f64
}

/// KiB as MiB.
fn mib(kib: u64) -> f64 {
    number(usize::try_from(kib).unwrap_or(usize::MAX)) / 1024.0
}

fn usage(berth: &Berth) -> Result<Usage> {
    berth.check_alive()?;
    berth.usage().context("berth has ended")
}

fn tail(berth: &Berth) -> String {
    let log = berth.log();
    let lines: Vec<&str> = log.lines().collect();
    lines.get(lines.len().saturating_sub(30)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(verb: &str, resource: &str) -> Request {
        let at = Timestamp::UNIX_EPOCH;
        Request {
            received: at,
            answered: at,
            verb: verb.to_owned(),
            resource: resource.to_owned(),
            namespace: String::new(),
            name: String::new(),
            code: 201,
        }
    }

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        assert!((median([4.0, 1.0, 3.0, 2.0]) - 2.5).abs() < 1e-9);
        assert!((median([5.0, 1.0, 3.0]) - 3.0).abs() < 1e-9);
        assert!(median([]).abs() < 1e-9);
    }

    #[test]
    fn only_what_claims_cause_counts_as_theirs() {
        let asked = Asked::sort(&[
            request("create", "selfsubjectaccessreviews"),
            request("get", "leases"),
            request("update", "leases"),
            request("list", "persistentvolumes"),
            request("list", "persistentvolumes"),
            request("watch", "persistentvolumes"),
            request("create", "persistentvolumes"),
            request("create", "events"),
            request("get", "persistentvolumeclaims"),
            request("list", "persistentvolumes"),
        ]);
        assert_eq!((asked.writes, asked.reads), (2, 2), "the get, and the list after the watch");
        assert_eq!(asked.by_kind["list persistentvolumes"], 3);
    }

    #[test]
    fn time_begins_with_the_first_list_and_ends_with_the_last_volume() {
        let at = |request: Request, second| Request {
            answered: Timestamp::from_second(second).unwrap(),
            ..request
        };
        let requests = [
            at(request("get", "leases"), 1),
            at(request("list", "storageclasses"), 2),
            at(request("create", "persistentvolumes"), 5),
            at(request("create", "persistentvolumes"), 9),
            at(request("create", "events"), 8),
            at(Request { code: 409, ..request("create", "persistentvolumes") }, 11),
            at(request("create", "events"), 12),
        ];
        let posts = Posts::among(&requests).unwrap();
        assert!((seconds(first_list(&requests).unwrap(), posts.last) - 7.0).abs() < 1e-9);
        assert!((seconds(posts.first, posts.last) - 4.0).abs() < 1e-9);
        assert_eq!((posts.count, posts.events_before), (2, 1));
        assert!(first_list(&requests[..1]).is_err());
    }
}
