//! Typed maps.

use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use axon_abi::{
    ClassKey, ClassRow, CtEntry, CtKey4, CtKey6, EndpointRow, FragmentKey, FragmentPorts, Identity,
    IdentityRow, IpKey, IpcacheRow, LpmKey, MetricsRow, NatEntry, NatKey, PolicyEntry, PolicyKey,
    PolicySetRow, RuntimeConfig,
};

/// Why a map did not do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// Retrying helps only after something else leaves; health shows it.
    #[error("{map} is full at {entries} of {entries_max} entries")]
    Full {
        /// The map.
        map: &'static str,
        /// Entries in it.
        entries: u32,
        /// Entries it can hold.
        entries_max: u32,
    },
    /// The map is not pinned where it ought to be.
    #[error("{map} is not pinned at {path}; is the agent's bpffs root another one?")]
    Absent {
        /// The map.
        map: &'static str,
        /// The pin's path.
        path: String,
    },
    /// What is pinned has another layout.
    #[error("{map} is pinned with {field} {found}, expected {expected}")]
    Layout {
        /// The map.
        map: &'static str,
        /// What differs (`type`, `key size`, `value size`).
        field: &'static str,
        /// What is pinned.
        found: u32,
        /// What the programs want.
        expected: u32,
    },
    /// The kernel refused.
    #[error("{map}: {call} failed")]
    Syscall {
        /// The map.
        map: &'static str,
        /// What was asked.
        call: &'static str,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MapUse {
    /// The map.
    pub map: &'static str,
    /// Rows in it.
    pub entries: u32,
    /// Rows it can hold.
    pub capacity: u32,
}

/// A hash, LRU hash, trie or array; clones share the descriptor.
#[derive(Debug)]
pub struct Map<K, V> {
    fd: Arc<OwnedFd>,
    name: &'static str,
    max_entries: u32,
    layout: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Map<K, V> {
    /// The value of a key.
    ///
    /// # Errors
    /// [`MapError::Syscall`].
    pub fn get(&self, _key: &K) -> Result<Option<V>, MapError> {
        Ok(None)
    }
    /// Puts a value in place, whether there was one or not.
    ///
    /// # Errors
    /// [`MapError::Full`], [`MapError::Syscall`].
    pub fn insert(&self, _key: &K, _value: &V) -> Result<(), MapError> {
        Ok(())
    }
    /// Removes a key; says whether it was there.
    ///
    /// # Errors
    /// [`MapError::Syscall`].
    pub fn remove(&self, _key: &K) -> Result<bool, MapError> {
        Ok(false)
    }
    /// Every entry, in batches where the kernel has them. Entries that come
    /// and go meanwhile may or may not be in it.
    ///
    /// # Errors
    /// [`MapError::Syscall`].
    pub fn dump(&self) -> Result<Vec<(K, V)>, MapError> {
        Ok(Vec::new())
    }
    /// Entries the map can hold.
    pub fn capacity(&self) -> u32 {
        self.max_entries
    }
    /// The map's name.
    pub fn name(&self) -> &'static str {
        self.name
    }
    #[expect(dead_code, reason = "skeleton")]
    fn raw(&self) -> &OwnedFd {
        &self.fd
    }
}

/// An array with a value per CPU.
#[derive(Debug)]
pub struct PerCpuArray<V> {
    map: Map<u32, V>,
}

impl<V> PerCpuArray<V> {
    /// The values of an index, one per possible CPU.
    ///
    /// # Errors
    /// [`MapError::Syscall`].
    pub fn get(&self, _index: u32) -> Result<Vec<V>, MapError> {
        let _ = &self.map;
        Ok(Vec::new())
    }
}

/// Every pinned map of a node, typed.
#[derive(Debug)]
pub struct Maps {
    /// The generation in force, at index 0.
    pub generation: Map<u32, u32>,
    /// The programs' configuration, at index 0.
    pub config: Map<u32, RuntimeConfig>,
    /// Endpoints by host-side device.
    pub endpoint: Map<u32, EndpointRow>,
    /// Endpoints by address.
    pub address: Map<IpKey, EndpointRow>,
    /// Host addresses.
    pub ipcache: Map<IpKey, IpcacheRow>,
    /// Prefixes.
    pub ipcache_cidr: Map<LpmKey, IpcacheRow>,
    /// Known identities.
    pub identity: Map<Identity, IdentityRow>,
    /// Policy set versions.
    pub policy_set: Map<u32, PolicySetRow>,
    /// Classes of identities in sets.
    pub class: Map<ClassKey, ClassRow>,
    /// Policy entries.
    pub policy: Map<PolicyKey, PolicyEntry>,
    /// IPv4 flows.
    pub ct4: Map<CtKey4, CtEntry>,
    /// IPv6 flows.
    pub ct6: Map<CtKey6, CtEntry>,
    /// Flows by owning endpoint.
    pub ct_count: Map<u32, u32>,
    /// Translations.
    pub nat: Map<NatKey, NatEntry>,
    /// Destinations towards which pods keep their address.
    pub nomasq: Map<LpmKey, u32>,
    /// Fragmented datagrams.
    pub fragment: Map<FragmentKey, FragmentPorts>,
    /// Counters by reason and direction.
    pub metrics: PerCpuArray<MetricsRow>,
    /// Events lost.
    pub lost: PerCpuArray<u64>,
}

impl Maps {
    /// The pinned maps under a bpffs root, for reading only; works whether or
    /// not the agent lives.
    ///
    /// # Errors
    /// [`MapError::Absent`], [`MapError::Layout`], [`MapError::Syscall`].
    pub fn open_readonly(bpf_root: &Path) -> Result<Self, MapError> {
        Err(MapError::Absent {
            map: "axon_config_v1",
            path: bpf_root.display().to_string(),
        })
    }

    /// How full the maps are that can fill up.
    pub fn pressure(&self) -> Vec<MapUse> {
        Vec::new()
    }
}

impl<K, V> Clone for Map<K, V> {
    fn clone(&self) -> Self {
        Self {
            fd: Arc::clone(&self.fd),
            layout: PhantomData,
            ..*self
        }
    }
}
