//! Other container engines on the node, with the rules that they really leave:
//! `engines/` has what Docker and podman's netavark put into force, not made up.

use std::net::{IpAddr, SocketAddr};

use axon_abi::DropReason;
use axon_linux::firewall::{ChainHook, Tool};

use crate::common::{self, Node, root};
use crate::stage::{
    BRIDGE, NODE, PATIENCE, SILENCE, Stage, address, connect, feed, has, ip, must, nft, reaches,
    silent, stage, talk_by,
};

/// An engine with a container, whose port 80 is the node's port 8080.
struct Engine {
    name: &'static str,
    bridge: &'static str,
    container: [&'static str; 2],
    /// Command and what it reads.
    rules: &'static [([&'static str; 2], &'static str)],
    /// Whether whoever forwards to the container itself gets in.
    lets_in: bool,
}

const DOCKER_26: Engine = Engine {
    name: "docker26",
    bridge: "docker0",
    container: ["172.30.0.2", "fd30::242:ac1e:2"],
    rules: &[
        (
            ["iptables-restore", "-w"],
            include_str!("engines/docker-26.v4"),
        ),
        (
            ["ip6tables-restore", "-w"],
            include_str!("engines/docker-26.v6"),
        ),
    ],
    lets_in: false,
};
const DOCKER_28: Engine = Engine {
    name: "docker28",
    bridge: "docker0",
    container: ["172.30.0.2", "fd30::2"],
    rules: &[
        (
            ["iptables-restore", "-w"],
            include_str!("engines/docker-28.v4"),
        ),
        (
            ["ip6tables-restore", "-w"],
            include_str!("engines/docker-28.v6"),
        ),
    ],
    lets_in: false,
};
const NETAVARK: Engine = Engine {
    name: "netavark",
    bridge: "podman0",
    container: ["172.30.0.2", "fd30::2"],
    rules: &[(["nft", "-f-"], include_str!("engines/netavark-1.14.nft"))],
    lets_in: true,
};

impl Engine {
    /// The bridge on the node, with the container, and the rules.
    fn start(&self, node: &Node, container: &Node) {
        node.run(|| common::veth::add("ct0", 0, "ct1", 1500));
        let (bridge, [v4, v6]) = (self.bridge, self.container);
        ip(
            node,
            &[
                &format!("link add {bridge} type bridge"),
                &format!("link set ct1 netns {}", container.netns),
                &format!("link set ct0 master {bridge}"),
                "link set ct0 up",
                &format!("link set {bridge} up"),
                &format!("addr add 172.30.0.1/24 dev {bridge}"),
                &format!("-6 addr add fd30::1/64 dev {bridge} nodad"),
            ],
        );
        ip(
            container,
            &[
                "link set ct1 up",
                &format!("addr add {v4}/24 dev ct1"),
                &format!("-6 addr add {v6}/64 dev ct1 nodad"),
                "route add default via 172.30.0.1",
                "-6 route add default via fd30::1",
            ],
        );
        for (command, rules) in self.rules {
            feed(node, command, rules);
        }
    }
}

/// A stage with an engine; `None` without the programs that it takes.
fn with(engine: &Engine) -> Option<(Stage, Node)> {
    root()?;
    if !engine.rules.iter().all(|([program, _], _)| has(program)) {
        return None;
    }
    let container = Node::new(&format!("{}-container", engine.name));
    let stage = stage(engine.name);
    engine.start(&stage.node, &container);
    Some((stage, container))
}

