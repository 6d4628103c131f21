//! What becomes of an image in the trash: [`owner`] says whose it is, [`decide`] what is done with it. Pure.
//!
//! An image is purged when three things are so: its mark, read by its id, is one of this cluster; its PV is gone, asked live;
//! and its time is over by the API server's clock.

use std::time::SystemTime;

use super::{
    entry::{State, TrashEntry, TrashOrigin},
    header::Header,
    names,
};
use crate::{
    backend::{PvState, UNKNOWN_CLUSTER},
    volume::{ClusterIds, VolumeName},
};

/// Whether an entry may be ours at all, as far as its name and its time tell.
pub(super) fn may_be_ours(entry: &TrashEntry) -> bool {
    // What `rbd rm` left is continued by the next removal of it.
    !entry.by_rm
        && names::may_be_ours(&entry.name)
        // What has no time was moved there by hand; a large image on the last step of its purge has none either.
        && (entry.origin() != TrashOrigin::ByHand || is_being_purged(entry))
}

/// Whether it is a large image of which parts were purged.
pub(super) fn is_being_purged(entry: &TrashEntry) -> bool {
    names::purged_id(&entry.name) == Some(entry.id.as_str())
}

/// Whose an image in the trash is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// That of a volume of this cluster.
    Ours(VolumeName),
    /// Only its name is left.
    Remnant,
    /// It belongs to another owner; it is left alone without a word.
    Another,
    /// It is called like one of ours, and nothing proves it, for this reason.
    Unproved(String),
}

/// Whose it is, by its header; there may be none.
pub(super) fn owner(entry: &TrashEntry, header: Option<&Header>, cluster: Option<&ClusterIds>) -> Owner {
    let named_by_us = names::is_ours_in_trash(&entry.name);
    let Some(header) = header else {
        return if named_by_us { Owner::Remnant } else { Owner::Another };
    };
    let mark = match header.metadata.mark(&entry.name) {
        Ok(mark) => mark,
        Err(error) => return Owner::Unproved(error.to_string()),
    };
    let Some(mark) = mark else {
        return if named_by_us { Owner::Unproved("it has no owner".to_owned()) } else { Owner::Another };
    };
    let Some(cluster) = cluster else { return Owner::Unproved(UNKNOWN_CLUSTER.to_owned()) };
    if !mark.has_cluster_id() {
        return Owner::Unproved(format!("its owner, {mark}, does not say of which cluster it is"));
    }
    if !mark.is_of(Some(cluster)) {
        return Owner::Another;
    }
    match mark.volume(&entry.name) {
        Some(volume) => Owner::Ours(volume),
        None => Owner::Unproved(format!("its owner, {mark}, does not say of which volume it is")),
    }
}

/// What is done with an image of ours in the trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// It stays until its time is over.
    Wait,
    /// It is looked at again soon: its PV is being removed, or the time is not known.
    Again,
    /// It goes back: its PV is to be kept, or it was kept itself when that went, and a call that was delayed moved it here.
    Restore,
    Purge,
    /// It can be neither purged nor restored, for this reason.
    Hold(&'static str),
}

