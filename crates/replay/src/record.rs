//! The tables of a dumped node, which note what they are asked.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::BTreeMap;
use std::net::IpAddr;

use axon_abi::{
    ClassKey, ConfigFlags, CtEntry, CtKey4, CtKey6, Direction, EndpointRow, EventKind, EventRecord,
    FragmentKey, FragmentPorts, Identity, IpKey, IpcacheRow, LpmKey, MatchType, NatEntry, NatKey,
    PolicyEntry, PolicyKey, PolicySetRow, RuntimeConfig, ServiceFlow, ServiceFlowKey,
};
use axon_datapath::{NextHop, Route, RouteQuery, Tables};
use serde::Serialize;

use crate::node::Node;
use crate::{services, words};

/// A look-up and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The table.
    pub table: &'static str,
    /// What it was asked for.
    pub key: String,
    /// What it has there; nothing if it has no row.
    pub row: Option<String>,
}

/// What the policy of one end says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Judgement {
    /// As it would have been told.
    pub(crate) event: EventRecord,
    /// The entry that decided.
    pub(crate) entry: Option<(PolicyKey, PolicyEntry)>,
}

/// The tables of a node, for one packet. What the programs would write is seen
/// by the hooks that follow, and by nobody else.
pub(crate) struct Recorder<'a> {
    pub(crate) node: &'a Node,
    /// What chance says where a backend is chosen.
    pub(crate) chance: u32,
    config: RuntimeConfig,
    steps: RefCell<Vec<Step>>,
    judgements: RefCell<Vec<Judgement>>,
    /// Entries found for the question that is asked.
    hits: RefCell<Vec<(PolicyKey, PolicyEntry)>>,
    /// The entry of the packet's flow, as it was found.
    flow: Cell<Option<CtEntry>>,
    ct4: RefCell<BTreeMap<CtKey4, CtEntry>>,
    ct6: RefCell<BTreeMap<CtKey6, CtEntry>>,
    nat: RefCell<BTreeMap<NatKey, NatEntry>>,
    service_flows: RefCell<BTreeMap<ServiceFlowKey, ServiceFlow>>,
    fragments: RefCell<BTreeMap<Vec<u8>, FragmentPorts>>,
}

impl<'a> Recorder<'a> {
    pub(crate) fn new(node: &'a Node, chance: u32) -> Self {
        let mut config = node.config;
        // All that is told, whoever listens on the node.
        config.flags |= ConfigFlags::EVENT_VERDICT | ConfigFlags::EVENT_DROP;
        Self {
            node,
            chance,
            config,
            steps: RefCell::default(),
            judgements: RefCell::default(),
            hits: RefCell::default(),
            flow: Cell::default(),
            ct4: RefCell::default(),
            ct6: RefCell::default(),
            nat: RefCell::default(),
            service_flows: RefCell::default(),
            fragments: RefCell::default(),
        }
    }

    /// What has been asked since this was called last.
    pub(crate) fn take_steps(&self) -> Vec<Step> {
        self.steps.take()
    }

    /// What policy has said since this was called last.
    pub(crate) fn take_judgements(&self) -> Vec<Judgement> {
        self.judgements.take()
    }

    /// The entry of the packet's flow, if there was one.
    pub(crate) fn take_flow(&self) -> Option<CtEntry> {
        self.flow.take()
    }

    /// Notes a look-up; who asks the same again is told the same.
    pub(crate) fn note(&self, table: &'static str, key: String, row: Option<String>) {
        let step = Step { table, key, row };
        let mut steps = self.steps.borrow_mut();
        if !steps.contains(&step) {
            steps.push(step);
        }
    }

    fn find_flow<'b, K: Ord + Copy>(
        &'b self,
        (flows, known): (&'b RefCell<BTreeMap<K, CtEntry>>, &BTreeMap<K, CtEntry>),
        key: &K,
        name: String,
    ) -> Option<RefMut<'b, CtEntry>> {
        lend(flows, known, key);
        let found = RefMut::filter_map(flows.borrow_mut(), |flows| flows.get_mut(key)).ok();
        let row = found
            .as_deref()
            .map(|e| words::ct_entry(e, Tables::now_s(self)));
        self.note("ct", name, row);
        self.flow.set(found.as_deref().copied());
        found
    }
}

/// Takes an entry of the state among those that may be written.
fn lend<K: Ord + Copy, V: Copy>(lent: &RefCell<BTreeMap<K, V>>, known: &BTreeMap<K, V>, key: &K) {
    if let Some(entry) = known.get(key) {
        lent.borrow_mut().entry(*key).or_insert(*entry);
    }
}

