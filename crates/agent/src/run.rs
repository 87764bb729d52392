//! The order in which an agent comes and goes.
//!
//! ```text
//! lock ──> what is on disk ──> what is pinned ──> endpoints back ──> sources
//!                                      └── or, of the node itself, kept
//!      ──> control loop ──> API ──> ready ──> … ──> SIGTERM: API, then loop; the kernel stays
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, anyhow};
use axon_sources::{DirectorySource, SourceHandle};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::checks::Checks;
use crate::endpoints::{self, Endpoints, Flusher, Records};
use crate::engine::{Engine, EngineHandle, Inbox, View};
use crate::flows::Flows;
use crate::journal::Journal;
use crate::keeper::Keeper;
use crate::kept::{Kept, Setting};
use crate::metrics::Metrics;
use crate::names::Namer;
use crate::node::{Node, lock};
use crate::services::ServiceRows;
use crate::staged::Rehearsed;
use crate::status::Neighbours;
use crate::store::Store;
use crate::sweep::{Pressure, SweepState};
use crate::uplinks::Uplinks;
use crate::{
    Config, checks, flows, guard, health, http, notify_systemd, queue, services, settle, setup,
    sockets, sweep, told, uplinks,
};

/// How long requests may still take when the agent is told to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// Everything that serves somebody outside.
struct Listeners {
    api: UnixListener,
    /// Goes last, also where the agent does not get as far as to serve.
    file: http::SocketFile,
    health: Option<TcpListener>,
    metrics: Option<TcpListener>,
}

/// Everything that a node's agent is made of, before it runs.
struct Parts {
    node: Arc<Node>,
    engine: Engine,
    inbox: Inbox,
    events: axon_linux::EventReader,
    uplinks: watch::Sender<Arc<Uplinks>>,
    source: SourceHandle,
    /// When numbers of services are to be forgotten.
    forget: watch::Receiver<Option<u64>>,
}

/// Runs the agent until it is told to stop.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    tracing::info!(
        node = config.node_name,
        cluster = config.cluster_name,
        version = env!("CARGO_PKG_VERSION"),
        "agent starts"
    );
    let store = Store::open(&config.paths.state)?;
    let listeners = listen(&config).await?;
    let runtime = tokio::runtime::Handle::current();
    let parts = tokio::task::spawn_blocking(move || {
        // Sources start their tasks in this runtime.
        let _entered = runtime.enter();
        assemble(config, store)
    });
    let parts = parts.await.context("starting broke")??;
    serve(parts, listeners).await
}

async fn listen(config: &Config) -> anyhow::Result<Listeners> {
    let (api, file) = http::bind(&config.paths.socket, &config.paths.socket_group)?;
    Ok(Listeners {
        api,
        file,
        health: match config.health_port {
            Some(port) => Some(health::listen_health(port).await?),
            None => None,
        },
        metrics: match config.prometheus {
            Some(address) => Some(health::listen_metrics(address).await?),
            None => None,
        },
    })
}

