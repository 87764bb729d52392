//! The matrix form of many probes.

use serde::Deserialize;

use crate::case::{End, Probe, Protocol, Word};

/// Expectations of all pods of a list towards each other, and of others
/// towards them.
#[derive(Debug, Deserialize)]
pub(crate) struct Matrices {
    grid: Grid,
    #[serde(default)]
    external: Vec<External>,
    #[serde(default)]
    nodes: Vec<OfNode>,
}

#[derive(Debug, Deserialize)]
struct Grid {
    order: Vec<String>,
    probes: Vec<GridProbe>,
}

#[derive(Debug, Deserialize)]
struct GridProbe {
    port: u16,
    protocol: Protocol,
    both: String,
    ingress: String,
    egress: String,
}

#[derive(Debug, Deserialize)]
struct External {
    ip: String,
    port: u16,
    protocol: Protocol,
    from_ip_to_pods: String,
    from_pods_to_ip: String,
}

#[derive(Debug, Deserialize)]
struct OfNode {
    node: String,
    port: u16,
    protocol: Protocol,
    from_node_to_pods: String,
}

impl Matrices {
    /// Adds the probes that they stand for.
    pub(crate) fn expand(&self, probes: &mut Vec<Probe>) {
        let pods = &self.grid.order;
        for grid in &self.grid.probes {
            let rows = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
            let (both, ingress, egress) =
                (rows(&grid.both), rows(&grid.ingress), rows(&grid.egress));
            for (s, from) in pods.iter().enumerate() {
                for (d, to) in pods.iter().enumerate().filter(|(d, _)| *d != s) {
                    let cell = |rows: &[String]| rows[s].as_bytes()[d];
                    probes.push(Probe {
                        egress: Some(word(cell(&egress))),
                        ingress: Some(word(cell(&ingress))),
                        ..probe(pod(from), pod(to), (grid.protocol, grid.port), cell(&both))
                    });
                }
            }
        }
        for line in &self.external {
            let way = (line.protocol, line.port);
            for (name, letter) in pods.iter().zip(line.from_ip_to_pods.bytes()) {
                let outside = End::Ip(line.ip.clone());
                probes.push(into(probe(outside, pod(name), way, letter)));
            }
            for (name, letter) in pods.iter().zip(line.from_pods_to_ip.bytes()) {
                let outside = End::Ip(line.ip.clone());
                probes.push(Probe {
                    egress: Some(word(letter)),
                    ..probe(pod(name), outside, way, letter)
                });
            }
        }
        for line in &self.nodes {
            let way = (line.protocol, line.port);
            for (name, letter) in pods.iter().zip(line.from_node_to_pods.bytes()) {
                let node = End::Node(line.node.clone());
                probes.push(into(probe(node, pod(name), way, letter)));
            }
        }
    }
}

fn pod(name: &str) -> End {
    End::Pod(name.to_owned())
}

fn probe(from: End, to: End, (protocol, port): (Protocol, u16), letter: u8) -> Probe {
    Probe {
        from,
        to,
        protocol,
        port,
        icmp_type: 0,
        expect: word(letter),
        egress: None,
        ingress: None,
        auth: None,
    }
}

/// A probe that its receiver alone decides about.
fn into(probe: Probe) -> Probe {
    Probe {
        ingress: Some(probe.expect),
        ..probe
    }
}

fn word(letter: u8) -> Word {
    match letter {
        b'A' => Word::Allow,
        b'D' => Word::Deny,
        other => panic!("{:?} in a matrix", char::from(other)),
    }
}
