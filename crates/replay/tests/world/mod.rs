//! A node with some ships and a death star, its policies resolved into rows.

use std::collections::BTreeMap;

use axon_abi::{
    ConfigFlags, EndpointRow, Identity, IdentityRow, IpKey, IpcacheFlags, IpcacheRow, LpmKey,
    RuntimeConfig,
};
use axon_api::manifest::{PolicyDocument, policy_documents};
use axon_api::state::{
    IdentityRow as IdentityState, MapRows, NodeRow, NodeState, PolicyReading, PolicyRow, RuleRow,
    STATE_MAPS, STATE_VERSION, WorkloadRow,
};
use axon_model::Label;
use axon_policy::{
    IdentityInfo, Numbers, PolicyConfig, Resolution, World, cidr_labels, policy_prefixes,
    reserved_identities, resolve,
};

pub(crate) const XWING: &str = "10.0.0.11";
pub(crate) const TIE: &str = "10.0.0.12";
pub(crate) const DEATHSTAR: &str = "10.0.0.13";
pub(crate) const SPY: &str = "10.0.0.14";
pub(crate) const REMOTE: &str = "10.0.1.21";
pub(crate) const OUTSIDE: &str = "198.51.100.7";
pub(crate) const NODE: &str = "192.0.2.1";
const OTHER_NODE: &str = "192.0.2.2";

/// Name, address, labels, device; without a device it is another node's.
const PODS: [(&str, &str, &[&str], u32); 5] = [
    ("xwing", XWING, &["org=alliance"], 11),
    ("tie", TIE, &["org=empire"], 12),
    (
        "deathstar",
        DEATHSTAR,
        &["org=empire", "class=deathstar"],
        13,
    ),
    ("spy", SPY, &["org=empire", "name=spy"], 14),
    ("lambda", REMOTE, &["org=empire", "of=n2"], 0),
];

