//! Which policies are accepted.

use axon_api::manifest::{self, Manifest, Object};
use axon_model::keys::CLUSTER;
use axon_model::{Peer, Peers, PolicyObject, Requirement, Selector, source};
use axon_policy::{PolicyConfig, unmet};
use serde_json::Value;

/// What becomes of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It is a policy, with these rules.
    Accepted(Box<PolicyObject>),
    /// It is not put in force; why.
    Refused(String),
}

/// Judges an object as the agent does.
pub fn judge(config: &PolicyConfig, object: &Value) -> Judgement {
    let refused = |reason: String| Judgement::Refused(reason);
    let manifest = match manifest::parse(object.to_string().as_bytes()) {
        Ok(manifest) => manifest,
        Err(error) => return refused(error.to_string()),
    };
    let Manifest {
        documents,
        refused: refusals,
        ..
    } = manifest;
    if let Some(refusal) = refusals.into_iter().next() {
        return refused(refusal.error.to_string());
    }
    let mut documents = documents.into_iter();
    match (
        documents.next().and_then(|first| first.object),
        documents.next(),
    ) {
        (Some(Object::Policy(policy)), None) => match unmet(config, &policy) {
            // As Cilium: who says so is not left to believe in it.
            None if !config.proxy && listens(&policy) => {
                refused("rules about what is said on a connection need enable-l7-proxy".to_owned())
            }
            None => Judgement::Accepted(Box::new(policy)),
            Some(unmet) => refused(unmet.to_string()),
        },
        _ => refused(
            "is no policy; expected one NetworkPolicy, CiliumNetworkPolicy, \
             CiliumClusterwideNetworkPolicy or ClusterNetworkPolicy"
                .to_owned(),
        ),
    }
}

/// Whether a policy asks what is said on connections.
fn listens(policy: &PolicyObject) -> bool {
    let mut entries = policy.rules.iter().flat_map(|rule| &rule.entries);
    entries.any(|entry| entry.l7.is_some())
}

/// Has peers that name no cluster mean those of this one
/// (`policy-default-local-cluster`).
pub(crate) fn local_only(policy: &mut PolicyObject, cluster: &str) {
    let entries = policy.rules.iter_mut().flat_map(|rule| &mut rule.entries);
    for entry in entries {
        let Peers::List(peers) = &mut entry.peers else {
            continue;
        };
        for peer in peers {
            if let Peer::Endpoints(selector) = peer {
                let asked = selector.requirements();
                let elsewhere = |r: &Requirement| r.key == CLUSTER || r.source == source::RESERVED;
                if !asked.iter().any(elsewhere) {
                    let own = Requirement::equals(source::K8S, CLUSTER, cluster);
                    *selector = Selector::new(asked.iter().cloned().chain([own]).collect());
                }
            }
        }
    }
}
