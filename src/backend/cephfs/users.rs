//! Who may reach a volume: [`OwnUser`] is let in, [`revoke`] shuts out.
//!
//! It does not decide who may. The users of cephfs-provisioner's volumes, which the volumes module does not know, are the
//! business of `legacy`, save that they are removed by [`remove_confined`] as well.

use super::{
    info::Subvolume,
    mark::{self, Mark},
    work::FsClient,
};
use crate::{
    backend::{
        Error, Kind,
        ceph::{Reason, class::Form},
    },
    volume::{Permit, SecretName, Secrets, VolumeName},
};

/// A volume's own user, and the Secret with its key.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnUser<'a> {
    pub(super) user: &'a str,
    pub(super) secret: &'a SecretName,
    pub(super) form: Form,
}

impl OwnUser<'_> {
    /// Lets the user into the subvolume, made for the claim with this UID, and keeps its key for `volume`. Both may be there already.
    pub(super) async fn authorize_user(
        self,
        work: &FsClient,
        at: &Subvolume,
        uid: &str,
        volume: &VolumeName,
        permit: &Permit,
    ) -> Result<(), Error> {
        let key = work.subvolumes.authorize(at, self.user, uid, permit).await?;
        not_left(work, self.user);
        permit.check()?;
        work.kube.put(self.secret, &secrets(self.form, self.user, key.reveal()), volume).await
    }

    /// The same for a user that was let in before.
    ///
    /// Ceph empties its record of a user before it writes the new one. In a full file system the record stays empty, and neither
    /// `authorize` nor `deauthorize` knows the user from then on. So the owner's mark is written first, with the value that it
    /// has: in a full file system that fails and harms nothing.
    pub(super) async fn reauthorize_user(
        self,
        work: &FsClient,
        at: &Subvolume,
        mark: &Mark,
        volume: &VolumeName,
        permit: &Permit,
    ) -> Result<(), Error> {
        work.subvolumes.prove_room(at, mark::OWNER, &mark.written(), permit).await?;
        self.authorize_user(work, at, &mark.uid, volume, permit).await
    }

    /// The same, and its key is kept nowhere.
    pub(super) async fn authorize_without_secret(
        self,
        work: &FsClient,
        at: &Subvolume,
        mark: &Mark,
        permit: &Permit,
    ) -> Result<(), Error> {
        work.subvolumes.prove_room(at, mark::OWNER, &mark.written(), permit).await?;
        work.subvolumes.authorize(at, self.user, &mark.uid, permit).await?;
        not_left(work, self.user);
        Ok(())
    }
}

/// How the problems of a store name a user.
fn shown(user: &str) -> String {
    format!("Ceph user client.{user}")
}

/// That the user may be left is no problem any more.
fn not_left(work: &FsClient, user: &str) {
    work.store.memory().stuck.remove(&shown(user));
}

/// The Secret of a volume's own user.
fn secrets(form: Form, user: &str, key: &str) -> Secrets {
    let values = values(form, user, key).into_iter();
    values.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).collect()
}

/// What the Secret of a volume's own user holds, under the names that the nodes read.
pub(super) fn values<'a>(form: Form, user: &'a str, key: &'a str) -> Vec<(&'static str, &'a str)> {
    match form {
        // The plugin takes any value for the key, so that there must be no other.
        Form::InTree => vec![("key", key)],
        Form::Csi => vec![("key", key), ("userID", user), ("userKey", key)],
    }
}

