//! Endpoints of this node: from CNI ADD to CNI DEL, over restarts.
//!
//! ```text
//! ADD: addresses, number ──> file ──> devices, stubs ──> observed row ──> enforced ──> file
//!         Making                                                                      Made
//! DEL: file ──> no row ──> connections flushed ──> no devices ──> addresses, no file
//!     Leaving
//! ```
//!
//! The file is always ahead of the kernel: whatever moment an agent is killed
//! at, the next one finds what there may be, and finishes or undoes it.

mod check;
mod config;
mod create;
mod find;
mod flush;
mod records;
mod remove;
mod request;
mod restore;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axon_api::agent::EndpointCreate;
use axon_control::{Family, Ipam, IpamError};
use axon_linux::link::EndpointLink;
use axon_model::Endpoint;
use tokio::sync::{OwnedMutexGuard, watch};

use crate::config::Network;
use crate::node::{Node, lock};
use crate::problem::{Refusal, chain};
use crate::store::{IPAM, StoreError};

pub(crate) use check::check;
pub(crate) use config::{asked, host_audit, set_audit, set_host_audit, shown};
pub(crate) use create::create;
pub(crate) use find::find;
pub(crate) use flush::Flusher;
pub(crate) use records::{Record, Records, Stage};
pub(crate) use remove::{delete, gc, remove_vanished};
pub(crate) use restore::{carry_out_queue, device_of, load, readable, restore};

/// The endpoints with their addresses.
pub(crate) struct Endpoints {
    pub(crate) records: Records,
    pub(crate) ipam: Mutex<Ipam>,
    /// One thing at a time for each container.
    busy: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// When something was last begun.
    pub(crate) begun: watch::Sender<Instant>,
}

impl Endpoints {
    pub(crate) fn new(records: Records, ipam: Ipam) -> Self {
        Self {
            records,
            ipam: Mutex::new(ipam),
            busy: Mutex::default(),
            begun: watch::Sender::new(Instant::now()),
        }
    }

    /// Waits until nobody else works on a container.
    async fn alone(&self, container: &str) -> OwnedMutexGuard<()> {
        self.begun.send_replace(Instant::now());
        let turn = {
            let mut busy = lock(&self.busy);
            // Whoever still waits holds a second reference.
            busy.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(busy.entry(container.to_owned()).or_default())
        };
        turn.lock_owned().await
    }
}

/// Who has addresses: the attachment.
fn owner(endpoint: &Endpoint) -> String {
    format!("{}:{}", endpoint.container_id, endpoint.container_interface)
}

fn addresses(endpoint: &Endpoint) -> Vec<IpAddr> {
    let v4 = endpoint.ipv4.map(IpAddr::V4);
    v4.into_iter()
        .chain(endpoint.ipv6.map(IpAddr::V6))
        .collect()
}

fn link_of(record: &Record, network: &Network) -> EndpointLink {
    let endpoint = &record.endpoint;
    EndpointLink {
        host_name: endpoint.interface.clone(),
        container_name: endpoint.container_interface.clone(),
        host_mac: endpoint.node_mac,
        container_mac: endpoint.mac,
        mtu: record.mtu,
        ipv4: endpoint.ipv4,
        ipv6: endpoint.ipv6,
        big_tcp_ipv4: network.big_tcp_ipv4,
        big_tcp_ipv6: network.big_tcp_ipv6,
    }
}

/// Gives an attachment its addresses, on disk too.
fn allocate(node: &Node, owner: &str, request: &EndpointCreate) -> Result<Vec<IpAddr>, Refusal> {
    let pools = node
        .observed
        .nodes
        .get(&node.config.node_name)
        .map(|n| n.pod_cidrs.clone())
        .unwrap_or_default();
    let network = &node.config.network;
    let mut ipam = lock(&node.endpoints.ipam);
    ipam.set_pools(&pools);
    let mut given = Vec::new();
    for (family, v6, enabled) in [
        (Family::Ipv4, false, network.ipv4),
        (Family::Ipv6, true, network.ipv6),
    ] {
        let mut asked = request.ips.iter().copied();
        let asked = asked.find(|addr| addr.is_ipv6() == v6);
        if !enabled || (request.ips_only && asked.is_none()) {
            continue;
        }
        match ipam.allocate(owner, family, asked) {
            Ok(address) => given.push(address),
            // A node may have pod CIDRs of one family only.
            Err(IpamError::NoPool { .. }) if asked.is_none() => {}
            Err(error) => {
                ipam.release(owner);
                return Err(refused(&error));
            }
        }
    }
    if given.is_empty() {
        return Err(Refusal::not_yet(
            format!(
                "node {} has no pod CIDR of a family that is enabled",
                node.config.node_name
            ),
            "give the Node object spec.podCIDRs, in a directory that manifests-dir names",
        ));
    }
    if let Err(error) = node.store.write(IPAM, &*ipam) {
        ipam.release(owner);
        return Err(disk(&error));
    }
    Ok(given)
}

fn refused(error: &IpamError) -> Refusal {
    let text = error.to_string();
    match error {
        IpamError::NoPool { .. } => Refusal::not_yet(text, "give the Node object spec.podCIDRs"),
        IpamError::Exhausted { .. } => Refusal::exhausted(
            text,
            "delete endpoints that are not needed (axon endpoint list), or give the node a larger \
             pod CIDR",
        ),
        IpamError::OutsidePool { .. } | IpamError::Reserved { .. } => {
            Refusal::request(text, "ask for another address, or for none")
        }
        IpamError::InUse { .. } | IpamError::HasAnother { .. } => {
            Refusal::conflict(text, "ask for another address, or for none")
        }
    }
}

/// Takes an attachment's addresses back, on disk too.
fn release(node: &Node, endpoint: &Endpoint) -> Result<(), StoreError> {
    let mut ipam = lock(&node.endpoints.ipam);
    ipam.release(&owner(endpoint));
    node.store.write(IPAM, &*ipam).map(drop)
}

fn disk(error: &StoreError) -> Refusal {
    Refusal::node(
        chain(error),
        "see that the state-dir can be written and its disk is not full",
    )
}
