//! Random interleavings of everything that can happen, with a seed: in the end storage and API agree.

use std::{collections::BTreeSet, time::Duration};

use berth_apiserver::{Controllers, Fault, Match, Options, Times};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;

use super::bed::{Bed, LIMIT, Running, USER, full_rules};
use crate::backend::{
    Kind as Failure,
    memory::{Memory, Moment, Operation},
};

/// Something goes wrong, once or a few times.
fn trouble(bed: &Bed, random: &mut StdRng) {
    let faults = bed.server.faults();
    let times = random.random_range(1..3);
    let verb = ["create", "get", "delete", "patch"][random.random_range(0..4)];
    let requests = Match::verb(verb).resource("persistentvolumes").user(USER);
    let operation = [Operation::Create, Operation::Commit, Operation::Remove, Operation::Rollback]
        [random.random_range(0..4)];
    match random.random_range(0..8) {
        0 => drop(faults.inject(requests, Fault::Code(500, None), Times::Count(times))),
        1 => drop(faults.inject(requests, Fault::DropBefore, Times::Count(times))),
        2 => drop(faults.inject(requests, Fault::DropAfter, Times::Count(times))),
        3 => drop(faults.inject(requests, Fault::Code(429, Some(0)), Times::Count(times))),
        4 => bed.memory.fail_next(operation, 1, Moment::Before, Failure::Unavailable),
        5 => bed.memory.fail_next(operation, 1, Moment::After, Failure::Unavailable),
        6 => bed.server.cut_watches(),
        _ => bed.server.expire_watches(),
    }
}

/// What a killed process left and nobody asks for again is found by the sweep, which usually takes an hour.
async fn start(bed: &Bed) -> Running {
    let mut settings = bed.settings().await;
    settings.sweep_interval = Duration::from_millis(200);
    bed.start_with(settings)
}

async fn storm(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let options = Options { controllers: Controllers::all(), ..Options::default() };
    let bed = Bed::with(options, Memory::new(), full_rules());
    let mut claims = BTreeSet::new();
    let mut running = start(&bed).await;
    for step in 0..120 {
        match random.random_range(0..20) {
            0..8 => {
                let name = format!("data-{step}");
                bed.claim(&name, json!({}));
                claims.insert(name);
            }
            8..13 => {
                let at = random.random_range(0..claims.len().max(1));
                if let Some(name) = claims.iter().nth(at).cloned() {
                    bed.delete_claim(&name);
                    claims.remove(&name);
                }
            }
            13..18 => trouble(&bed, &mut random),
            18 => tokio::time::sleep(Duration::from_millis(random.random_range(0..40))).await,
            _ => {
                running.kill().await;
                running = start(&bed).await;
            }
        }
        if random.random_bool(0.5) {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..4))).await;
        }
    }
    bed.server.faults().clear();
    for name in &claims {
        bed.bound(name).await;
    }
    let volumes = || {
        let claims: Vec<PersistentVolumeClaim> = bed.server.store().list("default");
        claims.into_iter().filter_map(|claim| claim.spec?.volume_name).collect::<BTreeSet<_>>()
    };
    let held = || {
        let held = bed.memory.volumes().into_iter().filter(|held| held.committed);
        held.map(|held| held.volume.id.name().to_string()).collect::<BTreeSet<_>>()
    };
    let agree = || {
        volumes().len() == claims.len()
            && bed.volumes() == claims.len()
            && held() == volumes()
            && bed.memory.volumes().len() == claims.len()
    };
    let began = std::time::Instant::now();
    while !agree() {
        if began.elapsed() > LIMIT {
            let stored: Vec<PersistentVolume> = bed.server.store().list("");
            let used = volumes();
            let spare: Vec<_> = stored
                .iter()
                .filter(|volume| !used.contains(volume.metadata.name.as_deref().unwrap()))
                .map(|volume| (volume, bed.events(volume.metadata.name.as_deref().unwrap())))
                .collect();
            let left: Vec<_> = bed.memory.volumes().into_iter().filter(|held| !held.committed).collect();
            panic!(
                "seed {seed}: {} claims, volumes nobody uses: {spare:#?}, uncommitted: {left:#?}",
                claims.len()
            );
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_goes_wrong_storage_and_api_agree_in_the_end() {
    for seed in 1..=6 {
        storm(seed).await;
    }
}
