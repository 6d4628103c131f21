//! `pathPattern` from end to end: nested directories are made, removed and archived, and no pattern
//! leads out of a claim's own place.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use crate::{
    case::Case,
    suite::{Scenario, scenario},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("a nested pattern's directory is removed, and its empty parents with it", removed),
        scenario("a nested pattern's archive keeps its tree", archived),
        scenario("a claim made again finds neither the old data nor a taken archive name", again),
        scenario("two volumes with the same last component are both archived", same_leaf),
        scenario("a pattern that a claim cannot fill, or that leads elsewhere, gets no volume", hostile),
        scenario("a pattern that renders to nothing gets the default directory", nothing),
        scenario("a directory above or below another volume's is refused", overlap),
    ]
}

/// Proves: statement 1, statement 3, statement 22
async fn removed(case: Arc<Case>) -> Result<()> {
    let class = case
        .class("nested")
        .deletes()
        .parameter("pathPattern", "${.PVC.namespace}/${.PVC.annotations.team}/${.PVC.name}")
        .create()
        .await?;
    // The old one looked for the last component at the root of the share.
    let decoy = case.export().join("one");
    std::fs::create_dir(&decoy)?;
    std::fs::write(decoy.join("precious"), "x")?;
    case.berth().await?;
    for name in ["one", "two"] {
        case.claim(name).class(&class).annotation("team", "a").create().await?;
    }
    let [one, two] = [case.bound("one").await?, case.bound("two").await?];
    ensure!(one.relative == format!("{}/a/one", case.namespace), "it is {}", one.relative);
    one.write("file", "1")?;
    two.write("file", "2")?;

    case.delete_claim("one").await?;
    case.volume_gone(&one.name).await?;
    case.until_so("the first to be gone", || !one.directory.exists()).await?;
    ensure!(two.directory.join("file").exists(), "the second was touched");
    ensure!(decoy.join("precious").exists(), "a directory of the same name was touched");

    case.delete_claim("two").await?;
    case.volume_gone(&two.name).await?;
    let parent = case.export().join(&case.namespace);
    case.until_so("the empty parents to be gone", || !parent.exists()).await?;
    ensure!(decoy.join("precious").exists(), "a directory of the same name was touched");
    Ok(())
}

/// Proves: statement 1, row 4.4
async fn archived(case: Arc<Case>) -> Result<()> {
    let class =
        case.class("nested").parameter("pathPattern", "${.PVC.namespace}/${.PVC.name}").create().await?;
    case.berth().await?;
    case.claim("data").class(&class).create().await?;
    let volume = case.bound("data").await?;
    volume.write("file", "1")?;
    case.delete_claim("data").await?;
    case.volume_gone(&volume.name).await?;
    let archive = case.export().join(format!("archived-{}/data", case.namespace));
    let file = std::fs::read_to_string(archive.join("file"))
        .with_context(|| format!("read {}", archive.display()))?;
    ensure!(file == "1" && !volume.directory.exists(), "the archive is not the directory");
    Ok(())
}

/// Proves: statement 2, statement 10, row 4.6
async fn again(case: Arc<Case>) -> Result<()> {
    let class =
        case.class("nested").parameter("pathPattern", "${.PVC.namespace}/${.PVC.name}").create().await?;
    case.berth().await?;
    for round in ["first", "second", "third"] {
        case.claim("data").class(&class).create().await?;
        let volume = case.bound("data").await?;
        let found: Vec<_> = std::fs::read_dir(&volume.directory)?.collect();
        ensure!(found.is_empty(), "the {round} claim found {found:?}");
        volume.write(round, "")?;
        case.delete_claim("data").await?;
        case.claim_gone("data").await?;
        case.volume_gone(&volume.name).await?;
    }
    let tree = case.tree()?;
    for round in ["first", "second", "third"] {
        let archives: Vec<&String> = tree
            .iter()
            .filter(|path| path.starts_with("archived-") && path.ends_with(&format!("/{round}")))
            .collect();
        ensure!(archives.len() == 1, "archives of the {round}: {archives:?}");
    }
    Ok(())
}

/// Proves: statement 9
async fn same_leaf(case: Arc<Case>) -> Result<()> {
    let class =
        case.class("nested").parameter("pathPattern", "${.PVC.annotations.team}/data").create().await?;
    case.berth().await?;
    for team in ["red", "blue"] {
        case.claim(team).class(&class).annotation("team", team).create().await?;
        case.bound(team).await?.write("file", team)?;
    }
    for team in ["red", "blue"] {
        let volume = case.bound(team).await?;
        case.delete_claim(team).await?;
        case.volume_gone(&volume.name).await?;
    }
    for team in ["red", "blue"] {
        let file = case.export().join(format!("archived-{team}/data/file"));
        let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        ensure!(text == team, "{} holds {text}", file.display());
    }
    Ok(())
}

