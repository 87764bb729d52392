//! Whether `axon explain` names the right cause of every denied connection of
//! the policy cases.
//!
//! What is right is found without asking why: a piece of a policy is the cause of
//! what is denied if a policy that says this piece alone denies it, and a policy
//! denies what none allows if it does so by itself. What is explained is the
//! packet, over the rows of the node that denies it, as it is over a sysdump.

#[path = "cases/expand.rs"]
mod expand;
#[path = "causes/leaves.rs"]
mod leaves;
#[path = "causes/manifest.rs"]
mod manifest;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use axon_api::manifest::policy_documents;
use axon_evaluate::{Cluster, Judgement, Probe, Settings, Verdict, Word, World, judge};
use axon_model::Auth;
use axon_replay::{
    Closest, DecidedBy, Explanation, JudgementView, Node, NotHere, Outcome, Packet, PlaceView,
    Said, Transport, explain,
};
use expand::{Asked, Case};
use leaves::{Leaf, leaves};
use manifest::Written;
use serde_json::Value;

const FILE: &str = "/etc/axon/manifests/case.yaml";

/// What was looked at.
#[derive(Debug, Default)]
struct Count {
    /// Denied by one piece of a policy.
    by_rule: usize,
    /// By several: any is right.
    by_several: usize,
    /// By nobody's leave.
    by_default: usize,
    /// There is no such packet, or it is dropped before policy is asked.
    left_out: BTreeMap<String, usize>,
}

/// One state of a case.
struct Scene {
    cluster: Cluster,
    policies: Vec<Value>,
    /// Each policy by itself.
    alone: Vec<World>,
    /// No policy at all.
    unruled: World,
    written: Written,
    world: World,
    nodes: BTreeMap<String, Node>,
    ends: BTreeMap<&'static str, End>,
}

/// What each direction's pieces do by themselves.
struct End {
    denying: Vec<(Leaf, World)>,
    allowing: Vec<Allowing>,
}

struct Allowing {
    leaf: Leaf,
    alone: World,
    on_all_ports: World,
    for_everybody: World,
}

