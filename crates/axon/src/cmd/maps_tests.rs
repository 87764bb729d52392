use axon_abi::{
    CtEntry, CtKey4, CtState, Direction, DropReason, Identity, IpcacheRow, NatEntry, NatKey,
    RuntimeConfig,
};
use axon_api::maps::{
    ConfigMapRow, CtMapRow, EndpointMapRow, IpcacheMapRow, MetricsMapRow, NatMapRow,
    PolicyMapEntry, PolicyMapSet,
};
use std::net::IpAddr;

fn address(text: &str) -> IpAddr {
    text.parse().expect("address")
}

#[test]
fn endpoints_and_addresses() {
    let rows = [
        EndpointMapRow {
            id: 12,
            pod: "default/xwing".to_owned(),
            interface: "axon000c".to_owned(),
            identity: 300,
            policy_set: 2,
            ipv4: Some([10, 0, 0, 1].into()),
            audit: true,
            ..EndpointMapRow::default()
        },
        EndpointMapRow {
            id: 13,
            ifindex: 7,
            identity: 5,
            ..EndpointMapRow::default()
        },
    ];
    assert_eq!(
        super::endpoints(&rows),
        "\
ENDPOINT  POD            IDENTITY  SET  IPV4      IPV6  DEVICE    MAC                FLAGS
12        default/xwing  300       2    10.0.0.1  -     axon000c  00:00:00:00:00:00  audit
13        -              5 (init)  0    -         -     index 7   00:00:00:00:00:00  -
"
    );
    let row = |identity, node| IpcacheRow {
        identity: Identity(identity),
        flags: 0,
        node,
    };
    let rows = [
        IpcacheMapRow::new(
            address("10.1.0.0").into(),
            112,
            &row(9, axon_abi::IpKey::UNSPECIFIED),
        ),
        IpcacheMapRow::new(
            address("fd00::1").into(),
            128,
            &row(300, address("192.0.2.1").into()),
        ),
    ];
    assert_eq!(
        super::ipcache(&rows),
        "\
CIDR         IDENTITY        POD  NODE
10.1.0.0/16  9 (world-ipv4)  -    -
fd00::1/128  300             -    192.0.2.1
"
    );
}

#[test]
fn policy_sets() {
    let entry = PolicyMapEntry {
        direction: "ingress".to_owned(),
        remote: "identities".to_owned(),
        identities: vec![1, 300],
        protocol: "tcp".to_owned(),
        port: "80".to_owned(),
        action: "deny".to_owned(),
        auth: "required".to_owned(),
        precedence: 9,
        rule: 4,
        policy: String::new(),
    };
    let sets = [
        PolicyMapSet {
            set: 1,
            ..PolicyMapSet::default()
        },
        PolicyMapSet {
            set: 2,
            endpoints: vec![12, 13],
            default_deny_ingress: true,
            entries: vec![entry],
            ..PolicyMapSet::default()
        },
    ];
    assert_eq!(
        super::policy(&sets),
        "\
Set 1, endpoints -; by default ingress is allowed, egress allowed

Set 2, endpoints 12, 13; by default ingress is denied, egress allowed
DIRECTION  REMOTE         PROTOCOL  PORT  ACTION                          PRECEDENCE  POLICY
ingress    1 (host), 300  tcp       80    deny (authentication required)  9           rule 4
"
    );
}

#[test]
fn flows_and_translations() {
    let key = CtKey4 {
        low: [10, 0, 0, 1],
        high: [10, 0, 0, 2],
        low_port: 80.into(),
        high_port: 41234.into(),
        protocol: 6,
        pad: [0; 3],
    };
    let entry = CtEntry {
        packets: [3, 2],
        bytes: [300, 200],
        source_identity: Identity(300),
        destination_identity: Identity(301),
        state: CtState::Closing as u8,
        expires_s: 110,
        ..CtEntry::default()
    };
    assert_eq!(
        super::conntrack(&[CtMapRow::v4(&key, &entry, 100)]),
        "\
PROTO  SOURCE          DESTINATION  STATE    IDENTITIES  PACKETS  BYTES    EXPIRES  POLICY
tcp    10.0.0.2:41234  10.0.0.1:80  closing  300 > 301   3/2      300/200  10 s     -
"
    );
    let key = NatKey {
        source: address("fd00::1").into(),
        destination: address("2001:db8::1").into(),
        source_port: 1000.into(),
        destination_port: 443.into(),
        protocol: 17,
        ..NatKey::default()
    };
    let entry = NatEntry {
        addr: address("2001:db8::2").into(),
        port: 40000.into(),
        node_own: 0,
        seen_s: 95,
    };
    assert_eq!(
        super::nat(&[NatMapRow::new(&key, &entry, 100)]),
        "\
WAY  PROTO  SOURCE          DESTINATION        BECOMES                     IDLE
out  udp    [fd00::1]:1000  [2001:db8::1]:443  source [2001:db8::2]:40000  5 s
"
    );
}

#[test]
fn counters_and_settings() {
    let denied = DropReason::PolicyDenied as u8;
    let rows = [
        MetricsMapRow::new(0, Direction::Egress, 5, 500),
        MetricsMapRow::new(denied, Direction::Ingress, 1, 74),
    ];
    assert_eq!(
        super::metrics(&rows),
        "\
REASON         DIRECTION  PACKETS  BYTES
Success        EGRESS     5        500
Policy denied  INGRESS    1        74
"
    );
    let config = RuntimeConfig {
        flags: axon_abi::ConfigFlags::IPV4,
        mtu: 1500,
        ..RuntimeConfig::default()
    };
    let text = super::config(&[ConfigMapRow::new(1, &config)]);
    assert!(text.contains("flags                    ipv4\n"), "{text}");
    assert!(
        text.contains("conntrack quota          no limit\n"),
        "{text}"
    );
}
