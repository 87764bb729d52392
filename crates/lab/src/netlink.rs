//! Devices, addresses and routes of the underlay, in the namespace of the
//! calling thread.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// A conversation with the kernel about one network namespace: that of the
/// thread that opened it.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens it.
    pub(crate) fn open() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).context("opening a netlink socket")?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Makes a bridge that is up.
    pub(crate) fn bridge(&mut self, name: &str) -> Result<u32> {
        let mut link = named(name);
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes
            .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(
                InfoKind::Bridge,
            )]));
        self.create(RouteNetlinkMessage::NewLink(link))
            .with_context(|| format!("making bridge {name}"))?;
        index(name)
    }

    /// Makes a pair of devices: one here as a port of a bridge, its peer in
    /// another namespace; both up, the peer once [`Netlink::up`] says so.
    pub(crate) fn port(
        &mut self,
        name: &str,
        bridge: u32,
        peer_name: &str,
        peer_netns: &File,
    ) -> Result<()> {
        let mut peer = named(peer_name);
        peer.attributes
            .push(LinkAttribute::NetNsFd(peer_netns.as_raw_fd()));
        let mut link = named(name);
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes.push(LinkAttribute::Controller(bridge));
        link.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.create(RouteNetlinkMessage::NewLink(link))
            .with_context(|| format!("making device {name}"))
    }

    /// Deletes a device.
    pub(crate) fn delete(&mut self, name: &str) -> Result<()> {
        let link = named(name);
        self.ask(RouteNetlinkMessage::DelLink(link), 0)
            .with_context(|| format!("deleting device {name}"))
    }

    /// Brings a device up.
    pub(crate) fn up(&mut self, name: &str) -> Result<u32> {
        let index = index(name)?;
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.ask(RouteNetlinkMessage::SetLink(link), 0)
            .with_context(|| format!("bringing {name} up"))?;
        Ok(index)
    }

    /// Gives a device an address, at once and without a search for duplicates.
    pub(crate) fn address(&mut self, index: u32, net: IpNet) -> Result<()> {
        self.create(RouteNetlinkMessage::NewAddress(address(index, net)))
            .with_context(|| format!("adding address {net}"))
    }

    /// Takes an address from a device.
    pub(crate) fn delete_address(&mut self, index: u32, net: IpNet) -> Result<()> {
        self.ask(RouteNetlinkMessage::DelAddress(address(index, net)), 0)
            .with_context(|| format!("deleting address {net}"))
    }

    /// Adds a route over a device: to neighbours on the link, or by a gateway.
    /// That it is there already is no error.
    pub(crate) fn route(&mut self, to: IpNet, index: u32, gateway: Option<IpAddr>) -> Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(to.addr());
        message.header.destination_prefix_length = to.prefix_len();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        message.header.scope = if gateway.is_some() {
            RouteScope::Universe
        } else {
            RouteScope::Link
        };
        message.attributes = vec![RouteAttribute::Oif(index)];
        if to.prefix_len() > 0 {
            message
                .attributes
                .push(RouteAttribute::Destination(route_address(to.addr())));
        }
        if let Some(gateway) = gateway {
            message
                .attributes
                .push(RouteAttribute::Gateway(route_address(gateway)));
        }
        let added = self.create(RouteNetlinkMessage::NewRoute(message));
        match added {
            Err(error) if is_exists(&error) => Ok(()),
            other => other.with_context(|| format!("adding a route to {to}")),
        }
    }

    fn create(&mut self, message: RouteNetlinkMessage) -> Result<()> {
        self.ask(message, NLM_F_CREATE | NLM_F_EXCL)
    }

    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<()> {
        self.sequence += 1;
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let (answer, _) = self.socket.recv_from_full()?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)?;
        match answer.payload {
            NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io().into()),
            NetlinkPayload::Error(_) => Ok(()),
            other => bail!("the kernel answered {other:?}"),
        }
    }
}

/// Number of a device of the calling thread's namespace.
fn index(name: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(name).with_context(|| format!("no device {name}"))
}

fn named(name: &str) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.into()));
    link
}

fn address(index: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = net.prefix_len();
    message.header.family = family(net.addr());
    message.header.flags = AddressHeaderFlags::Nodad;
    message.attributes = vec![
        AddressAttribute::Local(net.addr()),
        AddressAttribute::Address(net.addr()),
        AddressAttribute::Flags(AddressFlags::Nodad),
    ];
    message
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

fn route_address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    }
}

fn is_exists(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|e| e.kind() == io::ErrorKind::AlreadyExists)
}
