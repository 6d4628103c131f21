//! What storage gets from Kubernetes, against a stub of the API server and with stopped time.

use serde_json::{Value, json};
use tokio::time::advance;

use super::*;
use crate::provisioner::{
    fixtures,
    stub::{Fault, Stub, status},
};

const NOTHING_FORBIDDEN: &str = "";

fn name() -> SecretName {
    SecretName { namespace: "storage".into(), name: "ceph-admin".into() }
}

fn secrets(value: &str) -> Secrets {
    [("key".to_owned(), value.as_bytes().to_vec())].into_iter().collect()
}

/// A Secret as the API server stores it; "aHVudGVyMg==" is "hunter2".
fn stored(patch: &Value) -> Value {
    let mut usual = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {}, "type": "Opaque", "data": {"key": "aHVudGVyMg=="},
    });
    fixtures::merge(&mut usual, patch);
    usual
}

fn put(stub: &Stub, patch: &Value) {
    stub.put("secrets", "storage", "ceph-admin", Some(stored(patch)));
}

/// A server that knows `kube-system`, and refuses everything about the resource `forbidden`.
fn server(forbidden: &'static str) -> Stub {
    let stub = Stub::new();
    stub.put("namespaces", "", "kube-system", Some(json!({"metadata": {}})));
    stub.fail(move |call| if call.resource == forbidden { Fault::Refuse(403) } else { Fault::None });
    stub
}

fn settings() -> Settings {
    Settings { cluster_id: None, former_cluster_ids: Vec::new(), trash_retention: Duration::from_mins(10) }
}

async fn host(stub: &Stub) -> KubernetesClient {
    host_with(stub, settings(), &ClusterIdentity::default()).await
}

async fn host_with(stub: &Stub, settings: Settings, cluster_identity: &ClusterIdentity) -> KubernetesClient {
    KubernetesClient::over(stub.client(), Duration::from_secs(30), settings, cluster_identity.clone()).await
}

fn reads(stub: &Stub) -> usize {
    stub.calls().iter().filter(|call| call.verb == "get" && call.resource == "secrets").count()
}

#[tokio::test(start_paused = true)]
async fn a_secret_is_read_once_for_all_who_ask_and_again_after_some_seconds_or_when_asked_freshly() {
    let stub = server(NOTHING_FORBIDDEN);
    put(&stub, &json!({}));
    let host = host(&stub).await;
    let name = name();
    let crowd = futures::future::join_all((0..20).map(|_| host.get(&name, false))).await;
    assert!(crowd.into_iter().all(|read| read.unwrap() == secrets("hunter2")));
    assert_eq!(reads(&stub), 1, "one request serves everybody");

    put(&stub, &json!({"data": {"key": "bmV3"}}));
    advance(Duration::from_secs(5)).await;
    assert_eq!(host.get(&name, false).await.unwrap(), secrets("hunter2"));
    assert_eq!(reads(&stub), 1, "some seconds old is good enough");
    assert_eq!(host.get(&name, true).await.unwrap(), secrets("new"));
    assert_eq!(reads(&stub), 2, "what storage did not accept is read anew");
    assert_eq!(host.get(&name, false).await.unwrap(), secrets("new"));
    advance(Duration::from_secs(11)).await;
    host.get(&name, false).await.unwrap();
    assert_eq!(reads(&stub), 3, "what is too old is read anew");
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_reported_to_those_who_waited_and_tried_again_by_whoever_comes_later() {
    let stub = server(NOTHING_FORBIDDEN);
    let host = host(&stub).await;
    let name = name();
    let crowd = futures::future::join_all((0..20).map(|_| host.get(&name, true))).await;
    for read in crowd {
        let error = read.unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound);
        assert_eq!(
            error.to_string(),
            "Secret storage/ceph-admin does not exist; create it, or correct adminSecretName and adminSecretNamespace of the \
             class or of the configured cluster"
        );
    }
    assert!(reads(&stub) <= 2, "{}", reads(&stub));
    put(&stub, &json!({}));
    advance(Duration::from_millis(1)).await;
    assert_eq!(host.get(&name, false).await.unwrap(), secrets("hunter2"), "an absence is not remembered");
}

