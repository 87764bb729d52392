//! A node of a described cluster as its agent would dump it, so that a packet
//! can be replayed over it.

use std::collections::BTreeMap;

use axon_abi::{
    ConfigFlags, EndpointRow, HOST_DEVICE, Identity, IdentityRow, IpKey, IpcacheFlags, IpcacheRow,
    LpmKey, RuntimeConfig,
};
use axon_api::state::{
    MapRows, NodeRow, NodeState, PolicyRow, RuleRow, STATE_MAPS, STATE_VERSION, WorkloadRow,
};
use axon_replay::{identity_row, policy_reading};
use zerocopy::{Immutable, IntoBytes};

use crate::world::{NodeView, Owner, World};

/// The device of the first endpoint; the loopback comes before, and the uplink.
const DEVICES: u32 = 10;
/// The device that the network is behind.
const UPLINK: u32 = 2;

/// Rows by the names of their maps.
struct Rows(BTreeMap<String, MapRows>);

impl Rows {
    fn push<K, V>(&mut self, map: &str, key: &K, value: &V)
    where
        K: IntoBytes + Immutable,
        V: IntoBytes + Immutable,
    {
        let rows = self.0.entry(map.to_owned()).or_default();
        rows.push(key, value);
    }
}

impl World {
    /// The state of a node, as its agent would tell it: of the kernel's rows those
    /// that decide, with one device for each endpoint. The policies have no
    /// documents, for a described cluster has none. Nothing if there is no such
    /// node.
    pub fn state(&self, node: &str) -> Option<NodeState> {
        let view = self.nodes.get(node)?;
        let own = self.cluster.nodes.iter().find(|own| own.name == node)?;
        let names = STATE_MAPS.iter().map(|name| (*name).to_owned());
        let mut rows = Rows(names.map(|name| (name, MapRows::default())).collect());
        self.config_row(view, own.ip.into(), &mut rows);
        let workloads = self.addresses(node, view, &mut rows);
        self.outside_rows(&mut rows);
        view.tables.write(&mut rows);
        let numbers = &self.numbers.rules;
        let rules = (1..=numbers.last()).filter_map(|number| {
            let rule = numbers.rule(number)?.clone();
            Some(RuleRow {
                number,
                origin: rule.origin,
                index: rule.index,
            })
        });
        let identities = self.people.identities.iter().map(|(id, info)| match *id {
            Identity::HOST => identity_row(*id, &view.host),
            id => identity_row(id, info),
        });
        let policies = self.policies.values().map(|object| PolicyRow {
            object: object.clone(),
            file: String::new(),
            line: 0,
            text: String::new(),
        });
        let nodes = self.cluster.nodes.iter().map(|node| NodeRow {
            name: node.name.clone(),
            addresses: vec![node.ip],
        });
        Some(NodeState {
            version: STATE_VERSION,
            node: node.to_owned(),
            maps: rows.0,
            reading: policy_reading(&self.config),
            rules: rules.collect(),
            policies: policies.collect(),
            identities: identities.collect(),
            node_labels: view.labels.clone(),
            workloads,
            nodes: nodes.collect(),
            ..NodeState::default()
        })
    }

    fn config_row(&self, view: &NodeView, own: IpKey, rows: &mut Rows) {
        let host = view.subjects.get(&Identity::HOST);
        let flag = |is: bool, flag: u32| if is { flag } else { 0 };
        let config = RuntimeConfig {
            flags: flag(self.config.ipv4, ConfigFlags::IPV4)
                | flag(self.config.ipv6, ConfigFlags::IPV6)
                | flag(host.is_some(), ConfigFlags::HOST_FIREWALL),
            epoch: 1,
            mtu: 1500,
            node_ipv4: own.to_v4().unwrap_or_default(),
            node_ipv6: own.to_v4().map_or(own, |_| IpKey::UNSPECIFIED),
            ..RuntimeConfig::default()
        };
        rows.push("axon_config_v1", &0_u32, &config);
        rows.push("axon_uplink_v1", &UPLINK, &1_u32);
        if let Some(set) = host {
            let row = EndpointRow {
                ifindex: HOST_DEVICE,
                identity: Identity::HOST,
                policy_set: *set,
                id: u16::MAX,
                ..EndpointRow::default()
            };
            rows.push("axon_endpoint_v1", &HOST_DEVICE, &row);
        }
    }

