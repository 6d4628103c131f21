//! Claims that cannot be served: an Event that says why, and nothing on the storage.

use std::sync::Arc;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    case::Case,
    suite::{Scenario, scenario},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("a selector, attributes, block mode and a data source are refused with an Event", refused),
        scenario("a data source of a foreign kind is left to its populator", populator),
        scenario("an unknown class parameter is told of, and the claim is served", unknown_parameter),
        scenario("strictParameters turns an unknown parameter into a refusal", strict_parameters),
        scenario("a directory that is in the way is neither shared nor changed", in_the_way),
    ]
}

/// Proves: case 8, case 48, statement 15
async fn refused(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    case.berth().await?;
    case.claim("source").class(&class).create().await?;
    let source = case.bound("source").await?;
    let rows: [(&str, &[&str], Value, &str); 5] = [
        ("selector", &["spec", "selector"], json!({ "matchLabels": { "a": "b" } }), "selector"),
        (
            "attributes",
            &["spec", "volumeAttributesClassName"],
            json!("gold"),
            "spec.volumeAttributesClassName \"gold\" is not supported",
        ),
        ("block", &["spec", "volumeMode"], json!("Block"), "lock"),
        (
            "clone",
            &["spec", "dataSource"],
            json!({ "kind": "PersistentVolumeClaim", "name": "source" }),
            "ource",
        ),
        (
            "snapshot",
            &["spec", "dataSource"],
            json!({ "apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s" }),
            "ource",
        ),
    ];
    for (name, field, value, _) in &rows {
        case.claim(name).class(&class).set(field, value.clone()).create().await?;
    }
    for (name, _, _, named) in &rows {
        let message = case.event("PersistentVolumeClaim", name, "ProvisioningFailed").await?;
        ensure!(message.contains(named), "claim {name}: {message}");
    }
    case.barrier(&class).await?;
    let root = case.root()?;
    ensure!(root.iter().eq([&source.relative]), "something was made for a refused claim: {root:?}");
    ensure!(case.volumes().await?.len() == 1, "a refused claim has a PV");
    Ok(())
}

/// Proves: case 49
async fn populator(case: Arc<Case>) -> Result<()> {
    let class = case.class("nfs").deletes().create().await?;
    case.berth().await?;
    case.claim("data")
        .class(&class)
        .set(
            &["spec", "dataSourceRef"],
            json!({ "apiGroup": "populators.test", "kind": "Image", "name": "x" }),
        )
        .create()
        .await?;
    case.barrier(&class).await?;
    ensure!(case.root()?.is_empty(), "an empty volume was made: {:?}", case.root()?);
    let failed: Vec<_> = case
        .events("PersistentVolumeClaim", "data")
        .await?
        .into_iter()
        .filter(|event| event.reason.as_deref() == Some("ProvisioningFailed"))
        .collect();
    ensure!(failed.is_empty(), "it counts as a failure: {failed:?}");
    Ok(())
}

async fn unknown_parameter(case: Arc<Case>) -> Result<()> {
    let class = case.class("typo").deletes().parameter("pathpattern", "${.PVC.name}").create().await?;
    case.berth().await?;
    case.claim("data").class(&class).create().await?;
    let volume = case.bound("data").await?;
    ensure!(volume.relative.ends_with(&volume.name), "a misspelt parameter took effect: {}", volume.relative);
    case.until("a warning that names pathPattern", async || {
        let mut events = case.events("PersistentVolumeClaim", "data").await?;
        events.extend(case.events("StorageClass", &class).await?);
        ensure!(
            events.iter().any(|event| {
                let message = event.message.as_deref().unwrap_or_default();
                event.type_.as_deref() == Some("Warning")
                    && message.contains("pathpattern")
                    && message.contains("pathPattern")
            }),
            "{} other Events",
            events.len()
        );
        Ok(())
    })
    .await
}

async fn strict_parameters(case: Arc<Case>) -> Result<()> {
    let class = case
        .class("strict")
        .parameter("strictParameters", "true")
        .parameter("pathpattern", "${.PVC.name}")
        .create()
        .await?;
    case.berth().await?;
    case.claim("data").class(&class).create().await?;
    let message = case.event("PersistentVolumeClaim", "data", "ProvisioningFailed").await?;
    ensure!(
        message.contains("pathpattern") && message.contains("pathPattern"),
        "the Event does not help: {message}"
    );
    ensure!(case.root()?.is_empty(), "something was made: {:?}", case.root()?);
    Ok(())
}

/// Proves: statement 11, statement 16, row 4.8
async fn in_the_way(case: Arc<Case>) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let class =
        case.class("nested").deletes().parameter("pathPattern", "${.PVC.annotations.path}").create().await?;
    let directory = case.export().join("there");
    std::fs::create_dir(&directory)?;
    std::fs::write(directory.join("precious"), "x")?;
    std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o750))?;
    case.berth().await?;
    case.claim("data").class(&class).annotation("path", "there").create().await?;
    let message = case.event("PersistentVolumeClaim", "data", "ProvisioningFailed").await?;
    ensure!(message.contains("there"), "the Event does not name it: {message}");
    case.delete_claim("data").await?;
    case.claim_gone("data").await?;
    case.barrier(&class).await?;
    let mode = std::fs::metadata(&directory)?.permissions().mode() & 0o7777;
    ensure!(mode == 0o750, "its mode became {mode:o}");
    ensure!(directory.join("precious").exists(), "its content is gone");
    Ok(())
}
