//! Follows the observed tables: who pods are, what policy sees, who claims
//! which address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use axon_abi::{Identity, IpcacheFlags, Scope};
use axon_model::{Label, Labels, Node, NodeAddressKind, ObjectKey, source};
use axon_policy::{
    IdentityInfo, cidr_label, cidr_labels, named_by, other_node_labels, places, prefixes_of,
};
use ipnet::IpNet;

use crate::config::IdentityMode;
use crate::controller::Controller;
use crate::identity::Range;
use crate::ipcache::{Claim, single};
use crate::routes::pod_cidrs;
use crate::seen::View;
use crate::views::{Condition, ConditionKind, IpSource};

impl Controller {
    /// Brings identities of pods up to date. Numbers are given only once the
    /// namespaces are known: their labels are part of an identity.
    pub(crate) fn follow_pods(&mut self, view: &View) {
        if view.identities.is_changed() {
            let (changed, relabelled) = self.numbering.follow(&view.identities);
            self.touched.extend(changed);
            if !relabelled.is_empty() {
                self.epoch.note_change();
            }
        }
        let by_place = self.config.cidr_selects_pods;
        if by_place && !view.policies_are_complete() {
            // Who pods are follows from the prefixes that policies name.
            return;
        }
        let moved = by_place && self.places.take_changed();
        self.follow_cilium_endpoints(view, moved);
        if !view.namespaces.rows.is_complete() {
            return;
        }
        let mut keys = view.pods.keys(self.pods.keys());
        if by_place && view.endpoints.is_changed() {
            let endpoints = view.endpoints.rows.values().map(|endpoint| &**endpoint);
            keys.extend(self.places.set_local(endpoints));
        }
        if moved {
            keys.extend(self.pods.keys().cloned());
        }
        if view.namespaces.is_changed() {
            let changed = view.namespaces.keys(self.known_namespaces.iter());
            let in_changed = |key: &&ObjectKey| changed.contains(&key.namespace);
            keys.extend(self.pods.keys().filter(in_changed).cloned());
            let names = view.namespaces.rows.iter().map(|(name, _)| name.clone());
            self.known_namespaces = names.collect();
        }
        for key in &keys {
            let pod = view.pods.rows.get(key).map(|pod| &**pod);
            let numbers = (&self.numbering, &mut self.persisted);
            let namespaces = &view.namespaces.rows;
            let config = (&self.config, &self.places);
            self.pods.update(key, pod, namespaces, config, numbers);
        }
        if view.identities.is_changed() && self.config.identity_mode == IdentityMode::Crd {
            let renumbered = self.pods.renumber(&self.numbering, &mut self.persisted);
            keys.extend(renumbered);
        }
        if view.nodes.is_changed() {
            keys.extend(view.pods.rows.iter().map(|(key, _)| key.clone()));
        }
        for key in keys {
            let claims = self.pod_claims(view, &key);
            self.claims.set(&(IpSource::Pod, key.to_string()), claims);
        }
        self.touched.extend(self.pods.take_touched());
    }

    fn follow_cilium_endpoints(&mut self, view: &View, moved: bool) {
        if self.config.identity_mode == IdentityMode::Local {
            // Their numbers are somebody else's.
            return;
        }
        let mut keys = view.cilium_endpoints.keys(self.known_endpoints.iter());
        let relabelled = self.config.cidr_selects_pods && view.identities.is_changed();
        if view.nodes.is_changed() || moved || relabelled {
            keys.extend(self.known_endpoints.iter().cloned());
        }
        for key in keys {
            let claims = self.cilium_endpoint_claims(view, &key);
            self.claims
                .set(&(IpSource::CiliumEndpoint, key.to_string()), claims);
            if view.cilium_endpoints.rows.get(&key).is_some() {
                self.known_endpoints.insert(key);
            } else {
                self.known_endpoints.remove(&key);
            }
        }
    }

    fn pod_claims(&self, view: &View, key: &ObjectKey) -> BTreeMap<IpNet, Claim> {
        let own = &self.config.node_name;
        let remote = |pod: &&_| {
            let pod: &axon_model::Pod = pod;
            !pod.host_network && !pod.node.is_empty() && pod.node != *own
        };
        let pod = view.pods.rows.get(key).map(|pod| &**pod).filter(remote);
        let facts = self.pods.get(key);
        let (Some(pod), Some(Ok(identity))) = (pod, facts.map(|f| &f.identity)) else {
            return BTreeMap::new();
        };
        let node = view.nodes.rows.get(&pod.node);
        let claim = |addr: &IpAddr| Claim {
            identity: *identity,
            flags: IpcacheFlags::WORKLOAD,
            node: node.and_then(|node| serving_address(node, *addr)),
            pod: key.to_string(),
        };
        let carried = pod.ips.iter().filter(|addr| self.knows(addr.is_ipv6()));
        carried.map(|addr| (single(*addr), claim(addr))).collect()
    }

