//! A bigger request becomes a bigger volume: [`plan`] decides, [`reconcile`] does it.
//!
//! For in-tree NFS volumes no other controller does: kube-controller-manager finds no plugin, says so in an Event and stops. For in-tree
//! RBD volumes it had one up to Kubernetes 1.30, which needs an `rbd` program beside it: mostly it fails and says so. Where
//! it does not, both want the same size, and the second one finds it done. CSI volumes are left to berth as well.
//!
//! First the PV gets the new size, then the claim's status; a crash in between leaves a request above the status, and the
//! next run completes it. The claim of a CSI volume is also told before the storage is asked, so that a request that turns
//! out to be too big can be lowered, and kubelet knows whether its part is needed (`status`).
//!
//! It never makes anything smaller.

mod status;

use serde_json::{Value, json};

use status::Target;

use super::{
    class::Class,
    cluster::{Cause, Failure},
    context::Context,
    events::Type,
    names,
    objects::{ClaimObject, VolumeObject, annotation, class_name},
    persistent_volume::{self, Recorded},
    queue::Outcome,
    rights::Right,
    volume_state,
};
use crate::{
    backend::{Backends, Error, Kind},
    volume::{Capacity, ExpandRequest, Expanded, Invalid, Mode, Permit, VolumeName},
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
    pub(super) expand_request: ExpandRequest,
    /// What is asked for, as it was written.
    pub(super) request_text: String,
    /// What the PV says, and as it is written there.
    pub(super) has: Capacity,
    pub(super) has_text: String,
    /// A node plugin mounts it, and kubelet reads from the claim how far the expansion is.
    pub(super) csi: bool,
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
    if !is_bound(claim, volume) || !class.is_some_and(|class| class.expandable) {
        return Plan::Ignore;
    }
    let size = |text: Option<&str>| text.and_then(|text| text.parse::<Capacity>().ok());
    let request_text = claim.spec.resources.requests.storage.as_deref();
    let has_text = volume.spec.capacity.storage.as_deref();
    let (Some(request), Some(has)) = (size(request_text), size(has_text)) else { return Plan::Ignore };
    let told = size(claim.status.capacity.storage.as_deref());
    let csi = volume.spec.csi.is_some();
    let request_text = request_text.unwrap_or_default();
    let target = if csi {
        status::target(claim, request, request_text)
    } else {
        Target::Size(request, request_text.to_owned())
    };
    let (request, request_text) = match target {
        Target::Size(size, text) => (size, text),
        Target::Node => return Plan::Ignore,
        Target::Infeasible(why) => return Plan::Reject(why),
    };
    // Of a CSI volume the status says whether it is the node's turn. Where only the condition does, an earlier version set it.
    let on_node = !csi && status::is_left_to_node(claim);
    if request <= has && (on_node || told.is_none_or(|told| request <= told)) {
        return Plan::Ignore;
    }
    if !backend.capabilities().expand {
        return Plan::Reject(format!("{provisioner} cannot expand volumes"));
    }
    let Some(source) = persistent_volume::source(volume) else {
        return Plan::Reject(format!(
            "PersistentVolume {} has no source that {provisioner} supports",
            volume.metadata.name.as_deref().unwrap_or_default()
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
    Plan::Expand(Box::new(Order {
        provisioner: provisioner.to_owned(),
        expand_request: ExpandRequest {
            name,
            id: recorded.id.clone(),
            source,
            claim: claim.key(),
            mode: match volume.spec.volume_mode.as_deref() {
                Some("Block") => Mode::Block,
                Some(_) | None => Mode::Filesystem,
            },
            capacity: request,
            pv_metadata: recorded.pv_metadata(volume, class, backend.capabilities()),
        },
        request_text,
        has,
        has_text: has_text.unwrap_or_default().to_owned(),
        csi,
    }))
}

/// Whether the two belong to each other.
fn is_bound(claim: &ClaimObject, volume: &VolumeObject) -> bool {
    let owner = volume.spec.claim_ref.as_ref();
    claim.status.phase.as_deref() == Some("Bound")
        && claim.spec.volume_name == volume.metadata.name
        && owner.is_some_and(|owner| Some(&owner.uid) == claim.metadata.uid.as_ref())
}

/// The patch that gives the PV its new size. `before`: what the claim has until a node has done its part, which Kubernetes reads
/// where the PV is bound to another claim in between.
fn volume_patch(uid: &str, size: &str, before: Option<&str>) -> Value {
    let mut metadata = json!({"uid": uid});
    if let (Some(before), Some(fields)) = (before, metadata.as_object_mut()) {
        fields.insert("annotations".to_owned(), json!({names::PRE_RESIZE_CAPACITY: before}));
    }
    json!({"metadata": metadata, "spec": {"capacity": {"storage": size}}})
}

/// What is needed to expand.
const RIGHTS: [Right; 2] = [Right::PatchVolumes, Right::PatchClaimStatus];

/// Makes the volume of the claim with this UID bigger, if that is still asked for.
pub(super) async fn reconcile(ctx: &Context, uid: &str, permit: &Permit) -> Outcome {
    let (pending_expansion, ours) = {
        let cache = ctx.cache();
        let Some(pending_expansion) = cache.pending_expansion(uid).cloned() else { return Outcome::Done };
        let ours = cache.volume(&pending_expansion.volume).is_some_and(|volume| volume.state.ours);
        (pending_expansion, ours)
    };
    if !ours {
        return Outcome::Done;
    }
    let read = async {
        let claim = ctx.cluster.claim(&pending_expansion.namespace, &pending_expansion.name).await?;
        let volume = ctx.cluster.volume(&pending_expansion.volume).await?;
        Ok(claim.zip(volume))
    };
    let (claim, volume) = match read.await {
        Ok(Some((claim, volume))) if claim.metadata.uid.as_deref() == Some(uid) => (claim, volume),
        Ok(Some(_) | None) => return Outcome::Done,
        Err(failure) => {
            let failure: Failure = failure;
            tracing::warn!(claim = %pending_expansion, error = %failure, "cannot read a claim that requests more storage");
            return failure.outcome();
        }
    };
    let class_name = class_name(&claim.metadata, claim.spec.storage_class_name.as_deref());
    let class = ctx.cache().class(class_name).cloned();
    match plan(&claim, &volume, class.as_deref(), &ctx.backends) {
        Plan::Ignore => Outcome::Done,
        Plan::Reject(why) => {
            fail(ctx, &claim, why);
            // What is wrong with the volume is no news about the claim.
            Outcome::Slow
        }
        Plan::Expand(order) => {
            let missing: Vec<String> = {
                let rights = ctx.rights.rights();
                let rights = rights.borrow();
                RIGHTS.iter().filter(|right| !rights.allow(**right)).map(ToString::to_string).collect()
            };
            if missing.is_empty() {
                return expand(ctx, &claim, &volume, &order, permit).await;
            }
            if ctx.first_explained(uid, &order.request_text) {
                let why = format!(
                    "cannot expand the volume: the provisioner's role lacks {}; grant it, or undo the request",
                    missing.join(" and ")
                );
                fail(ctx, &claim, why);
            }
            Outcome::Done
        }
    }
}

async fn expand(
    ctx: &Context,
    claim: &ClaimObject,
    volume: &VolumeObject,
    order: &Order,
    permit: &Permit,
) -> Outcome {
    let Some(backend) = ctx.backends.get(&order.provisioner) else { return Outcome::Done };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let name = text(&volume.metadata.name);
    if let Err(outcome) = begin(ctx, claim, order, permit).await {
        return outcome;
    }
    let note = format!("expanding volume {name} from {} to {}", order.has_text, order.request_text);
    ctx.live_claim_event(&order.provisioner, claim, Type::Normal, "Resizing", note);
    let wanted = order.expand_request.capacity;
    let Expanded { capacity: size, on_node } = match backend.expand(&order.expand_request, permit).await {
        Ok(Expanded { capacity, .. }) if capacity < wanted => {
            let why = format!("the storage provides {capacity}, which is less than {}", order.request_text);
            fail(ctx, claim, why);
            return Outcome::Retry;
        }
        Ok(grown) => grown,
        Err(error) => return not_grown(ctx, claim, order, &error, permit).await,
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
    let status = if on_node {
        status::left_to_node(claim, order.csi)
    } else {
        status::finished(claim, &size_text, order.csi)
    };
    let before = claim.status.capacity.storage.as_deref().filter(|_| on_node && order.csi);
    let uid = text(&volume.metadata.uid);
    let grown = (size > order.has).then(|| volume_patch(&uid, &size_text, before));
    match write_size(ctx, claim, volume, grown.as_ref(), &status).await {
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
            ctx.live_claim_event(&order.provisioner, claim, Type::Normal, reason, note);
            Outcome::Done
        }
        Err((right, failure)) => {
            if failure.is_forbidden() {
                ctx.rights.refused(right);
            }
            tracing::warn!(volume = name, error = %failure, "cannot record the new size of the volume");
            fail(ctx, claim, format!("cannot record the new size of volume {name}: {failure}"));
            failure.outcome()
        }
    }
}

/// Tells the claim of a CSI volume that its expansion begins. An error ends the work on it.
async fn begin(ctx: &Context, claim: &ClaimObject, order: &Order, permit: &Permit) -> Result<(), Outcome> {
    let Some(patch) = status::begun(claim, &order.request_text).filter(|_| order.csi) else { return Ok(()) };
    if permit.check().is_err() {
        return Err(Outcome::Retry);
    }
    write_status(ctx, claim, &patch).await.map_err(|failure| {
        if failure.cause == Cause::Conflict {
            tracing::debug!(error = %failure, "the claim has changed; looking at it again");
            return Outcome::Retry;
        }
        tracing::warn!(error = %failure, "cannot record on the claim that its volume is being expanded");
        fail(ctx, claim, format!("cannot record that the volume is being expanded: {failure}"));
        failure.outcome()
    })
}

/// Tells why a volume was not made bigger, and says when to try again.
async fn not_grown(
    ctx: &Context,
    claim: &ClaimObject,
    order: &Order,
    error: &Error,
    permit: &Permit,
) -> Outcome {
    let name = order.expand_request.name.as_str();
    // Another operation is running: that is no failure, and needs no Event.
    if error.kind() == Kind::Busy {
        tracing::debug!(volume = name, error = error.chain(), "another operation on the volume is running");
        return Outcome::Retry;
    }
    tracing::warn!(volume = name, kind = %error.kind(), error = error.chain(), "cannot expand the volume");
    fail(ctx, claim, error.chain());
    if error.kind() == Kind::Refused {
        ctx.metrics.refused("expand");
    }
    let patch = status::failed(claim, error.kind(), &error.chain()).filter(|_| order.csi);
    if let Some(patch) = patch.filter(|_| permit.check().is_ok())
        && let Err(failure) = write_status(ctx, claim, &patch).await
    {
        // The Event tells it all the same.
        tracing::warn!(error = %failure, "cannot record on the claim why its volume was not expanded");
    }
    error.kind().into()
}

async fn write_status(ctx: &Context, claim: &ClaimObject, status: &Value) -> Result<(), Failure> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let (namespace, name) = (text(&claim.metadata.namespace), text(&claim.metadata.name));
    let written = ctx.cluster.patch_claim_status(&namespace, &name, status).await;
    written.inspect_err(|failure| {
        if failure.is_forbidden() {
            ctx.rights.refused(Right::PatchClaimStatus);
        }
    })
}

/// Writes the size on the PV, where it has grown, and the status of the claim. A failure says which right that takes.
async fn write_size(
    ctx: &Context,
    claim: &ClaimObject,
    volume: &VolumeObject,
    grown: Option<&Value>,
    status: &Value,
) -> Result<(), (Right, Failure)> {
    if let Some(patch) = grown {
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        let patched = ctx.cluster.patch_volume(name, patch).await;
        patched.map_err(|failure| (Right::PatchVolumes, failure))?;
    }
    write_status(ctx, claim, status).await.map_err(|failure| (Right::PatchClaimStatus, failure))
}

fn fail(ctx: &Context, claim: &ClaimObject, why: String) {
    let provisioner = annotation(&claim.metadata, names::PROVISIONER).unwrap_or_default();
    ctx.live_claim_event(provisioner, claim, Type::Warning, "VolumeResizeFailed", why);
}

#[cfg(test)]
mod tests;
