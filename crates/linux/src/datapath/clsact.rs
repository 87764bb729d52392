//! Stubs as filters of a clsact qdisc, for kernels without tcx.
//!
//! A filter has a fixed priority and handle, so that attaching again replaces
//! it; its name tells ours from others'.

use std::os::fd::{AsRawFd, BorrowedFd};

use axon_abi::Hook;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use nix::libc;

use super::programs::stub_name;
use super::stubs::side;
use crate::link::LinkError;
use crate::netlink::{Netlink, Request};
use crate::sys::TcxHook;

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

/// Puts a stub on a device, or replaces the one that is there.
pub(super) fn attach(ifindex: u32, hook: Hook, stub: BorrowedFd<'_>) -> Result<(), LinkError> {
    let mut qdisc = device(ifindex);
    qdisc.header.handle = TcHandle {
        major: 0xffff,
        minor: 0,
    };
    qdisc.header.parent = TcHandle::CLSACT;
    qdisc
        .attributes
        .push(TcAttribute::Kind("clsact".to_owned()));
    let mut filter = filter(ifindex, hook);
    filter.attributes.push(TcAttribute::Options(vec![
        TcOption::Bpf(TcFilterBpfOption::ProgFd(stub.as_raw_fd().unsigned_abs())),
        TcOption::Bpf(TcFilterBpfOption::ProgName(name(hook))),
        TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
    ]));
    Netlink::open()?.batch(vec![
        Request::new(
            "adding the clsact qdisc",
            RouteNetlinkMessage::NewQueueDiscipline(qdisc),
            NLM_F_CREATE | NLM_F_EXCL,
        )
        .tolerate(libc::EEXIST),
        Request::new(
            format!("adding the filter {}", name(hook)),
            RouteNetlinkMessage::NewTrafficFilter(filter),
            NLM_F_CREATE,
        ),
    ])
}

/// Takes a stub off a device.
pub(super) fn detach(ifindex: u32, hook: Hook) -> Result<(), LinkError> {
    Netlink::open()?.request(Request::new(
        format!("removing the filter {}", name(hook)),
        RouteNetlinkMessage::DelTrafficFilter(filter(ifindex, hook)),
        0,
    ))
}

/// Takes every stub off every device of the calling thread's namespace; says
/// how many there were.
pub(super) fn detach_all() -> Result<usize, LinkError> {
    let mut netlink = Netlink::open()?;
    let mut detached = 0;
    for found in crate::device::list()? {
        for hook in Hook::ALL {
            let mut query = device(found.ifindex);
            query.header.parent = parent(hook);
            // A device without clsact has no filters to list.
            let filters = netlink
                .dump(
                    "listing filters",
                    &RouteNetlinkMessage::GetTrafficFilter(query),
                )
                .unwrap_or_default();
            if filters.iter().any(|filter| has_name(filter, &name(hook))) {
                detach(found.ifindex, hook)?;
                detached += 1;
            }
        }
    }
    Ok(detached)
}

fn has_name(message: &RouteNetlinkMessage, name: &str) -> bool {
    let RouteNetlinkMessage::NewTrafficFilter(filter) = message else {
        return false;
    };
    filter.attributes.iter().any(|attribute| {
        match attribute {
        TcAttribute::Options(options) => options.iter().any(|option| {
            matches!(option, TcOption::Bpf(TcFilterBpfOption::ProgName(found)) if found == name)
        }),
        _ => false,
    }
    })
}
