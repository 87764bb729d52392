//! What the controller tells of itself: plain values for the API, status and
//! metrics.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use axon_abi::Identity;
use axon_model::{EndpointState, Labels, Origin};
use axon_policy::{Engine, RowCount, SelectorUse};
use ipnet::IpNet;

use crate::controller::Controller;
use crate::sets::Live;

/// Why an endpoint does not have its policy yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitReason {
    /// Rows of the endpoint stay as they are until the sources have told
    /// everything.
    #[error("waiting for the sources to deliver all {what}")]
    Sources {
        /// Which observed table is not complete.
        what: &'static str,
    },
    /// Its pod is not known.
    #[error("pod {namespace}/{name} is not known yet; until then the endpoint is reserved:init")]
    Pod {
        /// The pod's namespace.
        namespace: String,
        /// The pod's name.
        name: String,
    },
    /// The cluster has not numbered its labels.
    #[error("no CiliumIdentity for its labels yet; until then the endpoint is reserved:init")]
    Identity,
    /// No number is left for its labels.
    #[error("{0}")]
    Exhausted(#[from] crate::identity::Exhausted),
    /// Its policy set does not fit into the kernel's maps.
    #[error("its policy does not fit: {0}")]
    Capacity(String),
    /// Its host-side device is not known.
    #[error("its device is not there yet")]
    Device,
}

/// What the controller has decided for an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointStatus {
    /// Its number.
    pub id: u16,
    /// The labels that make its identity; empty while it is init.
    pub labels: Labels,
    /// Its identity.
    pub identity: Identity,
    /// The policy set version that its desired row points to; 0 if it has no
    /// row yet.
    pub policy_set: u32,
    /// Where it stands: [`EndpointState::WaitingForIdentity`] while it is
    /// init, else [`EndpointState::Regenerating`]. That its rows are in the
    /// kernel, and so that it is ready, is the agent's to say.
    pub state: EndpointState,
    /// Why it does not have its full policy; `None` when it has.
    pub waiting: Option<WaitReason>,
}

/// What the controller has decided for the node itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostStatus {
    /// The policy set version that is for it; 0 if policy is not enforced on it,
    /// or not yet.
    pub policy_set: u32,
    /// Why it does not have its full policy; `None` when it has.
    pub waiting: Option<WaitReason>,
}

/// Something that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// What kind.
    pub kind: ConditionKind,
    /// The policies concerned; empty if it is about the node.
    pub policies: Vec<Origin>,
    /// In a sentence.
    pub message: String,
    /// What to do about it; empty if nothing.
    pub remedy: String,
}

/// Kinds of conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionKind {
    /// A source has not told everything: nothing is removed.
    SourceIncomplete,
    /// Policy does not fit into the kernel's maps: what is in force stays, or
    /// the endpoint is locked down.
    PolicyOverflow,
    /// Addresses or identities do not fit into the kernel's maps.
    RowsOverflow,
    /// A rule asks for what is not enforced here.
    PolicyUnsupported,
    /// Two objects contradict each other.
    Conflict,
    /// A field of an object is left out.
    Fault,
    /// Policy for the node itself is on trial, or was not confirmed in time.
    HostPolicyTrial,
    /// Identities have run out.
    IdentitiesExhausted,
}

/// Whose names may have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renamed {
    /// Identities that have come, gone, or got other labels.
    pub identities: BTreeSet<Identity>,
    /// Addresses and prefixes that have got another owner, or none.
    pub prefixes: BTreeSet<IpNet>,
}

/// What a step has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepReport {
    /// Grows with every change of policies; what [`crate::Controller::step`]
    /// has derived the desired rows from.
    pub policy_revision: u64,
    /// Endpoints that do not have their policy yet, and why.
    pub waiting: Vec<(u16, WaitReason)>,
    /// What an operator should know.
    pub conditions: Vec<Condition>,
    /// Some desired row has changed.
    pub changed: bool,
    /// [`crate::Controller::persisted`] has changed: write it before the rows
    /// go to the kernel.
    pub persist: bool,
    /// When to step again at the latest, even if nothing changes.
    pub next_step_ms: Option<u64>,
}

/// Where an address's identity comes from; the stronger comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpSource {
    /// An endpoint of this node.
    Local,
    /// A node's address.
    Node,
    /// A CiliumEndpoint.
    CiliumEndpoint,
    /// A pod's status.
    Pod,
    /// A node's pod CIDR.
    PodCidr,
    /// An answer of a name server.
    Name,
    /// A prefix that policy names.
    Policy,
    /// The default route: the world.
    World,
}

/// Who an address or prefix is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpEntry {
    /// The prefix; a host address has all its bits.
    pub prefix: IpNet,
    /// Its identity.
    pub identity: Identity,
    /// The node that serves it; `None` if this one or none.
    pub node: Option<IpAddr>,
    /// The pod (`namespace/name`); empty if it is none.
    pub pod: String,
    /// Who says so.
    pub source: IpSource,
}

