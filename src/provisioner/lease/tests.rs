//! The election against a stub of the API server, on a clock that the tests move.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::{advance, sleep};

use super::*;
use crate::provisioner::stub::{Call, Fault, Stub, eventually};

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

fn held_by(holder: &str) -> Record {
    Record {
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
    assert_eq!(settings.check(), Ok(()));
}

#[test]
fn times_that_do_not_fit_together_are_refused() {
    let table: [(&str, u64, u64, u64, Option<&str>); 6] = [
        ("the usual times fit", 15_000, 10_000, 2_000, None),
        ("short times fit", 2_000, 900, 400, None),
        ("a part of a second cannot be written to the lease", 15_500, 10_000, 2_000, Some("lease duration")),
        ("the leader must stop before others begin", 10_000, 10_000, 2_000, Some("lease renew deadline")),
        ("one missed renewal must not cost the lock", 15_000, 10_000, 6_000, Some("lease retry period")),
        ("no pause at all would flood the server", 15_000, 10_000, 0, Some("lease retry period")),
    ];
    for (row, duration, renew_deadline, retry_period, wrong) in table {
        let settings = Settings {
            duration: Duration::from_millis(duration),
            renew_deadline: Duration::from_millis(renew_deadline),
            retry_period: Duration::from_millis(retry_period),
            ..settings("a")
        };
        assert_eq!(settings.check().err().map(|invalid| invalid.what), wrong, "{row}");
    }
}

#[tokio::test(start_paused = true)]
async fn whether_to_make_take_renew_or_wait_for_the_lock() {
    let now = Instant::now() + seconds(1000);
    let seen = |record, ago| Some(Seen { record, version: String::new(), since: now - seconds(ago) });
    let in_seconds = |s: u64| Step::Wait(now + seconds(s));
    let strange = |seconds| Record { seconds, ..held_by("other") };
    let table = [
        ("without a lock one is made", None, Step::Create),
        ("a released lock is taken at once", seen(held_by(""), 0), Step::Take),
        (
            "a lock that was seen just now is waited for, however old it says it is",
            seen(held_by("other"), 0),
            in_seconds(15),
        ),
        ("the wait ends when it has not changed for its duration", seen(held_by("other"), 14), in_seconds(1)),
        ("a lock that did not change for its duration is taken", seen(held_by("other"), 15), Step::Take),
        ("our own lock is renewed", seen(held_by("me"), 1), Step::Renew),
        ("our own lock is renewed also after it has run out", seen(held_by("me"), 100), Step::Renew),
        ("the duration is the one that the holder counts with", seen(strange(60), 20), in_seconds(40)),
        ("a lock that tells no duration lasts as long as ours", seen(strange(0), 10), in_seconds(5)),
        ("a lock with a negative duration lasts as long as ours", seen(strange(-7), 10), in_seconds(5)),
        (
            "a lock that wants to last for ever is waited for an hour",
            seen(strange(i64::MAX), 600),
            in_seconds(3000),
        ),
    ];
    for (row, seen, step) in table {
        assert_eq!(decide(seen.as_ref(), now, "me", seconds(15)), step, "{row}");
    }
}

#[tokio::test(start_paused = true)]
async fn time_counts_from_the_first_look_since_the_last_write_whatever_was_written() {
    let stub = Stub::new();
    let locks = Locks::new(stub.client(), NAMESPACE, NAME, seconds(5));
    locks.create(Kind::Lease, &held_by("other"), None).await.unwrap();
    let look = async || locks.get(Kind::Lease).await.unwrap().unwrap();
    let first = Seen::again(None, &look().await, Instant::now());
    advance(seconds(5)).await;
    let second = Seen::again(Some(first.clone()), &look().await, Instant::now());
    assert_eq!(second, first);
    locks.replace(&look().await, &held_by("other"), None).await.unwrap();
    assert_eq!(Seen::again(Some(second), &look().await, Instant::now()).since, first.since + seconds(5));
}

#[test]
fn what_is_written_at_each_step() {
    let old = held_by("other");
    let table = [
        ("a new lock has changed hands never", None, Step::Create, 2000, 0),
        ("a lock that is taken has changed hands once more", Some(&old), Step::Take, 2000, 4),
        ("a renewal keeps since when it is held", Some(&old), Step::Renew, 1000, 3),
        ("an object without a record is begun anew", None, Step::Take, 2000, 0),
    ];
    for (row, old, step, acquired, transitions) in table {
        let record = written(old, step, &settings("me"), wall(2000));
        let expected = Record {
            holder: "me".to_owned(),
            seconds: 15,
            acquired: Some(wall(acquired)),
            renewed: Some(wall(2000)),
            transitions,
        };
        assert_eq!(record, expected, "{row}");
    }
}

/// Proves: row 9.1, row 9.2
#[tokio::test(start_paused = true)]
async fn how_long_an_old_provisioner_is_waited_for() {
    let now = Instant::now() + seconds(1000);
    let old = |holder: &str, renewed: i64, ago: u64| Seen {
        record: Record { renewed: Some(wall(renewed)), ..held_by(holder) },
        version: String::new(),
        since: now - seconds(ago),
    };
    let table = [
        ("a lock that was given up is not waited for", old("", 9_999, 0), None),
        ("our own lock of an earlier time is not waited for", old("me", 9_999, 0), None),
        ("a lock that is renewed is waited for", old("other", 10_000, 0), Some(15)),
        ("it stood still for its duration: its holder is gone", old("other", 10_000, 15), None),
        ("a clock that is far ahead makes us wait no longer", old("other", 99_000, 3), Some(12)),
        ("a lock that seems long past is looked at for three renewals", old("other", 1_000, 0), Some(6)),
        ("a lock that is long past and stood still is not waited for", old("other", 1_000, 6), None),
    ];
    for (row, seen, left) in table {
        let until = old_lock(&seen, now, wall(10_000), "me", &settings("me"));
        assert_eq!(until, left.map(|left| now + seconds(left)), "{row}");
    }
}

#[test]
fn the_old_annotation_is_read_and_written_as_the_old_client_library_does() {
    let text = r#"{"holderIdentity":"pod_0ec4","leaseDurationSeconds":15,"acquireTime":"1970-01-01T00:16:40Z","renewTime":"1970-01-01T00:16:40Z","leaderTransitions":3}"#;
    assert_eq!(lock::parse_annotation(text), Some(held_by("pod_0ec4")));
    assert_eq!(lock::annotation(&held_by("pod_0ec4")), Ok(text.to_owned()));
    assert_eq!(lock::parse_annotation("{}"), Some(Record::default()));
    assert_eq!(lock::parse_annotation("not JSON"), None);
}

/// The annotated Endpoints of an old provisioner.
fn endpoints(record: &Record) -> Value {
    let text = lock::annotation(record).unwrap();
    json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"annotations": {lock::LEADER_ANNOTATION: text}}})
}

