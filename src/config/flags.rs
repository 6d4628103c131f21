//! The command line as it is written: every value still text. `--help` is made from the settings.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, Command, error::ErrorKind};

use super::{
    settings::{self, Kind, SettingSpec},
    value::ConfigError,
};

/// What was given, by flag.
pub(super) type Flags = BTreeMap<&'static str, Vec<String>>;

/// What the command line asks for.
pub(super) enum Read {
    Controller(Flags),
    Node(Flags),
    Print(String),
}

/// The definition of the command line.
pub(super) fn definition() -> Command {
    let controller = Command::new(CONTROLLER)
        .about("Provision, expand and remove volumes for claims (default command)")
        .long_about(
            "Provision, expand and remove volumes for claims (default command)\n\n\
             The file of --config takes each flag under its name in camelCase (leaseDuration). A flag overrides the \
             environment, and the environment overrides the file. Durations use Go's syntax: 500ms, 30s, 1h30m. The klog \
             and glog flags of old manifests are accepted: -v sets the log level, the others have no effect.",
        )
        .args(settings::CONTROLLER.iter().map(argument));
    let node = Command::new(NODE)
        .about("Mount volumes on this node: the CSI node plugin")
        .long_about(
            "Mount volumes on this node: the CSI node plugin\n\n\
             It serves kubelet on a socket for each driver and registers them. It needs to be root in the mount namespace of the \
             node. The file of --config may be the one of berth controller.",
        )
        .args(settings::node().map(argument));
    Command::new("berth")
        .version(crate::VERSION)
        .about("Dynamic storage provisioner for Kubernetes")
        .max_term_width(100)
        .disable_help_subcommand(true)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(controller)
        .subcommand(node)
}

const CONTROLLER: &str = "controller";
const NODE: &str = "node";

fn argument(name: &SettingSpec) -> Arg {
    let mut help = name.effect.to_owned();
    for (what, text) in [("env", name.env), ("default", name.default)] {
        if !text.is_empty() {
            help = format!("{help} [{what}: {text}]");
        }
    }
    let mut arg = Arg::new(name.flag)
        .long(name.flag.trim_start_matches('-'))
        .value_name(name.value)
        .help_heading(name.section);
    if !name.more.is_empty() {
        arg = arg.long_help(format!("{help}\n\n{}", name.more));
    }
    let arg = arg.help(help);
    match name.kind {
        Kind::One | Kind::List => arg,
        Kind::Switch => arg.num_args(0..=1).default_missing_value("true"),
        Kind::Repeated => arg.action(ArgAction::Append),
    }
}

/// Reads a command line that begins with the program's name.
pub(super) fn read(args: Vec<String>) -> Result<Read, ConfigError> {
    match definition().try_get_matches_from(args) {
        Ok(matches) => {
            let given = |command: &str, name: &SettingSpec| {
                let values = matches.subcommand_matches(command)?.get_many::<String>(name.flag)?;
                Some((name.flag, values.cloned().collect()))
            };
            Ok(match matches.subcommand_name() {
                Some(NODE) => Read::Node(settings::node().filter_map(|name| given(NODE, name)).collect()),
                _ => Read::Controller(
                    settings::CONTROLLER.iter().filter_map(|name| given(CONTROLLER, name)).collect(),
                ),
            })
        }
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(Read::Print(error.to_string())),
            _ => {
                let text = error.to_string();
                Err(ConfigError(text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_owned()))
            }
        },
    }
}
