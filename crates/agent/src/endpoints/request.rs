//! What an ADD asks for, before anything is made.

use std::path::Path;

use axon_api::agent::{CONTAINER_ID_MAX, EndpointCreate};
use axon_linux::netns;

use super::Refusal;
use crate::config::Network;
use crate::node::Node;

/// Refuses what makes no sense, and says what would.
pub(super) fn validate(node: &Node, request: &EndpointCreate) -> Result<(), Refusal> {
    attachment("container-id", &request.container_id)?;
    device("interface", &request.interface)?;
    namespace(&request.netns)?;
    whose(request)?;
    addresses(&node.config.network, request)?;
    mtu(&node.config.network, request.mtu)
}

/// The workload's own network namespace.
fn namespace(netns: &str) -> Result<(), Refusal> {
    let path = Path::new(netns);
    if !path.is_absolute() {
        return Err(Refusal::request(
            format!("netns {netns:?} is no absolute path"),
            "name the network namespace as /run/netns/NAME or /proc/PID/ns/net",
        ));
    }
    // Its devices and default routes would be replaced by a pod's.
    let of_node = netns::inode().and_then(|own| Ok(own == netns::inode_of(path)?));
    if of_node.unwrap_or(false) {
        return Err(Refusal::request(
            format!("netns {netns} is the node's own"),
            "give the workload a network namespace of its own",
        ));
    }
    Ok(())
}

/// A pod with its namespace, or a plain process with its labels.
fn whose(request: &EndpointCreate) -> Result<(), Refusal> {
    if request.namespace.is_empty() && !request.pod_name.is_empty() {
        return Err(Refusal::request(
            format!("pod-name {:?} without a namespace", request.pod_name),
            "give both for a pod; a plain process has no pod-name",
        ));
    }
    let printable = |c: char| c.is_ascii_graphic() && c != '/';
    let name = &request.process_name;
    let named = !request.pod_name.is_empty() && !name.is_empty();
    if named || name.len() > 64 || !name.chars().all(printable) {
        return Err(Refusal::request(
            format!("process-name {name:?} is none"),
            "give a plain process at most 64 printable letters without slash, and a pod none",
        ));
    }
    if !request.pod_name.is_empty() && !request.labels.is_empty() {
        return Err(Refusal::request(
            format!(
                "labels {} with pod-name {:?}",
                request.labels, request.pod_name
            ),
            "give no labels: a pod's come from its manifest",
        ));
    }
    Ok(())
}

/// At most one address of each family that is enabled, and at least one if it is to
/// have no other.
fn addresses(network: &Network, request: &EndpointCreate) -> Result<(), Refusal> {
    if request.ips_only && request.ips.is_empty() {
        return Err(Refusal::request(
            "ips-only without ips: it would have no address",
            "name the addresses that it is to have",
        ));
    }
    for v6 in [false, true] {
        let mut asked = request.ips.iter().filter(|addr| addr.is_ipv6() == v6);
        let enabled = if v6 { network.ipv6 } else { network.ipv4 };
        if let Some(first) = asked.next()
            && (!enabled || asked.next().is_some())
        {
            return Err(Refusal::request(
                format!("ips: {first} is one too many"),
                "ask for at most one address of each family that is enabled",
            ));
        }
    }
    Ok(())
}

/// An MTU that the enabled families can have; 0 is the node's.
fn mtu(network: &Network, mtu: u32) -> Result<(), Refusal> {
    let least = if network.ipv6 { 1280 } else { 576 };
    if mtu != 0 && !(least..=65535).contains(&mtu) {
        return Err(Refusal::request(
            format!("mtu {mtu} cannot be had"),
            format!("give 0 for the node's, or {least} to 65535"),
        ));
    }
    Ok(())
}

/// What the CNI specification allows as a container id.
pub(super) fn attachment(field: &str, id: &str) -> Result<(), Refusal> {
    let first = id.starts_with(|c: char| c.is_ascii_alphanumeric());
    let rest = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if first && id.len() <= CONTAINER_ID_MAX && id.chars().all(rest) {
        return Ok(());
    }
    Err(Refusal::request(
        format!("{field} {id:?} is none"),
        format!(
            "give 1 to {CONTAINER_ID_MAX} of A-Z, a-z, 0-9, _, . and -, beginning with a letter or \
             digit"
        ),
    ))
}

/// What the kernel and the CNI specification allow as a device's name.
pub(super) fn device(field: &str, name: &str) -> Result<(), Refusal> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if (1..=15).contains(&name.len()) && name != "." && name != ".." && !name.contains(bad) {
        return Ok(());
    }
    Err(Refusal::request(
        format!("{field} {name:?} is no name of a device"),
        "give 1 to 15 characters without slash, colon and white space",
    ))
}
