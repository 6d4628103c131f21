//! What is to be done with an entry of the trash: [`next`]. Pure, tested as a table.
//!
//! An entry is purged when the API server says that its PV is gone, and its time is over. What is not proved to be what was
//! removed is never purged: it goes back to the volume that it is of, or is told.

use jiff::Timestamp;

use super::super::{entry::SelfDescribingName, moves::ActiveRecord, record::Marker};
use crate::{
    backend::PvState,
    volume::{RelativePath, VolumeName},
};

/// What an entry was found to be.
#[derive(Debug, Clone)]
pub(super) enum Found {
    /// Removed, with its record beside it, of this cluster.
    Removed { marker: Box<Marker>, inode: u64 },
    /// Removed while the export was full: its name is its record, and perhaps the record among the volumes is still there.
    Named { whole: SelfDescribingName, active: Option<Box<ActiveRecord>>, inode: u64 },
    /// Its removal was begun and not finished: the record among the volumes says so.
    Begun { active: Box<ActiveRecord>, inode: u64 },
    /// Removed by the previous version, which kept no record.
    Legacy { volume: VolumeName, at: Timestamp, inode: u64 },
    /// A call that was delayed moved it here. `owner`: where the volume lies that it is of.
    Misplaced { inode: u64, owner: Option<RelativePath>, why: String },
    /// A record without a directory. `belongs`: where it is to be, where a call that was delayed moved it here.
    OrphanRecord { marker: Box<Marker>, belongs: Option<RelativePath> },
    /// Of another cluster, or of nobody knows which.
    OtherCluster,
    /// What nobody can make sense of.
    Unrecognised(String),
}

impl Found {
    /// The volume, and the UID of the PV that it was removed for, where the API server can be asked for it.
    pub(super) fn volume(&self) -> Option<(&VolumeName, Option<&str>)> {
        match self {
            Self::Removed { marker, .. } | Self::OrphanRecord { marker, belongs: None } => {
                Some((marker.id.name(), marker.uid.as_deref()))
            }
            Self::Named { whole, .. } => Some((&whole.volume, whole.uid.as_deref())),
            Self::Begun { active, .. } => Some((active.marker.id.name(), active.marker.uid.as_deref())),
            Self::Legacy { volume, .. } => Some((volume, None)),
            Self::OrphanRecord { belongs: Some(_), .. }
            | Self::Misplaced { .. }
            | Self::OtherCluster
            | Self::Unrecognised(_) => None,
        }
    }

    /// The inode of its directory, where there is one.
    pub(super) fn inode(&self) -> Option<u64> {
        match self {
            Self::Removed { inode, .. }
            | Self::Named { inode, .. }
            | Self::Begun { inode, .. }
            | Self::Legacy { inode, .. }
            | Self::Misplaced { inode, .. } => Some(*inode),
            Self::OrphanRecord { .. } | Self::OtherCluster | Self::Unrecognised(_) => None,
        }
    }
}

/// How far an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    /// Its purge has begun.
    pub(super) purging: bool,
    /// Its time is over.
    pub(super) due: bool,
    /// The PV of its name is of a newer volume.
    pub(super) superseded: bool,
}

/// What is to be done with it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing.
    Wait,
    /// Remove it with all that is in it.
    Purge,
    /// Move it back to its place: the PV with this UID is to be kept.
    Restore(String),
    /// Finish its removal.
    Finish,
    /// Move it back to the volume that it is of.
    GiveBack(RelativePath),
    /// Remove its record.
    Drop,
    /// Put its record back where it belongs.
    PutRecordBack,
    /// Leave it, and say why.
    Tell(String),
}

/// What is to be done. `pv`: what the API server has just said; `None` where it was not asked, or did not answer.
pub(super) fn next(found: &Found, pv: Option<&PvState>, progress: Progress) -> Next {
    match found {
        Found::Removed { .. } | Found::Named { .. } => removed(found, pv, progress),
        Found::Begun { .. } => match pv {
            Some(PvState::Absent) => Next::Finish,
            Some(PvState::Present { removing: false, uid }) => Next::Restore(uid.clone()),
            // The provisioner is at it.
            Some(PvState::Present { removing: true, .. }) | None => Next::Wait,
        },
        Found::Legacy { volume, .. } => match pv {
            Some(PvState::Absent) if progress.due => Next::Purge,
            Some(PvState::Present { removing: false, .. }) => Next::Tell(format!(
                "an earlier version of berth removed it for PersistentVolume {volume}, which is in use; if its data is \
                 missing, move it back"
            )),
            Some(PvState::Absent | PvState::Present { removing: true, .. }) | None => Next::Wait,
        },
        Found::Misplaced { owner: Some(owner), .. } => Next::GiveBack(owner.clone()),
        Found::Misplaced { owner: None, why, .. } | Found::Unrecognised(why) => Next::Tell(why.clone()),
        Found::OrphanRecord { belongs: Some(_), .. } => Next::PutRecordBack,
        Found::OrphanRecord { belongs: None, .. } => match pv {
            Some(PvState::Absent) if progress.due => Next::Drop,
            Some(PvState::Present { .. }) if progress.superseded => {
                if progress.due {
                    Next::Drop
                } else {
                    Next::Wait
                }
            }
            Some(PvState::Present { removing: false, uid }) => Next::Restore(uid.clone()),
            Some(PvState::Absent | PvState::Present { removing: true, .. }) | None => Next::Wait,
        },
        Found::OtherCluster => Next::Wait,
    }
}

