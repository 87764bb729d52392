//! The node's own devices: which carry its traffic, their MTU and addresses.
//!
//! Watched, as they change without asking; endpoints whose device has gone are
//! noticed here too.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axon_linux::device::{self, Device, Watch};
use axon_linux::forwarding;
use axon_linux::link::LinkError;
use axon_model::Observed;
use tokio::sync::{Notify, watch};

use crate::Config;
use crate::endpoints;
use crate::node::{Node, lock};
use crate::problem::chain;
use crate::readiness::readable;

const MTU_WITHOUT_DEVICES: u32 = 1500;
/// Devices change in bursts.
const SETTLE: Duration = Duration::from_millis(50);

/// The node's devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Uplinks {
    pub(crate) devices: Vec<Device>,
    /// Named by the `devices` option, and not there.
    pub(crate) missing: Vec<String>,
    /// MTU of the pods.
    pub(crate) mtu: u32,
    /// Every address of the node.
    pub(crate) addresses: Vec<IpAddr>,
    /// Of each family the address with which packets leave by the devices.
    pub(crate) leaving: Vec<IpAddr>,
    /// Every address that devices have, the loopback's too.
    pub(crate) present: Vec<IpAddr>,
    /// Addresses that the Node object tells, and no device has.
    pub(crate) gone: Vec<IpAddr>,
    /// Why the node does not forward what its pods send; empty if it does.
    pub(crate) not_forwarding: String,
}

impl Uplinks {
    pub(crate) fn names(&self) -> Vec<String> {
        self.devices.iter().map(|d| d.name.clone()).collect()
    }
}

/// Looks at the devices as they are now. `before` are those that were the node's
/// last: of a node with a firewall they stay so while they have no address, as on
/// one that starts, and while the Node object, which tells by which address the
/// node's are found, is not known.
pub(crate) fn look(
    config: &Config,
    observed: &Observed,
    before: &[String],
) -> Result<Uplinks, LinkError> {
    let all = device::list()?;
    let node = observed.nodes.get(&config.node_name);
    let own: Vec<IpAddr> = node
        .iter()
        .flat_map(|node| [node.internal_ip(false), node.internal_ip(true)])
        .flatten()
        .collect();
    let present = present(&all);
    let wanted = if config.network.devices.is_empty() {
        let own: Vec<IpAddr> = node
            .iter()
            .flat_map(|node| node.addresses.iter().map(|a| a.addr))
            .collect();
        let mut found = device::detect_uplinks(&own)?;
        let held = before.iter().filter(|_| config.firewall.enabled);
        let held = held.filter(|name| stays(&all, name, node.is_some()));
        for name in held {
            if !found.contains(name) {
                found.push(name.clone());
            }
        }
        found
    } else {
        config.network.devices.clone()
    };
    let devices: Vec<Device> = all
        .iter()
        .filter(|d| wanted.contains(&d.name))
        .cloned()
        .collect();
    let missing = wanted
        .into_iter()
        .filter(|name| devices.iter().all(|d| d.name != *name))
        .collect();
    let least = devices
        .iter()
        .map(|d| d.mtu)
        .min()
        .unwrap_or(MTU_WITHOUT_DEVICES);
    Ok(Uplinks {
        mtu: if config.network.mtu == 0 {
            least
        } else {
            config.network.mtu
        },
        addresses: node_addresses(&all),
        leaving: leaving(&devices),
        gone: own.into_iter().filter(|a| !present.contains(a)).collect(),
        present,
        not_forwarding: forward(config),
        devices,
        missing,
    })
}

/// Whether a device that was an uplink may be one still, though it is not found: it
/// is there, and has no address, or it is not known by which address it would be.
fn stays(all: &[Device], name: &str, node_is_known: bool) -> bool {
    let device = all.iter().find(|d| d.name == name);
    device.is_some_and(|d| !node_is_known || unique_addresses(d).next().is_none())
}

/// Has the node forward what its pods send; why it does not, else empty.
fn forward(config: &Config) -> String {
    match forwarding::ensure(config.network.ipv4, config.network.ipv6) {
        Ok(switched) => {
            for setting in switched {
                tracing::info!(setting, "switched on, or pods would not leave the node");
            }
            String::new()
        }
        Err(error) => error.to_string(),
    }
}

/// Addresses of the node itself: of every device, as the kernel takes what is sent
/// to any of them whichever device brings it. The loopback's own are nobody's, and
/// those of IPv6 links, which are not unique, the datapath knows by themselves.
fn node_addresses(all: &[Device]) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = all
        .iter()
        .flat_map(|d| d.addresses.iter().map(|(addr, _)| *addr))
        .filter(|addr| match addr {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_unspecified(),
            IpAddr::V6(v6) => {
                !v6.is_loopback() && !v6.is_unspecified() && !v6.is_unicast_link_local()
            }
        })
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// Every address of every device.
fn present(all: &[Device]) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = all
        .iter()
        .flat_map(|d| d.addresses.iter().map(|(addr, _)| *addr))
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// Addresses of a device, in the kernel's order, without link-local ones.
fn unique_addresses(device: &Device) -> impl Iterator<Item = IpAddr> {
    let addresses = device.addresses.iter().map(|(addr, _)| *addr);
    addresses.filter(|addr| match addr {
        IpAddr::V4(v4) => !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    })
}

