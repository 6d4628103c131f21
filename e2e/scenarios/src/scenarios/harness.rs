//! The ground that the other scenarios stand on: rights, the binder, late binding, the proxy, an
//! API server that is stopped. None of these starts berth.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    authorization::v1::SelfSubjectAccessReview,
    coordination::v1::Lease,
    core::v1::{Node, PersistentVolume, Pod},
    storage::v1::StorageClass,
};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};
use serde_json::json;

use crate::{
    case::{Case, pod, stateful_set},
    control_plane::User,
    proxy::Effect,
    suite::{Scenario, scenario},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("each account has the rights of its manifests and no others", rights),
        scenario("a PV made by hand is bound, and released with its claim", binder),
        scenario("a claim that wants attributes is bound to no volume without them", attributes),
        scenario("a released CSI volume that names no provisioner is left to its driver", static_csi),
        scenario("late binding waits for a pod and names its node", late_binding),
        scenario("a StatefulSet's template makes a claim per replica", templates),
        scenario("the proxy's faults are what a client sees", faults),
        scenario("the API server forgets nothing when it is stopped", restart).alone(),
        scenario("requests are counted for each account", counts).alone(),
    ]
}

async fn rights(case: Arc<Case>) -> Result<()> {
    // (who, verb, group, resource, subresource, namespace, allowed)
    let rows = [
        (User::Berth, "create", "", "persistentvolumes", "", "", true),
        (User::Berth, "patch", "", "persistentvolumes", "", "", true),
        (User::Berth, "patch", "", "persistentvolumeclaims", "status", "x", true),
        (User::Berth, "delete", "", "persistentvolumeclaims", "", "x", false),
        (User::Berth, "get", "", "secrets", "", "x", false),
        (User::Berth, "create", "coordination.k8s.io", "leases", "", "berth", true),
        (User::Berth, "create", "coordination.k8s.io", "leases", "", "x", false),
        (User::OldProvisioner, "create", "", "persistentvolumes", "", "", true),
        (User::OldProvisioner, "patch", "", "persistentvolumes", "", "", false),
        (User::OldProvisioner, "patch", "", "persistentvolumeclaims", "status", "x", false),
        (User::OldProvisioner, "update", "", "endpoints", "", "old-nfs", true),
        (User::OldProvisioner, "update", "", "endpoints", "", "x", false),
        (User::OldProvisioner, "create", "coordination.k8s.io", "leases", "", "old-nfs", false),
        (User::OldProvisioner, "create", "events.k8s.io", "events", "", "x", false),
    ];
    for (user, verb, group, resource, subresource, namespace, allowed) in rows {
        let reviews: Api<SelfSubjectAccessReview> = Api::all(case.plane.client(user).await?);
        let review: SelfSubjectAccessReview = serde_json::from_value(json!({
            "spec": { "resourceAttributes": {
                "verb": verb, "group": group, "resource": resource,
                "subresource": subresource, "namespace": namespace,
            } },
        }))?;
        let review = reviews.create(&PostParams::default(), &review).await?;
        let answer = review.status.context("a review without an answer")?.allowed;
        ensure!(
            answer == allowed,
            "{} may {verb} {group}/{resource}/{subresource} in {namespace:?}: {answer}",
            user.name()
        );
    }
    let nobody =
        crate::control_plane::Access { token: "wrong".to_owned(), ..case.plane.access(User::Berth)? };
    let pods: Api<Pod> = Api::default_namespaced(nobody.client().await?);
    match pods.list(&ListParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 401 => Ok(()),
        other => anyhow::bail!("a wrong token was answered by {other:?}"),
    }
}

async fn binder(case: Arc<Case>) -> Result<()> {
    let class = case.class("plain").create().await?;
    let volume = case.old_volume("d").class(&class).bound_to("claim").await?;
    ensure!(
        volume.claim.annotations().get("pv.kubernetes.io/bind-completed").is_some(),
        "the binder has not marked the claim"
    );
    case.delete_claim("claim").await?;
    case.claim_gone("claim").await?;
    case.volume_phase(&volume.name, "Released").await?;

    // An unbound claim carries the name of who shall serve it.
    case.claim("next").class(&class).create().await?;
    case.until("the claim to name its provisioner", async || {
        let claim = case.get_claim("next").await?;
        for key in
            ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"]
        {
            ensure!(claim.annotations().get(key) == Some(&case.provisioner), "no {key}");
        }
        Ok(())
    })
    .await
}

