//! Refusals, as the API tells them.

use axon_api::agent::Problem;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// A refusal with its HTTP status.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) problem: Problem,
}

impl Refusal {
    fn new(status: StatusCode, error: impl Into<String>, remedy: impl Into<String>) -> Self {
        let problem = Problem {
            error: error.into(),
            remedy: remedy.into(),
        };
        Self { status, problem }
    }

    /// The request is wrong; `expected` tells what would be right.
    pub(crate) fn request(error: impl Into<String>, expected: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, expected)
    }

    /// What the HTTP router refuses before a handler sees it.
    pub(crate) fn router(status: StatusCode, said: &str) -> Self {
        let error = match said.trim() {
            "" => status.to_string(),
            said => said.to_owned(),
        };
        Self::new(
            status,
            error,
            "send paths and queries as escaped UTF-8, and bodies of at most 4 MiB",
        )
    }

    /// There is no such thing.
    pub(crate) fn absent(error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error, remedy)
    }

    /// Not in this state.
    pub(crate) fn conflict(error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, error, remedy)
    }

    /// No more of it.
    pub(crate) fn exhausted(error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, error, remedy)
    }

    /// The node does not do it.
    pub(crate) fn node(error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error, remedy)
    }

    /// Not yet.
    pub(crate) fn not_yet(error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error, remedy)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.problem.error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        tracing::info!(
            code = self.status.as_u16(),
            error = self.problem.error,
            "request refused"
        );
        (self.status, Json(self.problem)).into_response()
    }
}

/// An error with its causes, in a line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