impl Scene {
    fn new(question: &Value) -> Self {
        let parse = |field: &str| question[field].clone();
        let cluster: Cluster = serde_json::from_value(parse("cluster")).expect("a cluster");
        let settings: Settings = serde_json::from_value(parse("config")).expect("settings");
        let policies: Vec<Value> = serde_json::from_value(parse("policies")).expect("policies");
        let written = Written::new(&policies);
        let world = world(&cluster, &settings, &policies);
        let nodes = cluster.nodes.iter().map(|node| {
            let mut state = world.state(&node.name).expect("the node's state");
            let documents = policy_documents(&written.text);
            for policy in &mut state.policies {
                let is_its = |document: &&axon_api::manifest::PolicyDocument<'_>| {
                    document.policy.origin == policy.object.origin
                };
                let document = documents.iter().rfind(is_its).expect("its document");
                policy.file = FILE.to_owned();
                policy.line = document.line;
                document.text.clone_into(&mut policy.text);
            }
            // As it comes out of a sysdump.
            let text = serde_json::to_string(&state).expect("JSON");
            let state = serde_json::from_str(&text).expect("a state");
            (node.name.clone(), Node::load(state).expect("a node"))
        });
        let nodes = nodes.collect();
        // What is denied whatever policies say has no policy as its cause.
        let by_default = Settings {
            enforcement: "default".to_owned(),
            ..settings.clone()
        };
        let one = |policy: &Value| world_of(&cluster, &by_default, policy);
        let ends = ["egress", "ingress"].map(|direction| {
            let deny = leaves(&policies, &format!("{direction}Deny"));
            let deny = deny.into_iter().filter_map(|leaf| {
                let world = one(&leaf.alone)?;
                Some((leaf, world))
            });
            let allow = leaves(&policies, direction).into_iter();
            let allow = allow.filter_map(|leaf| {
                Some(Allowing {
                    alone: one(&leaf.alone)?,
                    on_all_ports: one(&leaf.on_all_ports)?,
                    for_everybody: one(&leaf.for_everybody)?,
                    leaf,
                })
            });
            let end = End {
                denying: deny.collect(),
                allowing: allow.collect(),
            };
            (direction, end)
        });
        Self {
            world,
            nodes,
            written,
            ends: ends.into(),
            alone: policies.iter().filter_map(one).collect(),
            unruled: self::world(&cluster, &by_default, &[]),
            policies,
            cluster,
        }
    }

    /// The policies by which what none allows is denied at an end.
    fn enforcing(&self, probe: &Probe, direction: &str) -> BTreeSet<String> {
        let alone = self.policies.iter().zip(&self.alone);
        let denying = alone.filter(|(_, world)| denies(world, probe, direction));
        denying.map(|(policy, _)| name(policy)).collect()
    }

    /// What is told of one denied end that is not right.
    fn check(
        &self,
        (probe, explanation): (&Probe, &Explanation),
        direction: &'static str,
        count: &mut Count,
    ) -> Result<(), String> {
        let judged = explanation.hooks.iter().flat_map(|hook| &hook.judgements);
        let judged: Vec<_> = judged.filter(|j| j.direction == direction).collect();
        let Some(judgement) = judged.first() else {
            let reason = explanation.hooks.iter().find_map(|hook| hook.drop_reason);
            let Some(reason) = reason else {
                return Err(format!("nobody is asked: {explanation:?}"));
            };
            *count.left_out.entry(reason.to_owned()).or_default() += 1;
            return Ok(());
        };
        if (judgement.said, explanation.verdict) != (Said::Denied, Outcome::Denied) {
            return Err(format!("let through: {}", explanation.reason));
        }
        let end = &self.ends[direction];
        let demanded = auth(&self.world, probe, direction);
        let causes: Vec<&Leaf> = if demanded.demands() {
            let demanding = end.allowing.iter();
            let demanding = demanding.filter(|a| auth(&a.alone, probe, direction) == demanded);
            demanding.map(|allowing| &allowing.leaf).collect()
        } else {
            let denying = end.denying.iter();
            let denying = denying.filter(|(_, world)| denies(world, probe, direction));
            denying.map(|(leaf, _)| leaf).collect()
        };
        if demanded.demands() && causes.is_empty() {
            return Err("nobody demands it".to_owned());
        }
        match causes[..] {
            [] => {
                count.by_default += 1;
                self.by_default(probe, judgement, direction)?;
            }
            [_] => count.by_rule += 1,
            _ => count.by_several += 1,
        }
        if causes.is_empty() {
            return Ok(());
        }
        let Some(place) = &judgement.place else {
            return Err(format!("no place: {}", judgement.words));
        };
        if judgement.decided_by != DecidedBy::Rule || !explanation.reason.contains(&place.policy) {
            return Err(format!("not by the rule: {}", explanation.reason));
        }
        let right = |leaf: &&Leaf| self.is_at(place, leaf);
        match causes.iter().any(right) {
            true => Ok(()),
            false => Err(format!(
                "{place}, expected one of {:?}",
                causes
                    .iter()
                    .map(|leaf| self.place(leaf))
                    .collect::<Vec<_>>()
            )),
        }
    }

    fn by_default(
        &self,
        probe: &Probe,
        judgement: &JudgementView,
        direction: &str,
    ) -> Result<(), String> {
        if judgement.decided_by != DecidedBy::Default {
            return Err(format!("by {:?}: {}", judgement.place, judgement.words));
        }
        let told: BTreeSet<String> = judgement.enforcing.iter().cloned().collect();
        let expected = self.enforcing(probe, direction);
        // An endpoint without labels is closed whatever policies say.
        let closed = denies(&self.unruled, probe, direction) && told.is_subset(&expected);
        if told != expected && !closed {
            return Err(format!("enforced by {told:?}, expected {expected:?}"));
        }
        let about = self.ends[direction].allowing.iter();
        let about: Vec<&Allowing> = about
            .filter(|allowing| denies(&allowing.alone, probe, direction))
            .collect();
        let is_told = |closest: &Closest| {
            let at = |allowing: &&&Allowing| self.is_at(&closest.place, &allowing.leaf);
            about.iter().find(at).copied()
        };
        for closest in &judgement.closest {
            if is_told(closest).is_none() {
                return Err(format!("close: {}, which is not about it", closest.place));
            }
        }
        let Some(first) = judgement.closest.first() else {
            return match about.is_empty() {
                true => Ok(()),
                false => Err("nothing is close".to_owned()),
            };
        };
        let passes = |world: &World| !denies(world, probe, direction);
        let by_port = |allowing: &Allowing| passes(&allowing.on_all_ports);
        let by_peer = |allowing: &Allowing| passes(&allowing.for_everybody);
        let is_close = is_told(first).is_some_and(|a| by_port(a) || by_peer(a));
        match about.iter().any(|allowing| by_port(allowing)) && !is_close {
            true => Err(format!("{} is not the closest", first.place)),
            false => Ok(()),
        }
    }

    fn place<'a>(&self, leaf: &'a Leaf) -> (String, &'a str, usize) {
        let name = name(&self.policies[leaf.policy]);
        let line = self.written.line(leaf.policy, &leaf.path);
        (name, &leaf.path, line.expect("a line"))
    }

    fn is_at(&self, place: &PlaceView, leaf: &Leaf) -> bool {
        let kind = self.policies[leaf.policy]["kind"].as_str().expect("a kind");
        let (policy, path, line) = self.place(leaf);
        let told = (place.policy.as_str(), place.path.as_str(), place.line);
        told == (&policy, path, line) && place.file == FILE && place.kind == kind
    }

    /// The address of an end, and the node that enforces upon it.
    fn find(&self, end: &axon_evaluate::End) -> (IpAddr, Option<&str>) {
        let cluster = &self.cluster;
        let pods = cluster.pods.iter().map(|pod| {
            let name = format!("{}/{}", pod.namespace, pod.name);
            (axon_evaluate::End::Pod(name), pod.ip, pod.node.as_str())
        });
        let nodes = cluster.nodes.iter().map(|node| {
            let end = axon_evaluate::End::Node(node.name.clone());
            (end, node.ip, node.name.as_str())
        });
        let specials = cluster.specials.iter().map(|special| {
            let end = axon_evaluate::End::Special(special.name.clone());
            (end, special.ip, special.node.as_str())
        });
        let mut all = pods.chain(nodes).chain(specials);
        let is_it = |known: &axon_evaluate::End, ip: IpAddr| match end {
            axon_evaluate::End::Ip(asked) => *asked == ip,
            named => named == known,
        };
        let found = all.find(|(known, ip, _)| is_it(known, *ip));
        match (found, end) {
            (Some((_, ip, node)), _) => (ip, Some(node)),
            (None, axon_evaluate::End::Ip(ip)) => (*ip, None),
            (None, other) => panic!("{other:?} is nobody"),
        }
    }
}

