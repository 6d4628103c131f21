//! How long a released volume full of small files waits for its PV to go, and its purge takes, against `rm -rf` of an
//! equal tree on the same file system; plain, and with every file operation of both made slow.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::process::Command;

use super::{
    Report, Stage, median, patience,
    report::round,
    seconds,
    slow::{Calls, Slow},
};
use crate::{berth::Berth, control_plane::Kind};

/// How the files are spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A hundred directories.
    Tree,
    /// All in the volume's own directory.
    Flat,
}

impl Layout {
    fn name(self) -> &'static str {
        match self {
            Self::Tree => "tree",
            Self::Flat => "flat",
        }
    }

    fn directories(self) -> usize {
        match self {
            Self::Tree => 100,
            Self::Flat => 0,
        }
    }

    /// Writes `files` small files below `root`, which must be there.
    fn fill(self, root: &Path, files: usize) -> Result<()> {
        let directories = self.directories();
        let place = |number: usize| match self {
            Self::Tree => root.join(format!("directory-{:03}", number % directories)),
            Self::Flat => root.to_owned(),
        };
        for number in 0..directories {
            let dir = place(number);
            std::fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
        }
        for number in 0..files {
            let file = place(number).join(format!("file-{number:06}"));
            std::fs::write(&file, "sixty-four bytes of content that nobody will ever want to read.\n")
                .with_context(|| format!("write {}", file.display()))?;
        }
        Ok(())
    }
}

/// Writes everything out: nobody shall pay for what was made for the other, or left by the other.
async fn settle(dir: &Path) -> Result<()> {
    let dir = std::fs::File::open(dir).with_context(|| format!("open {}", dir.display()))?;
    tokio::task::spawn_blocking(move || nix::unistd::syncfs(dir))
        .await
        .context("wait for the file system")?
        .context("write everything out")
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which control plane.
    pub against: Kind,
    /// How many files the volume holds.
    pub files: usize,
    /// How they are spread.
    pub layout: Layout,
    /// Measure also with each file operation delayed by this.
    pub latency: Option<Duration>,
    /// How often; the slow part, which takes long, is done once.
    pub repeats: usize,
    /// The berth binary.
    pub program: PathBuf,
}

/// One repetition.
#[derive(Clone, Copy, Debug)]
struct Run {
    gone_ms: f64,
    purge_s: f64,
    rm_s: f64,
    calls: Option<(Calls, Calls)>,
}

/// Measures plain, then slow if that is asked for.
pub async fn run(options: &Options) -> Result<Report> {
    ensure!(options.files > 0 && options.repeats > 0, "at least one file and one repetition are needed");
    let stage = Stage::start(options.against, &options.program).await?;
    let class = stage.case.class("nfs").deletes().create().await?;
    let mut plain = Vec::new();
    let berth = stage.idle_berth(&stage.setup()?).await?;
    for repeat in 0..options.repeats {
        plain.push(
            once(&stage, options, &class, &berth, &format!("plain-{repeat}"), repeat % 2 == 0, None).await?,
        );
    }
    berth.terminate().await?;

    let mut slow = None;
    if let Some(latency) = options.latency {
        let own = Slow::build(stage.case.scratch()).await?;
        let other = own.another()?;
        let [preload, control] = own.environment();
        let setup = stage.setup()?.env(preload.0, preload.1).env(control.0, control.1);
        let berth = stage.idle_berth(&setup).await?;
        slow =
            Some(once(&stage, options, &class, &berth, "slow", true, Some((latency, &own, &other))).await?);
        berth.terminate().await?;
    }
    Ok(report(options, &plain, slow))
}

fn report(options: &Options, plain: &[Run], slow: Option<Run>) -> Report {
    let middle = |of: fn(&Run) -> f64| median(plain.iter().map(of));
    let title = format!(
        "remove a volume of {} small files ({}), against {}, median of {}",
        options.files,
        options.layout.name(),
        options.against,
        plain.len()
    );
    let mut report = Report::new(title)
        .with("files", options.files, "files of 64 bytes")
        .with("layout", options.layout.name(), "tree: a hundred directories; flat: one")
        .with("against", options.against.to_string(), "control plane")
        .with("repeats", plain.len(), "repetitions of the plain part")
        .measured("pv_gone_ms", middle(|run| run.gone_ms), "ms from the phase Released to the end of the PV")
        .measured("purge_s", middle(|run| run.purge_s), "s from the phase Released to an empty trash")
        .measured("rm_s", middle(|run| run.rm_s), "s that rm -rf takes for an equal tree")
        .measured("purge_speed", middle(|run| run.rm_s / run.purge_s), "times as fast as rm -rf");
    if let (Some(latency), Some(run)) = (options.latency, slow) {
        let calls = run.calls.map(|(berth, rm)| json!({ "berth": berth, "rm": rm })).unwrap_or_default();
        report = report
            .measured(
                "latency_ms",
                latency.as_secs_f64() * 1e3,
                "ms that each file operation waits in what follows",
            )
            .measured("slow_pv_gone_ms", run.gone_ms, "ms from the phase Released to the end of the PV")
            .measured("slow_purge_s", run.purge_s, "s from the phase Released to an empty trash")
            .measured("slow_rm_s", run.rm_s, "s that rm -rf takes for an equal tree")
            .measured("slow_purge_speed", run.rm_s / run.purge_s, "times as fast as rm -rf")
            .with("delayed_calls", calls, "operations that waited");
    }
    let runs: Vec<Value> = plain
        .iter()
        .map(|run| {
            json!({
                "pv_gone_ms": round(run.gone_ms),
                "purge_s": round(run.purge_s),
                "rm_s": round(run.rm_s),
            })
        })
        .collect();
    report.with("runs", runs, "each plain repetition")
}

