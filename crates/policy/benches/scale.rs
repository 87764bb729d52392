//! What policy of a large cluster costs a node: all of it from nothing, one
//! policy that changes, one identity that comes and goes, memory; the engine
//! beside its slow twin.
//!
//! ```text
//! 10,000 identities of 1,000 applications in 100 namespaces
//! 2,000 policies: one or two for each application, some of them of prefixes, some denials,
//!                 some in Admin and Baseline
//! 250 subjects
//! ```
//!
//! And one policy of ever more rules, each about one address and one port: alone,
//! and below an Admin tier that passes on what a thousand rules say of everybody.
#![expect(
    clippy::disallowed_methods,
    reason = "it measures time, and is told by arguments what to write"
)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use axon_abi::{Direction, Identity};
use axon_model::{
    Action, Auth, Entity, Label, Origin, Peer, Peers, PolicyKind, PolicyObject, PortMatch,
    PortRule, Ports, Protocol, Requirement, Rule, RuleEntry, Selector, Subject, Tier,
};
use axon_policy::{
    Engine, IdentityInfo, Numbers, PolicyConfig, World, at_least_as_strict, cidr_labels,
    reserved_identities, resolve,
};

const IDENTITIES: u32 = 10_000;
const APPS: u32 = 1_000;
const NAMESPACES: u32 = 100;
const POLICIES: u32 = 2_000;
const SUBJECTS: u32 = 250;
const PREFIXES: u32 = 200;
/// Edits of each kind; the median is told.
const EDITS: u32 = 51;
const NAMESPACE: &str = "io.kubernetes.pod.namespace";

fn pod(n: u32) -> IdentityInfo {
    let labels = [
        Label::new("k8s", "app", &format!("app-{}", n % APPS)),
        Label::new("k8s", "release", &format!("r{}", n / APPS)),
        Label::new("k8s", NAMESPACE, &format!("ns-{}", n % NAMESPACES)),
        Label::new("k8s", "io.cilium.k8s.policy.cluster", "default"),
    ];
    IdentityInfo::labelled(labels.into_iter().collect())
}

fn prefix(n: u32) -> ipnet::IpNet {
    let text = format!("198.{}.{}.0/24", 18 + n / 256, n % 256);
    text.parse().expect("a prefix")
}

fn of(key: &str, value: &str) -> Selector {
    Selector::new(vec![Requirement::equals("k8s", key, value)])
}

fn entry(direction: Direction, action: Action, peer: Peer, port: u32) -> RuleEntry {
    let port = u16::try_from(port % 40_000).unwrap_or(1) + 1;
    RuleEntry {
        direction,
        action,
        peers: Peers::List(vec![peer]),
        ports: Ports::List(vec![PortRule {
            protocol: Protocol::TCP,
            port: PortMatch::Range(port, port),
        }]),
        l7: None,
        auth: Auth::Unsaid,
    }
}

/// The policy of a number, in one of its versions.
fn policy(n: u32, version: u32) -> PolicyObject {
    let app = |n: u32| Peer::Endpoints(of("app", &format!("app-{}", n % APPS)));
    let (ingress, egress) = (Direction::Ingress, Direction::Egress);
    let port = 80 + n % 7 + version;
    let mut entries = vec![
        entry(ingress, Action::Allow, app(n * 7 + 1), port),
        entry(ingress, Action::Allow, app(n * 11 + 5), port),
        entry(egress, Action::Allow, app(n * 13 + 3), 443),
    ];
    if n.is_multiple_of(10) {
        let except = Vec::new();
        let cidr = Peer::Cidr {
            cidr: prefix(n / 10 % PREFIXES),
            except,
        };
        entries.push(entry(egress, Action::Allow, cidr, 443));
    }
    if n.is_multiple_of(20) {
        let namespace = format!("ns-{}", n % NAMESPACES);
        let peer = Peer::Endpoints(of(NAMESPACE, &namespace));
        entries.push(entry(ingress, Action::Deny, peer, 22));
    }
    let (tier, subject) = match n {
        0..5 => (
            Tier::Admin(u16::try_from(n).unwrap_or(0)),
            Selector::default(),
        ),
        5..10 => (Tier::Baseline(0), Selector::default()),
        _ => (Tier::Normal, of("app", &format!("app-{}", n % APPS))),
    };
    let rule = Rule {
        subject: Subject::Endpoints(subject),
        tier,
        default_deny_ingress: tier == Tier::Normal,
        default_deny_egress: tier == Tier::Normal,
        entries,
        description: String::new(),
        labels: Vec::new(),
        log: String::new(),
    };
    PolicyObject {
        origin: Origin {
            kind: PolicyKind::CiliumNetworkPolicy,
            namespace: String::new(),
            name: format!("policy-{n:04}"),
        },
        uid: String::new(),
        staged: false,
        rules: vec![rule],
    }
}

