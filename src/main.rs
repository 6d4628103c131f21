//! berth: from flags to ready values to one role, and an exit code: 0 done, 1 failed, 2 wrongly configured.
//!
//! The only file that looks at arguments, environment and signals, and that ends the process. Everything else gets values.

use std::{collections::BTreeMap, io::Write as _, net::SocketAddr, path::Path, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use berth::{
    backend::{
        Backend, Backends, Host,
        ceph::{Cluster, Clusters},
        cephfs::{self, Cephfs},
        nfs::{self, Nfs},
        rbd::{self, Rbd},
    },
    config::{self, Ceph, Controller, Invocation, Storage, Surroundings},
    observe::{self, Metered, Metrics},
    provisioner::{self, KubernetesHost, host, lease, queue::Pace, rights},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

/// The work is waiting for storage and for the API server; more threads would only take memory.
const MOST_WORKER_THREADS: usize = 4;

/// How an administrator tells a wrong configuration, which no restart mends, from everything else.
const WRONGLY_CONFIGURED: u8 = 2;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let surroundings =
        Surroundings { env: &|name| std::env::var_os(name), read: &|path| std::fs::read_to_string(path) };
    match config::parse(&args, surroundings) {
        Ok(Invocation::Print(text)) => match write!(std::io::stdout(), "{text}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Ok(Invocation::Controller(settings)) => {
            observe::start_logs(settings.log_format, settings.log_filter.clone());
            observe::log_panics();
            controller(*settings)
        }
        Err(wrong) => {
            // A closed standard error leaves the exit code to speak.
            let _ = writeln!(std::io::stderr(), "berth: {wrong}");
            ExitCode::from(WRONGLY_CONFIGURED)
        }
    }
}

/// Runs the provisioner until it is told to stop.
fn controller(settings: Controller) -> ExitCode {
    for note in &settings.notes {
        tracing::warn!("{note}");
    }
    if let Err(error) = nfs::check(&settings.exports) {
        tracing::error!(error = error.chain(), "the exports are wrongly configured");
        return ExitCode::from(WRONGLY_CONFIGURED);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(MOST_WORKER_THREADS))
        .thread_name("berth")
        .enable_all()
        .build();
    let ended = runtime.context("start the runtime").and_then(|runtime| {
        let ended = runtime.block_on(serve(settings));
        // What still hangs in a file system call cannot be ended; nobody waits for it.
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "berth ends");
            ExitCode::FAILURE
        }
    }
}

async fn serve(settings: Controller) -> anyhow::Result<()> {
    let metrics = Metrics::new();

    let stop = CancellationToken::new();
    stop_on_signals(&stop)?;
    let served = CancellationToken::new();
    let server = probes(&settings, &metrics, &served).await?;

    let cluster = cluster(&settings).await?;
    let host: Arc<dyn Host> = Arc::new(
        KubernetesHost::start(&cluster, settings.api_timeout, host_settings(&settings), &metrics).await?,
    );
    let nfs = if settings.exports.is_empty() {
        None
    } else {
        let nfs = Nfs::new(settings.exports.clone(), Arc::clone(&host)).context("prepare the exports")?;
        Some(metered(Arc::new(nfs), &metrics))
    };
    metrics.watch_stores(nfs.iter().cloned().collect());
    let on_ceph = match &settings.ceph {
        Some(ceph) => Some(on_ceph(ceph, host, &metrics).context("prepare the use of Ceph")?),
        None => None,
    };
    let backends = backends(&settings, nfs.as_ref(), on_ceph.as_ref());
    let names: Vec<&str> = settings.provisioners.iter().map(|one| one.name.as_str()).collect();
    tracing::info!(
        version = berth::VERSION,
        provisioners = names.join(","),
        server = %cluster.cluster_url,
        exports = settings.exports.iter().map(|e| format!("{}={}:{}", e.name, e.server, e.path)).collect::<Vec<_>>().join(","),
        clusters = settings.ceph.as_ref().map(clusters).unwrap_or_default(),
        "started"
    );
    let loop_settings = loop_settings(settings, cluster, stop);
    tokio::select! {
        ended = provisioner::run(loop_settings, backends, metrics) => ended.context("run the provisioner")?,
        failed = server => failed.context("serve probes and metrics")?,
    }
    // Probes answer until the last volume is done.
    served.cancel();
    tracing::info!("stopped");
    Ok(())
}

fn metered(backend: Arc<dyn Backend>, metrics: &Metrics) -> Arc<dyn Backend> {
    Arc::new(Metered::new(backend, metrics.clone()))
}

/// The backends that store on Ceph.
struct OnCeph {
    rbd: Arc<dyn Backend>,
    cephfs: Arc<dyn Backend>,
}

/// Makes the backends that store on Ceph. They share the clusters, and ask nothing of them yet.
fn on_ceph(ceph: &Ceph, host: Arc<dyn Host>, metrics: &Metrics) -> anyhow::Result<OnCeph> {
    let made =
        ceph.clusters.iter().map(|one| Cluster::new(&one.name, one.monitors.clone(), one.tools.clone()));
    let clusters = Clusters::new(made.collect::<Result<_, _>>()?, ceph.tools.clone());
    let admins: BTreeMap<_, _> =
        ceph.clusters.iter().filter_map(|one| Some((one.name.clone(), one.admin.clone()?))).collect();
    let settings = rbd::Settings { driver: "rbd.berth.storage".to_owned(), admins: admins.clone() };
    let rbd = Rbd::new(clusters.clone(), Arc::clone(&host), settings)?;
    let settings = cephfs::Settings {
        driver: "cephfs.berth.storage".to_owned(),
        admins,
        secret_namespace: ceph.secret_namespace.clone(),
    };
    let cephfs = Cephfs::new(clusters, host, settings)?;
    Ok(OnCeph { rbd: metered(Arc::new(rbd), metrics), cephfs: metered(Arc::new(cephfs), metrics) })
}

