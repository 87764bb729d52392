//! A firewall on the node that closes.

use std::time::Instant;

use axon_abi::{ConfigFlags, IpKey};
use axon_linux::firewall::{ChainHook, Family, Firewall, Tool};

use crate::common::{self, Node, root};
use crate::stage::{NODE, Stage, address, has, ip, must, nft, reaches, silent, stage};

/// Nothing is forwarded, and nothing comes in but what neighbours need.
const CLOSED: &str = r#"
table inet firewall {
    chain forward { type filter hook forward priority 0; policy drop; }
    chain input {
        type filter hook input priority 0; policy drop;
        meta l4proto ipv6-icmp accept
    }
}
"#;

#[test]
fn a_firewall_that_forwards_nothing_stops_no_pod() {
    let Some(()) = root() else { return };
    let outside = Node::new("outside");
    let mut stage = stage("firewall");
    stage.node.run(|| common::veth::add("up0", 0, "up1", 1500));
    ip(
        &stage.node,
        &[
            &format!("link set up1 netns {}", outside.netns),
            "link set up0 up",
            "addr add 192.0.2.1/24 dev up0",
            "-6 addr add 2001:db8::1/64 dev up0 nodad",
        ],
    );
    ip(
        &outside,
        &[
            "link set up1 up",
            "addr add 192.0.2.254/24 dev up1",
            "-6 addr add 2001:db8::fe/64 dev up1 nodad",
        ],
    );
    let Stage { node, datapath, .. } = &mut stage;
    node.run(|| datapath.set_uplinks(&["up0".to_owned()]))
        .expect("an uplink");
    stage.desired.config.write(|txn| {
        if let Some(config) = txn.get(&0).map(|config| **config) {
            let masquerade = ConfigFlags::MASQUERADE_IPV4 | ConfigFlags::MASQUERADE_IPV6;
            let config = axon_abi::RuntimeConfig {
                flags: config.flags | masquerade,
                node_ipv6: IpKey::from(address(NODE[1])),
                ..config
            };
            txn.insert(0, config);
        }
    });
    let report = stage.reconciler.sync(1, &stage.desired);
    assert_eq!(report.failing_rows(), 0, "{report:?}");
    let goes_on = |by: &str| {
        let [a, b] = &stage.pods;
        for (one, other, out, own) in [
            ("10.7.0.1", "10.7.0.2", "192.0.2.254", NODE[0]),
            ("fd07::1", "fd07::2", "2001:db8::fe", NODE[1]),
        ] {
            assert_eq!(reaches(a, b, other), [address(one); 2], "{by}");
            assert_eq!(reaches(a, &outside, out), [address(own); 2], "{by}");
            silent(&outside, &stage.node, own);
        }
    };
    if has("nft") {
        nft(&stage.node, CLOSED);
        goes_on("nftables");
        nft(&stage.node, "flush ruleset");
    }
    if has("iptables") && has("ip6tables") {
        for (program, icmp) in [("iptables", "icmp"), ("ip6tables", "ipv6-icmp")] {
            for args in [
                &["-P", "FORWARD", "DROP"][..],
                &["-P", "INPUT", "DROP"],
                &["-A", "INPUT", "-p", icmp, "-j", "ACCEPT"],
            ] {
                must(&stage.node, &[&[program], args].concat());
            }
        }
        goes_on("iptables");
    }
}

/// Whatever is said of a chain that closes.
fn closed(stage: &Stage) -> Vec<(Family, String, ChainHook, Tool, bool, bool)> {
    let found = stage.firewall().closed.into_iter();
    let told = found.map(|c| {
        let name = format!("{} {}", c.table, c.chain);
        (c.family, name, c.hook, c.tool, c.by_rule, c.names_endpoints)
    });
    told.collect()
}

/// As firewalld ends its chains, and others that close nothing that is ours.
const MANY: &str = r#"
table inet late {
    chain forward {
        type filter hook forward priority 10; policy accept;
        ct state established accept
        jump more
        counter reject with icmpx admin-prohibited
    }
    chain more {
        jump most
    }
    chain most {
        oifname "lxc*" accept
    }
    chain input {
        type filter hook input priority 10; policy accept;
        iifname "lxc0" accept
        iifname != "lxc*" accept
        tcp dport 1 drop
    }
    chain output { type filter hook output priority 10; policy drop; oifname "lxc0" accept; }
    chain open { type filter hook input priority 11; policy drop; tcp dport 1 drop; counter accept; }
}
table inet asleep {
    flags dormant
    chain forward { type filter hook forward priority 0; policy drop; }
}
table bridge b {
    chain forward { type filter hook forward priority 0; policy drop; }
}
table netdev n {
    chain output { type filter hook egress device "lo" priority 0; policy drop; }
}
table ip cni_hostport { }
"#;

#[test]
fn chains_that_close_are_seen_and_others_are_not() {
    let Some(()) = root() else { return };
    if !has("nft") {
        return;
    }
    let stage = stage("seen");
    assert_eq!(stage.firewall(), Firewall::default());
    nft(&stage.node, MANY);
    let seen = |family, name: &str, hook, by_rule, names| {
        (family, name.to_owned(), hook, Tool::Nft, by_rule, names)
    };
    assert_eq!(
        closed(&stage),
        [
            seen(Family::Inet, "late forward", ChainHook::Forward, true, true),
            seen(Family::Inet, "late output", ChainHook::Output, false, false),
            seen(Family::Netdev, "n output", ChainHook::Egress, false, false),
        ]
    );
    let found = stage.firewall();
    assert_eq!(found.mappers, ["CNI's portmap"]);
    assert_eq!(found.closed[2].devices, ["lo"]);
    nft(&stage.node, "flush ruleset");
    assert_eq!(stage.firewall(), Firewall::default());
}

/// A chain of many rules is read in many pieces, and not beyond its time.
#[test]
fn a_large_firewall_is_read_whole_or_not_at_all() {
    let Some(()) = root() else { return };
    if !has("nft") {
        return;
    }
    let stage = stage("large");
    let mut rules =
        "table inet f { chain c { type filter hook forward priority 0; policy drop;\n".to_owned();
    for n in 0..3000 {
        rules.push_str(&format!("tcp dport {n} counter accept\n"));
    }
    rules.push_str("iifname \"lxc*\" accept\n}\n}");
    nft(&stage.node, &rules);
    let seen = stage.firewall().closed;
    assert!(
        matches!(&seen[..], [chain] if chain.names_endpoints),
        "{seen:?}"
    );
    let late = stage.node.run(|| Firewall::nf_tables(Instant::now()));
    let late = late.expect_err("no time");
    assert_eq!(late.kind(), std::io::ErrorKind::TimedOut);
}
