//! Whether devices still are as they were made.

use std::net::IpAddr;

use axon_model::Mac;

use super::create::{self, SWITCHES};
use super::{EndpointLink, LinkError, Netns, sysctl};
use crate::device::{self, Device};
use crate::netlink::{self, Netlink, RouteSpec};

/// What differs from what [`super::create()`] made, one sentence each.
///
/// # Errors
/// [`LinkError::Netns`], [`LinkError::Netlink`].
pub fn check(netns: &Netns, link: &EndpointLink) -> Result<Vec<String>, LinkError> {
    let mut problems = side(
        &link.host_name,
        link.host_mac,
        link,
        &[],
        |addr, ifindex| vec![create::host_route(addr, ifindex)],
    )?;
    let inside = netns.within(|| {
        let addresses: Vec<IpAddr> = link.addresses().collect();
        let name = &link.container_name;
        let mut problems = side(
            name,
            link.container_mac,
            link,
            &addresses,
            |addr, ifindex| create::inner_routes(addr, ifindex).into(),
        )?;
        for (family, switch, value) in SWITCHES {
            if let Some(found) = sysctl::get(family, name, switch)
                && found != value
            {
                problems.push(format!("{switch} of {name} is {found}, expected {value}"));
            }
        }
        Ok(problems)
    })?;
    problems.extend(inside);
    Ok(problems)
}

/// Looks at one of the two devices, in the calling thread's namespace.
fn side(
    name: &str,
    mac: Mac,
    link: &EndpointLink,
    addresses: &[IpAddr],
    routes: impl Fn(IpAddr, u32) -> Vec<RouteSpec>,
) -> Result<Vec<String>, LinkError> {
    let Some(device) = device::list()?
        .into_iter()
        .find(|device| device.name == name)
    else {
        return Ok(vec![format!("there is no device {name}")]);
    };
    let mut problems = differences(&device, mac, link.mtu, addresses);
    let present = routes_of_ours()?;
    for addr in link.addresses() {
        for route in routes(addr, device.ifindex) {
            if !present.contains(&route) {
                problems.push(format!("{name} has no route to {}", route.destination));
            }
        }
    }
    Ok(problems)
}

fn differences(device: &Device, mac: Mac, mtu: u32, addresses: &[IpAddr]) -> Vec<String> {
    let name = &device.name;
    let mut problems = Vec::new();
    if !device.up {
        problems.push(format!("{name} is down"));
    }
    if device.mac != Some(mac) {
        let found = device
            .mac
            .map_or_else(|| "none".to_owned(), |mac| mac.to_string());
        problems.push(format!("{name} has MAC address {found}, expected {mac}"));
    }
    if device.mtu != mtu {
        problems.push(format!("{name} has MTU {}, expected {mtu}", device.mtu));
    }
    for addr in addresses {
        if !device.addresses.iter().any(|(found, _)| found == addr) {
            problems.push(format!("{name} does not have address {addr}"));
        }
    }
    problems
}

/// The routes with our protocol number in the calling thread's namespace.
fn routes_of_ours() -> Result<Vec<RouteSpec>, LinkError> {
    let mut netlink = Netlink::open()?;
    let mut routes = Vec::new();
    for v6 in [false, true] {
        routes.extend(crate::routes::of_ours(&mut netlink, v6)?);
    }
    Ok(routes)
}

/// Host routes that this crate made for endpoints: the address and the device.
///
/// # Errors
/// [`LinkError::Netlink`].
pub fn endpoint_routes() -> Result<Vec<(IpAddr, u32)>, LinkError> {
    Ok(routes_of_ours()?
        .into_iter()
        .filter(|route| {
            route.via.is_none()
                && route.destination.prefix_len() == netlink::host_bits(route.destination.addr())
        })
        .filter_map(|route| Some((route.destination.addr(), route.ifindex?)))
        .collect())
}
