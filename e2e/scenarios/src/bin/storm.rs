//! Kills berth at random moments of a storm of claims: see `berth_e2e::storm`.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use berth_e2e::{
    berth,
    case::Case,
    control_plane::{Binaries, ControlPlane, binaries::Found},
    log_to_stderr,
    storm::Storm,
};
use clap::{Parser, ValueEnum};

/// Kills berth again and again while claims come and go, and checks that nothing was lost
#[derive(Debug, Parser)]
#[command(name = "storm")]
struct Args {
    /// What to run against
    #[arg(long, value_enum, default_value_t = Against::Embedded)]
    against: Against,
    /// What all random choices follow from; a new one is drawn and printed if absent
    #[arg(long)]
    seed: Option<u64>,
    /// How many claims are made
    #[arg(long, default_value_t = 500)]
    claims: usize,
    /// How often berth is killed
    #[arg(long, default_value_t = 50)]
    kills: usize,
    /// The longest life of a berth, in milliseconds
    #[arg(long, default_value_t = 1500)]
    longest_life: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Against {
    Embedded,
    Controlplane,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    log_to_stderr("warn,kube_client=off");
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    println!(
        "storm --seed {seed} --claims {} --kills {} --longest-life {}",
        args.claims, args.kills, args.longest_life
    );
    let program = berth::program().await?;
    let plane = match args.against {
        Against::Embedded => ControlPlane::embedded().await?,
        Against::Controlplane => match Binaries::find().await? {
            Found::Ready(binaries) => ControlPlane::real(&binaries).await?,
            Found::Buildable => ControlPlane::real(&Binaries::build().await?).await?,
            Found::Absent { reason } => bail!("no control plane: {reason}"),
        },
    };
    let case = Case::new(Arc::new(plane), &program).await?;
    let storm = Storm {
        seed,
        claims: args.claims,
        kills: args.kills,
        longest_life: Duration::from_millis(args.longest_life.max(21)),
    };
    match storm.run(&case, &case.setup()?.alone()).await {
        Ok(outcome) => {
            println!("storm: {outcome}");
            Ok(())
        }
        Err(error) => {
            println!("{}", case.dump().await);
            Err(error).context("storage and API do not agree")
        }
    }
}
