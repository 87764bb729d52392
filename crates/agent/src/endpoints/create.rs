//! CNI ADD.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use axon_abi::Identity;
use axon_api::agent::{EndpointCreate, EndpointCreated, EndpointDelete};
use axon_linux::DatapathError;
use axon_linux::link::{self, GATEWAY_V4, GATEWAY_V6, Netns};
use axon_model::{Endpoint, EndpointState, Mac};

use super::request::validate;
use super::restore::carry_out_first;
use super::{Record, Stage, addresses, allocate, disk, link_of, owner, release, remove};
use crate::engine::Enforced;
use crate::node::{Node, lock};
use crate::problem::{Refusal, chain};

/// Makes an endpoint, and answers when its policy is enforced. Again with the
/// same attachment: the same answer.
pub(crate) async fn create(
    node: Arc<Node>,
    request: EndpointCreate,
) -> Result<EndpointCreated, Refusal> {
    validate(&node, &request)?;
    let _turn = node.endpoints.alone(&request.container_id).await;
    let queued = EndpointDelete {
        container_id: request.container_id.clone(),
        interface: request.interface.clone(),
    };
    carry_out_first(&node, queued).await?;
    let deadline = Instant::now() + node.config.ready_timeout;
    if let Some(known) = again(&node, &request).await? {
        wait_enforced(&node, &known, deadline).await?;
        return Ok(answer(&known, &node));
    }
    wait_sources(&node, deadline).await?;
    let record = blocking({
        let node = Arc::clone(&node);
        move || make(&node, &request)
    })
    .await?;
    let id = record.endpoint.id;
    let enforced = wait_enforced(&node, &record, deadline).await;
    let made = match enforced {
        Ok(()) => {
            let node = Arc::clone(&node);
            blocking(move || {
                let made = node
                    .endpoints
                    .records
                    .update(&node.store, id, |r| r.stage = Stage::Made);
                made.map_err(|error| disk(&error))
            })
            .await
        }
        Err(refusal) => Err(refusal),
    };
    match made {
        Ok(Some(record)) => {
            tracing::info!(
                endpoint = id,
                identity = record.endpoint.identity.0,
                pod = pod(&record.endpoint),
                "endpoint is ready"
            );
            Ok(answer(&record, &node))
        }
        Ok(None) => Err(Refusal::conflict(
            format!("endpoint {id} was removed while it was made"),
            "ask again",
        )),
        Err(refusal) => {
            tracing::warn!(endpoint = id, error = %refusal, "endpoint is not made; undoing it");
            remove::remove(&node, &record).await?;
            Err(refusal)
        }
    }
}

/// Runs what blocks (netlink, files) off the runtime's threads.
pub(super) async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, Refusal> + Send + 'static,
) -> Result<R, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Refusal::node(error.to_string(), "see the agent's log")))
}

/// The endpoint that an earlier ADD of the same attachment has made. One whose
/// devices are no longer what they were makes room for a new one.
async fn again(node: &Arc<Node>, request: &EndpointCreate) -> Result<Option<Record>, Refusal> {
    let records = &node.endpoints.records;
    let Some(known) = records.attachment(&request.container_id, &request.interface) else {
        return Ok(None);
    };
    let same = known.stage == Stage::Made
        && known.endpoint.netns == request.netns
        && known.endpoint.namespace == request.namespace
        && known.endpoint.pod_name == request.pod_name;
    if same {
        let link = link_of(&known, &node.config.network);
        let netns = Netns::Path(PathBuf::from(&request.netns));
        let intact = blocking(move || Ok(link::check(&netns, &link).is_ok_and(|d| d.is_empty())));
        if intact.await? {
            return Ok(Some(known));
        }
    }
    remove::remove(node, &known).await?;
    Ok(None)
}

/// Waits until the node and its pod CIDRs are known.
async fn wait_sources(node: &Arc<Node>, deadline: Instant) -> Result<(), Refusal> {
    let known = || {
        let this = node.observed.nodes.get(&node.config.node_name);
        this.is_some_and(|n| !n.pod_cidrs.is_empty())
    };
    let mut sources = node.sources.clone();
    let wait = async { while !known() && sources.changed().await.is_ok() {} };
    let _ = tokio::time::timeout_at(deadline.into(), wait).await;
    // What is missing then, the allocation says.
    Ok(())
}

/// Numbers, addresses, devices and stubs; then the row that the control loop
/// goes by.
fn make(node: &Node, request: &EndpointCreate) -> Result<Record, Refusal> {
    let mut record = reserve(node, request)?;
    let id = record.endpoint.id;
    let link = link_of(&record, &node.config.network);
    let netns = Netns::Path(PathBuf::from(&request.netns));
    // Whoever had the address before left connections that are not this
    // endpoint's.
    let flush = node.flusher.begin(id, addresses(&record.endpoint));
    let ifindex = &mut record.endpoint.ifindex;
    let guard = |made| {
        *ifindex = made;
        lock(&node.datapath).attach_endpoint_at_once(made)
    };
    let made = link::create_guarded(&netns, &link, guard);
    let flushed = flush.wait();
    let undo = |refusal: Refusal| {
        remove::undo(node, &record);
        refusal
    };
    made.map_err(|error| {
        let remedy = match error {
            DatapathError::Link(_) => {
                "see that the network namespace exists and has no such device yet"
            }
            DatapathError::Attach { .. } => "mend what the error names; else see axon bpf verify",
            _ => "see axon bpf verify",
        };
        undo(Refusal::node(chain(&error), remedy))
    })?;
    flushed.map_err(|error| undo(Refusal::node(error, "see axon status")))?;
    let ifindex = record.endpoint.ifindex;
    let record = node
        .endpoints
        .records
        .amend(&node.store, id, |record| record.endpoint.ifindex = ifindex)
        .map_err(|error| undo(disk(&error)))?
        .ok_or_else(|| Refusal::conflict(format!("endpoint {id} was removed"), "ask again"))?;
    let row = record.endpoint.clone();
    node.observed.endpoints.write(|txn| txn.insert(id, row));
    Ok(record)
}

