//! The programs of sockets: what a socket names is a service's address to its
//! owner, and a backend's to the kernel.
//!
//! They may be interrupted: by the programs of packets, and by each other on
//! another socket. So they have no room that belongs to a CPU.

use axon_abi::{Be16, Direction, IpKey, SocketEntry, SocketKey, metrics_index};
use axon_datapath::{Refusal, Socket, SocketTables};
use aya_ebpf::Global;
use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr};
use aya_ebpf::programs::{SockAddrContext, SockContext};

use crate::kernel::{self, BPF_ANY, lend};
use crate::maps;
use crate::services::Services;

/// What a program says: the kernel goes on, or refuses.
const PROCEED: i32 = 1;
const REFUSE: i32 = 0;

const AF_INET6: u32 = 10;

/// 1 if a program may choose what a refused call tells (Linux 6.1); else it is
/// `EPERM`.
#[unsafe(no_mangle)]
static FEATURE_SET_RETVAL: Global<u32> = Global::new(1);
/// The cookie of the node's own network namespace; 0 is that of the kernel's
/// first one.
#[unsafe(no_mangle)]
static HOST_NETNS_COOKIE: Global<u64> = Global::new(0);
/// 1 if only the node's own sockets are translated.
#[unsafe(no_mangle)]
static SOCKET_HOST_ONLY: Global<u32> = Global::new(0);

#[cgroup_sock_addr(connect4)]
pub fn sock4_connect(ctx: SockAddrContext) -> i32 {
    answer(axon_datapath::connect(
        &mut Named::<false>::new(&ctx),
        &Services,
    ))
}