/// Every served name with the backend that it stands for.
fn backends(settings: &Controller, nfs: Option<&Arc<dyn Backend>>, on_ceph: Option<&OnCeph>) -> Backends {
    let served = settings.provisioners.iter().filter_map(|provisioner| {
        let backend = match provisioner.storage {
            Storage::Nfs => nfs,
            Storage::Rbd => on_ceph.map(|ceph| &ceph.rbd),
            Storage::Cephfs => on_ceph.map(|ceph| &ceph.cephfs),
        };
        Some((&provisioner.name, Arc::clone(backend?)))
    });
    served
        .fold(Backends::default(), |backends, (name, backend)| backends.with(name, backend))
        .identified_as(settings.identity.clone())
}

/// The configured clusters with their monitors, for the log.
fn clusters(ceph: &Ceph) -> String {
    let shown = ceph.clusters.iter().map(|cluster| format!("{}={}", cluster.name, cluster.monitors));
    shown.collect::<Vec<_>>().join(";")
}

/// What the backends are told of this cluster, from what was configured.
fn host_settings(settings: &Controller) -> host::Settings {
    host::Settings {
        cluster_id: settings.cluster_id.clone(),
        former_cluster_ids: settings.former_cluster_ids.clone(),
        trash_retention: settings.trash_retention,
    }
}

/// What the loop is told, from what was configured.
fn loop_settings(
    settings: Controller,
    cluster: kube::Config,
    stop: CancellationToken,
) -> provisioner::Settings {
    let hostname = hostname();
    let primary = settings.provisioners.first().map(|first| first.name.clone()).unwrap_or_default();
    let lease = settings.lease.map(|lock| lease::Settings {
        name: lock.name,
        duration: lock.duration,
        renew_deadline: lock.renew_deadline,
        retry_period: lock.retry_period,
        ..lease::Settings::new(&primary, &lock.namespace, &hostname)
    });
    let pace = Pace { min: settings.retry_min, max: settings.retry_max, slow: settings.retry_max };
    provisioner::Settings {
        cluster,
        hostname,
        namespace: settings.namespace,
        lease,
        host_rights: if settings.ceph.is_some() { rights::HOST } else { &[] },
        workers: settings.workers,
        api_timeout: settings.api_timeout,
        pace,
        sweep_interval: settings.sweep_interval,
        sweep_grace: settings.sweep_grace,
        shutdown_grace: settings.shutdown_grace,
        stop,
    }
}

/// Serves probes and metrics where the settings want them; the future ends only when the server fails.
async fn probes(
    settings: &Controller,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> anyhow::Result<impl Future<Output = std::io::Result<()>> + use<>> {
    let listener = match settings.listen {
        Some(address) => {
            let listener =
                TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
            let address = listener.local_addr()?;
            tracing::info!(%address, "serving probes and metrics");
            if let Some(file) = &settings.listen_file {
                tell(file, address).with_context(|| format!("write {}", file.display()))?;
            }
            Some(listener)
        }
        None => None,
    };
    let (metrics, stop) = (metrics.clone(), stop.clone());
    let task = listener.map(|listener| tokio::spawn(observe::serve(listener, metrics, stop)));
    Ok(async move {
        match task {
            Some(task) => task.await.map_err(std::io::Error::other)?,
            None => std::future::pending().await,
        }
    })
}

/// Writes the address into `file`, which is there completely or not at all.
fn tell(file: &Path, address: SocketAddr) -> std::io::Result<()> {
    let mut unfinished = file.as_os_str().to_owned();
    unfinished.push(".new");
    std::fs::write(&unfinished, format!("{address}\n"))?;
    std::fs::rename(&unfinished, file)
}

/// The API server of the file, or the one of the pod's service account; another address where one was given. Never the
/// file of whoever is logged in.
async fn cluster(settings: &Controller) -> anyhow::Result<kube::Config> {
    let master = settings.master.as_deref().map(str::parse::<http::Uri>).transpose();
    let master = master.context("read the address of -master")?;
    let mut config = match (&settings.kubeconfig, &master) {
        (Some(path), _) => {
            let read = kube::config::Kubeconfig::read_from(path)
                .with_context(|| format!("read the kubeconfig {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(read, &kube::config::KubeConfigOptions::default())
                .await
                .with_context(|| format!("use the kubeconfig {}", path.display()))?
        }
        (None, None) => kube::Config::incluster().context(
            "this process is not in a pod with a service account, and no --kubeconfig or KUBECONFIG says where the \
             API server is",
        )?,
        // Outside of a pod nobody is logged in at that address, as with the old provisioners.
        (None, Some(master)) => {
            kube::Config::incluster().unwrap_or_else(|_| kube::Config::new(master.clone()))
        }
    };
    if let Some(master) = master {
        config.cluster_url = master;
    }
    Ok(config)
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
                tracing::error!(signal = name, "second signal: ending at once, work may be left half done");
                std::process::exit(1);
            }
            tracing::info!(signal = name, "stopping: nothing new is begun, running work may end");
            stop.cancel();
        }
    });
    Ok(())
}
