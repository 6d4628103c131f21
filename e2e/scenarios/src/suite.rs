//! Runs scenarios: chooses them, shares one control plane among them, reports, and counts.
//!
//! [`run`] is the entry point of the program `berth-suites`, which `e2e/run` calls. Scenarios of one
//! suite run side by side on one [`Ground`]; those marked [`Scenario::alone`] run afterwards one
//! by one, since they stop the API server or a daemon of Ceph, or count requests.

use std::{
    fmt,
    panic::AssertUnwindSafe,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use futures::{FutureExt, StreamExt, future::LocalBoxFuture};

use crate::{
    berth,
    case::Case,
    ceph::{Cluster, Packages},
    control_plane::{Binaries, ControlPlane, binaries::Found},
    helm, scenarios,
};

/// Longer than any scenario needs, so that one that hangs ends the run with a report.
const SCENARIO_LIMIT: Duration = Duration::from_mins(30);

/// What scenarios are run against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// The embedded API server, and an export that is a directory.
    Embedded,
    /// Kubernetes' own programs, and the same scenarios.
    ControlPlane,
    /// A real Ceph cluster, with an embedded API server for each scenario.
    Ceph,
    /// Helm 3 and 4 with the chart, and Kubernetes' own programs.
    Chart,
}

impl Suite {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Embedded, Self::ControlPlane, Self::Ceph, Self::Chart];

    fn scenarios(self) -> Vec<Scenario> {
        match self {
            Self::Embedded | Self::ControlPlane => scenarios::all(),
            Self::Ceph => scenarios::on_ceph(),
            Self::Chart => scenarios::of_the_chart(),
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Embedded => "embedded",
            Self::ControlPlane => "controlplane",
            Self::Ceph => "ceph",
            Self::Chart => "chart",
        })
    }
}

/// What the scenarios of a suite share while they run.
#[derive(Clone, Debug)]
pub enum Ground {
    /// A control plane.
    Plane(Arc<ControlPlane>),
    /// A Ceph cluster. An embedded control plane costs so little that each scenario gets its own: so all of them can
    /// serve the same provisioner names.
    Ceph(Arc<Cluster>),
}

impl Ground {
    async fn case(&self, program: &Path) -> Result<Case> {
        match self {
            Self::Plane(plane) => Case::new(Arc::clone(plane), program).await,
            Self::Ceph(cluster) => {
                let plane = Arc::new(ControlPlane::embedded().await?);
                Ok(Case::new(plane, program).await?.on(Arc::clone(cluster)))
            }
        }
    }
}

/// A sentence and the function that proves it.
pub struct Scenario {
    /// What it proves, as a sentence.
    pub name: &'static str,
    /// True if nothing else may run on the control plane meanwhile.
    pub alone: bool,
    run: Box<dyn Fn(Arc<Case>) -> LocalBoxFuture<'static, Result<()>>>,
}

impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scenario")
            .field("name", &self.name)
            .field("alone", &self.alone)
            .finish_non_exhaustive()
    }
}

/// Makes a scenario that shares its control plane with others.
#[must_use]
pub fn scenario<F>(name: &'static str, run: impl Fn(Arc<Case>) -> F + 'static) -> Scenario
where
    F: Future<Output = Result<()>> + 'static,
{
    Scenario { name, alone: false, run: Box::new(move |case| run(case).boxed_local()) }
}

impl Scenario {
    /// Has the control plane to itself.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }
}

/// The error of a scenario that cannot run here.
#[derive(Debug)]
pub struct Skip(String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Ends a scenario that cannot run here.
#[must_use]
pub fn skip(reason: impl Into<String>) -> anyhow::Error {
    anyhow!(Skip(reason.into()))
}

/// What is to be run, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The suites, in this order.
    pub suites: Vec<Suite>,
    /// Only scenarios whose names contain one of these; all if empty.
    pub filters: Vec<String>,
    /// How many run side by side.
    pub jobs: usize,
    /// Whether missing parts of the control plane are built, and missing packages installed.
    pub build: bool,
}