#[tokio::test(start_paused = true)]
async fn secrets_that_nobody_asks_for_any_more_are_not_kept_in_memory() {
    let stub = server(NOTHING_FORBIDDEN);
    let host = host(&stub).await;
    for number in 0..5 {
        let name = SecretName { namespace: "storage".into(), name: format!("s{number}") };
        stub.put("secrets", "storage", &name.name, Some(stored(&json!({}))));
        host.get(&name, false).await.unwrap();
        advance(Duration::from_secs(6)).await;
    }
    assert_eq!(host.readings.lock().len(), 2);
}

/// Proves: case 57, row 8.6
#[tokio::test(start_paused = true)]
async fn an_error_says_what_is_missing_and_nothing_says_what_is_in_a_secret() {
    let name = name();
    let forbidden = server("secrets");
    let error = host(&forbidden).await.get(&name, false).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Internal);
    assert_eq!(
        error.to_string(),
        "not allowed to get secrets in namespace \"storage\" of Secret ceph-admin; bind the role of \
         deploy/manifests/ceph/01-rbac.yaml there"
    );

    let down = server(NOTHING_FORBIDDEN);
    down.fail(|_| Fault::Status(status(503, "no leader")));
    let error = host(&down).await.get(&name, false).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("no leader"), "{error}");

    let strange = server(NOTHING_FORBIDDEN);
    put(&strange, &json!({"data": {"key": "hunter2!"}}));
    let host = host(&strange).await;
    let error = host.get(&name, false).await.unwrap_err();
    let shown = format!("{error} {error:?} {host:?}");
    assert!(shown.contains("is not a Secret") && !shown.contains("hunter2"), "{shown}");
}

/// Proves: case 47
#[tokio::test(start_paused = true)]
async fn what_is_kept_carries_its_volume_and_replaces_only_what_was_kept_for_it() {
    let stub = server(NOTHING_FORBIDDEN);
    let host = host(&stub).await;
    let (name, owner) = (name(), "pvc-1".parse::<VolumeName>().unwrap());
    host.put(&name, &secrets("hunter2"), &owner).await.unwrap();
    let kept = stub.object("secrets", "storage", "ceph-admin").unwrap();
    let (uid, data) = (kept["metadata"]["uid"].clone(), kept["data"].clone());
    assert_eq!((data, kept["type"].clone()), (json!({"key": "aHVudGVyMg=="}), json!("Opaque")));
    assert_eq!(kept["metadata"]["labels"], json!({"app.kubernetes.io/managed-by": "berth"}));
    assert_eq!(kept["metadata"]["annotations"], json!({"berth.storage/volume": "pvc-1"}));

    host.put(&name, &secrets("hunter2"), &owner).await.unwrap();
    let again = stub.object("secrets", "storage", "ceph-admin").unwrap();
    assert_eq!(again["metadata"]["uid"], uid, "what is right is left alone");

    assert_eq!(host.get(&name, false).await.unwrap(), secrets("hunter2"));
    host.put(&name, &secrets("new"), &owner).await.unwrap();
    assert_eq!(host.get(&name, false).await.unwrap(), secrets("new"), "nothing older is remembered");

    let other = "pvc-2".parse().unwrap();
    let error = host.put(&name, &secrets("x"), &other).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.to_string().contains("was not made for volume pvc-2"), "{error}");
    assert_eq!(host.delete(&name, &other).await.unwrap_err().kind(), Kind::Refused);
    assert_eq!(host.get(&name, true).await.unwrap(), secrets("new"));

    host.delete(&name, &owner).await.unwrap();
    assert!(stub.object("secrets", "storage", "ceph-admin").is_none());
    host.delete(&name, &owner).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn whether_a_secret_is_kept_follows_from_its_marks_as_of_now_and_without_its_values() {
    let ours = json!({"metadata": {
        "labels": {"app.kubernetes.io/managed-by": "berth"}, "annotations": {"berth.storage/volume": "pvc-1"},
    }});
    let others = json!({"metadata": {"annotations": {"berth.storage/volume": "pvc-2"}}});
    let mut of_another_volume = ours.clone();
    fixtures::merge(&mut of_another_volume, &others);
    let unmarked = json!({});
    let owner = "pvc-1".parse().unwrap();
    let table = [
        ("there is none", None, SecretState::Gone),
        ("kept", Some(&ours), SecretState::Kept),
        ("of a tenant", Some(&unmarked), SecretState::Replaced),
        ("of another volume", Some(&of_another_volume), SecretState::Replaced),
    ];
    let stub = server(NOTHING_FORBIDDEN);
    let host = host(&stub).await;
    for (row, found, expected) in table {
        let metadata =
            found.map(|found| serde_json::from_value(found["metadata"].clone()).unwrap_or_default());
        assert_eq!(SecretState::of(metadata.as_ref(), &owner), expected, "{row}");
        stub.put("secrets", "storage", "ceph-admin", found.map(stored));
        let kept = host.exists(&name(), &owner).await;
        match expected {
            SecretState::Kept => assert!(kept.unwrap(), "{row}"),
            SecretState::Gone => assert!(!kept.unwrap(), "{row}"),
            SecretState::Replaced => {
                let error = kept.unwrap_err();
                assert_eq!(error.kind(), Kind::Conflict, "{row}");
                assert!(error.to_string().contains("was not made for volume pvc-1"), "{row}: {error}");
            }
        }
    }
    let forbidden = server("secrets");
    let error = self::host(&forbidden).await.exists(&name(), &owner).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Internal);
    assert!(error.to_string().contains("not allowed to get secrets in namespace"), "{error}");
}

