//! Makes the subvolume for a claim, or finds the one that an earlier attempt made: [`create`].
//!
//! Looking comes first: Ceph's `create` succeeds on anything that has the name, and sets its quota and mode back. For names that hold
//! the claim's UID one look at the group's list serves many. The mark comes before the volume's user, and names it, so that a
//! half-made volume shows all that belongs to it.

use std::time::SystemTime;

use super::{
    class::{Node, Plan},
    info::{Found, Info, New, Subvolume},
    mark::{self, Mark, Marks, Owner},
    record::ControllerContext,
    settings::NAME,
    users::{self, OwnUser},
    volume_context::VolumeContext,
    work::FsClient,
};
use crate::{
    backend::{
        Error, Kind, UNKNOWN_CLUSTER,
        ceph::{
            Reason,
            class::{Form, is_described},
        },
        quoted,
    },
    volume::{
        Capacity, CephfsSource, ClaimKey, ClusterIds, CsiSource, Origin, Permit, SecretName, Source, Volume,
        VolumeId, VolumeRequest,
    },
};

/// What is at a name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    /// Nothing.
    Free,
    /// This claim's.
    Ours(Mark),
    /// A subvolume without a mark.
    Unmarked,
    /// An archived volume's.
    Archived(String),
    /// It belongs to another owner; why it cannot be used, and what to do.
    Taken(String),
}

/// Makes the volume.
pub(super) async fn create(
    work: &FsClient,
    driver: &str,
    request: &VolumeRequest,
    plan: &Plan,
    permit: &Permit,
) -> Result<Volume, Error> {
    let claim = request.claim.key();
    let id = VolumeId::new(NAME, plan.cluster.name(), request.name.clone())?;
    if work.kube.cluster_ids().is_none() {
        let message = format!("nothing can be marked as ours: {UNKNOWN_CLUSTER}");
        return Err(Error::new(Kind::Unavailable, message));
    }
    let identity = work.identity().await?;
    let fs = work.filesystem(plan.fs.as_deref(), Some(&plan.names.group)).await?;
    work.store.met(&fs, &plan.names.group);
    let at = Subvolume { fs, group: plan.names.group.clone(), name: plan.names.subvolume.clone() };
    let fresh = if plan.names.fallback.is_none() && work.is_new(&at).await? {
        Owned { work, at: &at, plan, claim: &claim, permit }.make_fresh().await?
    } else {
        None
    };
    let (at, info) = match fresh {
        Some(info) => (at, info),
        None => find(work, at, plan, &claim, permit).await?,
    };
    // Until it is committed it can be rolled back, without a sweep that finds it first.
    {
        let mut memory = work.store.memory();
        memory.uncommitted.insert(request.name.clone(), at.clone());
        // A sweep may have met it before it was marked.
        memory.stuck.remove(&at.shown());
    }
    if let Node::Own { user, secret } = &plan.node {
        let own = OwnUser { user, secret, form: plan.form };
        own.authorize_user(work, &at, &claim.uid, &request.name, permit).await?;
    }
    Ok(Volume {
        source: source(plan, &at, &id, driver, &info.path),
        id,
        capacity: Some(Capacity::from_bytes(info.quota().unwrap_or(plan.quota))),
        origin: Origin::Created,
        store_identity: identity,
        record: record(plan, &at).written(),
    })
}

/// Looks what is there, and makes of it what the class asks for.
async fn find(
    work: &FsClient,
    first: Subvolume,
    plan: &Plan,
    claim: &ClaimKey,
    permit: &Permit,
) -> Result<(Subvolume, Info), Error> {
    let (at, look) = choose(work, first, plan, claim).await?;
    let owner = Owned { work, at: &at, plan, claim, permit };
    match look {
        Look::Ours(mark) => owner.renew(&mark).await?,
        Look::Free => {
            owner.make().await?;
            owner.mark().await?;
        }
        Look::Unmarked => {
            owner.prove_unused().await?;
            owner.mark().await?;
        }
        Look::Archived(message) | Look::Taken(message) => return Err(Error::new(Kind::Conflict, message)),
    }
    let info = owner.settle().await?;
    Ok((at, info))
}

