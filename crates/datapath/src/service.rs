//! From an address that is a service's to one of its backends.
//!
//! ```text
//! who asks, for what ─> frontend ─> scope ─> source ranges ─> affinity ─┬─> backend
//!                                                             Maglev ───┤
//!                                                             random ───┘
//! ```
//!
//! The same code serves sockets, packets, and what only explains them.

use axon_abi::{
    AffinityEntry, Backend, BackendFlags, BackendState, Be16, DropReason, FrontendKind, IpKey,
    LIST_BLOCK_SLOTS, ListBlock, ListKey, ListRef, MAGLEV_BLOCK_SLOTS, MaglevBlock, MaglevKey,
    ServiceClient, ServiceEntry, ServiceFlags, ServiceKey, SourceRangeKey,
};

use crate::header::protocol;
use crate::maglev::{HashSeeds, hash};

/// What the choice of a backend asks and writes.
pub trait ServiceTables {
    /// What listens there.
    fn service(&self, key: &ServiceKey) -> Option<&ServiceEntry>;
    /// A block of a list.
    fn list_block(&self, key: &ListKey) -> Option<&ListBlock>;
    /// A block of a Maglev table.
    fn maglev_block(&self, key: &MaglevKey) -> Option<&MaglevBlock>;
    /// A backend.
    fn backend(&self, id: u32) -> Option<&Backend>;
    /// Whether a prefix holds the address.
    fn source_range(&self, key: &SourceRangeKey) -> bool;
    /// Whether a client is one that passes by a redirection.
    fn skips(&self, client: &ServiceClient) -> bool;
    /// Where a client went last.
    fn affinity(&self, client: &ServiceClient) -> Option<AffinityEntry>;
    /// Remembers it; that there is no room is no reason to refuse a client.
    fn affinity_insert(&self, client: &ServiceClient, entry: &AffinityEntry);
    /// Whether an address is some node's.
    fn is_node(&self, addr: &IpKey) -> bool;
    /// A random number.
    fn random(&self) -> u32;
    /// Seconds of the monotonic clock.
    fn now_s(&self) -> u32;
    /// How Maglev hashes flows; alike on all nodes.
    fn hash_seeds(&self) -> HashSeeds {
        HashSeeds::DEFAULT
    }
}

/// The tables of who has no services.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoServices;

impl ServiceTables for NoServices {
    fn service(&self, _: &ServiceKey) -> Option<&ServiceEntry> {
        None
    }
    fn list_block(&self, _: &ListKey) -> Option<&ListBlock> {
        None
    }
    fn maglev_block(&self, _: &MaglevKey) -> Option<&MaglevBlock> {
        None
    }
    fn backend(&self, _: u32) -> Option<&Backend> {
        None
    }
    fn source_range(&self, _: &SourceRangeKey) -> bool {
        false
    }
    fn skips(&self, _: &ServiceClient) -> bool {
        false
    }
    fn affinity(&self, _: &ServiceClient) -> Option<AffinityEntry> {
        None
    }
    fn affinity_insert(&self, _: &ServiceClient, _: &AffinityEntry) {}
    fn is_node(&self, _: &IpKey) -> bool {
        false
    }
    fn random(&self) -> u32 {
        0
    }
    fn now_s(&self) -> u32 {
        0
    }
}

/// Where somebody stands who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asker {
    /// In a pod of this node.
    #[default]
    Pod,
    /// In the node's own network namespace.
    Node,
    /// Beyond the node's devices.
    Network,
}

impl Asker {
    /// Whether the internal lists are for him.
    #[inline(always)]
    const fn is_inside(self) -> bool {
        matches!(self, Self::Pod | Self::Node)
    }
}

/// Somebody wants to speak to an address.
// The addresses begin at whole words: the kernel lets no program write a word to its stack elsewhere.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// The address.
    pub addr: IpKey,
    /// Who he is to affinity: his address, or the cookie of his namespace.
    pub client: IpKey,
    /// His address, as far as it is known.
    pub source: IpKey,
    /// The port.
    pub port: Be16,
    /// His port, as far as it is known.
    pub source_port: Be16,
    /// IP protocol number.
    pub protocol: u8,
    /// Where he stands.
    pub asker: Asker,
}

