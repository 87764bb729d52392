//! A service case as its file has it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::ask::{PATIENCE, SILENCE};
use crate::case::{Protocol, agents_know, trees};

/// A file of the collection.
#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) unsure: bool,
    #[serde(default)]
    live: Live,
    #[serde(default)]
    pub(crate) config: Map<String, Value>,
    #[serde(default)]
    pub(crate) outside: Vec<Host>,
    #[serde(default)]
    pub(crate) listeners: Vec<Listener>,
    manifests: Vec<Value>,
    #[serde(default)]
    probes: Vec<Probe>,
    expect_reports: Option<Vec<Report>>,
    #[serde(default)]
    steps: Vec<Step>,
}

#[derive(Debug, Default, Deserialize)]
struct Live {
    /// Absent: yes.
    possible: Option<bool>,
    #[serde(default)]
    needs: Vec<String>,
}

/// A host that is not in the cluster.
#[derive(Debug, Deserialize)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
}

/// A process of a node that listens already.
#[derive(Debug, Deserialize)]
pub(crate) struct Listener {
    pub(crate) node: String,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

#[derive(Debug, Deserialize)]
struct Step {
    #[serde(default)]
    apply: Vec<Value>,
    #[serde(default)]
    delete: Vec<Name>,
    #[serde(default)]
    wait: u64,
    #[serde(default)]
    probes: Vec<Probe>,
    expect_reports: Option<Vec<Report>>,
}

/// What is to be told of an object that is not right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) struct Report {
    /// `Kind namespace/name`.
    pub(crate) object: String,
    #[serde(default)]
    pub(crate) field: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Name {
    kind: String,
    #[serde(default)]
    namespace: String,
    name: String,
}

impl Name {
    fn of(object: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &object["metadata"];
        Self {
            kind: text(&object["kind"]),
            namespace: text(&metadata["namespace"]),
            name: text(&metadata["name"]),
        }
    }
}

/// A state of the cluster, and what is asked in it.
pub(crate) struct State<'c> {
    pub(crate) objects: Vec<Value>,
    /// Seconds to let pass before anything is asked.
    pub(crate) wait: u64,
    pub(crate) probes: &'c [Probe],
    /// What is to be reported, and nothing else; none where that is not compared.
    pub(crate) reports: Option<&'c [Report]>,
}

/// Who asks.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum From {
    /// `namespace/name`.
    Pod(String),
    /// A node itself.
    Node(String),
    /// A host that is not in the cluster.
    Outside(String),
}

/// What is asked.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct To {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    /// The node that hosts outside send this by.
    #[serde(default)]
    pub(crate) via: Option<String>,
}

/// A connection that outlives its state.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Connection {
    Open(String),
    Use(String),
}

/// Connections, and what is expected of them.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Probe {
    pub(crate) id: String,
    pub(crate) from: From,
    pub(crate) to: To,
    pub(crate) protocol: Protocol,
    #[serde(default = "one")]
    pub(crate) count: usize,
    #[serde(default)]
    pub(crate) same_source_port: Option<u16>,
    #[serde(default)]
    pub(crate) connection: Option<Connection>,
    #[serde(default)]
    pub(crate) compare_with: Option<String>,
    #[serde(default)]
    pub(crate) http: Option<String>,
    expect: Map<String, Value>,
    #[serde(default)]
    expect_cilium: Map<String, Value>,
}

fn one() -> usize {
    1
}

/// What is expected.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Expected {
    pub(crate) result: Option<Reply>,
    pub(crate) backends: Option<Vec<String>>,
    pub(crate) exactly_one: Option<bool>,
    pub(crate) share: BTreeMap<String, [f64; 2]>,
    pub(crate) source: Value,
    pub(crate) peer: Option<String>,
    pub(crate) health: Option<Health>,
    pub(crate) same_as: Option<String>,
    pub(crate) continues: Option<Continues>,
}

impl Expected {
    /// How long an answer is waited for: only where none is to come does silence end it.
    pub(crate) fn wait(&self) -> Duration {
        match (self.continues, self.result) {
            (Some(Continues::Yes), _) | (None, Some(Reply::Answer)) => PATIENCE,
            _ => SILENCE,
        }
    }
}

