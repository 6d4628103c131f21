//! What a claim's status says of an expansion, and the patches that change it: [`target`], [`begun`], [`failed`], [`finished`]
//! and [`left_to_node`]. Pure.
//!
//! For CSI volumes these are the fields that kubelet reads since Kubernetes 1.34: `allocatedResources`,
//! `allocatedResourceStatuses`, and the annotation that spares nodes a step that is not needed. Kubernetes keeps them for in-tree
//! volumes as well, but no kubelet looks at them there.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    backend::Kind,
    provisioner::{
        names,
        objects::{ClaimObject, annotation},
    },
    volume::Capacity,
};

/// The conditions of a claim that grows.
const RESIZING: [&str; 4] = ["Resizing", ON_NODE, CONTROLLER_ERROR, "NodeResizeError"];

/// The condition of a claim whose file system a node must make bigger; the kubelet takes it away.
const ON_NODE: &str = "FileSystemResizePending";
/// The condition of a claim whose volume could not be made bigger.
const CONTROLLER_ERROR: &str = "ControllerResizeError";

/// The longest text of a condition.
const LONGEST_MESSAGE: usize = 1024;

/// How far an expansion is, in the words of `allocatedResourceStatuses`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The controller is at work, or was when it ended.
    Controller,
    /// The storage will never hold so much.
    ControllerInfeasible,
    /// The node's turn.
    Node,
    /// The node says that it cannot be done.
    NodeInfeasible,
    /// Nothing is under way.
    None,
}

fn state(claim: &ClaimObject) -> State {
    match claim.status.allocated_resource_statuses.storage.as_deref() {
        Some("ControllerResizeInProgress") => State::Controller,
        Some("ControllerResizeInfeasible") => State::ControllerInfeasible,
        Some("NodeResizePending" | "NodeResizeInProgress") => State::Node,
        Some("NodeResizeInfeasible") => State::NodeInfeasible,
        Some(_) | None => State::None,
    }
}

/// What an expansion is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// This size, as it is written in the claim.
    Size(Capacity, String),
    /// Nothing before the kubelet has done its part.
    Node,
    /// Nothing before the request is changed: the node cannot make it so big.
    Infeasible(String),
}

/// What the claim of a CSI volume asks for now: what was begun and whose end is unknown first, then what its author requests.
pub(super) fn target(claim: &ClaimObject, request: Capacity, text: &str) -> Target {
    let allocated_text = claim.status.allocated_resources.storage.as_deref().unwrap_or_default();
    let allocated = allocated_text.parse::<Capacity>().ok();
    let requested = || Target::Size(request, text.to_owned());
    match state(claim) {
        // An error that is known ended what was begun.
        State::Controller if has(claim, CONTROLLER_ERROR) => requested(),
        State::Controller => {
            allocated.map_or_else(requested, |size| Target::Size(size, allocated_text.to_owned()))
        }
        State::Node => Target::Node,
        State::NodeInfeasible if allocated == Some(request) => Target::Infeasible(format!(
            "a node cannot expand the file system to {text}; request another size, or see the Events of the pod"
        )),
        State::None | State::ControllerInfeasible | State::NodeInfeasible => requested(),
    }
}

fn has(claim: &ClaimObject, kind: &str) -> bool {
    claim.status.conditions.iter().flatten().any(|condition| condition.kind == kind)
}

/// Whether the kubelet was asked to make the file system bigger.
pub(super) fn is_left_to_node(claim: &ClaimObject) -> bool {
    has(claim, ON_NODE)
}

/// The patch before the storage is asked for `size`; `None` where the claim says it already.
pub(super) fn begun(claim: &ClaimObject, size: &str) -> Option<Value> {
    let same = matches!(state(claim), State::Controller | State::ControllerInfeasible)
        && claim.status.allocated_resources.storage.as_deref() == Some(size)
        && annotation(&claim.metadata, names::NO_NODE_EXPANSION).is_none();
    let mut metadata = precondition(claim);
    set(&mut metadata, "annotations", json!({names::NO_NODE_EXPANSION: null}));
    let conditions = conditions(claim, Some(("Resizing", "expanding the volume")));
    (!same).then(|| {
        json!({"metadata": metadata, "status": {
            "allocatedResources": {"storage": size},
            "allocatedResourceStatuses": {"storage": "ControllerResizeInProgress"},
            "conditions": conditions,
        }})
    })
}