/// The pods with their identities.
fn pods() -> impl Iterator<
    Item = (
        Identity,
        (&'static str, IpKey, &'static [&'static str], u32),
    ),
> {
    (300..)
        .map(Identity)
        .zip(PODS)
        .map(|(id, (name, addr, labels, device))| (id, (name, key(addr), labels, device)))
}

/// Policy of a single-stack node.
pub(crate) fn config() -> PolicyConfig {
    PolicyConfig {
        ipv6: false,
        ..PolicyConfig::default()
    }
}

fn key(addr: &str) -> IpKey {
    addr.parse::<std::net::IpAddr>().expect("an address").into()
}

/// The state of the node with the policies of a manifest.
pub(crate) fn state(policies: &str) -> NodeState {
    state_of(policies, &config())
}

/// The same, with policy read otherwise.
pub(crate) fn state_of(policies: &str, config: &PolicyConfig) -> NodeState {
    let documents = policy_documents(policies);
    let world = world(&documents, config);
    let mut numbers = Numbers::default();
    let resolution = resolve(config, &world, &mut numbers);
    let mut maps: BTreeMap<String, MapRows> = STATE_MAPS
        .iter()
        .map(|name| ((*name).to_owned(), MapRows::default()))
        .collect();
    node_rows(&mut maps, &resolution);
    policy_rows(&mut maps, &world, &resolution);
    let rules = (1..=numbers.rules.last()).filter_map(|number| {
        let rule = numbers.rules.rule(number)?.clone();
        Some(RuleRow {
            number,
            origin: rule.origin,
            index: rule.index,
        })
    });
    let identities = world.identities.iter();
    NodeState {
        version: STATE_VERSION,
        node: "n1".into(),
        now_ns: 1_000_000_000_000,
        maps,
        reading: PolicyReading {
            enforcement: "default".into(),
            cluster_name: config.cluster_name.clone(),
            ipv4: config.ipv4,
            ipv6: config.ipv6,
            proxy: config.proxy,
            ..PolicyReading::default()
        },
        rules: rules.collect(),
        policies: documents.iter().map(policy).collect(),
        identities: identities
            .map(|(id, info)| IdentityState {
                id: id.0,
                labels: info.labels.clone(),
                prefix: info.prefix,
                ..IdentityState::default()
            })
            .collect(),
        workloads: pods()
            .map(|(_, (name, addr, _, device))| WorkloadRow {
                address: addr.into(),
                namespace: "default".into(),
                name: name.into(),
                endpoint: u16::try_from(device).expect("small"),
            })
            .collect(),
        nodes: [("n1", NODE), ("n2", OTHER_NODE)]
            .map(|(name, addr)| NodeRow {
                name: name.into(),
                addresses: vec![addr.parse().expect("an address")],
            })
            .into(),
        ..NodeState::default()
    }
}

fn policy(document: &PolicyDocument<'_>) -> PolicyRow {
    PolicyRow {
        object: document.policy.clone(),
        file: "/etc/axon/manifests/policy.yaml".into(),
        line: document.line,
        text: document.text.into(),
    }
}

fn world(documents: &[PolicyDocument<'_>], config: &PolicyConfig) -> World {
    let mut world = World {
        identities: reserved_identities(config),
        ..World::default()
    };
    for (id, (_, _, labels, device)) in pods() {
        let own = labels.iter().map(|text| format!("k8s:{text}"));
        let labels = own
            .chain(["k8s:io.kubernetes.pod.namespace=default".to_owned()])
            .chain(["k8s:io.cilium.k8s.policy.cluster=default".to_owned()])
            .map(|text| text.parse::<Label>().expect("a label"));
        let info = IdentityInfo::labelled(labels.collect());
        world.identities.insert(id, info);
        if device != 0 {
            world.subjects.insert(id);
        }
    }
    let prefixes = documents.iter().flat_map(|d| policy_prefixes(&d.policy));
    for (n, prefix) in (Identity::LOCAL_MIN.0..).zip(prefixes) {
        let info = IdentityInfo {
            labels: cidr_labels(config, prefix),
            prefix: Some(prefix),
            ..IdentityInfo::default()
        };
        world.identities.insert(Identity(n), info);
    }
    for document in documents {
        let policy = document.policy.clone();
        world.policies.insert(policy.origin.clone(), policy);
    }
    world
}

fn rows<'a>(maps: &'a mut BTreeMap<String, MapRows>, name: &str) -> &'a mut MapRows {
    maps.get_mut(name).expect("a map")
}

/// Who is on the node, and who is elsewhere.
fn node_rows(maps: &mut BTreeMap<String, MapRows>, resolution: &Resolution) {
    for (id, (_, addr, _, device)) in pods() {
        if device == 0 {
            let elsewhere = row(id, IpcacheFlags::WORKLOAD, key(OTHER_NODE));
            rows(maps, "axon_ipcache_v1").push(&addr, &elsewhere);
            continue;
        }
        let endpoint = EndpointRow {
            ifindex: device,
            identity: id,
            policy_set: resolution.subjects[&id],
            id: u16::try_from(device).expect("small"),
            ipv4: addr.to_v4().expect("IPv4"),
            ..EndpointRow::default()
        };
        rows(maps, "axon_endpoint_v1").push(&device, &endpoint);
        rows(maps, "axon_address_v1").push(&addr, &endpoint);
    }
    let host = row(Identity::HOST, IpcacheFlags::LOCAL_HOST, IpKey::UNSPECIFIED);
    let other = row(Identity::REMOTE_NODE, 0, IpKey::UNSPECIFIED);
    rows(maps, "axon_ipcache_v1").push(&key(NODE), &host);
    rows(maps, "axon_ipcache_v1").push(&key(OTHER_NODE), &other);
    let runtime = RuntimeConfig {
        flags: ConfigFlags::IPV4,
        epoch: 1,
        mtu: 1500,
        node_ipv4: key(NODE).to_v4().expect("IPv4"),
        ..RuntimeConfig::default()
    };
    rows(maps, "axon_config_v1").push(&0_u32, &runtime);
    rows(maps, "axon_uplink_v1").push(&10_u32, &1_u32);
}

/// What policy has been resolved into.
fn policy_rows(maps: &mut BTreeMap<String, MapRows>, world: &World, resolution: &Resolution) {
    for (id, info) in &world.identities {
        rows(maps, "axon_identity_v1").push(id, &IdentityRow::default());
        let Some(prefix) = info.prefix.filter(|prefix| prefix.prefix_len() > 0) else {
            continue;
        };
        let lpm = LpmKey {
            prefix_bits: 96 + u32::from(prefix.prefix_len()),
            addr: prefix.addr().into(),
        };
        let whole = row(*id, 0, IpKey::UNSPECIFIED);
        rows(maps, "axon_ipcache_cidr_v1").push(&lpm, &whole);
    }
    for (number, set) in &resolution.sets {
        rows(maps, "axon_policy_set_v1").push(number, &set.rows.set);
        for (key, class) in &set.rows.classes {
            rows(maps, "axon_class_v1").push(key, class);
        }
        for (key, entry) in &set.rows.entries {
            rows(maps, "axon_policy_v1").push(key, entry);
        }
    }
}

fn row(identity: Identity, flags: u32, node: IpKey) -> IpcacheRow {
    IpcacheRow {
        identity,
        flags,
        node,
    }
}
