//! Ordered tiers in cases known by hand: who decides, and what it costs.

use std::collections::BTreeMap;

use axon_abi::{Direction, Identity};
use axon_model::{
    Action, Auth, Label, Origin, Peer, Peers, PolicyKind, PolicyObject, PortMatch, PortRule, Ports,
    Protocol, Requirement, Rule, RuleEntry, Selector, Subject, Tier,
};
use axon_policy::{
    Enforcement, IdentityInfo, Lookup, Numbers, Packet, PolicyConfig, PolicySet, Verdict, World,
    at_least_as_strict, reserved_identities, resolve,
};

const WEB: Identity = Identity(300);
const CLIENT: Identity = Identity(301);
const OTHER: Identity = Identity(302);
const BYSTANDER: Identity = Identity(303);

fn pod(app: &str) -> IdentityInfo {
    IdentityInfo::labelled([Label::new("k8s", "app", app)].into_iter().collect())
}

fn of(app: &str) -> Peers {
    let selector = Selector::new(vec![Requirement::equals("k8s", "app", app)]);
    Peers::List(vec![Peer::Endpoints(selector)])
}

fn tcp(port: u16) -> Ports {
    Ports::List(vec![PortRule {
        protocol: Protocol::TCP,
        port: PortMatch::Range(port, port),
    }])
}

fn entry(action: Action, peers: Peers, ports: Ports) -> RuleEntry {
    RuleEntry {
        direction: Direction::Ingress,
        action,
        peers,
        ports,
        l7: None,
        auth: Auth::Unsaid,
    }
}

/// A policy about everybody, a rule for each entry.
fn policy(name: &str, tier: Tier, entries: Vec<RuleEntry>) -> PolicyObject {
    let rule = |entry| Rule {
        subject: Subject::Endpoints(Selector::default()),
        tier,
        default_deny_ingress: tier == Tier::Normal,
        default_deny_egress: false,
        entries: vec![entry],
        description: String::new(),
        labels: Vec::new(),
        log: String::new(),
    };
    PolicyObject {
        origin: Origin {
            kind: PolicyKind::ClusterNetworkPolicy,
            namespace: String::new(),
            name: name.into(),
        },
        uid: String::new(),
        staged: false,
        rules: entries.into_iter().map(rule).collect(),
    }
}

/// The set of the web server, and the name of each rule's policy.
fn set_of(policies: &[PolicyObject]) -> (PolicySet, BTreeMap<u32, String>) {
    set_under(&PolicyConfig::default(), policies)
}

fn set_under(
    config: &PolicyConfig,
    policies: &[PolicyObject],
) -> (PolicySet, BTreeMap<u32, String>) {
    let mut identities = reserved_identities(config);
    identities.insert(WEB, pod("web"));
    identities.insert(CLIENT, pod("client"));
    identities.insert(OTHER, pod("other"));
    identities.insert(BYSTANDER, pod("bystander"));
    let policies = policies.iter().map(|p| (p.origin.clone(), p.clone()));
    let world = World {
        identities,
        policies: policies.collect(),
        subjects: [WEB].into(),
        ..World::default()
    };
    let mut numbers = Numbers::default();
    let resolution = resolve(config, &world, &mut numbers);
    let set = &resolution.sets[&resolution.subjects[&WEB]];
    let name = |number: &u32| {
        let rule = numbers.rules.rule(*number).expect("a rule");
        (*number, format!("{}.{}", rule.origin.name, rule.index))
    };
    let names = set.rules.iter().map(name).collect();
    ((**set).clone(), names)
}

/// What becomes of a connection to the web server, and which rule says so.
fn said((set, names): &(PolicySet, BTreeMap<u32, String>), from: Identity, port: u16) -> String {
    let packet = Packet {
        direction: Direction::Ingress,
        remote: from,
        protocol: 6,
        port,
    };
    match Lookup::new(&set.rows).verdict(packet) {
        Verdict::Allowed { rule } => format!("allowed by {}", names[&rule]),
        Verdict::Denied { rule } => format!("denied by {}", names[&rule]),
        Verdict::Redirected { rule } => format!("asked for {}", names[&rule]),
        Verdict::Unproved { rule, .. } => format!("unproved for {}", names[&rule]),
        Verdict::AllowedByDefault => "allowed".into(),
        Verdict::DeniedByDefault => "denied".into(),
    }
}

