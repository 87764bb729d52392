//! The tables, in memory.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use axon_abi::{
    Be16, ClassKey, ConfigFlags, CtEntry, CtKey4, CtKey6, Direction, EndpointRow, EventRecord,
    FragmentKey, FragmentPorts, Identity, IpKey, IpcacheRow, LpmKey, NatEntry, NatKey, PolicyEntry,
    PolicyEntryFlags, PolicyKey, PolicySetFlags, PolicySetRow, RuntimeConfig, ServiceFlow,
    ServiceFlowKey, Timeouts,
};
use axon_datapath::{NextHop, Route, RouteQuery, Tables};

use crate::services::ServiceRows;

/// The row of a set that has no entries, and says so.
pub const NO_RULES: PolicySetRow = PolicySetRow {
    ingress_prefixes: 0,
    egress_prefixes: 0,
    flags: PolicySetFlags::NO_ANYONE_PORTS_INGRESS | PolicySetFlags::NO_ANYONE_PORTS_EGRESS,
    pad: 0,
};

/// Where a fake route leads.
pub type FakeRoute = (Route, IpKey);

/// Rows as the agent would write them, and what the programs make of them.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// The configuration.
    pub config: RuntimeConfig,
    /// The clock.
    pub now_ns: u64,
    /// Endpoints by device.
    pub endpoints: HashMap<u32, EndpointRow>,
    /// Uplinks.
    pub uplinks: HashSet<u32>,
    /// Endpoints by address.
    pub addresses: HashMap<IpKey, EndpointRow>,
    /// Who single addresses are.
    pub ipcache: HashMap<IpKey, IpcacheRow>,
    /// Who prefixes are.
    pub cidrs: Vec<(LpmKey, IpcacheRow)>,
    /// Known identities.
    pub identities: HashSet<Identity>,
    /// Policy set versions.
    pub sets: HashMap<u32, PolicySetRow>,
    /// Classes of identities.
    pub classes: HashMap<ClassKey, u32>,
    /// Policy entries.
    pub policy: HashMap<PolicyKey, PolicyEntry>,
    /// Where pods keep their address.
    pub nomasq: Vec<LpmKey>,
    /// Where packets to elsewhere go; on a miss to the stack.
    pub routes: HashMap<IpKey, FakeRoute>,
    /// Flows of IPv4.
    pub ct4: RefCell<HashMap<CtKey4, CtEntry>>,
    /// Flows of IPv6.
    pub ct6: RefCell<HashMap<CtKey6, CtEntry>>,
    /// Entries by owner.
    pub ct_count: RefCell<HashMap<u16, u32>>,
    /// Translations.
    pub nat: RefCell<HashMap<NatKey, NatEntry>>,
    /// Services, as the agent would write them.
    pub services: ServiceRows,
    /// Flows that they translate.
    pub service_flows: RefCell<HashMap<ServiceFlowKey, ServiceFlow>>,
    /// First fragments.
    pub fragments: RefCell<HashMap<FragmentKey, FragmentPorts>>,
    /// Events.
    pub events: RefCell<Vec<EventRecord>>,
    /// Packets by reason and direction.
    pub counts: RefCell<HashMap<(u8, Direction), u64>>,
    /// Up to when ICMP errors are spoken for.
    pub icmp_times: RefCell<HashMap<u16, u64>>,
    /// Whether no more translations are taken.
    pub nat_full: Cell<bool>,
    /// Whether conntrack takes no more entries.
    pub ct_full: Cell<bool>,
    /// State of the random numbers.
    pub seed: Cell<u32>,
}

impl World {
    /// A dual-stack node that masquerades and reports everything, at a time
    /// long after its start.
    #[must_use]
    pub fn new(node: (&str, &str)) -> Self {
        let world = Self {
            config: RuntimeConfig {
                flags: ConfigFlags::IPV4
                    | ConfigFlags::IPV6
                    | ConfigFlags::MASQUERADE_IPV4
                    | ConfigFlags::MASQUERADE_IPV6
                    | ConfigFlags::EVENT_DROP
                    | ConfigFlags::EVENT_TRACE
                    | ConfigFlags::EVENT_VERDICT,
                epoch: 1,
                mtu: 1500,
                trace_interval_s: 5,
                trace_tcp_flags: 7,
                nat_port_min: 32768,
                nat_port_max: 65535,
                node_ipv6: key(node.1),
                timeouts: Timeouts {
                    tcp_opening_s: 60,
                    tcp_established_s: 8000,
                    tcp_closing_s: 10,
                    one_way_s: 30,
                    two_way_s: 60,
                    fragment_s: 10,
                },
                ..RuntimeConfig::default()
            },
            now_ns: 1_000_000_000_000,
            ..Self::default()
        };
        world.with_node(node)
    }

    fn with_node(mut self, node: (&str, &str)) -> Self {
        if let Some(v4) = key(node.0).to_v4() {
            self.config.node_ipv4 = v4;
        }
        for addr in [node.0, node.1] {
            self.known(addr, Identity::HOST, axon_abi::IpcacheFlags::LOCAL_HOST);
        }
        self
    }

