//! What the `rbd` program is asked and told about one image, and what its answers mean: the methods of [`Work`].
//!
//! Each is one call. What follows from an answer is decided elsewhere; what the answers look like is known only here.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    entry::{self, ARCHIVED, Entry},
    names,
    store::{Trouble, Work, said},
    stream::{self, Features},
};
use crate::{
    backend::{
        Error, Kind,
        ceph::{Call, Failed, Reason, Reply},
    },
    volume::{ClaimKey, Permit},
};

/// The metadata key under which an image says whose it is.
pub(super) const OWNER: &str = "berth.owner";
/// The metadata key under which an image says that its PV went and it was left on purpose, and when.
pub(super) const KEPT: &str = "berth.kept";

/// How long a deleted image stays in the trash at least. An image that somebody moves there by hand has no such time: that
/// tells ours from theirs, so it must be longer than the `rbd` program ever takes to start.
pub(super) const GRACE: Duration = Duration::from_secs(15);

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
}

impl Info {
    pub(super) fn features(&self) -> Features {
        Features::of_image(&self.features)
    }
}

/// Whose an image is: what we wrote on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The cluster of Kubernetes that it was made for; empty where that could not be known.
    #[serde(default)]
    pub(super) installation: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    /// When the image was begun.
    pub(super) since: Timestamp,
}

impl Mark {
    pub(super) fn new(installation: Option<String>, claim: ClaimKey) -> Self {
        Self {
            installation: installation.unwrap_or_default(),
            namespace: claim.namespace,
            name: claim.name,
            uid: claim.uid,
            since: Timestamp::now(),
        }
    }

    pub(super) fn claim(&self) -> ClaimKey {
        ClaimKey { namespace: self.namespace.clone(), name: self.name.clone(), uid: self.uid.clone() }
    }

    /// Whether it may be that of this installation: an unknown one is no other one, the claim's UID tells enough.
    pub(super) fn is_of(&self, installation: Option<&str>) -> bool {
        self.installation.is_empty() || installation.is_none_or(|here| here == self.installation)
    }

    pub(super) fn to_json(&self) -> String {
        // A struct of texts always can be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "claim {} with UID {}", self.claim(), self.uid)?;
        if !self.installation.is_empty() {
            write!(f, " of the cluster with the identity {}", self.installation)?;
        }
        Ok(())
    }
}

/// All metadata of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(super) struct Metadata(BTreeMap<String, String>);

