//! The scenarios, by theme. Each module's `scenarios` gives its table: a sentence and the function
//! that proves it.

mod ceph;
mod chart;
mod contract;
mod documented;
mod expansion;
mod exports;
mod harness;
mod late_binding;
mod late_calls;
mod main_job;
mod neighbours;
mod old_volumes;
mod ownership;
mod patterns;
mod races;
mod reclaim;
mod refusal;
mod replicas;
mod rescue;
mod rights;
mod turbulence;
mod uninstall;
mod upgrade;
mod walkthrough;

use crate::suite::Scenario;

/// Those that need no berth: they try the ground that the others stand on.
#[must_use]
pub fn without_berth() -> Vec<Scenario> {
    harness::scenarios()
}

/// Those of the suite `ceph`, in the order of reading.
#[must_use]
pub fn on_ceph() -> Vec<Scenario> {
    ceph::all()
}

/// Those of the suite `chart`, in the order of reading.
#[must_use]
pub fn of_the_chart() -> Vec<Scenario> {
    chart::all()
}

/// All of those that need no Ceph, in the order of reading.
#[must_use]
pub fn all() -> Vec<Scenario> {
    [
        main_job::scenarios(),
        patterns::scenarios(),
        reclaim::scenarios(),
        rescue::scenarios(),
        ownership::scenarios(),
        neighbours::scenarios(),
        late_calls::scenarios(),
        old_volumes::scenarios(),
        exports::scenarios(),
        late_binding::scenarios(),
        refusal::scenarios(),
        contract::scenarios(),
        expansion::scenarios(),
        races::scenarios(),
        turbulence::scenarios(),
        replicas::scenarios(),
        rights::scenarios(),
        uninstall::scenarios(),
        upgrade::scenarios(),
        walkthrough::scenarios(),
        without_berth(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
