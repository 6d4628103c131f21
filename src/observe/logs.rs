//! The log on standard error: [`start`], once, before anything is logged; [`log_panics`] sends panics there too.
//!
//! Standard error, because standard output belongs to the commands that print a result.

use std::{fmt, str::FromStr};

use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use super::fields::Fields;

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

impl FromStr for Format {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(()),
        }
    }
}

/// What is logged: a level, or `target=level` pairs separated by commas with an optional level for the rest.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter(Targets);

impl Default for Filter {
    fn default() -> Self {
        Self::level(LevelFilter::INFO)
    }
}

/// The client library of the API server. Below `debug` it only repeats, as dumps, what is told with every failed request.
const CLIENT: &str = "kube";

impl Filter {
    fn level(level: LevelFilter) -> Self {
        // Below `debug` the HTTP libraries log every frame; they speak up only when asked for by name.
        let quiet = level.min(LevelFilter::INFO);
        let client = if level >= LevelFilter::DEBUG { LevelFilter::DEBUG } else { LevelFilter::OFF };
        Self(Targets::new().with_default(quiet).with_target("berth", level).with_target(CLIENT, client))
    }

    /// Levels by module. What they do not say of the client library is what holds for every level.
    fn by_module(pairs: &str) -> Result<Self, ()> {
        let targets: Targets = pairs.parse().map_err(|_| ())?;
        let named = targets.iter().any(|(target, _)| target.starts_with(CLIENT));
        let loud = targets.default_level().is_some_and(|level| level >= LevelFilter::DEBUG);
        Ok(Self(if named || loud { targets } else { targets.with_target(CLIENT, LevelFilter::OFF) }))
    }

    /// The filter that corresponds to `-v` of klog and glog: 4 is where they begin to tell what is done and why, 7 where
    /// they tell of every request.
    pub fn from_verbosity(verbosity: u32) -> Self {
        match verbosity {
            0..=3 => Self::level(LevelFilter::INFO),
            4..=6 => {
                let quiet = Targets::new().with_default(LevelFilter::INFO);
                Self(quiet.with_target("berth", LevelFilter::DEBUG).with_target(CLIENT, LevelFilter::OFF))
            }
            7.. => Self::level(LevelFilter::TRACE),
        }
    }
}

impl FromStr for Filter {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let level = match text {
            "off" => LevelFilter::OFF,
            "error" => LevelFilter::ERROR,
            "warn" => LevelFilter::WARN,
            "info" => LevelFilter::INFO,
            "debug" => LevelFilter::DEBUG,
            "trace" => LevelFilter::TRACE,
            // A bare word would be read as a target with everything switched on: a misspelt level, more likely.
            pairs if pairs.contains('=') => return Self::by_module(pairs),
            _ => return Err(()),
        };
        Ok(Self::level(level))
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Starts logging. A second call changes nothing.
pub fn start(format: Format, filter: Filter) {
    let registry = tracing_subscriber::registry().with(filter.0);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let text =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false).fmt_fields(Fields);
    // It fails only where a log was started before, in tests.
    let _ = match format {
        Format::Text => registry.with(text).try_init(),
        Format::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    };
}

/// Logs every panic with its place, so that it is found where everything else is. The process lives on: one broken
/// object must not stop the work on the others.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        tracing::error!(panic = message, place, thread, "panic: this is a bug in berth");
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_targets_are_read() {
        for good in
            ["off", "error", "warn", "info", "debug", "trace", "info,kube=trace", "berth::provisioner=debug"]
        {
            assert!(good.parse::<Filter>().is_ok(), "{good}");
        }
        for bad in ["", "INFO ", "verbose", "4", "kube=loud"] {
            assert!(bad.parse::<Filter>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_verbosity_of_old_manifests_becomes_a_level() {
        let debug = "info,berth=debug";
        let rows = [(0, "info"), (3, "info"), (4, debug), (6, debug), (7, "trace"), (10, "trace")];
        for (verbosity, level) in rows {
            assert_eq!(Filter::from_verbosity(verbosity), level.parse().unwrap(), "-v={verbosity}");
        }
    }

    #[test]
    fn the_client_library_is_heard_only_where_it_is_asked_for() {
        let rows = [
            ("info", false),
            ("warn", false),
            ("info,berth=debug", false),
            ("warn,berth=trace", false),
            ("debug", true),
            ("info,kube=debug", true),
            ("debug,berth=info", true),
        ];
        for (text, heard) in rows {
            let Filter(targets) = text.parse().unwrap();
            assert_eq!(
                targets.would_enable("kube_client::client::builder", &tracing::Level::WARN),
                heard,
                "{text}"
            );
            assert_eq!(targets.would_enable("kube_runtime::watcher", &tracing::Level::WARN), heard, "{text}");
        }
        let Filter(four) = Filter::from_verbosity(4);
        assert!(four.would_enable("berth::provisioner", &tracing::Level::DEBUG));
        assert!(!four.would_enable("hyper_util::client", &tracing::Level::DEBUG), "no line for a request");
        assert!(!four.would_enable("kube_client::client::builder", &tracing::Level::ERROR));
    }
}
