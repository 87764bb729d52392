//! A small world of names, and records in it, for this crate's tests.

use std::net::IpAddr;

use axon_abi::{
    Direction, DropReason, EventFlags, EventKind, EventRecord, Identity, MatchType,
    ObservationPoint, TraceReason,
};

use crate::{EndpointName, NameTable, Policy};

pub(crate) const XWING: u32 = 1234;
pub(crate) const DEATHSTAR: u32 = 5678;
/// A prefix's.
pub(crate) const CIDR: u32 = Identity::LOCAL_MIN.0 + 1;

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("address")
}

pub(crate) fn policy(name: &str) -> Policy {
    Policy {
        name: name.into(),
        namespace: "default".into(),
        kind: "CiliumNetworkPolicy".into(),
        ..Policy::default()
    }
}

/// xwing and deathstar-1, of this node, in both families; set 9 enforces
/// ingress by rule1, whose rule 3 allows; rule 4 of `no-rebels` denies.
pub(crate) fn names() -> NameTable {
    let mut names = NameTable {
        node: "n1".into(),
        // Nov 20 17:30:00 2026.
        monotonic_zero_ns: 1_795_195_800_000_000_000,
        ..NameTable::default()
    };
    for (identity, labels) in [
        (XWING, ["k8s:class=xwing", "k8s:org=alliance"]),
        (DEATHSTAR, ["k8s:class=deathstar", "k8s:org=empire"]),
        (CIDR, ["cidr:198.51.100.0/24", "reserved:world-ipv4"]),
    ] {
        let labels = labels.iter().map(|l| (*l).to_owned()).collect();
        names.labels.insert(Identity(identity), labels);
    }
    for (ip, id, pod) in [
        ("10.0.0.1", 11, "xwing"),
        ("10.0.0.2", 12, "deathstar-1"),
        ("fd00::1", 11, "xwing"),
        ("fd00::2", 12, "deathstar-1"),
    ] {
        let name = EndpointName {
            id,
            namespace: "default".into(),
            pod_name: pod.into(),
        };
        names.endpoints.insert(address(ip), name);
    }
    names.rules.insert(3, policy("rule1"));
    names.rules.insert(4, policy("no-rebels"));
    names.logs.insert(4, "rebels".into());
    names.sets.insert(9, [[policy("rule1")].into(), [].into()]);
    names.interfaces.insert(7, "axon0007".into());
    names
}

/// xwing's SYN to deathstar's port 80 as deathstar's policy denied it.
pub(crate) fn denied_syn() -> EventRecord {
    EventRecord {
        time_ns: 123_000_000,
        kind: EventKind::PolicyVerdict as u8,
        reason: DropReason::PolicyDenied as u8,
        direction: Direction::Ingress as u8,
        ip_version: 4,
        protocol: 6,
        tcp_flags: 2,
        match_type: MatchType::None as u8,
        flags: EventFlags::REPLY_KNOWN,
        endpoint: 12,
        ifindex: 7,
        source_identity: Identity(XWING),
        destination_identity: Identity(DEATHSTAR),
        policy_set: 9,
        source_port: 41234.into(),
        destination_port: 80.into(),
        ethertype: 0x0800.into(),
        source: address("10.0.0.1").into(),
        destination: address("10.0.0.2").into(),
        ..EventRecord::default()
    }
}

/// deathstar's answer, delivered to xwing.
pub(crate) fn reply() -> EventRecord {
    EventRecord {
        kind: EventKind::Trace as u8,
        reason: TraceReason::Reply as u8,
        point: ObservationPoint::ToEndpoint as u8,
        direction: Direction::Ingress as u8,
        tcp_flags: 0x12,
        flags: EventFlags::REPLY_KNOWN | EventFlags::REPLY,
        endpoint: 11,
        source_identity: Identity(DEATHSTAR),
        destination_identity: Identity(XWING),
        policy_set: 0,
        source_port: 80.into(),
        destination_port: 41234.into(),
        source: address("10.0.0.2").into(),
        destination: address("10.0.0.1").into(),
        ..denied_syn()
    }
}
