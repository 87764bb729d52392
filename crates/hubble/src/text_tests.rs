use std::sync::Arc;

use axon_abi::{
    Direction, DropReason, EventFlags, EventKind, EventRecord, Identity, IpKey, ObservationPoint,
    TraceReason,
};

use super::{Style, line};
use crate::testing::{CIDR, address, denied_syn, names, reply};
use crate::{LostEvents, LostSource, Response, Time, decode};

fn text(record: &EventRecord) -> String {
    let response = Response::flow(Arc::new(decode(record, &names())));
    line(&response, Style::default())
}

#[test]
fn flows_read_as_hubble_prints_them() {
    let syn = denied_syn();
    let v6 = EventRecord {
        ip_version: 6,
        source: address("fd00::1").into(),
        destination: address("fd00::99").into(),
        destination_identity: Identity::WORLD_IPV6,
        ..reply()
    };
    let ping = EventRecord {
        protocol: 1,
        source_port: 0x0800.into(),
        ..denied_syn()
    };
    let cases = [
        (
            "default deny",
            syn,
            "Nov 20 17:30:00.123: default/xwing:41234 (ID:1234) -> default/deathstar-1:80 (ID:5678) \
             policy-verdict:none INGRESS DENIED (TCP Flags: SYN); no rule of default/rule1 allows it",
        ),
        (
            "its drop",
            EventRecord {
                kind: EventKind::Drop as u8,
                ..syn
            },
            "Nov 20 17:30:00.123: default/xwing:41234 (ID:1234) -> default/deathstar-1:80 (ID:5678) \
             Policy denied DROPPED (TCP Flags: SYN); no rule of default/rule1 allows it",
        ),
        (
            "deny rule",
            EventRecord {
                reason: DropReason::PolicyDeny as u8,
                rule: 4,
                match_type: 2,
                ..syn
            },
            "Nov 20 17:30:00.123: default/xwing:41234 (ID:1234) -> default/deathstar-1:80 (ID:5678) \
             policy-verdict:L3-L4 INGRESS DENIED (TCP Flags: SYN); denied by default/no-rebels [rebels]",
        ),
        (
            "its verdict",
            EventRecord {
                reason: DropReason::AuthRequired as u8,
                rule: 3,
                match_type: 2,
                ..syn
            },
            "Nov 20 17:30:00.123: default/xwing:41234 (ID:1234) -> default/deathstar-1:80 (ID:5678) \
             policy-verdict:L3-L4 INGRESS DENIED (TCP Flags: SYN; Auth: SPIRE); \
             default/rule1 demands authentication",
        ),
        (
            "a rule that demands authentication",
            EventRecord {
                kind: EventKind::Drop as u8,
                reason: DropReason::AuthRequired as u8,
                rule: 3,
                match_type: 2,
                ..syn
            },
            "Nov 20 17:30:00.123: default/xwing:41234 (ID:1234) -> default/deathstar-1:80 (ID:5678) \
             Authentication required DROPPED (TCP Flags: SYN); default/rule1 demands authentication",
        ),
        (
            "allowed by a rule",
            EventRecord {
                reason: 0,
                rule: 3,
                match_type: 2,
                ..syn
            },
            "Nov 20 17:30:00.123: default/xwing:41234 (ID:1234) -> default/deathstar-1:80 (ID:5678) \
             policy-verdict:L3-L4 INGRESS ALLOWED (TCP Flags: SYN); allowed by default/rule1",
        ),
        (
            "allowed, no policy",
            EventRecord {
                reason: 0,
                policy_set: 1,
                ..syn
            },
            "Nov 20 17:30:00.123: default/xwing:41234 (ID:1234) -> default/deathstar-1:80 (ID:5678) \
             policy-verdict:none INGRESS ALLOWED (TCP Flags: SYN)",
        ),
        (
            "audited",
            EventRecord {
                flags: EventFlags::REPLY_KNOWN | EventFlags::AUDIT,
                ..syn
            },
            "Nov 20 17:30:00.123: default/xwing:41234 (ID:1234) -> default/deathstar-1:80 (ID:5678) \
             policy-verdict:none INGRESS AUDITED (TCP Flags: SYN); no rule of default/rule1 allows it",
        ),
        (
            "a drop that policy has no part in",
            EventRecord {
                kind: EventKind::Drop as u8,
                reason: DropReason::InvalidSourceIp as u8,
                flags: 0,
                source: address("192.0.2.1").into(),
                source_identity: Identity::UNKNOWN,
                ..syn
            },
            "Nov 20 17:30:00.123: 192.0.2.1:41234 (unknown) <> default/deathstar-1:80 (ID:5678) \
             Invalid source ip DROPPED (TCP Flags: SYN)",
        ),
        (
            "a reply is shown in the direction of its flow",
            reply(),
            "Nov 20 17:30:00.123: default/xwing:41234 (ID:1234) <- default/deathstar-1:80 (ID:5678) \
             to-endpoint FORWARDED (TCP Flags: SYN, ACK)",
        ),
        (
            "IPv6 addresses have brackets beside ports",
            v6,
            "Nov 20 17:30:00.123: [fd00::99]:41234 (world-ipv6) <- default/xwing:80 (ID:5678) \
             to-endpoint FORWARDED (TCP Flags: SYN, ACK)",
        ),
        (
            "a prefix that policy names",
            EventRecord {
                destination_identity: Identity(CIDR),
                destination: address("198.51.100.7").into(),
                ..syn
            },
            "Nov 20 17:30:00.123: default/xwing:41234 (ID:1234) -> 198.51.100.7:80 (cidr:198.51.100.0/24) \
             policy-verdict:none INGRESS DENIED (TCP Flags: SYN); no rule of default/rule1 allows it",
        ),
        (
            "a prefix that no policy names any more",
            EventRecord {
                destination_identity: Identity(CIDR + 1),
                destination: address("198.51.100.7").into(),
                ..syn
            },
            "Nov 20 17:30:00.123: default/xwing:41234 (ID:1234) -> 198.51.100.7:80 (ID:16777218) \
             policy-verdict:none INGRESS DENIED (TCP Flags: SYN); no rule of default/rule1 allows it",
        ),
        (
            "received, and not judged yet",
            EventRecord {
                kind: EventKind::Trace as u8,
                reason: TraceReason::Unknown as u8,
                point: ObservationPoint::FromEndpoint as u8,
                direction: Direction::Egress as u8,
                destination_identity: Identity::UNKNOWN,
                flags: 0,
                policy_set: 0,
                ..syn
            },
            "Nov 20 17:30:00.123: default/xwing:41234 (ID:1234) <> default/deathstar-1:80 (unknown) \
             from-endpoint FORWARDED (TCP Flags: SYN)",
        ),
        (
            "ICMP has no ports",
            ping,
            "Nov 20 17:30:00.123: default/xwing (ID:1234) -> default/deathstar-1 (ID:5678) \
             policy-verdict:none INGRESS DENIED (ICMPv4 EchoRequest); no rule of default/rule1 allows it",
        ),
        (
            "numbers without a meaning",
            EventRecord {
                kind: EventKind::Drop as u8,
                reason: 250,
                protocol: 200,
                ..syn
            },
            "Nov 20 17:30:00.123: default/xwing (ID:1234) -> default/deathstar-1 (ID:5678) \
             unknown reason 250 DROPPED (IP protocol 200)",
        ),
        (
            "a frame that is no IP",
            EventRecord {
                kind: EventKind::Drop as u8,
                reason: DropReason::UnsupportedL3Protocol as u8,
                flags: 0,
                ip_version: 0,
                source: IpKey::UNSPECIFIED,
                destination: IpKey::UNSPECIFIED,
                source_mac: [2, 0, 0, 0, 0, 1],
                destination_mac: [255; 6],
                ethertype: 0x88cc.into(),
                ..syn
            },
            "Nov 20 17:30:00.123: 02:00:00:00:00:01 <> ff:ff:ff:ff:ff:ff \
             Unsupported L3 protocol DROPPED (EtherType 0x88cc)",
        ),
    ];
    for (name, record, expected) in cases {
        assert_eq!(text(&record), expected, "{name}");
    }
}

