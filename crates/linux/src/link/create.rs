//! Making and deleting the devices of an endpoint.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use axon_model::Mac;
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkInfo, LinkMessage,
};
use nix::libc;

use super::{EndpointLink, GATEWAY_V4, GATEWAY_V6, LinkError, Netns, sysctl};
use crate::netlink::{self, Netlink, Request, RouteSpec};

/// Aggregates that BIG TCP makes on veths: three times the classic limit, as
/// much as receivers digest in one piece.
const BIG_TCP_LEN: u32 = 196_608;

/// The kernel's main routing table.
pub(super) const TABLE_MAIN: u32 = 254;

/// Switches of the device inside: nothing but what we set is to be believed.
pub(super) const SWITCHES: [(&str, &str, &str); 4] = [
    ("ipv6", "disable_ipv6", "0"),
    ("ipv6", "accept_ra", "0"),
    ("ipv6", "accept_dad", "0"),
    ("ipv6", "accept_redirects", "0"),
];

/// Makes the devices, from this namespace into `netns`; what a half-done
/// attempt left is replaced. Gives back the host-side device's index.
///
/// # Errors
/// [`LinkError`]; nothing is left behind then. [`LinkError::Exists`] also if
/// the host-side name is that of another endpoint's device.
pub fn create(netns: &Netns, link: &EndpointLink) -> Result<u32, LinkError> {
    create_guarded(netns, link, |_| Ok(()))
}

/// As [`create`]; `guard` gets the host-side device's index before any packet
/// can pass, to put programs on it.
///
/// # Errors
/// As [`create`], and what `guard` says; nothing is left behind then.
pub fn create_guarded<E: From<LinkError>>(
    netns: &Netns,
    link: &EndpointLink,
    guard: impl FnOnce(u32) -> Result<(), E>,
) -> Result<u32, E> {
    let entered = netns.open()?;
    let mut host = Netlink::open()?;
    let pair = || {
        Request::new(
            format!("creating {}", link.host_name),
            pair(link, entered.as_fd()),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    };
    match host.request(pair()) {
        // One of the names is taken. Most often neither is: then no more is asked.
        Err(error) if is_taken(&error) => {
            make_room(&mut host, netns, link)?;
            host.request(pair())?;
        }
        made => made?,
    }
    let made = existing(&mut host, &link.host_name)
        .map_err(E::from)
        .and_then(|ifindex| {
            guard(ifindex)?;
            netns.within(|| set_up_inside(link))?;
            set_up_host_side(&mut host, link, ifindex)?;
            Ok(ifindex)
        });
    if made.is_err() {
        host.request(delete_request(&link.host_name))?;
    }
    made
}

fn is_taken(error: &LinkError) -> bool {
    matches!(error, LinkError::Netlink { source, .. }
        if source.raw_os_error() == Some(libc::EEXIST))
}

/// Removes what a half-done attempt left; a device of somebody else is an
/// error.
fn make_room(host: &mut Netlink, netns: &Netns, link: &EndpointLink) -> Result<(), LinkError> {
    match find(host, &link.host_name, netlink::get_link(&link.host_name))? {
        None => {}
        // Deleting one end takes the other with it.
        Some(device) if device.mac == link.host_mac.0 => {
            host.request(delete_request(&link.host_name))?;
        }
        Some(_) => {
            return Err(LinkError::Exists {
                netns: "this node".to_owned(),
                device: link.host_name.clone(),
            });
        }
    }
    match netns.within(|| index_of(&mut Netlink::open()?, &link.container_name))? {
        None => Ok(()),
        Some(_) => Err(LinkError::Exists {
            netns: netns.to_string(),
            device: link.container_name.clone(),
        }),
    }
}

/// Deletes a host-side device, and its peer with it; absent is no error.
///
/// # Errors
/// [`LinkError::Netlink`].
pub fn delete(host_name: &str) -> Result<(), LinkError> {
    Netlink::open()?.request(delete_request(host_name))
}

/// Deletes an endpoint's host-side device, and its peer with it; absent is no
/// error.
///
/// It is the device of this index that has the endpoint's name or MAC address:
/// devices get other names. Where that is none (0: the index is not known), it
/// is the one that has both.
///
/// # Errors
/// [`LinkError::Netlink`].
pub fn delete_own(ifindex: u32, host_name: &str, host_mac: Mac) -> Result<(), LinkError> {
    let mut host = Netlink::open()?;
    let at_index = match ifindex {
        0 => None,
        _ => find(&mut host, host_name, netlink::get_link_at(ifindex))?,
    };
    let own = match at_index.filter(|d| d.name == host_name || d.mac == host_mac.0) {
        Some(own) => Some(own),
        None => find(&mut host, host_name, netlink::get_link(host_name))?
            .filter(|d| d.mac == host_mac.0),
    };
    own.map_or(Ok(()), |own| {
        let delete = netlink::delete_link_at(own.ifindex);
        let request = Request::new(format!("deleting {}", own.name), delete, 0);
        host.request(request.tolerate(libc::ENODEV))
    })
}

/// Restores the host side of an endpoint (up, routes, neighbours), as after a
/// change that somebody else made. Gives back the host-side device's index.
///
/// # Errors
/// [`LinkError::Netlink`].
pub fn repair_host_side(link: &EndpointLink) -> Result<u32, LinkError> {
    let mut netlink = Netlink::open()?;
    let ifindex = existing(&mut netlink, &link.host_name)?;
    set_up_host_side(&mut netlink, link, ifindex)?;
    Ok(ifindex)
}

fn delete_request(host_name: &str) -> Request {
    Request::new(
        format!("deleting {host_name}"),
        netlink::delete_link(host_name),
        0,
    )
    .tolerate(libc::ENODEV)
}

/// The index of a device, if it is there.
pub(super) fn index_of(netlink: &mut Netlink, name: &str) -> Result<Option<u32>, LinkError> {
    let found = find(netlink, name, netlink::get_link(name))?;
    Ok(found.map(|device| device.ifindex))
}

/// What tells a device from others.
struct Found {
    ifindex: u32,
    name: String,
    /// Devices that we make have one that is made from their attachment.
    mac: Vec<u8>,
}

/// Looks for a device, which errors call by this name.
fn find(
    netlink: &mut Netlink,
    name: &str,
    question: RouteNetlinkMessage,
) -> Result<Option<Found>, LinkError> {
    let answer = netlink.get(&format!("looking for {name}"), question)?;
    let Some(RouteNetlinkMessage::NewLink(link)) = answer else {
        return Ok(None);
    };
    let mut found = Found {
        ifindex: link.header.index,
        name: String::new(),
        mac: Vec::new(),
    };
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name = name,
            LinkAttribute::Address(mac) => found.mac = mac,
            _ => {}
        }
    }
    Ok(Some(found))
}

