//! The ground that the other scenarios stand on: a cluster that keeps what it holds, a check that sees leaks, and programs in
//! front of Ceph's that change nothing. None of these starts berth.

use std::{path::Path, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use kube::{Api, api::DeleteParams};
use tokio::io::AsyncWriteExt;

use super::{bed::Bed, on_bed};
use crate::{
    ceph::{
        Daemon, FILE_SYSTEM, answer,
        steps::{Moment, Steps},
    },
    process::Process,
    suite::Scenario,
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        on_bed("a leak of each kind is seen", leaks),
        on_bed("what stands before rbd and ceph passes on what is asked and answered", passed_on),
        on_bed("what stands before rbd and ceph kills at the call that it was told", kills),
        on_bed("a cluster whose daemons are killed has everything when they are back", comes_back).alone(),
    ]
}

async fn leaks(bed: Arc<Bed>) -> Result<()> {
    bed.compare().await.context("nothing has been made")?;
    let spec = format!("{}/leaked", bed.pool);
    let seen = async |what: &str| {
        let seen = bed.compare().await;
        ensure!(seen.is_err(), "{what} was leaked, and not seen");
        Ok(())
    };
    bed.cluster.rbd(&["create", "--size", "1M", &spec]).await?;
    seen("an image").await?;
    bed.cluster.rbd(&["trash", "mv", &spec]).await?;
    seen("an image in the trash").await?;
    bed.cluster.rbd(&["trash", "purge", "--no-progress", &bed.pool]).await?;
    bed.compare().await.context("the trash was purged")?;

    bed.cluster.ceph(&["fs", "subvolumegroup", "create", FILE_SYSTEM, &bed.group]).await?;
    bed.compare().await.context("an empty group is no leak")?;
    bed.fs_subvolume("create", "leaked", &[]).await?;
    seen("a subvolume").await?;
    let authorize = ["fs", "subvolume", "authorize", FILE_SYSTEM, "leaked", "leaked-user"];
    bed.cluster.ceph(&[&authorize[..], &["--group_name", &bed.group]].concat()).await?;
    bed.fs_subvolume("rm", "leaked", &[]).await?;
    seen("a user").await?;
    bed.cluster.ceph(&["auth", "rm", "client.leaked-user"]).await?;
    bed.compare().await.context("the user was removed")?;

    let secret = serde_json::json!({ "metadata": { "name": "leaked" } });
    bed.case.create::<k8s_openapi::api::core::v1::Secret>(&secret).await?;
    seen("a Secret").await?;
    let api: Api<k8s_openapi::api::core::v1::Secret> = bed.case.api();
    api.delete("leaked", &DeleteParams::default()).await.context("delete the Secret")?;

    bed.expect_image("missing");
    seen("what a PV names").await?;
    bed.expect_nothing();
    Ok(())
}

async fn passed_on(bed: Arc<Bed>) -> Result<()> {
    let steps = Steps::new(&bed.case.scratch().join("steps"))?;
    for args in [&["ls", bed.pool.as_str()][..], &["info", "nosuch/nosuch"]] {
        let direct = bed.cluster.run("rbd", args).await?;
        let mut command = bed.cluster.command(&steps.program("rbd").display().to_string());
        let through = answer(command.args(args), Duration::from_mins(1)).await?;
        ensure!(
            (through.code, &through.stdout) == (direct.code, &direct.stdout),
            "{through:?} and {direct:?}"
        );
    }
    // A session: several questions to one program.
    let mut session = bed
        .cluster
        .command(&steps.program("ceph").display().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start a session")?;
    let mut stdin = session.stdin.take().context("no stdin")?;
    stdin
        .write_all(b"fsid\ntell end-of-answer\nfs subvolumegroup ls cephfs\n")
        .await
        .context("ask the session")?;
    drop(stdin);
    let ended = tokio::time::timeout(Duration::from_mins(1), session.wait_with_output())
        .await
        .context("the session did not end with its input")?
        .context("wait for the session")?;
    let text = String::from_utf8_lossy(&ended.stdout).into_owned();
    let fsid = bed.cluster.ceph(&["fsid"]).await?;
    ensure!(text.contains(fsid.trim()), "the session answered {text:?}, not {fsid:?}: {ended:?}");
    let calls: Vec<String> = steps.calls()?.into_iter().map(|step| step.verb).collect();
    ensure!(
        calls == ["rbd ls", "rbd info", "ceph fsid", "ceph fs subvolumegroup ls"],
        "it wrote down {calls:?}"
    );
    Ok(())
}

fn sleeper(dir: &Path) -> Result<Process> {
    let mut command = tokio::process::Command::new("sleep");
    command.arg("600");
    Process::spawn("victim", command, &dir.join("victim.log"))
}

async fn kills(bed: Arc<Bed>) -> Result<()> {
    let steps = Steps::new(&bed.case.scratch().join("steps"))?;
    let create = async |name: &str| {
        let spec = format!("{}/{name}", bed.pool);
        let mut command = bed.cluster.command(&steps.program("rbd").display().to_string());
        answer(command.args(["create", "--size", "1M", &spec]), Duration::from_mins(1)).await
    };
    for (moment, made) in [(Moment::Before, false), (Moment::Behind, true), (Moment::After, true)] {
        let victim = sleeper(bed.case.scratch())?;
        steps.forget()?;
        steps.arm("rbd create", 2, moment, victim.pid())?;
        create("first").await?.done()?;
        let mut other = bed.cluster.command(&steps.program("rbd").display().to_string());
        answer(other.args(["ls", &bed.pool]), Duration::from_mins(1)).await?.done()?;
        ensure!(!steps.struck(), "struck at the first call");
        victim.check_alive()?;
        let struck = create("second").await?;
        ensure!(steps.struck(), "did not strike at the second call");
        ensure!(victim.wait(crate::case::PATIENCE).await?.code().is_none(), "it was not killed");
        ensure!(struck.stdout.is_empty(), "{struck:?}");
        let there = bed.images().await?.live;
        ensure!(there.contains("second") == made, "{moment}: {there:?}");
        for image in there {
            bed.cluster.rbd(&["rm", "--no-progress", &format!("{}/{image}", bed.pool)]).await?;
        }
    }
    ensure!(steps.record()?.contains("PATH="), "the environment is not written down");
    Ok(())
}

async fn comes_back(bed: Arc<Bed>) -> Result<()> {
    let spec = format!("{}/kept", bed.pool);
    bed.cluster.rbd(&["create", "--size", "1M", &spec]).await?;
    bed.cluster.rbd(&["image-meta", "set", &spec, "scenario", "kept"]).await?;
    bed.cluster.ceph(&["fs", "subvolumegroup", "create", FILE_SYSTEM, &bed.group]).await?;
    bed.fs_subvolume("create", "kept", &[]).await?;
    for daemon in Daemon::ALL {
        bed.cluster.kill(daemon).await?;
    }
    ensure!(bed.cluster.check_alive().is_err(), "they run on");
    bed.cluster.recover().await?;
    bed.cluster.check_alive()?;
    let meta = bed.cluster.rbd(&["image-meta", "get", &spec, "scenario"]).await?;
    ensure!(meta.trim() == "kept", "{meta:?}");
    ensure!(bed.subvolumes().await?.contains("kept"), "{:?}", bed.subvolumes().await?);
    bed.expect_image("kept");
    bed.expect_subvolume("kept");
    Ok(())
}
