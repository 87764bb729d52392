//! The stream of flows.

use std::sync::Arc;

use axon_hubble::Query;
use axum::body::{Body, Bytes};
use axum::extract::{Query as Pairs, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::Api;
use crate::problem::Refusal;

/// Streams flows as lines of JSON until the reader leaves or the agent stops.
/// What a reader is too slow for it learns as a count.
pub(super) async fn monitor(
    State(api): State<Arc<Api>>,
    Pairs(pairs): Pairs<Vec<(String, String)>>,
) -> Result<Response, Refusal> {
    let pairs = pairs
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()));
    let query = Query::parse(pairs)
        .map_err(|error| Refusal::request(error.to_string(), "see axon monitor --help"))?;
    let turn = Arc::clone(&api.monitors).try_acquire_owned().map_err(|_| {
        Refusal::exhausted(
            format!("{} monitors are served already", super::MONITORS_MAX),
            "end one of them",
        )
    })?;
    let node = Arc::clone(&api.node);
    let name = Arc::clone(&node.names.load().node);
    let reader = node.flows.reader(query, name);
    let lines = stream::unfold((node, reader, turn), async |(node, mut reader, turn)| {
        let lines = tokio::select! {
            lines = reader.next(&node.flows) => lines?,
            () = node.stop.cancelled() => return None,
        };
        let chunk = Ok::<_, std::convert::Infallible>(Bytes::from(lines));
        Some((chunk, (node, reader, turn)))
    });
    let body = Body::from_stream(lines);
    Ok(([(CONTENT_TYPE, "application/jsonl")], body).into_response())
}
