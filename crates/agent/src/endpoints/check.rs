//! CNI CHECK.

use std::path::PathBuf;
use std::sync::Arc;

use axon_api::agent::EndpointCheck;
use axon_linux::link::{self, Netns};

use super::create::blocking;
use super::request::{attachment, device};
use super::{addresses, link_of};
use crate::node::Node;
use crate::problem::{Refusal, chain};

/// Compares an endpoint with what ADD has made.
pub(crate) async fn check(node: Arc<Node>, request: EndpointCheck) -> Result<(), Refusal> {
    attachment("container-id", &request.container_id)?;
    device("interface", &request.interface)?;
    let records = &node.endpoints.records;
    let remedy = "delete the attachment and add it again";
    let record = records
        .attachment(&request.container_id, &request.interface)
        .ok_or_else(|| {
            let who = format!("{}:{}", request.container_id, request.interface);
            Refusal::conflict(format!("there is no endpoint of attachment {who}"), remedy)
        })?;
    let mut wrong = Vec::new();
    let own = addresses(&record.endpoint);
    for address in request.ips.iter().filter(|address| !own.contains(address)) {
        wrong.push(format!("{address} is not an address of the endpoint"));
    }
    let link = link_of(&record, &node.config.network);
    let netns = Netns::Path(PathBuf::from(&request.netns));
    wrong.extend(
        blocking(move || {
            link::check(&netns, &link).map_err(|error| Refusal::conflict(chain(&error), remedy))
        })
        .await?,
    );
    let view = node.view();
    match view.endpoints.get(&record.endpoint.id) {
        Some(endpoint) if endpoint.is_ready() => {}
        Some(endpoint) => wrong.push(match &endpoint.status.waiting {
            Some(reason) => reason.to_string(),
            None => "its rows are not in the kernel".to_owned(),
        }),
        None => wrong.push("its policy is not decided yet".to_owned()),
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(Refusal::conflict(wrong.join("; "), remedy))
    }
}
