//! What must survive a restart, whole and as it changes.

use std::collections::BTreeMap;

use axon_model::Labels;
use axon_policy::Numbers;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::controller::Controller;
use crate::identity::{CidrIdentities, LabelIdentities};
use crate::services::{self, NumbersChange};

/// What must survive a restart. On disk before the rows of the step that
/// changed it go to the kernel. Numbers of services are apart: they change with every
/// endpoint of the cluster, and policy waits neither for them nor for their disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Persisted {
    /// Numbers of policy sets and rules.
    pub numbers: Numbers,
    /// Identities that this node has numbered.
    pub identities: LabelIdentities,
    /// Identities of prefixes.
    pub cidr_identities: CidrIdentities,
    /// Identities of other nodes' addresses, where prefixes select nodes.
    pub node_identities: CidrIdentities,
    /// Identities of workloads by labels and place, where prefixes select them.
    pub placed_identities: LabelIdentities,
    /// Identities of addresses by the names that they were given for.
    pub name_identities: LabelIdentities,
    /// Identities of other nodes by labels, where rules may ask for those.
    pub labelled_nodes: LabelIdentities,
    /// The last epoch of identities.
    pub epoch: u32,
}

/// How [`Persisted`] has changed: as large as what has, however much there is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PersistedChange {
    /// Numbers of policy sets and rules, if one was given out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numbers: Option<Numbers>,
    /// Labels by number; `None` where it was taken back.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub identities: BTreeMap<u32, Option<Labels>>,
    /// The same of prefixes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cidr_identities: BTreeMap<u32, Option<IpNet>>,
    /// The same of nodes' addresses.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_identities: BTreeMap<u32, Option<IpNet>>,
    /// The same of workloads by labels and place.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub placed_identities: BTreeMap<u32, Option<Labels>>,
    /// The same of addresses by the names that they were given for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub name_identities: BTreeMap<u32, Option<Labels>>,
    /// The same of other nodes by labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labelled_nodes: BTreeMap<u32, Option<Labels>>,
    /// The last epoch of identities.
    pub epoch: u32,
}

impl Persisted {
    /// Tells one state from the next without comparing everything.
    pub(crate) fn stamp(&self) -> impl PartialEq + use<> {
        let identities = (
            self.identities.stamp(),
            self.cidr_identities.stamp(),
            self.node_identities.stamp(),
            self.placed_identities.stamp(),
            self.name_identities.stamp(),
            self.labelled_nodes.stamp(),
        );
        (self.numbers_stamp(), identities, self.epoch)
    }

    fn numbers_stamp(&self) -> (u32, u32) {
        (self.numbers.sets.last(), self.numbers.rules.last())
    }

    /// Carries out a change. Changes that it has seen before are no harm, if
    /// all that came after them are carried out again too.
    pub fn apply(&mut self, change: PersistedChange) {
        if let Some(numbers) = change.numbers {
            self.numbers = numbers;
        }
        for (number, labels) in change.identities {
            self.identities.put(number, labels);
        }
        for (number, prefix) in change.cidr_identities {
            self.cidr_identities.put(number, prefix);
        }
        for (number, address) in change.node_identities {
            self.node_identities.put(number, address);
        }
        for (number, labels) in change.placed_identities {
            self.placed_identities.put(number, labels);
        }
        for (number, labels) in change.name_identities {
            self.name_identities.put(number, labels);
        }
        for (number, labels) in change.labelled_nodes {
            self.labelled_nodes.put(number, labels);
        }
        self.epoch = change.epoch;
    }
}

impl Controller {
    /// What must survive a restart.
    pub fn persisted(&self) -> &Persisted {
        &self.persisted
    }

    /// What of it has changed since this was asked last, or since the
    /// controller was made. Forgotten numbers of sets and rules are told with the
    /// next that is given out.
    pub fn take_persisted_change(&mut self) -> PersistedChange {
        let stamp = self.persisted.numbers_stamp();
        let told = self.told_numbers.replace(stamp);
        let numbers = &self.persisted.numbers;
        PersistedChange {
            numbers: (told != Some(stamp)).then(|| numbers.clone()),
            identities: self.persisted.identities.take_changed(),
            cidr_identities: self.persisted.cidr_identities.take_changed(),
            node_identities: self.persisted.node_identities.take_changed(),
            placed_identities: self.persisted.placed_identities.take_changed(),
            name_identities: self.persisted.name_identities.take_changed(),
            labelled_nodes: self.persisted.labelled_nodes.take_changed(),
            epoch: self.persisted.epoch,
        }
    }

    /// What an earlier agent has numbered of services. Call it before
    /// [`adopt`](Self::adopt).
    pub fn set_service_numbers(&mut self, numbers: services::Numbers) {
        self.service_numbers = numbers;
    }

    /// What services have which number; it must survive a restart too.
    pub fn service_numbers(&self) -> &services::Numbers {
        &self.service_numbers
    }

    /// What of them has changed since this was asked last.
    pub fn take_service_numbers_change(&mut self) -> NumbersChange {
        self.service_numbers.take_change()
    }

    /// Says that all of [`service_numbers`](Self::service_numbers) are kept, with all
    /// that has changed of them.
    pub fn forget_service_numbers_change(&mut self) {
        self.service_numbers.forget_change();
    }
}
