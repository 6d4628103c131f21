//! What is decided about a lock that was seen, as tables.

use super::{
    super::decision::{Identity, Seen, Step, View, decide, written},
    *,
};

/// A lock that said so since `since`, and is there or not.
fn view(record: LockRecord, since: u64, there: bool) -> View {
    let version = there.then(|| "uid/1".to_owned());
    View { seen: Some(Seen { record, version, since: moment(since) }), identity: Identity::Unknown }
}

#[test]
fn whether_to_make_take_renew_or_wait_for_the_lock() {
    let now = 1000;
    let seen = |record, ago| view(record, now - ago, true);
    let gone = |record, ago| view(record, now - ago, false);
    let in_seconds = |s: u64| Step::Wait(moment(now + s));
    let strange = |seconds| LockRecord { seconds, ..held_by("other") };
    let table = [
        ("without a lock one is made", View::default(), Step::Create),
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
        ("a lock that was deleted is still its holder's", gone(held_by("other"), 3), in_seconds(12)),
        ("it is made when its holder had time to make it again", gone(held_by("other"), 15), Step::Create),
        ("a released lock that was deleted is made at once", gone(held_by(""), 0), Step::Create),
        ("our own lock that was deleted is made at once", gone(held_by("me"), 0), Step::Create),
    ];
    for (row, view, step) in table {
        assert_eq!(decide(&view, moment(now), "me", seconds(15)), step, "{row}");
    }
}

#[tokio::test(start_paused = true)]
async fn time_counts_from_the_first_look_since_the_last_write_whatever_was_written() {
    let stub = Stub::new();
    let (locks, clock) = (Locks::new(stub.client(), NAMESPACE, NAME, seconds(5)), clock());
    let mut view = View::default();
    let look = async |view: &mut View| {
        view.look(locks.get(Kind::Lease).await.unwrap().as_ref(), clock.now());
        view.seen.as_ref().map(|seen| (seen.record.holder.clone(), seen.since.since(moment(1000)).as_secs()))
    };
    let other = |second| Some(("other".to_owned(), second));
    assert_eq!(look(&mut view).await, None, "a lock that never was has no holder");
    locks.create(Kind::Lease, &held_by("other"), None).await.unwrap();
    assert_eq!(look(&mut view).await, other(0));
    advance(seconds(5)).await;
    assert_eq!(look(&mut view).await, other(0), "nothing changed");
    let old = locks.get(Kind::Lease).await.unwrap().unwrap();
    locks.replace(&old, &held_by("other"), None).await.unwrap();
    assert_eq!(look(&mut view).await, other(5), "the same was written again");
    advance(seconds(5)).await;
    stub.put("leases", NAMESPACE, NAME, None);
    assert_eq!(look(&mut view).await, other(10), "it was deleted, and has its last holder");
    advance(seconds(5)).await;
    assert_eq!(look(&mut view).await, other(10), "it is still not there");
    locks.create(Kind::Lease, &held_by("third"), None).await.unwrap();
    assert_eq!(look(&mut view).await, Some(("third".to_owned(), 15)));
}

/// The UIDs that a server tells one after the other; `None`: there is no lock.
type Answers = &'static [Option<&'static str>];

/// The answers of a server, and when a lock that came of them lets its holder work.
#[tokio::test(start_paused = true)]
async fn a_lock_that_replaced_another_one_lets_nobody_work_before_it_is_as_old_as_a_lock_lasts() {
    const A: Option<&str> = Some("uid-a");
    const B: Option<&str> = Some("uid-b");
    let table: [(&str, bool, Answers, Option<u64>); 8] = [
        ("a lock that was there when we came", false, &[A, A], None),
        ("one that was not there in a cluster that has volumes", false, &[None, A], Some(1)),
        ("one that was not there in a cluster without volumes", true, &[None, None, A], None),
        ("one that was missed while it was not there", false, &[A, B], Some(1)),
        ("the same in a cluster without volumes", true, &[A, B], Some(1)),
        ("one that was not there for a while", false, &[A, None, None, B], Some(3)),
        ("its age counts from when it was seen first", false, &[A, B, B, B], Some(1)),
        ("a lock that seemed to be gone and is the same", false, &[A, None, A], None),
    ];
    for (row, unused, answers, since) in table {
        let (stub, mut view) = (Stub::new(), View::default());
        let locks = Locks::new(stub.client(), NAMESPACE, NAME, seconds(5));
        for (second, uid) in (0..).zip(answers) {
            let object = uid.map(|uid| json!({"metadata": {"uid": uid}, "spec": {}}));
            stub.fail(move |_| match &object {
                Some(object) => Fault::Answer(object.clone()),
                None => Fault::Refuse(404),
            });
            let observed = locks.get(Kind::Lease).await.unwrap();
            if unused {
                view.never_used();
            }
            view.look(observed.as_ref(), moment(second));
        }
        assert_eq!(view.settled(seconds(15)), since.map(|since| moment(since + 15)), "{row}");
    }
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
        let expected = LockRecord {
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
#[test]
fn how_long_an_old_provisioner_is_waited_for() {
    let now = 1000;
    let old = |holder: &str, renewed: i64, ago: u64| {
        view(LockRecord { renewed: Some(wall(renewed)), ..held_by(holder) }, now - ago, true)
    };
    let table = [
        ("a lock that was given up is not waited for", old("", 9_999, 0), None),
        ("our own lock of an earlier time is not waited for", old("me", 9_999, 0), None),
        ("a lock that is renewed is waited for", old("other", 10_000, 0), Some(15)),
        ("it stood still for its duration: its holder is gone", old("other", 10_000, 15), Some(0)),
        ("a clock that is far ahead makes us wait no longer", old("other", 99_000, 3), Some(12)),
        ("a clock that is far behind makes us wait no shorter", old("other", 1_000, 3), Some(12)),
    ];
    for (row, view, left) in table {
        let until = view.held_until("me", seconds(15));
        assert_eq!(until, left.map(|left| moment(now + left)), "{row}");
    }
}

#[test]
fn the_old_annotation_is_read_and_written_as_the_old_client_library_does() {
    let text = r#"{"holderIdentity":"pod_0ec4","leaseDurationSeconds":15,"acquireTime":"1970-01-01T00:16:40Z","renewTime":"1970-01-01T00:16:40Z","leaderTransitions":3}"#;
    assert_eq!(lock::parse_annotation(text), Some(held_by("pod_0ec4")));
    assert_eq!(lock::annotation(&held_by("pod_0ec4")), Ok(text.to_owned()));
    assert_eq!(lock::parse_annotation("{}"), Some(LockRecord::default()));
    assert_eq!(lock::parse_annotation("not JSON"), None);
}
