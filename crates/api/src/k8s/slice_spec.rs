//! What slices say, and what is wrong with it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use axon_model::{Fault, SliceEndpoint, SlicePort, Written};

use super::EndpointSlice;
use super::service_spec::{annotation_path, fault, number};
use crate::select::{address, transport};

/// What a slice says of its endpoints.
pub(super) fn read(slice: &EndpointSlice, read: &mut axon_model::EndpointSlice) {
    if read.service.is_empty() {
        let path = "metadata.labels[kubernetes.io/service-name]";
        let reason = "is missing; expected the name of the slice's service";
        read.faults.push(Fault::new(path, reason));
    }
    let key = "service.cilium.io/weight";
    if let Some(text) = slice.metadata.annotations.get(key) {
        read.weight = text.trim().parse().ok();
        if read.weight.is_none() {
            let reason = format!("{text:?}; expected 0 to 65535");
            read.faults.push(Fault::new(annotation_path(key), reason));
        }
    }
    let is_v6 = match slice.address_type.as_str() {
        "IPv4" => false,
        "IPv6" => true,
        // Names are resolved by whoever asks for them.
        "FQDN" => return,
        other => {
            let reason = format!("{other:?}; expected IPv4, IPv6 or FQDN");
            read.faults.push(Fault::new("addressType", reason));
            return;
        }
    };
    for (n, port) in slice.ports.iter().enumerate() {
        let protocol = transport(&port.protocol, &format!("ports[{n}].protocol"));
        let protocol = protocol.map_err(|error| read.faults.push(fault(error)));
        let wanted = port.port.unwrap_or_default();
        let wanted = (wanted != 0).then(|| {
            let path = format!("ports[{n}].port");
            number(wanted, &path, &mut read.faults)
        });
        if let (Ok(protocol), Some(Some(port_number))) = (protocol, wanted) {
            read.ports.push(SlicePort {
                name: port.name.clone(),
                protocol,
                port: port_number,
            });
        }
    }
    endpoints(slice, is_v6, read);
}

fn endpoints(slice: &EndpointSlice, is_v6: bool, read: &mut axon_model::EndpointSlice) {
    let mut seen: BTreeSet<IpAddr> = BTreeSet::new();
    for (n, endpoint) in slice.endpoints.iter().enumerate() {
        let mut addresses = Vec::new();
        for (m, text) in endpoint.addresses.iter().enumerate() {
            let field = format!("endpoints[{n}].addresses[{m}]");
            let addr = match address(text, &field) {
                Ok(addr) => addr,
                Err(error) => {
                    read.faults.push(fault(error));
                    continue;
                }
            };
            let reason = if addr.is_ipv6() != is_v6 {
                let kind = &slice.address_type;
                format!("{addr} is not of the slice's addressType {kind}")
            } else if addr.is_loopback() || addr.is_unspecified() || addr.is_multicast() {
                format!("{addr} is nobody's; expected an address that one endpoint has")
            } else if !seen.insert(addr) {
                format!("{addr} is in the slice already")
            } else {
                addresses.push(Written { field, addr });
                continue;
            };
            read.faults.push(Fault::new(field, reason));
        }
        let conditions = &endpoint.conditions;
        let names =
            |hints: &[super::EndpointHint]| hints.iter().map(|hint| hint.name.clone()).collect();
        read.endpoints.push(SliceEndpoint {
            addresses,
            is_ready: conditions.ready.unwrap_or(true),
            is_serving: conditions.serving.unwrap_or(true),
            is_terminating: conditions.terminating.unwrap_or(false),
            node: endpoint.node_name.clone(),
            for_zones: names(&endpoint.hints.for_zones),
            for_nodes: names(&endpoint.hints.for_nodes),
        });
    }
}
