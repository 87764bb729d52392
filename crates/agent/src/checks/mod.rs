//! What load balancers ask a node before they send it anything.
//!
//! ```text
//!  rows of health-check node ports ──────────────┐
//!  kube-proxy-replacement-healthz-bind-address ──┴─> doors ──> 200 or 503
//! ```
//!
//! A port that somebody else has is told in the status and tried again; no other door
//! waits for it.

mod answers;
mod door;
mod doors;
mod holder;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use axon_control::services::HealthCheck;
use axon_statedb::Table;
use tokio::sync::Notify;

use crate::node::{Node, lock};
use answers::Answer;
use doors::Doors;

/// What the status knows of doors.
pub(crate) struct Checks {
    /// Health-check node ports.
    rows: Table<u16, HealthCheck>,
    told: Mutex<Told>,
}

/// How doors are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Health-check node ports that are open.
    pub(crate) ports: usize,
    /// What is not open, and why.
    pub(crate) shut: Vec<String>,
}

impl Checks {
    pub(crate) fn new(rows: Table<u16, HealthCheck>) -> Self {
        Self {
            rows,
            told: Mutex::default(),
        }
    }

    pub(crate) fn told(&self) -> Told {
        lock(&self.told).clone()
    }
}

/// Has the doors follow the rows until the agent stops.
pub(crate) async fn run(node: Arc<Node>) -> anyhow::Result<()> {
    let news = Arc::new(Notify::new());
    let rows = &node.checks.rows;
    rows.on_change({
        let news = Arc::clone(&news);
        move || news.notify_one()
    });
    let mut doors = Doors::new(node.stop.clone());
    loop {
        let due = doors.follow(wanted(&node)).await;
        *lock(&node.checks.told) = doors.told();
        tokio::select! {
            () = news.notified() => {}
            () = due => {}
            () = node.stop.cancelled() => return Ok(()),
        }
    }
}

/// What is to be open, by address.
fn wanted(node: &Arc<Node>) -> BTreeMap<SocketAddr, Answer> {
    let rows = node.checks.rows.snapshot();
    let ports = rows.iter().map(|(port, check)| {
        let any = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), *port);
        (any, Answer::Check(Arc::clone(check)))
    });
    let healthz = node.config.kube_proxy_healthz.map(|address| {
        let node = Arc::downgrade(node);
        let is_well = move || node.upgrade().map(|node| answers::of(&node));
        (address, Answer::Healthz(Arc::new(is_well)))
    });
    ports.chain(healthz).collect()
}
