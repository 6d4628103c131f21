//! The server as its user sees it: started, steered, stopped.
//!
//! Entry point: [`ApiServer::start`]. The server runs on threads of its own, so that a test may block its own runtime.
//! Deliberately not here: requests (`http`), controllers (`controllers`).

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::json;
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    audit::Audit,
    controllers,
    faults::Faults,
    http::{Server, WatchControl, serve},
    objects::Objects,
    rbac::{self, Authorizer, Users},
    registry::{Registry, Switches},
    resource::Kind,
    store::Store,
};

/// Which parts of the control plane run beside the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Controllers {
    /// Writes the provisioner annotations on claims that wait for an external provisioner.
    pub annotator: bool,
    /// Binds volumes and claims, and releases volumes.
    pub binder: bool,
    /// Puts the protection finalizers on new claims and volumes, and takes them off when nothing uses them.
    pub protection: bool,
    /// Makes pods and claims of `StatefulSet`s.
    pub stateful_sets: bool,
    /// Deletes what has lost its owners.
    pub garbage_collector: bool,
    /// Makes a ready node, `node-1`, and chooses it for late-binding claims and for pods.
    pub scheduler: bool,
    /// Runs bound pods, and ends them when they are deleted.
    pub pods: bool,
    /// Empties namespaces that are deleted.
    pub namespaces: bool,
}

impl Controllers {
    /// All of them.
    #[must_use]
    pub fn all() -> Self {
        Self {
            annotator: true,
            binder: true,
            protection: true,
            stateful_sets: true,
            garbage_collector: true,
            scheduler: true,
            pods: true,
            namespaces: true,
        }
    }

    /// None of them: objects stay as clients write them.
    #[must_use]
    pub fn none() -> Self {
        Self {
            annotator: false,
            binder: false,
            protection: false,
            stateful_sets: false,
            garbage_collector: false,
            scheduler: false,
            pods: false,
            namespaces: false,
        }
    }
}

/// How the server is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// The version that it says it is.
    pub version: String,
    /// Whether it has streaming lists (`sendInitialEvents`); without, it refuses them as older servers do.
    pub watch_list: bool,
    /// How many changes of each kind a watch can resume over.
    pub history: usize,
    /// How often a watch that allows bookmarks gets one.
    pub bookmark_interval: Duration,
    /// Whether it keeps `metadata.managedFields`; server-side apply needs them.
    pub managed_fields: bool,
    /// The controllers that run beside it.
    pub controllers: Controllers,
    /// The threads that it runs on.
    pub threads: usize,
    /// The port on 127.0.0.1; 0 for any free one.
    pub port: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            version: "v1.37.0".into(),
            watch_list: true,
            history: 10_000,
            bookmark_interval: Duration::from_mins(1),
            managed_fields: true,
            controllers: Controllers::all(),
            threads: 2,
            port: 0,
        }
    }
}

/// Why the server cannot be started or listen again.
#[derive(Debug, thiserror::Error)]
#[error("the API server cannot {what}")]
pub struct StartError {
    what: String,
    source: std::io::Error,
}

struct Listening {
    stop: CancellationToken,
    ended: TaskTracker,
}

/// A running API server; dropping it stops everything.
pub struct ApiServer {
    server: Arc<Server>,
    address: SocketAddr,
    listening: Mutex<Option<Listening>>,
    stop: CancellationToken,
    runtime: Option<Runtime>,
}

