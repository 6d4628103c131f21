//! What we write into a subvolume's metadata: whose it is ([`Mark`]), and that it was archived ([`Archived`]). Pure.
//!
//! | key | value |
//! | --- | --- |
//! | `berth.owner` | JSON: installation, namespace, name and uid of the claim, when it was made, its user and Secret |
//! | `berth.archived` | JSON: when, and when it expires |
//! | `berth.deleted` | JSON: when, when it may be purged, the UID of its PV, and whether the purge has begun |
//! | `berth.kept` | when its PV went and it was left |
//! | `berth.wanted-<uid>` | a claim that is about to take a name that does not hold its UID |
//!
//! The volumes module keeps metadata in a file in the style of INI, in which a percent sign and a line break do harm, so the JSON
//! holds neither. It writes keys in lower case.

use std::{
    collections::BTreeMap,
    fmt::Write,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::volume::{ClaimKey, ClusterIds, SecretName, VolumeName};

pub(super) const OWNER: &str = "berth.owner";
pub(super) const ARCHIVED: &str = "berth.archived";
pub(super) const DELETED: &str = "berth.deleted";
pub(super) const KEPT: &str = "berth.kept";
const WANTED: &str = "berth.wanted-";

/// Whose a subvolume is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    #[serde(default, rename = "installation", skip_serializing_if = "Option::is_none")]
    pub(super) cluster_id: Option<String>,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    /// When it was made, in RFC 3339.
    #[serde(default)]
    pub(super) since: String,
    /// The user of its own, which goes with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<SecretLocation>,
}

/// Where a Secret is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SecretLocation {
    namespace: String,
    name: String,
}

impl Mark {
    pub(super) fn new(
        claim: &ClaimKey,
        cluster_id: Option<String>,
        own: Option<(&str, &SecretName)>,
        now: SystemTime,
    ) -> Self {
        Self {
            cluster_id,
            namespace: claim.namespace.clone(),
            name: claim.name.clone(),
            uid: claim.uid.clone(),
            since: timestamp(now),
            user: own.map(|(user, _)| user.to_owned()),
            secret: own.map(|(_, secret)| SecretLocation {
                namespace: secret.namespace.clone(),
                name: secret.name.clone(),
            }),
        }
    }

    pub(super) fn claim(&self) -> ClaimKey {
        ClaimKey { namespace: self.namespace.clone(), name: self.name.clone(), uid: self.uid.clone() }
    }

    pub(super) fn secret(&self) -> Option<SecretName> {
        self.secret.as_ref().map(|s| SecretName { namespace: s.namespace.clone(), name: s.name.clone() })
    }

    /// The same with the user and the Secret that the PV records, where nothing was written of them.
    pub(super) fn with_own(self, own: Option<&(String, SecretName)>) -> Self {
        if self.user.is_some() || self.secret.is_some() {
            return self;
        }
        let own = own.map(|(user, secret)| (user.as_str(), secret));
        let of_record = Self::new(&self.claim(), None, own, SystemTime::UNIX_EPOCH);
        Self { user: of_record.user, secret: of_record.secret, ..self }
    }

    pub(super) fn since(&self) -> SystemTime {
        moment(&self.since).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Whether it is signed by this cluster. What is unknown on either side is not equal.
    pub(super) fn is_of(&self, cluster: Option<&ClusterIds>) -> bool {
        matches!((&self.cluster_id, cluster), (Some(signed), Some(ours)) if ours.include(signed))
    }

    /// Whether it is the mark of this volume, which is named by the claim that it was made for.
    pub(super) fn names(&self, volume: &VolumeName) -> bool {
        VolumeName::for_claim(&self.uid).is_ok_and(|named| named == *volume)
    }

    /// In the words of an error.
    pub(super) fn shown(&self) -> String {
        let cluster_id = match &self.cluster_id {
            Some(cluster_id) => format!(" of cluster {cluster_id}"),
            None => String::new(),
        };
        format!("claim {}/{} (UID {}){cluster_id}", self.namespace, self.name, self.uid)
    }

    pub(super) fn written(&self) -> String {
        json(self)
    }
}

/// That a subvolume was archived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Archived {
    pub(super) since: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires: Option<String>,
    /// The UID of its PV; archives of earlier versions do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) object: Option<String>,
}