    fn cilium_endpoint_claims(&mut self, view: &View, key: &ObjectKey) -> BTreeMap<IpNet, Claim> {
        self.places.claim(key, None);
        let Some(endpoint) = view.cilium_endpoints.rows.get(key) else {
            return BTreeMap::new();
        };
        // Of this node's endpoints the node itself knows best: one that is
        // gone must not live on in the cluster's memory of it.
        let own = view.nodes.rows.get(&self.config.node_name);
        let is_own = |addr: IpAddr| own.is_some_and(|n| n.addresses.iter().any(|a| a.addr == addr));
        if endpoint.identity == 0 || endpoint.node_ip.is_some_and(is_own) {
            return BTreeMap::new();
        }
        let claim = Claim {
            identity: self.placed(key, Identity(endpoint.identity), &endpoint.ips),
            flags: IpcacheFlags::WORKLOAD,
            node: endpoint.node_ip,
            pod: key.to_string(),
        };
        let carried = endpoint
            .ips
            .iter()
            .filter(|addr| self.knows(addr.is_ipv6()));
        carried.map(|addr| (single(*addr), claim.clone())).collect()
    }

    /// Who a CiliumEndpoint is at its addresses, where prefixes select
    /// workloads.
    fn placed(&mut self, key: &ObjectKey, id: Identity, addresses: &[IpAddr]) -> Identity {
        if !self.config.cidr_selects_pods {
            return id;
        }
        // Without labels the number is nobody's.
        let Some(base) = self.numbering.labels(id) else {
            return id;
        };
        let labels = self.places.labels(base, addresses);
        if *base == labels {
            return id;
        }
        let numbers = &mut self.persisted.placed_identities;
        match numbers.allocate_in(Range::PLACES, &labels) {
            Ok(placed) => {
                self.places.claim(key, Some(placed));
                self.touched.insert(placed);
                placed
            }
            // Nobody is known by no number.
            Err(_) => Identity::UNKNOWN,
        }
    }

    /// Whether addresses of a family are anybody's.
    pub(crate) fn knows(&self, v6: bool) -> bool {
        self.config.knows(v6)
    }

    /// Brings nodes up to date: their addresses, their pods' prefixes.
    pub(crate) fn follow_nodes(&mut self, view: &View) {
        let servers_changed = self.follow_apiservers(view);
        self.apiservers_changed |= servers_changed;
        if !view.nodes.is_changed() && !servers_changed {
            return;
        }
        let own = self.config.node_name.clone();
        let nodes = || view.nodes.rows.values().map(|node| &**node);
        let (cidrs, overlaps) = pod_cidrs(&own, nodes());
        let carried = |(prefix, _): &(IpNet, String)| self.knows(matches!(prefix, IpNet::V6(_)));
        let cidrs: BTreeMap<IpNet, String> = cidrs.into_iter().filter(carried).collect();
        self.overlaps = overlaps;
        for node in nodes() {
            let is_own = node.name == own;
            let mut addresses: BTreeMap<IpNet, Claim> = BTreeMap::new();
            for address in &node.addresses {
                if self.knows(address.addr.is_ipv6()) {
                    let claim = self.node_claim(node, is_own, address.addr);
                    addresses.insert(single(address.addr), claim);
                }
            }
            // Until the API servers are known, nobody is taken for none.
            if is_own || view.endpoint_slices.rows.is_complete() {
                self.claims
                    .set(&(IpSource::Node, node.name.clone()), addresses);
            }
            let of_node = |(_, owner): &(&IpNet, &String)| **owner == node.name;
            let prefixes = cidrs.iter().filter(of_node).map(|(prefix, _)| {
                let claim = Claim {
                    node: serving_address(node, prefix.addr()).filter(|_| !is_own),
                    ..Claim::of(Identity::UNMANAGED)
                };
                (*prefix, claim)
            });
            let prefixes = prefixes.collect();
            self.claims
                .set(&(IpSource::PodCidr, node.name.clone()), prefixes);
        }
        for source in [IpSource::Node, IpSource::PodCidr] {
            let known = |name: &str| view.nodes.rows.get(&name.to_owned()).is_some();
            // The nameless one is this node, by its devices.
            self.claims
                .retain(source, |name| name.is_empty() || known(name));
        }
        self.pod_cidrs = cidrs;
        if view.nodes.rows.is_complete() && view.endpoint_slices.rows.is_complete() {
            self.release_nodes(view);
        }
    }

