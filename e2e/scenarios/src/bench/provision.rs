//! How long N claims wait for their PVs, and what that costs, against a bare client on the same control plane.
//!
//! [`run`] repeats one size and gives medians; [`series`] compares sizes. Each repetition has a fresh control plane, on
//! which berth and the bare client take turns; who is first alternates. In either turn kube-controller-manager annotates
//! and binds as many claims.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Asked, Posts, Report, Stage, bare::Bare, first_list, median, mib, number, patience, report::round,
    seconds,
};
use crate::{
    control_plane::{Kind, User},
    process::Usage,
};

/// How the claims come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// They are there and annotated before berth starts.
    Backlog,
    /// They are made at full pace while berth runs.
    Burst,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Self::Backlog => "backlog",
            Self::Burst => "burst",
        }
    }
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which control plane.
    pub against: Kind,
    /// How many claims.
    pub claims: usize,
    /// How they come.
    pub shape: Shape,
    /// How often.
    pub repeats: usize,
    /// The berth binary.
    pub program: PathBuf,
}

/// One repetition.
#[derive(Clone, Debug)]
struct Run {
    berth_first: bool,
    berth: Turn,
    bare: Turn,
    asked: Asked,
    idle: Usage,
    settled: Usage,
}

/// When the PVs of one turn were made.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// Seconds until the last PV was made.
    last_volume: f64,
    /// The same, counted from the last annotation; means something only where claims are made meanwhile.
    after_last_annotation: f64,
    /// Claims that kube-controller-manager annotated in a second.
    kcm_pace: f64,
    /// Seconds until the first PV was made; where the turn begins with a list.
    first_volume: Option<f64>,
    /// What the API server tells of the PVs.
    posts: Option<Posts>,
}

impl Run {
    fn ratio(&self) -> f64 {
        self.berth.last_volume / self.bare.last_volume
    }

    fn cpu_ms_per_claim(&self, claims: usize) -> f64 {
        (self.settled.cpu_seconds - self.idle.cpu_seconds) * 1e3 / number(claims)
    }

    fn bytes_per_pair(&self, claims: usize) -> f64 {
        (mib(self.settled.resident_kib) - mib(self.idle.resident_kib)) * 1024.0 * 1024.0 / number(claims)
    }

    fn json(&self, options: &Options) -> Value {
        let mut run = json!({
            "first": if self.berth_first { "berth" } else { "bare" },
            "last_pv_s": round(self.berth.last_volume),
            "bare_last_pv_s": round(self.bare.last_volume),
            "ratio": round(self.ratio()),
            "cpu_s": round(self.settled.cpu_seconds),
            "rss_peak_mib": round(mib(self.settled.peak_kib)),
        });
        let Some(fields) = run.as_object_mut() else {
            return run;
        };
        if options.shape == Shape::Burst {
            let after = round(self.berth.after_last_annotation);
            fields.insert("last_pv_after_last_annotation_s".to_owned(), json!(after));
        }
        if let Some(first) = self.berth.first_volume {
            fields.insert("first_pv_s".to_owned(), json!(round(first)));
        }
        for (name, turn) in [("post_ms", self.berth), ("bare_post_ms", self.bare)] {
            if let Some(posts) = turn.posts {
                fields.insert(name.to_owned(), json!(round(posts.milliseconds)));
            }
        }
        if let Some(posts) = self.berth.posts {
            fields.insert("events_before_last_pv".to_owned(), json!(posts.events_before));
        }
        run
    }
}

/// Measures one size.
pub async fn run(options: &Options) -> Result<Report> {
    ensure!(options.claims > 0 && options.repeats > 0, "at least one claim and one repetition are needed");
    let mut runs = Vec::new();
    for repeat in 0..options.repeats {
        let run = once(options, repeat % 2 == 0)
            .await
            .with_context(|| format!("repetition {} of {}", repeat + 1, options.repeats))?;
        tracing::info!(
            repeat = repeat + 1,
            of = options.repeats,
            claims = options.claims,
            last_pv_s = round(run.berth.last_volume),
            bare_last_pv_s = round(run.bare.last_volume),
            "measured"
        );
        runs.push(run);
    }
    Ok(report(options, &runs))
}

