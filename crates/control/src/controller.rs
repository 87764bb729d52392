//! The controller: observed tables in, desired tables out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use axon_abi::{EndpointRow, Identity, IdentityRow};
use axon_model::{Desired, Labels, ObjectKey, Observed};
use axon_policy::{Engine, Rehearsal, reserved_identities};
use ipnet::IpNet;

use crate::config::{Capacity, Config, IdentityMode};
use crate::faults::Faults;
use crate::follow::host_claim;
use crate::identity::{Exhausted, Range};
use crate::ipcache::{Claim, Claims, single};
use crate::names::Names;
use crate::persisted::Persisted;
use crate::places::Places;
use crate::pods::{Numbering, Pods};
use crate::routes::Overlap;
use crate::runtime::{DeviceAddresses, Epoch};
use crate::seen::{Cursors, ServicesCursors, View};
use crate::services;
use crate::sets::Sets;
use crate::trial::Trials;
use crate::views::{
    Condition, ConditionKind, EndpointStatus, HostStatus, IpSource, Renamed, StepReport,
};

/// What is left of an earlier life beside [`Persisted`]: numbers that must not
/// be given another meaning, also where what was persisted is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// The greatest policy set number in the pinned maps.
    pub last_set: u32,
    /// The epoch in the pinned configuration.
    pub epoch: u32,
    /// Identities in the pinned maps.
    pub identities: Vec<Identity>,
    /// Identities of endpoints, with their labels.
    pub labels: Vec<(Identity, Labels)>,
    /// The row of the node itself in the pinned maps: it stays in force until
    /// there is another.
    pub host: Option<EndpointRow>,
    /// The numbers of services in the pinned maps.
    pub services: services::SeenNumbers,
}

/// Derives desired rows from observed ones.
#[derive(Debug)]
pub struct Controller {
    pub(crate) config: Config,
    /// The rows that policy may take.
    pub(crate) policy_capacity: Capacity,
    pub(crate) persisted: Persisted,
    /// The last numbers of sets and rules that somebody was told.
    pub(crate) told_numbers: Option<(u32, u32)>,
    pub(crate) engine: Engine,
    pub(crate) services: services::Engine,
    pub(crate) service_numbers: services::Numbers,
    pub(crate) services_seen: ServicesCursors,
    /// What would be in force if staged policies were; `None` if there is none.
    pub(crate) rehearsal: Option<Rehearsal>,
    /// Identities of which the rehearsal does not know yet that they have changed.
    pub(crate) rehearsed: BTreeSet<Identity>,
    /// What would be in force may have changed since somebody asked.
    pub(crate) staged_changed: bool,
    pub(crate) numbering: Numbering,
    pub(crate) pods: Pods,
    pub(crate) places: Places,
    pub(crate) claims: Claims,
    pub(crate) sets: Sets,
    pub(crate) epoch: Epoch,
    pub(crate) statuses: BTreeMap<u16, EndpointStatus>,
    pub(crate) host: HostStatus,
    pub(crate) trials: Option<Trials>,
    /// Policy of the node itself is only audited.
    pub(crate) host_audit: bool,
    /// The node's row of another life.
    pub(crate) adopted_host: Option<EndpointRow>,
    pub(crate) pod_cidrs: BTreeMap<IpNet, String>,
    /// Addresses of the API servers.
    pub(crate) apiservers: BTreeSet<IpAddr>,
    /// They have changed since prefixes were numbered.
    pub(crate) apiservers_changed: bool,
    /// Prefixes outside the cluster that policies name.
    pub(crate) named_prefixes: BTreeSet<IpNet>,
    /// They, or the patterns of names that policies ask for, have changed.
    pub(crate) places_changed: bool,
    pub(crate) names: Names,
    /// All was known in the last step that followed names.
    pub(crate) names_complete: bool,
    pub(crate) overlaps: Vec<Overlap>,
    pub(crate) prefixes_exhausted: Option<Exhausted>,
    /// Conditions of policies that ask for what is not enforced.
    pub(crate) unsupported: Vec<Condition>,
    /// What is wrong with services.
    pub(crate) faults: Faults,
    /// Policies, and all that they refer to, were complete in the last step.
    pub(crate) policies_complete: bool,
    /// Identities that may have come, changed or gone in this step.
    pub(crate) touched: BTreeSet<Identity>,
    /// Identities whose rows are not what the engine knows.
    pub(crate) rows_due: BTreeSet<Identity>,
    /// Whose names may have changed since somebody asked.
    pub(crate) renamed: Renamed,
    /// Numbers of rules may be of no use any more.
    pub(crate) rules_due: bool,
    pub(crate) known_namespaces: BTreeSet<String>,
    pub(crate) known_endpoints: BTreeSet<ObjectKey>,
    cursors: Cursors,
    /// Tables that were not complete in the last step; `None` before it.
    incomplete: Option<Vec<&'static str>>,
    conditions: Vec<Condition>,
    local_addresses_changed: bool,
    pub(crate) devices: DeviceAddresses,
}

