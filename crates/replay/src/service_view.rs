//! What is told of a service: the frontend, who is behind it, who of them may be
//! chosen and why the others are not, and why nobody is.

use std::net::IpAddr;

use axon_abi::{
    Backend, BackendFlags, BackendState, DropReason, FrontendKind, IpKey, ServiceFlags,
    SourceRangeKey,
};
use axon_api::maps::{LbRow, backend_state, frontend_kind};
use axon_api::state::ServiceRow;
use axon_datapath::{Asker, Why};
use serde::Serialize;

use crate::choose::{Asked, Nobody, Pick};
use crate::explain::Outcome;
use crate::node::Node;
use crate::services::at;
use crate::words;

/// The service that a packet is for.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ServiceView {
    /// The frontend: `address:port/protocol`.
    pub frontend: String,
    /// What it is: `ClusterIP`, `NodePort` and so on.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The port of the service, as `namespace/name:port`.
    pub service: String,
    /// For whom the frontend is asked: `pod`, `node` or `network`.
    pub asker: &'static str,
    /// What chooses: `socket`, or `packet`.
    pub by: &'static str,
    /// What holds of it, in words.
    pub flags: Vec<String>,
    /// Who is behind it.
    pub backends: Vec<BackendView>,
    /// Why nobody is chosen, if nobody is.
    pub refused: Option<String>,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BackendView {
    /// Its address and port.
    pub backend: String,
    /// Who has the address; empty if that is not known.
    pub name: String,
    /// `active`, `terminating`, `quarantined` or `maintenance`.
    pub state: String,
    /// It is of this node.
    pub is_here: bool,
    /// It may be chosen.
    pub may_be_chosen: bool,
    /// How likely that is, of 1.
    pub share: f64,
    /// Why it is the only one that may be chosen, or may not.
    pub why: String,
    /// What becomes of the packet if it is chosen.
    pub verdict: Option<Outcome>,
    /// The deciding line.
    pub reason: String,
}

/// What is told of a service, before any packet is sent to a backend.
pub(crate) fn view(node: &Node, asked: &Asked, picks: &Result<Vec<Pick>, Nobody>) -> ServiceView {
    let entry = &asked.frontend.entry;
    let key = axon_abi::ServiceKey {
        addr: asked.ask.addr,
        port: asked.ask.port,
        protocol: asked.ask.protocol,
        pad: 0,
    };
    let is_address = entry.kind() == Some(FrontendKind::Address);
    let owner = || node.services.owner_of(&key.addr);
    ServiceView {
        frontend: at(key.addr, key.port.get(), key.protocol),
        kind: frontend_kind(entry),
        service: match is_address {
            true => owner().unwrap_or_else(|| "a service".to_owned()),
            false => node.services.port_name(entry.service),
        },
        asker: match asked.ask.asker {
            Asker::Pod => "pod",
            Asker::Node => "node",
            Asker::Network => "network",
        },
        by: if asked.by_socket { "socket" } else { "packet" },
        flags: LbRow::new(&key, entry).flags,
        backends: backends(node, asked, picks),
        refused: picks.as_ref().err().map(|why| refusal(node, asked, *why)),
    }
}

impl ServiceView {
    /// What it is, in a few words.
    pub(crate) fn head(&self) -> String {
        format!("{} {} of {}", self.kind, self.frontend, self.service)
    }

    /// A flow that is known has its backend: nobody is chosen.
    pub(crate) fn is_known(&mut self) {
        self.refused = None;
        for backend in &mut self.backends {
            backend.may_be_chosen = false;
            backend.share = 0.0;
            backend.why = "the connection has its backend".to_owned();
        }
    }
}

fn backends(node: &Node, asked: &Asked, picks: &Result<Vec<Pick>, Nobody>) -> Vec<BackendView> {
    let entry = &asked.frontend.entry;
    if entry.kind() == Some(FrontendKind::Address) {
        return Vec::new();
    }
    let none = Vec::new();
    let picks = picks.as_ref().unwrap_or(&none);
    let total: u64 = picks.iter().map(|pick| pick.throws).sum();
    let is_v4 = asked.ask.addr.is_v4();
    let behind = node.services.behind(entry.service);
    let behind = behind.filter(|(_, backend)| backend.addr.is_v4() == is_v4);
    let view = |(id, backend): (u32, &Backend)| {
        let pick = picks.iter().find(|pick| pick.choice.id == id);
        let addr = IpAddr::from(backend.addr);
        BackendView {
            backend: std::net::SocketAddr::new(addr, backend.port.get()).to_string(),
            name: node.name_of(addr).unwrap_or_default(),
            state: backend_state(backend.state),
            is_here: is_local(backend),
            may_be_chosen: pick.is_some(),
            share: pick.map_or(0.0, |pick| pick.throws as f64 / total as f64),
            why: match pick {
                Some(pick) if pick.choice.by == Why::Affinity => {
                    "the client was there before (sessionAffinity)".to_owned()
                }
                Some(_) => String::new(),
                None => not_chosen(node, asked, backend, picks),
            },
            verdict: None,
            reason: String::new(),
        }
    };
    behind.map(view).collect()
}

fn is_local(backend: &Backend) -> bool {
    backend.flags & BackendFlags::LOCAL != 0
}

/// Whether a backend is in the list that is asked.
fn is_listed(asked: &Asked, backend: &Backend) -> bool {
    let flag = match asked.frontend.is_external {
        true => BackendFlags::IN_EXTERNAL,
        false => BackendFlags::IN_INTERNAL,
    };
    backend.flags & flag != 0
}

