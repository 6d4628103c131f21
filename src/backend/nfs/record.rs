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

use jiff::Timestamp;
use rand::random;
use serde::{Deserialize, Serialize};

use super::path_pattern;
use crate::volume::{ClaimKey, ClusterIds, Origin, VolumeId, VolumeName};

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
pub(super) fn file(folder: &str, name: &VolumeName) -> [String; 3] {
    [BASE.into(), folder.into(), format!("{name}.json")]
}

/// The volume whose record has this file name.
pub(super) fn volume_of(file_name: &str) -> Option<VolumeName> {
    file_name.strip_suffix(".json")?.parse().ok()
}

/// The volume whose record was being written to the file of this name when the writing was broken off: `.<record>.tmp`,
/// as earlier versions did it, or `.<record>.<random>.tmp`.
pub(super) fn volume_of_temporary(file_name: &str) -> Option<VolumeName> {
    let inner = file_name.strip_prefix('.')?.strip_suffix(".tmp")?;
    volume_of(inner).or_else(|| volume_of(temporary_of(file_name)?))
}

/// The file that was being written to the file of this name when the writing was broken off: `.<file>.<random>.tmp`.
pub(super) fn temporary_of(file_name: &str) -> Option<&str> {
    Some(file_name.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.')?.0)
}

/// The export's identity file.
pub(super) fn export_file() -> [&'static str; 2] {
    [BASE, "export.json"]
}

/// Where it is noted that we made the directory at `segments`.
pub(super) fn parent_note(segments: &[String]) -> Vec<String> {
    let mut note = vec![BASE.to_string(), PARENTS.to_string()];
    note.extend_from_slice(segments);
    // No segment of a volume's path has this name.
    note.push(BASE.to_string());
    note
}

/// What we know of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) id: VolumeId,
    pub(super) segments: Vec<String>,
    pub(super) claim: ClaimKey,
    pub(super) origin: Origin,
    pub(super) since: Timestamp,
    /// What was asked for, in bytes.
    pub(super) capacity: u64,
    /// Whether the class lets volumes share the directory.
    pub(super) shared: bool,
    /// The identity of the cluster that made it; `None` in records of version 1, and where it was unknown.
    pub(super) cluster: Option<String>,
    /// The UID of its PV; `None` until that is stored.
    pub(super) uid: Option<String>,
    /// The inode of its directory; `None` until that was made.
    pub(super) inode: Option<u64>,
    /// The inode that `.berth` had when `inode` was noted. After an export was copied it is another one, and the inodes of
    /// the copied directories are not those of the records.
    pub(super) base: Option<u64>,
    /// Whether it was brought back from an archive once. The next one gets another name: a call that was to bring it back,
    /// and hangs, finds nothing then.
    pub(super) unarchived: bool,
    /// Where it is being archived to, once that is decided.
    pub(super) archive: Option<Archive>,
    /// As what it is being moved to the trash, once that is decided.
    pub(super) trash: Option<Trashed>,
}

/// What was or is about to be moved to the trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trashed {
    /// Its name in the trash.
    pub(super) entry: String,
    /// The inode of the directory that was proved to be the volume's. An entry with another one is not what was meant.
    pub(super) inode: u64,
    /// When it was decided.
    pub(super) at: Timestamp,
    /// It is not purged earlier. `None` where the API server's clock was not known: then it is kept for `keep` from when it
    /// is met first.
    pub(super) until: Option<Timestamp>,
    /// How long it is kept, in seconds.
    pub(super) keep: u64,
    /// Where the file system is mounted in whose own trash it lies; empty for the export's.
    pub(super) below: Vec<String>,
}

/// Where a volume was archived to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Archive {
    pub(super) segments: Vec<String>,
    pub(super) at: Timestamp,
}

