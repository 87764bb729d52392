//! Stubs as filters of a clsact qdisc, for kernels without tcx, and for new
//! devices: to attach a link takes two grace periods of the kernel, a filter
//! none.
//!
//! A filter has a fixed priority and handle, so that attaching again replaces
//! it; its name tells ours from others'. Nothing is pinned: what is there is
//! asked of the kernel. Nothing comes before our priority, and the kernel has
//! filters of one kind and protocol share one: where another's filter of another
//! kind has it, ours could only stand behind, where what that one accepts would
//! not be seen. It is refused then, and the other is named. The qdisc goes with
//! its last filter, whosever it is: without filters it does nothing.

use std::os::fd::{AsRawFd, BorrowedFd};

use axon_abi::Hook;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use nix::libc;

use super::programs::stub_name;
use super::stubs::{device_name, side};
use crate::link::LinkError;
use crate::netlink::{Netlink, Request};
use crate::sys::TcxHook;

/// The qdisc whose filters see a device's packets in both directions.
const KIND: &str = "clsact";
/// Before every filter that asks for no place of its own.
const PRIORITY: u32 = 1;
/// Ours among the filters of that priority.
const HANDLE: TcHandle = TcHandle {
    major: 0,
    minor: 0x61,
};
/// Every protocol, as the kernel wants it: in network order.
const ANY_PROTOCOL: u16 = (libc::ETH_P_ALL as u16).to_be();

fn parent(hook: Hook) -> TcHandle {
    let minor = match side(hook) {
        TcxHook::Ingress => TcHandle::MIN_INGRESS,
        TcxHook::Egress => TcHandle::MIN_EGRESS,
    };
    TcHandle {
        major: 0xffff,
        minor,
    }
}

fn device(ifindex: u32) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = i32::try_from(ifindex).unwrap_or(0);
    message
}

fn filter(ifindex: u32, hook: Hook) -> TcMessage {
    let mut message = device(ifindex);
    message.header.handle = HANDLE;
    message.header.parent = parent(hook);
    message.header.info = PRIORITY << 16 | u32::from(ANY_PROTOCOL);
    message.attributes.push(TcAttribute::Kind("bpf".to_owned()));
    message
}

fn name(hook: Hook) -> String {
    format!("axon_{}", stub_name(hook))
}

fn qdisc(ifindex: u32) -> TcMessage {
    let mut message = device(ifindex);
    message.header.handle = TcHandle {
        major: 0xffff,
        minor: 0,
    };
    message.header.parent = TcHandle::CLSACT;
    message.attributes.push(TcAttribute::Kind(KIND.to_owned()));
    message
}

/// Puts a stub on a device, or replaces the one that is there.
pub(super) fn attach(ifindex: u32, hook: Hook, stub: BorrowedFd<'_>) -> Result<(), LinkError> {
    attach_all(ifindex, &[(hook, stub)])
}

/// Puts several stubs on a device, or replaces those that are there.
pub(super) fn attach_all(ifindex: u32, stubs: &[(Hook, BorrowedFd<'_>)]) -> Result<(), LinkError> {
    let mut requests = vec![
        Request::new(
            "adding the clsact qdisc",
            RouteNetlinkMessage::NewQueueDiscipline(qdisc(ifindex)),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .tolerate(libc::EEXIST),
    ];
    for (hook, stub) in stubs {
        let mut filter = filter(ifindex, *hook);
        filter.attributes.push(TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(stub.as_raw_fd().unsigned_abs())),
            TcOption::Bpf(TcFilterBpfOption::ProgName(name(*hook))),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]));
        requests.push(Request::new(
            format!("adding the filter {}", name(*hook)),
            RouteNetlinkMessage::NewTrafficFilter(filter),
            NLM_F_CREATE,
        ));
    }
    let mut netlink = Netlink::open()?;
    let made = netlink.batch(requests);
    made.map_err(|error| {
        let occupied = |(hook, _): &(Hook, _)| occupant(&mut netlink, ifindex, *hook);
        stubs.iter().find_map(occupied).unwrap_or(error)
    })
}

