//! The large images that are being purged, and how far each is: [`Large`].

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::names::PoolNamespace;

/// How many objects an image may have that is purged in one go: some minutes' work for a small cluster.
pub(super) const SMALL: u64 = 1 << 16;
/// How many objects the first slice has.
const FIRST: u64 = 1 << 13;
/// How many a slice has at least.
const LEAST: u64 = 1 << 8;
/// How many a slice has at most.
const MOST: u64 = 1 << 22;

/// The large images of one cluster that are being purged, by where they are and their ids.
#[derive(Debug, Default)]
pub(super) struct Large {
    images: Mutex<BTreeMap<(PoolNamespace, String), Progress>>,
    pub(super) wake: Notify,
}

/// How far the purge of one image is.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    /// What the image is called in the trash.
    pub(super) name: String,
    began: Instant,
    /// Its size when it was seen first, and now.
    pub(super) size: Option<(u64, u64)>,
    /// How many objects the next slice has.
    pub(super) slice: u64,
    pub(super) pause: Option<Pause>,
}

#[derive(Debug, Clone)]
pub(super) struct Pause {
    pub(super) until: Instant,
    pub(super) length: Duration,
    pub(super) why: String,
}

impl Large {
    /// Adds an image that is to be purged, called so in the trash.
    pub(super) fn add(&self, pool_namespace: &PoolNamespace, id: &str, name: &str) {
        let progress = || Progress {
            name: name.to_owned(),
            began: Instant::now(),
            size: None,
            slice: FIRST,
            pause: None,
        };
        self.images.lock().entry((pool_namespace.clone(), id.to_owned())).or_insert_with(progress);
        self.wake.notify_one();
    }

    pub(super) fn has(&self, pool_namespace: &PoolNamespace, id: &str) -> bool {
        self.images.lock().contains_key(&(pool_namespace.clone(), id.to_owned()))
    }

    pub(super) fn waiting(&self) -> usize {
        self.images.lock().len()
    }

    /// What takes longer than that, and how far it is.
    pub(super) fn overdue(&self, patience: Duration) -> Vec<(String, String)> {
        let images = self.images.lock();
        let told = images.iter().filter_map(|((pool_namespace, id), progress)| {
            let spec = pool_namespace.spec(id);
            if let Some(pause) = &progress.pause {
                return Some((spec, pause.why.clone()));
            }
            let gib = |bytes: u64| bytes >> 30;
            let far = progress.size.map_or_else(String::new, |(size, left)| {
                format!(": {} of {} GiB are left", gib(left), gib(size))
            });
            (progress.began.elapsed() >= patience)
                .then(|| (spec, format!("it is large and is purged in slices{far}")))
        });
        told.collect()
    }

    /// Those whose turn it is.
    pub(super) fn due(&self) -> Vec<(PoolNamespace, String, Progress)> {
        let now = Instant::now();
        let images = self.images.lock();
        let due = images
            .iter()
            .filter(|(_, progress)| progress.pause.as_ref().is_none_or(|pause| pause.until <= now));
        due.map(|((pool_namespace, id), progress)| (pool_namespace.clone(), id.clone(), progress.clone()))
            .collect()
    }

    pub(super) fn change(
        &self,
        pool_namespace: &PoolNamespace,
        id: &str,
        change: impl FnOnce(&mut Progress),
    ) {
        if let Some(progress) = self.images.lock().get_mut(&(pool_namespace.clone(), id.to_owned())) {
            change(progress);
        }
    }

    pub(super) fn remove(&self, pool_namespace: &PoolNamespace, id: &str) {
        self.images.lock().remove(&(pool_namespace.clone(), id.to_owned()));
    }
}

impl Progress {
    /// Notes that a slice took so long, where it should take `wanted`.
    pub(super) fn took(&mut self, left: u64, time: Duration, wanted: Duration) {
        let size = self.size.map_or(left, |(size, _)| size);
        self.size = Some((size, left));
        if time < wanted / 3 {
            self.slice = (self.slice * 2).min(MOST);
        } else if time > wanted {
            self.slice = (self.slice / 2).max(LEAST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool_namespace() -> PoolNamespace {
        PoolNamespace { pool: "rbd".into(), namespace: None }
    }

    #[test]
    fn slices_grow_while_they_are_quick_and_shrink_while_they_are_slow() {
        let second = Duration::from_secs(1);
        let mut progress = Progress {
            name: "berth-u".into(),
            began: Instant::now(),
            size: Some((100, 100)),
            slice: FIRST,
            pause: None,
        };
        for (time, expected) in [(1, FIRST * 2), (10, FIRST * 2), (16, FIRST), (600, FIRST / 2)] {
            progress.took(50, second * time, second * 15);
            assert_eq!((progress.slice, progress.size), (expected, Some((100, 50))), "{time} s");
        }
        for _ in 0..40 {
            progress.took(50, second * 600, second * 15);
        }
        assert_eq!(progress.slice, LEAST);
        for _ in 0..40 {
            progress.took(50, Duration::ZERO, second * 15);
        }
        assert_eq!(progress.slice, MOST);
    }

    /// Two thin images of 900 TiB waited for ever, and nothing was said of them.
    #[test]
    fn what_a_large_image_waits_for_is_reported() {
        let large = Large::default();
        large.add(&pool_namespace(), "10f", "berth-u");
        assert_eq!(
            (large.waiting(), large.overdue(Duration::from_hours(1)).len()),
            (1, 0),
            "it takes its time"
        );
        large.change(&pool_namespace(), "10f", |progress| progress.size = Some((900 << 40, 3 << 30)));
        let told = large.overdue(Duration::ZERO);
        assert_eq!(told[0].0, "rbd/10f");
        assert!(told[0].1.contains("3 of 921600 GiB are left"), "{told:?}");
        let (until, length) = (Instant::now() + Duration::from_hours(1), Duration::from_hours(1));
        large.change(&pool_namespace(), "10f", |progress| {
            progress.pause = Some(Pause { until, length, why: "it is open".into() });
        });
        assert_eq!(large.overdue(Duration::from_hours(1))[0].1, "it is open");
        assert!(large.due().is_empty());
    }
}
