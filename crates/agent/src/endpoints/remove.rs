//! CNI DEL and GC, and endpoints whose devices are gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axon_api::agent::{EndpointDelete, EndpointGc};
use axon_linux::device::Device;
use axon_linux::link;

use super::create::{blocking, pod};
use super::request::{attachment, device};
use super::restore::{device_of, follow_name};
use super::{Record, Stage, addresses, disk, release};
use crate::node::{Node, lock};
use crate::problem::{Refusal, chain};

/// How long a removal waits until the kernel has no row of the endpoint. Then
/// its device goes all the same: nothing can be sent by it or to it any more.
const ROWS_GONE_TIMEOUT: Duration = Duration::from_secs(5);

/// Container ids of `axon run`, which no CNI runtime knows of.
const RUN_PREFIX: &str = "run-";

/// Takes away the endpoints of an attachment, or of every attachment of a
/// container; says how many. None is no error.
pub(crate) async fn delete(node: Arc<Node>, request: EndpointDelete) -> Result<usize, Refusal> {
    attachment("container-id", &request.container_id)?;
    if !request.interface.is_empty() {
        device("interface", &request.interface)?;
    }
    let _turn = node.endpoints.alone(&request.container_id).await;
    remove_meant(&node, &request).await
}

/// The same, with the container's turn already taken.
pub(super) async fn remove_meant(
    node: &Arc<Node>,
    request: &EndpointDelete,
) -> Result<usize, Refusal> {
    let meant = |record: &Record| {
        let endpoint = &record.endpoint;
        endpoint.container_id == request.container_id
            && (request.interface.is_empty() || endpoint.container_interface == request.interface)
    };
    let mut removed = 0;
    for record in node.endpoints.records.all().iter().filter(|r| meant(r)) {
        remove(node, record).await?;
        removed += 1;
    }
    if removed == 0 && !request.interface.is_empty() {
        let (node, request) = (Arc::clone(node), request.clone());
        blocking(move || remove_unrecorded(&node, &request)).await?;
    }
    Ok(removed)
}

/// Takes away the device of an attachment whose record was lost with the state
/// directory, or a file of it.
fn remove_unrecorded(node: &Node, request: &EndpointDelete) -> Result<(), Refusal> {
    let name = link::host_name(&request.container_id, &request.interface);
    let records = node.endpoints.records.all();
    if records.iter().any(|r| r.endpoint.interface == name) {
        return Ok(());
    }
    link::delete(&name)
        .map_err(|error| Refusal::node(chain(&error), "ask again; see the agent's log"))
}

/// Takes away every endpoint whose attachment is not named; says which.
pub(crate) async fn gc(
    node: Arc<Node>,
    request: EndpointGc,
) -> Result<Vec<EndpointDelete>, Refusal> {
    for valid in &request.valid {
        attachment("valid.container-id", &valid.container_id)?;
    }
    let valid: BTreeSet<(String, String)> = request
        .valid
        .into_iter()
        .map(|a| (a.container_id, a.interface))
        .collect();
    let mut removed = Vec::new();
    for record in node.endpoints.records.all() {
        let container = record.endpoint.container_id.clone();
        let interface = record.endpoint.container_interface.clone();
        let named = [interface.clone(), String::new()]
            .into_iter()
            .any(|interface| valid.contains(&(container.clone(), interface)));
        if named || record.stage == Stage::Making || container.starts_with(RUN_PREFIX) {
            continue;
        }
        let stale = EndpointDelete {
            container_id: container,
            interface,
        };
        if delete(Arc::clone(&node), stale.clone()).await? > 0 {
            removed.push(stale);
        }
    }
    Ok(removed)
}

/// Takes away endpoints whose device is none of these: their namespaces are
/// gone, and the index may be given to another device.
pub(crate) async fn remove_vanished(node: &Arc<Node>, records: Vec<Record>, devices: &[Device]) {
    for record in records {
        let endpoint = &record.endpoint;
        if record.stage != Stage::Made {
            continue;
        }
        let device = device_of(endpoint, devices);
        if device.is_some_and(|device| device.name == endpoint.interface) {
            continue;
        }
        let _turn = node.endpoints.alone(&endpoint.container_id).await;
        // Somebody may have been quicker.
        if node.endpoints.records.get(endpoint.id).as_ref() != Some(&record) {
            continue;
        }
        if let Some(device) = device {
            follow_name(node, record, device);
            continue;
        }
        tracing::warn!(
            endpoint = endpoint.id,
            pod = pod(endpoint),
            device = endpoint.interface,
            "endpoint's device is gone; removing the endpoint"
        );
        if let Err(error) = remove(node, &record).await {
            tracing::error!(endpoint = endpoint.id, %error, "endpoint is not removed");
        }
    }
}

/// Takes an endpoint away: its row first, so that its address is nobody's
/// before it can be somebody else's.
pub(super) async fn remove(node: &Arc<Node>, record: &Record) -> Result<(), Refusal> {
    let id = record.endpoint.id;
    blocking({
        let node = Arc::clone(node);
        move || {
            let left = node
                .endpoints
                .records
                .update(&node.store, id, |record| record.stage = Stage::Leaving);
            left.map_err(|error| disk(&error))?;
            node.observed.endpoints.write(|txn| txn.remove(&id));
            Ok(())
        }
    })
    .await?;
    let mut view = node.view.clone();
    let gone = view.wait_for(|view| !view.endpoints.contains_key(&id));
    let gone = matches!(
        tokio::time::timeout(ROWS_GONE_TIMEOUT, gone).await,
        Ok(Ok(_))
    );
    if !gone {
        tracing::warn!(
            endpoint = id,
            "endpoint's rows are still there; its device goes first"
        );
    }
    let (node, record) = (Arc::clone(node), record.clone());
    blocking(move || finish(&node, &record)).await
}

/// Undoes what an ADD has begun, before there was a row. What does not work
/// stays on disk, for the next ADD, DEL or agent.
pub(super) fn undo(node: &Node, record: &Record) {
    if let Err(error) = finish(node, record) {
        tracing::warn!(endpoint = record.endpoint.id, %error, "endpoint is not wholly undone");
    }
}

/// Devices, connections, addresses, file: in this order, so that nothing is
/// forgotten that is still there.
pub(super) fn finish(node: &Node, record: &Record) -> Result<(), Refusal> {
    let endpoint = &record.endpoint;
    let flush = node.flusher.begin(endpoint.id, addresses(endpoint));
    // Somebody may have given it another name, which nobody has told us yet.
    link::delete_own(endpoint.ifindex, &endpoint.interface, endpoint.node_mac)
        .map_err(|error| Refusal::node(chain(&error), "ask again; see the agent's log"))?;
    // The stubs went with their device.
    if endpoint.ifindex != 0
        && let Err(error) = lock(&node.datapath).forget_endpoint(endpoint.ifindex)
    {
        tracing::warn!(
            endpoint = endpoint.id,
            error = chain(&error),
            "pins of stubs are not removed"
        );
    }
    if let Err(error) = flush.wait() {
        // They are flushed again before the address is given away.
        tracing::warn!(endpoint = endpoint.id, error, "connections are not flushed");
    }
    release(node, endpoint).map_err(|error| disk(&error))?;
    node.endpoints
        .records
        .remove(&node.store, endpoint.id)
        .map_err(|error| disk(&error))?;
    tracing::info!(
        endpoint = endpoint.id,
        pod = pod(endpoint),
        "endpoint is removed"
    );
    Ok(())
}
