//! The requests that the loop makes to the API server: [`Cluster`]; and why one failed: [`Failure`].
//!
//! Every call has a deadline and is made once: repeating is the queue's business, which does it with growing delays and
//! hears `Retry-After`. Answers are read into the trimmed types.
//!
//! Watches, leases, events and access reviews have their own ways to the server.

mod failure;

use std::{collections::BTreeSet, fmt, net::IpAddr, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _};
use http::{Method, Request, StatusCode, header};
use k8s_openapi::{
    api::{
        core::v1::{PersistentVolume, Secret},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{WatchEvent, WatchParams},
    client::Body,
    core::PartialObjectMeta,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

pub(super) use failure::{Cause, Failure, sentence};
use failure::{Status, answer, classify, failed, found};

use super::{
    class::Class,
    objects::{AttachmentObject, ClaimObject, SecretObject, VolumeObject},
};
use crate::volume::SecretName;

/// The API server.
#[derive(Clone)]
pub(super) struct Cluster {
    client: Client,
    timeout: Duration,
}

const VOLUMES: &str = "/api/v1/persistentvolumes";
const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";

/// The minor version of Kubernetes 1, which some write with more behind it: `31+`.
fn minor_of(major: &str, minor: &str) -> Option<u32> {
    let digits =
        minor.find(|c: char| !c.is_ascii_digit()).map_or(minor, |end| minor.get(..end).unwrap_or(""));
    (major == "1").then(|| digits.parse().ok()).flatten()
}

impl Cluster {
    /// Each request may take `timeout`.
    pub(super) fn new(client: Client, timeout: Duration) -> Self {
        Self { client, timeout }
    }

    /// The minor version of the API server, of Kubernetes 1; `None` where it does not say.
    pub(super) async fn minor_version(&self) -> Option<u32> {
        let version = tokio::time::timeout(self.timeout, self.client.apiserver_version()).await;
        match version {
            Ok(Ok(version)) => minor_of(&version.major, &version.minor),
            Ok(Err(error)) => {
                tracing::debug!(error = %error, "cannot ask the API server for its version");
                None
            }
            Err(_) => None,
        }
    }

    /// Creates a volume's object.
    pub(super) async fn create_volume(&self, volume: &PersistentVolume) -> Result<VolumeObject, Failure> {
        self.call(Method::POST, VOLUMES, Some((JSON, volume))).await
    }

    /// The volume as it is now.
    pub(super) async fn volume(&self, name: &str) -> Result<Option<VolumeObject>, Failure> {
        found(self.call(Method::GET, &format!("{VOLUMES}/{}", plain(name)?), None::<(_, &Value)>).await)
    }

    /// Deletes the object of this name if it has this UID and this version; that it is gone already is a success, that it was
    /// changed is [`Cause::Conflict`].
    ///
    /// Returns the finalizers that keep it: others may have come and gone since it was read.
    pub(super) async fn delete_volume(
        &self,
        name: &str,
        uid: &str,
        version: &str,
    ) -> Result<Vec<String>, Failure> {
        let preconditions = json!({"uid": uid, "resourceVersion": version});
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions});
        let path = format!("{VOLUMES}/{}", plain(name)?);
        let deleted: Result<Deleted, Failure> =
            self.call(Method::DELETE, &path, Some((JSON, &options))).await;
        Ok(found(deleted)?.map(|deleted| deleted.metadata.finalizers).unwrap_or_default())
    }

    /// Changes a volume's object by a strategic merge patch; that it is gone is a success.
    pub(super) async fn patch_volume(&self, name: &str, patch: &Value) -> Result<(), Failure> {
        found(self.patch(&format!("{VOLUMES}/{}", plain(name)?), patch).await).map(drop)
    }

    /// Changes a volume's object by a JSON patch whose tests say what must still hold; that it is gone is a success, that
    /// something does not hold any more is [`Cause::Invalid`].
    pub(super) async fn test_and_patch_volume(&self, name: &str, patch: &Value) -> Result<(), Failure> {
        let path = format!("{VOLUMES}/{}", plain(name)?);
        let patched: Result<Answer, Failure> =
            self.call(Method::PATCH, &path, Some(("application/json-patch+json", patch))).await;
        found(patched).map(drop)
    }

    /// The claim as it is now.
    pub(super) async fn claim(&self, namespace: &str, name: &str) -> Result<Option<ClaimObject>, Failure> {
        found(self.call(Method::GET, &claim_path(namespace, name)?, None::<(_, &Value)>).await)
    }

    /// Which of these UIDs belong to claims that live, in whatever namespace and under whatever name. Reads the metadata of all
    /// claims, page by page: for rare questions.
    pub(super) async fn living_claims(&self, uids: &BTreeSet<&str>) -> Result<BTreeSet<String>, Failure> {
        let mut living = BTreeSet::new();
        let claims = "/api/v1/persistentvolumeclaims";
        self.list(claims, METADATA, |item: Item| {
            living.extend(item.metadata.uid.filter(|uid| uids.contains(uid.as_str())));
        })
        .await?;
        Ok(living)
    }

    /// Changes a claim's status by a strategic merge patch; that it is gone is a success.
    pub(super) async fn patch_claim_status(
        &self,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<(), Failure> {
        found(self.patch(&format!("{}/status", claim_path(namespace, name)?), patch).await).map(drop)
    }

    /// Changes a `VolumeAttachment` by a strategic merge patch, or its subresource; `None` where it is gone.
    pub(super) async fn patch_attachment(
        &self,
        name: &str,
        subresource: &str,
        patch: &Value,
    ) -> Result<Option<AttachmentObject>, Failure> {
        let path = format!("{ATTACHMENTS}/{}{subresource}", plain(name)?);
        found(self.call(Method::PATCH, &path, Some((STRATEGIC_MERGE, patch))).await)
    }

    /// The class as it is now.
    pub(super) async fn class(&self, name: &str) -> Result<Option<Class>, Failure> {
        let path = format!("/apis/storage.k8s.io/v1/storageclasses/{}", plain(name)?);
        let class: Option<StorageClass> = found(self.call(Method::GET, &path, None::<(_, &Value)>).await)?;
        Ok(class.map(Class::from))
    }

    /// The Secret as it is now.
    pub(super) async fn secret(&self, namespace: &str, name: &str) -> Result<Option<SecretObject>, Failure> {
        self.read_secret(namespace, name, JSON).await
    }

    /// Whether there is a Secret of this name, without reading its values.
    pub(super) async fn has_secret(&self, secret: &SecretName) -> Result<bool, Failure> {
        Ok(self.secret_metadata(secret).await?.is_some())
    }

    /// The metadata of the Secret as it is now, without its values.
    pub(super) async fn secret_metadata(&self, secret: &SecretName) -> Result<Option<ObjectMeta>, Failure> {
        let read = self.read_secret(&secret.namespace, &secret.name, METADATA_OF_ONE).await?;
        Ok(read.map(|object: PartialObjectMeta<Secret>| object.metadata))
    }

    /// Reads a Secret in this form. Nothing of it is in an error.
    async fn read_secret<T: DeserializeOwned>(
        &self,
        namespace: &str,
        name: &str,
        accept: &str,
    ) -> Result<Option<T>, Failure> {
        let path = format!("{}/{}", secrets(namespace)?, plain(name)?);
        let answer = self.ask(&Method::GET, &path, accept, None::<(_, &Value)>).await;
        let Some(answer) = found(answer)? else { return Ok(None) };
        serde_json::from_slice(&answer).map(Some).map_err(|_| {
            failed(Cause::Unknown, &Method::GET, &path, &"the API server's answer is not a Secret")
        })
    }

    /// Watches this one Secret, without reading its values, until it is there; `false` where the server ended the watch before.
    pub(super) async fn secret_appears(&self, secret: &SecretName) -> kube::Result<bool> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &secret.namespace);
        let name = format!("metadata.name={}", secret.name);
        let params = WatchParams::default().fields(&name).timeout(SECRET_WATCH_SECONDS);
        // Version 0: what is there already comes first.
        let mut events = api.watch_metadata(&params, "0").await?.boxed();
        while let Some(event) = events.try_next().await? {
            match event {
                WatchEvent::Added(_) | WatchEvent::Modified(_) => return Ok(true),
                WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
                WatchEvent::Deleted(_) | WatchEvent::Bookmark(_) => {}
            }
        }
        Ok(false)
    }

    /// Creates a Secret.
    pub(super) async fn create_secret(&self, namespace: &str, secret: &Secret) -> Result<(), Failure> {
        let path = secrets(namespace)?;
        let body = Some((JSON, secret));
        self.ask(&Method::POST, &path, JSON, body).await.map(drop)
    }

    /// Deletes the Secret of this name if it has this UID; that it is gone already is a success.
    pub(super) async fn delete_secret(&self, namespace: &str, name: &str, uid: &str) -> Result<(), Failure> {
        let path = format!("{}/{}", secrets(namespace)?, plain(name)?);
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}});
        let body = Some((JSON, &options));
        found(self.ask(&Method::DELETE, &path, JSON, body).await).map(drop)
    }

    /// The addresses of all nodes, each with the node's name.
    pub(super) async fn node_addresses(&self) -> Result<Vec<(IpAddr, String)>, Failure> {
        let mut addresses = Vec::new();
        self.list("/api/v1/nodes", JSON, |node: NodeObject| {
            let texts = node.status.addresses.iter().flatten().map(|one| one.address.parse());
            let name = node.metadata.name.unwrap_or_default();
            addresses.extend(texts.filter_map(Result::ok).map(|address| (address, name.clone())));
        })
        .await?;
        Ok(addresses)
    }

    /// The UID of a namespace.
    pub(super) async fn namespace_uid(&self, name: &str) -> Result<Option<String>, Failure> {
        let path = format!("/api/v1/namespaces/{}", plain(name)?);
        let read: Option<Item> = found(self.call(Method::GET, &path, None::<(_, &Value)>).await)?;
        Ok(read.and_then(|namespace| namespace.metadata.uid))
    }

    async fn patch(&self, path: &str, change: &Value) -> Result<Answer, Failure> {
        self.call(Method::PATCH, path, Some((STRATEGIC_MERGE, change))).await
    }

    /// Hands each object of a list to `each`, page by page.
    async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        accept: &str,
        mut each: impl FnMut(T) + Send,
    ) -> Result<(), Failure> {
        let mut next = String::new();
        loop {
            let token: String = form_urlencoded::byte_serialize(next.as_bytes()).collect();
            let path = format!("{path}?limit={PAGE}&continue={token}");
            let page: Page<T> = self.call_for(Method::GET, &path, accept, None::<(_, &Value)>).await?;
            page.items.into_iter().flatten().for_each(&mut each);
            next = page.metadata.next;
            if next.is_empty() {
                return Ok(());
            }
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &impl Serialize)>,
    ) -> Result<T, Failure> {
        self.call_for(method, path, JSON, body).await
    }

    /// The same, for an answer in a certain form.
    async fn call_for<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        accept: &str,
        body: Option<(&str, &impl Serialize)>,
    ) -> Result<T, Failure> {
        let answer = self.ask(&method, path, accept, body).await?;
        serde_json::from_slice(&answer).map_err(|error| failed(Cause::Unknown, &method, path, &error))
    }

    /// The bytes of the answer.
    async fn ask(
        &self,
        method: &Method,
        path: &str,
        accept: &str,
        body: Option<(&str, &impl Serialize)>,
    ) -> Result<Vec<u8>, Failure> {
        let answer = tokio::time::timeout(self.timeout, self.exchange(method, path, accept, body)).await;
        answer.unwrap_or_else(|_| {
            let why = format!("no answer from the API server within {:?}", self.timeout);
            Err(failed(Cause::Unknown, method, path, &why))
        })
    }

    async fn exchange(
        &self,
        method: &Method,
        path: &str,
        accept: &str,
        body: Option<(&str, &impl Serialize)>,
    ) -> Result<Vec<u8>, Failure> {
        let failed = |cause, error: &dyn fmt::Display| failed(cause, method, path, error);
        let mut request = Request::builder().method(method).uri(path).header(header::ACCEPT, accept);
        let mut bytes = Vec::new();
        if let Some((content_type, value)) = body {
            request = request.header(header::CONTENT_TYPE, content_type);
            bytes = serde_json::to_vec(value).map_err(|error| failed(Cause::Invalid, &error))?;
        }
        let request = request.body(Body::from(bytes)).map_err(|error| failed(Cause::Invalid, &error))?;
        let response =
            self.client.send(request).await.map_err(|error| failed(Cause::Unknown, &sentence(&error)))?;
        let code = response.status();
        let after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let answer_bytes = response
            .into_body()
            .collect_bytes()
            .await
            .map_err(|error| failed(Cause::Unknown, &sentence(&error)))?;
        if code.is_success() {
            return Ok(answer_bytes.into());
        }
        let status: Status = serde_json::from_slice(&answer_bytes).unwrap_or_default();
        let after = after.or(status.details.and_then(|details| details.retry_after_seconds));
        let (cause, after) = classify(code, &status.reason, after);
        let message = if status.message.is_empty() && code != StatusCode::UNAUTHORIZED {
            // What a proxy says may be a whole page.
            let text = String::from_utf8_lossy(&answer_bytes).chars().take(200).collect::<String>();
            let words: Vec<&str> = text.split_whitespace().collect();
            format!("{method} {path}: {code}: {}", words.join(" "))
        } else {
            answer(code.as_u16(), &status.reason, &status.message)
        };
        Err(Failure { cause, after, message })
    }
}

