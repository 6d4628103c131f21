//! What old manifests pass: klog and glog flags with one or two dashes, and the old images' entry point names.
//!
//! Their `-v` becomes the log level; the others have no meaning here and are named in a note. Everything else is left for
//! clap, with `controller` put in where no command is named.

use super::value::{Given, Origin, Wrong};

/// Entry points of the images that berth replaces.
const ENTRY_POINTS: [&str; 2] = ["nfs-subdir-external-provisioner", "nfs-client-provisioner"];

/// Flags of glog and klog that take a value.
const WITH_VALUE: [&str; 7] =
    ["v", "vmodule", "stderrthreshold", "log_backtrace_at", "log_dir", "log_file", "log_file_max_size"];

/// Flags of glog and klog that are true where they stand alone.
const SWITCHES: [&str; 6] =
    ["logtostderr", "alsologtostderr", "skip_headers", "skip_log_headers", "add_dir_header", "one_output"];

/// The arguments, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Old {
    /// What is left, beginning with the program's name and a command.
    pub(super) rest: Vec<String>,
    /// The number of `-v`.
    pub(super) verbosity: Option<u32>,
    /// The names of the flags that were left out.
    pub(super) ignored: Vec<&'static str>,
}

/// Takes the old flags out of `args`, of which the first is the program's name.
pub(super) fn extract(args: &[String]) -> Result<Old, Wrong> {
    let program = args.first().map_or("berth", String::as_str);
    let mut old = Old { rest: vec!["berth".to_owned()], verbosity: None, ignored: Vec::new() };
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
                Given::new(value, Origin::Flag(switch)).bool()?;
            }
            old.ignored.push(switch);
        } else if let Some(known) = WITH_VALUE.into_iter().find(|known| *known == name) {
            let value = value.or_else(|| args.next().cloned());
            let value = value.ok_or_else(|| Wrong(format!("-{known} needs a value, such as -{known}=4")))?;
            if known == "v" {
                old.verbosity = Some(verbosity(&value)?);
            } else {
                old.ignored.push(known);
            }
        } else {
            old.rest.push(arg.clone());
        }
    }
    let invoked = program.rsplit('/').next().unwrap_or(program);
    let named = |word: &String| {
        !word.starts_with('-') || matches!(word.as_str(), "-h" | "--help" | "-V" | "--version")
    };
    let has_command = old.rest.get(1).is_some_and(named);
    if !has_command
        || ENTRY_POINTS.contains(&invoked) && old.rest.get(1).is_none_or(|word| word != "controller")
    {
        old.rest.insert(1, "controller".to_owned());
    }
    Ok(old)
}

/// The number of `-v`; glog takes negative ones and means none.
fn verbosity(text: &str) -> Result<u32, Wrong> {
    match text.parse::<i32>() {
        Ok(number) => Ok(u32::try_from(number).unwrap_or(0)),
        Err(_) => Err(Given::new(text, Origin::Flag("-v")).wrong("must be a whole number, such as 4")),
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
    fn wrong_values_of_old_flags_are_named() {
        let rows = [
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
