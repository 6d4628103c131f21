//! Every order in which processes of one or two clusters change one export, up to a bound: no byte of a bound volume is lost or
//! shown to another claim, and nothing that was made is left over.
//!
//! A process goes on from step to step: a change of the export, or an answer of the API server. Each step is a point at which
//! another one goes on. Where that is the next leader of the same cluster, the first one has lost its lease: the call that it was
//! about to make is carried out later, at any point, or never. Every order with one interruption is tried, and some with more, drawn
//! by a seed. With the rules switched off that are for it, each loss that the rules are for is found again.
//!
//! `BERTH_TEST_ORDERS` is how many orders of each world are drawn, `BERTH_TEST_SEED` the seed.

mod turns;
mod world;

use std::env;

use self::{
    turns::Orders,
    world::{Actor, Do, World, play},
};
use crate::{backend::nfs::work::Rule, volume::Disposal};

const DELETE: Disposal = Disposal::Delete;
const ARCHIVE: Disposal = Disposal::Archive;

const fn process(cluster: usize, script: &'static [Do]) -> Actor {
    Actor { cluster, after: None, script }
}

const fn next_leader(cluster: usize, after: usize, script: &'static [Do]) -> Actor {
    Actor { cluster, after: Some(after), script }
}

const OVERLAP: World = World {
    name: "two clusters with overlapping patterns",
    actors: &[
        process(0, &[Do::Claim("a", "team", "refuse"), Do::Remove("a", DELETE), Do::CollectGarbage]),
        process(1, &[Do::Claim("b", "team/b", "refuse")]),
    ],
};
const ADOPT: World = World {
    name: "two clusters that adopt a directory of the same name",
    actors: &[
        process(0, &[Do::Claim("a", "data", "adopt")]),
        process(1, &[Do::Claim("b", "data", "adopt"), Do::Remove("b", ARCHIVE), Do::CollectGarbage]),
    ],
};
const SHARE: World = World {
    name: "two clusters that share a directory, which both leave",
    actors: &[
        process(0, &[Do::Claim("a", "data", "share"), Do::Remove("a", DELETE), Do::CollectGarbage]),
        process(1, &[Do::Claim("b", "data", "share"), Do::Remove("b", DELETE), Do::CollectGarbage]),
    ],
};
const COPY: World = World {
    name: "a PV that was copied to another cluster",
    actors: &[
        process(0, &[Do::Claim("a", "data", "refuse")]),
        process(1, &[Do::RemoveCopy("a"), Do::CollectGarbage]),
    ],
};
const SWEEP: World = World {
    name: "a process that dies while it makes a volume, and the sweep of another cluster",
    actors: &[
        process(0, &[Do::Claim("a", "data", "refuse")]),
        process(1, &[Do::Sweep]),
        next_leader(0, 0, &[Do::GoOn]),
    ],
};
const TWO_NAMES: World = World {
    name: "one directory that is configured as two exports",
    actors: &[
        process(0, &[Do::Claim("a", "team", "refuse"), Do::Remove("a", DELETE), Do::CollectGarbage]),
        process(1, &[Do::ClaimOnOther("b", "team/b")]),
    ],
};
const LATE_MOVE: World = World {
    name: "a removal that hangs until its place is another claim's",
    actors: &[
        process(0, &[Do::Claim("a", "data", "refuse"), Do::Remove("a", DELETE)]),
        next_leader(0, 0, &[Do::GoOn, Do::Claim("b", "data", "refuse")]),
    ],
};
const LATE_RESCUE: World = World {
    name: "a volume that is kept after all while its removal hangs",
    actors: &[
        process(0, &[Do::Claim("a", "data", "refuse"), Do::Remove("a", DELETE)]),
        next_leader(0, 0, &[Do::Rescue("a"), Do::GoOn]),
    ],
};
const RESCUE: World = World {
    name: "a volume that is kept after all while it is removed",
    actors: &[
        process(0, &[Do::Claim("a", "data", "refuse"), Do::Remove("a", DELETE), Do::CollectGarbage]),
        process(0, &[Do::Rescue("a")]),
    ],
};
const UNMOUNTED: World = World {
    name: "a standby that begins to lead when something else is mounted",
    actors: &[
        process(0, &[Do::Claim("a", "data", "refuse"), Do::Unmount]),
        next_leader(0, 0, &[Do::Claim("b", "other", "refuse")]),
    ],
};
const ARCHIVED: World = World {
    name: "a claim whose path is an archive's",
    actors: &[
        process(0, &[Do::ClaimAtDefault("a", "team", "a"), Do::Remove("a", ARCHIVE)]),
        process(1, &[Do::ClaimAtDefault("b", "archived-team", "a")]),
    ],
};
const TAKEOVER: World = World {
    name: "a leader that loses its lease while it makes and removes",
    actors: &[
        process(
            0,
            &[Do::Claim("a", "data", "refuse"), Do::Remove("a", ARCHIVE), Do::Claim("b", "data", "refuse")],
        ),
        next_leader(0, 0, &[Do::GoOn]),
    ],
};

