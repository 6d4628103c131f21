//! What lies in the trash of a pool: [`TrashEntry`], and how it came there ([`TrashOrigin`]). Pure.
//!
//! It is read as RADOS holds it (the object `rbd_trash`): `rbd trash ls --long` tells the same only after it has opened every
//! image, which takes minutes where there are thousands.

use std::time::{Duration, SystemTime};

use crate::backend::ceph::omap;

/// The object with an entry for everything in the trash.
pub(super) const OBJECT: &str = "rbd_trash";
/// How long a deleted image stays in the trash at least. An image that an administrator moves there by hand has no such time:
/// that tells ours from theirs, so it must be longer than the `rbd` program ever takes to start.
pub(super) const GRACE: Duration = Duration::from_secs(15);
const MINUTE: Duration = Duration::from_mins(1);
/// What is kept for longer is kept for good, since Ceph counts seconds in 32 bits.
const FOR_GOOD: Duration = Duration::from_hours(24 * 366 * 51);

/// For how long a deleted image is moved to the trash that shall stay there for `retention`: whole minutes and [`GRACE`].
pub(super) fn deleted_for(retention: Duration) -> Duration {
    whole_minutes(retention) + GRACE
}

/// For how long an archived image is moved to the trash: whole minutes.
pub(super) fn archived_for(expiry: Duration) -> Duration {
    whole_minutes(expiry).max(MINUTE)
}

fn whole_minutes(time: Duration) -> Duration {
    Duration::from_secs(
        time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0)).next_multiple_of(60),
    )
}

/// An image in the trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TrashEntry {
    pub(super) id: String,
    pub(super) name: String,
    /// When it came here.
    pub(super) since: SystemTime,
    /// Until when Ceph keeps it from being purged.
    pub(super) until: SystemTime,
    pub(super) state: State,
    /// It came here by `rbd rm`, which was interrupted.
    pub(super) by_rm: bool,
}

/// How far a change to what is in the trash has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It is in the trash.
    Whole,
    /// Its move to the trash was begun. It can be neither purged nor restored before that is finished.
    Moving,
    /// Its purge was begun. It cannot be restored any more.
    Removing,
    /// Its way back was begun.
    Restoring,
}

/// How an image came into the trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TrashOrigin {
    /// An administrator moved it there without an expiry; it is theirs.
    ByHand,
    /// Deleted by us: it is kept for whole minutes and a quarter of one.
    Deleted,
    /// Archived; a time was given, or it is kept for good.
    Archived,
}

impl TrashEntry {
    /// How it came here.
    pub(super) fn origin(&self) -> TrashOrigin {
        let kept = self.until.duration_since(self.since).unwrap_or_default();
        // The program that moves an image begins to count some moments before or after it has said until when.
        let beyond_minutes = kept.as_secs() % MINUTE.as_secs();
        let after_grace = beyond_minutes.checked_sub(GRACE.as_secs());
        if kept < GRACE {
            TrashOrigin::ByHand
        } else if kept < FOR_GOOD && after_grace.is_some_and(|seconds| seconds < 30) {
            TrashOrigin::Deleted
        } else {
            TrashOrigin::Archived
        }
    }

    /// Whether it may be purged.
    pub(super) fn is_over(&self, now: SystemTime) -> bool {
        self.until <= now
    }

    /// Reads one key of the object. `None` for what came here by mirroring or a migration, and for what is not understood: it is
    /// left alone.
    fn read(key: &str, value: &[u8]) -> Option<Self> {
        let id = key.strip_prefix("id_")?.to_owned();
        let mut bytes = Bytes(value);
        let version = bytes.byte()?;
        // The oldest version that can read it.
        if bytes.byte()? > KNOWN {
            return None;
        }
        let length = usize::try_from(bytes.number()?).ok()?;
        let mut bytes = Bytes(bytes.take(length)?);
        let source = bytes.byte()?;
        let length = usize::try_from(bytes.number()?).ok()?;
        let name = std::str::from_utf8(bytes.take(length)?).ok()?.to_owned();
        let (since, until) = (bytes.time()?, bytes.time()?);
        let state = match if version < 2 { 0 } else { bytes.byte()? } {
            0 => State::Whole,
            1 => State::Moving,
            2 => State::Removing,
            3 => State::Restoring,
            _ => return None,
        };
        let by_rm = source == BY_RM;
        (source == BY_USER || by_rm).then_some(Self { id, name, since, until, state, by_rm })
    }
}

/// The version of an entry that is read here.
const KNOWN: u8 = 2;
/// It was moved by `rbd trash mv`; others come from mirroring or from a migration.
const BY_USER: u8 = 0;
/// It is being removed by `rbd rm`.
const BY_RM: u8 = 3;

/// Everything in the trash, from what `rados listomapvals` prints; `None` where that is not understood.
pub(super) fn read(text: &str) -> Option<Vec<TrashEntry>> {
    let all = omap::read(text)?;
    Some(all.iter().filter_map(|(key, value)| TrashEntry::read(key, value)).collect())
}

/// What is left to be read, as Ceph encodes it.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn time(&mut self) -> Option<SystemTime> {
        let (seconds, nanoseconds) = (self.number()?, self.number()?);
        SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds.into(), nanoseconds))
    }
}