fn existing(netlink: &mut Netlink, name: &str) -> Result<u32, LinkError> {
    index_of(netlink, name)?.ok_or_else(|| LinkError::Netlink {
        what: format!("looking for {name}"),
        source: std::io::Error::from_raw_os_error(libc::ENODEV),
    })
}

/// Both devices in one message, the peer already in its namespace.
fn pair(link: &EndpointLink, netns: BorrowedFd<'_>) -> RouteNetlinkMessage {
    let device = |name: &str, mac: Mac| {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::Mtu(link.mtu),
        ];
        message
    };
    let mut peer = device(&link.container_name, link.container_mac);
    peer.attributes
        .push(LinkAttribute::NetNsFd(netns.as_raw_fd()));
    let mut host = device(&link.host_name, link.host_mac);
    host.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    RouteNetlinkMessage::NewLink(host)
}

/// Asks a device that is down not to make itself a link-local address. A
/// kernel without IPv6 makes none anyway.
fn no_link_local(name: &str, ifindex: u32) -> Request {
    let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    let attribute = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]);
    Request::new(
        format!("keeping {name} without a link-local address"),
        netlink::set_link(ifindex, vec![attribute]),
        0,
    )
    .tolerate(libc::EAFNOSUPPORT)
}

/// Not every kernel has every one of them: each is asked for by itself, and a
/// refusal leaves the device as good as without.
fn raise_aggregates(ifindex: u32, link: &EndpointLink) -> impl Iterator<Item = Request> {
    let ipv6 = [
        LinkAttribute::GsoMaxSize(BIG_TCP_LEN),
        LinkAttribute::GroMaxSize(BIG_TCP_LEN),
    ];
    let ipv4 = [
        LinkAttribute::GsoIpv4MaxSize(BIG_TCP_LEN),
        LinkAttribute::GroIpv4MaxSize(BIG_TCP_LEN),
    ];
    let ipv6 = ipv6.into_iter().filter(|_| link.big_tcp_ipv6);
    let ipv4 = ipv4.into_iter().filter(|_| link.big_tcp_ipv4);
    ipv6.chain(ipv4).map(move |attribute| {
        Request::new(
            "raising the length of aggregates",
            netlink::set_link(ifindex, vec![attribute]),
            0,
        )
        .optional()
    })
}