impl Archived {
    pub(super) fn new(now: SystemTime, expiry: Option<Duration>) -> Self {
        // A moment that cannot be written never comes.
        let expires = expiry.and_then(|expiry| now.checked_add(expiry)).map(timestamp);
        Self { since: timestamp(now), expires: expires.filter(|text| !text.is_empty()), object: None }
    }

    /// Whether it was written for the removal of this PV. A PV that was made again has another UID, and one that was in use past
    /// the expiry was never removed.
    pub(super) fn is_for(&self, object: &str, now: SystemTime) -> bool {
        self.object.as_deref().is_none_or(|archived| archived == object)
            && self.expires().is_none_or(|expires| expires > now)
    }

    /// When it shall be deleted; `None` for never.
    pub(super) fn expires(&self) -> Option<SystemTime> {
        self.expires.as_deref().and_then(moment)
    }

    pub(super) fn written(&self) -> String {
        json(self)
    }
}

/// That a subvolume was deleted. It stays where it is, with its user, until its PV is gone and its time has come: Ceph's `rm` cannot
/// be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Deleted {
    pub(super) since: String,
    /// It is not purged earlier; where this cannot be read, never.
    pub(super) until: String,
    /// The UID of its PV.
    pub(super) object: String,
    /// How many seconds it stays, where the time was not known when it was deleted: they count from the first look at which it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) retention: Option<u64>,
    /// The purge has begun: there is no way back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) purging: bool,
}

impl Deleted {
    pub(super) fn new(now: SystemTime, retention: Duration, object: &str) -> Self {
        let until = now.checked_add(retention).map(timestamp).unwrap_or_default();
        Self { since: timestamp(now), until, object: object.to_owned(), retention: None, purging: false }
    }

    /// Deleted at a time that is not known.
    pub(super) fn undated(now: SystemTime, retention: Duration, object: &str) -> Self {
        let retention = Some(retention.as_secs());
        Self { until: String::new(), retention, ..Self::new(now, Duration::ZERO, object) }
    }

    /// The same with the time until which it stays, where that is still to be found.
    pub(super) fn dated(&self, now: SystemTime) -> Option<Self> {
        let seconds = self.retention.filter(|_| self.until.is_empty())?;
        let dated = Self::new(now, Duration::from_secs(seconds), &self.object);
        Some(Self { purging: self.purging, ..dated })
    }

    pub(super) fn since(&self) -> Option<SystemTime> {
        moment(&self.since)
    }

    /// When it may be purged; `None` for never.
    pub(super) fn until(&self) -> Option<SystemTime> {
        moment(&self.until)
    }

    pub(super) fn written(&self) -> String {
        json(self)
    }
}

/// What the metadata of a subvolume says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) owner: Owner,
    /// What is archived but says so in words that cannot be read counts as archived for ever.
    pub(super) archived: Option<Archived>,
    /// What is deleted but says so in words that cannot be read is never purged.
    pub(super) deleted: Option<Deleted>,
    pub(super) kept: bool,
    /// The UIDs of claims that want its name.
    pub(super) wanted: Vec<String>,
}

/// Whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// It has no mark.
    Unmarked,
    /// This claim's.
    Claim(Mark),
    /// It is marked, but not so that we understand it.
    Unreadable,
}

impl Marks {
    pub(super) fn read(metadata: &BTreeMap<String, String>) -> Self {
        let owner = match metadata.get(OWNER) {
            None => Owner::Unmarked,
            Some(text) => serde_json::from_str(text).map_or(Owner::Unreadable, Owner::Claim),
        };
        let archived = metadata.get(ARCHIVED).map(|text| {
            serde_json::from_str(text).unwrap_or(Archived {
                since: "an unknown time".into(),
                expires: None,
                object: None,
            })
        });
        let unreadable = || Deleted::new(SystemTime::UNIX_EPOCH, Duration::MAX, "");
        let deleted =
            metadata.get(DELETED).map(|text| serde_json::from_str(text).unwrap_or_else(|_| unreadable()));
        let wanted = metadata.keys().filter_map(|key| key.strip_prefix(WANTED)).map(str::to_owned).collect();
        Self { owner, archived, deleted, kept: metadata.contains_key(KEPT), wanted }
    }
}

/// The key by which a claim says that it wants a name.
pub(super) fn wanted(uid: &str) -> String {
    format!("{WANTED}{uid}")
}