impl Marker {
    /// Of a volume of which nothing more is known yet, from now on.
    pub(super) fn new(id: VolumeId, segments: Vec<String>, claim: ClaimKey, origin: Origin) -> Self {
        Self {
            id,
            segments,
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

    /// Whether it says that the volume, or its archive, lies at `segments`.
    pub(super) fn lies_at(&self, segments: &[String]) -> bool {
        self.segments == segments || self.archive.as_ref().is_some_and(|archive| archive.segments == segments)
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        let file = MarkerFile {
            version: VERSION,
            id: self.id.to_string(),
            directory: self.segments.clone(),
            claim: ClaimFile {
                namespace: self.claim.namespace.clone(),
                name: self.claim.name.clone(),
                uid: self.claim.uid.clone(),
            },
            origin: self.origin.to_string(),
            since: self.since.to_string(),
            capacity: self.capacity,
            shared: self.shared,
            unarchived: self.unarchived,
            archive: self
                .archive
                .as_ref()
                .map(|a| ArchiveFile { directory: a.segments.clone(), at: a.at.to_string() }),
            cluster: self.cluster.clone(),
            uid: self.uid.clone(),
            inode: self.inode,
            base: self.base,
            trash: self.trash.as_ref().map(|trash| TrashFile {
                entry: trash.entry.clone(),
                inode: trash.inode,
                at: trash.at.to_string(),
                until: trash.until.map(|until| until.to_string()),
                keep: trash.keep,
                below: trash.below.clone(),
            }),
        };
        json(&file)
    }

    /// Reads a marker; the error says what is wrong with the text.
    pub(super) fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let file: MarkerFile = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if !(1..=VERSION).contains(&file.version) {
            return Err(format!(
                "it has version {}, this program reads the versions 1 to {VERSION}",
                file.version
            ));
        }
        let segments = |directory: Vec<String>| match path_pattern::checked(&directory.join("/")) {
            Ok(segments) if segments == directory => Ok(segments),
            Ok(_) => Err(format!("the directory {directory:?} is not a list of plain names")),
            Err(error) => Err(error.to_string()),
        };
        Ok(Self {
            id: file.id.parse().map_err(|error| format!("{error}"))?,
            segments: segments(file.directory)?,
            claim: ClaimKey { namespace: file.claim.namespace, name: file.claim.name, uid: file.claim.uid },
            origin: file.origin.parse().map_err(|error| format!("{error}"))?,
            since: moment(&file.since)?,
            capacity: file.capacity,
            shared: file.shared,
            unarchived: file.unarchived,
            archive: match file.archive {
                None => None,
                Some(archive) => {
                    Some(Archive { segments: segments(archive.directory)?, at: moment(&archive.at)? })
                }
            },
            cluster: file.cluster.filter(|id| !id.is_empty()),
            uid: file.uid.filter(|uid| !uid.is_empty()),
            inode: file.inode,
            base: file.base,
            trash: match file.trash {
                None => None,
                Some(trash) => Some(Trashed {
                    entry: plain(trash.entry)?,
                    inode: trash.inode,
                    at: moment(&trash.at)?,
                    until: trash.until.as_deref().map(moment).transpose()?,
                    keep: trash.keep,
                    below: if trash.below.is_empty() { Vec::new() } else { segments(trash.below)? },
                }),
            },
        })
    }
}

/// The name of an entry of the trash: one segment.
fn plain(entry: String) -> Result<String, String> {
    let bad = entry.is_empty() || entry.len() > path_pattern::MAX_SEGMENT_BYTES || entry.starts_with('.');
    if bad || entry.contains(['/', '\0']) {
        return Err(format!("{entry:?} is no name of an entry of the trash"));
    }
    Ok(entry)
}

fn moment(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|error| format!("the time {text:?}: {error}"))
}

#[derive(Serialize, Deserialize)]
struct MarkerFile {
    version: u32,
    id: String,
    directory: Vec<String>,
    claim: ClaimFile,
    origin: String,
    since: String,
    #[serde(default)]
    capacity: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    shared: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unarchived: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    archive: Option<ArchiveFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inode: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trash: Option<TrashFile>,
}

