//! The cluster as this agent knows it, for whoever asks what other policies
//! would change.

use std::sync::Arc;

use axon_api::cluster::{ClusterOptions, ClusterView};
use axon_control::Controller;
use axon_model::{Endpoint, Pod, PolicyObject};
use axon_replay::policy_reading;
use axum::Json;
use axum::extract::State;

use super::Api;
use super::views::{ask, blocking};
use crate::node::Node;
use crate::problem::Refusal;

pub(super) async fn cluster(State(api): State<Arc<Api>>) -> Result<Json<ClusterView>, Refusal> {
    let known = ask(&api, known).await?;
    let node = Arc::clone(&api.node);
    blocking(move || view(&node, known)).await.map(Json)
}

/// What the controller says of it, without tables.
fn known(controller: &mut Controller) -> ClusterView {
    let engine = controller.policy_engine();
    // What is in force, which is not what the sources say where a policy is
    // refused or on trial.
    let policies: Vec<PolicyObject> = engine.policies().values().cloned().collect();
    let endpoints = controller.endpoints().values().map(|status| Endpoint {
        id: status.id,
        labels: status.labels.clone(),
        identity: status.identity,
        ..Endpoint::default()
    });
    ClusterView {
        reading: policy_reading(engine.config()),
        endpoints: endpoints.collect(),
        policies,
        ..ClusterView::default()
    }
}

fn view(node: &Node, known: ClusterView) -> ClusterView {
    let observed = &node.observed;
    let network = &node.config.network;
    let decided = known.endpoints;
    let labelled = |endpoint: Endpoint| {
        let status = decided.iter().find(|decided| decided.id == endpoint.id);
        let labels = status.map(|status| status.labels.clone());
        Endpoint {
            labels: labels.unwrap_or_default(),
            ..endpoint
        }
    };
    let records = node.endpoints.records.all();
    ClusterView {
        node: node.config.node_name.clone(),
        options: ClusterOptions {
            host_firewall: node.config.firewall.enabled,
            node_selector_labels: network.node_labels,
            extended_ip_protocols: network.extended_protocols,
            cidr_selects_nodes: network.cidr_selects_nodes,
        },
        namespaces: all(&observed.namespaces),
        nodes: all(&observed.nodes),
        pods: all(&observed.pods).into_iter().map(plain).collect(),
        services: all(&observed.services),
        endpoint_slices: {
            let slices = observed.endpoint_slices.snapshot();
            let slices = slices.iter();
            slices
                .map(|(key, s)| (key.clone(), (**s).clone()))
                .collect()
        },
        cidr_groups: all(&observed.cidr_groups),
        cilium_endpoints: all(&observed.cilium_endpoints),
        identities: all(&observed.identities),
        endpoints: records
            .iter()
            .map(|record| labelled(record.endpoint.clone()))
            .collect(),
        ..known
    }
}

/// Annotations decide nothing here, and hold whole manifests.
fn plain(pod: Pod) -> Pod {
    Pod {
        annotations: std::collections::BTreeMap::new(),
        uid: String::new(),
        ..pod
    }
}

fn all<K, V>(table: &axon_statedb::Table<K, V>) -> Vec<V>
where
    K: Ord + Clone,
    V: Clone + PartialEq,
{
    let snapshot = table.snapshot();
    snapshot.values().map(|value| (**value).clone()).collect()
}
