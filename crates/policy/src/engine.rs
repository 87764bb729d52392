//! The incremental twin of [`crate::resolve()`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axon_abi::{Direction, Identity, Scope};
use axon_model::{Origin, PolicyObject, Rule};

use crate::compile::{compile, port_names};
use crate::resolve::declared_ports;
use crate::rows::{Vector, build};
use crate::select::{Who, stand_ins};
use crate::state::{Selection, SetKey, SetState, SubjectState, indices, matching, select, set_key};
use crate::{IdentityInfo, NamedPorts, Numbers, PolicyConfig, PolicySet, Resolution};

/// Keeps policy sets resolved while identities and policies come and go:
/// always what [`crate::resolve()`] would say of the same world.
///
/// What an edit touches: an identity re-evaluates the selectors in use for
/// itself and rebuilds the rows of sets that select it differently than
/// before; a policy re-matches the subjects against its own rules and
/// recompiles the sets that hold it. Nothing else is looked at.
#[derive(Debug)]
pub struct Engine {
    config: PolicyConfig,
    stand_ins: Vec<(Scope, Identity, IdentityInfo)>,
    identities: BTreeMap<Identity, IdentityInfo>,
    policies: BTreeMap<Origin, PolicyObject>,
    subjects: BTreeMap<Identity, SubjectState>,
    selections: BTreeMap<Who, Selection>,
    sets: BTreeMap<SetKey, SetState>,
    /// Identities whose selections are to be looked at again.
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
            subjects: BTreeMap::new(),
            selections: BTreeMap::new(),
            sets: BTreeMap::new(),
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

    /// Puts an identity in place, or what is known of it now. Says whether
    /// that is news.
    pub fn upsert_identity(&mut self, id: Identity, info: IdentityInfo) -> bool {
        let old = self.identities.get(&id);
        if old == Some(&info) {
            return false;
        }
        let ports = old.map(|o| &o.named_ports);
        if ports.unwrap_or(&NamedPorts::new()) != &info.named_ports {
            self.forget_port_sets();
        }
        self.identities.insert(id, info);
        self.identity_changed(id);
        true
    }

    /// Forgets an identity.
    pub fn remove_identity(&mut self, id: Identity) -> bool {
        let Some(old) = self.identities.remove(&id) else {
            return false;
        };
        if !old.named_ports.is_empty() {
            self.forget_port_sets();
        }
        self.identity_changed(id);
        true
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

    /// Says which identities need a set: those of this node's endpoints.
    pub fn set_subjects(&mut self, subjects: BTreeSet<Identity>) -> bool {
        let gone: Vec<Identity> = self
            .subjects
            .keys()
            .filter(|id| !subjects.contains(id))
            .copied()
            .collect();
        for id in &gone {
            self.subjects.remove(id);
        }
        let mut news = !gone.is_empty();
        for id in subjects {
            if !self.subjects.contains_key(&id) {
                let state = self.match_subject(id);
                self.subjects.insert(id, state);
                news = true;
            }
        }
        self.stale |= news;
        news
    }

    /// Brings the sets up to date with the world and shows them.
    pub fn resolution(&mut self, numbers: &mut Numbers) -> &Resolution {
        if self.stale {
            self.follow_identities();
            self.place_subjects(numbers);
            self.rebuild(numbers);
            self.stale = false;
        }
        &self.resolution
    }

    fn identity_changed(&mut self, id: Identity) {
        self.changed.insert(id);
        self.stale = true;
        if self.subjects.contains_key(&id) {
            let state = self.match_subject(id);
            self.subjects.insert(id, state);
        }
    }

    /// Sets that ask for named ports on egress depend on every identity's
    /// declarations: they are compiled anew.
    fn forget_port_sets(&mut self) {
        self.forget_sets(|_, set| set.asks_ports);
    }

    fn policy_changed(&mut self, origin: &Origin) {
        self.stale = true;
        self.forget_sets(|key, _| key.rules.iter().any(|rule| rule.origin == *origin));
        let policy = self.policies.get(origin);
        for (id, subject) in &mut self.subjects {
            let indices = match (policy, self.identities.get(id)) {
                (Some(policy), Some(info)) => matching(policy, info),
                _ => Vec::new(),
            };
            let old = if indices.is_empty() {
                subject.matched.remove(origin)
            } else {
                subject.matched.insert(origin.clone(), indices.clone())
            };
            // Also where the same rules match: what they say has changed.
            if old.is_some() || !indices.is_empty() {
                subject.key = None;
            }
        }
    }

    fn forget_sets(&mut self, which: impl Fn(&SetKey, &SetState) -> bool) {
        let keys: Vec<SetKey> = self
            .sets
            .iter()
            .filter(|(key, set)| which(key, set))
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            self.forget_set(&key);
        }
    }

    fn forget_set(&mut self, key: &SetKey) {
        let Some(set) = self.sets.remove(key) else {
            return;
        };
        self.stale = true;
        for who in &set.compiled.whos {
            let Some(selection) = self.selections.get_mut(who) else {
                continue;
            };
            selection.users -= 1;
            if selection.users == 0 {
                self.selections.remove(who);
            }
        }
    }