async fn attributes(case: Arc<Case>) -> Result<()> {
    let class = case.class("plain").provisioner("kubernetes.io/no-provisioner").create().await?;
    let volume = |name: &str, claim: &str, attributes: Option<&str>| {
        json!({
            "metadata": { "name": format!("{}-{name}", case.id()) },
            "spec": {
                "accessModes": ["ReadWriteMany"], "capacity": { "storage": "1Gi" }, "storageClassName": class,
                "persistentVolumeReclaimPolicy": "Retain", "volumeAttributesClassName": attributes,
                "claimRef": { "namespace": case.namespace, "name": claim },
                "csi": { "driver": "none.test", "volumeHandle": name },
            },
        })
    };
    for (name, wants, has) in
        [("without", Some("gold"), None), ("with", Some("gold"), Some("gold")), ("plain", None, None)]
    {
        case.create_global::<PersistentVolume>(&volume(name, name, has)).await?;
        let mut claim = case.claim(name).class(&class);
        if let Some(wants) = wants {
            claim = claim.set(&["spec", "volumeAttributesClassName"], json!(wants));
        }
        claim.create().await?;
    }
    case.bound_pair("with").await?;
    case.bound_pair("plain").await?;
    let claim = case.get_claim("without").await?;
    ensure!(claim.spec.and_then(|spec| spec.volume_name).is_none(), "it was bound without its attributes");
    Ok(())
}

async fn static_csi(case: Arc<Case>) -> Result<()> {
    let class = case.class("plain").create().await?;
    let name = format!("{}-by-hand", case.id());
    case.create_global::<PersistentVolume>(&json!({
        "metadata": { "name": name },
        "spec": {
            "accessModes": ["ReadWriteMany"], "capacity": { "storage": "1Gi" }, "storageClassName": class,
            "persistentVolumeReclaimPolicy": "Delete",
            "claimRef": { "namespace": case.namespace, "name": "data" },
            "csi": { "driver": "none.test", "volumeHandle": "x" },
        },
    }))
    .await?;
    case.claim("data").class(&class).create().await?;
    case.bound_pair("data").await?;
    case.delete_claim("data").await?;
    case.claim_gone("data").await?;
    let volume = case.volume_phase(&name, "Released").await?;
    ensure!(volume.status.and_then(|status| status.message).is_none(), "it is complained of");
    Ok(())
}

async fn late_binding(case: Arc<Case>) -> Result<()> {
    let class = case.class("late").late().create().await?;
    case.claim("data").class(&class).create().await?;
    case.event_of_kubernetes("PersistentVolumeClaim", "data", "WaitForFirstConsumer").await?;
    let claim = case.get_claim("data").await?;
    ensure!(
        !claim.annotations().contains_key("volume.kubernetes.io/selected-node"),
        "a node was chosen without a pod"
    );
    case.create::<Pod>(&pod("user", "data")).await?;
    let node = case
        .until("a node to be chosen", async || {
            let claim = case.get_claim("data").await?;
            claim.annotations().get("volume.kubernetes.io/selected-node").cloned().context("no node yet")
        })
        .await?;
    let nodes: Api<Node> = case.global();
    nodes.get(&node).await.with_context(|| format!("the chosen node {node}"))?;
    case.delete_pod("user").await
}

async fn templates(case: Arc<Case>) -> Result<()> {
    let class = case.class("plain").create().await?;
    case.create::<StatefulSet>(&stateful_set("db", &class, 3)).await?;
    for replica in 0..3 {
        let name = format!("data-db-{replica}");
        case.until(&format!("claim {name}"), async || case.get_claim(&name).await).await?;
    }
    Ok(())
}

