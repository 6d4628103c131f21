//! A bigger request becomes a bigger volume: [`plan`] decides, [`reconcile`] does it.
//!
//! For in-tree NFS volumes nobody else does: kube-controller-manager finds no plugin, says so in an Event and stops. For in-tree
//! RBD volumes it had one up to Kubernetes 1.30, which needs an `rbd` program beside it: mostly it fails and says so. Where
//! it does not, both want the same size, and whoever comes second finds it done. CSI volumes are left to berth as well.
//!
//! First the PV gets the new size, then the claim's status; a crash in between leaves a request above the status, and the
//! next run completes it.
//!
//! It never makes anything smaller.

use serde_json::{Value, json};

use super::{
    class::Class,
    context::Shared,
    events::Type,
    names,
    objects::{ClaimObject, VolumeObject, annotation, class_name},
    persistent_volume::{self, Recorded},
    queue::Outcome,
    rights::Right,
    volume_state,
};
use crate::{
    backend::{Backends, Kind},
    volume::{Capacity, ClaimKey, ExpandRequest, Expanded, Invalid, Mode, Permit, VolumeName},
};

/// What to do about a claim that asks for more.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nothing: it has what it asks for, is not ours, or may not.
    Ignore,
    /// It cannot be done; the text says why.
    Reject(String),
    Expand(Box<Order>),
}

/// A volume to be made bigger.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) provisioner: String,
    pub(super) growth: ExpandRequest,
    /// What is asked for, as it was written.
    pub(super) request_text: String,
    /// What the PV says, and as it is written there.
    pub(super) has: Capacity,
    pub(super) has_text: String,
}

/// Decides about a claim and the volume that it names, both as the API server has them.
pub(super) fn plan(
    claim: &ClaimObject,
    volume: &VolumeObject,
    class: Option<&Class>,
    backends: &Backends,
) -> Plan {
    let Some(provisioner) = volume_state::provisioner(volume, backends) else { return Plan::Ignore };
    let Some(backend) = backends.get(provisioner) else { return Plan::Ignore };
    let bound = claim.status.phase.as_deref() == Some("Bound")
        && claim.spec.volume_name == volume.metadata.name
        && volume
            .spec
            .claim_ref
            .as_ref()
            .is_some_and(|other| Some(&other.uid) == claim.metadata.uid.as_ref());
    if !bound || !class.is_some_and(|class| class.expandable) {
        return Plan::Ignore;
    }
    let size = |text: Option<&str>| text.and_then(|text| text.parse::<Capacity>().ok());
    let request_text = claim.spec.resources.requests.storage.as_deref();
    let has_text = volume.spec.capacity.storage.as_deref();
    let (Some(request), Some(has)) = (size(request_text), size(has_text)) else { return Plan::Ignore };
    let told = size(claim.status.capacity.storage.as_deref());
    let on_node = claim.status.conditions.iter().flatten().any(|condition| condition.kind == ON_NODE);
    if request <= has && (on_node || told.is_none_or(|told| request <= told)) {
        return Plan::Ignore;
    }
    if !backend.capabilities().expand {
        return Plan::Reject(format!("{provisioner} cannot expand volumes"));
    }
    let Some(source) = persistent_volume::source(volume) else {
        return Plan::Reject(format!(
            "PersistentVolume {:?} has no source that {provisioner} supports",
            volume.metadata.name
        ));
    };
    let read = || -> Result<(VolumeName, Recorded), Invalid> {
        Ok((volume.metadata.name.as_deref().unwrap_or_default().parse()?, Recorded::read(volume)?))
    };
    let (name, recorded) = match read() {
        Ok(read) => read,
        Err(error) => return Plan::Reject(error.to_string()),
    };
    if let Some(why) = persistent_volume::contradiction(&source, &recorded) {
        return Plan::Reject(format!("{why}; nothing was changed"));
    }
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Plan::Expand(Box::new(Order {
        provisioner: provisioner.to_owned(),
        growth: ExpandRequest {
            name,
            id: recorded.id.clone(),
            source,
            claim: ClaimKey {
                namespace: text(&claim.metadata.namespace),
                name: text(&claim.metadata.name),
                uid: text(&claim.metadata.uid),
            },
            mode: match volume.spec.volume_mode.as_deref() {
                Some("Block") => Mode::Block,
                Some(_) | None => Mode::Filesystem,
            },
            capacity: request,
            pv_metadata: recorded.pv_metadata(volume, class, backend.capabilities()),
        },
        request_text: request_text.unwrap_or_default().to_owned(),
        has,
        has_text: has_text.unwrap_or_default().to_owned(),
    }))
}

