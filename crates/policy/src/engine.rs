//! The incremental twin of [`crate::resolve()`].

use std::collections::{BTreeMap, BTreeSet};

use axon_abi::{Direction, Identity, Scope};
use axon_model::{GroupKey, Labels, Origin, PolicyObject, Rule};

use crate::compile::{SubjectTraits, compile, port_names};
use crate::groups::Groups;
use crate::resolve::{is_about, subject_labels};
use crate::rows::{Shape, Vector};
use crate::select::stand_ins;
use crate::state::{SetKey, SetState, SubjectState, matching};
use crate::whos::{SetId, Whos};
use crate::{Group, IdentityInfo, NamedPorts, Numbers, PolicyConfig, Resolution};

/// Keeps policy sets resolved while identities and policies come and go:
/// always what [`crate::resolve()`] would say of the same world.
///
/// What an edit touches: an identity, the far sides that it shares a label
/// with, and one class in each set that one of them is in; a policy, the
/// subjects that it is about and their sets; a group, the identities that come
/// into it and leave it. Nothing else is looked at. A set gets another number
/// only when what it says has changed, not when identities come and go or groups
/// change.
#[derive(Debug)]
pub struct Engine {
    config: PolicyConfig,
    stand_ins: Vec<(Scope, Identity, IdentityInfo)>,
    identities: BTreeMap<Identity, IdentityInfo>,
    policies: BTreeMap<Origin, PolicyObject>,
    groups: Groups,
    node: Labels,
    subjects: BTreeMap<Identity, SubjectState>,
    whos: Whos,
    sets: BTreeMap<SetId, SetState>,
    set_ids: BTreeMap<SetKey, SetId>,
    last_set: SetId,
    /// Identities that are to be looked at again.
    changed: BTreeSet<Identity>,
    stale: bool,
    resolution: Resolution,
}

impl Engine {
    /// An engine over an empty world.
    pub fn new(config: PolicyConfig) -> Self {
        Self {
            stand_ins: stand_ins(&config),
            config,
            identities: BTreeMap::new(),
            policies: BTreeMap::new(),
            groups: Groups::default(),
            node: Labels::default(),
            subjects: BTreeMap::new(),
            whos: Whos::default(),
            sets: BTreeMap::new(),
            set_ids: BTreeMap::new(),
            last_set: 0,
            changed: BTreeSet::new(),
            stale: false,
            resolution: Resolution::default(),
        }
    }

    /// How policy is read.
    pub fn config(&self) -> &PolicyConfig {
        &self.config
    }

    /// Every known identity.
    pub fn identities(&self) -> &BTreeMap<Identity, IdentityInfo> {
        &self.identities
    }

    /// Every policy.
    pub fn policies(&self) -> &BTreeMap<Origin, PolicyObject> {
        &self.policies
    }

    /// Every group that policies may refer to.
    pub fn groups(&self) -> &BTreeMap<GroupKey, Group> {
        self.groups.known()
    }

    /// Puts an identity in place, or what is known of it now. Says whether
    /// that is news.
    pub fn upsert_identity(&mut self, id: Identity, mut info: IdentityInfo) -> bool {
        info.groups = self.groups.of(id, &info);
        if self.identities.get(&id) == Some(&info) {
            return false;
        }
        let old = self.identities.remove(&id);
        self.replace(id, old.as_ref(), Some(&info));
        self.identities.insert(id, info);
        self.identity_changed(id);
        true
    }

    /// Forgets an identity.
    pub fn remove_identity(&mut self, id: Identity) -> bool {
        let Some(old) = self.identities.remove(&id) else {
            return false;
        };
        self.replace(id, Some(&old), None);
        self.identity_changed(id);
        true
    }

