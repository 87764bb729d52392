//! Facts about the devices of the present network namespace.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use axon_model::Mac;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::link::{LinkError, is_host_name};
use crate::netlink::{Netlink, get_routes, read_route};

const TABLE_MAIN: u32 = 254;

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
    /// Whether somebody is at its other end: a bridge without ports is up, and
    /// does not run.
    pub running: bool,
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
    let mut netlink = Netlink::open()?;
    let mut devices = links(&mut netlink)?;
    let addresses = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    for answer in netlink.dump("listing addresses", &addresses)? {
        let RouteNetlinkMessage::NewAddress(message) = answer else {
            continue;
        };
        let device = devices
            .iter_mut()
            .find(|device| device.ifindex == message.header.index);
        if let (Some(device), Some(addr)) = (device, read_address(&message)) {
            device.addresses.push((addr, message.header.prefix_len));
        }
    }
    Ok(devices)
}

/// Every device, without addresses.
///
/// # Errors
/// [`LinkError::Netlink`].
pub fn list_links() -> Result<Vec<Device>, LinkError> {
    links(&mut Netlink::open()?)
}

fn links(netlink: &mut Netlink) -> Result<Vec<Device>, LinkError> {
    let mut asked = LinkMessage::default();
    // Counters are most of the work of an answer.
    let brief = vec![LinkExtentMask::SkipStats];
    asked.attributes.push(LinkAttribute::ExtMask(brief));
    let answers = netlink.dump("listing devices", &RouteNetlinkMessage::GetLink(asked))?;
    let links = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(read_link(link)),
        _ => None,
    });
    Ok(links.collect())
}

fn read_link(link: LinkMessage) -> Device {
    let mut device = Device {
        ifindex: link.header.index,
        up: link.header.flags.contains(LinkFlags::Up),
        running: link.header.flags.contains(LinkFlags::Running),
        loopback: link.header.link_layer_type == LinkLayerType::Loopback,
        ..Device::default()
    };
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => device.name = name,
            LinkAttribute::Mtu(mtu) => device.mtu = mtu,
            LinkAttribute::Address(bytes) => {
                device.mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac);
            }
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        device.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    device
}

/// Point-to-point devices tell their own address as the local one.
fn read_address(message: &AddressMessage) -> Option<IpAddr> {
    let local = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(addr) => Some(*addr),
            _ => None,
        });
    local.or_else(|| {
        message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                AddressAttribute::Address(addr) => Some(*addr),
                _ => None,
            })
    })
}

/// Indexes of the devices that default routes leave by (both families, main
/// table).
///
/// # Errors
/// [`LinkError::Netlink`].
pub fn with_default_route() -> Result<Vec<u32>, LinkError> {
    let mut netlink = Netlink::open()?;
    let mut found = BTreeSet::new();
    for v6 in [false, true] {
        for answer in netlink.dump("listing routes", &get_routes(v6))? {
            let RouteNetlinkMessage::NewRoute(route) = answer else {
                continue;
            };
            let default = read_route(&route)
                .filter(|route| route.table == TABLE_MAIN && route.destination.prefix_len() == 0);
            found.extend(default.and_then(|route| route.ifindex));
        }
    }
    Ok(found.into_iter().collect())
}

/// Names of the devices that carry the node's traffic: those with a default
/// route or with one of the node's addresses, never endpoints' or loopback.
///
/// # Errors
/// [`LinkError::Netlink`].
pub fn detect_uplinks(node_addresses: &[IpAddr]) -> Result<Vec<String>, LinkError> {
    let default = with_default_route()?;
    Ok(list()?
        .into_iter()
        .filter(|device| !device.loopback && !is_host_name(&device.name))
        .filter(|device| {
            default.contains(&device.ifindex)
                || device
                    .addresses
                    .iter()
                    .any(|(addr, _)| node_addresses.contains(addr))
        })
        .map(|device| device.name)
        .collect())
}

/// Groups of routing netlink: links, addresses, routes and forwarding of both
/// families.
const GROUPS: [u32; 7] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV4_NETCONF,
    libc::RTNLGRP_IPV6_NETCONF,
];

/// Tells when links, addresses or routes change, or whether the node forwards.
pub struct Watch {
    socket: Socket,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch")
            .field("fd", &self.as_raw_fd())
            .finish()
    }
}

impl Watch {
    /// Starts watching the present network namespace.
    ///
    /// # Errors
    /// [`LinkError::Netlink`].
    pub fn new() -> Result<Self, LinkError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            for group in GROUPS {
                socket.add_membership(group)?;
            }
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        open()
            .map(|socket| Self { socket })
            .map_err(|source| LinkError::Netlink {
                what: "watching devices".to_owned(),
                source,
            })
    }

    /// Waits for a change, at most so long; says whether there was one. What
    /// changed is found by asking again: notices may be lost, facts are not.
    ///
    /// # Errors
    /// [`LinkError::Netlink`].
    pub fn wait(&mut self, timeout: Duration) -> Result<bool, LinkError> {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => self.drain(),
            Err(error) => Err(Self::failed(error.into())),
        }
    }

    /// Reads what waits, without waiting; says whether there was anything.
    ///
    /// # Errors
    /// [`LinkError::Netlink`].
    pub fn drain(&mut self) -> Result<bool, LinkError> {
        let mut changed = false;
        let mut buffer = Vec::with_capacity(32 * 1024);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => changed = true,
                // The kernel had more to say than the socket holds.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(changed),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Self::failed(error)),
            }
        }
    }

    fn failed(source: io::Error) -> LinkError {
        LinkError::Netlink {
            what: "watching devices".to_owned(),
            source,
        }
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
