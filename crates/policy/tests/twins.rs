//! Properties over random worlds: the incremental engine says what the slow
//! function says, and rows say what the rules say, read one by one.

mod worlds;

use std::collections::{BTreeMap, BTreeSet};

use axon_abi::{Direction, Identity, PolicyEntry, PolicyKey, PolicySetRow};
use axon_model::{
    Action, Auth, Entity, GroupKey, GroupRef, Label, Labels, Operator, Peer, Peers, PolicyObject,
    PortMatch, PortRule, Ports, Protocol, Rule, RuleEntry, Subject, Tier, source,
};
use axon_policy::{
    Enforcement, Engine, Failsafe, Group, IdentityInfo, Lookup, Members, Numbers, Packet,
    PolicyConfig, PolicySet, Verdict, World, at_least_as_strict, reserved_identities, resolve,
};
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::select;
use worlds::{PORTS, PROTOCOLS, group, group_key, identity, origin, policy};

#[derive(Clone, Debug)]
enum Edit {
    Identity(Identity, IdentityInfo),
    NoIdentity(u32),
    Policy(PolicyObject),
    NoPolicy(u8),
    Group(GroupKey, Group),
    NoGroup(GroupKey),
    Subjects(BTreeSet<u32>),
    /// The labels of the node itself.
    Node(Labels),
    Look,
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => identity().prop_map(|(id, info)| Edit::Identity(id, info)),
        1 => (256..264_u32).prop_map(Edit::NoIdentity),
        3 => policy().prop_map(Edit::Policy),
        1 => (0..4_u8).prop_map(Edit::NoPolicy),
        3 => (group_key(), group()).prop_map(|(key, group)| Edit::Group(key, group)),
        1 => group_key().prop_map(Edit::NoGroup),
        3 => prop::collection::btree_set(prop_oneof![256..264_u32, Just(5), Just(1)], 0..5)
            .prop_map(Edit::Subjects),
        1 => node_labels().prop_map(Edit::Node),
        4 => Just(Edit::Look),
    ]
}

/// Some of the labels that rules ask for.
fn node_labels() -> impl Strategy<Value = Labels> {
    let label = (select(vec!["app", "tier"]), select(vec!["a", "b"]));
    let labels = prop::collection::vec(label, 0..3);
    labels.prop_map(|labels| {
        let label = |(key, value)| Label::new("k8s", key, value);
        labels.into_iter().map(label).collect()
    })
}

fn enforcement() -> impl Strategy<Value = Enforcement> {
    select(vec![
        Enforcement::Default,
        Enforcement::Default,
        Enforcement::Always,
        Enforcement::Never,
    ])
}

fn apply(edit: &Edit, world: &mut World, engine: &mut Engine) {
    match edit {
        Edit::Identity(id, info) => {
            world.identities.insert(*id, info.clone());
            engine.upsert_identity(*id, info.clone());
        }
        Edit::NoIdentity(id) => {
            world.identities.remove(&Identity(*id));
            engine.remove_identity(Identity(*id));
        }
        Edit::Policy(policy) => {
            world.policies.insert(policy.origin.clone(), policy.clone());
            engine.upsert_policy(policy.clone());
        }
        Edit::NoPolicy(n) => {
            world.policies.remove(&origin(*n));
            engine.remove_policy(&origin(*n));
        }
        Edit::Group(key, group) => {
            world.groups.insert(key.clone(), group.clone());
            let known = engine.identities().clone();
            let told = engine.upsert_group(key, group.clone());
            assert_eq!(told, differing(&known, engine));
        }
        Edit::NoGroup(key) => {
            world.groups.remove(key);
            let known = engine.identities().clone();
            let told = engine.remove_group(key);
            assert_eq!(told, differing(&known, engine));
        }
        Edit::Subjects(ids) => {
            world.subjects = ids.iter().copied().map(Identity).collect();
            engine.set_subjects(world.subjects.clone());
        }
        Edit::Node(labels) => {
            let news = world.node != *labels;
            world.node = labels.clone();
            assert_eq!(engine.set_node(labels.clone()), news);
        }
        Edit::Look => {}
    }
}