impl Metadata {
    /// Our mark; an error where there is one that cannot be read.
    pub(super) fn mark(&self, image: &str) -> Result<Option<Mark>, Error> {
        let Some(text) = self.0.get(OWNER) else { return Ok(None) };
        serde_json::from_str(text).map(Some).map_err(|error| {
            let message = format!(
                "the owner of image {image}, its metadata {OWNER}, cannot be read ({error}); nothing was touched. Correct it: \
                 rbd image-meta set {image} {OWNER} '<json>'"
            );
            Error::new(Kind::Refused, message)
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the image was left on purpose when its PV went.
    pub(super) fn is_kept(&self) -> bool {
        self.0.contains_key(KEPT)
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
    pub(super) fn told(&self, node_at: impl Fn(IpAddr) -> Option<String>) -> String {
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
pub(super) struct Look {
    pub(super) info: Info,
    pub(super) metadata: Metadata,
    pub(super) watchers: Vec<Watcher>,
}

/// What an image in the trash is called.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Called {
    pub(super) id: String,
    pub(super) name: String,
}

#[derive(Deserialize)]
struct Status {
    watchers: Vec<Watcher>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Child {
    pool: String,
    #[serde(default)]
    pool_namespace: String,
    image: String,
}

impl Work {
    fn what(&self, verb: &str, image: &str) -> String {
        format!("{verb} image {}", self.spot.spec(image))
    }

    /// `None` where there is no such image.
    fn there<T>(result: Result<T, Failed>) -> Result<Option<T>, Trouble> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(failed) if failed.reason == Reason::NoImage => Ok(None),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Makes an image with its mark by one program. [`Reason::Exists`] where there is one.
    pub(super) async fn import(
        &self,
        image: &str,
        size: u64,
        features: Features,
        data_pool: Option<&str>,
        mark: &Mark,
        permit: &Permit,
    ) -> Result<(), Failed> {
        let mut args = ["import", "--no-progress", "--export-format", "2"].map(String::from).to_vec();
        if let Some(pool) = data_pool {
            args.extend(["--data-pool".to_owned(), pool.to_owned()]);
        }
        args.extend(["-".to_owned(), self.spot.spec(image)]);
        let stream = stream::image(size, features, OWNER, &mark.to_json());
        let call = Call::changes(self.what("make", image), args, permit).stdin(stream);
        self.ceph.rbd(call).await.map(drop)
    }

    pub(super) async fn info(&self, image: &str) -> Result<Option<Info>, Trouble> {
        let args = ["info", "--format", "json", &self.spot.spec(image)].map(str::to_owned);
        let Some(reply) = Self::there(self.ceph.rbd(Call::reads(self.what("read", image), args)).await)?
        else {
            return Ok(None);
        };
        Ok(Some(reply.must_json()?))
    }

    pub(super) async fn metadata(&self, image: &str) -> Result<Option<Metadata>, Trouble> {
        let args = ["image-meta", "list", "--format", "json", &self.spot.spec(image)].map(str::to_owned);
        let call = Call::reads(self.what("read the metadata of", image), args);
        let Some(reply) = Self::there(self.ceph.rbd(call).await)? else { return Ok(None) };
        // The one answer that is empty where there is nothing.
        Ok(Some(reply.json()?.unwrap_or_default()))
    }

    async fn watchers(&self, image: &str) -> Result<Option<Vec<Watcher>>, Trouble> {
        let args = ["status", "--format", "json", &self.spot.spec(image)].map(str::to_owned);
        let call = Call::reads(self.what("ask who uses", image), args);
        let Some(reply) = Self::there(self.ceph.rbd(call).await)? else { return Ok(None) };
        Ok(Some(reply.must_json::<Status>()?.watchers))
    }

    /// Everything about an image; `None` where it is not there.
    ///
    /// Who watches it is asked last, when no other program of ours has it open: reading metadata opens an image for
    /// writing, and would be taken for somebody who uses it.
    pub(super) async fn look(&self, image: &str) -> Result<Option<Look>, Trouble> {
        let Some((info, metadata)) = self.glance(image).await? else { return Ok(None) };
        let Some(watchers) = self.watchers(image).await? else { return Ok(None) };
        Ok(Some(Look { info, metadata, watchers }))
    }

    /// Everything about an image but who uses it, by two programs side by side.
    pub(super) async fn glance(&self, image: &str) -> Result<Option<(Info, Metadata)>, Trouble> {
        let (info, metadata) = futures::join!(self.info(image), self.metadata(image));
        Ok(info?.zip(metadata?))
    }

    /// Whether anything was ever written to the image, its beginning or its end alike.
    pub(super) async fn has_content(&self, image: &str) -> Result<bool, Trouble> {
        let args = ["diff", "--format", "json", &self.spot.spec(image)].map(str::to_owned);
        let call = Call::reads(self.what("look for content in", image), args).within(LONG_READ);
        let found: Option<Vec<serde_json::Value>> = self.ceph.rbd(call).await?.json()?;
        Ok(found.is_none_or(|extents| !extents.is_empty()))
    }

    /// The image's snapshots and the clones made of them, in words.
    pub(super) async fn dependents(&self, image: &str) -> Result<String, Trouble> {
        let spec = self.spot.spec(image);
        let list = ["snap", "ls", "--format", "json", &spec].map(str::to_owned);
        let call = Call::reads(self.what("list the snapshots of", image), list);
        let snapshots: Vec<Named> = self.ceph.rbd(call).await?.must_json()?;
        let children = ["children", "--all", "--format", "json", &spec].map(str::to_owned);
        let call = Call::reads(self.what("list the clones of", image), children);
        let children: Vec<Child> = self.ceph.rbd(call).await?.must_json()?;
        let names: Vec<String> = snapshots.into_iter().map(|snapshot| snapshot.name).collect();
        let mut text = listed(&names);
        if !children.is_empty() {
            let namespace = |child: &Child| {
                if child.pool_namespace.is_empty() {
                    String::new()
                } else {
                    format!("{}/", child.pool_namespace)
                }
            };
            let names: Vec<String> = children
                .iter()
                .map(|child| format!("{}/{}{}", child.pool, namespace(child), child.image))
                .collect();
            let _ = write!(text, ", of which there are the clones {}", listed(&names));
        }
        Ok(text)
    }

    pub(super) async fn set_mark(&self, image: &str, mark: &Mark, permit: &Permit) -> Result<(), Trouble> {
        let args = ["image-meta", "set", &self.spot.spec(image), OWNER, &mark.to_json()].map(str::to_owned);
        let call = Call::changes(self.what("note the owner of", image), args, permit);
        Ok(self.ceph.rbd(call).await.map(drop)?)
    }

    /// Notes that the image is left on purpose.
    pub(super) async fn set_kept(&self, image: &str, permit: &Permit) -> Result<(), Trouble> {
        let now = Timestamp::now().to_string();
        let args = ["image-meta", "set", &self.spot.spec(image), KEPT, &now].map(str::to_owned);
        let call = Call::changes(self.what("note the keeping of", image), args, permit);
        Ok(self.ceph.rbd(call).await.map(drop)?)
    }

    /// Makes the image bigger; that it has that size already is a success.
    pub(super) async fn resize(&self, image: &str, size: u64, permit: &Permit) -> Result<(), Trouble> {
        let args = ["resize", "--no-progress", "--size", &format!("{size}B"), &self.spot.spec(image)]
            .map(str::to_owned);
        match self.ceph.rbd(Call::changes(self.what("enlarge", image), args, permit)).await {
            Ok(_) => Ok(()),
            Err(failed) if failed.reason == Reason::SameSize => Ok(()),
            Err(failed) => Err(failed.into()),
        }
    }

    pub(super) async fn rename(&self, image: &str, to: &str, permit: &Permit) -> Result<(), Trouble> {
        let args = ["rename", &self.spot.spec(image), &self.spot.spec(to)].map(str::to_owned);
        let call = Call::changes(self.what("rename", image), args, permit);
        Ok(self.ceph.rbd(call).await.map(drop)?)
    }

    /// Moves the image to the trash, to be purged soon.
    pub(super) async fn trash(&self, image: &str, permit: &Permit) -> Result<(), Trouble> {
        self.to_trash(image, &format!("{} seconds", GRACE.as_secs()), permit).await
    }

    /// Notes that something was moved to the trash, to be purged.
    pub(super) fn waits_in_trash(&self) {
        self.store.trash.added(&self.spot, self.store.now() + GRACE);
    }

    /// Moves the image to the trash, to be kept there.
    pub(super) async fn archive(
        &self,
        image: &str,
        expiry: Option<Duration>,
        permit: &Permit,
    ) -> Result<(), Trouble> {
        let until = match expiry {
            // Ceph counts seconds in 32 bits, which end in 2106.
            None => "2100-01-01T00:00:00Z".to_owned(),
            Some(duration) => format!("{} seconds", duration.max(ARCHIVED).as_secs()),
        };
        self.to_trash(image, &until, permit).await
    }

    async fn to_trash(&self, image: &str, until: &str, permit: &Permit) -> Result<(), Trouble> {
        let args = ["trash", "mv", "--expires-at", until, &self.spot.spec(image)].map(str::to_owned);
        let call = Call::changes(self.what("move to the trash", image), args, permit);
        Ok(self.ceph.rbd(call).await.map(drop)?)
    }

    /// Finishes a move to the trash that was broken off; a success too where none was. Ceph keeps the expiry that it began with.
    ///
    /// What can be opened under the name is left alone: it may be another one by now, or wanted again.
    pub(super) async fn finish_move(&self, image: &str, permit: &Permit) -> Result<(), Trouble> {
        if self.info(image).await?.is_some() {
            return Ok(());
        }
        match self.trash(image, permit).await {
            Err(Trouble::Call(failed)) if failed.reason == Reason::NoImage => Ok(()),
            outcome => outcome,
        }
    }

    /// What was moved to the trash, without opening anything.
    pub(super) async fn in_trash(&self) -> Result<Vec<Entry>, Trouble> {
        let mut args = vec!["-p", &self.spot.pool];
        if let Some(namespace) = &self.spot.namespace {
            args.extend(["-N", namespace]);
        }
        args.extend(["listomapvals", entry::OBJECT]);
        let call = Call::reads(format!("list the trash of {}", self.spot), args).within(LONG_READ);
        let reply = match self.ceph.rados(call).await {
            Ok(reply) => reply,
            // Nothing was ever moved there.
            Err(failed) if failed.reason == Reason::NoObject => return Ok(Vec::new()),
            Err(failed) => return Err(failed.into()),
        };
        entry::read(reply.text()?).map_or_else(
            || {
                said(
                    Kind::Internal,
                    format!("list the trash of {}: the answer of Ceph is not understood", self.spot),
                )
            },
            Ok,
        )
    }

    /// What everything in the trash is called, whoever put it there. Opens nothing.
    pub(super) async fn called_in_trash(&self) -> Result<Vec<Called>, Trouble> {
        let args = ["trash", "ls", "--all", "--format", "json", &self.spot.to_string()].map(str::to_owned);
        let call = Call::reads(format!("list the names in the trash of {}", self.spot), args);
        Ok(self.ceph.rbd(call).await?.must_json()?)
    }

    /// Removes an image from the trash for good. Never forced: Ceph itself refuses what is to be kept still.
    pub(super) async fn purge(&self, entry: &Entry, permit: &Permit) -> Result<(), Trouble> {
        match self.purge_now(entry, permit).await {
            Err(Trouble::Call(failed)) if failed.reason == Reason::HalfMoved => {
                self.finish_move(&entry.name, permit).await?;
                self.purge_now(entry, permit).await
            }
            outcome => outcome,
        }
    }

    async fn purge_now(&self, entry: &Entry, permit: &Permit) -> Result<(), Trouble> {
        let args = ["trash", "rm", "--no-progress", &self.spot.spec(&entry.id)].map(str::to_owned);
        let what = format!("purge image {} (id {})", self.spot.spec(&entry.name), entry.id);
        Self::there(self.ceph.rbd(Call::changes(what, args, permit).within(LONG_PURGE)).await).map(drop)
    }

    /// Removes what is left of an image that was begun and cannot be opened: its name alone.
    ///
    /// What was broken off on its way to the trash looks the same from outside, and `rbd rm` would remove it from the trash too,
    /// however long it is to be kept there. The trash is asked after the image could not be opened: an image is written
    /// there before it loses its name.
    pub(super) async fn clear(&self, image: &str, permit: &Permit) -> Result<(), Trouble> {
        if self.called_in_trash().await?.iter().any(|called| called.name == image) {
            self.finish_move(image, permit).await?;
            let spec = self.spot.spec(image);
            return said(Kind::Busy, format!("image {spec} was on its way to the trash and is there now"));
        }
        let args = ["rm", "--no-progress", &self.spot.spec(image)].map(str::to_owned);
        let call = Call::changes(self.what("clear the unfinished", image), args, permit);
        Self::there(self.ceph.rbd(call).await).map(drop)
    }

    /// The names of all images.
    pub(super) async fn images(&self) -> Result<Vec<String>, Trouble> {
        let args = ["ls", "--format", "json", &self.spot.to_string()].map(str::to_owned);
        let call = Call::reads(format!("list the images of {}", self.spot), args);
        Ok(self.ceph.rbd(call).await?.must_json()?)
    }

    /// The RADOS namespaces of the pool.
    pub(super) async fn namespaces(&self) -> Result<Vec<String>, Trouble> {
        let args = ["namespace", "ls", "--format", "json", &self.spot.pool].map(str::to_owned);
        let call = Call::reads(format!("list the namespaces of pool {}", self.spot.pool), args);
        let found: Vec<Named> = self.ceph.rbd(call).await?.must_json()?;
        Ok(found.into_iter().map(|namespace| namespace.name).collect())
    }

    /// The pools of the cluster that are meant for images.
    pub(super) async fn pools(&self) -> Result<Vec<String>, Trouble> {
        let call = Call::reads("list the pools", ["osd", "pool", "ls", "detail"]);
        Ok(rbd_pools(&self.ceph.ceph(call).await?)?)
    }
}

fn rbd_pools(reply: &Reply) -> Result<Vec<String>, Error> {
    #[derive(Deserialize)]
    struct Pool {
        pool_name: String,
        #[serde(default)]
        application_metadata: BTreeMap<String, serde_json::Value>,
    }
    let found: Vec<Pool> = reply.must_json()?;
    let pools = found.into_iter().filter(|pool| pool.application_metadata.contains_key("rbd"));
    Ok(pools.map(|pool| pool.pool_name).filter(|pool| names::checked("pool name", pool).is_ok()).collect())
}

/// Names with commas, the first few of many.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ceph::{
        Tool,
        fake::{Answer, Fake},
    };

    #[test]
    fn a_watcher_is_told_by_its_address_and_its_node() {
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
            assert_eq!(watcher(address).told(nodes), expected);
        }
    }

    #[test]
    fn a_mark_reads_back_and_bears_what_newer_versions_add() {
        let mark = Mark {
            installation: "k".into(),
            namespace: "team".into(),
            name: "data".into(),
            uid: "u".into(),
            since: "2026-11-22T05:27:38Z".parse().unwrap(),
        };
        let metadata = |text: &str| Metadata(BTreeMap::from([(OWNER.to_owned(), text.to_owned())]));
        assert_eq!(metadata(&mark.to_json()).mark("i").unwrap(), Some(mark.clone()));
        let newer = mark.to_json().replace("{\"", "{\"more\":{\"a\":1},\"");
        assert_eq!(metadata(&newer).mark("i").unwrap(), Some(mark));
        assert_eq!(Metadata::default().mark("i").unwrap(), None);
        let error = metadata("nonsense").mark("rbd/i").unwrap_err();
        assert_eq!(error.kind(), Kind::Refused);
        assert!(error.to_string().contains("rbd/i"), "{error}");
    }

    #[test]
    fn an_unknown_installation_is_no_other_one() {
        let mark = |installation: &str| Mark {
            installation: installation.into(),
            namespace: String::new(),
            name: String::new(),
            uid: String::new(),
            since: Timestamp::UNIX_EPOCH,
        };
        assert!(mark("here").is_of(Some("here")));
        assert!(mark("").is_of(Some("here")));
        assert!(mark("there").is_of(None));
        assert!(!mark("there").is_of(Some("here")));
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
        let told: Vec<String> = status.watchers.iter().map(|watcher| watcher.told(|_| None)).collect();
        assert_eq!(told, ["client.4123 at fd00::7", "client.4124 at 10.0.0.7"]);
        assert_eq!(documented::<Vec<String>>("rbd-ls-v20"), ["berth-1", "one"]);
        let called: Vec<Called> = documented("rbd-trash-ls-v18");
        assert_eq!((called[0].id.as_str(), called[0].name.as_str()), ("10a5c0ffee12", "berth-1"));
    }

    #[test]
    fn what_a_newer_version_of_ceph_keeps_in_the_trash_is_read() {
        let Answer::Text(0, text, _) = Answer::documented("rados-trash-with-group-v20") else { panic!() };
        let read = entry::read(&text).unwrap();
        let names: Vec<&str> = read.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["berth-1"], "what is being removed did not come by a move");
        assert_eq!(read[0].until.duration_since(read[0].since).unwrap(), GRACE);
    }

    #[tokio::test]
    async fn pools_are_found_also_where_ceph_writes_numbers_that_json_does_not_have() {
        let fake = Fake::new();
        let detail = Answer::documented("ceph-osd-pool-ls-detail-v18");
        fake.expect(Tool::Ceph, &["osd", "pool", "ls", "detail"], detail);
        let reply = fake.ceph().ceph(Call::reads("list", ["osd", "pool", "ls", "detail"])).await.unwrap();
        assert_eq!(rbd_pools(&reply).unwrap(), ["rbd"]);
    }

    #[test]
    fn of_many_names_a_few_are_told() {
        let names: Vec<String> = (1..=7).map(|i| format!("s{i}")).collect();
        assert_eq!(listed(&names), "s1, s2, s3, s4, s5 and 2 more");
        assert_eq!(listed(&names[..2]), "s1, s2");
    }
}