    /// Who has which address of the cluster, and the endpoints of the node.
    fn addresses(&self, node: &str, view: &NodeView, rows: &mut Rows) -> Vec<WorkloadRow> {
        let mut workloads = Vec::new();
        let (cluster, people) = (&self.cluster, &self.people);
        for ((ip, owner), device) in self.owners.iter().zip(DEVICES..) {
            let found = match *owner {
                Owner::Pod(n) => cluster
                    .pods
                    .get(n)
                    .zip(people.pods.get(n))
                    .map(|(pod, id)| {
                        let is_here = pod.node == node && pod.cluster.is_empty();
                        let name = (pod.namespace.clone(), pod.name.clone());
                        (*id, is_here, IpcacheFlags::WORKLOAD, Some(name))
                    }),
                Owner::Special(n) => {
                    let special = cluster.specials.get(n).zip(people.specials.get(n));
                    special.map(|(special, id)| (*id, special.node == node, 0, None))
                }
                Owner::Node(n) => {
                    let seen = cluster.nodes.get(n).zip(people.nodes.get(n));
                    seen.map(|(other, id)| match other.name == node {
                        true => (Identity::HOST, false, IpcacheFlags::LOCAL_HOST, None),
                        false => (*id, false, 0, None),
                    })
                }
            };
            let Some((identity, is_here, flags, name)) = found else {
                continue;
            };
            let set = view.subjects.get(&identity).filter(|_| is_here);
            let address = IpKey::from(*ip);
            let id = set.and_then(|_| u16::try_from(device).ok());
            if let Some((namespace, name)) = name {
                workloads.push(WorkloadRow {
                    address: *ip,
                    namespace,
                    name,
                    endpoint: id.unwrap_or_default(),
                });
            }
            if let (Some(set), Some(id)) = (set, id) {
                let endpoint = EndpointRow {
                    ifindex: device,
                    identity,
                    policy_set: *set,
                    id,
                    ipv4: address.to_v4().unwrap_or_default(),
                    ipv6: address.to_v4().map_or(address, |_| IpKey::UNSPECIFIED),
                    ..EndpointRow::default()
                };
                rows.push("axon_endpoint_v1", &device, &endpoint);
                rows.push("axon_address_v1", &address, &endpoint);
            } else {
                rows.push("axon_ipcache_v1", &address, &row(identity, flags));
            }
        }
        workloads
    }

    /// Who is outside.
    fn outside_rows(&self, rows: &mut Rows) {
        for id in self.people.identities.keys() {
            rows.push("axon_identity_v1", id, &IdentityRow::default());
        }
        for (ip, id) in self.people.names() {
            if !self.owners.contains_key(ip) {
                rows.push("axon_ipcache_v1", &IpKey::from(*ip), &row(*id, 0));
            }
        }
        for (prefix, id) in self.people.by_prefix() {
            // All of a family is the world, and has no row.
            if prefix.prefix_len() == 0 {
                continue;
            }
            let family = if prefix.addr().is_ipv4() { 96 } else { 0 };
            let key = LpmKey {
                prefix_bits: family + u32::from(prefix.prefix_len()),
                addr: prefix.network().into(),
            };
            rows.push("axon_ipcache_cidr_v1", &key, &row(*id, 0));
        }
    }
}

fn row(identity: Identity, flags: u32) -> IpcacheRow {
    IpcacheRow {
        identity,
        flags,
        node: IpKey::UNSPECIFIED,
    }
}

impl crate::tables::PolicyTables {
    /// Adds these rows to those of a state.
    fn write(&self, rows: &mut Rows) {
        for (number, set) in self.sets() {
            rows.push("axon_policy_set_v1", number, set);
        }
        for (key, class) in self.classes() {
            rows.push("axon_class_v1", key, &axon_abi::ClassRow { class: *class });
        }
        for (key, entry) in self.entries() {
            rows.push("axon_policy_v1", key, entry);
        }
    }
}
