//! [`ServiceTables`] over the maps of the kernel, for programs at devices and at
//! sockets alike.

use core::ptr::from_ref;

use axon_abi::{
    AffinityEntry, Backend, IpKey, ListBlock, ListKey, MaglevBlock, MaglevKey, ServiceClient,
    ServiceEntry, ServiceKey, SourceRangeKey,
};
use axon_datapath::ServiceTables;
use aya_ebpf::helpers::bpf_get_prandom_u32;
use aya_ebpf::maps::lpm_trie::Key;

use crate::kernel::{BPF_ANY, lend, now_ns};
use crate::maps;
use crate::maps::SourceRange;

const NS_PER_S: u64 = 1_000_000_000;

/// The services of the node. Holds nothing: the clock is read only for services
/// with affinity.
pub struct Services;

/// The key of the trie, as Aya has it: the same 24 bytes.
#[inline(always)]
fn trie_key(key: &SourceRangeKey) -> &Key<SourceRange> {
    const _: () = assert!(size_of::<Key<SourceRange>>() == size_of::<SourceRangeKey>());
    // SAFETY: both are a `u32` and 20 bytes, without padding; `Key` is packed.
    unsafe { &*from_ref(key).cast() }
}

impl ServiceTables for Services {
    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<&ServiceEntry> {
        lend(maps::SERVICE.get_ptr(key))
    }

    #[inline(always)]
    fn list_block(&self, key: &ListKey) -> Option<&ListBlock> {
        lend(maps::SERVICE_LIST.get_ptr(key))
    }

    #[inline(always)]
    fn maglev_block(&self, key: &MaglevKey) -> Option<&MaglevBlock> {
        lend(maps::MAGLEV.get_ptr(key))
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<&Backend> {
        lend(maps::BACKEND.get_ptr(id))
    }

    #[inline(always)]
    fn source_range(&self, key: &SourceRangeKey) -> bool {
        maps::SOURCE_RANGE.get(trie_key(key)).is_some()
    }

    #[inline(always)]
    fn skips(&self, client: &ServiceClient) -> bool {
        maps::SERVICE_SKIP.get_ptr(client).is_some()
    }

    #[inline(always)]
    fn affinity(&self, client: &ServiceClient) -> Option<AffinityEntry> {
        lend(maps::SERVICE_AFFINITY.get_ptr(client)).copied()
    }

    #[inline(always)]
    fn affinity_insert(&self, client: &ServiceClient, entry: &AffinityEntry) {
        // A full map evicts; without room the client is chosen for again.
        let _ = maps::SERVICE_AFFINITY.insert(client, entry, BPF_ANY);
    }

    #[inline(always)]
    fn is_node(&self, addr: &IpKey) -> bool {
        lend(maps::IPCACHE.get_ptr(addr)).is_some_and(|row| row.is_node())
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: a helper without preconditions.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn now_s(&self) -> u32 {
        (now_ns() / NS_PER_S) as u32
    }
}
