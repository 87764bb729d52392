//! Endpoints of an earlier agent.

use std::collections::BTreeSet;
use std::sync::Arc;

use axon_api::agent::EndpointDelete;
use axon_control::Ipam;
use axon_linux::device;
use axon_model::EndpointState;

use super::create::pod;
use super::{Record, Records, Stage, owner, remove};
use crate::node::{Node, lock};
use crate::problem::{Refusal, chain};
use crate::store::{ENDPOINTS, IPAM, Store, StoreError};

/// Reads what is on disk. A file that cannot be understood is told and left
/// out; the other endpoints stay.
///
/// # Errors
/// The disk cannot be read.
pub(crate) fn load(store: &Store) -> Result<(Records, Ipam), StoreError> {
    let records = Records::default();
    store.tidy(".")?;
    store.tidy(ENDPOINTS)?;
    for name in store.list(ENDPOINTS)? {
        if let Some(record) = readable::<Record>(store.read(&name))? {
            records.adopt(record);
        }
    }
    let mut ipam = readable(store.read::<Ipam>(IPAM))?.unwrap_or_default();
    let owners: BTreeSet<String> = records.all().iter().map(|r| owner(&r.endpoint)).collect();
    let leaked: BTreeSet<String> = ipam
        .iter()
        .map(|(_, owner)| owner.to_owned())
        .filter(|owner| !owners.contains(owner))
        .collect();
    for owner in leaked {
        tracing::info!(
            owner,
            "addresses of an endpoint that was never made are free again"
        );
        ipam.release(&owner);
    }
    Ok((records, ipam))
}

/// What is corrupt is as good as absent, but never silently.
pub(crate) fn readable<T>(read: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Err(error @ StoreError::Corrupt { .. }) => {
            tracing::error!(error = chain(&error), "state is lost");
            Ok(None)
        }
        read => read,
    }
}

/// Brings the endpoints of an earlier agent back: those that were made stay as
/// they are, those half made or half removed go.
///
/// # Errors
/// The devices cannot be listed.
pub(crate) fn restore(node: &Node) -> anyhow::Result<()> {
    let devices = device::list()?;
    let mut kept = BTreeSet::new();
    for record in node.endpoints.records.all() {
        let endpoint = &record.endpoint;
        let present = devices
            .iter()
            .any(|d| d.ifindex == endpoint.ifindex && d.name == endpoint.interface);
        if record.stage != Stage::Made || !present {
            tracing::info!(
                endpoint = endpoint.id,
                pod = pod(endpoint),
                stage = ?record.stage,
                present,
                "removing what an earlier agent left of an endpoint"
            );
            remove::undo(node, &record);
            continue;
        }
        if let Err(error) = lock(&node.datapath).attach_endpoint_at_once(endpoint.ifindex) {
            tracing::error!(
                endpoint = endpoint.id,
                error = chain(&error),
                "stubs are missing"
            );
        }
        kept.insert(endpoint.ifindex);
        let mut row = endpoint.clone();
        row.state = EndpointState::Restoring;
        node.observed.endpoints.write(|txn| txn.insert(row.id, row));
    }
    // A source like the others: from now on absence means something.
    node.observed.endpoints.mark_complete();
    let uplinks: BTreeSet<u32> = node
        .uplinks
        .borrow()
        .devices
        .iter()
        .map(|d| d.ifindex)
        .collect();
    let mut datapath = lock(&node.datapath);
    for ifindex in datapath.attached() {
        if !kept.contains(&ifindex)
            && !uplinks.contains(&ifindex)
            && let Err(error) = datapath.detach_endpoint(ifindex)
        {
            tracing::warn!(
                ifindex,
                error = chain(&error),
                "stale stubs are not detached"
            );
        }
    }
    tracing::info!(endpoints = kept.len(), "endpoints are restored");
    Ok(())
}

/// Carries out the DELs that came while no agent was there.
pub(crate) async fn carry_out_queue(node: &Arc<Node>) {
    let names = match node.queue.list(".") {
        Ok(names) => names,
        Err(error) => {
            tracing::warn!(error = chain(&error), "queued deletions cannot be read");
            return;
        }
    };
    for name in names {
        let request = match readable(node.queue.read::<EndpointDelete>(&name)) {
            Ok(Some(request)) => request,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(error = chain(&error), "a queued deletion cannot be read");
                continue;
            }
        };
        let _turn = node.endpoints.alone(&request.container_id).await;
        // An ADD may have been quicker: what it has made is not meant.
        if node.queue.has(&name)
            && let Err(refusal) = carry_out(node, &name, &request).await
        {
            let container = request.container_id;
            tracing::warn!(container, error = %refusal, "queued deletion waits");
        }
    }
}

/// Carries out what is queued for an attachment that is about to be made: it
/// is older, and must not hit what comes now. The container's turn is taken.
pub(super) async fn carry_out_first(
    node: &Arc<Node>,
    request: EndpointDelete,
) -> Result<(), Refusal> {
    let name = request.queue_file();
    if node.queue.has(&name) {
        carry_out(node, &name, &request).await?;
    }
    Ok(())
}

async fn carry_out(node: &Arc<Node>, name: &str, request: &EndpointDelete) -> Result<(), Refusal> {
    let container = &request.container_id;
    let removed = super::remove::remove_meant(node, request).await?;
    tracing::info!(container, removed, "queued deletion is carried out");
    if let Err(error) = node.queue.remove(name) {
        tracing::warn!(error = chain(&error), "a queued deletion cannot be removed");
    }
    Ok(())
}
