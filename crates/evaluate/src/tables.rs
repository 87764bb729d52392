//! The kernel's tables, as far as policy asks them: natively, over the rows
//! that an agent would write.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axon_abi::{
    ClassKey, CtEntry, CtKey4, CtKey6, Direction, DropReason, EndpointRow, EventRecord,
    FragmentKey, FragmentPorts, Identity, IpKey, IpcacheRow, LpmKey, NatEntry, NatKey, PolicyEntry,
    PolicyKey, PolicySetRow, RuntimeConfig, ServiceFlow, ServiceFlowKey,
};
use axon_datapath::{
    Decision, NextHop, NoServices, Question, Route, RouteQuery, Scratch, Tables, evaluate,
};
use axon_model::PolicyRows;

/// Rows of policy. There are no packets: no flows, no translations, no devices;
/// services have been asked before policy is (`served`).
#[derive(Debug, Default)]
pub(crate) struct PolicyTables {
    config: RuntimeConfig,
    identities: Arc<BTreeSet<Identity>>,
    sets: BTreeMap<u32, PolicySetRow>,
    classes: BTreeMap<ClassKey, u32>,
    entries: BTreeMap<PolicyKey, PolicyEntry>,
}

impl PolicyTables {
    /// Tables in which these identities are known.
    pub(crate) fn new(identities: Arc<BTreeSet<Identity>>) -> Self {
        Self {
            identities,
            ..Self::default()
        }
    }

    /// Writes the rows of a set.
    pub(crate) fn insert(&mut self, number: u32, rows: &PolicyRows) {
        self.sets.insert(number, rows.set);
        let classes = rows.classes.iter().map(|(key, row)| (*key, row.class));
        self.classes.extend(classes);
        let entries = rows.entries.iter().map(|(key, entry)| (*key, *entry));
        self.entries.extend(entries);
    }

    /// The sets.
    pub(crate) fn sets(&self) -> &BTreeMap<u32, PolicySetRow> {
        &self.sets
    }

    /// Whom the sets tell apart.
    pub(crate) fn classes(&self) -> &BTreeMap<ClassKey, u32> {
        &self.classes
    }

    /// What the sets say.
    pub(crate) fn entries(&self) -> &BTreeMap<PolicyKey, PolicyEntry> {
        &self.entries
    }

    /// Asks policy as a packet does: what it says, and the entry that decided.
    pub(crate) fn ask(&self, question: Question) -> (Result<(), DropReason>, Decision) {
        let mut scratch = Scratch::default();
        scratch.question = question;
        let said = evaluate(self, &mut scratch);
        (said, scratch.decision)
    }
}

impl Tables for PolicyTables {
    type Ct<'a> = &'a mut CtEntry;
    type Nat<'a> = &'a mut NatEntry;
    type ServiceFlow<'a> = &'a mut ServiceFlow;
    type Services = NoServices;
    const SERVES: bool = false;

    fn config(&self) -> &RuntimeConfig {
        &self.config
    }

    fn now_ns(&self) -> u64 {
        0
    }

    fn random(&self) -> u32 {
        0
    }

    fn endpoint(&self, _: u32) -> Option<&EndpointRow> {
        None
    }

    fn uplink(&self, _: u32) -> bool {
        false
    }

    fn address(&self, _: &IpKey) -> Option<&EndpointRow> {
        None
    }

    fn ipcache(&self, _: &IpKey) -> Option<&IpcacheRow> {
        None
    }

    fn ipcache_cidr(&self, _: &LpmKey) -> Option<&IpcacheRow> {
        None
    }

    fn identity_known(&self, identity: Identity) -> bool {
        self.identities.contains(&identity)
    }

    fn policy_set(&self, set: u32) -> Option<&PolicySetRow> {
        self.sets.get(&set)
    }

    fn class(&self, key: &ClassKey) -> Option<u32> {
        self.classes.get(key).copied()
    }

    fn policy(&self, key: &PolicyKey) -> Option<&PolicyEntry> {
        self.entries.get(key)
    }

    fn ct4(&self, _: &CtKey4) -> Option<&mut CtEntry> {
        None
    }

    fn ct6(&self, _: &CtKey6) -> Option<&mut CtEntry> {
        None
    }

    fn ct4_insert(&self, _: &CtKey4, _: &CtEntry) -> bool {
        false
    }

    fn ct6_insert(&self, _: &CtKey6, _: &CtEntry) -> bool {
        false
    }

    fn ct_count(&self, _: u16) -> u32 {
        0
    }

    fn ct_count_add(&self, _: u16) -> u32 {
        0
    }

    fn nat(&self, _: &NatKey) -> Option<&mut NatEntry> {
        None
    }

    fn nat_insert(&self, _: &NatKey, _: &NatEntry) -> bool {
        false
    }

    fn nat_create(&self, _: &NatKey, _: &NatEntry) -> bool {
        false
    }

    fn no_masquerade(&self, _: &LpmKey) -> bool {
        false
    }

    fn services(&self) -> &NoServices {
        &NoServices
    }

    fn service_flow(&self, _: &ServiceFlowKey) -> Option<&mut ServiceFlow> {
        None
    }

    fn service_flow_insert(&self, _: &ServiceFlowKey, _: &ServiceFlow) -> bool {
        false
    }

    fn service_flow_create(&self, _: &ServiceFlowKey, _: &ServiceFlow) -> bool {
        false
    }

    fn fragment(&self, _: &FragmentKey) -> Option<FragmentPorts> {
        None
    }

    fn fragment_insert(&self, _: &FragmentKey, _: &FragmentPorts) {}

    fn icmp_spoken_for(&self, _: u16, _: impl FnOnce(u64) -> Option<u64>) -> bool {
        false
    }

    fn route(&self, _: &RouteQuery<'_>, _: &mut NextHop) -> Route {
        Route::Stack
    }

    fn add(_: &mut u64, _: u64) {}

    fn count(&self, _: u8, _: Direction, _: u32) {}

    fn emit(&self, _: &EventRecord) {}
}
