//! One lock: who leads, for how long, and who leads next.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

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
        assert!(elector.status().problem.is_some(), "{row}");
        sleep(seconds(120)).await;
        assert!(!leads(&elector), "{row}");
        stub.fail(|_| Fault::None);
        let (second, after) = term(&elector).await;
        assert!(after < seconds(15), "{row}: {after:?}");
        assert!(second.permit.check().is_ok() && first.permit.check().is_err(), "{row}");
        assert_eq!(elector.status().problem, None, "{row}");
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

/// On the real clock, before any renewal.
#[tokio::test]
async fn the_first_permit_of_a_term_ends_by_itself() {
    let stub = Stub::new();
    let renew_deadline = Duration::from_millis(300);
    let retry_period = Duration::from_millis(150);
    let settings = Settings { duration: seconds(1), renew_deadline, retry_period, ..settings("a") };
    let elector = Elector::start(stub.client(), settings, Clock::new(since_boot), false);
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
    let elector = Elector::start(stub.client(), settings, Clock::new(since_boot), false);
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
