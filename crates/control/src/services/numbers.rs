//! Numbers of service ports, backends and lists.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axon_model::Protocol;

/// What has which number. A number is given once: what comes back under a name
/// that had one is the same again, and a list with other content is another.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    ports: BTreeMap<String, u32>,
    backends: BTreeMap<(u32, IpAddr, u16), u32>,
    lists: BTreeMap<Vec<u32>, u32>,
    tables: BTreeMap<(Vec<(u32, u16)>, u32), u32>,
}

fn number<K: Ord>(known: &mut BTreeMap<K, u32>, key: K) -> u32 {
    // Nothing is taken out, so the count is the highest number given.
    let next = known.len() as u32 + 1;
    *known.entry(key).or_insert(next)
}

impl Numbers {
    /// The number of a service's port.
    pub(super) fn port(&mut self, owner: &str, name: &str, protocol: Protocol) -> u32 {
        number(&mut self.ports, format!("{owner}/{name}/{}", protocol.0))
    }

    /// The id of a backend of a service's port.
    pub(super) fn backend(&mut self, service: u32, addr: IpAddr, port: u16) -> u32 {
        number(&mut self.backends, (service, addr, port))
    }

    /// The number of a list.
    pub(super) fn list(&mut self, backends: &[u32]) -> u32 {
        number(&mut self.lists, backends.to_vec())
    }

    /// The number of a table over a list with weights.
    pub(super) fn table(&mut self, backends: &[(u32, u16)], size: u32) -> u32 {
        number(&mut self.tables, (backends.to_vec(), size))
    }
}