    /// Adds an endpoint of this node, with its rows and its identity.
    pub fn endpoint(&mut self, row: EndpointRow) {
        self.endpoints.insert(row.ifindex, row);
        if row.ipv4 != [0; 4] {
            self.addresses.insert(IpKey::from_v4(row.ipv4), row);
        }
        if row.ipv6 != IpKey::UNSPECIFIED {
            self.addresses.insert(row.ipv6, row);
        }
        self.identities.insert(row.identity);
    }

    /// Has the node itself held to a policy set, as the endpoint of this number.
    pub fn host_firewall(&mut self, id: u16, set: u32) {
        self.config.flags |= ConfigFlags::HOST_FIREWALL;
        self.endpoint(EndpointRow {
            ifindex: axon_abi::HOST_DEVICE,
            identity: Identity::HOST,
            policy_set: set,
            id,
            ..EndpointRow::default()
        });
        self.sets.entry(set).or_insert(NO_RULES);
    }

    /// Says who an address is.
    pub fn known(&mut self, addr: &str, identity: Identity, flags: u32) {
        self.ipcache.insert(
            key(addr),
            IpcacheRow {
                identity,
                flags,
                node: IpKey::UNSPECIFIED,
            },
        );
        self.identities.insert(identity);
    }

    /// Adds an entry to a policy set; `remote` is an identity told apart, or
    /// `None` for anyone.
    pub fn rule(&mut self, set: u32, remote: Option<Identity>, rule: Rule) {
        let class = match remote {
            None => axon_abi::class::ANY,
            Some(identity) => {
                let class = axon_abi::class::FIRST + identity.0;
                self.classes.insert(ClassKey { set, identity }, class);
                class
            }
        };
        let row = self.sets.entry(set).or_insert(NO_RULES);
        let no_anyone = if rule.egress {
            row.egress_prefixes |= 1 << rule.prefix;
            PolicySetFlags::NO_ANYONE_PORTS_EGRESS
        } else {
            row.ingress_prefixes |= 1 << rule.prefix;
            PolicySetFlags::NO_ANYONE_PORTS_INGRESS
        };
        if remote.is_none() && rule.prefix != 0 {
            row.flags &= !no_anyone;
        }
        let direction = if rule.egress {
            PolicyKey::EGRESS
        } else {
            PolicyKey::INGRESS
        };
        self.policy.insert(
            PolicyKey {
                set,
                class,
                port: Be16::new(rule.port),
                protocol: rule.protocol,
                direction_prefix: direction | rule.prefix,
            },
            PolicyEntry {
                precedence: rule.precedence,
                rule: rule.precedence,
                proxy_port: Be16::ZERO,
                flags: (u16::from(rule.deny) * PolicyEntryFlags::DENY)
                    | (u16::from(rule.default) * PolicyEntryFlags::DEFAULT)
                    | (u16::from(rule.failsafe) * PolicyEntryFlags::UNKNOWN_TOO)
                    | (u16::from(rule.auth) * PolicyEntryFlags::AUTH),
            },
        );
    }

    /// Lets so many seconds pass.
    pub fn wait_s(&mut self, seconds: u64) {
        self.now_ns += seconds * 1_000_000_000;
    }

    fn longest<'a, V>(rows: impl Iterator<Item = (&'a LpmKey, V)>, addr: &IpKey) -> Option<V> {
        let wanted = u128::from_be_bytes(addr.0);
        rows.filter(|(prefix, _)| {
            let rest = 128 - prefix.prefix_bits;
            let have = u128::from_be_bytes(prefix.addr.0);
            rest == 128 || wanted >> rest == have >> rest
        })
        .max_by_key(|(prefix, _)| prefix.prefix_bits)
        .map(|(_, value)| value)
    }
}

/// An entry of a policy set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rule {
    /// Whether it is about what the endpoint opens.
    pub egress: bool,
    /// IP protocol number; 0 is any.
    pub protocol: u8,
    /// Port, its bits beyond the prefix zero.
    pub port: u16,
    /// Bits of the port that count.
    pub prefix: u8,
    /// Precedence, and number of the rule.
    pub precedence: u32,
    /// Whether it denies.
    pub deny: bool,
    /// Whether it stands for what the set does where nothing matches.
    pub default: bool,
    /// Whether it allows also whom nobody knows.
    pub failsafe: bool,
    /// Whether what denies is that nobody has proved who he is.
    pub auth: bool,
}

/// An address as a key.
pub(crate) fn key(addr: &str) -> IpKey {
    addr.parse::<IpAddr>()
        .unwrap_or_else(|_| panic!("{addr} is no address"))
        .into()
}

fn lend<'a, K: std::hash::Hash + Eq, V>(
    map: &'a RefCell<HashMap<K, V>>,
    key: &K,
) -> Option<RefMut<'a, V>> {
    RefMut::filter_map(map.borrow_mut(), |map| map.get_mut(key)).ok()
}