/// A number and addresses, on disk before anything else happens.
fn reserve(node: &Node, request: &EndpointCreate) -> Result<Record, Refusal> {
    let records = &node.endpoints.records;
    let mut endpoint = Endpoint {
        container_id: request.container_id.clone(),
        container_interface: request.interface.clone(),
        netns: request.netns.clone(),
        namespace: request.namespace.clone(),
        pod_name: request.pod_name.clone(),
        process_name: request.process_name.clone(),
        pod_uid: request.pod_uid.clone(),
        mac: mac(request, "inside"),
        node_mac: mac(request, "host"),
        own_labels: request.labels.clone(),
        identity: Identity::INIT,
        state: EndpointState::WaitingForIdentity,
        ..Endpoint::default()
    };
    for address in allocate(node, &owner(&endpoint), request)? {
        match address {
            IpAddr::V4(v4) => endpoint.ipv4 = Some(v4),
            IpAddr::V6(v6) => endpoint.ipv6 = Some(v6),
        }
    }
    let node_mtu = node.uplinks.borrow().mtu;
    let mtu = if request.mtu == 0 {
        node_mtu
    } else {
        request.mtu.min(node_mtu)
    };
    let record = Record {
        endpoint,
        mtu,
        stage: Stage::Making,
    };
    let full = || Refusal::exhausted("every endpoint number is in use", "delete endpoints");
    match records.add(&node.store, record.clone()) {
        Ok(Some(record)) => Ok(record),
        refused => {
            let _ = release(node, &record.endpoint);
            Err(refused.map_or_else(|error| disk(&error), |_| full()))
        }
    }
}

/// A MAC address of our own choosing (locally administered): always the same
/// for an attachment.
fn mac(request: &EndpointCreate, side: &str) -> Mac {
    let mut hasher = DefaultHasher::new();
    (
        &request.container_id,
        &request.interface,
        &request.netns,
        side,
    )
        .hash(&mut hasher);
    let [a, b, c, d, e, f, ..] = hasher.finish().to_be_bytes();
    Mac([(a & 0xfc) | 0x02, b, c, d, e, f])
}

/// Waits until the identity is known and the kernel has the rows.
async fn wait_enforced(node: &Node, record: &Record, deadline: Instant) -> Result<(), Refusal> {
    let id = record.endpoint.id;
    let mut view = node.view.clone();
    let ready = view.wait_for(|view| view.endpoints.get(&id).is_some_and(Enforced::is_ready));
    match tokio::time::timeout_at(deadline.into(), ready).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(Refusal::not_yet("the agent is stopping", "ask again")),
        Err(_) => Err(late(node, record)),
    }
}

/// Why an endpoint is not ready in time.
fn late(node: &Node, record: &Record) -> Refusal {
    let view = node.view();
    let who = match pod(&record.endpoint) {
        pod if pod.is_empty() => format!("endpoint {}", record.endpoint.id),
        pod => format!("endpoint {} of pod {pod}", record.endpoint.id),
    };
    let waiting = view
        .endpoints
        .get(&record.endpoint.id)
        .map(|e| &e.status.waiting);
    let failing = view.reconcile.tables.iter().find_map(|(table, report)| {
        let (row, error) = report.failing.first()?;
        Some(format!(
            "the kernel does not take a row of {table} ({row}): {error}"
        ))
    });
    let why = match (waiting, &view.persist_error, failing) {
        (Some(Some(reason)), _, _) => reason.to_string(),
        (_, Some(error), _) => format!("state cannot be written: {error}"),
        (_, _, Some(failing)) => failing,
        _ => "its rows are not in the kernel yet".to_owned(),
    };
    Refusal::not_yet(
        format!("{who} is not ready: {why}"),
        "ask again; axon status names parts that are not well, endpoint-ready-timeout how long an \
         ADD waits",
    )
}

/// `namespace/name`; empty for a plain process.
pub(super) fn pod(endpoint: &Endpoint) -> String {
    if endpoint.pod_name.is_empty() {
        String::new()
    } else {
        format!("{}/{}", endpoint.namespace, endpoint.pod_name)
    }
}

fn answer(record: &Record, node: &Node) -> EndpointCreated {
    let endpoint = &record.endpoint;
    let decided = node
        .view()
        .endpoints
        .get(&endpoint.id)
        .map(|e| e.status.identity);
    EndpointCreated {
        id: endpoint.id,
        identity: decided.unwrap_or(endpoint.identity).0,
        ipv4: endpoint.ipv4,
        ipv6: endpoint.ipv6,
        ipv4_gateway: endpoint.ipv4.map(|_| GATEWAY_V4),
        ipv6_gateway: endpoint.ipv6.map(|_| GATEWAY_V6),
        host_interface: endpoint.interface.clone(),
        host_mac: endpoint.node_mac,
        interface: endpoint.container_interface.clone(),
        mac: endpoint.mac,
        mtu: record.mtu,
    }
}
