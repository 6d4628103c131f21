//! The configuration as a whole: tables over arguments, environment and file.

mod ceph;
mod node;

use std::{collections::BTreeMap, ffi::OsString, io, path::Path, time::Duration};

use super::*;
use crate::{backend::nfs::Export, observe, volume::SecretName};

/// What a row of a table starts the process with: a command line, `NAME=value` pairs, and the text of `/etc/berth.yaml`.
type Start<'a> = (&'a str, &'a [&'a str], &'a str);

/// The environment of a Deployment of the old image.
const OLD: &[&str] = &["NFS_SERVER=10.0.0.9", "NFS_PATH=/export", "PROVISIONER_NAME=fuseim.pri/ifs"];

fn start((line, env, file): Start<'_>) -> Result<Controller, String> {
    let args: Vec<String> = line.split(' ').map(String::from).collect();
    let env: BTreeMap<String, OsString> = env
        .iter()
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    let read = |path: &Path| match path.to_str() {
        Some("/etc/berth.yaml") => Ok(file.to_owned()),
        Some("/var/run/secrets/kubernetes.io/serviceaccount/namespace") if env.contains_key("IN_POD") => {
            Ok("storage\n".to_owned())
        }
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let environment = Environment { env: &|name| env.get(name).cloned(), read: &read };
    match parse(&args, environment) {
        Ok(Invocation::Controller(controller)) => Ok(*controller),
        Ok(other) => panic!("started {other:?}"),
        Err(wrong) => Err(wrong.to_string()),
    }
}

/// What a file as in the examples of `deploy/` configures.
pub(crate) fn with_file(file: &str) -> Controller {
    start(("berth --config /etc/berth.yaml", &["IN_POD=1"], file)).unwrap_or_else(|wrong| panic!("{wrong}"))
}

/// The served names with what they stand for, where that is not NFS.
fn names(started: &Controller) -> Vec<String> {
    let shown = |provisioner: &Provisioner| match provisioner.storage {
        Storage::Nfs => provisioner.name.clone(),
        other => format!("{} ({other})", provisioner.name),
    };
    started.provisioners.iter().map(shown).collect()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Proves: row 2.1, row 2.2, row 2.3, row 2.5, row 2.6, row 2.8
#[test]
fn the_environment_of_the_old_images_is_enough() {
    let expected = Controller {
        provisioners: vec![Provisioner { name: "fuseim.pri/ifs".into(), storage: Storage::Nfs }],
        exports: vec![Export {
            name: "default".into(),
            server: "10.0.0.9".into(),
            aliases: Vec::new(),
            path: "/export".into(),
            former_paths: Vec::new(),
            root: "/persistentvolumes".into(),
            require_mount: true,
            deadline: seconds(30),
            threads: 32,
        }],
        ceph: None,
        cluster_id: None,
        former_cluster_ids: Vec::new(),
        trash_retention: seconds(600),
        identity: None,
        master: None,
        kubeconfig: None,
        namespace: "default".into(),
        lease: Some(Lease {
            name: "fuseim.pri-ifs".into(),
            namespace: "default".into(),
            duration: seconds(15),
            renew_deadline: seconds(10),
            retry_period: seconds(2),
        }),
        listen: Some(Listen { address: observe::Address::Every(8080), explicit: false }),
        listen_file: None,
        log_format: observe::Format::Text,
        log_filter: observe::Filter::default(),
        workers: 32,
        api_timeout: seconds(30),
        retry_min: seconds(1),
        retry_max: seconds(300),
        sweep_interval: seconds(3600),
        sweep_grace: seconds(300),
        shutdown_grace: seconds(20),
        notes: Vec::new(),
    };
    assert_eq!(start(("/nfs-subdir-external-provisioner", OLD, "")).unwrap(), expected);
    assert_eq!(start(("berth", OLD, "")).unwrap(), expected);
    assert_eq!(start(("berth controller", OLD, "")).unwrap(), expected);

    let flags = "berth --nfs-server 10.0.0.9 --nfs-path=/export/ --provisioner-name fuseim.pri/ifs";
    assert_eq!(start((flags, &[], "")).unwrap(), expected);
}

/// Proves: row 2.2
#[test]
fn trailing_slashes_of_the_path_are_removed_and_the_root_is_allowed() {
    for (written, path) in [("/", "/"), ("//", "/"), ("/export/", "/export"), ("/a//b///", "/a/b")] {
        let path_is = format!("NFS_PATH={written}");
        let started = start(("berth", &["NFS_SERVER=s", &path_is, "PROVISIONER_NAME=p"], "")).unwrap();
        assert_eq!(started.exports[0].path, path, "{written}");
    }
}

/// Proves: row 2.6
#[test]
fn the_lock_lives_in_the_pods_namespace() {
    let rows: [(&str, &str, &[&str], &str); 4] = [
        ("the variable wins over the service account", "berth", &["POD_NAMESPACE=nfs", "IN_POD=1"], "nfs"),
        ("the flag wins over both", "berth --lease-namespace x", &["POD_NAMESPACE=nfs", "IN_POD=1"], "x"),
        ("the service account is asked", "berth", &["IN_POD=1"], "storage"),
        ("outside of a pod", "berth", &["POD_NAMESPACE="], "default"),
    ];
    for (row, line, more, namespace) in rows {
        let env = [OLD, more].concat();
        let started = start((line, &env, "")).unwrap();
        assert_eq!(started.namespace, namespace, "{row}");
        assert_eq!(started.lease.unwrap().namespace, namespace, "{row}");
    }
}

#[test]
fn a_flag_wins_over_the_environment_and_the_environment_over_the_file() {
    let file = "provisionerNames: [file.example/a, file.example/b]\nkubeconfig: /file\nleaderElection: true\n\
        workers: 7\nlogLevel: warn\n";
    let base: &[&str] = &["NFS_SERVER=s", "NFS_PATH=/p"];
    let from_file = start(("berth --config /etc/berth.yaml", base, file)).unwrap();
    assert_eq!(names(&from_file), ["file.example/a", "file.example/b"]);
    assert_eq!(from_file.kubeconfig, Some("/file".into()));
    assert_eq!((from_file.workers, from_file.lease.is_some()), (7, true));
    assert_eq!(from_file.log_filter, "warn".parse().unwrap());

    let env =
        [base, &["PROVISIONER_NAME=env.example/a", "KUBECONFIG=/env", "ENABLE_LEADER_ELECTION=f"]].concat();
    let from_env = start(("berth --config=/etc/berth.yaml -v=4", &env, file)).unwrap();
    assert_eq!(names(&from_env), ["env.example/a"]);
    assert_eq!(from_env.kubeconfig, Some("/env".into()));
    assert_eq!(from_env.lease, None);
    assert_eq!(from_env.log_filter, "info,berth=debug".parse().unwrap(), "-v is a flag");

    let line = "berth controller --config /etc/berth.yaml --provisioner-name a --provisioner-name b --kubeconfig /flag \
        --leader-election --workers=9 --log-level=error -v=4";
    let from_flags = start((line, &env, file)).unwrap();
    assert_eq!(names(&from_flags), ["a", "b"]);
    assert_eq!(from_flags.kubeconfig, Some("/flag".into()));
    assert_eq!((from_flags.workers, from_flags.lease.is_some()), (9, true));
    assert_eq!(from_flags.log_filter, "error".parse().unwrap());
}

#[test]
fn several_exports_come_from_the_file() {
    let file = "exports:\n\
        - {name: fast, server: nfs1, path: /fast/, root: /mnt/fast, aliases: [10.0.0.1], formerPaths: [/old], requireMount: true, operationTimeout: 5s, threads: 4}\n\
        - {name: slow, server: nfs2, path: /slow}\n";
    let started =
        start(("berth --config /etc/berth.yaml --provisioner-name p --workers 6", &[], file)).unwrap();
    let expected = [
        Export {
            name: "fast".into(),
            server: "nfs1".into(),
            aliases: vec!["10.0.0.1".into()],
            path: "/fast".into(),
            former_paths: vec!["/old".into()],
            root: "/mnt/fast".into(),
            require_mount: true,
            deadline: seconds(5),
            threads: 4,
        },
        Export {
            name: "slow".into(),
            server: "nfs2".into(),
            aliases: Vec::new(),
            path: "/slow".into(),
            former_paths: Vec::new(),
            root: "/persistentvolumes/slow".into(),
            require_mount: true,
            deadline: seconds(30),
            threads: 6,
        },
    ];
    assert_eq!(started.exports, expected);
}

#[test]
fn flags_and_environment_describe_the_default_export() {
    let names = |started: &Controller| {
        let shown = |e: &Export| format!("{} {}:{} at {}", e.name, e.server, e.path, e.root.display());
        started.exports.iter().map(shown).collect::<Vec<_>>().join(", ")
    };
    let rows: [(&str, Start<'_>, &str); 4] = [
        (
            "beside the exports of the file",
            (
                "berth --config /etc/berth.yaml",
                OLD,
                "exports: [{name: b, server: s, path: /b, root: /mnt/b}]",
            ),
            "default 10.0.0.9:/export at /persistentvolumes, b s:/b at /mnt/b",
        ),
        (
            "field by field over the entry of the file",
            (
                "berth --config /etc/berth.yaml --nfs-path /new -v=0",
                &["PROVISIONER_NAME=p"],
                "exports: [{server: s, path: /old, root: /mnt}]",
            ),
            "default s:/new at /mnt",
        ),
        ("mounted elsewhere", ("berth --export-root=/mnt/x", OLD, ""), "default 10.0.0.9:/export at /mnt/x"),
        (
            "mounted elsewhere by the environment",
            ("berth", &["NFS_SERVER=s", "NFS_PATH=/p", "PROVISIONER_NAME=p", "BERTH_EXPORT_ROOT=/mnt/y"], ""),
            "default s:/p at /mnt/y",
        ),
    ];
    for (row, given, expected) in rows {
        assert_eq!(names(&start(given).unwrap()), expected, "{row}");
    }
}

#[test]
fn a_root_elsewhere_need_not_be_a_mount_point_unless_the_file_says_so() {
    let require = |started: Controller| started.exports[0].require_mount;
    assert!(require(start(("berth", OLD, "")).unwrap()));
    assert!(!require(start(("berth --export-root /tmp/export", OLD, "")).unwrap()));
    let file = "exports: [{server: s, path: /p, requireMount: true}]";
    let line = "berth --config /etc/berth.yaml --export-root /tmp/export --provisioner-name p";
    assert!(require(start((line, &[], file)).unwrap()));
}

#[test]
fn probes_are_served_where_they_are_asked_for() {
    let listen = |text: &str| start((&format!("berth --listen {text}"), OLD, "")).map(|ready| ready.listen);
    let at = |text: &str| {
        Ok(Some(Listen { address: observe::Address::At(text.parse().unwrap()), explicit: true }))
    };
    assert_eq!(listen("127.0.0.1:0"), at("127.0.0.1:0"));
    assert_eq!(listen("0.0.0.0:9090"), at("0.0.0.0:9090"));
    assert_eq!(listen("[::]:9090"), at("[::]:9090"));
    assert_eq!(listen("off"), Ok(None));
    let localhost = listen("localhost:9090").unwrap().unwrap().address;
    assert!(matches!(localhost, observe::Address::At(address) if address.ip().is_loopback()));
}

/// In a cluster of IPv6 alone the kubelet asks an IPv6 address.
#[test]
fn a_port_alone_and_the_default_mean_every_address_of_both_families() {
    let listen = |line: &str| start((line, OLD, "")).unwrap().listen.unwrap();
    let every = |port, explicit| Listen { address: observe::Address::Every(port), explicit };
    assert_eq!(listen("berth"), every(8080, false));
    assert_eq!(listen("berth --listen :9090"), every(9090, true));
    assert_eq!(listen("berth -metrics-port=9091"), every(9091, true));
    assert_eq!(listen("berth -metrics-port=0"), every(8080, false));
    let file = start(("berth --config /etc/berth.yaml", OLD, "listen: ':9092'")).unwrap();
    assert_eq!(file.listen, Some(every(9092, true)));
}

#[test]
fn a_server_or_path_that_can_never_work_is_refused_wherever_it_is_written() {
    let path = "must be an absolute path on the server, such as /export, without '.' and '..'";
    let config = "berth --config /etc/berth.yaml";
    let old = |pair: &'static str| {
        let (name, _) = pair.split_once('=').unwrap();
        let others = OLD.iter().copied().filter(|other| !other.starts_with(&format!("{name}=")));
        others.chain([pair]).collect::<Vec<_>>()
    };
    let rows: [(Start<'_>, &str); 9] = [
        (
            ("berth", &old("NFS_SERVER=10.0.0.1:2049"), ""),
            "environment variable NFS_SERVER \"10.0.0.1:2049\" has a port: write 10.0.0.1, 2049 is the usual one",
        ),
        (
            ("berth", &old("NFS_SERVER=<IP>"), ""),
            "environment variable NFS_SERVER \"<IP>\" is a placeholder: write the server's host name or address in its \
             place",
        ),
        (("berth --nfs-server nas:", OLD, ""), "--nfs-server \"nas:\" ends with a colon: write nas"),
        (
            (config, OLD, "exports: [{name: a, server: '[fd00::1', path: /a}]"),
            "/etc/berth.yaml: exports[0].server \"[fd00::1\" has one bracket without the other: write fd00::1",
        ),
        (
            (config, OLD, "exports: [{name: a, server: s, path: /a, aliases: [b, '\"nas\"']}]"),
            "/etc/berth.yaml: exports[0].aliases[1] \"\\\"nas\\\"\" has quotes around it: write nas",
        ),
        (
            ("berth", &old("NFS_PATH=/export "), ""),
            "environment variable NFS_PATH \"/export \" has blanks around it: write /export",
        ),
        (
            ("berth", &old("NFS_PATH= /export"), ""),
            "environment variable NFS_PATH \" /export\" has blanks around it: write /export",
        ),
        (
            (config, OLD, "exports: [{name: a, server: s, path: /a, formerPaths: ['/b ']}]"),
            "/etc/berth.yaml: exports[0].formerPaths[0] \"/b \" has blanks around it: write /b",
        ),
        (
            ("berth", &old("NFS_PATH=\"/export\""), ""),
            &format!("environment variable NFS_PATH \"\\\"/export\\\"\" {path}"),
        ),
    ];
    for (given, message) in rows {
        assert_eq!(start(given).unwrap_err(), message);
    }
}

#[test]
fn the_ids_of_the_cluster_and_the_retention_of_the_trash_come_from_every_source() {
    let set = |given: Start<'_>| {
        let started = start(given).unwrap_or_else(|wrong| panic!("{wrong}"));
        (started.cluster_id, started.former_cluster_ids.join(" "), started.trash_retention)
    };
    let config = "berth --config /etc/berth.yaml";
    assert_eq!(set(("berth", OLD, "")), (None, String::new(), seconds(600)));
    let list = "clusterId: blue\nformerClusterIds: [red, 6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f11]\ntrashRetention: 24h\n";
    let former = "red 6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f11".to_owned();
    assert_eq!(set((config, OLD, list)), (Some("blue".into()), former.clone(), seconds(86400)));
    let text = "formerClusterIds: red, 6c0f3c9e-8a0b-4a43-9f4a-0b1d0a3c2f11\n";
    assert_eq!(set((config, OLD, text)).1, former);
    let set_in_env = ["BERTH_CLUSTER_ID=green", "BERTH_FORMER_CLUSTER_IDS=a,b", "BERTH_TRASH_RETENTION=0s"];
    let env = [OLD, &set_in_env].concat();
    assert_eq!(set((config, &env, list)), (Some("green".into()), "a b".into(), seconds(0)));
    let line =
        "berth --config /etc/berth.yaml --cluster-id=white --former-cluster-ids=c --trash-retention 1h30m";
    assert_eq!(set((line, &env, list)), (Some("white".into()), "c".into(), seconds(5400)));
}

#[test]
fn a_wrong_cluster_id_or_retention_is_named_with_what_is_allowed() {
    let allowed = "must be 1 to 63 lower case letters, digits and '-', beginning and ending with a letter or digit, such \
        as the UID of the namespace kube-system";
    let long = "a".repeat(64);
    let rows: [(Start<'_>, String); 8] = [
        (("berth --cluster-id Blue", OLD, ""), format!("--cluster-id \"Blue\" {allowed}")),
        (("berth --cluster-id=", OLD, ""), format!("--cluster-id \"\" {allowed}")),
        ((&format!("berth --cluster-id {long}"), OLD, ""), format!("--cluster-id {long:?} {allowed}")),
        (
            ("berth", &[OLD, &["BERTH_FORMER_CLUSTER_IDS=a,-b"]].concat(), ""),
            format!("environment variable BERTH_FORMER_CLUSTER_IDS \"-b\" {allowed}"),
        ),
        (("berth --former-cluster-ids a,,b", OLD, ""), format!("--former-cluster-ids \"\" {allowed}")),
        (
            ("berth --config /etc/berth.yaml", OLD, "formerClusterIds: [a, b, a]"),
            "/etc/berth.yaml: formerClusterIds[2] \"a\" is given twice".into(),
        ),
        (
            ("berth --cluster-id a --former-cluster-ids b,a", OLD, ""),
            "--former-cluster-ids \"a\" is the id of --cluster-id: name only ids that this cluster no longer has"
                .into(),
        ),
        (
            ("berth --trash-retention 7d", OLD, ""),
            "--trash-retention \"7d\" must be a duration in Go syntax, such as 500ms, 30s or 1h30m"
                .into(),
        ),
    ];
    for (given, message) in rows {
        assert_eq!(start(given).unwrap_err(), message);
    }
}

#[test]
fn flags_without_meaning_are_reported() {
    let started = start(("berth -logtostderr=true -v=2 -log_dir /tmp", OLD, "")).unwrap();
    assert_eq!(started.notes, ["the flag -logtostderr has no effect", "the flag -log_dir has no effect"]);
}

/// Every way to be wrong names the flag, the variable or the key, the value, and what is allowed.
///
/// Proves: row 2.1, row 2.2, row 2.3, row 2.5, row 2.7
#[test]
#[allow(clippy::too_many_lines)] // A table.
fn a_wrong_value_is_named_with_its_place_and_what_is_allowed() {
    let file = "berth --config /etc/berth.yaml";
    let rows: &[(Start<'_>, &str)] = &[
        (
            ("berth", &[], ""),
            "not configured: --provisioner-name, PROVISIONER_NAME or provisionerNames in the file of --config; \
             --nfs-server or NFS_SERVER; --nfs-path or NFS_PATH",
        ),
        (
            ("berth", &["NFS_SERVER=", "NFS_PATH=/p", "PROVISIONER_NAME=p"], ""),
            "not configured: --nfs-server or NFS_SERVER",
        ),
        (
            (file, &["PROVISIONER_NAME=p"], "exports: [{name: a, path: /a}]"),
            "not configured: exports[0].server in the file",
        ),
        (
            (file, &["PROVISIONER_NAME=p"], "exports: [{server: s}]"),
            "not configured: exports[0].path in the file, --nfs-path or NFS_PATH",
        ),
        (
            ("berth", &["NFS_SERVER=s", "NFS_PATH=export", "PROVISIONER_NAME=p"], ""),
            "environment variable NFS_PATH \"export\" must be an absolute path on the server, such as /export, \
             without '.' and '..'",
        ),
        (
            ("berth --nfs-path /a/../b", OLD, ""),
            "--nfs-path \"/a/../b\" must be an absolute path on the server, such as /export, without '.' and '..'",
        ),
        (
            ("berth --nfs-server s:/export", OLD, ""),
            "--nfs-server \"s:/export\" must be the host name or the address of an NFS server, without a path",
        ),
        (
            ("berth --export-root persistentvolumes", OLD, ""),
            "--export-root \"persistentvolumes\" must be the absolute path where the export is mounted, without '..'",
        ),
        (
            ("berth --provisioner-name kubernetes.io/nfs", OLD, ""),
            "--provisioner-name \"kubernetes.io/nfs\" must not begin with kubernetes.io/: Kubernetes keeps that \
             prefix for itself and would not leave the volumes to this provisioner; only kubernetes.io/rbd is served, which \
             Kubernetes gave up",
        ),
        (
            (file, OLD_EXPORT, "provisionerNames: [a, b, a]"),
            "/etc/berth.yaml: provisionerNames[2] \"a\" is given twice",
        ),
        (
            (
                "berth",
                &["ENABLE_LEADER_ELECTION=yes", "NFS_SERVER=s", "NFS_PATH=/p", "PROVISIONER_NAME=p"],
                "",
            ),
            "environment variable ENABLE_LEADER_ELECTION \"yes\" must be one of 1 t T true True TRUE 0 f F false False \
             FALSE",
        ),
        (
            (file, OLD, "leaderElection: 'on'"),
            "/etc/berth.yaml: leaderElection \"on\" must be one of 1 t T true True TRUE 0 f F false False FALSE",
        ),
        (
            ("berth --lease-name Berth", OLD, ""),
            "--lease-name \"Berth\" must be 1 to 253 lower case letters, digits, '-' and '.', beginning and ending \
             with a letter or digit",
        ),
        (
            ("berth --lease-duration 1500ms", OLD, ""),
            "--lease-duration \"1500ms\" must be whole seconds, since the Lease object stores seconds",
        ),
        (
            ("berth --lease-duration 2h --lease-renew-deadline 90m", OLD, ""),
            "--lease-duration \"2h\" must be at most 1h: another replica waits no longer for a leader that does not renew",
        ),
        (
            ("berth --lease-renew-deadline 15s", OLD, ""),
            "--lease-renew-deadline \"15s\" must be shorter than --lease-duration, which is 15s",
        ),
        (
            ("berth --lease-duration 10s", OLD, ""),
            "default of --lease-renew-deadline \"10s\" must be shorter than --lease-duration, which is 10s",
        ),
        (
            (file, OLD, "leaseRetryPeriod: 9s"),
            "/etc/berth.yaml: leaseRetryPeriod \"9s\" must be shorter than five sixths of --lease-renew-deadline, \
             which is 10s",
        ),
        (
            ("berth --api-timeout 30", OLD, ""),
            "--api-timeout \"30\" has no unit: it must be a duration of at least 1s in Go syntax, such as 500ms, 30s \
             or 1h30m",
        ),
        (
            ("berth --retry-min 10m", OLD, ""),
            "default of --retry-max \"5m\" must be at least --retry-min, which is 600s",
        ),
        (("berth --workers 0", OLD, ""), "--workers \"0\" must be a whole number from 1 to 1024"),
        (
            (file, OLD, "workers: many"),
            "/etc/berth.yaml: workers \"many\" must be a whole number from 1 to 1024",
        ),
        (
            ("berth --listen 8080", OLD, ""),
            "--listen \"8080\" must be an address and a port, such as 0.0.0.0:8080, [::]:8080 or 127.0.0.1:0, a port of \
             every address, such as :8080, or off",
        ),
        (("berth --log-format xml", OLD, ""), "--log-format \"xml\" must be text or json"),
        (
            ("berth --log-level loud", OLD, ""),
            "--log-level \"loud\" must be off, error, warn, info, debug or trace, or levels by module such as \
             warn,berth=debug",
        ),
        (
            ("berth --config /etc/other.yaml", OLD, ""),
            "--config \"/etc/other.yaml\" cannot be read: entity not found",
        ),
        (
            (file, OLD, "exports: [{name: A, server: s, path: /a}]"),
            "/etc/berth.yaml: exports[0].name \"A\" must be 1 to 63 lower case letters, digits and '-'",
        ),
        (
            (file, OLD, "exports: [{name: a, server: s, path: /a, formerPaths: [/x, y]}]"),
            "/etc/berth.yaml: exports[0].formerPaths[1] \"y\" must be an absolute path on the server, such as /export, \
             without '.' and '..'",
        ),
        (
            (file, OLD, "exports: [{name: a, server: s, path: /a, aliases: ['']}]"),
            "/etc/berth.yaml: exports[0].aliases[0] \"\" must be the host name or the address of an NFS server, \
             without a path",
        ),
        (
            (
                "berth --config /etc/berth.yaml --export-root /mnt",
                &["PROVISIONER_NAME=p"],
                "exports: [{name: a, server: s, path: /a}]",
            ),
            "--export-root \"/mnt\" says where the export \"default\" is mounted, but there is no such export: write \
             the root of each export into the file, or name the server and the path by --nfs-server and --nfs-path",
        ),
    ];
    for (given, message) in rows {
        assert_eq!(start(*given).unwrap_err(), *message);
    }
}

const OLD_EXPORT: &[&str] = &["NFS_SERVER=10.0.0.9", "NFS_PATH=/export"];

#[test]
fn a_variable_that_is_not_text_is_refused_not_ignored() {
    use std::os::unix::ffi::OsStringExt as _;
    let env = |name: &str| match name {
        "NFS_PATH" => Some(OsString::from_vec(vec![b'/', 0xff])),
        "NFS_SERVER" | "PROVISIONER_NAME" => Some("s".into()),
        _ => None,
    };
    let read = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
    let wrong = parse(&["berth".into()], Environment { env: &env, read: &read }).unwrap_err();
    assert_eq!(wrong.to_string(), "environment variable NFS_PATH \"/\u{fffd}\" must be UTF-8");
}

#[test]
fn an_unknown_flag_or_command_is_refused() {
    let wrong = start(("berth --nfs-sever s", OLD, "")).unwrap_err();
    assert!(wrong.contains("'--nfs-sever'") && wrong.contains("--nfs-server"), "{wrong}");
    let wrong = start(("berth -metrics-address=:8080", OLD, "")).unwrap_err();
    assert_eq!(wrong, "unknown flag -metrics-address: write --listen");
    let wrong = start(("berth controler", OLD, "")).unwrap_err();
    assert!(wrong.contains("'controler'"), "{wrong}");
}

fn row(name: &settings::SettingSpec) -> [String; 5] {
    [name.flag, name.env, name.key, name.default, name.effect].map(str::to_owned)
}

/// Flag, variable, key, default and effect of every setting of the controller, in the order of --help.
pub(crate) fn settings() -> Vec<[String; 5]> {
    settings::CONTROLLER.iter().map(row).collect()
}

/// The same of the node plugin.
pub(crate) fn node_settings() -> Vec<[String; 5]> {
    settings::node().map(row).collect()
}

#[test]
fn help_stays_as_it_was_reviewed() {
    let mut berth = flags::definition();
    insta::assert_snapshot!("berth-help", berth.render_long_help());
    let controller = berth.find_subcommand_mut("controller").unwrap();
    let controller = std::mem::take(controller).bin_name("berth controller").term_width(100);
    insta::assert_snapshot!("berth-controller-help", controller.clone().render_long_help());
    let node = berth.find_subcommand_mut("node").unwrap();
    let node = std::mem::take(node).bin_name("berth node").term_width(100);
    insta::assert_snapshot!("berth-node-help", node.clone().render_long_help());
}

#[test]
fn help_and_version_are_printed() {
    let environment =
        Environment { env: &|_| None, read: &|_| Err(io::Error::from(io::ErrorKind::NotFound)) };
    for line in [
        "berth --help",
        "berth -h",
        "berth controller --help",
        "nfs-client-provisioner --help",
        "berth --version",
    ] {
        let args: Vec<String> = line.split(' ').map(String::from).collect();
        let printed = parse(&args, environment);
        assert!(matches!(printed, Ok(Invocation::Print(_))), "{line}: {printed:?}");
    }
}

/// A key of the file follows from the flag's name, so that nobody has to look it up.
#[test]
fn each_key_of_the_file_is_its_flag_in_camel_case() {
    for name in settings::every() {
        let words = name.flag.trim_start_matches('-').split('-').enumerate();
        let camel: String = words
            .map(|(at, word)| if at == 0 { word.to_owned() } else { word[..1].to_uppercase() + &word[1..] })
            .collect();
        let as_it_should = name.key == camel
            || name.key.starts_with("exports[].")
            || name.kind == settings::Kind::Repeated && name.key == camel + "s"
            || name.key.is_empty();
        assert!(as_it_should, "{} has the key {}", name.flag, name.key);
    }
}