/// The identities of which the engine knows something else now.
fn differing(before: &BTreeMap<Identity, IdentityInfo>, engine: &Engine) -> BTreeSet<Identity> {
    let known = engine.identities().iter();
    let differs = |(id, info): &(&Identity, &IdentityInfo)| before.get(id) != Some(info);
    known.filter(differs).map(|(id, _)| *id).collect()
}

type Entries = BTreeMap<PolicyKey, PolicyEntry>;

/// What was ever under a number: set rows, and the entries of each class.
#[derive(Default)]
struct Meanings {
    sets: BTreeMap<u32, PolicySetRow>,
    classes: BTreeMap<(u32, u32), Entries>,
}

impl Meanings {
    /// Endpoints go on using a number while identities come and go: neither it
    /// nor a class in it may ever mean something else.
    fn check(&mut self, set: &PolicySet) -> Result<(), TestCaseError> {
        let rows = &set.rows;
        let known = self.sets.entry(set.number).or_insert(rows.set);
        prop_assert_eq!(*known, rows.set, "set {}", set.number);
        let mut classes: BTreeMap<u32, Entries> = BTreeMap::new();
        for row in rows.classes.values() {
            classes.entry(row.class).or_default();
        }
        for (key, entry) in &rows.entries {
            classes.entry(key.class).or_default().insert(*key, *entry);
        }
        for (class, entries) in classes {
            let known = self.classes.entry((set.number, class));
            let known = known.or_insert_with(|| entries.clone());
            prop_assert_eq!(&*known, &entries, "set {}, class {}", set.number, class);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_engine_says_what_the_slow_function_says(
        (enforcement, allow_localhost, cidr_selects_pods) in
            (enforcement(), any::<bool>(), any::<bool>()),
        // Of 48 numbers for classes two are soon one.
        class_bits in select(vec![6, 32]),
        (ipv4, ipv6) in families(),
        failsafe in failsafe(),
        edits in prop::collection::vec(edit(), 1..60),
    ) {
        let config =
            PolicyConfig {
                enforcement, allow_localhost, cidr_selects_pods, class_bits, ipv4, ipv6, failsafe,
                ..PolicyConfig::default()
            };
        let mut world = World { identities: reserved_identities(&config), ..World::default() };
        let mut engine = Engine::new(config.clone());
        for (id, info) in &world.identities {
            engine.upsert_identity(*id, info.clone());
        }
        let everyone = Edit::Subjects((256..264).collect());
        apply(&everyone, &mut world, &mut engine);
        let mut numbers = Numbers::default();
        let mut meanings = Meanings::default();
        for edit in edits.iter().chain([&Edit::Look]) {
            apply(edit, &mut world, &mut engine);
            if matches!(edit, Edit::Look) {
                let fast = engine.resolution(&mut numbers).clone();
                let before = numbers.clone();
                let slow = resolve(&config, &world, &mut numbers);
                prop_assert_eq!(&fast, &slow);
                prop_assert_eq!(&before, &numbers, "the same contents have the same numbers");
                for set in fast.sets.values() {
                    meanings.check(set)?;
                }
            }
        }
    }

    #[test]
    fn rows_say_what_the_rules_say(
        (enforcement, allow_localhost, cidr_selects_pods, proxy) in
            (enforcement(), any::<bool>(), any::<bool>(), any::<bool>()),
        identities in prop::collection::vec(identity(), 1..8),
        policies in prop::collection::vec(policy(), 0..4),
        groups in prop::collection::btree_map(group_key(), group(), 0..4),
        subject in prop_oneof![256..264_u32, Just(5), Just(1)],
        node in node_labels(),
        (ipv4, ipv6) in families(),
        failsafe in failsafe(),
    ) {
        let config =
            PolicyConfig {
                enforcement, allow_localhost, cidr_selects_pods, proxy, ipv4, ipv6, failsafe,
                ..PolicyConfig::default()
            };
        let mut world = World { identities: reserved_identities(&config), ..World::default() };
        world.identities.extend(identities);
        world.identities.entry(Identity(subject)).or_default();
        world.policies = policies.into_iter().map(|p| (p.origin.clone(), p)).collect();
        world.groups = groups;
        world.node = node;
        world.subjects = [Identity(subject)].into();
        let mut numbers = Numbers::default();
        let resolution = resolve(&config, &world, &mut numbers);
        let set = &resolution.sets[&resolution.subjects[&Identity(subject)]];
        let lookup = Lookup::new(&set.rows);
        for direction in [Direction::Ingress, Direction::Egress] {
            for remote in world.identities.keys() {
                for protocol in PROTOCOLS {
                    for port in PORTS.into_iter().chain([79, 1024]) {
                        let packet = Packet { direction, remote: *remote, protocol, port };
                        let verdict = lookup.verdict(packet);
                        prop_assert_eq!(
                            Outcome::from(&verdict),
                            naive(&config, &world, Identity(subject), packet),
                            "{:?}", packet
                        );
                        let said = says_so(&numbers, &world, Identity(subject), (packet, &verdict));
                        prop_assert!(said, "{:?}: {:?}", packet, verdict);
                    }
                }
            }
            // Nobody knows who it is, so it may be whoever is allowed least.
            for protocol in PROTOCOLS {
                for port in PORTS {
                    let at = |remote| Packet { direction, remote, protocol, port };
                    let is_safe = subject == Identity::HOST.0
                        && is_failsafe_port(&config, at(Identity::UNKNOWN));
                    let unknown = lookup.of_unknown(direction, protocol, port).is_allowed();
                    let all = world.identities.keys().all(|id| lookup.verdict(at(*id)).is_allowed());
                    prop_assert!(!unknown || is_safe || all, "{:?}", at(Identity::UNKNOWN));
                    prop_assert!(unknown || !is_safe, "{:?}", at(Identity::UNKNOWN));
                }
            }
        }
    }

    #[test]
    fn strictness_is_what_packets_see(
        identities in prop::collection::vec(identity(), 1..6),
        policies in prop::collection::vec(policy(), 0..3),
        others in prop::collection::vec(policy(), 0..3),
    ) {
        let config = PolicyConfig::default();
        let mut world = World { identities: reserved_identities(&config), ..World::default() };
        world.identities.extend(identities);
        world.identities.entry(Identity(256)).or_default();
        world.subjects = [Identity(256)].into();
        let mut numbers = Numbers::default();
        let mut rows = |policies: Vec<PolicyObject>| {
            world.policies = policies.into_iter().map(|p| (p.origin.clone(), p)).collect();
            let resolution = resolve(&config, &world, &mut numbers);
            resolution.sets[&resolution.subjects[&Identity(256)]].rows.clone()
        };
        let (one, other) = (rows(policies), rows(others));
        let (a, b) = (Lookup::new(&one), Lookup::new(&other));
        let mut strict = true;
        for direction in [Direction::Ingress, Direction::Egress] {
            for protocol in PROTOCOLS {
                for port in PORTS.into_iter().chain([1, 54, 82, 444, 8081]) {
                    let allowed =
                        |l: &Lookup| l.of_unknown(direction, protocol, port).is_allowed();
                    strict &= !allowed(&a) || allowed(&b);
                }
            }
            for &remote in world.identities.keys() {
                for protocol in PROTOCOLS {
                    for port in PORTS.into_iter().chain([1, 54, 82, 444, 8081]) {
                        let packet = Packet { direction, remote, protocol, port };
                        strict &= !a.verdict(packet).is_allowed() || b.verdict(packet).is_allowed();
                    }
                }
            }
        }
        let said = at_least_as_strict(&one, &other, world.identities.keys().copied());
        prop_assert_eq!(said, strict);
        prop_assert!(at_least_as_strict(&one, &one, world.identities.keys().copied()));
    }
}

/// What the rules come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Allowed,
    Asked,
    Denied,
    Unproved(Auth),
}

impl From<&Verdict> for Outcome {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Allowed { .. } | Verdict::AllowedByDefault => Self::Allowed,
            Verdict::Redirected { .. } => Self::Asked,
            Verdict::Denied { .. } | Verdict::DeniedByDefault => Self::Denied,
            Verdict::Unproved { auth, .. } => Self::Unproved(*auth),
        }
    }
}

