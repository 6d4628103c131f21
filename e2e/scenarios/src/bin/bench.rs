//! `hack/bench`: measures berth and prints a table, or one JSON object.

use std::{io::IsTerminal, time::Duration};

use anyhow::{Context, Result};
use berth_e2e::{
    bench::{Report, ceph, provision, remove, start},
    berth,
    control_plane::Kind,
};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Measures berth. What each figure means is in docs/benchmarks.md.
#[derive(Debug, Parser)]
#[command(name = "hack/bench")]
struct Arguments {
    #[command(subcommand)]
    what: What,
    /// Print one JSON object rather than a table
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Time, requests, processor time and memory for N claims, against a client that only POSTs the PVs
    Provision(Provision),
    /// Removal of a volume full of small files, against rm -rf
    Remove(Remove),
    /// A start with everything there already
    Start(Start),
    /// Images and subvolumes on a real Ceph cluster, against a shell loop that only calls its tools
    Ceph(Ceph),
}

#[derive(Debug, Args)]
struct Common {
    /// The control plane to measure on
    #[arg(long, value_enum, default_value_t = Against::Embedded)]
    against: Against,
    /// How often to measure; medians are printed
    #[arg(long, value_name = "N", default_value_t = 5)]
    repeats: usize,
}

#[derive(Debug, Args)]
struct Provision {
    #[command(flatten)]
    common: Common,
    /// How many claims
    #[arg(long, value_name = "N", default_value_t = 1000)]
    claims: usize,
    /// Whether they are there before berth starts, or are made while it runs
    #[arg(long, value_enum, default_value_t = Shape::Backlog)]
    shape: Shape,
    /// Compare sizes: 1,000, 10,000 and 100,000 claims, or those that are named
    #[arg(
        long,
        value_name = "N,N",
        num_args = 0..=1,
        value_delimiter = ',',
        default_missing_value = "1000,10000,100000",
        conflicts_with = "claims"
    )]
    series: Option<Vec<usize>>,
}

#[derive(Debug, Args)]
struct Remove {
    #[command(flatten)]
    common: Common,
    /// How many files the volume holds
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    files: usize,
    /// Tree: spread over a hundred directories; flat: in one
    #[arg(long, value_enum, default_value_t = Layout::Tree)]
    layout: Layout,
    /// Measure also with each file operation delayed, e.g. by 1ms; takes some minutes
    #[arg(long, value_name = "TIME", value_parser = duration)]
    latency: Option<Duration>,
}

#[derive(Debug, Args)]
struct Start {
    #[command(flatten)]
    common: Common,
    /// How many PVs and bound claims there are
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    volumes: usize,
}

#[derive(Debug, Args)]
struct Ceph {
    /// How many volumes of each kind
    #[arg(long, value_name = "N", default_value_t = 200)]
    volumes: usize,
    /// How many programs at a time, of berth and of the loop
    #[arg(long, value_name = "N", default_value_t = 8)]
    concurrency: usize,
    /// How often to measure; medians are printed
    #[arg(long, value_name = "N", default_value_t = 3)]
    repeats: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Against {
    /// The embedded API server: needs nothing
    Embedded,
    /// etcd, kube-apiserver and kube-controller-manager
    Controlplane,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shape {
    /// They are there before berth starts
    Backlog,
    /// They are made while it runs
    Burst,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Layout {
    /// A hundred directories
    Tree,
    /// One directory
    Flat,
}

impl Against {
    fn kind(self) -> Kind {
        match self {
            Self::Embedded => Kind::Embedded,
            Self::Controlplane => Kind::Real,
        }
    }
}

/// Reads `1ms`, `250us`, `0.5s`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time; write for example 1ms, 250us or 0.5s");
    let split = text.find(|char: char| char.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let second = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return Err(wrong()),
    };
    let time = Duration::try_from_secs_f64(number * second).map_err(|_| wrong())?;
    if time.is_zero() || time > Duration::from_secs(10) {
        return Err(format!("{text:?} must be more than nothing and at most 10s"));
    }
    Ok(time)
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // The clients log every question that an API server still starting does not answer.
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| "off,berth_e2e=info".into()),
        )
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    // Ended by control-C, the processes that were started must end too: they do when this is dropped.
    let report = tokio::select! {
        report = measure(arguments.what) => report?,
        result = tokio::signal::ctrl_c() => {
            result.context("wait for control-C")?;
            anyhow::bail!("interrupted")
        }
    };
    if arguments.json {
        println!("{}", report.json());
    } else {
        print!("{report}");
    }
    Ok(())
}

async fn measure(what: What) -> Result<Report> {
    let program = berth::program().await?;
    match what {
        What::Provision(Provision { common, claims, shape, series }) => {
            let options = provision::Options {
                against: common.against.kind(),
                claims,
                shape: match shape {
                    Shape::Backlog => provision::Shape::Backlog,
                    Shape::Burst => provision::Shape::Burst,
                },
                repeats: common.repeats,
                program,
            };
            match series {
                Some(sizes) => provision::series(&options, &sizes).await,
                None => provision::run(&options).await,
            }
        }
        What::Remove(Remove { common, files, layout, latency }) => {
            remove::run(&remove::Options {
                against: common.against.kind(),
                files,
                layout: match layout {
                    Layout::Tree => remove::Layout::Tree,
                    Layout::Flat => remove::Layout::Flat,
                },
                latency,
                repeats: common.repeats,
                program,
            })
            .await
        }
        What::Ceph(Ceph { volumes, concurrency, repeats }) => {
            ceph::run(&ceph::Options { volumes, concurrency, repeats, program }).await
        }
        What::Start(Start { common, volumes }) => {
            start::run(&start::Options {
                against: common.against.kind(),
                volumes,
                repeats: common.repeats,
                program,
            })
            .await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(duration("1ms"), Ok(Duration::from_millis(1)));
        assert_eq!(duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(duration("0.5s"), Ok(Duration::from_millis(500)));
        for wrong in ["", "1", "ms", "1h", "-1ms", "0ms", "1000s", "x1ms"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
        let arguments = Arguments::parse_from(["bench", "provision", "--series", "--json"]);
        let What::Provision(provision) = arguments.what else {
            panic!("not provision");
        };
        assert_eq!(provision.series, Some(vec![1000, 10_000, 100_000]));
        assert!(arguments.json);
    }
}
