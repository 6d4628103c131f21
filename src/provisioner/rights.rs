//! What the API server lets us do, and what we do without: [`Rights`], kept up to date by [`Monitor`].
//!
//! It asks at the start, and again after a refusal. [`degrade`] says in words what is missing.
//! The loop goes without finalizers and expansion where their rights are missing; any other right that is missing shows as a 403
//! where it is used.

mod monitor;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

pub use monitor::Monitor;

/// One thing that the loop may have to do with the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "verb and resource")]
pub enum Right {
    GetVolumes,
    ListVolumes,
    WatchVolumes,
    CreateVolumes,
    DeleteVolumes,
    PatchVolumes,
    GetClaims,
    ListClaims,
    WatchClaims,
    PatchClaimStatus,
    GetClasses,
    ListClasses,
    WatchClasses,
    CreateEvents,
    PatchEvents,
    GetLeases,
    CreateLeases,
    UpdateLeases,
    GetEndpoints,
    CreateEndpoints,
    UpdateEndpoints,
    GetSecrets,
    CreateSecrets,
    DeleteSecrets,
    GetKubeSystem,
    ListNodes,
    ListAttachments,
    WatchAttachments,
    PatchAttachments,
    PatchAttachmentStatus,
}

/// A right in the words of RBAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    group: &'static str,
    resource: &'static str,
    subresource: &'static str,
    verb: &'static str,
    /// The only object that is meant; empty for all.
    name: &'static str,
    /// Asked in our own namespace only.
    namespaced: bool,
}

impl Right {
    fn rule(self) -> Rule {
        let rule = |group, resource, subresource, verb, namespaced| Rule {
            group,
            resource,
            subresource,
            verb,
            name: "",
            namespaced,
        };
        let volumes = |verb| rule("", "persistentvolumes", "", verb, false);
        let claims = |verb| rule("", "persistentvolumeclaims", "", verb, false);
        let classes = |verb| rule("storage.k8s.io", "storageclasses", "", verb, false);
        let attachments =
            |subresource, verb| rule("storage.k8s.io", "volumeattachments", subresource, verb, false);
        let events = |verb| rule("", "events", "", verb, false);
        let leases = |verb| rule("coordination.k8s.io", "leases", "", verb, true);
        let secrets = |verb| rule("", "secrets", "", verb, true);
        let endpoints = |verb| rule("", "endpoints", "", verb, true);
        match self {
            Self::GetVolumes => volumes("get"),
            Self::ListVolumes => volumes("list"),
            Self::WatchVolumes => volumes("watch"),
            Self::CreateVolumes => volumes("create"),
            Self::DeleteVolumes => volumes("delete"),
            Self::PatchVolumes => volumes("patch"),
            Self::GetClaims => claims("get"),
            Self::ListClaims => claims("list"),
            Self::WatchClaims => claims("watch"),
            Self::PatchClaimStatus => rule("", "persistentvolumeclaims", "status", "patch", false),
            Self::GetClasses => classes("get"),
            Self::ListClasses => classes("list"),
            Self::WatchClasses => classes("watch"),
            Self::CreateEvents => events("create"),
            Self::PatchEvents => events("patch"),
            Self::GetLeases => leases("get"),
            Self::CreateLeases => leases("create"),
            Self::UpdateLeases => leases("update"),
            Self::GetEndpoints => endpoints("get"),
            Self::CreateEndpoints => endpoints("create"),
            Self::UpdateEndpoints => endpoints("update"),
            Self::GetSecrets => secrets("get"),
            Self::CreateSecrets => secrets("create"),
            Self::DeleteSecrets => secrets("delete"),
            Self::ListAttachments => attachments("", "list"),
            Self::WatchAttachments => attachments("", "watch"),
            Self::PatchAttachments => attachments("", "patch"),
            Self::PatchAttachmentStatus => attachments("status", "patch"),
            Self::ListNodes => rule("", "nodes", "", "list", false),
            Self::GetKubeSystem => Rule { name: "kube-system", ..rule("", "namespaces", "", "get", false) },
        }
    }

    /// The RBAC rule that grants it, in YAML, as it stands below `rules:`.
    pub(super) fn grant(self) -> String {
        rules(&[self])
    }
}

impl fmt::Display for Right {
    /// `patch persistentvolumeclaims/status`, as `kubectl auth can-i` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = self.rule();
        write!(f, "{} {}", rule.verb, rule.resource)?;
        if !rule.group.is_empty() {
            write!(f, ".{}", rule.group)?;
        }
        if !rule.subresource.is_empty() {
            write!(f, "/{}", rule.subresource)?;
        }
        if !rule.name.is_empty() {
            write!(f, "/{}", rule.name)?;
        }
        Ok(())
    }
}

