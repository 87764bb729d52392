//! Rows of services for tests, and what is to be in the kernel for them.

use std::collections::BTreeMap;

use axon_abi::{
    Backend, BackendFlags, Be16, FrontendKind, IpKey, LIST_BLOCK_SLOTS, ListBlock, ListKey,
    ListRef, MAGLEV_BLOCK_SLOTS, MaglevBlock, MaglevKey, ServiceClient, ServiceEntry, ServiceKey,
    SourceRangeKey,
};
use axon_linux::{KernelReconciler, Map, Maps, ReconcilerConfig};
use axon_model::Desired;
use axon_statedb::Table;

use crate::common::Node;

pub(crate) const GRACE_MS: u64 = 2000;

pub(crate) fn reconciler(node: &Node, maps: &Maps) -> KernelReconciler {
    let config = ReconcilerConfig {
        service_grace_ms: GRACE_MS,
        ..ReconcilerConfig::default()
    };
    node.run(|| KernelReconciler::new(maps.clone(), config))
}

/// What is desired; shop and test speak of the same tables.
#[derive(Default)]
pub(crate) struct Shop {
    pub(crate) desired: Desired,
    generation: u32,
}

pub(crate) fn key(n: u8) -> ServiceKey {
    ServiceKey {
        addr: IpKey::from_v4([10, 96, 0, n]),
        port: Be16::new(80),
        protocol: 6,
        pad: 0,
    }
}

impl Shop {
    pub(crate) fn backend(&self, id: u32, generation: u32) {
        let [_, b, c, d] = id.to_be_bytes();
        let row = Backend {
            addr: IpKey::from_v4([10, b, c, d]),
            port: Be16::new(8080),
            protocol: 6,
            state: 0,
            service: 1,
            flags: BackendFlags::IN_INTERNAL | BackendFlags::IN_EXTERNAL,
            generation,
        };
        self.desired.services.backends.write(|t| t.insert(id, row));
    }

    pub(crate) fn without_backend(&self, id: u32) {
        self.desired.services.backends.write(|t| t.remove(&id));
    }

    /// A list, with its backends.
    pub(crate) fn list(&self, list: u32, ids: &[u32]) {
        for id in ids {
            if self.desired.services.backends.get(id).is_none() {
                self.backend(*id, 0);
            }
        }
        let chunks = ids.chunks(LIST_BLOCK_SLOTS as usize);
        for (block, chunk) in (0..).zip(chunks) {
            let mut row = ListBlock::default();
            row.backends[..chunk.len()].copy_from_slice(chunk);
            let lists = &self.desired.services.lists;
            lists.write(|t| t.insert(ListKey { list, block }, row));
        }
    }

    pub(crate) fn without_list(&self, list: u32) {
        let lists = &self.desired.services.lists;
        let all = lists.snapshot();
        let keys = all.iter().map(|(key, _)| *key);
        for key in keys.filter(|key| key.list == list) {
            lists.write(|t| t.remove(&key));
        }
    }

    pub(crate) fn maglev(&self, table: u32, places: u32) {
        for block in 0..places.div_ceil(MAGLEV_BLOCK_SLOTS) {
            let key = MaglevKey { table, block };
            let tables = &self.desired.services.maglev;
            tables.write(|t| t.insert(key, MaglevBlock::default()));
        }
    }

    /// A frontend with lists and their slots.
    pub(crate) fn frontend(
        &mut self,
        n: u8,
        internal: (u32, u32),
        external: (u32, u32),
        maglev: u32,
    ) {
        self.generation += 1;
        let list = |(list, slots), maglev| ListRef {
            list,
            slots,
            maglev,
        };
        let entry = ServiceEntry {
            service: u32::from(n),
            flags: FrontendKind::ClusterIp as u32,
            internal: list(internal, 0),
            external: list(external, maglev),
            maglev_slots: 251,
            affinity_timeout_s: 0,
            generation: self.generation,
        };
        self.put(key(n), entry);
    }

    pub(crate) fn put(&self, key: ServiceKey, entry: ServiceEntry) {
        let frontends = &self.desired.services.frontends;
        frontends.write(|t| t.insert(key, entry));
    }

    pub(crate) fn without_frontend(&self, n: u8) {
        let frontends = &self.desired.services.frontends;
        frontends.write(|t| t.remove(&key(n)));
    }

    pub(crate) fn range_key(service: u32, addr: [u8; 4]) -> SourceRangeKey {
        SourceRangeKey {
            prefix_bits: SourceRangeKey::SERVICE_BITS + 96 + 24,
            service,
            addr: IpKey::from_v4(addr),
        }
    }

    pub(crate) fn range(&self, service: u32, addr: [u8; 4]) {
        let key = Self::range_key(service, addr);
        self.desired.services.ranges.write(|t| t.insert(key, ()));
    }

    pub(crate) fn without_range(&self, service: u32, addr: [u8; 4]) {
        let key = Self::range_key(service, addr);
        self.desired.services.ranges.write(|t| t.remove(&key));
    }

    pub(crate) fn skip(&self, service: u32) {
        let key = ServiceClient {
            client: IpKey::from_v4([10, 0, 0, 9]),
            service,
            external: 0,
        };
        self.desired.services.skips.write(|t| t.insert(key, ()));
    }

    /// Wants what another wants.
    pub(crate) fn follow(&self, other: &Self) {
        fn follow<K: Ord + Clone, V: PartialEq + Clone>(to: &Table<K, V>, from: &Table<K, V>) {
            let rows = from.snapshot();
            to.replace(rows.iter().map(|(k, v)| (k.clone(), (**v).clone())));
        }
        let (to, from) = (&self.desired.services, &other.desired.services);
        follow(&to.backends, &from.backends);
        follow(&to.lists, &from.lists);
        follow(&to.maglev, &from.maglev);
        follow(&to.ranges, &from.ranges);
        follow(&to.skips, &from.skips);
        follow(&to.frontends, &from.frontends);
    }

    pub(crate) fn mark_complete(&self) {
        let services = &self.desired.services;
        services.frontends.mark_complete();
        services.lists.mark_complete();
        services.maglev.mark_complete();
        services.backends.mark_complete();
        services.ranges.mark_complete();
        services.skips.mark_complete();
    }

    /// The kernel holds this and nothing else.
    pub(crate) fn is_in(&self, maps: &Maps) {
        fn same<K, V, W>(name: &str, map: &Map<K, V>, table: &Table<K, W>, row: impl Fn(&W) -> V)
        where
            K: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable,
            K: Ord + Clone + std::fmt::Debug,
            V: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable,
            V: PartialEq + std::fmt::Debug,
            W: PartialEq,
        {
            let held: BTreeMap<K, V> = map.dump().expect("a dump").into_iter().collect();
            let rows = table.snapshot();
            let wanted: BTreeMap<K, V> = rows.iter().map(|(k, v)| (k.clone(), row(v))).collect();
            assert_eq!(held, wanted, "{name}");
        }
        let services = &self.desired.services;
        same("frontends", &maps.service, &services.frontends, |row| *row);
        same("lists", &maps.service_list, &services.lists, |row| *row);
        same("tables", &maps.maglev, &services.maglev, |row| *row);
        same("backends", &maps.backend, &services.backends, |row| *row);
        same("ranges", &maps.source_range, &services.ranges, |()| 1);
        same("skips", &maps.service_skip, &services.skips, |()| 1);
    }
}
