//! What the kernel knows of services beside the rows that it is given.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axon_control::services::{Remembered, SeenNumbers};
use axon_linux::{MapError, Maps};

use crate::clock::monotonic_ms;
use crate::node::Node;
use crate::problem::chain;

/// Between two looks for numbers that nobody has any more.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// The greatest numbers in pinned rows: none of them is given another meaning,
/// also where what they stood for is lost.
pub(crate) fn seen(maps: &Maps) -> Result<SeenNumbers, MapError> {
    let mut seen = SeenNumbers::default();
    let up = |most: &mut u32, number: u32| *most = (*most).max(number);
    maps.service.for_each(|_, row| {
        up(&mut seen.port, row.service);
        up(&mut seen.generation, row.generation);
        for list in [row.internal, row.external] {
            up(&mut seen.list, list.list);
            up(&mut seen.table, list.maglev);
        }
    })?;
    maps.service_list.for_each(|key, block| {
        up(&mut seen.list, key.list);
        for id in block.backends {
            up(&mut seen.backend, id);
        }
    })?;
    maps.maglev
        .for_each(|key, _| up(&mut seen.table, key.table))?;
    maps.backend.for_each(|id, row| {
        up(&mut seen.backend, id);
        up(&mut seen.port, row.service);
    })?;
    maps.source_range
        .for_each(|key, _| up(&mut seen.port, key.service))?;
    maps.service_skip
        .for_each(|key, _| up(&mut seen.port, key.service))?;
    for number in remembered(maps)? {
        match number {
            Remembered::Port(port) => up(&mut seen.port, port),
            Remembered::Backend(id) => up(&mut seen.backend, id),
        }
    }
    Ok(seen)
}

/// The numbers that programs have written down: of clients with affinity and of
/// connected sockets.
fn remembered(maps: &Maps) -> Result<BTreeSet<Remembered>, MapError> {
    let mut known = BTreeSet::new();
    maps.service_affinity.for_each(|key, entry| {
        known.insert(Remembered::Port(key.service));
        known.insert(Remembered::Backend(entry.backend));
    })?;
    maps.socket.for_each(|_, entry| {
        known.insert(Remembered::Port(entry.service));
        known.insert(Remembered::Backend(entry.backend));
    })?;
    Ok(known)
}

/// Forgets numbers that nobody has any more and the kernel does not know, until
/// the agent stops.
pub(crate) async fn run(node: Arc<Node>) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(FORGET_EVERY) => {}
            () = node.stop.cancelled() => return Ok(()),
        }
        let due = node.engine.ask(|controller| {
            let numbers = &controller.persisted().services;
            numbers.has_gone(monotonic_ms())
        });
        if due.await != Some(true) {
            continue;
        }
        let reader = Arc::clone(&node);
        let known = tokio::task::spawn_blocking(move || remembered(&reader.maps)).await;
        match known {
            Ok(Ok(known)) => node.engine.tell(move |controller| {
                // Who chose since cannot have chosen what was gone a minute ago.
                let is_known = |number| known.contains(&number);
                controller.forget_services(monotonic_ms(), is_known);
            }),
            Ok(Err(error)) => {
                tracing::warn!(error = chain(&error), "services are not forgotten");
            }
            Err(error) => tracing::warn!(%error, "services are not forgotten"),
        }
    }
}
