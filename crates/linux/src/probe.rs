//! What the running kernel can do.
//!
//! What can be asked is asked. Flags of helpers cannot, and go by the kernel's
//! version.

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkAttribute;

use crate::netlink::{self, Netlink};

/// A feature with the least kernel that has it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// The least kernel that has it.
    pub since: &'static str,
    /// Whether the datapath cannot do without it.
    pub required: bool,
    /// Whether the running kernel has it.
    pub available: bool,
    /// What is different without it.
    pub without: &'static str,
}

/// Every feature.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Features {
    /// The running kernel, as `uname -r` says it.
    pub kernel: String,
    /// Whether it is built with PREEMPT_RT, under which a program may be
    /// interrupted by another on the same CPU, and so is none for us.
    pub realtime: bool,
    /// Whether it could be asked: it answers whoever may load programs. Else
    /// everything is taken to be there, for loading tells.
    pub asked: bool,
    /// The features, in a fixed order.
    #[serde(rename = "features")]
    pub list: Vec<Feature>,
}

/// How a feature is looked for.
#[derive(Clone, Copy)]
enum Probe {
    Map(MapType),
    Helper(BpfHelper),
    /// A helper of the programs that sockets' calls ask.
    SocketHelper(BpfHelper),
    /// By a question of its own.
    Ask(fn() -> bool),
    /// By the kernel's version: `since`.
    Version,
}

/// A row of the table below.
struct Spec {
    name: &'static str,
    since: &'static str,
    required: bool,
    probe: Probe,
    without: &'static str,
}

const NO_START: &str = "the agent does not start";

const SPECS: [Spec; 15] = [
    must("ring-buffer", "5.8", Probe::Map(MapType::RingBuf)),
    must(
        "redirect-peer",
        "5.10",
        Probe::Helper(BpfHelper::BPF_FUNC_redirect_peer),
    ),
    must(
        "redirect-neigh",
        "5.10",
        Probe::Helper(BpfHelper::BPF_FUNC_redirect_neigh),
    ),
    must(
        "fib-lookup",
        "4.18",
        Probe::Helper(BpfHelper::BPF_FUNC_fib_lookup),
    ),
    may(
        "jit",
        "3.16",
        Probe::Ask(has_jit),
        "programs are interpreted: packets cost several times as much",
    ),
    may(
        Features::COARSE_CLOCK,
        "5.11",
        Probe::Helper(BpfHelper::BPF_FUNC_ktime_get_coarse_ns),
        "each packet reads the exact clock, which costs ten times as much",
    ),
    may(
        Features::TCX,
        "6.6",
        Probe::Ask(crate::sys::has_tcx),
        "programs are filters of a clsact qdisc, which anyone may remove; the agent puts them back \
         within five seconds",
    ),
    may(
        "map-batches",
        "5.6",
        Probe::Ask(crate::sys::has_map_batches),
        "maps are read entry by entry: sweeps of connections take several times as long",
    ),
    may(
        "big-tcp-ipv6",
        "5.19",
        Probe::Ask(has_big_tcp_ipv6),
        "IPv6 streams between pods move in pieces of 64 KiB",
    ),
    may(
        "big-tcp-ipv4",
        "6.3",
        Probe::Ask(has_big_tcp_ipv4),
        "IPv4 streams between pods move in pieces of 64 KiB",
    ),
    may(
        "socket-programs",
        "5.9",
        Probe::SocketHelper(BpfHelper::BPF_FUNC_get_netns_cookie),
        "addresses of services are translated in packets only, not at sockets",
    ),
    may(
        Features::SET_RETVAL,
        "6.1",
        Probe::SocketHelper(BpfHelper::BPF_FUNC_set_retval),
        "who connects to a service without backends is told EPERM, not ECONNREFUSED; so is who \
         binds to a service's port, not EADDRINUSE",
    ),
    may(
        "netns-cookie",
        "5.14",
        Probe::Ask(|| crate::netns::cookie().is_some()),
        "an agent that does not run in the machine's own network namespace takes its sockets for \
         those of a pod",
    ),
    may(
        Features::SOCKET_DESTROY,
        "4.9",
        Probe::Ask(crate::sockets::can_destroy),
        "connected sockets keep sending to a backend that is gone, until their owner closes them",
    ),
    may(
        Features::CHECKSUM_IPV6,
        "6.16",
        Probe::Version,
        "answers to masqueraded IPv6 that a network card has summed are summed again, and the \
         kernel's log blames the card",
    ),
];

const fn must(name: &'static str, since: &'static str, probe: Probe) -> Spec {
    Spec {
        name,
        since,
        required: true,
        probe,
        without: NO_START,
    }
}

const fn may(name: &'static str, since: &'static str, probe: Probe, without: &'static str) -> Spec {
    Spec {
        name,
        since,
        required: false,
        probe,
        without,
    }
}

/// Whether programs become machine code; true where that is not told.
fn has_jit() -> bool {
    let enabled = std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable");
    enabled.map_or(true, |enabled| enabled.trim() != "0")
}

/// What the kernel tells of the loopback device; empty if it does not.
fn loopback() -> Vec<LinkAttribute> {
    let ask = || {
        let question = netlink::get_link_at(netlink::LOOPBACK_IFINDEX);
        Netlink::open()?.get("looking for lo", question)
    };
    match ask() {
        Ok(Some(RouteNetlinkMessage::NewLink(link))) => link.attributes,
        _ => Vec::new(),
    }
}