/// Takes over what an earlier agent has left, and introduces the parts to each
/// other. Nothing of what is in force changes here.
fn assemble(config: Config, store: Store) -> anyhow::Result<Parts> {
    let queue = Store::shared(&queue::directory(&config.paths.socket))?;
    let (records, ipam) = endpoints::load(&store)?;
    let kept = Kept::read(&config);
    let observed = axon_model::Observed::default();
    // Nobody hears name servers yet: that is all there is to know of names.
    observed.names.mark_complete();
    let facts = Arc::new(uplinks::look(&config, &observed, kept.uplinks())?);
    let host_id = host_id(&config, &records, &store)?;
    let datapath = setup::datapath(&config, &facts, |maps| {
        kept.put_in_force((&config, host_id), &facts, &store, maps);
    })?;
    let (journal, persisted) = Journal::open(&store)?;
    let (service_journal, numbers) = Journal::open(&store)?;
    let maps = datapath.maps().clone();
    let known = (persisted, numbers);
    let mut controller = setup::controller(&config, &facts, &maps, known, (&records, host_id));
    let (services, forget) = ServiceRows::new(service_journal);
    let checks = Checks::new(controller.service_tables().health.clone());
    let desired = axon_model::Desired {
        services: controller.desired_services(),
        ..axon_model::Desired::default()
    };
    controller.set_host_audit(endpoints::host_audit(&store)?);
    let trials = setup::trials(&config, &mut controller)?;
    let (handle, inbox) = EngineHandle::new();
    setup::wake_on_changes(&observed, &handle);
    let stop = CancellationToken::new();
    let source = DirectorySource::spawn(setup::source(&config)?, observed.clone(), stop.clone());
    let (view, seen) = watch::channel(Arc::new(View::default()));
    let (uplinks, known_uplinks) = watch::channel(facts);
    let names = Arc::new(arc_swap::ArcSwap::default());
    let staged = Arc::new(Rehearsed::default());
    let events = datapath.events()?;
    let engine = Engine {
        controller,
        reconciler: setup::reconciler(maps.clone()),
        observed: observed.clone(),
        desired: desired.clone(),
        records: records.clone(),
        names: Arc::clone(&names),
        staged: Arc::clone(&staged),
        namer: Namer::default(),
        node_name: config.node_name.as_str().into(),
        host_id,
        trials,
        keeper: keeper(&config)?,
        uplinks: known_uplinks.clone(),
        view,
        journal,
        persist_due: false,
        reconciled: axon_linux::ReconcileReport::default(),
        services,
        full_due_ms: 0,
        complete: false,
    };
    let node = Arc::new(Node {
        endpoints: Endpoints::new(records, ipam),
        sweeper: Mutex::new(axon_linux::Sweeper::new(maps.clone())),
        flusher: Flusher::start(axon_linux::Sweeper::new(maps.clone()))?,
        sweeps: Mutex::new(SweepState::default()),
        pressure: Pressure::default(),
        guard: Mutex::default(),
        neighbours: Neighbours::default(),
        checks,
        datapath: Mutex::new(datapath),
        engine: handle,
        view: seen,
        sources: source.watch(),
        uplinks: known_uplinks,
        flows: Flows::new(),
        metrics: Metrics::new(),
        ready: AtomicBool::new(false),
        config,
        observed,
        desired,
        store,
        queue,
        maps,
        names,
        staged,
        stop,
    });
    endpoints::restore(&node)?;
    Ok(Parts {
        node,
        engine,
        inbox,
        events,
        uplinks,
        source,
        forget,
    })
}

/// The node's own number among the endpoints; 0 where policy is not enforced on
/// it.
fn host_id(config: &Config, records: &Records, store: &Store) -> anyhow::Result<u16> {
    if !config.firewall.enabled {
        return Ok(0);
    }
    let id = records.host(store)?;
    id.ok_or_else(|| anyhow!("every number of endpoints is taken, and none left for the node"))
}

/// Keeps what holds the node itself for the next start, where it has a firewall.
fn keeper(config: &Config) -> anyhow::Result<Option<Keeper>> {
    if !config.firewall.enabled {
        return Ok(None);
    }
    let keeper = Keeper::start(config.paths.lib.clone(), Setting::of(config))?;
    Ok(Some(keeper))
}

/// Puts in force what held the node itself before it was started anew, and ends.
/// What is in the kernel then is the agent's that comes.
pub(crate) fn restore(config: &Config) -> anyhow::Result<()> {
    let store = Store::open(&config.paths.state)?;
    let kept = Kept::read(config);
    if matches!(kept, Kept::Nothing) {
        tracing::info!("no policy for the node itself is kept");
        return Ok(());
    }
    let (records, _) = endpoints::load(&store)?;
    let host_id = host_id(config, &records, &store)?;
    let nobody = axon_model::Observed::default();
    let facts = uplinks::look(config, &nobody, kept.uplinks())?;
    setup::datapath(config, &facts, |maps| {
        kept.put_in_force((config, host_id), &facts, &store, maps);
    })?;
    Ok(())
}

