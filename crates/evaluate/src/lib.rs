//! What policies and services would do, without a node: the agent's own parts over a
//! cluster that is only described.
//!
//! ```text
//! cluster, settings ──> people (who has which identity)  ┐
//! objects ──> api ──> policies ──> groups, prefixes, names┴─> policy engine
//!                                                               │ for each node: sets
//! from, to, port ──> (to a service? to each of its backends) ──> who they are to each other
//!                       ──> the datapath's look-up in their rows
//!                                                       └──> what the proxy would let pass
//! ```
//!
//! [`World`] is the cluster with its policies; [`answer()`] is one line of JSON
//! in, one out. [`Described`] is a cluster read from manifests, [`changes`] what
//! becomes of it when policies do, and [`Flows`] what becomes of recorded flows.
//! [`StagedSets`] is the same look-up over what an agent's staged policies would
//! have in force.
//! A [`Record`] of flows suggests policies that allow just these.
//! [`service_answer`] tells what becomes of connections to services.
//!
//! Invariants: nothing is decided here that an agent decides elsewhere: rules
//! come from `api`, labels and frontends from `control`, sets from `policy`,
//! verdicts and choices from `datapath`. Whatever the input, an answer comes and says what is wrong by its
//! path. No clock, no files.
#![forbid(unsafe_code)]

mod answer;
mod change;
mod cluster;
mod demand;
mod described;
mod ends;
mod flows;
mod groups;
mod judge;
mod line;
mod people;
mod ports;
mod probe;
mod problem;
mod seen;
mod served;
mod services;
mod settings;
mod staged;
mod state;
mod strict;
mod suggest;
mod tables;
mod verdict;
mod wire;
mod world;

pub use answer::{answer, refusal};
pub use change::{Change, Changes, Decision, changes};
pub use cluster::{
    CidrGroup, Cluster, DnsName, Namespace, Node, Pod, PodPort, Service, ServicePort, Special,
};
pub use described::Described;
pub use flows::{FlowChange, Flows};
pub use judge::{Judgement, judge};
pub use probe::{End, Probe};
pub use problem::Problem;
pub use services::{service_answer, service_refusal};
pub use settings::Settings;
pub use staged::{StagedSets, StagedVerdict};
pub use suggest::{Beyond, Options, Record, Suggestion};
pub use verdict::{Backend, Side, Through, Verdict, Word};
pub use world::World;