/// The patch after the storage refused; `None` where nothing is to be told: the end is unknown, or the claim says it already.
pub(super) fn failed(claim: &ClaimObject, kind: Kind, message: &str) -> Option<Value> {
    if kind.may_still_happen() {
        return None;
    }
    let message: String = message.chars().take(LONGEST_MESSAGE).collect();
    let infeasible = match kind {
        Kind::Invalid | Kind::Unsupported | Kind::NotFound => true,
        Kind::Conflict
        | Kind::Exhausted
        | Kind::InUse
        | Kind::Refused
        | Kind::Unavailable
        | Kind::Busy
        | Kind::Internal => false,
    };
    let told = claim.status.conditions.iter().flatten();
    let mut told = told.filter(|one| one.kind == CONTROLLER_ERROR);
    let known = told.any(|one| one.message == message);
    if known && (state(claim) == State::ControllerInfeasible) == infeasible {
        return None;
    }
    let conditions = with_over(conditions(claim, Some((CONTROLLER_ERROR, &message))), "Resizing");
    let mut status = json!({"conditions": conditions});
    let word = if infeasible { "ControllerResizeInfeasible" } else { "ControllerResizeInProgress" };
    set(&mut status, "allocatedResourceStatuses", json!({"storage": word}));
    Some(json!({"metadata": {"uid": claim.metadata.uid}, "status": status}))
}

/// The patch that tells the claim its new size, and ends what said that it is growing. `csi`: nodes are spared their step.
pub(super) fn finished(claim: &ClaimObject, size: &str, csi: bool) -> Value {
    let mut metadata = json!({"uid": claim.metadata.uid});
    let mut status = json!({"capacity": {"storage": size}});
    if csi {
        set(&mut metadata, "annotations", json!({names::NO_NODE_EXPANSION: "true"}));
        set(&mut status, "allocatedResourceStatuses", json!({"storage": null}));
    }
    let over = conditions(claim, None);
    // In-tree claims were never told that they grow.
    let over = if csi { with_over(over, "Resizing") } else { over };
    if !over.is_empty() {
        set(&mut status, "conditions", Value::Array(over));
    }
    json!({"metadata": metadata, "status": status})
}

/// The patch that leaves the rest to the node: the kubelet tells the claim its size when the file system has grown.
pub(super) fn left_to_node(claim: &ClaimObject, csi: bool) -> Value {
    let message = "waiting for a node to expand the file system of the volume";
    let over = conditions(claim, Some((ON_NODE, message)));
    let over = if csi { with_over(over, "Resizing") } else { over };
    let mut status = json!({"conditions": over});
    if csi {
        set(&mut status, "allocatedResourceStatuses", json!({"storage": "NodeResizePending"}));
    }
    json!({"metadata": {"uid": claim.metadata.uid}, "status": status})
}

/// The object as it was read.
fn precondition(claim: &ClaimObject) -> Value {
    json!({"uid": claim.metadata.uid, "resourceVersion": claim.metadata.resource_version})
}

/// A change to the conditions: `now` holds, with its message, and of the others about growing that the claim has none does.
fn conditions(claim: &ClaimObject, now: Option<(&str, &str)>) -> Vec<Value> {
    let holds = now.map(|(kind, message)| {
        let since = Timestamp::now();
        let since = Timestamp::from_second(since.as_second()).unwrap_or(since).to_string();
        json!({"type": kind, "status": "True", "message": message, "lastTransitionTime": since})
    });
    let over = claim.status.conditions.iter().flatten().map(|condition| &*condition.kind);
    let over = over.filter(|kind| RESIZING.contains(kind) && now.is_none_or(|(now, _)| now != *kind));
    let over = over.map(|kind| json!({"type": kind, "$patch": "delete"}));
    holds.into_iter().chain(over).collect()
}

/// The same where this condition, which was set after the claim was read, ends as well.
fn with_over(mut conditions: Vec<Value>, kind: &str) -> Vec<Value> {
    if !conditions.iter().any(|one| one.get("type").and_then(Value::as_str) == Some(kind)) {
        conditions.push(json!({"type": kind, "$patch": "delete"}));
    }
    conditions
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(key.to_owned(), value);
    }
}