/// Containers and pods reach each other as far as the engine's rules allow it
/// to anybody; policy of pods is in force.
fn live_together(engine: &Engine) {
    let Some((mut stage, container)) = with(engine) else {
        return;
    };
    let own: Vec<IpAddr> = [NODE, BRIDGE].concat().into_iter().map(address).collect();
    let ways = [("10.7.0.1", NODE[0]), ("fd07::1", NODE[1])];
    for ((pod, node), at) in ways.into_iter().zip(engine.container) {
        let came = reaches(&container, &stage.pods[0], pod);
        assert!(came.iter().all(|c| own.contains(c)), "translated: {came:?}");
        let published = [
            SocketAddr::new(address(node), 8080),
            SocketAddr::new(address(at), 80),
        ];
        let came = connect(&stage.pods[0], &container, published, PATIENCE);
        assert_eq!(came.expect("a published port"), address(pod));
        if engine.lets_in {
            // Untranslated, and the answers too, which their firewall has to know.
            let came = reaches(&stage.pods[0], &container, at);
            assert_eq!(came, [address(pod); 2]);
        } else {
            silent(&stage.pods[0], &container, at);
        }
    }
    assert_eq!(stage.drops(DropReason::InvalidSourceIp), 0);
    stage.close();
    for (pod, node) in ways {
        silent(&container, &stage.pods[0], pod);
        let came = reaches(&stage.node, &stage.pods[0], pod);
        assert!(came.iter().all(|c| c.is_ipv4() == address(node).is_ipv4()));
    }
    assert!(stage.drops(DropReason::PolicyDenied) > 0);
}

#[test]
fn containers_of_docker_and_pods_live_together() {
    live_together(&DOCKER_26);
}

#[test]
fn containers_of_docker_28_and_pods_live_together() {
    live_together(&DOCKER_28);
}

#[test]
fn containers_of_podman_and_pods_live_together() {
    live_together(&NETAVARK);
}

#[test]
fn what_docker_closes_is_seen_and_a_rule_in_its_own_chain_opens_it() {
    let Some((stage, container)) = with(&DOCKER_26) else {
        return;
    };
    let seen = stage.firewall();
    assert_eq!(seen.closed.len(), 2, "{seen:?}");
    for chain in &seen.closed {
        assert_eq!(
            (chain.table.as_str(), chain.chain.as_str()),
            ("filter", "FORWARD")
        );
        assert_eq!(
            (chain.hook, chain.tool),
            (ChainHook::Forward, Tool::Iptables)
        );
        assert_eq!(chain.rules_go_to.as_deref(), Some("DOCKER-USER"));
        assert!(!chain.names_endpoints && !chain.by_rule, "{chain:?}");
    }
    assert!(seen.mappers.is_empty(), "{seen:?}");
    for program in ["iptables", "ip6tables"] {
        must(
            &stage.node,
            &[program, "-I", "DOCKER-USER", "-i", "lxc+", "-j", "ACCEPT"],
        );
    }
    let seen = stage.firewall();
    assert!(seen.closed.iter().all(|c| c.names_endpoints), "{seen:?}");
    for at in DOCKER_26.container {
        reaches(&stage.pods[0], &container, at);
    }
}

/// As kube-proxy has a port of the node: here all of them lead to the first pod.
const MAPPED: &str = r#"
table inet mapped {
    chain prerouting {
        type nat hook prerouting priority -100;
        iifname "lxc*" ip daddr 192.0.2.1 dnat ip to 10.7.0.1
        iifname "lxc*" ip6 daddr 2001:db8::1 dnat ip6 to fd07::1
    }
    chain postrouting {
        type nat hook postrouting priority 100;
        iifname "lxc*" oifname "lxc*" masquerade
    }
}
"#;

#[test]
fn who_comes_by_a_port_of_the_node_is_not_the_node() {
    let Some(()) = root() else { return };
    if !has("nft") {
        return;
    }
    let mut stage = stage("mapped");
    nft(&stage.node, MAPPED);
    let ways = [(NODE[0], "10.7.0.1"), (NODE[1], "fd07::1")];
    for way in ways.map(<[&str; 2]>::from) {
        let [a, b] = &stage.pods;
        let came = talk_by(b, a, way, PATIENCE).unwrap_or_else(|error| panic!("{way:?}: {error}"));
        assert!(!came.contains(&address("10.7.0.2")), "translated: {came:?}");
        assert!(!came.contains(&address("fd07::2")), "translated: {came:?}");
    }
    stage.close();
    for way in ways.map(<[&str; 2]>::from) {
        let [a, b] = &stage.pods;
        let came = talk_by(b, a, way, SILENCE);
        assert!(came.is_err(), "{way:?}: {came:?}");
        reaches(&stage.node, a, way[1]);
    }
    assert!(stage.drops(DropReason::PolicyDenied) > 0);
}