/// The first address of each family that the devices have, as the kernel would
/// take it for what leaves by them.
fn leaving(devices: &[Device]) -> Vec<IpAddr> {
    let of = |v6| {
        let mut addresses = devices.iter().flat_map(unique_addresses);
        addresses.find(|addr| addr.is_ipv6() == v6)
    };
    [false, true].into_iter().filter_map(of).collect()
}

/// Follows the devices until the agent stops.
pub(crate) async fn run(
    node: Arc<Node>,
    publish: watch::Sender<Arc<Uplinks>>,
) -> anyhow::Result<()> {
    let mut changes = readable(Watch::new()?)?;
    let nodes = Arc::<Notify>::default();
    let changed = Arc::clone(&nodes);
    node.observed.nodes.on_change(move || changed.notify_one());
    loop {
        refresh(&node, &publish).await;
        tokio::select! {
            ready = changes.readable_mut() => {
                let mut ready = ready?;
                ready.clear_ready();
                tokio::time::sleep(SETTLE).await;
                // What has come meanwhile is seen by the look that follows.
                while ready.get_inner_mut().wait(Duration::ZERO)? {}
            }
            // The Node object tells addresses by which devices are found.
            () = nodes.notified() => {}
            () = node.stop.cancelled() => return Ok(()),
        }
    }
}

async fn refresh(node: &Arc<Node>, publish: &watch::Sender<Arc<Uplinks>>) {
    // Before the devices: an endpoint that is made meanwhile is not looked at.
    let records = node.endpoints.records.all();
    let looking = Arc::clone(node);
    let before = publish.borrow().names();
    let looked = tokio::task::spawn_blocking(move || {
        let devices = device::list()?;
        Ok::<_, LinkError>((devices, look(&looking.config, &looking.observed, &before)?))
    });
    let (devices, uplinks) = match looked.await {
        Ok(Ok(facts)) => facts,
        Ok(Err(error)) => {
            tracing::warn!(error = chain(&error), "the node's devices cannot be listed");
            return;
        }
        Err(error) => {
            tracing::error!(%error, "looking at the devices broke");
            return;
        }
    };
    if **publish.borrow() != uplinks {
        apply(node, &uplinks);
        publish.send_replace(Arc::new(uplinks));
    }
    endpoints::remove_vanished(node, records, &devices).await;
}

/// Has the datapath and the controller go by new facts.
fn apply(node: &Node, uplinks: &Uplinks) {
    tracing::info!(
        devices = uplinks.names().join(","),
        mtu = uplinks.mtu,
        missing = uplinks.missing.join(","),
        "the node's devices"
    );
    if let Err(error) = lock(&node.datapath).set_uplinks(&uplinks.names()) {
        tracing::error!(
            error = chain(&error),
            "the node's devices are not attached to"
        );
    }
    let (addresses, leaving) = (uplinks.addresses.clone(), uplinks.leaving.clone());
    let present = uplinks.present.clone();
    let mtu = uplinks.mtu;
    node.engine.tell(move |controller| {
        controller.set_local_addresses(addresses);
        controller.set_leaving_addresses(leaving, present);
        controller.set_mtu(mtu);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, loopback: bool, addresses: &[&str]) -> Device {
        let addresses = addresses.iter().map(|text| text.parse().expect("address"));
        Device {
            name: name.to_owned(),
            loopback,
            addresses: addresses.map(|addr| (addr, 24)).collect(),
            ..Device::default()
        }
    }

    #[test]
    fn an_uplink_of_last_time_stays_until_it_is_known_to_be_none() {
        let all = [
            device("eth0", false, &["192.0.2.1", "fe80::1"]),
            device("eth1", false, &["fe80::2"]),
        ];
        let which = |known| ["eth0", "eth1", "eth2"].map(|name| stays(&all, name, known));
        assert_eq!(which(false), [true, true, false], "the Node is not known");
        assert_eq!(which(true), [false, true, false], "it is");
    }

    #[test]
    fn every_address_that_the_kernel_answers_for_is_the_nodes() {
        let all = [
            device(
                "lo",
                true,
                &["127.0.0.1", "127.0.0.53", "::1", "203.0.113.9"],
            ),
            device("eth0", false, &["192.0.2.1", "fe80::1", "169.254.7.7"]),
            device("lxcbr0", false, &["10.0.3.1", "2001:db8::3"]),
            device("again", false, &["192.0.2.1"]),
        ];
        let mut expected: Vec<IpAddr> = [
            "203.0.113.9",
            "192.0.2.1",
            "169.254.7.7",
            "10.0.3.1",
            "2001:db8::3",
        ]
        .iter()
        .map(|text| text.parse().expect("address"))
        .collect();
        expected.sort();
        assert_eq!(node_addresses(&all), expected);
        // A pod's packets never leave with an address of the link alone.
        assert_eq!(leaving(&all[1..2]), [IpAddr::from([192, 0, 2, 1])]);
    }
}
