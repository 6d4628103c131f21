//! The real kubectl against this server. Where there is none the tests are skipped, by name and with the reason.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a failed expectation is how a test speaks, in its helpers too"
)]

mod support;

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use berth_apiserver::ApiServer;
use support::{server, volume_for};

const MANIFEST: &str = r#"
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: fast}
provisioner: example.com/nfs
parameters: {archiveOnDelete: "false"}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data, labels: {app: web}}
spec: {accessModes: [ReadWriteMany], storageClassName: fast, resources: {requests: {storage: 1Gi}}}
"#;

struct Kubectl {
    program: PathBuf,
    home: tempfile::TempDir,
}

impl Kubectl {
    /// The kubectl of this machine with the server's administrator, or `None` with the reason printed.
    fn find(server: &ApiServer, test: &str) -> Option<Self> {
        let found = std::env::var_os("PATH")
            .map(|path| std::env::split_paths(&path).collect::<Vec<_>>())
            .unwrap_or_default()
            .into_iter()
            .map(|folder| folder.join("kubectl"))
            .find(|program| program.is_file());
        let Some(program) = found else {
            println!("skipped: {test}: there is no kubectl in PATH");
            return None;
        };
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("kubeconfig"), server.kubeconfig("admin")).unwrap();
        std::fs::write(home.path().join("manifest.yaml"), MANIFEST).unwrap();
        Some(Self { program, home })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .current_dir(self.home.path())
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.home.path().join("kubeconfig"));
        command
    }

    /// Output and errors together, and whether it succeeded.
    fn run(&self, arguments: &[&str]) -> (String, bool) {
        let output = self.command(arguments).stdin(Stdio::null()).output().unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (text, output.status.success())
    }

    #[track_caller]
    fn expect(&self, arguments: &[&str], parts: &[&str]) -> String {
        let (text, success) = self.run(arguments);
        assert!(success, "kubectl {arguments:?} failed: {text}");
        for part in parts {
            assert!(text.contains(part), "kubectl {arguments:?} does not say {part:?}: {text}");
        }
        text
    }

    #[track_caller]
    fn refuse(&self, arguments: &[&str], parts: &[&str]) {
        let (text, success) = self.run(arguments);
        assert!(!success, "kubectl {arguments:?} succeeded: {text}");
        for part in parts {
            assert!(text.contains(part), "kubectl {arguments:?} does not say {part:?}: {text}");
        }
    }
}