fn families() -> impl Strategy<Value = (bool, bool)> {
    select(vec![(true, true), (true, false), (false, true)])
}

fn failsafe() -> impl Strategy<Value = Failsafe> {
    let port = (
        select(vec![Protocol::TCP, Protocol::UDP]),
        select(PORTS.to_vec()),
    );
    let rule = port.prop_map(|(protocol, port)| PortRule {
        protocol,
        port: PortMatch::Range(port, port),
    });
    let ports = || prop::collection::vec(rule.clone(), 0..3);
    (ports(), ports()).prop_map(|(ingress, egress)| Failsafe { ingress, egress })
}

/// Whether a port is one that stays open, whoever asks.
fn is_failsafe_port(config: &PolicyConfig, packet: Packet) -> bool {
    let ports = match packet.direction {
        Direction::Egress => &config.failsafe.egress,
        _ => &config.failsafe.ingress,
    };
    let nobody = IdentityInfo::default();
    ports.iter().any(|rule| naive_port(rule, packet, &nobody))
}

/// Whether the rule that a verdict names says what the verdict does.
fn says_so(
    numbers: &Numbers,
    world: &World,
    subject: Identity,
    (packet, verdict): (Packet, &Verdict),
) -> bool {
    let number = match verdict {
        Verdict::Allowed { rule }
        | Verdict::Denied { rule }
        | Verdict::Redirected { rule }
        | Verdict::Unproved { rule, .. } => *rule,
        Verdict::AllowedByDefault | Verdict::DeniedByDefault => return true,
    };
    // What is allowed by no rule is the node's own: failsafe ports, allow-localhost.
    if number == 0 {
        return verdict.is_allowed() && [subject, packet.remote].contains(&Identity::HOST);
    }
    let rule = numbers.rules.rule(number);
    let rule = rule.and_then(|of| world.policies.get(&of.origin)?.rules.get(of.index));
    rule.is_some_and(|rule| {
        let mut meant = rule
            .entries
            .iter()
            .filter(|entry| naive_match(entry, world, subject, packet));
        meant.any(|entry| match Outcome::from(verdict) {
            Outcome::Denied => entry.action == Action::Deny,
            Outcome::Allowed => entry.action == Action::Allow && entry.l7.is_none(),
            Outcome::Asked => entry.action == Action::Allow && entry.l7.is_some(),
            Outcome::Unproved(auth) => entry.action == Action::Allow && entry.auth == auth,
        })
    })
}

