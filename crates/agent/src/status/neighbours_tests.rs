//! What is said of firewalls and programs of others.

use axon_api::agent::State;
use axon_linux::firewall::{ChainHook, ClosedChain, Family, Firewall, Tool};
use axon_linux::{Hanging, OtherProgram, Standing};

use super::Seen;

fn chain(family: Family, hook: ChainHook) -> ClosedChain {
    ClosedChain {
        family,
        table: "fw".to_owned(),
        chain: "c".to_owned(),
        hook,
        devices: Vec::new(),
        tool: Tool::Nft,
        by_rule: false,
        names_endpoints: false,
        rules_go_to: None,
    }
}

fn seen(closed: Vec<ClosedChain>) -> Seen {
    let mappers = Vec::new();
    Seen {
        programs: Ok(Vec::new()),
        firewalls: [
            ("ip_tables", Ok(Firewall::default())),
            ("nf_tables", Ok(Firewall { closed, mappers })),
        ],
        beyond: Ok(Vec::new()),
        uplinks: vec!["up0".to_owned()],
        ipv4: true,
        ipv6: true,
    }
}

fn at(device: &str, hook: ChainHook) -> ClosedChain {
    let mut chain = chain(Family::Netdev, hook);
    chain.devices.push(device.to_owned());
    chain
}

#[test]
fn a_chain_is_wrong_where_traffic_of_pods_passes_it_and_nobody_thought_of_them() {
    use ChainHook::{Egress, Forward, Ingress, Input, Output};
    let beyond = |mut seen: Seen| {
        seen.beyond = Ok(vec!["br0".to_owned()]);
        seen
    };
    let mapped = |mut seen: Seen| {
        let firewall = &mut seen.firewalls[0].1;
        let firewall = firewall.as_mut().expect("known");
        firewall.mappers.push("CNI's portmap");
        seen
    };
    let named = |mut chain: ClosedChain| {
        chain.names_endpoints = true;
        chain
    };
    let v4_only = |mut seen: Seen| {
        seen.ipv6 = false;
        seen
    };
    let inet = |hook| chain(Family::Inet, hook);
    let pod = "lxc0123456789";
    for (what, seen, state, text) in [
        ("nothing", seen(vec![]), State::Ok, "no firewall"),
        (
            "forward",
            seen(vec![inet(Forward)]),
            State::Ok,
            "no pod's traffic passes",
        ),
        (
            "a bridge",
            beyond(seen(vec![inet(Forward)])),
            State::Warning,
            "behind br0 send",
        ),
        (
            "mapped",
            mapped(seen(vec![inet(Forward)])),
            State::Warning,
            "by rules of CNI's portmap",
        ),
        (
            "named",
            beyond(seen(vec![named(inet(Forward))])),
            State::Ok,
            "has rules for lxc*",
        ),
        (
            "input",
            seen(vec![inet(Input)]),
            State::Warning,
            "to the node itself, who IPv6",
        ),
        (
            "output",
            seen(vec![inet(Output)]),
            State::Warning,
            "the node itself sends to pods",
        ),
        (
            "v6",
            v4_only(seen(vec![chain(Family::Ipv6, Input)])),
            State::Ok,
            "no firewall",
        ),
        (
            "in at lo",
            seen(vec![at("lo", Ingress)]),
            State::Ok,
            "no firewall",
        ),
        (
            "in at uplink",
            seen(vec![at("up0", Ingress)]),
            State::Ok,
            "at up0 drops by policy",
        ),
        (
            "out at uplink",
            seen(vec![at("up0", Egress)]),
            State::Warning,
            "out of the node",
        ),
        (
            "in at pod",
            seen(vec![at(pod, Ingress)]),
            State::Warning,
            "pods send by the node's stack",
        ),
        (
            "out at pod",
            seen(vec![at(pod, Egress)]),
            State::Warning,
            "the node's stack sends",
        ),
    ] {
        let status = seen.status();
        assert_eq!(status.state, state, "{what}: {}", status.msg);
        assert!(status.msg.contains(text), "{what}: {}", status.msg);
        assert_eq!(status.remedy.is_empty(), state == State::Ok, "{what}");
    }
}

