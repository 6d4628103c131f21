//! The election against a stub of the API server, on a clock that the tests move.

mod decision;
mod deleted;
mod model;
mod rights;
mod terms;

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, advance, sleep, timeout};

use super::{
    lock::{LockRecord, Locks},
    *,
};
use crate::{
    provisioner::stub::{Call, Fault, Stub, eventually},
    system::clock::since_boot,
    volume::Moment,
};

const NAMESPACE: &str = "storage";
const NAME: &str = "example.com-nfs";

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn settings(identity: &str) -> Settings {
    Settings { identity: identity.to_owned(), ..Settings::new("example.com/nfs", NAMESPACE, "pod") }
}

fn wall(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn held_by(holder: &str) -> LockRecord {
    LockRecord {
        holder: holder.to_owned(),
        seconds: 15,
        acquired: Some(wall(1000)),
        renewed: Some(wall(1000)),
        transitions: 3,
    }
}

#[test]
fn the_lock_is_named_after_the_provisioner_and_the_holder_after_the_host() {
    let settings = Settings::new("cluster.local/nfs-client", "storage", "pod-1");
    assert_eq!(settings.name, "cluster.local-nfs-client");
    assert!(settings.identity.starts_with("pod-1_"));
    assert_ne!(settings.identity, Settings::new("cluster.local/nfs-client", "storage", "pod-1").identity);
}

/// A clock of the test's time, which stands still and jumps as the tests want.
fn clock() -> Clock {
    let start = Instant::now();
    Clock::new(move || seconds(1000) + start.elapsed())
}

fn moment(second: u64) -> Moment {
    Clock::new(move || seconds(second)).now()
}

fn lease_holder(stub: &Stub) -> Option<String> {
    Some(stub.object("leases", NAMESPACE, NAME)?["spec"]["holderIdentity"].as_str()?.to_owned())
}

fn stand(stub: &Stub, identity: &str) -> Elector {
    Elector::start(stub.client(), settings(identity), clock(), false)
}

fn leads(elector: &Elector) -> bool {
    match &*elector.states.borrow() {
        State::Standby => false,
        State::Leading(term) => {
            assert!(!term.ended.is_cancelled());
            true
        }
    }
}

/// Longer than anything takes: in stopped time, what waits for ever would run for ever.
const LONG: Duration = Duration::from_hours(2);

async fn end(term: &Leadership) {
    timeout(LONG, term.ended.cancelled()).await.expect("the term never ends");
}

/// Waits until `elector` leads; says after how long.
async fn term(elector: &Elector) -> (Leadership, Duration) {
    let begin = Instant::now();
    let mut states = elector.states();
    let leading = states.wait_for(|state| matches!(state, State::Leading(_)));
    let state = timeout(LONG, leading).await.expect("never leads").unwrap().clone();
    match state {
        State::Leading(term) => (term, begin.elapsed()),
        State::Standby => unreachable!(),
    }
}

/// How often the permits of several electors are looked at.
const MOMENT: Duration = Duration::from_millis(50);

fn may_work(elector: &Elector) -> bool {
    match &*elector.states.borrow() {
        State::Standby => false,
        State::Leading(term) => term.permit.check().is_ok(),
    }
}

/// Lets `time` pass, in which never two may work.
async fn never_two(row: &str, electors: &[&Elector], time: Duration) {
    let begin = Instant::now();
    while begin.elapsed() < time {
        let able = electors.iter().filter(|elector| may_work(elector)).count();
        assert!(able <= 1, "{row}: {able} may work after {:?}", begin.elapsed());
        sleep(MOMENT).await;
    }
}
