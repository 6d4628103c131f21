//! The two objects that can be the lock: a `Lease`, and the annotated `Endpoints` of the old provisioners.
//!
//! It reads and writes them as one [`LockRecord`] and names why that failed. It decides nothing.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::Endpoints,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, ResourceExt, api::PostParams};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::provisioner::cluster::sentence;

/// Where the old provisioners keep the record on an `Endpoints` object.
pub(super) const LEADER_ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";

/// On our `Lease`: the version of the old lock that was proven dead, so that no restart waits for it again.
const SUPERSEDED_ANNOTATION: &str = "berth.storage/superseded-lock";

/// What a lock says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct LockRecord {
    /// Who holds it; empty after a release.
    pub(super) holder: String,
    /// How long after a renewal it is held, in whole seconds.
    pub(super) seconds: i64,
    pub(super) acquired: Option<Timestamp>,
    pub(super) renewed: Option<Timestamp>,
    pub(super) transitions: i32,
}

impl LockRecord {
    /// How long after a renewal it is held; `None` where it does not say so sensibly.
    pub(super) fn duration(&self) -> Option<Duration> {
        u64::try_from(self.seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }
}

/// The record in the words of the old client library.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Annotation {
    holder_identity: String,
    lease_duration_seconds: i64,
    acquire_time: Option<String>,
    renew_time: Option<String>,
    leader_transitions: i32,
}

impl Default for Annotation {
    fn default() -> Self {
        Self::from(&LockRecord::default())
    }
}

impl From<&LockRecord> for Annotation {
    fn from(record: &LockRecord) -> Self {
        let text = |time: Option<Timestamp>| {
            time.and_then(|time| Timestamp::from_second(time.as_second()).ok()).map(|time| time.to_string())
        };
        Self {
            holder_identity: record.holder.clone(),
            lease_duration_seconds: record.seconds,
            acquire_time: text(record.acquired),
            renew_time: text(record.renewed),
            leader_transitions: record.transitions,
        }
    }
}

impl From<Annotation> for LockRecord {
    fn from(annotation: Annotation) -> Self {
        let time = |text: Option<String>| text.and_then(|text| text.parse().ok());
        Self {
            holder: annotation.holder_identity,
            seconds: annotation.lease_duration_seconds,
            acquired: time(annotation.acquire_time),
            renewed: time(annotation.renew_time),
            transitions: annotation.leader_transitions,
        }
    }
}

/// Which of the two objects is the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Lease,
    Endpoints,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lease => "Lease",
            Self::Endpoints => "Endpoints",
        })
    }
}

#[derive(Debug, Clone)]
enum Object {
    Lease(Box<Lease>),
    Endpoints(Box<Endpoints>),
}

/// The lock as the server had it at one moment.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    /// `None` where the object exists and says nothing of a leader.
    pub(super) record: Option<LockRecord>,
    object: Object,
}

impl Observed {
    fn of_lease(lease: Lease) -> Self {
        let record = lease.spec.as_ref().map(|spec| LockRecord {
            holder: spec.holder_identity.clone().unwrap_or_default(),
            seconds: spec.lease_duration_seconds.unwrap_or(0).into(),
            acquired: spec.acquire_time.as_ref().map(|time| time.0),
            renewed: spec.renew_time.as_ref().map(|time| time.0),
            transitions: spec.lease_transitions.unwrap_or(0),
        });
        Self { record, object: Object::Lease(Box::new(lease)) }
    }

    fn of_endpoints(endpoints: Endpoints) -> Self {
        let text = endpoints.annotations().get(LEADER_ANNOTATION);
        let record = text.and_then(|text| parse_annotation(text));
        Self { record, object: Object::Endpoints(Box::new(endpoints)) }
    }

    fn metadata(&self) -> &ObjectMeta {
        match &self.object {
            Object::Lease(lease) => &lease.metadata,
            Object::Endpoints(endpoints) => &endpoints.metadata,
        }
    }

    /// The UID that the server gave this object.
    pub(super) fn uid(&self) -> Option<&str> {
        self.metadata().uid.as_deref()
    }

    /// Names this state of this object: changes with every write, and is never used again.
    pub(super) fn version(&self) -> String {
        let metadata = self.metadata();
        let part = |part: &Option<String>| part.clone().unwrap_or_default();
        format!("{}/{}", part(&metadata.uid), part(&metadata.resource_version))
    }

    /// The version of the old lock that this lock succeeds.
    pub(super) fn superseded(&self) -> Option<&str> {
        self.metadata().annotations.as_ref()?.get(SUPERSEDED_ANNOTATION).map(String::as_str)
    }