/// The patch that gives the PV its new size.
fn volume_patch(uid: &str, size: &str) -> Value {
    json!({"metadata": {"uid": uid}, "spec": {"capacity": {"storage": size}}})
}

/// The patch that tells the claim its new size, and ends what said that it is growing.
fn claim_patch(claim: &ClaimObject, size: &str) -> Value {
    let over: Vec<Value> = claim
        .status
        .conditions
        .iter()
        .flatten()
        .filter(|condition| RESIZING.contains(&condition.kind.as_str()))
        .map(|condition| json!({"type": condition.kind, "$patch": "delete"}))
        .collect();
    let mut patch =
        json!({"metadata": {"uid": claim.metadata.uid}, "status": {"capacity": {"storage": size}}});
    if !over.is_empty()
        && let Some(status) = patch.get_mut("status").and_then(Value::as_object_mut)
    {
        status.insert("conditions".to_owned(), Value::Array(over));
    }
    patch
}

/// The conditions of a claim that grows.
const RESIZING: [&str; 4] =
    ["Resizing", "FileSystemResizePending", "ControllerResizeError", "NodeResizeError"];

/// The condition of a claim whose file system a node must make bigger; the kubelet takes it away.
const ON_NODE: &str = "FileSystemResizePending";

/// The patch that leaves the rest to the node: the kubelet tells the claim its size when the file system has grown.
fn node_patch(claim: &ClaimObject) -> Value {
    let condition = json!({
        "type": ON_NODE, "status": "True",
        "message": "waiting for a node to expand the file system of the volume",
    });
    let over = claim
        .status
        .conditions
        .iter()
        .flatten()
        .filter(|condition| condition.kind != ON_NODE && RESIZING.contains(&condition.kind.as_str()))
        .map(|condition| json!({"type": condition.kind, "$patch": "delete"}));
    let conditions: Vec<Value> = std::iter::once(condition).chain(over).collect();
    json!({"metadata": {"uid": claim.metadata.uid}, "status": {"conditions": conditions}})
}

/// What is needed to expand.
const RIGHTS: [Right; 2] = [Right::PatchVolumes, Right::PatchClaimStatus];