const OF_CLUSTERS: [&World; 7] = [&OVERLAP, &ADOPT, &SHARE, &COPY, &SWEEP, &TWO_NAMES, &ARCHIVED];
const OF_LEADERS: [&World; 5] = [&LATE_MOVE, &LATE_RESCUE, &RESCUE, &UNMOUNTED, &TAKEOVER];

fn number(name: &str, default: u64) -> u64 {
    env::var(name).ok().map_or(default, |value| value.parse().unwrap())
}

/// What is lost in the first of the orders in which something is lost that begins like this; `None` where nothing is in any.
fn explore(world: &World, off: &[Rule], like: &str) -> Option<String> {
    let (drawn, seed) = (number("BERTH_TEST_ORDERS", 20), number("BERTH_TEST_SEED", 1));
    let mut orders = Orders::new(seed);
    let (mut all, mut left) = (0, drawn);
    while orders.is_systematic() || left > 0 {
        if orders.is_systematic() {
            all += 1;
        } else {
            left -= 1;
        }
        if let Some(lost) = play(world, off, &mut orders).filter(|lost| lost.starts_with(like)) {
            return Some(lost);
        }
        orders.next();
    }
    println!("{}: all {all} orders with one interruption, {drawn} with more (seed {seed})", world.name);
    None
}

fn explore_all(worlds: &[&World]) {
    let lost = |world: &&&World| explore(world, &[], "").map(|lost| format!("{}: {lost}", world.name));
    let found: Vec<String> = worlds.iter().filter_map(|world| lost(&world)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn nothing_is_lost_and_nothing_left_over_in_any_order_of_two_clusters() {
    explore_all(&OF_CLUSTERS);
}

#[test]
fn nothing_is_lost_and_nothing_left_over_in_any_order_of_two_leaders() {
    explore_all(&OF_LEADERS);
}

/// The losses that were found before there were rules, in the order in which they were found.
#[test]
fn without_the_rule_that_is_for_it_each_loss_is_found_again() {
    let losses: [(&World, &[Rule], &str); 9] = [
        (&OVERLAP, &[Rule::Places], "the data of b, which is bound, is not in its directory"),
        (&ADOPT, &[Rule::Places], "the data of a, which is bound, is not in its directory"),
        (&COPY, &[Rule::Cluster], "the data of a, which is bound, is not in its directory"),
        (&SWEEP, &[Rule::Cluster], "there is no directory for the pod of a"),
        (
            &TWO_NAMES,
            &[Rule::Identity, Rule::Places],
            "the data of b, which is bound, is not in its directory",
        ),
        (&LATE_MOVE, &[Rule::Inode], "the data of b, which is bound, is not in its directory"),
        (&LATE_RESCUE, &[Rule::PvState], "the data of a, which is bound, is not in its directory"),
        (&UNMOUNTED, &[Rule::Identity], "the data of b, which is bound, is not in its directory"),
        (&ARCHIVED, &[Rule::Places], "b sees the data of a"),
    ];
    for (number, (world, off, like)) in losses.into_iter().enumerate() {
        let lost = explore(world, off, like);
        println!("{}: {}, without {off:?}: {lost:?}", number + 1, world.name);
        assert!(lost.is_some(), "{}: not without {off:?} is it lost: {like}", world.name);
    }
}