#[test]
fn kubectl_applies_shows_changes_and_deletes() {
    let server = server();
    let Some(kubectl) = Kubectl::find(&server, "kubectl_applies_shows_changes_and_deletes") else { return };
    kubectl.expect(
        &["apply", "-f", "manifest.yaml"],
        &["storageclass.storage.k8s.io/fast created", "data created"],
    );
    kubectl.expect(&["apply", "-f", "manifest.yaml"], &["fast unchanged", "data unchanged"]);
    let claim = server.store().get("default", "data").unwrap();
    server.store().create(&volume_for(&claim, "example.com/nfs")).unwrap();
    kubectl.expect(&["wait", "--for=jsonpath={.status.phase}=Bound", "pvc/data", "--timeout=20s"], &["met"]);
    let table =
        kubectl.expect(&["get", "pvc,pv,sc", "-o", "wide"], &["VOLUMEMODE", "Bound", "RWX", "default/data"]);
    assert!(table.contains("RECLAIM POLICY"), "{table}");
    kubectl.expect(
        &["get", "pvc", "-l", "app=web", "-o", "yaml"],
        &["kind: PersistentVolumeClaim", "phase: Bound"],
    );
    kubectl.expect(&["get", "pvc", "data", "-o", "json"], &["\"storageClassName\": \"fast\""]);
    kubectl.expect(&["describe", "pvc", "data"], &["ExternalProvisioning", "Used By:"]);
    kubectl.expect(&["describe", "pv"], &["NFS (an NFS mount", "Claim:           default/data"]);
    kubectl.expect(&["patch", "pvc", "data", "-p", r#"{"metadata":{"labels":{"app":"db"}}}"#], &["patched"]);
    kubectl.expect(&["label", "pvc", "data", "more=yes"], &["labeled"]);
    kubectl.expect(
        &["apply", "--server-side", "--force-conflicts", "-f", "manifest.yaml"],
        &["serverside-applied"],
    );
    kubectl.expect(&["delete", "pvc", "data"], &["deleted"]);
    kubectl.expect(&["get", "pv"], &["Released"]);
}

#[test]
fn kubectl_makes_objects_itself_and_learns_why_it_may_not() {
    let server = server();
    let Some(kubectl) = Kubectl::find(&server, "kubectl_makes_objects_itself_and_learns_why_it_may_not")
    else {
        return;
    };
    kubectl.expect(&["version"], &["Server Version: v1.37.0"]);
    kubectl.expect(&["create", "namespace", "demo"], &["namespace/demo created"]);
    kubectl.expect(&["create", "configmap", "c", "-n", "demo", "--from-literal=a=b"], &["created"]);
    kubectl
        .expect(&["create", "role", "r", "-n", "demo", "--verb=get", "--resource=configmaps"], &["created"]);
    kubectl.expect(
        &["create", "rolebinding", "b", "-n", "demo", "--role=r", "--serviceaccount=demo:x"],
        &["created"],
    );
    let user = "--as=system:serviceaccount:demo:x";
    kubectl.expect(&["get", "configmap", "c", "-n", "demo", user], &["DATA"]);
    kubectl.refuse(
        &["get", "configmaps", "-n", "demo", user],
        &["Forbidden", "cannot list resource \"configmaps\""],
    );
    kubectl.refuse(&["auth", "can-i", "list", "configmaps", "-n", "demo", user], &["no"]);
    let wrong = MANIFEST.replace("storageClassName", "storageClas");
    std::fs::write(kubectl.home.path().join("wrong.yaml"), wrong).unwrap();
    kubectl.refuse(
        &["create", "-f", "wrong.yaml"],
        &["strict decoding error: unknown field \"spec.storageClas\""],
    );
    kubectl.expect(&["delete", "namespace", "demo"], &["deleted"]);
}

#[test]
fn kubectl_watches() {
    let server = server();
    let Some(kubectl) = Kubectl::find(&server, "kubectl_watches") else { return };
    kubectl.expect(&["apply", "-f", "manifest.yaml"], &[]);
    let mut watching = kubectl.command(&["get", "pvc", "-w"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(watching.stdout.take().unwrap()));
    let mut until = |part: &str| lines.by_ref().map(Result::unwrap).find(|line| line.contains(part)).unwrap();
    until("Pending");
    let claim = server.store().get("default", "data").unwrap();
    server.store().create(&volume_for(&claim, "example.com/nfs")).unwrap();
    until("Bound");
    watching.kill().unwrap();
    watching.wait().unwrap();
}

/// What README.md says that kubectl gets and does not get.
#[test]
fn what_kubectl_does_not_get_is_as_the_readme_says() {
    let server = server();
    let Some(kubectl) = Kubectl::find(&server, "what_kubectl_does_not_get_is_as_the_readme_says") else {
        return;
    };
    kubectl.refuse(&["explain", "pvc"], &["not found in OpenAPI schema"]);
    kubectl.refuse(&["get", "rs"], &["the server doesn't have a resource type \"rs\""]);
    kubectl.expect(&["get", "all"], &["No resources found"]);
    let item = |name: &str| format!("- {{apiVersion: v1, kind: ConfigMap, metadata: {{name: {name}}}}}\n");
    let list = format!("apiVersion: v1\nkind: List\nitems:\n{}{}", item("a"), item("b"));
    std::fs::write(kubectl.home.path().join("list.yaml"), list).unwrap();
    kubectl.refuse(&["apply", "-f", "list.yaml"], &["could not find the requested resource"]);
    kubectl.expect(
        &["apply", "--validate=false", "-f", "list.yaml"],
        &["configmap/a created", "configmap/b created"],
    );
    kubectl.expect(&["get", "configmaps", "-o", "yaml"], &["kind: List"]);
}