#[test]
fn the_first_that_matches_decides() {
    use Action::{Allow, Deny, Pass};
    let (any, all) = (|| Peers::Any, || Ports::Any);
    let admin = |n, entries| policy("admin", Tier::Admin(n), entries);
    let later = |n, entries| policy("later", Tier::Admin(n), entries);
    let normal = |entries| policy("normal", Tier::Normal, entries);
    let base = |entries| policy("base", Tier::Baseline(0), entries);
    let deny_all = || entry(Deny, any(), all());
    for (what, policies, expected) in [
        (
            "in a policy, as it is written",
            vec![admin(
                5,
                vec![entry(Allow, of("client"), all()), deny_all()],
            )],
            ["allowed by admin.0", "denied by admin.1"],
        ),
        (
            "the other way round",
            vec![admin(
                5,
                vec![deny_all(), entry(Allow, of("client"), all())],
            )],
            ["denied by admin.0", "denied by admin.0"],
        ),
        (
            "the lower priority first",
            vec![
                admin(7, vec![deny_all()]),
                later(6, vec![entry(Allow, of("client"), tcp(80))]),
            ],
            ["allowed by later.0", "denied by admin.0"],
        ),
        (
            "of one priority, the first name",
            vec![
                later(6, vec![deny_all()]),
                admin(6, vec![entry(Allow, of("client"), tcp(80))]),
            ],
            ["allowed by admin.0", "denied by later.0"],
        ),
        (
            "Admin before all others",
            vec![
                admin(0, vec![entry(Allow, of("client"), all())]),
                normal(vec![deny_all()]),
            ],
            ["allowed by admin.0", "denied by normal.0"],
        ),
        (
            "Baseline only where the Normal tier has no default deny",
            vec![
                normal(vec![entry(Allow, of("client"), all())]),
                base(vec![entry(Allow, of("other"), all())]),
            ],
            ["allowed by normal.0", "denied"],
        ),
        (
            "Baseline alone",
            vec![base(vec![entry(Pass, of("client"), all()), deny_all()])],
            ["allowed", "denied by base.1"],
        ),
        (
            "what passes is the Normal tier's",
            vec![
                admin(0, vec![entry(Pass, of("client"), all()), deny_all()]),
                normal(vec![entry(Allow, any(), tcp(80))]),
            ],
            ["allowed by normal.0", "denied by admin.1"],
        ),
        (
            "also what that denies by default",
            vec![
                admin(0, vec![entry(Pass, of("client"), all())]),
                later(1, vec![entry(Allow, any(), all())]),
                normal(vec![entry(Allow, any(), tcp(443))]),
            ],
            ["denied", "allowed by later.0"],
        ),
        (
            "and then Baseline's",
            vec![
                admin(0, vec![entry(Pass, any(), tcp(80)), deny_all()]),
                base(vec![entry(Deny, of("other"), all())]),
            ],
            ["allowed", "denied by base.0"],
        ),
        (
            "a Pass behind what decides",
            vec![
                admin(0, vec![deny_all()]),
                later(1, vec![entry(Pass, any(), all())]),
            ],
            ["denied by admin.0", "denied by admin.0"],
        ),
    ] {
        let set = set_of(&policies);
        let got = [said(&set, CLIENT, 80), said(&set, OTHER, 80)];
        assert_eq!(got, expected, "{what}");
    }
}

#[test]
fn enforcement_modes_and_tiers() {
    let baseline = policy(
        "base",
        Tier::Baseline(0),
        vec![
            entry(Action::Allow, of("client"), Ports::Any),
            entry(Action::Pass, of("other"), Ports::Any),
            entry(Action::Deny, of("bystander"), Ports::Any),
        ],
    );
    for (mode, expected) in [
        (
            Enforcement::Default,
            ["allowed by base.0", "allowed", "denied by base.2"],
        ),
        (
            Enforcement::Always,
            ["allowed by base.0", "denied", "denied by base.2"],
        ),
        (Enforcement::Never, ["allowed", "allowed", "allowed"]),
    ] {
        let config = PolicyConfig {
            enforcement: mode,
            ..PolicyConfig::default()
        };
        let set = set_under(&config, std::slice::from_ref(&baseline));
        let got = [CLIENT, OTHER, BYSTANDER].map(|id| said(&set, id, 80));
        assert_eq!(got, expected, "{mode:?}");
    }
}