fn removed(found: &Found, pv: Option<&PvState>, progress: Progress) -> Next {
    let gone = if progress.due { Next::Purge } else { Next::Wait };
    match pv {
        Some(PvState::Absent) => gone,
        Some(PvState::Present { .. }) if progress.superseded => gone,
        // Nobody knows; or the provisioner deletes the PV next.
        None | Some(PvState::Present { removing: true, .. }) => Next::Wait,
        Some(PvState::Present { removing: false, .. }) if progress.purging => {
            let volume = found.volume().map(|(name, _)| name.to_string()).unwrap_or_default();
            Next::Tell(format!(
                "its purge had begun when PersistentVolume {volume} came to be used again; what is left of the data is here"
            ))
        }
        Some(PvState::Present { removing: false, uid }) => Next::Restore(uid.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::{ClaimKey, Origin};

    fn marker() -> Box<Marker> {
        Box::new(Marker {
            id: "1/nfs/default/pvc-1".parse().unwrap(),
            path: "data".parse().unwrap(),
            claim: ClaimKey { namespace: "ns".into(), name: "data".into(), uid: "1".into() },
            origin: Origin::Created,
            since: "2026-03-01T10:00:00Z".parse().unwrap(),
            capacity: 0,
            shared: false,
            cluster: Some("here".into()),
            uid: Some("o".into()),
            inode: Some(7),
            base: None,
            unarchived: false,
            archive: None,
            trash: None,
        })
    }

    #[test]
    fn an_entry_is_purged_only_once_its_pv_is_gone_and_its_time_is_over_and_else_goes_back_or_waits() {
        let removed = || Found::Removed { marker: marker(), inode: 7 };
        let whole = SelfDescribingName {
            volume: "pvc-1".parse().unwrap(),
            at: "2026-03-01T10:00:00Z".parse().unwrap(),
            uid: None,
            cluster: None,
            inode: 7,
            keep: 0,
        };
        let named = || Found::Named { whole: whole.clone(), active: None, inode: 7 };
        let begun = || Found::Begun {
            active: Box::new(ActiveRecord { folder: "volumes", marker: *marker() }),
            inode: 7,
        };
        let legacy = || Found::Legacy {
            volume: "pvc-1".parse().unwrap(),
            at: "2026-03-01T10:00:00Z".parse().unwrap(),
            inode: 7,
        };
        let leftover = |moved: bool| Found::OrphanRecord {
            marker: marker(),
            belongs: moved.then(|| "a/b/c".parse().unwrap()),
        };
        let misplaced = |owner| Found::Misplaced { inode: 7, owner, why: "late".into() };
        let home = "home".parse::<RelativePath>().unwrap();
        let absent = Some(PvState::Absent);
        let present = |uid: &str, removing| Some(PvState::Present { uid: uid.into(), removing });
        let early = Progress { purging: false, due: false, superseded: false };
        let due = Progress { due: true, ..early };
        let purging = Progress { purging: true, ..due };
        let superseded = Progress { superseded: true, ..due };
        let back = |uid: &str| Next::Restore(uid.into());
        let rows = [
            ("gone, held", removed(), absent.clone(), early, Next::Wait),
            ("gone, due", removed(), absent.clone(), due, Next::Purge),
            ("gone, due, by its name", named(), absent.clone(), due, Next::Purge),
            ("no answer", removed(), None, due, Next::Wait),
            ("still being removed", removed(), present("o", true), due, Next::Wait),
            ("rescued", removed(), present("o", false), due, back("o")),
            ("rescued, held", removed(), present("o", false), early, back("o")),
            ("from a backup", removed(), present("p", false), early, back("p")),
            ("from a backup, to be removed", removed(), present("p", true), due, Next::Wait),
            ("a newer volume of the name", removed(), present("p", false), superseded, Next::Purge),
            (
                "a newer volume of the name, held",
                removed(),
                present("p", false),
                Progress { due: false, ..superseded },
                Next::Wait,
            ),
            ("being purged", removed(), absent.clone(), purging, Next::Purge),
            ("being purged, no answer", removed(), None, purging, Next::Wait),
            ("begun, its PV is gone", begun(), absent.clone(), early, Next::Finish),
            ("begun, rescued", begun(), present("o", false), early, back("o")),
            ("begun, to be removed", begun(), present("o", true), due, Next::Wait),
            ("begun, no answer", begun(), None, due, Next::Wait),
            ("of the version before, held", legacy(), absent.clone(), early, Next::Wait),
            ("of the version before, due", legacy(), absent.clone(), due, Next::Purge),
            ("of the version before, to be removed", legacy(), present("o", true), due, Next::Wait),
            ("late, of a volume", misplaced(Some(home.clone())), None, due, Next::GiveBack(home)),
            ("late, owner unknown", misplaced(None), None, due, Next::Tell("late".into())),
            ("odd", Found::Unrecognised("why".into()), None, due, Next::Tell("why".into())),
            ("of others", Found::OtherCluster, absent.clone(), due, Next::Wait),
            ("a record alone, held", leftover(false), absent.clone(), early, Next::Wait),
            ("a record alone, due", leftover(false), absent, due, Next::Drop),
            ("a record alone, rescued", leftover(false), present("o", false), due, back("o")),
            ("a record alone, to be removed", leftover(false), present("o", true), due, Next::Wait),
            ("a record in the wrong place", leftover(true), None, early, Next::PutRecordBack),
        ];
        for (why, found, pv, progress, expected) in rows {
            assert_eq!(next(&found, pv.as_ref(), progress), expected, "{why}");
        }
        for found in [removed(), named()] {
            let Next::Tell(why) = next(&found, present("p", false).as_ref(), purging) else {
                panic!("what is being purged cannot go back")
            };
            assert!(why.contains("PersistentVolume pvc-1"), "{why}");
        }
        let Next::Tell(why) = next(&legacy(), present("o", false).as_ref(), due) else {
            panic!("nothing says where it was")
        };
        assert!(why.contains("pvc-1"), "{why}");
    }
}