/// Proves: statement 4, statement 5, statement 6, row 3.5, row 3.6, row 3.7, row 3.14, row 3.15, row 3.20, row 3.21
async fn hostile(case: Arc<Case>) -> Result<()> {
    let outside = case.scratch().join("outside");
    std::fs::create_dir(&outside)?;
    std::os::unix::fs::symlink(&outside, case.export().join("link"))?;
    // (name, pattern, value of the annotation, what the Event must name)
    let rows: [(&str, &str, Option<&str>, &str); 8] = [
        ("missing", "${.PVC.namespace}/${.PVC.annotations.path}", None, "path"),
        ("empty", "${.PVC.namespace}/${.PVC.annotations.path}", Some(""), "path"),
        ("both", "${.PVC.annotations.a}/${.PVC.annotations.b}", None, ""),
        ("parent", "${.PVC.annotations.path}", Some("../other"), ".."),
        ("dot", "${.PVC.annotations.path}", Some("a/./b"), "."),
        ("control", "${.PVC.annotations.path}", Some("a\nb"), ""),
        ("token", "${.PVC.uid}", None, "uid"),
        ("symlink", "${.PVC.annotations.path}", Some("link/x"), "link"),
    ];
    let good = case.class("good").deletes().create().await?;
    case.berth().await?;
    for (name, pattern, value, _) in rows {
        let class = case.class(name).deletes().parameter("pathPattern", pattern).create().await?;
        let mut claim = case.claim(name).class(&class);
        if let Some(value) = value {
            claim = claim.annotation("path", value);
        }
        claim.create().await?;
    }
    for (name, pattern, value, named) in rows {
        if name == "both" {
            continue;
        }
        let message = case.event("PersistentVolumeClaim", name, "ProvisioningFailed").await?;
        ensure!(
            message.contains(named),
            "{pattern} with {value:?}: the Event does not name {named}: {message}"
        );
    }
    case.barrier(&good).await?;
    for (name, ..) in rows {
        if name == "both" {
            continue;
        }
        let claim = case.get_claim(name).await?;
        ensure!(claim.spec.and_then(|spec| spec.volume_name).is_none(), "claim {name} got a volume");
    }
    let root = case.root()?;
    ensure!(
        root.iter().all(|name| name == "link" || name.starts_with(&format!("{}-both-", case.namespace))),
        "something was made: {root:?}"
    );
    ensure!(std::fs::read_dir(&outside)?.next().is_none(), "the link was followed");
    Ok(())
}

/// Proves: row 3.2, row 3.6
async fn nothing(case: Arc<Case>) -> Result<()> {
    let absent = case.class("absent").parameter("pathPattern", "").create().await?;
    let blank = case
        .class("blank")
        .parameter("pathPattern", "${.PVC.annotations.a}${.PVC.labels.b}")
        .create()
        .await?;
    case.berth().await?;
    for (name, class) in [("absent", absent), ("blank", blank)] {
        case.claim(name).class(&class).create().await?;
        let volume = case.bound(name).await?;
        let expected = format!("{}-{name}-{}", case.namespace, volume.name);
        ensure!(volume.relative == expected, "{name} got {}", volume.relative);
    }
    Ok(())
}

/// Proves: row 3.18, row 3.19
async fn overlap(case: Arc<Case>) -> Result<()> {
    let class =
        case.class("free").deletes().parameter("pathPattern", "${.PVC.annotations.path}").create().await?;
    case.berth().await?;
    case.claim("first").class(&class).annotation("path", "a/b").create().await?;
    let first = case.bound("first").await?;
    first.write("file", "1")?;
    for (name, path) in [("above", "a"), ("below", "a/b/c"), ("same", "a/b")] {
        case.claim(name).class(&class).annotation("path", path).create().await?;
        case.event("PersistentVolumeClaim", name, "ProvisioningFailed").await?;
    }
    let below = first.directory.join("c");
    ensure!(!below.exists(), "a directory was made inside of a volume");

    // Once the first is gone, its place is free.
    case.delete_claim("above").await?;
    case.delete_claim("below").await?;
    case.delete_claim("first").await?;
    case.volume_gone(&first.name).await?;
    let same = case.bound("same").await?;
    ensure!(same.relative == "a/b", "it is {}", same.relative);
    ensure!(!same.directory.join("file").exists(), "the first one's file is still there");
    Ok(())
}
