//! Two locks: the Lease, and the Endpoints of the old provisioners and of replicas that may not use Leases.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// Proves: row 9.2
#[tokio::test(start_paused = true)]
async fn an_old_provisioner_that_renews_its_lock_is_waited_for_whatever_its_clock_says() {
    for (row, clock) in
        [("right", Timestamp::now().as_second()), ("far behind", 0), ("far ahead", 4_000_000_000)]
    {
        let stub = Stub::new();
        let renew = |round: i64| {
            let record = LockRecord { renewed: Some(wall(clock + 2 * round)), ..held_by("old") };
            stub.put("endpoints", NAMESPACE, NAME, Some(endpoints(&record)));
        };
        renew(0);
        let elector = stand(&stub, "a");
        for round in 0..60 {
            renew(round);
            sleep(seconds(2)).await;
            assert!(!leads(&elector), "clock {row}: leads beside a living leader");
        }
        assert!(
            elector.status().problem.unwrap().contains("old holds Endpoints storage/example.com-nfs"),
            "clock {row}"
        );
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

pub(super) fn no_leases(call: &Call) -> Fault {
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
        assert!(after > seconds(15) && after < seconds(15 + 8), "{row}: {after:?}");
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
        assert!(after > seconds(15) && after < seconds(15 + 3), "{row}: {after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_old_provisioner_that_leads_is_respected_also_without_the_right_to_leases() {
    let stub = Stub::new();
    stub.fail(no_leases);
    let elector = stand(&stub, "a");
    for round in 0..60 {
        let record = LockRecord { renewed: Some(wall(2 * round)), ..held_by("old") };
        stub.put("endpoints", NAMESPACE, NAME, Some(endpoints(&record)));
        sleep(seconds(2)).await;
        assert!(!leads(&elector));
    }
    let (_, after) = term(&elector).await;
    assert!(after > seconds(10 + 15) && after < seconds(18 + 15), "{after:?}");
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
    assert!(elector.status().problem.unwrap().contains("refused"));
    stub.fail(|_| Fault::None);
    let (_, after) = term(&elector).await;
    // It may have just tried the Endpoints.
    assert!(after < seconds(15 + 8), "{after:?}");
}

/// The annotated Endpoints of an old provisioner.
fn endpoints(record: &LockRecord) -> Value {
    let text = lock::annotation(record).unwrap();
    json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"annotations": {lock::LEADER_ANNOTATION: text}}})
}

#[tokio::test(start_paused = true)]
async fn a_right_to_leases_that_is_withdrawn_from_all_ends_the_leader_before_another_one_works() {
    for back in [60, 60, 60, 12 * 60] {
        let stub = Stub::new();
        let a = stand(&stub, "a");
        let (first, _) = term(&a).await;
        let b = stand(&stub, "b");
        never_two("before", &[&a, &b], seconds(20)).await;
        stub.fail(no_leases);
        never_two("withdrawn", &[&a, &b], seconds(60)).await;
        assert!(first.ended.is_cancelled());
        assert!(leads(&a) || leads(&b), "nobody works on the Endpoints");
        stub.fail(|_| Fault::None);
        never_two("given back", &[&a, &b], seconds(back)).await;
        assert!(leads(&a) || leads(&b));
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_on_the_lease_and_one_that_may_use_the_endpoints_alone_never_work_together() {
    for (row, first_on_lease) in [("the Lease first", true), ("the Endpoints first", false)] {
        let stub = Stub::new();
        let on_lease = || stand(&stub, "on the Lease");
        let on_endpoints = || stand(&stub.failing(no_leases), "on the Endpoints");
        let a = if first_on_lease { on_lease() } else { on_endpoints() };
        term(&a).await;
        let b = if first_on_lease { on_endpoints() } else { on_lease() };
        never_two(row, &[&a, &b], seconds(120)).await;
        assert!(leads(&a) || leads(&b), "{row}: nobody works");
        let (leader, other) = if leads(&a) { (a, b) } else { (b, a) };
        leader.release().await;
        drop(leader);
        let (_, after) = term(&other).await;
        assert!(after < seconds(20), "{row}: {after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_right_to_see_the_endpoints_that_is_given_later_is_used_within_ten_minutes() {
    let stub = Stub::new();
    stub.fail(|call| if call.resource == "endpoints" { Fault::Refuse(403) } else { Fault::None });
    stub.put("endpoints", NAMESPACE, NAME, Some(endpoints(&held_by("old"))));
    let elector = stand(&stub, "a");
    let (first, _) = term(&elector).await;
    stub.fail(|_| Fault::None);
    let begin = Instant::now();
    end(&first).await;
    assert!(begin.elapsed() < Duration::from_mins(11), "{:?}", begin.elapsed());
    assert!(elector.status().problem.unwrap().contains("old holds Endpoints"));
}

#[tokio::test(start_paused = true)]
async fn a_holder_of_the_endpoints_that_can_no_longer_be_seen_is_waited_for_as_long_as_its_lock_lasts() {
    let stub = Stub::new();
    stub.put("endpoints", NAMESPACE, NAME, Some(endpoints(&held_by("old"))));
    let elector = stand(&stub, "a");
    sleep(seconds(5)).await;
    assert!(!leads(&elector));
    stub.put("endpoints", NAMESPACE, NAME, Some(endpoints(&held_by("old"))));
    sleep(seconds(3)).await;
    stub.fail(|call| if call.resource == "endpoints" { Fault::Refuse(403) } else { Fault::None });
    let (_, after) = term(&elector).await;
    assert!(after > seconds(10) && after < seconds(18), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_were_deleted_are_their_holders_until_it_had_time_to_make_them_again() {
    let stub = Stub::new();
    stub.put("endpoints", NAMESPACE, NAME, Some(endpoints(&held_by("old"))));
    let elector = stand(&stub, "a");
    sleep(seconds(14)).await;
    stub.put("endpoints", NAMESPACE, NAME, None);
    let (_, after) = term(&elector).await;
    // The lock's 15 s, and up to two looks, which come at random up to 2.4 s apart.
    assert!(after > seconds(15) && after < seconds(20), "{after:?}");
}
