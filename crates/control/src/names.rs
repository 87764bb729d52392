//! Addresses that were given for names which policies ask for: who they are.
//!
//! ```text
//! answers (name, addresses, until when) ┐
//! patterns that policies ask for ───────┴─> patterns of each address ──> identity ──> its claim
//! ```
//!
//! An address is the patterns that its names match, and the prefix that
//! policies name around it: a further address of a known name is one claim.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use axon_abi::Identity;
use axon_model::{NameAnswer, NameKey, NamePattern};
use axon_policy::{named_addresses, narrowest, policy_names, whole};
use ipnet::IpNet;

use crate::controller::Controller;
use crate::identity::Range;
use crate::ipcache::{Claim, single};
use crate::seen::View;
use crate::views::IpSource;

/// The answers that are remembered.
#[derive(Debug, Default)]
pub(crate) struct Names {
    patterns: BTreeSet<NamePattern>,
    answers: BTreeMap<NameKey, NameAnswer>,
    /// The answers that name an address.
    by_address: BTreeMap<IpAddr, BTreeSet<NameKey>>,
    /// When addresses are to be looked at again.
    by_time: BTreeSet<(u64, IpAddr)>,
    /// Who addresses are.
    identities: BTreeMap<IpAddr, Identity>,
    /// How many addresses are somebody.
    users: BTreeMap<Identity, usize>,
}

impl Names {
    /// Takes in what has been answered for a name; hands back the addresses that
    /// this is about, before or now.
    fn replace(&mut self, key: &NameKey, answer: Option<&NameAnswer>) -> BTreeSet<IpAddr> {
        let old = match answer {
            Some(answer) => self.answers.insert(key.clone(), answer.clone()),
            None => self.answers.remove(key),
        };
        let mut touched = BTreeSet::new();
        for addr in old.iter().flat_map(|old| old.addresses.keys()) {
            touched.insert(*addr);
            if let Some(keys) = self.by_address.get_mut(addr) {
                keys.remove(key);
                if keys.is_empty() {
                    self.by_address.remove(addr);
                }
            }
        }
        for (addr, until) in answer.iter().flat_map(|answer| &answer.addresses) {
            touched.insert(*addr);
            self.by_address
                .entry(*addr)
                .or_default()
                .insert(key.clone());
            self.by_time.insert((*until, *addr));
        }
        touched
    }

    /// The addresses whose time may be over.
    fn take_due(&mut self, now_ms: u64) -> BTreeSet<IpAddr> {
        let later = match now_ms.checked_add(1) {
            Some(next) => self.by_time.split_off(&(next, IpAddr::from([0, 0, 0, 0]))),
            None => BTreeSet::new(),
        };
        let due = std::mem::replace(&mut self.by_time, later);
        due.into_iter().map(|(_, addr)| addr).collect()
    }

    /// When an address is to be looked at again.
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// The patterns of the names that an address is given for now.
    fn patterns_of(&self, addr: IpAddr, now_ms: u64) -> BTreeSet<NamePattern> {
        let keys = self.by_address.get(&addr).into_iter().flatten();
        let lives = |key: &&NameKey| {
            let answer = self.answers.get(*key);
            let until = answer.and_then(|answer| answer.addresses.get(&addr));
            until.is_some_and(|until| *until > now_ms)
        };
        let names: BTreeSet<&str> = keys.filter(lives).map(|key| key.name.as_str()).collect();
        let meant = |pattern: &&NamePattern| names.iter().any(|name| pattern.matches(name));
        self.patterns.iter().filter(meant).cloned().collect()
    }

    /// Says who an address is, or nobody; hands back who is nobody any more.
    fn put(&mut self, addr: IpAddr, id: Option<Identity>) -> Option<Identity> {
        if let Some(id) = id {
            *self.users.entry(id).or_default() += 1;
        }
        let old = match id {
            Some(id) => self.identities.insert(addr, id),
            None => self.identities.remove(&addr),
        }?;
        let users = self.users.get_mut(&old)?;
        *users -= 1;
        if *users > 0 {
            return None;
        }
        self.users.remove(&old);
        Some(old)
    }
}

impl Controller {
    /// Brings up to date who addresses of names are: of those that were answered,
    /// or forgotten; of all if policies ask for others, or name other prefixes.
    pub(crate) fn follow_names(&mut self, now_ms: u64, view: &View, complete: bool) {
        let mut touched = self.names.take_due(now_ms);
        for key in view.names.keys(self.names.answers.keys()) {
            let answer = view.names.rows.get(&key).map(|answer| &**answer);
            if answer.is_some() || view.names.rows.is_complete() {
                touched.extend(self.names.replace(&key, answer));
            }
        }
        if view.policies.is_changed() {
            let policies = self.engine.policies().values();
            let patterns: BTreeSet<NamePattern> = policies.flat_map(policy_names).collect();
            self.places_changed |= patterns != self.names.patterns;
            self.names.patterns = patterns;
        }
        if std::mem::take(&mut self.places_changed) || view.nodes.is_changed() {
            touched.extend(self.names.by_address.keys());
            touched.extend(self.names.identities.keys());
        }
        for addr in touched {
            self.place_name(now_ms, addr);
        }
        if complete && (!self.names_complete || view.policies.is_changed()) {
            let numbered = self.persisted.name_identities.iter();
            let unused = numbered.filter(|(id, _)| !self.names.users.contains_key(id));
            let unused: Vec<Identity> = unused.map(|(id, _)| id).collect();
            for id in unused {
                self.release_name(id);
            }
        }
        self.names_complete = complete;
    }

    fn place_name(&mut self, now_ms: u64, addr: IpAddr) {
        let inside = |addr: &IpAddr| self.pod_cidrs.keys().any(|pods| pods.contains(addr));
        let patterns = match self.knows(addr.is_ipv6()) && !inside(&addr) {
            true => self.names.patterns_of(addr, now_ms),
            false => BTreeSet::new(),
        };
        let mut claims = BTreeMap::new();
        if !patterns.is_empty() {
            let around = narrowest(&self.named_prefixes, addr);
            let place: IpNet = around.unwrap_or_else(|| whole(addr.is_ipv6()));
            let labels = named_addresses(&self.config.policy(), place, patterns).labels;
            let numbers = &mut self.persisted.name_identities;
            match numbers.allocate_in(Range::NAMES, &labels) {
                Ok(id) => {
                    self.touched.insert(id);
                    claims.insert(single(addr), Claim::of(id));
                }
                // Where no number is left, nobody is allowed the address by its name.
                Err(error) => self.prefixes_exhausted = Some(error),
            }
        }
        let id = claims.values().next().map(|claim: &Claim| claim.identity);
        if let Some(gone) = self.names.put(addr, id)
            && self.names_complete
        {
            self.release_name(gone);
        }
        self.claims.set(&(IpSource::Name, addr.to_string()), claims);
    }

    fn release_name(&mut self, id: Identity) {
        self.persisted.name_identities.release(id);
        self.touched.insert(id);
    }
}
