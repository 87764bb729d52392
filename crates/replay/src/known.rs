//! What a node knows of policy, as a state tells it: written and read here.

use std::sync::Arc;

use axon_abi::Identity;
use axon_api::state::{IdentityRow, PolicyReading};
use axon_policy::{Enforcement, IdentityInfo, Member, PolicyConfig};

/// What a state says of an identity.
pub fn identity_row(id: Identity, info: &IdentityInfo) -> IdentityRow {
    let ports = info.named_ports.iter();
    let ports = ports.flat_map(|((name, protocol), ports)| {
        ports.iter().map(|port| (name.clone(), *protocol, *port))
    });
    let groups = info.groups.iter();
    IdentityRow {
        id: id.0,
        labels: info.labels.clone(),
        prefix: info.prefix,
        addresses: info.addresses.iter().copied().collect(),
        groups: groups
            .map(|(key, member)| {
                let by = member.by.iter().copied().collect();
                (key.clone(), member.labels.as_ref().clone(), by)
            })
            .collect(),
        names: info.names.iter().cloned().collect(),
        named_ports: ports.collect(),
    }
}

/// What a state says of how policy is read.
pub fn policy_reading(config: &PolicyConfig) -> PolicyReading {
    let enforcement = match config.enforcement {
        Enforcement::Default => "default",
        Enforcement::Always => "always",
        Enforcement::Never => "never",
    };
    PolicyReading {
        enforcement: enforcement.to_owned(),
        cluster_name: config.cluster_name.clone(),
        ipv4: config.ipv4,
        ipv6: config.ipv6,
        allow_localhost: config.allow_localhost,
        cidr_selects_pods: config.cidr_selects_pods,
        proxy: config.proxy,
    }
}

pub(crate) fn reading(reading: &PolicyReading) -> PolicyConfig {
    PolicyConfig {
        enforcement: match reading.enforcement.as_str() {
            "always" => Enforcement::Always,
            "never" => Enforcement::Never,
            _ => Enforcement::Default,
        },
        cluster_name: reading.cluster_name.clone(),
        ipv4: reading.ipv4,
        ipv6: reading.ipv6,
        allow_localhost: reading.allow_localhost,
        cidr_selects_pods: reading.cidr_selects_pods,
        proxy: reading.proxy,
        ..PolicyConfig::default()
    }
}

pub(crate) fn info(row: IdentityRow) -> (Identity, IdentityInfo) {
    let mut info = IdentityInfo {
        labels: row.labels,
        prefix: row.prefix,
        addresses: row.addresses.into_iter().collect(),
        groups: row
            .groups
            .into_iter()
            .map(|(key, labels, by)| {
                let member = Member {
                    labels: Arc::new(labels),
                    by: by.into_iter().collect(),
                };
                (key, member)
            })
            .collect(),
        names: row.names.into_iter().collect(),
        ..IdentityInfo::default()
    };
    for (name, protocol, port) in row.named_ports {
        let ports = info.named_ports.entry((name, protocol)).or_default();
        ports.insert(port);
    }
    (Identity(row.id), info)
}

#[cfg(test)]
mod tests {
    use axon_abi::Identity;
    use axon_model::Protocol;
    use axon_policy::{Enforcement, IdentityInfo, PolicyConfig};

    use super::{identity_row, info, policy_reading, reading};

    #[test]
    fn what_is_written_is_read() {
        let mut known = IdentityInfo {
            prefix: "192.0.2.0/24".parse().ok(),
            addresses: ["192.0.2.7/32".parse().expect("a prefix")].into(),
            ..IdentityInfo::labelled(["k8s:a=b".parse().expect("a label")].into_iter().collect())
        };
        let port = ("web".to_owned(), Protocol::TCP);
        known.named_ports.insert(port, [80, 81].into());
        let id = Identity(300);
        assert_eq!(info(identity_row(id, &known)), (id, known));
        let config = PolicyConfig {
            enforcement: Enforcement::Always,
            cluster_name: "c".to_owned(),
            ipv6: false,
            allow_localhost: true,
            proxy: true,
            ..PolicyConfig::default()
        };
        assert_eq!(reading(&policy_reading(&config)), config);
    }
}
