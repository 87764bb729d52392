//! Who pods are: the labels that make their identity, and its number.

use std::collections::{BTreeMap, BTreeSet};

use axon_abi::Identity;
use axon_model::{IdentityRecord, Labels, Namespace, ObjectKey, Pod};
use axon_policy::NamedPorts;
use axon_statedb::Snapshot;

use crate::config::{Config, IdentityMode};
use crate::identity::{Exhausted, LabelIdentities, Range};
use crate::labels::identity_labels;
use crate::persisted::Persisted;
use crate::places::Places;
use crate::seen::Seen;

/// Where numbers of labels come from.
#[derive(Debug)]
pub(crate) struct Numbering {
    mode: IdentityMode,
    /// Labels of the numbers that the cluster has given.
    labels: BTreeMap<u32, Labels>,
    /// Those numbers by labels; of several the least counts.
    numbers: BTreeMap<Labels, BTreeSet<u32>>,
}

/// Labels without a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unnumbered {
    /// The cluster has not numbered them (yet).
    Unknown,
    /// No number is left.
    Exhausted(Exhausted),
}

impl Numbering {
    pub(crate) fn new(mode: IdentityMode) -> Self {
        Self {
            mode,
            labels: BTreeMap::new(),
            numbers: BTreeMap::new(),
        }
    }

    /// Follows the cluster's numbers. Says which have changed, and of these
    /// which had other labels before.
    pub(crate) fn follow(
        &mut self,
        seen: &Seen<u32, IdentityRecord>,
    ) -> (BTreeSet<Identity>, Vec<u32>) {
        let mut relabelled = Vec::new();
        let mut changed = BTreeSet::new();
        for id in seen.keys(self.labels.keys()) {
            let new = seen.rows.get(&id).map(|record| record.labels.clone());
            if self.labels.get(&id) == new.as_ref() {
                continue;
            }
            changed.insert(Identity(id));
            if let Some(old) = self.labels.remove(&id) {
                if let Some(ids) = self.numbers.get_mut(&old) {
                    ids.remove(&id);
                    if ids.is_empty() {
                        self.numbers.remove(&old);
                    }
                }
                relabelled.push(id);
            }
            if let Some(labels) = new {
                self.numbers.entry(labels.clone()).or_default().insert(id);
                self.labels.insert(id, labels);
            }
        }
        (changed, relabelled)
    }

    /// The labels of a number that the cluster has given.
    pub(crate) fn labels(&self, id: Identity) -> Option<&Labels> {
        self.labels.get(&id.0)
    }

    /// The cluster's numbers with their labels.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Identity, &Labels)> {
        self.labels
            .iter()
            .map(|(id, labels)| (Identity(*id), labels))
    }

    /// The number of a set of labels.
    pub(crate) fn number(
        &self,
        labels: &Labels,
        local: &mut LabelIdentities,
    ) -> Result<Identity, Unnumbered> {
        match self.mode {
            IdentityMode::Local => local.allocate(labels).map_err(Unnumbered::Exhausted),
            IdentityMode::Crd => self
                .numbers
                .get(labels)
                .and_then(BTreeSet::first)
                .map(|id| Identity(*id))
                .ok_or(Unnumbered::Unknown),
        }
    }
}

impl Numbering {
    /// The number of a workload of these labels: the labels' own, or one for
    /// where it is, if `placed` tells more.
    pub(crate) fn number_placed(
        &self,
        base: &Labels,
        placed: &Labels,
        persisted: &mut Persisted,
    ) -> Result<Identity, Unnumbered> {
        if base == placed {
            return self.number(base, &mut persisted.identities);
        }
        if self.mode == IdentityMode::Crd {
            self.number(base, &mut persisted.identities)?;
        }
        let numbers = &mut persisted.placed_identities;
        numbers
            .allocate_in(Range::PLACES, placed)
            .map_err(Unnumbered::Exhausted)
    }
}

/// What is known of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodFacts {
    /// Its labels, as far as they make identities.
    base: Labels,
    /// The labels that make its identity: also of where it is, where prefixes
    /// select pods.
    pub(crate) labels: Labels,
    /// Their number.
    pub(crate) identity: Result<Identity, Unnumbered>,
    /// The ports it declares by name.
    pub(crate) named_ports: NamedPorts,
}

/// The facts of every pod that has an identity of its own, by key.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    facts: BTreeMap<ObjectKey, PodFacts>,
    /// The pods of each identity.
    by_identity: BTreeMap<Identity, BTreeSet<ObjectKey>>,
    /// Pods for whose labels no number is left.
    unnumbered: BTreeMap<ObjectKey, Exhausted>,
    /// Identities whose pods, or what those declare, have changed.
    touched: BTreeSet<Identity>,
}

