//! Who works: election, the loss of the lock, and the end of the process.

use std::time::Duration;

use berth_apiserver::{Fault, Match, Times};
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::json;

use super::bed::{Bed, NAME, USER};
use crate::{
    backend::memory::Operation,
    provisioner::{Settings, lease},
};

pub(super) async fn elected(bed: &Bed, hostname: &str) -> Settings {
    let lease = lease::Settings {
        duration: Duration::from_secs(3),
        renew_deadline: Duration::from_secs(2),
        retry_period: Duration::from_millis(200),
        ..lease::Settings::new(NAME, "default", hostname)
    };
    Settings { lease: Some(lease), hostname: hostname.into(), ..bed.settings().await }
}

fn holder(bed: &Bed) -> Option<String> {
    let lease: Lease = bed.server.store().get("default", &NAME.replace('/', "-"))?;
    lease.spec?.holder_identity.filter(|holder| !holder.is_empty())
}

/// Proves: case 42
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_replicas_one_works_and_the_other_takes_over_when_it_stops() {
    let bed = Bed::without_controllers();
    let first = bed.start_with(elected(&bed, "first").await);
    bed.until("the first leads", || holder(&bed).is_some_and(|holder| holder.starts_with("first_"))).await;
    let second = bed.start_with(elected(&bed, "second").await);
    bed.annotated_claim("a");
    bed.provisioned(1).await;
    first.stop().await;
    bed.annotated_claim("b");
    bed.provisioned(2).await;
    bed.until("the second leads", || holder(&bed).is_some_and(|holder| holder.starts_with("second_"))).await;
    assert_eq!(bed.memory.calls(Operation::Create), 2, "each volume was made once");
    second.stop().await;
    assert_eq!(holder(&bed), None, "the lock is released");
}

/// Proves: case 43, statement 13, row 9.3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_cannot_be_renewed_ends_all_work_and_the_process_stands_again() {
    let bed = Bed::without_controllers();
    let running = bed.start_with(elected(&bed, "first").await);
    bed.annotated_claim("a");
    bed.provisioned(1).await;
    bed.memory.hang(Operation::Create);
    bed.annotated_claim("b");
    bed.until("work hangs", || bed.memory.calls(Operation::Create) == 2).await;
    let leases = Match::any().resource("leases").user(USER);
    let fault = bed.server.faults().inject(leases, Fault::Code(500, None), Times::Always);
    let leader = || running.metrics.text().contains("berth_leader 1");
    bed.until("it has seen that it no longer leads", || !leader()).await;
    bed.memory.release(Operation::Create);
    bed.annotated_claim("c");
    bed.settle().await;
    assert_eq!(bed.volumes(), 1, "nothing is written without the lock");
    assert_eq!(bed.memory.volumes().len(), 1, "also not to the storage");
    bed.server.faults().remove(fault);
    bed.provisioned(3).await;
    running.stop().await;
}

/// Proves: statement 17, row 2.9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_end_what_runs_is_ended_and_nothing_new_is_begun() {
    let bed = Bed::without_controllers();
    let mut settings = elected(&bed, "first").await;
    settings.workers = 1;
    bed.memory.hang(Operation::Create);
    let stop = settings.stop.clone();
    let running = bed.start_with(settings);
    for name in ["a", "b", "c"] {
        bed.annotated_claim(name);
    }
    bed.until("one volume is being made", || bed.memory.calls(Operation::Create) == 1).await;
    stop.cancel();
    bed.settle().await;
    bed.memory.release(Operation::Create);
    running.stop().await;
    assert_eq!((bed.volumes(), bed.memory.calls(Operation::Create)), (1, 1));
    assert!(bed.memory.volumes().iter().all(|held| held.committed));
    let told: usize = ["a", "b", "c"].into_iter().map(|name| bed.events(name).len()).sum();
    assert_eq!(told, 1, "the event of what was ended is not lost");
    assert_eq!(holder(&bed), None, "the lock is released");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hangs_does_not_hold_the_end_for_ever() {
    let bed = Bed::without_controllers();
    let mut settings = elected(&bed, "first").await;
    settings.shutdown_grace = Duration::from_millis(100);
    bed.memory.hang(Operation::Create);
    let running = bed.start_with(settings);
    bed.annotated_claim("a");
    bed.until("work hangs", || bed.memory.calls(Operation::Create) == 1).await;
    running.stop().await;
    assert_eq!((bed.volumes(), holder(&bed)), (0, None));
    bed.memory.release(Operation::Create);
    let running = bed.start().await;
    bed.provisioned(1).await;
    running.stop().await;
    assert_eq!(json!(bed.volumes()), json!(1));
}
