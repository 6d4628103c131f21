//! The calls of `ceph` about subvolumes, each with its arguments and what its answer means: [`Subvolumes`].
//!
//! Whose a subvolume is and what becomes of it is decided elsewhere.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;

use super::info::{Found, Info, New, Subvolume};
use crate::{
    backend::{
        Error, Kind, Kubernetes,
        ceph::{Admin, Call, Cluster, ExpectedIdentity, Failed, Key, Login, Reason, Reply, Tool},
    },
    volume::Permit,
};

/// A cluster as the admin of a class sees it.
pub(super) struct Subvolumes(Login);

#[derive(Deserialize)]
struct Named {
    name: String,
}

impl Subvolumes {
    /// Reads the admin's key. Asks nothing of the cluster yet.
    pub(super) async fn open(
        kube: &Arc<dyn Kubernetes>,
        cluster: &Cluster,
        admin: &Admin,
    ) -> Result<Self, Error> {
        Login::open(kube, cluster, admin).await.map(Self)
    }

    pub(super) async fn fsid(&self) -> Result<String, Error> {
        self.0.fsid().await
    }

    /// The identity of the cluster, which must be what it was.
    pub(super) async fn prove_identity(
        &self,
        expected: &ExpectedIdentity,
        cluster: &Cluster,
    ) -> Result<String, Error> {
        expected.prove(&self.0, cluster).await
    }

    async fn call(&self, call: Call) -> Result<Reply, Failed> {
        self.0.ceph(call).await
    }

    /// The names of the file systems.
    pub(super) async fn filesystems(&self) -> Result<Vec<String>, Error> {
        let reply = self.call(Call::reads("list the file systems", ["fs", "ls"])).await?;
        names(&reply)
    }

    pub(super) async fn make_group(&self, fs: &str, group: &str, permit: &Permit) -> Result<(), Error> {
        let what = format!("make subvolume group {group} in file system {fs}");
        let args = ["fs", "subvolumegroup", "create", fs, group];
        Ok(self.call(Call::changes(what, args, permit)).await.map(drop)?)
    }

    /// The names of the groups; none where the user may not see them, which is no reason not to use those that it knows.
    pub(super) async fn groups(&self, fs: &str) -> Result<Vec<String>, Error> {
        let what = format!("list the subvolume groups of file system {fs}");
        match self.call(Call::reads(what, ["fs", "subvolumegroup", "ls", fs])).await {
            Ok(reply) => names(&reply),
            Err(failed) if failed.reason == Reason::NotPermitted => Ok(Vec::new()),
            Err(failed) => Err(failed.into()),
        }
    }

    /// The same as [`list`](Self::list); none where the user has no rights to that group.
    pub(super) async fn list_if_permitted(&self, fs: &str, group: &str) -> Result<Vec<String>, Error> {
        match self.try_list(fs, group).await {
            Err(failed) if failed.reason == Reason::NotPermitted => Ok(Vec::new()),
            Err(failed) => Err(failed.into()),
            Ok(reply) => names(&reply),
        }
    }

    /// The names of the subvolumes of a group; none where there is no such group.
    pub(super) async fn list(&self, fs: &str, group: &str) -> Result<Vec<String>, Error> {
        names(&self.try_list(fs, group).await?)
    }

    /// Nothing where there is no such group.
    async fn try_list(&self, fs: &str, group: &str) -> Result<Reply, Failed> {
        let what = format!("list the subvolumes of group {group} in file system {fs}");
        let call = Call::reads(what, ["fs", "subvolume", "ls", fs, "--group_name", group]);
        self.call(call.accept_output_on(Reason::NoGroup)).await
    }

    /// Makes the subvolume. Where it exists, this sets its quota and mode back: look first.
    pub(super) async fn create(&self, at: &Subvolume, new: &New<'_>, permit: &Permit) -> Result<(), Failed> {
        let quota = new.quota.to_string();
        let mut args = args(at, &["create"], &["--size", &quota]);
        let (uid, gid) = (new.uid.map(|uid| uid.to_string()), new.gid.map(|gid| gid.to_string()));
        let (mode, pool) = (Some(new.mode.to_owned()), new.pool.map(str::to_owned));
        for (option, value) in [("--mode", mode), ("--uid", uid), ("--gid", gid), ("--pool_layout", pool)] {
            args.extend(value.into_iter().flat_map(|value| [option.to_owned(), value]));
        }
        // Else the rights that `authorize` gives would be to the data of every volume in the pool.
        args.push("--namespace-isolated".to_owned());
        self.call(Call::changes(format!("make {}", at.shown()), args, permit)).await.map(|_| ())
    }