/// What becomes of it.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The address is no service's: it is what it is.
    Elsewhere,
    /// The address is a service's, the port is not: it is refused, and goes no
    /// further.
    Closed,
    /// Nobody is behind the frontend: it is refused at once.
    Refused,
    /// To a backend.
    Backend(Choice),
}

/// The backend that was chosen.
// As for `Ask`, parts begin at whole words.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Who that is.
    pub backend: Backend,
    /// Its id.
    pub id: u32,
    /// The port of a service that it is a backend of.
    pub service: u32,
    /// The frontend's generation.
    pub generation: u32,
    /// Why it is this one.
    pub by: Why,
}

impl Choice {
    /// Makes it one of a backend, asked for by a frontend.
    #[inline(always)]
    pub(crate) fn take(&mut self, backend: &Backend, id: u32, frontend: &Frontend, by: Why) {
        self.backend = *backend;
        self.id = id;
        self.service = backend.service;
        self.generation = frontend.entry.generation;
        self.by = by;
    }
}

/// Why it is this backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Why {
    /// The client was there before.
    Affinity,
    /// The flow's hash.
    Maglev,
    /// By chance.
    #[default]
    Random,
    /// The same socket's datagrams before it went there.
    Earlier,
    /// The same, though the service has changed since.
    Kept,
}

/// A frontend, seen by who asks.
// As for `Ask`, parts begin at whole words. What is filled at once ends with half of one: else the
// compiler fills its end twice, from the middle of a word.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frontend {
    /// The list that is for who asks.
    pub list: ListRef,
    /// Whether it is the list for the network.
    pub is_external: bool,
    /// Zero.
    pub pad: [u8; 3],
    /// Its row.
    pub entry: ServiceEntry,
}

/// Finds the frontend that somebody asks for.
///
/// The row of the address comes first; then, from inside, the node port of any
/// node; then the address as a whole.
#[inline(always)]
pub fn frontend<T: ServiceTables>(tables: &T, ask: &Ask) -> Option<Frontend> {
    let mut found = Frontend::default();
    find_frontend(tables, ask, &mut found).then_some(found)
}

/// As [`frontend`], into memory that is there: a copy would take half the stack
/// that the kernel gives a program.
#[inline(always)]
pub(crate) fn find_frontend<T: ServiceTables>(tables: &T, ask: &Ask, found: &mut Frontend) -> bool {
    let is_inside = ask.asker.is_inside();
    let mut key = ServiceKey {
        addr: ask.addr,
        port: ask.port,
        protocol: ask.protocol,
        pad: 0,
    };
    let mut entry = tables.service(&key);
    let is_exact = entry.is_some();
    let mut is_any_node = false;
    if entry.is_none() && is_inside && on_any_node(tables, ask.asker, &ask.addr) {
        key.addr = if ask.addr.is_v4() {
            IpKey::from_v4([0; 4])
        } else {
            IpKey::UNSPECIFIED
        };
        entry = tables.service(&key);
        is_any_node = entry.is_some();
    }
    if entry.is_none() {
        key.addr = ask.addr;
        key.port = Be16::ZERO;
        key.protocol = 0;
        entry = tables.service(&key);
    }
    let Some(entry) = entry else {
        return false;
    };
    // To who asks from inside the address is what it is without the service.
    if is_inside && !is_any_node && entry.has(ServiceFlags::CLOSED_INSIDE) {
        return false;
    }
    let passes_by = passes_by(tables, ask, entry);
    if is_exact && passes_by && entry.has(ServiceFlags::SKIP_AWAY) {
        return false;
    }
    found.is_external = !is_inside || (passes_by && entry.has(ServiceFlags::SKIP_OWN));
    found.list = if found.is_external {
        entry.external
    } else {
        entry.internal
    };
    found.entry = *entry;
    true
}

/// Chooses a backend, or tells what else becomes of who asks.
///
/// # Errors
/// The reason why it is dropped without an answer.
#[inline(always)]
pub fn select<T: ServiceTables>(tables: &T, ask: &Ask) -> Result<Answer, DropReason> {
    let Some(frontend) = frontend(tables, ask) else {
        return Ok(Answer::Elsewhere);
    };
    select_of(tables, ask, &frontend)
}

