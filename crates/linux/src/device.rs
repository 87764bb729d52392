//! Facts about the devices of the present network namespace.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use axon_model::Mac;

use crate::link::LinkError;

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Device {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its kind (`veth`, `bridge`); empty for hardware.
    pub kind: String,
    /// Its MTU.
    pub mtu: u32,
    /// Its MAC address, if it has one.
    pub mac: Option<Mac>,
    /// Whether it is up.
    pub up: bool,
    /// Whether it is the loopback device.
    pub loopback: bool,
    /// Its addresses with their prefix lengths, link-local ones too.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// Every device.
///
/// # Errors
/// [`LinkError::Netlink`].
pub fn list() -> Result<Vec<Device>, LinkError> {
    Ok(Vec::new())
}

/// Indexes of the devices that default routes leave by (both families, main
/// table).
///
/// # Errors
/// [`LinkError::Netlink`].
pub fn with_default_route() -> Result<Vec<u32>, LinkError> {
    Ok(Vec::new())
}

/// Names of the devices that carry the node's traffic: those with a default
/// route or with one of the node's addresses, never endpoints' or loopback.
///
/// # Errors
/// [`LinkError::Netlink`].
pub fn detect_uplinks(_node_addresses: &[IpAddr]) -> Result<Vec<String>, LinkError> {
    Ok(Vec::new())
}

/// Tells when links, addresses or routes change.
#[derive(Debug)]
pub struct Watch {
    fd: OwnedFd,
}

impl Watch {
    /// Starts watching the present network namespace.
    ///
    /// # Errors
    /// [`LinkError::Netlink`].
    pub fn new() -> Result<Self, LinkError> {
        Err(LinkError::Netlink {
            what: String::new(),
            source: std::io::Error::other("none"),
        })
    }

    /// Waits for a change, at most so long; says whether there was one. What
    /// changed is found by asking again: notices may be lost, facts are not.
    ///
    /// # Errors
    /// [`LinkError::Netlink`].
    pub fn wait(&mut self, _timeout: Duration) -> Result<bool, LinkError> {
        Ok(false)
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