fn world(config: &PolicyConfig) -> World {
    let mut identities = reserved_identities(config);
    identities.extend((0..IDENTITIES).map(|n| (Identity(1000 + n), pod(n))));
    identities.extend((0..PREFIXES).map(|n| {
        let info = IdentityInfo {
            prefix: Some(prefix(n)),
            ..IdentityInfo::labelled(cidr_labels(config, prefix(n)))
        };
        (Identity(Identity::LOCAL_MIN.0 + 1 + n), info)
    }));
    let policies = (0..POLICIES).map(|n| policy(n, 0));
    World {
        identities,
        policies: policies.map(|p| (p.origin.clone(), p)).collect(),
        subjects: (0..SUBJECTS).map(|n| Identity(1000 + n * 37)).collect(),
        ..World::default()
    }
}

/// What this process has in memory.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let made = work();
    (start.elapsed(), made)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn edits(mut edit: impl FnMut(u32)) -> Duration {
    median((1..=EDITS).map(|n| timed(|| edit(n)).0).collect())
}

/// Rules of one policy, each about one address and one port.
const RULES: [u32; 3] = [16_384, 65_536, 250_000];

/// What a policy of so many rules costs, and one that is added to it.
struct ManyRules {
    rules: u32,
    entries: usize,
    from_nothing: Duration,
    one_more: Duration,
    /// To find out that the set before allows no more.
    compared: Duration,
    engine_kib: u64,
}

/// The address of a number, its identity, and a rule about it.
fn host(n: u32) -> ipnet::IpNet {
    ipnet::IpNet::from(std::net::IpAddr::from((0xac10_0000 + n).to_be_bytes()))
}

fn host_info(config: &PolicyConfig, n: u32) -> (Identity, IdentityInfo) {
    let info = IdentityInfo {
        prefix: Some(host(n)),
        ..IdentityInfo::labelled(cidr_labels(config, host(n)))
    };
    (Identity(Identity::LOCAL_MIN.0 + 1 + n), info)
}

/// One policy of so many rules.
fn host_rules(rules: u32) -> PolicyObject {
    let peer = |n: u32| Peer::Cidr {
        cidr: host(n),
        except: Vec::new(),
    };
    let rule = |n: u32| entry(Direction::Ingress, Action::Allow, peer(n), 10_000 + n);
    let mut policy = policy(10, 0);
    for own in &mut policy.rules {
        own.subject = Subject::Endpoints(Selector::default());
        own.entries = (0..rules).map(rule).collect();
    }
    policy
}

fn engine_of(config: &PolicyConfig, rules: u32) -> Engine {
    let mut engine = Engine::new(config.clone());
    for (id, info) in reserved_identities(config) {
        engine.upsert_identity(id, info);
    }
    engine.upsert_identity(Identity(1000), pod(0));
    for n in 0..rules {
        let (id, info) = host_info(config, n);
        engine.upsert_identity(id, info);
    }
    engine.set_subjects([Identity(1000)].into());
    engine
}

/// Rules of one policy below a tier that passes on what is said of everybody.
const PASSED: [u32; 3] = [1024, 4096, 16_384];

/// So many rules about everybody.
const ANYBODYS: u32 = 1000;

fn passed(config: &PolicyConfig, rules: u32) -> (Duration, usize) {
    let anybody = |action, port| RuleEntry {
        peers: Peers::Any,
        ..entry(Direction::Ingress, action, Peer::Entity(Entity::All), port)
    };
    let mut everybodys = host_rules(rules);
    for own in &mut everybodys.rules {
        let ports = (0..ANYBODYS).map(|n| anybody(Action::Allow, 2 * n));
        own.entries.extend(ports);
    }
    let mut admin = policy(1, 0);
    for own in &mut admin.rules {
        let every = |action| RuleEntry {
            ports: Ports::Any,
            ..anybody(action, 0)
        };
        own.entries = vec![every(Action::Pass), every(Action::Deny)];
    }
    timed(|| {
        let mut engine = engine_of(config, rules);
        engine.upsert_policy(everybodys);
        engine.upsert_policy(admin);
        engine
            .resolution(&mut Numbers::default())
            .row_count()
            .entries
    })
}

impl ManyRules {
    fn measure(config: &PolicyConfig, rules: u32) -> Self {
        let (before, mut numbers) = (resident_kib(), Numbers::default());
        let policy = host_rules(rules);
        let (from_nothing, mut engine) = timed(|| {
            let mut engine = engine_of(config, rules);
            engine.upsert_policy(policy);
            engine.resolution(&mut numbers);
            engine
        });
        let engine_kib = resident_kib().saturating_sub(before);
        let the_set = |engine: &mut Engine, numbers: &mut Numbers| {
            let sets = engine.resolution(numbers).sets.values().next();
            sets.map(|set| set.rows.clone()).unwrap_or_default()
        };
        let less = the_set(&mut engine, &mut numbers);
        let more = host_rules(rules + 1);
        let (one_more, ()) = timed(|| {
            let (id, info) = host_info(config, rules);
            engine.upsert_identity(id, info);
            engine.upsert_policy(more);
            engine.resolution(&mut numbers);
        });
        let more = the_set(&mut engine, &mut numbers);
        let everybody = engine.identities().keys().copied();
        let (compared, strict) = timed(|| at_least_as_strict(&less, &more, everybody));
        assert!(strict, "it allows one less");
        Self {
            rules,
            entries: engine.resolution(&mut numbers).row_count().entries,
            from_nothing,
            one_more,
            compared,
            engine_kib,
        }
    }
}

