//! The behaviours that every backend must show, and the calls that both backends on Ceph are made of, on the real cluster.
//!
//! They are tests of the package `berth`, which run here with the configuration of this cluster. Elsewhere they say that they
//! were skipped.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::{
    case::Case,
    ceph::answer,
    suite::{Scenario, scenario},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("the RBD backend behaves as every backend must", |case| {
            test(case, "the_rbd_backend_shows_every_behaviour_on_a_real_cluster")
        }),
        scenario("the CephFS backend behaves as every backend must", |case| {
            test(case, "it_behaves_on_a_real_cluster_as_it_must")
        }),
        scenario("Ceph's programs answer berth's calls as the table of their answers says", |case| {
            test(case, "ceph::tests::real::a_real_cluster")
        }),
    ]
}

/// Runs the tests of `berth` whose names contain `name`.
async fn test(case: Arc<Case>, name: &'static str) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        // All packages, as e2e/run and .ci/run build them: with one named, other features would be chosen.
        .args(["test", "--quiet", "--workspace", "--lib", "--", name, "--nocapture"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .env("BERTH_TEST_CEPH_CONF", case.cluster()?.conf())
        .kill_on_drop(true);
    let answer = answer(&mut command, Duration::from_mins(25)).await?;
    let said = format!("{}{}", answer.stdout, answer.stderr);
    let last = said.len().saturating_sub(6000);
    let tail = said.get(said.ceil_char_boundary(last)..).unwrap_or(&said);
    ensure!(answer.code == Some(0), "cargo test ended with {:?}:\n{tail}", answer.code);
    ensure!(!said.contains("skipped:"), "it did not find the cluster:\n{tail}");
    let passed: usize = said
        .lines()
        .filter_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next()?.parse::<usize>().ok())
        .sum();
    ensure!(passed > 0, "there is no such test:\n{tail}");
    case.cluster()?.check_alive().context("a test ended a daemon")
}
