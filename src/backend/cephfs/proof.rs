//! Whether a subvolume is the volume of a PV of this cluster, by its mark: [`prove`]. Pure.
//!
//! The mark names the cluster and the claim that the volume was made for, and so the volume. To which claim the PV is bound today
//! proves nothing: an administrator may bind it to another one.

use super::{
    info::Subvolume,
    mark::{self, Mark, Marks, Owner},
};
use crate::{
    backend::{
        Error, Kind, UNKNOWN_CLUSTER,
        ceph::owner::{PvVolume, Verdict, judge},
        take_over,
    },
    volume::{ClaimKey, ClusterIds, SecretName, UNRECORDED, VolumeName},
};

/// What the mark proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Proof {
    /// It is the volume's.
    Ours(Box<Marks>),
    /// An administrator says that it is the volume's from now on: this mark is written before anything else.
    TakenOver(Box<Marks>, Box<Mark>),
    /// The name has passed to another claim, so the volume is gone.
    NameReused,
}

/// Whether the subvolume at `at` with these marks is the volume of that PV. `cluster`: who we are; unknown, nothing is proved.
pub(super) fn prove(
    at: &Subvolume,
    marks: &Marks,
    pv: PvVolume<'_>,
    cluster: Option<&ClusterIds>,
) -> Result<Proof, Error> {
    let refuse = |why: String| {
        let message = format!("{} {why}; nothing was touched", at.shown());
        Err(Error::new(Kind::Refused, message))
    };
    // The command comes last, so that nothing but it is pasted.
    let refuse_unless_taken_over = |why: String, owner: &str| {
        let message = format!("{} {why}; nothing was touched. {}", at.shown(), by_take_over(pv.name, owner));
        Err(Error::new(Kind::Refused, message))
    };
    let Some(cluster) = cluster else {
        return refuse(format!("cannot be proved to be ours: {UNKNOWN_CLUSTER}"));
    };
    let (name, claim) = (pv.name, pv.claim);
    let signed = |mark: Mark| Mark { cluster_id: Some(cluster.current().to_owned()), ..mark };
    let taken_over = pv.pv_metadata.take_over.as_deref();
    let mark = match &marks.owner {
        Owner::Unreadable => {
            return refuse(format!("carries a mark ({}) that cannot be read", mark::OWNER));
        }
        Owner::Unmarked if taken_over == Some(UNRECORDED) => {
            let uid = name.claim_uid().to_owned();
            let mark =
                Mark::new(&ClaimKey { uid, ..claim.clone() }, None, None, std::time::SystemTime::UNIX_EPOCH);
            return Ok(Proof::TakenOver(Box::new(marks.clone()), Box::new(signed(mark))));
        }
        Owner::Unmarked => {
            return refuse_unless_taken_over("carries no mark of ours".to_owned(), UNRECORDED);
        }
        Owner::Claim(mark) => mark,
    };
    if !mark.names(name) {
        // A name that does not hold the UID is free for the next claim once the volume is gone, whose PV may still be there.
        let same_name = mark.namespace == claim.namespace && mark.name == claim.name;
        let deterministic = format!("{}.{}", claim.namespace, claim.name);
        if same_name && at.name == deterministic && mark.is_of(Some(cluster)) {
            return Ok(Proof::NameReused);
        }
        return refuse(format!("belongs to {}, and not to PersistentVolume {name}", mark.shown()));
    }
    let owner = mark.cluster_id.as_deref().unwrap_or(UNRECORDED);
    match judge(owner, true, pv, cluster) {
        Verdict::Ours => return Ok(Proof::Ours(Box::new(marks.clone()))),
        Verdict::TakenOver => {
            return Ok(Proof::TakenOver(Box::new(marks.clone()), Box::new(signed(mark.clone()))));
        }
        Verdict::Unproved => {}
    }
    let whose = match &mark.cluster_id {
        Some(theirs) => format!("belongs to the cluster {theirs}, and this one is {cluster}"),
        None => "does not say to which cluster it belongs".to_owned(),
    };
    refuse_unless_taken_over(whose, owner)
}

/// What proves that a user and its Secret are a volume's own.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) mark: Mark,
    /// Why the Secret is not written: it may be in the namespace of the claim that the volume was made for. Once another namespace's
    /// claim has the volume, that namespace may be anybody's, and gets no key.
    pub(super) left: Option<String>,
}

/// Whether `user` with its Secret is the volume's own by its mark; `None` where the volume is gone.
pub(super) fn own_user(
    at: &Subvolume,
    marks: &Marks,
    pv: PvVolume<'_>,
    (user, secret): (&str, &SecretName),
    cluster: &ClusterIds,
) -> Result<Option<Own>, Error> {
    let mark = match prove(at, marks, pv, Some(cluster))? {
        Proof::Ours(marks) => match marks.owner {
            Owner::Claim(mark) => mark,
            Owner::Unmarked | Owner::Unreadable => return Ok(None),
        },
        Proof::TakenOver(_, mark) => *mark,
        Proof::NameReused => return Ok(None),
    };
    if mark.user.as_deref() != Some(user) || mark.secret().as_ref() != Some(secret) {
        let message = format!(
            "Secret {secret}, with which nodes mount the volume, is not made: the mark of {} does not say that it and user {user} are the \
             volume's own; nothing was touched. Make it with the key that ceph auth get-key client.{user} prints",
            at.shown()
        );
        return Err(Error::new(Kind::Refused, message));
    }
    let now = &pv.claim.namespace;
    let left = (secret.namespace == mark.namespace && *now != mark.namespace).then(|| {
        format!(
            "Secret {secret}, with which nodes mount the volume, is not made: it was in the namespace of the claim that the volume was made \
             for, and the claim of namespace {now} has the volume now. If namespace {} may have the key, make the Secret with the key that \
             ceph auth get-key client.{user} prints",
            secret.namespace
        )
    });
    Ok(Some(Own { mark, left }))
}