impl Controller {
    /// A controller that knows what its predecessor persisted.
    pub fn new(config: Config, persisted: Persisted) -> Self {
        let policy = config.policy();
        let mut engine = Engine::new(policy.clone());
        for (id, info) in reserved_identities(&policy) {
            engine.upsert_identity(id, info);
        }
        let mut claims = Claims::default();
        let everywhere = |v6: bool| {
            let any: IpAddr = if v6 {
                std::net::Ipv6Addr::UNSPECIFIED.into()
            } else {
                std::net::Ipv4Addr::UNSPECIFIED.into()
            };
            let prefix = IpNet::new_assert(any, 0);
            (prefix, Claim::of(policy.world_of(v6)))
        };
        let known = [false, true].into_iter().filter(|v6| config.knows(*v6));
        let world = known.map(everywhere).collect();
        claims.set(&(IpSource::World, String::new()), world);
        Self {
            numbering: Numbering::new(config.identity_mode),
            policy_capacity: Capacity::for_policy(&config),
            services: services::Engine::new(
                &config.node_name,
                config.services.clone(),
                config.makes_slices,
            ),
            service_numbers: services::Numbers::default(),
            services_seen: ServicesCursors::default(),
            config,
            persisted,
            told_numbers: None,
            engine,
            rehearsal: None,
            rehearsed: BTreeSet::new(),
            staged_changed: false,
            pods: Pods::default(),
            places: Places::default(),
            claims,
            sets: Sets::default(),
            epoch: Epoch::default(),
            statuses: BTreeMap::new(),
            host: HostStatus::default(),
            trials: None,
            host_audit: false,
            adopted_host: None,
            pod_cidrs: BTreeMap::new(),
            apiservers: BTreeSet::new(),
            apiservers_changed: false,
            named_prefixes: BTreeSet::new(),
            places_changed: false,
            names: Names::default(),
            names_complete: false,
            overlaps: Vec::new(),
            prefixes_exhausted: None,
            unsupported: Vec::new(),
            faults: Faults::default(),
            policies_complete: false,
            touched: BTreeSet::new(),
            rows_due: BTreeSet::new(),
            renamed: Renamed::default(),
            rules_due: true,
            known_namespaces: BTreeSet::new(),
            known_endpoints: BTreeSet::new(),
            cursors: Cursors::default(),
            incomplete: None,
            conditions: Vec::new(),
            local_addresses_changed: false,
            devices: DeviceAddresses::default(),
        }
    }

    /// Says what the pinned maps hold. Call it before the first step.
    pub fn adopt(&mut self, adopted: Adopted) {
        self.persisted
            .numbers
            .sets
            .reserve_through(adopted.last_set);
        self.persisted.epoch = self.persisted.epoch.max(adopted.epoch);
        self.adopted_host = adopted.host;
        self.service_numbers.reserve(adopted.services);
        let persisted = &mut self.persisted;
        for (identity, labels) in adopted.labels {
            let (numbers, range) = match Range::PLACES.holds(identity) {
                true => (&mut persisted.placed_identities, Range::PLACES),
                false => (&mut persisted.identities, Range::LABELS),
            };
            numbers.adopt(range, identity, labels);
        }
        for identity in adopted.identities {
            persisted.identities.reserve(Range::LABELS, identity);
            persisted.placed_identities.reserve(Range::PLACES, identity);
            persisted.cidr_identities.reserve(Range::PREFIXES, identity);
            persisted.node_identities.reserve(Range::NODES, identity);
            persisted.name_identities.reserve(Range::NAMES, identity);
            persisted
                .labelled_nodes
                .reserve(Range::NODE_LABELS, identity);
        }
    }