    fn node_claim(&mut self, node: &Node, is_own: bool, addr: IpAddr) -> Claim {
        let mut claim = node_claim(node, is_own, addr);
        if is_own {
            return claim;
        }
        if self.apiservers.contains(&addr) {
            claim.identity = Identity::KUBE_APISERVER;
        }
        // Where no number is left, a node is told by its scope alone.
        let id = if self.config.node_labels {
            let mut labels = other_node_labels(&self.config.policy(), &node.labels);
            labels = self.with_apiserver(labels, &single(addr));
            if self.config.cidr_selects_nodes {
                labels.insert(cidr_label(single(addr)));
            }
            let numbers = &mut self.persisted.labelled_nodes;
            numbers.allocate_in(Range::NODE_LABELS, &labels).ok()
        } else if self.config.cidr_selects_nodes {
            let numbers = &mut self.persisted.node_identities;
            numbers.allocate_in(Range::NODES, single(addr)).ok()
        } else {
            None
        };
        if let Some(id) = id {
            self.touched.insert(id);
            claim.identity = id;
        }
        claim
    }

    /// Takes back the numbers that no other node has.
    fn release_nodes(&mut self, view: &View) {
        let own = &self.config.node_name;
        let others = view.nodes.rows.values().filter(|node| node.name != *own);
        let owners = others.map(|node| (IpSource::Node, node.name.clone()));
        let claims = owners.flat_map(|owner| self.claims.claimed_by(&owner));
        let used: BTreeSet<Identity> = claims.map(|claim| claim.identity).collect();
        let persisted = &mut self.persisted;
        let by_address = persisted.node_identities.iter().map(|(id, _)| id);
        let by_labels = persisted.labelled_nodes.iter().map(|(id, _)| id);
        let numbered = by_address.chain(by_labels);
        let gone: Vec<Identity> = numbered.filter(|id| !used.contains(id)).collect();
        for id in gone {
            persisted.node_identities.release(id);
            persisted.labelled_nodes.release(id);
            self.touched.insert(id);
        }
    }

    /// Tells the policy engine who exists: of everyone if `whole`, else of
    /// those who may have changed. Nobody goes before everything is known: nor do
    /// their rows and addresses, of which sets must go on telling.
    pub(crate) fn follow_identities(&mut self, now_ms: u64, whole: bool, complete: bool) {
        let mut due = std::mem::take(&mut self.touched);
        if whole {
            let local = self.persisted.identities.iter().map(|(id, _)| id);
            let prefixes = self.persisted.cidr_identities.iter().map(|(id, _)| id);
            let cluster = self.numbering.iter().map(|(id, _)| id);
            let nodes = self.persisted.node_identities.iter().map(|(id, _)| id);
            let placed = self.persisted.placed_identities.iter().map(|(id, _)| id);
            let known = self.engine.identities().keys().copied();
            due.extend(local.chain(prefixes).chain(cluster).chain(known));
            let names = self.persisted.name_identities.iter().map(|(id, _)| id);
            let labelled = self.persisted.labelled_nodes.iter().map(|(id, _)| id);
            due.extend(nodes.chain(placed).chain(names).chain(labelled));
        }
        due.retain(|id| !id.is_reserved());
        for id in due {
            let known = self.engine.identities().contains_key(&id);
            let news = match self.info_of(id) {
                Some(info) => self.engine.upsert_identity(id, info),
                None => complete && self.engine.remove_identity(id),
            };
            if !news {
                continue;
            }
            self.rows_due.insert(id);
            self.renamed.identities.insert(id);
            self.note_rehearsed([id]);
            // Sets keep their numbers when somebody changes class in them, and
            // the cluster's addresses may have named a number before its
            // labels were known.
            if known {
                self.epoch.note_change();
            } else if self.config.identity_mode == IdentityMode::Crd {
                self.epoch.note_addition(now_ms);
            }
        }
    }