    pub(super) async fn metadata(&self, at: &Subvolume) -> Result<Found, Error> {
        let what = format!("read the metadata of {}", at.shown());
        match self.call(Call::reads(what, args(at, &["metadata", "ls"], &[]))).await {
            Ok(reply) => Ok(Found::Subvolume(reply.json()?.unwrap_or_default())),
            Err(failed) => match failed.reason {
                Reason::Snapshots => Ok(Found::OnlySnapshots),
                Reason::NoSubvolume => Ok(Found::NoSubvolume),
                Reason::NoGroup => Ok(Found::NoGroup),
                _ => Err(failed.into()),
            },
        }
    }

    pub(super) async fn set_metadata(
        &self,
        at: &Subvolume,
        key: &str,
        value: &str,
        permit: &Permit,
    ) -> Result<(), Error> {
        let what = format!("write metadata {key} of {}", at.shown());
        let reply = self.write_metadata(&what, at, (key, value), permit).await?;
        self.written(at, (key, Some(value)), (&what, &reply)).await
    }

    async fn write_metadata(
        &self,
        what: &str,
        at: &Subvolume,
        (key, value): (&str, &str),
        permit: &Permit,
    ) -> Result<Reply, Failed> {
        self.call(Call::changes(what, args(at, &["metadata", "set"], &[key, value]), permit)).await
    }

    /// Makes sure that there is room for metadata, by writing `value` where it is already. A remark of Ceph's counts as a refusal.
    pub(super) async fn prove_room(
        &self,
        at: &Subvolume,
        key: &str,
        value: &str,
        permit: &Permit,
    ) -> Result<(), Error> {
        let what = format!("write metadata {key} of {} once more", at.shown());
        let reply = self.write_metadata(&what, at, (key, value), permit).await?;
        if reply.remark().is_empty() { Ok(()) } else { Err(no_room(&what, &reply)) }
    }