fn main() {
    let config = PolicyConfig::default();
    let world = world(&config);
    let mut numbers = Numbers::default();
    let before = resident_kib();
    let (from_nothing, mut engine) = timed(|| {
        let mut engine = Engine::new(config.clone());
        for (id, info) in &world.identities {
            engine.upsert_identity(*id, info.clone());
        }
        for policy in world.policies.values() {
            engine.upsert_policy(policy.clone());
        }
        engine.set_subjects(world.subjects.clone());
        engine.resolution(&mut numbers);
        engine
    });
    let engine_kib = resident_kib().saturating_sub(before);
    let rows = engine.resolution(&mut numbers).row_count();
    let one_policy = edits(|n| {
        // One that is about subjects, each time another.
        engine.upsert_policy(policy(1000 + n * 37 % APPS, n));
        engine.resolution(&mut numbers);
    });
    let everybodys = edits(|n| {
        engine.upsert_policy(policy(1, n));
        engine.resolution(&mut numbers);
    });
    let newcomer = Identity(1000 + IDENTITIES);
    let comes = edits(|n| {
        engine.upsert_identity(newcomer, pod(n * 17));
        engine.resolution(&mut numbers);
    });
    let subject = edits(|n| {
        let mut subjects: BTreeSet<Identity> = world.subjects.clone();
        subjects.insert(Identity(1000 + n * 37 + 1));
        engine.set_subjects(subjects);
        engine.resolution(&mut numbers);
    });
    let (slow, _) = timed(|| resolve(&config, &world, &mut numbers));
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    println!(
        "{IDENTITIES} identities, {POLICIES} policies, {SUBJECTS} subjects: {} sets, {} class rows, \
         {} entries, {} KiB in rows, {engine_kib} KiB in the engine",
        rows.sets,
        rows.classes,
        rows.entries,
        rows.bytes() / 1024,
    );
    println!("{:<36}{:>12}{:>12}", "", "engine ms", "slow twin");
    for (what, time) in [
        ("everything from nothing", from_nothing),
        ("a policy of one application changes", one_policy),
        ("a policy of everybody changes", everybodys),
        ("an identity comes or changes", comes),
        ("a subject comes and another goes", subject),
    ] {
        println!("{what:<36}{:>12.2}{:>12.2}", ms(time), ms(slow));
    }
    let many = RULES.map(|rules| ManyRules::measure(&config, rules));
    println!(
        "{:<36}{:>12}{:>16}{:>12}{:>13}{:>12}",
        "rules of one address and one port",
        "entries",
        "from nothing ms",
        "one more ms",
        "compared ms",
        "engine MiB"
    );
    for one in &many {
        println!(
            "{:<36}{:>12}{:>16.0}{:>12.0}{:>13.0}{:>12}",
            one.rules,
            one.entries,
            ms(one.from_nothing),
            ms(one.one_more),
            ms(one.compared),
            one.engine_kib / 1024
        );
    }
    println!(
        "{:<36}{:>12}{:>16}",
        format!("the same, and {ANYBODYS} passed on"),
        "entries",
        "from nothing ms"
    );
    for rules in PASSED {
        let (time, entries) = passed(&config, rules);
        println!("{rules:<36}{entries:>12}{:>16.0}", ms(time));
    }
    let rules: Vec<_> = many
        .iter()
        .map(|one| {
            serde_json::json!({
                "rules": one.rules, "entries": one.entries, "engine_kib": one.engine_kib,
                "from_nothing_ms": ms(one.from_nothing), "one_more_ms": ms(one.one_more),
                "compared_ms": ms(one.compared),
            })
        })
        .collect();
    write_json(&serde_json::json!({
        "rules": rules,
        "identities": IDENTITIES,
        "policies": POLICIES,
        "subjects": SUBJECTS,
        "rows_bytes": rows.bytes(),
        "engine_kib": engine_kib,
        "from_nothing_ms": ms(from_nothing),
        "policy_ms": ms(one_policy),
        "policy_of_everybody_ms": ms(everybodys),
        "identity_ms": ms(comes),
        "subject_ms": ms(subject),
        "slow_twin_ms": ms(slow),
    }));
}

/// Writes what was measured to the file that `--out` names, if it does.
fn write_json(measured: &serde_json::Value) {
    let mut args = std::env::args().skip_while(|arg| arg != "--out");
    if let Some(path) = args.nth(1)
        && let Err(error) = std::fs::write(&path, format!("{measured:#}\n"))
    {
        eprintln!("{path}: {error}");
    }
}