    /// The object with another record.
    fn with(&self, record: &LockRecord, superseded: Option<&str>) -> Result<Object, OpError> {
        Ok(match &self.object {
            Object::Lease(lease) => {
                let mut lease = lease.clone();
                if let Some(version) = superseded {
                    lease.annotations_mut().insert(SUPERSEDED_ANNOTATION.into(), version.into());
                }
                let spec = LeaseSpec {
                    preferred_holder: lease.spec.as_ref().and_then(|spec| spec.preferred_holder.clone()),
                    strategy: lease.spec.as_ref().and_then(|spec| spec.strategy.clone()),
                    ..spec(record)
                };
                lease.spec = Some(spec);
                Object::Lease(lease)
            }
            Object::Endpoints(endpoints) => {
                let mut endpoints = endpoints.clone();
                endpoints.annotations_mut().insert(LEADER_ANNOTATION.into(), annotation(record)?);
                Object::Endpoints(endpoints)
            }
        })
    }
}

fn spec(record: &LockRecord) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(record.holder.clone()),
        lease_duration_seconds: i32::try_from(record.seconds).ok(),
        acquire_time: record.acquired.map(MicroTime),
        renew_time: record.renewed.map(MicroTime),
        lease_transitions: Some(record.transitions),
        ..LeaseSpec::default()
    }
}

pub(super) fn parse_annotation(text: &str) -> Option<LockRecord> {
    serde_json::from_str::<Annotation>(text).ok().map(LockRecord::from)
}

pub(super) fn annotation(record: &LockRecord) -> Result<String, OpError> {
    serde_json::to_string(&Annotation::from(record)).map_err(|error| OpError::Other(error.to_string()))
}

/// Why a lock could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OpError {
    /// It was written since it was read.
    Conflict,
    /// It is gone, or the server has no such kind.
    Missing,
    /// The role does not allow it, or the server cannot do it at all.
    Forbidden(String),
    /// Anything else; whether a write went through is not known.
    Other(String),
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict => f.write_str("other replicas keep changing the lock"),
            Self::Missing => f.write_str("the lock was deleted in between"),
            Self::Forbidden(why) => write!(f, "the server refused: {why}"),
            Self::Other(why) => f.write_str(why),
        }
    }
}

impl From<kube::Error> for OpError {
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(status) = error else { return Self::Other(sentence(&error)) };
        let details = status.details.as_ref();
        let ending = details
            .is_some_and(|details| details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating"));
        let no_namespace = details.is_some_and(|details| details.kind == "namespaces");
        let text = match status.message.as_str() {
            "" => format!("{} {}", status.code, status.reason),
            message => message.to_owned(),
        };
        match status.code {
            403 if !ending => Self::Forbidden(text),
            404 if !no_namespace => Self::Missing,
            409 => Self::Conflict,
            _ => Self::Other(text),
        }
    }
}

/// Both locks of one name.
#[derive(Clone)]
pub(super) struct Locks {
    leases: Api<Lease>,
    endpoints: Api<Endpoints>,
    name: String,
    /// How long one request may take.
    limit: Duration,
}

impl Locks {
    pub(super) fn new(client: Client, namespace: &str, name: &str, limit: Duration) -> Self {
        let leases = Api::namespaced(client.clone(), namespace);
        Self { leases, endpoints: Api::namespaced(client, namespace), name: name.to_owned(), limit }
    }

    pub(super) async fn get(&self, kind: Kind) -> Result<Option<Observed>, OpError> {
        self.limited(async {
            Ok(match kind {
                Kind::Lease => self.leases.get_opt(&self.name).await?.map(Observed::of_lease),
                Kind::Endpoints => self.endpoints.get_opt(&self.name).await?.map(Observed::of_endpoints),
            })
        })
        .await
    }

    pub(super) async fn create(
        &self,
        kind: Kind,
        record: &LockRecord,
        superseded: Option<&str>,
    ) -> Result<Observed, OpError> {
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        let empty = match kind {
            Kind::Lease => Observed::of_lease(Lease { metadata, spec: None }),
            Kind::Endpoints => Observed::of_endpoints(Endpoints { metadata, subsets: None }),
        };
        let object = empty.with(record, superseded)?;
        let how = PostParams::default();
        let created = self.limited(async {
            Ok(match &object {
                Object::Lease(lease) => Observed::of_lease(self.leases.create(&how, lease).await?),
                Object::Endpoints(endpoints) => {
                    Observed::of_endpoints(self.endpoints.create(&how, endpoints).await?)
                }
            })
        });
        match created.await {
            // What is created cannot be missing: it is the kind that the server does not know.
            Err(OpError::Missing) => Err(OpError::Forbidden(format!("the server has no {kind}"))),
            done => done,
        }
    }

    /// Writes the record over exactly what was observed.
    pub(super) async fn replace(
        &self,
        old: &Observed,
        record: &LockRecord,
        superseded: Option<&str>,
    ) -> Result<Observed, OpError> {
        let object = old.with(record, superseded)?;
        let how = PostParams::default();
        self.limited(async {
            Ok(match &object {
                Object::Lease(lease) => {
                    Observed::of_lease(self.leases.replace(&self.name, &how, lease).await?)
                }
                Object::Endpoints(endpoints) => {
                    Observed::of_endpoints(self.endpoints.replace(&self.name, &how, endpoints).await?)
                }
            })
        })
        .await
    }

    async fn limited<T>(&self, request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, OpError> {
        match timeout(self.limit, request).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(OpError::Other(format!("no answer within {:?}", self.limit))),
        }
    }
}
