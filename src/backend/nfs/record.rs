//! What berth writes beside the volumes: [`Marker`], and where each file lies below the export's root.
//!
//! ```text
//! .berth/export.json              the export's identity
//! .berth/intents/<volume>.json    begun, not committed: written before anything is made
//! .berth/volumes/<volume>.json    committed: the same file, moved
//! .berth/archived/<volume>.json   archived: the same file, moved
//! .berth/trash/<entry>            removed, to be purged
//! .berth/trash/<entry>.json       whose it is: the same file, moved; what has none is never purged
//! .berth/purging/<entry>          the same directory, once its purge has begun
//! .berth-trash-<entry>            the same on an export that is so full that `.berth/trash` cannot be made
//! .berth/places/<path>            a file where a volume or an archive lies, a directory on the way to others
//! .berth/staging/<random>         what is about to be put there, or was taken from there
//! .berth/unsigned/<volume>.json   tells that the record of the volume does not say of which cluster it is
//! .berth/disputed/<volume>.json   a copy of the record of a volume that lies at, above or below the place of another one
//! .berth/parents/<path>/.berth    marks a directory above volumes as made by us
//! ```
//!
//! Reading and writing text only; no file is touched here.

use std::ops::Not;

use jiff::Timestamp;
use rand::random;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::path_pattern;
use crate::volume::{ClaimKey, ClusterIds, Origin, RelativePath, VolumeId, VolumeName};

pub(super) const BASE: &str = path_pattern::RESERVED;
pub(super) const INTENTS: &str = "intents";
pub(super) const VOLUMES: &str = "volumes";
pub(super) const ARCHIVED: &str = "archived";
pub(super) const TRASH: &str = "trash";
pub(super) const PURGING: &str = "purging";
pub(super) const PARENTS: &str = "parents";
pub(super) const PLACES: &str = "places";
pub(super) const STAGING: &str = "staging";
pub(super) const DISPUTED: &str = "disputed";
pub(super) const UNSIGNED: &str = "unsigned";

/// All folders beside the identity.
pub(super) const FOLDERS: [&str; 10] =
    [INTENTS, VOLUMES, ARCHIVED, TRASH, PURGING, PARENTS, PLACES, STAGING, DISPUTED, UNSIGNED];

/// What is written. Records of version 1 do not say of which cluster they are, nor of which object and which inode.
const VERSION: u32 = 2;
const EXPORT_VERSION: u32 = 1;

/// Where the record of a volume lies.
pub(super) fn file(folder: &str, name: &VolumeName) -> RelativePath {
    ours([folder, &format!("{name}.json")])
}

/// What lies in our own directory, or in a directory there.
pub(super) fn ours<const N: usize>(names: [&str; N]) -> RelativePath {
    [BASE].into_iter().chain(names).map(String::from).collect()
}

/// The volume whose record has this file name.
pub(super) fn volume_of(file_name: &str) -> Option<VolumeName> {
    file_name.strip_suffix(".json")?.parse().ok()
}

/// The volume whose record was being written to the file of this name when the writing was interrupted: `.<record>.tmp`,
/// as earlier versions did it, or `.<record>.<random>.tmp`.
pub(super) fn volume_of_temporary(file_name: &str) -> Option<VolumeName> {
    let inner = file_name.strip_prefix('.')?.strip_suffix(".tmp")?;
    volume_of(inner).or_else(|| volume_of(temporary_of(file_name)?))
}

/// The file that was being written to the file of this name when the writing was interrupted: `.<file>.<random>.tmp`.
pub(super) fn temporary_of(file_name: &str) -> Option<&str> {
    Some(file_name.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.')?.0)
}

/// The export's identity file.
pub(super) fn export_file() -> [&'static str; 2] {
    [BASE, "export.json"]
}

/// Where it is noted that we made the directory at `path`.
pub(super) fn parent_note(directory: &RelativePath) -> RelativePath {
    // No name on a volume's path is this one.
    ours([PARENTS]).below(directory).child(BASE)
}

/// What we know of a volume, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    #[serde(with = "text")]
    pub(super) id: VolumeId,
    #[serde(rename = "directory", with = "directory")]
    pub(super) path: RelativePath,
    #[serde(with = "ClaimFile")]
    pub(super) claim: ClaimKey,
    #[serde(with = "text")]
    pub(super) origin: Origin,
    pub(super) since: Timestamp,
    /// What was asked for, in bytes.
    #[serde(default)]
    pub(super) capacity: u64,
    /// Whether the class lets volumes share the directory.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub(super) shared: bool,
    /// Whether it was brought back from an archive once. The next one gets another name: a call that was to bring it back,
    /// and hangs, finds nothing then.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub(super) unarchived: bool,
    /// Where it is being archived to, once that is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) archive: Option<Archive>,
    /// The identity of the cluster that made it; `None` in records of version 1, and where it was unknown.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_empty")]
    pub(super) cluster: Option<String>,
    /// The UID of its PV; `None` until that is stored.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_empty")]
    pub(super) uid: Option<String>,
    /// The inode of its directory; `None` until that was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) inode: Option<u64>,
    /// The inode that `.berth` had when `inode` was noted. After an export was copied it is another one, and the inodes of
    /// the copied directories are not those of the records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) base: Option<u64>,
    /// As what it is being moved to the trash, once that is decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) trash: Option<Trashed>,
}

/// What was or is about to be moved to the trash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Trashed {
    /// Its name in the trash.
    #[serde(deserialize_with = "one_name")]
    pub(super) entry: String,
    /// The inode of the directory that was proved to be the volume's. An entry with another one is not what was meant.
    pub(super) inode: u64,
    /// When it was decided.
    pub(super) at: Timestamp,
    /// It is not purged earlier. `None` where the API server's clock was not known: then it is kept for `keep` from when it
    /// is met first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<Timestamp>,
    /// How long it is kept, in seconds.
    #[serde(default)]
    pub(super) keep: u64,
    /// Where the file system is mounted in whose own trash it lies; empty for the export's.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "no_way_out")]
    pub(super) below: Vec<String>,
}