/// Runs in the endpoint's namespace.
fn set_up_inside(link: &EndpointLink) -> Result<(), LinkError> {
    let mut netlink = Netlink::open()?;
    let name = &link.container_name;
    let ifindex = existing(&mut netlink, name)?;
    for (family, switch, value) in SWITCHES {
        sysctl::set(family, name, switch, value).map_err(|source| LinkError::Netlink {
            what: format!("setting {switch} of {name}"),
            source,
        })?;
    }
    let mut requests: Vec<Request> = raise_aggregates(ifindex, link).collect();
    requests.extend([
        Request::new(
            "setting lo up",
            netlink::set_up(netlink::LOOPBACK_IFINDEX),
            0,
        ),
        no_link_local(name, ifindex),
        Request::new(format!("setting {name} up"), netlink::set_up(ifindex), 0),
    ]);
    for addr in link.addresses() {
        requests.push(Request::new(
            format!("giving {name} {addr}"),
            netlink::address(ifindex, addr),
            NLM_F_CREATE | NLM_F_REPLACE,
        ));
        for route in inner_routes(addr, ifindex) {
            requests.push(Request::new(
                format!("routing {} in {name}", route.destination),
                route.add(),
                NLM_F_CREATE | NLM_F_REPLACE,
            ));
        }
    }
    netlink.batch(requests)
}

/// The gateway on the link, and everything else by the gateway.
pub(super) fn inner_routes(addr: IpAddr, ifindex: u32) -> [RouteSpec; 2] {
    let (gateway, any): (IpAddr, IpAddr) = match addr {
        IpAddr::V4(_) => (GATEWAY_V4.into(), std::net::Ipv4Addr::UNSPECIFIED.into()),
        IpAddr::V6(_) => (GATEWAY_V6.into(), std::net::Ipv6Addr::UNSPECIFIED.into()),
    };
    let route = |destination, via| RouteSpec {
        destination,
        via,
        ifindex: Some(ifindex),
        table: TABLE_MAIN,
    };
    [
        route(IpNet::from(gateway), None),
        // Length 0 is always valid.
        route(IpNet::new_assert(any, 0), Some(gateway)),
    ]
}

/// The route by which the node reaches an endpoint's address.
pub(super) fn host_route(addr: IpAddr, ifindex: u32) -> RouteSpec {
    RouteSpec {
        destination: IpNet::from(addr),
        via: None,
        ifindex: Some(ifindex),
        table: TABLE_MAIN,
    }
}

fn set_up_host_side(
    netlink: &mut Netlink,
    link: &EndpointLink,
    ifindex: u32,
) -> Result<(), LinkError> {
    let name = &link.host_name;
    let mut requests: Vec<Request> = raise_aggregates(ifindex, link).collect();
    requests.extend([
        no_link_local(name, ifindex),
        Request::new(format!("setting {name} up"), netlink::set_up(ifindex), 0),
    ]);
    for addr in link.addresses() {
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        requests.push(Request::new(
            format!("routing {addr} to {name}"),
            host_route(addr, ifindex).add(),
            flags,
        ));
        requests.push(Request::new(
            format!("making {addr} a neighbour on {name}"),
            netlink::neighbour(ifindex, addr, link.container_mac),
            flags,
        ));
    }
    netlink.batch(requests)
}