/// Which of the names to take, and what is there.
///
/// The spare one first: an attempt may have taken it while the other still held an archive that has expired since.
async fn choose(
    work: &FsClient,
    first: Subvolume,
    plan: &Plan,
    claim: &ClaimKey,
) -> Result<(Subvolume, Look), Error> {
    let fallback = plan.names.fallback.clone().map(|name| Subvolume { name, ..first.clone() });
    let Some(fallback) = fallback else {
        let look = look(work, &first, claim).await?;
        return Ok((first, look));
    };
    let beside = look(work, &fallback, claim).await?;
    if matches!(beside, Look::Ours(_)) {
        return Ok((fallback, beside));
    }
    match look(work, &first, claim).await? {
        Look::Archived(_) => Ok((fallback, beside)),
        found => Ok((first, found)),
    }
}

async fn look(work: &FsClient, at: &Subvolume, claim: &ClaimKey) -> Result<Look, Error> {
    let metadata = match work.subvolumes.metadata(at).await? {
        Found::NoGroup | Found::NoSubvolume => return Ok(Look::Free),
        Found::OnlySnapshots => {
            let message = format!(
                "{} was removed but its snapshots were retained; remove them, and the name is free again",
                at.shown()
            );
            return Ok(Look::Taken(message));
        }
        Found::Subvolume(metadata) => metadata,
    };
    Ok(judge(at, &Marks::read(&metadata), claim, work.kube.cluster_ids().as_ref()))
}

fn judge(at: &Subvolume, marks: &Marks, claim: &ClaimKey, cluster: Option<&ClusterIds>) -> Look {
    let shown = at.shown();
    let [fs, group, name] = at.quoted();
    let by_hand = format!("ceph fs subvolume rm {fs} {name} --group_name {group}");
    let ours = |mark: &Mark| mark.is_of(cluster);
    if let (Owner::Claim(mark), Some(deleted)) = (&marks.owner, &marks.deleted) {
        return Look::Archived(format!(
            "{shown} holds what {} left, deleted at {} and to be purged after {}; the name is free then",
            mark.shown(),
            deleted.since,
            deleted.until
        ));
    }
    match (&marks.owner, &marks.archived) {
        (Owner::Claim(mark), Some(archived)) if !ours(mark) => Look::Archived(format!(
            "{shown} holds what {} left, archived at {}; the provisioner of that cluster decides about it",
            mark.shown(),
            archived.since
        )),
        (Owner::Claim(mark), Some(archived)) => Look::Archived(format!(
            "{shown} holds what {} left, archived at {}; restore it, or remove it for good ({by_hand})",
            mark.shown(),
            archived.since
        )),
        (Owner::Unmarked | Owner::Unreadable, Some(archived)) => Look::Archived(format!(
            "{shown} was archived at {}; to remove it for good: {by_hand}",
            archived.since
        )),
        // The claim lives here and no UID is given twice, so that what was marked for it before we knew who we are is ours.
        (Owner::Claim(mark), None) if mark.uid == claim.uid && (ours(mark) || mark.cluster_id.is_none()) => {
            Look::Ours(mark.clone())
        }
        (Owner::Claim(mark), None) if marks.kept && ours(mark) => Look::Taken(format!(
            "{shown} belongs to {}, which is gone and left it; it is not shown to another claim. If its content is not needed any \
             more: {by_hand}",
            mark.shown()
        )),
        (Owner::Claim(mark), None) => {
            Look::Taken(format!("{shown} belongs to {}; it is not shown to another claim", mark.shown()))
        }
        (Owner::Unreadable, None) => {
            Look::Taken(format!("{shown} carries a mark ({}) that cannot be read", mark::OWNER))
        }
        (Owner::Unmarked, None) => Look::Unmarked,
    }
}

/// A subvolume that is becoming a claim's.
struct Owned<'a> {
    work: &'a FsClient,
    at: &'a Subvolume,
    plan: &'a Plan,
    claim: &'a ClaimKey,
    permit: &'a Permit,
}