/// Proves: row 8.6
#[tokio::test(start_paused = true)]
async fn a_foreign_secret_is_never_changed_or_deleted() {
    let label = json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "berth"}}});
    let volume = json!({"metadata": {"annotations": {"berth.storage/volume": "pvc-1"}}});
    let table = [
        ("no mark at all", json!({})),
        ("our label without a volume", label),
        ("a volume without our label", volume),
    ];
    let (name, owner) = (name(), "pvc-1".parse().unwrap());
    for (row, patch) in table {
        let stub = server(NOTHING_FORBIDDEN);
        put(&stub, &patch);
        let host = host(&stub).await;
        assert_eq!(host.put(&name, &secrets("x"), &owner).await.unwrap_err().kind(), Kind::Conflict, "{row}");
        assert_eq!(host.delete(&name, &owner).await.unwrap_err().kind(), Kind::Refused, "{row}");
        assert_eq!(host.get(&name, true).await.unwrap(), secrets("hunter2"), "{row}");
    }
}

/// Proves: case 47
#[tokio::test(start_paused = true)]
async fn the_secret_that_cephfs_provisioner_made_for_a_volume_goes_with_it() {
    let volume = |patch: Value| {
        let mut usual = json!({
            "metadata": {"annotations": {"cephFSProvisionerIdentity": "cephfs-provisioner-1", "cephShare": "s"}},
            "spec": {
                "claimRef": {"namespace": "team", "name": "data", "uid": "1"},
                "cephfs": {
                    "monitors": ["m"], "path": "/volumes/kubernetes/kubernetes/s", "user": "kubernetes-dynamic-user-1",
                    "secretRef": {"name": "ceph-kubernetes-dynamic-user-1-secret", "namespace": "storage"},
                },
            },
        });
        fixtures::merge(&mut usual, &patch);
        usual
    };
    let reference = |name: &str| json!({"spec": {"cephfs": {"secretRef": {"name": name}}}});
    let table = [
        ("as it was made", volume(json!({})), json!({}), true),
        (
            "a volume that it did not make",
            volume(json!({"metadata": {"annotations": null}})),
            json!({}),
            false,
        ),
        ("a volume with another Secret", volume(reference("other")), json!({}), false),
        (
            "a user with another Secret",
            volume(json!({"spec": {"cephfs": {"user": "admin"}}})),
            json!({}),
            false,
        ),
        ("a Secret with more in it", volume(json!({})), json!({"data": {"more": ""}}), false),
        ("a Secret of another type", volume(json!({})), json!({"type": "kubernetes.io/rbd"}), false),
        ("a labelled Secret", volume(json!({})), json!({"metadata": {"labels": {"app": "x"}}}), false),
    ];
    let name =
        SecretName { namespace: "storage".into(), name: "ceph-kubernetes-dynamic-user-1-secret".into() };
    for (row, volume, secret, goes) in table {
        let stub = server(NOTHING_FORBIDDEN);
        stub.put("persistentvolumes", "", "pvc-1", Some(volume));
        stub.put("secrets", "storage", &name.name, Some(stored(&secret)));
        let forgotten = host(&stub).await.delete(&name, &"pvc-1".parse().unwrap()).await;
        assert_eq!(forgotten.is_ok(), goes, "{row}: {forgotten:?}");
        assert_eq!(stub.object("secrets", "storage", &name.name).is_none(), goes, "{row}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_installation_is_the_uid_of_kube_system_once_it_can_be_known() {
    let stub = server(NOTHING_FORBIDDEN);
    let uid = stub.object("namespaces", "", "kube-system").unwrap()["metadata"]["uid"].clone();
    assert_eq!(json!(host(&stub).await.cluster_id()), uid);
    let asked = stub.calls().len();
    advance(Duration::from_hours(1)).await;
    assert_eq!(stub.calls().len(), asked, "it is asked once");

    let stub = server("namespaces");
    let waiting = host(&stub).await;
    assert_eq!(waiting.cluster_id(), None, "without the right it is unknown, and the start goes on");
    stub.fail(|_| Fault::None);
    tokio::time::sleep(ASK_AGAIN_WITHOUT_RIGHT + Duration::from_secs(1)).await;
    assert!(waiting.cluster_id().is_some(), "a right that was granted later counts");

    let stub = server(NOTHING_FORBIDDEN);
    let failures = std::sync::atomic::AtomicUsize::new(2);
    stub.fail(move |_| {
        let failures = &failures;
        let left = failures.fetch_update(
            std::sync::atomic::Ordering::SeqCst,
            std::sync::atomic::Ordering::SeqCst,
            |left| left.checked_sub(1),
        );
        if left.is_ok() { Fault::Refuse(500) } else { Fault::None }
    });
    assert!(host(&stub).await.cluster_id().is_some(), "a server that fails at first is asked again at once");

    let stub = server(NOTHING_FORBIDDEN);
    stub.fail(|_| Fault::Hang);
    assert_eq!(host(&stub).await.cluster_id(), None, "a server that hangs does not hold up the start");
}

/// Two clusters that share storage were one where neither could read its own identity.
#[tokio::test(start_paused = true)]
async fn the_cluster_is_named_by_the_administrator_else_by_kube_system_else_by_the_lock_and_forgets_no_name()
{
    let ids = |host: &KubernetesClient| host.cluster_ids().map(|ids| ids.current().to_owned());
    // Where kube-system is only late, nothing takes its place.
    let late = server(NOTHING_FORBIDDEN);
    late.fail(|_| Fault::Hang);
    let cluster_identity = ClusterIdentity::default();
    cluster_identity.lock("lock-1".into());
    assert_eq!(ids(&host_with(&late, settings(), &cluster_identity).await), None);

    let stub = server("namespaces");
    let cluster_identity = ClusterIdentity::default();
    let host = host_with(&stub, settings(), &cluster_identity).await;
    assert_eq!(ids(&host), None, "nothing may be read");
    cluster_identity.lock("lock-1".into());
    cluster_identity.lock("lock-2".into());
    let by_lock = host.cluster_ids().unwrap();
    assert_eq!(by_lock.current(), "lock-1", "the first one that was read stays");
    assert!(!by_lock.include("lock-2"));
    stub.fail(|_| Fault::None);
    tokio::time::sleep(ASK_AGAIN_WITHOUT_RIGHT + Duration::from_secs(1)).await;
    let uid = stub.object("namespaces", "", "kube-system").unwrap()["metadata"]["uid"].clone();
    let by_namespace = host.cluster_ids().unwrap();
    assert_eq!(json!(by_namespace.current()), uid, "the right was granted");
    assert!(by_namespace.include("lock-1"), "what was signed before is still its own");

    let named =
        Settings { cluster_id: Some("green".into()), former_cluster_ids: vec!["blue".into()], ..settings() };
    let named = host_with(&stub, named, &cluster_identity).await.cluster_ids().unwrap();
    assert_eq!(named.current(), "green");
    for id in ["green", "blue", "lock-1", uid.as_str().unwrap()] {
        assert!(named.include(id), "{id}");
    }
    assert!(!named.include("red") && !named.include(""));
}

/// Under the roles of the old provisioners the namespace cannot be read, and nobody grants it.
#[tokio::test(start_paused = true)]
async fn a_right_that_is_never_granted_costs_a_request_now_and_then_and_the_nodes_are_not_read_unasked() {
    let stub = server("namespaces");
    let _host = host(&stub).await;
    tokio::time::sleep(Duration::from_hours(24)).await;
    let asked = stub.calls();
    assert!(asked.iter().all(|call| call.resource == "namespaces"), "{asked:?}");
    assert!(asked.len() <= 24 * 6 + 2, "{} requests in a day", asked.len());
}

#[tokio::test(start_paused = true)]
async fn the_state_of_a_volume_is_asked_live() {
    let stub = server(NOTHING_FORBIDDEN);
    let host = host(&stub).await;
    let name = "pvc-1".parse::<VolumeName>().unwrap();
    assert_eq!(host.pv_state(&name).await.unwrap(), PvState::Absent);
    let rbd = json!({"pv.kubernetes.io/provisioned-by": "kubernetes.io/rbd"});
    let table = [
        ("released and to be removed", "Delete", "Released", json!({}), true),
        ("rescued by its policy", "Retain", "Released", json!({}), false),
        ("bound again", "Delete", "Bound", json!({}), false),
        ("available", "Delete", "Available", json!({}), false),
        ("failed", "Delete", "Failed", json!({}), false),
        ("failed since Kubernetes has no plugin for it any more", "Delete", "Failed", rbd, true),
    ];
    for (row, policy, phase, annotations, removing) in table {
        let volume = json!({
            "metadata": {"annotations": annotations},
            "spec": {"persistentVolumeReclaimPolicy": policy}, "status": {"phase": phase},
        });
        stub.put("persistentvolumes", "", "pvc-1", Some(volume));
        let uid = stub.object("persistentvolumes", "", "pvc-1").unwrap()["metadata"]["uid"].clone();
        let expected = PvState::Present { uid: uid.as_str().unwrap().to_owned(), removing };
        assert_eq!(host.pv_state(&name).await.unwrap(), expected, "{row}");
    }
    stub.fail(|_| Fault::Refuse(503));
    assert_eq!(host.pv_state(&name).await.unwrap_err().kind(), Kind::Unavailable, "unknown is not absent");
}

#[tokio::test(start_paused = true)]
async fn a_node_is_known_by_its_address_and_the_nodes_are_read_again_when_somebody_asks() {
    let page = |name: &str, address: &str| {
        json!({
            "kind": "NodeList", "code": 200, "metadata": {},
            "items": [{"metadata": {"name": name}, "status": {"addresses": [
                {"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address},
            ]}}],
        })
    };
    let lists = |stub: &Stub| stub.calls().iter().filter(|call| call.resource == "nodes").count();
    let stub = server(NOTHING_FORBIDDEN);
    stub.fail(move |call| match call.resource.as_str() {
        "nodes" => Fault::Status(page("a", "10.0.0.1")),
        _ => Fault::None,
    });
    let host = host(&stub).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        (lists(&stub), host.node_at("10.0.0.1".parse().unwrap())),
        (0, None),
        "the first to ask is told later"
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(host.node_at("10.0.0.1".parse().unwrap()).as_deref(), Some("a"));
    assert_eq!(host.node_at("::ffff:10.0.0.1".parse().unwrap()).as_deref(), Some("a"));
    assert_eq!(host.node_at("10.0.0.2".parse().unwrap()), None);
    assert_eq!(lists(&stub), 1);
    stub.fail(move |call| match call.resource.as_str() {
        "nodes" => Fault::Status(page("b", "10.0.0.2")),
        _ => Fault::None,
    });
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(host.node_at("10.0.0.2".parse().unwrap()).as_deref(), Some("b"));
    tokio::time::sleep(Duration::from_hours(1)).await;
    let before = lists(&stub);
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!(lists(&stub), before, "nobody asks, nothing is read");
}
