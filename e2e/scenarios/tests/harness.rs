//! The scenarios that need no berth, on the embedded API server: they keep the harness itself honest
//! wherever `cargo test` runs. All scenarios, and the real control plane, are `e2e/run`'s.

use std::{path::Path, sync::Arc};

use berth_e2e::{
    control_plane::ControlPlane,
    scenarios,
    suite::{Ground, Suite, Tally, run_suite},
};

#[tokio::test]
async fn the_ground_holds_on_the_embedded_control_plane() {
    let ground = Ground::Plane(Arc::new(ControlPlane::embedded().await.unwrap()));
    let chosen = scenarios::without_berth();
    let count = chosen.len();
    let mut tally = Tally::default();
    run_suite(Suite::Embedded, 4, chosen, &ground, Path::new("/bin/false"), &mut tally).await;
    assert_eq!(tally, Tally { passed: count, ..Tally::default() });
}

#[tokio::test]
async fn a_scenario_whose_berth_does_not_start_fails_and_shows_its_log() {
    let ground = Ground::Plane(Arc::new(ControlPlane::embedded().await.unwrap()));
    let chosen = scenarios::all().into_iter().take(1).collect();
    let mut tally = Tally::default();
    run_suite(Suite::Embedded, 1, chosen, &ground, Path::new("/bin/false"), &mut tally).await;
    assert_eq!((tally.passed, tally.failed.len(), tally.skipped), (0, 1, 0));
}
