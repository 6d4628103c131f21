//! What old manifests pass: klog and glog flags and those of rbd-provisioner and cephfs-provisioner, with one or two dashes,
//! and the old images' entry point names.
//!
//! What has a meaning here gets it; the rest is named in a note. Everything else is left for clap, with `controller` put in
//! where no command is named.

use super::{
    served::Storage,
    settings,
    value::{ConfigError, Origin, Setting},
};

/// Entry points of the images that berth replaces.
const ENTRY_POINTS: [(&str, Storage); 4] = [
    ("nfs-subdir-external-provisioner", Storage::Nfs),
    ("nfs-client-provisioner", Storage::Nfs),
    ("rbd-provisioner", Storage::Rbd),
    ("cephfs-provisioner", Storage::Cephfs),
];

/// Flags of the Ceph provisioners that are flags of ours as well, where clap would not take a single dash.
const SAME: [&str; 2] = ["kubeconfig", "secret-namespace"];

/// Flags of the Ceph provisioners with a value.
const OF_CEPH: [&str; 4] = ["id", "master", "command-timeout", "metrics-port"];

/// Their switches, and why none is needed.
const CEPH_SWITCHES: [(&str, &str); 3] = [
    ("use-pv-name", "images are named after the UID of their claim"),
    ("enable-quota", "the size of a volume always is its quota"),
    (
        "disable-ceph-namespace-isolation",
        "every volume has a RADOS namespace of its own, to which its user is confined",
    ),
];

/// Flags of glog and klog that take a value.
const WITH_VALUE: [&str; 7] =
    ["v", "vmodule", "stderrthreshold", "log_backtrace_at", "log_dir", "log_file", "log_file_max_size"];

/// Flags of glog and klog that are true where they stand alone.
const SWITCHES: [&str; 6] =
    ["logtostderr", "alsologtostderr", "skip_headers", "skip_log_headers", "add_dir_header", "one_output"];

/// Flags of other provisioners that a manifest may still have, and ours that do the same.
const SAME_AS_OURS: [(&str, &str); 5] = [
    ("metrics-address", "--listen"),
    ("http-endpoint", "--listen"),
    ("provisioner", "--provisioner-name"),
    ("leader-election-namespace", "--lease-namespace"),
    ("worker-threads", "--workers"),
];

/// The arguments, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LegacyFlags {
    /// What is left, beginning with the program's name and a command.
    pub(super) rest: Vec<String>,
    /// The number of `-v`.
    pub(super) verbosity: Option<u32>,
    /// The names of the flags that were left out.
    pub(super) ignored: Vec<&'static str>,
    /// What the program's name stands for, where it is that of an old one.
    pub(super) entry: Option<Storage>,
    /// `-id`: volumes of the Ceph provisioners with another identity are not ours.
    pub(super) identity: Option<String>,
    /// `-master`: where the API server is, whatever else says so.
    pub(super) master: Option<String>,
    /// `-command-timeout`, in seconds.
    pub(super) command_timeout: Option<u64>,
    /// `-metrics-port`, where it is not zero.
    pub(super) metrics_port: Option<u16>,
    /// What an administrator should know about the others.
    pub(super) notes: Vec<String>,
}

/// Takes the old flags out of `args`, of which the first is the program's name.
pub(super) fn extract(args: &[String]) -> Result<LegacyFlags, ConfigError> {
    let program = args.first().map_or("berth", String::as_str);
    let mut old = LegacyFlags {
        rest: vec!["berth".to_owned()],
        verbosity: None,
        ignored: Vec::new(),
        entry: None,
        identity: None,
        master: None,
        command_timeout: None,
        metrics_port: None,
        notes: Vec::new(),
    };
    let mut args = args.iter().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--" {
            old.rest.push(arg.clone());
            old.rest.extend(args.by_ref().cloned());
            break;
        }
        let Some(flag) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else {
            old.rest.push(arg.clone());
            continue;
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        if let Some(switch) = SWITCHES.into_iter().find(|switch| *switch == name) {
            if let Some(value) = value {
                Setting::new(value, Origin::Flag(switch)).bool()?;
            }
            old.ignored.push(switch);
        } else if let Some(known) = WITH_VALUE.into_iter().find(|known| *known == name) {
            let value = value.or_else(|| args.next().cloned());
            let value =
                value.ok_or_else(|| ConfigError(format!("-{known} needs a value, such as -{known}=4")))?;
            if known == "v" {
                old.verbosity = Some(verbosity(&value)?);
            } else {
                old.ignored.push(known);
            }
        } else if let Some(known) = OF_CEPH.into_iter().find(|known| *known == name) {
            let value = value.or_else(|| args.next().cloned());
            let value = value.ok_or_else(|| ConfigError(format!("-{known} needs a value")))?;
            old.set(known, value)?;
        } else if let Some((switch, why)) = CEPH_SWITCHES.into_iter().find(|(switch, _)| *switch == name) {
            if let Some(value) = value {
                Setting::new(value, Origin::Flag(switch)).bool()?;
            }
            old.notes.push(format!("the flag -{switch} has no effect: {why}"));
        } else if let Some(same) = SAME.into_iter().find(|same| *same == name) {
            old.rest.push(format!("--{same}"));
            if let Some(value) = value.or_else(|| args.next().cloned()) {
                old.rest.push(value);
            }
        } else if is_unknown(arg, name) {
            return Err(unknown(name));
        } else {
            old.rest.push(arg.clone());
        }
    }
    let invoked = program.rsplit('/').next().unwrap_or(program);
    let named = |word: &String| {
        !word.starts_with('-') || matches!(word.as_str(), "-h" | "--help" | "-V" | "--version")
    };
    let has_command = old.rest.get(1).is_some_and(named);
    old.entry = ENTRY_POINTS.into_iter().find(|(name, _)| *name == invoked).map(|(_, storage)| storage);
    if !has_command || old.entry.is_some() && old.rest.get(1).is_none_or(|word| word != "controller") {
        old.rest.insert(1, "controller".to_owned());
    }
    Ok(old)
}

