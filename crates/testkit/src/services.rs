//! Services of a world.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use axon_abi::{
    AffinityEntry, Backend, BackendFlags, Be16, FrontendKind, Identity, IpKey, ListBlock, ListKey,
    ListRef, MaglevBlock, MaglevKey, ServiceClient, ServiceEntry, ServiceFlags, ServiceKey,
    SourceRangeKey,
};
use axon_datapath::{ServiceTables, Tables};

use crate::World;
use crate::world::key;

/// Rows of services as the agent would write them.
#[derive(Clone, Debug, Default)]
pub struct ServiceRows {
    /// Frontends.
    pub services: HashMap<ServiceKey, ServiceEntry>,
    /// Lists of backends.
    pub lists: HashMap<ListKey, ListBlock>,
    /// Maglev tables.
    pub maglev: HashMap<MaglevKey, MaglevBlock>,
    /// Backends.
    pub backends: HashMap<u32, Backend>,
    /// Source ranges.
    pub ranges: Vec<SourceRangeKey>,
    /// Who passes by redirections.
    pub skips: HashSet<ServiceClient>,
    /// Who went where.
    pub affinity: RefCell<HashMap<ServiceClient, AffinityEntry>>,
}

/// A frontend to be.
#[derive(Clone, Copy, Debug)]
pub struct Listens<'a> {
    /// Its address.
    pub addr: &'a str,
    /// Its port.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// What it is.
    pub kind: FrontendKind,
    /// [`ServiceFlags`].
    pub flags: u32,
}

impl World {
    /// Adds a frontend of the port of a service, and its backends: address, port,
    /// and whether they are of this node. The backends' ids begin with 16 times the
    /// service's number.
    pub fn service(&mut self, service: u32, at: &Listens<'_>, backends: &[(&str, u16, bool)]) {
        self.config.flags |= axon_abi::ConfigFlags::SERVICES;
        let rows = &mut self.services;
        let mut block = ListBlock::default();
        let ids = service * 16..;
        for (n, (id, (addr, port, local))) in ids.zip(backends).enumerate() {
            let local = if *local { BackendFlags::LOCAL } else { 0 };
            let backend = Backend {
                addr: key(addr),
                port: Be16::new(*port),
                protocol: at.protocol,
                state: 0,
                service,
                flags: BackendFlags::IN_INTERNAL | BackendFlags::IN_EXTERNAL | local,
                generation: 1,
            };
            rows.backends.insert(id, backend);
            block.backends[n] = id;
        }
        let list = match backends.len() {
            0 => ListRef::default(),
            slots => {
                let list = ListKey {
                    list: service,
                    block: 0,
                };
                rows.lists.insert(list, block);
                ListRef {
                    list: service,
                    slots: slots as u32,
                    maglev: 0,
                }
            }
        };
        let entry = ServiceEntry {
            service,
            flags: at.kind as u32 | at.flags,
            internal: list,
            external: list,
            generation: 1,
            ..ServiceEntry::default()
        };
        let at = ServiceKey {
            addr: key(at.addr),
            port: Be16::new(at.port),
            protocol: at.protocol,
            pad: 0,
        };
        rows.services.insert(at, entry);
    }

    /// Makes an address one that is only services'.
    pub fn service_address(&mut self, addr: &str) {
        self.config.flags |= axon_abi::ConfigFlags::SERVICES;
        let at = ServiceKey {
            addr: key(addr),
            ..ServiceKey::default()
        };
        let entry = ServiceEntry {
            flags: FrontendKind::Address as u32,
            ..ServiceEntry::default()
        };
        self.services.services.insert(at, entry);
    }

    /// Lets only clients of a prefix ask for a service from the network, of which so
    /// many bits of an [`IpKey`] count.
    pub fn service_range(&mut self, service: u32, addr: &str, bits: u32) {
        self.services.ranges.push(SourceRangeKey {
            prefix_bits: SourceRangeKey::SERVICE_BITS + bits,
            service,
            addr: key(addr),
        });
        let entries = self.services.services.values_mut();
        for entry in entries.filter(|entry| entry.service == service) {
            entry.flags |= ServiceFlags::SOURCE_RANGES;
        }
    }
}

impl ServiceTables for World {
    fn service(&self, key: &ServiceKey) -> Option<&ServiceEntry> {
        self.services.services.get(key)
    }

    fn list_block(&self, key: &ListKey) -> Option<&ListBlock> {
        self.services.lists.get(key)
    }

    fn maglev_block(&self, key: &MaglevKey) -> Option<&MaglevBlock> {
        self.services.maglev.get(key)
    }

    fn backend(&self, id: u32) -> Option<&Backend> {
        self.services.backends.get(&id)
    }

    fn source_range(&self, key: &SourceRangeKey) -> bool {
        self.services.ranges.iter().any(|range| {
            let rest = 128 - (range.prefix_bits - SourceRangeKey::SERVICE_BITS);
            let head = |addr: IpKey| u128::from_be_bytes(addr.0).checked_shr(rest);
            range.service == key.service && head(range.addr) == head(key.addr)
        })
    }

    fn skips(&self, client: &ServiceClient) -> bool {
        self.services.skips.contains(client)
    }

    fn affinity(&self, client: &ServiceClient) -> Option<AffinityEntry> {
        self.services.affinity.borrow().get(client).copied()
    }

    fn affinity_insert(&self, client: &ServiceClient, entry: &AffinityEntry) {
        let mut affinity = self.services.affinity.borrow_mut();
        affinity.insert(*client, *entry);
    }

    fn is_node(&self, addr: &IpKey) -> bool {
        let nodes = [Identity::HOST, Identity::REMOTE_NODE];
        self.ipcache
            .get(addr)
            .is_some_and(|row| nodes.contains(&row.identity))
    }

    fn random(&self) -> u32 {
        // Which of several: of the higher bits, the lower ones go round in circles.
        Tables::random(self) >> 8
    }

    fn now_s(&self) -> u32 {
        Tables::now_s(self)
    }
}