/// The rules, read one by one as their documentation says.
fn naive(config: &PolicyConfig, world: &World, subject: Identity, packet: Packet) -> Outcome {
    if config.enforcement == Enforcement::Never {
        return Outcome::Allowed;
    }
    let api = packet.direction == Direction::Egress
        && !config.failsafe.egress.is_empty()
        && naive_peer(
            &Peer::Entity(Entity::KubeApiserver),
            Action::Allow,
            world,
            packet.remote,
        );
    if subject == Identity::HOST && (api || is_failsafe_port(config, packet)) {
        return Outcome::Allowed;
    }
    let info = &world.identities[&subject];
    let rules: Vec<&Rule> = world
        .policies
        .values()
        .filter(|policy| !policy.staged)
        .flat_map(|p| &p.rules)
        .filter(|rule| match &rule.subject {
            Subject::Endpoints(selector) => {
                subject != Identity::HOST && selector.matches(&info.labels)
            }
            Subject::Nodes(selector) => subject == Identity::HOST && selector.matches(&world.node),
        })
        .collect();
    // All rules, as one list: tiers, priorities, then as they stand.
    let matching = |of: fn(&Tier) -> bool| -> Vec<&RuleEntry> {
        let mut of_tier: Vec<&&Rule> = rules.iter().filter(|rule| of(&rule.tier)).collect();
        of_tier.sort_by_key(|rule| rule.tier);
        let entries = of_tier.iter().flat_map(|rule| &rule.entries);
        entries
            .filter(|entry| naive_match(entry, world, subject, packet))
            .collect()
    };
    let outcome = |entry: &RuleEntry| match (entry.action, &entry.l7) {
        (Action::Pass, _) => None,
        (Action::Deny, _) => Some(Outcome::Denied),
        (Action::Allow, Some(_)) => Some(Outcome::Asked),
        (Action::Allow, None) => Some(Outcome::Allowed),
    };
    let admin = matching(|tier| matches!(tier, Tier::Admin(_)));
    if let Some(decided) = admin.first().and_then(|first| outcome(first)) {
        return decided;
    }
    let localhost = config.allow_localhost
        && packet.direction == Direction::Ingress
        && packet.remote == Identity::HOST;
    let normal = matching(|tier| *tier == Tier::Normal);
    let mut said: Vec<Outcome> = normal.iter().filter_map(|entry| outcome(entry)).collect();
    said.extend(localhost.then_some(Outcome::Allowed));
    // Without a proxy, what may pass whatever is said does.
    let wins = match config.proxy {
        true => [Outcome::Denied, Outcome::Asked, Outcome::Allowed],
        false => [Outcome::Denied, Outcome::Allowed, Outcome::Asked],
    };
    if let Some(decided) = wins.into_iter().find(|outcome| said.contains(outcome)) {
        let heard = normal.into_iter().filter(|entry| {
            // Where no proxy is asked, who asks one excuses nobody.
            config.proxy || entry.l7.is_none() || entry.auth.demands()
        });
        let auth = naive_auth(heard, world, subject, packet, localhost);
        return match decided {
            Outcome::Allowed | Outcome::Asked if auth.demands() => Outcome::Unproved(auth),
            decided => decided,
        };
    }
    let closed = rules.iter().any(|rule| {
        rule.tier == Tier::Normal
            && match packet.direction {
                Direction::Egress => rule.default_deny_egress,
                _ => rule.default_deny_ingress,
            }
    });
    if closed {
        return Outcome::Denied;
    }
    let baseline = matching(|tier| matches!(tier, Tier::Baseline(_)));
    if let Some(decided) = baseline.first().and_then(|first| outcome(first)) {
        return decided;
    }
    match config.enforcement == Enforcement::Always || subject == Identity::INIT {
        true => Outcome::Denied,
        false => Outcome::Allowed,
    }
}

