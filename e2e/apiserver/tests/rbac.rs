//! Who may do what.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failed expectation is how a test speaks, in its helpers too"
)]

mod support;

use k8s_openapi::api::{
    authorization::v1::SelfSubjectAccessReview,
    core::v1::{ConfigMap, PersistentVolume},
    rbac::v1::{ClusterRole, RoleBinding},
};
use kube::{
    Api, Client, Config,
    api::{ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use support::{client, code, config_map, quiet};

const USER: &str = "system:serviceaccount:berth:berth";

#[tokio::test]
async fn a_service_account_may_do_what_the_stored_rules_say() {
    let server = quiet();
    let volumes: Api<PersistentVolume> = Api::all(client(&server, USER));
    let refused = volumes.list(&ListParams::default()).await.unwrap_err();
    assert_eq!(code(&refused), (403, "Forbidden".into()));
    assert!(
        refused.to_string().contains(
            "persistentvolumes is forbidden: User \"system:serviceaccount:berth:berth\" cannot list resource \
             \"persistentvolumes\" in API group \"\" at the cluster scope"
        ),
        "{refused}"
    );
    let store = server.store();
    store
        .create_value(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "r"},
            "rules": [{"apiGroups": [""], "resources": ["persistentvolumes", "configmaps"], "verbs": ["get", "list", "create"]}]}))
        .unwrap();
    store
        .create_value(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "b"},
            "roleRef": {"kind": "ClusterRole", "name": "r"},
            "subjects": [{"kind": "ServiceAccount", "name": "berth", "namespace": "berth"}]}))
        .unwrap();
    volumes.list(&ListParams::default()).await.unwrap();
    let deletes = volumes.delete("x", &kube::api::DeleteParams::default()).await.unwrap_err();
    assert!(deletes.to_string().contains("persistentvolumes \"x\" is forbidden"), "{deletes}");
    // A rule that is taken away no longer counts.
    store.patch::<ClusterRole>("", "r", &json!({"rules": []})).unwrap();
    assert_eq!(code(&volumes.list(&ListParams::default()).await.unwrap_err()).0, 403);
}

#[tokio::test]
async fn a_role_binding_counts_in_its_namespace_only_and_a_review_says_so() {
    let server = quiet();
    let store = server.store();
    store
        .create_value(
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["*"]}]}),
        )
        .unwrap();
    store
        .create_value(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "b"},
            "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "Group", "name": "system:serviceaccounts:berth"}]}))
        .unwrap();
    let user = client(&server, USER);
    let here: Api<ConfigMap> = Api::namespaced(user.clone(), "default");
    let there: Api<ConfigMap> = Api::namespaced(user.clone(), "kube-system");
    here.create(&PostParams::default(), &config_map("a", "")).await.unwrap();
    let refused = there.create(&PostParams::default(), &config_map("a", "")).await.unwrap_err();
    assert!(refused.to_string().contains("in the namespace \"kube-system\""), "{refused}");
    let reviews: Api<SelfSubjectAccessReview> = Api::all(user);
    for (namespace, expected) in [("default", true), ("kube-system", false)] {
        let review: SelfSubjectAccessReview = serde_json::from_value(json!({"spec": {"resourceAttributes":
            {"namespace": namespace, "verb": "create", "resource": "configmaps"}}}))
        .unwrap();
        let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
        assert_eq!(answer.status.unwrap().allowed, expected, "{namespace}");
    }
    store.delete::<RoleBinding>("default", "b").unwrap();
    assert_eq!(code(&here.get("a").await.unwrap_err()).0, 403);
}

#[tokio::test]
async fn a_wrong_token_is_unauthorized_and_none_is_anonymous() {
    let server = quiet();
    let ask = |token: Option<&'static str>| {
        let mut config = kube::Config::new(server.url().parse().unwrap());
        config.auth_info.token = token.map(|t| t.to_owned().into());
        let api: Api<ConfigMap> = Api::namespaced(kube::Client::try_from(config).unwrap(), "default");
        async move { code(&api.get("a").await.unwrap_err()) }
    };
    assert_eq!(ask(Some("wrong")).await, (401, "Unauthorized".into()));
    assert_eq!(ask(None).await, (403, "Forbidden".into()));
}

#[tokio::test]
async fn a_kubeconfig_carries_its_user() {
    let server = quiet();
    server.add_user("root", &["system:masters"]);
    for (user, code) in [("root", 404), ("nobody", 403), ("admin", 404)] {
        let kubeconfig = Kubeconfig::from_yaml(&server.kubeconfig(user)).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let api: Api<ConfigMap> = Api::default_namespaced(Client::try_from(config).unwrap());
        assert_eq!(support::code(&api.get("a").await.unwrap_err()).0, code, "{user}");
    }
}
