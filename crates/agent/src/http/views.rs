//! What the agent knows: status, configuration, identities, addresses, policy,
//! maps, metrics.

use std::sync::Arc;

use axon_abi::Identity;
use axon_api::agent::{
    ConfigView, IdentityView, IpView, PolicyCondition, PolicySetView, PolicyView, SelectorView,
    StagedPolicyView, Status,
};
use axon_api::maps::MapName;
use axon_control::{ConditionKind, Controller, IpEntry, IpSource};
use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::Api;
use crate::clock::monotonic_s;
use crate::engine::View;
use crate::problem::{Refusal, chain};
use crate::{dump, status};

type Answer<T> = Result<Json<T>, Refusal>;

pub(super) async fn ask<R: Send + 'static>(
    api: &Api,
    question: impl FnOnce(&mut Controller) -> R + Send + 'static,
) -> Result<R, Refusal> {
    let answer = api.node.engine.ask(question).await;
    answer.ok_or_else(|| Refusal::not_yet("the agent is stopping", "ask again"))
}

/// Runs what reads kernel maps off the runtime's threads.
pub(super) async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<R, Refusal> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Refusal::node(error.to_string(), "see the agent's log"))
}

pub(super) async fn healthz(State(api): State<Arc<Api>>) -> Answer<Status> {
    let node = Arc::clone(&api.node);
    blocking(move || status::status(&node)).await.map(Json)
}

pub(super) async fn config(State(api): State<Arc<Api>>) -> Json<ConfigView> {
    let mut view = ConfigView::default();
    for (name, value, origin) in api.node.config.settings.iter() {
        view.options.insert(name.to_owned(), value);
        if let Some(word) = origin.word() {
            view.origins.insert(name.to_owned(), word.to_owned());
        }
    }
    // Where the machine has said it.
    view.options
        .insert("node-name".to_owned(), api.node.config.node_name.clone());
    Json(view)
}

pub(super) async fn identities(State(api): State<Arc<Api>>) -> Answer<Vec<IdentityView>> {
    let known = ask(&api, |controller| controller.identities()).await?;
    Ok(Json(
        known
            .into_iter()
            .map(|(id, labels)| IdentityView { id: id.0, labels })
            .collect(),
    ))
}

