//! What the programs are asked and told about one image, and what their answers mean: methods of [`PoolClient`].
//!
//! What follows from an answer is decided elsewhere; what the answers look like is known only here. What is asked about a whole
//! pool is in `pool`.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    class::Plan,
    entry::{GRACE, TrashEntry},
    error::{OpError, fail},
    header::{self, Header},
    owner::{KEPT, Mark, NOT_KEPT, OWNER},
    stream::{self, Features},
    work::PoolClient,
};
use crate::{
    backend::{
        Kind,
        ceph::{Call, Failed, Reason},
    },
    volume::Permit,
};

/// Looking for content in a large image without an object map asks for every object.
const LONG_READ: Duration = Duration::from_mins(10);
/// Purging removes every object.
const LONG_PURGE: Duration = Duration::from_hours(1);

/// An image, as `rbd info` describes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Info {
    pub(super) id: String,
    pub(super) size: u64,
    pub(super) object_size: u64,
    pub(super) snapshot_count: u64,
    #[serde(default)]
    features: Vec<String>,
    #[serde(default)]
    pub(super) data_pool: Option<String>,
    #[serde(default)]
    pub(super) parent: Option<serde_json::Value>,
    /// The group of images that it is in, with its pool.
    #[serde(default)]
    pub(super) group: Option<String>,
    #[serde(default)]
    mirroring: Option<Mirroring>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Mirroring {
    #[serde(default)]
    mode: String,
    #[serde(default)]
    state: String,
}

impl Info {
    pub(super) fn features(&self) -> Features {
        Features::of_image(&self.features)
    }

    /// Whether an administrator lets another cluster copy it by snapshots.
    pub(super) fn is_mirrored_by_snapshots(&self) -> bool {
        self.mirroring
            .as_ref()
            .is_some_and(|mirroring| mirroring.mode == "snapshot" && mirroring.state != "disabled")
    }
}

/// A client that has an image open.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Watcher {
    address: String,
    #[serde(default)]
    client: u64,
}

impl Watcher {
    /// Its address as a person writes it, with the node's name where that is known.
    pub(super) fn describe(&self, node_at: impl Fn(IpAddr) -> Option<String>) -> String {
        let endpoint = self.address.split_once('/').map_or(self.address.as_str(), |(endpoint, _)| endpoint);
        let endpoint = ["v1:", "v2:", "any:"]
            .iter()
            .find_map(|protocol| endpoint.strip_prefix(protocol))
            .unwrap_or(endpoint);
        let Ok(socket) = endpoint.parse::<SocketAddr>() else {
            return format!("client.{} at {}", self.client, self.address);
        };
        match node_at(socket.ip()) {
            Some(node) => format!("client.{} on node {node} ({})", self.client, socket.ip()),
            None => format!("client.{} at {}", self.client, socket.ip()),
        }
    }
}

/// What is known of an image that exists.
#[derive(Debug, Clone)]
pub(super) struct ImageState {
    pub(super) info: Info,
    pub(super) header: Header,
    pub(super) watchers: Vec<Watcher>,
}

#[derive(Deserialize)]
struct Status {
    watchers: Vec<Watcher>,
}

/// Until when an image is moved to the trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TrashExpiry {
    /// For so long from now.
    After(Duration),
    /// Ceph counts seconds in 32 bits, which end in 2106: until 2100.
    Never,
}

impl PoolClient {
    pub(super) fn what(&self, verb: &str, image: &str) -> String {
        format!("{verb} image {}", self.pool_namespace.spec(image))
    }

