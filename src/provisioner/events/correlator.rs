//! Which events are posted, merged, left out or dropped: an [`EventCorrelator`] of what happened lately. Pure; time comes in.
//!
//! The limits are those of the Go client library: so many different notes for one reason, so many requests for one object.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{BuildHasher, Hash, RandomState},
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::Instant;

use super::event::{Counts, Event, Regarding, Type};
use crate::provisioner::limits::NOTE_BYTES;

/// What happens again within this time is the same event.
const WINDOW: Duration = Duration::from_mins(10);
/// So many different notes of one object and reason are told apart within the window.
const NOTES: usize = 10;
/// So many requests for one object at once.
const BURST: f64 = 25.0;
/// Then one more each.
const REFILL: Duration = Duration::from_mins(5);
/// After a refusal nothing is tried for so long.
const REFUSED: Duration = Duration::from_mins(1);
/// Refused in so many namespaces at a time, it is refused everywhere.
const REFUSED_EVERYWHERE: usize = 3;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Events that wait to be posted.
    pub(super) pending: usize,
    /// Objects and events that repeats are recognised by.
    pub(super) known: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { pending: 10_000, known: 4096 }
    }
}

/// What makes two events the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    uid: Box<str>,
    kind: Type,
    reason: &'static str,
    /// Hash of the note; `None` for the one event that stands for many notes.
    note: Option<u64>,
}

/// A request to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Post {
    pub(super) key: Key,
    pub(super) verb: Verb,
    /// The namespace of the event.
    pub(super) namespace: String,
    /// The name of the event.
    pub(super) name: String,
    pub(super) regarding: Regarding,
    pub(super) kind: Type,
    pub(super) reason: &'static str,
    pub(super) note: String,
    pub(super) count: i32,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
}

/// Whether the event is new to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Verb {
    Create,
    Patch,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Posted {
    /// The server has it.
    Done,
    /// The event to be patched is no more.
    Gone,
    /// It will not be posted.
    Dropped,
    /// It was refused, and the next ones would be.
    Refused,
}

/// An event that the server has, or had.
#[derive(Debug)]
struct Known {
    name: String,
    count: i32,
    first: Timestamp,
    /// When it last happened.
    seen: Instant,
}

/// An event on its way.
#[derive(Debug)]
struct Pending {
    event: Event,
    verb: Verb,
    name: String,
    count: i32,
    first: Timestamp,
    last: Timestamp,
    seen: Instant,
    /// Being posted; and whether it happened again since.
    in_flight: bool,
    again: bool,
}

/// The tokens of one object.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn take(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.filled).div_duration_f64(REFILL);
        self.tokens = (self.tokens + gained).min(BURST);
        self.filled = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

