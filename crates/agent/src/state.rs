//! The whole state, for `GET /v1/debug/state`: rows as they are in the kernel,
//! what their numbers stand for, and the policies that they were made from.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::Path;

use axon_abi::IpKey;
use axon_api::manifest::{TEXT_BYTES_MAX, policy_documents};
use axon_api::state::{
    IdentityRow, MapRows, NodeRow, NodeState, PolicyReading, PolicyRow, RuleRow, STATE_CLIENTS_MAX,
    STATE_FLOWS_MAX, STATE_MAGLEV_MAX, STATE_TEXT_MAX, STATE_VERSION, ServiceRow, ServiceState,
    Sockets, WorkloadRow,
};
use axon_control::Controller;
use axon_linux::{Map, MapError, Maps, SocketMode};
use axon_model::{Labels, Observed, Origin, PolicyObject, ServiceKind};
use axon_replay::{identity_row, policy_reading};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::clock::monotonic_ns;
use crate::dump::PortNames;
use crate::node::{Node, lock};

/// What the controller knows.
pub(crate) struct Known {
    identities: Vec<IdentityRow>,
    node_labels: Labels,
    reading: PolicyReading,
    rules: Vec<RuleRow>,
    policies: Vec<PolicyObject>,
    service_ports: PortNames,
}

/// Asks the controller for all that it knows of policy, and how ports of services
/// are called.
pub(crate) fn known(controller: &Controller) -> Known {
    let engine = controller.policy_engine();
    let rules = controller.rules_in_use().into_iter();
    let rules = rules.filter_map(|number| {
        let rule = controller.rule(number)?;
        Some(RuleRow {
            number,
            origin: rule.origin,
            index: rule.index,
        })
    });
    let identities = engine.identities().iter();
    Known {
        identities: identities
            .map(|(id, info)| identity_row(*id, info))
            .collect(),
        node_labels: engine.node().clone(),
        reading: policy_reading(engine.config()),
        rules: rules.collect(),
        policies: engine.policies().values().cloned().collect(),
        service_ports: controller.service_port_names(),
    }
}

/// The state of the node; of flows only those between two addresses, if they
/// are named. Reads kernel maps and manifests.
pub(crate) fn whole(
    node: &Node,
    known: Known,
    between: Option<[IpAddr; 2]>,
) -> Result<NodeState, MapError> {
    let names = node.names.load();
    let endpoints = names.endpoints.iter();
    let nodes = node.observed.nodes.snapshot();
    let files = node.sources.borrow().files.clone();
    let files = files.iter().map(|file| file.path.as_path());
    Ok(NodeState {
        version: STATE_VERSION,
        node: node.config.node_name.clone(),
        now_ns: monotonic_ns(),
        maps: maps(&node.maps, between)?,
        reading: known.reading,
        rules: known.rules,
        policies: policies(known.policies, files),
        identities: known.identities,
        node_labels: known.node_labels,
        workloads: endpoints
            .map(|(address, name)| WorkloadRow {
                address: *address,
                namespace: name.namespace.to_string(),
                name: name.pod_name.to_string(),
                endpoint: name.id,
            })
            .collect(),
        nodes: nodes
            .values()
            .map(|node| NodeRow {
                name: node.name.clone(),
                addresses: node.addresses.iter().map(|a| a.addr).collect(),
            })
            .collect(),
        interfaces: names
            .interfaces
            .iter()
            .map(|(ifindex, name)| (*ifindex, name.to_string()))
            .collect(),
        services: ServiceState {
            sockets: sockets(lock(&node.datapath).socket_mode()),
            ports: known.service_ports,
            services: services(&node.observed),
        },
    })
}

/// Whose sockets are led to backends.
fn sockets(mode: &SocketMode) -> Sockets {
    match mode {
        SocketMode::Off => Sockets::Off,
        SocketMode::At {
            host_only: true, ..
        } => Sockets::Host,
        SocketMode::At {
            host_only: false, ..
        } => Sockets::All,
    }
}

/// The services that the node is told of.
fn services(observed: &Observed) -> Vec<ServiceRow> {
    let services = observed.services.snapshot();
    let row = |(key, service): (&axon_model::ObjectKey, &std::sync::Arc<axon_model::Service>)| {
        let spec = &service.spec;
        let kind = match spec.kind {
            ServiceKind::ClusterIp => "ClusterIP",
            ServiceKind::NodePort => "NodePort",
            ServiceKind::LoadBalancer => "LoadBalancer",
            ServiceKind::ExternalName => "ExternalName",
        };
        ServiceRow {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            kind: kind.to_owned(),
            headless: spec.is_headless,
            internal_local: spec.internal_local,
            external_local: spec.external_local,
        }
    };
    services.iter().map(row).collect()
}