/// Runs the parts until one of them breaks or somebody says stop.
async fn serve(parts: Parts, listeners: Listeners) -> anyhow::Result<()> {
    let Parts {
        node,
        engine,
        inbox,
        events,
        uplinks,
        source,
        forget,
    } = parts;
    let Listeners {
        api,
        file,
        health,
        metrics,
    } = listeners;
    let engine_stop = Arc::new(AtomicBool::new(false));
    let mut engine = tokio::task::spawn_blocking({
        let (node, stop) = (Arc::clone(&node), Arc::clone(&engine_stop));
        move || engine.run(&node.store, &inbox, &stop)
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(http::serve(Arc::clone(&node), api));
    if let Some(listener) = health {
        tasks.spawn(health::serve_health(Arc::clone(&node), listener));
    }
    if let Some(listener) = metrics {
        tasks.spawn(health::serve_metrics(Arc::clone(&node), listener));
    }
    tasks.spawn(flows::run(Arc::clone(&node), events));
    tasks.spawn(uplinks::run(Arc::clone(&node), uplinks));
    tasks.spawn(queue::run(Arc::clone(&node)));
    tasks.spawn(sweep::run(Arc::clone(&node)));
    tasks.spawn(services::run(Arc::clone(&node), forget));
    tasks.spawn(checks::run(Arc::clone(&node)));
    tasks.spawn(sockets::run(Arc::clone(&node)));
    tasks.spawn(settle::run(Arc::clone(&node)));
    tasks.spawn(guard::run(Arc::clone(&node)));
    tasks.spawn(told::run(Arc::clone(&node)));
    tasks.spawn(announce(Arc::clone(&node)));
    tasks.spawn(follow(source));
    let result = tokio::select! {
        () = told_to_stop() => Ok(()),
        ended = &mut engine => Err(match ended {
            Ok(()) => anyhow!("the control loop has ended"),
            Err(error) => anyhow!("the control loop broke: {error}"),
        }),
        broken = first_broken(&mut tasks) => Err(broken),
    };
    tracing::info!("agent stops; what is in the kernel stays in force");
    notify_systemd("STOPPING=1");
    node.stop.cancel();
    // Requests first: they need the control loop.
    let drained = tokio::time::timeout(DRAIN, async { while tasks.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::warn!("requests take too long; the next agent undoes what is half done");
    }
    engine_stop.store(true, Ordering::Release);
    node.engine.wake();
    if !engine.is_finished() {
        let _ = engine.await;
    }
    drop(file);
    result
}

async fn told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        // Without handlers the signals end the process, which is as good.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM"),
        _ = interrupt.recv() => tracing::info!("SIGINT"),
    }
}

/// The first task that ends otherwise than well.
async fn first_broken(tasks: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Error {
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(error) => return anyhow!("a part of the agent broke: {error}"),
        }
    }
    std::future::pending().await
}

/// Waits for a source that breaks: without it no policy is taken any more, and
/// the next agent may do better.
async fn follow(source: SourceHandle) -> anyhow::Result<()> {
    Ok(source.join().await?)
}

/// Says that the agent is ready: its sources have told everything, and the
/// kernel has been brought up to date with it once.
async fn announce(node: Arc<Node>) -> anyhow::Result<()> {
    let mut sources = node.sources.clone();
    let mut view = node.view.clone();
    let ready = async {
        sources.wait_for(|status| status.complete).await.ok()?;
        // Answered between two passes, so that the next one sees everything.
        node.engine.ask(|_| ()).await?;
        let passes = view.borrow_and_update().passes;
        node.engine.wake();
        let seen = |v: &Arc<View>| v.passes > passes && v.persist_error.is_none();
        view.wait_for(seen).await.ok().map(|_| ())
    };
    tokio::select! {
        Some(()) = ready => {}
        () = node.stop.cancelled() => return Ok(()),
    }
    node.ready.store(true, Ordering::Release);
    tracing::info!(
        node = node.config.node_name,
        endpoints = node.observed.endpoints.snapshot().len(),
        generation = lock(&node.datapath).adoption().generation,
        "agent is ready"
    );
    notify_systemd("READY=1");
    Ok(())
}