    /// Whether a policy is about a subject; whether it is enforced or staged does
    /// not matter.
    pub fn is_about(&self, policy: &PolicyObject, id: Identity) -> bool {
        let labels = subject_labels(id, &self.identities, &self.node);
        let mut rules = policy.rules.iter();
        labels.is_some_and(|labels| rules.any(|rule| is_about(rule, id, labels)))
    }

    /// Puts a policy in place.
    pub fn upsert_policy(&mut self, policy: PolicyObject) -> bool {
        if self.policies.get(&policy.origin) == Some(&policy) {
            return false;
        }
        let origin = policy.origin.clone();
        self.policies.insert(origin.clone(), policy);
        self.policy_changed(&origin);
        true
    }

    /// Forgets a policy.
    pub fn remove_policy(&mut self, origin: &Origin) -> bool {
        let known = self.policies.remove(origin).is_some();
        if known {
            self.policy_changed(origin);
        }
        known
    }

    /// Puts a group in place. Hands back the identities for which that is news.
    pub fn upsert_group(&mut self, key: &GroupKey, group: Group) -> BTreeSet<Identity> {
        if self.groups.known().get(key) == Some(&group) {
            return BTreeSet::new();
        }
        let old = self.groups.replace(key, Some(group.clone()));
        self.regroup(&[old, Some(group)])
    }

    /// Forgets a group. Hands back the identities for which that is news.
    pub fn remove_group(&mut self, key: &GroupKey) -> BTreeSet<Identity> {
        let old = self.groups.replace(key, None);
        self.regroup(&[old, None])
    }

    /// Looks again at the identities that may be in a group, before or now.
    fn regroup(&mut self, group: &[Option<Group>; 2]) -> BTreeSet<Identity> {
        let pivots: Vec<_> = group.iter().flatten().flat_map(Group::pivots).collect();
        let mut changed = self.whos.under(&pivots);
        changed.retain(|id| {
            let info = self.identities.get(id).cloned();
            info.is_some_and(|info| self.upsert_identity(*id, info))
        });
        changed
    }

    /// Says which labels the node itself has: by them rules about nodes are
    /// about [`Identity::HOST`], if that is a subject.
    pub fn set_node(&mut self, labels: Labels) -> bool {
        if self.node == labels {
            return false;
        }
        self.node = labels;
        if self.subjects.contains_key(&Identity::HOST) {
            self.replace_subject(Identity::HOST, Some(self.match_subject(Identity::HOST)));
            self.stale = true;
        }
        true
    }

    /// The labels of the node itself.
    pub fn node(&self) -> &Labels {
        &self.node
    }

    /// The identities that need a set.
    pub(crate) fn subjects(&self) -> impl Iterator<Item = Identity> {
        self.subjects.keys().copied()
    }

    /// Says which identities need a set: those of this node's endpoints, and
    /// [`Identity::HOST`] if policy is enforced on the node itself.
    pub fn set_subjects(&mut self, subjects: BTreeSet<Identity>) -> bool {
        let gone: Vec<Identity> = self
            .subjects
            .keys()
            .filter(|id| !subjects.contains(id))
            .copied()
            .collect();
        for id in &gone {
            self.replace_subject(*id, None);
        }
        let mut news = !gone.is_empty();
        for id in subjects {
            if !self.subjects.contains_key(&id) {
                self.replace_subject(id, Some(self.match_subject(id)));
                news = true;
            }
        }
        self.stale |= news;
        news
    }

    /// Brings the sets up to date with the world and shows them.
    pub fn resolution(&mut self, numbers: &mut Numbers) -> &Resolution {
        if self.stale {
            self.follow_identities(numbers);
            self.place_subjects(numbers);
            self.show();
            self.stale = false;
        }
        &self.resolution
    }