#[derive(Serialize, Deserialize)]
struct TrashFile {
    entry: String,
    inode: u64,
    at: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(default)]
    keep: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    below: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct ClaimFile {
    namespace: String,
    name: String,
    uid: String,
}

#[derive(Serialize, Deserialize)]
struct ArchiveFile {
    directory: Vec<String>,
    at: String,
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
mod tests {
    use super::*;

    fn marker() -> Marker {
        Marker {
            id: "1/nfs/default/pvc-u-1".parse().unwrap(),
            segments: vec!["ns".into(), "data".into()],
            claim: ClaimKey { namespace: "ns".into(), name: "data".into(), uid: "u-1".into() },
            origin: Origin::Created,
            since: "2026-03-01T10:00:00Z".parse().unwrap(),
            capacity: 1024,
            shared: true,
            unarchived: true,
            archive: Some(Archive {
                segments: vec!["archived-ns".into(), "data".into()],
                at: "2026-03-02T10:00:00Z".parse().unwrap(),
            }),
            cluster: Some("cluster-1".into()),
            uid: Some("object-1".into()),
            inode: Some(7),
            base: Some(3),
            trash: Some(Trashed {
                entry: "pvc-u-1@20260302T100000Z".into(),
                inode: 7,
                at: "2026-03-02T10:00:00Z".parse().unwrap(),
                until: Some("2026-03-02T10:10:00Z".parse().unwrap()),
                keep: 600,
                below: vec!["ns".into()],
            }),
        }
    }

    /// As the version before wrote it: without cluster, object, inode and trash.
    fn of_version_1() -> Marker {
        Marker {
            shared: false,
            unarchived: false,
            archive: None,
            cluster: None,
            uid: None,
            inode: None,
            base: None,
            trash: None,
            ..marker()
        }
    }

    #[test]
    fn a_marker_reads_back_as_what_was_written() {
        for marker in [marker(), Marker { shared: false, archive: None, origin: Origin::Adopted, ..marker() }]
        {
            assert_eq!(Marker::from_json(&marker.to_json()), Ok(marker));
        }
    }

    #[test]
    fn the_text_of_a_marker_is_fixed() {
        let text = String::from_utf8(of_version_1().to_json()).unwrap();
        assert_eq!(
            text,
            "{\"version\":2,\"id\":\"1/nfs/default/pvc-u-1\",\"directory\":[\"ns\",\"data\"],\"claim\":{\"namespace\":\
             \"ns\",\"name\":\"data\",\"uid\":\"u-1\"},\"origin\":\"created\",\"since\":\"2026-03-01T10:00:00Z\",\
             \"capacity\":1024}\n"
        );
    }

    #[test]
    fn a_record_of_version_1_is_read() {
        let text = String::from_utf8(of_version_1().to_json()).unwrap();
        let text = text.replace("\"version\":2", "\"version\":1");
        assert_eq!(Marker::from_json(text.as_bytes()), Ok(of_version_1()));
    }

    #[test]
    fn truncated_foreign_and_dangerous_markers_are_refused() {
        let whole = marker().to_json();
        for length in 0..whole.len() - 2 {
            assert!(Marker::from_json(&whole[..length]).is_err(), "{length} bytes");
        }
        let text = String::from_utf8(whole).unwrap();
        for (from, to) in [
            ("\"version\":2", "\"version\":3"),
            ("pvc-u-1@2026", "../pvc-u-1@2026"),
            ("pvc-u-1@2026", ".pvc-u-1@2026"),
            ("[\"ns\",\"data\"]", "[]"),
            ("[\"ns\",\"data\"]", "[\"..\",\"data\"]"),
            ("[\"ns\",\"data\"]", "[\"ns/data\"]"),
            ("[\"ns\",\"data\"]", "[\".berth\",\"trash\"]"),
            ("[\"archived-ns\",\"data\"]", "[\"..\"]"),
            ("1/nfs/default", "9/nfs/default"),
            ("\"created\"", "\"found\""),
        ] {
            assert!(text.contains(from), "{from}");
            assert!(Marker::from_json(text.replace(from, to).as_bytes()).is_err(), "{from} -> {to}");
        }
    }