/// One matching entry, as one of the two sides of Cilium's map sees it.
struct Heard {
    narrowness: u32,
    auth: Auth,
    asks: bool,
}

/// What a side of Cilium's map says: whether the proxy is asked, how narrow what
/// says it is, whether that says it itself, and what.
fn naive_side(side: &[Heard]) -> Option<(bool, u32, bool, Auth)> {
    // An entry that covers narrower ones with the proxy takes those out that
    // demand nothing of their own.
    let is_heard = |at: u32| {
        let mut own = side.iter().filter(|heard| heard.narrowness == at);
        own.any(|heard| heard.asks || heard.auth != Auth::Unsaid)
            || !side.iter().any(|heard| heard.narrowness < at && heard.asks)
    };
    let narrow = (0..=17).rev().filter(|at| is_heard(*at));
    let says = |at: u32| {
        let own = side.iter().filter(|heard| heard.narrowness == at);
        own.map(|heard| heard.auth).max()
    };
    let said: Vec<(u32, Auth)> = narrow.filter_map(|at| Some((at, says(at)?))).collect();
    let (narrowest, first) = *said.first()?;
    let auth = said.iter().map(|(_, auth)| *auth);
    let auth = auth.clone().find(|auth| *auth != Auth::Unsaid);
    let asks = side
        .iter()
        .any(|heard| heard.asks && heard.narrowness <= narrowest);
    let explicit = first != Auth::Unsaid;
    Some((asks, narrowest, explicit, auth.unwrap_or_default()))
}

