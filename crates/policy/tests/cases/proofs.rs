//! Who must have proved who he is, in cases known by hand: what Cilium's map of
//! entries for each identity and for everyone comes to.

use std::sync::Arc;

use axon_abi::{Direction, Identity};
use axon_model::{
    Action, Auth, Entity, HttpRule, L7, L7Rules, Peer, Peers, PolicyObject, Ports, RuleEntry,
};
use axon_policy::{PolicyConfig, RowCount, Verdict, evaluate};

use crate::server::{app, from, ingress, policy, server_set, server_set_of, tcp};

fn client(n: u32) -> Peers {
    from(Peer::Endpoints(app(&format!("client-{n}"))))
}

fn allow(peers: Peers, ports: Ports, auth: Auth) -> RuleEntry {
    RuleEntry {
        auth,
        ..ingress(Action::Allow, peers, ports)
    }
}

fn asks(peers: Peers, ports: Ports, auth: Auth) -> RuleEntry {
    let l7 = L7 {
        rules: L7Rules::Http(vec![HttpRule::default()]),
        ..L7::default()
    };
    RuleEntry {
        l7: Some(Arc::new(l7)),
        ..allow(peers, ports, auth)
    }
}

/// A policy for each entry: `a`, `b`, ...
fn policies(entries: Vec<RuleEntry>) -> Vec<PolicyObject> {
    let one = |(name, entry): (char, RuleEntry)| policy(&name.to_string(), app("web"), vec![entry]);
    ('a'..).zip(entries).map(one).collect()
}

/// What becomes of connections of the first two clients to these ports.
fn said(config: &PolicyConfig, entries: Vec<RuleEntry>, ports: [u16; 2]) -> String {
    let (set, numbers) = server_set_of(config, &policies(entries), 2);
    let name = |rule| {
        numbers
            .rules
            .rule(rule)
            .expect("a rule")
            .origin
            .name
            .clone()
    };
    let one = |(remote, port)| {
        let verdict = evaluate(&set.rows, Direction::Ingress, Identity(remote), 6, port);
        match verdict {
            Verdict::Allowed { .. } => "allowed".to_owned(),
            Verdict::Redirected { .. } => "asked".to_owned(),
            Verdict::Unproved { rule, auth } => format!("{} by {}", auth.mode(), name(rule)),
            Verdict::Denied { rule } => format!("denied by {}", name(rule)),
            Verdict::AllowedByDefault | Verdict::DeniedByDefault => "default".to_owned(),
        }
    };
    let all = [301, 302].map(|remote| ports.map(|port| one((remote, port))).join(", "));
    all.join(" | ")
}

#[test]
fn the_narrowest_that_says_something_decides() {
    use Auth::{AlwaysFail, Disabled, Required, Unsaid};
    let every_port = || tcp(0, 65535);
    let cluster = || from(Peer::Entity(Entity::Cluster));
    for (what, entries, expected) in [
        (
            "demanded of everybody",
            vec![allow(Peers::Any, tcp(80, 80), Required)],
            "required by a, default | required by a, default",
        ),
        (
            "but not of one",
            vec![
                allow(Peers::Any, tcp(80, 80), Required),
                allow(client(1), tcp(80, 80), Disabled),
            ],
            "allowed, default | required by a, default",
        ),
        (
            "of whom nothing is said what is said of everybody holds",
            vec![
                allow(Peers::Any, tcp(80, 80), Required),
                allow(client(1), tcp(80, 80), Unsaid),
            ],
            "required by a, default | required by a, default",
        ),
        (
            "what is said of all ports holds on one",
            vec![
                allow(client(1), Ports::Any, Required),
                allow(client(1), tcp(80, 80), Unsaid),
            ],
            "required by a, required by a | default, default",
        ),
        (
            "unless something is said there",
            vec![
                allow(client(1), Ports::Any, Required),
                allow(client(1), tcp(80, 80), Disabled),
            ],
            "allowed, required by a | default, default",
        ),
        (
            "a port is narrower than one remote",
            vec![
                allow(client(1), Ports::Any, Disabled),
                allow(Peers::Any, tcp(80, 80), Required),
            ],
            "required by b, allowed | required by b, default",
        ),
        (
            "and where nothing is said of it, the remote's holds",
            vec![
                allow(client(1), Ports::Any, Required),
                allow(Peers::Any, tcp(80, 80), Unsaid),
            ],
            "required by a, required by a | allowed, default",
        ),
        (
            "what another side takes over is no more than what is said",
            vec![
                allow(Peers::Any, every_port(), Required),
                allow(Peers::Any, tcp(80, 80), Unsaid),
                allow(client(1), every_port(), Disabled),
            ],
            "required by a, allowed | required by a, required by a",
        ),
        (
            "of the same place the strictest",
            vec![
                allow(client(1), tcp(80, 80), Required),
                allow(client(1), tcp(80, 80), Disabled),
                allow(client(2), tcp(80, 80), Required),
                allow(client(2), tcp(80, 80), AlwaysFail),
            ],
            "required by a, default | test-always-fail by d, default",
        ),
        (
            "whichever selector it is by",
            vec![
                allow(client(1), tcp(80, 80), Disabled),
                allow(cluster(), tcp(80, 80), Required),
                allow(client(2), tcp(81, 81), Disabled),
                allow(cluster(), Ports::Any, Required),
            ],
            "required by b, required by d | required by b, allowed",
        ),
        (
            "the narrower of two ranges",
            vec![
                allow(Peers::Any, tcp(80, 95), Required),
                allow(Peers::Any, tcp(80, 81), Disabled),
                allow(client(1), tcp(81, 81), AlwaysFail),
            ],
            "allowed, test-always-fail by c | allowed, allowed",
        ),
        (
            "a deny is above all of it",
            vec![
                allow(Peers::Any, tcp(80, 81), Required),
                ingress(Action::Deny, client(1), tcp(80, 80)),
                ingress(Action::Deny, Peers::Any, tcp(81, 81)),
            ],
            "denied by b, denied by c | required by a, denied by c",
        ),
    ] {
        let found = said(&PolicyConfig::default(), entries, [80, 81]);
        assert_eq!(found, expected, "{what}");
    }
}

