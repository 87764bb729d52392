//! Names for the numbers in events, from what the controller knows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use axon_abi::Identity;
use axon_control::Controller;
use axon_hubble::{EndpointName, NameTable, Policy};
use axon_model::{Label, Labels, Observed, Origin};
use ipnet::IpNet;

use crate::clock::has_stepped;
use crate::uplinks::Uplinks;

/// What names are made from, beside the controller.
pub(crate) struct Sources<'a> {
    pub(crate) node: &'a Arc<str>,
    pub(crate) observed: &'a Observed,
    pub(crate) uplinks: &'a Uplinks,
    /// Nanoseconds since 1970 at the zero of the monotonic clock, as the wall
    /// clock has it now.
    pub(crate) zero_ns: u64,
}

/// Keeps names up to date: of identities and addresses, of which there may be
/// many, those that have changed; of everything else all.
#[derive(Debug, Default)]
pub(crate) struct Namer {
    /// Revisions of the endpoints and policies that were named last; `None`
    /// before.
    named: Option<[u64; 2]>,
    /// Addresses of this node's endpoints.
    own: BTreeSet<IpAddr>,
}

fn revisions(observed: &Observed) -> [u64; 2] {
    [
        observed.endpoints.snapshot().revision(),
        observed.policies.snapshot().revision(),
    ]
}

impl Namer {
    /// Whether something else may have to be named than what the controller
    /// tells: times too, where the wall clock was stepped.
    pub(crate) fn has_news(&self, before: &NameTable, sources: &Sources<'_>) -> bool {
        self.named != Some(revisions(sources.observed))
            || has_stepped(before.monotonic_zero_ns, sources.zero_ns)
    }

    /// The names as they are now; `before` is what this gave last.
    pub(crate) fn follow(
        &mut self,
        before: &NameTable,
        controller: &mut Controller,
        sources: &Sources<'_>,
    ) -> NameTable {
        let renamed = controller.take_renamed();
        let first = self.named.is_none();
        self.named = Some(revisions(sources.observed));
        let (identities, mut addresses): (Vec<Identity>, BTreeSet<IpAddr>) = if first {
            let known = controller.identities().into_iter().map(|(id, _)| id);
            let claimed = controller.ips().into_iter().map(|entry| entry.prefix);
            (known.collect(), claimed.filter_map(host).collect())
        } else {
            let prefixes = renamed.prefixes.into_iter();
            let identities = renamed.identities.into_iter();
            (identities.collect(), prefixes.filter_map(host).collect())
        };
        let mut labels = before.labels.clone();
        for id in identities {
            match controller.labels_of(id) {
                Some(of_id) => labels.insert(id, texts(&of_id)),
                None => labels.remove(&id),
            };
        }
        let own = own_names(sources.observed);
        addresses.extend(own.keys().chain(&self.own));
        self.own = own.keys().copied().collect();
        let mut endpoints = before.endpoints.clone();
        for address in addresses {
            let name = own.get(&address).cloned();
            match name.or_else(|| pod_name(controller, address)) {
                Some(name) => endpoints.insert(address, name),
                None => endpoints.remove(&address),
            };
        }
        let (rules, logs) = rules(controller);
        NameTable {
            node: Arc::clone(sources.node),
            labels,
            endpoints,
            rules,
            logs,
            sets: sets(controller, sources.observed),
            interfaces: interfaces(sources.observed, sources.uplinks),
            monotonic_zero_ns: sources.zero_ns,
        }
    }
}

