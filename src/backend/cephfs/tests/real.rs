//! The behaviours on a real cluster, and what volumes cost there. `BERTH_TEST_CEPH_CONF` names the configuration of one that may be
//! filled with rubbish; without it these tests say that they were skipped.

use std::{path::PathBuf, time::Instant};

use futures::stream::{self, StreamExt};

use crate::{
    backend::{
        Backend,
        ceph::Tools,
        cephfs::conformance::{
            Keys,
            real::{self, Cluster},
        },
        conformance::request,
    },
    volume::Permit,
};

fn conf(test: &str) -> Option<PathBuf> {
    let conf = std::env::var_os("BERTH_TEST_CEPH_CONF").map(PathBuf::from);
    if conf.is_none() {
        eprintln!("skipped: {test}: BERTH_TEST_CEPH_CONF names no configuration of a running Ceph cluster");
    }
    conf
}

fn prefix() -> String {
    format!("t{}x", std::process::id())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_behaves_on_a_real_cluster_as_it_must() {
    let Some(conf) = conf("it_behaves_on_a_real_cluster_as_it_must") else { return };
    real::run(&conf, &prefix()).await;
}

/// Prints what is to be compared with a loop of `ceph fs subvolume create`; docs/benchmarks.md has the loop.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: some minutes, and its result is a figure"]
async fn what_two_hundred_volumes_cost() {
    let Some(conf) = conf("what_two_hundred_volumes_cost") else { return };
    let cluster = Cluster::open(&conf);
    for (users, sessions) in [("one user for all", 2), ("a user for each", 2), ("one user for all", 0)] {
        let keys = Keys::new("installation-1", &cluster.key);
        let backend = cluster.backend(keys, Tools { sessions, ..Tools::default() });
        let group = format!("{}{}{sessions}", prefix(), users.len());
        let mut parameters = vec![
            ("monitors", cluster.monitors.as_str()),
            ("adminSecretName", "ceph-admin"),
            ("adminSecretNamespace", "admin"),
            ("group", &group),
        ];
        if users == "one user for all" {
            parameters.push(("userSecretName", "shared"));
        }
        let permit = Permit::unlimited();
        let began = Instant::now();
        let made = stream::iter(0..200)
            .map(|number| {
                let mut request = request(&format!("{group}-{number}"));
                request.parameters =
                    parameters.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
                let (backend, permit) = (&backend, &permit);
                async move { backend.create(&request, permit).await.unwrap() }
            })
            .buffer_unordered(8)
            .count()
            .await;
        println!("{made} volumes, {users}, {sessions} sessions: {:.1} s", began.elapsed().as_secs_f64());
    }
}