impl Tables for World {
    type Ct<'a> = RefMut<'a, CtEntry>;
    type Nat<'a> = RefMut<'a, NatEntry>;
    type ServiceFlow<'a> = RefMut<'a, ServiceFlow>;
    type Services = Self;
    const SERVES: bool = true;

    fn config(&self) -> &RuntimeConfig {
        &self.config
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn random(&self) -> u32 {
        let next = self
            .seed
            .get()
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223);
        self.seed.set(next);
        next
    }

    fn endpoint(&self, ifindex: u32) -> Option<&EndpointRow> {
        self.endpoints.get(&ifindex)
    }

    fn uplink(&self, ifindex: u32) -> bool {
        self.uplinks.contains(&ifindex)
    }

    fn address(&self, addr: &IpKey) -> Option<&EndpointRow> {
        self.addresses.get(addr)
    }

    fn ipcache(&self, addr: &IpKey) -> Option<&IpcacheRow> {
        self.ipcache.get(addr)
    }

    fn ipcache_cidr(&self, key: &LpmKey) -> Option<&IpcacheRow> {
        Self::longest(
            self.cidrs.iter().map(|(prefix, row)| (prefix, row)),
            &key.addr,
        )
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
        self.policy.get(key)
    }

    fn ct4(&self, key: &CtKey4) -> Option<RefMut<'_, CtEntry>> {
        lend(&self.ct4, key)
    }

    fn ct6(&self, key: &CtKey6) -> Option<RefMut<'_, CtEntry>> {
        lend(&self.ct6, key)
    }

    fn ct4_insert(&self, key: &CtKey4, entry: &CtEntry) -> bool {
        !self.ct_full.get() && {
            self.ct4.borrow_mut().insert(*key, *entry);
            true
        }
    }

    fn ct6_insert(&self, key: &CtKey6, entry: &CtEntry) -> bool {
        !self.ct_full.get() && {
            self.ct6.borrow_mut().insert(*key, *entry);
            true
        }
    }

    fn ct_count(&self, owner: u16) -> u32 {
        self.ct_count.borrow().get(&owner).copied().unwrap_or(0)
    }

    fn ct_count_add(&self, owner: u16) -> u32 {
        let mut counts = self.ct_count.borrow_mut();
        let count = counts.entry(owner).or_default();
        *count += 1;
        *count - 1
    }

    fn nat(&self, key: &NatKey) -> Option<RefMut<'_, NatEntry>> {
        lend(&self.nat, key)
    }

    fn nat_insert(&self, key: &NatKey, entry: &NatEntry) -> bool {
        let mut nat = self.nat.borrow_mut();
        let room = !self.nat_full.get() || nat.contains_key(key);
        if room {
            nat.insert(*key, *entry);
        }
        room
    }

    fn nat_create(&self, key: &NatKey, entry: &NatEntry) -> bool {
        let mut nat = self.nat.borrow_mut();
        let free = !self.nat_full.get() && !nat.contains_key(key);
        if free {
            nat.insert(*key, *entry);
        }
        free
    }

    fn no_masquerade(&self, key: &LpmKey) -> bool {
        Self::longest(self.nomasq.iter().map(|prefix| (prefix, ())), &key.addr).is_some()
    }

    fn services(&self) -> &Self {
        self
    }

    fn service_flow(&self, key: &ServiceFlowKey) -> Option<RefMut<'_, ServiceFlow>> {
        lend(&self.service_flows, key)
    }

    fn service_flow_insert(&self, key: &ServiceFlowKey, flow: &ServiceFlow) -> bool {
        self.service_flows.borrow_mut().insert(*key, *flow);
        true
    }

    fn service_flow_create(&self, key: &ServiceFlowKey, flow: &ServiceFlow) -> bool {
        let mut flows = self.service_flows.borrow_mut();
        let free = !flows.contains_key(key);
        if free {
            flows.insert(*key, *flow);
        }
        free
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        self.fragments.borrow().get(key).copied()
    }

    fn fragment_insert(&self, key: &FragmentKey, ports: &FragmentPorts) {
        self.fragments.borrow_mut().insert(*key, *ports);
    }

    fn icmp_spoken_for(&self, owner: u16, next: impl FnOnce(u64) -> Option<u64>) -> bool {
        let mut times = self.icmp_times.borrow_mut();
        let time = times.entry(owner).or_default();
        let next = next(*time);
        *time = next.unwrap_or(*time);
        next.is_some()
    }

    fn route(&self, query: &RouteQuery<'_>, next_hop: &mut NextHop) -> Route {
        let Some((route, addr)) = self.routes.get(query.destination) else {
            return Route::Stack;
        };
        next_hop.addr = *addr;
        *route
    }

    fn add(counter: &mut u64, n: u64) {
        *counter += n;
    }

    fn count(&self, reason: u8, direction: Direction, _len: u32) {
        *self
            .counts
            .borrow_mut()
            .entry((reason, direction))
            .or_default() += 1;
    }

    fn emit(&self, event: &EventRecord) {
        self.events.borrow_mut().push(*event);
    }
}