    #[test]
    fn identities_differ_and_read_back() {
        let new = Identity::new();
        assert_eq!(Identity::from_json(&new.to_json()), Ok(new.clone()));
        assert_ne!(Identity::new().id, new.id);
        let old = Identity { id: "abc".into(), mirrored: false };
        assert_eq!(Identity::from_json(b"{\"version\":1,\"id\":\"abc\"}"), Ok(old.clone()));
        assert_eq!(old.to_json(), b"{\"version\":1,\"id\":\"abc\"}\n");
        for bad in ["", "{}", "{\"version\":1,\"id\":\"\"}", "{\"version\":2,\"id\":\"a\"}"] {
            assert!(Identity::from_json(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_volume_of_a_file_whose_writing_was_broken_off_is_told_by_its_name() {
        let told = |name: &str| volume_of_temporary(name).map(|name| name.to_string());
        assert_eq!(told(".pvc-1.json.tmp").as_deref(), Some("pvc-1"));
        assert_eq!(told(".pvc-1.json.0123456789abcdef.tmp").as_deref(), Some("pvc-1"));
        assert_eq!(told(".a.b.json.0123456789abcdef.tmp").as_deref(), Some("a.b"));
        for other in ["pvc-1.json", ".pvc-1.json", "pvc-1.json.tmp", ".export.tmp", ".tmp", "..tmp"] {
            assert_eq!(told(other), None, "{other}");
        }
    }

    #[test]
    fn an_inode_counts_only_in_the_tree_in_which_it_was_noted() {
        let noted = Marker { inode: Some(7), base: Some(3), ..marker() };
        assert_eq!((noted.inode_in(3), noted.inode_in(4)), (Some(7), None));
        assert_eq!(Marker { base: None, ..noted }.inode_in(4), Some(7));
    }

    #[test]
    fn records_are_of_one_volume_by_object_by_cluster_or_where_one_is_unsigned_by_claim() {
        let ids = ClusterIds::only("now").also(["before".to_owned()]);
        let record = |cluster: &str, uid: &str, claim: &str| Marker {
            cluster: Some(cluster.to_owned()).filter(|c| !c.is_empty()),
            uid: Some(uid.to_owned()).filter(|uid| !uid.is_empty()),
            claim: ClaimKey { uid: claim.into(), ..marker().claim },
            ..marker()
        };
        let rows = [
            ("one cluster", record("now", "", "a"), record("now", "", "b"), true),
            ("one cluster of two names", record("now", "", "a"), record("before", "", "b"), true),
            ("two clusters", record("now", "", "a"), record("other", "", "a"), false),
            ("two clusters that are not ours", record("x", "", "a"), record("y", "", "a"), false),
            ("one object", record("now", "o", "a"), record("other", "o", "b"), true),
            ("unsigned, of the same claim", record("", "", "a"), record("now", "", "a"), true),
            ("unsigned, of another claim", record("", "", "a"), record("now", "", "b"), false),
            ("both unsigned, of another claim", record("", "", "a"), record("", "", "b"), false),
        ];
        for (why, a, b, same) in rows {
            assert_eq!(a.is_same_volume(&b, Some(&ids)), same, "{why}");
            assert_eq!(b.is_same_volume(&a, Some(&ids)), same, "{why}");
            let elsewhere = Marker { id: "1/nfs/default/pvc-u-2".parse().unwrap(), ..b };
            assert!(!a.is_same_volume(&elsewhere, Some(&ids)), "{why}: another name");
        }
    }
}
