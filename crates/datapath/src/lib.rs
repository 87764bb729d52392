//! What becomes of a packet.
//!
//! One function per hook decides; each reads as the way the packet takes:
//!
//! ```text
//!  from_endpoint   parse ─ source check ─ conntrack ─ (service) ─ policy ─ deliver │ route
//!  to_endpoint     parse ─ conntrack ─ policy ─ pass
//!  from_netdev     (translate back) ─ parse ─ (service) ─ conntrack ─ policy ─ deliver │ the node
//!  to_netdev       (the node's policy) ─ parse ─ (service) ─ masquerade
//!  connect, send   service ─ backend ─ remember        (no packet yet: a socket's address)
//! ```
//!
//! The same code runs in the kernel (`bpf` implements [`Packet`] and
//! [`Tables`] over an skb and the maps) and natively (`testkit`).
//!
//! Invariants:
//! - IPv4 and IPv6 are one function over a [`Family`];
//! - a drop is an error with a reason, a verdict is a value: nothing else
//!   leaves a hook;
//! - [`Scratch`] is dirty when a hook starts; `Scratch::begin` and the parser
//!   set every field before it is read (the native double poisons it);
//! - every loop has a constant bound, every byte from outside is checked.
//!
//! This crate must not know: pods, labels, BPF helpers, allocation, logging.
#![no_std]
#![forbid(unsafe_code)]
#![warn(clippy::wildcard_enum_match_arm)]

mod arp;
mod balance;
mod checksum;
mod claim;
mod conntrack;
mod decide;
mod deliver;
mod event;
mod extension;
mod family;
mod forward;
mod fragment;
mod from_endpoint;
mod from_netdev;
mod header;
mod host;
mod icmp;
mod icmp_error;
mod identity;
mod maglev;
mod masquerade;
mod nat;
mod nd;
mod packet;
mod parse;
mod ping;
mod policy;
mod reset;
mod scratch;
mod serve;
mod service;
mod socket;
mod state;
mod tables;
mod to_endpoint;
mod to_netdev;
mod translate;
mod verdict;

pub use arp::GATEWAY_IPV4;
pub use event::report_drop;
pub use family::{Family, HAIRPIN_IPV4, HAIRPIN_IPV6, V4, V6};
pub use from_endpoint::from_endpoint;
pub use from_netdev::from_netdev;
pub use header::{
    ArpPacket, ETHERNET_LEN, Ethernet, Ipv4, Ipv6, NeighbourMessage, TcpHead, UdpHead, ethertype,
    protocol, tcp_flag,
};
pub use icmp::is_answer as is_icmp_answer;
pub use maglev::HashSeeds;
pub use nd::GATEWAY_IPV6;
pub use packet::{Checksum, Packet};
pub use parse::parse;
pub use policy::{Decision, Question, evaluate};
pub use scratch::{Flow, Fragmentation, Kind, Scratch, Tuple};
pub use service::{
    Answer, Ask, Asker, Choice, Frontend, NoServices, ServiceTables, Why, frontend, keeps_client,
    select, select_of, still_valid,
};
pub use socket::{Refusal, Socket, SocketTables, bind, connect, release, reverse, send};
pub use tables::{NextHop, Route, RouteQuery, Tables, seconds};
pub use to_endpoint::to_endpoint;
pub use to_netdev::to_netdev;
pub use verdict::Verdict;