/// Who is asked by a proxy what he says must have proved who he is before.
#[test]
fn where_the_proxy_is_asked_it_is_that_side_that_decides() {
    use Auth::{Disabled, Required, Unsaid};
    let every_port = || tcp(0, 65535);
    for (what, entries, with, without) in [
        (
            "on all ports of everybody, though one is open to one",
            vec![
                asks(Peers::Any, every_port(), Required),
                allow(client(1), tcp(80, 80), Disabled),
            ],
            "required by a, required by a | required by a, required by a",
            "required by a, required by a | required by a, required by a",
        ),
        (
            "on all ports of one, though something is demanded of everybody",
            vec![
                asks(client(1), every_port(), Disabled),
                allow(Peers::Any, tcp(80, 80), Required),
            ],
            "asked, asked | required by b, default",
            "required by b, asked | required by b, default",
        ),
        (
            "on one port, though something is demanded on all",
            vec![
                allow(client(1), every_port(), Required),
                asks(client(1), tcp(80, 80), Disabled),
            ],
            "asked, required by a | default, default",
            "required by a, required by a | default, default",
        ),
        (
            "what demands nothing there is not heard",
            vec![
                asks(client(1), every_port(), Disabled),
                allow(client(1), tcp(80, 80), Unsaid),
                allow(Peers::Any, tcp(80, 80), Required),
            ],
            "asked, asked | required by c, default",
            "required by c, asked | required by c, default",
        ),
    ] {
        for (proxy, expected) in [(true, with), (false, without)] {
            let config = PolicyConfig {
                proxy,
                ..PolicyConfig::default()
            };
            let found = said(&config, entries.clone(), [80, 81]);
            assert_eq!(found, expected, "{what}, proxy: {proxy}");
        }
    }
}

#[test]
fn only_what_is_demanded_takes_rows() {
    let rows = |auth: [Auth; 2]| {
        let entries = vec![
            allow(Peers::Any, tcp(0, 65535), auth[0]),
            allow(client(1), tcp(80, 80), auth[1]),
            allow(Peers::Any, tcp(8080, 8080), Auth::Unsaid),
        ];
        let (set, _) = server_set(&policies(entries), 100);
        set.rows
    };
    let plain = rows([Auth::Unsaid; 2]);
    let disabled = rows([Auth::Disabled; 2]);
    assert_eq!(plain.set, disabled.set);
    let values = |rows: &axon_model::PolicyRows| -> Vec<_> {
        rows.entries.iter().map(|(_, entry)| *entry).collect()
    };
    assert_eq!(values(&plain), values(&disabled));
    // Whoever demands something of everybody says so in everybody's rows.
    for auth in [
        [Auth::Required, Auth::Unsaid],
        [Auth::Required, Auth::Disabled],
    ] {
        assert_eq!(RowCount::of(&rows(auth)), RowCount::of(&plain), "{auth:?}");
    }
    // Whoever demands something of one has a row more where everybody is let in.
    let of_one = rows([Auth::Unsaid, Auth::Required]);
    assert_eq!(RowCount::of(&of_one), RowCount::of(&plain));
}