/// Makes the volume of the claim with this UID bigger, if that is still asked for.
pub(super) async fn reconcile(shared: &Shared, uid: &str, permit: &Permit) -> Outcome {
    let (growing, ours) = {
        let cache = shared.cache();
        let Some(growing) = cache.growing(uid).cloned() else { return Outcome::Done };
        let ours = cache.volume(&growing.volume).is_some_and(|volume| volume.state.ours);
        (growing, ours)
    };
    if !ours {
        return Outcome::Done;
    }
    let read = async {
        let claim = shared.cluster.claim(&growing.namespace, &growing.name).await?;
        let volume = shared.cluster.volume(&growing.volume).await?;
        Ok(claim.zip(volume))
    };
    let (claim, volume) = match read.await {
        Ok(Some((claim, volume))) if claim.metadata.uid.as_deref() == Some(uid) => (claim, volume),
        Ok(Some(_) | None) => return Outcome::Done,
        Err(failure) => {
            let failure: super::cluster::Failure = failure;
            tracing::warn!(claim = %growing, error = %failure, "cannot read a claim that requests more storage");
            return failure.outcome();
        }
    };
    let class_name = class_name(&claim.metadata, claim.spec.storage_class_name.as_deref());
    let class = shared.cache().class(class_name).cloned();
    match plan(&claim, &volume, class.as_deref(), &shared.backends) {
        Plan::Ignore => Outcome::Done,
        Plan::Reject(why) => {
            fail(shared, &claim, why);
            // What is wrong with the volume is no news about the claim.
            Outcome::Slow
        }
        Plan::Expand(order) => {
            let missing: Vec<String> = {
                let rights = shared.rights.rights();
                let rights = rights.borrow();
                RIGHTS.iter().filter(|right| !rights.allow(**right)).map(ToString::to_string).collect()
            };
            if missing.is_empty() {
                return expand(shared, &claim, &volume, &order, permit).await;
            }
            if shared.first_explained(uid, &order.request_text) {
                let why = format!(
                    "cannot expand the volume: the provisioner's role lacks {}; grant it, or undo the request",
                    missing.join(" and ")
                );
                fail(shared, &claim, why);
            }
            Outcome::Done
        }
    }
}

async fn expand(
    shared: &Shared,
    claim: &ClaimObject,
    volume: &VolumeObject,
    order: &Order,
    permit: &Permit,
) -> Outcome {
    let Some(backend) = shared.backends.get(&order.provisioner) else { return Outcome::Done };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let name = text(&volume.metadata.name);
    let note = format!("expanding volume {name} from {} to {}", order.has_text, order.request_text);
    shared.tell_object(&order.provisioner, claim, Type::Normal, "Resizing", note);
    let wanted = order.growth.capacity;
    let Expanded { capacity: size, on_node } = match backend.expand(&order.growth, permit).await {
        Ok(Expanded { capacity, .. }) if capacity < wanted => {
            let why = format!("the storage provides {capacity}, which is less than {}", order.request_text);
            fail(shared, claim, why);
            return Outcome::Retry;
        }
        Ok(grown) => grown,
        // Somebody is at it already: that is no failure, and nothing that anybody has to know.
        Err(error) if error.kind() == Kind::Busy => {
            tracing::debug!(
                volume = name,
                error = error.chain(),
                "another operation on the volume is running"
            );
            return Outcome::Retry;
        }
        Err(error) => {
            tracing::warn!(volume = name, kind = %error.kind(), error = error.chain(), "cannot expand the volume");
            fail(shared, claim, error.chain());
            if error.kind() == Kind::Refused {
                shared.metrics.refused("expand");
            }
            return error.kind().into();
        }
    };
    let size_text = if size <= order.has {
        order.has_text.clone()
    } else if size == wanted {
        order.request_text.clone()
    } else {
        size.to_string()
    };
    if permit.check().is_err() {
        return Outcome::Retry;
    }
    let write = async {
        if size > order.has {
            let patch = volume_patch(volume.metadata.uid.as_deref().unwrap_or_default(), &size_text);
            shared
                .cluster
                .patch_volume(&name, &patch)
                .await
                .map_err(|failure| (Right::PatchVolumes, failure))?;
        }
        let status = if on_node { node_patch(claim) } else { claim_patch(claim, &size_text) };
        let (namespace, claim_name) = (text(&claim.metadata.namespace), text(&claim.metadata.name));
        shared
            .cluster
            .patch_claim_status(&namespace, &claim_name, &status)
            .await
            .map_err(|failure| (Right::PatchClaimStatus, failure))
    };
    match write.await {
        Ok(()) => {
            tracing::info!(volume = name, size = size_text, on_node, "expanded the volume");
            let (reason, note) = if on_node {
                let note = format!(
                    "expanded volume {name} to {size_text}; a node that mounts it expands its file system"
                );
                ("FileSystemResizeRequired", note)
            } else {
                ("VolumeResizeSuccessful", format!("expanded volume {name} to {size_text}"))
            };
            shared.tell_object(&order.provisioner, claim, Type::Normal, reason, note);
            Outcome::Done
        }
        Err((right, failure)) => {
            if failure.is_forbidden() {
                shared.rights.refused(right);
            }
            tracing::warn!(volume = name, error = %failure, "cannot record the new size of the volume");
            fail(shared, claim, format!("cannot record the new size of volume {name}: {failure}"));
            failure.outcome()
        }
    }
}

