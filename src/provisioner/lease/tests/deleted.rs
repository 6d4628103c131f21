//! A lock object that is deleted, and a machine that is suspended.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{rights::no_leases, *};

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

#[tokio::test(start_paused = true)]
async fn a_deleted_lock_stays_with_its_leader_however_often_it_is_deleted() {
    let stub = Stub::new();
    let a = stand(&stub, "a");
    let (first, _) = term(&a).await;
    let b = stand(&stub, "b");
    eventually("b knows the leader", || b.status().holder.as_deref() == Some("a")).await;
    for round in 0..100 {
        stub.put("leases", NAMESPACE, NAME, None);
        never_two("deleted", &[&a, &b], MOMENT * (70 + round % 60)).await;
        assert!(leads(&a) && !first.ended.is_cancelled(), "round {round}: {:?}", a.status());
    }
    assert_eq!(lease_holder(&stub).as_deref(), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn who_stands_by_does_not_take_a_deleted_lock_before_its_leader_must_have_stopped() {
    for after in [0, 1, 5, 9] {
        let stub = Stub::new();
        let hung = Arc::new(AtomicBool::new(false));
        let a = {
            let hung = Arc::clone(&hung);
            let hang = move |_: &Call| {
                if hung.load(Ordering::SeqCst) { Fault::Hang } else { Fault::None }
            };
            stand(&stub.failing(hang), "a")
        };
        let (first, _) = term(&a).await;
        let b = stand(&stub, "b");
        sleep(seconds(20)).await;
        hung.store(true, Ordering::SeqCst);
        never_two("before", &[&a, &b], seconds(after)).await;
        stub.put("leases", NAMESPACE, NAME, None);
        let begin = Instant::now();
        while !may_work(&b) {
            never_two("after", &[&a, &b], MOMENT).await;
            assert!(begin.elapsed() < seconds(40), "deleted after {after} s: nobody goes on");
        }
        assert!(first.ended.is_cancelled());
        assert!(begin.elapsed() > seconds(15), "deleted after {after} s: {:?}", begin.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn who_starts_while_the_lock_is_gone_waits_where_there_are_volumes_and_only_there() {
    for (row, established, wait) in [("volumes", true, 15), ("none", false, 0)] {
        let stub = Stub::new();
        let elector = Elector::start(stub.client(), settings("a"), clock(), established);
        let (_, after) = term(&elector).await;
        assert!(after >= seconds(wait) && after < seconds(wait + 3), "{row}: {after:?}");
    }
}

/// A leader that was cut off has made nothing again, so the one that starts knows nothing of it.
#[tokio::test(start_paused = true)]
async fn who_starts_while_the_lock_is_gone_does_not_work_beside_the_leader_that_cannot_make_it_again() {
    let stub = Stub::new();
    let hung = Arc::new(AtomicBool::new(false));
    let a = {
        let hung = Arc::clone(&hung);
        let hang = move |_: &Call| {
            if hung.load(Ordering::SeqCst) { Fault::Hang } else { Fault::None }
        };
        stand(&stub.failing(hang), "a")
    };
    let (first, _) = term(&a).await;
    sleep(seconds(20)).await;
    hung.store(true, Ordering::SeqCst);
    stub.put("leases", NAMESPACE, NAME, None);
    let b = Elector::start(stub.client(), settings("b"), clock(), true);
    never_two("a new process", &[&a, &b], seconds(20)).await;
    assert!(first.ended.is_cancelled() && leads(&b));
}

#[tokio::test(start_paused = true)]
async fn deleted_endpoints_end_the_term_of_their_holder_which_works_again_when_all_have_seen_it() {
    let stub = Stub::new();
    let a = stand(&stub.failing(no_leases), "a");
    let (first, _) = term(&a).await;
    let b = stand(&stub, "b");
    sleep(seconds(10)).await;
    for deleted in 0..5 {
        stub.put("endpoints", NAMESPACE, NAME, None);
        never_two("deleted", &[&a, &b], seconds(4)).await;
        assert!(!leads(&a) && !leads(&b), "deleted {deleted} times");
    }
    assert!(first.ended.is_cancelled());
    never_two("in peace again", &[&a, &b], seconds(30)).await;
    assert!(leads(&a) && !leads(&b));
}

/// A clock that the test can set forward, as a machine's that was suspended.
fn suspending() -> (Clock, Arc<Mutex<Duration>>) {
    let (start, suspended) = (Instant::now(), Arc::new(Mutex::new(Duration::ZERO)));
    let told = Arc::clone(&suspended);
    (Clock::new(move || seconds(1000) + start.elapsed() + *told.lock()), suspended)
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_machine_was_suspended_does_nothing_more_when_it_wakes() {
    let stub = Stub::new();
    let (clock, suspended) = suspending();
    let a = Elector::start(stub.client(), settings("a"), clock, false);
    let (first, _) = term(&a).await;
    sleep(seconds(10)).await;
    assert!(first.permit.check().is_ok());
    // Nothing of ours has run since.
    *suspended.lock() += seconds(60);
    assert!(first.permit.check().is_err(), "the right outlived the suspension");
    let mut lease = stub.object("leases", NAMESPACE, NAME).unwrap();
    lease["spec"]["holderIdentity"] = json!("b");
    stub.put("leases", NAMESPACE, NAME, Some(lease));
    end(&first).await;
    sleep(seconds(5)).await;
    assert!(!leads(&a) && first.permit.check().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_wakes_to_its_own_lock_begins_another_term() {
    let stub = Stub::new();
    let (clock, suspended) = suspending();
    let a = Elector::start(stub.client(), settings("a"), clock, false);
    let (first, _) = term(&a).await;
    sleep(seconds(10)).await;
    *suspended.lock() += seconds(60);
    end(&first).await;
    let (second, after) = term(&a).await;
    assert!(second.permit.check().is_ok() && first.permit.check().is_err());
    assert!(after < seconds(3), "{after:?}");
}
