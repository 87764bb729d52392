use axon_abi::{Direction, EventFlags, EventKind, EventRecord, Identity};
use serde_json::json;

use super::decode;
use crate::testing::{address, denied_syn, names, reply};
use crate::{Flow, Verdict};

#[test]
fn json_has_hubbles_fields() {
    let flow = decode(&denied_syn(), &names());
    assert_eq!(
        serde_json::to_value(&flow).expect("json"),
        json!({
            "time": "2026-11-20T17:30:00.123000000Z",
            "uuid": flow.uuid.to_string(),
            "verdict": "DROPPED",
            "drop_reason": 133,
            "drop_reason_desc": "POLICY_DENIED",
            "IP": {"source": "10.0.0.1", "destination": "10.0.0.2", "ipVersion": "IPv4"},
            "l4": {"TCP": {"source_port": 41234, "destination_port": 80, "flags": {"SYN": true}}},
            "source": {
                "ID": 11, "identity": 1234, "namespace": "default", "pod_name": "xwing",
                "labels": ["k8s:class=xwing", "k8s:org=alliance"],
            },
            "destination": {
                "ID": 12, "identity": 5678, "namespace": "default", "pod_name": "deathstar-1",
                "labels": ["k8s:class=deathstar", "k8s:org=empire"],
            },
            "Type": "L3_L4",
            "node_name": "n1",
            "event_type": {"type": 5},
            "traffic_direction": "INGRESS",
            "is_reply": false,
            "interface": {"index": 7, "name": "axon0007"},
            "ingress_denied_by": [
                {"name": "rule1", "namespace": "default", "kind": "CiliumNetworkPolicy"}
            ],
            "Summary": "TCP Flags: SYN",
        })
    );
    let flow = serde_json::to_value(decode(&reply(), &names())).expect("json");
    assert_eq!(flow["verdict"], "FORWARDED");
    assert_eq!(flow["trace_observation_point"], "TO_ENDPOINT");
    assert_eq!(flow["trace_reason"], "REPLY");
    assert_eq!(flow["event_type"], json!({"type": 4}));
    assert_eq!(flow["is_reply"], true);
}

#[test]
fn flows_are_read_back() {
    for record in [denied_syn(), reply()] {
        let flow = decode(&record, &names());
        let text = serde_json::to_string(&flow).expect("json");
        assert_eq!(serde_json::from_str::<Flow>(&text).expect(&text), flow);
    }
}

#[test]
fn translated_sources_are_told_both() {
    let record = EventRecord {
        source: address("192.0.2.9").into(),
        source_before_nat: address("10.0.0.1").into(),
        ..denied_syn()
    };
    let flow = decode(&record, &names());
    let ip = flow.ip.expect("IP");
    assert_eq!(ip.source, address("10.0.0.1"));
    assert_eq!(ip.source_xlated, Some(address("192.0.2.9")));
    assert_eq!(&*flow.source.pod_name, "xwing");
}

/// The policies of the side that decided, and only of a drop by policy.
#[test]
fn policies_are_named_on_the_side_that_decided() {
    let egress = Direction::Egress as u8;
    for (name, record, counts) in [
        ("default deny", denied_syn(), [0, 1, 0, 0]),
        (
            "allow",
            EventRecord {
                reason: 0,
                rule: 3,
                ..denied_syn()
            },
            [1, 0, 0, 0],
        ),
        (
            "egress deny rule",
            EventRecord {
                reason: 181,
                rule: 4,
                direction: egress,
                ..denied_syn()
            },
            [0, 0, 0, 1],
        ),
        (
            "egress allow",
            EventRecord {
                reason: 0,
                rule: 3,
                direction: egress,
                ..denied_syn()
            },
            [0, 0, 1, 0],
        ),
        (
            "authentication",
            EventRecord {
                reason: 189,
                rule: 3,
                ..denied_syn()
            },
            [0, 1, 0, 0],
        ),
        (
            "a rule that is gone",
            EventRecord {
                rule: 99,
                ..denied_syn()
            },
            [0; 4],
        ),
        (
            "not policy",
            EventRecord {
                reason: 132,
                ..denied_syn()
            },
            [0; 4],
        ),
        (
            "no direction",
            EventRecord {
                direction: 0,
                ..denied_syn()
            },
            [0; 4],
        ),
    ] {
        let flow = decode(&record, &names());
        let seen = [
            flow.ingress_allowed_by.len(),
            flow.ingress_denied_by.len(),
            flow.egress_allowed_by.len(),
            flow.egress_denied_by.len(),
        ];
        assert_eq!(seen, counts, "{name}");
    }
}

/// Only verdicts say how the ends would have to prove who they are, as Hubble's.
#[test]
fn verdicts_tell_of_authentication() {
    let kinds = [EventKind::PolicyVerdict, EventKind::Drop].map(|kind| kind as u8);
    for (reason, flags, names_of) in [
        (189, 0, ["SPIRE", ""]),
        (189, EventFlags::AUTH_FAIL, ["TEST_ALWAYS_FAIL", ""]),
        (181, 0, ["", ""]),
        (0, 0, ["", ""]),
    ] {
        for (kind, expected) in kinds.into_iter().zip(names_of) {
            let record = EventRecord {
                kind,
                reason,
                flags,
                ..denied_syn()
            };
            let flow = decode(&record, &names());
            let json = serde_json::to_value(&flow).expect("json");
            let told = json["auth_type"].as_str().unwrap_or_default();
            assert_eq!(told, expected, "{kind} {reason} {flags}");
            assert_eq!(serde_json::from_value::<Flow>(json).expect("a flow"), flow);
        }
    }
}

#[test]
fn unknown_numbers_do_not_pass_as_something() {
    let flow = decode(
        &EventRecord {
            kind: 77,
            ..denied_syn()
        },
        &names(),
    );
    assert_eq!(flow.verdict, Verdict::VerdictUnknown);
    assert_eq!(flow.event_type.kind, 77);
    let reserved = EventRecord {
        source_identity: Identity::HOST,
        ..denied_syn()
    };
    assert_eq!(
        *decode(&reserved, &names()).source.labels,
        ["reserved:host"]
    );
    let told = EventRecord {
        reason: 181,
        rule: 4,
        ..denied_syn()
    };
    assert_eq!(decode(&told, &names()).policy_log, ["rebels".into()]);
    // The reporting endpoint has its number even where the address has no name.
    let nameless = EventRecord {
        destination: address("10.9.9.9").into(),
        ..denied_syn()
    };
    assert_eq!(decode(&nameless, &names()).destination.id, 12);
}