/// One entry, as Ceph 16 writes it.
#[cfg(test)]
pub(super) fn written(name: &str, source: u8, since: SystemTime, until: SystemTime, state: State) -> Vec<u8> {
    let state = match state {
        State::Whole => 0,
        State::Moving => 1,
        State::Removing => 2,
        State::Restoring => 3,
    };
    let time = |at: SystemTime| {
        let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        [u32::try_from(at.as_secs()).unwrap(), at.subsec_nanos()].map(u32::to_le_bytes).concat()
    };
    let name_length = u32::try_from(name.len()).unwrap();
    let inner =
        [&[source][..], &name_length.to_le_bytes(), name.as_bytes(), &time(since), &time(until), &[state]]
            .concat();
    [&[2, 1][..], &u32::try_from(inner.len()).unwrap().to_le_bytes(), &inner].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ceph::fake::Answer;

    fn entry(kept: Duration) -> TrashEntry {
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000);
        let (id, name) = ("1".into(), "berth-1".into());
        TrashEntry { id, name, since, until: since + kept, state: State::Whole, by_rm: false }
    }

    #[test]
    fn what_is_in_the_trash_tells_how_it_came_there() {
        let rows = [
            ("moved by hand", Duration::ZERO, TrashOrigin::ByHand),
            ("moved by hand on a slow day", Duration::from_secs(2), TrashOrigin::ByHand),
            ("deleted at once", deleted_for(Duration::ZERO), TrashOrigin::Deleted),
            ("deleted for ten minutes", deleted_for(Duration::from_mins(10)), TrashOrigin::Deleted),
            (
                "deleted on a slow day",
                deleted_for(Duration::from_hours(1)) + Duration::from_secs(9),
                TrashOrigin::Deleted,
            ),
            ("deleted for an odd time", deleted_for(Duration::from_millis(61_001)), TrashOrigin::Deleted),
            ("deleted for years", deleted_for(Duration::from_hours(24 * 366 * 40)), TrashOrigin::Deleted),
            ("archived", archived_for(Duration::from_hours(720)), TrashOrigin::Archived),
            (
                "archived on a slow day",
                archived_for(Duration::from_hours(720)) + Duration::from_secs(9),
                TrashOrigin::Archived,
            ),
            ("archived for as short as can be", archived_for(Duration::ZERO), TrashOrigin::Archived),
            ("archived for an odd time", archived_for(Duration::from_secs(75)), TrashOrigin::Archived),
            ("archived for good", Duration::from_secs(2_308_000_000), TrashOrigin::Archived),
        ];
        for (row, kept, expected) in rows {
            let entry = entry(kept);
            assert_eq!(entry.origin(), expected, "{row}");
            assert!(entry.is_over(entry.until) && entry.is_over(entry.until + kept), "{row}");
            assert!(kept.is_zero() || !entry.is_over(entry.since), "{row}");
        }
    }

    #[test]
    fn an_entry_reads_back_and_bears_what_newer_versions_add() {
        let entry = entry(GRACE);
        for state in [State::Whole, State::Moving, State::Removing, State::Restoring] {
            let entry = TrashEntry { state, ..entry.clone() };
            let bytes = written(&entry.name, BY_USER, entry.since, entry.until, state);
            assert_eq!(TrashEntry::read("id_1", &bytes), Some(entry));
        }
        let bytes = written(&entry.name, BY_USER, entry.since, entry.until, State::Whole);
        assert_eq!(TrashEntry::read("id_1", &bytes), Some(entry.clone()));
        let mut newer = bytes.clone();
        newer[0] = 3;
        newer[2] += 2;
        newer.extend([7, 7]);
        assert_eq!(TrashEntry::read("id_1", &newer), Some(entry.clone()));
        let mut incompatible = bytes.clone();
        incompatible[1] = 3;
        assert_eq!(TrashEntry::read("id_1", &incompatible), None, "that cannot be read any more");
        assert_eq!(
            TrashEntry::read("id_1", &written("berth-1", 1, entry.since, entry.until, State::Whole)),
            None,
            "mirroring"
        );
        let removing =
            TrashEntry::read("id_1", &written("berth-1", BY_RM, entry.since, entry.until, State::Whole));
        assert!(removing.is_some_and(|entry| entry.by_rm));
        assert_eq!(TrashEntry::read("other", &bytes), None);
        for end in 0..bytes.len() {
            // The last byte says whether the move is over.
            let cut = TrashEntry::read("id_1", &bytes[..end]);
            assert_eq!(cut, None, "{end}");
        }
    }

    #[test]
    fn the_trash_of_a_real_pool_is_read() {
        let Answer::Text(0, text, _) = Answer::recorded("rados-trash") else { panic!() };
        let read = read(&text).unwrap();
        let told: Vec<(&str, TrashOrigin)> =
            read.iter().map(|entry| (entry.name.as_str(), entry.origin())).collect();
        assert_eq!(
            told,
            [
                ("berth-deleted", TrashOrigin::Deleted),
                ("berth-archived", TrashOrigin::Archived),
                ("berth-hand", TrashOrigin::ByHand)
            ]
        );
    }

    #[test]
    fn what_a_newer_version_of_ceph_keeps_in_the_trash_is_read() {
        let Answer::Text(0, text, _) = Answer::documented("rados-trash-with-group-v20") else { panic!() };
        let read = read(&text).unwrap();
        let names: Vec<&str> =
            read.iter().filter(|entry| !entry.by_rm).map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["berth-1"], "what is being removed did not come by a move");
        assert_eq!(read[0].until.duration_since(read[0].since).unwrap(), GRACE);
    }
}
