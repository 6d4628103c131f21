//! Volumes of drivers with `attachRequired` are attached and detached: [`plan`] decides, [`reconcile`] does it.
//!
//! Nothing happens on the storage: a node maps an image by itself. What the objects give is that Kubernetes, and berth when it
//! removes a volume, know which node may use it, and that a volume that one node alone may use is not given to a second one.
//! kube-controller-manager looks after that, too, but it forgets what it forced off a node. An attachment that is being deleted is
//! let go at once, for whatever reason: that a node was taken out of service, or that it did not answer for too long, decided
//! kube-controller-manager before.
//!
//! It does what external-attacher does for such a driver, and its finalizer has the same name. It does not ask whether the driver
//! runs on the node: a pod there waits until it does.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    cache::{self, Attachment},
    cluster::{Cause, Failure},
    context::Context,
    key::Key,
    names,
    objects::VolumeObject,
    queue::Outcome,
    rights::Right,
};
use crate::volume::Permit;

/// What to do about an attachment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nothing.
    Ignore,
    /// Its node may use the volume.
    Attach,
    /// Its node may not use the volume, for this reason.
    Refuse(Refusal),
    /// Its node uses the volume no more.
    Detach,
}

/// Why a node may not use a volume.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    code: Code,
    message: String,
    /// The attachment that must go first.
    until: Option<Box<str>>,
}

impl Refusal {
    fn new(code: Code, message: String) -> Self {
        Self { code, message, until: None }
    }
}

/// The codes of gRPC that an attachment is refused with: kube-controller-manager and kubelet read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    InvalidArgument = 3,
    NotFound = 5,
    FailedPrecondition = 9,
}

/// Decides about an attachment of one of our drivers. `volume`: what it names, as the API server has it. `others`: the other
/// attachments of that volume, by name.
pub(super) fn plan<'a>(
    attachment: &Attachment,
    volume: Option<&VolumeObject>,
    mut others: impl Iterator<Item = (&'a str, &'a Attachment)>,
) -> Plan {
    if attachment.deleting {
        return if attachment.held { Plan::Detach } else { Plan::Ignore };
    }
    if attachment.attached {
        return Plan::Ignore;
    }
    let refuse = |code, message| Plan::Refuse(Refusal::new(code, message));
    let Some(name) = &attachment.volume else {
        let message = "spec.source names no PersistentVolume: this driver attaches nothing else";
        return refuse(Code::InvalidArgument, message.to_owned());
    };
    let Some(volume) = volume else {
        return refuse(Code::NotFound, format!("PersistentVolume {name} does not exist"));
    };
    match &volume.spec.csi {
        Some(csi) if csi.driver == *attachment.driver => {}
        Some(_) | None => {
            let message =
                format!("PersistentVolume {name} is not a volume of the CSI driver {}", attachment.driver);
            return refuse(Code::InvalidArgument, message);
        }
    }
    if volume.metadata.deletion_timestamp.is_some() {
        return refuse(Code::FailedPrecondition, format!("PersistentVolume {name} is being deleted"));
    }
    if is_shared(volume) {
        return Plan::Attach;
    }
    match others.find(|(_, other)| other.is_used() && other.node != attachment.node) {
        None => Plan::Attach,
        Some((other_name, other)) => Plan::Refuse(Refusal {
            code: Code::FailedPrecondition,
            message: format!(
                "Multi-Attach: the volume may be used by one node at a time, and VolumeAttachment {other_name} \
                 attaches it to node {}",
                other.node
            ),
            until: Some(other_name.into()),
        }),
    }
}

/// Whether several nodes may use the volume at a time.
fn is_shared(volume: &VolumeObject) -> bool {
    let modes = volume.spec.access_modes.iter().flatten();
    modes.into_iter().any(|mode| matches!(mode.as_str(), "ReadWriteMany" | "ReadOnlyMany"))
}

/// Attaches or detaches what the attachment of this name is for, if that is still to be done.
pub(super) async fn reconcile(ctx: &Context, name: &str, permit: &Permit) -> Outcome {
    let Some(known) = ctx.cache().attachments.get(name).cloned() else { return Outcome::Done };
    // Its volume matters only where its node wants to begin.
    let volume = match &known.volume {
        Some(volume) if !known.deleting && !known.attached => match ctx.cluster.volume(volume).await {
            Ok(volume) => volume,
            Err(failure) => {
                tracing::warn!(attachment = name, error = %failure, "cannot read the volume to attach");
                return failure.outcome();
            }
        },
        Some(_) | None => None,
    };
    let Some((attachment, plan)) = decide(ctx, name, &known, volume.as_ref()) else {
        // It has changed since.
        return Outcome::Retry;
    };
    if permit.check().is_err() {
        return Outcome::Retry;
    }
    let done = match plan {
        Plan::Ignore => return Outcome::Done,
        Plan::Attach => attach(ctx, name, &attachment).await.map(|()| Outcome::Done),
        Plan::Detach => detach(ctx, name, &attachment).await.map(|()| Outcome::Done),
        Plan::Refuse(refusal) => refuse(ctx, name, &attachment, &refusal).await,
    };
    done.unwrap_or_else(|(right, failure)| {
        if failure.is_forbidden() {
            ctx.rights.refused(right);
        }
        if failure.cause == Cause::Conflict {
            tracing::debug!(attachment = name, error = %failure, "the attachment has changed");
        } else {
            tracing::warn!(attachment = name, error = %failure, "cannot change the attachment");
        }
        failure.outcome()
    })
}

