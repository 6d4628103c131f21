//! The queue on a clock that the tests move: no key is lost, doubled or given up.

use std::collections::BTreeMap;

use futures::FutureExt;
use proptest::prelude::*;
use tokio::{
    task::JoinSet,
    time::{advance, sleep, timeout},
};

use super::*;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn queue() -> Queue<&'static str> {
    Queue::new(Backoff::default())
}

fn depth(ready: usize, waiting: usize, in_flight: usize) -> Depth {
    Depth { ready, waiting, in_flight }
}

/// The work that is there now, if any.
fn now<K: Key>(queue: &Queue<K>) -> Option<Work<K>> {
    queue.next().now_or_never().flatten()
}

/// The next work, and how long it took to come.
async fn later<K: Key>(queue: &Queue<K>) -> (Work<K>, Duration) {
    let begin = Instant::now();
    let work = timeout(seconds(1000), queue.next()).await.expect("nothing comes").unwrap();
    (work, begin.elapsed())
}

#[tokio::test(start_paused = true)]
async fn keys_come_in_the_order_of_their_first_push_and_once_each() {
    let queue = queue();
    for key in ["b", "a", "b", "c", "a"] {
        queue.push(key);
    }
    assert_eq!(queue.depth(), depth(3, 0, 0));
    for expected in ["b", "a", "c"] {
        let work = now(&queue).unwrap();
        assert_eq!((*work.key(), work.attempt()), (expected, 1));
        work.finish(Outcome::Done);
    }
    assert!(now(&queue).is_none());
    assert_eq!(queue.depth(), depth(0, 0, 0));
}

/// Proves: case 39
#[tokio::test(start_paused = true)]
async fn how_long_each_outcome_waits() {
    let minute = seconds(60);
    let table: [(&str, Outcome, u32, Duration, Duration); 8] = [
        ("the first failure waits the shortest time", Outcome::Retry, 1, seconds(1), seconds(2)),
        ("the second one twice as long", Outcome::Retry, 2, seconds(2), seconds(3)),
        ("the fifth one sixteen times", Outcome::Retry, 5, seconds(16), seconds(24)),
        ("the fortieth one not more than the longest time", Outcome::Retry, 40, seconds(200), seconds(300)),
        ("a server that says when is obeyed", Outcome::RetryAfter(minute), 1, seconds(60), seconds(66)),
        (
            "a server that says at once is given a moment",
            Outcome::RetryAfter(Duration::ZERO),
            1,
            seconds(1),
            seconds(2),
        ),
        (
            "a server that says never is asked again",
            Outcome::RetryAfter(Duration::MAX),
            1,
            seconds(300),
            seconds(300),
        ),
        ("what cannot succeed waits long from the start", Outcome::Slow, 1, seconds(200), seconds(300)),
    ];
    for (row, outcome, failures, shortest, longest) in table {
        let queue = queue();
        queue.push("key");
        for attempt in 1..=failures {
            let (work, _) = later(&queue).await;
            assert_eq!(work.attempt(), attempt, "{row}");
            work.finish(outcome);
        }
        let (_work, waited) = later(&queue).await;
        assert!(waited >= shortest && waited <= longest + Duration::from_millis(1), "{row}: {waited:?}");
    }
}

#[test]
fn waits_that_began_together_are_spread() {
    let backoff = Backoff::default();
    for failures in [0, 3, 20, 40] {
        let (shortest, longest) = (backoff.after(failures, 0.0), backoff.after(failures, 1.0));
        assert!(longest >= shortest.mul_f64(1.4), "{failures} failures: {shortest:?} to {longest:?}");
        assert!(shortest >= backoff.min && longest <= backoff.max);
    }
}

/// Proves: case 40
#[tokio::test(start_paused = true)]
async fn news_about_a_key_end_its_wait_at_once() {
    let table = [
        ("after a failure", Outcome::Retry, 2),
        ("while a server asked for patience", Outcome::RetryAfter(seconds(100)), 2),
        ("after what could not succeed", Outcome::Slow, 2),
        ("after success, with a new history", Outcome::Done, 1),
    ];
    for (row, outcome, attempt) in table {
        let queue = queue();
        queue.push("key");
        now(&queue).unwrap().finish(outcome);
        assert!(now(&queue).is_none(), "{row}");
        queue.push("key");
        let work = now(&queue).expect(row);
        assert_eq!(work.attempt(), attempt, "{row}");
        work.finish(Outcome::Done);
        assert_eq!(queue.depth(), depth(0, 0, 0), "{row}: the old wait is still there");
        advance(seconds(1000)).await;
        assert!(now(&queue).is_none(), "{row}: it comes a second time");
    }
}

