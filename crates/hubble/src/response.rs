//! What a stream of flows is made of: Hubble's `GetFlowsResponse`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Flow, Time};

/// One line of a stream: a flow, or how many were lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Response {
    /// A flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow: Option<Arc<Flow>>,
    /// Flows that this reader does not get to see.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_events: Option<LostEvents>,
    /// The node that tells.
    pub node_name: Arc<str>,
    /// When.
    pub time: Time,
}

impl Response {
    /// The line of a flow.
    pub fn flow(flow: Arc<Flow>) -> Self {
        Self {
            node_name: Arc::clone(&flow.node_name),
            time: flow.time,
            flow: Some(flow),
            lost_events: None,
        }
    }

    /// The line of a loss.
    pub fn lost(lost: LostEvents, node_name: Arc<str>, time: Time) -> Self {
        Self {
            flow: None,
            lost_events: Some(lost),
            node_name,
            time,
        }
    }
}

/// How many flows were lost, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LostEvents {
    /// Where.
    pub source: LostSource,
    /// How many.
    #[serde(with = "number_as_text")]
    pub num_events_lost: u64,
    /// When the first of them was made, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<Time>,
    /// When the last of them was made, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Time>,
}

/// Where flows are lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LostSource {
    /// Not told.
    #[default]
    UnknownLostEventSource,
    /// The kernel's ring buffer was full.
    PerfEventRingBuffer,
    /// The agent was behind.
    ObserverEventsQueue,
    /// The reader was behind the agent's history.
    HubbleRingBuffer,
}

/// Protobuf's JSON mapping writes 64-bit numbers as text.
mod number_as_text {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(number: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        let text = String::deserialize(d)?;
        text.parse()
            .map_err(|_| D::Error::custom(format!("number {text:?}; expected 0 to 2^64-1")))
    }
}

#[cfg(test)]
mod tests {
    use super::{LostEvents, LostSource, Response};
    use crate::Time;

    #[test]
    fn losses_are_written_as_hubble_writes_them() {
        let lost = LostEvents {
            source: LostSource::HubbleRingBuffer,
            num_events_lost: 7,
            first: None,
            last: Some(Time(1)),
        };
        let response = Response::lost(lost, "n1".into(), Time(2));
        let text = serde_json::to_string(&response).expect("json");
        assert_eq!(
            text,
            r#"{"lost_events":{"source":"HUBBLE_RING_BUFFER","num_events_lost":"7","last":"1970-01-01T00:00:00.000000001Z"},"node_name":"n1","time":"1970-01-01T00:00:00.000000002Z"}"#
        );
        assert_eq!(
            serde_json::from_str::<Response>(&text).expect("read"),
            response
        );
    }
}