    /// What `rbd` answers about an image; `None` where there is no such image.
    async fn read<T: DeserializeOwned>(
        &self,
        verb: &str,
        image: &str,
        args: &[&str],
    ) -> Result<Option<T>, OpError> {
        let spec = self.pool_namespace.spec(image);
        let args = args.iter().copied().chain([spec.as_str()]);
        match self.ceph.rbd(Call::reads(self.what(verb, image), args)).await {
            Ok(reply) => Ok(Some(reply.require_json()?)),
            Err(failed) if failed.reason == Reason::NoImage => Ok(None),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Makes `rbd` change an image, which is the last of its arguments.
    async fn change(
        &self,
        what: String,
        args: &[&str],
        image: &str,
        limit: Option<Duration>,
        permit: &Permit,
    ) -> Result<(), Failed> {
        let spec = self.pool_namespace.spec(image);
        let call = Call::changes(what, args.iter().copied().chain([spec.as_str()]), permit);
        self.ceph.rbd(limit.into_iter().fold(call, Call::within)).await.map(drop)
    }

    /// Whether there was such an image.
    fn was_there(outcome: Result<(), Failed>) -> Result<bool, OpError> {
        match outcome {
            Ok(()) => Ok(true),
            Err(failed) if failed.reason == Reason::NoImage => Ok(false),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Makes an image with its mark by one program. [`Reason::Exists`] where there is one.
    pub(super) async fn import(&self, plan: &Plan, mark: &Mark, permit: &Permit) -> Result<(), Failed> {
        let mut args = ["import", "--no-progress", "--export-format", "2"].map(String::from).to_vec();
        if let Some(pool) = &plan.data_pool {
            args.extend(["--data-pool".to_owned(), pool.clone()]);
        }
        args.extend(["-".to_owned(), self.pool_namespace.spec(&plan.image)]);
        let stream = stream::image(plan.size, plan.features, OWNER, &mark.to_json());
        let call = Call::changes(self.what("make", &plan.image), args, permit).stdin(stream);
        self.ceph.rbd(call).await.map(drop)
    }

    pub(super) async fn info(&self, image: &str) -> Result<Option<Info>, OpError> {
        self.read("read", image, &["info", "--format", "json"]).await
    }

    /// The header of the image with this id, wherever the image is; `None` where there is none.
    pub(super) async fn header(&self, id: &str) -> Result<Option<Header>, OpError> {
        let what = format!("read the header of image {}", self.pool_namespace.spec(id));
        let Some(reply) = self.object(what.clone(), &header::object(id)).await? else { return Ok(None) };
        Header::read(reply.text()?).map_or_else(
            || fail(Kind::Internal, format!("{what}: the answer of Ceph is not understood")),
            |header| Ok(Some(header)),
        )
    }

    async fn watchers(&self, image: &str) -> Result<Option<Vec<Watcher>>, OpError> {
        let status: Option<Status> =
            self.read("ask who uses", image, &["status", "--format", "json"]).await?;
        Ok(status.map(|status| status.watchers))
    }

    /// Everything about an image; `None` where it is not there. Nothing is opened for writing, so that a full pool answers too.
    pub(super) async fn look(&self, image: &str) -> Result<Option<ImageState>, OpError> {
        let Some(info) = self.info(image).await? else { return Ok(None) };
        let (header, watchers) = futures::join!(self.header(&info.id), self.watchers(image));
        Ok(header?.zip(watchers?).map(|(header, watchers)| ImageState { info, header, watchers }))
    }

    /// Everything about an image but who uses it.
    pub(super) async fn info_and_header(&self, image: &str) -> Result<Option<(Info, Header)>, OpError> {
        let Some(info) = self.info(image).await? else { return Ok(None) };
        Ok(self.header(&info.id).await?.map(|header| (info, header)))
    }

    /// Whether anything was ever written to the image, its beginning or its end alike.
    pub(super) async fn has_content(&self, image: &str) -> Result<bool, OpError> {
        let args = ["diff", "--format", "json", &self.pool_namespace.spec(image)];
        let call = Call::reads(self.what("look for content in", image), args).within(LONG_READ);
        let found: Option<Vec<serde_json::Value>> = self.ceph.rbd(call).await?.json()?;
        Ok(found.is_none_or(|extents| !extents.is_empty()))
    }

    /// Notes whose the image is.
    pub(super) async fn set_mark(&self, image: &str, mark: &Mark, permit: &Permit) -> Result<(), OpError> {
        self.set_metadata("note the owner of", image, (OWNER, &mark.to_json()), permit).await
    }

    /// Notes that the image is left on purpose, or that it is to be removed after all.
    pub(super) async fn set_kept(&self, image: &str, kept: bool, permit: &Permit) -> Result<(), OpError> {
        let (verb, value) = if kept {
            ("note the keeping of", Timestamp::now().to_string())
        } else {
            ("note the end of the keeping of", NOT_KEPT.to_owned())
        };
        self.set_metadata(verb, image, (KEPT, &value), permit).await
    }

    async fn set_metadata(
        &self,
        verb: &str,
        image: &str,
        (key, value): (&str, &str),
        permit: &Permit,
    ) -> Result<(), OpError> {
        let args = ["image-meta", "set", &self.pool_namespace.spec(image), key, value];
        let call = Call::changes(self.what(verb, image), args, permit);
        Ok(self.ceph.rbd(call).await.map(drop)?)
    }

    /// Makes the image bigger; that it has that size already is a success.
    pub(super) async fn resize(&self, image: &str, size: u64, permit: &Permit) -> Result<(), OpError> {
        let args = ["resize", "--no-progress", "--size", &format!("{size}B")];
        match self.change(self.what("enlarge", image), &args, image, None, permit).await {
            Err(failed) if failed.reason != Reason::SameSize => Err(failed.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Cuts the end of the image off, with what is in it.
    pub(super) async fn shrink(&self, image: &str, size: u64, permit: &Permit) -> Result<(), OpError> {
        let args = ["resize", "--no-progress", "--allow-shrink", "--size", &format!("{size}B")];
        let what = self.what("purge a part of", image);
        Ok(self.change(what, &args, image, Some(LONG_PURGE), permit).await?)
    }

    pub(super) async fn rename(&self, image: &str, to: &str, permit: &Permit) -> Result<(), OpError> {
        let args = ["rename", &self.pool_namespace.spec(image)];
        Ok(self.change(self.what("rename", image), &args, to, None, permit).await?)
    }

    /// Moves the image to the trash.
    pub(super) async fn trash_move(
        &self,
        image: &str,
        keep: TrashExpiry,
        permit: &Permit,
    ) -> Result<(), OpError> {
        let until = match keep {
            TrashExpiry::After(time) => format!("{} seconds", time.as_secs()),
            TrashExpiry::Never => "2100-01-01T00:00:00Z".to_owned(),
        };
        let args = ["trash", "mv", "--expires-at", &until];
        Ok(self.change(self.what("move to the trash", image), &args, image, None, permit).await?)
    }

    /// Finishes a move to the trash that was interrupted; a success too where none was. Ceph keeps the expiry that it began with.
    ///
    /// What can be opened under the name is left alone: it may be another one by now, or wanted again.
    pub(super) async fn finish_move(&self, image: &str, permit: &Permit) -> Result<(), OpError> {
        if self.info(image).await?.is_some() {
            return Ok(());
        }
        match self.trash_move(image, TrashExpiry::After(GRACE), permit).await {
            Err(OpError::Call(failed)) if failed.reason == Reason::NoImage => Ok(()),
            outcome => outcome,
        }
    }

    /// Moves the image with this id from the trash back into its pool, under that name. [`Reason::Exists`] where another one is
    /// called so.
    pub(super) async fn trash_restore(&self, id: &str, image: &str, permit: &Permit) -> Result<(), OpError> {
        let what = format!("restore image {} (id {id})", self.pool_namespace.spec(image));
        Ok(self.change(what, &["trash", "restore", "--image", image], id, None, permit).await?)
    }

    /// Removes an image from the trash for good. Never forced: Ceph itself refuses what is to be kept still.
    pub(super) async fn purge(&self, entry: &TrashEntry, permit: &Permit) -> Result<(), OpError> {
        match self.purge_now(entry, permit).await {
            Err(OpError::Call(failed)) if failed.reason == Reason::HalfMoved => {
                self.finish_move(&entry.name, permit).await?;
                self.purge_now(entry, permit).await
            }
            outcome => outcome,
        }
    }

    async fn purge_now(&self, entry: &TrashEntry, permit: &Permit) -> Result<(), OpError> {
        let what = format!("purge image {} (id {})", self.pool_namespace.spec(&entry.name), entry.id);
        let args = ["trash", "rm", "--no-progress"];
        Self::was_there(self.change(what, &args, &entry.id, Some(LONG_PURGE), permit).await).map(drop)
    }

    /// Removes what is left of an image that was begun and cannot be opened: its name alone.
    ///
    /// What was interrupted on its way to the trash looks the same from outside. The trash is asked after the image could not be
    /// opened: an image is written there before it loses its name. What is called so by now, if the program should be late, goes to
    /// the trash and not away.
    pub(super) async fn clear(&self, image: &str, permit: &Permit) -> Result<(), OpError> {
        if self.in_trash().await?.iter().any(|entry| entry.name == image) {
            self.finish_move(image, permit).await?;
            let spec = self.pool_namespace.spec(image);
            return fail(Kind::Busy, format!("image {spec} was on its way to the trash and is there now"));
        }
        self.remove_into_trash(image, TrashExpiry::After(GRACE), permit).await?;
        self.store.trash.added(&self.pool_namespace);
        if let Some(now) = self.kube.now() {
            self.store.trash.expects(&self.pool_namespace, "", now + GRACE);
        }
        Ok(())
    }

    /// Moves the image to the trash by the one way that a full pool allows: `rbd rm`, told to keep what it removes. Whether
    /// there was such an image.
    pub(super) async fn remove_into_trash(
        &self,
        image: &str,
        keep: TrashExpiry,
        permit: &Permit,
    ) -> Result<bool, OpError> {
        let seconds = match keep {
            TrashExpiry::After(time) => time.as_secs(),
            TrashExpiry::Never => {
                let end: Timestamp = Timestamp::from_second(FOR_GOOD).unwrap_or(Timestamp::MAX);
                end.duration_since(Timestamp::now()).unsigned_abs().as_secs()
            }
        };
        let (option, value) = MOVE_TO_TRASH_ON_REMOVE;
        let expiry = "--rbd-move-to-trash-on-remove-expire-seconds";
        let args = ["rm", "--no-progress", option, value, expiry, &seconds.to_string()];
        Self::was_there(self.change(self.what("move to the trash", image), &args, image, None, permit).await)
    }

    /// Removes the image at once and for good, or goes on where that was interrupted.
    pub(super) async fn remove_for_good(&self, image: &str, permit: &Permit) -> Result<(), OpError> {
        let args = ["rm", "--no-progress", MOVE_TO_TRASH_ON_REMOVE.0, "false"];
        let what = self.what("remove", image);
        Self::was_there(self.change(what, &args, image, Some(LONG_READ), permit).await).map(drop)
    }

    /// Marks the image with this id, which is in the trash, where no program does that by name.
    pub(super) async fn set_mark_in_trash(
        &self,
        id: &str,
        mark: &Mark,
        permit: &Permit,
    ) -> Result<(), OpError> {
        let what = format!("note the owner of image {}", self.pool_namespace.spec(id));
        let key = format!("metadata_{OWNER}");
        self.set_key(what, &header::object(id), (&key, &mark.to_json()), permit).await
    }
}

/// The beginning of 2100.
const FOR_GOOD: i64 = 4_102_444_800;
/// What tells `rbd rm` to keep what it removes.
pub(super) const MOVE_TO_TRASH_ON_REMOVE: (&str, &str) = ("--rbd-move-to-trash-on-remove", "true");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ceph::fake::Answer;

    #[test]
    fn a_watcher_is_reported_by_its_address_and_its_node() {
        let watcher = |address: &str| Watcher { address: address.into(), client: 4589 };
        let nodes = |ip: IpAddr| (ip.to_string() == "10.0.0.7").then(|| "worker-7".to_owned());
        let rows = [
            ("10.0.0.8:0/2107219619", "client.4589 at 10.0.0.8"),
            ("10.0.0.7:0/2107219619", "client.4589 on node worker-7 (10.0.0.7)"),
            ("v1:10.0.0.7:0/1", "client.4589 on node worker-7 (10.0.0.7)"),
            ("[fd00::1]:0/1", "client.4589 at fd00::1"),
            ("somewhere", "client.4589 at somewhere"),
        ];
        for (address, expected) in rows {
            assert_eq!(watcher(address).describe(nodes), expected);
        }
    }

    #[test]
    fn an_image_tells_its_group_and_its_mirroring() {
        let read = |name: &str| -> Info {
            let Answer::Text(0, text, _) = Answer::recorded(name) else { panic!("{name}") };
            serde_json::from_str(text.trim()).unwrap()
        };
        let (grouped, mirrored, plain) =
            (read("rbd-info-grouped"), read("rbd-info-mirrored"), read("rbd-info"));
        assert_eq!(
            (grouped.group.as_deref(), grouped.is_mirrored_by_snapshots()),
            (Some("record/grp"), false)
        );
        assert!(mirrored.is_mirrored_by_snapshots() && mirrored.group.is_none());
        assert!(!plain.is_mirrored_by_snapshots() && plain.group.is_none());
    }

    /// What a program that answers so would make of it.
    fn documented<T: serde::de::DeserializeOwned>(name: &str) -> T {
        let Answer::Text(0, text, _) = Answer::documented(name) else { panic!("{name}") };
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    #[test]
    fn what_newer_versions_of_ceph_answer_about_images_is_read() {
        let mirrored: Info = documented("rbd-info-mirrored-v18");
        assert_eq!((mirrored.size, mirrored.snapshot_count), (8 << 20, 2));
        assert_eq!(mirrored.data_pool.as_deref(), Some("ec"));
        assert_eq!(
            mirrored.features().to_string(),
            "layering,exclusive-lock,object-map,fast-diff,deep-flatten"
        );
        let clone: Info = documented("rbd-info-encrypted-clone-v18");
        assert!(clone.parent.is_some() && mirrored.parent.is_none());
        let status: Status = documented("rbd-status-cached-v17");
        let told: Vec<String> = status.watchers.iter().map(|watcher| watcher.describe(|_| None)).collect();
        assert_eq!(told, ["client.4123 at fd00::7", "client.4124 at 10.0.0.7"]);
        assert_eq!(documented::<Vec<String>>("rbd-ls-v20"), ["berth-1", "one"]);
    }
}