    /// Follows what is known of an identity. Sets that ask on egress for a
    /// port by name depend on which ports have that name anywhere: where that
    /// changes, they are compiled anew.
    fn replace(&mut self, id: Identity, old: Option<&IdentityInfo>, new: Option<&IdentityInfo>) {
        let none = NamedPorts::new();
        let ports = |info: Option<&IdentityInfo>| -> BTreeSet<(String, axon_model::Protocol, u16)> {
            let named = info.map_or(&none, |info| &info.named_ports);
            let each = named.iter().flat_map(|((name, protocol), ports)| {
                ports.iter().map(|port| (name.clone(), *protocol, *port))
            });
            each.collect()
        };
        let declared =
            |whos: &Whos, (name, protocol, port): &(String, axon_model::Protocol, u16)| {
                whos.is_declared(name, protocol.0, *port)
            };
        let (before, after) = (ports(old), ports(new));
        let touched: Vec<_> = before.symmetric_difference(&after).cloned().collect();
        let was: Vec<bool> = touched.iter().map(|p| declared(&self.whos, p)).collect();
        self.whos.index(id, old, new);
        for (port, was) in touched.iter().zip(was) {
            if declared(&self.whos, port) != was {
                let name = (port.0.clone(), port.1);
                self.forget_sets(|set| set.asked_ports.contains(&name));
            }
        }
    }

    fn identity_changed(&mut self, id: Identity) {
        self.changed.insert(id);
        self.stale = true;
        if self.subjects.contains_key(&id) {
            self.replace_subject(id, Some(self.match_subject(id)));
        }
    }

    fn policy_changed(&mut self, origin: &Origin) {
        self.stale = true;
        // Which policies a set is made of, only its subjects tell.
        self.forget_sets(|set| set.subjects == 0);
        let policy = self.policies.get(origin);
        let mut touched = Vec::new();
        for (id, subject) in &mut self.subjects {
            let labels = subject_labels(*id, &self.identities, &self.node);
            let rules = match (policy, labels) {
                (Some(policy), Some(labels)) => matching(policy, *id, labels),
                _ => Vec::new(),
            };
            let is_about = !rules.is_empty();
            let old = if is_about {
                subject.matched.insert(origin.clone(), rules)
            } else {
                subject.matched.remove(origin)
            };
            // Also where the same rules match: what they say has changed.
            if is_about || old.is_some() {
                touched.extend(subject.set);
            }
        }
        for set in touched {
            self.forget_set(set);
        }
    }