/// One object, and one kind of thing that happens to it.
type Subject = (Box<str>, Type, &'static str);
/// The notes that are told apart, by their hashes, and when each was last published.
type Notes = Vec<(u64, Instant)>;

/// What happened lately, and what of it has still to be posted.
pub(super) struct EventCorrelator {
    limits: Limits,
    hasher: RandomState,
    pending: HashMap<Key, Pending>,
    warnings: VecDeque<Key>,
    normals: VecDeque<Key>,
    in_flight: usize,
    known: Recent<Key, Known>,
    notes: Recent<Subject, Notes>,
    buckets: Recent<Box<str>, Bucket>,
    refused: HashMap<(Verb, String), Instant>,
    counts: Counts,
    /// The number in the last name that was given out.
    last_name: i128,
}

impl EventCorrelator {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            hasher: RandomState::new(),
            pending: HashMap::new(),
            warnings: VecDeque::new(),
            normals: VecDeque::new(),
            in_flight: 0,
            known: Recent::new(limits.known),
            notes: Recent::new(limits.known),
            buckets: Recent::new(limits.known),
            refused: HashMap::new(),
            counts: Counts::default(),
            last_name: 0,
        }
    }

    pub(super) fn counts(&self) -> Counts {
        Counts { pending: self.pending.len(), ..self.counts }
    }

    /// How many wait for a request.
    pub(super) fn waiting(&self) -> usize {
        self.pending.len() - self.in_flight
    }

    /// Writes down what happened.
    pub(super) fn record(&mut self, mut event: Event, now: Instant, wall: Timestamp) {
        let key = self.key(&mut event, now);
        if let Some(pending) = self.pending.get_mut(&key) {
            // On its way already: the request that comes tells of both.
            pending.count = pending.count.saturating_add(1);
            (pending.last, pending.seen) = (wall, now);
            pending.event.note = event.note;
            pending.again = pending.in_flight;
            return;
        }
        let full = || Bucket { tokens: BURST, filled: now };
        let allowed = self.buckets.update(&key.uid, full, |bucket| bucket.take(now));
        let known = self.known.get(&key).filter(|known| now.saturating_duration_since(known.seen) < WINDOW);
        if !allowed {
            // The next request that is allowed tells of this one too.
            if let Some(known) = known {
                known.count = known.count.saturating_add(1);
                known.seen = now;
            }
            self.counts.suppressed += 1;
            return;
        }
        let (verb, name, count, first) = match known {
            Some(known) => (Verb::Patch, known.name.clone(), known.count.saturating_add(1), known.first),
            None => (Verb::Create, self.name(&event.regarding.name, wall), 1, wall),
        };
        if !self.make_room(event.kind) {
            self.counts.dropped += 1;
            return;
        }
        self.queue(event.kind).push_back(key.clone());
        let pending = Pending {
            event,
            verb,
            name,
            count,
            first,
            last: wall,
            seen: now,
            in_flight: false,
            again: false,
        };
        self.pending.insert(key, pending);
    }

    /// The next request, if any.
    pub(super) fn take(&mut self, now: Instant) -> Option<Post> {
        loop {
            let key = self.warnings.pop_front().or_else(|| self.normals.pop_front())?;
            let Some(pending) = self.pending.get_mut(&key) else { continue };
            let event = &pending.event;
            let namespace = event.regarding.namespace.clone().unwrap_or_else(|| "default".to_owned());
            if is_refused(&mut self.refused, pending.verb, &namespace, now) {
                self.forget(&key);
                self.counts.dropped += 1;
                continue;
            }
            (pending.in_flight, pending.again) = (true, false);
            self.in_flight += 1;
            return Some(Post {
                verb: pending.verb,
                namespace,
                name: pending.name.clone(),
                regarding: event.regarding.clone(),
                kind: event.kind,
                reason: event.reason,
                note: event.note.clone(),
                count: pending.count,
                first: pending.first,
                last: pending.last,
                key,
            });
        }
    }

    /// Notes how a request ended. Returns whether it was refused for the first time in a while.
    pub(super) fn settle(&mut self, post: &Post, posted: Posted, now: Instant) -> bool {
        self.in_flight = self.in_flight.saturating_sub(1);
        let Some(pending) = self.pending.get_mut(&post.key) else { return false };
        pending.in_flight = false;
        match posted {
            Posted::Done => {
                match post.verb {
                    Verb::Create => self.counts.created += 1,
                    Verb::Patch => self.counts.repeated += 1,
                }
                pending.verb = Verb::Patch;
                if pending.again {
                    let kind = pending.event.kind;
                    self.queue(kind).push_back(post.key.clone());
                } else {
                    self.forget(&post.key);
                }
                false
            }
            Posted::Gone => {
                pending.verb = Verb::Create;
                let kind = pending.event.kind;
                self.queue(kind).push_back(post.key.clone());
                false
            }
            Posted::Dropped => {
                self.counts.dropped += 1;
                self.forget(&post.key);
                false
            }
            Posted::Refused => {
                self.counts.dropped += 1;
                self.forget(&post.key);
                self.refused.retain(|_, until| now < *until);
                let first = !self.refused.keys().any(|(verb, _)| *verb == post.verb);
                self.refused.insert((post.verb, post.namespace.clone()), now + REFUSED);
                first
            }
        }
    }

    /// Moves an event from those on their way to those that repeats are recognised by; one that the server never got is
    /// forgotten.
    fn forget(&mut self, key: &Key) {
        let Some(Pending { verb, name, count, first, seen, .. }) = self.pending.remove(key) else { return };
        match verb {
            Verb::Create => {}
            Verb::Patch => self.known.insert(key.clone(), Known { name, count, first, seen }),
        }
    }

    /// What identifies the event. Its note is cut, and marked where it stands for many.
    fn key(&mut self, event: &mut Event, now: Instant) -> Key {
        cut(&mut event.note, NOTE_BYTES);
        let (uid, kind, reason) = (Box::<str>::from(event.regarding.uid.as_str()), event.kind, event.reason);
        let note = self.hasher.hash_one(&event.note);
        let told_apart = self.notes.update(&(uid.clone(), kind, reason), Vec::new, |notes| {
            notes.retain(|(_, seen)| now.saturating_duration_since(*seen) < WINDOW);
            if let Some((_, seen)) = notes.iter_mut().find(|(known, _)| *known == note) {
                *seen = now;
                return true;
            }
            let room = notes.len() < NOTES;
            if room {
                notes.push((note, now));
            }
            room
        });
        if told_apart {
            return Key { uid, kind, reason, note: Some(note) };
        }
        event.note.insert_str(0, "(combined from similar events): ");
        cut(&mut event.note, NOTE_BYTES);
        Key { uid, kind, reason, note: None }
    }

    /// `<object>.<hex>`, different each time.
    fn name(&mut self, object: &str, wall: Timestamp) -> String {
        self.last_name = wall.as_nanosecond().max(self.last_name + 1);
        let number = format!(".{:x}", self.last_name);
        let mut name = object.to_owned();
        cut(&mut name, 253 - number.len());
        name.truncate(name.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()).len());
        name + &number
    }

    fn queue(&mut self, kind: Type) -> &mut VecDeque<Key> {
        match kind {
            Type::Warning => &mut self.warnings,
            Type::Normal => &mut self.normals,
        }
    }

    /// Makes room for one more of this kind: the oldest of the least urgent goes.
    fn make_room(&mut self, kind: Type) -> bool {
        if self.pending.len() < self.limits.pending {
            return true;
        }
        let oldest = match kind {
            Type::Normal => self.normals.pop_front(),
            Type::Warning => self.normals.pop_front().or_else(|| self.warnings.pop_front()),
        };
        let Some(oldest) = oldest else { return false };
        self.forget(&oldest);
        self.counts.dropped += 1;
        true
    }
}