/// The address of a prefix of one.
fn host(prefix: IpNet) -> Option<IpAddr> {
    let is_one = prefix.prefix_len() == prefix.max_prefix_len();
    is_one.then(|| prefix.addr())
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

fn texts(labels: &Labels) -> Arc<[String]> {
    labels
        .iter()
        .map(|(s, k, v)| Label::new(s, k, v).to_string())
        .collect()
}

/// The names of this node's endpoints.
fn own_names(observed: &Observed) -> BTreeMap<IpAddr, EndpointName> {
    let mut names = BTreeMap::new();
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

/// The name of the pod that has an address.
fn pod_name(controller: &Controller, address: IpAddr) -> Option<EndpointName> {
    let entry = controller.ip(&IpNet::from(address))?;
    let (namespace, name) = entry.pod.split_once('/')?;
    Some(EndpointName {
        id: 0,
        namespace: namespace.into(),
        pod_name: name.into(),
    })
}

/// The policy of each rule in use, and what is told with its verdicts.
fn rules(controller: &Controller) -> (HashMap<u32, Policy>, HashMap<u32, Arc<str>>) {
    let mut names = HashMap::new();
    let mut logs = HashMap::new();
    for number in controller.rules_in_use() {
        let Some(rule) = controller.rule(number) else {
            continue;
        };
        let policy = Policy {
            labels: rule.labels.into(),
            ..Policy::from(&rule.origin)
        };
        names.insert(number, policy);
        if !rule.log.is_empty() {
            logs.insert(number, rule.log.into());
        }
    }
    (names, logs)
}

/// The policies of each set that must allow what is not to be denied.
fn sets(controller: &Controller, observed: &Observed) -> HashMap<u32, [Arc<[Policy]>; 2]> {
    let policies = observed.policies.snapshot();
    let named = |origin: &Origin| {
        let policy = policies.get(origin);
        let rules = || policy.into_iter().flat_map(|policy| &policy.rules);
        let enforces = [
            rules().any(|rule| rule.default_deny_ingress),
            rules().any(|rule| rule.default_deny_egress),
        ];
        (Policy::from(origin), enforces)
    };
    let enforcing = |policies: Vec<(Policy, [bool; 2])>| {
        let of = |direction: fn(&[bool; 2]) -> bool| -> Arc<[Policy]> {
            let those = policies.iter().filter(|(_, enforces)| direction(enforces));
            those.map(|(policy, _)| policy.clone()).collect()
        };
        [of(|[ingress, _]| *ingress), of(|[_, egress]| *egress)]
    };
    let sets = controller.policies_by_set(named).into_iter();
    sets.map(|(set, policies)| (set, enforcing(policies)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    use axon_control::{Config, Controller, Persisted};
    use axon_hubble::{NameTable, Names};
    use axon_model::{Desired, Endpoint, Namespace, Node, ObjectKey, Observed, Pod};

    use super::{Namer, Sources};
    use crate::uplinks::Uplinks;

    fn address(n: u64) -> Ipv4Addr {
        Ipv4Addr::from(0x0a00_0000 + u32::try_from(n).expect("a small number"))
    }

    /// One of many edits of a small cluster, in which pods and endpoints of this
    /// node share few addresses.
    fn edit(observed: &Observed, random: u64) {
        let [what, who, label, addr] = [random, random >> 8, random >> 16, random >> 24];
        let (name, addr) = (format!("pod-{}", who % 4), address(addr % 5));
        let key = ObjectKey::new("shop", &name);
        let number = u16::try_from(who % 3 + 1).expect("a small number");
        let _changed = match what % 6 {
            0 => observed.pods.write(|txn| txn.remove(&key).is_some()),
            1 => observed
                .endpoints
                .write(|txn| txn.remove(&number).is_some()),
            2 => {
                let endpoint = Endpoint {
                    id: number,
                    namespace: "shop".into(),
                    pod_name: name,
                    ifindex: 100 + u32::from(number),
                    ipv4: Some(addr),
                    ..Endpoint::default()
                };
                observed.endpoints.write(|txn| txn.insert(number, endpoint))
            }
            _ => {
                let pod = Pod {
                    namespace: "shop".into(),
                    name,
                    node: "two".into(),
                    labels: [("app".to_owned(), format!("app-{}", label % 3))].into(),
                    ips: vec![addr.into()],
                    ..Pod::default()
                };
                observed.pods.write(|txn| txn.insert(key, pod))
            }
        };
    }

    #[test]
    fn following_is_as_good_as_looking() {
        let config = Config {
            node_name: "one".into(),
            ..Config::default()
        };
        let mut controller = Controller::new(config, Persisted::default());
        let (observed, desired) = (Observed::default(), Desired::default());
        let namespace = Namespace {
            name: "shop".into(),
            ..Namespace::default()
        };
        observed
            .namespaces
            .write(|txn| txn.insert("shop".into(), namespace));
        for name in ["one", "two"] {
            let node = Node {
                name: name.into(),
                ..Node::default()
            };
            observed.nodes.write(|txn| txn.insert(name.into(), node));
        }
        observed.namespaces.mark_complete();
        observed.nodes.mark_complete();
        observed.policies.mark_complete();
        observed.cidr_groups.mark_complete();
        observed.services.mark_complete();
        observed.endpoint_slices.mark_complete();
        observed.names.mark_complete();
        observed.endpoints.mark_complete();
        let (node, uplinks): (Arc<str>, _) = ("one".into(), Uplinks::default());
        let sources = Sources {
            node: &node,
            observed: &observed,
            uplinks: &uplinks,
            zero_ns: 1,
        };
        let (mut namer, mut table) = (Namer::default(), NameTable::default());
        let (mut random, mut named) = (0x9e37_79b9_7f4a_7c15_u64, 0);
        for step in 0..600 {
            if step == 200 {
                // Before, endpoints have names and claim nothing.
                observed.pods.mark_complete();
            }
            // Marsaglia's xorshift.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            edit(&observed, random);
            controller.step(step * 1000, &observed, &desired);
            if random >> 40 & 1 == 0 {
                continue;
            }
            table = namer.follow(&table, &mut controller, &sources);
            let looked = Namer::default().follow(&NameTable::default(), &mut controller, &sources);
            assert_eq!(table.labels, looked.labels, "step {step}");
            assert_eq!(table.endpoints, looked.endpoints, "step {step}");
            named += usize::from(table.endpoints.values().any(|name| name.id != 0));
        }
        assert!(named > 100, "the edits leave something to name");
    }

    #[test]
    fn a_wall_clock_that_jumps_moves_times_and_no_name() {
        const SECOND_NS: u64 = 1_000_000_000;
        const YEAR_NS: u64 = 365 * 86_400 * SECOND_NS;
        let mut controller = Controller::new(Config::default(), Persisted::default());
        let observed = Observed::default();
        let endpoint = Endpoint {
            id: 1,
            namespace: "shop".into(),
            pod_name: "pod-1".into(),
            ipv4: Some(address(1)),
            ..Endpoint::default()
        };
        observed.endpoints.write(|txn| txn.insert(1, endpoint));
        let (node, uplinks): (Arc<str>, _) = ("one".into(), Uplinks::default());
        let at = |zero_ns| Sources {
            node: &node,
            observed: &observed,
            uplinks: &uplinks,
            zero_ns,
        };
        let (mut namer, mut table) = (Namer::default(), NameTable::default());
        let start_ns = 50 * YEAR_NS;
        assert!(namer.has_news(&table, &at(start_ns)), "the first time");
        for (what, zero_ns) in [
            ("as it starts", start_ns),
            ("set ahead", 80 * YEAR_NS),
            ("set back", 40 * YEAR_NS),
            ("by a second", 40 * YEAR_NS - SECOND_NS),
            ("to 1970", 1),
            ("set right", start_ns),
            ("to the end of time", u64::MAX),
            ("set right again", start_ns),
        ] {
            assert!(namer.has_news(&table, &at(zero_ns)), "{what}");
            table = namer.follow(&table, &mut controller, &at(zero_ns));
            assert!(!namer.has_news(&table, &at(zero_ns)), "{what}: told twice");
            let slewed = at(zero_ns.saturating_add(SECOND_NS / 100));
            assert!(!namer.has_news(&table, &slewed), "{what}: slewed");
            let time = table.time(7);
            assert_eq!(time.0, zero_ns.saturating_add(7), "{what}");
            let name = table.endpoints.get(&IpAddr::V4(address(1)));
            let name = name.map(|name| (name.id, &*name.pod_name));
            assert_eq!(name, Some((1, "pod-1")), "{what}");
        }
    }
}