impl ApiServer {
    /// Starts a server; when this returns it accepts connections.
    pub fn start(options: Options) -> Result<Self, StartError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.threads.max(1))
            .thread_name("apiserver")
            .enable_all()
            .build()
            .map_err(|source| StartError { what: "start its threads".into(), source })?;
        let switches =
            Switches { managed_fields: options.managed_fields, protection: options.controllers.protection };
        let server = Arc::new(Server {
            registry: Registry::new(Store::new(options.history), switches),
            users: Users::default(),
            authorizer: Authorizer::default(),
            faults: Faults::new(),
            audit: Audit::default(),
            version: options.version,
            watch_list: options.watch_list,
            bookmark_interval: options.bookmark_interval,
            watch_control: tokio::sync::watch::Sender::new(WatchControl::default()),
        });
        populate(&server.registry);
        server.users.add("admin", &[rbac::MASTERS.to_owned()]);
        let listener = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, options.port)))?;
        let address = listener
            .local_addr()
            .map_err(|source| StartError { what: "tell its own address".into(), source })?;
        let stop = CancellationToken::new();
        controllers::start(runtime.handle(), &server, &options.controllers, &stop);
        let started = Self { server, address, listening: Mutex::new(None), stop, runtime: Some(runtime) };
        started.listen(listener)?;
        Ok(started)
    }

    fn listen(&self, listener: std::net::TcpListener) -> Result<(), StartError> {
        let Some(runtime) = &self.runtime else { return Ok(()) };
        let guard = runtime.enter();
        let listener = TcpListener::from_std(listener)
            .map_err(|source| StartError { what: "use its listener".into(), source })?;
        drop(guard);
        let stop = self.stop.child_token();
        let ended = TaskTracker::new();
        ended.spawn_on(serve(Arc::clone(&self.server), listener, stop.clone()), runtime.handle());
        ended.close();
        *self.listening.lock().unwrap_or_else(PoisonError::into_inner) = Some(Listening { stop, ended });
        Ok(())
    }

    /// The address, as `http://127.0.0.1:PORT`; it stays the same through [`ApiServer::listen_again`].
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes a user known and answers its bearer token; the same name and groups get the same token again.
    ///
    /// Service accounts (`system:serviceaccount:NAMESPACE:NAME`) get the groups that their name implies, and everybody
    /// gets `system:authenticated`. Members of `system:masters` may do everything; what others may do is told by the
    /// stored Roles, `ClusterRoles` and bindings.
    pub fn add_user(&self, name: &str, groups: &[&str]) -> String {
        let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        self.server.users.add(name, &groups)
    }

    /// The token of a user that was added; `admin` is there from the start.
    #[must_use]
    pub fn token(&self, name: &str) -> Option<String> {
        self.server.users.token_of(name)
    }

    /// A kubeconfig for a user (added without groups if it is not known yet).
    ///
    /// The token is in the server's address too (`/as/TOKEN`), as kubectl sends none where there is no TLS.
    pub fn kubeconfig(&self, user: &str) -> String {
        let token = self.token(user).unwrap_or_else(|| self.add_user(user, &[]));
        // JSON is YAML.
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "embedded",
            "clusters": [{"name": "embedded", "cluster": {"server": format!("{}/as/{token}", self.url())}}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "embedded", "context": {"cluster": "embedded", "user": user, "namespace": "default"}}],
        });
        format!("{config:#}\n")
    }

    /// The faults in force.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.server.faults.clone()
    }

    /// The record of requests.
    #[must_use]
    pub fn audit(&self) -> Audit {
        self.server.audit.clone()
    }

    /// The objects, without HTTP.
    #[must_use]
    pub fn store(&self) -> Objects {
        let runtime = self.runtime.as_ref().map(|runtime| runtime.handle().clone());
        Objects::new(Arc::clone(&self.server), runtime)
    }

    /// Breaks all connections and refuses new ones; objects and history stay. A real server forgets its history when
    /// it restarts: for that, [`ApiServer::compact`] before [`ApiServer::listen_again`].
    pub fn stop_listening(&self) {
        let listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (Some(listening), Some(runtime)) = (listening, &self.runtime) else { return };
        listening.stop.cancel();
        let (done, wait) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            listening.ended.wait().await;
            let _ = done.send(());
        });
        // The connections end at once; the limit is for a machine that stands still.
        let _ = wait.recv_timeout(Duration::from_secs(30));
    }

    /// Listens again on the same port, as a restarted API server does.
    pub fn listen_again(&self) -> Result<(), StartError> {
        self.stop_listening();
        let mut last = None;
        for _ in 0..50 {
            match bind(self.address) {
                Ok(listener) => return self.listen(listener),
                Err(error) => last = Some(error),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        last.map_or(Ok(()), Err)
    }

    /// Ends all open watches, as a load balancer does: clients may resume where they were.
    pub fn cut_watches(&self) {
        self.control_watches(false);
    }

    /// Forgets the history and ends all open watches with `410`: clients have to list again.
    pub fn expire_watches(&self) {
        self.server.registry.store.compact();
        self.control_watches(true);
    }

    /// Forgets the history but leaves open watches alone: who comes later with an older version or continue token
    /// is refused with `410`.
    pub fn compact(&self) {
        self.server.registry.store.compact();
    }

    fn control_watches(&self, expired: bool) {
        self.server.watch_control.send_modify(|control| {
            control.epoch += 1;
            control.expired = expired;
        });
    }

    /// From now on lists and watches with `resourceVersion=0` begin with the state of this moment, as from a lagging
    /// cache; `false` ends it.
    pub fn serve_stale_lists(&self, stale: bool) {
        self.server.registry.store.freeze(stale);
    }

    /// Stops everything. Dropping the server does the same.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop.cancel();
        self.stop_listening();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn bind(address: SocketAddr) -> Result<std::net::TcpListener, StartError> {
    let error = |source| StartError { what: format!("listen on {address}"), source };
    let listener = std::net::TcpListener::bind(address).map_err(error)?;
    listener.set_nonblocking(true).map_err(error)?;
    Ok(listener)
}

/// What every cluster has.
fn populate(registry: &Registry) {
    let namespaces = ["default", "kube-node-lease", "kube-public", "kube-system"].map(|name| {
        let value = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
            "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"},
        });
        (Kind::Namespace, value)
    });
    for (kind, value) in namespaces.into_iter().chain(rbac::bootstrap()) {
        if let Err(status) = registry.insert(kind.resource(), value) {
            tracing::error!(%status, "a new cluster lacks one of its objects");
        }
    }
}
