//! What missing rights cost, and how they are learned, against a stub of the API server.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::json;
use tokio::time::{Instant, advance, sleep, timeout};

use super::{monitor::conclude, *};
use crate::provisioner::stub::{Call, Fault, Stub, status};

/// The rights that the old provisioners' roles grant.
fn old_role(right: Right) -> bool {
    let rule = right.rule();
    match (rule.group, rule.resource, rule.subresource) {
        ("", "persistentvolumes", "") => ["get", "list", "watch", "create", "delete"].contains(&rule.verb),
        ("", "persistentvolumeclaims", "") => ["get", "list", "watch", "update"].contains(&rule.verb),
        ("storage.k8s.io", "storageclasses", "") => ["get", "list", "watch"].contains(&rule.verb),
        ("", "events", "") => ["create", "update", "patch"].contains(&rule.verb),
        ("", "endpoints", "") => ["get", "list", "watch", "create", "update", "patch"].contains(&rule.verb),
        _ => false,
    }
}

fn all() -> Vec<Right> {
    [VOLUMES, ATTACHMENTS, ELECTION, host(true, true)].concat()
}

#[test]
fn what_is_denied_is_missing_only_where_it_would_be_of_use() {
    use Right as R;
    let missing =
        |denied: &[R]| Rights::without(denied.iter().copied()).missing().into_iter().collect::<Vec<_>>();
    for right in all() {
        let expected = match right {
            R::CreateEndpoints | R::UpdateEndpoints => vec![],
            other => vec![other],
        };
        assert_eq!(missing(&[right]), expected, "{right} alone");
    }
    let endpoints = [R::CreateEndpoints, R::UpdateEndpoints];
    assert_eq!(
        missing(&[&[R::GetLeases][..], &endpoints].concat()),
        [R::GetLeases],
        "one of the two locks is enough"
    );
    assert_eq!(missing(&[R::GetLeases]), [R::GetLeases]);
}

/// A sentence, what is denied, and what is told: whether it is required, and words of the text.
type Loss = (&'static str, &'static [Right], &'static [(bool, &'static str)]);

#[test]
fn what_each_missing_right_costs() {
    use Right as R;
    let table: [Loss; 14] = [
        ("with all rights nothing is said", &[], &[]),
        ("volumes cannot be seen", &[R::WatchVolumes], &[(true, "cannot list and watch all claims")]),
        ("claims cannot be seen", &[R::ListClaims], &[(true, "cannot list and watch all claims")]),
        (
            "classes cannot be seen",
            &[R::ListClasses, R::WatchClasses],
            &[(true, "cannot list and watch all claims")],
        ),
        ("cannot create PersistentVolumes", &[R::CreateVolumes], &[(true, "provisions no claim")]),
        ("volumes cannot be deleted", &[R::DeleteVolumes], &[(true, "neither deleted nor archived")]),
        ("volumes cannot be looked at again", &[R::GetVolumes], &[(true, "removes none")]),
        (
            "claims cannot be looked at again",
            &[R::GetClaims],
            &[(false, "does not clean up half-made volumes")],
        ),
        ("classes cannot be looked at again", &[R::GetClasses], &[(false, "neither deletes nor archives")]),
        (
            "volumes cannot be patched",
            &[R::PatchVolumes],
            &[(false, "no finalizer"), (false, "cannot be expanded")],
        ),
        ("claims cannot be resized", &[R::PatchClaimStatus], &[(false, "cannot be expanded")]),
        ("one verb of leases is missing", &[R::UpdateLeases], &[(false, "instead of a Lease")]),
        ("no lock can be had", &[R::GetLeases, R::UpdateEndpoints], &[(true, "cannot elect a leader")]),
        ("the old lock cannot be seen", &[R::GetEndpoints], &[(false, "make sure that none is running")]),
    ];
    for (row, denied, expected) in table {
        let notices = degrade(&Rights::without(denied.iter().copied()));
        let told: Vec<bool> = notices.iter().map(|notice| notice.required).collect();
        assert_eq!(told, expected.iter().map(|(required, _)| *required).collect::<Vec<_>>(), "{row}");
        for (notice, (_, text)) in notices.iter().zip(expected) {
            assert!(notice.text.contains(text), "{row}: {}", notice.text);
        }
    }
}

#[test]
fn every_right_that_is_asked_for_is_missed() {
    for right in all() {
        // The Endpoints are needed in full only where there is no Lease.
        let mut denied = vec![right];
        if ENDPOINTS.contains(&right) {
            denied.extend(LEASES);
        }
        let notices = degrade(&Rights::without(denied));
        assert!(!notices.is_empty(), "{right} is asked for and nobody needs it");
    }
}

