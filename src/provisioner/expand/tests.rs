//! Which claims grow, and what is patched then.

#![allow(clippy::needless_pass_by_value, reason = "patches read best written in place")]

use super::*;
use crate::provisioner::fixtures::{self, NAME};
use std::sync::Arc;

fn backends(expand: bool) -> Backends {
    let memory =
        crate::backend::memory::Memory::new().with_capabilities(|capabilities| capabilities.expand = expand);
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
    let Plan::Expand(order) = plan(&bound_claim(json!({})), json!({"spec": {"volumeMode": "Block"}})) else {
        panic!("not expanded")
    };
    assert_eq!(order.expand_request.mode, Mode::Block);
}

#[test]
fn the_patches_change_the_size_and_end_the_conditions_of_growing() {
    assert_eq!(
        volume_patch("u", "2Gi", None),
        json!({"metadata": {"uid": "u"}, "spec": {"capacity": {"storage": "2Gi"}}})
    );
    let claim = bound_claim(json!({"status": {"conditions": [{"type": "Resizing"}, {"type": "Other"}]}}));
    assert_eq!(
        status::finished(&claim, "2Gi", false),
        json!({
            "metadata": {"uid": "0b6f-11"},
            "status": {
                "capacity": {"storage": "2Gi"},
                "conditions": [{"type": "Resizing", "$patch": "delete"}],
            },
        })
    );
    assert_eq!(
        status::finished(&bound_claim(json!({})), "2Gi", false),
        json!({"metadata": {"uid": "0b6f-11"}, "status": {"capacity": {"storage": "2Gi"}}})
    );
    let node = status::left_to_node(&claim, false);
    let conditions = node["status"]["conditions"].as_array().unwrap();
    assert_eq!(conditions[0]["type"], "FileSystemResizePending");
    assert_eq!(conditions[1..], [json!({"type": "Resizing", "$patch": "delete"})]);
    assert_eq!(node["status"]["capacity"], Value::Null, "the kubelet tells the claim what it has");
}

const NO_NODE_EXPANSION: &str = "volume.kubernetes.io/node-expansion-not-required";

/// A claim of a CSI volume of 1500Mi for which 2Gi are requested, with what its status says of the expansion.
fn pending_expansion(allocated: &str, state: &str, more: Value) -> ClaimObject {
    let mut claim = json!({"status": {
        "allocatedResources": {"storage": allocated}, "allocatedResourceStatuses": {"storage": state},
    }});
    fixtures::merge(&mut claim, &more);
    bound_claim(claim)
}

fn csi_volume(size: &str) -> VolumeObject {
    bound_volume(json!({"spec": {
        "capacity": {"storage": size}, "nfs": null,
        "csi": {"driver": "rbd.berth.storage", "volumeHandle": "1/memory/default/pvc-0b6f-11"},
    }}))
}

#[test]
fn the_claim_of_a_csi_volume_says_what_is_to_be_done_next() {
    let failed = || json!({"status": {"conditions": [{"type": "ControllerResizeError", "message": "why"}]}});
    let lowered = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
    let both = |mut a: Value, b: Value| {
        fixtures::merge(&mut a, &b);
        a
    };
    let none = || json!({});
    let table: Vec<(&str, ClaimObject, &str, Result<&str, &str>)> = vec![
        ("what is requested", bound_claim(none()), "1500Mi", Ok("2Gi")),
        (
            "what was begun is ended first",
            pending_expansion("1800Mi", "ControllerResizeInProgress", none()),
            "1500Mi",
            Ok("1800Mi"),
        ),
        (
            "also where less is requested by now",
            pending_expansion("4Gi", "ControllerResizeInProgress", lowered("1600Mi")),
            "1500Mi",
            Ok("4Gi"),
        ),
        (
            "unless it is known that it failed",
            pending_expansion("4Gi", "ControllerResizeInProgress", both(failed(), lowered("1600Mi"))),
            "1500Mi",
            Ok("1600Mi"),
        ),
        (
            "or can never be",
            pending_expansion("4Gi", "ControllerResizeInfeasible", lowered("1600Mi")),
            "1500Mi",
            Ok("1600Mi"),
        ),
        ("the node's turn", pending_expansion("2Gi", "NodeResizePending", none()), "2Gi", Err("ignore")),
        ("the node at work", pending_expansion("2Gi", "NodeResizeInProgress", none()), "2Gi", Err("ignore")),
        (
            "more is requested while the node is at work",
            pending_expansion("1800Mi", "NodeResizeInProgress", none()),
            "1800Mi",
            Err("ignore"),
        ),
        (
            "the node cannot",
            pending_expansion("2Gi", "NodeResizeInfeasible", none()),
            "2Gi",
            Err("a node cannot expand the file system to 2Gi"),
        ),
        (
            "the node could not, and another size is requested",
            pending_expansion("4Gi", "NodeResizeInfeasible", none()),
            "4Gi",
            Ok("2Gi"),
        ),
        (
            "an earlier version left the condition alone behind",
            bound_claim(json!({"status": {"conditions": [{"type": "FileSystemResizePending"}]}})),
            "2Gi",
            Ok("2Gi"),
        ),
        (
            "a size that cannot be read is not allocated",
            pending_expansion("much", "ControllerResizeInProgress", none()),
            "1500Mi",
            Ok("2Gi"),
        ),
    ];
    let class = fixtures::class(none());
    for (row, claim, size, expected) in table {
        match (plan(&claim, &csi_volume(size), Some(&class), &backends(true)), expected) {
            (Plan::Expand(order), Ok(size)) => {
                assert_eq!((&*order.request_text, order.csi), (size, true), "{row}");
                assert_eq!(order.expand_request.capacity, size.parse().unwrap(), "{row}");
            }
            (Plan::Ignore, Err("ignore")) => {}
            (Plan::Reject(why), Err(words)) => assert!(why.contains(words), "{row}: {why}"),
            (other, _) => panic!("{row}: {other:?}"),
        }
    }
}

