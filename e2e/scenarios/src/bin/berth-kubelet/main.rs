//! The suite kubelet: a control plane, containerd and a kubelet that runs the shipped manifests, and pods on volumes that `berth node`
//! mounts. `e2e/kubelet/run` starts this in a machine of its own (`e2e/kubelet/machine`).

mod cluster;
mod machine;
mod scenarios;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use berth_e2e::{
    control_plane::{Binaries, Nodes, Real, binaries::Found},
    log_to_stderr,
};
use clap::Parser;

use self::{cluster::Cluster, machine::Machine};

/// Longer than any scenario needs, so that one that hangs ends with a report.
const SCENARIO_LIMIT: Duration = Duration::from_mins(4);

/// Runs pods with volumes on a real kubelet.
#[derive(Debug, Parser)]
#[command(name = "e2e/kubelet/run")]
struct Args {
    /// Only scenarios whose name contains TEXT; may be given several times
    #[arg(short, long = "filter", value_name = "TEXT")]
    filters: Vec<String>,
    /// Print what would run, and run nothing
    #[arg(long)]
    list: bool,
    /// The directory of the images
    #[arg(long, default_value = "images")]
    images: PathBuf,
    /// Where logs are written
    #[arg(long, default_value = ".")]
    logs: PathBuf,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    log_to_stderr("warn,kube_client=off");
    let mut chosen = scenarios::all();
    // The first ones make what the others need.
    let wanted = |name: &str| args.filters.is_empty() || args.filters.iter().any(|text| name.contains(text));
    chosen.retain(|scenario| scenario.prepares || wanted(scenario.name));
    if args.list {
        for scenario in chosen {
            println!("kubelet: {}", scenario.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let began = Instant::now();
    let binaries = match Binaries::find().await? {
        Found::Ready(binaries) => binaries,
        Found::Buildable => Binaries::build().await?,
        Found::Absent { reason } => return Err(anyhow!(reason).context("there is no control plane")),
    };
    let machine = Machine::containers(&args.images, &args.logs).await.context("start containerd")?;
    let plane = Real::start(&binaries, Nodes::Kubelets).await.context("start the control plane")?;
    let machine = machine.join(&plane).context("start kubelet")?;
    let cluster = Cluster::new(&plane, machine).await?;
    println!("kubelet: ready after {:.1} s", began.elapsed().as_secs_f64());
    let (mut passed, mut failed) = (0, 0);
    for scenario in chosen {
        let began = Instant::now();
        let outcome = tokio::time::timeout(SCENARIO_LIMIT, (scenario.run)(&cluster)).await;
        let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("it did not end within {SCENARIO_LIMIT:?}")));
        let outcome =
            outcome.and_then(|()| plane.check_alive()).and_then(|()| cluster.machine().check_alive());
        let took = began.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("pass  kubelet: {} ({took:.1} s)", scenario.name);
            }
            Err(error) => {
                failed += 1;
                println!("FAIL  kubelet: {} ({took:.1} s)\n{error:#}", scenario.name);
                println!("{}--- end of {}", cluster.report().await, scenario.name);
                cluster.clear().await;
                if scenario.prepares {
                    break;
                }
            }
        }
    }
    println!("kubelet: done after {:.1} s", began.elapsed().as_secs_f64());
    println!("{passed} passed, {failed} failed, 0 skipped");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