/// The filter that has our priority and does not share it, as an error.
fn occupant(netlink: &mut Netlink, ifindex: u32, hook: Hook) -> Option<LinkError> {
    let found = filters(netlink, ifindex, parent(hook).minor).ok()?;
    let filter = found.iter().find_map(unlike_ours)?;
    Some(LinkError::Occupied {
        filter,
        device: device_name(ifindex),
        side: match side(hook) {
            TcxHook::Ingress => "ingress",
            TcxHook::Egress => "egress",
        },
    })
}

/// The kind and protocol of a filter with our priority, if they are not ours.
fn unlike_ours(message: &RouteNetlinkMessage) -> Option<String> {
    let RouteNetlinkMessage::NewTrafficFilter(filter) = message else {
        return None;
    };
    let mut kind = "";
    for attribute in &filter.attributes {
        match attribute {
            TcAttribute::Kind(found) => kind = found,
            // Chains count their priorities each for itself; packets begin in the first.
            TcAttribute::Chain(chain) if *chain != 0 => return None,
            _ => {}
        }
    }
    let (priority, protocol) = (filter.header.info >> 16, filter.header.info as u16);
    if priority != PRIORITY || kind == "bpf" && protocol == ANY_PROTOCOL {
        return None;
    }
    Some(match i32::from(u16::from_be(protocol)) {
        libc::ETH_P_ALL => format!("{kind} for every protocol"),
        libc::ETH_P_IP => format!("{kind} for IPv4"),
        libc::ETH_P_IPV6 => format!("{kind} for IPv6"),
        other => format!("{kind} for protocol {other:#06x}"),
    })
}

/// Takes a stub off a device and leaves the qdisc: to remove that would stop
/// the device for a moment.
pub(super) fn remove_filter(ifindex: u32, hook: Hook) -> Result<(), LinkError> {
    Netlink::open()?.request(Request::new(
        format!("removing the filter {}", name(hook)),
        RouteNetlinkMessage::DelTrafficFilter(filter(ifindex, hook)),
        0,
    ))
}

/// Takes a stub off a device, and the qdisc if that was its last filter. A
/// device may go at any moment, and takes both with it.
pub(super) fn detach(ifindex: u32, hook: Hook) -> Result<(), LinkError> {
    let mut netlink = Netlink::open()?;
    netlink.request(
        Request::new(
            format!("removing the filter {}", name(hook)),
            RouteNetlinkMessage::DelTrafficFilter(filter(ifindex, hook)),
            0,
        )
        .tolerate(libc::ENODEV)
        .tolerate(libc::ENOENT)
        // What the kernel says of a device without the qdisc.
        .tolerate(libc::EINVAL),
    )?;
    for minor in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
        if !filters(&mut netlink, ifindex, minor)?.is_empty() {
            return Ok(());
        }
    }
    netlink.request(
        Request::new(
            "removing the clsact qdisc",
            RouteNetlinkMessage::DelQueueDiscipline(qdisc(ifindex)),
            0,
        )
        .tolerate(libc::ENODEV)
        .tolerate(libc::ENOENT)
        .tolerate(libc::EINVAL),
    )
}

/// Takes every stub off every device of the calling thread's namespace; says
/// how many there were.
pub(super) fn detach_all() -> Result<usize, LinkError> {
    let found = find()?;
    for (ifindex, hook) in &found {
        detach(*ifindex, *hook)?;
    }
    Ok(found.len())
}

/// Whether a device has this stub; one that is gone has none.
pub(super) fn has(ifindex: u32, hook: Hook) -> Result<bool, LinkError> {
    if !super::stubs::exists(ifindex) {
        return Ok(false);
    }
    let found = filters(&mut Netlink::open()?, ifindex, parent(hook).minor)?;
    Ok(found.iter().any(|filter| has_name(filter, &name(hook))))
}