#[test]
fn selectors_that_match_nobody_cost_nothing_and_decide_nothing() {
    let nobody = [Action::Deny, Action::Pass, Action::Allow].map(|action| {
        let peers = Peers::List(Vec::new());
        [
            entry(action, of("nobody"), tcp(80)),
            entry(action, peers, tcp(80)),
        ]
    });
    let admin = policy("admin", Tier::Admin(0), nobody.concat());
    let set = set_of(&[admin]);
    assert_eq!(said(&set, CLIENT, 80), "allowed");
    assert!(set.0.rows.entries.is_empty() && set.0.rows.classes.is_empty());
}

/// What passes for everybody is written once, however many the tiers below tell
/// apart, and where nothing of the tier follows it is not written at all.
#[test]
fn a_pass_costs_what_the_tiers_below_say() {
    let normal = |ports: u16| {
        let allow = |port| entry(Action::Allow, Peers::Any, tcp(port));
        policy("normal", Tier::Normal, (1..=ports).map(allow).collect())
    };
    let pass = || entry(Action::Pass, Peers::Any, Ports::Any);
    let deny = |peers| entry(Action::Deny, peers, tcp(9999));
    let admin = |entries| policy("admin", Tier::Admin(0), entries);
    for (what, entries, expected) in [
        ("no Pass", vec![deny(of("client"))], 101),
        ("a Pass behind all", vec![deny(of("client")), pass()], 101),
        // The denied port is denied by default in the place of the Pass, as all
        // others are.
        (
            "a Pass before one deny",
            vec![pass(), deny(of("client"))],
            102,
        ),
    ] {
        let (set, _) = set_of(&[normal(100), admin(entries)]);
        assert_eq!(set.rows.entries.len(), expected, "{what}");
    }
}

/// More entries than an ordered tier has places: what denies stays, nothing else
/// is taken for decided.
#[test]
fn beyond_the_last_place_only_denies_are_left() {
    const PLACES: usize = 1 << 17;
    let one = |action, port| entry(action, Peers::Any, tcp(port));
    let mut entries = vec![one(Action::Allow, 1); PLACES - 1];
    entries.push(one(Action::Allow, 2));
    entries.push(one(Action::Deny, 3));
    entries.push(one(Action::Pass, 4));
    entries.push(one(Action::Deny, 4));
    entries.push(one(Action::Allow, 5));
    let rule = Rule {
        entries,
        ..policy("admin", Tier::Admin(0), vec![pass_nothing()]).rules[0].clone()
    };
    let object = |rules| PolicyObject {
        rules,
        ..policy("admin", Tier::Admin(0), Vec::new())
    };
    let closed = policy("normal", Tier::Normal, vec![pass_nothing()]);
    let full = set_of(&[object(vec![rule]), closed.clone()]);
    let got = [1, 2, 3, 4, 5].map(|port| said(&full, CLIENT, port));
    let expected = [
        "allowed by admin.0",
        "denied",
        "denied by admin.0",
        "denied by admin.0",
        "denied",
    ];
    assert_eq!(got, expected);
}

fn pass_nothing() -> RuleEntry {
    entry(Action::Pass, Peers::List(Vec::new()), Ports::Any)
}

/// As strict as another is what packets see, tiers or not.
#[test]
fn strictness_sees_through_tiers() {
    let normal = policy(
        "normal",
        Tier::Normal,
        vec![entry(Action::Allow, of("client"), tcp(80))],
    );
    let admin = |entries| policy("admin", Tier::Admin(0), entries);
    let passes = admin(vec![
        entry(Action::Pass, of("client"), Ports::Any),
        entry(Action::Deny, Peers::Any, Ports::Any),
    ]);
    let allows = admin(vec![entry(Action::Allow, of("client"), Ports::Any)]);
    let sets = [
        vec![normal.clone()],
        vec![normal.clone(), passes],
        vec![normal, allows],
    ];
    let [plain, passed, wider] = sets.map(|policies| set_of(&policies).0.rows);
    let everybody = || [WEB, CLIENT, OTHER, BYSTANDER, Identity::HOST].into_iter();
    let strict = |a, b| at_least_as_strict(a, b, everybody());
    assert!(strict(&plain, &passed) && strict(&passed, &plain));
    assert!(strict(&passed, &wider) && !strict(&wider, &passed));
}
