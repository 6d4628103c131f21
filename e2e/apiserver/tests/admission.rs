//! What the server refuses to store, and what it adds.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failed expectation is how a test speaks, in its helpers too"
)]

mod support;

use k8s_openapi::api::core::v1::{ConfigMap, Event};
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, ListParams, PostParams},
    core::ApiResource,
};
use serde_json::{Value, json};
use support::{admin, config_map, quiet};

#[test]
fn a_bad_object_is_refused_with_code_and_place() {
    let server = quiet();
    let claim = |spec: Value| json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "c"}, "spec": spec});
    let size = json!({"requests": {"storage": "1Gi"}});
    let map = |metadata: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata});
    for (row, value, code, part) in [
        ("no access mode", claim(json!({"resources": size})), 422, "spec.accessModes: Required value"),
        (
            "an unknown access mode",
            claim(json!({"accessModes": ["All"], "resources": size})),
            422,
            "Unsupported value: \"All\"",
        ),
        (
            "no size",
            claim(json!({"accessModes": ["ReadWriteOnce"]})),
            422,
            "spec.resources[storage]: Required value",
        ),
        (
            "a size of nothing",
            claim(json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "0"}}})),
            422,
            "must be greater than zero",
        ),
        (
            "a size that is none",
            claim(json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "much"}}})),
            400,
            "quantities must match",
        ),
        ("an unknown field", claim(json!({"acessModes": []})), 400, "unknown field \"spec.acessModes\""),
        ("a name that is none", map(json!({"name": "A_b"})), 422, "metadata.name: Invalid value: \"A_b\""),
        ("no name", map(json!({})), 422, "name or generateName is required"),
        (
            "annotations beyond all measure",
            map(json!({"name": "a", "annotations": {"x": "y".repeat(256 * 1024)}})),
            422,
            "metadata.annotations: Too long: may not be more than 262144 bytes",
        ),
        (
            "a namespace that is not there",
            map(json!({"name": "a", "namespace": "n"})),
            404,
            "namespaces \"n\" not found",
        ),
        (
            "a class without provisioner",
            json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "c"}}),
            422,
            "provisioner: Required value",
        ),
        (
            "a volume without source",
            json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"},
                "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}}),
            422,
            "spec: Required value: must specify a volume type",
        ),
        ("a kind that is not there", json!({"apiVersion": "v1", "kind": "Thing"}), 400, "no kind \"Thing\""),
    ] {
        let refused = server.store().create_value(value).unwrap_err();
        assert_eq!(refused.code, code, "{row}: {refused}");
        assert!(refused.message.contains(part), "{row}: {}", refused.message);
    }
}

#[tokio::test]
async fn names_are_generated_and_unknown_fields_warned_of_or_refused() {
    let server = quiet();
    let client = admin(&server);
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let generate: ConfigMap = serde_json::from_value(json!({"metadata": {"generateName": "gen-"}})).unwrap();
    let (one, two) = (
        api.create(&PostParams::default(), &generate).await.unwrap().metadata.name.unwrap(),
        api.create(&PostParams::default(), &generate).await.unwrap().metadata.name.unwrap(),
    );
    assert!(one.starts_with("gen-") && one.len() == 9 && one != two);

    let body = json!({"metadata": {"name": "a"}, "dota": {"x": "y"}}).to_string();
    for (validation, code) in [("Strict", 400), ("Warn", 201), ("Ignore", 409)] {
        let uri = format!("/api/v1/namespaces/default/configmaps?fieldValidation={validation}");
        let request = http::Request::post(uri)
            .header("content-type", "application/json")
            .body(body.clone().into_bytes().into());
        let response = client.send(request.unwrap()).await.unwrap();
        assert_eq!(response.status().as_u16(), code, "{validation}");
        let warned = response.headers().get("warning").map(|w| w.to_str().unwrap().to_owned());
        let expected = (validation == "Warn").then(|| "299 - \"unknown field \\\"dota\\\"\"".to_owned());
        assert_eq!(warned, expected);
    }
}

#[tokio::test]
async fn selected_objects_are_listed_and_deleted_together() {
    let server = quiet();
    let api: Api<ConfigMap> = Api::namespaced(admin(&server), "default");
    for (name, app) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut map = config_map(name, "");
        map.metadata.labels = Some([("app".to_owned(), app.to_owned())].into());
        api.create(&PostParams::default(), &map).await.unwrap();
    }
    let names = |list: Vec<ConfigMap>| list.into_iter().filter_map(|m| m.metadata.name).collect::<Vec<_>>();
    for (params, expected) in [
        (ListParams::default().labels("app=x"), vec!["a", "b"]),
        (ListParams::default().labels("app notin (x)"), vec!["c"]),
        (ListParams::default().fields("metadata.name=b"), vec!["b"]),
        (ListParams::default().fields("metadata.namespace=other"), vec![]),
    ] {
        assert_eq!(names(api.list(&params).await.unwrap().items), expected, "{params:?}");
    }
    let unsupported = api.list(&ListParams::default().fields("data.text=1")).await.unwrap_err();
    assert!(matches!(unsupported, kube::Error::Api(status) if status.code == 400));
    api.delete_collection(&DeleteParams::default(), &ListParams::default().labels("app=x")).await.unwrap();
    assert_eq!(names(api.list(&ListParams::default()).await.unwrap().items), ["c"]);
}

#[tokio::test]
async fn events_are_one_thing_in_two_groups() {
    let server = quiet();
    let resource = ApiResource {
        group: "events.k8s.io".into(),
        version: "v1".into(),
        api_version: "events.k8s.io/v1".into(),
        kind: "Event".into(),
        plural: "events".into(),
    };
    let new: Api<DynamicObject> = Api::namespaced_with(admin(&server), "default", &resource);
    let event: DynamicObject =
        serde_json::from_value(json!({"apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": "e"}, "regarding": {"kind": "ConfigMap", "name": "a", "namespace": "default"},
        "note": "hello", "reason": "Said", "type": "Normal", "action": "Say", "reportingController": "me",
        "reportingInstance": "me-1", "eventTime": "2026-01-01T00:00:00.000000Z"}))
        .unwrap();
    new.create(&PostParams::default(), &event).await.unwrap();
    let core: Api<Event> = Api::namespaced(admin(&server), "default");
    let selected =
        core.list(&ListParams::default().fields("involvedObject.name=a,reason=Said")).await.unwrap();
    assert_eq!(selected.items[0].message.as_deref(), Some("hello"));
    assert_eq!(selected.items[0].reporting_component.as_deref(), Some("me"));
    let selected = new.list(&ListParams::default().fields("regarding.name=a")).await.unwrap();
    assert_eq!(selected.items[0].data["note"], "hello");
}

#[tokio::test]
async fn a_write_can_be_tried_without_being_done() {
    let server = quiet();
    let api: Api<ConfigMap> = Api::namespaced(admin(&server), "default");
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    api.create(&dry, &config_map("a", "")).await.unwrap();
    assert!(api.get_opt("a").await.unwrap().is_none());
    api.create(&PostParams::default(), &config_map("a", "")).await.unwrap();
    let error = api.create(&dry, &config_map("a", "")).await.unwrap_err();
    assert!(matches!(error, kube::Error::Api(status) if status.is_already_exists()));
}