    fn match_subject(&self, id: Identity) -> SubjectState {
        let Some(info) = self.identities.get(&id) else {
            return SubjectState::default();
        };
        let matched = |policy: &PolicyObject| {
            let indices = matching(policy, info);
            (!indices.is_empty()).then(|| (policy.origin.clone(), indices))
        };
        SubjectState {
            matched: self.policies.values().filter_map(matched).collect(),
            key: None,
        }
    }

    /// Brings selections, and the sets that hold them, up to date with the
    /// identities that have changed.
    fn follow_identities(&mut self) {
        let changed = std::mem::take(&mut self.changed);
        for (who, selection) in &mut self.selections {
            for id in &changed {
                let info = self.identities.get(id);
                if info.is_some_and(|info| who.selects(*id, info)) {
                    selection.identities.insert(*id);
                } else {
                    selection.identities.remove(id);
                }
            }
        }
        for set in self.sets.values_mut() {
            for id in &changed {
                let vector = self.identities.contains_key(id).then(|| {
                    let selects = |who: &Who| {
                        let selection = self.selections.get(who);
                        selection.is_some_and(|s| s.identities.contains(id))
                    };
                    indices(&set.compiled.whos, selects)
                });
                let differs = |v: &Vector| set.defaults.get(&id.scope()) != Some(v);
                let vector = vector.filter(differs);
                if set.special.get(id) != vector.as_ref() {
                    set.built = None;
                    match vector {
                        Some(vector) => set.special.insert(*id, vector),
                        None => set.special.remove(id),
                    };
                }
            }
        }
    }

    /// Finds each subject's set, compiles those that are new and forgets those
    /// that nobody has any more.
    fn place_subjects(&mut self, numbers: &mut Numbers) {
        let mut missing: BTreeMap<SetKey, Identity> = BTreeMap::new();
        for (id, subject) in &mut self.subjects {
            let Some(info) = self.identities.get(id) else {
                subject.key = None;
                continue;
            };
            let key = subject
                .key
                .get_or_insert_with(|| set_key(*id, info, &self.policies, &subject.matched));
            if !self.sets.contains_key(key) {
                missing.entry(key.clone()).or_insert(*id);
            }
        }
        if !missing.is_empty() {
            let declared = declared_ports(self.identities.values());
            for key in missing.into_keys() {
                self.add_set(key, &declared, numbers);
            }
        }
        let used: BTreeSet<SetKey> = self
            .subjects
            .values()
            .filter_map(|subject| subject.key.clone())
            .collect();
        self.forget_sets(|key, _| !used.contains(key));
    }

    fn add_set(&mut self, key: SetKey, declared: &NamedPorts, numbers: &mut Numbers) {
        let rules: Vec<(u32, &Rule)> = key
            .rules
            .iter()
            .filter_map(|name| {
                let rule = self.policies.get(&name.origin)?.rules.get(name.index)?;
                Some((numbers.rules.number_of(name.clone()), rule))
            })
            .collect();
        let compiled = compile(&self.config, &key.traits, &rules, declared);
        let asks_ports = !port_names(&rules, Direction::Egress).is_empty();
        let mut vectors: BTreeMap<Identity, Vector> = BTreeMap::new();
        let mut defaults: BTreeMap<Scope, Vector> = self
            .stand_ins
            .iter()
            .map(|(scope, _, _)| (*scope, Vector::new()))
            .collect();
        for (n, who) in compiled.whos.iter().enumerate() {
            let selection = self
                .selections
                .entry(who.clone())
                .or_insert_with(|| select(who, &self.identities, &self.stand_ins));
            selection.users += 1;
            for id in &selection.identities {
                vectors.entry(*id).or_default().push(n);
            }
            for scope in &selection.scopes {
                defaults.entry(*scope).or_default().push(n);
            }
        }
        let special = self
            .identities
            .keys()
            .map(|id| (*id, vectors.remove(id).unwrap_or_default()))
            .filter(|(id, vector)| defaults.get(&id.scope()) != Some(vector))
            .collect();
        let state = SetState {
            compiled,
            asks_ports,
            defaults,
            special,
            built: None,
        };
        self.sets.insert(key, state);
    }

    /// Builds the rows of sets that have changed, and the answer.
    fn rebuild(&mut self, numbers: &mut Numbers) {
        let mut resolution = Resolution::default();
        for set in self.sets.values_mut() {
            let built = set.built.get_or_insert_with(|| {
                let content = build(&set.compiled, &set.defaults, &set.special);
                Arc::new(PolicySet::new(&content, numbers))
            });
            resolution.sets.insert(built.number, Arc::clone(built));
        }
        for (id, subject) in &self.subjects {
            let set = subject.key.as_ref().and_then(|key| self.sets.get(key));
            if let Some(built) = set.and_then(|set| set.built.as_ref()) {
                resolution.subjects.insert(*id, built.number);
            }
        }
        self.resolution = resolution;
    }
}