/// Proves: case 39
#[tokio::test(start_paused = true)]
async fn news_end_the_slow_pace_and_do_not_reset_the_normal_one() {
    for (row, outcome, shortest, longest) in [
        ("after the slow pace the normal one begins", Outcome::Slow, seconds(1), seconds(2)),
        ("after seven failures the next one waits longer", Outcome::Retry, seconds(128), seconds(192)),
    ] {
        let queue = queue();
        for _ in 0..7 {
            queue.push("key");
            now(&queue).expect(row).finish(outcome);
        }
        queue.push("key");
        now(&queue).expect(row).finish(Outcome::Retry);
        let (_work, after) = later(&queue).await;
        assert!(after >= shortest && after <= longest, "{row}: {after:?}");
    }
}

/// Proves: statement 21
#[tokio::test(start_paused = true)]
async fn nothing_is_given_up() {
    let queue = queue();
    queue.push("key");
    for attempt in 1..=1000 {
        let (work, _) = later(&queue).await;
        assert_eq!(work.attempt(), attempt);
        work.finish(Outcome::Retry);
    }
}

#[tokio::test(start_paused = true)]
async fn news_that_come_while_a_key_is_worked_on_bring_it_back_afterwards() {
    for (row, outcome, attempt) in [
        ("after success it begins anew", Outcome::Done, 1),
        ("after a failure it does not wait", Outcome::Retry, 2),
        ("after what could not succeed it does not wait", Outcome::Slow, 2),
    ] {
        let queue = queue();
        queue.push("key");
        let work = now(&queue).unwrap();
        queue.push("key");
        queue.push("key");
        assert!(now(&queue).is_none(), "{row}: two workers have it");
        work.finish(outcome);
        let work = now(&queue).expect(row);
        assert_eq!(work.attempt(), attempt, "{row}");
        work.finish(Outcome::Done);
        assert!(now(&queue).is_none(), "{row}");
    }
}

