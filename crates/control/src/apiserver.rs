//! Who the API servers are: the endpoints of the Service `default/kubernetes`,
//! as Cilium has it.
//!
//! On another node an address of theirs has the reserved identity; this node
//! and addresses outside the cluster have a label more.

use std::collections::BTreeSet;
use std::net::IpAddr;

use axon_abi::Identity;
use axon_model::{Label, Labels, source};
use ipnet::IpNet;

use crate::controller::Controller;
use crate::ipcache::single;
use crate::seen::View;

/// The namespace and the name of their Service.
const SERVICE: (&str, &str) = ("default", "kubernetes");

impl Controller {
    /// Brings the addresses of the API servers up to date; says whether they
    /// have changed. What is only half told changes nothing.
    pub(crate) fn follow_apiservers(&mut self, view: &View) -> bool {
        let slices = &view.endpoint_slices;
        let concerned = slices.is_changed_where(|key| key.namespace == SERVICE.0);
        if !concerned || !slices.rows.is_complete() {
            return false;
        }
        let of_service = slices
            .rows
            .iter()
            .filter(|(key, slice)| (key.namespace.as_str(), slice.service.as_str()) == SERVICE);
        let addresses = of_service.flat_map(|(_, slice)| slice.addresses.iter().copied());
        let addresses: BTreeSet<IpAddr> = addresses.collect();
        let is_changed = addresses != self.apiservers;
        self.apiservers = addresses;
        is_changed
    }

    /// Prefixes of those API servers that are on no node.
    pub(crate) fn apiservers_outside(&self, view: &View) -> BTreeSet<IpNet> {
        let mut outside = self.apiservers.clone();
        for node in view.nodes.rows.values() {
            for address in &node.addresses {
                outside.remove(&address.addr);
            }
        }
        outside.into_iter().map(single).collect()
    }

    /// The labels of an address, and one more if it is an API server's.
    pub(crate) fn with_apiserver(&self, mut labels: Labels, address: &IpNet) -> Labels {
        let is_server = address.prefix_len() == address.max_prefix_len()
            && self.apiservers.contains(&address.addr());
        if is_server && let Some(name) = Identity::KUBE_APISERVER.reserved_name() {
            labels.insert(Label::new(source::RESERVED, name, ""));
        }
        labels
    }
}
