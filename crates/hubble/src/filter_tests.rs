use super::{Filter, FilterError, Query};
use crate::testing::{address, denied_syn, names, reply};
use crate::{Flow, Icmp, Ip, Layer4, Verdict, decode};

/// The flows of the test world: xwing's SYN denied, deathstar's answer traced.
fn flows() -> [Flow; 2] {
    [decode(&denied_syn(), &names()), decode(&reply(), &names())]
}

/// Keys with values, and which of the two flows they choose.
type Case = (&'static [(&'static str, &'static str)], [bool; 2]);

fn wanted(pairs: &[(&str, &str)]) -> [bool; 2] {
    let mut filter = Filter::default();
    for (key, value) in pairs {
        filter.add(key, value).expect(key);
    }
    flows().map(|flow| filter.matches(&flow))
}

#[test]
fn filters_choose() {
    let cases: &[Case] = &[
        (&[], [true, true]),
        (&[("type", "policy-verdict")], [true, false]),
        (&[("type", "trace")], [false, true]),
        (&[("type", "trace:to-endpoint")], [false, true]),
        (&[("type", "trace:to-stack")], [false, false]),
        (&[("type", "drop"), ("type", "trace")], [false, true]),
        (&[("verdict", "dropped")], [true, false]),
        (&[("verdict", "FORWARDED")], [false, true]),
        (&[("protocol", "tcp")], [true, true]),
        (&[("protocol", "icmp")], [false, false]),
        (&[("drop-reason", "POLICY_DENIED")], [true, false]),
        (&[("drop-reason", "policy denied")], [true, false]),
        (&[("drop-reason", "181")], [false, false]),
        (&[("direction", "ingress")], [true, true]),
        (&[("direction", "egress")], [false, false]),
        (&[("endpoint", "11")], [true, true]),
        (&[("from-endpoint", "11")], [true, false]),
        (&[("to-endpoint", "11")], [false, true]),
        (&[("identity", "1234")], [true, true]),
        (&[("to-identity", "5678")], [true, false]),
        (&[("identity", "world")], [false, false]),
        (&[("pod", "default/xwing")], [true, true]),
        (&[("pod", "xwi")], [true, true]),
        (&[("pod", "kube-system/xwing")], [false, false]),
        (&[("from-pod", "/death")], [false, true]),
        (&[("from-pod", "default/")], [true, true]),
        (&[("namespace", "default")], [true, true]),
        (&[("namespace", "defaul")], [false, false]),
        (&[("from-label", "org=alliance")], [true, false]),
        (&[("from-label", "k8s:org")], [true, true]),
        (&[("label", "any:org=empire")], [true, true]),
        (&[("label", "cni:org=empire")], [false, false]),
        (&[("ip", "10.0.0.0/24")], [true, true]),
        (&[("to-ip", "10.0.0.2")], [true, false]),
        (&[("ip", "fd00::/8")], [false, false]),
        (&[("to-port", "80")], [true, false]),
        (&[("port", "80")], [true, true]),
        // Keys of one flow may be of different sides.
        (&[("pod", "xwing"), ("port", "80")], [true, true]),
        (&[("from-pod", "xwing"), ("to-port", "80")], [true, false]),
    ];
    for (pairs, expected) in cases {
        assert_eq!(wanted(pairs), *expected, "{pairs:?}");
    }
}

#[test]
fn what_is_no_filter_is_refused_by_name() {
    for (key, value) in [
        ("type", "l7"),
        ("type", "drop:to-endpoint"),
        ("type", "trace:nowhere"),
        ("verdict", "maybe"),
        ("protocol", "quic"),
        ("drop-reason", "131"),
        ("direction", "up"),
        ("endpoint", "65536"),
        ("identity", "nobody"),
        ("pod", "/"),
        ("label", "=x"),
        ("ip", "10.0.0.0/33"),
        ("from-port", "-1"),
    ] {
        let error = Filter::default().add(key, value).expect_err(value);
        assert!(
            matches!(&error, FilterError::Value { key: k, value: v, .. } if k == key && v == value),
            "{error}"
        );
    }
    for key in ["", "colour", "from-verdict", "pods"] {
        let error = Filter::default().add(key, "x").expect_err(key);
        assert_eq!(
            error,
            FilterError::Key {
                key: key.to_owned()
            }
        );
    }
}

/// What a kernel sends by itself and is dropped, and what only looks like it.
#[test]
fn background_is_left_out_when_asked() {
    let [flow, _] = flows();
    let quiet = Query::parse([("background", "false")]).expect("query");
    let all = Query::parse([]).expect("query");
    for (name, source, destination, l4, background) in [
        ("MLD", "::", "ff02::16", Some(143), true),
        ("router search", "fe80::1", "ff02::2", Some(133), true),
        ("own address", "::", "ff02::1:ff00:2", Some(135), true),
        ("neighbour", "fd00::1", "ff02::1:ff00:2", Some(135), false),
        ("IGMP", "10.0.0.1", "224.0.0.22", None, true),
        ("group", "10.0.0.1", "239.1.1.1", None, false),
        ("echo", "fd00::1", "ff02::1", Some(128), false),
        ("to one", "fd00::1", "fd00::2", Some(143), false),
    ] {
        let ip = Ip {
            source: address(source),
            destination: address(destination),
            ..flow.ip.clone().expect("IP")
        };
        let l4 = l4.map(|icmp_type| Layer4::ICMPv6(Icmp { icmp_type, code: 0 }));
        let mut flow = Flow {
            verdict: Verdict::Dropped,
            ip: Some(ip),
            l4,
            ..flow.clone()
        };
        assert_eq!(quiet.filter.matches(&flow), !background, "{name}");
        assert!(all.filter.matches(&flow), "{name}");
        flow.verdict = Verdict::Forwarded;
        assert!(quiet.filter.matches(&flow), "{name} that passes");
    }
}

#[test]
fn a_query_asks_for_old_or_new_flows() {
    for (pairs, last, follow) in [
        (&[][..], 0, true),
        (&[("last", "5")], 5, false),
        (&[("last", "5"), ("follow", "true")], 5, true),
        (&[("follow", "false")], 0, false),
    ] {
        let query = Query::parse(pairs.iter().copied()).expect("query");
        assert_eq!((query.last, query.follow), (last, follow), "{pairs:?}");
    }
    assert!(Query::parse([("last", "-1")]).is_err());
}
