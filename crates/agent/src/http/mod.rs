//! The HTTP API on the Unix socket.

mod body;
mod cluster;
mod endpoint;
mod monitor;
mod service;
mod socket;
mod state;
mod upsert;
pub(crate) mod views;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{DefaultBodyLimit, FromRequest, MatchedPath, Request, State};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use crate::node::Node;
use crate::problem::Refusal;

pub(crate) use socket::{SocketFile, bind};

/// Requests that are worked on at a time; the 100 pods of a busy minute fit.
const REQUESTS_MAX: usize = 256;
/// Monitors that are served at a time.
const MONITORS_MAX: usize = 32;
/// Bytes of a body. A GC names every attachment of a node.
const BODY_MAX: usize = 4 * 1024 * 1024;
/// How long a request that has a turn may take to bring its body.
const BODY_PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of what the router says of a request that it refuses.
const REFUSAL_MAX: usize = 4096;

/// What handlers go by.
pub(crate) struct Api {
    pub(crate) node: Arc<Node>,
    requests: Semaphore,
    monitors: Arc<Semaphore>,
    /// Who writes the services that the API is told of.
    services: tokio::sync::Mutex<()>,
}

/// Serves until the agent stops.
pub(crate) async fn serve(node: Arc<Node>, listener: UnixListener) -> anyhow::Result<()> {
    let stop = node.stop.clone();
    let app = router(node);
    axum::serve(listener, app)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await?;
    Ok(())
}

fn router(node: Arc<Node>) -> Router {
    let api = Arc::new(Api {
        node,
        requests: Semaphore::new(REQUESTS_MAX),
        monitors: Arc::new(Semaphore::new(MONITORS_MAX)),
        services: tokio::sync::Mutex::default(),
    });
    let endpoint = get(endpoint::list)
        .put(endpoint::create)
        .delete(endpoint::delete);
    let limited = Router::new()
        .route("/v1/healthz", get(views::healthz))
        .route("/v1/config", get(views::config))
        .route("/v1/endpoint", endpoint)
        .route("/v1/endpoint/check", post(endpoint::check))
        .route("/v1/endpoint/gc", post(endpoint::gc))
        .route("/v1/endpoint/{id}", get(endpoint::get))
        .route(
            "/v1/endpoint/{id}/config",
            get(endpoint::config).patch(endpoint::configure),
        )
        .route("/v1/identity", get(views::identities))
        .route("/v1/identity/{id}", get(views::identity))
        .route("/v1/ip", get(views::ips))
        .route("/v1/service", get(service::list))
        .route(
            "/v1/service/{namespace}/{name}",
            get(service::get).put(upsert::put).delete(upsert::delete),
        )
        .route("/v1/cluster", get(cluster::cluster))
        .route("/v1/policy", get(views::policy))
        .route("/v1/policy/selectors", get(views::selectors))
        .route("/v1/policy/host-confirm", post(views::confirm_host))
        .route("/v1/map/{name}", get(views::map))
        .route("/v1/debug/state", get(state::state))
        .route("/v1/metrics", get(views::metrics))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), bounded));
    // A monitor stays: it has its own bound.
    Router::new()
        .route("/v1/monitor", get(monitor::monitor))
        .merge(limited)
        .fallback(absent)
        .method_not_allowed_fallback(other_method)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::map_response(as_problem))
        .with_state(api)
}

/// Waits for a turn, and counts the time.
async fn bounded(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let method = request.method().to_string();
    let path = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("", MatchedPath::as_str)
        .to_owned();
    let started = Instant::now();
    // Whoever waits costs a connection and nothing more.
    let Ok(_turn) = api.requests.acquire().await else {
        return Refusal::not_yet("the agent is stopping", "ask again").into_response();
    };
    let response = match whole(request).await {
        Ok(request) => next.run(request).await,
        Err(refused) => refused,
    };
    let code = response.status().as_u16();
    api.node
        .metrics
        .answered(&path, &method, code, started.elapsed());
    response
}

/// The request with its body read: who sends it slowly shall not keep a turn
/// from others.
async fn whole(request: Request) -> Result<Request, Response> {
    let (head, body) = request.into_parts();
    let read = Bytes::from_request(Request::from_parts(head.clone(), body), &());
    match tokio::time::timeout(BODY_PATIENCE, read).await {
        Ok(Ok(bytes)) => Ok(Request::from_parts(head, Body::from(bytes))),
        Ok(Err(refused)) => Err(refused.into_response()),
        Err(_) => Err(Refusal::request(
            format!("the body did not come within {BODY_PATIENCE:?}"),
            "send a body of the length that was announced",
        )
        .into_response()),
    }
}

/// Has what the router itself refuses (a path that is no UTF-8, a body that is
/// too long) told as everything else is.
async fn as_problem(response: Response) -> Response {
    let status = response.status();
    let json = HeaderValue::from_static("application/json");
    let told = response.headers().get(CONTENT_TYPE) == Some(&json);
    if told || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let text = to_bytes(response.into_body(), REFUSAL_MAX).await;
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
    Refusal::router(status, &text).into_response()
}

async fn absent(request: Request) -> Refusal {
    Refusal::absent(
        format!("there is no {} {}", request.method(), request.uri().path()),
        "the API is under /v1: healthz, config, endpoint, identity, ip, policy, service, cluster, \
         map, debug/state, metrics, monitor",
    )
}

async fn other_method(request: Request) -> Refusal {
    let mut refusal = absent(request).await;
    refusal.status = axum::http::StatusCode::METHOD_NOT_ALLOWED;
    refusal
}