#[cgroup_sock_addr(connect6)]
pub fn sock6_connect(ctx: SockAddrContext) -> i32 {
    answer(axon_datapath::connect(
        &mut Named::<true>::new(&ctx),
        &Services,
    ))
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sock4_sendmsg(ctx: SockAddrContext) -> i32 {
    answer(axon_datapath::send(
        &mut Named::<false>::new(&ctx),
        &Services,
    ))
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sock6_sendmsg(ctx: SockAddrContext) -> i32 {
    answer(axon_datapath::send(
        &mut Named::<true>::new(&ctx),
        &Services,
    ))
}

#[cgroup_sock_addr(recvmsg4)]
pub fn sock4_recvmsg(ctx: SockAddrContext) -> i32 {
    axon_datapath::reverse(&mut Named::<false>::new(&ctx), &Services);
    PROCEED
}

#[cgroup_sock_addr(recvmsg6)]
pub fn sock6_recvmsg(ctx: SockAddrContext) -> i32 {
    axon_datapath::reverse(&mut Named::<true>::new(&ctx), &Services);
    PROCEED
}

#[cgroup_sock_addr(getpeername4)]
pub fn sock4_peername(ctx: SockAddrContext) -> i32 {
    axon_datapath::reverse(&mut Named::<false>::new(&ctx), &Services);
    PROCEED
}

#[cgroup_sock_addr(getpeername6)]
pub fn sock6_peername(ctx: SockAddrContext) -> i32 {
    axon_datapath::reverse(&mut Named::<true>::new(&ctx), &Services);
    PROCEED
}

#[cgroup_sock(post_bind4)]
pub fn sock4_post_bind(ctx: SockContext) -> i32 {
    // SAFETY: the context is the program's own; the hook may read these fields.
    let (addr, port) = unsafe { ((*ctx.sock).src_ip4, (*ctx.sock).src_port) };
    let addr = IpKey::from_v4(addr.to_ne_bytes());
    answer(axon_datapath::bind(
        &Whole::new(&ctx, addr, Be16::new(port as u16)),
        &Services,
    ))
}

#[cgroup_sock(post_bind6)]
pub fn sock6_post_bind(ctx: SockContext) -> i32 {
    // SAFETY: the context is the program's own; the hook may read these fields.
    let (addr, port) = unsafe { (words(&raw const (*ctx.sock).src_ip6), (*ctx.sock).src_port) };
    answer(axon_datapath::bind(
        &Whole::new(&ctx, addr, Be16::new(port as u16)),
        &Services,
    ))
}

#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    let sock = ctx.sock;
    // SAFETY: the context is the program's own; the hook may read these fields.
    let addr = unsafe {
        if (*sock).family == AF_INET6 {
            words(&raw const (*sock).dst_ip6)
        } else {
            IpKey::from_v4((*sock).dst_ip4.to_ne_bytes())
        }
    };
    // SAFETY: as above.
    let port = unsafe { (&raw const (*sock).dst_port).cast::<u16>().read_volatile() };
    let port = Be16::from_bytes(port.to_ne_bytes());
    axon_datapath::release(&Whole::new(&ctx, addr, port), &Services);
    PROCEED
}

/// Counts what is refused, and says so to the kernel.
#[inline(always)]
fn answer(result: Result<(), Refusal>) -> i32 {
    let Err(refusal) = result else {
        return PROCEED;
    };
    if let Some(reason) = refusal.reason() {
        kernel::count_whole(metrics_index(reason as u8, Direction::Egress));
    }
    if FEATURE_SET_RETVAL.load() != 0 {
        // SAFETY: a helper without preconditions; what the kernel lacks is pruned by the verifier.
        unsafe { bpf_set_retval(-refusal.errno()) };
    }
    REFUSE
}

/// An address of four words of a context, each read for itself: the kernel has
/// them elsewhere.
#[inline(always)]
unsafe fn words(from: *const [u32; 4]) -> IpKey {
    let from = from.cast::<u32>();
    // SAFETY: the caller's context has the four words.
    let words = unsafe {
        [
            from.read_volatile(),
            from.add(1).read_volatile(),
            from.add(2).read_volatile(),
            from.add(3).read_volatile(),
        ]
    };
    IpKey(zerocopy::transmute!(words))
}

/// A socket with an address that a call names or tells.
struct Named<const V6: bool> {
    ctx: *mut bpf_sock_addr,
}

impl<const V6: bool> Named<V6> {
    #[inline(always)]
    const fn new(ctx: &SockAddrContext) -> Self {
        Self { ctx: ctx.sock_addr }
    }
}

impl<const V6: bool> Socket for Named<V6> {
    #[inline(always)]
    fn protocol(&self) -> u32 {
        // SAFETY: the context is the program's own.
        unsafe { (*self.ctx).protocol }
    }

    #[inline(always)]
    fn is_v6(&self) -> bool {
        V6
    }

    #[inline(always)]
    fn addr(&self) -> IpKey {
        // SAFETY: the context is the program's own, and has the address of its family.
        unsafe {
            if V6 {
                words(&raw const (*self.ctx).user_ip6)
            } else {
                IpKey::from_v4(
                    (&raw const (*self.ctx).user_ip4)
                        .read_volatile()
                        .to_ne_bytes(),
                )
            }
        }
    }

    #[inline(always)]
    fn port(&self) -> Be16 {
        // SAFETY: the context is the program's own.
        let port = unsafe { (&raw const (*self.ctx).user_port).read_volatile() };
        // In network order, in the lower half.
        Be16::from_bytes((port as u16).to_ne_bytes())
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the context is the program's own.
        unsafe { bpf_get_socket_cookie(self.ctx.cast()) }
    }

    #[inline(always)]
    fn netns_cookie(&self) -> u64 {
        // SAFETY: the context is the program's own.
        unsafe { bpf_get_netns_cookie(self.ctx.cast()) }
    }

    #[inline(always)]
    fn redirect(&mut self, addr: &IpKey, port: Be16) {
        let words: [u32; 4] = zerocopy::transmute!(addr.0);
        // SAFETY: the context is the program's own, and the hook may write these fields.
        unsafe {
            if V6 {
                let to = (&raw mut (*self.ctx).user_ip6).cast::<u32>();
                to.write_volatile(words[0]);
                to.add(1).write_volatile(words[1]);
                to.add(2).write_volatile(words[2]);
                to.add(3).write_volatile(words[3]);
            } else {
                (&raw mut (*self.ctx).user_ip4).write_volatile(words[3]);
            }
            let port = u32::from(u16::from_ne_bytes(port.to_bytes()));
            (&raw mut (*self.ctx).user_port).write_volatile(port);
        }
    }
}

/// A socket that is bound or closed, with one of its own addresses.
struct Whole {
    ctx: *mut bpf_sock,
    addr: IpKey,
    port: Be16,
}

impl Whole {
    #[inline(always)]
    const fn new(ctx: &SockContext, addr: IpKey, port: Be16) -> Self {
        Self {
            ctx: ctx.sock,
            addr,
            port,
        }
    }
}

impl Socket for Whole {
    #[inline(always)]
    fn protocol(&self) -> u32 {
        // SAFETY: the context is the program's own.
        unsafe { (*self.ctx).protocol }
    }

    #[inline(always)]
    fn is_v6(&self) -> bool {
        !self.addr.is_v4()
    }

    #[inline(always)]
    fn addr(&self) -> IpKey {
        self.addr
    }

    #[inline(always)]
    fn port(&self) -> Be16 {
        self.port
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: the context is the program's own.
        unsafe { bpf_get_socket_cookie(self.ctx.cast()) }
    }

    #[inline(always)]
    fn netns_cookie(&self) -> u64 {
        // SAFETY: the context is the program's own.
        unsafe { bpf_get_netns_cookie(self.ctx.cast()) }
    }

    #[inline(always)]
    fn redirect(&mut self, _: &IpKey, _: Be16) {}
}

impl SocketTables for Services {
    #[inline(always)]
    fn socket(&self, key: &SocketKey) -> Option<SocketEntry> {
        lend(maps::SOCKET.get_ptr(key)).copied()
    }

    #[inline(always)]
    fn socket_insert(&self, key: &SocketKey, entry: &SocketEntry) -> bool {
        maps::SOCKET.insert(key, entry, BPF_ANY).is_ok()
    }

    #[inline(always)]
    fn socket_remove(&self, key: &SocketKey) {
        // It may have been evicted.
        let _ = maps::SOCKET.remove(key);
    }

    #[inline(always)]
    fn is_host(&self, netns_cookie: u64) -> bool {
        let host = match HOST_NETNS_COOKIE.load() {
            // SAFETY: without a context, the kernel tells that of its first namespace.
            0 => unsafe { bpf_get_netns_cookie(core::ptr::null_mut()) },
            cookie => cookie,
        };
        netns_cookie == host
    }

    #[inline(always)]
    fn host_only(&self) -> bool {
        SOCKET_HOST_ONLY.load() != 0
    }
}
