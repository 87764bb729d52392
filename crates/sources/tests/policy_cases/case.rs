//! A case, and its check.

use std::collections::BTreeMap;

use axon_policy::Request;
use serde::Deserialize;
use serde_json::Value;

use crate::world::{End, Setting, World};

#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) title: String,
    #[serde(default)]
    pub(crate) unsure: bool,
    #[serde(default)]
    config: Setting,
    #[serde(flatten)]
    state: State,
    steps: Option<Vec<State>>,
    expect_reject: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
struct State {
    #[serde(default)]
    cluster: Value,
    #[serde(default)]
    policies: Vec<Value>,
    #[serde(default)]
    probes: Vec<Probe>,
    expect: Option<Matrices>,
    expect_ipblock_covers_pods: Option<Matrices>,
}

#[derive(Clone, Debug, Deserialize)]
struct Probe {
    from: End,
    to: End,
    protocol: String,
    #[serde(alias = "icmp_type", default)]
    port: u16,
    expect: String,
    egress: Option<String>,
    ingress: Option<String>,
    #[serde(flatten)]
    said: Said,
    l7_expect: Option<String>,
}

/// What is said on the connection.
#[derive(Clone, Debug, Default, Deserialize)]
struct Said {
    http: Option<Http>,
    dns: Option<Dns>,
    kafka: Option<Kafka>,
    tls: Option<Tls>,
}

#[derive(Clone, Debug, Deserialize)]
struct Http {
    method: String,
    path: String,
    host: String,
    headers: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Dns {
    query: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kafka {
    api_key: String,
    topics: Vec<String>,
    #[serde(rename = "clientID")]
    client_id: String,
    api_version: i16,
}

#[derive(Clone, Debug, Deserialize)]
struct Tls {
    sni: String,
}

impl Said {
    fn request(&self) -> Option<Request> {
        let own = self.clone();
        let http = own.http.map(|http| Request::Http {
            method: http.method,
            path: http.path,
            host: http.host,
            headers: http.headers.into_iter().collect(),
        });
        let dns = own.dns.map(|dns| Request::Dns { query: dns.query });
        let kafka = own.kafka.map(|kafka| Request::Kafka {
            api_key: match kafka.api_key.as_str() {
                "produce" => 0,
                "fetch" => 1,
                "metadata" => 3,
                "apiversions" => 18,
                other => panic!("no number for {other}"),
            },
            api_version: kafka.api_version,
            client_id: kafka.client_id,
            topics: kafka.topics,
        });
        let tls = own.tls.map(|tls| Request::Tls {
            server_name: tls.sni,
        });
        http.or(dns).or(kafka).or(tls)
    }
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

pub(crate) enum Outcome {
    Held(usize),
    Skipped(String),
    Failed(Vec<String>),
}

impl Case {
    pub(crate) fn check(&self) -> Outcome {
        let outcome = self.check_states(&self.config, false);
        let Outcome::Held(checked) = outcome else {
            return outcome;
        };
        let mut states = self.states().iter();
        if states.all(|state| state.expect_ipblock_covers_pods.is_none()) {
            return outcome;
        }
        // Once more, as Kubernetes' words are read literally.
        match self.check_states(&self.config.literal(), true) {
            Outcome::Held(literal) => Outcome::Held(checked + literal),
            other => other,
        }
    }

    fn states(&self) -> &[State] {
        let one = std::slice::from_ref(&self.state);
        self.steps.as_deref().unwrap_or(one)
    }

    fn check_states(&self, config: &Setting, literal: bool) -> Outcome {
        let mut checked = 0;
        for state in self.states() {
            let world = World::new(&state.cluster, config, &state.policies);
            let world = match (world, &self.expect_reject) {
                (Err(_), Some(_)) => return Outcome::Held(1),
                (Ok(_), Some(reason)) => {
                    return Outcome::Failed(vec![format!("accepted; expected refusal: {reason}")]);
                }
                (Err(error), None) if error.message.contains("not supported yet") => {
                    return Outcome::Skipped(error.path);
                }
                (Err(error), None) => return Outcome::Failed(vec![error.to_string()]),
                (Ok(world), None) => world,
            };
            let probes = state.probes(literal);
            checked += probes.len();
            let failed: Vec<String> = probes.iter().filter_map(|p| p.check(&world)).collect();
            if !failed.is_empty() {
                return Outcome::Failed(failed);
            }
        }
        Outcome::Held(checked)
    }
}

impl Probe {
    fn check(&self, world: &World) -> Option<String> {
        let protocol = self.protocol.parse().expect("protocol");
        let (egress, ingress) = world.verdicts(&self.from, &self.to, protocol, self.port);
        let either = |word: &str| egress == word || ingress == word;
        let both = ["deny", "redirect"].into_iter().find(|word| either(word));
        let is = |expected: &Option<String>, found: &str| {
            expected.as_deref().is_none_or(|expected| expected == found)
        };
        let good = both.unwrap_or("allow") == self.expect
            && is(&self.egress, egress)
            && is(&self.ingress, ingress)
            && self.l7_expect.as_ref().is_none_or(|expected| {
                let request = self.said.request().expect("something said");
                let ends = (&self.from, &self.to);
                let passes = world.passes(ends, protocol, self.port, &request);
                expected == if passes { "allow" } else { "deny" }
            });
        (!good).then(|| format!("{self:?}: got egress {egress}, ingress {ingress}"))
    }
}

impl State {
    /// The probes, and those that the matrices stand for.
    fn probes(&self, literal: bool) -> Vec<Probe> {
        let mut probes = self.probes.clone();
        let other = self.expect_ipblock_covers_pods.as_ref();
        let other = other.filter(|_| literal);
        let Some(matrices) = other.or(self.expect.as_ref()) else {
            return probes;
        };
        let pods = &matrices.grid.order;
        for grid in &matrices.grid.probes {
            let letters = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
            let cell = |text: &str, s: usize, d: usize| word(letters(text)[s].as_bytes()[d]);
            for (s, from) in pods.iter().enumerate() {
                for (d, to) in pods.iter().enumerate().filter(|(d, _)| *d != s) {
                    probes.push(Probe {
                        from: End::pod(from),
                        to: End::pod(to),
                        protocol: grid.protocol.clone(),
                        port: grid.port,
                        expect: cell(&grid.both, s, d),
                        egress: Some(cell(&grid.egress, s, d)),
                        ingress: Some(cell(&grid.ingress, s, d)),
                        said: Said::default(),
                        l7_expect: None,
                    });
                }
            }
        }
        for line in matrices.external.iter().chain(&matrices.nodes) {
            let far = End::far(line.ip.as_deref(), line.node.as_deref());
            let probe = |from: &End, to: &End, letter: u8| Probe {
                from: from.clone(),
                to: to.clone(),
                protocol: line.protocol.clone(),
                port: line.port,
                expect: word(letter),
                egress: None,
                ingress: None,
                said: Said::default(),
                l7_expect: None,
            };
            for (pod, letter) in pods.iter().zip(line.to_pods.bytes()) {
                probes.push(probe(&far, &End::pod(pod), letter));
            }
            let back = line.from_pods_to_ip.iter().flat_map(|text| text.bytes());
            for (pod, letter) in pods.iter().zip(back) {
                probes.push(probe(&End::pod(pod), &far, letter));
            }
        }
        probes
    }
}

fn word(letter: u8) -> String {
    if letter == b'A' { "allow" } else { "deny" }.to_owned()
}
