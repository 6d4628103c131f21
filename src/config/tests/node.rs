//! Tables over the settings of `berth node`.

use super::*;

fn start_node(line: &str, env: &[(&str, &str)], file: &str) -> Result<Node, String> {
    let args: Vec<String> = line.split(' ').map(String::from).collect();
    let get =
        |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
    let read = |path: &Path| match path.to_str() {
        Some("/etc/berth.yaml") => Ok(file.to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    match parse(&args, Environment { env: &get, read: &read }) {
        Ok(Invocation::Node(node)) => Ok(*node),
        Ok(other) => panic!("started {other:?}"),
        Err(wrong) => Err(wrong.to_string()),
    }
}

#[test]
fn a_node_needs_no_setting() {
    let node = start_node("berth node", &[], "").unwrap();
    assert_eq!(node.kubelet, Path::new("/var/lib/kubelet"));
    assert_eq!((node.node, node.nfs_driver.as_str(), node.register), (None, "nfs.berth.storage", true));
    assert_eq!(
        (node.call_timeout, node.unmount_grace, node.stats_timeout),
        (seconds(90), seconds(30), seconds(2))
    );
    assert_eq!((node.bind_root, node.shutdown_grace), (None, seconds(20)));
}

#[test]
fn a_node_reads_flags_environment_and_the_file_of_the_controller() {
    let file = "provisionerNames: [nfs.berth.storage]\nkubeletDir: /var/lib/k0s/kubelet\nunmountGrace: 5s\nregister: false\n";
    let node = start_node(
        "berth node --config /etc/berth.yaml --unmount-grace=7s --test-nfs-bind-root /srv/ -v=4",
        &[("NODE_NAME", "worker-1")],
        file,
    )
    .unwrap();
    assert_eq!(node.kubelet, Path::new("/var/lib/k0s/kubelet"));
    assert_eq!((node.node.as_deref(), node.register), (Some("worker-1"), false));
    assert_eq!((node.unmount_grace, node.bind_root.as_deref()), (seconds(7), Some(Path::new("/srv"))));
    assert_eq!(node.log_filter, observe::Filter::from_verbosity(4));
}

#[test]
fn a_wrong_setting_of_a_node_is_named_with_what_is_allowed() {
    let rows = [
        ("--kubelet-dir kubelet", "--kubelet-dir \"kubelet\" must be the absolute path"),
        ("--kubelet-dir /", "--kubelet-dir \"/\" must be the absolute path"),
        ("--kubelet-dir /var/../x", "without '..'"),
        ("--call-timeout 2m", "must be shorter than 2m"),
        ("--call-timeout 1", "has no unit"),
        ("--nfs-driver-name nfs/berth", "must be 1 to 63"),
        ("--nfs-driver-name nfs1", "beginning and ending with a letter"),
        ("--register=perhaps", "must be one of"),
        ("--workers 3", "'--workers'"),
    ];
    for (flags, why) in rows {
        let wrong = start_node(&format!("berth node {flags}"), &[], "").unwrap_err();
        assert!(wrong.contains(why), "{flags}: {wrong}");
    }
    let wrong = start_node("berth node", &[("NODE_NAME", "a b")], "").unwrap_err();
    assert!(
        wrong.contains("environment variable NODE_NAME \"a b\" must be the name of this node"),
        "{wrong}"
    );
}
