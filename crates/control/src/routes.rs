//! Where other nodes' pods are, and towards whom pods keep their address:
//! pure functions of the nodes.

use std::collections::BTreeMap;

use axon_model::{Node, Route};
use ipnet::IpNet;

use crate::config::Config;
use crate::ipcache::without_mapped;

/// Two nodes that say they own the same prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Overlap {
    pub(crate) prefix: IpNet,
    pub(crate) kept: String,
    pub(crate) refused: String,
}

/// The pod CIDRs of each node. Of two nodes that claim overlapping prefixes
/// this one counts, else the first by name.
pub(crate) fn pod_cidrs<'a>(
    own: &str,
    nodes: impl Iterator<Item = &'a Node>,
) -> (BTreeMap<IpNet, String>, Vec<Overlap>) {
    let mut ordered: Vec<&Node> = nodes.collect();
    ordered.sort_by_key(|node| (node.name != own, &node.name));
    let mut owners: BTreeMap<IpNet, String> = BTreeMap::new();
    let mut overlaps = Vec::new();
    for node in ordered {
        for prefix in node.pod_cidrs.iter().map(IpNet::trunc) {
            match overlapping(&owners, &prefix) {
                Some(kept) if *kept != node.name => overlaps.push(Overlap {
                    prefix,
                    kept: kept.clone(),
                    refused: node.name.clone(),
                }),
                _ => {
                    owners.insert(prefix, node.name.clone());
                }
            }
        }
    }
    (owners, overlaps)
}

/// The owner of a prefix that holds this one or lies in it.
fn overlapping<'a>(owners: &'a BTreeMap<IpNet, String>, prefix: &IpNet) -> Option<&'a String> {
    let around = std::iter::successors(Some(*prefix), IpNet::supernet);
    let holder = around.filter_map(|p| owners.get(&p)).next();
    // Prefixes order by address, then by length: what lies in this one comes
    // right after it.
    let inside = || {
        let (next, owner) = owners.range(*prefix..).next()?;
        prefix.contains(next).then_some(owner)
    };
    holder.or_else(inside)
}

/// Routes to other nodes' pods, by their internal address of the same family.
/// A node without one is not routed to.
pub(crate) fn routes<'a>(
    own: &str,
    cidrs: &BTreeMap<IpNet, String>,
    node: impl Fn(&str) -> Option<&'a Node>,
) -> BTreeMap<IpNet, Route> {
    cidrs
        .iter()
        .filter(|(_, owner)| *owner != own)
        .filter_map(|(prefix, owner)| {
            let via = node(owner)?.internal_ip(matches!(prefix, IpNet::V6(_)))?;
            Some((*prefix, Route { via }))
        })
        .collect()
}

/// Destinations towards which pods keep their address: every pod, what is
/// configured, link-local and multicast. Neighbouring prefixes are joined.
pub(crate) fn nomasq(config: &Config, cidrs: &BTreeMap<IpNet, String>) -> Vec<IpNet> {
    const ALWAYS: [&str; 4] = ["169.254.0.0/16", "224.0.0.0/4", "fe80::/10", "ff00::/8"];
    let always = ALWAYS.iter().filter_map(|text| text.parse::<IpNet>().ok());
    let mut all: Vec<IpNet> = cidrs.keys().copied().collect();
    all.extend(config.native_routing_cidrs.iter().map(IpNet::trunc));
    all.extend(always);
    let joined = IpNet::aggregate(&all);
    joined.into_iter().flat_map(without_mapped).collect()
}

#[cfg(test)]
mod tests {
    use axon_model::{Node, NodeAddress, NodeAddressKind};
    use ipnet::IpNet;

    use super::{nomasq, pod_cidrs, routes};
    use crate::config::Config;

    fn node(name: &str, addrs: &[&str], cidrs: &[&str]) -> Node {
        let address = |addr: &&str| NodeAddress {
            kind: NodeAddressKind::InternalIP,
            addr: addr.parse().expect("address"),
        };
        Node {
            name: name.into(),
            addresses: addrs.iter().map(address).collect(),
            pod_cidrs: cidrs.iter().map(|c| c.parse().expect("prefix")).collect(),
            ..Node::default()
        }
    }

