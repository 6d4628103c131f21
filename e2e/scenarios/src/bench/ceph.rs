//! What an image and a subvolume cost on a real Ceph cluster, against a shell loop that only calls `rbd create` and
//! `ceph fs subvolume create`, as many at a time.
//!
//! In every repetition berth and the loop take turns on one cluster; who is first alternates. Berth has made a volume before:
//! what is measured is how it goes on. Its turn begins when the first claim is made and ends when the last one is bound.

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

use super::{Report, Stage, median, number, observer::Observer, patience, report::round};
use crate::{
    case::{Case, ClassBuilder},
    ceph::{Cluster, Daemon, FILE_SYSTEM, Packages},
    control_plane::{ControlPlane, manifests},
    process::tree_cpu_seconds,
};

/// The pool and the subvolume group of both.
const PLACE: &str = "bench";
/// Where berth may read and keep Secrets.
const HOME: &str = "berth";
/// The Secret with the administrator's key.
const SECRET: &str = "ceph-admin";

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many volumes of each kind.
    pub volumes: usize,
    /// How many programs at a time.
    pub concurrency: usize,
    /// How often.
    pub repeats: usize,
    /// The berth binary.
    pub program: PathBuf,
}

/// What is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Images.
    Rbd,
    /// Subvolumes that nodes mount as one user.
    Cephfs,
    /// Subvolumes with a user of their own, which the loop does not make.
    CephfsUser,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rbd => "rbd",
            Self::Cephfs => "cephfs",
            Self::CephfsUser => "cephfs+user",
        })
    }
}

impl Kind {
    const ALL: [Self; 3] = [Self::Rbd, Self::Cephfs, Self::CephfsUser];

    fn class<'a>(self, case: &'a Case, cluster: &Cluster) -> ClassBuilder<'a> {
        let provisioner = match self {
            Self::Rbd => "rbd.berth.storage",
            Self::Cephfs | Self::CephfsUser => "cephfs.berth.storage",
        };
        let name = self.to_string().replace('+', "-");
        let class = case
            .class(&name)
            .provisioner(provisioner)
            .parameter("monitors", &cluster.monitors().v2)
            .parameter("adminSecretName", SECRET)
            .parameter("adminSecretNamespace", HOME);
        let class = match self {
            Self::Rbd => class.parameter("pool", PLACE).parameter("imageFeatures", "layering"),
            Self::Cephfs | Self::CephfsUser => class.parameter("claimRoot", &format!("/volumes/{PLACE}")),
        };
        match self {
            Self::Rbd | Self::Cephfs => {
                class.parameter("userSecretName", SECRET).parameter("userSecretNamespace", HOME)
            }
            Self::CephfsUser => class,
        }
    }

    /// One call of the loop; `$1` is the volume's number. The sizes are those that berth makes of a claim of 1 MiB.
    fn call(self) -> String {
        match self {
            Self::Rbd => format!("rbd create --size 1M --image-feature layering {PLACE}/loop-$1"),
            Self::Cephfs | Self::CephfsUser => {
                format!("ceph fs subvolume create {FILE_SYSTEM} loop-$1 4194304 --group_name {PLACE}")
            }
        }
    }
}

/// One turn of either; seconds.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_field_names, reason = "the unit belongs to the name")]
struct Turn {
    wall_s: f64,
    /// Of whoever makes the volumes, with all programs that were started for it.
    cpu_s: f64,
    /// Of the cluster's daemons.
    cluster_cpu_s: f64,
}

/// One repetition of one kind.
#[derive(Clone, Copy, Debug)]
struct Run {
    kind: Kind,
    berth_first: bool,
    berth: Turn,
    shell: Turn,
}

impl Run {
    fn ratio(&self) -> f64 {
        self.berth.wall_s / self.shell.wall_s
    }
}

/// The stage, with the cluster below it.
struct Bench {
    stage: Stage,
    cluster: Arc<Cluster>,
    options: Options,
}

/// Measures all kinds.
pub async fn run(options: &Options) -> Result<Report> {
    ensure!(options.repeats > 0 && options.volumes > 0, "nothing is to be measured");
    if let Packages::Missing(reason) = Packages::find().await? {
        bail!("{reason}");
    }
    let bench = Bench::start(options).await?;
    let mut runs = Vec::new();
    for kind in Kind::ALL {
        let class = kind.class(&bench.stage.case, &bench.cluster).create().await?;
        for repeat in 0..options.repeats {
            runs.push(bench.once(kind, &class, repeat).await?);
        }
    }
    Ok(report(options, &runs))
}