impl Plan {
    fn chosen(&self, suite: Suite) -> Vec<Scenario> {
        let mut all = suite.scenarios();
        all.retain(|scenario| {
            self.filters.is_empty()
                || self.filters.iter().any(|filter| scenario.name.contains(filter.as_str()))
        });
        all
    }

    /// `suite: name` of everything that would run, one a line.
    #[must_use]
    pub fn list(&self) -> Vec<String> {
        let lines = |suite: &Suite| {
            let suite = *suite;
            self.chosen(suite).into_iter().map(move |scenario| format!("{suite}: {}", scenario.name))
        };
        self.suites.iter().flat_map(lines).collect()
    }
}

/// How many scenarios ended how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Proved their sentence.
    pub passed: usize,
    /// `suite: name` of those that did not.
    pub failed: Vec<String>,
    /// Could not run here.
    pub skipped: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed.len(), self.skipped)
    }
}

impl Tally {
    fn count(&mut self, suite: Suite, name: &str, outcome: &Outcome, took: Duration) {
        let took = took.as_secs_f64();
        match outcome {
            Outcome::Passed => {
                self.passed += 1;
                println!("pass  {suite}: {name} ({took:.1} s)");
            }
            Outcome::Skipped(reason) => {
                self.skipped += 1;
                println!("skip  {suite}: {name}: {reason}");
            }
            Outcome::Failed { error, report } => {
                self.failed.push(format!("{suite}: {name}"));
                println!("FAIL  {suite}: {name} ({took:.1} s)\n{error}\n{report}--- end of {name}");
            }
        }
    }
}

enum Outcome {
    Passed,
    Skipped(String),
    Failed { error: String, report: String },
}

/// Runs the plan, printing a line per scenario.
pub async fn run(plan: &Plan) -> Result<Tally> {
    let mut tally = Tally::default();
    let program = berth::program().await?;
    for suite in &plan.suites {
        let chosen = plan.chosen(*suite);
        if chosen.is_empty() {
            continue;
        }
        let began = Instant::now();
        let ground = match start(*suite, plan).await {
            Ok(Ok(ground)) => ground,
            Ok(Err(reason)) => {
                for scenario in &chosen {
                    let outcome = Outcome::Skipped(reason.clone());
                    tally.count(*suite, scenario.name, &outcome, Duration::ZERO);
                }
                continue;
            }
            Err(error) => {
                let error = told(&error.context("what it runs against did not start"));
                for scenario in &chosen {
                    let outcome = Outcome::Failed { error: error.clone(), report: String::new() };
                    tally.count(*suite, scenario.name, &outcome, Duration::ZERO);
                }
                continue;
            }
        };
        println!("{suite}: ready after {:.1} s", began.elapsed().as_secs_f64());
        run_suite(*suite, plan.jobs, chosen, &ground, &program, &mut tally).await;
        println!("{suite}: done after {:.1} s", began.elapsed().as_secs_f64());
    }
    Ok(tally)
}

/// What a suite runs against, or the reason why it is not here.
async fn start(suite: Suite, plan: &Plan) -> Result<Result<Ground, String>> {
    let plane = match suite {
        Suite::Embedded => ControlPlane::embedded().await?,
        Suite::ControlPlane | Suite::Chart => {
            if suite == Suite::Chart
                && let Err(reason) = helm::prepare(plan.build).await?
            {
                return Ok(Err(reason));
            }
            let binaries = match Binaries::find().await? {
                Found::Ready(binaries) => binaries,
                Found::Buildable if plan.build => Binaries::build().await?,
                Found::Buildable => {
                    return Ok(Err("not built yet, and --no-build was given".to_owned()));
                }
                Found::Absent { reason } => return Ok(Err(reason)),
            };
            println!("{suite}: programs from {}", binaries.origin);
            ControlPlane::real(&binaries).await?
        }
        Suite::Ceph => {
            let packages = if plan.build { Packages::install().await? } else { Packages::find().await? };
            return match packages {
                Packages::Ready => Ok(Ok(Ground::Ceph(Arc::new(Cluster::start().await?)))),
                Packages::Missing(reason) => Ok(Err(reason)),
            };
        }
    };
    Ok(Ok(Ground::Plane(Arc::new(plane))))
}