/// Where a volume was archived to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Archive {
    #[serde(rename = "directory", with = "directory")]
    pub(super) path: RelativePath,
    pub(super) at: Timestamp,
}

/// The claim of a record.
#[derive(Serialize, Deserialize)]
#[serde(remote = "ClaimKey")]
struct ClaimFile {
    namespace: String,
    name: String,
    uid: String,
}

/// A record with its version.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    record: T,
}

impl Marker {
    /// Of a volume of which nothing more is known yet, from now on.
    pub(super) fn new(id: VolumeId, path: RelativePath, claim: ClaimKey, origin: Origin) -> Self {
        Self {
            id,
            path,
            claim,
            origin,
            since: Timestamp::now(),
            capacity: 0,
            shared: false,
            cluster: None,
            uid: None,
            inode: None,
            base: None,
            unarchived: false,
            archive: None,
            trash: None,
        }
    }

    /// The inode of its directory as it counts below a `.berth` with the inode `base`.
    pub(super) fn inode_in(&self, base: u64) -> Option<u64> {
        self.inode.filter(|_| self.base.is_none_or(|noted| noted == base))
    }

    /// The inode of what was moved to the trash, likewise.
    pub(super) fn trashed_in(&self, base: u64) -> Option<u64> {
        let trash = self.trash.as_ref().filter(|_| self.base.is_none_or(|noted| noted == base));
        trash.map(|trash| trash.inode)
    }

    /// Whether `other` is of the same volume. What is not signed is of the same volume if it is of the same claim: a copy of
    /// its PV that is bound in another cluster has another one.
    pub(super) fn is_same_volume(&self, other: &Self, ids: Option<&ClusterIds>) -> bool {
        if self.id.name() != other.id.name() {
            return false;
        }
        if self.uid.is_some() && self.uid == other.uid {
            return true;
        }
        match (&self.cluster, &other.cluster) {
            (Some(a), Some(b)) => a == b || ids.is_some_and(|ids| ids.include(a) && ids.include(b)),
            (None, _) | (_, None) => self.claim.uid == other.claim.uid,
        }
    }

    /// Whether it says that the volume, or its archive, lies at `path`.
    pub(super) fn lies_at(&self, path: &RelativePath) -> bool {
        self.path == *path || self.archive.as_ref().is_some_and(|archive| archive.path == *path)
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        json(&Versioned { version: VERSION, record: self })
    }

    /// Reads a marker; the error says what is wrong with the text.
    pub(super) fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let read: Versioned<Self> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if !(1..=VERSION).contains(&read.version) {
            return Err(format!(
                "it has version {}, this program reads the versions 1 to {VERSION}",
                read.version
            ));
        }
        Ok(read.record)
    }
}

/// Values that are written as their text.
mod text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &impl Display, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>, T>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// Paths that are written as a list of names, none of which leads elsewhere.
mod directory {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    use crate::{backend::nfs::path_pattern, volume::RelativePath};

    pub(super) fn serialize<S: Serializer>(path: &RelativePath, to: S) -> Result<S::Ok, S::Error> {
        (**path).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<RelativePath, D::Error> {
        plain_names(&Vec::<String>::deserialize(from)?).map_err(D::Error::custom)
    }

    pub(super) fn plain_names(names: &[String]) -> Result<RelativePath, String> {
        match path_pattern::checked(&names.join("/")) {
            Ok(path) if *path == *names => Ok(path),
            Ok(_) => Err(format!("the directory {names:?} is not a list of plain names")),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn not_empty<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.filter(|text| !text.is_empty()))
}

/// The name of an entry of the trash: one segment.
fn one_name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let entry = String::deserialize(from)?;
    let bad = entry.is_empty() || entry.len() > path_pattern::MAX_SEGMENT_BYTES || entry.starts_with('.');
    if bad || entry.contains(['/', '\0']) {
        return Err(D::Error::custom(format!("{entry:?} is no name of an entry of the trash")));
    }
    Ok(entry)
}

/// A path below the export that may be the export itself.
fn no_way_out<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(from)?;
    if !names.is_empty() {
        directory::plain_names(&names).map_err(D::Error::custom)?;
    }
    Ok(names)
}

#[derive(Serialize, Deserialize)]
struct ExportFile {
    version: u32,
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    places: Option<u32>,
}

/// How the places of all volumes are noted; what is older notes none.
const PLACES_VERSION: u32 = 1;

/// What an export says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// By what it differs from all others.
    pub(super) id: String,
    /// Whether the places of all its volumes are noted below `places`.
    pub(super) mirrored: bool,
}

impl Identity {
    /// That of a new export.
    pub(super) fn new() -> Self {
        Self { id: format!("{:032x}", random::<u128>()), mirrored: true }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        let places = self.mirrored.then_some(PLACES_VERSION);
        json(&ExportFile { version: EXPORT_VERSION, id: self.id.clone(), places })
    }

    /// Reads the identity of an export; the error says what is wrong with the text.
    pub(super) fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let file: ExportFile = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if file.version != EXPORT_VERSION {
            return Err(format!(
                "it has version {}, this program reads version {EXPORT_VERSION}",
                file.version
            ));
        }
        if file.id.is_empty() {
            return Err("its id is empty".into());
        }
        Ok(Self { id: file.id, mirrored: file.places == Some(PLACES_VERSION) })
    }
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    // These types have no map with other keys than text, which is all that could fail.
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests;
