//! Names for the numbers in events, from what the controller knows.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use axon_abi::Direction;
use axon_control::Controller;
use axon_hubble::{EndpointName, NameTable, Policy};
use axon_model::{Desired, Label, Labels, Observed, Origin};

use crate::clock::monotonic_zero_ns;
use crate::uplinks::Uplinks;

/// What names are made from.
pub(crate) struct Sources<'a> {
    pub(crate) node: &'a Arc<str>,
    pub(crate) controller: &'a Controller,
    pub(crate) observed: &'a Observed,
    pub(crate) desired: &'a Desired,
    pub(crate) uplinks: &'a Uplinks,
}

/// The names as they are now. Labels that have not changed are shared with the
/// table before.
pub(crate) fn build(before: &NameTable, sources: &Sources<'_>) -> NameTable {
    let Sources {
        node,
        controller,
        observed,
        desired,
        uplinks,
    } = sources;
    let (rules, logs) = rules(controller, desired);
    NameTable {
        node: Arc::clone(node),
        labels: controller
            .identities()
            .into_iter()
            .map(|(id, labels)| {
                let known = before.labels.get(&id).filter(|known| same(known, &labels));
                (id, known.map_or_else(|| texts(&labels), Arc::clone))
            })
            .collect(),
        endpoints: endpoints(controller, observed),
        rules,
        logs,
        sets: sets(controller, observed),
        interfaces: interfaces(observed, uplinks),
        monotonic_zero_ns: monotonic_zero_ns(),
    }
}

fn interfaces(observed: &Observed, uplinks: &Uplinks) -> HashMap<u32, Arc<str>> {
    let endpoints = observed.endpoints.snapshot();
    let own = endpoints
        .values()
        .map(|e| (e.ifindex, e.interface.as_str().into()));
    let devices = uplinks.devices.iter();
    own.chain(devices.map(|d| (d.ifindex, d.name.as_str().into())))
        .collect()
}

fn same(known: &[String], labels: &Labels) -> bool {
    known.len() == labels.len()
        && labels
            .iter()
            .zip(known)
            .all(|((s, k, v), text)| Label::new(s, k, v).to_string() == *text)
}

fn texts(labels: &Labels) -> Arc<[String]> {
    labels
        .iter()
        .map(|(s, k, v)| Label::new(s, k, v).to_string())
        .collect()
}

fn endpoints(controller: &Controller, observed: &Observed) -> HashMap<IpAddr, EndpointName> {
    let mut names = HashMap::new();
    for entry in controller.ips() {
        let host = entry.prefix.prefix_len() == entry.prefix.max_prefix_len();
        let Some((namespace, name)) = entry.pod.split_once('/').filter(|_| host) else {
            continue;
        };
        let name = EndpointName {
            id: 0,
            namespace: namespace.into(),
            pod_name: name.into(),
        };
        names.insert(entry.prefix.addr(), name);
    }
    for endpoint in observed.endpoints.snapshot().values() {
        let name = EndpointName {
            id: endpoint.id,
            namespace: endpoint.namespace.as_str().into(),
            pod_name: endpoint.name().into(),
        };
        let v4 = endpoint.ipv4.map(IpAddr::V4);
        for address in v4.into_iter().chain(endpoint.ipv6.map(IpAddr::V6)) {
            names.insert(address, name.clone());
        }
    }
    names
}

/// The policy of each rule in use, and what is told with its verdicts.
fn rules(
    controller: &Controller,
    desired: &Desired,
) -> (HashMap<u32, Policy>, HashMap<u32, Arc<str>>) {
    let mut names = HashMap::new();
    let mut logs = HashMap::new();
    for set in desired.policy_sets.snapshot().values() {
        for (_, entry) in &set.entries {
            if !names.contains_key(&entry.rule)
                && let Some(rule) = controller.rule(entry.rule)
            {
                let policy = Policy {
                    labels: rule.labels.into(),
                    ..Policy::from(&rule.origin)
                };
                names.insert(entry.rule, policy);
                if !rule.log.is_empty() {
                    logs.insert(entry.rule, rule.log.into());
                }
            }
        }
    }
    (names, logs)
}

/// The policies of each set that must allow what is not to be denied.
fn sets(controller: &Controller, observed: &Observed) -> HashMap<u32, [Arc<[Policy]>; 2]> {
    let policies = observed.policies.snapshot();
    let enforcing = |origins: &[Origin], direction: Direction| -> Arc<[Policy]> {
        origins
            .iter()
            .filter(|origin| {
                policies.get(origin).is_some_and(|policy| {
                    policy.rules.iter().any(|rule| match direction {
                        Direction::Ingress => rule.default_deny_ingress,
                        Direction::Egress => rule.default_deny_egress,
                        Direction::Unknown => false,
                    })
                })
            })
            .map(Policy::from)
            .collect()
    };
    controller
        .policy_sets()
        .into_iter()
        .map(|set| {
            let ingress = enforcing(&set.policies, Direction::Ingress);
            let egress = enforcing(&set.policies, Direction::Egress);
            (set.set, [ingress, egress])
        })
        .collect()
}
