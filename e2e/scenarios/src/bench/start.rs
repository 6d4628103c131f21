//! How long a start takes when everything is there already, and that it writes nothing.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Asked, Report, Stage, median, mib, number, patience, report::round, seconds};
use crate::{
    berth::Berth,
    case::PATIENCE,
    control_plane::{Kind, Request, User},
    process::Usage,
};

/// How long after a start it is watched for writes.
const WATCHED: Duration = Duration::from_secs(5);

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which control plane.
    pub against: Kind,
    /// How many PVs and bound claims there are.
    pub volumes: usize,
    /// How many starts.
    pub repeats: usize,
    /// The berth binary.
    pub program: PathBuf,
}

/// One start.
#[derive(Clone, Debug)]
struct Run {
    ready_s: f64,
    process_s: f64,
    asked: Asked,
    usage: Usage,
}

/// Lets berth make the volumes, then starts it anew and anew.
pub async fn run(options: &Options) -> Result<Report> {
    ensure!(options.repeats > 0, "at least one start is needed");
    let stage = Stage::start(options.against, &options.program).await?;
    let class = stage.case.class("nfs").deletes().create().await?;
    let namespace = stage.case.namespace.clone();
    let maker = stage.idle_berth(&stage.setup()?).await?;
    let idle = super::usage(&maker)?;
    stage.make_claims(&namespace, &class, options.volumes, "ReadWriteMany").await?;
    stage.all_bound(&namespace, options.volumes).await?;
    stage.quiet(&maker).await?;
    maker.terminate().await?;

    let mut runs = Vec::new();
    for _ in 0..options.repeats {
        runs.push(once(&stage).await?);
    }
    let made = stage.observer.volumes(&namespace);
    ensure!(made == options.volumes, "there are {made} PVs for {} claims", options.volumes);
    Ok(report(options, &runs, idle))
}

fn report(options: &Options, runs: &[Run], idle: Usage) -> Report {
    let middle = |of: &dyn Fn(&Run) -> f64| median(runs.iter().map(of));
    let per_pair = |run: &Run| {
        (mib(run.usage.resident_kib) - mib(idle.resident_kib)) * 1024.0 * 1024.0
            / number(options.volumes.max(1))
    };
    let writes = runs.iter().map(|run| run.asked.writes).max().unwrap_or_default();
    let requests = runs.last().map(|run| json!(run.asked.by_kind)).unwrap_or_default();
    let each: Vec<Value> = runs
        .iter()
        .map(|run| {
            json!({
                "ready_s": round(run.ready_s),
                "process_ready_s": round(run.process_s),
                "writes": run.asked.writes,
                "cpu_s": round(run.usage.cpu_seconds),
                "rss_mib": round(mib(run.usage.resident_kib)),
            })
        })
        .collect();
    let title = format!(
        "start with {} PVs and bound claims, against {}, median of {}",
        options.volumes,
        options.against,
        runs.len()
    );
    Report::new(title)
        .with("volumes", options.volumes, "PVs, each with a bound claim")
        .with("against", options.against.to_string(), "control plane")
        .with("repeats", runs.len(), "starts")
        .measured(
            "ready_s",
            middle(&|run| run.ready_s),
            "s from the API server's first answer to /readyz 200",
        )
        .measured(
            "process_ready_s",
            middle(&|run| run.process_s),
            "s from the start of the process to /readyz 200",
        )
        .with("writes", writes, "writes of a start but for the leader lock (most of all starts)")
        .measured("cpu_s", middle(&|run| run.usage.cpu_seconds), "processor seconds until all is quiet")
        .measured(
            "rss_idle_mib",
            mib(idle.resident_kib),
            "MiB resident, synced, before there was any PV or claim",
        )
        .measured("rss_mib", middle(&|run| mib(run.usage.resident_kib)), "MiB resident when all is quiet")
        .measured("rss_peak_mib", middle(&|run| mib(run.usage.peak_kib)), "MiB resident at most")
        .measured("bytes_per_pair", middle(&per_pair), "bytes resident per PV and claim after such a start")
        .with("requests", requests, "of the last start, by kind")
        .with("runs", each, "each start")
}

async fn once(stage: &Stage) -> Result<Run> {
    let since = Timestamp::now();
    let berth = stage.case.start(&stage.setup()?)?;
    let ready = ready(&berth).await?;
    tokio::time::sleep(WATCHED).await;
    let usage = stage.quiet(&berth).await?;
    let requests = stage.requests(User::Berth, since)?;
    let first = requests
        .iter()
        .map(|request: &Request| request.answered)
        .min()
        .context("the API server's record holds nothing of berth")?;
    // Before the process is told to end: giving back the lock is no write of the start.
    let run = Run {
        ready_s: seconds(first, ready),
        process_s: seconds(since, ready),
        asked: Asked::sort(&requests),
        usage,
    };
    berth.terminate().await?;
    tracing::info!(ready_s = round(run.ready_s), writes = run.asked.writes, "measured");
    Ok(run)
}

/// When `/readyz` first answered 200.
async fn ready(berth: &Berth) -> Result<Timestamp> {
    let deadline = Instant::now() + patience(0).max(PATIENCE);
    let mut last = String::from("no answer");
    while Instant::now() < deadline {
        berth.check_alive()?;
        match berth.get("/readyz").await {
            Ok((200, _)) => return Ok(Timestamp::now()),
            Ok((code, body)) => last = format!("{code}: {body}"),
            // It does not listen yet.
            Err(error) => last = format!("{error:#}"),
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    anyhow::bail!("/readyz was never 200; last: {last}")
}
