//! A case as it is written, and the connections that it stands for.

use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) title: String,
    #[serde(default)]
    pub(crate) unsure: bool,
    #[serde(default)]
    config: Map<String, Value>,
    #[serde(flatten)]
    state: State,
    steps: Option<Vec<State>>,
    pub(crate) expect_reject: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct State {
    #[serde(default)]
    cluster: Map<String, Value>,
    #[serde(default)]
    policies: Vec<Value>,
    #[serde(default)]
    probes: Vec<Map<String, Value>>,
    expect: Option<Matrices>,
    expect_ipblock_covers_pods: Option<Matrices>,
}

#[derive(Debug, Deserialize)]
struct Matrices {
    grid: Grid,
    #[serde(default)]
    external: Vec<Line>,
    #[serde(default)]
    nodes: Vec<Line>,
}

#[derive(Debug, Deserialize)]
struct Grid {
    order: Vec<String>,
    probes: Vec<GridProbe>,
}

#[derive(Debug, Deserialize)]
struct GridProbe {
    port: u16,
    protocol: String,
    both: String,
    ingress: String,
    egress: String,
}

#[derive(Debug, Deserialize)]
struct Line {
    ip: Option<String>,
    node: Option<String>,
    port: u16,
    protocol: String,
    #[serde(alias = "from_ip_to_pods", alias = "from_node_to_pods")]
    to_pods: String,
    from_pods_to_ip: Option<String>,
}

/// A connection, and fields of its answer.
pub(crate) struct Asked {
    pub(crate) probe: Value,
    pub(crate) expected: Vec<(&'static str, Value)>,
}

impl Case {
    pub(crate) fn states(&self) -> impl Iterator<Item = &State> {
        let one = std::slice::from_ref(&self.state);
        self.steps.as_deref().unwrap_or(one).iter()
    }

    /// Whether it says what is expected where prefixes select whoever has their
    /// addresses.
    pub(crate) fn is_literal(&self) -> bool {
        let mut states = self.states();
        states.any(|state| state.expect_ipblock_covers_pods.is_some())
    }

    pub(crate) fn question(&self, state: &State, asked: &[Asked], literal: bool) -> Value {
        let mut config = self.config.clone();
        if literal {
            let modes = json!(["nodes", "pods"]);
            config.insert("policyCIDRMatchMode".to_owned(), modes);
        }
        let probes: Vec<&Value> = asked.iter().map(|asked| &asked.probe).collect();
        json!({
            "case": self.name,
            "config": config,
            "cluster": state.cluster,
            "policies": state.policies,
            "probes": probes,
        })
    }
}

impl State {
    /// The connections, and those that the matrices stand for.
    pub(crate) fn asked(&self, literal: bool) -> Vec<Asked> {
        let mut asked: Vec<Asked> = self.probes.iter().map(single).collect();
        let other = self.expect_ipblock_covers_pods.as_ref();
        let other = other.filter(|_| literal);
        if let Some(matrices) = other.or(self.expect.as_ref()) {
            matrices.grid(&mut asked);
            matrices.lines(&mut asked);
        }
        asked
    }
}

fn single(probe: &Map<String, Value>) -> Asked {
    let mut probe = probe.clone();
    let mut expected = Vec::new();
    for (field, of_answer) in [
        ("expect", "verdict"),
        ("egress", "egress"),
        ("ingress", "ingress"),
        ("l7_expect", "l7"),
        ("auth", "auth"),
    ] {
        let value = probe.remove(field);
        expected.extend(value.map(|value| (of_answer, value)));
    }
    Asked {
        probe: probe.into(),
        expected,
    }
}

impl Matrices {
    fn grid(&self, asked: &mut Vec<Asked>) {
        let pods = &self.grid.order;
        for grid in &self.grid.probes {
            let cell = |text: &str, s: usize, d: usize| {
                word(text.split(' ').nth(s).expect("a word").as_bytes()[d])
            };
            for (s, from) in pods.iter().enumerate() {
                for (d, to) in pods.iter().enumerate().filter(|(d, _)| *d != s) {
                    asked.push(Asked {
                        probe: probe(&json!({"pod": from}), &json!({"pod": to}), grid.l4()),
                        expected: vec![
                            ("verdict", cell(&grid.both, s, d)),
                            ("egress", cell(&grid.egress, s, d)),
                            ("ingress", cell(&grid.ingress, s, d)),
                        ],
                    });
                }
            }
        }
    }

    fn lines(&self, asked: &mut Vec<Asked>) {
        for line in self.external.iter().chain(&self.nodes) {
            let far = match (&line.ip, &line.node) {
                (Some(ip), _) => json!({"ip": ip}),
                (None, node) => json!({"node": node}),
            };
            let l4 = || (line.protocol.as_str(), line.port);
            for (pod, letter) in self.grid.order.iter().zip(line.to_pods.bytes()) {
                asked.push(Asked {
                    probe: probe(&far, &json!({"pod": pod}), l4()),
                    expected: vec![("verdict", word(letter)), ("ingress", word(letter))],
                });
            }
            let back = line.from_pods_to_ip.iter().flat_map(|text| text.bytes());
            for (pod, letter) in self.grid.order.iter().zip(back) {
                asked.push(Asked {
                    probe: probe(&json!({"pod": pod}), &far, l4()),
                    expected: vec![("verdict", word(letter)), ("egress", word(letter))],
                });
            }
        }
    }
}

impl GridProbe {
    fn l4(&self) -> (&str, u16) {
        (&self.protocol, self.port)
    }
}

fn probe(from: &Value, to: &Value, (protocol, port): (&str, u16)) -> Value {
    json!({"from": from, "to": to, "protocol": protocol, "port": port})
}

fn word(letter: u8) -> Value {
    if letter == b'A' { "allow" } else { "deny" }.into()
}