    pub(super) async fn remove_metadata(
        &self,
        at: &Subvolume,
        key: &str,
        permit: &Permit,
    ) -> Result<(), Error> {
        let what = format!("remove metadata {key} of {}", at.shown());
        let call = Call::changes(what.clone(), args(at, &["metadata", "rm"], &[key]), permit);
        match self.call(call).await {
            Ok(reply) => self.written(at, (key, None), (&what, &reply)).await,
            Err(failed) if failed.reason == Reason::NoMetadata => Ok(()),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Makes sure that metadata are as they were to be. Where the data pool is full, Ceph 16 ends a change of them as if it were
    /// done, and only remarks why it is not.
    async fn written(
        &self,
        at: &Subvolume,
        (key, value): (&str, Option<&str>),
        (what, reply): (&str, &Reply),
    ) -> Result<(), Error> {
        if reply.remark().is_empty() {
            return Ok(());
        }
        match self.metadata(at).await? {
            Found::Subvolume(metadata) if metadata.get(key).map(String::as_str) == value => Ok(()),
            Found::Subvolume(_) | Found::NoSubvolume | Found::NoGroup | Found::OnlySnapshots => {
                Err(no_room(what, reply))
            }
        }
    }

    pub(super) async fn info(&self, at: &Subvolume) -> Result<Info, Failed> {
        let what = format!("look at {}", at.shown());
        let reply = self.call(Call::reads(what.clone(), args(at, &["info"], &[]))).await?;
        match reply.json::<Info>() {
            Ok(Some(info)) => Ok(info),
            Ok(None) => Err(malformed(what, "nothing was answered".into())),
            Err(error) => Err(malformed(what, error.to_string())),
        }
    }

    /// The absolute path of its data.
    pub(super) async fn path(&self, at: &Subvolume) -> Result<String, Error> {
        let what = format!("find the path of {}", at.shown());
        let reply = self.call(Call::reads(what, args(at, &["getpath"], &[]))).await?;
        Ok(reply.text()?.to_owned())
    }

    /// Sets the quota. Ceph refuses only what is below the used bytes: the caller compares with the current quota.
    pub(super) async fn resize(&self, at: &Subvolume, quota: u64, permit: &Permit) -> Result<(), Error> {
        let what = format!("set the quota of {} to {quota} bytes", at.shown());
        let mut args = args(at, &["resize"], &[&quota.to_string()]);
        args.push("--no_shrink".to_owned());
        Ok(self.call(Call::changes(what, args, permit)).await.map(drop)?)
    }

    /// Refuses a subvolume that has snapshots, which were not to be deleted.
    pub(super) async fn require_no_snapshots(&self, at: &Subvolume) -> Result<(), Error> {
        let what = format!("list the snapshots of {}", at.shown());
        let reply = self.call(Call::reads(what, args(at, &["snapshot", "ls"], &[]))).await?;
        let snapshots = names(&reply)?;
        let Some(first) = snapshots.first() else { return Ok(()) };
        let message = at.removable_after(&format!("{} snapshots ({first}, …)", snapshots.len()));
        Err(Error::new(Kind::InUse, message))
    }

    /// Gives the data to Ceph's own trash. Whether there was anything.
    pub(super) async fn remove(&self, at: &Subvolume, permit: &Permit) -> Result<bool, Error> {
        let call = Call::changes(format!("remove {}", at.shown()), args(at, &["rm"], &[]), permit);
        match self.call(call).await {
            Ok(_) => Ok(true),
            Err(failed) if failed.reason == Reason::NoSubvolume => Ok(false),
            Err(failed) if failed.reason == Reason::Snapshots => {
                let message = at.removable_after("snapshots");
                Err(Error::caused_by(Kind::InUse, message, failed))
            }
            Err(failed) => Err(failed.into()),
        }
    }

    /// Lets `user` in, whom only `tenant` may let in, and tells its key. Makes the user where there is none.
    ///
    /// Naming a tenant is what makes Ceph tell the key, which spares the admin a right to read keys.
    pub(super) async fn authorize(
        &self,
        at: &Subvolume,
        user: &str,
        tenant: &str,
        permit: &Permit,
    ) -> Result<Key, Error> {
        let more = [user, "--access_level", "rw", "--tenant_id", tenant];
        let what = format!("let user {user} into {}", at.shown());
        let reply = self.call(Call::changes(what, args(at, &["authorize"], &more), permit)).await?;
        // In JSON a string, else the bare key.
        let text = reply.text()?;
        Ok(Key::parse(text.trim_matches('"').as_bytes())?)
    }

    /// Takes away what `user` may do there; a user that may do nothing any more is removed. Returns false where Ceph's volumes
    /// module knows no such user.
    pub(super) async fn deauthorize(
        &self,
        at: &Subvolume,
        user: &str,
        permit: &Permit,
    ) -> Result<bool, Error> {
        let what = format!("keep user {user} out of {}", at.shown());
        match self.call(Call::changes(what, args(at, &["deauthorize"], &[user]), permit)).await {
            Ok(_) => Ok(true),
            Err(failed) => match failed.reason {
                Reason::NoUser => Ok(false),
                Reason::NoSubvolume | Reason::NoGroup => Ok(true),
                _ => Err(failed.into()),
            },
        }
    }

    /// The users that were let in.
    pub(super) async fn authorized(&self, at: &Subvolume) -> Result<Vec<String>, Error> {
        let what = format!("list the users of {}", at.shown());
        let reply = self.call(Call::reads(what, args(at, &["authorized_list"], &[]))).await?;
        let users: Vec<BTreeMap<String, String>> = reply.json()?.unwrap_or_default();
        Ok(users.into_iter().flat_map(BTreeMap::into_keys).collect())
    }

    /// Ends the mounts of `user`, which would go on without rights until they reconnect.
    pub(super) async fn evict(&self, at: &Subvolume, user: &str, permit: &Permit) -> Result<(), Error> {
        let what = format!("end the mounts of user {user} of {}", at.shown());
        Ok(self.call(Call::changes(what, args(at, &["evict"], &[user]), permit)).await.map(drop)?)
    }

    /// What `user` may do to metadata servers, as text; `None` where there is no such user.
    pub(super) async fn mds_caps(&self, user: &str) -> Result<Option<String>, Failed> {
        #[derive(Deserialize)]
        struct Entity {
            #[serde(default)]
            caps: BTreeMap<String, String>,
        }
        let entity = format!("client.{user}");
        let what = format!("read the rights of user {user}");
        match self.call(Call::reads(what.clone(), ["auth", "get", &entity])).await {
            Ok(reply) => match reply.json::<Vec<Entity>>() {
                Ok(found) => Ok(found
                    .unwrap_or_default()
                    .into_iter()
                    .next()
                    .map(|entity| entity.caps.get("mds").cloned().unwrap_or_default())),
                Err(error) => Err(malformed(what, error.to_string())),
            },
            Err(failed) if failed.reason == Reason::NoUser => Ok(None),
            Err(failed) => Err(failed),
        }
    }

    /// Removes a user that the volumes module knows nothing of.
    pub(super) async fn remove_user(&self, user: &str, permit: &Permit) -> Result<(), Failed> {
        let entity = format!("client.{user}");
        let call = Call::changes(format!("remove user {user}"), ["auth", "rm", &entity], permit);
        self.call(call).await.map(|_| ())
    }
}

/// `fs subvolume <verb…> <fs> <name> <more…> --group_name <group>`.
fn args(at: &Subvolume, verb: &[&str], more: &[&str]) -> Vec<String> {
    let (command, place) = (["fs", "subvolume"], [at.fs.as_str(), &at.name]);
    let group = ["--group_name", &at.group];
    let parts: [&[&str]; 5] = [&command, verb, &place, more, &group];
    parts.concat().into_iter().map(str::to_owned).collect()
}

fn names(reply: &Reply) -> Result<Vec<String>, Error> {
    Ok(reply.json::<Vec<Named>>()?.unwrap_or_default().into_iter().map(|named| named.name).collect())
}

/// A reply that is not what the command answers.
fn malformed(what: String, stderr: String) -> Failed {
    Failed { what, tool: Tool::Ceph, reason: Reason::Other, code: None, stderr, found: String::new() }
}

fn no_room(what: &str, reply: &Reply) -> Error {
    let message = format!(
        "{what}: Ceph did not do it, and said only: {}. It is so while the data pool is full: look at ceph df and at the \
         quota of the pool; free or add space, or raise the quota",
        reply.remark()
    );
    Error::new(Kind::Exhausted, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{
        ceph::fake::{Answer, Fake},
        cephfs::conformance::{Keys, admin_secret},
    };

    /// As the user `admin` of a Ceph that gives these documented answers.
    async fn told(answers: &[(&[&str], &str)]) -> (Fake, Subvolumes) {
        let fake = Fake::new();
        for (args, name) in answers {
            fake.expect(Tool::Ceph, args, Answer::documented(name));
        }
        let kube: Arc<dyn Kubernetes> = Keys::new("installation-1", crate::backend::ceph::fake::KEY);
        let admin = Admin { user: "admin".into(), secret: admin_secret() };
        let subvolumes = Subvolumes::open(&kube, &fake.cluster(), &admin).await.unwrap();
        (fake, subvolumes)
    }

    #[tokio::test]
    async fn what_newer_versions_of_ceph_answer_about_subvolumes_is_read() {
        let info: &[&str] = &["fs", "subvolume", "info", "*", "*", "*", "*"];
        let (_fake, subvolumes) = told(&[
            (info, "ceph-subvolume-info-v19"),
            (info, "ceph-subvolume-info-v20"),
            (info, "ceph-subvolume-info-version-3"),
            (&["fs", "subvolume", "getpath", "*", "*", "*", "*"], "ceph-subvolume-getpath-version-3"),
            (&["fs", "subvolume", "ls", "*", "*", "*"], "ceph-subvolume-ls-v20"),
            (&["fs", "subvolume", "metadata", "ls", "*", "*", "*", "*"], "ceph-subvolume-metadata-ls-v20"),
            (&["fs", "ls"], "ceph-fs-ls-v20"),
            (&["auth", "get", "*"], "ceph-auth-get-v20"),
        ])
        .await;
        let at = Subvolume { fs: "cephfs".into(), group: "berth".into(), name: "one".into() };
        for (version, quota) in
            [("19", Some(8 << 20)), ("20, a clone", None), ("3 of subvolumes", Some(8 << 20))]
        {
            let info = subvolumes.info(&at).await.unwrap();
            assert_eq!((info.quota(), info.data_pool.as_str()), (quota, "cephfs.data"), "{version}");
            assert!(info.made_by_module() && info.has_own_namespace() && info.is_unused(), "{version}");
        }
        let path = "/volumes/berth/one/roots/01234567-89ab-cdef-0123-456789abcdef/mnt";
        assert_eq!(subvolumes.path(&at).await.unwrap(), path);
        assert_eq!(subvolumes.list("cephfs", "berth").await.unwrap(), ["one", "two"]);
        let Found::Subvolume(metadata) = subvolumes.metadata(&at).await.unwrap() else { panic!() };
        assert!(metadata["berth.owner"].contains("u-1"));
        assert_eq!(subvolumes.filesystems().await.unwrap(), ["cephfs", "scratch"]);
        let caps = subvolumes.mds_caps("berth-user").await.unwrap().unwrap();
        assert!(caps.starts_with("allow rw fsname=cephfs path=/volumes/berth/one/"), "{caps}");
    }
}