/// The stubs on the devices of the calling thread's namespace.
pub(super) fn find() -> Result<Vec<(u32, Hook)>, LinkError> {
    let mut netlink = Netlink::open()?;
    let mut found = Vec::new();
    for ifindex in devices(&mut netlink)? {
        for minor in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
            let filters = filters(&mut netlink, ifindex, minor)?;
            let ours = |hook: &Hook| {
                parent(*hook).minor == minor
                    && filters.iter().any(|filter| has_name(filter, &name(*hook)))
            };
            found.extend(
                Hook::ALL
                    .into_iter()
                    .filter(ours)
                    .map(|hook| (ifindex, hook)),
            );
        }
    }
    Ok(found)
}

fn device_of_clsact(message: &RouteNetlinkMessage) -> Option<u32> {
    let RouteNetlinkMessage::NewQueueDiscipline(qdisc) = message else {
        return None;
    };
    let clsact =
        |attribute: &TcAttribute| matches!(attribute, TcAttribute::Kind(kind) if kind == KIND);
    qdisc
        .attributes
        .iter()
        .any(clsact)
        .then(|| u32::try_from(qdisc.header.index).ok())?
}

/// The filters of one side of a device; none where it has no clsact.
fn filters(
    netlink: &mut Netlink,
    ifindex: u32,
    minor: u16,
) -> Result<Vec<RouteNetlinkMessage>, LinkError> {
    let mut query = device(ifindex);
    query.header.parent = TcHandle {
        major: 0xffff,
        minor,
    };
    netlink.dump(
        "listing filters",
        &RouteNetlinkMessage::GetTrafficFilter(query),
    )
}

/// A filter of one side of a device, ours or another's.
pub(super) struct Filter {
    /// Its program's name where it has one, else its kind.
    pub(super) name: String,
    /// The id of its program.
    pub(super) program: Option<u32>,
    pub(super) priority: u32,
    pub(super) is_ours: bool,
}

/// Devices that have the qdisc.
pub(super) fn devices(netlink: &mut Netlink) -> Result<Vec<u32>, LinkError> {
    let qdiscs = netlink.dump(
        "listing qdiscs",
        &RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()),
    )?;
    Ok(qdiscs.iter().filter_map(device_of_clsact).collect())
}

/// The filters at a hook's side of a device, in the order in which they run.
pub(super) fn at(
    netlink: &mut Netlink,
    ifindex: u32,
    hook: Hook,
) -> Result<Vec<Filter>, LinkError> {
    let found = filters(netlink, ifindex, parent(hook).minor)?;
    Ok(found.iter().filter_map(|m| read_filter(m, hook)).collect())
}

/// `None` for the line that the kernel gives each priority of its own.
fn read_filter(message: &RouteNetlinkMessage, hook: Hook) -> Option<Filter> {
    let RouteNetlinkMessage::NewTrafficFilter(filter) = message else {
        return None;
    };
    let (mut kind, mut name, mut program, mut is_filter) = (None, None, None, false);
    for attribute in &filter.attributes {
        match attribute {
            TcAttribute::Kind(found) => kind = Some(found.clone()),
            TcAttribute::Options(options) => {
                is_filter = true;
                for option in options {
                    match option {
                        TcOption::Bpf(TcFilterBpfOption::ProgName(found)) => {
                            name = Some(found.clone());
                        }
                        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => program = Some(*id),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    is_filter.then(|| Filter {
        name: name.or(kind).unwrap_or_default(),
        program,
        priority: filter.header.info >> 16,
        is_ours: has_name(message, &self::name(hook)),
    })
}

fn has_name(message: &RouteNetlinkMessage, name: &str) -> bool {
    let RouteNetlinkMessage::NewTrafficFilter(filter) = message else {
        return false;
    };
    let named = |option: &TcOption| matches!(option, TcOption::Bpf(TcFilterBpfOption::ProgName(found)) if found == name);
    filter.attributes.iter().any(|attribute| match attribute {
        TcAttribute::Options(options) => options.iter().any(named),
        _ => false,
    })
}