/// What the loop needs for volumes whose backend needs no secret.
pub const VOLUMES: &[Right] = &[
    Right::GetVolumes,
    Right::ListVolumes,
    Right::WatchVolumes,
    Right::CreateVolumes,
    Right::DeleteVolumes,
    Right::PatchVolumes,
    Right::GetClaims,
    Right::ListClaims,
    Right::WatchClaims,
    Right::PatchClaimStatus,
    Right::GetClasses,
    Right::ListClasses,
    Right::WatchClasses,
    Right::CreateEvents,
    Right::PatchEvents,
];

/// What backends need besides that ask their [`Kubernetes`](crate::backend::Kubernetes). The Secrets that they read are named by
/// classes, each in its own namespace: a right to those that is missing shows where it is used.
///
/// `nameless`: the administrator has not named the cluster, so that its own UID does. `ceph`: users of images are told by
/// their nodes.
pub fn host(nameless: bool, ceph: bool) -> &'static [Right] {
    match (nameless, ceph) {
        (true, true) => &[Right::GetKubeSystem, Right::ListNodes],
        (true, false) => &[Right::GetKubeSystem],
        (false, true) => &[Right::ListNodes],
        (false, false) => &[],
    }
}

/// What a backend needs besides in the namespaces where its Secrets are.
pub const SECRETS: &[Right] = &[Right::GetSecrets, Right::CreateSecrets, Right::DeleteSecrets];

/// What attaching volumes needs besides.
pub const ATTACHMENTS: &[Right] =
    &[Right::ListAttachments, Right::WatchAttachments, Right::PatchAttachments, Right::PatchAttachmentStatus];

/// What leader election needs besides.
pub const ELECTION: &[Right] = &[
    Right::GetLeases,
    Right::CreateLeases,
    Right::UpdateLeases,
    Right::GetEndpoints,
    Right::CreateEndpoints,
    Right::UpdateEndpoints,
];

/// What we may do, as far as known: everything that was not denied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rights {
    denied: BTreeSet<Right>,
}

impl Rights {
    /// Everything but these.
    pub fn without(denied: impl IntoIterator<Item = Right>) -> Self {
        Self { denied: denied.into_iter().collect() }
    }

    /// Whether `right` is there, as far as known.
    pub fn allow(&self, right: Right) -> bool {
        !self.denied.contains(&right)
    }

    /// What of it is missed: what was denied and would be of use. Who may use Leases need not write Endpoints.
    pub fn missing(&self) -> BTreeSet<Right> {
        degrade(self).into_iter().flat_map(|notice| notice.missing).collect()
    }

    /// What was denied.
    pub fn denied(&self) -> impl Iterator<Item = Right> {
        self.denied.iter().copied()
    }
}

/// A loss of function for want of a right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Without it nothing is provisioned at all.
    pub required: bool,
    /// What is missing.
    pub missing: Vec<Right>,
    /// What cannot be done, and what happens instead; a sentence or two.
    pub text: String,
    /// The RBAC rules that would help, in YAML, as they stand below `rules:`.
    pub rule: String,
}

impl fmt::Display for Notice {
    /// One line for a log or a readiness detail.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing: Vec<String> = self.missing.iter().map(Right::to_string).collect();
        write!(f, "missing right to {}: {}", missing.join(", "), self.text)
    }
}

/// A function of the loop, what it needs, and what becomes of it without.
struct Function {
    needs: &'static [Right],
    required: bool,
    without: &'static str,
}

