//! What an Event says, and of which object: [`Event`]. Pure values.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The object that an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Regarding {
    /// `v1`.
    pub api_version: Cow<'static, str>,
    /// `PersistentVolumeClaim`.
    pub kind: Cow<'static, str>,
    /// Its namespace; `None` for a cluster-wide object, whose events go to `default`.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Which version of it.
    pub resource_version: Option<String>,
}

impl Regarding {
    /// A claim.
    pub fn claim(namespace: &str, name: &str, uid: &str, resource_version: Option<&str>) -> Self {
        let metadata = ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            uid: Some(uid.to_owned()),
            resource_version: resource_version.map(str::to_owned),
            ..ObjectMeta::default()
        };
        Self::object("PersistentVolumeClaim", &metadata)
    }

    /// An object of this kind of the core API.
    pub fn object(kind: &'static str, metadata: &ObjectMeta) -> Self {
        Self {
            api_version: Cow::Borrowed("v1"),
            kind: Cow::Borrowed(kind),
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone(),
        }
    }
}

/// How much attention an event asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Type {
    /// For information.
    Normal,
    /// An administrator should look.
    Warning,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// To which object.
    pub regarding: Regarding,
    /// How bad it is.
    pub kind: Type,
    /// One word in CamelCase.
    pub reason: &'static str,
    /// What happened, as a sentence; what is longer than 1,024 bytes is cut.
    pub note: String,
}

/// What became of the events so far; for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Wait to be posted, or are being posted.
    pub pending: usize,
    /// Created on the server.
    pub created: u64,
    /// Added to an event that the server has.
    pub repeated: u64,
    /// Left out because the object had too many.
    pub suppressed: u64,
    /// Lost: too many at once, or the server refused them.
    pub dropped: u64,
}
