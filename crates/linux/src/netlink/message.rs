//! The messages we send, and what we read in answers.

use std::net::IpAddr;

use axon_model::Mac;
use ipnet::IpNet;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

/// The loopback device is the first of every namespace.
pub(crate) const LOOPBACK_IFINDEX: u32 = 1;

/// Marks our routes: no other product's number (`/etc/iproute2/rt_protos`).
pub(crate) const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(0x61);

fn family(addr: IpAddr) -> AddressFamily {
    match addr {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn route_address(addr: IpAddr) -> RouteAddress {
    match addr {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

/// Bits of an address of the family.
pub(crate) fn host_bits(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

/// Asks for one device.
pub(crate) fn get_link(name: &str) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    RouteNetlinkMessage::GetLink(message)
}

/// Asks for the device of an index.
pub(crate) fn get_link_at(ifindex: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    RouteNetlinkMessage::GetLink(message)
}

/// Deletes the device of an index.
pub(crate) fn delete_link_at(ifindex: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    RouteNetlinkMessage::DelLink(message)
}

/// Deletes a device by name.
pub(crate) fn delete_link(name: &str) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message
        .attributes
        .push(LinkAttribute::IfName(name.to_owned()));
    RouteNetlinkMessage::DelLink(message)
}

/// Brings a device up.
pub(crate) fn set_up(ifindex: u32) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(message)
}

/// Sets attributes of a device.
pub(crate) fn set_link(ifindex: u32, attributes: Vec<LinkAttribute>) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.attributes = attributes;
    RouteNetlinkMessage::SetLink(message)
}

/// Gives a device an address of full length, without duplicate detection.
pub(crate) fn address(ifindex: u32, addr: IpAddr) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(addr);
    message.header.prefix_len = host_bits(addr);
    message.header.scope = AddressScope::Universe;
    message.header.index = ifindex;
    message.attributes = vec![
        AddressAttribute::Local(addr),
        AddressAttribute::Address(addr),
    ];
    if addr.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
        let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
        message.attributes.push(AddressAttribute::Flags(flags));
    }
    RouteNetlinkMessage::NewAddress(message)
}

/// A permanent neighbour entry.
pub(crate) fn neighbour(ifindex: u32, addr: IpAddr, mac: Mac) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(addr);
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::Permanent;
    let destination = match addr {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    };
    message.attributes = vec![
        NeighbourAttribute::Destination(destination),
        NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()),
    ];
    RouteNetlinkMessage::NewNeighbour(message)
}

/// A route of ours as we look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouteSpec {
    pub(crate) destination: IpNet,
    pub(crate) via: Option<IpAddr>,
    pub(crate) ifindex: Option<u32>,
    pub(crate) table: u32,
}

impl RouteSpec {
    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let destination = self.destination.network();
        message.header.address_family = family(destination);
        message.header.destination_prefix_length = self.destination.prefix_len();
        // Tables beyond 255 have no place in the header.
        message.header.table = u8::try_from(self.table).unwrap_or(0);
        message.header.protocol = ROUTE_PROTOCOL;
        message.header.kind = RouteType::Unicast;
        // IPv6 knows no scope.
        message.header.scope = if self.via.is_none() && destination.is_ipv4() {
            RouteScope::Link
        } else {
            RouteScope::Universe
        };
        message.attributes.push(RouteAttribute::Table(self.table));
        if self.destination.prefix_len() > 0 {
            message
                .attributes
                .push(RouteAttribute::Destination(route_address(destination)));
        }
        if let Some(via) = self.via {
            message
                .attributes
                .push(RouteAttribute::Gateway(route_address(via)));
        }
        if let Some(ifindex) = self.ifindex {
            message.attributes.push(RouteAttribute::Oif(ifindex));
        }
        message
    }

    pub(crate) fn add(&self) -> RouteNetlinkMessage {
        RouteNetlinkMessage::NewRoute(self.message())
    }

    /// Deletes the route of ours with this destination, whatever its gateway.
    pub(crate) fn delete(&self) -> RouteNetlinkMessage {
        let mut message = Self {
            via: None,
            ..self.clone()
        }
        .message();
        message.header.scope = RouteScope::NoWhere;
        RouteNetlinkMessage::DelRoute(message)
    }
}

/// Asks for all routes of a family.
pub(crate) fn get_routes(v6: bool) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = if v6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    RouteNetlinkMessage::GetRoute(message)
}

/// The table of a route.
pub(crate) fn table_of(route: &RouteMessage) -> u32 {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        })
        .unwrap_or(u32::from(route.header.table))
}

/// A route as a [`RouteSpec`]; `None` for what is no unicast route.
pub(crate) fn read_route(route: &RouteMessage) -> Option<RouteSpec> {
    let RouteHeader {
        address_family,
        destination_prefix_length,
        kind,
        ..
    } = route.header;
    let mut destination: IpAddr = match address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    if kind != RouteType::Unicast {
        return None;
    }
    let ip = |addr: &RouteAddress| match addr {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    };
    let (mut via, mut ifindex) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(addr) => destination = ip(addr)?,
            RouteAttribute::Gateway(addr) => via = ip(addr),
            RouteAttribute::Oif(oif) => ifindex = Some(*oif),
            _ => {}
        }
    }
    let destination = IpNet::new(destination, destination_prefix_length).ok()?;
    Some(RouteSpec {
        destination,
        via,
        ifindex,
        table: table_of(route),
    })
}
