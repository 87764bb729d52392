//! Rules of `iptables-legacy`, which nf_tables does not know of.

use std::time::Instant;

use axon_linux::firewall::{ChainHook, ClosedChain, Family, Firewall, Tool};

use crate::common::{Node, root};
use crate::stage::{Stage, has, must, stage};

/// A stage, if the kernel still has these tables.
fn with(program: &str) -> Option<Stage> {
    root()?;
    if !has(program) {
        return None;
    }
    let stage = stage(program);
    let has_tables = stage.node.exec(program, &["-S"]).status.success();
    if !has_tables {
        eprintln!("skipped: needs a kernel with ip_tables");
    }
    has_tables.then_some(stage)
}

fn rules(node: &Node, program: &str, rules: &[&str]) {
    for rule in rules {
        let args: Vec<&str> = rule.split(' ').collect();
        must(node, &[&[program], &args[..]].concat());
    }
}

#[test]
fn chains_of_iptables_legacy_that_close_are_seen() {
    for (program, family) in [
        ("iptables-legacy", Family::Ipv4),
        ("ip6tables-legacy", Family::Ipv6),
    ] {
        let Some(stage) = with(program) else { continue };
        let set = |list: &[&str]| rules(&stage.node, program, list);
        assert_eq!(stage.firewall(), Firewall::default(), "{program}");
        set(&[
            "-P FORWARD DROP",
            "-A INPUT -i lxc0 -j ACCEPT",
            "-A INPUT -j REJECT",
            "-A OUTPUT -p tcp -j DROP",
            "-A OUTPUT -o lo -j DROP",
            "-N DOCKER-USER",
            "-t nat -N CNI-HOSTPORT-DNAT",
        ]);
        let chain = |chain: &str, hook, by_rule| ClosedChain {
            family,
            table: "filter".to_owned(),
            chain: chain.to_owned(),
            hook,
            devices: Vec::new(),
            tool: Tool::IptablesLegacy,
            by_rule,
            names_endpoints: false,
            rules_go_to: None,
        };
        let mut forward = chain("FORWARD", ChainHook::Forward, false);
        forward.rules_go_to = Some("DOCKER-USER".to_owned());
        let mut input = chain("INPUT", ChainHook::Input, true);
        let seen = stage.firewall();
        assert_eq!(seen.closed, [forward.clone(), input.clone()], "{program}");
        assert_eq!(seen.mappers, ["CNI's portmap"], "{program}");
        let late = stage.node.run(|| Firewall::ip_tables(Instant::now()));
        let late = late.expect_err("no time");
        assert_eq!(late.kind(), std::io::ErrorKind::TimedOut, "{program}");

        set(&["-I INPUT -i lxc+ -j ACCEPT"]);
        input.names_endpoints = true;
        assert_eq!(stage.firewall().closed, [forward.clone(), input.clone()]);
        set(&["-I DOCKER-USER ! -i lxc+ -j ACCEPT"]);
        assert_eq!(stage.firewall().closed, [forward.clone(), input.clone()]);
        set(&["-I DOCKER-USER -o lxc+ -p tcp -j ACCEPT"]);
        forward.names_endpoints = true;
        assert_eq!(stage.firewall().closed, [forward, input]);
    }
}