/// What comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Reply {
    Answer,
    Refused,
    Dropped,
    None,
}

/// What a node tells of its backends.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Health {
    pub(crate) code: u16,
    pub(crate) local_endpoints: Option<u64>,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Continues {
    Yes,
    Moves,
    No,
}

impl Probe {
    /// What is expected of us: what Cilium's documentation says comes before what
    /// Kubernetes' does.
    pub(crate) fn expected(&self) -> Result<Expected, String> {
        let mut all = self.expect.clone();
        all.extend(self.expect_cilium.clone());
        serde_json::from_value(all.into()).map_err(|error| format!("{}: {error}", self.id))
    }
}

impl Case {
    /// Why it cannot be played.
    pub(crate) fn skipped(&self) -> Option<String> {
        if self.live.possible == Some(false) {
            return Some("says itself that it is not live".to_owned());
        }
        if self.asks_for_dsr() {
            return Some("needs backends that answer clients themselves (DSR)".to_owned());
        }
        let mut unknown = self.config.keys().filter(|option| !agents_know(option));
        if let Some(option) = unknown.next() {
            return Some(format!("needs the option {option}"));
        }
        None
    }

    /// Whether answers are to come from the backend's node, which no program does yet
    /// (`docs/decisions/0008-services-packet-by-packet.md`). Where that is off, the case is
    /// about its being off.
    fn asks_for_dsr(&self) -> bool {
        let mode = self.config.get("bpf-lb-mode").and_then(Value::as_str);
        let is_on = mode.is_some_and(|mode| mode != "snat")
            || self.config.get("bpf-lb-mode-annotation") == Some(&Value::Bool(true));
        is_on && self.live.needs.iter().any(|need| need == "dsr")
    }

    /// Its states, one after the other, each with all that is in the cluster then.
    pub(crate) fn states(&self) -> Vec<State<'_>> {
        let of = |object: &Value| (Name::of(object), object.clone());
        let mut objects: BTreeMap<Name, Value> = self.manifests.iter().map(of).collect();
        let now = |objects: &BTreeMap<Name, Value>| objects.values().cloned().collect();
        let mut states = vec![State {
            objects: now(&objects),
            wait: 0,
            probes: &self.probes,
            reports: self.expect_reports.as_deref(),
        }];
        for step in &self.steps {
            for name in &step.delete {
                objects.remove(name);
            }
            objects.extend(step.apply.iter().map(of));
            states.push(State {
                objects: now(&objects),
                wait: step.wait,
                probes: &step.probes,
                reports: step.expect_reports.as_deref(),
            });
        }
        states
    }

    /// What a lab has to be for it. Alike are played one after the other, and in this
    /// order a lab has to change the least: a node takes seconds to come.
    pub(crate) fn lab(&self) -> Likeness {
        let is_node = |object: &&Value| object["kind"] == "Node";
        let mut likeness = Likeness {
            config: Value::from(self.config.clone()).to_string(),
            ..Likeness::default()
        };
        for node in self.manifests.iter().filter(is_node) {
            let name = node["metadata"]["name"].as_str().unwrap_or_default();
            let places = format!("{} {}", node["status"]["addresses"], node["spec"]);
            likeness.nodes.insert(name.to_owned(), places);
            likeness.labels.push(node["metadata"]["labels"].to_string());
        }
        likeness
    }
}

/// What a lab is.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Likeness {
    /// The nodes' addresses, which cannot change while they are there.
    nodes: BTreeMap<String, String>,
    labels: Vec<String>,
    /// The agents' options.
    config: String,
}

impl Likeness {
    /// Whether a lab can be made another one: nodes come and go, and agents start with
    /// other options, but a node keeps its addresses.
    pub(crate) fn can_become(&self, other: &Self) -> bool {
        let mut nodes = other.nodes.iter();
        nodes.all(|(name, node)| self.nodes.get(name).is_none_or(|own| own == node))
    }
}