fn report(options: &Options, runs: &[Run]) -> Report {
    let claims = options.claims;
    let middle = |of: &dyn Fn(&Run) -> f64| median(runs.iter().map(of));
    // Where the bare client was first, berth's memory also holds that its PVs exist.
    let memory = |of: &dyn Fn(&Run) -> f64| median(runs.iter().filter(|run| run.berth_first).map(of));
    let per_claim = |count: fn(&Asked) -> usize| {
        runs.iter().map(|run| number(count(&run.asked))).fold(0.0, f64::max) / number(claims)
    };
    let title = format!(
        "provision {claims} claims, {}, against {}, median of {}",
        options.shape.name(),
        options.against,
        runs.len()
    );
    let from = match options.shape {
        Shape::Backlog => ("s from the first list's answer to the last PV", "s, the bare client likewise"),
        Shape::Burst => ("s from the first claim made to the last PV", "s, the bare client likewise"),
    };
    let mut report = Report::new(title)
        .with("claims", claims, "claims, each with a PV in the end")
        .with("against", options.against.to_string(), "control plane")
        .with("shape", options.shape.name(), "how the claims come")
        .with("repeats", runs.len(), "repetitions, each on a fresh control plane")
        .measured("last_pv_s", middle(&|run| run.berth.last_volume), from.0)
        .measured("bare_last_pv_s", middle(&|run| run.bare.last_volume), from.1)
        .measured("ratio", middle(&Run::ratio), "the first of these two by the second, within a repetition");
    if options.shape == Shape::Burst {
        report = report
            .measured(
                "last_pv_after_last_annotation_s",
                middle(&|run| run.berth.after_last_annotation),
                "s from the last annotation to the last PV",
            )
            .measured(
                "bare_last_pv_after_last_annotation_s",
                middle(&|run| run.bare.after_last_annotation),
                "s, the bare client likewise",
            );
    }
    report = report
        .measured(
            "kcm_pace",
            middle(&|run| run.berth.kcm_pace),
            "claims annotated per second before or meanwhile",
        )
        .measured(
            "writes_per_claim",
            per_claim(|asked| asked.writes),
            "creates, updates, patches, deletes (most of all runs)",
        )
        .measured(
            "reads_per_claim",
            per_claim(|asked| asked.reads),
            "gets and further lists (most of all runs)",
        )
        .measured(
            "cpu_s",
            middle(&|run| run.settled.cpu_seconds),
            "processor seconds from start until all is quiet",
        )
        .measured(
            "cpu_ms_per_claim",
            middle(&|run| run.cpu_ms_per_claim(claims)),
            "processor milliseconds, without those of a start with nothing there",
        )
        .measured(
            "rss_idle_mib",
            middle(&|run| mib(run.idle.resident_kib)),
            "MiB resident, synced, without claims",
        )
        .measured(
            "rss_settled_mib",
            memory(&|run| mib(run.settled.resident_kib)),
            "MiB resident when all is quiet",
        )
        .measured("rss_peak_mib", memory(&|run| mib(run.settled.peak_kib)), "MiB resident at most")
        .measured(
            "bytes_per_pair",
            memory(&|run| run.bytes_per_pair(claims)),
            "bytes resident per PV and claim when all is quiet",
        );
    let requests = runs.last().map(|run| json!(run.asked.by_kind)).unwrap_or_default();
    report.with("requests", requests, "of the last run, by kind").with(
        "runs",
        runs.iter().map(|run| run.json(options)).collect::<Vec<_>>(),
        "each repetition",
    )
}