/// Runs `chosen` on ground that is there already, with `program` as berth.
pub async fn run_suite(
    suite: Suite,
    jobs: usize,
    chosen: Vec<Scenario>,
    ground: &Ground,
    program: &Path,
    tally: &mut Tally,
) {
    let (alone, shared): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|scenario| scenario.alone);
    for (jobs, scenarios) in [(jobs.max(1), shared), (1, alone)] {
        let mut running = futures::stream::iter(scenarios)
            .map(|scenario| async move {
                let began = Instant::now();
                let outcome = outcome(&scenario, ground, program).await;
                (scenario.name, outcome, began.elapsed())
            })
            .buffer_unordered(jobs);
        while let Some((name, outcome, took)) = running.next().await {
            tally.count(suite, name, &outcome, took);
        }
    }
}

async fn outcome(scenario: &Scenario, ground: &Ground, program: &Path) -> Outcome {
    let case = match ground.case(program).await {
        Ok(case) => Arc::new(case),
        Err(error) => {
            return Outcome::Failed {
                error: told(&error.context("prepare the scenario")),
                report: String::new(),
            };
        }
    };
    let run = AssertUnwindSafe((scenario.run)(Arc::clone(&case))).catch_unwind();
    let result = match tokio::time::timeout(SCENARIO_LIMIT, run).await {
        Ok(Ok(result)) => result.and_then(|()| {
            case.check_berths().context("the scenario held, but berth did not live through it")
        }),
        Ok(Err(panic)) => Err(anyhow!(
            "it panicked: {}",
            panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("(no message)")
        )),
        Err(_) => Err(anyhow!("it still ran after {SCENARIO_LIMIT:?}")),
    };
    match result {
        Ok(()) => Outcome::Passed,
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(skip) => Outcome::Skipped(skip.to_string()),
            None => Outcome::Failed { error: told(&error), report: case.dump().await },
        },
    }
}

/// An error and its causes, one a line. A backtrace would show the runner and not the scenario.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(|cause| format!("  {cause}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn plan(filters: &[&str]) -> Plan {
        Plan {
            suites: Suite::ALL.to_vec(),
            filters: filters.iter().map(|&filter| filter.to_owned()).collect(),
            jobs: 1,
            build: false,
        }
    }

    #[test]
    fn every_scenario_has_a_name_of_its_own() {
        let all: Vec<_> =
            [Suite::Embedded, Suite::Ceph, Suite::Chart].into_iter().flat_map(Suite::scenarios).collect();
        let names: BTreeSet<&str> = all.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn the_list_names_each_scenario_for_each_suite() {
        let list = plan(&[]).list();
        let once = scenarios::on_ceph().len() + scenarios::of_the_chart().len();
        assert_eq!(list.len(), 2 * scenarios::all().len() + once);
        assert!(list[0].starts_with("embedded: "));
        assert!(list[list.len() - 1].starts_with("chart: "));
    }

    #[test]
    fn a_filter_keeps_the_scenarios_whose_names_contain_it() {
        let name = scenarios::all()[0].name;
        assert_eq!(plan(&[name]).list(), [format!("embedded: {name}"), format!("controlplane: {name}")]);
        assert!(plan(&["no scenario is called this"]).list().is_empty());
    }

    #[test]
    fn the_closing_line_counts_what_failed() {
        let mut tally = Tally::default();
        let failed = Outcome::Failed { error: String::new(), report: String::new() };
        let skipped = Outcome::Skipped("there is no Go".to_owned());
        for outcome in [Outcome::Passed, failed, skipped, Outcome::Passed] {
            tally.count(Suite::ControlPlane, "x", &outcome, Duration::ZERO);
        }
        assert_eq!(tally.to_string(), "2 passed, 1 failed, 1 skipped");
    }
}