/// The row of the longest prefix that an address is in.
fn longest<V>(addr: &IpKey, row: impl Fn(&LpmKey) -> Option<V>) -> Option<(LpmKey, V)> {
    let whole = u128::from_be_bytes(addr.0);
    (0..=128_u32).rev().find_map(|prefix_bits| {
        let mask = u128::MAX.checked_shl(128 - prefix_bits).unwrap_or(0);
        let key = LpmKey {
            prefix_bits,
            addr: IpKey((whole & mask).to_be_bytes()),
        };
        row(&key).map(|row| (key, row))
    })
}

fn flow_name(low: IpAddr, high: IpAddr, rest: &str) -> String {
    format!("{low} {high} {rest}")
}

impl Tables for Recorder<'_> {
    type Ct<'b>
        = RefMut<'b, CtEntry>
    where
        Self: 'b;
    type Nat<'b>
        = RefMut<'b, NatEntry>
    where
        Self: 'b;
    type ServiceFlow<'b>
        = RefMut<'b, ServiceFlow>
    where
        Self: 'b;
    type Services = Self;
    const SERVES: bool = true;

    fn config(&self) -> &RuntimeConfig {
        &self.config
    }

    fn now_ns(&self) -> u64 {
        self.node.now_ns
    }

    fn random(&self) -> u32 {
        // Of ports that are free any is as good.
        0
    }

    fn endpoint(&self, ifindex: u32) -> Option<&EndpointRow> {
        let row = self.node.endpoints.get(&ifindex);
        let key = self.node.device(ifindex);
        self.note("endpoint", key, row.map(|row| self.node.endpoint_row(row)));
        row
    }

    fn uplink(&self, ifindex: u32) -> bool {
        let is = self.node.uplinks.contains(&ifindex);
        let row = is.then(|| "an uplink".to_owned());
        self.note("uplink", self.node.device(ifindex), row);
        is
    }

    fn address(&self, addr: &IpKey) -> Option<&EndpointRow> {
        let row = self.node.addresses.get(addr);
        let words = row.map(|row| self.node.endpoint_row(row));
        self.note("address", self.node.address(addr), words);
        row
    }

    fn ipcache(&self, addr: &IpKey) -> Option<&IpcacheRow> {
        let row = self.node.ipcache.get(addr);
        let words = row.map(|row| self.node.ipcache_row(row));
        self.note("ipcache", self.node.address(addr), words);
        row
    }

    fn ipcache_cidr(&self, key: &LpmKey) -> Option<&IpcacheRow> {
        let found = longest(&key.addr, |key| self.node.cidrs.get(key));
        let words = found.map(|(prefix, row)| {
            let row = self.node.ipcache_row(row);
            format!("{}: {row}", words::prefix(&prefix))
        });
        self.note("ipcache_cidr", self.node.address(&key.addr), words);
        found.map(|(_, row)| row)
    }

    fn identity_known(&self, identity: Identity) -> bool {
        let is = self.node.known.contains(&identity);
        let row = is.then(|| "known".to_owned());
        self.note("identity", self.node.identity(identity), row);
        is
    }

    fn policy_set(&self, set: u32) -> Option<&PolicySetRow> {
        self.hits.borrow_mut().clear();
        let row = self.node.sets.get(&set);
        self.note("policy_set", format!("set {set}"), row.map(words::set_row));
        row
    }

    fn class(&self, key: &ClassKey) -> Option<u32> {
        let class = self.node.classes.get(key).copied();
        let name = format!("set {} identity {}", key.set, key.identity.0);
        self.note("class", name, class.map(words::class_name));
        class
    }

    fn policy(&self, key: &PolicyKey) -> Option<&PolicyEntry> {
        let entry = self.node.policy.get(key);
        let row = entry.map(|entry| self.node.entry(entry));
        self.note("policy", words::policy_key(key), row);
        if let Some(entry) = entry {
            self.hits.borrow_mut().push((*key, *entry));
        }
        entry
    }

    fn ct4(&self, key: &CtKey4) -> Option<RefMut<'_, CtEntry>> {
        let rest = words::ports(key.low_port, key.high_port, key.protocol);
        let name = flow_name(key.low.into(), key.high.into(), &rest);
        self.find_flow((&self.ct4, &self.node.ct4), key, name)
    }

    fn ct6(&self, key: &CtKey6) -> Option<RefMut<'_, CtEntry>> {
        let rest = words::ports(key.low_port, key.high_port, key.protocol);
        let name = flow_name(key.low.into(), key.high.into(), &rest);
        self.find_flow((&self.ct6, &self.node.ct6), key, name)
    }

    fn ct4_insert(&self, key: &CtKey4, entry: &CtEntry) -> bool {
        self.ct4.borrow_mut().insert(*key, *entry);
        true
    }

    fn ct6_insert(&self, key: &CtKey6, entry: &CtEntry) -> bool {
        self.ct6.borrow_mut().insert(*key, *entry);
        true
    }

    fn ct_count(&self, _: u16) -> u32 {
        // Whether an endpoint has used up its quota is no part of the state.
        0
    }

    fn ct_count_add(&self, _: u16) -> u32 {
        0
    }

    fn nat(&self, key: &NatKey) -> Option<RefMut<'_, NatEntry>> {
        RefMut::filter_map(self.nat.borrow_mut(), |nat| nat.get_mut(key)).ok()
    }

    fn nat_insert(&self, key: &NatKey, entry: &NatEntry) -> bool {
        self.nat.borrow_mut().insert(*key, *entry);
        true
    }

    fn nat_create(&self, key: &NatKey, entry: &NatEntry) -> bool {
        let mut nat = self.nat.borrow_mut();
        let free = !nat.contains_key(key);
        if free {
            nat.insert(*key, *entry);
        }
        free
    }

    fn no_masquerade(&self, key: &LpmKey) -> bool {
        let found = longest(&key.addr, |key| self.node.nomasq.get(key).map(|_| ()));
        let row =
            found.map(|(prefix, ())| format!("{}: keeps its address", words::prefix(&prefix)));
        let is = row.is_some();
        self.note("nomasq", self.node.address(&key.addr), row);
        is
    }

    fn services(&self) -> &Self {
        self
    }

    fn service_flow(&self, key: &ServiceFlowKey) -> Option<RefMut<'_, ServiceFlow>> {
        lend(&self.service_flows, &self.node.services.flows, key);
        let found = self.service_flows.borrow().get(key).copied();
        let words = found.as_ref().map(services::flow);
        self.note("service_flow", services::flow_key(key), words);
        RefMut::filter_map(self.service_flows.borrow_mut(), |flows| flows.get_mut(key)).ok()
    }

    fn service_flow_insert(&self, key: &ServiceFlowKey, flow: &ServiceFlow) -> bool {
        self.service_flows.borrow_mut().insert(*key, *flow);
        true
    }

    fn service_flow_create(&self, key: &ServiceFlowKey, flow: &ServiceFlow) -> bool {
        lend(&self.service_flows, &self.node.services.flows, key);
        let mut flows = self.service_flows.borrow_mut();
        let free = !flows.contains_key(key);
        if free {
            flows.insert(*key, *flow);
        }
        free
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        let fragments = self.fragments.borrow();
        fragments.get(zerocopy::IntoBytes::as_bytes(key)).copied()
    }

    fn fragment_insert(&self, key: &FragmentKey, ports: &FragmentPorts) {
        let key = zerocopy::IntoBytes::as_bytes(key).to_vec();
        self.fragments.borrow_mut().insert(key, *ports);
    }

    fn icmp_spoken_for(&self, _: u16, next: impl FnOnce(u64) -> Option<u64>) -> bool {
        next(0).is_some()
    }

    fn route(&self, query: &RouteQuery<'_>, next_hop: &mut NextHop) -> Route {
        // The node's routes are no part of its state.
        next_hop.addr = *query.destination;
        let uplink = self.node.uplinks.first().copied();
        let row = uplink.map(|ifindex| {
            let name = self.node.device(ifindex);
            format!("by {name} (taken for granted: routes are not in the state)")
        });
        self.note("route", self.node.address(query.destination), row);
        match uplink {
            Some(ifindex) => Route::Via { ifindex },
            None => Route::Stack,
        }
    }

    fn add(counter: &mut u64, n: u64) {
        *counter = counter.wrapping_add(n);
    }

    fn count(&self, _: u8, _: Direction, _: u32) {}

    fn emit(&self, event: &EventRecord) {
        if event.kind != EventKind::PolicyVerdict as u8 {
            return;
        }
        let hits = self.hits.borrow();
        let decided = hits.iter().filter(|(_, entry)| {
            event.match_type != MatchType::None as u8 && entry.rule == event.rule
        });
        self.judgements.borrow_mut().push(Judgement {
            event: *event,
            entry: decided.max_by_key(|(_, entry)| entry.precedence).copied(),
        });
    }
}