/// What is done with it. `replaced`: the PV has another image of that name in its place; `kept`: it says that it was left on
/// purpose.
pub(super) fn decide(
    entry: &TrashEntry,
    pv: &PvState,
    replaced: bool,
    kept: bool,
    now: Option<SystemTime>,
) -> Decision {
    let begun = is_being_purged(entry) || entry.state == State::Removing;
    match pv {
        PvState::Present { removing: false, .. } if begun && !replaced => Decision::Hold(
            "its purge had begun when its PersistentVolume was made again; what is left of it stays until that is gone",
        ),
        PvState::Present { removing: false, .. } if !replaced => Decision::Restore,
        PvState::Present { removing: true, .. } => Decision::Again,
        PvState::Present { removing: false, .. } | PvState::Absent if kept && !begun => Decision::Restore,
        PvState::Present { removing: false, .. } | PvState::Absent => match now {
            _ if is_being_purged(entry) => Decision::Purge,
            None => Decision::Again,
            Some(now) if entry.is_over(now) => Decision::Purge,
            Some(_) => Decision::Wait,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::backend::rbd::{
        entry::{archived_for, deleted_for},
        header::Metadata,
        owner::{Mark, OWNER},
    };
    use crate::volume::ClaimKey;

    const LEGACY: &str = "kubernetes-dynamic-pvc-6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f11";

    fn since() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000)
    }

    fn entry(name: &str, kept: Duration) -> TrashEntry {
        TrashEntry {
            id: "10f".into(),
            name: name.into(),
            since: since(),
            until: since() + kept,
            state: State::Whole,
            by_rm: false,
        }
    }

    fn header(mark: Option<Mark>) -> Header {
        let metadata = mark.map(|mark| (OWNER.to_owned(), mark.to_json()));
        Header { metadata: Metadata(metadata.into_iter().collect::<BTreeMap<_, _>>()), ..Header::default() }
    }

    fn mark(cluster_id: &str, volume: &str) -> Mark {
        let claim = ClaimKey { namespace: "team".into(), name: "data".into(), uid: "u".into() };
        Mark {
            cluster_id: cluster_id.into(),
            volume: volume.into(),
            ..Mark::new(&ClusterIds::only("here"), claim)
        }
    }

    #[test]
    fn what_came_to_the_trash_by_hand_or_is_called_otherwise_is_not_even_looked_at() {
        let (deleted, archived) = (deleted_for(Duration::ZERO), archived_for(Duration::from_hours(720)));
        let rows = [
            ("deleted", entry("berth-u", deleted), true),
            ("archived", entry("berth-u", archived), true),
            ("moved by hand", entry("berth-u", Duration::ZERO), false),
            ("of an older provisioner", entry(LEGACY, deleted), true),
            ("of the version before", entry("berth.deleted-pvc-1", deleted), true),
            ("another program's", entry("csi-vol-1", deleted), false),
            ("the last part of a large one", entry("berth.purging-10f", Duration::ZERO), true),
            ("called like one", entry("berth.purging-another", Duration::ZERO), false),
            ("left by rbd rm", TrashEntry { by_rm: true, ..entry("berth-u", deleted) }, false),
        ];
        for (row, entry, expected) in rows {
            assert_eq!(may_be_ours(&entry), expected, "{row}");
        }
    }

    /// An image that was called `berth-test` and moved to the trash by hand was purged.
    #[test]
    fn only_a_signed_mark_of_this_cluster_makes_an_image_in_the_trash_ours() {
        let here = ClusterIds::only("here");
        let volume = |name: &str| Owner::Ours(name.parse().unwrap());
        let unproved = |part: &'static str| Owner::Unproved(part.to_owned());
        let rows = [
            ("marked", "berth-u", Some(header(Some(mark("here", "")))), Some(&here), volume("pvc-u")),
            (
                "of an older one, marked",
                LEGACY,
                Some(header(Some(mark("here", "pvc-old")))),
                Some(&here),
                volume("pvc-old"),
            ),
            ("of an older one, unmarked", LEGACY, Some(header(None)), Some(&here), Owner::Another),
            ("called like ours", "berth-test", Some(header(None)), Some(&here), unproved("no owner")),
            (
                "another cluster's",
                "berth-u",
                Some(header(Some(mark("there", "")))),
                Some(&here),
                Owner::Another,
            ),
            ("unsigned", "berth-u", Some(header(Some(mark("", "")))), Some(&here), unproved("which cluster")),
            ("who are we", "berth-u", Some(header(Some(mark("here", "")))), None, unproved("kube-system")),
            (
                "of no volume",
                LEGACY,
                Some(header(Some(mark("here", "")))),
                Some(&here),
                unproved("which volume"),
            ),
            ("only a name", "berth-u", None, Some(&here), Owner::Remnant),
            ("only a name of others", LEGACY, None, Some(&here), Owner::Another),
        ];
        for (row, name, header, cluster, expected) in rows {
            let entry = entry(name, deleted_for(Duration::ZERO));
            let found = owner(&entry, header.as_ref(), cluster);
            match (&expected, &found) {
                (Owner::Unproved(part), Owner::Unproved(why)) => assert!(why.contains(part), "{row}: {why}"),
                _ => assert_eq!(found, expected, "{row}"),
            }
        }
        let nonsense = Metadata(BTreeMap::from([(OWNER.to_owned(), "nonsense".to_owned())]));
        let header = Header { metadata: nonsense, ..Header::default() };
        let entry = entry("berth-u", deleted_for(Duration::ZERO));
        assert!(matches!(owner(&entry, Some(&header), Some(&here)), Owner::Unproved(_)));
    }

    #[test]
    fn an_image_is_purged_when_its_pv_is_gone_and_its_time_is_over_and_restored_when_its_pv_was_rescued() {
        let pv = |removing| PvState::Present { uid: "object".into(), removing };
        let (gone, leaving, rescued) = (PvState::Absent, pv(true), pv(false));
        let whole = entry("berth-u", deleted_for(Duration::from_mins(10)));
        let with = |state| TrashEntry { state, ..whole.clone() };
        let last = entry("berth.purging-10f", Duration::ZERO);
        let (early, late) = (Some(since()), Some(since() + Duration::from_hours(1)));
        let rows = [
            ("gone, not yet over", &whole, &gone, false, early, Decision::Wait),
            ("gone and over", &whole, &gone, false, late, Decision::Purge),
            ("gone, and the time is unknown", &whole, &gone, false, None, Decision::Again),
            ("still being removed", &whole, &leaving, false, late, Decision::Again),
            ("rescued", &whole, &rescued, false, early, Decision::Restore),
            ("rescued late", &whole, &rescued, false, late, Decision::Restore),
            ("rescued, and the time is unknown", &whole, &rescued, false, None, Decision::Restore),
            ("the PV has another image", &whole, &rescued, true, late, Decision::Purge),
            ("the PV has another image since now", &whole, &rescued, true, early, Decision::Wait),
            ("half moved", &with(State::Moving), &rescued, false, early, Decision::Restore),
            ("half restored", &with(State::Restoring), &rescued, false, early, Decision::Restore),
            ("half purged", &with(State::Removing), &gone, false, late, Decision::Purge),
            ("the last part of a large one", &last, &gone, false, None, Decision::Purge),
        ];
        for (row, entry, pv, replaced, now, expected) in rows {
            assert_eq!(decide(entry, pv, replaced, false, now), expected, "{row}");
        }
        let kept_rows = [
            ("kept, and moved late", &whole, &gone, false, Decision::Restore),
            ("kept, and the PV has another image", &whole, &rescued, true, Decision::Restore),
            ("kept, and still being removed", &whole, &leaving, false, Decision::Again),
            ("kept when its purge had begun", &with(State::Removing), &gone, false, Decision::Purge),
        ];
        for (row, entry, pv, replaced, expected) in kept_rows {
            assert_eq!(decide(entry, pv, replaced, true, late), expected, "{row}");
        }
        for entry in [&with(State::Removing), &last] {
            assert!(matches!(decide(entry, &rescued, false, false, late), Decision::Hold(_)));
        }
    }
}
