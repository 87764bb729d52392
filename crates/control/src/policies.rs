//! Follows policies: the groups they refer to, the prefixes they name.

use std::collections::{BTreeMap, BTreeSet};

use axon_abi::Identity;
use axon_model::{
    Action, Auth, GroupRef, Peer, Peers, PolicyKind, PolicyObject, Ports, Rule, RuleEntry, Subject,
};
use axon_policy::{
    Group, PolicyConfig, RuleNumbers, Unmet, closed, groups_in_use, is_extended, policy_groups,
    policy_names, policy_prefixes, unmet,
};
use ipnet::IpNet;

use crate::config::Config;
use crate::controller::Controller;
use crate::ipcache::Claim;
use crate::seen::View;
use crate::views::{Condition, ConditionKind, IpSource};

/// What is in force in the place of a policy that asks for what is not switched
/// on: what was. What was before the agent was started anew nobody knows; whom
/// it had closed stays closed. A policy that never was in force is not, not even
/// in part.
pub(crate) fn in_its_place(
    config: &PolicyConfig,
    known: Option<&PolicyObject>,
    numbers: &RuleNumbers,
    policy: &PolicyObject,
) -> Option<PolicyObject> {
    let was_in_force = || numbers.knows(&policy.origin);
    known
        .cloned()
        .or_else(|| was_in_force().then(|| closed(config, policy)))
}

impl Controller {
    /// Brings policies up to date, the groups they refer to, and identities of
    /// the prefixes they name.
    pub(crate) fn follow_policies(&mut self, now_ms: u64, view: &View) {
        let policies =
            view.policies.is_changed() || self.trial_is_due(now_ms) || self.trial_has_moved(view);
        if policies {
            self.follow_rules(now_ms, view);
        }
        let groups = (policies || view.groups_are_changed()) && self.follow_groups(view);
        let complete = view.policies_are_complete();
        let was_complete = std::mem::replace(&mut self.policies_complete, complete);
        let servers = std::mem::take(&mut self.apiservers_changed);
        // Who is an API server has a label more, also by a name.
        self.places_changed |= servers;
        let nodes = view.nodes.is_changed();
        if policies || groups || servers || nodes || complete && !was_complete {
            self.follow_prefixes(view);
        }
    }

    fn follow_rules(&mut self, now_ms: u64, view: &View) {
        let config = self.config.policy();
        if self.trials.is_some() {
            self.follow_tried_rules(now_ms, view, &config);
        } else {
            self.follow_wanted_rules(view, &config);
        }
        // A staged one drops nothing, whatever it asks for.
        let policies = self.engine.policies().values().filter(|p| !p.staged);
        let unsupported = policies.filter_map(|policy| unsupported(&self.config, policy));
        let refused = view.policies.rows.values();
        let refused = refused.filter_map(|policy| refused_by(&config, policy));
        let enforced = self.engine.policies().values().filter(|p| !p.staged);
        let unproved = enforced.filter_map(unproved);
        self.unsupported = unsupported.chain(refused).chain(unproved).collect();
        self.rules_due = true;
    }

    fn follow_wanted_rules(&mut self, view: &View, config: &PolicyConfig) {
        let known: BTreeSet<_> = self.engine.policies().keys().cloned().collect();
        for origin in view.policies.keys(known.iter()) {
            match view.policies.rows.get(&origin) {
                Some(policy) if unmet(config, policy).is_some() => {
                    let numbers = &self.persisted.numbers.rules;
                    let known = self.engine.policies().get(&origin);
                    if let Some(kept) = in_its_place(config, known, numbers, policy) {
                        self.engine.upsert_policy(kept);
                    }
                }
                Some(policy) => {
                    self.engine.upsert_policy((**policy).clone());
                }
                // While the source has not told everything, what was in force
                // stays.
                None if view.policies.rows.is_complete() => {
                    self.engine.remove_policy(&origin);
                }
                None => {}
            }
        }
    }

