//! What the documents say about Helm, done to the letter: their values and their commands.

use std::{os::unix::fs::symlink, path::Path, process::Stdio, sync::Arc};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::{
    case::Case,
    helm::{Helm, Major, path, repository},
    suite::{Scenario, scenario},
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("the values and the Helm commands of docs/install.md work as they are written", install),
        scenario("the Helm command of the README works as it is written", readme),
        scenario("the Helm commands of docs/migration-helm.md work as they are written", migration),
    ]
}

/// A part of a document that matters here.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// A file of values.
    Values(String),
    /// A command that begins with `helm`.
    Command(String),
}

/// The values and commands between the fences of a text, in order.
fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    for block in text.split("\n```").skip(1).step_by(2) {
        let (language, block) = block.split_once('\n').unwrap_or_default();
        match language {
            "yaml" => parts.push(Part::Values(format!("{block}\n"))),
            "sh" => {
                let joined = block.replace("\\\n", " ");
                let commands = joined.lines().map(str::trim).filter(|line| line.starts_with("helm "));
                parts.extend(commands.map(|command| Part::Command(command.to_owned())));
            }
            _ => {}
        }
    }
    parts
}

fn chapter(file: &str, from: &str, to: &str) -> Result<String> {
    let text = std::fs::read_to_string(repository().join(file)).with_context(|| format!("read {file}"))?;
    let chapter = text.split_once(from).with_context(|| format!("{file} has no {from}"))?.1;
    Ok(chapter.split_once(to).with_context(|| format!("{file} has no {to}"))?.0.to_owned())
}

/// A folder in which the commands run: `deploy` is the repository's, `helm` the one under test.
struct Shell {
    helm: Helm,
    folder: std::path::PathBuf,
}

impl Shell {
    async fn new(case: &Case, major: Major) -> Result<Self> {
        let helm = Helm::new(case, major).await?;
        let folder = case.scratch().join("shell");
        std::fs::create_dir_all(folder.join("bin"))?;
        symlink(path("deploy")?, folder.join("deploy"))?;
        symlink(helm.program(), folder.join("bin/helm"))?;
        Ok(Self { helm, folder })
    }

    async fn run(&self, command: &str) -> Result<()> {
        let path = format!("{}:/usr/bin:/bin", self.folder.join("bin").display());
        let run = tokio::process::Command::new("bash")
            .args(["-euo", "pipefail", "-c", command])
            .current_dir(&self.folder)
            .env_clear()
            .env("PATH", path)
            .env("HOME", &self.folder)
            .env("KUBECONFIG", self.helm.kubeconfig())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("run {command}"))?;
        let said = String::from_utf8_lossy(&run.stderr);
        ensure!(run.status.success(), "{command}: {}\n{said}", run.status);
        Ok(())
    }

    fn write(&self, file: &Path, text: &str) -> Result<()> {
        std::fs::write(self.folder.join(file), text).with_context(|| format!("write {}", file.display()))
    }
}

/// The command with a release and a namespace that are the scenario's own.
fn own(command: &str, release: &str, namespace: &str) -> Result<String> {
    let command = command.replace("--namespace berth", &format!("--namespace {namespace}"));
    let (verb, rest) =
        command.split_once(" berth").with_context(|| format!("which release is meant: {command}"))?;
    Ok(format!("{verb} {release}{rest}"))
}

async fn install(case: Arc<Case>) -> Result<()> {
    let shell = Shell::new(&case, Major::Three).await?;
    let (mut values, mut commands, mut releases) = (0, 0, 0);
    for part in parts(&chapter("docs/install.md", "## Helm", "\n## Plain manifests")?) {
        match part {
            Part::Values(text) => {
                values += 1;
                // Classes are the cluster's; those of other scenarios have other names.
                let text = ["nfs", "nfs-fast", "nfs-large", "cephfs"].iter().fold(text, |text, name| {
                    text.replace(&format!("- name: {name}\n"), &format!("- name: {}-{name}\n", case.id()))
                });
                shell.write(Path::new("values.yaml"), &text)?;
                shell
                    .run("helm template berth deploy/chart --kube-version 1.36.0 --values values.yaml")
                    .await?;
            }
            Part::Command(command) => {
                commands += 1;
                if command.starts_with("helm install") {
                    releases += 1;
                }
                let namespace = format!("{}-{releases}", case.id());
                if command.starts_with("helm install") && !command.contains("--create-namespace") {
                    // The command before it makes the namespace, by kubectl.
                    let namespace = json!({ "metadata": { "name": namespace } });
                    case.create_global::<k8s_openapi::api::core::v1::Namespace>(&namespace).await?;
                }
                shell.run(&own(&command, &namespace, &namespace)?).await?;
            }
        }
    }
    ensure!(
        values >= 5 && commands >= 6 && releases == 2,
        "{values} values, {commands} commands, {releases} releases"
    );
    shell.run(&format!("helm uninstall {0}-1 --namespace {0}-1", case.id())).await
}

async fn readme(case: Arc<Case>) -> Result<()> {
    let shell = Shell::new(&case, Major::Four).await?;
    let text = std::fs::read_to_string(repository().join("README.md"))?;
    let found = parts(&text);
    let [Part::Command(command)] = found.as_slice() else { anyhow::bail!("not one command: {found:?}") };
    let release = format!("{}-readme", case.id());
    let command =
        own(command, &release, &release)?.replace(".name=nfs,", &format!(".name={}-nfs,", case.id()));
    shell.run(&command).await?;
    shell.run(&format!("helm uninstall {release} --namespace {release}")).await
}

async fn migration(case: Arc<Case>) -> Result<()> {
    let shell = Shell::new(&case, Major::Three).await?;
    let values = json!({
        "nfs": { "server": case.server, "path": case.path },
        "storageClass": { "name": format!("{}-nfs", case.id()) },
        "image": { "repository": "registry.k8s.io/sig-storage/nfs-subdir-external-provisioner", "tag": "v4.0.2" },
    });
    let values = shell.helm.values("old", &values)?;
    shell.helm.run(&["install", case.id(), &path("e2e/scenarios/old-chart")?, "--values", &values]).await?;
    let found = parts(&chapter("docs/migration-helm.md", "## Move the release", "\n## What stays")?);
    ensure!(found.len() == 3, "{found:?}");
    for part in found {
        let Part::Command(command) = part else { anyhow::bail!("values are not expected here") };
        shell.run(&command.replace("RELEASE", case.id()).replace("NAMESPACE", &case.namespace)).await?;
    }
    let manifest = shell.helm.run(&["get", "manifest", case.id()]).await?;
    ensure!(manifest.contains("image: \"registry.example.com/berth:0.1.0\""), "{manifest}");
    shell.helm.run(&["uninstall", case.id()]).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_commands_are_found_between_fences() {
        let text =
            "a\n```yaml\na: 1\n```\nb\n\n```sh\nkubectl x\nhelm a \\\n  b\nhelm c\n```\n```\nhelm no\n```\n";
        let expected = [
            Part::Values("a: 1\n".into()),
            Part::Command("helm a    b".into()),
            Part::Command("helm c".into()),
        ];
        assert_eq!(parts(text), expected);
        assert_eq!(
            own("helm rollback berth --namespace berth", "r", "n").unwrap(),
            "helm rollback r --namespace n"
        );
    }
}
