//! `/healthz` and `/metrics` on TCP, for probes and Prometheus.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use axon_api::agent::{State as Health, Status};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;

use crate::node::Node;
use crate::status::status;

/// What Prometheus is told that the metrics are.
pub(crate) const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Listens for probes.
pub(crate) async fn listen_health(port: u16) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address)
        .await
        .with_context(|| format!("agent-health-port {port}: listening at {address} failed"))
}

/// Listens for Prometheus.
pub(crate) async fn listen_metrics(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("prometheus-serve-addr {address}: listening failed"))
}

/// Answers probes until the agent stops.
pub(crate) async fn serve_health(node: Arc<Node>, listener: TcpListener) -> anyhow::Result<()> {
    let stop = node.stop.clone();
    let app = Router::new()
        .route("/healthz", get(healthz))
        .with_state(node);
    axum::serve(listener, app)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await?;
    Ok(())
}

/// Answers Prometheus until the agent stops.
pub(crate) async fn serve_metrics(node: Arc<Node>, listener: TcpListener) -> anyhow::Result<()> {
    let stop = node.stop.clone();
    let app = Router::new()
        .route("/metrics", get(metrics))
        .with_state(node);
    axum::serve(listener, app)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await?;
    Ok(())
}

/// 200 while the node serves its pods, else 503. With the header `brief` the
/// body is short, as Cilium's probes ask for it.
async fn healthz(State(node): State<Arc<Node>>, headers: HeaderMap) -> Response {
    let asked = Arc::clone(&node);
    let status = tokio::task::spawn_blocking(move || status(&asked)).await;
    let Ok(status) = status else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let well = node.is_ready() && status.cilium.state < Health::Failure;
    let code = if well {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let brief = headers.get("brief").is_some_and(|value| value == "true");
    let body = if brief {
        Status {
            cilium: status.cilium,
            ..Status::default()
        }
    } else {
        status
    };
    (code, Json(body)).into_response()
}

async fn metrics(State(node): State<Arc<Node>>) -> Response {
    let asked = Arc::clone(&node);
    match tokio::task::spawn_blocking(move || asked.metrics.text(&asked)).await {
        Ok(text) => ([(CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