/// The plan for what is known now, which nothing else can be decided beside: what is to be attached counts as attached from here
/// on. `None` where the attachment is not what was `known` any more.
fn decide(
    ctx: &Context,
    name: &str,
    known: &Attachment,
    volume: Option<&VolumeObject>,
) -> Option<(Attachment, Plan)> {
    let mut cache = ctx.cache();
    let attachment = cache.attachments.get(name)?.clone();
    let same = attachment.uid == known.uid && attachment.deleting == known.deleting;
    if !same || (known.attached && !attachment.attached) {
        return None;
    }
    let plan = {
        let of_volume = attachment.volume.iter().flat_map(|volume| cache.attachments.of_volume(volume));
        let others = of_volume.filter(|(other, _)| &***other != name);
        plan(&attachment, volume, others.map(|(other, attachment)| (&**other, attachment)))
    };
    match &plan {
        Plan::Attach => cache.attachments.grant(name),
        Plan::Refuse(Refusal { until: Some(other), .. }) => {
            cache.wakeups.wait(&cache::waited(other), Key::Attachment(name.into()));
        }
        Plan::Refuse(_) | Plan::Detach | Plan::Ignore => {}
    }
    Some((attachment, plan))
}

/// Why a change failed, with the right that it takes.
type Failed = (Right, Failure);

/// First the finalizer, then the status: from the moment on that the node may use the volume the object stays until we know that
/// it goes.
async fn attach(ctx: &Context, name: &str, attachment: &Attachment) -> Result<(), Failed> {
    let mut version = attachment.version.to_string();
    if !attachment.held {
        let patch = json!({"metadata": {
            "uid": attachment.uid, "resourceVersion": version,
            "finalizers": [names::attachment_finalizer(&attachment.driver)],
        }});
        let patched = ctx.cluster.patch_attachment(name, "", &patch).await;
        let Some(patched) = patched.map_err(|failure| (Right::PatchAttachments, failure))? else {
            return Ok(());
        };
        version = patched.metadata.resource_version.unwrap_or_default();
    }
    let patch = json!({
        "metadata": {"uid": attachment.uid, "resourceVersion": version},
        "status": {"attached": true, "attachError": null},
    });
    write_status(ctx, name, &patch).await?;
    let (volume, node) = (attachment.volume.as_deref().unwrap_or_default(), &attachment.node);
    tracing::info!(attachment = name, volume, %node, "attached the volume");
    Ok(())
}

/// The finalizer first, as external-attacher does: an object that is being deleted without it counts as detached, whatever its
/// status says.
async fn detach(ctx: &Context, name: &str, attachment: &Attachment) -> Result<(), Failed> {
    let finalizer = names::attachment_finalizer(&attachment.driver);
    let patch =
        json!({"metadata": {"uid": attachment.uid, "$deleteFromPrimitiveList/finalizers": [finalizer]}});
    let patched = ctx.cluster.patch_attachment(name, "", &patch).await;
    let left = patched.map_err(|failure| (Right::PatchAttachments, failure))?;
    let (volume, node) = (attachment.volume.as_deref().unwrap_or_default(), &attachment.node);
    tracing::info!(attachment = name, volume, %node, "detached the volume");
    // Finalizers of others may keep the object.
    let told = attachment.attached || attachment.detach_failed;
    if left.is_some_and(|left| left.metadata.finalizers.is_some_and(|others| !others.is_empty())) && told {
        let patch = json!({
            "metadata": {"uid": attachment.uid},
            "status": {"attached": false, "detachError": null, "attachmentMetadata": null},
        });
        write_status(ctx, name, &patch).await?;
    }
    Ok(())
}

/// Tells why the volume is not attached, unless the object says so already. What waits for another attachment is asked again when
/// that is gone, everything else slowly.
async fn refuse(
    ctx: &Context,
    name: &str,
    attachment: &Attachment,
    refusal: &Refusal,
) -> Result<Outcome, Failed> {
    if attachment.attach_error.as_deref() != Some(&*refusal.message) {
        let (volume, node) = (attachment.volume.as_deref().unwrap_or_default(), &attachment.node);
        tracing::warn!(attachment = name, volume, %node, why = refusal.message, "refused to attach the volume");
        ctx.metrics.refused("attach");
        write_status(ctx, name, &refused(attachment, refusal, Timestamp::now())).await?;
    }
    Ok(if refusal.until.is_some() { Outcome::Done } else { Outcome::Slow })
}

/// The patch that tells it.
fn refused(attachment: &Attachment, refusal: &Refusal, now: Timestamp) -> Value {
    // The API has seconds.
    let time = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
    let error = json!({"time": time, "message": refusal.message, "errorCode": refusal.code as i32});
    json!({
        "metadata": {"uid": attachment.uid, "resourceVersion": attachment.version},
        "status": {"attached": false, "attachError": error},
    })
}

async fn write_status(ctx: &Context, name: &str, patch: &Value) -> Result<(), Failed> {
    let patched = ctx.cluster.patch_attachment(name, "/status", patch).await;
    patched.map(drop).map_err(|failure| (Right::PatchAttachmentStatus, failure))
}

#[cfg(test)]
mod tests;
