//! The kernel's tables, as far as a choice asks them: natively, over the rows
//! that an agent would write.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use axon_abi::{
    AffinityEntry, Backend, IpKey, ListBlock, ListKey, MaglevBlock, MaglevKey, ServiceClient,
    ServiceEntry, ServiceKey, SourceRangeKey,
};
use axon_control::services::ServiceRows;
use axon_datapath::ServiceTables;

/// A node's rows, with one client's past and one throw of the dice.
pub(crate) struct NodeTables<'a> {
    pub(crate) rows: &'a ServiceRows,
    /// Addresses of all nodes.
    pub(crate) nodes: &'a BTreeSet<IpKey>,
    /// What chance says.
    pub(crate) random: u32,
    /// Seconds that have passed.
    pub(crate) now_s: u32,
    /// Where clients went.
    pub(crate) affinity: RefCell<BTreeMap<ServiceClient, AffinityEntry>>,
}

impl ServiceTables for NodeTables<'_> {
    fn service(&self, key: &ServiceKey) -> Option<&ServiceEntry> {
        self.rows.services.get(key)
    }

    fn list_block(&self, key: &ListKey) -> Option<&ListBlock> {
        self.rows.lists.get(key)
    }

    fn maglev_block(&self, key: &MaglevKey) -> Option<&MaglevBlock> {
        self.rows.maglev.get(key)
    }

    fn backend(&self, id: u32) -> Option<&Backend> {
        self.rows.backends.get(&id)
    }

    fn source_range(&self, key: &SourceRangeKey) -> bool {
        self.rows.ranges.iter().any(|range| holds(range, key))
    }

    fn skips(&self, client: &ServiceClient) -> bool {
        self.rows.skips.contains(client)
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
        self.random
    }

    fn now_s(&self) -> u32 {
        self.now_s
    }
}

/// Whether a prefix holds what is asked, as the kernel's trie would say.
fn holds(range: &SourceRangeKey, asked: &SourceRangeKey) -> bool {
    let bits = range
        .prefix_bits
        .saturating_sub(SourceRangeKey::SERVICE_BITS);
    let rest = 128_u32.saturating_sub(bits);
    let head = |addr: IpKey| u128::from_be_bytes(addr.0).checked_shr(rest);
    range.service == asked.service && head(range.addr) == head(asked.addr)
}

#[cfg(test)]
mod tests {
    use axon_abi::{IpKey, SourceRangeKey};

    use super::holds;

    #[test]
    fn prefixes_hold_what_begins_like_them() {
        let ip = |text: &str| IpKey::from(text.parse::<std::net::IpAddr>().expect("an address"));
        let range = |addr: &str, bits| SourceRangeKey {
            prefix_bits: SourceRangeKey::SERVICE_BITS + bits,
            service: 7,
            addr: ip(addr),
        };
        for (range, service, addr, expected) in [
            (range("192.0.2.0", 96 + 24), 7, "192.0.2.255", true),
            (range("192.0.2.0", 96 + 24), 7, "192.0.3.0", false),
            (range("192.0.2.0", 96 + 24), 8, "192.0.2.1", false),
            (range("192.0.2.1", 128), 7, "192.0.2.1", true),
            (range("192.0.2.1", 128), 7, "192.0.2.0", false),
            (range("::", 0), 7, "2001:db8::1", true),
            (range("0.0.0.0", 96), 7, "2001:db8::1", false),
        ] {
            let asked = SourceRangeKey::host(service, ip(addr));
            assert_eq!(holds(&range, &asked), expected, "{range:?} {addr}");
        }
    }
}
