//! The kinds that this server knows.
//!
//! Entry points: [`RESOURCES`], [`find`] for a path of the API, [`Kind::resource`]. A kind is stored in one table
//! (its [`Kind`]); events are served in two groups out of one table. Deliberately not here: rules about the
//! contents of objects (see `rules`) and the columns that `kubectl get` prints (see `http::table`).

use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, StatefulSet},
    coordination::v1::Lease,
    core::v1::{
        ConfigMap, Endpoints, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret,
        Service, ServiceAccount,
    },
    events::v1::Event as NewEvent,
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    storage::v1::{CSIDriver, CSINode, StorageClass, VolumeAttachment},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Reads an object as its type and writes it again: what the type does not know is gone afterwards.
type RoundTrip = fn(&Value) -> Result<Value, serde_json::Error>;

fn round_trip<T: DeserializeOwned + Serialize>(value: &Value) -> Result<Value, serde_json::Error> {
    serde_json::to_value(T::deserialize(value)?)
}

/// A kind of object, as served under one group and version.
#[allow(clippy::struct_excessive_bools, reason = "properties of a kind, each its own")]
pub(crate) struct Resource {
    pub(crate) table: Kind,
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) singular: &'static str,
    pub(crate) short: &'static [&'static str],
    pub(crate) all: bool,
    pub(crate) namespaced: bool,
    pub(crate) subresources: &'static [&'static str],
    /// A completed delete answers with the object rather than with a Status.
    pub(crate) returns_deleted: bool,
    /// `metadata.generation` counts the changes of the spec.
    pub(crate) generation: bool,
    pub(crate) round_trip: RoundTrip,
}

impl Resource {
    /// `plural` or `plural.group`, as messages name a resource.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Writes the head of an object in a response: its type, up to and without its metadata.
    pub(crate) fn write_head(&self, out: &mut Vec<u8>) {
        let separator = if self.group.is_empty() { "" } else { "/" };
        let parts =
            ["{\"kind\":\"", self.kind, "\",\"apiVersion\":\"", self.group, separator, self.version, "\","];
        for part in parts {
            out.extend_from_slice(part.as_bytes());
        }
    }

    pub(crate) fn has_status(&self) -> bool {
        self.subresources.contains(&"status")
    }

    /// Whether this is the `events.k8s.io` view of the table of core events.
    pub(crate) fn is_new_event(&self) -> bool {
        self.table == Kind::Event && !self.group.is_empty()
    }
}

macro_rules! kinds {
    ($($name:ident),* $(,)?) => {
        /// The tables of the store.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "each is named as the Kubernetes kind that it holds")]
        pub enum Kind { $($name),* }

        impl Kind {
            /// Every table.
            pub(crate) const ALL: &[Kind] = &[$(Kind::$name),*];
        }
    };
}

kinds!(
    Namespace,
    PersistentVolumeClaim,
    PersistentVolume,
    Pod,
    Node,
    Event,
    Endpoints,
    Secret,
    ConfigMap,
    Service,
    ServiceAccount,
    StatefulSet,
    Deployment,
    DaemonSet,
    StorageClass,
    VolumeAttachment,
    CSINode,
    CSIDriver,
    Lease,
    Role,
    ClusterRole,
    RoleBinding,
    ClusterRoleBinding,
);

macro_rules! resource {
    ($table:ident $type:ty, $group:literal $version:literal $kind:literal $plural:literal $singular:literal,
     short $short:expr, $scope:ident, sub $sub:expr $(, $flag:ident)*) => {
        Resource {
            table: Kind::$table,
            group: $group,
            version: $version,
            kind: $kind,
            plural: $plural,
            singular: $singular,
            short: &$short,
            all: false $(|| resource!(@is all $flag))*,
            namespaced: resource!(@scope $scope),
            subresources: &$sub,
            returns_deleted: false $(|| resource!(@is returns $flag))*,
            generation: false $(|| resource!(@is generation $flag))*,
            round_trip: round_trip::<$type>,
        }
    };
    (@scope namespaced) => { true };
    (@scope cluster) => { false };
    (@is all all) => { true };
    (@is returns returns) => { true };
    (@is generation generation) => { true };
    (@is $a:ident $b:ident) => { false };
}

const NONE: [&str; 0] = [];
const RBAC: &str = "rbac.authorization.k8s.io";