impl Bench {
    async fn start(options: &Options) -> Result<Self> {
        let cluster = Arc::new(Cluster::start().await?);
        cluster.pool(PLACE).await?;
        cluster.ceph(&["fs", "subvolumegroup", "create", FILE_SYSTEM, PLACE]).await?;
        let plane = Arc::new(ControlPlane::embedded().await?);
        let case = Case::new(plane, &options.program).await?.on(Arc::clone(&cluster));
        for manifest in manifests::deployed_for_ceph()?.iter().filter(|one| one.is_access_control()) {
            manifest.apply(&case.admin).await?;
        }
        let secret = json!({
            "metadata": { "name": SECRET, "namespace": HOME },
            "stringData": { "key": cluster.key("admin").await? },
        });
        let secrets: Api<Secret> = Api::namespaced(case.admin.clone(), HOME);
        secrets
            .create(&PostParams::default(), &serde_json::from_value(secret)?)
            .await
            .context("make the Secret with the key")?;
        let observer = Observer::start(&case.admin);
        Ok(Self { stage: Stage { observer, case }, cluster, options: options.clone() })
    }

    async fn once(&self, kind: Kind, class: &str, repeat: usize) -> Result<Run> {
        let name = format!("{}-{repeat}", kind.to_string().replace('+', "-"));
        let berth_first = repeat.is_multiple_of(2);
        let run = if berth_first {
            let berth = self.berth(&name, class).await?;
            Run { kind, berth_first, berth, shell: self.shell(kind, &name).await? }
        } else {
            let shell = self.shell(kind, &name).await?;
            Run { kind, berth_first, berth: self.berth(&name, class).await?, shell }
        };
        tracing::info!(%kind, berth_s = round(run.berth.wall_s), shell_s = round(run.shell.wall_s), "measured");
        Ok(run)
    }

    /// Berth makes the volumes of a new namespace.
    async fn berth(&self, namespace: &str, class: &str) -> Result<Turn> {
        let stage = &self.stage;
        let setup = stage
            .case
            .setup()?
            .without_provisioner()
            .flags([
                "--provisioner-name=rbd.berth.storage",
                "--provisioner-name=cephfs.berth.storage",
                &format!("--secret-namespace={HOME}"),
                &format!("--ceph-concurrency={}", self.options.concurrency),
            ])
            .env("RUST_LOG", "info");
        let berth = stage.idle_berth(&setup).await?;
        let warm = format!("{namespace}-warm");
        stage.namespace(&warm).await?;
        stage.make_claims(&warm, class, 1, "ReadWriteOnce").await?;
        stage.all_bound(&warm, 1).await?;
        stage.namespace(namespace).await?;

        let cluster = self.cluster_cpu()?;
        let cpu = tree_cpu_seconds(berth.pid());
        let began = Instant::now();
        stage.make_claims(namespace, class, self.options.volumes, "ReadWriteOnce").await?;
        let at_most = patience(self.options.volumes) + Duration::from_mins(10);
        stage
            .wait(&format!("the claims of {namespace} to be bound"), at_most, || {
                stage.observer.claims(namespace, |claims| claims.bound >= self.options.volumes)
            })
            .await?;
        let wall_s = began.elapsed().as_secs_f64();
        let turn = Turn {
            wall_s,
            cpu_s: tree_cpu_seconds(berth.pid()) - cpu,
            cluster_cpu_s: self.cluster_cpu()? - cluster,
        };
        berth.terminate().await?;
        Ok(turn)
    }

    /// The shell makes as many.
    async fn shell(&self, kind: Kind, name: &str) -> Result<Turn> {
        let call = kind.call().replace("loop-", &format!("loop-{name}-"));
        let script = format!(
            "TIMEFORMAT='%U %S'\ntime seq {} | xargs -P {} -I N sh -c '{}' call N >/dev/null",
            self.options.volumes, self.options.concurrency, call
        );
        let mut command = self.cluster.command("bash");
        command.args(["-euo", "pipefail", "-c", &script]);
        let cluster = self.cluster_cpu()?;
        let began = Instant::now();
        let answer = crate::ceph::answer(&mut command, Duration::from_mins(30)).await?;
        let wall_s = began.elapsed().as_secs_f64();
        ensure!(answer.code == Some(0), "the loop ended with {:?}: {}", answer.code, answer.stderr);
        let times = answer.stderr.lines().last().unwrap_or_default();
        let cpu_s = times
            .split(' ')
            .map(str::parse::<f64>)
            .sum::<Result<f64, _>>()
            .with_context(|| format!("the loop took {times:?}"))?;
        Ok(Turn { wall_s, cpu_s, cluster_cpu_s: self.cluster_cpu()? - cluster })
    }

