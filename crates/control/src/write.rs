//! Writes addresses, routes and the configuration to the desired tables.

use std::collections::BTreeMap;

use axon_abi::{Identity, IpKey, IpcacheRow};
use axon_model::Desired;
use axon_statedb::Table;

use crate::controller::Controller;
use crate::ipcache::{is_single, lpm_key};
use crate::routes::{nomasq, routes};
use crate::runtime::runtime_config;
use crate::seen::View;
use crate::views::{Condition, ConditionKind};

impl Controller {
    /// Rewrites the rows of addresses whose strongest claim has changed.
    pub(crate) fn write_addresses(
        &mut self,
        now_ms: u64,
        view: &View,
        desired: &Desired,
        complete: bool,
    ) {
        for prefix in self.claims.take_dirty() {
            self.renamed.prefixes.insert(prefix);
            let row = self.claims.strongest(&prefix).map(|(_, claim)| claim.row());
            if row.is_none() && !complete {
                self.claims.put_off(prefix);
                continue;
            }
            let old = if is_single(&prefix) {
                put(&desired.ipcache, IpKey::from(prefix.addr()), row)
            } else {
                put(&desired.ipcache_cidrs, lpm_key(&prefix), row)
            };
            match (old.map(|old| old.identity), row.map(|row| row.identity)) {
                (Some(old), new) if new != Some(old) => self.epoch.note_change(),
                (None, Some(_)) => self.epoch.note_addition(now_ms),
                _ => {}
            }
        }
        if view.nodes.is_changed() {
            let kept = nomasq(&self.config, &self.pod_cidrs);
            let rows = kept.iter().map(|prefix| (lpm_key(prefix), 1));
            merge(&desired.nomasq, rows.collect(), complete);
            let node = |name: &str| view.nodes.rows.get(&name.to_owned()).map(|node| &**node);
            let ways = if self.config.direct_node_routes {
                routes(&self.config.node_name, &self.pod_cidrs, node)
            } else {
                BTreeMap::new()
            };
            merge(&desired.routes, ways, complete);
        }
        if complete {
            desired.ipcache.mark_complete();
            desired.ipcache_cidrs.mark_complete();
            desired.nomasq.mark_complete();
            desired.routes.mark_complete();
        }
    }

    /// The programs' configuration, once this node is known: without its
    /// addresses nothing can be masqueraded.
    pub(crate) fn write_config(&self, view: &View, desired: &Desired, complete: bool) {
        let node = view.nodes.rows.get(&self.config.node_name);
        if node.is_none() && !complete {
            return;
        }
        let node = node.map(|node| &**node);
        let row = runtime_config(&self.config, node, &self.devices, self.persisted.epoch);
        desired.config.write(|txn| txn.insert(0, row));
        if complete {
            desired.config.mark_complete();
        }
    }

    /// Rows that do not fit into the kernel's maps.
    pub(crate) fn row_conditions(&self) -> Vec<Condition> {
        let capacity = &self.config.capacity;
        let (single, wider) = self.claims.count();
        let reserved = self.engine.identities().range(..Identity(100)).count();
        let identities = self.engine.identities().len() - reserved;
        [
            ("addresses", single, capacity.ipcache),
            ("prefixes", wider, capacity.ipcache_cidrs),
            ("identities", identities, capacity.identities),
        ]
        .into_iter()
        .filter(|(_, needed, room)| needed > room)
        .map(|(what, needed, room)| Condition {
            kind: ConditionKind::RowsOverflow,
            policies: Vec::new(),
            message: format!("{needed} {what} are known, the kernel's map holds {room}"),
            remedy: "raise the map's size".to_owned(),
        })
        .collect()
    }
}

/// Writes or removes one row; hands back the one that was there.
fn put<K: Ord + Clone>(
    table: &Table<K, IpcacheRow>,
    key: K,
    row: Option<IpcacheRow>,
) -> Option<IpcacheRow> {
    table.write(|txn| {
        let old = txn.get(&key).map(|old| **old);
        match row {
            Some(row) => {
                txn.insert(key, row);
            }
            None => {
                txn.remove(&key);
            }
        }
        old
    })
}

/// Puts rows in place; others go only if everything is known.
fn merge<K: Ord + Clone, V: PartialEq>(table: &Table<K, V>, rows: BTreeMap<K, V>, complete: bool) {
    if complete {
        table.replace(rows);
    } else {
        table.write(|txn| {
            for (key, row) in rows {
                txn.insert(key, row);
            }
        });
    }
}