impl Owned<'_> {
    /// Makes what certainly did not exist; `None` where it is not as a new one is, after all.
    async fn make_fresh(&self) -> Result<Option<Info>, Error> {
        self.make().await?;
        let info = self.work.subvolumes.info(self.at).await?;
        let as_made = info.made_by_module()
            && info.is_unused()
            && info.has_own_namespace()
            && info.quota() == Some(self.plan.quota);
        if !as_made {
            return Ok(None);
        }
        self.mark().await?;
        Ok(Some(info))
    }

    async fn make(&self) -> Result<(), Error> {
        let Self { work, at, plan, permit, .. } = self;
        let new = New {
            quota: plan.quota,
            mode: &plan.mode,
            uid: plan.uid,
            gid: plan.gid,
            pool: plan.pool.as_deref(),
        };
        match work.subvolumes.create(at, &new, permit).await {
            Err(failed) if failed.reason == Reason::NoGroup => {
                work.subvolumes.make_group(&at.fs, &at.group, permit).await?;
                Ok(work.subvolumes.create(at, &new, permit).await?)
            }
            made => Ok(made?),
        }
    }

    /// Writes whose it is.
    ///
    /// A name without the UID may be wanted by two provisioners that share a cluster, and Ceph's `create` succeeds for both. So
    /// each first says that it wants it, then looks who else does: of two, at least the later one sees the other.
    async fn mark(&self) -> Result<(), Error> {
        let Self { work, at, plan, claim, permit } = self;
        if plan.names.fallback.is_some() {
            let ours = mark::wanted(&claim.uid);
            work.subvolumes.set_metadata(at, &ours, "1", permit).await?;
            let rival = match work.subvolumes.metadata(at).await? {
                Found::Subvolume(metadata) => self.rival(&Marks::read(&metadata)),
                Found::OnlySnapshots | Found::NoSubvolume | Found::NoGroup => Some(self.taken()),
            };
            if let Some(error) = rival {
                work.subvolumes.remove_metadata(at, &ours, permit).await?;
                return Err(error);
            }
        }
        work.subvolumes.set_metadata(at, mark::OWNER, &self.marked().written(), permit).await
    }

    fn marked(&self) -> Mark {
        let own = match &self.plan.node {
            Node::Own { user, secret } => Some((user.as_str(), secret)),
            Node::Shared { .. } | Node::Configured => None,
        };
        Mark::new(self.claim, self.work.kube.cluster_id(), own, SystemTime::now())
    }

    /// Takes back the user and the Secret of an earlier attempt where the class, which was replaced since, asks for others: only what
    /// the mark or the PV names goes with the volume.
    async fn renew(&self, old: &Mark) -> Result<(), Error> {
        let new = self.marked();
        if (&old.user, &old.secret) == (&new.user, &new.secret) {
            if old.cluster_id.is_some() {
                return Ok(());
            }
            let mark = Mark { cluster_id: new.cluster_id, ..old.clone() };
            return self
                .work
                .subvolumes
                .set_metadata(self.at, mark::OWNER, &mark.written(), self.permit)
                .await;
        }
        users::delete_user_and_secret(self.work, self.at, old, false, self.permit).await?;
        let cluster_id = new.cluster_id.or_else(|| old.cluster_id.clone());
        let mark = Mark { cluster_id, since: old.since.clone(), ..new };
        self.work.subvolumes.set_metadata(self.at, mark::OWNER, &mark.written(), self.permit).await
    }

    /// Who else takes the name.
    fn rival(&self, marks: &Marks) -> Option<Error> {
        let Self { at, claim, .. } = self;
        match &marks.owner {
            Owner::Claim(mark) if mark.uid != claim.uid => return Some(self.taken()),
            Owner::Unreadable => return Some(self.taken()),
            Owner::Claim(_) | Owner::Unmarked => {}
        }
        let uid = marks.wanted.iter().find(|uid| **uid != claim.uid)?;
        let [fs, group, name] = at.quoted();
        let message = format!(
            "the claim with UID {uid} is taking {}, or began to and was broken off. If there is no such claim any more: ceph fs \
             subvolume metadata rm {fs} {name} {} --group_name {group}",
            at.shown(),
            quoted(&mark::wanted(uid))
        );
        Some(Error::new(Kind::Conflict, message))
    }

    fn taken(&self) -> Error {
        Error::new(Kind::Busy, format!("another provisioner is taking {} at this moment", self.at.shown()))
    }

    /// Refuses what is not the trace of an attempt that ended between making and marking.
    async fn prove_unused(&self) -> Result<(), Error> {
        let Self { work, at, .. } = self;
        let why = match work.subvolumes.info(at).await {
            Ok(info) if !info.made_by_module() => {
                "is a plain directory, which Ceph's volumes module did not make".to_owned()
            }
            Ok(info) if !info.is_unused() => format!(
                "has been used: {} bytes, changed at {}, made at {}",
                info.bytes_used, info.mtime, info.created_at
            ),
            Ok(_) => return Ok(()),
            // A directory without a layout.
            Err(failed) if failed.reason == Reason::Other && failed.code == Some(ENODATA) => {
                "is a plain directory, or what a manager left that stopped while it made a subvolume"
                    .to_owned()
            }
            Err(failed) => return Err(failed.into()),
        };
        let message = format!(
            "{} exists, has no mark, and {why}; it is not used for this claim. Look into it, and \
             ask the other users of this Ceph cluster: it may be theirs",
            at.shown()
        );
        Err(Error::new(Kind::Conflict, message))
    }

    /// Compares what there is with what is asked for, and lets it grow where it is too small.
    async fn settle(&self) -> Result<Info, Error> {
        let Self { work, at, plan, permit, .. } = self;
        let mut info = work.subvolumes.info(at).await?;
        let confined = matches!(plan.node, Node::Own { .. });
        if confined && !info.has_own_namespace() && info.made_by_module() && info.is_unused() {
            // What is empty gets its namespace from Ceph's `create`.
            self.make().await?;
            info = work.subvolumes.info(at).await?;
        }
        if confined && !info.has_own_namespace() {
            let message = format!(
                "{} has no RADOS namespace of its own, so a user for it alone would reach the data of every volume in pool {:?}; no \
                 user was given access. Write userSecretName into the class, or move the data to a new volume",
                at.shown(),
                info.data_pool
            );
            return Err(Error::new(Kind::Conflict, message));
        }
        if !info.made_by_module() {
            let message = format!(
                "{} is not as Ceph's volumes module makes them: its state is {:?}, its path {:?}",
                at.shown(),
                info.state,
                info.path
            );
            return Err(Error::new(Kind::Conflict, message));
        }
        if let Some(pool) = plan.pool.as_deref().filter(|pool| *pool != info.data_pool) {
            let message = format!(
                "{} keeps its data in pool {:?}, but the class asks for pool {pool:?}",
                at.shown(),
                info.data_pool
            );
            return Err(Error::new(Kind::Conflict, message));
        }
        if info.quota().is_some_and(|quota| quota >= plan.quota) {
            return Ok(info);
        }
        work.subvolumes.resize(at, plan.quota, permit).await?;
        Ok(work.subvolumes.info(at).await?)
    }
}