    /// Tells the policy engine of the groups that policies refer to. One that
    /// nobody refers to costs nothing. Says whether any has changed.
    fn follow_groups(&mut self, view: &View) -> bool {
        let policies = self.engine.policies().values();
        let refs: BTreeSet<GroupRef> = policies.flat_map(policy_groups).collect();
        if refs.is_empty() && self.engine.groups().is_empty() {
            return false;
        }
        let wanted = groups_in_use(
            &refs,
            view.cidr_groups.rows.values().map(|group| &**group),
            view.services.rows.values().map(|service| &**service),
            view.endpoint_slices
                .rows
                .iter()
                .map(|(k, slice)| (k, &**slice)),
        );
        let known = self.engine.groups().keys();
        let gone: Vec<_> = known
            .filter(|key| !wanted.contains_key(key))
            .cloned()
            .collect();
        let mut changed = BTreeSet::new();
        let mut news = false;
        for (key, group) in wanted {
            news |= self.engine.groups().get(&key) != Some(&group);
            changed.extend(self.engine.upsert_group(&key, group));
        }
        if view.policies_are_complete() {
            for key in gone {
                news = true;
                changed.extend(self.engine.remove_group(&key));
            }
        }
        if !changed.is_empty() {
            self.epoch.note_change();
        }
        news
    }

    /// Numbers the prefixes that policies name, themselves or by groups, and
    /// API servers outside the cluster. One inside a pod CIDR is left out: its
    /// addresses are the cluster's, known or not.
    fn follow_prefixes(&mut self, view: &View) {
        let complete = view.policies_are_complete();
        let by_policies = self.engine.policies().values().flat_map(policy_prefixes);
        let by_groups = self.engine.groups().values().flat_map(Group::prefixes);
        let named: BTreeSet<IpNet> = by_policies
            .chain(by_groups.copied())
            .filter(|prefix| self.knows(matches!(prefix, IpNet::V6(_))))
            .collect();
        if self.config.cidr_selects_pods {
            self.places.set_named(named.clone());
        }
        let outside = |prefix: &&IpNet| !self.pod_cidrs.keys().any(|pods| pods.contains(*prefix));
        let servers = self.apiservers_outside(view);
        let servers = servers.iter().filter(|ip| self.knows(ip.addr().is_ipv6()));
        let outside: BTreeSet<IpNet> = named
            .iter()
            .chain(servers)
            .filter(outside)
            .copied()
            .collect();
        self.places_changed |= self.named_prefixes != outside;
        self.named_prefixes.clone_from(&outside);
        self.prefixes_exhausted = None;
        let mut claims = BTreeMap::new();
        for prefix in &outside {
            match self.persisted.cidr_identities.allocate(*prefix) {
                Ok(id) => {
                    self.touched.insert(id);
                    claims.insert(*prefix, Claim::of(id));
                }
                Err(error) => self.prefixes_exhausted = Some(error),
            }
        }
        self.claims.set(&(IpSource::Policy, String::new()), claims);
        if complete {
            let numbered = self.persisted.cidr_identities.iter();
            let gone: Vec<Identity> = numbered
                .filter(|(_, prefix)| !outside.contains(prefix))
                .map(|(id, _)| id)
                .collect();
            for id in gone {
                self.persisted.cidr_identities.release(id);
                self.touched.insert(id);
            }
        }
    }
}