    /// Names addresses of this node that its Node object does not tell (of
    /// its devices): they are the host too.
    pub fn set_local_addresses(&mut self, addresses: Vec<IpAddr>) {
        let known = addresses
            .into_iter()
            .filter(|addr| self.knows(addr.is_ipv6()));
        let claims = known.map(|addr| (single(addr), host_claim())).collect();
        self.claims.set(&(IpSource::Node, String::new()), claims);
        self.local_addresses_changed = true;
    }

    /// Names the address of each family with which packets leave this node, for
    /// a Node object that tells no InternalIP of the family, or one that is not
    /// among `present`, all that devices have (empty: not known).
    pub fn set_leaving_addresses(&mut self, leaving: Vec<IpAddr>, present: Vec<IpAddr>) {
        self.devices = DeviceAddresses { leaving, present };
    }

    /// Says how many bytes of an IP packet the underlay carries now.
    pub fn set_mtu(&mut self, mtu: u32) {
        self.config.mtu = mtu;
    }

    /// Looks at what has changed and brings the desired tables up to date, but for
    /// those of services, which have a step of their own
    /// ([`step_services`](Self::step_services)): policy comes first.
    ///
    /// Rows of endpoints wait until everything that their identity and policy
    /// follow from is complete; other rows are added and changed at once, and
    /// removed when all tables are complete.
    pub fn step(&mut self, now_ms: u64, observed: &Observed, desired: &Desired) -> StepReport {
        let mode = self.config.identity_mode;
        let mut view = View::take(observed, &mut self.cursors, mode);
        let incomplete = view.incomplete();
        let whole = self.incomplete.as_ref() != Some(&incomplete);
        if whole {
            // Absences mean more than before: look at everything again.
            self.cursors = Cursors::default();
            view = View::take(observed, &mut self.cursors, mode);
        }
        let complete = incomplete.is_empty();
        let became_complete = complete && self.incomplete.as_ref() != Some(&incomplete);
        self.incomplete = Some(incomplete);
        let before = (self.persisted.stamp(), revisions(desired));
        let mut news = std::mem::take(&mut self.local_addresses_changed) || view.is_changed();
        // Where sets have gone, what did not fit may fit now.
        news |= self.trial_is_due(now_ms);
        let room = self.sets.remove_due(now_ms);
        self.rules_due |= room;
        let overflow = |c: &Condition| c.kind == ConditionKind::PolicyOverflow;
        news |= room && self.conditions.iter().any(overflow);
        news |= self.names.next_due_ms().is_some_and(|at| at <= now_ms);
        if news || became_complete {
            self.follow((now_ms, whole), &view, desired, complete);
        }
        if became_complete {
            self.epoch.note_change();
        }
        self.finish(now_ms, &view, desired, complete);
        StepReport {
            policy_revision: view.policies.rows.revision(),
            waiting: self.waiting(),
            conditions: self.conditions.clone(),
            changed: revisions(desired) != before.1,
            persist: self.persisted.stamp() != before.0,
            next_step_ms: [
                self.sets.next_due_ms(),
                self.epoch.next_due_ms(),
                self.names.next_due_ms(),
                self.trials.as_ref().and_then(Trials::next_due_ms),
            ]
            .into_iter()
            .flatten()
            .min(),
        }
    }

    /// Everything that follows from the observed tables alone: identities,
    /// sets, then (in [`Self::finish`]) addresses and
    /// endpoints.
    fn follow(
        &mut self,
        (now_ms, whole): (u64, bool),
        view: &View,
        desired: &Desired,
        complete: bool,
    ) {
        self.follow_nodes(view);
        self.follow_host(view);
        self.follow_policies(now_ms, view);
        self.follow_names(now_ms, view, complete);
        self.follow_pods(view);
        let news = self.identify_endpoints(view);
        if complete {
            self.release_identities(whole);
        }
        self.follow_identities(now_ms, whole, complete);
        if news || view.endpoints.is_changed() {
            self.claims_of_endpoints(view);
        }
        self.write_identities(desired);
        let subjects = self.statuses.values().map(|status| status.identity);
        let subjects = subjects.chain(self.host_subject());
        self.engine.set_subjects(subjects.collect());
        self.rehearse();
        let resolution = self.engine.resolution(&mut self.persisted.numbers).clone();
        self.conditions = self.observed_conditions(view);
        let tiers = self.tier_conditions(&resolution);
        self.conditions.extend(tiers);
        let of_host = self.place_host(view, &resolution);
        let of_host = of_host.into_iter().chain(self.trial_condition());
        self.conditions.extend(of_host);
        let overflows = self.place_endpoints(view, &resolution, desired);
        self.conditions.extend(overflows);
        let rows = self.row_conditions();
        self.conditions.extend(rows);
    }

