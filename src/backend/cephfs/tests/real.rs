//! The behaviours on a real cluster. `BERTH_TEST_CEPH_CONF` names the configuration of one that may be
//! filled with rubbish; without it these tests say that they were skipped.

use std::path::PathBuf;

use crate::backend::cephfs::conformance::real;

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
