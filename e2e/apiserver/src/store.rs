//! The store: one table per kind, a global resource version, and the recent history of each table.
//!
//! Entry points: [`Store::get`], [`Store::snapshot`] (constant time: later writes do not show in it),
//! [`Store::commit`], [`Store::changes_since`]. Objects are held serialized, so that hundreds of thousands fit and a
//! change is serialized once for all its watchers. A table is locked only for the write of one object or the copy of
//! a few pointers, never while something is serialized for a client. Deliberately not here: what a valid write is
//! (see `registry`).

use std::{
    collections::VecDeque,
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rpds::RedBlackTreeMapSync;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    object::{self, Object},
    resource::Kind,
};

/// The objects of one table at one moment.
pub(crate) type Objects = RedBlackTreeMapSync<Arc<str>, Arc<Object>>;

/// How many list snapshots a table keeps for continue tokens.
const SNAPSHOTS: usize = 32;

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Added,
    Modified,
    Deleted,
}

/// One entry of the history. `object` of a deletion is the last state with the version of the deletion.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) rv: u64,
    pub(crate) verb: Verb,
    pub(crate) object: Arc<Object>,
    pub(crate) before: Option<Arc<Object>>,
}

/// A consistent view of a table.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) rv: u64,
    pub(crate) objects: Objects,
}

impl Snapshot {
    /// The objects of a namespace (all of them for `""`), in order, from behind the key `after`.
    pub(crate) fn range<'a>(
        &'a self,
        namespace: &str,
        after: Option<&str>,
    ) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        let (mut from, to) = if namespace.is_empty() {
            (Bound::Unbounded, Bound::Unbounded)
        } else {
            // `0` is the character after `/`.
            (Bound::Included(format!("{namespace}/")), Bound::Excluded(format!("{namespace}0")))
        };
        if let Some(after) = after {
            from = Bound::Excluded(after.to_owned());
        }
        let bounds = (as_key(from), as_key(to));
        self.objects.range(bounds).map(|(_, object)| object)
    }
}

fn as_key(bound: Bound<String>) -> Bound<Arc<str>> {
    match bound {
        Bound::Included(key) => Bound::Included(key.into()),
        Bound::Excluded(key) => Bound::Excluded(key.into()),
        Bound::Unbounded => Bound::Unbounded,
    }
}

/// The history that was asked for is gone; what is left begins after `oldest`.
#[derive(Debug, PartialEq)]
pub(crate) struct Expired {
    pub(crate) oldest: u64,
}

/// Why a commit was refused.
#[derive(Debug, PartialEq)]
pub(crate) enum Refusal {
    /// There is an object of that name already.
    Exists,
    /// The object is not, or no longer, the one that the write was based on.
    Changed,
}

struct Table {
    inner: Mutex<Inner>,
    /// The version of the last write, for those who wait.
    written: watch::Sender<u64>,
}

struct Inner {
    objects: Objects,
    history: VecDeque<Change>,
    /// Changes up to this version are no longer in the history.
    oldest: u64,
    snapshots: VecDeque<Snapshot>,
    stale: Option<Snapshot>,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in a writer cannot leave a table half written: each write ends with one insert.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All tables.
pub(crate) struct Store {
    rv: AtomicU64,
    tables: Vec<Table>,
    history: usize,
}

impl Store {
    /// An empty store that remembers this many changes of each table.
    pub(crate) fn new(history: usize) -> Self {
        let tables = Kind::ALL
            .iter()
            .map(|_| Table {
                inner: Mutex::new(Inner {
                    objects: Objects::new_sync(),
                    history: VecDeque::new(),
                    oldest: 0,
                    snapshots: VecDeque::new(),
                    stale: None,
                }),
                written: watch::Sender::new(0),
            })
            .collect();
        Self { rv: AtomicU64::new(1), tables, history: history.max(1) }
    }

    fn table(&self, kind: Kind) -> &Table {
        self.tables.get(kind as usize).unwrap_or_else(|| unreachable!("there is a table for each kind"))
    }

    /// The newest version of anything.
    pub(crate) fn version(&self) -> u64 {
        self.rv.load(Ordering::SeqCst)
    }

    pub(crate) fn get(&self, kind: Kind, key: &str) -> Option<Arc<Object>> {
        self.table(kind).lock().objects.get(key).cloned()
    }

    pub(crate) fn len(&self, kind: Kind) -> usize {
        self.table(kind).lock().objects.size()
    }

    /// The table now.
    pub(crate) fn snapshot(&self, kind: Kind) -> Snapshot {
        let inner = self.table(kind).lock();
        Snapshot { rv: self.version(), objects: inner.objects.clone() }
    }