/// The world that has these policies.
fn world(cluster: &Cluster, settings: &Settings, policies: &[Value]) -> World {
    let config = World::config(cluster, settings).expect("settings");
    let accepted = policies.iter().map(|policy| match judge(&config, policy) {
        Judgement::Accepted(policy) => *policy,
        Judgement::Refused(reason) => panic!("{reason}: {policy}"),
    });
    World::new(cluster.clone(), settings, accepted.collect()).expect("a world")
}

/// The same for one piece of a policy, which need not be one.
fn world_of(cluster: &Cluster, settings: &Settings, policy: &Value) -> Option<World> {
    let config = World::config(cluster, settings).expect("settings");
    match judge(&config, policy) {
        Judgement::Accepted(policy) => {
            Some(World::new(cluster.clone(), settings, vec![*policy]).expect("a world"))
        }
        Judgement::Refused(_) => None,
    }
}

fn denies(world: &World, probe: &Probe, direction: &str) -> bool {
    word(&world.verdict(probe).expect("a verdict"), direction) == Word::Deny
}

/// What is lacking at an end.
fn auth(world: &World, probe: &Probe, direction: &str) -> Auth {
    let verdict = world.verdict(probe).expect("a verdict");
    match direction {
        "egress" => verdict.egress.auth,
        _ => verdict.ingress.auth,
    }
}

fn word(verdict: &Verdict, direction: &str) -> Word {
    match direction {
        "egress" => verdict.egress.word,
        _ => verdict.ingress.word,
    }
}

/// The name of a policy, as people are told it.
fn name(policy: &Value) -> String {
    let metadata = &policy["metadata"];
    let name = metadata["name"].as_str().expect("a name");
    let namespace = metadata["namespace"].as_str().unwrap_or("default");
    match policy["kind"].as_str() {
        Some("CiliumClusterwideNetworkPolicy") => name.to_owned(),
        _ => format!("{namespace}/{name}"),
    }
}

fn packet(scene: &Scene, probe: &Probe, tree: &Value) -> Option<Packet> {
    let number = |field: &str| tree[field].as_u64().and_then(|n| u16::try_from(n).ok());
    let ports = || Some([40000, number("port")?]);
    let transport = match tree["protocol"].as_str()?.to_uppercase().as_str() {
        "TCP" => Transport::Tcp {
            ports: ports()?,
            flags: Transport::SYN,
        },
        "UDP" => Transport::Udp { ports: ports()? },
        "SCTP" => Transport::Sctp { ports: ports()? },
        "ICMP" | "ICMPV6" => Transport::Icmp {
            kind: u8::try_from(number("icmp_type")?).ok()?,
            code: 0,
            id: 7,
        },
        _ => return None,
    };
    Some(Packet {
        source: scene.find(&probe.from).0,
        destination: scene.find(&probe.to).0,
        transport,
    })
}