    fn cluster_cpu(&self) -> Result<f64> {
        Daemon::ALL.into_iter().map(|daemon| Ok(tree_cpu_seconds(self.cluster.pid(daemon)?))).sum()
    }
}

fn report(options: &Options, runs: &[Run]) -> Report {
    let volumes = number(options.volumes);
    let rows: Vec<Value> = Kind::ALL
        .into_iter()
        .map(|kind| {
            let of =
                |figure: &dyn Fn(&Run) -> f64| median(runs.iter().filter(|run| run.kind == kind).map(figure));
            json!({
                "kind": kind.to_string(),
                "berth_s": round(of(&|run| run.berth.wall_s)),
                "shell_s": round(of(&|run| run.shell.wall_s)),
                "ratio": round(of(&Run::ratio)),
                "berth_ms": round(of(&|run| run.berth.wall_s * 1e3 / volumes)),
                "shell_ms": round(of(&|run| run.shell.wall_s * 1e3 / volumes)),
                "berth_cpu_ms": round(of(&|run| run.berth.cpu_s * 1e3 / volumes)),
                "shell_cpu_ms": round(of(&|run| run.shell.cpu_s * 1e3 / volumes)),
                "berth_cluster_cpu_ms": round(of(&|run| run.berth.cluster_cpu_s * 1e3 / volumes)),
                "shell_cluster_cpu_ms": round(of(&|run| run.shell.cluster_cpu_s * 1e3 / volumes)),
            })
        })
        .collect();
    let each: Vec<Value> = runs
        .iter()
        .map(|run| {
            json!({
                "kind": run.kind.to_string(),
                "first": if run.berth_first { "berth" } else { "shell" },
                "berth_s": round(run.berth.wall_s),
                "shell_s": round(run.shell.wall_s),
                "ratio": round(run.ratio()),
                "berth_cpu_s": round(run.berth.cpu_s),
                "shell_cpu_s": round(run.shell.cpu_s),
            })
        })
        .collect();
    let title = format!(
        "ceph with {} volumes of each kind, {} programs at a time, median of {}",
        options.volumes, options.concurrency, options.repeats
    );
    Report::new(title)
        .with("volumes", options.volumes, "volumes of each kind in each turn")
        .with("concurrency", options.concurrency, "programs at a time, of berth and of the loop")
        .with("repeats", options.repeats, "repetitions")
        .with("kinds", rows, "s for all; ms of time, processor time and daemons' processor time per volume; the loop makes no users")
        .with("runs", each, "each repetition")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_makes_what_berth_makes() {
        assert_eq!(Kind::Rbd.call(), "rbd create --size 1M --image-feature layering bench/loop-$1");
        assert_eq!(Kind::Cephfs.call(), Kind::CephfsUser.call());
    }

    #[test]
    fn figures_are_medians_per_volume() {
        let turn = |wall_s, cpu_s| Turn { wall_s, cpu_s, cluster_cpu_s: 1.0 };
        let run = |berth, shell| Run {
            kind: Kind::Rbd,
            berth_first: true,
            berth: turn(berth, 4.0),
            shell: turn(shell, 2.0),
        };
        let options = Options { volumes: 10, concurrency: 8, repeats: 3, program: PathBuf::from("berth") };
        let json = report(&options, &[run(1.0, 1.0), run(3.0, 2.0), run(2.0, 2.0)]).json();
        let row = &json["kinds"][0];
        assert_eq!((&row["kind"], &row["ratio"]), (&json!("rbd"), &json!(1.0)));
        assert_eq!((&row["berth_ms"], &row["berth_cpu_ms"]), (&json!(200.0), &json!(400.0)));
        assert_eq!(json["runs"].as_array().map(Vec::len), Some(3));
    }
}
