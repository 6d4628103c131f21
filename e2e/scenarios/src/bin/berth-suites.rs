//! `e2e/run` in Rust: runs the scenarios of the named suites and prints the closing line.

use std::process::ExitCode;

use anyhow::Result;
use berth_e2e::{log_to_stderr, suite};
use clap::{Parser, ValueEnum};

/// Runs berth's end-to-end scenarios.
#[derive(Debug, Parser)]
#[command(name = "e2e/run")]
struct Args {
    /// What to run against; all when none is named
    suites: Vec<Suite>,
    /// Only scenarios whose name contains TEXT; may be given several times
    #[arg(short, long = "filter", value_name = "TEXT")]
    filters: Vec<String>,
    /// Print what would run, and run nothing
    #[arg(long)]
    list: bool,
    /// How many scenarios run side by side
    #[arg(short, long, default_value_t = 4)]
    jobs: usize,
    /// Skip a suite rather than build or install the programs that it needs
    #[arg(long)]
    no_build: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Suite {
    /// The embedded API server: needs nothing
    Embedded,
    /// etcd, kube-apiserver, kube-controller-manager and kube-scheduler
    Controlplane,
    /// A real Ceph cluster from Debian's packages, which are installed where that is possible
    Ceph,
    /// The chart, by Helm 3 and 4, rendered and on Kubernetes' own programs
    Chart,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    log_to_stderr("warn,kube_client=off");
    let suites = if args.suites.is_empty() {
        suite::Suite::ALL.to_vec()
    } else {
        args.suites
            .into_iter()
            .map(|suite| match suite {
                Suite::Embedded => suite::Suite::Embedded,
                Suite::Controlplane => suite::Suite::ControlPlane,
                Suite::Ceph => suite::Suite::Ceph,
                Suite::Chart => suite::Suite::Chart,
            })
            .collect()
    };
    let plan = suite::Plan { suites, filters: args.filters, jobs: args.jobs, build: !args.no_build };
    if args.list {
        for line in plan.list() {
            println!("{line}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let tally = suite::run(&plan).await?;
    for name in &tally.failed {
        println!("failed: {name}");
    }
    println!("{tally}");
    Ok(if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
