//! The names of what lies in the trash: [`Name`]. Pure.
//!
//! The everyday name tells the volume and is made up again for every attempt, so that a call of an earlier attempt that comes
//! late never meets what a later one moved. Where a full export takes no record, the name itself holds it ([`SelfDescribingName`]).

use std::fmt;

use jiff::Timestamp;
use rand::random;

use super::path_pattern;
use crate::volume::{RelativePath, VolumeName};

/// How the names begin of what is in the trash at the top of an export, where `.berth/trash` cannot be made.
pub(super) const AT_TOP: &str = path_pattern::RESERVED_PREFIXES[0];

/// How they begin once they are being purged.
pub(super) const AT_TOP_PURGING: &str = path_pattern::RESERVED_PREFIXES[1];

/// The path of an entry at the top of an export.
pub(super) fn at_top(prefix: &str, name: &str) -> RelativePath {
    [format!("{prefix}{name}")].into_iter().collect()
}

/// The longest part of a volume's name in an everyday name: the rest is for the time and the random number.
const VOLUME: usize = 200;

/// What a name tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    /// An everyday one, whose record says everything. `None` where the volume's name was cut.
    Recorded(Option<VolumeName>),
    /// One that holds the record.
    SelfDescribingName(SelfDescribingName),
    /// One of the previous version, which kept no records in the trash.
    Legacy {
        /// The volume; `None` where its name was cut.
        volume: Option<VolumeName>,
        /// When it was removed, by the clock of the process that did it.
        at: Timestamp,
    },
    /// Any other one.
    Unknown,
}

/// A name that holds the record: `<volume>@<time>@<UID of the PV>@<cluster>@<inode>@<keep for so many seconds>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SelfDescribingName {
    pub(super) volume: VolumeName,
    pub(super) at: Timestamp,
    pub(super) uid: Option<String>,
    pub(super) cluster: Option<String>,
    pub(super) inode: u64,
    /// How long it is to be kept, in seconds.
    pub(super) keep: u64,
}

/// A new everyday name.
pub(super) fn recorded(volume: &VolumeName, at: Timestamp) -> String {
    format!("{}-{:08x}", legacy(volume, at, VOLUME), random::<u32>())
}

/// How the everyday names of a volume begin.
pub(super) fn prefix(volume: &VolumeName) -> String {
    format!("{}@", path_pattern::shortened(volume.as_str(), VOLUME))
}

fn legacy(volume: &VolumeName, at: Timestamp, longest: usize) -> String {
    format!("{}@{}", path_pattern::shortened(volume.as_str(), longest), stamp(at))
}

impl SelfDescribingName {
    /// As a name; `None` where no file system takes it.
    pub(super) fn name(&self) -> Option<String> {
        let plain =
            |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        let (uid, cluster) = (self.uid.as_deref().unwrap_or(""), self.cluster.as_deref().unwrap_or(""));
        let name = self.to_string();
        (plain(uid) && plain(cluster) && name.len() + AT_TOP_PURGING.len() <= path_pattern::MAX_SEGMENT_BYTES)
            .then_some(name)
    }
}

impl fmt::Display for SelfDescribingName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { volume, at, uid, cluster, inode, keep } = self;
        let (uid, cluster) = (uid.as_deref().unwrap_or(""), cluster.as_deref().unwrap_or(""));
        write!(f, "{volume}@{}@{uid}@{cluster}@{inode}@{keep}", stamp(*at))
    }
}

impl Name {
    /// Reads a name; without what it begins with at the top of the export.
    pub(super) fn read(text: &str) -> Self {
        Self::whole(text).or_else(|| Self::everyday(text)).unwrap_or(Self::Unknown)
    }

    fn whole(text: &str) -> Option<Self> {
        let mut parts = text.split('@');
        let mut part = || parts.next();
        let (volume, at, uid, cluster, inode, keep) = (part()?, part()?, part()?, part()?, part()?, part()?);
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let whole = SelfDescribingName {
            volume: volume.parse().ok()?,
            at: unstamp(at)?,
            uid: some(uid),
            cluster: some(cluster),
            inode: inode.parse().ok()?,
            keep: keep.parse().ok()?,
        };
        // Nothing else reads as one.
        (whole.to_string() == text).then_some(Self::SelfDescribingName(whole))
    }