async fn faults(case: Arc<Case>) -> Result<()> {
    let direct = case.plane.access(User::Admin)?;
    let proxy = case.proxy().await?;
    let leases: Api<Lease> = Api::namespaced(proxy.access(&direct).client().await?, &case.namespace);
    let lease = |name: &str| -> Result<Lease> {
        Ok(serde_json::from_value(json!({ "metadata": { "name": name } }))?)
    };
    let params = PostParams::default();
    leases.create(&params, &lease("plain")?).await?;

    let fired = proxy.on(
        |call| call.verb == "create" && call.resource == "leases",
        1,
        Effect::Answer { code: 429, reason: "TooManyRequests", retry_after: Some(1) },
    );
    match leases.create(&params, &lease("refused")?).await {
        Err(kube::Error::Api(status)) if status.code == 429 => {}
        other => anyhow::bail!("expected 429, got {other:?}"),
    }
    ensure!(fired.count() == 1, "the fault was not counted");
    ensure!(leases.get_opt("refused").await?.is_none(), "a refused object exists");

    proxy.on(|call| call.verb == "create", 1, Effect::LoseRequest);
    ensure!(leases.create(&params, &lease("unseen")?).await.is_err(), "a lost request was answered");
    ensure!(leases.get_opt("unseen").await?.is_none(), "a lost request was obeyed");

    proxy.on(|call| call.verb == "create", 1, Effect::LoseAnswer);
    ensure!(leases.create(&params, &lease("unheard")?).await.is_err(), "a lost answer arrived");
    ensure!(leases.get_opt("unheard").await?.is_some(), "a lost answer was not obeyed");

    let gate = crate::proxy::Gate::default();
    proxy.on(|call| call.verb == "create", 1, Effect::HoldRequest(gate.clone()));
    let held = lease("held")?;
    let create = leases.create(&params, &held);
    let meanwhile = async {
        gate.reached(1).await?;
        ensure!(leases.get_opt("held").await?.is_none(), "it was not held");
        gate.open();
        Ok(())
    };
    let (created, meanwhile) = futures::future::join(create, meanwhile).await;
    meanwhile?;
    created.context("a held request goes on")?;

    proxy.on(|call| call.verb == "watch", 1, Effect::ExpireWatch);
    let watch = |client: Api<Lease>| async move {
        use futures::StreamExt;
        let stream = client.watch(&kube::api::WatchParams::default(), "0").await?;
        let mut stream = Box::pin(stream);
        let first = stream.next().await.context("a watch without events")??;
        anyhow::Ok((first, stream))
    };
    let (first, _) = watch(leases.clone()).await?;
    ensure!(
        matches!(&first, kube::api::WatchEvent::Error(status) if status.code == 410),
        "expected the watch to have expired, got {first:?}"
    );
    let (first, mut rest) = watch(leases.clone()).await?;
    ensure!(matches!(first, kube::api::WatchEvent::Added(_)), "expected an object, got {first:?}");
    proxy.end_watches();
    let drained = async {
        use futures::StreamExt;
        while rest.next().await.is_some() {}
    };
    tokio::time::timeout(Duration::from_secs(30), drained).await.context("a watch outlived its end")?;
    ensure!(proxy.counts().get("create leases") == Some(&5), "wrong count: {:?}", proxy.counts());
    Ok(())
}

async fn restart(case: Arc<Case>) -> Result<()> {
    let class = case.class("plain").create().await?;
    let volume = case.old_volume("d").class(&class).bound_to("claim").await?;
    case.plane.stop_api_server().await?;
    ensure!(case.get_claim("claim").await.is_err(), "a stopped API server answered");
    case.plane.start_api_server().await?;
    let claim = case.get_claim("claim").await?;
    ensure!(claim.uid() == volume.claim.uid(), "it is another claim");
    case.delete_claim("claim").await?;
    case.volume_phase(&volume.name, "Released").await.map(drop)
}

async fn counts(case: Arc<Case>) -> Result<()> {
    let before = case.plane.requests(User::Berth)?.len();
    let client = case.plane.client(User::Berth).await?;
    let classes: Api<StorageClass> = Api::all(client.clone());
    classes.list(&ListParams::default()).await?;
    let volumes: Api<PersistentVolume> = Api::all(client);
    volumes.get_opt("none").await?;
    case.until("the requests to be recorded", async || {
        let requests = case.plane.requests(User::Berth)?;
        let new = requests.get(before..).unwrap_or_default();
        let seen: Vec<String> = new
            .iter()
            .map(|request| format!("{} {} {}", request.verb, request.resource, request.code))
            .collect();
        ensure!(seen == ["list storageclasses 200", "get persistentvolumes 404"], "recorded: {seen:?}");
        Ok(())
    })
    .await
}