/// What must be proved where these entries of the Normal tier allow a packet.
fn naive_auth<'a>(
    matching: impl Iterator<Item = &'a RuleEntry>,
    world: &World,
    subject: Identity,
    packet: Packet,
    localhost: bool,
) -> Auth {
    let (mut own, mut all) = (Vec::new(), Vec::new());
    if localhost {
        own.push(Heard {
            narrowness: 0,
            auth: Auth::Unsaid,
            asks: false,
        });
    }
    let receiver = match packet.direction {
        Direction::Egress => &world.identities[&packet.remote],
        _ => &world.identities[&subject],
    };
    for entry in matching.filter(|entry| entry.action == Action::Allow) {
        let everyone = match &entry.peers {
            Peers::Any => true,
            Peers::List(peers) => peers.contains(&Peer::Entity(Entity::All)),
        };
        let any = [PortRule {
            protocol: Protocol::ANY,
            port: PortMatch::Any,
        }];
        let rules = match &entry.ports {
            Ports::Any => &any[..],
            Ports::List(rules) => rules,
        };
        for rule in rules
            .iter()
            .filter(|rule| naive_port(rule, packet, receiver))
        {
            // Whose port has a name is one's own.
            let named = matches!(rule.port, PortMatch::Named(_));
            let side = match everyone && !(named && packet.direction == Direction::Egress) {
                true => &mut all,
                false => &mut own,
            };
            side.push(Heard {
                narrowness: naive_narrowness(rule, packet.port),
                auth: entry.auth,
                asks: entry.l7.is_some(),
            });
        }
    }
    match (naive_side(&own), naive_side(&all)) {
        (None, None) => Auth::Unsaid,
        (Some((.., auth)), None) | (None, Some((.., auth))) => auth,
        (Some(own), Some(all)) => {
            let own_is_asked = (own.0, own.1) >= (all.0, all.1);
            let (asked, other) = if own_is_asked { (own, all) } else { (all, own) };
            match asked.2 {
                true => asked.3,
                false => asked.3.max(other.3),
            }
        }
    }
}

/// How narrow the prefix of a rule's ports is that a port is in: 0 for any
/// protocol, 1 for any port of one, up to 17 for one port.
fn naive_narrowness(rule: &PortRule, port: u16) -> u32 {
    match rule.port {
        PortMatch::Any if rule.protocol == Protocol::ANY => 0,
        PortMatch::Any => 1,
        PortMatch::Named(_) => 17,
        PortMatch::Range(first, last) => {
            // The largest block of ports around it that the range holds.
            let holds = |bits: &u32| {
                let size = 1_u32 << (16 - bits);
                let start = u32::from(port) / size * size;
                u32::from(first) <= start && start + size - 1 <= u32::from(last)
            };
            1 + (0..=16).find(holds).expect("the port itself is in it")
        }
    }
}

fn naive_match(entry: &RuleEntry, world: &World, subject: Identity, packet: Packet) -> bool {
    let receiver = match packet.direction {
        Direction::Egress => &world.identities[&packet.remote],
        _ => &world.identities[&subject],
    };
    let peers = match &entry.peers {
        Peers::Any => true,
        Peers::List(peers) => {
            let mut peers = peers.iter();
            peers.any(|p| naive_peer(p, entry.action, world, packet.remote))
        }
    };
    let ports = match &entry.ports {
        Ports::Any => true,
        Ports::List(rules) => rules.iter().any(|r| naive_port(r, packet, receiver)),
    };
    entry.direction == packet.direction && peers && ports
}

