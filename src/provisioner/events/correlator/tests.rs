//! The correlator as tables: what is new, what repeats, what is too much.

use super::*;

fn event(object: usize, kind: Type, note: &str) -> Event {
    let regarding = Regarding::claim("team", &format!("data-{object}"), &format!("uid-{object}"), None);
    Event { regarding, kind, reason: "Reason", note: note.to_owned() }
}

/// A correlator with its clocks.
struct Desk {
    correlator: EventCorrelator,
    now: Instant,
    wall: Timestamp,
}

impl Desk {
    fn new(limits: Limits) -> Self {
        Self {
            correlator: EventCorrelator::new(limits),
            now: Instant::now(),
            wall: Timestamp::from_second(1_000_000).unwrap(),
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.wall += time;
    }

    fn record(&mut self, event: Event) {
        self.correlator.record(event, self.now, self.wall);
    }

    /// Posts everything that is waiting.
    fn post(&mut self) -> Vec<Post> {
        let mut posts = Vec::new();
        while let Some(post) = self.correlator.take(self.now) {
            self.correlator.settle(&post, Posted::Done, self.now);
            posts.push(post);
        }
        posts
    }
}

fn desk() -> Desk {
    Desk::new(Limits::default())
}

fn notes(posts: &[Post]) -> Vec<&str> {
    posts.iter().map(|post| post.note.as_str()).collect()
}

#[test]
fn what_makes_two_events_the_same() {
    let first = || event(1, Type::Warning, "no space");
    let table = [
        ("the same again", first(), true),
        ("about another object", event(2, Type::Warning, "no space"), false),
        ("with another note", event(1, Type::Warning, "no permission"), false),
        ("of another type", event(1, Type::Normal, "no space"), false),
        ("for another reason", Event { reason: "Other", ..first() }, false),
    ];
    for (row, second, same) in table {
        let mut desk = desk();
        desk.record(first());
        desk.post();
        desk.record(second);
        let posts = desk.post();
        let verb = if same { Verb::Patch } else { Verb::Create };
        assert_eq!((posts.len(), posts[0].verb), (1, verb), "{row}");
    }
}

#[test]
fn a_repeat_tells_how_often_and_since_when() {
    let mut desk = desk();
    let begin = desk.wall;
    let mut name = String::new();
    for count in 1..=5 {
        desk.record(event(1, Type::Warning, "no space"));
        let posts = desk.post();
        assert_eq!((posts[0].count, posts[0].first, posts[0].last), (count, begin, desk.wall));
        if count == 1 {
            name.clone_from(&posts[0].name);
        }
        assert_eq!(posts[0].name, name);
        desk.wait(Duration::from_mins(5));
    }
}

#[test]
fn one_object_gets_twenty_five_requests_at_once_and_then_one_every_five_minutes() {
    let mut desk = desk();
    let mut posted = 0;
    for _ in 0..100 {
        desk.record(event(1, Type::Warning, "no space"));
        posted += desk.post().len();
    }
    assert_eq!(posted, 25);
    assert_eq!(desk.correlator.counts().suppressed, 75);
    desk.record(event(2, Type::Warning, "no space"));
    assert_eq!(desk.post().len(), 1, "another object has its own");
    desk.wait(Duration::from_secs(299));
    desk.record(event(1, Type::Warning, "no space"));
    assert!(desk.post().is_empty());
    desk.wait(Duration::from_secs(2));
    desk.record(event(1, Type::Warning, "no space"));
    let posts = desk.post();
    assert_eq!(posts[0].count, 102, "what was left out is told with the next one");
}

#[test]
fn more_than_ten_different_notes_for_one_reason_are_reported_as_one() {
    let mut desk = desk();
    for number in 0..14 {
        desk.record(event(1, Type::Warning, &format!("try {number}")));
        desk.wait(Duration::from_secs(1));
    }
    let posts = desk.post();
    assert_eq!(posts.len(), 11);
    assert_eq!(posts[9].note, "try 9");
    assert_eq!(posts[10].note, "(combined from similar events): try 13");
    assert_eq!(posts[10].count, 4);
    desk.record(event(1, Type::Warning, "try 3"));
    assert_eq!(notes(&desk.post()), ["try 3"], "a note that was told apart still is");
    desk.wait(Duration::from_mins(10));
    desk.record(event(1, Type::Warning, "try 99"));
    assert_eq!(notes(&desk.post()), ["try 99"], "after ten minutes they are told apart again");
}

#[test]
fn notes_are_cut_at_1024_bytes_between_characters() {
    let table = [
        ("a short note stays", "x".repeat(1024), 1024),
        ("a long one is cut", "x".repeat(5000), 1024),
        ("a character of two bytes is not cut in half", format!("x{}", "é".repeat(1000)), 1023),
        ("a character of four bytes is not cut in half", format!("xyz{}", "😀".repeat(1000)), 1023),
    ];
    for (row, note, bytes) in table {
        let mut desk = desk();
        desk.record(event(1, Type::Warning, &note));
        let posts = desk.post();
        assert_eq!(posts[0].note.len(), bytes, "{row}");
        assert!(note.starts_with(&posts[0].note), "{row}");
        for other in 0..20 {
            desk.record(event(1, Type::Warning, &format!("{other}{note}")));
        }
        assert!(desk.post().iter().all(|post| post.note.len() <= 1024), "{row}: combined");
    }
}

#[test]
fn names_differ_though_the_clock_stands_still() {
    let mut desk = desk();
    for note in ["a", "b", "c"] {
        desk.record(event(1, Type::Warning, note));
    }
    let posts = desk.post();
    let names: std::collections::BTreeSet<&str> = posts.iter().map(|post| post.name.as_str()).collect();
    assert_eq!(names.len(), 3);
}

/// A sentence, which objects events were published about, and which of them are posted.
type Overflow = (&'static str, &'static [(usize, Type)], &'static [usize]);

#[test]
fn when_too_many_wait_the_oldest_of_the_least_urgent_go_first() {
    let limits = Limits { pending: 4, known: 100 };
    let table: [Overflow; 4] = [
        (
            "the oldest information makes room for the newest",
            &[(1, Type::Normal), (2, Type::Normal), (3, Type::Normal), (4, Type::Normal), (5, Type::Normal)],
            &[2, 3, 4, 5],
        ),
        (
            "information makes room for a warning",
            &[
                (1, Type::Warning),
                (2, Type::Warning),
                (3, Type::Normal),
                (4, Type::Normal),
                (5, Type::Warning),
            ],
            &[1, 2, 5, 4],
        ),
        (
            "a warning makes room for a warning only",
            &[
                (1, Type::Warning),
                (2, Type::Warning),
                (3, Type::Warning),
                (4, Type::Warning),
                (5, Type::Warning),
            ],
            &[2, 3, 4, 5],
        ),
        (
            "and never for information",
            &[
                (1, Type::Warning),
                (2, Type::Warning),
                (3, Type::Warning),
                (4, Type::Warning),
                (5, Type::Normal),
            ],
            &[1, 2, 3, 4],
        ),
    ];
    for (row, published, posted) in table {
        let mut desk = Desk::new(limits);
        for (object, kind) in published {
            desk.record(event(*object, *kind, "note"));
        }
        assert_eq!(desk.correlator.counts(), Counts { pending: 4, dropped: 1, ..Counts::default() }, "{row}");
        let names: Vec<String> = desk.post().iter().map(|post| post.regarding.name.clone()).collect();
        let expected: Vec<String> = posted.iter().map(|object| format!("data-{object}")).collect();
        assert_eq!(names, expected, "{row}");
    }
}

#[test]
fn warnings_are_posted_before_the_rest() {
    let mut desk = desk();
    desk.record(event(1, Type::Normal, "done"));
    desk.record(event(2, Type::Warning, "failed"));
    assert_eq!(notes(&desk.post()), ["failed", "done"]);
}

#[test]
fn an_event_that_was_dropped_is_new_when_it_happens_again() {
    let mut desk = desk();
    desk.record(event(1, Type::Warning, "no space"));
    let post = desk.correlator.take(desk.now).unwrap();
    desk.correlator.settle(&post, Posted::Dropped, desk.now);
    desk.record(event(1, Type::Warning, "no space"));
    assert_eq!(desk.post()[0].verb, Verb::Create);
}

#[test]
fn a_refusal_holds_for_its_namespace_and_after_three_for_all() {
    let mut desk = desk();
    let elsewhere = |namespace: &str, number: usize| {
        let uid = format!("{namespace}-{number}");
        Event { regarding: Regarding::claim(namespace, &uid, &uid, None), ..event(0, Type::Warning, "note") }
    };
    let mut firsts = Vec::new();
    for namespace in ["a", "b", "c"] {
        desk.record(elsewhere(namespace, 1));
        let post = desk.correlator.take(desk.now).unwrap();
        firsts.push(desk.correlator.settle(&post, Posted::Refused, desk.now));
        desk.record(elsewhere(namespace, 2));
        assert!(desk.correlator.take(desk.now).is_none(), "{namespace} is tried again");
    }
    assert_eq!(firsts, [true, false, false], "the log says it once");
    desk.record(elsewhere("d", 1));
    assert!(desk.correlator.take(desk.now).is_none());
    assert_eq!(desk.correlator.counts().dropped, 7);
    desk.wait(Duration::from_secs(61));
    desk.record(elsewhere("a", 3));
    assert_eq!(desk.post().len(), 1);
}

#[test]
fn many_claims_leave_bounded_traces() {
    let limits = Limits { pending: 500, known: 1000 };
    let mut desk = Desk::new(limits);
    for object in 0..10_000 {
        desk.record(event(object, Type::Normal, "made"));
        if object % 100 == 0 {
            desk.post();
        }
    }
    let book = &desk.correlator;
    assert!(book.pending.len() <= 500);
    for (what, values, order) in [
        ("known", book.known.values.len(), book.known.order.len()),
        ("notes", book.notes.values.len(), book.notes.order.len()),
        ("buckets", book.buckets.values.len(), book.buckets.order.len()),
    ] {
        assert!(values <= 1000 && order == values, "{what}: {values} values, {order} in order");
    }
}

#[test]
fn what_was_used_last_is_forgotten_last() {
    let mut recent = Recent::new(2);
    recent.insert("a", 1);
    recent.insert("b", 2);
    assert_eq!(recent.get(&"a"), Some(&mut 1));
    recent.insert("c", 3);
    assert_eq!(recent.get(&"a"), Some(&mut 1));
    assert_eq!(recent.get(&"b"), None);
    recent.insert("a", 4);
    assert_eq!(recent.get(&"a"), Some(&mut 4));
    assert_eq!((recent.values.len(), recent.order.len()), (2, 2));
}