    /// The table now, kept for continue tokens.
    pub(crate) fn keep_snapshot(&self, kind: Kind, snapshot: &Snapshot) {
        let mut inner = self.table(kind).lock();
        if inner.snapshots.iter().any(|s| s.rv == snapshot.rv) || snapshot.rv < inner.oldest {
            return;
        }
        if inner.snapshots.len() >= SNAPSHOTS {
            inner.snapshots.pop_front();
        }
        inner.snapshots.push_back(snapshot.clone());
    }

    /// The table as it was at a version: kept, or worked out by taking back the changes since.
    pub(crate) fn snapshot_at(&self, kind: Kind, rv: u64) -> Result<Snapshot, Expired> {
        let (mut objects, changes) = {
            let inner = self.table(kind).lock();
            if let Some(kept) = inner.snapshots.iter().find(|s| s.rv == rv) {
                return Ok(kept.clone());
            }
            if rv < inner.oldest {
                return Err(Expired { oldest: inner.oldest });
            }
            let from = inner.history.partition_point(|change| change.rv <= rv);
            (inner.objects.clone(), inner.history.range(from..).cloned().collect::<Vec<_>>())
        };
        for change in changes.into_iter().rev() {
            match change.before {
                Some(before) => objects.insert_mut(Arc::clone(&before.key), before),
                None => {
                    objects.remove_mut(&change.object.key);
                }
            }
        }
        Ok(Snapshot { rv, objects })
    }

    /// The older state that lists with `resourceVersion=0` are answered from, if one was frozen.
    pub(crate) fn stale(&self, kind: Kind) -> Option<Snapshot> {
        self.table(kind).lock().stale.clone()
    }

    /// From now on (or no longer) lists with `resourceVersion=0` show the state of this moment.
    pub(crate) fn freeze(&self, frozen: bool) {
        for table in &self.tables {
            let mut inner = table.lock();
            inner.stale = frozen.then(|| Snapshot { rv: self.version(), objects: inner.objects.clone() });
        }
    }

    /// Writes one object: `expected` is what the write was based on (`None`: there must be none).
    ///
    /// `value` (without type) gets its resource version here; `None` removes the object.
    pub(crate) fn commit(
        &self,
        kind: Kind,
        key: &str,
        expected: Option<&Arc<Object>>,
        value: Option<&mut Value>,
    ) -> Result<Arc<Object>, Refusal> {
        let table = self.table(kind);
        let mut inner = table.lock();
        let current = inner.objects.get(key).cloned();
        let (shared_key, before) = match (current, expected) {
            (None, None) => (Arc::from(key), None),
            (Some(_), None) => return Err(Refusal::Exists),
            (Some(current), Some(expected)) if Arc::ptr_eq(&current, expected) => {
                (Arc::clone(&current.key), Some(current))
            }
            (_, Some(_)) => return Err(Refusal::Changed),
        };
        let rv = self.rv.fetch_add(1, Ordering::SeqCst) + 1;
        let change = if let Some(value) = value {
            object::metadata(value).insert("resourceVersion".into(), json!(rv.to_string()));
            let object = Arc::new(Object::new(Arc::clone(&shared_key), rv, value));
            inner.objects.insert_mut(shared_key, Arc::clone(&object));
            let verb = if before.is_some() { Verb::Modified } else { Verb::Added };
            Change { rv, verb, object, before }
        } else {
            let Some(before) = before else { return Err(Refusal::Changed) };
            let mut last = before.parse();
            object::metadata(&mut last).insert("resourceVersion".into(), json!(rv.to_string()));
            inner.objects.remove_mut(key);
            let object = Arc::new(Object::new(shared_key, rv, &last));
            Change { rv, verb: Verb::Deleted, object, before: Some(before) }
        };
        let object = Arc::clone(&change.object);
        inner.remember(change, self.history);
        drop(inner);
        table.written.send_replace(rv);
        Ok(object)
    }

    /// Changes after a version, at most `limit` of them, and a version up to which there are no others.
    pub(crate) fn changes_since(
        &self,
        kind: Kind,
        rv: u64,
        limit: usize,
    ) -> Result<(Vec<Change>, u64), Expired> {
        let inner = self.table(kind).lock();
        if rv < inner.oldest {
            return Err(Expired { oldest: inner.oldest });
        }
        let from = inner.history.partition_point(|change| change.rv <= rv);
        let changes: Vec<Change> = inner.history.range(from..).take(limit).cloned().collect();
        let upto = if from + changes.len() == inner.history.len() {
            self.version()
        } else {
            changes.last().map_or(rv, |last| last.rv)
        };
        Ok((changes, upto))
    }