async fn once(
    stage: &Stage,
    options: &Options,
    class: &str,
    berth: &Berth,
    name: &str,
    berth_first: bool,
    slow: Option<(Duration, &Slow, &Slow)>,
) -> Result<Run> {
    let case = &stage.case;
    case.claim(name).class(class).create().await?;
    let volume = case.bound(name).await?;
    let copy = case.scratch().join(format!("copy-{name}"));
    std::fs::create_dir(&copy).with_context(|| format!("make {}", copy.display()))?;
    let (layout, files) = (options.layout, options.files);
    let roots = [volume.directory.clone(), copy.clone()];
    tokio::task::spawn_blocking(move || roots.iter().try_for_each(|root| layout.fill(root, files)))
        .await
        .context("fill the volume")??;
    stage.quiet(berth).await?;

    let delay = |of: Option<&Slow>, on: bool| match (of, slow) {
        (Some(library), Some((delay, ..))) => library.delay(if on { delay } else { Duration::ZERO }),
        (None, _) | (_, None) => Ok(()),
    };
    let (own, other) = slow.map_or((None, None), |(_, own, other)| (Some(own), Some(other)));
    let mut rm_s = 0.0;
    let mut removed = (0.0, 0.0);
    for berths in [berth_first, !berth_first] {
        settle(case.scratch()).await?;
        if berths {
            delay(own, true)?;
            removed = released_to_purged(stage, options, name, &volume.name).await?;
            delay(own, false)?;
        } else {
            delay(other, true)?;
            rm_s = remove_tree(&copy, other).await?;
        }
    }
    ensure!(!volume.directory.exists(), "{} is still there", volume.directory.display());
    ensure!(!copy.exists(), "{} is still there", copy.display());

    let calls = match (own, other) {
        (Some(own), Some(other)) => {
            let calls = (own.calls()?, other.calls()?);
            let least = u64::try_from(options.files + options.layout.directories())?;
            for (who, calls) in [("berth", calls.0), ("rm", calls.1)] {
                ensure!(
                    calls.remove >= least,
                    "{who} removed {least} files and directories, but only {} removals were slowed: it does not \
                     remove through the C library's functions, so the comparison means nothing",
                    calls.remove
                );
            }
            Some(calls)
        }
        (Some(_) | None, _) => None,
    };
    let run = Run { gone_ms: removed.0 * 1e3, purge_s: removed.1, rm_s, calls };
    tracing::info!(
        name,
        pv_gone_ms = round(run.gone_ms),
        purge_s = round(run.purge_s),
        rm_s = round(run.rm_s),
        "measured"
    );
    Ok(run)
}

/// Deletes the claim. Gives the seconds from the phase Released to the end of the PV, and to an empty trash.
async fn released_to_purged(
    stage: &Stage,
    options: &Options,
    claim: &str,
    volume: &str,
) -> Result<(f64, f64)> {
    let case = &stage.case;
    let seen = || stage.observer.volume(&case.namespace, volume);
    // Generous: a slow removal one by one is the thing that we compare with.
    let at_most = patience(options.files)
        + options.latency.unwrap_or_default() * u32::try_from(options.files * 2).unwrap_or(u32::MAX);
    case.delete_claim(claim).await?;
    stage
        .wait(&format!("PV {volume} to be gone"), at_most, || seen().is_some_and(|seen| seen.gone.is_some()))
        .await?;
    let trash = case.export().join(".berth/trash");
    // A missing trash is no empty one: then this looks at the wrong place.
    ensure!(trash.is_dir(), "{} is not there", trash.display());
    stage
        .wait("the trash to be empty", at_most, || {
            std::fs::read_dir(&trash).is_ok_and(|mut entries| entries.next().is_none())
        })
        .await?;
    let empty = Timestamp::now();
    let volume = seen().context("the PV was not seen")?;
    let released = volume.released.context("the PV was never seen released")?;
    let gone = volume.gone.context("the PV was not seen to be gone")?;
    Ok((seconds(released, gone), seconds(released, empty)))
}

/// Runs `rm -rf` and gives its seconds.
async fn remove_tree(root: &Path, slow: Option<&Slow>) -> Result<f64> {
    let environment: Vec<(&str, OsString)> = slow.map(Slow::environment).into_iter().flatten().collect();
    let began = Instant::now();
    let status = Command::new("rm")
        .arg("-rf")
        .arg("--")
        .arg(root)
        .envs(environment)
        .kill_on_drop(true)
        .status()
        .await
        .context("run rm")?;
    let took = began.elapsed().as_secs_f64();
    ensure!(status.success(), "rm ended with {status}");
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_hold_the_number_of_files_asked_for() {
        for (layout, directories) in [(Layout::Tree, 100), (Layout::Flat, 0)] {
            let dir = tempfile::tempdir().unwrap();
            layout.fill(dir.path(), 250).unwrap();
            let (mut files, mut made, mut left) = (0, 0, vec![dir.path().to_owned()]);
            while let Some(next) = left.pop() {
                for entry in std::fs::read_dir(next).unwrap() {
                    let entry = entry.unwrap();
                    if entry.file_type().unwrap().is_dir() {
                        made += 1;
                        left.push(entry.path());
                    } else {
                        files += 1;
                    }
                }
            }
            assert_eq!((files, made), (250, directories), "{layout:?}");
        }
    }
}