fn is_refused(
    refused: &mut HashMap<(Verb, String), Instant>,
    verb: Verb,
    namespace: &str,
    now: Instant,
) -> bool {
    if refused.is_empty() {
        return false;
    }
    refused.retain(|_, until| now < *until);
    refused.keys().any(|(other, place)| *other == verb && place == namespace)
        || refused.keys().filter(|(other, _)| *other == verb).count() >= REFUSED_EVERYWHERE
}

/// Cuts `text` to at most `bytes`, not within a character, and gives back the memory of the rest.
fn cut(text: &mut String, bytes: usize) {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
        text.shrink_to_fit();
    }
}

/// A map that forgets what was not asked for longest.
struct Recent<K, V> {
    bound: usize,
    clock: u64,
    values: HashMap<K, (u64, V)>,
    order: BTreeMap<u64, K>,
}

impl<K: Clone + Hash + Eq, V> Recent<K, V> {
    fn new(bound: usize) -> Self {
        Self { bound, clock: 0, values: HashMap::new(), order: BTreeMap::new() }
    }

    fn get(&mut self, key: &K) -> Option<&mut V> {
        let (used, value) = self.values.get_mut(key)?;
        self.clock += 1;
        if let Some(key) = self.order.remove(used) {
            self.order.insert(self.clock, key);
        }
        *used = self.clock;
        Some(value)
    }

    fn insert(&mut self, key: K, value: V) {
        self.clock += 1;
        self.order.insert(self.clock, key.clone());
        if let Some((used, _)) = self.values.insert(key, (self.clock, value)) {
            self.order.remove(&used);
        }
        if self.values.len() > self.bound
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.values.remove(&oldest);
        }
    }

    /// The value of `key`, which is made if it is not there, changed by `change`.
    fn update<T>(&mut self, key: &K, make: impl FnOnce() -> V, change: impl FnOnce(&mut V) -> T) -> T {
        if let Some(value) = self.get(key) {
            return change(value);
        }
        let mut value = make();
        let result = change(&mut value);
        self.insert(key.clone(), value);
        result
    }
}

#[cfg(test)]
mod tests;