#[test]
fn the_remedy_is_of_the_tool_that_made_the_chain() {
    let of = |tool, family, docker: bool| {
        let mut chain = chain(family, ChainHook::Forward);
        chain.tool = tool;
        chain.chain = "FORWARD".to_owned();
        if tool != Tool::Nft {
            chain.table = "filter".to_owned();
        }
        chain.rules_go_to = docker.then(|| "DOCKER-USER".to_owned());
        let mut seen = seen(vec![chain]);
        seen.beyond = Ok(vec!["br0".to_owned()]);
        let remedy = seen.status().remedy;
        remedy.split(", or").next().unwrap_or_default().to_owned()
    };
    for (tool, family, docker, remedy) in [
        (
            Tool::Nft,
            Family::Inet,
            false,
            "nft insert rule inet fw FORWARD iifname 'lxc*' accept && \
             nft insert rule inet fw FORWARD oifname 'lxc*' accept",
        ),
        (
            Tool::Iptables,
            Family::Ipv4,
            true,
            "iptables -I DOCKER-USER -i lxc+ -j ACCEPT && \
             iptables -I DOCKER-USER -o lxc+ -j ACCEPT",
        ),
        (
            Tool::IptablesLegacy,
            Family::Ipv6,
            false,
            "ip6tables-legacy -I FORWARD -i lxc+ -j ACCEPT && \
             ip6tables-legacy -I FORWARD -o lxc+ -j ACCEPT",
        ),
    ] {
        assert_eq!(of(tool, family, docker), remedy);
    }
}

#[test]
fn programs_ahead_are_wrong_and_told_once() {
    let program = |standing, hanging, id, device: &str| OtherProgram {
        standing,
        name: "other".to_owned(),
        id,
        device: device.to_owned(),
        ingress: true,
        hanging,
    };
    let tcx = Hanging::Tcx { link: Some(3) };
    let filter = Hanging::Clsact { priority: 5 };
    let mut seen = seen(vec![]);
    seen.programs = Ok(vec![
        program(Standing::Behind, tcx, Some(8), "up0"),
        program(Standing::Behind, filter, None, "up0"),
    ]);
    let status = seen.status();
    assert_eq!(status.state, State::Ok);
    assert_eq!(
        status.msg,
        "tcx program other (id 8) is behind ours at the ingress of up0; tc filter other is behind \
         ours at the ingress of up0"
    );
    let devices = ["up0", "a", "b", "c", "d"];
    let ahead = devices.map(|device| program(Standing::Ahead, tcx, Some(7), device));
    seen.programs = Ok(ahead.to_vec());
    let status = seen.status();
    assert_eq!(status.state, State::Warning);
    assert_eq!(
        status.msg,
        "tcx program other (id 7) is ahead of ours, whatever policy says, at the ingress of up0, a, \
         b and 2 more"
    );
    assert!(
        status.remedy.contains("bpftool link detach id 3"),
        "{}",
        status.remedy
    );
}

#[test]
fn what_is_not_known_is_said_to_be_so() {
    let late = || Err("timed out".to_owned());
    let mut seen = seen(vec![chain(Family::Inet, ChainHook::Forward)]);
    seen.firewalls[0].1 = late();
    let status = seen.status();
    assert_eq!(status.state, State::Ok);
    assert_eq!(
        status.msg,
        "rules of ip_tables are not known: timed out; chain c of table inet fw drops by policy: \
         whether pods' traffic passes it is not known: timed out"
    );
    seen.beyond = Ok(vec!["br0".to_owned()]);
    let status = seen.status();
    assert_eq!(status.state, State::Warning, "the other one is known");
    assert!(status.msg.contains("behind br0"), "{}", status.msg);
    seen.firewalls[1].1 = late();
    assert_eq!(seen.status().state, State::Ok, "firewalls open nothing");
    seen.programs = Err("timed out".to_owned());
    let status = seen.status();
    assert_eq!(status.state, State::Warning, "a program may");
    let unknown = "programs of others are not known";
    assert!(status.msg.starts_with(unknown), "{}", status.msg);
    let firewalls = "ip_tables are not known: timed out; rules of nf_tables are";
    assert!(status.msg.contains(firewalls), "{}", status.msg);
    assert_eq!(status.remedy, "see bpftool net show");
}

#[test]
fn a_chain_is_not_said_to_do_no_harm_where_devices_are_not_known() {
    use ChainHook::{Forward, Output};
    let unlisted = |chain: ClosedChain| {
        let mut seen = seen(vec![chain]);
        seen.beyond = Err("no answer".to_owned());
        seen
    };
    let forward = chain(Family::Inet, Forward);
    let named = ClosedChain {
        names_endpoints: true,
        ..forward.clone()
    };
    let mut mapped = unlisted(forward.clone());
    let firewall = &mut mapped.firewalls[0].1;
    let firewall = firewall.as_mut().expect("known");
    firewall.mappers.push("kube-proxy");
    for (seen, state, text) in [
        (
            unlisted(forward),
            State::Ok,
            "drops by policy: whether pods' traffic passes it is not known: no answer",
        ),
        (unlisted(named), State::Ok, "has rules for lxc*"),
        (mapped, State::Warning, "by rules of kube-proxy passes it"),
        (
            unlisted(chain(Family::Inet, Output)),
            State::Warning,
            "the node itself sends to pods passes it",
        ),
        (
            unlisted(at("up0", ChainHook::Ingress)),
            State::Ok,
            "no pod's traffic passes it",
        ),
    ] {
        let status = seen.status();
        assert_eq!(status.state, state, "{}", status.msg);
        assert!(status.msg.contains(text), "{text}: {}", status.msg);
    }
}