/// The moment in RFC 3339, to the millisecond: what was begun first shall be known.
pub(super) fn timestamp(moment: SystemTime) -> String {
    jiff::Timestamp::try_from(moment)
        .ok()
        .and_then(|moment| jiff::Timestamp::from_millisecond(moment.as_millisecond()).ok())
        .map(|moment| moment.to_string())
        .unwrap_or_default()
}

fn moment(text: &str) -> Option<SystemTime> {
    text.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}

/// JSON in visible ASCII without percent signs.
fn json(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    let mut plain = String::with_capacity(text.len());
    for unit in text.encode_utf16() {
        match u8::try_from(unit) {
            Ok(byte) if (b' '..=b'~').contains(&byte) && byte != b'%' => plain.push(char::from(byte)),
            _ => {
                // Outside of ASCII only strings have anything, where this is how JSON writes it.
                // Writing to a string cannot fail.
                let _ = write!(plain, "\\u{unit:04x}");
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(name: &str) -> Mark {
        let claim = ClaimKey { namespace: "team".into(), name: name.into(), uid: "u-1".into() };
        let secret = SecretName { namespace: "s".into(), name: "n".into() };
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
        Mark::new(&claim, Some("i".into()), Some(("berth-u-1", &secret)), now)
    }

    fn read(key: &str, text: &str) -> Marks {
        Marks::read(&BTreeMap::from([(key.to_owned(), text.to_owned())]))
    }

    #[test]
    fn a_mark_reads_back_and_holds_nothing_that_harms_an_ini_file() {
        assert_eq!(
            mark("data").written(),
            r#"{"installation":"i","namespace":"team","name":"data","uid":"u-1","since":"1970-01-01T00:00:01.5Z","user":"berth-u-1","secret":{"namespace":"s","name":"n"}}"#
        );
        for name in ["data", "50%", "%(path)s", "ä\n[GLOBAL]\npath = /", "\u{1F600}\0\t\"\\"] {
            let mark = mark(name);
            let text = mark.written();
            assert!(text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'%'), "{text}");
            assert_eq!(read(OWNER, &text).owner, Owner::Claim(mark));
        }
    }

    #[test]
    fn an_unreadable_mark_still_has_an_owner() {
        assert_eq!(read("other", "x").owner, Owner::Unmarked);
        for text in ["", "x", "{}", "{\"uid\":1}"] {
            assert_eq!(read(OWNER, text).owner, Owner::Unreadable, "{text:?}");
        }
        let archived = read(ARCHIVED, "by hand").archived.unwrap();
        assert_eq!(archived.expires(), None);
        assert!(read(KEPT, "").kept);
        assert_eq!(read(&wanted("u-1"), "").wanted, ["u-1"]);
    }

    #[test]
    fn an_archived_volume_expires_at_its_time_and_never_where_it_has_none() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let day = Duration::from_hours(24);
        let archived = Archived::new(now, Some(day));
        let again = read(ARCHIVED, &archived.written()).archived.unwrap();
        assert_eq!(again, archived);
        assert_eq!(again.expires(), Some(now + day));
        assert_eq!(Archived::new(now, None).expires(), None);
        assert_eq!(Archived::new(now, Some(Duration::MAX)).expires(), None, "no moment that can be written");
    }

    #[test]
    fn a_mark_is_ours_only_if_both_its_cluster_and_ours_are_known_and_the_same() {
        let (ours, other) = (ClusterIds::only("i"), ClusterIds::only("other"));
        let mark = mark("data");
        assert!(mark.is_of(Some(&ours)));
        assert!(mark.is_of(Some(&other.clone().also(["i".to_owned()]))), "by a former identity");
        assert!(!mark.is_of(Some(&other)));
        assert!(!mark.is_of(None));
        assert!(!Mark { cluster_id: None, ..mark }.is_of(Some(&ours)));
    }

    #[test]
    fn what_was_deleted_may_be_purged_at_its_time_and_never_where_that_cannot_be_read() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let deleted = Deleted::new(now, Duration::from_mins(10), "object-1");
        let again = read(DELETED, &deleted.written()).deleted.unwrap();
        assert_eq!(again, deleted);
        assert_eq!(again.until(), Some(now + Duration::from_mins(10)));
        assert_eq!(Deleted::new(now, Duration::MAX, "object-1").until(), None);
        assert_eq!(read(DELETED, "by hand").deleted.unwrap().until(), None);
    }
}