/// Measures several sizes and how the cost of a claim changes between them. The largest is measured once.
pub async fn series(options: &Options, sizes: &[usize]) -> Result<Report> {
    let (Some(least), Some(most)) = (sizes.iter().min(), sizes.iter().max()) else {
        anyhow::bail!("no sizes are given");
    };
    let mut rows = Vec::new();
    for &claims in sizes {
        let repeats = if claims == *most && claims > *least { 1 } else { options.repeats };
        rows.push((claims, run(&Options { claims, repeats, ..options.clone() }).await?));
    }
    let column = |name: &str| -> Vec<f64> {
        rows.iter().map(|(_, report)| report.get(name).unwrap_or_default()).collect()
    };
    let spread = |values: Vec<f64>| {
        let (low, high) =
            values.iter().fold((f64::MAX, 0.0_f64), |(low, high), &value| (low.min(value), high.max(value)));
        high / low
    };
    let wall = rows
        .iter()
        .map(|(claims, report)| report.get("last_pv_s").unwrap_or_default() / number(*claims))
        .collect();
    let at = |claims: usize, name: &str| {
        rows.iter().find(|row| row.0 == claims).and_then(|(_, report)| report.get(name)).unwrap_or_default()
    };
    let settled = |claims| at(claims, "rss_settled_mib") * 1024.0 * 1024.0;
    let per_pair = (settled(*most) - settled(*least)) / number((*most - *least).max(1));
    let shown: Vec<Value> = rows
        .iter()
        .map(|(claims, report)| {
            let names = [
                "last_pv_s",
                "bare_last_pv_s",
                "ratio",
                "writes_per_claim",
                "reads_per_claim",
                "cpu_s",
                "cpu_ms_per_claim",
                "rss_idle_mib",
                "rss_settled_mib",
                "rss_peak_mib",
                "bytes_per_pair",
            ];
            let mut row = serde_json::Map::new();
            row.insert("claims".to_owned(), json!(claims));
            for name in names {
                row.insert(name.to_owned(), json!(report.get(name)));
            }
            Value::Object(row)
        })
        .collect();
    Ok(Report::new(format!("provision, {}, against {}, by size", options.shape.name(), options.against))
        .with("against", options.against.to_string(), "control plane")
        .with("shape", options.shape.name(), "how the claims come")
        .measured(
            "cpu_flatness",
            spread(column("cpu_ms_per_claim")),
            "processor time per claim, highest by lowest",
        )
        .measured("wall_flatness", spread(wall), "time per claim, highest by lowest")
        .measured("ratio_flatness", spread(column("ratio")), "ratio to the bare client, highest by lowest")
        .measured(
            "bytes_per_additional_pair",
            per_pair,
            "bytes resident per PV and claim between least and most",
        )
        .with("series", shown, "each size"))
}

async fn once(options: &Options, berth_first: bool) -> Result<Run> {
    let stage = Stage::start(options.against, &options.program).await?;
    let class = stage.case.class("nfs").deletes().create().await?;
    let (idle, sample) = idle(&stage, &class).await?;

    // A name of the same length: their PVs shall have the same size.
    let provisioner = stage.case.provisioner.replace("nfs", "raw");
    let bare_class = stage.case.class("raw").deletes().provisioner(&provisioner).create().await?;
    let namespace = "bare";
    stage.namespace(namespace).await?;
    let bare =
        Bare::new(stage.client(User::OldProvisioner).await?, &sample, namespace, &provisioner, &bare_class)?;

    let mut turns = (None, None);
    for berths in [berth_first, !berth_first] {
        if berths {
            turns.0 = Some(berths_turn(&stage, options, &class).await.context("berth's turn")?);
        } else {
            let turn = bares_turn(&stage, options, &bare, namespace, &bare_class);
            turns.1 = Some(turn.await.context("the bare client's turn")?);
        }
    }
    let (Some((berth, asked, settled)), Some(bare)) = turns else {
        anyhow::bail!("a turn was left out");
    };
    Ok(Run { berth_first, berth, bare, asked, idle, settled })
}

/// What berth costs with nothing to do, and a PV that it made.
async fn idle(stage: &Stage, class: &str) -> Result<(Usage, Value)> {
    let berth = stage.idle_berth(&stage.setup()?).await?;
    let usage = super::usage(&berth)?;
    let namespace = "sample";
    stage.namespace(namespace).await?;
    stage.make_claims(namespace, class, 1, "ReadWriteMany").await?;
    stage.all_bound(namespace, 1).await?;
    let sample =
        stage.case.volumes().await?.into_iter().next().context("berth made a PV, and it is not there")?;
    let status = berth.terminate().await?;
    ensure!(
        status.success(),
        "berth ended with {status} when it was told to stop; the end of its log:\n{}",
        super::tail(&berth)
    );
    Ok((usage, serde_json::to_value(sample).context("read the sample PV")?))
}