/// In the order in which an administrator should read them.
const FUNCTIONS: &[Function] = &[
    Function {
        needs: &[
            Right::ListVolumes,
            Right::WatchVolumes,
            Right::ListClaims,
            Right::WatchClaims,
            Right::ListClasses,
            Right::WatchClasses,
        ],
        required: true,
        without: "berth cannot list and watch all claims, volumes and classes; it provisions and deletes nothing \
            until the right is granted",
    },
    Function {
        needs: &[Right::CreateVolumes],
        required: true,
        without: "berth cannot create PersistentVolumes; it provisions no claim until the right is granted",
    },
    Function {
        needs: &[Right::DeleteVolumes],
        required: true,
        without: "released volumes are neither deleted nor archived until the right is granted",
    },
    Function {
        needs: &[Right::GetVolumes],
        required: true,
        without: "berth cannot read a released volume again right before it removes it; it removes none until the \
            right is granted",
    },
    Function {
        needs: &[Right::GetClaims],
        required: false,
        without: "berth cannot get single claims; it does not clean up half-made volumes of deleted claims",
    },
    Function {
        needs: &[Right::GetClasses],
        required: false,
        without: "berth cannot confirm that a class is deleted; it neither deletes nor archives released volumes of \
            an older provisioner whose class is missing",
    },
    Function {
        needs: &[Right::PatchVolumes],
        required: false,
        without: "volumes get no finalizer and existing ones no record of their policy (new ones carry it from their creation): \
                  a volume that is deleted before its claim leaves its data behind",
    },
    Function {
        needs: &[Right::PatchVolumes, Right::PatchClaimStatus],
        required: false,
        without: "claims cannot be expanded; berth answers a larger request with an Event on the claim",
    },
    Function {
        needs: &[Right::CreateEvents],
        required: false,
        without: "berth posts no Events; see its log",
    },
    Function {
        needs: &[Right::PatchEvents],
        required: false,
        without: "a repeated Event is posted once and its count is not updated",
    },
    Function {
        needs: &[Right::GetKubeSystem],
        required: false,
        without: "berth cannot read the UID of kube-system, which tells this cluster's volumes from those of other \
            clusters on the same storage. It uses the UID of the leader lock instead; without leader election it \
            refuses whatever needs the identity. --cluster-id makes the right unnecessary",
    },
    Function {
        needs: &[Right::ListNodes],
        required: false,
        without: "Events name a client that has an image open by its address, not by its node",
    },
    Function {
        needs: ATTACHMENTS,
        required: false,
        without: "berth does not attach volumes, so that pods with images wait until the right is granted, unless an \
            external-attacher runs; and it learns only from Ceph whether an image to be removed is still in use",
    },
];

const LEASES: &[Right] = &[Right::GetLeases, Right::CreateLeases, Right::UpdateLeases];
const ENDPOINTS: &[Right] = &[Right::GetEndpoints, Right::CreateEndpoints, Right::UpdateEndpoints];

/// What the missing rights mean, the worst first.
pub fn degrade(rights: &Rights) -> Vec<Notice> {
    let missing =
        |needs: &[Right]| needs.iter().copied().filter(|right| !rights.allow(*right)).collect::<Vec<_>>();
    let notice = |required, missing: Vec<Right>, text: &str| {
        let rule = rules(&missing);
        (!missing.is_empty()).then(|| Notice { required, missing, text: text.to_owned(), rule })
    };
    let mut notices: Vec<Notice> = FUNCTIONS
        .iter()
        .filter_map(|function| notice(function.required, missing(function.needs), function.without))
        .collect();
    let (leases, endpoints) = (missing(LEASES), missing(ENDPOINTS));
    notices.extend(if leases.is_empty() {
        notice(
            false,
            missing(&[Right::GetEndpoints]),
            "berth cannot see the lock of an old provisioner; make sure that none is running",
        )
    } else if endpoints.is_empty() {
        notice(false, leases, "berth uses the Endpoints lock of the old provisioners instead of a Lease")
    } else {
        let text = "berth cannot elect a leader; it provisions and deletes nothing until the right is granted or, \
            for a single replica, leader election is turned off";
        notice(true, leases, text)
    });
    notices.sort_by_key(|notice| !notice.required);
    notices
}

/// The rules that grant `rights`, one for each resource.
fn rules(rights: &[Right]) -> String {
    let mut by_resource: BTreeMap<(&str, String, &str), Vec<&str>> = BTreeMap::new();
    for right in rights {
        let rule = right.rule();
        let resource = match rule.subresource {
            "" => rule.resource.to_owned(),
            subresource => format!("{}/{subresource}", rule.resource),
        };
        by_resource.entry((rule.group, resource, rule.name)).or_default().push(rule.verb);
    }
    let rule = |((group, resource, name), verbs): ((&str, String, &str), Vec<&str>)| {
        let verbs = verbs.join("\", \"");
        let names = if name.is_empty() { String::new() } else { format!("  resourceNames: [\"{name}\"]\n") };
        format!("- apiGroups: [\"{group}\"]\n  resources: [\"{resource}\"]\n{names}  verbs: [\"{verbs}\"]\n")
    };
    by_resource.into_iter().map(rule).collect()
}

#[cfg(test)]
mod tests;