fn lease_holder(stub: &Stub) -> Option<String> {
    Some(stub.object("leases", NAMESPACE, NAME)?["spec"]["holderIdentity"].as_str()?.to_owned())
}

fn stand(stub: &Stub, identity: &str) -> Elector {
    Elector::start(stub.client(), settings(identity))
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

async fn end(term: &Term) {
    timeout(LONG, term.ended.cancelled()).await.expect("the term never ends");
}

/// Waits until `elector` leads; says after how long.
async fn term(elector: &Elector) -> (Term, Duration) {
    let begin = Instant::now();
    let mut states = elector.states();
    let leading = states.wait_for(|state| matches!(state, State::Leading(_)));
    let state = timeout(LONG, leading).await.expect("never leads").unwrap().clone();
    match state {
        State::Leading(term) => (term, begin.elapsed()),
        State::Standby => unreachable!(),
    }
}

#[tokio::test(start_paused = true)]
async fn without_election_the_term_lasts_until_the_release() {
    let elector = Elector::off();
    let (term, _) = term(&elector).await;
    sleep(Duration::from_hours(48)).await;
    assert!(term.permit.check().is_ok() && !term.ended.is_cancelled());
    elector.release().await;
    assert!(term.permit.check().is_err() && term.ended.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn of_two_that_stand_at_the_same_moment_exactly_one_leads() {
    for round in 0..20 {
        let stub = Stub::new();
        let (a, b) = (stand(&stub, "a"), stand(&stub, "b"));
        eventually("one leads", || leads(&a) || leads(&b)).await;
        for _ in 0..600 {
            assert!(!(leads(&a) && leads(&b)), "round {round}: both lead");
            assert!(leads(&a) || leads(&b), "round {round}: the leader changed without need");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_leader_renews_and_the_lock_changes_hands_once() {
    let stub = Stub::new();
    let elector = stand(&stub, "a");
    let (term, _) = term(&elector).await;
    sleep(seconds(60)).await;
    assert!(!term.ended.is_cancelled() && term.permit.check().is_ok());
    let lease = stub.object("leases", NAMESPACE, NAME).unwrap();
    assert_eq!(lease["spec"]["leaseTransitions"], 0);
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 15);
    let renewals = stub.calls().iter().filter(|call| call.verb == "replace").count();
    assert!((25..=30).contains(&renewals), "{renewals} renewals in a minute");
    assert_eq!(elector.status().holder.as_deref(), Some("a"));
    assert_eq!(elector.status().lock, "Lease storage/example.com-nfs");
}

/// A write whose answer is lost went through all the same.
#[tokio::test(start_paused = true)]
async fn a_lost_answer_costs_neither_the_lock_nor_the_term() {
    for lost in ["create", "replace"] {
        let stub = Stub::new();
        let times = AtomicU32::new(0);
        stub.fail(move |call| {
            let once =
                call.verb == lost && times.fetch_add(1, Ordering::SeqCst) == 1 - u32::from(lost == "create");
            if once { Fault::LoseAnswer } else { Fault::None }
        });
        let elector = stand(&stub, "a");
        let (term, after) = term(&elector).await;
        assert!(after <= seconds(3), "{lost}: {after:?}");
        sleep(seconds(60)).await;
        assert!(!term.ended.is_cancelled() && term.permit.check().is_ok(), "{lost}");
    }
}

/// Proves: case 43, statement 13
#[tokio::test(start_paused = true)]
async fn a_server_that_stops_answering_ends_the_term_at_the_renew_deadline_and_the_process_stands_again() {
    type Make = fn() -> Fault;
    let hang: Make = || Fault::Hang;
    let fail: Make = || Fault::Refuse(500);
    for (row, fault) in [("the server hangs", hang), ("the server fails", fail)] {
        let stub = Stub::new();
        let elector = stand(&stub, "a");
        let (first, _) = term(&elector).await;
        sleep(seconds(20)).await;
        stub.fail(move |_| fault());
        let begin = Instant::now();
        end(&first).await;
        let lasted = begin.elapsed();
        assert!(first.permit.check().is_err(), "{row}: the permit outlived the term");
        // The last renewal was up to 2.4 s before the server failed.
        assert!(lasted > seconds(7) && lasted <= seconds(10), "{row}: {lasted:?}");
        assert!(elector.status().trouble.is_some(), "{row}");
        sleep(seconds(120)).await;
        assert!(!leads(&elector), "{row}");
        stub.fail(|_| Fault::None);
        let (second, after) = term(&elector).await;
        assert!(after < seconds(15), "{row}: {after:?}");
        assert!(second.permit.check().is_ok() && first.permit.check().is_err(), "{row}");
        assert_eq!(elector.status().trouble, None, "{row}");
    }
}

/// Proves: statement 13
#[tokio::test(start_paused = true)]
async fn a_slow_server_and_single_failures_do_not_end_the_term() {
    let stub = Stub::new();
    let count = AtomicU32::new(0);
    stub.fail(move |_| match count.fetch_add(1, Ordering::SeqCst) % 3 {
        0 => Fault::Slow(seconds(3)),
        1 => Fault::Refuse(429),
        _ => Fault::None,
    });
    let elector = stand(&stub, "a");
    let (term, _) = term(&elector).await;
    sleep(seconds(600)).await;
    assert!(!term.ended.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_somebody_else_took_ends_the_term_at_the_next_renewal() {
    let stub = Stub::new();
    let elector = stand(&stub, "a");
    let (first, _) = term(&elector).await;
    let mut lease = stub.object("leases", NAMESPACE, NAME).unwrap();
    lease["spec"]["holderIdentity"] = json!("thief");
    stub.put("leases", NAMESPACE, NAME, Some(lease));
    let begin = Instant::now();
    end(&first).await;
    assert!(begin.elapsed() < seconds(3));
    let (_, after) = term(&elector).await;
    assert!(after >= seconds(15) && after < seconds(18), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_was_given_away_and_back_begins_a_new_term() {
    let stub = Stub::new();
    let elector = stand(&stub, "a");
    let (first, _) = term(&elector).await;
    let mut lease = stub.object("leases", NAMESPACE, NAME).unwrap();
    lease["spec"]["holderIdentity"] = json!("");
    stub.put("leases", NAMESPACE, NAME, Some(lease));
    end(&first).await;
    let (second, after) = term(&elector).await;
    assert!(after < seconds(1), "{after:?}");
    assert!(first.permit.check().is_err() && second.permit.check().is_ok());
    assert_eq!(stub.object("leases", NAMESPACE, NAME).unwrap()["spec"]["leaseTransitions"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_was_deleted_is_made_again_and_the_term_goes_on() {
    let stub = Stub::new();
    let elector = stand(&stub, "a");
    let (term, _) = term(&elector).await;
    stub.put("leases", NAMESPACE, NAME, None);
    sleep(seconds(30)).await;
    assert!(!term.ended.is_cancelled());
    assert_eq!(lease_holder(&stub).as_deref(), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn the_uid_of_the_lock_is_known_before_the_term_and_stays_for_the_life_of_the_process() {
    for (row, leases_allowed) in [("a Lease", true), ("the Endpoints of the old provisioners", false)] {
        let stub = Stub::new();
        stub.fail(move |call| if leases_allowed { Fault::None } else { no_leases(call) });
        let resource = if leases_allowed { "leases" } else { "endpoints" };
        let uid = |stub: &Stub| {
            stub.object(resource, NAMESPACE, NAME)
                .and_then(|object| Some(object["metadata"]["uid"].as_str()?.to_owned()))
        };
        let a = stand(&stub, "a");
        assert_eq!(a.lock_uid(), None, "{row}");
        term(&a).await;
        let first = uid(&stub);
        assert!(first.is_some() && a.lock_uid() == first, "{row}: {:?}", a.lock_uid());
        let b = stand(&stub, "b");
        eventually("who stands by knows it too", || b.lock_uid() == first).await;
        stub.put(resource, NAMESPACE, NAME, None);
        eventually("the lock is made again", || uid(&stub).is_some_and(|uid| Some(uid) != first)).await;
        sleep(seconds(60)).await;
        assert_eq!((a.lock_uid(), b.lock_uid()), (first.clone(), first), "{row}");
    }
    assert_eq!(Elector::off().lock_uid(), None);
}

/// Proves: statement 17
#[tokio::test(start_paused = true)]
async fn a_released_lock_is_taken_at_the_next_look_and_a_dropped_one_when_it_runs_out() {
    let stub = Stub::new();
    let a = stand(&stub, "a");
    let (first, _) = term(&a).await;
    let b = stand(&stub, "b");
    sleep(seconds(30)).await;
    assert!(!leads(&b));
    assert_eq!(b.status().holder.as_deref(), Some("a"));
    a.release().await;
    assert!(first.ended.is_cancelled() && first.permit.check().is_err());
    assert_eq!(lease_holder(&stub).as_deref(), Some(""));
    let (second, after) = term(&b).await;
    assert!(after < seconds(3), "{after:?}");

    let c = stand(&stub, "c");
    sleep(seconds(30)).await;
    drop(b);
    end(&second).await;
    assert!(second.permit.check().is_err());
    let (_, after) = term(&c).await;
    assert!(after > seconds(12) && after < seconds(20), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_release_ends_in_time_though_the_server_does_not_answer() {
    let stub = Stub::new();
    let elector = stand(&stub, "a");
    let (term, _) = term(&elector).await;
    stub.fail(|_| Fault::Hang);
    let begin = Instant::now();
    elector.release().await;
    assert!(begin.elapsed() <= seconds(10));
    assert!(term.permit.check().is_err());
}

/// Proves: row 9.2
#[tokio::test(start_paused = true)]
async fn an_old_provisioner_that_renews_its_lock_is_waited_for_whatever_its_clock_says() {
    for (row, clock) in
        [("right", Timestamp::now().as_second()), ("far behind", 0), ("far ahead", 4_000_000_000)]
    {
        let stub = Stub::new();
        let renew = |round: i64| {
            let record = Record { renewed: Some(wall(clock + 2 * round)), ..held_by("old") };
            stub.put("endpoints", NAMESPACE, NAME, Some(endpoints(&record)));
        };
        renew(0);
        let elector = stand(&stub, "a");
        for round in 0..60 {
            renew(round);
            sleep(seconds(2)).await;
            assert!(!leads(&elector), "clock {row}: leads beside a living leader");
        }
        assert!(elector.status().trouble.unwrap().contains("an old provisioner, old,"), "clock {row}");
        let (term, after) = term(&elector).await;
        assert!(after < seconds(18), "clock {row}: {after:?}");

        // Once it is known to be dead, no restart waits for it again; it is waited for again as soon as it stirs.
        sleep(seconds(10)).await;
        elector.release().await;
        assert!(term.ended.is_cancelled());
        let again = stand(&stub, "b");
        let (second, after) = super::tests::term(&again).await;
        assert!(after < seconds(3), "clock {row}: {after:?}");
        renew(100);
        end(&second).await;
        sleep(seconds(5)).await;
        assert!(!leads(&again), "clock {row}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_of_the_old_kind_that_nobody_holds_costs_no_time() {
    let table = [
        ("a service of that name", json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {}})),
        ("a lock that was given up", endpoints(&held_by(""))),
    ];
    for (row, object) in table {
        let stub = Stub::new();
        stub.put("endpoints", NAMESPACE, NAME, Some(object));
        let (_, after) = term(&stand(&stub, "a")).await;
        assert!(after < seconds(1), "{row}: {after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn where_the_old_lock_cannot_be_seen_the_new_one_is_enough() {
    let stub = Stub::new();
    stub.fail(|call| if call.resource == "endpoints" { Fault::Refuse(403) } else { Fault::None });
    let elector = stand(&stub, "a");
    let (term, after) = term(&elector).await;
    assert!(after < seconds(1), "{after:?}");
    sleep(seconds(60)).await;
    assert!(!term.ended.is_cancelled());
    assert_eq!(stub.calls().iter().filter(|call| call.resource == "endpoints").count(), 1);
}

fn no_leases(call: &Call) -> Fault {
    if call.resource == "leases" { Fault::Refuse(403) } else { Fault::None }
}

/// Proves: row 8.2, row 8.12, row 9.1
#[tokio::test(start_paused = true)]
async fn without_the_right_to_leases_the_lock_of_the_old_provisioners_is_used() {
    for (row, code) in [("the role knows no leases", 403), ("the server knows no leases", 404)] {
        let stub = Stub::new();
        stub.fail(move |call| if call.resource == "leases" { Fault::Refuse(code) } else { Fault::None });
        let a = stand(&stub, "a");
        let (first, after) = term(&a).await;
        assert!(after < seconds(8), "{row}: {after:?}");
        assert_eq!(a.status().lock, "Endpoints storage/example.com-nfs", "{row}");
        let object = stub.object("endpoints", NAMESPACE, NAME).unwrap();
        let text = object["metadata"]["annotations"][lock::LEADER_ANNOTATION].as_str().unwrap();
        let fields: Value = serde_json::from_str(text).unwrap();
        assert_eq!(fields["holderIdentity"], "a", "{row}");
        assert_eq!(fields["leaseDurationSeconds"], 15, "{row}");
        assert!(fields["renewTime"].as_str().unwrap().ends_with('Z'), "{row}");

        let b = stand(&stub, "b");
        sleep(seconds(60)).await;
        assert!(!leads(&b), "{row}");
        assert!(leads(&a) && !first.ended.is_cancelled(), "{row}: {:?}", a.status());
        a.release().await;
        let (_, after) = term(&b).await;
        assert!(after < seconds(3), "{row}: {after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_provisioner_that_leads_is_respected_also_without_the_right_to_leases() {
    let stub = Stub::new();
    stub.fail(no_leases);
    let elector = stand(&stub, "a");
    for round in 0..60 {
        let record = Record { renewed: Some(wall(2 * round)), ..held_by("old") };
        stub.put("endpoints", NAMESPACE, NAME, Some(endpoints(&record)));
        sleep(seconds(2)).await;
        assert!(!leads(&elector));
    }
    let (_, after) = term(&elector).await;
    assert!(after > seconds(10) && after < seconds(18), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_single_refusal_does_not_change_the_lock() {
    let stub = Stub::new();
    let first = AtomicBool::new(true);
    stub.fail(move |_| if first.swap(false, Ordering::SeqCst) { Fault::Refuse(403) } else { Fault::None });
    let elector = stand(&stub, "a");
    term(&elector).await;
    assert_eq!(lease_holder(&stub).as_deref(), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn a_leader_on_the_old_lock_keeps_out_one_that_was_given_the_right_to_leases() {
    let stub = Stub::new();
    stub.fail(no_leases);
    let a = stand(&stub, "a");
    let (first, _) = term(&a).await;
    stub.fail(|_| Fault::None);
    let b = stand(&stub, "b");
    for _ in 0..300 {
        sleep(seconds(1)).await;
        assert!(leads(&a) && !leads(&b));
    }
    a.release().await;
    assert!(first.ended.is_cancelled());
    let (_, after) = term(&b).await;
    assert!(after < seconds(3), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn who_stands_by_at_the_old_lock_tries_the_lease_again_and_does_not_lead_beside_the_leader() {
    let stub = Stub::new();
    stub.fail(no_leases);
    let a = stand(&stub, "a");
    let (first, _) = term(&a).await;
    let b = stand(&stub, "b");
    sleep(seconds(60)).await;
    assert_eq!(b.status().lock, "Endpoints storage/example.com-nfs");
    stub.fail(|_| Fault::None);
    sleep(Duration::from_mins(11)).await;
    assert_eq!(lease_holder(&stub).as_deref(), Some("b"));
    assert!(leads(&a) && !leads(&b) && !first.ended.is_cancelled());
    a.release().await;
    let (_, after) = term(&b).await;
    assert!(after < seconds(3), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn without_any_right_to_a_lock_it_stands_by_says_why_and_begins_when_the_right_is_granted() {
    let stub = Stub::new();
    stub.fail(|_| Fault::Refuse(403));
    let elector = stand(&stub, "a");
    sleep(seconds(60)).await;
    assert!(!leads(&elector));
    assert!(elector.status().trouble.unwrap().contains("refused"));
    stub.fail(|_| Fault::None);
    let (_, after) = term(&elector).await;
    assert!(after < seconds(8), "{after:?}");
}

/// On the real clock, before any renewal.
#[tokio::test]
async fn the_first_permit_of_a_term_ends_by_itself() {
    let stub = Stub::new();
    let renew_deadline = Duration::from_millis(300);
    let retry_period = Duration::from_millis(150);
    let settings = Settings { duration: seconds(1), renew_deadline, retry_period, ..settings("a") };
    let elector = Elector::start(stub.client(), settings);
    let (term, _) = term(&elector).await;
    std::thread::sleep(renew_deadline + Duration::from_millis(10));
    assert!(term.permit.check().is_err());
}

/// On the real clock, which is the one that a permit runs by. A renewal moves its end on; when the process is stopped, nobody
/// runs who could revoke it, and it ends by itself.
///
/// Proves: case 43
#[tokio::test]
async fn a_permit_lives_by_renewals_and_ends_by_itself_in_a_process_that_was_stopped() {
    let stub = Stub::new();
    let renew_deadline = Duration::from_millis(300);
    let retry_period = Duration::from_millis(50);
    let settings = Settings { duration: seconds(1), renew_deadline, retry_period, ..settings("a") };
    let elector = Elector::start(stub.client(), settings);
    // On a machine that is too busy to renew in time a term may end early; then the next one is looked at.
    for _ in 0..30 {
        let begin = std::time::Instant::now();
        let (term, _) = term(&elector).await;
        while !term.ended.is_cancelled() && begin.elapsed() < 2 * renew_deadline {
            sleep(retry_period).await;
        }
        if term.ended.is_cancelled() || term.permit.check().is_err() {
            continue;
        }
        std::thread::sleep(renew_deadline + retry_period);
        assert!(term.permit.check().is_err());
        assert!(!term.ended.is_cancelled(), "nothing of ours ran meanwhile");
        return;
    }
    panic!("no permit outlived its first end");
}
