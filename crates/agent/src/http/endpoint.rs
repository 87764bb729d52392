//! Endpoints: ADD, DEL, CHECK, GC, and how they are.

use std::sync::Arc;

use axon_abi::{EndpointFlags, HOST_DEVICE};
use axon_api::agent::{
    EndpointAddressing, EndpointCheck, EndpointConfigStatus, EndpointCreate, EndpointCreated,
    EndpointDelete, EndpointGc, EndpointNetworking, EndpointPolicy, EndpointStatus, EndpointView,
    ExternalIdentifiers, IdentityView, LabelConfiguration, LabelSpec,
};
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::{Api, body};
use crate::endpoints::{self, Record};
use crate::engine::{Enforced, View};
use crate::node::Node;
use crate::problem::{Refusal, chain};
use crate::status::endpoint_state;

type Answer<T> = Result<Json<T>, Refusal>;

/// What changes endpoints goes on also when nobody waits for the answer any
/// more: half an ADD is worse than one that nobody heard of.
async fn unstoppable<T: Send + 'static>(
    work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
) -> Result<T, Refusal> {
    let done = tokio::spawn(work).await;
    done.unwrap_or_else(|error| Err(Refusal::node(error.to_string(), "see the agent's log")))
}

pub(super) async fn create(
    State(api): State<Arc<Api>>,
    bytes: Bytes,
) -> Result<(StatusCode, Json<EndpointCreated>), Refusal> {
    let request: EndpointCreate = body::read(&bytes)?;
    let made = unstoppable(endpoints::create(Arc::clone(&api.node), request)).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

pub(super) async fn delete(State(api): State<Arc<Api>>, bytes: Bytes) -> Result<(), Refusal> {
    let request: EndpointDelete = body::read(&bytes)?;
    unstoppable(endpoints::delete(Arc::clone(&api.node), request)).await?;
    Ok(())
}

pub(super) async fn check(State(api): State<Arc<Api>>, bytes: Bytes) -> Result<(), Refusal> {
    let request: EndpointCheck = body::read(&bytes)?;
    endpoints::check(Arc::clone(&api.node), request).await
}

pub(super) async fn gc(State(api): State<Arc<Api>>, bytes: Bytes) -> Answer<Vec<EndpointDelete>> {
    let request: EndpointGc = body::read(&bytes)?;
    unstoppable(endpoints::gc(Arc::clone(&api.node), request))
        .await
        .map(Json)
}

pub(super) async fn list(State(api): State<Arc<Api>>) -> Json<Vec<EndpointView>> {
    let view = api.node.view();
    let records = api.node.endpoints.records.all();
    let endpoints = records.iter().map(|r| show(&api.node, &view, r));
    let host = view
        .host
        .iter()
        .map(|host| show_host(&api.node, &view, host));
    let mut all: Vec<EndpointView> = endpoints.chain(host).collect();
    all.sort_by_key(|endpoint| endpoint.id);
    Json(all)
}

pub(super) async fn get(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Answer<EndpointView> {
    let view = api.node.view();
    if let Some(host) = view.host.as_ref().filter(|host| is_host(host, &id)) {
        return Ok(Json(show_host(&api.node, &view, host)));
    }
    let record = endpoints::find(&api.node.endpoints.records, &id)?;
    Ok(Json(show(&api.node, &view, &record)))
}

pub(super) async fn config(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Answer<EndpointConfigStatus> {
    let view = api.node.view();
    let audit = if view.host.as_ref().is_some_and(|host| is_host(host, &id)) {
        endpoints::host_audit(&api.node.store)
            .map_err(|error| Refusal::node(chain(&error), "see that the state-dir can be read"))?
    } else {
        endpoints::find(&api.node.endpoints.records, &id)?
            .endpoint
            .audit
    };
    Ok(Json(endpoints::shown(audit)))
}

pub(super) async fn configure(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    bytes: Bytes,
) -> Answer<EndpointConfigStatus> {
    let asked = endpoints::asked(&body::read(&bytes)?)?;
    let view = api.node.view();
    let is_host = view.host.as_ref().is_some_and(|host| is_host(host, &id));
    let Some(audit) = asked else {
        return config(State(api), Path(id)).await;
    };
    let node = Arc::clone(&api.node);
    unstoppable(async move {
        if is_host {
            endpoints::set_host_audit(&node, audit)?;
        } else {
            let record = endpoints::find(&node.endpoints.records, &id)?;
            endpoints::set_audit(&node, record.endpoint.id, audit)?.ok_or_else(|| {
                Refusal::absent(format!("endpoint {id} is gone"), "see axon endpoint list")
            })?;
        }
        Ok(Json(endpoints::shown(audit)))
    })
    .await
}

/// Whether policy of a device's endpoint is only audited: by the node, its
/// namespace, or itself.
fn is_audited(node: &Node, ifindex: u32) -> bool {
    let row = node.desired.endpoints.get(&ifindex);
    node.config.network.audit || row.is_some_and(|row| row.flags & EndpointFlags::AUDIT != 0)
}

/// Whether an id is the node's own number.
fn is_host(host: &Enforced, id: &str) -> bool {
    let number = id.strip_prefix("cilium-local:").unwrap_or(id);
    number == host.status.id.to_string()
}

/// The node itself, which has no device of its own and its addresses from
/// others.
fn show_host(node: &Node, view: &View, host: &Enforced) -> EndpointView {
    let status = &host.status;
    let state = match &status.waiting {
        _ if host.is_ready() => "ready",
        Some(_) => "waiting-for-identity",
        None => "regenerating",
    };
    EndpointView {
        id: status.id,
        status: EndpointStatus {
            state: state.to_owned(),
            identity: IdentityView {
                id: status.identity.0,
                labels: status.labels.clone(),
            },
            policy: policy(view, Some(host), is_audited(node, HOST_DEVICE)),
            message: status
                .waiting
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            ..EndpointStatus::default()
        },
    }
}

fn show(node: &Node, view: &View, record: &Record) -> EndpointView {
    let endpoint = &record.endpoint;
    let decided = view.endpoints.get(&endpoint.id);
    let status = decided.map(|d| &d.status);
    let addressing = EndpointAddressing {
        ipv4: endpoint.ipv4.map(|a| a.to_string()).unwrap_or_default(),
        ipv6: endpoint.ipv6.map(|a| a.to_string()).unwrap_or_default(),
    };
    let pod_name = match endpoint.pod_name.as_str() {
        "" => String::new(),
        name => format!("{}/{name}", endpoint.namespace),
    };
    EndpointView {
        id: endpoint.id,
        status: EndpointStatus {
            state: endpoint_state(record, decided).to_owned(),
            identity: IdentityView {
                id: status.map_or(endpoint.identity, |s| s.identity).0,
                labels: status.map_or(&endpoint.labels, |s| &s.labels).clone(),
            },
            networking: EndpointNetworking {
                addressing: vec![addressing],
                interface_name: endpoint.interface.clone(),
                interface_index: endpoint.ifindex,
                container_interface_name: endpoint.container_interface.clone(),
                mac: endpoint.mac.to_string(),
                host_mac: endpoint.node_mac.to_string(),
            },
            policy: policy(view, decided, is_audited(node, endpoint.ifindex)),
            external_identifiers: ExternalIdentifiers {
                container_id: endpoint.container_id.clone(),
                container_name: endpoint.process_name.clone(),
                cni_attachment_id: format!(
                    "{}:{}",
                    endpoint.container_id, endpoint.container_interface
                ),
                k8s_namespace: endpoint.namespace.clone(),
                k8s_pod_name: endpoint.pod_name.clone(),
                pod_name,
            },
            labels: LabelConfiguration {
                realized: LabelSpec {
                    user: endpoint.own_labels.clone(),
                },
            },
            message: status
                .and_then(|s| s.waiting.as_ref())
                .map(ToString::to_string)
                .unwrap_or_default(),
        },
    }
}

fn policy(view: &View, decided: Option<&Enforced>, audit: bool) -> EndpointPolicy {
    let set = decided.map_or(0, |d| d.status.policy_set);
    let [ingress, egress] = decided.map_or([false; 2], |d| d.default_deny);
    let policies = view.policies.get(&set).into_iter().flatten();
    EndpointPolicy {
        ingress_enforced: ingress,
        egress_enforced: egress,
        audit,
        policies: policies.map(ToString::to_string).collect(),
        set,
        revision: match decided {
            Some(endpoint) if endpoint.is_ready() => view.report.policy_revision,
            _ => view.enforced_revision,
        },
    }
}
