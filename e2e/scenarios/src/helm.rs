//! Helm as a child process: [`Helm`], built once by `hack/helm` from its published Go module.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::{case::Case, control_plane::User};

/// Which Helm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Major {
    /// Helm 3.
    Three,
    /// Helm 4.
    Four,
}

impl Major {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Three, Self::Four];

    fn number(self) -> &'static str {
        match self {
            Self::Three => "3",
            Self::Four => "4",
        }
    }

    /// The path of the program; builds it if that is wanted and it is not there. `Err` says why it is not there.
    async fn program(self, build: bool) -> Result<Result<PathBuf, String>> {
        let mut command = Command::new(repository().join("hack/helm"));
        if !build {
            command.arg("--where");
        }
        let output = command
            .arg(self.number())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("run hack/helm")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().last().unwrap_or("not built yet, and --no-build was given");
            return Ok(Err(format!("there is no Helm {}: {last}", self.number())));
        }
        Ok(Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())))
    }
}

/// Makes sure that both are there; `Err` says why not.
pub async fn prepare(build: bool) -> Result<Result<(), String>> {
    for major in Major::ALL {
        if let Err(reason) = major.program(build).await? {
            return Ok(Err(reason));
        }
    }
    Ok(Ok(()))
}

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A file or folder of the repository, as an argument.
pub fn path(file: &str) -> Result<String> {
    let path = repository().join(file);
    let path = path.canonicalize().with_context(|| format!("find {}", path.display()))?;
    path.into_os_string().into_string().ok().context("a path that is not UTF-8")
}

/// Helm with a home of its own, acting as the administrator in the scenario's namespace.
#[derive(Debug)]
pub struct Helm {
    program: PathBuf,
    home: PathBuf,
    kubeconfig: PathBuf,
    namespace: String,
}

impl Helm {
    /// For one scenario.
    pub async fn new(case: &Case, major: Major) -> Result<Self> {
        let program = match major.program(false).await? {
            Ok(program) => program,
            Err(reason) => bail!(reason),
        };
        let home = case.scratch().join(format!("helm-{}", major.number()));
        std::fs::create_dir_all(&home).context("make a home for Helm")?;
        let kubeconfig = home.join("kubeconfig");
        std::fs::write(&kubeconfig, case.plane.access(User::Admin)?.kubeconfig())?;
        Ok(Self { program, home, kubeconfig, namespace: case.namespace.clone() })
    }

    /// Where the program is.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The file that says how it reaches the API server.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Writes a file of values and gives its path.
    pub fn values(&self, name: &str, values: &Value) -> Result<String> {
        let path = self.home.join(format!("{name}.yaml"));
        std::fs::write(&path, serde_json::to_string_pretty(values)?)?;
        path.into_os_string().into_string().ok().context("a path that is not UTF-8")
    }

    async fn output(&self, args: &[&str]) -> Result<Output> {
        Command::new(&self.program)
            .args(args)
            .env_clear()
            .env("HOME", &self.home)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HELM_NAMESPACE", &self.namespace)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("run helm")
    }

    /// Runs it, and gives what it printed.
    pub async fn run(&self, args: &[&str]) -> Result<String> {
        let output = self.output(args).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "helm {}: {}\n{said}", args.join(" "), output.status);
        String::from_utf8(output.stdout).context("helm printed what is not UTF-8")
    }

    /// Runs it, expects it to fail, and gives what it said.
    pub async fn refused(&self, args: &[&str]) -> Result<String> {
        let output = self.output(args).await?;
        ensure!(!output.status.success(), "helm {} did not fail", args.join(" "));
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// What a release gives with a file of values, for the newest Kubernetes, read by a strict reader: a key that is there
    /// twice is an error.
    pub async fn template(&self, release: &str, chart: &str, values: &str) -> Result<Vec<Value>> {
        self.objects(&["template", release, chart, KUBERNETES, "--values", values]).await
    }

    /// What it says when it refuses a file of values.
    pub async fn template_refused(&self, chart: &str, values: &str) -> Result<String> {
        self.refused(&["template", "berth", chart, KUBERNETES, "--values", values]).await
    }

    /// The objects that it prints.
    pub async fn objects(&self, args: &[&str]) -> Result<Vec<Value>> {
        objects(&self.run(args).await?).with_context(|| format!("helm {}", args.join(" ")))
    }
}

/// Without a server a Helm that was built from its module takes Kubernetes for an old one.
const KUBERNETES: &str = "--kube-version=1.37.0";

/// The documents of a YAML text that are not empty.
pub fn objects(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).context("read the YAML")?;
    Ok(documents.into_iter().filter(|object| !object.is_null()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_there_twice_is_refused() {
        assert!(objects("a: 1\n---\nb: 2\nb: 3\n").is_err());
        assert_eq!(objects("a: 1\n---\n# nothing\n---\nb: 2\n").unwrap().len(), 2);
    }
}