/// As [`select`], for a frontend that was found.
///
/// # Errors
/// The reason why it is dropped without an answer.
#[inline(always)]
pub fn select_of<T: ServiceTables>(
    tables: &T,
    ask: &Ask,
    frontend: &Frontend,
) -> Result<Answer, DropReason> {
    if frontend.entry.kind() == Some(FrontendKind::Address) {
        return Ok(Answer::Closed);
    }
    let Some((id, by)) = select_id(tables, ask, frontend)? else {
        return Ok(Answer::Refused);
    };
    let mut choice = Choice::default();
    choice.take(found(tables, id)?, id, frontend, by);
    Ok(Answer::Backend(choice))
}

/// As [`select_of`], for a frontend that has a port: the backend's id, or `None` if
/// nobody is behind it. Copies no row: the kernel gives programs little stack.
///
/// # Errors
/// The reason why it is dropped without an answer.
#[inline(always)]
pub(crate) fn select_id<T: ServiceTables>(
    tables: &T,
    ask: &Ask,
    frontend: &Frontend,
) -> Result<Option<(u32, Why)>, DropReason> {
    readmitted(tables, ask, frontend)?;
    let (entry, list) = (&frontend.entry, &frontend.list);
    if list.list != 0 && list.slots != 0 {
        return choose(tables, ask, frontend).map(Some);
    }
    let drops = if ask.asker.is_inside() {
        ServiceFlags::DROP_INSIDE
    } else {
        ServiceFlags::DROP_OUTSIDE
    };
    if entry.has(drops) {
        Err(DropReason::ServiceBackendNotFound)
    } else {
        Ok(None)
    }
}

/// Whether who has asked before may go on asking.
///
/// # Errors
/// The reason why not.
#[inline(always)]
pub(crate) fn readmitted<T: ServiceTables>(
    tables: &T,
    ask: &Ask,
    frontend: &Frontend,
) -> Result<(), DropReason> {
    let entry = &frontend.entry;
    if ask.asker != Asker::Network {
        Ok(())
    } else if entry.has(ServiceFlags::CLOSED_OUTSIDE) {
        Err(DropReason::IsAClusterip)
    } else if admitted(tables, ask, entry) {
        Ok(())
    } else {
        Err(DropReason::SourceRangeDenied)
    }
}

/// Whether a backend that was chosen before may go on: it is still the
/// service's, and nobody else has come under its id.
#[inline(always)]
pub fn still_valid<T: ServiceTables>(tables: &T, choice: &Choice) -> bool {
    tables.backend(choice.id).is_some_and(|now| {
        now.service == choice.service && now.generation == choice.backend.generation
    })
}

/// Whether a backend sees the address of who asks from the network: it is on this
/// node, or it answers him itself.
#[inline(always)]
pub fn keeps_client(ask: &Ask, frontend: &Frontend, choice: &Choice) -> bool {
    let answers = if ask.protocol == protocol::TCP {
        ServiceFlags::DSR_TCP
    } else {
        ServiceFlags::DSR_OTHER
    };
    choice.backend.flags & BackendFlags::LOCAL != 0 || frontend.entry.has(answers)
}

/// Whether the address is the node's own, for the node itself, or some node's.
#[inline(always)]
pub(crate) fn on_any_node<T: ServiceTables>(tables: &T, asker: Asker, addr: &IpKey) -> bool {
    (asker == Asker::Node && is_loopback(addr)) || tables.is_node(addr)
}