/// What is wrong with what is told of a case's denied connections.
fn wrong(case: &Case, count: &mut Count) -> Vec<String> {
    let mut wrong = Vec::new();
    let literal = case.is_literal().then_some(true);
    for literal in [false].into_iter().chain(literal) {
        for (step, state) in case.states().enumerate() {
            let asked = state.asked(literal);
            let scene = Scene::new(&case.question(state, &asked, literal));
            for asked in &asked {
                let found = look(&scene, asked, count);
                wrong.extend(found.into_iter().map(|text| {
                    format!("step {step} (literal: {literal}): {}: {text}", asked.probe)
                }));
            }
        }
    }
    wrong
}

fn look(scene: &Scene, asked: &Asked, count: &mut Count) -> Vec<String> {
    let tree = &asked.probe;
    let expected = |field: &str| {
        let mut expected = asked.expected.iter();
        expected.find_map(|(of, word)| (*of == field).then(|| word.clone()))
    };
    let probe = Probe::parse(tree).expect("a probe");
    let verdict = scene.world.verdict(&probe).expect("a verdict");
    if let Some(word) = expected("verdict") {
        assert_eq!(word, verdict.word().text(), "{tree}: see the test of cases");
    }
    if verdict.word() != Word::Deny {
        return Vec::new();
    }
    let nodes = [&probe.from, &probe.to].map(|end| scene.find(end).1);
    let directions = [("egress", nodes[0]), ("ingress", nodes[1])];
    let denied = directions.into_iter();
    let denied = denied.filter(|(direction, _)| word(&verdict, direction) == Word::Deny);
    let mut wrong = Vec::new();
    for (n, (direction, node)) in denied.enumerate() {
        // What the sender's policy denies, the receiver's on its node is not asked.
        if n > 0 && nodes[0] == nodes[1] {
            continue;
        }
        let left_out = |what: &str, count: &mut Count| {
            *count.left_out.entry(what.to_owned()).or_default() += 1;
        };
        let node = node.and_then(|node| scene.nodes.get(node)).expect("a node");
        let Some(packet) = packet(scene, &probe, tree) else {
            left_out("protocol without ports", count);
            continue;
        };
        let result = match explain(node, &packet, None) {
            Ok(explanation) => scene.check((&probe, &explanation), direction, count),
            Err(NotHere::Packet(_)) => {
                left_out("ends of two families", count);
                continue;
            }
            Err(error) => Err(error.to_string()),
        };
        wrong.extend(result.err().map(|error| format!("{direction}: {error}")));
    }
    wrong
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory of cases") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "yaml") {
            found.push(path);
        }
    }
}

fn run(dirs: &[PathBuf]) {
    let mut found = Vec::new();
    for dir in dirs {
        files(dir, &mut found);
    }
    found.sort();
    let (mut count, mut failures) = (Count::default(), Vec::new());
    for file in &found {
        let text = std::fs::read_to_string(file).expect("case");
        let case: Case = serde_norway::from_str(&text)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let title = &case.title;
        if case.expect_reject.is_some() || case.unsure {
            continue;
        }
        let wrong = wrong(&case, &mut count);
        failures.extend(
            wrong
                .into_iter()
                .map(|text| format!("{} ({title}): {text}", case.name)),
        );
    }
    println!("{} cases: {count:?}", found.len());
    assert!(
        failures.is_empty(),
        "{} wrong:\n{}",
        failures.len(),
        failures.join("\n")
    );
    assert!(count.by_rule > 0 && count.by_default > 0, "{count:?}");
}

#[test]
fn denied_connections_of_our_own_cases_have_their_causes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    run(&[
        root.join("tests/policy-cases"),
        root.join("../axon/tests/conformance/cases"),
    ]);
}

#[test]
fn denied_connections_of_cases_from_elsewhere_have_their_causes() {
    let named = std::env::var_os("AXON_POLICY_CASES").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/policy-cases");
    match named.unwrap_or(beside) {
        dir if dir.is_dir() => run(&[dir]),
        dir => println!("skipped: {} is no directory of cases", dir.display()),
    }
}