/// What a policy asks for that nobody carries out yet.
fn unsupported(config: &Config, policy: &PolicyObject) -> Option<Condition> {
    let about_nodes =
        |rule: &Rule| !config.host_firewall && matches!(rule.subject, Subject::Nodes(_));
    // The words of that API mean whoever has the address. What is not accepted
    // for want of that is seen; what is not denied is not.
    let denies_networks = |rule: &Rule| {
        let networks = |entry: &RuleEntry| match &entry.peers {
            Peers::Any => false,
            Peers::List(peers) => peers.iter().any(|peer| matches!(peer, Peer::Cidr { .. })),
        };
        let mut entries = rule.entries.iter();
        entries.any(|entry| entry.action != Action::Allow && networks(entry))
    };
    let by_networks = policy.origin.kind == PolicyKind::ClusterNetworkPolicy
        && !config.cidr_selects_pods
        && policy.rules.iter().any(denies_networks);
    let asks_proxy = |rule: &Rule| rule.entries.iter().any(|entry| entry.l7.is_some());
    let asks_of_pods = |rule: &Rule| {
        let names = |ports: &Ports| match ports {
            Ports::Any => false,
            Ports::List(rules) => rules.iter().any(is_extended),
        };
        let to_allow = |entry: &RuleEntry| entry.action == Action::Allow && names(&entry.ports);
        matches!(rule.subject, Subject::Endpoints(_)) && rule.entries.iter().any(to_allow)
    };
    let clusterwide = policy.origin.kind == PolicyKind::CiliumClusterwideNetworkPolicy;
    let (message, remedy) = if policy.rules.iter().any(about_nodes) {
        let remedy = if clusterwide {
            "set enable-host-firewall, or select endpoints with endpointSelector"
        } else {
            "nodeSelector belongs into a CiliumClusterwideNetworkPolicy"
        };
        ("nodeSelector is not enforced", remedy)
    } else if by_networks {
        (
            "networks do not mean pods here: what this policy denies by them, or passes on, it does \
             not of pods",
            "set policy-cidr-match-mode to nodes and pods, or deny pods by namespaces or pods",
        )
    } else if policy.rules.iter().any(asks_proxy) {
        (
            "there is no proxy yet to ask what is said: connections to ports with rules, \
             serverNames, TLS or listeners are dropped",
            "leave them out of toPorts to allow the ports whatever is said",
        )
    } else if policy.rules.iter().any(asks_of_pods) {
        (
            "pods' packets of protocols without ports are dropped, whatever policy says",
            "name them for nodes only",
        )
    } else if !policy_names(policy).is_empty() {
        (
            "there is no proxy yet to tell which addresses names are given for: toFQDNs allows \
             nobody",
            "name their addresses with toCIDR",
        )
    } else {
        return None;
    };
    Some(Condition {
        kind: ConditionKind::PolicyUnsupported,
        policies: vec![policy.origin.clone()],
        message: format!("{}: {message}", policy.origin),
        remedy: remedy.to_owned(),
    })
}

/// That a policy demands a proof that nobody can give yet. Where no proof is to be
/// good enough, that is what its author wants.
fn unproved(policy: &PolicyObject) -> Option<Condition> {
    let mut entries = policy.rules.iter().flat_map(|rule| &rule.entries);
    let demands = entries.any(|entry| entry.auth == Auth::Required);
    demands.then(|| Condition {
        kind: ConditionKind::PolicyUnsupported,
        policies: vec![policy.origin.clone()],
        message: format!(
            "{}: there is no mutual authentication yet: connections on which it is required are \
             dropped",
            policy.origin
        ),
        remedy: "set authentication.mode to disabled, or leave it out, to allow them without"
            .to_owned(),
    })
}

/// Why a policy is not in force as it is now.
fn refused_by(config: &PolicyConfig, policy: &PolicyObject) -> Option<Condition> {
    let why = unmet(config, policy)?;
    let remedy = match why {
        Unmet::NodeLabels => "set enable-node-selector-labels",
        Unmet::ExtendedProtocols => {
            "set enable-extended-ip-protocols, or leave these protocols out"
        }
    };
    Some(Condition {
        kind: ConditionKind::PolicyUnsupported,
        policies: vec![policy.origin.clone()],
        message: format!(
            "{}: {why}; the policy is not applied, not even in part",
            policy.origin
        ),
        remedy: remedy.to_owned(),
    })
}