#[test]
fn styles() {
    let flow = Arc::new(decode(&denied_syn(), &names()));
    let response = Response::flow(flow);
    let style = Style {
        color: true,
        node: true,
        numeric: true,
    };
    assert_eq!(
        line(&response, style),
        "Nov 20 17:30:00.123 [n1]: \x1b[36m10.0.0.1\x1b[0m:\x1b[33m41234\x1b[0m (\x1b[35mID:1234\x1b[0m) -> \
         \x1b[36m10.0.0.2\x1b[0m:\x1b[33m80\x1b[0m (\x1b[35mID:5678\x1b[0m) policy-verdict:none INGRESS \
         \x1b[31mDENIED\x1b[0m (TCP Flags: SYN); no rule of default/rule1 allows it"
    );
    let lost = LostEvents {
        source: LostSource::PerfEventRingBuffer,
        num_events_lost: 3,
        ..LostEvents::default()
    };
    assert_eq!(
        line(
            &Response::lost(lost, "n1".into(), Time(0)),
            Style::default()
        ),
        "Jan  1 00:00:00.000: EVENTS LOST: 3 in the kernel's ring buffer"
    );
}

#[test]
fn no_name_rules_the_terminal() {
    let mut flow = decode(&denied_syn(), &names());
    flow.source.pod_name = "x\x1b[2J\u{9b}1m\r\nFORGED".into();
    flow.ingress_denied_by[0].name = "rule\x07".into();
    let text = line(&Response::flow(Arc::new(flow)), Style::default());
    assert!(!text.contains(char::is_control), "{text:?}");
    assert!(
        text.contains(r"default/x\u{1b}[2J\u{9b}1m\r\nFORGED:41234"),
        "{text}"
    );
}