    fn texts<'a>(prefixes: impl IntoIterator<Item = &'a IpNet>) -> Vec<String> {
        prefixes.into_iter().map(ToString::to_string).collect()
    }

    #[test]
    fn routes_lead_to_other_nodes_by_their_family() {
        let nodes = [
            node(
                "a",
                &["192.0.2.1", "2001:db8::1"],
                &["10.0.0.0/24", "fd00:0:0:1::/64"],
            ),
            node(
                "b",
                &["192.0.2.2", "2001:db8::2"],
                &["10.0.1.0/24", "fd00:0:0:2::/64"],
            ),
            node("c", &["192.0.2.3"], &["10.0.2.0/24", "fd00:0:0:3::/64"]),
        ];
        let (cidrs, overlaps) = pod_cidrs("a", nodes.iter());
        assert!(overlaps.is_empty());
        let found = routes("a", &cidrs, |name| nodes.iter().find(|n| n.name == name));
        let got: Vec<String> = found
            .iter()
            .map(|(p, r)| format!("{p} via {}", r.via))
            .collect();
        assert_eq!(
            got,
            [
                "10.0.1.0/24 via 192.0.2.2",
                "10.0.2.0/24 via 192.0.2.3",
                "fd00:0:0:2::/64 via 2001:db8::2",
            ],
            "c has no IPv6 address"
        );
    }

    #[test]
    fn an_overlap_is_told_and_this_node_keeps_its_own() {
        for (name, mine, theirs) in [
            ("the same", "10.0.0.0/24", "10.0.0.0/24"),
            ("around it", "10.0.0.0/24", "10.0.0.0/16"),
            ("within it", "10.0.0.0/24", "10.0.0.128/25"),
            ("at its start", "10.0.0.0/24", "10.0.0.0/28"),
        ] {
            let nodes = [
                node("a", &["192.0.2.1"], &[theirs]),
                node("m", &["192.0.2.2"], &[mine]),
            ];
            let (cidrs, overlaps) = pod_cidrs("m", nodes.iter());
            assert_eq!(texts(cidrs.keys()), [mine], "{name}");
            assert_eq!(overlaps.len(), 1, "{name}");
            assert_eq!(
                (&*overlaps[0].kept, &*overlaps[0].refused),
                ("m", "a"),
                "{name}"
            );
        }
    }

    #[test]
    fn pods_keep_their_address_inside() {
        let nodes = [
            node("a", &[], &["10.0.0.0/24", "fd00::/64"]),
            node("b", &[], &["10.0.1.0/24"]),
        ];
        let (cidrs, _) = pod_cidrs("a", nodes.iter());
        let config = Config {
            native_routing_cidrs: vec!["172.16.0.0/12".parse().expect("prefix")],
            ..Config::default()
        };
        let mut got = texts(&nomasq(&config, &cidrs));
        got.sort();
        let mut expected = [
            "10.0.0.0/23",
            "169.254.0.0/16",
            "172.16.0.0/12",
            "224.0.0.0/4",
            "fd00::/64",
            "fe80::/10",
            "ff00::/8",
        ];
        expected.sort();
        assert_eq!(got, expected);
    }

    #[test]
    fn all_of_ipv6_is_nothing_of_ipv4() {
        let config = Config {
            native_routing_cidrs: vec!["::/0".parse().expect("prefix")],
            ..Config::default()
        };
        let pod_cidrs = std::collections::BTreeMap::new();
        for prefix in nomasq(&config, &pod_cidrs) {
            let key = crate::ipcache::lpm_key(&prefix);
            let world = axon_abi::IpKey::from_v4([198, 51, 100, 7]);
            let bits = key.prefix_bits;
            let number = |key: &axon_abi::IpKey| u128::from_be_bytes(key.0);
            let differs = number(&key.addr) ^ number(&world);
            assert!(bits > differs.leading_zeros(), "{prefix} holds {world:?}");
        }
    }
}