fn has_big_tcp_ipv6() -> bool {
    let told = |a: &LinkAttribute| matches!(a, LinkAttribute::TsoMaxSize(_));
    loopback().iter().any(told)
}

fn has_big_tcp_ipv4() -> bool {
    let told = |a: &LinkAttribute| matches!(a, LinkAttribute::GsoIpv4MaxSize(_));
    loopback().iter().any(told)
}

/// Whether the kernel lets us ask: every one has this helper.
fn may_ask() -> bool {
    let known = BpfHelper::BPF_FUNC_map_lookup_elem;
    matches!(
        is_helper_supported(ProgramType::SchedClassifier, known),
        Ok(true)
    )
}

impl Spec {
    fn is_available(&self, version: (u32, u32)) -> bool {
        // What cannot be asked is taken to be there: loading tells.
        match self.probe {
            Probe::Map(map) => is_map_supported(map).unwrap_or(true),
            Probe::Helper(helper) => {
                is_helper_supported(ProgramType::SchedClassifier, helper).unwrap_or(true)
            }
            Probe::SocketHelper(helper) => {
                is_helper_supported(ProgramType::CgroupSockAddr, helper).unwrap_or(true)
            }
            Probe::Ask(ask) => ask(),
            Probe::Version => version >= parse_version(self.since),
        }
    }
}

impl Features {
    /// Links of several programs to a device.
    pub const TCX: &'static str = "tcx";
    /// A clock that costs a tenth of the exact one.
    pub const COARSE_CLOCK: &'static str = "coarse-clock";
    /// IPv6 checksums of hardware that sums whole packets stay right.
    pub const CHECKSUM_IPV6: &'static str = "checksum-ipv6";
    /// Sockets can be ended by who is not their owner.
    pub const SOCKET_DESTROY: &'static str = "socket-destroy";
    /// Programs choose what a refused call of a socket tells.
    pub const SET_RETVAL: &'static str = "socket-errno";

    /// Asks the running kernel.
    pub fn probe() -> Self {
        let (kernel, build) = nix::sys::utsname::uname().map_or_else(
            |_| Default::default(),
            |name| {
                let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
                (text(name.release()), text(name.version()))
            },
        );
        let version = parse_version(&kernel);
        let asked = may_ask();
        let list = SPECS.iter().map(|spec| Feature {
            name: spec.name,
            since: spec.since,
            required: spec.required,
            available: !asked || spec.is_available(version),
            without: spec.without,
        });
        Self {
            list: list.collect(),
            realtime: is_realtime(&build),
            kernel,
            asked,
        }
    }

    /// Whether a feature is there.
    pub fn has(&self, name: &str) -> bool {
        self.list.iter().any(|f| f.name == name && f.available)
    }

    /// Required features that are missing, each with the least kernel.
    pub fn missing(&self) -> impl Iterator<Item = &Feature> {
        self.list.iter().filter(|f| f.required && !f.available)
    }

    /// The object's load-time constants by name: what the kernel lacks is cut
    /// out of programs that are loaded with them.
    pub fn constants(&self) -> [(&'static str, u32); 4] {
        [
            // Copies of rows rely on loads in the order of the program.
            (
                "FEATURE_ORDERED_LOADS",
                u32::from(cfg!(any(target_arch = "x86", target_arch = "x86_64"))),
            ),
            (
                "FEATURE_COARSE_CLOCK",
                u32::from(self.has(Self::COARSE_CLOCK)),
            ),
            ("FEATURE_SET_RETVAL", u32::from(self.has(Self::SET_RETVAL))),
            (
                "FEATURE_CSUM_IPV6",
                u32::from(self.has(Self::CHECKSUM_IPV6)),
            ),
        ]
    }
}

/// Whether a kernel's build (`uname -v`) says that it is a real-time one.
fn is_realtime(build: &str) -> bool {
    build.split(' ').any(|word| word == "PREEMPT_RT")
}

/// Major and minor number of a release such as `6.1.0-40-amd64`.
fn parse_version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The second of the monotonic clock, as the programs write it into entries.
pub fn monotonic_s() -> u32 {
    use nix::time::{ClockId, clock_gettime};
    // The clock exists on every kernel; 0 makes nothing expire.
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .ok()
        .and_then(|time| u32::try_from(time.tv_sec()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{is_realtime, parse_version};

    #[test]
    fn real_time_kernels_are_told_by_their_build() {
        assert!(is_realtime(
            "#1 SMP PREEMPT_RT Debian 6.12.43-1 (2025-08-27)"
        ));
        assert!(!is_realtime(
            "#1 SMP PREEMPT_DYNAMIC Debian 6.1.140-1 (2025-05-22)"
        ));
        assert!(!is_realtime(""));
    }

    #[test]
    fn versions_of_distributions_are_read() {
        for (release, version) in [
            ("6.18.44", (6, 18)),
            ("6.1.0-40-amd64", (6, 1)),
            ("5.10.0-rc1+", (5, 10)),
            ("6.16-rc3", (6, 16)),
            ("", (0, 0)),
        ] {
            assert_eq!(parse_version(release), version, "{release}");
        }
    }
}