/// Every kind under every group that serves it.
pub(crate) static RESOURCES: &[Resource] = &[
    resource!(ConfigMap ConfigMap, "" "v1" "ConfigMap" "configmaps" "configmap", short ["cm"], namespaced, sub NONE),
    resource!(Endpoints Endpoints, "" "v1" "Endpoints" "endpoints" "endpoints", short ["ep"], namespaced, sub NONE),
    resource!(Event Event, "" "v1" "Event" "events" "event", short ["ev"], namespaced, sub NONE),
    resource!(Namespace Namespace, "" "v1" "Namespace" "namespaces" "namespace", short ["ns"], cluster,
        sub ["finalize", "status"]),
    resource!(Node Node, "" "v1" "Node" "nodes" "node", short ["no"], cluster, sub ["status"]),
    resource!(PersistentVolumeClaim PersistentVolumeClaim, "" "v1" "PersistentVolumeClaim" "persistentvolumeclaims"
        "persistentvolumeclaim", short ["pvc"], namespaced, sub ["status"], returns),
    resource!(PersistentVolume PersistentVolume, "" "v1" "PersistentVolume" "persistentvolumes" "persistentvolume",
        short ["pv"], cluster, sub ["status"], returns),
    resource!(Pod Pod, "" "v1" "Pod" "pods" "pod", short ["po"], namespaced, sub ["binding", "status"], all, returns),
    resource!(Secret Secret, "" "v1" "Secret" "secrets" "secret", short NONE, namespaced, sub NONE),
    resource!(ServiceAccount ServiceAccount, "" "v1" "ServiceAccount" "serviceaccounts" "serviceaccount",
        short ["sa"], namespaced, sub NONE, returns),
    resource!(Service Service, "" "v1" "Service" "services" "service", short ["svc"], namespaced, sub ["status"],
        all, returns),
    resource!(DaemonSet DaemonSet, "apps" "v1" "DaemonSet" "daemonsets" "daemonset", short ["ds"], namespaced,
        sub ["status"], all, generation),
    resource!(Deployment Deployment, "apps" "v1" "Deployment" "deployments" "deployment", short ["deploy"],
        namespaced, sub ["scale", "status"], all, generation),
    resource!(StatefulSet StatefulSet, "apps" "v1" "StatefulSet" "statefulsets" "statefulset", short ["sts"],
        namespaced, sub ["scale", "status"], all, generation),
    resource!(Lease Lease, "coordination.k8s.io" "v1" "Lease" "leases" "lease", short NONE, namespaced, sub NONE),
    resource!(Event NewEvent, "events.k8s.io" "v1" "Event" "events" "event", short ["ev"], namespaced, sub NONE),
    resource!(ClusterRoleBinding ClusterRoleBinding, "rbac.authorization.k8s.io" "v1" "ClusterRoleBinding"
        "clusterrolebindings" "clusterrolebinding", short NONE, cluster, sub NONE),
    resource!(ClusterRole ClusterRole, "rbac.authorization.k8s.io" "v1" "ClusterRole" "clusterroles" "clusterrole",
        short NONE, cluster, sub NONE),
    resource!(RoleBinding RoleBinding, "rbac.authorization.k8s.io" "v1" "RoleBinding" "rolebindings" "rolebinding",
        short NONE, namespaced, sub NONE),
    resource!(Role Role, "rbac.authorization.k8s.io" "v1" "Role" "roles" "role", short NONE, namespaced, sub NONE),
    resource!(CSIDriver CSIDriver, "storage.k8s.io" "v1" "CSIDriver" "csidrivers" "csidriver", short NONE, cluster,
        sub NONE, returns, generation),
    resource!(CSINode CSINode, "storage.k8s.io" "v1" "CSINode" "csinodes" "csinode", short NONE, cluster, sub NONE,
        returns),
    resource!(StorageClass StorageClass, "storage.k8s.io" "v1" "StorageClass" "storageclasses" "storageclass",
        short ["sc"], cluster, sub NONE, returns),
    resource!(VolumeAttachment VolumeAttachment, "storage.k8s.io" "v1" "VolumeAttachment" "volumeattachments"
        "volumeattachment", short NONE, cluster, sub ["status"], returns),
];

/// The resource of a path of the API.
pub(crate) fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|r| r.plural == plural && r.group == group && r.version == version)
}

/// The resource of an object's `apiVersion` and `kind`.
pub(crate) fn of_object(api_version: &str, kind: &str) -> Option<&'static Resource> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    RESOURCES.iter().find(|r| r.kind == kind && r.group == group && r.version == version)
}

impl Kind {
    /// The resource under which the store's own code names this kind (core, for events).
    pub(crate) fn resource(self) -> &'static Resource {
        // The table above names every kind; the fallback is never taken.
        RESOURCES.iter().find(|r| r.table == self && !r.is_new_event()).unwrap_or(&FALLBACK)
    }

    /// Whether objects of this kind may have names that are mere path segments.
    pub(crate) fn has_lax_names(self) -> bool {
        self.resource().group == RBAC
    }
}

static FALLBACK: Resource = resource!(ConfigMap ConfigMap, "" "v1" "ConfigMap" "configmaps" "configmap",
    short ["cm"], namespaced, sub NONE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_its_resource() {
        for kind in Kind::ALL {
            assert_eq!(kind.resource().table, *kind);
            assert_eq!(format!("{kind:?}"), kind.resource().kind);
        }
    }
}
