//! `berth` as provisioner: backends, the API server, probes and metrics, made of what `config` says, and the loop that uses them.

use std::{collections::BTreeMap, io::ErrorKind, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use berth::{
    backend::{
        Backends, Kubernetes, StorageSystem, Stores,
        ceph::{Cluster, Clusters},
        cephfs::{self, Cephfs},
        nfs::{self, Nfs},
        rbd::{self, Rbd},
    },
    config::{Ceph, Controller, Listen, Storage},
    observe::{self, Metered, Metrics},
    provisioner::{self, ClusterIdentity, KubernetesClient, host, lease, queue::Backoff, rights},
    system::clock::since_boot,
    volume::Clock,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::End;

/// The CSI driver of images. Its object says `attachRequired`, so that one node alone uses an image of `ReadWriteOnce`.
const RBD_DRIVER: &str = "rbd.berth.storage";

/// How long to wait at the start for what the API server lets us do.
const RIGHTS_TIMEOUT: Duration = Duration::from_secs(3);

/// How often to look whether a default port that was taken is free.
const LOOK_FOR_PORT_EVERY: Duration = Duration::from_secs(10);

/// Runs the provisioner until it is told to stop.
pub(crate) async fn serve(
    settings: Controller,
    hostname: String,
    stop: CancellationToken,
) -> Result<(), End> {
    for note in &settings.notes {
        tracing::warn!("{note}");
    }
    if !settings.exports.is_empty()
        && let Err(error) = nfs::check(&settings.exports)
    {
        return Err(End::Misconfigured(anyhow::Error::new(error).context("the exports are misconfigured")));
    }
    let Prepared { settings, backends, metrics, server, served } =
        prepare(settings, hostname, stop).await.map_err(End::Misconfigured)?;
    tokio::select! {
        ended = provisioner::run(settings, backends, metrics) => {
            // Only an API server to which no client can be made ends it.
            ended.context("run the provisioner").map_err(End::Misconfigured)?;
        }
        failed = server => failed.context("serve probes and metrics").map_err(End::Failed)?,
    }
    // Probes answer until the last volume is done.
    served.cancel();
    Ok(())
}

/// What the settings became.
struct Prepared<S> {
    settings: provisioner::Settings,
    backends: Backends,
    metrics: Metrics,
    /// The server of probes and metrics, and what ends it.
    server: S,
    served: CancellationToken,
}

/// Takes up what the settings name: the port, the API server, the backends. Every failure is one of the settings.
async fn prepare(
    settings: Controller,
    hostname: String,
    stop: CancellationToken,
) -> anyhow::Result<Prepared<impl Future<Output = std::io::Result<()>>>> {
    let metrics = Metrics::new();
    let served = CancellationToken::new();
    let server = probes(&settings, &metrics, &served)?;
    let cluster = cluster(&settings).await?;
    let (cluster_identity, told) = (ClusterIdentity::default(), host_settings(&settings));
    let host =
        KubernetesClient::start(&cluster, settings.api_timeout, told, cluster_identity.clone(), &metrics)
            .await?;
    let host: Arc<dyn Kubernetes> = Arc::new(host);
    let nfs = if settings.exports.is_empty() {
        None
    } else {
        let nfs = Nfs::new(settings.exports.clone(), host.clone()).context("prepare the exports")?;
        Some(metered(Arc::new(nfs), &metrics))
    };
    metrics.watch_stores(nfs.iter().map(|nfs| (nfs::NAME, nfs.clone() as Arc<dyn Stores>)).collect());
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
    let settings = loop_settings(settings, hostname, cluster, cluster_identity, stop);
    Ok(Prepared { settings, backends, metrics, server, served })
}

fn metered(backend: Arc<dyn StorageSystem>, metrics: &Metrics) -> Arc<dyn StorageSystem> {
    Arc::new(Metered::new(backend, metrics.clone()))
}

/// The backends that store on Ceph.
struct OnCeph {
    rbd: Arc<dyn StorageSystem>,
    cephfs: Arc<dyn StorageSystem>,
}

/// Makes the backends that store on Ceph. They share the clusters, and ask nothing of them yet.
fn on_ceph(ceph: &Ceph, host: Arc<dyn Kubernetes>, metrics: &Metrics) -> anyhow::Result<OnCeph> {
    let made =
        ceph.clusters.iter().map(|one| Cluster::new(&one.name, one.monitors.clone(), one.tools.clone()));
    let clusters = Clusters::new(made.collect::<Result<_, _>>()?, ceph.tools.clone());
    let admins: BTreeMap<_, _> =
        ceph.clusters.iter().filter_map(|one| Some((one.name.clone(), one.admin.clone()?))).collect();
    let settings = rbd::Settings { driver: RBD_DRIVER.to_owned(), admins: admins.clone() };
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
fn backends(
    settings: &Controller,
    nfs: Option<&Arc<dyn StorageSystem>>,
    on_ceph: Option<&OnCeph>,
) -> Backends {
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
    hostname: String,
    cluster: kube::Config,
    cluster_identity: ClusterIdentity,
    stop: CancellationToken,
) -> provisioner::Settings {
    let host_rights = rights::host(settings.cluster_id.is_none(), settings.ceph.is_some());
    let rbd = settings.provisioners.iter().any(|one| one.storage == Storage::Rbd);
    let attachers = if rbd { vec![RBD_DRIVER.to_owned()] } else { Vec::new() };
    let primary = settings.provisioners.first().map(|first| first.name.clone()).unwrap_or_default();
    let lease = settings.lease.map(|lock| lease::Settings {
        name: lock.name,
        duration: lock.duration,
        renew_deadline: lock.renew_deadline,
        retry_period: lock.retry_period,
        ..lease::Settings::new(&primary, &lock.namespace, &hostname)
    });
    let backoff = Backoff { min: settings.retry_min, max: settings.retry_max, slow: settings.retry_max };
    provisioner::Settings {
        cluster,
        hostname,
        namespace: settings.namespace,
        lease,
        clock: Clock::new(since_boot),
        cluster_identity,
        attachers,
        host_rights,
        workers: settings.workers,
        api_timeout: settings.api_timeout,
        rights_timeout: RIGHTS_TIMEOUT,
        backoff,
        sweep_interval: settings.sweep_interval,
        sweep_grace: settings.sweep_grace,
        shutdown_grace: settings.shutdown_grace,
        stop,
    }
}

/// Serves probes and metrics where the settings want them; the future ends only when the server fails.
///
/// An address that was asked for and cannot be had is an error. The default port may be taken, as it is on the network of a
/// node where another berth runs: then they are served as soon as it is free.
fn probes(
    settings: &Controller,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> anyhow::Result<impl Future<Output = std::io::Result<()>> + use<>> {
    let task = match settings.listen {
        Some(Listen { address, explicit }) => {
            let file = settings.listen_file.clone();
            let listener = match observe::listen(address) {
                Ok(listener) => Some(announce(listener, file.as_deref())?),
                Err(error) if !explicit && error.kind() == ErrorKind::AddrInUse => {
                    tracing::warn!(
                        %address,
                        "the port is in use: berth serves probes and metrics once it is free; choose another one \
                         with --listen"
                    );
                    None
                }
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("cannot listen on {address}; choose another address with --listen, or turn it off \
                            with --listen=off")
                    });
                }
            };
            let (metrics, stop) = (metrics.clone(), stop.clone());
            Some(tokio::spawn(async move {
                let listener = match listener {
                    Some(listener) => listener,
                    None => once_free(address, file.as_deref()).await?,
                };
                observe::serve(listener, metrics, stop).await
            }))
        }
        None => None,
    };
    Ok(async move {
        match task {
            Some(task) => task.await.map_err(std::io::Error::other)?,
            None => std::future::pending().await,
        }
    })
}

/// Says where probes and metrics are served, in the log and in the file of `--listen-file`.
fn announce(listener: TcpListener, file: Option<&Path>) -> anyhow::Result<TcpListener> {
    let address = listener.local_addr()?;
    tracing::info!(%address, "serving probes and metrics");
    if let Some(file) = file {
        tell(file, address).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(listener)
}

/// Waits until the address can be had.
async fn once_free(address: observe::Address, file: Option<&Path>) -> std::io::Result<TcpListener> {
    loop {
        tokio::time::sleep(LOOK_FOR_PORT_EVERY).await;
        match observe::listen(address) {
            Ok(listener) => return announce(listener, file).map_err(std::io::Error::other),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes the address into `file`, which is there completely or not at all.
fn tell(file: &Path, address: SocketAddr) -> std::io::Result<()> {
    let mut temporary = file.as_os_str().to_owned();
    temporary.push(".new");
    std::fs::write(&temporary, format!("{address}\n"))?;
    std::fs::rename(&temporary, file)
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
        (None, None) => kube::Config::incluster()
            .context("berth does not run in a pod with a service account; set --kubeconfig or KUBECONFIG")?,
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
