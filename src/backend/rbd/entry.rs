//! What lies in the trash of a pool: [`Entry`], and how it came there ([`Fate`]). Pure.
//!
//! It is read as RADOS holds it (the object `rbd_trash`): `rbd trash ls --long` tells the same only after it has opened every
//! image, which takes minutes where there are thousands.

use std::time::{Duration, SystemTime};

use super::image::GRACE;
use crate::backend::ceph::omap;

/// The object with an entry for everything in the trash.
pub(super) const OBJECT: &str = "rbd_trash";
/// What is kept for longer was archived.
pub(super) const ARCHIVED: Duration = Duration::from_mins(1);

/// An image in the trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: String,
    pub(super) name: String,
    /// When it came here.
    pub(super) since: SystemTime,
    /// Until when Ceph keeps it from being purged.
    pub(super) until: SystemTime,
}

/// How an image came into the trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Somebody moved it there without saying until when; it is theirs.
    ByHand,
    /// Deleted by us.
    Deleted,
    /// Archived; a time was given, or it is kept for good.
    Archived,
}

impl Entry {
    /// How it came here.
    pub(super) fn fate(&self) -> Fate {
        let kept = self.until.duration_since(self.since).unwrap_or_default();
        if kept < GRACE {
            Fate::ByHand
        } else if kept < ARCHIVED {
            Fate::Deleted
        } else {
            Fate::Archived
        }
    }

    /// Whether it may be purged.
    pub(super) fn is_over(&self, now: SystemTime) -> bool {
        self.until <= now
    }

    /// Reads one key of the object. `None` for what did not come here by `rbd trash mv`, and for what is not understood, which is
    /// nobody's to purge.
    fn read(key: &str, value: &[u8]) -> Option<Self> {
        let id = key.strip_prefix("id_")?.to_owned();
        let mut bytes = Bytes(value);
        let _version = bytes.byte()?;
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
        (source == BY_USER).then_some(Self { id, name, since, until })
    }
}

/// The version of an entry that is read here.
const KNOWN: u8 = 2;
/// It was moved by `rbd trash mv`; others come from mirroring, from a migration, or are being removed.
const BY_USER: u8 = 0;

/// Everything in the trash, from what `rados listomapvals` prints; `None` where that is not understood.
pub(super) fn read(text: &str) -> Option<Vec<Entry>> {
    let all = omap::read(text)?;
    Some(all.iter().filter_map(|(key, value)| Entry::read(key, value)).collect())
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
pub(super) fn written(name: &str, source: u8, since: SystemTime, until: SystemTime) -> Vec<u8> {
    let time = |at: SystemTime| {
        let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        [u32::try_from(at.as_secs()).unwrap(), at.subsec_nanos()].map(u32::to_le_bytes).concat()
    };
    let name_length = u32::try_from(name.len()).unwrap();
    let inner =
        [&[source][..], &name_length.to_le_bytes(), name.as_bytes(), &time(since), &time(until), &[0]]
            .concat();
    [&[2, 1][..], &u32::try_from(inner.len()).unwrap().to_le_bytes(), &inner].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ceph::fake::Answer;

    fn entry(kept: Duration) -> Entry {
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000);
        Entry { id: "1".into(), name: "berth-1".into(), since, until: since + kept }
    }

    #[test]
    fn what_is_in_the_trash_tells_how_it_came_there() {
        let rows = [
            ("moved by hand", Duration::ZERO, Fate::ByHand),
            ("moved by hand on a slow day", Duration::from_secs(2), Fate::ByHand),
            ("deleted", GRACE, Fate::Deleted),
            ("archived", Duration::from_hours(720), Fate::Archived),
            ("archived for as short as can be", ARCHIVED, Fate::Archived),
        ];
        for (row, kept, expected) in rows {
            let entry = entry(kept);
            assert_eq!(entry.fate(), expected, "{row}");
            assert!(entry.is_over(entry.until) && entry.is_over(entry.until + kept), "{row}");
            assert!(kept.is_zero() || !entry.is_over(entry.since), "{row}");
        }
    }

    #[test]
    fn an_entry_reads_back_and_bears_what_newer_versions_add() {
        let entry = entry(GRACE);
        let bytes = written(&entry.name, BY_USER, entry.since, entry.until);
        assert_eq!(Entry::read("id_1", &bytes), Some(entry.clone()));
        let mut newer = bytes.clone();
        newer[0] = 3;
        newer[2] += 2;
        newer.extend([7, 7]);
        assert_eq!(Entry::read("id_1", &newer), Some(entry.clone()));
        let mut incompatible = bytes.clone();
        incompatible[1] = 3;
        assert_eq!(Entry::read("id_1", &incompatible), None, "that cannot be read any more");
        assert_eq!(Entry::read("id_1", &written("berth-1", 3, entry.since, entry.until)), None, "rbd rm");
        assert_eq!(Entry::read("other", &bytes), None);
        for end in 0..bytes.len() {
            // The last byte says whether the move is over.
            let cut = Entry::read("id_1", &bytes[..end]);
            assert_eq!(cut, None, "{end}");
        }
    }

    #[test]
    fn the_trash_of_a_real_pool_is_read() {
        let Answer::Text(0, text, _) = Answer::recorded("rados-trash") else { panic!() };
        let read = read(&text).unwrap();
        let told: Vec<(&str, Fate)> = read.iter().map(|entry| (entry.name.as_str(), entry.fate())).collect();
        assert_eq!(
            told,
            [
                ("berth-deleted", Fate::Deleted),
                ("berth-archived", Fate::Archived),
                ("berth-hand", Fate::ByHand)
            ]
        );
    }
}
