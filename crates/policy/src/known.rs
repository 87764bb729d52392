//! What policy knows of identities that follow from something else than a
//! workload's labels.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use axon_abi::Identity;
use axon_model::keys::CLUSTER;
use axon_model::{Label, Labels, NamePattern, source};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{IdentityInfo, PolicyConfig};

/// Every address of a family.
pub fn whole(v6: bool) -> IpNet {
    if v6 {
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0))
    } else {
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0))
    }
}

/// The reserved identities with their labels and, outside the cluster, the
/// addresses that they stand for.
pub fn reserved_identities(config: &PolicyConfig) -> BTreeMap<Identity, IdentityInfo> {
    let (v4, v6) = (whole(false), whole(true));
    (1..=10)
        .map(Identity)
        .map(|id| {
            let prefix = match (id, config.ipv4, config.ipv6) {
                (Identity::WORLD, true, false) | (Identity::WORLD_IPV4, _, _) => Some(v4),
                (Identity::WORLD, false, true) | (Identity::WORLD_IPV6, _, _) => Some(v6),
                _ => None,
            };
            let info = IdentityInfo {
                labels: reserved_labels(id),
                prefix,
                ..IdentityInfo::default()
            };
            (id, info)
        })
        .collect()
}

/// The labels of a reserved identity. An API server outside this node is also
/// a remote node, as in Cilium.
fn reserved_labels(id: Identity) -> Labels {
    let also = match id {
        Identity::KUBE_APISERVER => Identity::REMOTE_NODE.reserved_name(),
        _ => None,
    };
    id.reserved_name()
        .into_iter()
        .chain(also)
        .map(|name| Label::new(source::RESERVED, name, ""))
        .collect()
}

/// The labels of the node itself, of which Kubernetes knows these.
pub fn node_labels(known: &BTreeMap<String, String>) -> Labels {
    let mut labels = reserved_labels(Identity::HOST);
    for (key, value) in known {
        labels.insert(Label::new(source::K8S, key, value));
    }
    labels
}

/// The labels of the identity of a prefix outside the cluster: the prefix
/// itself and the world it is a part of.
pub fn cidr_labels(config: &PolicyConfig, prefix: IpNet) -> Labels {
    let world = config.world_of(matches!(prefix, IpNet::V6(_)));
    let mut labels = reserved_labels(world);
    labels.insert(cidr_label(prefix));
    labels
}

/// The label of a prefix. Keys may not hold colons, nor begin or end with
/// dashes: Cilium writes IPv6 with dashes, and a 0 where they would.
pub fn cidr_label(prefix: IpNet) -> Label {
    let text = prefix.trunc().to_string();
    let (address, bits) = text.split_once('/').unwrap_or((&text, ""));
    let dashed = address.replace(':', "-");
    let first = if dashed.starts_with('-') { "0" } else { "" };
    let last = if dashed.ends_with('-') { "0" } else { "" };
    Label::new(source::CIDR, &format!("{first}{dashed}{last}/{bits}"), "")
}

/// What policy knows of the identity of addresses that were given for names
/// like these, all in one prefix that policies name, or in none but the whole of
/// their family.
pub fn named_addresses(
    config: &PolicyConfig,
    place: IpNet,
    names: BTreeSet<NamePattern>,
) -> IdentityInfo {
    let mut labels = match place.prefix_len() {
        0 => reserved_labels(config.world_of(matches!(place, IpNet::V6(_)))),
        _ => cidr_labels(config, place),
    };
    for name in &names {
        labels.insert(Label::new(source::FQDN, &name.to_string(), ""));
    }
    IdentityInfo {
        prefix: Some(place),
        names,
        ..IdentityInfo::labelled(labels)
    }
}

/// The labels of another node, where rules may ask for them.
pub fn other_node_labels(config: &PolicyConfig, known: &BTreeMap<String, String>) -> Labels {
    let mut labels = reserved_labels(Identity::REMOTE_NODE);
    for (key, value) in known {
        labels.insert(Label::new(source::NODE, key, value));
    }
    labels.insert(Label::new(source::K8S, CLUSTER, &config.cluster_name));
    labels
}

/// The prefixes that labels name.
pub fn prefixes_of(labels: &Labels) -> impl Iterator<Item = IpNet> {
    let named = labels.iter();
    let named = named.filter(|(source, _, _)| *source == source::CIDR);
    named.filter_map(|(_, key, _)| key.replace('-', ":").parse().ok())
}

/// What [`named_addresses`] has made these labels of.
pub fn named_by(config: &PolicyConfig, labels: &Labels) -> IdentityInfo {
    let names = labels.iter();
    let names = names.filter(|(source, _, _)| *source == source::FQDN);
    let names = names.filter_map(|(_, key, _)| NamePattern::new(key).ok());
    let v6 = labels.get(source::RESERVED, "world-ipv6").is_some() || !config.ipv4;
    let place = prefixes_of(labels).next().unwrap_or_else(|| whole(v6));
    named_addresses(config, place, names.collect())
}

/// Where prefixes select a workload of these labels: where labels of prefixes
/// place it, and the whole of a family of which they tell nothing.
pub fn places(config: &PolicyConfig, labels: &Labels) -> BTreeSet<IpNet> {
    let mut places: BTreeSet<IpNet> = prefixes_of(labels).collect();
    for whole in config.everywhere() {
        if !places.iter().any(|place| whole.contains(place)) {
            places.insert(whole);
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::{cidr_label, named_addresses, named_by, places};
    use crate::PolicyConfig;

    #[test]
    fn labels_of_prefixes_are_read_as_they_are_written() {
        for (prefix, label) in [
            ("10.1.2.3/8", "cidr:10.0.0.0/8"),
            ("::/0", "cidr:0--0/0"),
            ("::1/128", "cidr:0--1/128"),
            ("2001:db8::/32", "cidr:2001-db8--0/32"),
            ("2001:db8::5/128", "cidr:2001-db8--5/128"),
        ] {
            let prefix: ipnet::IpNet = prefix.parse().expect("prefix");
            let written = cidr_label(prefix);
            assert_eq!(written.to_string(), label);
            let read = places(&PolicyConfig::default(), &[written].into_iter().collect());
            assert!(read.contains(&prefix.trunc()), "{label}: {read:?}");
        }
    }

    #[test]
    fn labels_of_names_are_read_as_they_are_written() {
        let dual = PolicyConfig::default();
        let single = PolicyConfig {
            ipv4: false,
            ..PolicyConfig::default()
        };
        for (config, place) in [
            (&dual, "0.0.0.0/0"),
            (&dual, "::/0"),
            (&dual, "198.51.100.0/24"),
            (&dual, "2001:db8::/32"),
            (&single, "::/0"),
        ] {
            let names = ["a.example", "**.b.example", "*"];
            let name = |text: &&str| axon_model::NamePattern::new(text).expect("pattern");
            let names = names.iter().map(name).collect();
            let info = named_addresses(config, place.parse().expect("prefix"), names);
            assert_eq!(named_by(config, &info.labels), info, "{place}");
        }
    }
}
