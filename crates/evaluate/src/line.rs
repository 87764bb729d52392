//! Recorded flows as Hubble writes them, line by line.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axon_model::{Protocol, ProtocolError};
use serde::Deserialize;

use crate::Problem;
use crate::problem::short;

/// A line of Hubble: a flow, bare or in a message. What we need of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Line {
    flow: Option<Box<Line>>,
    #[serde(rename = "IP")]
    pub(crate) ip: Option<Addresses>,
    pub(crate) l4: BTreeMap<String, Layer4>,
    pub(crate) source: Endpoint,
    pub(crate) destination: Endpoint,
    pub(crate) is_reply: Option<bool>,
    pub(crate) verdict: String,
    pub(crate) drop_reason_desc: String,
    pub(crate) event_type: EventType,
    pub(crate) traffic_direction: String,
    pub(crate) trace_observation_point: String,
    pub(crate) trace_reason: String,
    pub(crate) destination_names: Vec<String>,
    pub(crate) destination_service: Option<Service>,
    /// Of a message: events that are not in the record.
    pub(crate) lost_events: Option<LostEvents>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Layer4 {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    #[serde(rename = "type")]
    pub(crate) icmp_type: u16,
    pub(crate) flags: BTreeMap<String, bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Endpoint {
    pub(crate) identity: u32,
    pub(crate) namespace: String,
    pub(crate) pod_name: String,
    pub(crate) labels: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct EventType {
    #[serde(rename = "type")]
    pub(crate) kind: u8,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Service {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LostEvents {}

impl Line {
    /// Protocol and port (ICMP: type) of the flow; nothing if it has none.
    ///
    /// # Errors
    /// The protocol is none.
    pub(crate) fn l4(&self) -> Result<Option<(Protocol, u16, &Layer4)>, Problem> {
        let Some((name, l4)) = self.l4.iter().next() else {
            return Ok(None);
        };
        Ok(Some(match name.as_str() {
            "ICMPv4" => (Protocol::ICMP, l4.icmp_type, l4),
            "ICMPv6" => (Protocol::ICMPV6, l4.icmp_type, l4),
            other => {
                let wrong = |error: ProtocolError| Problem::new("l4", short(&error.to_string()));
                (other.parse().map_err(wrong)?, l4.destination_port, l4)
            }
        }))
    }
}

/// A line's flow: the line itself, or in it.
///
/// # Errors
/// It is no flow and no message of Hubble, by the path of what is wrong.
pub(crate) fn read(text: &[u8]) -> Result<Line, Problem> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let mut line: Line = serde_path_to_error::deserialize(&mut json)?;
    json.end()
        .map_err(|error| Problem::new(".", error.to_string()))?;
    Ok(match line.flow.take() {
        Some(flow) => *flow,
        None => line,
    })
}
