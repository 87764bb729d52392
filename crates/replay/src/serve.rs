//! What the choice of a backend asks: silently, to see all that may be chosen;
//! and noted, for the packet that is explained.

use axon_abi::{
    AffinityEntry, Backend, IpKey, ListBlock, ListKey, MaglevBlock, MaglevKey, ServiceClient,
    ServiceEntry, ServiceKey, SocketEntry, SocketKey, SourceRangeKey,
};
use axon_datapath::{ServiceTables, SocketTables, seconds};

use crate::node::Node;
use crate::record::Recorder;
use crate::services::{self, service_key};

/// The cookie of the node's own network namespace, here.
pub(crate) const HOST_COOKIE: u64 = 1;
/// The cookie of a pod's, which the state does not tell.
pub(crate) const POD_COOKIE: u64 = 2;

/// The tables of services of a node, with what chance says; nothing is written.
pub(crate) struct Quiet<'a> {
    pub(crate) node: &'a Node,
    pub(crate) random: u32,
}

impl ServiceTables for Quiet<'_> {
    fn service(&self, key: &ServiceKey) -> Option<&ServiceEntry> {
        self.node.services.frontends.get(key)
    }

    fn list_block(&self, key: &ListKey) -> Option<&ListBlock> {
        self.node.services.lists.get(key)
    }

    fn maglev_block(&self, key: &MaglevKey) -> Option<&MaglevBlock> {
        self.node.services.maglev.get(key)
    }

    fn backend(&self, id: u32) -> Option<&Backend> {
        self.node.services.backends.get(&id)
    }

    fn source_range(&self, key: &SourceRangeKey) -> bool {
        self.node.services.range(key).is_some()
    }

    fn skips(&self, client: &ServiceClient) -> bool {
        self.node.services.skips.contains(client)
    }

    fn affinity(&self, client: &ServiceClient) -> Option<AffinityEntry> {
        self.node.services.affinity.get(client).copied()
    }

    fn affinity_insert(&self, _: &ServiceClient, _: &AffinityEntry) {}

    fn is_node(&self, addr: &IpKey) -> bool {
        let row = self.node.ipcache.get(addr);
        row.is_some_and(axon_abi::IpcacheRow::is_node)
    }

    fn random(&self) -> u32 {
        self.random
    }

    fn now_s(&self) -> u32 {
        seconds(self.node.now_ns)
    }
}

impl ServiceTables for Recorder<'_> {
    fn service(&self, key: &ServiceKey) -> Option<&ServiceEntry> {
        let services = &self.node.services;
        let row = services.frontends.get(key);
        let words = row.map(|row| services.frontend_words(key, row));
        self.note("service", service_key(key), words);
        row
    }

    fn list_block(&self, key: &ListKey) -> Option<&ListBlock> {
        let services = &self.node.services;
        let row = services.lists.get(key);
        let name = format!("list {} block {}", key.list, key.block);
        self.note(
            "service_list",
            name,
            row.map(|row| services.block_words(row)),
        );
        row
    }

    fn maglev_block(&self, key: &MaglevKey) -> Option<&MaglevBlock> {
        let row = self.node.services.maglev.get(key);
        let name = format!("table {} block {}", key.table, key.block);
        self.note("maglev", name, row.map(|_| "indexes of slots".to_owned()));
        row
    }

    fn backend(&self, id: u32) -> Option<&Backend> {
        let row = self.node.services.backends.get(&id);
        let words = row.map(services::backend_words);
        self.note("backend", format!("backend {id}"), words);
        row
    }

    fn source_range(&self, key: &SourceRangeKey) -> bool {
        let services = &self.node.services;
        let range = services.range(key);
        let name = format!(
            "{} of {}",
            std::net::IpAddr::from(key.addr),
            services.port_name(key.service)
        );
        let words = range.map(|range| {
            let bits = range
                .prefix_bits
                .saturating_sub(SourceRangeKey::SERVICE_BITS);
            let prefix = axon_abi::LpmKey {
                prefix_bits: bits,
                addr: range.addr,
            };
            format!("in {}", crate::words::prefix(&prefix))
        });
        self.note("source_range", name, words);
        range.is_some()
    }

    fn skips(&self, client: &ServiceClient) -> bool {
        let services = &self.node.services;
        let is = services.skips.contains(client);
        let name = self.client_words(client);
        self.note("service_skip", name, is.then(|| "passes by".to_owned()));
        is
    }

    fn affinity(&self, client: &ServiceClient) -> Option<AffinityEntry> {
        let row = self.node.services.affinity.get(client).copied();
        let words = row.map(|row| {
            let ago = seconds(self.node.now_ns).wrapping_sub(row.last_s);
            format!("backend {}, {ago} s ago", row.backend)
        });
        self.note("service_affinity", self.client_words(client), words);
        row
    }

    fn affinity_insert(&self, _: &ServiceClient, _: &AffinityEntry) {}

    fn is_node(&self, addr: &IpKey) -> bool {
        let row = self.node.ipcache.get(addr);
        let is = row.is_some_and(axon_abi::IpcacheRow::is_node);
        let words = row.map(|row| self.node.ipcache_row(row));
        self.note("ipcache", self.node.address(addr), words);
        is
    }

    fn random(&self) -> u32 {
        self.chance
    }

    fn now_s(&self) -> u32 {
        seconds(self.node.now_ns)
    }
}

impl SocketTables for Recorder<'_> {
    fn socket(&self, _: &SocketKey) -> Option<SocketEntry> {
        // A new socket is none of those that are known.
        None
    }

    fn socket_insert(&self, _: &SocketKey, _: &SocketEntry) -> bool {
        true
    }

    fn socket_remove(&self, _: &SocketKey) {}

    fn is_host(&self, netns_cookie: u64) -> bool {
        netns_cookie == HOST_COOKIE
    }

    fn host_only(&self) -> bool {
        self.node.services.sockets != axon_api::state::Sockets::All
    }
}

impl Recorder<'_> {
    fn client_words(&self, client: &ServiceClient) -> String {
        let who = match client.client {
            IpKey([0, 0, 0, 0, 0, 0, 0, 0, ..]) if !client.client.is_v4() => {
                "its network namespace".to_owned()
            }
            addr => std::net::IpAddr::from(addr).to_string(),
        };
        format!("{who} at {}", self.node.services.port_name(client.service))
    }
}