fn fail(shared: &Shared, claim: &ClaimObject, why: String) {
    let provisioner = annotation(&claim.metadata, names::PROVISIONER).unwrap_or_default();
    shared.tell_object(provisioner, claim, Type::Warning, "VolumeResizeFailed", why);
}

#[cfg(test)]
#[allow(clippy::needless_pass_by_value, reason = "patches read best written in place")]
mod tests {
    use super::*;
    use crate::provisioner::fixtures::{self, NAME};
    use std::sync::Arc;

    fn backends(expand: bool) -> Backends {
        let memory = crate::backend::memory::Memory::new()
            .with_capabilities(|capabilities| capabilities.expand = expand);
        Backends::default().with(NAME, Arc::new(memory))
    }

    fn bound_claim(patch: Value) -> ClaimObject {
        let mut usual = json!({
            "spec": {"volumeName": "pvc-0b6f-11", "resources": {"requests": {"storage": "2Gi"}}},
            "status": {"phase": "Bound", "capacity": {"storage": "1500Mi"}},
        });
        fixtures::merge(&mut usual, &patch);
        fixtures::claim_object(usual)
    }

    fn bound_volume(patch: Value) -> VolumeObject {
        let mut usual = json!({"status": {"phase": "Bound"}});
        fixtures::merge(&mut usual, &patch);
        fixtures::volume_object(usual)
    }

