//! The drops that agents tell of: who decided, and in which direction.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axon_cni::http::Client;
use serde_json::Value;

use crate::case::Protocol;
use crate::support::PATIENCE;

/// A packet's ends. Of ICMP the source has no port, and the destination the
/// type.
pub(crate) type Packet = (Protocol, SocketAddr, SocketAddr);

/// A drop as its node told it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Drop {
    pub(crate) node: String,
    pub(crate) direction: String,
    pub(crate) reason: String,
}

type Drops = BTreeMap<Packet, BTreeSet<Drop>>;

/// Listens to every node's agent.
#[derive(Default)]
pub(crate) struct Events {
    drops: Arc<Mutex<Drops>>,
    /// The agents that are listened to.
    heard: BTreeMap<String, u64>,
}

impl Events {
    /// Listens to all agents of a lab; what happens after this is told.
    pub(crate) fn listen(&mut self, status: &Value) -> Result<(), String> {
        for node in status["nodes"].as_array().into_iter().flatten() {
            let name = node["name"].as_str().unwrap_or_default().to_owned();
            let pid = node["agentPid"].as_u64();
            let pid = pid.ok_or_else(|| format!("node {name} has no agent"))?;
            if self.heard.get(&name) == Some(&pid) {
                continue;
            }
            let socket = node["apiSocket"].as_str().unwrap_or_default();
            let client = Client::new(socket, PATIENCE);
            let stream = client
                .stream("/v1/monitor?follow=true&type=drop")
                .map_err(|error| format!("the events of {name}: {error}"))?;
            let (drops, node) = (Arc::clone(&self.drops), name.clone());
            // It ends with its agent.
            std::thread::spawn(move || {
                for line in stream.lines() {
                    let Ok(line) = line else { return };
                    take(&drops, &node, &line);
                }
            });
            self.heard.insert(name, pid);
        }
        Ok(())
    }

    /// Forgets what was told.
    pub(crate) fn forget(&self) {
        self.drops
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// The drops of a packet.
    pub(crate) fn of(&self, packet: &Packet) -> BTreeSet<Drop> {
        let drops = self.drops.lock().unwrap_or_else(PoisonError::into_inner);
        drops.get(packet).cloned().unwrap_or_default()
    }
}

fn take(drops: &Mutex<Drops>, node: &str, line: &str) {
    let Ok(line) = serde_json::from_str::<Value>(line) else {
        return;
    };
    let flow = &line["flow"];
    let Some(packet) = packet(flow) else { return };
    let text = |field: &str| flow[field].as_str().unwrap_or_default().to_owned();
    let drop = Drop {
        node: node.to_owned(),
        direction: text("traffic_direction"),
        reason: text("drop_reason_desc"),
    };
    let mut drops = drops.lock().unwrap_or_else(PoisonError::into_inner);
    drops.entry(packet).or_default().insert(drop);
}

fn packet(flow: &Value) -> Option<Packet> {
    let ip = |field: &str| flow["IP"][field].as_str()?.parse::<IpAddr>().ok();
    let (source, destination) = (ip("source")?, ip("destination")?);
    for (word, protocol) in [
        ("TCP", Protocol::Tcp),
        ("UDP", Protocol::Udp),
        ("SCTP", Protocol::Sctp),
        ("ICMPv4", Protocol::Icmp),
        ("ICMPv6", Protocol::IcmpV6),
    ] {
        let l4 = &flow["l4"][word];
        if l4.is_null() {
            continue;
        }
        // Fields that are zero are not told.
        let field = |name: &str| u16::try_from(l4[name].as_u64().unwrap_or(0)).ok();
        let ports = match protocol {
            Protocol::Icmp | Protocol::IcmpV6 => (0, field("type")?),
            Protocol::Tcp | Protocol::Udp | Protocol::Sctp => {
                (field("source_port")?, field("destination_port")?)
            }
        };
        let ends = (
            SocketAddr::new(source, ports.0),
            SocketAddr::new(destination, ports.1),
        );
        return Some((protocol, ends.0, ends.1));
    }
    None
}
