//! The Kubernetes loop: claims become volumes, released volumes are removed. Entered through [`run`].
//!
//! It watches claims, `PersistentVolume`s and classes, keeps of them only what decisions need (`cache`), and while it
//! leads works through one queue (`dispatcher`). Every decision is a pure function that returns a plan (`provision`, `reclaim`,
//! `expand`); the `reconcile` of the same room carries it out.
//!
//! It knows no storage system (a [`Backend`](crate::backend::Backend) does the work) and no CSI.

mod api;
mod attach;
mod cache;
mod class;
mod clock;
mod cluster;
mod cluster_identity;
mod context;
mod dispatcher;
pub mod events;
mod expand;
#[cfg(test)]
mod fixtures;
pub mod host;
mod kept_secrets;
mod key;
pub mod lease;
mod limits;
mod names;
mod objects;
mod persistent_volume;
mod provision;
pub mod queue;
mod reclaim;
mod register;
pub mod rights;
mod secret_waits;
mod settings;
#[cfg(test)]
mod stub;
mod sweep;
mod volume_state;
mod watch;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

pub use api::Error;
pub use class::PARAMETERS;
#[cfg(test)]
pub(crate) use class::options_of;
pub use cluster_identity::ClusterIdentity;
pub use host::KubernetesClient;
use kube::Client;
pub use settings::Settings;
use tokio::{task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::{context::Context, dispatcher::Dispatcher, rights::Monitor};
use crate::{
    backend::Backends,
    observe::{Leadership, Metrics},
};

/// How often the state is told and the heart beats.
const TICK: Duration = Duration::from_secs(2);
/// How long the last events may take at shutdown.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// Provisions, expands and removes volumes with `backends` until [`Settings::stop`] is cancelled, then ends what runs.
///
/// The state of the loop (synced, leading, queues, missing rights, stores) is told to `metrics`, which makes the probes
/// and the metrics of it.
pub async fn run(settings: Settings, backends: Backends, metrics: Metrics) -> Result<(), Error> {
    let failed = |source| Error::Client { url: settings.cluster.cluster_url.to_string(), source };
    let client = api::client(&settings.cluster, settings.api_timeout, &metrics, &settings.cluster_identity)
        .map_err(failed)?;
    let lease_client =
        settings.lease.as_ref().map(|lease| lease::client(&settings.cluster, lease, &metrics)).transpose();
    let election = settings.lease.clone().zip(lease_client.map_err(failed)?);
    serve(&settings, backends, metrics, client, election).await;
    Ok(())
}

/// The loop, over a client of any make.
async fn serve(
    settings: &Settings,
    backends: Backends,
    metrics: Metrics,
    client: Client,
    election: Option<(lease::Settings, Client)>,
) {
    let stop = &settings.stop;
    metrics.watch_stores(
        backends.distinct().into_iter().map(|ports| (ports.name(), Arc::clone(&ports.stores))).collect(),
    );
    let mut wanted = [rights::VOLUMES, settings.host_rights].concat();
    if !settings.attachers.is_empty() {
        wanted.extend_from_slice(rights::ATTACHMENTS);
    }
    if election.is_some() {
        wanted.extend_from_slice(rights::ELECTION);
    }
    let monitor = Monitor::start(client.clone(), &settings.namespace, wanted, settings.rights_timeout);
    let Some(monitor) = stop.run_until_cancelled(monitor).await else { return };
    let ctx = Context::new(settings, backends, metrics, &client, monitor);
    let mut watches = JoinSet::new();
    watches.spawn(watch::follow_all(Arc::clone(&ctx), client));
    if stop.run_until_cancelled(synced(&ctx)).await.is_none() {
        return;
    }
    let elector = match election {
        Some((lease, client)) => {
            let (_, volumes) = ctx.cache().sizes();
            lease::Elector::start(client, lease, settings.clock.clone(), volumes > 0)
        }
        None => lease::Elector::off(),
    };
    lead(settings, &ctx, &elector).await;
    tokio::join!(ctx.flush(LAST_EVENTS), elector.release());
    ctx.metrics.leadership(Leadership::Standby);
    watches.shutdown().await;
}

/// Waits for the first complete lists, and tells the backends what the volumes say of their stores.
async fn synced(ctx: &Context) {
    let mut synced = ctx.synced.subscribe();
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            // The sender is in `ctx`: waiting cannot fail.
            _ = synced.wait_for(|synced| *synced) => break,
            _ = tick.tick() => ctx.metrics.heartbeat(),
        }
    }
    // A store that only classes describe is known by them when its past is told.
    ctx.listed.store(true, Ordering::SeqCst);
    ctx.register_classes();
    ctx.expect_stores();
    let (claims, volumes) = ctx.cache().sizes();
    ctx.metrics.synced(true);
    tracing::info!(claims, volumes, "all informers have synced");
}

/// Works whenever this process leads, until it shall stop; then ends what runs.
async fn lead(settings: &Settings, ctx: &Arc<Context>, elector: &lease::Elector) {
    let mut states = elector.states();
    states.mark_changed();
    let mut rights = ctx.rights.rights();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut dispatcher: Option<Dispatcher> = None;
    loop {
        let ended = dispatcher.as_ref().map(|dispatcher| dispatcher.leadership.ended.clone());
        tokio::select! {
            () = settings.stop.cancelled() => break,
            () = lost(ended.as_ref()) => {
                tracing::warn!("lost the leader lock; dropping all running operations");
                if let Some(dispatcher) = dispatcher.take() {
                    dispatcher.end().await;
                }
                ctx.metrics.leadership(Leadership::Standby);
                states.mark_changed();
            }
            Ok(()) = states.changed() => {
                let state = states.borrow_and_update().clone();
                learn(elector, &settings.cluster_identity);
                match state {
                    lease::State::Leading(leadership) if dispatcher.is_none() && !leadership.ended.is_cancelled() => {
                        tracing::info!(lock = elector.status().lock, "leading");
                        ctx.metrics.leadership(Leadership::Leading);
                        dispatcher = Some(Dispatcher::begin(ctx, leadership, settings));
                    }
                    lease::State::Standby if dispatcher.is_none() => {
                        ctx.metrics.leadership(Leadership::Standby);
                    }
                    // What a running dispatcher has to do at the end of leadership begins with its token.
                    lease::State::Leading(_) | lease::State::Standby => {}
                }
            }
            Ok(()) = rights.changed() => ctx.adapt(&rights.borrow_and_update()),
            _ = tick.tick() => {
                learn(elector, &settings.cluster_identity);
                ctx.tell(dispatcher.as_ref().map(Dispatcher::load).unwrap_or_default());
            }
            () = work(dispatcher.as_mut()) => {}
        }
    }
    tracing::info!("shutting down: no new operations start");
    if let Some(dispatcher) = dispatcher {
        dispatcher.drain(settings.shutdown_grace).await;
    }
}

/// What the lock tells of the cluster is known before the work begins, and while another process leads.
fn learn(elector: &lease::Elector, cluster_identity: &ClusterIdentity) {
    if let Some(uid) = elector.lock_uid() {
        cluster_identity.lock(uid);
    }
}

/// Resolves when leadership has ended; never without it.
async fn lost(ended: Option<&CancellationToken>) {
    match ended {
        Some(ended) => ended.cancelled().await,
        None => std::future::pending().await,
    }
}

/// Does the next thing there is to do; nothing while this process does not lead.
async fn work(dispatcher: Option<&mut Dispatcher>) {
    match dispatcher {
        Some(dispatcher) => dispatcher.step().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