    fn everyday(text: &str) -> Option<Self> {
        let (volume, rest) = text.split_once('@')?;
        let whole = volume.len() < VOLUME;
        let volume = volume.parse().ok().filter(|_| whole);
        let (time, number) = rest.split_once('-').map_or((rest, None), |(time, number)| (time, Some(number)));
        let at = unstamp(time)?;
        let hex = |text: &str| text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
        match number {
            Some(number) if hex(number) => Some(Self::Recorded(volume)),
            // The second one of a second got a number.
            Some(number) if number.len() > 3 || number.parse::<u32>().is_err() => None,
            Some(_) | None => Some(Self::Legacy { volume, at }),
        }
    }

    /// The volume, where the name tells it.
    pub(super) fn volume(&self) -> Option<&VolumeName> {
        match self {
            Self::Recorded(volume) | Self::Legacy { volume, .. } => volume.as_ref(),
            Self::SelfDescribingName(whole) => Some(&whole.volume),
            Self::Unknown => None,
        }
    }
}

const STAMP: &str = "%Y%m%dT%H%M%SZ";

/// A moment as names tell it.
pub(super) fn stamp(at: Timestamp) -> String {
    at.strftime(STAMP).to_string()
}

fn unstamp(text: &str) -> Option<Timestamp> {
    let time = jiff::civil::DateTime::strptime(STAMP, text).ok()?;
    time.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str) -> VolumeName {
        name.parse().unwrap()
    }

    fn at() -> Timestamp {
        "2026-03-02T10:00:00Z".parse().unwrap()
    }

    #[test]
    fn names_tell_their_volume_and_who_wrote_them() {
        let name = recorded(&volume("pvc-1"), at());
        assert!(name.starts_with("pvc-1@20260302T100000Z-"), "{name}");
        assert_eq!(Name::read(&name), Name::Recorded(Some(volume("pvc-1"))));
        assert_ne!(recorded(&volume("pvc-1"), at()), name, "every attempt has its own");
        let long = volume(&"a".repeat(253));
        let cut = recorded(&long, at());
        assert!(cut.len() < 240 && cut.starts_with(&prefix(&long)));
        assert_eq!(Name::read(&cut), Name::Recorded(None));
        let legacy = Name::Legacy { volume: Some(volume("pvc-1")), at: at() };
        for text in ["pvc-1@20260302T100000Z", "pvc-1@20260302T100000Z-2", "pvc-1@20260302T100000Z-999"] {
            assert_eq!(Name::read(text), legacy, "{text}");
        }
        for text in [
            "pvc-1",
            "pvc-1@today",
            "pvc-1@20260302T100000Z-x",
            "@",
            "lost+found",
            "pvc-1@20260302T100000Z.json",
        ] {
            assert_eq!(Name::read(text), Name::Unknown, "{text}");
        }
    }

    #[test]
    fn a_name_that_holds_the_record_reads_back_and_nothing_else_reads_as_one() {
        let whole = SelfDescribingName {
            volume: volume("pvc-1"),
            at: at(),
            uid: Some("u-1".into()),
            cluster: Some("c-1".into()),
            inode: 7,
            keep: 600,
        };
        let unsigned = SelfDescribingName { uid: None, cluster: None, ..whole.clone() };
        for whole in [whole.clone(), unsigned] {
            assert_eq!(Name::read(&whole.name().unwrap()), Name::SelfDescribingName(whole));
        }
        assert_eq!(whole.name().unwrap(), "pvc-1@20260302T100000Z@u-1@c-1@7@600");
        for bad in [
            "pvc-1@20260302T100000Z@u-1@c-1@7",
            "pvc-1@20260302T100000Z@u-1@c-1@x@600",
            "pvc-1@20260302T100000Z@u-1@c-1@7@600@",
            "PVC@20260302T100000Z@u-1@c-1@7@600",
            "pvc-1@20260302T100000Z@u-1@c-1@007@600",
        ] {
            assert_eq!(Name::read(bad), Name::Unknown, "{bad}");
        }
        assert_eq!(SelfDescribingName { cluster: Some("a/b".into()), ..whole.clone() }.name(), None);
        assert_eq!(SelfDescribingName { volume: volume(&"a".repeat(253)), ..whole }.name(), None);
    }
}