/// The traffic policy that holds for who asks, if it is `Local`.
fn local_policy(asked: &Asked, row: Option<&ServiceRow>) -> Option<&'static str> {
    let row = row?;
    let is_external = match asked.frontend.entry.kind() {
        Some(FrontendKind::ClusterIp) => false,
        Some(FrontendKind::ExternalIp) => true,
        _ => asked.frontend.is_external,
    };
    match is_external {
        true => row.external_local.then_some("externalTrafficPolicy"),
        false => row.internal_local.then_some("internalTrafficPolicy"),
    }
}

fn not_chosen(node: &Node, asked: &Asked, backend: &Backend, picks: &[Pick]) -> String {
    if picks.iter().any(|pick| pick.choice.by == Why::Affinity) {
        return "the client was at another before (sessionAffinity)".to_owned();
    }
    match BackendState::from_u8(backend.state) {
        Some(BackendState::Terminating) if !is_listed(asked, backend) => {
            return "it is terminating: connections go on, none begins".to_owned();
        }
        Some(BackendState::Quarantined) => return "it has failed health checks".to_owned(),
        Some(BackendState::Maintenance) => {
            return "it is not ready, or has no weight".to_owned();
        }
        _ => {}
    }
    let row = node.services.row_of(asked.frontend.entry.service);
    if let (false, Some(policy)) = (is_local(backend), local_policy(asked, row)) {
        return format!("it is on another node, and {policy} is Local");
    }
    match picks.is_empty() {
        true => String::new(),
        false => "it is not in the list of this frontend".to_owned(),
    }
}

/// Why nobody is chosen.
fn refusal(node: &Node, asked: &Asked, why: Nobody) -> String {
    let entry = &asked.frontend.entry;
    let at_port = format!("port {}", asked.ask.port.get());
    match why {
        Nobody::Closed => {
            format!("the address is a service's, and no service listens at its {at_port}")
        }
        Nobody::Dropped(DropReason::IsAClusterip) => {
            "the frontend is closed to the network (a ClusterIP, without \
             bpf-lb-external-clusterip)"
                .to_owned()
        }
        Nobody::Dropped(DropReason::SourceRangeDenied) => source_ranges(
            node,
            entry.service,
            entry.has(ServiceFlags::SOURCE_DENY),
            asked,
        ),
        Nobody::Refused | Nobody::Dropped(DropReason::ServiceBackendNotFound) => {
            let words = empty(node, asked);
            match why {
                Nobody::Dropped(_) => format!("{words}; it is dropped, nobody is told"),
                _ => format!("{words}; who asks is refused at once"),
            }
        }
        Nobody::Dropped(reason) => reason.to_string(),
    }
}

/// Why a list is empty.
fn empty(node: &Node, asked: &Asked) -> String {
    let number = asked.frontend.entry.service;
    let is_v4 = asked.ask.addr.is_v4();
    let behind = node.services.behind(number);
    let behind: Vec<_> = behind.filter(|(_, b)| b.addr.is_v4() == is_v4).collect();
    let policy = local_policy(asked, node.services.row_of(number));
    let is_here = behind.iter().any(|(_, backend)| is_local(backend));
    match (behind.len(), policy) {
        (0, _) => "nobody is behind it: no endpoint is ready".to_owned(),
        (count, Some(policy)) if !is_here => {
            let nodes = if count == 1 {
                "the one"
            } else {
                "none of those"
            };
            let are = if count == 1 { "is not" } else { "is" };
            format!("{policy} is Local, and {nodes} behind it {are} on this node")
        }
        (1, _) => "the one behind it takes nothing new".to_owned(),
        (count, _) => format!("none of the {count} behind it takes anything new"),
    }
}

fn source_ranges(node: &Node, number: u32, is_deny: bool, asked: &Asked) -> String {
    let ranges = node.services.ranges.iter();
    let ranges = ranges.filter(|range| range.service == number);
    let ranges: Vec<String> = ranges.map(range_words).collect();
    let client = node.address(&asked.ask.source);
    let ranges = match ranges.len() {
        0 => "none that can be read".to_owned(),
        _ => ranges.join(", "),
    };
    match is_deny {
        true => format!("its source ranges ({ranges}) keep {client} out"),
        false => format!("its source ranges ({ranges}) do not let {client} in"),
    }
}

fn range_words(range: &SourceRangeKey) -> String {
    words::prefix(&axon_abi::LpmKey {
        prefix_bits: range
            .prefix_bits
            .saturating_sub(SourceRangeKey::SERVICE_BITS),
        addr: range.addr,
    })
}

/// What of a choice only others know.
pub(crate) fn not_known(node: &Node, asked: &Asked) -> Vec<String> {
    let (entry, services) = (&asked.frontend.entry, &node.services);
    let mut notes = Vec::new();
    if entry.has(ServiceFlags::AFFINITY) && asked.by_socket {
        notes.push(
            "where the client went before: affinity knows who connects from inside by its \
             network namespace, which is not in the state"
                .to_owned(),
        );
    } else if entry.has(ServiceFlags::AFFINITY) && services.clients_left_out > 0 {
        notes.push(format!(
            "where the client went before: {} clients with affinity are not in the state",
            services.clients_left_out
        ));
    }
    if services.unhashed.contains(&entry.service) {
        notes.push(
            "the Maglev table, which is not in the state: any of the backends may be its choice"
                .to_owned(),
        );
    }
    notes
}

/// The view of the backend that has an address and port.
pub(crate) fn backend_at(
    view: &mut ServiceView,
    (addr, port): (IpKey, u16),
) -> Option<&mut BackendView> {
    let at = std::net::SocketAddr::new(addr.into(), port).to_string();
    view.backends
        .iter_mut()
        .find(|backend| backend.backend == at)
}