    /// Tells of writes to a table.
    pub(crate) fn written(&self, kind: Kind) -> watch::Receiver<u64> {
        self.table(kind).written.subscribe()
    }

    /// The version of the last write to a table.
    pub(crate) fn last_write(&self, kind: Kind) -> u64 {
        *self.table(kind).written.borrow()
    }

    /// Forgets all history, as a compaction does; returns the version that is the oldest known one from now on.
    pub(crate) fn compact(&self) -> u64 {
        // Something unrelated was written: so every version that a client has seen is too old.
        let rv = self.rv.fetch_add(1, Ordering::SeqCst) + 1;
        for table in &self.tables {
            let mut inner = table.lock();
            inner.history.clear();
            inner.snapshots.clear();
            inner.oldest = inner.oldest.max(rv);
        }
        rv
    }

    /// Waits until the store has reached a version; `false` after the time is up.
    pub(crate) async fn reached(&self, kind: Kind, rv: u64, patience: std::time::Duration) -> bool {
        let mut written = self.written(kind);
        let wait = async {
            while self.version() < rv {
                if written.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(patience, wait).await;
        self.version() >= rv
    }
}

impl Inner {
    fn remember(&mut self, change: Change, limit: usize) {
        while self.history.len() >= limit {
            if let Some(gone) = self.history.pop_front() {
                self.oldest = gone.rv;
            }
        }
        self.history.push_back(change);
        while self.snapshots.front().is_some_and(|s| s.rv < self.oldest) {
            self.snapshots.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(store: &Store, key: &str, text: &str) -> Arc<Object> {
        let current = store.get(Kind::ConfigMap, key);
        let mut value = json!({"data": {"text": text}});
        store.commit(Kind::ConfigMap, key, current.as_ref(), Some(&mut value)).unwrap()
    }

    fn keys(snapshot: &Snapshot, namespace: &str, after: Option<&str>) -> Vec<String> {
        snapshot.range(namespace, after).map(|o| o.key.to_string()).collect()
    }

    #[test]
    fn a_namespace_is_a_range_and_does_not_take_in_its_neighbours() {
        let store = Store::new(10);
        for key in ["a/x", "a/y", "a-b/x", "a0/x", "b/x"] {
            put(&store, key, "");
        }
        let snapshot = store.snapshot(Kind::ConfigMap);
        assert_eq!(keys(&snapshot, "a", None), ["a/x", "a/y"]);
        assert_eq!(keys(&snapshot, "a", Some("a/x")), ["a/y"]);
        assert_eq!(keys(&snapshot, "", None).len(), 5);
    }

    #[test]
    fn a_snapshot_does_not_show_later_writes_and_an_older_state_can_be_worked_out() {
        let store = Store::new(10);
        put(&store, "a/x", "1");
        let early = store.snapshot(Kind::ConfigMap);
        put(&store, "a/y", "1");
        let x = put(&store, "a/x", "2");
        store.commit(Kind::ConfigMap, "a/x", Some(&x), None).unwrap();
        assert_eq!(keys(&early, "", None), ["a/x"]);
        assert_eq!(keys(&store.snapshot(Kind::ConfigMap), "", None), ["a/y"]);
        let again = store.snapshot_at(Kind::ConfigMap, early.rv).unwrap();
        assert_eq!(keys(&again, "", None), ["a/x"]);
        assert!(again.objects.get("a/x").unwrap().json.contains("\"1\""));
    }

    #[test]
    fn history_that_is_gone_is_an_error_and_not_a_gap() {
        let store = Store::new(3);
        let first = put(&store, "a/x", "1").rv;
        for i in 0..3 {
            put(&store, "a/x", &i.to_string());
        }
        assert_eq!(store.changes_since(Kind::ConfigMap, first, 10).unwrap().0.len(), 3);
        put(&store, "a/x", "more");
        assert!(store.changes_since(Kind::ConfigMap, first, 10).is_err());
        let now = store.version();
        store.compact();
        assert!(store.changes_since(Kind::ConfigMap, now, 10).is_err());
        assert!(store.changes_since(Kind::ConfigMap, store.version(), 10).unwrap().0.is_empty());
    }

    #[test]
    fn a_write_based_on_an_older_state_is_refused() {
        let store = Store::new(3);
        let old = put(&store, "a/x", "1");
        put(&store, "a/x", "2");
        let refused = store.commit(Kind::ConfigMap, "a/x", Some(&old), Some(&mut json!({})));
        assert_eq!(refused.unwrap_err(), Refusal::Changed);
        assert_eq!(
            store.commit(Kind::ConfigMap, "a/x", None, Some(&mut json!({}))).unwrap_err(),
            Refusal::Exists
        );
    }
}
