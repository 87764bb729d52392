//! What a release with other layouts of conntrack and NAT would bring: for
//! tests of upgrades only, behind the feature `next-layout`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::maps::CT_ENTRIES_MAX;
use crate::{
    Be16, CtEntry, CtKey4, CtKey6, Identity, IpKey, MapKind, MapSpec, Migration, NatEntry, NatKey,
};

/// [`CtEntry`] as `axon_ct4_v1` and `axon_ct6_v1` have it.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct CtEntryV1 {
    packets: [u64; 2],
    bytes: [u64; 2],
    source_identity: Identity,
    destination_identity: Identity,
    egress_set: u32,
    ingress_set: u32,
    epoch: u32,
    expires_s: u32,
    created_s: u32,
    reported_s: [u32; 2],
    owner: u16,
    tcp_flags: [u8; 2],
    state: u8,
    flags: u8,
    denied: u8,
    match_type: u8,
    rule: u32,
}

/// [`NatEntry`] as `axon_nat_v1` has it.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct NatEntryV1 {
    addr: IpKey,
    port: Be16,
    node_own: u16,
    seen_s: u32,
}

const fn from<K, V>(name: &'static str, max_entries: u32) -> MapSpec {
    MapSpec {
        name,
        kind: MapKind::LruHash,
        key_size: size_of::<K>() as u32,
        value_size: size_of::<V>() as u32,
        max_entries,
        sizable: true,
        on_demand: false,
    }
}

/// From the layouts of the present to those of this feature.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        from: from::<CtKey4, CtEntryV1>("axon_ct4_v1", CT_ENTRIES_MAX),
        to: "axon_ct4_v2",
        convert: flow,
    },
    Migration {
        from: from::<CtKey6, CtEntryV1>("axon_ct6_v1", CT_ENTRIES_MAX),
        to: "axon_ct6_v2",
        convert: flow,
    },
    Migration {
        from: from::<NatKey, NatEntryV1>("axon_nat_v1", CT_ENTRIES_MAX / 2),
        to: "axon_nat_v2",
        convert: translation,
    },
];

fn flow(key: &[u8], value: &[u8], new_key: &mut [u8], new_value: &mut [u8]) -> bool {
    let Ok(old) = CtEntryV1::read_from_bytes(value) else {
        return false;
    };
    let new = CtEntry {
        packets: old.packets,
        bytes: old.bytes,
        source_identity: old.source_identity,
        destination_identity: old.destination_identity,
        egress_set: old.egress_set,
        ingress_set: old.ingress_set,
        epoch: old.epoch,
        expires_s: old.expires_s,
        created_s: old.created_s,
        reported_s: old.reported_s,
        owner: old.owner,
        tcp_flags: old.tcp_flags,
        state: old.state,
        flags: old.flags,
        denied: old.denied,
        match_type: old.match_type,
        rule: old.rule,
    };
    write(key, new_key) && write(new.as_bytes(), new_value)
}

fn translation(key: &[u8], value: &[u8], new_key: &mut [u8], new_value: &mut [u8]) -> bool {
    let Ok(old) = NatEntryV1::read_from_bytes(value) else {
        return false;
    };
    let new = NatEntry {
        addr: old.addr,
        port: old.port,
        node_own: old.node_own,
        seen_s: old.seen_s,
    };
    write(key, new_key) && write(new.as_bytes(), new_value)
}

fn write(from: &[u8], to: &mut [u8]) -> bool {
    let alike = from.len() == to.len();
    if alike {
        to.copy_from_slice(from);
    }
    alike
}