/// Whether a flag has one dash, as Go programs take it, and neither they nor we know it. Numbers and the short flags of our
/// own are left for clap.
fn is_unknown(arg: &str, name: &str) -> bool {
    let single = !arg.starts_with("--");
    single && !matches!(name, "" | "h" | "V") && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// The refusal of such a flag, by its whole name, with the one that does the same.
fn unknown(name: &str) -> ConfigError {
    let long = format!("--{name}");
    let ours = settings::every().find(|setting| setting.flag == long).map(|setting| setting.flag);
    let same = SAME_AS_OURS.into_iter().find(|(old, _)| *old == name).map(|(_, ours)| ours);
    ConfigError(match ours.or(same) {
        Some(instead) => format!("unknown flag -{name}: write {instead}"),
        None => format!("unknown flag -{name}: see berth controller --help for those that there are"),
    })
}

impl LegacyFlags {
    /// Takes a flag of the Ceph provisioners.
    fn set(&mut self, name: &'static str, value: String) -> Result<(), ConfigError> {
        let given = Setting::new(value, Origin::Flag(name));
        match name {
            "id" => self.identity = Some(given.text).filter(|id| !id.is_empty()),
            "master" => self.master = address(&given)?,
            "command-timeout" => {
                let seconds = given.text.parse();
                self.command_timeout =
                    Some(seconds.map_err(|_| given.reject("must be a whole number of seconds, such as 5"))?);
            }
            "metrics-port" => {
                let port: u16 =
                    given.text.parse().map_err(|_| given.reject("must be a port, such as 8080, or 0"))?;
                self.metrics_port = (port != 0).then_some(port);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The address of an API server, such as `https://10.0.0.1:6443`; an empty one counts as none.
fn address(given: &Setting) -> Result<Option<String>, ConfigError> {
    if given.text.is_empty() {
        return Ok(None);
    }
    let text = if given.text.contains("://") { given.text.clone() } else { format!("http://{}", given.text) };
    let whole = |uri: &http::Uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    };
    if text.parse::<http::Uri>().is_ok_and(|uri| whole(&uri)) {
        return Ok(Some(text));
    }
    Err(given.reject("must be the address of an API server, such as https://10.0.0.1:6443"))
}

/// The number of `-v`; glog takes negative ones and means none.
fn verbosity(text: &str) -> Result<u32, ConfigError> {
    match text.parse::<i32>() {
        Ok(number) => Ok(u32::try_from(number).unwrap_or(0)),
        Err(_) => Err(Setting::new(text, Origin::Flag("-v")).reject("must be a whole number, such as 4")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Vec<String> {
        line.split(' ').map(String::from).collect()
    }

    /// Proves: row 2.8
    #[test]
    fn old_manifests_and_entry_points_start_the_controller() {
        let rows = [
            ("no arguments", "/berth", "berth controller", None, 0),
            ("an old entry point", "/nfs-subdir-external-provisioner", "berth controller", None, 0),
            (
                "the oldest entry point with a flag",
                "/nfs-client-provisioner -v=4",
                "berth controller",
                Some(4),
                0,
            ),
            ("our own command", "berth controller --nfs-path /a", "berth controller --nfs-path /a", None, 0),
            (
                "our own flag without a command",
                "berth --nfs-path=/a",
                "berth controller --nfs-path=/a",
                None,
                0,
            ),
            (
                "our own command at an old entry point",
                "nfs-client-provisioner controller",
                "berth controller",
                None,
                0,
            ),
            ("help is not a command's", "berth --help", "berth --help", None, 0),
            ("an unknown command is left for clap", "berth controler", "berth controler", None, 0),
            ("verbosity with a space", "berth -v 4", "berth controller", Some(4), 0),
            ("verbosity with two dashes", "berth --v 10", "berth controller", Some(10), 0),
            ("verbosity with two dashes and =", "berth --v=0", "berth controller", Some(0), 0),
            ("the last verbosity wins", "berth -v=1 -v=5", "berth controller", Some(5), 0),
            ("a negative verbosity is none", "berth -v=-1", "berth controller", Some(0), 0),
            ("switches", "berth -logtostderr --alsologtostderr=false", "berth controller", None, 2),
            (
                "values",
                "berth -stderrthreshold=INFO --vmodule a=1 -log_backtrace_at=a.go:1 -log_dir /tmp",
                "berth controller",
                None,
                4,
            ),
            (
                "old and new together",
                "berth controller -v=4 --workers 8",
                "berth controller --workers 8",
                Some(4),
                0,
            ),
        ];
        for (row, line, rest, verbosity, ignored) in rows {
            let old = extract(&args(line)).unwrap();
            assert_eq!(
                (old.rest.join(" "), old.verbosity, old.ignored.len()),
                (rest.to_owned(), verbosity, ignored),
                "{row}"
            );
        }
    }

    #[test]
    fn flags_of_the_ceph_provisioners_have_their_meaning_or_a_note() {
        let line = "/usr/local/bin/cephfs-provisioner -id=cephfs-provisioner-1 -master 10.0.0.1:8080 -kubeconfig /k \
                    -secret-namespace=cephfs -enable-quota=true -disable-ceph-namespace-isolation -metrics-port=9090";
        let old = extract(&args(line)).unwrap();
        assert_eq!(old.entry, Some(Storage::Cephfs));
        assert_eq!(old.rest.join(" "), "berth controller --kubeconfig /k --secret-namespace cephfs");
        assert_eq!(old.identity.as_deref(), Some("cephfs-provisioner-1"));
        assert_eq!(old.master.as_deref(), Some("http://10.0.0.1:8080"));
        assert_eq!((old.metrics_port, old.command_timeout), (Some(9090), None));
        assert_eq!(
            old.notes,
            [
                "the flag -enable-quota has no effect: the size of a volume always is its quota",
                "the flag -disable-ceph-namespace-isolation has no effect: every volume has a RADOS namespace of its own, \
                 to which its user is confined",
            ]
        );
        let old =
            extract(&args("rbd-provisioner --command-timeout 30 -use-pv-name -metrics-port 0")).unwrap();
        assert_eq!(old.entry, Some(Storage::Rbd));
        assert_eq!((old.metrics_port, old.command_timeout, old.rest.len()), (None, Some(30), 2));
        assert_eq!(
            old.notes,
            ["the flag -use-pv-name has no effect: images are named after the UID of their claim"]
        );
    }

    #[test]
    fn an_unknown_flag_with_one_dash_is_named_whole() {
        let help = "see berth controller --help for those that there are";
        let rows = [
            ("berth -metrics-address=:8080", "unknown flag -metrics-address: write --listen".to_owned()),
            ("berth -v=4 -http-endpoint :8080", "unknown flag -http-endpoint: write --listen".to_owned()),
            (
                "nfs-client-provisioner -provisioner=a/b",
                "unknown flag -provisioner: write --provisioner-name".to_owned(),
            ),
            ("berth -listen=:8080", "unknown flag -listen: write --listen".to_owned()),
            ("berth controller -nfs-path=/a", "unknown flag -nfs-path: write --nfs-path".to_owned()),
            ("berth -run-server=false", format!("unknown flag -run-server: {help}")),
            ("berth -x", format!("unknown flag -x: {help}")),
        ];
        for (line, message) in rows {
            assert_eq!(extract(&args(line)).unwrap_err().to_string(), message, "{line}");
        }
        for line in ["berth -h", "berth -V", "berth controller -h", "berth --retry-min -5"] {
            assert!(extract(&args(line)).is_ok(), "{line}");
        }
    }

    #[test]
    fn wrong_values_of_old_flags_are_named() {
        let rows = [
            (
                "rbd-provisioner -command-timeout 5s",
                "command-timeout \"5s\" must be a whole number of seconds, such as 5",
            ),
            (
                "rbd-provisioner -metrics-port http",
                "metrics-port \"http\" must be a port, such as 8080, or 0",
            ),
            ("rbd-provisioner -id", "-id needs a value"),
            (
                "rbd-provisioner -master ftp://a",
                "master \"ftp://a\" must be the address of an API server, such as https://10.0.0.1:6443",
            ),
            ("berth -v=four", "-v \"four\" must be a whole number, such as 4"),
            ("berth -v", "-v needs a value, such as -v=4"),
            (
                "berth -logtostderr=yes",
                "logtostderr \"yes\" must be one of 1 t T true True TRUE 0 f F false False FALSE",
            ),
        ];
        for (line, message) in rows {
            assert_eq!(extract(&args(line)).unwrap_err().to_string(), message);
        }
    }
}
