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
