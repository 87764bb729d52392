//! Endpoints of an earlier agent.

use std::collections::BTreeSet;
use std::sync::Arc;

use axon_api::agent::EndpointDelete;
use axon_control::Ipam;
use axon_linux::device::{self, Device};
use axon_model::{Endpoint, EndpointState};

use super::create::pod;
use super::{Record, Records, Stage, addresses, owner, remove};
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
    for record in records.all() {
        for addr in addresses(&record.endpoint) {
            if let Err(error) = ipam.adopt(&owner(&record.endpoint), addr) {
                tracing::error!(
                    endpoint = record.endpoint.id,
                    error = chain(&error),
                    "two endpoints have one address"
                );
            }
        }
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
        let present = device_of(&record.endpoint, &devices);
        let Some(device) = present.filter(|_| record.stage == Stage::Made) else {
            tracing::info!(
                endpoint = record.endpoint.id,
                pod = pod(&record.endpoint),
                stage = ?record.stage,
                present = present.is_some(),
                "removing what an earlier agent left of an endpoint"
            );
            remove::undo(node, &indexed(record, &devices));
            continue;
        };
        let record = follow_name(node, record, device);
        let endpoint = &record.endpoint;
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
    let mut datapath = lock(&node.datapath);
    for ifindex in datapath.attached() {
        if kept.contains(&ifindex) {
            continue;
        }
        if let Some(device) = devices.iter().find(|d| d.ifindex == ifindex) {
            // Without a row nothing passes; without stubs everything would.
            tracing::error!(
                device = device.name,
                "nobody knows the endpoint of this device: it stays cut off"
            );
        } else if let Err(error) = datapath.detach_endpoint(ifindex) {
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

/// One in the making has not written its device's index down.
fn indexed(mut record: Record, devices: &[Device]) -> Record {
    let endpoint = &mut record.endpoint;
    let own = |d: &&Device| d.name == endpoint.interface && d.mac == Some(endpoint.node_mac);
    if let Some(device) = devices.iter().find(own).filter(|_| endpoint.ifindex == 0) {
        endpoint.ifindex = device.ifindex;
    }
    record
}

/// The device of an endpoint among these. Names are for people, and may be
/// changed by them: index and MAC address tell as well.
pub(crate) fn device_of<'a>(endpoint: &Endpoint, devices: &'a [Device]) -> Option<&'a Device> {
    devices.iter().find(|device| {
        let named = device.name == endpoint.interface;
        device.ifindex == endpoint.ifindex && (named || device.mac == Some(endpoint.node_mac))
    })
}

/// Follows a device that has got another name.
pub(super) fn follow_name(node: &Node, record: Record, device: &Device) -> Record {
    let endpoint = &record.endpoint;
    if endpoint.interface == device.name {
        return record;
    }
    tracing::warn!(
        endpoint = endpoint.id,
        pod = pod(endpoint),
        from = endpoint.interface,
        to = device.name,
        "endpoint's device has another name now"
    );
    let renamed = node
        .endpoints
        .records
        .update(&node.store, endpoint.id, |record| {
            record.endpoint.interface.clone_from(&device.name);
        });
    match renamed {
        Ok(Some(renamed)) => {
            node.observed.endpoints.write(|txn| {
                if let Some(mut row) = txn
                    .get(&renamed.endpoint.id)
                    .map(|row| Endpoint::clone(row))
                {
                    row.interface.clone_from(&device.name);
                    txn.insert(row.id, row);
                }
            });
            renamed
        }
        // What is on disk names a device that is gone; the index is right all the same.
        Ok(None) => record,
        Err(error) => {
            tracing::warn!(error = chain(&error), "the new name is not on disk");
            record
        }
    }
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