fn naive_peer(peer: &Peer, action: Action, all: &World, id: Identity) -> bool {
    let info = &all.identities[&id];
    let world = id.is_world();
    let v6 = info.prefix.map(|p| p.addr().is_ipv6());
    match peer {
        Peer::Endpoints(selector) => {
            let workload = (256..1 << 24).contains(&id.0);
            let present = |r: &axon_model::Requirement| {
                matches!(r.operator, Operator::In(_) | Operator::Exists)
            };
            let positive = selector.requirements().iter().any(present);
            selector.matches(&info.labels) && (positive || workload)
        }
        Peer::Entity(Entity::All) => true,
        Peer::Entity(Entity::World) => world,
        Peer::Entity(Entity::WorldIpv4) => world && v6 == Some(false),
        Peer::Entity(Entity::WorldIpv6) => world && v6 == Some(true),
        Peer::Entity(Entity::Cluster) => !world,
        Peer::Entity(Entity::Host) => id == Identity::HOST,
        Peer::Entity(Entity::RemoteNode) => [6, 7].contains(&id.0) || id.0 >> 24 == 2,
        Peer::Entity(Entity::KubeApiserver) => {
            id.0 == 7
                || info
                    .labels
                    .get(source::RESERVED, "kube-apiserver")
                    .is_some()
        }
        Peer::Entity(Entity::Init) => id == Identity::INIT,
        Peer::Entity(Entity::Health) => id == Identity::HEALTH,
        Peer::Entity(Entity::Unmanaged) => id == Identity::UNMANAGED,
        Peer::Entity(Entity::Ingress) => id == Identity::INGRESS,
        Peer::Entity(Entity::None) => false,
        Peer::Cidr { cidr, except } => naive_cidrs(&[*cidr], except, action, info),
        Peer::Nodes(selector) => {
            let other = [6, 7].contains(&id.0) || id.0 >> 24 == 2;
            other && selector.matches(&info.labels)
        }
        Peer::Name(pattern) => info.names.contains(pattern),
        Peer::Group { of, except } => {
            let meant = |key: &GroupKey, group: &Group| match (of, key) {
                (GroupRef::CidrGroup(wanted), GroupKey::CidrGroup(name)) => wanted == name,
                (GroupRef::CidrGroups(wanted), GroupKey::CidrGroup(_)) => {
                    wanted.matches(&group.labels)
                }
                (GroupRef::Service(wanted), GroupKey::Service(key)) => {
                    wanted.name == key.name
                        && ["", &key.namespace].contains(&wanted.namespace.as_str())
                }
                (
                    GroupRef::Services {
                        namespace,
                        selector,
                    },
                    GroupKey::Service(key),
                ) => {
                    selector.matches(&group.labels)
                        && ["", &key.namespace].contains(&namespace.as_str())
                }
                _ => false,
            };
            let holds = |group: &Group| match &group.members {
                Members::Prefixes(prefixes) => {
                    let prefixes: Vec<_> = prefixes.iter().copied().collect();
                    naive_cidrs(&prefixes, except, action, info)
                }
                Members::Endpoints(selector) => {
                    let own: Vec<_> = naive_own(info).collect();
                    (256..1 << 24).contains(&id.0)
                        && selector.matches(&info.labels)
                        && (own.is_empty() || naive_cidrs(&own, except, action, info))
                }
            };
            all.groups
                .iter()
                .any(|(key, group)| meant(key, group) && holds(group))
        }
    }
}

fn naive_own(info: &IdentityInfo) -> impl Iterator<Item = IpNet> {
    info.prefix
        .into_iter()
        .chain(info.addresses.iter().copied())
}

/// Whether prefixes but for their holes mean an identity: an allow and a Pass only
/// whom no hole means, a deny whoever has a prefix that no hole means.
fn naive_cidrs(cidrs: &[IpNet], except: &[IpNet], action: Action, info: &IdentityInfo) -> bool {
    let within = |own: &IpNet, around: &[IpNet]| around.iter().any(|p| p.contains(own));
    let inside = |own: &IpNet| within(own, cidrs);
    match action {
        Action::Allow | Action::Pass => {
            naive_own(info).any(|own| inside(&own))
                && !naive_own(info).any(|own| within(&own, except))
        }
        Action::Deny => naive_own(info).any(|own| inside(&own) && !within(&own, except)),
    }
}

fn naive_port(rule: &PortRule, packet: Packet, receiver: &IdentityInfo) -> bool {
    let protocol = Protocol(packet.protocol);
    let has_ports = [Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&protocol);
    let protocol_matches = match (rule.protocol, &rule.port) {
        (Protocol::ANY, PortMatch::Any) => true,
        (Protocol::ANY, _) => has_ports,
        (wanted, _) => wanted == protocol,
    };
    protocol_matches
        && match &rule.port {
            PortMatch::Any => true,
            PortMatch::Range(first, last) => (*first..=*last).contains(&packet.port),
            PortMatch::Named(name) => receiver
                .named_ports
                .get(&(name.clone(), protocol))
                .is_some_and(|ports| ports.contains(&packet.port)),
        }
}