pub(super) async fn identity(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Answer<IdentityView> {
    let number: u32 = id.parse().map_err(|_| {
        Refusal::request(
            format!("identity {id:?} is none"),
            "give a number, 1 to 4294967295",
        )
    })?;
    let labels = ask(&api, move |controller| {
        controller.labels_of(Identity(number))
    })
    .await?;
    let labels = labels.ok_or_else(|| {
        Refusal::absent(
            format!("there is no identity {number}"),
            "see axon identity list",
        )
    })?;
    Ok(Json(IdentityView { id: number, labels }))
}

pub(super) async fn ips(State(api): State<Arc<Api>>) -> Answer<Vec<IpView>> {
    let entries = ask(&api, |controller| controller.ips()).await?;
    Ok(Json(entries.into_iter().map(ip).collect()))
}

fn ip(entry: IpEntry) -> IpView {
    IpView {
        cidr: entry.prefix.to_string(),
        identity: entry.identity.0,
        host_ip: entry.node.map(|addr| addr.to_string()).unwrap_or_default(),
        pod: entry.pod,
        source: match entry.source {
            IpSource::Local => "endpoint",
            IpSource::CiliumEndpoint => "cilium-endpoint",
            IpSource::Pod => "pod",
            IpSource::Node => "node",
            IpSource::PodCidr => "pod-cidr",
            IpSource::Name => "fqdn",
            IpSource::Policy => "policy-cidr",
            IpSource::World => "world",
        }
        .to_owned(),
    }
}

pub(super) async fn policy(State(api): State<Arc<Api>>) -> Answer<PolicyView> {
    let known =
        |controller: &mut Controller| (controller.policy_sets(), controller.staged_policies());
    let (sets, staged) = ask(&api, known).await?;
    let policies = api.node.observed.policies.snapshot();
    let view = api.node.view();
    Ok(Json(PolicyView {
        revision: view.report.policy_revision,
        policies: policies.values().map(|p| p.as_ref().clone()).collect(),
        sets: sets
            .into_iter()
            .map(|set| PolicySetView {
                set: set.set,
                policies: set.policies.iter().map(ToString::to_string).collect(),
                endpoints: with_host(&view, set.endpoints, set.host),
                classes: set.classes,
                entries: set.entries,
                bytes: set.bytes,
            })
            .collect(),
        staged: staged
            .into_iter()
            .map(|used| StagedPolicyView {
                policy: used.policy,
                endpoints: with_host(&view, used.endpoints, used.host),
            })
            .collect(),
        conditions: conditions(&view),
    }))
}

/// Endpoints with the node's own number, if it is among them.
fn with_host(view: &View, endpoints: Vec<u16>, host: bool) -> Vec<u16> {
    let own = view.host.as_ref().filter(|_| host);
    let own = own.map(|host| host.status.id);
    endpoints.into_iter().chain(own).collect()
}

fn conditions(view: &View) -> Vec<PolicyCondition> {
    let conditions = view.report.conditions.iter();
    let of_policies = conditions.filter(|condition| !condition.policies.is_empty());
    of_policies
        .map(|condition| PolicyCondition {
            kind: condition_word(condition.kind).to_owned(),
            policies: condition.policies.iter().map(ToString::to_string).collect(),
            message: condition.message.clone(),
            remedy: condition.remedy.clone(),
        })
        .collect()
}

/// A kind of condition in a word, for programs and metrics.
pub(crate) fn condition_word(kind: ConditionKind) -> &'static str {
    match kind {
        ConditionKind::SourceIncomplete => "incomplete",
        ConditionKind::PolicyOverflow | ConditionKind::RowsOverflow => "overflow",
        ConditionKind::PolicyUnsupported => "unsupported",
        ConditionKind::Conflict => "conflict",
        ConditionKind::Fault => "fault",
        ConditionKind::HostPolicyTrial => "trial",
        ConditionKind::IdentitiesExhausted => "exhausted",
    }
}

pub(super) async fn confirm_host(State(api): State<Arc<Api>>) -> Result<(), Refusal> {
    if ask(&api, Controller::confirm_host_policy).await? {
        // It is on disk after the next pass.
        api.node.engine.wake();
        return Ok(());
    }
    Err(Refusal::conflict(
        "no policy for the node itself is on trial",
        "axon status tells what became of it; the option host-firewall-confirm-timeout has \
         changes tried",
    ))
}

pub(super) async fn selectors(State(api): State<Arc<Api>>) -> Answer<Vec<SelectorView>> {
    let uses = ask(&api, |controller| controller.selectors()).await?;
    Ok(Json(
        uses.into_iter()
            .map(|used| SelectorView {
                selector: used.selector,
                identities: used.identities.iter().map(|id| id.0).collect(),
                users: used.users,
            })
            .collect(),
    ))
}

pub(super) async fn map(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
) -> Answer<dump::Rows> {
    let name: MapName = name
        .parse()
        .map_err(|error: axon_api::maps::MapNameError| {
            Refusal::absent(error.to_string(), "see axon bpf --help")
        })?;
    let node = Arc::clone(&api.node);
    let rows =
        blocking(move || dump::rows(&node.maps, name, node.names.load().as_ref(), monotonic_s()));
    let mut rows = rows
        .await?
        .map_err(|error| Refusal::node(chain(&error), "see axon status"))?;
    if rows.has_services() {
        let names = ask(&api, |controller| controller.service_port_names()).await?;
        rows.name_services(&names);
    }
    Ok(Json(rows))
}

pub(super) async fn metrics(State(api): State<Arc<Api>>) -> Result<Response, Refusal> {
    let node = Arc::clone(&api.node);
    let text = blocking(move || node.metrics.text(&node)).await?;
    Ok(([(CONTENT_TYPE, crate::health::METRICS_TYPE)], text).into_response())
}
