//! The wire between the nodes: a bridge in a namespace of its own, and a
//! world outside.
//!
//! ```text
//!  netns of node-1      netns underlay       netns outside
//!   eth0 172.30.0.1 ───── n1 ┐      ┌ out ──── eth0 198.51.100.1 to .4, 203.0.113.1
//!   eth0 172.30.0.2 ───── n2 ┴ br0 ─┘               2001:db8::1 to ::4
//! ```
//!
//! Everyone is on one link, whatever the addresses: each has a route of its
//! own to each other one's. The nodes' default route goes to the world, which
//! can reach pods only through the nodes that hold them.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context, Result};
use ipnet::IpNet;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::enter::in_netns;
use crate::netlink::Netlink;
use crate::paths::Lab;
use crate::plan::NodePlan;

const BRIDGE: &str = "br0";
/// The nodes' device towards the wire.
pub(crate) const UPLINK: &str = "eth0";

/// Addresses of the world outside; the first of each family is the gateway.
pub(crate) fn world() -> Vec<IpAddr> {
    let v4 = (1..=4).map(|n| Ipv4Addr::new(198, 51, 100, n).into());
    let v6 = (1..=4).map(|n| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n).into());
    v4.chain([Ipv4Addr::new(203, 0, 113, 1).into()])
        .chain(v6)
        .collect()
}

/// Makes a network namespace, with its loopback up, held by a mount at `path`.
///
/// # Errors
/// The kernel's answer; there is one already.
pub(crate) fn make_netns(path: &Path) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    File::create_new(path).with_context(|| format!("making {}", path.display()))?;
    let made = std::thread::scope(|scope| {
        scope
            .spawn(|| -> Result<()> {
                unshare(CloneFlags::CLONE_NEWNET).context("unshare(CLONE_NEWNET)")?;
                let here = Path::new("/proc/thread-self/ns/net");
                mount(
                    Some(here),
                    path,
                    None::<&str>,
                    MsFlags::MS_BIND,
                    None::<&str>,
                )
                .context("mounting it")?;
                Netlink::open()?.up("lo")?;
                Ok(())
            })
            .join()
            .map_err(|_| anyhow::anyhow!("a thread panicked"))?
    });
    made.with_context(|| format!("making network namespace {}", path.display()))
}

/// Gives a namespace up; it ends with the last process in it.
pub(crate) fn drop_netns(path: &Path) -> Result<()> {
    if path.exists() {
        // Absent mounts are no error: whoever died half way left no more than the file.
        let _ = nix::mount::umount2(path, nix::mount::MntFlags::MNT_DETACH);
        std::fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

/// Makes the bridge and the world outside.
pub(crate) fn make_underlay(lab: &Lab) -> Result<()> {
    make_netns(&lab.underlay())?;
    make_netns(&lab.outside())?;
    in_netns(&lab.underlay(), || {
        let mut netlink = Netlink::open()?;
        let bridge = netlink.bridge(BRIDGE)?;
        netlink.port("out", bridge, UPLINK, &File::open(lab.outside())?)
    })?;
    in_netns(&lab.outside(), || {
        let mut netlink = Netlink::open()?;
        let index = up_at_once(&mut netlink)?;
        for ip in world() {
            netlink.address(index, IpNet::from(ip))?;
        }
        Ok(())
    })
    .context("the world outside")
}

/// Gives the world outside these addresses in place of those, beside its own.
pub(crate) fn change_outside(
    lab: &Lab,
    old: &BTreeSet<IpAddr>,
    new: &BTreeSet<IpAddr>,
) -> Result<()> {
    let own = world();
    let differ = |a: &BTreeSet<IpAddr>, b: &BTreeSet<IpAddr>| -> Vec<IpAddr> {
        let ips = a.difference(b).copied();
        ips.filter(|ip| !own.contains(ip)).collect()
    };
    let (gone, come) = (differ(old, new), differ(new, old));
    if gone.is_empty() && come.is_empty() {
        return Ok(());
    }
    in_netns(&lab.outside(), || {
        let mut netlink = Netlink::open()?;
        let index = nix::net::if_::if_nametoindex(UPLINK)?;
        for ip in gone {
            netlink.delete_address(index, IpNet::from(ip))?;
        }
        for ip in come {
            netlink.address(index, IpNet::from(ip))?;
        }
        Ok(())
    })
    .context("the world outside")
}

/// Plugs a node in: its device, its addresses, its way out. The number names
/// its port.
pub(crate) fn plug_node(lab: &Lab, node: &NodePlan, number: usize) -> Result<()> {
    let netns = lab.node(&node.name).netns();
    in_netns(&lab.underlay(), || {
        let mut netlink = Netlink::open()?;
        let bridge = nix::net::if_::if_nametoindex(BRIDGE)?;
        netlink.port(&port(number), bridge, UPLINK, &File::open(&netns)?)
    })?;
    in_netns(&netns, || {
        let mut netlink = Netlink::open()?;
        let index = up_at_once(&mut netlink)?;
        for ip in &node.addresses {
            let bits = if ip.is_ipv4() { 24 } else { 64 };
            netlink.address(index, IpNet::new(*ip, bits)?)?;
        }
        for ip in &node.external {
            netlink.address(index, IpNet::from(*ip))?;
        }
        for ip in world() {
            netlink.route(IpNet::from(ip), index, None)?;
        }
        for everything in [
            IpNet::from(IpAddr::from([0; 4])),
            IpNet::from(IpAddr::from([0; 16])),
        ] {
            let v6 = everything.addr().is_ipv6();
            let gateway = world().into_iter().find(|ip| ip.is_ipv6() == v6);
            netlink.route(IpNet::new(everything.addr(), 0)?, index, gateway)?;
        }
        Ok(())
    })?;
    in_netns(&lab.outside(), || {
        let mut netlink = Netlink::open()?;
        let index = nix::net::if_::if_nametoindex(UPLINK)?;
        for ip in &node.addresses {
            netlink.route(IpNet::from(*ip), index, None)?;
        }
        for net in &node.pod_cidrs {
            let v6 = net.addr().is_ipv6();
            let via = node.addresses.iter().find(|ip| ip.is_ipv6() == v6);
            netlink.route(*net, index, via.copied())?;
        }
        Ok(())
    })
    .context("the world outside")
}

/// Brings the uplink up, without a search for duplicates of its link-local
/// address: until that ends nobody asks for neighbours, and packets are lost.
fn up_at_once(netlink: &mut Netlink) -> Result<u32> {
    let setting = format!("/proc/sys/net/ipv6/conf/{UPLINK}/accept_dad");
    std::fs::write(&setting, "0").with_context(|| setting.clone())?;
    netlink.up(UPLINK)
}

/// Unplugs a node.
pub(crate) fn unplug_node(lab: &Lab, number: usize) -> Result<()> {
    in_netns(&lab.underlay(), || Netlink::open()?.delete(&port(number)))
}

/// Tells two nodes of each other's addresses.
pub(crate) fn acquaint(lab: &Lab, nodes: &[(String, Vec<IpAddr>)]) -> Result<()> {
    for (name, own) in nodes {
        in_netns(&lab.node(name).netns(), || {
            let mut netlink = Netlink::open()?;
            let index = nix::net::if_::if_nametoindex(UPLINK)?;
            for ip in nodes.iter().flat_map(|(_, ips)| ips) {
                if !own.contains(ip) {
                    netlink.route(IpNet::from(*ip), index, None)?;
                }
            }
            Ok(())
        })
        .with_context(|| format!("node {name}"))?;
    }
    Ok(())
}

fn port(number: usize) -> String {
    format!("n{number}")
}