/// Takes away what `user` may do in the subvolume, and ends its mounts there. Returns false where it may still reach it.
///
/// Ceph says that it knows no such user also of one that it began to shut out while the file system was full. Its list of those that
/// were let in still has that one.
pub(super) async fn revoke(
    work: &FsClient,
    at: &Subvolume,
    user: &str,
    permit: &Permit,
) -> Result<bool, Error> {
    let mut is_deauthorized = true;
    match work.subvolumes.deauthorize(at, user, permit).await {
        Ok(true) => not_left(work, user),
        Ok(false) => {
            if work.subvolumes.authorized(at).await?.iter().any(|authorized| authorized == user) {
                is_deauthorized =
                    remove_confined(work, user, (&at.fs, &at.directory()), &at.shown(), permit).await?;
            }
        }
        Err(error) if error.kind() == Kind::Exhausted => {
            is_deauthorized =
                remove_confined(work, user, (&at.fs, &at.directory()), &at.shown(), permit).await?;
        }
        Err(error) => return Err(error),
    }
    // Only after it cannot come back.
    work.subvolumes.evict(at, user, permit).await?;
    Ok(is_deauthorized)
}

/// Removes the user and the Secret that a mark names. Those of an archive were removed when it was archived, save what an
/// administrator let in since.
pub(super) async fn delete_user_and_secret(
    work: &FsClient,
    at: &Subvolume,
    mark: &Mark,
    archived: bool,
    permit: &Permit,
) -> Result<(), Error> {
    match &mark.user {
        Some(user) if archived => {
            work.subvolumes.deauthorize(at, user, permit).await?;
            work.subvolumes.evict(at, user, permit).await?;
        }
        Some(user) => {
            revoke(work, at, user, permit).await?;
        }
        None => {}
    }
    if let (Some(secret), Ok(owner)) = (mark.secret(), VolumeName::for_claim(&mark.uid)) {
        permit.check()?;
        work.forget(&secret, &owner).await?;
    }
    Ok(())
}

/// Removes a user that may do nothing but use what lies below a directory of a file system, which is gone or archived. Returns whether
/// there is none any more; one that may be left is shown among the problems of the store. `what` names the volume.
pub(super) async fn remove_confined(
    work: &FsClient,
    user: &str,
    (fs, above): (&str, &str),
    what: &str,
    permit: &Permit,
) -> Result<bool, Error> {
    let left = |why: &str, remedy: &str| {
        tracing::warn!(user, volume = what, why, "the Ceph user of a volume may be left");
        let why =
            format!("it was made for {what}, which is gone or archived, and may be left: {why}; {remedy}");
        work.store.memory().set_problem(shown(user), why);
        Ok(false)
    };
    let remove = "remove it with ceph auth rm";
    match work.subvolumes.mds_caps(user).await {
        Ok(None) => {
            not_left(work, user);
            Ok(true)
        }
        Ok(Some(caps)) if only_below(&caps, fs, above) => {
            match work.subvolumes.remove_user(user, permit).await {
                Ok(()) => {
                    not_left(work, user);
                    Ok(true)
                }
                Err(failed) if failed.reason == Reason::NotPermitted => {
                    left("the admin of the class may not remove users", remove)
                }
                Err(failed) => Err(failed.into()),
            }
        }
        Ok(Some(_)) => {
            left("it may do other things too", "take only its caps for that away with ceph auth caps")
        }
        Err(failed) if failed.reason == Reason::NotPermitted => {
            left("the admin of the class may not see users", remove)
        }
        Err(failed) => Err(failed.into()),
    }
}

/// Whether rights to metadata servers reach nothing but what lies below `above` in the file system, if anything at all.
///
/// `allow r` alone lets see the names of everything; the older provisioner gave it to each of its users.
pub(super) fn only_below(caps: &str, fs: &str, above: &str) -> bool {
    let here = format!("fsname={fs} ");
    caps.split(',').map(str::trim).all(|grant| {
        grant == "allow r"
            || ["allow rw ", "allow r "].iter().any(|allowed| {
                let rest = grant.strip_prefix(allowed);
                let rest = rest.map(|rest| rest.strip_prefix(here.as_str()).unwrap_or(rest));
                let path = rest.and_then(|rest| rest.strip_prefix("path="));
                let path = path.map(|path| path.trim_matches('"'));
                path.is_some_and(|path| path == above.trim_end_matches('/') || path.starts_with(above))
            })
    })
}
