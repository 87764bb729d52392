//! Frames as they are.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::libc;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, SockaddrLike, bind, socket,
};

/// A socket that sends frames out of a device of the calling thread's namespace.
pub(crate) fn sender(device: &str) -> OwnedFd {
    let fd = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        // Nothing is received.
        None::<SockProtocol>,
    )
    .expect("a packet socket");
    let index = nix::net::if_::if_nametoindex(device).expect("the device");
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: index as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = size_of::<libc::sockaddr_ll>() as u32;
    // SAFETY: it points to a whole `sockaddr_ll` of that length.
    let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(len)) };
    bind(fd.as_raw_fd(), &address.expect("a link address")).expect("bound");
    fd
}