    /// What policy shall know of an identity; `None` if it does not exist.
    fn info_of(&self, id: Identity) -> Option<IdentityInfo> {
        if Range::NAMES.holds(id) {
            let labels = self.persisted.name_identities.labels(id)?;
            let mut info = named_by(&self.config.policy(), labels);
            if let Some(place) = info.prefix {
                info.labels = self.with_apiserver(info.labels, &place);
            }
            return Some(info);
        }
        if Range::NODE_LABELS.holds(id) {
            let labels = self.persisted.labelled_nodes.labels(id)?;
            return Some(IdentityInfo {
                addresses: prefixes_of(labels).collect(),
                ..IdentityInfo::labelled(labels.clone())
            });
        }
        if id.is_world() {
            let prefix = self.persisted.cidr_identities.prefix(id)?;
            let labels = cidr_labels(&self.config.policy(), prefix);
            return Some(IdentityInfo {
                prefix: Some(prefix),
                ..IdentityInfo::labelled(self.with_apiserver(labels, &prefix))
            });
        }
        if id.scope() == Scope::RemoteNode {
            let address = self.persisted.node_identities.prefix(id)?;
            let name = Identity::REMOTE_NODE.reserved_name()?;
            let labels = [Label::new(source::RESERVED, name, ""), cidr_label(address)];
            let labels = labels.into_iter().collect();
            return Some(IdentityInfo {
                addresses: [address].into(),
                ..IdentityInfo::labelled(self.with_apiserver(labels, &address))
            });
        }
        let labels: &Labels = match self.config.identity_mode {
            _ if Range::PLACES.holds(id) => self.persisted.placed_identities.labels(id),
            IdentityMode::Local => self.persisted.identities.labels(id),
            IdentityMode::Crd => self.numbering.labels(id),
        }?;
        Some(IdentityInfo {
            addresses: match self.config.cidr_selects_pods {
                true => places(&self.config.policy(), labels),
                false => BTreeSet::new(),
            },
            named_ports: self.pods.named_ports(id),
            ..IdentityInfo::labelled(labels.clone())
        })
    }

    /// What an operator should know of what is observed.
    pub(crate) fn observed_conditions(&self, view: &View) -> Vec<Condition> {
        let mut conditions = Vec::new();
        for what in view.incomplete() {
            conditions.push(Condition {
                kind: ConditionKind::SourceIncomplete,
                policies: Vec::new(),
                message: format!("not all {what} are known yet: nothing is removed"),
                remedy: "look at the sources in `axon status`".to_owned(),
            });
        }
        for overlap in &self.overlaps {
            conditions.push(Condition {
                kind: ConditionKind::Conflict,
                policies: Vec::new(),
                message: format!(
                    "pod CIDR {} of node {} overlaps one of node {}; it is left out",
                    overlap.prefix, overlap.refused, overlap.kept
                ),
                remedy: "give every node pod CIDRs of its own".to_owned(),
            });
        }
        let exhausted = self.pods.exhausted().or(self.prefixes_exhausted.as_ref());
        conditions.extend(exhausted.map(|error| Condition {
            kind: ConditionKind::IdentitiesExhausted,
            policies: Vec::new(),
            message: error.to_string(),
            remedy: "leave out labels that policy does not need (option `labels`)".to_owned(),
        }));
        conditions.extend(self.unsupported.iter().cloned());
        conditions
    }
}

/// The node's address by which one of its pods' addresses is reached: the
/// internal one of the same family, else of the other.
fn serving_address(node: &Node, addr: IpAddr) -> Option<IpAddr> {
    let v6 = addr.is_ipv6();
    node.internal_ip(v6).or_else(|| node.internal_ip(!v6))
}

fn node_claim(node: &Node, is_own: bool, addr: IpAddr) -> Claim {
    if is_own {
        return host_claim();
    }
    let internal =
        |a: &axon_model::NodeAddress| a.kind == NodeAddressKind::InternalIP && a.addr == addr;
    let own_way = node.addresses.iter().any(internal).then_some(addr);
    Claim {
        node: own_way.or_else(|| serving_address(node, addr)),
        ..Claim::of(Identity::REMOTE_NODE)
    }
}

/// An address of this node itself.
pub(crate) fn host_claim() -> Claim {
    Claim {
        flags: IpcacheFlags::LOCAL_HOST,
        ..Claim::of(Identity::HOST)
    }
}
