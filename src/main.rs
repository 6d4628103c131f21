//! berth: from flags to ready values to one role, and an exit code: 0 done, 1 failed, 2 wrongly configured.
//!
//! The only file that looks at arguments, environment and signals, and that ends the process. Everything else gets values.

mod roles;

use std::{io::Write as _, process::ExitCode};

use anyhow::Context as _;
use berth::{
    config::{self, Environment, Invocation},
    observe,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::roles::{controller, node};

/// The work is waiting for storage and for the API server; more threads would only take memory.
const MOST_WORKER_THREADS: usize = 4;

/// How an administrator tells a wrong configuration, which no restart mends, from everything else.
const WRONGLY_CONFIGURED: u8 = 2;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let environment =
        Environment { env: &|name| std::env::var_os(name), read: &|path| std::fs::read_to_string(path) };
    match config::parse(&args, environment) {
        Ok(Invocation::Print(text)) => match write!(std::io::stdout(), "{text}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Ok(Invocation::Controller(settings)) => {
            observe::start_logs(settings.log_format, settings.log_filter.clone());
            observe::log_panics();
            run(|stop| controller::serve(*settings, hostname(), stop))
        }
        Ok(Invocation::Node(settings)) => {
            observe::start_logs(settings.log_format, settings.log_filter.clone());
            observe::log_panics();
            run(|stop| async {
                node::check(&settings).map_err(End::Misconfigured)?;
                node::serve(*settings, hostname(), stop).await.map_err(End::Failed)
            })
        }
        Err(wrong) => {
            // A closed standard error leaves the exit code to speak.
            let _ = writeln!(std::io::stderr(), "berth: {wrong}");
            ExitCode::from(WRONGLY_CONFIGURED)
        }
    }
}

/// Runs one role to its end.
fn run<R: Future<Output = Result<(), End>>>(role: impl FnOnce(CancellationToken) -> R) -> ExitCode {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(MOST_WORKER_THREADS))
        .thread_name("berth")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime could not be started");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(async {
        let stop = CancellationToken::new();
        stop_on_signals(&stop).map_err(End::Failed)?;
        role(stop).await?;
        tracing::info!("stopped");
        Ok(())
    });
    // What still hangs in a file system call cannot be ended; nobody waits for it.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(End::Misconfigured(error)) => {
            tracing::error!(error = observe::causes(error.as_ref()), "berth is misconfigured");
            ExitCode::from(WRONGLY_CONFIGURED)
        }
        Err(End::Failed(error)) => {
            tracing::error!(error = observe::causes(error.as_ref()), "berth ends");
            ExitCode::FAILURE
        }
    }
}

/// Why the process ends without being told to.
pub(crate) enum End {
    /// The settings cannot be used on this machine; a restart does not help.
    Misconfigured(anyhow::Error),
    /// Anything else.
    Failed(anyhow::Error),
}

/// The name of this machine; in a pod, the pod's.
fn hostname() -> String {
    let told = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let told = told.trim();
    if told.is_empty() { "berth".to_owned() } else { told.to_owned() }
}

/// The first SIGTERM or SIGINT cancels `stop`, the second ends the process at once.
fn stop_on_signals(stop: &CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
    let stop = stop.clone();
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if stop.is_cancelled() {
                tracing::error!(
                    signal = name,
                    "second signal: exiting immediately; running operations may be left \
                    unfinished"
                );
                std::process::exit(1);
            }
            tracing::info!(signal = name, "shutting down: no new operations start; waiting for running ones");
            stop.cancel();
        }
    });
    Ok(())
}