/// "No data available": an attribute that every subvolume has is missing.
pub(super) const ENODATA: i32 = 61;

fn record(plan: &Plan, at: &Subvolume) -> ControllerContext {
    ControllerContext {
        monitors: plan.monitors.as_ref().map(ToString::to_string),
        admin: plan.own_admin.then(|| plan.admin.clone()),
        fs: at.fs.clone(),
        group: at.group.clone(),
        subvolume: at.name.clone(),
        own: match &plan.node {
            Node::Own { user, secret } => Some((user.clone(), secret.clone())),
            Node::Shared { .. } | Node::Configured => None,
        },
        expiry: plan.expiry,
    }
}

/// What the PV says of it.
fn source(plan: &Plan, at: &Subvolume, id: &VolumeId, driver: &str, path: &str) -> Source {
    let (user, secret): (Option<&str>, Option<&SecretName>) = match &plan.node {
        Node::Own { user, secret } | Node::Shared { user, secret } => (Some(user), Some(secret)),
        Node::Configured => (None, None),
    };
    match plan.form {
        Form::InTree => Source::Cephfs(CephfsSource {
            monitors: plan.monitors.as_ref().unwrap_or(plan.cluster.monitors()).each(),
            path: path.to_owned(),
            user: user.unwrap_or_default().to_owned(),
            secret: secret.cloned(),
        }),
        Form::Csi => {
            let described = is_described(&plan.cluster);
            let monitors = plan.monitors.as_ref().filter(|_| described).map(ToString::to_string);
            let context = VolumeContext {
                cluster_id: monitors.is_none().then(|| plan.cluster.name().to_owned()),
                monitors,
                fs: Some(at.fs.clone()),
                group: at.group.clone(),
                subvolume: at.name.clone(),
                path: Some(path.to_owned()),
                user: user.map(str::to_owned),
            };
            Source::Csi(CsiSource {
                driver: driver.to_owned(),
                handle: id.to_string(),
                attributes: context.attributes(),
                fs_type: None,
                stage_secret: secret.cloned(),
            })
        }
    }
}