    /// Proves: case 53, case 54, statement 20
    #[test]
    fn a_claim_grows_where_it_may_and_nothing_else_changes() {
        let nothing = || json!({});
        let request = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
        let table: Vec<(&str, Value, Value, Value, bool)> = vec![
            ("a bigger request is served", nothing(), nothing(), nothing(), true),
            ("an equal request changes nothing", request("1500Mi"), nothing(), nothing(), false),
            (
                "an equal request in other words changes nothing",
                request("1572864000"),
                nothing(),
                nothing(),
                false,
            ),
            ("a smaller request changes nothing", request("1Gi"), nothing(), nothing(), false),
            (
                "a crash after the PV was changed is completed",
                nothing(),
                json!({"spec": {"capacity": {"storage": "2Gi"}}}),
                nothing(),
                true,
            ),
            (
                "what is complete is left alone",
                json!({"status": {"capacity": {"storage": "2Gi"}}}),
                json!({"spec": {"capacity": {"storage": "2Gi"}}}),
                nothing(),
                false,
            ),
            (
                "an unbound claim is left alone",
                json!({"status": {"phase": "Pending"}}),
                nothing(),
                nothing(),
                false,
            ),
            ("a lost claim is left alone", json!({"status": {"phase": "Lost"}}), nothing(), nothing(), false),
            (
                "a foreign volume is left alone",
                nothing(),
                json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "other"}}}),
                nothing(),
                false,
            ),
            (
                "a volume of another claim is left alone",
                nothing(),
                json!({"spec": {"claimRef": {"uid": "other"}}}),
                nothing(),
                false,
            ),
            (
                "a claim that names another volume is left alone",
                json!({"spec": {"volumeName": "other"}}),
                nothing(),
                nothing(),
                false,
            ),
            (
                "a class that does not allow it is obeyed",
                nothing(),
                nothing(),
                json!({"allowVolumeExpansion": false}),
                false,
            ),
            (
                "the reclaim policy does not matter",
                nothing(),
                json!({"spec": {"persistentVolumeReclaimPolicy": "Retain"}}),
                nothing(),
                true,
            ),
        ];
        for (name, claim, volume, class, grows) in table {
            let class = fixtures::class(class);
            let plan = plan(&bound_claim(claim), &bound_volume(volume), Some(&class), &backends(true));
            assert_eq!(matches!(plan, Plan::Expand(_)), grows, "{name}: {plan:?}");
            assert!(grows || plan == Plan::Ignore, "{name}: {plan:?}");
        }
        let gone = super::plan(&bound_claim(nothing()), &bound_volume(nothing()), None, &backends(true));
        assert_eq!(gone, Plan::Ignore, "a class that is gone allows nothing");
        let class = fixtures::class(nothing());
        let cannot =
            super::plan(&bound_claim(nothing()), &bound_volume(nothing()), Some(&class), &backends(false));
        assert!(matches!(cannot, Plan::Reject(_)), "a backend that cannot says so: {cannot:?}");
    }

    #[test]
    fn what_a_node_was_asked_for_is_not_asked_for_again_and_a_contradiction_is_refused() {
        let pending = |more: Value| {
            let mut claim = json!({"status": {"conditions": [{"type": "FileSystemResizePending"}]}});
            fixtures::merge(&mut claim, &more);
            bound_claim(claim)
        };
        let grown = || json!({"spec": {"capacity": {"storage": "2Gi"}}});
        let class = fixtures::class(json!({}));
        let plan = |claim: &ClaimObject, volume: Value| {
            plan(claim, &bound_volume(volume), Some(&class), &backends(true))
        };
        assert_eq!(plan(&pending(json!({})), grown()), Plan::Ignore, "the kubelet does the rest");
        let more = json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}});
        assert!(matches!(plan(&pending(more), grown()), Plan::Expand(_)), "unless even more is asked for");
        let foreign =
            json!({"spec": {"nfs": null, "csi": {"driver": "d", "volumeHandle": "1/memory/default/pvc-x"}}});
        let Plan::Reject(why) = plan(&bound_claim(json!({})), foreign) else { panic!("not refused") };
        assert!(why.contains("nothing was changed"), "{why}");
        let tampered = json!({"metadata": {"annotations": {"berth.storage/record": "{"}}});
        assert!(matches!(plan(&bound_claim(json!({})), tampered), Plan::Reject(_)));
        let Plan::Expand(order) = plan(&bound_claim(json!({})), json!({"spec": {"volumeMode": "Block"}}))
        else {
            panic!("not expanded")
        };
        assert_eq!(order.growth.mode, Mode::Block);
    }

    #[test]
    fn the_patches_change_the_size_and_end_the_conditions_of_growing() {
        assert_eq!(
            volume_patch("u", "2Gi"),
            json!({"metadata": {"uid": "u"}, "spec": {"capacity": {"storage": "2Gi"}}})
        );
        let claim = bound_claim(json!({"status": {"conditions": [{"type": "Resizing"}, {"type": "Other"}]}}));
        assert_eq!(
            claim_patch(&claim, "2Gi"),
            json!({
                "metadata": {"uid": "0b6f-11"},
                "status": {
                    "capacity": {"storage": "2Gi"},
                    "conditions": [{"type": "Resizing", "$patch": "delete"}],
                },
            })
        );
        assert_eq!(
            claim_patch(&bound_claim(json!({})), "2Gi"),
            json!({"metadata": {"uid": "0b6f-11"}, "status": {"capacity": {"storage": "2Gi"}}})
        );
        let node = node_patch(&claim);
        let conditions = node["status"]["conditions"].as_array().unwrap();
        assert_eq!(conditions[0]["type"], "FileSystemResizePending");
        assert_eq!(conditions[1..], [json!({"type": "Resizing", "$patch": "delete"})]);
        assert_eq!(node["status"]["capacity"], Value::Null, "the kubelet tells the claim what it has");
    }
}