    /// What depends on time, and what is written last.
    fn finish(&mut self, now_ms: u64, view: &View, desired: &Desired, complete: bool) {
        self.write_addresses(now_ms, view, desired, complete);
        self.write_endpoints(view, desired, complete);
        let used: BTreeSet<u32> = self
            .statuses
            .values()
            .map(|status| status.policy_set)
            .chain([self.host.policy_set])
            .collect();
        self.sets
            .retire(&used, now_ms + self.config.retire_after_ms);
        self.remove_stale(desired, complete);
        if self.epoch.take(now_ms) {
            self.persisted.epoch = self.persisted.epoch.wrapping_add(1);
        }
        self.write_config(view, desired, complete);
    }

    /// Takes back numbers that no pod and no endpoint has: of all if `whole`,
    /// else of those that somebody may have left.
    fn release_identities(&mut self, whole: bool) {
        let mut left: BTreeSet<Identity> = self.touched.clone();
        if whole {
            let placed = self.persisted.placed_identities.iter();
            left.extend(placed.map(|(id, _)| id));
            left.extend(self.persisted.identities.iter().map(|(id, _)| id));
        }
        let mut used: BTreeSet<Identity> = self.statuses.values().map(|s| s.identity).collect();
        used.extend(self.places.claimed());
        left.retain(|id| !self.pods.uses(*id) && !used.contains(id));
        for id in left {
            if Range::PLACES.holds(id) {
                self.persisted.placed_identities.release(id);
            } else if self.config.identity_mode == IdentityMode::Local {
                self.persisted.identities.release(id);
            } else {
                continue;
            }
            self.touched.insert(id);
        }
    }

    /// Rows of those who exist; rows of others wait until all is known.
    fn write_identities(&self, desired: &Desired) {
        let known = self.engine.identities();
        desired.identities.write(|txn| {
            for id in self.rows_due.iter().filter(|id| known.contains_key(id)) {
                txn.insert(*id, IdentityRow::default());
            }
        });
    }

    /// Removals come last, in the reverse order of additions.
    fn remove_stale(&mut self, desired: &Desired, complete: bool) {
        desired.policy_sets.write(|txn| {
            let gone: Vec<u32> = txn
                .iter()
                .map(|(number, _)| *number)
                .filter(|number| self.sets.get(*number).is_none())
                .collect();
            for number in gone {
                txn.remove(&number);
            }
        });
        if !complete {
            return;
        }
        let kept = desired.policy_sets.snapshot();
        let numbers = &mut self.persisted.numbers;
        numbers
            .sets
            .retain(&kept.iter().map(|(number, _)| *number).collect());
        if std::mem::take(&mut self.rules_due) {
            let policies = self.engine.policies();
            let sets = &self.sets;
            let in_rows = |number| {
                sets.iter()
                    .any(|(_, live)| live.set.rules.contains(&number))
            };
            numbers
                .rules
                .retain(|number, rule| policies.contains_key(&rule.origin) || in_rows(number));
        }
        let identities = self.engine.identities();
        let due = std::mem::take(&mut self.rows_due);
        desired.identities.write(|txn| {
            for id in due.iter().filter(|id| !identities.contains_key(id)) {
                txn.remove(id);
            }
        });
        desired.identities.mark_complete();
        desired.policy_sets.mark_complete();
    }

    fn waiting(&self) -> Vec<(u16, crate::WaitReason)> {
        self.statuses
            .values()
            .filter_map(|status| Some((status.id, status.waiting.clone()?)))
            .collect()
    }
}

fn revisions(desired: &Desired) -> [u64; 8] {
    [
        desired.identities.snapshot().revision(),
        desired.policy_sets.snapshot().revision(),
        desired.ipcache.snapshot().revision(),
        desired.ipcache_cidrs.snapshot().revision(),
        desired.endpoints.snapshot().revision(),
        desired.nomasq.snapshot().revision(),
        desired.routes.snapshot().revision(),
        desired.config.snapshot().revision(),
    ]
}