async fn berths_turn(stage: &Stage, options: &Options, class: &str) -> Result<(Turn, Asked, Usage)> {
    let (claims, namespace) = (options.claims, stage.case.namespace.as_str());
    let since;
    let berth;
    match options.shape {
        Shape::Backlog => {
            backlog(stage, namespace, class, claims).await?;
            since = Timestamp::now();
            berth = stage.case.start(&stage.setup()?)?;
        }
        Shape::Burst => {
            berth = stage.idle_berth(&stage.setup()?).await?;
            since = Timestamp::now();
            stage.make_claims(namespace, class, claims, "ReadWriteMany").await?;
        }
    }
    stage
        .wait("the last PV", patience(claims), || stage.observer.volumes(namespace) >= claims)
        .await
        .with_context(|| format!("{} PVs were made", stage.observer.volumes(namespace)))?;
    stage.all_bound(namespace, claims).await?;
    let settled = stage.quiet(&berth).await?;
    let requests = stage.requests(User::Berth, since)?;
    let posts = Posts::among(&requests)?;
    ensure!(posts.count == claims, "berth made {} PVs for {claims} claims", posts.count);
    let turn = match options.shape {
        Shape::Backlog => listed(stage, namespace, first_list(&requests)?, posts)?,
        Shape::Burst => {
            Turn { posts: Some(posts), ..turn(stage, namespace, since, seen_last(stage, namespace)?)? }
        }
    };
    berth.terminate().await?;
    Ok((turn, Asked::sort(&requests), settled))
}

async fn bares_turn(
    stage: &Stage,
    options: &Options,
    bare: &Bare,
    namespace: &str,
    class: &str,
) -> Result<Turn> {
    let claims = options.claims;
    let turn = match options.shape {
        Shape::Backlog => {
            let waiting = backlog(stage, namespace, class, claims).await?;
            let since = Timestamp::now();
            bare.make_all(&waiting).await?;
            stage.all_bound(namespace, claims).await?;
            // Its last answer may reach us before it is in the server's record.
            tokio::time::sleep(Duration::from_millis(200)).await;
            let requests = stage.requests(User::OldProvisioner, since)?;
            let posts = Posts::among(&requests)?;
            ensure!(posts.count == claims, "the bare client made {} PVs for {claims} claims", posts.count);
            listed(stage, namespace, first_list(&requests)?, posts)?
        }
        Shape::Burst => {
            let incoming = stage.observer.annotated(namespace);
            bare.first_list().await?;
            let since = Timestamp::now();
            tokio::try_join!(
                stage.make_claims(namespace, class, claims, "ReadWriteMany"),
                bare.make_as_they_come(incoming, claims),
            )?;
            stage.all_bound(namespace, claims).await?;
            turn(stage, namespace, since, seen_last(stage, namespace)?)?
        }
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(turn)
}

/// Makes claims and waits until they are all annotated and kube-controller-manager has nothing to do with them.
async fn backlog(
    stage: &Stage,
    namespace: &str,
    class: &str,
    claims: usize,
) -> Result<Vec<super::observer::Claimant>> {
    let made = stage.make_claims(namespace, class, claims, "ReadWriteMany").await?;
    stage.all_annotated(namespace, claims).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(made)
}

fn seen_last(stage: &Stage, namespace: &str) -> Result<Timestamp> {
    stage.observer.last_volume(namespace).context("no PV was seen")
}

/// A turn that began with a list.
fn listed(stage: &Stage, namespace: &str, from: Timestamp, posts: Posts) -> Result<Turn> {
    Ok(Turn {
        first_volume: Some(seconds(from, posts.first)),
        posts: Some(posts),
        ..turn(stage, namespace, from, posts.last)?
    })
}

fn turn(stage: &Stage, namespace: &str, from: Timestamp, to: Timestamp) -> Result<Turn> {
    let (first, last, count) = stage
        .observer
        .claims(namespace, |claims| (claims.first_annotated, claims.last_annotated, claims.annotated));
    let (first, last) = first.zip(last).context("no annotation was seen")?;
    Ok(Turn {
        last_volume: seconds(from, to),
        after_last_annotation: seconds(last, to),
        kcm_pace: number(count) / seconds(first, last).max(1e-3),
        first_volume: None,
        posts: None,
    })
}