/// A policy set version that the kernel shall hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySetUse {
    /// Its number.
    pub set: u32,
    /// The policies in it, each once.
    pub policies: Vec<Origin>,
    /// Endpoints whose row points to it.
    pub endpoints: Vec<u16>,
    /// It is the node's own.
    pub host: bool,
    /// Rows in the class map.
    pub classes: usize,
    /// Rows in the policy map.
    pub entries: usize,
    /// Bytes of all its keys and values.
    pub bytes: usize,
    /// No endpoint points to it any more; it goes when packets in flight have
    /// passed.
    pub retiring: bool,
}

/// The rule behind a number in a policy entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleView {
    /// Its policy.
    pub origin: Origin,
    /// Which of the policy's rules, from 0.
    pub index: usize,
    /// The author's words.
    pub description: String,
    /// Labels of the rule itself.
    pub labels: Vec<String>,
    /// What is told with each of its verdicts.
    pub log: String,
}

impl Controller {
    /// What has been decided for each endpoint.
    pub fn endpoints(&self) -> &BTreeMap<u16, EndpointStatus> {
        &self.statuses
    }

    /// Every known identity with its labels.
    pub fn identities(&self) -> Vec<(Identity, Labels)> {
        let known = self.engine.identities().iter();
        known.map(|(id, info)| (*id, info.labels.clone())).collect()
    }

    /// The labels of an identity.
    pub fn labels_of(&self, id: Identity) -> Option<Labels> {
        let info = self.engine.identities().get(&id)?;
        Some(info.labels.clone())
    }

    /// Who every known address and prefix is.
    pub fn ips(&self) -> Vec<IpEntry> {
        self.claims.entries()
    }

    /// Who an address or prefix is, if that is claimed of exactly this one.
    pub fn ip(&self, prefix: &IpNet) -> Option<IpEntry> {
        self.claims.entry(prefix)
    }

    /// Whose names may have changed since this was asked last.
    pub fn take_renamed(&mut self) -> Renamed {
        std::mem::take(&mut self.renamed)
    }

    /// The rules in the policy sets that the kernel shall hold.
    pub fn rules_in_use(&self) -> BTreeSet<u32> {
        let sets = self.sets.iter();
        sets.flat_map(|(_, live)| live.set.rules.iter().copied())
            .collect()
    }

    /// The policy sets that the kernel shall hold.
    pub fn policy_sets(&self) -> Vec<PolicySetUse> {
        let endpoints_of = |number: u32| -> Vec<u16> {
            let users = self.statuses.values().filter(|s| s.policy_set == number);
            users.map(|status| status.id).collect()
        };
        self.sets
            .iter()
            .map(|(number, live)| PolicySetUse {
                set: number,
                policies: self.policies_of(&live.set.rules),
                endpoints: endpoints_of(number),
                host: number == self.host.policy_set,
                classes: live.set.rows.classes.len(),
                entries: live.set.rows.entries.len(),
                bytes: RowCount::of(&live.set.rows).bytes(),
                retiring: live.retire_at_ms.is_some(),
            })
            .collect()
    }

    /// The policies of each set that the kernel shall hold, each named once however
    /// many sets it is in.
    pub fn policies_by_set<T: Clone>(&self, name: impl Fn(&Origin) -> T) -> BTreeMap<u32, Vec<T>> {
        let rules = &self.persisted.numbers.rules;
        let mut named: HashMap<u32, Option<(&Origin, T)>> = HashMap::new();
        let mut policies_of = |live: &Live| {
            let (mut policies, mut last) = (Vec::new(), None);
            for number in live.set.rules.iter() {
                let of_rule = || {
                    let origin = &rules.rule(*number)?.origin;
                    Some((origin, name(origin)))
                };
                if let Some((origin, name)) = named.entry(*number).or_insert_with(of_rule)
                    && last.replace(*origin) != Some(*origin)
                {
                    policies.push(name.clone());
                }
            }
            policies
        };
        let sets = self.sets.iter();
        sets.map(|(number, live)| (number, policies_of(live)))
            .collect()
    }

    /// The policies of rules, each once.
    pub(crate) fn policies_of(&self, rules: &[u32]) -> Vec<Origin> {
        let rule = |number: &u32| self.persisted.numbers.rules.rule(*number);
        let mut policies: Vec<Origin> = rules
            .iter()
            .filter_map(rule)
            .map(|rule| rule.origin.clone())
            .collect();
        policies.dedup();
        policies
    }

    /// The selectors in use and whom they select.
    pub fn selectors(&self) -> Vec<SelectorUse> {
        self.engine.selectors()
    }

    /// What policy is resolved against, for whoever asks again why.
    pub fn policy_engine(&self) -> &Engine {
        &self.engine
    }

    /// Rows that policy needs in the kernel.
    pub fn policy_rows(&self) -> RowCount {
        self.sets.row_count()
    }

    /// The rule behind a number in a policy entry or event.
    pub fn rule(&self, number: u32) -> Option<RuleView> {
        let rule = self.persisted.numbers.rules.rule(number)?;
        let policy = self.engine.policies().get(&rule.origin);
        let text = policy.and_then(|policy| policy.rules.get(rule.index));
        Some(RuleView {
            origin: rule.origin.clone(),
            index: rule.index,
            description: text
                .map(|rule| rule.description.clone())
                .unwrap_or_default(),
            labels: text.map(|rule| rule.labels.clone()).unwrap_or_default(),
            log: text.map(|rule| rule.log.clone()).unwrap_or_default(),
        })
    }
}
