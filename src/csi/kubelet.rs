//! The directory of kubelet, which differs between distributions: [`check`]. Pure.

use std::path::{Path, PathBuf};

/// Below the directory of kubelet: where it looks for plugins.
const REGISTRY: &str = "plugins_registry";

/// Where kubelet looks for plugins.
pub(super) fn registry(kubelet: &Path) -> PathBuf {
    kubelet.join(REGISTRY)
}

/// Where distributions have it.
const KNOWN: [(&str, &str); 4] = [
    ("/var/lib/kubelet", "most distributions"),
    ("/var/snap/microk8s/common/var/lib/kubelet", "microk8s"),
    ("/var/lib/k0s/kubelet", "k0s"),
    ("/var/lib/rancher/k3s/agent/kubelet", "k3s before 1.19"),
];

/// The same as a sentence.
pub(super) const OTHERS: &str = "It is /var/snap/microk8s/common/var/lib/kubelet on microk8s, /var/lib/k0s/kubelet on k0s, \
    /var/lib/rancher/k3s/agent/kubelet on k3s before 1.19, and /var/lib/kubelet elsewhere; set --kubelet-dir, and mount it into \
    the pod at the same path";

/// What is wrong with this directory, and which one is right where that can be seen.
pub fn check(given: &Path, is_directory: impl Fn(&Path) -> bool) -> Result<(), String> {
    let uses = |directory: &Path| is_directory(&registry(directory)) && is_directory(directory);
    if uses(given) {
        return Ok(());
    }
    let wrong = if is_directory(given) {
        format!("{} has no {}", given.display(), REGISTRY)
    } else {
        format!("{} is not there", given.display())
    };
    let found = KNOWN.into_iter().find(|(path, _)| Path::new(path) != given && uses(Path::new(path)));
    Err(match found {
        Some((path, whose)) => format!(
            "{wrong}, so kubelet does not use it; {path} has one, as on {whose}: set --kubelet-dir={path}, and mount it into \
             the pod at the same path"
        ),
        None => format!("{wrong}, so kubelet does not use it. {OTHERS}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_with(given: &str, there: &[&str]) -> Result<(), String> {
        check(Path::new(given), |path| there.iter().any(|one| Path::new(one) == path))
    }

    #[test]
    fn a_directory_that_kubelet_does_not_use_is_refused_with_the_one_that_it_uses() {
        let right = ["/var/lib/kubelet", "/var/lib/kubelet/plugins_registry"];
        assert_eq!(check_with("/var/lib/kubelet", &right), Ok(()));
        let microk8s = [
            "/var/lib/kubelet",
            "/var/snap/microk8s/common/var/lib/kubelet",
            "/var/snap/microk8s/common/var/lib/kubelet/plugins_registry",
        ];
        let wrong = check_with("/var/lib/kubelet", &microk8s).unwrap_err();
        assert!(wrong.starts_with("/var/lib/kubelet has no plugins_registry"), "{wrong}");
        assert!(wrong.contains("--kubelet-dir=/var/snap/microk8s/common/var/lib/kubelet"), "{wrong}");
        let wrong = check_with("/var/lib/k0s/kubelet", &[]).unwrap_err();
        assert!(wrong.starts_with("/var/lib/k0s/kubelet is not there"), "{wrong}");
        for (path, _) in KNOWN {
            assert!(OTHERS.contains(path) && wrong.contains(path), "{path}");
        }
    }
}
