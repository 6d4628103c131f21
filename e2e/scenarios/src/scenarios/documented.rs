//! Runs the commands of the documents with `kubectl`, as an administrator does. `blocks` finds them, `run` runs one.

use std::{path::PathBuf, process::Stdio};

use anyhow::{Context, Result, bail};

use crate::{case::Case, control_plane::User};

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The shell blocks of a chapter, in their order.
pub(super) fn blocks(file: &str, chapter: &str) -> Result<Vec<String>> {
    let path = repository().join(file);
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let rest = text.split_once(chapter).with_context(|| format!("{file} has no chapter {chapter}"))?.1;
    let chapter_text = rest.split("\n## ").next().unwrap_or_default();
    let blocks: Vec<String> = chapter_text
        .split("```sh\n")
        .skip(1)
        .filter_map(|block| Some(block.split_once("```")?.0.to_owned()))
        .collect();
    if blocks.is_empty() {
        bail!("{chapter} of {file} has no command");
    }
    Ok(blocks)
}

/// Runs a command of the documents in the repository's folder, as the administrator.
pub(super) async fn run(case: &Case, command: &str) -> Result<()> {
    let kubeconfig = case.scratch().join("admin.kubeconfig");
    let mut access = case.plane.access(User::Admin)?;
    if access.authority.is_none() {
        // kubectl sends no token over plain HTTP; the embedded API server takes it from the path.
        access.url = format!("{}/as/{}", access.url, access.token);
    }
    std::fs::write(&kubeconfig, access.kubeconfig())?;
    let run = tokio::process::Command::new("bash")
        .args(["-euo", "pipefail", "-c", command])
        .current_dir(repository())
        .env("KUBECONFIG", &kubeconfig)
        .env("HOME", case.scratch())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("run the documented command")?;
    if !run.status.success() {
        bail!("{command}: {}\n{}", run.status, String::from_utf8_lossy(&run.stderr));
    }
    Ok(())
}

/// Whether `kubectl` is in `PATH`.
pub(super) fn kubectl_is_there() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join("kubectl").is_file())
}