fn maps(maps: &Maps, between: Option<[IpAddr; 2]>) -> Result<BTreeMap<String, MapRows>, MapError> {
    let pair = between.map(|ends| ends.map(IpKey::from));
    let are_meant = |low: IpKey, high: IpKey| match pair {
        Some([one, other]) => (low, high) == (one, other) || (low, high) == (other, one),
        None => true,
    };
    let is4 = |key: &axon_abi::CtKey4| are_meant(IpKey::from_v4(key.low), IpKey::from_v4(key.high));
    let is6 = |key: &axon_abi::CtKey6| are_meant(IpKey::from_v6(key.low), IpKey::from_v6(key.high));
    let is_flow = |key: &axon_abi::ServiceFlowKey| are_meant(key.source, key.destination);
    let all = [
        rows(&maps.config)?,
        rows(&maps.endpoint)?,
        rows(&maps.address)?,
        rows(&maps.ipcache)?,
        rows(&maps.ipcache_cidr)?,
        rows(&maps.identity)?,
        rows(&maps.policy_set)?,
        rows(&maps.class)?,
        rows(&maps.policy)?,
        rows(&maps.uplink)?,
        rows(&maps.nomasq)?,
        some_rows(&maps.ct4, is4, STATE_FLOWS_MAX)?,
        some_rows(&maps.ct6, is6, STATE_FLOWS_MAX)?,
        rows(&maps.service)?,
        rows(&maps.service_list)?,
        some_rows(&maps.maglev, |_| true, STATE_MAGLEV_MAX)?,
        rows(&maps.backend)?,
        rows(&maps.source_range)?,
        rows(&maps.service_skip)?,
        some_rows(&maps.service_affinity, |_| true, STATE_CLIENTS_MAX)?,
        some_rows(&maps.service_flow, is_flow, STATE_FLOWS_MAX)?,
    ];
    Ok(all.into())
}

/// Every row of a map; the map's own size is their bound.
fn rows<K, V>(map: &Map<K, V>) -> Result<(String, MapRows), MapError>
where
    K: FromBytes + IntoBytes + Immutable + Copy,
    V: FromBytes + IntoBytes + Immutable + Copy,
{
    some_rows(map, |_| true, usize::MAX)
}

fn some_rows<K, V>(
    map: &Map<K, V>,
    is_meant: impl Fn(&K) -> bool,
    max: usize,
) -> Result<(String, MapRows), MapError>
where
    K: FromBytes + IntoBytes + Immutable + Copy,
    V: FromBytes + IntoBytes + Immutable + Copy,
{
    let mut rows = MapRows::default();
    map.for_each(|key, value| {
        if !is_meant(&key) {
        } else if rows.rows.len() < max {
            rows.push(&key, &value);
        } else {
            rows.left_out += 1;
        }
    })?;
    Ok((map.name().to_owned(), rows))
}

/// The policies in force with the documents that say so now. A document that
/// has been changed since and is not in force is not theirs.
fn policies<'a>(
    in_force: Vec<PolicyObject>,
    files: impl Iterator<Item = &'a Path>,
) -> Vec<PolicyRow> {
    let row = |object: PolicyObject| PolicyRow {
        object,
        file: String::new(),
        line: 0,
        text: String::new(),
    };
    let mut rows: BTreeMap<Origin, PolicyRow> = in_force
        .into_iter()
        .map(|object| (object.origin.clone(), row(object)))
        .collect();
    let mut left = STATE_TEXT_MAX;
    for path in files {
        let Some(text) = read(path) else {
            continue;
        };
        for document in policy_documents(&text) {
            let Some(row) = rows.get_mut(&document.policy.origin) else {
                continue;
            };
            // Of several files the first is in force.
            if !row.file.is_empty() || row.object.rules != document.policy.rules {
                continue;
            }
            row.file = path.display().to_string();
            row.line = document.line;
            if let Some(rest) = left.checked_sub(document.text.len()) {
                left = rest;
                document.text.clone_into(&mut row.text);
            }
        }
    }
    rows.into_values().collect()
}

/// The text of a manifest, if it has one.
fn read(path: &Path) -> Option<String> {
    let file = File::open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(TEXT_BYTES_MAX as u64)
        .read_to_string(&mut text)
        .ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use axon_api::manifest::policy_documents;

    use super::policies;

    const TEXT: &str = "\
kind: Namespace
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: one}
spec: {podSelector: {}}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: two}
spec: {podSelector: {}}
";

    #[test]
    fn policies_are_found_in_the_files_that_say_what_is_in_force() {
        let directory = tempfile::tempdir().expect("a directory");
        let [first, second] = ["a.yaml", "b.yaml"].map(|name| directory.path().join(name));
        let changed = TEXT.replace(
            "two}\nspec: {podSelector: {}}",
            "two}\nspec: {ingress: [{}]}",
        );
        assert_ne!(changed, TEXT);
        std::fs::write(&first, &changed).expect("written");
        std::fs::write(&second, TEXT).expect("written");
        let in_force = policy_documents(TEXT);
        let in_force: Vec<_> = in_force.into_iter().map(|d| d.policy).collect();
        let missing = directory.path().join("c.yaml");
        let files = [first.as_path(), second.as_path(), missing.as_path()];
        let rows = policies(in_force, files.into_iter());
        let found: Vec<_> = rows
            .iter()
            .map(|row| (row.file.clone(), row.line))
            .collect();
        let name = |path: &std::path::Path| path.display().to_string();
        assert_eq!(found, [(name(&first), 2), (name(&second), 7)]);
        assert!(rows[1].text.contains("name: two"), "{}", rows[1].text);
    }
}
