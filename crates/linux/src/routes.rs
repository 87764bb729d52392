//! Routes to other nodes' pods: a target of reconciliation.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axon_model::Route;
use axon_statedb::Target;
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use nix::libc;

use crate::link::LinkError;
use crate::netlink::{Netlink, ROUTE_PROTOCOL, Request, RouteSpec, get_routes, read_route};

/// Every route of a family that carries our protocol number.
pub(crate) fn of_ours(netlink: &mut Netlink, v6: bool) -> Result<Vec<RouteSpec>, LinkError> {
    let answers = netlink.dump("listing routes", &get_routes(v6))?;
    Ok(answers
        .iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        })
        .filter(|route| route.header.protocol == ROUTE_PROTOCOL)
        .filter_map(read_route)
        .collect())
}

/// Deletes every route of ours in the calling thread's namespace; says how
/// many there were.
pub(crate) fn delete_all() -> Result<usize, LinkError> {
    let mut netlink = Netlink::open()?;
    let mut deleted = 0;
    for v6 in [false, true] {
        for route in of_ours(&mut netlink, v6)? {
            netlink.request(delete_request(&route))?;
            deleted += 1;
        }
    }
    Ok(deleted)
}

fn delete_request(route: &RouteSpec) -> Request {
    let what = format!("deleting the route to {}", route.destination);
    Request::new(what, route.delete(), 0).tolerate(libc::ESRCH)
}

/// Routes by a gateway, in one table of the namespace that the calling thread
/// was in when the target was made.
pub(crate) struct RouteTarget {
    netlink: Result<Netlink, String>,
    table: u32,
}

impl RouteTarget {
    pub(crate) fn new(table: u32) -> Self {
        Self {
            netlink: Netlink::open().map_err(|error| error.to_string()),
            table,
        }
    }

    fn netlink(&mut self) -> Result<&mut Netlink, LinkError> {
        self.netlink.as_mut().map_err(|error| LinkError::Netlink {
            what: "opening a netlink socket".to_owned(),
            source: std::io::Error::other(error.clone()),
        })
    }

    fn spec(&self, destination: IpNet, via: Option<IpAddr>) -> RouteSpec {
        RouteSpec {
            destination: destination.trunc(),
            via,
            ifindex: None,
            table: self.table,
        }
    }
}

impl Target for RouteTarget {
    type Key = IpNet;
    type Value = Route;
    type Error = LinkError;

    fn update(&mut self, key: &IpNet, value: &Route) -> Result<(), LinkError> {
        // The row may be in force already: there must be no moment without a route, in which
        // packets would go by a wider one.
        let spec = self.spec(*key, Some(value.via));
        let what = format!("routing {key} by {}", value.via);
        let replace = Request::new(what, spec.add(), NLM_F_CREATE | NLM_F_REPLACE);
        self.netlink()?.request(replace)
    }

    fn delete(&mut self, key: &IpNet) -> Result<(), LinkError> {
        let spec = self.spec(*key, None);
        self.netlink()?.request(delete_request(&spec))
    }

    fn dump(&mut self) -> Result<BTreeMap<IpNet, Route>, LinkError> {
        let table = self.table;
        let netlink = self.netlink()?;
        let mut routes = of_ours(netlink, false)?;
        routes.extend(of_ours(netlink, true)?);
        Ok(routes
            .into_iter()
            .filter(|route| route.table == table)
            .filter_map(|route| Some((route.destination, Route { via: route.via? })))
            .collect())
    }
}