#[test]
fn what_is_required_is_said_first() {
    let notices = degrade(&Rights::without(all()));
    assert!(notices.is_sorted_by_key(|notice| !notice.required));
    assert!(notices.first().unwrap().required && !notices.last().unwrap().required);
}

#[test]
fn a_notice_names_the_rights_and_brings_the_rules() {
    let rights = Rights::without([Right::PatchClaimStatus, Right::GetLeases, Right::UpdateLeases]);
    let notices = degrade(&rights);
    let lines: Vec<String> = notices.iter().map(Notice::to_string).collect();
    assert_eq!(
        lines,
        [
            "missing right to patch persistentvolumeclaims/status: claims cannot be expanded; berth answers a larger \
             request with an Event on the claim",
            "missing right to get leases.coordination.k8s.io, update leases.coordination.k8s.io: berth uses the Endpoints \
             lock of the old provisioners instead of a Lease",
        ]
    );
    assert_eq!(
        Right::GetKubeSystem.grant(),
        "- apiGroups: [\"\"]\n  resources: [\"namespaces\"]\n  resourceNames: [\"kube-system\"]\n  verbs: [\"get\"]\n"
    );
    assert_eq!(
        notices[0].rule,
        "- apiGroups: [\"\"]\n  resources: [\"persistentvolumeclaims/status\"]\n  verbs: [\"patch\"]\n"
    );
    assert_eq!(
        notices[1].rule,
        "- apiGroups: [\"coordination.k8s.io\"]\n  resources: [\"leases\"]\n  verbs: [\"get\", \"update\"]\n"
    );
}

/// A sentence, the answers about getting and patching volumes, what was refused, what was missing before, and what is now.
type Conclusion = (&'static str, [Option<bool>; 2], &'static [Right], &'static [Right], &'static [Right]);

#[test]
fn what_answers_and_refusals_mean() {
    const PATCH: &[Right] = &[Right::PatchVolumes];
    let rights = |denied: &[Right]| Rights::without(denied.iter().copied());
    let table: [Conclusion; 9] = [
        ("what is allowed is there", [Some(true), Some(true)], &[], &[], &[]),
        ("what is denied is not", [Some(true), Some(false)], &[], &[], PATCH),
        ("a right that was granted is there again", [Some(true), Some(true)], &[], PATCH, &[]),
        ("the answer counts more than a refusal before it", [Some(true), Some(true)], PATCH, &[], &[]),
        ("a server that does not answer allows everything", [None, None], &[], &[], &[]),
        ("but not what it refused", [None, None], PATCH, &[], PATCH),
        ("which is tried again when it was not refused since", [None, None], &[], PATCH, &[]),
        ("one answer that is lost changes nothing", [Some(true), None], &[], PATCH, PATCH),
        ("nor does it deny what was there", [Some(true), None], &[], &[], &[]),
    ];
    for (row, [first, second], refused, before, after) in table {
        let refused: BTreeSet<Right> = refused.iter().copied().collect();
        let conclusion =
            conclude(&[(Right::GetVolumes, first), (Right::PatchVolumes, second)], &refused, &rights(before));
        assert_eq!(conclusion, rights(after), "{row}");
    }
}

/// A server whose role is what `allowed` says.
fn server(allowed: impl Fn(Right) -> bool + Send + Sync + 'static) -> Stub {
    let stub = Stub::new();
    stub.fail(move |call| review(call, &allowed));
    stub
}

fn review(call: &Call, allowed: &impl Fn(Right) -> bool) -> Fault {
    assert_eq!((call.verb, call.resource.as_str()), ("create", "selfsubjectaccessreviews"));
    let asked = &call.body["spec"]["resourceAttributes"];
    let text = |field: &str| asked[field].as_str().unwrap_or_default().to_owned();
    let right = all().into_iter().find(|right| {
        let rule = right.rule();
        let namespace = if rule.namespaced { "storage" } else { "" };
        (text("group"), text("resource"), text("subresource"), text("verb"), text("namespace"))
            == (
                rule.group.into(),
                rule.resource.into(),
                rule.subresource.into(),
                rule.verb.into(),
                namespace.into(),
            )
    });
    let mut answer = call.body.clone();
    answer["status"] = json!({"allowed": allowed(right.expect("a question that nobody asked"))});
    answer["code"] = json!(201);
    Fault::Status(answer)
}

async fn monitor(stub: &Stub) -> Monitor {
    Monitor::start(stub.client(), "storage", all(), Duration::from_secs(5)).await
}