/// Every case below a directory, in the order of their names.
pub(crate) fn read(dir: &Path) -> Vec<Case> {
    let cases = trees(dir).into_iter().map(|(file, tree)| {
        serde_json::from_value::<Case>(tree)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    });
    let mut cases: Vec<Case> = cases.collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

#[test]
fn a_step_changes_what_it_names() {
    let object = |kind: &str, name: &str, labels: Value| serde_json::json!({"kind": kind, "metadata": {"namespace": "a", "name": name, "labels": labels}});
    let tree = serde_json::json!({
        "name": "n", "title": "t", "kind": "k",
        "manifests": [object("Pod", "p", 1.into()), object("Service", "s", 1.into())],
        "probes": [{
            "id": "one", "from": {"pod": "a/p"}, "to": {"address": "fd00::1", "port": 80},
            "protocol": "TCP", "expect": {"result": "answer", "source": "preserved"},
            "expect_cilium": {"result": "none"},
        }],
        "steps": [{
            "apply": [object("Pod", "p", 2.into()), object("Pod", "q", 1.into())],
            "delete": [{"kind": "Service", "namespace": "a", "name": "s"}],
            "wait": 3,
        }],
    });
    let case: Case = serde_json::from_value(tree).expect("a case");
    let states = case.states();
    let [first, second] = &states[..] else {
        panic!("two states")
    };
    let expected = first.probes[0].expected().expect("expectations");
    assert_eq!(expected.result, Some(Reply::None));
    assert_eq!(expected.source, "preserved");
    let names: Vec<String> = second
        .objects
        .iter()
        .map(|o| format!("{} {}", o["metadata"]["name"], o["metadata"]["labels"]))
        .collect();
    assert_eq!(names, ["\"p\" 2", "\"q\" 1"]);
    assert_eq!(second.wait, 3);
}

#[test]
fn what_no_program_does_is_skipped_where_it_is_on() {
    let skipped = |config: Value, needs: &[&str]| {
        let tree = serde_json::json!({
            "name": "n", "title": "t", "kind": "k", "manifests": [], "config": config,
            "live": {"needs": needs},
        });
        let case: Case = serde_json::from_value(tree).expect("a case");
        case.asks_for_dsr()
    };
    let mode = |mode: &str| serde_json::json!({"bpf-lb-mode": mode});
    let by_annotation = serde_json::json!({"bpf-lb-mode": "snat", "bpf-lb-mode-annotation": true});
    assert!(skipped(mode("hybrid"), &["dsr"]) && skipped(by_annotation, &["dsr"]));
    assert!(!skipped(mode("snat"), &["dsr"]) && !skipped(mode("dsr"), &["outside-hosts"]));
}

#[test]
fn a_lab_becomes_another_but_for_its_nodes_addresses() {
    let node = |name: &str, zone: &str, address: &str| {
        let address = serde_json::json!({"type": "InternalIP", "address": address});
        serde_json::json!({
            "kind": "Node", "metadata": {"name": name, "labels": {"zone": zone}},
            "status": {"addresses": [address]},
        })
    };
    let lab = |nodes: &[Value], config: Value| {
        let tree = serde_json::json!({
            "name": "n", "title": "t", "kind": "k", "manifests": nodes, "config": config,
        });
        serde_json::from_value::<Case>(tree).expect("a case").lab()
    };
    let [a, b] = [node("a", "z", "192.0.2.1"), node("b", "z", "192.0.2.2")];
    let one = lab(std::slice::from_ref(&a), serde_json::json!({}));
    let two = lab(&[a.clone(), b], serde_json::json!({}));
    let other_options = lab(&[a], serde_json::json!({"x": true}));
    let other_labels = lab(&[node("a", "y", "192.0.2.1")], serde_json::json!({}));
    let elsewhere = lab(&[node("a", "z", "192.0.2.9")], serde_json::json!({}));
    for other in [&two, &other_options, &other_labels] {
        assert!(one != *other && one.can_become(other) && other.can_become(&one));
    }
    assert!(!one.can_become(&elsewhere) && !elsewhere.can_become(&two));
    assert!(one < two);
}