#[inline(always)]
fn is_loopback(addr: &IpKey) -> bool {
    const V6: IpKey = IpKey([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    match addr.to_v4() {
        Some([first, ..]) => first == 127,
        None => *addr == V6,
    }
}

/// Whether a redirection is not for who asks.
#[inline(never)]
fn passes_by<T: ServiceTables>(tables: &T, ask: &Ask, entry: &ServiceEntry) -> bool {
    entry.flags & (ServiceFlags::SKIP_OWN | ServiceFlags::SKIP_AWAY) != 0
        && tables.skips(&ServiceClient {
            client: ask.client,
            service: entry.service,
            external: 0,
        })
}

/// Whether the source ranges let the client in.
#[inline(always)]
fn admitted<T: ServiceTables>(tables: &T, ask: &Ask, entry: &ServiceEntry) -> bool {
    if !entry.has(ServiceFlags::SOURCE_RANGES) {
        return true;
    }
    let named = tables.source_range(&SourceRangeKey::host(entry.service, ask.source));
    named != entry.has(ServiceFlags::SOURCE_DENY)
}

#[inline(always)]
fn choose<T: ServiceTables>(
    tables: &T,
    ask: &Ask,
    frontend: &Frontend,
) -> Result<(u32, Why), DropReason> {
    let entry = &frontend.entry;
    if !entry.has(ServiceFlags::AFFINITY) {
        return fresh(tables, ask, frontend);
    }
    let client = ServiceClient {
        client: ask.client,
        service: entry.service,
        external: u32::from(frontend.is_external),
    };
    let now = tables.now_s();
    let (id, by) = match tables.affinity(&client) {
        Some(before)
            if now.wrapping_sub(before.last_s) <= entry.affinity_timeout_s
                && takes_again(tables, ask, frontend, before.backend) =>
        {
            (before.backend, Why::Affinity)
        }
        _ => fresh(tables, ask, frontend)?,
    };
    let entry = AffinityEntry {
        backend: id,
        last_s: now,
    };
    tables.affinity_insert(&client, &entry);
    Ok((id, by))
}

/// Whether a client may go again where it went last.
// No closure: it would be a function of its own in the kernel, with a frame on the stack.
#[inline(always)]
fn takes_again<T: ServiceTables>(tables: &T, ask: &Ask, frontend: &Frontend, id: u32) -> bool {
    let Some(backend) = tables.backend(id) else {
        return false;
    };
    // Both families of a client may be one to affinity.
    backend.service == frontend.entry.service
        && backend.addr.is_v4() == ask.addr.is_v4()
        && takes_new(backend, frontend)
}

/// Whether a backend is in the list that is asked, and not held back.
#[inline(always)]
fn takes_new(backend: &Backend, frontend: &Frontend) -> bool {
    let listed = if frontend.is_external {
        BackendFlags::IN_EXTERNAL
    } else {
        BackendFlags::IN_INTERNAL
    };
    let held_back = [BackendState::Quarantined, BackendState::Maintenance].map(|state| state as u8);
    backend.flags & listed != 0 && !held_back.contains(&backend.state)
}

/// A backend that no earlier choice binds.
#[inline(always)]
fn fresh<T: ServiceTables>(
    tables: &T,
    ask: &Ask,
    frontend: &Frontend,
) -> Result<(u32, Why), DropReason> {
    let list = &frontend.list;
    // From inside each connection is told apart by its socket, not by a hash:
    // nobody else has to come to the same choice.
    let is_hashed = list.maglev != 0 && ask.asker == Asker::Network;
    // The divisors lie in memory, where the compiler does not trust a check made before.
    if is_hashed
        && let Some(at) = hash(ask, &tables.hash_seeds()).checked_rem(frontend.entry.maglev_slots)
    {
        let key = MaglevKey {
            table: list.maglev,
            block: at / MAGLEV_BLOCK_SLOTS,
        };
        let block = tables.maglev_block(&key);
        let slot = block.and_then(|block| block.slots.get((at % MAGLEV_BLOCK_SLOTS) as usize));
        let slot = slot.ok_or(DropReason::ServiceBackendNotFound)?;
        return slot_of(tables, list, u32::from(*slot)).map(|id| (id, Why::Maglev));
    }
    let slot = tables.random().checked_rem(list.slots);
    let slot = slot.ok_or(DropReason::ServiceBackendNotFound)?;
    slot_of(tables, list, slot).map(|id| (id, Why::Random))
}

/// The backend id in a slot of a list.
#[inline(always)]
fn slot_of<T: ServiceTables>(tables: &T, list: &ListRef, slot: u32) -> Result<u32, DropReason> {
    let key = ListKey {
        list: list.list,
        block: slot / LIST_BLOCK_SLOTS,
    };
    let block = tables.list_block(&key);
    let id = block.and_then(|block| block.backends.get((slot % LIST_BLOCK_SLOTS) as usize));
    id.copied().ok_or(DropReason::ServiceBackendNotFound)
}

#[inline(always)]
pub(crate) fn found<T: ServiceTables>(tables: &T, id: u32) -> Result<&Backend, DropReason> {
    tables.backend(id).ok_or(DropReason::ServiceBackendNotFound)
}