#[tokio::test(start_paused = true)]
async fn work_that_is_dropped_counts_as_failed() {
    let queue = queue();
    queue.push("key");
    drop(now(&queue).unwrap());
    assert_eq!(queue.depth(), depth(0, 1, 0));
    let (work, after) = later(&queue).await;
    assert!(after >= seconds(1) && after <= seconds(2), "{after:?}");
    let panicked = tokio::spawn(async move { panic!("on {}", work.key()) }).await;
    assert!(panicked.is_err());
    assert_eq!(queue.depth(), depth(0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_closed_queue_hands_out_nothing_and_lets_the_work_end() {
    let queue = queue();
    for key in ["a", "b", "c"] {
        queue.push(key);
    }
    queue.push("d");
    let (first, second) = (now(&queue).unwrap(), now(&queue).unwrap());
    let mut waiting = JoinSet::new();
    let empty = Queue::<u8>::new(Backoff::default());
    for queue in [empty.clone(), empty.clone()] {
        waiting.spawn(async move { queue.next().await.is_none() });
    }
    tokio::task::yield_now().await;
    empty.close();
    assert_eq!(waiting.join_all().await, [true, true]);

    queue.close();
    assert!(queue.next().await.is_none());
    queue.push("e");
    queue.push("a");
    assert_eq!(queue.depth(), depth(0, 0, 2));
    first.finish(Outcome::Retry);
    drop(second);
    assert_eq!(queue.depth(), depth(0, 0, 0));
    assert!(queue.next().await.is_none());
}

fn done(work: Option<Work<&'static str>>) -> Option<&'static str> {
    let work = work?;
    let key = *work.key();
    work.finish(Outcome::Done);
    Some(key)
}

/// A wake-up that went to a worker that was dropped goes to another one.
#[tokio::test(start_paused = true)]
async fn a_worker_that_is_dropped_while_it_waits_takes_no_key_with_it() {
    let queue = queue();
    let second = {
        let queue = queue.clone();
        let mut first = Box::pin(queue.next());
        assert!(first.as_mut().now_or_never().is_none());
        let another = queue.clone();
        let second = tokio::spawn(async move { done(another.next().await) });
        tokio::task::yield_now().await;
        queue.push("key");
        second
    };
    assert_eq!(timeout(seconds(1), second).await.expect("nobody was woken").unwrap(), Some("key"));

    // The same with the moment of a key that waits: the one that was told of the earlier moment is gone.
    queue.push("late");
    now(&queue).unwrap().finish(Outcome::Slow);
    queue.push("early");
    let early = now(&queue).unwrap();
    let mut first = Box::pin(queue.next());
    assert!(first.as_mut().now_or_never().is_none());
    let another = queue.clone();
    let second = tokio::spawn(async move { done(another.next().await) });
    tokio::task::yield_now().await;
    early.finish(Outcome::Retry);
    assert!(first.as_mut().now_or_never().is_none());
    drop(first);
    assert_eq!(timeout(seconds(6), second).await.expect("nobody looks in time").unwrap(), Some("early"));
}

/// Proves: case 42
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_workers_no_two_have_the_same_key_and_every_key_is_done() {
    const KEYS: u32 = 2_000;
    let queue = Queue::<u32>::new(Backoff { min: Duration::from_millis(1), ..Backoff::default() });
    let held = Arc::new(Mutex::new(BTreeMap::<u32, u32>::new()));
    let done = Arc::new(Mutex::new(BTreeMap::<u32, u32>::new()));
    let mut workers = JoinSet::new();
    for _ in 0..16 {
        let (queue, held, done) = (queue.clone(), Arc::clone(&held), Arc::clone(&done));
        workers.spawn(async move {
            while let Some(work) = queue.next().await {
                let key = *work.key();
                assert_eq!(held.lock().insert(key, work.attempt()), None, "{key} is held twice");
                tokio::task::yield_now().await;
                held.lock().remove(&key);
                if work.attempt() <= key % 3 {
                    work.finish(Outcome::Retry);
                } else {
                    *done.lock().entry(key).or_default() += 1;
                    work.finish(Outcome::Done);
                }
            }
        });
    }
    for round in 0..4 {
        for key in 0..KEYS {
            queue.push(key * (round + 1) % KEYS);
        }
        tokio::task::yield_now().await;
    }
    while queue.depth() != Depth::default() {
        sleep(Duration::from_millis(1)).await;
    }
    queue.close();
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
    assert_eq!(done.lock().len(), KEYS as usize);
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_keys_leaves_no_memory_behind() {
    let queue = Queue::<u32>::new(Backoff::default());
    for key in 0..20_000 {
        queue.push(key);
        now(&queue).unwrap().finish(Outcome::Retry);
        queue.push(key + 20_000);
    }
    assert_eq!(queue.depth(), depth(20_000, 20_000, 0));
    advance(seconds(100)).await;
    let mut count = 0;
    while let Some(work) = now(&queue) {
        work.finish(Outcome::Done);
        count += 1;
    }
    assert_eq!(count, 40_000);
    let state = queue.shared.state();
    assert!(state.entries.is_empty() && state.waiting.is_empty());
    assert!(state.entries.capacity() <= 2 * SPARE, "{}", state.entries.capacity());
    assert!(state.ready.capacity() <= 2 * SPARE, "{}", state.ready.capacity());
}

#[derive(Debug, Clone)]
enum Operation {
    Push(u8),
    Take,
    Finish(usize, Outcome),
    Drop(usize),
    Wait(u8),
}

fn operation() -> impl Strategy<Value = Operation> {
    let outcome = prop_oneof![
        Just(Outcome::Done),
        Just(Outcome::Retry),
        Just(Outcome::Slow),
        (0_u64..500).prop_map(|s| Outcome::RetryAfter(seconds(s)))
    ];
    prop_oneof![
        (0_u8..6).prop_map(Operation::Push),
        Just(Operation::Take),
        (0_usize..4, outcome).prop_map(|(index, outcome)| Operation::Finish(index, outcome)),
        (0_usize..4).prop_map(Operation::Drop),
        (0_u8..100).prop_map(Operation::Wait),
    ]
}

proptest! {
    /// Whatever happens in whatever order: a key is in one place at most, and whoever was pushed or failed comes again.
    #[test]
    fn no_key_is_lost_or_doubled(operations in prop::collection::vec(operation(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let queue = Queue::<u8>::new(Backoff::default());
            let mut held: Vec<Work<u8>> = Vec::new();
            // The keys that have to come again, as far as this test knows.
            let mut owed = BTreeSet::new();
            for operation in operations {
                match operation {
                    Operation::Push(key) => {
                        queue.push(key);
                        owed.insert(key);
                    }
                    Operation::Take => {
                        if let Some(work) = now(&queue) {
                            assert!(held.iter().all(|other| other.key() != work.key()), "held twice");
                            assert!(owed.remove(work.key()), "comes without reason");
                            held.push(work);
                        }
                    }
                    Operation::Finish(index, outcome) if index < held.len() => {
                        let work = held.swap_remove(index);
                        if outcome != Outcome::Done {
                            owed.insert(*work.key());
                        }
                        work.finish(outcome);
                    }
                    Operation::Drop(index) if index < held.len() => {
                        owed.insert(*held.swap_remove(index).key());
                    }
                    Operation::Finish(..) | Operation::Drop(_) => {}
                    Operation::Wait(time) => advance(seconds(time.into())).await,
                }
                let Depth { ready, waiting, in_flight } = queue.depth();
                assert_eq!(in_flight, held.len());
                let free = owed.iter().filter(|key| held.iter().all(|work| work.key() != *key)).count();
                assert_eq!(ready + waiting, free);
            }
            for work in held.drain(..) {
                work.finish(Outcome::Done);
            }
            while !owed.is_empty() {
                let (work, _) = later(&queue).await;
                assert!(owed.remove(work.key()), "comes without reason");
                work.finish(Outcome::Done);
            }
            assert_eq!(queue.depth(), Depth::default());
        });
    }
}