/// How an administrator takes a volume over.
fn by_take_over(name: &VolumeName, owner: &str) -> String {
    let command = take_over(name, owner);
    format!("If no other cluster uses it and it belongs to this PersistentVolume: {command}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::volume::{PvMetadata, Source};

    fn claim(uid: &str) -> ClaimKey {
        ClaimKey { namespace: "team".into(), name: "data".into(), uid: uid.into() }
    }

    fn at(name: &str) -> Subvolume {
        Subvolume { fs: "cephfs".into(), group: "berth".into(), name: name.into() }
    }

    fn marks(cluster_id: Option<&str>, uid: &str) -> Marks {
        let mark =
            Mark::new(&claim(uid), cluster_id.map(str::to_owned), None, std::time::SystemTime::UNIX_EPOCH);
        Marks::read(&BTreeMap::from([(mark::OWNER.to_owned(), mark.written())]))
    }

    /// What it is about, the cluster and the claim of the mark (`None`: there is none), what was taken over, and the outcome.
    type Row<'a> = (&'a str, Option<(Option<&'a str>, &'a str)>, Option<&'a str>, Result<&'a str, &'a str>);

    /// How it ends for `pvc-u-1`, whose PV is bound to `claim`.
    fn outcome(
        subvolume: &str,
        mark: Option<(Option<&str>, &str)>,
        claim: &ClaimKey,
        take_over: Option<&str>,
        cluster: Option<&ClusterIds>,
    ) -> Result<&'static str, String> {
        let marks = mark.map_or_else(|| Marks::read(&BTreeMap::new()), |(by, uid)| marks(by, uid));
        let pv_metadata = PvMetadata { take_over: take_over.map(str::to_owned), ..PvMetadata::default() };
        let name = VolumeName::for_claim("u-1").unwrap();
        let source = Source::Nfs { server: String::new(), path: String::new() };
        let pv = PvVolume { name: &name, id: None, source: &source, claim, pv_metadata: &pv_metadata };
        match prove(&at(subvolume), &marks, pv, cluster) {
            Ok(Proof::Ours(_)) => Ok("ours"),
            Ok(Proof::NameReused) => Ok("passed"),
            Ok(Proof::TakenOver(_, mark)) => {
                assert!(mark.is_of(cluster) && mark.names(&name));
                Ok("taken over")
            }
            Err(error) => Err(error.to_string()),
        }
    }

    fn check(row: &str, found: &Result<&str, String>, expected: Result<&str, &str>) {
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(*found, expected, "{row}"),
            (Err(error), Err(part)) => assert!(error.contains(part), "{row}: {error}"),
            _ => panic!("{row}: {found:?}"),
        }
    }

    #[test]
    fn only_the_cluster_that_a_mark_names_or_who_took_it_over_has_the_volume() {
        let here = ClusterIds::only("here").also(["before".to_owned()]);
        let table: &[Row<'_>] = &[
            ("our own", Some((Some("here"), "u-1")), None, Ok("ours")),
            ("of before it was rebuilt", Some((Some("before"), "u-1")), None, Ok("ours")),
            ("a copied PV", Some((Some("there"), "u-1")), None, Err("take-over=there")),
            ("handed over", Some((Some("there"), "u-1")), Some("there"), Ok("taken over")),
            ("of a third one", Some((Some("third"), "u-1")), Some("there"), Err("take-over=third")),
            ("unsigned", Some((None, "u-1")), None, Err("take-over=unrecorded")),
            ("unsigned, ours", Some((None, "u-1")), Some(UNRECORDED), Ok("taken over")),
            ("unmarked", None, None, Err("take-over=unrecorded")),
            ("unmarked, ours", None, Some(UNRECORDED), Ok("taken over")),
            ("another volume", Some((Some("here"), "u-2")), None, Err("not to PersistentVolume pvc-u-1")),
        ];
        for (row, mark, take_over, expected) in table {
            check(row, &outcome("berth-u-1", *mark, &claim("u-1"), *take_over, Some(&here)), *expected);
        }
        let other = ClaimKey { name: "other".into(), ..claim("u-2") };
        let ours = Some((Some("here"), "u-1"));
        check("bound to another claim", &outcome("berth-u-1", ours, &other, None, Some(&here)), Ok("ours"));
        for mark in [ours, Some((None, "u-1")), None] {
            let unknown = outcome("berth-u-1", mark, &claim("u-1"), None, None);
            check("nobody knows who we are", &unknown, Err("kube-system"));
        }
        let passed = |by| outcome("team.data", Some((Some(by), "u-2")), &claim("u-1"), None, Some(&here));
        check("the name has passed on", &passed("here"), Ok("passed"));
        check("to a claim of another cluster", &passed("there"), Err("belongs to"));
    }
}