/// One page of a list.
#[derive(Deserialize)]
struct Page<T> {
    #[serde(default)]
    metadata: PageMeta,
    items: Option<Vec<T>>,
}

/// A node, of which nothing but its addresses is read.
#[derive(Deserialize)]
struct NodeObject {
    #[serde(default)]
    metadata: ItemMeta,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NodeStatus {
    addresses: Option<Vec<NodeAddress>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NodeAddress {
    address: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PageMeta {
    #[serde(rename = "continue")]
    next: String,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    metadata: ItemMeta,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ItemMeta {
    name: Option<String>,
    uid: Option<String>,
}

/// Objects in one page of a list.
const PAGE: u32 = 500;
/// How long one watch of a Secret lasts.
const SECRET_WATCH_SECONDS: u32 = 290;

/// The form of requests and of whole answers.
const JSON: &str = "application/json";
/// The form of a change that says of lists what comes and goes.
const STRATEGIC_MERGE: &str = "application/strategic-merge-patch+json";
/// The form of an object without what it says.
const METADATA_OF_ONE: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

/// The form of a list without what the objects say.
const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";

/// The answer to a deletion: the object as it was left, or a `Status`, which has no finalizers.
#[derive(Deserialize)]
struct Deleted {
    #[serde(default)]
    metadata: DeletedMeta,
}

#[derive(Deserialize, Default)]
struct DeletedMeta {
    #[serde(default)]
    finalizers: Vec<String>,
}

/// An answer of which nothing is read.
#[derive(Deserialize)]
struct Answer {}

fn claim_path(namespace: &str, name: &str) -> Result<String, Failure> {
    Ok(format!("/api/v1/namespaces/{}/persistentvolumeclaims/{}", plain(namespace)?, plain(name)?))
}

fn secrets(namespace: &str) -> Result<String, Failure> {
    Ok(format!("/api/v1/namespaces/{}/secrets", plain(namespace)?))
}

/// A name as one segment of a path. Some names come from annotations or from records on the storage.
fn plain(name: &str) -> Result<&str, Failure> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    if ends(bytes.first()) && ends(bytes.last()) && bytes.len() <= 253 && bytes.iter().copied().all(plain) {
        return Ok(name);
    }
    let shown: String = name.chars().take(80).collect();
    Err(Failure {
        cause: Cause::NotFound,
        after: None,
        message: format!("{shown:?} cannot be the name of an object"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minor_version_is_read_as_servers_write_it() {
        for (major, minor, expected) in
            [("1", "31", Some(31)), ("1", "31+", Some(31)), ("1", "", None), ("2", "0", None), ("", "", None)]
        {
            assert_eq!(minor_of(major, minor), expected, "{major}.{minor}");
        }
    }

    #[test]
    fn a_name_cannot_lead_to_another_object() {
        for bad in ["", "..", "a/b", "a?b", "A", "-a", "a#", "%2e", &"a".repeat(254)] {
            assert_eq!(plain(bad).map_err(|failure| failure.cause), Err(Cause::NotFound), "{bad}");
        }
        assert_eq!(plain("pvc-1.a"), Ok("pvc-1.a"));
    }
}