#[test]
fn before_the_storage_is_asked_the_claim_of_a_csi_volume_says_so_once() {
    let claim = bound_claim(json!({"metadata": {"annotations": {NO_NODE_EXPANSION: "true"}}}));
    let patch = status::begun(&claim, "2Gi").unwrap();
    assert_eq!(
        patch["metadata"],
        json!({"uid": "0b6f-11", "resourceVersion": "7", "annotations": {NO_NODE_EXPANSION: null}})
    );
    assert_eq!(patch["status"]["allocatedResources"], json!({"storage": "2Gi"}));
    assert_eq!(
        patch["status"]["allocatedResourceStatuses"],
        json!({"storage": "ControllerResizeInProgress"})
    );
    assert_eq!(patch["status"]["conditions"][0]["type"], "Resizing");
    let same = pending_expansion("2Gi", "ControllerResizeInProgress", json!({}));
    assert_eq!(status::begun(&same, "2Gi"), None);
    assert!(status::begun(&same, "3Gi").is_some());
    // A retry of what was refused leaves the reason there until it succeeds.
    assert_eq!(
        status::begun(&pending_expansion("2Gi", "ControllerResizeInfeasible", json!({})), "2Gi"),
        None
    );
}

#[test]
fn what_the_storage_refuses_is_told_by_whether_it_can_ever_be() {
    use Kind as K;
    let claim = pending_expansion("2Gi", "ControllerResizeInProgress", json!({}));
    for (kind, word) in [
        (K::Invalid, Some("ControllerResizeInfeasible")),
        (K::Unsupported, Some("ControllerResizeInfeasible")),
        (K::NotFound, Some("ControllerResizeInfeasible")),
        (K::Exhausted, Some("ControllerResizeInProgress")),
        (K::Refused, Some("ControllerResizeInProgress")),
        (K::InUse, Some("ControllerResizeInProgress")),
        (K::Conflict, Some("ControllerResizeInProgress")),
        (K::Internal, Some("ControllerResizeInProgress")),
        (K::Unavailable, None),
        (K::Busy, None),
    ] {
        let patch = status::failed(&claim, kind, "why");
        let told = patch.as_ref().map(|patch| &patch["status"]["allocatedResourceStatuses"]["storage"]);
        assert_eq!(told.and_then(Value::as_str), word, "{kind}");
        if let Some(patch) = patch {
            let condition = &patch["status"]["conditions"][0];
            assert_eq!(
                (&condition["type"], &condition["message"]),
                (&json!("ControllerResizeError"), &json!("why"))
            );
        }
    }
    let told = json!({"status": {"conditions": [{"type": "ControllerResizeError", "message": "why"}]}});
    let told = pending_expansion("2Gi", "ControllerResizeInfeasible", told);
    assert_eq!(status::failed(&told, K::Invalid, "why"), None, "it says so already");
    assert!(status::failed(&told, K::Invalid, "something else").is_some());
    let long = status::failed(&claim, K::Invalid, &"x".repeat(5000)).unwrap();
    assert_eq!(long["status"]["conditions"][0]["message"].as_str().unwrap().len(), 1024);
}

#[test]
fn a_csi_volume_without_a_step_on_the_node_says_so_and_one_with_it_keeps_its_old_size() {
    let claim = pending_expansion("2Gi", "ControllerResizeInProgress", json!({}));
    let done = status::finished(&claim, "2Gi", true);
    assert_eq!(done["metadata"]["annotations"], json!({NO_NODE_EXPANSION: "true"}));
    assert_eq!(done["status"]["capacity"], json!({"storage": "2Gi"}));
    assert_eq!(done["status"]["allocatedResourceStatuses"], json!({"storage": null}));
    assert_eq!(done["status"]["conditions"], json!([{"type": "Resizing", "$patch": "delete"}]));
    let node = status::left_to_node(&claim, true);
    assert_eq!(node["status"]["allocatedResourceStatuses"], json!({"storage": "NodeResizePending"}));
    assert_eq!(node["status"]["capacity"], Value::Null);
    assert_eq!(node["metadata"], json!({"uid": "0b6f-11"}));
    assert_eq!(
        volume_patch("u", "2Gi", Some("1Gi"))["metadata"]["annotations"],
        json!({"volume.alpha.kubernetes.io/pre-resize-capacity": "1Gi"})
    );
}
