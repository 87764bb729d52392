//! What packets said to whom: events of the datapath as Hubble flows.
//!
//! ```text
//! ring buffer ──EventRecord──> decode(record, &impl Names) ──> Flow ──> Ring ──> readers
//!                                      │                        │
//!                    who, which policy ┘                        ├─ Query, Filter: which of them
//!                                                               └─ Response: JSON; text: a line
//! ```
//!
//! Invariants:
//! - a record is decoded once, when it arrives, with the names of that moment;
//!   names are shared (`Arc`), so a flow costs a few reference counts;
//! - any 128 bytes decode: numbers without a meaning are shown as numbers;
//! - the JSON of a flow has the fields of Hubble's `flow.proto`, absent where
//!   protobuf's JSON mapping leaves them out;
//! - what a reader has missed is told exactly, as a range of sequence numbers.
//!
//! This crate must not know: BPF libraries, Kubernetes clients, sockets.
#![forbid(unsafe_code)]

mod decode;
mod filter;
mod flow;
mod history;
mod matchers;
mod names;
mod response;
mod ring;
mod staged;
#[cfg(test)]
mod testing;
mod text;
mod time;
mod uuid;

pub use decode::decode;
pub use filter::{Filter, FilterError, Query};
pub use flow::{
    AuthType, Endpoint, Ethernet, EventType, Flow, FlowType, Icmp, Interface, Ip, IpVersion,
    Layer4, Policy, Port, Tcp, TcpFlags, TrafficDirection, Verdict,
};
pub use history::{Entry, History};
pub use names::{EndpointName, NameTable, Names};
pub use response::{LostEvents, LostSource, Response};
pub use ring::{Read, Ring};
pub use staged::Staged;
pub use text::{Style, line};
pub use time::Time;
pub use uuid::{Uuid, UuidError};