impl Pods {
    /// What is known of a pod.
    pub(crate) fn get(&self, key: &ObjectKey) -> Option<&PodFacts> {
        self.facts.get(key)
    }

    /// Looks at a pod again; says whether something is new.
    ///
    /// A pod in the node's own network is the node. A namespace that is not
    /// known has no labels.
    pub(crate) fn update(
        &mut self,
        key: &ObjectKey,
        pod: Option<&Pod>,
        namespaces: &Snapshot<String, Namespace>,
        (config, places): (&Config, &Places),
        (numbering, persisted): (&Numbering, &mut Persisted),
    ) -> bool {
        let Some(pod) = pod.filter(|pod| !pod.host_network) else {
            return self.replace(key, None);
        };
        let unknown = Namespace::default();
        let namespace = namespaces.get(&pod.namespace).map_or(&unknown, |n| &**n);
        let base = identity_labels(pod, namespace, &config.cluster_name, &config.label_filter);
        let labels = match config.cidr_selects_pods {
            true => places.labels(&base, places.local(key).unwrap_or(&pod.ips)),
            false => base.clone(),
        };
        let facts = PodFacts {
            identity: numbering.number_placed(&base, &labels, persisted),
            base,
            labels,
            named_ports: named_ports(pod),
        };
        if self.facts.get(key) == Some(&facts) {
            return false;
        }
        self.replace(key, Some(facts))
    }

    fn replace(&mut self, key: &ObjectKey, facts: Option<PodFacts>) -> bool {
        self.unnumbered.remove(key);
        match facts.as_ref().map(|facts| &facts.identity) {
            Some(Ok(id)) => {
                self.touched.insert(*id);
                self.by_identity.entry(*id).or_default().insert(key.clone());
            }
            Some(Err(Unnumbered::Exhausted(error))) => {
                self.unnumbered.insert(key.clone(), error.clone());
            }
            Some(Err(Unnumbered::Unknown)) | None => {}
        }
        let now = facts
            .as_ref()
            .and_then(|facts| facts.identity.as_ref().ok().copied());
        let old = match facts {
            Some(facts) => self.facts.insert(key.clone(), facts),
            None => self.facts.remove(key),
        };
        let was = old
            .as_ref()
            .and_then(|old| old.identity.as_ref().ok().copied());
        if let Some(was) = was {
            self.touched.insert(was);
            if now != Some(was)
                && let Some(pods) = self.by_identity.get_mut(&was)
            {
                pods.remove(key);
                if pods.is_empty() {
                    self.by_identity.remove(&was);
                }
            }
        }
        old.is_some() || now.is_some()
    }

    /// Identities whose pods, or what those declare, have changed; they are
    /// forgotten.
    pub(crate) fn take_touched(&mut self) -> BTreeSet<Identity> {
        std::mem::take(&mut self.touched)
    }

    /// Numbers every pod's labels again; says which pods have another number.
    pub(crate) fn renumber(
        &mut self,
        numbering: &Numbering,
        persisted: &mut Persisted,
    ) -> Vec<ObjectKey> {
        let mut renumbered = Vec::new();
        for (key, facts) in &self.facts {
            let identity = numbering.number_placed(&facts.base, &facts.labels, persisted);
            if facts.identity != identity {
                let facts = facts.clone();
                renumbered.push((key.clone(), PodFacts { identity, ..facts }));
            }
        }
        let news = |(key, facts): (ObjectKey, PodFacts)| {
            self.replace(&key, Some(facts));
            key
        };
        renumbered.into_iter().map(news).collect()
    }

    /// The keys of all pods.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.facts.keys()
    }

    /// Whether some pod has the identity.
    pub(crate) fn uses(&self, id: Identity) -> bool {
        self.by_identity.contains_key(&id)
    }

    /// The ports that the pods of an identity declare by name.
    pub(crate) fn named_ports(&self, id: Identity) -> NamedPorts {
        let mut all = NamedPorts::new();
        let pods = self.by_identity.get(&id).into_iter().flatten();
        for facts in pods.filter_map(|key| self.facts.get(key)) {
            for (name, ports) in &facts.named_ports {
                all.entry(name.clone()).or_default().extend(ports);
            }
        }
        all
    }

    /// Why numbers ran out, if they did.
    pub(crate) fn exhausted(&self) -> Option<&Exhausted> {
        self.unnumbered.values().next()
    }
}

fn named_ports(pod: &Pod) -> NamedPorts {
    let mut named = NamedPorts::new();
    for port in pod.ports.iter().filter(|port| !port.name.is_empty()) {
        let key = (port.name.clone(), port.protocol);
        named.entry(key).or_default().insert(port.port);
    }
    named
}
