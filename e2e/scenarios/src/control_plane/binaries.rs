//! Where Kubernetes' own programs come from.
//!
//! [`Binaries::find`] takes the first place that has all four of them: `KUBEBUILDER_ASSETS`, then
//! `PATH`, then the cache that `e2e/controlplane/build` fills. They are never mixed: a
//! kube-controller-manager must not be newer than its API server. [`Binaries::build`] fills the cache.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail};

const NAMES: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// The four programs, and where they were found.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// Key-value store beneath the API server.
    pub etcd: PathBuf,
    /// The API server.
    pub api_server: PathBuf,
    /// Binds volumes, makes the claims of `StatefulSets`, guards claims in use.
    pub controller_manager: PathBuf,
    /// Chooses nodes, which late binding waits for.
    pub scheduler: PathBuf,
    /// For the closing line: where they are from.
    pub origin: String,
}

/// The answer of [`Binaries::find`].
#[derive(Debug)]
pub enum Found {
    /// All four are there.
    Ready(Binaries),
    /// Not there, but Go is: [`Binaries::build`] can make them.
    Buildable,
    /// Neither they nor Go.
    Absent {
        /// Why, in words for the line that reports the skip.
        reason: String,
    },
}

impl Binaries {
    /// Looks at all the places.
    pub async fn find() -> Result<Found> {
        let mut lacking = Vec::new();
        if let Some(assets) = env::var_os("KUBEBUILDER_ASSETS") {
            let dir = PathBuf::from(assets);
            match Self::all_in(&[dir], "KUBEBUILDER_ASSETS") {
                Ok(binaries) => return Ok(Found::Ready(binaries)),
                Err(missing) => {
                    lacking.push(format!("KUBEBUILDER_ASSETS has no {}", missing.join(", ")));
                }
            }
        }
        let path: Vec<PathBuf> =
            env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
        match Self::all_in(&path, "PATH") {
            Ok(binaries) => return Ok(Found::Ready(binaries)),
            Err(missing) => lacking.push(format!("PATH has no {}", missing.join(", "))),
        }
        let (dir, complete) = cache().await?;
        if complete && let Ok(binaries) = Self::all_in(&[dir], "the cache") {
            return Ok(Found::Ready(binaries));
        }
        if path.iter().any(|dir| executable(&dir.join("go"))) {
            return Ok(Found::Buildable);
        }
        lacking.push("Go, which could build them, is not on PATH".to_owned());
        Ok(Found::Absent { reason: lacking.join("; ") })
    }

    /// Builds what the cache lacks; up to 15 minutes of two cores. Progress goes to stderr.
    pub async fn build() -> Result<Self> {
        let output = tokio::process::Command::new(script())
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .output()
            .await
            .context("run e2e/controlplane/build")?;
        if !output.status.success() {
            bail!("e2e/controlplane/build failed ({})", output.status);
        }
        let dir = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        Self::all_in(std::slice::from_ref(&dir), "the cache").map_err(|missing| {
            anyhow::anyhow!("e2e/controlplane/build left no {} in {}", missing.join(", "), dir.display())
        })
    }

    /// The four in `dirs`, or the names of those that are nowhere in them.
    fn all_in(dirs: &[PathBuf], origin: &str) -> Result<Self, Vec<&'static str>> {
        let places =
            NAMES.map(|name| dirs.iter().map(|dir| dir.join(name)).find(|path| executable(path)).ok_or(name));
        match places {
            [Ok(etcd), Ok(api_server), Ok(controller_manager), Ok(scheduler)] => {
                Ok(Self { etcd, api_server, controller_manager, scheduler, origin: origin.to_owned() })
            }
            places => Err(places.into_iter().filter_map(Result::err).collect()),
        }
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../controlplane/build")
}

/// The cache's directory for the pinned versions, and whether it holds everything.
async fn cache() -> Result<(PathBuf, bool)> {
    let output = tokio::process::Command::new(script())
        .arg("--where")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("run e2e/controlplane/build --where")?;
    let dir = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if dir.as_os_str() == OsStr::new("") {
        bail!(
            "e2e/controlplane/build --where named no directory: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok((dir, output.status.success()))
}

fn executable(path: &Path) -> bool {
    nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok() && path.is_file()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn programs_of_two_places_are_not_mixed() {
        let [one, two] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for (dir, names) in [(&one, &NAMES[..2]), (&two, &NAMES[..])] {
            for name in names {
                let path = dir.path().join(name);
                std::fs::write(&path, "#!/bin/sh\n").unwrap();
                std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            }
        }
        let missing = Binaries::all_in(&[one.path().to_owned()], "one").unwrap_err();
        assert_eq!(missing, ["kube-controller-manager", "kube-scheduler"]);
        let found = Binaries::all_in(&[two.path().to_owned()], "two").unwrap();
        assert_eq!(found.scheduler, two.path().join("kube-scheduler"));
    }

    #[test]
    fn a_file_that_cannot_be_executed_is_not_a_program() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("etcd"), "text").unwrap();
        let missing = Binaries::all_in(&[dir.path().to_owned()], "here").unwrap_err();
        assert_eq!(missing, NAMES);
    }
}
