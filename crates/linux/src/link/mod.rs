//! The devices of endpoints: a veth pair each.
//!
//! ```text
//!  node                            │ endpoint
//!  pod/32 dev lxc… , neighbour     │ address /32, 169.254.1.1 dev eth0,
//!  lxc… (stubs) ═══════════════════│═══ eth0    default via 169.254.1.1
//! ```
//!
//! IPv6 likewise, with `/128` and `fe80::1`, and without duplicate address
//! detection. No device makes itself a link-local address: what it would say
//! from there is noise that policy had to drop.

mod create;
mod inspect;
mod sysctl;

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use axon_model::Mac;

pub use create::{create, create_guarded, delete, delete_own, repair_host_side};
pub use inspect::{check, endpoint_routes};

/// The IPv4 gateway that every endpoint has; nobody owns it, the datapath
/// answers for it.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The IPv6 gateway that every endpoint has.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// What names of host-side devices begin with.
pub const HOST_PREFIX: &str = "lxc";

/// A network namespace, named by a path or held open.
#[derive(Debug)]
pub enum Netns {
    /// A path such as `/run/netns/x` or `/proc/1/ns/net`.
    Path(PathBuf),
    /// An open descriptor of one.
    Fd(OwnedFd),
}

/// A namespace that is held open.
enum Entered<'a> {
    File(File),
    Fd(BorrowedFd<'a>),
}

impl AsFd for Entered<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::File(file) => file.as_fd(),
            Self::Fd(fd) => *fd,
        }
    }
}

impl Netns {
    fn open(&self) -> Result<Entered<'_>, LinkError> {
        match self {
            Self::Path(path) => {
                File::open(path)
                    .map(Entered::File)
                    .map_err(|source| LinkError::Netns {
                        netns: self.to_string(),
                        source,
                    })
            }
            Self::Fd(fd) => Ok(Entered::Fd(fd.as_fd())),
        }
    }

    /// Runs something inside.
    fn within<R: Send>(
        &self,
        run: impl FnOnce() -> Result<R, LinkError> + Send,
    ) -> Result<R, LinkError> {
        let entered = self.open()?;
        crate::netns::within(entered.as_fd(), run).map_err(|source| LinkError::Netns {
            netns: self.to_string(),
            source,
        })?
    }
}

impl std::fmt::Display for Netns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Fd(fd) => write!(f, "{fd:?}"),
        }
    }
}

/// An endpoint's devices as they shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointLink {
    /// Name of the host-side device; see [`host_name`].
    pub host_name: String,
    /// Name of the device inside.
    pub container_name: String,
    /// MAC address of the host-side device.
    pub host_mac: Mac,
    /// MAC address of the device inside.
    pub container_mac: Mac,
    /// MTU of both devices.
    pub mtu: u32,
    /// The endpoint's IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// The endpoint's IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Whether IPv4 may be in aggregates beyond 64 KiB (BIG TCP).
    pub big_tcp_ipv4: bool,
    /// Whether IPv6 may be.
    pub big_tcp_ipv6: bool,
}

impl EndpointLink {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ipv4
            .map(IpAddr::V4)
            .into_iter()
            .chain(self.ipv6.map(IpAddr::V6))
    }
}

/// Why a device is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The namespace cannot be entered.
    #[error("network namespace {netns} cannot be entered")]
    Netns {
        /// The namespace.
        netns: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A device with that name is there and is none of ours.
    #[error("{netns} already has a device {device}")]
    Exists {
        /// The namespace.
        netns: String,
        /// The device.
        device: String,
    },
    /// A filter of another program is where ours would stand, and neither shares
    /// the place nor leaves one before it.
    #[error(
        "a filter of another program, {filter}, has preference 1 at the {side} of {device}, and \
         what it accepts ours would not see: take it away (tc filter del dev {device} {side} \
         pref 1) and add it with preference 2 or more"
    )]
    Occupied {
        /// Its kind and protocol.
        filter: String,
        /// The device.
        device: String,
        /// The side of the device, as `tc` calls it.
        side: &'static str,
    },
    /// The kernel refused.
    #[error("{what} failed")]
    Netlink {
        /// What was tried, with the device and the address.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The name of the host-side device of an attachment: `lxc` and ten
/// hexadecimal digits made from the container and the device inside.
pub fn host_name(container_id: &str, interface: &str) -> String {
    // FNV-1a: stable over versions. With 40 bits, two of 250 attachments of a node get the same
    // name once in 35 million nodes: whoever gives names out looks whether one is taken, and
    // `create` leaves another endpoint's device alone.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in container_id.bytes().chain([0]).chain(interface.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{HOST_PREFIX}{:010x}", hash >> 24)
}

/// Whether a name is one that [`host_name`] makes.
pub fn is_host_name(name: &str) -> bool {
    name.strip_prefix(HOST_PREFIX).is_some_and(|digits| {
        digits.len() == 10
            && digits
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::{host_name, is_host_name};

    #[test]
    fn host_names_are_stable_and_told_apart() {
        let name = host_name("0123456789abcdef", "eth0");
        assert_eq!(name, host_name("0123456789abcdef", "eth0"));
        assert_ne!(name, host_name("0123456789abcdef", "eth1"));
        assert_ne!(host_name("ab", "c"), host_name("a", "bc"));
        assert_eq!(name.len(), 13, "fits IFNAMSIZ");
        assert!(is_host_name(&name));
        for other in ["lxc", "lxcbr0", "lxc_health", "eth0", "lxc0123456789x"] {
            assert!(!is_host_name(other), "{other}");
        }
    }
}
