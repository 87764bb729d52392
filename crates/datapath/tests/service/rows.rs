//! Rows as the agent writes them, and who asks.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use axon_abi::{
    AffinityEntry, Backend, BackendFlags, Be16, DropReason, FrontendKind, IpKey, ListBlock,
    ListKey, ListRef, MaglevBlock, MaglevKey, ServiceClient, ServiceEntry, ServiceKey, SocketEntry,
    SocketKey, SourceRangeKey,
};
use axon_datapath::{Answer, Ask, Asker, Choice, ServiceTables, SocketTables};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SERVICE: u32 = 9;
pub(crate) const LIST: u32 = 3;
pub(crate) const TABLE: u32 = 5;

/// Rows as the agent writes them.
#[derive(Default)]
pub(crate) struct Rows {
    pub(crate) services: HashMap<ServiceKey, ServiceEntry>,
    pub(crate) lists: HashMap<ListKey, ListBlock>,
    pub(crate) tables: HashMap<MaglevKey, MaglevBlock>,
    pub(crate) backends: HashMap<u32, Backend>,
    pub(crate) ranges: Vec<SourceRangeKey>,
    pub(crate) skips: Vec<ServiceClient>,
    pub(crate) affinity: RefCell<HashMap<ServiceClient, AffinityEntry>>,
    pub(crate) nodes: Vec<IpKey>,
    pub(crate) sockets: RefCell<HashMap<SocketKey, SocketEntry>>,
    /// How many rows of sockets were written.
    pub(crate) written: Cell<u32>,
    pub(crate) is_full: bool,
    pub(crate) host_only: bool,
    pub(crate) random: Cell<u32>,
    pub(crate) now_s: u32,
}

impl ServiceTables for Rows {
    fn service(&self, key: &ServiceKey) -> Option<&ServiceEntry> {
        self.services.get(key)
    }
    fn list_block(&self, key: &ListKey) -> Option<&ListBlock> {
        self.lists.get(key)
    }
    fn maglev_block(&self, key: &MaglevKey) -> Option<&MaglevBlock> {
        self.tables.get(key)
    }
    fn backend(&self, id: u32) -> Option<&Backend> {
        self.backends.get(&id)
    }
    fn source_range(&self, key: &SourceRangeKey) -> bool {
        self.ranges.iter().any(|range| {
            let bits = range.prefix_bits - SourceRangeKey::SERVICE_BITS;
            let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
            let of = |addr: IpKey| u128::from_be_bytes(addr.0) & mask;
            range.service == key.service && of(range.addr) == of(key.addr)
        })
    }
    fn skips(&self, client: &ServiceClient) -> bool {
        self.skips.contains(client)
    }
    fn affinity(&self, client: &ServiceClient) -> Option<AffinityEntry> {
        self.affinity.borrow().get(client).copied()
    }
    fn affinity_insert(&self, client: &ServiceClient, entry: &AffinityEntry) {
        self.affinity.borrow_mut().insert(*client, *entry);
    }
    fn is_node(&self, addr: &IpKey) -> bool {
        self.nodes.contains(addr)
    }
    fn random(&self) -> u32 {
        let next = self
            .random
            .get()
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223);
        self.random.set(next);
        next >> 8
    }
    fn now_s(&self) -> u32 {
        self.now_s
    }
}

/// The cookie of the node's own namespace.
pub(crate) const HOST_NETNS: u64 = 7;

impl SocketTables for Rows {
    fn socket(&self, key: &SocketKey) -> Option<SocketEntry> {
        self.sockets.borrow().get(key).copied()
    }
    fn socket_insert(&self, key: &SocketKey, entry: &SocketEntry) -> bool {
        self.written.set(self.written.get() + 1);
        if !self.is_full {
            self.sockets.borrow_mut().insert(*key, *entry);
        }
        !self.is_full
    }
    fn socket_remove(&self, key: &SocketKey) {
        self.sockets.borrow_mut().remove(key);
    }
    fn is_host(&self, netns_cookie: u64) -> bool {
        netns_cookie == HOST_NETNS
    }
    fn host_only(&self) -> bool {
        self.host_only
    }
}

pub(crate) fn ip(text: &str) -> IpKey {
    IpKey::from(text.parse::<std::net::IpAddr>().expect("an address"))
}

pub(crate) fn key(addr: &str, port: u16, protocol: u8) -> ServiceKey {
    ServiceKey {
        addr: ip(addr),
        port: Be16::new(port),
        protocol,
        pad: 0,
    }
}

impl Rows {
    /// A list of `count` active backends, ids from 1, and how to refer to it.
    pub(crate) fn with_backends(count: u32) -> (Self, ListRef) {
        let mut rows = Self {
            now_s: 1000,
            ..Self::default()
        };
        for id in 1..=count {
            let backend = Backend {
                addr: IpKey::from_v4([10, 1, (id >> 8) as u8, id as u8]),
                port: Be16::new(8080),
                protocol: TCP,
                service: SERVICE,
                flags: BackendFlags::IN_INTERNAL | BackendFlags::IN_EXTERNAL,
                ..Backend::default()
            };
            rows.backends.insert(id, backend);
            let slot = id - 1;
            let block = rows.lists.entry(ListKey {
                list: LIST,
                block: slot / 16,
            });
            block.or_default().backends[slot as usize % 16] = id;
        }
        let list = ListRef {
            list: LIST,
            slots: count,
            maglev: 0,
        };
        (rows, list)
    }

    pub(crate) fn frontend(
        &mut self,
        key: ServiceKey,
        kind: FrontendKind,
        flags: u32,
        list: ListRef,
    ) {
        let entry = ServiceEntry {
            service: SERVICE,
            flags: kind as u32 | flags,
            internal: list,
            external: list,
            affinity_timeout_s: 10,
            ..ServiceEntry::default()
        };
        self.services.insert(key, entry);
    }
}

pub(crate) fn ask(asker: Asker, addr: &str, port: u16) -> Ask {
    Ask {
        asker,
        addr: ip(addr),
        port: Be16::new(port),
        protocol: TCP,
        client: ip("192.0.2.7"),
        source: ip("192.0.2.7"),
        source_port: Be16::new(40_000),
    }
}

pub(crate) fn chosen(answer: Result<Answer, DropReason>) -> Choice {
    match answer {
        Ok(Answer::Backend(choice)) => choice,
        other => panic!("{other:?}"),
    }
}

/// What becomes of who asks, without who it is that answers.
pub(crate) fn short(answer: Result<Answer, DropReason>) -> Result<&'static str, DropReason> {
    answer.map(|answer| match answer {
        Answer::Elsewhere => "elsewhere",
        Answer::Closed => "closed",
        Answer::Refused => "refused",
        Answer::Backend(_) => "backend",
    })
}