/// Proves: row 8.1, row 8.2, row 8.3, row 8.4, row 8.5, row 8.8, row 8.9, row 8.10, row 8.11, row 8.12
#[tokio::test(start_paused = true)]
async fn under_the_role_of_the_old_provisioners_everything_required_is_there() {
    let stub = server(old_role);
    let monitor = monitor(&stub).await;
    let rights = monitor.rights().borrow().clone();
    let denied: Vec<Right> = rights.denied().collect();
    assert_eq!(
        denied,
        [
            Right::PatchVolumes,
            Right::PatchClaimStatus,
            Right::GetLeases,
            Right::CreateLeases,
            Right::UpdateLeases,
            Right::GetKubeSystem,
            Right::ListNodes,
            Right::ListAttachments,
            Right::WatchAttachments,
            Right::PatchAttachments,
            Right::PatchAttachmentStatus,
        ]
    );
    let notices = degrade(&rights);
    assert!(notices.iter().all(|notice| !notice.required), "{notices:?}");
    assert_eq!(notices.len(), 6, "finalizer, growth, lock, identity, nodes, attachments: {notices:?}");
}

#[tokio::test(start_paused = true)]
async fn questions_go_out_together_and_a_server_that_hangs_costs_one_limit() {
    let stub = Stub::new();
    stub.fail(|_| Fault::Hang);
    let begin = Instant::now();
    let monitor = monitor(&stub).await;
    assert_eq!(begin.elapsed(), Duration::from_secs(5));
    assert!(stub.most_under_way() > 1);
    assert_eq!(*monitor.rights().borrow(), Rights::default());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_or_does_not_know_the_question_allows_everything_until_it_refuses_the_thing() {
    for code in [403, 404, 500] {
        let stub = Stub::new();
        stub.fail(move |_| Fault::Status(status(code, "no reviews here")));
        let monitor = monitor(&stub).await;
        let mut rights = monitor.rights();
        assert_eq!(*rights.borrow_and_update(), Rights::default(), "{code}");
        monitor.refused(Right::PatchVolumes);
        timeout(Duration::from_mins(1), rights.changed()).await.expect("it is not learned").unwrap();
        assert_eq!(*rights.borrow_and_update(), Rights::without([Right::PatchVolumes]), "{code}");
        timeout(Duration::from_mins(11), rights.changed()).await.expect("no other chance").unwrap();
        assert_eq!(*rights.borrow_and_update(), Rights::default(), "{code}");
    }
}

/// Proves: row 8.13
#[tokio::test(start_paused = true)]
async fn a_change_of_the_role_is_seen_soon_after_a_refusal_and_else_within_ten_minutes() {
    let denied = Arc::new(Mutex::new(BTreeSet::new()));
    let stub = {
        let denied = Arc::clone(&denied);
        server(move |right| !denied.lock().contains(&right))
    };
    let monitor = monitor(&stub).await;
    let mut rights = monitor.rights();
    denied.lock().insert(Right::PatchVolumes);
    let begin = Instant::now();
    rights.changed().await.unwrap();
    assert_eq!(begin.elapsed().as_secs(), 600);
    assert!(!rights.borrow_and_update().allow(Right::PatchVolumes));

    denied.lock().insert(Right::CreateVolumes);
    let begin = Instant::now();
    monitor.refused(Right::CreateVolumes);
    rights.changed().await.unwrap();
    assert!(begin.elapsed() <= Duration::from_secs(31), "{:?}", begin.elapsed());
    assert!(degrade(&rights.borrow_and_update()).iter().any(|notice| notice.required));

    denied.lock().clear();
    let begin = Instant::now();
    rights.changed().await.unwrap();
    assert!(
        begin.elapsed() <= Duration::from_secs(61),
        "what is required is asked for more often: {:?}",
        begin.elapsed()
    );
    assert_eq!(*rights.borrow(), Rights::default());
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_refusals_does_not_become_a_flood_of_questions() {
    let stub = server(|_| true);
    let monitor = monitor(&stub).await;
    let at_start = stub.calls().len();
    for _ in 0..300 {
        monitor.refused(Right::PatchVolumes);
        sleep(Duration::from_secs(1)).await;
    }
    let rounds = (stub.calls().len() - at_start) / at_start;
    assert!((5..=10).contains(&rounds), "{rounds} rounds in five minutes");
}

#[tokio::test(start_paused = true)]
async fn a_monitor_that_is_dropped_asks_no_more() {
    let stub = server(|_| true);
    drop(monitor(&stub).await);
    let asked = stub.calls().len();
    advance(Duration::from_hours(1)).await;
    sleep(Duration::from_hours(1)).await;
    assert_eq!(stub.calls().len(), asked);
}
