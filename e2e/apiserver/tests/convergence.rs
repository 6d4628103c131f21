//! A reflector that is disturbed in every way knows in the end what is there.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed expectation is how a test speaks, in its helpers too"
)]

mod support;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use berth_apiserver::{ApiServer, Controllers, Fault, Match, Options, Times};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api,
    runtime::{WatchStreamExt, reflector, utils::Backoff, watcher},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use support::{admin, config_map};

/// The pace of the client's own backoff is not what is tested here.
struct AtOnce;

impl Iterator for AtOnce {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::from_millis(2))
    }
}

impl Backoff for AtOnce {
    fn reset(&mut self) {}
}

type Seen = BTreeMap<String, Option<String>>;

fn by_name<'a>(maps: impl Iterator<Item = &'a ConfigMap>) -> Seen {
    maps.map(|m| (m.metadata.name.clone().unwrap(), m.metadata.resource_version.clone())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disturbed_reflector_converges() {
    for streaming in [false, true] {
        let seed: u64 = rand::random();
        println!("seed {seed}, streaming {streaming}");
        let mut random = StdRng::seed_from_u64(seed);
        let options = Options { controllers: Controllers::none(), history: 50, ..Options::default() };
        let server = ApiServer::start(options).unwrap();
        let api: Api<ConfigMap> = Api::namespaced(admin(&server), "default");
        let config = watcher::Config::default().page_size(7);
        let config = if streaming { config.streaming_lists() } else { config };
        let (reader, writer) = reflector::store();
        let stream = reflector(writer, watcher(api, config).backoff(AtOnce));
        let watching = tokio::spawn(stream.for_each(|_| async {}));
        let store = server.store();
        for _ in 0..600 {
            let name = format!("m{}", random.random_range(0..30));
            let text = random.random::<u32>().to_string();
            match random.random_range(0..100) {
                0..45 => drop(store.create(&config_map(&name, &text))),
                45..70 => drop(store.patch::<ConfigMap>("default", &name, &json!({"data": {"text": text}}))),
                70..90 => drop(store.delete::<ConfigMap>("default", &name)),
                90..93 => server.cut_watches(),
                93..95 => server.expire_watches(),
                95..96 => server.compact(),
                96..98 => {
                    let fault = [Fault::DropBefore, Fault::DropAfter, Fault::Code(500, None)];
                    let fault = fault.into_iter().nth(random.random_range(0..3)).unwrap();
                    server.faults().inject(Match::any().resource("configmaps"), fault, Times::Count(1));
                }
                _ => tokio::time::sleep(Duration::from_millis(3)).await,
            }
        }
        server.faults().clear();
        let wanted = by_name(store.list::<ConfigMap>("default").iter());
        let started = Instant::now();
        loop {
            let known = by_name(reader.state().iter().map(AsRef::as_ref));
            if known == wanted {
                break;
            }
            assert!(started.elapsed() < support::SOON, "seed {seed}: {known:?} instead of {wanted:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        watching.abort();
    }
}