    fn forget_sets(&mut self, which: impl Fn(&SetState) -> bool) {
        let gone: Vec<SetId> = self
            .sets
            .iter()
            .filter(|(_, set)| which(set))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.forget_set(id);
        }
    }

    /// Forgets a set; the subjects that have it need another.
    fn forget_set(&mut self, id: SetId) {
        let Some(set) = self.sets.remove(&id) else {
            return;
        };
        self.stale = true;
        self.set_ids.remove(&set.key);
        for who in &set.whos {
            self.whos.release(*who, id);
        }
        if set.subjects > 0 {
            for subject in self.subjects.values_mut() {
                if subject.set == Some(id) {
                    subject.set = None;
                }
            }
        }
    }

    fn replace_subject(&mut self, id: Identity, state: Option<SubjectState>) {
        let old = match state {
            Some(state) => self.subjects.insert(id, state),
            None => self.subjects.remove(&id),
        };
        let set = old.and_then(|old| old.set);
        if let Some(set) = set.and_then(|set| self.sets.get_mut(&set)) {
            set.subjects -= 1;
            self.stale = true;
        }
    }

    fn match_subject(&self, id: Identity) -> SubjectState {
        let Some(labels) = subject_labels(id, &self.identities, &self.node) else {
            return SubjectState::default();
        };
        let matched = |policy: &PolicyObject| {
            let rules = matching(policy, id, labels);
            (!rules.is_empty()).then(|| (policy.origin.clone(), rules))
        };
        SubjectState {
            matched: self.policies.values().filter_map(matched).collect(),
            set: None,
        }
    }

    /// Brings far sides, and the sets that hold them, up to date with the
    /// identities that have changed.
    fn follow_identities(&mut self, numbers: &mut Numbers) {
        for id in std::mem::take(&mut self.changed) {
            for set in self.whos.follow(id, self.identities.get(&id)) {
                if let Some(set) = self.sets.get_mut(&set) {
                    set.follow(id, &self.whos, numbers);
                }
            }
        }
    }

    /// Finds the set of each subject that has none, compiles those that are
    /// new and forgets those that nobody has any more.
    fn place_subjects(&mut self, numbers: &mut Numbers) {
        let unplaced: Vec<Identity> = self
            .subjects
            .iter()
            .filter(|(id, subject)| subject.set.is_none() && self.identities.contains_key(id))
            .map(|(id, _)| *id)
            .collect();
        let mut declared = None;
        for id in unplaced {
            let (Some(subject), Some(info)) =
                (self.subjects.get_mut(&id), self.identities.get(&id))
            else {
                continue;
            };
            let rules = subject.rules(&self.policies, numbers);
            let key = SetKey {
                rules: rules.iter().map(|(number, _)| *number).collect(),
                traits: SubjectTraits::new(id, &info.named_ports, &rules),
            };
            let set = match self.set_ids.get(&key) {
                Some(set) => *set,
                None => {
                    let declared = declared.get_or_insert_with(|| self.whos.declared());
                    let set = next_set(&mut self.last_set, &self.sets);
                    let state = add_set(
                        (&self.config, &self.stand_ins, &self.identities),
                        (key.clone(), &rules, declared),
                        (set, &mut self.whos),
                        numbers,
                    );
                    self.sets.insert(set, state);
                    self.set_ids.insert(key, set);
                    set
                }
            };
            subject.set = Some(set);
            if let Some(state) = self.sets.get_mut(&set) {
                state.subjects += 1;
            }
        }
        self.forget_sets(|set| set.subjects == 0);
    }

    /// Makes the answer.
    fn show(&mut self) {
        let mut resolution = Resolution::default();
        let mut number_of = BTreeMap::new();
        for (id, set) in &mut self.sets {
            let built = set.built();
            number_of.insert(*id, built.number);
            resolution.sets.insert(built.number, built.clone());
        }
        for (id, subject) in &self.subjects {
            if let Some(number) = subject.set.and_then(|set| number_of.get(&set)) {
                resolution.subjects.insert(*id, *number);
            }
        }
        self.resolution = resolution;
    }
}

fn next_set(last: &mut SetId, sets: &BTreeMap<SetId, SetState>) -> SetId {
    // After 2^32 sets numbers begin again.
    loop {
        *last = last.wrapping_add(1);
        if !sets.contains_key(last) {
            return *last;
        }
    }
}

type Surroundings<'a> = (
    &'a PolicyConfig,
    &'a [(Scope, Identity, IdentityInfo)],
    &'a BTreeMap<Identity, IdentityInfo>,
);

fn add_set(
    (config, stand_ins, identities): Surroundings<'_>,
    (key, rules, declared): (SetKey, &[(u32, &Rule)], &NamedPorts),
    (id, whos): (SetId, &mut Whos),
    numbers: &mut Numbers,
) -> SetState {
    let mut compiled = compile(config, &key.traits, rules, declared);
    let held: Vec<_> = compiled
        .whos
        .iter_mut()
        .map(|who| whos.hold(who, id, identities, stand_ins))
        .collect();
    let mut defaults: BTreeMap<Scope, Vector> = stand_ins
        .iter()
        .map(|(scope, _, _)| (*scope, Vector::new()))
        .collect();
    for (n, who) in held.iter().enumerate() {
        for scope in whos.scopes(*who) {
            defaults.entry(scope).or_default().push(n);
        }
    }
    let shape = Shape::new(compiled, defaults);
    let mut state = SetState::new(key, shape, held, whos, config.class_bits, numbers);
    state.asked_ports = port_names(rules, Direction::Egress);
    state
}
